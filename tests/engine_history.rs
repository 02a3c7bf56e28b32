//! What happened to a factory, told from its records: each kind of event, heights that are known, and sums that are what
//! the chain and the account say.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;
#[path = "golden/samples.rs"]
mod samples;

use std::collections::BTreeSet;

use common::closes::{close, paid, pays};
use common::factory;
use factory_engine::record::event::*;
use factory_engine::report::history::{
    Child, Doubt, Elsewhere, Entry, Filter, History, Kind, Sums, Window, history, history_for,
};
use factory_engine::tx::musig::{PublicKey, SealedKey};
use factory_engine::types::{Amount, ChannelId, InstanceId, OutPoint, PaymentHash, Transaction};
use factory_engine::{Command, PriceList, Purpose, Role, State, statement};
use factory_lab::scenario::Scenario;
use factory_lab::world::{LSP, World};

const PRICE: u64 = 700_001;
const CHANNEL: ChannelId = ChannelId([0x32; 32]);

/// A member's records, and what may follow them.
fn told_with(world: &World, at: usize, instance: InstanceId, more: Vec<Event>) -> History {
    let records = world.members[at].store.records(instance).iter();
    let told = history(instance, records.map(|record| decode_record(record)).chain([Ok(more)]));
    assert_eq!(told.damage, None, "member {at}");
    told
}

fn told(world: &World, at: usize, instance: InstanceId) -> History {
    told_with(world, at, instance, vec![])
}

fn sums(told: &History) -> Sums {
    told.sums(&Filter::default())
}

fn of_event<'a>(told: &'a History, event: &str) -> Vec<&'a Entry> {
    told.entries.iter().filter(|entry| entry.event == event).collect()
}

/// Clients with stock, and delays that a test can wait for.
fn short(seed: u64) -> Scenario {
    Scenario::new(seed).clients(4).stock(300_000).short_delays().lifetime(110, 40).unchecked()
}

/// The height that an event has by its own fields, as they are written for developers.
fn height_in(event: &Event) -> Option<u32> {
    let text = format!("{event:?}");
    let starts = [", height: ", "{ height: "];
    let at = starts.into_iter().find_map(|start| Some(text.find(start)? + start.len()))?;
    let digits = text[at..].chars().skip_while(|c| !c.is_ascii_digit());
    digits.take_while(char::is_ascii_digit).collect::<String>().parse().ok()
}

/// Each kind of event is told, also where nothing is known of its factory, and with the height that it has.
#[test]
fn every_kind_of_event_is_told() {
    let mut names = BTreeSet::new();
    for (name, event) in samples::named() {
        let told = history(InstanceId([0x11; 32]), [Ok(vec![event.clone()])]);
        let [entry] = told.entries.as_slice() else { panic!("{name}: {told:?}") };
        assert_ne!(entry.told.kind, Kind::Unreadable, "{name}: nobody tells it");
        assert!(entry.told.what.len() > 5, "{name}: {}", entry.told.what);
        assert_eq!((entry.index, entry.record, entry.event), (1, 0, event.name()), "{name}");
        assert_eq!(entry.told.height, height_in(&event), "{name}");
        assert_eq!((entry.not_before, entry.money()), (None, Sums::default()), "{name}");
        names.insert(entry.event);
    }
    assert_eq!(names, Event::NAMES.iter().copied().collect());
}

