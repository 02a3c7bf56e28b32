//! A node that begins anew: which copy counts, and what a second try makes up for (S9, S39).

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use bitcoin::hex::FromHex;
use factory_engine::backup::{CopyKey, SealedCopy};
use factory_engine::record::decode_record;
use factory_engine::record::event::StockPayout;
use factory_engine::tx::musig::MasterSecret;
use factory_engine::types::{ChannelId, NodeId};
use factory_engine::wire::message::{Copies, CopyBack, Message};
use factory_engine::{Config, Input};
use factory_runtime::store::Store;
use factory_runtime::store::fake::{FakeKeys, Fault};
use factory_runtime::store::keyed::Keyed;
use factory_runtime::store::memory::MemoryStore;
use factory_runtime::{Runtime, stored_tip};

use crate::cln::backup::file;
use crate::cln::backup::payouts::tests::{address, script};
use crate::cln::backup::tests::{A, B, Quiet, records};
use crate::cln::client::CallError;
use crate::cln::methods::lost;
use crate::cln::scratch::Scratch;

use super::*;

/// A lightningd that begins anew: as much of it as a restore asks.
#[derive(Clone, Default)]
struct Fresh(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    /// Its datastore.
    values: BTreeMap<Vec<String>, String>,
    /// How many addresses it has given out.
    addresses: u32,
    /// Channels that it has taken.
    channels: Vec<ChannelId>,
    /// Whether it takes none now.
    broken: bool,
}

impl Fresh {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap()
    }
}

fn key_of(params: &Value) -> Vec<String> {
    serde_json::from_value(params["key"].clone()).unwrap()
}

impl Call for Fresh {
    async fn call(&self, method: &str, params: Value) -> Result<Value, CallError> {
        let mut node = self.lock();
        Ok(match method {
            "datastore" => {
                let hex = params["hex"].as_str().unwrap().to_owned();
                node.values.insert(key_of(&params), hex);
                json!({})
            }
            "listdatastore" => {
                let key = key_of(&params);
                let found: Vec<Value> =
                    node.values.get(&key).map(|hex| json!({"key": key, "hex": hex})).into_iter().collect();
                json!({"datastore": found})
            }
            "listaddresses" => json!({"addresses": (1..=node.addresses).map(address).collect::<Vec<_>>()}),
            "newaddr" => {
                node.addresses += 1;
                address(node.addresses)
            }
            "recoverchannel" if !node.broken => {
                let mut stubs = vec![];
                for scb in params["scb"].as_array().unwrap() {
                    let scb = Vec::<u8>::from_hex(scb.as_str().unwrap()).unwrap();
                    let id = statics::channel_of(&scb).unwrap();
                    if !node.channels.contains(&id) {
                        node.channels.push(id);
                        stubs.push(id.to_string());
                    }
                }
                json!({"stubs": stubs})
            }
            "listpeerchannels" => {
                let channel = |id: &ChannelId| json!({"channel_id": id.to_string()});
                json!({"channels": node.channels.iter().map(channel).collect::<Vec<_>>()})
            }
            "listclosedchannels" => json!({"closedchannels": []}),
            _ => return Err(CallError::new(method, "broken on request")),
        })
    }
}

/// The only one that is under way, and nobody waits for it.
async fn restore<C: Call>(
    rpc: &C,
    runtime: &Handle,
    backup: Option<&Backup>,
    dry_run: bool,
) -> Result<Value, RpcError> {
    super::restore(rpc, runtime, backup, dry_run, &watch::Sender::new(None), |_| ()).await
}

fn master() -> MasterSecret {
    MasterSecret::new([7; 32])
}

fn run<S: Store>(store: S, histories: Vec<History>) -> Handle {
    let config = Config { peer_backup: true, ..Config::default() };
    let mut engine = Engine::new(NodeId([3; 33]), master(), config);
    for (instance, records) in histories {
        let records: Vec<_> = records.iter().map(|record| decode_record(record).unwrap()).collect();
        engine.load(instance, records).unwrap();
    }
    let (runtime, inbox) = factory_runtime::channel();
    tokio::spawn(Runtime::new(engine, store, Quiet, inbox).run());
    runtime
}

