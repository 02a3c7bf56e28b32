//! Fees from more than one source: whose word counts, and for how much (S26).

use std::collections::{BTreeMap, BTreeSet};

use crate::io::fees::{FALLBACK, Feerates};
use crate::types::Millis;

/// Lowest feerate that relays after rounding, sat/kw (as lightningd's).
pub const LOWEST: u32 = 253;

/// No source counts for more than so many times what any other says for the same time. Estimates of honest nodes
/// differ less, and fees that rise twentyfold within a dozen blocks rise less between two of them.
pub const FACTOR: u32 = 4;

/// For how long the last estimates count while nobody has others, milliseconds: a day.
pub const KEPT: Millis = 24 * 60 * 60 * 1000;

/// As many blocks are looked at for what they took.
pub const LAST_BLOCKS: u64 = 3;

/// In a block of this weight there was no room for what paid less. Weight units, of 4,000,000.
const FULL: u64 = 3_800_000;

/// A confirmation within so many blocks is what the last blocks say something about.
const NEXT: u32 = 2;

/// For what is due within as many blocks as this leaves ([`Feerates::target`]) there is no more time to try a lower feerate.
const AT_ONCE: u32 = 1;

/// Who says what fees are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// lightningd's backend.
    Backend,
    /// lightningd itself, which remembers what its backend has said.
    Lightningd,
    /// bitcoind, where the operator gives access.
    Bitcoind,
    /// What the last blocks took.
    Blocks,
    /// Nobody: it is the least that relays.
    Nobody,
}

impl Source {
    /// For programs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Backend => "backend",
            Self::Lightningd => "lightningd",
            Self::Bitcoind => "bitcoind",
            Self::Blocks => "blocks",
            Self::Nobody => "nobody",
        }
    }
}

/// What one block took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Took {
    /// Of all its transactions but the first, weight units.
    pub weight: u64,
    /// A quarter of that pays less, sat/kw.
    pub quarter: u32,
}

impl Took {
    /// Whether there was no room for what paid less.
    pub fn is_full(&self) -> bool {
        self.weight >= FULL
    }
}

/// What the last blocks say of fees: the middle one of three that were full. Nothing if one had room, since then
/// whatever the mempool took got in; and a miner that fills a block of its own with what it pays to itself says nothing.
pub fn of_blocks(blocks: &[Took]) -> Option<Feerates> {
    let [first, second, third] = blocks else { return None };
    if !blocks.iter().all(Took::is_full) {
        return None;
    }
    let mut quarters = [first.quarter, second.quarter, third.quarter];
    quarters.sort_unstable();
    let [_, middle, _] = quarters;
    Some(Feerates { floor: 0, estimates: BTreeMap::from([(NEXT, middle)]) })
}

/// What is reckoned with for one time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Estimate {
    /// What counts, sat/kw.
    pub feerate: u32,
    /// Who said that, or more.
    pub source: Source,
    /// What it said, sat/kw: more than counts if nobody else says anything like it.
    pub said: u32,
}

/// What is reckoned with, and who said so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decided {
    /// Below it nothing gets into the mempool, sat/kw.
    pub floor: u32,
    /// Who said that.
    pub floor_source: Source,
    /// Blocks to a confirmation, and what that takes. Empty if nobody has estimates.
    pub estimates: BTreeMap<u32, Estimate>,
    /// When the estimates were said; without any, the floor.
    pub since: Millis,
}

impl Decided {
    /// The numbers alone. Whoever is far above all others is out of its mind, or alone in seeing a storm: once there is no
    /// more time to try, its word counts in full. What is at stake is the limit then.
    pub fn feerates(&self) -> Feerates {
        let estimates = self.estimates.iter().map(|(blocks, estimate)| (*blocks, estimate.feerate));
        let mut estimates: BTreeMap<u32, u32> = estimates.collect();
        if let Some((_, soonest)) = self.estimates.first_key_value()
            && soonest.said > soonest.feerate
        {
            estimates.entry(AT_ONCE).or_insert(soonest.said);
        }
        Feerates { floor: self.floor, estimates }
    }
}

/// Of what the sources say, at one moment, the highest for each time, since a child that is too dear costs less than
/// one that comes too late; but no more than [`FACTOR`] times what any other says. Where none has estimates the last
/// ones count for as long as [`KEPT`]. The floor is the highest that anybody names: what is below is not taken.
pub fn decide(said: &[(Source, Feerates)], last: Option<&Decided>, now: Millis) -> Decided {
    let last = last.filter(|last| now.saturating_sub(last.since) <= KEPT);
    let remembered = || last.map(|last| (last.floor, last.floor_source));
    let (floor, floor_source) = floor(said).or_else(remembered).unwrap_or((LOWEST, Source::Nobody));
    let estimates = estimates(said);
    // Whatever is not new has the age that it had.
    let kept = last.filter(|last| estimates.is_empty() && (said.is_empty() || !last.estimates.is_empty()));
    let (estimates, since) = kept.map_or((estimates, now), |last| (last.estimates.clone(), last.since));
    Decided { floor, floor_source, estimates, since }
}

