//! Crashes, restarts and failing stores, at every place where something becomes durable.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;

use common::{factory, left_out};
use factory_engine::tx::plan::Profile;
use factory_engine::{Command, Input, State};
use factory_lab::offer::Offer;
use factory_lab::scenario::Scenario;
use factory_lab::world::{CrashAt, Fate, Fed, LSP, World, losing};

/// Creates a factory of two clients while `at` crashes as planned; false if it came to no crash.
fn crash(seed: u64, at: usize, plan: CrashAt) -> bool {
    let mut world = Scenario::new(seed).clients(2).world().unwrap();
    world.crash_at(at, plan);
    let Some(instance) = world.try_begin(&Offer::default()).unwrap() else {
        // The operator crashed on the command itself: nothing or a first record is stored.
        world.restart(LSP).unwrap();
        world.settle().unwrap();
        let instances: Vec<_> = world.members[LSP].store.instances().collect();
        for instance in instances {
            assert_eq!(world.finish(instance).unwrap(), State::Active, "{plan:?} of {at}");
        }
        return true;
    };
    let ended = |world: &World| {
        world.members[at].engine.is_none() || !world.state(LSP, instance).is_some_and(State::is_creating)
    };
    world.run_until("a crash or the end", ended).unwrap();
    if world.members[at].engine.is_some() {
        world.settle().unwrap();
    }
    if world.members[at].engine.is_some() {
        world.mine(4).unwrap();
    }
    let crashed = world.members[at].engine.is_none();
    if crashed {
        world.restart(at).unwrap();
        world.settle().unwrap();
    }
    // Nobody is to blame for a crash that lasts a moment: the factory comes to be, with everybody.
    assert_eq!(world.finish(instance).unwrap(), State::Active, "{plan:?} of {at}");
    assert_eq!(left_out(&world, instance), Vec::<usize>::new(), "{plan:?} of {at}");
    crashed
}

/// Coins that were reserved for an attempt are given back also by an operator that was restarted in it,
/// before there was anything to sign.
#[test]
fn a_restart_gives_reserved_coins_back() {
    let (mut world, instance) = Scenario::new(90)
        .clients(2)
        .tamper(|out| {
            let held = if out.message.attempt() == 1 { "expecting" } else { "join" };
            if out.message.name() == held { Fate::Drop } else { Fate::Deliver }
        })
        .begun()
        .unwrap();
    world.settle().unwrap();
    assert!(world.members[LSP].lightningd.reserved() > 0);
    world.stop(LSP);
    world.restart(LSP).unwrap();
    // Nobody joins the second attempt: it ends, and `finish` looks at the coins.
    assert_eq!(world.finish(instance).unwrap(), State::Aborted);
}

/// S2, S8, S10, S12: whatever was stored is the truth after a restart, whatever was not never left.
/// The judge compares every sighash that a member ever stored, and every nonce that it used.
#[test]
fn the_operator_crashes_around_every_record() {
    for step in 1.. {
        if !crash(u64::from(step), LSP, CrashAt::BeforeStore(step)) {
            assert!(step > 9, "only {step} steps");
            break;
        }
        assert!(crash(50 + u64::from(step), LSP, CrashAt::AfterStore(step)));
    }
}

#[test]
fn the_operator_crashes_between_effects() {
    for step in 1..=16 {
        for effects in 1..=3 {
            crash(u64::from(step), LSP, CrashAt::AfterEffects(step, effects));
        }
    }
}

#[test]
fn a_client_crashes_around_every_record() {
    for step in 1.. {
        if !crash(u64::from(step), 1, CrashAt::BeforeStore(step)) {
            assert!(step > 4, "only {step} steps");
            break;
        }
        assert!(crash(50 + u64::from(step), 1, CrashAt::AfterStore(step)));
        crash(90 + u64::from(step), 1, CrashAt::AfterEffects(step, 1));
    }
}

/// S14: where the store fails nothing is sent and memory is as it was.
#[test]
fn a_store_that_fails_changes_nothing() {
    for at in [LSP, 1] {
        let (mut world, instance) = Scenario::new(3).clients(2).begun().unwrap();
        let mut failed = 0;
        let mut done = false;
        for _ in 0..100_000 {
            let before = format!(
                "{:?}",
                world.members[at].engine.as_ref().unwrap().factory(instance).map(|f| (
                    f.current.number,
                    f.state(0),
                    f.current.signatures.len()
                ))
            );
            let ledger = world.members[at].engine.as_ref().unwrap().ledger().clone();
            let (appends, ceremonies) =
                (world.members[at].store.appends, world.members[at].engine.as_ref().unwrap().ceremonies());
            world.members[at].store.failures = 1;
            let moved = world.step().unwrap();
            if world.members[at].store.failures == 0 {
                failed += 1;
                let engine = world.members[at].engine.as_ref().unwrap();
                let after = format!(
                    "{:?}",
                    engine.factory(instance).map(|f| (
                        f.current.number,
                        f.state(0),
                        f.current.signatures.len()
                    ))
                );
                assert_eq!(before, after);
                assert_eq!(engine.ledger(), &ledger);
                assert_eq!(engine.ceremonies(), ceremonies);
                assert_eq!(world.members[at].store.appends, appends);
            }
            world.members[at].store.failures = 0;
            if !moved && !world.advance().unwrap() {
                done = true;
                break;
            }
        }
        assert!(done && failed > 0, "member {at}: {failed} failures");
        // S11, S30: an operator that can store nothing funds nothing; a client that can't is left out.
        if at == LSP {
            assert!(world.chain.mempool().is_empty());
        } else {
            assert_eq!(left_out(&world, instance), [at]);
            assert_eq!(world.state(2, instance), Some(State::Funding));
        }
    }
}

