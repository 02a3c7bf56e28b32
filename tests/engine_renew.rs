//! What follows on a factory that ends: invitations that are accepted by themselves, and what a renewal waits for.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;

use common::factory;
use factory_engine::types::InstanceId;
use factory_engine::wire::message::{Invite, Message};
use factory_engine::{Config, Level, NotYet, Policy, PriceList, Renewal, Stage, State};
use factory_lab::offer::Offer;
use factory_lab::scenario::Scenario;
use factory_lab::world::{Fate, LSP, World, losing};

const PUSH: u64 = 546_000;
const RESERVE: u64 = 546_000;
const LIFETIME: u32 = 170;
const DYING: u32 = 110;

fn offer() -> Offer {
    Offer { lifetime_blocks: LIFETIME, dying_blocks: DYING, stock: bitcoin::Amount::ZERO, ..Offer::default() }
}

/// A client that is in a factory that it was asked about, and settings for what comes after.
fn active(seed: u64, change: impl Fn(&mut Config)) -> (World, InstanceId) {
    let scenario = Scenario::new(seed).clients(1).short_delays().stock(0).lifetime(LIFETIME, DYING);
    let scenario = scenario.config(|config| {
        config.push_msat = PUSH;
        config.policy = Policy::Ask;
        config.renew = Policy::Auto;
        change(config);
    });
    let (mut world, old) = scenario.begun().unwrap();
    world.settle().unwrap();
    assert_eq!(world.state(1, old), Some(State::Invited), "the first one is a person's business");
    let yes = world.acceptance(1, old).unwrap();
    world.command(1, yes).unwrap();
    world.activate(old).unwrap();
    (world, old)
}

fn mine_to(world: &mut World, height: u32) {
    world.mine(height.saturating_sub(world.chain.height())).unwrap();
    world.settle().unwrap();
}

/// The same, and the factory has come to its dying period.
fn due(seed: u64, change: impl Fn(&mut Config)) -> (World, InstanceId) {
    let (mut world, old) = active(seed, change);
    let dying = factory(&world, 1, old).current.terms.timeout_height - DYING;
    mine_to(&mut world, dying);
    (world, old)
}

fn renewal(world: &World, old: InstanceId) -> Renewal {
    let engine = world.members[1].engine.as_ref().unwrap();
    engine.renewal(engine.factory(old).unwrap(), world.chain.height()).unwrap()
}

/// S32: on terms no worse a person isn't asked again. What is worse in anything waits for one, and it is said why.
#[test]
fn terms_no_worse_are_accepted() {
    type Change = fn(&mut Invite);
    let worse: [(&str, Change); 6] = [
        ("costs 1 msat", |invite| invite.price_msat = 1),
        ("channel has", |invite| invite.terms.capacities[0] -= bitcoin::Amount::from_sat(1)),
        ("lifetime_blocks", |invite| invite.terms.timeout_height -= 20),
        ("dying_blocks", |invite| invite.terms.dying_blocks -= 1),
        ("stay behind", |invite| invite.terms.push_msat = RESERVE - 1),
        ("funding_confirmations", |invite| invite.terms.funding_confirmations -= 1),
    ];
    for (what, change) in [("", (|_| {}) as Change)].into_iter().chain(worse) {
        let (mut world, old) = due(1, |config| {
            config.bounds.max_price_msat = 10;
            config.bounds.min_funding_confirmations = 1;
        });
        world.tamper(move |out| match &out.message {
            Message::Invite(invite) => {
                let mut invite = invite.clone();
                change(&mut invite);
                Fate::replace(invite)
            }
            _ => Fate::Deliver,
        });
        let new = world.begin(&offer()).unwrap();
        world.settle().unwrap();
        let state = world.state(1, new);
        if what.is_empty() {
            assert!(factory(&world, 1, new).accepted, "{state:?}");
            continue;
        }
        assert_eq!(state, Some(State::Invited), "{what}");
        let renewal = renewal(&world, old);
        assert_eq!(renewal.stage, Stage::Answer { next: new }, "{what}");
        let failed = renewal.failed.unwrap().what;
        assert!(failed.contains(what), "{failed}");
    }
}

