//! The operator's side of renewals: what it gives its clients so that they can leave a factory that ends.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;

use common::factory;
use factory_engine::ladder::decide::{Decision, Wait};
use factory_engine::types::{Amount, InstanceId};
use factory_engine::wire::message::Message;
use factory_engine::{
    Answer, Command, Config, Direction, Input, Ladder, LadderStanding, Policy, Stage, State, WakeReason,
};
use factory_lab::offer::Offer;
use factory_lab::scenario::Scenario;
use factory_lab::world::{Fate, LSP, World};

const RESERVE: u64 = 546_000;
const LIFETIME: u32 = 170;
const DYING: u32 = 110;

fn offer() -> Offer {
    Offer { lifetime_blocks: LIFETIME, dying_blocks: DYING, stock: Amount::ZERO, ..Offer::default() }
}

fn scenario(seed: u64, clients: usize) -> Scenario {
    let scenario = Scenario::new(seed).clients(clients).short_delays().stock(0).lifetime(LIFETIME, DYING);
    scenario.config(|config| {
        config.renew = Policy::Auto;
        config.reclaim_blocks = 10;
    })
}

fn dying(world: &World, instance: InstanceId) -> u32 {
    factory(world, LSP, instance).current.terms.timeout_height - DYING
}

fn mine_to(world: &mut World, height: u32) {
    world.mine(height.saturating_sub(world.chain.height())).unwrap();
    world.settle().unwrap();
}

fn push(world: &World, instance: InstanceId) -> u64 {
    factory(world, LSP, instance).current.terms.push_msat
}

/// S22: an operator with default settings gives what a renewal needs, and no more than its option elsewhere. So the
/// renewal goes all the way.
#[test]
fn a_renewed_factory_makes_up_for_the_reserve() {
    let (mut world, old) = scenario(1, 2).active().unwrap();
    assert_eq!(push(&world, old), Config::default().push_msat, "it renews none");
    let due = dying(&world, old);
    mine_to(&mut world, due);
    world.pay(LSP, 1, 5_000_000).unwrap();
    let new = world.make_factory(&offer()).unwrap();
    assert_eq!(push(&world, new), RESERVE);
    world.mine(6).unwrap();
    world.settle().unwrap();
    // Client 2 has nothing but its first push, less than a reserve: it leaves with that.
    for client in [1, 2] {
        let engine = world.engine(client).unwrap();
        let renewal = engine.renewal(engine.factory(old).unwrap(), world.chain.height()).unwrap();
        assert_eq!(renewal.stage, Stage::Done, "client {client}");
    }
    assert!(factory(&world, LSP, old).is_reclaimable_whole());
    let third = world.begin(&offer()).unwrap();
    assert_eq!(push(&world, third), RESERVE, "whoever has left is in the second one alone");
}

/// S22: the terms have one number for all clients: a reserve if one of them leaves a channel, whatever else it has bought.
/// Whoever says how much says it for all.
#[test]
fn who_renews_gets_a_reserve() {
    let (mut world, old) = scenario(2, 3).stock(100_000).sold(&[(1, 20_000), (1, 20_000)]).unwrap();
    let due = dying(&world, old);
    mine_to(&mut world, due);
    let push_of = |world: &mut World, clients: &[usize], push_msat: Option<u64>| {
        let mut create = world.create_command(clients, &offer()).unwrap();
        create.push_msat = push_msat;
        let created = world.command(LSP, Command::Create(create)).unwrap();
        let Answer::Created(new) = created else { panic!("{created:?}") };
        push(world, new)
    };
    assert_eq!(push_of(&mut world, &[1, 2, 3], None), RESERVE);
    assert_eq!(push_of(&mut world, &[2, 3], None), RESERVE);
    assert_eq!(push_of(&mut world, &[1, 2, 3], Some(7_000)), 7_000);
    // Nobody leaves anything for one that ends before the old one does.
    let mut create = world.create_command(&[1, 2], &offer()).unwrap();
    create.lifetime_blocks = factory(&world, LSP, old).current.terms.timeout_height - world.chain.height();
    create.dying_blocks = 10;
    let created = world.command(LSP, Command::Create(create)).unwrap();
    let Answer::Created(new) = created else { panic!("{created:?}") };
    assert_eq!(push(&world, new), Config::default().push_msat);
}

