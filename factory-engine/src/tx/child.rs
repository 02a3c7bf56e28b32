//! The child that raises a transaction's fee: it spends the P2A anchor and coins of a wallet, so that
//! parent and child together pay the feerate that is wanted. No wallet here, no keys: amounts and sizes.

mod children;
mod purse;

use std::fmt;

use bitcoin::transaction::Version;
use bitcoin::{Amount, OutPoint, ScriptBuf, Sequence, Transaction, TxIn, TxOut, Witness, absolute::LockTime};

pub use children::{Children, Draft, Own};
pub use purse::Purse;

use super::layout::{fee, vbytes};
use super::scripts::{ANCHOR_VALUE, DUST, anchor_script};

/// Largest child of an unconfirmed version 3 transaction, weight units (BIP-431: 1,000 vB).
pub const MAX_CHILD_WEIGHT: u64 = 4_000;
/// What a replacement has to pay on top of what it replaces, sat/vB (BIP-125 rule 4 at Bitcoin Core's
/// default `incrementalrelayfee`).
pub const INCREMENT: u64 = 1;
/// Lowest feerate of the child by itself, sat/kw: 1 sat/vB.
const MIN_FEERATE: u32 = 253;
/// Smallest transaction that relays, weight units (65 bytes without witness).
const SMALLEST_WEIGHT: u64 = 4 * 65;

/// A commitment transaction with an HTLC and anchors, weight units (BOLT 3).
pub const COMMITMENT_WEIGHT: u64 = 1_124 + 172;
/// HTLC-success, the heavier one, with zero-fee anchors: weight units (BOLT 3).
pub const HTLC_WEIGHT: u64 = 706;

/// Version, lock time, input and output counts (bytes), segwit marker and flag.
const START_WEIGHT: u64 = 4 * (4 + 4 + 1 + 1) + 2;
/// Outpoint, empty scriptSig and nSequence.
const INPUT_WEIGHT: u64 = 4 * 41;
/// Item count, and a signature with a key or alone; P2A has an empty witness.
const P2WPKH_WITNESS: u64 = 1 + 1 + 72 + 1 + 33;
const P2TR_WITNESS: u64 = 1 + 1 + 64;
const EMPTY_WITNESS: u64 = 1;
/// The lighter of the inputs that there are.
const LIGHTEST_INPUT: u64 = INPUT_WEIGHT + P2TR_WITNESS;

/// What the child of one transaction has to reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bump {
    /// The parent's P2A output, which the child spends.
    pub anchor: OutPoint,
    /// The parent's version: unconfirmed relatives of version 3 are of version 3 (BIP-431).
    pub version: Version,
    /// Fee that the parent pays by itself.
    pub parent_fee: Amount,
    /// The parent's weight, weight units.
    pub parent_weight: u64,
    /// What both together should pay, sat/kw.
    pub feerate: u32,
    /// The most that the child may pay: what is at stake.
    pub max_fee: Amount,
}

/// The input that spends an outpoint, unsigned; its transaction may be replaced (BIP-125).
pub fn unsigned_input(previous_output: OutPoint) -> TxIn {
    TxIn {
        previous_output,
        script_sig: ScriptBuf::new(),
        sequence: Sequence::ENABLE_RBF_NO_LOCKTIME,
        witness: Witness::new(),
    }
}

/// A coin of the wallet, P2WPKH or P2TR.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Coin {
    /// Outpoint of the coin.
    pub outpoint: OutPoint,
    /// Value and script of the coin.
    pub output: TxOut,
}

/// A child: the anchor first, then the coins; one output, the change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Child {
    /// The transaction. Unsigned when it comes from [`Bump::child`].
    pub tx: Transaction,
    /// The coins that it spends beside the anchor.
    pub coins: Vec<Coin>,
    /// Its own fee, without the parent's.
    pub fee: Amount,
    /// What it weighs with its signatures at most, weight units.
    pub weight: u64,
}

/// Why there is no child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoChild {
    /// The wallet has too little that is confirmed and free.
    Short {
        /// How much more it takes.
        missing: Amount,
    },
    /// It would cost more than what is at stake.
    NotWorth {
        /// The least that it takes.
        fee: Amount,
        /// The most that it may pay: what is at stake.
        max: Amount,
    },
    /// The coins are so small that the child would be larger than what relays.
    TooManyCoins,
}

