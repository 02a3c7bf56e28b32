//! The runtime around a real engine, with a store and a node that are told what to do.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use factory_engine::backup::Copy;
use factory_engine::io::Keeper;
use factory_engine::record::event::{Accepted, Event, Invited, decode_record, encode_record};
use factory_engine::terms::{Kind, Leaf, Shape, Terms};
use factory_engine::tx::musig::MasterSecret;
use factory_engine::types::{Amount, InstanceId, NodeId};
use factory_engine::wire::envelope::Envelope;
use factory_engine::wire::message::PROTOCOL_ID;
use factory_engine::{Config, Effect, Engine, Input, Refusal};

use crate::store::Store;
use crate::store::memory::MemoryStore;

use super::{Handle, HtlcView, Node, Runtime, channel, run_unavailable};

const ME: NodeId = NodeId([2; 33]);
const PEER: NodeId = NodeId([3; 33]);

type Shared<T> = Arc<Mutex<Vec<T>>>;

/// Notes what it was asked for.
#[derive(Clone, Default)]
struct FakeNode {
    transmitted: Shared<(NodeId, Vec<u8>)>,
    disconnected: Shared<NodeId>,
}

impl Node for FakeNode {
    fn execute(&self, _: Effect) {}

    fn transmit(&self, peer: NodeId, raw: Vec<u8>) {
        self.transmitted.lock().unwrap().push((peer, raw));
    }

    fn disconnect(&self, peer: NodeId) {
        self.disconnected.lock().unwrap().push(peer);
    }
}

impl FakeNode {
    fn sent(&self) -> usize {
        self.transmitted.lock().unwrap().len()
    }
}

/// Of a node that knows the chain.
fn start() -> (Handle, FakeNode, MemoryStore) {
    let started = start_without_chain();
    started.0.caught_up();
    started
}

fn start_without_chain() -> (Handle, FakeNode, MemoryStore) {
    let (handle, inbox) = channel();
    let (node, store) = (FakeNode::default(), MemoryStore::new());
    let engine = Engine::new(ME, MasterSecret::new([7; 32]), Config::default());
    tokio::spawn(Runtime::new(engine, store.clone(), node.clone(), inbox).run());
    (handle, node, store)
}

fn our_protocols() -> Vec<u8> {
    Envelope::SupportedFactoryProtocols(vec![PROTOCOL_ID]).encode().unwrap()
}

async fn connect(handle: &Handle) {
    let number = handle.connected(PEER);
    handle.features(PEER, number, true, true);
    handle.raw(PEER, our_protocols());
    handle.flush().await;
}

async fn ready_peers(handle: &Handle) -> Vec<NodeId> {
    handle.read(|engine, _| engine.peers().collect()).await.unwrap()
}

fn create() -> Input {
    Input::Command(factory_engine::Command::Create(factory_engine::Create {
        clients: vec![(PEER, Amount::from_sat(500_000))],
        stock: Amount::ZERO,
        shape: Shape {
            levels: vec![],
            leaf: Leaf { kind: Kind::Static, sub_factories: 1, clients_per_sub: 2 },
        },
        lifetime_blocks: 8_640,
        dying_blocks: 1_008,
        tree_feerate: 500,
        push_msat: None,
    }))
}

#[tokio::test]
async fn nothing_goes_to_a_peer_without_the_feature_bit() {
    let (handle, node, _) = start();
    let number = handle.connected(PEER);
    handle.flush().await;
    assert_eq!(node.sent(), 0);
    handle.features(PEER, number, false, true);
    handle.raw(PEER, our_protocols());
    handle.flush().await;
    assert_eq!(node.sent(), 0);
    assert_eq!(ready_peers(&handle).await, []);
}

#[tokio::test]
async fn a_peer_is_up_when_both_have_spoken_in_whatever_order() {
    let (handle, node, _) = start();
    // Its first message is ahead of the notification that it connected.
    handle.raw(PEER, our_protocols());
    let number = handle.connected(PEER);
    handle.flush().await;
    assert_eq!((node.sent(), ready_peers(&handle).await), (0, vec![]));
    handle.features(PEER, number, true, true);
    handle.flush().await;
    assert_eq!((node.sent(), ready_peers(&handle).await), (1, vec![PEER]));
    handle.disconnected(PEER);
    assert_eq!(ready_peers(&handle).await, []);
}

#[tokio::test]
async fn peers_hear_nothing_before_every_block_is_handled() {
    let (handle, node, _) = start_without_chain();
    connect(&handle).await;
    assert_eq!((node.sent(), ready_peers(&handle).await), (0, vec![]));
    handle.caught_up();
    handle.flush().await;
    assert_eq!((node.sent(), ready_peers(&handle).await), (1, vec![PEER]));
    // Only once.
    handle.caught_up();
    handle.disconnected(PEER);
    handle.flush().await;
    assert_eq!((node.sent(), ready_peers(&handle).await), (1, vec![]));
    connect(&handle).await;
    assert_eq!((node.sent(), ready_peers(&handle).await), (2, vec![PEER]));
}

