//! A client's side of a ceremony. It signs only what it rebuilt from terms that it accepted (S3).

use std::sync::Arc;

use bitcoin::secp256k1::{Message as SighashMessage, SECP256K1, schnorr::Signature};

use crate::terms::{ClientIndex, Terms};
use crate::tx::layout::Layout;
use crate::tx::musig::new_nonce;
use crate::tx::transcript;
use crate::tx::tree::{Tree, funding_script};
use crate::types::{ChannelId, InstanceId, NodeId, ScriptBuf};
use crate::wire::message::{
    Abort, ChannelChecked as CheckedMessage, ChannelCommitted, ExpectChannel, Expecting, FundingBroadcast,
    Invite, Join, Propose, Ready, Resume, Stored,
};

use super::Engine;
use super::ceremony::{Change, ClientCeremony, ExpectedOpen, SignAs, SignJob, by_session};
use super::draft::{Draft, Fault, short};
use super::event::{Aborted, Accepted, ChannelChecked, Declined, Forgotten, Invited, Signed, Signing};
use super::factory::{Factory, Role, build_tree, roster};
use super::io::{Answer, CheckFailure, Effect, Level, OpenChannel, Refusal};
use super::lsp_signing::{ledger_entries, terms_bytes};
use super::policy::Policy;
use super::state::State;

impl Engine {
    pub(super) fn on_invite(&self, d: &mut Draft<'_>, peer: NodeId, invite: Invite) -> Result<(), Fault> {
        let known = self.factories.get(&invite.instance);
        if let Some(factory) = known {
            if !matches!(factory.role, Role::Client { lsp, .. } if lsp == peer) {
                return Err(Fault::stale("the factory is known, and this peer is not its operator"));
            }
            if invite.attempt <= factory.attempt {
                return self.on_repeated_invite(d, factory, &invite);
            }
            if !factory.phase().is_creating() && factory.phase() != State::Aborted {
                return Err(Fault::stale("the factory is beyond invitations"));
            }
            if !factory.checked.is_empty() || factory.funding_height().is_some() {
                return Err(Fault::stale("its channel is committed: no other attempt can follow"));
            }
        }
        let layout = Layout::new(&invite.terms);
        let checked = layout.map_err(|error| error.to_string()).and_then(|layout| {
            self.config
                .check_invite(peer, &invite, &layout, d.height)
                .map_err(|error| error.to_string())
                .map(|()| layout)
        });
        let accepted = known.is_some_and(|factory| factory.accepted);
        let checked = checked.and_then(|_| match known {
            Some(factory) if accepted => same_offer(factory, &invite),
            Some(_) => Ok(()),
            None => self.make_room(d, peer),
        });
        if let Err(reason) = checked {
            d.log(Level::Unusual, format!("{}: declined the invitation of {peer}: {reason}", invite.instance));
            d.send(peer, refusal(invite.instance, invite.attempt, &reason));
            return Ok(());
        }
        let (instance, attempt) = (invite.instance, invite.attempt);
        d.event(instance, Invited {
            attempt,
            terms: invite.terms,
            client: invite.client,
            price_msat: invite.price_msat,
            height: d.height,
        });
        d.change(Change::End(instance));
        if accepted {
            d.effect(Effect::NewPayout { instance, attempt });
        } else if self.config.policy == Policy::Auto {
            d.event(instance, Accepted {});
            d.effect(Effect::NewPayout { instance, attempt });
        }
        Ok(())
    }

    /// The invitation of the current attempt again: after a reconnect, or because our nonces are gone.
    fn on_repeated_invite(&self, d: &mut Draft<'_>, factory: &Factory, invite: &Invite) -> Result<(), Fault> {
        if invite.attempt < factory.attempt {
            return Err(Fault::stale("it is of an earlier attempt"));
        }
        if invite.terms != factory.terms || Role::Lsp == factory.role {
            return Err(Fault::peer("a second invitation to the same attempt with other terms"));
        }
        if factory.phase() == State::Joining {
            match self.client.get(&factory.instance) {
                Some(ceremony) => d.send(factory.lsp(), ceremony.join.clone()),
                None => d.effect(Effect::NewPayout { instance: factory.instance, attempt: factory.attempt }),
            }
        }
        Ok(())
    }

