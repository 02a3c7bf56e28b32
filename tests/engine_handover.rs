//! A client that gives up what it had in a factory: its key goes to the operator (S22), and to nobody else.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;

use common::{came_from_a_backup, factory};
use factory_engine::types::{ChannelId, InstanceId, NodeId};
use factory_engine::wire::message::{Buy, Handover, Message};
use factory_engine::{
    ChannelNow, Command, Ended, Input, NotYet, Policy, RefusalKind, Stage, State, Unusable,
};
use factory_lab::offer::Offer;
use factory_lab::scenario::Scenario;
use factory_lab::world::{Fate, Fed, LSP, World, losing};

/// What the operator gives in each channel: what has to stay in the one before, and 1 sat.
const PUSH: u64 = 546_000;
const RESERVE: u64 = 546_000;
/// Confirmations that a new factory has when it is usable, and those that a handover waits for.
const USABLE: u32 = 3;
const DEPTH: u32 = 6;
const LIFETIME: u32 = 170;
const DYING: u32 = 110;

fn offer() -> Offer {
    let stock = bitcoin::Amount::from_sat(60_000);
    Offer { lifetime_blocks: LIFETIME, dying_blocks: DYING, stock, ..Offer::default() }
}

/// Clients that renew by themselves, and their first factory, which is due.
fn due(seed: u64, clients: usize) -> (World, InstanceId) {
    let scenario =
        Scenario::new(seed).clients(clients).short_delays().stock(60_000).lifetime(LIFETIME, DYING);
    let scenario = scenario.config(|config| {
        config.push_msat = PUSH;
        config.renew = Policy::Auto;
        config.handover_depth = 6;
    });
    let (mut world, old) = scenario.active().unwrap();
    // Who has nothing to move leaves without being asked.
    for client in 1..=clients {
        world.pay(LSP, client, 1_000).unwrap();
    }
    // What moves is these tests' to say.
    world.mute.insert("move_ask");
    let dying = factory(&world, 1, old).current.terms.timeout_height - DYING;
    world.mine(dying - world.chain.height()).unwrap();
    assert_eq!(world.state(1, old), Some(State::Dying));
    (world, old)
}

/// The same, and the next factory is usable: one block for each confirmation.
fn next(seed: u64, clients: usize) -> (World, InstanceId, InstanceId) {
    let (mut world, old) = due(seed, clients);
    let new = world.make_factory(&offer()).unwrap();
    (world, old, new)
}

/// Client 1's channel of a factory.
fn channel(world: &World, instance: InstanceId) -> ChannelId {
    factory(world, 1, instance).current.channels[&0]
}

/// All that client 1 can move goes to its new channel.
fn move_all(world: &mut World, old: InstanceId, new: InstanceId) {
    let (from, to) = (channel(world, old), channel(world, new));
    let has = world.members[1].lightningd.channels[&from].balances.fundee_msat;
    world.shift_between(1, from, to, has - RESERVE).unwrap();
}

/// Whether client 1 has handed over: as it, and as the operator knows.
fn handed_over(world: &World, old: InstanceId) -> [bool; 2] {
    [1, LSP].map(|at| factory(world, at, old).has_handed_over(0))
}

/// Blocks until the new factory has so many confirmations.
fn deepen(world: &mut World, new: InstanceId, confirmations: u32) {
    let funded = factory(world, 1, new).funding_height().unwrap();
    world.mine(funded + confirmations - 1 - world.chain.height()).unwrap();
    world.settle().unwrap();
}

/// Client 1 has left its first factory.
fn left(seed: u64, clients: usize) -> (World, InstanceId, InstanceId) {
    let (mut world, old, new) = next(seed, clients);
    move_all(&mut world, old, new);
    deepen(&mut world, new, DEPTH);
    assert_eq!(handed_over(&world, old), [true; 2]);
    (world, old, new)
}

fn in_order(world: &World) {
    assert!(world.judge.violations.is_empty(), "{:?}", world.judge.violations);
}

/// What keeps client 1 in its first factory, but for what its channels hold.
fn stays(world: &World, old: InstanceId) -> Option<NotYet> {
    let engine = world.members[1].engine.as_ref().unwrap();
    engine.may_leave(engine.factory(old).unwrap(), world.chain.height()).err()
}

