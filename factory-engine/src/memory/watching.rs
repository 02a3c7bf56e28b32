//! Tower: whom this node watches for, what waits for a transaction, and what is due. What is stored of it is read again
//! at a start.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::RangeInclusive;

use bitcoin::hashes::Hash;

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
    /// Those that are being opened, and the block of their transaction where the disk doesn't know of it yet.
    opening: BTreeMap<Name, Option<Height>>,
    /// Came since the last block; from which on it is looked for them.
    fresh: BTreeMap<Locator, Height>,
    /// Blocks are being looked into for those that came before that: each time from which on, the oldest first.
    looking: VecDeque<Height>,
    /// What is on the disk couldn't be read.
    unread: bool,
    /// Of each factory the most records that its client had when it gave an appointment.
    counters: BTreeMap<(NodeId, Tag), u32>,
    /// Bytes of all appointments.
    bytes: usize,
    /// Number and bytes of each peer's.
    held: BTreeMap<NodeId, (usize, usize)>,
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
    /// What it waits for was seen: in this block, unless the disk knows that.
    Opening(Name, Option<Height>),
    /// It was opened: these are due, and nothing else of it.
    Opened(Name, (Txid, Height), Vec<Task>),
    /// What came since the last block is being looked for, in blocks from this one on.
    Looking(Height),
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
            VolatileWatching::Opening(name, height) => drop(self.opening.insert(name, height)),
            VolatileWatching::Opened(name, trigger, tasks) => self.opened(name, trigger, tasks),
            VolatileWatching::Looking(from) => {
                self.fresh.clear();
                self.looking.push_back(from);
            }
            // They are carried out in order.
            VolatileWatching::Looked => drop(self.looking.pop_front()),
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
        self.forget_due(name);
        let (first, last) = of_peer(name.0).into_inner();
        let open =
            self.due.range((first, lowest())..=(last, highest())).filter(|(_, due)| due.is_open()).count();
        let room = MOST_DUE.saturating_sub(open);
        for task in tasks.into_iter().take(room) {
            let txid = task.tx.compute_txid();
            let (spent, not_there) =
                before.get(&txid).filter(|_| same).map_or((None, 0), |known| (known.spent, known.not_there));
            self.due.insert((name, txid), Due { task, since: trigger.1, spent, not_there });
        }
    }

    fn due_of(&self, name: Name) -> impl Iterator<Item = (Txid, &Due)> {
        let all = self.due.range((name, lowest())..=(name, highest()));
        all.map(|((_, txid), due)| (*txid, due))
    }

    fn forget_due(&mut self, name: Name) {
        let all: Vec<Txid> = self.due_of(name).map(|(txid, _)| txid).collect();
        for txid in all {
            self.due.remove(&(name, txid));
        }
    }

    /// An appointment that is stored.
    pub(crate) fn load(&mut self, name: Name, kept: Kept) {
        let (peer, tag, locator) = name;
        let (count, bytes) = self.held.entry(peer).or_default();
        (*count, *bytes) = (count.saturating_add(1), bytes.saturating_add(size(kept.bytes)));
        self.waits.entry(locator).or_default().insert((peer, tag));
        let counter = self.counters.entry((peer, tag)).or_default();
        *counter = kept.counter.max(*counter);
        self.bytes = self.bytes.saturating_add(size(kept.bytes));
        if let Some(before) = self.kept.insert(name, kept) {
            self.gone(peer, size(before.bytes));
        }
    }

    fn gone(&mut self, peer: NodeId, size: usize) {
        self.bytes = self.bytes.saturating_sub(size);
        if let Some((count, bytes)) = self.held.get_mut(&peer) {
            (*count, *bytes) = (count.saturating_sub(1), bytes.saturating_sub(size));
            if *count == 0 {
                self.held.remove(&peer);
            }
        }
    }

    fn forget(&mut self, name: Name) {
        let (peer, tag, locator) = name;
        if let Some(before) = self.kept.remove(&name) {
            self.gone(peer, size(before.bytes));
        }
        // Until its answer is there nothing else of its name is written.
        if let Some(putting) = self.putting.get_mut(&name) {
            putting.wanted = false;
        }
        self.opening.remove(&name);
        self.forget_due(name);
        if self.kept.range(of_tag(peer, tag)).next().is_none() {
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

    /// The first block in which something was seen that the disk doesn't know of, or is still to be looked for: a start
    /// has to read it again.
    pub(crate) fn unsettled(&self) -> Option<Height> {
        let seen = self.opening.values().flatten();
        seen.chain(self.fresh.values()).chain(&self.looking).chain(self.unread.then_some(&0)).min().copied()
    }

    pub(crate) fn unread(&mut self) {
        self.unread = true;
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
        self.kept.range(of_peer(peer))
    }

    /// Those with one tag, and what is being written with it.
    pub(crate) fn tagged(&self, peer: NodeId, tag: Tag) -> BTreeSet<Name> {
        let range = of_tag(peer, tag);
        let kept = self.kept.range(range.clone()).map(|(name, _)| *name);
        kept.chain(self.putting.range(range).map(|(name, _)| *name)).collect()
    }

    /// Why one more of a peer's can't be kept, in place of one with its name. Whoever is named has its quota, however many
    /// others there are.
    pub(crate) fn too_many(&self, name: Name, bytes: usize, is_named: bool) -> Option<String> {
        let (peer, tag, _) = name;
        let (mut count, mut held) = self.held.get(&peer).copied().unwrap_or_default();
        let mut all = self.bytes;
        let mut tags: BTreeSet<Tag> = [tag].into();
        tags.extend(self.counters.range((peer, [0; 32])..=(peer, [0xff; 32])).map(|((_, tag), _)| *tag));
        // What is written takes the place of what has its name.
        let putting = self.putting.range(of_peer(peer)).filter(|(of, _)| **of != name);
        for (of, more) in putting.map(|(of, putting)| (*of, size(putting.bytes))).chain([(name, bytes)]) {
            match self.kept.get(&of).map(|kept| size(kept.bytes)) {
                Some(before) => {
                    held = held.saturating_sub(before);
                    all = all.saturating_sub(before);
                }
                None => count = count.saturating_add(1),
            }
            (held, all) = (held.saturating_add(more), all.saturating_add(more));
            tags.insert(of.1);
        }
        if all > MOST_BYTES && !is_named {
            return Some("this node has no more room".to_owned());
        }
        if count > MOST_APPOINTMENTS || tags.len() > MOST_TAGS {
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
        self.opening.contains_key(name)
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

/// All names of a peer's.
fn of_peer(peer: NodeId) -> RangeInclusive<Name> {
    (peer, [0; 32], [0; 16])..=(peer, [0xff; 32], [0xff; 16])
}

/// All names of one of its factories.
fn of_tag(peer: NodeId, tag: Tag) -> RangeInclusive<Name> {
    (peer, tag, [0; 16])..=(peer, tag, [0xff; 16])
}

fn lowest() -> Txid {
    Txid::from_byte_array([0; 32])
}

fn highest() -> Txid {
    Txid::from_byte_array([0xff; 32])
}

fn size(bytes: u32) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test")]

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
        assert_eq!(watching.unsettled(), None, "nobody was told that it is kept");
        assert_eq!(watching.tagged(name(1).0, TAG).len(), 1);
        watching.apply(VolatileWatching::Forget(name(1)));
        assert!(watching.putting(&name(1)).is_some_and(|putting| !putting.wanted));
        watching.apply(VolatileWatching::NotKept(name(1)));
        assert!(watching.is_empty() && watching.unsettled().is_none());
        put(&mut watching, name(1));
        assert_eq!(watching.unsettled(), Some(700), "it is still to be looked for");
        watching.apply(VolatileWatching::Looking(701));
        watching.apply(VolatileWatching::Looking(703));
        assert_eq!(watching.unsettled(), Some(701), "nobody has looked yet");
        watching.apply(VolatileWatching::Looked);
        assert_eq!(watching.unsettled(), Some(703), "the second one is still under way");
        watching.apply(VolatileWatching::Looked);
        assert_eq!(watching.unsettled(), None);
        watching.apply(VolatileWatching::Opening(name(1), None));
        assert_eq!(watching.unsettled(), None, "the disk knows of it");
        watching.apply(VolatileWatching::Opening(name(1), Some(702)));
        assert_eq!(watching.unsettled(), Some(702));
        watching.apply(VolatileWatching::Forget(name(1)));
        watching.apply(VolatileWatching::Opened(name(1), trigger(), vec![task(0)]));
        assert!(watching.is_empty() && watching.due().count() == 0 && watching.unsettled().is_none());
    }

    /// S28: each peer has its quota, with what is being written.
    #[test]
    fn a_peer_has_its_bounds() {
        let mut watching = Watching::default();
        let at = |place: u8| (NodeId([1; 33]), TAG, [place; 16]);
        watching.load(at(1), Kept { bytes: 15_000_000, ..kept() });
        watching.apply(VolatileWatching::Putting(at(2), Putting { bytes: 900_000, from: 0, wanted: true }));
        assert_eq!(watching.too_many(at(3), 100_000, false), None);
        assert!(watching.too_many(at(3), 100_001, false).is_some_and(|why| why.contains("bytes")));
        assert_eq!(watching.too_many(at(1), 15_100_000, false), None, "in its place");
        assert_eq!(watching.too_many(name(2), 16_000_000, false), None, "another peer's");
        let tags: Vec<Tag> = (0..64).map(|tag| [tag; 32]).collect();
        for tag in &tags {
            watching.load((NodeId([3; 33]), *tag, [1; 16]), kept());
        }
        assert_eq!(watching.too_many((NodeId([3; 33]), [0; 32], [2; 16]), 1, false), None);
        assert!(watching.too_many((NodeId([3; 33]), [64; 32], [2; 16]), 1, false).is_some());
        // Whoever is named has its quota when others have used up the rest.
        for peer in 10..50 {
            watching.load((NodeId([peer; 33]), TAG, [1; 16]), Kept { bytes: 14_000_000, ..kept() });
        }
        assert!(watching.too_many(name(5), 1, false).is_some_and(|why| why.contains("room")));
        assert_eq!(watching.too_many(name(5), 1, true), None);
    }
}
