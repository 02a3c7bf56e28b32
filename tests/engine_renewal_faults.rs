//! Renewals in which something goes wrong: what a client has in its old channel and its new one stays its own (S37),
//! and its key is the operator's for nothing less than a new channel (S22).

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

use bitcoin::Transaction;
use common::{came_from_a_backup, factory};
use factory_engine::tx::layout::SpendRole;
use factory_engine::types::{Amount, Height, InstanceId};
use factory_engine::wire::message::{Handover, HandoverRefused, Message};
use factory_engine::wire::words::Words;
use factory_engine::{BURIED, CannotMove, Command, Input, Policy, Refusal, Renewal, Stage, State, Unusable};
use factory_lab::offer::Offer;
use factory_lab::scenario::Scenario;
use factory_lab::world::{Fate, Fed, LSP, Sent, World};

/// What the operator gives in each channel: what has to stay in the one before.
const PUSH: u64 = 546_000;
const RESERVE: u64 = 546_000;
/// What client 1 was paid in its first channel.
const MONEY: u64 = 5_000_000;
/// What it can move out of that, and has in its new channel then.
const MOVED: u64 = PUSH + MONEY - RESERVE;
/// Confirmations that a handover waits for.
const DEPTH: u32 = 6;

/// Blocks from a factory's creation to its timeout, and how many of them are its dying period.
type Life = (u32, u32);
const SHORT: Life = (170, 110);
/// Its dying period is longer than a conflict takes to be buried.
const LONG: Life = (400, 200);

fn offer((lifetime_blocks, dying_blocks): Life) -> Offer {
    Offer { lifetime_blocks, dying_blocks, stock: Amount::ZERO, ..Offer::default() }
}

/// Clients that renew by themselves, and their first factory.
fn active(seed: u64, clients: usize, (lifetime, dying): Life) -> (World, InstanceId) {
    let scenario = Scenario::new(seed).clients(clients).short_delays().stock(0).lifetime(lifetime, dying);
    let scenario = scenario.config(|config| {
        config.push_msat = PUSH;
        config.renew = Policy::Auto;
        config.handover_depth = 6;
        config.reclaim_blocks = 10;
    });
    scenario.active().unwrap()
}

/// One client whose first factory is due, with money in it, and the next one, which is usable and no more.
fn next(seed: u64, life: Life) -> (World, InstanceId, InstanceId) {
    let (mut world, old) = active(seed, 1, life);
    let due = timeout(&world, old) - life.1;
    mine_to(&mut world, due);
    world.pay(LSP, 1, MONEY).unwrap();
    let new = world.make_factory(&offer(life)).unwrap();
    assert!(depth(&world, new) < DEPTH);
    (world, old, new)
}

fn timeout(world: &World, instance: InstanceId) -> Height {
    factory(world, 1, instance).current.terms.timeout_height
}

/// Confirmations of a factory's funding.
fn depth(world: &World, instance: InstanceId) -> u32 {
    world.chain.height() + 1 - factory(world, 1, instance).funding_height().unwrap()
}

fn in_order(world: &World) {
    assert!(world.judge.violations.is_empty(), "{:?}", world.judge.violations);
}

/// Blocks, and what must hold after each.
fn mine(world: &mut World, blocks: u32) {
    for _ in 0..blocks {
        world.mine(1).unwrap();
        world.judge_chain();
        in_order(world);
    }
}

fn mine_to(world: &mut World, height: Height) {
    let blocks = height.saturating_sub(world.chain.height());
    mine(world, blocks);
}

/// Until a new factory is as deep as a handover needs.
fn deepen(world: &mut World, new: InstanceId) {
    let missing = DEPTH - depth(world, new);
    mine(world, missing);
}

/// What a client has in its channel of a factory, msat.
fn holds(world: &World, at: usize, instance: InstanceId) -> u64 {
    let id = world.channel_in(at, instance).unwrap();
    world.members[at].lightningd.channels[&id].balances.fundee_msat
}

fn wallet(world: &World, at: usize) -> u64 {
    world.members[at].lightningd.balance(&world.chain).to_sat()
}

/// What a client's wallet gets for its channel of a factory, sat: by its path, with what it has stored.
fn taken(world: &mut World, at: usize, instance: InstanceId) -> u64 {
    let before = wallet(world, at);
    world.exit(at, instance).unwrap();
    wallet(world, at) - before
}

/// Whether a client has handed a factory's key over: as it, and as the operator knows.
fn handed_over(world: &World, at: usize, instance: InstanceId) -> [bool; 2] {
    let client = u32::try_from(at - 1).unwrap();
    [at, LSP].map(|member| factory(world, member, instance).has_handed_over(client))
}

