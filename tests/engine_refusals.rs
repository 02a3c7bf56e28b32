//! Bad input: each refused with a reason, and without effect.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;

use common::factory;
use factory_engine::admission::htlc::{Failure, Htlc, Upstream, Verdict, admit};
use factory_engine::policy::Policy;
use factory_engine::policy::prices::PriceList;
use factory_engine::record::event::Event;
use factory_engine::types::{Amount, InstanceId, NodeId, TermsHash};
use factory_engine::wire::message::{Invite, Message};
use factory_engine::{
    Answer, ChannelPolicy, Command, Create, Input, NotCooperative, Refusal, RefusalKind, State, Unusable,
};
use factory_lab::offer::Offer;
use factory_lab::scenario::Scenario;
use factory_lab::world::{Fate, Fed, LSP, World};

fn refused(world: &mut World, at: usize, command: Command) -> Refusal {
    let records = |world: &World| world.members[at].store.appends;
    let before = records(world);
    let fed = world.feed(at, Input::Command(command)).unwrap();
    assert_eq!(records(world), before, "a refusal stored something");
    let Fed::Done(Err(refusal)) = fed else { panic!("{fed:?}") };
    assert!(!refusal.to_string().is_empty());
    refusal
}

#[test]
fn bad_commands() {
    let mut world = Scenario::new(1).clients(2).world().unwrap();
    let offer = Offer { stock: Amount::ZERO, ..Offer::default() };
    let good = world.create_command(&[1, 2], &offer).unwrap();
    let create = |change: fn(&mut Create)| {
        let mut create = good.clone();
        change(&mut create);
        Command::Create(create)
    };
    let mut parameter = |command| {
        let refusal = refused(&mut world, LSP, command);
        assert_eq!(refusal.kind(), RefusalKind::BadParameter, "{refusal}");
        refusal
    };
    assert_eq!(parameter(create(|c| c.clients.clear())), Refusal::NoClients);
    let terms: [fn(&mut Create); 3] = [
        |c| c.clients[0].1 = Amount::from_sat(100),
        |c| c.tree_feerate = 1,
        |c| c.shape.leaf.clients_per_sub = 0,
    ];
    for change in terms {
        assert!(matches!(parameter(create(change)), Refusal::Terms(_)));
    }
    let short = parameter(create(|c| (c.lifetime_blocks, c.dying_blocks) = (400, 390)));
    assert!(matches!(short, Refusal::LifetimeTooShort { lifetime_blocks: 400, .. }), "{short}");

    let mut client = |command| {
        let refusal = refused(&mut world, LSP, command);
        assert_eq!(refusal.kind(), RefusalKind::BadClient, "{refusal}");
        refusal
    };
    let (twice, nobody) = (good.clients[0].0, NodeId([2; 33]));
    assert_eq!(client(create(|c| c.clients[1].0 = c.clients[0].0)), Refusal::NamedTwice(twice));
    assert_eq!(client(create(|c| c.clients[1].0 = NodeId([2; 33]))), Refusal::NotConnected(nobody));
    let me = world.members[LSP].id;
    let mut own = good.clone();
    own.clients[0].0 = me;
    assert_eq!(refused(&mut world, LSP, Command::Create(own)), Refusal::ThisNode(me));

    let instance = InstanceId([9; 32]);
    let amount = Amount::from_sat(50_000);
    let terms = TermsHash([8; 32]);
    for command in [
        Command::Accept { instance, terms, from: None },
        Command::Decline { instance, reason: "no".into() },
        Command::Exit { instance },
        Command::Evict { instance, clients: vec![] },
        Command::Buy { instance, amount, max_price_msat: 0 },
        Command::AskPrice { instance, amount },
    ] {
        assert_eq!(refused(&mut world, 1, command), Refusal::Unknown(instance));
    }

    let instance = world.begin(&Offer::default()).unwrap();
    let (accept, decline) =
        (Command::Accept { instance, terms, from: None }, Command::Decline { instance, reason: "no".into() });
    for command in [accept.clone(), decline.clone()] {
        assert_eq!(refused(&mut world, LSP, command), Refusal::OwnFactory(instance));
    }
    let nothing = Refusal::NothingOnChain { instance, state: State::Joining };
    assert_eq!(refused(&mut world, LSP, Command::Exit { instance }), nothing);
    assert_eq!(refused(&mut world, LSP, Command::Evict { instance, clients: vec![] }), nothing);
    world.finish(instance).unwrap();
    for command in [accept, decline] {
        let answered = Refusal::NotAnInvitation { instance, state: State::Funding };
        assert_eq!(refused(&mut world, 1, command), answered);
    }
}

