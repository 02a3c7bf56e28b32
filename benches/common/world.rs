//! The creation of a factory by the real engine and the real link layer of every member, in one thread:
//! CPU of each member, bytes, and, with a latency, how long it would take over a network on which every
//! member has a machine of its own.
//!
//! Not the lab's world: that one judges every step, and knows neither CPU time nor latency. What is asked of
//! the operator, and what lightningd answers, are the lab's.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::time::Duration;

use bitcoin::hashes::{Hash, sha256};
use bitcoin::{Amount, BlockHash, Transaction};
use factory_engine::backup::{Copy, SealedCopy};
use factory_engine::io::{ShelfAnswer, ShelfRequest, TowerAnswer, TowerRequest};
use factory_engine::memory::watching::Name;
use factory_engine::policy::{Config, Policy};
use factory_engine::record::appointment::Appointment;
use factory_engine::record::event::encode_record;
use factory_engine::terms::Shape;
use factory_engine::tx::musig::MasterSecret;
use factory_engine::types::{InstanceId, NodeId};
use factory_engine::wire::link::{Incoming, Link, LinkLimits};
use factory_engine::{Answer, Block, Command, Effect, Engine, Entropy, Input, Level, OpenChannel, State};
use factory_lab::offer::Offer;
use factory_lab::scripted;

use super::{HEIGHT, cpu_time};

/// The operator.
pub const LSP: usize = 0;

/// Bytes of a lightning message that the transport adds to it: BOLT 8's length and two MACs.
const TRANSPORT: usize = 18 + 16;
/// Room for what has to be sent before anything is acknowledged, as in the plugin.
const LIMITS: fn() -> LinkLimits = LinkLimits::default;

struct Counter(u64);

impl Entropy for Counter {
    fn bytes32(&mut self) -> [u8; 32] {
        self.0 += 1;
        sha256::Hash::hash(&self.0.to_be_bytes()).to_byte_array()
    }
}

/// The network between the operator and each client.
#[derive(Clone, Copy, Default)]
pub struct Network {
    /// Half a round trip.
    pub latency: Duration,
    /// Bytes a second to and from each peer; 0: no limit.
    pub bandwidth: u64,
    /// How much longer a client takes for every fourth of its messages. At each step others are slow.
    pub slow: Duration,
}

/// Who looks after the clients.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Beside {
    Nobody,
    /// The operator keeps copies for them.
    Keeper,
    /// A tower watches for each, from when they have met on.
    Tower,
}

/// One member: its engine and what it has cost so far.
pub struct Member {
    pub engine: Engine,
    pub cpu: Duration,
    messages: usize,
    /// Bytes of lightning messages.
    pub sent: usize,
    pub received: usize,
    /// Bytes of records.
    pub stored: usize,
    /// Its records, where copies of them are kept: one factory's.
    pub records: Vec<Vec<u8>>,
    /// What it keeps for others.
    pub shelf: BTreeMap<(NodeId, [u8; 32]), SealedCopy>,
    /// What it watches for others.
    pub appointments: BTreeMap<Name, Appointment>,
    /// What it has published for them.
    pub published: Vec<Transaction>,
    /// When its processor is free.
    free: Duration,
}

/// Something that reaches a member.
enum Happening {
    Input(Box<Input>),
    /// A lightning message.
    Raw {
        from: usize,
        bytes: Vec<u8>,
    },
    /// `open_channel`, and what the operator learns of the answer.
    Open {
        open: OpenChannel,
        then: Box<Input>,
    },
}

/// What each member holds and has held at most, by an allocator that counts.
pub struct Memory {
    /// Bytes in use.
    pub usage: fn() -> usize,
    /// Most bytes in use since `reset`.
    pub peak: fn() -> usize,
    pub reset: fn(),
    /// Bytes that each member holds; what it has sent is its own until it arrives.
    pub held: Vec<i64>,
    /// The most that it held.
    pub most: Vec<i64>,
}

