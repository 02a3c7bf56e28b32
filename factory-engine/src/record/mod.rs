//! What is stored: types and field numbers of its own, so that a change on the wire changes no disk.
//!
//! Imports types, terms and tx, and of the wire its primitives alone ([`wire::codec`](crate::wire::codec)).
//! Every encoding is frozen by the files under `tests/golden`: a field that comes later is an odd TLV, an
//! event that comes later a new number, and what is older is read for ever.

pub mod appointment;
pub mod attempt;
pub mod close;
mod codec;
pub mod copy;
pub mod ended;
pub mod event;
pub mod factory;
mod handed;
pub mod leaves;
pub mod ledger;
pub mod load_error;
pub mod moves;
mod proposal;
pub mod reclaimed;
pub mod sales;
pub mod state;
pub mod unusable;

pub use codec::{RECORD_VERSION, RecordError, decode_record, encode_record};
pub use proposal::Proposal;
