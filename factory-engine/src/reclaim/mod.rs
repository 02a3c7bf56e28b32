//! L takes back what is its own again: every coin whose clients have all handed their keys over, by key path
//! and alone (S22, S38). As an input of the next factory's funding if there is one in time (`funding`),
//! otherwise by a transaction of its own.
//!
//! A funding output waits for the next factory until `reclaim_blocks` before the height at which it would have
//! to be evicted; from there on it is taken alone, unless a funding that spends it is on its way, and from that
//! height on even then. What lies below it is on chain because somebody is evicted, or because a client that
//! has handed over publishes its path all the same. While L evicts, the outputs beside the paths are gathered,
//! so that one transaction takes them all; in any other case they are taken as they appear.

mod funding;
mod keys;

use std::collections::BTreeSet;

use crate::engine::Engine;
use crate::io::fees::{NO_HURRY, Refused, Report, Trouble, replaced_from};
use crate::io::{Effect, Level};
use crate::memory::Volatile;
use crate::memory::reclaim::{Out, VolatileReclaim};
use crate::record::attempt::Role;
use crate::record::factory::{Factory, Reclaimable, wanted_nodes};
use crate::step::builder::StepBuilder;
use crate::tx::child::Coin;
use crate::tx::layout::{SessionId, SpendRole};
use crate::tx::reclaim::{Pays, unsigned, worth_it};
use crate::types::{Height, OutPoint, Txid};

impl Engine {
    /// The height from which on a factory's funding output is taken alone, unless a funding takes it before.
    pub(crate) fn reclaims_alone_from(&self, factory: &Factory) -> Height {
        factory.reclaim_latest().saturating_sub(self.config.reclaim_blocks)
    }

    /// Takes back what is ours by now; again at every block until it confirms (S26).
    pub(crate) fn reclaim(&self, step: &mut StepBuilder<'_>, factory: &Factory) {
        if factory.current.role != Role::Lsp || factory.current.keys.is_empty() {
            return;
        }
        let open = factory.reclaimable();
        let instance = factory.instance;
        let is_open = |coin: &Coin| open.iter().any(|open| open.place == *coin);
        let out = self.reclaims.out.get(&instance);
        let still = out.filter(|out| out.coins.iter().all(is_open));
        if out.is_some() && still.is_none() {
            step.volatile(Volatile::Reclaim(VolatileReclaim::Over(instance)));
        }
        let due: Vec<Reclaimable> =
            open.iter().filter(|open| self.is_due_alone(factory, open, step.height)).cloned().collect();
        if due.is_empty() {
            return;
        }
        let Some(script) = &factory.stock_payout else {
            let attempt = factory.current.number;
            return step.effect(Effect::NewPayout { instance, attempt });
        };
        let target = self.reclaim_feerate(factory, step.height);
        let feerate = match still {
            // What is out stays, as long as another one isn't better by enough: what came since waits for it.
            Some(out) if !out.refused && target < replaced_from(out.feerate) => {
                let (what, tx) = (name(&due, &out.coins), out.tx.clone());
                return step.effect(Effect::Broadcast { instance, what, tx });
            }
            Some(out) => target.max(replaced_from(out.feerate)),
            None => target,
        };
        let coins = worth_it(due.iter().map(|due| due.place.clone()).collect(), feerate);
        let pays = Pays { feerate, least: self.config.stock_feerate };
        let made = unsigned(&coins, script, pays).map_err(|error| error.to_string());
        let signed = made.and_then(|tx| {
            let spent = |coin: &Coin| due.iter().find(|due| due.place == *coin).map(|due| due.coin);
            let of: Vec<_> = coins.iter().filter_map(spent).collect();
            self.sign_reclaim(factory, &of, &coins, tx, step.rng)
        });
        match signed {
            Ok(tx) => {
                let what = name(&due, &coins);
                let out = Out { tx: tx.clone(), coins, feerate, refused: false };
                step.volatile(Volatile::Reclaim(VolatileReclaim::Out(instance, Box::new(out))));
                step.effect(Effect::Broadcast { instance, what, tx });
            }
            Err(why) => {
                let what = name(&due, &coins);
                step.log(Level::Unusual, format!("{instance}: no {what}: {why}"));
            }
        }
    }

