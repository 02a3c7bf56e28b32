//! A storm of fees while everybody's HTLCs run out.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;

use common::factory;
use factory_engine::types::{Amount, Height};
use factory_engine::{Config, Direction, Input, PendingHtlc};
use factory_lab::chain::Market;
use factory_lab::scenario::Scenario;
use factory_lab::world::{LSP, World};

const CLIENTS: usize = 127;
/// What the mempool takes at least during the storm, sat/kw: 50 sat/vB, more than any transaction of the tree
/// pays by itself.
const FLOOR: u32 = 12_500;
/// What miners take before the storm, and how many times that within how many blocks.
const CALM: u32 = 750;
const TIMES: u32 = 20;
const WITHIN: u32 = 12;
/// What an HTLC carries: worth an exit also at the end of the storm (S35).
const WORTH_MSAT: u64 = 300_000_000;
/// `factory-reserve-feerate`: what miners take at the worst, sat/kw.
const RESERVE_FEERATE: u32 = CALM * TIMES;

/// Gives a member the coins that `factory-status` asks for. A client has nothing else for fees; the operator has.
fn give_reserve(world: &mut World, at: usize, coins: (u64, Amount)) {
    for _ in 0..coins.0 {
        let script = world.members[at].lightningd.new_taproot_script();
        world.chain.mint(script, coins.1);
    }
}

/// Blocks in which what miners take rises; everybody has its HTLCs. Gives the height at which each client's
/// leaf confirmed.
fn storm(
    world: &mut World,
    instance: factory_engine::types::InstanceId,
    htlcs: &[PendingHtlc],
) -> Vec<Option<Height>> {
    let last = htlcs.iter().map(|htlc| htlc.cltv_expiry).max().unwrap();
    let begins = world.chain.height();
    while world.chain.height() < last {
        let rises = (world.chain.height() - begins).min(WITHIN);
        let inclusion = CALM + (CALM * TIMES - CALM) * rises / WITHIN;
        world.chain.market = Market { floor: FLOOR, inclusion, strict: false };
        for at in (0..world.members.len()).filter(|at| world.engine(*at).is_ok()).collect::<Vec<_>>() {
            let own: Vec<_> = match at {
                LSP => htlcs.to_vec(),
                client => htlcs[client - 1..client].to_vec(),
            };
            world.feed(at, Input::Htlcs(own)).unwrap();
        }
        world.mine(1).unwrap();
    }
    (0u32..127).map(|client| factory(world, client as usize + 1, instance).leaf_height(client)).collect()
}

fn scenario() -> Scenario {
    Scenario::new(50).clients(CLIENTS).unchecked().config(|config| {
        config.confirm_blocks = 6;
        config.margin_blocks = 24;
        config.bounds.min_margin_blocks = 24;
        config.reserve_feerate = RESERVE_FEERATE;
    })
}

/// S16, S26: 127 clients' HTLCs run out while the mempool takes nothing below 50 sat/vB and what miners take
/// rises twentyfold within 12 blocks. Who has the coins that `factory-status` asks for has each leaf on chain
/// with time for its commitment and its HTLC's transaction.
#[test]
fn nobody_loses_an_htlc_who_had_the_coins() {
    everybody_is_in_time(true);
}

/// S16, S26: the same where the operator is gone for good, and pays for nothing: clients' own coins do.
#[test]
fn no_client_loses_one_whose_operator_is_gone() {
    everybody_is_in_time(false);
}

fn everybody_is_in_time(with_operator: bool) {
    assert!(Config::default().reserve_feerate >= RESERVE_FEERATE, "whoever chooses nothing is prepared");
    let (mut world, instance) = scenario().capacity(1_000_000).active().unwrap();
    // What is at stake for a client: lightningd here doesn't count HTLCs.
    for client in 1..=CLIENTS {
        world.pay(LSP, client, WORTH_MSAT).unwrap();
    }
    for at in 0..=CLIENTS {
        let coins = factory(&world, at, instance).exit_coins(RESERVE_FEERATE);
        assert!(coins.at_once > 0 && coins.number >= coins.at_once);
        // One coin of that size pays for each.
        let all = factory(&world, at, instance).exit_reserve(RESERVE_FEERATE);
        assert!(coins.each * coins.number >= all, "{coins:?} for {all}");
        give_reserve(&mut world, at, (coins.number, coins.each));
        world.members[at].lightningd.packages = true;
    }
    world.mine(1).unwrap();
    let height = world.chain.height();
    let htlcs: Vec<PendingHtlc> = (0u32..127)
        .map(|client| {
            let factory = factory(&world, LSP, instance);
            let early = u32::from(factory.current.layout.blocks_early(client));
            let channel_id = factory.current.channels[&client];
            let expiry = height + early + 1 + client % 4;
            PendingHtlc { amount_msat: WORTH_MSAT, ..common::htlc(channel_id, Direction::Fulfilled, expiry) }
        })
        .collect();
    if !with_operator {
        world.stop(LSP);
    }
    let leaves = storm(&mut world, instance, &htlcs);
    let settling = 2 * u32::from(factory(&world, 1, instance).current.terms.confirm_blocks);
    for (client, (leaf, htlc)) in leaves.iter().zip(&htlcs).enumerate() {
        let by = htlc.cltv_expiry - settling;
        assert!(leaf.is_some_and(|leaf| leaf <= by), "client {client}: {leaf:?}, and {by} is the last");
    }
}
