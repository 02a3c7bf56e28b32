//! Ramps between factories and ordinary channels: a client that leaves for one, one that moves into a factory, and a
//! client that was evicted and comes back.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;

use bitcoin::Amount;
use common::factory;
use factory_engine::types::{ChannelId, InstanceId};
use factory_engine::wire::message::{LeaveAsk, LeaveOpened, LeaveRefused, Message};
use factory_engine::wire::words::Words;
use factory_engine::{CheckFailure, Command, Config, Input, LeaveStage, NotYet, Policy, Refusal, State};
use factory_lab::offer::Offer;
use factory_lab::scenario::Scenario;
use factory_lab::world::{Fate, Fed, LSP, RESERVE_MSAT, World, losing};

/// What client 1 has in its factory beside what it was pushed.
const PAID_MSAT: u64 = 40_000_000;
const PUSH_MSAT: u64 = 546_000;
const DEPTH: u32 = 6;
const LIFETIME: u32 = 400;
const DYING: u32 = 110;

fn offer() -> Offer {
    Offer { lifetime_blocks: LIFETIME, dying_blocks: DYING, stock: Amount::ZERO, ..Offer::default() }
}

fn active(seed: u64, change: impl Fn(&mut Config)) -> (World, InstanceId) {
    let scenario = Scenario::new(seed).clients(2).short_delays().stock(0).lifetime(LIFETIME, DYING);
    let scenario = scenario.config(|config| {
        config.push_msat = PUSH_MSAT;
        config.handover_depth = 6;
        config.leave_channels = true;
        change(config);
    });
    let (mut world, instance) = scenario.active().unwrap();
    world.pay(LSP, 1, PAID_MSAT).unwrap();
    (world, instance)
}

/// Client 1 asks a person about whatever renews nothing.
fn ask(world: &mut World) {
    world.members[1].config.policy = Policy::Ask;
    world.members[1].config.renew = Policy::Auto;
    world.restart(1).unwrap();
    world.reconnect().unwrap();
    world.settle().unwrap();
}

fn channel(world: &World, instance: InstanceId) -> ChannelId {
    factory(world, 1, instance).current.channels[&0]
}

/// `factory-leave`: the plugin looks at the channels first.
fn leave(world: &mut World, instance: InstanceId, max_price_msat: u64) -> Result<(), Refusal> {
    world.show_balances(1, LSP).unwrap();
    match world.feed(1, Input::Command(Command::Leave { instance, max_price_msat })).unwrap() {
        Fed::Done(answer) => answer.map(drop),
        other => panic!("{other:?}"),
    }
}

fn stage(world: &World, instance: InstanceId) -> Option<LeaveStage> {
    let engine = world.engine(1).unwrap();
    engine.leave(engine.factory(instance).unwrap(), world.chain.height()).map(|leave| leave.stage)
}

fn to_us(world: &World, id: ChannelId) -> u64 {
    let list = world.balances(1, world.members[LSP].id);
    list.iter().find(|known| known.channel_id == id).unwrap().to_us_msat
}

/// Blocks, and whatever follows from each. The client's money is never less.
fn mine(world: &mut World, blocks: u32) {
    let purse = world.purse_msat(1);
    for _ in 0..blocks {
        world.mine(1).unwrap();
        world.settle().unwrap();
        assert_eq!(world.purse_msat(1), purse, "S37");
    }
}

/// Whether client 1 has handed over: as it, and as the operator knows.
fn handed_over(world: &World, instance: InstanceId) -> [bool; 2] {
    [1, LSP].map(|at| factory(world, at, instance).has_handed_over(0))
}

fn in_order(world: &World) {
    assert!(world.judge.violations.is_empty(), "{:?}", world.judge.violations);
}

fn over(world: &World, instance: InstanceId) -> String {
    let known = factory(world, 1, instance);
    assert!(known.leaves.wish().is_none());
    known.leaves.over().unwrap().1.to_owned()
}

