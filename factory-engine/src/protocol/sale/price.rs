//! What liquidity costs: the operator's list, and the question for a price.

use crate::terms::ClientIndex;
use crate::tx::layout::CoinIndex;
use crate::types::{Amount, Height, InstanceId, NodeId};
use crate::wire::codec::{DecodeError, TlvStream, tlv_struct};
use crate::wire::message::{AskPrice, Price};

use super::super::Engine;
use super::super::ceremony::Volatile;
use super::super::draft::{Draft, Fault};
use super::super::factory::{Factory, Role};
use super::super::io::{Answer, Refusal};
use super::lsp::refusal;
use super::{Asked, BadPrices, CannotSell, NoPrice, Quote, Quoted, VolatileSale, cooperative, session_count};

/// A rate beyond this would ask for more than what is sold.
const MAX_PPM: u32 = 1_000_000;
/// A base beyond this is a slip of the pen, msat: 1 BTC.
const MAX_BASE_MSAT: u64 = 100_000_000_000;

tlv_struct! {
    /// What the operator asks for liquidity out of its stock.
    #[derive(Copy, Default)]
    pub struct PriceList {
        /// For every sale, msat.
        pub base_msat: u64 => 0,
        /// Millionths of the channel's capacity, for a whole lifetime of the factory: less as it passes.
        pub ppm: u32 => 2,
    }
}

impl PriceList {
    /// A list that isn't absurd.
    ///
    /// # Errors
    /// Which number is too large, and what the largest is.
    pub fn new(base_msat: u64, ppm: u32) -> Result<Self, BadPrices> {
        if base_msat > MAX_BASE_MSAT {
            return Err(BadPrices::Base { base_msat, most: MAX_BASE_MSAT });
        }
        if ppm > MAX_PPM {
            return Err(BadPrices::Rate { ppm, most: MAX_PPM });
        }
        Ok(Self { base_msat, ppm })
    }

    /// The price of a channel of `amount`, msat, rounded down: base, and the rate for the blocks that are
    /// `left` of the factory's `lifetime`.
    pub fn price_msat(&self, amount: Amount, left: u32, lifetime: u32) -> u64 {
        let whole = u128::from(amount.to_sat()).saturating_mul(1000).saturating_mul(self.ppm.into());
        let part = whole.saturating_mul(left.min(lifetime).into());
        let rate = part.checked_div(u128::from(lifetime).saturating_mul(1_000_000)).unwrap_or(0);
        u64::try_from(rate).unwrap_or(u64::MAX).saturating_add(self.base_msat)
    }

    /// As it is kept in the datastore.
    pub fn to_bytes(self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.write_stream(&mut bytes);
        bytes
    }

    /// What [`PriceList::to_bytes`] made.
    ///
    /// # Errors
    /// When the bytes are damaged, or a newer plugin's.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        Self::read_stream(bytes)
    }
}

impl Factory {
    /// What a list makes of a channel of `amount` at `height`, msat.
    fn price_msat(&self, list: &PriceList, amount: Amount, height: Height) -> u64 {
        let end = self.terms.timeout_height;
        let begin = self.funding_height().unwrap_or(height);
        list.price_msat(amount, end.saturating_sub(height), end.saturating_sub(begin))
    }
}

impl Engine {
    /// What this node asks for liquidity. The plugin keeps it in the datastore before it says it here.
    pub fn set_prices(&mut self, prices: PriceList) {
        self.next_generation();
        self.config.prices = prices;
    }

    /// What this node asks for liquidity.
    pub fn prices(&self) -> PriceList {
        self.config.prices
    }

    /// L: what a channel would cost this client now, msat, or why there can't be one.
    pub(super) fn price_for(
        &self,
        factory: &Factory,
        coin: CoinIndex,
        buyer: ClientIndex,
        amount: Amount,
        height: Height,
    ) -> Result<u64, CannotSell> {
        self.may_sell(factory, coin, height)?;
        if factory.sales.account().is_due(buyer) {
            return Err(CannotSell::Unsettled);
        }
        session_count(factory, coin, factory.next_sale(coin), amount)?;
        Ok(factory.price_msat(&self.config.prices, amount, height))
    }

    pub(in super::super) fn on_ask_price(
        &self,
        d: &mut Draft<'_>,
        peer: NodeId,
        question: &AskPrice,
    ) -> Result<(), Fault> {
        let (factory, buyer, coin) = self.sale_member(peer, question.instance, question.attempt)?;
        let amount = question.amount;
        match self.price_for(factory, coin, buyer, amount, d.height) {
            Err(reason) => d.send(peer, refusal(factory, 0, &reason.to_string())),
            Ok(price_msat) => {
                let (instance, attempt) = (factory.instance, factory.attempt);
                let away = self.away(factory, coin);
                d.send(peer, Price { instance, attempt, amount, price_msat, away });
            }
        }
        Ok(())
    }

