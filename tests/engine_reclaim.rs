//! S38: with everybody's keys the operator takes a factory back, alone or into the next one: in time, nothing
//! else with them, and nobody who hasn't handed over is worse off.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;

use std::collections::BTreeSet;

use bitcoin::{OutPoint, Transaction};
use common::factory;
use factory_engine::record::event::Event;
use factory_engine::tx::layout::{SessionId, SpendRole};
use factory_engine::tx::plan::Profile;
use factory_engine::types::{Amount, Height, InstanceId};
use factory_engine::wire::message::Message;
use factory_engine::{
    BURIED, ChannelNow, Command, Ended, Input, NextAction, Purpose, Standing, State, standing, statement,
};
use factory_lab::offer::Offer;
use factory_lab::scenario::Scenario;
use factory_lab::world::{Fate, LSP, World};

/// Blocks before the last moment at which the operator takes a factory back alone.
const ALONE: u32 = 10;

fn scenario(seed: u64, clients: usize) -> Scenario {
    let scenario = Scenario::new(seed).clients(clients).stock(0).short_delays().lifetime(120, 30);
    scenario.config(|config| config.reclaim_blocks = ALONE)
}

fn timeout(world: &World, instance: InstanceId) -> Height {
    factory(world, LSP, instance).current.terms.timeout_height
}

fn latest(world: &World, instance: InstanceId) -> Height {
    factory(world, LSP, instance).reclaim_latest()
}

fn root(world: &World, instance: InstanceId) -> OutPoint {
    factory(world, LSP, instance).funding().unwrap()
}

fn hand_over(world: &mut World, instance: InstanceId, clients: impl IntoIterator<Item = usize>) {
    for client in clients {
        world.hand_over(client, instance).unwrap();
    }
}

/// Blocks up to a height, and what must hold after each.
fn mine_to(world: &mut World, height: Height) {
    while world.chain.height() < height {
        world.mine(1).unwrap();
        world.judge_chain();
        assert_eq!(world.judge.violations, Vec::<String>::new());
    }
}

/// Transactions that took something back, of those that are in the chain.
fn reclaims(world: &World) -> Vec<Transaction> {
    let sent = world.sent.iter().filter(|sent| sent.what.starts_with("reclaim"));
    let mut txids: Vec<_> = sent.map(|sent| sent.txid).collect();
    txids.sort();
    txids.dedup();
    txids.into_iter().filter_map(|txid| Some(world.chain.confirmed(txid)?.1.clone())).collect()
}

/// Every member's account adds up, and says how much was taken back.
fn taken_back(world: &World, at: usize, instance: InstanceId) -> Amount {
    let statement = statement(factory(world, at, instance)).unwrap();
    assert_eq!(statement.problem, None, "member {at}");
    statement.total(|purpose| *purpose == Purpose::Reclaimed).unwrap()
}

/// lightningd has closed every channel of a member, as far as it can.
fn all_closed(world: &mut World, at: usize) {
    let channels = world.members[at].lightningd.channels.keys();
    let list = channels.map(|id| ChannelNow { channel_id: *id, ended: Some(Ended::Closing) }).collect();
    world.feed(at, Input::Channels { list, whole: true }).unwrap();
}

