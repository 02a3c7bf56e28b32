//! Sales whose messages are other than agreed, come twice, or from whom they shouldn't.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;

use std::cell::RefCell;
use std::rc::Rc;

use common::{factory, purse, sales};
use factory_engine::types::{Amount, ChannelId, InstanceId, NodeId, PaymentHash, PaymentSecret, ScriptBuf};
use factory_engine::wire::message::{
    Buy, JitAccept, JitOffer, JitOpened, Message, Price, SaleAbort, SaleCommitted, SaleInvoice, SaleOffer,
    SalePartialSignatures, SalePropose,
};
use factory_engine::{Answer, Command, Effect, Entropy, Input, OpenChannel, PriceList, Sold};
use factory_lab::scenario::Scenario;
use factory_lab::world::{Fate, Fed, LSP, Outgoing, World};

const PRICE: u64 = 700_001;

/// Four clients in one leaf, two sub-factories with stock.
fn leaf(seed: u64) -> Scenario {
    Scenario::new(seed).clients(4).stock(300_000)
}

fn active(seed: u64) -> (World, InstanceId) {
    leaf(seed).active().unwrap()
}

/// The same with an operator that wants money, and a buyer that has some.
fn dear(seed: u64) -> (World, InstanceId) {
    let scenario = leaf(seed).prices(PriceList { base_msat: PRICE, ppm: 0 });
    let (mut world, instance) = scenario.active().unwrap();
    world.pay(LSP, 1, 20_000_000).unwrap();
    (world, instance)
}

/// An ordinary channel may come instead of a sale, and client 2 is there and sends no nonces.
fn silent_neighbour(seed: u64) -> (World, InstanceId) {
    let scenario =
        leaf(seed).prices(PriceList { base_msat: PRICE, ppm: 0 }).config(|config| config.jit = true);
    let (mut world, instance) = scenario.active().unwrap();
    world.pay(LSP, 1, 20_000_000).unwrap();
    world.tamper(silence);
    (world, instance)
}

fn silence(out: &Outgoing) -> Fate {
    if out.from == 2 && out.message.name() == "sale_join" { Fate::Drop } else { Fate::Deliver }
}

/// Client 1 buys, and everything that follows from it happens; why it came to nothing.
fn buys(world: &mut World, instance: InstanceId, most: u64) -> Option<String> {
    world.ask(1, instance, 50_000, most).unwrap().unwrap();
    world.run_out().unwrap();
    world.refused(1, instance).map(str::to_owned)
}

/// Replaces each message of a kind by what `change` makes of it.
fn change<M: Clone + Into<Message> + 'static>(
    world: &mut World,
    of: fn(&Message) -> Option<&M>,
    change: impl Fn(&mut M) + 'static,
) {
    world.tamper(move |out| match of(&out.message) {
        Some(message) => {
            let mut changed = message.clone();
            change(&mut changed);
            Fate::replace(changed)
        }
        None => Fate::Deliver,
    });
}

fn offer(message: &Message) -> Option<&SaleOffer> {
    if let Message::SaleOffer(offer) = message { Some(offer) } else { None }
}

fn said(world: &World, at: usize, text: &str) -> bool {
    world.members[at].log.iter().any(|(_, line)| line.contains(text))
}

/// What a closure has put aside.
type Seen<T> = Rc<RefCell<Vec<T>>>;
/// What is done to a message, and a part of what is said about it then.
type Change<M> = (fn(&mut M), &'static str);

fn seen<T: 'static>() -> (Seen<T>, Seen<T>) {
    let list: Seen<T> = Rc::default();
    (list.clone(), list)
}

/// S3, S32: a buyer takes what it asked for, for no more than it said, and nobody takes part in a sale whose
/// channel is another than the terms make.
#[test]
fn every_change_of_an_offer_is_declined() {
    let changes: [Change<SaleOffer>; 6] = [
        (|offer| offer.amount = Amount::from_sat(50_001), "not the amount"),
        (|offer| offer.price_msat = 1, "above the limit"),
        (|offer| offer.push_msat += 1, "push_msat"),
        (|offer| offer.channel_in_factory.blocks_early += 1, "channel_in_factory"),
        (|offer| offer.channel_in_factory.factory_instance = InstanceId([1; 32]), "channel_in_factory"),
        (|offer| offer.channel_in_factory.factory_protocol.0[0] ^= 1, "channel_in_factory"),
    ];
    for (tamper, text) in changes {
        let (mut world, instance) = active(1);
        change(&mut world, offer, tamper);
        let why = buys(&mut world, instance, 0).unwrap();
        assert!(why.contains(text), "{text}: {why}");
        assert_eq!([LSP, 1, 2].map(|at| sales(&world, at, instance).len()), [0; 3], "{text}");
    }
}

