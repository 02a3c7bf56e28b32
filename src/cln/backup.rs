//! `factory-backup-file`: a file that keeps a copy of every record of every factory that lives (S39).
//!
//! One task owns it. The engine says of which factories a copy is wanted ([`Effect::Copy`](factory_engine::Effect)),
//! and hears which are on the disk; what binds this node waits for that (`factory_engine::backup`).

pub mod catch_up;
pub mod file;
pub mod statics;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use factory_engine::backup::copy::NONCE;
use factory_engine::backup::{Copy, CopyError, CopyKey, SealedCopy};
use factory_engine::io::Keeper;
use factory_engine::types::{ChannelId, InstanceId};
use factory_engine::{Entropy, Factory, Input};
use factory_runtime::{Handle, SystemEntropy};
use tokio::sync::mpsc;

use file::BadFile;
use statics::Statics;

use super::client::Rpc;

/// How long copies for which nothing waits are collected.
const COLLECT: Duration = Duration::from_secs(1);
/// How long a disk may take. lightningd waits for a start.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two tries to write.
const AGAIN: Duration = Duration::from_secs(5);

/// Asks for copies; a cheap clone. Without a file nobody hears it.
#[derive(Debug, Clone)]
pub struct Wanted(mpsc::UnboundedSender<(InstanceId, bool)>);

/// What the task hears.
#[derive(Debug)]
pub struct Wishes(mpsc::UnboundedReceiver<(InstanceId, bool)>);

/// Both ends.
pub fn channel() -> (Wanted, Wishes) {
    let (sender, receiver) = mpsc::unbounded_channel();
    (Wanted(sender), Wishes(receiver))
}

impl Wanted {
    /// A copy of a factory's records as they are now; at once, if something waits for it.
    pub fn push(&self, instance: InstanceId, urgent: bool) {
        // Without a file nobody listens.
        let _ = self.0.send((instance, urgent));
    }
}

/// What a disk says, if it says anything: one that is somewhere else may be gone.
async fn within<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
    match tokio::time::timeout(PATIENCE, tokio::task::spawn_blocking(work)).await {
        Ok(done) => done.map_err(|error| error.to_string()),
        Err(_) => Err(format!("its disk gives no answer for {} s", PATIENCE.as_secs())),
    }
}

/// Why a file's copies aren't this node's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BadBackup {
    /// It can't be read, or is none.
    File(BadFile),
    /// A copy in it.
    Copy(CopyError),
}

impl fmt::Display for BadBackup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(why) => why.fmt(f),
            Self::Copy(CopyError::NotOurs) => f.write_str(
                "a copy in it was not sealed by this node, or was changed since: it is another node's, or this \
                 node's hsm_secret is another one",
            ),
            Self::Copy(why) => write!(f, "a copy in it was sealed by this node, but {why}"),
        }
    }
}

impl std::error::Error for BadBackup {}

/// A backup file and the key to it.
#[derive(Clone)]
pub struct Backup {
    path: PathBuf,
    key: Arc<CopyKey>,
}

impl Backup {
    /// Nothing is read yet.
    pub fn new(path: PathBuf, key: Arc<CopyKey>) -> Self {
        Self { path, key }
    }

    /// Where it is.
    pub fn path(&self) -> &std::path::Path {
        &self.path
    }

    /// All copies in it, sealed and opened; none if there is no file yet.
    ///
    /// # Errors
    /// When anything of it isn't this node's as it was sealed.
    pub async fn read(&self) -> Result<Vec<(SealedCopy, Copy)>, BadBackup> {
        let backup = self.clone();
        let read = within(move || backup.read_now()).await;
        read.unwrap_or_else(|why| Err(BadBackup::File(BadFile::Io(why))))
    }