/// No height is made up: what has none says what was known before it, and stands there.
#[test]
fn heights_are_those_of_records() {
    let (world, instance) = short(1).sold(&[(1, 50_000)]).unwrap();
    for at in [LSP, 1, 2] {
        let told = told(&world, at, instance);
        let mut known = None;
        for (place, entry) in (1..).zip(&told.entries) {
            assert_eq!(entry.index, place);
            assert_eq!(entry.not_before, known.filter(|_| entry.told.height.is_none()), "{entry:?}");
            known = known.max(entry.told.height);
        }
        let funded = factory(&world, at, instance).funding_height().unwrap();
        let (before, after) = (
            Filter { to: Some(funded - 1), ..Filter::default() },
            Filter { from: Some(funded), ..Filter::default() },
        );
        let numbers = |filter: &Filter| told.wanted(filter).map(|entry| entry.index).collect::<BTreeSet<_>>();
        assert!(numbers(&before).is_disjoint(&numbers(&after)), "member {at}");
        assert_eq!(numbers(&before).len() + numbers(&after).len(), told.entries.len(), "member {at}");
        let funding = of_event(&told, "confirmed")[0];
        assert_eq!((funding.told.kind, funding.told.height), (Kind::Funding, Some(funded)), "member {at}");
        let needed = u32::from(factory(&world, at, instance).current.terms.funding_confirmations);
        assert_eq!(funding.told.facts.active_from, Some(funded + needed - 1), "member {at}");
        let kinds = Filter { kinds: vec![Kind::Sale], ..Filter::default() };
        assert!(told.wanted(&kinds).count() > 0, "member {at}");
        assert!(told.wanted(&kinds).all(|entry| entry.told.kind == Kind::Sale), "member {at}");
    }
}

/// The operator earns what the buyer spends, once; a neighbour neither.
#[test]
fn a_sale_is_earned_once() {
    let scenario = Scenario::new(1).clients(4).stock(300_000).prices(PriceList::of_sales(PRICE, 0));
    let (mut world, instance) = scenario.active().unwrap();
    world.pay(LSP, 1, 20_000_000).unwrap();
    world.buy(1, instance, 50_000, PRICE).unwrap();
    world.run_out().unwrap();
    let (operator, buyer, neighbour) =
        (told(&world, LSP, instance), told(&world, 1, instance), told(&world, 2, instance));
    assert_eq!((operator.role, sums(&operator).earned.sales_msat), (Some(Role::Lsp), PRICE));
    assert_eq!((sums(&operator).earned.total_msat(), sums(&operator).paid.total_msat()), (PRICE, 0));
    assert_eq!((sums(&buyer).paid.sales_msat, sums(&buyer).spent_msat()), (PRICE, PRICE));
    assert_eq!(sums(&neighbour), Sums::default());
    let invoices = (sums(&operator).invoices, sums(&buyer).invoices);
    assert_eq!((invoices.0.received_msat, invoices.0.paid_msat), (PRICE, 0));
    assert_eq!((invoices.1.received_msat, invoices.1.paid_msat), (0, PRICE));
    let sold = factory(&world, LSP, instance).current.sales.all().next().unwrap().clone();
    for told in [&operator, &buyer, &neighbour] {
        let [signed]: [&Entry; 1] = of_event(told, "sale_signed").try_into().unwrap();
        let facts = &signed.told.facts;
        assert_eq!((facts.clients[0].client, facts.sale), (0, Some(1)));
        assert_eq!((facts.amount_msat, facts.price_msat), (Some(50_000_000), Some(PRICE)));
        assert_eq!((facts.txid, facts.channel_id), (Some(sold.txid()), Some(sold.channel_id())));
        assert!(facts.fee_msat.unwrap() > 0);
    }
    // A client doesn't know its neighbours' nodes.
    let node = |told: &History| of_event(told, "sale_signed")[0].told.facts.clients[0].node;
    assert_eq!((node(&operator), node(&buyer)), (Some(world.members[1].id), None));
}

/// What a transaction in the chain pays miners, msat.
fn fee_msat(world: &World, tx: &Transaction) -> u64 {
    let spent = tx.input.iter().map(|input| {
        let OutPoint { txid, vout } = input.previous_output;
        world.chain.confirmed(txid).unwrap().1.output[vout as usize].value
    });
    let paid: Amount = tx.output.iter().map(|output| output.value).sum();
    (spent.sum::<Amount>() - paid).to_sat() * 1_000
}

