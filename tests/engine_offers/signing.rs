//! Signing and storing a sale, and what interrupts it.

use super::*;

/// To whom sales are offered from now on. Client 2 doesn't join them.
fn offered_to(world: &mut World) -> Seen<usize> {
    let (offers, list) = seen();
    world.tamper(move |out| match out.message.name() {
        "sale_offer" => {
            list.borrow_mut().push(out.to);
            Fate::Deliver
        }
        "sale_join" if out.from == 2 => Fate::Drop,
        _ => Fate::Deliver,
    });
    offers
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
            Some(message) if out.from == 2 => Fate::changed(message, tamper),
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
    let offers = offered_to(&mut world);
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
    let offers = offered_to(&mut world);
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
            assert!(why.contains("no answer in time from this node") && !why.contains("client"), "{why}");
        }
        world.heal();
        world.buy(1, instance, 50_000, PRICE).unwrap();
    }
}