/// S38: all keys. It waits for the next factory as long as there is time, and is then one input and one output.
#[test]
fn a_root_with_all_keys_is_one_input() {
    for (seed, profile, clients) in
        [(1, Profile::Static, 8), (2, Profile::Stateful, 6), (3, Profile::Flat, 3)]
    {
        let (mut world, instance) = scenario(seed, clients).profile(profile).active().unwrap();
        hand_over(&mut world, instance, 1..=clients);
        let (root, value) =
            (root(&world, instance), factory(&world, LSP, instance).current.layout.funding_value());
        let alone_from = latest(&world, instance) - ALONE;
        let height = world.chain.height();
        let next = factory(&world, LSP, instance).next_action(height);
        assert_eq!(next, NextAction::Reclaim { before: latest(&world, instance) });
        mine_to(&mut world, alone_from - 1);
        assert!(world.sent.is_empty(), "{:?}", world.sent);
        mine_to(&mut world, alone_from + 1);
        let (at, tx) = world.chain.spender(root).unwrap();
        assert_eq!((at, tx.input.len(), tx.output.len()), (alone_from + 1, 1, 1));
        assert_eq!(tx.input[0].witness.len(), 1, "a key path");
        assert!(tx.vsize() <= 111, "{}", tx.vsize());
        assert!(world.members[LSP].lightningd.owns(&tx.output[0]));
        let got = tx.output[0].value;
        assert!(got > value - Amount::from_sat(1_000), "{got} of {value}");
        assert_eq!(taken_back(&world, LSP, instance), got);
        let height = world.chain.height();
        assert_eq!(world.state(LSP, instance), Some(State::Reclaimed));
        assert_eq!(standing(factory(&world, LSP, instance), height), Some(Standing::Reclaimed));
        for at in 1..=clients {
            assert_eq!(world.state(at, instance), Some(State::Left), "member {at}");
            assert!(taken_back(&world, at, instance) > Amount::ZERO, "member {at}");
        }
        mine_to(&mut world, alone_from + BURIED);
        assert_eq!(reclaims(&world).len(), 1);
        let others = world.sent.iter().filter(|sent| !sent.what.starts_with("reclaim"));
        assert_eq!(others.count(), 0, "nobody publishes anything else: {:?}", world.sent);
        for at in 0..=clients {
            let height = world.chain.height();
            let archivable = |world: &World| {
                world.members[at].engine.as_ref().unwrap().archivable(height).collect::<Vec<_>>()
            };
            let open = factory(&world, at, instance).current.ended.is_empty();
            assert_eq!(archivable(&world).is_empty(), open, "S18: lightningd has the channels of {at}");
            all_closed(&mut world, at);
            assert_eq!(world.state(at, instance), Some(State::Closed), "member {at}");
            assert_eq!(archivable(&world), [instance], "member {at}");
        }
    }
}

/// Coins beside the paths of some clients.
fn beside(world: &World, instance: InstanceId, clients: &[usize]) -> usize {
    let layout = &factory(world, LSP, instance).current.layout;
    let paths: BTreeSet<u32> = clients.iter().flat_map(|client| layout.path(*client as u32 - 1)).collect();
    let coins = (0u32..).zip(layout.coins());
    let on_chain = coins.filter(|(_, coin)| coin.source.is_some_and(|(node, _)| paths.contains(&node)));
    on_chain.filter(|(coin, known)| !known.stock && !paths.contains(coin)).count()
}

/// S38, S21: whoever hasn't handed over is evicted as ever, and one transaction takes everything beside its path.
#[test]
fn with_stragglers_one_transaction_takes_the_rest() {
    for (seed, profile, clients, stragglers) in [
        (11, Profile::Static, 9, vec![4]),
        (12, Profile::Stateful, 16, vec![2]),
        (13, Profile::Static, 27, vec![1, 14]),
    ] {
        let (mut world, instance) =
            scenario(seed, clients).profile(profile).lifetime(200, 30).unchecked().active().unwrap();
        let straggler = stragglers[0];
        world.pay(LSP, straggler, 20_000_000).unwrap();
        hand_over(&mut world, instance, (1..=clients).filter(|client| !stragglers.contains(client)));
        let end = timeout(&world, instance);
        mine_to(&mut world, end);
        let of_lsp = factory(&world, LSP, instance);
        let evicted: Vec<usize> = of_lsp.current.evicting.iter().map(|index| *index as usize + 1).collect();
        assert_eq!(evicted, stragglers, "nobody else is evicted");
        for client in &stragglers {
            assert!(of_lsp.leaf_height(*client as u32 - 1).unwrap() < end);
        }
        let taken = reclaims(&world);
        assert_eq!(taken.len(), 1, "{taken:?}");
        assert_eq!(taken[0].input.len(), beside(&world, instance, &stragglers));
        assert!(world.chain.confirmed(taken[0].compute_txid()).unwrap().0 < end);
        assert_eq!(world.state(LSP, instance), Some(State::Exited));
        assert!(taken_back(&world, LSP, instance) > Amount::ZERO);
        // Nobody who hasn't handed over is worse off: its channel is on chain and goes on.
        world.pay(LSP, straggler, 1_000_000).unwrap();
        mine_to(&mut world, end + 4);
        assert!(world.sent.iter().all(|sent| !sent.what.contains("distribution")), "{:?}", world.sent);
    }
}

