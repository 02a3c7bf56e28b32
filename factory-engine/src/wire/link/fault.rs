//! Why a link refuses.

use std::fmt;

use crate::types::ProtocolId;
use crate::wire::codec::DecodeError;
use crate::wire::envelope::{Ack, Frame};
use crate::wire::message::PROTOCOL_NAME;
use crate::wire::protocol::protocol_name;

/// Why a message of ours was not queued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkFull {
    /// The queue has no room for it, for now: the peer doesn't acknowledge fast enough.
    Queue {
        /// Length of the message, bytes.
        bytes: usize,
        /// Bytes of earlier messages that wait.
        queued: usize,
        /// Bytes that may wait at once.
        limit: usize,
    },
    /// The message is larger than any message may be.
    Message {
        /// Length of the message, bytes.
        bytes: usize,
        /// Length that it may have, bytes.
        max: usize,
    },
    /// The message has no bytes at all.
    Empty,
    /// The peer doesn't speak our protocol, and must never get a message of it (bLIP-56).
    NotSpoken,
}

impl fmt::Display for LinkFull {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LinkFull::Queue { bytes, queued, limit } => {
                write!(f, "no room for {bytes} bytes: {queued} of {limit} wait for the peer to acknowledge")
            }
            LinkFull::Message { bytes, max } => {
                write!(f, "a message of {bytes} bytes, at most {max} allowed")
            }
            LinkFull::Empty => write!(f, "an empty message"),
            LinkFull::NotSpoken => write!(f, "the peer doesn't speak superscalar/1"),
        }
    }
}

impl std::error::Error for LinkFull {}

/// What a peer did wrong. The link is as it was before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkError {
    /// More lightning messages than the limits allow.
    TooFast {
        /// How many per second are allowed in the long run.
        per_second: u32,
    },
    /// Not a factory message as bLIP-56 has them.
    Malformed(DecodeError),
    /// A payload for a protocol that we don't list.
    NotListed {
        /// bLIP-56's `factory_protocol_id` of the payload.
        protocol: ProtocolId,
    },
    /// A second list of protocols, unlike the first.
    ListChanged,
    /// A submessage of bLIP-56 that `superscalar/1` never uses: its channels keep their outpoints.
    Unexpected {
        /// Name of the submessage in bLIP-56.
        submessage: &'static str,
    },
    /// A fragment that came before.
    Replayed {
        /// Number of its message, from 0.
        sequence: u32,
        /// Its index in the message, from 0.
        fragment: u16,
    },
    /// A fragment that skips others.
    OutOfOrder {
        /// Number of its message, from 0.
        sequence: u32,
        /// Its index in the message, from 0.
        fragment: u16,
        /// The fragment that is due.
        due: Ack,
    },
    /// An index beyond the count, or a count unlike that of the message's first fragment.
    BadFrame {
        /// What the fragment says about itself.
        frame: Frame,
    },
    /// More fragments than the largest message has.
    TooManyFragments {
        /// Fragments that were announced.
        count: u16,
        /// Fragments that the largest message has.
        max: u16,
    },
    /// An empty fragment, one above full size, or one below it that isn't its message's last.
    BadFragmentSize {
        /// What the fragment says about itself.
        frame: Frame,
        /// Length of the fragment, bytes.
        bytes: usize,
    },
    /// A message larger than any may be.
    TooLarge {
        /// Length as far as it is known, bytes.
        bytes: usize,
        /// Length that it may have, bytes.
        max: usize,
    },
    /// An unframed message in the middle of a framed one.
    Interrupted {
        /// The fragment that is due.
        due: Ack,
    },
    /// A piggyback with neither payload nor acknowledgement.
    Empty,
    /// An acknowledgement of what isn't in flight.
    UnknownAck {
        /// The fragment that it acknowledges.
        ack: Ack,
    },
}

impl fmt::Display for LinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LinkError::TooFast { per_second } => {
                write!(f, "too fast: more than {per_second} factory messages per second")
            }
            LinkError::Malformed(error) => write!(f, "malformed: {error}"),
            LinkError::NotListed { protocol } => {
                let theirs = protocol_name(*protocol);
                write!(f, "a payload for factory protocol {theirs}; this node speaks {PROTOCOL_NAME} alone")
            }
            LinkError::ListChanged => {
                write!(f, "a second list of factory protocols, unlike the first")
            }
            LinkError::Unexpected { submessage } => write!(f, "superscalar/1 has no {submessage}"),
            LinkError::Replayed { sequence, fragment } => {
                write!(f, "message {sequence} fragment {fragment} came before")
            }
            LinkError::OutOfOrder { sequence, fragment, due } => write!(
                f,
                "message {sequence} fragment {fragment} where message {} fragment {} is due",
                due.sequence, due.fragment
            ),
            LinkError::BadFrame { frame } => write!(
                f,
                "message {} can't have a fragment {} of {}",
                frame.sequence, frame.fragment, frame.count
            ),
            LinkError::TooManyFragments { count, max } => {
                write!(f, "{count} fragments announced, at most {max} allowed")
            }
            LinkError::BadFragmentSize { frame, bytes } => write!(
                f,
                "message {} fragment {} of {} has {bytes} bytes",
                frame.sequence, frame.fragment, frame.count
            ),
            LinkError::TooLarge { bytes, max } => {
                write!(f, "a message of at least {bytes} bytes, at most {max} allowed")
            }
            LinkError::Interrupted { due } => write!(
                f,
                "an unframed message where message {} fragment {} is due",
                due.sequence, due.fragment
            ),
            LinkError::Empty => write!(f, "a piggyback with neither payload nor acknowledgement"),
            LinkError::UnknownAck { ack } => write!(
                f,
                "message {} fragment {} was acknowledged, but isn't in flight",
                ack.sequence, ack.fragment
            ),
        }
    }
}

impl std::error::Error for LinkError {}
