//! A client's side of a ceremony: invitations, joining, the channel's open, aborts. What is signed is
//! in `client_signing`.

use crate::create::later::same_offer;
use crate::engine::Engine;
use crate::io::{Answer, Effect, KnownChannel, Level, NodeError, OpenChannel, Refusal};
use crate::memory::Volatile;
use crate::memory::ceremony::{ClientCeremony, ExpectedOpen, VolatileClient};
use crate::policy::{Bound, Bounds, Fit, NotAcceptable, Policy};
use crate::record::attempt::{Attempt, Creation, Role};
use crate::record::event::{Aborted, Accepted, Declined, Forgotten, Invited, OpenAccepted};
use crate::record::factory::{Factory, is_dead};
use crate::record::state::State;
use crate::signing::Signer;
use crate::step::builder::{StepBuilder, short};
use crate::step::check_channel;
use crate::step::fault::Fault;
use crate::terms::{ClientIndex, Terms};
use crate::tx::layout::Layout;
use crate::types::{ChannelId, Height, InstanceId, NodeId, PROTOCOL_ID, ScriptBuf, TermsHash};
use crate::wire::message::{Abort, ExpectChannel, Expecting, Invite, Join, Resume};
use crate::wire::words::Words;

/// Attempts at one factory that a client follows: each costs a record (S28).
pub(super) const MAX_ATTEMPT: u32 = 100;
/// Blocks that an invitation, or an attempt that a restart or a disconnect has interrupted, waits for
/// its operator (S29); and that what has failed is kept for people (S28).
const PATIENCE: u32 = 144;
/// The most characters of the reason that a person gives for declining. With the words before it, and unless
/// it has what is escaped, the operator gets it whole.
const MAX_REASON: usize = 200;
/// Invitations of strangers that wait for an answer, of all together (S28).
const MAX_STRANGERS: usize = 16;
/// Invitations that wait for an answer, of all peers together (S28).
const MAX_INVITATIONS: usize = 256;
/// Failed factories of one peer that are kept because something was signed or opened (S12, S28).
const MAX_KEPT_PER_PEER: usize = 64;

impl Engine {
    pub(crate) fn on_invite(
        &self,
        step: &mut StepBuilder<'_>,
        peer: NodeId,
        invite: Invite,
    ) -> Result<(), Fault> {
        if self.is_archived(invite.instance) {
            return Err(Fault::stale("this factory is closed"));
        }
        let known = self.factories.get(&invite.instance);
        if let Some(factory) = known {
            if !matches!(factory.current.role, Role::Client { lsp, .. } if lsp == peer) {
                return Err(Fault::stale("the factory is known, and this peer is not its operator"));
            }
            if invite.attempt <= factory.current.number {
                return self.on_repeated_invite(step, factory, &invite);
            }
            if factory.phase() == State::Declined {
                return Err(Fault::stale("it was declined"));
            }
            if factory.funding_height().is_some() {
                return Err(Fault::stale("it is funded: no other attempt can follow"));
            }
        }
        if invite.attempt > MAX_ATTEMPT {
            return Err(Fault::peer(format!("attempt {} is beyond {MAX_ATTEMPT}", invite.attempt)));
        }
        let accepted = known.is_some_and(|factory| factory.accepted);
        if let Some(wait) = self.offences.wait(peer, step.now).filter(|_| !accepted) {
            return Err(Fault::stale(format!("its invitations are not looked at for {} s", wait / 1000)));
        }
        // S28: what costs nothing first; a layout of many clients does.
        let checked = self.config.check_inviter(peer, &invite).and_then(|()| match known {
            Some(factory) if accepted => same_offer(factory, &invite),
            Some(_) => Ok(()),
            None => self.make_room(step, peer),
        });
        let checked = checked.and_then(|()| {
            let layout = Layout::new(&invite.terms).map_err(NotAcceptable::Terms)?;
            let bounds = self.bounds_for((peer, invite.instance), &invite.terms, step.height);
            bounds.check_invite(&invite, &layout, step.height, self.known_fees())
        });
        if let Err(reason) = checked {
            step.log(
                Level::Unusual,
                format!("{}: declined the invitation of {peer}: {reason}", invite.instance),
            );
            step.send(peer, refusal(invite.instance, invite.attempt, &reason.to_string()));
            step.volatile(Volatile::Offence(peer, step.now));
            self.renewal_failed(step, peer, &invite, &format!("its invitation was declined: {reason}"));
            return Ok(());
        }
        let takes = self.takes_by_itself(step, peer, &invite);
        let (instance, attempt) = (invite.instance, invite.attempt);
        step.event(
            instance,
            Invited {
                attempt,
                terms: invite.terms,
                client: invite.client,
                price_msat: invite.price_msat,
                height: step.height,
                protocol: PROTOCOL_ID,
            },
        );
        step.volatile(Volatile::End(instance));
        if known.is_some() && !accepted && self.is_stranger(peer) {
            // S28: a stranger's one invitation isn't written anew without end.
            step.volatile(Volatile::Offence(peer, step.now));
        }
        if accepted {
            step.effect(Effect::NewPayout { instance, attempt });
        } else if takes {
            step.event(instance, Accepted { from: None });
            step.effect(Effect::NewPayout { instance, attempt });
        }
        Ok(())
    }

