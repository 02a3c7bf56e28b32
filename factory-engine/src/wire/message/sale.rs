//! What is said about liquidity that a client buys: sales, prices, ordinary channels instead, credit.

use super::*;

message_struct! {
    /// Client → L: sell me some of our sub-factory's stock.
    pub struct Buy {
        /// Capacity of the channel that is bought, sat.
        pub amount: Amount => 4,
        /// The most that it may cost, msat.
        pub max_price_msat: u64 => 6,
        /// Whether an ordinary channel on chain would do, should a client that has to sign be away.
        pub jit: Option<bool> => 9,
    }
}

message_struct! {
    /// L → each client of a sub-factory: one of you buys, would you sign?
    pub struct SaleOffer {
        /// The sale's place in the chain, from 1.
        pub number: u32 => 4,
        /// Index of the buyer, in leaf order.
        pub buyer: ClientIndex => 6,
        /// Capacity of the channel that is bought, sat.
        pub amount: Amount => 8,
        /// What the buyer pays for it, msat.
        pub price_msat: u64 => 10,
        /// What L pushes to the buyer, msat.
        pub push_msat: u64 => 12,
        /// The channel's funding script, of a sale whose signing was interrupted.
        pub channel_script: Option<ScriptBuf> => 14,
        /// Names this try at the sale: the answers repeat it, and those to an earlier try don't count.
        pub round: Option<u64> => 15,
        /// The record of the channel to come.
        pub channel_in_factory: ChannelInFactory => 65600,
    }
}

message_struct! {
    /// Client → L: I would; if I am the buyer I expect its open_channel.
    pub struct SaleJoin {
        /// The sale's place in the chain, from 1.
        pub number: u32 => 4,
        /// A fresh public nonce for each session of the sale.
        pub nonces: Vec<PubNonce> => 6,
        /// `round` of the offer that it answers; absent if the offer has none.
        pub round: Option<u64> => 7,
    }
}

message_struct! {
    /// L → buyer: the channel is complete on L's node; check it against the sale.
    pub struct SaleCommitted {
        /// The sale's place in the chain, from 1.
        pub number: u32 => 4,
        /// Funding script of the channel: P2WSH, as L's lightningd has it.
        pub channel_script: ScriptBuf => 6,
    }
}

message_struct! {
    /// Buyer → L: my node's record of the channel is the one that the sale funds.
    pub struct SaleChecked {
        /// The sale's place in the chain, from 1.
        pub number: u32 => 4,
        /// `round` of the offer that it answers; absent if the offer has none.
        pub round: Option<u64> => 7,
    }
}

message_struct! {
    /// L → each client of the sub-factory: what to rebuild and sign.
    pub struct SalePropose {
        /// The sale's place in the chain, from 1.
        pub number: u32 => 4,
        /// The new channel's funding script.
        pub channel_script: ScriptBuf => 6,
        /// The aggregate nonce of each session.
        pub nonces: Vec<AggNonce> => 8,
    }
}

message_struct! {
    /// Client → L: my signatures.
    pub struct SalePartialSignatures {
        /// The sale's place in the chain, from 1.
        pub number: u32 => 4,
        /// Hash over the sale and its aggregate nonces, as the client saw them (S6).
        pub transcript: [u8; 32] => 6,
        /// One for each session of the sale, in their order.
        pub signatures: Vec<PartialSig> => 8,
    }
}

message_struct! {
    /// L → each client of the sub-factory: the finished signatures. Store them.
    pub struct SaleReady {
        /// The sale's place in the chain, from 1.
        pub number: u32 => 4,
        /// BIP-340, one for each session.
        pub signatures: Vec<[u8; 64]> => 6,
    }
}

message_struct! {
    /// Client → L: verified and durable.
    pub struct SaleStored {
        /// The sale's place in the chain, from 1.
        pub number: u32 => 4,
    }
}

message_struct! {
    /// Either way: no sale, or not now.
    pub struct SaleAbort {
        /// Which sale; 0 for a `buy` that came to none.
        pub number: u32 => 4,
        /// Why, for people.
        pub reason: Words => 6,
    }
}

