//! Copies elsewhere: what waits for them, and what a node has with nothing but a copy and its seed (S9, S39).

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;

use bitcoin::Amount;
use common::{factory, purse, sales};
use factory_engine::backup::{Copy, CopyKey, SealedCopy};
use factory_engine::io::Keeper;
use factory_engine::record::encode_record;
use factory_engine::record::event::{Event, Restored};
use factory_engine::tx::musig::MasterSecret;
use factory_engine::types::{InstanceId, NodeId};
use factory_engine::wire::message::{Copies, CopyBack, Message};
use factory_engine::{Command, Config, Engine, Entropy, Input, Policy, PriceList, Refusal, State};
use factory_lab::offer::Offer;
use factory_lab::scenario::Scenario;
use factory_lab::world::{Fed, LSP, World};

const PAID_MSAT: u64 = 40_000_000;

fn keeps(config: &mut Config) {
    config.backup_file = true;
    config.min_keepers = 1;
}

fn in_order(world: &World) {
    assert!(world.judge.violations.is_empty(), "{:?}", world.judge.violations);
}

/// Whether a copy of a factory has every record that a member has stored of it.
fn has_all(world: &World, at: usize, instance: InstanceId) -> bool {
    let member = &world.members[at];
    member.copies.get(&instance).is_some_and(|copy| copy == member.store.records(instance))
}

/// S39: neither does a client say that it has stored its path, nor does the operator send the funding, before the
/// records that this follows from are elsewhere. With nobody to wait for, both do.
#[test]
fn nothing_is_funded_before_copies_are_there() {
    for at in [LSP, 1] {
        let scenario = Scenario::new(3).clients(2).config(keeps);
        let (mut world, instance) = scenario.begun().unwrap();
        world.break_keeper(at);
        world.settle().unwrap();
        let funding = factory(&world, LSP, instance).funding();
        let sent = |world: &World| {
            funding.is_some_and(|funding| world.sent.iter().any(|sent| sent.txid == funding.txid))
                || world.members[1].lightningd.channels.values().any(|channel| channel.opener)
        };
        assert!(!sent(&world), "member {at}'s keeper is broken");
        assert_eq!(factory(&world, LSP, instance).funding_height(), None);
        let kept = world.members[at].engine.as_ref().unwrap().kept(instance).unwrap();
        assert!(kept.waits && kept.keepers.is_empty(), "{kept:?}");
        if at == 1 {
            assert_eq!(world.state(LSP, instance), Some(State::Storing), "client 1 has not said stored");
        }
        world.mend_keeper(at);
        world.settle().unwrap();
        world.mine(3).unwrap();
        assert_eq!(world.state(LSP, instance), Some(State::Active));
        for at in 0..=2 {
            assert!(has_all(&world, at, instance), "member {at}");
        }
        in_order(&world);
    }
    // Whoever needn't have one goes on, and so does whoever has no keeper.
    for backup_file in [true, false] {
        let scenario = Scenario::new(3).clients(2).config(|config| config.backup_file = backup_file);
        let (mut world, instance) = scenario.begun().unwrap();
        (0..=2).for_each(|at| world.break_keeper(at));
        world.settle().unwrap();
        world.mine(3).unwrap();
        assert_eq!(world.state(LSP, instance), Some(State::Active));
        in_order(&world);
    }
}

/// S39: what is bought is paid, and said to be stored, once a copy has it.
#[test]
fn nothing_is_paid_before_a_copy_is_there() {
    let prices = PriceList::of_sales(700_001, 0);
    let scenario = Scenario::new(5).clients(4).stock(300_000).prices(prices).config(keeps);
    let (mut world, instance) = scenario.active().unwrap();
    world.pay(LSP, 1, PAID_MSAT).unwrap();
    let before = purse(&world, instance);
    world.break_keeper(1);
    world.ask(1, instance, 50_000, 700_001).unwrap().unwrap();
    world.settle().unwrap();
    assert_eq!(purse(&world, instance), before, "the price is paid, and only this node knows what for");
    world.mend_keeper(1);
    world.settle().unwrap();
    world.run_out().unwrap();
    assert_eq!(world.refused(1, instance), None);
    assert_eq!(before - purse(&world, instance), 700_001);
    assert_eq!(sales(&world, 1, instance).len(), 1);
    assert!(has_all(&world, 1, instance));
    in_order(&world);
}