/// The sums are those of the account, and each fee is the chain's.
fn agrees(world: &World, at: usize, instance: InstanceId) -> Sums {
    let (known, told) = (factory(world, at, instance), told(world, at, instance));
    let (account, sums) = (statement(known).unwrap(), sums(&told));
    assert_eq!(account.problem, None, "member {at}");
    let msat = |which: &dyn Fn(&Purpose) -> bool| account.total(which).unwrap().to_sat() * 1_000;
    let fees = msat(&|purpose| matches!(purpose, Purpose::Fee(_)));
    let stock = msat(&|purpose| matches!(purpose, Purpose::Stock(_)));
    let reclaimed = msat(&|purpose| matches!(purpose, Purpose::Reclaimed));
    match known.current.role {
        Role::Lsp => {
            assert_eq!(sums.put_in_msat, account.funding.to_sat() * 1_000);
            assert_eq!(sums.fees.transactions_msat, fees);
            assert_eq!((sums.back.stock_msat, sums.back.reclaimed_msat), (stock, reclaimed));
            let rest = msat(&|purpose| *purpose == Purpose::Closed(None));
            assert_eq!((sums.back.closes_msat, sums.back.distributions_msat), (rest, 0));
            // The funding's inputs are in no transaction of this chain.
            let reserved = known.current.reserved.as_deref().unwrap();
            let spent: Amount = reserved.prevouts.iter().map(|prevout| prevout.value).sum();
            let paid: Amount = reserved.tx.output.iter().map(|output| output.value).sum();
            assert_eq!(sums.fees.funding_msat, (spent - paid).to_sat() * 1_000);
        }
        Role::Client { index, .. } => {
            assert_eq!((sums.put_in_msat, sums.fees.total_msat(), sums.earned.total_msat()), (0, 0, 0));
            let own = msat(&|purpose| *purpose == Purpose::Closed(Some(index)));
            let out = msat(&|purpose| *purpose == Purpose::Payout(index));
            assert_eq!((sums.back.closes_msat, sums.back.distributions_msat), (own, out), "client {index}");
        }
    }
    let on_chain = of_event(&told, "confirmed").into_iter().filter(|entry| !entry.undone);
    for entry in on_chain.filter(|entry| entry.told.kind != Kind::Funding) {
        let (_, tx) = world.chain.confirmed(entry.told.facts.txid.unwrap()).unwrap();
        assert_eq!(entry.told.facts.fee_msat, Some(fee_msat(world, tx)), "{}", entry.told.what);
    }
    sums
}

/// An exit of the operator's, with what was sold and what was left of the stock.
#[test]
fn stock_comes_back_and_fees_are_the_chains() {
    let (mut world, instance) = short(9).sold(&[(1, 50_000)]).unwrap();
    world.command(LSP, Command::Exit { instance }).unwrap();
    world.mine(20).unwrap();
    let operator = agrees(&world, LSP, instance);
    assert!(operator.back.stock_msat > 0 && operator.fees.transactions_msat > 0);
    let told = told(&world, LSP, instance);
    let [exit]: [&Entry; 1] = of_event(&told, "exit_started").try_into().unwrap();
    assert_eq!((exit.told.kind, exit.told.facts.clients.len()), (Kind::Exit, 4));
    assert!(exit.told.facts.reason.is_some());
    let taken: Vec<&str> = told
        .entries
        .iter()
        .filter(|entry| entry.money().back.stock_msat > 0)
        .map(|entry| &*entry.told.what)
        .collect();
    assert!(taken[0].starts_with("the operator's own spend of stock coin "), "{taken:?}");
    agrees(&world, 1, instance);
}

/// A copy that is older than a sale doesn't know it: what spends the stock then may be that.
#[test]
fn what_spends_stock_after_a_restore_is_unknown() {
    let (mut world, instance) = short(9).sold(&[(1, 50_000)]).unwrap();
    world.command(LSP, Command::Exit { instance }).unwrap();
    world.mine(20).unwrap();
    let whole = told(&world, LSP, instance);
    let is_taken = |entry: &&Entry| entry.money().back.stock_msat > 0;
    let first = whole.entries.iter().find(is_taken).unwrap();
    let records = world.members[LSP].store.records(instance).iter();
    let mut records: Vec<_> = records.map(|record| decode_record(record)).collect();
    let restored = Restored { reason: "a copy of last week".to_owned() };
    records.insert(first.record as usize, Ok(vec![restored.into()]));
    let told = history(instance, records);
    assert_eq!((told.damage.as_deref(), sums(&told).back.stock_msat), (None, 0));
    let is_it = |entry: &&Entry| entry.event == "confirmed" && entry.told.facts.txid == first.told.facts.txid;
    let again = told.entries.iter().find(is_it).unwrap();
    assert_eq!((again.told.kind, again.money()), (Kind::Chain, Sums::default()));
    assert!(again.told.what.contains("that we hold no copy of"), "{}", again.told.what);
}

