//! The usual course of things: a factory from the command to usable channels.

use bitcoin::Amount;
use factory_engine::tx::plan::{Delays, Profile, shape_with};
use factory_engine::types::InstanceId;
use factory_engine::{Answer, Command, Create, State};

use crate::{LabError, error};

use super::{LSP, World};

impl World {
    /// `factory-create` with every client, in order.
    ///
    /// # Errors
    /// When the shape can't be planned.
    pub fn create_command(
        &self,
        clients: &[usize],
        profile: Profile,
        capacity: Amount,
        stock: Amount,
    ) -> Result<Create, LabError> {
        let config = &self.members[LSP].config;
        let delays = Delays {
            state_step: config.state_step,
            state_count: config.state_count,
            confirm_blocks: config.confirm_blocks,
            margin_blocks: config.margin_blocks,
        };
        let count = u32::try_from(clients.len()).map_err(error)?;
        Ok(Create {
            clients: clients.iter().map(|client| (self.members[*client].id, capacity)).collect(),
            stock,
            shape: shape_with(count, profile, delays).map_err(error)?,
            lifetime_blocks: 4320,
            dying_blocks: 2016,
            tree_feerate: 1000,
        })
    }

    /// A factory with all clients, until its channels are usable everywhere.
    ///
    /// # Errors
    /// When it does not come to that.
    pub fn make_factory(&mut self, profile: Profile) -> Result<InstanceId, LabError> {
        let clients: Vec<usize> = (1..self.members.len()).collect();
        let capacity = Amount::from_sat(100_000);
        let create = self.create_command(&clients, profile, capacity, Amount::from_sat(20_000))?;
        let Answer::Created(instance) = self.command(LSP, Command::Create(create))? else {
            return Err(error("factory-create answered something else"));
        };
        self.activate(instance)?;
        Ok(instance)
    }

    /// Runs a factory that was begun until it is active everywhere.
    ///
    /// # Errors
    /// When it does not come to that.
    pub fn activate(&mut self, instance: InstanceId) -> Result<(), LabError> {
        self.run_until("the funding transaction is out", |world| {
            matches!(world.state(LSP, instance), Some(State::Funding | State::Aborted))
        })?;
        self.settle()?;
        if let Some(failure) = self.failure(LSP, instance) {
            return Err(error(format!("the factory was aborted: {failure}")));
        }
        self.mine(u32::from(self.members[LSP].config.funding_confirmations))?;
        Ok(())
    }
}
