//! Copies of every record of every factory that lives (S39): in the file that `factory-backup-file` names, and for the
//! peers that keep some.
//!
//! One task makes them. The engine says of which factories a copy is wanted ([`Effect::Copy`](factory_engine::Effect)),
//! and hears which are on the disk; what binds this node waits for that (`factory_engine::backup`).

pub mod catch_up;
pub mod file;
mod keeper;
pub mod payouts;
pub mod statics;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use factory_engine::backup::{Copy, CopyError, CopyKey, SealedCopy};
use factory_engine::io::Keeper;
use factory_engine::types::{ChannelId, InstanceId};
use factory_engine::{Entropy, Factory, Input};
use factory_runtime::store::{Store, StoreError};
use factory_runtime::{Handle, SystemEntropy};
use tokio::sync::mpsc;
use tokio::time::Instant;

use file::{BadFile, Stamp};
use keeper::{FileKeeper, Looked};
use statics::Statics;

use super::client::Call;

/// How long copies for which nothing waits are collected.
const COLLECT: Duration = Duration::from_secs(1);
/// Over how long copies for peers are spread, where nothing waits: they all go to one operator.
const SPREAD: Duration = Duration::from_secs(10);
/// How long a disk may take. lightningd waits for a start.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two tries to write.
const AGAIN: Duration = Duration::from_secs(5);

/// A copy of a factory's records as they are now.
#[derive(Debug, Clone, Copy)]
pub struct Wish {
    /// The factory (factory_instance).
    pub instance: InstanceId,
    /// Whether something waits for it.
    pub urgent: bool,
    /// Whether peers should have one too.
    pub peers: bool,
}

/// Asks for copies; a cheap clone.
#[derive(Debug, Clone)]
pub struct Wanted(mpsc::UnboundedSender<Wish>);

/// What the task hears.
#[derive(Debug)]
pub struct Wishes(mpsc::UnboundedReceiver<Wish>);

/// Both ends.
pub fn channel() -> (Wanted, Wishes) {
    let (sender, receiver) = mpsc::unbounded_channel();
    (Wanted(sender), Wishes(receiver))
}

impl Wanted {
    /// At once, if something waits for it.
    pub fn push(&self, wish: Wish) {
        // The task ends with the process.
        let _ = self.0.send(wish);
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

/// Which file it is, and all copies in it, sealed and opened.
pub type Contents = (Stamp, Vec<(SealedCopy, Copy)>);

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

    /// Which file it is, and all copies in it, sealed and opened; nothing if there is no file.
    ///
    /// # Errors
    /// When anything of it isn't this node's as it was sealed.
    pub async fn read(&self) -> Result<Option<Contents>, BadBackup> {
        let backup = self.clone();
        let read = within(move || backup.read_now()).await;
        read.unwrap_or_else(|why| Err(BadBackup::File(BadFile::Io(why))))
    }

    fn read_now(&self) -> Result<Option<Contents>, BadBackup> {
        let (stamp, sealed) = match file::read(&self.path) {
            Err(BadFile::Missing) => return Ok(None),
            read => read.map_err(BadBackup::File)?,
        };
        let open = |sealed: SealedCopy| {
            let copy = self.key.open(&sealed).map_err(BadBackup::Copy)?;
            Ok((sealed, copy))
        };
        Ok(Some((stamp, sealed.into_iter().map(open).collect::<Result<_, BadBackup>>()?)))
    }
}

/// What the file has at the start. Whatever is wrong with it is said again by whoever keeps it, and compares it once it
/// can be read.
///
/// # Errors
/// What the store says.
pub async fn copies<S: Store>(backup: Option<&Backup>, store: &mut S) -> Result<Vec<Copy>, StoreError> {
    let Some(backup) = backup else { return Ok(vec![]) };
    let why = match backup.read().await {
        Ok(Some((_, copies))) => {
            return Ok(statics::split(copies.into_iter().map(|(_, copy)| copy).collect()).0);
        }
        Ok(None) if !keeper::was_there(backup, store).await? => return Ok(vec![]),
        Ok(None) => keeper::gone(backup),
        Err(why) => format!("{}: {why}", backup.path.display()),
    };
    log::warn!("{why}: nobody knows whether this node's records are the newest");
    Ok(vec![])
}

/// Makes copies, for the file and for peers, for as long as the plugin runs.
pub async fn keep<C: Call, S: Store>(
    backup: Option<Backup>,
    rpc: C,
    store: S,
    runtime: Handle,
    mut wishes: Wishes,
) {
    let has_file = backup.is_some();
    let mut copier = Copier {
        rpc,
        store,
        runtime,
        statics: BTreeMap::new(),
        for_peers: BTreeSet::new(),
        peers_due: None,
        for_file: BTreeSet::new(),
        file: backup.map(FileKeeper::new),
    };
    if has_file {
        copier.copy_until_done(&mut wishes).await;
    }
    loop {
        let wish = match copier.peers_due {
            None => wishes.0.recv().await,
            Some(due) => match tokio::time::timeout_at(due, wishes.0.recv()).await {
                Ok(wish) => wish,
                Err(_) => {
                    copier.hand_to_peers().await;
                    continue;
                }
            },
        };
        let Some(wish) = wish else { return ended().await };
        copier.want(wish).await;
        let mut urgent = wish.urgent;
        let collected = Instant::now() + COLLECT;
        while !urgent {
            match tokio::time::timeout_at(collected, wishes.0.recv()).await {
                Ok(Some(wish)) => {
                    copier.want(wish).await;
                    urgent = wish.urgent;
                }
                Ok(None) => return ended().await,
                Err(_) => break,
            }
        }
        copier.copy_until_done(&mut wishes).await;
    }
}

/// Whoever asks for copies has ended: that is what has to be said, not that nobody asks any more.
async fn ended() {
    std::future::pending().await
}

/// Why the file wasn't written.
#[derive(Debug, PartialEq, Eq)]
struct NotWritten {
    reason: String,
    /// Whether what it had isn't there any more, or nobody knows.
    lost: bool,
}

impl From<String> for NotWritten {
    fn from(reason: String) -> Self {
        Self { reason, lost: false }
    }
}

/// What makes copies of records.
struct Copier<C, S> {
    rpc: C,
    /// Knows whether there was a file.
    store: S,
    runtime: Handle,
    /// lightningd's static channel backups, by factory.
    statics: BTreeMap<InstanceId, Statics>,
    /// Factories of which peers want a newer copy.
    for_peers: BTreeSet<InstanceId>,
    /// When they get it.
    peers_due: Option<Instant>,
    /// Factories of which the file wants one.
    for_file: BTreeSet<InstanceId>,
    file: Option<FileKeeper>,
}

impl<C: Call, S: Store> Copier<C, S> {
    async fn want(&mut self, wish: Wish) {
        // At once: of a channel that was used meanwhile there would be a newer one.
        if let Err(why) = self.look_at_channels(&BTreeSet::from([wish.instance])).await {
            log::warn!("factory {}: no static channel backups: {why}", wish.instance);
        }
        if wish.peers {
            self.for_peers.insert(wish.instance);
            // A block concerns all of an operator's clients at once.
            let [first, ..] = SystemEntropy.bytes32();
            let pause = if wish.urgent { Duration::ZERO } else { COLLECT + SPREAD * u32::from(first) / 256 };
            let due = Instant::now() + pause;
            self.peers_due = Some(self.peers_due.map_or(due, |before| before.min(due)));
        }
        if self.file.is_some() {
            self.for_file.insert(wish.instance);
        }
    }

