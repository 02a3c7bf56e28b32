//! Events of a cooperative close.

use bitcoin::TxOut;

use super::{Height, LedgerEntry, plain_codec, tlv_struct};
use crate::tx::close::Share;

plain_codec!(Share { client, balance, script });

tlv_struct! {
    /// The close is fixed and this node's partial signature may leave after this (S8, S10): from here on nothing
    /// moves on the factory's channels.
    pub struct CloseSigning {
        /// What it pays, without the anchor.
        pub outputs: Vec<TxOut> => 0,
        /// What clients have: for L of all that have not handed over, for a client its own.
        pub shares: Vec<Share> => 2,
        /// The session that this node is about to sign.
        pub ledger: Vec<LedgerEntry> => 4,
        /// Height of the last block that was handled then.
        pub height: Height => 6,
    }
}

tlv_struct! {
    /// The finished signature, verified: whoever has it can publish the close.
    pub struct CloseSigned {
        /// BIP-340.
        pub signature: [u8; 64] => 0,
    }
}

tlv_struct! {
    /// L: it finishes this close never. Its own part of the nonces is gone, and it signs no other.
    pub struct CloseGivenUp {
        /// Why, for people.
        pub reason: String => 0,
        /// Height of the last block that was handled then.
        pub height: Height => 2,
    }
}
