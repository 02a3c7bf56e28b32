//! How factories end: distributions, reorganisations, races.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;

use std::cell::RefCell;
use std::rc::Rc;

use common::factory;
use factory_engine::tx::layout::{SessionId, SpendRole};
use factory_engine::tx::plan::Profile;
use factory_engine::types::Amount;
use factory_engine::wire::message::Message;
use factory_engine::{Command, State};
use factory_lab::chain::Reject;
use factory_lab::offer::Offer;
use factory_lab::scenario::Scenario;
use factory_lab::world::{CrashAt, Fate, LSP, World, losing};

/// S20: before its timeout consensus refuses a distribution, then every client gets all of its
/// capacity and its share of the stock, and the operator nothing. Nobody has to do anything for it.
#[test]
fn distribution_after_the_timeout() {
    for (seed, clients, profile) in [(1, 3, Profile::Static), (2, 5, Profile::Stateful)] {
        let (mut world, instance) = Scenario::new(seed).clients(clients).profile(profile).active().unwrap();
        world.pay(LSP, 1, 40_000_000).unwrap();
        let (timeout, funding, value, early) = {
            let factory = factory(&world, 1, instance);
            let root = SessionId { coin: 0, role: SpendRole::Distribution };
            (
                factory.current.terms.timeout_height,
                factory.funding().unwrap(),
                factory.current.layout.funding_value(),
                factory.signed_tx(root).unwrap(),
            )
        };
        let before = world.members[LSP].lightningd.balance(&world.chain);
        world.stop(LSP);
        world.mine_to(timeout - 1).unwrap();
        assert!(world.sent.is_empty());
        assert!(
            matches!(world.chain.submit(&early), Err(Reject::TooEarly { due, .. }) if due == timeout + 1)
        );
        world.mine(3).unwrap();
        for client in 1..=clients {
            let balance = world.members[client].lightningd.balance(&world.chain).to_sat();
            assert!(balance >= 100_000, "client {client} has {balance}");
            assert_eq!(world.state(client, instance), Some(State::Distributed));
        }
        assert_eq!(world.members[LSP].lightningd.balance(&world.chain), before);
        let account = world.account(funding, value).unwrap();
        assert_eq!(account.sum().unwrap(), value);
        assert!(!account.wallets.contains_key(&LSP));
    }
}

/// S19: whoever is in the middle of an exit at the timeout takes its distribution from where it is.
#[test]
fn an_exit_that_meets_the_timeout() {
    let (mut world, instance) = Scenario::new(3).clients(8).profile(Profile::Stateful).active().unwrap();
    world.stop(LSP);
    let timeout = factory(&world, 1, instance).current.terms.timeout_height;
    world.mine_to(timeout - 20).unwrap();
    // The kickoff confirms, its state would only be valid after the timeout.
    world.command(8, Command::Exit { instance }).unwrap();
    world.mine(40).unwrap();
    for client in 1..=8 {
        let balance = world.members[client].lightningd.balance(&world.chain).to_sat();
        assert!(balance >= 100_000, "client {client} has {balance}");
    }
}

/// S25: a reorganised funding freezes the channels until it is deep again.
#[test]
fn a_reorganised_funding() {
    let (mut world, instance) = Scenario::new(4).clients(2).active().unwrap();
    world.pay(LSP, 1, 1_000_000).unwrap();
    world.chain.reorg(3);
    world.chain.mine_without(|_| true);
    world.mine_quietly(0);
    world.chain.mine_without(|_| true);
    world.chain.mine_without(|_| true);
    world.chain.mine_without(|_| true);
    world.sync_all().unwrap();
    for at in 0..=2 {
        assert_eq!(world.state(at, instance), Some(State::Funding), "member {at}");
    }
    // S18.
    assert!(world.pay(LSP, 1, 1_000).is_err());
    world.mine(3).unwrap();
    assert_eq!(world.state(1, instance), Some(State::Active));
    world.pay(LSP, 1, 1_000_000).unwrap();
}

