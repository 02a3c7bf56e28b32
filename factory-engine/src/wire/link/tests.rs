#![allow(clippy::unwrap_used, clippy::expect_used)]

mod hostile;

use super::*;

const NOW: Millis = 1_700_000_000_000;

fn link() -> Link {
    Link::new(LinkLimits::default())
}

fn limited(change: impl FnOnce(&mut LinkLimits)) -> Link {
    let mut limits = LinkLimits::default();
    change(&mut limits);
    Link::new(limits)
}

/// Two links that have exchanged their lists.
fn introduced(mut a: Link, mut b: Link) -> (Link, Link) {
    let (from_a, from_b) = (a.poll_transmit().unwrap(), b.poll_transmit().unwrap());
    let list = Ok(Some(Incoming::Protocols(vec![PROTOCOL_ID])));
    assert_eq!(b.receive(&from_a, NOW), list);
    assert_eq!(a.receive(&from_b, NOW), list);
    (a, b)
}

fn pair() -> (Link, Link) {
    introduced(link(), link())
}

/// Carries everything both ways until nothing moves; gives what `b` received.
fn pump(a: &mut Link, b: &mut Link) -> Vec<Vec<u8>> {
    let mut received = Vec::new();
    loop {
        let from_a: Vec<_> = std::iter::from_fn(|| a.poll_transmit()).collect();
        for raw in &from_a {
            if let Some(Incoming::Message(message)) = b.receive(raw, NOW).unwrap() {
                received.push(message);
            }
        }
        let from_b: Vec<_> = std::iter::from_fn(|| b.poll_transmit()).collect();
        from_b.iter().for_each(|raw| assert_eq!(a.receive(raw, NOW), Ok(None)));
        if from_a.is_empty() && from_b.is_empty() {
            return received;
        }
    }
}

fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|i| u8::try_from(i * 31 % 251).unwrap()).collect()
}

fn framed(sequence: u32, fragment: u16, count: u16, len: usize) -> Vec<u8> {
    let frame = Frame { sequence, fragment, count };
    piggyback(bytes(len), Some(frame), None).encode().unwrap()
}

fn acked(sequence: u32, fragment: u16) -> Vec<u8> {
    piggyback(Vec::new(), None, Some(Ack { sequence, fragment })).encode().unwrap()
}

#[test]
fn overhead_is_what_it_says() {
    let frame = Frame { sequence: u32::MAX, fragment: u16::MAX, count: u16::MAX };
    let ack = Ack { sequence: u32::MAX, fragment: u16::MAX };
    let raw = piggyback(bytes(FRAGMENT_BYTES), Some(frame), Some(ack)).encode().unwrap();
    assert_eq!(raw.len(), FRAGMENT_BYTES + PIGGYBACK_OVERHEAD);
}

#[test]
fn large_message_is_split_and_comes_back() {
    let (mut a, mut b) = pair();
    let sent = vec![bytes(300_000), bytes(1), bytes(FRAGMENT_BYTES), bytes(FRAGMENT_BYTES + 1)];
    sent.iter().for_each(|message| a.send(message.clone()).unwrap());
    assert_eq!(pump(&mut a, &mut b), sent);
    assert_eq!((a.queued_bytes(), a.in_flight_bytes(), b.held_bytes()), (0, 0, 0));
}

#[test]
fn both_directions_at_once() {
    let (mut a, mut b) = pair();
    a.send(bytes(200_000)).unwrap();
    b.send(bytes(150_000)).unwrap();
    let (mut at_a, mut at_b) = (None, None);
    for _ in 0..100 {
        if let Some(raw) = a.poll_transmit() {
            at_b = b.receive(&raw, NOW).unwrap().or(at_b);
        }
        if let Some(raw) = b.poll_transmit() {
            at_a = a.receive(&raw, NOW).unwrap().or(at_a);
        }
    }
    assert_eq!(at_b, Some(Incoming::Message(bytes(200_000))));
    assert_eq!(at_a, Some(Incoming::Message(bytes(150_000))));
    assert_eq!((a.in_flight_bytes(), b.in_flight_bytes()), (0, 0));
}