/// S3: that an offer has the script of a channel makes it no sale that was agreed to.
#[test]
fn a_sale_that_nobody_asked_for_is_declined() {
    let (mut world, instance) = active(2);
    let (offers, list) = seen();
    world.tamper(move |out| {
        if let (Message::SaleOffer(offer), 1) = (&out.message, out.to) {
            list.borrow_mut().push(offer.clone());
        }
        Fate::Deliver
    });
    assert_eq!(buys(&mut world, instance, 0), None);
    let first = offers.borrow()[0].clone();
    let script = sales(&world, 1, instance)[0].sale.channel_output.script_pubkey.clone();
    let mut record = first.channel_in_factory;
    record.blocks_early = factory(&world, 1, instance).sale_blocks_early(0, 2);
    for (price_msat, channel_script) in [(0, None), (0, Some(script.clone())), (7, Some(script))] {
        let again =
            SaleOffer { number: 2, price_msat, channel_script, channel_in_factory: record, ..first.clone() };
        world.send_raw(LSP, 1, Message::from(again).encode()).unwrap();
        world.run_out().unwrap();
    }
    let declined = world.members[1].log.iter().filter(|(_, text)| text.contains("didn't ask"));
    assert_eq!(declined.count(), 3);
}

/// S2: an offer that comes twice has one answer, with the same nonces.
#[test]
fn an_offer_that_comes_twice_has_one_answer() {
    let (mut world, instance) = active(3);
    let (joins, list) = seen();
    world.tamper(move |out| match &out.message {
        Message::SaleOffer(_) => Fate::Twice,
        Message::SaleJoin(join) => {
            list.borrow_mut().push((out.from, Message::from(join.clone()).encode()));
            Fate::Deliver
        }
        _ => Fate::Deliver,
    });
    assert_eq!(buys(&mut world, instance, 0), None);
    for client in [1, 2] {
        let joins = joins.borrow();
        let own: Vec<_> = joins.iter().filter(|(from, _)| *from == client).collect();
        assert!(own.len() == 2 && own[0] == own[1], "client {client}");
    }
    assert!(sales(&world, LSP, instance)[0].stored);
}

/// A sale that everybody has signed for and nobody has finished; then the operator was restarted, and offers it
/// again, as `tamper` has it.
fn taken_up_again(seed: u64, tamper: impl Fn(&mut SaleOffer) + 'static) -> (World, InstanceId) {
    let (mut world, instance) = active(seed);
    world.tamper(|out| match out.message.name() {
        "sale_partial_signatures" => Fate::Drop,
        _ => Fate::Deliver,
    });
    world.ask(1, instance, 50_000, 0).unwrap().unwrap();
    let signed = |world: &World| sales(world, 1, instance).len() + sales(world, 2, instance).len() == 2;
    world.run_until("both clients have signed", signed).unwrap();
    change(&mut world, offer, tamper);
    world.restart(LSP).unwrap();
    world.run_out().unwrap();
    (world, instance)
}

/// S8: what was signed for is taken up again just as it was.
#[test]
fn a_sale_that_was_signed_for_is_taken_up_as_it_was() {
    let (world, instance) = taken_up_again(4, |_| {});
    assert!(sales(&world, LSP, instance)[0].stored, "without a change it goes on");
    let changes: [fn(&mut SaleOffer); 4] = [
        |offer| offer.amount = Amount::from_sat(40_000),
        |offer| offer.buyer = 1,
        |offer| offer.channel_script = Some(ScriptBuf::new_op_return([1])),
        |offer| offer.channel_script = None,
    ];
    for (number, tamper) in changes.into_iter().enumerate() {
        let (world, instance) = taken_up_again(4, tamper);
        for at in [1, 2] {
            assert!(said(&world, at, "second sale of stock"), "change {number}, client {at}");
            assert!(!sales(&world, at, instance)[0].is_signed(), "change {number}");
        }
    }
}

/// S9: a sale that is done is said to be stored, whoever asks again; with other terms it was made by an
/// operator that has forgotten.
#[test]
fn a_sale_that_is_done_is_offered_again() {
    let (mut world, instance) = active(5);
    let (offers, list) = seen();
    world.tamper(move |out| {
        if let (Message::SaleOffer(offer), 1) = (&out.message, out.to) {
            list.borrow_mut().push(offer.clone());
        }
        Fate::Deliver
    });
    assert_eq!(buys(&mut world, instance, 0), None);
    let first = offers.borrow()[0].clone();
    let script = sales(&world, 1, instance)[0].sale.channel_output.script_pubkey.clone();
    let other = Some(ScriptBuf::new_op_return([1]));
    let (answers, list) = seen();
    world.tamper(move |out| {
        if out.from == 1 {
            list.borrow_mut().push(out.message.name());
        }
        Fate::Drop
    });
    for (again, stored) in [
        (first.clone(), true),
        (SaleOffer { channel_script: Some(script), ..first.clone() }, true),
        (SaleOffer { channel_script: other, ..first.clone() }, false),
        (SaleOffer { amount: Amount::from_sat(40_000), ..first.clone() }, false),
        (SaleOffer { buyer: 1, ..first.clone() }, false),
    ] {
        let text = format!("{again:?}");
        world.send_raw(LSP, 1, Message::from(again).encode()).unwrap();
        world.settle().unwrap();
        let name = if stored { "sale_stored" } else { "sale_abort" };
        assert_eq!(answers.borrow_mut().split_off(0), [name], "{text}");
    }
    assert!(said(&world, 1, "made already, with other terms"));
}

