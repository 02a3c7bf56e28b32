//! Liquidity that costs something: it is paid before anybody signs, and whoever dies meanwhile, neither
//! side loses more than the price.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;

use common::{factory, purse, sales};
use factory_engine::types::{Amount, InstanceId};
use factory_engine::wire::message::Message;
use factory_engine::{Command, Input, PriceList};
use factory_lab::offer::Offer;
use factory_lab::scenario::Scenario;
use factory_lab::world::{CrashAt, Fate, LSP, World};

/// The same at every height.
const PRICE: u64 = 700_001;
/// What the buyer has in its first channel, beside what it was pushed.
const PURSE: u64 = 20_000_000;

/// Four clients in one leaf, two sub-factories with stock, and an operator that wants money.
fn active(seed: u64, prices: PriceList) -> (World, InstanceId) {
    let scenario = Scenario::new(seed).clients(4).stock(300_000).prices(prices);
    let (mut world, instance) = scenario.active().unwrap();
    world.pay(LSP, 1, PURSE).unwrap();
    (world, instance)
}

fn flat() -> PriceList {
    PriceList::of_sales(PRICE, 0)
}

fn credits(world: &World, instance: InstanceId) -> [u64; 2] {
    [LSP, 1].map(|at| factory(world, at, instance).current.sales.account().credit(0))
}

#[test]
fn a_sale_costs_its_price_and_no_more() {
    let (mut world, instance) = active(1, PriceList::of_sales(10_000, 20_000));
    let before = purse(&world, instance);
    let question = Command::AskPrice { instance, amount: Amount::from_sat(50_000) };
    world.command(1, question).unwrap();
    world.run_out().unwrap();
    let price =
        world.members[1].engine.as_ref().unwrap().asked_price(instance).unwrap().clone().unwrap().price_msat;
    // 2 % of 50,000 sat for a whole lifetime, of which some blocks are gone by now.
    assert!(price < 1_010_000 && price > 900_000, "{price}");
    world.ask(1, instance, 50_000, price).unwrap().unwrap();
    world.run_out().unwrap();
    assert_eq!(world.refused(1, instance), None);
    assert_eq!(before - purse(&world, instance), price);
    for at in [LSP, 1, 2] {
        assert_eq!(sales(&world, at, instance).len(), 1);
    }
    let sold = factory(&world, 1, instance).current.sales.all().next().unwrap().clone();
    assert_eq!(sold.price_msat, price);
    assert_eq!(credits(&world, instance), [0, 0]);
    assert!(world.judge.violations.is_empty(), "{:?}", world.judge.violations);
}

#[test]
fn what_is_above_the_limit_is_refused_and_nothing_changes() {
    let (mut world, instance) = active(2, flat());
    let before = purse(&world, instance);
    for limit in [0, PRICE - 1] {
        world.ask(1, instance, 50_000, limit).unwrap().unwrap();
        world.run_out().unwrap();
        let why = world.refused(1, instance).unwrap();
        assert!(why.contains(&format!("max_price_msat={PRICE}")), "{why}");
    }
    // An operator that doesn't keep to the limit: the buyer does.
    world.tamper(|out| match &out.message {
        Message::Buy(buy) => {
            let buy = factory_engine::wire::message::Buy { max_price_msat: u64::MAX, ..buy.clone() };
            Fate::Replace(vec![Message::Buy(buy).encode()])
        }
        _ => Fate::Deliver,
    });
    world.ask(1, instance, 50_000, PRICE - 1).unwrap().unwrap();
    world.run_out().unwrap();
    let why = world.refused(1, instance).unwrap();
    assert!(why.contains("above the limit"), "{why}");
    assert_eq!((purse(&world, instance), sales(&world, LSP, instance).len()), (before, 0));
    assert_eq!(world.members[1].lightningd.channels.len(), 1);
}