    /// S28: a peer can't fill our disk with invitations. What ended without a signature goes first.
    fn make_room(&self, d: &mut Draft<'_>, peer: NodeId) -> Result<(), String> {
        let of_peer = self.factories.values().filter(|factory| {
            matches!(factory.role, Role::Client { lsp, .. } if lsp == peer)
                && (factory.phase().is_creating() || matches!(factory.phase(), State::Aborted | State::Declined))
        });
        let (over, open): (Vec<_>, Vec<_>) = of_peer.partition(|factory| is_forgettable(factory));
        if open.len() >= self.config.max_ceremonies_per_peer {
            return Err(format!("{} invitations of this peer are open already", open.len()));
        }
        for factory in over {
            d.event(factory.instance, Forgotten { reason: "it ended before anything was signed".into() });
        }
        Ok(())
    }

    pub(super) fn accept(&self, d: &mut Draft<'_>, instance: InstanceId) -> Result<Answer, Refusal> {
        let factory = self.invitation(instance)?;
        if !self.peers.contains(&factory.lsp()) {
            return Err(Refusal::WrongState(format!("the operator {} is not connected", factory.lsp())));
        }
        d.event(instance, Accepted {});
        d.effect(Effect::NewPayout { instance, attempt: factory.attempt });
        Ok(Answer::Done)
    }

    pub(super) fn decline(&self, d: &mut Draft<'_>, instance: InstanceId, reason: &str) -> Result<Answer, Refusal> {
        let factory = self.invitation(instance)?;
        d.event(instance, Declined { reason: short(reason) });
        d.send(factory.lsp(), refusal(instance, factory.attempt, &format!("declined: {reason}")));
        Ok(Answer::Done)
    }

    fn invitation(&self, instance: InstanceId) -> Result<&Factory, Refusal> {
        let factory = self.factories.get(&instance).ok_or(Refusal::Unknown(instance))?;
        if factory.role == Role::Lsp {
            return Err(Refusal::WrongState(format!("{instance} is this node's own factory, not an invitation")));
        }
        match factory.phase() {
            State::Invited => Ok(factory),
            other => Err(Refusal::WrongState(format!("factory {instance} is {other}, no longer an invitation"))),
        }
    }

    pub(super) fn on_payout_ready(
        &self,
        d: &mut Draft<'_>,
        instance: InstanceId,
        attempt: u32,
        result: Result<ScriptBuf, String>,
    ) {
        let Some(factory) = self.factories.get(&instance).filter(|factory| {
            factory.attempt == attempt && factory.phase() == State::Joining && !self.client.contains_key(&instance)
        }) else {
            return;
        };
        let Role::Client { lsp, index } = factory.role else { return };
        let payout = match result {
            Ok(payout) => payout,
            Err(error) => {
                let reason = format!("no payout script from the wallet: {error}");
                return self.client_gives_up(d, factory, &reason);
            }
        };
        let key = self.factory_key(instance, attempt);
        let sessions = factory.layout.sessions(Some(index));
        let (nonces, public) = sessions.iter().map(|_| new_nonce(d.rng.bytes32(), &key)).unzip();
        let join = Join { instance, attempt, factory_key: key.public(), payout, nonces: public };
        d.change(Change::StartClient(instance, ClientCeremony {
            attempt,
            join: join.clone(),
            nonces,
            open: ExpectedOpen::NotYet,
            signed: None,
            // L may wait for every other member to join first.
            deadline: d.now.saturating_add(self.config.invite_timeout.saturating_mul(2)),
        }));
        d.send(lsp, join);
    }

