//! Moves: a client's balance goes from one of its channels with the operator to another (S37).

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;

use common::factory;
use factory_engine::types::{ChannelId, InstanceId};
use factory_engine::wire::message::{Message, MoveReady, MoveRefused};
use factory_engine::wire::words::Words;
use factory_engine::{CannotClose, CannotMove, Command, Input, MoveLimit, MovePlan, Refusal};
use factory_lab::offer::Offer;
use factory_lab::scenario::Scenario;
use factory_lab::world::{CrashAt, Fate, Fed, LSP, OPENER_MSAT, Outgoing, RESERVE_MSAT, World, losing};

/// What client 1 has in its first channel.
const PAID_MSAT: u64 = 40_000_000;
/// Blocks without an HTLC that arrives, after which a move ends.
const PATIENCE: u32 = 12;

/// Confirmations that a channel's funding needs before anything moves there (`handover_depth`).
const DEPTH: u32 = 6;

/// Two factories of one operator with the same two clients; client 1 has money in the first.
struct Two {
    world: World,
    old: ChannelId,
    new: ChannelId,
}

fn channel(world: &World, at: usize, instance: InstanceId) -> ChannelId {
    factory(world, at, instance).current.channels[&0]
}

/// The factory that a channel is in.
fn factory_of(world: &World, channel: ChannelId) -> InstanceId {
    let mut all = world.engine(LSP).unwrap().factories();
    let of = all.find(|factory| factory.current.channels.values().any(|id| *id == channel));
    of.unwrap().instance
}

fn two(seed: u64) -> Two {
    two_with(seed, PAID_MSAT)
}

fn two_with(seed: u64, paid_msat: u64) -> Two {
    let (mut world, first) = Scenario::new(seed).short_delays().active().unwrap();
    world.pay(LSP, 1, paid_msat).unwrap();
    let second = world.make_factory(&Offer::default()).unwrap();
    world.mine(DEPTH).unwrap();
    let (old, new) = (channel(&world, 1, first), channel(&world, 1, second));
    Two { world, old, new }
}

fn balance(world: &World, at: usize, id: ChannelId) -> u64 {
    let peer = world.members[if at == LSP { 1 } else { LSP }].id;
    world.balances(at, peer).iter().find(|channel| channel.channel_id == id).unwrap().to_us_msat
}

/// `factory-move`: the plugin looks at the channels first.
fn ask(world: &mut World, from: ChannelId, to: ChannelId, amount_msat: Option<u64>) -> Result<(), Refusal> {
    world.show_balances(1, LSP).unwrap();
    match world.feed(1, Input::Command(Command::Move { from, to, amount_msat })).unwrap() {
        Fed::Done(answer) => answer.map(drop),
        other => panic!("{other:?}"),
    }
}

fn plan(
    world: &mut World,
    from: ChannelId,
    to: ChannelId,
    amount: Option<u64>,
) -> Result<MovePlan, CannotMove> {
    world.show_balances(1, LSP).unwrap();
    let height = world.chain.height();
    world.engine(1).unwrap().plan_move(from, to, amount, height)
}

/// Until nothing is left to do. At each step the client has what it had, by commitments that both have signed.
fn run(world: &mut World) {
    let purse = world.purse_msat(1);
    loop {
        assert_eq!(world.purse_msat(1), purse, "S37");
        if !world.step().unwrap() && !world.advance().unwrap() {
            return;
        }
    }
}

/// Why the last move from this channel fell short; nothing if it didn't. `None` while it is under way.
fn outcome(world: &World, from: ChannelId) -> Option<(u64, u32, Option<String>)> {
    let engine = world.engine(1).unwrap();
    if engine.factories().any(|factory| factory.moves.of(from).is_some()) {
        return None;
    }
    let last = engine.factories().find_map(|factory| factory.moves.last(from));
    last.map(|(over, reason)| (over.moved_msat, over.parts, reason.map(str::to_owned)))
}

fn movable() -> u64 {
    PAID_MSAT + 1_000 - RESERVE_MSAT
}