/// S22: the key arrives, is the right one, and nothing of the factory is the client's any more: on either side, also
/// after a restart.
#[test]
fn an_empty_channel_is_left() {
    let (mut world, old, new) = left(1, 2);
    for restarted in [false, true] {
        if restarted {
            for at in [LSP, 1] {
                world.restart(at).unwrap();
            }
            world.reconnect().unwrap();
            world.settle().unwrap();
            world.mine(1).unwrap();
        }
        let height = world.chain.height();
        let id = channel(&world, old);
        for at in [1, LSP] {
            let known = factory(&world, at, old);
            assert_eq!(known.channel_usable(0, height), Err(Unusable::Ended(Ended::Closing)), "member {at}");
            assert!(world.members[at].lightningd.channels[&id].mutual, "member {at}");
            assert!(known.current.exiting.is_empty() && known.current.exit.is_none());
        }
        let engine = world.members[LSP].engine.as_ref().unwrap();
        let on_lsp = engine.factory(old).unwrap();
        let key = engine.handed_over_key(on_lsp, 0).unwrap();
        let member = on_lsp.current.proposal.as_ref().unwrap().clients[0].0;
        assert_eq!(key.public(), member);
        assert!(engine.handed_over_key(on_lsp, 1).is_none(), "the other client is in");
        let client = factory(&world, 1, old);
        assert!(client.current.handover_stored && client.has_left());
        assert_eq!(client.exit_reserve(2_500), bitcoin::Amount::ZERO, "no coin is kept for an exit");
        assert_eq!(client.state(height), State::Left);
        assert_eq!(world.state(1, new), Some(State::Active));
        let engine = world.members[1].engine.as_ref().unwrap();
        assert_eq!(engine.renewal(client, height).unwrap().stage, Stage::Done);
        assert_eq!(engine.guarded_channels().iter().filter(|(id, _)| *id == channel(&world, old)).count(), 0);
    }
    in_order(&world);
}

/// S22: not before the new channel has its confirmations, and then at once.
#[test]
fn not_before_the_new_channel_is_deep() {
    let (mut world, old, new) = next(2, 2);
    move_all(&mut world, old, new);
    let until = factory(&world, 1, new).funding_height().unwrap() + DEPTH - 1;
    for confirmations in USABLE..DEPTH {
        deepen(&mut world, new, confirmations);
        assert_eq!(handed_over(&world, old), [false; 2], "{confirmations}");
        assert_eq!(stays(&world, old), Some(NotYet::NotDeep { instance: new, until }));
    }
    deepen(&mut world, new, DEPTH);
    assert_eq!(handed_over(&world, old), [true; 2]);
    in_order(&world);
}

/// S22: not while there is more in it than has to stay, and not if that isn't made up for.
#[test]
fn not_with_a_balance() {
    let (mut world, old) = due(3, 2);
    world.pay(LSP, 1, 20_000_000).unwrap();
    let new = world.make_factory(&offer()).unwrap();
    deepen(&mut world, new, DEPTH + 2);
    assert_eq!(handed_over(&world, old), [false; 2]);
    let (from, to) = (channel(&world, old), channel(&world, new));
    // One millisatoshi too much.
    let has = world.members[1].lightningd.channels[&from].balances.fundee_msat;
    world.shift_between(1, from, to, has - RESERVE - 1).unwrap();
    world.mine(1).unwrap();
    assert_eq!(handed_over(&world, old), [false; 2]);
    let engine = world.members[1].engine.as_ref().unwrap();
    let stage = engine.renewal(engine.factory(old).unwrap(), world.chain.height()).unwrap().stage;
    assert_eq!(stage, Stage::Move { next: new, msat: 1 });
    world.shift_between(1, from, to, 1).unwrap();
    world.mine(1).unwrap();
    assert_eq!(handed_over(&world, old), [true; 2]);
    in_order(&world);
}

