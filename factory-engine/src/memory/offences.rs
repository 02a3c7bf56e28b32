//! Who has wasted our work, and how long it waits for it (S28, S35). A restart forgives everybody.

use std::collections::BTreeMap;

use crate::types::{Millis, NodeId};

/// Offences that cost nothing: anybody may be unlucky.
const FREE: u32 = 8;
/// The first wait, milliseconds; each further one is twice as long.
const FIRST: Millis = 10_000;
/// The longest, milliseconds: a day.
const LONGEST: Millis = 24 * 3_600_000;
/// Peers that are remembered. Of more, those that have waited longest are forgotten.
const MOST: usize = 1_024;

#[derive(Debug, Clone, Copy)]
struct Offence {
    count: u32,
    until: Millis,
}

/// Peers that have wasted our work.
#[derive(Debug, Default)]
pub(crate) struct Offences(BTreeMap<NodeId, Offence>);

impl Offences {
    /// How long a peer has to wait yet, milliseconds; nothing if it needn't.
    pub(crate) fn wait(&self, peer: NodeId, now: Millis) -> Option<Millis> {
        self.0.get(&peer).map(|offence| offence.until.saturating_sub(now)).filter(|left| *left > 0)
    }

    pub(crate) fn note(&mut self, peer: NodeId, now: Millis) {
        if self.0.len() >= MOST && !self.0.contains_key(&peer) {
            let oldest = self.0.iter().min_by_key(|(_, offence)| offence.until).map(|(peer, _)| *peer);
            oldest.map(|oldest| self.0.remove(&oldest));
        }
        let offence = self.0.entry(peer).or_insert(Offence { count: 0, until: 0 });
        offence.count = offence.count.saturating_add(1);
        if let Some(times) = offence.count.checked_sub(FREE.saturating_add(1)) {
            let wait = FIRST.checked_shl(times.min(30)).unwrap_or(LONGEST).min(LONGEST);
            offence.until = now.saturating_add(wait);
        }
    }

    /// It has done what it was asked for.
    pub(crate) fn forgive(&mut self, peer: NodeId) {
        self.0.remove(&peer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(n: u8) -> NodeId {
        NodeId([n; 33])
    }

    /// S28: each wait is longer than the one before, up to a day; and a good end forgives.
    #[test]
    fn repeat_offenders_wait_longer_each_time() {
        let mut offences = Offences::default();
        (0..FREE).for_each(|_| offences.note(peer(1), 0));
        assert_eq!(offences.wait(peer(1), 0), None);
        let mut before = 0;
        for _ in 0..12 {
            offences.note(peer(1), 0);
            let wait = offences.wait(peer(1), 0).unwrap();
            assert!(wait == before * 2 || before == 0 && wait == FIRST, "{before} and then {wait}");
            before = wait;
        }
        (0..100).for_each(|_| offences.note(peer(1), 0));
        assert_eq!(offences.wait(peer(1), 1), Some(LONGEST - 1));
        assert_eq!(offences.wait(peer(2), 0), None);
        offences.forgive(peer(1));
        assert_eq!(offences.wait(peer(1), 0), None);
    }

    /// S28: however many there are, only so many are remembered.
    #[test]
    fn memory_is_bounded() {
        let mut offences = Offences::default();
        let nobody = Offence { count: 1, until: 5 };
        for n in 0..MOST {
            let mut id = [5; 33];
            id[..8].copy_from_slice(&n.to_be_bytes());
            offences.0.insert(NodeId(id), nobody);
        }
        offences.note(peer(4), 1);
        assert_eq!(offences.0.len(), MOST);
        assert!(offences.0.contains_key(&peer(4)));
    }
}
