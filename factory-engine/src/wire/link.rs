//! One connected peer: our messages, of any length, over lightning messages of at most 65,535 bytes.
//!
//! Lightning's transport (BOLT 8) neither loses nor reorders, so nothing is ever sent again within a
//! connection; acknowledgements only keep lightningd's buffers and its cap of a million bytes a
//! second, which channel traffic shares, from filling up. A disconnect drops the link, and whatever
//! it held; the protocol's `resume` makes up for that.
//!
//! What one peer can cost is bounded (S28): one message at a time is put together, up to a size; one
//! acknowledgement is owed at most, because each stands for all before it; messages are counted
//! against a rate. Input that breaks a rule gets a [`LinkError`] and changes nothing else.

mod assembly;
mod bucket;
mod fault;
mod pieces;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use assembly::Assembly;
use bucket::Bucket;

use crate::types::{Millis, ProtocolId};

use super::codec::DecodeError;
use super::envelope::{Ack, Envelope, Frame, MAX_MESSAGE_BYTES, PIGGYBACK_OVERHEAD};
use super::message::PROTOCOL_ID;

pub use fault::{LinkError, LinkFull};
pub use pieces::Pieces;

/// Payload bytes of every fragment but a message's last. Well under what fits, so that a channel
/// message never waits long behind one.
pub const FRAGMENT_BYTES: usize = 32_000;

const _: () = assert!(FRAGMENT_BYTES + PIGGYBACK_OVERHEAD <= MAX_MESSAGE_BYTES);

/// What one peer may cost, and how much we push at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkLimits {
    /// Payload bytes that wait to be sent.
    pub queue_bytes: usize,
    /// Bytes of lightning messages that are out and not acknowledged. One message may be out in any
    /// case, or nothing would move.
    pub in_flight_bytes: usize,
    /// Payload bytes of one message, either way.
    pub max_message_bytes: usize,
    /// Lightning messages that the peer may send per second in the long run. Acknowledgements of what
    /// we sent are free.
    pub messages_per_second: u32,
    /// Lightning messages that it may send at once after a pause.
    pub burst: u32,
}

impl Default for LinkLimits {
    /// Room for the proposal of the largest factory, some 300 kB, with plenty to spare. One full fragment
    /// is out at a time: 640 kB a second with a round trip of 50 ms, and a thousand peers that are sent
    /// something large at once have 32 MB under way, not all of it.
    fn default() -> Self {
        Self {
            queue_bytes: 4 << 20,
            in_flight_bytes: FRAGMENT_BYTES + PIGGYBACK_OVERHEAD,
            max_message_bytes: 1 << 20,
            messages_per_second: 200,
            burst: 1000,
        }
    }
}

/// What a peer's lightning message amounted to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Incoming {
    /// The factory protocols that the peer speaks, once for each connection.
    Protocols(Vec<ProtocolId>),
    /// A complete message of `superscalar/1`, for [`super::message::Message::decode`].
    Message(Vec<u8>),
}

/// A fragment that is out and not acknowledged.
#[derive(Debug)]
struct InFlight {
    ack: Ack,
    bytes: usize,
}

/// The link to one peer, for the length of one connection.
#[derive(Debug)]
pub struct Link {
    limits: LinkLimits,
    /// Whether our own list of protocols went out.
    announced: bool,
    /// The peer's list, once it came.
    peer: Option<Vec<ProtocolId>>,
    /// Messages not yet sent, or, the first, not completely.
    queue: VecDeque<Pieces>,
    /// Payload bytes in `queue`, those of the first message that are out already included.
    queued_bytes: usize,
    /// The next fragment to send.
    next: Ack,
    in_flight: VecDeque<InFlight>,
    in_flight_bytes: usize,
    assembly: Assembly,
    /// What the peer isn't told yet that we have.
    owed: Option<Ack>,
    bucket: Bucket,
}

