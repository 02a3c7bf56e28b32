//! Which coins of a wallet pay for a transaction: as few as do. No wallet here, no keys: amounts and sizes.

use std::cmp::Reverse;
use std::fmt;

use bitcoin::Amount;

use super::child::{Coin, input_weight};
use super::layout::fee;
use super::scripts::DUST;

/// Largest transaction that relays, weight units.
pub const MOST_WEIGHT: u64 = 400_000;
/// A P2TR output for the change: value, length, script. Weight units.
const CHANGE_WEIGHT: u64 = 4 * (8 + 1 + 34);

/// What is to be paid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Payment {
    /// All outputs together, without change.
    pub amount: Amount,
    /// What inputs bring that are there in any case: coins that aren't the wallet's.
    pub brought: Amount,
    /// Weight of everything but the wallet's inputs and change, weight units.
    pub weight: u64,
    /// Feerate, sat/kw.
    pub feerate: u32,
    /// What has to be left in the wallet that can be spent, the change included.
    pub left: Amount,
}

/// Coins that pay for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    /// The coins, the largest first.
    pub coins: Vec<Coin>,
    /// What comes back, unless it would be dust.
    pub change: Option<Amount>,
}

/// Why no coins pay for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoCoins {
    /// There is too little.
    Short {
        /// How much more it takes.
        missing: Amount,
    },
    /// There would be too little left.
    NothingLeft {
        /// What would be left.
        rest: Amount,
        /// What has to be.
        left: Amount,
    },
    /// It would be larger than what relays.
    TooHeavy {
        /// What it would weigh, weight units.
        weight: u64,
    },
}

impl fmt::Display for NoCoins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Short { missing } => write!(
                f,
                "the wallet lacks {} sat that are confirmed, free and worth their input's fee",
                missing.to_sat()
            ),
            Self::NothingLeft { rest, left } => write!(
                f,
                "{} sat would be left in the wallet, and lightningd keeps {} sat for emergencies \
                 (min-emergency-msat): add to the wallet",
                rest.to_sat(),
                left.to_sat()
            ),
            Self::TooHeavy { weight } => write!(
                f,
                "it would need so many small coins that it weighs {weight} units, and {MOST_WEIGHT} is the most \
                 that relays: merge some of them first (lightning-cli withdraw)"
            ),
        }
    }
}

impl std::error::Error for NoCoins {}

impl Payment {
    /// Chooses among coins that are all free. The largest first, so that they are few, and as the last the
    /// smallest that will do.
    ///
    /// # Errors
    /// When they don't do.
    pub fn choose(&self, free: &[Coin]) -> Result<Chosen, NoCoins> {
        let mut worth: Vec<(Amount, &Coin)> = free
            .iter()
            .filter_map(|coin| {
                let cost = fee(input_weight(coin), self.feerate)?;
                let brings = coin.output.value.checked_sub(cost).filter(|brings| *brings > Amount::ZERO)?;
                Some((brings, coin))
            })
            .collect();
        worth.sort_by_key(|(brings, coin)| (Reverse(*brings), coin.outpoint));
        let price = self.price(self.weight);
        let mut sum = self.brought;
        let mut number = 0;
        for (brings, _) in &worth {
            if sum >= price {
                break;
            }
            sum = add(sum, *brings);
            number += 1;
        }
        if let Some(missing) = price.checked_sub(sum).filter(|missing| *missing > Amount::ZERO) {
            return Err(NoCoins::Short { missing });
        }
        let (mut coins, rest) = worth.split_at(number);
        let mut chosen: Vec<&Coin> = coins.iter().map(|(_, coin)| *coin).collect();
        if let Some((last, others)) = coins.split_last() {
            coins = others;
            let before = coins.iter().fold(self.brought, |sum, (brings, _)| add(sum, *brings));
            let enough = |(brings, _): &&(Amount, &Coin)| add(before, *brings) >= price;
            let (_, smallest) = rest.iter().rev().find(enough).unwrap_or(last);
            chosen.pop();
            chosen.push(smallest);
        }
        self.pay(chosen.into_iter().cloned().collect(), free)
    }

    fn pay(&self, coins: Vec<Coin>, free: &[Coin]) -> Result<Chosen, NoCoins> {
        let weight = coins.iter().fold(self.weight, |sum, coin| sum.saturating_add(input_weight(coin)));
        let with_change = weight.saturating_add(CHANGE_WEIGHT);
        if with_change > MOST_WEIGHT {
            return Err(NoCoins::TooHeavy { weight: with_change });
        }
        let own = total(&coins);
        let change =
            add(own, self.brought).checked_sub(self.price(with_change)).filter(|change| *change >= DUST);
        let others = total(free).checked_sub(own).unwrap_or(Amount::ZERO);
        let rest = add(others, change.unwrap_or(Amount::ZERO));
        if rest < self.left {
            return Err(NoCoins::NothingLeft { rest, left: self.left });
        }
        Ok(Chosen { coins, change })
    }

    /// Outputs and the fee for so much weight; more than there is, if that is no amount.
    fn price(&self, weight: u64) -> Amount {
        add(self.amount, fee(weight, self.feerate).unwrap_or(Amount::MAX))
    }
}

