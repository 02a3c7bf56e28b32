//! bLIP-56's one message for everything: `u16 32800 | u16 submessage | TLV stream`.
//!
//! `factory_piggyback` carries two odd TLVs of ours beside the payload, which other software may
//! ignore: 1025, which fragment of which message the payload is, and 1027, an acknowledgement. They
//! are [`super::link`]'s.

use std::fmt;

use bitcoin::SignedAmount;

use crate::tx::musig::PublicKey;
use crate::types::{ChannelId, ProtocolId, Txid};

use super::codec::{Codec, DecodeError, Malformed, Reader, TlvStream, plain_codec, tlv_struct};

/// BOLT 1 message type of every factory message (bLIP-56).
pub const MESSAGE_TYPE: u16 = 32800;

/// `pluggable_channel_factories`, the odd bit of 270/271, in `init` and `node_announcement`. A peer
/// that sets neither never gets a [`MESSAGE_TYPE`].
pub const FEATURE_BIT: u16 = 271;

/// The most bytes of one lightning message, its type included (BOLT 1).
pub const MAX_MESSAGE_BYTES: usize = 65_535;

/// The most bytes that a piggyback adds to its payload: the types, and a frame and an acknowledgement.
pub const PIGGYBACK_OVERHEAD: usize = 66;

const SUPPORTED_FACTORY_PROTOCOLS: u16 = 2;
const FACTORY_PIGGYBACK: u16 = 4;
const FACTORY_CHANGE_INIT: u16 = 6;
const FACTORY_CHANGE_ACK: u16 = 8;
const FACTORY_CHANGE_FUNDING: u16 = 10;
const FACTORY_CHANGE_CONTINUE: u16 = 12;
const FACTORY_CHANGE_LOCKED: u16 = 14;

/// Which part of which message a payload is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// The message's number, from 0 on each connection and in each direction.
    pub sequence: u32,
    /// The fragment's index in the message, from 0.
    pub fragment: u16,
    /// How many fragments the message has.
    pub count: u16,
}

/// What has arrived: this fragment and all before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ack {
    /// Number of the message, from 0 on each connection and in each direction.
    pub sequence: u32,
    /// Index of the fragment in the message, from 0.
    pub fragment: u16,
}

/// A factory message: one submessage of bLIP-56.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Envelope {
    /// 2: what the sender speaks; goes out after every connect.
    SupportedFactoryProtocols(Vec<ProtocolId>),
    /// 4: something that only the protocol's plugin understands.
    Piggyback {
        /// bLIP-56's `factory_protocol_id`: whose payload it is.
        protocol: ProtocolId,
        /// The payload, or a fragment of it. Empty if only an acknowledgement travels.
        payload: Vec<u8>,
        /// Which fragment the payload is; absent if it is a whole message that nobody counts.
        frame: Option<Frame>,
        /// What the sender has received.
        ack: Option<Ack>,
    },
    /// 6: the factory wants to move this channel.
    FactoryChangeInit(FactoryChange),
    /// 8: the peer agrees to `factory_change_init`.
    FactoryChangeAck(FactoryChange),
    /// 10: the channel's new funding outpoint.
    FactoryChangeFunding(FactoryChangeFunding),
    /// 12: the channel goes on, on both outpoints.
    FactoryChangeContinue(FactoryChangeFunding),
    /// 14: only the new funding outpoint counts from here on.
    FactoryChangeLocked(FactoryChangeLocked),
    /// A submessage of an odd type that this version doesn't know, and may ignore.
    UnknownOdd(u16),
}

/// Content of `factory_change_init` and `factory_change_ack`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FactoryChange {
    /// Something for the protocol's plugin.
    pub payload: Option<Vec<u8>>,
    /// The channel that moves (BOLT 2's `channel_id`).
    pub channel_id: ChannelId,
    /// What the sender adds to the channel, or takes from it.
    pub funding_contribution_satoshis: SignedAmount,
    /// The sender's key in the new funding output.
    pub funding_pubkey: PublicKey,
}

/// Content of `factory_change_funding` and `factory_change_continue`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FactoryChangeFunding {
    /// The channel that moves (BOLT 2's `channel_id`).
    pub channel_id: ChannelId,
    /// Id of the new funding transaction.
    pub txid: Txid,
    /// The channel's output in it.
    pub output_index: u16,
}

/// Content of `factory_change_locked`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FactoryChangeLocked {
    /// The channel that has moved (BOLT 2's `channel_id`).
    pub channel_id: ChannelId,
    /// Its funding transaction from here on.
    pub txid: Txid,
}

