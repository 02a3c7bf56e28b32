//! `factory-buy`: what a purchase would be, and the wish that is sent to the operator.

use crate::types::{Amount, Height, InstanceId};
use crate::wire::message::Buy;

use super::super::Engine;
use super::super::ceremony::Volatile;
use super::super::draft::Draft;
use super::super::factory::Role;
use super::super::io::{Answer, Refusal};
use super::{Purchase, Quote, VolatileSale, cooperative, session_count};

impl Engine {
    /// What a purchase would be, or why there can't be one now. Nothing is asked of anybody.
    ///
    /// # Errors
    /// When this node can't buy, and why.
    pub fn quote(&self, instance: InstanceId, amount: Amount, height: Height) -> Result<Quote, Refusal> {
        let factory = self.factories.get(&instance).ok_or(Refusal::Unknown(instance))?;
        let Role::Client { lsp, index } = factory.role else {
            return Err(Refusal::OperatorSells);
        };
        let coin = factory.layout.stock_coin(index).ok_or(Refusal::NoStock)?;
        cooperative(factory, coin, height)?;
        if !self.peers.contains(&lsp) {
            return Err(Refusal::OperatorAway(lsp));
        }
        let number = factory.next_sale(coin);
        let unfinished = factory.sales.of(coin).last().is_some_and(|last| !last.is_signed());
        let asked = self.purchases.get(&instance).is_some_and(Purchase::is_open);
        if asked || unfinished || self.client_sales.contains_key(&(instance, coin)) {
            return Err(Refusal::SaleUnderWay);
        }
        if factory.sales.account().is_due(index) {
            return Err(Refusal::PaymentUnderWay);
        }
        session_count(factory, coin, number, amount)?;
        let stock = factory.stock(coin).map_or(Amount::ZERO, |stock| stock.value);
        let blocks_early = factory.sale_blocks_early(index, number);
        Ok(Quote { lsp, attempt: factory.attempt, coin, number, stock, blocks_early })
    }

    /// `factory-buy`.
    pub(in super::super) fn buy(
        &self,
        d: &mut Draft<'_>,
        instance: InstanceId,
        amount: Amount,
        max_price_msat: u64,
    ) -> Result<Answer, Refusal> {
        let Quote { lsp, attempt, coin, .. } = self.quote(instance, amount, d.height)?;
        let purchase = Purchase {
            coin,
            amount,
            max_price_msat,
            refused: None,
            away: vec![],
            instead: None,
            opened: None,
            deadline: d.now.saturating_add(self.config.ceremony_timeout.saturating_mul(3)),
        };
        d.volatile(Volatile::Sale(instance, coin, VolatileSale::Purchase(Some(purchase))));
        d.send(lsp, Buy { instance, attempt, amount, max_price_msat, jit: self.config.jit.then_some(true) });
        Ok(Answer::Done)
    }

    /// What became of this node's last `factory-buy`; nothing once it is fulfilled.
    pub fn purchase(&self, instance: InstanceId) -> Option<&Purchase> {
        self.purchases.get(&instance)
    }
}