/// S21: an operator that would have no time to get its stock home.
#[test]
fn a_life_without_time_to_evict() {
    let mut world = Scenario::new(8).clients(2).config(|config| config.stock_csv = 1_000).world().unwrap();
    let offer = Offer { lifetime_blocks: 1_100, dying_blocks: 160, ..Offer::default() };
    let create = world.create_command(&[1, 2], &offer).unwrap();
    let refusal = refused(&mut world, LSP, Command::Create(create));
    let Refusal::NoTimeToEvict { lifetime_blocks: 1_100, needed, stock_csv: 1_000 } = refusal else {
        panic!("{refusal}")
    };
    assert!(needed > 1_100 && refusal.kind() == RefusalKind::BadParameter);
}

#[test]
fn an_invitation_of_an_operator_that_is_away() {
    let mut world = Scenario::new(5).clients(1).world().unwrap();
    world.members[1].config.policy = Policy::Ask;
    world.restart(1).unwrap();
    world.settle().unwrap();
    let instance = world.begin(&Offer::default()).unwrap();
    world.settle().unwrap();
    world.disconnect(LSP, 1);
    world.settle().unwrap();
    let away = Refusal::OperatorAway(world.members[LSP].id);
    let accept = world.acceptance(1, instance).unwrap();
    assert_eq!(refused(&mut world, 1, accept), away);
    assert_eq!(away.kind(), RefusalKind::WrongState);
}

#[test]
fn evictions_that_make_no_sense() {
    let mut world = Scenario::new(6).clients(2).world().unwrap();
    let instance = world.make_factory(&Offer::default()).unwrap();
    let evict = |clients: &[u32]| Command::Evict { instance, clients: clients.to_vec() };
    assert_eq!(refused(&mut world, 1, evict(&[])), Refusal::OperatorEvicts);
    assert_eq!(refused(&mut world, LSP, evict(&[2])), Refusal::NoSuchClient { client: 2, clients: 2 });
    world.command(LSP, evict(&[1])).unwrap();
    world.mine(3).unwrap();
    assert_eq!(refused(&mut world, LSP, evict(&[1])), Refusal::IsOut(1));
}

fn buy(instance: InstanceId, sat: u64) -> Command {
    Command::Buy { instance, amount: Amount::from_sat(sat), max_price_msat: u64::MAX }
}

/// Clients 1 and 2 in one sub-factory, 3 and 4 in the other.
fn with_stock(seed: u64, stock: u64) -> (World, InstanceId) {
    let offer =
        Offer { capacity: Amount::from_sat(1_000_000), stock: Amount::from_sat(stock), ..Offer::default() };
    let mut world = Scenario::new(seed).clients(4).world().unwrap();
    let instance = world.make_factory(&offer).unwrap();
    (world, instance)
}

#[test]
fn purchases_that_make_no_sense() {
    let (mut world, instance) = with_stock(7, 0);
    assert_eq!(refused(&mut world, 1, buy(instance, 50_000)), Refusal::NoStock);

    let (mut world, instance) = with_stock(8, 300_000);
    assert_eq!(refused(&mut world, LSP, buy(instance, 50_000)), Refusal::OperatorSells);
    let huge = refused(&mut world, 1, buy(instance, 1_000_000));
    assert!(matches!(huge, Refusal::Amount(_)) && huge.kind() == RefusalKind::BadParameter, "{huge}");
    world.command(1, buy(instance, 50_000)).unwrap();
    assert_eq!(refused(&mut world, 1, buy(instance, 50_000)), Refusal::SaleUnderWay);
    world.run_out().unwrap();
    world.disconnect(LSP, 1);
    world.settle().unwrap();
    let away = Refusal::OperatorAway(world.members[LSP].id);
    assert_eq!(refused(&mut world, 1, buy(instance, 50_000)), away);
}

