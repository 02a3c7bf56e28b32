//! What is closed is left alone at a start: it costs neither time nor memory any more, but can be read, and
//! there is never another factory of its id.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;

use cln_factory::cln::boot;
use common::factory;
use factory_engine::policy::Config;
use factory_engine::tx::musig::MasterSecret;
use factory_engine::types::{Height, InstanceId};
use factory_engine::wire::message::{ChannelInFactory, Invite, Message, PROTOCOL_ID};
use factory_engine::{ChannelNow, Command, Engine, Input, State};
use factory_lab::scenario::Scenario;
use factory_lab::world::{Fate, LSP, World};
use factory_runtime::store::Store;
use factory_runtime::store::memory::MemoryStore;

/// Two clients without stock, with delays that a test can wait for.
fn short(seed: u64) -> Scenario {
    Scenario::new(seed).clients(2).stock(0).short_delays().lifetime(110, 40).unchecked()
}

/// Everybody's leaf is on chain, and lightningd has forgotten every channel.
fn closed(seed: u64) -> (World, InstanceId) {
    let (mut world, instance) = short(seed).active().unwrap();
    world.command(LSP, Command::Exit { instance }).unwrap();
    world.mine(4).unwrap();
    for at in [LSP, 1, 2] {
        assert_eq!(archivable(&world, at), []);
        world.feed(at, Input::Channels { list: vec![], whole: true }).unwrap();
        assert_eq!(world.state(at, instance), Some(State::Closed));
        assert_eq!(archivable(&world, at), [instance]);
    }
    (world, instance)
}

fn height(world: &World) -> Height {
    world.chain.height()
}

fn archivable(world: &World, at: usize) -> Vec<InstanceId> {
    world.members[at].engine.as_ref().unwrap().archivable(height(world)).collect()
}

/// What a start of the plugin makes of a store.
async fn start(world: &World, at: usize, store: &MemoryStore) -> Engine {
    let engine = Engine::new(world.members[at].id, MasterSecret::new([7; 32]), Config::default());
    boot::load(engine, store.clone()).await.unwrap().engine
}

/// A member's records, in a store of the plugin's, with the chain's tip.
async fn stored(world: &World, at: usize, instance: InstanceId) -> MemoryStore {
    let mut store = MemoryStore::new();
    for record in world.members[at].store.records(instance) {
        store.append(&[(instance, record.clone())]).await.unwrap();
    }
    let mut tip = height(world).to_be_bytes().to_vec();
    tip.extend([0; 32]);
    store.put("tip", tip).await.unwrap();
    store
}

/// S18: what was bought counts as well: as long as lightningd has one of these channels, nothing is archived.
#[test]
fn a_bought_channel_keeps_its_factory_open() {
    let scenario = Scenario::new(9).clients(4).stock(300_000).short_delays().lifetime(110, 40).unchecked();
    let (mut world, instance) = scenario.sold(&[(1, 50_000)]).unwrap();
    let sold = factory(&world, 1, instance).current.sales.all().next().unwrap().channel_id();
    world.command(LSP, Command::Exit { instance }).unwrap();
    world.mine(12).unwrap();
    for at in [LSP, 1] {
        world
            .feed(
                at,
                Input::Channels { list: vec![ChannelNow { channel_id: sold, ended: None }], whole: true },
            )
            .unwrap();
        assert_eq!(archivable(&world, at), [], "member {at}");
        assert_ne!(world.state(at, instance), Some(State::Closed), "member {at}");
        world.feed(at, Input::Channels { list: vec![], whole: true }).unwrap();
        assert_eq!(world.state(at, instance), Some(State::Closed), "member {at}");
        assert_eq!(archivable(&world, at), [instance], "member {at}");
    }
}

/// S20: a sale whose stock went to the clients, with all that was above it, holds nothing any more.
#[test]
fn a_sale_that_never_came_on_chain_ends_with_its_factory() {
    let scenario = Scenario::new(10).clients(4).stock(300_000).short_delays().lifetime(110, 40).unchecked();
    let (mut world, instance) = scenario.sold(&[(1, 50_000)]).unwrap();
    let timeout = factory(&world, LSP, instance).current.terms.timeout_height;
    // Neither the operator nor the buyer is there to leave in time.
    world.stop(LSP);
    world.stop(1);
    world.mine_to(timeout + 2).unwrap();
    world.start(LSP).unwrap();
    world.sync_all().unwrap();
    assert_eq!(world.state(LSP, instance), Some(State::Distributed));
    world.mine(factory_engine::BURIED).unwrap();
    assert_eq!(world.state(LSP, instance), Some(State::Closed));
}

