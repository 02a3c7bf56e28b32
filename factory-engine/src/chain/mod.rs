//! The chain: what is watched, what a block means, and what is published when.

use std::borrow::Cow;
use std::collections::HashSet;

use crate::chain::closing::end_unfinished_close;
use crate::chain::ended::leave_with_ended;
use crate::chain::package::path_left_out;
use crate::chain::sales::leave_with_sales;
use crate::engine::Engine;
use crate::io::{Answer, Block, Effect, Level, Refusal};
use crate::memory::Volatile;
use crate::memory::leaving::VolatileLeaving;
use crate::memory::watching::VolatileWatching;
use crate::record::appointment::{Locator, locators};
use crate::record::attempt::Role;
use crate::record::event::{Aborted, Confirmed, Event, ExitStarted, Forgotten, Reorged};
use crate::record::factory::{
    BURIED, Factory, has_matured, is_dead, own_clients, session_name, unspent, wanted_nodes,
};
use crate::record::state::State;
use crate::report::standing::{Sighting, Standing, sighting, standing};
use crate::report::statement::statement;
use crate::step::builder::StepBuilder;
use crate::step::check_channel;
use crate::terms::ClientIndex;
use crate::tx::close::CLOSE;
use crate::tx::layout::{SessionId, SpendRole};
use crate::types::{Height, InstanceId, OutPoint, Transaction};

pub mod channels;
mod closing;
pub mod ended;
pub mod evict;
pub mod handover;
pub mod htlcs;
pub mod package;
pub mod sales;
pub mod stock;

/// Why paths are published when a command said so, as it is stored.
pub const TOLD_TO: &str = "this node was told to";

/// What the chain follower has to look for in every block.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Watched {
    /// A transaction that spends one of these matters.
    pub outpoints: HashSet<OutPoint>,
    /// One that fits one of these, too: somebody whom this node watches for waits for it.
    pub locators: HashSet<Locator>,
}

impl Watched {
    /// Whether a transaction spends one of these outpoints, or is one that an appointment waits for.
    pub fn concerns(&self, tx: &Transaction) -> bool {
        tx.input.iter().any(|input| self.outpoints.contains(&input.previous_output))
            || !self.locators.is_empty()
                && locators(tx.compute_txid()).any(|locator| self.locators.contains(&locator))
    }
}

