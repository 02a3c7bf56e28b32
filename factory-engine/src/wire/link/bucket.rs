//! A token bucket: so many at once, so many per second.

use crate::types::Millis;

/// A token is this many parts, so that a millisecond's share is a whole number of them.
const PARTS: u64 = 1000;

#[derive(Debug)]
pub(super) struct Bucket {
    /// Parts gained per millisecond: tokens per second.
    rate: u64,
    capacity: u64,
    parts: u64,
    last: Option<Millis>,
}

impl Bucket {
    /// A full bucket: `burst` tokens at once, `per_second` in the long run.
    pub(super) fn new(per_second: u32, burst: u32) -> Self {
        let capacity = u64::from(burst).saturating_mul(PARTS);
        Self { rate: per_second.into(), capacity, parts: capacity, last: None }
    }

    /// Takes a token; `false` if there is none. A clock that steps back gives nothing and costs
    /// nothing.
    pub(super) fn take(&mut self, now: Millis) -> bool {
        let elapsed = self.last.map_or(0, |last| now.saturating_sub(last));
        self.last = Some(now);
        let gained = elapsed.saturating_mul(self.rate);
        self.parts = self.parts.saturating_add(gained).min(self.capacity);
        match self.parts.checked_sub(PARTS) {
            Some(left) => {
                self.parts = left;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn burst_then_rate() {
        let mut bucket = Bucket::new(2, 3);
        assert!((0..3).all(|_| bucket.take(10_000)));
        assert!(!bucket.take(10_000));
        assert!(!bucket.take(10_499), "half a second makes a token, not less");
        assert!(bucket.take(10_500));
        assert!(!bucket.take(9_000), "a clock that steps back gives nothing");
        assert!(bucket.take(9_500), "and then goes on from there");
        assert_eq!((0..9).filter(|_| bucket.take(u64::MAX)).count(), 3, "never above the burst");
    }
}
