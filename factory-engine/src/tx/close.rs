//! The cooperative close: one transaction from the funding output to what each member has, by everybody's keys.
//!
//! The operator chooses the outputs, since it alone knows them all; everybody else looks at what doesn't depend on
//! its word: that its own output is there, that the transaction can be relayed, and that no money goes back to a
//! coin of the factory, of which nobody has the key alone.

use std::fmt;

use bitcoin::absolute::LockTime;
use bitcoin::hashes::{Hash, HashEngine, sha256};
use bitcoin::transaction::Version;
use bitcoin::{Amount, ScriptBuf, Sequence, TxOut, Witness};

use crate::terms::ClientIndex;
use crate::types::InstanceId;

use super::layout::{Layout, MAX_V3_VBYTES, MIN_FEERATE, SessionId, SpendRole, fee, weight};
use super::musig::AggNonce;
use super::scripts::{ANCHOR_VALUE, DUST, anchor_script, is_payout, key_script};
use super::tree::{Session, Tree, TreeError, sighash, transaction};

/// The close spends the funding output.
pub const CLOSE: SessionId = SessionId { coin: 0, role: SpendRole::Close };

/// What a client has in a factory, and where it wants it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// Index of the client, in leaf order.
    pub client: ClientIndex,
    /// Its balance over all of its channels in the factory, rounded up to a satoshi.
    pub balance: Amount,
    /// A script that it alone can spend from.
    pub script: ScriptBuf,
}

impl Share {
    /// The output that pays it; none if it has less than an output may be worth. So little is in no
    /// commitment transaction either.
    pub fn output(&self) -> Option<TxOut> {
        let script_pubkey = self.script.clone();
        (self.balance >= DUST).then_some(TxOut { value: self.balance, script_pubkey })
    }
}

/// Why there is no close of these outputs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CloseError {
    /// There is no output, so nobody has anything.
    Nothing,
    /// This output's script is none that somebody can have the key of alone, or none that is relayed.
    Script {
        /// Index of the output.
        output: usize,
    },
    /// This output is worth less than is relayed.
    Dust {
        /// Index of the output.
        output: usize,
    },
    /// This output pays a coin of the factory itself, which nobody can spend alone.
    Coin {
        /// Index of the output.
        output: usize,
    },
    /// It is larger than what is relayed, vB.
    Size(u64),
    /// Its outputs are worth more than the funding output, or leave less than a fee that is relayed.
    Fee {
        /// What the outputs are worth with the anchor; nothing if that is more money than there is.
        outputs: Option<Amount>,
        /// Value of the funding output.
        funding: Amount,
        /// The least that it has to pay.
        least: Amount,
    },
    /// It doesn't pay this member what it has.
    Unpaid(Amount),
    /// The funding output isn't known.
    Tree(TreeError),
}

