//! A message that waits to be sent.

use std::ops::Range;
use std::sync::Arc;

use crate::wire::codec::{BigSize, Codec, Records};
use crate::wire::message::{Message, Propose};

/// A message's bytes, of which those that many messages have in common are in memory once: a thousand proposals
/// that wait differ in a few kilobytes each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pieces {
    /// The message's bytes without the common part.
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
    #[expect(clippy::wildcard_enum_match_arm, reason = "only proposals have parts in common")]
    fn from(message: &Message) -> Self {
        let shared = match message {
            Message::Propose(propose) => Self::of_proposal(propose),
            _ => None,
        };
        shared.unwrap_or_else(|| message.encode().into())
    }
}

impl Pieces {
    /// A proposal's members are what it has in common with others. They are never copied into its own bytes, not
    /// even for a moment: that would be most of the work of sending it.
    fn of_proposal(propose: &Propose) -> Option<Self> {
        let without = Propose { clients: vec![].into(), ..propose.clone() };
        let bytes = Message::from(without).encode();
        let place = record_place(&bytes, Propose::CLIENTS)?;
        let common = propose.clients.encoded_once();
        let mut own = bytes.get(..place.start)?.to_vec();
        BigSize(Propose::CLIENTS).write(&mut own);
        BigSize::of(common.len()).write(&mut own);
        let at = own.len();
        own.extend_from_slice(bytes.get(place.end..)?);
        Some(Self { own, at, common })
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

/// Where a record of a message is, from its type to the end of its value.
fn record_place(message: &[u8], kind: u64) -> Option<Range<usize>> {
    // After the message's own type.
    let mut records = Records::new(message.get(2..)?);
    loop {
        let start = message.len().checked_sub(records.remaining())?;
        let (found, _) = records.next_record().ok()??;
        if found == kind {
            return Some(start..message.len().checked_sub(records.remaining())?);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_fragment_of_any_pieces() {
        let bytes: Vec<u8> = (0..40).collect();
        for (from, to) in [(0, 0), (0, 7), (0, 40), (3, 3), (3, 20), (12, 40), (39, 40)] {
            let own = [&bytes[..from], &bytes[to..]].concat();
            let pieces = Pieces { own, at: from, common: bytes[from..to].into() };
            assert_eq!(pieces.len(), 40);
            for start in 0..=41 {
                for size in 0..=42 {
                    let end = (start + size).min(40).max(start.min(40));
                    assert_eq!(pieces.fragment(start, size), bytes[start.min(40)..end]);
                }
            }
        }
    }

    #[test]
    fn records_have_places() {
        let message = [0, 9, 2, 1, 7, 4, 0, 6, 2, 8, 8, 10, 0];
        assert_eq!(record_place(&message, 2), Some(2..5));
        assert_eq!(record_place(&message, 6), Some(7..11));
        assert_eq!(record_place(&message, 10), Some(11..13));
        assert_eq!(record_place(&message, 8), None);
        assert_eq!(record_place(&message[..9], 6), None, "cut off");
    }
}