/// S22, S37: everything goes to an ordinary channel that is there, at no cost but the reserve, and then the key; long
/// before the factory ends.
#[test]
fn it_leaves_for_a_channel_that_is_there() {
    let (mut world, old) = active(1, |_| {});
    let ordinary = world.open_ordinary(1, 200_000, 2_000_000).unwrap();
    let from = channel(&world, old);
    assert_eq!(to_us(&world, from), PAID_MSAT + PUSH_MSAT);
    leave(&mut world, old, 0).unwrap();
    world.settle().unwrap();
    let until = Some(world.chain.height() + DEPTH - 1);
    for _ in 1..DEPTH {
        let why = NotYet::NotDeepChannel { channel_id: ordinary, until };
        assert_eq!(stage(&world, old), Some(LeaveStage::Depth(why)));
        assert_eq!((handed_over(&world, old), to_us(&world, ordinary)), ([false; 2], 2_000_000));
        mine(&mut world, 1);
    }
    mine(&mut world, 3);
    assert_eq!(stage(&world, old), Some(LeaveStage::Done));
    assert_eq!(handed_over(&world, old), [true; 2]);
    assert_eq!(world.state(1, old), Some(State::Left));
    assert_eq!(to_us(&world, from), RESERVE_MSAT);
    assert_eq!(to_us(&world, ordinary), 2_000_000 + PAID_MSAT + PUSH_MSAT - RESERVE_MSAT);
    assert!(world.members[1].lightningd.channels[&from].mutual, "both close it");
    assert!(!world.members[1].lightningd.channels[&ordinary].closing);
    in_order(&world);
}

/// S22: no key for a channel of which it isn't known that its output on chain is lightningd's; and none at all if it
/// is another.
#[test]
fn an_output_that_is_another_ends_it() {
    let (mut world, old) = active(2, |_| {});
    let ordinary = world.open_ordinary(1, 200_000, 0).unwrap();
    mine(&mut world, DEPTH);
    leave(&mut world, old, 0).unwrap();
    world.settle().unwrap();
    assert_eq!(stage(&world, old), Some(LeaveStage::Depth(NotYet::NotChecked(ordinary))));
    for result in [Err(CheckFailure::NotYet), Err(CheckFailure::Unavailable("no database".into()))] {
        let checked = Input::OrdinaryChecked { instance: old, channel_id: ordinary, result };
        world.feed(1, checked).unwrap();
        world.settle().unwrap();
        assert_eq!(stage(&world, old), Some(LeaveStage::Depth(NotYet::NotChecked(ordinary))));
    }
    // Of another channel it says nothing.
    let other = Input::OrdinaryChecked { instance: old, channel_id: ChannelId([9; 32]), result: Ok(()) };
    world.feed(1, other).unwrap();
    assert_eq!(stage(&world, old), Some(LeaveStage::Depth(NotYet::NotChecked(ordinary))));
    let result = Err(CheckFailure::Mismatch("another script".into()));
    world.feed(1, Input::OrdinaryChecked { instance: old, channel_id: ordinary, result }).unwrap();
    mine(&mut world, 3);
    assert!(over(&world, old).contains("another script"));
    assert_eq!(handed_over(&world, old), [false; 2]);
    assert_eq!(to_us(&world, channel(&world, old)), PAID_MSAT + PUSH_MSAT, "nothing has moved");
    // A person can try again.
    leave(&mut world, old, 0).unwrap();
    mine(&mut world, 4);
    assert_eq!(handed_over(&world, old), [true; 2]);
    in_order(&world);
}

/// What the operator asks for a channel now, msat.
fn price(world: &mut World, instance: InstanceId) -> u64 {
    world.show_balances(1, LSP).unwrap();
    world.command(1, Command::AskLeave { instance }).unwrap();
    world.settle().unwrap();
    let plan = world.engine(1).unwrap().plan_leave(instance, world.chain.height()).unwrap();
    plan.priced.unwrap().answer.unwrap().unwrap()
}

/// S22, S36: the operator opens a channel that takes it all. What it asks for it stays behind, and is paid with the
/// key: not before the channel is there.
#[test]
fn the_operator_opens_a_channel() {
    let (mut world, old) = active(3, |_| {});
    let price = price(&mut world, old);
    assert!(price > 0 && factory(&world, 1, old).leaves.wish().is_none(), "asking opens nothing");
    leave(&mut world, old, price).unwrap();
    world.settle().unwrap();
    let wish = *factory(&world, 1, old).leaves.wish().unwrap();
    let (from, to) = (channel(&world, old), wish.to.unwrap());
    assert_eq!(wish.price_msat, price);
    assert_eq!(
        stage(&world, old),
        Some(LeaveStage::Depth(NotYet::NotDeepChannel { channel_id: to, until: None }))
    );
    mine(&mut world, DEPTH);
    assert_eq!((handed_over(&world, old), to_us(&world, to)), ([false; 2], 0), "nothing is paid before");
    mine(&mut world, 4);
    assert_eq!(handed_over(&world, old), [true; 2]);
    assert_eq!(to_us(&world, from), RESERVE_MSAT + price);
    assert_eq!(to_us(&world, to), PAID_MSAT + PUSH_MSAT - RESERVE_MSAT - price);
    in_order(&world);
}

