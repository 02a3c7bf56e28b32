//! Buying liquidity: sales out of a sub-factory's stock, by the real engine on every member.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;

use common::factory;
use factory_engine::protocol::{Answer, Command, Factory, Input, NotCooperative, Refusal, Sold, State};
use factory_engine::tx::plan::Profile;
use factory_engine::types::{Amount, InstanceId};
use factory_engine::wire::message::{Message, SaleChecked, SaleJoin, SaleStored};
use factory_lab::world::{CrashAt, Fate, Fed, LSP, Member, World};

const CAPACITY: Amount = Amount::from_sat(100_000);
const STOCK: Amount = Amount::from_sat(300_000);

/// Four clients in one leaf, two sub-factories with stock.
fn active(seed: u64) -> (World, InstanceId) {
    let mut world = World::new(seed, 4).unwrap();
    let create = world.create_command(&[1, 2, 3, 4], Profile::Static, CAPACITY, STOCK).unwrap();
    let Answer::Created(instance) = world.command(LSP, Command::Create(create)).unwrap() else {
        panic!("no factory")
    };
    assert_eq!(common::finish(&mut world, instance), State::Active);
    (world, instance)
}

fn ask(world: &mut World, at: usize, instance: InstanceId, sat: u64) -> Result<Answer, Refusal> {
    let command = Command::Buy { instance, amount: Amount::from_sat(sat), max_price_msat: 0 };
    match world.feed(at, Input::Command(command)).unwrap() {
        Fed::Done(answer) => answer,
        other => panic!("{other:?}"),
    }
}

/// Why a member's last purchase came to nothing.
fn refused(world: &World, at: usize, instance: InstanceId) -> Option<String> {
    world.members[at].engine.as_ref().unwrap().purchase(instance)?.refused.clone()
}

fn buy(world: &mut World, at: usize, instance: InstanceId, sat: u64) {
    ask(world, at, instance, sat).unwrap();
    world.run_out().unwrap();
    assert_eq!(refused(world, at, instance), None);
}

/// The sales of the first sub-factory (clients 1 and 2), as a member knows them.
fn sales(world: &World, at: usize, instance: InstanceId) -> Vec<Sold> {
    let factory = factory(world, at, instance);
    let coin = factory.layout.stock_coin(0).unwrap();
    factory.sales.of(coin).to_vec()
}

fn stock(factory: &Factory) -> Option<Amount> {
    factory.stock(factory.layout.stock_coin(0).unwrap()).map(|stock| stock.value)
}

#[test]
fn clients_buy_one_after_the_other_and_exit_with_everything() {
    let (mut world, instance) = active(1);
    buy(&mut world, 1, instance, 50_000);
    buy(&mut world, 2, instance, 40_000);
    buy(&mut world, 1, instance, 30_000);
    for at in [LSP, 1, 2] {
        let sold = sales(&world, at, instance);
        let bought: Vec<_> = sold.iter().map(|sold| (sold.sale.buyer, sold.sale.amount().to_sat())).collect();
        assert_eq!(bought, [(0, 50_000), (1, 40_000), (0, 30_000)], "member {at}");
        assert!(sold.iter().all(Sold::is_signed));
    }
    assert!(sales(&world, LSP, instance).iter().all(|sold| sold.stored));
    // Whoever is in another sub-factory was not asked and knows nothing.
    assert!(factory(&world, 3, instance).sales.all().next().is_none());
    let left = stock(factory(&world, 1, instance)).unwrap();
    assert_eq!(Some(left), stock(factory(&world, LSP, instance)));
    assert!(left < STOCK - Amount::from_sat(120_000));

    // S19: L vanishes; the buyer takes both of its bought channels on chain by itself.
    world.stop(LSP);
    world.command(1, Command::Exit { instance }).unwrap();
    world.mine(8).unwrap();
    for sold in sales(&world, 1, instance) {
        assert!(world.chain.confirmed(sold.txid()).is_some(), "sale {}", sold.sale.number);
        let closed = world.chain.spender(sold.sale.channel).is_some();
        assert_eq!(closed, sold.sale.buyer == 0, "only its own channels are closed");
    }
    assert_eq!(world.state(1, instance), Some(State::Exited));
    let factory = factory(&world, 1, instance);
    let account = world.account(factory.funding().unwrap(), factory.layout.funding_value()).unwrap();
    assert_eq!((account.sum().unwrap(), account.unknown.to_sat()), (account.total, 0));
    assert!(world.judge.violations.is_empty(), "{:?}", world.judge.violations);
}

