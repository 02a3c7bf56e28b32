//! Bitcoin Core's own script interpreter.

use std::fmt;

use bitcoin::consensus::encode::serialize;
use bitcoin::{Transaction, TxOut};

/// Consensus code refuses the input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsensusError(bitcoinconsensus::Error);

impl fmt::Display for ConsensusError {
    #[expect(clippy::wildcard_enum_match_arm, reason = "an enum of bitcoinconsensus")]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            // What the library reports for every script that evaluates to false.
            bitcoinconsensus::Error::ERR_SCRIPT => {
                write!(f, "consensus rules refuse the input's script or signature")
            }
            other => write!(f, "consensus rules refuse the transaction: {other}"),
        }
    }
}

impl std::error::Error for ConsensusError {}

/// Checks every input of a transaction that spends `prevouts`, all soft forks on, taproot included.
///
/// # Errors
/// The first input that is refused.
pub fn verify_inputs(tx: &Transaction, prevouts: &[TxOut]) -> Result<(), (usize, ConsensusError)> {
    let wrong = || ConsensusError(bitcoinconsensus::Error::ERR_SPENT_OUTPUTS_MISMATCH);
    if tx.input.len() != prevouts.len() {
        return Err((0, wrong()));
    }
    let utxo = |(input, output): (usize, &TxOut)| {
        let script = output.script_pubkey.as_bytes();
        Ok(bitcoinconsensus::Utxo {
            script_pubkey: script.as_ptr(),
            script_pubkey_len: u32::try_from(script.len()).map_err(|_| (input, wrong()))?,
            value: i64::try_from(output.value.to_sat()).map_err(|_| (input, wrong()))?,
        })
    };
    let spent = prevouts.iter().enumerate().map(utxo).collect::<Result<Vec<_>, _>>()?;
    let bytes = serialize(tx);
    let flags = bitcoinconsensus::VERIFY_ALL_PRE_TAPROOT | bitcoinconsensus::VERIFY_TAPROOT;
    for (input, output) in prevouts.iter().enumerate() {
        let script = output.script_pubkey.as_bytes();
        let value = output.value.to_sat();
        bitcoinconsensus::verify_with_flags(script, value, &bytes, Some(&spent), input, flags)
            .map_err(|error| (input, ConsensusError(error)))?;
    }
    Ok(())
}
