//! What the creation of a factory costs: CPU of the operator and of one client, bytes that a client
//! sends and receives, bytes that each stores. The real engine on both sides, real signatures, no
//! lightningd, one thread, whose CPU time is what is measured, so that other work on the machine hardly
//! matters:
//!
//! ```sh
//! cargo bench --bench ceremony            # N = 8, 32, 127, 1000
//! cargo bench --bench ceremony -- 16 64
//! ```
//!
//! Then what a sale costs each member of its sub-factory; more than a millisecond fails the command.
//!
//! The tree's part and the speed of one key aggregation are printed too, as a yardstick for the machine.

#![allow(missing_docs, reason = "not a library")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a benchmark that fails must fail the command")]

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bitcoin::hashes::{Hash, sha256};
use bitcoin::{Amount, BlockHash, OutPoint, ScriptBuf, Sequence, Transaction, TxIn, TxOut, Witness};
use cln_factory::protocol::event::encode_record;
use cln_factory::protocol::{
    Answer, Block, Command, Config, Create, Effect, Engine, Entropy, Input, OpenChannel, Policy,
    PreparedFunding, State,
};
use cln_factory::terms::Terms;
use cln_factory::tx::layout::Layout;
use cln_factory::tx::musig::{FactoryKey, KeyAgg, MasterSecret};
use cln_factory::tx::plan::{Profile, shape_for};
use cln_factory::types::{ChannelId, InstanceId, NodeId};

const HEIGHT: u32 = 1_000;

struct Counter(u64);

impl Entropy for Counter {
    fn bytes32(&mut self) -> [u8; 32] {
        self.0 += 1;
        sha256::Hash::hash(&self.0.to_be_bytes()).to_byte_array()
    }
}

struct Member {
    engine: Engine,
    cpu: Duration,
    sent: usize,
    received: usize,
    stored: usize,
}

struct World {
    members: Vec<Member>,
    queue: VecDeque<(usize, Input)>,
    rng: Counter,
    height: u32,
    funding: Option<Transaction>,
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
    fn new(clients: usize) -> Self {
        let config = || Config { policy: Policy::Auto, ..Config::default() };
        let member = |at: usize| Member {
            engine: Engine::new(
                node(at),
                MasterSecret::new(sha256::Hash::hash(&[at as u8, (at >> 8) as u8]).to_byte_array()),
                config(),
            ),
            cpu: Duration::ZERO,
            sent: 0,
            received: 0,
            stored: 0,
        };
        let mut world = Self {
            members: (0..=clients).map(member).collect(),
            queue: VecDeque::new(),
            rng: Counter(0),
            height: HEIGHT,
            funding: None,
        };
        for at in 0..=clients {
            let block = Block { height: HEIGHT, hash: BlockHash::all_zeros(), txs: vec![] };
            world.queue.push_back((at, Input::Block(block)));
            if at > 0 {
                world.queue.push_back((at, Input::PeerUp { peer: node(0) }));
                world.queue.push_back((0, Input::PeerUp { peer: node(at) }));
            }
        }
        world.run();
        world.members.iter_mut().for_each(|member| member.cpu = Duration::ZERO);
        world
    }

    fn step(&mut self, at: usize, input: Input) -> Answer {
        let member = &mut self.members[at];
        let start = cpu_time();
        let step = member.engine.handle(input, 0, self.height, &mut self.rng);
        member.stored += step.events.iter().map(|(_, events)| encode_record(events).len()).sum::<usize>();
        let answer = step.answer.clone().expect("no command is refused");
        let effects = member.engine.apply(step);
        member.cpu += cpu_time() - start;
        for effect in effects {
            self.execute(at, effect);
        }
        answer
    }

    fn run(&mut self) {
        while let Some((at, input)) = self.queue.pop_front() {
            self.step(at, input);
        }
    }

