//! What tests of a close need.

use bitcoin::Transaction;
use factory_engine::types::{Amount, InstanceId};
use factory_engine::{Answer, Command, Input, Refusal, State, Unusable};
use factory_lab::scenario::Scenario;
use factory_lab::world::{Fed, LSP, World};

use super::factory;

/// Everybody has something else, to the msat.
pub fn paid(seed: u64, clients: usize) -> (World, InstanceId) {
    let scenario = Scenario::new(seed).clients(clients).short_delays().lifetime(600, 60);
    let (mut world, instance) = scenario.active().unwrap();
    for client in 1..=clients {
        world.pay(LSP, client, 5_000_000 + 1_234_567 * client as u64).unwrap();
    }
    (world, instance)
}

pub fn ask(world: &mut World, at: usize, command: Command) -> Result<Answer, Refusal> {
    match world.feed(at, Input::Command(command)).unwrap() {
        Fed::Done(answer) => answer,
        other => panic!("member {at}: {other:?}"),
    }
}

pub fn close(world: &mut World, instance: InstanceId) -> Result<(), Refusal> {
    let answer = ask(world, LSP, Command::Close { instance });
    world.settle().unwrap();
    answer.map(|_| ())
}

pub fn in_order(world: &mut World) {
    world.judge_chain();
    assert_eq!(world.judge.violations, Vec::<String>::new());
}

/// What a client has, rounded up.
pub fn has(world: &World, client: usize) -> Amount {
    Amount::from_sat(world.purse_msat(client).div_ceil(1000))
}

/// What a transaction pays a member's wallet.
pub fn pays(world: &World, at: usize, tx: &Transaction) -> Amount {
    tx.output
        .iter()
        .filter(|output| world.members[at].lightningd.owns(output))
        .map(|output| output.value)
        .sum()
}

/// The close as a member has it, finished or not.
pub fn closing(world: &World, at: usize, instance: InstanceId) -> Option<factory_engine::Closing> {
    factory(world, at, instance).current.close.as_deref().cloned()
}

pub fn has_signed(world: &World, at: usize, instance: InstanceId) -> bool {
    closing(world, at, instance).is_some()
}

/// Whether a member lets HTLCs onto a client's channel.
pub fn usable(world: &World, at: usize, instance: InstanceId, client: u32) -> Result<(), Unusable> {
    let id = factory(world, at, instance).current.channels[&client];
    let policies = world.members[at].engine.as_ref().unwrap().channel_policies();
    policies.into_iter().find(|(known, _)| *known == id).map_or(Ok(()), |(_, policy)| policy.usable)
}

pub fn logged(world: &World, at: usize, text: &str) -> bool {
    world.members[at].log.iter().any(|(_, line)| line.contains(text))
}

/// All is as if nobody had asked.
pub fn untouched(world: &mut World, instance: InstanceId) {
    for at in 0..world.members.len() {
        assert!(!has_signed(world, at, instance), "member {at}");
        assert_eq!(world.state(at, instance), Some(State::Active), "member {at}");
        let clients = if at == LSP { 0..world.members.len() as u32 - 1 } else { at as u32 - 1..at as u32 };
        for client in clients {
            assert_eq!(usable(world, at, instance, client), Ok(()), "member {at}");
        }
    }
    in_order(world);
}
