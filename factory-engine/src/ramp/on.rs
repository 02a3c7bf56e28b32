//! The client: ordinary channels that move into a factory, and are closed once they are empty.

use crate::engine::Engine;
use crate::handover::client::fail;
use crate::io::{ChannelBalance, Effect, Level};
use crate::policy::Policy;
use crate::record::attempt::Role;
use crate::record::factory::Factory;
use crate::step::builder::StepBuilder;
use crate::types::{ChannelId, InstanceId, NodeId};

impl Engine {
    /// What moves into a factory: the channel that a person named when accepting it; and what this node has in
    /// factories of the same operator out of which it was evicted, and which this one renews.
    pub fn comes_on(&self, next: &Factory) -> Vec<ChannelId> {
        let Role::Client { lsp, .. } = next.current.role else { return vec![] };
        let mut found: Vec<ChannelId> = next.comes_from.into_iter().collect();
        if self.config.renew == Policy::Never {
            return found;
        }
        let ends = next.current.terms.timeout_height;
        let before = |old: &&Factory| {
            matches!(old.current.role, Role::Client { lsp: its, .. } if its == lsp)
                && old.instance != next.instance
                && old.current.terms.timeout_height < ends
        };
        for old in self.whole().filter(before).filter(|old| old.was_evicted()) {
            let out = |txid| old.confirmed.contains_key(&txid);
            let channels = old.own_channels().filter(|own| out(own.funding.txid));
            found.extend(channels.map(|own| own.channel_id));
        }
        found
    }

    /// At every block, of each factory that something comes on to.
    pub(crate) fn go_on(&self, step: &mut StepBuilder<'_>, next: &Factory) {
        let Role::Client { lsp, .. } = next.current.role else { return };
        if next.has_left() || next.leaves.wish().is_some() || next.funding_height().is_none() {
            return;
        }
        let list = self.comes_on(next);
        let known = |id: &ChannelId| self.balances.of(*id).is_none_or(|known| known.live);
        if !list.iter().any(known) {
            return;
        }
        // lightningd looks for the peers of its channels by itself.
        if !self.peers.contains(&lsp) {
            return;
        }
        step.effect(Effect::ReadBalances { peer: lsp });
        let Some(to) = next.own_channels().next().map(|own| own.channel_id) else { return };
        // Until then both channels are this client's, and the one that is on chain is the better one.
        if self.is_irrevocable(next, step.height).is_err() {
            return;
        }
        for from in list {
            let known = self.balances.of(from).filter(|known| known.live && known.confirmed.is_some());
            if let Some(known) = known.filter(|known| known.peer == lsp) {
                self.come_on(step, next.instance, known, to);
            }
        }
    }

    fn come_on(&self, step: &mut StepBuilder<'_>, next: InstanceId, known: &ChannelBalance, to: ChannelId) {
        let from = known.channel_id;
        // Two factories of one operator may be ready for it in the same block.
        if known.htlcs || self.is_moving(known.peer) || step.moves_to(from).is_some() {
            return;
        }
        if known.to_us_msat <= known.reserve_msat {
            let text =
                format!("{next}: channel {from} is empty, what was in it is in channel {to}: closing it");
            step.log(Level::Info, text);
            // What is left in it is paid by the transaction that closes it.
            return step.effect(Effect::MutualClose { channel_id: from });
        }
        if let Err(why) = self.begin_move(step, from, to, None) {
            let what = format!("what is in channel {from} doesn't move to channel {to}: {why}");
            step.log(Level::Debug, format!("{next}: {what}"));
            fail(step, next, &what);
        }
    }

    fn is_moving(&self, peer: NodeId) -> bool {
        self.move_with(peer).is_some()
    }
}
