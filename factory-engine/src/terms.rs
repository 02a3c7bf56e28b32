//! The numbers that every factory fixes at birth.
//!
//! A member accepts terms once; everything that it signs later is rebuilt from them (S3).

use crate::types::{Amount, Height, InstanceId, NodeId};

/// Whether a level of the tree may be reallocated later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// One transaction, no relative timelock: it can never be replaced.
    Static,
    /// A kickoff and a state transaction whose nSequence falls with each new state.
    Stateful,
}

/// One interior level of the tree: a node splits the leaves below it into at most `arity` groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Level {
    /// Largest number of children of a node of this level, at least 2.
    pub arity: u16,
    /// Whether nodes of this level may be replaced by a later state.
    pub kind: Kind,
}

/// The lowest level: a leaf holds `sub_factories` groups of `clients_per_sub` clients, each group
/// with a channel per client and one stock output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Leaf {
    /// Whether a leaf may be replaced by a later state.
    pub kind: Kind,
    /// Sub-factories of a leaf, at least 1.
    pub sub_factories: u16,
    /// Clients of a sub-factory, at least 1.
    pub clients_per_sub: u16,
}

/// Arities and kinds from the root to the leaves. Interior levels that a small factory doesn't need
/// are skipped: a node with a single leaf below it *is* that leaf.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Shape {
    /// Interior levels, the root's first. Their arities multiplied are at least the number of leaves.
    pub levels: Vec<Level>,
    /// Kind and size of every leaf.
    pub leaf: Leaf,
}

/// What all members of a factory agree to. Encoded on the wire inside `invite`, and hashed into the
/// transcript.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// `factory_instance_id` of bLIP-56: chosen by L, never the same twice.
    pub instance: InstanceId,
    /// Node id of L, who operates the factory.
    pub lsp: NodeId,
    /// Arities and kinds, from the root to the leaves.
    pub shape: Shape,
    /// Channel capacity of each client, in leaf order; as many as there are clients.
    pub capacities: Vec<Amount>,
    /// Stock output of every sub-factory; zero for none.
    pub stock: Amount,
    /// Pushed to each client when its channel opens, msat. At least 1,000: a fundee forgets an
    /// unconfirmed channel that never held anything for it (stock lightningd after 2016 blocks).
    pub push_msat: u64,
    /// nSequence difference between two states of a stateful level, blocks.
    pub state_step: u16,
    /// How many states a stateful level can have.
    pub state_count: u16,
    /// Blocks after which L alone may take an unspent stock output.
    pub stock_csv: u16,
    /// Feerate of every tree transaction, sat/kw, fixed at signing.
    pub tree_feerate: u32,
    /// Block height from which distribution transactions are valid (nLockTime).
    pub timeout_height: Height,
    /// Blocks before `timeout_height` at which the dying period begins.
    pub dying_blocks: u32,
    /// Blocks allowed for each path transaction to confirm.
    pub confirm_blocks: u16,
    /// Blocks added to the sum that makes `blocks_early`.
    pub margin_blocks: u16,
    /// Confirmations of the funding output after which channels are usable.
    pub funding_confirmations: u16,
}

/// A client's index in leaf order, from 0. L has no index.
pub type ClientIndex = u32;

impl Terms {
    /// How many clients there are: one for each capacity.
    pub fn clients(&self) -> u32 {
        // A factory of more than u32::MAX clients can't be decoded or built.
        u32::try_from(self.capacities.len()).unwrap_or(u32::MAX)
    }
}
