//! What is closed is left alone at a start: it costs neither time nor memory any more, but can be read, and
//! there is never another factory of its id.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;

use cln_factory::cln::boot;
use common::factory;
use factory_engine::io::fees::FeeNews;
use factory_engine::policy::Config;
use factory_engine::record::event::{
    Event, Forgotten, SaleDue, SaleDueEnded, SaleJit, SaleJitFailed, SaleJitOpened, encode_record,
};
use factory_engine::tx::musig::MasterSecret;
use factory_engine::types::{Amount, ChannelId, Height, InstanceId, NodeId, PaymentHash};
use factory_engine::wire::message::{ChannelInFactory, Invite, Message, PROTOCOL_ID};
use factory_engine::{ChannelNow, Command, Effect, Engine, Input, Refusal, Remains, State};
use factory_lab::scenario::Scenario;
use factory_lab::world::{Fate, LSP, World};
use factory_runtime::store::Store;
use factory_runtime::store::memory::MemoryStore;
use factory_runtime::{Handle, Node, Runtime, channel};

/// What lightningd is told to do doesn't matter here.
#[derive(Clone)]
struct Nobody;

impl Node for Nobody {
    fn execute(&self, _: Effect) {}

    fn transmit(&self, _: NodeId, _: Vec<u8>) {}

    fn disconnect(&self, _: NodeId) {}
}

/// Runs this engine, and hands it heights as if blocks came.
fn run(engine: Engine, store: &MemoryStore) -> Handle {
    let (handle, inbox) = channel();
    tokio::spawn(Runtime::new(engine, store.clone(), Nobody, inbox).run());
    handle
}

async fn at_height(handle: &Handle, height: Height) {
    handle.height(height);
    handle.input(Input::Fees(FeeNews::default()));
    handle.flush().await;
}

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
            let since = height(&world);
            assert_eq!(store.archived().await.unwrap(), [(instance, Remains::Records { since })]);
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

/// S28: after so many blocks the records are deleted, and not one before; that there was one of this id is
/// remembered (S8), also by the next start.
#[tokio::test]
async fn what_is_over_is_deleted_after_its_time() {
    let (world, instance) = closed(11);
    let keep = Config::default().keep_finished_blocks;
    for at in [LSP, 1, 2] {
        let mut store = stored(&world, at, instance).await;
        let since = height(&world);
        let handle = run(start(&world, at, &store).await, &store);
        at_height(&handle, since + keep - 1).await;
        assert_eq!(store.archived().await.unwrap(), [(instance, Remains::Records { since })]);
        assert_eq!(store.load(instance).await.unwrap(), world.members[at].store.records(instance));
        at_height(&handle, since + keep).await;
        assert_eq!(store.archived().await.unwrap(), [(instance, Remains::Nothing)]);
        assert_eq!(store.load(instance).await.unwrap(), Vec::<Vec<u8>>::new());
        let missing =
            handle.read(move |engine, _| (engine.missing(instance), engine.archived().count())).await;
        assert_eq!(missing, Ok((Refusal::Deleted(instance), 0)));
        let engine = start(&world, at, &store).await;
        assert!(engine.is_archived(instance) && engine.factory(instance).is_none());
        assert_eq!(engine.missing(instance), Refusal::Deleted(instance));
    }
}

/// S28: a store that fails is asked again at the next block.
#[tokio::test]
async fn what_cannot_be_deleted_is_tried_again() {
    let (world, instance) = closed(12);
    let mut store = stored(&world, 1, instance).await;
    let old = height(&world) + Config::default().keep_finished_blocks;
    let handle = run(start(&world, 1, &store).await, &store);
    store.fail_next(1);
    at_height(&handle, old).await;
    assert_eq!(store.load(instance).await.unwrap().len(), world.members[1].store.records(instance).len());
    at_height(&handle, old + 1).await;
    assert_eq!(store.archived().await.unwrap(), [(instance, Remains::Nothing)]);
}

#[tokio::test]
async fn with_zero_it_is_kept_for_ever() {
    let (world, instance) = closed(13);
    let mut store = stored(&world, 1, instance).await;
    let config = Config { keep_finished_blocks: 0, ..Config::default() };
    let engine = Engine::new(world.members[1].id, MasterSecret::new([7; 32]), config);
    let handle = run(boot::load(engine, store.clone()).await.unwrap().engine, &store);
    at_height(&handle, u32::MAX).await;
    assert_eq!(store.archived().await.unwrap(), [(instance, Remains::Records { since: height(&world) })]);
    assert_eq!(store.load(instance).await.unwrap(), world.members[1].store.records(instance));
}

