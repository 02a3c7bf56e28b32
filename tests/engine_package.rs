//! Exit packages: what is in one, and by when it has to be sent (S19, S21, S26, S39).

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;

use common::closes::{close, paid};
use common::factory;
use factory_engine::chain::package::path_left_out;
use factory_engine::types::{Height, InstanceId, Txid};
use factory_engine::{Command, Config, Packaged, Part, Refusal, State, package};
use factory_lab::scenario::Scenario;
use factory_lab::world::{LSP, World};

const STOCK: u64 = 300_000;

fn keeps(config: &mut Config) {
    config.backup_file = true;
    config.min_keepers = 1;
}

/// What a member's package has of one part.
fn parts(world: &World, at: usize, instance: InstanceId, part: Part) -> Vec<Packaged> {
    let all = package(factory(world, at, instance));
    all.into_iter().filter(|packaged| packaged.part == part).collect()
}

fn timeout(world: &World, instance: InstanceId) -> Height {
    factory(world, LSP, instance).current.terms.timeout_height
}

/// The node itself sends one of these at just the height that its package names, and none before.
fn begins_at(world: &mut World, at: usize, latest: Height, txids: &[Txid]) {
    let sent = |world: &World| world.sent.iter().any(|sent| sent.at == at && txids.contains(&sent.txid));
    world.mine_to(latest - 1).unwrap();
    assert!(!sent(world), "{:?}", world.sent);
    world.mine(1).unwrap();
    assert!(sent(world), "{:?}", world.sent);
}

/// S39: a client that has lost its channels could close none on chain: its package has no path, and says why;
/// what it bought and what pays it from the timeout on stay. An operator needs its paths all the same.
#[test]
fn whoever_lost_its_channels_exports_no_path() {
    for at in [1, LSP] {
        let scenario = Scenario::new(21).clients(4).stock(STOCK).config(keeps);
        let (mut world, instance) = scenario.sold(&[(1, 50_000)]).unwrap();
        let before = package(factory(&world, at, instance));
        assert_eq!(path_left_out(factory(&world, at, instance)), None);
        assert!(before.iter().any(|one| one.part == Part::Path), "member {at}");
        let timeout = timeout(&world, instance);
        world.lose_machine(at, false).unwrap();
        world.settle().unwrap();
        let lost = factory(&world, at, instance);
        assert!(lost.has_lost_channels());
        let why = (at != LSP).then_some(Refusal::ChannelsLost { instance, timeout });
        assert_eq!(path_left_out(lost), why);
        let stays = |one: &Packaged| at == LSP || one.part != Part::Path;
        let rest: Vec<Packaged> = before.into_iter().filter(stays).collect();
        assert_eq!(package(lost), rest, "member {at}");
        assert!(rest.iter().any(|one| one.part == Part::Sale), "member {at}");
    }
}

/// S39: neither has a client whose channel isn't there yet: its leaf would be locked up in the same way.
#[test]
fn without_a_channel_there_is_no_path() {
    let (mut world, instance) = Scenario::new(22).clients(4).begun().unwrap();
    let signed = |world: &World| world.state(2, instance) == Some(State::Storing);
    world.run_until("client 2 has stored its transactions", signed).unwrap();
    let timeout = timeout(&world, instance);
    let refused = Refusal::NoChannelToExit { instance, timeout };
    assert_eq!(path_left_out(factory(&world, 2, instance)), Some(refused));
    assert_eq!(parts(&world, 2, instance, Part::Path), []);
    assert!(!parts(&world, 2, instance, Part::Distribution).is_empty());
    assert_eq!(world.finish(instance).unwrap(), State::Active);
    assert_eq!(path_left_out(factory(&world, 2, instance)), None);
    assert!(!parts(&world, 2, instance, Part::Path).is_empty());
}

/// S19: a buyer's package says when its path has to be begun, which is when its node begins; each purchase
/// makes it earlier. Whoever has bought nothing has all the time.
#[test]
fn a_buyers_path_says_when_it_has_to_begin() {
    let scenario = Scenario::new(23).clients(4).stock(STOCK);
    let (mut world, instance) = scenario.sold(&[(1, 50_000)]).unwrap();
    let by = |world: &World, at: usize| -> Vec<Option<Height>> {
        parts(world, at, instance, Part::Path).iter().map(|one| one.publish_by).collect()
    };
    let end = timeout(&world, instance);
    let early = |world: &World, number| {
        Some(end - u32::from(factory(world, 1, instance).sale_blocks_early(0, number)))
    };
    assert!(by(&world, 1).iter().all(|by| *by == early(&world, 1)));
    world.buy(1, instance, 40_000, u64::MAX).unwrap();
    assert!(by(&world, 1).iter().all(|by| *by == early(&world, 2)) && early(&world, 2) < early(&world, 1));
    assert!(by(&world, 2).iter().all(Option::is_none));
    let (first, latest) = (parts(&world, 1, instance, Part::Path)[0].txid, by(&world, 1)[0].unwrap());
    world.stop(LSP);
    begins_at(&mut world, 1, latest, &[first]);
}

/// S26: once what it spends is on chain, a client's sale says by when it has to be sent: it is in a block,
/// with time to confirm, before the first that may have the operator's spend of the stock.
#[test]
fn a_sale_says_when_it_has_to_be_sent() {
    let scenario = Scenario::new(24).clients(4).stock(STOCK);
    let (mut world, instance) = scenario.sold(&[(1, 50_000)]).unwrap();
    assert_eq!(parts(&world, 1, instance, Part::Sale)[0].publish_by, None);
    world.command(LSP, Command::Evict { instance, clients: vec![0] }).unwrap();
    world.mine(4).unwrap();
    let known = factory(&world, 1, instance);
    let terms = &known.current.terms;
    let takes = known.leaf_height(0).unwrap() + u32::from(terms.stock_csv);
    let by = takes - 1 - u32::from(terms.confirm_blocks);
    assert_eq!(parts(&world, 1, instance, Part::Sale)[0].publish_by, Some(by));
}

/// S21: an operator's package says of each transaction of the tree when its node begins at the latest.
#[test]
fn an_operators_paths_say_when_eviction_begins() {
    let (mut world, instance) = Scenario::new(25).clients(6).active().unwrap();
    let paths = parts(&world, LSP, instance, Part::Path);
    let first = factory(&world, LSP, instance).next_eviction().unwrap();
    assert_eq!(paths.iter().map(|one| one.publish_by).min(), Some(Some(first)));
    assert!(paths.iter().all(|one| one.publish_by >= paths[0].publish_by));
    begins_at(&mut world, LSP, first, &paths.iter().map(|one| one.txid).collect::<Vec<_>>());
}

/// S19, S21: an operator needs its close before the timeout; a client has as much by its distribution.
#[test]
fn a_close_is_the_operators_to_send_in_time() {
    let (mut world, instance) = paid(26, 2);
    close(&mut world, instance).unwrap();
    let end = timeout(&world, instance);
    let confirm = u32::from(factory(&world, LSP, instance).current.terms.confirm_blocks);
    let by = |at| parts(&world, at, instance, Part::Close)[0].publish_by;
    assert_eq!((by(LSP), by(1), by(2)), (Some(end - confirm), None, None));
}