/// After the timeout clients have what distributions pay.
#[test]
fn distributions_come_back_to_clients() {
    let (mut world, instance) = short(10).active().unwrap();
    let timeout = factory(&world, LSP, instance).current.terms.timeout_height;
    world.stop(LSP);
    world.mine_to(timeout + 3).unwrap();
    let clients: Vec<Sums> = (1..=4).map(|client| agrees(&world, client, instance)).collect();
    assert!(clients.iter().all(|sums| sums.back.distributions_msat > 0), "{clients:?}");
    let told = told(&world, 1, instance);
    assert!(told.entries.iter().any(|entry| entry.told.kind == Kind::Distribution));
}

/// A close pays everybody what it has, and the operator the rest.
#[test]
fn a_close_comes_back_to_everybody() {
    let (mut world, instance) = paid(11, 3);
    close(&mut world, instance).unwrap();
    world.mine(1).unwrap();
    let (_, tx) = world.chain.spender(factory(&world, LSP, instance).funding().unwrap()).unwrap();
    for at in 0..=3 {
        let back = agrees(&world, at, instance).back;
        assert_eq!(back.closes_msat, pays(&world, at, tx).to_sat() * 1_000, "member {at}");
        assert_eq!(back.total_msat(), back.closes_msat, "member {at}");
    }
}

/// What was handed over comes back to the operator, which has all keys.
#[test]
fn what_was_handed_over_comes_back() {
    let scenario = Scenario::new(12).clients(3).stock(0).short_delays().lifetime(120, 30);
    let (mut world, instance) = scenario.config(|config| config.reclaim_blocks = 10).active().unwrap();
    for client in 1..=3 {
        world.hand_over(client, instance).unwrap();
    }
    let timeout = factory(&world, LSP, instance).current.terms.timeout_height;
    world.mine_to(timeout).unwrap();
    assert_eq!(world.state(LSP, instance), Some(State::Reclaimed));
    let operator = agrees(&world, LSP, instance);
    assert!(operator.back.reclaimed_msat > 0);
    let told = told(&world, LSP, instance);
    assert_eq!(of_event(&told, "key_received").len(), 3);
    let taken = of_event(&told, "confirmed").into_iter().filter(|entry| entry.told.kind == Kind::Reclaim);
    assert_eq!(taken.count(), 1);
}

/// A block that left the chain took its fees with it; they count in the next that has the transaction.
#[test]
fn what_left_the_chain_counts_once() {
    let (mut world, instance) = Scenario::new(5).clients(3).active().unwrap();
    world.command(1, Command::Exit { instance }).unwrap();
    world.mine(2).unwrap();
    world.reorg(2).unwrap();
    world.mine(6).unwrap();
    for at in [LSP, 1, 2] {
        agrees(&world, at, instance);
        let told = told(&world, at, instance);
        let undone: Vec<&Entry> = told.entries.iter().filter(|entry| entry.undone).collect();
        assert!(!undone.is_empty(), "member {at}");
        for entry in undone {
            assert_eq!((entry.event, entry.money()), ("confirmed", Sums::default()), "member {at}");
            let again = |other: &&Entry| !other.undone && other.told.facts.txid == entry.told.facts.txid;
            assert_eq!(told.entries.iter().filter(again).count(), 1, "member {at}: {}", entry.told.what);
        }
        assert_eq!(of_event(&told, "reorged").len(), 1, "member {at}");
    }
}

/// A start that doesn't understand a record reads the chain again: what it stores of that is told, and not counted.
#[test]
fn a_confirmation_that_is_stored_twice_counts_once() {
    let (world, instance) = Scenario::new(6).active().unwrap();
    let before = told(&world, LSP, instance);
    let funded = factory(&world, LSP, instance).funding_height().unwrap();
    let txid = factory(&world, LSP, instance).funding().unwrap().txid;
    let again = Confirmed { txid, height: funded, spends: vec![], pays: None };
    let after = told_with(&world, LSP, instance, vec![again.into()]);
    assert_eq!(after.entries.len(), before.entries.len() + 1);
    assert!(sums(&before).put_in_msat > 0);
    assert_eq!(sums(&after), sums(&before));
}