/// What is stored is loaded, as at a start.
async fn start(store: &MemoryStore) -> Handle {
    run(store.clone(), store.clone().load_all().await.unwrap())
}

/// A backup file with these copies.
fn file_with(path: &Path, copies: &[Copy]) -> Backup {
    let key = CopyKey::derive(&master());
    let sealed: Vec<SealedCopy> = copies.iter().map(|copy| key.seal(copy).unwrap()).collect();
    file::write(path, sealed.iter(), None).unwrap();
    Backup::new(path.to_owned(), Arc::new(key))
}

/// A peer gives this copy back, to a node that knows nothing of its factory.
fn give_back(runtime: &Handle, peer: u8, copy: &Copy) {
    let sealed = CopyKey::derive(&master()).seal(copy).unwrap();
    let list = vec![(sealed.tag, (sealed.counter, sealed.nonce().unwrap()))];
    let SealedCopy { tag, counter, sealed } = sealed;
    let peer = NodeId([peer; 33]);
    runtime.input(Input::PeerUp { peer, channels: true });
    for message in [Message::from(Copies { list }), Message::from(CopyBack { tag, counter, sealed })] {
        runtime.input(Input::Message { peer, payload: message.encode() });
    }
}

/// S39: of several copies the one with the most records counts, whoever has it and whoever comes first; of as
/// many what a peer has given back first.
#[tokio::test]
async fn the_copy_with_the_most_records_counts() {
    let copy = |others: &[u32]| Copy { instance: A, records: records(A, others) };
    let (older, newer, other) = (copy(&[900]), copy(&[900, 901]), copy(&[902]));
    let cases = [
        (&older, &newer, &newer),
        (&newer, &older, &newer),
        (&older, &other, &older),
        (&other, &older, &other),
    ];
    for (given_back, second, counts) in cases {
        let scratch = Scratch::new();
        let backup = file_with(&scratch.path().join("backup"), std::slice::from_ref(second));
        let runtime = start(&MemoryStore::new()).await;
        give_back(&runtime, 2, given_back);
        let found = gather(&runtime, Some(&backup)).await.unwrap();
        assert_eq!(found.copies, std::slice::from_ref(counts), "a peer and the file");
        assert_eq!(found.peers, [NodeId([2; 33]).to_string()]);
        // Whoever is asked why its factory is exit-only reads who had it.
        let keeper = if counts == given_back { Keeper::Peer(NodeId([2; 33])) } else { Keeper::File };
        assert_eq!(found.keepers, BTreeMap::from([(A, keeper)]));
        let runtime = start(&MemoryStore::new()).await;
        for (peer, copy) in [(2, given_back), (4, second)] {
            give_back(&runtime, peer, copy);
        }
        let found = gather(&runtime, None).await.unwrap();
        assert_eq!(found.copies, std::slice::from_ref(counts), "two peers");
        let runtime = start(&MemoryStore::new()).await;
        let found = gather(&runtime, Some(&backup)).await.unwrap();
        assert_eq!((found.copies, found.peers), (vec![second.clone()], vec![]), "the file alone");
        assert_eq!(found.keepers, BTreeMap::from([(A, Keeper::File)]));
    }
}

/// A static channel backup of the channel of this number.
fn scb(number: u8) -> Vec<u8> {
    [vec![0; 8], vec![number; 32], vec![9; 5]].concat()
}

/// What an answer counts: factories that came back, lost channels, and those of them that lightningd has.
fn counts(answer: &Value) -> [u64; 3] {
    ["restored", "channels", "stubs"].map(|name| answer[name].as_u64().unwrap())
}

