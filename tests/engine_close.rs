//! The cooperative close: everybody who is in signs one transaction to what each has, or nobody is bound by more than
//! what it has (S8, S19, S24).

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;

use bitcoin::{ScriptBuf, TxOut};
use common::closes::{ask, close, closing, has, has_signed, in_order, logged, paid, pays, untouched, usable};
use common::factory;
use factory_engine::tx::layout::{SessionId, SpendRole};
use factory_engine::tx::scripts::{DUST, anchor_script};
use factory_engine::tx::verify::verify_input;
use factory_engine::types::{Amount, InstanceId};
use factory_engine::wire::message::{CloseAsk, CloseReady, Message};
use factory_engine::{
    BURIED, CannotClose, ChannelNow, Command, Ended, Input, NextAction, Purpose, Refusal, Standing, State,
    Unusable, standing, statement,
};
use factory_lab::scenario::Scenario;
use factory_lab::world::{Fate, LSP, World, losing};

/// Everybody gets what it has, to the satoshi; the operator pays, and gets the rest; nothing moves from then on; when
/// it is buried, nothing is left.
#[test]
fn everybody_gets_what_it_has() {
    for (seed, clients) in [(1, 2), (2, 5), (3, 9)] {
        let (mut world, instance) = paid(seed, clients);
        let before: Vec<Amount> = (1..=clients).map(|client| has(&world, client)).collect();
        close(&mut world, instance).unwrap();
        let root = factory(&world, LSP, instance).funding().unwrap();
        let tx = world.chain.waiting_spender(root).unwrap().clone();
        for at in 0..=clients {
            let own = closing(&world, at, instance).unwrap();
            assert_eq!(own.txid(), tx.compute_txid(), "member {at}");
            assert!(own.signature.is_some(), "member {at}");
            assert_eq!(world.state(at, instance), Some(State::Closing), "member {at}");
            let client = at.saturating_sub(1) as u32;
            assert_eq!(usable(&world, at, instance, client), Err(Unusable::Closing), "S18: member {at}");
            let entry = own.session.id;
            assert_eq!((entry.coin, entry.role), (0, SpendRole::Close));
        }
        // One input, what everybody has, the operator's rest and the anchor.
        assert_eq!((tx.version.0, tx.input.len(), tx.output.len()), (3, 1, clients + 2));
        assert_eq!(tx.output.last().unwrap().script_pubkey, anchor_script());
        let prevout = closing(&world, 1, instance).unwrap().session.prevout;
        verify_input(&tx, &prevout).unwrap();
        for client in 1..=clients {
            assert_eq!(pays(&world, client, &tx), before[client - 1], "S19: client {client}");
        }
        let paid: Amount = tx.output.iter().map(|output| output.value).sum();
        let fee = prevout.value - paid;
        let all: Amount = before.iter().copied().sum();
        assert_eq!(pays(&world, LSP, &tx), prevout.value - all - fee - Amount::from_sat(240));
        assert!(fee < Amount::from_sat(3_000), "{fee}");
        world.mine(1).unwrap();
        in_order(&mut world);
        assert!(world.chain.confirmed(tx.compute_txid()).is_some());
        for at in 0..=clients {
            let known = factory(&world, at, instance);
            let height = world.chain.height();
            assert_eq!(standing(known, height), Some(Standing::Closing), "member {at}");
            assert_eq!(known.next_action(height), NextAction::Closing, "member {at}");
            let account = statement(known).unwrap();
            assert_eq!(account.problem, None, "member {at}");
            let index = at.checked_sub(1).map(|client| client as u32);
            let got = account.total(|purpose| *purpose == Purpose::Closed(index)).unwrap();
            match at {
                LSP => assert!(got > Amount::ZERO),
                client => assert_eq!(got, before[client - 1], "client {client}"),
            }
            let refused = ask(&mut world, at, Command::Exit { instance });
            assert_eq!(refused, Err(Refusal::Closing(instance)), "member {at}");
        }
        // Deep enough: lightningd ends the channels, with the peer.
        world.mine(2).unwrap();
        world.settle().unwrap();
        for at in 0..=clients {
            for (id, channel) in &world.members[at].lightningd.channels {
                assert!(channel.mutual, "member {at}: {id}");
            }
            assert!(factory(&world, at, instance).current.exiting.is_empty(), "S34: it is no exit");
        }
        world.mine(BURIED).unwrap();
        in_order(&mut world);
        let others = world.sent.iter().filter(|sent| sent.what != "close of coin 0");
        assert_eq!(others.count(), 0, "nobody publishes anything else: {:?}", world.sent);
        for at in 0..=clients {
            assert_eq!(world.state(at, instance), Some(State::Closed), "member {at}");
            let engine = world.members[at].engine.as_ref().unwrap();
            let archivable: Vec<_> = engine.archivable(world.chain.height()).collect();
            assert_eq!(archivable, [instance], "member {at}");
        }
    }
}