/// S37: all that can go goes, in one HTLC, and the reserve stays; so it does from and to an ordinary channel.
#[test]
fn everything_moves_between_all_kinds_of_channels() {
    let Two { mut world, old, new } = two(1);
    let ordinary = world.open_ordinary(1, 200_000, 2_000_000).unwrap();
    world.mine(DEPTH).unwrap();
    let before = balance(&world, 1, new);
    let seen = plan(&mut world, old, new, None).unwrap();
    assert_eq!((seen.parts.as_slice(), seen.stays_msat), ([movable()].as_slice(), RESERVE_MSAT));
    assert_eq!(seen.limit, MoveLimit::Spendable);
    ask(&mut world, old, new, None).unwrap();
    run(&mut world);
    assert_eq!(outcome(&world, old), Some((movable(), 1, None)));
    assert_eq!((balance(&world, 1, old), balance(&world, 1, new)), (RESERVE_MSAT, before + movable()));

    // Off a factory, and on to one.
    ask(&mut world, new, ordinary, Some(30_000_000)).unwrap();
    run(&mut world);
    assert_eq!(outcome(&world, new), Some((30_000_000, 1, None)));
    assert_eq!(balance(&world, 1, ordinary), 32_000_000);
    ask(&mut world, ordinary, old, None).unwrap();
    run(&mut world);
    assert_eq!(outcome(&world, ordinary), Some((32_000_000 - RESERVE_MSAT, 1, None)));
    assert_eq!(balance(&world, 1, ordinary), RESERVE_MSAT);
}

/// S37: nothing moves to a channel whose funding could still leave the chain, a factory's or an ordinary one; nor what
/// is left, once a reorganisation has made it young again.
#[test]
fn nothing_moves_to_what_could_be_undone() {
    let (mut world, first) = Scenario::new(15).short_delays().active().unwrap();
    world.pay(LSP, 1, PAID_MSAT).unwrap();
    let second = world.make_factory(&Offer::default()).unwrap();
    let ordinary = world.open_ordinary(1, 200_000, 2_000_000).unwrap();
    let (old, new) = (channel(&world, 1, first), channel(&world, 1, second));
    let funded = factory(&world, 1, second).funding_height().unwrap();
    let lsp = world.members[LSP].id;
    let known = world.balances(1, lsp).into_iter().find(|known| known.channel_id == ordinary).unwrap();
    for (to, at) in [(new, funded), (ordinary, known.confirmed.unwrap())] {
        let until = at + DEPTH - 1;
        while world.chain.height() < until {
            let young = CannotMove::TooYoung { channel_id: to, until };
            assert_eq!(plan(&mut world, old, to, None).unwrap_err(), young);
            assert_eq!(ask(&mut world, old, to, None).unwrap_err(), young.into());
            world.mine(1).unwrap();
        }
        plan(&mut world, old, to, None).unwrap();
    }
    assert!(factories_have_no_move(&world, old));
}

/// S37: HTLCs are no larger than both channels take them, one after the other.
#[test]
fn limits_need_several_htlcs() {
    let Two { mut world, old, new } = two(2);
    world.members[LSP].lightningd.htlc_maximum_msat = 15_000_000;
    let seen = plan(&mut world, old, new, None).unwrap();
    assert_eq!(seen.parts, [15_000_000, 15_000_000, movable() - 30_000_000]);
    assert_eq!(seen.limit, MoveLimit::HtlcMaximum);
    ask(&mut world, old, new, None).unwrap();
    run(&mut world);
    assert_eq!(outcome(&world, old), Some((movable(), 3, None)));
    ask(&mut world, new, old, Some(20_000_000)).unwrap();
    run(&mut world);
    assert_eq!(outcome(&world, new), Some((20_000_000, 2, None)));
}

/// An operator that can't pay for a larger commitment transaction in the old channel first takes what is no output.
#[test]
fn an_operator_with_too_little_in_the_old_channel() {
    // All that it has but what one HTLC costs the opener.
    let capacity = Offer::default().capacity.to_sat() * 1_000;
    let Two { mut world, old, new } = two_with(3, capacity - 1_000 - RESERVE_MSAT - OPENER_MSAT);
    let seen = plan(&mut world, old, new, None).unwrap();
    assert_eq!((seen.parts.len(), seen.limit), (2, MoveLimit::CommitmentFee));
    assert!(seen.parts[0] < 546_000);
    ask(&mut world, old, new, None).unwrap();
    run(&mut world);
    assert_eq!(outcome(&world, old).unwrap().2, None);
    assert_eq!(balance(&world, 1, old), RESERVE_MSAT);
}