    /// Copies what is wanted now, and what is meanwhile; a disk that takes nothing is tried again, and peers don't
    /// wait for it.
    async fn copy_until_done(&mut self, wishes: &mut Wishes) {
        loop {
            while let Ok(wish) = wishes.0.try_recv() {
                self.want(wish).await;
            }
            self.hand_to_peers().await;
            let Err(NotWritten { reason, lost }) = self.write().await else { return };
            self.runtime.input(Input::NotKept { keeper: Keeper::File, reason, lost });
            let again = Instant::now() + AGAIN;
            while let Ok(Some(wish)) = tokio::time::timeout_at(again, wishes.0.recv()).await {
                self.want(wish).await;
                self.hand_to_peers().await;
            }
        }
    }

    /// Gives the engine what it has peers keep, once that is due.
    async fn hand_to_peers(&mut self) {
        if self.peers_due.is_none_or(|due| due > Instant::now()) {
            return;
        }
        self.peers_due = None;
        let wanted = std::mem::take(&mut self.for_peers);
        // Without them a factory is worth its whole capacity after the timeout.
        if let Err(why) = self.look_at_channels(&wanted).await {
            log::warn!("peers get no static channel backups: {why}");
        }
        for instance in wanted {
            match self.records(instance).await {
                Ok(records) => {
                    let mut copies = vec![Copy { instance, records }];
                    copies.extend(self.statics_of(instance));
                    self.runtime.input(Input::Copied { instance, copies });
                }
                Err(why) => {
                    log::warn!("factory {instance}: no copy for peers yet: {why}");
                    self.for_peers.insert(instance);
                    self.peers_due = Some(Instant::now() + AGAIN);
                }
            }
        }
    }

    /// Writes what is wanted; nothing of it is wanted any more then.
    async fn write(&mut self) -> Result<(), NotWritten> {
        let Some(mut file) = self.file.take() else { return Ok(()) };
        let written = self.write_to(&mut file).await;
        self.file = Some(file);
        written
    }

