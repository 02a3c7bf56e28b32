//! Coins that a child may spend, in the order of what they are worth.

use std::collections::BTreeMap;

use bitcoin::hashes::Hash;
use bitcoin::{Amount, OutPoint, Txid};

use super::Coin;

/// Coins by what they are worth: one that is enough is found without a look at all of them, of which a wallet may
/// have as many as there are children to be made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Purse(BTreeMap<(Amount, OutPoint), Coin>);

fn key(coin: &Coin) -> (Amount, OutPoint) {
    (coin.output.value, coin.outpoint)
}

impl Purse {
    /// Puts a coin in.
    pub fn put(&mut self, coin: Coin) {
        self.0.insert(key(&coin), coin);
    }

    /// Takes a coin out. Whether it was there.
    pub fn take(&mut self, coin: &Coin) -> bool {
        self.0.remove(&key(coin)).is_some()
    }

    /// Coins that are worth so much and more, the smallest first.
    pub fn worth(&self, least: Amount) -> impl DoubleEndedIterator<Item = &Coin> {
        let first = OutPoint { txid: Txid::all_zeros(), vout: 0 };
        self.0.range((least, first)..).map(|(_, coin)| coin)
    }
}

impl FromIterator<Coin> for Purse {
    fn from_iter<T: IntoIterator<Item = Coin>>(coins: T) -> Self {
        Self(coins.into_iter().map(|coin| (key(&coin), coin)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::coin;
    use super::*;

    #[test]
    fn from_the_smallest_that_is_worth_so_much() {
        let coins = [(1, 500), (2, 700), (3, 500), (4, 900)].map(|(at, sat)| coin(at, sat));
        let mut purse = Purse::from_iter(coins);
        let worth = |purse: &Purse, sat| {
            purse.worth(Amount::from_sat(sat)).map(|coin| coin.outpoint.vout - 100).collect::<Vec<_>>()
        };
        assert_eq!(worth(&purse, 0), [1, 3, 2, 4]);
        assert_eq!(worth(&purse, 500), [1, 3, 2, 4]);
        assert_eq!(worth(&purse, 501), [2, 4]);
        assert!(worth(&purse, 901).is_empty());
        assert!(purse.take(&coin(2, 700)) && !purse.take(&coin(2, 700)));
        purse.put(coin(5, 800));
        assert_eq!(worth(&purse, 501), [5, 4]);
    }
}
