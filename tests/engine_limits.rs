//! What an operator takes on at once, and what each client gets of it (S28): what is above is refused with a reason
//! and changes nothing, and the others' go on.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;

use std::cell::RefCell;
use std::rc::Rc;

use common::factory;
use factory_engine::terms::{Kind, Leaf, Level, Shape};
use factory_engine::types::{Amount, InstanceId};
use factory_engine::wire::message::{LeaveAsk, Message, SaleWait};
use factory_engine::{Answer, Command, Config, Input};
use factory_lab::offer::Offer;
use factory_lab::scenario::Scenario;
use factory_lab::world::{Fate, Fed, LSP, World};

const SAT: u64 = 50_000;

/// A client asks for liquidity, whatever it costs; messages are delivered, and no time goes by.
fn asks(world: &mut World, client: usize, instance: InstanceId) {
    world.ask(client, instance, SAT, u64::MAX).unwrap().unwrap();
    world.settle().unwrap();
}

/// Ordinary channels that L has opened, and that it is opening.
fn ordinary(world: &World, instance: InstanceId) -> (usize, usize) {
    let factory = factory(world, LSP, instance);
    let jits = factory.current.sales.jits();
    let funding = (0..).zip(&factory.current.clients).filter(|(client, _)| jits.is_funding(*client)).count();
    (jits.opened().len(), funding)
}

/// S28: 256 sales are under way at most, of all of an operator's factories together.
#[test]
fn so_many_sales_are_under_way_at_once() {
    const CLIENTS: usize = 52;
    const MOST: usize = 256;
    let mut world = Scenario::new(1).clients(CLIENTS).unchecked().world().unwrap();
    // Each client buys for itself: so there are as many sales as clients.
    let shape = Shape {
        levels: vec![Level { arity: 4, kind: Kind::Static }; 2],
        leaf: Leaf { kind: Kind::Static, sub_factories: 4, clients_per_sub: 1 },
    };
    let offer = Offer { stock: Amount::from_sat(200_000), ..Offer::default() };
    let ids: Vec<_> = (1..=CLIENTS).map(|client| world.members[client].id).collect();
    let mut all = vec![];
    for _ in 0..5 {
        let create = Command::Create(offer.shaped(&ids, shape.clone()));
        let fed = world.feed(LSP, Input::Command(create)).unwrap();
        let Fed::Done(Ok(Answer::Created(instance))) = fed else { panic!("{fed:?}") };
        world.activate(instance).unwrap();
        all.extend((1..=CLIENTS).map(|client| (client, instance)));
    }
    let under_way = |world: &World| world.engine(LSP).unwrap().ceremonies();
    assert_eq!(under_way(&world), 0);
    world.tamper(|out| if out.message.name() == "sale_join" { Fate::Drop } else { Fate::Deliver });
    let (first, others) = all.split_at(MOST);
    first.iter().for_each(|(client, instance)| asks(&mut world, *client, *instance));
    assert_eq!(under_way(&world), MOST);

    let (late, instance) = others[0];
    let appends = world.members[LSP].store.appends;
    asks(&mut world, late, instance);
    let busy = "too many sales are under way: try again in a moment";
    assert!(world.refused(late, instance).unwrap().contains(busy));
    world.command(late, Command::AskPrice { instance, amount: Amount::from_sat(SAT) }).unwrap();
    world.settle().unwrap();
    let price = world.engine(late).unwrap().asked_price(instance).unwrap().clone();
    assert!(price.unwrap_err().to_string().contains(busy));
    assert_eq!((under_way(&world), world.members[LSP].store.appends), (MOST, appends));
    let is_open = |(client, instance): &(usize, InstanceId)| {
        world.engine(*client).unwrap().purchase(*instance).is_some_and(|purchase| purchase.is_open())
    };
    assert!(first.iter().all(is_open));

    // Whose connection ends gives up its five, and there is room.
    world.heal();
    world.disconnect(LSP, first[0].0);
    world.settle().unwrap();
    assert_eq!(under_way(&world), MOST - 5);
    asks(&mut world, late, instance);
    assert_eq!(world.refused(late, instance), None);
    assert_eq!(factory(&world, LSP, instance).current.sales.all().count(), 1);
    assert_eq!(under_way(&world), MOST - 5);
}

