//! How the cost of a factory grows with its clients: CPU, bytes and stored bytes of the operator and of one
//! client, each against N, as a table and as plots (docs/plots/growth-*.svg).
//!
//! ```sh
//! cargo bench --bench growth                # N = 8 … 1024, about a minute
//! cargo bench --bench growth -- 4096        # … 4096; every client's engine runs, so that takes 20 minutes
//! ```
//!
//! Fails if the operator's CPU or bytes grow faster than N log N, or a client's records faster than log N
//! beside what every client needs of every other (its key and its payout script).

#![allow(missing_docs, reason = "not a library")]
#![allow(clippy::unwrap_used, reason = "a benchmark that fails must fail the command")]

mod common;

use common::plot::lines;
use common::world::{LSP, Member, Network, World};
use factory_engine::tx::plan::{Profile, shape_for};

/// What one N cost.
struct Cost {
    clients: f64,
    lsp_ms: f64,
    client_ms: f64,
    lsp_bytes: f64,
    client_bytes: f64,
    lsp_stored: f64,
    client_stored: f64,
}

fn cost(clients: u32) -> Cost {
    let mut world = World::new(clients as usize, Network::default());
    world.create(shape_for(clients, Profile::Static).unwrap());
    let (lsp, others) = (&world.members[LSP], &world.members[1..]);
    let most = |of: fn(&Member) -> usize| others.iter().map(of).max().unwrap() as f64;
    let cpu: f64 = others.iter().map(|member| member.cpu.as_secs_f64() * 1e3).sum();
    Cost {
        clients: clients.into(),
        lsp_ms: lsp.cpu.as_secs_f64() * 1e3,
        client_ms: cpu / f64::from(clients),
        lsp_bytes: (lsp.sent + lsp.received) as f64,
        client_bytes: most(|member| member.sent + member.received),
        lsp_stored: lsp.stored as f64,
        client_stored: most(|member| member.stored),
    }
}

fn main() {
    let most = std::env::args().filter_map(|argument| argument.parse().ok()).next().unwrap_or(1024);
    let sizes: Vec<u32> = (3..=12).map(|power| 1 << power).filter(|clients| *clients <= most).collect();
    println!(
        "{:>5} {:>10} {:>10} {:>12} {:>10} {:>12} {:>10}",
        "N", "L ms", "client ms", "L kB", "client kB", "L stored kB", "client st."
    );
    let costs: Vec<Cost> = sizes
        .into_iter()
        .map(|clients| {
            let cost = cost(clients);
            println!(
                "{:>5} {:>10.1} {:>10.2} {:>12.0} {:>10.1} {:>12.1} {:>10.1}",
                cost.clients,
                cost.lsp_ms,
                cost.client_ms,
                cost.lsp_bytes / 1e3,
                cost.client_bytes / 1e3,
                cost.lsp_stored / 1e3,
                cost.client_stored / 1e3
            );
            cost
        })
        .collect();
    check(&costs);
    draw(&costs);
}

fn check(costs: &[Cost]) {
    for pair in costs.windows(2) {
        let [small, large] = pair else { unreachable!("windows of two") };
        let n_log_n = |cost: &Cost| cost.clients * cost.clients.log2();
        let allowed = n_log_n(large) / n_log_n(small);
        // What is measured in milliseconds is not exact.
        let (cpu, bytes) = (large.lsp_ms / small.lsp_ms, large.lsp_stored / small.lsp_stored);
        assert!(cpu < allowed * 1.3, "the operator's CPU grows by {cpu:.2} at {}", large.clients);
        assert!(bytes < allowed * 1.05, "the operator's records grow by {bytes:.2} at {}", large.clients);
        // Everybody's key and script, and a path of log N nodes.
        let beside = (large.client_stored - small.client_stored) - (large.clients - small.clients) * 60.0;
        assert!(beside < 2_500.0, "a client's records grow by {beside:.0} bytes more at {}", large.clients);
    }
}

/// One plot: the operator, a client, and for comparison a law through the operator's last point.
struct Plot {
    name: &'static str,
    title: &'static str,
    unit: &'static str,
    lsp: fn(&Cost) -> f64,
    client: fn(&Cost) -> f64,
    law: (&'static str, fn(f64) -> f64),
}

const PLOTS: [Plot; 3] = [
    Plot {
        name: "cpu",
        title: "CPU of a creation",
        unit: "ms",
        lsp: |cost| cost.lsp_ms,
        client: |cost| cost.client_ms,
        law: ("N log N", |clients| clients * clients.log2()),
    },
    Plot {
        name: "bytes",
        title: "Sent and received",
        unit: "kB",
        lsp: |cost| cost.lsp_bytes / 1e3,
        client: |cost| cost.client_bytes / 1e3,
        law: ("N²", |clients| clients * clients),
    },
    Plot {
        name: "stored",
        title: "Stored",
        unit: "kB",
        lsp: |cost| cost.lsp_stored / 1e3,
        client: |cost| cost.client_stored / 1e3,
        law: ("N", |clients| clients),
    },
];

fn draw(costs: &[Cost]) {
    let last = costs.last().unwrap();
    for Plot { name, title, unit, lsp, client, law: (law, of) } in PLOTS {
        let series = |value: &dyn Fn(&Cost) -> f64| -> Vec<(f64, f64)> {
            costs.iter().map(|cost| (cost.clients, value(cost))).collect()
        };
        let series = [
            ("operator", series(&lsp)),
            ("one client", series(&client)),
            (law, series(&|cost| lsp(last) * of(cost.clients) / of(last.clients))),
        ];
        let path = format!("{}/docs/plots/growth-{name}.svg", env!("CARGO_MANIFEST_DIR"));
        lines(&path, title, "clients", unit, &series, true, true).unwrap();
    }
}