    fn execute(&mut self, at: usize, effect: Effect) {
        let input = match effect {
            Effect::Send { peer, message } => {
                let start = cpu_time();
                let payload = message.encode();
                self.members[at].cpu += cpu_time() - start;
                self.members[at].sent += payload.len();
                let to = index(peer);
                self.members[to].received += payload.len();
                self.queue.push_back((to, Input::Message { peer: node(at), payload }));
                return;
            }
            Effect::NewPayout { instance, attempt } => {
                let script = [&[0, 20], &sha256::Hash::hash(&[at as u8, (at >> 8) as u8])[..20]].concat();
                Input::PayoutReady { instance, attempt, result: Ok(ScriptBuf::from(script)) }
            }
            Effect::PrepareFunding { instance, attempt, script, amount } => {
                let input = TxIn {
                    previous_output: OutPoint { txid: bitcoin::Txid::from_byte_array([7; 32]), vout: 0 },
                    script_sig: ScriptBuf::new(),
                    sequence: Sequence::ENABLE_RBF_NO_LOCKTIME,
                    witness: Witness::new(),
                };
                let tx = Transaction {
                    version: bitcoin::transaction::Version::TWO,
                    lock_time: bitcoin::absolute::LockTime::ZERO,
                    input: vec![input],
                    output: vec![TxOut { value: amount, script_pubkey: script }],
                };
                self.funding = Some(tx.clone());
                Input::FundingPrepared {
                    instance,
                    attempt,
                    result: Ok(PreparedFunding { psbt: String::new(), tx, vout: 0 }),
                }
            }
            Effect::StartChannel { instance, attempt, client, sale, peer, capacity, push_msat } => {
                let open = OpenChannel {
                    peer: node(at),
                    capacity,
                    push_msat,
                    zeroconf: true,
                    channel_in_factory: None,
                };
                assert_eq!(self.step(index(peer), Input::OpenChannel(open)), Answer::AcceptOpen);
                let script =
                    ScriptBuf::from([&[0, 32], &sha256::Hash::hash(&client.to_be_bytes())[..]].concat());
                Input::ChannelStarted { instance, attempt, client, sale, result: Ok(script) }
            }
            Effect::CompleteChannel { instance, attempt, client, sale, leaf, .. } => {
                let factory = self.members[at].engine.factory(instance).unwrap();
                let vout = if sale.is_some() { 0 } else { factory.layout.channel_place(client).unwrap().1 };
                let channel_id = ChannelId::of(OutPoint { txid: leaf.compute_txid(), vout });
                Input::ChannelCompleted { instance, attempt, client, sale, result: Ok(channel_id) }
            }
            Effect::CheckChannel { instance, attempt, sale, .. } => {
                Input::ChannelChecked { instance, attempt, sale, result: Ok(()) }
            }
            Effect::Log { level, text } if level >= cln_factory::protocol::Level::Unusual => panic!("{text}"),
            _ => return,
        };
        self.queue.push_back((at, input));
    }
}

fn create(clients: usize) -> (World, InstanceId) {
    let mut world = World::new(clients);
    let create = Create {
        clients: (1..=clients).map(|at| (node(at), Amount::from_sat(1_000_000))).collect(),
        stock: Amount::from_sat(500_000),
        shape: shape_for(clients as u32, Profile::Static).unwrap(),
        lifetime_blocks: 12_960,
        dying_blocks: 432,
        tree_feerate: 253,
    };
    let Answer::Created(instance) = world.step(0, Input::Command(Command::Create(create))) else { panic!() };
    world.run();
    for member in &world.members {
        assert_eq!(member.engine.factory(instance).unwrap().state(HEIGHT), State::Funding);
    }
    (world, instance)
}

/// What sales cost each member of the first sub-factory: median ms by member.
fn sell(world: &mut World, instance: InstanceId) -> BTreeMap<usize, f64> {
    let factory = world.members[0].engine.factory(instance).unwrap();
    let coin = factory.layout.stock_coin(0).unwrap();
    let members: Vec<usize> = [0]
        .into_iter()
        .chain(factory.layout.coin(coin).unwrap().clients.clone().map(|at| at as usize + 1))
        .collect();
    let funding = world.funding.clone().unwrap();
    for height in HEIGHT + 1..HEIGHT + 10 {
        world.height = height;
        let txs = if height == HEIGHT + 1 { vec![funding.clone()] } else { vec![] };
        let hash = BlockHash::from_byte_array(sha256::Hash::hash(&height.to_be_bytes()).to_byte_array());
        for at in &members {
            world.queue.push_back((*at, Input::Block(Block { height, hash, txs: txs.clone() })));
        }
        world.run();
    }
    let mut columns: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
    for sale in 1..=9 {
        world.members.iter_mut().for_each(|member| member.cpu = Duration::ZERO);
        let amount = Amount::from_sat(20_000);
        let buy = Command::Buy { instance, amount, max_price_msat: 0 };
        assert_eq!(world.step(members[1], Input::Command(buy)), Answer::Done);
        world.run();
        for at in &members {
            let sales = &world.members[*at].engine.factory(instance).unwrap().sales;
            assert!(sales.of(coin).len() == sale && sales.of(coin)[sale - 1].is_signed());
            columns.entry(*at).or_default().push(milliseconds(world.members[*at].cpu));
        }
    }
    columns.into_iter().map(|(at, column)| (at, median(column))).collect()
}