/// Client 1's key is its own, and the operator has nothing to take back with it.
fn keeps_its_key(world: &World, old: InstanceId) {
    assert_eq!(handed_over(world, 1, old), [false; 2]);
    let engine = world.engine(LSP).unwrap();
    let known = engine.factory(old).unwrap();
    assert!(engine.handed_over_key(known, 0).is_none());
    assert!(known.reclaimable().is_empty(), "{:?}", known.reclaimable());
}

fn renewal(world: &World, old: InstanceId) -> Renewal {
    let engine = world.engine(1).unwrap();
    engine.renewal(engine.factory(old).unwrap(), world.chain.height()).unwrap()
}

/// A person pays itself all that can go from client 1's old channel to its new one, before that would go by itself and
/// although `factory-move` refuses it.
fn move_all(world: &mut World, old: InstanceId, new: InstanceId) {
    let [from, to] = [old, new].map(|instance| world.channel_in(1, instance).unwrap());
    world.show_balances(1, LSP).unwrap();
    let young = world.feed(1, Input::Command(Command::Move { from, to, amount_msat: None })).unwrap();
    let Fed::Done(Err(Refusal::Move(CannotMove::TooYoung { .. }))) = young else { panic!("{young:?}") };
    world.shift_between(1, from, to, MOVED).unwrap();
    assert_eq!([holds(world, 1, old), holds(world, 1, new)], [RESERVE, PUSH + MOVED]);
}

/// S22, S25, S37: the new funding leaves the chain after a person has moved everything, and confirms again. As long
/// as it isn't there nothing is handed over, however many blocks come; it has to be deep once more, and then the
/// renewal goes all the way, whoever was restarted.
#[test]
fn a_reorganised_funding_after_a_move() {
    for restarted in [false, true] {
        let (mut world, old, new) = next(1, LONG);
        let purse = world.purse_msat(1);
        move_all(&mut world, old, new);
        let funding = factory(&world, 1, new).funding().unwrap().txid;
        let is_it = move |tx: &Transaction| tx.compute_txid() == funding;
        let gone = depth(&world, new);
        world.chain.reorg(gone);
        for _ in 0..=gone {
            world.chain.mine_without(is_it);
        }
        world.sync_all().unwrap();
        assert!(world.chain.knows(funding) && world.chain.confirmed(funding).is_none());
        let waits = Stage::Creation { next: new, state: State::Funding };
        assert_eq!(renewal(&world, old).stage, waits);
        if restarted {
            for at in [LSP, 1] {
                world.restart(at).unwrap();
            }
            world.reconnect().unwrap();
            world.settle().unwrap();
        }
        for _ in 0..DEPTH + 2 {
            world.chain.mine_without(is_it);
            world.sync_all().unwrap();
            keeps_its_key(&world, old);
            let usable = factory(&world, 1, new).channel_usable(0, world.chain.height());
            assert!(matches!(usable, Err(Unusable::NotDeep { .. })), "S18: {usable:?}");
        }
        assert_eq!(renewal(&world, old).stage, waits);
        mine(&mut world, 1);
        assert_eq!(depth(&world, new), 1);
        while depth(&world, new) < DEPTH {
            keeps_its_key(&world, old);
            mine(&mut world, 1);
        }
        assert_eq!(handed_over(&world, 1, old), [true; 2]);
        assert_eq!(renewal(&world, old).stage, Stage::Done);
        assert_eq!(world.purse_msat(1), purse);
        // It is there, whatever becomes of the operator.
        world.stop(LSP);
        assert_eq!(taken(&mut world, 1, new), (PUSH + MOVED) / 1_000);
        in_order(&world);
    }
}

