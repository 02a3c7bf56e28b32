//! What else there is to choose from: the shapes that no other shape beats.
//!
//! A shape is good by five numbers, the fewer of each the better: vB of the exit that is worst off, with a
//! child for each of its transactions, its nSequence blocks, members that a sale needs awake, clients that
//! one exit puts on chain, and partial signatures of the whole ceremony. Each comes from the real
//! [`Layout`]. What they leave out: how freely stock can be sold (among the clients of a sub-factory alone),
//! and that stateful levels can be reallocated, so that shapes with and without such levels are not
//! compared.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use super::{Chooser, Delays, Profile};
use crate::terms::{Kind, Leaf, Level, Shape, Terms};
use crate::tx::child::usual_weight;
use crate::tx::layout::{Layout, MAX_LEVELS, Output, vbytes};

/// Sub-factories of a leaf that are tried; all clients in one leaf comes on top.
const SUB_FACTORIES: RangeInclusive<u16> = 1..=8;
/// Clients of a sub-factory that are tried.
const CLIENTS_PER_SUB: RangeInclusive<u16> = 1..=4;
/// Arities that are tried: a node with more children is too large for a version 3 transaction.
const ARITIES: RangeInclusive<u16> = 2..=230;
/// A shape saves enough signatures to be worth a line if it has at most so many percent of another's.
const NOTABLE_PERCENT: u64 = 85;

/// One shape, and how good it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Point {
    /// Arities and kinds, from the root to the leaves.
    pub shape: Shape,
    /// Transactions of the longest exit.
    pub exit_transactions: u32,
    /// vB of the largest exit, without what raises its fees.
    pub exit_vbytes: u64,
    /// vB of the largest exit, with a usual child for each of its transactions.
    pub raised_vbytes: u64,
    /// Blocks of the longest exit: relative timelocks, and `confirm_blocks` for each transaction.
    pub exit_blocks: u32,
    /// Most blocks that an exit waits for relative timelocks alone (nSequence).
    pub timelock_blocks: u32,
    /// Members that sign a sale: L and the clients of a sub-factory. 0 if there is no stock to sell.
    pub sale_members: u32,
    /// Clients whose channels one exit puts on chain: those of its leaf.
    pub leaf_clients: u32,
    /// Partial signatures of all members, over all sessions of the ceremony.
    pub partial_signatures: u64,
    /// Sessions: transactions that are signed.
    pub sessions: u64,
    /// Public keys that the operator aggregates, over all coins.
    pub keys: u64,
    /// Transactions of the tree, all on chain if everybody leaves alone.
    pub transactions: u32,
    /// Size of all transactions of the tree together, vB.
    pub vbytes: u64,
    /// Whether it is the shape of the terms that the frontier was asked for.
    pub default: bool,
}

impl Point {
    /// What a layout is worth.
    pub fn of(layout: &Layout) -> Self {
        let terms = layout.terms();
        let leaf = terms.shape.leaf;
        let mut point = Self {
            shape: terms.shape.clone(),
            exit_transactions: 0,
            exit_vbytes: 0,
            raised_vbytes: 0,
            exit_blocks: 0,
            timelock_blocks: 0,
            sale_members: 0,
            leaf_clients: 0,
            partial_signatures: 0,
            sessions: 0,
            keys: 0,
            transactions: u32::try_from(layout.nodes().len()).unwrap_or(u32::MAX),
            vbytes: layout.nodes().iter().map(|node| node.vbytes).fold(0, u64::saturating_add),
            default: false,
        };
        // Clients of one leaf share their path. Two u16 multiplied fit a u32.
        let step = u32::from(leaf.sub_factories) * u32::from(leaf.clients_per_sub);
        let firsts = (0..terms.clients()).step_by(usize::try_from(step).unwrap_or(usize::MAX).max(1));
        for cost in firsts.map(|client| layout.exit_cost(client)) {
            let confirm = cost.transactions.saturating_mul(u32::from(terms.confirm_blocks));
            let timelock = cost.blocks.saturating_sub(confirm);
            point.exit_transactions = point.exit_transactions.max(cost.transactions);
            point.exit_vbytes = point.exit_vbytes.max(cost.vbytes);
            let children = u64::from(cost.transactions).saturating_mul(vbytes(usual_weight()));
            point.raised_vbytes = point.raised_vbytes.max(cost.vbytes.saturating_add(children));
            point.exit_blocks = point.exit_blocks.max(cost.blocks);
            point.timelock_blocks = point.timelock_blocks.max(timelock);
        }
        for node in layout.nodes() {
            let channels = node.outputs.iter().filter(|output| matches!(output, Output::Channel(_))).count();
            point.leaf_clients = point.leaf_clients.max(u32::try_from(channels).unwrap_or(u32::MAX));
        }
        for coin in layout.coins() {
            let members = coin.clients.end.saturating_sub(coin.clients.start).saturating_add(1);
            let sessions = u64::from(!coin.stock).saturating_add(u64::from(coin.has_distribution));
            point.keys = point.keys.saturating_add(u64::from(members));
            point.sessions = point.sessions.saturating_add(sessions);
            let signatures = u64::from(members).saturating_mul(sessions);
            point.partial_signatures = point.partial_signatures.saturating_add(signatures);
            if coin.stock {
                point.sale_members = point.sale_members.max(members);
            }
        }
        point
    }

