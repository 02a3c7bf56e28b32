//! What happened to a factory, in order, as its records have it: for whoever answers for it, and for its money.
//!
//! One event is one entry, and its number never changes, because records only grow. Records have heights, of some events,
//! and no times: so has a history.

use std::collections::BTreeMap;
use std::collections::btree_map;

use crate::record::RecordError;
use crate::record::attempt::Role;
use crate::record::event::Event;
use crate::record::factory::Factory;
use crate::record::load_error::LoadError;
use crate::types::{Amount, Height, InstanceId, OutPoint, Txid};

use events::tell;
use told::msat;

pub use elsewhere::{Doubt, Elsewhere};
pub use kind::Kind;
pub use sums::{Back, Fees, Invoices, Prices, Sums};
pub use told::{Facts, Member, Told};

mod elsewhere;
mod events;
mod kind;
mod onchain;
mod sums;
mod told;

/// A transaction of this node's wallet that spends an anchor to raise a fee.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Child {
    /// Its id.
    pub txid: Txid,
    /// What it pays miners; nothing if it isn't known what it spends.
    pub fee: Option<Amount>,
}

/// One event of a factory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its place among all events of the factory, from 1: it never changes.
    pub index: u64,
    /// Number of its record, from 0.
    pub record: u32,
    /// Name of the event; `unreadable` of a record that isn't understood, which is one entry.
    pub event: &'static str,
    /// What it says.
    pub told: Told,
    /// Of one that has no height the highest block that was known before it: it came no earlier.
    pub not_before: Option<Height>,
    /// Whether a block that it is in has left the chain since.
    pub undone: bool,
    /// What raised the fee of its transaction.
    pub child: Option<Child>,
    anchor: Option<(OutPoint, Amount)>,
    /// Where it stands among heights.
    place: Option<Height>,
}

impl Entry {
    /// What it has to do with money, as the chain is now.
    pub fn money(&self) -> Sums {
        if self.undone { Sums::default() } else { self.told.money }
    }
}

/// What happened to one factory.
#[derive(Debug, Clone)]
pub struct History {
    /// Names the factory.
    pub instance: InstanceId,
    /// This node's part in it, unless no record could be read.
    pub role: Option<Role>,
    /// What the records amount to; nothing once it was forgotten.
    pub factory: Option<Factory>,
    /// Why not all of its records are understood, if so: what follows that is told as far as it fits.
    pub damage: Option<String>,
    /// Its events, in order.
    pub entries: Vec<Entry>,
}

/// Tells what happened to a factory. Each record is what decoding it gave.
pub fn history(
    instance: InstanceId,
    records: impl IntoIterator<Item = Result<Vec<Event>, RecordError>>,
) -> History {
    tell_all(instance, records, None)
}

/// The same where only some entries are shown: of the others there is what is counted and summed up, and no words.
pub fn history_for(
    instance: InstanceId,
    records: impl IntoIterator<Item = Result<Vec<Event>, RecordError>>,
    window: Window,
) -> History {
    tell_all(instance, records, Some(window))
}

fn tell_all(
    instance: InstanceId,
    records: impl IntoIterator<Item = Result<Vec<Event>, RecordError>>,
    window: Option<Window>,
) -> History {
    let history = History { instance, role: None, factory: None, damage: None, entries: vec![] };
    let mut teller = Teller { history, known: None, on_chain: BTreeMap::new(), window };
    for (number, record) in (0u32..).zip(records) {
        match record {
            Ok(events) => events.iter().for_each(|event| teller.take(number, event)),
            Err(error) => teller.miss(number, &error),
        }
    }
    teller.end()
}

/// Which entries somebody wants.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// These kinds; all if there are none.
    pub kinds: Vec<Kind>,
    /// From this height on. An event without a height counts as at the one before it, or before all others as at
    /// the first.
    pub from: Option<Height>,
    /// Up to this height, which is in.
    pub to: Option<Height>,
}

impl Filter {
    /// Whether an entry is wanted. One of a factory that has no height at all is at none, and in any range.
    pub fn fits(&self, entry: &Entry) -> bool {
        let in_range = |place: Height| {
            self.from.is_none_or(|from| place >= from) && self.to.is_none_or(|to| place <= to)
        };
        let of_kind = self.kinds.is_empty() || self.kinds.contains(&entry.told.kind);
        of_kind && entry.place.is_none_or(in_range)
    }
}

/// The entries that are shown: so many of those that somebody wants, from a number on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Window {
    /// Which are wanted.
    pub filter: Filter,
    /// The least number, as [`Entry::index`].
    pub start: u64,
    /// How many, at most.
    pub limit: usize,
}