/// S22, S25, S37: the operator spends an input of the new funding otherwise. No key is ever handed over, the old
/// factory stays the client's to leave, and nothing of it is ever taken back. By itself it had moved nothing before the
/// funding was as deep as a handover needs, so that all its money is there. A person who paid itself there earlier trusted
/// `funding_confirmations`, as whoever is paid over the new channel does (docs/harm.md), and has the reserve there.
#[test]
fn a_double_spent_funding_after_a_move() {
    for moved in [false, true] {
        let (mut world, old, new) = next(2, LONG);
        let root = factory(&world, LSP, old).funding().unwrap();
        if moved {
            move_all(&mut world, old, new);
        }
        let inputs = factory(&world, 1, new).signed_for().last().unwrap().1.clone();
        let gone = depth(&world, new);
        world.chain.reorg_and_drop(gone);
        world.spend(LSP, inputs[0]).unwrap();
        world.mine_quietly(gone + 1);
        world.sync_all().unwrap();
        assert!(world.chain.spender(inputs[0]).is_some());
        for _ in 0..=BURIED {
            keeps_its_key(&world, old);
            mine(&mut world, 1);
        }
        assert_eq!(world.state(1, new), Some(State::Aborted));
        assert!(world.failure(1, new).unwrap().contains("spent otherwise"));
        assert!(matches!(world.state(LSP, new), None | Some(State::Aborted)));
        // Another one may follow yet.
        assert_eq!(renewal(&world, old).stage, Stage::Invitation);
        keeps_its_key(&world, old);
        let has = if moved { RESERVE } else { PUSH + MONEY };
        assert_eq!(taken(&mut world, 1, old), has / 1_000);
        let end = timeout(&world, old);
        mine_to(&mut world, end + 5);
        let (_, tx) = world.chain.spender(root).unwrap();
        let own = factory(&world, LSP, old).session_of(root, tx.compute_txid()).unwrap();
        assert_eq!(own.role, SpendRole::State, "it was left by its path");
        assert!(world.sent.iter().all(|sent| !sent.what.starts_with("reclaim")), "{:?}", world.sent);
        keeps_its_key(&world, old);
    }
}

/// S22: an operator never acknowledges the key: it says nothing, or that it doesn't take it, or never got it. The
/// money is in the new channel, the client signs and publishes nothing more in the old factory, also if it is asked to,
/// and it is said that nothing but the acknowledgement is missing, to the end.
#[test]
fn an_operator_that_never_acknowledges_a_key() {
    for how in ["silent", "refuses", "deaf"] {
        let (mut world, old, new) = next(3, SHORT);
        let said = Rc::new(RefCell::new(vec![]));
        let note = said.clone();
        world.tamper(move |out| {
            if out.from == 1 && out.message.instance() == old {
                note.borrow_mut().push(out.message.name());
            }
            match (&out.message, how) {
                (Message::HandoverStored(_), "silent") | (Message::Handover(_), "deaf") => Fate::Drop,
                (Message::HandoverStored(m), "refuses") => {
                    let (instance, attempt) = (m.instance, m.attempt);
                    Fate::replace(HandoverRefused { instance, attempt, reason: Words::new("not today") })
                }
                _ => Fate::Deliver,
            }
        });
        deepen(&mut world, new);
        assert_eq!(handed_over(&world, 1, old), [true, how != "deaf"]);
        assert_eq!([holds(&world, 1, old), holds(&world, 1, new)], [RESERVE, PUSH + MOVED]);
        let ledger = world.engine(1).unwrap().ledger().clone();
        said.borrow_mut().clear();
        mine(&mut world, 3);
        if how == "deaf" {
            // It asks the client to close with it what it has left.
            world.command(LSP, Command::Close { instance: old }).unwrap();
            world.settle().unwrap();
            assert!(said.borrow().contains(&"close_abort"), "{:?}", said.borrow());
            assert!(factory(&world, LSP, old).finished_close().is_none());
        }
        world.restart(1).unwrap();
        world.settle().unwrap();
        let end = timeout(&world, old);
        while world.chain.height() < end + 5 {
            mine(&mut world, 1);
            let waits = renewal(&world, old);
            assert_eq!(waits.stage, Stage::Acknowledgement, "{how}");
            let said_no = "does not take its key: not today";
            let refused = waits.failed.is_some_and(|last| last.what.contains(said_no));
            assert_eq!(refused, how == "refuses", "{how}");
        }
        let allowed = ["handover", "close_abort"];
        assert!(said.borrow().iter().all(|name| allowed.contains(name)), "{how}: {:?}", said.borrow());
        assert_eq!(world.engine(1).unwrap().ledger(), &ledger, "{how}: nothing more is signed");
        // L takes the channel on chain of whoever's key it never got: there it is lightningd's.
        let of_tree = |sent: &Sent| sent.at == 1 && sent.what != "commitment";
        assert!(!world.sent.iter().any(of_tree), "{how}: {:?}", world.sent);
        assert_eq!(handed_over(&world, 1, new), [false; 2]);
        world.stop(LSP);
        assert_eq!(taken(&mut world, 1, new), (PUSH + MOVED) / 1_000, "{how}");
        in_order(&world);
    }
}

