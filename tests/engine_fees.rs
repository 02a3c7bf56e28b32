//! S26: what each transaction that is due should pay, by when, and how much at most.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;

use std::collections::BTreeMap;

use common::{factory, sales};
use factory_engine::io::fees::{ChildOut, FeeNews, Feerates, Raise, Refused, Report, Trouble};
use factory_engine::record::factory::Factory;
use factory_engine::tx::child::usual_weight;
use factory_engine::tx::layout::{NodeIndex, NodeKind, SessionId, SpendRole, fee};
use factory_engine::tx::plan::Profile;
use factory_engine::types::{Amount, ChannelId, Height, InstanceId, Txid};
use factory_engine::{Answer, Command, Direction, Effect, Entropy, Input, Level, PendingHtlc};
use factory_lab::offer::Offer;
use factory_lab::scenario::Scenario;
use factory_lab::world::{LSP, World};

/// What nothing that was signed beforehand pays, sat/kw.
const HIGH: u32 = 50_000;
/// Blocks that a transaction has whose end is far.
const NO_HURRY: u32 = 144;

struct Nothing;

impl Entropy for Nothing {
    fn bytes32(&mut self) -> [u8; 32] {
        [0; 32]
    }
}

fn rates(feerate: u32) -> Feerates {
    Feerates { floor: 253, estimates: BTreeMap::from([(2, feerate)]) }
}

/// What a member asks its node for when it hears of HTLCs and stakes, with feerates at which everything
/// needs a child. Nothing is carried out.
fn raises(world: &mut World, at: usize, htlcs: &[PendingHtlc], stakes: &[(ChannelId, Amount)]) -> Vec<Raise> {
    let (now, height) = (world.now, world.chain.height());
    let news = FeeNews { feerates: Some(rates(HIGH)), stakes: stakes.iter().copied().collect() };
    let engine = world.members[at].engine.as_mut().unwrap();
    let mut effects = Vec::new();
    for input in [Input::Htlcs(htlcs.to_vec()), Input::Fees(news)] {
        let step = engine.handle(input, now, height, &mut Nothing);
        assert!(step.events.is_empty(), "{:?}", step.events);
        effects = engine.apply(step).unwrap();
    }
    let raise = |effect| match effect {
        Effect::Bump(raise) => Some(*raise),
        _ => None,
    };
    effects.into_iter().filter_map(raise).collect()
}

/// The nodes of a client's path, and which of them a transaction is.
fn on_path(factory: &Factory, client: u32, txid: Txid) -> Option<(Vec<NodeIndex>, usize)> {
    let path = factory.current.layout.path(client);
    let tree = factory.current.tree.as_ref().unwrap();
    let place = path.iter().position(|node| tree.node_tx(*node).unwrap().compute_txid() == txid)?;
    Some((path, place))
}

/// The nSequence that a node waits for after its parent.
fn lock(factory: &Factory, node: NodeIndex) -> u32 {
    let node = factory.current.layout.node(node).unwrap();
    if node.kind == NodeKind::State { node.sequence } else { 0 }
}

/// Blocks that the nodes after this one take, and `more` transactions after them.
fn after(factory: &Factory, path: &[NodeIndex], place: usize, more: u32) -> u32 {
    let rest = &path[place + 1..];
    let confirm = u32::from(factory.current.terms.confirm_blocks);
    let count = u32::try_from(rest.len()).unwrap() + more;
    count * confirm + rest.iter().map(|node| lock(factory, *node)).sum::<u32>()
}

/// Blocks for a commitment and an HTLC transaction after the path, as far as the margin has room for them.
fn settling(factory: &Factory) -> u32 {
    let terms = &factory.current.terms;
    (2 * u32::from(terms.confirm_blocks)).min(terms.margin_blocks.into())
}

/// The height from which a node was due.
fn due_since(factory: &Factory, node: NodeIndex, began: Height) -> Height {
    let outpoint = factory.current.tree.as_ref().unwrap().coin_outpoint(node).unwrap();
    (factory.confirmed[&outpoint.txid] + lock(factory, node)).max(began)
}

fn quotient(amount: Amount, by: usize) -> Amount {
    amount / u64::try_from(by).unwrap()
}

