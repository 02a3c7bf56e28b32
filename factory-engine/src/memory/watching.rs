//! Tower: whom this node watches for, what waits for a transaction, and what is due. What is stored of it is read again
//! at a start.

use std::collections::{BTreeMap, BTreeSet};

use crate::io::Kept;
use crate::record::appointment::{Locator, Sum, Task, toggle};
use crate::record::factory::BURIED;
use crate::types::{Height, Millis, NodeId, OutPoint, Txid};

use super::keepers::Tag;
use super::work::Work;

/// Most appointments of one peer.
pub const MOST_APPOINTMENTS: usize = 20_000;
/// Most bytes of one peer's appointments.
pub const QUOTA_BYTES: usize = 16_000_000;
/// Most tags of one peer.
const MOST_TAGS: usize = 64;
/// Most transactions of one peer that are due at once.
const MOST_DUE: usize = 1_024;
/// Most bytes of all appointments together.
const MOST_BYTES: usize = 512_000_000;
/// What each request costs at least, bytes.
const LEAST_WORK: usize = 5_000;

/// Whose appointment, of which of its factories, and which.
pub type Name = (NodeId, Tag, Locator);

/// An appointment that is being written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Putting {
    /// Bytes of what is sealed in it.
    pub(crate) bytes: u32,
    /// The first block that hasn't been looked into for it.
    pub(crate) from: Height,
    /// Whether it is still needed.
    pub(crate) wanted: bool,
}

/// What is published for somebody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Due {
    pub(crate) task: Task,
    /// The block that has what it spends.
    pub(crate) since: Height,
    /// The block in which that was spent, by this or by another.
    pub(crate) spent: Option<Height>,
    /// How often what it spends wasn't there.
    pub(crate) not_there: u32,
}

impl Due {
    /// Whether there is still something to be done for it.
    pub(crate) fn is_open(&self) -> bool {
        self.spent.is_none() && self.not_there < BURIED
    }
}

#[derive(Debug, Default)]
pub(crate) struct Watching {
    kept: BTreeMap<Name, Kept>,
    /// Being written.
    putting: BTreeMap<Name, Putting>,
    /// Those that are kept, by what they wait for.
    waits: BTreeMap<Locator, BTreeSet<(NodeId, Tag)>>,
    /// Their transaction was seen, and isn't noted on the disk yet.
    opening: BTreeSet<Name>,
    /// Came since the last block; from which on it is looked for them.
    fresh: BTreeMap<Locator, Height>,
    /// Blocks are being looked into for those that came before that.
    looking: bool,
    /// Of each factory the most records that its client had when it gave an appointment.
    counters: BTreeMap<(NodeId, Tag), u32>,
    /// Bytes of all appointments.
    bytes: usize,
    /// What was done for a peer since then.
    work: Work<LEAST_WORK>,
    /// Of one client's appointment as of another's: nobody takes anybody's away.
    due: BTreeMap<(Name, Txid), Due>,
}

/// A change of [`Watching`], made when the step is applied.
pub(crate) enum VolatileWatching {
    /// An appointment is being written.
    Putting(Name, Putting),
    /// It is on the disk.
    Kept(Name, Kept),
    /// It isn't.
    NotKept(Name),
    /// What it waits for was seen.
    Opening(Name),
    /// It was opened: these are due, and nothing else of it.
    Opened(Name, (Txid, Height), Vec<Task>),
    /// What came since the last block is being looked for.
    Looking,
    /// It has been.
    Looked,
    /// A peer has so many bytes written or read, at this time.
    Works(NodeId, Millis, usize),
    /// What one spends was spent, in this block.
    Spent(Name, Txid, Height),
    /// What one spends isn't there.
    NotThere(Name, Txid),
    /// Blocks above this one are gone.
    Reorged(Height),
    /// Nobody needs it any more.
    Forget(Name),
}

