//! Creating a factory: invitations, joins, channel opens, signing, and the funding that is released last
//! (S11).

use crate::record::factory::Factory;
use crate::wire::codec::Codec;

mod attempts;
pub mod client;
pub mod client_signing;
mod later;
pub mod lsp;
pub mod lsp_signing;
pub mod online;
mod push;

/// The terms as they are hashed into the transcript.
pub(crate) fn terms_bytes(factory: &Factory) -> Vec<u8> {
    let mut bytes = Vec::new();
    factory.current.terms.write(&mut bytes);
    bytes
}