/// Prices of whatever isn't a sale, as operator and as client.
#[test]
fn other_prices_count_where_they_are_paid() {
    let (world, instance) = Scenario::new(7).active().unwrap();
    let earned = |more: Vec<Event>| sums(&told_with(&world, LSP, instance, more));
    let spent = |more: Vec<Event>| sums(&told_with(&world, 1, instance, more));
    let of = InstanceId([0x12; 32]);

    let renewals = earned(vec![RenewalPaid { client: 0, of, msat: 6_000 }.into()]).earned;
    assert_eq!((renewals.renewals_msat, renewals.total_msat()), (6_000, 6_000));
    let renewed = spent(vec![Renewed { of, msat: 6_000 }.into()]);
    assert_eq!(
        (renewed.paid.renewals_msat, renewed.spent_msat(), renewed.earned.total_msat()),
        (6_000, 6_000, 0)
    );

    // A channel for a client that leaves is paid with its key.
    let opening = LeaveOpening { client: 0, amount: Amount::from_sat(99), price_msat: 616_000, height: 130 };
    let funded = LeaveFunded { client: 0, channel_id: Some(CHANNEL), height: 131 };
    let opened: Vec<Event> = vec![opening.into(), funded.into()];
    assert_eq!(earned(opened.clone()).earned.total_msat(), 0);
    let key: PublicKey =
        "02c6047f9441ed7d6d3045406e95c07cd85c778e4b8cef3ca7abac09b95c709ee5".parse().unwrap();
    let key = SealedKey { ephemeral: key, sealed: [0x61; 32] };
    let left = [opened, vec![KeyReceived { client: 0, key, height: 140 }.into()]].concat();
    assert_eq!(earned(left).earned.leaves_msat, 616_000);
    let wanted = LeaveWanted { height: 130, stays_msat: 546_000, max_price_msat: 700_000, to: None };
    let opened = LeaveOpened { channel_id: CHANNEL, price_msat: 616_000, height: 131 };
    let gone = vec![wanted.into(), opened.into(), HandedOver { height: 140 }.into()];
    assert_eq!(spent(gone).paid.leaves_msat, 616_000);

    // An ordinary channel in place of a sale: not before it is there.
    let (amount, price_msat) = (Amount::from_sat(15_000), 2_000);
    let begun = SaleJit { buyer: 0, amount, price_msat, height: Some(130) };
    let opened = SaleJitOpened { buyer: 0, amount, price_msat, channel_id: CHANNEL, outpoint: None };
    let failed = SaleJitFailed { buyer: 0, height: 131 };
    assert_eq!(earned(vec![begun.clone().into(), failed.into()]).earned.total_msat(), 0);
    let there = earned(vec![begun.into(), opened.clone().into()]).earned;
    assert_eq!((there.ordinary_channels_msat, there.total_msat()), (2_000, 2_000));
    assert_eq!(spent(vec![opened.clone().into()]).paid.ordinary_channels_msat, 2_000);
    assert_eq!(spent(vec![SaleJitOpened { buyer: 1, ..opened }.into()]), spent(vec![]), "a neighbour's");

    // Credit that is paid back, of an invoice that was paid, and of one that wasn't.
    let payment_hash = PaymentHash([0x31; 32]);
    let due = |back, label: Option<&str>| -> Event {
        let label = label.map(str::to_owned);
        SaleDue { payment_hash, buyer: 0, amount_msat: 2_000, label, back }.into()
    };
    let ended = |paid| -> Event { SaleDueEnded { payment_hash, paid, height: 130 }.into() };
    let flow = |sums: Sums| (sums.invoices.received_msat, sums.invoices.paid_msat);
    let first = || vec![due(false, Some("cln-factory-1")), ended(true)];
    assert_eq!(flow(earned(first())), (2_000, 0));
    assert_eq!(flow(earned(vec![due(false, Some("cln-factory-1")), ended(false)])), (0, 0));
    assert_eq!(flow(earned([first(), vec![due(true, None), ended(true)]].concat())), (2_000, 2_000));
    let client = || vec![due(false, None), ended(true)];
    let back = || vec![due(true, Some("cln-factory-credit-1")), ended(true)];
    assert_eq!(flow(spent([client(), back()].concat())), (2_000, 2_000));
    assert_eq!(spent([client(), back()].concat()).spent_msat(), 0, "nothing was bought");
}

