//! S11, S19: what a party holds, checked as if everybody else had vanished.

use factory_engine::tx::layout::{Layout, SessionId, SpendRole};
use factory_engine::tx::verify::{Problem, Report, Rule, verify_holdings};

use crate::support::{Factory, shapes, terms};

#[test]
fn complete_holdings_are_good() {
    for (name, shape, stock) in shapes() {
        let factory = Factory::signed(&terms(10, shape, stock));
        let (layout, signatures) = (&factory.layout, &factory.signatures);
        let all = verify_holdings(layout, &factory.tree, signatures).unwrap();
        assert_eq!(all.channels, 10);
        assert_eq!(all.nodes as usize, layout.nodes().len());
        assert_eq!(all.distributions as usize, layout.coins().len());
        for client in 0..10 {
            // A client holds its own sessions' signatures, no others.
            let own = layout.sessions(Some(client));
            let held = own.iter().map(|id| (*id, signatures[id])).collect();
            let report = verify_holdings(layout, &factory.client_tree(client), &held).unwrap();
            let expected = Report {
                nodes: layout.path(client).len() as u32,
                distributions: layout.client_coins(client).len() as u32,
                channels: 1,
            };
            assert_eq!(report, expected, "{name}");
        }
    }
}

/// S11: a missing or foreign signature is found, wherever it is; all of them, not just the first.
#[test]
fn every_gap_is_found() {
    let (_, shape, stock) = shapes().remove(1);
    let factory = Factory::signed(&terms(10, shape, stock));
    let tree = factory.client_tree(7);
    let own = factory.layout.sessions(Some(7));
    for id in &own {
        let mut held = factory.signatures.clone();
        held.remove(id);
        let problems = verify_holdings(&factory.layout, &tree, &held).unwrap_err();
        assert_eq!(problems, [Problem::NoSignature(*id)]);
        // Another session's signature in its place.
        let other = own.iter().find(|other| *other != id).unwrap();
        held.insert(*id, factory.signatures[other]);
        let problems = verify_holdings(&factory.layout, &tree, &held).unwrap_err();
        assert!(matches!(&problems[..], [Problem::Invalid(found, _)] if found == id));
        assert!(problems[0].to_string().contains(&format!("coin {}", id.coin)));
    }
    let none = Default::default();
    let problems = verify_holdings(&factory.layout, &tree, &none).unwrap_err();
    assert_eq!(problems.len(), own.len());
}

/// Transactions of other terms than those that were accepted are found out one by one (S3).
#[test]
fn other_terms_are_found() {
    let (_, shape, stock) = shapes().remove(1);
    let accepted = terms(10, shape, stock);
    let factory = Factory::signed(&accepted);
    let check = |change: &dyn Fn(&mut factory_engine::terms::Terms)| {
        let mut other = accepted.clone();
        change(&mut other);
        let layout = Layout::new(&other).unwrap();
        verify_holdings(&layout, &factory.tree, &factory.signatures).unwrap_err()
    };
    let has = |problems: &[Problem], role: SpendRole, rule: Rule| {
        problems.iter().any(|problem| {
            matches!(problem, Problem::Wrong(SessionId { role: of, .. }, broken)
                if *of == role && *broken == rule)
        })
    };
    let later = check(&|terms| terms.timeout_height += 1);
    assert!(has(&later, SpendRole::Distribution, Rule::LockTime));
    assert!(!has(&later, SpendRole::State, Rule::LockTime));
    let slower = check(&|terms| terms.state_step += 1);
    assert!(has(&slower, SpendRole::State, Rule::Sequence));
    let richer = check(&|terms| terms.capacities[3] += bitcoin::Amount::from_sat(1));
    assert!(has(&richer, SpendRole::State, Rule::Prevout));
    assert!(richer.contains(&Problem::Channel(3)));
    let dearer = check(&|terms| terms.tree_feerate += 1);
    assert!(has(&dearer, SpendRole::State, Rule::Prevout));
    // The same sums, shared out differently.
    let swapped = check(&|terms| terms.capacities.swap(0, 1));
    assert!(has(&swapped, SpendRole::Distribution, Rule::Outputs));
    assert!(has(&swapped, SpendRole::State, Rule::Outputs));
    assert!(swapped.contains(&Problem::Channel(0)) && swapped.contains(&Problem::Channel(1)));
}