/// S32: `ask` asks each time, whatever the policy for others is; `never` makes no difference between them; and only
/// the operator of a factory that lives renews it.
#[test]
fn whom_a_person_is_asked_about() {
    for (policy, renew, accepted) in [
        (Policy::Ask, Policy::Auto, true),
        (Policy::Ask, Policy::Ask, false),
        (Policy::Auto, Policy::Ask, false),
        (Policy::Ask, Policy::Never, false),
        (Policy::Auto, Policy::Never, true),
    ] {
        let (mut world, _) = due(2, |config| config.renew = renew);
        world.members[1].config.policy = policy;
        world.restart(1).unwrap();
        world.reconnect().unwrap();
        world.settle().unwrap();
        let new = world.begin(&offer()).unwrap();
        world.settle().unwrap();
        assert_eq!(factory(&world, 1, new).accepted, accepted, "{policy:?} {renew:?}");
    }
    // There is nothing to renew for who has left.
    let (mut world, old) = due(3, |_| {});
    world.command(1, factory_engine::Command::Exit { instance: old }).unwrap();
    world.mine(4).unwrap();
    let new = world.begin(&offer()).unwrap();
    world.settle().unwrap();
    assert!(!factory(&world, 1, new).accepted);
}

/// What the operator asks for a renewal, in a list that asks for sales as well.
fn prices(renewal_base_msat: u64, renewal_ppm: u32) -> PriceList {
    let renewals = PriceList { renewal_base_msat: Some(renewal_base_msat), ..PriceList::of_sales(9, 9) };
    PriceList { renewal_ppm: Some(renewal_ppm), ..renewals }
}

/// What client 1 has in all its channels that live, msat.
fn held(world: &World) -> u64 {
    let list = world.balances(1, world.members[LSP].id);
    list.iter().filter(|known| known.live).map(|known| known.to_us_msat).sum()
}

/// Height at which a factory's funding is deep enough to leave another one for it.
fn deep(world: &World, new: InstanceId) -> u32 {
    factory(world, 1, new).funding_height().unwrap() + 5
}

/// A third factory, once the second is due as well, up to the block in which it is deep enough: that height.
fn third(world: &mut World, second: InstanceId) -> (InstanceId, u32) {
    let dying = factory(world, 1, second).current.terms.timeout_height - DYING;
    mine_to(world, dying);
    let third = world.make_factory(&offer()).unwrap();
    let until = deep(world, third);
    mine_to(world, until);
    (third, until)
}

/// S32: a renewal costs what it may cost, and nothing if it is none.
#[test]
fn a_renewal_has_its_price() {
    let capacity = Offer::default().capacity.to_sat();
    // 1 % of the new channel, and 500 msat.
    let price = capacity * 10 + 500;
    for (limit, accepted) in [(price - 1, false), (price, true)] {
        let (mut world, old) = due(4, |config| {
            config.prices = prices(500, 10_000);
            config.max_renewal_price_msat = limit;
        });
        let first = &factory(&world, 1, old).current;
        assert_eq!((first.price_msat, first.paid_by(0)), (0, None), "it renews nothing");
        let new = world.begin(&offer()).unwrap();
        world.settle().unwrap();
        let known = world.factory(1, new).is_ok_and(|factory| factory.accepted);
        assert_eq!(known, accepted, "{limit}");
        let asked = if accepted { Some(price) } else { None };
        assert_eq!(renewal(&world, old).price_msat, asked);
        assert_eq!(factory(&world, LSP, new).current.price_of(0), price);
    }
}

/// S22, S37: the price stays behind in the old channel, to the msat, once the new one is there for good; the operator
/// knows what it got. Whoever has less pays what it has.
#[test]
fn what_it_costs_stays_behind() {
    for (purse, price, paid) in [(20_000_000, 1_500_000, 1_500_000), (700_000, 1_500_000, 700_000)] {
        let (mut world, old) = due(9, |config| {
            config.prices = prices(price, 0);
            config.max_renewal_price_msat = 2_000_000;
        });
        world.pay(LSP, 1, purse).unwrap();
        let before = held(&world);
        let new = world.make_factory(&offer()).unwrap();
        let until = deep(&world, new);
        mine_to(&mut world, until - 1);
        assert_eq!(held(&world), before + PUSH, "nothing is paid before the new channel is deep enough");
        mine_to(&mut world, until + 2);
        assert_eq!(renewal(&world, old).stage, Stage::Done);
        // What its first channel was given is as good as what it was paid.
        let paid = (paid + PUSH - RESERVE).min(price);
        assert_eq!(held(&world), before + PUSH - RESERVE - paid);
        assert_eq!(factory(&world, LSP, new).current.paid_by(0), Some(paid));
        let known = |(_, line): &(Level, String)| line.contains("that its renewal costs");
        assert_eq!(world.members[LSP].log.iter().filter(|line| known(line)).count(), 1);
        assert!(world.judge.violations.is_empty(), "{:?}", world.judge.violations);
    }
}