/// A channel was opened for a client that leaves, which then went on to the next factory: it doesn't pay for it.
#[test]
fn a_key_that_goes_with_a_renewal_pays_no_leave() {
    let (world, instance) = Scenario::new(7).active().unwrap();
    let funded = factory(&world, LSP, instance).funding_height().unwrap();
    let (opening, at) = (funded + 10, funded + 20);
    let amount = Amount::from_sat(99);
    let key: PublicKey =
        "02c6047f9441ed7d6d3045406e95c07cd85c778e4b8cef3ca7abac09b95c709ee5".parse().unwrap();
    let key = SealedKey { ephemeral: key, sealed: [0x61; 32] };
    let left = told_with(
        &world,
        LSP,
        instance,
        vec![
            LeaveOpening { client: 0, amount, price_msat: 616_000, height: opening }.into(),
            LeaveFunded { client: 0, channel_id: Some(CHANNEL), height: opening }.into(),
            KeyReceived { client: 0, key, height: at }.into(),
        ],
    );
    let doubts = left.doubts(&Filter::default());
    let [(index, doubt)] = doubts.as_slice() else { panic!("{doubts:?}") };
    let mut next = told(&world, LSP, instance);
    let mut elsewhere = Elsewhere::default();
    elsewhere.add_places(&next);
    assert!(!elsewhere.knows(doubt), "one that ends no later");
    next.factory.as_mut().unwrap().current.terms.timeout_height += 10;
    elsewhere.add_places(&next);
    assert!(elsewhere.knows(doubt));
    let mut mended = sums(&left);
    assert_eq!(mended.earned.leaves_msat, 616_000);
    doubt.mend(&mut mended);
    assert_eq!(mended, sums(&told(&world, LSP, instance)));
    let mut entry = left.entries.iter().find(|entry| entry.index == *index).unwrap().clone();
    doubt.mend_entry(&mut entry);
    assert_eq!((entry.event, entry.money()), ("key_received", Sums::default()));
    assert_eq!(entry.told.facts.price_msat, None);
    // One that is funded later was nothing to go to.
    let mut early = Elsewhere::default();
    early.add_places(&next);
    let doubt_before = match *doubt {
        Doubt::Leave { node, ends, msat, .. } => Doubt::Leave { node, ends, at: funded - 1, msat },
        Doubt::Fee { .. } => panic!("{doubt:?}"),
    };
    assert!(!early.knows(&doubt_before));
}

/// A child that raised a fee is lightningd's to know: it stands with its parent.
#[test]
fn a_child_stands_with_its_parent() {
    let (mut world, instance) = Scenario::new(8).clients(3).active().unwrap();
    world.command(1, Command::Exit { instance }).unwrap();
    assert_eq!(told(&world, 1, instance).anchors().count(), 0, "nothing is on chain");
    world.mine(4).unwrap();
    let mut told = told(&world, 1, instance);
    let (anchor, value) = told.anchors().next().unwrap();
    assert_eq!(value, Amount::from_sat(240));
    let (_, parent) = world.chain.confirmed(anchor.txid).unwrap();
    assert_eq!(parent.output[anchor.vout as usize].value, value);
    let child = |fee: Option<u64>| Child { txid: anchor.txid, fee: fee.map(Amount::from_sat) };
    let mut unknown = told.clone();
    unknown.add_child(anchor, child(None));
    assert_eq!(
        (sums(&unknown), unknown.entries.iter().filter(|entry| entry.child.is_some()).count()),
        (Sums { children_unknown: 1, ..sums(&told) }, 1)
    );
    told.add_child(anchor, child(Some(1_240)));
    // Twice is once, and of another transaction nothing.
    told.add_child(anchor, child(Some(5_000)));
    told.add_child(OutPoint { vout: anchor.vout + 1, ..anchor }, child(Some(5_000)));
    let sums = sums(&told);
    assert_eq!((sums.fees.children_msat, sums.spent_msat()), (1_240_000, 1_240_000));
    assert_eq!((sums.back.anchors_msat, sums.back.total_msat()), (240_000, 240_000));
    assert_eq!(sums.children_unknown, 0);
}

