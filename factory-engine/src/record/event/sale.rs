//! Liquidity that was sold, or was to be: sales, what they cost, ordinary channels in their place.

use super::*;

tlv_struct! {
    /// L: a sale's channel is about to be completed; a restart knows what to close.
    pub struct SaleOpening {
        /// The sub-factory's stock coin.
        pub coin: CoinIndex => 0,
        /// The sale's place in the chain, from 1.
        pub number: u32 => 2,
        /// Index of the buyer, in leaf order.
        pub buyer: ClientIndex => 4,
        /// Capacity of the channel that is bought.
        pub amount: Amount => 6,
        /// Funding script of that channel: P2WSH, from lightningd.
        pub script: ScriptBuf => 8,
        /// What the buyer pays, msat.
        pub price_msat: u64 => 10,
    }
}

tlv_struct! {
    /// L: a sale ended before anybody signed it.
    pub struct SaleDropped {
        /// The sub-factory's stock coin.
        pub coin: CoinIndex => 0,
        /// The sale's place in the chain, from 1.
        pub number: u32 => 2,
    }
}

tlv_struct! {
    /// Buyer: the operator's zero-conf open of a sale was accepted; should its signing be interrupted,
    /// this is what was agreed to. As for [`OpenAccepted`], nothing
    /// moves on whatever channel it makes before it is checked (S18).
    pub struct SaleOpenAccepted {
        /// The sale's place in the chain, from 1.
        pub number: u32 => 0,
        /// Capacity of the channel that is bought.
        pub amount: Amount => 2,
        /// What the buyer pays for it, msat.
        pub price_msat: u64 => 4,
    }
}

tlv_struct! {
    /// A sale's transactions are fixed and partial signatures may leave after this (S8, S10).
    pub struct SaleSigning {
        /// The sub-factory's stock coin.
        pub coin: CoinIndex => 0,
        /// The sale's place in the chain, from 1.
        pub number: u32 => 2,
        /// Index of the buyer, in leaf order.
        pub buyer: ClientIndex => 4,
        /// Capacity of the channel that is bought.
        pub amount: Amount => 6,
        /// Funding script of that channel: P2WSH, from lightningd.
        pub script: ScriptBuf => 8,
        /// What the buyer pays, msat.
        pub price_msat: u64 => 10,
        /// Every session that this node is about to sign.
        pub ledger: Vec<LedgerEntry> => 12,
        /// Height of the last block that was handled then: from here on it has so many blocks (S36).
        pub height: Height => 14,
    }
}

tlv_struct! {
    /// A sale was signed for, was not finished in time, and never will be: its price is the buyer's again (S36).
    pub struct SaleVoid {
        /// The sub-factory's stock coin.
        pub coin: CoinIndex => 0,
        /// The sale's place in the chain, from 1.
        pub number: u32 => 2,
        /// L: clients that had not signed, in leaf order.
        pub blamed: Vec<ClientIndex> => 4,
        /// Height of the last block that was handled then.
        pub height: Height => 6,
    }
}

tlv_struct! {
    /// A sale's finished signatures, verified.
    pub struct SaleSigned {
        /// The sub-factory's stock coin.
        pub coin: CoinIndex => 0,
        /// The sale's place in the chain, from 1.
        pub number: u32 => 2,
        /// BIP-340, one for each session of the sale, in their order.
        pub signatures: Vec<[u8; 64]> => 4,
    }
}

tlv_struct! {
    /// L: every client of the sub-factory has stored a sale; the next may begin.
    pub struct SaleStored {
        /// The sub-factory's stock coin.
        pub coin: CoinIndex => 0,
        /// The sale's place in the chain, from 1.
        pub number: u32 => 2,
    }
}

tlv_struct! {
    /// lightningd is done with a sale's channel: everything of it is settled.
    pub struct SaleResolved {
        /// The bought channel (BOLT 2's `channel_id`).
        pub channel_id: ChannelId => 0,
    }
}

tlv_struct! {
    /// What is missing of a sale's price may be paid from now on, or credit may come back: an invoice, or
    /// its payment, is about to leave.
    pub struct SaleDue {
        /// payment_hash of the invoice (BOLT 11).
        pub payment_hash: PaymentHash => 0,
        /// Index of the client that pays, or is paid, in leaf order.
        pub buyer: ClientIndex => 2,
        /// What the invoice asks for, msat.
        pub amount_msat: u64 => 4,
        /// Whoever is paid: lightningd's name for the invoice.
        pub label: Option<String> => 6,
        /// Whether it is the other way round: L pays back what the client has of credit.
        pub back: bool => 8,
    }
}

tlv_struct! {
    /// What a `sale_due` announced was paid, or never will be.
    pub struct SaleDueEnded {
        /// payment_hash of L's invoice (BOLT 11).
        pub payment_hash: PaymentHash => 0,
        /// Whether it was paid: then it is the buyer's until a sale takes it.
        pub paid: bool => 2,
        /// Height of the last block that was handled then.
        pub height: Height => 4,
    }
}

tlv_struct! {
    /// L: an ordinary channel is about to be opened in place of a sale; its price is spent.
    pub struct SaleJit {
        /// Index of the client that gets the channel, in leaf order.
        pub buyer: ClientIndex => 0,
        /// Capacity of the ordinary channel.
        pub amount: Amount => 2,
        /// What the buyer paid, msat.
        pub price_msat: u64 => 4,
        /// The last block that was handled: the channel confirms after it.
        pub height: Option<Height> => 6,
    }
}

tlv_struct! {
    /// Buyer: it takes an ordinary channel in place of a sale. One that nobody agreed to costs nothing.
    pub struct SaleJitAgreed {
        /// Capacity of the ordinary channel.
        pub amount: Amount => 0,
        /// What the buyer pays, msat.
        pub price_msat: u64 => 2,
    }
}

tlv_struct! {
    /// L: it could not be opened; its price is the buyer's again.
    pub struct SaleJitFailed {
        /// Index of the client that would have got the channel, in leaf order.
        pub buyer: ClientIndex => 0,
        /// Height of the last block that was handled then.
        pub height: Height => 2,
    }
}

tlv_struct! {
    /// An ordinary channel was opened in place of a sale.
    pub struct SaleJitOpened {
        /// Index of the client that gets the channel, in leaf order.
        pub buyer: ClientIndex => 0,
        /// Capacity of the ordinary channel.
        pub amount: Amount => 2,
        /// What the buyer paid, msat.
        pub price_msat: u64 => 4,
        /// The ordinary channel (BOLT 2's `channel_id`).
        pub channel_id: ChannelId => 6,
        /// Its funding outpoint; not known of one that a restart of L found.
        pub outpoint: Option<OutPoint> => 8,
    }
}