#[test]
fn window_is_respected() {
    let (mut a, mut b) = introduced(limited(|limits| limits.in_flight_bytes = 128 << 10), link());
    a.send(bytes(1_000_000)).unwrap();
    let out: Vec<_> = std::iter::from_fn(|| a.poll_transmit()).collect();
    assert_eq!(out.len(), 4, "four fragments in 128 KiB");
    let total: usize = out.iter().map(Vec::len).sum();
    assert_eq!(a.in_flight_bytes(), total);
    assert!(total <= 128 << 10);

    // Each acknowledgement stands for all before it, and makes as much room.
    assert_eq!(a.receive(&acked(0, 1), NOW), Ok(None));
    assert_eq!(std::iter::from_fn(|| a.poll_transmit()).count(), 2);
    assert_eq!(a.poll_transmit(), None);

    // b acknowledges the four at once.
    out.iter().for_each(|raw| assert_eq!(b.receive(raw, NOW), Ok(None)));
    assert_eq!(b.poll_transmit(), Some(acked(0, 3)));
    assert_eq!(b.poll_transmit(), None);
}

#[test]
fn a_narrow_window_still_moves() {
    let narrow = limited(|limits| limits.in_flight_bytes = 1);
    let (mut a, mut b) = introduced(narrow, link());
    a.send(bytes(100_000)).unwrap();
    a.send(bytes(10)).unwrap();
    assert_eq!(pump(&mut a, &mut b), [bytes(100_000), bytes(10)]);
}

#[test]
fn acknowledgements_go_out_while_the_window_is_full() {
    let (mut a, _) = pair();
    a.send(bytes(1_000_000)).unwrap();
    while a.poll_transmit().is_some() {}
    a.receive(&framed(0, 0, 1, 5), NOW).unwrap();
    assert_eq!(a.poll_transmit(), Some(acked(0, 0)));
}

#[test]
fn acknowledgements_ride_on_fragments() {
    let (mut a, _) = pair();
    a.receive(&framed(0, 0, 1, 5), NOW).unwrap();
    a.send(bytes(9)).unwrap();
    let Envelope::Piggyback { frame, ack, .. } = Envelope::decode(&a.poll_transmit().unwrap()).unwrap()
    else {
        panic!("a piggyback")
    };
    assert_eq!(frame, Some(Frame { sequence: 0, fragment: 0, count: 1 }));
    assert_eq!(ack, Some(Ack { sequence: 0, fragment: 0 }));
    assert_eq!(a.poll_transmit(), None, "and not twice");
}

#[test]
fn nothing_goes_out_before_the_peer_listed_us() {
    let mut a = link();
    a.send(bytes(5)).unwrap();
    assert!(a.poll_transmit().is_some_and(|raw| raw.starts_with(&[0x80, 0x20, 0, 2])));
    assert_eq!(a.poll_transmit(), None);
    let ours = Envelope::SupportedFactoryProtocols(vec![ProtocolId([9; 32]), PROTOCOL_ID]);
    a.receive(&ours.encode().unwrap(), NOW).unwrap();
    assert!(a.poll_transmit().is_some());
}

#[test]
fn a_peer_without_our_protocol_never_gets_a_payload() {
    let mut a = link();
    a.send(bytes(5)).unwrap();
    let other = Envelope::SupportedFactoryProtocols(vec![ProtocolId([9; 32])]).encode().unwrap();
    assert!(matches!(a.receive(&other, NOW), Ok(Some(Incoming::Protocols(_)))));
    assert_eq!(a.peer_speaks(), Some(false));
    assert_eq!(a.send(bytes(5)), Err(LinkFull::NotSpoken));
    assert_eq!(a.queued_bytes(), 0);
    assert!(a.poll_transmit().is_some(), "our own list");
    assert_eq!(a.poll_transmit(), None);

    // The same list again is a no-op, another is a fault.
    assert_eq!(a.receive(&other, NOW), Ok(None));
    let ours = Envelope::SupportedFactoryProtocols(vec![PROTOCOL_ID]).encode().unwrap();
    assert_eq!(a.receive(&ours, NOW), Err(LinkError::ListChanged));
    assert_eq!(a.peer_speaks(), Some(false));
}

// S28: bounded memory on our side of the queue.
#[test]
fn queue_is_bounded() {
    let (mut a, _) = introduced(limited(|limits| limits.queue_bytes = 100), link());
    a.send(bytes(60)).unwrap();
    let full = LinkFull::Queue { bytes: 41, queued: 60, limit: 100 };
    assert_eq!(a.send(bytes(41)), Err(full));
    a.send(bytes(40)).unwrap();
    assert_eq!(a.queued_bytes(), 100);
    let max = LinkLimits::default().max_message_bytes;
    assert_eq!(a.send(bytes(max + 1)), Err(LinkFull::Message { bytes: max + 1, max }));
    assert_eq!(a.send(Vec::new()), Err(LinkFull::Empty));
}