/// S39: what lightningd doesn't take is asked for again by a second run, before a restart and after it; also
/// where only peers had it, which give it back but once. What it has taken it takes once.
#[tokio::test]
async fn a_second_run_asks_again() {
    let scratch = Scratch::new();
    let channels = Copy { instance: statics::name(A), records: vec![scb(1), scb(2)] };
    let copies = [Copy { instance: A, records: records(A, &[]) }, channels];
    let backup = file_with(&scratch.path().join("backup"), &copies);
    for (restarted, has_file) in [(false, true), (true, true), (true, false)] {
        let (node, store) = (Fresh::default(), MemoryStore::new());
        let mut runtime = start(&store).await;
        node.lock().broken = true;
        let first = restore(&node, &runtime, Some(&backup), false).await.unwrap();
        assert_eq!(counts(&first), [1, 2, 0]);
        assert!(first["next"].as_str().unwrap().contains("has taken 0 of 2 channels"), "{first}");
        if restarted {
            runtime = start(&store).await;
        }
        let file = Some(&backup).filter(|_| has_file);
        let preview = restore(&node, &runtime, file, true).await.unwrap();
        assert_eq!(counts(&preview), [0, 2, 0]);
        node.lock().broken = false;
        let second = restore(&node, &runtime, file, false).await.unwrap();
        assert_eq!(counts(&second), [0, 2, 2]);
        assert!(!second["next"].as_str().unwrap().contains("has taken"), "{second}");
        assert_eq!(node.lock().channels, [ChannelId([1; 32]), ChannelId([2; 32])]);
        let copies = second["factories"].as_array().unwrap();
        assert_eq!(copies.len(), usize::from(has_file));
        assert!(copies.iter().all(|copy| copy["outcome"] == "known"), "{second}");
        // Nothing is left of it but what the file has.
        let third = restore(&node, &runtime, file, false).await.unwrap();
        assert_eq!(counts(&third), if has_file { [0, 2, 2] } else { [0, 0, 0] });
        assert_eq!(node.lock().channels.len(), 2);
        let stored = store.clone().load(A).await.unwrap();
        assert_eq!(stored.len(), records(A, &[]).len() + 1, "it came back once");
    }
}

/// S39: where nothing came back and nobody has a copy that is an error, whoever was asked.
#[tokio::test]
async fn nothing_is_no_restore() {
    let scratch = Scratch::new();
    let node = Fresh::default();
    let runtime = start(&MemoryStore::new()).await;
    let empty = file_with(&scratch.path().join("empty"), &[]);
    let missing = Backup::new(scratch.path().join("nowhere"), Arc::new(CopyKey::derive(&master())));
    for (backup, why) in [
        (None, "no connected peer has given anything back"),
        (Some(&empty), "there is no copy in it"),
        (Some(&missing), "no such file"),
    ] {
        let refused = restore(&node, &runtime, backup, false).await.unwrap_err();
        assert_eq!(refused.code, NOT_RESTORED);
        assert!(refused.message.contains(why), "{refused}");
    }
}

/// S39: the wallet sees what is paid to a script that was given out long ago; a second run adds nothing.
#[tokio::test]
async fn the_wallet_learns_payouts() {
    let scratch = Scratch::new();
    let payout = encode_record(&[Event::from(StockPayout { script: script(61) })]);
    let records: Vec<_> = records(A, &[]).into_iter().chain([payout]).collect();
    let backup = file_with(&scratch.path().join("backup"), &[Copy { instance: A, records }]);
    let (node, store) = (Fresh::default(), MemoryStore::new());
    let mut runtime = start(&store).await;
    restore(&node, &runtime, Some(&backup), true).await.unwrap();
    assert_eq!(node.lock().addresses, 0, "a preview changes nothing");
    for (restarted, restored) in [(false, 1), (false, 0), (true, 0)] {
        if restarted {
            runtime = start(&store).await;
        }
        let done = restore(&node, &runtime, Some(&backup), false).await.unwrap();
        assert_eq!(counts(&done), [restored, 0, 0]);
        assert_eq!(done.get("unknown_payouts"), None);
        assert_eq!(node.lock().addresses, 61);
    }
}

/// S39: wherever the store stops taking anything, what has come back by then is read again from the chain; it
/// is all or nothing.
#[tokio::test]
async fn what_comes_back_is_read_again() {
    let back = [A, B].map(|instance| (instance, records(instance, &[])));
    for takes_effect in [false, true] {
        for call in 0.. {
            let keys = FakeKeys::default();
            let mut store = Keyed::new(keys.clone());
            let before = store.load_all().await.unwrap();
            store.put("tip", vec![1; 36]).await.unwrap();
            assert!(stored_tip(&mut store).await.unwrap().is_some());
            let runtime = run(store, before);
            keys.set_fault(Some(Fault { call, takes_effect, for_good: true }));
            let done = bring_back(&runtime, back.to_vec()).await;
            // The next start.
            let mut after = Keyed::new(keys.copied());
            let found = after.load_all().await.unwrap();
            assert!(found.is_empty() || found == back, "call {call}: {} factories", found.len());
            let tip = stored_tip(&mut after).await.unwrap();
            assert!(found.is_empty() || tip.is_none(), "call {call}: nobody reads their blocks");
            if !keys.is_dead() {
                assert_eq!((done, found.len()), (Ok(()), 2));
                break;
            }
        }
    }
}

