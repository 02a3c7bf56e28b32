//! Liquidity that costs something: what operators ask, what clients are ready to pay, and who is away at
//! the wrong moment.

use crate::{LabError, error};

use super::run::Run;

/// The most that a client is ready to pay, msat: nothing, little, any price there is.
const LIMITS: [u64; 3] = [0, 5_000, 5_000_000];

impl Run {
    /// The most that a client is ready to pay, msat.
    pub(super) fn some_limit(&mut self) -> u64 {
        LIMITS[self.dice.below(LIMITS.len())]
    }

    /// A client that is away for one purchase of its neighbours, sometimes.
    pub(super) fn doze(&mut self) -> Option<usize> {
        let client = self.dice.below(self.world.members.len().saturating_sub(1)).saturating_add(1);
        let dozes = self.dice.one_in(6) && self.asleep.insert(client);
        if dozes {
            self.world.stop(client);
        }
        dozes.then_some(client)
    }

    /// The client that was away may come back.
    pub(super) fn wake(&mut self, dozer: Option<usize>) {
        if let Some(client) = dozer {
            self.asleep.remove(&client);
        }
    }

    /// What was paid for liquidity is what was got for it.
    ///
    /// # Errors
    /// When it isn't.
    pub(super) fn count_prices(&self) -> Result<(), LabError> {
        let dearest = LIMITS.into_iter().max().unwrap_or(0);
        let mut all = self.all().into_iter();
        all.try_for_each(|instance| self.world.judge_books(instance, dearest)).map_err(error)
    }
}
