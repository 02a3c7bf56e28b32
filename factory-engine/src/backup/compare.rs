//! What a copy has beside what is stored (S9, S39).

use std::collections::BTreeSet;
use std::fmt;

use crate::io::Keeper;
use crate::record::event::{Event, Recovered, Restored};
use crate::record::{decode_record, encode_record};

/// What a copy has beside what is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Comparison {
    /// Nothing: it is of the first records, or of all.
    Older,
    /// Nothing, though it isn't of the first records: all of it is stored, with others among it.
    Within,
    /// These, after all that is stored; and then that the factory was restored.
    Newer(Vec<Vec<u8>>),
    /// This node was restored from fewer records than it has. These are the others, and then that the factory was restored
    /// once more: they come after all that is stored, if they fit there.
    Later(Vec<Vec<u8>>),
    /// Others.
    Other,
}

/// Compares a copy with what is stored. `keeper` is who has the copy.
///
/// Whoever is restored has the newest copy that could be had, and notes there that it was restored. A keeper that comes
/// later may have more: then the two part at that very note, and what the keeper has after it is this node's own, from before
/// its loss. Where they part anywhere else there were two courses of things, and neither goes on in the other.
pub fn compare(copied: &[Vec<u8>], stored: &[Vec<u8>], keeper: Keeper) -> Comparison {
    if stored.starts_with(copied) {
        return Comparison::Older;
    }
    if let Some(missing) = copied.strip_prefix(stored) {
        let told = Event::Restored(Restored { reason: outdated(stored.len(), copied.len(), keeper) });
        return Comparison::Newer(missing.iter().cloned().chain([encode_record(&[told])]).collect());
    }
    let common = copied.iter().zip(stored).take_while(|(copied, stored)| copied == stored).count();
    let more = copied.get(common..).unwrap_or_default();
    let since = stored.get(common..).unwrap_or_default();
    let noted = |record: &Vec<u8>| says(record, |event| is_restored(event) || is_recovered(event));
    let parted_there = since.first().is_some_and(noted);
    let more: Vec<Vec<u8>> = more.iter().filter_map(without_chain).collect();
    // Other records have come back before: they have to be of the same course, of which the last stands before its note.
    let same_course = since.windows(2).all(|pair| match pair {
        [before, note] if noted(note) => without_chain(before).is_some_and(|before| more.contains(&before)),
        _ => true,
    });
    if !parted_there || !same_course {
        return Comparison::Other;
    }
    let known: BTreeSet<Vec<u8>> = since.iter().filter_map(without_chain).collect();
    let mut missing: Vec<Vec<u8>> = more.into_iter().filter(|record| !known.contains(record)).collect();
    if missing.is_empty() {
        return if copied.len() < stored.len() { Comparison::Within } else { Comparison::Other };
    }
    let reason = format!(
        "this node was restored from the first {common} of its records; its copy {} has {}, and what was missing is back",
        place(keeper),
        copied.len()
    );
    // Channels that were lost stay lost, whatever these say of them.
    let lost = since.iter().any(|record| says(record, is_recovered));
    let told =
        if lost { Event::Recovered(Recovered { reason }) } else { Event::Restored(Restored { reason }) };
    missing.push(encode_record(&[told]));
    Comparison::Later(missing)
}

/// A record without what the chain says, and nothing if that was all: an old reorganisation that is told once more would
/// undo what has been seen since, and the chain is read again.
fn without_chain(record: impl AsRef<[u8]>) -> Option<Vec<u8>> {
    let record = record.as_ref();
    let Ok(events) = decode_record(record) else { return Some(record.to_vec()) };
    let left: Vec<Event> = events
        .into_iter()
        .filter(|event| !matches!(event, Event::Confirmed(_) | Event::Reorged(_)))
        .collect();
    (!left.is_empty()).then(|| encode_record(&left))
}

fn is_restored(event: &Event) -> bool {
    matches!(event, Event::Restored(_))
}

fn is_recovered(event: &Event) -> bool {
    matches!(event, Event::Recovered(_))
}

/// Whether one of a record's events is such a one.
fn says(record: &[u8], such: impl Fn(&Event) -> bool) -> bool {
    decode_record(record).is_ok_and(|events| events.iter().any(such))
}