/// S22: an operator that gives back less than what stays behind gets no key.
#[test]
fn not_for_less_than_stays_behind() {
    let (mut world, old) = due(4, 2);
    let new = world.make_factory(&Offer { push_msat: Some(RESERVE - 1), ..offer() }).unwrap();
    move_all(&mut world, old, new);
    deepen(&mut world, new, DEPTH + 1);
    assert_eq!(handed_over(&world, old), [false; 2]);
    let engine = world.members[1].engine.as_ref().unwrap();
    let stage = engine.renewal(engine.factory(old).unwrap(), world.chain.height()).unwrap().stage;
    let why = Some(NotYet::NotMadeUp { left_msat: RESERVE, most_msat: RESERVE - 1 });
    assert_eq!(stage, Stage::HandOver { next: Some(new), why });
    // A person that pays the difference.
    world.members[1].config.max_renewal_price_msat = 1;
    world.restart(1).unwrap();
    world.reconnect().unwrap();
    world.settle().unwrap();
    world.mine(1).unwrap();
    assert_eq!(handed_over(&world, old), [true; 2]);
    in_order(&world);
}

/// S22: not while an HTLC stands on a channel, on whichever side it began, nor if one came while somebody looked: from
/// the first look on none is let on.
#[test]
fn not_with_an_htlc() {
    let (mut world, old, new) = next(5, 2);
    move_all(&mut world, old, new);
    let id = channel(&world, old);
    world.htlcs_on.insert(id);
    deepen(&mut world, new, DEPTH + 2);
    assert_eq!(handed_over(&world, old), [false; 2]);
    // A list from before it came.
    let peer = world.members[LSP].id;
    let mut before = world.balances(1, peer);
    before.iter_mut().for_each(|channel| channel.htlcs = false);
    let usable = |world: &World| {
        let policies = world.members[1].engine.as_ref().unwrap().channel_policies();
        policies.into_iter().find(|(policy, _)| *policy == id).unwrap().1.usable
    };
    assert_eq!(usable(&world), Ok(()));
    world.feed(1, Input::Balances(before)).unwrap();
    assert_eq!(usable(&world), Err(Unusable::HandedOver), "nothing is let on while somebody looks");
    let one = world.members[1].engine.as_ref().unwrap().policy_of(id).unwrap();
    assert_eq!(one.usable, Err(Unusable::HandedOver), "nor by whoever asks for one channel, as a move does");
    // What was asked for at another time says nothing about now.
    let mut old_list = world.balances(1, peer);
    old_list.iter_mut().for_each(|channel| channel.htlcs = false);
    let answer = Input::Emptied { instance: old, freeze: u64::MAX, result: Ok(old_list) };
    world.feed(1, answer).unwrap();
    assert!(!factory(&world, 1, old).has_handed_over(0));
    world.settle().unwrap();
    assert_eq!(handed_over(&world, old), [false; 2]);
    assert_eq!(usable(&world), Ok(()), "it goes on");
    world.htlcs_on.clear();
    world.mine(1).unwrap();
    assert_eq!(handed_over(&world, old), [true; 2]);
    in_order(&world);
}

/// S22: an answer that was asked for before says nothing about now.
#[test]
fn an_old_answer_is_none() {
    let (mut world, old, new) = next(6, 2);
    move_all(&mut world, old, new);
    let (from, to) = (channel(&world, old), channel(&world, new));
    world.htlcs_on.insert(from);
    deepen(&mut world, new, DEPTH);
    let peer = world.members[LSP].id;
    let mut list = world.balances(1, peer);
    list.iter_mut().for_each(|channel| channel.htlcs = false);
    assert!(list.iter().any(|channel| channel.channel_id == to));
    for freeze in [0, 1, u64::MAX] {
        let answer = Input::Emptied { instance: old, freeze, result: Ok(list.clone()) };
        world.feed(1, answer).unwrap();
        assert_eq!(handed_over(&world, old), [false; 2]);
    }
}

