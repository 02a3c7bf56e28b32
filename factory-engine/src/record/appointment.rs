//! What a tower has: *appointments*, each some finished transactions, sealed to the txid that makes them due.
//!
//! A tower sees a *locator*, which is a hash of that txid, and looks in each block for a transaction that it fits. The
//! txid itself is the key: until the transaction is published nobody who doesn't know it beforehand can open the
//! appointment (S40). There is no key of anybody's inside, only transactions that whoever has them may publish.
//!
//! XChaCha20-Poly1305; the locator is associated data. Inside, for each transaction: the lowest block that it may be in
//! beside what its own locktimes say (u32), its length (u32), and its bytes as on the wire. Numbers are big-endian. The
//! nonce follows from what is sealed: the same contents are the same appointment. What is too large for one appointment is
//! in several, whose locators and keys differ by a number.

use std::collections::HashSet;
use std::fmt;

use bitcoin::hashes::{Hash, HashEngine, Hmac, HmacEngine, sha256};
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{Key, XChaCha20Poly1305, XNonce};

use crate::types::{Height, Transaction, Txid};
use crate::wire::codec::transaction;

/// Separates locators from everything else that is made of a txid; its number is the format's.
const LOCATOR_LABEL: &[u8] = b"cln-factory appointment 1 locator";
/// Separates keys from everything else that is made of a txid.
const KEY_LABEL: &[u8] = b"cln-factory appointment 1 key";
/// Bytes of the nonce.
const NONCE: usize = 24;
/// Bytes that every appointment has: nonce, authenticator.
pub const LEAST_BYTES: usize = NONCE + 16;
/// Most bytes of one. A distribution for 1,000 clients has some 43,000.
pub const MOST_BYTES: usize = 100_000;
/// Most transactions in one.
const MOST_TASKS: usize = 16;
/// Most appointments for one transaction.
const PARTS: u8 = 4;

/// Names the transaction that makes an appointment due, to whoever knows it: a hash of its txid, and of the number of
/// the appointment among those for it.
pub type Locator = [u8; 16];

/// A hash of what an appointment is; and of several the exclusive or, which has no order.
pub type Sum = [u8; 32];

/// A transaction that a tower publishes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// The lowest block that it may be in, beside what its own locktimes say; 0 if they say all.
    pub not_before: Height,
    /// With its witnesses.
    pub tx: Transaction,
}

/// What a tower has of each transaction that it waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Appointment {
    /// Of the transaction that makes it due.
    pub locator: Locator,
    /// Nonce, what is sealed, authenticator.
    pub sealed: Vec<u8>,
}

/// Why an appointment can't be opened with a txid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AppointmentError {
    /// It was not sealed to that.
    NotSealedToIt,
    /// It was, and what is inside are no transactions, or too many.
    Malformed,
}

impl fmt::Display for AppointmentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotSealedToIt => "it was not sealed to the transaction that its locator names",
            Self::Malformed => "what is sealed in it are no transactions, or too many",
        })
    }
}

impl std::error::Error for AppointmentError {}

/// What names a transaction to whoever waits for it.
pub fn locators(trigger: Txid) -> impl Iterator<Item = Locator> {
    (0..PARTS).map(move |part| locator(part, trigger))
}

/// Those of a block's transactions that fit one of the locators that are looked for.
pub fn look_into(txs: &[Transaction], height: Height, wanted: &[Locator]) -> Vec<(Locator, (Txid, Height))> {
    let wanted: HashSet<&Locator> = wanted.iter().collect();
    let mut found = vec![];
    for txid in txs.iter().map(Transaction::compute_txid) {
        let fits = locators(txid).filter(|locator| wanted.contains(locator));
        found.extend(fits.map(|locator| (locator, (txid, height))));
    }
    found
}

fn locator(part: u8, trigger: Txid) -> Locator {
    let mut locator = [0; 16];
    locator.copy_from_slice(hash(LOCATOR_LABEL, part, trigger).split_at(16).0);
    locator
}

impl Appointment {
    /// Seals transactions to the one that makes them due, and says how many found no place.
    pub fn seal_all(trigger: Txid, tasks: &[Task]) -> (Vec<Self>, usize) {
        let (mut made, mut rest) = (vec![], tasks);
        for part in 0..PARTS {
            let fits = (1..=rest.len().min(MOST_TASKS)).rev();
            let first =
                fits.filter_map(|count| Some((Self::seal(part, trigger, rest.get(..count)?)?, count))).next();
            let Some((one, count)) = first else { break };
            made.push(one);
            rest = rest.get(count..).unwrap_or_default();
        }
        (made, rest.len())
    }

