//! What is said between a client and whoever watches the chain for it (S40).
//!
//! As with copies these are about no factory that a tower should hear of: each has the tag in place of the factory.

use super::keep::{Header, header};
use super::*;

tlv_struct! {
    /// Client → tower: what do you have of mine? Said after each connect.
    pub struct AskAppointments {
        /// Each one with this tag; zeros: how many there are with each.
        pub tag: [u8; 32] => 0,
    }
}

tlv_struct! {
    /// Tower → client: so many, and I watch for you.
    pub struct Appointments {
        /// The last block that the sender has looked at.
        pub height: Height => 0,
        /// Most that it pays for one transaction beside its own fee, sat; 0 if it only publishes.
        pub pays_sat: u64 => 2,
        /// With each tag how many there are, and their sum.
        pub list: Vec<([u8; 32], (u32, [u8; 32]))> => 4,
    }
}

tlv_struct! {
    /// Tower → client: these, with this tag.
    pub struct Locators {
        /// As it was asked for.
        pub tag: [u8; 32] => 0,
        /// Of each appointment its locator and its sum.
        pub list: Vec<([u8; 16], [u8; 32])> => 2,
    }
}

tlv_struct! {
    /// Client → tower: publish what is in this once the transaction is there that it waits for.
    pub struct Watch {
        /// Names the factory, to its client alone.
        pub tag: [u8; 32] => 0,
        /// Of the transaction that it waits for.
        pub locator: [u8; 16] => 2,
        /// The last block in which it may be needed.
        pub until: Height => 4,
        /// The last block that the sender has looked at: the transaction may be in any after it.
        pub height: Height => 6,
        /// Nonce, what is sealed, authenticator.
        pub sealed: Vec<u8> => 8,
        /// The block that the transaction is in already; absent if it is in none.
        pub since: Option<Height> => 9,
        /// Number of the records that the sender has of the factory: whoever had more knows more.
        pub counter: u32 => 10,
        /// With `since` the transaction: nobody has to fetch a block for it, which may be pruned.
        pub trigger: Option<Txid> => 11,
    }
}

tlv_struct! {
    /// Tower → client: it is on my disk, or I don't watch for it.
    pub struct Watched {
        /// As it came.
        pub tag: [u8; 32] => 0,
        /// As it came.
        pub locator: [u8; 16] => 2,
        /// Of what is sealed in it, and until when.
        pub sum: [u8; 32] => 4,
        /// Why it isn't watched for, for people; absent if it is.
        pub refused: Option<Words> => 5,
    }
}

tlv_struct! {
    /// Client → tower: these are not needed any more.
    pub struct Unwatch {
        /// Names the factory, to its client alone.
        pub tag: [u8; 32] => 0,
        /// Which; empty: all with this tag.
        pub locators: Vec<[u8; 16]> => 2,
    }
}

tlv_struct! {
    /// Client → tower: sign that you have these. Said once in a block at most, where that has changed.
    pub struct AskReceipt {
        /// Names the factory, to its client alone.
        pub tag: [u8; 32] => 0,
        /// How many there are with this tag.
        pub count: u32 => 2,
        /// Their sum.
        pub sum: [u8; 32] => 4,
    }
}

tlv_struct! {
    /// Tower → client: signed, I have these.
    pub struct Receipt {
        /// As it came.
        pub tag: [u8; 32] => 0,
        /// As it came.
        pub count: u32 => 2,
        /// As it came.
        pub sum: [u8; 32] => 4,
        /// The last block that the sender had looked at then.
        pub height: Height => 6,
        /// By the sender's node, of all of it in words (docs/protocol.md): lightningd's `zbase`.
        pub signature: Vec<u8> => 8,
    }
}

impl AskAppointments {
    pub(super) fn header(&self) -> Header {
        header(self.tag, 0)
    }
}

impl Appointments {
    pub(super) fn header(&self) -> Header {
        header([0; 32], 0)
    }
}

impl Locators {
    pub(super) fn header(&self) -> Header {
        header(self.tag, 0)
    }
}

impl Watch {
    pub(super) fn header(&self) -> Header {
        header(self.tag, 0)
    }
}

impl Watched {
    pub(super) fn header(&self) -> Header {
        header(self.tag, 0)
    }
}

impl Unwatch {
    pub(super) fn header(&self) -> Header {
        header(self.tag, 0)
    }
}

impl AskReceipt {
    pub(super) fn header(&self) -> Header {
        header(self.tag, 0)
    }
}

impl Receipt {
    pub(super) fn header(&self) -> Header {
        header(self.tag, 0)
    }
}
