//! A purchase when a client that has to sign is away: it waits, and then there is an ordinary channel
//! instead, if both sides allow that.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;

use common::{factory, purse, sales};
use factory_engine::record::event::{Event, decode_record};
use factory_engine::types::{Amount, ChannelId, InstanceId};
use factory_engine::{Answer, Input, KnownChannel, OpenFailure, PriceList};
use factory_lab::scenario::Scenario;
use factory_lab::world::{CrashAt, LSP, World, losing};

const PRICE: u64 = 700_001;
const AMOUNT: Amount = Amount::from_sat(50_000);

/// Four clients in one leaf, two sub-factories with stock, an operator that wants money, and client 2 away.
fn away(seed: u64, jit: [bool; 2]) -> (World, InstanceId) {
    let scenario = Scenario::new(seed).clients(4).stock(300_000);
    let scenario = scenario.prices(PriceList::of_sales(PRICE, 0));
    let scenario = scenario.config(|config| config.jit = jit[1]).config_of(LSP, |config| config.jit = jit[0]);
    let (mut world, instance) = scenario.active().unwrap();
    world.pay(LSP, 1, 20_000_000).unwrap();
    world.stop(2);
    world.settle().unwrap();
    (world, instance)
}

fn buy(world: &mut World, instance: InstanceId) {
    assert_eq!(world.ask(1, instance, AMOUNT.to_sat(), PRICE).unwrap(), Ok(Answer::Done));
}

/// What L and the buyer say: ordinary channels that were opened, and credit.
fn books(world: &World, instance: InstanceId) -> [(usize, u64); 2] {
    [LSP, 1].map(|at| {
        let sales = &factory(world, at, instance).current.sales;
        (sales.jits().opened().len(), sales.account().credit(0))
    })
}

#[test]
fn a_sale_waits_for_whoever_has_to_sign() {
    let (mut world, instance) = away(1, [false; 2]);
    let before = purse(&world, instance);
    buy(&mut world, instance);
    world.settle().unwrap();
    let waiting = world.members[1].engine.as_ref().unwrap().purchase(instance).unwrap().clone();
    // How many, and not who.
    assert_eq!((waiting.away, waiting.is_open()), (1, true));
    world.start(2).unwrap();
    world.connect(LSP, 2).unwrap();
    world.run_out().unwrap();
    assert_eq!(world.refused(1, instance), None);
    assert_eq!([LSP, 1, 2].map(|at| sales(&world, at, instance).len()), [1, 1, 1]);
    assert_eq!(before - purse(&world, instance), PRICE);
}

#[test]
fn without_both_sides_policy_it_ends_and_names_nobody() {
    for (seed, jit, text) in [
        (2, [false, false], "the operator opens no ordinary channel"),
        (3, [false, true], "the operator opens no ordinary channel"),
        (4, [true, false], "this client takes no ordinary channel"),
    ] {
        let (mut world, instance) = away(seed, jit);
        let before = purse(&world, instance);
        buy(&mut world, instance);
        world.run_out().unwrap();
        let why = world.refused(1, instance).unwrap();
        let named = why.contains(&world.members[2].id.to_string());
        assert!(why.contains(text) && why.contains("another client") && !named, "{why}");
        assert_eq!((purse(&world, instance), sales(&world, LSP, instance).len()), (before, 0));
        assert_eq!(books(&world, instance), [(0, 0), (0, 0)]);
    }
}

#[test]
fn an_ordinary_channel_comes_instead_for_the_same_price() {
    let (mut world, instance) = away(5, [true; 2]);
    let before = purse(&world, instance);
    buy(&mut world, instance);
    world.run_out().unwrap();
    let purchase = world.members[1].engine.as_ref().unwrap().purchase(instance).unwrap().clone();
    let jit = purchase.opened.unwrap();
    assert_eq!((jit.amount, jit.price_msat), (AMOUNT, PRICE));
    let why = purchase.ordinary_channel.unwrap().reason;
    assert!(why.contains("another client") && !why.contains(&world.members[2].id.to_string()), "{why}");
    assert_eq!(before - purse(&world, instance), PRICE);
    assert_eq!(books(&world, instance), [(1, 0), (1, 0)]);
    assert_eq!(sales(&world, LSP, instance).len(), 0);
    // With everybody there the stock is sold as ever.
    world.start(2).unwrap();
    world.connect(LSP, 2).unwrap();
    world.run_out().unwrap();
    buy(&mut world, instance);
    world.run_out().unwrap();
    assert_eq!([LSP, 1, 2].map(|at| sales(&world, at, instance).len()), [1, 1, 1]);
    assert_eq!(before - purse(&world, instance), 2 * PRICE);
    assert!(world.judge.violations.is_empty(), "{:?}", world.judge.violations);
}