/// S38: a client that has handed over publishes its path all the same. What appears is taken.
#[test]
fn a_path_that_is_published_after_the_handover() {
    let (mut world, instance) = scenario(21, 9).active().unwrap();
    hand_over(&mut world, instance, 1..=9);
    let path = factory(&world, 3, instance).current.layout.path(2);
    assert!(path.len() > 1);
    for (step, node) in path.iter().enumerate() {
        let id = SessionId { coin: *node, role: SpendRole::State };
        let tx = factory(&world, 3, instance).signed_tx(id).unwrap();
        let sent = world.chain.submit(&tx);
        // The first it can; from then on the operator is there before it.
        assert_eq!(sent.is_ok(), step == 0, "{sent:?}");
        let height = world.chain.height();
        mine_to(&mut world, height + 1);
    }
    let taken = reclaims(&world);
    assert_eq!(taken.len(), 1);
    assert_eq!(
        taken[0].input.len(),
        factory(&world, LSP, instance).current.layout.node(0).unwrap().outputs.len() - 1
    );
    assert_eq!(world.state(LSP, instance), Some(State::Reclaimed));
    let spent = statement(factory(&world, LSP, instance)).unwrap();
    assert!(spent.is_final(), "{spent:?}");
}

/// S38: and if the operator hears of it late, when its channel is on chain, it takes the rest.
#[test]
fn a_whole_path_at_once() {
    let (mut world, instance) = scenario(22, 9).active().unwrap();
    hand_over(&mut world, instance, 1..=9);
    for node in factory(&world, 3, instance).current.layout.path(2) {
        let id = SessionId { coin: node, role: SpendRole::State };
        let tx = factory(&world, 3, instance).signed_tx(id).unwrap();
        world.chain.submit(&tx).unwrap();
        world.mine_quietly(1);
    }
    world.sync_all().unwrap();
    let height = world.chain.height();
    mine_to(&mut world, height + 2);
    let taken: Vec<_> = reclaims(&world).iter().map(|tx| tx.input.len()).collect();
    assert_eq!(taken.len(), 1, "{taken:?}");
    assert!(taken_back(&world, LSP, instance) > Amount::ZERO);
    assert_eq!(world.state(LSP, instance), Some(State::Exited), "a leaf is on chain");
}

/// S25, S26, S38: it is reorganised away, and made again.
#[test]
fn a_reclaim_that_is_reorganised_away() {
    for dropped in [false, true] {
        let (mut world, instance) = scenario(23, 4).active().unwrap();
        hand_over(&mut world, instance, 1..=4);
        let alone_from = latest(&world, instance) - ALONE;
        mine_to(&mut world, alone_from + 2);
        assert_eq!(world.state(LSP, instance), Some(State::Reclaimed));
        if dropped {
            world.chain.reorg_and_drop(2);
            world.mine_quietly(1);
        } else {
            world.chain.reorg(2);
            world.mine_quietly(1);
        }
        world.sync_all().unwrap();
        mine_to(&mut world, alone_from + 4);
        assert_eq!(world.state(LSP, instance), Some(State::Reclaimed));
        assert!(taken_back(&world, LSP, instance) > Amount::ZERO);
    }
}

