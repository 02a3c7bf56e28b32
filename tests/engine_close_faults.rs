//! A close with members that lie, keep silent or crash: whoever has not signed goes on, and whoever has loses nothing
//! (S3, S4, S8, S19, S29).

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;

use bitcoin::{ScriptBuf, TxOut};
use common::closes::{close, closing, has, has_signed, in_order, logged, paid, pays, untouched, usable};
use common::factory;
use factory_engine::tx::scripts::{DUST, anchor_script, key_script};
use factory_engine::types::Amount;
use factory_engine::wire::message::{CloseJoin, ClosePropose, Message};
use factory_engine::{BURIED, CLOSE_BLOCKS, Command, Input, NextAction, Refusal, State, Unusable};
use factory_lab::world::{CrashAt, Fate, LSP, World, losing};

/// S3, S19: what a client doesn't sign, whoever proposes it.
#[test]
fn a_proposal_that_is_wrong() {
    type Change = fn(&mut ClosePropose, ScriptBuf);
    let cases: [(&str, Change); 8] = [
        ("a satoshi less", |m, _| m.outputs[1].value -= Amount::from_sat(1)),
        ("another script", |m, _| m.outputs[1].script_pubkey = m.outputs[0].script_pubkey.clone()),
        ("not paid", |m, _| drop(m.outputs.remove(1))),
        ("back into the factory", |m, coin| {
            m.outputs.last_mut().unwrap().script_pubkey = coin;
        }),
        ("no script that is relayed", |m, _| {
            m.outputs.last_mut().unwrap().script_pubkey = ScriptBuf::new_op_return([1; 20]);
        }),
        ("dust", |m, _| m.outputs.last_mut().unwrap().value = DUST - Amount::from_sat(1)),
        ("no fee", |m, _| m.outputs.last_mut().unwrap().value += Amount::from_sat(5_000)),
        ("more than there is", |m, _| m.outputs.last_mut().unwrap().value = Amount::MAX_MONEY),
    ];
    for (seed, (what, wrong)) in (10..).zip(cases) {
        let (mut world, instance) = paid(seed, 3);
        let tree = factory(&world, LSP, instance).current.tree.clone().unwrap();
        let coin = key_script(tree.output_key(0).unwrap());
        world.tamper(move |out| match &out.message {
            Message::ClosePropose(propose) if out.to == 2 => {
                Fate::changed(propose, |m| wrong(m, coin.clone()))
            }
            _ => Fate::Deliver,
        });
        close(&mut world, instance).unwrap();
        assert!(!has_signed(&world, 2, instance), "{what}");
        assert!(closing(&world, LSP, instance).unwrap().signature.is_none(), "{what}");
        assert_eq!(usable(&world, 2, instance, 1), Ok(()), "{what}: it has signed nothing");
        let named = world.members[2].id.to_string();
        assert!(logged(&world, LSP, &named), "{what}: the operator names it");
        in_order(&mut world);
        // An honest one is signed at the next block.
        world.heal();
        world.mine(2).unwrap();
        in_order(&mut world);
        assert!(factory(&world, 2, instance).close_height().is_some(), "{what}");
    }
}

/// S8: never a second close. The nonces of another try are others, and the transaction is the same.
#[test]
fn there_is_one_close_and_no_other() {
    let (mut world, instance) = paid(20, 3);
    world.tamper(losing("close_partial_signatures", 3));
    close(&mut world, instance).unwrap();
    let first = closing(&world, 1, instance).unwrap();
    assert!((1..=3).all(|at| has_signed(&world, at, instance)));
    world.run_out().unwrap();
    let silent = world.members[3].id.to_string();
    assert!(logged(&world, LSP, &format!("no answer in time from {silent}")), "S29");
    // An operator that would like another one: client 1 has signed, and signs nothing else.
    let other = first
        .outputs()
        .iter()
        .map(|output| TxOut { value: output.value - Amount::from_sat(1_000), ..output.clone() });
    let other: Vec<TxOut> = other.collect();
    let own = first.outputs()[0].clone();
    world.tamper(move |out| match &out.message {
        Message::ClosePropose(propose) if out.to == 1 => {
            let mut outputs = other.clone();
            outputs[0] = own.clone();
            Fate::changed(propose, |m| m.outputs = outputs)
        }
        _ => Fate::Deliver,
    });
    world.mine(1).unwrap();
    assert_eq!(closing(&world, 1, instance).unwrap(), first);
    assert!(logged(&world, 1, "never two"), "S8");
    assert!(closing(&world, LSP, instance).unwrap().signature.is_none());
    // The same again.
    world.heal();
    world.mine(2).unwrap();
    in_order(&mut world);
    for at in 0..=3 {
        let known = closing(&world, at, instance).unwrap();
        assert_eq!(known.txid(), first.txid(), "member {at}");
        assert!(factory(&world, at, instance).close_height().is_some(), "member {at}");
    }
}

