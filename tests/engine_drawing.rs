//! What `factory-show` draws.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;

use common::factory;
use factory_engine::report::drawing::{svg, text};
use factory_engine::tx::sale::limits;
use factory_engine::types::{Amount, InstanceId};
use factory_engine::{Command, PriceList};
use factory_lab::scenario::Scenario;
use factory_lab::world::{LSP, World, losing};

/// The lines that a drawing has of stock and of what was sold of it.
fn lines(world: &World, at: usize, instance: InstanceId) -> Vec<String> {
    let factory = factory(world, at, instance);
    let drawn = text(factory);
    let picture = svg(factory);
    let line = |line: &str| line.find("stock: ").or(line.find("sale ")).map(|at| line[at..].to_owned());
    let lines: Vec<String> = drawn.lines().filter_map(line).collect();
    assert!(lines.iter().all(|line| picture.contains(&format!(">{line}</text>"))), "{picture}");
    lines
}

/// Four clients in one leaf, two sub-factories with stock.
fn with_stock(seed: u64) -> Scenario {
    Scenario::new(seed).clients(4).stock(300_000)
}

#[test]
fn stock_is_what_is_left_of_it() {
    let (mut world, instance) = with_stock(1).active().unwrap();
    let whole = "stock: 300000 sat";
    assert_eq!(lines(&world, LSP, instance), [whole, whole]);
    world.buy(1, instance, 50_000, 0).unwrap();
    world.buy(2, instance, 60_000, 0).unwrap();
    let left = factory(&world, LSP, instance)
        .stock(factory(&world, LSP, instance).current.layout.stock_coin(0).unwrap());
    let left = left.unwrap().value;
    assert!(left < Amount::from_sat(190_000) && left > Amount::from_sat(180_000), "{left}");
    let rest = format!("stock: {} sat of 300000", left.to_sat());
    let sold = ["sale 1 to client 0: 50000 sat, signed", "sale 2 to client 1: 60000 sat, signed"];
    for at in [LSP, 1, 2] {
        assert_eq!(lines(&world, at, instance), [sold[0], sold[1], &rest, whole], "member {at}");
    }
    // Those of the other sub-factory know nothing of it.
    assert_eq!(lines(&world, 3, instance), [whole, whole]);
    world.command(1, Command::Exit { instance }).unwrap();
    world.mine(12).unwrap();
    assert!(lines(&world, 1, instance)[0].starts_with("sale 1 to client 0: 50000 sat, on chain at "));
}

#[test]
fn nothing_left_and_nothing_that_can_be_sold() {
    let (mut world, instance) = with_stock(2).active().unwrap();
    let coin = factory(&world, 1, instance).current.layout.stock_coin(0).unwrap();
    let layout = &factory(&world, 1, instance).current.layout;
    let everything = limits(layout, coin, Amount::from_sat(300_000)).everything.unwrap().to_sat();
    world.buy(1, instance, everything, 0).unwrap();
    let sold = format!("sale 1 to client 0: {everything} sat, signed");
    assert_eq!(lines(&world, LSP, instance)[..2], [sold.as_str(), "stock: all of 300000 sat is sold"]);

    let scenario = with_stock(3).prices(PriceList::of_sales(700_001, 0));
    let (mut world, instance) = scenario.config(|config| config.sale_blocks = 6).active().unwrap();
    world.pay(LSP, 1, 20_000_000).unwrap();
    world.tamper(losing("sale_partial_signatures", 2));
    world.ask(1, instance, 50_000, 700_001).unwrap().unwrap();
    world.run_out().unwrap();
    assert_eq!(lines(&world, LSP, instance)[0], "sale 1 to client 0: 50000 sat, unsigned");
    for _ in 0..6 {
        world.mine(1).unwrap();
        world.run_out().unwrap();
    }
    let given_up = ["sale 1 to client 0: 50000 sat, given up", "stock: 300000 sat of 300000, sold no more"];
    assert_eq!(lines(&world, LSP, instance)[..2], given_up);
}

#[test]
fn one_client_is_no_plural() {
    for (clients, said) in [(1, ", 1 client and the operator"), (2, ", 2 clients and the operator")] {
        let (world, instance) = Scenario::new(4).clients(clients).active().unwrap();
        let factory = factory(&world, LSP, instance);
        assert!(text(factory).lines().next().unwrap().ends_with(said));
        assert!(svg(factory).contains(said));
    }
}
