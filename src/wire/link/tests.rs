#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;
use crate::wire::codec::Fault;

const NOW: Millis = 1_700_000_000_000;

fn link() -> Link {
    Link::new(Limits::default())
}

fn limited(change: impl FnOnce(&mut Limits)) -> Link {
    let mut limits = Limits::default();
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
    let (mut a, mut b) = pair();
    a.send(bytes(1_000_000)).unwrap();
    let out: Vec<_> = std::iter::from_fn(|| a.poll_transmit()).collect();
    assert_eq!(out.len(), 4, "four fragments in 128 KiB");
    let total: usize = out.iter().map(Vec::len).sum();
    assert_eq!(a.in_flight_bytes(), total);
    assert!(total <= Limits::default().in_flight_bytes);

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
    let max = Limits::default().max_message_bytes;
    assert_eq!(a.send(bytes(max + 1)), Err(LinkFull::Message { bytes: max + 1, max }));
    assert_eq!(a.send(Vec::new()), Err(LinkFull::Empty));
}

// S28: garbage gets a named error and no effect.
#[test]
fn faults_have_names_and_no_effect() {
    let full = FRAGMENT_BYTES;
    let (_, mut b) = pair();
    // The first message, and the first fragment of the second.
    assert!(b.receive(&framed(0, 0, 1, 7), NOW).unwrap().is_some());
    assert_eq!(b.receive(&framed(1, 0, 3, full), NOW), Ok(None));
    let due = Ack { sequence: 1, fragment: 1 };
    let frame = |fragment, count| Frame { sequence: 1, fragment, count };
    let other = ProtocolId([9; 32]);
    let foreign = Envelope::Piggyback { protocol: other, payload: bytes(3), frame: None, ack: None };
    let unframed = piggyback(bytes(3), None, None);
    let empty = piggyback(Vec::new(), None, None);
    let late = piggyback(bytes(full), Some(frame(1, 3)), Some(Ack { sequence: 0, fragment: 0 }));
    let locked = "8020000e fd0e0040".to_owned() + &"00".repeat(64);
    let cases = [
        (framed(0, 0, 1, 7), LinkError::Replayed { sequence: 0, fragment: 0 }),
        (framed(1, 0, 3, full), LinkError::Replayed { sequence: 1, fragment: 0 }),
        (framed(u32::MAX, 0, 1, 7), LinkError::Replayed { sequence: u32::MAX, fragment: 0 }),
        (framed(1, 2, 3, full), LinkError::OutOfOrder { sequence: 1, fragment: 2, due }),
        (framed(2, 0, 1, 7), LinkError::OutOfOrder { sequence: 2, fragment: 0, due }),
        (framed(1, 1, 4, full), LinkError::BadFrame { frame: frame(1, 4) }),
        (framed(1, 3, 3, full), LinkError::BadFrame { frame: frame(3, 3) }),
        (framed(1, 0, 0, full), LinkError::BadFrame { frame: frame(0, 0) }),
        (framed(1, 1, 3, 5), LinkError::BadFragmentSize { frame: frame(1, 3), bytes: 5 }),
        (framed(1, 1, 3, 0), LinkError::BadFragmentSize { frame: frame(1, 3), bytes: 0 }),
        (framed(1, 1, 3, full + 1), LinkError::BadFragmentSize { frame: frame(1, 3), bytes: full + 1 }),
        (unframed.encode().unwrap(), LinkError::Interrupted { due }),
        (foreign.encode().unwrap(), LinkError::NotListed { protocol: other }),
        (late.encode().unwrap(), LinkError::UnknownAck { ack: Ack { sequence: 0, fragment: 0 } }),
        (acked(3, 0), LinkError::UnknownAck { ack: Ack { sequence: 3, fragment: 0 } }),
        (unhex(&locked), LinkError::Unexpected { submessage: "factory_change_locked" }),
        (vec![0x80, 0x20, 0, 16], LinkError::Malformed(Fault::UnknownMessage { kind: 16 }.into())),
        (vec![0, 16], LinkError::Malformed(Fault::NotAFactoryMessage { kind: 16 }.into())),
    ];
    for (raw, fault) in cases {
        assert_eq!(b.receive(&raw, NOW), Err(fault.clone()), "{fault}");
        assert!(!fault.to_string().is_empty());
        assert_eq!(b.held_bytes(), full, "no effect of: {fault}");
    }
    // An unknown odd submessage is none.
    assert_eq!(b.receive(&[0x80, 0x20, 0, 17], NOW), Ok(None));

    // The message goes on as if nothing had been.
    assert_eq!(b.receive(&framed(1, 1, 3, full), NOW), Ok(None));
    let Ok(Some(Incoming::Message(message))) = b.receive(&framed(1, 2, 3, 9), NOW) else {
        panic!("complete")
    };
    assert_eq!(message, [bytes(full), bytes(full), bytes(9)].concat());

    // Between messages an unframed one will do, but not an empty one.
    assert_eq!(b.receive(&empty.encode().unwrap(), NOW), Err(LinkError::Empty));
    let whole = Ok(Some(Incoming::Message(bytes(3))));
    assert_eq!(b.receive(&unframed.encode().unwrap(), NOW), whole);
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<_> = text.chars().filter_map(|c| c.to_digit(16)).collect();
    digits.chunks(2).map(|pair| u8::try_from(pair[0] << 4 | pair[1]).unwrap()).collect()
}