    /// Whether no person is asked: the invitation renews a factory on terms no worse than before, or this node takes
    /// whatever its limits allow.
    fn takes_by_itself(&self, step: &mut StepBuilder<'_>, peer: NodeId, invite: &Invite) -> bool {
        let auto = self.config.policy == Policy::Auto && !self.is_stranger(peer);
        match (self.renewal_terms(peer, invite, step.height), self.config.renew) {
            (None, _) | (Some(_), Policy::Never) => auto,
            (Some(_), Policy::Ask) => false,
            (Some((before, Ok(()))), Policy::Auto) => {
                let text = format!("{}: accepted, it renews factory {}", invite.instance, before.instance);
                step.log(Level::Info, text);
                true
            }
            (Some((_, Err(worse))), Policy::Auto) => {
                let what = format!("the terms of factory {} are worse: {worse}", invite.instance);
                self.renewal_failed(step, peer, invite, &what);
                auto
            }
        }
    }

    /// The invitation of the current attempt again: after a reconnect, or because our nonces are gone.
    fn on_repeated_invite(
        &self,
        step: &mut StepBuilder<'_>,
        factory: &Factory,
        invite: &Invite,
    ) -> Result<(), Fault> {
        if invite.attempt < factory.current.number {
            return Err(Fault::stale("it is of an earlier attempt"));
        }
        let place = Role::Client { lsp: factory.lsp(), index: invite.client };
        let same = invite.terms == factory.current.terms && invite.price_msat == factory.current.price_msat;
        if !same || place != factory.current.role {
            return Err(Fault::peer("a second invitation to the same attempt with other terms"));
        }
        if factory.phase() == State::Joining {
            match self.client.get(&factory.instance) {
                Some(ceremony) => step.send(factory.lsp(), ceremony.join.clone()),
                None => step.effect(Effect::NewPayout {
                    instance: factory.instance,
                    attempt: factory.current.number,
                }),
            }
        }
        Ok(())
    }

