//! A message that waits to be sent.

use std::sync::Arc;

use crate::wire::message::Message;

/// A message's bytes, of which those that many messages have in common are in memory once: a thousand proposals
/// that wait differ in a few kilobytes each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pieces {
    /// Everything else.
    own: Vec<u8>,
    /// Where in `own` the common part belongs.
    at: usize,
    common: Arc<[u8]>,
}

impl From<Vec<u8>> for Pieces {
    fn from(own: Vec<u8>) -> Self {
        Self { own, at: 0, common: Arc::new([]) }
    }
}

impl From<&Message> for Pieces {
    fn from(message: &Message) -> Self {
        let bytes = message.encode();
        match message {
            Message::Propose(propose) => Self::around(bytes, propose.clients.encoded_once()),
            _ => bytes.into(),
        }
    }
}

impl Pieces {
    /// Takes the common part out of the bytes, if it is in there.
    fn around(bytes: Vec<u8>, common: Arc<[u8]>) -> Self {
        // It comes early, and what stands before differs from it at once.
        let at = bytes.windows(common.len().max(1)).position(|window| *window == *common);
        let parts =
            at.and_then(|at| Some((at, bytes.get(..at)?, bytes.get(at.checked_add(common.len())?..)?)));
        match parts {
            Some((at, before, after)) => Self { own: [before, after].concat(), at, common },
            None => bytes.into(),
        }
    }

    /// How many bytes it has.
    pub(super) fn len(&self) -> usize {
        self.own.len().saturating_add(self.common.len())
    }

    /// So many of its bytes from `start` on, or as many as there are.
    pub(super) fn fragment(&self, start: usize, size: usize) -> Vec<u8> {
        let (before, after) = self.own.split_at_checked(self.at).unwrap_or((&self.own, &[]));
        let mut fragment = Vec::with_capacity(size.min(self.len()));
        let mut skip = start;
        for piece in [before, &*self.common, after] {
            let rest = piece.get(skip..).unwrap_or_default();
            skip = skip.saturating_sub(piece.len());
            let room = size.saturating_sub(fragment.len());
            fragment.extend_from_slice(rest.get(..room).unwrap_or(rest));
        }
        fragment
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_fragment_of_any_pieces() {
        let bytes: Vec<u8> = (0..40).collect();
        for (from, to) in [(0, 0), (0, 7), (0, 40), (3, 3), (3, 20), (12, 40), (39, 40)] {
            let pieces = Pieces::around(bytes.clone(), bytes[from..to].into());
            assert_eq!(pieces.len(), 40);
            assert_eq!(pieces.own.len(), 40 - (to - from), "the common part is there once");
            for start in 0..=41 {
                for size in 0..=42 {
                    let end = (start + size).min(40).max(start.min(40));
                    assert_eq!(pieces.fragment(start, size), bytes[start.min(40)..end]);
                }
            }
        }
    }

    #[test]
    fn a_common_part_that_is_not_there() {
        let pieces = Pieces::around(vec![1, 2, 3], [3, 4].into());
        assert_eq!(pieces, Pieces::from(vec![1, 2, 3]));
        assert_eq!(Pieces::around(vec![1], [1, 2].into()).fragment(0, 9), [1]);
    }
}
