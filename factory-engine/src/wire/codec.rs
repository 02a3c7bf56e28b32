//! How one value becomes bytes, and how untrusted bytes become one value or a [`DecodeError`].
//!
//! Integers are big-endian, lengths and counts BigSize, streams TLV, all as in BOLT 1. A decoder never
//! allocates more than a small multiple of the bytes that arrived (S28).

mod bitcoin_types;
mod error;
mod shared;
#[cfg(test)]
mod tests;
mod tlv;

use std::collections::BTreeMap;

use crate::tx::musig::{AggNonce, PartialSig, PubNonce};
use crate::types::{ChannelId, InstanceId, NodeId, PaymentHash, PaymentSecret, ProtocolId};

pub(crate) use bitcoin_types::transaction;
pub use error::{DecodeError, Malformed};
pub use shared::Shared;
pub use tlv::{
    Field, Records, TlvStream, absent_field, ascending, unknown_record, write_counted, write_measured,
    write_record,
};
pub(crate) use tlv::{plain_codec, tlv_enum, tlv_struct};

/// A value with one encoding: what is read was written by `write`, byte for byte, except that
/// unknown odd TLV records are dropped.
pub trait Codec: Sized {
    /// Appends the value's bytes to `out`.
    fn write(&self, out: &mut Vec<u8>);

    /// Reads one value, and leaves what follows it.
    fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError>;

    /// The bytes of this value and nothing else.
    fn encoded(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.write(&mut out);
        out
    }

    /// Reads one value that fills `bytes`.
    fn decoded(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes);
        let value = Self::read(&mut r)?;
        r.finish()?;
        Ok(value)
    }
}

/// Bytes that arrived and weren't read yet.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Reads from the start of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    /// How many bytes are left.
    pub fn remaining(&self) -> usize {
        self.bytes.len()
    }

    /// The next `count` bytes; an error if fewer are left.
    pub fn take(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let Some((taken, rest)) = self.bytes.split_at_checked(count) else {
            // A usize always fits into 64 bits on the machines that run lightningd.
            let wanted = u64::try_from(count).unwrap_or(u64::MAX);
            return Err(Malformed::Truncated { wanted, left: self.bytes.len() }.into());
        };
        self.bytes = rest;
        Ok(taken)
    }

    /// The next `count` bytes, where the count itself came from the peer.
    pub fn take_u64(&mut self, count: u64) -> Result<&'a [u8], DecodeError> {
        match usize::try_from(count) {
            Ok(count) => self.take(count),
            Err(_) => Err(Malformed::Truncated { wanted: count, left: self.bytes.len() }.into()),
        }
    }

    /// A BigSize length, and that many bytes.
    pub fn take_counted(&mut self) -> Result<&'a [u8], DecodeError> {
        let count = BigSize::read(self)?;
        self.take_u64(count.0)
    }

    /// All bytes that are left, which may be none.
    pub fn take_rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.bytes)
    }

    /// The next `N` bytes; an error if fewer are left.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    /// Reads one value; an error names it `name`.
    pub fn field<T: Codec>(&mut self, name: &'static str) -> Result<T, DecodeError> {
        T::read(self).map_err(|e| e.inside(name))
    }

    /// Insists that nothing is left.
    pub fn finish(self) -> Result<(), DecodeError> {
        match self.bytes.len() {
            0 => Ok(()),
            bytes => Err(Malformed::Trailing { bytes }.into()),
        }
    }
}

/// BOLT 1's BigSize: 1, 3, 5 or 9 bytes, always as few as possible.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct BigSize(pub u64);

impl BigSize {
    /// A length or count.
    pub fn of(count: usize) -> Self {
        // A usize always fits into 64 bits on the machines that run lightningd.
        Self(u64::try_from(count).unwrap_or(u64::MAX))
    }
}

impl Codec for BigSize {
    fn write(&self, out: &mut Vec<u8>) {
        if let (Ok(small), true) = (u8::try_from(self.0), self.0 < 0xfd) {
            out.push(small);
        } else if let Ok(value) = u16::try_from(self.0) {
            out.push(0xfd);
            value.write(out);
        } else if let Ok(value) = u32::try_from(self.0) {
            out.push(0xfe);
            value.write(out);
        } else {
            out.push(0xff);
            self.0.write(out);
        }
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let (value, least) = match u8::read(r)? {
            0xff => (u64::read(r)?, 1 << 32),
            0xfe => (u32::read(r)?.into(), 1 << 16),
            0xfd => (u16::read(r)?.into(), 0xfd),
            small => (small.into(), 0),
        };
        if value < least { Err(Malformed::NotMinimal.into()) } else { Ok(Self(value)) }
    }
}