/// S26, S38: fees rise while it waits: it is replaced by what pays more (BIP-125), and confirms before the timeout.
#[test]
fn fees_rise_while_it_waits() {
    let (mut world, instance) = scenario(24, 4).active().unwrap();
    hand_over(&mut world, instance, 1..=4);
    let alone_from = latest(&world, instance) - ALONE;
    mine_to(&mut world, alone_from - 1);
    world.chain.market.strict = true;
    let mut inclusion = 3_000;
    let root = root(&world, instance);
    while world.chain.spender(root).is_none() && world.chain.height() < timeout(&world, instance) {
        // Always a little more than what was sufficient when everybody looked.
        world.chain.market.inclusion = inclusion;
        inclusion += inclusion / 2;
        inclusion = inclusion.min(40_000);
        world.mine(1).unwrap();
    }
    let (at, tx) = world.chain.spender(root).unwrap();
    assert!(at < timeout(&world, instance) - 2, "{at}");
    assert!(world.members[LSP].lightningd.owns(&tx.output[0]));
    let sent: Vec<_> = world.sent.iter().filter(|sent| sent.what.starts_with("reclaim")).collect();
    let mut txids: Vec<_> = sent.iter().map(|sent| sent.txid).collect();
    txids.dedup();
    assert!(txids.len() > 2, "it was replaced: {sent:?}");
    assert!(sent.iter().all(|sent| sent.result.is_ok()), "{sent:?}");
}

/// S38: a way on chain that was begun before the last key came, and that fees keep from getting through, gives way to the
/// reclaim while there is time. With all keys nothing is begun any more.
#[test]
fn a_way_that_does_not_get_through_gives_way() {
    let (mut world, instance) = scenario(31, 4).active().unwrap();
    let latest = latest(&world, instance);
    mine_to(&mut world, latest - 3);
    world.chain.market.strict = true;
    world.chain.market.floor = 12_500;
    let exit = Command::Exit { instance };
    world.command(LSP, exit.clone()).unwrap();
    hand_over(&mut world, instance, 1..=4);
    let refusal = world.command(LSP, exit).unwrap_err().to_string();
    assert!(refusal.contains("every client"), "{refusal}");
    mine_to(&mut world, latest + 2);
    let (_, tx) = world.chain.spender(root(&world, instance)).unwrap();
    assert!(world.members[LSP].lightningd.owns(&tx.output[0]), "{:?}", world.sent);
    assert_eq!(tx.output.len(), 1);
    assert_eq!(world.state(LSP, instance), Some(State::Reclaimed));

    // With some keys the rest has its way.
    let (mut world, instance) = scenario(32, 4).active().unwrap();
    hand_over(&mut world, instance, [1, 2, 3]);
    world.command(LSP, Command::Exit { instance }).unwrap();
    assert_eq!(factory(&world, LSP, instance).current.exiting, BTreeSet::from([3]));
}

/// S33, S38: of a factory whose records aren't all understood nothing is taken back, so that the way on chain stays open
/// with all keys, to the end.
#[test]
fn a_damaged_factory_keeps_its_way() {
    let (mut world, instance) = scenario(33, 4).active().unwrap();
    hand_over(&mut world, instance, 1..=4);
    let records = world.members[LSP].store.records(instance).len();
    world.damage(LSP, instance, records - 6, vec![]);
    world.restart(LSP).unwrap();
    world.reconnect().unwrap();
    let height = latest(&world, instance);
    world.mine(height.saturating_sub(world.chain.height())).unwrap();
    world.command(LSP, Command::Exit { instance }).unwrap();
    world.mine(2).unwrap();
    let (_, tx) = world.chain.spender(root(&world, instance)).unwrap();
    assert!(tx.output.len() > 1, "the tree's first transaction");
}