    pub(super) fn on_expect_channel(
        &self,
        d: &mut Draft<'_>,
        peer: NodeId,
        message: &ExpectChannel,
    ) -> Result<(), Fault> {
        let (factory, ceremony, index) = self.under_way(peer, message.instance, message.attempt)?;
        if message.client != index
            || message.capacity != factory.capacity(index)
            || message.push_msat != factory.terms.push_msat
            || message.channel_in_factory != factory.channel_in_factory(index)
        {
            return Err(Fault::peer("the announced channel is not the one of the terms"));
        }
        if ceremony.open == ExpectedOpen::NotYet {
            d.change(Change::Open(factory.instance, ExpectedOpen::Expected));
            let deadline = d.now.saturating_add(self.config.ceremony_timeout.saturating_mul(2));
            d.change(Change::Extend(factory.instance, deadline));
        }
        d.send(peer, Expecting { instance: factory.instance, attempt: factory.attempt });
        Ok(())
    }

    /// The `openchannel` hook: exactly one open that matches the announcement is ours.
    pub(super) fn on_open_channel(&self, d: &mut Draft<'_>, open: &OpenChannel) -> Answer {
        let matching = self.client.iter().find_map(|(instance, ceremony)| {
            let factory = self.factories.get(instance)?;
            let Role::Client { lsp, index } = factory.role else { return None };
            let record = open.channel_in_factory;
            (lsp == open.peer
                && ceremony.open == ExpectedOpen::Expected
                && open.zeroconf
                && open.capacity == factory.capacity(index)
                && open.push_msat == factory.terms.push_msat
                && record.is_none_or(|record| record == factory.channel_in_factory(index)))
            .then_some(*instance)
        });
        match matching {
            Some(instance) => {
                d.change(Change::Open(instance, ExpectedOpen::Seen));
                Answer::AcceptOpen
            }
            None if open.channel_in_factory.is_some() => {
                Answer::RejectOpen("this open_channel names a factory that doesn't expect it".into())
            }
            None => Answer::NotOurs,
        }
    }

    pub(super) fn on_propose(&self, d: &mut Draft<'_>, peer: NodeId, propose: Propose) -> Result<(), Fault> {
        let (factory, ceremony, index) = self.under_way(peer, propose.instance, propose.attempt)?;
        if let Some((before, answer)) = &ceremony.signed {
            if **before != propose {
                return Err(Fault::peer("a second proposal that differs from the first"));
            }
            if let Some(answer) = answer {
                d.send(peer, answer.clone());
            }
            return Ok(());
        }
        if ceremony.open != ExpectedOpen::Seen {
            return Err(Fault::peer("a proposal before its open_channel"));
        }
        let tree = Arc::new(self.rebuild(factory, ceremony, index, &propose)?);
        let ledger = ledger_entries(&tree);
        self.ledger.check(&ledger).map_err(Fault::peer)?;

        let agg_nonces = by_session(&tree, &propose.nonces);
        let foreign_hashes = propose.foreign_hashes.iter().copied().collect();
        let common = transcript::common_hash(
            &terms_bytes(factory),
            &roster(&propose),
            bitcoin::OutPoint { txid: propose.funding_tx.compute_txid(), vout: propose.funding_vout },
        );
        let transcript =
            transcript::path_transcript(&common, &factory.layout, &tree, &agg_nonces, &foreign_hashes, index)
                .ok_or_else(|| Fault::peer("hashes of neighbouring coins are missing"))?;

        let job_nonces = propose.nonces.clone();
        let proposal = Arc::new(propose.clone());
        d.event(factory.instance, Signing { attempt: factory.attempt, proposal: propose, ledger, psbt: None });
        d.change(Change::Tree(factory.instance, tree.clone()));
        d.change(Change::Sign(factory.instance, Box::new(SignJob {
            attempt: factory.attempt,
            tree,
            agg_nonces: job_nonces,
            transcript,
            role: SignAs::Client {
                lsp: peer,
                proposal,
                deadline: d.now.saturating_add(self.config.ceremony_timeout.saturating_mul(2)),
            },
        })));
        Ok(())
    }