/// S26: each transaction of an exit is to confirm early enough for those after it, the channel's own among
/// them, before the HTLC on the channel behind it expires, and pays no more than its part of what that channel is worth.
#[test]
fn an_exit_leaves_time_for_what_comes_after_and_stays_below_the_stake() {
    let scenario = Scenario::new(1).clients(8).profile(Profile::Stateful).short_delays();
    let (mut world, instance) = scenario.active().unwrap();
    world.mine(20).unwrap();
    let channel = factory(&world, 1, instance).current.channels[&0];
    let other = ChannelId([9; 32]);
    world.command(1, Command::Exit { instance }).unwrap();
    let began = world.chain.height();
    let expiry = began + 120;
    let htlc = |channel_id, cltv_expiry| common::htlc(channel_id, Direction::Fulfilled, cltv_expiry);
    let capacity = factory(&world, 1, instance).capacity(0);
    let stake = Amount::from_sat(60_001);
    let mut seen = 0;
    while factory(&world, 1, instance).leaf_height(0).is_none() {
        let calm = raises(&mut world, 1, &[htlc(other, began + 1)], &[]);
        let hurried = raises(&mut world, 1, &[htlc(channel, expiry)], &[(channel, stake)]);
        let rich = raises(&mut world, 1, &[], &[(channel, capacity * 2)]);
        let factory = factory(&world, 1, instance);
        for raise in &calm {
            let (path, place) = on_path(factory, 0, raise.parent.compute_txid()).unwrap();
            let since = due_since(factory, path[place], began);
            let left = path.len() - place;
            // No end in sight; an unknown balance counts as all of the channel.
            assert_eq!(raise.deadline, since + NO_HURRY, "{}", raise.what);
            assert_eq!(raise.bump.max_fee, quotient(capacity, left), "{}", raise.what);
            let hurried = hurried.iter().find(|other| other.parent == raise.parent).unwrap();
            let end = expiry - settling(factory);
            assert_eq!(hurried.deadline, end - after(factory, &path, place, 0), "{}", raise.what);
            assert_eq!(hurried.bump.max_fee, quotient(stake, left), "{}", raise.what);
            let rich = rich.iter().find(|other| other.parent == raise.parent).unwrap();
            assert_eq!(rich.bump.max_fee, quotient(capacity, left), "{}", raise.what);
            seen += 1;
        }
        world.mine(1).unwrap();
    }
    assert!(seen >= 3, "{seen}");
    // S26: what is behind it has arrived.
    assert_eq!(raises(&mut world, 1, &[htlc(channel, expiry)], &[]).len(), 0);
}

/// S26: a node whose backend has never said what fees are raises them all the same once a deadline is near;
/// before, whatever the mempool takes will do.
#[test]
fn fees_are_raised_although_nobody_says_what_they_are() {
    let scenario = Scenario::new(10).clients(2).short_delays();
    let (mut world, instance) = scenario.active().unwrap();
    let channel = factory(&world, 1, instance).current.channels[&0];
    world.command(1, Command::Exit { instance }).unwrap();
    let (now, height) = (world.now, world.chain.height());
    let told = |expiry: Height| {
        let mut engine = world.rebuild(1).unwrap();
        assert_eq!(engine.feerates(), None, "as after a start");
        let mut effects = vec![];
        for input in [
            Input::Htlcs(vec![common::htlc(channel, Direction::Fulfilled, expiry)]),
            Input::Fees(FeeNews::default()),
        ] {
            let step = engine.handle(input, now, height, &mut Nothing);
            effects = engine.apply(step).unwrap();
        }
        let raise = |effect| if let Effect::Bump(raise) = effect { Some(*raise) } else { None };
        effects.into_iter().filter_map(raise).map(|raise| raise.bump.feerate).next()
    };
    assert_eq!(told(height + 100), None);
    let (soon, late) = (told(height + 14).unwrap(), told(height + 1).unwrap());
    assert!(soon >= 2_500 && late >= 25_000, "{soon}, {late}");
    world.stop(1);
}

