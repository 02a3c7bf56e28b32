//! HTLCs on channels that were bought: the blocks_early of their longer chain holds everywhere.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;

use common::{factory, htlc};
use factory_engine::admission::htlc::{Failure, Htlc, Upstream, Verdict, admit};
use factory_engine::admission::urgent::Urgent;
use factory_engine::types::{ChannelId, InstanceId, Txid};
use factory_engine::{ChannelPolicy, Direction, Input, Sold};
use factory_lab::scenario::Scenario;
use factory_lab::world::{LSP, World};

/// Two clients who share stock.
fn pair(seed: u64) -> Scenario {
    Scenario::new(seed).clients(2).stock(300_000)
}

/// The sale of this number, as a member knows it.
fn sale(world: &World, at: usize, instance: InstanceId, number: u32) -> (ChannelId, Txid) {
    let sold =
        factory(world, at, instance).current.sales.all().find(|sold| sold.sale.number == number).unwrap();
    (sold.channel_id(), sold.txid())
}

/// The policies that a member's hooks use for a client's first channel and those that it bought.
fn policies(world: &World, at: usize, instance: InstanceId) -> Vec<ChannelPolicy> {
    let engine = world.members[at].engine.as_ref().unwrap();
    let on_node = engine.factory(instance).unwrap();
    let bought = on_node.own_sales().filter(|sold| sold.sale.buyer == 0).map(Sold::channel_id);
    let channels: Vec<ChannelId> = [on_node.current.channels[&0]].into_iter().chain(bought).collect();
    let all = engine.channel_policies();
    let of = |id: &ChannelId| all.iter().find(|(other, _)| other == id).map(|(_, policy)| policy.clone());
    channels.iter().map(|id| of(id).unwrap()).collect()
}

/// S15, S17: each bought channel has the longer exit of its chain, on both sides.
#[test]
fn bought_channels_take_htlcs_by_their_own_chain() {
    let (world, instance) = pair(5).sold(&[(1, 50_000), (2, 40_000), (1, 30_000)]).unwrap();
    let height = world.chain.height();
    for at in [LSP, 1] {
        let on_node = factory(&world, at, instance);
        let (first, step) = (on_node.current.layout.blocks_early(0), on_node.current.terms.confirm_blocks);
        let timeout = on_node.current.terms.timeout_height;
        let policies = policies(&world, at, instance);
        let early: Vec<u16> = policies.iter().map(|policy| policy.blocks_early).collect();
        assert_eq!(early, [first, first + step, first + 3 * step], "member {at}");
        for policy in &policies[1..] {
            let early = u32::from(policy.blocks_early);
            assert_eq!(policy.safe_end, timeout - early);
            for (incoming, expiry, verdict) in [
                (true, height + early + 1, None),
                (true, height + early, Some(Failure::ExpiryTooSoon)),
                (false, height + early + 1, None),
                (false, height + early, Some(Failure::ExpiryTooSoon)),
                (true, timeout - early, None),
                (true, timeout - early + 1, Some(Failure::ExpiryTooFar)),
                (false, timeout - early + 1, Some(Failure::ExpiryTooFar)),
            ] {
                let htlc = Htlc {
                    incoming: incoming.then_some(policy),
                    outgoing: (!incoming).then_some(policy),
                    cltv_expiry: expiry,
                    outgoing_cltv_expiry: (!incoming).then_some(expiry),
                    cltv_delta: 34,
                    upstream: Upstream::Live,
                };
                let failure = match admit(&htlc, height) {
                    Verdict::Continue => None,
                    Verdict::Fail { failure, .. } => Some(failure),
                };
                assert_eq!(failure, verdict, "member {at}, {htlc:?}");
            }
        }
        let engine = world.members[at].engine.as_ref().unwrap();
        assert_eq!(engine.largest_blocks_early(), first + 3 * step);
        let client = policies[2].client;
        assert_eq!(client, (at == LSP).then_some(world.members[1].id));
    }
}

