//! L: a schedule by which factories follow on those that end (`factory-ladder`). At each block, and when a client
//! connects, it is derived who is due and whether a rung begins now (`decide`); nothing of that is stored but the
//! schedule itself, and of each factory that it was a rung's. So a restart, or a crash in the middle of a rung, goes
//! on where it was.
//!
//! A rung is an ordinary `factory-create`: its clients accept it by themselves if its terms are no worse than before,
//! move, and hand their keys over; what has come back by then is an input of its funding.

pub mod decide;
pub mod plan;
mod wake;

use std::collections::BTreeMap;

use crate::engine::Engine;
use crate::io::{Answer, ChannelBalance, Create, Effect, Level, Refusal};
use crate::memory::Volatile;
use crate::memory::climbing::VolatileClimbing;
use crate::policy::Bounds;
use crate::policy::ladder::{Ladder, Rung};
use crate::record::attempt::Role;
use crate::record::event;
use crate::record::factory::Factory;
use crate::record::state::State;
use crate::report::counting::counted;
use crate::step::builder::StepBuilder;
use crate::terms::ClientIndex;
use crate::tx::plan::{Delays, Profile, shape_with};
use crate::types::{Amount, Height, Millis, NodeId};

use self::decide::{Decision, Due, Made, Wait, decide};
use self::plan::Group;

/// Blocks that a renewal takes from the beginning of a rung: its funding confirms, is six deep, keys are handed over.
pub const RENEWAL_BLOCKS: u32 = 18;

/// Milliseconds after somebody connected before it is looked who is here: others may come with it.
const GATHER: Millis = 1_000;

/// Blocks after which a factory that could not even be begun is tried again.
const REFUSED_BLOCKS: u32 = 6;

/// How a ladder stands.
#[derive(Debug, Clone)]
pub struct LadderStanding {
    /// The rung that is open; nothing before the first, or without a ladder.
    pub rung: Option<Rung>,
    /// Who is due and has no place in a later factory.
    pub due: Vec<Due>,
    /// What has come of this rung.
    pub made: Made,
    /// What is done at the next block if nothing changes.
    pub decision: Decision,
    /// Why a factory could not be begun, the last time, and the height then.
    pub refused: Option<(Height, String)>,
}

impl Engine {
    /// The schedule, if there is one.
    pub fn ladder(&self) -> Option<Ladder> {
        self.config.ladder
    }

    /// The schedule from now on. The plugin keeps it in the datastore before it says it here.
    pub fn set_ladder(&mut self, ladder: Option<Ladder>) {
        self.next_generation();
        self.config.ladder = ladder;
    }

    /// How the ladder stands.
    pub fn ladder_standing(&self, height: Height, now: Millis) -> LadderStanding {
        let ladder = self.config.ladder;
        let rung = ladder.and_then(|ladder| ladder.rung_at(height));
        let due = ladder.map_or_else(Vec::new, |ladder| self.due_clients(&ladder, height, now));
        let made = rung.map_or_else(Made::default, |rung| self.made(rung));
        let decision = decide(ladder.as_ref(), height, made, &due, self.is_settled(height));
        LadderStanding { rung, due, made, decision, refused: self.climbing.refused.clone() }
    }

    /// Clients that connect come one after the other: right after a start nobody is taken for away.
    fn is_settled(&self, height: Height) -> bool {
        self.open_since.is_some_and(|since| height > since)
    }

    /// Somebody has connected: soon it is looked whether enough are there.
    pub(crate) fn climb_soon(&self, step: &mut StepBuilder<'_>) {
        if self.config.ladder.is_some_and(|ladder| !ladder.paused) {
            let at = step.now.saturating_add(GATHER);
            step.volatile(Volatile::Climbing(VolatileClimbing::LookAt(Some(at))));
        }
    }

    /// Time went by.
    pub(crate) fn climb_tick(&self, step: &mut StepBuilder<'_>) {
        if self.climbing.look_at.is_some_and(|at| at <= step.now) {
            step.volatile(Volatile::Climbing(VolatileClimbing::LookAt(None)));
            self.climb(step);
        }
    }

    /// At each block, and soon after somebody connected: whether a rung begins now.
    pub(crate) fn climb(&self, step: &mut StepBuilder<'_>) {
        let Some(ladder) = self.config.ladder.filter(|ladder| !ladder.paused) else { return };
        // As long as a start hasn't handled the last block nobody is connected.
        if self.open_since.is_none() {
            return;
        }
        let Some(rung) = ladder.rung_at(step.height) else { return };
        let due = self.due_clients(&ladder, step.height, step.now);
        let settled = self.is_settled(step.height);
        // Capacities follow from what clients have: that is asked for in the block before, or now.
        let asked = self.climbing.asked.is_some_and(|asked| step.height <= asked.saturating_add(1));
        match decide(Some(&ladder), step.height, self.made(rung), &due, settled) {
            Decision::Begin(clients) if asked => self.begin_rung(step, &ladder, rung, &due, &clients),
            Decision::Begin(_) => {
                look_at_balances(step, &ladder, &due);
                self.climb_soon(step);
            }
            Decision::Wait(wait) => {
                look_at_balances(step, &ladder, &due);
                // Once a rung, where somebody may have waited for it.
                if step.height == rung.latest && matches!(wait, Wait::Few { .. } | Wait::TooFew { .. }) {
                    step.log(Level::Info, format!("rung {}: {wait}", rung.number));
                }
            }
        }
    }

