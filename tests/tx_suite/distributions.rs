//! S20: what distributions pay.

use std::collections::BTreeMap;

use bitcoin::Amount;
use factory_engine::terms::{Kind, Shape};
use factory_engine::tx::layout::{
    Layout, MAX_STANDARD_VBYTES, MAX_V3_VBYTES, MIN_FEERATE, SessionId, SpendRole, fee,
};
use factory_engine::tx::scripts::{ANCHOR_VALUE, DUST, anchor_script};

use crate::support::{Factory, leaf, level, shapes, terms};

/// S20: L gets nothing, each client at least its capacity, everything above dust, and the fee is
/// enough to relay and no fortune.
#[test]
fn distributions_pay_the_clients_and_nobody_else() {
    for (name, shape, stock) in shapes() {
        for clients in [1, 2, 3, 5, 8, 21, 64] {
            for feerate in [253, 2_500, 25_000] {
                let mut terms = terms(clients, shape.clone(), stock);
                terms.tree_feerate = feerate;
                let Ok(layout) = Layout::new(&terms) else {
                    // Small stocks don't pay high fees; that is refused, and tested elsewhere.
                    assert!(stock > 0 && feerate > 253, "{name}");
                    continue;
                };
                check_payouts(&layout);
            }
        }
    }
}

fn check_payouts(layout: &Layout) {
    let terms = layout.terms();
    for (index, coin) in (0..).zip(layout.coins()) {
        let outputs = layout.distribution_outputs(index);
        assert!(outputs.iter().map(|(client, _)| *client).eq(coin.clients.clone()));
        let mut subs: BTreeMap<u32, Vec<Amount>> = BTreeMap::new();
        for (client, value) in &outputs {
            assert!(*value >= DUST);
            let own = if coin.stock { Amount::ZERO } else { terms.capacities[*client as usize] };
            let share = value.checked_sub(own).expect("at least its capacity");
            let sub = client / u32::from(terms.shape.leaf.clients_per_sub);
            subs.entry(sub).or_default().push(share);
        }
        let fee_paid = layout.distribution_fee(index).unwrap();
        for shares in subs.values() {
            // Equal shares, the remainder to the first, one satoshi each.
            assert!(shares.windows(2).all(|pair| pair[0] >= pair[1]));
            assert!(shares[0].to_sat() - shares.last().unwrap().to_sat() <= 1);
            let total: Amount = shares.iter().copied().sum();
            let costs = if coin.stock { fee_paid + ANCHOR_VALUE } else { Amount::ZERO };
            assert_eq!(total + costs, terms.stock);
        }
        let total: Amount = outputs.iter().map(|(_, value)| *value).sum();
        assert_eq!(total + ANCHOR_VALUE + fee_paid, coin.value);
        let weight = coin.distribution_vbytes * 4;
        assert!(fee_paid >= Amount::from_sat(coin.distribution_vbytes), "1 sat/vB relays");
        // Nodes below, with kickoffs and anchors: most for a binary tree down to single clients.
        let anchors = ANCHOR_VALUE * layout.nodes().len() as u64;
        assert!(fee_paid <= fee(weight, terms.tree_feerate).unwrap() * 13 + anchors);
    }
}

/// S20: what is left of a stock is shared out from the value on that gives everybody what isn't dust.
#[test]
fn stock_pays_from_its_least_value_on() {
    let mut stocks = 0;
    for (name, shape, stock) in shapes() {
        for clients in [1, 2, 5, 8] {
            let layout = Layout::new(&terms(clients, shape.clone(), stock)).unwrap();
            for (index, coin) in (0..).zip(layout.coins()) {
                let Some(least) = layout.least_stock(index) else {
                    assert!(!coin.stock, "{name}");
                    assert_eq!(layout.stock_payouts(index, Amount::ONE_BTC), []);
                    continue;
                };
                assert!(coin.stock && least <= coin.value, "{name}");
                let payouts = layout.stock_payouts(index, least);
                assert!(payouts.iter().map(|(client, _)| *client).eq(coin.clients.clone()));
                assert!(payouts.iter().all(|(_, value)| *value == DUST), "{name}: {payouts:?}");
                assert_eq!(layout.stock_payouts(index, least - Amount::from_sat(1)), [], "{name}");
                stocks += 1;
            }
        }
    }
    assert!(stocks > 10, "{stocks}");
}

