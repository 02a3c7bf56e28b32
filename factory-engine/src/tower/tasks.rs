//! What a client would publish if it were awake, and what makes it due: what a tower publishes in its place. The client's
//! own rules, in `chain` (`due`) and `chain/sales`, are the same.

use std::collections::BTreeMap;

use crate::chain::sales::wanted_sales;
use crate::record::appointment::Task;
use crate::record::attempt::{Attempt, Role};
use crate::record::factory::Factory;
use crate::terms::ClientIndex;
use crate::tx::layout::{CoinIndex, SessionId, SpendRole};
use crate::types::{Height, Transaction, Txid};

/// Transactions by what makes them due: the transaction that they spend an output of.
#[derive(Default)]
struct Tasks(BTreeMap<Txid, Vec<Task>>);

impl Tasks {
    /// `from` is the height at which the client would publish it: it may be in the next block then.
    fn add(&mut self, trigger: Option<Txid>, from: Height, tx: Option<Transaction>) {
        if let (Some(trigger), Some(tx)) = (trigger, tx) {
            let not_before = if from > 0 { from.saturating_add(1) } else { 0 };
            self.0.entry(trigger).or_default().push(Task { not_before, tx });
        }
    }

    fn add_node(&mut self, attempt: &Attempt, from: Height, coin: CoinIndex, role: SpendRole) {
        let id = SessionId { coin, role };
        let session = attempt.tree.as_ref().and_then(|tree| tree.session(id));
        self.add(session.map(|session| session.outpoint.txid), from, attempt.signed_tx(id));
    }

    /// From the timeout on: distributions, and the path where a coin has none, which is all that leads to those below.
    fn add_end(&mut self, attempt: &Attempt, index: ClientIndex, without: Option<CoinIndex>) {
        let layout = &attempt.layout;
        for coin in layout.client_coins(index).into_iter().filter(|coin| Some(*coin) != without) {
            self.add_node(attempt, 0, coin, SpendRole::Distribution);
        }
        let has_none = |coin: &CoinIndex| !layout.coin(*coin).is_some_and(|coin| coin.has_distribution);
        for coin in layout.path(index).into_iter().filter(has_none) {
            self.add_node(attempt, attempt.terms.timeout_height, coin, SpendRole::State);
        }
    }
}

/// What a client has a tower publish for it; nothing of an operator's, or of whoever has left (S22).
pub(crate) fn tasks(factory: &Factory) -> BTreeMap<Txid, Vec<Task>> {
    let mut tasks = Tasks::default();
    if factory.has_left() || !factory.is_bound() {
        return tasks.0;
    }
    // One that was given up may still be funded.
    for past in factory.past() {
        if let Role::Client { index, .. } = past.role {
            tasks.add_end(past, index, None);
        }
    }
    let (current, Role::Client { index, .. }) = (&factory.current, factory.current.role) else {
        return tasks.0;
    };
    let close = factory.finished_close();
    let last = factory.own_sales().filter(|sold| sold.is_signed()).map(|sold| sold.sale.number).max();
    // Whoever has lost its channels could close none on chain (S39).
    if close.is_none() && !factory.has_lost_channels() {
        // Whoever leaves goes on, whoever has bought leaves before the timeout (S19): distributions know nothing of sales.
        let early = last.map(|number| u32::from(factory.sale_blocks_early(index, number)));
        let by = early.map(|early| current.terms.timeout_height.saturating_sub(early));
        let from = if current.exiting.contains(&index) { Some(0) } else { by };
        for coin in from.into_iter().flat_map(|_| current.layout.path(index)) {
            tasks.add_node(current, from.unwrap_or(0), coin, SpendRole::State);
        }
    }
    if let Some(tx) = close {
        tasks.add(tx.input.first().map(|input| input.previous_output.txid), 0, Some(tx));
    }
    for sold in wanted_sales(factory) {
        tasks.add(sold.sale.sessions.first().map(|session| session.outpoint.txid), 0, sold.signed_sale());
    }
    // What it bought out of its stock it can't have by a distribution of that stock.
    let stock = current.layout.stock_coin(index).filter(|_| last.is_some());
    tasks.add_end(current, index, stock);
    for sold in current.sales.all() {
        let session = sold.sale.sessions.get(1);
        tasks.add(session.map(|session| session.outpoint.txid), 0, sold.signed_distribution());
    }
    tasks.0
}

/// Transactions that a node of this client's paths spends an output of.
pub(crate) fn ways(factory: &Factory) -> Vec<Txid> {
    let mut ways = vec![];
    for attempt in factory.attempts() {
        if let (Role::Client { index, .. }, Some(tree)) = (attempt.role, &attempt.tree) {
            let path = attempt.layout.path(index).into_iter();
            let nodes = path.filter_map(|coin| tree.session(SessionId { coin, role: SpendRole::State }));
            ways.extend(nodes.map(|session| session.outpoint.txid));
        }
    }
    ways
}