/// S37: whoever stops, at whichever step, the move goes on afterwards, and what arrives arrives once.
#[test]
fn a_stop_at_any_step_is_resumed() {
    for who in [1, LSP] {
        for steps in 0..100 {
            let Two { mut world, old, new } = two(4);
            world.members[LSP].lightningd.htlc_maximum_msat = 25_000_000;
            let (purse, before) = (world.purse_msat(1), balance(&world, 1, new));
            ask(&mut world, old, new, None).unwrap();
            let mut over = false;
            for _ in 0..steps {
                over = !world.step().unwrap();
                assert_eq!(world.purse_msat(1), purse, "S37");
            }
            world.stop(who);
            world.settle().unwrap();
            world.restart(who).unwrap();
            run(&mut world);
            // An HTLC may have failed for it.
            world.mine(1).unwrap();
            run(&mut world);
            let (moved, parts, reason) = outcome(&world, old).unwrap();
            assert_eq!((moved, reason), (movable(), None), "member {who} after {steps} steps");
            assert_eq!((parts, balance(&world, 1, new)), (2, before + movable()));
            if over {
                break;
            }
            assert!(steps < 99, "it never ends");
        }
    }
}

/// S37: so it does with a crash at each record: before it is stored, after, and between what follows from it.
#[test]
fn a_crash_at_any_record_is_resumed() {
    let kinds: [fn(u32) -> CrashAt; 3] =
        [CrashAt::BeforeStore, CrashAt::AfterStore, |record| CrashAt::AfterEffects(record, 0)];
    for kind in kinds {
        for record in 1..=5 {
            let Two { mut world, old, new } = two(5);
            world.show_balances(1, LSP).unwrap();
            world.crash_at(1, kind(record));
            let command = Command::Move { from: old, to: new, amount_msat: Some(30_000_000) };
            let fed = world.feed(1, Input::Command(command.clone())).unwrap();
            run(&mut world);
            if world.engine(1).is_ok() {
                // There are fewer records than that.
                assert!(record > 3, "{record}");
                continue;
            }
            world.restart(1).unwrap();
            run(&mut world);
            if fed == Fed::Crashed && factories_have_no_move(&world, old) {
                // It never was asked for.
                ask(&mut world, old, new, Some(30_000_000)).unwrap();
                run(&mut world);
            }
            world.mine(1).unwrap();
            run(&mut world);
            assert_eq!(outcome(&world, old), Some((30_000_000, 1, None)), "{record}");
        }
    }
}

fn factories_have_no_move(world: &World, from: ChannelId) -> bool {
    outcome(world, from).is_none()
        && world.engine(1).unwrap().factories().all(|factory| factory.moves.of(from).is_none())
}

/// S37: HTLCs that stand on both channels while either side stops: what is under way isn't sent again.
#[test]
fn htlcs_in_flight_survive_a_restart() {
    for who in [1, LSP] {
        let Two { mut world, old, new } = two(6);
        world.hold_moves = true;
        ask(&mut world, old, new, None).unwrap();
        run(&mut world);
        assert_eq!(outcome(&world, old), None);
        let refused = ask(&mut world, old, new, Some(1_000)).unwrap_err();
        assert_eq!(refused, CannotMove::UnderWay { from: old, to: new }.into());
        world.restart(who).unwrap();
        run(&mut world);
        world.mine(PATIENCE + 1).unwrap();
        run(&mut world);
        assert_eq!(outcome(&world, old), None, "lightningd has it");
        world.hold_moves = false;
        world.end_moves();
        run(&mut world);
        assert_eq!(outcome(&world, old).unwrap().0, movable());
        assert_eq!(balance(&world, 1, old), RESERVE_MSAT);
    }
}