pub struct World {
    pub members: Vec<Member>,
    pub funding: Option<Transaction>,
    pub height: u32,
    pub memory: Option<Memory>,
    clients: usize,
    beside: Beside,
    network: Network,
    links: BTreeMap<(usize, usize), Link>,
    /// When the wire from one to the other has taken what was sent.
    wires: BTreeMap<(usize, usize), Duration>,
    queue: BinaryHeap<Reverse<(Duration, u64, usize)>>,
    happenings: BTreeMap<u64, Happening>,
    number: u64,
    now: Duration,
    rng: Counter,
}

fn node(index: usize) -> NodeId {
    let mut id = [2; 33];
    id[1..9].copy_from_slice(&(index as u64).to_be_bytes());
    NodeId(id)
}

fn index(node: NodeId) -> usize {
    u64::from_be_bytes(node.0[1..9].try_into().unwrap()) as usize
}

impl World {
    /// An operator and so many clients, connected.
    pub fn new(clients: usize, network: Network) -> Self {
        Self::with(clients, network, Beside::Nobody)
    }

    /// The same, and who looks after the clients.
    pub fn with(clients: usize, network: Network, beside: Beside) -> Self {
        // The last member.
        let tower = (beside == Beside::Tower).then_some(clients + 1);
        let is_client = |at: usize| (1..=clients).contains(&at);
        let config = |at: usize| Config {
            policy: Policy::Auto,
            peer_backup: beside == Beside::Keeper,
            towers: tower.filter(|_| is_client(at)).map(node).into_iter().collect(),
            watch_for: if tower == Some(at) { (1..=clients).map(node).collect() } else { BTreeSet::new() },
            ..Config::default()
        };
        let member = |at: usize| Member {
            engine: Engine::new(
                node(at),
                MasterSecret::new(sha256::Hash::hash(&[at as u8, (at >> 8) as u8]).to_byte_array()),
                config(at),
            ),
            cpu: Duration::ZERO,
            messages: 0,
            sent: 0,
            received: 0,
            stored: 0,
            records: vec![],
            shelf: BTreeMap::new(),
            appointments: BTreeMap::new(),
            published: vec![],
            free: Duration::ZERO,
        };
        let mut world = Self {
            members: (0..=tower.unwrap_or(clients)).map(member).collect(),
            funding: None,
            height: HEIGHT,
            memory: None,
            clients,
            beside,
            network,
            links: BTreeMap::new(),
            wires: BTreeMap::new(),
            queue: BinaryHeap::new(),
            happenings: BTreeMap::new(),
            number: 0,
            now: Duration::ZERO,
            rng: Counter(0),
        };
        for at in 0..world.members.len() {
            let block = Block { height: HEIGHT, hash: BlockHash::all_zeros(), txs: vec![] };
            world.input(at, Input::Block(block));
        }
        world.meet(LSP);
        world.forget_costs();
        world
    }

    /// Every client connects to this member, until nothing is under way.
    fn meet(&mut self, with: usize) {
        for client in 1..=self.clients {
            for pair in [(with, client), (client, with)] {
                self.links.insert(pair, Link::new(LIMITS()));
                self.transmit(pair.0, pair.1);
            }
        }
        self.run();
    }

    /// Every client meets the tower and hands over what that shall watch. Returns which member it is.
    pub fn meet_tower(&mut self) -> usize {
        assert!(self.beside == Beside::Tower, "there is none");
        let tower = self.clients + 1;
        self.meet(tower);
        tower
    }

    /// Nothing has cost anything, and it is time 0.
    pub fn forget_costs(&mut self) {
        for member in &mut self.members {
            (member.cpu, member.free) = (Duration::ZERO, Duration::ZERO);
            (member.sent, member.received, member.stored) = (0, 0, 0);
        }
        self.wires.clear();
        self.now = Duration::ZERO;
    }

    /// A factory of all clients, until its funding is broadcast and everybody knows.
    ///
    /// Returns it and when the funding was broadcast.
    pub fn create(&mut self, shape: Shape) -> (InstanceId, Duration) {
        let offer = Offer {
            capacity: Amount::from_sat(1_000_000),
            stock: Amount::from_sat(500_000),
            lifetime_blocks: 12_960,
            dying_blocks: 432,
            tree_feerate: 500,
            ..Offer::default()
        };
        let clients: Vec<NodeId> = (1..=self.clients).map(node).collect();
        let create = offer.shaped(&clients, shape);
        let Answer::Created(instance) = self.command(LSP, Command::Create(create)) else { panic!() };
        let mut broadcast = None;
        while self.happen() {
            let factory = self.members[LSP].engine.factory(instance).unwrap();
            if broadcast.is_none() && factory.state(HEIGHT) == State::Funding {
                broadcast = Some(self.members[LSP].free.max(self.now));
            }
        }
        for member in &self.members[..=self.clients] {
            assert_eq!(member.engine.factory(instance).unwrap().state(HEIGHT), State::Funding);
        }
        (instance, broadcast.unwrap())
    }