/// S3, S18: nothing is signed for another channel than the one that was committed and checked.
#[test]
fn another_channel_than_the_checked_one_is_not_signed_for() {
    fn propose(message: &Message) -> Option<&SalePropose> {
        if let Message::SalePropose(propose) = message { Some(propose) } else { None }
    }
    let (mut world, instance) = active(6);
    let other = bitcoin::ScriptBuf::new_p2wsh(&bitcoin::hashes::Hash::all_zeros());
    change(&mut world, propose, move |propose| propose.channel_script = other.clone());
    world.ask(1, instance, 50_000, 0).unwrap().unwrap();
    world.run_out().unwrap();
    assert!(said(&world, 1, "before its channel is committed and checked"));
    assert!(sales(&world, 1, instance).is_empty(), "the buyer has signed");
}

/// S18: a second committed channel that differs is the operator's fault, and is not the one that is bought.
#[test]
fn a_second_committed_channel_that_differs() {
    let (mut world, instance) = active(7);
    world.tamper(|out| match &out.message {
        Message::SaleCommitted(committed) => {
            let channel_script = bitcoin::ScriptBuf::new_p2wsh(&bitcoin::hashes::Hash::all_zeros());
            let other = SaleCommitted { channel_script, ..committed.clone() };
            Fate::Replace(vec![out.message.encode(), Message::from(other).encode()])
        }
        _ => Fate::Deliver,
    });
    world.ask(1, instance, 50_000, 0).unwrap().unwrap();
    world.run_out().unwrap();
    assert!(said(&world, 1, "differs from the first"));
    assert!(sales(&world, 1, instance).is_empty(), "the buyer has signed");
}

/// S18: the open of a sale is taken from its operator, once, by its buyer, if it is what was agreed to.
#[test]
fn opens_that_are_not_the_sales() {
    let answer = |world: &mut World, at: usize, change: &dyn Fn(&mut OpenChannel)| {
        let push = factory_engine::policy::Config::default().push_msat;
        let mut open = world.open_of(world.members[LSP].id, Amount::from_sat(50_000), push);
        change(&mut open);
        match world.feed(at, Input::OpenChannel(open)).unwrap() {
            Fed::Done(Ok(answer)) => answer,
            other => panic!("{other:?}"),
        }
    };
    let (mut world, instance) = active(8);
    let early = factory(&world, 1, instance).channel_in_factory(0);
    let record = |blocks: u16, id| {
        let mut record = early;
        record.blocks_early += blocks;
        record.factory_instance = id;
        record
    };
    let sale = factory(&world, 1, instance).sale_blocks_early(0, 1) - early.blocks_early;
    let good = record(sale, instance);
    let bad = [record(sale + 1, instance), record(sale, InstanceId([3; 32]))];
    world.tamper(|out| {
        if out.from != LSP && out.message.name() == "sale_join" { Fate::Drop } else { Fate::Deliver }
    });
    assert_ne!(answer(&mut world, 1, &|_| {}), Answer::AcceptOpen, "nothing is bought yet");
    world.ask(1, instance, 50_000, 0).unwrap().unwrap();
    world.settle().unwrap();
    assert_ne!(answer(&mut world, 2, &|_| {}), Answer::AcceptOpen, "a neighbour buys");
    assert_ne!(answer(&mut world, 1, &|open| open.peer = NodeId([2; 33])), Answer::AcceptOpen);
    assert_ne!(answer(&mut world, 1, &|open| open.zeroconf = false), Answer::AcceptOpen);
    assert_ne!(answer(&mut world, 1, &|open| open.capacity = Amount::from_sat(50_001)), Answer::AcceptOpen);
    assert_ne!(answer(&mut world, 1, &|open| open.push_msat += 1), Answer::AcceptOpen);
    for bad in bad {
        assert_ne!(answer(&mut world, 1, &|open| open.channel_in_factory = Some(bad)), Answer::AcceptOpen);
    }
    assert_eq!(answer(&mut world, 1, &|open| open.channel_in_factory = Some(good)), Answer::AcceptOpen);
    assert_ne!(answer(&mut world, 1, &|_| {}), Answer::AcceptOpen, "a second one");
}

/// S18, S36: nothing is paid before the channel is there, or for a channel that nobody agreed to.
#[test]
fn an_invoice_before_the_channel_is_not_paid() {
    let (mut world, instance) = dear(9);
    let before = purse(&world, instance);
    world.tamper(move |out| match &out.message {
        Message::SaleCommitted(SaleCommitted { instance, attempt, number, .. }) => {
            Fate::replace(SaleInvoice {
                instance: *instance,
                attempt: *attempt,
                number: *number,
                amount_msat: PRICE,
                payment_hash: PaymentHash([7; 32]),
                payment_secret: PaymentSecret([8; 32]),
                min_final_cltv_expiry: 9,
            })
        }
        _ => Fate::Deliver,
    });
    assert!(buys(&mut world, instance, PRICE).is_some());
    assert!(said(&world, 1, "not after its channel was committed and checked"));
    let account = factory(&world, 1, instance).current.sales.account().clone();
    assert_eq!((purse(&world, instance), account.credit(0)), (before, 0));
}

