//! The operator's schedule for renewals: when a factory follows on those that end, for whom, and how large.

use std::fmt;

use crate::tx::layout::MAX_CLIENTS;
use crate::types::{Amount, Height};
use crate::wire::codec::{DecodeError, TlvStream, tlv_struct};

/// Rungs that the dying period has at least: a client that misses one comes to the next.
pub const LEAST_RUNGS: u32 = 4;

tlv_struct! {
    /// A ladder: every `rung_blocks` there is a *rung*, at which a factory is created for the clients that are due.
    #[derive(Copy)]
    pub struct Ladder {
        /// Blocks from one rung to the next.
        pub rung_blocks: u32 => 0,
        /// Blocks from a factory's creation to its timeout.
        pub lifetime_blocks: u32 => 2,
        /// Length of the dying period before the timeout, blocks: at least four rungs.
        pub dying_blocks: u32 => 4,
        /// Clients that a factory should have, but at the last rung that somebody can still use.
        pub smallest: u32 => 6,
        /// Clients that a factory has at most.
        pub largest: u32 => 8,
        /// So many of the clients that are due, in percent, are enough for a rung to begin before its latest date.
        pub enough_percent: u8 => 10,
        /// Blocks that a rung waits for that many, from its opening to its latest date: fewer than `rung_blocks`.
        pub wait_blocks: u32 => 12,
        /// How full a client's next channel is at most with what the client has, percent: it grows where it would
        /// be fuller, and never shrinks.
        pub fill_percent: u8 => 14,
        /// A channel doesn't grow beyond this, unless what the client has needs it.
        pub max_capacity: Amount => 16,
        /// Stock of each sub-factory; zero for none.
        pub stock: Amount => 18,
        /// Height at which the first rung opens; the others follow from it.
        pub begins: Height => 20,
        /// Whether nothing is begun for now.
        pub paused: bool => 22,
        /// Feerate of the tree's transactions, sat/kw; nothing for what fees call for when a rung begins.
        pub tree_feerate: Option<u32> => 23,
    }
}

impl Default for Ladder {
    fn default() -> Self {
        Self {
            rung_blocks: 144,
            lifetime_blocks: 8_640,
            dying_blocks: 1_008,
            smallest: 2,
            largest: 127,
            enough_percent: 90,
            wait_blocks: 72,
            fill_percent: 80,
            // lightningd's largest channel without option_support_large_channel.
            max_capacity: Amount::from_sat(16_777_215),
            stock: Amount::ZERO,
            begins: 0,
            paused: false,
            tree_feerate: None,
        }
    }
}

/// A rung, by its number: 0 is the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rung {
    /// Its number.
    pub number: u32,
    /// Height at which it opens: from then on it begins as soon as enough clients are there.
    pub opens: Height,
    /// Height from which on it begins with whoever is there.
    pub latest: Height,
    /// Height at which the next one opens.
    pub ends: Height,
}

/// Why a schedule makes no sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadLadder {
    /// There are no blocks between two rungs.
    NoRung,
    /// The dying period has too few rungs.
    FewRungs {
        /// Its length, blocks.
        dying_blocks: u32,
        /// From one rung to the next, blocks.
        rung_blocks: u32,
    },
    /// A factory would be due before it is usable.
    NoLife {
        /// From creation to timeout, blocks.
        lifetime_blocks: u32,
        /// Of these the dying period.
        dying_blocks: u32,
    },
    /// The number of clients.
    Size {
        /// The smallest factory.
        smallest: u32,
        /// The largest.
        largest: u32,
    },
    /// A share that is none.
    Percent {
        /// Its name in commands.
        name: &'static str,
        /// What was given.
        percent: u8,
    },
    /// A rung would wait until the next one.
    Wait {
        /// How long, blocks.
        wait_blocks: u32,
        /// From one rung to the next, blocks.
        rung_blocks: u32,
    },
}

