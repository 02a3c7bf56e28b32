//! Channels that lightningd ends by itself, or at somebody's word (S34).

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;

use common::{factory, listed, sales};
use factory_engine::types::{ChannelId, InstanceId};
use factory_engine::{ChannelNow, Command, Ended, Input, NextAction, State, Unusable};
use factory_lab::scenario::Scenario;
use factory_lab::world::{LSP, World, losing};

const WAYS: [Ended; 4] = [Ended::Closing, Ended::Failed, Ended::Spliced, Ended::OnChain];

const NOBODY: [u32; 0] = [];

fn channel(world: &World, at: usize, instance: InstanceId, client: u32) -> ChannelId {
    factory(world, at, instance).current.channels[&client]
}

fn tell(world: &mut World, at: usize, channel_id: ChannelId, how: Option<Ended>) {
    let list = vec![ChannelNow { channel_id, ended: how }];
    world.feed(at, Input::Channels { list, whole: false }).unwrap();
    world.settle().unwrap();
}

/// Whom a member takes on chain.
fn exiting(world: &World, at: usize, instance: InstanceId) -> Vec<u32> {
    factory(world, at, instance).current.exiting.iter().copied().collect()
}

/// Blocks until client 0's leaf is on chain.
fn mine_out(world: &mut World, at: usize, instance: InstanceId) {
    let path = factory(world, at, instance).current.layout.path(0).len();
    world.mine(u32::try_from(path).unwrap()).unwrap();
    assert!(factory(world, at, instance).leaf_height(0).is_some(), "member {at}");
}

/// S34: on either side, whatever it was, also with a restart right after, and without waiting for a block.
#[test]
fn a_channel_that_ends_takes_its_client_on_chain() {
    for (at, restart) in [(1, false), (1, true), (LSP, false), (LSP, true)] {
        for how in WAYS {
            let (mut world, instance) = Scenario::new(7).clients(3).active().unwrap();
            let channel = channel(&world, at, instance, 0);
            tell(&mut world, at, channel, None);
            assert_eq!(exiting(&world, at, instance), NOBODY, "it lives");
            tell(&mut world, at, channel, Some(how));
            if restart {
                world.restart(at).unwrap();
                world.settle().unwrap();
            }
            let (height, on_node) = (world.chain.height(), factory(&world, at, instance));
            assert_eq!(exiting(&world, at, instance), [0], "member {at}, {how}");
            assert_eq!(on_node.channel_usable(0, height), Err(Unusable::Ended(how)));
            assert!(on_node.current.exit.as_ref().unwrap().1.contains(&how.to_string()));
            if at == LSP {
                assert_eq!(on_node.state(height), State::Active, "the others go on");
                assert_eq!(on_node.channel_usable(1, height), Ok(()));
            } else {
                assert_eq!(on_node.state(height), State::Exiting);
            }
            mine_out(&mut world, at, instance);
            let (height, on_node) = (world.chain.height(), factory(&world, at, instance));
            assert!(at == LSP || on_node.next_action(height) == NextAction::Close);
        }
    }
}

/// S34: it happened while the plugin was off: the first list says so, on either side.
#[test]
fn what_happened_while_the_node_was_off() {
    for at in [1, LSP] {
        let (mut world, instance) = Scenario::new(8).clients(3).active().unwrap();
        let channel_id = channel(&world, at, instance, 0);
        world.stop(at);
        world.close(at, channel_id);
        world.start(at).unwrap();
        world.settle().unwrap();
        assert_eq!(exiting(&world, at, instance), NOBODY, "nobody has said anything");
        let list = listed(&world, at);
        world.feed(at, Input::Channels { list, whole: true }).unwrap();
        assert_eq!(exiting(&world, at, instance), [0]);
    }
}

/// S34: `close` with the peer away, as on real nodes: one side leaves at once, the other as soon as it hears of
/// it, and the commitment gets on chain.
#[test]
fn a_close_while_the_peer_is_away() {
    let (mut world, instance) = Scenario::new(9).clients(3).active().unwrap();
    let channel_id = channel(&world, 1, instance, 0);
    world.disconnect(LSP, 1);
    world.close(1, channel_id);
    world.settle().unwrap();
    assert_eq!((exiting(&world, 1, instance), exiting(&world, LSP, instance)), (vec![0], vec![]));
    world.reconnect().unwrap();
    world.settle().unwrap();
    assert_eq!(exiting(&world, LSP, instance), [0]);
    mine_out(&mut world, 1, instance);
    world.mine(1).unwrap();
    let outpoint = world.members[1].lightningd.channels[&channel_id].outpoint;
    assert!(world.chain.spender(outpoint).is_some());
}

/// S34: a client that comes back with an older copy of its directory.
#[test]
fn an_older_copy() {
    let (mut world, instance) = Scenario::new(10).clients(3).active().unwrap();
    let older = world.backup(1);
    world.pay(LSP, 1, 40_000_000).unwrap();
    world.restore(1, older).unwrap();
    world.reconnect().unwrap();
    world.settle().unwrap();
    assert_eq!(exiting(&world, LSP, instance), [0], "the operator closes with the last state");
}

