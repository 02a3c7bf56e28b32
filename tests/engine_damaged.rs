//! S33: a factory whose records aren't all understood is out of use by itself. What can be read of it is
//! followed and can be left; its channels take nothing; nothing is signed. Other factories go on.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;

use cln_factory::cln::boot;
use common::factory;
use factory_engine::record::event::Event;
use factory_engine::record::{decode_record, encode_record};
use factory_engine::types::{InstanceId, TermsHash};
use factory_engine::{ChannelNow, Command, Direction, Doubt, Ended, Engine, Input, Refusal, State, Unusable};
use factory_lab::offer::Offer;
use factory_lab::scenario::Scenario;
use factory_lab::world::{LSP, World};
use factory_runtime::store::Store;
use factory_runtime::store::fake::FakeKeys;
use factory_runtime::store::keyed::Keyed;

/// Nothing, cut off, of a newer version, and a length that isn't there.
fn damages(record: &[u8]) -> [Vec<u8>; 4] {
    let newer = [&[2], &record[1..]].concat();
    [vec![], record[..record.len() - 1].to_vec(), newer, vec![1, 0xfd]]
}

/// The place of a member's first record with such an event.
fn place(world: &World, at: usize, instance: InstanceId, wanted: impl Fn(&Event) -> bool) -> usize {
    let has = |record: &Vec<u8>| decode_record(record).unwrap().iter().any(&wanted);
    world.members[at].store.records(instance).iter().position(has).unwrap()
}

fn restart(world: &mut World, at: usize) {
    world.stop(at);
    world.restart(at).unwrap();
    world.reconnect().unwrap();
    world.settle().unwrap();
}

// S33
#[test]
fn whichever_record_is_damaged_nothing_moves_on_any_channel_of_its_factory() {
    let scenario = Scenario::new(81).clients(2).stock(300_000).unchecked();
    let (mut world, instance) = scenario.sold(&[(1, 50_000)]).unwrap();
    for at in [LSP, 1] {
        let channels = world.engine(at).unwrap().channel_policies();
        assert!(channels.iter().filter(|(_, policy)| policy.usable.is_ok()).count() > 1);
        let records = world.members[at].store.records(instance).to_vec();
        let mut readable = 0;
        for (index, record) in records.iter().enumerate() {
            for bytes in damages(record) {
                world.damage(at, instance, index, bytes);
                world.stop(at);
                world.restart(at).unwrap();
                let engine = world.engine(at).unwrap();
                let why = engine.damage(instance).expect("it is damaged");
                assert!(why.contains(&format!("record {index}: ")), "{why}");
                let policies = engine.channel_policies();
                let doubt = engine.doubt();
                for (channel, whole) in &channels {
                    let peer = whole.client.unwrap_or_else(|| world.members[LSP].id);
                    match policies.iter().find(|(id, _)| id == channel) {
                        Some((_, policy)) => assert!(policy.usable.is_err(), "{at} {index} {policy:?}"),
                        None => assert!(doubt.of(Some(peer)).is_some(), "{at} {index}: {doubt:?}"),
                    }
                }
                readable += u32::from(engine.factory(instance).is_some());
                world.damage(at, instance, index, record.clone());
            }
        }
        assert!(readable > 8, "{readable}");
        world.stop(at);
        world.restart(at).unwrap();
        let again = world.engine(at).unwrap();
        assert_eq!((again.damage(instance), again.channel_policies()), (None, channels));
    }
}