impl fmt::Display for CloseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("it pays nobody"),
            Self::Script { output } => {
                write!(f, "output {output} pays a script that is neither P2WPKH nor P2WSH nor P2TR")
            }
            Self::Dust { output } => write!(f, "output {output} is worth less than {DUST}"),
            Self::Coin { output } => {
                write!(f, "output {output} pays a coin of the factory, which nobody can spend alone")
            }
            Self::Size(vbytes) => {
                write!(f, "its {vbytes} vB are more than the {MAX_V3_VBYTES} that are relayed")
            }
            Self::Fee { outputs: Some(outputs), funding, least } => write!(
                f,
                "its outputs take {outputs} of {funding}, and a fee of at least {least} has to be left"
            ),
            Self::Fee { outputs: None, .. } => f.write_str("its outputs are more money than there is"),
            Self::Unpaid(balance) => write!(f, "it has no output of {balance} to this node's script"),
            Self::Tree(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for CloseError {}

impl From<TreeError> for CloseError {
    fn from(error: TreeError) -> Self {
        Self::Tree(error)
    }
}

/// L: the outputs that pay everybody, without the anchor: the clients in their order, then what is left. At a
/// feerate (sat/kw), or at what is left for it if that is less.
///
/// # Errors
/// When nobody has anything, or not even the lowest fee is left.
pub fn outputs(
    funding: Amount,
    shares: &[Share],
    rest: &ScriptBuf,
    feerate: u32,
) -> Result<Vec<TxOut>, CloseError> {
    let mut outputs: Vec<TxOut> = shares.iter().filter_map(Share::output).collect();
    let count = u64::try_from(outputs.len()).unwrap_or(u64::MAX);
    let taken = sum(&outputs);
    let least = fee(weight(count), MIN_FEERATE).unwrap_or(Amount::MAX_MONEY);
    let left = taken.and_then(|taken| funding.checked_sub(taken));
    let left = left.ok_or(CloseError::Fee { outputs: taken, funding, least })?;
    let costs = fee(weight(count.saturating_add(1)), feerate.max(MIN_FEERATE));
    let value = costs.and_then(|costs| left.checked_sub(costs)).filter(|value| *value >= DUST);
    outputs.extend(value.map(|value| TxOut { value, script_pubkey: rest.clone() }));
    Ok(outputs)
}

/// What these outputs take of the funding, with the anchor.
fn sum(outputs: &[TxOut]) -> Option<Amount> {
    outputs.iter().try_fold(ANCHOR_VALUE, |sum, output| sum.checked_add(output.value))
}

/// The close that pays these outputs, and its anchor; everything that any member can judge of it is in order.
///
/// # Errors
/// When something isn't, and what.
pub fn build(layout: &Layout, tree: &Tree, outputs: &[TxOut]) -> Result<Session, CloseError> {
    let no_coin = TreeError::NoSuchCoin { coin: CLOSE.coin };
    let outpoint = tree.coin_outpoint(CLOSE.coin).ok_or(no_coin.clone())?;
    let key = tree.output_key(CLOSE.coin).ok_or(no_coin.clone())?;
    let value = layout.coin(CLOSE.coin).ok_or(no_coin)?.value;
    if outputs.is_empty() {
        return Err(CloseError::Nothing);
    }
    let coins: Vec<ScriptBuf> =
        (0..).zip(layout.coins()).filter_map(|(coin, _)| tree.output_key(coin).map(key_script)).collect();
    for (place, output) in outputs.iter().enumerate() {
        if !is_payout(&output.script_pubkey) {
            return Err(CloseError::Script { output: place });
        }
        if coins.contains(&output.script_pubkey) {
            return Err(CloseError::Coin { output: place });
        }
        if output.value < DUST {
            return Err(CloseError::Dust { output: place });
        }
    }
    let anchor = TxOut { value: ANCHOR_VALUE, script_pubkey: anchor_script() };
    let all = outputs.iter().cloned().chain([anchor]).collect();
    let sequence = Sequence::ENABLE_RBF_NO_LOCKTIME;
    let tx = transaction(Version(3), LockTime::ZERO, outpoint, sequence, all);
    let size = {
        let mut signed = tx.clone();
        signed.input.iter_mut().for_each(|input| input.witness = Witness::from_slice(&[[0; 64]]));
        signed.weight()
    };
    if size.to_vbytes_ceil() > MAX_V3_VBYTES {
        return Err(CloseError::Size(size.to_vbytes_ceil()));
    }
    let least = fee(size.to_wu(), MIN_FEERATE).unwrap_or(Amount::MAX_MONEY);
    let taken = sum(outputs);
    let left = taken.and_then(|taken| value.checked_sub(taken));
    if left.is_none_or(|left| left < least) {
        return Err(CloseError::Fee { outputs: taken, funding: value, least });
    }
    let prevout = TxOut { value, script_pubkey: key_script(key) };
    let sighash = sighash(CLOSE, &tx, &prevout)?;
    let txid = tx.compute_txid();
    Ok(Session { id: CLOSE, sighash, tx, txid, prevout, outpoint })
}

/// A member's own look: whether it gets what it has.
///
/// # Errors
/// When it doesn't.
pub fn pays(outputs: &[TxOut], share: &Share) -> Result<(), CloseError> {
    match share.output() {
        Some(own) if !outputs.contains(&own) => Err(CloseError::Unpaid(share.balance)),
        Some(_) | None => Ok(()),
    }
}

/// The hash that all members sign off on (S6): which factory's, the transaction and the aggregate nonce.
pub fn transcript(instance: InstanceId, attempt: u32, session: &Session, nonces: &[AggNonce]) -> [u8; 32] {
    let tag = sha256::Hash::hash(b"superscalar/1 close").to_byte_array();
    let mut engine = sha256::Hash::engine();
    engine.input(&tag);
    engine.input(&tag);
    engine.input(&instance.0);
    engine.input(&attempt.to_be_bytes());
    engine.input(&session.sighash);
    for nonce in nonces {
        engine.input(&nonce.0);
    }
    sha256::Hash::from_engine(engine).to_byte_array()
}
