//! Fees: what members learn of them, what they do about them, and what must hold (S26, S27).

use std::collections::BTreeMap;

use bitcoin::Transaction;
use factory_engine::io::fees::{ChildOut, FeeNews, Feerates, Raise, Report, Trouble, shortcoming};
use factory_engine::tx::child::{Coin, usual_weight};
use factory_engine::tx::layout::{SpendRole, fee};
use factory_engine::tx::scripts::DUST;
use factory_engine::types::{Amount, ChannelId};
use factory_engine::{Factory, Input, Role};

use crate::LabError;

use super::World;

/// More than what it takes to outbid a stranger's child, beside its own fee.
const PINNED: Amount = Amount::from_sat(4_000);
/// More than the relay of a usual child costs: a replacement that gains less is none.
const NEARLY: Amount = Amount::from_sat(400);
/// Feerate that always relays, sat/kw: lightningd's floor.
const LOWEST: u32 = 253;

impl World {
    /// What every member's backend says: the truth, and half of it for whoever has time.
    fn feerates(&self) -> Feerates {
        let market = self.chain.market;
        let now = market.inclusion.max(LOWEST);
        let soon = now.saturating_add(now / 5);
        let estimates = BTreeMap::from([(2, soon), (12, now), (100, (now / 2).max(LOWEST))]);
        Feerates { floor: market.floor.max(LOWEST), estimates }
    }

    /// A member at the tip weighs its fees, as the plugin does after each block.
    pub(crate) fn show_fees(&mut self, at: usize) -> Result<(), LabError> {
        let channels = &self.members[at].lightningd.channels;
        let stakes = channels.iter().map(|(id, channel)| {
            let msat =
                if channel.opener { channel.balances.opener_msat } else { channel.balances.fundee_msat };
            (*id, Amount::from_sat(msat / 1000))
        });
        let news = FeeNews { feerates: Some(self.feerates()), stakes: stakes.collect() };
        self.feed(at, Input::Fees(news))?;
        self.members[at].weighed = self.chain.mempool().iter().map(Transaction::compute_txid).collect();
        let height = self.chain.height();
        if let Some(engine) = &self.members[at].engine {
            let waiting = engine.waiting(height);
            self.members[at].lightningd.settle(&self.chain, &waiting);
        }
        Ok(())
    }

    /// `Effect::Bump`: sends the parent, and a child that raises its fee.
    pub(super) fn raise(&mut self, at: usize, raise: &Raise) -> Input {
        self.broadcast(at, raise.what.clone(), &raise.parent);
        let parent = raise.parent.compute_txid();
        let outcome = self.members[at].lightningd.raise(&mut self.chain, raise);
        if let Some(chaos) = &mut self.chaos {
            let fee = outcome.as_ref().map_or(0, |child| child.fee.to_sat());
            chaos.trace.note("bump", at, &fee.to_be_bytes());
            chaos.trace.line(|| {
                format!("{at}    bump {} {parent}: {fee} sat, {:?}", raise.what, outcome.as_ref().err())
            });
        }
        if let Ok(child) = &outcome
            && let Some(most) = self.most(at, raise)
            && child.fee > most
            // With an older database it knows neither its balances nor what it had paid.
            && self.is_owed(at)
        {
            let what = &raise.what;
            let why = format!("S26: member {at} pays {} for {what}, where {most} are at stake", child.fee);
            self.judge.violations.push(why);
        }
        let trouble = match outcome {
            Ok(child) => shortcoming(&raise.bump, &child),
            Err(trouble) => Some(trouble),
        };
        if matches!(trouble, Some(Trouble::Capped(_))) {
            self.capped.insert((at, raise.instance));
        }
        let out = self.members[at].lightningd.children.of(parent);
        let child = out.map(|child| ChildOut { txid: child.tx.compute_txid(), fee: child.fee });
        let report = Report {
            instance: raise.instance,
            what: raise.what.clone(),
            target: Some((raise.bump.feerate, raise.deadline)),
            child,
            trouble,
        };
        Input::Published { txid: parent, report: Box::new(report) }
    }

    /// What a client can lose at most with any of a factory's transactions.
    fn most(&self, at: usize, raise: &Raise) -> Option<Amount> {
        let factory = self.members[at].engine.as_ref()?.factory(raise.instance)?;
        let Role::Client { index, .. } = factory.current.role else { return None };
        if raise.parent.lock_time.to_consensus_u32() > 0 {
            // A distribution: its channel and all of a sub-factory's stock.
            return factory.capacity(index).checked_add(factory.current.terms.stock);
        }
        let channels = self.members[at].lightningd.channels.values();
        Some(channels.map(|channel| Amount::from_sat(channel.balances.fundee_msat / 1000)).sum())
    }