/// S39: one restore at a time. Another one changes nothing, and says where to look; a preview is no restore.
#[tokio::test]
async fn there_is_one_restore_at_a_time() {
    let scratch = Scratch::new();
    let channels = Copy { instance: statics::name(A), records: vec![scb(1)] };
    let copies = [Copy { instance: A, records: records(A, &[]) }, channels];
    let backup = file_with(&scratch.path().join("backup"), &copies);
    let (node, store) = (Fresh::default(), MemoryStore::new());
    let runtime = start(&store).await;
    let restoring = watch::Sender::new(None);
    let first = Running::begin(&restoring).unwrap();
    first.show(Search { addresses: 300, left: 2 });
    let run = |dry_run| super::restore(&node, &runtime, Some(&backup), dry_run, &restoring, |_| ());
    let refused = run(false).await.unwrap_err();
    assert_eq!(refused.code, NOT_RESTORED);
    assert!(refused.message.contains("another factory-restore is under way"), "{refused}");
    assert_eq!(store.clone().load(A).await.unwrap(), Vec::<Vec<u8>>::new());
    assert!(node.lock().values.is_empty() && node.lock().channels.is_empty());
    assert_eq!(*restoring.borrow(), Some(Search { addresses: 300, left: 2 }), "of the first");
    assert_eq!(counts(&run(true).await.unwrap()), [0, 1, 0]);
    drop(first);
    assert_eq!(counts(&run(false).await.unwrap()), [1, 1, 1]);
    assert_eq!(*restoring.borrow(), None);
}

/// S39: what is larger than any backup restores nothing, and is left as it is.
#[tokio::test]
async fn a_file_that_is_too_large_is_refused() {
    let scratch = Scratch::new();
    let path = scratch.path().join("backup");
    let backup = file_with(&path, &[Copy { instance: A, records: records(A, &[]) }]);
    let bytes = (1 << 30) + 1;
    // It takes no room: nothing is in it.
    std::fs::File::options().write(true).open(&path).unwrap().set_len(bytes).unwrap();
    let (node, store) = (Fresh::default(), MemoryStore::new());
    let runtime = start(&store).await;
    for dry_run in [true, false] {
        let refused = restore(&node, &runtime, Some(&backup), dry_run).await.unwrap_err();
        assert_eq!(refused.code, NOT_RESTORED);
        assert!(refused.message.contains("more than any backup has"), "{refused}");
        assert!(refused.message.contains("nothing was restored"), "{refused}");
    }
    assert_eq!(store.clone().load(A).await.unwrap(), Vec::<Vec<u8>>::new());
    assert_eq!(std::fs::metadata(&path).unwrap().len(), bytes);
}

