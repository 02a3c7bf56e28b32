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

/// A BigSize length and Bitcoin's own encoding, witness included where there is one. The bitcoin crate
/// trusts a count of inputs or outputs for a megabyte of memory, whatever arrived, and no further.
impl Codec for Transaction {
    fn write(&self, out: &mut Vec<u8>) {
        write_counted(&bitcoin::consensus::serialize(self), out);
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        bitcoin::consensus::deserialize(r.take_counted()?).map_err(|_| Malformed::BadTransaction.into())
    }
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