/// S4, S6: whoever signs something else, or badly, is named, and the sale waits for everybody.
#[test]
fn whoever_signs_a_sale_wrongly_is_named() {
    fn partials(message: &Message) -> Option<&SalePartialSignatures> {
        if let Message::SalePartialSignatures(partials) = message { Some(partials) } else { None }
    }
    let changes: [Change<SalePartialSignatures>; 2] = [
        (|partials| partials.transcript[0] ^= 1, "transcript hash differs"),
        (|partials| partials.signatures.reverse(), "bad partial signature"),
    ];
    for (tamper, text) in changes {
        let (mut world, instance) = active(10);
        let guilty = world.members[2].id;
        world.tamper(move |out| match partials(&out.message) {
            Some(message) if out.from == 2 => {
                let mut changed = message.clone();
                tamper(&mut changed);
                Fate::replace(changed)
            }
            _ => Fate::Deliver,
        });
        world.ask(1, instance, 50_000, 0).unwrap().unwrap();
        world.settle().unwrap();
        let named = world.members[LSP].log.iter().any(|(_, line)| {
            line.contains("sale 1") && line.contains(text) && line.contains(&guilty.to_string())
        });
        assert!(named, "{text}: {:?}", world.members[LSP].log);
        assert!(!sales(&world, LSP, instance).iter().any(Sold::is_signed));
        // It goes on when it can.
        world.heal();
        world.restart(2).unwrap();
        world.run_out().unwrap();
        assert!(sales(&world, LSP, instance)[0].stored, "{text}");
    }
}

/// S29: that one client has stored a sale, and says so twice, is not that everybody has.
#[test]
fn everybody_has_to_store_a_sale() {
    let (mut world, instance) = active(11);
    world.tamper(|out| match (&out.message, out.from) {
        (Message::SaleStored(_), 1) => Fate::Twice,
        (Message::SaleStored(_), 2) => Fate::Drop,
        _ => Fate::Deliver,
    });
    world.ask(1, instance, 50_000, 0).unwrap().unwrap();
    world.settle().unwrap();
    let known = sales(&world, LSP, instance);
    assert!(known[0].is_signed() && !known[0].stored, "client 2 has stored nothing, as far as anybody knows");
    world.run_out().unwrap();
    let line = world.members[LSP].log.iter().find(|(_, line)| line.contains("no answer in time from"));
    let [first, second] = [1, 2].map(|at| world.members[at].id.to_string());
    assert!(line.is_some_and(|(_, line)| line.contains(&second) && !line.contains(&first)), "{line:?}");
    world.heal();
    world.restart(2).unwrap();
    world.run_out().unwrap();
    assert!(sales(&world, LSP, instance)[0].stored);
}

/// S30: whoever disconnects ends the sale at once if it has to sign, and only then.
#[test]
fn a_member_that_disconnects_ends_its_sale_at_once() {
    for (gone, ends) in [(2, true), (3, false)] {
        let (mut world, instance) = active(12);
        let late = Rc::new(RefCell::new(true));
        let hold = late.clone();
        world.tamper(move |out| match out.message.name() {
            "sale_join" if out.from == 1 && *hold.borrow() => Fate::Drop,
            _ => Fate::Deliver,
        });
        world.ask(1, instance, 50_000, 0).unwrap().unwrap();
        world.settle().unwrap();
        world.stop(gone);
        world.settle().unwrap();
        let why = world.refused(1, instance).map(str::to_owned);
        assert_eq!(why.as_ref().is_some_and(|why| why.contains("disconnected")), ends, "{gone}: {why:?}");
    }
}

/// Clients of the other sub-factory come and go, and nothing that is under way begins anew.
#[test]
fn a_sale_under_way_is_not_offered_again_when_somebody_connects() {
    let (mut world, instance) = active(13);
    let (offers, list) = seen();
    world.tamper(move |out| match out.message.name() {
        "sale_offer" => {
            list.borrow_mut().push(out.to);
            Fate::Deliver
        }
        "sale_join" if out.from == 2 => Fate::Drop,
        _ => Fate::Deliver,
    });
    world.ask(1, instance, 50_000, 0).unwrap().unwrap();
    world.settle().unwrap();
    assert_eq!(offers.borrow().len(), 2);
    world.restart(3).unwrap();
    world.settle().unwrap();
    assert_eq!(offers.borrow().len(), 2, "offered again");
}

/// The same of one that was signed for before.
#[test]
fn a_sale_that_was_taken_up_is_not_offered_again_when_somebody_connects() {
    let (mut world, instance) = active(28);
    world.tamper(
        |out| if out.message.name() == "sale_partial_signatures" { Fate::Drop } else { Fate::Deliver },
    );
    world.ask(1, instance, 50_000, 0).unwrap().unwrap();
    world.run_until("signed", |world| !sales(world, 1, instance).is_empty()).unwrap();
    let (offers, list) = seen();
    world.tamper(move |out| match out.message.name() {
        "sale_offer" => {
            list.borrow_mut().push(out.to);
            Fate::Deliver
        }
        "sale_join" if out.from == 2 => Fate::Drop,
        _ => Fate::Deliver,
    });
    world.restart(LSP).unwrap();
    world.settle().unwrap();
    let before = offers.borrow().len();
    assert!(before >= 2, "{before}");
    world.restart(3).unwrap();
    world.settle().unwrap();
    assert_eq!(offers.borrow().len(), before, "offered again");
}

/// S36: a sale that was paid and signed is the buyer's, also if an exit has begun before it heard of it.
#[test]
fn a_signed_sale_reaches_its_buyer_after_an_exit_has_begun() {
    let (mut world, instance) = dear(29);
    world.tamper(
        |out| if out.message.name() == "sale_ready" && out.to == 1 { Fate::Drop } else { Fate::Deliver },
    );
    world.ask(1, instance, 50_000, PRICE).unwrap().unwrap();
    let signed = |world: &World| sales(world, LSP, instance).iter().any(Sold::is_signed);
    world.run_until("signed", signed).unwrap();
    world.stop(1);
    world.settle().unwrap();
    world.heal();
    world.command(2, Command::Exit { instance }).unwrap();
    world.mine(1).unwrap();
    world.start(1).unwrap();
    world.connect(LSP, 1).unwrap();
    world.run_out().unwrap();
    assert!(sales(&world, 1, instance)[0].is_signed());
}

