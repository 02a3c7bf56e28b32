//! What several test files need.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]
#![allow(dead_code)] // Each test file uses another part of it.

use factory_engine::tx::plan::Profile;
use factory_engine::types::{Amount, InstanceId};
use factory_engine::{Answer, Command, Factory, Input, State};
use factory_lab::world::{Fed, LSP, World};

/// `factory-create` over all clients, nothing delivered yet. Nothing if the operator crashed on it.
pub fn begin(world: &mut World, profile: Profile) -> Option<InstanceId> {
    let clients: Vec<usize> = (1..world.members.len()).collect();
    let stock = Amount::from_sat(20_000);
    let create = world.create_command(&clients, profile, Amount::from_sat(100_000), stock).unwrap();
    match world.feed(LSP, Input::Command(Command::Create(create))).unwrap() {
        Fed::Done(answer) => match answer.unwrap() {
            Answer::Created(instance) => Some(instance),
            other => panic!("{other:?}"),
        },
        _ => None,
    }
}

pub fn factory(world: &World, at: usize, instance: InstanceId) -> &Factory {
    world.members[at].engine.as_ref().unwrap().factory(instance).unwrap()
}

/// Members that the operator left out, by number.
pub fn left_out(world: &World, instance: InstanceId) -> Vec<usize> {
    factory(world, LSP, instance).left_out.iter().map(|(node, _)| world.member_of(*node).unwrap()).collect()
}

/// Runs to the end of creation, and to usable channels if there are any. Whoever is in the factory is
/// active then; whoever is not has nothing left that waits.
pub fn finish(world: &mut World, instance: InstanceId) -> State {
    world
        .run_until("creation has ended", |world| !world.state(LSP, instance).is_some_and(State::is_creating))
        .unwrap();
    world.settle().unwrap();
    world.mine(4).unwrap();
    world.run_out().unwrap();
    let ended = world.state(LSP, instance).unwrap_or(State::Aborted);
    let inside: Vec<usize> = match world.members[LSP].engine.as_ref().unwrap().factory(instance) {
        Some(factory) if ended == State::Active => {
            factory.clients.iter().map(|node| world.member_of(*node).unwrap()).collect()
        }
        _ => vec![],
    };
    for at in 1..world.members.len() {
        let state = world.state(at, instance);
        if inside.contains(&at) {
            assert_eq!(state, Some(State::Active), "member {at} of the factory");
        } else if world.members[at].engine.is_some() {
            let over = matches!(state, None | Some(State::Aborted | State::Declined | State::Invited));
            assert!(over, "member {at}, not in the factory, is still {state:?}");
        }
        assert!(world.members[at].lightningd.channels.len() <= 5);
    }
    if ended != State::Active {
        assert_eq!(world.members[LSP].lightningd.reserved(), 0, "coins stay reserved");
    }
    assert!(world.judge.violations.is_empty());
    ended
}
