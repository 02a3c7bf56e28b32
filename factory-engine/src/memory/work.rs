//! What peers have done for them: so many bytes in a while, and no more (S28).

use std::collections::BTreeMap;

use crate::types::{Millis, NodeId};

/// In so much time one peer has no more than [`MOST`] done.
const WINDOW: Millis = 600_000;
/// Bytes that are moved or written for one peer in [`WINDOW`].
const MOST: usize = 32_000_000;

/// Bytes that were moved or written for each peer in its window. Each request counts as `LEAST` at least.
#[derive(Debug, Default)]
pub(crate) struct Work<const LEAST: usize>(BTreeMap<NodeId, (Millis, usize)>);

impl<const LEAST: usize> Work<LEAST> {
    /// A peer has had so many bytes more.
    pub(crate) fn add(&mut self, peer: NodeId, now: Millis, bytes: usize) {
        self.0.retain(|_, (since, _)| now.saturating_sub(*since) <= WINDOW);
        let (_, done) = self.0.entry(peer).or_insert((now, 0));
        *done = done.saturating_add(bytes.max(LEAST));
    }

    /// Whether so many bytes more are too many at once.
    pub(crate) fn is_too_much(&self, peer: NodeId, now: Millis, bytes: usize) -> bool {
        let recent = self.0.get(&peer).filter(|(since, _)| now.saturating_sub(*since) <= WINDOW);
        recent.is_some_and(|(_, done)| done.saturating_add(bytes.max(LEAST)) > MOST)
    }
}