/// S22: L takes no key but the member's own: a wrong one is refused, and named, and nothing of it is stored. The right
/// one comes again by itself.
#[test]
fn a_wrong_key_is_refused() {
    let (mut world, old, new) = next(7, 3);
    move_all(&mut world, old, new);
    world.tamper(|out| match &out.message {
        Message::Handover(handover) if out.from == 1 => {
            let mut wrong = handover.clone();
            wrong.key.sealed[7] ^= 1;
            Fate::replace(wrong)
        }
        _ => Fate::Deliver,
    });
    let before = world.members[LSP].store.records(old).len();
    deepen(&mut world, new, DEPTH);
    assert_eq!(handed_over(&world, old), [true, false]);
    let keys = |world: &World| {
        let engine = world.members[LSP].engine.as_ref().unwrap();
        engine.handed_over_key(engine.factory(old).unwrap(), 0).is_some()
    };
    assert!(!keys(&world));
    let stored = &world.members[LSP].store.records(old)[before..];
    let names = stored.iter().flat_map(|record| factory_engine::record::decode_record(record).unwrap());
    assert!(names.into_iter().all(|event| event.name() != "key_received"), "it was stored");
    let id = world.members[1].id.to_string();
    let named = |(_, line): &(_, String)| line.contains(&id) && line.contains("not client 0's");
    assert!(world.members[LSP].log.iter().any(named));
    assert!(!world.members[1].lightningd.channels[&channel(&world, old)].closing, "nothing is closed yet");
    let engine = world.members[1].engine.as_ref().unwrap();
    let renewal = engine.renewal(engine.factory(old).unwrap(), world.chain.height()).unwrap();
    assert_eq!(renewal.stage, Stage::Acknowledgement);
    assert!(renewal.failed.unwrap().what.contains("does not take its key"));
    world.heal();
    world.mine(1).unwrap();
    assert_eq!(handed_over(&world, old), [true; 2]);
    assert!(keys(&world));
    in_order(&world);
}

/// S22: another member's key, or one of another factory, isn't this one's.
#[test]
fn a_key_counts_in_its_place_alone() {
    let (mut world, old, new) = next(8, 2);
    move_all(&mut world, old, new);
    let seen = std::rc::Rc::new(std::cell::RefCell::new(None));
    let note = seen.clone();
    world.tamper(move |out| {
        if let Message::Handover(handover) = &out.message {
            note.borrow_mut().get_or_insert_with(|| handover.clone());
        }
        Fate::Deliver
    });
    deepen(&mut world, new, DEPTH);
    let handover: Handover = seen.borrow().clone().unwrap();
    let peer = world.members[2].id;
    let say = |world: &mut World, peer: NodeId, message: Handover| {
        world.feed(LSP, Input::Message { peer, payload: Message::Handover(message).encode() }).unwrap();
        world.settle().unwrap();
    };
    // Client 2 repeats what it has seen of client 1; and client 1 says it of another factory.
    say(&mut world, peer, handover.clone());
    assert!(!factory(&world, LSP, old).has_handed_over(1));
    let peer = world.members[1].id;
    say(&mut world, peer, Handover { instance: new, ..handover.clone() });
    assert!(!factory(&world, LSP, new).has_handed_over(0));
    // Once more the same: stored once. And one that contradicts it.
    let records = world.members[LSP].store.records(old).len();
    say(&mut world, peer, handover.clone());
    let mut wrong = handover;
    wrong.key.sealed[0] ^= 1;
    say(&mut world, peer, wrong);
    assert_eq!(world.members[LSP].store.records(old).len(), records);
    let fault = |(_, line): &(_, String)| line.contains("fault of") && line.contains("contradicts the first");
    assert!(world.members[LSP].log.iter().any(fault));
    in_order(&world);
}

/// S10, S22: it is stored before it leaves, and said until it is known to have arrived, whoever is restarted.
#[test]
fn it_arrives_whoever_is_restarted() {
    for victim in [LSP, 1] {
        for step in [1, 2, 3, 5, 8, 12] {
            let (mut world, old, new) = next(100 + step, 2);
            move_all(&mut world, old, new);
            deepen(&mut world, new, DEPTH - 1);
            world.chain.mine();
            for at in 0..world.members.len() {
                world.follow_chain(at).unwrap();
            }
            let ended = (0..step).any(|_| !world.step().unwrap());
            world.stop(victim);
            world.settle().unwrap();
            world.start(victim).unwrap();
            world.reconnect().unwrap();
            world.settle().unwrap();
            world.mine(2).unwrap();
            let at = format!("victim {victim}, step {step}");
            assert_eq!(handed_over(&world, old), [true; 2], "{at}");
            let id = channel(&world, old);
            for member in [LSP, 1] {
                assert!(world.members[member].lightningd.channels[&id].mutual, "{at}");
                assert!(factory(&world, member, old).current.exiting.is_empty(), "{at}");
            }
            in_order(&world);
            if ended {
                break;
            }
        }
    }
}

