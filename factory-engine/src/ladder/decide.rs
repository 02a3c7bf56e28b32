//! The decision at each block, or when somebody connects: whether a rung begins now, and with whom. A function of
//! what is due and who is here; nothing else has a part in it.

use std::fmt;

use crate::policy::ladder::{Ladder, Rung};
use crate::types::{Amount, Height, InstanceId, NodeId};

use super::plan::shares;

/// A client whose factory is in its dying period, and that has no place in a later one yet; or one that was evicted and
/// is here again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    /// Its node.
    pub node: NodeId,
    /// The factory that ends (factory_instance).
    pub instance: InstanceId,
    /// Height by which its key has to be handed over: from there on it is evicted (S21). [`Height::MAX`] if it was.
    pub by: Height,
    /// Height up to which a rung that begins is early enough for that; or the same.
    pub last: Height,
    /// Whether it is connected, and may be invited.
    pub here: bool,
    /// The capacity of its next channel.
    pub next: Amount,
}

/// What has come of a rung so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Made {
    /// Whether a factory of the ladder's is being created.
    pub under_way: bool,
    /// Factories of this rung that live.
    pub factories: u32,
    /// Whether more clients were there than one factory may have, and not all of them have a place yet.
    pub more: bool,
    /// Attempts at this rung that came to nothing.
    pub failed: u32,
    /// Height at which the last of them ended.
    pub failed_at: Height,
}

/// What is done now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// A factory is created for these.
    Begin(Vec<Due>),
    /// Nothing, for this reason.
    Wait(Wait),
}

impl Due {
    /// Whether its channel is on chain already: it comes back, whenever that is.
    pub fn was_evicted(&self) -> bool {
        self.by == Height::MAX
    }
}

/// Why nothing is begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// There is no ladder.
    NoLadder,
    /// It is paused.
    Paused,
    /// The first rung opens later.
    NotYet {
        /// Height at which it does.
        opens: Height,
    },
    /// A factory is being created.
    UnderWay,
    /// Nobody is due.
    NobodyDue,
    /// An attempt at this rung failed, and the next one waits.
    Again {
        /// Height from which on it is tried again.
        from: Height,
    },
    /// Too few of those that are due are connected.
    Few {
        /// Who is.
        here: u32,
        /// Who is due.
        due: u32,
        /// Height from which on fewer are enough.
        latest: Height,
    },
    /// Fewer than the smallest factory has are connected, and each of them has another rung.
    TooFew {
        /// Who is.
        here: u32,
        /// Clients of the smallest factory.
        smallest: u32,
        /// Height at which the next rung opens.
        next: Height,
    },
    /// This rung is done; whoever came after it waits for the next.
    Done {
        /// Height at which the next rung opens.
        next: Height,
    },
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoLadder => f.write_str("no ladder is set"),
            Self::Paused => f.write_str("it is paused: factory-ladder resume"),
            Self::NotYet { opens } => write!(f, "the first rung opens at height {opens}"),
            Self::UnderWay => f.write_str("a factory is being created"),
            Self::NobodyDue => f.write_str("nobody is due who has no place in a later factory"),
            Self::Again { from } => {
                write!(f, "the last attempt failed; it is tried again from height {from}")
            }
            Self::Few { here, due, latest } => {
                write!(f, "{here} of {due} due clients are connected; from height {latest} on that is enough")
            }
            Self::TooFew { here, smallest, next } => write!(
                f,
                "{here} due clients are connected, fewer than the {smallest} of the smallest factory; the next rung \
                 opens at height {next}"
            ),
            Self::Done { next } => write!(f, "this rung is done; the next one opens at height {next}"),
        }
    }
}

/// Blocks before an attempt at a rung that failed is tried again; after the next failure twice as many, and so on.
const AGAIN: u32 = 3;

/// Whether a rung begins at `height`. `settled` says that everybody who is there had time to connect: right after a
/// start, and at the first connection, nobody is taken for away.
pub fn decide(ladder: Option<&Ladder>, height: Height, made: Made, due: &[Due], settled: bool) -> Decision {
    match try_decide(ladder, height, made, due, settled) {
        Ok(clients) => Decision::Begin(clients),
        Err(wait) => Decision::Wait(wait),
    }
}

