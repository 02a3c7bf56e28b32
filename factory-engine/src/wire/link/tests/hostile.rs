//! Peers that break the rules (S28).

use crate::wire::codec::Malformed;

use super::*;

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
        (vec![0x80, 0x20, 0, 16], LinkError::Malformed(Malformed::UnknownMessage { kind: 16 }.into())),
        (vec![0, 16], LinkError::Malformed(Malformed::NotAFactoryMessage { kind: 16 }.into())),
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
    for _ in 0..4 {
        a.send(bytes(3)).unwrap();
        let raw = a.poll_transmit().unwrap();
        assert!(b.receive(&raw, NOW).unwrap().is_some());
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
        assert!(b.held_bytes() <= LinkLimits::default().max_message_bytes);
    }
}
