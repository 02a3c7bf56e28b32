//! Many runs, on as many threads as wanted. A run depends on its seed alone, so that nothing but the
//! time depends on the number of threads.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::sum::Sum;
use super::{Options, Outcome, play};

/// The first run with a violation.
#[derive(Debug, Clone)]
pub struct Found {
    /// How many runs it took, this one included.
    pub runs: u64,
    /// Options that play the same run again.
    pub options: Options,
    /// What became of that run.
    pub outcome: Outcome,
}

/// Plays `runs` runs, or until one has a violation; run i has the seed `options.seed` + i. `begin` is
/// called once in each thread, `seen` after each run.
pub fn many(
    options: &Options,
    runs: u64,
    jobs: usize,
    begin: impl Fn() + Sync,
    seen: impl Fn(&Outcome) + Sync,
) -> (Sum, Option<Found>) {
    let (next, bad) = (AtomicU64::new(0), AtomicU64::new(u64::MAX));
    let all: Mutex<(Sum, Option<Found>)> = Mutex::default();
    let work = || {
        begin();
        let mut sum = Sum::default();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            // Whatever comes before the first violation is played to its end.
            if index >= runs || index > bad.load(Ordering::Relaxed) {
                break;
            }
            let options = Options { seed: options.seed.wrapping_add(index), ..options.clone() };
            let outcome = play(&options);
            sum.add(&outcome);
            seen(&outcome);
            if outcome.violation.is_some() && bad.fetch_min(index, Ordering::Relaxed) > index {
                let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
                let runs = index.saturating_add(1);
                if all.1.as_ref().is_none_or(|found| found.runs > runs) {
                    all.1 = Some(Found { runs, options, outcome });
                }
            }
        }
        all.lock().unwrap_or_else(PoisonError::into_inner).0.merge(&sum);
    };
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(work);
        }
    });
    all.into_inner().unwrap_or_else(PoisonError::into_inner)
}