impl Link {
    /// A new connection. The first thing to transmit is our list of protocols.
    pub fn new(limits: LinkLimits) -> Self {
        Self {
            limits,
            announced: false,
            peer: None,
            queue: VecDeque::new(),
            queued_bytes: 0,
            next: Ack { sequence: 0, fragment: 0 },
            in_flight: VecDeque::new(),
            in_flight_bytes: 0,
            assembly: Assembly::new(limits.max_message_bytes),
            owed: None,
            bucket: Bucket::new(limits.messages_per_second, limits.burst),
        }
    }

    /// Queues a message. It goes out once the peer has listed our protocol and as its acknowledgements
    /// make room.
    pub fn send(&mut self, message: impl Into<Pieces>) -> Result<(), LinkFull> {
        if self.peer_speaks() == Some(false) {
            return Err(LinkFull::NotSpoken);
        }
        let message = message.into();
        let (bytes, max) = (message.len(), self.limits.max_message_bytes);
        if bytes == 0 {
            return Err(LinkFull::Empty);
        }
        if bytes > max || fragments(bytes).is_none() {
            return Err(LinkFull::Message { bytes, max });
        }
        let (queued, limit) = (self.queued_bytes, self.limits.queue_bytes);
        match queued.checked_add(bytes) {
            Some(total) if total <= limit => self.queued_bytes = total,
            _ => {
                return Err(LinkFull::Queue { bytes, queued, limit });
            }
        }
        self.queue.push_back(message);
        Ok(())
    }

    /// Takes a complete lightning message of type 32800 from the peer. `None`: nothing for the
    /// protocol, as yet.
    ///
    /// After an error the link is as it was; whether the connection goes on is the caller's choice.
    pub fn receive(&mut self, raw: &[u8], now: Millis) -> Result<Option<Incoming>, LinkError> {
        let envelope = Envelope::decode(raw);
        // Acknowledgements are as many as our own fragments at most; counting them would hold it
        // against a peer that we send it much.
        if !self.is_welcome_ack(&envelope) && !self.bucket.take(now) {
            return Err(LinkError::TooFast { per_second: self.limits.messages_per_second });
        }
        match envelope.map_err(LinkError::Malformed)? {
            Envelope::SupportedFactoryProtocols(protocols) => self.peer_listed(protocols),
            Envelope::Piggyback { protocol, payload, frame, ack } => {
                if protocol != PROTOCOL_ID {
                    return Err(LinkError::NotListed { protocol });
                }
                self.piggyback(payload, frame, ack)
            }
            Envelope::UnknownOdd(_) => Ok(None),
            other @ (Envelope::FactoryChangeInit(_)
            | Envelope::FactoryChangeAck(_)
            | Envelope::FactoryChangeFunding(_)
            | Envelope::FactoryChangeContinue(_)
            | Envelope::FactoryChangeLocked(_)) => Err(LinkError::Unexpected { submessage: other.name() }),
        }
    }