/// S22, S39: a key leaves once a copy says that it may.
#[test]
fn no_key_leaves_before_a_copy_is_there() {
    let scenario = Scenario::new(7).clients(2).short_delays().stock(60_000).lifetime(170, 110);
    let scenario = scenario.config(|config| {
        keeps(config);
        config.push_msat = 546_000;
        config.renew = Policy::Auto;
        config.handover_depth = 6;
    });
    let (mut world, old) = scenario.active().unwrap();
    let dying = factory(&world, 1, old).current.terms.timeout_height - 110;
    world.mine(dying - world.chain.height()).unwrap();
    let offer = Offer {
        lifetime_blocks: 170,
        dying_blocks: 110,
        stock: Amount::from_sat(60_000),
        ..Offer::default()
    };
    let new = world.make_factory(&offer).unwrap();
    world.break_keeper(1);
    let funded = factory(&world, 1, new).funding_height().unwrap();
    world.mine(funded + 6 - world.chain.height()).unwrap();
    world.settle().unwrap();
    let handed_over =
        |world: &World| [1, 2].map(|client| factory(world, LSP, old).has_handed_over(client - 1));
    assert_eq!(handed_over(&world), [false, true], "client 1's key is stored nowhere else as handed over");
    world.mend_keeper(1);
    world.settle().unwrap();
    assert_eq!(handed_over(&world), [true, true]);
    in_order(&world);
}

/// S39: with its seed and a copy a client has all of its capacity from the timeout on, operator gone; it publishes
/// nothing of its path meanwhile, not even if it is asked to, and signs nothing (S9).
#[test]
fn a_lost_machine_is_paid_by_the_distribution() {
    let scenario = Scenario::new(9).clients(3).config(keeps);
    let (mut world, instance) = scenario.active().unwrap();
    world.pay(LSP, 1, PAID_MSAT).unwrap();
    let timeout = factory(&world, 1, instance).current.terms.timeout_height;
    world.stop(LSP);
    world.lose_machine(1, true).unwrap();
    world.settle().unwrap();
    let lost = factory(&world, 1, instance);
    assert!(lost.has_lost_channels() && lost.restored().is_some());
    assert!(lost.funding_height().is_some(), "the chain was read again");
    let exit = world.feed(1, factory_engine::Input::Command(Command::Exit { instance })).unwrap();
    assert_eq!(exit, Fed::Done(Err(Refusal::ChannelsLost { instance, timeout })));
    world.mine_to(timeout - 1).unwrap();
    assert!(world.sent.iter().all(|sent| sent.at != 1), "{:?}", world.sent);
    world.mine(3).unwrap();
    let balance = world.members[1].lightningd.balance(&world.chain).to_sat();
    assert!(balance >= 100_000, "{balance}");
    assert_eq!(world.state(1, instance), Some(State::Distributed));
    in_order(&world);
}

/// S34, S39: with the operator there its channel is closed, and its path published by the operator alone; a buyer
/// that has lost its machine doesn't leave by itself either, when the timeout is near.
#[test]
fn a_lost_machine_is_paid_by_its_operator() {
    let scenario = Scenario::new(11).clients(4).stock(300_000).config(keeps);
    let (mut world, instance) = scenario.sold(&[(1, 50_000)]).unwrap();
    world.pay(LSP, 1, PAID_MSAT).unwrap();
    let (lost, asks) = (1, true);
    world.lose_machine(lost, asks).unwrap();
    world.reconnect().unwrap();
    world.settle().unwrap();
    let path = u32::try_from(factory(&world, LSP, instance).current.layout.path(0).len()).unwrap();
    world.mine(path + 3).unwrap();
    assert!(factory(&world, 1, instance).leaf_height(0).is_some(), "the operator took it on chain");
    assert!(world.sent.iter().all(|sent| sent.at != 1 || !sent.what.contains("static")), "{:?}", world.sent);
    in_order(&world);
}

