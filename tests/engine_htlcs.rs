//! HTLCs that are not settled in time take their channel on chain by themselves.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;

use common::{factory, htlc};
use factory_engine::{Command, Direction, Input, State};
use factory_lab::offer::Offer;
use factory_lab::scenario::Scenario;
use factory_lab::world::{LSP, World, losing};

/// S16: at height + blocks_early = expiry, not a block before; on either side; also when a restart
/// lies in between.
#[test]
fn an_unsettled_htlc_starts_the_exit() {
    for (at, restart) in [(1, false), (1, true), (LSP, false), (LSP, true)] {
        let (mut world, instance) = Scenario::new(7).clients(3).active().unwrap();
        let on_node = factory(&world, at, instance);
        let early = u32::from(on_node.current.layout.blocks_early(0));
        let channel_id = on_node.current.channels[&0];
        let height = world.chain.height();
        let pending = htlc(channel_id, Direction::Fulfilled, height + early + 3);
        let tell = |world: &mut World| {
            world.feed(at, Input::Htlcs(vec![pending])).unwrap();
            world.settle().unwrap();
        };

        world.mine(2).unwrap();
        tell(&mut world);
        assert!(factory(&world, at, instance).current.exiting.is_empty(), "a block too early");
        if restart {
            world.restart(at).unwrap();
            world.settle().unwrap();
        }
        world.mine(1).unwrap();
        tell(&mut world);
        assert_eq!(factory(&world, at, instance).current.exiting.iter().copied().collect::<Vec<_>>(), [0]);
        assert!(factory(&world, at, instance).channel_usable(0, height + 3).is_err());
        if at == LSP {
            // The operator goes on with its other clients.
            assert_eq!(world.state(LSP, instance), Some(State::Active));
            assert!(factory(&world, LSP, instance).channel_usable(2, height + 3).is_ok());
        } else {
            assert_eq!(world.state(at, instance), Some(State::Exiting));
        }
        let path = factory(&world, at, instance).current.layout.path(0).len();
        world.mine(u32::try_from(path).unwrap()).unwrap();
        let leaf = factory(&world, at, instance).leaf_height(0).unwrap();
        assert!(leaf <= pending.cltv_expiry, "the leaf confirmed at {leaf}, after the expiry");
    }
}

/// S18: whoever asks of one channel hears what the list of all has, from the moment at which its funding is known:
/// before lightningd has the channel, too.
#[test]
fn one_channel_has_the_policy_that_the_list_has() {
    let (mut world, instance) = Scenario::new(11).clients(3).begun().unwrap();
    let mut early = 0;
    let mut is_checked = |world: &World| {
        for engine in world.members.iter().filter_map(|member| member.engine.as_ref()) {
            let factory = engine.factory(instance);
            for (id, policy) in engine.channel_policies() {
                early += u32::from(factory.is_some_and(|known| known.current.channels.is_empty()));
                assert_eq!(engine.policy_of(id), Some(policy));
            }
        }
    };
    while world.state(LSP, instance).is_some_and(State::is_creating) {
        is_checked(&world);
        assert!(world.step().unwrap() || world.advance().unwrap());
    }
    world.mine(3).unwrap();
    assert_eq!(world.state(LSP, instance), Some(State::Active));
    is_checked(&world);
    assert!(early > 0, "each channel is known before lightningd has it");
}

/// S18: a funding that a reorganisation took and brought back is as young as any other, also while L gets
/// everybody out.
#[test]
fn nothing_moves_on_a_funding_that_is_young_again() {
    let (mut world, instance) = Scenario::new(9).clients(2).active().unwrap();
    let funding = factory(&world, LSP, instance).funding().unwrap().txid;
    world.command(LSP, Command::Evict { instance, clients: vec![] }).unwrap();
    world.settle().unwrap();
    assert_eq!(world.state(LSP, instance), Some(State::Exiting));
    assert_eq!(factory(&world, LSP, instance).channel_usable(0, world.chain.height()), Ok(()));

    let (confirmed, _) = world.chain.confirmed(funding).unwrap();
    world.chain.reorg(world.chain.height() - confirmed + 1);
    for depth in 0..3 {
        // The leaf waits, so that the channel stands on the funding alone.
        world.chain.mine_without(|tx| tx.compute_txid() != funding);
        world.sync_all().unwrap();
        let height = world.chain.height();
        assert_eq!(world.chain.confirmed(funding).map(|(at, _)| height - at), Some(depth));
        let why = factory(&world, LSP, instance).channel_usable(0, height);
        assert_eq!(why.is_ok(), depth == 2, "{depth} blocks on top: {why:?}");
    }
}