/// S22: an acknowledgement that is lost: the key comes again at each block, and is acknowledged again.
#[test]
fn a_lost_acknowledgement_comes_again() {
    let (mut world, old, new) = next(9, 2);
    move_all(&mut world, old, new);
    world.tamper(losing("handover_stored", LSP));
    deepen(&mut world, new, DEPTH);
    assert_eq!(handed_over(&world, old), [true; 2]);
    assert!(!factory(&world, 1, old).current.handover_stored);
    let records = world.members[LSP].store.records(old).len();
    world.heal();
    world.mine(1).unwrap();
    assert!(factory(&world, 1, old).current.handover_stored);
    let more = &world.members[LSP].store.records(old)[records..];
    let events = more.iter().flat_map(|record| factory_engine::record::decode_record(record).unwrap());
    assert!(events.into_iter().all(|event| event.name() != "key_received"), "stored twice");
    in_order(&world);
}

/// S22, S34: whatever lightningd does with its channels then starts no exit, on either side; commands are refused.
#[test]
fn nobody_takes_it_on_chain() {
    for how in [Ended::Failed, Ended::OnChain, Ended::Spliced, Ended::Closing] {
        let (mut world, old, new) = next(10, 2);
        move_all(&mut world, old, new);
        // Neither has closed it when lightningd fails it.
        world.tamper(losing("handover_stored", LSP));
        deepen(&mut world, new, DEPTH);
        let id = channel(&world, old);
        for at in [1, LSP] {
            let list = vec![ChannelNow { channel_id: id, ended: Some(how) }];
            world.feed(at, Input::Channels { list, whole: false }).unwrap();
        }
        world.settle().unwrap();
        world.mine(2).unwrap();
        for at in [1, LSP] {
            assert!(factory(&world, at, old).current.exiting.is_empty(), "{how}: member {at}");
        }
        let refused = |world: &mut World, at, command| match world.feed(at, Input::Command(command)).unwrap()
        {
            Fed::Done(Err(refusal)) => (refusal.kind(), refusal.to_string()),
            other => panic!("{other:?}"),
        };
        let (kind, why) = refused(&mut world, 1, Command::Exit { instance: old });
        assert!(kind == RefusalKind::WrongState && why.contains("handed its key"), "{why}");
        let (kind, why) = refused(&mut world, LSP, Command::Evict { instance: old, clients: vec![0] });
        assert!(kind == RefusalKind::BadParameter && why.contains("handed its key over"), "{why}");
        let ours = |sent: &&factory_lab::world::Sent| sent.what.contains("transaction");
        assert_eq!(world.sent.iter().find(ours).map(|sent| sent.what.clone()), None);
        in_order(&world);
    }
}

