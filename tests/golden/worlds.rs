//! Whole factories, for new histories. Their seeds make them the same each time.

use factory_engine::policy::Policy;
use factory_engine::tx::plan::Profile;
use factory_engine::types::{Amount, InstanceId};
use factory_engine::{Command, PriceList, State};
use factory_lab::scenario::Scenario;
use factory_lab::world::{CrashAt, LSP, World, losing};

use super::common::factory;

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
    Scenario::new(seed).clients(clients).profile(profile).active().unwrap()
}

fn attempts() -> (World, InstanceId) {
    let (mut world, instance) = Scenario::new(10).clients(3).tamper(losing("stored", 3)).begun().unwrap();
    let signed = |world: &World| world.state(1, instance) == Some(State::Storing);
    world.run_until("attempt 1 is stored", signed).unwrap();
    let script = world.members[LSP].lightningd.new_script();
    world.chain.mint(script, Amount::from_sat(5_000_000));
    world.crash_at(LSP, CrashAt::AfterEffects(1, 0));
    world.run_until("attempt 1 is given up", |world| world.members[LSP].engine.is_none()).unwrap();
    world.restart(LSP).unwrap();
    assert_eq!(world.finish(instance).unwrap(), State::Active);
    assert_eq!(factory(&world, 1, instance).past().len(), 1);
    (world, instance)
}

/// Client 1 declines, client 2 never answers.
fn declined() -> (World, InstanceId) {
    let scenario = Scenario::new(11).clients(2).config(|config| config.policy = Policy::Ask);
    let (mut world, instance) = scenario.begun().unwrap();
    world.settle().unwrap();
    world.command(1, Command::Decline { instance, reason: "too dear".into() }).unwrap();
    world.run_out().unwrap();
    (world, instance)
}

/// The operator gives up after everything was signed.
fn aborted() -> (World, InstanceId) {
    let (mut world, instance) =
        Scenario::new(8).clients(2).tamper(losing("channel_checked", 2)).begun().unwrap();
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
    let timeout = factory(&world, 1, instance).current.terms.timeout_height;
    world.mine_to(timeout - 1).unwrap();
    assert!(factory(&world, LSP, instance).current.eviction.is_some());
    (world, instance)
}

fn distributed() -> (World, InstanceId) {
    let (mut world, instance) = made(1, 3, Profile::Static);
    let timeout = factory(&world, 1, instance).current.terms.timeout_height;
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

/// Four clients in one leaf, two sub-factories with stock.
fn with_stock(seed: u64) -> Scenario {
    Scenario::new(seed).clients(4).stock(300_000)
}

/// A block more than the funding needs, as when these histories were frozen.
fn one_more(world: &mut World) {
    world.mine(1).unwrap();
}

/// Two sales, then an exit.
fn sold() -> (World, InstanceId) {
    let (mut world, instance) = with_stock(1).active().unwrap();
    one_more(&mut world);
    world.buy(1, instance, 50_000, 0).unwrap();
    world.buy(2, instance, 60_000, 0).unwrap();
    assert_eq!(factory(&world, 1, instance).current.sales.all().count(), 2);
    world.command(1, Command::Exit { instance }).unwrap();
    world.mine(12).unwrap();
    (world, instance)
}

/// Client 1 comes back with a copy from before a sale, and hears of the next.
fn restored() -> (World, InstanceId) {
    let (mut world, instance) = with_stock(2).restored(1, &[(2, 50_000)]).unwrap();
    world.buy(2, instance, 60_000, 0).unwrap_err();
    assert!(factory(&world, 1, instance).restored().is_some());
    (world, instance)
}

/// A neighbour is away: an ordinary channel comes instead.
fn jit() -> (World, InstanceId) {
    let price = 1_000_000;
    let scenario = with_stock(3).prices(PriceList::of_sales(price, 0));
    let (mut world, instance) = scenario.config(|config| config.jit = true).active().unwrap();
    one_more(&mut world);
    world.pay(LSP, 1, 20_000_000).unwrap();
    world.stop(2);
    world.settle().unwrap();
    world.buy(1, instance, 50_000, price).unwrap();
    assert_eq!(factory(&world, 1, instance).current.sales.jits().opened().len(), 1);
    (world, instance)
}