    /// Whether a coin is taken alone now. One that this node itself goes through on somebody's way out isn't.
    fn is_due_alone(&self, factory: &Factory, coin: &Reclaimable, height: Height) -> bool {
        if wanted_nodes(factory, height).contains(&coin.coin) || factory.has_close() {
            return false;
        }
        if coin.coin == 0 {
            let promised = || height < factory.reclaim_latest() && self.is_promised(factory.instance);
            return height >= self.reclaims_alone_from(factory) && !promised();
        }
        !gathers(factory, height)
    }

    /// What it should pay, sat/kw: it is through well before the timeout, from where on distributions compete
    /// with it (S38).
    fn reclaim_feerate(&self, factory: &Factory, height: Height) -> u32 {
        let terms = &factory.current.terms;
        let deadline = terms.timeout_height.saturating_sub(u32::from(terms.margin_blocks / 2));
        let left = deadline.saturating_sub(height).min(NO_HURRY);
        let target = self.feerates().map_or(0, |rates| rates.target(left));
        target.max(self.config.stock_feerate)
    }

    /// S26: something is in its way that pays more: the next one does.
    pub(crate) fn on_reclaim_published(&self, step: &mut StepBuilder<'_>, txid: Txid, report: &Report) {
        let ours = self.reclaims.out.get(&report.instance).is_some_and(|out| out.tx.compute_txid() == txid);
        let beaten = match &report.trouble {
            Some(Trouble::Parent(refused)) => matches!(
                refused,
                Refused::Conflict(_)
                    | Refused::LessThanReplaced(_)
                    | Refused::LowerFeerate(_)
                    | Refused::FeeTooLow(_)
            ),
            Some(
                Trouble::Child(_)
                | Trouble::NoChild(_)
                | Trouble::Capped(_)
                | Trouble::Short(_)
                | Trouble::Wallet(_),
            )
            | None => false,
        };
        if ours && beaten {
            step.volatile(Volatile::Reclaim(VolatileReclaim::Refused(report.instance)));
        }
    }
}

/// Whether L still evicts, and nobody else publishes anything: then more outputs come beside the paths, and one
/// transaction takes them all. Not for longer than leaves time to have them confirmed.
fn gathers(factory: &Factory, height: Height) -> bool {
    let terms = &factory.current.terms;
    if height >= terms.timeout_height.saturating_sub(terms.margin_blocks.into()) {
        return false;
    }
    let Some(tree) = &factory.current.tree else { return false };
    let wanted = wanted_nodes(factory, height);
    let confirmed = |node: u32| {
        let session = tree.session(SessionId { coin: node, role: SpendRole::State });
        session.is_some_and(|session| factory.confirmed.contains_key(&session.txid))
    };
    let source = |open: &Reclaimable| factory.current.layout.coin(open.coin).and_then(|coin| coin.source);
    let open = factory.reclaimable();
    let mut sources = open.iter().filter_map(source);
    sources.all(|(node, _)| wanted.contains(&node)) && wanted.iter().any(|node| !confirmed(*node))
}

/// "reclaim of coins 3, 5".
fn name(due: &[Reclaimable], coins: &[Coin]) -> String {
    let places: BTreeSet<OutPoint> = coins.iter().map(|coin| coin.outpoint).collect();
    let taken = due.iter().filter(|due| places.contains(&due.place.outpoint));
    let numbers: Vec<String> = taken.map(|due| due.coin.to_string()).collect();
    match numbers.as_slice() {
        [one] => format!("reclaim of coin {one}"),
        many => format!("reclaim of coins {}", many.join(", ")),
    }
}