    fn begin_rung(
        &self,
        step: &mut StepBuilder<'_>,
        ladder: &Ladder,
        rung: Rung,
        due: &[Due],
        clients: &[Due],
    ) {
        let waits = |(at, _): &(Height, String)| step.height < at.saturating_add(REFUSED_BLOCKS);
        if self.climbing.refused.as_ref().is_some_and(waits) {
            return;
        }
        let is_due = |due: &&Due| due.here && step.height <= due.last && !due.was_evicted();
        let here = due.iter().filter(is_due).count();
        let more = clients.iter().filter(is_due).count() < here;
        let created = self.rung_create(ladder, clients).and_then(|create| self.create(step, &create));
        match created {
            Ok(Answer::Created(instance)) => {
                step.event(instance, event::Rung { number: rung.number, opens: rung.opens, more });
                step.volatile(Volatile::Climbing(VolatileClimbing::Refused(None)));
                let (of, clients) = (counted(due.len(), "due client"), counted(clients.len(), "client"));
                step.log(
                    Level::Info,
                    format!("{instance}: rung {}: begun with {clients} of {of}", rung.number),
                );
            }
            Ok(_) => {}
            Err(why) => {
                step.log(
                    Level::Unusual,
                    format!("rung {}: no factory for those that are due: {why}", rung.number),
                );
                let refused = Some((step.height, why.to_string()));
                step.volatile(Volatile::Climbing(VolatileClimbing::Refused(refused)));
            }
        }
    }

    /// What `factory-create` is asked for: the same as an operator would.
    fn rung_create(&self, ladder: &Ladder, clients: &[Due]) -> Result<Create, Refusal> {
        let instances = clients.iter().map(|due| due.instance);
        let old = instances.filter_map(|instance| self.factories.get(&instance));
        let before = old.map(|factory| factory.current.terms.tree_feerate).max().unwrap_or(0);
        let clients: Vec<(NodeId, Amount)> = clients.iter().map(|due| (due.node, due.next)).collect();
        let tree_feerate = ladder.tree_feerate.unwrap_or_else(|| self.rung_feerate(before));
        rung_of(ladder, &self.delays(), clients, tree_feerate)
    }

    /// What a tree pays by itself: what clients with default bounds take (S32) and a quarter more, and no less than the
    /// one before, unless fees have fallen meanwhile.
    pub fn rung_feerate(&self, before: u32) -> u32 {
        let known = self.known_fees();
        let least = Bounds::default().least_feerate(known).0;
        let before = if known.estimate == 0 {
            before
        } else {
            before.min(known.estimate.saturating_add(known.estimate / 4))
        };
        least.saturating_add(least / 4).max(LEAST_FEERATE).max(before)
    }

    /// L's delays, as its settings have them.
    pub fn delays(&self) -> Delays {
        Delays {
            state_step: self.config.state_step,
            state_count: self.config.state_count,
            confirm_blocks: self.config.confirm_blocks,
            margin_blocks: self.config.margin_blocks,
        }
    }

    /// What has come of a rung.
    fn made(&self, rung: Rung) -> Made {
        let mut made = Made::default();
        let mut all_here = false;
        for factory in self.whole() {
            let Some(of) = factory.rung else { continue };
            made.under_way |= self.lsp.contains_key(&factory.instance);
            if of.opens != rung.opens {
                continue;
            }
            if factory.failure().is_some() {
                made.failed = made.failed.saturating_add(1);
                made.failed_at = made.failed_at.max(factory.current.ended_at.unwrap_or(0));
            } else {
                made.factories = made.factories.saturating_add(1);
                all_here |= !of.more;
            }
        }
        made.more = !all_here;
        made
    }

    /// The last timeout of each client's factories: those that live and that it is in, and those that are created.
    fn places(&self, height: Height) -> BTreeMap<NodeId, Height> {
        let mut places = BTreeMap::new();
        for factory in self.whole().filter(|factory| factory.current.role == Role::Lsp) {
            let state = factory.state(height);
            let creating = self.lsp.contains_key(&factory.instance) || state == State::Funding;
            if !creating && !matches!(state, State::Active | State::Dying) {
                continue;
            }
            for (client, node) in (0..).zip(&factory.current.clients) {
                if is_in(factory, client) {
                    let last: &mut Height = places.entry(*node).or_default();
                    *last = (*last).max(factory.current.terms.timeout_height);
                }
            }
        }
        places
    }