/// S26: with fees above the presigned level each sale of the chain gets a child, as the tree's transactions
/// do; and a crash before a bought channel is closed doesn't leave it open.
#[test]
fn sales_follow_the_fees_and_a_crash_closes_what_was_bought() {
    let (mut world, instance) = active(5);
    buy(&mut world, 1, instance, 50_000);
    buy(&mut world, 2, instance, 40_000);
    buy(&mut world, 1, instance, 30_000);
    for msat in [95_000_000, 45_000_000, 25_000_000] {
        world.pay(LSP, 1, msat).unwrap();
    }
    for _ in 0..6 {
        let script = world.members[1].lightningd.new_script();
        world.chain.mint(script, Amount::from_sat(50_000));
    }
    world.chain.market.inclusion = 3_000;
    world.stop(LSP);
    world.stop(2);
    let reserve = |world: &World| factory(world, 1, instance).exit_reserve(3_000);
    // A leaf, and three sales after it.
    let before = reserve(&world);
    assert!(before > Amount::from_sat(4 * 700), "{before}");
    let sales = sales(&world, 1, instance);
    world.command(1, Command::Exit { instance }).unwrap();
    for sold in &sales {
        let out = |world: &World| world.chain.confirmed(sold.txid()).is_some();
        for _ in 0..4 {
            if !out(&world) {
                world.mine(1).unwrap();
            }
        }
        assert!(out(&world), "sale {} waits: {:?}", sold.sale.number, world.members[1].log);
        if sold.sale.number == 2 {
            world.crash_at(1, CrashAt::AfterStore(1));
        }
    }
    let last = sales[2].channel_id();
    assert!(world.members[1].engine.is_none(), "the block of the last sale was stored");
    assert!(!world.members[1].lightningd.channels[&last].closing);
    world.restart(1).unwrap();
    world.settle().unwrap();
    assert!(world.members[1].lightningd.channels[&last].closing);
    assert_eq!(reserve(&world), Amount::ZERO);
    assert!(world.judge.violations.is_empty(), "{:?}", world.judge.violations);
}

#[test]
fn what_can_t_be_sold_is_refused_with_the_reason() {
    let (mut world, instance) = active(2);
    for (sat, text) in [(0, "below the smallest channel"), (9_999, "below"), (300_000, "at most")] {
        let error = ask(&mut world, 1, instance, sat).unwrap_err().to_string();
        assert!(error.contains(text), "{sat}: {error}");
    }
    assert_eq!(ask(&mut world, LSP, instance, 50_000), Err(Refusal::OperatorSells));
    // Two at once: the second waits for its turn.
    ask(&mut world, 1, instance, 50_000).unwrap();
    ask(&mut world, 2, instance, 60_000).unwrap();
    assert_eq!(ask(&mut world, 1, instance, 50_000), Err(Refusal::SaleUnderWay));
    world.run_out().unwrap();
    let done = [1, 2].map(|at| refused(&world, at, instance));
    assert_eq!(done.iter().filter(|refused| refused.is_none()).count(), 1, "{done:?}");
    assert!(done.iter().flatten().all(|why| why.contains("under way")), "{done:?}");
    assert_eq!(sales(&world, LSP, instance).len(), 1);
}

#[test]
fn a_neighbour_that_is_away_is_named() {
    let (mut world, instance) = active(3);
    world.stop(2);
    world.settle().unwrap();
    ask(&mut world, 1, instance, 50_000).unwrap();
    world.run_out().unwrap();
    let why = refused(&world, 1, instance).unwrap();
    assert!(why.contains("not connected") && why.contains(&world.members[2].id.to_string()), "{why}");
    assert!(sales(&world, LSP, instance).is_empty());
    // The other sub-factory sells on.
    buy(&mut world, 3, instance, 50_000);
}

