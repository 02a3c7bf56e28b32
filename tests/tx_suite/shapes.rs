//! The layout's structure for all sizes, and the planner.

use bitcoin::Amount;
use factory_engine::terms::{Kind, Shape, Terms};
use factory_engine::tx::child::usual_weight;
use factory_engine::tx::layout::{Layout, MAX_EXIT_BLOCKS, NodeKind, Output, SpendRole, vbytes};
use factory_engine::tx::plan::{Delays, PlanError, Profile, shape_for, shape_with};

use crate::support::{leaf, level, planned, shapes, terms};

/// S32: whoever is left out, the longest exit of the others takes no more blocks or vB than before. A client
/// holds a later attempt to that.
#[test]
fn fewer_clients_never_make_the_longest_exit_worse() {
    let planned_shapes =
        Profile::ALL.into_iter().map(|profile| ("planned", shape_for(64, profile).unwrap(), 50_001));
    for (name, shape, stock) in shapes().into_iter().chain(planned_shapes) {
        let mut before = (0, 0);
        for clients in 1..=64 {
            let layout = Layout::new(&terms(clients, shape.clone(), stock)).unwrap();
            let vbytes = (0..clients).map(|client| layout.exit_cost(client).vbytes).max().unwrap();
            let now = (layout.worst_blocks_early(), vbytes);
            assert!(
                now.0 >= before.0 && now.1 >= before.1,
                "{name}, {clients} clients: {before:?} to {now:?}"
            );
            before = now;
        }
    }
}

/// What must hold for every layout.
fn check(layout: &Layout) {
    let terms = layout.terms();
    let clients = terms.clients();
    let nodes = layout.nodes();
    let mut channels = Vec::new();
    let mut stocks = Vec::new();
    for (index, node) in (0..).zip(nodes) {
        let coin = &layout.coins()[index as usize];
        assert_eq!((&coin.clients, coin.value), (&node.clients, node.input_value));
        assert_eq!((coin.source, coin.stock), (node.parent, false));
        assert_eq!(node.outputs.last(), Some(&Output::Anchor));
        let mut next = node.clients.start;
        for (vout, (output, value)) in (0..).zip(node.outputs.iter().zip(&node.output_values)) {
            match output {
                Output::Child(child) => {
                    let child = &nodes[*child as usize];
                    assert_eq!((child.parent, child.input_value), (Some((index, vout)), *value));
                    assert_eq!((child.depth, child.clients.start), (node.depth + 1, next));
                    next = child.clients.end;
                }
                Output::Channel(client) => {
                    assert_eq!((*client, *value), (next, terms.capacities[*client as usize]));
                    assert_eq!(layout.channel_place(*client), Some((index, vout)));
                    channels.push(*client);
                    next += 1;
                }
                Output::Stock(coin) => {
                    let stock = &layout.coins()[*coin as usize];
                    assert_eq!((stock.value, *value), (terms.stock, terms.stock));
                    assert_eq!((stock.source, stock.stock), (Some((index, vout)), true));
                    assert_eq!(stock.clients.end, next);
                    stocks.push(*coin);
                }
                Output::Anchor => assert_eq!(*value, Amount::from_sat(240)),
            }
        }
        assert_eq!(next, node.clients.end);
        // A node over one leaf is the leaf: only kickoffs have a single child.
        let children = node.outputs.iter().filter(|out| matches!(out, Output::Child(_))).count();
        assert_eq!(children == 1, node.kind == NodeKind::Kickoff);
        assert_eq!(node.sequence == 0xffff_fffd, node.kind != NodeKind::State);
    }
    assert!(channels.into_iter().eq(0..clients), "every client once, in order");
    let first_stock = nodes.len() as u32;
    assert!(stocks.into_iter().eq(first_stock..layout.coins().len() as u32));
    let worst = (0..clients).map(|client| layout.blocks_early(client)).max();
    assert_eq!(worst, Some(layout.worst_blocks_early()));
    assert!(u32::from(layout.worst_blocks_early()) <= MAX_EXIT_BLOCKS);
    assert_eq!(layout.blocks_early(clients), layout.worst_blocks_early());
    assert!(layout.path(clients).is_empty() && layout.client_coins(clients).is_empty());
    assert_eq!(layout.channel_place(clients), None);
}

#[test]
fn every_size_has_the_same_structure() {
    for (_, shape, stock) in shapes() {
        for clients in 1..=64 {
            let terms = terms(clients, shape.clone(), stock);
            let layout = Layout::new(&terms).unwrap();
            check(&layout);
            // Deterministic: another member gets the same.
            let again = Layout::new(&terms).unwrap();
            assert_eq!((again.nodes(), again.coins()), (layout.nodes(), layout.coins()));
        }
    }
}

/// A factory of one leaf is one transaction, whatever levels its shape would allow.
#[test]
fn one_leaf_spends_the_funding() {
    let (_, shape, stock) = shapes().remove(0);
    let layout = Layout::new(&terms(4, shape, stock)).unwrap();
    assert_eq!((layout.nodes().len(), layout.coins().len()), (1, 3));
    assert_eq!(layout.nodes()[0].parent, None);
    let outputs = [
        Output::Channel(0),
        Output::Channel(1),
        Output::Stock(1),
        Output::Channel(2),
        Output::Channel(3),
        Output::Stock(2),
        Output::Anchor,
    ];
    assert_eq!(layout.nodes()[0].outputs, outputs);
    let stateful = Shape { levels: vec![], leaf: leaf(Kind::Stateful, 1, 4) };
    let layout = Layout::new(&terms(4, stateful, 0)).unwrap();
    let kinds: Vec<_> = layout.nodes().iter().map(|node| node.kind).collect();
    assert_eq!(kinds, [NodeKind::Kickoff, NodeKind::State]);
    assert_eq!(layout.path(3), [0, 1]);
}