    fn read_now(&self) -> Result<Vec<(SealedCopy, Copy)>, BadBackup> {
        let sealed = match file::read(&self.path) {
            Err(BadFile::Missing) => return Ok(vec![]),
            read => read.map_err(BadBackup::File)?,
        };
        let open = |sealed: SealedCopy| {
            let copy = self.key.open(&sealed).map_err(BadBackup::Copy)?;
            Ok((sealed, copy))
        };
        sealed.into_iter().map(open).collect()
    }
}

/// What the file has at the start. Whatever is wrong with it is said by whoever keeps it.
pub async fn copies(backup: Option<&Backup>) -> Vec<Copy> {
    let Some(backup) = backup else { return vec![] };
    match backup.read().await {
        Ok(copies) => statics::split(copies.into_iter().map(|(_, copy)| copy).collect()).0,
        Err(why) => {
            log::warn!(
                "{}: {why}: nobody knows whether this node's records are the newest",
                backup.path.display()
            );
            vec![]
        }
    }
}

/// Keeps the file up to date for as long as the plugin runs.
pub async fn keep(backup: Backup, rpc: Rpc, runtime: Handle, mut wishes: Wishes) {
    let mut keeper = FileKeeper {
        backup,
        rpc,
        runtime,
        statics: BTreeMap::new(),
        copies: BTreeMap::new(),
        wanted: BTreeSet::new(),
        other: BTreeSet::new(),
    };
    keeper.begin().await;
    keeper.copy_until_done(&mut wishes).await;
    while let Some((instance, mut urgent)) = wishes.0.recv().await {
        keeper.wanted.insert(instance);
        let collected = tokio::time::Instant::now() + COLLECT;
        while !urgent {
            match tokio::time::timeout_at(collected, wishes.0.recv()).await {
                Ok(Some((instance, hurry))) => {
                    keeper.wanted.insert(instance);
                    urgent = hurry;
                }
                Ok(None) => return,
                Err(_) => break,
            }
        }
        keeper.copy_until_done(&mut wishes).await;
    }
}

struct FileKeeper {
    backup: Backup,
    rpc: Rpc,
    runtime: Handle,
    /// lightningd's static channel backups, by factory.
    statics: BTreeMap<InstanceId, Statics>,
    /// What is in the file.
    copies: BTreeMap<InstanceId, SealedCopy>,
    /// Factories of which a newer copy is wanted.
    wanted: BTreeSet<InstanceId>,
    /// Factories whose copy in the file is longer than this node's records, and isn't of them.
    other: BTreeSet<InstanceId>,
}

impl FileKeeper {
    /// Reads what is there, and looks what of it is old.
    async fn begin(&mut self) {
        loop {
            match self.backup.read().await {
                Ok(copies) => {
                    let (sealed, opened): (Vec<_>, Vec<_>) = copies.into_iter().unzip();
                    self.copies = opened.iter().map(|copy| copy.instance).zip(sealed).collect();
                    let known = |(of, scbs): (InstanceId, Vec<Vec<u8>>)| {
                        let one = |scb: Vec<u8>| Some((statics::channel_of(&scb)?, scb));
                        (of, scbs.into_iter().filter_map(one).collect::<Statics>())
                    };
                    self.statics = statics::split(opened).1.into_iter().map(known).collect();
                    break;
                }
                // Nothing is overwritten: it may be all that is left of another node.
                Err(why) => {
                    let reason = format!(
                        "{}: {why}; name another file, or move this one away",
                        self.backup.path.display()
                    );
                    self.fail(reason).await;
                }
            }
        }
        let living = self.runtime.read(|engine, _| engine.worth_keeping()).await;
        self.wanted.extend(living.unwrap_or_default());
    }

    /// Copies what is wanted now, and what is meanwhile; a disk that takes nothing is tried again.
    async fn copy_until_done(&mut self, wishes: &mut Wishes) {
        loop {
            while let Ok((instance, _)) = wishes.0.try_recv() {
                self.wanted.insert(instance);
            }
            let Err(reason) = self.copy().await else { return };
            self.fail(reason).await;
        }
    }