/// S26: what is due first is raised first, whichever factory or client it is of: coins may not do for all.
#[test]
fn the_most_urgent_is_raised_first() {
    let scenario = Scenario::new(11).clients(8).short_delays().lifetime(2_000, 144);
    let (mut world, instance) = scenario.active().unwrap();
    world.command(LSP, Command::Evict { instance, clients: vec![] }).unwrap();
    let height = world.chain.height();
    // The later in the tree, the sooner.
    let expiry = |client: u32| height + 80 - client * 2;
    for _ in 0..8 {
        let htlcs: Vec<_> = (0..8)
            .map(|client| {
                let own = factory(&world, LSP, instance).current.channels[&client];
                common::htlc(own, Direction::Fulfilled, expiry(client))
            })
            .collect();
        let told = raises(&mut world, LSP, &htlcs, &[]);
        assert!(told.is_sorted_by_key(|raise| raise.deadline));
        if told.len() > 1 {
            assert!(told.first().unwrap().deadline < told.last().unwrap().deadline);
            return;
        }
        world.mine(1).unwrap();
    }
    panic!("never were several due");
}

/// S26, S21: an operator's evictions have to be on chain before the timeout, and are worth its stock as well.
#[test]
fn evictions_end_before_the_timeout_and_are_worth_the_stock() {
    let scenario = Scenario::new(2).clients(4).stock(300_000).short_delays().lifetime(120, 30);
    let (mut world, instance) = scenario.active().unwrap();
    let timeout = factory(&world, LSP, instance).current.terms.timeout_height;
    let nobody = raises(&mut world, LSP, &[], &[]);
    assert!(nobody.is_empty(), "{nobody:?}");
    world.command(LSP, Command::Evict { instance, clients: vec![1] }).unwrap();
    let began = world.chain.height();
    let mut seen = 0;
    while factory(&world, LSP, instance).leaf_height(1).is_none() {
        let of = |client| factory(&world, LSP, instance).current.channels[&client];
        // Of client 1's channel little is the operator's; the others are not evicted, and count for nothing.
        let stakes = [0, 1, 2, 3].map(|client| (of(client), Amount::from_sat(5_000)));
        let told = raises(&mut world, LSP, &[], &stakes);
        let factory = factory(&world, LSP, instance);
        for raise in told {
            let (path, place) = on_path(factory, 1, raise.parent.compute_txid()).unwrap();
            let since = due_since(factory, path[place], began);
            let end = timeout - after(factory, &path, place, 0);
            assert_eq!(raise.deadline, end.min(since + NO_HURRY), "{}", raise.what);
            // Half of a sub-factory's stock is behind each of its two clients.
            let worth = Amount::from_sat(5_000 + 150_000);
            assert_eq!(raise.bump.max_fee, quotient(worth, path.len() - place), "{}", raise.what);
            seen += 1;
        }
        world.mine(1).unwrap();
    }
    assert!(seen > 0);
}

/// The number of a sale that a transaction is.
fn sale_number(world: &World, at: usize, instance: InstanceId, txid: Txid) -> Option<u32> {
    sales(world, at, instance).iter().find(|sold| sold.txid() == txid).map(|sold| sold.sale.number)
}

/// S26: the way to a bought channel goes over the leaf and every sale before it. A sale has to be on chain
/// before the operator alone may take what it spends, with time for those after it.
#[test]
fn sales_confirm_before_the_operator_may_take_the_stock() {
    let scenario = Scenario::new(3).clients(4).stock(300_000).short_delays();
    let (mut world, instance) = scenario.sold(&[(1, 50_000), (2, 40_000), (1, 30_000)]).unwrap();
    world.stop(LSP);
    world.command(1, Command::Exit { instance }).unwrap();
    let began = world.chain.height();
    let own = [(0, 0), (1, 50_000), (3, 30_000)].map(|(number, sat)| (number, Amount::from_sat(sat)));
    let mut seen = vec![];
    for _ in 0..20 {
        let told = raises(&mut world, 1, &[], &[]);
        let factory = factory(&world, 1, instance);
        let (confirm, csv) =
            (u32::from(factory.current.terms.confirm_blocks), u32::from(factory.current.terms.stock_csv));
        for raise in told {
            let txid = raise.parent.compute_txid();
            if let Some(number) = sale_number(&world, 1, instance, txid) {
                let since = factory.confirmed[&raise.parent.input[0].previous_output.txid];
                let last = 3 - number;
                assert_eq!(raise.deadline, since + csv - last * confirm, "sale {number}");
                // Of its own channels those that this sale or a later one funds.
                let behind = own.iter().filter(|(of, _)| *of >= number);
                let worth: Amount = behind.map(|(of, sat)| *sat / u64::from(of - number + 1)).sum();
                assert_eq!(raise.bump.max_fee, worth, "sale {number}");
                seen.push(number);
            } else {
                let (path, place) = on_path(factory, 0, txid).unwrap();
                let left = u64::try_from(path.len() - place).unwrap();
                let first = factory.capacity(0);
                let worth = first / left + own[1].1 / (left + 1) + own[2].1 / (left + 3);
                assert_eq!(raise.bump.max_fee, worth, "{}", raise.what);
                assert_eq!(raise.deadline, due_since(factory, path[place], began) + NO_HURRY);
                seen.push(0);
            }
        }
        world.mine(1).unwrap();
    }
    seen.dedup();
    assert_eq!(seen, [0, 1, 2, 3]);
}