impl Engine {
    /// Outpoints whose spends the engine has to see: for the follower, before each block.
    pub fn watched(&self) -> Watched {
        let mut watched = Watched::default();
        for factory in self.factories.values() {
            watched.outpoints.extend(watched_by(factory));
        }
        watched.outpoints.extend(self.watching.outpoints());
        watched.locators.extend(self.watching.locators());
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

    pub(crate) fn on_block(&self, step: &mut StepBuilder<'_>, block: &Block) {
        step.height = block.height;
        step.volatile(Volatile::Tip(block.height, block.hash));
        self.watch_block(step, block);
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
                    self.confirm(step, &mut after, tx, spends, block.height);
                }
            }
            self.evict_in_time(step, &mut after);
            leave_with_sales(step, &mut after);
            leave_with_ended(step, &mut after);
            end_unfinished_close(step, &mut after);
            self.publish(step, &after);
            if factory.damage().is_some() {
                // S33: it can be left, and nothing else goes on.
                continue;
            }
            self.client_patience(step, &after);
            self.forget_failed(step, &after);
            self.publish_funding(step, &after);
            self.check_reclaims(step, &after);
            check_again(step, &after);
            self.renew(step, &after);
            self.go_off(step, &after);
            self.look_what_was_paid(step, &after);
            self.go_on(step, &after);
            self.go_on_leaving(step, &after);
            self.go_on_closing(step, &after);
            self.resume_sales(step, &after, None);
            self.end_late_sales(step, &after);
            self.want_credit_back(step, &after);
            self.end_if_dead(step, &after);
        }
    }

    fn confirm(
        &self,
        step: &mut StepBuilder<'_>,
        after: &mut Cow<'_, Factory>,
        tx: &Transaction,
        spends: Vec<OutPoint>,
        height: Height,
    ) {
        let txid = tx.compute_txid();
        channels::close_exited(step, after, txid);
        let foreign = !spends.iter().any(|outpoint| after.session_of(*outpoint, txid).is_some());
        let alone = tx.input.len() == spends.len();
        let pays = (foreign && alone).then(|| tx.output.iter().map(|out| out.value).sum());
        let seen = sighting(after, txid, height, &spends);
        record(step, after, Confirmed { txid, height, spends, pays });
        tell(step, after, &seen);
    }

    pub(crate) fn on_reorg(&self, step: &mut StepBuilder<'_>, height: Height) {
        step.volatile(Volatile::ReorgTip(height));
        step.volatile(Volatile::Watching(VolatileWatching::Reorged(height)));
        step.volatile(Volatile::Leaving(VolatileLeaving::Reorged));
        for factory in self.factories.values() {
            if factory.confirmed.values().any(|confirmed| *confirmed > height) {
                step.log(
                    Level::Unusual,
                    format!(
                        "{}: blocks above {height} were reorganised away; its transactions wait again",
                        factory.instance
                    ),
                );
                step.event(factory.instance, Reorged { height });
            }
        }
    }

    pub(crate) fn exit(&self, step: &mut StepBuilder<'_>, instance: InstanceId) -> Result<Answer, Refusal> {
        let factory = self.factories.get(&instance).ok_or(Refusal::Unknown(instance))?;
        exit_allowed(factory, step.height)?;
        // Whoever's leaf is on chain by somebody else's doing still wants its channel closed.
        // What has been handed over needs no place on chain (S22).
        let stays = |client: &ClientIndex| {
            let gone_over = factory.has_handed_over(*client) && factory.damage().is_none();
            !factory.current.exiting.contains(client) && !gone_over
        };
        let clients: Vec<ClientIndex> = own_clients(factory).filter(stays).collect();
        if !clients.is_empty() {
            self.start_exit(step, factory, clients, TOLD_TO);
        }
        Ok(Answer::Done)
    }

    fn start_exit(
        &self,
        step: &mut StepBuilder<'_>,
        factory: &Factory,
        clients: Vec<ClientIndex>,
        reason: &str,
    ) {
        let mut after = Cow::Borrowed(factory);
        record(step, &mut after, ExitStarted { height: step.height, reason: reason.into(), clients });
        self.publish(step, &after);
        channels::close_confirmed(
            step,
            &after,
            &after.current.exiting.difference(&factory.current.exiting).copied().collect(),
        );
    }

    /// Broadcasts whatever is due: again at every block, until it confirms (S26).
    pub(crate) fn publish(&self, step: &mut StepBuilder<'_>, factory: &Factory) {
        for (what, tx) in due(factory, step.height) {
            step.effect(Effect::Broadcast { instance: factory.instance, what, tx });
        }
        // S33: what was sold of it may be in a record that isn't understood.
        if factory.damage().is_none() {
            self.take_stock(step, factory);
            self.reclaim(step, factory);
        }
    }

    /// S26: whatever could not be sent while the backend was away.
    pub(crate) fn on_backend_back(&self, step: &mut StepBuilder<'_>) {
        for factory in self.factories.values() {
            self.publish(step, factory);
            // S33: that it was given up may be in a record that isn't understood.
            if factory.damage().is_none() {
                self.publish_funding(step, factory);
            }
        }
    }

    /// S25, S26: the funding again at every block that doesn't have it. A reorganisation may have taken
    /// it out of the chain, and lightningd repeats it only until its next restart.
    fn publish_funding(&self, step: &mut StepBuilder<'_>, factory: &Factory) {
        let waits = factory.phase() == State::Funding && factory.funding_height().is_none();
        if waits && factory.current.role == Role::Lsp && !is_dead(factory, step.height) {
            self.send_funding(step, factory);
        }
    }

    /// S25: a conflict with the funding that is buried ends the factory. S12: it is forgotten only when
    /// nothing that we signed can confirm any more.
    fn end_if_dead(&self, step: &mut StepBuilder<'_>, factory: &Factory) {
        let state = factory.state(step.height);
        if state == State::Funding && factory.funding_height().is_none() && is_dead(factory, step.height) {
            for channel_id in factory.current.channels.values() {
                step.effect(Effect::CloseChannel { channel_id: *channel_id, on_chain: false });
            }
            let reason = format!("its funding inputs are spent otherwise, {BURIED} blocks deep");
            step.event(factory.instance, Aborted { reason, height: step.height });
            return;
        }
        // A channel that lightningd may have on it must stay known, so that nothing moves there (S18);
        // at the next start we see whether there is one.
        let may_have_channel = !factory.opens_accepted().is_empty();
        if state != State::Aborted || factory.signed_for().is_empty() || may_have_channel {
            return;
        }
        // S9: that it is exit-only is remembered.
        if is_dead(factory, step.height) && factory.restored().is_none() {
            step.event(
                factory.instance,
                Forgotten { reason: format!("its funding inputs are spent otherwise, {BURIED} blocks deep") },
            );
        }
    }
}

/// Whether there is something to exit from.
///
/// # Errors
/// When this node has handed its key over, when the factory's state has nothing on chain, and for a client without a channel in it: its leaf
/// would be locked up with the operator, while the distribution pays it alone.
pub fn exit_allowed(factory: &Factory, height: Height) -> Result<(), Refusal> {
    if factory.has_left() {
        return Err(Refusal::HasLeft(factory.instance));
    }
    // S33: of a factory whose records aren't all understood nothing is taken back, so that this is its only way.
    if factory.is_handed_over(0) && factory.damage().is_none() {
        return Err(Refusal::AllGoneOver(factory.instance));
    }
    let left_out = path_left_out(factory);
    // S39: nobody but the operator could close what the leaf pays.
    if let Some(lost @ Refusal::ChannelsLost { .. }) = left_out {
        return Err(lost);
    }
    // It pays all of it, sooner, and the path would only be in its way.
    if factory.has_close() {
        return Err(Refusal::Closing(factory.instance));
    }
    // Before its funding is on chain there is nothing that could be locked up.
    if let Some(no_channel) = left_out.filter(|_| factory.funding_height().is_some()) {
        return Err(no_channel);
    }
    match factory.state(height) {
        State::Funding | State::Active | State::Dying | State::Closing | State::Exiting | State::Exited => {
            Ok(())
        }
        state @ (State::Invited
        | State::Joining
        | State::Signing
        | State::Storing
        | State::Opening
        | State::Distributed
        | State::Reclaimed
        | State::Left
        | State::Declined
        | State::Aborted
        | State::Closed) => Err(Refusal::NothingOnChain { instance: factory.instance, state }),
    }
}

