//! Members that are silent, wrong or hostile: named, left out, and nobody else loses anything.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;

use std::cell::RefCell;
use std::rc::Rc;

use common::{factory, left_out};
use factory_engine::tx::scripts::anchor_script;
use factory_engine::wire::message::{Join, Message, PartialSignatures, Propose};
use factory_engine::{Input, OpenFailure, State};
use factory_lab::offer::Offer;
use factory_lab::scenario::Scenario;
use factory_lab::world::{Fate, LSP, Outgoing, World};

/// Three clients; `fate` decides about every message. The factory comes to be without `expected`.
fn without(seed: u64, expected: &[usize], fate: impl FnMut(&Outgoing) -> Fate + 'static) -> World {
    let (mut world, instance) = Scenario::new(seed).clients(3).tamper(fate).begun().unwrap();
    let ended = world.finish(instance).unwrap();
    let why = world.failure(LSP, instance);
    assert_eq!(ended, State::Active, "{why:?} {:?}", world.members[LSP].log);
    assert_eq!(left_out(&world, instance), expected, "{:?}", factory(&world, LSP, instance).left_out);
    world
}

/// Changes the list of members that a proposal shows.
fn members(
    propose: &mut Propose,
    change: impl FnOnce(&mut Vec<(bitcoin::secp256k1::PublicKey, bitcoin::ScriptBuf)>),
) {
    let mut all = propose.clients.to_vec();
    change(&mut all);
    propose.clients = all.into();
}

/// S29, S30: whoever is silent in a phase is named, and the others go on without it.
#[test]
fn a_silent_client_in_every_phase() {
    for (seed, name) in (10..).zip(["join", "expecting", "partial_signatures", "stored", "channel_checked"]) {
        let world = without(seed, &[2], move |out| {
            if out.from == 2 && out.message.name() == name { Fate::Drop } else { Fate::Deliver }
        });
        let log = format!("{:?}", world.members[LSP].log);
        assert!(log.contains(&world.members[2].id.to_string()), "{name}: nobody is named");
    }
}

/// S29: a client does not wait for ever for an operator that is silent towards it alone.
#[test]
fn an_operator_that_is_silent_towards_one_client() {
    for (seed, name) in (20..).zip(["invite", "expect_channel", "propose", "ready", "channel_committed"]) {
        without(seed, &[2], move |out| {
            if out.to == 2 && out.message.name() == name { Fate::Drop } else { Fate::Deliver }
        });
    }
}

/// S29: one that was left out while it was away is told so when it is back, and waits for nothing.
#[test]
fn a_client_that_comes_back_after_the_others_went_on() {
    for (seed, name) in (35..).zip(["join", "partial_signatures", "stored"]) {
        let (mut world, instance) = Scenario::new(seed)
            .clients(3)
            .tamper(
                move |out| {
                    if out.from == 2 && out.message.name() == name { Fate::Drop } else { Fate::Deliver }
                },
            )
            .begun()
            .unwrap();
        world.settle().unwrap();
        assert!(world.state(2, instance).unwrap().is_creating(), "{name}");
        world.disconnect(LSP, 2);
        let ended = |world: &World| !world.state(LSP, instance).is_some_and(State::is_creating);
        world.run_until("creation has ended", ended).unwrap();
        assert_eq!(world.state(LSP, instance), Some(State::Funding), "{name}");
        assert_eq!(left_out(&world, instance), [2], "{name}");
        assert!(world.state(2, instance).unwrap().is_creating(), "{name}");
        world.heal();
        world.connect(LSP, 2).unwrap();
        world.settle().unwrap();
        assert_eq!(world.state(2, instance), Some(State::Aborted), "{name}");
        assert!(world.failure(2, instance).unwrap().contains("left out"), "{name}");
    }
}

/// S11: as long as one `stored` or one `channel_checked` is missing, nothing is broadcast.
#[test]
fn no_funding_before_everybody_is_safe() {
    for name in ["stored", "channel_checked"] {
        for client in 1..=3 {
            let (mut world, _) = Scenario::new(30)
                .clients(3)
                .tamper(move |out| {
                    if out.from == client && out.message.name() == name { Fate::Drop } else { Fate::Deliver }
                })
                .begun()
                .unwrap();
            world.settle().unwrap();
            assert!(world.chain.mempool().is_empty(), "{name} of {client}");
        }
    }
}

