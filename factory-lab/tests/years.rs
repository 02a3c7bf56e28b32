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

/// S19, S22, S37: an operator that doesn't acknowledge keys, refuses them or sends them back, goes away between move and
/// handover and sets no fees, and clients that keep their keys or publish what they have left: renewals go on, and no
/// honest client has a millisatoshi less.
#[test]
fn nobody_honest_loses_where_others_lie() {
    let mut told = vec![];
    let economy = play(&Settings { lies: true, ..settings(3) }, &mut |line| told.push(line)).unwrap();
    let told = told.join("\n");
    // It is gone at the first move that there is.
    assert!(economy.lies.contains_key("gone-between"), "{economy}\n{told}");
    assert!(economy.lies.len() >= 2, "{economy}\n{told}");
    assert!(economy.renewals >= 10, "{economy}\n{told}");
    assert!(economy.to_string().contains(" gone-between"), "{economy}");
}

#[test]
fn one_seed_is_one_course() {
    for lies in [false, true] {
        let short = Settings { hours: 10 * DAY, lies, ..settings(5) };
        let course = || {
            let mut told = vec![];
            let economy = play(&short, &mut |line| told.push(line)).unwrap();
            (economy, told)
        };
        assert_eq!(course(), course());
    }
}

#[test]
fn nobody_lies_unless_that_is_wanted() {
    assert!(!Settings::new(1, 9, 1).lies);
    let honest = play(&Settings { hours: 3 * DAY, ..settings(5) }, &mut |_| ()).unwrap();
    assert!(honest.lies.is_empty() && !honest.to_string().contains("\nlies "), "{honest}");
}