/// A client whose channel isn't checked yet asks again: lightningd may have it by now, and an operator
/// that funds without telling must not keep us from using or leaving it.
fn check_again(step: &mut StepBuilder<'_>, factory: &Factory) {
    if factory.phase() == State::Storing
        && let Some((_, check)) = check_channel(factory)
    {
        step.effect(check);
    }
}

/// Outpoints of a factory: of every attempt that we signed for.
fn outpoints(factory: &Factory) -> impl Iterator<Item = OutPoint> {
    let inputs = factory.signed_for().iter().flat_map(|(_, inputs)| inputs.iter().copied());
    let trees = factory.attempts().filter_map(|attempt| attempt.tree.as_ref());
    let sales = factory.current.sales.all().flat_map(|sold| &sold.sale.sessions);
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
fn record(step: &mut StepBuilder<'_>, after: &mut Cow<'_, Factory>, event: impl Into<Event>) {
    let event = event.into();
    let instance = after.instance;
    if let Err(error) = after.to_mut().apply(&event, None) {
        step.log(Level::Broken, format!("{instance}: {error}"));
    }
    step.event(instance, event);
}

/// One line for each transaction that confirmed: what it is, whose, and how we stand now.
fn tell(step: &mut StepBuilder<'_>, after: &Factory, seen: &Sighting) {
    let whose = if seen.ours { "ours" } else { "not published by us" };
    let now = standing(after, step.height).map_or("its funding is not on chain", Standing::words);
    step.log(
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
        step.log(Level::Broken, format!("{}: its account doesn't add up: {problem}", after.instance));
    }
}

/// The transactions that this node should have in the mempool at `height`.
pub fn due(factory: &Factory, height: Height) -> Vec<(String, Transaction)> {
    // S22: who has handed over publishes nothing any more, neither path nor distribution.
    if factory.funding_height().is_none() || factory.has_left() {
        return vec![];
    }
    let mut wanted: Vec<SessionId> = Vec::new();
    let matured = has_matured(factory, height);
    let nodes = wanted_nodes(factory, height).into_iter();
    // A finished close takes the place of everything below, but not of what a client has from the timeout on.
    let close = factory.finished_close().filter(|_| !matured || factory.current.role == Role::Lsp);
    let takes_all = close.is_some();
    let nodes = nodes.filter(|_| !takes_all);
    let close = close.map(|tx| (session_name(factory, CLOSE), tx));
    wanted.extend(nodes.map(|node| SessionId { coin: node, role: SpendRole::State }));
    // A client that is still in takes its distribution: all of its capacity instead of its balance.
    if let (true, Role::Client { index, .. }) = (matured, factory.current.role) {
        // What it bought out of its stock it can't have by a distribution of that stock.
        let bought = factory.own_sales().any(|sold| sold.is_signed());
        let stock = factory.current.layout.stock_coin(index).filter(|_| bought);
        let coins =
            factory.current.layout.client_coins(index).into_iter().filter(|coin| Some(*coin) != stock);
        wanted.extend(coins.map(|coin| SessionId { coin, role: SpendRole::Distribution }));
    }
    let tree = wanted
        .into_iter()
        .filter(|session| is_due(factory, *session, height))
        .filter_map(|session| Some((session_name(factory, session), factory.signed_tx(session)?)));
    close.into_iter().chain(tree).chain(sales::due(factory, matured)).collect()
}

/// Whether a transaction's input exists, is unspent, and its timelocks allow the next block.
fn is_due(factory: &Factory, id: SessionId, height: Height) -> bool {
    let Some(session) = factory.current.tree.as_ref().and_then(|tree| tree.session(id)) else {
        return false;
    };
    let Some(parent) = unspent(factory, session.outpoint) else {
        return false;
    };
    timelocks_allow(&session.tx, parent, height)
}

/// Whether a transaction's timelocks allow it in the block after `height`, if what it spends is in block `parent`
/// (BIP 65, BIP 68).
pub(crate) fn timelocks_allow(tx: &Transaction, parent: Height, height: Height) -> bool {
    let next = height.saturating_add(1);
    let locked = tx.lock_time.to_consensus_u32() >= next;
    let locks = tx.input.iter().filter_map(|input| input.sequence.to_relative_lock_time());
    let early = |lock| {
        matches!(lock, bitcoin::relative::LockTime::Blocks(blocks)
            if next < parent.saturating_add(u32::from(blocks.value())))
    };
    !locked && !locks.into_iter().any(early)
}
