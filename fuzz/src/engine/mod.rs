//! The engine itself: an operator and two clients, driven by arbitrary inputs in arbitrary order.
//!
//! - [`node`] one engine and its store, and what must hold after every step
//! - [`world`] what is under way between them, and the chain
//! - [`ops`] what one byte does
//! - [`twist`] messages that are nearly right

pub mod node;
pub mod ops;
pub mod twist;
pub mod world;

use std::sync::OnceLock;

use factory_engine::tx::plan::Profile;
use world::{Snapshot, World};

use crate::bytes::Bytes;

/// Most decisions of one input.
const MOST_OPS: usize = 120;

/// The first byte chooses a world: nothing done yet, a factory that has just been signed, or one that
/// is active. What follows is what happens.
pub fn engine(data: &[u8]) {
    static SNAPSHOTS: OnceLock<Vec<Snapshot>> = OnceLock::new();
    let snapshots = SNAPSHOTS.get_or_init(snapshots);
    let mut input = Bytes::new(data);
    let start = usize::from(input.byte());
    let mut world = match start.checked_rem(snapshots.len() + 2) {
        Some(at) if at < snapshots.len() => World::from(&snapshots[at]),
        _ => World::new(),
    };
    for _ in 0..MOST_OPS {
        if input.is_empty() {
            break;
        }
        ops::next(&mut world, &mut input);
    }
    world.judge_stores();
}

/// Factories of each kind, signed and active.
pub fn snapshots() -> Vec<Snapshot> {
    let mut snapshots = Vec::new();
    for profile in [Profile::Static, Profile::Stateful] {
        let mut world = World::new();
        world.create(profile, 20_000);
        world.settle(400);
        snapshots.push(world.snapshot());
        world.mine(&|_| true);
        for _ in 0..3 {
            world.mine(&|_| true);
        }
        world.settle(100);
        assert!(world.is_active(), "{}", world.describe());
        snapshots.push(world.snapshot());
    }
    snapshots
}

/// A member's records with an active factory and, for the one that asks, an invitation; and the last
/// block.
pub fn with_invitation(member: usize) -> (node::Records, factory_engine::Block) {
    let mut world = World::from(&snapshots()[1]);
    world.create(Profile::Static, 0);
    for _ in 0..2 {
        world.step();
    }
    (world.nodes[member].records.clone(), world.block(world.height))
}
