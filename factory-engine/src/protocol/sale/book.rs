//! What was sold: the fold of a factory's sale events.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::record::event::{
    SaleDue, SaleDueEnded, SaleJit, SaleJitFailed, SaleJitOpened, SaleOpenAccepted, SaleOpening, SaleSigned,
    SaleSigning, SaleStored,
};
use crate::terms::ClientIndex;
use crate::tx::layout::{CoinIndex, Role as SpendRole};
use crate::tx::sale::{Sale, SaleError, Stock};
use crate::types::{Amount, ChannelId, Height, ScriptBuf, Transaction, Txid};

use super::super::factory::{Factory, LoadError, Role, inconsistent, roster};
use super::super::unusable::Unusable;
use super::account::Account;
use super::jits::Jits;

/// A sale that this node has signed, or was about to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sold {
    /// Its transactions.
    pub sale: Arc<Sale>,
    /// What the buyer pays for it, msat.
    pub price_msat: u64,
    /// Finished signatures, in the order of the sale's sessions; empty until they are stored.
    pub signatures: Vec<[u8; 64]>,
    /// L: whether every client of the sub-factory has stored them.
    pub stored: bool,
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
    /// The sub-factory's stock coin.
    pub fn coin(&self) -> Option<CoinIndex> {
        self.sale.sessions.first().map(|session| session.id.coin)
    }

    /// Txid of the sale.
    pub fn txid(&self) -> Txid {
        self.sale.channel.txid
    }

    /// Whether its signatures are stored.
    pub fn is_signed(&self) -> bool {
        !self.signatures.is_empty()
    }

    /// The new channel's id.
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
    pub(super) fn names(&self, channel_id: ChannelId) -> bool {
        self.opened.contains(&channel_id)
            || self.all().any(|sold| sold.channel_id() == channel_id)
            || self.jits.opened().iter().any(|jit| jit.channel_id == channel_id)
    }

    /// Whether lightningd is done with a sale's channel.
    pub fn is_resolved(&self, channel_id: ChannelId) -> bool {
        self.resolved.contains(&channel_id)
    }

    /// What was paid.
    pub fn account(&self) -> &Account {
        &self.account
    }

    pub(in super::super) fn agreed(&mut self, event: &SaleOpenAccepted) {
        self.agreed = Some(event.clone());
    }

    /// Whether this node agreed to buy just this, and its channel was opened.
    pub(super) fn is_agreed(&self, number: u32, amount: Amount, price_msat: u64) -> bool {
        self.agreed == Some(SaleOpenAccepted { number, amount, price_msat })
    }

    pub(in super::super) fn resolved(&mut self, channel_id: ChannelId) {
        self.resolved.insert(channel_id);
    }

    pub(in super::super) fn dropped(&mut self, coin: CoinIndex) {
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

    pub(in super::super) fn signed(&mut self, event: &SaleSigned) -> Result<(), LoadError> {
        let sold = self.sold("SaleSigned", event.coin, event.number)?;
        if event.signatures.len() != sold.sale.sessions.len() {
            return Err(inconsistent("SaleSigned", "the number of signatures is wrong"));
        }
        sold.signatures = event.signatures.clone();
        Ok(())
    }

    /// Ordinary channels that came in place of sales.
    pub fn jits(&self) -> &Jits {
        &self.jits
    }

    pub(in super::super) fn jit(&mut self, event: &SaleJit) {
        self.jits.begin(&mut self.account, event);
    }

    pub(in super::super) fn jit_failed(&mut self, event: &SaleJitFailed) -> Result<(), LoadError> {
        self.jits.fail(&mut self.account, event)
    }

    pub(in super::super) fn jit_opened(&mut self, event: &SaleJitOpened) {
        self.jits.open(&mut self.account, event);
    }

    pub(in super::super) fn due(&mut self, event: &SaleDue) {
        self.account.begin(event);
    }

    pub(in super::super) fn due_ended(&mut self, event: &SaleDueEnded) -> Result<(), LoadError> {
        self.account.end(event)
    }

    pub(in super::super) fn stored(&mut self, event: &SaleStored) -> Result<(), LoadError> {
        self.sold("SaleStored", event.coin, event.number)?.stored = true;
        Ok(())
    }
}

impl Factory {
    /// What is left of a sub-factory's stock: the first stock output, or the rest of the last sale.
    /// Nothing if it has none, or it is gone.
    pub fn stock(&self, coin: CoinIndex) -> Option<Stock> {
        match self.sales.of(coin).last() {
            Some(last) => last.sale.rest,
            None => self.stock_before(coin, 1),
        }
    }