    /// A command, and its answer at once.
    pub fn command(&mut self, at: usize, command: Command) -> Answer {
        self.step(at, Input::Command(command))
    }

    /// Something happens to a member now.
    pub fn input(&mut self, at: usize, input: Input) {
        self.later(Duration::ZERO, at, Happening::Input(Box::new(input)));
    }

    /// Until nothing is under way.
    pub fn run(&mut self) {
        while self.happen() {}
    }

    fn later(&mut self, after: Duration, at: usize, happening: Happening) {
        self.number += 1;
        self.happenings.insert(self.number, happening);
        self.queue.push(Reverse((self.now + after, self.number, at)));
    }

    /// The next thing that happens; false if there is none.
    fn happen(&mut self) -> bool {
        let Some(Reverse((time, number, at))) = self.queue.pop() else { return false };
        let before = self.memory.as_ref().map(|memory| {
            (memory.reset)();
            (memory.usage)() as i64
        });
        let happening = self.happenings.remove(&number).unwrap();
        let arrived = match &happening {
            Happening::Raw { from, bytes } => Some((*from, bytes.capacity() as i64)),
            _ => None,
        };
        self.take(time, at, happening);
        if let (Some(memory), Some(before)) = (&mut self.memory, before) {
            let most = memory.held[at] + (memory.peak)() as i64 - before;
            memory.most[at] = memory.most[at].max(most);
            memory.held[at] += (memory.usage)() as i64 - before;
            if let Some((from, bytes)) = arrived {
                memory.held[from] -= bytes;
                memory.held[at] += bytes;
            }
        }
        true
    }

    fn take(&mut self, time: Duration, at: usize, happening: Happening) {
        // A processor does one thing at a time; without a network all is one moment.
        self.now = time.max(self.members[at].free);
        match happening {
            Happening::Input(input) => {
                self.step(at, *input);
            }
            Happening::Raw { from, bytes } => {
                let start = cpu_time();
                let link = self.links.get_mut(&(at, from)).unwrap();
                let incoming = link.receive(&bytes, self.now.as_millis() as u64).unwrap();
                self.spend(at, cpu_time() - start);
                self.members[at].received += bytes.len();
                let peer = node(from);
                match incoming {
                    Some(Incoming::Message(payload)) => {
                        self.step(at, Input::Message { peer, payload });
                    }
                    Some(Incoming::Protocols(_)) => {
                        self.step(at, Input::PeerUp { peer, channels: true });
                    }
                    None => {}
                }
                // An acknowledgement goes with the answer, if there is one.
                self.transmit(at, from);
            }
            Happening::Open { open, then } => {
                assert_eq!(self.step(at, Input::OpenChannel(open)), Answer::AcceptOpen);
                self.later(self.network.latency, LSP, Happening::Input(then));
            }
        }
    }

    fn spend(&mut self, at: usize, cpu: Duration) {
        self.members[at].cpu += cpu;
        if self.network.latency > Duration::ZERO {
            self.now += cpu;
            self.members[at].free = self.now;
        }
    }

    fn step(&mut self, at: usize, input: Input) -> Answer {
        let member = &mut self.members[at];
        let start = cpu_time();
        let step = member.engine.handle(input, self.now.as_millis() as u64, self.height, &mut self.rng);
        let records: Vec<Vec<u8>> = step.events.iter().map(|(_, events)| encode_record(events)).collect();
        member.stored += records.iter().map(Vec::len).sum::<usize>();
        if self.beside == Beside::Keeper {
            member.records.extend(records);
        }
        let answer = step.answer.clone().unwrap();
        let effects = member.engine.apply(step).unwrap();
        self.spend(at, cpu_time() - start);
        for effect in effects {
            self.execute(at, effect);
        }
        answer
    }