/// One that never learns that the funding is out sees it in the chain.
#[test]
fn funding_broadcast_is_a_courtesy() {
    without(
        31,
        &[],
        |out| {
            if out.message.name() == "funding_broadcast" { Fate::Drop } else { Fate::Deliver }
        },
    );
}

/// S28: everything twice is as everything once.
#[test]
fn duplicated_messages() {
    without(32, &[], |_| Fate::Twice);
}

fn of_client_two<T: Clone + Into<Message>>(
    pick: fn(&Message) -> Option<&T>,
    mut change: impl FnMut(&mut T) + 'static,
) -> impl FnMut(&Outgoing) -> Fate {
    move |out| match pick(&out.message) {
        Some(message) if out.from == 2 => Fate::changed(message, &mut change),
        _ => Fate::Deliver,
    }
}

fn join(message: &Message) -> Option<&Join> {
    if let Message::Join(join) = message { Some(join) } else { None }
}

fn partials(message: &Message) -> Option<&PartialSignatures> {
    if let Message::PartialSignatures(partials) = message { Some(partials) } else { None }
}

/// S4: a partial signature that is wrong has a name, and its author is left out of the retry.
#[test]
fn a_bad_partial_signature() {
    without(40, &[2], of_client_two(partials, |m| m.signatures[0].0[31] ^= 1));
    without(41, &[2], of_client_two(partials, |m| m.signatures.swap(0, 1)));
    // Not even a scalar.
    without(42, &[2], of_client_two(partials, |m| m.signatures[1].0 = [0xff; 32]));
    without(43, &[2], of_client_two(partials, |m| m.signatures.truncate(1)));
    without(
        44,
        &[2],
        of_client_two(partials, |m| {
            m.signatures.pop();
            m.signatures.push(factory_engine::tx::musig::PartialSig([0; 32]));
        }),
    );
}

/// S6: whoever signed another transcript is named.
#[test]
fn another_transcript() {
    without(45, &[2], of_client_two(partials, |m| m.transcript[0] ^= 1));
}

/// S4: nonces that are no points, too few or too many.
#[test]
fn a_bad_nonce() {
    without(46, &[2], of_client_two(join, |m| m.nonces[0].0 = [0; 66]));
    without(47, &[2], of_client_two(join, |m| m.nonces[1].0[0] = 9));
    without(48, &[2], of_client_two(join, |m| m.nonces.truncate(1)));
    without(49, &[2], of_client_two(join, |m| m.nonces.push(m.nonces[0])));
    // A point that is not its own: its partial signatures fit nothing.
    without(50, &[2], of_client_two(join, |m| m.nonces.swap(0, 1)));
}

/// S20: a payout script that nobody can reckon with.
#[test]
fn a_bad_payout() {
    without(51, &[2], of_client_two(join, |m| m.payout = anchor_script()));
}

/// S5: another member's key, or its negation, is refused, and its sender named.
#[test]
fn another_members_key() {
    for (seed, negate) in [(52, false), (53, true)] {
        // Client 2 is the last to join, and repeats what client 1 sent.
        let stolen: Rc<RefCell<Option<bitcoin::secp256k1::PublicKey>>> = Rc::default();
        let held: Rc<RefCell<Option<Join>>> = Rc::default();
        let mut world = Scenario::new(seed).clients(3).world().unwrap();
        let (steal, hold) = (stolen.clone(), held.clone());
        world.tamper(move |out| match &out.message {
            Message::Join(join) if out.from == 1 => {
                *steal.borrow_mut() = Some(join.factory_key);
                Fate::Deliver
            }
            Message::Join(join) if out.from == 2 && join.attempt == 1 => {
                *hold.borrow_mut() = Some(join.clone());
                Fate::Drop
            }
            _ => Fate::Deliver,
        });
        let instance = world.begin(&Offer::default()).unwrap();
        world.settle().unwrap();
        let mut join = held.borrow().clone().unwrap();
        let key = stolen.borrow().unwrap();
        join.factory_key = if negate { key.negate(bitcoin::secp256k1::SECP256K1) } else { key };
        world.send_raw(2, LSP, Message::from(join).encode()).unwrap();
        assert_eq!(world.finish(instance).unwrap(), State::Active, "{:?}", world.failure(LSP, instance));
        assert_eq!(left_out(&world, instance), [2]);
    }
}

