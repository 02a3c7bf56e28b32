//! S32: what a client takes of the terms that an operator chooses, and what it accepts is what was read.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;

use std::collections::BTreeMap;

use factory_engine::io::fees::{FeeNews, Feerates};
use factory_engine::policy::{Because, Bounds, Policy};
use factory_engine::types::{Amount, InstanceId};
use factory_engine::wire::message::{Invite, Message};
use factory_engine::{Command, Input, Refusal, RefusalKind, State, Term};
use factory_lab::offer::Offer;
use factory_lab::scenario::Scenario;
use factory_lab::world::{Fate, Fed, LSP, World};

/// Bounds that are one unit narrower.
type Narrower = fn(&mut Bounds);
/// What an operator says instead.
type Change = fn(&mut Invite);

/// What the operators of these tests choose, within every bound.
fn asked(least_more: impl Fn(&mut Bounds)) -> (World, InstanceId) {
    let scenario = Scenario::new(40).clients(1).config_of(1, |config| {
        config.bounds = Bounds {
            max_price_msat: 0,
            min_lifetime_blocks: 4_320,
            max_lifetime_blocks: 4_320,
            min_dying_blocks: 2_016,
            min_tree_feerate: 1_000,
            min_feerate_percent: 10,
            max_tree_feerate: 1_000,
            min_funding_confirmations: 3,
            min_confirm_blocks: 6,
            min_margin_blocks: 144,
            min_stock_csv: 144,
        };
        least_more(&mut config.bounds);
    });
    scenario.begun().unwrap()
}

fn log(world: &World, at: usize) -> String {
    format!("{:?}", world.members[at].log)
}

/// S32: every bound, to the unit: what is exactly at it is taken, and one less (or more) is refused and named
/// with its value, both ends and the setting.
#[test]
fn each_bound_to_the_unit() {
    let (mut world, instance) = asked(|_| ());
    assert_eq!(world.finish(instance).unwrap(), State::Active);

    let beyond: [(Narrower, &str); 9] = [
        (
            |b| b.min_lifetime_blocks += 1,
            "lifetime_blocks is 4320: this node takes 4321 to 4320 (min-lifetime-blocks)",
        ),
        (
            |b| b.max_lifetime_blocks -= 1,
            "lifetime_blocks is 4320: this node takes 4320 to 4319 (max-lifetime-blocks)",
        ),
        (
            |b| b.min_dying_blocks += 1,
            "dying_blocks is 2016: this node takes 2017 to 4294967295 (min-dying-blocks)",
        ),
        (|b| b.min_tree_feerate += 1, "feerate_perkw is 1000: this node takes 1001 to 1000 (min-feerate)"),
        (|b| b.max_tree_feerate -= 1, "feerate_perkw is 1000: this node takes 1000 to 999 (max-feerate)"),
        (
            |b| b.min_funding_confirmations += 1,
            "funding_confirmations is 3: this node takes 4 to 65535 (min-confirmations)",
        ),
        (
            |b| b.min_confirm_blocks += 1,
            "confirm_blocks is 6: this node takes 7 to 65535 (min-confirm-blocks)",
        ),
        (
            |b| b.min_margin_blocks += 1,
            "margin_blocks is 144: this node takes 145 to 65535 (min-margin-blocks)",
        ),
        (|b| b.min_stock_csv += 1, "stock_csv is 144: this node takes 145 to 65535 (min-stock-csv)"),
    ];
    for (more, why) in beyond {
        let (mut world, instance) = asked(more);
        assert_eq!(world.finish(instance).unwrap(), State::Aborted, "{why}");
        assert!(log(&world, 1).contains(why), "{why}: {}", log(&world, 1));
        assert!(world.failure(LSP, instance).unwrap().contains(why), "the operator isn't told: {why}");
        assert_eq!(world.members[1].store.instances().count(), 0, "{why}: something was stored");
    }
}

/// S32: without stock nobody has to get there before the operator.
#[test]
fn a_delay_of_no_stock_is_not_looked_at() {
    let offer = Offer { stock: Amount::ZERO, ..Offer::default() };
    let mut world =
        Scenario::new(41).clients(1).config_of(LSP, |config| config.stock_csv = 1).world().unwrap();
    assert!(world.make_factory(&offer).is_ok());
}