    /// Clients that are due and have no place in a later factory, by factory and in leaf order.
    fn due_clients(&self, ladder: &Ladder, height: Height, now: Millis) -> Vec<Due> {
        let is_due = |factory: &&Factory| {
            factory.current.role == Role::Lsp && factory.restored().is_none() && factory.is_due(height)
        };
        let dying: Vec<&Factory> = self.whole().filter(is_due).collect();
        // Where renewals have a price an eviction isn't a way around it: such a client is the operator's to invite.
        let free = self.config.prices.renewal_msat(Amount::MAX_MONEY) == 0 && !self.prices_unknown;
        let evicted: Vec<(&Factory, ClientIndex, NodeId)> =
            self.evicted_who_are_here(now).filter(|_| free).collect();
        if dying.is_empty() && evicted.is_empty() {
            return vec![];
        }
        let (places, purses) = (self.places(height), self.purses(height));
        let mut due: Vec<Due> = vec![];
        for factory in dying {
            let timeout = factory.current.terms.timeout_height;
            for (client, node) in (0..).zip(&factory.current.clients) {
                let by = factory.eviction_height(client);
                let placed = places.get(node).is_none_or(|last| *last > timeout);
                if !is_in(factory, client)
                    || height >= by
                    || placed
                    || due.iter().any(|due| due.node == *node)
                {
                    continue;
                }
                due.push(Due {
                    node: *node,
                    instance: factory.instance,
                    by,
                    last: by.saturating_sub(RENEWAL_BLOCKS),
                    here: self.may_be_invited(*node, now),
                    next: next_capacity(ladder, purses.get(node)),
                });
            }
        }
        for (factory, client, node) in evicted {
            if places.contains_key(&node) || due.iter().any(|due| due.node == node) {
                continue;
            }
            let mut purse = Purse { before: factory.capacity(client), ..Purse::default() };
            for channel in factory.own_channels().filter(|channel| channel.client == client) {
                purse.take(channel.capacity, self.balances.of(channel.channel_id));
            }
            let next = next_capacity(ladder, Some(&purse));
            let never = Height::MAX;
            due.push(Due { node, instance: factory.instance, by: never, last: never, here: true, next });
        }
        due
    }

    fn may_be_invited(&self, node: NodeId, now: Millis) -> bool {
        self.peers.contains(&node) && self.offences.wait(node, now).is_none()
    }

    /// Clients that were evicted, or whose neighbours were: their channel is on chain, where it goes on, and they are
    /// connected. Their next factory takes it in. A ladder asks each once: who was left out of one of its factories since
    /// isn't asked again by itself.
    fn evicted_who_are_here(&self, now: Millis) -> impl Iterator<Item = (&Factory, ClientIndex, NodeId)> {
        let operated = || self.whole().filter(|factory| factory.current.role == Role::Lsp);
        let all = operated().filter(|factory| factory.restored().is_none()).flat_map(|factory| {
            let clients = (0..).zip(factory.current.clients.iter().copied());
            let clients = clients.filter(|(client, _)| lives_on_chain(factory, *client));
            clients.map(move |(client, node)| (factory, client, node))
        });
        all.filter(move |(factory, client, node)| {
            let out = factory.leaf_height(*client).unwrap_or(0);
            let asked = || operated().any(|rung| rung.rung.is_some() && was_left_out(rung, *node, out));
            self.may_be_invited(*node, now) && !asked()
        })
    }

    /// What each client has in factories of this node that it is in.
    fn purses(&self, height: Height) -> BTreeMap<NodeId, Purse> {
        let mut purses: BTreeMap<NodeId, Purse> = BTreeMap::new();
        for factory in self.whole().filter(|factory| factory.current.role == Role::Lsp) {
            if factory.funding_height().is_none() || height >= factory.current.terms.timeout_height {
                continue;
            }
            for (client, node) in (0..).zip(&factory.current.clients) {
                if is_in(factory, client) {
                    let purse = purses.entry(*node).or_default();
                    purse.before = purse.before.max(factory.capacity(client));
                }
            }
            for channel in factory.own_channels().filter(|channel| is_in(factory, channel.client)) {
                let Some(node) = factory.node_of(channel.client) else { continue };
                purses.entry(node).or_default().take(channel.capacity, self.balances.of(channel.channel_id));
            }
        }
        purses
    }