/// S26, S21: an operator's bought channels are behind the leaf, and their stock is sold.
#[test]
fn an_operators_sales_end_before_the_timeout() {
    let scenario = Scenario::new(4).clients(4).stock(300_000).short_delays().lifetime(120, 30);
    let (mut world, instance) = scenario.sold(&[(1, 50_000), (2, 40_000)]).unwrap();
    let timeout = factory(&world, LSP, instance).current.terms.timeout_height;
    world.command(LSP, Command::Evict { instance, clients: vec![0] }).unwrap();
    let mut seen = vec![];
    for _ in 0..20 {
        let known = sales(&world, LSP, instance);
        let stakes = known.iter().map(|sold| (sold.channel_id(), Amount::from_sat(9_000)));
        let stakes: Vec<_> = stakes.collect();
        for raise in raises(&mut world, LSP, &[], &stakes) {
            let Some(number) = sale_number(&world, LSP, instance, raise.parent.compute_txid()) else {
                continue;
            };
            let last = 2 - number;
            let confirm = u32::from(factory(&world, LSP, instance).current.terms.confirm_blocks);
            let since = factory(&world, LSP, instance).confirmed[&raise.parent.input[0].previous_output.txid];
            assert_eq!(raise.deadline, (timeout - last * confirm).min(since + NO_HURRY), "sale {number}");
            let worth = [13_500, 9_000][usize::try_from(number - 1).unwrap()];
            assert_eq!(raise.bump.max_fee.to_sat(), worth, "sale {number}");
            seen.push(number);
        }
        world.mine(1).unwrap();
    }
    seen.dedup();
    assert_eq!(seen, [1, 2]);
}

/// S26, S20: a distribution is worth its own output, of the stock as of the channel, and is due from the
/// timeout on.
#[test]
fn a_distribution_is_worth_its_output_and_due_from_the_timeout() {
    let scenario = Scenario::new(5).clients(4).stock(300_000).short_delays().lifetime(120, 30);
    let (mut world, instance) = scenario.sold(&[(1, 50_000)]).unwrap();
    world.stop(LSP);
    // The leaf of all four is out: the buyer's exit. Its neighbours' coins are spent, but for the stock.
    let confirm = u32::from(factory(&world, 3, instance).current.terms.confirm_blocks);
    let timeout = factory(&world, 3, instance).current.terms.timeout_height;
    world.exit(1, instance).unwrap();
    world.mine_to(timeout).unwrap();
    let (mut whole, mut rests) = (0, 0);
    for client in [1, 2, 3] {
        for raise in raises(&mut world, client, &[], &[]) {
            let factory = factory(&world, client, instance);
            let paid = raise.parent.output.iter();
            // Both clients of the sub-factory get the same.
            let worth = paid.map(|output| output.value).max().unwrap();
            assert_eq!(raise.bump.max_fee, worth, "client {client}: {}", raise.what);
            let parent = factory.confirmed[&raise.parent.input[0].previous_output.txid];
            assert!(parent < timeout);
            assert_eq!(raise.deadline, timeout + confirm, "client {client}: {}", raise.what);
            if raise.what.contains("after sale") { rests += 1 } else { whole += 1 }
        }
    }
    assert!(whole > 0 && rests > 0, "{whole} of all the stock, {rests} of a rest");

    // Nothing is out: the distribution of the whole factory, in which everybody has another share.
    let mut world = Scenario::new(6).clients(3).short_delays().world().unwrap();
    let offer = Offer { lifetime_blocks: 120, dying_blocks: 30, ..Offer::default() };
    let mut create = world.create_command(&[1, 2, 3], &offer).unwrap();
    for ((_, capacity), sat) in create.clients.iter_mut().zip([100_000, 150_000, 200_000]) {
        *capacity = Amount::from_sat(sat);
    }
    let Answer::Created(instance) = world.command(LSP, Command::Create(create)).unwrap() else { panic!() };
    world.activate(instance).unwrap();
    world.stop(LSP);
    let timeout = factory(&world, 1, instance).current.terms.timeout_height;
    world.mine_to(timeout - 1).unwrap();
    assert!(raises(&mut world, 2, &[], &[]).is_empty(), "too early");
    let root = SessionId { coin: 0, role: SpendRole::Distribution };
    world.mine(1).unwrap();
    let told = raises(&mut world, 2, &[], &[]);
    let factory = factory(&world, 2, instance);
    let raise = told.first().unwrap();
    assert_eq!(Some(raise.parent.compute_txid()), factory.signed_tx(root).map(|tx| tx.compute_txid()));
    let own = factory.current.layout.distribution_outputs(0).into_iter().find(|(client, _)| *client == 1);
    assert_eq!((Some(raise.bump.max_fee), raise.deadline), (own.map(|(_, sat)| sat), timeout + confirm));
}

