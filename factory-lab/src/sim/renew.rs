//! One factory after the other: the operator's rungs, clients that move, hand over and close, those that stay away,
//! and those that keep or publish what is no more theirs. In a part of the runs.

use factory_engine::terms::ClientIndex;
use factory_engine::tx::layout::{SessionId, SpendRole};
use factory_engine::types::{Amount, ChannelId, Height, InstanceId};
use factory_engine::{Command, Create, Factory, Input, RefusalKind, Role, State};

use crate::fault::Kind;
use crate::offer::shape;
use crate::world::chaos::Commit;
use crate::world::chaos::lie::Lie;
use crate::world::{Fed, LSP};
use crate::{LabError, error};

use super::renewing::Renewing;
use super::run::Run;

/// The most factories of a run.
const MOST: usize = 4;
/// Blocks after a factory's timeout in which a run still looks at it.
const AFTER: Height = 6;

/// Events of a renewal, at which a crash may be planned.
const EVENTS: [&str; 7] = [
    "handed_over",
    "handover_stored",
    "move_wanted",
    "move_started",
    "move_ended",
    "move_over",
    "key_received",
];
/// What is said in one, from which on somebody may be silent: the operator, a client.
const LSP_SAYS: [&str; 3] = ["handover_stored", "move_ready", "move_refused"];
const CLIENT_SAYS: [&str; 2] = ["handover", "move_ask"];

impl Run {
    /// Who lies about keys, who goes away, what fails, in a run that renews.
    pub(super) fn choose_renewers(&mut self, clients: usize) {
        let Some(mut dice) = self.renewing.as_ref().map(|renewing| renewing.dice.clone()) else { return };
        let kinds = [Kind::KeyRefused, Kind::KeyKept, Kind::TreePublished, Kind::GoneBetween, Kind::NotFree];
        for kind in kinds {
            let client = dice.below(clients).saturating_add(1);
            let at = if matches!(kind, Kind::KeyKept | Kind::TreePublished) { client } else { LSP };
            let Some(mut own) = self.roll(kind, || format!("member {at}, client {client}")) else { continue };
            match kind {
                Kind::GoneBetween => self.set_renewing(|renewing| renewing.goes = true),
                Kind::NotFree => {
                    let lightningd = &mut self.world.members[LSP].lightningd;
                    let fails = own.one_in(2);
                    (lightningd.fees_fail, lightningd.fees_ignored) = (fails, !fails);
                }
                kind => {
                    if kind == Kind::TreePublished {
                        self.set_renewing(|renewing| renewing.publishes = Some(client));
                    }
                    if let Some(chaos) = &mut self.world.chaos {
                        chaos.lies.push(Lie::new(at, kind, client, own));
                    }
                }
            }
        }
        if dice.one_in(3) {
            // A move takes several HTLCs.
            self.world.members[LSP].lightningd.htlc_maximum_msat = 1_000_000 * (2 + dice.next_number() % 20);
        }
        let client = dice.below(clients).saturating_add(1);
        if let Some(mut own) = self.roll(Kind::CrashAt, || format!("client {client}, in a renewal")) {
            let event = EVENTS[own.below(EVENTS.len())];
            let who = if event == "key_received" { LSP } else { client };
            let what = [Commit::CrashBefore, Commit::CrashAfter, Commit::Fails][own.below(3)];
            if let Some(chaos) = &mut self.world.chaos {
                chaos.planned = Some((who, event, what));
            }
        }
        if let Some(mut own) = self.roll(Kind::Silence, || format!("client {client}, in a renewal")) {
            let lsp = own.one_in(2);
            let name = if lsp { LSP_SAYS[own.below(3)] } else { CLIENT_SAYS[own.below(2)] };
            if let Some(chaos) = &mut self.world.chaos {
                chaos.silent.insert(if lsp { LSP } else { client }, name);
            }
        }
        self.set_renewing(|renewing| renewing.dice = dice);
    }

    fn set_renewing(&mut self, change: impl FnOnce(&mut Renewing)) {
        if let Some(renewing) = &mut self.renewing {
            change(renewing);
        }
    }

    /// Blocks until nothing of the first factory is left, or its time is over: with rungs, payments, purchases.
    ///
    /// # Errors
    /// A violation.
    pub(super) fn renew(&mut self) -> Result<(), LabError> {
        let Some(first) = self.instance.filter(|_| self.renewing.is_some()) else { return Ok(()) };
        let Some(timeout) = self.used.values().map(|used| used.timeout).max() else { return Ok(()) };
        while self.world.chain.height() < timeout.saturating_add(AFTER) {
            if self.is_over(first) && self.dice.one_in(4) {
                break;
            }
            if self.world.chain.height() >= timeout.saturating_sub(self.dying()) {
                self.draw_stragglers()?;
                self.try_rung()?;
            }
            self.block()?;
            let steps = if self.dice.one_in(8) { 30 } else { 150 };
            self.quiet(steps)?;
            if self.dice.one_in(4) {
                self.try_htlc()?;
            }
            if self.dice.one_in(12) {
                self.try_buy()?;
            }
            if self.dice.one_in(16) {
                self.probe_some()?;
            }
            if self.dice.one_in(150) {
                let at = self.dice.below(self.world.members.len());
                self.command_exit(at, first)?;
            }
        }
        // Who is still away is away until the end.
        Ok(())
    }

