//! Events of a handover: a client's key goes to L (S22).

use crate::terms::ClientIndex;
use crate::tx::musig::SealedKey;
use crate::types::Height;
use crate::wire::codec::tlv_struct;

tlv_struct! {
    /// Client: its key of this factory may leave after this, and does. It signs nothing here any more, never
    /// leaves, and nothing moves on its channels (S22).
    pub struct HandedOver {
        /// Height of the last block that was handled then.
        pub height: Height => 0,
    }
}

tlv_struct! {
    /// Client: L has its key, and has stored it.
    pub struct HandoverStored {}
}

tlv_struct! {
    /// L: a client has handed its key over, and it is that client's (S22).
    pub struct KeyReceived {
        /// Index of the client, in leaf order.
        pub client: ClientIndex => 0,
        /// As it came: sealed for L's key of this factory.
        pub key: SealedKey => 2,
        /// Height of the last block that was handled then.
        pub height: Height => 4,
    }
}

tlv_struct! {
    /// L: what a client that has handed its key over left behind for its renewal.
    pub struct RenewalPaid {
        /// Index of the client, in leaf order.
        pub client: ClientIndex => 0,
        /// Beyond the reserve of its channels, msat; no more than was asked for.
        pub msat: u64 => 2,
    }
}