#[test]
fn whoever_cannot_pay_gets_nothing_and_loses_nothing() {
    let (mut world, instance) = active(3, PriceList::of_sales(PURSE * 2, 0));
    let before = purse(&world, instance);
    world.ask(1, instance, 50_000, PURSE * 2).unwrap().unwrap();
    world.run_out().unwrap();
    let why = world.refused(1, instance).unwrap();
    assert!(why.contains("its price was not paid"), "{why}");
    assert_eq!((purse(&world, instance), sales(&world, LSP, instance).len()), (before, 0));
    assert_eq!(credits(&world, instance), [0, 0]);
    // The next may be paid.
    world.members[LSP].engine.as_mut().unwrap().set_prices(flat());
    world.ask(1, instance, 50_000, PRICE).unwrap().unwrap();
    world.run_out().unwrap();
    assert_eq!((world.refused(1, instance), sales(&world, LSP, instance).len()), (None, 1));
    assert_eq!(before - purse(&world, instance), PRICE);
}

/// S30: a payment that fails ends the purchase that it was for, and not one in another factory, whichever of the two
/// comes first.
#[test]
fn a_payment_that_fails_ends_its_own_purchase_alone() {
    for swapped in [false, true] {
        let (mut world, one) = active(8, flat());
        let other =
            world.make_factory(&Offer { stock: Amount::from_sat(300_000), ..Offer::default() }).unwrap();
        let (dear, waits) = if swapped { (other, one) } else { (one, other) };
        // One that waits for a neighbour's nonces.
        world.tamper(move |out| match &out.message {
            Message::SaleJoin(join) if out.from == 2 && join.instance == waits => Fate::Drop,
            _ => Fate::Deliver,
        });
        world.ask(1, waits, 40_000, PRICE).unwrap().unwrap();
        world.settle().unwrap();
        world.members[LSP].engine.as_mut().unwrap().set_prices(PriceList::of_sales(PURSE * 2, 0));
        world.ask(1, dear, 50_000, PURSE * 2).unwrap().unwrap();
        world.settle().unwrap();
        let why = world.refused(1, dear).unwrap();
        assert!(why.contains("its price was not paid"), "{why}");
        let purchase = world.members[1].engine.as_ref().unwrap().purchase(waits);
        assert!(purchase.is_some_and(|purchase| purchase.refused.is_none()), "the other one has ended, too");
        assert_eq!([one, other].map(|at| sales(&world, LSP, at).len()), [0, 0]);
    }
}

/// A lying operator asks for more than was agreed, or for the same again.
#[test]
fn more_than_is_owed_is_not_paid() {
    let (mut world, instance) = active(4, flat());
    let before = purse(&world, instance);
    world.tamper(|out| match &out.message {
        Message::SaleInvoice(invoice) => {
            let amount_msat = invoice.amount_msat + 1;
            let greedy = factory_engine::wire::message::SaleInvoice { amount_msat, ..invoice.clone() };
            Fate::Replace(vec![Message::SaleInvoice(greedy).encode()])
        }
        _ => Fate::Deliver,
    });
    world.ask(1, instance, 50_000, PRICE).unwrap().unwrap();
    world.run_out().unwrap();
    let why = world.refused(1, instance).unwrap();
    assert!(why.contains("are owed"), "{why}");
    assert_eq!((purse(&world, instance), sales(&world, LSP, instance).len()), (before, 0));
}

/// S4: who hears an invoice again that it has paid doesn't pay it again, and names nobody.
#[test]
fn an_invoice_that_comes_again_is_paid_once() {
    let mut again = 0;
    for seed in 0..16 {
        let (mut world, instance) = active(seed, flat());
        let before = purse(&world, instance);
        let (heard, invoice) = std::sync::mpsc::channel();
        world.tamper(move |out| {
            if let Message::SaleInvoice(_) = &out.message {
                heard.send(out.message.encode()).unwrap();
            }
            Fate::Deliver
        });
        world.ask(1, instance, 50_000, PRICE).unwrap().unwrap();
        // Most often it has signed before it hears that its payment has arrived.
        let paid = world.run_until("credit", |world| credits(world, instance)[1] == PRICE);
        if paid.is_ok() {
            again += 1;
            let peer = world.members[LSP].id;
            world.feed(1, Input::Message { peer, payload: invoice.recv().unwrap() }).unwrap();
            let fault = world.members[1].log.iter().find(|(_, text)| text.contains("fault of"));
            assert_eq!(fault, None, "seed {seed}");
            world.run_out().unwrap();
        }
        assert_eq!(world.refused(1, instance), None);
        assert_eq!((before - purse(&world, instance), sales(&world, LSP, instance).len()), (PRICE, 1));
    }
    assert!(again > 3, "{again}");
}

