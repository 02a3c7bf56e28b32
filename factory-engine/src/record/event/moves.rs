//! Moves: a client's balance goes from one of its channels with L to another (S37).

use super::*;

tlv_struct! {
    /// Client: a balance is to go from one of its channels with L to another. It goes on after a restart, until
    /// `move_over`.
    pub struct MoveWanted {
        /// The channel that it leaves (BOLT 2's `channel_id`).
        pub from: ChannelId => 0,
        /// The channel that it goes to.
        pub to: ChannelId => 2,
        /// How much, msat; nothing for all that can go.
        pub amount_msat: Option<u64> => 4,
        /// Height of the last block that was handled then.
        pub height: Height => 6,
    }
}

tlv_struct! {
    /// Client: one HTLC of a move may leave after this.
    pub struct MoveStarted {
        /// payment_hash of this client's own invoice for it (BOLT 11): no two have the same.
        pub payment_hash: PaymentHash => 0,
        /// The channel that it leaves on.
        pub from: ChannelId => 2,
        /// What it is worth, msat.
        pub amount_msat: u64 => 4,
    }
}

tlv_struct! {
    /// Client: an HTLC of a move has arrived, or never will.
    pub struct MoveEnded {
        /// payment_hash of this client's own invoice for it (BOLT 11).
        pub payment_hash: PaymentHash => 0,
        /// Whether it arrived.
        pub arrived: bool => 2,
        /// Height of the last block that was handled then.
        pub height: Height => 4,
    }
}

tlv_struct! {
    /// Client: a move has come to its end; what arrived of it stays where it is.
    pub struct MoveOver {
        /// The channel that it left.
        pub from: ChannelId => 0,
        /// Why not all has arrived that was wanted, if so, for people.
        pub reason: Option<String> => 2,
    }
}