/// Whoever has next to nothing costs no output, and whoever has handed over signs nothing: the operator does with its
/// key.
#[test]
fn empty_channels_and_keys_cost_nothing() {
    let (mut world, instance) = paid(4, 4);
    // Client 2 has a satoshi less than what an output may be worth, client 3 just that.
    for (client, left) in [(2, DUST.to_sat() - 1), (3, DUST.to_sat())] {
        let all = world.purse_msat(client);
        world.pay(client, LSP, all - left * 1000).unwrap();
    }
    world.hand_over(4, instance).unwrap();
    let asked = std::rc::Rc::new(std::cell::RefCell::new(vec![]));
    let note = asked.clone();
    world.tamper(move |out| {
        if out.message.name() == "close_ask" {
            note.borrow_mut().push(out.to);
        }
        Fate::Deliver
    });
    world.disconnect(LSP, 4);
    let before: Vec<Amount> = (1..=3).map(|client| has(&world, client)).collect();
    close(&mut world, instance).unwrap();
    assert_eq!(*asked.borrow(), [1, 2, 3]);
    let root = factory(&world, LSP, instance).funding().unwrap();
    let tx = world.chain.waiting_spender(root).unwrap().clone();
    assert_eq!(tx.output.len(), 4, "client 1, client 3, the operator, the anchor");
    assert_eq!(
        [1, 2, 3, 4].map(|client| pays(&world, client, &tx)),
        [before[0], Amount::ZERO, before[2], Amount::ZERO]
    );
    world.mine(1).unwrap();
    in_order(&mut world);
    assert_eq!(world.state(4, instance), Some(State::Left));
}

/// S24: an HTLC, a channel that ends, somebody who leaves or is away: no close, and nothing changes.
#[test]
fn not_now() {
    let (mut world, instance) = paid(5, 3);
    let id = factory(&world, 2, instance).current.channels[&1];
    world.htlcs_on.insert(id);
    close(&mut world, instance).unwrap();
    assert!(logged(&world, LSP, "an HTLC stands on channel"));
    untouched(&mut world, instance);
    world.htlcs_on.clear();
    world.disconnect(LSP, 3);
    world.settle().unwrap();
    let away = vec![world.members[3].id];
    assert_eq!(close(&mut world, instance), Err(Refusal::Close(CannotClose::Away(away))));
    world.connect(LSP, 3).unwrap();
    world.settle().unwrap();
    let by_client = ask(&mut world, 1, Command::Close { instance });
    assert_eq!(by_client, Err(Refusal::Close(CannotClose::Client)));
    untouched(&mut world, instance);
    world.exit(1, instance).unwrap();
    assert!(matches!(close(&mut world, instance), Err(Refusal::Close(_))), "its tree is on chain");
    assert!((0..=3).all(|at| !has_signed(&world, at, instance)));
}

