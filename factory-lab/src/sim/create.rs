//! The beginning of a run: a shape, capacities and stock are drawn, and the factory comes to be or not.

use bitcoin::Amount;
use factory_engine::policy::Config;
use factory_engine::terms::{Kind as LevelKind, Shape};
use factory_engine::tx::plan::Profile;
use factory_engine::{Answer, Command, Create, Input, RefusalKind};

use crate::fault::{Dice, Kind};
use crate::offer::shape;
use crate::world::{Fed, LSP};
use crate::{LabError, error};

use super::run::{MANY, Run};

impl Run {
    /// `factory-create`, until it has ended.
    ///
    /// # Errors
    /// A violation.
    pub(super) fn create(&mut self) -> Result<(), LabError> {
        let mut command = self.command()?;
        if let Some(renewing) = &mut self.renewing {
            renewing.first(&mut command);
        }
        if let Some(mut dice) = self.roll(Kind::ThiefTerms, || "the operator".into()) {
            self.steal(&mut command, &mut dice)?;
        }
        for _ in 0..4 {
            let fed = self.world.feed(LSP, Input::Command(Command::Create(command.clone())))?;
            if let Fed::Done(Ok(Answer::Created(instance))) = &fed {
                self.instance = Some(*instance);
            }
            if let Fed::Done(Err(why)) = fed
                && why.kind() == RefusalKind::BadParameter
            {
                return Err(error(format!("lab: {why}")));
            }
            let stored = self.world.members[LSP].store.instances().next();
            self.instance = self.instance.or(stored);
            if self.instance.is_some() {
                break;
            }
            // A crash, a failing store, a client that was just cut off: the operator tries again.
            for _ in 0..200 {
                self.tick()?;
            }
        }
        let Some(instance) = self.instance else {
            return Ok(());
        };
        for _ in 0..MANY {
            let state = self.world.state(LSP, instance);
            let over = self.gone || state.is_some_and(|state| !state.is_creating());
            if over || !self.tick()? {
                return Ok(());
            }
            if self.dice.one_in(250) {
                self.block()?;
            }
        }
        Err(error("S29: creation never ends"))
    }

    fn command(&mut self) -> Result<Create, LabError> {
        let clients = self.world.members.len().saturating_sub(1);
        let mut profile = match self.dice.below(7) {
            0..4 => Profile::Static,
            4..6 => Profile::Stateful,
            _ => Profile::Flat,
        };
        if let Some(renewing) = &mut self.renewing {
            profile = renewing.profile(profile);
        }
        let config = &self.world.members[LSP].config;
        let shape = shape(clients, profile, config)?;
        let early = longest(&shape, config);
        let dying_blocks = early;
        // In some there is time for payments from client to client.
        let longer = if self.dice.one_in(4) { 2 * early } else { 0 };
        let nodes = (1..=clients).map(|client| self.world.members[client].id).collect::<Vec<_>>();
        let clients =
            nodes.into_iter().map(|id| (id, Amount::from_sat(50_000 + self.dice.next_number() % 150_000)));
        Ok(Create {
            clients: clients.collect(),
            stock: Amount::from_sat(self.stock()),
            shape,
            lifetime_blocks: 2 * early + 16 + self.dice.below_u32(10) + longer,
            dying_blocks,
            tree_feerate: 1000,
            push_msat: None,
        })
    }

    /// S32: the operator's settings are a thief's from here on; what they were before is every client's least.
    fn steal(&mut self, command: &mut Create, dice: &mut Dice) -> Result<(), LabError> {
        let what = dice.below(5);
        let config = &mut self.world.members[LSP].config;
        if matches!(what, 0 | 4) {
            config.confirm_blocks = 1;
        }
        if matches!(what, 1 | 4) {
            config.margin_blocks = u16::from(dice.one_in(2));
        }
        if matches!(what, 2 | 4) {
            config.stock_csv = 1;
        }
        if matches!(what, 3 | 4) {
            command.tree_feerate = 253 + dice.below_u32(100);
        }
        self.world.stop(LSP);
        self.world.start(LSP)?;
        self.world.reconnect()
    }

    /// Satoshi for each sub-factory: none, hardly enough to sell, some, much.
    fn stock(&mut self) -> u64 {
        match self.dice.below(6) {
            0 => 0,
            1 => 20_000,
            2..5 => 40_000 + self.dice.next_number() % 40_000,
            _ => 200_000,
        }
    }
}

/// Blocks that the longest exit of a shape takes.
pub(super) fn longest(shape: &Shape, config: &Config) -> u32 {
    let kinds = shape.levels.iter().map(|level| level.kind).chain([shape.leaf.kind]);
    let lock = u32::from(config.state_step) * u32::from(config.state_count.saturating_sub(1));
    let each = u32::from(config.confirm_blocks);
    let blocks: u32 = kinds
        .map(|kind| match kind {
            LevelKind::Static => each,
            LevelKind::Stateful => lock + 2 * each,
        })
        .sum();
    blocks + u32::from(config.margin_blocks)
}
