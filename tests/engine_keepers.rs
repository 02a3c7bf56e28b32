//! Peers that keep copies: what waits for them, what comes back from them, and what a liar among them can do
//! (S9, S39, S40).

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;

use std::cell::RefCell;
use std::rc::Rc;

use common::{factory, purse, sales};
use factory_engine::backup::{Copy, Kept as Copied};
use factory_engine::io::{Keeper, ShelfAnswer};
use factory_engine::types::InstanceId;
use factory_engine::wire::message::{AskCopy, Copies, ForgetCopy, Keep, Kept, Message};
use factory_engine::{Command, Config, Input, PriceList, State};
use factory_lab::scenario::Scenario;
use factory_lab::world::{Fate, LSP, ShelfLie, World};

const PAID_MSAT: u64 = 40_000_000;

fn keeps(config: &mut Config) {
    config.peer_backup = true;
}

fn must_keep(config: &mut Config) {
    config.peer_backup = true;
    config.min_keepers = 1;
}

fn in_order(world: &World) {
    assert!(world.judge.violations.is_empty(), "{:?}", world.judge.violations);
}

fn kept(world: &World, at: usize, instance: InstanceId) -> Copied {
    world.engine(at).unwrap().kept(instance).unwrap()
}

/// Copies that the operator keeps for a client.
fn on_shelf(world: &World, client: usize) -> Vec<(u32, usize)> {
    let shelf = world.members[LSP].shelves.get(&world.members[client].id);
    shelf.into_iter().flatten().map(|(_, copy)| (copy.counter, copy.sealed.len())).collect()
}

fn logged(world: &World, at: usize, what: &str) -> bool {
    world.members[at].log.iter().any(|(_, text)| text.contains(what))
}

/// S39: an operator has a copy of all that each client has stored, after restarts of both sides too; it learns none of
/// it (S40).
#[test]
fn an_operator_keeps_its_clients_records() {
    let (mut world, instance) =
        Scenario::new(3).clients(2).stock(100_000).config(keeps).sold(&[(1, 30_000)]).unwrap();
    let operator = Keeper::Peer(world.members[LSP].id);
    for round in 0..3 {
        for client in [1, 2] {
            let copied = kept(&world, client, instance);
            assert_eq!(copied.keepers, [operator], "client {client} round {round}");
            let [(counter, _)] = on_shelf(&world, client)[..] else { panic!() };
            assert_eq!(counter, copied.records);
            let shelf = &world.members[LSP].shelves[&world.members[client].id];
            let copy = shelf.values().next().unwrap();
            assert!(!copy.sealed.windows(32).any(|bytes| bytes == instance.0));
            assert_ne!(copy.tag, instance.0);
        }
        assert!(kept(&world, LSP, instance).keepers.is_empty(), "it doesn't ask its clients");
        world.restart(if round == 0 { LSP } else { 1 }).unwrap();
        world.reconnect().unwrap();
        world.run_out().unwrap();
    }
    in_order(&world);
}

/// S39: with a keeper that there has to be, nothing is said to be stored before the operator has it; where none has to
/// be, one that gives no answer keeps nobody waiting for long.
#[test]
fn what_binds_waits_for_the_operators_copy() {
    for (config, waits) in [(must_keep as fn(&mut Config), true), (keeps, false)] {
        let scenario = Scenario::new(5).clients(2).config_of(1, config).config_of(LSP, |config| {
            config.ceremony_timeout = 60_000;
        });
        let (mut world, instance) = scenario.begun().unwrap();
        world.mute.insert("kept");
        world.settle().unwrap();
        assert_eq!(world.state(LSP, instance), Some(State::Storing));
        assert!(kept(&world, 1, instance).waits);
        world.now += 10_001;
        world.feed(1, Input::Tick).unwrap();
        world.settle().unwrap();
        assert!(logged(&world, 1, "it hasn't said in time that it has stored a copy"));
        assert_eq!(kept(&world, 1, instance).waits, waits);
        assert_eq!(world.state(LSP, instance) == Some(State::Storing), waits);
        in_order(&world);
    }
}