// S33
#[test]
fn a_damaged_factory_can_be_left_and_another_goes_on() {
    for newer in [false, true] {
        let mut world = Scenario::new(82).clients(1).unchecked().world().unwrap();
        let [bad, good] = [(); 2].map(|()| world.make_factory(&Offer::default()).unwrap());
        let at = 1;
        let funded = factory(&world, at, bad).funding_height();
        assert!(funded.is_some());
        let record = place(&world, at, bad, |event| matches!(event, Event::Confirmed(_)));
        let bytes = world.members[at].store.records(bad)[record].clone();
        world.damage(at, bad, record, damages(&bytes)[if newer { 2 } else { 1 }].clone());
        restart(&mut world, at);

        let height = world.chain.height();
        assert!(factory(&world, at, bad).damage().is_some());
        assert_eq!(factory(&world, at, bad).channel_usable(0, height), Err(Unusable::Damaged));
        assert_eq!(factory(&world, at, good).channel_usable(0, height), Ok(()));
        let doubt = world.engine(at).unwrap().doubt();
        assert_eq!(doubt, Doubt::Peers([world.members[LSP].id].into()));
        assert!(doubt.of(Some(world.members[LSP].id)).is_some() && doubt.of(None).is_none());

        // That it was funded is in no record any more: the chain has said it again.
        assert_eq!(factory(&world, at, bad).funding_height(), funded);
        world.command(at, Command::Exit { instance: bad }).unwrap();
        world.mine(1).unwrap();
        // That it leaves is stored, after what isn't understood.
        restart(&mut world, at);
        assert!(factory(&world, at, bad).damage().is_some());
        world.mine(3).unwrap();
        assert_eq!(world.state(at, bad), Some(State::Exited));
        assert_eq!(world.state(at, good), Some(State::Active));
        assert_eq!(world.members[at].store.records(bad)[record], damages(&bytes)[if newer { 2 } else { 1 }]);

        // With the record as it was, nothing that happened meanwhile is in its way.
        world.damage(at, bad, record, bytes);
        restart(&mut world, at);
        assert_eq!(factory(&world, at, bad).damage(), None);
        assert_eq!(world.state(at, bad), Some(State::Exited));
    }
}

// S25, S33
#[test]
fn what_a_damaged_record_may_have_taken_back_is_not_believed() {
    let (mut world, instance) = Scenario::new(88).clients(2).unchecked().active().unwrap();
    let before = factory(&world, 1, instance).funding_height();
    let depth = world.chain.height() - before.unwrap() + 1;
    world.chain.reorg_and_drop(depth);
    world.mine_quietly(depth + 1);
    world.sync_all().unwrap();
    assert_eq!(factory(&world, 1, instance).funding_height(), None);
    let record = place(&world, 1, instance, |event| matches!(event, Event::Reorged(_)));
    world.damage(1, instance, record, vec![]);
    restart(&mut world, 1);
    assert!(factory(&world, 1, instance).damage().is_some());
    assert_eq!(factory(&world, 1, instance).funding_height(), None, "it left the chain");
}

// S33
#[test]
fn an_operator_knows_no_more_who_may_have_a_channel_of_an_attempt_that_is_damaged() {
    let (mut world, instance) = Scenario::new(89).clients(2).unchecked().active().unwrap();
    world.damage(LSP, instance, 1, vec![]);
    restart(&mut world, LSP);
    let doubt = world.engine(LSP).unwrap().doubt();
    let stranger = world.members[2].id;
    assert!(matches!(doubt, Doubt::All(_)), "{doubt:?}");
    assert!(doubt.of(Some(stranger)).is_some() && doubt.of(None).is_some());
}

// S33, S34
#[test]
fn a_channel_that_ends_in_a_damaged_factory_begins_no_other_attempt() {
    for chain_is_known in [true, false] {
        let (mut world, instance) = Scenario::new(87).clients(3).unchecked().active().unwrap();
        let channel_id = factory(&world, LSP, instance).current.channels[&0];
        // That its funding left isn't known any more: as if its channels were still being opened.
        let mut lost = vec![place(&world, LSP, instance, |event| matches!(event, Event::FundingReleased(_)))];
        if !chain_is_known {
            lost.push(place(&world, LSP, instance, |event| matches!(event, Event::Confirmed(_))));
        }
        for record in lost {
            world.damage(LSP, instance, record, vec![]);
        }
        restart(&mut world, LSP);
        let before = factory(&world, LSP, instance).clone();
        assert_eq!(before.funding_height().is_some(), chain_is_known);
        let list = vec![ChannelNow { channel_id, ended: Some(Ended::Failed) }];
        world.feed(LSP, Input::Channels { list, whole: false }).unwrap();
        world.settle().unwrap();
        let after = factory(&world, LSP, instance);
        assert_eq!(after.current.number, before.current.number, "nobody is asked to sign again");
        assert_eq!(after.current.ended.get(&channel_id), Some(&Ended::Failed));
        assert_eq!(after.current.exiting.contains(&0), chain_is_known);
    }
}

