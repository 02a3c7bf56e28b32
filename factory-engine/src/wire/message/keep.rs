//! What is said about copies that peers keep for each other (S39, S40).
//!
//! They are about no factory that whoever keeps them should hear of: each has the copy's tag and counter in place of
//! factory and attempt.

use super::*;

tlv_struct! {
    /// Owner → keeper: what do you have of mine? Said after each connect.
    pub struct AskCopies {
        /// How many copies the sender could take; 0 is for the keeper to say.
        pub most: u32 => 0,
    }
}

tlv_struct! {
    /// Keeper → owner: this, and I keep for you.
    pub struct Copies {
        /// Of each copy its tag, counter and nonce, in the order of tags.
        pub list: Vec<([u8; 32], (u32, [u8; 24]))> => 0,
    }
}

tlv_struct! {
    /// Owner → keeper: keep this in place of what you have with this tag.
    pub struct Keep {
        /// Names the factory, to its owner alone.
        pub tag: [u8; 32] => 0,
        /// Number of its records.
        pub counter: u32 => 2,
        /// Nonce, what is sealed, authenticator.
        pub sealed: Vec<u8> => 4,
    }
}

tlv_struct! {
    /// Keeper → owner: it is on my disk, or I don't keep it.
    pub struct Kept {
        /// As it came.
        pub tag: [u8; 32] => 0,
        /// As it came.
        pub counter: u32 => 2,
        /// Why it isn't kept, for people; absent if it is.
        pub refused: Option<Words> => 5,
    }
}

tlv_struct! {
    /// Owner → keeper: give me this one.
    pub struct AskCopy {
        /// Its tag.
        pub tag: [u8; 32] => 0,
    }
}

tlv_struct! {
    /// Keeper → owner: here it is.
    pub struct CopyBack {
        /// Names the factory, to its owner alone.
        pub tag: [u8; 32] => 0,
        /// Number of its records.
        pub counter: u32 => 2,
        /// As it came, byte for byte; empty if there is none.
        pub sealed: Vec<u8> => 4,
    }
}

tlv_struct! {
    /// Owner → keeper: this factory is over.
    pub struct ForgetCopy {
        /// Its tag.
        pub tag: [u8; 32] => 0,
    }
}

/// What stands in a message's place of factory and attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) instance: InstanceId,
    pub(super) attempt: u32,
}

pub(super) fn header(tag: [u8; 32], attempt: u32) -> Header {
    Header { instance: InstanceId(tag), attempt }
}

impl AskCopies {
    pub(super) fn header(&self) -> Header {
        header([0; 32], 0)
    }
}

impl Copies {
    pub(super) fn header(&self) -> Header {
        header([0; 32], 0)
    }
}

impl Keep {
    pub(super) fn header(&self) -> Header {
        header(self.tag, self.counter)
    }
}

impl Kept {
    pub(super) fn header(&self) -> Header {
        header(self.tag, self.counter)
    }
}

impl AskCopy {
    pub(super) fn header(&self) -> Header {
        header(self.tag, 0)
    }
}

impl CopyBack {
    pub(super) fn header(&self) -> Header {
        header(self.tag, self.counter)
    }
}

impl ForgetCopy {
    pub(super) fn header(&self) -> Header {
        header(self.tag, 0)
    }
}