/// S8: once it may be signed, no ordinary channel comes instead, whoever goes silent.
#[test]
fn nothing_comes_instead_of_what_is_signed_for() {
    for (message, from) in
        [("sale_checked", 1), ("sale_partial_signatures", 2), ("sale_partial_signatures", 1)]
    {
        let scenario = leaf(30).config(|config| config.jit = true);
        let (mut world, instance) = scenario.active().unwrap();
        let (offers, list) = seen();
        world.tamper(move |out| {
            if out.message.name() == "jit_offer" {
                list.borrow_mut().push(());
            }
            if out.message.name() == message && out.from == from { Fate::Drop } else { Fate::Deliver }
        });
        world.ask(1, instance, 50_000, 0).unwrap().unwrap();
        world.run_out().unwrap();
        assert!(offers.borrow().is_empty(), "{message} of {from}");
        world.heal();
        world.restart(from).unwrap();
        world.run_out().unwrap();
        let done = usize::from(message != "sale_checked");
        assert_eq!(sales(&world, LSP, instance).iter().filter(|sold| sold.stored).count(), done);
    }
}

/// S36: a second wish while the first is being paid takes nothing back.
#[test]
fn a_second_wish_while_the_first_is_paid() {
    let (mut world, instance) = dear(31);
    let before = purse(&world, instance);
    let (invoices, list) = seen();
    world.tamper(move |out| match &out.message {
        Message::SaleInvoice(invoice) => {
            list.borrow_mut().push(invoice.clone());
            Fate::Drop
        }
        _ => Fate::Deliver,
    });
    world.ask(1, instance, 50_000, PRICE).unwrap().unwrap();
    world.settle().unwrap();
    let amount = Amount::from_sat(50_000);
    let again = Buy { instance, attempt: 1, amount, max_price_msat: PRICE, jit: None };
    // From whom hears nothing of the answer.
    world.tamper(|out| if out.message.name() == "sale_abort" { Fate::Drop } else { Fate::Deliver });
    world.send_raw(1, LSP, Message::from(again).encode()).unwrap();
    world.settle().unwrap();
    // Nor does an invoice of which nobody knows reach the buyer.
    let invoice = invoices.borrow()[0].clone();
    let made = factory_engine::Invoice {
        amount_msat: 1,
        payment_hash: PaymentHash([9; 32]),
        payment_secret: PaymentSecret([9; 32]),
        min_final_cltv_expiry: 9,
    };
    let (more, list) = seen();
    world.tamper(move |out| {
        if let Message::SaleInvoice(invoice) = &out.message {
            list.borrow_mut().push(invoice.amount_msat);
        }
        if out.message.name() == "sale_abort" { Fate::Drop } else { Fate::Deliver }
    });
    world.feed(LSP, Input::InvoiceMade { instance, label: "other".into(), result: Ok(made) }).unwrap();
    world.settle().unwrap();
    assert!(more.borrow().is_empty(), "{:?}", more.borrow());
    world.heal();
    world.send_raw(LSP, 1, Message::from(invoice).encode()).unwrap();
    world.run_out().unwrap();
    assert!(
        sales(&world, LSP, instance).first().is_some_and(|sold| sold.stored),
        "its invoice was taken back"
    );
    assert_eq!(before - purse(&world, instance), PRICE);
}

/// S4: tries differ in their number, all of which is random.
#[test]
fn each_try_has_a_number_of_its_own() {
    let (mut world, instance) = active(14);
    let (rounds, list) = seen();
    world.tamper(move |out| {
        if let (Message::SaleOffer(offer), 1) = (&out.message, out.to) {
            list.borrow_mut().push(offer.round.unwrap());
        }
        Fate::Deliver
    });
    for _ in 0..4 {
        world.buy(1, instance, 20_000, 0).unwrap();
    }
    let rounds = rounds.borrow();
    for byte in 0..8 {
        let byte = rounds.iter().map(|round| round.to_be_bytes()[byte]);
        assert!(byte.clone().any(|value| Some(value) != byte.clone().next()), "{rounds:?}");
    }
}

/// What lightningd says of something else than what is waited for changes nothing.
#[test]
fn late_answers_of_lightningd_are_no_sales() {
    let (mut world, instance) = active(15);
    world.tamper(
        |out| if out.from == 2 && out.message.name() == "sale_join" { Fate::Drop } else { Fate::Deliver },
    );
    world.ask(1, instance, 50_000, 0).unwrap().unwrap();
    world.settle().unwrap();
    let script = bitcoin::ScriptBuf::new_p2wsh(&bitcoin::hashes::Hash::all_zeros());
    for (client, number) in [(0, 1), (1, 1), (0, 2)] {
        let result = Ok(script.clone());
        let started = Input::ChannelStarted { instance, attempt: 1, client, sale: Some(number), result };
        world.feed(LSP, started).unwrap();
        let coin = factory(&world, LSP, instance).current.layout.stock_coin(0).unwrap();
        let opening = factory(&world, LSP, instance).current.sales.opening(coin);
        assert!(opening.is_none(), "client {client}, sale {number}: nonces are missing yet");
    }
    world.heal();
    world.run_out().unwrap();
}