/// A neighbour that is connected and says nothing is waited for no longer than one that is away.
#[test]
fn a_silent_neighbour_is_as_good_as_away() {
    let (mut world, instance) = away(6, [true; 2]);
    world.start(2).unwrap();
    world.connect(LSP, 2).unwrap();
    world.settle().unwrap();
    world.tamper(losing("sale_join", 2));
    buy(&mut world, instance);
    world.run_out().unwrap();
    assert_eq!(books(&world, instance), [(1, 0), (1, 0)]);
    assert_eq!(sales(&world, LSP, instance).len(), 0);
}

/// Client 1 has begun to buy, and the wait for client 2 is over; also what the buyer had before.
fn waited_in_vain(seed: u64) -> (World, InstanceId, u64) {
    let (mut world, instance) = away(seed, [true; 2]);
    let before = purse(&world, instance);
    buy(&mut world, instance);
    world.settle().unwrap();
    world.advance().unwrap();
    (world, instance, before)
}

/// A member that was stopped is there again; client 2 stays away.
fn comes_back(world: &mut World, at: usize) {
    world.start(at).unwrap();
    for client in [1, 3, 4] {
        if at == LSP || client == at {
            world.connect(LSP, client).unwrap();
        }
    }
    world.run_out().unwrap();
}

/// S14, S29: a store that fails once costs nobody more than the price, and nobody waits for ever: what
/// lightningd says only once is said again until it is stored.
#[test]
fn a_store_that_fails_at_any_step_ends_nothing_halfway() {
    let mut failed = 0;
    for victim in [LSP, 1] {
        for step in 0..16 {
            let at = format!("victim {victim}, step {step}");
            let (mut world, instance, before) = waited_in_vain(2_000 + step);
            for _ in 0..step {
                world.step().unwrap();
            }
            world.members[victim].store.failures = 1;
            world.run_out().unwrap();
            failed += u32::from(world.members[victim].store.failures == 0);
            world.members[victim].store.failures = 0;
            // With everybody there the stock is sold as ever.
            world.start(2).unwrap();
            world.connect(LSP, 2).unwrap();
            world.run_out().unwrap();
            buy(&mut world, instance);
            world.run_out().unwrap();
            assert_eq!(world.refused(1, instance), None, "{at}");
            assert_eq!([LSP, 1, 2].map(|at| sales(&world, at, instance).len()), [1, 1, 1], "{at}");
            let [lsp, buyer] = books(&world, instance);
            assert_eq!((lsp, lsp.1), (buyer, 0), "{at}");
            let bought = u64::try_from(lsp.0 + 1).unwrap();
            assert_eq!(before - purse(&world, instance), PRICE * bought, "{at}");
            assert!(world.judge.violations.is_empty(), "{at}: {:?}", world.judge.violations);
        }
    }
    assert!(failed > 10, "{failed}");
}

/// Client 1 buys, somebody is away, and L stops between storing that it opens an ordinary channel and
/// asking for it; then it comes back.
fn stopped_before_the_open(prepared: impl Fn() -> (World, InstanceId)) -> (World, InstanceId) {
    let is_jit = |record: &Vec<u8>| {
        decode_record(record).unwrap().iter().any(|event| matches!(event, Event::SaleJit(_)))
    };
    for store in 1..8 {
        let (mut world, instance) = prepared();
        buy(&mut world, instance);
        world.settle().unwrap();
        world.crash_at(LSP, CrashAt::AfterStore(store));
        // The wait is over.
        world.advance().unwrap();
        world.settle().unwrap();
        if world.members[LSP].store.records(instance).last().is_some_and(is_jit) {
            assert!(world.members[LSP].engine.is_none());
            comes_back(&mut world, LSP);
            return (world, instance);
        }
    }
    panic!("it never stores that")
}

/// S14: a restart doesn't take what the operator opened by hand, long before, for what was paid now.
#[test]
fn a_channel_that_was_there_before_is_not_the_one_that_was_paid() {
    let other = Amount::from_sat(AMOUNT.to_sat() + 1);
    for (confirmed, of, capacity, opened) in [
        (Some(100), 1, AMOUNT, false),
        (None, 1, AMOUNT, true),
        // Blocks after the one at which it was asked for, counted from the one before.
        (Some(0), 1, AMOUNT, false),
        (Some(1), 1, AMOUNT, true),
        (Some(2), 1, AMOUNT, true),
        (None, 3, AMOUNT, false),
        (None, 1, other, false),
    ] {
        let (world, instance) = stopped_before_the_open(|| {
            let (mut world, instance) = away(7, [true; 2]);
            let peer = world.members[of].id;
            let height = world.chain.height();
            let confirmed = confirmed.map(|at| if at < 10 { height + at } else { at });
            let other = KnownChannel { channel_id: ChannelId([7; 32]), peer, capacity, confirmed };
            world.members[LSP].lightningd.ordinary.push(other);
            let theirs = KnownChannel { peer: world.members[LSP].id, ..other };
            world.members[of].lightningd.ordinary.push(theirs);
            (world, instance)
        });
        let expected = if opened { (1, 0) } else { (0, PRICE) };
        assert_eq!(books(&world, instance), [expected; 2], "{confirmed:?} of {of}, {capacity}");
        let engine = |at: usize| world.members[at].engine.as_ref().unwrap();
        assert_eq!([LSP, 1].map(|at| engine(at).credit_msat(instance)), [0, expected.1]);
    }
}