/// A ladder whose rungs are 20 blocks apart; whoever wants it otherwise changes it.
fn ladder(begins: u32) -> Ladder {
    Ladder {
        rung_blocks: 20,
        lifetime_blocks: 240,
        dying_blocks: DYING,
        smallest: 1,
        largest: 100,
        enough_percent: 100,
        wait_blocks: 10,
        begins,
        ..Ladder::default()
    }
}

/// As the plugin does after it is stored: memory has it, and a restart brings it again.
fn set(world: &mut World, ladder: Option<Ladder>) {
    world.members[LSP].config.ladder = ladder;
    world.members[LSP].engine.as_mut().unwrap().set_ladder(ladder);
}

/// An active factory of so many clients, and a ladder whose first rung opens just when it is due.
fn laddered(seed: u64, clients: usize, change: impl FnOnce(&mut Ladder)) -> (World, InstanceId) {
    let (mut world, old) = scenario(seed, clients).active().unwrap();
    let mut wanted = ladder(dying(&world, old));
    assert_eq!(wanted.check(), Ok(()));
    change(&mut wanted);
    set(&mut world, Some(wanted));
    (world, old)
}

/// Block by block, with everything that follows from each.
fn go_to(world: &mut World, height: u32) {
    while world.chain.height() < height {
        world.mine(1).unwrap();
        world.run_out().unwrap();
        assert!(world.judge.violations.is_empty(), "{:?}", world.judge.violations);
    }
}

/// What the operator's ladder has begun, by rung.
fn rungs(world: &World) -> Vec<(u32, InstanceId)> {
    let engine = world.engine(LSP).unwrap();
    let mut all: Vec<_> =
        engine.factories().filter_map(|factory| Some((factory.rung?.number, factory.instance))).collect();
    all.sort();
    all
}

fn members(world: &World, instance: InstanceId) -> Vec<usize> {
    let clients = &factory(world, LSP, instance).current.clients;
    let mut all: Vec<usize> = clients.iter().map(|node| world.member_of(*node).unwrap()).collect();
    all.sort();
    all
}

fn standing(world: &World) -> LadderStanding {
    world.engine(LSP).unwrap().ladder_standing(world.chain.height(), world.now)
}

fn left(world: &World, instance: InstanceId) -> Vec<usize> {
    let known = factory(world, LSP, instance);
    let left =
        known.current.clients.iter().filter(|node| known.has_handed_over(known.client_of(**node).unwrap()));
    left.map(|node| world.member_of(*node).unwrap()).collect()
}

