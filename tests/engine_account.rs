//! The account of a factory: whatever is on chain, its lines are the funding, to the satoshi. And the
//! end of everything: lightningd is done, the factory is closed.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;

use common::{factory, listed};
use factory_engine::tx::plan::Profile;
use factory_engine::types::{Amount, InstanceId};
use factory_engine::{
    AccountProblem, Command, Input, Purpose, Standing, State, sightings, standing, statement,
};
use factory_lab::scenario::Scenario;
use factory_lab::world::{LSP, World};

fn world(seed: u64, clients: usize, profile: Profile, stock: u64) -> (World, InstanceId) {
    let scenario = Scenario::new(seed).clients(clients).profile(profile).stock(stock);
    scenario.short_delays().lifetime(110, 40).unchecked().active().unwrap()
}

/// Every member's account adds up, and each line of it is an output of the chain.
fn accounts_hold(world: &World, instance: InstanceId) {
    for at in 0..world.members.len() {
        if world.members[at].engine.is_none() {
            continue;
        }
        let factory = factory(world, at, instance);
        let statement = statement(factory).unwrap();
        assert_eq!(statement.problem, None, "member {at}");
        assert_eq!(statement.sum(), Some(factory.current.layout.funding_value()), "member {at}");
        for line in &statement.lines {
            let (_, tx) = world.chain.confirmed(line.txid).unwrap();
            if let Some(vout) = line.vout {
                assert_eq!(tx.output[vout as usize].value, line.amount, "member {at}: {line:?}");
            }
        }
    }
}

/// Over shapes, with and without stock, from partial exits to the end, with the operator and without:
/// after every block.
#[test]
fn accounts_add_up_whatever_is_on_chain() {
    let shapes = [(Profile::Static, 1), (Profile::Static, 9), (Profile::Stateful, 6), (Profile::Flat, 7)];
    let mut seed = 0;
    for (profile, clients) in shapes {
        for (stock, operator_stays) in [(0, true), (20_000, true), (20_000, false)] {
            seed += 1;
            let (mut world, instance) = world(seed, clients, profile, stock);
            accounts_hold(&world, instance);
            if !operator_stays {
                world.stop(LSP);
            }
            world.command(clients, Command::Exit { instance }).unwrap();
            let timeout = factory(&world, 1, instance).current.terms.timeout_height;
            while world.chain.height() < timeout + 6 {
                world.mine(1).unwrap();
                accounts_hold(&world, instance);
            }
            let at = if operator_stays { LSP } else { 1 };
            let last = statement(factory(&world, at, instance)).unwrap();
            let channels = last.total(|purpose| matches!(purpose, Purpose::Channel(_))).unwrap();
            let paid = last.total(|purpose| matches!(purpose, Purpose::Payout(_))).unwrap();
            if operator_stays {
                assert!(last.is_final(), "{last:?}");
                assert_eq!(channels, Amount::from_sat(100_000) * clients as u64);
                assert_eq!(paid, Amount::ZERO);
                let taken = last.total(|purpose| matches!(purpose, Purpose::Stock(_))).unwrap();
                assert_eq!(taken > Amount::ZERO, stock > 0);
            } else if clients > 4 && profile != Profile::Flat {
                assert!(paid > Amount::ZERO, "{last:?}");
            }
        }
    }
}

/// What doesn't add up is told.
#[test]
fn an_account_that_does_not_add_up_says_so() {
    let (mut world, instance) = world(30, 2, Profile::Static, 20_000);
    world.command(LSP, Command::Evict { instance, clients: vec![] }).unwrap();
    world.mine(12).unwrap();
    let mut wrong = factory(&world, LSP, instance).clone();
    assert_eq!(statement(&wrong).unwrap().problem, None);
    // A transaction that would pay more than the stock that it spends.
    for pays in wrong.pays.values_mut() {
        *pays = Amount::from_sat(20_001);
    }
    assert!(matches!(statement(&wrong).unwrap().problem, Some(AccountProblem::PaysMore(_))));
}

/// S24: what is on chain has a name, who can have published it, and a meaning for each member.
#[test]
fn transactions_on_chain_are_named() {
    let (mut world, instance) = world(31, 9, Profile::Static, 0);
    let height = |world: &World| world.chain.height();
    assert_eq!(standing(factory(&world, 1, instance), height(&world)), Some(Standing::Safe));
    world.command(1, Command::Exit { instance }).unwrap();
    world.mine(1).unwrap();
    let (mine, other) = (factory(&world, 1, instance), factory(&world, 9, instance));
    assert_eq!(standing(mine, height(&world)), Some(Standing::Leaving));
    assert_eq!(standing(other, height(&world)), Some(Standing::PartlyExited));
    assert_eq!(other.state(height(&world)), State::Active);
    let names = |factory| -> Vec<(String, bool, String)> {
        let all = sightings(factory).into_iter();
        all.map(|seen| (seen.name.clone(), seen.ours, seen.holders())).collect()
    };
    let everybody = "the operator and clients 0 to 8".to_owned();
    let funding = ("the funding transaction".to_owned(), false, "the operator alone".to_owned());
    assert_eq!(names(mine), [funding.clone(), ("static transaction 0".to_owned(), true, everybody.clone())]);
    assert_eq!(names(other), [funding, ("static transaction 0".to_owned(), false, everybody)]);
    world.mine(3).unwrap();
    assert_eq!(standing(factory(&world, 1, instance), height(&world)), Some(Standing::Out));
}

/// The hand-over: once lightningd has done with every channel, and the stock is home, that was all.
#[test]
fn closed_once_lightningd_is_done() {
    let (mut world, instance) = world(32, 2, Profile::Static, 20_000);
    world.command(LSP, Command::Exit { instance }).unwrap();
    world.mine(4).unwrap();
    for at in [LSP, 1, 2] {
        let list = listed(&world, at);
        world.feed(at, Input::Channels { list, whole: true }).unwrap();
        assert_eq!(world.state(at, instance), Some(State::Exited));
    }
    for at in [LSP, 1, 2] {
        world.feed(at, Input::Channels { list: vec![], whole: true }).unwrap();
    }
    assert_eq!(world.state(1, instance), Some(State::Closed));
    assert_eq!(world.state(LSP, instance), Some(State::Exited), "its stock is still there");
    world.mine(8).unwrap();
    assert_eq!(world.state(LSP, instance), Some(State::Closed));
    world.restart(LSP).unwrap();
    assert_eq!(world.state(LSP, instance), Some(State::Closed));
}