    fn dying(&self) -> u32 {
        let template = self.renewing.as_ref().and_then(|renewing| renewing.template.as_ref());
        template.map_or(0, |template| template.dying_blocks)
    }

    /// Whether all of a factory is on chain or the operator's again.
    fn is_over(&self, instance: InstanceId) -> bool {
        let funding = self.world.factory(LSP, instance).ok().and_then(Factory::funding);
        let spent = funding.is_some_and(|funding| self.world.chain.spender(funding).is_some());
        let mut used = self.used.iter().filter(|(_, used)| used.instance == instance);
        spent
            && used.all(|((at, channel), _)| {
                let known = self.world.members[*at].lightningd.channels.get(channel);
                let out =
                    known.is_some_and(|known| self.world.chain.confirmed(known.outpoint.txid).is_some());
                out || self.is_left(*at, *channel)
            })
    }

    /// Whether a client has handed over the factory that this channel is of.
    pub(super) fn is_left(&self, at: usize, channel: ChannelId) -> bool {
        let used = self.used.get(&(at, channel));
        used.is_some_and(|used| self.world.judge.has_handed_over(used.instance, used.client))
    }

    /// Whether an honest operator that is there has nothing left to take back.
    pub(super) fn all_taken_back(&self) -> bool {
        let engine = self.world.members[LSP].engine.as_ref();
        let Some(engine) = engine.filter(|_| self.renewing.is_some() && self.world.is_owed(LSP)) else {
            return true;
        };
        engine.factories().all(|factory| factory.reclaimable().is_empty())
    }

    /// Clients that stay away until something ends.
    fn draw_stragglers(&mut self) -> Result<(), LabError> {
        for at in 1..self.world.members.len() {
            let Some(known) = self.newest(at) else { continue };
            let (instance, index) = (known.instance, known.client_of(self.world.members[at].id));
            let evicted = index.map_or(0, |index| known.eviction_height(index));
            let timeout = known.current.terms.timeout_height;
            let due = known.is_due(self.world.chain.height());
            let fresh = |renewing: &mut Renewing| renewing.drawn.insert((at, instance));
            if !due || !self.renewing.as_mut().is_some_and(fresh) {
                continue;
            }
            let text = || format!("client {at}");
            let Some(mut dice) = self.roll(Kind::Straggler, text) else { continue };
            let height = self.world.chain.height();
            let back = match dice.below(6) {
                0 => evicted.saturating_sub(1),
                1 | 2 => evicted,
                3 => evicted.saturating_add(1),
                4 => height.saturating_add(dice.below_u32(evicted.saturating_sub(height).max(1))),
                _ => timeout.saturating_add(dice.below_u32(AFTER)),
            };
            if !self.asleep.contains(&at) {
                if back >= evicted {
                    self.falls_asleep(at)?;
                    self.slept.insert(at);
                }
                self.asleep.insert(at);
                self.world.stop(at);
                self.set_renewing(|renewing| renewing.waking.push((at, back)));
            }
        }
        Ok(())
    }

    /// The operator's factory with a client that ends last, of those that came to be.
    fn newest(&self, at: usize) -> Option<&Factory> {
        let engine = self.world.members[LSP].engine.as_ref()?;
        let id = self.world.members[at].id;
        let with = engine.factories().filter(|factory| factory.client_of(id).is_some());
        let came = with.filter(|factory| factory.funding_height().is_some());
        came.max_by_key(|factory| factory.current.terms.timeout_height)
    }

    /// The operator makes a factory for those of its clients that are due and here, sometimes with others.
    fn try_rung(&mut self) -> Result<(), LabError> {
        let all = self.all();
        let up = !self.gone && self.world.members[LSP].engine.is_some();
        let height = self.world.chain.height();
        let creating =
            all.iter().any(|instance| self.world.state(LSP, *instance).is_some_and(State::is_creating));
        let last = self.is_last_moment();
        let drawn = self.dice.one_in(if last { 2 } else { 4 });
        if !up || all.len() >= MOST || !drawn || (creating && !self.dice.one_in(6)) {
            return Ok(());
        }
        let here: Vec<usize> =
            (1..self.world.members.len()).filter(|at| self.world.connected(LSP, *at)).collect();
        let due = |run: &Self, at: usize| run.newest(at).is_none_or(|factory| factory.is_due(height));
        if !last && !here.iter().any(|at| due(self, *at)) {
            return Ok(());
        }
        let mut chosen = vec![];
        for at in here {
            let of = if due(self, at) { self.dice.below(10) > 0 } else { self.dice.one_in(3) };
            if of {
                chosen.push(at);
            }
        }
        self.rung(&chosen)
    }