/// CPU time of this thread.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.try_into().unwrap(), time.tv_nsec.try_into().unwrap())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn main() {
    let arguments: Vec<usize> = std::env::args().filter_map(|argument| argument.parse().ok()).collect();
    let sizes = if arguments.is_empty() { vec![8, 32, 127, 1000] } else { arguments };

    let keys: Vec<_> = (0..128)
        .map(|at| FactoryKey::derive(&MasterSecret::new([at; 32]), InstanceId([1; 32]), 1).public())
        .collect();
    let aggregation = median(
        (0..21)
            .map(|_| {
                let start = cpu_time();
                std::hint::black_box(KeyAgg::new(&keys, None).unwrap());
                milliseconds(cpu_time() - start)
            })
            .collect(),
    );
    println!("yardstick: one BIP-327 key aggregation of 128 keys takes {aggregation:.2} ms here\n");
    println!(
        "{:>5} {:>6} {:>9} {:>10} {:>10} {:>9} {:>9} {:>8} {:>8} {:>10} {:>10}",
        "N",
        "nodes",
        "sessions",
        "layout ms",
        "L ms",
        "L/yard",
        "client ms",
        "sent B",
        "recv B",
        "client st.",
        "L stored"
    );
    for clients in sizes {
        let runs = if clients > 300 { 3 } else { 7 };
        let mut columns: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
        let mut last = None;
        for _ in 0..runs {
            let (world, instance) = create(clients);
            columns.entry("lsp").or_default().push(milliseconds(world.members[0].cpu));
            let sum: Duration = world.members[1..].iter().map(|member| member.cpu).sum();
            columns.entry("client").or_default().push(milliseconds(sum) / clients as f64);
            let terms: &Terms = &world.members[0].engine.factory(instance).unwrap().terms;
            let start = cpu_time();
            std::hint::black_box(Layout::new(terms).unwrap());
            columns.entry("layout").or_default().push(milliseconds(cpu_time() - start));
            last = Some((world, instance));
        }
        let (world, instance) = last.unwrap();
        let factory = world.members[0].engine.factory(instance).unwrap();
        let most = |of: fn(&Member) -> usize| world.members[1..].iter().map(of).max().unwrap();
        let lsp = median(columns.remove("lsp").unwrap());
        println!(
            "{:>5} {:>6} {:>9} {:>10.3} {:>10.1} {:>9.1} {:>9.2} {:>8} {:>8} {:>10} {:>10}",
            clients,
            factory.layout.nodes().len(),
            factory.layout.sessions(None).len(),
            median(columns.remove("layout").unwrap()),
            lsp,
            lsp / aggregation,
            median(columns.remove("client").unwrap()),
            most(|member| member.sent),
            most(|member| member.received),
            most(|member| member.stored),
            world.members[0].stored
        );
    }
    let (mut world, instance) = create(8);
    let costs = sell(&mut world, instance);
    let names = |at: usize| {
        if at == 0 {
            "L"
        } else if at == 1 {
            "buyer"
        } else {
            "neighbour"
        }
    };
    let text: Vec<String> = costs.iter().map(|(at, ms)| format!("{} {ms:.2} ms", names(*at))).collect();
    println!("\na sale, CPU of each member of its sub-factory: {}", text.join(", "));
    assert!(costs.values().all(|ms| *ms < 1.0), "a sale takes more than a millisecond");
}
