//! Appointments on this node's disk, and what becomes of them.

use crate::record::appointment::{Appointment, Locator, Sum, Task};
use crate::types::{Height, InstanceId, NodeId, Transaction, Txid};
use crate::wire::message::Receipt;

/// What is known of an appointment on the disk without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    /// Of what is sealed in it, and until when.
    pub sum: Sum,
    /// Bytes of what is sealed in it.
    pub bytes: u32,
    /// The last block in which it may be needed.
    pub until: Height,
    /// Number of the records that its client had of the factory when it gave it.
    pub counter: u32,
    /// The transaction that it waited for, and its block, once that is there.
    pub trigger: Option<(Txid, Height)>,
}

/// What is done for a peer that this node watches for. Requests about one peer's are carried out in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TowerRequest {
    /// Keep an appointment in place of the one with its tag and locator.
    Put {
        /// Names the factory, to its client alone.
        tag: [u8; 32],
        /// The appointment.
        appointment: Appointment,
        /// What is kept beside it.
        kept: Kept,
    },
    /// The transaction is there that one waits for: note that, and open it. Again until it is done.
    Open {
        /// Names the factory, to its client alone.
        tag: [u8; 32],
        /// Which of the factory's.
        locator: Locator,
        /// The transaction, and its block.
        trigger: (Txid, Height),
    },
    /// Look once more into these blocks for transactions that fit these. Again until it is done.
    Look {
        /// The first block.
        from: Height,
        /// The last block.
        to: Height,
        /// What is looked for.
        locators: Vec<Locator>,
    },
    /// Sign, as this node.
    Sign {
        /// What is signed, without the signature.
        receipt: Receipt,
        /// The same in words.
        text: String,
    },
    /// Delete this one.
    Forget {
        /// Names the factory, to its client alone.
        tag: [u8; 32],
        /// Which of the factory's.
        locator: Locator,
    },
    /// Broadcast a transaction, fully signed.
    Publish {
        /// Names the factory, to its client alone.
        tag: [u8; 32],
        /// Which of the factory's.
        locator: Locator,
        /// The transaction.
        tx: Transaction,
    },
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TowerAnswer {
    /// An appointment is on the disk, or it isn't, and why.
    Put {
        /// As it came.
        tag: [u8; 32],
        /// As it came.
        locator: Locator,
        /// As it came.
        kept: Kept,
        /// Nothing, or why it isn't kept, for its owner.
        result: Result<(), String>,
    },
    /// Transactions that were looked for, and their blocks.
    Looked(Vec<(Locator, (Txid, Height))>),
    /// What was sealed, or why it can't be read.
    Opened {
        /// Names the factory, to its client alone.
        tag: [u8; 32],
        /// Which of the factory's.
        locator: Locator,
        /// The transaction that made it due, and its block.
        trigger: (Txid, Height),
        /// What to publish.
        tasks: Result<Vec<Task>, String>,
    },
    /// A receipt, signed.
    Signed(Receipt),
    /// A transaction isn't taken, and not for its fee: what it spends was spent before anybody looked, or isn't in the
    /// chain any more, or it is there itself.
    NotThere {
        /// Names the factory, to its client alone.
        tag: [u8; 32],
        /// Which of the factory's.
        locator: Locator,
        /// The transaction that was to be published.
        txid: Txid,
    },
}

/// What a tower of this node's says that it has signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedReceipt {
    /// The factory (factory_instance).
    pub instance: InstanceId,
    /// The tower.
    pub tower: NodeId,
    /// What it has signed.
    pub text: String,
    /// Its signature, as lightningd's `checkmessage` takes it.
    pub zbase: String,
}