/// S4, S29: whoever sends a bad partial signature is named; the others stand still until it is given up, and leave then.
#[test]
fn a_bad_partial_signature() {
    let (mut world, instance) = paid(21, 3);
    world.tamper(|out| match &out.message {
        Message::ClosePartialSignatures(answer) if out.from == 2 => {
            Fate::changed(answer, |m| m.signatures[0].0[3] ^= 1)
        }
        _ => Fate::Deliver,
    });
    close(&mut world, instance).unwrap();
    let named = format!("{} sent a bad partial signature", world.members[2].id);
    assert!(logged(&world, LSP, &named), "S4");
    let since = closing(&world, 1, instance).unwrap().since;
    for at in 0..=3usize {
        let client = at.saturating_sub(1) as u32;
        assert_eq!(usable(&world, at, instance, client), Err(Unusable::Closing), "member {at}");
        assert_eq!(world.state(at, instance), Some(State::Closing), "member {at}");
    }
    let height = world.chain.height();
    let next = factory(&world, 1, instance).next_action(height);
    assert_eq!(next, NextAction::FinishClose { before: since + CLOSE_BLOCKS });
    world.mine(since + CLOSE_BLOCKS - 1 - height).unwrap();
    in_order(&mut world);
    assert!((1..=3).all(|at| factory(&world, at, instance).current.exiting.is_empty()));
    world.mine(1).unwrap();
    // The operator knows that nobody can finish it: it never signs there again, and its channels thaw.
    assert!(closing(&world, LSP, instance).unwrap().given_up.is_some());
    for at in 1..=3 {
        let client = factory(&world, at, instance);
        assert!(client.current.exiting.contains(&(at as u32 - 1)), "S19: client {at}");
        assert_eq!(usable(&world, at, instance, at as u32 - 1), Err(Unusable::Closing), "client {at}");
    }
    world.heal();
    world.mine(BURIED + 60).unwrap();
    in_order(&mut world);
    assert!(matches!(close(&mut world, instance), Err(Refusal::Close(_))));
    for at in 1..=3 {
        assert!(factory(&world, at, instance).leaf_height(at as u32 - 1).is_some(), "client {at} is out");
    }
}

/// S19: an operator that has everybody's signature and keeps the close: whoever signed leaves.
#[test]
fn an_operator_that_withholds_it() {
    let (mut world, instance) = paid(22, 2);
    world.mute.insert("close_ready");
    close(&mut world, instance).unwrap();
    world.stop(LSP);
    let since = closing(&world, 1, instance).unwrap().since;
    let root = factory(&world, 1, instance).funding().unwrap();
    let held = world.chain.waiting_spender(root).unwrap().clone();
    world.chain.drop_waiting(held.compute_txid());
    world.mine(since + CLOSE_BLOCKS - world.chain.height()).unwrap();
    for at in [1, 2] {
        assert!(!factory(&world, at, instance).current.exiting.is_empty(), "client {at}");
    }
    // And now it publishes it after all. It pays what they have: nothing has moved since.
    let before = [1, 2].map(|client| has(&world, client));
    let path = world.chain.waiting_spender(root).unwrap().compute_txid();
    world.chain.drop_waiting(path);
    world.chain.submit(&held).unwrap();
    world.mine(1).unwrap();
    in_order(&mut world);
    assert_eq!([1, 2].map(|client| pays(&world, client, &held)), before);
    assert!([1, 2].iter().all(|at| factory(&world, *at, instance).close_height().is_some()));
    world.mine(BURIED).unwrap();
    in_order(&mut world);
    assert_eq!(world.state(1, instance), Some(State::Closed));
}