/// Why a factory is exit-only whose records ended too early.
pub fn outdated(had: impl fmt::Display, copied: impl fmt::Display, keeper: Keeper) -> String {
    let place = place(keeper);
    format!(
        "its records ended after {had}, and its copy {place} has {copied}: this node was restored from an older backup"
    )
}

fn place(keeper: Keeper) -> &'static str {
    match keeper {
        Keeper::File => "in the backup file",
        Keeper::Peer(_) => "with a peer",
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

    use super::*;
    use crate::record::event::{ChannelResolved, Reorged};

    /// A record of something that happened, told apart by a number.
    fn happened(height: u32) -> Vec<u8> {
        encode_record(&[Event::from(ChannelResolved { client: height })])
    }

    fn reorged(height: u32) -> Vec<u8> {
        encode_record(&[Event::from(Reorged { height })])
    }

    fn restored() -> Vec<u8> {
        encode_record(&[Event::from(Restored { reason: "an older disk".to_owned() })])
    }

    fn recovered() -> Vec<u8> {
        encode_record(&[Event::from(Recovered { reason: "the machine is lost".to_owned() })])
    }

    fn records(heights: &[u32]) -> Vec<Vec<u8>> {
        heights.iter().map(|height| happened(*height)).collect()
    }

    /// S39: of two copies the one with more counts, also if it comes after the other was restored: what it has more is
    /// taken behind what has happened since, once, and the channels stay lost.
    #[test]
    fn a_newer_copy_than_was_restored_counts() {
        let newer = records(&[1, 2, 3, 4]);
        for (note, lost) in [(recovered(), true), (restored(), false)] {
            let mut stored = [&newer[..2], &[note, happened(9), happened(3)]].concat();
            let Comparison::Later(missing) = compare(&newer, &stored, Keeper::File) else { panic!() };
            assert_eq!(missing[..1], records(&[4]), "what both have noted is there");
            assert_eq!(missing.len(), 2);
            let told = decode_record(&missing[1]).unwrap();
            assert_eq!(matches!(told[0], Event::Recovered(_)), lost);
            assert_eq!(matches!(told[0], Event::Restored(_)), !lost);
            stored.extend(missing);
            assert_eq!(compare(&newer, &stored, Keeper::File), Comparison::Within);
            // A third that has still more.
            let newest = records(&[1, 2, 3, 4, 5]);
            let Comparison::Later(missing) = compare(&newest, &stored, Keeper::File) else { panic!() };
            assert_eq!(missing[..1], records(&[5]));
            assert_eq!(compare(&newer[..2], &stored, Keeper::File), Comparison::Older);
        }
    }

    /// S25: what the chain said before is not told once more.
    #[test]
    fn the_chain_speaks_for_itself() {
        let copied = [records(&[1]), vec![reorged(99), happened(2)]].concat();
        let stored = [records(&[1]), vec![recovered(), reorged(101)]].concat();
        let Comparison::Later(missing) = compare(&copied, &stored, Keeper::File) else { panic!() };
        assert_eq!(missing[..1], records(&[2]));
        assert_eq!(missing.len(), 2);
    }

    /// S9: what parts elsewhere, or is no record at all, is another course of things.
    #[test]
    fn two_courses_of_things_stay_apart() {
        let copied = records(&[1, 2, 3]);
        let lost = vec![];
        let other = reorged(1);
        for parts in [happened(9), lost, other] {
            let stored = [&copied[..2], &[parts, restored()]].concat();
            assert_eq!(compare(&copied, &stored, Keeper::File), Comparison::Other);
        }
        // Both have gone on from the same note.
        let copied = [records(&[1]), vec![recovered(), happened(2)]].concat();
        let stored = [records(&[1]), vec![recovered(), happened(3)]].concat();
        assert_eq!(compare(&copied, &stored, Keeper::File), Comparison::Other);
        // Two courses from before, of which one has come back.
        let stored = [records(&[1, 2]), vec![recovered(), happened(5), happened(6), recovered()]].concat();
        for copied in [records(&[1, 2, 3, 4]), records(&[1, 2, 5, 7])] {
            assert_eq!(compare(&copied, &stored, Keeper::File), Comparison::Other);
        }
        // Nothing in it is missing, and yet it has more.
        let copied = records(&[1, 2, 2, 2, 2]);
        let stored = [records(&[1]), vec![recovered(), happened(2)]].concat();
        assert_eq!(compare(&copied, &stored, Keeper::File), Comparison::Other);
    }
}
