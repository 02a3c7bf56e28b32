//! What several test files need.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]
#![allow(dead_code)] // Each test file uses another part of it.

use factory_engine::record::factory::Factory;
use factory_engine::types::{ChannelId, InstanceId};
use factory_engine::{Direction, PendingHtlc, Sold};
use factory_lab::world::{LSP, World};

pub fn factory(world: &World, at: usize, instance: InstanceId) -> &Factory {
    world.factory(at, instance).unwrap()
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