/// S4, S30: lightningd fails an open whose connection ends, and says so before it tells of the disconnect.
/// Nobody is left out for that; whoever refuses the open is.
#[test]
fn an_open_that_fails_with_its_connection_is_nobodys_fault() {
    let text = || "Owning subdaemon openingd died (62208)".to_owned();
    let cases = [
        (OpenFailure::Disconnected(text()), vec![]),
        (OpenFailure::Own("Cannot estimate fees".into()), vec![]),
        (OpenFailure::Refused("They sent ERROR".into()), vec![2]),
    ];
    for (failure, expected) in cases {
        for held in ["expecting", "stored"] {
            let (mut world, instance) = Scenario::new(55)
                .clients(3)
                .tamper(move |out| match &out.message {
                    message if out.from == 2 && message.name() == held && message.attempt() == 1 => {
                        Fate::Drop
                    }
                    _ => Fate::Deliver,
                })
                .begun()
                .unwrap();
            world.settle().unwrap();
            let (attempt, client) = (1, 1);
            let input = if held == "expecting" {
                Input::ChannelStarted { instance, attempt, client, sale: None, result: Err(failure.clone()) }
            } else {
                Input::ChannelCompleted {
                    instance,
                    attempt,
                    client,
                    sale: None,
                    result: Err(failure.clone()),
                }
            };
            world.feed(LSP, input).unwrap();
            assert_eq!(world.finish(instance).unwrap(), State::Active, "{:?}", world.failure(LSP, instance));
            assert_eq!(left_out(&world, instance), expected, "{held} {failure:?}");
        }
    }
}

/// S18: the operator funds something else than the client's channel. Only lightningd's own record can
/// show it, and does; nothing was funded by then.
#[test]
fn a_foreign_script_in_the_leaf() {
    let mut world = Scenario::new(60).clients(3).world().unwrap();
    let foreign = bitcoin::ScriptBuf::new_p2wsh(&anchor_script().wscript_hash());
    world.foreign_scripts.insert(2, foreign);
    let instance = world.begin(&Offer::default()).unwrap();
    let ended = world.finish(instance).unwrap();
    let log = format!("{:?}", world.members[2].log);
    assert!(log.contains("does not pay our channel"), "{log}");
    assert_ne!(world.state(2, instance), Some(State::Active));
    assert_eq!(ended, State::Active);
    assert_eq!(left_out(&world, instance), [2]);
}