// S16, S33
#[test]
fn an_htlc_that_is_left_on_a_damaged_factory_takes_it_on_chain_in_time() {
    let (mut world, instance) = Scenario::new(83).clients(2).unchecked().active().unwrap();
    let (at, channel_id) = (1, factory(&world, 1, instance).current.channels[&0]);
    let record = place(&world, at, instance, |event| matches!(event, Event::ChannelChecked(_)));
    world.damage(at, instance, record, vec![]);
    restart(&mut world, at);
    let early = u32::from(factory(&world, at, instance).current.layout.blocks_early(0));
    let pending = common::htlc(channel_id, Direction::Fulfilled, world.chain.height() + early);
    world.feed(at, Input::Htlcs(vec![pending])).unwrap();
    assert!(factory(&world, at, instance).current.exiting.contains(&0));
}

// S33
#[test]
fn nothing_is_signed_or_sold_in_a_damaged_factory() {
    let (mut world, instance) = Scenario::new(84).clients(2).stock(300_000).unchecked().active().unwrap();
    let record = place(&world, 1, instance, |event| matches!(event, Event::Confirmed(_)));
    world.damage(1, instance, record, vec![]);
    restart(&mut world, 1);
    let buy = |amount| Command::Buy { instance, amount, max_price_msat: u64::MAX };
    let refused = world.command(1, buy(factory_engine::types::Amount::from_sat(50_000)));
    assert!(refused.unwrap_err().to_string().contains("out of use"));
    // Its neighbour's purchase needs its signature.
    let before = world.members[1].store.records(instance).len();
    let bought = world.buy(2, instance, 50_000, u64::MAX);
    assert!(bought.is_err() || common::sales(&world, 2, instance).is_empty());
    assert_eq!(world.members[1].store.records(instance).len(), before);
    assert!(matches!(
        world.engine(1).unwrap().damage(instance),
        Some(why) if why.contains("the record is missing")
    ));
    let accept = world
        .feed(1, Input::Command(Command::Accept { instance, terms: TermsHash([0; 32]), from: None }))
        .unwrap();
    assert!(matches!(accept, factory_lab::world::Fed::Done(Err(Refusal::Damaged { .. }))), "{accept:?}");
}

/// The plugin's store with these records.
async fn stored(world: &World, at: usize, instances: &[InstanceId]) -> FakeKeys {
    let node = FakeKeys::default();
    let mut store = Keyed::new(node.clone());
    store.load_all().await.unwrap();
    for instance in instances {
        for record in world.members[at].store.records(*instance) {
            store.append(&[(*instance, record.clone())]).await.unwrap();
        }
    }
    let mut tip = world.chain.height().to_be_bytes().to_vec();
    tip.extend([0; 32]);
    store.put("tip", tip).await.unwrap();
    node
}

async fn start(world: &World, at: usize, node: &FakeKeys) -> boot::Loaded<Keyed<FakeKeys>> {
    try_start(world, at, node).await.unwrap()
}

async fn try_start(
    world: &World,
    at: usize,
    node: &FakeKeys,
) -> Result<boot::Loaded<Keyed<FakeKeys>>, String> {
    let blank = Scenario::new(85).clients(1).world().unwrap();
    let mut engine = world.rebuild(at).unwrap();
    engine.load_from(blank.engine(at).unwrap());
    boot::load(engine, Keyed::new(node.clone())).await
}

fn key(names: &[&str]) -> Vec<String> {
    std::iter::once("cln-factory").chain(names.iter().copied()).map(str::to_owned).collect()
}

// S33
#[tokio::test]
async fn a_journal_or_a_price_list_that_is_damaged_puts_no_factory_out_of_use() {
    let mut world = Scenario::new(85).clients(1).unchecked().world().unwrap();
    let both = [(); 2].map(|()| world.make_factory(&Offer::default()).unwrap());
    let usable = |engine: &Engine| {
        let height = world.chain.height();
        both.iter().all(|one| engine.factory(*one).unwrap().channel_usable(0, height).is_ok())
    };
    let node = stored(&world, LSP, &both).await;

    node.insert(key(&["prices"]), vec![0]);
    let loaded = start(&world, LSP, &node).await;
    assert!(usable(&loaded.engine) && loaded.engine.prices_unknown() && loaded.stored_tip.is_some());
    node.remove(&key(&["prices"]));

    node.insert(key(&["journal", "0000"]), vec![1, 1, 7]);
    let loaded = start(&world, LSP, &node).await;
    assert!(usable(&loaded.engine));
    assert!(loaded.engine.doubt().is_none());
    // What was signed in it isn't known: nothing more is.
    for instance in both {
        let restored = loaded.engine.factory(instance).unwrap().restored().unwrap();
        assert!(restored.contains("the journal can't be read"), "{restored}");
    }
    // What confirmed in it isn't known either.
    assert_eq!(loaded.stored_tip, None);
    assert!(!node.entries().contains_key(&key(&["journal", "0000"])));
    assert_eq!(node.entries().get(&key(&["damaged-journal", "0000", "0000"])), Some(&vec![1, 1, 7]));
    // The next start finds all of that stored, and no damage.
    let again = start(&world, LSP, &node).await;
    assert!(again.engine.factory(both[0]).unwrap().restored().is_some());
    assert_eq!(again.stored_tip, None);
    assert_eq!(node.entries().len(), loaded_len(&world, &both) + 4);
}

