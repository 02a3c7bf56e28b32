//! S38 from outside: what keys that were handed over are used for, and by when.

use bitcoin::{OutPoint, Transaction, Txid, Witness};
use factory_engine::io::fees::{Report, Trouble};
use factory_engine::tx::layout::CoinIndex;
use factory_engine::types::{Height, InstanceId};
use factory_engine::{Factory, Input, Role};

use crate::node::refused;

use super::judged::early;
use super::{LSP, World};

/// What is worth less may not be worth a fee.
const WORTH: u64 = 10_000;

impl World {
    /// A client has stored that its key may leave.
    pub(super) fn note_handed(&mut self, at: usize, instance: InstanceId) -> Result<(), String> {
        let factory = self.factory(at, instance).map_err(|error| error.to_string())?;
        if let Role::Client { index, .. } = factory.current.role {
            self.judge.handed_over(instance, index);
        }
        Ok(())
    }

    /// Whether every client of a coin has handed its key over, by what the clients have stored.
    pub(super) fn is_all_handed(&self, factory: &Factory, coin: CoinIndex) -> bool {
        let clients = factory.current.layout.coin(coin).map(|coin| coin.clients.clone()).unwrap_or_default();
        let mut clients = clients.into_iter().peekable();
        clients.peek().is_some() && clients.all(|client| self.judge.has_handed_over(factory.instance, client))
    }

    /// The operator broadcasts a transaction: where it spends coins with everybody's keys, they are one
    /// factory's, everybody has handed over, and all of it goes to its wallet.
    pub(super) fn judge_reclaim(&mut self, at: usize, tx: &Transaction) {
        let mut of: Vec<InstanceId> = vec![];
        let mut found = vec![];
        for input in tx.input.iter().filter(|input| input.witness.len() == 1) {
            let Some((factory, coin)) = self.coin_at(at, input.previous_output, tx) else { continue };
            of.push(factory.instance);
            if !self.is_all_handed(factory, coin) {
                found.push(format!("S38: coin {coin} is spent without every key of it"));
            }
        }
        of.dedup();
        let owns = |output| self.members[at].lightningd.owns(output);
        if of.len() > 1 {
            found.push("S38: keys of two factories in one transaction".into());
        } else if of.len() == 1 && !tx.output.iter().all(owns) {
            found.push("S38: what is taken back goes elsewhere".into());
        }
        self.judge.violations.extend(found);
    }

    /// The same of a funding's inputs: those are the operator's own too, and there is time for it to confirm.
    pub(super) fn judge_reclaimed_inputs(&mut self, at: usize, inputs: &[(OutPoint, Witness)]) {
        let mut found = vec![];
        for (outpoint, _) in inputs {
            let nothing = Transaction {
                version: bitcoin::transaction::Version::TWO,
                lock_time: bitcoin::absolute::LockTime::ZERO,
                input: vec![],
                output: vec![],
            };
            match self.coin_at(at, *outpoint, &nothing) {
                Some((factory, coin)) if self.is_all_handed(factory, coin) => {
                    if self.chain.height() >= latest(factory) && self.chain.coin(*outpoint).is_some() {
                        found.push("S38: too late for an input of a funding".into());
                    }
                }
                Some((_, coin)) => found.push(format!("S38: coin {coin} is spent without every key of it")),
                None => found.push(format!("S38: a key is used for {outpoint}, which is no factory's")),
            }
        }
        self.judge.violations.extend(found);
    }

    /// What became of a broadcast, as the plugin says it.
    pub(super) fn tell_published(&mut self, at: usize, instance: InstanceId, what: String, txid: Txid) {
        let result = self.sent.last().map(|sent| sent.result.clone());
        let trouble = result.and_then(Result::err).map(|reject| Trouble::Parent(refused(&reject)));
        let report = Report { instance, what, target: None, child: None, trouble };
        self.answer(at, Input::Published { txid, report: Box::new(report) });
    }

    /// The operator's coin at an outpoint, unless the transaction is one of the factory's own.
    fn coin_at(&self, at: usize, outpoint: OutPoint, tx: &Transaction) -> Option<(&Factory, CoinIndex)> {
        let engine = self.members[at].engine.as_ref().filter(|_| at == LSP && self.is_owed(at))?;
        let txid = tx.compute_txid();
        engine.factories().find_map(|factory| {
            let tree = factory.current.tree.iter().flat_map(|tree| tree.sessions());
            let sales = factory.current.sales.all().flat_map(|sold| &sold.sale.sessions);
            let close = factory.current.close.as_deref().map(|close| &close.session);
            let all = tree.chain(sales).chain(close);
            let mut sessions = all.filter(|session| session.outpoint == outpoint).peekable();
            let coin = sessions.peek()?.id.coin;
            let own = sessions.any(|session| session.txid == txid);
            (!own).then_some((factory, coin))
        })
    }

    /// S38: what is all the operator's again is on its way home well before the timeout.
    pub(super) fn takes_back(&self, factory: &Factory) -> Result<(), String> {
        let Some(tree) = factory.current.tree.as_ref().filter(|_| factory.funding_height().is_some()) else {
            return Ok(());
        };
        let mut tasks = self.tasks.get(&LSP).into_iter().flatten();
        if tasks.any(|task| matches!(task, Input::PayoutReady { .. })) {
            return Ok(());
        }
        let terms = &factory.current.terms;
        let asked = u32::from(factory.stock_payout.is_none()) * 4;
        for (coin, known) in (0..).zip(factory.current.layout.coins()) {
            let outpoint = if known.stock { self.unsold(factory, coin) } else { tree.coin_outpoint(coin) };
            let Some(outpoint) = outpoint.filter(|_| self.is_all_handed(factory, coin)) else { continue };
            let Some(confirmed) = self.chain.coin(outpoint).and_then(|coin| coin.height) else { continue };
            let by = match coin {
                0 => latest(factory),
                _ => terms.timeout_height.saturating_sub(u32::from(terms.margin_blocks)),
            };
            let due = self.chain.height() >= by.max(confirmed).saturating_add(asked);
            let taken = || {
                let spends =
                    |tx: &Transaction| tx.input.iter().any(|input| input.previous_output == outpoint);
                self.chain.mempool().iter().any(spends)
            };
            if due && known.value.to_sat() >= WORTH && !taken() {
                return Err(format!("S38: coin {coin} could be taken back, and is not"));
            }
        }
        Ok(())
    }
}

/// The height at which somebody would have to be evicted first.
fn latest(factory: &Factory) -> Height {
    let terms = &factory.current.terms;
    let stock = match terms.stock.to_sat() {
        0 => 0,
        _ => u32::from(terms.stock_csv) + u32::from(terms.confirm_blocks),
    };
    let sales = factory.current.sales.all().map(|sold| sold.sale.number).max().unwrap_or(0);
    let blocks = (0..terms.clients()).map(|client| early(&factory.current.layout, client)).max();
    let sales = sales * u32::from(terms.confirm_blocks);
    terms.timeout_height.saturating_sub(blocks.unwrap_or(0) + stock + sales)
}