/// S14: a sale that comes to nothing after its channel was opened leaves no channel, now or after a restart.
#[test]
fn a_sale_that_is_dropped_leaves_no_channel() {
    for restart in [false, true] {
        let (mut world, instance) = dear(16);
        world.tamper(|out| if out.message.name() == "sale_checked" { Fate::Drop } else { Fate::Deliver });
        world.ask(1, instance, 50_000, PRICE).unwrap().unwrap();
        let coin = factory(&world, LSP, instance).current.layout.stock_coin(0).unwrap();
        world.settle().unwrap();
        let sale = factory(&world, LSP, instance).current.sales.opening(coin).unwrap().clone();
        let channel = ChannelId::of(sale.channel);
        let policies = |world: &World| {
            let engine = world.members[LSP].engine.as_ref().unwrap();
            engine.channel_policies().into_iter().filter(|(id, _)| *id == channel).collect::<Vec<_>>()
        };
        // S18
        assert!(policies(&world).iter().all(|(_, policy)| policy.usable.is_err()));
        assert_eq!(policies(&world).len(), 1);
        if restart {
            world.restart(LSP).unwrap();
        }
        world.run_out().unwrap();
        assert!(factory(&world, LSP, instance).current.sales.opening(coin).is_none(), "restart: {restart}");
        assert_eq!(factory(&world, LSP, instance).current.sales.openings().count(), 0);
        assert!(world.members[LSP].lightningd.channels[&channel].closing, "restart: {restart}");
        assert!(policies(&world).is_empty());
        if !restart {
            // S29: whose answer was waited for, and nobody else.
            let why = world.refused(1, instance).unwrap();
            let [buyer, neighbour] = [1, 2].map(|at| world.members[at].id.to_string());
            assert!(why.contains(&buyer) && !why.contains(&neighbour), "{why}");
        }
        world.heal();
        world.buy(1, instance, 50_000, PRICE).unwrap();
    }
}

/// S29: an operator that goes silent ends a neighbour's part, which has no other end.
#[test]
fn a_neighbour_gives_up_on_an_operator_that_went_silent() {
    let (mut world, instance) = active(17);
    world.tamper(|out| match out.message.name() {
        "sale_join" => Fate::Drop,
        "sale_abort" => Fate::Drop,
        _ => Fate::Deliver,
    });
    world.ask(1, instance, 50_000, 0).unwrap().unwrap();
    world.run_out().unwrap();
    for _ in 0..20 {
        world.advance().unwrap();
        world.settle().unwrap();
    }
    let refused = world.refused(1, instance).unwrap();
    assert!(!refused.is_empty());
    // Nothing is under way any more: the next is taken.
    world.heal();
    world.buy(2, instance, 50_000, 0).unwrap();
}

/// S36: an ordinary channel instead costs what was agreed to, and is the one that was.
#[test]
fn an_ordinary_channel_that_was_not_agreed_to_is_none() {
    fn jit(message: &Message) -> Option<&JitOffer> {
        if let Message::JitOffer(offer) = message { Some(offer) } else { None }
    }
    let changes: [Change<JitOffer>; 2] = [
        (|offer| offer.amount = Amount::from_sat(50_001), "not the amount"),
        (|offer| offer.price_msat = PRICE + 2, "above the limit"),
    ];
    for (tamper, text) in changes {
        let (mut world, instance) = silent_neighbour(18);
        let before = purse(&world, instance);
        world.tamper(move |out| match jit(&out.message) {
            Some(offer) => {
                let mut changed = offer.clone();
                tamper(&mut changed);
                Fate::replace(changed)
            }
            None => silence(out),
        });
        let why = buys(&mut world, instance, PRICE + 1).unwrap();
        assert!(why.contains(text), "{text}: {why}");
        assert_eq!(purse(&world, instance), before);
    }
    // For less than it might cost it is taken.
    let (mut world, instance) = silent_neighbour(18);
    assert_eq!(buys(&mut world, instance, PRICE + 1), None);
    assert_eq!(factory(&world, 1, instance).current.sales.jits().opened().len(), 1);

    for price_msat in [0, 5] {
        let (mut world, instance) = active(19);
        let opened = JitOpened {
            instance,
            attempt: 1,
            amount: Amount::from_sat(50_000),
            price_msat,
            channel_id: ChannelId([5; 32]),
            outpoint: None,
        };
        world.send_raw(LSP, 1, Message::from(opened).encode()).unwrap();
        world.settle().unwrap();
        assert!(factory(&world, 1, instance).current.sales.jits().opened().is_empty(), "{price_msat} msat");
    }
}

/// Each ordinary channel counts, and each once.
#[test]
fn a_second_ordinary_channel_instead() {
    let (mut world, instance) = silent_neighbour(20);
    let before = purse(&world, instance);
    world.tamper(|out| match &out.message {
        Message::JitOpened(_) | Message::JitAccept(_) => Fate::Twice,
        _ => silence(out),
    });
    for number in 1..=2 {
        assert_eq!(buys(&mut world, instance, PRICE), None);
        let opened = [LSP, 1].map(|at| factory(&world, at, instance).current.sales.jits().opened().len());
        assert_eq!(opened, [number, number]);
        assert_eq!(before - purse(&world, instance), PRICE * u64::try_from(number).unwrap());
    }
    assert!(!world.members.iter().any(|member| member.log.iter().any(|(_, line)| line.contains("fault of"))));
}