/// S32: what was asked for holds through later attempts and restarts, whatever the list says by then.
#[test]
fn a_price_is_kept() {
    let (mut world, _) = due(10, |config| {
        config.prices = prices(1_500, 0);
        config.max_renewal_price_msat = 1_500;
    });
    // The first attempt comes to nothing.
    let new = world.begin(&offer()).unwrap();
    world.members[LSP].engine.as_mut().unwrap().set_prices(prices(9_000, 0));
    world.restart(LSP).unwrap();
    world.reconnect().unwrap();
    world.settle().unwrap();
    let attempt = &factory(&world, LSP, new).current;
    assert!(attempt.number > 1);
    assert_eq!(attempt.price_of(0), 1_500);
    assert_eq!(factory(&world, 1, new).current.price_msat, 1_500);
}

/// S22: what arrives in the old channel while it moves goes as well, and the price stays all the same.
#[test]
fn what_comes_in_meanwhile_pays_nothing_more() {
    let price = 1_500_000;
    let (mut world, old) = due(14, |config| {
        config.prices = prices(price, 0);
        config.max_renewal_price_msat = price;
    });
    world.pay(LSP, 1, 20_000_000).unwrap();
    let new = world.make_factory(&offer()).unwrap();
    let [from, to] = [old, new].map(|instance| factory(&world, 1, instance).current.channels[&0]);
    let until = deep(&world, new);
    world.tamper(losing("handover", 1));
    world.mine(until - world.chain.height()).unwrap();
    for _ in 0..4 {
        world.settle().unwrap();
        world.shift((LSP, 1), from, 40_000).unwrap();
        world.mine(1).unwrap();
    }
    world.settle().unwrap();
    let left = world.balances(1, world.members[LSP].id).into_iter().find(|known| known.channel_id == from);
    assert!(left.unwrap().to_us_msat >= RESERVE + price, "{left:?} {to}");
    assert!(world.judge.violations.is_empty(), "{:?}", world.judge.violations);
}

/// S32: whoever pays for renewals isn't renewed more often than before: the time before it is due again is a term.
#[test]
fn a_longer_dying_period_costs_more() {
    for (price, accepted) in [(0, true), (500, false)] {
        let (mut world, _) = due(15, |config| {
            config.prices = prices(price, 0);
            config.max_renewal_price_msat = 10_000;
        });
        let new = world.begin(&Offer { dying_blocks: DYING + 20, ..offer() }).unwrap();
        world.settle().unwrap();
        assert_eq!(world.factory(1, new).is_ok_and(|factory| factory.accepted), accepted, "{price}");
    }
}

/// S33: where the list of prices is lost nobody is renewed for nothing.
#[test]
fn a_lost_list_renews_nobody() {
    let (mut world, _) = due(16, |_| {});
    world.members[LSP].engine.as_mut().unwrap().forget_prices();
    let refused = world.begin(&offer()).unwrap_err().to_string();
    assert!(refused.contains("list of prices is lost"), "{refused}");
    world.members[LSP].engine.as_mut().unwrap().set_prices(prices(0, 0));
    world.begin(&offer()).unwrap();
}

/// S22: an empty factory that is left first pays nothing of the price: the next one does.
#[test]
fn an_empty_factory_pays_nothing() {
    let price = 1_500_000;
    let (mut world, first) = active(17, |config| {
        config.prices = prices(price, 0);
        config.max_renewal_price_msat = RESERVE + price;
    });
    let settings = |world: &mut World, policy, renew| {
        (world.members[1].config.policy, world.members[1].config.renew) = (policy, renew);
        world.restart(1).unwrap();
        world.reconnect().unwrap();
        world.settle().unwrap();
    };
    // Nothing is left before both are due, and the third one is there.
    settings(&mut world, Policy::Auto, Policy::Never);
    let second = world.make_factory(&offer()).unwrap();
    let channels = [first, second].map(|instance| factory(&world, 1, instance).current.channels[&0]);
    world.shift((LSP, 1), channels[1], 5_000_000).unwrap();
    let (third, until) = third(&mut world, second);
    let before = held(&world);
    settings(&mut world, Policy::Auto, Policy::Auto);
    mine_to(&mut world, until + 6);
    assert!([first, second].iter().all(|old| renewal(&world, *old).stage == Stage::Done));
    assert_eq!(before - held(&world), price + 2 * RESERVE);
    assert_eq!(factory(&world, LSP, third).current.paid_by(0), Some(price));
}