fn total(coins: &[Coin]) -> Amount {
    coins.iter().fold(Amount::ZERO, |sum, coin| add(sum, coin.output.value))
}

fn add(one: Amount, other: Amount) -> Amount {
    one.checked_add(other).unwrap_or(Amount::MAX)
}

#[cfg(test)]
mod tests {
    use bitcoin::hashes::Hash;
    use bitcoin::{OutPoint, ScriptBuf, TxOut, Txid};

    use super::*;

    fn coins(values: &[u64]) -> Vec<Coin> {
        let coin = |(vout, value): (u32, &u64)| Coin {
            outpoint: OutPoint { txid: Txid::from_byte_array([1; 32]), vout },
            output: TxOut {
                value: Amount::from_sat(*value),
                script_pubkey: ScriptBuf::from_bytes([vec![0x51, 0x20], vec![7; 32]].concat()),
            },
        };
        (0u32..).zip(values).map(coin).collect()
    }

    fn payment(amount: u64) -> Payment {
        let brought = Amount::ZERO;
        Payment { amount: Amount::from_sat(amount), brought, weight: 200, feerate: 1_000, left: Amount::ZERO }
    }

    fn values(chosen: &Chosen) -> Vec<u64> {
        chosen.coins.iter().map(|coin| coin.output.value.to_sat()).collect()
    }

    /// Each input takes 230 sat at this feerate, the rest 200, change 172.
    const INPUT: u64 = 230;

    #[test]
    fn as_few_as_do() {
        let small = vec![10_000; 300];
        let mut mixed = small.clone();
        mixed.push(1_000_000);
        let chosen = payment(500_000).choose(&coins(&mixed)).unwrap();
        assert_eq!(values(&chosen), [1_000_000]);
        assert_eq!(chosen.change, Some(Amount::from_sat(1_000_000 - 500_000 - INPUT - 200 - 172)));
        // All small, and only as many as it takes.
        let chosen = payment(2_000_000).choose(&coins(&small)).unwrap();
        assert_eq!(chosen.coins.len(), (2_000_000usize + 200).div_ceil(10_000 - 230));
        // The last one is the smallest that will do: the larger ones stay in one piece.
        let chosen = payment(130_000).choose(&coins(&[100_000, 90_000, 80_000, 31_000, 20_000])).unwrap();
        assert_eq!(values(&chosen), [100_000, 31_000]);
        let chosen = payment(15_000).choose(&coins(&[100_000, 90_000, 20_000, 16_000])).unwrap();
        assert_eq!(values(&chosen), [16_000]);
    }

    /// Whatever is chosen pays exactly its fee, or less than dust more, and no fewer coins would do.
    #[test]
    fn what_is_chosen_pays() {
        let all = coins(&(1..60).map(|number| number * 997 % 50_000 + 200).collect::<Vec<_>>());
        let everything: u64 = all.iter().map(|coin| coin.output.value.to_sat()).sum();
        for amount in (1_000..everything).step_by(7_777) {
            let payment = payment(amount);
            let Ok(chosen) = payment.choose(&all) else {
                assert!(amount + 59 * INPUT + 200 > everything, "{amount} of {everything}");
                continue;
            };
            let have: u64 = values(&chosen).iter().sum();
            let inputs = chosen.coins.len() as u64 * INPUT;
            let over = have - amount - inputs - 200;
            match chosen.change {
                Some(change) => assert_eq!((over - 172, true), (change.to_sat(), change >= DUST)),
                None => assert!(over < 172 + 330, "{over}"),
            }
            let mut largest: Vec<u64> = all
                .iter()
                .map(|coin| coin.output.value.to_sat() - INPUT.min(coin.output.value.to_sat()))
                .collect();
            largest.sort_unstable_by_key(|value| Reverse(*value));
            let fewer: u64 = largest.iter().take(chosen.coins.len() - 1).sum();
            assert!(fewer < amount + 200, "{} coins are too many for {amount}", chosen.coins.len());
        }
    }

    #[test]
    fn why_not() {
        let short = payment(20_000).choose(&coins(&[10_000, 5_000, 100])).unwrap_err();
        // The last one isn't worth its input.
        assert_eq!(short, NoCoins::Short { missing: Amount::from_sat(20_200 - 15_000 + 2 * INPUT) });
        assert_eq!(payment(10).choose(&[]).unwrap_err(), NoCoins::Short { missing: Amount::from_sat(210) });
        // What isn't chosen counts towards what is left, and so does change.
        let left = Payment { left: Amount::from_sat(25_000), ..payment(50_000) };
        let rest = left.choose(&coins(&[60_000])).unwrap_err();
        assert_eq!(
            rest,
            NoCoins::NothingLeft {
                rest: Amount::from_sat(60_000 - 50_000 - INPUT - 200 - 172),
                left: left.left
            }
        );
        assert!(left.choose(&coins(&[60_000, 16_000])).is_ok());
        let many = vec![1_000; 2_000];
        let heavy = payment(1_500_000).choose(&coins(&many)).unwrap_err();
        assert!(matches!(heavy, NoCoins::TooHeavy { weight } if weight > MOST_WEIGHT), "{heavy}");
        assert!(heavy.to_string().contains("merge some of them"));
        assert!(payment(u64::MAX).choose(&coins(&many)).is_err());
    }
}
