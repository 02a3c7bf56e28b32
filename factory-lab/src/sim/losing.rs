//! What decides about copies, in the runs in which operators keep some for their clients (S39).

use factory_engine::Config;

use crate::fault::Dice;
use crate::world::LSP;

/// The part of the seed's stream that decides about copies.
const COPIES: u64 = u64::MAX - 3;
/// One run in so many has copies.
const PART: usize = 4;

/// What is planned where there are copies.
pub(super) struct Losing {
    dice: Dice,
    pub(super) burn: Option<Burn>,
}

/// A client whose machine burns.
#[derive(Debug, Clone, Copy)]
pub(super) struct Burn {
    pub(super) at: usize,
    /// Step of the run at which it does.
    pub(super) step: u64,
    /// Steps until it restores what it is given back.
    pub(super) wait: u64,
    pub(super) stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Before,
    /// At this step; and whether its operator kept something then.
    Burnt(u64, bool),
    Restored,
}

impl Losing {
    /// For the runs with copies.
    pub(super) fn of(seed: u64) -> Option<Self> {
        let mut dice = Dice::new(seed, COPIES);
        dice.one_in(PART).then_some(Self { dice, burn: None })
    }

    /// What members have set for copies.
    pub(super) fn configure(&mut self, config: &mut Config, at: usize) {
        config.peer_backup = true;
        if at != LSP && self.dice.one_in(6) {
            config.min_keepers = 1;
        }
    }
}

impl Burn {
    /// The step from which on what was given back is restored.
    pub(super) fn restores_at(&self) -> u64 {
        match self.stage {
            Stage::Burnt(since, _) => since.saturating_add(self.wait),
            Stage::Before | Stage::Restored => 0,
        }
    }
}
