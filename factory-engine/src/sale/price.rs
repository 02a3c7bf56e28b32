//! What liquidity costs: the operator's list, and the question for a price.

use crate::engine::Engine;
use crate::io::{Answer, Refusal};
use crate::memory::Volatile;
use crate::memory::sale::{Asked, NoPrice, Quoted, VolatileSale};
use crate::policy::prices::PriceList;
use crate::record::attempt::Role;
use crate::record::factory::Factory;
use crate::sale::error::CannotSell;
use crate::sale::lsp::refusal;
use crate::sale::{Quote, check_amount, cooperative};
use crate::step::builder::StepBuilder;
use crate::step::fault::Fault;
use crate::terms::ClientIndex;
use crate::tx::layout::CoinIndex;
use crate::types::{Amount, Height, InstanceId, NodeId};
use crate::wire::message::{AskPrice, Price};

/// Sales of L that are under way at once, of all its factories (S28).
const MAX_SALES: usize = 256;

impl Factory {
    /// What a list makes of a channel of `amount` at `height`, msat.
    fn price_msat(&self, list: &PriceList, amount: Amount, height: Height) -> u64 {
        let end = self.current.terms.timeout_height;
        let begin = self.funding_height().unwrap_or(height);
        list.price_msat(amount, end.saturating_sub(height), end.saturating_sub(begin))
    }
}

impl Engine {
    /// What this node asks for liquidity. The plugin keeps it in the datastore before it says it here.
    pub fn set_prices(&mut self, prices: PriceList) {
        self.next_generation();
        self.config.prices = prices;
        self.prices_unknown = false;
    }

    /// The list that was set is lost: nothing is sold before there is one again.
    pub fn forget_prices(&mut self) {
        self.next_generation();
        self.prices_unknown = true;
    }

    /// Whether nothing is sold because the list of prices is lost.
    pub fn prices_unknown(&self) -> bool {
        self.prices_unknown
    }

    /// What this node asks for liquidity.
    pub fn prices(&self) -> PriceList {
        self.config.prices
    }

    /// L: what a channel would cost this client now, msat, or why there can't be one.
    pub(crate) fn price_for(
        &self,
        factory: &Factory,
        coin: CoinIndex,
        buyer: ClientIndex,
        amount: Amount,
        height: Height,
    ) -> Result<u64, CannotSell> {
        let blocked = self.is_blocked(factory, coin, height);
        self.may_sell(factory, coin, height)?;
        if self.prices_unknown {
            return Err(CannotSell::NoPrices);
        }
        if factory.current.sales.account().is_due(buyer) {
            return Err(CannotSell::Unsettled);
        }
        if self.lsp_sales.len() >= MAX_SALES {
            return Err(CannotSell::Busy);
        }
        if blocked && self.has_blocked(factory, coin, buyer) {
            return Err(CannotSell::Withheld);
        }
        if blocked && !self.config.jit {
            return Err(CannotSell::Blocked);
        }
        check_amount(factory, coin, amount)?;
        Ok(factory.price_msat(&self.config.prices, amount, height))
    }

    pub(crate) fn on_ask_price(
        &self,
        step: &mut StepBuilder<'_>,
        peer: NodeId,
        question: &AskPrice,
    ) -> Result<(), Fault> {
        let (factory, buyer, coin) = self.sale_member(peer, question.instance, question.attempt)?;
        let amount = question.amount;
        match self.price_for(factory, coin, buyer, amount, step.height) {
            Err(reason) => step.send(peer, refusal(factory, 0, &reason.to_string())),
            Ok(price_msat) => {
                let (instance, attempt) = (factory.instance, factory.current.number);
                let away = u32::try_from(self.away(factory, coin).len()).unwrap_or(u32::MAX);
                step.send(peer, Price { instance, attempt, amount, price_msat, away });
            }
        }
        Ok(())
    }

    /// `factory-buy` with `dry_run`: asks the operator what it would cost.
    pub(crate) fn ask_price(
        &self,
        step: &mut StepBuilder<'_>,
        instance: InstanceId,
        amount: Amount,
    ) -> Result<Answer, Refusal> {
        let Quote { lsp, attempt, coin, .. } = self.quote(instance, amount, step.height)?;
        let asked = Asked { amount, answer: None };
        step.volatile(Volatile::Sale(instance, coin, VolatileSale::Asked(asked)));
        step.send(lsp, AskPrice { instance, attempt, amount });
        Ok(Answer::Done)
    }

    pub(crate) fn on_price(
        &self,
        step: &mut StepBuilder<'_>,
        peer: NodeId,
        price: &Price,
    ) -> Result<(), Fault> {
        let (factory, _, coin) = self.sub_factory(peer, price.instance, price.attempt)?;
        let quoted = Quoted { price_msat: price.price_msat, away: price.away };
        self.answer_price(step, factory, coin, Some(price.amount), Ok(quoted));
        Ok(())
    }

    /// The answer to a question that waits for one; an `amount` has to be the one that was asked about.
    pub(crate) fn answer_price(
        &self,
        step: &mut StepBuilder<'_>,
        factory: &Factory,
        coin: CoinIndex,
        amount: Option<Amount>,
        answer: Result<Quoted, NoPrice>,
    ) {
        let open =
            |asked: &&Asked| asked.answer.is_none() && amount.is_none_or(|amount| amount == asked.amount);
        if let Some(asked) = self.asked.get(&factory.instance).filter(open) {
            let asked = Asked { answer: Some(answer), ..asked.clone() };
            step.volatile(Volatile::Sale(factory.instance, coin, VolatileSale::Asked(asked)));
        }
    }

    /// What the operator said to this node's last question for a price; nothing until it has.
    pub fn asked_price(&self, instance: InstanceId) -> Option<&Result<Quoted, NoPrice>> {
        self.asked.get(&instance)?.answer.as_ref()
    }

    /// L: whether a new sale may begin.
    pub(crate) fn may_sell(
        &self,
        factory: &Factory,
        coin: CoinIndex,
        height: Height,
    ) -> Result<(), CannotSell> {
        cooperative(factory, coin, height)?;
        let unfinished = factory.current.sales.of(coin).last().is_some_and(|last| !last.stored);
        let goes_on = unfinished && !self.is_blocked(factory, coin, height);
        if self.lsp_sales.contains_key(&(factory.instance, coin)) || goes_on {
            return Err(CannotSell::UnderWay);
        }
        Ok(())
    }

    /// What this client has paid the operator for purchases that came to nothing, msat: it counts towards
    /// the next. Nothing for an operator.
    pub fn credit_msat(&self, instance: InstanceId) -> u64 {
        let factory = self.factories.get(&instance);
        factory.map_or(0, |factory| match factory.current.role {
            Role::Client { index, .. } => factory.current.sales.account().credit(index),
            Role::Lsp => 0,
        })
    }
}