/// S36, S39: what is held when its operator goes away isn't paid behind its back: the purchase is over.
#[test]
fn a_payment_that_is_held_ends_with_the_connection() {
    let prices = PriceList::of_sales(700_001, 0);
    let scenario = Scenario::new(8).clients(4).stock(300_000).prices(prices).config(keeps);
    let (mut world, instance) = scenario.active().unwrap();
    world.pay(LSP, 1, PAID_MSAT).unwrap();
    let before = purse(&world, instance);
    world.mute.insert("kept");
    world.ask(1, instance, 50_000, 700_001).unwrap().unwrap();
    world.settle().unwrap();
    assert!(kept(&world, 1, instance).waits);
    world.disconnect(LSP, 1);
    world.settle().unwrap();
    assert!(!kept(&world, 1, instance).waits);
    assert_eq!(purse(&world, instance), before);
    world.mute.clear();
    world.reconnect().unwrap();
    world.run_out().unwrap();
    assert_eq!(purse(&world, instance), before, "nobody pays for what is over");
    world.buy(1, instance, 50_000, 700_001).unwrap();
    assert_eq!(before - purse(&world, instance), 700_001);
    in_order(&world);
}

/// S39: where there have to be two, one isn't enough.
#[test]
fn two_keepers_are_two() {
    let scenario = Scenario::new(6).clients(2).config_of(1, |config| {
        config.peer_backup = true;
        config.backup_file = true;
        config.min_keepers = 2;
    });
    let (mut world, instance) = scenario.begun().unwrap();
    world.mute.insert("kept");
    world.settle().unwrap();
    assert_eq!(kept(&world, 1, instance).keepers, [Keeper::File]);
    assert!(kept(&world, 1, instance).waits);
    assert_eq!(world.state(LSP, instance), Some(State::Storing));
    in_order(&world);
}

/// S9, S39: a node that has lost everything but its seed finds at its operator what it was in, and is paid.
#[test]
fn a_lost_machine_is_found_at_its_operator() {
    let scenario = Scenario::new(7).clients(4).stock(300_000).config(keeps);
    let (mut world, instance) = scenario.sold(&[(1, 50_000)]).unwrap();
    world.pay(LSP, 1, PAID_MSAT).unwrap();
    let before = world.members[1].store.records(instance).to_vec();
    world.lose_all(1).unwrap();
    world.reconnect().unwrap();
    world.settle().unwrap();
    assert!(world.engine(1).unwrap().factory(instance).is_none());
    let found = world.engine(1).unwrap().found_copies();
    assert_eq!(found.iter().map(|(_, copy)| &copy.records).collect::<Vec<_>>(), [&before]);
    assert_eq!(world.restore_from_peers(1, true).unwrap(), 1);
    world.reconnect().unwrap();
    world.settle().unwrap();
    let back = factory(&world, 1, instance);
    assert!(back.has_lost_channels() && back.restored().is_some());
    assert_eq!(sales(&world, 1, instance).len(), 1);
    let path = u32::try_from(factory(&world, LSP, instance).current.layout.path(0).len()).unwrap();
    world.mine(path + 3).unwrap();
    assert!(factory(&world, 1, instance).leaf_height(0).is_some(), "the operator took it on chain");
    in_order(&world);
}

/// S9, S39: and with its operator gone for good it has its whole capacity after the timeout, if it met it once more.
#[test]
fn what_was_found_pays_after_the_timeout() {
    let (mut world, instance) = Scenario::new(9).clients(3).config(keeps).active().unwrap();
    world.pay(LSP, 1, PAID_MSAT).unwrap();
    let timeout = factory(&world, 1, instance).current.terms.timeout_height;
    world.lose_all(1).unwrap();
    world.reconnect().unwrap();
    world.settle().unwrap();
    world.restore_from_peers(1, false).unwrap();
    world.stop(LSP);
    world.mine_to(timeout + 3).unwrap();
    let balance = world.members[1].lightningd.balance(&world.chain).to_sat();
    assert!(balance >= 100_000, "{balance}");
    assert_eq!(world.state(1, instance), Some(State::Distributed));
    in_order(&world);
}

/// S9: a node with an older copy of its disk has its own records back before it signs anything, and is exit-only.
#[test]
fn an_older_disk_is_caught_up_and_signs_nothing() {
    let scenario = Scenario::new(11).clients(4).stock(300_000).config(keeps);
    let (mut world, instance) = scenario.restored(1, &[(2, 50_000)]).unwrap();
    assert!(world.members[1].engine.is_none(), "it has to be restarted");
    assert!(logged(&world, 1, "nothing is signed before it has shown them"));
    world.start(1).unwrap();
    world.reconnect().unwrap();
    world.run_out().unwrap();
    let restored = factory(&world, 1, instance);
    assert!(restored.restored().unwrap().contains("its copy with a peer"));
    assert_eq!(sales(&world, 1, instance).len(), 1, "what it had forgotten is back");
    let [(counter, _)] = on_shelf(&world, 1)[..] else { panic!() };
    assert_eq!(counter, kept(&world, 1, instance).records, "its keeper has what was added");
    let signed = |world: &World| sales(world, LSP, instance).iter().filter(|sold| sold.is_signed()).count();
    assert_eq!(signed(&world), 1);
    let _ = world.ask(2, instance, 40_000, 1_000_000).unwrap();
    world.run_out().unwrap();
    assert_eq!(signed(&world), 1, "a second one has its signature");
    // The next start finds the same.
    world.restart(1).unwrap();
    assert!(factory(&world, 1, instance).restored().is_some());
    in_order(&world);
}