/// S14 for a command: the error is told, and the next try works.
#[test]
fn factory_create_on_a_failing_store() {
    let mut world = Scenario::new(4).clients(2).world().unwrap();
    world.members[LSP].store.failures = 1;
    assert_eq!(world.try_begin(&Offer::default()), Ok(None));
    world.settle().unwrap();
    assert_eq!(world.members[LSP].engine.as_ref().unwrap().factories().count(), 0);
    assert_eq!(world.members[1].engine.as_ref().unwrap().factories().count(), 0);
    world.make_factory(&Offer::default()).unwrap();
}

/// S12, S25: a restart in every later state finds the factory as it was.
#[test]
fn restarts_of_a_living_factory() {
    let (mut world, instance) = Scenario::new(5).clients(2).profile(Profile::Stateful).active().unwrap();
    for at in [LSP, 1, 2, LSP] {
        world.restart(at).unwrap();
        world.settle().unwrap();
        assert_eq!(world.state(at, instance), Some(State::Active));
    }
    world.pay(LSP, 1, 5_000_000).unwrap();
    world.pay(1, 2, 1_000_000).unwrap();
    world.command(1, Command::Exit { instance }).unwrap();
    for _ in 0..3 {
        world.mine(1).unwrap();
        world.restart(1).unwrap();
        world.settle().unwrap();
    }
    world.mine(1500).unwrap();
    assert_eq!(world.state(1, instance), Some(State::Exited));
    assert!(world.members[1].lightningd.balance(&world.chain).to_sat() > 3_000);
}

/// S26: a crash between storing that the leaf is on chain and closing the channel on it. No block says so
/// again: the next start closes it.
#[test]
fn a_crash_before_an_exit_closes_its_channel() {
    for at in [LSP, 1] {
        let (mut world, instance) = Scenario::new(6).clients(2).active().unwrap();
        world.command(at, Command::Exit { instance }).unwrap();
        world.crash_at(at, CrashAt::AfterStore(1));
        world.mine(1).unwrap();
        assert!(world.members[at].engine.is_none(), "the block was stored");
        let closing = |world: &World| world.members[at].lightningd.channels.values().all(|one| one.closing);
        assert!(!closing(&world));
        world.restart(at).unwrap();
        world.settle().unwrap();
        assert_eq!(world.state(at, instance), Some(State::Exited));
        assert!(closing(&world));
    }
}

/// S12: without a signature an aborted factory is forgotten at the next start; with one it stays until
/// its funding's input is buried in another transaction.
#[test]
fn what_is_forgotten_and_when() {
    // Aborted before anything was signed: the second client never joins, the first has joined.
    let scenario = Scenario::new(6).clients(2).config_of(LSP, |config| config.max_attempts = 1);
    let mut world = scenario.world().unwrap();
    world.tamper(losing("join", 2));
    let instance = world.begin(&Offer::default()).unwrap();
    assert_eq!(world.finish(instance).unwrap(), State::Aborted);
    for at in [LSP, 1, 2] {
        world.restart(at).unwrap();
        world.settle().unwrap();
        assert_eq!(world.state(at, instance), None, "member {at} remembers what never mattered");
    }

    // Aborted after the first client has signed.
    world.tamper(losing("partial_signatures", 2));
    let instance = world.begin(&Offer::default()).unwrap();
    assert_eq!(world.finish(instance).unwrap(), State::Aborted);
    world.heal();
    world.restart(LSP).unwrap();
    world.restart(1).unwrap();
    world.mine(150).unwrap();
    assert_eq!(world.state(LSP, instance), Some(State::Aborted), "its funding could still confirm");
    assert_eq!(world.state(1, instance), Some(State::Aborted), "its funding could still confirm");
    let (_, inputs) = factory(&world, 1, instance).signed_for()[0].clone();

    // The operator spends the input otherwise.
    world.spend(LSP, inputs[0]).unwrap();
    world.mine(99).unwrap();
    assert_eq!(world.state(1, instance), Some(State::Aborted), "not buried yet");
    world.mine(1).unwrap();
    assert_eq!(world.state(LSP, instance), None);
    // The client accepted the operator's zero-conf open: only a look at lightningd's channels, at its
    // next start, shows that none came of it (S18).
    assert_eq!(world.state(1, instance), Some(State::Aborted));
    world.restart(1).unwrap();
    world.settle().unwrap();
    assert_eq!(world.state(1, instance), None);
}

/// S8: a proposal that comes again after a restart, with anything changed, signs nothing.
#[test]
fn a_replayed_proposal_after_a_restart() {
    use std::cell::RefCell;
    use std::rc::Rc;
    let mut world = Scenario::new(8).clients(2).world().unwrap();
    let kept: Rc<RefCell<Vec<Vec<u8>>>> = Rc::default();
    let keep = kept.clone();
    world.tamper(move |out| {
        if out.to == 1 {
            keep.borrow_mut().push(out.message.encode());
        }
        Fate::Deliver
    });
    let instance = world.make_factory(&Offer::default()).unwrap();
    world.heal();
    world.restart(1).unwrap();
    world.settle().unwrap();
    let records = world.members[1].store.records(instance).len();
    let ledger = world.members[1].engine.as_ref().unwrap().ledger().clone();
    let peer = world.members[LSP].id;
    for payload in kept.borrow().iter() {
        let fed = world.feed(1, Input::Message { peer, payload: payload.clone() }).unwrap();
        assert!(matches!(fed, Fed::Done(_)));
    }
    world.settle().unwrap();
    assert_eq!(world.members[1].store.records(instance).len(), records);
    assert_eq!(world.members[1].engine.as_ref().unwrap().ledger(), &ledger);
    assert_eq!(world.state(1, instance), Some(State::Active));
}
