//! Terms that make no factory, each refused with a text that says what to change.

use bitcoin::Amount;
use factory_engine::terms::{Kind, Terms};
use factory_engine::tx::layout::{Layout, LayoutError};

use crate::support::{leaf, level, shapes, terms};

fn stateful() -> Terms {
    let (_, shape, stock) = shapes().remove(1);
    terms(10, shape, stock)
}

fn refused(change: impl Fn(&mut Terms)) -> LayoutError {
    let mut terms = stateful();
    Layout::new(&terms).unwrap();
    change(&mut terms);
    let error = Layout::new(&terms).unwrap_err();
    assert!(error.to_string().len() > 40, "says what to change: {error}");
    error
}

#[test]
fn clients() {
    assert_eq!(refused(|terms| terms.capacities.clear()), LayoutError::NoClients);
    let many = refused(|terms| terms.capacities = vec![Amount::from_sat(20_000); 4_097]);
    assert_eq!(many, LayoutError::TooManyClients { clients: 4_097 });
}

#[test]
fn shape() {
    let arity = refused(|terms| terms.shape.levels[1].arity = 1);
    assert_eq!(arity, LayoutError::ArityTooSmall { level: 1, arity: 1 });
    let few = refused(|terms| terms.shape.levels.truncate(1));
    assert_eq!(few, LayoutError::TooFewLevels { leaves: 3, held: 2 });
    let none = refused(|terms| terms.shape.levels.clear());
    assert_eq!(none, LayoutError::TooFewLevels { leaves: 3, held: 1 });
    let deep = refused(|terms| terms.shape.levels = vec![level(2, Kind::Static); 13]);
    assert_eq!(deep, LayoutError::TooManyLevels { levels: 13 });
    for empty in [leaf(Kind::Static, 0, 2), leaf(Kind::Static, 2, 0)] {
        let error = refused(|terms| terms.shape.leaf = empty);
        assert_eq!(error, LayoutError::LeafWithoutClients);
    }
    let flat = refused(|terms| {
        terms.shape.leaf = leaf(Kind::Static, 200, 1);
        terms.capacities = vec![Amount::from_sat(20_000); 200];
    });
    assert!(matches!(flat, LayoutError::TransactionTooLarge { outputs: 400, .. }));
    let wide = refused(|terms| {
        terms.shape.levels = vec![level(300, Kind::Static)];
        terms.shape.leaf = leaf(Kind::Static, 1, 1);
        terms.capacities = vec![Amount::from_sat(20_000); 300];
    });
    assert!(matches!(wide, LayoutError::TransactionTooLarge { outputs: 300, .. }));
}

#[test]
fn amounts() {
    let small = Amount::from_sat(9_999);
    let channel = refused(|terms| terms.capacities[6] = small);
    assert_eq!(channel, LayoutError::ChannelTooSmall { client: 6, capacity: small });
    let much = refused(|terms| terms.capacities[6] = Amount::MAX);
    assert_eq!(much, LayoutError::AmountsTooLarge);
    let together = refused(|terms| terms.capacities = vec![Amount::MAX_MONEY; 2]);
    assert_eq!(together, LayoutError::AmountsTooLarge);
    let fees = refused(|terms| terms.capacities = vec![Amount::MAX_MONEY; 1]);
    assert_eq!(fees, LayoutError::AmountsTooLarge);
    let stock = refused(|terms| terms.stock = Amount::MAX);
    assert_eq!(stock, LayoutError::AmountsTooLarge);
    for msat in [0, 999, 546_001, 100_000_001] {
        assert_eq!(refused(|terms| terms.push_msat = msat), LayoutError::Push { msat });
    }
}

/// S20: nothing in a stock's distribution is dust.
#[test]
fn stock() {
    assert_eq!(refused(|terms| terms.stock_csv = 0), LayoutError::StockCsv);
    let error = refused(|terms| terms.stock = Amount::from_sat(1));
    let LayoutError::StockTooSmall { needed, .. } = error else { panic!("{error}") };
    // Two clients: 2 × 330 sat, the anchor, and 167 vB (668 weight units) at 253 sat/kw.
    assert_eq!(needed, Amount::from_sat(2 * 330 + 240 + 170));
    let below = refused(|terms| terms.stock = needed - Amount::from_sat(1));
    assert!(matches!(below, LayoutError::StockTooSmall { .. }));
    let mut enough = stateful();
    enough.stock = needed;
    Layout::new(&enough).unwrap();
    enough.stock = Amount::ZERO;
    enough.stock_csv = 0;
    assert_eq!(Layout::new(&enough).unwrap().stock_coin(0), None);
}

#[test]
fn fees() {
    let low = refused(|terms| terms.tree_feerate = 252);
    assert_eq!(low, LayoutError::FeerateTooLow { feerate: 252 });
    let high = refused(|terms| terms.tree_feerate = 25_001);
    assert_eq!(high, LayoutError::FeerateTooHigh { feerate: 25_001 });
}

#[test]
fn delays() {
    let one = refused(|terms| terms.state_count = 1);
    assert_eq!(one, LayoutError::States { step: 6, count: 1 });
    let still = refused(|terms| terms.state_step = 0);
    assert_eq!(still, LayoutError::States { step: 0, count: 3 });
    let none = refused(|terms| terms.state_count = 0);
    assert_eq!(none, LayoutError::States { step: 6, count: 0 });
    let long = refused(|terms| terms.state_step = 40_000);
    assert_eq!(long, LayoutError::SequenceTooLong { blocks: 80_000 });
    assert_eq!(refused(|terms| terms.confirm_blocks = 0), LayoutError::ConfirmBlocks);
    let unconfirmed = refused(|terms| terms.funding_confirmations = 0);
    assert_eq!(unconfirmed, LayoutError::FundingConfirmations);
    // Two stateful levels and the leaf: 2 × (2 × step + 2 × 6) + 6 + 12.
    let exit = refused(|terms| terms.state_step = 494);
    assert_eq!(exit, LayoutError::ExitTooLong { blocks: 2_018 });
    let huge = refused(|terms| terms.margin_blocks = u16::MAX);
    assert!(matches!(huge, LayoutError::ExitTooLong { .. }));
    let mut longest = stateful();
    longest.state_step = 493;
    assert_eq!(Layout::new(&longest).unwrap().worst_blocks_early(), 2_014);
    // Static factories don't care about states.
    let (_, shape, stock) = shapes().remove(0);
    let mut fixed = terms(10, shape, stock);
    (fixed.state_step, fixed.state_count) = (0, 0);
    Layout::new(&fixed).unwrap();
}

/// S21: there is time to evict everybody between the dying period and the timeout.
#[test]
fn timeout() {
    let time = refused(|terms| terms.timeout_height = 500_000_000);
    assert_eq!(time, LayoutError::TimeoutIsATime { height: 500_000_000 });
    let early = refused(|terms| terms.timeout_height = terms.dying_blocks);
    assert_eq!(early, LayoutError::TimeoutInDyingPeriod { height: 2_016, dying: 2_016 });
    let exit = u32::from(Layout::new(&stateful()).unwrap().worst_blocks_early());
    let short = refused(|terms| terms.dying_blocks = exit - 1);
    assert_eq!(short, LayoutError::DyingPeriodTooShort { dying: exit - 1, exit });
}