/// S9, S39: a node that was restored from less than its operator keeps takes the rest when it meets it: what it had bought
/// is back, its channels stay lost, and its operator gets what was stored since.
#[test]
fn a_keeper_that_comes_later_and_has_more() {
    let scenario = Scenario::new(25).clients(4).stock(300_000).config_of(1, |config| {
        config.peer_backup = true;
        config.backup_file = true;
    });
    let (mut world, instance) = scenario.active().unwrap();
    world.pay(LSP, 1, PAID_MSAT).unwrap();
    world.check_recovery = false;
    // The file's disk was away when it bought.
    let file = world.members[1].copies.clone();
    world.buy(1, instance, 50_000, 1_000_000).unwrap();
    world.run_out().unwrap();
    let before = world.members[1].store.records(instance).to_vec();
    world.members[1].copies = file;
    world.lose_machine(1, false).unwrap();
    world.mine(1).unwrap();
    let restored = factory(&world, 1, instance);
    assert!(restored.has_lost_channels() && sales(&world, 1, instance).is_empty());
    let parts = world.members[1].store.records(instance).to_vec();
    assert!(!parts.starts_with(&before));

    world.reconnect().unwrap();
    world.settle().unwrap();
    assert!(world.members[1].engine.is_none(), "it has to be restarted: {:?}", world.members[1].log);
    world.start(1).unwrap();
    let stored = world.members[1].store.records(instance);
    assert!(stored.starts_with(&parts), "nothing of what it had is gone");
    assert!(before.iter().all(|record| stored.contains(record)), "nor of what it had before its loss");
    for _ in 0..2 {
        world.reconnect().unwrap();
        world.run_out().unwrap();
        let restored = factory(&world, 1, instance);
        assert!(restored.restored().unwrap().contains("what was missing is back"));
        assert!(restored.has_lost_channels());
        assert_eq!(sales(&world, 1, instance).len(), 1, "what it bought is back");
        let [(counter, _)] = on_shelf(&world, 1)[..] else { panic!() };
        assert_eq!(counter, kept(&world, 1, instance).records, "its keeper has what was added");
        world.restart(1).unwrap();
    }
    in_order(&world);
}

/// S9: of as many records, and others: a node that has gone on from an older disk finds that out too, and neither side's
/// records are lost.
#[test]
fn as_many_records_and_others() {
    let scenario = Scenario::new(12).clients(4).stock(300_000).config(keeps);
    let (mut world, instance) = scenario.active().unwrap();
    let older = world.backup(1);
    world.buy(2, instance, 50_000, 1_000_000).unwrap();
    let kept_before = on_shelf(&world, 1);
    let newer = world.members[1].store.records(instance).len();
    world.check_recovery = false;
    world.restore(1, older).unwrap();
    // It has written something else before it meets anybody: it leaves, and that is stored.
    while world.members[1].store.records(instance).len() < newer {
        world.mine(1).unwrap();
        let exit = Input::Command(Command::Exit { instance });
        world.feed(1, exit).unwrap();
    }
    world.reconnect().unwrap();
    world.run_out().unwrap();
    let restored = factory(&world, 1, instance).restored().map(str::to_owned);
    assert!(restored.is_some_and(|why| why.contains("its copy with a peer")));
    assert!(logged(&world, 1, "they differ, and both are kept as they are"));
    assert_eq!(on_shelf(&world, 1), kept_before, "the keeper's copy isn't replaced");
    in_order(&world);
}