/// S14: nor the channel of a sale that was dropped, which lightningd still lists.
#[test]
fn a_dropped_sales_channel_is_not_the_one_that_was_paid() {
    let (world, instance) = stopped_before_the_open(|| {
        let (mut world, instance) = away(8, [true; 2]);
        world.start(2).unwrap();
        world.connect(LSP, 2).unwrap();
        world.settle().unwrap();
        let channels = world.members[LSP].lightningd.channels.len();
        buy(&mut world, instance);
        let more = |world: &World| world.members[LSP].lightningd.channels.len() > channels;
        world.run_until("the sale's channel", more).unwrap();
        world.stop(LSP);
        world.stop(2);
        world.settle().unwrap();
        comes_back(&mut world, LSP);
        assert_eq!(books(&world, instance), [(0, 0); 2]);
        (world, instance)
    });
    assert_eq!(books(&world, instance), [(0, PRICE); 2]);
}

/// S14, S36: nor the one that came instead of an earlier sale.
#[test]
fn an_ordinary_channel_is_not_the_next_one_that_was_paid() {
    let (world, instance) = stopped_before_the_open(|| {
        let (mut world, instance) = away(9, [true; 2]);
        buy(&mut world, instance);
        world.run_out().unwrap();
        assert_eq!(books(&world, instance), [(1, 0); 2]);
        (world, instance)
    });
    assert_eq!(books(&world, instance), [(1, PRICE); 2]);
}

/// S14, S36: whoever dies, what was paid is a channel or credit, and both sides say the same.
#[test]
fn a_crash_at_any_step_costs_nobody_more_than_the_price() {
    let (mut opened, mut credited) = (0, 0);
    for victim in [LSP, 1] {
        for step in 0..40 {
            let at = format!("victim {victim}, step {step}");
            let (mut world, instance, before) = waited_in_vain(1_000 + step);
            let ended = (0..step).any(|_| !world.step().unwrap());
            world.stop(victim);
            world.settle().unwrap();
            comes_back(&mut world, victim);
            let paid = before - purse(&world, instance);
            assert!(paid == 0 || paid == PRICE, "{at}: {paid}");
            let [lsp, buyer] = books(&world, instance);
            assert_eq!(lsp, buyer, "{at}");
            assert_eq!(paid, PRICE * u64::try_from(lsp.0).unwrap() + lsp.1, "{at}");
            opened += lsp.0;
            credited += u64::from(lsp.1 > 0);
            assert!(world.judge.violations.is_empty(), "{at}: {:?}", world.judge.violations);
            if ended {
                break;
            }
        }
    }
    assert!(opened > 0 && credited > 0, "{opened} channels, {credited} credits");
}

/// S28: a buyer whose ordinary channels all come to nothing is told to wait, so that it can't have the operator
/// write records without end; its credit stays.
#[test]
fn ordinary_channels_that_fail_again_and_again_have_to_wait() {
    let (mut world, instance) = away(10, [true; 2]);
    let records = |world: &World| world.members[LSP].store.records(instance).len();
    world.members[1].lightningd.refuses_ordinary = true;
    let (mut waits, mut failed) = (0, 0);
    for _ in 0..40 {
        let before = records(&world);
        buy(&mut world, instance);
        world.run_out().unwrap();
        let why = world.refused(1, instance).unwrap();
        if why.contains("purchases came to nothing") {
            waits += 1;
            assert_eq!(records(&world), before, "{why}");
        } else {
            failed += 1;
        }
    }
    assert!(failed >= 8 && waits > 20, "{failed} failed, {waits} waits");
    assert_eq!(books(&world, instance)[0], (0, PRICE));
}

