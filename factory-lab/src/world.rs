//! One operator (member 0), N clients, a network, a chain and a clock.

mod chain;
pub mod chaos;
mod closed;
mod course;
mod effects;
mod ended;
mod exit;
mod fault;
mod feed;
mod fees;
mod foreign;
mod handed;
mod invoices;
pub(crate) mod judged;
mod keeper;
mod left;
mod moves;
mod network;
mod ordinary;
mod pay;
mod reclaimed;
pub mod restore;
mod sold;
mod tower;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bitcoin::{Amount, BlockHash, ScriptBuf};
use chaos::Chaos;
use factory_engine::backup::SealedCopy;
use factory_engine::io::{Keeper, Kept};
use factory_engine::memory::watching::Name;
use factory_engine::policy::Config;
use factory_engine::record::appointment::Appointment;
use factory_engine::record::decode_record;
use factory_engine::tx::musig::MasterSecret;
use factory_engine::types::{ChannelId, Height, InstanceId, Millis, NodeId, Transaction, Txid};
use factory_engine::wire::link::Link;
use factory_engine::{Answer, Command, Engine, Entropy, Folded, Input, Level, Refusal, State, WakeReason};

use super::chain::{Chain, Reject};
use super::judge::Judge;
use super::node::Lightningd;
use super::rng::Rng;
use super::store::Store;
use super::{LabError, error};

pub use exit::{Account, Exit};
pub use fault::{CrashAt, Fate, Outgoing, losing};
pub use keeper::ShelfLie;
pub use moves::{OPENER_MSAT, RESERVE_MSAT};

/// The operator's number among the members.
pub const LSP: usize = 0;

/// Until what could not be stored is brought again.
const AGAIN: Millis = 1_000;

/// What a tower's broadcasts for others are called.
pub(crate) const FOR_ANOTHER: &str = "for another";

/// More steps than any scenario takes: whoever needs more runs in a circle.
const STEP_LIMIT: usize = 10_000_000;

/// One node: its plugin's engine and store, and its lightningd.
pub struct Member {
    /// Node id of its lightningd.
    pub id: NodeId,
    /// The engine's settings; a restart reads them again.
    pub config: Config,
    /// The engine while the node is up.
    pub engine: Option<Engine>,
    /// Its records, which survive a restart.
    pub store: Store,
    /// The node that the plugin runs in.
    pub lightningd: Lightningd,
    /// The engine's log, oldest first.
    pub log: Vec<(Level, String)>,
    master: [u8; 32],
    rng: Rng,
    /// Blocks that were handled. Durable, as the tip is in the plugin.
    view: Vec<(Height, BlockHash)>,
    /// The first of them that isn't noted as handled: something of it is still to be looked for, or opened.
    unsettled: Option<Height>,
    crash: Option<CrashAt>,
    /// Whether its database is an older copy.
    restored: bool,
    /// Whether a record of its store was damaged.
    damaged: bool,
    /// What the mempool had when it last had weighed its fees.
    weighed: BTreeSet<Txid>,
    /// How often it was started.
    pub starts: u32,
    /// What a restart would make of the store, kept up to date record by record.
    shadow: Option<Engine>,
    /// What its keeper has, on another machine.
    pub copies: BTreeMap<InstanceId, Vec<Vec<u8>>>,
    keeper_broken: bool,
    /// Copies that can't be compared with its store, as long as that fails.
    late: Option<Vec<(Keeper, factory_engine::backup::Copy)>>,
    /// What it keeps for others.
    pub shelves: BTreeMap<NodeId, BTreeMap<[u8; 32], SealedCopy>>,
    /// How it lies about that.
    pub shelf_lie: Option<ShelfLie>,
    /// Factories of which peers get a copy in a while.
    copies_due: BTreeSet<InstanceId>,
    /// What is in channels that its lightningd has forgotten.
    forgotten_msat: u64,
    /// Channels that its lightningd had when its machine was lost.
    burnt: Vec<(ChannelId, NodeId)>,
    /// What it watches for others.
    appointments: BTreeMap<Name, (Kept, Appointment)>,
    /// Penalties that its lightningd gave.
    penalties: Vec<Penalty>,
    /// What its towers have signed last of each factory.
    pub receipts: BTreeMap<(InstanceId, NodeId), String>,
}

/// A penalty that lightningd gave: the channel, the commitment that was revoked, and what punishes its use.
type Penalty = (ChannelId, Txid, Transaction);