/// A client that has nothing but its reserve needs no channel, and waits for none.
#[test]
fn whoever_has_nothing_needs_no_channel() {
    let (mut world, old) = active(4, |config| config.leave_channels = false);
    world.pay(1, LSP, PAID_MSAT + PUSH_MSAT - RESERVE_MSAT).unwrap();
    leave(&mut world, old, 0).unwrap();
    mine(&mut world, 2);
    assert_eq!(handed_over(&world, old), [true; 2]);
    in_order(&world);
}

/// S35: an operator that opens no channels, or not at that price, is asked in vain, and nothing is left of it; nor does
/// it open a second one.
#[test]
fn an_operator_opens_one_channel_at_its_price() {
    let (mut world, old) = active(5, |config| config.leave_channels = false);
    leave(&mut world, old, u64::MAX).unwrap();
    world.settle().unwrap();
    assert!(over(&world, old).contains("opens no ordinary channels"), "{}", over(&world, old));
    assert_eq!(world.state(1, old), Some(State::Active));

    let (mut world, old) = active(6, |_| {});
    let price = price(&mut world, old);
    leave(&mut world, old, price - 1).unwrap();
    world.settle().unwrap();
    assert!(over(&world, old).contains(&format!("costs {price} msat")), "{}", over(&world, old));
    assert!(factory(&world, LSP, old).leaves.opening().is_empty());

    leave(&mut world, old, price).unwrap();
    world.settle().unwrap();
    let to = factory(&world, 1, old).leaves.wish().unwrap().to;
    let channels = world.members[LSP].lightningd.channels.len();
    assert_eq!(leave(&mut world, old, price), Err(Refusal::LeavesAlready(old)));
    // Asked again, it says which.
    let ask = factory_engine::wire::message::LeaveAsk {
        instance: old,
        attempt: 1,
        amount: Amount::from_sat(90_000),
        max_price_msat: Some(u64::MAX),
    };
    let peer = world.members[1].id;
    world.feed(LSP, Input::Message { peer, payload: Message::LeaveAsk(ask).encode() }).unwrap();
    world.settle().unwrap();
    assert_eq!(world.members[LSP].lightningd.channels.len(), channels, "one is enough");
    assert_eq!(factory(&world, 1, old).leaves.wish().unwrap().to, to);
    in_order(&world);
}

/// S29, S36: an operator that says nothing, asks more than was agreed to, or names a channel that never comes: in the
/// end this node is where it was, and no key has left.
#[test]
fn an_operator_that_does_not_do_it() {
    type Change = fn(&LeaveOpened) -> Fate;
    let cases: [(Change, &str); 3] = [
        (|_| Fate::Drop, "not opened an ordinary channel yet"),
        (|opened| Fate::replace(LeaveOpened { price_msat: u64::MAX, ..opened.clone() }), "at most"),
        (
            |opened| Fate::replace(LeaveOpened { channel_id: ChannelId([8; 32]), ..opened.clone() }),
            "doesn't show channel",
        ),
    ];
    for (change, what) in cases {
        let (mut world, old) = active(7, |_| {});
        world.tamper(move |out| match &out.message {
            Message::LeaveOpened(opened) => change(opened),
            _ => Fate::Deliver,
        });
        let price = price(&mut world, old);
        leave(&mut world, old, price).unwrap();
        mine(&mut world, 145);
        assert!(over(&world, old).contains(what), "{}", over(&world, old));
        assert_eq!(handed_over(&world, old), [false; 2]);
        assert_eq!(to_us(&world, channel(&world, old)), PAID_MSAT + PUSH_MSAT);
        in_order(&world);
    }
}

