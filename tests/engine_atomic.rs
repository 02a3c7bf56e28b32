//! A crash between any two calls of the datastore, in each kind of step that concerns several factories:
//! after a restart all of them have taken it, or none, and whatever it was about comes to its end.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;

use cln_factory::lab::world::{CrashAt, LSP, World};
use cln_factory::protocol::{Command, State};
use cln_factory::store::fake::Fault;
use cln_factory::tx::plan::Profile;
use cln_factory::types::InstanceId;

/// Two factories of an operator and a client.
fn two(seed: u64) -> (World, [InstanceId; 2]) {
    let mut world = World::new(seed, 1).unwrap();
    let factories = [(); 2].map(|()| world.make_factory(Profile::Static).unwrap());
    (world, factories)
}

/// Has `begin` lead up to a step of the member `at` that concerns both factories and `step` bring it, with a
/// crash at each call; `ended` looks at the end. Gives the number of calls that there are.
fn crash_everywhere(
    at: usize,
    begin: impl Fn(&mut World, [InstanceId; 2]),
    step: impl Fn(&mut World),
    ended: impl Fn(&World, InstanceId),
) -> u32 {
    let (mut whole, mut nothing) = (0, 0);
    for call in 0.. {
        for takes_effect in [false, true] {
            let (mut world, factories) = two(u64::from(call));
            begin(&mut world, factories);
            let records = |world: &World| factories.map(|one| world.members[at].store.records(one).len());
            let before = records(&world);
            world.crash_at(at, CrashAt::WithinStore(Fault { call, takes_effect, for_good: true }));
            step(&mut world);
            let crashed = world.members[at].engine.is_none();
            if crashed {
                let new = [0, 1].map(|one: usize| records(&world)[one] - before[one]);
                assert!(new == [0, 0] || new == [1, 1], "half a step: {new:?}");
                whole += u32::from(new == [1, 1]);
                nothing += u32::from(new == [0, 0]);
                world.restart(at).unwrap();
                world.settle().unwrap();
            }
            world.mine(1).unwrap();
            factories.iter().for_each(|one| ended(&world, *one));
            assert!(world.judge.violations.is_empty());
            if !crashed {
                // The journal, two records, and the end of the journal.
                assert!(call == 4 && nothing == 1 && whole == 7, "{call} calls: {whole}, {nothing}");
                return call;
            }
        }
    }
    unreachable!("there is a last call")
}

/// S10, S12, S14: a block in which both factories' exits confirm, on either side.
#[test]
fn a_block() {
    for at in [LSP, 1] {
        crash_everywhere(
            at,
            |world, factories| {
                for instance in factories {
                    world.command(at, Command::Exit { instance }).unwrap();
                }
            },
            |world| world.mine(1).unwrap(),
            |world, instance| assert_eq!(world.state(at, instance), Some(State::Exited)),
        );
    }
}

/// S25: a reorganisation that takes both fundings' confirmations away.
#[test]
fn a_reorganisation() {
    for at in [LSP, 1] {
        crash_everywhere(
            at,
            |world, factories| {
                for instance in factories {
                    world.command(at, Command::Exit { instance }).unwrap();
                }
                world.mine(1).unwrap();
            },
            |world| world.reorg(1).unwrap(),
            |world, instance| assert_eq!(world.state(at, instance), Some(State::Exited)),
        );
    }
}
