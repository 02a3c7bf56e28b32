//! The chain: what is watched, what a block means, and what is published when.

mod account;
mod channels;
mod evict;
mod handover;
mod sales;
mod stock;
mod story;

use std::borrow::Cow;
use std::collections::{BTreeSet, HashSet};

use crate::terms::ClientIndex;
use crate::tx::layout::{NodeIndex, NodeKind, Role as SpendRole, SessionId};
use crate::types::{Height, InstanceId, OutPoint, Transaction};

use super::Engine;
use super::ceremony::Volatile;
use super::client_signing::check_channel;
use super::draft::Draft;
use super::event::{Aborted, Confirmed, Event, ExitStarted, Forgotten, Reorged};
use super::factory::{Factory, Role, own_clients};
use super::io::{Answer, Block, Effect, Level, Refusal};
use super::state::State;

pub use account::{AccountProblem, Line, Purpose, Statement, statement};
pub use channels::OwnChannel;
pub use evict::{Eviction, evictable, eviction};
pub use story::{NextAction, Sighting, Standing, sightings, standing};

pub(super) use channels::close_again;
pub(super) use sales::wanted_sales;

use sales::leave_with_sales;

/// Confirmations after which a transaction is taken to stay (S12).
pub const BURIED: u32 = 100;

/// Why paths are published when a command said so, as it is stored.
pub const TOLD_TO: &str = "this node was told to";

/// What the chain follower has to look for in every block.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Watched {
    /// A transaction that spends one of these matters.
    pub outpoints: HashSet<OutPoint>,
}

impl Watched {
    /// Whether a transaction matters.
    pub fn concerns(&self, tx: &Transaction) -> bool {
        tx.input.iter().any(|input| self.outpoints.contains(&input.previous_output))
    }
}

impl Engine {
    /// What matters in a block.
    pub fn watched(&self) -> Watched {
        let mut watched = Watched::default();
        for factory in self.factories.values() {
            watched.outpoints.extend(watched_by(factory));
        }
        watched
    }

    /// The lowest height that a scan after a restart must begin at; nothing if nothing is watched.
    pub fn scan_from(&self) -> Option<Height> {
        self.factories.values().filter_map(|factory| factory.birth).min()
    }

    /// The highest block that something of a factory confirmed in.
    pub fn confirmed_to(&self) -> Option<Height> {
        self.factories.values().flat_map(|factory| factory.confirmed.values().copied()).max()
    }

    pub(super) fn on_block(&self, d: &mut Draft<'_>, block: &Block) {
        d.height = block.height;
        d.volatile(Volatile::Tip(block.height, block.hash));
        for factory in self.factories.values() {
            // The factory as it will be once this block is stored.
            let mut after = Cow::Borrowed(factory);
            for tx in &block.txs {
                let spends: Vec<OutPoint> = tx
                    .input
                    .iter()
                    .map(|input| input.previous_output)
                    .filter(|o| watches(&after, *o))
                    .collect();
                if !spends.is_empty() {
                    self.confirm(d, &mut after, tx, spends, block.height);
                }
            }
            self.evict_in_time(d, &mut after);
            leave_with_sales(d, &mut after);
            self.publish(d, &after);
            self.client_patience(d, &after);
            self.publish_funding(d, &after);
            check_again(d, &after);
            self.resume_sales(d, &after, None);
            self.end_if_dead(d, &after);
        }
    }

    fn confirm(
        &self,
        d: &mut Draft<'_>,
        after: &mut Cow<'_, Factory>,
        tx: &Transaction,
        spends: Vec<OutPoint>,
        height: Height,
    ) {
        let txid = tx.compute_txid();
        channels::close_exited(d, after, txid);
        let foreign = !spends.iter().any(|outpoint| after.session_of(*outpoint, txid).is_some());
        let pays = (foreign && tx.input.len() == 1).then(|| tx.output.iter().map(|out| out.value).sum());
        let seen = story::sighting(after, txid, height, &spends);
        record(d, after, Confirmed { txid, height, spends, pays });
        tell(d, after, &seen);
    }

    pub(super) fn on_reorg(&self, d: &mut Draft<'_>, height: Height) {
        d.volatile(Volatile::ReorgTip(height));
        for factory in self.factories.values() {
            if factory.confirmed.values().any(|confirmed| *confirmed > height) {
                d.log(
                    Level::Unusual,
                    format!(
                        "{}: blocks above {height} were reorganised away; its transactions wait again",
                        factory.instance
                    ),
                );
                d.event(factory.instance, Reorged { height });
            }
        }
    }

    pub(super) fn exit(&self, d: &mut Draft<'_>, instance: InstanceId) -> Result<Answer, Refusal> {
        let factory = self.factories.get(&instance).ok_or(Refusal::Unknown(instance))?;
        exit_allowed(factory, d.height)?;
        // Whoever's leaf is on chain by somebody else's doing still wants its channel closed.
        let clients: Vec<ClientIndex> =
            own_clients(factory).filter(|client| !factory.exiting.contains(client)).collect();
        if !clients.is_empty() {
            self.start_exit(d, factory, clients, TOLD_TO);
        }
        Ok(Answer::Done)
    }