/// What the backend says before anybody is invited.
fn fees(floor: u32, slow: u32) -> Input {
    let feerates = Feerates { floor, estimates: BTreeMap::from([(2, 90_000), (100, slow)]) };
    Input::Fees(FeeNews { feerates: Some(feerates), ..FeeNews::default() })
}

/// S32: a tree is held against what the client's own node says of fees, not against what was usual once.
#[test]
fn a_tree_that_would_not_relay_now() {
    for (floor, slow, why) in [
        (1_000, 10_000, None),
        (1_001, 253, Some("this node takes 1001 to 5000 (the least that its mempool takes now)")),
        (253, 10_010, Some("this node takes 1001 to 5000 (min-feerate-percent)")),
    ] {
        let mut world = Scenario::new(42).clients(1).world().unwrap();
        world.feed(1, fees(floor, slow)).unwrap();
        let instance = world.begin(&Offer::default()).unwrap();
        world.settle().unwrap();
        match why {
            None => assert_eq!(world.finish(instance).unwrap(), State::Active),
            Some(why) => {
                assert_eq!(world.state(LSP, instance), Some(State::Aborted));
                assert!(log(&world, 1).contains(why), "{}", log(&world, 1));
            }
        }
    }
}

/// What an engine refuses, and stores nothing.
fn refused(world: &mut World, at: usize, command: Command) -> Refusal {
    let before = world.members[at].store.appends;
    let fed = world.feed(at, Input::Command(command)).unwrap();
    assert_eq!(world.members[at].store.appends, before, "a refusal stored something");
    let Fed::Done(Err(refusal)) = fed else { panic!("{fed:?}") };
    refusal
}

/// S32: an acceptance is for the terms that were read. When others drop out they are other terms.
#[test]
fn what_was_not_read_is_not_accepted() {
    let scenario = Scenario::new(43).clients(3).config(|config| config.policy = Policy::Ask);
    let (mut world, instance) = scenario.begun().unwrap();
    world.settle().unwrap();
    let read = world.acceptance(1, instance).unwrap();
    world.command(3, Command::Decline { instance, reason: "no".into() }).unwrap();
    world.settle().unwrap();
    let now = world.acceptance(1, instance).unwrap();
    let (Command::Accept { terms: old, .. }, Command::Accept { terms: new, .. }) = (&read, &now) else {
        panic!("{read:?}, {now:?}")
    };
    let (old, new) = (*old, *new);
    assert_ne!(old, new);
    let changed = refused(&mut world, 1, read);
    assert_eq!(changed, Refusal::TermsChanged { instance, read: old, now: new });
    assert_eq!(changed.kind(), RefusalKind::WrongState);
    assert_eq!(world.state(1, instance), Some(State::Invited));
    world.command(1, now).unwrap();
    world.command(2, world.acceptance(2, instance).unwrap()).unwrap();
    assert_eq!(world.finish(instance).unwrap(), State::Active);
}

/// S32: of the others the hash covers what an invitation says of them: the place and the capacity of each.
#[test]
fn the_hash_covers_places_and_capacities_of_others() {
    let read = |change: Change| {
        let (mut world, instance) = Scenario::new(46)
            .clients(3)
            .config(|config| config.policy = Policy::Ask)
            .tamper(move |out| match &out.message {
                Message::Invite(invite) if out.to == 1 => Fate::changed(invite, change),
                _ => Fate::Deliver,
            })
            .begun()
            .unwrap();
        world.settle().unwrap();
        let Command::Accept { terms, .. } = world.acceptance(1, instance).unwrap() else { panic!("accepts") };
        terms
    };
    let as_it_is = read(|_| {});
    assert_eq!(read(|_| {}), as_it_is);
    let second = read(|m| m.terms.capacities[1] = Amount::from_sat(150_000));
    let third = read(|m| m.terms.capacities[2] = Amount::from_sat(150_000));
    assert!(as_it_is != second && second != third && third != as_it_is);
}

/// S32: a person takes its time, and fees don't wait.
#[test]
fn terms_that_went_out_of_bounds_before_they_were_accepted() {
    let scenario = Scenario::new(44).clients(1).config(|config| config.policy = Policy::Ask);
    let (mut world, instance) = scenario.begun().unwrap();
    world.settle().unwrap();
    world.feed(1, fees(1_100, 253)).unwrap();
    let accept = world.acceptance(1, instance).unwrap();
    let Refusal::OutOfBounds(bound) = refused(&mut world, 1, accept.clone()) else { panic!("accepted") };
    assert_eq!(
        (bound.term, bound.value, bound.least, bound.because),
        (Term::TreeFeerate, 1_000, 1_100, Because::Mempool)
    );
    world.feed(1, fees(253, 253)).unwrap();
    world.command(1, accept).unwrap();
}