impl Watching {
    pub(crate) fn apply(&mut self, change: VolatileWatching) {
        match change {
            VolatileWatching::Putting(name, putting) => drop(self.putting.insert(name, putting)),
            VolatileWatching::Kept(name, kept) => {
                if let Some(Putting { from, .. }) = self.putting.remove(&name) {
                    let known = self.kept.get(&name).and_then(|known| known.trigger);
                    self.load(name, Kept { trigger: kept.trigger.or(known), ..kept });
                    let (_, _, locator) = name;
                    let first = self.fresh.entry(locator).or_insert(from);
                    *first = from.min(*first);
                }
            }
            VolatileWatching::NotKept(name) => drop(self.putting.remove(&name)),
            VolatileWatching::Opening(name) => drop(self.opening.insert(name)),
            VolatileWatching::Opened(name, trigger, tasks) => self.opened(name, trigger, tasks),
            VolatileWatching::Looking => {
                self.fresh.clear();
                self.looking = true;
            }
            VolatileWatching::Looked => self.looking = false,
            VolatileWatching::Works(peer, now, bytes) => self.work.add(peer, now, bytes),
            VolatileWatching::Spent(name, txid, height) => {
                if let Some(due) = self.due.get_mut(&(name, txid)) {
                    due.spent = Some(height);
                }
            }
            VolatileWatching::NotThere(name, txid) => {
                if let Some(due) = self.due.get_mut(&(name, txid)) {
                    due.not_there = due.not_there.saturating_add(1);
                }
            }
            VolatileWatching::Reorged(height) => {
                for due in self.due.values_mut() {
                    due.spent = due.spent.filter(|spent| *spent <= height);
                    due.not_there = 0;
                }
            }
            VolatileWatching::Forget(name) => self.forget(name),
        }
    }

    fn opened(&mut self, name: Name, trigger: (Txid, Height), tasks: Vec<Task>) {
        self.opening.remove(&name);
        let Some(kept) = self.kept.get_mut(&name) else { return };
        // What was spent, or wasn't there, may be again in another block.
        let same = kept.trigger == Some(trigger);
        kept.trigger = Some(trigger);
        let before: BTreeMap<Txid, Due> = self.due_of(name).map(|(txid, due)| (txid, due.clone())).collect();
        self.due.retain(|(of, _), _| *of != name);
        let open = self.due.iter().filter(|(((peer, ..), _), due)| *peer == name.0 && due.is_open()).count();
        let room = MOST_DUE.saturating_sub(open);
        for task in tasks.into_iter().take(room) {
            let txid = task.tx.compute_txid();
            let (spent, not_there) =
                before.get(&txid).filter(|_| same).map_or((None, 0), |known| (known.spent, known.not_there));
            self.due.insert((name, txid), Due { task, since: trigger.1, spent, not_there });
        }
    }

    fn due_of(&self, name: Name) -> impl Iterator<Item = (Txid, &Due)> {
        let all = self.due.iter().filter(move |((of, _), _)| *of == name);
        all.map(|((_, txid), due)| (*txid, due))
    }

    /// An appointment that is stored.
    pub(crate) fn load(&mut self, name: Name, kept: Kept) {
        let (peer, tag, locator) = name;
        self.waits.entry(locator).or_default().insert((peer, tag));
        let counter = self.counters.entry((peer, tag)).or_default();
        *counter = kept.counter.max(*counter);
        self.bytes = self.bytes.saturating_add(size(kept.bytes));
        if let Some(before) = self.kept.insert(name, kept) {
            self.bytes = self.bytes.saturating_sub(size(before.bytes));
        }
    }