/// A broadcast of some member, and what the chain said.
#[derive(Debug, Clone)]
pub struct Sent {
    /// Number of the member that sent it.
    pub at: usize,
    /// What the engine calls it.
    pub what: String,
    /// Id of the transaction.
    pub txid: Txid,
    /// Height of the chain's last block then.
    pub height: Height,
    /// Whether the mempool took it, and otherwise why not.
    pub result: Result<(), Reject>,
}

/// An engine, lent or made. (An engine has no `Clone`, as `Cow` would want.)
pub(crate) enum MaybeOwned<'a> {
    Borrowed(&'a Engine),
    Owned(Box<Engine>),
}

impl std::ops::Deref for MaybeOwned<'_> {
    type Target = Engine;

    fn deref(&self) -> &Engine {
        match self {
            Self::Borrowed(engine) => engine,
            Self::Owned(engine) => engine,
        }
    }
}

/// What became of an input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fed {
    /// The engine handled it, with this answer.
    Done(Result<Answer, Refusal>),
    /// The node is down: nobody handled it.
    Down,
    /// The store failed: the step never happened.
    StoreFailed,
    /// The node crashed on it.
    Crashed,
}

/// All members, the network between them, and the chain.
pub struct World {
    /// Member 0 is the operator.
    pub members: Vec<Member>,
    /// The chain that every member's lightningd follows.
    pub chain: Chain,
    /// The clock of all members, milliseconds since the Unix epoch.
    pub now: Millis,
    /// Watches what members store and send, and says which property does not hold.
    pub judge: Judge,
    /// Whether every step is followed by a recovery from the store (costs time).
    pub check_recovery: bool,
    /// Every broadcast of any member, in order.
    pub sent: Vec<Sent>,
    /// Clients in whose leaf the operator puts this script in place of the channel's.
    pub foreign_scripts: BTreeMap<usize, ScriptBuf>,
    /// Somebody who has nothing to do with any factory, and spends what anybody may.
    pub stranger: Lightningd,
    /// Whether nobody has a channel with anybody when they meet.
    pub strangers: bool,
    /// Messages that have arrived so far.
    pub delivered: u64,
    /// Whether members that want to connect do; else the network is somebody else's business.
    pub connects: bool,
    /// Channels on which an HTLC stands, as lightningd shows them: payments settle at once here.
    pub htlcs_on: BTreeSet<ChannelId>,
    /// Who has a child out that pays all that is at stake, and less than it should, in which factories (S26).
    pub(crate) capped: BTreeSet<(usize, InstanceId)>,
    /// Messages of these names are lost, whoever sends them.
    pub mute: BTreeSet<&'static str>,
    /// Notifications that a factory ends: member, factory, blocks that are left.
    pub notices: Vec<(usize, InstanceId, u32)>,
    /// Clients that the operator has sent for: the factory, the member, the height by which it has to come, and why.
    pub wakes: Vec<(InstanceId, usize, Height, WakeReason)>,
    /// What each client has paid for liquidity, by factory, msat.
    paid: BTreeMap<(usize, InstanceId), u64>,
    /// Payments that are under way.
    stuck: Vec<invoices::Payment>,
    /// Whether HTLCs of moves stand until [`World::end_moves`].
    pub hold_moves: bool,
    circles: Vec<moves::Circle>,
    /// Random faults, in the simulator.
    pub chaos: Option<Box<Chaos>>,
    numbers: BTreeMap<NodeId, usize>,
    rng: Rng,
    links: BTreeMap<(usize, usize), Link>,
    wire: BTreeMap<(usize, usize), VecDeque<Vec<u8>>>,
    tasks: BTreeMap<usize, VecDeque<Input>>,
    /// What is brought again after a second, because it could not be stored.
    unstored: Vec<(usize, Input)>,
    #[allow(clippy::type_complexity)] // A closure is what a fault is; a name for it would hide that.
    tamper: Option<Box<dyn FnMut(&Outgoing) -> Fate>>,
}