    /// S28: a peer can't fill our disk with invitations. What ended without a signature goes first.
    fn make_room(&self, step: &mut StepBuilder<'_>, peer: NodeId) -> Result<(), NotAcceptable> {
        let of_peer = self.factories.values().filter(|factory| {
            matches!(factory.current.role, Role::Client { lsp, .. } if lsp == peer)
                && (factory.phase().is_creating()
                    || matches!(factory.phase(), State::Aborted | State::Declined))
        });
        let (over, kept): (Vec<_>, Vec<_>) = of_peer.partition(|factory| is_forgettable(factory));
        let open = kept.iter().filter(|factory| factory.phase().is_creating()).count();
        let stranger = self.is_stranger(peer);
        if open >= if stranger { 1 } else { self.config.max_ceremonies_per_peer } {
            return Err(NotAcceptable::Open(open));
        }
        let waiting = |factory: &&Factory| {
            factory.phase() == State::Invited && (!stranger || self.is_stranger(factory.lsp()))
        };
        let waiting = self.factories.values().filter(waiting).count();
        if waiting >= if stranger { MAX_STRANGERS } else { MAX_INVITATIONS } {
            return Err(NotAcceptable::Full(waiting));
        }
        if kept.len() >= MAX_KEPT_PER_PEER {
            return Err(NotAcceptable::Kept(kept.len()));
        }
        for factory in over {
            step.event(factory.instance, Forgotten { reason: "it ended before anything was signed".into() });
        }
        Ok(())
    }

    /// Whether nothing is known of a peer: no channel on chain or in a factory, and no list that names it.
    fn is_stranger(&self, peer: NodeId) -> bool {
        let funded = |factory: &Factory| factory.funding_height().is_some();
        let operates =
            |factory: &Factory| matches!(factory.current.role, Role::Client { lsp, .. } if lsp == peer);
        !self.config.anybody_invites
            && self.config.allowed_lsps.is_none()
            && !self.friends.contains(&peer)
            && !self.factories.values().any(|factory| funded(factory) && operates(factory))
    }

    /// S28: what ended before anything was signed is not kept for long.
    pub(crate) fn forget_failed(&self, step: &mut StepBuilder<'_>, factory: &Factory) {
        let over = factory.current.ended_at.is_some_and(|at| step.height >= at.saturating_add(PATIENCE));
        if over && is_forgettable(factory) && !self.client.contains_key(&factory.instance) {
            step.event(factory.instance, Forgotten { reason: format!("it failed {PATIENCE} blocks ago") });
        }
    }

    /// Every number of an invitation that this node has bounds for, with its own, at a height (S32).
    pub fn bounds_of(&self, factory: &Factory, height: Height) -> Vec<Bound> {
        let Attempt { terms, price_msat, .. } = &factory.current;
        let bounds = self.bounds_for((factory.lsp(), factory.instance), terms, height);
        bounds.of(terms, *price_msat, height, self.known_fees())
    }

    /// This node's bounds for a factory of an operator: what renews another one may cost what renewals may.
    fn bounds_for(&self, of: (NodeId, InstanceId), terms: &Terms, height: Height) -> Bounds {
        let mut bounds = self.config.bounds;
        if self.renewed_by(of, terms.timeout_height, height).is_some() {
            bounds.max_price_msat = bounds.max_price_msat.max(self.config.max_renewal_price_msat);
        }
        bounds
    }

    /// S32: what is accepted is what was read, and still within this node's bounds.
    pub(crate) fn accept(
        &self,
        step: &mut StepBuilder<'_>,
        instance: InstanceId,
        read: TermsHash,
        from: Option<ChannelId>,
    ) -> Result<Answer, Refusal> {
        let factory = self.invitation(instance)?;
        if let Some(now) = factory.current.terms_hash().filter(|now| *now != read) {
            return Err(Refusal::TermsChanged { instance, read, now });
        }
        let mut bounds = self.bounds_of(factory, step.height).into_iter();
        if let Some(outside) = bounds.find(|bound| bound.fit() == Fit::Outside) {
            return Err(Refusal::OutOfBounds(outside));
        }
        if !self.peers.contains(&factory.lsp()) {
            return Err(Refusal::OperatorAway(factory.lsp()));
        }
        if let Some(channel_id) = from {
            let lsp = factory.lsp();
            let known = self.balances.of(channel_id).filter(|known| known.peer == lsp);
            // One of a factory's is on chain, or moves by a renewal.
            let ordinary = known.is_some_and(|known| known.live && known.confirmed.is_some());
            if !ordinary {
                return Err(Refusal::CannotComeOn { channel_id, lsp });
            }
        }
        step.event(instance, Accepted { from });
        step.effect(Effect::NewPayout { instance, attempt: factory.current.number });
        Ok(Answer::Done)
    }