/// One renewal takes the place of two factories, and is paid for once.
#[test]
fn two_factories_cost_one_price() {
    let price = 1_500_000;
    let (mut world, first) = active(12, |config| {
        config.prices = prices(price, 0);
        config.max_renewal_price_msat = RESERVE + price;
    });
    let second = world.make_factory(&offer()).unwrap();
    let channels = [first, second].map(|instance| factory(&world, 1, instance).current.channels[&0]);
    world.pay(LSP, 1, 5_000_000).unwrap();
    world.shift_between(1, channels[0], channels[1], 2_000_000).unwrap();
    // Nothing moves before both are due.
    world.tamper(losing("move_ask", 1));
    let (third, until) = third(&mut world, second);
    let before = held(&world);
    assert!([first, second].iter().all(|old| matches!(renewal(&world, *old).stage, Stage::Move { .. })));
    world.heal();
    // A move that was begun into the second ends first.
    mine_to(&mut world, until + 20);
    assert!([first, second].iter().all(|old| renewal(&world, *old).stage == Stage::Done));
    assert_eq!(held(&world), before - 2 * RESERVE - price);
    assert_eq!(factory(&world, LSP, third).current.paid_by(0), Some(price));
    assert!(world.judge.violations.is_empty(), "{:?}", world.judge.violations);
}

/// Each step of a renewal says what it waits for, and until when there is time.
#[test]
fn where_it_stands() {
    let (mut world, old) = active(5, |_| {});
    let engine = world.members[1].engine.as_ref().unwrap();
    assert_eq!(engine.renewals(world.chain.height()).count(), 0, "it isn't due");
    let known = factory(&world, 1, old);
    let terms = known.current.terms.clone();
    let by = known.eviction_height(0).min(known.safe_end());
    mine_to(&mut world, terms.timeout_height - DYING);
    let first = renewal(&world, old);
    assert_eq!(first.stage, Stage::Invitation);
    assert_eq!((first.due, first.by), (terms.timeout_height - DYING, by));
    assert!(first.connected && first.failed.is_none() && by < terms.timeout_height);
    let left = first.by - first.due;
    let urgencies = [first.due, first.by - left / 2, first.by - 6].map(|height| first.urgency(height));
    assert_eq!(urgencies, [Level::Info, Level::Unusual, Level::Broken]);
    assert!(first.advice().contains("ask the operator"));
    world.pay(LSP, 1, 5_000_000).unwrap();
    let new = world.begin(&offer()).unwrap();
    world.settle().unwrap();
    let state = world.state(1, new).unwrap();
    assert_eq!(renewal(&world, old).stage, Stage::Creation { next: new, state });
    world.activate(new).unwrap();
    let until = deep(&world, new);
    assert_eq!(renewal(&world, old).stage, Stage::Depth { next: new, until });
    world.tamper(losing("move_ask", 1));
    mine_to(&mut world, until);
    assert_eq!(renewal(&world, old).stage, Stage::Move { next: new, msat: 5_000_000 + PUSH - RESERVE });
    let [from, to] = [old, new].map(|instance| factory(&world, 1, instance).current.channels[&0]);
    world.htlcs_on.insert(from);
    world.shift_between(1, from, to, 5_000_000 + PUSH - RESERVE).unwrap();
    world.mine(1).unwrap();
    let why = Some(NotYet::Htlc(from));
    assert_eq!(renewal(&world, old).stage, Stage::HandOver { next: Some(new), why });
    world.htlcs_on.clear();
    world.tamper(losing("handover_stored", LSP));
    world.mine(1).unwrap();
    let waits = renewal(&world, old);
    assert_eq!(waits.stage, Stage::Acknowledgement);
    assert_eq!(waits.urgency(waits.by), Level::Info, "nothing can be lost any more");
    world.heal();
    world.mine(1).unwrap();
    assert_eq!(renewal(&world, old).stage, Stage::Done);
    assert!(renewal(&world, old).failed.is_none());
}

