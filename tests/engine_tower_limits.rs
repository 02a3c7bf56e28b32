//! What a tower takes, of whom, and what it says of itself (S40): strangers, liars, clients that know less than they did,
//! receipts. What it publishes is in `engine_towers`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;

use std::cell::RefCell;
use std::rc::Rc;

use bitcoin::Txid;
use bitcoin::hashes::Hash;
use common::closes::logged;
use common::factory;
use common::towers::{TOWER, buy, create, heard, in_order, sold, spending, watcher, world};
use factory_engine::record::appointment::{Appointment, Task};
use factory_engine::types::OutPoint;
use factory_engine::wire::message::{Message, Receipt, Unwatch, Watch, Watched};
use factory_engine::{BURIED, Command};
use factory_lab::world::{Fate, LSP, World};

fn says(world: &mut World, client: usize, message: impl Into<Message>) {
    world.send_raw(client, TOWER, message.into().encode()).unwrap();
    world.settle().unwrap();
}

/// An appointment of client 1's that no transaction ever fits.
fn watch(world: &World) -> Watch {
    let height = world.chain.height();
    Watch {
        tag: [1; 32],
        locator: [2; 16],
        until: height + 10,
        height,
        sealed: vec![0; 100],
        since: None,
        counter: 1,
        trigger: None,
    }
}

/// S33, S39: a node that was restored from an older copy, or can't read a factory's records, takes nothing from its
/// tower; nor does one that knows nothing any more.
#[test]
fn whoever_knows_less_takes_nothing_away() {
    for what in ["restored", "damaged", "lost"] {
        let (mut world, instance) = sold(9);
        let older = world.backup(1);
        let commitment = Txid::from_byte_array([1; 32]);
        let channel = world.channel_in(1, instance).unwrap();
        world.revoke(1, channel, commitment, spending(OutPoint { txid: commitment, vout: 0 })).unwrap();
        buy(&mut world, instance, 40_000);
        let kept =
            |world: &World| -> Vec<Appointment> { world.appointments(TOWER).into_iter().cloned().collect() };
        let before = kept(&world);
        world.check_recovery = false;
        match what {
            "restored" => world.restore(1, older).unwrap(),
            "damaged" => {
                world.damage(1, instance, 2, vec![0xff; 9]);
                world.restart(1).unwrap();
            }
            _ => world.lose_all(1).unwrap(),
        }
        if !world.connected(LSP, 1) {
            world.connect(LSP, 1).unwrap();
        }
        if !world.connected(1, TOWER) {
            world.connect(1, TOWER).unwrap();
        }
        world.settle().unwrap();
        world.mine(2).unwrap();
        let after = kept(&world);
        assert!(before.iter().all(|one| after.contains(one)), "{what}");
    }
}

/// S28, S40: whoever isn't named is watched for by nobody, and hears why.
#[test]
fn a_stranger_is_not_watched_for() {
    let mut world = world(10, &[2]);
    let tower = world.members[TOWER].id;
    world.members[1].config.towers.insert(tower);
    world.restart(1).unwrap();
    world.connect(1, TOWER).unwrap();
    let instance = create(&mut world);
    assert_eq!(world.engine(1).unwrap().watchers(instance, 0), []);
    let before = world.appointments(TOWER).len();
    let heard = Rc::new(RefCell::new(vec![]));
    let notes = Rc::clone(&heard);
    world.tamper(move |out| {
        if let (Message::Watched(Watched { refused, .. }), 1) = (&out.message, out.to) {
            notes.borrow_mut().push(refused.as_ref().map(ToString::to_string));
        }
        Fate::Deliver
    });
    let watch = watch(&world);
    says(&mut world, 1, watch);
    assert!(heard.borrow()[0].as_ref().unwrap().contains("factory-watch-for"));
    assert_eq!(world.appointments(TOWER).len(), before);
}