    pub(crate) fn decline(
        &self,
        step: &mut StepBuilder<'_>,
        instance: InstanceId,
        reason: &str,
    ) -> Result<Answer, Refusal> {
        let factory = self.invitation(instance)?;
        let characters = reason.chars().count();
        if characters > MAX_REASON {
            return Err(Refusal::Reason { characters, most: MAX_REASON });
        }
        step.event(instance, Declined { reason: short(reason), height: step.height });
        step.send(factory.lsp(), refusal(instance, factory.current.number, &format!("declined: {reason}")));
        Ok(Answer::Done)
    }

    fn invitation(&self, instance: InstanceId) -> Result<&Factory, Refusal> {
        let factory = self.factories.get(&instance).ok_or(Refusal::Unknown(instance))?;
        if factory.current.role == Role::Lsp {
            return Err(Refusal::OwnFactory(instance));
        }
        match &factory.current.creation {
            Creation::Invited => Ok(factory),
            answered @ (Creation::Joining
            | Creation::Signing
            | Creation::Storing
            | Creation::Opening
            | Creation::Funding
            | Creation::Declined(_)
            | Creation::Aborted(_)) => Err(Refusal::NotAnInvitation { instance, state: answered.state() }),
        }
    }

    pub(crate) fn on_payout_ready(
        &self,
        step: &mut StepBuilder<'_>,
        instance: InstanceId,
        attempt: u32,
        result: Result<ScriptBuf, NodeError>,
    ) {
        let Some(factory) = self.factories.get(&instance).filter(|factory| {
            factory.current.number == attempt
                && factory.phase() == State::Joining
                && !self.client.contains_key(&instance)
        }) else {
            return;
        };
        let Role::Client { lsp, index } = factory.current.role else {
            return;
        };
        let payout = match result {
            Ok(payout) => payout,
            Err(error) => {
                let reason = format!("no payout script from the wallet: {error}");
                return self.client_gives_up(step, factory, &reason);
            }
        };
        let salt = step.rng.bytes32();
        let key = self.client_key(instance, attempt, &salt);
        let sessions = factory.current.layout.sessions(Some(index));
        let (signing, public) = Signer::fresh(sessions.len(), &key, || step.rng.bytes32());
        let join = Join { instance, attempt, factory_key: key.public(), payout, nonces: public };
        step.volatile(Volatile::StartClient(
            instance,
            ClientCeremony {
                attempt,
                salt,
                join: join.clone(),
                joined_at: step.height,
                signing,
                open: ExpectedOpen::NotYet,
                held: None,
                // L may wait for every other member to join first.
                deadline: step.now.saturating_add(self.config.invite_timeout.saturating_mul(2)),
            },
        ));
        step.send(lsp, join);
    }

    pub(crate) fn on_expect_channel(
        &self,
        step: &mut StepBuilder<'_>,
        peer: NodeId,
        message: &ExpectChannel,
    ) -> Result<(), Fault> {
        let (factory, ceremony, index) = self.under_way(peer, message.instance, message.attempt)?;
        if message.client != index
            || message.capacity != factory.capacity(index)
            || message.push_msat != factory.current.terms.push_msat
            || message.channel_in_factory != factory.channel_in_factory(index)
        {
            return Err(Fault::peer("the announced channel is not the one of the terms"));
        }
        if ceremony.open == ExpectedOpen::NotYet {
            step.volatile(Volatile::Client(factory.instance, VolatileClient::Open(ExpectedOpen::Expected)));
            let deadline = step.now.saturating_add(self.config.ceremony_timeout.saturating_mul(2));
            step.volatile(Volatile::Client(factory.instance, VolatileClient::Extend(deadline)));
        }
        step.send(peer, Expecting { instance: factory.instance, attempt: factory.current.number });
        Ok(())
    }