/// S20: the transactions are what the layout promises, to the clients' own scripts.
#[test]
fn distribution_transactions_pay_payout_scripts() {
    let (_, shape, stock) = shapes().remove(0);
    let factory = Factory::unsigned(&terms(11, shape, stock));
    for (coin, spec) in (0..).zip(factory.layout.coins()) {
        let id = SessionId { coin, role: SpendRole::Distribution };
        let tx = &factory.tree.session(id).unwrap().tx;
        let (anchor, paid) = tx.output.split_last().unwrap();
        assert_eq!((anchor.value, &anchor.script_pubkey), (ANCHOR_VALUE, &anchor_script()));
        let expected = factory.layout.distribution_outputs(coin);
        assert_eq!(paid.len(), expected.len());
        for (output, (client, value)) in paid.iter().zip(expected) {
            assert_eq!(output.value, value);
            let payout = &factory.roster.clients[client as usize].payout;
            assert_eq!(output.script_pubkey, *payout);
            assert!(output.value >= output.script_pubkey.minimal_non_dust());
        }
        assert_eq!(tx.version.0, 3);
        assert!(tx.vsize() as u64 + 17 <= spec.distribution_vbytes, "the witness is 17 vB");
    }
}

/// Large distributions are version 2, and beyond what relays there is none for that coin, but one
/// for each coin below it.
#[test]
fn large_distributions() {
    let shape =
        |levels| Shape { levels: vec![level(8, Kind::Static); levels], leaf: leaf(Kind::Static, 2, 2) };
    let layout = Layout::new(&terms(1_000, shape(3), 10_000)).unwrap();
    assert_eq!(layout.coins()[0].distribution_version, 2);
    assert!(layout.coins()[0].has_distribution);
    let layout = Layout::new(&terms(4_096, shape(4), 10_000)).unwrap();
    let root = &layout.coins()[0];
    assert!(!root.has_distribution && root.distribution_vbytes > MAX_STANDARD_VBYTES);
    assert!(layout.distribution_outputs(0).is_empty());
    assert_eq!(layout.distribution_fee(0), None);
    assert_eq!(layout.sessions(Some(7))[0], SessionId { coin: 0, role: SpendRole::State });
    assert_eq!(layout.sessions(Some(7))[1].coin, 1);
    for client in [0, 2_047, 4_095] {
        let sessions = layout.sessions(Some(client));
        let own = layout.client_coins(client);
        assert!(sessions.iter().any(|id| id.role == SpendRole::Distribution && id.coin == own[1]));
    }
    for coin in layout.coins() {
        let version = if coin.distribution_vbytes <= MAX_V3_VBYTES { 3 } else { 2 };
        assert_eq!(coin.distribution_version, version);
    }
}

/// The sizes that the layout reckons with are those of real, signed transactions.
#[test]
fn sizes_and_fees_are_real() {
    for (name, shape, stock) in shapes() {
        let factory = Factory::signed(&terms(9, shape, stock));
        for (index, node) in (0..).zip(factory.layout.nodes()) {
            let id = SessionId { coin: index, role: SpendRole::State };
            let tx = factory.tree.signed(id, &factory.signatures[&id]).unwrap();
            assert_eq!(tx.vsize() as u64, node.vbytes, "{name}");
            assert_eq!(tx.version.0, 3);
            let paid: Amount = tx.output.iter().map(|output| output.value).sum();
            assert_eq!(node.input_value - paid, node.fee);
            assert_eq!(Some(node.fee), fee(tx.weight().to_wu(), MIN_FEERATE));
            // What a node relays at when nobody raises its fee.
            assert!(node.fee >= Amount::from_sat(node.vbytes));
        }
    }
}
