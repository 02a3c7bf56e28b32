//! Buying liquidity: sales out of a sub-factory's stock, by the real engine on every member.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;

use common::{factory, sales};
use factory_engine::chain::sales::wanted_sales;
use factory_engine::record::factory::Factory;
use factory_engine::tx::verify::{Problem, verify_sales};
use factory_engine::types::{Amount, InstanceId};
use factory_engine::wire::message::{Message, SaleChecked, SaleJoin, SaleOffer, SaleShown, SaleStored};
use factory_engine::{Command, NotCooperative, Refusal, Sold, State};
use factory_lab::scenario::Scenario;
use factory_lab::world::{CrashAt, Fate, LSP, Member, World};

const STOCK: u64 = 300_000;

/// Four clients in one leaf, two sub-factories with stock.
fn leaf(seed: u64) -> Scenario {
    Scenario::new(seed).clients(4).stock(STOCK)
}

fn active(seed: u64) -> (World, InstanceId) {
    leaf(seed).active().unwrap()
}

fn stock(factory: &Factory) -> Option<Amount> {
    factory.stock(factory.current.layout.stock_coin(0).unwrap()).map(|stock| stock.value)
}

#[test]
fn clients_buy_one_after_the_other_and_exit_with_everything() {
    let (mut world, instance) = leaf(1).sold(&[(1, 50_000), (2, 40_000), (1, 30_000)]).unwrap();
    for at in [LSP, 1, 2] {
        let sold = sales(&world, at, instance);
        let bought: Vec<_> = sold.iter().map(|sold| (sold.sale.buyer, sold.sale.amount().to_sat())).collect();
        assert_eq!(bought, [(0, 50_000), (1, 40_000), (0, 30_000)], "member {at}");
        assert!(sold.iter().all(Sold::is_signed));
    }
    assert!(sales(&world, LSP, instance).iter().all(|sold| sold.stored));
    // Whoever is in another sub-factory was not asked and knows nothing.
    assert!(factory(&world, 3, instance).current.sales.all().next().is_none());
    let left = stock(factory(&world, 1, instance)).unwrap();
    assert_eq!(Some(left), stock(factory(&world, LSP, instance)));
    assert!(left < Amount::from_sat(STOCK - 120_000));

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
    let account = world.account(factory.funding().unwrap(), factory.current.layout.funding_value()).unwrap();
    assert_eq!((account.sum().unwrap(), account.unknown.to_sat()), (account.total, 0));
    assert!(world.judge.violations.is_empty(), "{:?}", world.judge.violations);
}

/// S19: what a client has bought is checked as if everybody else had vanished, with every sale before it.
#[test]
fn what_was_bought_is_verified() {
    let (world, instance) = leaf(1).sold(&[(1, 50_000), (2, 40_000), (1, 30_000)]).unwrap();
    let held = factory(&world, 1, instance);
    let tree = held.current.tree.as_ref().unwrap();
    let sold: Vec<&Sold> = wanted_sales(held).collect();
    let check = |skip: usize, signatures: &[Vec<[u8; 64]>]| {
        let sales = sold.iter().zip(signatures).skip(skip).map(|(sold, own)| (&*sold.sale, &**own));
        verify_sales(&held.current.layout, tree, sales)
    };
    let good: Vec<_> = sold.iter().map(|sold| sold.signatures.clone()).collect();
    assert_eq!(check(0, &good), Ok(3));
    for place in 0..3 {
        let mut bad = good.clone();
        bad[place][0] = good[(place + 1) % 3][0];
        let problems = check(0, &bad).unwrap_err();
        let number = sold[place].sale.number;
        assert!(matches!(&problems[..], [Problem::Sale(found, _)] if *found == number), "{problems:?}");
        bad[place].clear();
        let text = check(0, &bad).unwrap_err()[0].to_string();
        assert!(
            text.starts_with(&format!("sale {number}: ")) && text.ends_with("no finished signature"),
            "{text}"
        );
    }
    // Without the first the others spend nothing that there is.
    assert!(matches!(&check(1, &good).unwrap_err()[..], [Problem::Sale(2, _)]));
}