/// S9, S24: why a sub-factory is past selling.
#[test]
fn sub_factories_that_sell_nothing_any_more() {
    let (mut world, instance) = with_stock(9, 300_000);
    world.command(2, Command::Exit { instance }).unwrap();
    let why = |world: &mut World, at, instance| match refused(world, at, buy(instance, 50_000)) {
        Refusal::NotCooperative(why) => why,
        other => panic!("{other}"),
    };
    assert_eq!(why(&mut world, 2, instance), NotCooperative::Leaving);
    world.mine(2).unwrap();
    assert_eq!(why(&mut world, 1, instance), NotCooperative::OnChain);

    let (mut world, instance) = with_stock(12, 300_000);
    // Nobody is evicted.
    world.stop(LSP);
    let terms = factory(&world, 1, instance).current.terms.clone();
    world.mine_to(terms.timeout_height - terms.dying_blocks).unwrap();
    assert_eq!(why(&mut world, 1, instance), NotCooperative::State(State::Dying));
}

/// S18, S19: a client without a channel neither buys nor leaves.
#[test]
fn a_client_without_a_channel() {
    let mut world = Scenario::new(10).clients(4).world().unwrap();
    let instance = world.begin(&Offer::default()).unwrap();
    let signed = |world: &World| world.state(2, instance) == Some(State::Storing);
    world.run_until("client 2 has stored its transactions", signed).unwrap();
    let older = world.backup(2);
    assert_eq!(world.finish(instance).unwrap(), State::Active);
    world.stop(LSP);
    world.restore(2, older).unwrap();
    world.mine(1).unwrap();
    let timeout = factory(&world, 2, instance).current.terms.timeout_height;
    let refusal = refused(&mut world, 2, Command::Exit { instance });
    assert_eq!(refusal, Refusal::NoChannelToExit { instance, timeout });
    let refusal = refused(&mut world, 2, buy(instance, 10_000));
    assert_eq!(refusal, Refusal::NotCooperative(NotCooperative::Channel(Unusable::NotChecked)));
}

/// Whoever may still have paid waits until it knows, whatever became of the sale.
#[test]
fn a_payment_that_is_not_settled() {
    let (mut world, instance) = with_stock(11, 300_000);
    let prices = PriceList::of_sales(500, 0);
    world.members[LSP].engine.as_mut().unwrap().set_prices(prices);
    world.command(1, buy(instance, 50_000)).unwrap();
    let pays = |world: &World| {
        let last = world.members[1].store.records(instance).last().cloned().unwrap();
        matches!(factory_engine::record::decode_record(&last).unwrap().last(), Some(Event::SaleDue(_)))
    };
    world.run_until("the payment has left", pays).unwrap();
    let lsp = world.members[LSP].id;
    for input in [Input::PeerDown { peer: lsp }, Input::PeerUp { peer: lsp, channels: true }] {
        world.feed(1, input).unwrap();
    }
    assert_eq!(refused(&mut world, 1, buy(instance, 50_000)), Refusal::PaymentUnderWay);
}

#[test]
fn an_offline_client() {
    let mut world = Scenario::new(2).clients(2).offline().world().unwrap();
    world.connect(LSP, 1).unwrap();
    world.settle().unwrap();
    let create = world.create_command(&[1, 2], &Offer::default()).unwrap();
    let refusal = refused(&mut world, LSP, Command::Create(create));
    assert_eq!(refusal, Refusal::NotConnected(world.members[2].id));
}

#[test]
fn a_wallet_with_too_little() {
    let mut world = Scenario::new(3).clients(2).world().unwrap();
    let huge = Amount::from_sat(1_000_000_000);
    let instance = world.begin(&Offer { capacity: huge, stock: Amount::ZERO, ..Offer::default() }).unwrap();
    assert_eq!(world.finish(instance).unwrap(), State::Aborted);
    assert!(world.failure(LSP, instance).unwrap().contains("the wallet"));
    assert!(world.members.iter().all(|member| member.lightningd.channels.is_empty()));
}