impl fmt::Display for BadLadder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRung => f.write_str("rung_blocks: it has to be at least 1"),
            Self::FewRungs { dying_blocks, rung_blocks } => write!(
                f,
                "dying_blocks: {dying_blocks} blocks are fewer than {LEAST_RUNGS} rungs of {rung_blocks}: a client \
                 that is away at one rung has to find another; make it at least {}, or rung_blocks at most {}",
                rung_blocks.saturating_mul(LEAST_RUNGS),
                dying_blocks / LEAST_RUNGS
            ),
            Self::NoLife { lifetime_blocks, dying_blocks } => write!(
                f,
                "lifetime_blocks: {lifetime_blocks} have to be more than twice the dying period of {dying_blocks}: \
                 whoever came last to one factory would be due in the next before it is done"
            ),
            Self::Size { smallest, largest } => write!(
                f,
                "smallest and largest: {smallest} and {largest} clients; it has to be 1 or more, no more than largest, \
                 and that no more than {MAX_CLIENTS}"
            ),
            Self::Percent { name, percent } => {
                write!(f, "{name}: {percent} is out of range, it may be 1 to 100")
            }
            Self::Wait { wait_blocks, rung_blocks } => write!(
                f,
                "wait_blocks: {wait_blocks} have to be fewer than the {rung_blocks} from one rung to the next"
            ),
        }
    }
}

impl std::error::Error for BadLadder {}

impl Ladder {
    /// Whether the numbers fit together; what a factory of them would need is for the operator's other settings to
    /// say.
    ///
    /// # Errors
    /// What doesn't, and what would.
    pub fn check(&self) -> Result<(), BadLadder> {
        let Self { rung_blocks, lifetime_blocks, dying_blocks, smallest, largest, wait_blocks, .. } = *self;
        if rung_blocks == 0 {
            return Err(BadLadder::NoRung);
        }
        if u64::from(dying_blocks) < u64::from(rung_blocks).saturating_mul(LEAST_RUNGS.into()) {
            return Err(BadLadder::FewRungs { dying_blocks, rung_blocks });
        }
        if u64::from(lifetime_blocks) <= u64::from(dying_blocks).saturating_mul(2) {
            return Err(BadLadder::NoLife { lifetime_blocks, dying_blocks });
        }
        if smallest == 0 || smallest > largest || largest > MAX_CLIENTS {
            return Err(BadLadder::Size { smallest, largest });
        }
        for (name, percent) in [("enough_percent", self.enough_percent), ("fill_percent", self.fill_percent)]
        {
            if !(1..=100).contains(&percent) {
                return Err(BadLadder::Percent { name, percent });
            }
        }
        if wait_blocks >= rung_blocks {
            return Err(BadLadder::Wait { wait_blocks, rung_blocks });
        }
        Ok(())
    }

    /// The rung at a height; nothing before the first.
    pub fn rung_at(&self, height: Height) -> Option<Rung> {
        let number = height.checked_sub(self.begins)?.checked_div(self.rung_blocks)?;
        let opens = self.begins.saturating_add(number.saturating_mul(self.rung_blocks));
        let (latest, ends) = (opens.saturating_add(self.wait_blocks), opens.saturating_add(self.rung_blocks));
        Some(Rung { number, opens, latest, ends })
    }

    /// Whether so many of those that are due are enough for a rung to begin before its latest date.
    pub fn is_enough(&self, here: usize, due: usize) -> bool {
        let count = |clients: usize| u64::try_from(clients).unwrap_or(u64::MAX);
        let wanted = count(due).saturating_mul(self.enough_percent.into()).div_ceil(100);
        here > 0 && count(here) >= wanted.max(self.smallest.into())
    }

    /// A client's next channel: as large as the one before (S32), or larger where what the client `has` (msat) would
    /// fill more than `fill_percent` of it. What it has always fits, and what the operator needs beside it.
    pub fn next_capacity(&self, before: Amount, has_msat: u64) -> Amount {
        let has = has_msat.div_ceil(1_000);
        let roomy = has.saturating_mul(100).div_ceil(u64::from(self.fill_percent).max(1));
        let grown = roomy.min(self.max_capacity.to_sat()).max(if has == 0 {
            0
        } else {
            has.saturating_add(MOVE_ROOM)
        });
        before.max(Amount::from_sat(grown.min(Amount::MAX_MONEY.to_sat())))
    }

    /// As it is kept in the datastore.
    pub fn to_bytes(self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.write_stream(&mut bytes);
        bytes
    }

    /// What [`Ladder::to_bytes`] made.
    ///
    /// # Errors
    /// When the bytes are damaged, or a newer plugin's.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        Self::read_stream(bytes)
    }
}

