//! The shortest schedule: which of a run's faults a violation needs.

use std::collections::BTreeSet;

use super::{Options, Outcome, play};

/// Runs that shrinking may take.
const LIMIT: u32 = 600;

/// A schedule from which no single fault can be taken away without losing the violation, and what
/// happens with it.
pub fn shrink(options: &Options, found: &Outcome) -> (Options, Outcome) {
    let mut best: Vec<u64> = found.fired.iter().map(|fired| fired.point).collect();
    let property = found.property().map(str::to_owned);
    let mut outcome = found.clone();
    let mut runs = 0;
    let with = |points: &[u64]| Options { only: Some(points.iter().copied().collect()), ..options.clone() };
    let mut chunk = best.len().max(1);
    loop {
        let mut smaller = false;
        let mut from = 0;
        while from < best.len() && runs < LIMIT {
            let mut fewer = best.clone();
            fewer.drain(from..from.saturating_add(chunk).min(best.len()));
            let tried = play(&with(&fewer));
            runs += 1;
            if tried.violation.is_some() && tried.property() == property.as_deref() {
                // Of those that were allowed perhaps not all came up.
                let fired: BTreeSet<u64> = tried.fired.iter().map(|fired| fired.point).collect();
                best = fewer.into_iter().filter(|point| fired.contains(point)).collect();
                outcome = tried;
                smaller = true;
            } else {
                from = from.saturating_add(chunk);
            }
        }
        if runs >= LIMIT || (chunk == 1 && !smaller) || best.is_empty() {
            return (with(&best), outcome);
        }
        if !smaller || chunk > best.len() {
            chunk = (chunk / 2).max(1);
        }
    }
}
