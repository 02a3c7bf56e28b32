//! The backup file of a node whose disk is older than it, away, or another one (S9, S39).

use std::path::PathBuf;

use factory_engine::record::event::{Aborted, Accepted, Event, Invited, OpenAccepted, Recovered};
use factory_engine::record::{decode_record, encode_record};
use factory_engine::terms::{Kind, Leaf, Shape, Terms};
use factory_engine::tx::musig::MasterSecret;
use factory_engine::types::{Amount, NodeId};
use factory_engine::wire::message::PROTOCOL_ID;
use factory_engine::{Config, Effect, Engine};
use factory_runtime::store::memory::MemoryStore;
use factory_runtime::{Node, Runtime};

use crate::cln::scratch::Scratch;
use crate::cln::toy::Toy;

use super::*;

pub const A: InstanceId = InstanceId([1; 32]);
pub const B: InstanceId = InstanceId([2; 32]);

/// A node that does nothing.
pub struct Quiet;

impl Node for Quiet {
    fn execute(&self, _: Effect) {}
    fn transmit(&self, _: NodeId, _: Vec<u8>) {}
    fn disconnect(&self, _: NodeId) {}
}

fn invited(instance: InstanceId) -> Event {
    let leaf = Leaf { kind: Kind::Static, sub_factories: 1, clients_per_sub: 2 };
    let terms = Terms {
        instance,
        lsp: NodeId([2; 33]),
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

/// Records of a factory in which money may be: an invitation, an open that was accepted, and others as the numbers say.
pub fn records(instance: InstanceId, others: &[u32]) -> Vec<Vec<u8>> {
    let opened: [Event; 2] = [Accepted { from: None }.into(), OpenAccepted { attempt: 1 }.into()];
    let other = |height: &u32| {
        let aborted: Event = Aborted { reason: "of this course".to_owned(), height: *height }.into();
        encode_record(&[aborted])
    };
    let first = [encode_record(&[invited(instance)]), encode_record(&opened)];
    first.into_iter().chain(others.iter().map(other)).collect()
}

/// A disk with a database.
struct Disk {
    store: MemoryStore,
    /// Fails apart from the records.
    values: MemoryStore,
}

impl Disk {
    async fn with(histories: &[(InstanceId, Vec<Vec<u8>>)]) -> Self {
        let mut store = MemoryStore::new();
        for (instance, records) in histories {
            for record in records {
                store.append(&[(*instance, record.clone())]).await.unwrap();
            }
        }
        Self { store, values: MemoryStore::new() }
    }

    /// As after a start that could read no file.
    async fn start(&self, path: &std::path::Path) -> Copier<Toy, MemoryStore> {
        let master = || MasterSecret::new([7; 32]);
        let config = Config { backup_file: true, ..Config::default() };
        let mut engine = Engine::new(NodeId([3; 33]), master(), config);
        for (instance, records) in self.store.clone().load_all().await.unwrap() {
            let records: Vec<_> = records.iter().map(|record| decode_record(record).unwrap()).collect();
            engine.load(instance, records).unwrap();
        }
        let (runtime, inbox) = factory_runtime::channel();
        tokio::spawn(Runtime::new(engine, self.store.clone(), Quiet, inbox).run());
        let backup = Backup::new(path.to_owned(), Arc::new(CopyKey::derive(&master())));
        Copier {
            rpc: Toy::default(),
            store: self.values.clone(),
            runtime,
            statics: BTreeMap::new(),
            for_peers: BTreeSet::new(),
            peers_due: None,
            for_file: BTreeSet::new(),
            file: Some(FileKeeper::new(backup)),
        }
    }

    async fn stored(&self, instance: InstanceId) -> Vec<Vec<u8>> {
        self.store.clone().load(instance).await.unwrap()
    }
}

type TestCopier = Copier<Toy, MemoryStore>;

async fn in_the_file(copier: &TestCopier) -> BTreeMap<InstanceId, Vec<Vec<u8>>> {
    let backup = copier.file.as_ref().unwrap().backup().clone();
    let (_, copies) = backup.read().await.unwrap().unwrap();
    copies.into_iter().map(|(_, copy)| (copy.instance, copy.records)).collect()
}

async fn exit_only(copier: &TestCopier, instance: InstanceId) -> Option<String> {
    let look = move |engine: &Engine, _| engine.factory(instance).unwrap().restored().map(str::to_owned);
    copier.runtime.read(look).await.unwrap()
}

async fn keepers(copier: &TestCopier, instance: InstanceId) -> Vec<Keeper> {
    copier.runtime.read(move |engine, _| engine.kept(instance).unwrap().keepers).await.unwrap()
}

/// A factory has another record, which somebody wants copied.
async fn grow(disk: &Disk, copier: &mut TestCopier, instance: InstanceId, height: u32) {
    let record = records(instance, &[height]).pop().unwrap();
    disk.store.clone().append(&[(instance, record)]).await.unwrap();
    copier.for_file.insert(instance);
}

fn folder(scratch: &Scratch) -> (PathBuf, PathBuf) {
    let folder = scratch.path().join("disk");
    std::fs::create_dir(&folder).unwrap();
    let path = folder.join("backup");
    (folder, path)
}

/// S9, S39: whoever names a file that never was gets one; one that was there and isn't takes no copy, at whichever start,
/// before a person says that it is lost, by an empty file in its place or by another name.
#[tokio::test]
async fn a_file_that_was_there_is_not_begun_anew() {
    let scratch = Scratch::new();
    let (folder, path) = folder(&scratch);
    let disk = Disk::with(&[(A, records(A, &[]))]).await;
    let mut copier = disk.start(&path).await;
    assert_eq!(copier.write().await, Ok(()));
    assert_eq!(keepers(&copier, A).await, [Keeper::File]);
    // Its disk is away, with its folder or without.
    std::fs::rename(&folder, scratch.path().join("away")).unwrap();
    grow(&disk, &mut copier, A, 900).await;
    for again in [false, true] {
        if again {
            copier = disk.start(&path).await;
            let backup = copier.file.as_ref().unwrap().backup().clone();
            assert_eq!(copies(Some(&backup), &mut disk.values.clone()).await, Ok(vec![]));
        }
        let why = copier.write().await.unwrap_err();
        assert!(why.lost && why.reason.contains("it was there before, and is gone"), "{why:?}");
        if !again {
            std::fs::create_dir(&folder).unwrap();
        }
        copier.write().await.unwrap_err();
        assert!(!path.exists());
    }
    // Another name.
    let mut other = disk.start(&folder.join("other")).await;
    assert_eq!(other.write().await, Ok(()));
    assert_eq!(in_the_file(&other).await[&A], disk.stored(A).await);
    // It is noted in the place of the first: that one would be a new one again.
    let noted = path.as_os_str().as_encoded_bytes().to_vec();
    disk.values.clone().put("backup-file", noted).await.unwrap();
    copier.write().await.unwrap_err();
    std::fs::write(&path, []).unwrap();
    assert_eq!(copier.write().await, Ok(()));
    assert_eq!(in_the_file(&copier).await[&A], disk.stored(A).await);
    assert_eq!(keepers(&copier, A).await, [Keeper::File]);
}

/// S9: an older disk, and the file comes after the start: what it has more is back, exit-only, and nothing of it goes,
/// nor of factories that this node doesn't have.
#[tokio::test]
async fn a_file_that_comes_late_brings_back_what_it_has() {
    let scratch = Scratch::new();
    let (folder, path) = folder(&scratch);
    let newer = Disk::with(&[(A, records(A, &[900])), (B, records(B, &[]))]).await;
    assert_eq!(newer.start(&path).await.write().await, Ok(()));
    let older = Disk { values: newer.values, ..Disk::with(&[(A, records(A, &[]))]).await };
    let away = scratch.path().join("away");
    std::fs::rename(&folder, &away).unwrap();
    let mut copier = older.start(&path).await;
    copier.write().await.unwrap_err();
    assert_eq!(exit_only(&copier, A).await, None);
    std::fs::rename(&away, &folder).unwrap();
    assert_eq!(copier.write().await, Ok(()));
    assert!(exit_only(&copier, A).await.unwrap().contains("its copy in the backup file has 3"));
    let stored = older.stored(A).await;
    assert_eq!(stored[..3], records(A, &[900]));
    assert_eq!(in_the_file(&copier).await, BTreeMap::from([(A, stored), (B, records(B, &[]))]));
    assert_eq!(keepers(&copier, A).await, [Keeper::File]);
}

/// S9: the same where the store takes nothing for a while: the file isn't written before, and keeps nothing.
#[tokio::test]
async fn what_the_file_has_is_stored_before_it_is_replaced() {
    let scratch = Scratch::new();
    let (_, path) = folder(&scratch);
    let newer = Disk::with(&[(A, records(A, &[900]))]).await;
    assert_eq!(newer.start(&path).await.write().await, Ok(()));
    let before = std::fs::read(&path).unwrap();
    let older = Disk::with(&[(A, records(A, &[]))]).await;
    let mut copier = older.start(&path).await;
    older.store.fail_next(1_000);
    let why = copier.write().await.unwrap_err();
    assert!(why.lost && why.reason.contains("can't be stored"), "{why:?}");
    assert_eq!(exit_only(&copier, A).await, None);
    assert_eq!(std::fs::read(&path).unwrap(), before);
    older.store.fail_next(0);
    assert_eq!(copier.write().await, Ok(()));
    assert!(exit_only(&copier, A).await.is_some());
    assert_eq!(in_the_file(&copier).await[&A], older.stored(A).await);
}

/// S9, S39: a copy of other records, however many, is never replaced and is no copy of what is stored; its factory is
/// exit-only.
#[tokio::test]
async fn a_copy_of_other_records_stays() {
    let stored = [records(A, &[901]), records(A, &[901, 902]), records(A, &[])];
    for (mut stored, last) in stored.into_iter().zip([false, false, true]) {
        if last {
            // Of fewer than the copy has.
            let opened: [Event; 2] = [OpenAccepted { attempt: 1 }.into(), OpenAccepted { attempt: 1 }.into()];
            stored[1] = encode_record(&opened);
        }
        let scratch = Scratch::new();
        let (_, path) = folder(&scratch);
        let newer = Disk::with(&[(A, records(A, &[900]))]).await;
        assert_eq!(newer.start(&path).await.write().await, Ok(()));
        let disk = Disk::with(&[(A, stored), (B, records(B, &[]))]).await;
        let mut copier = disk.start(&path).await;
        for height in 910..913 {
            assert_eq!(copier.write().await, Ok(()));
            assert!(exit_only(&copier, A).await.unwrap().contains("its copy in the backup file has 3"));
            assert_eq!(exit_only(&copier, B).await, None);
            let file = in_the_file(&copier).await;
            assert_eq!((&file[&A], &file[&B]), (&records(A, &[900]), &disk.stored(B).await));
            assert_eq!((keepers(&copier, A).await, keepers(&copier, B).await), (vec![], vec![Keeper::File]));
            let trouble = |engine: &Engine, _| engine.keeper_trouble(Keeper::File).map(str::to_owned);
            assert!(copier.runtime.read(trouble).await.unwrap().unwrap().contains("has other records"));
            grow(&disk, &mut copier, A, height).await;
            grow(&disk, &mut copier, B, height).await;
        }
    }
}

/// S9, S39: a disk is mounted over the file that was begun where it should be: it is read before it is written.
#[tokio::test]
async fn a_file_that_was_put_there_since_is_read_first() {
    let scratch = Scratch::new();
    let (folder, path) = folder(&scratch);
    let newer = Disk::with(&[(A, records(A, &[900])), (B, records(B, &[]))]).await;
    assert_eq!(newer.start(&path).await.write().await, Ok(()));
    let away = scratch.path().join("away");
    std::fs::rename(&folder, &away).unwrap();
    // It is so old that it knows of no file.
    std::fs::create_dir(&folder).unwrap();
    let older = Disk::with(&[(A, records(A, &[]))]).await;
    let mut copier = older.start(&path).await;
    assert_eq!(copier.write().await, Ok(()));
    std::fs::remove_dir_all(&folder).unwrap();
    std::fs::rename(&away, &folder).unwrap();
    copier.for_file.insert(A);
    assert_eq!(copier.write().await, Ok(()));
    assert!(exit_only(&copier, A).await.is_some());
    let stored = older.stored(A).await;
    assert!(stored.starts_with(&records(A, &[900])));
    assert_eq!(in_the_file(&copier).await, BTreeMap::from([(A, stored), (B, records(B, &[]))]));
}

/// S9, S39: it was restored from a peer, and the file, whose disk is mounted later, has more: that comes back, and the file
/// gets what was stored since.
#[tokio::test]
async fn a_file_with_more_than_was_restored() {
    let scratch = Scratch::new();
    let (_, path) = folder(&scratch);
    let newer = Disk::with(&[(A, records(A, &[900]))]).await;
    assert_eq!(newer.start(&path).await.write().await, Ok(()));
    let recovered: Event = Recovered { reason: "the machine is lost".to_owned() }.into();
    let mut restored = records(A, &[]);
    restored.push(encode_record(&[recovered]));
    let disk = Disk::with(&[(A, restored.clone())]).await;
    let mut copier = disk.start(&path).await;
    // A start has no say in it.
    let mut histories = vec![(A, restored.clone())];
    let copies = vec![Copy { instance: A, records: records(A, &[900]) }];
    let at_start = catch_up::newer(&histories, copies);
    at_start.bring_back(&mut disk.store.clone(), &mut histories).await.unwrap();
    assert_eq!(disk.stored(A).await, restored);
    for again in [false, true] {
        if again {
            copier = disk.start(&path).await;
        }
        assert_eq!(copier.write().await, Ok(()));
        assert!(exit_only(&copier, A).await.unwrap().contains("what was missing is back"));
        let stored = disk.stored(A).await;
        assert_eq!(stored.len(), 5, "once");
        assert!(stored.starts_with(&restored) && stored.contains(&records(A, &[900])[2]));
        assert_eq!(in_the_file(&copier).await, BTreeMap::from([(A, stored)]));
        assert_eq!(keepers(&copier, A).await, [Keeper::File]);
    }
}

/// S39: what is larger than any backup is no file of ours: it stays as it is, and what to do is said.
#[tokio::test]
async fn a_file_that_is_too_large_stays() {
    let scratch = Scratch::new();
    let (_, path) = folder(&scratch);
    let disk = Disk::with(&[(A, records(A, &[]))]).await;
    let mut copier = disk.start(&path).await;
    let bytes = (1 << 30) + 1;
    // It takes no room: nothing is in it.
    std::fs::File::create(&path).unwrap().set_len(bytes).unwrap();
    let why = copier.write().await.unwrap_err();
    assert!(why.lost && why.reason.contains("more than any backup has"), "{why:?}");
    assert!(why.reason.contains("name another file, or move this one away"), "{why:?}");
    assert_eq!(std::fs::metadata(&path).unwrap().len(), bytes);
    std::fs::remove_file(&path).unwrap();
    assert_eq!(copier.write().await, Ok(()));
    assert_eq!(in_the_file(&copier).await[&A], disk.stored(A).await);
}

/// S39: a disk that is full while the file is written: what it had is still there, and is said to be; once there is room it is
/// written.
#[tokio::test]
async fn a_disk_that_is_full_takes_nothing_away() {
    let scratch = Scratch::new();
    let (folder, path) = folder(&scratch);
    let disk = Disk::with(&[(A, records(A, &[]))]).await;
    let mut copier = disk.start(&path).await;
    assert_eq!(copier.write().await, Ok(()));
    let before = std::fs::read(&path).unwrap();
    // Whatever is written to it finds no room.
    let beside = folder.join("backup.new");
    std::os::unix::fs::symlink("/dev/full", &beside).unwrap();
    grow(&disk, &mut copier, A, 900).await;
    for _ in 0..2 {
        let why = copier.write().await.unwrap_err();
        assert!(!why.lost && why.reason.contains("No space left on device"), "{why:?}");
        assert_eq!(std::fs::read(&path).unwrap(), before);
    }
    std::fs::remove_file(&beside).unwrap();
    assert_eq!(copier.write().await, Ok(()));
    assert_eq!(in_the_file(&copier).await[&A], disk.stored(A).await);
}
