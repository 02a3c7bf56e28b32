//! Years of a ladder, in small: everybody renews by itself, nothing is lost, and one seed is one course.

#![allow(clippy::unwrap_used, reason = "a test")]

use factory_lab::years::schedule::Ladder;
use factory_lab::years::{DAY, Settings, play};

/// Two months with a rung every four days.
fn settings(seed: u64) -> Settings {
    let ladder =
        Ladder { rung_blocks: 4 * DAY, due_rungs: 3, dying_rungs: 4, smallest: 2, enough: 2, largest: 8 };
    Settings { ladder, hours: 60 * DAY, ..Settings::new(seed, 9, 0) }
}

/// S22, S37, S38: factory after factory, with crashes and storms, purchases and payments: nobody who is there is evicted
/// or without a channel for an hour, roots come back as inputs of fundings, and every millisatoshi is accounted for.
#[test]
fn a_ladder_goes_on_by_itself() {
    let mut told = vec![];
    let economy = play(&settings(3), &mut |line| told.push(line)).unwrap();
    let told = told.join("\n");
    assert!(economy.renewals >= 20, "{economy}\n{told}");
    assert!(economy.factories.0 >= 4 && economy.factories.2 >= 1, "{economy}\n{told}");
    assert!(economy.lifetimes >= 2, "{economy}");
    assert_eq!(economy.hours.1, 0, "{economy}");
    let always = economy.evicted.iter().filter(|(habit, _)| habit.name() == "always there");
    assert_eq!(always.count(), 0, "{economy}\n{told}");
    assert!(economy.payments.1 * 10 > economy.payments.0 * 9, "{economy}");
}

#[test]
fn one_seed_is_one_course() {
    let short = Settings { hours: 10 * DAY, ..settings(5) };
    let course = || {
        let mut told = vec![];
        let economy = play(&short, &mut |line| told.push(line)).unwrap();
        (economy, told)
    };
    assert_eq!(course(), course());
}
