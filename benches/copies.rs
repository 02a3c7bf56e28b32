//! What copies with the operator cost while a factory is created: bytes and CPU of a client and of its keeper, on top
//! of those without. The real engine on both sides, one thread, whose CPU time is measured:
//!
//! ```sh
//! cargo bench --bench copies            # N = 8, 127, 1000
//! ```
//!
//! A copy for each record; the plugin collects those of a second, where nothing waits. Disks are not in it.

#![allow(missing_docs, reason = "not a library")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a benchmark that fails must fail the command")]

mod common;

use std::time::Duration;

use common::cpu_time;
use common::world::{Beside, Network, World};
use factory_engine::backup::{Copy, CopyKey};
use factory_engine::tx::musig::MasterSecret;
use factory_engine::tx::plan::{Profile, shape_for};

/// A client's worst bytes, its CPU and the operator's.
fn costs(world: &World) -> (usize, f64, f64) {
    let clients = &world.members[1..];
    let bytes = clients.iter().map(|client| client.sent + client.received).max().unwrap();
    let cpu: Duration = clients.iter().map(|client| client.cpu).sum();
    (bytes, milliseconds(cpu) / clients.len() as f64, milliseconds(world.members[0].cpu))
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn main() {
    let arguments: Vec<usize> = std::env::args().filter_map(|argument| argument.parse().ok()).collect();
    let sizes = if arguments.is_empty() { vec![8, 127, 1000] } else { arguments };
    println!(
        "{:>5} {:>9} {:>12} {:>13} {:>13} {:>12} {:>9} {:>9}",
        "N", "a copy B", "a client B", "client +ms", "L +ms each", "L's shelf B", "seal us", "open us"
    );
    for clients in sizes {
        let shape = || shape_for(clients as u32, Profile::Static).unwrap();
        let mut plain = World::new(clients, Network::default());
        plain.create(shape());
        let mut world = World::with(clients, Network::default(), Beside::Keeper);
        let (instance, _) = world.create(shape());
        world.run();
        let (before, after) = (costs(&plain), costs(&world));
        let shelf = &world.members[0].shelf;
        assert_eq!(shelf.len(), clients, "each client's records are kept");
        let copy = Copy { instance, records: world.members[1].records.clone() };
        let key = CopyKey::derive(&MasterSecret::new([7; 32]));
        let start = cpu_time();
        let sealed = key.seal(&copy).unwrap();
        let seal = cpu_time() - start;
        let start = cpu_time();
        assert_eq!(key.open(&sealed).unwrap().records.len(), copy.records.len());
        let open = cpu_time() - start;
        println!(
            "{:>5} {:>9} {:>12} {:>13.2} {:>13.2} {:>12} {:>9.0} {:>9.0}",
            clients,
            shelf.values().map(|copy| copy.sealed.len()).max().unwrap(),
            after.0 - before.0,
            after.1 - before.1,
            (after.2 - before.2) / clients as f64,
            shelf.values().map(|copy| copy.sealed.len()).sum::<usize>(),
            seal.as_secs_f64() * 1e6,
            open.as_secs_f64() * 1e6,
        );
    }
}