#[test]
fn invitations_that_people_answer() {
    let scenario = Scenario::new(4).clients(3).config(|config| config.policy = Policy::Ask);
    let (mut world, instance) = scenario.begun().unwrap();
    world.settle().unwrap();
    assert_eq!(world.state(1, instance), Some(State::Invited));
    world.command(1, world.acceptance(1, instance).unwrap()).unwrap();
    world.command(2, Command::Decline { instance, reason: "too dear".into() }).unwrap();
    world.settle().unwrap();
    // The next attempt has other members on the terms that were accepted: nobody is asked twice.
    assert_eq!(world.state(1, instance), Some(State::Joining));
    world.command(3, world.acceptance(3, instance).unwrap()).unwrap();
    assert_eq!(world.finish(instance).unwrap(), State::Active);
    assert_eq!(world.state(2, instance), Some(State::Declined));
    assert_eq!(common::left_out(&world, instance), [2]);
}

/// S3, S32: terms out of bounds, or that contradict themselves, are declined by the client by itself.
#[test]
fn invitations_out_of_bounds() {
    type Change = fn(&mut Invite);
    let changes: &[(&str, Change)] = &[
        ("an absurd fee", |m| m.terms.tree_feerate = 20_000),
        ("a price", |m| m.price_msat = 1),
        ("another operator", |m| m.terms.lsp = NodeId([3; 33])),
        ("another instance", |m| m.terms.instance = InstanceId([1; 32])),
        ("a client that doesn't exist", |m| m.client = 3),
        ("a timeout out of reach", |m| m.terms.timeout_height += 100_000),
        ("a timeout at once", |m| m.terms.timeout_height = 110),
        ("no push", |m| m.terms.push_msat = 0),
        ("no confirmations", |m| m.terms.funding_confirmations = 0),
        ("another record", |m| m.channel_in_factory.blocks_early += 1),
        ("no clients", |m| m.terms.capacities.clear()),
        ("a shape that exits too late", |m| m.terms.confirm_blocks = 3000),
        ("dust", |m| m.terms.capacities[0] = Amount::from_sat(1)),
    ];
    for (seed, (what, change)) in (10..).zip(changes) {
        common::declines(seed, 3, what, *change);
    }
}

/// S3, S32: a later attempt with other terms than those that were accepted is declined.
#[test]
fn terms_that_change_between_attempts() {
    let (mut world, instance) = Scenario::new(30)
        .clients(3)
        .tamper(|out| match &out.message {
            Message::Join(_) if out.from == 3 => Fate::Drop,
            Message::Invite(invite) if out.to == 2 && invite.attempt == 2 => Fate::changed(invite, |m| {
                m.terms.margin_blocks += 1;
                m.channel_in_factory.blocks_early += 1;
            }),
            _ => Fate::Deliver,
        })
        .begun()
        .unwrap();
    assert_eq!(world.finish(instance).unwrap(), State::Active);
    assert_eq!(common::left_out(&world, instance), [3, 2]);
    assert!(format!("{:?}", world.members[2].log).contains("differ from those that were accepted"));
}

/// S28: one peer's invitations don't fill the disk.
#[test]
fn too_many_invitations() {
    let scenario = Scenario::new(31).clients(1).config_of(1, |config| config.policy = Policy::Ask);
    let mut world = scenario.world().unwrap();
    for _ in 0..10 {
        world.begin(&Offer::default()).unwrap();
        world.settle().unwrap();
    }
    let limit = world.members[1].config.max_ceremonies_per_peer;
    assert_eq!(world.members[1].engine.as_ref().unwrap().factories().count(), limit);
}