impl fmt::Display for NoChild {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Short { missing } => {
                write!(f, "the wallet lacks {} sat that are confirmed and free", missing.to_sat())
            }
            Self::NotWorth { fee, max } => {
                write!(f, "a fee of {} sat is not worth the {} sat at stake", fee.to_sat(), max.to_sat())
            }
            Self::TooManyCoins => f.write_str("the wallet's coins are too small: merge some of them"),
        }
    }
}

impl std::error::Error for NoChild {}

impl Bump {
    /// What a child of this weight has to pay for both to reach the feerate; nothing beyond u64.
    fn needed(&self, weight: u64) -> Option<Amount> {
        // Nodes reckon each of the two in whole vbytes: at the mempool's minimum that counts.
        let both = whole(self.parent_weight).checked_add(whole(weight))?;
        let both = fee(both, self.feerate)?;
        let own = fee(weight, MIN_FEERATE)?;
        Some(both.checked_sub(self.parent_fee).unwrap_or(Amount::ZERO).max(own))
    }

    /// What a child of this weight pays: what is needed, the cap at most, and never less than `least`.
    fn pays(&self, weight: u64, least: Least) -> Result<Pays, NoChild> {
        let least = least.of(weight);
        let needed = self.needed(weight).unwrap_or(Amount::MAX_MONEY).max(least);
        let least = least.max(fee(weight, MIN_FEERATE).unwrap_or(Amount::MAX_MONEY));
        if least > self.max_fee {
            return Err(NoChild::NotWorth { fee: least, max: self.max_fee });
        }
        Ok(Pays { fee: needed.min(self.max_fee), least })
    }

    /// What the target would take beyond the cap, if this child stays below it for that reason.
    pub fn beyond_cap(&self, child: &Child) -> Option<Amount> {
        let needed = self.needed(child.weight)?;
        (needed > self.max_fee && child.fee < needed).then_some(needed)
    }

    /// What a child lacks to pay what is wanted, because the wallet has no more.
    pub fn short_by(&self, child: &Child) -> Option<Amount> {
        let wanted = self.needed(child.weight).unwrap_or(Amount::MAX_MONEY).min(self.max_fee);
        wanted.checked_sub(child.fee).filter(|lacks| *lacks > Amount::ZERO)
    }

    /// The least that takes the place of somebody's child whose feerate is higher than ours (`theirs`,
    /// sat/kvB). Nothing if theirs carries the parent as far as ours is to, however small it is: then it
    /// does our work, and to outbid it would let strangers spend our money.
    pub fn over(&self, theirs: u64) -> Option<Least> {
        let smallest = SMALLEST_WEIGHT / 4;
        let pays = Amount::from_sat(theirs.saturating_mul(smallest) / 1_000).checked_add(self.parent_fee)?;
        let wanted = fee(self.parent_weight.checked_add(SMALLEST_WEIGHT)?, self.feerate)?;
        // What is printed is rounded.
        let rate = (Amount::from_sat(theirs.saturating_add(1)), 4_000);
        (pays < wanted).then_some(Least { fee: Amount::ZERO, over: Some(rate) })
    }

    /// Whether a child that is out already is good enough: one that pays more has to pay for its own
    /// relay too, or nodes refuse it (BIP-125 rule 4).
    pub fn is_served_by(&self, old: &Child) -> bool {
        let wanted = self.needed(old.weight).unwrap_or(Amount::MAX_MONEY).min(self.max_fee);
        wanted < beat(old.fee, old.weight)
    }

