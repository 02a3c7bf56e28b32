//! One record: its version, then the events of one step.

use std::fmt;

use crate::types::{PROTOCOL_ID, ProtocolId};
use crate::wire::codec::{Codec, DecodeError, Malformed, Reader, write_measured};

use super::event::Event;

/// The first byte of every record. A newer plugin may write a newer version; this one then touches
/// nothing.
pub const RECORD_VERSION: u8 = 1;

/// Why a stored record was not understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecordError {
    /// There is nothing where a record should be.
    Missing,
    /// Of a version that this plugin doesn't know: a newer plugin's.
    UnknownVersion(u8),
    /// With an event of a kind that this plugin doesn't know: a newer plugin's.
    UnknownEvent(u16),
    /// Of another kind of factory, or another major version of it.
    UnknownProtocol(ProtocolId),
    /// The bytes don't decode: the record is damaged.
    Corrupt(DecodeError),
}

impl fmt::Display for RecordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("the record is missing"),
            Self::UnknownVersion(0) => write!(f, "record version 0 is none that any plugin wrote"),
            Self::UnknownVersion(version) => write!(
                f,
                "record version {version} is newer than this plugin's {RECORD_VERSION}: start the newer plugin again"
            ),
            Self::UnknownEvent(kind) => write!(
                f,
                "this plugin doesn't know events of kind {kind}, which a newer one writes: start the newer plugin again"
            ),
            Self::UnknownProtocol(protocol) => write!(
                f,
                "the factory's protocol {protocol} is not this plugin's {PROTOCOL_ID}: start the plugin that made it"
            ),
            Self::Corrupt(error) => write!(f, "the record is damaged: {error}"),
        }
    }
}

impl std::error::Error for RecordError {}

impl From<DecodeError> for RecordError {
    fn from(error: DecodeError) -> Self {
        // Its number stands in front of all fields.
        if let Malformed::UnknownMessage { kind } = error.fault
            && error.field().is_empty()
        {
            return Self::UnknownEvent(kind);
        }
        Self::Corrupt(error)
    }
}

/// The bytes of one record: the version, then each event with its length in front.
pub fn encode_record(events: &[Event]) -> Vec<u8> {
    let mut out = vec![RECORD_VERSION];
    for event in events {
        write_measured(&mut out, |out| event.write_tagged(out));
    }
    out
}

/// Reads what [`encode_record`] wrote.
///
/// # Errors
/// When the record is missing (empty) or of another version, has an event of a newer plugin's, begins a factory of
/// another protocol, or is damaged.
pub fn decode_record(bytes: &[u8]) -> Result<Vec<Event>, RecordError> {
    if bytes.is_empty() {
        return Err(RecordError::Missing);
    }
    let mut reader = Reader::new(bytes);
    let version = u8::read(&mut reader)?;
    if version != RECORD_VERSION {
        return Err(RecordError::UnknownVersion(version));
    }
    let mut events = Vec::new();
    while reader.remaining() > 0 {
        let event = Event::decode_tagged(reader.take_counted()?)?;
        if let Some(protocol) = event.protocol().filter(|protocol| *protocol != PROTOCOL_ID) {
            return Err(RecordError::UnknownProtocol(protocol));
        }
        events.push(event);
    }
    Ok(events)
}
