//! What clients answer to an offer, and when they sign.

use super::*;

/// Client 1 has bought: what it was offered.
fn bought(world: &mut World, instance: InstanceId) -> SaleOffer {
    let (offers, list) = seen();
    world.tamper(move |out| {
        if let (Message::SaleOffer(offer), 1) = (&out.message, out.to) {
            list.borrow_mut().push(offer.clone());
        }
        Fate::Deliver
    });
    assert_eq!(buys(world, instance, 0), None);
    offers.take().swap_remove(0)
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
    let first = bought(&mut world, instance);
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
/// operator that has forgotten, which is shown that.
#[test]
fn a_sale_that_is_done_is_offered_again() {
    let (mut world, instance) = active(5);
    let first = bought(&mut world, instance);
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
        let names: &[&str] = if stored { &["sale_stored"] } else { &["sale_shown", "sale_abort"] };
        assert_eq!(answers.borrow_mut().split_off(0), names, "{text}");
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
    for reserve in [999, 546_001] {
        let harmful = answer(&mut world, 1, &|open| open.reserve_msat = reserve);
        assert!(matches!(harmful, Answer::RejectOpen(_)), "{harmful:?}");
    }
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
