//! Factory protocols by their names.

use bitcoin::hashes::{Hash, sha256};

use crate::types::ProtocolId;

/// Major versions of ours that a later plugin may speak, and that are called by their names.
const LATEST_NAMED: u8 = 16;

/// A protocol for people: a major version of ours by its name, anything else by its id.
pub fn protocol_name(protocol: ProtocolId) -> String {
    let name = |major: u8| format!("superscalar/{major}");
    let is_it = |name: &String| sha256::Hash::hash(name.as_bytes()).to_byte_array() == protocol.0;
    (1..=LATEST_NAMED).map(name).find(is_it).unwrap_or_else(|| protocol.to_string())
}
