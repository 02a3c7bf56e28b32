//! What is known of the backup file, and when it is replaced (S39): only as it was read, and no copy in it by another
//! one than of the same records and more.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::ffi::OsStrExt;

use factory_engine::backup::{Comparison, Copy, SealedCopy, compare};
use factory_engine::io::Keeper;
use factory_engine::types::InstanceId;
use factory_runtime::store::{Store, StoreError};

use super::file::{self, Stamp};
use super::statics::{self, Statics};
use super::{Backup, within};

/// Name under which the store has the path of the file that was there last.
const THERE: &str = "backup-file";

/// Whether the store knows that there was a file of this name. Whoever names a new one has none yet.
///
/// # Errors
/// What the store says.
pub async fn was_there<S: Store>(backup: &Backup, store: &mut S) -> Result<bool, StoreError> {
    Ok(store.get(THERE).await?.is_some_and(|path| path == backup.path().as_os_str().as_bytes()))
}

/// Why a file that was there isn't begun anew, and what to do.
pub fn gone(backup: &Backup) -> String {
    format!(
        "{}: it was there before, and is gone: see that its disk is there; if it is lost for good put an empty file in \
         its place, or name another one (factory-backup-file)",
        backup.path().display()
    )
}

/// Whether the file is the one that is known.
pub enum Looked {
    /// It is.
    Same,
    /// There is none.
    Missing,
    /// It was another one, or none was known: it has these static channel backups.
    Read(BTreeMap<InstanceId, Statics>),
}

/// The backup file.
pub struct FileKeeper {
    backup: Backup,
    /// Which file it was when it was read or written last; nothing if there was none.
    stamp: Option<Stamp>,
    /// Whether the store knows that it is there.
    noted: bool,
    /// What is in it.
    copies: BTreeMap<InstanceId, SealedCopy>,
    /// Factories whose copy is of the records that are stored, or of the first or some of them: a newer one may replace it.
    own: BTreeSet<InstanceId>,
    /// Factories whose copy has other records.
    other: BTreeSet<InstanceId>,
}

impl FileKeeper {
    /// Nothing is read yet.
    pub fn new(backup: Backup) -> Self {
        let (copies, own, other) = (BTreeMap::new(), BTreeSet::new(), BTreeSet::new());
        Self { backup, stamp: None, noted: false, copies, own, other }
    }

    /// The file.
    pub fn backup(&self) -> &Backup {
        &self.backup
    }

    /// Reads the file, if it isn't the one that was read or written last: another disk may have been mounted, or a
    /// person has put another one there. Of what it has nothing is known then.
    ///
    /// # Errors
    /// When it can't be read, or is none of this node's. It may be all that is left of another node.
    pub async fn look(&mut self) -> Result<Looked, String> {
        let unread = |why: String| {
            format!("{}: {why}; name another file, or move this one away", self.backup.path.display())
        };
        let path = self.backup.path.clone();
        let there = within(move || file::stamp(&path)).await.map_err(unread)?;
        if there.map_err(|error| unread(error.to_string()))?.is_some_and(|there| self.stamp == Some(there)) {
            return Ok(Looked::Same);
        }
        let Some((stamp, copies)) = self.backup.read().await.map_err(|why| unread(why.to_string()))? else {
            self.stamp = None;
            return Ok(Looked::Missing);
        };
        let (sealed, opened): (Vec<_>, Vec<_>) = copies.into_iter().unzip();
        self.copies = opened.iter().map(|copy| copy.instance).zip(sealed).collect();
        self.stamp = Some(stamp);
        self.own.clear();
        self.other.clear();
        let known = |(of, scbs): (InstanceId, Vec<Vec<u8>>)| {
            let one = |scb: Vec<u8>| Some((statics::channel_of(&scb)?, scb));
            (of, scbs.into_iter().filter_map(one).collect::<Statics>())
        };
        Ok(Looked::Read(statics::split(opened).1.into_iter().map(known).collect()))
    }

    /// It is read again before it is written, whichever it is.
    pub fn doubt(&mut self) {
        self.stamp = None;
    }

