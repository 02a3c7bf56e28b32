//! What a client takes from the operator while it signs, and what it keeps of an attempt that ended: where
//! mutation testing found that nobody looked.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;

use std::cell::Cell;
use std::rc::Rc;

use common::{factory, left_out};
use factory_engine::types::ScriptBuf;
use factory_engine::wire::message::Message;
use factory_engine::{Block, Input, State};
use factory_lab::offer::Offer;
use factory_lab::scenario::Scenario;
use factory_lab::world::{Fate, LSP};

/// S4: a finished signature that doesn't verify is not stored, and the client says why it gives up.
#[test]
fn a_finished_signature_that_does_not_verify() {
    let (mut world, instance) = Scenario::new(80)
        .clients(2)
        .tamper(|out| match &out.message {
            Message::Ready(ready) if out.to == 1 => {
                Fate::changed(ready, |m| m.signatures.last_mut().unwrap()[40] ^= 1)
            }
            _ => Fate::Deliver,
        })
        .begun()
        .unwrap();
    world.run_until("client 1 has an opinion", |world| world.failure(1, instance).is_some()).unwrap();
    assert!(world.failure(1, instance).unwrap().contains("doesn't verify"));
    assert!(factory(&world, 1, instance).current.signatures.is_empty());
}

/// S3: a neighbour's channel has the script of a channel.
#[test]
fn a_neighbour_whose_channel_is_no_channel() {
    let (mut world, instance) = Scenario::new(81)
        .clients(2)
        .tamper(|out| match &out.message {
            Message::Propose(propose) if out.to == 1 => Fate::changed(propose, |m| {
                let (_, script) = m.channel_scripts.iter_mut().find(|(client, _)| *client == 1).unwrap();
                *script = ScriptBuf::from_bytes([&[0x00, 0x14][..], &[7; 20]].concat());
            }),
            _ => Fate::Deliver,
        })
        .begun()
        .unwrap();
    world.run_until("client 1 has an opinion", |world| world.failure(1, instance).is_some()).unwrap();
    assert!(world.failure(1, instance).unwrap().contains("not P2WSH"));
    assert!(factory(&world, 1, instance).signed_for().is_empty(), "it has signed");
}

/// A second `ready` with the same signatures is answered again, one with others is not.
#[test]
fn a_second_ready() {
    let mut world = Scenario::new(82).clients(2).world().unwrap();
    let (answers, kept) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(None)));
    let (counted, noted) = (answers.clone(), kept.clone());
    world.tamper(move |out| {
        match &out.message {
            Message::Stored(_) if out.from == 1 => counted.set(counted.get() + 1),
            Message::Ready(ready) if out.to == 1 => noted.set(Some(ready.clone())),
            _ => {}
        }
        Fate::Deliver
    });
    world.begin(&Offer::default()).unwrap();
    world.run_until("stored", |_| answers.get() == 1).unwrap();
    let mut ready = kept.take().unwrap();
    let peer = world.members[LSP].id;
    let again = |ready: &factory_engine::wire::message::Ready| Input::Message {
        peer,
        payload: Message::Ready(ready.clone()).encode(),
    };
    world.feed(1, again(&ready)).unwrap();
    assert_eq!(answers.get(), 2);
    ready.signatures[0][0] ^= 1;
    world.feed(1, again(&ready)).unwrap();
    assert_eq!(answers.get(), 2, "signatures that it doesn't hold");
}

/// S12, S13: an attempt whose signatures were finished stays enforceable, and no other does. Should its
/// funding confirm after all, it is the factory again.
#[test]
fn an_attempt_that_was_given_up_stays_enforceable() {
    let (mut world, instance) = Scenario::new(83)
        .clients(3)
        .tamper(|out| match &out.message {
            // The first attempt ends before anything is signed, the second after it.
            Message::Join(join) if join.attempt == 1 && out.from == 3 => Fate::Drop,
            Message::Stored(stored) if stored.attempt == 2 && out.from == 2 => Fate::Drop,
            _ => Fate::Deliver,
        })
        .begun()
        .unwrap();
    assert_eq!(world.finish(instance).unwrap(), State::Active);
    for at in [LSP, 1] {
        let now = factory(&world, at, instance);
        assert_eq!(now.current.number, 3);
        let past: Vec<u32> = now.past().iter().map(|past| past.number).collect();
        assert_eq!(past, [2], "member {at}");
        let (before, funding) = (now.funding().unwrap(), now.past()[0].funding().unwrap());
        let tx = now.past()[0].proposal.as_ref().unwrap().funding_tx.clone();
        assert_ne!(before, funding);

        // The two may share coins: the newer funding leaves the chain before the older one can be in it.
        let funded = now.funding_height().unwrap();
        world.feed(at, Input::Reorg { height: funded - 1 }).unwrap();
        let height = world.chain.height() + 1;
        let block = Block { height, hash: world.chain.block(height - 1).unwrap().hash, txs: vec![tx] };
        world.feed(at, Input::Block(block)).unwrap();
        let revived = factory(&world, at, instance);
        assert_eq!((revived.current.number, revived.funding()), (2, Some(funding)));
        assert_eq!(revived.past().iter().map(|past| past.funding()).collect::<Vec<_>>(), [Some(before)]);
    }
}

/// S19: without finished signatures there is nothing to rely on, even if the funding is on chain.
#[test]
fn a_funding_without_signatures_is_no_factory() {
    let (mut world, instance) = Scenario::new(84)
        .clients(2)
        .tamper(|out| match &out.message {
            Message::Ready(_) if out.to == 1 => Fate::Drop,
            _ => Fate::Deliver,
        })
        .begun()
        .unwrap();
    world.run_until("client 1 has given up", |world| world.failure(1, instance).is_some()).unwrap();
    let before = factory(&world, 1, instance);
    assert!(before.current.signatures.is_empty() && !before.signed_for().is_empty());
    let tx = before.current.proposal.as_ref().unwrap().funding_tx.clone();
    let height = world.chain.height() + 1;
    let block = Block { height, hash: world.chain.block(height - 1).unwrap().hash, txs: vec![tx] };
    world.feed(1, Input::Block(block)).unwrap();
    let after = factory(&world, 1, instance);
    assert_eq!(after.funding_height(), Some(height));
    assert_eq!(after.state(height + 10), State::Aborted);
}

/// S6: the transcript is over the terms too. An operator that tells one client other terms gets no
/// signatures from everybody, even where no transaction shows the difference.
#[test]
fn other_terms_are_another_transcript() {
    let (mut world, instance) = Scenario::new(85)
        .clients(2)
        .tamper(|out| match &out.message {
            Message::Invite(invite) if out.to == 2 && invite.attempt == 1 => {
                Fate::changed(invite, |m| m.terms.funding_confirmations += 1)
            }
            _ => Fate::Deliver,
        })
        .begun()
        .unwrap();
    assert_eq!(world.finish(instance).unwrap(), State::Active);
    assert_eq!(left_out(&world, instance), [2], "{:?}", factory(&world, LSP, instance).left_out);
    assert!(factory(&world, LSP, instance).left_out[0].1.contains("transcript"));
}

/// S8: every session of a tree is in the ledger.
#[test]
fn the_ledger_has_every_session() {
    let (world, instance) = Scenario::new(86).clients(2).active().unwrap();
    for at in 0..=2 {
        let engine = world.members[at].engine.as_ref().unwrap();
        let sessions = factory(&world, at, instance).current.tree.as_ref().unwrap().sessions().len();
        assert_eq!(engine.ledger().len(), sessions, "member {at}");
    }
}