    fn start_exit(&self, d: &mut Draft<'_>, factory: &Factory, clients: Vec<ClientIndex>, reason: &str) {
        let mut after = Cow::Borrowed(factory);
        record(d, &mut after, ExitStarted { height: d.height, reason: reason.into(), clients });
        self.publish(d, &after);
        channels::close_confirmed(d, &after, &after.exiting.difference(&factory.exiting).copied().collect());
    }

    /// Broadcasts whatever is due: again at every block, until it confirms (S26).
    pub(super) fn publish(&self, d: &mut Draft<'_>, factory: &Factory) {
        for (what, tx) in due(factory, d.height) {
            d.effect(Effect::Broadcast { instance: factory.instance, what, tx });
        }
        self.take_stock(d, factory);
    }

    /// S25, S26: the funding again at every block that doesn't have it. A reorganisation may have taken
    /// it out of the chain, and lightningd repeats it only until its next restart.
    fn publish_funding(&self, d: &mut Draft<'_>, factory: &Factory) {
        let waits = factory.phase() == State::Funding && factory.funding_height().is_none();
        if waits && factory.role == Role::Lsp && !is_dead(factory, d.height) {
            self.send_funding(d, factory);
        }
    }

    /// S25: a conflict with the funding that is buried ends the factory. S12: it is forgotten only when
    /// nothing that we signed can confirm any more.
    fn end_if_dead(&self, d: &mut Draft<'_>, factory: &Factory) {
        let state = factory.state(d.height);
        if state == State::Funding && factory.funding_height().is_none() && is_dead(factory, d.height) {
            for channel_id in factory.channels.values() {
                d.effect(Effect::CloseChannel { channel_id: *channel_id });
            }
            let reason = format!("its funding inputs are spent otherwise, {BURIED} blocks deep");
            d.event(factory.instance, Aborted { reason });
            return;
        }
        // A channel that lightningd may have on it must stay known, so that nothing moves there (S18);
        // at the next start we see whether there is one.
        let may_have_channel = !factory.opens_accepted().is_empty();
        if state != State::Aborted || factory.signed_for().is_empty() || may_have_channel {
            return;
        }
        if is_dead(factory, d.height) {
            d.event(
                factory.instance,
                Forgotten { reason: format!("its funding inputs are spent otherwise, {BURIED} blocks deep") },
            );
        }
    }
}

/// Whether there is something to exit from.
///
/// # Errors
/// When the factory's state has nothing on chain, and for a client without a channel in it: its leaf
/// would be locked up with the operator, while the distribution pays it alone.
pub fn exit_allowed(factory: &Factory, height: Height) -> Result<(), Refusal> {
    if let Role::Client { index, .. } = factory.role
        && factory.funding_height().is_some()
        && !factory.checked.contains(&index)
    {
        let (instance, timeout) = (factory.instance, factory.terms.timeout_height);
        return Err(Refusal::NoChannelToExit { instance, timeout });
    }
    match factory.state(height) {
        State::Funding | State::Active | State::Dying | State::Exiting | State::Exited => Ok(()),
        state => Err(Refusal::NothingOnChain { instance: factory.instance, state }),
    }
}

/// A client whose channel isn't checked yet asks again: lightningd may have it by now, and an operator
/// that funds without telling must not keep us from using or leaving it.
fn check_again(d: &mut Draft<'_>, factory: &Factory) {
    if factory.phase() == State::Storing
        && let Some((_, check)) = check_channel(factory)
    {
        d.effect(check);
    }
}

/// Whether every funding transaction that we signed for conflicts with one that is buried (S12).
pub(super) fn is_dead(factory: &Factory, height: Height) -> bool {
    factory.signed_for().iter().all(|(funding, inputs)| {
        inputs.iter().any(|input| {
            factory.spent.get(input).is_some_and(|spender| {
                spender != funding
                    && factory
                        .confirmed
                        .get(spender)
                        .is_some_and(|at| height.saturating_sub(*at).saturating_add(1) >= BURIED)
            })
        })
    })
}

/// Outpoints of a factory: of every attempt that we signed for.
fn outpoints(factory: &Factory) -> impl Iterator<Item = OutPoint> {
    let inputs = factory.signed_for().iter().flat_map(|(_, inputs)| inputs.iter().copied());
    let trees = factory.past().iter().chain([factory]).filter_map(|attempt| attempt.tree.as_ref());
    let sales = factory.sales.all().flat_map(|sold| &sold.sale.sessions);
    inputs
        .chain(trees.flat_map(|tree| tree.sessions().iter().map(|session| session.outpoint)))
        .chain(sales.map(|session| session.outpoint))
}

