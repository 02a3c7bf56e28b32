//! Bytes ⇄ messages. Pure: no IO, no clock.
//!
//! From the outside in:
//!
//! - [`link`] one peer, one connection: splitting, reassembly, acknowledgements, limits
//! - [`envelope`] bLIP-56's message 32800 and its submessages
//! - [`message`] what `superscalar/1` says inside a piggyback
//! - [`protocol`] names of protocols, for people
//! - [`words`] what a peer says for people: cut and escaped here, once
//! - [`codec`] how one value is written, and TLV streams; stored events use it too
//!
//! Whatever arrives is either a value or an error that says what is wrong with it (S28).

pub mod codec;
pub mod envelope;
pub mod link;
pub mod message;
pub mod protocol;
mod terms_codec;
pub mod words;
