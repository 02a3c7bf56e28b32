//! What else a planner could have chosen: no shape is better than the default, and what is listed is
//! what its layout says.

use bitcoin::Amount;
use factory_engine::terms::{Kind, Shape, Terms};
use factory_engine::tx::layout::{Layout, LayoutError, MAX_CLIENTS, MAX_V3_VBYTES};
use factory_engine::tx::plan::frontier::{Point, frontier, notable};
use factory_engine::tx::plan::{PlanError, Profile, shape_for};

use crate::support::{leaf, level, planned};

const STOCK: u64 = 20_000;

fn default_of(points: &[Point]) -> &Point {
    let defaults: Vec<_> = points.iter().filter(|point| point.default).collect();
    assert_eq!(defaults.len(), 1);
    defaults[0]
}

/// The goal: out of 127, with stock, for at most 1,020 vB and 4 transactions, and nothing to wait for.
#[test]
fn an_exit_from_127() {
    let layout = Layout::new(&planned(127, Profile::default(), STOCK)).unwrap();
    assert_eq!(layout.terms().shape.leaf, leaf(Kind::Static, 2, 2));
    for client in 0..127 {
        let cost = layout.exit_cost(client);
        assert!(cost.vbytes <= 1_020, "client {client}: {} vB", cost.vbytes);
        assert!(cost.transactions <= 4, "client {client}: {} transactions", cost.transactions);
        assert_eq!(cost.blocks, cost.transactions * 6, "confirmations, no nSequence blocks");
    }
    let point = Point::of(&layout);
    assert_eq!((point.exit_vbytes, point.exit_transactions, point.timelock_blocks), (1_017, 3, 0));
}

/// With stock, that is; docs/planning.md says how it is without.
#[test]
fn the_default_is_on_the_frontier() {
    let beaten = |clients: u32, profile: Profile| {
        let points = frontier(&planned(clients, profile, STOCK), profile);
        let own = default_of(&points);
        points.iter().any(|point| point.dominates(own))
    };
    for profile in Profile::ALL {
        for clients in [1, 2, 3, 4, 8, 13, 16, 64, 127, 1_000] {
            if profile != Profile::Flat || clients < 153 {
                assert!(!beaten(clients, profile), "{clients} clients, {profile}");
            }
        }
    }
    let worse: Vec<u32> = (1..=200).filter(|clients| beaten(*clients, Profile::Static)).collect();
    assert!(worse.is_empty(), "there is a better shape for {worse:?} clients");
}

/// Not only among what the frontier tries: every leaf and all arities up to 8 on up to three levels.
#[test]
fn no_shape_at_all_beats_the_default() {
    for clients in [5, 8, 16, 37, 64] {
        let mut terms = planned(clients, Profile::Static, STOCK);
        let own = Point::of(&Layout::new(&terms).unwrap());
        let mut tried = 0;
        for (subs, size) in (1..=8).flat_map(|subs| (1..=4).map(move |size| (subs, size))) {
            for arities in 0..8u16.pow(3) {
                let digits = [arities / 64, arities / 8 % 8, arities % 8];
                let levels = digits.into_iter().filter(|digit| *digit > 0);
                let levels = levels.map(|digit| level(digit + 1, Kind::Static)).collect();
                terms.shape = Shape { levels, leaf: leaf(Kind::Static, subs, size) };
                if let Ok(layout) = Layout::new(&terms) {
                    tried += 1;
                    assert!(!Point::of(&layout).dominates(&own), "{clients} clients: {:?}", terms.shape);
                }
            }
        }
        assert!(tried > 5_000, "{clients} clients: {tried} shapes");
    }
}

/// Each line is what its layout says, counted another way.
#[test]
fn points_are_what_layouts_say() {
    for (clients, profile) in [(23, Profile::Static), (64, Profile::Stateful), (40, Profile::Flat)] {
        let terms = planned(clients, profile, STOCK);
        let points = frontier(&terms, profile);
        assert!(points.len() > 3, "{clients} clients, {profile}: {points:?}");
        for point in &points {
            let layout = Layout::new(&Terms { shape: point.shape.clone(), ..terms.clone() }).unwrap();
            let costs: Vec<_> = (0..clients).map(|client| layout.exit_cost(client)).collect();
            assert_eq!(costs.iter().map(|cost| cost.vbytes).max(), Some(point.exit_vbytes));
            assert_eq!(costs.iter().map(|cost| cost.transactions).max(), Some(point.exit_transactions));
            assert_eq!(costs.iter().map(|cost| cost.blocks).max(), Some(point.exit_blocks));
            // Each client signs its own sessions, L all of them.
            let members = (0..clients).map(Some).chain([None]);
            let signatures: usize = members.map(|who| layout.sessions(who).len()).sum();
            assert_eq!(point.partial_signatures, signatures as u64);
            assert_eq!(point.sessions, layout.sessions(None).len() as u64);
            let size = u32::from(point.shape.leaf.clients_per_sub).min(clients);
            assert_eq!(point.sale_members, size + 1);
            assert!(point.leaf_clients >= size && point.leaf_clients <= clients);
            assert_eq!(point.transactions as usize, layout.nodes().len());
            assert_eq!(profile == Profile::Stateful, point.timelock_blocks > 0);
        }
    }
}

