//! What can be wrong with bytes.

use std::fmt;

/// Bytes that were not accepted: which field, and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecodeError {
    /// Names of the enclosing fields, the innermost first: an error gathers them on its way out.
    path: Vec<&'static str>,
    /// What is wrong with the innermost field.
    pub fault: Malformed,
}

/// What is wrong with bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Malformed {
    /// The bytes are no Bitcoin transaction.
    BadTransaction,
    /// The bytes end before the value does.
    Truncated {
        /// Bytes that the value takes.
        wanted: u64,
        /// Bytes that were left of the input.
        left: usize,
    },
    /// The value ends before the bytes do.
    Trailing {
        /// Bytes that are left after the value.
        bytes: usize,
    },
    /// A BigSize that takes more bytes than it needs (BOLT 1).
    NotMinimal,
    /// A TLV record of an even type that this version doesn't know (BOLT 1).
    UnknownEvenRecord {
        /// Type of the record (BOLT 1).
        kind: u64,
    },
    /// TLV records out of ascending order (BOLT 1).
    UnsortedRecord {
        /// Type of the record (BOLT 1).
        kind: u64,
        /// The type of the record before it.
        after: u64,
    },
    /// A TLV record that occurs twice (BOLT 1).
    DuplicateRecord {
        /// Type of the record (BOLT 1).
        kind: u64,
    },
    /// A required TLV record that isn't there.
    MissingRecord {
        /// Type of the record (BOLT 1).
        kind: u64,
    },
    /// A list that announces more entries than bytes follow.
    TooMany {
        /// Entries that the list's count announces.
        count: u64,
        /// Bytes that follow the count.
        left: usize,
    },
    /// Text or bytes longer than the field may be.
    TooLong {
        /// Length that it has, bytes.
        bytes: usize,
        /// Length that it may have, bytes.
        max: usize,
    },
    /// More than 21 million BTC.
    TooMuchMoney {
        /// The amount without its sign, sat.
        sat: u64,
    },
    /// Not a point on secp256k1.
    BadPoint,
    /// A text's bytes that aren't UTF-8.
    NotUtf8,
    /// A map whose keys don't strictly ascend.
    UnsortedKeys,
    /// A number that stands for nothing.
    BadValue {
        /// The number that was read.
        value: u64,
        /// What would have been accepted, for people.
        expected: &'static str,
    },
    /// A lightning message that isn't the factory envelope.
    NotAFactoryMessage {
        /// Its BOLT 1 message type.
        kind: u16,
    },
    /// A submessage of the envelope, or a message inside it, that this version doesn't know.
    UnknownMessage {
        /// Type of the message or submessage.
        kind: u16,
    },
}

impl DecodeError {
    /// An error about the value at hand, not yet inside any field.
    pub fn new(fault: Malformed) -> Self {
        Self { path: Vec::new(), fault }
    }

    /// The same error, seen from outside: it happened inside `field`.
    pub fn inside(mut self, field: &'static str) -> Self {
        self.path.push(field);
        self
    }

    /// The field's full name, outermost first: `invite.terms.capacities`. Empty at the top level.
    pub fn field(&self) -> String {
        self.path.iter().rev().copied().collect::<Vec<_>>().join(".")
    }

    /// Whether the message may be ignored instead of being held against the peer: an unknown type
    /// that is odd (BOLT 1's rule).
    pub fn may_ignore(&self) -> bool {
        matches!(self.fault, Malformed::UnknownMessage { kind } if kind % 2 == 1)
    }
}

impl From<Malformed> for DecodeError {
    fn from(fault: Malformed) -> Self {
        Self::new(fault)
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            write!(f, "{}", self.fault)
        } else {
            write!(f, "{}: {}", self.field(), self.fault)
        }
    }
}

impl std::error::Error for DecodeError {}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Malformed::Truncated { wanted, left } => {
                write!(f, "truncated: {wanted} bytes needed, {left} left")
            }
            Malformed::Trailing { bytes } => write!(f, "{bytes} bytes too many"),
            Malformed::NotMinimal => write!(f, "a BigSize that isn't minimal"),
            Malformed::UnknownEvenRecord { kind } => write!(f, "unknown even record {kind}"),
            Malformed::UnsortedRecord { kind, after } => {
                write!(f, "record {kind} stands after record {after}")
            }
            Malformed::DuplicateRecord { kind } => write!(f, "record {kind} occurs twice"),
            Malformed::MissingRecord { kind } => write!(f, "record {kind} is missing"),
            Malformed::TooMany { count, left } => {
                write!(f, "{count} entries announced, but only {left} bytes follow")
            }
            Malformed::TooLong { bytes, max } => write!(f, "{bytes} bytes, at most {max} allowed"),
            Malformed::TooMuchMoney { sat } => write!(f, "{sat} sat is more than 21 million BTC"),
            Malformed::BadPoint => write!(f, "not a point on secp256k1"),
            Malformed::BadTransaction => write!(f, "not a Bitcoin transaction"),
            Malformed::NotUtf8 => write!(f, "not UTF-8"),
            Malformed::UnsortedKeys => write!(f, "keys that don't strictly ascend"),
            Malformed::BadValue { value, expected } => {
                write!(f, "{value} where {expected} is expected")
            }
            Malformed::NotAFactoryMessage { kind } => {
                write!(f, "lightning message {kind} isn't a factory message")
            }
            Malformed::UnknownMessage { kind } => write!(f, "unknown message {kind}"),
        }
    }
}