    /// Rebuilds every transaction that we would sign, and checks all that the proposal adds to the
    /// terms (S3).
    fn rebuild(
        &self,
        factory: &Factory,
        ceremony: &ClientCeremony,
        index: ClientIndex,
        propose: &Propose,
    ) -> Result<Tree, Fault> {
        let place = usize::try_from(index).map_err(Fault::peer)?;
        let own = (ceremony.join.factory_key, ceremony.join.payout.clone());
        if propose.clients.get(place) != Some(&own) {
            return Err(Fault::peer("our place has another key or payout script than we sent"));
        }
        let roster = roster(propose);
        roster.check(&factory.layout).map_err(Fault::peer)?;

        let funding = &propose.funding_tx;
        if funding.input.is_empty() || funding.input.iter().any(|input| !input.script_sig.is_empty()) {
            return Err(Fault::peer("its funding transaction is not made of native segwit inputs: the txid is not final"));
        }
        let script = funding_script(&factory.layout, &roster).map_err(Fault::peer)?;
        let vout = usize::try_from(propose.funding_vout).map_err(Fault::peer)?;
        let output = funding.output.get(vout).ok_or_else(|| Fault::peer("its funding output doesn't exist"))?;
        if output.script_pubkey != script || output.value != factory.layout.funding_value() {
            return Err(Fault::peer(format!(
                "its funding output is {} to {}, not {} to the members' key",
                output.value, output.script_pubkey, factory.layout.funding_value()
            )));
        }
        if propose.channel_scripts.iter().any(|(_, script)| !script.is_p2wsh()) {
            return Err(Fault::peer("a channel's funding script is not P2WSH"));
        }
        let tree = build_tree(&factory.layout, factory.scope(), propose).map_err(Fault::peer)?;
        if tree.sessions().len() != propose.nonces.len() {
            return Err(Fault::peer(format!(
                "{} aggregate nonces for {} transactions", propose.nonces.len(), tree.sessions().len()
            )));
        }
        Ok(tree)
    }

    pub(super) fn on_ready(&self, d: &mut Draft<'_>, peer: NodeId, ready: Ready) -> Result<(), Fault> {
        let factory = self.own_factory(peer, ready.instance, ready.attempt)?;
        let tree = match (&factory.tree, factory.phase()) {
            (Some(tree), State::Signing) => tree,
            (Some(tree), State::Storing | State::Opening | State::Funding) => {
                return if by_session(tree, &ready.signatures) == factory.signatures {
                    d.send(peer, Stored { instance: factory.instance, attempt: factory.attempt });
                    Ok(())
                } else {
                    Err(Fault::stale("other signatures are stored already"))
                };
            }
            _ => return Err(Fault::stale("nothing was signed yet")),
        };
        if ready.signatures.len() != tree.sessions().len() {
            return Err(Fault::peer(format!(
                "{} signatures for {} transactions", ready.signatures.len(), tree.sessions().len()
            )));
        }
        for (session, signature) in tree.sessions().iter().zip(&ready.signatures) {
            let key = tree.output_key(session.id.coin).ok_or_else(|| Fault::peer("a coin has no key"))?;
            let valid = Signature::from_slice(signature).is_ok_and(|signature| {
                SECP256K1.verify_schnorr(&signature, &SighashMessage::from_digest(session.sighash), &key).is_ok()
            });
            if !valid {
                return Err(Fault::peer(format!("the signature of {} doesn't verify", super::chain::name(factory, session.id))));
            }
        }
        d.event(factory.instance, Signed { signatures: ready.signatures });
        d.send(peer, Stored { instance: factory.instance, attempt: factory.attempt });
        Ok(())
    }

    pub(super) fn on_channel_committed(
        &self,
        d: &mut Draft<'_>,
        peer: NodeId,
        message: &ChannelCommitted,
    ) -> Result<(), Fault> {
        let factory = self.own_factory(peer, message.instance, message.attempt)?;
        let Some((channel_id, check)) = check_channel(factory) else {
            return Err(Fault::stale("no path is stored yet"));
        };
        if channel_id != message.channel_id {
            return Err(Fault::peer("it committed another channel than our leaf's"));
        }
        match factory.phase() {
            State::Storing => d.effect(check),
            State::Funding => d.send(peer, checked(factory, channel_id)),
            _ => return Err(Fault::stale("no path is stored yet")),
        }
        Ok(())
    }