/// The operator says no, or nothing at all: nothing moves, and the move ends and says why.
#[test]
fn an_operator_that_refuses_or_keeps_silent() {
    let Two { mut world, old, new } = two(7);
    world.tamper(move |out: &Outgoing| match &out.message {
        Message::MoveReady(MoveReady { instance, attempt, from, to, .. }) => Fate::replace(MoveRefused {
            instance: *instance,
            attempt: *attempt,
            from: *from,
            to: *to,
            reason: Words::new("not today"),
        }),
        _ => Fate::Deliver,
    });
    ask(&mut world, old, new, None).unwrap();
    run(&mut world);
    let (moved, _, reason) = outcome(&world, old).unwrap();
    assert_eq!(moved, 0);
    assert!(reason.unwrap().ends_with("the operator refuses: not today"));

    world.tamper(losing("move_ready", LSP));
    ask(&mut world, old, new, None).unwrap();
    run(&mut world);
    assert_eq!(outcome(&world, old), None);
    let why = world.engine(1).unwrap().move_waits_for(old).unwrap().to_owned();
    assert_eq!(why, "the operator doesn't answer");
    for _ in 0..PATIENCE {
        world.mine(1).unwrap();
        run(&mut world);
    }
    let (moved, _, reason) = outcome(&world, old).unwrap();
    assert!(moved == 0 && reason.clone().unwrap().contains("12 blocks"), "{reason:?}");
    world.heal();
    ask(&mut world, old, new, None).unwrap();
    run(&mut world);
    assert_eq!(outcome(&world, old).unwrap().0, movable());
}

/// An operator whose node can't set fees, or that says it has and has not.
#[test]
fn an_operator_that_sets_no_fees() {
    let Two { mut world, old, new } = two(8);
    world.members[LSP].lightningd.fees_fail = true;
    ask(&mut world, old, new, None).unwrap();
    run(&mut world);
    let (moved, _, reason) = outcome(&world, old).unwrap();
    assert!(moved == 0 && reason.unwrap().contains("can't set the fees"));
    world.members[LSP].lightningd.fees_fail = false;
    world.members[LSP].lightningd.fees_ignored = true;
    ask(&mut world, old, new, None).unwrap();
    for _ in 0..PATIENCE {
        run(&mut world);
        world.mine(1).unwrap();
    }
    let (moved, _, reason) = outcome(&world, old).unwrap();
    assert!(moved == 0 && reason.clone().unwrap().contains("fee_insufficient"), "{reason:?}");
}

/// S37: an operator that forwards over the channel which a move leaves moves nothing: that has an end, and says so.
#[test]
fn what_comes_back_over_the_channel_that_it_left_ends() {
    let Two { mut world, new, .. } = two(13);
    let ordinary = world.open_ordinary(1, 1_000_000, 2_000_000).unwrap();
    // Of two channels that cost the same lightningd takes the one with more to spend.
    world.members[LSP].lightningd.free.insert(ordinary);
    world.members[LSP].lightningd.fees_stay = true;
    ask(&mut world, ordinary, new, None).unwrap();
    for _ in 0..PATIENCE {
        for step in 0.. {
            assert!(step < 200, "it never ends");
            if !world.step().unwrap() && !world.advance().unwrap() {
                break;
            }
        }
        world.mine(1).unwrap();
    }
    let (_, parts, reason) = outcome(&world, ordinary).unwrap();
    assert!(parts <= 3, "{parts}");
    assert!(reason.clone().unwrap().contains("holds no less than before"), "{reason:?}");
    assert_eq!(balance(&world, 1, ordinary), 2_000_000);

    // An amount that the first one carries isn't said to have moved, either.
    ask(&mut world, ordinary, new, Some(1_000_000)).unwrap();
    run(&mut world);
    let (_, parts, reason) = outcome(&world, ordinary).unwrap();
    assert!(parts == 1 && reason.clone().unwrap().contains("holds no less than before"), "{reason:?}");
    assert_eq!(balance(&world, 1, ordinary), 2_000_000);
}

/// A move over a channel that was free for another one: at equal fees lightningd would choose the wrong channel.
#[test]
fn one_channel_at_a_time_is_free() {
    let Two { mut world, old, new } = two(9);
    ask(&mut world, old, new, Some(10_000_000)).unwrap();
    run(&mut world);
    assert!(world.members[LSP].lightningd.free.contains(&new));
    ask(&mut world, new, old, Some(5_000_000)).unwrap();
    run(&mut world);
    let free: Vec<ChannelId> = world.members[LSP].lightningd.free.iter().copied().collect();
    assert_eq!(free, [old]);
    assert_eq!(outcome(&world, new), Some((5_000_000, 1, None)));
    assert_eq!(balance(&world, 1, old), PAID_MSAT + 1_000 - 5_000_000);
    // After a while it costs something again.
    world.mine(PATIENCE).unwrap();
    world.settle().unwrap();
    assert!(world.members[LSP].lightningd.free.is_empty());
}