    /// Makes the child. It spends all of `first` and as few of `more` as it takes: the smallest single
    /// coin that is enough, or else the largest ones. If all of them together are not enough, it pays what
    /// they allow ([`Bump::short_by`]): more than nothing, and the next one may come too late.
    ///
    /// `least`: it pays at least so much ([`Child::beaten_by`] for a replacement of our own).
    ///
    /// # Errors
    /// When the coins don't suffice for the least that is taken, or it isn't worth its fee.
    pub fn child(
        &self,
        first: &[Coin],
        more: &[&Purse],
        change: ScriptBuf,
        least: Least,
    ) -> Result<Child, NoChild> {
        let mut coins = first.to_vec();
        loop {
            let weight = weight(&coins, &change);
            if weight > MAX_CHILD_WEIGHT {
                return Err(NoChild::TooManyCoins);
            }
            let Pays { fee, least: at_least } = self.pays(weight, least)?;
            let add = |sum: Amount, coin: &Coin| sum.checked_add(coin.output.value);
            // More money than there is doesn't come from a wallet.
            let have = coins.iter().try_fold(ANCHOR_VALUE, add).unwrap_or(Amount::MAX_MONEY);
            let lacks = |fee: Amount| {
                let need = fee.checked_add(DUST).unwrap_or(Amount::MAX_MONEY);
                need.checked_sub(have).filter(|lacks| *lacks > Amount::ZERO)
            };
            let Some(missing) = lacks(fee) else { return Ok(self.paying(coins, change, have, fee, weight)) };
            // One that also pays for its own input, or else the largest. Of a large wallet only these are looked at.
            let bring = |input: u64| {
                let pays = self.pays(weight.saturating_add(input), least);
                lacks(pays.map_or(Amount::MAX_MONEY, |pays| pays.fee)).unwrap_or(Amount::ZERO)
            };
            let is_new = |coin: &&Coin| coins.iter().all(|known| known.outpoint != coin.outpoint);
            let may_be = |coin: &&Coin| is_new(coin) && self.is_worth(coin);
            let is_enough = |coin: &&Coin| may_be(coin) && coin.output.value >= bring(input_weight(coin));
            let least_worth = self.cost(LIGHTEST_INPUT).unwrap_or(Amount::MAX_MONEY);
            let from = bring(LIGHTEST_INPUT).max(least_worth);
            let key = |coin: &&Coin| (coin.output.value, coin.outpoint);
            let enough = more.iter().filter_map(|purse| purse.worth(from).find(|coin| is_enough(coin)));
            let largest =
                more.iter().filter_map(|purse| purse.worth(least_worth).rev().find(|coin| may_be(coin)));
            let next = enough.min_by_key(key).or_else(|| largest.max_by_key(key)).cloned();
            let fits = |coin: &Coin| weight.saturating_add(input_weight(coin)) <= MAX_CHILD_WEIGHT;
            match next {
                Some(coin) if fits(&coin) => coins.push(coin),
                // S26: whatever there is, as long as nodes take it.
                _ if lacks(at_least).is_none() => {
                    let fee = have.checked_sub(DUST).unwrap_or(Amount::ZERO);
                    return Ok(self.paying(coins, change, have, fee, weight));
                }
                None => return Err(NoChild::Short { missing }),
                Some(_) => return Err(NoChild::TooManyCoins),
            }
        }
    }

    fn paying(&self, coins: Vec<Coin>, change: ScriptBuf, have: Amount, fee: Amount, weight: u64) -> Child {
        let value = have.checked_sub(fee).unwrap_or(Amount::ZERO);
        let tx = self.transaction(&coins, TxOut { value, script_pubkey: change });
        Child { tx, coins, fee, weight }
    }

    /// Whether a coin brings more than its input costs.
    fn is_worth(&self, coin: &Coin) -> bool {
        self.cost(input_weight(coin)).is_some_and(|cost| coin.output.value > cost)
    }

    /// What an input of this weight costs; nothing beyond u64.
    fn cost(&self, input: u64) -> Option<Amount> {
        fee(input, self.feerate)
    }

    fn transaction(&self, coins: &[Coin], change: TxOut) -> Transaction {
        let spent = std::iter::once(self.anchor).chain(coins.iter().map(|coin| coin.outpoint));
        Transaction {
            version: self.version,
            lock_time: LockTime::ZERO,
            input: spent.map(unsigned_input).collect(),
            output: vec![change],
        }
    }
}

impl Child {
    /// The least that a replacement of it pays.
    pub fn beaten_by(&self) -> Least {
        Least { fee: beat(self.fee, self.weight), over: Some((self.fee, self.weight)) }
    }

    /// What its inputs spend, in order.
    pub fn prevouts(&self) -> Vec<TxOut> {
        let anchor = TxOut { value: ANCHOR_VALUE, script_pubkey: anchor_script() };
        std::iter::once(anchor).chain(self.coins.iter().map(|coin| coin.output.clone())).collect()
    }
}

/// The least that a child has to pay for nodes to take it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Least {
    /// Least fee of the child, whatever its weight.
    fee: Amount,
    /// Fee and weight of the child that it replaces: one with more inputs has to pay more for each of its
    /// weight units, too.
    over: Option<(Amount, u64)>,
}