    /// The `openchannel` hook: exactly one open that matches the announcement is ours.
    pub(crate) fn on_open_channel(&self, step: &mut StepBuilder<'_>, open: &OpenChannel) -> Answer {
        let matching = self.client.iter().find_map(|(instance, ceremony)| {
            let factory = self.factories.get(instance)?;
            let Role::Client { lsp, index } = factory.current.role else {
                return None;
            };
            let record = open.channel_in_factory;
            (lsp == open.peer
                && ceremony.open == ExpectedOpen::Expected
                && open.zeroconf
                && open.capacity == factory.capacity(index)
                && open.push_msat == factory.current.terms.push_msat
                && record.is_none_or(|record| record == factory.channel_in_factory(index)))
            .then_some((*instance, ceremony.attempt))
        });
        match matching {
            Some(_) if let Some(reason) = open.harmful() => Answer::RejectOpen(reason),
            Some((instance, attempt)) => {
                step.event(instance, OpenAccepted { attempt });
                step.volatile(Volatile::Client(instance, VolatileClient::Open(ExpectedOpen::Seen)));
                Answer::AcceptOpen
            }
            None if let Some(answer) = self.on_open_sale(step, open) => answer,
            None if open.channel_in_factory.is_some() => {
                Answer::RejectOpen("this open_channel names a factory that doesn't expect it".into())
            }
            None => Answer::NotOurs,
        }
    }

    pub(crate) fn on_lsp_abort(
        &self,
        step: &mut StepBuilder<'_>,
        factory: &Factory,
        abort: &Abort,
    ) -> Result<(), Fault> {
        if factory.funding_height().is_some()
            || factory.phase() == State::Aborted
            || factory.phase() == State::Declined
        {
            return Err(Fault::stale("there is nothing to abort"));
        }
        step.event(
            factory.instance,
            Aborted { reason: short(&format!("the operator aborts: {}", abort.reason)), height: step.height },
        );
        step.volatile(Volatile::End(factory.instance));
        Ok(())
    }

    /// Ends our part in an attempt and says why; what was signed is kept (S12).
    pub(crate) fn client_gives_up(&self, step: &mut StepBuilder<'_>, factory: &Factory, reason: &str) {
        if !factory.phase().is_creating() || factory.phase() == State::Invited {
            return;
        }
        step.abort(factory, factory.lsp(), 0, reason, false);
        self.end_attempt(step, factory, reason);
    }

    fn end_attempt(&self, step: &mut StepBuilder<'_>, factory: &Factory, reason: &str) {
        // Its channel, if lightningd has it by now, stands on nothing.
        if let Some((channel_id, _)) =
            check_channel(factory).filter(|_| !factory.current.signatures.is_empty())
        {
            step.effect(Effect::CloseChannel { channel_id, on_chain: false });
        }
        step.event(factory.instance, Aborted { reason: short(reason), height: step.height });
        step.volatile(Volatile::End(factory.instance));
    }

    pub(crate) fn client_peer_up(&self, step: &mut StepBuilder<'_>, peer: NodeId) {
        for factory in self.whole() {
            let ours = matches!(factory.current.role, Role::Client { lsp, .. } if lsp == peer);
            let waiting = factory.phase().is_creating() && factory.phase() != State::Invited
                || factory.phase() == State::Funding && factory.funding_height().is_none();
            if ours && waiting {
                step.send(
                    peer,
                    Resume {
                        instance: factory.instance,
                        attempt: factory.current.number,
                        phase: resume_phase(&factory.current.creation),
                    },
                );
            }
        }
    }