/// Records of both, as they were before: beside them are the tip, the damaged journal and two new records.
fn loaded_len(world: &World, both: &[InstanceId]) -> usize {
    both.iter().map(|one| world.members[LSP].store.records(*one).len()).sum()
}

// S33
#[tokio::test]
async fn a_factory_of_which_nothing_can_be_read_makes_every_channel_doubtful() {
    let mut world = Scenario::new(86).clients(1).unchecked().world().unwrap();
    let both = [(); 2].map(|()| world.make_factory(&Offer::default()).unwrap());
    let node = stored(&world, 1, &both).await;
    let all = world.members[1].store.records(both[0]).len();
    for record in 0..all {
        node.insert(key(&["factory", &both[0].to_string(), &format!("{record:0>8}")]), vec![9]);
    }
    let engine = start(&world, 1, &node).await.engine;
    assert!(engine.factory(both[0]).is_none() && engine.factory(both[1]).is_some());
    assert!(matches!(engine.doubt(), Doubt::All(why) if why.contains(&both[0].to_string())));
    let why = engine.unreadable().next().unwrap().1.to_owned();
    assert!(why.contains("record 0") && why.contains("version 9 is newer"), "{why}");
    // An id that is known stays taken, and its records as they are.
    assert_eq!(encode_record(&[]), [1]);
    assert_eq!(node.entries()[&key(&["factory", &both[0].to_string(), "00000000"])], [9]);
}

// S33
#[tokio::test]
async fn an_older_plugin_says_that_a_record_is_newer_and_leaves_everything_as_it_is() {
    let mut world = Scenario::new(91).clients(1).unchecked().world().unwrap();
    let both = [(); 2].map(|()| world.make_factory(&Offer::default()).unwrap());
    let last = world.members[1].store.records(both[0]).len() - 1;
    let place = key(&["factory", &both[0].to_string(), &format!("{last:0>8}")]);
    // A record of version 2, and one of version 1 with an event that no plugin writes yet.
    let newer = [
        (vec![2, 3, 4], "record version 2 is newer than this plugin's 1: start the newer plugin again"),
        (vec![1, 2, 0x7f, 0xff], "doesn't know events of kind 32767, which a newer one writes"),
    ];
    for (record, why) in newer {
        let node = stored(&world, 1, &both).await;
        node.insert(place.clone(), record);
        let before = node.entries();
        let engine = start(&world, 1, &node).await.engine;
        let said = engine.damage(both[0]).unwrap();
        assert!(said.starts_with(&format!("record {last}: ")) && said.contains(why), "{said}");
        assert_eq!(engine.damage(both[1]), None);
        assert_eq!(node.entries(), before);
    }
}

// S33
#[tokio::test]
async fn a_step_that_a_newer_plugin_has_begun_is_left_to_it() {
    let mut world = Scenario::new(92).clients(1).unchecked().world().unwrap();
    let both = [(); 2].map(|()| world.make_factory(&Offer::default()).unwrap());
    let node = stored(&world, LSP, &both).await;
    node.insert(key(&["journal", "0000"]), vec![1, 2, 9]);
    let before = node.entries();
    let why = try_start(&world, LSP, &node).await.err().unwrap();
    assert!(why.contains("the journal's version 2 is newer than this plugin's 1"), "{why}");
    assert_eq!(node.entries(), before, "a step that can't be read is neither finished nor given up");
    // The newer one has finished it.
    node.remove(&key(&["journal", "0000"]));
    let engine = start(&world, LSP, &node).await.engine;
    assert!(both.iter().all(|one| engine.factory(*one).unwrap().restored().is_none()));
}