/// S29: an operator that opens none now, and says so, is asked again at each block.
#[test]
fn an_operator_that_puts_it_off_is_asked_again() {
    let (mut world, old) = active(20, |_| {});
    let price = price(&mut world, old);
    world.members[LSP].lightningd.short_of_coins = true;
    leave(&mut world, old, 2 * price).unwrap();
    world.settle().unwrap();
    assert!(over(&world, old).contains("can't open it now"), "{}", over(&world, old));
    world.members[LSP].lightningd.short_of_coins = false;
    // A person is faster than the next block.
    leave(&mut world, old, 2 * price).unwrap();
    world.settle().unwrap();
    let engine = world.engine(1).unwrap();
    let now = engine.leave(engine.factory(old).unwrap(), world.chain.height()).unwrap();
    let failed = now.failed.unwrap().what;
    assert_eq!((now.stage, now.to), (LeaveStage::Channel, None));
    assert!(failed.contains("try again after the next block"), "{failed}");
    mine(&mut world, DEPTH + 8);
    assert_eq!(handed_over(&world, old), [true; 2]);
    in_order(&world);
}

/// S29: one that puts it off again and again keeps nobody waiting for ever, and whoever refuses for good ends it at once.
#[test]
fn an_operator_that_puts_it_off_for_ever_is_given_up() {
    for (retry, blocks, what) in
        [(Some(true), 145, "after 144 blocks"), (Some(false), 1, "another time"), (None, 1, "another time")]
    {
        let (mut world, old) = active(21, |_| {});
        let price = price(&mut world, old);
        world.tamper(move |out| match &out.message {
            Message::LeaveOpened(opened) => {
                let (instance, attempt) = (opened.instance, opened.attempt);
                Fate::replace(LeaveRefused { instance, attempt, reason: Words::new("another time"), retry })
            }
            _ => Fate::Deliver,
        });
        leave(&mut world, old, price).unwrap();
        mine(&mut world, blocks);
        let over = over(&world, old);
        assert!(over.contains(what) && over.contains("another time"), "{over}");
        assert_eq!(handed_over(&world, old), [false; 2]);
        in_order(&world);
    }
}

/// S35: no client has an operator open a channel that is larger than what it has to move.
#[test]
fn an_operator_opens_no_larger_channel_than_it_takes() {
    let (mut world, old) = active(17, |_| {});
    let price = price(&mut world, old);
    let channels =
        world.members[LSP].lightningd.channels.len() + world.members[LSP].lightningd.ordinary.len();
    world.tamper(|out| match &out.message {
        Message::LeaveAsk(asked) => {
            Fate::replace(LeaveAsk { amount: Amount::from_sat(100_001), ..asked.clone() })
        }
        _ => Fate::Deliver,
    });
    leave(&mut world, old, 2 * price).unwrap();
    world.settle().unwrap();
    assert!(over(&world, old).contains("no channel of that size"), "{}", over(&world, old));
    let now = world.members[LSP].lightningd.channels.len() + world.members[LSP].lightningd.ordinary.len();
    assert_eq!(now, channels);
    in_order(&world);
}

/// S29: a client that is paid more than its new channel takes, before that is deep, isn't kept in its wish for ever.
#[test]
fn a_channel_that_has_become_too_small_ends_it() {
    let (mut world, old) = active(18, |_| {});
    let price = price(&mut world, old);
    leave(&mut world, old, 2 * price).unwrap();
    world.settle().unwrap();
    world.pay(LSP, 1, 55_000_000).unwrap();
    mine(&mut world, 145);
    assert_eq!(handed_over(&world, old), [false; 2]);
    assert!(over(&world, old).contains("after 144 blocks"), "{}", over(&world, old));
    in_order(&world);
}

/// S36: an operator that names a channel which was there before is paid nothing for it.
#[test]
fn a_channel_that_was_there_before_is_not_the_one_that_was_asked_for() {
    let (mut world, old) = active(19, |_| {});
    let small = world.open_ordinary(1, 30_000, 1_000_000).unwrap();
    mine(&mut world, 1);
    let price = price(&mut world, old);
    world.tamper(move |out| match &out.message {
        Message::LeaveOpened(opened) => Fate::replace(LeaveOpened { channel_id: small, ..opened.clone() }),
        _ => Fate::Deliver,
    });
    leave(&mut world, old, 2 * price).unwrap();
    world.settle().unwrap();
    assert!(over(&world, old).contains("was there before"), "{}", over(&world, old));
    in_order(&world);
}