/// S30: who buys is asked instead, and nobody else accepts or ends it for the buyer.
#[test]
fn nobody_but_the_buyer_decides_about_an_ordinary_channel() {
    let (mut world, instance) = silent_neighbour(21);
    let before = purse(&world, instance);
    world.tamper(|out| match out.message.name() {
        "jit_accept" if out.from == 1 => Fate::Drop,
        _ => silence(out),
    });
    world.ask(1, instance, 50_000, PRICE).unwrap().unwrap();
    world.settle().unwrap();
    // The wait for client 2's nonces is over.
    world.advance().unwrap();
    world.settle().unwrap();
    let accept = Message::from(JitAccept { instance, attempt: 1 });
    let abort = Message::from(SaleAbort { instance, attempt: 1, number: 0, reason: "no".into() });
    for message in [accept.clone(), abort] {
        world.send_raw(2, LSP, message.encode()).unwrap();
        world.settle().unwrap();
    }
    world.stop(2);
    world.settle().unwrap();
    assert_eq!(world.refused(1, instance), None);
    assert_eq!(purse(&world, instance), before);
    world.heal();
    world.send_raw(1, LSP, accept.encode()).unwrap();
    world.run_out().unwrap();
    assert_eq!(factory(&world, 1, instance).current.sales.jits().opened().len(), 1);
    assert_eq!(before - purse(&world, instance), PRICE);
}

/// A buyer that is silent itself gets no ordinary channel instead.
#[test]
fn a_silent_buyer_gets_nothing_instead() {
    let scenario = leaf(22).config(|config| config.jit = true);
    let (mut world, instance) = scenario.active().unwrap();
    let (offers, list) = seen();
    world.tamper(move |out| match out.message.name() {
        "sale_join" if out.from == 1 => Fate::Drop,
        "jit_offer" => {
            list.borrow_mut().push(());
            Fate::Deliver
        }
        _ => Fate::Deliver,
    });
    let why = buys(&mut world, instance, 0).unwrap();
    assert!(why.contains("no answer in time") && why.contains(&world.members[1].id.to_string()), "{why}");
    assert!(offers.borrow().is_empty());
}

/// S29: a buyer waits as long as its operator does for whoever is away.
#[test]
fn a_buyer_waits_as_long_as_its_operator() {
    let scenario = leaf(23).config(|config| config.sale_wait = 20 * config.ceremony_timeout);
    let (mut world, instance) = scenario.active().unwrap();
    world.stop(2);
    world.settle().unwrap();
    world.ask(1, instance, 50_000, 0).unwrap().unwrap();
    world.settle().unwrap();
    let end = world.now + 15 * factory_engine::policy::Config::default().ceremony_timeout;
    world.now = end;
    for at in [LSP, 1] {
        world.feed(at, Input::Tick).unwrap();
    }
    world.settle().unwrap();
    assert_eq!(world.refused(1, instance), None, "it gave up too early");
    world.start(2).unwrap();
    world.connect(LSP, 2).unwrap();
    world.run_out().unwrap();
    assert_eq!([LSP, 1, 2].map(|at| sales(&world, at, instance).len()), [1; 3]);
}

/// A purchase ends with the connection to its operator, and with no other.
#[test]
fn a_purchase_ends_with_its_operators_connection() {
    let (mut world, instance) = active(24);
    world.stop(2);
    world.settle().unwrap();
    world.ask(1, instance, 50_000, 0).unwrap().unwrap();
    world.settle().unwrap();
    world.feed(1, Input::PeerDown { peer: NodeId([2; 33]) }).unwrap();
    assert_eq!(world.refused(1, instance), None);
    world.stop(LSP);
    world.settle().unwrap();
    assert!(world.refused(1, instance).unwrap().contains("the operator disconnected"));
}

/// What is said of another attempt is about no factory of ours.
#[test]
fn a_wish_of_another_attempt_is_stale() {
    let (mut world, instance) = active(25);
    let (answers, list) = seen();
    world.tamper(move |out| {
        if out.from == LSP {
            list.borrow_mut().push(out.message.name());
        }
        Fate::Deliver
    });
    let buy = Buy { instance, attempt: 2, amount: Amount::from_sat(50_000), max_price_msat: 0, jit: None };
    world.send_raw(1, LSP, Message::from(buy).encode()).unwrap();
    world.settle().unwrap();
    assert!(!answers.borrow().contains(&"sale_offer"), "{:?}", answers.borrow());
}