#[tokio::test]
async fn who_left_before_is_not_up_afterwards() {
    let (handle, node, _) = start_without_chain();
    connect(&handle).await;
    handle.disconnected(PEER);
    handle.caught_up();
    handle.flush().await;
    assert_eq!((node.sent(), ready_peers(&handle).await), (0, vec![]));
}

#[tokio::test]
async fn features_of_an_earlier_connection_dont_count() {
    let (handle, node, _) = start();
    let number = handle.connected(PEER);
    handle.disconnected(PEER);
    handle.connected(PEER);
    handle.features(PEER, number, true, true);
    handle.flush().await;
    assert_eq!(node.sent(), 0);
}

#[tokio::test]
async fn a_peer_seen_at_start_up_and_then_notified_is_one_connection() {
    let (handle, node, _) = start();
    let listed = handle.listed(PEER);
    handle.features(PEER, listed, true, true);
    handle.raw(PEER, our_protocols());
    let notified = handle.connected(PEER);
    handle.features(PEER, notified, true, true);
    handle.flush().await;
    assert_eq!((node.sent(), ready_peers(&handle).await), (1, vec![PEER]));
}

// S28
#[tokio::test]
async fn garbage_has_no_effect_and_a_flood_ends_the_connection_once() {
    let (handle, node, _) = start();
    connect(&handle).await;
    handle.raw(PEER, vec![0x80, 0x20, 0x00]);
    handle.flush().await;
    assert_eq!(*node.disconnected.lock().unwrap(), []);
    for _ in 0..5_000 {
        handle.raw(PEER, vec![0x80, 0x20, 0x00]);
    }
    handle.flush().await;
    assert_eq!(*node.disconnected.lock().unwrap(), [PEER]);
}

// S10, S14
#[tokio::test]
async fn what_cannot_be_stored_never_happened() {
    let (handle, node, store) = start();
    connect(&handle).await;
    let before = node.sent();
    // More often than the runtime tries.
    store.fail_next(100);
    let refusal = handle.ask(create()).await.unwrap_err();
    assert!(matches!(refusal, Refusal::NotStored(_)), "{refusal}");
    assert_eq!(node.sent(), before);
    assert_eq!(handle.read(|engine, _| engine.factories().count()).await, Ok(0));

    store.fail_next(1);
    handle.ask(create()).await.unwrap();
    handle.flush().await;
    assert_eq!(node.sent(), before + 1);
    assert_eq!(handle.read(|engine, _| engine.factories().count()).await, Ok(1));
}

/// S29: a store that fails for a while loses nothing that is said once.
#[tokio::test]
async fn what_is_said_once_is_brought_until_it_is_stored() {
    let (handle, _, store) = start();
    connect(&handle).await;
    // More often than a commit is tried.
    store.fail_next(4);
    handle.insist(create()).await;
    let factories = handle.read(|engine, _| engine.factories().count()).await.unwrap();
    assert_eq!((factories, store.clone().load_all().await.unwrap().len()), (1, 1));
}

/// An invitation by [`PEER`].
fn invited(instance: InstanceId) -> Event {
    let leaf = Leaf { kind: Kind::Static, sub_factories: 1, clients_per_sub: 2 };
    let terms = Terms {
        instance,
        lsp: PEER,
        shape: Shape { levels: vec![], leaf },
        capacities: vec![Amount::from_sat(100_000); 2],
        stock: Amount::ZERO,
        push_msat: 1_000,
        state_step: 144,
        state_count: 4,
        stock_csv: 720,
        tree_feerate: 1_000,
        timeout_height: 5_000,
        dying_blocks: 2_016,
        confirm_blocks: 6,
        margin_blocks: 12,
        funding_confirmations: 3,
    };
    let (attempt, client, price_msat, height, protocol) = (1, 1, 0, 800, PROTOCOL_ID);
    Invited { attempt, terms, client, price_msat, height, protocol }.into()
}