/// S3: a proposal with anything else than what was agreed is refused: no partial signature leaves, and
/// nothing was signed for.
#[test]
fn every_tampering_of_a_proposal() {
    type Change = fn(&mut Propose);
    let key = |bytes: u8| {
        let secret = bitcoin::secp256k1::SecretKey::from_slice(&[bytes; 32]).unwrap();
        secret.public_key(bitcoin::secp256k1::SECP256K1)
    };
    assert_ne!(key(7), key(8));
    let changes: &[(&str, Change)] = &[
        ("operator's key", |m| m.lsp_key = m.lsp_key.negate(bitcoin::secp256k1::SECP256K1)),
        ("operator's key is ours", |m| m.lsp_key = m.clients[1].0),
        ("our key", |m| members(m, |all| all[1].0 = all[1].0.negate(bitcoin::secp256k1::SECP256K1))),
        ("our payout", |m| members(m, |all| all[1].1 = all[0].1.clone())),
        ("a key twice", |m| members(m, |all| all[2].0 = all[0].0)),
        ("another's key", |m| {
            let secret = bitcoin::secp256k1::SecretKey::from_slice(&[7; 32]).unwrap();
            members(m, |all| all[0].0 = secret.public_key(bitcoin::secp256k1::SECP256K1));
        }),
        ("a payout that is none", |m| members(m, |all| all[0].1 = anchor_script())),
        ("one member less", |m| members(m, |all| all.truncate(2))),
        ("members swapped", |m| members(m, |all| all.swap(0, 1))),
        ("funding amount", |m| {
            let vout = usize::try_from(m.funding_vout).unwrap();
            m.funding_tx.output[vout].value -= bitcoin::Amount::ONE_SAT;
        }),
        ("funding script", |m| {
            let vout = usize::try_from(m.funding_vout).unwrap();
            m.funding_tx.output[vout].script_pubkey = m.clients[0].1.clone();
        }),
        ("funding output", |m| m.funding_vout = 9),
        ("funding without inputs", |m| m.funding_tx.input.clear()),
        ("funding whose txid may change", |m| {
            m.funding_tx.input[0].script_sig = bitcoin::ScriptBuf::from_bytes(vec![0x51]);
        }),
        ("no script for our channel", |m| m.channel_scripts.retain(|(client, _)| *client != 1)),
        ("our channel's script is no P2WSH", |m| {
            for (_, script) in &mut m.channel_scripts {
                *script = anchor_script();
            }
        }),
        ("a foreign key in our path", |m| {
            m.foreign_keys.push((0, m.lsp_key.x_only_public_key().0));
        }),
        ("a missing foreign key", |m| m.foreign_keys.clear()),
        ("a missing foreign hash", |m| m.foreign_hashes.clear()),
        ("a missing nonce", |m| {
            m.nonces.pop();
        }),
        ("a nonce too many", |m| m.nonces.push(m.nonces[0])),
    ];
    for (seed, (what, change)) in (70..).zip(changes) {
        let signed = Rc::new(RefCell::new(0));
        let (count, change) = (signed.clone(), *change);
        let (mut world, instance) = Scenario::new(seed)
            .clients(5)
            .tamper(move |out| match &out.message {
                Message::Propose(propose) if out.to == 2 => Fate::changed(propose, change),
                Message::PartialSignatures(_) if out.from == 2 => {
                    *count.borrow_mut() += 1;
                    Fate::Deliver
                }
                _ => Fate::Deliver,
            })
            .begun()
            .unwrap();
        assert_eq!(world.finish(instance).unwrap(), State::Active, "{what}");
        assert_eq!(*signed.borrow(), 0, "{what}: it signed");
        assert_eq!(left_out(&world, instance), [2], "{what}");
        assert!(factory(&world, 2, instance).signed_for().is_empty(), "{what}");
    }
}

/// S2, S6: a proposal whose lie the client can't see is signed, but the signatures fit nothing: the
/// transcript differs. The same proposal with other nonces afterwards gets no second signature.
#[test]
fn a_lie_that_only_the_transcript_shows() {
    without(100, &[2], |out| match &out.message {
        Message::Propose(propose) if out.to == 2 => {
            Fate::changed(propose, |m| members(m, |all| all[0].1 = all[2].1.clone()))
        }
        _ => Fate::Deliver,
    });
    let (mut world, instance) = Scenario::new(101)
        .clients(3)
        .tamper(|out| match &out.message {
            Message::Propose(propose) if out.to == 2 => {
                let mut second = propose.clone();
                second.nonces.swap(0, 1);
                let both = [propose.clone(), second].map(|m| Message::from(m).encode());
                Fate::Replace(both.to_vec())
            }
            _ => Fate::Deliver,
        })
        .begun()
        .unwrap();
    world.finish(instance).unwrap();
    assert!(format!("{:?}", world.members[2].log).contains("a second proposal that differs"));
}