    fn forget(&mut self, name: Name) {
        let (peer, tag, locator) = name;
        if let Some(before) = self.kept.remove(&name) {
            self.bytes = self.bytes.saturating_sub(size(before.bytes));
        }
        // Until its answer is there nothing else of its name is written.
        if let Some(putting) = self.putting.get_mut(&name) {
            putting.wanted = false;
        }
        self.opening.remove(&name);
        self.due.retain(|(of, _), _| *of != name);
        if self.kept.range((peer, tag, [0; 16])..=(peer, tag, [0xff; 16])).next().is_none() {
            self.counters.remove(&(peer, tag));
        }
        if let Some(waiting) = self.waits.get_mut(&locator) {
            waiting.remove(&(peer, tag));
            if waiting.is_empty() {
                self.waits.remove(&locator);
                self.fresh.remove(&locator);
            }
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// Whether something was seen that the disk doesn't know of, or is still to be looked for: a start has to read the
    /// last blocks again.
    pub(crate) fn is_unsettled(&self) -> bool {
        !self.opening.is_empty() || !self.fresh.is_empty() || self.looking
    }

    /// What a peer has here with each tag: number and sum.
    pub(crate) fn totals(&self, peer: NodeId) -> BTreeMap<Tag, (u32, Sum)> {
        let mut totals: BTreeMap<Tag, (u32, Sum)> = BTreeMap::new();
        for ((_, tag, _), kept) in self.of(peer) {
            let (count, sum) = totals.entry(*tag).or_default();
            *count = count.saturating_add(1);
            toggle(sum, kept.sum);
        }
        totals
    }

    fn of(&self, peer: NodeId) -> impl Iterator<Item = (&Name, &Kept)> {
        let (first, last) = ((peer, [0; 32], [0; 16]), (peer, [0xff; 32], [0xff; 16]));
        self.kept.range(first..=last)
    }

    /// Those with one tag, and what is being written with it.
    pub(crate) fn tagged(&self, peer: NodeId, tag: Tag) -> BTreeSet<Name> {
        let range = (peer, tag, [0; 16])..=(peer, tag, [0xff; 16]);
        let kept = self.kept.range(range.clone()).map(|(name, _)| *name);
        kept.chain(self.putting.range(range).map(|(name, _)| *name)).collect()
    }

    /// Why one more of a peer's can't be kept, in place of one with its name.
    pub(crate) fn too_many(&self, name: Name, bytes: usize) -> Option<String> {
        if self.bytes.saturating_add(bytes) > MOST_BYTES {
            return Some("this node has no more room".to_owned());
        }
        let kept = self.of(name.0).map(|(of, kept)| (*of, size(kept.bytes)));
        let putting = self.putting.iter().filter(|((peer, ..), _)| *peer == name.0);
        let mut all: BTreeMap<Name, usize> = kept.collect();
        all.extend(putting.map(|(of, putting)| (*of, size(putting.bytes))));
        all.remove(&name);
        let held = all.values().fold(bytes, |sum, bytes| sum.saturating_add(*bytes));
        let tags: BTreeSet<Tag> = all.keys().map(|(_, tag, _)| *tag).chain([name.1]).collect();
        if all.len() >= MOST_APPOINTMENTS || tags.len() > MOST_TAGS {
            return Some(format!("{MOST_APPOINTMENTS} appointments of {MOST_TAGS} factories are the most"));
        }
        (held > QUOTA_BYTES)
            .then(|| format!("it would be {held} bytes in all, and {QUOTA_BYTES} are the most"))
    }

    pub(crate) fn kept(&self, name: &Name) -> Option<&Kept> {
        self.kept.get(name)
    }

    pub(crate) fn putting(&self, name: &Name) -> Option<&Putting> {
        self.putting.get(name)
    }

    /// Whether its transaction was seen, and isn't noted yet.
    pub(crate) fn is_opening(&self, name: &Name) -> bool {
        self.opening.contains(name)
    }

    /// The most records that a client had when it gave an appointment of this factory.
    pub(crate) fn counter(&self, peer: NodeId, tag: Tag) -> u32 {
        self.counters.get(&(peer, tag)).copied().unwrap_or(0)
    }

    /// Whether so many bytes more are too many at once.
    pub(crate) fn works_too_much(&self, peer: NodeId, now: Millis, bytes: usize) -> bool {
        self.work.is_too_much(peer, now, bytes)
    }

    /// What waits for a transaction.
    pub(crate) fn waits_for(&self, locator: Locator) -> impl Iterator<Item = Name> {
        let waiting = self.waits.get(&locator).into_iter().flatten();
        waiting.map(move |(peer, tag)| (*peer, *tag, locator))
    }

    /// What the follower looks for.
    pub(crate) fn locators(&self) -> impl Iterator<Item = Locator> {
        self.waits.keys().copied()
    }

    /// What came since the last block, and from which on it is looked for.
    pub(crate) fn fresh(&self) -> &BTreeMap<Locator, Height> {
        &self.fresh
    }

    /// Those whose transaction was seen, and that transaction.
    pub(crate) fn triggered(&self) -> impl Iterator<Item = (Name, (Txid, Height))> {
        self.kept.iter().filter_map(|(name, kept)| Some((*name, kept.trigger?)))
    }

    /// All that there are.
    pub(crate) fn names(&self) -> impl Iterator<Item = Name> {
        self.kept.keys().copied()
    }

    /// What is published now or will be.
    pub(crate) fn due(&self) -> impl Iterator<Item = (Name, Txid, &Due)> {
        self.due.iter().filter(|(_, due)| due.is_open()).map(|((name, txid), due)| (*name, *txid, due))
    }

    /// Outpoints that something due spends.
    pub(crate) fn outpoints(&self) -> impl Iterator<Item = OutPoint> {
        let inputs = self.due().flat_map(|(_, _, due)| &due.task.tx.input);
        inputs.map(|input| input.previous_output)
    }

    /// Appointments that nobody needs any more at this height.
    pub(crate) fn over(&self, height: Height) -> Vec<Name> {
        let late = self.kept.iter().filter(|(_, kept)| kept.until.saturating_add(BURIED) < height);
        late.map(|(name, _)| *name).collect()
    }
}

fn size(bytes: u32) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test")]

    use bitcoin::hashes::Hash;

    use super::*;
    use crate::types::Transaction;

    const TAG: Tag = [5; 32];

    fn name(peer: u8) -> Name {
        (NodeId([peer; 33]), TAG, [7; 16])
    }

    fn kept() -> Kept {
        Kept { sum: [1; 32], bytes: 100, until: 900, counter: 5, trigger: None }
    }

    fn task(not_before: Height) -> Task {
        let tx = Transaction {
            version: bitcoin::transaction::Version::TWO,
            lock_time: bitcoin::absolute::LockTime::ZERO,
            input: vec![],
            output: vec![],
        };
        Task { not_before, tx }
    }

    fn put(watching: &mut Watching, name: Name) {
        watching.apply(VolatileWatching::Putting(name, Putting { bytes: 100, from: 700, wanted: true }));
        watching.apply(VolatileWatching::Kept(name, kept()));
    }

    fn trigger() -> (Txid, Height) {
        (Txid::from_byte_array([3; 32]), 710)
    }

    /// S40: who watches for two that share a transaction publishes it for the one when the other needs it no more, or
    /// has spoiled its own.
    #[test]
    fn nobody_takes_anothers_away() {
        let mut watching = Watching::default();
        for peer in [1, 2] {
            put(&mut watching, name(peer));
        }
        watching.apply(VolatileWatching::Opened(name(1), trigger(), vec![task(u32::MAX)]));
        watching.apply(VolatileWatching::Opened(name(2), trigger(), vec![task(0)]));
        watching.apply(VolatileWatching::Forget(name(1)));
        let due: Vec<_> = watching.due().map(|(name, _, due)| (name, due.task.not_before)).collect();
        assert_eq!(due, [(name(2), 0)]);
        assert_eq!(watching.locators().count(), 1);
    }

    /// A newer appointment takes the place of what was due of the one before, and what it spends stays spent.
    #[test]
    fn a_newer_one_replaces_what_was_due() {
        let mut watching = Watching::default();
        put(&mut watching, name(1));
        watching.apply(VolatileWatching::Opened(name(1), trigger(), vec![task(800)]));
        let txid = task(0).tx.compute_txid();
        watching.apply(VolatileWatching::Opened(name(1), trigger(), vec![task(700)]));
        assert_eq!(watching.due().map(|(_, _, due)| due.task.not_before).collect::<Vec<_>>(), [700]);
        watching.apply(VolatileWatching::Spent(name(1), txid, 720));
        watching.apply(VolatileWatching::Opened(name(1), trigger(), vec![task(600)]));
        assert_eq!(watching.due().count(), 0);
        watching.apply(VolatileWatching::Reorged(719));
        assert_eq!(watching.due().count(), 1);
        for _ in 0..BURIED {
            watching.apply(VolatileWatching::NotThere(name(1), txid));
        }
        assert_eq!(watching.due().count(), 0);
        // It was reorganised out, and is in another block.
        watching.apply(VolatileWatching::Opened(name(1), (trigger().0, 830), vec![task(600)]));
        assert_eq!(watching.due().count(), 1);
    }

    /// What was forgotten while it was written, or opened, stays forgotten; what was seen and isn't noted is said.
    #[test]
    fn what_is_forgotten_stays_so() {
        let mut watching = Watching::default();
        watching.apply(VolatileWatching::Putting(name(1), Putting { bytes: 100, from: 700, wanted: true }));
        assert_eq!(watching.tagged(name(1).0, TAG).len(), 1);
        watching.apply(VolatileWatching::Forget(name(1)));
        assert!(watching.putting(&name(1)).is_some_and(|putting| !putting.wanted));
        watching.apply(VolatileWatching::NotKept(name(1)));
        assert!(watching.is_empty() && !watching.is_unsettled());
        put(&mut watching, name(1));
        assert!(watching.is_unsettled(), "it is still to be looked for");
        watching.apply(VolatileWatching::Looking);
        assert!(watching.is_unsettled(), "nobody has looked yet");
        watching.apply(VolatileWatching::Looked);
        assert!(!watching.is_unsettled());
        watching.apply(VolatileWatching::Opening(name(1)));
        assert!(watching.is_unsettled());
        watching.apply(VolatileWatching::Forget(name(1)));
        watching.apply(VolatileWatching::Opened(name(1), trigger(), vec![task(0)]));
        assert!(watching.is_empty() && watching.due().count() == 0 && !watching.is_unsettled());
    }

    /// S28: each peer has its quota, with what is being written.
    #[test]
    fn a_peer_has_its_bounds() {
        let mut watching = Watching::default();
        let at = |place: u8| (NodeId([1; 33]), TAG, [place; 16]);
        watching.load(at(1), Kept { bytes: 15_000_000, ..kept() });
        watching.apply(VolatileWatching::Putting(at(2), Putting { bytes: 900_000, from: 0, wanted: true }));
        assert_eq!(watching.too_many(at(3), 100_000), None);
        assert!(watching.too_many(at(3), 100_001).is_some_and(|why| why.contains("bytes")));
        assert_eq!(watching.too_many(at(1), 15_100_000), None, "in its place");
        assert_eq!(watching.too_many(name(2), 16_000_000), None, "another peer's");
        let tags: Vec<Tag> = (0..64).map(|tag| [tag; 32]).collect();
        for tag in &tags {
            watching.load((NodeId([3; 33]), *tag, [1; 16]), kept());
        }
        assert_eq!(watching.too_many((NodeId([3; 33]), [0; 32], [2; 16]), 1), None);
        assert!(watching.too_many((NodeId([3; 33]), [64; 32], [2; 16]), 1).is_some());
    }
}
