//! L takes coins back by their key paths, once all of their clients have handed their keys over (S22, S38): one
//! transaction for as many coins of a factory as there are, or inputs of another transaction. No keys here.

use std::fmt;

use bitcoin::absolute::LockTime;
use bitcoin::hashes::Hash;
use bitcoin::sighash::{Prevouts, SighashCache, TapSighashType, TaprootError};
use bitcoin::transaction::Version;
use bitcoin::{Amount, ScriptBuf, Transaction, TxOut, Witness};

use super::child::{Coin, unsigned_input};
use super::layout::fee;
use super::scripts::DUST;

/// Coins that one transaction takes at most: it stays far below what relays (100,000 vB).
pub const MOST_COINS: usize = 500;

/// What an input by key path weighs, weight units: outpoint, empty scriptSig, nSequence, one signature.
pub const KEY_PATH_WEIGHT: u64 = 4 * 41 + 1 + 1 + 64;

/// What such a transaction has to pay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pays {
    /// The feerate that is wanted, sat/kw.
    pub feerate: u32,
    /// What is always paid, sat/kw: beyond it the fee is at most half of what is taken.
    pub least: u32,
}

/// Why coins are not taken back.
#[derive(Debug)]
pub enum NotTaken {
    /// They are not worth the fee of the transaction that would take them.
    Fee {
        /// What they are worth together.
        value: Amount,
        /// What the transaction would pay.
        fee: Amount,
    },
    /// Together they are more money than there is.
    Amounts,
    /// No signature hash could be made.
    Sighash(TaprootError),
}