    /// Nothing if they are too many for one appointment.
    fn seal(part: u8, trigger: Txid, tasks: &[Task]) -> Option<Self> {
        let plain = plain(tasks)?;
        if plain.len() > MOST_BYTES.saturating_sub(LEAST_BYTES) {
            return None;
        }
        let (key, locator) = (hash(KEY_LABEL, part, trigger), locator(part, trigger));
        let nonce = nonce(&key, &plain);
        let payload = Payload { msg: &plain, aad: &locator };
        let mut sealed = nonce.to_vec();
        sealed.extend(cipher(&key).encrypt(&XNonce::from(nonce), payload).ok()?);
        Some(Self { locator, sealed })
    }

    /// What is sealed in it, once the transaction is there that it waits for.
    ///
    /// # Errors
    /// When it was not made for that: whoever made it gets nothing published.
    pub fn open(&self, trigger: Txid) -> Result<Vec<Task>, AppointmentError> {
        let part = (0..PARTS).find(|part| locator(*part, trigger) == self.locator);
        let sealed = self.sealed.split_first_chunk::<NONCE>();
        let (Some(part), Some((nonce, sealed))) = (part, sealed) else {
            return Err(AppointmentError::NotSealedToIt);
        };
        let payload = Payload { msg: sealed, aad: &self.locator };
        let cipher = cipher(&hash(KEY_LABEL, part, trigger));
        let plain = cipher.decrypt(&XNonce::from(*nonce), payload);
        parse(&plain.map_err(|_| AppointmentError::NotSealedToIt)?).ok_or(AppointmentError::Malformed)
    }

    /// What it is, in few bytes.
    pub fn sum(&self) -> Sum {
        let mut engine = sha256::Hash::engine();
        engine.input(&self.locator);
        engine.input(&self.sealed);
        sha256::Hash::from_engine(engine).to_byte_array()
    }
}

/// Of an appointment that is kept until this height.
pub fn until_sum(sum: Sum, until: Height) -> Sum {
    let mut engine = sha256::Hash::engine();
    engine.input(&sum);
    engine.input(&until.to_be_bytes());
    sha256::Hash::from_engine(engine).to_byte_array()
}

/// Puts an appointment into the sum of those beside it, or takes it out again.
pub fn toggle(sum: &mut Sum, part: Sum) {
    for (byte, part) in sum.iter_mut().zip(part) {
        *byte ^= part;
    }
}

fn hash(label: &[u8], part: u8, trigger: Txid) -> [u8; 32] {
    let mut engine = sha256::Hash::engine();
    engine.input(label);
    engine.input(&[part]);
    engine.input(trigger.as_byte_array());
    sha256::Hash::from_engine(engine).to_byte_array()
}

fn nonce(key: &[u8; 32], plain: &[u8]) -> [u8; NONCE] {
    let mut engine = HmacEngine::<sha256::Hash>::new(key);
    engine.input(plain);
    let mut nonce = [0; NONCE];
    nonce.copy_from_slice(Hmac::from_engine(engine).to_byte_array().split_at(NONCE).0);
    nonce
}

fn cipher(key: &[u8; 32]) -> XChaCha20Poly1305 {
    XChaCha20Poly1305::new(Key::from_slice(key))
}

fn plain(tasks: &[Task]) -> Option<Vec<u8>> {
    let mut plain = vec![];
    for task in tasks {
        let tx = bitcoin::consensus::serialize(&task.tx);
        plain.extend(task.not_before.to_be_bytes());
        plain.extend(u32::try_from(tx.len()).ok()?.to_be_bytes());
        plain.extend(tx);
    }
    Some(plain)
}