/// S9: what a keeper has shown has no deadline: nothing is signed before what it has more is stored, though it takes
/// longer than any keeper may, and the keeper goes away meanwhile.
#[test]
fn what_a_keeper_has_shown_is_waited_for() {
    let scenario = Scenario::new(16).clients(4).stock(300_000).config(keeps);
    let (mut world, instance) = scenario.active().unwrap();
    let older = world.backup(1);
    let exit = Input::Command(Command::Exit { instance });
    world.feed(1, exit).unwrap();
    world.run_out().unwrap();
    world.check_recovery = false;
    world.break_bringing_back(1);
    world.restore(1, older).unwrap();
    world.reconnect().unwrap();
    world.settle().unwrap();
    assert!(logged(&world, 1, "nothing is signed before it has shown them"));
    world.now += 100_000;
    world.feed(1, Input::Tick).unwrap();
    world.settle().unwrap();
    world.disconnect(LSP, 1);
    world.settle().unwrap();
    world.reconnect().unwrap();
    world.settle().unwrap();
    // A neighbour buys.
    world.ask(2, instance, 40_000, 1_000_000).unwrap().unwrap();
    world.settle().unwrap();
    assert!(logged(&world, 1, "sale_propose from"));
    world.now += 100_000;
    world.feed(1, Input::Tick).unwrap();
    world.settle().unwrap();
    assert_eq!(sales(&world, 1, instance).len(), 0, "nothing of it is signed");
    assert_eq!(factory(&world, 1, instance).restored(), None);
    world.mend_bringing_back(1).unwrap();
    assert!(world.members[1].engine.is_none(), "it has to be restarted");
    world.start(1).unwrap();
    assert!(factory(&world, 1, instance).restored().is_some_and(|why| why.contains("its copy with a peer")));
    assert!(factory(&world, 1, instance).current.exiting.contains(&0), "what it had forgotten is back");
    in_order(&world);
}

/// S40: a disconnect while a copy is being stored keeps nobody from asking for it on the next connection.
#[test]
fn a_shelf_opens_again_after_a_disconnect() {
    let (mut world, instance) = Scenario::new(14).clients(2).config(keeps).active().unwrap();
    let (peer, tag) = (world.members[1].id, [5; 32]);
    world.disconnect(LSP, 1);
    world
        .feed(LSP, Input::Shelf { peer, answer: ShelfAnswer::Put { tag, counter: 1, result: Ok(()) } })
        .unwrap();
    world.reconnect().unwrap();
    world.run_out().unwrap();
    assert_eq!(kept(&world, 1, instance).keepers, [Keeper::Peer(world.members[LSP].id)]);
    in_order(&world);
}

/// Two clients, to one of whom its operator says that it has a newer copy, which it doesn't show.
fn says_newer_and_shows_nothing() -> (World, InstanceId) {
    let scenario = Scenario::new(13).clients(2).stock(300_000).config(keeps);
    let (mut world, instance) = scenario.active().unwrap();
    world.members[LSP].shelf_lie = Some(ShelfLie::Newer);
    world.mute.insert("copy_back");
    world.disconnect(LSP, 1);
    world.reconnect().unwrap();
    world.settle().unwrap();
    assert!(logged(&world, 1, "nothing is signed before it has shown them"));
    (world, instance)
}

/// S4: of two requests to sign that wait for a keeper the last one is answered. The first was given up in between, and whoever
/// signs that is blamed.
#[test]
fn of_two_requests_that_wait_the_last_is_signed() {
    let (mut world, instance) = says_newer_and_shows_nothing();
    world.ask(2, instance, 40_000, 1_000_000).unwrap().unwrap();
    world.settle().unwrap();
    world.stop(2);
    world.settle().unwrap();
    world.start(2).unwrap();
    world.reconnect().unwrap();
    world.settle().unwrap();
    let waits = world.members[1].log.iter().filter(|(_, line)| line.contains("sale_propose from")).count();
    assert_eq!(waits, 2);
    world.now += 61_000;
    world.feed(1, Input::Tick).unwrap();
    world.settle().unwrap();
    assert!(!logged(&world, LSP, "fault of"), "{:?}", world.members[LSP].log);
    // It goes on when they are back.
    world.members[LSP].shelf_lie = None;
    world.mute.clear();
    for client in [1, 2] {
        world.disconnect(LSP, client);
    }
    world.reconnect().unwrap();
    world.run_out().unwrap();
    assert!(sales(&world, 1, instance).iter().any(|sold| sold.is_signed()));
}