impl Window {
    /// Whether the next entry may be one of them. Once as many as are shown are known to be, no later one is.
    fn takes(&mut self, entry: &Entry) -> bool {
        let takes = self.limit > 0 && entry.index >= self.start && self.filter.fits(entry);
        // One without a height may turn out not to be in range.
        if takes && entry.place.is_some() {
            self.limit = self.limit.saturating_sub(1);
        }
        takes
    }
}

impl Entry {
    /// Leaves what is counted, summed up and looked up ([`History::doubts`]).
    fn forget_words(&mut self) {
        let facts = &mut self.told.facts;
        let clients: Vec<Member> = facts.clients.first().into_iter().copied().collect();
        (facts.clients, facts.left_out, facts.reason) = (clients, vec![], None);
        self.told.what = String::new();
    }
}

impl History {
    /// The first height that is known of it.
    pub fn begins(&self) -> Option<Height> {
        self.entries.first().and_then(|entry| entry.place)
    }

    /// Entries that are wanted.
    pub fn wanted(&self, filter: &Filter) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(move |entry| filter.fits(entry))
    }

    /// What those have to do with money.
    pub fn sums(&self, filter: &Filter) -> Sums {
        let mut sums = Sums::default();
        for entry in self.wanted(filter) {
            sums.add(&entry.money());
        }
        sums
    }

    /// Anchors of the factory's transactions in the chain, and what they are worth: a child of this node's may have
    /// spent each.
    pub fn anchors(&self) -> impl Iterator<Item = (OutPoint, Amount)> {
        self.entries.iter().filter(|entry| !entry.undone).filter_map(|entry| entry.anchor)
    }

    /// Takes in what no record has: the child that raised the fee of a transaction, by its anchor.
    pub fn add_child(&mut self, anchor: OutPoint, child: Child) {
        let is_it = |entry: &&mut Entry| {
            let spent = entry.anchor.is_some_and(|(outpoint, _)| outpoint == anchor);
            spent && !entry.undone && entry.child.is_none()
        };
        let Some(entry) = self.entries.iter_mut().find(is_it) else { return };
        entry.child = Some(child);
        let money = &mut entry.told.money;
        match child.fee.zip(entry.anchor) {
            Some((fee, (_, value))) => {
                money.fees.children_msat = msat(fee);
                money.back.anchors_msat = msat(value);
            }
            None => money.children_unknown = 1,
        }
    }
}

/// Tells one factory's records.
struct Teller {
    history: History,
    /// The highest block that is known of.
    known: Option<Height>,
    /// Where the transactions that are in the chain stand among the entries, and their blocks.
    on_chain: BTreeMap<Txid, (usize, Height)>,
    /// Of which entries the words are kept; of all without one.
    window: Option<Window>,
}

impl Teller {
    fn take(&mut self, record: u32, event: &Event) {
        let mut told = tell(event, self.history.factory.as_ref());
        if let Err(error) = self.fold(event) {
            self.history.damage.get_or_insert_with(|| format!("record {record}: {error}"));
        }
        if let Some(factory) = &self.history.factory {
            self.history.role = Some(factory.current.role);
        }
        let mut anchor = None;
        if let (Event::Confirmed(confirmed), Some(factory)) = (event, &self.history.factory) {
            anchor = onchain::seen(factory, confirmed, &mut told);
        }
        if let Event::Confirmed(confirmed) = event {
            let place = (self.history.entries.len(), confirmed.height);
            // A start that doesn't understand a record reads the chain again.
            match self.on_chain.entry(confirmed.txid) {
                btree_map::Entry::Occupied(_) => (told.money, anchor) = (Sums::default(), None),
                btree_map::Entry::Vacant(new) => _ = new.insert(place),
            }
        }
        self.push(record, event.name(), told, anchor);
        if let Event::Reorged(reorged) = event {
            self.undo(reorged.height);
        }
    }

    /// A record that isn't understood.
    fn miss(&mut self, record: u32, error: &RecordError) {
        self.history.damage.get_or_insert_with(|| format!("record {record}: {error}"));
        let told = Told::new(Kind::Unreadable, "a record that this version doesn't understand");
        self.push(record, Kind::Unreadable.name(), told.reason(error.to_string()), None);
    }

    /// The factory as it is after an event. Once something didn't fit, what doesn't fit either leaves nothing behind.
    fn fold(&mut self, event: &Event) -> Result<(), LoadError> {
        let History { instance, factory, damage, .. } = &mut self.history;
        let before = damage.is_some().then(|| factory.clone());
        let folded = match factory {
            None => Factory::begin(*instance, event).map(|begun| *factory = Some(begun)),
            Some(factory) => factory.apply(event, None),
        };
        if let (Err(_), Some(before)) = (&folded, before) {
            *factory = before;
        }
        if matches!(event, Event::Forgotten(_)) {
            // Its operator may have invited again afterwards.
            *factory = None;
        }
        folded
    }