/// Client 3 is left out, and client 2 is invited to another second attempt than the others.
fn second_attempt(seed: u64, change: impl Fn(&mut Invite) + 'static) -> World {
    let (mut world, instance) = Scenario::new(seed)
        .clients(4)
        .tamper(move |out| match &out.message {
            Message::Join(_) if out.from == 3 => Fate::Drop,
            Message::Invite(invite) if out.to == 2 && invite.attempt == 2 => Fate::changed(invite, &change),
            _ => Fate::Deliver,
        })
        .begun()
        .unwrap();
    assert_eq!(world.finish(instance).unwrap(), State::Active);
    world
}

/// S32: what was accepted once never gets worse in a later attempt: fewer members, and nothing else.
#[test]
fn later_attempts_are_no_worse() {
    let same = second_attempt(50, |_| ());
    assert!(!log(&same, 2).contains("differ"), "fewer members are taken");
    let changes: [(&str, Change); 7] = [
        ("less for it", |m| m.terms.capacities[1] = Amount::from_sat(99_999)),
        ("more for another", |m| m.terms.capacities[0] = Amount::from_sat(100_001)),
        ("another place", |m| m.client = 2),
        ("somebody new", |m| m.terms.capacities.push(Amount::from_sat(100_001))),
        ("less stock", |m| m.terms.stock = Amount::from_sat(19_999)),
        ("another timeout", |m| m.terms.timeout_height += 1),
        ("a shorter delay", |m| m.terms.stock_csv -= 1),
    ];
    for (seed, (what, change)) in (51..).zip(changes) {
        let world = second_attempt(seed, change);
        assert!(
            log(&world, 2).contains("differ from those that were accepted"),
            "{what}: {}",
            log(&world, 2)
        );
    }
}

/// S3, S32: numbers at the ends of what the wire can say are refused, and nothing wraps around.
#[test]
fn numbers_at_the_ends_of_their_range() {
    let changes: [(&str, Change); 18] = [
        ("stock", |m| m.terms.stock = Amount::MAX_MONEY),
        ("least push", |m| m.terms.push_msat = 0),
        // A client that has less when its leaf confirms has a lightningd that dies.
        ("more than the reserve", |m| m.terms.push_msat = 546_001),
        ("most push", |m| m.terms.push_msat = u64::MAX),
        ("price", |m| m.price_msat = u64::MAX),
        ("no csv", |m| m.terms.stock_csv = 0),
        ("no feerate", |m| m.terms.tree_feerate = 0),
        ("most feerate", |m| m.terms.tree_feerate = u32::MAX),
        ("no timeout", |m| m.terms.timeout_height = 0),
        ("most timeout", |m| m.terms.timeout_height = u32::MAX),
        ("no dying period", |m| m.terms.dying_blocks = 0),
        ("most dying period", |m| m.terms.dying_blocks = u32::MAX),
        ("no confirm_blocks", |m| m.terms.confirm_blocks = 0),
        ("most confirm_blocks", |m| m.terms.confirm_blocks = u16::MAX),
        ("no margin", |m| m.terms.margin_blocks = 0),
        ("most margin", |m| m.terms.margin_blocks = u16::MAX),
        ("no confirmations", |m| m.terms.funding_confirmations = 0),
        ("place", |m| m.client = u32::MAX),
    ];
    for (seed, (what, change)) in (60..).zip(changes) {
        common::declines(seed, 2, what, change);
    }
}

/// S32: the simulator's judge goes by the client's bounds, whatever its engine makes of them.
#[test]
fn the_judge_sees_a_client_that_signs_for_less() {
    let (mut world, instance) = Scenario::new(45).clients(1).begun().unwrap();
    // The engine has the settings from before.
    world.members[1].config.bounds.min_stock_csv = 145;
    let error = world.finish(instance).unwrap_err().to_string();
    assert!(error.contains("S32: it signs although stock_csv is below its least"), "{error}");
}