/// S9, S40: whoever says that it has a newer copy, and shows none, has said nothing. Nothing is signed meanwhile.
#[test]
fn a_liar_who_says_newer_is_not_believed() {
    for shows in [true, false] {
        let (mut world, instance) = says_newer_and_shows_nothing();
        if !shows {
            // A neighbour buys: this node signs nothing as long as it doesn't know.
            world.ask(2, instance, 40_000, 1_000_000).unwrap().unwrap();
            world.settle().unwrap();
            assert!(logged(&world, 1, "sale_propose from"));
            assert!(!sales(&world, 1, instance).iter().any(|sold| sold.is_signed()));
        } else {
            // What it shows is not what this node has sealed.
            world.mute.clear();
            world.disconnect(LSP, 1);
            world.reconnect().unwrap();
            world.settle().unwrap();
            assert!(logged(&world, 1, "it gave back no copy of this node's"));
        }
        world.run_out().unwrap();
        assert_eq!(factory(&world, 1, instance).restored(), None);
        world.members[LSP].shelf_lie = None;
        world.mute.clear();
        world.disconnect(LSP, 1);
        world.reconnect().unwrap();
        world.run_out().unwrap();
        if shows {
            world.buy(1, instance, 40_000, 1_000_000).unwrap();
            assert_eq!(sales(&world, 1, instance).len(), 1);
        }
        in_order(&world);
    }
}

/// S39: of several copies the one with the most records counts: a keeper that has kept an old one can't pass it off as
/// newer, and whoever has none at least says so.
#[test]
fn an_old_copy_is_only_an_old_copy() {
    for lie in [ShelfLie::Older, ShelfLie::Forgets] {
        let (mut world, instance) =
            Scenario::new(15).clients(2).stock(300_000).config(keeps).active().unwrap();
        world.members[LSP].shelf_lie = Some(lie);
        if lie == ShelfLie::Forgets {
            world.members[LSP].shelves.clear();
        }
        world.buy(1, instance, 40_000, 1_000_000).unwrap();
        world.disconnect(LSP, 1);
        world.reconnect().unwrap();
        world.run_out().unwrap();
        let records = kept(&world, 1, instance).records;
        assert_eq!(factory(&world, 1, instance).restored(), None, "{lie:?}");
        assert_eq!(sales(&world, 1, instance).len(), 1, "{lie:?}");
        assert!(on_shelf(&world, 1).iter().all(|(counter, _)| *counter < records), "{lie:?}");
        in_order(&world);
    }
}

/// S28, S40: a shelf is for those who may have one; nobody asks for another's copies, nor writes without end.
#[test]
fn a_shelf_is_not_for_everybody() {
    let (mut world, _) = Scenario::new(17).clients(2).config(keeps).active().unwrap();
    let tag = *world.members[LSP].shelves[&world.members[1].id].keys().next().unwrap();
    let told = |world: &mut World, from: usize, message: Message| {
        world.send_raw(from, LSP, message.encode()).unwrap();
        world.settle().unwrap();
        world.now += 1_000;
    };
    // Client 2 can neither have nor delete what is client 1's.
    let before = on_shelf(&world, 1);
    told(&mut world, 2, AskCopy { tag }.into());
    told(&mut world, 2, ForgetCopy { tag }.into());
    let ignored = |what| world.members[LSP].log.iter().filter(|(_, text)| text.contains(what)).count();
    assert_eq!(ignored("there is no such copy of its"), 2);
    told(&mut world, 2, Keep { tag, counter: 9_999, sealed: vec![1; 100] }.into());
    told(&mut world, 2, Keep { tag: [8; 32], counter: 1, sealed: vec![] }.into());
    assert_eq!(on_shelf(&world, 1), before);
    assert!(on_shelf(&world, 2).iter().all(|(_, bytes)| *bytes > 10), "nothing isn't kept");
    // It has a shelf of its own, up to its quota, and not as often as it likes.
    let large = |counter| Message::from(Keep { tag: [9; 32], counter, sealed: vec![7; 900_000] });
    for counter in 0..60 {
        told(&mut world, 2, large(counter));
    }
    let (counter, _) = *on_shelf(&world, 2).iter().find(|(_, bytes)| *bytes == 900_000).unwrap();
    assert!((30..40).contains(&counter), "{counter}");
    in_order(&world);
}

/// S39: what a keeper refuses is said, and waited for only where it has to be.
#[test]
fn a_keeper_that_refuses_is_named() {
    let scenario = Scenario::new(19).clients(2).config(keeps).tamper(|out| match &out.message {
        Message::Kept(kept) => {
            Fate::changed(kept, |kept: &mut Kept| kept.refused = Some("the disk is full".into()))
        }
        _ => Fate::Deliver,
    });
    let (world, instance) = scenario.active().unwrap();
    assert!(kept(&world, 1, instance).keepers.is_empty());
    let operator = Keeper::Peer(world.members[LSP].id);
    assert_eq!(world.engine(1).unwrap().keeper_trouble(operator), Some("the disk is full"));
    in_order(&world);
}

