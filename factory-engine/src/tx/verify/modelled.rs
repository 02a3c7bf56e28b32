//! What stands for Bitcoin Core's interpreter where signatures are modelled: the few kinds of scripts
//! that factories and the lab's lightningd have, and nothing else.

use std::fmt;

use bitcoin::hashes::{Hash, hash160, sha256};
use bitcoin::opcodes::all::{OP_CHECKMULTISIG, OP_CHECKSIG, OP_CSV, OP_DROP};
use bitcoin::script::Instruction;
use bitcoin::sighash::{EcdsaSighashType, Prevouts, SighashCache, TapSighashType};
use bitcoin::taproot::{LeafVersion, TapLeafHash, TapNodeHash};
use bitcoin::{Script, Transaction, TxOut, relative};

use crate::tx::musig::{PublicKey, XOnlyPublicKey, output_key, verify_alone};
use crate::tx::scripts::anchor_script;

/// The model refuses the input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsensusError(&'static str);

impl fmt::Display for ConsensusError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the modelled rules refuse the input: {}", self.0)
    }
}

impl std::error::Error for ConsensusError {}

const NOT_KNOWN: ConsensusError = ConsensusError("a kind of script that is not modelled");
const WITNESS: ConsensusError = ConsensusError("its witness is malformed");
const SIGNATURE: ConsensusError = ConsensusError("its signature");

/// Checks every input of a transaction that spends `prevouts`.
///
/// # Errors
/// The first input that is refused.
pub fn verify_inputs(tx: &Transaction, prevouts: &[TxOut]) -> Result<(), (usize, ConsensusError)> {
    if tx.input.len() != prevouts.len() {
        return Err((0, ConsensusError("the number of spent outputs")));
    }
    (0..prevouts.len()).try_for_each(|input| verify(tx, prevouts, input).map_err(|error| (input, error)))
}

fn verify(tx: &Transaction, prevouts: &[TxOut], input: usize) -> Result<(), ConsensusError> {
    let witness: Vec<&[u8]> = tx.input[input].witness.iter().collect();
    let script = prevouts[input].script_pubkey.as_script();
    if !tx.input[input].script_sig.is_empty() {
        return Err(NOT_KNOWN);
    }
    match (script.is_p2tr(), witness.as_slice()) {
        (true, [signature]) => key_path(tx, prevouts, input, signature),
        (true, [signature, leaf, control]) => leaf_path(tx, prevouts, input, (signature, leaf, control)),
        (false, [signature, key]) if script.is_p2wpkh() => {
            let hash = hash160::Hash::hash(key).to_byte_array();
            if script.as_bytes()[2..] != hash {
                return Err(WITNESS);
            }
            let sighash = SighashCache::new(tx)
                .p2wpkh_signature_hash(input, script, prevouts[input].value, EcdsaSighashType::All)
                .map_err(|_| NOT_KNOWN)?;
            ecdsa(signature, key, &sighash.to_byte_array())
        }
        (false, [[], first, second, inner]) if script.is_p2wsh() => {
            if script.as_bytes()[2..] != sha256::Hash::hash(inner).to_byte_array() {
                return Err(WITNESS);
            }
            two_of_two(tx, prevouts, input, [first, second], Script::from_bytes(inner))
        }
        (false, []) if script == anchor_script().as_script() => Ok(()),
        _ => Err(NOT_KNOWN),
    }
}

fn key_path(
    tx: &Transaction,
    prevouts: &[TxOut],
    input: usize,
    signature: &[u8],
) -> Result<(), ConsensusError> {
    let key = XOnlyPublicKey::from_slice(&prevouts[input].script_pubkey.as_bytes()[2..]);
    let (Ok(key), Ok(signature)) = (key, signature.try_into()) else { return Err(WITNESS) };
    let sighash = SighashCache::new(tx)
        .taproot_key_spend_signature_hash(input, &Prevouts::All(prevouts), TapSighashType::Default)
        .map_err(|_| NOT_KNOWN)?;
    if verify_alone(signature, &sighash.to_byte_array(), &key) { Ok(()) } else { Err(SIGNATURE) }
}