/// S18: an `open_channel` that was not announced, or comes twice, or differs.
#[test]
fn opens_that_match_nothing() {
    let answer =
        |world: &mut World, capacity: u64, push: u64, change: fn(&mut factory_engine::OpenChannel)| {
            let mut open = world.open_of(world.members[LSP].id, Amount::from_sat(capacity), push);
            change(&mut open);
            match world.feed(1, Input::OpenChannel(open)).unwrap() {
                Fed::Done(Ok(answer)) => answer,
                other => panic!("{other:?}"),
            }
        };
    let mut world = Scenario::new(32).clients(2).world().unwrap();
    assert_eq!(answer(&mut world, 100_000, 1_000, |_| {}), Answer::NotOurs);
    world.tamper(|out| if out.message.name() == "expecting" { Fate::Drop } else { Fate::Deliver });
    let instance = world.begin(&Offer::default()).unwrap();
    world.settle().unwrap();
    assert_eq!(answer(&mut world, 100_001, 1_000, |_| {}), Answer::NotOurs);
    assert_eq!(answer(&mut world, 100_000, 1_001, |_| {}), Answer::NotOurs);
    assert_eq!(answer(&mut world, 100_000, 1_000, |open| open.zeroconf = false), Answer::NotOurs);
    assert_eq!(answer(&mut world, 100_000, 1_000, |open| open.peer = NodeId([2; 33])), Answer::NotOurs);
    let mut record = factory(&world, 1, instance).channel_in_factory(0);
    record.blocks_early += 1;
    let mut open = world.open_of(world.members[LSP].id, Amount::from_sat(100_000), 1_000);
    open.channel_in_factory = Some(record);
    let fed = world.feed(1, Input::OpenChannel(open)).unwrap();
    assert!(matches!(fed, Fed::Done(Ok(Answer::RejectOpen(_)))), "{fed:?}");
    // S32: with less than the push as reserve lightningd could die when the channel confirms; more never comes out.
    for reserve in [999, 546_001] {
        let mut open = world.open_of(world.members[LSP].id, Amount::from_sat(100_000), 1_000);
        open.reserve_msat = reserve;
        let fed = world.feed(1, Input::OpenChannel(open)).unwrap();
        let Fed::Done(Ok(Answer::RejectOpen(why))) = fed else { panic!("{fed:?}") };
        assert!(why.contains("channel_reserve"), "{why}");
    }
    assert_eq!(answer(&mut world, 100_000, 1_000, |_| {}), Answer::AcceptOpen);
    assert_eq!(answer(&mut world, 100_000, 1_000, |_| {}), Answer::NotOurs);
}

/// S15, S18: which HTLCs a factory channel takes.
#[test]
fn admission() {
    let policy = |usable| ChannelPolicy {
        instance: InstanceId([1; 32]),
        client: None,
        usable,
        blocks_early: 50,
        safe_end: 1_000,
    };
    let (good, bad) = (policy(Ok(())), policy(Err(Unusable::NotChecked)));
    let height = 100;
    let check = |incoming, outgoing, cltv_expiry, outgoing_cltv_expiry| match admit(
        &Htlc {
            incoming,
            outgoing,
            cltv_expiry,
            outgoing_cltv_expiry,
            cltv_delta: 34,
            upstream: Upstream::Live,
        },
        height,
    ) {
        Verdict::Continue => None,
        Verdict::Fail { failure, .. } => Some(failure),
    };
    // Neither channel is ours.
    assert_eq!(check(None, None, 1, Some(1)), None);
    // At the edge, and one block before it.
    assert_eq!(check(Some(&good), None, 151, None), None);
    assert_eq!(check(Some(&good), None, 150, None), Some(Failure::ExpiryTooSoon));
    assert_eq!(check(None, Some(&good), 200, Some(151)), None);
    assert_eq!(check(None, Some(&good), 200, Some(150)), Some(Failure::ExpiryTooSoon));
    // Nothing outlives the factory's safe end.
    assert_eq!(check(Some(&good), None, 1_000, None), None);
    assert_eq!(check(Some(&good), None, 1_001, None), Some(Failure::ExpiryTooFar));
    assert_eq!(check(None, Some(&good), 2_000, Some(1_001)), Some(Failure::ExpiryTooFar));
    // Not usable.
    assert_eq!(check(Some(&bad), None, 500, None), Some(Failure::TemporaryNode));
    assert_eq!(check(None, Some(&bad), 500, Some(400)), Some(Failure::TemporaryChannel));
    assert_eq!(check(Some(&good), Some(&bad), 500, Some(400)), Some(Failure::TemporaryChannel));
}

