//! A crash between any two calls of the datastore, in each kind of step that concerns several factories:
//! after a restart all of them have taken it, or none, and whatever it was about comes to its end.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;

use common::{factory, htlc};
use factory_engine::types::InstanceId;
use factory_engine::{Command, Direction, Input, State};
use factory_lab::offer::Offer;
use factory_lab::scenario::Scenario;
use factory_lab::world::{CrashAt, LSP, World};
use factory_runtime::store::fake::Fault;

type Two = [InstanceId; 2];

/// Two factories of an operator and a client.
fn active(world: &mut World) -> Two {
    [(); 2].map(|()| world.make_factory(&Offer::default()).unwrap())
}

/// Two whose exits are in the mempool.
fn leaving(world: &mut World, at: usize) -> Two {
    let factories = active(world);
    for instance in factories {
        world.command(at, Command::Exit { instance }).unwrap();
    }
    factories
}

/// Two whose exits are in the last block.
fn left(world: &mut World, at: usize) -> Two {
    let factories = leaving(world, at);
    world.mine(1).unwrap();
    factories
}

/// Has `begin` lead up to a step of the member `at` that concerns both factories and `step` bring it, with a
/// crash at each call of the datastore. After a restart `step` comes again; `ended` looks at the end.
fn crash_everywhere(
    at: usize,
    begin: impl Fn(&mut World) -> Two,
    step: impl Fn(&mut World, Two),
    ended: impl Fn(&World, InstanceId) -> bool,
) {
    let (mut whole, mut nothing) = (0, 0);
    for call in 0.. {
        let mut crashed = false;
        for takes_effect in [false, true] {
            let mut world = Scenario::new(u64::from(call)).clients(1).world().unwrap();
            let factories = begin(&mut world);
            let records = |world: &World| factories.map(|one| world.members[at].store.records(one).len());
            let before = records(&world);
            world.crash_at(at, CrashAt::WithinStore(Fault { call, takes_effect, for_good: true }));
            step(&mut world, factories);
            crashed = world.members[at].engine.is_none();
            if crashed {
                let new = [0, 1].map(|one: usize| records(&world)[one] - before[one]);
                assert!(new == [0, 0] || new == [1, 1], "half a step: {new:?}");
                whole += u32::from(new == [1, 1]);
                nothing += u32::from(new == [0, 0]);
                world.restart(at).unwrap();
                world.settle().unwrap();
                step(&mut world, factories);
            }
            world.settle().unwrap();
            world.mine(1).unwrap();
            for instance in factories {
                assert!(ended(&world, instance), "{:?} after call {call}", world.state(at, instance));
            }
            assert!(world.judge.violations.is_empty());
        }
        if !crashed {
            // The journal, two records, and the end of the journal.
            assert!(call == 4 && nothing == 1 && whole == 7, "{call} calls: {whole}, {nothing}");
            return;
        }
    }
}

fn is(at: usize, state: State) -> impl Fn(&World, InstanceId) -> bool {
    move |world, instance| world.state(at, instance) == Some(state)
}

/// S10, S12, S14: a block in which both factories' exits confirm, on either side.
#[test]
fn a_block() {
    for at in [LSP, 1] {
        let step = |world: &mut World, _| world.mine(1).unwrap();
        crash_everywhere(at, |world| leaving(world, at), step, is(at, State::Exited));
    }
}

/// S25: a reorganisation that takes both exits' confirmations away.
#[test]
fn a_reorganisation() {
    for at in [LSP, 1] {
        let step = |world: &mut World, _| world.reorg(1).unwrap();
        crash_everywhere(at, |world| left(world, at), step, is(at, State::Exited));
    }
}

/// S16: HTLCs of both factories that run out.
#[test]
fn htlcs() {
    for at in [LSP, 1] {
        let step = |world: &mut World, factories: Two| {
            let cltv_expiry = world.chain.height() + 1;
            let of =
                |one| htlc(factory(world, at, one).current.channels[&0], Direction::Fulfilled, cltv_expiry);
            let htlcs = factories.map(of).to_vec();
            world.feed(at, Input::Htlcs(htlcs)).unwrap();
        };
        crash_everywhere(at, active, step, is(at, State::Exited));
    }
}

/// lightningd is done with a channel of each.
#[test]
fn channels_that_are_gone() {
    for at in [LSP, 1] {
        let step = |world: &mut World, _| {
            world.feed(at, Input::Channels(vec![])).unwrap();
        };
        let resolved = |world: &World, one| factory(world, at, one).current.resolved.contains(&0);
        crash_everywhere(at, |world| left(world, at), step, resolved);
    }
}

/// S12: a start of an operator that was killed while it created both.
#[test]
fn a_start() {
    let begin = |world: &mut World| {
        let factories = [(); 2].map(|()| world.begin(&Offer::default()).unwrap());
        world.stop(LSP);
        factories
    };
    let step = |world: &mut World, _| {
        if world.members[LSP].engine.is_none() {
            world.start(LSP).unwrap();
        }
    };
    crash_everywhere(LSP, begin, step, |world, one| world.state(LSP, one).is_some());
}