/// S9, S39: a file that has more than was restored is taken by another call, once; nothing that is here goes.
#[tokio::test]
async fn a_newer_file_than_was_restored_is_taken() {
    let scratch = Scratch::new();
    let channels = |count: u8| Copy { instance: statics::name(A), records: (1..=count).map(scb).collect() };
    let older = [Copy { instance: A, records: records(A, &[]) }, channels(1)];
    let newer = [Copy { instance: A, records: records(A, &[900, 901]) }, channels(2)];
    let older = file_with(&scratch.path().join("older"), &older);
    let newer = file_with(&scratch.path().join("newer"), &newer);
    let (node, store) = (Fresh::default(), MemoryStore::new());
    let first = restore(&node, &start(&store).await, Some(&older), false).await.unwrap();
    assert_eq!(counts(&first), [1, 1, 1]);
    let runtime = start(&store).await;
    let before = store.clone().load(A).await.unwrap();
    let preview = restore(&node, &runtime, Some(&newer), true).await.unwrap();
    assert_eq!(preview["factories"][0]["outcome"], "newer");
    assert_eq!(store.clone().load(A).await.unwrap(), before, "a preview changes nothing");
    let done = restore(&node, &runtime, Some(&newer), false).await.unwrap();
    assert_eq!(counts(&done), [0, 2, 2], "lightningd asks for the second channel, too");
    assert!(done["next"].as_str().unwrap().contains("restart lightningd"), "{done}");
    let after = store.clone().load(A).await.unwrap();
    assert!(after.starts_with(&before));
    assert_eq!(after[before.len()..before.len() + 2], records(A, &[900, 901])[2..]);
    let look = |engine: &Engine, _| {
        let factory = engine.factory(A).unwrap();
        let brought_back = engine.brought_back().collect::<Vec<_>>();
        (factory.has_lost_channels(), factory.restored().map(str::to_owned), brought_back)
    };
    let (lost, why, brought_back) = runtime.read(look).await.unwrap();
    assert!(lost && why.unwrap().contains("what was missing is back"));
    assert_eq!(brought_back, [(A, Keeper::File)]);
    // Once is enough, and what is older than all of it is nothing new.
    for file in [&newer, &older] {
        let again = restore(&node, &start(&store).await, Some(file), false).await.unwrap();
        assert_eq!(again["factories"][0]["outcome"], "known");
        assert_eq!(store.clone().load(A).await.unwrap(), after);
    }
}

/// S9: what doesn't fit behind the records that are here is left out, and that is said.
#[tokio::test]
async fn what_does_not_fit_is_left_out() {
    let scratch = Scratch::new();
    // As if it were invited to the same attempt again.
    let again = records(A, &[]).into_iter().take(1);
    let newer: Vec<_> = records(A, &[900]).into_iter().chain(again).collect();
    let newer = file_with(&scratch.path().join("newer"), &[Copy { instance: A, records: newer }]);
    let older = file_with(&scratch.path().join("older"), &[Copy { instance: A, records: records(A, &[]) }]);
    let (node, store) = (Fresh::default(), MemoryStore::new());
    restore(&node, &start(&store).await, Some(&older), false).await.unwrap();
    let before = store.clone().load(A).await.unwrap();
    let done = restore(&node, &start(&store).await, Some(&newer), false).await.unwrap();
    assert!(done["next"].as_str().unwrap().contains("can't be brought back"), "{done}");
    assert_eq!(store.clone().load(A).await.unwrap(), before);
}

/// S39: a node that was restored from less than a peer keeps hears of more channels from it: lightningd is asked for those that it
/// never had.
#[tokio::test]
async fn a_peer_knows_of_more_channels() {
    let scratch = Scratch::new();
    let channels = |count: u8| Copy { instance: statics::name(A), records: (1..=count).map(scb).collect() };
    let copies = [Copy { instance: A, records: records(A, &[]) }, channels(1)];
    let backup = file_with(&scratch.path().join("backup"), &copies);
    let (node, store) = (Fresh::default(), MemoryStore::new());
    let first = restore(&node, &start(&store).await, Some(&backup), false).await.unwrap();
    assert_eq!(counts(&first), [1, 1, 1]);
    let runtime = start(&store).await;
    assert_eq!(lost::warnings(&node, &runtime).await.unwrap(), []);
    give_back(&runtime, 2, &channels(2));
    // It says so at each start, and as long as nobody has done what there is to do.
    let warnings = lost::warnings(&node, &runtime).await.unwrap();
    let told: Vec<_> = warnings.iter().map(|one| (one.code, one.instance)).collect();
    assert_eq!(told, [("newer_copy", Some(A))]);
    assert!(warnings[0].message.contains("knows of 1 channel of it"), "{warnings:?}");
    assert_eq!(counts(&restore(&node, &runtime, None, true).await.unwrap()), [0, 1, 0]);
    let done = restore(&node, &runtime, None, false).await.unwrap();
    assert_eq!(counts(&done), [0, 1, 1]);
    assert_eq!(done["factories"], json!([]), "they are no factory");
    assert_eq!(node.lock().channels, [ChannelId([1; 32]), ChannelId([2; 32])]);
    assert_eq!(lost::warnings(&node, &runtime).await.unwrap(), []);
    assert_eq!(counts(&restore(&node, &runtime, None, false).await.unwrap()), [0, 0, 0]);
}