/// S29: a buyer whose node never answers the open of its ordinary channel is disconnected, keeps its credit, and has
/// wasted the operator's work; its place goes to others.
#[test]
fn an_open_that_is_never_answered_ends() {
    let (mut world, instance) = away(13, [true; 2]);
    world.members[1].lightningd.ignores_ordinary = true;
    for _ in 0..12 {
        buy(&mut world, instance);
        world.run_out().unwrap();
        assert!(!factory(&world, LSP, instance).current.sales.jits().is_funding(0));
        world.connect(LSP, 1).unwrap();
        world.run_out().unwrap();
    }
    let cut = |(_, line): &&(_, String)| line.contains("does not answer the open");
    let cuts = world.members[LSP].log.iter().filter(cut).count();
    assert!((2..12).contains(&cuts), "{cuts}");
    assert_eq!(books(&world, instance)[0], (0, PRICE));
    let why = world.refused(1, instance).unwrap_or_default();
    assert!(why.contains("purchases came to nothing"), "{why}");
    // Once its node answers it gets what it has paid for.
    world.members[1].lightningd.ignores_ordinary = false;
    world.now += 24 * 3_600_000;
    buy(&mut world, instance);
    world.run_out().unwrap();
    assert_eq!(books(&world, instance), [(1, 0); 2]);
}

/// S28, S29: an operator whose own wallet is short blames nobody for that: its buyer may go on as soon as there are
/// coins. Until the next block it isn't tried again, so that a buyer has few records written.
#[test]
fn an_operator_that_is_short_of_coins_blames_nobody() {
    let (mut world, instance) = away(11, [true; 2]);
    let records = |world: &World| world.members[LSP].store.records(instance).len();
    world.members[LSP].lightningd.short_of_coins = true;
    for _ in 0..12 {
        buy(&mut world, instance);
        world.run_out().unwrap();
        let why = world.refused(1, instance).unwrap();
        assert!(why.contains("afford"), "{why}");
        let before = records(&world);
        buy(&mut world, instance);
        world.run_out().unwrap();
        let why = world.refused(1, instance).unwrap();
        assert!(why.contains("next block"), "{why}");
        assert_eq!(records(&world), before);
        world.mine(1).unwrap();
        world.run_out().unwrap();
    }
    assert_eq!(books(&world, instance)[0], (0, PRICE));
    world.members[LSP].lightningd.short_of_coins = false;
    buy(&mut world, instance);
    world.run_out().unwrap();
    assert_eq!(books(&world, instance), [(1, 0); 2]);
}

/// S4, S30: whoever is away while a neighbour wants to buy has wasted nobody's work, however often that is.
#[test]
fn whoever_is_away_has_done_nothing() {
    let (mut world, instance) = away(12, [false; 2]);
    for _ in 0..20 {
        buy(&mut world, instance);
        world.run_out().unwrap();
        let why = world.refused(1, instance).unwrap();
        assert!(why.contains("not connected"), "{why}");
    }
    world.start(2).unwrap();
    world.connect(LSP, 2).unwrap();
    world.run_out().unwrap();
    assert_eq!(world.ask(2, instance, AMOUNT.to_sat(), PRICE).unwrap(), Ok(Answer::Done));
    world.run_out().unwrap();
    let why = world.refused(2, instance).unwrap_or_default();
    assert!(!why.contains("came to nothing"), "{why}");
    // Nor does it keep its neighbour from what is sold.
    buy(&mut world, instance);
    world.run_out().unwrap();
    assert_eq!(world.refused(1, instance), None);
    assert_eq!(sales(&world, 1, instance).len(), 1);
}

/// S28: a buyer whose connection ends whenever its channel is about to be committed can't have the operator write
/// records without end.
#[test]
fn a_buyer_that_is_gone_whenever_its_channel_is_opened_has_to_wait() {
    let scenario = Scenario::new(13).clients(4).stock(300_000).prices(PriceList::of_sales(PRICE, 0));
    let (mut world, instance) = scenario.active().unwrap();
    let records = |world: &World| world.members[LSP].store.records(instance).len();
    let before = records(&world);
    let mut opened = 0;
    for _ in 0..40 {
        buy(&mut world, instance);
        let mut more = true;
        while more && factory(&world, LSP, instance).current.sales.openings().next().is_none() {
            more = world.step().unwrap();
        }
        if more {
            opened += 1;
            let result = Err(OpenFailure::Disconnected("Owning subdaemon openingd died".to_owned()));
            let input = Input::ChannelCompleted { instance, attempt: 1, client: 0, sale: Some(1), result };
            world.feed(LSP, input).unwrap();
        }
        world.settle().unwrap();
        world.disconnect(LSP, 1);
        world.settle().unwrap();
        world.connect(LSP, 1).unwrap();
        world.settle().unwrap();
    }
    assert!((8..20).contains(&opened), "{opened}");
    assert!(records(&world) <= before + 2 * opened);
}