#[tokio::test]
async fn a_closed_factory_is_read_once_more() {
    let (world, instance) = closed(1);
    for at in [LSP, 1, 2] {
        let mut store = stored(&world, at, instance).await;
        // The first start archives it, the second doesn't even read it.
        for _ in 0..2 {
            let engine = start(&world, at, &store).await;
            assert_eq!(engine.factories().count(), 0);
            assert!(engine.is_archived(instance));
            assert_eq!(store.archived().await.unwrap(), [instance]);
            assert_eq!(store.load_all().await.unwrap(), []);
        }
        assert_eq!(store.load(instance).await.unwrap(), world.members[at].store.records(instance));
    }
}

#[tokio::test]
async fn one_that_lives_is_not_archived() {
    let (world, instance) = short(2).active().unwrap();
    for at in [LSP, 1, 2] {
        let mut store = stored(&world, at, instance).await;
        let engine = start(&world, at, &store).await;
        assert!(engine.factory(instance).is_some());
        assert_eq!(store.archived().await.unwrap(), []);
    }
}

/// A store that can't be written: nothing changes, and nothing is lost.
#[tokio::test]
async fn without_a_mark_it_stays() {
    let (world, instance) = closed(3);
    let mut store = stored(&world, 1, instance).await;
    store.fail_next(1);
    assert!(start(&world, 1, &store).await.factory(instance).is_some());
    assert_eq!(store.archived().await.unwrap(), []);
}

// S18
#[test]
fn while_lightningd_has_a_channel_it_stays() {
    let (mut world, instance) = short(4).active().unwrap();
    // Nobody publishes anything, until the distribution pays everybody.
    let timeout = factory(&world, 1, instance).current.terms.timeout_height;
    for at in [LSP, 1, 2] {
        world.stop(at);
    }
    let blocks = timeout - height(&world);
    world.mine(blocks).unwrap();
    for at in [1, 2] {
        world.restart(at).unwrap();
    }
    world.mine(110).unwrap();
    assert_eq!(world.state(1, instance), Some(State::Closed));
    assert_eq!(archivable(&world, 1), [], "an HTLC over its channel has to be refused for ever");
}

// S18
#[test]
fn while_an_open_of_an_earlier_attempt_may_be_there_it_stays() {
    // The second client's first signatures are bad: the first one has accepted two opens by the end.
    let scenario = short(6).tamper(|out| match &out.message {
        Message::PartialSignatures(m) if out.from == 2 && m.attempt == 1 => {
            Fate::changed(m, |bad| bad.signatures[0].0[31] ^= 1)
        }
        _ => Fate::Deliver,
    });
    let (mut world, instance) = scenario.active().unwrap();
    assert_eq!(factory(&world, 1, instance).current.number, 2);
    world.command(1, Command::Exit { instance }).unwrap();
    world.mine(4).unwrap();
    world.feed(1, Input::Channels { list: vec![], whole: true }).unwrap();
    assert_eq!(world.state(1, instance), Some(State::Closed));
    assert_eq!(factory(&world, 1, instance).opens_accepted().len(), 2);
    assert_eq!(archivable(&world, 1), []);
}

// S8: what was signed for it isn't known any more.
#[test]
fn there_is_never_another_of_its_id() {
    let (mut world, instance) = closed(5);
    let terms = factory(&world, 1, instance).current.terms.clone();
    let record = ChannelInFactory {
        factory_protocol: PROTOCOL_ID,
        factory_instance: instance,
        blocks_early: factory(&world, 1, instance).current.layout.blocks_early(0),
    };
    let invite = Invite { instance, attempt: 1, terms, client: 0, price_msat: 0, channel_in_factory: record };
    world.members[1].engine.as_mut().unwrap().archive([instance]);
    let before = world.members[1].store.appends;
    let payload = Message::from(invite).encode();
    let peer = world.members[LSP].id;
    world.feed(1, Input::Message { peer, payload }).unwrap();
    assert!(world.members[1].engine.as_ref().unwrap().factory(instance).is_none());
    assert_eq!(world.members[1].store.appends, before);
}
