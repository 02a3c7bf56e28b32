//! What a ladder does with a factory.

use super::*;

tlv_struct! {
    /// L: this factory was begun by the ladder, as a rung.
    #[derive(Copy)]
    pub struct Rung {
        /// Number of the rung, from 0.
        pub number: u32 => 0,
        /// Height at which it opened: of two schedules both have a rung 0.
        pub opens: Height => 2,
        /// Whether more clients were there for it than one factory takes: another one follows at once.
        pub more: bool => 4,
    }
}

tlv_struct! {
    /// L: these clients, which are due and away, are sent for: once a rung, also over restarts.
    pub struct Woken {
        /// Height of the last block that was handled then.
        pub height: Height => 0,
        /// Their indices, in leaf order.
        pub clients: Vec<ClientIndex> => 2,
    }
}
