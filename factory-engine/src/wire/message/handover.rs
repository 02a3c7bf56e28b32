//! What is said when a client gives up what it had in a factory (S22).

use super::*;
use crate::tx::musig::SealedKey;

plain_codec!(SealedKey { ephemeral, sealed });

message_struct! {
    /// Client → L: my key of this factory. All that I had there is in another channel of ours.
    pub struct Handover {
        /// Sealed for L's key of this factory: whoever else sees the message has nothing.
        pub key: SealedKey => 4,
    }
}

message_struct! {
    /// L → client: your key is stored, and it is yours. Said again whenever it comes again.
    pub struct HandoverStored {}
}

message_struct! {
    /// L → client: nothing is stored.
    pub struct HandoverRefused {
        /// Why, for people.
        pub reason: Words => 4,
    }
}
