//! Identifiers that every module shares.

use std::fmt;
use std::str::FromStr;

pub use bitcoin::{Amount, OutPoint, ScriptBuf, Transaction, Txid, Witness};

/// Why a hex identifier was not accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadHex {
    /// What was expected, for people: "64 hex digits".
    pub expected: &'static str,
}

impl fmt::Display for BadHex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "expected {}", self.expected)
    }
}

impl std::error::Error for BadHex {}

macro_rules! hex_id {
    ($(#[$doc:meta])* $name:ident, $len:expr, $expected:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $len]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let digit = |nibble: u8| char::from_digit(u32::from(nibble), 16).unwrap_or('?');
                let digits = self.0.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]);
                f.write_str(&digits.collect::<String>())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = BadHex;

            fn from_str(text: &str) -> Result<Self, BadHex> {
                parse_hex(text).map(Self).ok_or(BadHex { expected: $expected })
            }
        }
    };
}

fn parse_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let bytes = text.as_bytes();
    if bytes.len() != 2 * N {
        return None;
    }
    let digit = |c: u8| char::from(c).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let mut out = [0; N];
    for (byte, pair) in out.iter_mut().zip(bytes.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(out)
}

hex_id!(
    /// A lightning node's public key (BOLT 1), 33 bytes compressed. Not checked to be on the curve:
    /// it only ever names a peer that lightningd has authenticated.
    NodeId, 33, "a node id of 66 hex digits"
);
hex_id!(
    /// `factory_instance_id` of bLIP-56: names one factory.
    InstanceId, 32, "a factory_instance of 64 hex digits"
);
hex_id!(
    /// Hash of everything that an invitation asks a client to accept (S32).
    TermsHash, 32, "a terms_hash of 64 hex digits"
);
hex_id!(
    /// `factory_protocol_id` of bLIP-56: SHA-256 of a protocol's name and major version.
    ProtocolId, 32, "a factory_protocol of 64 hex digits"
);
hex_id!(
    /// `channel_id` of BOLT 2: the funding txid with its last two bytes XORed by the output index.
    ChannelId, 32, "a channel_id of 64 hex digits"
);
hex_id!(
    /// BOLT 11's payment_hash: SHA-256 of the preimage.
    PaymentHash, 32, "a payment_hash of 64 hex digits"
);
hex_id!(
    /// What a payment_hash is the SHA-256 of (BOLT 2): whoever knows it can take the HTLC.
    Preimage, 32, "a preimage of 64 hex digits"
);
hex_id!(
    /// BOLT 11's payment_secret: proves that the payer has the invoice.
    PaymentSecret, 32, "a payment_secret of 64 hex digits"
);

/// `factory_protocol_id` of bLIP-56: SHA-256 of `superscalar/1`.
pub const PROTOCOL_ID: ProtocolId = ProtocolId([
    0x28, 0xb7, 0x40, 0xc7, 0x56, 0xa6, 0xf2, 0x4a, 0x1f, 0x71, 0x0f, 0xa2, 0x30, 0xf6, 0x0b, 0xa4, 0x86,
    0x2f, 0xc0, 0x3f, 0x8d, 0x91, 0x44, 0x2a, 0xae, 0x25, 0xdb, 0xe0, 0x57, 0x22, 0x04, 0xad,
]);

impl ChannelId {
    /// The v1 channel_id of a channel funded by `outpoint` (BOLT 2).
    pub fn of(outpoint: OutPoint) -> Self {
        use bitcoin::hashes::Hash;
        let mut bytes = outpoint.txid.to_byte_array();
        // BOLT 2 XORs the big-endian u16 output index into the last two bytes; no funding
        // transaction of ours has more than 65,535 outputs (`tx` refuses such shapes).
        let index = outpoint.vout.to_be_bytes();
        bytes[30] ^= index[2];
        bytes[31] ^= index[3];
        Self(bytes)
    }
}

/// A point in time, milliseconds since the Unix epoch. The core never reads a clock: it is told.
pub type Millis = u64;

/// Height of a block, the genesis block's being 0.
pub type Height = u32;