/// S9: what a keeper's copy has more, and couldn't be stored, is tried again by itself, and before anything else is
/// handled; as long as it isn't stored the engine knows that it waits for it.
#[tokio::test]
async fn what_a_keeper_has_more_is_stored_in_the_end() {
    let instance = InstanceId([1; 32]);
    let accepted: Event = Accepted { from: None }.into();
    let records = vec![encode_record(&[invited(instance)]), encode_record(&[accepted])];
    let (handle, inbox) = channel();
    let mut store = MemoryStore::new();
    store.append(&[(instance, records[0].clone())]).await.unwrap();
    let mut engine = Engine::new(ME, MasterSecret::new([7; 32]), Config::default());
    engine.load(instance, [decode_record(&records[0]).unwrap()]).unwrap();
    tokio::spawn(Runtime::new(engine, store.clone(), FakeNode::default(), inbox).run());
    // Once when it comes, and once before it is looked at.
    store.fail_next(2);
    let copy = Copy { instance, records: records.clone() };
    handle.input(Input::KeeperHas { keeper: Keeper::File, copy });
    let look = move |engine: &Engine, _| {
        let restored = engine.factory(instance).unwrap().restored().is_some();
        (restored, engine.is_compared(Keeper::File, instance))
    };
    assert_eq!(handle.read(look).await, Ok((false, true)));
    // Nobody asks for anything.
    for _ in 0..100 {
        if store.load(instance).await.unwrap().len() > 1 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let stored = store.load(instance).await.unwrap();
    assert!(stored.starts_with(&records), "{stored:?}");
    assert_eq!(stored.len(), 3, "and that it was restored");
    assert_eq!(handle.read(look).await, Ok((true, false)));
}

#[tokio::test]
async fn an_unavailable_plugin_refuses_and_says_why() {
    let (handle, mut inbox) = channel();
    tokio::spawn(async move { run_unavailable(&mut inbox, "record 3 is damaged", None::<&FakeNode>).await });
    let refusal = handle.ask(create()).await.unwrap_err();
    assert_eq!(refusal, Refusal::ReadOnly("record 3 is damaged".to_owned()));
    assert!(handle.read(|_, _| ()).await.is_err());
    handle.flush().await;
    // S33
    assert_eq!(handle.view().doubt(None).as_deref(), Some("record 3 is damaged"));
}

/// S33: a peer says once for each connection which protocols it speaks. Whoever said it while nothing could be read
/// is up afterwards, and whoever has left meanwhile is not.
#[tokio::test]
async fn who_connects_while_nothing_can_be_read_is_up_once_it_can() {
    let (handle, mut inbox) = channel();
    let (node, store) = (FakeNode::default(), MemoryStore::new());
    let gone = NodeId([4; 33]);
    let meanwhile = async {
        connect(&handle).await;
        let number = handle.connected(gone);
        handle.features(gone, number, true, true);
        handle.raw(gone, our_protocols());
        handle.disconnected(gone);
        handle.flush().await;
    };
    tokio::select! {
        () = run_unavailable(&mut inbox, "the database is locked", Some(&node)) => panic!("it has ended"),
        () = meanwhile => {}
    }
    assert_eq!(node.sent(), 0);
    let engine = Engine::new(ME, MasterSecret::new([7; 32]), Config::default());
    tokio::spawn(Runtime::new(engine, store, node.clone(), inbox).run());
    handle.flush().await;
    assert_eq!((node.sent(), ready_peers(&handle).await), (0, vec![]));
    handle.caught_up();
    handle.flush().await;
    assert_eq!((node.sent(), ready_peers(&handle).await), (1, vec![PEER]));
}

// S33
#[tokio::test]
async fn every_channel_may_be_a_factorys_until_there_is_a_view_and_after_nobody_renews_it() {
    let (handle, inbox) = channel();
    assert!(handle.view().doubt(Some(PEER)).is_some());
    let engine = Engine::new(ME, MasterSecret::new([7; 32]), Config::default());
    tokio::spawn(Runtime::new(engine, MemoryStore::new(), FakeNode::default(), inbox).run());
    handle.caught_up();
    handle.flush().await;
    assert!(handle.view().is_certain());
    assert_eq!(handle.view().doubt(None), None);
    handle.view().give_up("its task has ended");
    handle.caught_up();
    connect(&handle).await;
    handle.ask(create()).await.unwrap();
    assert_eq!(handle.view().doubt(Some(PEER)).as_deref(), Some("its task has ended"));
}

// S33
#[test]
fn a_view_is_behind_after_six_blocks_or_without_any() {
    let at = |height| HtlcView { height, ..HtlcView::default() };
    assert!(at(None).behind(0).is_some());
    assert_eq!(at(Some(100)).behind(106), None);
    assert!(at(Some(100)).behind(107).unwrap().contains("block 100"));
    assert_eq!(at(Some(100)).behind(90), None);
}

#[tokio::test]
async fn whoever_asks_at_the_end_is_told_that_it_is_the_end() {
    let (handle, inbox) = channel();
    drop(inbox);
    assert_eq!(handle.ask(create()).await, Err(Refusal::Stopping));
    assert_eq!(handle.read(|_, _| ()).await, Err(Refusal::Stopping));
}
