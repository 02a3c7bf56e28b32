//! Fragments ⇒ messages: one message at a time, each fragment the one that is due.

use super::{FRAGMENT_BYTES, LinkError, fragments};
use crate::wire::envelope::{Ack, Frame};

/// The message that a peer is in the middle of.
#[derive(Debug)]
pub(super) struct Assembly {
    max_message_bytes: usize,
    /// The fragment that has to come next.
    due: Ack,
    /// How many fragments the message has; `None` between messages.
    count: Option<u16>,
    bytes: Vec<u8>,
}

impl Assembly {
    pub(super) fn new(max_message_bytes: usize) -> Self {
        let due = Ack { sequence: 0, fragment: 0 };
        Self { max_message_bytes, due, count: None, bytes: Vec::new() }
    }

    /// Bytes of the unfinished message.
    pub(super) fn held(&self) -> usize {
        self.bytes.len()
    }

    /// Takes one fragment; gives the message when it is complete. An error changes nothing.
    pub(super) fn accept(&mut self, frame: Frame, payload: &[u8]) -> Result<Option<Vec<u8>>, LinkError> {
        let last = self.check(frame, payload)?;
        self.bytes.extend_from_slice(payload);
        if last {
            self.due = Ack { sequence: frame.sequence.wrapping_add(1), fragment: 0 };
            self.count = None;
            return Ok(Some(std::mem::take(&mut self.bytes)));
        }
        self.due.fragment = frame.fragment.saturating_add(1);
        self.count = Some(frame.count);
        Ok(None)
    }

    /// Takes a message that came without a frame, which bLIP-56 allows: between two others.
    pub(super) fn accept_whole(&mut self, payload: Vec<u8>) -> Result<Vec<u8>, LinkError> {
        if self.count.is_some() {
            return Err(LinkError::Interrupted { due: self.due });
        }
        self.fits(payload.len())?;
        if payload.is_empty() { Err(LinkError::Empty) } else { Ok(payload) }
    }

    /// Whether the fragment may come now, and is its message's last.
    fn check(&self, frame: Frame, payload: &[u8]) -> Result<bool, LinkError> {
        let Frame { sequence, fragment, count } = frame;
        if fragment >= count {
            return Err(LinkError::BadFrame { frame });
        }
        // Sequence numbers wrap: whatever lies in the half behind the one due is old.
        let behind = self.due.sequence.wrapping_sub(sequence);
        let replayed = if behind == 0 { fragment < self.due.fragment } else { behind < 1 << 31 };
        if replayed {
            return Err(LinkError::Replayed { sequence, fragment });
        }
        if (Ack { sequence, fragment }) != self.due {
            return Err(LinkError::OutOfOrder { sequence, fragment, due: self.due });
        }
        if self.count.is_some_and(|announced| announced != count) {
            return Err(LinkError::BadFrame { frame });
        }
        let max = fragments(self.max_message_bytes).unwrap_or(u16::MAX);
        if count > max {
            return Err(LinkError::TooManyFragments { count, max });
        }
        let last = fragment == count.saturating_sub(1);
        // Only the last may be short, so that a count says how large a message is.
        let size_is_right = match payload.len() {
            0 => false,
            bytes if last => bytes <= FRAGMENT_BYTES,
            bytes => bytes == FRAGMENT_BYTES,
        };
        if !size_is_right {
            return Err(LinkError::BadFragmentSize { frame, bytes: payload.len() });
        }
        self.fits(self.bytes.len().saturating_add(payload.len()))?;
        Ok(last)
    }

    fn fits(&self, bytes: usize) -> Result<(), LinkError> {
        let max = self.max_message_bytes;
        if bytes > max { Err(LinkError::TooLarge { bytes, max }) } else { Ok(()) }
    }
}
