//! What others can have a node do for nothing: invitations of strangers, and clients that keep a factory from
//! coming to be.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;

use common::{factory, left_out};
use factory_engine::policy::Policy;
use factory_engine::record::event::{Aborted, Accepted, Event, Invited, OpenAccepted};
use factory_engine::terms::Terms;
use factory_engine::types::{ChannelId, InstanceId, NodeId, PROTOCOL_ID};
use factory_engine::wire::message::{Abort, Expecting, Invite, Message};
use factory_engine::{Command, Input, State};
use factory_lab::offer::{Offer, invitation, shape};
use factory_lab::scenario::Scenario;
use factory_lab::world::{Fate, Fed, LSP, World};

fn stranger(number: u32) -> NodeId {
    let mut id = [2; 33];
    id[1..5].copy_from_slice(&number.to_be_bytes());
    NodeId(id)
}

/// An invitation of a peer, its so-manieth.
fn invited_by(world: &World, peer: NodeId, number: u32) -> Message {
    let config = &world.members[1].config;
    let offer = Offer::default();
    let terms = offer.terms(2, shape(2, offer.profile, config).unwrap(), config);
    let mut instance = [0; 32];
    instance[..4].copy_from_slice(&peer.0[1..5]);
    instance[4..8].copy_from_slice(&number.to_be_bytes());
    let timeout_height = world.chain.height() + offer.lifetime_blocks;
    invitation(&Terms { instance: InstanceId(instance), lsp: peer, timeout_height, ..terms }, 0).unwrap()
}

fn invite(world: &mut World, peer: NodeId, number: u32) {
    let payload = invited_by(world, peer, number).encode();
    world.feed(1, Input::Message { peer, payload }).unwrap();
}

fn known(world: &World) -> usize {
    world.members[1].engine.as_ref().unwrap().factories().count()
}

/// S28: without a list nobody joins a stranger's factory by policy, and a thousand of them leave 16 invitations;
/// whoever has a channel with this node is none of them.
#[test]
fn a_thousand_strangers() {
    let mut world = Scenario::new(1).clients(1).world().unwrap();
    let appends = world.members[1].store.appends;
    for number in 0..1_000 {
        let peer = stranger(number);
        world.feed(1, Input::PeerUp { peer, channels: false }).unwrap();
        for again in 0..3 {
            invite(&mut world, peer, again);
        }
    }
    assert_eq!(known(&world), 16);
    assert_eq!(world.members[1].store.appends - appends, 16);
    let engine = world.members[1].engine.as_ref().unwrap();
    assert!(engine.factories().all(|factory| factory.state(0) == State::Invited), "nothing is accepted");
    let friend = stranger(5_000);
    world.feed(1, Input::PeerUp { peer: friend, channels: true }).unwrap();
    invite(&mut world, friend, 0);
    assert_eq!(known(&world), 17);
    // They can be answered, and what nobody answers ends.
    let first = world.members[1].engine.as_ref().unwrap().factories().next().unwrap().instance;
    let fed = world.feed(1, Input::Command(world.acceptance(1, first).unwrap())).unwrap();
    assert!(matches!(fed, Fed::Done(Ok(_))), "{fed:?}");
    world.run_out().unwrap();
    world.mine(144).unwrap();
    world.mine(144).unwrap();
    assert_eq!(known(&world), 0);
}

/// How often a member has declined an invitation of this peer for this reason.
fn declined(world: &World, peer: NodeId, why: &str) -> usize {
    let text = format!("declined the invitation of {peer}: {why}");
    world.members[1].log.iter().filter(|(_, line)| line.ends_with(&text)).count()
}

/// S28: 256 invitations wait for a person at most, of all peers together, strangers or not. Who comes then is told so
/// and nothing is stored; those that wait can be answered, and leave room.
#[test]
fn so_many_invitations_wait_for_an_answer() {
    let ask = |config: &mut factory_engine::Config| config.policy = Policy::Ask;
    let mut world = Scenario::new(11).clients(1).config_of(1, ask).unchecked().world().unwrap();
    for number in 0..=256 {
        let peer = stranger(number);
        world.feed(1, Input::PeerUp { peer, channels: true }).unwrap();
        invite(&mut world, peer, 0);
    }
    let (late, why) = (stranger(256), "256 invitations wait for an answer here already");
    assert_eq!((known(&world), declined(&world, late, why)), (256, 1));
    let appends = world.members[1].store.appends;
    invite(&mut world, late, 0);
    assert_eq!((known(&world), declined(&world, late, why)), (256, 2));
    assert_eq!(world.members[1].store.appends, appends);
    let first = world.members[1].engine.as_ref().unwrap().factories().next().unwrap().instance;
    world.command(1, world.acceptance(1, first).unwrap()).unwrap();
    invite(&mut world, late, 0);
    assert_eq!(known(&world), 257);
}