/// S21, S22: at the deadline L evicts those who are in, and not who has left; from the timeout on that one takes no
/// distribution, neither of its leaf nor of stock. Once the coin is spent for good, nothing is left of the factory.
#[test]
fn who_has_left_is_neither_evicted_nor_paid() {
    let (mut world, old, _) = left(11, 4);
    let (on_lsp, client) = (factory(&world, LSP, old), factory(&world, 1, old));
    assert!(on_lsp.still_in().eq([1, 2, 3]));
    let (evict, timeout) = (on_lsp.next_eviction().unwrap(), client.current.terms.timeout_height);
    assert!(evict < timeout);
    while world.chain.height() < timeout + 20 {
        world.mine(1).unwrap();
        assert_eq!(world.state(1, old), Some(State::Left));
        in_order(&world);
    }
    let on_lsp = factory(&world, LSP, old);
    assert!(!on_lsp.current.evicting.contains(&0) && on_lsp.current.evicting.contains(&3));
    let tree = on_lsp.current.tree.clone().unwrap();
    let of_old = |txid| tree.sessions().iter().any(|session| session.txid == txid);
    assert!(world.sent.iter().any(|sent| sent.at == LSP && of_old(sent.txid)));
    assert!(!world.sent.iter().any(|sent| sent.at == 1 && of_old(sent.txid)));
    // The coin of all was spent when the first of them was evicted.
    let spent = factory(&world, 1, old).funding().unwrap();
    let (at, _) = world.chain.spender(spent).unwrap();
    world.mine(at + 99 - world.chain.height() - 1).unwrap();
    assert_eq!(world.state(1, old), Some(State::Left));
    world.mine(1).unwrap();
    assert_eq!(world.state(1, old), Some(State::Closed));
    let engine = world.members[1].engine.as_ref().unwrap();
    assert!(engine.archivable(world.chain.height()).any(|instance| instance == old));
    in_order(&world);
}

/// S24, S22: beside a client that has left nothing is sold any more: it signs nothing itself, nor does L ask anybody.
#[test]
fn nothing_is_signed_beside_it() {
    let (mut world, old, _) = left(12, 4);
    let why = world.ask(1, old, 10_000, u64::MAX).unwrap().unwrap_err().to_string();
    assert!(why.contains("has left it"), "{why}");
    let on_lsp = factory(&world, LSP, old);
    let coin = on_lsp.current.layout.stock_coin(0).unwrap();
    assert!(on_lsp.current.layout.coin(coin).unwrap().clients.contains(&1));
    let told = std::rc::Rc::new(std::cell::RefCell::new(vec![]));
    let note = told.clone();
    world.tamper(move |out| {
        if let Message::SaleAbort(abort) = &out.message {
            note.borrow_mut().push((out.to, abort.reason.to_string()));
        }
        assert!(!matches!(out.message, Message::SaleOffer(_)));
        Fate::Deliver
    });
    let amount = bitcoin::Amount::from_sat(10_000);
    let buy = Buy { instance: old, attempt: 1, amount, max_price_msat: u64::MAX, jit: None };
    let peer = world.members[2].id;
    world.feed(LSP, Input::Message { peer, payload: Message::Buy(buy).encode() }).unwrap();
    world.settle().unwrap();
    let told = told.borrow();
    assert!(told.len() == 1 && told[0].0 == 2 && told[0].1.contains("has left it"), "{told:?}");
    in_order(&world);
}

/// S9, S33: who isn't sure what it has hands nothing over, and takes nothing.
#[test]
fn a_damaged_factory_hands_nothing_over() {
    for victim in [LSP, 1] {
        let (mut world, old, new) = next(13, 2);
        move_all(&mut world, old, new);
        let last = world.members[victim].store.records(old).len() - 1;
        world.damage(victim, old, last, vec![1, 0xff, 0xfe, 0]);
        world.restart(victim).unwrap();
        world.reconnect().unwrap();
        world.settle().unwrap();
        world.mine(DEPTH + 2).unwrap();
        assert!(factory(&world, victim, old).damage().is_some());
        assert!(!factory(&world, victim, old).has_handed_over(0), "member {victim}");
    }
}

/// S9: nor does who came back from a backup; and such an operator takes no key, and says so.
#[test]
fn a_restored_factory_hands_nothing_over() {
    for victim in [LSP, 1] {
        let (mut world, old, new) = next(14, 2);
        move_all(&mut world, old, new);
        came_from_a_backup(&mut world, victim, old);
        deepen(&mut world, new, DEPTH + 2);
        assert!(!factory(&world, victim, old).has_handed_over(0), "member {victim}");
        if victim == LSP {
            let engine = world.members[1].engine.as_ref().unwrap();
            let renewal = engine.renewal(engine.factory(old).unwrap(), world.chain.height()).unwrap();
            assert!(renewal.failed.unwrap().what.contains("nothing is agreed"));
        } else {
            assert_eq!(stays(&world, old), Some(NotYet::OutOfUse));
        }
    }
}