/// A message over [`MAX_MESSAGE_BYTES`], which no peer could receive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Oversized {
    /// Bytes that it would have.
    pub bytes: usize,
}

impl fmt::Display for Oversized {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a lightning message of {} bytes, at most {MAX_MESSAGE_BYTES} allowed", self.bytes)
    }
}

impl std::error::Error for Oversized {}

impl Envelope {
    /// The complete lightning message, beginning with its type.
    pub fn encode(&self) -> Result<Vec<u8>, Oversized> {
        let out = self.encode_unchecked();
        if out.len() > MAX_MESSAGE_BYTES {
            return Err(Oversized { bytes: out.len() });
        }
        Ok(out)
    }

    /// As [`Envelope::encode`], for a sender that has made sure of the size.
    pub(super) fn encode_unchecked(&self) -> Vec<u8> {
        // A thousand of them may wait at once: no more room than they need.
        let room = match self {
            Envelope::Piggyback { payload, .. } => payload.len().saturating_add(PIGGYBACK_OVERHEAD),
            Envelope::SupportedFactoryProtocols(_)
            | Envelope::FactoryChangeInit(_)
            | Envelope::FactoryChangeAck(_)
            | Envelope::FactoryChangeFunding(_)
            | Envelope::FactoryChangeContinue(_)
            | Envelope::FactoryChangeLocked(_)
            | Envelope::UnknownOdd(_) => 512,
        };
        let mut out = Vec::with_capacity(room);
        MESSAGE_TYPE.write(&mut out);
        self.submessage().write(&mut out);
        match self {
            Envelope::SupportedFactoryProtocols(protocols) => {
                let ids = Some(ProtocolIds(protocols.clone()));
                Protocols { ids }.write_stream(&mut out);
            }
            Envelope::Piggyback { protocol, payload, frame, ack } => {
                let payload = Rest(payload.clone());
                Piggyback { protocol: *protocol, payload, frame: *frame, ack: *ack }.write_stream(&mut out);
            }
            Envelope::FactoryChangeInit(change) | Envelope::FactoryChangeAck(change) => {
                let payload = change.payload.clone().map(Rest);
                Change { payload, channel: change.into() }.write_stream(&mut out);
            }
            Envelope::FactoryChangeFunding(funding) => {
                Funding { funding: *funding }.write_stream(&mut out);
            }
            Envelope::FactoryChangeContinue(funding) => {
                Continue { funding: *funding }.write_stream(&mut out);
            }
            Envelope::FactoryChangeLocked(locked) => {
                Locked { locked: *locked }.write_stream(&mut out);
            }
            Envelope::UnknownOdd(_) => {}
        }
        out
    }

    /// Reads a complete lightning message, its type included.
    pub fn decode(raw: &[u8]) -> Result<Envelope, DecodeError> {
        if raw.len() > MAX_MESSAGE_BYTES {
            return Err(Malformed::TooLong { bytes: raw.len(), max: MAX_MESSAGE_BYTES }.into());
        }
        let mut r = Reader::new(raw);
        let kind = r.field("message type")?;
        if kind != MESSAGE_TYPE {
            return Err(Malformed::NotAFactoryMessage { kind }.into());
        }
        let submessage = r.field("submessage")?;
        let stream = r.take_rest();
        let envelope = match submessage {
            SUPPORTED_FACTORY_PROTOCOLS => Protocols::read_stream(stream)
                .map(|s| Envelope::SupportedFactoryProtocols(s.ids.map(|ids| ids.0).unwrap_or_default())),
            FACTORY_PIGGYBACK => Piggyback::read_stream(stream).map(|s| Envelope::Piggyback {
                protocol: s.protocol,
                payload: s.payload.0,
                frame: s.frame,
                ack: s.ack,
            }),
            FACTORY_CHANGE_INIT => Change::read_stream(stream).map(|s| Envelope::FactoryChangeInit(s.into())),
            FACTORY_CHANGE_ACK => Change::read_stream(stream).map(|s| Envelope::FactoryChangeAck(s.into())),
            FACTORY_CHANGE_FUNDING => {
                Funding::read_stream(stream).map(|s| Envelope::FactoryChangeFunding(s.funding))
            }
            FACTORY_CHANGE_CONTINUE => {
                Continue::read_stream(stream).map(|s| Envelope::FactoryChangeContinue(s.funding))
            }
            FACTORY_CHANGE_LOCKED => {
                Locked::read_stream(stream).map(|s| Envelope::FactoryChangeLocked(s.locked))
            }
            kind if kind % 2 == 1 => Ok(Envelope::UnknownOdd(kind)),
            kind => return Err(Malformed::UnknownMessage { kind }.into()),
        };
        envelope.map_err(|e| e.inside(name_of(submessage)))
    }