    /// S26: a transaction that is out pays with its child what miners take, if its member can pay that,
    /// and it is worth it.
    pub(super) fn is_raised(
        &self,
        at: usize,
        factory: &Factory,
        tx: &Transaction,
        role: SpendRole,
    ) -> Result<(), String> {
        if !self.members[at].weighed.contains(&tx.compute_txid()) {
            // Somebody else's package brought it since; before there was nothing that a child could spend.
            return Ok(());
        }
        let lightningd = &self.members[at].lightningd;
        let Some((paid, weight)) = self.chain.package(tx).filter(|_| !lightningd.locked) else {
            return Ok(());
        };
        // What everybody was told a moment ago; a child that is nearly good enough stays.
        let feerate = self.chain.market.inclusion.max(LOWEST);
        let paid_or_near = paid.checked_add(NEARLY).unwrap_or(Amount::MAX_MONEY);
        let enough = fee(weight, feerate).is_none_or(|needed| paid_or_near >= needed);
        if enough || self.chain.waiting(tx.compute_txid()).is_none() {
            return Ok(());
        }
        // What a child pays at most: in a hurry two and a half times the estimate, after it was pinned.
        let both = tx.weight().to_wu().saturating_add(usual_weight()).saturating_mul(3);
        let cost = fee(both, self.chain.market.inclusion).and_then(|cost| cost.checked_add(PINNED));
        let Some(cost) = cost.and_then(|cost| cost.checked_add(DUST)) else { return Ok(()) };
        if self.wallet_of(at, tx) < cost || self.least_stake(at, factory, tx, role) < cost {
            return Ok(());
        }
        Err(format!("S26: {} pays {paid} for {weight} WU, at {feerate} sat/kw and more", tx.compute_txid()))
    }

    /// S26: whether a member could pay for a transaction that the mempool takes only together with a child.
    pub(super) fn could_be_packaged(
        &self,
        at: usize,
        factory: &Factory,
        tx: &Transaction,
        role: SpendRole,
    ) -> bool {
        let lightningd = &self.members[at].lightningd;
        let market = self.chain.market;
        // As in `is_raised`; what is out already has to be outbid.
        let both = tx.weight().to_wu().saturating_add(usual_weight()).saturating_mul(3);
        let cost = fee(both, market.inclusion.max(market.floor)).and_then(|cost| cost.checked_add(PINNED));
        let Some(cost) = cost else { return false };
        // Something else that spends its input stays in its way: a node's path and a distribution, at the timeout.
        self.chain.check_with_child(tx).is_ok()
            && lightningd.packages
            && !lightningd.locked
            && self.wallet_of(at, tx) >= cost
            && self.least_stake(at, factory, tx, role) >= cost
    }

    /// What a member's wallet could use for the child of a transaction.
    fn wallet_of(&self, at: usize, parent: &Transaction) -> Amount {
        let lightningd = &self.members[at].lightningd;
        let here = |coin: &Coin| self.chain.coin(coin.outpoint).is_some();
        let child = lightningd.children.of(parent.compute_txid());
        let child = child.filter(|child| child.coins.iter().all(here));
        let own =
            child.map(|child| child.coins.iter().map(|coin| coin.output.value).sum()).unwrap_or(Amount::ZERO);
        own.max(lightningd.largest_free(&self.chain))
    }

    /// Less than what any of its transactions is worth to a member.
    fn least_stake(&self, at: usize, factory: &Factory, tx: &Transaction, role: SpendRole) -> Amount {
        if let (Role::Client { index, .. }, SpendRole::Distribution) = (factory.current.role, role) {
            // Its channel, or of a stock output its share.
            let txid = tx.compute_txid();
            let mut sessions = factory.current.tree.iter().flat_map(|tree| tree.sessions());
            let coin = sessions.find(|session| session.txid == txid).map(|session| session.id.coin);
            let paid = coin.map(|coin| factory.current.layout.distribution_outputs(coin)).unwrap_or_default();
            let own = paid.into_iter().find(|(client, _)| *client == index);
            return own.map_or(Amount::ZERO, |(_, share)| share);
        }
        let share = |channel: ChannelId, transactions: u64| {
            let known = self.members[at].lightningd.channels.get(&channel)?;
            let balances = known.balances;
            let msat = if known.opener { balances.opener_msat } else { balances.fundee_msat };
            Some(Amount::from_sat((msat / 1000).checked_div(transactions)?))
        };
        if role == SpendRole::Sale {
            let txid = tx.compute_txid();
            let this = factory.own_sales().find(|sold| sold.txid() == txid);
            let this = this.and_then(|sold| share(sold.channel_id(), 1));
            return this.unwrap_or(Amount::ZERO);
        }
        let balance = |client: u32| {
            let path = u64::try_from(factory.current.layout.path(client).len()).ok()?;
            share(*factory.current.channels.get(&client)?, path)
        };
        let leaving = factory.current.exiting.iter().chain(&factory.current.evicting);
        leaving.filter_map(|client| balance(*client)).min().unwrap_or(Amount::ZERO)
    }

    /// S27: no coin stays reserved for a child that can't be needed any more.
    pub fn judge_reservations(&mut self) {
        for at in 0..self.members.len() {
            let member = &self.members[at];
            let Some(engine) = &member.engine else { continue };
            // What it spends is there: a mempool that lost it may take it again.
            let may_come = |parent| {
                let trees = engine.factories().filter_map(|factory| factory.current.tree.as_ref());
                let sales = engine.factories().flat_map(|factory| factory.current.sales.all());
                let sales = sales.flat_map(|sold| &sold.sale.sessions);
                let mut sessions = trees.flat_map(|tree| tree.sessions()).chain(sales);
                let session = sessions.find(|session| session.txid == parent);
                session.is_some_and(|session| self.chain.coin(session.outpoint).is_some())
            };
            let leaked = member.lightningd.leaked(&self.chain, may_come);
            if self.seen(at) == Some(self.chain.height()) && !leaked.is_empty() {
                self.judge.violations.push(format!("S27: member {at} keeps {leaked:?} reserved for nothing"));
            }
        }
    }
}