    async fn fail(&self, reason: String) {
        self.runtime.input(Input::NotKept { keeper: Keeper::File, reason });
        tokio::time::sleep(AGAIN).await;
    }

    /// Writes what is wanted; nothing of it is wanted any more then.
    async fn copy(&mut self) -> Result<(), String> {
        let mut copies = self.copies.clone();
        for instance in &self.wanted {
            let records = self.runtime.records(*instance).await.map_err(|refusal| refusal.to_string())?;
            let known = copies.get(instance).map_or(0, |copy| copy.counter);
            let sealed = self.seal(*instance, records)?;
            if sealed.counter >= known {
                copies.insert(*instance, sealed);
            } else if self.other.insert(*instance) {
                // A start has said that the factory is exit-only.
                log::warn!(
                    "factory {instance}: the backup file has a copy of {known} records, and this node has {} that \
                     differ: the copy is kept as it is",
                    sealed.counter
                );
            }
        }
        for (instance, scbs) in self.new_statics().await? {
            let sealed = self.seal(statics::name(instance), scbs.values().cloned().collect())?;
            copies.insert(statics::name(instance), sealed);
            self.statics.insert(instance, scbs);
        }
        let known: Vec<InstanceId> = copies.keys().copied().collect();
        let over = self.runtime.read(move |engine, _| {
            known.into_iter().filter(|instance| engine.is_archived(*instance)).collect::<Vec<_>>()
        });
        for instance in over.await.map_err(|refusal| refusal.to_string())? {
            copies.remove(&instance);
            copies.remove(&statics::name(instance));
        }
        if copies != self.copies || !self.backup.path.exists() {
            let (path, list) = (self.backup.path.clone(), copies.clone());
            let written = within(move || file::write(&path, list.values())).await?;
            written.map_err(|error| format!("{}: {error}", self.backup.path.display()))?;
            self.copies = copies;
        }
        self.wanted.clear();
        let statics: BTreeSet<InstanceId> = self.statics.keys().map(|of| statics::name(*of)).collect();
        let none = |instance: &InstanceId| self.other.contains(instance) || statics.contains(instance);
        let kept = self.copies.iter().filter(|(instance, _)| !none(instance));
        let list = kept.map(|(instance, copy)| (*instance, copy.counter)).collect();
        self.runtime.input(Input::Kept { keeper: Keeper::File, list });
        Ok(())
    }

    fn seal(&self, instance: InstanceId, records: Vec<Vec<u8>>) -> Result<SealedCopy, String> {
        let mut nonce = [0; NONCE];
        nonce.copy_from_slice(&SystemEntropy.bytes32()[..NONCE]);
        let sealed = self.backup.key.seal(&Copy { instance, records }, nonce);
        sealed.ok_or_else(|| format!("factory {instance} has more records than a copy can"))
    }

    /// Of the wanted factories that have channels of which no static backup is kept yet: all that are to be kept.
    async fn new_statics(&self) -> Result<Vec<(InstanceId, Statics)>, String> {
        let wanted = self.wanted.clone();
        let channels = self.runtime.read(move |engine, _| {
            let of = |instance| {
                let own = engine.factory(instance).into_iter().flat_map(Factory::own_channels);
                (instance, own.map(|channel| channel.channel_id).collect::<BTreeSet<_>>())
            };
            wanted.into_iter().map(of).collect::<Vec<_>>()
        });
        let mut new = vec![];
        for (instance, channels) in channels.await.map_err(|refusal| refusal.to_string())? {
            let kept = self.statics.get(&instance);
            let missing: BTreeSet<ChannelId> =
                channels.into_iter().filter(|id| kept.is_none_or(|kept| !kept.contains_key(id))).collect();
            if missing.is_empty() {
                continue;
            }
            let mut all = statics::read(&self.rpc, &missing).await.map_err(|error| error.to_string())?;
            if !all.is_empty() {
                all.extend(kept.cloned().unwrap_or_default());
                new.push((instance, all));
            }
        }
        Ok(new)
    }
}