/// S12, S28: failed factories that have to be kept, because something was signed in them or lightningd may have a channel
/// of theirs, are 64 of one peer at most: it is told so and nothing is stored, and another peer's invitation is taken as
/// ever.
#[test]
fn so_many_failed_factories_of_a_peer_are_kept() {
    let (mut world, _) = Scenario::new(12).clients(1).active().unwrap();
    let (peer, other) = (stranger(0), stranger(1));
    // What lightningd has with that peer could be any of theirs.
    let channels = &mut world.members[1].lightningd.channels;
    let mut suspect = channels.values().next().unwrap().clone();
    suspect.peer = peer;
    assert_eq!(suspect.capacity, Offer::default().capacity);
    channels.insert(ChannelId([7; 32]), suspect);
    world.members[1].config.policy = Policy::Ask;
    world.stop(1);
    let height = world.chain.height();
    for number in 0..64 {
        let Message::Invite(invite) = invited_by(&world, peer, number) else { panic!("an invitation") };
        let (instance, terms) = (invite.instance, invite.terms);
        let events: Vec<Event> = vec![
            Invited { attempt: 1, terms, client: 0, price_msat: 0, height, protocol: PROTOCOL_ID }.into(),
            Accepted { from: None }.into(),
            OpenAccepted { attempt: 1 }.into(),
            Aborted { reason: "the operator was silent".into(), height }.into(),
        ];
        world.members[1].store.append(&[(instance, events)]).unwrap();
    }
    world.start(1).unwrap();
    for peer in [peer, other] {
        world.feed(1, Input::PeerUp { peer, channels: true }).unwrap();
    }
    let appends = world.members[1].store.appends;
    invite(&mut world, peer, 64);
    assert_eq!(declined(&world, peer, "64 failed factories of this peer have to be kept"), 1);
    assert_eq!((known(&world), world.members[1].store.appends), (1 + 64, appends));
    invite(&mut world, other, 0);
    assert_eq!(known(&world), 1 + 65);
}

/// S28: a peer that invites in vain again and again isn't answered for a while, twice as long each time.
#[test]
fn whoever_invites_in_vain_waits() {
    let never = |config: &mut factory_engine::Config| config.policy = Policy::Never;
    let mut world = Scenario::new(2).clients(1).config_of(1, never).world().unwrap();
    let peer = stranger(0);
    world.feed(1, Input::PeerUp { peer, channels: true }).unwrap();
    let declined = |world: &World| {
        world.members[1].log.iter().filter(|(_, line)| line.contains("declined the invitation")).count()
    };
    for number in 0..100 {
        invite(&mut world, peer, number);
    }
    let free = declined(&world);
    assert!((8..=10).contains(&free), "{free}");
    world.now += 3_600_000;
    (0..100).for_each(|number| invite(&mut world, peer, number));
    assert_eq!(declined(&world), free + 1);
}

/// S28: what failed before anything was signed is deleted 144 blocks later, on both sides.
#[test]
fn what_failed_is_deleted() {
    let ask = |config: &mut factory_engine::Config| config.policy = Policy::Ask;
    let (mut world, instance) = Scenario::new(3).clients(1).config_of(1, ask).begun().unwrap();
    world.settle().unwrap();
    let decline = Command::Decline { instance, reason: "not today".into() };
    world.command(1, decline).unwrap();
    world.run_out().unwrap();
    world.mine(143).unwrap();
    for at in [LSP, 1] {
        assert!(world.factory(at, instance).is_ok());
    }
    world.mine(1).unwrap();
    for at in [LSP, 1] {
        assert!(world.factory(at, instance).is_err());
    }
}

/// In place of an answer, an abort.
fn abort(expecting: &Expecting, reason: &str, retry: u8) -> Abort {
    Abort {
        instance: expecting.instance,
        attempt: expecting.attempt,
        phase: 2,
        reason: reason.into(),
        blames: None,
        retry,
    }
}

/// S30: one client that aborts each attempt and asks for another is left out
/// the second time; the factory of the others comes to be.
#[test]
fn one_client_cannot_keep_a_factory_from_coming_to_be() {
    let (mut world, instance) = Scenario::new(4)
        .clients(3)
        .tamper(|out| match &out.message {
            Message::Expecting(expecting) if out.from == 2 => Fate::replace(abort(expecting, "later", 1)),
            _ => Fate::Deliver,
        })
        .begun()
        .unwrap();
    world.run_out().unwrap();
    assert_eq!(left_out(&world, instance), [2]);
    assert_eq!(factory(&world, LSP, instance).current.number, 3);
    assert_eq!(world.state(LSP, instance), Some(State::Funding));
}