impl World {
    /// A member for each of these settings, the operator first, whose wallet is full; nobody is connected.
    /// [`Scenario`](crate::scenario::Scenario) makes a world that is ready.
    ///
    /// # Errors
    /// When the nodes don't come up.
    pub(crate) fn of(seed: u64, configs: Vec<Config>) -> Result<Self, LabError> {
        let mut members = Vec::new();
        for (number, config) in configs.into_iter().enumerate() {
            let mut rng = Rng::new(seed, &format!("member {number}"));
            let lightningd = Lightningd::new(Rng::new(seed, &format!("lightningd {number}")));
            members.push(Member {
                id: lightningd.id,
                config,
                engine: None,
                store: Store::default(),
                lightningd,
                log: vec![],
                master: rng.bytes32(),
                rng,
                view: vec![],
                unsettled: None,
                crash: None,
                restored: false,
                damaged: false,
                weighed: BTreeSet::new(),
                starts: 0,
                shadow: None,
                copies: BTreeMap::new(),
                keeper_broken: false,
                late: None,
                shelves: BTreeMap::new(),
                shelf_lie: None,
                copies_due: BTreeSet::new(),
                forgotten_msat: 0,
                burnt: vec![],
                appointments: BTreeMap::new(),
                penalties: vec![],
                receipts: BTreeMap::new(),
            });
        }
        let numbers = (0..).zip(&members).map(|(number, member)| (member.id, number)).collect();
        let mut world = Self {
            members,
            chain: Chain::new(),
            now: 1_700_000_000_000,
            judge: Judge::default(),
            check_recovery: true,
            sent: vec![],
            foreign_scripts: BTreeMap::new(),
            stranger: Lightningd::new(Rng::new(seed, "stranger")),
            strangers: false,
            delivered: 0,
            connects: false,
            htlcs_on: BTreeSet::new(),
            capped: BTreeSet::new(),
            mute: BTreeSet::new(),
            notices: vec![],
            wakes: vec![],
            paid: BTreeMap::new(),
            stuck: vec![],
            hold_moves: false,
            circles: vec![],
            chaos: None,
            numbers,
            rng: Rng::new(seed, "schedule"),
            links: BTreeMap::new(),
            wire: BTreeMap::new(),
            tasks: BTreeMap::new(),
            unstored: vec![],
            tamper: None,
        };
        for _ in 0..4 {
            let script = world.members[LSP].lightningd.new_script();
            world.chain.mint(script, Amount::from_sat(60_000_000));
        }
        world.chain.mine();
        for member in 0..world.members.len() {
            world.start(member)?;
        }
        Ok(world)
    }

    /// Begins a node whose store may hold something already.
    ///
    /// # Errors
    /// When its records are not understood, as a plugin would refuse to work then.
    pub fn start(&mut self, at: usize) -> Result<(), LabError> {
        let engine = self.rebuild(at)?;
        self.start_with(at, engine)
    }

    /// The same with the engine that [`World::rebuild`] has just made.
    ///
    /// # Errors
    /// When a property is violated.
    pub(crate) fn start_with(&mut self, at: usize, engine: Engine) -> Result<(), LabError> {
        let check = self.follows(at);
        let mut shadow = self.blank(at);
        shadow.load_from(&engine);
        let member = &mut self.members[at];
        member.engine = Some(engine);
        member.starts = member.starts.saturating_add(1);
        // Only as long as it is followed.
        member.shadow = check.then_some(shadow);
        let channels = member.lightningd.known_channels();
        // As in the plugin: no block is noted as long as something of it is to be looked for, or opened.
        if let Some(first) = self.members[at].unsettled {
            self.members[at].view.retain(|(height, _)| *height < first);
        }
        // The last block again: the engine has no height before its first block.
        let is_known = |(height, hash): &(Height, BlockHash)| {
            self.chain.block(*height).is_some_and(|block| block.hash == *hash)
        };
        let last = self.members[at].view.last().copied();
        let gone = last.is_some_and(|last| !is_known(&last));
        if let Some((kept, _)) = last.filter(is_known) {
            self.members[at].view.pop();
            self.doubt_above(at, kept)?;
        }
        // Nobody knows any more what was handled: all that has confirmed is in doubt.
        let engine = self.members[at].engine.as_ref().filter(|_| last.is_none());
        let confirmed = engine.filter(|engine| engine.confirmed_to().is_some()).and_then(Engine::scan_from);
        if let Some(birth) = confirmed {
            self.doubt_above(at, birth.saturating_sub(1))?;
            if self.members[at].engine.is_none() {
                return Ok(());
            }
        }
        // S33: what the chain has said may be in a record that isn't understood, so that it is read again.
        let damaged = |engine: &&Engine| engine.factories().any(|factory| factory.damage().is_some());
        let birth = self.members[at].engine.as_ref().filter(damaged).and_then(Engine::scan_from);
        // As in the plugin all that was handled above is in doubt, and forgotten once that is stored.
        if let Some(birth) = birth.filter(|_| gone) {
            self.doubt_above(at, birth.saturating_sub(1))?;
            if self.members[at].engine.is_none() {
                return Ok(());
            }
        }
        self.members[at].view.retain(|(height, _)| birth.is_none_or(|birth| *height < birth));
        self.sync(at)?;
        // The plugin says first that it has started: what is opened again must not come after what blocks have.
        self.finish_tower(at)?;
        self.feed_until_stored(at, &Input::Started { channels })?;
        self.copy_all(at);
        Ok(())
    }

