//! When an operator makes the next factory, and with whom: a pure function of who is due and here. A driver that
//! has another rule puts it in the place of [`next`].

use factory_engine::types::Height;

/// The numbers of a ladder, blocks and clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ladder {
    /// Blocks from one rung to the next.
    pub rung_blocks: u32,
    /// Rungs after which a factory is due.
    pub due_rungs: u32,
    /// Rungs that its clients then have to move: the dying period.
    pub dying_rungs: u32,
    /// The least clients of a factory between rungs.
    pub smallest: usize,
    /// The least on a rung.
    pub enough: usize,
    /// The most.
    pub largest: usize,
}

impl Ladder {
    /// Blocks from a factory's creation to its timeout.
    pub fn lifetime_blocks(&self) -> u32 {
        self.rung_blocks.saturating_mul(self.due_rungs.saturating_add(self.dying_rungs))
    }

    /// Length of the dying period, blocks: it begins a little before a rung.
    pub fn dying_blocks(&self) -> u32 {
        self.rung_blocks.saturating_mul(self.dying_rungs).saturating_add(self.rung_blocks / 14)
    }
}

/// A client that is due and connected, and in no factory that is being made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    /// Whoever it is.
    pub client: usize,
    /// Height of its factory's timeout; nothing for one that has no factory.
    pub timeout: Option<Height>,
}

/// How much of its dying period a client has left, in hundredths.
fn left(ladder: &Ladder, due: &Due, height: Height) -> u32 {
    let blocks = due.timeout.map_or(u32::MAX, |timeout| timeout.saturating_sub(height));
    blocks.saturating_mul(100).checked_div(ladder.dying_blocks()).unwrap_or(100)
}

/// The factories that are made now. On a rung: full ones of all that are due and here, the longest due first; what is
/// left over is one more if it is enough for one, and otherwise waits for the next rung. In between, once somebody is
/// here of whose dying period a quarter is over: of all that are due and here, as soon as they are a few; and in its
/// second half for that one alone.
pub fn next(ladder: &Ladder, height: Height, rung: bool, here: &[Due]) -> Vec<Vec<usize>> {
    let mut all = here.to_vec();
    all.sort_by_key(|due| (left(ladder, due, height), due.client));
    let latest = all.first().map_or(100, |due| left(ladder, due, height));
    let least = match latest {
        0..=50 => 1,
        51..=75 => ladder.smallest,
        _ if rung => ladder.enough,
        _ => return vec![],
    };
    let mut made: Vec<Vec<usize>> = vec![];
    for some in all.chunks(ladder.largest.max(1)) {
        // Those that are late come first: the last ones have time.
        let enough = if made.is_empty() { least } else { ladder.enough };
        if some.len() >= enough.max(1) {
            made.push(some.iter().map(|due| due.client).collect());
        }
    }
    made
}

#[cfg(test)]
mod tests {
    use super::*;

    const LADDER: Ladder =
        Ladder { rung_blocks: 100, due_rungs: 4, dying_rungs: 4, smallest: 3, enough: 5, largest: 10 };

    fn here(count: usize, timeout: Height) -> Vec<Due> {
        (0..count).map(|client| Due { client, timeout: Some(timeout) }).collect()
    }

    fn sizes(height: Height, rung: bool, here: &[Due]) -> Vec<usize> {
        next(&LADDER, height, rung, here).iter().map(Vec::len).collect()
    }

    #[test]
    fn on_a_rung_as_many_as_are_enough() {
        assert_eq!(sizes(500, false, &here(9, 900)), Vec::<usize>::new());
        assert_eq!(sizes(500, true, &here(4, 900)), Vec::<usize>::new());
        assert_eq!(sizes(500, true, &here(9, 900)), [9]);
        assert_eq!(sizes(500, true, &here(24, 900)), [10, 10]);
        assert_eq!(sizes(500, true, &here(25, 900)), [10, 10, 5]);
    }

    #[test]
    fn who_comes_late_is_not_kept_waiting() {
        assert_eq!(sizes(590, false, &here(3, 900)), Vec::<usize>::new(), "three quarters are left");
        assert_eq!(sizes(601, false, &here(3, 900)), [3]);
        assert_eq!(sizes(601, false, &here(2, 900)), Vec::<usize>::new());
        assert_eq!(sizes(701, false, &here(1, 900)), [1]);
        // The longest due first; somebody without a factory waits for a rung.
        let both = [Due { client: 7, timeout: None }, Due { client: 8, timeout: Some(900) }];
        assert_eq!(next(&LADDER, 701, false, &both), [[8, 7]]);
        assert_eq!(sizes(801, false, &[Due { client: 7, timeout: None }; 5]), Vec::<usize>::new());
    }
}