/// S22: an operator sends the key back, or another one, or acknowledges another attempt or another factory. None of
/// it is the acknowledgement, the new factory's key is nobody else's, and the right answer is taken afterwards.
#[test]
fn an_acknowledgement_that_is_none() {
    for lie in 0..4 {
        let (mut world, old, new) = next(4, SHORT);
        let mut seen: Option<Handover> = None;
        world.tamper(move |out| match &out.message {
            Message::Handover(m) => {
                seen = Some(m.clone());
                Fate::Deliver
            }
            Message::HandoverStored(m) => {
                let mut other = m.clone();
                let mut theirs = seen.clone().unwrap();
                match lie {
                    0 => {}
                    1 => theirs.key.sealed[7] ^= 1,
                    2 => other.attempt += 1,
                    _ => (other.instance, theirs.instance) = (new, new),
                }
                let mut payloads = vec![Message::from(theirs).encode()];
                if lie > 1 {
                    payloads.push(Message::from(other).encode());
                }
                Fate::Replace(payloads)
            }
            _ => Fate::Deliver,
        });
        deepen(&mut world, new);
        mine(&mut world, 3);
        let client = factory(&world, 1, old);
        assert!(client.has_left() && !client.current.handover_stored, "lie {lie}");
        assert_eq!(renewal(&world, old).stage, Stage::Acknowledgement, "lie {lie}");
        assert_eq!(handed_over(&world, 1, new), [false; 2], "lie {lie}");
        assert_eq!(factory(&world, 1, new).channel_usable(0, world.chain.height()), Ok(()), "lie {lie}");
        let engine = world.engine(LSP).unwrap();
        assert!(engine.handed_over_key(engine.factory(new).unwrap(), 0).is_none(), "lie {lie}");
        let fault = format!("fault of {} in handover: ", world.members[LSP].id);
        assert!(world.members[1].log.iter().any(|(_, line)| line.contains(&fault)), "lie {lie}");
        world.heal();
        mine(&mut world, 1);
        assert!(factory(&world, 1, old).current.handover_stored, "lie {lie}");
        assert_eq!(renewal(&world, old).stage, Stage::Done, "lie {lie}");
        world.stop(LSP);
        assert_eq!(taken(&mut world, 1, new), (PUSH + MOVED) / 1_000, "lie {lie}");
        in_order(&world);
    }
}

/// S19, S22, S37: an operator is gone for good once everything has moved, and before a key was handed over. The
/// client keeps that, and has what stayed in the old factory by its path, or all of its capacity there by the
/// distribution; and what moved by the new one's path.
#[test]
fn an_operator_that_is_gone_between_move_and_handover() {
    for by_path in [true, false] {
        let (mut world, old, new) = next(5, SHORT);
        let end = timeout(&world, old);
        move_all(&mut world, old, new);
        world.stop(LSP);
        mine(&mut world, 2 * DEPTH);
        let waits = renewal(&world, old);
        assert!(matches!(waits.stage, Stage::HandOver { .. }) && !waits.connected, "{waits:?}");
        if by_path {
            assert_eq!(taken(&mut world, 1, old), RESERVE / 1_000);
        } else {
            mine_to(&mut world, end + 3);
            assert_eq!(world.state(1, old), Some(State::Distributed));
            let capacity = Offer::default().capacity.to_sat();
            assert!(wallet(&world, 1) >= capacity, "{}", wallet(&world, 1));
        }
        assert_eq!(taken(&mut world, 1, new), (PUSH + MOVED) / 1_000);
        assert!(!factory(&world, 1, old).has_left() && !factory(&world, 1, new).has_left());
        in_order(&world);
    }
}

const CLIENTS: usize = 7;
/// Which of them stays away, and its place in both factories.
const STRAGGLER: usize = 4;
const PLACE: u32 = 3;

/// All clients but one have left for the next factory; that one, with so much more in its old channel, went away while
/// the next one wasn't deep.
fn straggling(msat: u64) -> (World, InstanceId, InstanceId) {
    let (mut world, old) = active(6, CLIENTS, SHORT);
    world.check_recovery = false;
    let due = timeout(&world, old) - SHORT.1;
    mine_to(&mut world, due);
    if msat > 0 {
        world.pay(LSP, STRAGGLER, msat).unwrap();
    }
    let new = world.make_factory(&offer(SHORT)).unwrap();
    world.stop(STRAGGLER);
    deepen(&mut world, new);
    assert!(factory(&world, LSP, old).still_in().eq([PLACE]));
    (world, old, new)
}

fn come_back(world: &mut World) {
    world.start(STRAGGLER).unwrap();
    world.reconnect().unwrap();
}

