//! What is said about a client's balance that goes from one of its channels with L to another (S37).

use super::*;

message_struct! {
    /// Client → L: I would pay myself over you, from one of our channels to another. Don't charge me for it.
    pub struct MoveAsk {
        /// The channel that it leaves (BOLT 2's `channel_id`).
        pub from: ChannelId => 4,
        /// The channel that it goes to.
        pub to: ChannelId => 6,
        /// How much, msat; absent for all that can go.
        pub amount_msat: Option<u64> => 8,
    }
}

message_struct! {
    /// L → client: what I forward to you over that channel is free for a while, and over no other.
    pub struct MoveReady {
        /// The channel that it leaves (BOLT 2's `channel_id`).
        pub from: ChannelId => 4,
        /// The channel that it goes to.
        pub to: ChannelId => 6,
        /// Blocks that L needs between the expiries of the two HTLCs (BOLT 7's cltv_expiry_delta).
        pub cltv_delta: u32 => 8,
    }
}

message_struct! {
    /// L → client: no, or not now.
    pub struct MoveRefused {
        /// The channel that it would have left (BOLT 2's `channel_id`).
        pub from: ChannelId => 4,
        /// The channel that it would have gone to.
        pub to: ChannelId => 6,
        /// Why, for people.
        pub reason: Words => 8,
    }
}
