//! Which HTLCs take a channel on chain, and when: the table of docs/protocol.md, row by row.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;

use std::collections::BTreeMap;

use common::factory;
use factory_engine::io::fees::{FeeNews, Feerates};
use factory_engine::types::{ChannelId, Height, InstanceId};
use factory_engine::{Direction, Input, PendingHtlc};
use factory_lab::scenario::Scenario;
use factory_lab::world::{LSP, World};

/// An ordinary channel.
const ORDINARY: ChannelId = ChannelId([0xee; 32]);
/// `cltv-delta` of every node here.
const DELTA: u32 = 34;
/// Far above what an exit costs at 10 sat/vB, and more than its own transaction but less than an exit, msat.
const WORTHY: u64 = 100_000_000;
const UNWORTHY: u64 = 8_000_000;

fn pending(channel_id: ChannelId, direction: Direction, amount_msat: u64, cltv_expiry: u32) -> PendingHtlc {
    PendingHtlc { channel_id, direction, amount_msat, cltv_expiry, payment_hash: [7; 32] }
}

/// A factory of two clients, and what takes each of its channels on chain in time.
struct Case {
    world: World,
    instance: InstanceId,
    /// Height at the start.
    start: Height,
    early: u32,
}

impl Case {
    fn new() -> Self {
        Self::with_delta(DELTA)
    }

    fn with_delta(cltv_delta: u32) -> Self {
        let scenario = Scenario::new(41).clients(2).config(|config| config.cltv_delta = cltv_delta);
        let (world, instance) = scenario.active().unwrap();
        let early = u32::from(factory(&world, LSP, instance).current.layout.blocks_early(0));
        let start = world.chain.height();
        Self { world, instance, start, early }
    }

    fn channel(&self, client: u32) -> ChannelId {
        factory(&self.world, LSP, self.instance).current.channels[&client]
    }

    fn leaving(&self, at: usize) -> Vec<u32> {
        factory(&self.world, at, self.instance).current.exiting.iter().copied().collect()
    }

    fn tell(&mut self, at: usize, htlcs: &[PendingHtlc]) {
        self.world.feed(at, Input::Htlcs(htlcs.to_vec())).unwrap();
    }

    fn fees(&mut self, at: usize, feerate: u32) {
        let feerates = Feerates { floor: 253, estimates: BTreeMap::from([(2, feerate), (100, feerate)]) };
        let news = FeeNews { feerates: Some(feerates), stakes: BTreeMap::new() };
        self.world.feed(at, Input::Fees(news)).unwrap();
    }

    /// The block, counted from the start, at which a member begins to leave for these HTLCs, and with
    /// whom; nothing if it hasn't after so many.
    fn exit(mut self, at: usize, htlcs: &[PendingHtlc], blocks: u32) -> Option<(u32, Vec<u32>)> {
        for block in 0..=blocks {
            self.fees(at, 2_500);
            self.tell(at, htlcs);
            let leaving = self.leaving(at);
            if !leaving.is_empty() {
                return Some((block, leaving));
            }
            self.world.mine(1).unwrap();
        }
        None
    }
}

/// S16, S35: every row, on both sides. Expiries count from the start.
#[test]
fn every_row_of_the_table() {
    use Direction::{Fulfilled, Offered, Received};
    let early = Case::new().early;
    let expiry = early + DELTA + 20;
    let first = expiry - early;
    // (what stands on client 0's channel, what has the same payment_hash elsewhere, and the exit)
    let rows = [
        // Received, its preimage known and not taken: to be claimed before it expires.
        (Fulfilled, None, Some(first)),
        // Received, without a preimage: this node loses nothing.
        (Received, None, None),
        // Received, and the preimage may come from the one that it pays for.
        (Received, Some((Offered, 1)), Some(first)),
        // An own payment: nobody else's money, and taken back once it has timed out.
        (Offered, None, Some(expiry)),
        // Forwarded from an ordinary channel. A sender gave what lightningd asks for: as soon as that counts.
        (Offered, Some((Received, expiry + DELTA)), Some(first)),
        // It gave less, which no exit makes good: not before it helps.
        (Offered, Some((Received, expiry + 1)), Some(first)),
        // It gave more: so much later.
        (Offered, Some((Received, expiry + DELTA + 5)), Some(first + 5)),
        (Offered, Some((Received, expiry + DELTA + 144)), Some(first + early.min(144))),
        // As much as an exit takes: when it has timed out, as an own payment.
        (Offered, Some((Received, expiry + DELTA + early)), Some(expiry)),
        // Forwarded, and the preimage is known already: the other one is to be claimed, not this.
        (Offered, Some((Fulfilled, expiry + DELTA)), None),
    ];
    for at in [LSP, 1] {
        for (direction, other, exit) in rows {
            for (amount, worthy) in [(WORTHY, true), (UNWORTHY, false), (545_999, false)] {
                let case = Case::new();
                let own = pending(case.channel(0), direction, amount, case.start + expiry);
                let mut htlcs = vec![own];
                htlcs.extend(
                    other.map(|(direction, end)| pending(ORDINARY, direction, amount, case.start + end)),
                );
                let expected = exit.filter(|_| worthy).map(|block| (block, vec![0]));
                let found = case.exit(at, &htlcs, expiry + 3);
                assert_eq!(found, expected, "member {at}: {direction:?} of {amount}, {other:?}");
            }
        }
    }
}