/// An HTLC on a channel that is no factory's, or whose leaf is on chain, starts nothing.
#[test]
fn other_htlcs_start_nothing() {
    let (mut world, instance) = Scenario::new(8).clients(2).active().unwrap();
    let foreign = htlc(factory_engine::types::ChannelId([9; 32]), Direction::Fulfilled, 0);
    world.feed(1, Input::Htlcs(vec![foreign])).unwrap();
    world.settle().unwrap();
    assert_eq!(world.state(1, instance), Some(State::Active));
}

/// BOLT 4's codes, with an empty channel_update where the code wants one.
#[test]
fn failures_are_bolt_4s() {
    use factory_engine::admission::htlc::Failure;
    for (failure, message) in [
        (Failure::TemporaryChannel, &[0x10, 7, 0, 0][..]),
        (Failure::ExpiryTooSoon, &[0x10, 14, 0, 0]),
        (Failure::TemporaryNode, &[0x20, 2]),
        (Failure::ExpiryTooFar, &[0, 21]),
    ] {
        assert_eq!(failure.message(), message);
    }
}

/// S18: an open that was accepted for a factory stays known, whatever becomes of it.
#[test]
fn accepted_opens_are_suspects() {
    let mut world = Scenario::new(9).clients(2).world().unwrap();
    assert!(world.members[1].engine.as_ref().unwrap().suspects().is_empty());
    let instance = world.make_factory(&Offer::default()).unwrap();
    let capacity = factory(&world, 1, instance).capacity(0);
    let lsp = world.members[LSP].id;
    for engine in [world.members[1].engine.as_ref().unwrap(), &world.rebuild(1).unwrap()] {
        assert_eq!(engine.suspects(), [(lsp, capacity)]);
    }
}

/// S18: nothing moves on a channel of an attempt that was given up, which lightningd may still have; nor is
/// one of them forgotten as long as its leaf is not on chain.
#[test]
fn nothing_moves_on_a_channel_that_was_given_up() {
    let (mut world, instance) = Scenario::new(10).clients(3).tamper(losing("stored", 3)).begun().unwrap();
    let later = |world: &World, at: usize| {
        let factory = world.members[at].engine.as_ref().unwrap().factory(instance);
        factory.is_some_and(|factory| factory.current.number > 1 && !factory.current.signatures.is_empty())
    };
    world.run_until("a second attempt is signed", move |world| later(world, 1) && later(world, LSP)).unwrap();
    for at in [LSP, 1] {
        let engine = world.members[at].engine.as_ref().unwrap();
        let policies = engine.channel_policies();
        let past = &engine.factory(instance).unwrap().past()[0];
        for client in if at == LSP { 0..3 } else { 0..1 } {
            let leaf = past.tree.as_ref().unwrap().channel_outpoint(client).unwrap();
            let channel = factory_engine::types::ChannelId::of(leaf);
            let policy = policies.iter().find(|(id, _)| *id == channel).map(|(_, policy)| policy);
            let policy = policy.unwrap_or_else(|| panic!("member {at}: client {client}'s is forgotten"));
            assert_eq!(policy.usable, Err(factory_engine::Unusable::GivenUp));
        }
    }
}

/// Without a funding there is no exit to warn of, whatever lightningd lists.
#[test]
fn no_htlc_is_urgent_without_a_funding() {
    let (mut world, instance) = Scenario::new(11).clients(2).active().unwrap();
    let channel_id = factory(&world, 1, instance).current.channels[&0];
    let pending = htlc(channel_id, Direction::Fulfilled, world.chain.height() + 1);
    let depth = world.chain.height() - factory(&world, 1, instance).funding_height().unwrap() + 1;
    world.chain.reorg_and_drop(depth);
    world.mine_quietly(depth + 1);
    world.sync_all().unwrap();
    world.feed(1, Input::Htlcs(vec![pending])).unwrap();
    let engine = world.members[1].engine.as_ref().unwrap();
    let factory = engine.factory(instance).unwrap();
    assert_eq!(factory.funding_height(), None);
    assert_eq!(engine.urgent_htlcs(factory, world.chain.height()), []);
}