/// S26: something that pays more is in its way: it outbids that, as far as it is worth it.
#[test]
fn it_outbids_a_path_that_waits() {
    let (mut world, instance) = scenario(25, 4).active().unwrap();
    hand_over(&mut world, instance, 1..=4);
    let alone_from = latest(&world, instance) - ALONE;
    mine_to(&mut world, alone_from - 1);
    world.chain.market.strict = true;
    let id = SessionId { coin: 0, role: SpendRole::State };
    let tx = factory(&world, 2, instance).signed_tx(id).unwrap();
    world.chain.submit(&tx).unwrap();
    world.chain.mine_without(|_| true);
    world.sync_all().unwrap();
    let mut blocks = 0;
    while world.chain.knows(tx.compute_txid()) {
        assert!(blocks < 8, "{:?}", world.sent);
        blocks += 1;
        world.chain.mine_without(|_| true);
        world.sync_all().unwrap();
    }
    let height = world.chain.height();
    mine_to(&mut world, height + 1);
    assert_eq!(world.state(LSP, instance), Some(State::Reclaimed));
}

/// S38: a key that is missing, or that isn't the client's: nothing is taken, and the account says nothing else.
#[test]
fn without_every_key_nothing_is_taken() {
    let (mut world, instance) = scenario(26, 4).active().unwrap();
    hand_over(&mut world, instance, 1..=3);
    let end = timeout(&world, instance);
    let keys = factory(&world, LSP, instance).reclaimable();
    assert_eq!(keys, []);
    mine_to(&mut world, end - 1);
    assert_eq!(factory(&world, LSP, instance).current.evicting.len(), 1);
    // Whatever it took, it took with keys that it has.
    let coins = factory(&world, LSP, instance).current.layout.client_coins(3);
    for coin in coins {
        let outpoint =
            factory(&world, LSP, instance).current.tree.as_ref().unwrap().coin_outpoint(coin).unwrap();
        let spender = world.chain.spender(outpoint).map(|(_, tx)| tx.compute_txid());
        let own = factory(&world, LSP, instance).session_of(outpoint, spender.unwrap()).unwrap();
        assert_eq!(own.role, SpendRole::State);
    }
}

/// S38, S10: the operator stops at every block, and it is done all the same.
#[test]
fn restarts_change_nothing() {
    for stragglers in [0, 1] {
        let (mut world, instance) = scenario(27, 9).active().unwrap();
        hand_over(&mut world, instance, 1 + stragglers..=9);
        let end = timeout(&world, instance);
        while world.chain.height() < end {
            world.mine(1).unwrap();
            world.restart(LSP).unwrap();
            world.judge_chain();
            assert_eq!(world.judge.violations, Vec::<String>::new());
        }
        let expected = if stragglers == 0 { State::Reclaimed } else { State::Exited };
        assert_eq!(world.state(LSP, instance), Some(expected));
        assert_eq!(reclaims(&world).len(), 1);
        assert!(taken_back(&world, LSP, instance) > Amount::ZERO);
    }
}

/// S38: stock, sold or not, comes home by its key path, without waiting for its timelock.
#[test]
fn stock_is_taken_with_the_rest() {
    let scenario = scenario(28, 8).stock(300_000).lifetime(200, 30);
    let (mut world, instance) = scenario.sold(&[(1, 50_000)]).unwrap();
    hand_over(&mut world, instance, (1..=8).filter(|client| *client != 8));
    let end = timeout(&world, instance);
    mine_to(&mut world, end - 1);
    let of_lsp = factory(&world, LSP, instance);
    assert_eq!(of_lsp.current.evicting.iter().copied().collect::<Vec<_>>(), [7]);
    let sold = of_lsp.current.sales.all().next().unwrap().txid();
    assert!(world.chain.confirmed(sold).is_none(), "a sale to somebody who has handed over is nobody's");
    let statement = statement(of_lsp).unwrap();
    assert!(statement.is_final(), "{statement:?}");
    assert_eq!(world.state(LSP, instance), Some(State::Exited));
}

/// Another factory of everybody, begun.
fn next(world: &mut World) -> InstanceId {
    world
        .begin(&Offer { lifetime_blocks: 200, dying_blocks: 30, stock: Amount::ZERO, ..Offer::default() })
        .unwrap()
}

