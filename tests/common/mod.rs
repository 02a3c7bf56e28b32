//! What several test files need.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]
#![allow(dead_code)] // Each test file uses another part of it.

pub mod closes;
pub mod towers;

use factory_engine::record::event::Restored;
use factory_engine::record::factory::Factory;
use factory_engine::types::{ChannelId, InstanceId};
use factory_engine::wire::message::{Invite, Message};
use factory_engine::{ChannelNow, Direction, PendingHtlc, Sold, State};
use factory_lab::scenario::Scenario;
use factory_lab::world::{Fate, LSP, World};

pub fn factory(world: &World, at: usize, instance: InstanceId) -> &Factory {
    world.factory(at, instance).unwrap()
}

/// A member finds out that it came back from an older copy, and is there again.
pub fn came_from_a_backup(world: &mut World, at: usize, instance: InstanceId) {
    world.check_recovery = false;
    world.stop(at);
    let restored = Restored { reason: "an older copy".into() };
    world.members[at].store.append(&[(instance, vec![restored.into()])]).unwrap();
    world.start(at).unwrap();
    world.reconnect().unwrap();
    world.settle().unwrap();
}

/// Every channel that a member's lightningd has, as the plugin reads them.
pub fn listed(world: &World, at: usize) -> Vec<ChannelNow> {
    let channels = world.members[at].lightningd.channels.iter();
    channels.map(|(id, channel)| ChannelNow { channel_id: *id, ended: channel.ended(&world.chain) }).collect()
}

/// Members that the operator left out, by number.
pub fn left_out(world: &World, instance: InstanceId) -> Vec<usize> {
    factory(world, LSP, instance).left_out.iter().map(|(node, _)| world.member_of(*node).unwrap()).collect()
}

/// The sales of the first sub-factory (clients 1 and 2), as a member knows them.
pub fn sales(world: &World, at: usize, instance: InstanceId) -> Vec<Sold> {
    let factory = factory(world, at, instance);
    factory.current.sales.of(factory.current.layout.stock_coin(0).unwrap()).to_vec()
}

/// Client 1's money in its first channel, without what a bought one was pushed, msat.
pub fn purse(world: &World, instance: InstanceId) -> u64 {
    let first = factory(world, 1, instance).current.channels[&0];
    world.members[1].lightningd.channels[&first].balances.fundee_msat
}

/// A pending HTLC of 100,000 sat: as lightningd shows it, with a payment_hash of its own.
pub fn htlc(channel_id: ChannelId, direction: Direction, cltv_expiry: u32) -> PendingHtlc {
    PendingHtlc { channel_id, direction, amount_msat: 100_000_000, cltv_expiry, payment_hash: channel_id.0 }
}

/// Client 2 is sent an invitation with this change: it declines and stores nothing, and the others go on.
pub fn declines(seed: u64, clients: usize, what: &str, change: fn(&mut Invite)) {
    let (mut world, instance) = Scenario::new(seed)
        .clients(clients)
        .tamper(move |out| match &out.message {
            Message::Invite(invite) if out.to == 2 => Fate::changed(invite, change),
            _ => Fate::Deliver,
        })
        .begun()
        .unwrap();
    assert_eq!(world.finish(instance).unwrap(), State::Active, "{what}");
    assert_eq!(left_out(&world, instance), [2], "{what}");
    assert_eq!(world.members[2].store.instances().count(), 0, "{what}: something was stored");
}