message_struct! {
    /// Client → L: what would a channel out of our sub-factory's stock cost?
    pub struct AskPrice {
        /// Capacity of the channel that a price is asked for, sat.
        pub amount: Amount => 4,
    }
}

message_struct! {
    /// L → client: this, now. It binds nobody.
    pub struct Price {
        /// Capacity of the channel that the price is for, sat.
        pub amount: Amount => 4,
        /// What it would cost, msat.
        pub price_msat: u64 => 6,
        /// How many clients would have to sign and are away.
        pub away: u32 => 8,
    }
}

message_struct! {
    /// L → buyer: pay this over a channel that we have, then the sale is signed.
    pub struct SaleInvoice {
        /// Which sale; 0 for an ordinary channel instead.
        pub number: u32 => 4,
        /// What is missing of its price, msat.
        pub amount_msat: u64 => 6,
        /// BOLT 11's payment_hash of L's invoice.
        pub payment_hash: PaymentHash => 8,
        /// BOLT 11's payment_secret of L's invoice.
        pub payment_secret: PaymentSecret => 10,
        /// Blocks that the last HTLC's expiry has to be away (BOLT 11).
        pub min_final_cltv_expiry: u32 => 12,
    }
}

message_struct! {
    /// L → buyer: clients that have to sign are away; I wait for them.
    pub struct SaleWait {
        /// How many are away.
        pub away: u32 => 4,
        /// How long L waits at most, seconds.
        pub seconds: u32 => 6,
    }
}

message_struct! {
    /// L → buyer: they didn't come. I would open an ordinary channel on chain instead.
    pub struct JitOffer {
        /// Capacity of the ordinary channel, sat.
        pub amount: Amount => 4,
        /// What the buyer pays for it, msat.
        pub price_msat: u64 => 6,
        /// Why there is none from stock, for people.
        pub reason: Words => 8,
    }
}

message_struct! {
    /// Buyer → L: yes, open the ordinary channel.
    pub struct JitAccept {}
}

message_struct! {
    /// L → buyer: here it is. Said again at every connection, until another one is opened.
    pub struct JitOpened {
        /// Capacity of the ordinary channel, sat.
        pub amount: Amount => 4,
        /// What was paid for it, msat.
        pub price_msat: u64 => 6,
        /// The ordinary channel (BOLT 2's `channel_id`).
        pub channel_id: ChannelId => 8,
        /// Its funding outpoint, if L knows it.
        pub outpoint: Option<OutPoint> => 10,
    }
}

message_struct! {
    /// L → each client of a sub-factory: a sale that was signed for never will be finished; its price is its
    /// buyer's again (S36). Said again for a while.
    pub struct SaleVoid {
        /// The sale's place in the chain, from 1.
        pub number: u32 => 4,
    }
}

message_struct! {
    /// Client → L: pay me back what I have of credit, over a channel that we have.
    pub struct CreditBack {
        /// What the invoice is over, msat.
        pub amount_msat: u64 => 4,
        /// BOLT 11's payment_hash of the client's invoice.
        pub payment_hash: PaymentHash => 6,
        /// BOLT 11's payment_secret of the client's invoice.
        pub payment_secret: PaymentSecret => 8,
        /// Blocks that the last HTLC's expiry has to be away (BOLT 11).
        pub min_final_cltv_expiry: u32 => 10,
    }
}

message_struct! {
    /// Either way: you know a sale that I don't, or that I don't know to be finished: show me that I have signed
    /// it (S9). A client asks when an offer counts one; L when a client says that it has stored one, and whoever
    /// comes while one isn't finished.
    pub struct SaleMissing {
        /// The first sale that the sender doesn't know: its place in the chain, from 1.
        pub number: u32 => 4,
    }
}

message_struct! {
    /// Either way: this one you have signed.
    pub struct SaleShown {
        /// The sale's place in the chain, from 1.
        pub number: u32 => 4,
        /// Index of the buyer, in leaf order.
        pub buyer: ClientIndex => 6,
        /// Capacity of the channel that was bought, sat.
        pub amount: Amount => 8,
        /// Funding script of that channel: P2WSH.
        pub channel_script: ScriptBuf => 10,
        /// BIP-340, one for each session: no one can make them without the receiver's key.
        pub signatures: Vec<[u8; 64]> => 12,
    }
}