/// S30: nor does one that hangs up whenever it is to sign, and comes again at once.
#[test]
fn one_that_hangs_up_again_and_again_cannot_either() {
    let (mut world, instance) = Scenario::new(8).clients(3).begun().unwrap();
    let signs = |world: &World| matches!(world.state(LSP, instance), Some(State::Signing | State::Storing));
    let mut times = 0;
    while left_out(&world, instance).is_empty() && world.state(LSP, instance) != Some(State::Funding) {
        assert!(times < 10, "it keeps the others from it for ever");
        while !signs(&world) && (world.step().unwrap() || world.advance().unwrap()) {}
        world.disconnect(LSP, 2);
        world.reconnect().unwrap();
        times += 1;
        for _ in 0..5 {
            world.step().unwrap();
        }
    }
    world.run_out().unwrap();
    assert_eq!(left_out(&world, instance), [2], "after {times} times");
    assert!(times > 1, "once may be the line's fault");
    assert_eq!(world.state(LSP, instance), Some(State::Funding));
}

/// S30: however many there are of that kind, the others go on without them.
#[test]
fn many_clients_cannot_either() {
    let (mut world, instance) = Scenario::new(5)
        .clients(9)
        .tamper(|out| match &out.message {
            Message::Expecting(expecting) if out.from > 2 => Fate::replace(abort(expecting, "later", 1)),
            _ => Fate::Deliver,
        })
        .begun()
        .unwrap();
    world.run_out().unwrap();
    assert_eq!(left_out(&world, instance).len(), 7);
    assert_eq!(world.state(LSP, instance), Some(State::Funding));
}

/// An attempt that one client ended is no news about it to the others.
#[test]
fn who_ended_an_attempt_is_told_to_nobody_else() {
    let (mut world, instance) = Scenario::new(6).clients(3).begun().unwrap();
    let id = world.members[2].id.to_string();
    let told = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
    let list = told.clone();
    world.tamper(move |out| match &out.message {
        Message::Expecting(expecting) if out.from == 2 => Fate::replace(abort(expecting, "secret words", 0)),
        Message::Abort(abort) if out.from == LSP && out.to != 2 => {
            list.borrow_mut().push(abort.reason.clone());
            Fate::Deliver
        }
        _ => Fate::Deliver,
    });
    world.run_out().unwrap();
    assert_eq!(left_out(&world, instance), [2]);
    let told = told.borrow();
    assert!(!told.is_empty());
    assert!(told.iter().all(|why| !why.contains(&id) && !why.contains("secret")), "{told:?}");
    assert!(told.iter().all(|why| why.contains("another client aborts")), "{told:?}");
    let log = &world.members[LSP].log;
    assert!(log.iter().any(|(_, line)| line.contains(&id) && line.contains("secret words")));
}

/// S28: a stranger's one invitation, changed again and again, is looked at a few times, and isn't written anew for
/// each.
#[test]
fn a_strangers_invitation_does_not_change_without_end() {
    let mut world = Scenario::new(9).clients(1).world().unwrap();
    let peer = stranger(0);
    world.feed(1, Input::PeerUp { peer, channels: false }).unwrap();
    let appends = world.members[1].store.appends;
    for attempt in 1..=100 {
        let Message::Invite(invite) = invited_by(&world, peer, 0) else { panic!("an invitation") };
        let payload = Message::Invite(Invite { attempt, ..invite }).encode();
        world.feed(1, Input::Message { peer, payload }).unwrap();
    }
    let written = world.members[1].store.appends - appends;
    assert!((2..=10).contains(&written), "{written}");
    assert_eq!(known(&world), 1);
}

/// S28: whose factory this node is in is no stranger, although nothing else on chain is known of it; and it is one
/// again when that has never been funded.
#[test]
fn the_operator_of_a_funded_factory_is_known() {
    for funded in [true, false] {
        let scenario = Scenario::new(10).clients(1);
        let (mut world, instance) = if funded { scenario.active() } else { scenario.begun() }.unwrap();
        let peer = world.members[LSP].id;
        // As lightningd says of a factory's channel: its funding isn't on chain.
        world.feed(1, Input::PeerDown { peer }).unwrap();
        world.feed(1, Input::PeerUp { peer, channels: false }).unwrap();
        let payload = invited_by(&world, peer, 7).encode();
        world.feed(1, Input::Message { peer, payload }).unwrap();
        let engine = world.members[1].engine.as_ref().unwrap();
        let second = engine.factories().find(|factory| factory.instance != instance);
        let accepted = second.is_some_and(|factory| factory.state(0) != State::Invited);
        assert_eq!(accepted, funded, "{:?}", second.map(|factory| factory.state(0)));
    }
}