/// Sorted, no line is better than another, and none is there twice.
#[test]
fn a_frontier_holds_no_shape_that_another_beats() {
    for clients in [1, 2, 3, 5, 7, 31, 127, 500] {
        for (profile, stock) in [(Profile::Static, STOCK), (Profile::Static, 0), (Profile::Stateful, STOCK)] {
            let points = frontier(&planned(clients, profile, stock), profile);
            assert!(points.iter().all(|point| stock > 0 || point.sale_members == 0));
            assert!(points.is_sorted_by_key(|point| point.raised_vbytes));
            for (at, point) in points.iter().enumerate() {
                let others = points.iter().enumerate().filter(|(other, _)| *other != at);
                for (_, other) in others.filter(|(_, other)| !point.default && !other.default) {
                    assert!(!other.dominates(point), "{other:?} beats {point:?}");
                    assert_ne!(other.shape, point.shape);
                }
            }
            let few = notable(&points);
            assert!(few.iter().all(|point| points.contains(point)));
            assert_eq!(default_of(&few), default_of(&points));
        }
    }
}

/// A list for people stays one, and is there at once, for the largest factory too.
#[test]
fn it_is_bounded() {
    for profile in Profile::ALL {
        for clients in [127, 4_096] {
            if profile == Profile::Flat && clients > 153 {
                continue;
            }
            let points = frontier(&planned(clients, profile, STOCK), profile);
            assert!(points.len() <= 160, "{clients} clients, {profile}: {}", points.len());
            assert!(notable(&points).len() <= 48, "{clients} clients, {profile}");
            assert!(points.iter().all(|point| point.vbytes / u64::from(point.transactions) <= MAX_V3_VBYTES));
        }
    }
}

/// What the terms don't allow is no alternative.
#[test]
fn only_what_the_terms_allow() {
    let mut terms = planned(64, Profile::Static, STOCK);
    let most = |terms: &Terms| {
        let points = frontier(terms, Profile::Static);
        points.iter().map(|point| point.shape.leaf.clients_per_sub).max()
    };
    assert_eq!(most(&terms), Some(4));
    // Stock that two clients can share, and no three.
    terms.stock = Amount::from_sat(2 * 330 + 240 + 170);
    assert_eq!(most(&terms), Some(2));
    // Nor is there any where their own shape is none.
    terms.stock = Amount::from_sat(1);
    assert_eq!(most(&terms), None);
}

/// Any number of clients gets a factory or the reason why not.
#[test]
fn numbers_of_clients() {
    let sizes = [1, 2, 3, 5, 7, 11, 13, 97, 127, 251, 1_009, 2_039, 4_093, 4_095, 4_096];
    for clients in sizes {
        let layout = Layout::new(&planned(clients, Profile::Static, STOCK)).unwrap();
        assert!((0..clients).all(|client| !layout.path(client).is_empty()), "{clients} clients");
    }
    for profile in Profile::ALL {
        let none = shape_for(0, profile).unwrap_err();
        assert_eq!(none, PlanError::NoClients);
        assert_eq!(none.to_string(), "a factory needs at least one client");
        for clients in [MAX_CLIENTS + 1, 100_000, u32::MAX] {
            let many = shape_for(clients, profile).unwrap_err();
            assert_eq!(many, PlanError::TooManyClients { clients });
            let text = format!("{clients} clients: a factory has 1 to 4096, split them into several");
            assert_eq!(many.to_string(), text);
        }
    }
}

/// From dust to all bitcoin there will ever be.
#[test]
fn capacities() {
    for clients in [1, 2, 127] {
        let with = |sat: u64| {
            let mut terms = planned(clients, Profile::Static, 0);
            terms.capacities = vec![Amount::from_sat(sat); clients as usize];
            let points = frontier(&terms, Profile::Static);
            let layout = Layout::new(&terms);
            assert_eq!(points.is_empty(), layout.is_err(), "{clients} clients with {sat} sat");
            layout
        };
        for dust in [0, 1, 329, 330, 545, 546, 9_999] {
            let capacity = Amount::from_sat(dust);
            assert_eq!(with(dust), Err(LayoutError::ChannelTooSmall { client: 0, capacity }));
        }
        let least = with(10_000).unwrap();
        let all = Amount::MAX_MONEY.to_sat();
        // The funding holds fees and anchors, too.
        let costs = least.funding_value().to_sat() - 10_000 * u64::from(clients);
        let most = (all - costs) / u64::from(clients);
        let rest = (all - costs) % u64::from(clients);
        assert_eq!(with(most).unwrap().funding_value().to_sat(), all - rest);
        for much in [most + 1, all, all + 1, u64::MAX / 1_000, u64::MAX] {
            assert_eq!(with(much), Err(LayoutError::AmountsTooLarge), "{clients} clients with {much} sat");
        }
    }
}