    /// S25: what confirmed above the last block that is known to have been handled may be gone.
    fn doubt_above(&mut self, at: usize, kept: Height) -> Result<(), LabError> {
        let confirmed = self.members[at].engine.as_ref().and_then(Engine::confirmed_to);
        match confirmed.filter(|confirmed| *confirmed > kept) {
            Some(_) => self.feed_until_stored(at, &Input::Reorg { height: kept }),
            None => Ok(()),
        }
    }

    /// As the plugin does at a start: again until it is stored.
    fn feed_until_stored(&mut self, at: usize, input: &Input) -> Result<(), LabError> {
        for _ in 0..100 {
            if self.feed(at, input.clone())? != Fed::StoreFailed {
                break;
            }
        }
        Ok(())
    }

    /// The engine that a restart would make from the store.
    ///
    /// # Errors
    /// When the records are not understood.
    pub fn rebuild(&self, at: usize) -> Result<Engine, LabError> {
        let mut engine = self.blank(at);
        if self.members[at].damaged {
            // What isn't understood is an error of nobody else.
            let store = &self.members[at].store;
            for instance in store.instances() {
                let records = store.records(instance).iter().map(|record| decode_record(record));
                engine.adopt(Folded::readable(instance, records));
            }
            self.load_towers(at, &mut engine);
            return Ok(engine);
        }
        for (instance, records) in self.members[at].store.load().map_err(error)? {
            engine.load(instance, records).map_err(error)?;
        }
        self.load_towers(at, &mut engine);
        Ok(engine)
    }

    /// Replaces a record of a member's store by something that it can't read; it finds out at its next start.
    /// From then on what it has isn't what it stored.
    pub fn damage(&mut self, at: usize, instance: InstanceId, record: usize, bytes: Vec<u8>) {
        self.members[at].damaged = true;
        self.members[at].shadow = None;
        if let Some(record) = self.members[at].store.records_mut(instance).get_mut(record) {
            *record = bytes;
        }
    }

    /// Whether a member's store is compared with its engine after every step.
    fn follows(&self, at: usize) -> bool {
        self.check_recovery && !self.members[at].damaged
    }

