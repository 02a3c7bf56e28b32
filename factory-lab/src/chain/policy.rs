//! What decides about one transaction: locks, amounts, standardness, scripts.

use bitcoin::{Amount, Sequence, Transaction, TxOut, relative};

use super::Reject;
use factory_engine::tx::scripts::{ANCHOR_VALUE, DUST, anchor_script};
use factory_engine::tx::verify::verify_inputs;
use factory_engine::types::Height;

/// BIP-68: the input's coin must be as deep as nSequence says, counted at the next block.
pub(super) fn check_relative_lock(
    tx: &Transaction,
    sequence: Sequence,
    coin: Option<Height>,
    tip: Height,
) -> Result<(), Reject> {
    if tx.version.0 < 2 {
        return Ok(());
    }
    match sequence.to_relative_lock_time() {
        None => Ok(()),
        Some(relative::LockTime::Time(_)) => Err(Reject::TimeLock),
        Some(relative::LockTime::Blocks(blocks)) => {
            let blocks = u32::from(blocks.value());
            let next = tip.saturating_add(1);
            // An unconfirmed coin counts as one of the next block.
            let due = coin.unwrap_or(next).saturating_add(blocks);
            if next >= due { Ok(()) } else { Err(Reject::TooEarly { next, due }) }
        }
    }
}

/// nLockTime: a height that lies before the next block, unless every input is final.
pub(super) fn check_lock_time(tx: &Transaction, tip: Height) -> Result<(), Reject> {
    if tx.input.iter().all(|input| input.sequence == Sequence::MAX) {
        return Ok(());
    }
    if !tx.lock_time.is_block_height() {
        return Err(Reject::TimeLock);
    }
    let next = tip.saturating_add(1);
    let due = tx.lock_time.to_consensus_u32().saturating_add(1);
    if next >= due { Ok(()) } else { Err(Reject::TooEarly { next, due }) }
}

/// What a transaction pays, if its amounts add up.
pub fn fee_of(tx: &Transaction, prevouts: &[TxOut]) -> Option<Amount> {
    let add = |sum: Amount, output: &TxOut| sum.checked_add(output.value);
    let input = prevouts.iter().try_fold(Amount::ZERO, add)?;
    let output = tx.output.iter().try_fold(Amount::ZERO, add)?;
    input.checked_sub(output)
}

/// Amounts by consensus; feerate, size and dust as Bitcoin Core relays.
pub(super) fn check_standard(tx: &Transaction, prevouts: &[TxOut]) -> Result<(), Reject> {
    let fee = fee_of(tx, prevouts).ok_or(Reject::Amounts)?;
    // Sizes are under 2^32.
    let vbytes = u64::try_from(tx.vsize()).unwrap_or(u64::MAX);
    if fee.to_sat() < vbytes {
        return Err(Reject::Fee { fee, vbytes });
    }
    let limit = if tx.version.0 == 3 { 10_000 } else { 100_000 };
    if vbytes > limit || !(1..=3).contains(&tx.version.0) {
        return Err(Reject::NotStandard);
    }
    let anchor = anchor_script();
    let dust = |output: &TxOut| {
        let limit = if output.script_pubkey == anchor {
            ANCHOR_VALUE
        } else if output.script_pubkey.is_p2wpkh() {
            Amount::from_sat(294)
        } else {
            DUST
        };
        output.value < limit
    };
    if tx.output.iter().any(dust) { Err(Reject::Dust) } else { Ok(()) }
}

/// Every input's script, by consensus code (in fast mode by its model); how many there were.
///
/// # Errors
/// The first input that is refused.
pub fn check_scripts(tx: &Transaction, prevouts: &[TxOut]) -> Result<u64, Reject> {
    verify_inputs(tx, prevouts)
        .map_err(|(input, error)| Reject::Script { input, error: error.to_string() })?;
    Ok(u64::try_from(prevouts.len()).unwrap_or(u64::MAX))
}
