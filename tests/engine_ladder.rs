//! The operator's side of renewals: what it gives its clients so that they can leave a factory that ends.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;

use common::factory;
use factory_engine::types::{Amount, InstanceId};
use factory_engine::{Answer, Command, Config, Policy, Stage};
use factory_lab::offer::Offer;
use factory_lab::scenario::Scenario;
use factory_lab::world::{LSP, World};

const RESERVE: u64 = 546_000;
const LIFETIME: u32 = 170;
const DYING: u32 = 110;

fn offer() -> Offer {
    Offer { lifetime_blocks: LIFETIME, dying_blocks: DYING, stock: Amount::ZERO, ..Offer::default() }
}

fn scenario(seed: u64, clients: usize) -> Scenario {
    let scenario = Scenario::new(seed).clients(clients).short_delays().stock(0).lifetime(LIFETIME, DYING);
    scenario.config(|config| {
        config.renew = Policy::Auto;
        config.reclaim_blocks = 10;
    })
}

fn dying(world: &World, instance: InstanceId) -> u32 {
    factory(world, LSP, instance).current.terms.timeout_height - DYING
}

fn mine_to(world: &mut World, height: u32) {
    world.mine(height.saturating_sub(world.chain.height())).unwrap();
    world.settle().unwrap();
}

fn push(world: &World, instance: InstanceId) -> u64 {
    factory(world, LSP, instance).current.terms.push_msat
}

/// S22: an operator with default settings gives what a renewal needs, and no more than its option elsewhere. So the
/// renewal goes all the way.
#[test]
fn a_renewed_factory_makes_up_for_the_reserve() {
    let (mut world, old) = scenario(1, 2).active().unwrap();
    assert_eq!(push(&world, old), Config::default().push_msat, "it renews none");
    let due = dying(&world, old);
    mine_to(&mut world, due);
    world.pay(LSP, 1, 5_000_000).unwrap();
    let new = world.make_factory(&offer()).unwrap();
    assert_eq!(push(&world, new), RESERVE);
    world.mine(6).unwrap();
    world.settle().unwrap();
    // Client 2 has nothing but its first push, less than a reserve: it leaves with that.
    for client in [1, 2] {
        let engine = world.engine(client).unwrap();
        let renewal = engine.renewal(engine.factory(old).unwrap(), world.chain.height()).unwrap();
        assert_eq!(renewal.stage, Stage::Done, "client {client}");
    }
    assert!(factory(&world, LSP, old).is_reclaimable_whole());
    let third = world.begin(&offer()).unwrap();
    assert_eq!(push(&world, third), RESERVE, "whoever has left is in the second one alone");
}

/// S22: the terms have one number for all clients: a reserve if one of them leaves a channel, whatever else it has bought.
/// Whoever says how much says it for all.
#[test]
fn who_renews_gets_a_reserve() {
    let (mut world, old) = scenario(2, 3).stock(100_000).sold(&[(1, 20_000), (1, 20_000)]).unwrap();
    let due = dying(&world, old);
    mine_to(&mut world, due);
    let push_of = |world: &mut World, clients: &[usize], push_msat: Option<u64>| {
        let mut create = world.create_command(clients, &offer()).unwrap();
        create.push_msat = push_msat;
        let created = world.command(LSP, Command::Create(create)).unwrap();
        let Answer::Created(new) = created else { panic!("{created:?}") };
        push(world, new)
    };
    assert_eq!(push_of(&mut world, &[1, 2, 3], None), RESERVE);
    assert_eq!(push_of(&mut world, &[2, 3], None), RESERVE);
    assert_eq!(push_of(&mut world, &[1, 2, 3], Some(7_000)), 7_000);
    // Nobody leaves anything for one that ends before the old one does.
    let mut create = world.create_command(&[1, 2], &offer()).unwrap();
    create.lifetime_blocks = factory(&world, LSP, old).current.terms.timeout_height - world.chain.height();
    create.dying_blocks = 10;
    let created = world.command(LSP, Command::Create(create)).unwrap();
    let Answer::Created(new) = created else { panic!("{created:?}") };
    assert_eq!(push(&world, new), Config::default().push_msat);
}
