//! The transactions of an attempt, as they were proposed and signed for.

use crate::terms::ClientIndex;
use crate::tx::musig::{PublicKey, XOnlyPublicKey};
use crate::types::{ScriptBuf, Transaction};
use crate::wire::codec::{Shared, tlv_struct};

tlv_struct! {
    /// What it takes, with the terms, to rebuild this node's part of the tree. Nonces and transcript hashes
    /// aren't stored: a restart begins another attempt.
    pub struct Proposal {
        /// L's key in this attempt.
        pub lsp_key: PublicKey => 0,
        /// Factory key and payout script of every client, in leaf order.
        pub clients: Shared<(PublicKey, ScriptBuf)> => 2,
        /// The funding transaction, unsigned; its txid is final.
        pub funding_tx: Transaction => 4,
        /// Index of the factory's output in it.
        pub funding_vout: u32 => 6,
        /// Funding scripts of channels: for L all, for a client those of its leaf.
        pub channel_scripts: Vec<(ClientIndex, ScriptBuf)> => 8,
        /// Client: output keys of the coins beside its path, by coin.
        pub foreign_keys: Vec<(u32, XOnlyPublicKey)> => 10,
    }
}

impl Proposal {
    /// A client's factory key and payout script.
    pub(crate) fn client(&self, client: ClientIndex) -> Option<&(PublicKey, ScriptBuf)> {
        self.clients.get(usize::try_from(client).ok()?)
    }
}
