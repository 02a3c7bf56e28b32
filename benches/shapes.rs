//! The shapes that no other beats, for so many clients: a table, and a plot. Fails if the planner's
//! default is not one of them, or misses the goal for one client's exit.
//!
//! ```sh
//! cargo bench --bench shapes              # 127 clients; writes docs/planning.md's table, docs/plots/frontier.svg
//! cargo bench --bench shapes -- 1000      # any number: prints, writes nothing
//! cargo bench --bench shapes -- --check   # writes nothing, and fails if what is written differs
//! ```

#![allow(missing_docs, reason = "not a library")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a benchmark that fails must fail the command")]

#[path = "common/document.rs"]
mod document;
#[path = "common/factory.rs"]
mod factory;
#[path = "common/plot.rs"]
mod plot;

use std::fmt::Write;
use std::time::Duration;

use document::{Mode, thousands};
use factory::planned;
use factory_engine::terms::{Kind, Shape};
use factory_engine::tx::plan::Profile;
use factory_engine::tx::plan::frontier::{Point, frontier, notable};

/// What docs/planning.md shows.
const CLIENTS: u32 = 127;

fn main() {
    let (mode, words) = Mode::from_arguments();
    let clients = words.first().map_or(CLIENTS, |word| word.parse().expect("a number of clients"));
    let terms = planned(clients, Profile::Static);
    let started = cpu_time();
    let points = frontier(&terms, Profile::Static);
    let took = (cpu_time() - started).as_secs_f64() * 1_000.0;
    let own = points.iter().find(|point| point.default).unwrap();
    for other in &points {
        assert!(!other.dominates(own), "the default, {own:?}, is beaten by {other:?}");
    }
    if clients == CLIENTS {
        assert!(own.exit_vbytes <= 1_020 && own.exit_transactions <= 4, "the goal: {own:?}");
        assert_eq!(own.timelock_blocks, 0, "the goal: nothing to wait for");
    }
    let listed = notable(&points);
    let text = table(&listed);
    println!("{text}");
    println!(
        "{clients} clients: {} shapes on the frontier, {} listed; {took:.1} ms of CPU",
        points.len(),
        listed.len()
    );
    if clients == CLIENTS {
        document::table("docs/planning.md", "shapes", &text, mode);
        document::plot("docs/plots/frontier.svg", mode, |path| draw(path, &points));
    }
}

/// This thread's CPU time.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.try_into().unwrap(), time.tv_nsec.try_into().unwrap())
}

fn table(points: &[Point]) -> String {
    let mut text = String::from(
        "| sub-factories × clients | levels | exit vB | transactions | with children, vB | members of a sale | clients of a leaf | partial signatures \
         | sessions | keys | transactions in all | vB in all |\n\
         | --- | --- | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: |\n",
    );
    for point in points {
        let own = if point.default { "**" } else { "" };
        writeln!(
            text,
            "| {own}{}{own} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
            leaf(&point.shape),
            levels(&point.shape),
            thousands(point.exit_vbytes),
            point.exit_transactions,
            thousands(point.raised_vbytes),
            point.sale_members,
            point.leaf_clients,
            thousands(point.partial_signatures),
            thousands(point.sessions),
            thousands(point.keys),
            thousands(point.transactions.into()),
            thousands(point.vbytes),
        )
        .unwrap();
    }
    text
}

fn leaf(shape: &Shape) -> String {
    format!("{} × {}", shape.leaf.sub_factories, shape.leaf.clients_per_sub)
}

fn levels(shape: &Shape) -> String {
    assert!(shape.levels.iter().all(|level| level.kind == Kind::Static));
    let arities: Vec<String> = shape.levels.iter().map(|level| level.arity.to_string()).collect();
    if arities.is_empty() { "–".to_owned() } else { arities.join(", ") }
}

/// vB against signatures, a colour for each number of members that a sale needs. Shapes with few
/// transactions are so far off that the others would be one spot: a logarithmic axis.
fn draw(path: &str, points: &[Point]) -> Result<(), Box<dyn std::error::Error>> {
    let place = |point: &Point| (point.raised_vbytes as f64, point.partial_signatures as f64);
    let with = |members: u32| {
        points.iter().filter(|point| point.sale_members == members && !point.default).map(place).collect()
    };
    let names = ["2 members awake for a sale", "3 members", "4 members", "5 members"];
    let mut series: Vec<plot::Series> =
        (2..).zip(names).map(|(members, name)| (name, with(members))).collect();
    series
        .push(("the default (3 members)", points.iter().filter(|point| point.default).map(place).collect()));
    plot::scatter(
        path,
        &format!("{CLIENTS} clients: shapes that no other beats"),
        "vB of one exit, children included",
        "partial signatures of the ceremony",
        &series,
        true,
        false,
    )
}
