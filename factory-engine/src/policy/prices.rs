//! What the operator asks for liquidity.

use std::fmt;

use crate::types::Amount;
use crate::wire::codec::{DecodeError, TlvStream, tlv_struct};

/// A rate beyond this would ask for more than what is sold.
const MAX_PPM: u32 = 1_000_000;

/// A base beyond this is a slip of the pen, msat: 1 BTC.
const MAX_BASE_MSAT: u64 = 100_000_000_000;

tlv_struct! {
    /// What the operator asks for liquidity out of its stock.
    #[derive(Copy, Default)]
    pub struct PriceList {
        /// Asked for every sale, whatever its amount, msat.
        pub base_msat: u64 => 0,
        /// Millionths of the channel's capacity, for a whole lifetime of the factory: less as it passes.
        pub ppm: u32 => 2,
    }
}

/// Why prices are not taken for meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadPrices {
    /// The price of every sale is too large.
    Base {
        /// The base that was given, msat.
        base_msat: u64,
        /// The most that it may be, msat.
        most: u64,
    },
    /// The rate would take more than the whole capacity.
    Rate {
        /// The rate that was given, millionths of the capacity.
        ppm: u32,
        /// The most that it may be, millionths.
        most: u32,
    },
}

impl fmt::Display for BadPrices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Base { base_msat, most } => {
                write!(f, "base_msat: {base_msat} is out of range, it may be 0 to {most}")
            }
            Self::Rate { ppm, most } => {
                write!(f, "ppm: {ppm} is out of range, it may be 0 to {most}, which is the whole capacity")
            }
        }
    }
}

impl std::error::Error for BadPrices {}

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