/// Leaves are spread evenly: 5 leaves under arity 4 and 2 are parts of 2, 1, 1 and 1.
#[test]
fn leaves_are_spread_evenly() {
    let shape = Shape {
        levels: vec![level(4, Kind::Static), level(2, Kind::Static)],
        leaf: leaf(Kind::Static, 1, 2),
    };
    let layout = Layout::new(&terms(10, shape, 0)).unwrap();
    let below: Vec<_> = layout.nodes()[0]
        .outputs
        .iter()
        .filter_map(|output| match output {
            Output::Child(child) => Some(layout.nodes()[*child as usize].clients.clone()),
            _ => None,
        })
        .collect();
    assert_eq!(below, [0..4, 4..6, 6..8, 8..10]);
    assert_eq!((layout.path(0).len(), layout.path(9).len()), (3, 2));
}

/// S17: blocks_early is the sum that the design writes down.
#[test]
fn exit_costs_add_up() {
    let (_, shape, stock) = shapes().remove(1);
    // 16 leaves under arity 2: four stateful levels, then the leaf.
    let layout = Layout::new(&terms(64, shape, stock)).unwrap();
    let cost = layout.exit_cost(17);
    assert_eq!(cost.transactions, 9);
    assert_eq!(cost.blocks, 4 * 12 + 9 * 6);
    assert_eq!(u32::from(layout.blocks_early(17)), cost.blocks + 12);
    let sum: u64 = layout.path(17).iter().map(|node| layout.nodes()[*node as usize].vbytes).sum();
    assert_eq!(cost.vbytes, sum);
    assert!(cost.fees >= Amount::from_sat(cost.vbytes));
    assert_eq!(layout.exit_cost(64).transactions, 0);
}

#[test]
fn sessions_come_in_order() {
    let (_, shape, stock) = shapes().remove(2);
    let layout = Layout::new(&terms(20, shape, stock)).unwrap();
    let all = layout.sessions(None);
    assert!(all.is_sorted());
    for (coin, spec) in (0..).zip(layout.coins()) {
        let roles: Vec<_> = all.iter().filter(|id| id.coin == coin).map(|id| id.role).collect();
        let both = [SpendRole::State, SpendRole::Distribution];
        assert_eq!(roles, both[usize::from(spec.stock)..]);
    }
    for client in 0..20 {
        let own = layout.sessions(Some(client));
        let member = |coin: u32| layout.coins()[coin as usize].clients.contains(&client);
        let expected: Vec<_> = all.iter().copied().filter(|id| member(id.coin)).collect();
        assert_eq!(own, expected);
    }
}

#[test]
fn plans_make_factories() {
    for profile in Profile::ALL {
        assert_eq!(profile.name().parse(), Ok(profile));
        for clients in (1..=200).chain([511, 1_000, 2_048, 4_095, 4_096]) {
            if profile == Profile::Flat && clients > 153 {
                let refusal = shape_for(clients, profile);
                assert!(matches!(refusal, Err(PlanError::TooLargeForFlat { .. })), "{clients}");
                continue;
            }
            let layout = Layout::new(&planned(clients, profile, 20_000)).unwrap();
            if clients <= 200 {
                check(&layout);
            }
        }
    }
}

/// No uniform arity from 2 to 8 gets the client that is worst off out for fewer vB, with a child for each
/// transaction.
#[test]
fn plans_are_cheapest() {
    let worst = |terms: &Terms| {
        let layout = Layout::new(terms).unwrap();
        let costs = (0..terms.clients()).map(|client| layout.exit_cost(client));
        let child = vbytes(usual_weight());
        costs.map(|cost| (cost.vbytes + u64::from(cost.transactions) * child, cost.blocks)).max().unwrap()
    };
    for profile in [Profile::Static, Profile::Stateful] {
        let kind = if profile == Profile::Static { Kind::Static } else { Kind::Stateful };
        for clients in [5, 8, 9, 17, 33, 64, 65, 127, 128, 300, 1_000] {
            let mut terms = planned(clients, profile, 20_000);
            let best = worst(&terms);
            for arity in 2..=8 {
                terms.shape.levels = vec![level(arity, kind); 9];
                // Some of these wait too long: no competition.
                if Layout::new(&terms).is_ok() {
                    assert!(best.0 <= worst(&terms).0, "{clients} clients, arity {arity}");
                }
            }
        }
    }
    // The default profile for 127 clients: 32 leaves under two static levels.
    let shape = shape_for(127, Profile::default()).unwrap();
    assert_eq!(shape.leaf, leaf(Kind::Static, 2, 2));
    assert!(shape.levels.iter().all(|level| level.kind == Kind::Static));
    assert_eq!(shape.levels.len(), 2);
}

#[test]
fn impossible_plans_are_refused() {
    assert_eq!(shape_for(0, Profile::Static), Err(PlanError::NoClients));
    let many = PlanError::TooManyClients { clients: 4_097 };
    assert_eq!(shape_for(4_097, Profile::Static), Err(many));
    assert!("fast".parse::<Profile>().is_err());
    let slow = Delays { state_step: 144, state_count: 10, ..Delays::default() };
    let refusal = shape_with(1_000, Profile::Stateful, slow);
    assert!(matches!(refusal, Err(PlanError::ExitTooLong { .. })));
    assert!(shape_with(1_000, Profile::Static, slow).is_ok());
}