/// S22, S37: with everybody here it goes all the way by itself: into the next factory, what was in the old channel
/// into the new one but the reserve, which was made up for, and the key to the operator.
#[test]
fn a_renewal_goes_all_the_way_by_itself() {
    let (mut world, old) = due(8, |_| {});
    world.pay(LSP, 1, 5_000_000).unwrap();
    let held = |world: &World| -> u64 {
        let list = world.balances(1, world.members[LSP].id);
        list.iter().map(|known| known.to_us_msat).sum()
    };
    let before = held(&world);
    let new = world.begin(&offer()).unwrap();
    world.settle().unwrap();
    world.activate(new).unwrap();
    let until = deep(&world, new);
    mine_to(&mut world, until - 1);
    assert_eq!(renewal(&world, old).stage, Stage::Depth { next: new, until });
    assert_eq!(held(&world), before + PUSH);
    mine_to(&mut world, until);
    assert_eq!(renewal(&world, old).stage, Stage::Done, "in one block");
    assert!(factory(&world, LSP, old).has_handed_over(0));
    let [from, to] = [old, new].map(|instance| factory(&world, 1, instance).current.channels[&0]);
    let list = world.balances(1, world.members[LSP].id);
    let of = |id| list.iter().find(|known| known.channel_id == id).unwrap();
    assert_eq!((of(from).to_us_msat, of(from).live), (RESERVE, false));
    assert_eq!(of(to).to_us_msat, before + PUSH - RESERVE);
    assert!(world.judge.violations.is_empty(), "{:?}", world.judge.violations);
}

/// A renewal that fails is said, more and more often, louder, with what failed last, until its time is over.
#[test]
fn it_is_never_silent() {
    let (mut world, old) = due(6, |config| config.max_renewal_price_msat = 0);
    world.tamper(|out| match &out.message {
        Message::Invite(invite) => Fate::replace(Invite { price_msat: 77, ..invite.clone() }),
        _ => Fate::Deliver,
    });
    world.begin(&offer()).unwrap();
    world.run_out().unwrap();
    let renewal = renewal(&world, old);
    assert!(renewal.failed.as_ref().unwrap().what.contains("price_msat is 77"), "{:?}", renewal.failed);
    mine_to(&mut world, renewal.by);
    let left: Vec<u32> = world.notices.iter().filter(|(at, ..)| *at == 1).map(|(.., left)| *left).collect();
    assert!(left.ends_with(&[6, 5, 4, 3, 2, 1, 0]), "{left:?}");
    assert!(left.len() > 9 && left.windows(2).all(|pair| pair[0] > pair[1]), "{left:?}");
    let said: Vec<&(Level, String)> =
        world.members[1].log.iter().filter(|(_, line)| line.contains("not renewed, ")).collect();
    assert_eq!(said.len(), left.len());
    assert_eq!(said[0].0, Level::Info);
    let (level, last) = said.last().unwrap();
    assert_eq!(*level, Level::Unusual);
    assert!(last.contains("price_msat is 77") && last.contains("the operator takes the channel"), "{last}");
}

/// It looks for its operator by itself when it is due, and only then.
#[test]
fn it_connects_when_it_is_due() {
    let (mut world, old) = active(7, |_| {});
    world.connects = true;
    world.disconnect(LSP, 1);
    world.settle().unwrap();
    world.mine(1).unwrap();
    let peer = world.members[LSP].id;
    let here = |world: &World| world.members[1].engine.as_ref().unwrap().peers().any(|id| id == peer);
    assert!(!here(&world));
    let dying = factory(&world, 1, old).current.terms.timeout_height - DYING;
    mine_to(&mut world, dying);
    assert!(here(&world));
    assert!(renewal(&world, old).connected);
}

/// S22, S37: a client with three bought channels moves out of all of them, and leaves. One reserve was made up for;
/// those of bought channels stay behind.
#[test]
fn bought_channels_follow() {
    let scenario = Scenario::new(21).clients(2).short_delays().stock(600_000).lifetime(400, 200);
    let scenario = scenario.config(|config| {
        config.push_msat = PUSH;
        config.renew = Policy::Auto;
    });
    let (mut world, old) = scenario.active().unwrap();
    for _ in 0..3 {
        world.buy(1, old, 60_000, 0).unwrap();
    }
    assert_eq!(factory(&world, 1, old).own_channels().count(), 4);
    world.pay(LSP, 1, 20_000_000).unwrap();
    let before = held(&world);
    let dying = factory(&world, 1, old).current.terms.timeout_height - 200;
    mine_to(&mut world, dying);
    let next = Offer { lifetime_blocks: 400, dying_blocks: 200, ..Offer::default() };
    let new = world.make_factory(&next).unwrap();
    let until = deep(&world, new);
    mine_to(&mut world, until + 2);
    assert_eq!(renewal(&world, old).stage, Stage::Done);
    assert!(factory(&world, LSP, old).has_handed_over(0));
    assert_eq!(held(&world), before + PUSH - 4 * RESERVE);
    assert!(world.judge.violations.is_empty(), "{:?}", world.judge.violations);
}
