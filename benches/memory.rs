//! What a member holds in memory while a factory is created, and the most that it held: the operator, and
//! the client that needs most. Engine, links, and whatever was sent and has not arrived.
//!
//! ```sh
//! cargo bench --bench memory             # N = 127, 1000; fails if the operator takes 60 MB for 1,000
//! cargo bench --bench memory -- 64
//! ```

#![allow(missing_docs, reason = "not a library")]
#![allow(clippy::unwrap_used, reason = "a benchmark that fails must fail the command")]

mod common;

use common::world::{LSP, Memory, Network, World};
use factory_engine::tx::plan::{Profile, shape_for};
use peak_alloc::PeakAlloc;

#[global_allocator]
static COUNTED: PeakAlloc = PeakAlloc;

/// Of the operator, with a thousand clients. Half of what it takes are fragments of proposals, one under way to
/// each.
const LIMIT: i64 = 60_000_000;

fn main() {
    let arguments: Vec<u32> = std::env::args().filter_map(|argument| argument.parse().ok()).collect();
    let sizes = if arguments.is_empty() { vec![127, 1000] } else { arguments };
    println!(
        "{:>5} {:>12} {:>12} {:>14} {:>14}",
        "N", "L held MB", "L most MB", "client held kB", "client most kB"
    );
    for clients in sizes {
        let mut world = World::new(clients as usize, Network::default());
        let none = vec![0; clients as usize + 1];
        world.memory = Some(Memory {
            usage: || COUNTED.current_usage(),
            peak: || COUNTED.peak_usage(),
            reset: || COUNTED.reset_peak_usage(),
            held: none.clone(),
            most: none,
        });
        world.create(shape_for(clients, Profile::Static).unwrap());
        let memory = world.memory.unwrap();
        let largest = |of: &[i64]| *of[1..].iter().max().unwrap();
        println!(
            "{clients:>5} {:>12.1} {:>12.1} {:>14} {:>14}",
            memory.held[LSP] as f64 / 1e6,
            memory.most[LSP] as f64 / 1e6,
            largest(&memory.held) / 1000,
            largest(&memory.most) / 1000
        );
        assert!(clients > 1000 || memory.most[LSP] < LIMIT, "more than {LIMIT} bytes");
    }
}
