//! What a run remembers of channels, losses, copies and fees.

use factory_engine::terms::ClientIndex;
use factory_engine::types::{Height, InstanceId, Txid};

use crate::fault::Dice;
use crate::node::Lightningd;
use crate::rng::Rng;
use crate::world::restore::Backup;

/// A client's channel that its engine has called usable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Used {
    pub(super) instance: InstanceId,
    pub(super) client: ClientIndex,
    pub(super) funding: Txid,
    pub(super) timeout: Height,
    /// Of a bought channel the sale's number; 0 of a leaf's.
    pub(super) sale: u32,
    /// When its client takes a bought channel on chain by itself.
    pub(super) leaves: Height,
}

/// Part of what decides whether a buyer is in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Loss {
    pub(super) height: Height,
    /// Whose blocks; nothing if everybody's.
    pub(super) at: Option<usize>,
    pub(super) blocks: u32,
}

/// A node's database as it was after some commits, and when it comes back.
#[derive(Debug, Clone)]
pub(super) struct Restore {
    pub(super) at: usize,
    /// Commits of this node before the copy is made.
    pub(super) commits: u32,
    /// Steps after the copy until it comes back.
    pub(super) wait: u64,
    pub(super) copy: Option<(Backup, u64)>,
}

impl Restore {
    pub(super) fn new(at: usize, dice: &mut Dice) -> Self {
        let wait = if dice.one_in(3) { 1 + dice.next_number() % 20 } else { dice.next_number() % 250 };
        Self { at, commits: dice.below_u32(24), wait, copy: None }
    }
}

/// A record of a node's that becomes garbage.
pub(super) struct Damage {
    pub(super) at: usize,
    /// Commits of this node before that.
    pub(super) commits: u32,
    /// Which of its records, and what becomes of it.
    pub(super) dice: Dice,
}

impl Damage {
    pub(super) fn new(at: usize, mut dice: Dice) -> Self {
        Self { at, commits: dice.below_u32(24).saturating_add(1), dice }
    }
}

/// What is going on with fees.
pub(super) struct Fees {
    /// Until when a spike lasts, and by how much it rises at each block, sat/kw.
    pub(super) spike: Option<(Height, u32)>,
    /// Members whose wallet is locked, and until which height.
    pub(super) locked: Vec<(usize, Height)>,
    pub(super) stranger: Lightningd,
    /// Blocks in which the operator could not have raised a fee, or published anything.
    pub(super) hindered: u32,
}

impl Fees {
    pub(super) fn new(seed: u64) -> Self {
        let stranger = Lightningd::new(Rng::new(seed, "stranger"));
        Self { spike: None, locked: vec![], stranger, hindered: 0 }
    }
}