/// S38: two factories that are all the operator's are inputs of the next one's funding, which needs no other.
#[test]
fn two_factories_go_into_the_next() {
    let (mut world, first) = scenario(31, 4).active().unwrap();
    let second = next(&mut world);
    world.activate(second).unwrap();
    hand_over(&mut world, first, 1..=4);
    hand_over(&mut world, second, 1..=4);
    let values: Amount =
        [first, second].iter().map(|of| factory(&world, LSP, *of).current.layout.funding_value()).sum();
    let third = next(&mut world);
    world.activate(third).unwrap();
    let funding = world.chain.confirmed(root(&world, third).txid).unwrap().1.clone();
    let roots: Vec<OutPoint> = funding.input.iter().map(|input| input.previous_output).collect();
    assert_eq!(roots.len(), 2, "no coin of the wallet");
    assert!(roots.contains(&root(&world, first)) && roots.contains(&root(&world, second)));
    assert_eq!(taken_back(&world, LSP, first) + taken_back(&world, LSP, second), values);
    for at in 0..=4 {
        assert_eq!(world.state(at, first), Some(if at == LSP { State::Reclaimed } else { State::Left }));
        assert_eq!(world.state(at, third), Some(State::Active));
        assert!(taken_back(&world, at, second) > Amount::ZERO);
    }
    assert_eq!(reclaims(&world), [], "no transaction of its own");
    world.pay(LSP, 1, 1_000_000).unwrap();
}

/// S38, S12: an attempt that ends gives back what it was promised, and the next one takes it.
#[test]
fn an_attempt_that_fails_gives_it_back() {
    let (mut world, first) = scenario(32, 4).active().unwrap();
    hand_over(&mut world, first, 1..=4);
    world.tamper(move |out| match &out.message {
        Message::PartialSignatures(m) if out.from == 2 && m.attempt == 1 && m.instance != first => {
            let mut bad = m.clone();
            bad.signatures[0].0[31] ^= 1;
            Fate::replace(bad)
        }
        _ => Fate::Deliver,
    });
    let second = next(&mut world);
    assert_eq!(world.finish(second).unwrap(), State::Active);
    assert_eq!(factory(&world, LSP, second).current.number, 2);
    let (_, funding) = world.chain.spender(root(&world, first)).unwrap();
    assert_eq!(funding.compute_txid(), root(&world, second).txid);
    assert_eq!(world.state(LSP, first), Some(State::Reclaimed));
}

/// S38: a creation that comes to nothing leaves it where it was: it is taken alone, in time.
#[test]
fn a_creation_that_comes_to_nothing() {
    let (mut world, first) = scenario(33, 2).active().unwrap();
    hand_over(&mut world, first, 1..=2);
    world.tamper(|out| match &out.message {
        Message::Stored(_) => Fate::Drop,
        _ => Fate::Deliver,
    });
    let second = next(&mut world);
    world.run_out().unwrap();
    assert_eq!(world.state(LSP, second), Some(State::Aborted));
    assert_eq!(factory(&world, LSP, second).promised().count(), 0);
    world.heal();
    let alone_from = latest(&world, first) - ALONE;
    mine_to(&mut world, alone_from + 1);
    assert_eq!(world.state(LSP, first), Some(State::Reclaimed));
}

/// S38: two creations at once are never promised the same.
#[test]
fn two_creations_at_once() {
    let (mut world, first) = scenario(34, 4).active().unwrap();
    hand_over(&mut world, first, 1..=4);
    let (second, third) = (next(&mut world), next(&mut world));
    world.run_out().unwrap();
    let promised: Vec<usize> =
        [second, third].iter().map(|of| factory(&world, LSP, *of).promised().count()).collect();
    assert!(promised.iter().sum::<usize>() <= 1, "{promised:?}");
    world.mine(4).unwrap();
    world.run_out().unwrap();
    let (_, tx) = world.chain.spender(root(&world, first)).unwrap();
    let roots = [root(&world, second).txid, root(&world, third).txid];
    assert!(roots.contains(&tx.compute_txid()));
    assert_eq!(world.state(LSP, first), Some(State::Reclaimed));
}