    /// The factories of this node that live, each with the clients that have no place in a later one, for a preview.
    pub fn ladder_groups(&self, ladder: &Ladder, height: Height) -> Vec<Group> {
        let (places, purses) = (self.places(height), self.purses(height));
        let lives = |factory: &&Factory| {
            factory.current.role == Role::Lsp
                && factory.restored().is_none()
                && factory.funding_height().is_some()
                && matches!(factory.state(height), State::Funding | State::Active | State::Dying)
        };
        let group = |factory: &Factory| {
            let timeout = factory.current.terms.timeout_height;
            let members = (0..).zip(&factory.current.clients).filter(|(client, node)| {
                is_in(factory, *client) && places.get(node).is_some_and(|last| *last == timeout)
            });
            let next =
                |(client, node): (ClientIndex, &NodeId)| (client, next_capacity(ladder, purses.get(node)));
            Group { layout: factory.current.layout.clone(), members: members.map(next).collect() }
        };
        self.whole().filter(lives).map(group).collect()
    }
}

/// What a client has over all of its channels with this node in factories.
#[derive(Default)]
struct Purse {
    /// Its largest channel that a factory was created with.
    before: Amount,
    /// Capacity of all.
    all: Amount,
    /// What it has in those that are known, msat.
    has_msat: u64,
    /// Whether there is one of which that isn't known.
    unknown: bool,
}

impl Purse {
    /// One more channel, and what this node has in it as far as that is known.
    fn take(&mut self, capacity: Amount, known: Option<&ChannelBalance>) {
        let has_msat = known.map(|known| msat(capacity).saturating_sub(known.to_us_msat));
        self.all = self.all.checked_add(capacity).unwrap_or(Amount::MAX_MONEY);
        self.has_msat = self.has_msat.saturating_add(has_msat.unwrap_or(0));
        self.unknown |= has_msat.is_none();
    }
}

/// A client's next channel takes whatever it has.
fn next_capacity(ladder: &Ladder, purse: Option<&Purse>) -> Amount {
    match purse {
        // It may have all of it.
        Some(purse) if purse.unknown => purse.before.max(purse.all.min(ladder.max_capacity)),
        Some(purse) => ladder.next_capacity(purse.before, purse.has_msat),
        None => ladder.next_capacity(Amount::ZERO, 0),
    }
}

/// Asks lightningd what those who are here have: no more of them than one factory takes.
fn look_at_balances(step: &mut StepBuilder<'_>, ladder: &Ladder, due: &[Due]) {
    let most = usize::try_from(ladder.largest).unwrap_or(usize::MAX);
    let mut here = due.iter().filter(|due| due.here).take(most).peekable();
    if here.peek().is_some() {
        step.volatile(Volatile::Climbing(VolatileClimbing::Asked(step.height)));
    }
    for due in here {
        step.effect(Effect::ReadBalances { peer: due.node });
    }
}

/// The least default feerate of a tree, sat/kw: twice what relays at all.
const LEAST_FEERATE: u32 = 500;

/// A rung's factory, as `factory-create` takes it.
///
/// # Errors
/// When there is no shape for so many clients.
pub fn rung_of(
    ladder: &Ladder,
    delays: &Delays,
    clients: Vec<(NodeId, Amount)>,
    tree_feerate: u32,
) -> Result<Create, Refusal> {
    let count = u32::try_from(clients.len()).unwrap_or(u32::MAX);
    let shape =
        shape_with(count, Profile::Static, *delays).map_err(|error| Refusal::NoShape(error.to_string()))?;
    Ok(Create {
        clients,
        stock: ladder.stock,
        shape,
        lifetime_blocks: ladder.lifetime_blocks,
        dying_blocks: ladder.dying_blocks,
        tree_feerate,
        push_msat: None,
    })
}

/// Whether a client has something in a factory that it should take with it: nobody evicts it, it hasn't left, and
/// its channel isn't on chain.
fn is_in(factory: &Factory, client: ClientIndex) -> bool {
    !factory.has_handed_over(client)
        && !factory.is_leaving(client)
        && factory.current.ended_of(client).is_none()
}

/// Whether a client has its channel on chain, where it goes on.
fn lives_on_chain(factory: &Factory, client: ClientIndex) -> bool {
    factory.leaf_height(client).is_some()
        && !factory.has_handed_over(client)
        && !factory.current.exiting.contains(&client)
        && !factory.current.resolved.contains(&client)
        && factory.current.ended_of(client).is_none()
}

/// Whether a client didn't join a factory that was made after `since`.
fn was_left_out(factory: &Factory, node: NodeId, since: Height) -> bool {
    let made = factory.current.ended_at.or(factory.funding_height());
    let alone = factory.failure().is_some() && factory.current.clients == [node];
    let out = alone || factory.left_out.iter().any(|(who, _)| *who == node);
    out && made.is_none_or(|height| height >= since)
}

fn msat(amount: Amount) -> u64 {
    amount.to_sat().saturating_mul(1_000)
}
