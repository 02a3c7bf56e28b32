//! L: clients that are due and away are woken, by a notification and the operator's own program: once a rung, with
//! the height by which they have to come; and before this node leaves for an HTLC of theirs.

use crate::engine::Engine;
use crate::io::{Effect, Level, WakeReason};
use crate::memory::Volatile;
use crate::memory::climbing::VolatileClimbing;
use crate::policy::ladder::Ladder;
use crate::record::attempt::Role;
use crate::record::event::Woken;
use crate::record::factory::Factory;
use crate::report::counting::counted;
use crate::step::builder::StepBuilder;
use crate::terms::ClientIndex;
use crate::types::{Height, NodeId};

use super::is_in;

/// Blocks between two times that a client is woken for HTLCs: whoever sends it one after the other gets no more.
const HTLC_BLOCKS: u32 = 6;

impl Engine {
    /// At each block: whoever has to come and is away.
    pub(crate) fn wake(&self, step: &mut StepBuilder<'_>) {
        let mine = |factory: &&Factory| factory.current.role == Role::Lsp && factory.restored().is_none();
        // Right after a start nobody is taken for away.
        if !self.is_settled(step.height) {
            return;
        }
        for factory in self.whole().filter(mine) {
            if let Some(ladder) = self.config.ladder.filter(|_| factory.is_due(step.height)) {
                self.wake_due(step, factory, &ladder);
            }
            self.wake_for_htlcs(step, factory);
        }
    }

    fn gone(&self, factory: &Factory, client: ClientIndex) -> Option<NodeId> {
        factory.node_of(client).filter(|node| !self.peers.contains(node))
    }

    /// Who hasn't left a factory that is in its dying period: to join the next one, or to go on there.
    fn wake_due(&self, step: &mut StepBuilder<'_>, factory: &Factory, ladder: &Ladder) {
        let Some(rung) = ladder.rung_at(step.height) else { return };
        let placed = |node: NodeId| self.has_later(factory, node);
        let is_due = |client: &ClientIndex| {
            let woken = factory.woken.get(client).is_some_and(|woken| *woken >= rung.opens);
            let away = self.gone(factory, *client);
            // There is nothing to come for as long as the ladder is paused, but to go on with what was begun.
            let something = away.is_some_and(|node| !ladder.paused || placed(node));
            something && !woken && is_in(factory, *client) && step.height < factory.eviction_height(*client)
        };
        let clients: Vec<ClientIndex> = (0..factory.current.terms.clients()).filter(is_due).collect();
        if clients.is_empty() {
            return;
        }
        let instance = factory.instance;
        for client in &clients {
            if let Some(peer) = self.gone(factory, *client) {
                let by = factory.eviction_height(*client);
                step.effect(Effect::Wake { instance, peer, by, reason: WakeReason::Renewal });
            }
        }
        let away = counted(clients.len(), "client");
        step.log(Level::Info, format!("{instance}: rung {}: {away} due and away: woken", rung.number));
        step.event(instance, Woken { height: step.height, clients });
    }

    /// Whether a client has a place in a factory that ends later.
    fn has_later(&self, factory: &Factory, node: NodeId) -> bool {
        let ends = factory.current.terms.timeout_height;
        let later = |other: &Factory| {
            let lives = other.funding_height().is_some() || self.lsp.contains_key(&other.instance);
            let client = other.client_of(node).filter(|_| other.current.role == Role::Lsp && lives);
            other.current.terms.timeout_height > ends && client.is_some_and(|client| is_in(other, client))
        };
        self.whole().any(later)
    }

    /// S16: whoever could still settle an HTLC before this node goes on chain for it.
    fn wake_for_htlcs(&self, step: &mut StepBuilder<'_>, factory: &Factory) {
        let pending = self.fees.htlcs();
        let may_be = |client: ClientIndex, channel| {
            self.gone(factory, client).is_some() && pending.iter().any(|htlc| htlc.channel_id == channel)
        };
        let waits = !pending.is_empty()
            && factory.own_channels().any(|channel| may_be(channel.client, channel.channel_id));
        if !waits {
            return;
        }
        let mut seen: Vec<ClientIndex> = vec![];
        for urgent in self.urgent_htlcs(factory, step.height) {
            let key = (factory.instance, urgent.client);
            let recent = |woken: &Height| step.height < woken.saturating_add(HTLC_BLOCKS);
            let again = self.climbing.woken.get(&key).is_some_and(recent) || seen.contains(&urgent.client);
            let Some(peer) = self.gone(factory, urgent.client) else { continue };
            if again || urgent.exit_block <= step.height {
                continue;
            }
            seen.push(urgent.client);
            let by = urgent.exit_block;
            step.effect(Effect::Wake { instance: factory.instance, peer, by, reason: WakeReason::Htlc });
            step.volatile(Volatile::Climbing(VolatileClimbing::Woken(key, step.height)));
        }
    }
}