/// S25, S26: an exit whose transactions are reorganised away, or left out of blocks, goes on.
#[test]
fn a_reorganised_exit() {
    for depth in 1..=4 {
        let (mut world, instance) = Scenario::new(5).clients(8).active().unwrap();
        world.pay(LSP, 3, 20_000_000).unwrap();
        world.stop(LSP);
        world.command(3, Command::Exit { instance }).unwrap();
        world.mine(2).unwrap();
        world.reorg(depth).unwrap();
        if depth == 2 {
            world.restart(3).unwrap();
        }
        world.chain.mine_without(|_| true);
        world.sync_all().unwrap();
        world.mine(6).unwrap();
        assert_eq!(world.state(3, instance), Some(State::Exited), "depth {depth}");
        assert_eq!(world.members[3].lightningd.balance(&world.chain).to_sat(), 20_001);
    }
}

/// S25: a reorganisation while the node is down is seen at its start.
#[test]
fn a_reorganisation_while_down() {
    let (mut world, instance) = Scenario::new(6).clients(2).active().unwrap();
    world.stop(1);
    world.chain.reorg(3);
    for _ in 0..5 {
        world.chain.mine_without(|_| true);
    }
    world.restart(1).unwrap();
    assert_eq!(world.state(1, instance), Some(State::Funding));
}

/// Two members leave at once, over the same transactions.
#[test]
fn everybody_leaves_at_once() {
    let (mut world, instance) = Scenario::new(7).clients(8).active().unwrap();
    for client in 1..=8 {
        world.pay(LSP, client, 10_000_000).unwrap();
    }
    for at in 0..=8 {
        world.command(at, Command::Exit { instance }).unwrap();
    }
    world.mine(6).unwrap();
    for client in 1..=8 {
        assert_eq!(world.state(client, instance), Some(State::Exited));
        assert_eq!(world.members[client].lightningd.balance(&world.chain).to_sat(), 10_001);
    }
    assert_eq!(world.state(LSP, instance), Some(State::Exited));
    assert!(world.sent.iter().all(|sent| sent.result.is_ok()), "{:?}", world.sent);
}

/// S12, S13: the operator aborts after everything was signed and broadcasts the funding all the same:
/// the clients still hold their paths.
#[test]
fn an_operator_that_aborts_and_funds() {
    let (mut world, instance) =
        Scenario::new(8).clients(2).tamper(losing("channel_checked", 2)).begun().unwrap();
    world.settle().unwrap();
    assert_eq!(world.state(1, instance), Some(State::Funding));
    let funding = factory(&world, LSP, instance).current.reserved.clone().unwrap().tx.clone();
    let abort = factory_engine::wire::message::Abort {
        instance,
        attempt: 1,
        phase: 5,
        reason: "never mind".into(),
        blames: None,
        retry: 1,
    };
    let payload = Message::from(abort).encode();
    for client in [1, 2] {
        world.send_raw(LSP, client, payload.clone()).unwrap();
    }
    world.settle().unwrap();
    assert_eq!(world.state(1, instance), Some(State::Aborted));
    let World { members, chain, .. } = &mut world;
    members[LSP].lightningd.send_funding(chain, funding, &[]).unwrap();
    world.stop(LSP);
    world.mine(3).unwrap();
    let exit = world.exit(1, instance).unwrap();
    assert_eq!(exit.transactions.len(), 2);
}

