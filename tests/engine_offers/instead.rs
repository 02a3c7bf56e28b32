//! Ordinary channels instead, prices, and how purchases end.

use super::*;

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
            Some(offer) => Fate::changed(offer, tamper),
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
    assert!(why.contains("no answer in time from this node"), "{why}");
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
        Message::from(Price { instance, attempt: 1, amount, price_msat, away: 0 }).encode()
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
    assert_eq!(engine(LSP).prices(), PriceList::of_sales(PRICE, 0));
    assert_eq!([LSP, 1].map(|at| engine(at).credit_msat(instance)), [0, 0]);
}

/// Two factories of one operator sell to the same client at once, and neither takes the other's for its own.
#[test]
fn two_factories_sell_at_once() {
    let scenario = leaf(27).prices(PriceList::of_sales(PRICE, 0));
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

/// S18: both channels are as large as each other, and lightningd opens first the one that was asked for last. The
/// open says of neither which sale it is for: what was committed does.
#[test]
fn two_factories_sell_the_same_at_once() {
    for swapped in [false, true] {
        let scenario = leaf(28).prices(PriceList::of_sales(PRICE, 0));
        let (mut world, first) = scenario.active().unwrap();
        let offer = factory_lab::offer::Offer { stock: Amount::from_sat(300_000), ..Default::default() };
        let second = world.begin(&offer).unwrap();
        world.activate(second).unwrap();
        world.pay(LSP, 1, 20_000_000).unwrap();
        let (waits, goes_on) = if swapped { (first, second) } else { (second, first) };
        // The buyer expects its channel already, and a neighbour is slow.
        let (held, list) = seen();
        world.tamper(move |out| match &out.message {
            Message::SaleJoin(join) if out.from == 2 && join.instance == waits => {
                list.borrow_mut().push(join.clone());
                Fate::Drop
            }
            _ => Fate::Deliver,
        });
        for instance in [waits, goes_on] {
            world.ask(1, instance, 50_000, PRICE).unwrap().unwrap();
            world.settle().unwrap();
        }
        assert_eq!([waits, goes_on].map(|instance| world.refused(1, instance)), [None; 2], "{swapped}");
        assert!(sales(&world, 1, goes_on).first().is_some_and(Sold::is_signed), "{swapped}");
        world.heal();
        let join = held.borrow()[0].clone();
        world.send_raw(2, LSP, Message::from(join).encode()).unwrap();
        world.run_out().unwrap();
        for instance in [waits, goes_on] {
            assert_eq!(world.refused(1, instance), None, "{swapped}");
            assert_eq!(sales(&world, LSP, instance).len(), 1, "{swapped}");
            assert!(sales(&world, LSP, instance)[0].stored, "{swapped}");
        }
        assert!(world.judge.violations.is_empty(), "{:?}", world.judge.violations);
    }
}

/// A payment that fails ends the purchase that it was for, and no other factory's.
#[test]
fn a_payment_that_fails_ends_its_own_purchase() {
    for failing in [0, 1] {
        let scenario = leaf(33).prices(PriceList::of_sales(PRICE, 0));
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