/// S22, S37, S38: nobody says anything any more. At the first rung a factory follows on the first, with whatever its
/// clients have; they leave, and the old root is taken back; at the next the same again, with the operator stopped in
/// between. Each rung begins one factory, and nobody is evicted.
#[test]
fn a_ladder_renews_by_itself() {
    let (mut world, first) = laddered(10, 3, |_| {});
    world.pay(LSP, 1, 5_000_000).unwrap();
    let height = dying(&world, first) - 1;
    go_to(&mut world, height);
    assert_eq!(rungs(&world), [], "nobody is due");
    let height = dying(&world, first);
    go_to(&mut world, height);
    let [(0, second)] = rungs(&world)[..] else { panic!("{:?}", rungs(&world)) };
    assert_eq!((members(&world, second), push(&world, second)), (vec![1, 2, 3], RESERVE));
    let height = world.chain.height();
    go_to(&mut world, height + 9);
    assert_eq!(left(&world, first), [1, 2, 3]);
    assert!(world.state(LSP, second) == Some(State::Active), "{:?}", world.state(LSP, second));
    world.restart(LSP).unwrap();
    world.run_out().unwrap();
    let height = dying(&world, second) + 19;
    go_to(&mut world, height);
    let [(0, _), (number, third)] = rungs(&world)[..] else { panic!("{:?}", rungs(&world)) };
    let opens = ladder(dying(&world, first)).rung_at(dying(&world, second)).unwrap();
    assert!(number == opens.number || number == opens.number + 1, "{number}");
    assert_eq!(members(&world, third), [1, 2, 3]);
    let height = factory(&world, LSP, third).funding_height().unwrap() + 9;
    go_to(&mut world, height);
    assert_eq!(left(&world, second), [1, 2, 3]);
    let evicted = |instance| factory(&world, LSP, instance).current.evicting.len();
    assert_eq!((evicted(first), evicted(second), evicted(third)), (0, 0, 0));
    // Client 1 still has what it was paid.
    let balances = world.balances(1, world.members[LSP].id);
    let known = factory(&world, 1, third).current.channels
        [&factory(&world, LSP, third).client_of(world.members[1].id).unwrap()];
    let has = balances.iter().find(|balance| balance.channel_id == known).unwrap().to_us_msat;
    assert!(has > 5_000_000, "{has}");
}

/// S38: two factories that are due at once make one: its funding takes back both later, and a rung in between.
#[test]
fn two_factories_due_at_once_make_one() {
    let mut world = scenario(11, 4).world().unwrap();
    let create = |world: &mut World, clients: &[usize]| {
        let create = world.create_command(clients, &offer()).unwrap();
        let created = world.command(LSP, Command::Create(create)).unwrap();
        let Answer::Created(new) = created else { panic!("{created:?}") };
        world.activate(new).unwrap();
        new
    };
    let one = create(&mut world, &[1, 2]);
    let other = create(&mut world, &[3, 4]);
    let begins = dying(&world, other);
    assert!(begins >= dying(&world, one) && begins < dying(&world, one) + 20);
    set(&mut world, Some(ladder(begins)));
    go_to(&mut world, begins);
    let [(0, next)] = rungs(&world)[..] else { panic!("{:?}", rungs(&world)) };
    assert_eq!(members(&world, next), [1, 2, 3, 4]);
    go_to(&mut world, begins + 9);
    assert_eq!((left(&world, one), left(&world, other)), (vec![1, 2], vec![3, 4]));
    let engine = world.engine(LSP).unwrap();
    assert!([one, other].iter().all(|old| engine.factory(*old).unwrap().is_reclaimable_whole()));
    // The next funding, whosever it is, takes both back.
    let create = world.create_command(&[1, 2], &Offer { lifetime_blocks: 300, ..offer() }).unwrap();
    world.command(LSP, Command::Create(create)).unwrap();
    world.run_out().unwrap();
    world.mine(1).unwrap();
    let spender =
        |old| factory(&world, LSP, old).spent.get(&factory(&world, LSP, old).funding().unwrap()).copied();
    assert!(
        spender(one).is_some() && spender(one) == spender(other),
        "{:?} {:?}",
        spender(one),
        spender(other)
    );
}