/// Brings a member back, judges what was sold and paid, and buys again. How many sales there were, and
/// what was the buyer's credit.
fn recover(world: &mut World, instance: InstanceId, victim: usize, before: u64, at: &str) -> (usize, u64) {
    world.settle().unwrap();
    if world.members[victim].engine.is_none() {
        world.start(victim).unwrap();
    }
    for client in 1..=4 {
        if victim == LSP || client == victim {
            world.connect(LSP, client).unwrap();
        }
    }
    world.run_out().unwrap();
    world.mine(1).unwrap();
    world.run_out().unwrap();
    let (paid, sold) = (before - purse(world, instance), sales(world, LSP, instance).len());
    assert!(sold <= 1 && (paid == 0 || paid == PRICE), "{at}: {sold} sold, {paid} msat paid");
    let owed = paid - PRICE * u64::try_from(sold).unwrap();
    assert_eq!(credits(world, instance), [owed, owed], "{at}");
    for member in [LSP, 1, 2] {
        assert_eq!(sales(world, member, instance).len(), sold, "{at}, member {member}");
    }
    // It sells on, and what was paid counts.
    world.ask(1, instance, 20_000, PRICE).unwrap().unwrap();
    world.run_out().unwrap();
    assert_eq!(world.refused(1, instance), None, "{at}");
    let all = u64::try_from(sales(world, LSP, instance).len()).unwrap();
    assert_eq!(
        (before - purse(world, instance), all),
        (PRICE * all, 1 + u64::try_from(sold).unwrap()),
        "{at}"
    );
    assert_eq!(credits(world, instance), [0, 0], "{at}");
    assert!(world.judge.violations.is_empty(), "{at}: {:?}", world.judge.violations);
    (sold, owed)
}

/// S8, S14, S36: whoever dies at whatever step, the buyer has paid for what was signed and for nothing
/// else; what it paid beyond that is its credit on both sides, and buys the next.
#[test]
fn a_crash_at_any_step_costs_nobody_more_than_the_price() {
    let (mut finished, mut credited) = (0, 0);
    for victim in [LSP, 1, 2] {
        for step in 0..70 {
            let at = format!("victim {victim}, step {step}");
            let (mut world, instance) = active(1_000 + step, flat());
            let before = purse(&world, instance);
            world.ask(1, instance, 50_000, PRICE).unwrap().unwrap();
            let ended = (0..step).any(|_| !world.step().unwrap());
            world.stop(victim);
            let (sold, owed) = recover(&mut world, instance, victim, before, &at);
            finished += sold;
            credited += u64::from(owed > 0);
            if ended {
                break;
            }
        }
    }
    assert!(finished > 10 && credited > 0, "{finished} sales, {credited} credits");
}

/// The same with crashes inside a step: before it is stored, after, and between its effects.
#[test]
fn a_crash_inside_a_step_costs_nobody_more_than_the_price() {
    let kinds: [fn(u32) -> CrashAt; 4] = [
        CrashAt::BeforeStore,
        CrashAt::AfterStore,
        |step| CrashAt::AfterEffects(step, 1),
        |step| CrashAt::AfterEffects(step, 2),
    ];
    let mut crashed = 0;
    for victim in [LSP, 1] {
        for step in 1..9 {
            for (kind, crash) in kinds.iter().enumerate() {
                let at = format!("victim {victim}, record {step}, kind {kind}");
                let (mut world, instance) = active(2_000 + u64::from(step), flat());
                let before = purse(&world, instance);
                world.crash_at(victim, crash(step));
                world.ask(1, instance, 50_000, PRICE).unwrap().unwrap();
                world.settle().unwrap();
                crashed += u32::from(world.members[victim].engine.is_none());
                world.stop(victim);
                recover(&mut world, instance, victim, before, &at);
            }
        }
    }
    assert!(crashed > 20, "{crashed}");
}