/// S40: what is over is deleted at its keepers.
#[test]
fn what_is_over_is_forgotten_by_its_keepers() {
    let scenario = Scenario::new(21).clients(2).stock(0).short_delays().lifetime(110, 40).unchecked();
    let (mut world, instance) = scenario.config(keeps).active().unwrap();
    assert_eq!(on_shelf(&world, 1).len(), 1);
    world.feed(LSP, Input::Command(Command::Exit { instance })).unwrap();
    world.mine(4).unwrap();
    for at in [LSP, 1] {
        world.feed(at, Input::Channels { list: vec![], whole: true }).unwrap();
    }
    world.run_out().unwrap();
    let height = world.chain.height();
    assert_eq!(world.archive(1, height), [instance]);
    world.disconnect(LSP, 1);
    world.reconnect().unwrap();
    world.settle().unwrap();
    assert!(on_shelf(&world, 1).is_empty());
    in_order(&world);
}

/// S28, S40: more than a keeper takes of one factory is refused with a word, and nothing of it is kept.
#[test]
fn a_copy_that_is_too_large_is_refused() {
    let (mut world, instance) = Scenario::new(23).clients(2).config(keeps).active().unwrap();
    let refusals: Rc<RefCell<Vec<String>>> = Rc::default();
    let noting = refusals.clone();
    world.tamper(move |out| {
        if let Message::Kept(Kept { refused: Some(why), .. }) = &out.message {
            noting.borrow_mut().push(why.to_string());
        }
        Fate::Deliver
    });
    let before = [1, 2].map(|client| on_shelf(&world, client));
    let tag = *world.members[LSP].shelves[&world.members[2].id].keys().next().unwrap();
    for tag in [tag, [9; 32]] {
        let keep = Keep { tag, counter: 9_999, sealed: vec![7; 1_000_001] };
        world.send_raw(2, LSP, Message::from(keep).encode()).unwrap();
        world.settle().unwrap();
        world.now += 1_000;
    }
    assert_eq!(*refusals.borrow(), ["it is too large", "it is too large"]);
    // Its own side sends none, and says which keeper would take it.
    let mut records = world.members[1].store.records(instance).to_vec();
    records.push(vec![7; 1_000_001]);
    world.feed(1, Input::Copied { instance, copies: vec![Copy { instance, records }] }).unwrap();
    world.settle().unwrap();
    let operator = Keeper::Peer(world.members[LSP].id);
    let trouble = world.engine(1).unwrap().keeper_trouble(operator).unwrap();
    assert!(trouble.contains("more than a peer takes: the backup file takes them"), "{trouble}");
    assert_eq!([1, 2].map(|client| on_shelf(&world, client)), before);
    in_order(&world);
}

/// S28, S40: who lists more copies than anybody keeps is heard in none of them.
#[test]
fn a_list_without_end_is_not_heard() {
    let (mut world, instance) = Scenario::new(24).clients(2).config(keeps).active().unwrap();
    let before = on_shelf(&world, 1);
    let list = |count: u8| {
        let list = (0..count).map(|tag| ([tag; 32], (9, [tag; 24]))).collect();
        Message::from(Copies { list }).encode()
    };
    world.mute.insert("copies");
    world.disconnect(LSP, 1);
    world.reconnect().unwrap();
    world.settle().unwrap();
    world.send_raw(LSP, 1, list(65)).unwrap();
    world.settle().unwrap();
    assert!(logged(&world, 1, "it lists more than 64 copies"));
    assert_eq!(world.engine(1).unwrap().keeping_peers().count(), 0);
    world.send_raw(LSP, 1, list(64)).unwrap();
    world.settle().unwrap();
    assert_eq!(world.engine(1).unwrap().keeping_peers().count(), 1);
    assert!(world.engine(1).unwrap().found_copies().is_empty());
    world.mute.clear();
    world.disconnect(LSP, 1);
    world.reconnect().unwrap();
    world.run_out().unwrap();
    assert_eq!(kept(&world, 1, instance).keepers, [Keeper::Peer(world.members[LSP].id)]);
    assert_eq!(on_shelf(&world, 1), before);
    in_order(&world);
}