    pub(super) fn on_channel_check(
        &self,
        d: &mut Draft<'_>,
        instance: InstanceId,
        attempt: u32,
        result: Result<(), CheckFailure>,
    ) {
        let Some(factory) = self.factories.get(&instance).filter(|factory| factory.attempt == attempt) else {
            return;
        };
        let (Role::Client { lsp, index }, State::Storing) = (factory.role, factory.phase()) else { return };
        let Some((channel_id, _)) = check_channel(factory) else { return };
        let failure = match result {
            Ok(()) => None,
            Err(CheckFailure::NotYet) => return,
            Err(CheckFailure::Unavailable(reason)) if self.config.unsafe_skip_funding_check => {
                d.log(Level::Unusual, format!("{instance}: funding script not checked ({reason}), as an unsafe option says"));
                None
            }
            Err(CheckFailure::Unavailable(reason)) => {
                Some(format!("this node can't check its channel's funding script: {reason}"))
            }
            Err(CheckFailure::Mismatch(reason)) => {
                d.log(Level::Broken, format!("{instance}: the leaf does not pay our channel: {reason}"));
                Some(format!("the leaf does not pay our channel: {reason}"))
            }
        };
        match failure {
            None => {
                d.event(instance, ChannelChecked { client: index, channel_id });
                d.change(Change::End(instance));
                d.send(lsp, checked(factory, channel_id));
            }
            Some(reason) => self.client_gives_up(d, factory, &reason),
        }
    }

    pub(super) fn on_funding_broadcast(
        &self,
        d: &mut Draft<'_>,
        peer: NodeId,
        message: &FundingBroadcast,
    ) -> Result<(), Fault> {
        let factory = self.own_factory(peer, message.instance, message.attempt)?;
        if factory.funding().map(|funding| funding.txid) != Some(message.txid) {
            return Err(Fault::stale("it is not the funding transaction that we signed for"));
        }
        d.log(Level::Debug, format!("{}: funding transaction {} is broadcast", factory.instance, message.txid));
        Ok(())
    }

    pub(super) fn on_lsp_abort(&self, d: &mut Draft<'_>, factory: &Factory, abort: &Abort) -> Result<(), Fault> {
        if factory.funding_height().is_some() || factory.phase() == State::Aborted || factory.phase() == State::Declined {
            return Err(Fault::stale("there is nothing to abort"));
        }
        d.event(factory.instance, Aborted { reason: short(&format!("the operator aborts: {}", abort.reason)) });
        d.change(Change::End(factory.instance));
        Ok(())
    }

    /// Ends our part in an attempt and says why; what was signed is kept (S12).
    pub(super) fn client_gives_up(&self, d: &mut Draft<'_>, factory: &Factory, reason: &str) {
        if !factory.phase().is_creating() || factory.phase() == State::Invited {
            return;
        }
        d.abort(factory, factory.lsp(), 0, reason, false);
        d.event(factory.instance, Aborted { reason: short(reason) });
        d.change(Change::End(factory.instance));
    }

    pub(super) fn client_peer_up(&self, d: &mut Draft<'_>, peer: NodeId) {
        for factory in self.factories.values() {
            let ours = matches!(factory.role, Role::Client { lsp, .. } if lsp == peer);
            let waiting = factory.phase().is_creating() && factory.phase() != State::Invited
                || factory.phase() == State::Funding && factory.funding_height().is_none();
            if ours && waiting {
                d.send(peer, Resume {
                    instance: factory.instance,
                    attempt: factory.attempt,
                    phase: resume_phase(factory.phase()),
                });
            }
        }
    }

    /// A disconnect ends the open that lightningd had pending with the operator; nonces that were not
    /// used are thrown away with it (S2).
    pub(super) fn client_peer_down(&self, d: &mut Draft<'_>, peer: NodeId) {
        for (instance, _) in &self.client {
            if self.factories.get(instance).is_some_and(|factory| factory.lsp() == peer) {
                d.change(Change::End(*instance));
            }
        }
    }

