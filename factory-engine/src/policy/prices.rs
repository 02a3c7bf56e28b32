//! What the operator asks for liquidity.

use std::fmt;

use crate::types::Amount;
use crate::wire::codec::{DecodeError, TlvStream, tlv_struct};

/// A rate beyond this would ask for more than what is sold.
const MAX_PPM: u32 = 1_000_000;

/// A base beyond this is a slip of the pen, msat: 1 BTC.
const MAX_BASE_MSAT: u64 = 100_000_000_000;

tlv_struct! {
    /// What the operator asks: for liquidity out of its stock, and for a renewal.
    #[derive(Copy, Default)]
    pub struct PriceList {
        /// Asked for every sale, whatever its amount, msat.
        pub base_msat: u64 => 0,
        /// Millionths of the channel's capacity, for a whole lifetime of the factory: less as it passes.
        pub ppm: u32 => 2,
        /// Asked for every renewal, whatever the new channel's capacity, msat; absent for nothing.
        pub renewal_base_msat: Option<u64> => 3,
        /// Millionths of the new channel's capacity, asked for a renewal; absent for nothing.
        pub renewal_ppm: Option<u32> => 5,
    }
}

/// Why prices are not taken for meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadPrices {
    /// What is asked each time is too large.
    Base {
        /// Which of the two it is, as `factory-price` calls it.
        name: &'static str,
        /// The base that was given, msat.
        base_msat: u64,
        /// The most that it may be, msat.
        most: u64,
    },
    /// The rate would take more than the whole capacity.
    Rate {
        /// Which of the two it is, as `factory-price` calls it.
        name: &'static str,
        /// The rate that was given, millionths of the capacity.
        ppm: u32,
        /// The most that it may be, millionths.
        most: u32,
    },
}

impl fmt::Display for BadPrices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Base { name, base_msat, most } => {
                write!(f, "{name}: {base_msat} is out of range, it may be 0 to {most}")
            }
            Self::Rate { name, ppm, most } => {
                write!(f, "{name}: {ppm} is out of range, it may be 0 to {most}, which is the whole capacity")
            }
        }
    }
}

impl std::error::Error for BadPrices {}

impl PriceList {
    /// Prices of sales, and renewals for nothing.
    pub fn of_sales(base_msat: u64, ppm: u32) -> Self {
        Self { base_msat, ppm, ..Self::default() }
    }

    /// Looks whether none of it is absurd.
    ///
    /// # Errors
    /// Which number is too large, and what the largest is.
    pub fn check(&self) -> Result<(), BadPrices> {
        let bases = [("base_msat", self.base_msat), ("renewal_base_msat", self.renewal_base_msat())];
        if let Some((name, base_msat)) = bases.into_iter().find(|(_, msat)| *msat > MAX_BASE_MSAT) {
            return Err(BadPrices::Base { name, base_msat, most: MAX_BASE_MSAT });
        }
        let rates = [("ppm", self.ppm), ("renewal_ppm", self.renewal_ppm())];
        if let Some((name, ppm)) = rates.into_iter().find(|(_, ppm)| *ppm > MAX_PPM) {
            return Err(BadPrices::Rate { name, ppm, most: MAX_PPM });
        }
        Ok(())
    }

    /// Asked for every renewal, msat.
    pub fn renewal_base_msat(&self) -> u64 {
        self.renewal_base_msat.unwrap_or(0)
    }

    /// Asked for a renewal, millionths of the new channel's capacity.
    pub fn renewal_ppm(&self) -> u32 {
        self.renewal_ppm.unwrap_or(0)
    }

    /// The price of a renewal into a channel of `amount`, msat, rounded down.
    pub fn renewal_msat(&self, amount: Amount) -> u64 {
        rate(amount, self.renewal_ppm(), (1, 1)).saturating_add(self.renewal_base_msat())
    }

    /// The price of a channel of `amount`, msat, rounded down: base, and the rate for the blocks that are
    /// `left` of the factory's `lifetime`.
    pub fn price_msat(&self, amount: Amount, left: u32, lifetime: u32) -> u64 {
        rate(amount, self.ppm, (left.min(lifetime), lifetime)).saturating_add(self.base_msat)
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

/// So many millionths of an amount, and of them a part of the whole, msat, rounded down; of no whole nothing.
fn rate(amount: Amount, ppm: u32, (part, whole): (u32, u32)) -> u64 {
    let all = u128::from(amount.to_sat()).saturating_mul(1_000).saturating_mul(ppm.into());
    let rate = all.saturating_mul(part.into()).checked_div(u128::from(whole).saturating_mul(1_000_000));
    u64::try_from(rate.unwrap_or(0)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_for_what_is_left_of_the_lifetime() {
        let list = PriceList::of_sales(1_000, 5_000);
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
    fn a_renewal_has_a_list_of_its_own() {
        let list =
            PriceList { renewal_base_msat: Some(3_000), renewal_ppm: Some(2_500), ..PriceList::default() };
        // 0.25 % of 200,000 sat are 500 sat.
        assert_eq!(list.renewal_msat(Amount::from_sat(200_000)), 503_000);
        assert_eq!(list.renewal_msat(Amount::from_sat(1)), 3_002);
        assert_eq!(list.price_msat(Amount::from_sat(200_000), 1, 1), 0);
        let sales = PriceList::of_sales(7, 9);
        assert_eq!(sales.renewal_msat(Amount::from_sat(200_000)), 0);
    }

    #[test]
    fn the_largest_numbers_do_not_overflow() {
        let (base, ppm) = (u64::MAX, u32::MAX);
        let list = PriceList { base_msat: base, ppm, renewal_base_msat: Some(base), renewal_ppm: Some(ppm) };
        assert_eq!(list.price_msat(Amount::MAX_MONEY, u32::MAX, u32::MAX), u64::MAX);
        assert_eq!(list.renewal_msat(Amount::MAX_MONEY), u64::MAX);
    }

    #[test]
    fn absurd_lists_are_refused() {
        let (base_msat, ppm) = (MAX_BASE_MSAT, MAX_PPM);
        let largest =
            PriceList { base_msat, ppm, renewal_base_msat: Some(base_msat), renewal_ppm: Some(ppm) };
        assert_eq!(largest.check(), Ok(()));
        let (base_msat, ppm) = (base_msat + 1, ppm + 1);
        let none = PriceList::default();
        let base = |name| Err(BadPrices::Base { name, base_msat, most: MAX_BASE_MSAT });
        let rate = |name| Err(BadPrices::Rate { name, ppm, most: MAX_PPM });
        assert_eq!(PriceList { base_msat, ..none }.check(), base("base_msat"));
        assert_eq!(PriceList { ppm, ..none }.check(), rate("ppm"));
        let renewal_base_msat = Some(base_msat);
        assert_eq!(PriceList { renewal_base_msat, ..none }.check(), base("renewal_base_msat"));
        assert_eq!(PriceList { renewal_ppm: Some(ppm), ..none }.check(), rate("renewal_ppm"));
    }

    /// A list without prices for renewals is written as it was before there were any.
    #[test]
    fn what_is_kept_comes_back() {
        let list = PriceList::of_sales(7, 9);
        assert_eq!(list.to_bytes(), [0, 8, 0, 0, 0, 0, 0, 0, 0, 7, 2, 4, 0, 0, 0, 9]);
        for renewal_base_msat in [None, Some(8)] {
            let list = PriceList { renewal_base_msat, ..list };
            assert_eq!(PriceList::from_bytes(&list.to_bytes()), Ok(list));
        }
        assert!(PriceList::from_bytes(&[0]).is_err());
    }
}
