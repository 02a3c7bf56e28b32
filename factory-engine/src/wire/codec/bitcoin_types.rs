//! The types that the bitcoin crates define.

use bitcoin::hashes::Hash;
use bitcoin::{SignedAmount, TxOut};

use crate::tx::musig::{PublicKey, XOnlyPublicKey};
use crate::types::{Amount, OutPoint, ScriptBuf, Transaction, Txid};

use super::{Codec, DecodeError, Malformed, Reader, write_counted};

/// Satoshis in 8 bytes, at most 21 million BTC.
impl Codec for Amount {
    fn write(&self, out: &mut Vec<u8>) {
        self.to_sat().write(out);
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let sat = u64::read(r)?;
        let amount = Amount::from_sat(sat);
        if amount > Amount::MAX_MONEY { Err(Malformed::TooMuchMoney { sat }.into()) } else { Ok(amount) }
    }
}

/// Satoshis in 8 bytes, two's complement, at most 21 million BTC either way.
impl Codec for SignedAmount {
    fn write(&self, out: &mut Vec<u8>) {
        self.to_sat().write(out);
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let value = i64::read(r)?;
        let sat = value.unsigned_abs();
        if sat > Amount::MAX_MONEY.to_sat() {
            return Err(Malformed::TooMuchMoney { sat }.into());
        }
        Ok(SignedAmount::from_sat(value))
    }
}

/// 32 bytes in the order in which they are hashed, as BOLT messages have it; explorers and
/// lightningd's JSON show them reversed.
impl Codec for Txid {
    fn write(&self, out: &mut Vec<u8>) {
        self.to_byte_array().write(out);
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        r.array().map(Txid::from_byte_array)
    }
}

/// The txid, and the output's index in 4 bytes.
impl Codec for OutPoint {
    fn write(&self, out: &mut Vec<u8>) {
        self.txid.write(out);
        self.vout.write(out);
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(OutPoint { txid: r.field("txid")?, vout: r.field("vout")? })
    }
}

/// A BigSize length and Bitcoin's own encoding, witness included where there is one.
impl Codec for Transaction {
    fn write(&self, out: &mut Vec<u8>) {
        write_counted(&bitcoin::consensus::serialize(self), out);
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        transaction(r.take_counted()?).ok_or_else(|| Malformed::BadTransaction.into())
    }
}

/// A transaction in Bitcoin's own encoding; nothing if it is none. The bitcoin crate reserves up to thirty megabytes for
/// what a list or a witness says that it has: of that nothing is believed that the bytes which arrived can't hold (S28).
pub(crate) fn transaction(bytes: &[u8]) -> Option<Transaction> {
    holds_what_it_counts(bytes)?;
    bitcoin::consensus::deserialize(bytes).ok()
}

/// Least bytes of an input, an output, and an element of a witness.
const LEAST: (usize, usize, usize) = (41, 9, 1);

fn holds_what_it_counts(bytes: &[u8]) -> Option<()> {
    let (input, output, element) = LEAST;
    let mut rest = bytes.get(4..)?;
    let mut inputs = count(&mut rest, input)?;
    // BIP 144: no inputs are a marker, and a flag comes after it.
    let has_witness = inputs == 0;
    if has_witness {
        skip(&mut rest, 1)?;
        inputs = count(&mut rest, input)?;
    }
    for _ in 0..inputs {
        skip(&mut rest, 36)?;
        skip_counted(&mut rest)?;
        skip(&mut rest, 4)?;
    }
    for _ in 0..count(&mut rest, output)? {
        skip(&mut rest, 8)?;
        skip_counted(&mut rest)?;
    }
    for _ in 0..if has_witness { inputs } else { 0 } {
        for _ in 0..count(&mut rest, element)? {
            skip_counted(&mut rest)?;
        }
    }
    Some(())
}

fn skip(rest: &mut &[u8], bytes: usize) -> Option<()> {
    *rest = rest.get(bytes..)?;
    Some(())
}

fn skip_counted(rest: &mut &[u8]) -> Option<()> {
    let bytes = count(rest, 1)?;
    skip(rest, bytes)
}

/// A compact size, if there may be so many of `least` bytes each.
fn count(rest: &mut &[u8], least: usize) -> Option<usize> {
    let (first, mut after) = rest.split_first()?;
    let width = match first {
        0xfd => 2,
        0xfe => 4,
        0xff => 8,
        _ => 0,
    };
    let mut number = [0; 8];
    number.get_mut(..width)?.copy_from_slice(after.get(..width)?);
    skip(&mut after, width)?;
    let number = if width == 0 { u64::from(*first) } else { u64::from_le_bytes(number) };
    let number = usize::try_from(number).ok()?;
    *rest = after;
    (number.checked_mul(least)? <= after.len()).then_some(number)
}

/// The amount, and the script.
impl Codec for TxOut {
    fn write(&self, out: &mut Vec<u8>) {
        self.value.write(out);
        self.script_pubkey.write(out);
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(TxOut { value: r.field("value")?, script_pubkey: r.field("script_pubkey")? })
    }
}

/// Compressed, 33 bytes, checked to be on the curve.
impl Codec for PublicKey {
    fn write(&self, out: &mut Vec<u8>) {
        self.serialize().write(out);
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        PublicKey::from_slice(&r.array::<33>()?).map_err(|_| Malformed::BadPoint.into())
    }
}

/// BIP-340, 32 bytes, checked to be on the curve.
impl Codec for XOnlyPublicKey {
    fn write(&self, out: &mut Vec<u8>) {
        self.serialize().write(out);
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        XOnlyPublicKey::from_slice(&r.array::<32>()?).map_err(|_| Malformed::BadPoint.into())
    }
}

/// A BigSize length and the bytes, as a transaction has them.
impl Codec for ScriptBuf {
    fn write(&self, out: &mut Vec<u8>) {
        write_counted(self.as_bytes(), out);
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        r.take_counted().map(|bytes| ScriptBuf::from_bytes(bytes.to_vec()))
    }
}