/// S28: eight ordinary channels for one client in a factory, in place of sales. What others buy is none of its business.
#[test]
fn so_many_ordinary_channels_for_one_client() {
    let scenario = Scenario::new(2).clients(4).stock(300_000).config(|config| config.jit = true);
    let (mut world, instance) = scenario.active().unwrap();
    world.stop(2);
    world.settle().unwrap();
    for number in 1..=8 {
        asks(&mut world, 1, instance);
        world.run_out().unwrap();
        assert_eq!((world.refused(1, instance), ordinary(&world, instance)), (None, (number, 0)));
        world.mine(1).unwrap();
    }
    let records = |world: &World| world.members[LSP].store.records(instance).len();
    let before = records(&world);
    asks(&mut world, 1, instance);
    world.run_out().unwrap();
    let why = world.refused(1, instance).unwrap();
    assert!(why.contains("it has had its ordinary channels in this factory"), "{why}");
    assert_eq!((ordinary(&world, instance), records(&world)), ((8, 0), before));
    world.buy(3, instance, SAT, u64::MAX).unwrap();
    world.stop(4);
    world.settle().unwrap();
    asks(&mut world, 3, instance);
    world.run_out().unwrap();
    assert_eq!((world.refused(3, instance), ordinary(&world, instance)), (None, (9, 0)));
}

/// S28: an operator opens channels to eight clients that leave at once; the ninth has its turn when those are over.
#[test]
fn so_many_leave_at_once() {
    let scenario = Scenario::new(5).clients(9).unchecked();
    let (mut world, instance) = scenario.config(|config| config.leave_channels = true).active().unwrap();
    let told = Rc::new(RefCell::new(vec![]));
    let list = Rc::clone(&told);
    world.tamper(move |out| {
        if let Message::LeaveRefused(refused) = &out.message {
            list.borrow_mut().push((out.to, String::from(&*refused.reason)));
        }
        Fate::Deliver
    });
    let attempt = factory(&world, LSP, instance).current.number;
    let amount = Amount::from_sat(SAT);
    let ask = Message::LeaveAsk(LeaveAsk { instance, attempt, amount, max_price_msat: Some(u64::MAX) });
    for client in 1..=9 {
        world.members[client].lightningd.ignores_ordinary = true;
        let peer = world.members[client].id;
        world.feed(LSP, Input::Message { peer, payload: ask.encode() }).unwrap();
    }
    world.settle().unwrap();
    let opening = |world: &World| factory(world, LSP, instance).leaves.opening().len();
    assert_eq!(opening(&world), 8);
    assert_eq!(*told.borrow(), [(9, "too many channels are being opened: try again in a moment".to_owned())]);
    for _ in 0..4 {
        world.mine(1).unwrap();
        world.settle().unwrap();
    }
    assert_eq!(opening(&world), 0);
    let peer = world.members[9].id;
    world.feed(LSP, Input::Message { peer, payload: ask.encode() }).unwrap();
    assert_eq!(opening(&world), 1);
}

/// S28, S29: an operator that says again and again that somebody is away keeps its buyer waiting no longer than once,
/// and has it store nothing.
#[test]
fn a_wait_that_is_said_again_is_no_longer() {
    let (mut world, instance) = Scenario::new(4).clients(4).stock(300_000).active().unwrap();
    world.stop(2);
    world.settle().unwrap();
    asks(&mut world, 1, instance);
    let waits = |world: &World| world.engine(1).unwrap().purchase(instance).unwrap().away;
    assert_eq!(waits(&world), 1);
    let (peer, attempt) = (world.members[LSP].id, factory(&world, 1, instance).current.number);
    let again = SaleWait { instance, attempt, away: 3, seconds: u32::MAX };
    let config = Config::default();
    let end = world.now + config.sale_wait + 3 * config.ceremony_timeout;
    let appends = world.members[1].store.appends;
    while world.now < end - 1 {
        world.now = (world.now + 1_000).min(end - 1);
        let payload = Message::SaleWait(again.clone()).encode();
        world.feed(1, Input::Message { peer, payload }).unwrap();
        world.feed(1, Input::Tick).unwrap();
        assert_eq!((world.refused(1, instance), waits(&world)), (None, 1));
    }
    assert_eq!(world.members[1].store.appends, appends);
    world.now = end + 1;
    world.feed(1, Input::Tick).unwrap();
    assert!(world.refused(1, instance).is_some());
    // It may buy again, and gets it once everybody is there.
    world.run_out().unwrap();
    world.start(2).unwrap();
    world.connect(LSP, 2).unwrap();
    world.run_out().unwrap();
    world.buy(1, instance, SAT, u64::MAX).unwrap();
    assert_eq!(factory(&world, LSP, instance).current.sales.all().count(), 1);
}
