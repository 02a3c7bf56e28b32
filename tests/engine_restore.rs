//! A node that comes back with an older copy of its database.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;

use std::cell::RefCell;
use std::rc::Rc;

use common::factory;
use factory_engine::record::event::{Confirmed, Event, Invited, Reorged, Restored, decode_record};
use factory_engine::types::PROTOCOL_ID;
use factory_engine::wire::message::Message;
use factory_engine::{Folded, Input, State};
use factory_lab::offer::Offer;
use factory_lab::scenario::Scenario;
use factory_lab::world::{Fate, LSP, losing};

/// S8, S9: the ledger of the older copy doesn't know what was signed since. The key that signed it is
/// never used again: even in the same attempt a new join has a new key, so that the members' output, and
/// every outpoint under it, is another one.
#[test]
fn a_restored_client_never_joins_with_a_key_that_has_signed() {
    let mut world = Scenario::new(60).clients(2).world().unwrap();
    let seen: Rc<RefCell<(Vec<_>, Option<Message>)>> = Rc::default();
    let noting = seen.clone();
    world.tamper(move |out| {
        match &out.message {
            Message::Join(join) if out.from == 1 => {
                noting.borrow_mut().0.push((join.attempt, join.factory_key));
            }
            Message::Invite(_) if out.to == 1 => {
                noting.borrow_mut().1.get_or_insert_with(|| out.message.clone());
            }
            _ => {}
        }
        Fate::Deliver
    });
    let instance = world.begin(&Offer::default()).unwrap();
    world.run_until("invited", |world| world.state(1, instance).is_some()).unwrap();
    let older = world.members[1].store.clone();
    world.run_until("signed", |world| world.state(1, instance) >= Some(State::Signing)).unwrap();

    world.check_recovery = false;
    world.stop(1);
    world.members[1].store = older;
    world.restart(1).unwrap();
    // An operator that lies invites to the very attempt again.
    let invite = seen.borrow().1.clone().unwrap();
    let peer = world.members[LSP].id;
    world.feed(1, Input::Message { peer, payload: invite.encode() }).unwrap();
    world.settle().unwrap();

    let keys: Vec<_> =
        seen.borrow().0.iter().filter(|(attempt, _)| *attempt == 1).map(|(_, key)| *key).collect();
    assert!(keys.len() > 1, "it joined only once: {keys:?}");
    for (at, key) in keys.iter().enumerate() {
        assert!(!keys[..at].contains(key), "a key that has signed is used again");
    }
}

/// S9, S25: exit-only is the factory's, not an attempt's. Neither a new attempt, nor an earlier one whose
/// funding confirms after all, nor a reorganisation that takes it back can wipe it.
#[test]
fn no_other_attempt_wipes_what_says_exit_only() {
    let (mut world, instance) = Scenario::new(10).clients(3).tamper(losing("stored", 3)).begun().unwrap();
    world
        .run_until("a second attempt is signed", |world| {
            let factory = world.members[1].engine.as_ref().unwrap().factory(instance);
            factory
                .is_some_and(|factory| factory.current.number > 1 && !factory.current.signatures.is_empty())
        })
        .unwrap();
    let now = factory(&world, 1, instance);
    let old = now.past()[0].funding().unwrap().txid;
    let current = now.funding().unwrap().txid;
    let next = Invited {
        attempt: now.current.number + 1,
        terms: now.current.terms.clone(),
        client: 0,
        price_msat: 0,
        height: 1,
        protocol: PROTOCOL_ID,
    };
    let confirmed = |txid| Event::from(Confirmed { txid, height: 100, spends: vec![], pays: None });
    let restored = || Event::from(Restored { reason: "older".into() });
    let reorged = || Event::from(Reorged { height: 99 });
    let histories = [
        vec![restored(), next.into()],
        vec![restored(), confirmed(old)],
        vec![confirmed(old), restored(), reorged(), confirmed(current)],
        vec![restored(), confirmed(old), reorged(), confirmed(current)],
    ];
    for (number, history) in histories.into_iter().enumerate() {
        let stored = world.members[1].store.records(instance).iter();
        let mut records: Vec<_> = stored.map(|record| decode_record(record).unwrap()).collect();
        records.push(history);
        let folded = Folded::new(instance, None, records).unwrap().into_factory().unwrap();
        assert_eq!(folded.restored(), Some("older"), "history {number}");
    }
}