/// S9, S39: an operator with nothing but a copy sells and signs nothing, and gets its clients out in time.
#[test]
fn an_operator_that_lost_its_machine_evicts_in_time() {
    let scenario = Scenario::new(13).clients(3).config(keeps);
    let (mut world, instance) = scenario.active().unwrap();
    let timeout = factory(&world, LSP, instance).current.terms.timeout_height;
    world.lose_machine(LSP, false).unwrap();
    world.reconnect().unwrap();
    world.settle().unwrap();
    let lost = factory(&world, LSP, instance);
    assert!(lost.has_lost_channels() && lost.restored().is_some());
    let from = lost.next_eviction().unwrap();
    assert!(from < timeout);
    world.mine_to(from - 1).unwrap();
    assert!(
        world.sent.iter().all(|sent| sent.at != LSP || sent.what.contains("funding")),
        "{:?}",
        world.sent
    );
    world.mine_to(timeout).unwrap();
    for client in 0..3 {
        assert!(factory(&world, LSP, instance).leaf_height(client).is_some(), "client {client}");
    }
    in_order(&world);
}

/// A copy of a member's records, without the last `less` and with one more.
fn other_copy(world: &World, at: usize, instance: InstanceId, less: usize) -> Copy {
    let mut records = world.members[at].store.records(instance).to_vec();
    records.truncate(records.len() - less);
    records.push(encode_record(&[Event::from(Restored { reason: "of another course".to_owned() })]));
    Copy { instance, records }
}

fn logged(world: &World, at: usize, what: &str) -> bool {
    world.members[at].log.iter().any(|(_, text)| text.contains(what))
}

/// S9, S39: a file that couldn't be read at the start, and is there later, makes the factory exit-only if it has more, and
/// if it has others: then it is no keeper of that factory, and says so.
#[test]
fn a_file_that_is_found_late_makes_the_factory_exit_only() {
    for (less, brings_back) in [(0, true), (1, false), (2, false)] {
        let scenario = Scenario::new(17).clients(2).config_of(1, |config| config.backup_file = true);
        let (mut world, instance) = scenario.active().unwrap();
        let before = world.members[1].store.records(instance).to_vec();
        world.check_recovery = false;
        let copy = other_copy(&world, 1, instance, less);
        let (had, more) = (copy.records.len(), copy.records.last().cloned());
        world.feed(1, Input::KeeperHas { keeper: Keeper::File, copy }).unwrap();
        if brings_back {
            assert!(world.members[1].engine.is_none(), "it has to be restarted");
            world.start(1).unwrap();
        }
        let reason = factory(&world, 1, instance).restored().unwrap();
        assert!(reason.contains(&format!("its copy in the backup file has {had}")), "{reason}");
        let records = world.members[1].store.records(instance);
        assert!(records.starts_with(&before));
        if brings_back {
            assert_eq!(records.get(before.len()), more.as_ref());
        } else {
            assert_eq!(records.len(), before.len() + 1);
        }
        let engine = world.engine(1).unwrap();
        assert_eq!(engine.keeper_trouble(Keeper::File).is_some(), !brings_back);
        let leaves = Input::Command(Command::Exit { instance });
        world.feed(1, leaves).unwrap();
        in_order(&world);
    }
}

/// S9: an operator proposes nothing to be signed while it isn't known what a copy has, that is here, and stores it first.
#[test]
fn an_operator_proposes_nothing_while_a_copy_is_looked_at() {
    let scenario = Scenario::new(18).clients(4).stock(300_000);
    let (mut world, instance) = scenario.active().unwrap();
    world.check_recovery = false;
    world.break_bringing_back(LSP);
    let copy = other_copy(&world, LSP, instance, 0);
    world.feed(LSP, Input::KeeperHas { keeper: Keeper::File, copy }).unwrap();
    world.ask(1, instance, 40_000, 1_000_000).unwrap().unwrap();
    world.settle().unwrap();
    assert!(logged(&world, LSP, "one of the operator's copies is looked at"), "{:?}", world.members[LSP].log);
    assert_eq!(sales(&world, LSP, instance).len(), 0);
    world.mend_bringing_back(LSP).unwrap();
    world.start(LSP).unwrap();
    assert!(factory(&world, LSP, instance).restored().is_some());
    in_order(&world);
}