/// S16: an HTLC on a bought channel starts the exit of its buyer at its own, earlier, deadline; with a
/// warning before it, on either side and after a restart; and the whole chain confirms in time.
#[test]
fn an_unsettled_htlc_on_a_bought_channel_starts_the_exit() {
    for (at, restart) in [(1, false), (1, true), (LSP, false), (LSP, true)] {
        let (mut world, instance) = pair(6).sold(&[(2, 40_000), (1, 30_000)]).unwrap();
        let (channel_id, txid) = sale(&world, at, instance, 2);
        let early = u32::from(factory(&world, at, instance).sale_blocks_early(0, 2));
        assert!(early > u32::from(factory(&world, at, instance).current.layout.blocks_early(0)));
        let pending = htlc(channel_id, Direction::Fulfilled, world.chain.height() + early + 7);
        let exit_block = pending.cltv_expiry - early;
        let tell = |world: &mut World| {
            world.feed(at, Input::Htlcs(vec![pending])).unwrap();
            world.settle().unwrap();
        };
        let warned = |world: &World| {
            let engine = world.members[at].engine.as_ref().unwrap();
            engine.urgent_htlcs(engine.factory(instance).unwrap(), world.chain.height())
        };
        world.mine(1).unwrap();
        tell(&mut world);
        assert_eq!(warned(&world), []);
        world.mine(1).unwrap();
        tell(&mut world);
        let urgent = Urgent { client: 0, channel_id, cltv_expiry: pending.cltv_expiry, exit_block };
        assert_eq!(warned(&world), [urgent]);
        world.mine(4).unwrap();
        tell(&mut world);
        assert!(factory(&world, at, instance).current.exiting.is_empty(), "a block too early");
        if restart {
            world.restart(at).unwrap();
            world.settle().unwrap();
        }
        world.mine(1).unwrap();
        tell(&mut world);
        assert_eq!(world.chain.height(), exit_block);
        assert!(factory(&world, at, instance).current.exiting.contains(&0), "member {at}");
        assert_eq!(warned(&world), [urgent]);
        // S18: it takes no more.
        assert!(policies(&world, at, instance).iter().all(|policy| policy.usable.is_err()));
        for _ in 0..early {
            world.mine(1).unwrap();
        }
        let (confirmed, _) = world.chain.confirmed(txid).unwrap();
        assert!(confirmed <= pending.cltv_expiry, "the sale confirmed at {confirmed}");
        assert_eq!(warned(&world), []);
    }
}

/// S18: a channel that is being bought takes nothing before the sale is signed, on either side.
#[test]
fn a_channel_takes_nothing_before_its_sale_is_signed() {
    let (mut world, instance) = pair(7).active().unwrap();
    world.ask(1, instance, 50_000, 0).unwrap().unwrap();
    let (mut seen, mut usable) = (0, [false; 2]);
    for _ in 0..200 {
        let alive = world.step().unwrap();
        for (place, at) in [LSP, 1].into_iter().enumerate() {
            let engine = world.members[at].engine.as_ref().unwrap();
            let on_node = engine.factory(instance).unwrap();
            let first = on_node.current.channels[&0];
            let signed: Vec<ChannelId> =
                on_node.own_sales().filter(|sold| sold.is_signed()).map(Sold::channel_id).collect();
            let opened: Vec<ChannelId> = world.channels_of(1).into_iter().filter(|id| *id != first).collect();
            let policies = engine.channel_policies();
            for id in opened {
                let policy = policies.iter().find(|(other, _)| *other == id).map(|(_, policy)| policy);
                let takes = policy.is_some_and(|policy| policy.usable.is_ok());
                assert!(!takes || signed.contains(&id), "member {at} takes HTLCs on what isn't signed");
                // What has no policy yet looks like what was accepted: the hook fails it.
                let known = world.members[at].lightningd.channels.get(&id);
                let suspect =
                    known.is_some_and(|known| engine.suspects().contains(&(known.peer, known.capacity)));
                assert!(policy.is_some() || suspect || at == LSP || known.is_none());
                seen += 1;
                usable[place] |= takes;
            }
        }
        if !alive {
            break;
        }
    }
    assert!(seen > 4 && usable == [true; 2], "{seen} {usable:?}");
}