/// What isn't shown is counted all the same, and has no words in memory.
#[test]
fn only_what_is_shown_has_words() {
    let (mut world, instance) = short(14).sold(&[(1, 50_000)]).unwrap();
    world.command(LSP, Command::Exit { instance }).unwrap();
    world.mine(20).unwrap();
    let whole = told(&world, LSP, instance);
    let count = whole.entries.len();
    let middle = whole.entries[count / 2].told.height.or(whole.entries[count / 2].not_before);
    let (kinds, all) = (vec![Kind::Chain, Kind::Sale, Kind::Signed], Filter::default());
    let late = Filter { from: middle, ..Filter::default() };
    let early = Filter { kinds, to: middle, ..Filter::default() };
    for filter in [all, late, early] {
        for (start, limit) in [(0, 0), (0, 1), (0, 5), (3, 2), (0, count), (count as u64, 9)] {
            let window = Window { filter: filter.clone(), start, limit };
            let records = world.members[LSP].store.records(instance).iter();
            let part = history_for(instance, records.map(|record| decode_record(record)), window);
            assert_eq!((part.entries.len(), part.begins()), (count, whole.begins()));
            assert_eq!(
                (part.sums(&filter), part.doubts(&filter)),
                (whole.sums(&filter), whole.doubts(&filter))
            );
            assert_eq!(part.anchors().collect::<Vec<_>>(), whole.anchors().collect::<Vec<_>>());
            let page = |history: &History| {
                let wanted = history.wanted(&filter).filter(|entry| entry.index >= start);
                wanted.take(limit).cloned().collect::<Vec<_>>()
            };
            assert_eq!(page(&part), page(&whole), "{filter:?} {start} {limit}");
            let numbers =
                |history: &History| history.wanted(&filter).map(|entry| entry.index).collect::<Vec<_>>();
            assert_eq!(numbers(&part), numbers(&whole));
            let told = part.entries.iter().filter(|entry| !entry.told.what.is_empty()).count();
            // What comes before the first height may be in range or not.
            let unsure =
                whole.entries.iter().filter(|entry| entry.told.height.or(entry.not_before).is_none());
            assert!(told <= limit + unsure.count(), "{told} of {count} for {limit}");
        }
    }
}

/// A record that isn't understood is one entry, and what follows is told as far as it fits.
#[test]
fn a_record_that_is_not_understood_is_told() {
    let (world, instance) = short(13).sold(&[(1, 50_000)]).unwrap();
    let whole = told(&world, LSP, instance);
    let records = world.members[LSP].store.records(instance);
    for gap in 0..records.len() {
        let read = |(number, record): (usize, &Vec<u8>)| {
            let bytes: &[u8] = if number == gap { &[2] } else { record };
            decode_record(bytes)
        };
        let told = history(instance, records.iter().enumerate().map(read));
        let unreadable: Vec<&Entry> =
            told.entries.iter().filter(|entry| entry.told.kind == Kind::Unreadable).collect();
        let [entry] = unreadable.as_slice() else { panic!("record {gap}: {unreadable:?}") };
        assert_eq!((entry.record as usize, entry.event), (gap, "unreadable"));
        assert!(entry.told.facts.reason.as_deref().unwrap().contains("newer"), "record {gap}");
        assert!(told.damage.as_deref().unwrap().starts_with(&format!("record {gap}: ")), "{:?}", told.damage);
        let lost = decode_record(&records[gap]).unwrap().len();
        assert_eq!(told.entries.len(), whole.entries.len() - lost + 1, "record {gap}");
    }
}
