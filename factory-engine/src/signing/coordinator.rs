//! L's side: who has sent what, and what comes of it all together.
//!
//! Handlers look at it and name what they have just been sent; it changes when their step is applied.

use std::collections::{BTreeMap, BTreeSet};
use std::slice;

use crate::signing::blame::{Evidence, culprit};
use crate::signing::partial::sign_all;
use crate::signing::{BadNonces, Failure, Plan, Refused, SignError};
use crate::terms::ClientIndex;
use crate::tx::musig::{
    AggNonce, CheckedNonce, FactoryKey, MusigError, PartialSig, PubNonce, PublicKey, Round, SecNonce,
    new_checked_nonce,
};

/// One signing, from the first nonce to the finished signatures.
pub struct Coordinator {
    /// Indices of the clients that sign, besides L and whoever's key L has.
    members: BTreeSet<ClientIndex>,
    nonces: BTreeMap<ClientIndex, Vec<CheckedNonce>>,
    proposed: Option<Proposed>,
    partials: BTreeMap<ClientIndex, Vec<PartialSig>>,
}

/// What L has proposed to sign.
struct Proposed {
    plan: Plan,
    /// One MuSig2 round for each session of the plan.
    rounds: Vec<Round>,
    transcript: [u8; 32],
    /// L's partial signatures; none if it could not sign.
    own: Vec<PartialSig>,
    /// Those of members whose keys L has, which have a part in every session.
    held: Vec<Vec<PartialSig>>,
}

/// Everybody's nonces are summed: what L proposes, and its own secret nonces for it.
pub struct Opened {
    plan: Plan,
    own: Vec<SecNonce>,
    /// In the order of the keys.
    held: Vec<Vec<SecNonce>>,
    sums: Vec<AggNonce>,
    rounds: Vec<Round>,
}

impl Opened {
    /// The sessions that are to be signed, in order.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The aggregate nonce of each session.
    pub fn nonces(&self) -> &[AggNonce] {
        &self.sums
    }
}

impl Coordinator {
    /// A signing by these clients: no nonce is here yet.
    pub fn new(members: impl IntoIterator<Item = ClientIndex>) -> Self {
        let members = members.into_iter().collect();
        Self { members, nonces: BTreeMap::new(), proposed: None, partials: BTreeMap::new() }
    }

    /// Whether something of this client is missing: its nonces, or once something is proposed its partial
    /// signatures.
    pub fn lacks(&self, client: ClientIndex) -> bool {
        match &self.proposed {
            None => !self.nonces.contains_key(&client),
            Some(_) => !self.partials.contains_key(&client),
        }
    }

    /// Whether it is this client's alone that is missing.
    pub fn lacks_only(&self, client: ClientIndex) -> bool {
        let here = if self.proposed.is_some() { self.partials.len() } else { self.nonces.len() };
        self.lacks(client) && here.saturating_add(1) == self.members.len()
    }

    /// Whether nonces are what was asked for.
    ///
    /// # Errors
    /// When there are too few or too many, or one is none.
    pub fn check_nonces(given: &[PubNonce], expected: usize) -> Result<Vec<CheckedNonce>, BadNonces> {
        if given.len() != expected {
            return Err(BadNonces::Count { given: given.len(), expected });
        }
        given.iter().map(PubNonce::checked).collect::<Result<_, _>>().map_err(BadNonces::Nonce)
    }

    /// A client's nonces are here.
    pub fn join(&mut self, client: ClientIndex, nonces: Vec<CheckedNonce>) {
        self.nonces.insert(client, nonces);
    }

    /// They are worth nothing any more: the client has lost their secret halves.
    pub fn unjoin(&mut self, client: ClientIndex) {
        self.nonces.remove(&client);
    }

    /// Makes L's nonces, and sums everybody's. `last` are nonces that came in this very step. `seed` gives 32
    /// fresh bytes that are used for nothing else (S2).
    ///
    /// # Errors
    /// When they don't add up.
    pub fn open(
        &self,
        plan: Plan,
        last: Option<(ClientIndex, &[CheckedNonce])>,
        key: &FactoryKey,
        seed: impl FnMut() -> [u8; 32],
    ) -> Result<Opened, MusigError> {
        self.open_with(plan, last, key, &[], seed)
    }

    /// The same where L signs in the place of some members too, which have a part in every session: `held` are
    /// their keys (S22).
    ///
    /// # Errors
    /// When the nonces don't add up.
    pub fn open_with(
        &self,
        plan: Plan,
        last: Option<(ClientIndex, &[CheckedNonce])>,
        key: &FactoryKey,
        held: &[FactoryKey],
        mut seed: impl FnMut() -> [u8; 32],
    ) -> Result<Opened, MusigError> {
        let mut fresh = |key| -> (Vec<SecNonce>, Vec<CheckedNonce>) {
            plan.parts().iter().map(|_| new_checked_nonce(seed(), key)).unzip()
        };
        let (own, public) = fresh(key);
        let (held, held_public): (Vec<_>, Vec<_>) = held.iter().map(&mut fresh).unzip();
        let mut sums = Vec::with_capacity(plan.sessions());
        let mut rounds = Vec::with_capacity(plan.sessions());
        let theirs = plan.collate(with(&self.nonces, last));
        for (at, ((part, own), theirs)) in plan.parts().iter().zip(&public).zip(theirs).enumerate() {
            let held = held_public.iter().filter_map(|nonces| nonces.get(at));
            let nonces = theirs.into_iter().map(|(_, nonce)| nonce).chain([own]).chain(held);
            let (sum, round) = Round::start(plan.key(part)?, nonces, &part.entry.sighash)?;
            sums.push(sum);
            rounds.push(round);
        }
        Ok(Opened { plan, own, held, sums, rounds })
    }

