//! What decides about towers, in the runs in which a client has another one watch for it (S40).

use std::collections::BTreeSet;

use factory_engine::Engine;
use factory_engine::types::{ChannelId, Height, InstanceId};

use crate::fault::Dice;

/// The part of the seed's stream that decides about towers.
const TOWERS: u64 = u64::MAX - 4;
/// One run in so many has a tower.
const PART: usize = 4;

/// Who watches for whom, in the runs with a tower.
pub(super) struct Watching {
    pub(super) dice: Dice,
    pub(super) client: usize,
    pub(super) tower: usize,
    /// Since the client went away last.
    pub(super) asleep: Option<Asleep>,
    /// Broadcasts that were looked at.
    pub(super) seen: usize,
    /// Blocks for which miners took more than the tree pays: nobody raises what a tower publishes.
    pub(super) dear: Vec<Height>,
}

/// A client that went away.
pub(super) struct Asleep {
    /// What it had stored.
    pub(super) stored: Box<Engine>,
    /// Factories of which its tower had everything, each time.
    pub(super) promised: BTreeSet<InstanceId>,
    /// Channels that it had bought, each time.
    pub(super) bought: BTreeSet<ChannelId>,
    /// The last block when it went for the first time, and this time.
    pub(super) first: Height,
    pub(super) height: Height,
    /// How often it had been started: once it is again it knows more.
    pub(super) starts: u32,
}

impl Watching {
    /// For the runs with a tower.
    pub(super) fn of(seed: u64, clients: usize) -> Option<Self> {
        let mut dice = Dice::new(seed, TOWERS);
        if clients < 2 || !dice.one_in(PART) {
            return None;
        }
        let client = dice.below(clients).saturating_add(1);
        let others: Vec<usize> = (1..=clients).filter(|at| *at != client).collect();
        let tower = others[dice.below(others.len())];
        Some(Self { dice, client, tower, asleep: None, seen: 0, dear: vec![] })
    }
}