/// S28, S40: what can't be opened, is too large, too long or too old, is refused or forgotten, and harms nobody else's.
#[test]
fn a_liar_gets_nothing_watched() {
    let (mut world, instance) = sold(11);
    let mine = world.appointments(TOWER).len();
    let height = world.chain.height();
    let watch = |locator, until, sealed: Vec<u8>, since| Watch {
        tag: [1; 32],
        locator,
        until,
        height,
        sealed,
        since,
        counter: 1,
        trigger: None,
    };
    let good = vec![0; 100];
    for (watch, stays) in [
        (watch([1; 16], height + 10, vec![0; 39], None), 0),
        (watch([1; 16], height + 10, vec![0; 100_001], None), 0),
        (watch([1; 16], height + 200_000, good.clone(), None), 0),
        (watch([1; 16], height - 1, good.clone(), None), 0),
        (watch([1; 16], height + 10, good.clone(), Some(height)), 0),
        (watch([1; 16], height + 10, good.clone(), None), 1),
        (watch([1; 16], height + 20, good.clone(), None), 1),
    ] {
        says(&mut world, 1, watch);
        assert_eq!(world.appointments(TOWER).len(), mine + stays);
    }
    // It is there already, and is another one than what it waits for.
    let other = watch([1; 16], height + 30, vec![1; 100], Some(height));
    says(&mut world, 1, Watch { trigger: Some(Txid::all_zeros()), ..other });
    assert!(world.appointments(TOWER).iter().all(|one| one.locator != [1; 16] || one.sealed == good));
    assert_eq!(world.appointments(TOWER).len(), mine + 1);
    // Sealed to something else than its locator says.
    let leaf = factory_engine::package(factory(&world, 1, instance))[0].txid;
    let task = Task { not_before: 0, tx: spending(OutPoint::null()) };
    let (lies, _) = Appointment::seal_all(Txid::all_zeros(), &[task]);
    let locator = factory_engine::record::appointment::locators(leaf).next().unwrap();
    says(&mut world, 1, watch(locator, height + 10, lies[0].sealed.clone(), None));
    assert_eq!(world.appointments(TOWER).len(), mine + 2);
    world.stop(1);
    world.command(LSP, Command::Evict { instance, clients: vec![0] }).unwrap();
    world.mine(4).unwrap();
    assert!(logged(&world, TOWER, "it was not sealed to the transaction that its locator names"));
    // Their time is over some day.
    world.mine_to(height + 20 + BURIED + 1).unwrap();
    assert!(world.appointments(TOWER).iter().all(|one| one.sealed != good));
    in_order(&world);
}

/// S22: who has handed its key over needs nothing any more, and the tower forgets it, what is being written too.
#[test]
fn whoever_has_left_is_watched_no_more() {
    let mut world = world(12, &[1]);
    let instance = create(&mut world);
    assert!(!world.appointments(TOWER).is_empty());
    world.hand_over(1, instance).unwrap();
    world.settle().unwrap();
    world.mine(1).unwrap();
    assert!(world.appointments(TOWER).is_empty());
    world.send_raw(1, TOWER, Message::from(watch(&world)).encode()).unwrap();
    let unwatch = Unwatch { tag: [1; 32], locators: vec![] };
    world.send_raw(1, TOWER, Message::from(unwatch).encode()).unwrap();
    world.settle().unwrap();
    assert!(world.appointments(TOWER).is_empty());
    in_order(&world);
}

/// S40: what a tower has it signs, once for all that is new; what it signs of something else isn't kept, nor what somebody
/// else has signed.
#[test]
fn a_tower_signs_for_what_it_has() {
    let (mut world, instance) = sold(12);
    world.mine(1).unwrap();
    let (client, tower) = (world.members[1].id, world.members[TOWER].id);
    let signed = |world: &World| world.members[1].receipts.get(&(instance, tower)).cloned();
    let says_all = |world: &World| {
        let had = watcher(world, 1, instance).appointments;
        let text = signed(world).unwrap();
        text.contains(&format!("{tower} watches for {client}"))
            && text.contains(&format!("{had} appointments"))
    };
    assert!(says_all(&world), "{:?}", signed(&world));
    let first = signed(&world);
    let asked = heard(&mut world);
    world.mine(3).unwrap();
    assert!(!asked.borrow().contains(&"ask_receipt".to_owned()), "{asked:?}");
    let more = |receipt: &mut Receipt| receipt.count += 1;
    let forged = |receipt: &mut Receipt| receipt.signature = b"d6tq".to_vec();
    let old = |receipt: &mut Receipt| receipt.height -= 7;
    for change in [more, forged, old] as [fn(&mut Receipt); 3] {
        world.tamper(move |out| match &out.message {
            Message::Receipt(receipt) => Fate::changed(receipt, change),
            _ => Fate::Deliver,
        });
        buy(&mut world, instance, 20_000);
        world.mine(1).unwrap();
        assert_eq!(signed(&world), first);
    }
    world.heal();
    world.restart(1).unwrap();
    world.connect(1, TOWER).unwrap();
    world.settle().unwrap();
    world.mine(1).unwrap();
    assert!(signed(&world) != first && says_all(&world), "{:?}", signed(&world));
    in_order(&world);
}
