//! How long the creation of a factory takes over a network: 50 ms round trips, and no more than lightningd
//! lets one peer send, a million bytes a second. Every member has a processor of its own; its work is done
//! by the real engine and takes the CPU time that it takes here. An open takes one round trip to start and
//! one to complete. lightningd's own time is not in it, and neither are its disks.
//!
//! ```sh
//! cargo bench --bench network            # N = 16, 127, 1000; fails above 1 s for 127 and 5 s for 1,000;
//!                                        # and 127 that are slow in turn: fails above 10 times a slow answer
//! cargo bench --bench network -- 64
//! ```

#![allow(missing_docs, reason = "not a library")]
#![allow(clippy::unwrap_used, reason = "a benchmark that fails must fail the command")]

mod common;

use std::time::Duration;

use common::world::{LSP, Network, World};
use factory_engine::tx::plan::{Profile, shape_for};

const ROUND_TRIP: Duration = Duration::from_millis(50);
const BANDWIDTH: u64 = 1_000_000;
/// How long a slow client takes for an answer.
const SLOW: Duration = Duration::from_secs(2);

fn main() {
    let arguments: Vec<u32> = std::env::args().filter_map(|argument| argument.parse().ok()).collect();
    let sizes = if arguments.is_empty() { vec![16, 127, 1000] } else { arguments };
    println!(
        "{:>5} {:>9} {:>13} {:>10} {:>12} {:>16}",
        "N", "time s", "round trips", "L CPU s", "L sent kB", "to one peer kB"
    );
    for clients in sizes {
        let time = create(clients, Duration::ZERO);
        let limit = match clients {
            ..=127 => Duration::from_secs(1),
            _ => Duration::from_secs(5).max(Duration::from_millis(5) * clients),
        };
        assert!(time < limit, "{clients} clients take {time:?}, more than {limit:?}");
    }
    println!("\nWith clients that take {SLOW:?} for every fourth of their messages, others at each step:\n");
    let time = create(127, SLOW);
    // Whoever is slow at the same step is waited for at the same time.
    assert!(time < SLOW * 10, "127 clients that are slow in turn take {time:?}");
}

/// Creates a factory, prints what that took, and gives the time.
fn create(clients: u32, slow: Duration) -> Duration {
    let network = Network { latency: ROUND_TRIP / 2, bandwidth: BANDWIDTH, slow };
    let mut world = World::new(clients as usize, network);
    let (_, time) = world.create(shape_for(clients, Profile::Static).unwrap());
    let lsp = &world.members[LSP];
    let most = world.members[1..].iter().map(|member| member.received).max().unwrap();
    println!(
        "{clients:>5} {:>9.2} {:>13.1} {:>10.2} {:>12} {:>16.1}",
        time.as_secs_f64(),
        time.as_secs_f64() / ROUND_TRIP.as_secs_f64(),
        lsp.cpu.as_secs_f64(),
        lsp.sent / 1000,
        most as f64 / 1e3
    );
    time
}