    /// What a member's store holds: followed record by record, or read again.
    ///
    /// # Errors
    /// When the records are not understood.
    pub(crate) fn stored(&self, at: usize) -> Result<MaybeOwned<'_>, LabError> {
        match &self.members[at].shadow {
            // Without the check after every step it is not kept up to date.
            Some(shadow) if self.follows(at) => Ok(MaybeOwned::Borrowed(shadow)),
            _ => Ok(MaybeOwned::Owned(Box::new(self.rebuild(at)?))),
        }
    }

    /// A member's engine before it has read anything.
    fn blank(&self, at: usize) -> Engine {
        let member = &self.members[at];
        Engine::new(member.id, MasterSecret::new(member.master), member.config.clone())
    }

    /// A command of a node.
    ///
    /// # Errors
    /// When the node is down, or refuses.
    pub fn command(&mut self, at: usize, command: Command) -> Result<Answer, LabError> {
        match self.feed(at, Input::Command(command))? {
            Fed::Done(Ok(answer)) => Ok(answer),
            Fed::Done(Err(refusal)) => Err(error(refusal)),
            other => Err(error(format!("member {at}: {other:?}"))),
        }
    }

    /// One random pending thing; false if there is none.
    ///
    /// # Errors
    /// When a property is violated.
    pub fn step(&mut self) -> Result<bool, LabError> {
        let tasks = self.tasks.iter().filter(|(_, queue)| !queue.is_empty()).map(|(at, _)| (*at, *at));
        let wires = self.wire.iter().filter(|(_, queue)| !queue.is_empty()).map(|(pair, _)| *pair);
        let mut pending: Vec<(usize, usize)> = tasks.chain(wires).collect();
        if pending.is_empty() {
            return Ok(false);
        }
        if let Some(chaos) = &mut self.chaos {
            chaos.unstall();
            let free = |pair: &(usize, usize)| !chaos.is_stalled(*pair);
            if pending.iter().any(free) {
                pending.retain(free);
            }
        }
        let (from, to) = pending[self.rng.below(pending.len())];
        if from == to {
            if let Some(input) = next(&mut self.tasks, &to) {
                let again = input.is_said_once().then(|| input.clone());
                if self.feed(to, input)? == Fed::StoreFailed
                    && let Some(input) = again
                {
                    self.unstored.push((to, input));
                }
            }
        } else {
            self.deliver(from, to)?;
        }
        Ok(true)
    }

    /// Until nothing is pending. Time stands still.
    ///
    /// # Errors
    /// When a property is violated, or it never ends.
    pub fn settle(&mut self) -> Result<(), LabError> {
        for _ in 0..STEP_LIMIT {
            if !self.step()? {
                return Ok(());
            }
        }
        Err(error("the members talk without end"))
    }

    /// The last block that a member has handled.
    pub fn seen(&self, at: usize) -> Option<Height> {
        self.members[at].view.last().map(|(height, _)| *height)
    }

    /// To the next moment at which some engine wants a tick, or something is brought again; false if there
    /// is none.
    ///
    /// # Errors
    /// When a property is violated.
    pub fn advance(&mut self) -> Result<bool, LabError> {
        let again = std::mem::take(&mut self.unstored);
        let due = self.members.iter().any(|member| !member.copies_due.is_empty());
        let soon = (due || !again.is_empty()).then(|| self.now.saturating_add(AGAIN));
        let ticks = self.members.iter().filter_map(|m| m.engine.as_ref()?.poll_timeout());
        let Some(next) = ticks.chain(soon).min() else {
            return Ok(false);
        };
        for (at, input) in again {
            self.answer(at, input);
        }
        self.now = self.now.max(next);
        self.copy_for_peers();
        for at in 0..self.members.len() {
            let due = self.members[at].engine.as_ref().and_then(Engine::poll_timeout);
            if due.is_some_and(|due| due <= self.now) {
                self.feed(at, Input::Tick)?;
            }
        }
        Ok(true)
    }

    /// Until `done`, letting time pass where nothing else happens.
    ///
    /// # Errors
    /// When a property is violated, or nothing can happen any more.
    pub fn run_until(&mut self, what: &str, done: impl Fn(&World) -> bool) -> Result<(), LabError> {
        for _ in 0..STEP_LIMIT {
            if done(self) {
                return Ok(());
            }
            if !self.step()? && !self.advance()? {
                return Err(error(format!("nothing can happen any more, and not yet: {what}")));
            }
        }
        Err(error(format!("too many steps, and not yet: {what}")))
    }

    /// Until nothing happens any more, time included.
    ///
    /// # Errors
    /// When a property is violated.
    pub fn run_out(&mut self) -> Result<(), LabError> {
        for _ in 0..STEP_LIMIT {
            if !self.step()? && !self.advance()? {
                return Ok(());
            }
        }
        Err(error("the members talk without end"))
    }

    /// A member's state of a factory.
    pub fn state(&self, at: usize, instance: InstanceId) -> Option<State> {
        let member = &self.members[at];
        let height = member.view.last().map_or(0, |(height, _)| *height);
        member.engine.as_ref()?.factory(instance).map(|factory| factory.state(height))
    }

    /// Why a member gave a factory up.
    pub fn failure(&self, at: usize, instance: InstanceId) -> Option<String> {
        let member = &self.members[at];
        let factory = member.engine.as_ref()?.factory(instance)?;
        (self.state(at, instance) == Some(State::Aborted))
            .then(|| factory.failure().unwrap_or_default().to_owned())
    }

    /// The member with a node id.
    pub fn member_of(&self, id: NodeId) -> Option<usize> {
        self.numbers.get(&id).copied()
    }
}

/// Takes the first of a queue. One that is empty goes: each step looks at all that are there.
fn next<K: Ord, T>(queues: &mut BTreeMap<K, VecDeque<T>>, key: &K) -> Option<T> {
    let queue = queues.get_mut(key)?;
    let first = queue.pop_front();
    if queue.is_empty() {
        queues.remove(key);
    }
    first
}