/// S24: nothing is signed any more in a sub-factory of which anything is on chain.
#[test]
fn nothing_is_sold_once_an_exit_has_begun() {
    let (mut world, instance) = active(4);
    world.command(2, Command::Exit { instance }).unwrap();
    world.mine(2).unwrap();
    let error = ask(&mut world, 1, instance, 50_000).unwrap_err().to_string();
    assert!(error.contains("on chain"), "{error}");
}

/// S8, S2: whenever anybody dies, the same sale goes on, or none; never another on the same stock.
#[test]
fn a_crash_at_any_step_leaves_one_sale_or_none() {
    let mut finished = 0;
    for victim in [LSP, 1, 2] {
        for step in 0..60 {
            let (mut world, instance) = active(1_000 + step);
            ask(&mut world, 1, instance, 50_000).unwrap();
            let mut ended = false;
            for _ in 0..step {
                if !world.step().unwrap() {
                    ended = true;
                    break;
                }
            }
            world.stop(victim);
            world.settle().unwrap();
            world.start(victim).unwrap();
            for client in 1..=4 {
                if victim == LSP || client == victim {
                    world.connect(LSP, client).unwrap();
                }
            }
            world.run_out().unwrap();
            world.mine(1).unwrap();
            world.run_out().unwrap();
            let known = sales(&world, LSP, instance);
            assert!(known.len() <= 1);
            let log: Vec<_> =
                world.members.iter().map(|m| m.log.iter().rev().take(12).rev().collect::<Vec<_>>()).collect();
            assert!(
                known.iter().all(|sold| sold.stored),
                "victim {victim}, step {step}: it never ends: {log:#?}"
            );
            for at in [1, 2] {
                let theirs = sales(&world, at, instance);
                assert!(theirs.iter().all(Sold::is_signed), "victim {victim}, step {step}, member {at}");
                assert_eq!(theirs.len(), known.len(), "victim {victim}, step {step}, member {at}");
            }
            finished += known.len();
            // It sells on.
            buy(&mut world, 2, instance, 20_000);
            assert!(world.judge.violations.is_empty(), "{:?}", world.judge.violations);
            if ended {
                break;
            }
        }
    }
    assert!(finished > 10, "{finished}");
}

/// S4: a message that comes twice is nobody's fault, and what was checked stays checked.
#[test]
fn sale_committed_may_come_twice() {
    let (mut world, instance) = active(5);
    world.tamper(|out| match &out.message {
        Message::SaleCommitted(_) => Fate::Twice,
        _ => Fate::Deliver,
    });
    buy(&mut world, 1, instance, 50_000);
    let blamed = |member: &Member| member.log.iter().any(|(_, text)| text.contains("fault of"));
    assert!(!world.members.iter().any(blamed));
    assert!(sales(&world, LSP, instance)[0].stored);
}

/// S4: nonces for an earlier try of the sale, still under way when this one began, are not taken.
#[test]
fn a_join_of_an_earlier_try_is_ignored() {
    let (mut world, instance) = active(6);
    let mut late = Some(());
    world.tamper(move |out| match &out.message {
        Message::SaleJoin(join) if out.from == 2 && late.take().is_some() => {
            let mut old = join.clone();
            old.nonces.reverse();
            old.round = join.round.map(|round| round ^ 1);
            Fate::Replace(vec![Message::from(old).encode(), out.message.encode()])
        }
        _ => Fate::Deliver,
    });
    buy(&mut world, 1, instance, 50_000);
    let blamed = |member: &Member| member.log.iter().any(|(_, text)| text.contains("bad partial"));
    assert!(!world.members.iter().any(blamed));
    assert!(sales(&world, LSP, instance)[0].stored);
}