fn try_decide(
    ladder: Option<&Ladder>,
    height: Height,
    made: Made,
    due: &[Due],
    settled: bool,
) -> Result<Vec<Due>, Wait> {
    let ladder = ladder.ok_or(Wait::NoLadder)?;
    if ladder.paused {
        return Err(Wait::Paused);
    }
    let rung = ladder.rung_at(height).ok_or(Wait::NotYet { opens: ladder.begins })?;
    if made.under_way {
        return Err(Wait::UnderWay);
    }
    // Whoever can't be done in time any more is evicted, and comes back from there: with others if there are some, and
    // by the latest date all the same. Only at a first try: they are none of what makes it come off.
    let (evicted, due): (Vec<Due>, Vec<Due>) = due.iter().copied().partition(Due::was_evicted);
    let due: Vec<Due> = due.into_iter().filter(|due| height <= due.last).collect();
    let back: Vec<Due> = evicted.into_iter().filter(|client| client.here && made.failed == 0).collect();
    // Everybody had time to come.
    let open = height >= rung.latest && settled;
    if due.is_empty() {
        return alone(ladder, rung, made, back, open);
    }
    if let Some(times) = made.failed.checked_sub(1) {
        let pause = AGAIN.checked_shl(times.min(10)).unwrap_or(u32::MAX);
        let from = made.failed_at.saturating_add(pause);
        if height < from {
            return Err(Wait::Again { from });
        }
    }
    let mut here: Vec<Due> = due.iter().copied().filter(|due| due.here).collect();
    let last = here.iter().any(|due| due.last < rung.ends);
    if made.factories > 0 && !made.more && !last {
        return Err(Wait::Done { next: rung.ends });
    }
    if !ladder.is_enough(here.len(), due.len()) {
        let few = Wait::Few { here: count(here.len()), due: count(due.len()), latest: rung.latest };
        // It can't wait for that if it is too late for somebody then.
        let must = here.iter().any(|due| due.last <= height);
        // Who was evicted has a factory of this rung, whatever its size: whoever is here may as well be in it.
        let begins = !back.is_empty() && made.factories == 0;
        if !must && !open || here.is_empty() && !begins {
            return Err(few);
        }
        if count(here.len()) < ladder.smallest && !last && !begins {
            let (here, smallest) = (count(here.len()), ladder.smallest);
            return Err(Wait::TooFew { here, smallest, next: rung.ends });
        }
    }
    let mut clients = first_share(&mut here, ladder, made.failed);
    clients.extend(back.into_iter().take(most(ladder).saturating_sub(clients.len())));
    Ok(clients)
}

fn count(clients: usize) -> u32 {
    u32::try_from(clients).unwrap_or(u32::MAX)
}

fn most(ladder: &Ladder) -> usize {
    usize::try_from(ladder.largest).unwrap_or(usize::MAX)
}

/// Nobody is due. Who was evicted and is here again waits for somebody until the latest date of a rung, and no longer:
/// there may never be anybody.
fn alone(ladder: &Ladder, rung: Rung, made: Made, mut back: Vec<Due>, open: bool) -> Result<Vec<Due>, Wait> {
    if back.is_empty() {
        return Err(Wait::NobodyDue);
    }
    if made.factories > 0 {
        return Err(Wait::Done { next: rung.ends });
    }
    if !open {
        return Err(Wait::Few { here: count(back.len()), due: count(back.len()), latest: rung.latest });
    }
    back.truncate(most(ladder));
    Ok(back)
}

