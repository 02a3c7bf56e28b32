//! Durable changes. A factory *is* the fold of its events: nothing else about it is stored.
//!
//! A record holds the events of one step of one factory, so that they become durable together.

use std::fmt;

use crate::terms::{ClientIndex, Terms};
use crate::tx::layout::SessionId;
use crate::types::{ChannelId, Height, NodeId, OutPoint, Transaction, Txid};
use crate::wire::codec::{Codec, DecodeError, Reader, tlv_struct};
use crate::wire::message::Propose;

/// The first byte of every record. A newer plugin may write a newer version; this one then touches
/// nothing.
pub const RECORD_VERSION: u8 = 1;

tlv_struct! {
    /// L: `factory-create` was accepted. Attempt 1 begins.
    pub struct Created {
        /// The terms of the first attempt.
        pub terms: Terms => 0,
        /// The clients' nodes, in leaf order.
        pub clients: Vec<NodeId> => 2,
    }
}

tlv_struct! {
    /// L: an attempt was given up and another begins with whoever is left.
    pub struct AttemptStarted {
        /// Its number, from 2.
        pub attempt: u32 => 0,
        /// The terms without the members that were left out.
        pub terms: Terms => 2,
        /// The clients' nodes, in leaf order.
        pub clients: Vec<NodeId> => 4,
        /// Why the one before was given up.
        pub reason: String => 6,
        /// Who was left out for it.
        pub left_out: Vec<NodeId> => 8,
    }
}

tlv_struct! {
    /// Client: an invitation, or the operator's next attempt at one that was accepted.
    pub struct Invited {
        /// Number of the attempt.
        pub attempt: u32 => 0,
        /// What the factory will be.
        pub terms: Terms => 2,
        /// This client's place.
        pub client: ClientIndex => 4,
        /// The price of joining, msat.
        pub price_msat: u64 => 6,
        /// Height at which it arrived: where a scan of the chain has to begin.
        pub height: Height => 8,
    }
}

tlv_struct! {
    /// Client: the invitation was accepted, by a person or by policy.
    pub struct Accepted {}
}

tlv_struct! {
    /// Client: the invitation was declined.
    pub struct Declined {
        /// As told to the operator.
        pub reason: String => 0,
    }
}

/// One line of the sign-once ledger (S8).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LedgerEntry {
    /// The coin that is spent.
    pub outpoint: OutPoint,
    /// Session: gives the role.
    pub session: SessionId,
    /// What is signed.
    pub sighash: [u8; 32],
}

impl Codec for LedgerEntry {
    fn write(&self, out: &mut Vec<u8>) {
        self.outpoint.write(out);
        self.session.write(out);
        self.sighash.write(out);
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            outpoint: Codec::read(r)?,
            session: Codec::read(r)?,
            sighash: Codec::read(r)?,
        })
    }
}

tlv_struct! {
    /// The transactions are fixed and partial signatures may leave after this (S8, S10).
    pub struct Signing {
        /// Of which attempt.
        pub attempt: u32 => 0,
        /// Keys, scripts and funding; for L without the fields that are only a client's.
        pub proposal: Propose => 2,
        /// What is about to be signed.
        pub ledger: Vec<LedgerEntry> => 4,
        /// L: the funding PSBT, base64.
        pub psbt: Option<String> => 6,
    }
}

tlv_struct! {
    /// Finished signatures, verified: for L all, for a client those of its path.
    pub struct Signed {
        /// In the order of the tree's sessions.
        pub signatures: Vec<[u8; 64]> => 0,
    }
}

tlv_struct! {
    /// L: every client has said stored; channels may be completed.
    pub struct AllStored {}
}

tlv_struct! {
    /// L: lightningd committed the channel with this client.
    pub struct ChannelCommitted {
        /// Which client.
        pub client: ClientIndex => 0,
        /// The channel.
        pub channel_id: ChannelId => 2,
    }
}

tlv_struct! {
    /// Client: lightningd's record of the channel is what the leaf pays (S18). L: a client said so.
    pub struct ChannelChecked {
        /// Which client.
        pub client: ClientIndex => 0,
        /// The channel.
        pub channel_id: ChannelId => 2,
    }
}

tlv_struct! {
    /// L: everything that S11 asks for is there; the funding may be broadcast after this.
    pub struct FundingReleased {
        /// Height at that time.
        pub height: Height => 0,
    }
}

tlv_struct! {
    /// A transaction of the factory, or one that spends what a transaction of it would, is in a block.
    pub struct Confirmed {
        /// Which.
        pub txid: Txid => 0,
        /// Where.
        pub height: Height => 2,
        /// Outpoints of the factory that it spends.
        pub spends: Vec<OutPoint> => 4,
    }
}

