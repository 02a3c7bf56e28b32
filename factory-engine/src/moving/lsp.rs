//! L: it forwards a client's move for nothing, over the channel that it goes to and no other. lightningd forwards
//! over whichever of a peer's channels has most to spend among those whose fees are the same.
//!
//! Nothing of it is stored: fees that are zero are lightningd's own record of it.

use crate::engine::Engine;
use crate::io::{ChannelBalance, Effect, Level, NodeError};
use crate::memory::Volatile;
use crate::memory::moving::{Free, VolatileMove};
use crate::moving::PATIENCE;
use crate::record::attempt::Role;
use crate::record::factory::Factory;
use crate::step::builder::StepBuilder;
use crate::step::fault::Fault;
use crate::types::{ChannelId, NodeId};
use crate::wire::message::{MoveAsk, MoveReady, MoveRefused};
use crate::wire::words::Words;

fn note(step: &mut StepBuilder<'_>, channel_id: ChannelId, free: Option<Free>) {
    step.volatile(Volatile::Move(VolatileMove::Free(channel_id, free)));
}

fn refuse(
    step: &mut StepBuilder<'_>,
    factory: &Factory,
    peer: NodeId,
    (from, to): (ChannelId, ChannelId),
    reason: &str,
) {
    let (instance, attempt) = (factory.instance, factory.current.number);
    step.send(peer, MoveRefused { instance, attempt, from, to, reason: Words::new(reason) });
}

impl Engine {
    pub(crate) fn on_move_ask(
        &self,
        step: &mut StepBuilder<'_>,
        peer: NodeId,
        message: &MoveAsk,
    ) -> Result<(), Fault> {
        let MoveAsk { instance, attempt, from, to, .. } = *message;
        let factory = self.known(instance)?;
        if factory.current.role != Role::Lsp || factory.client_of(peer).is_none() {
            return Err(Fault::stale("it is from no client of this factory"));
        }
        if factory.current.number != attempt {
            return Err(Fault::stale("it is of another attempt"));
        }
        if let Some(policy) = self.policy_of(to) {
            if policy.client != Some(peer) {
                refuse(step, factory, peer, (from, to), "that channel is another client's");
                return Ok(());
            }
            if let Err(why) = policy.usable {
                refuse(step, factory, peer, (from, to), &format!("the new channel can't be used: {why}"));
                return Ok(());
            }
        }
        // One at a time: at equal fees lightningd forwards over either.
        let others =
            self.moving.free.iter().filter(|(id, free)| **id != to && free.peer == peer && !free.back);
        for (channel_id, free) in others {
            self.charge_again(step, *channel_id, free);
        }
        let known = self.moving.free.get(&to).filter(|free| !free.back);
        let since = known.map_or(step.height, |free| free.since);
        let set = known.and_then(|free| free.set).filter(|height| *height == step.height);
        note(step, to, Some(Free { peer, asked: Some((instance, from)), since, set, back: false }));
        if set.is_some() {
            self.let_move(step, factory, peer, (from, to));
        } else {
            step.effect(Effect::SetFees { peer, channel_id: to, free: true });
        }
        Ok(())
    }

    fn let_move(
        &self,
        step: &mut StepBuilder<'_>,
        factory: &Factory,
        peer: NodeId,
        (from, to): (ChannelId, ChannelId),
    ) {
        let (instance, attempt, cltv_delta) =
            (factory.instance, factory.current.number, self.config.cltv_delta);
        step.send(peer, MoveReady { instance, attempt, from, to, cltv_delta });
    }

    fn charge_again(&self, step: &mut StepBuilder<'_>, channel_id: ChannelId, free: &Free) {
        note(step, channel_id, Some(Free { back: true, ..*free }));
        step.effect(Effect::SetFees { peer: free.peer, channel_id, free: false });
    }

    pub(crate) fn on_fees_set(
        &self,
        step: &mut StepBuilder<'_>,
        channel_id: ChannelId,
        free: bool,
        result: Result<(), NodeError>,
    ) {
        let Some(known) = self.moving.free.get(&channel_id).filter(|known| known.back != free) else {
            return;
        };
        let asked = known.asked.and_then(|(instance, from)| Some((self.factories.get(&instance)?, from)));
        match (free, result) {
            (true, Ok(())) => {
                note(step, channel_id, Some(Free { set: Some(step.height), ..*known }));
                // Nor over one that a restart has forgotten. Only now: to set these has made all others cost something,
                // where they cost nothing by default.
                step.effect(Effect::ReadBalances { peer: known.peer });
                if let Some((factory, from)) = asked {
                    self.let_move(step, factory, known.peer, (from, channel_id));
                }
            }
            (true, Err(error)) => {
                step.log(Level::Unusual, format!("channel {channel_id}: its fees can't be set: {error}"));
                note(step, channel_id, None);
                if let Some((factory, from)) = asked {
                    let reason = "the operator's node can't set the fees of that channel";
                    refuse(step, factory, known.peer, (from, channel_id), reason);
                }
            }
            (false, Ok(())) => note(step, channel_id, None),
            // Tried again at the next block.
            (false, Err(error)) => {
                step.log(
                    Level::Unusual,
                    format!("channel {channel_id}: its fees can't be set back: {error}"),
                );
            }
        }
    }

    /// What was free for long enough, or for a client that has handed its key over, costs something again.
    pub(crate) fn end_free_moves(&self, step: &mut StepBuilder<'_>) {
        for (channel_id, free) in &self.moving.free {
            let handed_over = free.asked.is_some_and(|(instance, _)| {
                let factory = self.factories.get(&instance);
                factory
                    .is_some_and(|of| of.client_of(free.peer).is_some_and(|index| of.has_handed_over(index)))
            });
            if free.back || handed_over || step.height >= free.since.saturating_add(PATIENCE) {
                self.charge_again(step, *channel_id, free);
            }
        }
    }

    /// A channel with a client that is free, and nobody knows since when: a restart has forgotten it. It ends after a
    /// while, and at once for a move over another channel.
    pub(crate) fn find_free_moves(&self, step: &mut StepBuilder<'_>, list: &[ChannelBalance]) {
        let is_client = |peer| {
            self.whole().any(|factory| factory.current.role == Role::Lsp && factory.client_of(peer).is_some())
        };
        let forgotten = list.iter().filter(|channel| channel.free && channel.live);
        for channel in forgotten.filter(|channel| !self.moving.free.contains_key(&channel.channel_id)) {
            let peer = channel.peer;
            if !is_client(peer) {
                continue;
            }
            let free = Free { peer, asked: None, since: step.height, set: None, back: false };
            if self.moving.free.values().any(|other| other.peer == peer && !other.back) {
                self.charge_again(step, channel.channel_id, &free);
            } else {
                note(step, channel.channel_id, Some(free));
            }
        }
    }
}
