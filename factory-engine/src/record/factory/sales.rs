//! What of a factory was sold.

use crate::record::attempt::Role;
use crate::record::event::{SaleOpening, SaleSigning, SaleVoid};
use crate::record::load_error::{LoadError, inconsistent};
use crate::record::sales::Sold;
use crate::terms::ClientIndex;
use crate::tx::layout::CoinIndex;
use crate::tx::sale::{Sale, SaleError, Stock};
use crate::types::{Amount, ScriptBuf};

use super::{Factory, roster};

impl Factory {
    /// What is left of a sub-factory's stock: the first stock output, or the rest of the last sale.
    /// Nothing if it has none, or it is gone.
    pub fn stock(&self, coin: CoinIndex) -> Option<Stock> {
        match self.current.sales.of(coin).last() {
            Some(last) => last.sale.rest,
            None => self.stock_before(coin, 1),
        }
    }

    /// The stock output that a sale spends.
    pub(crate) fn stock_before(&self, coin: CoinIndex, number: u32) -> Option<Stock> {
        let before = usize::try_from(number).ok()?.checked_sub(1)?;
        if let Some(last) = before.checked_sub(1) {
            return self.current.sales.of(coin).get(last)?.sale.rest;
        }
        let value = self.current.layout.coin(coin).filter(|coin| coin.stock)?.value;
        Some(Stock { coin, outpoint: self.current.tree.as_ref()?.coin_outpoint(coin)?, value })
    }

    /// Number of the next sale of a coin.
    pub fn next_sale(&self, coin: CoinIndex) -> u32 {
        u32::try_from(self.current.sales.of(coin).len()).unwrap_or(u32::MAX).saturating_add(1)
    }

    /// The sales whose channel is this node's: for L all, for a client those that it bought. Signed or
    /// not.
    pub fn own_sales(&self) -> impl Iterator<Item = &Sold> {
        self.current.own_sales()
    }

    /// `blocks_early` of a channel that a sale funds: that of its buyer's first channel, and time for
    /// each sale of the chain to confirm.
    pub fn sale_blocks_early(&self, buyer: ClientIndex, number: u32) -> u16 {
        let sales = u32::from(self.current.terms.confirm_blocks).saturating_mul(number);
        let blocks = u32::from(self.current.layout.blocks_early(buyer)).saturating_add(sales);
        u16::try_from(blocks).unwrap_or(u16::MAX)
    }

    /// Rebuilds a sale from what is known of the factory (S3).
    pub(crate) fn build_sale(
        &self,
        coin: CoinIndex,
        number: u32,
        buyer: ClientIndex,
        amount: Amount,
        script: &ScriptBuf,
    ) -> Result<Sale, SaleError> {
        let stock = self.stock_before(coin, number).ok_or(SaleError::NoStock)?;
        let agg = self.current.tree.as_ref().and_then(|tree| tree.key_agg(coin)).ok_or(SaleError::NoStock)?;
        let roster = roster(self.current.proposal.as_ref().ok_or(SaleError::NoStock)?);
        Sale::build(&self.current.layout, &roster, agg, stock, number, buyer, amount, script)
    }

    /// Folds a `sale_opening`: builds the sale whose channel is about to be completed.
    pub(crate) fn open_sale(&mut self, event: &SaleOpening) -> Result<(), LoadError> {
        let SaleOpening { coin, number, buyer, amount, script, .. } = event;
        let sale = self
            .build_sale(*coin, *number, *buyer, *amount, script)
            .map_err(|error| inconsistent("SaleOpening", error))?;
        self.current.sales.opened(event, sale);
        Ok(())
    }

    /// Folds a `sale_void`. A client keeps an account of itself alone.
    pub(crate) fn void_sale(&mut self, event: &SaleVoid) -> Result<(), LoadError> {
        let chain = self.current.sales.of(event.coin);
        let buyer = chain.iter().find(|sold| sold.sale.number == event.number).map(|sold| sold.sale.buyer);
        let ours = match self.current.role {
            Role::Lsp => true,
            Role::Client { index, .. } => buyer == Some(index),
        };
        self.current.sales.void(event, ours)
    }

    /// Folds a `sale_signing`: the sale becomes the last one of its coin's chain.
    pub(crate) fn begin_sale(&mut self, event: &SaleSigning) -> Result<(), LoadError> {
        let SaleSigning { coin, number, buyer, amount, script, .. } = event;
        if *number != self.next_sale(*coin) {
            return Err(inconsistent(
                "SaleSigning",
                format!("sale {number} of coin {coin} is not the next one"),
            ));
        }
        let sale = self
            .build_sale(*coin, *number, *buyer, *amount, script)
            .map_err(|error| inconsistent("SaleSigning", error))?;
        self.current.sales.begun(event, sale);
        Ok(())
    }
}
