//! The link layer between two honest ends, and whatever else comes over the wire.

use std::collections::VecDeque;

use factory_engine::wire::envelope::MAX_MESSAGE_BYTES;
use factory_engine::wire::link::{Incoming, Link, LinkLimits};

use crate::bytes::Bytes;

const LIMITS: LinkLimits = LinkLimits {
    queue_bytes: 200_000,
    in_flight_bytes: 70_000,
    max_message_bytes: 100_000,
    messages_per_second: 20,
    burst: 60,
};
/// Bytes that one input may have sent: some come from nothing.
const MOST_SENT: usize = 600_000;
/// Messages on a wire at which none is doubled any more.
const MOST_WAITING: usize = 12;

struct End {
    link: Link,
    /// Sent, and not yet arrived at the other end.
    expected: VecDeque<Vec<u8>>,
    /// What is on its way to the other end.
    wire: VecDeque<Vec<u8>>,
    /// Whether the other end got something else too.
    touched: bool,
}

impl End {
    fn new() -> Self {
        let (expected, wire) = (VecDeque::new(), VecDeque::new());
        Self { link: Link::new(LIMITS), expected, wire, touched: false }
    }

    fn transmit(&mut self) {
        while let Some(raw) = self.link.poll_transmit() {
            assert!(raw.len() <= MAX_MESSAGE_BYTES);
            self.wire.push_back(raw);
        }
    }

    /// What one peer may cost (S28), and what an error may not change.
    fn state(&self) -> (usize, usize, usize, Option<bool>) {
        let link = &self.link;
        assert!(link.queued_bytes() <= LIMITS.queue_bytes);
        assert!(link.held_bytes() <= LIMITS.max_message_bytes);
        assert!(link.in_flight_bytes() <= LIMITS.in_flight_bytes.max(MAX_MESSAGE_BYTES));
        (link.queued_bytes(), link.held_bytes(), link.in_flight_bytes(), link.peer_speaks())
    }
}

/// Two ends; each byte says what happens next. Nothing that arrives may panic or hold more memory
/// than the limits, an error changes nothing, and between honest ends every message arrives, whole and
/// in order.
pub fn link(data: &[u8]) {
    let mut input = Bytes::new(data);
    let mut ends = [End::new(), End::new()];
    let (mut now, mut sent) = (1_000_000u64, 0usize);
    ends.iter_mut().for_each(End::transmit);
    while !input.is_empty() {
        let op = input.byte();
        let at = usize::from(op >> 7);
        match op & 0x0f {
            0..=3 => deliver(&mut ends, at, now, |_| {}),
            4..=6 => {
                let size = usize::from(input.short()).saturating_mul(3);
                let fill = input.byte();
                if sent.saturating_add(size) > MOST_SENT {
                    continue;
                }
                sent = sent.saturating_add(size);
                let payload = vec![fill; size];
                if ends[at].link.send(payload.clone()).is_ok() {
                    assert!(!payload.is_empty());
                    ends[at].expected.push_back(payload);
                }
                ends[at].transmit();
            }
            7..=9 => {
                let (place, mask) = (usize::from(input.byte()), input.byte());
                ends[at].touched = true;
                deliver(&mut ends, at, now, |raw| {
                    // The first bytes are the interesting ones; the payload comes after them.
                    if let Some(byte) = raw.get_mut(place) {
                        *byte ^= mask;
                    }
                });
            }
            10 => {
                // Twice, or out of order.
                ends[at].touched = true;
                let copy = ends[at].wire.front().cloned().filter(|_| ends[at].wire.len() < MOST_WAITING);
                ends[at].wire.extend(copy);
            }
            11 => {
                ends[at].touched = true;
                ends[at].wire.pop_front();
            }
            12 | 13 => {
                ends[at].touched = true;
                let raw = input.chunk().to_vec();
                ends[at].wire.push_front(raw);
            }
            14 => now = now.saturating_add(u64::from(input.byte()).saturating_mul(20)),
            _ => now = now.saturating_sub(u64::from(input.byte())),
        }
        for end in &ends {
            let _ = end.state();
        }
    }
    if !ends[0].touched && !ends[1].touched {
        settle(&mut ends, now);
    }
}

fn deliver(ends: &mut [End; 2], from: usize, now: u64, change: impl Fn(&mut Vec<u8>)) {
    let Some(mut raw) = ends[from].wire.pop_front() else { return };
    change(&mut raw);
    let to = 1 - from;
    let before = ends[to].state();
    match ends[to].link.receive(&raw, now) {
        Ok(Some(Incoming::Message(payload))) => {
            assert!(!payload.is_empty() && payload.len() <= LIMITS.max_message_bytes);
            if !ends[from].touched {
                assert_eq!(
                    ends[from].expected.pop_front(),
                    Some(payload),
                    "a message that was sent, in order"
                );
            }
        }
        Ok(_) => {}
        Err(error) => {
            assert!(!error.to_string().is_empty());
            assert_eq!(ends[to].state(), before, "an error changes nothing");
            if error.to_string().contains("per second") {
                // Whoever is too fast is disconnected: all bets are off.
                ends[from].touched = true;
            }
            assert!(ends[from].touched || ends[to].touched, "between honest ends: {error}");
        }
    }
    ends[to].transmit();
}

/// With time, everything that was sent arrives.
fn settle(ends: &mut [End; 2], mut now: u64) {
    for _ in 0..4_000 {
        if ends.iter().all(|end| end.wire.is_empty()) {
            break;
        }
        for from in [0, 1] {
            now = now.saturating_add(1_000);
            deliver(ends, from, now, |_| {});
        }
    }
    for end in ends {
        assert!(end.touched || end.expected.is_empty(), "something never arrived");
        assert!(end.touched || (end.link.in_flight_bytes(), end.link.queued_bytes()) == (0, 0));
    }
}