/// S16, S35: a forward is admitted only if what comes in can still be claimed when what goes out ends as late
/// as it may: by the blocks that the deadlines of exits count with, and never dust on a channel that goes on
/// chain.
#[test]
fn a_forward_leaves_time_to_claim() {
    let policy = ChannelPolicy {
        instance: InstanceId([1; 32]),
        client: None,
        usable: Ok(()),
        blocks_early: 50,
        safe_end: 1_000,
    };
    let (ours, ordinary) = (Some(&policy), None);
    let closing = |amount_msat| Upstream::Closing { amount_msat };
    let (live, big, dust) = (Upstream::Live, closing(546_000), closing(545_999));
    let (soon, not) = (Some(Failure::ExpiryTooSoon), Some(Failure::TemporaryNode));
    for (incoming, outgoing, cltv_expiry, upstream, failure) in [
        // What comes in needs an exit, and lightningd's cltv-delta.
        (ours, ordinary, 384, live, None),
        (ours, ordinary, 383, live, soon),
        (ours, ours, 384, live, None),
        (ours, ours, 383, live, soon),
        // On an ordinary channel lightningd sees to that, as long as it lives.
        (ordinary, ours, 301, live, None),
        // What is claimed on chain has no other way.
        (ordinary, ours, 334, big, None),
        (ordinary, ours, 333, big, soon),
        (ordinary, ours, 900, dust, not),
        (ours, ours, 384, big, None),
        (ours, ours, 383, big, soon),
        (ours, ordinary, 900, dust, not),
    ] {
        let outgoing_cltv_expiry = Some(300);
        let htlc = Htlc { incoming, outgoing, cltv_expiry, outgoing_cltv_expiry, cltv_delta: 34, upstream };
        let verdict = match admit(&htlc, 100) {
            Verdict::Continue => None,
            Verdict::Fail { failure, .. } => Some(failure),
        };
        assert_eq!(verdict, failure, "{htlc:?}");
    }
}

/// S18: nothing moves before the funding is as deep as the terms say, on either side.
#[test]
fn no_htlc_before_the_funding_is_deep() {
    let (mut world, instance) = Scenario::new(33).clients(2).begun().unwrap();
    world.run_until("funding", |world| world.state(LSP, instance) == Some(State::Funding)).unwrap();
    world.settle().unwrap();
    for _ in 0..world.members[LSP].config.funding_confirmations {
        assert!(world.pay(LSP, 1, 1_000).is_err());
        assert_eq!(world.members[1].engine.as_ref().unwrap().largest_blocks_early(), 0);
        world.mine(1).unwrap();
    }
    world.pay(LSP, 1, 1_000).unwrap();
    // S17.
    assert!(world.members[1].engine.as_ref().unwrap().largest_blocks_early() > 0);
}

/// A record that is damaged, missing, or of a newer version stops the node from starting.
#[test]
fn damaged_and_newer_records() {
    for seed in 0..30 {
        let (mut world, instance) = Scenario::new(34).clients(2).active().unwrap();
        world.stop(1);
        let records = world.members[1].store.records_mut(instance);
        let place = usize::try_from(seed).unwrap() % records.len();
        let what = match seed / 10 {
            0 => {
                records[place][0] = 2;
                "newer"
            }
            1 => {
                let half = records[place].len() / 2;
                records[place].truncate(half.max(2));
                "damaged"
            }
            _ => {
                let first = records.first().cloned().unwrap();
                records.push(first);
                "doesn't fit"
            }
        };
        let error = world.start(1).unwrap_err().to_string();
        assert!(error.contains(what), "{what}: {error}");
        assert!(world.members[1].engine.is_none());
    }
}

/// A client insists on its own number of confirmations, to the block; more push than the least is fine.
#[test]
fn a_clients_own_confirmations() {
    for (least, joins) in [(2, true), (3, true), (4, false)] {
        let scenario = Scenario::new(31).clients(1).config(|config| {
            config.push_msat = 5_000;
            config.bounds.min_funding_confirmations = least;
        });
        let (mut world, instance) = scenario.begun().unwrap();
        assert_eq!(world.members[LSP].config.funding_confirmations, 3);
        let ended = world.finish(instance).unwrap();
        assert_eq!(ended == State::Active, joins, "at least {least}: {ended:?}");
    }
}

/// What people type and read is one set of names.
#[test]
fn names_read_back() {
    for state in State::ALL {
        assert_eq!(state.name().parse(), Ok(state));
    }
    assert!("asleep".parse::<State>().is_err());
    assert_eq!(Policy::ALL.map(Policy::name), ["never", "ask", "auto"]);
}