    /// The submessage's type, by which bLIP-56 tells them apart.
    pub fn submessage(&self) -> u16 {
        match self {
            Envelope::SupportedFactoryProtocols(_) => SUPPORTED_FACTORY_PROTOCOLS,
            Envelope::Piggyback { .. } => FACTORY_PIGGYBACK,
            Envelope::FactoryChangeInit(_) => FACTORY_CHANGE_INIT,
            Envelope::FactoryChangeAck(_) => FACTORY_CHANGE_ACK,
            Envelope::FactoryChangeFunding(_) => FACTORY_CHANGE_FUNDING,
            Envelope::FactoryChangeContinue(_) => FACTORY_CHANGE_CONTINUE,
            Envelope::FactoryChangeLocked(_) => FACTORY_CHANGE_LOCKED,
            Envelope::UnknownOdd(kind) => *kind,
        }
    }

    /// The submessage's name in bLIP-56, for people and logs.
    pub fn name(&self) -> &'static str {
        name_of(self.submessage())
    }
}

fn name_of(submessage: u16) -> &'static str {
    match submessage {
        SUPPORTED_FACTORY_PROTOCOLS => "supported_factory_protocols",
        FACTORY_PIGGYBACK => "factory_piggyback",
        FACTORY_CHANGE_INIT => "factory_change_init",
        FACTORY_CHANGE_ACK => "factory_change_ack",
        FACTORY_CHANGE_FUNDING => "factory_change_funding",
        FACTORY_CHANGE_CONTINUE => "factory_change_continue",
        FACTORY_CHANGE_LOCKED => "factory_change_locked",
        _ => "an unknown submessage",
    }
}

tlv_struct! {
    struct Protocols {
        ids: Option<ProtocolIds> => 512,
    }
}

tlv_struct! {
    struct Piggyback {
        protocol: ProtocolId => 0,
        payload: Rest => 1024,
        frame: Option<Frame> => 1025,
        ack: Option<Ack> => 1027,
    }
}

tlv_struct! {
    struct Change {
        payload: Option<Rest> => 1024,
        channel: ChangedChannel => 1536,
    }
}

tlv_struct! {
    struct Funding {
        funding: FactoryChangeFunding => 2560,
    }
}

tlv_struct! {
    struct Continue {
        funding: FactoryChangeFunding => 3072,
    }
}

tlv_struct! {
    struct Locked {
        locked: FactoryChangeLocked => 3584,
    }
}

/// Whatever the record holds, with no length of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Rest(Vec<u8>);

impl Codec for Rest {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0);
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self(r.take_rest().to_vec()))
    }
}

/// As many ids as the record holds.
#[derive(Debug, Clone, PartialEq, Eq)]
struct ProtocolIds(Vec<ProtocolId>);

impl Codec for ProtocolIds {
    fn write(&self, out: &mut Vec<u8>) {
        self.0.iter().for_each(|id| id.write(out));
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut ids = Vec::new();
        while r.remaining() > 0 {
            ids.push(ProtocolId::read(r)?);
        }
        Ok(Self(ids))
    }
}

/// TLV record 1536 of `factory_change_init` and `factory_change_ack`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct ChangedChannel {
    channel_id: ChannelId,
    funding_contribution_satoshis: SignedAmount,
    funding_pubkey: PublicKey,
}

impl From<&FactoryChange> for ChangedChannel {
    fn from(change: &FactoryChange) -> Self {
        Self {
            channel_id: change.channel_id,
            funding_contribution_satoshis: change.funding_contribution_satoshis,
            funding_pubkey: change.funding_pubkey,
        }
    }
}

impl From<Change> for FactoryChange {
    fn from(Change { payload, channel }: Change) -> Self {
        Self {
            payload: payload.map(|rest| rest.0),
            channel_id: channel.channel_id,
            funding_contribution_satoshis: channel.funding_contribution_satoshis,
            funding_pubkey: channel.funding_pubkey,
        }
    }
}

plain_codec!(Frame { sequence, fragment, count });
plain_codec!(Ack { sequence, fragment });
plain_codec!(ChangedChannel { channel_id, funding_contribution_satoshis, funding_pubkey });
plain_codec!(FactoryChangeFunding { channel_id, txid, output_index });
plain_codec!(FactoryChangeLocked { channel_id, txid });