/// S26: with fees above the presigned level each sale of the chain gets a child, as the tree's transactions
/// do; and a crash before a bought channel is closed doesn't leave it open.
#[test]
fn sales_follow_the_fees_and_a_crash_closes_what_was_bought() {
    let (mut world, instance) = leaf(5).sold(&[(1, 50_000), (2, 40_000), (1, 30_000)]).unwrap();
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
    for sat in [0, 9_999, 300_000] {
        let error = world.ask(1, instance, sat, 0).unwrap().unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("{sat} sat can't be sold: ask for 10000 to 297524 sat")),
            "{error}"
        );
    }
    assert_eq!(world.ask(LSP, instance, 50_000, 0).unwrap(), Err(Refusal::OperatorSells));
    // Two at once: the second waits for its turn.
    world.ask(1, instance, 50_000, 0).unwrap().unwrap();
    world.ask(2, instance, 60_000, 0).unwrap().unwrap();
    assert_eq!(world.ask(1, instance, 50_000, 0).unwrap(), Err(Refusal::SaleUnderWay));
    world.run_out().unwrap();
    let done = [1, 2].map(|at| world.refused(at, instance));
    assert_eq!(done.iter().filter(|refused| refused.is_none()).count(), 1, "{done:?}");
    assert!(done.iter().flatten().all(|why| why.contains("under way")), "{done:?}");
    assert_eq!(sales(&world, LSP, instance).len(), 1);
}

#[test]
fn a_neighbour_that_is_away_is_named_to_the_operator() {
    let (mut world, instance) = active(3);
    world.stop(2);
    world.settle().unwrap();
    world.ask(1, instance, 50_000, 0).unwrap().unwrap();
    world.run_out().unwrap();
    let why = world.refused(1, instance).unwrap();
    let id = world.members[2].id.to_string();
    // The operator knows who it is, the buyer how many.
    assert!(why.contains("not connected: another client") && !why.contains(&id), "{why}");
    assert!(
        world.members[LSP].log.iter().any(|(_, text)| text.contains("not connected") && text.contains(&id))
    );
    assert!(sales(&world, LSP, instance).is_empty());
    // The other sub-factory sells on.
    world.buy(3, instance, 50_000, 0).unwrap();
}

/// S24: nothing is signed any more in a sub-factory of which anything is on chain.
#[test]
fn nothing_is_sold_once_an_exit_has_begun() {
    let (mut world, instance) = active(4);
    world.command(2, Command::Exit { instance }).unwrap();
    world.mine(2).unwrap();
    let error = world.ask(1, instance, 50_000, 0).unwrap().unwrap_err().to_string();
    assert!(error.contains("on chain"), "{error}");
}

