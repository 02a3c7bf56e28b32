//! Keepers that lie, machines that burn, and what comes back (S39).

use factory_engine::types::Amount;

use crate::fault::Kind;
use crate::world::{LSP, ShelfLie};
use crate::{LabError, error};

use super::losing::{Burn, Stage};
use super::run::Run;

/// Blocks after the timeout in which whoever has the distribution has published it.
const PAID: u32 = 6;

impl Run {
    /// Who lies about copies, and whose machine burns.
    pub(super) fn choose_losers(&mut self, clients: usize) {
        if self.losing.is_none() {
            return;
        }
        let lies = [ShelfLie::Newer, ShelfLie::Older, ShelfLie::Forgets];
        if let Some(mut dice) = self.roll(Kind::KeeperLies, || "the operator".to_owned()) {
            self.world.members[LSP].shelf_lie = Some(lies[dice.below(lies.len())]);
        }
        let Some(mut dice) = self.roll(Kind::MachineLost, || "a client".to_owned()) else { return };
        let at = dice.below(clients).saturating_add(1);
        let otherwise = self.restores.iter().any(|plan| plan.at == at)
            || self.damages.iter().any(|plan| plan.at == at)
            || self.world.is_dishonest(at);
        if let Some(losing) = self.losing.as_mut().filter(|_| !otherwise) {
            let (step, wait) = (100 + dice.next_number() % 900, dice.next_number() % 200);
            losing.burn = Some(Burn { at, step, wait, stage: Stage::Before });
        }
    }

    /// The machine burns once that is due, and what peers have comes back once that is; `now` it is.
    ///
    /// # Errors
    /// A violation.
    pub(super) fn burn(&mut self, now: bool) -> Result<(), LabError> {
        let Some(mut burn) = self.losing.as_ref().and_then(|losing| losing.burn) else { return Ok(()) };
        let at = burn.at;
        if self.asleep.contains(&at) {
            return Ok(());
        }
        let goes_wrong = self.world.chaos.as_ref().is_some_and(|chaos| chaos.chances.on);
        match burn.stage {
            Stage::Before if self.steps >= burn.step && goes_wrong => {
                let shelf = self.world.members[LSP].shelves.get(&self.world.members[at].id);
                let kept = shelf.is_some_and(|shelf| !shelf.is_empty());
                self.say(|| format!("{at}    loses its machine"));
                burn.stage = Stage::Burnt(self.steps, kept);
                self.world.lose_all(at)?;
            }
            Stage::Burnt(..) | Stage::Restored if now || self.steps >= burn.restores_at() => {
                let engine = self.world.members[at].engine.as_ref();
                // Of each factory: some may be given back later than others.
                let found = engine.is_some_and(|engine| {
                    let mut found = engine.found_copies().into_iter();
                    found.any(|(_, copy)| engine.factory(copy.instance).is_none())
                });
                if !found {
                    if now && burn.stage != Stage::Restored {
                        // What was lost on the way comes again on another connection.
                        self.world.disconnect(LSP, at);
                    }
                    return Ok(());
                }
                self.say(|| format!("{at}    restores what its operator kept"));
                burn.stage = Stage::Restored;
                self.world.restore_from_peers(at, false)?;
            }
            Stage::Before | Stage::Burnt(..) | Stage::Restored => return Ok(()),
        }
        if let Some(losing) = &mut self.losing {
            losing.burn = Some(burn);
        }
        Ok(())
    }

    fn say(&mut self, text: impl FnOnce() -> String) {
        if let Some(chaos) = &mut self.world.chaos {
            chaos.trace.line(text);
        }
    }

    /// S39: whoever has lost its machine has its capacity from the distribution, unless the operator has brought its
    /// channel on chain; if its operator kept what it was given, and kept its own memory.
    ///
    /// # Errors
    /// A violation.
    pub(super) fn count_lost(&self) -> Result<(), LabError> {
        let Some(burn) = self.losing.as_ref().and_then(|losing| losing.burn) else { return Ok(()) };
        let (at, operator) = (burn.at, &self.world.members[LSP]);
        if operator.shelf_lie.is_some() || !self.world.is_owed(LSP) || self.gone {
            return Ok(());
        }
        // Whoever was invited again into a factory that was being created begins anew there.
        let engine = self.world.members[at].engine.as_ref();
        let forgotten = |instance| engine.is_some_and(|engine| engine.factory(instance).is_none());
        let mut own = self.used.iter().filter(|((owner, _), _)| *owner == at).map(|(_, used)| used);
        let missing =
            own.any(|used| self.world.chain.confirmed(used.funding).is_some() && forgotten(used.instance));
        if matches!(burn.stage, Stage::Burnt(_, true)) && missing {
            return Err(error(format!("S39: member {at} has not found what its operator keeps")));
        }
        if burn.stage != Stage::Restored {
            return Ok(());
        }
        for ((owner, channel), used) in &self.used {
            let chain = &self.world.chain;
            let over = chain.height() > used.timeout.saturating_add(PAID);
            let funded = chain.confirmed(used.funding).is_some();
            if *owner != at || used.sale > 0 || !funded || !over || self.is_left(at, *channel) {
                continue;
            }
            let theirs = operator.lightningd.channels.get(channel);
            let leaf = theirs.is_some_and(|theirs| chain.confirmed(theirs.outpoint.txid).is_some());
            if !leaf && self.gained(at)? == Amount::ZERO {
                return Err(error(format!(
                    "S39: member {at} lost its machine, and has nothing of {channel}"
                )));
            }
        }
        Ok(())
    }
}