/// S38: a funding that doesn't confirm keeps nothing from being taken back before the timeout: from the last
/// moment on the operator outbids it, on purpose. The new factory is dead, and says so (S12).
#[test]
fn a_funding_that_never_confirms() {
    let (mut world, first) = scenario(35, 4).active().unwrap();
    hand_over(&mut world, first, 1..=4);
    let second = next(&mut world);
    world.run_out().unwrap();
    assert_eq!(world.state(LSP, second), Some(State::Funding));
    world.chain.market.strict = true;
    let funding = root(&world, second).txid;
    let (latest, end) = (latest(&world, first), timeout(&world, first));
    let mine = |world: &mut World| {
        world.chain.mine_without(|tx| tx.compute_txid() == funding);
        world.sync_all().unwrap();
    };
    while world.chain.height() < latest {
        assert!(world.sent.is_empty(), "promised to a funding: {:?}", world.sent);
        assert!(world.chain.knows(funding));
        mine(&mut world);
    }
    while world.chain.spender(root(&world, first)).is_none() {
        assert!(world.chain.height() < end, "{:?}", world.sent);
        mine(&mut world);
    }
    assert_eq!(world.state(LSP, first), Some(State::Reclaimed));
    assert_eq!(reclaims(&world).len(), 1);
    assert!(world.chain.spender(root(&world, first)).unwrap().0 < end);
    world.mine(BURIED + 1).unwrap();
    for at in 0..=4 {
        assert!(matches!(world.state(at, second), None | Some(State::Aborted)), "member {at}");
    }
}

/// S38: a root that somebody publishes while the next factory is made ends that attempt, and no more.
#[test]
fn a_root_that_is_gone_before_the_funding() {
    let (mut world, first) = scenario(36, 4).active().unwrap();
    hand_over(&mut world, first, 1..=4);
    // One stored is missing while the root is published.
    world.tamper(move |out| match &out.message {
        Message::Stored(m) if out.from == 2 && m.attempt == 1 && m.instance != first => Fate::Drop,
        _ => Fate::Deliver,
    });
    let second = next(&mut world);
    world.settle().unwrap();
    assert_eq!(factory(&world, LSP, second).promised().count(), 1);
    let id = SessionId { coin: 0, role: SpendRole::State };
    let tx = factory(&world, 3, first).signed_tx(id).unwrap();
    world.chain.submit(&tx).unwrap();
    world.mine(2).unwrap();
    assert_eq!(factory(&world, LSP, second).current.number, 2, "begun again");
    assert_eq!(world.finish(second).unwrap(), State::Active);
    assert_eq!(factory(&world, LSP, second).promised().count(), 0);
    assert!(world.chain.confirmed(root(&world, second).txid).is_some());
}

/// S38, S10: the operator stops while a funding takes a factory back: what was promised is known again.
#[test]
fn a_restart_between_promise_and_block() {
    let (mut world, first) = scenario(37, 4).active().unwrap();
    hand_over(&mut world, first, 1..=4);
    let second = next(&mut world);
    world.run_out().unwrap();
    let funding = root(&world, second).txid;
    world.chain.reorg_and_drop(0);
    assert!(!world.chain.knows(funding));
    world.restart(LSP).unwrap();
    world.settle().unwrap();
    assert!(world.chain.knows(funding), "sent again, with the same inputs signed again");
    world.mine(1).unwrap();
    assert_eq!(world.state(LSP, first), Some(State::Reclaimed));
    let reserved = world.members[LSP].store.records(second).iter().any(|record| {
        let events = factory_engine::record::decode_record(record).unwrap();
        events.iter().any(|event| matches!(event, Event::FundingReserved(e) if e.reclaims.is_some()))
    });
    assert!(reserved);
}