    fn transmit(&mut self, from: usize, to: usize) {
        loop {
            let start = cpu_time();
            let raw = self.links.get_mut(&(from, to)).unwrap().poll_transmit();
            self.spend(from, cpu_time() - start);
            let Some(bytes) = raw else { return };
            self.members[from].sent += bytes.len();
            self.members[from].messages += 1;
            let slow = from != LSP && (self.members[from].messages + from).is_multiple_of(4);
            let size = bytes.len() + TRANSPORT;
            let wire = self.wires.entry((from, to)).or_default();
            if let Some(micros) = (size as u64 * 1_000_000).checked_div(self.network.bandwidth) {
                *wire = (*wire).max(self.now) + Duration::from_micros(micros);
            } else {
                *wire = self.now;
            }
            if slow {
                *wire += self.network.slow;
            }
            let after = *wire + self.network.latency - self.now;
            self.later(after, to, Happening::Raw { from, bytes });
        }
    }

    fn execute(&mut self, at: usize, effect: Effect) {
        if let Some(input) = scripted::answer(node(at), &effect) {
            if let Input::FundingPrepared { result: Ok(prepared), .. } = &input {
                self.funding = Some(prepared.tx.clone());
            }
            let after = match effect {
                Effect::CompleteChannel { .. } => self.network.latency * 2,
                _ => Duration::ZERO,
            };
            return self.later(after, at, Happening::Input(Box::new(input)));
        }
        if let Some((peer, open, then)) = scripted::open(node(at), &effect) {
            let happening = Happening::Open { open, then: Box::new(then) };
            return self.later(self.network.latency, index(peer), happening);
        }
        match effect {
            Effect::Send { peer, message } => {
                let to = index(peer);
                let start = cpu_time();
                self.links.get_mut(&(at, to)).unwrap().send(&message).unwrap();
                self.spend(at, cpu_time() - start);
                self.transmit(at, to);
            }
            Effect::Copy { instance, peers: true, .. } => {
                let copies = vec![Copy { instance, records: self.members[at].records.clone() }];
                self.input(at, Input::Copied { instance, copies });
            }
            Effect::Shelf { peer, request } => {
                let answer = match request {
                    ShelfRequest::Put(copy) => {
                        let (tag, counter) = (copy.tag, copy.counter);
                        self.members[at].shelf.insert((peer, tag), copy);
                        ShelfAnswer::Put { tag, counter, result: Ok(()) }
                    }
                    ShelfRequest::List => ShelfAnswer::List(vec![]),
                    other => panic!("{other:?}"),
                };
                self.input(at, Input::Shelf { peer, answer });
            }
            Effect::Appoint { instance } => self.input(at, Input::Appoint { instance }),
            Effect::Tower { peer, request } => {
                if let Some(answer) = self.watch(at, peer, request) {
                    self.input(at, Input::Tower { peer, answer });
                }
            }
            Effect::Log { level, text } if level >= Level::Unusual => panic!("{text}"),
            _ => {}
        }
    }

    /// What the disk of a tower and its lightningd do.
    fn watch(&mut self, at: usize, peer: NodeId, request: TowerRequest) -> Option<TowerAnswer> {
        match request {
            TowerRequest::Put { tag, appointment, kept } => {
                let locator = appointment.locator;
                self.members[at].appointments.insert((peer, tag, locator), appointment);
                Some(TowerAnswer::Put { tag, locator, kept, result: Ok(()) })
            }
            TowerRequest::Open { tag, locator, trigger } => {
                let start = cpu_time();
                let opened = self.members[at].appointments[&(peer, tag, locator)].open(trigger.0);
                self.spend(at, cpu_time() - start);
                let tasks = opened.map_err(|error| error.to_string());
                Some(TowerAnswer::Opened { tag, locator, trigger, tasks })
            }
            // No block here has what somebody hears of only after it.
            TowerRequest::Look { .. } => Some(TowerAnswer::Looked(vec![])),
            TowerRequest::Publish { tx, .. } => {
                self.members[at].published.push(tx);
                None
            }
            other => panic!("{other:?}"),
        }
    }
}