/// S10, S37: whoever stops, at whichever step, the client leaves in the end, and nothing is paid or opened twice.
#[test]
fn a_stop_at_any_step_is_resumed() {
    for who in [1, LSP] {
        for steps in 0..60 {
            let (mut world, old) = active(8, |_| {});
            let price = price(&mut world, old);
            let channels = world.members[LSP].lightningd.channels.len();
            leave(&mut world, old, 2 * price).unwrap();
            let mut over = false;
            for _ in 0..steps {
                over = !world.step().unwrap();
            }
            world.stop(who);
            world.settle().unwrap();
            world.restart(who).unwrap();
            world.reconnect().unwrap();
            world.settle().unwrap();
            mine(&mut world, DEPTH + 6);
            assert_eq!(
                world.members[LSP].lightningd.channels.len(),
                channels + 1,
                "{who} after {steps} steps"
            );
            assert_eq!(handed_over(&world, old), [true; 2], "{who} after {steps} steps");
            in_order(&world);
            if over {
                break;
            }
            assert!(steps < 59, "it never ends");
        }
    }
}

/// S29: a client's node that never answers the open keeps no place for it, and can try again.
#[test]
fn an_open_that_is_never_answered_ends() {
    let (mut world, old) = active(14, |_| {});
    let price = price(&mut world, old);
    world.members[1].lightningd.ignores_ordinary = true;
    leave(&mut world, old, 2 * price).unwrap();
    mine(&mut world, 2);
    assert_eq!(factory(&world, LSP, old).leaves.opening().len(), 1);
    mine(&mut world, 2);
    assert!(factory(&world, LSP, old).leaves.opening().is_empty());
    world.members[1].lightningd.ignores_ordinary = false;
    world.reconnect().unwrap();
    world.settle().unwrap();
    mine(&mut world, 14);
    assert_eq!(handed_over(&world, old), [true; 2]);
    in_order(&world);
}

/// S22: a message that is lost comes again, and a reorganisation that takes the channel away takes what was known of
/// its output with it.
#[test]
fn what_is_lost_comes_again() {
    for (name, from) in [("leave_ask", 1), ("leave_opened", LSP), ("handover", 1), ("handover_stored", LSP)] {
        let (mut world, old) = active(9, |_| {});
        let price = price(&mut world, old);
        world.tamper(losing(name, from));
        leave(&mut world, old, 2 * price).unwrap();
        mine(&mut world, 2);
        world.heal();
        mine(&mut world, 12);
        assert_eq!(handed_over(&world, old), [true; 2], "{name}");
        in_order(&world);
    }
}

/// Refused, with nothing changed: who is no client, what isn't there, and what has no operator to help.
#[test]
fn what_is_refused() {
    let (mut world, old) = active(10, |_| {});
    let records = world.members[1].store.records(old).len();
    let refused = |answer: Result<(), Refusal>| answer.unwrap_err().to_string();
    let unknown = InstanceId([9; 32]);
    assert_eq!(leave(&mut world, unknown, 0), Err(Refusal::Unknown(unknown)));
    let command = Command::Leave { instance: old, max_price_msat: 0 };
    assert!(world.command(LSP, command).unwrap_err().to_string().contains("this node is its operator"));
    world.disconnect(LSP, 1);
    world.settle().unwrap();
    assert!(refused(leave(&mut world, old, 0)).contains("not connected"));
    world.reconnect().unwrap();
    world.settle().unwrap();
    assert_eq!(world.members[1].store.records(old).len(), records);
    world.command(1, Command::Exit { instance: old }).unwrap();
    assert!(refused(leave(&mut world, old, 0)).contains("on its way there"));
}

/// S32: while a person wants to leave it no invitation renews it; whoever exits leaves the other way.
#[test]
fn who_leaves_renews_nothing() {
    let (mut world, old) = active(11, |_| {});
    ask(&mut world);
    world.open_ordinary(1, 200_000, 0).unwrap();
    leave(&mut world, old, 0).unwrap();
    let new = world.begin(&Offer { lifetime_blocks: 600, ..offer() }).unwrap();
    world.settle().unwrap();
    assert!(!factory(&world, 1, new).accepted);
    world.command(1, Command::Exit { instance: old }).unwrap();
    mine(&mut world, DEPTH + 4);
    assert_eq!((stage(&world, old), handed_over(&world, old)), (None, [false; 2]));
}