impl Least {
    /// The same, and in any case no less than `fee`.
    pub fn and(self, fee: Amount) -> Self {
        Self { fee: self.fee.max(fee), ..self }
    }

    /// What replaces both that this and `other` replace: it pays for the two of them, and more than either
    /// for each of its weight units.
    pub fn with(self, other: Self) -> Self {
        let rate =
            |(fee, weight): &(Amount, u64)| u128::from(fee.to_sat()) * 1_000_000 / u128::from(*weight).max(1);
        let over = [self.over, other.over].into_iter().flatten().max_by_key(rate);
        Self { fee: self.fee.checked_add(other.fee).unwrap_or(Amount::MAX_MONEY), over }
    }

    /// What satisfies either of two, which stand in each other's place.
    pub fn or(self, other: Self) -> Self {
        Self { fee: self.fee.max(other.fee), ..self.with(other) }
    }

    /// For a child of this weight.
    fn of(self, weight: u64) -> Amount {
        let Some((fee, replaced)) = self.over else { return self.fee };
        let same = u128::from(fee.to_sat()) * u128::from(weight) / u128::from(replaced.max(1));
        let more = u64::try_from(same).unwrap_or(u64::MAX).saturating_add(1);
        self.fee.max(Amount::from_sat(more))
    }
}

/// A weight in whole vbytes, weight units.
fn whole(weight: u64) -> u64 {
    vbytes(weight).saturating_mul(4)
}

fn beat(fee: Amount, weight: u64) -> Amount {
    let increment = Amount::from_sat(vbytes(weight).saturating_mul(INCREMENT));
    fee.checked_add(increment).unwrap_or(Amount::MAX_MONEY)
}

/// What a child of some weight pays, and the least that is taken.
struct Pays {
    fee: Amount,
    least: Amount,
}

/// What an input that spends it weighs with its signature at its largest, weight units.
pub(super) fn input_weight(coin: &Coin) -> u64 {
    INPUT_WEIGHT.saturating_add(witness(coin))
}

fn witness(coin: &Coin) -> u64 {
    if coin.output.script_pubkey.is_p2tr() { P2TR_WITNESS } else { P2WPKH_WITNESS }
}

/// Weight of a child with these coins and this change, with every signature at its largest.
fn weight(coins: &[Coin], change: &ScriptBuf) -> u64 {
    // Output: value, length, script.
    let script = u64::try_from(change.len()).unwrap_or(u64::MAX);
    let output = script.saturating_add(8 + 1).saturating_mul(4);
    coins.iter().fold(START_WEIGHT + INPUT_WEIGHT + EMPTY_WITNESS + output, |sum, coin| {
        sum.saturating_add(input_weight(coin))
    })
}

/// Weight of the usual child: one P2TR coin, P2TR change. For estimates; in whole vbytes.
pub fn usual_weight() -> u64 {
    whole(START_WEIGHT + INPUT_WEIGHT + EMPTY_WITNESS + INPUT_WEIGHT + P2TR_WITNESS + 4 * (8 + 1 + 34))
}