/// S26: by when a transaction has to confirm doesn't depend on what it carries: one that needs no child may be
/// refused.
#[test]
fn what_needs_no_child_has_a_deadline_too() {
    let (mut world, instance) = Scenario::new(8).clients(2).active().unwrap();
    world.command(1, Command::Exit { instance }).unwrap();
    let raises = raises(&mut world, 1, &[], &[]);
    let raise = raises.first().unwrap();
    let (txid, height) = (raise.parent.compute_txid(), world.chain.height());
    let factory = factory(&world, 1, instance);
    let engine = world.members[1].engine.as_ref().unwrap();
    assert_eq!(engine.confirm_by(factory, txid, height), Some(raise.deadline));
    let other: Txid = bitcoin::hashes::Hash::all_zeros();
    assert_eq!(engine.confirm_by(factory, other, height), None);
}

/// S26: what it takes to leave is shown before: a usual child for each transaction that is not on chain.
#[test]
fn the_exit_reserve_is_a_child_for_each_transaction() {
    let scenario = Scenario::new(7).clients(8).profile(Profile::Stateful).short_delays();
    let (mut world, instance) = scenario.active().unwrap();
    let feerate = 10_000;
    let expected = |world: &World| -> Amount {
        let factory = factory(world, 1, instance);
        let nodes = factory.current.layout.path(0).into_iter().filter(|node| !factory.node_confirmed(*node));
        let nodes = nodes.map(|node| factory.current.layout.node(node).unwrap());
        nodes.map(|node| fee(node.vbytes * 4 + usual_weight(), feerate).unwrap() - node.fee).sum()
    };
    let reserve = |world: &World| factory(world, 1, instance).exit_reserve(feerate);
    let mut before = expected(&world);
    assert!(before > Amount::from_sat(1_000));
    assert_eq!(reserve(&world), before);
    world.command(1, Command::Exit { instance }).unwrap();
    let mut steps = 0;
    while factory(&world, 1, instance).leaf_height(0).is_none() {
        world.mine(1).unwrap();
        assert_eq!(reserve(&world), expected(&world));
        steps += u32::from(reserve(&world) < before);
        before = reserve(&world);
    }
    assert_eq!((reserve(&world), steps > 1), (Amount::ZERO, true));
}