/// The highest; of equals the first.
fn floor(said: &[(Source, Feerates)]) -> Option<(u32, Source)> {
    let named = said.iter().map(|(source, rates)| (rates.floor, *source));
    let highest = named.reduce(|highest, next| if next.0 > highest.0 { next } else { highest });
    highest.map(|(floor, source)| if floor < LOWEST { (LOWEST, Source::Nobody) } else { (floor, source) })
}

fn estimates(said: &[(Source, Feerates)]) -> BTreeMap<u32, Estimate> {
    let times: BTreeSet<u32> = said.iter().flat_map(|(_, rates)| rates.estimates.keys().copied()).collect();
    times.into_iter().filter_map(|blocks| Some((blocks, estimate(said, blocks)?))).collect()
}

fn estimate(said: &[(Source, Feerates)], blocks: u32) -> Option<Estimate> {
    let exact =
        said.iter().filter_map(|(source, rates)| Some((*source, rates, *rates.estimates.get(&blocks)?)));
    let (source, rates, said_most) = exact.reduce(|most, next| if next.2 > most.2 { next } else { most })?;
    // Two that say the same throughout are one: mostly lightningd's backend asks that very bitcoind.
    // And what lightningd remembers may be from before a storm.
    let counts = |of: Source, what: &Feerates| of != Source::Lightningd && what.estimates != rates.estimates;
    let others = said.iter().filter(|(of, what)| counts(*of, what));
    let most = others.filter_map(|(_, other)| other.estimate(blocks)).max();
    // One that is far too low must not keep a child below what it pays where nobody says anything.
    let feerate = most.map_or(said_most, |most| said_most.min(most.saturating_mul(FACTOR).max(FALLBACK)));
    Some(Estimate { feerate, source, said: said_most })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(floor: u32, estimates: &[(u32, u32)]) -> Feerates {
        Feerates { floor, estimates: estimates.iter().copied().collect() }
    }

    /// What counts for two blocks, and whose word that is.
    fn urgent(said: &[(Source, Feerates)]) -> Option<(u32, Source)> {
        let decided = decide(said, None, 0);
        decided.estimates.get(&2).map(|estimate| (estimate.feerate, estimate.source))
    }

    // S26
    #[test]
    fn the_highest_counts_for_no_more_than_four_times_another() {
        use Source::{Backend, Bitcoind, Blocks, Lightningd};
        for (said, expected) in [
            // One alone is believed: what is at stake is the limit then.
            (vec![(Backend, 900_000)], (900_000, Backend)),
            (vec![(Backend, 9_000), (Bitcoind, 8_000)], (9_000, Backend)),
            (vec![(Backend, 8_000), (Bitcoind, 9_000)], (9_000, Bitcoind)),
            (vec![(Backend, 900_000), (Bitcoind, 8_000)], (32_000, Backend)),
            (vec![(Backend, 8_000), (Bitcoind, 900_000)], (32_000, Bitcoind)),
            // A storm that estimates are behind of.
            (vec![(Backend, 8_000), (Bitcoind, 8_000), (Blocks, 30_000)], (30_000, Blocks)),
            (vec![(Backend, 8_000), (Bitcoind, 8_000), (Blocks, 90_000)], (32_000, Blocks)),
            // The same node, asked in two ways: it doesn't bear itself out.
            (vec![(Backend, 900_000), (Bitcoind, 900_000), (Blocks, 5_000)], (20_000, Backend)),
            (vec![(Backend, 900_000), (Bitcoind, 900_000)], (900_000, Backend)),
            // Two that agree against one.
            (vec![(Backend, 60_000), (Bitcoind, 50_000), (Blocks, 5_000)], (60_000, Backend)),
            // One that is far too low is no reason to pay next to nothing.
            (vec![(Backend, 9_000), (Bitcoind, 253)], (2_500, Backend)),
            // What was true before the storm keeps nobody from seeing it.
            (vec![(Lightningd, 1_000), (Bitcoind, 90_000)], (90_000, Bitcoind)),
            (vec![(Lightningd, 900_000), (Bitcoind, 8_000)], (32_000, Lightningd)),
        ] {
            let said: Vec<_> =
                said.into_iter().map(|(source, feerate)| (source, rates(253, &[(2, feerate)]))).collect();
            assert_eq!(urgent(&said), Some(expected), "{said:?}");
        }
    }

    // S26
    #[test]
    fn what_was_cut_counts_in_full_when_there_is_no_more_time() {
        // A storm that the second doesn't see, or a first that is out of its mind: nobody can tell.
        let storm = rates(253, &[(2, 100_000), (6, 80_000)]);
        let said = [(Source::Backend, storm), (Source::Bitcoind, rates(253, &[(2, 253)]))];
        let decided = decide(&said, None, 0);
        let known = decided.feerates();
        assert_eq!([12, 4, 3, 0].map(|left| known.target(left)), [2_500, 3_750, 175_000, 250_000]);
        // It is nobody's estimate.
        assert_eq!(decided.estimates.into_keys().collect::<Vec<_>>(), [2, 6]);
        // One that isn't cut is as it was said.
        let calm = rates(253, &[(2, 900), (6, 800)]);
        assert_eq!(decide(&[(Source::Backend, calm.clone())], None, 0).feerates(), calm);
    }

    // S26
    #[test]
    fn of_each_time_and_of_the_floor_the_highest() {
        let backend = rates(253, &[(2, 15_000), (6, 11_000), (12, 7_500), (100, 3_750)]);
        let bitcoind = rates(300, &[(2, 9_000), (12, 8_000), (20, 400_000)]);
        let decided = decide(&[(Source::Backend, backend.clone()), (Source::Bitcoind, bitcoind)], None, 7);
        // Of twenty blocks the other says nothing: what it says of twelve limits this one.
        let expected = rates(300, &[(2, 15_000), (6, 11_000), (12, 8_000), (20, 30_000), (100, 3_750)]);
        assert_eq!(decided.feerates(), expected);
        assert_eq!((decided.floor_source, decided.since), (Source::Bitcoind, 7));
        let far = Estimate { feerate: 30_000, source: Source::Bitcoind, said: 400_000 };
        assert_eq!(decided.estimates.get(&20), Some(&far));
        // What no source names is the least that relays.
        let low = decide(&[(Source::Bitcoind, rates(25, &[]))], None, 0);
        assert_eq!((low.floor, low.floor_source), (LOWEST, Source::Nobody));
        assert_eq!(decide(&[(Source::Backend, backend.clone())], None, 0).feerates(), backend);
    }

    // S26
    #[test]
    fn without_estimates_the_last_count_for_a_day() {
        let known = decide(&[(Source::Backend, rates(400, &[(2, 9_000)]))], None, 1_000);
        let silent = [(Source::Bitcoind, rates(500, &[]))];
        for (said, later, expected) in [
            // The floor is new, the rest is not.
            (&silent[..], KEPT, rates(500, &[(2, 9_000)])),
            (&silent[..], KEPT + 1, rates(500, &[])),
            (&silent[..0], KEPT, rates(400, &[(2, 9_000)])),
            (&silent[..0], KEPT + 1, rates(LOWEST, &[])),
        ] {
            let decided = decide(said, Some(&known), 1_000 + later);
            assert_eq!(decided.feerates(), expected, "after {later}");
            let kept = !expected.estimates.is_empty();
            assert_eq!(decided.since, if kept { 1_000 } else { 1_000 + later });
            // And not for another day by having been kept.
            let again = decide(&[], Some(&decided), 1_000 + later + KEPT / 2);
            assert!(again.estimates.is_empty(), "{again:?}");
        }
        let nothing = decide(&[], None, 5);
        assert_eq!((nothing.feerates(), nothing.floor_source), (rates(LOWEST, &[]), Source::Nobody));
        // As soon as somebody has estimates they count, whatever was known.
        let anew = decide(&[(Source::Backend, rates(253, &[(2, 600)]))], Some(&known), 2_000);
        assert_eq!((anew.feerates(), anew.since), (rates(253, &[(2, 600)]), 2_000));
    }

    // S26
    #[test]
    fn blocks_with_room_say_nothing() {
        let took = |weight, quarter| Took { weight, quarter };
        let full = |quarter| took(3_990_000, quarter);
        for (blocks, expected) in [
            (vec![full(9_000), full(1_000), full(5_000)], Some(5_000)),
            // A miner's own, full of what it pays to itself.
            (vec![full(900_000), full(1_000), full(1_250)], Some(1_250)),
            (vec![full(9_000), took(3_700_000, 8_000), full(5_000)], None),
            (vec![full(9_000), took(0, 0)], None),
            (vec![full(9_000), full(9_000)], None),
            (vec![], None),
        ] {
            let expected = expected.map(|feerate| rates(0, &[(2, feerate)]));
            assert_eq!(of_blocks(&blocks), expected, "{blocks:?}");
        }
    }
}