/// S24: an HTLC that only the client's lightningd shows. It doesn't sign, and says why.
#[test]
fn a_client_signs_nothing_over_an_htlc() {
    let (mut world, instance) = paid(6, 2);
    // It comes after the operator has looked.
    let id = factory(&world, 2, instance).current.channels[&1];
    world.tamper(move |_| Fate::Deliver);
    world.mute.insert("close_ask");
    close(&mut world, instance).unwrap();
    world.htlcs_on.insert(id);
    world.mute.clear();
    world.run_out().unwrap();
    assert!(logged(&world, LSP, "no answer in time"), "S29");
    world.settle().unwrap();
    untouched(&mut world, instance);
    // The same where it is asked.
    let round = 7;
    let (attempt, peer) = (factory(&world, 2, instance).current.number, world.members[LSP].id);
    let ask = Message::CloseAsk(CloseAsk { instance, attempt, round });
    world.feed(2, Input::Message { peer, payload: ask.encode() }).unwrap();
    assert_eq!(usable(&world, 2, instance, 1), Err(Unusable::Closing), "nothing is let on while it looks");
    world.settle().unwrap();
    assert!(logged(&world, 2, "an HTLC stands on channel"));
    untouched(&mut world, instance);
}

/// What is lost comes again with the connection, and whoever has forgotten that it signed learns it from the close
/// itself.
#[test]
fn a_finished_close_is_said_again() {
    let (mut world, instance) = paid(23, 3);
    world.tamper(losing("close_ready", LSP));
    close(&mut world, instance).unwrap();
    assert!(closing(&world, 2, instance).unwrap().signature.is_none());
    world.heal();
    world.disconnect(LSP, 2);
    world.connect(LSP, 2).unwrap();
    world.settle().unwrap();
    assert!(closing(&world, 2, instance).unwrap().signature.is_some());
    // Said twice it changes nothing.
    let records = world.members[2].store.records(instance).len();
    world.disconnect(LSP, 2);
    world.connect(LSP, 2).unwrap();
    world.settle().unwrap();
    assert_eq!(world.members[2].store.records(instance).len(), records);
    world.mine(1).unwrap();
    in_order(&mut world);
}

/// S9: a client that came back from a copy before it signed. A signature that nobody else can have made says so.
#[test]
fn a_client_that_has_forgotten_that_it_signed() {
    let (mut world, instance) = paid(24, 2);
    let older = world.backup(1);
    world.tamper(losing("close_ready", LSP));
    close(&mut world, instance).unwrap();
    world.heal();
    world.restore(1, older).unwrap();
    world.reconnect().unwrap();
    world.settle().unwrap();
    let known = closing(&world, 1, instance).unwrap();
    assert!(known.signature.is_some());
    assert_eq!(usable(&world, 1, instance, 0), Err(Unusable::Closing));
    // A close that isn't one is nothing.
    let (mut world, instance) = paid(25, 2);
    let outputs =
        vec![TxOut { value: Amount::from_sat(50_000), script_pubkey: key_script_of(&world, instance) }];
    let (attempt, peer) = (factory(&world, 1, instance).current.number, world.members[LSP].id);
    let ready = CloseReady { instance, attempt, outputs, signature: [7; 64] };
    world.feed(1, Input::Message { peer, payload: Message::CloseReady(ready).encode() }).unwrap();
    world.settle().unwrap();
    assert!(!has_signed(&world, 1, instance));
}

fn key_script_of(world: &World, instance: InstanceId) -> ScriptBuf {
    let proposal = factory(world, LSP, instance).current.proposal.clone().unwrap();
    proposal.clients[1].1.clone()
}

/// S25: a close that is reorganised away is published again; and one that never comes back because the tree is there
/// is over once that is buried.
#[test]
fn a_close_that_is_reorganised_away() {
    let (mut world, instance) = paid(50, 2);
    close(&mut world, instance).unwrap();
    world.mine(2).unwrap();
    world.chain.reorg_and_drop(2);
    world.mine_quietly(3);
    world.sync_all().unwrap();
    in_order(&mut world);
    assert!((0..=2).all(|at| factory(&world, at, instance).close_height().is_none()));
    assert!((0..=2).all(|at| world.state(at, instance) == Some(State::Closing)));
    world.restart(1).unwrap();
    world.reconnect().unwrap();
    world.mine(2).unwrap();
    in_order(&mut world);
    assert!((0..=2).all(|at| factory(&world, at, instance).close_height().is_some()));
}