/// S28: a node that is never restarted archives it 144 blocks later.
#[tokio::test]
async fn it_is_archived_while_the_node_runs() {
    let (world, instance) = closed(14);
    let mut store = stored(&world, 1, instance).await;
    // Without a tip nothing is archived at the start.
    store.put("tip", vec![]).await.unwrap();
    let handle = run(start(&world, 1, &store).await, &store);
    let now = height(&world);
    for (at, archived) in [(now, false), (now + 143, false), (now + 144, true)] {
        at_height(&handle, at).await;
        let known = handle.read(move |engine, _| engine.factory(instance).is_some()).await;
        assert_eq!(known, Ok(!archived), "{at}");
        assert_eq!(store.archived().await.unwrap().len(), usize::from(archived), "{at}");
    }
    assert_eq!(store.archived().await.unwrap(), [(instance, Remains::Records { since: now + 144 })]);
}

/// S36: as long as anybody has credit, or a payment or an ordinary channel that was paid for is on its way, the
/// factory is neither archived nor deleted.
#[test]
fn what_is_owed_keeps_the_records() {
    let payment_hash = PaymentHash([3; 32]);
    let due = |label: Option<String>| {
        let due = SaleDue { payment_hash, buyer: 0, amount_msat: 700, label, back: false };
        Event::from(due)
    };
    let paid = |height| Event::from(SaleDueEnded { payment_hash, paid: true, height });
    let jit = SaleJit { buyer: 0, amount: Amount::from_sat(50_000), price_msat: 700, height: Some(500) };
    let failed = SaleJitFailed { buyer: 0, height: 500 };
    let spent = SaleJitOpened {
        buyer: 0,
        amount: Amount::from_sat(50_000),
        price_msat: 700,
        channel_id: ChannelId([4; 32]),
        outpoint: None,
    };
    for at in [LSP, 1] {
        let (mut world, instance) = closed(15);
        let label = (at == LSP).then(|| "label".to_owned());
        let now = height(&world);
        let mut after = |event: Event| {
            let engine = world.members[at].engine.as_mut().unwrap();
            engine.load(instance, [vec![event]]).unwrap();
            engine.archivable(now).count()
        };
        assert_eq!(after(due(label)), 0, "a payment may arrive");
        assert_eq!(after(paid(now)), 0, "credit");
        if at == LSP {
            assert_eq!(after(jit.clone().into()), 0, "a channel is being opened for it");
            assert_eq!(after(failed.clone().into()), 0, "credit again");
        }
        assert_eq!(after(spent.clone().into()), 1, "nobody owes anything");
    }
}

/// S12, S28: a factory that was signed for, and of which nothing can come any more, leaves its records behind for
/// as long as one that is over: not for ever.
#[tokio::test]
async fn what_was_signed_for_and_forgotten_is_archived() {
    let (mut world, instance) = closed(16);
    for member in 0..world.members.len() {
        assert!(
            !world.members[member]
                .engine
                .as_ref()
                .unwrap()
                .factory(instance)
                .unwrap()
                .signed_for()
                .is_empty()
        );
    }
    let forgotten = encode_record(&[Forgotten { reason: "its inputs are spent".into() }.into()]);
    world.members[1].store.records_mut(instance).push(forgotten);
    let mut store = stored(&world, 1, instance).await;
    let engine = start(&world, 1, &store).await;
    assert!(engine.is_archived(instance));
    assert_eq!(store.archived().await.unwrap(), [(instance, Remains::Records { since: height(&world) })]);
    assert_eq!(store.load_all().await.unwrap(), []);
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
    world.members[1].engine.as_mut().unwrap().archive([(instance, Remains::Nothing)]);
    let before = world.members[1].store.appends;
    let payload = Message::from(invite).encode();
    let peer = world.members[LSP].id;
    world.feed(1, Input::Message { peer, payload }).unwrap();
    assert!(world.members[1].engine.as_ref().unwrap().factory(instance).is_none());
    assert_eq!(world.members[1].store.appends, before);
}