    async fn write_to(&mut self, file: &mut FileKeeper) -> Result<(), NotWritten> {
        self.look(file).await?;
        self.compare(file).await?;
        let wanted = self.for_file.clone();
        self.look_at_channels(&wanted).await?;
        let mut copies = file.copies();
        for instance in &wanted {
            let records = self.records(*instance).await?;
            file.replace(&mut copies, Copy { instance: *instance, records })?;
            if let Some(copy) = self.statics_of(*instance) {
                file.replace_statics(&mut copies, copy)?;
            }
        }
        let known: Vec<InstanceId> = copies.keys().copied().collect();
        let over = self.runtime.read(move |engine, _| {
            known.into_iter().filter(|instance| engine.is_archived(*instance)).collect::<Vec<_>>()
        });
        for instance in over.await.map_err(|refusal| refusal.to_string())? {
            copies.remove(&instance);
            copies.remove(&statics::name(instance));
        }
        file.write(copies).await?;
        file.note(&mut self.store).await.map_err(|error| error.to_string())?;
        self.for_file.clear();
        self.runtime.input(Input::Kept { keeper: Keeper::File, list: file.kept() });
        Ok(())
    }

    /// Before each write: what is there, if it isn't what was written last. A file that was there isn't begun anew where
    /// factories live: it may know more than this node.
    async fn look(&mut self, file: &mut FileKeeper) -> Result<(), NotWritten> {
        let lost = |reason| NotWritten { reason, lost: true };
        let looked = file.look().await.map_err(lost)?;
        if matches!(looked, Looked::Same) {
            return Ok(());
        }
        let taken = self.take_over(file, looked).await;
        if taken.is_err() {
            file.doubt();
        }
        taken
    }

    async fn take_over(&mut self, file: &mut FileKeeper, looked: Looked) -> Result<(), NotWritten> {
        let living = self.runtime.read(|engine, _| engine.worth_keeping()).await;
        let living = living.map_err(|refusal| refusal.to_string())?;
        let failed = |error: StoreError| error.to_string();
        if let Looked::Read(statics) = looked {
            file.note(&mut self.store).await.map_err(failed)?;
            // What is kept of channels is kept as it was first.
            for (instance, first) in statics {
                self.statics.entry(instance).or_default().extend(first);
            }
        } else if !living.is_empty()
            && keeper::was_there(file.backup(), &mut self.store).await.map_err(failed)?
        {
            return Err(NotWritten { reason: keeper::gone(file.backup()), lost: true });
        }
        self.for_file.extend(living);
        Ok(())
    }

    /// S9: what the file has of this node's factories is compared with what is stored. What it has more is brought back
    /// before anything else is done there, and what differs stays; both make the factory exit-only.
    async fn compare(&mut self, file: &mut FileKeeper) -> Result<(), NotWritten> {
        let unsure = file.unsure();
        let known = self.runtime.read(move |engine, _| {
            let known = |of: &InstanceId| engine.factory(*of).is_some() || engine.damage(*of).is_some();
            unsure.into_iter().filter(known).collect::<Vec<_>>()
        });
        for instance in known.await.map_err(|refusal| refusal.to_string())? {
            let Some(copy) = file.compare(instance, &self.records(instance).await?)? else { continue };
            self.runtime.input(Input::KeeperHas { keeper: Keeper::File, copy });
            if file.compare(instance, &self.records(instance).await?)?.is_none() {
                continue;
            }
            let waits = self.runtime.read(move |engine, _| engine.is_compared(Keeper::File, instance));
            if waits.await.map_err(|refusal| refusal.to_string())? {
                let reason = format!("what it has more of factory {instance} can't be stored");
                return Err(NotWritten { reason, lost: true });
            }
            file.set_other(instance);
        }
        Ok(())
    }

    async fn records(&self, instance: InstanceId) -> Result<Vec<Vec<u8>>, String> {
        self.runtime.records(instance).await.map_err(|refusal| refusal.to_string())
    }

    /// The static channel backups of a factory, as a copy of their own.
    fn statics_of(&self, instance: InstanceId) -> Option<Copy> {
        let records = self.statics.get(&instance)?.values().cloned().collect();
        Some(Copy { instance: statics::name(instance), records })
    }

    /// Notes static backups of these factories' channels, of those that have none yet.
    async fn look_at_channels(&mut self, wanted: &BTreeSet<InstanceId>) -> Result<(), String> {
        let wanted = wanted.clone();
        let channels = self.runtime.read(move |engine, _| {
            let of = |instance| {
                let own = engine.factory(instance).into_iter().flat_map(Factory::own_channels);
                (instance, own.map(|channel| channel.channel_id).collect::<BTreeSet<_>>())
            };
            wanted.into_iter().map(of).collect::<Vec<_>>()
        });
        for (instance, channels) in channels.await.map_err(|refusal| refusal.to_string())? {
            let kept = self.statics.get(&instance);
            let missing: BTreeSet<ChannelId> =
                channels.into_iter().filter(|id| kept.is_none_or(|kept| !kept.contains_key(id))).collect();
            if missing.is_empty() {
                continue;
            }
            let new = statics::read(&self.rpc, &missing).await.map_err(|error| error.to_string())?;
            if !new.is_empty() {
                self.statics.entry(instance).or_default().extend(new);
            }
        }
        Ok(())
    }
}
