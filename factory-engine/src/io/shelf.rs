//! What is kept for one peer: its shelf. And what a copy that comes from one has beside what is stored.

use crate::record::copy::{SealedCopy, Version};

/// What is done with a peer's shelf. Requests about one shelf are carried out in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ShelfRequest {
    /// Keep a copy in place of the one with its tag, if [`admit`](crate::backup::admit) has nothing against it.
    Put(SealedCopy),
    /// What is there?
    List,
    /// The copy with this tag.
    Get([u8; 32]),
    /// Delete the copy with this tag.
    Forget([u8; 32]),
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ShelfAnswer {
    /// A copy is on the disk, or it isn't, and why.
    Put {
        /// As it came.
        tag: [u8; 32],
        /// As it came.
        counter: u32,
        /// Nothing, or why it isn't kept, for its owner.
        result: Result<(), String>,
    },
    /// Tag of each copy, its counter and its nonce.
    List(Vec<([u8; 32], Version)>),
    /// The copy with this tag, if there is one.
    Got([u8; 32], Option<SealedCopy>),
    /// What the disk says, for this node's log.
    Failed(String),
}

/// What a copy that this node has sealed has beside what it has stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compared {
    /// Nothing.
    Older,
    /// Nothing: all of it is stored, with other records among it.
    Within,
    /// More records, which are stored now.
    Newer,
    /// Others.
    Other,
}