    /// The next complete lightning message for the peer, if there is one and it may go out now. Call
    /// it again until it gives `None`, after each [`Link::send`] and [`Link::receive`].
    pub fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        if !self.announced {
            self.announced = true;
            let ours = vec![PROTOCOL_ID];
            return Some(Envelope::SupportedFactoryProtocols(ours).encode_unchecked());
        }
        if let Some(fragment) = self.next_fragment() {
            return Some(fragment);
        }
        self.owed.take().map(|ack| {
            let payload = Vec::new();
            piggyback(payload, None, Some(ack)).encode_unchecked()
        })
    }

    /// Whether the peer listed our protocol; `None` before its list came.
    pub fn peer_speaks(&self) -> Option<bool> {
        self.peer.as_ref().map(|protocols| protocols.contains(&PROTOCOL_ID))
    }

    /// Payload bytes that wait in the queue.
    pub fn queued_bytes(&self) -> usize {
        self.queued_bytes
    }

    /// Bytes of lightning messages that are out and not acknowledged.
    pub fn in_flight_bytes(&self) -> usize {
        self.in_flight_bytes
    }

    /// Bytes of an unfinished message from the peer.
    pub fn held_bytes(&self) -> usize {
        self.assembly.held()
    }

    fn peer_listed(&mut self, list: Vec<ProtocolId>) -> Result<Option<Incoming>, LinkError> {
        match &self.peer {
            Some(known) if *known == list => return Ok(None),
            Some(_) => return Err(LinkError::ListChanged),
            None => {}
        }
        if !list.contains(&PROTOCOL_ID) {
            // Nothing of this may ever be sent (bLIP-56).
            self.queue.clear();
            self.queued_bytes = 0;
        }
        self.peer = Some(list.clone());
        Ok(Some(Incoming::Protocols(list)))
    }

    fn piggyback(
        &mut self,
        payload: Vec<u8>,
        frame: Option<Frame>,
        ack: Option<Ack>,
    ) -> Result<Option<Incoming>, LinkError> {
        // All that can be refused is checked before anything changes.
        let acknowledged = match ack {
            Some(ack) => self.position(ack).ok_or(LinkError::UnknownAck { ack })?,
            None => 0,
        };
        let message = match frame {
            Some(frame) => {
                let message = self.assembly.accept(frame, &payload)?;
                self.owed = Some(Ack { sequence: frame.sequence, fragment: frame.fragment });
                message
            }
            None if payload.is_empty() && ack.is_some() => None,
            None => Some(self.assembly.accept_whole(payload)?),
        };
        // `position` gave no more than there are.
        for arrived in self.in_flight.drain(..acknowledged) {
            self.in_flight_bytes = self.in_flight_bytes.saturating_sub(arrived.bytes);
        }
        Ok(message.map(Incoming::Message))
    }

    /// How many fragments in flight `ack` stands for, at least 1; `None` if it isn't out.
    fn position(&self, ack: Ack) -> Option<usize> {
        let index = self.in_flight.iter().position(|out| out.ack == ack)?;
        index.checked_add(1)
    }

    fn is_welcome_ack(&self, envelope: &Result<Envelope, DecodeError>) -> bool {
        match envelope {
            Ok(Envelope::Piggyback { protocol, payload, frame: None, ack: Some(ack) }) => {
                *protocol == PROTOCOL_ID && payload.is_empty() && self.position(*ack).is_some()
            }
            _ => false,
        }
    }

    /// The next fragment, with whatever acknowledgement is owed, if the window has room.
    fn next_fragment(&mut self) -> Option<Vec<u8>> {
        if self.peer_speaks() != Some(true) {
            return None;
        }
        let message = self.queue.front()?;
        let start = usize::from(self.next.fragment).checked_mul(FRAGMENT_BYTES)?;
        let bytes = message.len();
        let size = bytes.checked_sub(start)?.min(FRAGMENT_BYTES);
        let room = self.limits.in_flight_bytes.saturating_sub(self.in_flight_bytes);
        if !self.in_flight.is_empty() && size + PIGGYBACK_OVERHEAD > room {
            return None;
        }
        let payload = message.fragment(start, size);
        // `send` made sure that the message can be counted.
        let count = fragments(bytes)?;
        let sent = self.next;
        let last = sent.fragment >= count.saturating_sub(1);
        if last {
            self.queued_bytes = self.queued_bytes.saturating_sub(bytes);
            self.queue.pop_front();
            // The receiver wraps too, though no connection lives to see it.
            self.next = Ack { sequence: sent.sequence.wrapping_add(1), fragment: 0 };
        } else {
            self.next.fragment = sent.fragment.saturating_add(1);
        }
        let frame = Frame { sequence: sent.sequence, fragment: sent.fragment, count };
        let raw = piggyback(payload, Some(frame), self.owed.take()).encode_unchecked();
        self.in_flight_bytes = self.in_flight_bytes.saturating_add(raw.len());
        self.in_flight.push_back(InFlight { ack: sent, bytes: raw.len() });
        Some(raw)
    }
}

/// How many fragments a message of so many bytes has; `None` if they can't be counted.
fn fragments(bytes: usize) -> Option<u16> {
    u16::try_from(bytes.div_ceil(FRAGMENT_BYTES)).ok()
}

fn piggyback(payload: Vec<u8>, frame: Option<Frame>, ack: Option<Ack>) -> Envelope {
    Envelope::Piggyback { protocol: PROTOCOL_ID, payload, frame, ack }
}