/// S28: whoever is away costs nothing: the rung waits for enough until its latest date, begins with the others, and the
/// one that was away comes to the next. Meanwhile it is woken, once a rung, also over a restart.
#[test]
fn who_is_away_comes_to_the_next_rung() {
    let (mut world, first) = laddered(12, 3, |_| {});
    let due = dying(&world, first);
    world.disconnect(LSP, 3);
    world.run_out().unwrap();
    go_to(&mut world, due);
    assert_eq!(rungs(&world), []);
    let few = Decision::Wait(Wait::Few { here: 2, due: 3, latest: due + 10 });
    assert_eq!(standing(&world).decision, few);
    let by = factory(&world, LSP, first).eviction_height(2);
    assert_eq!(world.wakes, [(first, 3, by, WakeReason::Renewal)]);
    world.stop(LSP);
    world.start(LSP).unwrap();
    for client in [1, 2] {
        world.connect(LSP, client).unwrap();
    }
    world.run_out().unwrap();
    go_to(&mut world, due + 9);
    assert_eq!((rungs(&world), world.wakes.len()), (vec![], 1), "once a rung");
    go_to(&mut world, due + 10);
    let [(0, second)] = rungs(&world)[..] else { panic!("{:?}", rungs(&world)) };
    assert_eq!(members(&world, second), [1, 2]);
    go_to(&mut world, due + 19);
    assert_eq!((left(&world, first), world.wakes.len()), (vec![1, 2], 1));
    go_to(&mut world, due + 20);
    assert_eq!(world.wakes.len(), 2, "a new rung: {:?}", world.wakes);
    assert_eq!(standing(&world).due.len(), 1);
    // It comes between two blocks, and the others are enough: nobody else is due.
    world.connect(LSP, 3).unwrap();
    world.run_out().unwrap();
    let [_, (1, third)] = rungs(&world)[..] else { panic!("{:?}", rungs(&world)) };
    assert_eq!(members(&world, third), [3]);
    go_to(&mut world, due + 30);
    assert_eq!((left(&world, first), world.wakes.len()), (vec![1, 2, 3], 2));
}

/// Paused, nothing is begun; what was begun goes on. It stays so over a restart, and without a ladder there is nothing.
#[test]
fn a_pause_stops_it_between_steps() {
    let (mut world, first) = laddered(13, 2, |ladder| ladder.paused = true);
    let due = dying(&world, first);
    world.disconnect(LSP, 2);
    go_to(&mut world, due + 25);
    assert_eq!((rungs(&world), world.wakes.len()), (vec![], 0));
    world.restart(LSP).unwrap();
    go_to(&mut world, due + 26);
    assert_eq!((rungs(&world), standing(&world).decision), (vec![], Decision::Wait(Wait::Paused)));
    let resumed = Ladder { paused: false, ..ladder(due) };
    set(&mut world, Some(resumed));
    world.mine(1).unwrap();
    world.run_until("a rung", |world| !rungs(world).is_empty()).unwrap();
    let [(1, second)] = rungs(&world)[..] else { panic!("{:?}", rungs(&world)) };
    // In the middle of the ceremony: it is finished all the same.
    set(&mut world, Some(Ladder { paused: true, ..resumed }));
    world.run_out().unwrap();
    let height = world.chain.height();
    go_to(&mut world, height + 9);
    assert_eq!((left(&world, first), rungs(&world).len()), (vec![1, 2], 1));
    assert_eq!(world.state(LSP, second), Some(State::Active));
    set(&mut world, None);
    let height = dying(&world, second) + 30;
    go_to(&mut world, height);
    assert_eq!(rungs(&world).len(), 1);
    assert_eq!(standing(&world).decision, Decision::Wait(Wait::NoLadder));
}

/// S14: whatever the moment at which the operator dies, a rung makes one factory, and its clients get there.
#[test]
fn a_crash_makes_no_second_factory() {
    for (seed, steps) in (100..).zip([0, 1, 3, 7, 15, 30, 60, 100]) {
        let (mut world, first) = laddered(seed, 2, |_| {});
        let height = dying(&world, first) - 1;
        go_to(&mut world, height);
        world.mine(1).unwrap();
        world.run_until("a rung", |world| !rungs(world).is_empty()).unwrap();
        for _ in 0..steps {
            if !world.step().unwrap() {
                break;
            }
        }
        world.restart(LSP).unwrap();
        world.run_out().unwrap();
        let height = world.chain.height();
        go_to(&mut world, height + 15);
        let living: Vec<InstanceId> = rungs(&world)
            .into_iter()
            .map(|(_, instance)| instance)
            .filter(|instance| world.state(LSP, *instance) == Some(State::Active))
            .collect();
        let [second] = living[..] else { panic!("{steps} steps: {:?}", rungs(&world)) };
        assert_eq!(members(&world, second), [1, 2], "{steps} steps");
        assert_eq!(left(&world, first), [1, 2], "{steps} steps");
    }
}