/// S37: an ordinary channel moves into a factory once that can't be undone, and is closed then.
#[test]
fn an_ordinary_channel_moves_in() {
    let scenario = Scenario::new(12).clients(1).short_delays().stock(0).lifetime(LIFETIME, DYING);
    let scenario = scenario.config(|config| {
        config.push_msat = PUSH_MSAT;
        config.policy = Policy::Ask;
    });
    let (mut world, instance) = scenario.begun().unwrap();
    world.settle().unwrap();
    let ordinary = world.open_ordinary(1, 90_000, 50_000_000).unwrap();
    world.show_balances(1, LSP).unwrap();
    let Command::Accept { terms, .. } = world.acceptance(1, instance).unwrap() else { panic!() };
    let accept = |from| Command::Accept { instance, terms, from: Some(from) };
    let wrong = world.command(1, accept(ChannelId([7; 32]))).unwrap_err().to_string();
    assert!(wrong.contains("no confirmed ordinary channel"), "{wrong}");
    world.command(1, accept(ordinary)).unwrap();
    world.activate(instance).unwrap();
    let funded = factory(&world, 1, instance).funding_height().unwrap();
    let to = channel(&world, instance);
    while world.chain.height() + 1 < funded + DEPTH - 1 {
        mine(&mut world, 1);
        assert_eq!(to_us(&world, to), PUSH_MSAT, "it can be undone");
    }
    mine(&mut world, 3);
    assert_eq!(to_us(&world, to), PUSH_MSAT + 50_000_000 - RESERVE_MSAT);
    assert_eq!(to_us(&world, ordinary), RESERVE_MSAT);
    assert!(world.members[1].lightningd.channels[&ordinary].mutual, "both close it");
    in_order(&world);
}

/// S32, S37: a client that was evicted takes the operator's next invitation as a renewal: its channel on chain moves
/// in, and is closed.
#[test]
fn an_evicted_client_comes_back() {
    for worse in [false, true] {
        let (mut world, old) = active(13, |_| {});
        ask(&mut world);
        world.command(LSP, Command::Evict { instance: old, clients: vec![] }).unwrap();
        for _ in 0..20 {
            mine(&mut world, 1);
        }
        assert_eq!(world.state(1, old), Some(State::Exited));
        let from = channel(&world, old);
        assert!(world.members[1].lightningd.channels[&from].ended(&world.chain).is_none(), "it goes on");
        if worse {
            world.tamper(|out| match &out.message {
                Message::Invite(invite) => Fate::changed(invite, |invite| {
                    invite.terms.capacities[0] -= Amount::from_sat(1);
                }),
                _ => Fate::Deliver,
            });
        }
        let new = world.begin(&Offer { lifetime_blocks: 600, ..offer() }).unwrap();
        world.settle().unwrap();
        let engine = world.engine(1).unwrap();
        assert_eq!(engine.factory(new).unwrap().accepted, !worse);
        if worse {
            continue;
        }
        world.activate(new).unwrap();
        let to = channel(&world, new);
        let had = to_us(&world, from);
        let funded = factory(&world, 1, new).funding_height().unwrap();
        let blocks = funded + DEPTH + 2 - world.chain.height();
        mine(&mut world, blocks);
        assert_eq!((to_us(&world, from), to_us(&world, to)), (RESERVE_MSAT, PUSH_MSAT + had - RESERVE_MSAT));
        assert!(world.members[1].lightningd.channels[&from].mutual, "both close it");
        assert_eq!(handed_over(&world, old), [false; 2], "nothing of it is left to hand over");
        in_order(&world);
    }
}

/// S37, S10: two factories that could both take an evicted client's channel, and are deep in the same block: it moves
/// once, into one of them.
#[test]
fn an_evicted_client_moves_into_one_of_two_factories() {
    let (mut world, old) = active(14, |_| {});
    world.command(LSP, Command::Evict { instance: old, clients: vec![] }).unwrap();
    mine(&mut world, 20);
    world.members[1].config.policy = Policy::Auto;
    world.members[1].config.renew = Policy::Auto;
    world.restart(1).unwrap();
    world.reconnect().unwrap();
    let from = channel(&world, old);
    let had = to_us(&world, from);
    let both = [600, 610].map(|lifetime_blocks| {
        let new = world.begin(&Offer { lifetime_blocks, ..offer() }).unwrap();
        world.settle().unwrap();
        new
    });
    let purse = world.purse_msat(1);
    for _ in 0..DEPTH + 6 {
        world.mine(1).unwrap();
        world.settle().unwrap();
    }
    for new in both {
        assert_eq!(world.state(1, new), Some(State::Active));
    }
    assert!(world.purse_msat(1) >= purse);
    assert_eq!(to_us(&world, from), RESERVE_MSAT);
    let got = both.map(|new| to_us(&world, channel(&world, new)));
    assert_eq!(got.iter().sum::<u64>(), 2 * PUSH_MSAT + had - RESERVE_MSAT, "{got:?}");
    world.restart(1).unwrap();
    in_order(&world);
}