/// What the usual child of a transaction of this weight pays, for both together to reach a feerate (sat/kw).
/// For estimates; `pays` is what the transaction pays itself.
pub fn usual_fee(weight: u64, pays: Amount, feerate: u32) -> Amount {
    let both = fee(weight.saturating_add(usual_weight()), feerate);
    both.and_then(|both| both.checked_sub(pays)).unwrap_or(Amount::ZERO)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bitcoin::Txid;
    use bitcoin::hashes::Hash;

    pub(super) fn bump(feerate: u32, max_fee: u64) -> Bump {
        Bump {
            anchor: OutPoint { txid: Txid::all_zeros(), vout: 2 },
            version: Version(3),
            parent_fee: Amount::from_sat(300),
            parent_weight: 1_000,
            feerate,
            max_fee: Amount::from_sat(max_fee),
        }
    }

    pub(super) fn coin(number: u32, sat: u64) -> Coin {
        let script_pubkey = ScriptBuf::from_bytes([vec![0x51, 0x20], vec![7; 32]].concat());
        let outpoint = OutPoint { txid: Txid::all_zeros(), vout: 100 + number };
        Coin { outpoint, output: TxOut { value: Amount::from_sat(sat), script_pubkey } }
    }

    pub(super) fn change() -> ScriptBuf {
        ScriptBuf::from_bytes([vec![0x51, 0x20], vec![8; 32]].concat())
    }

    pub(super) fn purse(coins: &[Coin]) -> Purse {
        coins.iter().cloned().collect()
    }

    pub(super) fn made(bump: &Bump, coins: &[Coin]) -> Result<Child, NoChild> {
        bump.child(&[], &[&purse(coins)], change(), Least::default())
    }

    // S26
    #[test]
    fn both_together_pay_the_feerate() {
        let child = made(&bump(5_000, 100_000), &[coin(0, 50_000)]).unwrap();
        assert_eq!(whole(child.weight), usual_weight());
        let both = (usual_weight() + 1_000) * 5;
        assert_eq!(child.fee.to_sat(), both - 300);
        assert_eq!(child.tx.output[0].value.to_sat(), 50_000 + 240 - child.fee.to_sat());
        assert_eq!(child.tx.input[0].previous_output.vout, 2);
        // What was reckoned is what a signed one weighs.
        let mut signed = child.tx.clone();
        signed.input[1].witness = Witness::from_slice(&[[0u8; 64]]);
        assert_eq!(signed.weight().to_wu(), child.weight);
    }

    // S26
    #[test]
    fn never_above_what_is_at_stake() {
        let child = made(&bump(50_000, 2_000), &[coin(0, 90_000)]).unwrap();
        assert_eq!(child.fee.to_sat(), 2_000);
        assert_eq!(
            bump(50_000, 2_000).beyond_cap(&child).unwrap().to_sat(),
            50 * (1_000 + whole(child.weight)) - 300
        );
        let error = made(&bump(50_000, 100), &[coin(0, 90_000)]).unwrap_err();
        assert!(matches!(error, NoChild::NotWorth { max, .. } if max.to_sat() == 100), "{error}");
    }

    #[test]
    fn the_smallest_coin_that_is_enough() {
        let coins = [coin(0, 1_000), coin(1, 900_000), coin(2, 20_000), coin(3, 500)];
        let child = made(&bump(5_000, 100_000), &coins).unwrap();
        assert_eq!(child.coins, [coins[2].clone()]);
        // None alone: the largest first.
        let coins = [coin(0, 6_000), coin(1, 7_000), coin(2, 400)];
        let child = made(&bump(5_000, 100_000), &coins).unwrap();
        assert_eq!(child.coins, [coins[1].clone(), coins[0].clone()]);
    }

    /// However they are found, and in however many purses, of both kinds.
    #[test]
    fn the_same_coin_as_by_a_look_at_all() {
        let wanted = bump(5_000, 100_000);
        let mut coins: Vec<Coin> =
            (0..200).map(|at| coin(at, 1_000 + u64::from(at) * 7_919 % 9_973)).collect();
        for coin in coins.iter_mut().step_by(3) {
            coin.output.script_pubkey = ScriptBuf::from_bytes([vec![0, 20], vec![7; 20]].concat());
        }
        let is_enough = |coin: &&Coin| {
            let alone = made(&wanted, std::slice::from_ref(*coin));
            alone.is_ok_and(|child| wanted.short_by(&child).is_none())
        };
        let smallest = coins.iter().filter(is_enough).min_by_key(|coin| (coin.output.value, coin.outpoint));
        let smallest = smallest.expect("one is enough").clone();
        let (some, others) = coins.split_at(90);
        let child = wanted.child(&[], &[&purse(some), &purse(others)], change(), Least::default()).unwrap();
        assert_eq!(child.coins, [smallest]);
    }

    #[test]
    fn says_how_much_is_missing() {
        let error = made(&bump(5_000, 100_000), &[]).unwrap_err();
        let NoChild::Short { missing } = error else { panic!("{error}") };
        // With just that much, plus what its own input costs, there is a child.
        let own = 5 * whole(INPUT_WEIGHT + P2TR_WITNESS);
        made(&bump(5_000, 100_000), &[coin(0, missing.to_sat() + own)]).unwrap();
        let child = made(&bump(5_000, 100_000), &[coin(0, missing.to_sat() + own - 1)]).unwrap();
        assert_eq!(bump(5_000, 100_000).short_by(&child), Some(Amount::from_sat(1)));
        let dust: Vec<Coin> = (0..40).map(|number| coin(number, 1_300)).collect();
        let least = Least::default().and(Amount::from_sat(90_000));
        let error = bump(5_000, 100_000).child(&[], &[&purse(&dust)], change(), least).unwrap_err();
        assert_eq!(error, NoChild::TooManyCoins);
    }

    // S26: a wallet that has too little pays what it has, instead of nothing.
    #[test]
    fn whatever_there_is_is_paid() {
        let wanted = bump(50_000, 1_000_000);
        let coins = [coin(0, 12_000), coin(1, 14_000)];
        let child = made(&wanted, &coins).unwrap();
        assert_eq!((child.coins.len(), child.fee.to_sat()), (2, 26_000 + 240 - 330));
        let lacks = wanted.short_by(&child).unwrap();
        assert_eq!(child.fee + lacks, wanted.needed(child.weight).unwrap());
        assert!(!wanted.is_served_by(&child), "more is wanted as soon as there is more");
        // As many small ones as a child may have, and no more.
        let dust: Vec<Coin> = (0..40).map(|number| coin(number, 13_000)).collect();
        let child = made(&wanted, &dust).unwrap();
        assert!(child.weight <= MAX_CHILD_WEIGHT && child.coins.len() > 10, "{}", child.weight);
        // What nodes would not even take in place of another is none.
        let little = purse(&[coin(0, 12_000)]);
        let nothing = wanted.child(&[], &[&little], change(), child.beaten_by()).unwrap_err();
        assert!(matches!(nothing, NoChild::Short { .. }), "{nothing}");
        assert_eq!(
            bump(5_000, 100_000).short_by(&made(&bump(5_000, 100_000), &[coin(0, 50_000)]).unwrap()),
            None
        );
    }

    // S26: a stranger's small child with a higher feerate than ours would have, that is not enough for both.
    #[test]
    fn a_small_child_of_a_strangers_is_outbid_if_it_is_too_little() {
        let wanted = bump(500, 100_000);
        let ours = made(&wanted, &[coin(0, 50_000)]).unwrap();
        let rate = |child: &Child| child.fee.to_sat() * 4_000 / child.weight;
        // 0.2 sat/vB more than ours pays: 65 vB of that make no package of 2 sat/vB.
        let theirs = rate(&ours) + 200;
        let least = wanted.over(theirs).expect("too little for both");
        let new = wanted.child(&[], &[&purse(&[coin(0, 50_000)])], change(), least).unwrap();
        assert!(rate(&new) > theirs, "{} of {theirs}", rate(&new));
        assert!(new.fee.to_sat() < ours.fee.to_sat() * 3, "and not much more than that: {}", new.fee);
        // One that carries both is left alone: else whoever placed it would have us pay what he offers.
        assert_eq!(wanted.over(20_000), None);
    }

    // S26: BIP-125 rule 4, and the same coins again.
    #[test]
    fn a_replacement_pays_for_itself() {
        let coins = [coin(0, 30_000), coin(1, 900_000)];
        let old = made(&bump(5_000, 100_000), &coins).unwrap();
        assert!(bump(5_000, 100_000).is_served_by(&old));
        assert!(bump(4_000, 100_000).is_served_by(&old));
        assert!(bump(5_050, 100_000).is_served_by(&old), "less than the increment");
        let more = bump(8_000, 100_000);
        assert!(!more.is_served_by(&old));
        let wallet = purse(&coins);
        let new = more.child(&old.coins, &[&wallet], change(), old.beaten_by()).unwrap();
        assert_eq!(new.coins, old.coins);
        assert!(new.fee.to_sat() >= old.fee.to_sat() + vbytes(old.weight));
        // S26: a second input, and still a higher feerate than that of the one it replaces.
        let little = made(&bump(5_000, 1_000_000), &[coin(0, old.fee.to_sat() + 700)]).unwrap();
        let grown = bump(5_500, 1_000_000);
        let wider = grown.child(&little.coins, &[&wallet], change(), little.beaten_by()).unwrap();
        assert_eq!(wider.coins.len(), 2);
        let rate = |child: &Child| u128::from(child.fee.to_sat()) * 1_000_000 / u128::from(child.weight);
        assert!(rate(&wider) > rate(&little), "{} of {} WU", wider.fee, wider.weight);
        // A cap that doesn't leave room for it.
        let capped = bump(8_000, old.fee.to_sat() + 3);
        assert!(capped.is_served_by(&old));
        // More than the coin has: another one comes along.
        let large = bump(60_000, 1_000_000);
        let new = large.child(&old.coins, &[&wallet], change(), old.beaten_by()).unwrap();
        assert_eq!(new.coins.len(), 2);
    }
}