/// S26: trouble is told once, its end as well, and each child; and it stays to be looked at until the
/// transaction is due no more.
#[test]
fn trouble_is_told_once_and_so_is_its_end() {
    let (mut world, instance) = Scenario::new(8).clients(2).active().unwrap();
    world.command(1, Command::Exit { instance }).unwrap();
    let engine = |world: &World| world.members[1].engine.as_ref().unwrap().feerates().cloned();
    assert!(engine(&world).is_some(), "the node has said what fees are");
    let height = world.chain.height();
    let engine = world.members[1].engine.as_ref().unwrap();
    let txid = *engine.waiting(height).first().expect("the first transaction is due");
    let report = |child: Option<u8>, trouble: Option<Trouble>| Report {
        instance,
        what: "state transaction 1".to_owned(),
        target: Some((5_000, 200)),
        child: child.map(|byte| ChildOut {
            txid: Txid::from_raw_hash(bitcoin::hashes::Hash::from_byte_array([byte; 32])),
            fee: Amount::from_sat(777),
        }),
        trouble,
    };
    let mut lines = |report: Report| {
        let before = world.members[1].log.len();
        world.feed(1, Input::Published { txid, report: Box::new(report.clone()) }).unwrap();
        let engine = world.members[1].engine.as_ref().unwrap();
        assert_eq!(engine.reports().find(|(of, _)| *of == txid).map(|(_, kept)| kept), Some(&report));
        let new = &world.members[1].log[before..];
        new.iter().map(|(level, text)| (*level, text.clone())).collect::<Vec<_>>()
    };
    let trouble = |text: &str| Some(Trouble::Wallet(text.to_owned()));
    let [(level, text)] = &lines(report(None, trouble("is locked")))[..] else { panic!("not told once") };
    assert!(*level == Level::Unusual && text.contains("is locked") && text.contains("due by height 200"));
    assert!(lines(report(None, trouble("is still locked"))).is_empty(), "told twice");
    let other = lines(report(None, Some(Trouble::Capped(Amount::from_sat(9)))));
    assert!(other.len() == 1 && other[0].1.contains("at stake"), "{other:?}");
    let child = lines(report(Some(1), Some(Trouble::Capped(Amount::from_sat(9)))));
    assert!(child.len() == 1 && child[0].1.contains("777 sat"), "{child:?}");
    let end = lines(report(Some(1), None));
    assert!(end.len() == 1 && end[0].1.contains("on its way"), "{end:?}");
    assert!(lines(report(Some(1), None)).is_empty(), "told twice");
    assert_eq!(lines(report(Some(2), None)).len(), 1);
    // What others do better, or have done, is nothing that a person has to look at.
    let quiet = lines(report(Some(2), Some(Trouble::Child(Refused::Conflict("theirs".into())))));
    assert!(quiet.iter().all(|(level, _)| *level == Level::Info) && quiet.len() == 1, "{quiet:?}");

    let path = factory(&world, 1, instance).current.layout.path(0).len();
    world.mine(u32::try_from(path).unwrap()).unwrap();
    let engine = world.members[1].engine.as_ref().unwrap();
    assert!(engine.waiting(world.chain.height()).is_empty());
    assert_eq!(engine.reports().count(), 0, "it is on chain");
}

/// S26: an operator's own spend of its stock is only replaced by one that pays enough more (BIP-125).
#[test]
fn the_way_to_the_stock_is_replaced_only_by_what_pays_enough_more() {
    let scenario = Scenario::new(9).clients(4).stock(300_000).short_delays();
    let (mut world, instance) = scenario.active().unwrap();
    world.command(LSP, Command::Evict { instance, clients: vec![] }).unwrap();
    let ours = |world: &World| -> Vec<Txid> {
        let sent = world.sent.iter().filter(|sent| sent.what.contains("our own spend of stock"));
        sent.map(|sent| sent.txid).collect()
    };
    world.chain.market.inclusion = 4_000;
    while ours(&world).is_empty() {
        world.mine(1).unwrap();
    }
    let _ = ours(&world);
    let mut block = |inclusion: u32| {
        world.chain.market.inclusion = inclusion;
        let before = ours(&world).len();
        world.chain.mine_without(|_| true);
        world.sync_all().unwrap();
        ours(&world)[before..].to_vec()
    };
    block(4_000);
    let first = block(4_000);
    assert_eq!(first.len(), 2, "one of each sub-factory");
    assert_eq!(block(2_000), first, "a cheaper one replaces nothing");
    block(4_100);
    assert_eq!(block(4_100), first, "nor one that pays a little more");
    block(8_000);
    let dear = block(8_000);
    assert_eq!(dear.len(), 2);
    assert!(dear.iter().all(|txid| !first.contains(txid)), "it follows the fees");
}