/// S39: where nobody knows what a file still has, what it had is no copy.
#[test]
fn what_is_lost_is_no_copy() {
    let (mut world, instance) = Scenario::new(19).clients(2).config(keeps).active().unwrap();
    let kept = |world: &World| world.engine(1).unwrap().kept(instance).unwrap().keepers;
    for lost in [false, true] {
        assert_eq!(kept(&world), [Keeper::File]);
        let reason = "its disk is away".to_owned();
        world.feed(1, Input::NotKept { keeper: Keeper::File, reason, lost }).unwrap();
        assert_eq!(kept(&world).is_empty(), lost);
        assert_eq!(world.engine(1).unwrap().keeper_trouble(Keeper::File), Some("its disk is away"));
    }
    world.break_keeper(1);
    world.mend_keeper(1);
    world.settle().unwrap();
    assert_eq!(kept(&world), [Keeper::File]);
    in_order(&world);
}

/// S39: a copy has every record at any time at which nothing is under way, after restarts too.
#[test]
fn copies_follow_the_records() {
    let scenario = Scenario::new(15).clients(2).stock(100_000).config(keeps);
    let (mut world, instance) = scenario.sold(&[(1, 30_000)]).unwrap();
    for at in 0..=2 {
        assert!(has_all(&world, at, instance), "member {at}");
        world.restart(at).unwrap();
        world.settle().unwrap();
        let engine = world.members[at].engine.as_ref().unwrap();
        let kept = engine.kept(instance).unwrap();
        assert_eq!(usize::try_from(kept.records).unwrap(), world.members[at].store.records(instance).len());
        assert_eq!(kept.keepers.len(), 1);
    }
    world.mine(2).unwrap();
    in_order(&world);
}

struct Zeros;

impl Entropy for Zeros {
    fn bytes32(&mut self) -> [u8; 32] {
        [0; 32]
    }
}

/// A peer connects, says that it keeps this copy, and gives it back.
fn give_back(engine: &mut Engine, peer: u8, copy: &Copy) {
    let sealed = CopyKey::derive(&MasterSecret::new([7; 32])).seal(copy).unwrap();
    let list = vec![(sealed.tag, (sealed.counter, sealed.nonce().unwrap()))];
    let SealedCopy { tag, counter, sealed } = sealed;
    let peer = NodeId([peer; 33]);
    let says = |message: Message| Input::Message { peer, payload: message.encode() };
    for input in [
        Input::PeerUp { peer, channels: true },
        says(Copies { list }.into()),
        says(CopyBack { tag, counter, sealed }.into()),
    ] {
        let step = engine.handle(input, 0, 0, &mut Zeros);
        engine.apply(step).unwrap();
    }
}

/// S39: of what peers give back of one factory the copy with the most records counts, whoever comes first; of
/// as many the first. What is of another factory is beside it.
#[test]
fn of_two_peers_the_one_with_more_records_counts() {
    let instance = InstanceId([1; 32]);
    let copy = |records: &[u8]| Copy { instance, records: records.iter().map(|byte| vec![*byte]).collect() };
    let (older, newer, other) = (copy(&[1, 2]), copy(&[1, 2, 3]), copy(&[1, 9]));
    for (first, second, counts) in [
        (&older, &newer, (4, &newer)),
        (&newer, &older, (2, &newer)),
        (&older, &other, (2, &older)),
        (&other, &older, (2, &other)),
    ] {
        let config = Config { peer_backup: true, ..Config::default() };
        let mut engine = Engine::new(NodeId([3; 33]), MasterSecret::new([7; 32]), config);
        give_back(&mut engine, 2, first);
        assert_eq!(engine.found_copies(), [(NodeId([2; 33]), first.clone())]);
        give_back(&mut engine, 4, second);
        let (peer, copy) = counts;
        assert_eq!(engine.found_copies(), [(NodeId([peer; 33]), copy.clone())]);
        let beside = Copy { instance: InstanceId([2; 32]), ..copy.clone() };
        give_back(&mut engine, 5, &beside);
        assert_eq!(engine.found_copies().len(), 2);
    }
}