/// S32: a channel that is nearly full is followed by a larger one; the others stay as they are, so that everybody
/// accepts by itself. What was bought comes along.
#[test]
fn capacities_follow_from_what_is_used() {
    let scenario = scenario(14, 3).stock(100_000);
    let (mut world, first) = scenario.sold(&[(3, 30_000)]).unwrap();
    let due = dying(&world, first);
    set(&mut world, Some(Ladder { fill_percent: 50, ..ladder(due) }));
    world.pay(LSP, 1, 70_000_000).unwrap();
    go_to(&mut world, due);
    let [(0, second)] = rungs(&world)[..] else { panic!("{:?}", rungs(&world)) };
    let next = factory(&world, LSP, second);
    let of = |client: usize| next.capacity(next.client_of(world.members[client].id).unwrap()).to_sat();
    assert_eq!(of(1), 2 * 70_001, "twice what it has");
    assert_eq!(of(2), 100_000);
    assert_eq!(of(3), 100_000, "nothing is in what it bought");
    go_to(&mut world, due + 9);
    assert_eq!(left(&world, first), [1, 2, 3]);
}

/// More than the largest factory takes make several, one after the other in the same rung.
#[test]
fn a_rung_may_be_several_factories() {
    let (mut world, first) = laddered(15, 5, |ladder| ladder.largest = 2);
    let due = dying(&world, first);
    go_to(&mut world, due + 4);
    let made = rungs(&world);
    let sizes: Vec<usize> = made.iter().map(|(_, instance)| members(&world, *instance).len()).collect();
    assert!(made.iter().all(|(number, _)| *number == 0));
    assert_eq!((sizes.iter().sum::<usize>(), sizes.len()), (5, 3), "{sizes:?}");
    go_to(&mut world, due + 15);
    assert_eq!(left(&world, first), [1, 2, 3, 4, 5]);
}

/// An attempt that comes to nothing is tried again, later and later; who is at fault isn't asked at once.
#[test]
fn what_fails_is_tried_again() {
    let (mut world, first) = laddered(16, 2, |_| {});
    // One try at each: whoever doesn't answer ends it.
    world.members[LSP].config.max_attempts = 1;
    world.restart(LSP).unwrap();
    world.run_out().unwrap();
    world.tamper(|out| match &out.message {
        Message::Join(_) => Fate::Drop,
        _ => Fate::Deliver,
    });
    let due = dying(&world, first);
    go_to(&mut world, due + 8);
    let failed = standing(&world).made.failed;
    assert_eq!(failed, 2);
    world.heal();
    go_to(&mut world, due + 30);
    assert_eq!(left(&world, first), [1, 2]);
}

/// S16: a client that is away is sent for before the operator leaves for an HTLC of its, and not at every block.
#[test]
fn an_htlc_that_runs_out_wakes_its_client() {
    let (mut world, first) = scenario(17, 2).active().unwrap();
    let known = factory(&world, LSP, first);
    let channel = known.current.channels[&0];
    let client = world.member_of(known.current.clients[0]).unwrap();
    world.disconnect(LSP, client);
    world.run_out().unwrap();
    let height = world.chain.height();
    // A payment of its own: it is taken back on chain when it expires.
    let expiry = height + 20;
    for _ in 0..18 {
        world.mine(1).unwrap();
        let pending = vec![common::htlc(channel, Direction::Offered, expiry)];
        world.feed(LSP, Input::Htlcs(pending)).unwrap();
    }
    let wakes: Vec<_> = world.wakes.iter().filter(|wake| wake.3 == WakeReason::Htlc).copied().collect();
    let [(instance, woken, by, _)] = wakes[..] else { panic!("{wakes:?}") };
    assert_eq!((instance, woken), (first, client));
    assert_eq!(by, expiry);
}

