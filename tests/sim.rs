//! A slice of the simulator: fixed seeds, a fresh one, and that one seed is one run.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods, reason = "a test")]

use std::collections::BTreeSet;
use std::process::Command;

use cln_factory::lab::sim::fault::{Kind, Rates};
use cln_factory::lab::sim::shrink::shrink;
use cln_factory::lab::sim::{Options, play};

fn options(seed: u64) -> Options {
    Options { seed, clients: 4, rates: Rates::default(), only: None, lines: false }
}

fn runs(first: u64, count: u64) {
    let mut kinds = BTreeSet::new();
    for index in 0..count {
        let options = options(first.wrapping_add(index));
        let outcome = play(&options);
        kinds.extend(outcome.fired.iter().map(|fired| fired.kind));
        if let Some(violation) = &outcome.violation {
            let (short, shown) = shrink(&options, &outcome);
            panic!(
                "seed {}: {violation}\nwith these alone: {:#?}\nreplay: factory-sim --runs 1 --seed {} --only {:?}",
                options.seed,
                shown.fired,
                options.seed,
                short.only.unwrap_or_default()
            );
        }
    }
    assert!(kinds.len() > Kind::ALL.len() / 2, "hardly anything goes wrong: {kinds:?}");
}

/// S2, S3, S4, S8, S10, S11, S12, S15, S16, S18, S19, S25, S26, S29: whatever goes wrong.
#[test]
fn fixed_seeds() {
    runs(1, 150);
}

/// The same with seeds that nobody has seen; a failure prints the seed.
#[test]
fn fresh_seeds() {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).unwrap();
    runs(u64::from_be_bytes(bytes), 100);
}

/// Without faults every factory comes to be, and everybody gets out.
#[test]
fn without_faults() {
    for seed in 1..20 {
        let outcome = play(&Options { rates: Rates::none(), ..options(seed) });
        assert_eq!(outcome.violation, None, "seed {seed}");
        assert!(matches!(outcome.ended, "active" | "dying" | "exited" | "exiting" | "distributed"));
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

/// The judge can fail: two planted bugs, quickly. All of them: `factory-sim --planted`.
#[cfg(feature = "planted-bugs")]
#[test]
fn planted_bugs_are_found() {
    use cln_factory::planted::{Bug, plant};
    for bug in [Bug::ExitOnce, Bug::LedgerForgotten, Bug::HtlcMargin] {
        plant(Some(bug));
        let found = (1..2_000).any(|seed| play(&options(seed)).violation.is_some());
        plant(None);
        assert!(found, "{}", bug.name());
    }
}