    /// Makes L's partial signatures. Their ledger entries are durable by now (S8, S10); the nonces are consumed
    /// whatever comes of it (S2).
    ///
    /// # Errors
    /// When L can't sign. It is waited for the clients all the same, and nothing comes of it.
    pub fn sign(&mut self, opened: Opened, transcript: [u8; 32], key: &FactoryKey) -> Result<(), SignError> {
        self.sign_with(opened, transcript, key, &[])
    }

    /// The same with the keys of other members that it was opened with, in their order.
    ///
    /// # Errors
    /// When L can't sign.
    pub fn sign_with(
        &mut self,
        opened: Opened,
        transcript: [u8; 32],
        key: &FactoryKey,
        held: &[FactoryKey],
    ) -> Result<(), SignError> {
        let Opened { plan, own, held: nonces, rounds, .. } = opened;
        let signed = sign_all(&plan, key, own, &rounds);
        let sign = |(key, nonces)| sign_all(&plan, key, nonces, &rounds);
        let signed_too: Result<Vec<_>, _> = held.iter().zip(nonces).map(sign).collect();
        let proposed = self.proposed.insert(Proposed { plan, rounds, transcript, own: vec![], held: vec![] });
        proposed.held = signed_too?;
        proposed.own = signed?;
        Ok(())
    }

    /// Whether a client's partial signatures are for what was proposed, and the first that it sends.
    ///
    /// # Errors
    /// When they are not; whether each is good is seen in the end (S4).
    pub fn check(
        &self,
        client: ClientIndex,
        transcript: &[u8; 32],
        signatures: &[PartialSig],
    ) -> Result<(), Refused> {
        if let Some(before) = self.partials.get(&client) {
            return Err(if before == signatures { Refused::Repeated } else { Refused::Differs });
        }
        let proposed = self.proposed.as_ref().ok_or(Refused::NotNow)?;
        if *transcript != proposed.transcript {
            return Err(Refused::Transcript);
        }
        let expected = self.nonces.get(&client).map_or(0, Vec::len);
        if signatures.len() != expected {
            return Err(Refused::Count { given: signatures.len(), expected });
        }
        Ok(())
    }

    /// A client's partial signatures, which [`Coordinator::check`] has let through, are here.
    pub fn signed(&mut self, client: ClientIndex, signatures: Vec<PartialSig>) {
        self.partials.insert(client, signatures);
    }

    /// The finished signatures in the order of the plan, each verified. `last` are partial signatures that came
    /// in this very step, if one is waited for, `key` a client's key.
    ///
    /// # Errors
    /// When one is not valid; only then a culprit is looked for (S4).
    pub fn finish(
        &self,
        last: Option<(ClientIndex, &[PartialSig])>,
        key: impl Fn(ClientIndex) -> Option<PublicKey>,
    ) -> Result<Vec<[u8; 64]>, Failure> {
        let proposed = self.proposed.as_ref().ok_or(Failure::NotSigned)?;
        let Proposed { plan, rounds, own, held, .. } = proposed;
        if rounds.len() != plan.sessions() || own.len() != plan.sessions() {
            return Err(Failure::NotSigned);
        }
        let partials = plan.collate(with(&self.partials, last));
        let sessions = plan.parts().iter().zip(rounds).zip(own).zip(partials).enumerate();
        let mut signatures = Vec::with_capacity(plan.sessions());
        for (at, (((part, round), own), theirs)) in sessions {
            let agg = plan.key(part).map_err(|_| Failure::NotSigned)?;
            let held = held.iter().filter_map(|partials| partials.get(at));
            match round.finish(agg, theirs.iter().map(|(_, partial)| *partial).chain([own]).chain(held)) {
                Ok(signature) => signatures.push(signature),
                Err(error) => {
                    let nonces = plan.collate(with(&self.nonces, None)).nth(at).unwrap_or_default();
                    let nonces: BTreeMap<ClientIndex, &CheckedNonce> = nonces.into_iter().collect();
                    let evidence = theirs.iter().filter_map(|(client, partial)| {
                        let (client, key, nonce) = (*client, key(*client)?, *nonces.get(client)?);
                        Some(Evidence { client, key, nonce, partial })
                    });
                    let session = part.entry.session;
                    return Err(match culprit(agg, round, evidence) {
                        Some(client) => Failure::Culprit { client, session },
                        None => Failure::Nobody(error),
                    });
                }
            }
        }
        Ok(signatures)
    }

    /// Of something for each session what each client gets.
    pub fn shares<T: Clone>(&self, values: &[T]) -> BTreeMap<ClientIndex, Vec<T>> {
        self.proposed.as_ref().map(|proposed| proposed.plan.shares(values)).unwrap_or_default()
    }
}

/// What clients have sent, with what came in this very step.
fn with<'a, T>(
    here: &'a BTreeMap<ClientIndex, Vec<T>>,
    last: Option<(ClientIndex, &'a [T])>,
) -> BTreeMap<ClientIndex, slice::Iter<'a, T>> {
    let here = here.iter().map(|(client, values)| (*client, values.iter()));
    here.chain(last.map(|(client, values)| (client, values.iter()))).collect()
}