/// S37: who was evicted and is here again is asked into the next rung, once, with a channel that takes what it has. Its
/// neighbour in the leaf, which came on chain with it, is too.
#[test]
fn an_evicted_client_is_asked_once() {
    for renew in [Policy::Auto, Policy::Never] {
        let (mut world, old) = laddered(31, 8, |ladder| ladder.smallest = 1);
        world.members[8].config.renew = renew;
        world.members[8].config.policy = Policy::Ask;
        world.restart(8).unwrap();
        world.reconnect().unwrap();
        world.command(LSP, Command::Evict { instance: old, clients: vec![7] }).unwrap();
        let begins = dying(&world, old);
        go_to(&mut world, begins + 3);
        let engine = world.engine(LSP).unwrap();
        let lives =
            |factory: &&factory_engine::Factory| factory.rung.is_some() && factory.failure().is_none();
        let new = engine.factories().find(lives).unwrap();
        let known = factory(&world, LSP, old);
        let on_chain: Vec<u32> = (0..8).filter(|client| known.leaf_height(*client).is_some()).collect();
        assert!((2..8).contains(&on_chain.len()), "it has a neighbour, and not all are: {on_chain:?}");
        let members = [on_chain[0], 7].map(|client| usize::try_from(client).unwrap() + 1);
        let [neighbour, out] = members.map(|member| world.members[member].id);
        let capacity = |node| new.client_of(node).map(|client| new.capacity(client));
        let before = known.capacity(7);
        assert_eq!(capacity(neighbour), Some(before));
        assert_eq!(capacity(out), (renew == Policy::Auto).then_some(before), "{renew:?}");
        assert_eq!(new.left_out.iter().any(|(node, _)| *node == out), renew == Policy::Never);
        assert_eq!(standing(&world).due, []);
        // Nobody is asked again, and who has come has its channel on chain closed.
        let rungs = engine.factories().filter(|factory| factory.rung.is_some()).count();
        go_to(&mut world, begins + 30);
        assert_eq!(world.engine(LSP).unwrap().factories().filter(|of| of.rung.is_some()).count(), rungs);
        let mutual = |client: usize| {
            let id = factory(&world, client, old).own_channels().next().unwrap().channel_id;
            world.members[client].lightningd.channels[&id].mutual
        };
        assert_eq!(members.map(mutual), [true, renew == Policy::Auto]);
    }
}

/// S37: who was evicted and is here again is asked by the latest date of a rung, though nobody else is due and the
/// smallest factory is larger: there may never be anybody else.
#[test]
fn an_evicted_client_is_asked_alone() {
    let (mut world, old) = laddered(32, 1, |ladder| ladder.smallest = 2);
    world.command(LSP, Command::Evict { instance: old, clients: vec![0] }).unwrap();
    let begins = dying(&world, old);
    go_to(&mut world, begins + 9);
    assert_eq!(rungs(&world), []);
    let few = Wait::Few { here: 1, due: 1, latest: begins + 10 };
    assert_eq!(standing(&world).decision, Decision::Wait(few));
    go_to(&mut world, begins + 10);
    let [(0, new)] = rungs(&world)[..] else { panic!("{:?}", rungs(&world)) };
    assert_eq!(members(&world, new), [1]);
    // What is in its channel on chain moves in, that is closed, and nobody is asked again.
    go_to(&mut world, begins + 35);
    let id = factory(&world, 1, old).own_channels().next().unwrap().channel_id;
    assert!(world.members[1].lightningd.channels[&id].mutual);
    assert_eq!((rungs(&world).len(), standing(&world).due), (1, vec![]));
}
