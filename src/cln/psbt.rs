//! PSBTs of lightningd's wallet. They are of version 2 (BIP-370), which `bitcoin` doesn't read, and to have
//! lightningd convert one with many inputs holds up everything else that it does.

use std::fmt;

use bitcoin::psbt::Psbt;
use bitcoin::{OutPoint, Transaction, Witness};
use psbt_v2::v2;

/// Why a PSBT is none.
#[derive(Debug)]
pub struct Unreadable(String);

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unreadable PSBT: {}", self.0)
    }
}

impl std::error::Error for Unreadable {}

/// Reads one of either version: its transaction, and of each input what it spends and its signatures. Whole
/// parent transactions are left out: they may be megabytes, and segwit inputs need none.
///
/// # Errors
/// When it is none.
pub fn read(text: &str) -> Result<Psbt, Unreadable> {
    let old: Result<Psbt, _> = text.parse();
    let mut psbt = match old {
        Ok(psbt) => psbt,
        Err(_) => read_v2(text)?,
    };
    for input in &mut psbt.inputs {
        input.non_witness_utxo = None;
    }
    Ok(psbt)
}

fn read_v2(text: &str) -> Result<Psbt, Unreadable> {
    let unreadable = |error: String| Unreadable(error);
    let new: v2::Psbt = text.parse().map_err(|error| unreadable(format!("{error}")))?;
    let inputs = new.inputs.clone();
    let signer = v2::Signer::new(new).map_err(|error| unreadable(error.to_string()))?;
    let mut psbt =
        Psbt::from_unsigned_tx(signer.unsigned_tx()).map_err(|error| unreadable(error.to_string()))?;
    for (read, input) in psbt.inputs.iter_mut().zip(inputs) {
        read.witness_utxo = input.witness_utxo;
        read.final_script_witness = input.final_script_witness;
        read.tap_key_sig = input.tap_key_sig;
        read.partial_sigs = input.partial_sigs;
    }
    Ok(psbt)
}

/// A signed input's witness: P2TR key path or P2WPKH.
pub fn witness(input: &bitcoin::psbt::Input) -> Option<Witness> {
    if let Some(witness) = &input.final_script_witness {
        return Some(witness.clone());
    }
    if let Some(signature) = &input.tap_key_sig {
        return Some(Witness::p2tr_key_spend(signature));
    }
    let (key, signature) = input.partial_sigs.first_key_value()?;
    Some(Witness::p2wpkh(signature, &key.inner))
}

/// A PSBT that names coins, for `reserveinputs` and `unreserveinputs`.
pub fn spending(coins: &[OutPoint]) -> Result<Psbt, bitcoin::psbt::Error> {
    let input = |previous_output: &OutPoint| bitcoin::TxIn {
        previous_output: *previous_output,
        ..Default::default()
    };
    Psbt::from_unsigned_tx(Transaction {
        version: bitcoin::transaction::Version::TWO,
        lock_time: bitcoin::absolute::LockTime::ZERO,
        input: coins.iter().map(input).collect(),
        output: vec![],
    })
}