/// A close waits for a move that may be under way, and not for what is free for the next one.
#[test]
fn a_close_waits_for_no_move_that_is_over() {
    let Two { mut world, old, new } = two(14);
    let instance = factory_of(&world, old);
    ask(&mut world, old, new, Some(10_000_000)).unwrap();
    run(&mut world);
    let close = Input::Command(Command::Close { instance });
    let Fed::Done(refused) = world.feed(LSP, close.clone()).unwrap() else { panic!() };
    assert!(matches!(refused, Err(Refusal::Close(CannotClose::Move(_)))), "{refused:?}");
    world.mine(2).unwrap();
    run(&mut world);
    assert!(world.members[LSP].lightningd.free.contains(&new));
    let Fed::Done(closed) = world.feed(LSP, close).unwrap() else { panic!() };
    closed.unwrap();
    run(&mut world);
    assert!(factory(&world, 1, instance).finished_close().is_some());
}

/// An operator that was restarted finds what it forwards for nothing, and ends it.
#[test]
fn a_restart_of_the_operator_leaves_nothing_free() {
    let Two { mut world, old, new } = two(10);
    ask(&mut world, old, new, Some(10_000_000)).unwrap();
    run(&mut world);
    world.restart(LSP).unwrap();
    world.settle().unwrap();
    world.show_balances(LSP, 1).unwrap();
    world.mine(PATIENCE).unwrap();
    world.settle().unwrap();
    assert!(world.members[LSP].lightningd.free.is_empty());

    // A move over another channel doesn't wait for that.
    ask(&mut world, old, new, Some(10_000_000)).unwrap();
    run(&mut world);
    world.restart(LSP).unwrap();
    world.settle().unwrap();
    assert!(world.members[LSP].lightningd.free.contains(&new));
    ask(&mut world, new, old, Some(1_000_000)).unwrap();
    run(&mut world);
    let free: Vec<ChannelId> = world.members[LSP].lightningd.free.iter().copied().collect();
    assert_eq!(free, [old]);
}

/// What can't be is refused before anything is stored, and says why.
#[test]
fn what_cannot_move_is_refused() {
    let Two { mut world, old, new } = two(11);
    let unknown = ChannelId([9; 32]);
    let refused = |world: &mut World, from, to, amount| plan(world, from, to, amount).unwrap_err();
    assert_eq!(refused(&mut world, old, old, None), CannotMove::SameChannel(old));
    assert_eq!(refused(&mut world, old, unknown, None), CannotMove::NoSuchChannel(unknown));
    let most_msat = movable();
    assert_eq!(
        refused(&mut world, old, new, Some(PAID_MSAT)),
        CannotMove::TooMuch { asked_msat: PAID_MSAT, most_msat, limit: MoveLimit::Spendable }
    );
    assert!(matches!(refused(&mut world, old, new, Some(0)), CannotMove::TooLittle { .. }));
    assert!(matches!(refused(&mut world, new, old, None), CannotMove::Nothing { .. }));
    world.disconnect(LSP, 1);
    world.settle().unwrap();
    let lsp = world.members[LSP].id;
    assert_eq!(ask(&mut world, old, new, None).unwrap_err(), Refusal::OperatorAway(lsp));
    assert!(factories_have_no_move(&world, old));
}

/// S15: the last block at which a move may begin is one at which both sides admit its HTLCs; after it none begins.
#[test]
fn deadlines_hold_on_both_channels() {
    let (mut world, first) = Scenario::new(12).short_delays().lifetime(500, 100).active().unwrap();
    world.pay(LSP, 1, PAID_MSAT).unwrap();
    let second = world.make_factory(&Offer::default()).unwrap();
    world.mine(DEPTH).unwrap();
    let (old, new) = (channel(&world, 1, first), channel(&world, 1, second));
    let blocks = plan(&mut world, old, new, None).unwrap().blocks;
    let safe_end = factory(&world, 1, first).safe_end();
    world.mine_to(safe_end - blocks.first - blocks.early - 1).unwrap();
    ask(&mut world, old, new, Some(1_000_000)).unwrap();
    run(&mut world);
    assert_eq!(outcome(&world, old), Some((1_000_000, 1, None)));
    world.mine(1).unwrap();
    let late = plan(&mut world, old, new, None).unwrap_err();
    assert!(matches!(late, CannotMove::TooLate { channel_id, .. } if channel_id == old), "{late}");
}
