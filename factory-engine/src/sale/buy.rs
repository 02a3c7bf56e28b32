//! `factory-buy`: what a purchase would be, and the wish that is sent to the operator.

use crate::engine::Engine;
use crate::io::{Answer, Refusal};
use crate::memory::Volatile;
use crate::memory::sale::{Purchase, VolatileSale};
use crate::record::attempt::Role;
use crate::record::state::State;
use crate::record::unusable::NotCooperative;
use crate::sale::{Quote, check_amount, cooperative};
use crate::step::builder::StepBuilder;
use crate::types::{Amount, Height, InstanceId};
use crate::wire::message::Buy;

impl Engine {
    /// What a purchase would be, or why there can't be one now. Nothing is asked of anybody.
    ///
    /// # Errors
    /// When this node can't buy, and why.
    pub fn quote(&self, instance: InstanceId, amount: Amount, height: Height) -> Result<Quote, Refusal> {
        if let Some(why) = self.damage(instance) {
            return Err(Refusal::Damaged { instance, why: why.to_owned() });
        }
        let factory = self.factories.get(&instance).ok_or(Refusal::Unknown(instance))?;
        let Role::Client { lsp, index } = factory.current.role else {
            return Err(Refusal::OperatorSells);
        };
        let coin = factory.current.layout.stock_coin(index).ok_or(Refusal::NoStock)?;
        cooperative(factory, coin, height)?;
        if self.is_frozen_to_close(instance) {
            return Err(NotCooperative::State(State::Closing).into());
        }
        if !self.peers.contains(&lsp) {
            return Err(Refusal::OperatorAway(lsp));
        }
        let number = factory.next_sale(coin);
        let last = factory.current.sales.of(coin).last();
        let unfinished = last.is_some_and(|last| !last.is_signed() && last.void.is_none());
        let asked = self.purchases.get(&instance).is_some_and(Purchase::is_open);
        if asked || unfinished || self.client_sales.contains_key(&(instance, coin)) {
            return Err(Refusal::SaleUnderWay);
        }
        if factory.current.sales.account().is_due(index) {
            return Err(Refusal::PaymentUnderWay);
        }
        check_amount(factory, coin, amount)?;
        let stock = factory.stock(coin).map_or(Amount::ZERO, |stock| stock.value);
        let blocks_early = factory.sale_blocks_early(index, number);
        Ok(Quote { lsp, attempt: factory.current.number, coin, number, stock, blocks_early })
    }

    /// `factory-buy`: sends a `buy` to the operator.
    pub(crate) fn buy(
        &self,
        step: &mut StepBuilder<'_>,
        instance: InstanceId,
        amount: Amount,
        max_price_msat: u64,
    ) -> Result<Answer, Refusal> {
        let Quote { lsp, attempt, coin, .. } = self.quote(instance, amount, step.height)?;
        let deadline = step.now.saturating_add(self.config.ceremony_timeout.saturating_mul(3));
        let purchase = Purchase::new(coin, amount, max_price_msat, deadline);
        step.volatile(Volatile::Sale(instance, coin, VolatileSale::Purchase(Some(purchase))));
        step.send(
            lsp,
            Buy { instance, attempt, amount, max_price_msat, jit: self.config.jit.then_some(true) },
        );
        Ok(Answer::Done)
    }

    /// What became of this node's last `factory-buy`; nothing once it is fulfilled.
    pub fn purchase(&self, instance: InstanceId) -> Option<&Purchase> {
        self.purchases.get(&instance)
    }
}