/// `<blocks> OP_CSV OP_DROP <key> OP_CHECKSIG` as the only leaf.
fn leaf_path(
    tx: &Transaction,
    prevouts: &[TxOut],
    input: usize,
    (signature, leaf, control): (&[u8], &[u8], &[u8]),
) -> Result<(), ConsensusError> {
    let leaf = Script::from_bytes(leaf);
    let internal = control.get(1..).and_then(|key| XOnlyPublicKey::from_slice(key).ok()).ok_or(WITNESS)?;
    let root = TapNodeHash::from_script(leaf, LeafVersion::TapScript).to_byte_array();
    let output = output_key(internal, Some(root)).serialize();
    if control.first() != Some(&LeafVersion::TapScript.to_consensus())
        || prevouts[input].script_pubkey.as_bytes()[2..] != output
    {
        return Err(WITNESS);
    }
    let parts = leaf.instructions().collect::<Result<Vec<_>, _>>().map_err(|_| NOT_KNOWN)?;
    let [blocks, csv, drop, Instruction::PushBytes(key), check] = parts.as_slice() else {
        return Err(NOT_KNOWN);
    };
    let ops = [csv, drop, check].map(Instruction::opcode);
    if ops != [Some(OP_CSV), Some(OP_DROP), Some(OP_CHECKSIG)] {
        return Err(NOT_KNOWN);
    }
    let blocks = blocks.script_num().ok_or(NOT_KNOWN)?;
    match tx.input[input].sequence.to_relative_lock_time() {
        Some(relative::LockTime::Blocks(given))
            if tx.version.0 >= 2 && i64::from(given.value()) >= blocks => {}
        _ => return Err(ConsensusError("its relative lock is shorter than the script's")),
    }
    let key = XOnlyPublicKey::from_slice(key.as_bytes()).map_err(|_| NOT_KNOWN)?;
    let leaf_hash = TapLeafHash::from_script(leaf, LeafVersion::TapScript);
    let sighash = SighashCache::new(tx)
        .taproot_script_spend_signature_hash(
            input,
            &Prevouts::All(prevouts),
            leaf_hash,
            TapSighashType::Default,
        )
        .map_err(|_| NOT_KNOWN)?;
    let signature = signature.try_into().map_err(|_| WITNESS)?;
    if verify_alone(signature, &sighash.to_byte_array(), &key) { Ok(()) } else { Err(SIGNATURE) }
}

/// `2 <key> <key> 2 OP_CHECKMULTISIG`.
fn two_of_two(
    tx: &Transaction,
    prevouts: &[TxOut],
    input: usize,
    signatures: [&[u8]; 2],
    script: &Script,
) -> Result<(), ConsensusError> {
    let parts = script.instructions().collect::<Result<Vec<_>, _>>().map_err(|_| NOT_KNOWN)?;
    let [two, Instruction::PushBytes(first), Instruction::PushBytes(second), again, check] = parts.as_slice()
    else {
        return Err(NOT_KNOWN);
    };
    if [two, again].map(Instruction::script_num) != [Some(2); 2] || check.opcode() != Some(OP_CHECKMULTISIG) {
        return Err(NOT_KNOWN);
    }
    let sighash = SighashCache::new(tx)
        .p2wsh_signature_hash(input, script, prevouts[input].value, EcdsaSighashType::All)
        .map_err(|_| NOT_KNOWN)?
        .to_byte_array();
    ecdsa(signatures[0], first.as_bytes(), &sighash)?;
    ecdsa(signatures[1], second.as_bytes(), &sighash)
}

/// In the place of ECDSA: the modelled signature, then the sighash type.
fn ecdsa(signature: &[u8], key: &[u8], sighash: &[u8; 32]) -> Result<(), ConsensusError> {
    let key = PublicKey::from_slice(key).map_err(|_| WITNESS)?;
    let Some((1, signature)) = signature.split_last() else { return Err(WITNESS) };
    let signature = signature.try_into().map_err(|_| WITNESS)?;
    let valid = verify_alone(signature, sighash, &key.x_only_public_key().0);
    if valid { Ok(()) } else { Err(SIGNATURE) }
}