    /// What a shape is judged by; fewer is better.
    fn objectives(&self) -> [u64; 5] {
        let [blocks, members, clients] =
            [self.timelock_blocks, self.sale_members, self.leaf_clients].map(u64::from);
        [self.raised_vbytes, blocks, members, clients, self.partial_signatures]
    }

    /// Whether this shape is nowhere worse than the other, and somewhere better.
    pub fn dominates(&self, other: &Self) -> bool {
        let (mine, others) = (self.objectives(), other.objectives());
        mine != others && mine.iter().zip(&others).all(|(mine, other)| mine <= other)
    }
}

/// The shapes for these terms that none dominates, fewest vB first, and the terms' own shape
/// ([`Point::default`]) in any case. Of shapes that are equally good the terms' own is kept, else the
/// first. A shape that the terms don't allow, because of their delays or their stock, is left out; so
/// the list is empty if the terms allow not even their own. `profile` is what the terms' shape was
/// chosen for.
pub fn frontier(terms: &Terms, profile: Profile) -> Vec<Point> {
    let measure = |shape: Shape| {
        let terms = Terms { shape, ..terms.clone() };
        Layout::new(&terms).ok().map(|layout| Point::of(&layout))
    };
    let Some(own) = measure(terms.shape.clone()) else {
        return Vec::new();
    };
    let mut points = vec![Point { default: true, ..own }];
    for point in candidates(terms, profile).into_iter().filter_map(measure) {
        let known = points.iter().any(|other| other.objectives() == point.objectives());
        if !known && !points.iter().any(|other| other.dominates(&point)) {
            points.retain(|other| other.default || !point.dominates(other));
            points.push(point);
        }
    }
    points.sort_by_key(Point::objectives);
    points
}

/// The points of a frontier that differ enough for a person to choose from: one that saves less than a
/// seventh of the signatures of another that is nowhere else worse is left out, the default never.
pub fn notable(frontier: &[Point]) -> Vec<Point> {
    let mut kept: Vec<Point> = Vec::new();
    for point in frontier {
        let [vbytes, timelock, members, clients, signatures] = point.objectives();
        let close = |other: &Point| {
            let [v, t, m, c, s] = other.objectives();
            let little = signatures.saturating_mul(100) > s.saturating_mul(NOTABLE_PERCENT);
            v <= vbytes && t <= timelock && m <= members && c <= clients && little
        };
        if point.default || !kept.iter().any(close) {
            kept.push(point.clone());
        }
    }
    kept
}

/// Each leaf with the levels over it that cost one exit least, for each number of levels.
fn candidates(terms: &Terms, profile: Profile) -> Vec<Shape> {
    let clients = terms.clients();
    let kind = if profile == Profile::Stateful { Kind::Stateful } else { Kind::Static };
    let delays = Delays {
        state_step: terms.state_step,
        state_count: terms.state_count,
        confirm_blocks: terms.confirm_blocks,
        margin_blocks: terms.margin_blocks,
    };
    let mut chooser = Chooser::new(kind, delays, ARITIES);
    let mut shapes = Vec::new();
    for clients_per_sub in CLIENTS_PER_SUB {
        let all = clients.div_ceil(u32::from(clients_per_sub));
        // More sub-factories than there are clients for are one leaf all the same.
        let some = SUB_FACTORIES.take_while(|count| u32::from(*count) < all);
        let counts: BTreeSet<u16> = some.chain(u16::try_from(all)).collect();
        for sub_factories in counts {
            let leaf = Leaf { kind: Kind::Static, sub_factories, clients_per_sub };
            let leaves = clients.div_ceil(u32::from(sub_factories) * u32::from(clients_per_sub));
            // A single leaf can't be reallocated: no choice for whoever wants stateful levels.
            if leaves > 1 || kind == Kind::Static || terms.shape.levels.is_empty() {
                shapes.extend(over(&mut chooser, leaves).map(|levels| Shape { levels, leaf }));
            }
        }
    }
    shapes
}

/// The cheapest levels over so many leaves, from as few levels as possible to as many as help.
fn over(chooser: &mut Chooser, leaves: u32) -> impl Iterator<Item = Vec<Level>> {
    let kind = chooser.kind;
    let mut found = Vec::new();
    for count in 0..=MAX_LEVELS {
        let Some(levels) = chooser.cheapest(leaves, count) else {
            continue;
        };
        if levels.arities.len() < count {
            break;
        }
        found.push(levels.arities.into_iter().map(|arity| Level { arity, kind }).collect());
    }
    found.into_iter()
}