    /// `factory-buy` with `dry_run`: asks the operator what it would cost.
    pub(in super::super) fn ask_price(
        &self,
        d: &mut Draft<'_>,
        instance: InstanceId,
        amount: Amount,
    ) -> Result<Answer, Refusal> {
        let Quote { lsp, attempt, coin, .. } = self.quote(instance, amount, d.height)?;
        let asked = Asked { amount, answer: None };
        d.volatile(Volatile::Sale(instance, coin, VolatileSale::Asked(asked)));
        d.send(lsp, AskPrice { instance, attempt, amount });
        Ok(Answer::Done)
    }

    pub(in super::super) fn on_price(
        &self,
        d: &mut Draft<'_>,
        peer: NodeId,
        price: &Price,
    ) -> Result<(), Fault> {
        let (factory, _, coin) = self.sub_factory(peer, price.instance, price.attempt)?;
        let quoted = Quoted { price_msat: price.price_msat, away: price.away.clone() };
        self.answer_price(d, factory, coin, Some(price.amount), Ok(quoted));
        Ok(())
    }

    /// The answer to a question that waits for one; an `amount` has to be the one that was asked about.
    pub(super) fn answer_price(
        &self,
        d: &mut Draft<'_>,
        factory: &Factory,
        coin: CoinIndex,
        amount: Option<Amount>,
        answer: Result<Quoted, NoPrice>,
    ) {
        let open =
            |asked: &&Asked| asked.answer.is_none() && amount.is_none_or(|amount| amount == asked.amount);
        if let Some(asked) = self.asked.get(&factory.instance).filter(open) {
            let asked = Asked { answer: Some(answer), ..asked.clone() };
            d.volatile(Volatile::Sale(factory.instance, coin, VolatileSale::Asked(asked)));
        }
    }

    /// What the operator said to this node's last question for a price; nothing until it has.
    pub fn asked_price(&self, instance: InstanceId) -> Option<&Result<Quoted, NoPrice>> {
        self.asked.get(&instance)?.answer.as_ref()
    }

    /// L: whether a new sale may begin.
    pub(super) fn may_sell(
        &self,
        factory: &Factory,
        coin: CoinIndex,
        height: Height,
    ) -> Result<(), CannotSell> {
        cooperative(factory, coin, height)?;
        let unfinished = factory.sales.of(coin).last().is_some_and(|last| !last.stored);
        if self.lsp_sales.contains_key(&(factory.instance, coin)) || unfinished {
            return Err(CannotSell::UnderWay);
        }
        Ok(())
    }

    /// What this client has paid the operator for purchases that came to nothing, msat: it counts towards
    /// the next. Nothing for an operator.
    pub fn credit_msat(&self, instance: InstanceId) -> u64 {
        let factory = self.factories.get(&instance);
        factory.map_or(0, |factory| match factory.role {
            Role::Client { index, .. } => factory.sales.account().credit(index),
            Role::Lsp => 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_for_what_is_left_of_the_lifetime() {
        let list = PriceList { base_msat: 1_000, ppm: 5_000 };
        let amount = Amount::from_sat(200_000);
        // 0.5 % of 200,000 sat are 1,000 sat.
        assert_eq!(list.price_msat(amount, 100, 100), 1_001_000);
        assert_eq!(list.price_msat(amount, 25, 100), 251_000);
        assert_eq!(list.price_msat(amount, 0, 100), 1_000);
        // Rounded down; a factory can't have more left than its lifetime.
        assert_eq!(list.price_msat(Amount::from_sat(1), 1, 3), 1_001);
        assert_eq!(list.price_msat(amount, 101, 100), 1_001_000);
        assert_eq!(list.price_msat(amount, 0, 0), 1_000);
        assert_eq!(PriceList::default().price_msat(amount, 100, 100), 0);
    }

    #[test]
    fn the_largest_numbers_do_not_overflow() {
        let list = PriceList { base_msat: u64::MAX, ppm: u32::MAX };
        assert_eq!(list.price_msat(Amount::MAX_MONEY, u32::MAX, u32::MAX), u64::MAX);
    }

    #[test]
    fn absurd_lists_are_refused() {
        assert!(PriceList::new(MAX_BASE_MSAT, MAX_PPM).is_ok());
        let (base_msat, ppm) = (MAX_BASE_MSAT + 1, MAX_PPM + 1);
        let base = BadPrices::Base { base_msat, most: MAX_BASE_MSAT };
        assert_eq!(PriceList::new(base_msat, 0), Err(base));
        assert_eq!(PriceList::new(0, ppm), Err(BadPrices::Rate { ppm, most: MAX_PPM }));
    }

    #[test]
    fn what_is_kept_comes_back() {
        let list = PriceList { base_msat: 7, ppm: 9 };
        assert_eq!(PriceList::from_bytes(&list.to_bytes()), Ok(list));
        assert!(PriceList::from_bytes(&[0]).is_err());
    }
}