/// S16: from one client to another: each leg has its own deadline, and what comes in needs its own exit.
#[test]
fn between_two_clients() {
    let early = Case::new().early;
    let expiry = early + 20;
    for (more, exit) in [(DELTA, 20), (DELTA + 7, 27), (DELTA + 200, expiry)] {
        let case = Case::new();
        let htlcs = [
            pending(case.channel(0), Direction::Offered, WORTHY, case.start + expiry),
            pending(case.channel(1), Direction::Received, WORTHY, case.start + expiry + early + more),
        ];
        assert_eq!(case.exit(LSP, &htlcs, 3 * expiry), Some((exit, vec![0])));
    }
}

/// S16, S35: what a `cltv-delta` above lightningd's own gives is time to settle, not time that is kept.
#[test]
fn a_larger_delta_is_time_to_settle() {
    for (delta, later) in [(6, 0), (34, 0), (144, 110)] {
        let case = Case::with_delta(delta);
        let expiry = case.early + 20;
        let htlcs = [
            pending(case.channel(0), Direction::Offered, WORTHY, case.start + expiry),
            pending(ORDINARY, Direction::Received, WORTHY, case.start + expiry + delta),
        ];
        assert_eq!(case.exit(LSP, &htlcs, expiry), Some((20 + later, vec![0])), "{delta}");
    }
}

/// S35: many that are worth nothing alone may be together; those of which the deadline is far don't count.
#[test]
fn together_they_are_worth_it() {
    let exits = |amounts: &[(u64, u32)]| {
        let case = Case::new();
        let own = |(index, (amount, more)): (u8, &(u64, u32))| PendingHtlc {
            payment_hash: [index; 32],
            ..pending(case.channel(0), Direction::Fulfilled, *amount, case.start + case.early + more)
        };
        let htlcs: Vec<PendingHtlc> = (0..).zip(amounts).map(own).collect();
        case.exit(1, &htlcs, 12).map(|(block, _)| block)
    };
    assert_eq!(exits(&[(4_500_000, 3); 2]), None);
    assert_eq!(exits(&[(4_500_000, 3); 10]), Some(3));
    // Lost or not, they are on the channel until it is settled: at the second sum it goes.
    let mut staggered = [(4_500_000, 3); 10];
    staggered[1..].iter_mut().for_each(|(_, more)| *more = 7);
    assert_eq!(exits(&staggered), Some(7));
    // Dust never adds up.
    assert_eq!(exits(&[(545_999, 3); 200]), None);
}

/// S35: what an exit costs follows the fees, and is what everybody can read in docs/harm.md.
#[test]
fn worth_follows_the_fees() {
    let mut case = Case::new();
    let channel = factory(&case.world, 1, case.instance).own_channels().next().unwrap();
    let costs = |case: &Case, feerate| factory(&case.world, 1, case.instance).exit_cost_of(&channel, feerate);
    assert!(costs(&case, 25_000) > costs(&case, 2_500) * 9);
    let expiry = case.start + case.early;
    // 100 sat/vB: the exit alone costs more than this.
    let amount = costs(&case, 25_000).to_sat() * 1_000;
    let htlc = [pending(case.channel(0), Direction::Fulfilled, amount, expiry)];
    case.fees(1, 25_000);
    case.tell(1, &htlc);
    assert_eq!(case.leaving(1), [0u32; 0]);
    // Still there when fees have fallen: it is claimed, late as it is.
    case.fees(1, 12_500);
    case.tell(1, &htlc);
    assert_eq!(case.leaving(1), [0]);
}

/// S35: what has an end that is near is said only if it is worth an exit.
#[test]
fn nobody_is_warned_of_what_starts_nothing() {
    let mut case = Case::new();
    let expiry = case.start + case.early + 2;
    let dust = pending(case.channel(0), Direction::Fulfilled, 545_999, expiry);
    let held = pending(case.channel(0), Direction::Received, WORTHY, expiry);
    let known = pending(case.channel(0), Direction::Fulfilled, WORTHY, expiry);
    for (htlc, urgent) in [(dust, 0), (held, 0), (known, 1)] {
        case.tell(1, &[htlc]);
        let engine = case.world.members[1].engine.as_ref().unwrap();
        let factory = engine.factory(case.instance).unwrap();
        assert_eq!(engine.urgent_htlcs(factory, case.start).len(), urgent);
    }
}