/// S34: before the funding is in the chain there is no path to publish; afterwards there is.
#[test]
fn before_the_funding_confirms() {
    for at in [1, LSP] {
        let (mut world, instance) = Scenario::new(11).clients(2).begun().unwrap();
        let funding = |world: &World| world.state(LSP, instance) == Some(State::Funding);
        world.run_until("it is funded", funding).unwrap();
        world.settle().unwrap();
        assert_eq!(world.state(at, instance), Some(State::Funding));
        let channel = channel(&world, at, instance, 0);
        tell(&mut world, at, channel, Some(Ended::Failed));
        assert!(!world.sent.iter().any(|sent| sent.what.contains("transaction")), "nothing can be published");
        world.mine(1).unwrap();
        mine_out(&mut world, at, instance);
    }
}

/// S34: what is on chain, or on its way there, needs no second exit; but it doesn't go on.
#[test]
fn what_is_on_chain_is_lightningds() {
    let (mut world, instance) = Scenario::new(12).clients(2).stock(0).active().unwrap();
    world.command(LSP, Command::Evict { instance, clients: vec![] }).unwrap();
    world.settle().unwrap();
    let first = channel(&world, LSP, instance, 0);
    tell(&mut world, LSP, first, Some(Ended::Failed));
    assert_eq!(exiting(&world, LSP, instance), NOBODY, "the eviction is on its way");
    mine_out(&mut world, LSP, instance);
    let height = world.chain.height();
    let next = |world: &World, at| factory(world, at, instance).next_action(height);
    assert_eq!(next(&world, LSP), NextAction::CloseSome { closed: 1, of: 2 });
    assert_eq!(next(&world, 1), NextAction::Stands);
    for at in [LSP, 1, 2] {
        let other = channel(&world, at, instance, u32::from(at != 1));
        let own = if at == 1 { first } else { other };
        tell(&mut world, at, own, Some(Ended::OnChain));
        assert_eq!(exiting(&world, at, instance), NOBODY);
        assert_eq!(next(&world, at), NextAction::Close, "member {at}");
    }
    // And then it is settled.
    for at in [LSP, 1] {
        tell(&mut world, at, first, Some(Ended::Forgotten));
        assert!(factory(&world, at, instance).current.resolved.contains(&0), "member {at}");
    }
}

/// L: a channel that is over before anything was funded: another attempt, not a factory with such a channel.
#[test]
fn before_the_funding_leaves() {
    let (mut world, instance) = Scenario::new(16).clients(2).begun().unwrap();
    world.tamper(losing("channel_checked", 2));
    let opening = |world: &World| {
        let factory = factory(world, LSP, instance);
        factory.current.channels.len() == 2 && world.state(LSP, instance) == Some(State::Opening)
    };
    world.run_until("channels are committed", opening).unwrap();
    let first = channel(&world, LSP, instance, 0);
    world.heal();
    tell(&mut world, LSP, first, Some(Ended::Failed));
    world.activate(instance).unwrap();
    let on_lsp = factory(&world, LSP, instance);
    assert_eq!((on_lsp.current.number, on_lsp.current.clients.len()), (2, 2));
    assert_ne!(on_lsp.current.channels[&0], first);
}

/// Of a forgotten channel nothing can be claimed on chain, while the distribution pays all of it.
#[test]
fn a_forgotten_channel_stays_where_it_is() {
    for whole in [false, true] {
        let (mut world, instance) = Scenario::new(13).clients(2).active().unwrap();
        if whole {
            world.feed(1, Input::Channels { list: vec![], whole }).unwrap();
        } else {
            let channel = channel(&world, 1, instance, 0);
            tell(&mut world, 1, channel, Some(Ended::Forgotten));
        }
        world.mine(2).unwrap();
        let (height, client) = (world.chain.height(), factory(&world, 1, instance));
        assert_eq!(exiting(&world, 1, instance), NOBODY);
        assert_eq!(client.channel_usable(0, height), Err(Unusable::Ended(Ended::Forgotten)));
        let timeout = client.current.terms.timeout_height;
        assert_eq!(client.next_action(height), NextAction::Forgotten { timeout });
    }
}

/// S34: a bought channel ends: its buyer leaves with it, on both sides.
#[test]
fn a_bought_channel() {
    for at in [1, LSP] {
        let scenario = Scenario::new(14).clients(4).stock(300_000).short_delays().lifetime(110, 40);
        let (mut world, instance) = scenario.sold(&[(1, 50_000)]).unwrap();
        let sold = sales(&world, at, instance)[0].clone();
        tell(&mut world, at, sold.channel_id(), Some(Ended::Failed));
        assert_eq!(exiting(&world, at, instance), [0], "member {at}");
        let usable = factory(&world, at, instance).sale_usable(&sold, world.chain.height());
        assert_eq!(usable, Err(Unusable::Ended(Ended::Failed)));
        mine_out(&mut world, at, instance);
        world.mine(2).unwrap();
        assert!(factory(&world, at, instance).confirmed.contains_key(&sold.txid()), "member {at}");
    }
}

/// Channels of nobody's factory, or of an attempt that is over, start nothing.
#[test]
fn other_channels_start_nothing() {
    let (mut world, instance) = Scenario::new(15).clients(2).active().unwrap();
    for at in [LSP, 1] {
        tell(&mut world, at, ChannelId([9; 32]), Some(Ended::Failed));
        assert_eq!(exiting(&world, at, instance), NOBODY);
    }
    // What one closes oneself is no news.
    world.command(1, Command::Exit { instance }).unwrap();
    mine_out(&mut world, 1, instance);
    assert!(factory(&world, 1, instance).current.ended.is_empty());
}