    fn push(&mut self, record: u32, event: &'static str, told: Told, anchor: Option<(OutPoint, Amount)>) {
        let not_before = self.known.filter(|_| told.height.is_none());
        self.known = self.known.max(told.height);
        let index = u64::try_from(self.history.entries.len()).unwrap_or(u64::MAX).saturating_add(1);
        let place = told.height.or(not_before);
        let (undone, child) = (false, None);
        let mut entry = Entry { index, record, event, told, not_before, undone, child, anchor, place };
        if self.window.as_mut().is_some_and(|window| !window.takes(&entry)) {
            entry.forget_words();
        }
        self.history.entries.push(entry);
    }

    /// Blocks above a height have left the chain, with what was in them.
    fn undo(&mut self, height: Height) {
        self.known = Some(height);
        for (place, _) in self.on_chain.values().filter(|(_, at)| *at > height) {
            if let Some(entry) = self.history.entries.get_mut(*place) {
                entry.undone = true;
            }
        }
        self.on_chain.retain(|_, (_, at)| *at <= height);
    }

    fn end(self) -> History {
        let mut history = self.history;
        // What comes before the first height was there before it, or with it.
        let first = history.entries.iter().find_map(|entry| entry.place);
        for entry in &mut history.entries {
            entry.place = entry.place.or(first);
        }
        history
    }
}

#[cfg(test)]
mod tests {
    use bitcoin::hashes::Hash;

    use super::*;

    fn history(of: u8, kind: Kind, money: Sums) -> History {
        let mut told = Told::new(kind, "in a block").at(5_u32).txid(Txid::from_byte_array([7; 32]));
        (told.facts.amount_msat, told.facts.fee_msat) = (Some(99_000), Some(1_000));
        told.money = money;
        let (index, record, event) = (1, 0, "confirmed");
        let entry = Entry {
            index,
            record,
            event,
            told,
            not_before: None,
            undone: false,
            child: None,
            anchor: None,
            place: Some(5),
        };
        let instance = InstanceId([of; 32]);
        History { instance, role: Some(Role::Lsp), factory: None, damage: None, entries: vec![entry] }
    }

    /// Sums of each factory, and its first entry, with what all of them say about each other.
    fn mended(histories: &[History]) -> Vec<(Sums, Entry)> {
        let mut elsewhere = Elsewhere::default();
        for history in histories {
            elsewhere.add_fundings(history);
        }
        let all = Filter::default();
        let mended = histories.iter().map(|history| {
            let (mut sums, mut entry) = (history.sums(&all), history.entries[0].clone());
            for (_, doubt) in history.doubts(&all).into_iter().filter(|(_, doubt)| elsewhere.knows(doubt)) {
                doubt.mend(&mut sums);
                doubt.mend_entry(&mut entry);
            }
            assert_eq!(sums, entry.money());
            (sums, entry)
        });
        mended.collect()
    }

    /// The funding that is nothing but another factory's coin.
    #[test]
    fn a_fee_that_two_factories_see_is_one() {
        let mut funding = Sums { put_in_msat: 99_000, ..Sums::default() };
        funding.fees.funding_msat = 1_000;
        let mut reclaim = Sums::default();
        (reclaim.back.reclaimed_msat, reclaim.fees.transactions_msat) = (99_000, 1_000);
        let both = [history(1, Kind::Reclaim, reclaim), history(2, Kind::Funding, funding)];
        let [(old_sums, old), (new_sums, new)] = <[_; 2]>::try_from(mended(&both)).unwrap();
        assert_eq!((old_sums.back.reclaimed_msat, old_sums.fees.total_msat()), (100_000, 0));
        assert_eq!((old.told.facts.amount_msat, old.told.facts.fee_msat), (Some(100_000), None));
        assert_eq!((new_sums, new.told.facts.fee_msat), (funding, Some(1_000)));
        // Of the old one alone nobody knows better.
        let alone = [history(1, Kind::Reclaim, reclaim)];
        assert_eq!(mended(&alone)[0].0, reclaim);
        // What has left the chain is nobody's.
        let mut undone = [history(1, Kind::Reclaim, reclaim), history(2, Kind::Funding, funding)];
        undone[1].entries[0].undone = true;
        let undone = mended(&undone);
        assert_eq!((undone[0].0, undone[1].0), (reclaim, Sums::default()));
    }
}