macro_rules! integer_codec {
    ($($ty:ty),*) => { $(
        impl Codec for $ty {
            fn write(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_be_bytes());
            }

            fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
                r.array().map(Self::from_be_bytes)
            }
        }
    )* };
}

integer_codec!(u8, u16, u32, u64, i64);

impl Codec for bool {
    fn write(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match u8::read(r)? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(Malformed::BadValue { value: other.into(), expected: "0 or 1" }.into()),
        }
    }
}

impl<const N: usize> Codec for [u8; N] {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self);
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        r.array()
    }
}

macro_rules! newtype_codec {
    ($($ty:ident),*) => { $(
        impl Codec for $ty {
            fn write(&self, out: &mut Vec<u8>) {
                self.0.write(out);
            }

            fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
                r.array().map(Self)
            }
        }
    )* };
}

// Nonces and partial signatures are judged by whoever uses them, not here: a bad one must name its
// author (S4), and a decoding error couldn't.
newtype_codec!(
    InstanceId,
    NodeId,
    ProtocolId,
    ChannelId,
    PaymentHash,
    PaymentSecret,
    PubNonce,
    AggNonce,
    PartialSig
);

/// A u16 length and UTF-8. Text is for people: what is beyond 65,535 bytes is cut off.
impl Codec for String {
    fn write(&self, out: &mut Vec<u8>) {
        let text = clip(self, u16::MAX.into());
        // `clip` left at most u16::MAX bytes.
        u16::try_from(text.len()).unwrap_or(u16::MAX).write(out);
        out.extend_from_slice(text.as_bytes());
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let length = u16::read(r)?;
        let text = std::str::from_utf8(r.take(length.into())?);
        text.map(str::to_owned).map_err(|_| Malformed::NotUtf8.into())
    }
}

/// The longest start of `text` of at most `max` bytes that doesn't cut a character in two.
pub fn clip(text: &str, max: usize) -> &str {
    if text.len() <= max {
        return text;
    }
    // 0 is a boundary, so one is always found.
    (0..=max).rev().find_map(|end| text.get(..end)).unwrap_or_default()
}

/// A BigSize count and the entries.
impl<T: Codec> Codec for Vec<T> {
    fn write(&self, out: &mut Vec<u8>) {
        write_list(self, out);
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let count = BigSize::read(r)?.0;
        let left = r.remaining();
        // Every entry takes at least a byte, so this also bounds the loop.
        let Some(count) = usize::try_from(count).ok().filter(|count| *count <= left) else {
            return Err(Malformed::TooMany { count, left }.into());
        };
        let mut entries = Vec::with_capacity(count.min(affordable::<T>(left)));
        for _ in 0..count {
            entries.push(T::read(r)?);
        }
        Ok(entries)
    }
}

/// Entries that there is room for at first (S28): no more than the bytes that arrived would take in memory.
/// The rest grows as it is really read.
fn affordable<T>(left: usize) -> usize {
    left / size_of::<T>().max(1)
}

fn write_list<T: Codec>(list: &[T], out: &mut Vec<u8>) {
    BigSize::of(list.len()).write(out);
    list.iter().for_each(|entry| entry.write(out));
}

/// A pair: the first value, then the second, with nothing between.
impl<A: Codec, B: Codec> Codec for (A, B) {
    fn write(&self, out: &mut Vec<u8>) {
        self.0.write(out);
        self.1.write(out);
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok((A::read(r)?, B::read(r)?))
    }
}

/// A list of pairs whose keys strictly ascend.
impl<K: Codec + Ord, V: Codec> Codec for BTreeMap<K, V> {
    fn write(&self, out: &mut Vec<u8>) {
        BigSize::of(self.len()).write(out);
        for (key, value) in self {
            key.write(out);
            value.write(out);
        }
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let pairs = Vec::<(K, V)>::read(r)?;
        if pairs.windows(2).any(|pair| pair[0].0 >= pair[1].0) {
            return Err(Malformed::UnsortedKeys.into());
        }
        Ok(pairs.into_iter().collect())
    }
}