tlv_struct! {
    /// Blocks above `height` left the chain.
    pub struct Reorged {
        /// The last common block.
        pub height: Height => 0,
    }
}

tlv_struct! {
    /// This node publishes its path from now on.
    pub struct ExitStarted {
        /// Height at that time.
        pub height: Height => 0,
        /// Why.
        pub reason: String => 2,
    }
}

tlv_struct! {
    /// Creation failed, or the operator gave an attempt up.
    pub struct Aborted {
        /// Why.
        pub reason: String => 0,
    }
}

tlv_struct! {
    /// Nothing of this factory can matter any more (S12).
    pub struct Forgotten {
        /// Why.
        pub reason: String => 0,
    }
}

macro_rules! events {
    ($($(#[$doc:meta])* $name:ident = $tag:literal,)*) => {
        /// A durable change of one factory.
        #[derive(Debug, Clone, PartialEq, Eq)]
        #[allow(missing_docs, clippy::large_enum_variant)]
        pub enum Event {
            $($(#[$doc])* $name($name),)*
        }

        $(impl From<$name> for Event {
            fn from(event: $name) -> Self {
                Event::$name(event)
            }
        })*

        impl Event {
            /// Its name, for logs and coverage tables.
            pub fn name(&self) -> &'static str {
                match self {
                    $(Event::$name(_) => stringify!($name),)*
                }
            }

            fn tag(&self) -> u16 {
                match self {
                    $(Event::$name(_) => $tag,)*
                }
            }

            fn write_body(&self, out: &mut Vec<u8>) {
                match self {
                    $(Event::$name(event) => event.write(out),)*
                }
            }

            fn read_body(tag: u16, body: &mut Reader<'_>) -> Result<Self, RecordError> {
                match tag {
                    $($tag => Ok(Event::$name(Codec::read(body)?)),)*
                    _ => Err(RecordError::UnknownEvent(tag)),
                }
            }
        }
    };
}

// Tags are never reused: a record outlives the version that wrote it.
events! {
    Created = 1,
    AttemptStarted = 2,
    Invited = 3,
    Accepted = 4,
    Declined = 5,
    Signing = 6,
    Signed = 7,
    AllStored = 8,
    ChannelCommitted = 9,
    ChannelChecked = 10,
    FundingReleased = 11,
    Confirmed = 12,
    Reorged = 13,
    ExitStarted = 14,
    Aborted = 15,
    Forgotten = 16,
}

/// Why a stored record was not understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecordError {
    /// Written by a newer plugin.
    NewerVersion(u8),
    /// An event that this version doesn't know.
    UnknownEvent(u16),
    /// The bytes are damaged.
    Corrupt(DecodeError),
}

impl fmt::Display for RecordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NewerVersion(version) => write!(
                f,
                "record version {version} is newer than this plugin's {RECORD_VERSION}: start the newer plugin again"
            ),
            Self::UnknownEvent(tag) => {
                write!(f, "event {tag} is unknown to this plugin: start the newer plugin again")
            }
            Self::Corrupt(error) => write!(f, "the record is damaged: {error}"),
        }
    }
}

impl std::error::Error for RecordError {}

impl From<DecodeError> for RecordError {
    fn from(error: DecodeError) -> Self {
        Self::Corrupt(error)
    }
}

/// The bytes of one record: version, then each event as tag (u16), length (u32) and TLV stream.
pub fn encode_record(events: &[Event]) -> Vec<u8> {
    let mut out = vec![RECORD_VERSION];
    for event in events {
        let mut body = Vec::new();
        event.write_body(&mut body);
        event.tag().write(&mut out);
        body.write(&mut out);
    }
    out
}

/// Reads what [`encode_record`] wrote.
pub fn decode_record(bytes: &[u8]) -> Result<Vec<Event>, RecordError> {
    let mut reader = Reader::new(bytes);
    let version = u8::read(&mut reader)?;
    if version != RECORD_VERSION {
        return Err(RecordError::NewerVersion(version));
    }
    let mut events = Vec::new();
    while !reader.is_empty() {
        let tag = u16::read(&mut reader)?;
        let body = Vec::<u8>::read(&mut reader)?;
        events.push(Event::read_body(tag, &mut Reader::new(&body))?);
    }
    Ok(events)
}

impl Signing {
    /// The funding transaction that was proposed.
    pub fn funding_tx(&self) -> &Transaction {
        &self.proposal.funding_tx
    }
}
