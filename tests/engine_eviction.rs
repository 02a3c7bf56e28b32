//! S21: the operator gets every client out, and its stock home, before distributions pay it nothing.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;

use common::factory;
use factory_engine::tx::plan::Profile;
use factory_engine::types::{Amount, Height, InstanceId};
use factory_engine::{Command, State};
use factory_lab::scenario::Scenario;
use factory_lab::world::{LSP, World};

/// A factory with delays that a test can wait for.
fn world(seed: u64, clients: usize, profile: Profile, stock: u64) -> (World, InstanceId) {
    let scenario = Scenario::new(seed).clients(clients).profile(profile).stock(stock);
    scenario.short_delays().lifetime(120, 30).active().unwrap()
}

fn timeout(world: &World, instance: InstanceId) -> Height {
    factory(world, LSP, instance).current.terms.timeout_height
}

/// S21: at the last height that leaves time for the longest path, not a block later and not before;
/// by itself, and for everybody who is still in. Every leaf is on chain before the timeout, channels go
/// on, and nobody gets a distribution.
#[test]
fn the_operator_evicts_by_itself() {
    for (seed, profile) in [(1, Profile::Static), (2, Profile::Stateful)] {
        let (mut world, instance) = world(seed, 8, profile, 0);
        world.pay(LSP, 3, 20_000_000).unwrap();
        let timeout = timeout(&world, instance);
        let early = u32::from(factory(&world, LSP, instance).blocks_early());
        world.mine_to(timeout - early - 1).unwrap();
        assert!(world.sent.is_empty(), "{:?}", world.sent);
        world.mine(1).unwrap();
        assert!(!world.sent.is_empty(), "nothing is published at {}", world.chain.height());
        assert_eq!(factory(&world, LSP, instance).current.evicting.len(), 8);
        world.mine_to(timeout).unwrap();
        for client in 0..8 {
            assert!(factory(&world, LSP, instance).leaf_height(client).unwrap() <= timeout - 4);
        }
        assert_eq!(world.state(LSP, instance), Some(State::Exited));
        // The channels stand by themselves: payments go on, also after the timeout.
        world.pay(LSP, 3, 1_000_000).unwrap();
        world.mine(4).unwrap();
        world.pay(3, LSP, 1_000_000).unwrap();
        assert!(world.sent.iter().all(|sent| !sent.what.contains("distribution")), "{:?}", world.sent);
    }
}

/// S21: where there is stock, the leaves are on chain early enough for the operator to take it home
/// before clients could distribute it among themselves.
#[test]
fn stock_comes_home_before_the_timeout() {
    let (mut world, instance) = world(3, 4, Profile::Static, 20_000);
    let (timeout, funding, value) = {
        let factory = factory(&world, LSP, instance);
        (timeout(&world, instance), factory.funding().unwrap(), factory.current.layout.funding_value())
    };
    let before = world.members[LSP].lightningd.balance(&world.chain);
    world.mine_to(timeout).unwrap();
    let after = world.members[LSP].lightningd.balance(&world.chain);
    let gained = after - before;
    assert!(gained > Amount::from_sat(38_000) && gained < Amount::from_sat(40_000), "{gained}");
    let account = world.account(funding, value).unwrap();
    assert_eq!(account.sum().unwrap(), value);
    assert_eq!(account.tree, Amount::ZERO, "{account:?}");
    world.mine(6).unwrap();
    assert!(world.sent.iter().all(|sent| !sent.what.contains("distribution")), "{:?}", world.sent);
}

/// S21: a client that is gone is evicted, whoever has left is left alone.
#[test]
fn only_whoever_is_still_in() {
    let (mut world, instance) = world(4, 8, Profile::Static, 0);
    world.command(1, Command::Exit { instance }).unwrap();
    world.mine(3).unwrap();
    assert_eq!(world.state(1, instance), Some(State::Exited));
    let out: Vec<u32> = (0..8).filter(|c| factory(&world, LSP, instance).leaf_height(*c).is_some()).collect();
    world.stop(8);
    world.mine_to(timeout(&world, instance)).unwrap();
    let factory = factory(&world, LSP, instance);
    let evicted: Vec<u32> = (0..8).filter(|client| !out.contains(client)).collect();
    assert_eq!(factory.current.evicting.iter().copied().collect::<Vec<_>>(), evicted);
    assert!((0..8).all(|client| factory.leaf_height(client).is_some()));
}

/// S21, S10: a restart in the middle of an eviction changes nothing.
#[test]
fn an_eviction_survives_restarts() {
    let (mut world, instance) = world(5, 8, Profile::Stateful, 20_000);
    let timeout = timeout(&world, instance);
    while world.chain.height() < timeout {
        world.mine(1).unwrap();
        world.restart(LSP).unwrap();
    }
    let factory = factory(&world, LSP, instance);
    assert!((0..8).all(|client| factory.leaf_height(client).is_some()));
    assert!(world.sent.iter().all(|sent| !sent.what.contains("distribution")), "{:?}", world.sent);
}

/// S21, S25: an eviction whose transactions are reorganised away goes on.
#[test]
fn a_reorganised_eviction() {
    let (mut world, instance) = world(6, 8, Profile::Static, 0);
    let timeout = timeout(&world, instance);
    let early = u32::from(factory(&world, LSP, instance).blocks_early());
    world.mine_to(timeout - early + 1).unwrap();
    world.reorg(2).unwrap();
    world.chain.reorg_and_drop(1);
    world.mine_quietly(2);
    world.sync_all().unwrap();
    world.mine_to(timeout).unwrap();
    assert!((0..8).all(|client| factory(&world, LSP, instance).leaf_height(client).is_some()));
}

/// `factory-evict`: some clients now; what makes no sense is refused and changes nothing.
#[test]
fn the_command_evicts_some_clients() {
    let (mut world, instance) = world(7, 8, Profile::Static, 0);
    let evict = |clients: &[u32]| Command::Evict { instance, clients: clients.to_vec() };
    assert!(world.command(1, evict(&[])).unwrap_err().to_string().contains("operator"));
    assert!(world.command(LSP, evict(&[8])).unwrap_err().to_string().contains("client 8"));
    world.command(LSP, evict(&[5])).unwrap();
    world.mine(3).unwrap();
    let leaf = |world: &World, client| factory(world, LSP, instance).leaf_height(client).is_some();
    assert!(leaf(&world, 5) && !leaf(&world, 0));
    assert_eq!(world.state(LSP, instance), Some(State::Active));
    assert!(world.command(LSP, evict(&[5])).unwrap_err().to_string().contains("on chain"));
    // The others go on.
    world.pay(LSP, 1, 1_000_000).unwrap();
    world.command(LSP, evict(&[])).unwrap();
    world.mine(3).unwrap();
    assert!((0..8).all(|client| leaf(&world, client)));
}

/// An operator that would have no time to get its money home is told so before it funds anything.
#[test]
fn too_short_a_life_is_refused() {
    // Longer than the longest exit, shorter than that and the stock's CSV.
    let scenario = Scenario::new(8).config(|config| config.stock_csv = 1_000).lifetime(1_100, 160);
    let refused = scenario.begun().err().unwrap().to_string();
    assert!(refused.contains("lifetime_blocks"), "{refused}");
}
