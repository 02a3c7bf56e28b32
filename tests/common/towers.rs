//! What tests of a tower need.

use std::cell::RefCell;
use std::rc::Rc;

use bitcoin::Transaction;
use factory_engine::tower::Watcher;
use factory_engine::types::{Amount, InstanceId, OutPoint};
use factory_engine::{Answer, Command, PriceList};
use factory_lab::offer::Offer;
use factory_lab::scenario::Scenario;
use factory_lab::world::{Fate, LSP, World};

/// Watches for clients 1 and 2, and is in no factory.
pub const TOWER: usize = 3;

/// An operator, clients 1 and 2, who get a factory, and the tower of these clients.
pub fn world(seed: u64, clients: &[usize]) -> World {
    let prices = PriceList::of_sales(0, 0);
    let mut world = Scenario::new(seed).clients(3).short_delays().prices(prices).world().unwrap();
    let tower = world.members[TOWER].id;
    for client in clients {
        let id = world.members[*client].id;
        world.members[*client].config.towers.insert(tower);
        world.members[TOWER].config.watch_for.insert(id);
    }
    world.restart(TOWER).unwrap();
    for client in clients {
        world.restart(*client).unwrap();
        world.connect(*client, TOWER).unwrap();
    }
    world.settle().unwrap();
    world
}

pub fn create(world: &mut World) -> InstanceId {
    let offer = Offer { stock: Amount::from_sat(300_000), ..Offer::default() };
    let create = world.create_command(&[1, 2], &offer).unwrap();
    let Answer::Created(instance) = world.command(LSP, Command::Create(create)).unwrap() else { panic!() };
    world.activate(instance).unwrap();
    instance
}

pub fn buy(world: &mut World, instance: InstanceId, sat: u64) {
    world.buy(1, instance, sat, u64::MAX).unwrap();
    world.settle().unwrap();
}

/// It is active, watched for client 1, and that has bought.
pub fn sold(seed: u64) -> (World, InstanceId) {
    let mut world = world(seed, &[1]);
    let instance = create(&mut world);
    buy(&mut world, instance, 60_000);
    (world, instance)
}

pub fn watcher(world: &World, client: usize, instance: InstanceId) -> Watcher {
    let all = world.engine(client).unwrap().watchers(instance, world.chain.height());
    let [watcher] = &all[..] else { panic!("one tower: {all:?}") };
    watcher.clone()
}

pub fn in_order(world: &World) {
    assert!(world.judge.violations.is_empty(), "{:?}", world.judge.violations);
}

/// What the tower is sent from now on, by name.
pub fn heard(world: &mut World) -> Rc<RefCell<Vec<String>>> {
    let heard = Rc::new(RefCell::new(vec![]));
    let notes = Rc::clone(&heard);
    world.tamper(move |out| {
        if out.to == TOWER {
            notes.borrow_mut().push(out.message.name().to_owned());
        }
        Fate::Deliver
    });
    heard
}

/// A transaction that spends this and pays nobody.
pub fn spending(outpoint: OutPoint) -> Transaction {
    let input = bitcoin::TxIn { previous_output: outpoint, ..bitcoin::TxIn::default() };
    Transaction {
        version: bitcoin::transaction::Version::TWO,
        lock_time: bitcoin::absolute::LockTime::ZERO,
        input: vec![input],
        output: vec![],
    }
}
