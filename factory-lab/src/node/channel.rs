//! Channels: a 2-of-2 output and a commitment transaction that both sides have signed.
//!
//! Simplified against lightningd: both outputs of a commitment are plain P2WPKH of the sides' wallets,
//! old commitments are thought to be revoked, and HTLCs settle at once.

use bitcoin::hashes::Hash;
use bitcoin::opcodes::all::OP_CHECKMULTISIG;
use bitcoin::sighash::{EcdsaSighashType, SighashCache};
use bitcoin::transaction::Version;
use bitcoin::{Amount, OutPoint, ScriptBuf, Sequence, Transaction, TxIn, TxOut, Witness, absolute};

use super::Key;
use crate::chain::Chain;
use crate::{LabError, error};
use factory_engine::Ended;
use factory_engine::tx::scripts::DUST;
use factory_engine::types::NodeId;

/// What a commitment transaction pays, out of the opener's balance.
pub const COMMITMENT_FEE: Amount = Amount::from_sat(400);

/// An open between `fundchannel_start` and `fundchannel_complete`.
#[derive(Debug, Clone)]
pub struct PendingOpen {
    pub(crate) key: Key,
    pub(crate) remote: [u8; 33],
    /// Capacity of the channel to be.
    pub capacity: Amount,
    /// Pushed to the fundee, msat.
    pub push_msat: u64,
}

/// A committed channel, as one side has it.
#[derive(Debug, Clone)]
pub struct Channel {
    /// Node id of the other side.
    pub peer: NodeId,
    /// Funding outpoint of the channel.
    pub outpoint: OutPoint,
    /// Funding amount: both sides' balances together.
    pub capacity: Amount,
    pub(crate) key: Key,
    pub(crate) remote: [u8; 33],
    /// Whether this side opened it, and pays fees.
    pub opener: bool,
    /// Balances of the opener and the fundee.
    pub balances: Balances,
    /// Scripts that the commitment pays: the opener's, the fundee's.
    pub(crate) scripts: (ScriptBuf, ScriptBuf),
    /// The last commitment, signed by both.
    pub commitment: Transaction,
    /// `close` was called: the commitment is published as soon as the funding output is on chain.
    pub closing: bool,
    /// Both sides have closed it together.
    pub mutual: bool,
    /// This side has an old state only, and knows it: it publishes nothing.
    pub lost: bool,
}

impl Channel {
    /// How it has ended, as lightningd's state of it says (S34).
    pub fn ended(&self, chain: &Chain) -> Option<Ended> {
        let spent = chain.spender(self.outpoint).is_some();
        let closed = if self.mutual { Ended::Closing } else { Ended::Failed };
        spent.then_some(Ended::OnChain).or_else(|| self.closing.then_some(closed))
    }
}

/// Balances of a channel's two sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Balances {
    /// The opener's balance, msat.
    pub opener_msat: u64,
    /// The fundee's balance, msat.
    pub fundee_msat: u64,
}

/// The 2-of-2 of BOLT 3: keys in lexical order.
pub fn funding_script(a: [u8; 33], b: [u8; 33]) -> ScriptBuf {
    let (first, second) = if a <= b { (a, b) } else { (b, a) };
    ScriptBuf::builder()
        .push_int(2)
        .push_slice(first)
        .push_slice(second)
        .push_int(2)
        .push_opcode(OP_CHECKMULTISIG)
        .into_script()
}

/// The commitment transaction for these balances, signed by both sides.
///
/// # Errors
/// When the balances are no amounts of the channel.
pub fn commitment(
    outpoint: OutPoint,
    capacity: Amount,
    keys: (&Key, &Key),
    scripts: &(ScriptBuf, ScriptBuf),
    balances: Balances,
) -> Result<Transaction, LabError> {
    let publics = (keys.0.public(), keys.1.public());
    let script = funding_script(publics.0, publics.1);
    let opener = Amount::from_sat(balances.opener_msat / 1000);
    let opener = opener.checked_sub(COMMITMENT_FEE).unwrap_or(Amount::ZERO);
    let fundee = Amount::from_sat(balances.fundee_msat / 1000);
    let output: Vec<TxOut> = [(opener, &scripts.0), (fundee, &scripts.1)]
        .into_iter()
        .filter(|(value, _)| *value >= DUST)
        .map(|(value, script)| TxOut { value, script_pubkey: script.clone() })
        .collect();
    let mut tx = Transaction {
        version: Version::TWO,
        lock_time: absolute::LockTime::ZERO,
        input: vec![TxIn {
            previous_output: outpoint,
            script_sig: ScriptBuf::new(),
            sequence: Sequence::ENABLE_RBF_NO_LOCKTIME,
            witness: Witness::new(),
        }],
        output,
    };
    let kind = EcdsaSighashType::All;
    let hash = SighashCache::new(&tx).p2wsh_signature_hash(0, &script, capacity, kind).map_err(error)?;
    let hash = hash.to_byte_array();
    let (a, b) = (keys.0.ecdsa(&hash), keys.1.ecdsa(&hash));
    let in_order = publics.0 <= publics.1;
    let (first, second) = if in_order { (a, b) } else { (b, a) };
    let witness = [vec![], first, second, script.into_bytes()];
    if let Some(input) = tx.input.first_mut() {
        input.witness = Witness::from_slice(&witness);
    }
    Ok(tx)
}
