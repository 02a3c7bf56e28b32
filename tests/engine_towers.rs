//! Who sleeps is watched for (S40): what a tower gets, and what it publishes when. What it takes of whom, and what it says
//! of itself, is in `engine_tower_limits`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;

use bitcoin::Txid;
use bitcoin::hashes::Hash;
use common::towers::{TOWER, buy, create, heard, in_order, sold, spending, watcher, world};
use common::{factory, sales};
use factory_engine::record::appointment::Appointment;
use factory_engine::types::{Amount, InstanceId, OutPoint, ScriptBuf};
use factory_engine::{Command, PriceList};
use factory_lab::scenario::Scenario;
use factory_lab::world::{LSP, World};

fn timeout(world: &World, instance: InstanceId) -> u32 {
    factory(world, 1, instance).current.terms.timeout_height
}

/// Transactions that the tower has published and that are in the chain.
fn published(world: &World) -> Vec<Txid> {
    let by_tower = world.sent.iter().filter(|sent| sent.at == TOWER).map(|sent| sent.txid);
    let mut txids: Vec<Txid> = by_tower.filter(|txid| world.chain.confirmed(*txid).is_some()).collect();
    txids.sort();
    txids.dedup();
    txids
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