/// What the operator needs of its own in a channel so that a balance moves there at any usual feerate, sat: reserve,
/// anchors, and the fee of a commitment transaction with an HTLC.
const MOVE_ROOM: u64 = 10_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn with(change: impl FnOnce(&mut Ladder)) -> Ladder {
        let mut ladder = Ladder::default();
        change(&mut ladder);
        ladder
    }

    #[test]
    fn the_default_fits_together() {
        assert_eq!(Ladder::default().check(), Ok(()));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        type Change = fn(&mut Ladder);
        let bad: [(Change, &str); 8] = [
            (|l| l.rung_blocks = 0, "rung_blocks: it has to be at least 1"),
            (|l| l.dying_blocks = 575, "at least 576, or rung_blocks at most 143"),
            (|l| l.lifetime_blocks = 2_016, "more than twice the dying period of 1008"),
            (|l| l.smallest = 0, "0 and 127 clients"),
            (|l| l.smallest = 128, "128 and 127 clients"),
            (|l| l.largest = 4_097, "no more than 4096"),
            (|l| l.fill_percent = 101, "fill_percent: 101 is out of range"),
            (|l| l.wait_blocks = 144, "fewer than the 144"),
        ];
        for (change, says) in bad {
            let said = with(change).check().unwrap_err().to_string();
            assert!(said.contains(says), "{said}");
        }
        assert!(with(|l| l.dying_blocks = 576).check().is_ok(), "four rungs are enough");
        let large = with(|l| (l.rung_blocks, l.dying_blocks) = (u32::MAX, u32::MAX));
        assert!(large.check().is_err(), "no number is too large to be looked at");
    }

    #[test]
    fn rungs_follow_on_each_other() {
        let ladder = with(|l| (l.begins, l.rung_blocks, l.wait_blocks) = (100, 20, 5));
        assert_eq!(ladder.rung_at(99), None);
        let first = Rung { number: 0, opens: 100, latest: 105, ends: 120 };
        assert_eq!((ladder.rung_at(100), ladder.rung_at(119)), (Some(first), Some(first)));
        assert_eq!(ladder.rung_at(120), Some(Rung { number: 1, opens: 120, latest: 125, ends: 140 }));
        let last = ladder.rung_at(Height::MAX).unwrap();
        assert_eq!((last.number, last.ends), ((Height::MAX - 100) / 20, Height::MAX));
    }

    #[test]
    fn how_many_are_enough() {
        let ladder = with(|l| (l.smallest, l.enough_percent) = (3, 90));
        for (due, least) in [(1, 3), (3, 3), (10, 9), (11, 10), (100, 90)] {
            assert!(!ladder.is_enough(least - 1, due), "{due}");
            assert!(ladder.is_enough(least, due), "{due}");
        }
        assert!(!with(|l| l.smallest = 1).is_enough(0, 0), "nobody is never enough");
    }

    /// S32: a channel never shrinks; what its client has fits into the next one.
    #[test]
    fn a_channel_grows_with_what_is_used_and_never_shrinks() {
        let ladder = with(|l| (l.fill_percent, l.max_capacity) = (80, Amount::from_sat(1_000_000)));
        let next =
            |before: u64, has: u64| ladder.next_capacity(Amount::from_sat(before), has * 1_000).to_sat();
        assert_eq!(next(500_000, 0), 500_000);
        assert_eq!(next(500_000, 400_000), 500_000, "four fifths of it");
        assert_eq!(next(500_000, 480_000), 600_000);
        assert_eq!(next(500_000, 900_000), 1_000_000, "the largest");
        assert_eq!(next(500_000, 1_200_000), 1_210_000, "but what it has has to fit");
        assert_eq!(next(1_500_000, 10), 1_500_000);
        assert_eq!(next(10, 100), 10_100, "and so has what the operator needs");
        assert_eq!(ladder.next_capacity(Amount::ZERO, 1), Amount::from_sat(10_001));
        assert_eq!(ladder.next_capacity(Amount::ZERO, u64::MAX), Amount::MAX_MONEY);
    }

    #[test]
    fn what_is_kept_comes_back() {
        for ladder in [Ladder::default(), with(|l| (l.tree_feerate, l.paused) = (Some(700), true))] {
            assert_eq!(Ladder::from_bytes(&ladder.to_bytes()), Ok(ladder));
        }
        assert!(Ladder::from_bytes(&[0]).is_err());
        assert!(Ladder::from_bytes(&[]).is_err());
    }
}
