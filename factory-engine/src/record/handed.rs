//! Events of a handover: a client's key goes to L (S22).

use crate::terms::ClientIndex;
use crate::tx::musig::SealedKey;
use crate::types::{Height, InstanceId};
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
    /// L: what a client left behind in a factory whose key it has handed over, for its place in this one.
    pub struct RenewalPaid {
        /// Index of the client in this factory, in leaf order.
        pub client: ClientIndex => 0,
        /// The factory that it left (factory_instance).
        pub of: InstanceId => 2,
        /// Beyond the reserve of its channels there, msat; no more than was asked for.
        pub msat: u64 => 4,
    }
}

tlv_struct! {
    /// Client: it has left another factory for this one.
    pub struct Renewed {
        /// The factory that it left (factory_instance).
        pub of: InstanceId => 0,
        /// What it left behind there for this one's price, msat.
        pub msat: u64 => 2,
    }
}