impl fmt::Display for NotTaken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fee { value, fee } => write!(f, "their {value} are not worth the fee of {fee}"),
            Self::Amounts => f.write_str("together they are more money than there is"),
            Self::Sighash(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for NotTaken {}

/// Of these coins those that are worth their own input at a feerate (sat/kw), the dearest first, and no more
/// than one transaction takes.
pub fn worth_it(mut coins: Vec<Coin>, feerate: u32) -> Vec<Coin> {
    let cost = fee(KEY_PATH_WEIGHT, feerate).unwrap_or(Amount::MAX_MONEY);
    coins.retain(|coin| coin.output.value > cost);
    coins.sort_by_key(|coin| (std::cmp::Reverse(coin.output.value), coin.outpoint));
    coins.truncate(MOST_COINS);
    coins
}

/// The transaction that pays all of these coins to one script, unsigned. It can be replaced (BIP-125).
///
/// # Errors
/// When they are not worth it.
pub fn unsigned(coins: &[Coin], script: &ScriptBuf, pays: Pays) -> Result<Transaction, NotTaken> {
    let add = |sum: Amount, coin: &Coin| sum.checked_add(coin.output.value);
    let value = coins.iter().try_fold(Amount::ZERO, add).ok_or(NotTaken::Amounts)?;
    let mut tx = Transaction {
        version: Version::TWO,
        lock_time: LockTime::ZERO,
        input: coins.iter().map(|coin| unsigned_input(coin.outpoint)).collect(),
        output: vec![TxOut { value, script_pubkey: script.clone() }],
    };
    let weight = {
        let mut signed = tx.clone();
        signed.input.iter_mut().for_each(|input| input.witness = witness(&[0; 64]));
        signed.weight().to_wu()
    };
    let costs = |feerate| fee(weight, feerate).unwrap_or(Amount::MAX_MONEY);
    let fee = costs(pays.feerate).min(costs(pays.least).max(value / 2));
    let left = value.checked_sub(fee).filter(|left| *left >= DUST).ok_or(NotTaken::Fee { value, fee })?;
    if let Some(output) = tx.output.first_mut() {
        output.value = left;
    }
    Ok(tx)
}

/// What a coin's key signs in a transaction that spends `prevouts`, at this place (BIP-341, SIGHASH_DEFAULT).
///
/// # Errors
/// When the number of outputs is wrong.
pub fn sighash(tx: &Transaction, place: usize, prevouts: &[TxOut]) -> Result<[u8; 32], NotTaken> {
    SighashCache::new(tx)
        .taproot_key_spend_signature_hash(place, &Prevouts::All(prevouts), TapSighashType::Default)
        .map(|hash| hash.to_byte_array())
        .map_err(NotTaken::Sighash)
}

/// The witness of a spend by key path.
pub fn witness(signature: &[u8; 64]) -> Witness {
    Witness::from_slice(&[signature.as_slice()])
}

#[cfg(test)]
mod tests {
    use bitcoin::{OutPoint, Txid};

    use super::*;

    fn coin(vout: u32, sat: u64) -> Coin {
        let outpoint = OutPoint { txid: Txid::from_byte_array([7; 32]), vout };
        let script_pubkey = ScriptBuf::from_bytes([vec![0x51, 0x20], vec![8; 32]].concat());
        Coin { outpoint, output: TxOut { value: Amount::from_sat(sat), script_pubkey } }
    }

    fn payout() -> ScriptBuf {
        ScriptBuf::from_bytes([vec![0x51, 0x20], vec![9; 32]].concat())
    }

    fn paid(coins: &[Coin], tx: &Transaction) -> u64 {
        coins.iter().map(|coin| coin.output.value.to_sat()).sum::<u64>() - tx.output[0].value.to_sat()
    }

    #[test]
    fn an_input_weighs_what_is_reckoned() {
        let weight = |coins: &[Coin]| {
            let pays = Pays { feerate: 1_000, least: 253 };
            let mut tx = unsigned(coins, &payout(), pays).unwrap();
            tx.input.iter_mut().for_each(|input| input.witness = witness(&[1; 64]));
            tx.weight().to_wu()
        };
        let coins = [coin(0, 100_000), coin(1, 100_000), coin(2, 100_000)];
        assert_eq!(weight(&coins) - weight(&coins[..2]), KEY_PATH_WEIGHT);
        // One input, one output: 111 vB.
        assert_eq!(weight(&coins[..1]).div_ceil(4), 111);
    }

    // S26
    #[test]
    fn the_fee_is_the_feerate_up_to_half_of_what_is_taken() {
        let coins = [coin(0, 100_000), coin(1, 20_000)];
        let at = |feerate| unsigned(&coins, &payout(), Pays { feerate, least: 1_000 });
        let weight = 4 * 111 + KEY_PATH_WEIGHT - 2;
        let fee = paid(&coins, &at(2_000).unwrap());
        assert!(fee.abs_diff(2 * weight) <= 8, "{fee} for {weight} WU");
        assert_eq!(paid(&coins, &at(1_000_000).unwrap()), 60_000);
        let dust = [coin(0, 900)];
        let error = unsigned(&dust, &payout(), Pays { feerate: 1_500, least: 1_500 }).unwrap_err();
        assert!(matches!(error, NotTaken::Fee { .. }), "{error}");
    }

    #[test]
    fn what_costs_more_than_it_brings_is_left() {
        let coins = vec![coin(0, 500), coin(1, 100_000), coin(2, 2_300), coin(3, 2_299)];
        let taken: Vec<u32> = worth_it(coins, 10_000).iter().map(|coin| coin.outpoint.vout).collect();
        assert_eq!(taken, [1]);
        let many = (0..600).map(|vout| coin(vout, 10_000)).collect();
        assert_eq!(worth_it(many, 253).len(), MOST_COINS);
    }

    #[test]
    fn a_signature_hash_needs_every_output() {
        let coins = [coin(0, 100_000), coin(1, 100_000)];
        let tx = unsigned(&coins, &payout(), Pays { feerate: 253, least: 253 }).unwrap();
        let prevouts: Vec<TxOut> = coins.iter().map(|coin| coin.output.clone()).collect();
        assert_ne!(sighash(&tx, 0, &prevouts).unwrap(), sighash(&tx, 1, &prevouts).unwrap());
        assert!(sighash(&tx, 0, &prevouts[..1]).is_err());
    }
}