/// A price is the answer to the question that was asked, and to no other; credit is the client's.
#[test]
fn a_price_answers_the_question_that_was_asked() {
    let (mut world, instance) = dear(26);
    world.tamper(|out| if out.message.name() == "price" { Fate::Drop } else { Fate::Deliver });
    let amount = Amount::from_sat(50_000);
    world.command(1, Command::AskPrice { instance, amount }).unwrap();
    world.settle().unwrap();
    let asked = |world: &World| world.members[1].engine.as_ref().unwrap().asked_price(instance).cloned();
    let price = |sat, price_msat| {
        let amount = Amount::from_sat(sat);
        Message::from(Price { instance, attempt: 1, amount, price_msat, away: vec![] }).encode()
    };
    world.send_raw(LSP, 1, price(40_000, 1)).unwrap();
    world.settle().unwrap();
    assert_eq!(asked(&world), None);
    for msat in [PRICE, 1] {
        world.send_raw(LSP, 1, price(50_000, msat)).unwrap();
        world.settle().unwrap();
        // The first answer stands.
        assert_eq!(asked(&world).unwrap().unwrap().price_msat, PRICE);
    }
    let engine = |at: usize| world.members[at].engine.as_ref().unwrap();
    assert_eq!(engine(LSP).prices(), PriceList { base_msat: PRICE, ppm: 0 });
    assert_eq!([LSP, 1].map(|at| engine(at).credit_msat(instance)), [0, 0]);
}

/// Two factories of one operator sell to the same client at once, and neither takes the other's for its own.
#[test]
fn two_factories_sell_at_once() {
    let scenario = leaf(27).prices(PriceList { base_msat: PRICE, ppm: 0 });
    let (mut world, first) = scenario.active().unwrap();
    let offer = factory_lab::offer::Offer { stock: Amount::from_sat(300_000), ..Default::default() };
    let second = world.begin(&offer).unwrap();
    world.activate(second).unwrap();
    world.pay(LSP, 1, 20_000_000).unwrap();
    for (instance, sat) in [(first, 50_000), (second, 60_000)] {
        world.ask(1, instance, sat, PRICE).unwrap().unwrap();
    }
    world.run_out().unwrap();
    for (instance, sat) in [(first, 50_000), (second, 60_000)] {
        assert_eq!(world.refused(1, instance), None);
        for at in [LSP, 1, 2] {
            let known = sales(&world, at, instance);
            assert_eq!(known.iter().map(|sold| sold.sale.amount().to_sat()).collect::<Vec<_>>(), [sat]);
        }
        assert_eq!(factory(&world, 1, instance).current.sales.account().credit(0), 0);
    }
    assert!(world.judge.violations.is_empty(), "{:?}", world.judge.violations);
}

/// A payment that fails ends the purchase that it was for, and no other factory's.
#[test]
fn a_payment_that_fails_ends_its_own_purchase() {
    for failing in [0, 1] {
        let scenario = leaf(33).prices(PriceList { base_msat: PRICE, ppm: 0 });
        let (mut world, first) = scenario.active().unwrap();
        let offer = factory_lab::offer::Offer { stock: Amount::from_sat(300_000), ..Default::default() };
        let second = world.begin(&offer).unwrap();
        world.activate(second).unwrap();
        world.pay(LSP, 1, 20_000_000).unwrap();
        let instances = [first, second];
        let (fails, goes_on) = (instances[failing], instances[1 - failing]);
        let (held, list) = seen();
        world.tamper(move |out| match &out.message {
            Message::SaleInvoice(invoice) if invoice.instance == fails => {
                let payment_hash = PaymentHash([9; 32]);
                Fate::replace(SaleInvoice { payment_hash, ..invoice.clone() })
            }
            Message::SaleInvoice(invoice) => {
                list.borrow_mut().push(invoice.clone());
                Fate::Drop
            }
            _ => Fate::Deliver,
        });
        for instance in instances {
            world.ask(1, instance, 50_000, PRICE).unwrap().unwrap();
        }
        world.settle().unwrap();
        assert!(world.refused(1, fails).unwrap().contains("not paid"));
        assert_eq!(world.refused(1, goes_on), None);
        world.heal();
        let invoice = held.borrow()[0].clone();
        world.send_raw(LSP, 1, Message::from(invoice).encode()).unwrap();
        world.run_out().unwrap();
        assert_eq!(sales(&world, LSP, fails).len(), 0);
        assert!(sales(&world, LSP, goes_on).first().is_some_and(|sold| sold.stored));
    }
}

struct Nothing;

impl Entropy for Nothing {
    fn bytes32(&mut self) -> [u8; 32] {
        [0; 32]
    }
}

/// An open that lightningd has only begun ends with its sale: as long as it is there, lightningd begins no
/// other with that client.
#[test]
fn an_open_that_has_begun_is_cancelled_with_its_sale() {
    let (mut cancelled, mut closed) = (0, 0);
    for steps in 0..40 {
        let (mut world, instance) = active(34);
        world.ask(1, instance, 50_000, 0).unwrap().unwrap();
        for _ in 0..steps {
            world.step().unwrap();
        }
        if !sales(&world, LSP, instance).is_empty() {
            break;
        }
        let (now, height) = (world.now, world.chain.height());
        let [buyer, neighbour] = [1, 2].map(|at| world.members[at].id);
        let engine = world.members[LSP].engine.as_mut().unwrap();
        let step = engine.handle(Input::PeerDown { peer: neighbour }, now, height, &mut Nothing);
        for effect in engine.apply(step).unwrap() {
            match effect {
                Effect::CancelChannel { peer } => {
                    assert_eq!(peer, buyer);
                    cancelled += 1;
                }
                Effect::CloseChannel { .. } => closed += 1,
                _ => {}
            }
        }
    }
    assert!(cancelled > 0 && closed > 0, "{cancelled} cancelled, {closed} closed");
}