/// S21, S22, S38: a straggler that returns before the operator begins to get it out, in the very block in which the
/// operator takes back what lies beside its path, or when that confirms; each time before the operator has seen the
/// block, or after it. Either it hands over, and its money is in its new channel, or its old one is on chain: it can
/// take what it has by itself, and loses nothing in any order.
#[test]
fn a_straggler_that_returns_in_the_last_block() {
    // Whoever stays away: when what happens.
    let (mut world, old, _) = straggling(0);
    let (evicted, end) = (factory(&world, LSP, old).eviction_height(PLACE), timeout(&world, old));
    mine_to(&mut world, end);
    let mut accepted = world.sent.iter().filter(|sent| sent.result.is_ok());
    let sent = accepted.find(|sent| sent.what.starts_with("reclaim")).unwrap();
    let (asked, confirmed) = (sent.height, world.chain.confirmed(sent.txid).unwrap().0);
    assert!(evicted < asked && asked < confirmed && confirmed < end, "{evicted} {asked} {confirmed} {end}");

    let mut outcomes = BTreeSet::new();
    for msat in [0, 20_000_000] {
        for back in [evicted - 1, asked - 1, asked, confirmed] {
            for late in [false, true] {
                let when = format!("back at {back} of {evicted} {asked} {confirmed}, late: {late}");
                let case = format!("{msat} msat, {when}");
                let (mut world, old, new) = straggling(msat);
                mine_to(&mut world, back - 1);
                if !late {
                    come_back(&mut world);
                }
                world.chain.mine();
                for at in 0..world.members.len() {
                    world.follow_chain(at).unwrap();
                }
                if late {
                    come_back(&mut world);
                }
                world.settle().unwrap();
                mine_to(&mut world, end + 2);

                let [left, known] = handed_over(&world, STRAGGLER, old);
                assert_eq!(left, known, "{case}");
                let id = world.channel_in(STRAGGLER, old).unwrap();
                let channel = world.members[STRAGGLER].lightningd.channels[&id].outpoint;
                let spent = world.chain.spender(channel).map(|(_, tx)| tx.compute_txid());
                if !left {
                    let leaf = world.chain.confirmed(channel.txid).map(|(height, _)| height);
                    assert!(leaf.is_some_and(|leaf| leaf < end), "{case}: its leaf is on chain at {leaf:?}");
                    // Who is there again moves what it can into its new channel, and lightningd closes the old one.
                    let closes =
                        |txid| world.sent.iter().any(|sent| sent.txid == txid && sent.what == "commitment");
                    assert!(spent.is_none_or(closes), "{case}: its channel is spent by {spent:?}");
                }
                let [in_old, in_new] = [old, new].map(|instance| holds(&world, STRAGGLER, instance));
                assert_eq!(in_old + in_new, 2 * PUSH + msat, "{case}");
                let (place, has) = if left || spent.is_some() { (new, in_new) } else { (old, in_old) };
                assert!(has >= PUSH + msat, "{case}: {has}");
                world.stop(LSP);
                assert_eq!(taken(&mut world, STRAGGLER, place), has / 1_000, "{case}");
                in_order(&world);
                outcomes.insert(left);
            }
        }
    }
    assert_eq!(outcomes.len(), 2, "nobody hands over, or everybody");
}

/// S9, S25: that a node came back from a backup is nothing that a reorganisation takes away, nor a restart after it:
/// such a client keeps its key, and such an operator takes none, in a renewal in which all else is as it has to be.
#[test]
fn a_reorganised_factory_is_exit_only_as_before() {
    for victim in [LSP, 1] {
        let (mut world, old) = active(7, 1, SHORT);
        came_from_a_backup(&mut world, victim, old);
        let gone = depth(&world, old);
        world.reorg(gone).unwrap();
        let stored = world.members[victim].store.records(old).iter();
        let events = stored.flat_map(|record| factory_engine::record::decode_record(record).unwrap());
        assert!(events.into_iter().any(|event| event.name() == "reorged"), "member {victim}");
        world.restart(victim).unwrap();
        world.settle().unwrap();
        assert_eq!(factory(&world, victim, old).restored(), Some("an older copy"), "member {victim}");

        let due = timeout(&world, old) - SHORT.1;
        world.mine_to(due).unwrap();
        let new = world.make_factory(&offer(SHORT)).unwrap();
        world.mine(DEPTH).unwrap();
        assert!(!factory(&world, victim, old).has_handed_over(0), "member {victim}");
        assert!(depth(&world, new) > DEPTH);
        if victim == LSP {
            let renewal = renewal(&world, old);
            assert_eq!(renewal.stage, Stage::Acknowledgement);
            assert!(renewal.failed.unwrap().what.contains("nothing is agreed"));
        } else {
            let engine = world.engine(1).unwrap();
            let known = engine.factory(old).unwrap();
            assert_eq!(engine.renewal(known, world.chain.height()), None, "nothing can follow on it");
        }
    }
}