#[test]
fn an_acknowledgement_counts_once() {
    let (mut a, _) = pair();
    a.send(bytes(5)).unwrap();
    a.poll_transmit().unwrap();
    assert_eq!(a.receive(&acked(0, 0), NOW), Ok(None));
    let ack = Ack { sequence: 0, fragment: 0 };
    assert_eq!(a.receive(&acked(0, 0), NOW), Err(LinkError::UnknownAck { ack }));
    assert_eq!(a.in_flight_bytes(), 0);
}

// S28: bounded memory on the receiving side.
#[test]
fn reassembly_is_bounded() {
    let small = limited(|limits| limits.max_message_bytes = FRAGMENT_BYTES + 10);
    let (_, mut b) = introduced(link(), small);
    let many = LinkError::TooManyFragments { count: 3, max: 2 };
    assert_eq!(b.receive(&framed(0, 0, 3, FRAGMENT_BYTES), NOW), Err(many));
    assert_eq!(b.held_bytes(), 0);
    assert_eq!(b.receive(&framed(0, 0, 2, FRAGMENT_BYTES), NOW), Ok(None));
    let (bytes, max) = (FRAGMENT_BYTES + 11, FRAGMENT_BYTES + 10);
    assert_eq!(b.receive(&framed(0, 1, 2, 11), NOW), Err(LinkError::TooLarge { bytes, max }));
    assert_eq!(b.held_bytes(), FRAGMENT_BYTES);
    assert!(b.receive(&framed(0, 1, 2, 10), NOW).unwrap().is_some());
}

// S28: bounded message rate.
#[test]
fn flood_is_too_fast() {
    let slow = limited(|limits| (limits.messages_per_second, limits.burst) = (2, 5));
    let (mut a, mut b) = introduced(link(), slow);
    // The list took one of the five.
    for sequence in 0..4 {
        assert!(b.receive(&framed(sequence, 0, 1, 3), NOW).unwrap().is_some());
    }
    let too_fast = Err(LinkError::TooFast { per_second: 2 });
    assert_eq!(b.receive(&framed(4, 0, 1, 3), NOW), too_fast);
    assert_eq!(b.receive(&[1, 2, 3], NOW), too_fast, "garbage counts too");

    // Acknowledgements of what we sent don't, but made-up ones do.
    b.send(bytes(5)).unwrap();
    let raw = b.poll_transmit().unwrap();
    assert!(a.receive(&raw, NOW).unwrap().is_some());
    assert_eq!(b.receive(&acked(7, 7), NOW), too_fast);
    assert_eq!(b.receive(&a.poll_transmit().unwrap(), NOW), Ok(None));
    assert_eq!(b.in_flight_bytes(), 0);

    // Nothing was lost by it: half a second later the next one is welcome.
    assert!(b.receive(&framed(4, 0, 1, 3), NOW + 500).unwrap().is_some());
    assert_eq!(b.receive(&framed(5, 0, 1, 3), NOW + 600), too_fast);
}

// S28: whatever a peer sends, nothing panics and nothing grows.
#[test]
fn random_garbage() {
    let endless = limited(|limits| limits.burst = u32::MAX);
    let (mut a, mut b) = introduced(link(), endless);
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % 1_000_003).unwrap()
    };
    for _ in 0..3000 {
        if a.queued_bytes() == 0 {
            a.send(bytes(1 + random() % 100_000)).unwrap();
        }
        let Some(mut raw) = a.poll_transmit() else {
            while let Some(raw) = b.poll_transmit() {
                let _ = a.receive(&raw, NOW);
            }
            // A damaged count may have made the two disagree: the connection would end here.
            (a, b) = introduced(link(), limited(|limits| limits.burst = u32::MAX));
            continue;
        };
        if random() % 2 == 0 {
            let at = random() % raw.len().min(100);
            raw[at] ^= u8::try_from(random() % 256).unwrap();
            raw.truncate(1 + random() % raw.len());
        }
        let _ = b.receive(&raw, NOW);
        assert!(b.held_bytes() <= Limits::default().max_message_bytes);
    }
}
