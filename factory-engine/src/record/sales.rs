//! What was sold: the fold of a factory's sale events.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::record::event::{
    SaleDue, SaleDueEnded, SaleJit, SaleJitAgreed, SaleJitFailed, SaleJitOpened, SaleOpenAccepted,
    SaleOpening, SaleSigned, SaleSigning, SaleStored, SaleVoid,
};
use crate::record::load_error::{LoadError, inconsistent};
use crate::record::sales::account::Account;
use crate::record::sales::jits::Jits;
use crate::terms::ClientIndex;
use crate::tx::layout::{CoinIndex, SpendRole};
use crate::tx::sale::Sale;
use crate::types::{Amount, ChannelId, Height, Transaction, Txid};

pub mod account;
pub mod jits;

/// A sale that this node has signed, or was about to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sold {
    /// The sale and, if it leaves something, the distribution of the rest.
    pub sale: Arc<Sale>,
    /// What the buyer pays for it, msat.
    pub price_msat: u64,
    /// Finished signatures, in the order of the sale's sessions; empty until they are stored.
    pub signatures: Vec<[u8; 64]>,
    /// L: whether every client of the sub-factory has stored them.
    pub stored: bool,
    /// Height at which it was signed for.
    pub begun: Height,
    /// Set once it is known that it never will be finished (S36).
    pub void: Option<Void>,
}

/// The end of a sale that was signed for and not finished.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Void {
    /// Height at which it ended.
    pub height: Height,
    /// L: clients that had not signed, in leaf order.
    pub blamed: Vec<ClientIndex>,
}

/// All sales of a factory that this node knows of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sales {
    chains: BTreeMap<CoinIndex, Vec<Sold>>,
    /// L: sales whose channel may be in lightningd, and that nobody has signed.
    opening: BTreeMap<CoinIndex, (SaleOpening, Arc<Sale>)>,
    /// L: every channel that was ever opened for a sale. lightningd may list those of dropped ones for long.
    opened: BTreeSet<ChannelId>,
    /// Buyer: the last sale whose open was accepted.
    agreed: Option<SaleOpenAccepted>,
    /// Channels of sales that lightningd is done with.
    resolved: BTreeSet<ChannelId>,
    account: Account,
    jits: Jits,
}

impl Sold {
    /// Stock coin of the sub-factory; nothing if there is no session.
    pub fn coin(&self) -> Option<CoinIndex> {
        self.sale.sessions.first().map(|session| session.id.coin)
    }

    /// Id of the sale transaction.
    pub fn txid(&self) -> Txid {
        self.sale.channel.txid
    }

    /// Whether its signatures are stored.
    pub fn is_signed(&self) -> bool {
        !self.signatures.is_empty()
    }

    /// BOLT 2's `channel_id` of the channel that was bought.
    pub fn channel_id(&self) -> ChannelId {
        ChannelId::of(self.sale.channel)
    }

    /// One of its transactions, signed.
    fn signed(&self, role: SpendRole) -> Option<Transaction> {
        let place = self.sale.sessions.iter().position(|session| session.id.role == role)?;
        let mut tx = self.sale.sessions.get(place)?.tx.clone();
        tx.input.first_mut()?.witness.push(self.signatures.get(place)?);
        Some(tx)
    }

    /// The sale itself, signed; nothing until its signatures are stored.
    pub fn signed_sale(&self) -> Option<Transaction> {
        self.signed(SpendRole::Sale)
    }

    /// The distribution of what the sale leaves, signed; nothing until its signatures are stored, or
    /// if it leaves nothing.
    pub fn signed_distribution(&self) -> Option<Transaction> {
        self.signed(SpendRole::Distribution)
    }
}

impl Sales {
    /// The chain of sales of one stock coin, the first sale first.
    pub fn of(&self, coin: CoinIndex) -> &[Sold] {
        self.chains.get(&coin).map_or(&[], Vec::as_slice)
    }

    /// Every sale, by stock coin and in order.
    pub fn all(&self) -> impl Iterator<Item = &Sold> {
        self.chains.values().flatten()
    }

    /// The number of the sale that a transaction is.
    pub fn number_of(&self, txid: Txid) -> Option<u32> {
        self.all().find(|sold| sold.txid() == txid).map(|sold| sold.sale.number)
    }

    /// L: the sale whose channel is being opened.
    pub fn opening(&self, coin: CoinIndex) -> Option<&Sale> {
        self.opening.get(&coin).map(|(_, sale)| &**sale)
    }

    /// L: all sales whose channel is being opened, by stock coin.
    pub fn openings(&self) -> impl Iterator<Item = (CoinIndex, &Sale)> {
        self.opening.iter().map(|(coin, (_, sale))| (*coin, &**sale))
    }