    /// A disconnect ends the open that lightningd had pending with the operator; nonces that were not
    /// used are thrown away with it (S2).
    pub(crate) fn client_peer_down(&self, step: &mut StepBuilder<'_>, peer: NodeId) {
        for instance in self.client.keys() {
            if self.factories.get(instance).is_some_and(|factory| factory.lsp() == peer) {
                step.volatile(Volatile::End(*instance));
            }
        }
    }

    pub(crate) fn client_tick(&self, step: &mut StepBuilder<'_>) {
        for (instance, ceremony) in &self.client {
            if step.now < ceremony.deadline {
                continue;
            }
            if let Some(factory) = self.factories.get(instance) {
                self.client_gives_up(
                    step,
                    factory,
                    &format!("the operator went silent while {}", factory.phase()),
                );
            }
            step.volatile(Volatile::End(*instance));
        }
    }

    /// S29: an operator that never comes back doesn't keep us waiting for ever.
    pub(crate) fn client_patience(&self, step: &mut StepBuilder<'_>, factory: &Factory) {
        let waiting = factory.current.role != Role::Lsp
            && factory.phase().is_creating()
            && factory.funding_height().is_none()
            && !self.client.contains_key(&factory.instance);
        let Some(since) = factory.current.invited_at.filter(|_| waiting) else { return };
        if step.height >= since.saturating_add(PATIENCE) {
            let reason = format!("the operator {} did nothing for {PATIENCE} blocks", factory.lsp());
            step.log(Level::Unusual, format!("{}: {reason}", factory.instance));
            self.end_attempt(step, factory, &reason);
        }
    }

    pub(crate) fn client_started(
        &self,
        step: &mut StepBuilder<'_>,
        factory: &Factory,
        channels: &[KnownChannel],
    ) {
        // A channel that lightningd may have must stay known, so that nothing moves on it (S18).
        let suspect = channels.iter().any(|channel| {
            channel.peer == factory.lsp() && factory.opens_accepted().contains(&channel.capacity)
        });
        if matches!(factory.phase(), State::Aborted | State::Declined)
            && !suspect
            && factory.restored().is_none()
            && is_dead(factory, step.height)
        {
            step.event(factory.instance, Forgotten { reason: "nothing that was signed can confirm".into() });
        } else if let (State::Storing, Some((channel_id, check))) = (factory.phase(), check_channel(factory))
            && channels.iter().any(|channel| channel.channel_id == channel_id)
        {
            step.effect(check);
        }
    }

    pub(crate) fn own_factory(
        &self,
        peer: NodeId,
        instance: InstanceId,
        attempt: u32,
    ) -> Result<&Factory, Fault> {
        let factory = self.known(instance)?;
        if !matches!(factory.current.role, Role::Client { lsp, .. } if lsp == peer) {
            return Err(Fault::stale("it is not from this factory's operator"));
        }
        if factory.current.number != attempt {
            return Err(Fault::stale(format!(
                "it is of attempt {attempt}, we are in {}",
                factory.current.number
            )));
        }
        Ok(factory)
    }

    pub(crate) fn under_way(
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
        match factory.current.role {
            Role::Client { index, .. } => Ok((factory, ceremony, index)),
            Role::Lsp => Err(Fault::stale("it is our own factory")),
        }
    }
}

fn is_forgettable(factory: &Factory) -> bool {
    matches!(factory.phase(), State::Aborted | State::Declined)
        && factory.signed_for().is_empty()
        && factory.opens_accepted().is_empty()
        && factory.restored().is_none()
}

fn refusal(instance: InstanceId, attempt: u32, reason: &str) -> Abort {
    Abort { instance, attempt, phase: 1, reason: Words::new(reason), blames: None, retry: 0 }
}

fn resume_phase(creation: &Creation) -> u16 {
    match creation {
        Creation::Signing => 3,
        Creation::Storing => 4,
        Creation::Opening | Creation::Funding => 5,
        Creation::Invited | Creation::Joining | Creation::Declined(_) | Creation::Aborted(_) => 1,
    }
}