/// S4: that the buyer had checked its channel in an earlier try says nothing about this one: it would
/// blame an operator that proposes before it has checked again.
#[test]
fn a_check_of_an_earlier_try_is_ignored() {
    let (mut world, instance) = active(6);
    let mut late = Some(());
    world.tamper(move |out| match &out.message {
        Message::SaleChecked(checked) if late.take().is_some() => {
            let old = SaleChecked { round: checked.round.map(|round| round ^ 1), ..checked.clone() };
            Fate::replace(old)
        }
        _ => Fate::Deliver,
    });
    ask(&mut world, 1, instance, 50_000).unwrap();
    world.run_out().unwrap();
    let sold = sales(&world, LSP, instance);
    assert!(sold.is_empty(), "signed, though nobody has checked the channel in this try");
    assert!(refused(&world, 1, instance).unwrap().contains("no answer in time"));
}

/// S24: an exit that begins while a sale's channel is opened ends the sale before anybody signs.
#[test]
fn an_exit_in_the_middle_of_a_sale_ends_it() {
    for steps in 0..40 {
        let (mut world, instance) = active(7);
        ask(&mut world, 1, instance, 50_000).unwrap();
        for _ in 0..steps {
            world.step().unwrap();
        }
        let begun = sales(&world, LSP, instance).len();
        world.command(2, Command::Exit { instance }).unwrap();
        // All blocks come before whatever else is under way.
        for _ in 0..2 {
            world.chain.mine();
            for at in 0..world.members.len() {
                world.follow_chain(at).unwrap();
            }
        }
        world.run_out().unwrap();
        assert_eq!(sales(&world, LSP, instance).len(), begun, "{steps} steps");
        assert!(world.judge.violations.is_empty(), "{:?}", world.judge.violations);
    }
}

/// S9: whoever says that it has finished a sale which this operator is only beginning knows more than the
/// operator does, or lies: either way nothing of it is stored.
#[test]
fn a_sale_that_somebody_has_finished_already_is_ended() {
    let (mut world, instance) = active(8);
    buy(&mut world, 1, instance, 30_000);
    world.tamper(|out| match &out.message {
        Message::SaleJoin(SaleJoin { instance, attempt, number, .. }) => {
            Fate::replace(SaleStored { instance: *instance, attempt: *attempt, number: *number })
        }
        _ => Fate::Deliver,
    });
    ask(&mut world, 2, instance, 50_000).unwrap();
    world.run_out().unwrap();
    let why = refused(&world, 2, instance).unwrap();
    assert!(why.contains("restored from a backup"), "{why}");
    world.heal();
    world.restart(LSP).unwrap();
    world.run_out().unwrap();
    assert_eq!(sales(&world, LSP, instance).len(), 1);
    buy(&mut world, 2, instance, 50_000);
}

/// S9: a neighbour whose database is older than a sale that it signed for hears of it with the next one. It
/// signs no more in this factory, from then on and after a restart, and can still leave.
#[test]
fn whoever_finds_out_that_it_was_restored_only_leaves() {
    let (mut world, instance) = active(9);
    let older = world.backup(2);
    buy(&mut world, 1, instance, 30_000);
    assert_eq!(sales(&world, 2, instance).len(), 1);
    world.check_recovery = false;
    world.restore(2, older).unwrap();
    world.reconnect().unwrap();
    world.run_out().unwrap();
    assert_eq!(factory(&world, 2, instance).restored(), None, "nothing told it");

    for _ in 0..2 {
        ask(&mut world, 1, instance, 50_000).unwrap();
        world.run_out().unwrap();
        let why = refused(&world, 1, instance).unwrap();
        assert!(why.contains("restored from a backup"), "{why}");
        assert!(factory(&world, 2, instance).restored().is_some());
        assert_eq!((sales(&world, LSP, instance).len(), sales(&world, 2, instance).len()), (1, 0));
        world.restart(2).unwrap();
        world.run_out().unwrap();
    }
    let refusal = ask(&mut world, 2, instance, 20_000).unwrap_err();
    assert!(matches!(refusal, Refusal::NotCooperative(NotCooperative::Restored(_))), "{refusal}");

    world.stop(LSP);
    world.exit(2, instance).unwrap();
    assert!(world.sent.iter().all(|sent| sent.result.is_ok()), "{:?}", world.sent);
    assert!(world.judge.violations.is_empty(), "{:?}", world.judge.violations);
}