    /// Whether a channel is, or was to be, a sale's, or came in place of one.
    pub(crate) fn names(&self, channel_id: ChannelId) -> bool {
        self.opened.contains(&channel_id)
            || self.all().any(|sold| sold.channel_id() == channel_id)
            || self.jits.opened().iter().any(|jit| jit.channel_id == channel_id)
    }

    /// Whether lightningd is done with a sale's channel.
    pub fn is_resolved(&self, channel_id: ChannelId) -> bool {
        self.resolved.contains(&channel_id)
    }

    /// What clients have paid for liquidity, and what may still be paid.
    pub fn account(&self) -> &Account {
        &self.account
    }

    /// Whether nobody has credit, and nothing that was paid for, or may be, is still to come (S36).
    pub(crate) fn owes_nothing(&self) -> bool {
        self.account.is_settled() && self.jits.funding.is_empty()
    }

    /// A channel is about to be opened for a sale.
    pub(crate) fn opened(&mut self, event: &SaleOpening, sale: Sale) {
        self.opened.insert(ChannelId::of(sale.channel));
        self.opening.insert(event.coin, (event.clone(), Arc::new(sale)));
    }

    /// A sale is about to be signed: its price is spent.
    pub(crate) fn begun(&mut self, event: &SaleSigning, sale: Sale) {
        self.opening.remove(&event.coin);
        self.account.spend(event.buyer, event.price_msat);
        let (sale, price_msat) = (Arc::new(sale), event.price_msat);
        let sold =
            Sold { sale, price_msat, signatures: vec![], stored: false, begun: event.height, void: None };
        self.chains.entry(event.coin).or_default().push(sold);
    }

    pub(crate) fn agreed(&mut self, event: &SaleOpenAccepted) {
        self.agreed = Some(event.clone());
    }

    /// Whether this node agreed to buy just this, and its channel was opened.
    pub(crate) fn is_agreed(&self, number: u32, amount: Amount, price_msat: u64) -> bool {
        self.agreed == Some(SaleOpenAccepted { number, amount, price_msat })
    }

    pub(crate) fn resolved(&mut self, channel_id: ChannelId) {
        self.resolved.insert(channel_id);
    }

    pub(crate) fn dropped(&mut self, coin: CoinIndex) {
        self.opening.remove(&coin);
    }

    fn sold(&mut self, name: &'static str, coin: CoinIndex, number: u32) -> Result<&mut Sold, LoadError> {
        let place = usize::try_from(number).ok().and_then(|number| number.checked_sub(1));
        self.chains
            .get_mut(&coin)
            .zip(place)
            .and_then(|(chain, place)| chain.get_mut(place))
            .ok_or_else(|| inconsistent(name, format!("sale {number} of coin {coin} is not known")))
    }

    pub(crate) fn signed(&mut self, event: &SaleSigned) -> Result<(), LoadError> {
        let sold = self.sold("SaleSigned", event.coin, event.number)?;
        if event.signatures.len() != sold.sale.sessions.len() {
            return Err(inconsistent("SaleSigned", "the number of signatures is wrong"));
        }
        sold.signatures = event.signatures.clone();
        Ok(())
    }

    /// A sale never will be finished. Its price comes back where this node keeps the buyer's account.
    pub(crate) fn void(&mut self, event: &SaleVoid, buyer_is_ours: bool) -> Result<(), LoadError> {
        let sold = self.sold("SaleVoid", event.coin, event.number)?;
        if sold.is_signed() || sold.void.is_some() {
            return Err(inconsistent("SaleVoid", "it has ended before"));
        }
        sold.void = Some(Void { height: event.height, blamed: event.blamed.clone() });
        let (buyer, price_msat) = (sold.sale.buyer, sold.price_msat);
        if buyer_is_ours {
            self.account.refund(buyer, price_msat, event.height);
        }
        Ok(())
    }

    /// Ordinary channels that came in place of sales.
    pub fn jits(&self) -> &Jits {
        &self.jits
    }

    pub(crate) fn jit(&mut self, event: &SaleJit) {
        self.jits.begin(&mut self.account, event);
    }

    pub(crate) fn jit_agreed(&mut self, event: &SaleJitAgreed) {
        self.jits.agreed = Some(event.clone());
    }

    pub(crate) fn jit_failed(&mut self, event: &SaleJitFailed) -> Result<(), LoadError> {
        self.jits.fail(&mut self.account, event)
    }

    pub(crate) fn jit_opened(&mut self, event: &SaleJitOpened) {
        self.jits.open(&mut self.account, event);
    }

    pub(crate) fn due(&mut self, event: &SaleDue) {
        self.account.begin(event);
    }

    pub(crate) fn due_ended(&mut self, event: &SaleDueEnded) -> Result<(), LoadError> {
        self.account.end(event)
    }

    pub(crate) fn stored(&mut self, event: &SaleStored) -> Result<(), LoadError> {
        self.sold("SaleStored", event.coin, event.number)?.stored = true;
        Ok(())
    }
}
