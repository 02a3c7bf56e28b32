//! A client leaves a factory for an ordinary channel with L (S22).

use super::*;

tlv_struct! {
    /// Client: a person wants to leave the factory with L's help: its balance goes to an ordinary channel, and its
    /// key to L. It goes on after a restart, until `leave_over` or `handed_over`.
    pub struct LeaveWanted {
        /// Height of the last block that was handled then.
        pub height: Height => 0,
        /// The most that stays behind in the factory's channels as their reserve, msat: the person was told.
        pub stays_msat: u64 => 2,
        /// The most that L may ask for opening a channel, msat.
        pub max_price_msat: u64 => 4,
        /// The ordinary channel that it goes to (BOLT 2's `channel_id`); nothing if L is to open one.
        pub to: Option<ChannelId> => 6,
    }
}

tlv_struct! {
    /// Client: nothing comes of it; the client is in the factory as before.
    pub struct LeaveOver {
        /// Height of the last block that was handled then.
        pub height: Height => 0,
        /// Why, for people.
        pub reason: String => 2,
    }
}

tlv_struct! {
    /// Client: L says that it has opened the ordinary channel.
    pub struct LeaveOpened {
        /// The channel (BOLT 2's `channel_id`).
        pub channel_id: ChannelId => 0,
        /// What L asks for it, msat: left behind in the factory's channels, with the key.
        pub price_msat: u64 => 2,
        /// Height of the last block that was handled then.
        pub height: Height => 4,
    }
}

tlv_struct! {
    /// L: an ordinary channel is about to be opened to a client that leaves.
    pub struct LeaveOpening {
        /// Index of the client, in leaf order.
        pub client: ClientIndex => 0,
        /// The channel's capacity.
        pub amount: Amount => 2,
        /// What the client was told that it costs, msat.
        pub price_msat: u64 => 4,
        /// Height of the last block that was handled then.
        pub height: Height => 6,
    }
}

tlv_struct! {
    /// L: that channel was opened, or could not be.
    pub struct LeaveFunded {
        /// Index of the client, in leaf order.
        pub client: ClientIndex => 0,
        /// The channel (BOLT 2's `channel_id`); nothing if there is none.
        pub channel_id: Option<ChannelId> => 2,
        /// Height of the last block that was handled then.
        pub height: Height => 4,
    }
}