    /// Whether something is taken back alone at the next blocks, unless a funding takes it before.
    fn is_last_moment(&self) -> bool {
        let (height, lsp) = (self.world.chain.height(), &self.world.members[LSP]);
        let soon = |factory: &Factory| {
            let alone = factory.reclaim_latest().saturating_sub(lsp.config.reclaim_blocks);
            factory.is_reclaimable_whole() && (alone.saturating_sub(3)..alone).contains(&height)
        };
        lsp.engine.as_ref().is_some_and(|engine| engine.factories().any(soon))
    }

    fn rung(&mut self, chosen: &[usize]) -> Result<(), LabError> {
        let Some(renewing) = self.renewing.as_ref().filter(|_| !chosen.is_empty()) else { return Ok(()) };
        let Some(template) = renewing.template.clone() else { return Ok(()) };
        let mut clients = vec![];
        for at in chosen {
            let id = self.world.members[*at].id;
            let had = renewing.capacities.get(&id).copied().unwrap_or(Amount::from_sat(100_000));
            clients.push((id, had));
        }
        for (_, capacity) in &mut clients {
            *capacity += Amount::from_sat(self.dice.next_number() % 30_000);
        }
        let shape = shape(clients.len(), renewing.profile, &self.world.members[LSP].config)?;
        let create = Create { clients, shape, ..template };
        let known = self.all();
        let fed = self.world.feed(LSP, Input::Command(Command::Create(create.clone())))?;
        if let Fed::Done(Err(why)) = &fed
            && why.kind() == RefusalKind::BadParameter
        {
            return Err(error(format!("lab: {why}")));
        }
        // A crash may have come after it was stored.
        let stored = self.world.members[LSP].store.instances().find(|instance| !known.contains(instance));
        if let Some(new) = stored {
            self.before.extend(self.instance.replace(new));
            self.set_renewing(|renewing| renewing.note(&create));
        }
        Ok(())
    }

    /// Right before a block: some come back in it.
    pub(super) fn renewal_block(&mut self) -> Result<(), LabError> {
        let Some(renewing) = &mut self.renewing else { return Ok(()) };
        let next = self.world.chain.height().saturating_add(1);
        let back: Vec<usize> =
            renewing.waking.iter().filter(|(_, height)| *height <= next).map(|(at, _)| *at).collect();
        renewing.waking.retain(|(_, height)| *height > next);
        for at in back {
            self.asleep.remove(&at);
            // In the very block, before or after it.
            if self.dice.one_in(2) && self.world.members[at].engine.is_none() {
                self.world.start(at)?;
                let up = !self.gone && self.world.members[LSP].engine.is_some();
                if up && self.world.members[at].engine.is_some() {
                    self.world.connect(LSP, at)?;
                }
            }
        }
        if self.world.moves_stand() && self.dice.one_in(3) {
            self.world.end_moves();
        }
        Ok(())
    }

    /// What may happen at any moment of a renewal.
    pub(super) fn renewal_tick(&mut self) -> Result<(), LabError> {
        if self.renewing.is_none() {
            return Ok(());
        }
        if self.world.moves_stand() && self.dice.one_in(30) {
            self.world.end_moves();
        }
        if self.dice.one_in(120) {
            self.try_htlc()?;
        }
        // Right where somebody looks whether its channels are empty.
        if let Some(at) = self.world.looks().filter(|_| self.dice.one_in(4)) {
            self.try_payment(LSP, at)?;
        }
        self.go_between();
        if self.dice.one_in(40) {
            self.publish_left();
        }
        Ok(())
    }

    /// The operator is gone for good, once something has moved.
    fn go_between(&mut self) {
        let goes = self.renewing.as_ref().is_some_and(|renewing| renewing.goes);
        let moved = |run: &Self| {
            let clients = run.world.members.iter().skip(1).filter_map(|member| member.engine.as_ref());
            let mut factories = clients.flat_map(|engine| engine.factories());
            factories
                .any(|factory| !factory.has_left() && factory.moves.open().any(|open| open.moved_msat > 0))
        };
        if goes && !self.gone && moved(self) && self.dice.one_in(8) {
            self.gone = true;
            self.world.stop(LSP);
        }
    }

    /// A client that has handed its key over publishes what it still has of the path, one transaction at a time.
    fn publish_left(&mut self) {
        let Some(at) = self.renewing.as_ref().and_then(|renewing| renewing.publishes) else { return };
        let Some(engine) = &self.world.members[at].engine else { return };
        let Some(factory) = engine.factories().find(|factory| factory.has_left()) else { return };
        let Role::Client { index, .. } = factory.current.role else { return };
        let path: Vec<ClientIndex> = factory.current.layout.path(index);
        let txs =
            path.into_iter().filter_map(|coin| factory.signed_tx(SessionId { coin, role: SpendRole::State }));
        for tx in txs.collect::<Vec<_>>() {
            // What isn't taken comes too early, or too late.
            if !self.world.chain.knows(tx.compute_txid()) && self.world.chain.submit(&tx).is_ok() {
                return;
            }
        }
    }
}
