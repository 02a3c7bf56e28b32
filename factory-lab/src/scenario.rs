//! The one builder of worlds: who is there, with which settings, and how far their factory has come.
//!
//! ```
//! use factory_lab::scenario::Scenario;
//! use factory_lab::world::LSP;
//!
//! # fn main() -> Result<(), factory_lab::LabError> {
//! let (mut world, instance) = Scenario::new(7).clients(4).stock(300_000).sold(&[(1, 50_000)])?;
//! world.stop(LSP);
//! world.exit(1, instance)?;
//! # Ok(())
//! # }
//! ```

use std::collections::BTreeMap;

use factory_engine::PriceList;
use factory_engine::policy::{Bounds, Config, Policy};
use factory_engine::tx::plan::Profile;
use factory_engine::types::{Amount, InstanceId};

use super::offer::Offer;
use super::world::{Fate, LSP, Outgoing, World};
use super::{LabError, error};

/// Decides what becomes of each message.
type Tamper = Box<dyn FnMut(&Outgoing) -> Fate>;

/// A world to be. One seed makes the same world each time.
pub struct Scenario {
    seed: u64,
    clients: usize,
    everybody: Config,
    /// Settings of the members that have their own, by number.
    own: BTreeMap<usize, Config>,
    offer: Offer,
    connected: bool,
    checked: bool,
    tamper: Option<Tamper>,
}

impl Scenario {
    /// An operator with a full wallet and two clients that accept whatever their limits allow, all connected;
    /// the factory is [`Offer::default`].
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            clients: 2,
            everybody: Config {
                policy: Policy::Auto,
                // Whoever wants it says so: factories then end as they would without it.
                renew: Policy::Never,
                bounds: any_life(),
                ..Config::default()
            },
            own: BTreeMap::new(),
            offer: Offer::default(),
            connected: true,
            checked: true,
            tamper: None,
        }
    }

    /// How many clients there are: members 1 to `clients`.
    pub fn clients(mut self, clients: usize) -> Self {
        self.clients = clients;
        self
    }

    /// Changes the settings of every member.
    pub fn config(mut self, mut change: impl FnMut(&mut Config)) -> Self {
        change(&mut self.everybody);
        self.own.values_mut().for_each(change);
        self
    }

    /// Changes the settings of one member: 0 is the operator.
    pub fn config_of(mut self, at: usize, change: impl FnOnce(&mut Config)) -> Self {
        change(self.own.entry(at).or_insert_with(|| self.everybody.clone()));
        self
    }

    /// Delays that a test can wait for, everybody's.
    pub fn short_delays(self) -> Self {
        self.config(|config| {
            config.confirm_blocks = 3;
            config.margin_blocks = 4;
            config.state_step = 4;
            config.state_count = 3;
            config.stock_csv = 6;
            config.bounds.min_confirm_blocks = 3;
            config.bounds.min_margin_blocks = 4;
            config.bounds.min_stock_csv = 5;
        })
    }

    /// What the operator asks for liquidity.
    pub fn prices(self, prices: PriceList) -> Self {
        self.config_of(LSP, |config| config.prices = prices)
    }

    /// What the planner makes the tree's shape from.
    pub fn profile(mut self, profile: Profile) -> Self {
        self.offer.profile = profile;
        self
    }

    /// Stock of each sub-factory, sat.
    pub fn stock(mut self, sat: u64) -> Self {
        self.offer.stock = Amount::from_sat(sat);
        self
    }

    /// What each client's channel holds.
    pub fn capacity(mut self, sat: u64) -> Self {
        self.offer.capacity = Amount::from_sat(sat);
        self
    }

    /// Blocks from the creation to the timeout, and how many of them are the dying period.
    pub fn lifetime(mut self, lifetime_blocks: u32, dying_blocks: u32) -> Self {
        (self.offer.lifetime_blocks, self.offer.dying_blocks) = (lifetime_blocks, dying_blocks);
        self
    }

    /// Decides about every message from when all are connected, until [`World::heal`].
    pub fn tamper(mut self, tamper: impl FnMut(&Outgoing) -> Fate + 'static) -> Self {
        self.tamper = Some(Box::new(tamper));
        self
    }

    /// Nobody is connected at first.
    pub fn offline(mut self) -> Self {
        self.connected = false;
        self
    }

    /// Steps are not followed by a recovery from the store: faster.
    pub fn unchecked(mut self) -> Self {
        self.checked = false;
        self
    }

    /// Everybody is there, and no factory.
    ///
    /// # Errors
    /// When the nodes don't come up.
    pub fn world(self) -> Result<World, LabError> {
        let config = |at| self.own.get(&at).unwrap_or(&self.everybody).clone();
        let mut world = World::of(self.seed, (0..=self.clients).map(config).collect())?;
        if self.connected {
            world.reconnect()?;
            world.settle()?;
        }
        world.check_recovery = self.checked;
        if let Some(tamper) = self.tamper {
            world.tamper(tamper);
        }
        Ok(world)
    }

    /// The operator has asked for a factory of all clients; nothing is delivered yet.
    ///
    /// # Errors
    /// When it is refused.
    pub fn begun(self) -> Result<(World, InstanceId), LabError> {
        let offer = self.offer;
        let mut world = self.world()?;
        let instance = world.begin(&offer)?;
        Ok((world, instance))
    }

    /// The factory's channels are usable everywhere.
    ///
    /// # Errors
    /// When it does not come to that.
    pub fn active(self) -> Result<(World, InstanceId), LabError> {
        let (mut world, instance) = self.begun()?;
        world.activate(instance)?;
        Ok((world, instance))
    }

    /// It is active, and clients have bought so many satoshi each, one after the other, at whatever price.
    ///
    /// # Errors
    /// When one of them is refused.
    pub fn sold(self, sales: &[(usize, u64)]) -> Result<(World, InstanceId), LabError> {
        let (mut world, instance) = self.active()?;
        sell(&mut world, instance, sales)?;
        Ok((world, instance))
    }

    /// It has sold, and then `client`, of whose stock some of that was, came back with a copy of its database
    /// from before. It is connected again, and nothing has told it yet.
    ///
    /// # Errors
    /// When one of the sales is refused, or the client never knew of any.
    pub fn restored(self, client: usize, sales: &[(usize, u64)]) -> Result<(World, InstanceId), LabError> {
        let (mut world, instance) = self.active()?;
        let known = |world: &World| Ok(world.factory(client, instance)?.current.sales.all().count());
        let older = world.backup(client);
        let before: usize = known(&world)?;
        sell(&mut world, instance, sales)?;
        if known(&world)? == before {
            return Err(error(format!("client {client} has nothing to forget")));
        }
        // What it stored is not what it has now.
        world.check_recovery = false;
        world.restore(client, older)?;
        world.reconnect()?;
        world.run_out()?;
        Ok((world, instance))
    }
}

/// A client's bounds, but for how long a factory lives: tests have short ones.
fn any_life() -> Bounds {
    Bounds { min_lifetime_blocks: 1, min_dying_blocks: 1, ..Bounds::default() }
}

fn sell(world: &mut World, instance: InstanceId, sales: &[(usize, u64)]) -> Result<(), LabError> {
    sales.iter().try_for_each(|(client, sat)| world.buy(*client, instance, *sat, u64::MAX))
}