/// S25: a member that publishes the tree instead: everything goes the tree's way.
#[test]
fn the_tree_against_the_close() {
    let (mut world, instance) = paid(51, 3);
    close(&mut world, instance).unwrap();
    let known = factory(&world, 1, instance);
    let txid = known.current.close.as_ref().unwrap().txid();
    let root = known.signed_tx(SessionId { coin: 0, role: SpendRole::State }).unwrap();
    world.chain.drop_waiting(txid);
    world.chain.submit(&root).unwrap();
    world.mine(1).unwrap();
    in_order(&mut world);
    let height = world.chain.height();
    for at in 0..=3usize {
        let known = factory(&world, at, instance);
        assert!(known.node_confirmed(0), "member {at}");
        assert!(known.is_closing(height), "a reorganisation may bring it back");
        let client = at.saturating_sub(1) as u32;
        assert_eq!(usable(&world, at, instance, client), Err(Unusable::Closing), "member {at}");
    }
    world.mine(BURIED).unwrap();
    in_order(&mut world);
    for at in 0..=3usize {
        let client = at.saturating_sub(1) as u32;
        assert_eq!(usable(&world, at, instance, client), Ok(()), "member {at}: its channel goes on");
    }
    world.exit(2, instance).unwrap();
    in_order(&mut world);
}

/// No sale, no handover and no payment begins while all close.
#[test]
fn nothing_else_begins() {
    let scenario = Scenario::new(52).clients(2).stock(60_000).short_delays().lifetime(600, 60);
    let (mut world, instance) = scenario.active().unwrap();
    world.mute.insert("close_propose");
    close(&mut world, instance).unwrap();
    let amount = Amount::from_sat(20_000);
    let buy = Command::Buy { instance, amount, max_price_msat: 100_000_000 };
    assert!(matches!(ask(&mut world, 1, buy), Err(Refusal::NotCooperative(_))));
    for at in 0..=2usize {
        let client = at.saturating_sub(1) as u32;
        assert_eq!(usable(&world, at, instance, client), Err(Unusable::Closing), "S18: member {at}");
    }
    let twice = ask(&mut world, LSP, Command::Close { instance });
    assert_eq!(twice, Err(Refusal::Close(CannotClose::UnderWay)));
    world.mute.clear();
    world.run_out().unwrap();
    world.mine(3).unwrap();
    in_order(&mut world);
    assert!(factory(&world, 1, instance).close_height().is_some(), "the operator tries again");
}

/// What was sold and what is left of the stock is in it.
#[test]
fn with_bought_channels() {
    let scenario = Scenario::new(53).clients(3).stock(60_000).short_delays().lifetime(600, 60);
    let (mut world, instance) = scenario.sold(&[(1, 20_000)]).unwrap();
    let bought = common::sales(&world, 1, instance)[0].channel_id();
    let first = factory(&world, 1, instance).current.channels[&0];
    world.shift_between(1, first, bought, 100).unwrap();
    let before = [1, 2, 3].map(|client| has(&world, client));
    close(&mut world, instance).unwrap();
    let root = factory(&world, LSP, instance).funding().unwrap();
    let tx = world.chain.waiting_spender(root).unwrap().clone();
    let paid = [1, 2, 3].map(|client| pays(&world, client, &tx));
    for (client, (paid, has)) in (1..).zip(paid.into_iter().zip(before)) {
        assert_eq!(paid, if has < DUST { Amount::ZERO } else { has }, "client {client}");
    }
    world.mine(1).unwrap();
    in_order(&mut world);
    world.mine(BURIED).unwrap();
    in_order(&mut world);
    assert_eq!(world.state(LSP, instance), Some(State::Closed));
    let closed = |channel: &ChannelNow| channel.ended == Some(Ended::Closing);
    assert!(common::listed(&world, 1).iter().all(closed));
}