    /// From now on one that is missing isn't a new one.
    ///
    /// # Errors
    /// What the store says.
    pub async fn note<S: Store>(&mut self, store: &mut S) -> Result<(), StoreError> {
        if !self.noted && self.stamp.is_some() {
            store.put(THERE, self.backup.path().as_os_str().as_bytes().to_vec()).await?;
            self.noted = true;
        }
        Ok(())
    }

    /// Copies of which it isn't known whether they are of the stored records; of factories that this node doesn't have,
    /// and static channel backups, it never is.
    pub fn unsure(&self) -> Vec<InstanceId> {
        let known = |instance: &InstanceId| self.own.contains(instance) || self.other.contains(instance);
        self.copies.keys().filter(|instance| !known(instance)).copied().collect()
    }

    /// Looks whether all that a copy has is among these records; if not, gives it.
    ///
    /// # Errors
    /// When it can't be opened.
    pub fn compare(&mut self, instance: InstanceId, stored: &[Vec<u8>]) -> Result<Option<Copy>, String> {
        let Some(sealed) = self.copies.get(&instance) else { return Ok(None) };
        let first = usize::try_from(sealed.counter).ok().and_then(|count| stored.get(..count));
        let nonce = first.and_then(|first| self.backup.key.nonce_of(instance, first));
        if nonce.is_some() && nonce == sealed.nonce() {
            self.own.insert(instance);
            return Ok(None);
        }
        let copy = self.backup.key.open(sealed).map_err(|why| why.to_string())?;
        if compare(&copy.records, stored, Keeper::File) == Comparison::Within {
            self.own.insert(instance);
            return Ok(None);
        }
        Ok(Some(copy))
    }

    /// A copy is of another course of things: it stays as it is.
    pub fn set_other(&mut self, instance: InstanceId) {
        self.other.insert(instance);
    }

    /// What is in it, to be changed and written.
    pub fn copies(&self) -> BTreeMap<InstanceId, SealedCopy> {
        self.copies.clone()
    }

    /// Puts a factory's records among the copies, unless there is one of others, or one of as many.
    ///
    /// # Errors
    /// When there are too many.
    pub fn replace(
        &mut self,
        copies: &mut BTreeMap<InstanceId, SealedCopy>,
        copy: Copy,
    ) -> Result<(), String> {
        let instance = copy.instance;
        if self.own.contains(&instance) || !self.copies.contains_key(&instance) {
            self.replace_statics(copies, copy)?;
            self.own.insert(instance);
        }
        Ok(())
    }

    /// The same of static channel backups, of which the copy with more has all that the other has.
    ///
    /// # Errors
    /// When there are too many.
    pub fn replace_statics(
        &self,
        copies: &mut BTreeMap<InstanceId, SealedCopy>,
        copy: Copy,
    ) -> Result<(), String> {
        let instance = copy.instance;
        let known = copies.get(&instance).map(|known| usize::try_from(known.counter).unwrap_or(usize::MAX));
        if copy.records.len() > known.unwrap_or(0) {
            let sealed = self.backup.key.seal(&copy);
            let sealed =
                sealed.ok_or_else(|| format!("factory {instance} has more records than a copy can"))?;
            copies.insert(instance, sealed);
        }
        Ok(())
    }

    /// Replaces the file by one with these, if they aren't what it has.
    ///
    /// # Errors
    /// When it isn't on the disk.
    pub async fn write(&mut self, copies: BTreeMap<InstanceId, SealedCopy>) -> Result<(), String> {
        if copies != self.copies || self.stamp.is_none() {
            let (path, list, there) = (self.backup.path.clone(), copies.clone(), self.stamp);
            let written = within(move || file::write(&path, list.values(), there)).await?;
            let written = written.map_err(|error| format!("{}: {error}", self.backup.path.display()))?;
            self.stamp = Some(written);
            self.copies = copies;
        }
        Ok(())
    }

    /// Copies in it that are of the stored records, and how many of them each has.
    pub fn kept(&self) -> Vec<(InstanceId, u32)> {
        let own = self.copies.iter().filter(|(instance, _)| self.own.contains(instance));
        own.map(|(instance, copy)| (*instance, copy.counter)).collect()
    }
}