/// S8, S2: whenever anybody dies, the same sale goes on, or none; never another on the same stock.
#[test]
fn a_crash_at_any_step_leaves_one_sale_or_none() {
    let mut finished = 0;
    for victim in [LSP, 1, 2] {
        for step in 0..60 {
            let (mut world, instance) = active(1_000 + step);
            world.ask(1, instance, 50_000, 0).unwrap().unwrap();
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
            world.buy(2, instance, 20_000, 0).unwrap();
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
    world.buy(1, instance, 50_000, 0).unwrap();
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
    world.buy(1, instance, 50_000, 0).unwrap();
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
    world.ask(1, instance, 50_000, 0).unwrap().unwrap();
    world.run_out().unwrap();
    let sold = sales(&world, LSP, instance);
    assert!(sold.is_empty(), "signed, though nobody has checked the channel in this try");
    assert!(world.refused(1, instance).unwrap().contains("no answer in time"));
}

/// S24: an exit that begins while a sale's channel is opened ends the sale before anybody signs.
#[test]
fn an_exit_in_the_middle_of_a_sale_ends_it() {
    for steps in 0..40 {
        let (mut world, instance) = active(7);
        world.ask(1, instance, 50_000, 0).unwrap().unwrap();
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
    let (mut world, instance) = leaf(8).sold(&[(1, 30_000)]).unwrap();
    world.tamper(|out| match &out.message {
        Message::SaleJoin(SaleJoin { instance, attempt, number, .. }) => {
            Fate::replace(SaleStored { instance: *instance, attempt: *attempt, number: *number })
        }
        _ => Fate::Deliver,
    });
    world.ask(2, instance, 50_000, 0).unwrap().unwrap();
    world.run_out().unwrap();
    let why = world.refused(2, instance).unwrap();
    assert!(why.contains("restored from a backup"), "{why}");
    world.heal();
    world.restart(LSP).unwrap();
    world.run_out().unwrap();
    assert_eq!(sales(&world, LSP, instance).len(), 1);
    world.buy(2, instance, 50_000, 0).unwrap();
}

/// S9: an operator that counts sales which were never made doesn't make a client exit-only.
#[test]
fn an_operators_word_makes_nobody_exit_only() {
    let (mut world, instance) = leaf(10).sold(&[(1, 30_000)]).unwrap();
    world.tamper(|out| match &out.message {
        Message::SaleOffer(offer) if out.to == 2 => {
            Fate::replace(SaleOffer { number: offer.number + 1, ..offer.clone() })
        }
        _ => Fate::Deliver,
    });
    world.ask(1, instance, 50_000, 0).unwrap().unwrap();
    world.run_out().unwrap();
    assert!(world.refused(1, instance).is_some());
    assert_eq!(factory(&world, 2, instance).restored(), None);
    world.heal();
    world.buy(2, instance, 50_000, 0).unwrap();
}

/// S9: a neighbour whose database is older than a sale that it signed for hears of it with the next one. It
/// signs no more in this factory, from then on and after a restart, and can still leave.
#[test]
fn whoever_finds_out_that_it_was_restored_only_leaves() {
    let (mut world, instance) = leaf(9).restored(2, &[(1, 30_000)]).unwrap();
    assert_eq!(factory(&world, 2, instance).restored(), None, "nothing told it");

    // Its operator's word is not enough: without the signatures that it has forgotten, nothing is stored.
    world.tamper(|out| match &out.message {
        Message::SaleShown(shown) => {
            let signatures = vec![[0x11; 64]; shown.signatures.len()];
            Fate::replace(SaleShown { signatures, ..shown.clone() })
        }
        _ => Fate::Deliver,
    });
    world.ask(1, instance, 50_000, 0).unwrap().unwrap();
    world.run_out().unwrap();
    assert_eq!(factory(&world, 2, instance).restored(), None);
    world.heal();

    for _ in 0..2 {
        world.ask(1, instance, 50_000, 0).unwrap().unwrap();
        world.run_out().unwrap();
        let why = world.refused(1, instance).unwrap();
        assert!(why.contains("another client takes no part"), "{why}");
        assert!(factory(&world, 2, instance).restored().unwrap().contains("this node's signature"));
        assert_eq!((sales(&world, LSP, instance).len(), sales(&world, 2, instance).len()), (1, 0));
        world.restart(2).unwrap();
        world.run_out().unwrap();
    }
    let refusal = world.ask(2, instance, 20_000, 0).unwrap().unwrap_err();
    assert!(matches!(refusal, Refusal::NotCooperative(NotCooperative::Restored(_))), "{refusal}");

    world.stop(LSP);
    world.exit(2, instance).unwrap();
    assert!(world.sent.iter().all(|sent| sent.result.is_ok()), "{:?}", world.sent);
    assert!(world.judge.violations.is_empty(), "{:?}", world.judge.violations);
}