    /// The stock output that a sale spends.
    pub(in super::super) fn stock_before(&self, coin: CoinIndex, number: u32) -> Option<Stock> {
        let before = usize::try_from(number).ok()?.checked_sub(1)?;
        if let Some(last) = before.checked_sub(1) {
            return self.sales.of(coin).get(last)?.sale.rest;
        }
        let value = self.layout.coin(coin).filter(|coin| coin.stock)?.value;
        Some(Stock { coin, outpoint: self.tree.as_ref()?.coin_outpoint(coin)?, value })
    }

    /// Number of the next sale of a coin.
    pub fn next_sale(&self, coin: CoinIndex) -> u32 {
        u32::try_from(self.sales.of(coin).len()).unwrap_or(u32::MAX).saturating_add(1)
    }

    /// The sales whose channel is this node's: for L all, for a client those that it bought. Signed or
    /// not.
    pub fn own_sales(&self) -> impl Iterator<Item = &Sold> {
        let role = self.role;
        self.sales.all().filter(move |sold| match role {
            Role::Lsp => true,
            Role::Client { index, .. } => sold.sale.buyer == index,
        })
    }

    /// `blocks_early` of a channel that a sale funds: that of its buyer's first channel, and time for
    /// each sale of the chain to confirm.
    pub fn sale_blocks_early(&self, buyer: ClientIndex, number: u32) -> u16 {
        let sales = u32::from(self.terms.confirm_blocks).saturating_mul(number);
        let blocks = u32::from(self.layout.blocks_early(buyer)).saturating_add(sales);
        u16::try_from(blocks).unwrap_or(u16::MAX)
    }

    /// Whether a bought channel may carry HTLCs, and otherwise why not (S18). Its script was checked
    /// before the sale was signed.
    pub fn sale_usable(&self, sold: &Sold, height: Height) -> Result<(), Unusable> {
        if !sold.is_signed() {
            return Err(Unusable::NotSigned);
        }
        if self.confirmed.contains_key(&sold.txid()) {
            return Ok(());
        }
        if self.leaf_height(sold.sale.buyer).is_some() {
            return Err(Unusable::SaleUnconfirmed);
        }
        self.channel_usable(sold.sale.buyer, height)
    }

    /// Rebuilds a sale from what is known of the factory (S3).
    pub(super) fn build_sale(
        &self,
        coin: CoinIndex,
        number: u32,
        buyer: ClientIndex,
        amount: Amount,
        script: &ScriptBuf,
    ) -> Result<Sale, SaleError> {
        let stock = self.stock_before(coin, number).ok_or(SaleError::NoStock)?;
        let agg = self.tree.as_ref().and_then(|tree| tree.key_agg(coin)).ok_or(SaleError::NoStock)?;
        let roster = roster(self.proposal.as_ref().ok_or(SaleError::NoStock)?);
        Sale::build(&self.layout, &roster, agg, stock, number, buyer, amount, script)
    }

    /// Folds a `sale_opening`.
    pub(in super::super) fn open_sale(&mut self, event: &SaleOpening) -> Result<(), LoadError> {
        let SaleOpening { coin, number, buyer, amount, script, .. } = event;
        let sale = self
            .build_sale(*coin, *number, *buyer, *amount, script)
            .map_err(|error| inconsistent("SaleOpening", error))?;
        self.sales.opened.insert(ChannelId::of(sale.channel));
        self.sales.opening.insert(*coin, (event.clone(), Arc::new(sale)));
        Ok(())
    }

    /// Folds a `sale_signing`.
    pub(in super::super) fn begin_sale(&mut self, event: &SaleSigning) -> Result<(), LoadError> {
        let SaleSigning { coin, number, buyer, amount, script, price_msat, .. } = event;
        if *number != self.next_sale(*coin) {
            return Err(inconsistent(
                "SaleSigning",
                format!("sale {number} of coin {coin} is not the next one"),
            ));
        }
        let sale = self
            .build_sale(*coin, *number, *buyer, *amount, script)
            .map_err(|error| inconsistent("SaleSigning", error))?;
        self.sales.opening.remove(coin);
        self.sales.account.spend(*buyer, *price_msat);
        self.sales.chains.entry(*coin).or_default().push(Sold {
            sale: Arc::new(sale),
            price_msat: *price_msat,
            signatures: vec![],
            stored: false,
        });
        Ok(())
    }
}