fn watched_by(factory: &Factory) -> impl Iterator<Item = OutPoint> {
    outpoints(factory).filter(|outpoint| !factory.spent.contains_key(outpoint))
}

fn watches(factory: &Factory, outpoint: OutPoint) -> bool {
    !factory.spent.contains_key(&outpoint) && outpoints(factory).any(|other| other == outpoint)
}

/// A durable change, made to the factory as it will be at once.
fn record(d: &mut Draft<'_>, after: &mut Cow<'_, Factory>, event: impl Into<Event>) {
    let event = event.into();
    let instance = after.instance;
    if let Err(error) = after.to_mut().apply(&event, None) {
        d.log(Level::Broken, format!("{instance}: {error}"));
    }
    d.event(instance, event);
}

/// One line for each transaction that confirmed: what it is, whose, and how we stand now.
fn tell(d: &mut Draft<'_>, after: &Factory, seen: &Sighting) {
    let whose = if seen.ours { "ours" } else { "not published by us" };
    let now = standing(after, d.height).map_or("its funding is not on chain", Standing::words);
    d.log(
        Level::Info,
        format!(
            "{}: {} {} confirmed at height {} ({whose}; held by {}): {now}",
            after.instance,
            seen.name,
            seen.txid,
            seen.height,
            seen.holders()
        ),
    );
    if let Some(problem) = statement(after).and_then(|statement| statement.problem) {
        d.log(Level::Broken, format!("{}: its account doesn't add up: {problem}", after.instance));
    }
}

/// A session's name, for people: "static transaction 2", "distribution of coin 0".
pub fn name(factory: &Factory, id: SessionId) -> String {
    match (id.role, factory.layout.node(id.coin).map(|node| node.kind)) {
        (SpendRole::State, Some(NodeKind::Static)) => format!("static transaction {}", id.coin),
        (SpendRole::State, Some(NodeKind::Kickoff)) => format!("kickoff transaction {}", id.coin),
        (SpendRole::State, Some(NodeKind::State) | None) => format!("state transaction {}", id.coin),
        (SpendRole::Distribution | SpendRole::Sale | SpendRole::Poison | SpendRole::Close, _) => {
            format!("{} of coin {}", id.role.name(), id.coin)
        }
    }
}

/// The transactions that this node should have in the mempool at `height`.
pub fn due(factory: &Factory, height: Height) -> Vec<(String, Transaction)> {
    if factory.funding_height().is_none() {
        return vec![];
    }
    let mut wanted: Vec<SessionId> = Vec::new();
    let matured = height >= factory.terms.timeout_height;
    if !(matured && factory.role != Role::Lsp) {
        wanted.extend(
            path_nodes(factory).into_iter().map(|node| SessionId { coin: node, role: SpendRole::State }),
        );
    }
    // A client that is still in takes its distribution: all of its capacity instead of its balance.
    if let (true, Role::Client { index, .. }) = (matured, factory.role) {
        // What it bought out of its stock it can't have by a distribution of that stock.
        let bought = factory.own_sales().any(|sold| sold.is_signed());
        let stock = factory.layout.stock_coin(index).filter(|_| bought);
        let coins = factory.layout.client_coins(index).into_iter().filter(|coin| Some(*coin) != stock);
        wanted.extend(coins.map(|coin| SessionId { coin, role: SpendRole::Distribution }));
    }
    let tree = wanted
        .into_iter()
        .filter(|session| is_due(factory, *session, height))
        .filter_map(|session| Some((name(factory, session), factory.signed_tx(session)?)));
    tree.chain(sales::due(factory, matured)).collect()
}

fn path_nodes(factory: &Factory) -> BTreeSet<NodeIndex> {
    let leaving = factory.exiting.iter().chain(&factory.evicting);
    leaving.flat_map(|client| factory.layout.path(*client)).collect()
}

/// Whether a transaction's input exists, is unspent, and its timelocks allow the next block.
fn is_due(factory: &Factory, id: SessionId, height: Height) -> bool {
    let Some(session) = factory.tree.as_ref().and_then(|tree| tree.session(id)) else {
        return false;
    };
    let Some(parent) = unspent(factory, session.outpoint) else {
        return false;
    };
    let next = height.saturating_add(1);
    let locked = session.tx.lock_time.to_consensus_u32() >= next;
    let sequence = session.tx.input.first().map(|input| input.sequence);
    let early = sequence.and_then(|sequence| sequence.to_relative_lock_time()).is_some_and(|lock| {
        matches!(lock, bitcoin::relative::LockTime::Blocks(blocks)
            if next < parent.saturating_add(u32::from(blocks.value())))
    });
    !locked && !early
}

/// The height at which an outpoint of the factory confirmed, if nothing has spent it.
fn unspent(factory: &Factory, outpoint: OutPoint) -> Option<Height> {
    let spent = factory.spent.contains_key(&outpoint);
    factory.confirmed.get(&outpoint.txid).copied().filter(|_| !spent)
}
