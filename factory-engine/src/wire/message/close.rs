//! What is said when all members close a factory together.

use bitcoin::TxOut;

use super::*;

message_struct! {
    /// L → client: nothing may move on your channels in this factory any more. What do you have there, and where do
    /// you want it?
    pub struct CloseAsk {
        /// Names this try: answers to another are of no use.
        pub round: u64 => 4,
    }
}

message_struct! {
    /// Client → L: nothing moves any more, no HTLC stands, and I would sign.
    pub struct CloseJoin {
        /// As L gave it.
        pub round: u64 => 4,
        /// A fresh public nonce for the close.
        pub nonces: Vec<PubNonce> => 6,
        /// What the client has over all of its channels in the factory, rounded up to a satoshi.
        pub balance: Amount => 8,
        /// A script that it alone can spend from: where it wants that.
        pub script: ScriptBuf => 10,
    }
}

message_struct! {
    /// L → client: the close. Look for your output, and sign.
    pub struct ClosePropose {
        /// As in `close_ask`.
        pub round: u64 => 4,
        /// What it pays, without the anchor.
        pub outputs: Vec<TxOut> => 6,
        /// The aggregate nonce.
        pub nonces: Vec<AggNonce> => 8,
    }
}

message_struct! {
    /// Client → L: my signature.
    pub struct ClosePartialSignatures {
        /// As in `close_propose`.
        pub round: u64 => 4,
        /// Hash over the close and the aggregate nonce, as the client saw them (S6).
        pub transcript: [u8; 32] => 6,
        /// One.
        pub signatures: Vec<PartialSig> => 8,
    }
}

message_struct! {
    /// L → client: the close is finished. Said again at each connection until it is on chain.
    pub struct CloseReady {
        /// What it pays, without the anchor: a client that has forgotten it can rebuild it.
        pub outputs: Vec<TxOut> => 4,
        /// BIP-340.
        pub signature: [u8; 64] => 6,
    }
}

message_struct! {
    /// Either way: not now. Whoever has not signed goes on as before.
    pub struct CloseAbort {
        /// As in `close_ask`.
        pub round: u64 => 4,
        /// Why, for people.
        pub reason: Words => 6,
    }
}
