//! What is said when a client leaves a factory for an ordinary channel (S22).

use super::*;

message_struct! {
    /// Client → L: open an ordinary channel to me that takes this much, or say what it would cost.
    pub struct LeaveAsk {
        /// What of the client's the channel has to take.
        pub amount: Amount => 4,
        /// The most that it may cost, msat; absent where only the price is asked for.
        pub max_price_msat: Option<u64> => 6,
    }
}

message_struct! {
    /// L → client: it would cost this much. Nothing is opened.
    pub struct LeavePrice {
        /// What was asked for.
        pub amount: Amount => 4,
        /// What the client leaves behind for it in its channels of the factory, msat.
        pub price_msat: u64 => 6,
    }
}

message_struct! {
    /// L → client: it is on its way into the chain. Said again whenever L meets the client or is asked.
    pub struct LeaveOpened {
        /// What it costs, msat: to be left behind in the client's channels of the factory.
        pub price_msat: u64 => 4,
        /// The channel (BOLT 2's `channel_id`).
        pub channel_id: ChannelId => 6,
    }
}

message_struct! {
    /// L → client: no channel.
    pub struct LeaveRefused {
        /// Why, for people.
        pub reason: Words => 4,
        /// Whether that may be another at the next block: absent for no.
        pub retry: Option<bool> => 5,
    }
}