/// S19: whoever has no channel that its leaf would pay would lock its money up there with the operator. It
/// is told to wait for its distribution, and gets that.
#[test]
fn no_exit_to_a_leaf_without_a_channel() {
    let (mut world, instance) = Scenario::new(6).clients(4).begun().unwrap();
    let signed = |world: &World| world.state(2, instance) == Some(State::Storing);
    world.run_until("client 2 has stored its transactions", signed).unwrap();
    let older = world.backup(2);
    assert!(factory(&world, 2, instance).current.checked.is_empty());
    assert_eq!(world.finish(instance).unwrap(), State::Active);
    world.stop(LSP);
    world.restore(2, older).unwrap();
    world.mine(1).unwrap();

    let refused = world.command(2, Command::Exit { instance }).unwrap_err().to_string();
    let timeout = factory(&world, 2, instance).current.terms.timeout_height;
    assert!(refused.contains("no channel") && refused.contains(&timeout.to_string()), "{refused}");
    assert!(factory(&world, 2, instance).current.exiting.is_empty());
    world.mine_to(timeout + 6).unwrap();
    let balance = world.members[2].lightningd.balance(&world.chain).to_sat();
    assert!(balance >= 100_000, "client 2 has {balance}");
}

/// S25: the operator knows the funding before a client does. In a block before its proposal a client would
/// never see it, so it looks before it signs.
#[test]
fn a_funding_that_confirms_before_its_proposal() {
    for spent in [true, false] {
        let mut world = Scenario::new(9).clients(2).world().unwrap();
        let held: Rc<RefCell<Option<Message>>> = Rc::default();
        let holding = held.clone();
        world.tamper(move |out| {
            if out.to != 2 || out.message.name() != "propose" {
                return Fate::Deliver;
            }
            *holding.borrow_mut() = Some(out.message.clone());
            Fate::Drop
        });
        let instance = world.begin(&Offer::default()).unwrap();
        world.settle().unwrap();
        let funding = factory(&world, LSP, instance).current.reserved.clone().unwrap().tx.clone();
        if spent {
            let World { members, chain, .. } = &mut world;
            members[LSP].lightningd.send_funding(chain, funding, &[]).unwrap();
        }
        world.mine(1).unwrap();
        let propose = held.borrow().clone().unwrap();
        world.send_raw(LSP, 2, propose.encode()).unwrap();
        world.settle().unwrap();
        let factory = factory(&world, 2, instance);
        assert_eq!(factory.signed_for().is_empty(), spent);
        if spent {
            assert!(
                world.failure(2, instance).unwrap().contains("spent"),
                "{:?}",
                world.failure(2, instance)
            );
        } else {
            world.heal();
            assert_eq!(world.finish(instance).unwrap(), State::Active);
        }
    }
}

/// S16, S19: the operator funds an attempt that was given up, beside the factory that is in use. Whoever
/// has money in that one must not lose sight of it.
#[test]
fn an_old_attempt_is_funded_beside_the_factory() {
    let (mut world, instance) = Scenario::new(10).clients(3).tamper(losing("stored", 3)).begun().unwrap();
    let signed = |world: &World| world.state(1, instance) == Some(State::Storing);
    world.run_until("attempt 1 is stored", signed).unwrap();
    let old = factory(&world, LSP, instance).current.reserved.clone().unwrap().tx.clone();
    // Its coins stay reserved when the operator dies here: the next attempt takes others.
    let script = world.members[LSP].lightningd.new_script();
    world.chain.mint(script, Amount::from_sat(5_000_000));
    world.crash_at(LSP, CrashAt::AfterEffects(1, 0));
    world.run_until("the operator gives attempt 1 up", |world| world.members[LSP].engine.is_none()).unwrap();
    world.restart(LSP).unwrap();
    assert_eq!(world.finish(instance).unwrap(), State::Active);
    let current = factory(&world, 1, instance).current.number;
    world.pay(LSP, 1, 20_000_000).unwrap();

    let World { members, chain, .. } = &mut world;
    let txid = members[LSP].lightningd.send_funding(chain, old, &[]).unwrap();
    world.mine(1).unwrap();
    assert!(world.chain.confirmed(txid).is_some());
    world.mine(3).unwrap();
    assert_eq!(factory(&world, 1, instance).current.number, current);
    assert_eq!(world.state(1, instance), Some(State::Active));
    world.stop(LSP);
    world.exit(1, instance).unwrap();
    assert!(world.members[1].lightningd.balance(&world.chain).to_sat() > 19_000);
}