/// Of more clients than a factory may have, those whose time is nearest; the rest make factories as large, at once
/// after it. In the order in which they came: who shared a leaf does so again. What has failed twice is tried with half
/// as many, and so on: the wallet may be short of coins for all of them, or one of them makes each attempt fail.
fn first_share(here: &mut [Due], ladder: &Ladder, failed: u32) -> Vec<Due> {
    here.sort_by_key(|due| due.by);
    let fewer = here.len().checked_shr(failed.saturating_sub(1)).unwrap_or(0);
    let most = most(ladder).min(fewer.max(1));
    shares(here, most).first().map_or_else(Vec::new, |first| first.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPENS: Height = 1_000;

    fn ladder() -> Ladder {
        Ladder {
            begins: OPENS,
            rung_blocks: 20,
            wait_blocks: 10,
            smallest: 2,
            largest: 4,
            ..Ladder::default()
        }
    }

    /// Clients whose last rung is far away, the first so many of them here.
    fn due(all: u8, here: u8) -> Vec<Due> {
        let client = |number| Due {
            node: NodeId([number; 33]),
            instance: InstanceId([9; 32]),
            by: 5_000,
            last: 4_982,
            here: number < here,
            next: Amount::from_sat(100_000),
        };
        (0..all).map(client).collect()
    }

    fn at(height: Height, made: Made, due: &[Due]) -> Result<usize, Wait> {
        match decide(Some(&ladder()), height, made, due, true) {
            Decision::Begin(clients) => {
                assert!(clients.iter().all(|client| client.here));
                Ok(clients.len())
            }
            Decision::Wait(wait) => Err(wait),
        }
    }

    #[test]
    fn nothing_begins_without_a_ladder_or_while_it_is_paused() {
        let wait = |ladder: Option<&Ladder>| decide(ladder, OPENS, Made::default(), &due(3, 3), true);
        assert_eq!(wait(None), Decision::Wait(Wait::NoLadder));
        assert_eq!(wait(Some(&Ladder { paused: true, ..ladder() })), Decision::Wait(Wait::Paused));
        assert_eq!(at(OPENS - 1, Made::default(), &due(3, 3)), Err(Wait::NotYet { opens: OPENS }));
        assert_eq!(at(OPENS, Made::default(), &[]), Err(Wait::NobodyDue));
        let made = Made { under_way: true, ..Made::default() };
        assert_eq!(at(OPENS, made, &due(3, 3)), Err(Wait::UnderWay));
    }

    /// Enough of them at once; fewer only from the latest date on, and not right after a start.
    #[test]
    fn enough_or_the_latest_date() {
        assert_eq!(at(OPENS, Made::default(), &due(4, 4)), Ok(4));
        let few = Wait::Few { here: 3, due: 4, latest: OPENS + 10 };
        assert_eq!(at(OPENS, Made::default(), &due(4, 3)), Err(few));
        assert_eq!(at(OPENS + 9, Made::default(), &due(4, 3)), Err(few));
        assert_eq!(at(OPENS + 10, Made::default(), &due(4, 3)), Ok(3));
        let fresh = decide(Some(&ladder()), OPENS + 10, Made::default(), &due(4, 3), false);
        assert_eq!(fresh, Decision::Wait(few));
        let too_few = Wait::TooFew { here: 1, smallest: 2, next: OPENS + 20 };
        assert_eq!(at(OPENS + 10, Made::default(), &due(4, 1)), Err(too_few));
        let nobody = Wait::Few { here: 0, due: 4, latest: OPENS + 10 };
        assert_eq!(at(OPENS + 19, Made::default(), &due(4, 0)), Err(nobody));
    }

    /// S38: the smallest factory is a matter of cost; nobody is evicted for it.
    #[test]
    fn the_last_rung_takes_everybody() {
        let mut all = due(4, 1);
        all[0].last = OPENS + 19;
        assert_eq!(at(OPENS + 10, Made::default(), &all), Ok(1));
        // It doesn't wait for the latest date if that is too late.
        all[0].last = OPENS + 5;
        assert!(at(OPENS + 4, Made::default(), &all).is_err());
        assert_eq!(at(OPENS + 5, Made::default(), &all), Ok(1));
        assert_eq!(
            at(OPENS + 6, Made::default(), &all),
            Err(Wait::Few { here: 0, due: 3, latest: OPENS + 10 })
        );
        // Also in a rung that is done.
        let made = Made { factories: 1, ..Made::default() };
        assert_eq!(at(OPENS + 5, made, &all), Ok(1));
    }

    #[test]
    fn a_rung_is_one_factory_unless_more_are_there_than_it_takes() {
        let done = Made { factories: 1, ..Made::default() };
        assert_eq!(at(OPENS + 10, done, &due(3, 3)), Err(Wait::Done { next: OPENS + 20 }));
        assert_eq!(at(OPENS + 20, Made::default(), &due(3, 3)), Ok(3), "the next one has made none");
        // Five make a factory of three, and one of two at once after it.
        assert_eq!(at(OPENS, Made::default(), &due(5, 5)), Ok(3));
        assert_eq!(at(OPENS + 1, Made { more: true, ..done }, &due(2, 2)), Ok(2));
    }

    /// S37: who was evicted and is here again waits for others until the latest date, and no longer; whoever is here then
    /// comes with it, however few they are.
    #[test]
    fn who_was_evicted_is_asked_by_the_latest_date() {
        let back = |count: u8| {
            let mut back = due(count, count);
            for client in &mut back {
                client.node = NodeId([100 + client.node.0[0]; 33]);
                (client.by, client.last) = (Height::MAX, Height::MAX);
            }
            back
        };
        let made = Made::default();
        let few = Wait::Few { here: 1, due: 1, latest: OPENS + 10 };
        assert_eq!(at(OPENS, made, &back(1)), Err(few));
        assert_eq!(at(OPENS + 9, made, &back(1)), Err(few));
        assert_eq!(at(OPENS + 10, made, &back(1)), Ok(1));
        assert_eq!(at(OPENS + 10, made, &back(9)), Ok(4), "no more than the largest");
        let fresh = decide(Some(&ladder()), OPENS + 10, made, &back(1), false);
        assert_eq!(fresh, Decision::Wait(few), "others may be about to come");
        // One of those that are due is here, or none.
        for here in [0, 1] {
            let both = [due(4, here), back(1)].concat();
            let few = Wait::Few { here: here.into(), due: 4, latest: OPENS + 10 };
            assert_eq!(at(OPENS + 9, made, &both), Err(few));
            assert_eq!(at(OPENS + 10, made, &both), Ok(usize::from(here) + 1));
        }
        assert_eq!(at(OPENS, made, &[due(3, 3), back(1)].concat()), Ok(4), "into a place that is left");
        // A rung that is done, or has failed with it, does nothing more for it.
        let done = Made { factories: 1, ..made };
        assert_eq!(at(OPENS + 10, done, &back(1)), Err(Wait::Done { next: OPENS + 20 }));
        let failed = Made { failed: 1, failed_at: OPENS, ..made };
        assert_eq!(at(OPENS + 10, failed, &back(1)), Err(Wait::NobodyDue));
        let too_few = Wait::TooFew { here: 1, smallest: 2, next: OPENS + 20 };
        assert_eq!(at(OPENS + 10, failed, &[due(4, 1), back(1)].concat()), Err(too_few));
    }

    /// Those whose time is nearest come first.
    #[test]
    fn who_has_least_time_is_first() {
        let mut all = due(5, 5);
        (all[3].by, all[4].by) = (4_000, 4_500);
        let Decision::Begin(first) = decide(Some(&ladder()), OPENS, Made::default(), &all, true) else {
            panic!("it waits")
        };
        let nodes: Vec<u8> = first.iter().map(|due| due.node.0[0]).collect();
        assert_eq!(nodes, [3, 4, 0]);
    }

    /// What failed is tried again, each time after a longer wait, and with fewer.
    #[test]
    fn a_failed_rung_is_tried_again() {
        for (failed, pause, clients) in [(1, 3, 4), (2, 6, 2), (3, 12, 1), (9, 768, 1)] {
            let made = Made { failed, failed_at: OPENS, ..Made::default() };
            let from = OPENS + pause;
            assert_eq!(at(from - 1, made, &due(4, 4)), Err(Wait::Again { from }));
            assert_eq!(at(from, made, &due(4, 4)), Ok(clients));
        }
    }
}