/// What the operator doesn't take from a client.
#[test]
fn an_answer_that_is_wrong() {
    type Change = fn(&mut CloseJoin);
    let cases: [(&str, &str, Change); 4] = [
        ("more than it has", "says that it has", |m| m.balance += Amount::from_sat(1)),
        ("less than it has", "says that it has", |m| m.balance -= Amount::from_sat(1)),
        ("no script", "breaks the protocol", |m| m.script = anchor_script()),
        ("no nonce", "breaks the protocol", |m| m.nonces.clear()),
    ];
    for (seed, (what, says, wrong)) in (30..).zip(cases) {
        let (mut world, instance) = paid(seed, 3);
        world.tamper(move |out| match &out.message {
            Message::CloseJoin(join) if out.from == 2 => Fate::changed(join, wrong),
            _ => Fate::Deliver,
        });
        close(&mut world, instance).unwrap();
        assert!(logged(&world, LSP, says), "{what}");
        assert!(logged(&world, LSP, &world.members[2].id.to_string()), "S4: {what}");
        untouched(&mut world, instance);
        world.heal();
        close(&mut world, instance).unwrap();
        world.mine(1).unwrap();
        in_order(&mut world);
        assert!(factory(&world, 2, instance).close_height().is_some(), "{what}");
    }
}

/// Messages twice, too late, or without a close.
#[test]
fn repeated_and_out_of_order() {
    let (mut world, instance) = paid(35, 3);
    let all = std::rc::Rc::new(std::cell::RefCell::new(vec![]));
    let note = all.clone();
    world.tamper(move |out| {
        if out.message.name().starts_with("close_") {
            note.borrow_mut().push((out.from, out.to, out.message.encode()));
        }
        Fate::Twice
    });
    close(&mut world, instance).unwrap();
    let txid = closing(&world, 1, instance).unwrap().txid();
    assert!((0..=3).all(|at| closing(&world, at, instance).unwrap().signature.is_some()));
    world.heal();
    let records: Vec<usize> = (0..=3).map(|at| world.members[at].store.records(instance).len()).collect();
    let messages = all.borrow().clone();
    for backwards in [false, true] {
        let mut messages = messages.clone();
        if backwards {
            messages.reverse();
        }
        for (from, to, payload) in messages {
            let peer = world.members[from].id;
            world.feed(to, Input::Message { peer, payload }).unwrap();
        }
        world.settle().unwrap();
    }
    let after: Vec<usize> = (0..=3).map(|at| world.members[at].store.records(instance).len()).collect();
    assert_eq!(after, records, "nothing is stored");
    assert_eq!(closing(&world, 1, instance).unwrap().txid(), txid);
    world.mine(1).unwrap();
    in_order(&mut world);
}

/// A member that has crashed comes back, and all that follows from that.
fn revive(world: &mut World, at: usize) {
    if world.members[at].engine.is_none() {
        world.start(at).unwrap();
    }
    world.reconnect().unwrap();
    world.settle().unwrap();
    world.run_out().unwrap();
}

/// S8, S10, S14: whoever crashes at whichever record. Either nobody has signed, or it is finished in the end.
#[test]
fn a_crash_at_any_record() {
    for at in [LSP, 1] {
        for steps in 1..=3 {
            for crash in
                [CrashAt::BeforeStore(steps), CrashAt::AfterStore(steps), CrashAt::AfterEffects(steps, 1)]
            {
                let (mut world, instance) = paid(40 + u64::from(steps), 2);
                world.crash_at(at, crash);
                let _ = world.feed(LSP, Input::Command(Command::Close { instance })).unwrap();
                world.settle().unwrap();
                // It may be later that it comes to that record.
                for _ in 0..3 {
                    revive(&mut world, at);
                    world.mine(1).unwrap();
                }
                revive(&mut world, at);
                in_order(&mut world);
                if factory(&world, LSP, instance).close_height().is_none() {
                    untouched(&mut world, instance);
                    close(&mut world, instance).unwrap();
                    world.mine(1).unwrap();
                    revive(&mut world, at);
                    world.mine(2).unwrap();
                }
                revive(&mut world, at);
                in_order(&mut world);
                for member in 0..=2 {
                    assert!(
                        factory(&world, member, instance).close_height().is_some(),
                        "{at} {crash:?}: {member}"
                    );
                }
            }
        }
    }
}