    pub(super) fn client_tick(&self, d: &mut Draft<'_>) {
        for (instance, ceremony) in &self.client {
            if d.now < ceremony.deadline {
                continue;
            }
            if let Some(factory) = self.factories.get(instance) {
                self.client_gives_up(d, factory, &format!("the operator went silent while {}", factory.phase()));
            }
            d.change(Change::End(*instance));
        }
    }

    pub(super) fn client_started(&self, d: &mut Draft<'_>, factory: &Factory, channels: &[ChannelId]) {
        if is_forgettable(factory) {
            d.event(factory.instance, Forgotten { reason: "it ended before anything was signed".into() });
        } else if factory.phase() == State::Storing {
            if let Some((channel_id, check)) = check_channel(factory) {
                if channels.contains(&channel_id) {
                    d.effect(check);
                }
            }
        }
    }

    fn own_factory(&self, peer: NodeId, instance: InstanceId, attempt: u32) -> Result<&Factory, Fault> {
        let factory = self.known(instance)?;
        if !matches!(factory.role, Role::Client { lsp, .. } if lsp == peer) {
            return Err(Fault::stale("it is not from this factory's operator"));
        }
        if factory.attempt != attempt {
            return Err(Fault::stale(format!("it is of attempt {attempt}, we are in {}", factory.attempt)));
        }
        Ok(factory)
    }

    fn under_way(
        &self,
        peer: NodeId,
        instance: InstanceId,
        attempt: u32,
    ) -> Result<(&Factory, &ClientCeremony, ClientIndex), Fault> {
        let factory = self.own_factory(peer, instance, attempt)?;
        let ceremony = self
            .client
            .get(&instance)
            .filter(|ceremony| ceremony.attempt == attempt)
            .ok_or_else(|| Fault::stale("no ceremony is under way"))?;
        match factory.role {
            Role::Client { index, .. } => Ok((factory, ceremony, index)),
            Role::Lsp => Err(Fault::stale("it is our own factory")),
        }
    }
}

/// A later attempt may leave members out; what this client accepted must stay.
fn same_offer(factory: &Factory, invite: &Invite) -> Result<(), String> {
    let Role::Client { index, .. } = factory.role else { return Err("it is our own factory".into()) };
    let place = usize::try_from(invite.client).map_err(|error| error.to_string())?;
    let offered = invite.terms.capacities.get(place).copied();
    let without_members = |terms: &Terms| Terms { capacities: vec![], ..terms.clone() };
    if offered != Some(factory.capacity(index))
        || invite.price_msat > factory.price_msat
        || without_members(&invite.terms) != without_members(&factory.terms)
    {
        return Err("the terms differ from those that were accepted".into());
    }
    Ok(())
}

fn is_forgettable(factory: &Factory) -> bool {
    matches!(factory.phase(), State::Aborted | State::Declined) && factory.signed_for().is_empty()
}

fn refusal(instance: InstanceId, attempt: u32, reason: &str) -> Abort {
    Abort { instance, attempt, phase: 1, reason: short(reason), blames: None, retry: 0 }
}

fn resume_phase(state: State) -> u16 {
    match state {
        State::Signing => 3,
        State::Storing => 4,
        State::Opening | State::Funding => 5,
        _ => 1,
    }
}

fn checked(factory: &Factory, channel_id: ChannelId) -> CheckedMessage {
    CheckedMessage { instance: factory.instance, attempt: factory.attempt, channel_id }
}

/// The question whether lightningd's record of our channel is what the leaf pays (S18).
fn check_channel(factory: &Factory) -> Option<(ChannelId, Effect)> {
    let Role::Client { index, .. } = factory.role else { return None };
    let tree = factory.tree.as_ref()?;
    let outpoint = tree.channel_outpoint(index)?;
    let channel_id = ChannelId::of(outpoint);
    let effect = Effect::CheckChannel {
        instance: factory.instance,
        attempt: factory.attempt,
        channel_id,
        outpoint,
        output: tree.channel_output(index)?,
    };
    Some((channel_id, effect))
}
