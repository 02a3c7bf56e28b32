//! Whole factories, for new histories. Their seeds make them the same each time.

use factory_engine::tx::plan::Profile;
use factory_engine::types::{Amount, InstanceId};
use factory_engine::{Answer, Command, Config, Input, Policy, PriceList, State};
use factory_lab::world::{CrashAt, Fate, LSP, World};

use super::common::{begin, factory, finish};

/// Of each there is a history of the operator's and one of client 1's at least.
pub const NAMES: [&str; 12] = [
    "active",
    "stateful",
    "attempts",
    "declined",
    "aborted",
    "exited",
    "evicted",
    "distributed",
    "reorged",
    "sold",
    "restored",
    "jit",
];

type Played = (&'static str, World, InstanceId);
/// Plays one.
type Play = fn() -> (World, InstanceId);

/// All of [`NAMES`].
pub fn worlds() -> Vec<Played> {
    let play: [(&'static str, Play); NAMES.len()] = [
        (NAMES[0], || made(1, 3, Profile::Static)),
        (NAMES[1], || made(2, 8, Profile::Stateful)),
        (NAMES[2], attempts),
        (NAMES[3], declined),
        (NAMES[4], aborted),
        (NAMES[5], exited),
        (NAMES[6], evicted),
        (NAMES[7], distributed),
        (NAMES[8], reorged),
        (NAMES[9], sold),
        (NAMES[10], restored),
        (NAMES[11], jit),
    ];
    play.into_iter()
        .map(|(name, play)| {
            let (world, instance) = play();
            (name, world, instance)
        })
        .collect()
}

fn made(seed: u64, clients: usize, profile: Profile) -> (World, InstanceId) {
    let mut world = World::new(seed, clients).unwrap();
    let instance = world.make_factory(profile).unwrap();
    (world, instance)
}

fn attempts() -> (World, InstanceId) {
    let mut world = World::new(10, 3).unwrap();
    world.tamper(|out| match out.message.name() {
        "stored" if out.from == 3 => Fate::Drop,
        _ => Fate::Deliver,
    });
    let instance = begin(&mut world, Profile::Static).unwrap();
    let signed = |world: &World| world.state(1, instance) == Some(State::Storing);
    world.run_until("attempt 1 is stored", signed).unwrap();
    let script = world.members[LSP].lightningd.new_script();
    world.chain.mint(script, Amount::from_sat(5_000_000));
    world.crash_at(LSP, CrashAt::AfterEffects(1, 0));
    world.run_until("attempt 1 is given up", |world| world.members[LSP].engine.is_none()).unwrap();
    world.restart(LSP).unwrap();
    assert_eq!(finish(&mut world, instance), State::Active);
    assert_eq!(factory(&world, 1, instance).past().len(), 1);
    (world, instance)
}

/// Client 1 declines, client 2 never answers.
fn declined() -> (World, InstanceId) {
    let config = Config { policy: Policy::Ask, ..Config::default() };
    let mut world = World::offline_with(11, 2, &config).unwrap();
    world.connect(LSP, 1).unwrap();
    world.connect(LSP, 2).unwrap();
    world.settle().unwrap();
    let instance = begin(&mut world, Profile::Static).unwrap();
    world.settle().unwrap();
    world.command(1, Command::Decline { instance, reason: "too dear".into() }).unwrap();
    world.run_out().unwrap();
    (world, instance)
}

/// The operator gives up after everything was signed.
fn aborted() -> (World, InstanceId) {
    let mut world = World::new(8, 2).unwrap();
    world.tamper(|out| match out.message.name() {
        "channel_checked" if out.from == 2 => Fate::Drop,
        _ => Fate::Deliver,
    });
    let instance = begin(&mut world, Profile::Static).unwrap();
    world.settle().unwrap();
    world.run_out().unwrap();
    (world, instance)
}

fn exited() -> (World, InstanceId) {
    let (mut world, instance) = made(3, 3, Profile::Static);
    world.pay(LSP, 1, 20_000_000).unwrap();
    world.command(1, Command::Exit { instance }).unwrap();
    world.mine(10).unwrap();
    assert_eq!(world.state(1, instance), Some(State::Exited));
    (world, instance)
}

fn evicted() -> (World, InstanceId) {
    let (mut world, instance) = made(4, 3, Profile::Static);
    let timeout = factory(&world, 1, instance).terms.timeout_height;
    world.mine_to(timeout - 1).unwrap();
    assert!(factory(&world, LSP, instance).eviction.is_some());
    (world, instance)
}

fn distributed() -> (World, InstanceId) {
    let (mut world, instance) = made(1, 3, Profile::Static);
    let timeout = factory(&world, 1, instance).terms.timeout_height;
    world.stop(LSP);
    world.mine_to(timeout + 2).unwrap();
    assert_eq!(world.state(1, instance), Some(State::Distributed));
    (world, instance)
}

fn reorged() -> (World, InstanceId) {
    let (mut world, instance) = made(5, 3, Profile::Static);
    world.command(1, Command::Exit { instance }).unwrap();
    world.mine(2).unwrap();
    world.reorg(2).unwrap();
    world.mine(6).unwrap();
    (world, instance)
}

fn buy(world: &mut World, at: usize, instance: InstanceId, sat: u64, max_price_msat: u64) {
    let command = Command::Buy { instance, amount: Amount::from_sat(sat), max_price_msat };
    world.feed(at, Input::Command(command)).unwrap();
    world.run_out().unwrap();
}

fn with_stock(world: &mut World) -> InstanceId {
    let (capacity, stock) = (Amount::from_sat(100_000), Amount::from_sat(300_000));
    let create = world.create_command(&[1, 2, 3, 4], Profile::Static, capacity, stock).unwrap();
    let Answer::Created(instance) = world.command(LSP, Command::Create(create)).unwrap() else {
        panic!("no factory")
    };
    assert_eq!(finish(world, instance), State::Active);
    instance
}

/// Two sales, then an exit.
fn sold() -> (World, InstanceId) {
    let mut world = World::new(1, 4).unwrap();
    let instance = with_stock(&mut world);
    buy(&mut world, 1, instance, 50_000, 0);
    buy(&mut world, 2, instance, 60_000, 0);
    assert_eq!(factory(&world, 1, instance).sales.all().count(), 2);
    world.command(1, Command::Exit { instance }).unwrap();
    world.mine(12).unwrap();
    (world, instance)
}

/// Client 1 comes back with a copy from before a sale, and hears of the next.
fn restored() -> (World, InstanceId) {
    let mut world = World::new(2, 4).unwrap();
    let instance = with_stock(&mut world);
    let older = world.backup(1);
    buy(&mut world, 2, instance, 50_000, 0);
    world.check_recovery = false;
    world.restore(1, older).unwrap();
    world.connect(LSP, 1).unwrap();
    world.settle().unwrap();
    buy(&mut world, 2, instance, 60_000, 0);
    assert!(factory(&world, 1, instance).restored().is_some());
    (world, instance)
}

/// A neighbour is away: an ordinary channel comes instead.
fn jit() -> (World, InstanceId) {
    let price = 1_000_000;
    let prices = PriceList { base_msat: price, ppm: 0 };
    let config = Config { policy: Policy::Auto, jit: true, prices, ..Config::default() };
    let mut world = World::offline_with(3, 4, &config).unwrap();
    for client in 1..=4 {
        world.connect(LSP, client).unwrap();
    }
    world.settle().unwrap();
    let instance = with_stock(&mut world);
    world.pay(LSP, 1, 20_000_000).unwrap();
    world.stop(2);
    world.settle().unwrap();
    buy(&mut world, 1, instance, 50_000, price);
    assert_eq!(factory(&world, 1, instance).sales.jits().opened().len(), 1);
    (world, instance)
}