/// S28: garbage, truncated, replayed and early messages change nothing, whoever they are from.
#[test]
fn garbage_and_replays() {
    let heard: Rc<RefCell<Vec<Outgoing>>> = Rc::default();
    let keep = heard.clone();
    let (mut world, instance) = Scenario::new(110)
        .clients(3)
        .tamper(move |out| {
            keep.borrow_mut().push(out.clone());
            Fate::Deliver
        })
        .active()
        .unwrap();
    world.heal();
    let everything = |world: &World| {
        let of = |at: usize| {
            let engine = world.members[at].engine.as_ref().unwrap();
            (world.members[at].store.records(instance).to_vec(), engine.ledger().clone(), engine.ceremonies())
        };
        (0..4).map(of).collect::<Vec<_>>()
    };
    let before = everything(&world);
    for out in heard.borrow().iter() {
        let payload = out.message.encode();
        for to in 0..4 {
            for from in (0..4).filter(|from| *from != to) {
                let peer = world.members[from].id;
                let cut = payload.len() / 2;
                let mut flipped = payload.clone();
                flipped[cut] ^= 0x40;
                for payload in [payload.clone(), payload[..cut].to_vec(), flipped, vec![], vec![0xff; 70_000]]
                {
                    world.feed(to, Input::Message { peer, payload }).unwrap();
                }
            }
        }
    }
    world.settle().unwrap();
    assert_eq!(before, everything(&world));
    world.pay(LSP, 3, 1_000_000).unwrap();

    // The same messages before their time, in a world with the same seed: the same factory.
    let mut early = Scenario::new(110).clients(3).world().unwrap();
    assert_eq!(early.begin(&Offer::default()), Ok(instance));
    for out in heard.borrow().iter().filter(|out| out.to == LSP && out.message.name() != "join") {
        if matches!(out.message, Message::Abort(_)) {
            continue;
        }
        let peer = early.members[out.from].id;
        early.feed(LSP, Input::Message { peer, payload: out.message.encode() }).unwrap();
    }
    assert_eq!(early.finish(instance).unwrap(), State::Active);
    assert_eq!(left_out(&early, instance), Vec::<usize>::new());
}

/// S29: an operator that vanishes in the middle and never comes back is given up on, by its name, also
/// after a restart has lost the ceremony and its deadline.
#[test]
fn an_operator_that_never_comes_back() {
    for name in ["join", "partial_signatures", "stored"] {
        let (mut world, instance) = Scenario::new(40)
            .clients(2)
            .tamper(move |out| if out.message.name() == name { Fate::Drop } else { Fate::Deliver })
            .begun()
            .unwrap();
        world.run_until("it was sent", |world| world.state(1, instance).is_some()).unwrap();
        world.settle().unwrap();
        world.stop(LSP);
        world.restart(1).unwrap();
        world.mine(143).unwrap();
        assert!(world.state(1, instance).is_some_and(State::is_creating), "{name}: given up too early");
        world.mine(5).unwrap();
        assert_eq!(world.state(1, instance), Some(State::Aborted), "{name}");
        let operator = world.members[LSP].id.to_string();
        assert!(
            world.failure(1, instance).unwrap_or_default().contains(&operator),
            "{name}: nobody is named"
        );
    }
}

/// S30: a client that had joined loses its connection, and with it its nonces; the last other join comes
/// before the client is heard of again. Its old join must not count, nor its new one against it.
#[test]
fn a_join_does_not_outlive_its_connection() {
    let held: Rc<RefCell<Option<Join>>> = Rc::default();
    let hold = held.clone();
    let (mut world, instance) = Scenario::new(120)
        .clients(2)
        .tamper(move |out| match &out.message {
            Message::Join(join) if out.from == 2 && hold.borrow().is_none() => {
                *hold.borrow_mut() = Some(join.clone());
                Fate::Drop
            }
            _ => Fate::Deliver,
        })
        .begun()
        .unwrap();
    world.settle().unwrap();
    world.disconnect(LSP, 1);
    world.settle().unwrap();
    let payload = Message::from(held.borrow().clone().unwrap()).encode();
    let peer = world.members[2].id;
    world.feed(LSP, Input::Message { peer, payload }).unwrap();
    world.connect(LSP, 1).unwrap();
    assert_eq!(world.finish(instance).unwrap(), State::Active, "{:?}", world.failure(LSP, instance));
    assert_eq!(left_out(&world, instance), Vec::<usize>::new());
    assert_eq!(factory(&world, LSP, instance).current.number, 1);
}