fn parse(plain: &[u8]) -> Option<Vec<Task>> {
    let (mut rest, mut tasks) = (plain, vec![]);
    while !rest.is_empty() {
        let (not_before, after) = rest.split_first_chunk::<4>()?;
        let (length, after) = after.split_first_chunk::<4>()?;
        let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
        let (tx, after) = after.split_at_checked(length)?;
        let tx = transaction(tx)?;
        tasks.push(Task { not_before: Height::from_be_bytes(*not_before), tx });
        rest = after;
    }
    (tasks.len() <= MOST_TASKS).then_some(tasks)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test")]

    use bitcoin::absolute::LockTime;
    use bitcoin::{TxIn, TxOut, transaction};

    use super::*;
    use crate::types::{Amount, OutPoint, ScriptBuf};

    fn txid(byte: u8) -> Txid {
        Txid::from_byte_array([byte; 32])
    }

    /// Of about 60 bytes and so many outputs of 31 more.
    fn task(not_before: Height, value: u64, outputs: usize) -> Task {
        let input = TxIn { previous_output: OutPoint { txid: txid(9), vout: 1 }, ..TxIn::default() };
        let script_pubkey = ScriptBuf::from(vec![0x51; 22]);
        let output = vec![TxOut { value: Amount::from_sat(value), script_pubkey }; outputs];
        let version = transaction::Version::TWO;
        let tx = Transaction { version, lock_time: LockTime::ZERO, input: vec![input], output };
        Task { not_before, tx }
    }

    fn seal(trigger: u8, tasks: &[Task]) -> Appointment {
        let (mut made, left) = Appointment::seal_all(txid(trigger), tasks);
        assert_eq!((made.len(), left), (1, 0));
        made.remove(0)
    }

    /// S40: only who knows the transaction that makes it due reads an appointment; changed, it is none.
    #[test]
    fn an_appointment_opens_with_its_trigger() {
        let tasks = [task(0, 1_000, 1), task(800_000, 2_000, 1)];
        let made = seal(1, &tasks);
        assert!(locators(txid(1)).any(|locator| locator == made.locator));
        assert_eq!(made.open(txid(1)), Ok(tasks.to_vec()));
        assert_eq!(made.open(txid(2)), Err(AppointmentError::NotSealedToIt));
        for at in 0..made.sealed.len() {
            let mut changed = made.clone();
            *changed.sealed.get_mut(at).unwrap() ^= 1;
            assert_eq!(changed.open(txid(1)), Err(AppointmentError::NotSealedToIt), "byte {at}");
        }
        for locator in locators(txid(2)).chain(locators(txid(1)).skip(1)) {
            let elsewhere = Appointment { locator, ..made.clone() };
            assert!(elsewhere.open(txid(1)).is_err() && elsewhere.open(txid(2)).is_err());
        }
    }

    /// What is too much for one appointment is in several, all of it; what is too much for those is counted.
    #[test]
    fn what_is_large_is_in_several() {
        let large = |value| task(0, value, 1_500);
        let tasks = [large(1), large(2), large(3), task(5, 4, 1)];
        let (made, left) = Appointment::seal_all(txid(1), &tasks);
        assert_eq!((made.len(), left), (2, 0));
        let opened: Vec<_> = made.iter().flat_map(|one| one.open(txid(1)).unwrap()).collect();
        assert_eq!(opened, tasks);
        assert!(made.iter().all(|one| one.sealed.len() <= MOST_BYTES));
        let (made, left) = Appointment::seal_all(txid(1), &vec![large(1); 10]);
        assert_eq!((made.len(), left), (4, 2));
        let (made, left) = Appointment::seal_all(txid(1), &vec![task(0, 1, 1); 20]);
        assert_eq!((made.len(), left), (2, 0), "no more than a tower opens");
        assert_eq!(Appointment::seal_all(txid(1), &[task(0, 1, 4_000)]).1, 1);
        assert_eq!(parse(&plain(&vec![task(0, 1, 1); 17]).unwrap()), None);
    }

    /// S40: what a tower has says neither what is in it nor what it waits for.
    #[test]
    fn an_appointment_says_nothing() {
        let made = seal(1, &[task(0, 1_000, 1)]);
        let plain = bitcoin::consensus::serialize(&task(0, 1_000, 1).tx);
        let hidden = |needle: &[u8]| !made.sealed.windows(needle.len()).any(|bytes| bytes == needle);
        assert!(hidden(&[9; 32]) && hidden(&[1; 32]) && hidden(plain.get(..8).unwrap()));
        assert!(!made.locator.windows(4).any(|bytes| bytes == [1; 4]));
        assert_eq!(seal(1, &[task(0, 1_000, 1)]), made, "the same is the same");
        let other = seal(1, &[task(0, 1_001, 1)]);
        assert_ne!(made.sealed.first_chunk::<NONCE>(), other.sealed.first_chunk::<NONCE>());
    }

    /// What is there together doesn't depend on the order in which it came.
    #[test]
    fn sums_have_no_order() {
        let made = [1, 2, 3].map(|byte| seal(byte, &[task(0, 5, 1)]));
        let sum = |order: &[usize]| {
            let mut sum = [0; 32];
            order.iter().for_each(|at| toggle(&mut sum, made.get(*at).unwrap().sum()));
            sum
        };
        assert_eq!(sum(&[0, 1, 2]), sum(&[2, 0, 1]));
        assert_eq!(sum(&[0, 1]), sum(&[0, 2, 1, 2]));
        assert_ne!(sum(&[0, 1]), sum(&[0, 2]));
    }
}
