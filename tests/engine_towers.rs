//! Who sleeps is watched for (S40): what a tower gets, what it publishes when, and what it says of itself.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;

use std::cell::RefCell;
use std::rc::Rc;

use bitcoin::hashes::Hash;
use bitcoin::{Transaction, Txid};
use common::{factory, sales};
use factory_engine::record::appointment::{Appointment, Task};
use factory_engine::tower::Watcher;
use factory_engine::types::{Amount, InstanceId, OutPoint, ScriptBuf};
use factory_engine::wire::message::{Message, Receipt, Unwatch, Watch, Watched};
use factory_engine::{Answer, BURIED, Command, PriceList};
use factory_lab::offer::Offer;
use factory_lab::scenario::Scenario;
use factory_lab::world::{Fate, LSP, World};

/// Watches for clients 1 and 2, and is in no factory.
const TOWER: usize = 3;

/// An operator, clients 1 and 2, who get a factory, and the tower of these clients.
fn world(seed: u64, clients: &[usize]) -> World {
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

fn create(world: &mut World) -> InstanceId {
    let offer = Offer { stock: Amount::from_sat(300_000), ..Offer::default() };
    let create = world.create_command(&[1, 2], &offer).unwrap();
    let Answer::Created(instance) = world.command(LSP, Command::Create(create)).unwrap() else { panic!() };
    world.activate(instance).unwrap();
    instance
}

fn buy(world: &mut World, instance: InstanceId, sat: u64) {
    world.buy(1, instance, sat, u64::MAX).unwrap();
    world.settle().unwrap();
}

/// It is active, watched for client 1, and that has bought.
fn sold(seed: u64) -> (World, InstanceId) {
    let mut world = world(seed, &[1]);
    let instance = create(&mut world);
    buy(&mut world, instance, 60_000);
    (world, instance)
}

fn watcher(world: &World, client: usize, instance: InstanceId) -> Watcher {
    let all = world.engine(client).unwrap().watchers(instance, world.chain.height());
    let [watcher] = &all[..] else { panic!("one tower: {all:?}") };
    watcher.clone()
}

fn timeout(world: &World, instance: InstanceId) -> u32 {
    factory(world, 1, instance).current.terms.timeout_height
}

fn in_order(world: &World) {
    assert!(world.judge.violations.is_empty(), "{:?}", world.judge.violations);
}

fn logged(world: &World, at: usize, what: &str) -> bool {
    world.members[at].log.iter().any(|(_, text)| text.contains(what))
}

/// Transactions that the tower has published and that are in the chain.
fn published(world: &World) -> Vec<Txid> {
    let by_tower = world.sent.iter().filter(|sent| sent.at == TOWER).map(|sent| sent.txid);
    let mut txids: Vec<Txid> = by_tower.filter(|txid| world.chain.confirmed(*txid).is_some()).collect();
    txids.sort();
    txids.dedup();
    txids
}

/// What the tower is sent from now on, by name.
fn heard(world: &mut World) -> Rc<RefCell<Vec<String>>> {
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

fn says(world: &mut World, client: usize, message: impl Into<Message>) {
    world.send_raw(client, TOWER, message.into().encode()).unwrap();
    world.settle().unwrap();
}

/// S40: a tower has everything that a client would publish, sealed, after restarts of both; what is there isn't sent
/// again, and nothing of it is published as long as nothing is due.
#[test]
fn a_tower_has_what_its_client_would_publish() {
    let (mut world, instance) = sold(1);
    let first = watcher(&world, 1, instance);
    assert_eq!((first.missing, first.refused.as_deref(), first.pays_sat), (0, None, 0));
    assert!(first.appointments >= 2, "{first:?}");
    assert_eq!(world.appointments(TOWER).len(), first.appointments);
    for txid in factory(&world, 1, instance).confirmed.keys() {
        let bytes = txid.to_byte_array();
        let known = |one: &&Appointment| one.sealed.windows(32).any(|part| part == bytes);
        assert!(!world.appointments(TOWER).iter().any(known));
    }
    let parts = factory_engine::package(factory(&world, 1, instance));
    for part in parts {
        let bytes = bitcoin::consensus::serialize(&part.tx);
        let readable = |one: &&Appointment| one.sealed.windows(bytes.len()).any(|part| part == bytes);
        assert!(!world.appointments(TOWER).iter().any(readable), "{}", part.name);
    }
    for at in [1, TOWER, 1] {
        world.restart(at).unwrap();
        let heard = heard(&mut world);
        world.connect(1, TOWER).unwrap();
        world.settle().unwrap();
        let now = watcher(&world, 1, instance);
        assert_eq!((now.appointments, now.missing), (first.appointments, 0));
        // What is on chain already is said once in each connection.
        assert!(heard.borrow().iter().filter(|name| *name == "watch").count() < first.appointments);
        assert!(!heard.borrow().contains(&"unwatch".to_owned()), "{heard:?}");
        world.heal();
    }
    world.mine(10).unwrap();
    assert_eq!(published(&world), []);
    in_order(&world);
}

/// S26, S40: the operator brings the tree on chain and waits for its stock while the buyer sleeps: the tower publishes
/// what was sold, of the last sale too, before the operator may take it.
#[test]
fn a_tower_publishes_sales_in_time() {
    let (mut world, instance) = sold(2);
    buy(&mut world, instance, 40_000);
    let sold: Vec<Txid> =
        sales(&world, LSP, instance).iter().map(|sold| sold.signed_sale().unwrap().compute_txid()).collect();
    assert_eq!(sold.len(), 2);
    let csv = u32::from(factory(&world, 1, instance).current.terms.stock_csv);
    world.stop(1);
    world.stop(2);
    world.command(LSP, Command::Evict { instance, clients: vec![] }).unwrap();
    let leaf = |world: &World| factory(world, LSP, instance).leaf_height(0);
    while leaf(&world).is_none() {
        world.mine_quietly(1);
        world.follow_chain(LSP).unwrap();
    }
    let begun = leaf(&world).unwrap();
    // It has published the sale, as it should; a liar would not have.
    world.stop(LSP);
    world.chain.drop_waiting(sold[0]);
    world.sync_all().unwrap();
    world.mine(2).unwrap();
    for txid in &sold {
        assert!(published(&world).contains(txid), "{:?}", world.sent);
        assert!(world.chain.confirmed(*txid).unwrap().0 < begun + csv);
    }
    in_order(&world);
}

/// S40: of two towers each has everything, and one is enough: what the other lacks since it was away changes nothing.
#[test]
fn of_two_towers_one_is_enough() {
    const OTHER: usize = 4;
    let prices = PriceList::of_sales(0, 0);
    let mut world = Scenario::new(17).clients(4).short_delays().prices(prices).world().unwrap();
    let id = world.members[1].id;
    for tower in [TOWER, OTHER] {
        let tower_id = world.members[tower].id;
        world.members[1].config.towers.insert(tower_id);
        world.members[tower].config.watch_for.insert(id);
        world.restart(tower).unwrap();
    }
    world.restart(1).unwrap();
    for tower in [TOWER, OTHER] {
        world.connect(1, tower).unwrap();
    }
    world.settle().unwrap();
    let instance = create(&mut world);
    buy(&mut world, instance, 60_000);
    // The first doesn't hear of the second sale.
    world.stop(TOWER);
    buy(&mut world, instance, 40_000);
    world.start(TOWER).unwrap();
    let all = world.engine(1).unwrap().watchers(instance, world.chain.height());
    let [other] = &all[..] else { panic!("{all:?}") };
    assert_eq!((other.peer, other.missing), (world.members[OTHER].id, 0));
    assert!(world.appointments(TOWER).len() < world.appointments(OTHER).len());
    let sold: Vec<Txid> =
        sales(&world, LSP, instance).iter().map(|sold| sold.signed_sale().unwrap().compute_txid()).collect();
    let csv = u32::from(factory(&world, 1, instance).current.terms.stock_csv);
    world.stop(1);
    world.stop(2);
    world.command(LSP, Command::Evict { instance, clients: vec![] }).unwrap();
    while factory(&world, LSP, instance).leaf_height(0).is_none() {
        world.mine_quietly(1);
        world.follow_chain(LSP).unwrap();
    }
    let begun = factory(&world, LSP, instance).leaf_height(0).unwrap();
    world.stop(LSP);
    world.chain.drop_waiting(sold[0]);
    world.sync_all().unwrap();
    world.mine(2).unwrap();
    for txid in &sold {
        assert!(world.chain.confirmed(*txid).is_some_and(|(at, _)| at < begun + csv), "{:?}", world.sent);
    }
    let by = |tower: usize, txid: Txid| world.sent.iter().any(|sent| sent.at == tower && sent.txid == txid);
    assert!(by(TOWER, sold[0]) && by(OTHER, sold[0]) && by(OTHER, sold[1]) && !by(TOWER, sold[1]));
    in_order(&world);
}

/// S19, S40: a buyer has to be on chain before the timeout, and sleeps: the tower brings its path there when the buyer
/// would have, after a second purchase earlier than after the first, and the sales with it.
#[test]
fn a_tower_takes_a_buyer_out_in_time() {
    let (mut world, instance) = sold(3);
    let by = |world: &World, number| {
        let early = factory(world, 1, instance).sale_blocks_early(0, number);
        timeout(world, instance) - u32::from(early)
    };
    let (first, second) = (by(&world, 1), by(&world, 2));
    assert!(second < first);
    buy(&mut world, instance, 40_000);
    let last = sales(&world, LSP, instance)[1].signed_sale().unwrap().compute_txid();
    let end = timeout(&world, instance);
    for at in [LSP, 1, 2] {
        world.stop(at);
    }
    world.mine_to(second).unwrap();
    assert_eq!(published(&world), []);
    world.mine(1).unwrap();
    assert_eq!(published(&world).len(), 1, "{:?}", world.sent);
    world.mine_to(end).unwrap();
    assert!(published(&world).contains(&last), "{:?}", world.sent);
    in_order(&world);
}

/// S19, S25, S40: nobody is there at the timeout but the tower: it publishes the distribution, not before, after a
/// restart too, and again after a reorganisation.
#[test]
fn a_tower_publishes_the_distribution_at_the_timeout() {
    for restarts in [false, true] {
        let mut world = world(4, &[1]);
        let instance = create(&mut world);
        let end = timeout(&world, instance);
        let funding = factory(&world, 1, instance).funding().unwrap();
        for at in [LSP, 1, 2] {
            world.stop(at);
        }
        world.mine_to(end - 1).unwrap();
        assert_eq!(published(&world), []);
        if restarts {
            world.stop(TOWER);
            world.start(TOWER).unwrap();
        }
        world.mine(3).unwrap();
        assert!(world.chain.coin(funding).is_none(), "{:?}", world.sent);
        assert_eq!(published(&world).len(), 1, "{:?}", world.sent);
        world.chain.reorg_and_drop(2);
        world.mine_quietly(3);
        world.sync_all().unwrap();
        world.mine(2).unwrap();
        assert!(world.chain.coin(funding).is_none(), "{:?}", world.sent);
        in_order(&world);
    }
}

/// S40: a tower that is told late is told which transaction is there already, and in which block.
#[test]
fn a_tower_that_comes_later_looks_back() {
    let mut world = world(5, &[1]);
    world.disconnect(1, TOWER);
    let instance = create(&mut world);
    world.mine(5).unwrap();
    world.connect(1, TOWER).unwrap();
    world.settle().unwrap();
    assert_eq!(watcher(&world, 1, instance).missing, 0);
    let end = timeout(&world, instance);
    for at in [LSP, 1, 2] {
        world.stop(at);
    }
    world.mine_to(end + 2).unwrap();
    assert_eq!(published(&world).len(), 1, "{:?}", world.sent);
    in_order(&world);
}

/// S40: what confirms while an appointment for it is on its way is looked for once more, and a restart in between loses
/// nothing.
#[test]
fn a_block_between_is_looked_into_again() {
    for restarts in [false, true] {
        let (mut world, instance) = sold(6);
        let channel = world.channel_in(1, instance).unwrap();
        let coin = world.chain.mint(ScriptBuf::new(), Amount::from_sat(1_000));
        let penalty = spending(coin);
        // The tower handles the block first, and then it hears what it should look for.
        world.mine_quietly(1);
        world.follow_chain(TOWER).unwrap();
        assert!(world.chain.confirmed(coin.txid).is_some());
        world.revoke(1, channel, coin.txid, penalty.clone()).unwrap();
        world.settle().unwrap();
        let sent = |world: &World| {
            world.sent.iter().any(|sent| sent.at == TOWER && sent.txid == penalty.compute_txid())
        };
        assert!(!sent(&world));
        world.mine_quietly(1);
        world.follow_chain(TOWER).unwrap();
        world.settle().unwrap();
        assert!(sent(&world), "{:?}", world.sent);
        if restarts {
            world.sent.clear();
            world.restart(TOWER).unwrap();
            world.mine(1).unwrap();
            assert!(sent(&world), "after a restart");
        }
    }
}

fn spending(outpoint: OutPoint) -> Transaction {
    let input = bitcoin::TxIn { previous_output: outpoint, ..bitcoin::TxIn::default() };
    Transaction {
        version: bitcoin::transaction::Version::TWO,
        lock_time: bitcoin::absolute::LockTime::ZERO,
        input: vec![input],
        output: vec![],
    }
}

/// What lightningd gives for a revoked commitment goes to the tower, and is there after restarts and reconnects, of
/// which none has it begin anew; that transaction makes it due.
#[test]
fn a_tower_has_penalties() {
    let mut world = world(7, &[1]);
    let instance = create(&mut world);
    let before = watcher(&world, 1, instance).appointments;
    let channel = world.channel_in(1, instance).unwrap();
    let commitment = |byte: u8| Txid::from_byte_array([byte; 32]);
    for byte in 1..=3 {
        let penalty = spending(OutPoint { txid: commitment(byte), vout: 0 });
        world.revoke(1, channel, commitment(byte), penalty).unwrap();
    }
    world.settle().unwrap();
    assert_eq!(watcher(&world, 1, instance).appointments, before + 3);
    // Payments while the tower is away.
    world.disconnect(1, TOWER);
    for byte in 4..=5 {
        let penalty = spending(OutPoint { txid: commitment(byte), vout: 0 });
        world.revoke(1, channel, commitment(byte), penalty).unwrap();
    }
    world.restart(1).unwrap();
    let heard = heard(&mut world);
    world.connect(1, TOWER).unwrap();
    world.settle().unwrap();
    let after = watcher(&world, 1, instance);
    assert_eq!((after.appointments, after.missing), (before + 5, 0));
    assert!(!heard.borrow().contains(&"unwatch".to_owned()), "{heard:?}");
    let sent = heard.borrow().iter().filter(|name| *name == "watch").count();
    assert!(sent < before + 3, "only what is new, and what is on chain: {heard:?}");
    assert!(world.sent.iter().all(|sent| sent.at != TOWER));
    in_order(&world);
}

/// S40: of two clients of one factory with one tower neither takes away what the other needs.
#[test]
fn two_clients_have_one_tower() {
    let mut world = world(8, &[1, 2]);
    let instance = create(&mut world);
    let both = world.appointments(TOWER).len();
    world.hand_over(1, instance).unwrap();
    world.settle().unwrap();
    world.mine(1).unwrap();
    assert!(world.appointments(TOWER).len() < both, "one has left");
    assert_eq!(watcher(&world, 2, instance).missing, 0);
    let (end, funding) = (timeout(&world, instance), factory(&world, 2, instance).funding().unwrap());
    for at in [LSP, 1, 2] {
        world.stop(at);
    }
    world.mine_to(end + 2).unwrap();
    assert!(world.chain.coin(funding).is_none(), "{:?}", world.sent);
    in_order(&world);
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
    let (until, height) = (world.chain.height() + 10, world.chain.height());
    let watch = Watch {
        tag: [1; 32],
        locator: [2; 16],
        until,
        height,
        sealed: vec![0; 100],
        since: None,
        counter: 1,
        trigger: None,
    };
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
    let height = world.chain.height();
    let watch = Watch {
        tag: [1; 32],
        locator: [2; 16],
        until: height + 10,
        height,
        sealed: vec![0; 100],
        since: None,
        counter: 1,
        trigger: None,
    };
    world.send_raw(1, TOWER, Message::from(watch).encode()).unwrap();
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

/// S39, S40: at the end of the path of whoever has lost its channels only the operator could close them: its tower is told to
/// forget that path, and brings the distribution on chain, with the client's whole capacity.
#[test]
fn a_tower_forgets_the_path_of_a_lost_machine() {
    let (mut world, instance) = sold(14);
    world.members[1].config.backup_file = true;
    world.restart(1).unwrap();
    world.connect(1, TOWER).unwrap();
    world.settle().unwrap();
    let end = timeout(&world, instance);
    let funding = factory(&world, 1, instance).funding().unwrap();
    world.lose_machine(1, false).unwrap();
    world.reconnect().unwrap();
    world.connect(1, TOWER).unwrap();
    world.settle().unwrap();
    world.mine(1).unwrap();
    assert!(factory(&world, 1, instance).has_lost_channels());
    assert_eq!(watcher(&world, 1, instance).missing, 0);
    for at in [LSP, 1, 2] {
        world.stop(at);
    }
    world.mine_to(end - 1).unwrap();
    assert_eq!(published(&world), [], "{:?}", world.sent);
    world.mine(3).unwrap();
    assert!(world.chain.coin(funding).is_none(), "{:?}", world.sent);
    assert_eq!(published(&world).len(), 1, "{:?}", world.sent);
    in_order(&world);
}
