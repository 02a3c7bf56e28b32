//! A slice of the simulator: fixed seeds, fresh ones, and that one seed is one run. In both modes:
//!
//! ```text
//! cargo test --test sim
//! RUSTFLAGS='--cfg modelled_signatures' CARGO_TARGET_DIR=target/fast cargo test -p cln-factory --test sim
//! planted/run --do cargo test -p cln-factory --test sim     # with planted bugs too
//! ```

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods, reason = "a test")]

use std::collections::BTreeSet;
use std::process::Command;

use factory_lab::fault::{Kind, Rates};
use factory_lab::sim::many::many;
use factory_lab::sim::shrink::shrink;
use factory_lab::sim::{Options, play};

/// Runs in fast mode for each in real mode.
const SPEED: u64 = if cfg!(modelled_signatures) { 20 } else { 1 };
const RUNS: u64 = 110 * SPEED;

fn options(seed: u64) -> Options {
    Options { seed, clients: 4, rates: Rates::default(), only: None, lines: false }
}

fn runs(first: u64, count: u64) {
    let (sum, found) = many(&options(first), count, 1, || {}, |_| ());
    if let Some(found) = found {
        let (short, shown) = shrink(&found.options, &found.outcome);
        let points: Vec<String> = short.only.iter().flatten().map(u64::to_string).collect();
        panic!(
            "seed {seed}: {}\nwith these alone: {:#?}\nreplay: {} --runs 1 --seed {seed} --only {} --trace",
            found.outcome.violation.as_deref().unwrap_or_default(),
            shown.fired,
            if SPEED > 1 { "factory-sim (built with --cfg modelled_signatures)" } else { "factory-sim" },
            if points.is_empty() { "-".into() } else { points.join(",") },
            seed = found.options.seed,
        );
    }
    let kinds = sum.faults.len();
    assert!(kinds > Kind::ALL.len() / 2, "hardly anything goes wrong: {kinds} kinds of faults");
    assert_eq!(sum.runs, count);
}

/// S2, S3, S4, S8, S9, S10, S11, S12, S15, S16, S18, S19, S24, S25, S26, S29: whatever goes wrong.
#[test]
fn fixed_seeds() {
    runs(1, RUNS);
}

/// The same with seeds that nobody has seen; a failure prints the seed.
#[test]
fn fresh_seeds() {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).unwrap();
    runs(u64::from_be_bytes(bytes), RUNS);
}

/// Without faults every factory comes to be, and everybody gets out. Who declines is left out.
#[test]
fn without_faults() {
    for seed in 1..20 * SPEED {
        let outcome = play(&Options { rates: Rates::none(), ..options(seed) });
        assert_eq!(outcome.violation, None, "seed {seed}");
        // The last factory may be one of a client that declined it, for its price as a rule: it is aborted, and
        // forgotten after a while.
        assert!(
            matches!(
                outcome.ended,
                "active" | "dying" | "exited" | "exiting" | "distributed" | "closed" | "aborted" | "gone"
            ),
            "seed {seed}: {}",
            outcome.ended
        );
        assert_eq!(outcome.fired, []);
    }
}

/// One seed is one run, byte for byte, in this process and in another one.
#[test]
fn one_seed_is_one_run() {
    for seed in [3, 1_000_003] {
        let (a, b) = (play(&options(seed)), play(&options(seed)));
        assert_eq!(a.trace, b.trace);
        assert_eq!(a.steps, b.steps);
        let seed = seed.to_string();
        let run = || {
            let binary = env!("CARGO_BIN_EXE_factory-sim");
            let out = Command::new(binary).args(["--runs", "1", "--seed", &seed]).output().unwrap();
            let text = String::from_utf8(out.stdout).unwrap();
            text.lines().find_map(|line| line.strip_prefix("trace ")).unwrap().trim().to_owned()
        };
        let hash: String = a.trace.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(run(), hash);
    }
}

/// Threads share nothing: what comes out doesn't depend on how many there are.
#[test]
fn jobs_change_nothing_but_the_time() {
    let (alone, none) = many(&options(500), 12, 1, || {}, |_| ());
    let (shared, nothing) = many(&options(500), 12, 3, || {}, |_| ());
    assert_eq!(alone, shared);
    assert!(none.is_none() && nothing.is_none());
}

/// A decision that is not allowed doesn't change what the others decide.
#[test]
fn only_what_is_allowed_happens() {
    let all = play(&options(7));
    let none = play(&Options { only: Some(BTreeSet::new()), ..options(7) });
    assert!(!all.fired.is_empty());
    assert_eq!(none.fired, []);
    let again: BTreeSet<u64> = all.fired.iter().map(|fired| fired.point).collect();
    let same = play(&Options { only: Some(again), ..options(7) });
    assert_eq!(same.trace, all.trace);
}

/// The judge can fail: in fast mode every planted bug that it can come to is found, in real mode three of them quickly. All
/// of them there: `planted/run --real`.
#[cfg(planted_bugs)]
#[test]
fn planted_bugs_are_found() {
    use factory_engine::planted::{Bug, plant};
    let some = [Bug::ExitOnce, Bug::LedgerForgotten, Bug::HtlcMargin];
    let wanted = if SPEED > 1 { Bug::SIMULATED } else { &some };
    for bug in wanted {
        let (_, found) = many(&options(bug.seed()), 10_000, 2, || plant(Some(*bug)), |_| ());
        assert!(found.is_some(), "{}", bug.name());
    }
}
