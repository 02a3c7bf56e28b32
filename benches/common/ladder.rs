//! What a ladder of factories puts on chain: reckoned from the layout, and held against the bytes of transactions
//! that the engine makes.

use std::collections::BTreeSet;
use std::sync::Arc;

use bitcoin::{Amount, OutPoint, Transaction};
use factory_engine::Factory;
use factory_engine::terms::ClientIndex;
use factory_engine::tx::layout::{Layout, NodeIndex};
use factory_lab::offer::Offer;
use factory_lab::scenario::Scenario;
use factory_lab::world::{LSP, World};

/// A new factory every two weeks.
pub const RUNGS_A_YEAR: f64 = 26.0;
/// Rungs after which a factory is due, and rungs that its clients then have to come.
pub const DUE_RUNGS: u32 = 4;
pub const DYING_RUNGS: u32 = 4;

/// What is on chain of a factory whose clients don't all come: virtual bytes.
#[derive(Debug, Default, PartialEq)]
pub struct Eviction {
    /// The tree's transactions above those who stay away.
    pub nodes: f64,
    /// The one transaction that takes back what lies beside their paths.
    pub reclaim: f64,
    /// The stock beside them, by its timelock.
    pub stock: f64,
    /// What ends the channels of those who came, where their leaf is on chain all the same.
    pub neighbours: f64,
}

impl Eviction {
    /// So many times that.
    pub fn scaled(self, times: f64) -> Self {
        let Self { nodes, reclaim, stock, neighbours } = self;
        Self {
            nodes: nodes * times,
            reclaim: reclaim * times,
            stock: stock * times,
            neighbours: neighbours * times,
        }
    }

    pub fn all(&self) -> f64 {
        self.nodes + self.reclaim + self.stock + self.neighbours
    }
}

/// Sizes that go with an eviction: one more input of a reclaim, the rest of it, a stock's transaction, a close.
pub struct Sizes {
    pub input: f64,
    pub base: f64,
    pub stock: f64,
    pub close: f64,
}

/// Expected, where each client stays away with this chance, whatever the others do.
pub fn expected(layout: &Layout, sizes: &Sizes, away: f64) -> Eviction {
    let count = |clients: &std::ops::Range<ClientIndex>| clients.end.saturating_sub(clients.start);
    let all_come = |clients: u32| (1.0 - away).powi(clients.try_into().unwrap());
    let mut sum = Eviction::default();
    for node in layout.nodes() {
        let comes = 1.0 - all_come(count(&node.clients));
        sum.nodes += comes * node.vbytes as f64;
        let channels = node.outputs.iter().filter(|output| is_channel(output)).count() as f64;
        // Each one whose owner came, while somebody else of the leaf did not.
        let came = (1.0 - away) - all_come(count(&node.clients));
        sum.neighbours += channels * came * sizes.close;
    }
    for coin in layout.coins() {
        let Some((parent, _)) = coin.source else { continue };
        let above = layout.node(parent).unwrap();
        let (own, over) = (count(&coin.clients), count(&above.clients));
        // Everybody below it came, and somebody beside it did not.
        sum.reclaim += (all_come(own) - all_come(over)) * sizes.input;
        if coin.stock {
            sum.stock += (1.0 - all_come(own)) * sizes.stock;
        }
    }
    let clients = layout.coins()[0].clients.clone();
    sum.reclaim += (1.0 - all_come(count(&clients))) * sizes.base;
    sum
}

fn is_channel(output: &factory_engine::tx::layout::Output) -> bool {
    matches!(output, factory_engine::tx::layout::Output::Channel(_))
}

/// The same of these clients alone: nodes, and inputs of the reclaim.
fn of(layout: &Layout, away: &[ClientIndex]) -> (u64, usize) {
    let nodes: BTreeSet<NodeIndex> = away.iter().flat_map(|client| layout.path(*client)).collect();
    let vbytes = nodes.iter().map(|node| layout.node(*node).unwrap().vbytes).sum();
    let beside = (0..).zip(layout.coins()).filter(|(index, coin)| {
        let shown = coin.source.is_some_and(|(parent, _)| nodes.contains(&parent));
        let all_came = !away.iter().any(|client| coin.clients.contains(client));
        shown && if coin.stock { all_came } else { !nodes.contains(index) }
    });
    (vbytes, beside.count())
}

/// What the engine and the lab's chain say of one lifetime: the funding that takes the factory before it back, and,
/// where these clients stay away, what is on chain of it.
pub struct Measured {
    pub funding: Transaction,
    pub nodes: u64,
    pub reclaim: Transaction,
    pub stock: Vec<Transaction>,
}

/// Plays it with as many clients, real signatures, and consensus code that takes every transaction.
pub fn measured(clients: u32, away: &[ClientIndex]) -> (Arc<Layout>, Measured) {
    let stock = Amount::from_sat(50_000);
    // Lifetimes don't change what anything weighs.
    let scenario = || Scenario::new(1).clients(clients as usize).stock(50_000).lifetime(900, 300).unchecked();
    let later = |scenario: Scenario| scenario.config(|config| config.reclaim_blocks = 10);

    let (mut world, first) = later(scenario()).active().unwrap();
    let all = 1..=clients as usize;
    all.clone().for_each(|client| world.hand_over(client, first).unwrap());
    // No larger than what comes back: nothing of the wallet is needed.
    let less = Amount::from_sat(stock.to_sat() - 1_000);
    let next =
        world.begin(&Offer { stock: less, lifetime_blocks: 1_200, dying_blocks: 300, ..Offer::default() });
    let next = next.unwrap();
    world.activate(next).unwrap();
    let root = |world: &World, of| world.factory(LSP, of).unwrap().funding().unwrap();
    let funding = world.chain.confirmed(root(&world, next).txid).unwrap().1.clone();
    assert_eq!(funding.input.len(), 1, "the old root, and nothing else");
    assert_eq!(funding.input[0].previous_output, root(&world, first));

    let (mut world, first) = later(scenario()).active().unwrap();
    let stays = |client: &usize| !away.contains(&(*client as u32 - 1));
    all.filter(stays).for_each(|client| world.hand_over(client, first).unwrap());
    let layout = world.factory(LSP, first).unwrap().current.layout.clone();
    let timeout = world.factory(LSP, first).unwrap().current.terms.timeout_height;
    world.mine(timeout - world.chain.height()).unwrap();
    assert_eq!(world.judge.violations, Vec::<String>::new());
    let measured = below(&world, world.factory(LSP, first).unwrap(), root(&world, first), funding);
    (layout, measured)
}

/// Everything that spends the tree, down to the channels.
fn below(world: &World, factory: &Factory, root: OutPoint, funding: Transaction) -> Measured {
    let tree = factory.current.tree.as_ref().unwrap();
    let channels: Vec<OutPoint> =
        (0..factory.current.terms.clients()).filter_map(|client| tree.channel_outpoint(client)).collect();
    let (mut open, mut seen) = (vec![root], BTreeSet::new());
    let (mut nodes, mut reclaim, mut stock) = (0, None, vec![]);
    while let Some(outpoint) = open.pop() {
        let Some((_, tx)) = world.chain.spender(outpoint).filter(|_| !channels.contains(&outpoint)) else {
            continue;
        };
        let txid = tx.compute_txid();
        if !seen.insert(txid) {
            continue;
        }
        if tree.sessions().iter().any(|session| session.txid == txid) {
            nodes += tx.vsize() as u64;
            open.extend((0..tx.output.len() as u32).map(|vout| OutPoint { txid, vout }));
        } else if tx.input[0].witness.len() == 1 {
            assert!(reclaim.replace(tx.clone()).is_none(), "one transaction takes everything");
        } else {
            stock.push(tx.clone());
        }
    }
    Measured { funding, nodes, reclaim: reclaim.unwrap(), stock }
}

/// What was reckoned is what the engine's transactions weigh.
pub fn check(clients: u32, away: &[ClientIndex], sizes: &Sizes) {
    let (layout, found) = measured(clients, away);
    let (nodes, inputs) = of(&layout, away);
    assert_eq!(found.nodes, nodes, "the nodes of {away:?}");
    assert_eq!(found.reclaim.input.len(), inputs, "what lies beside {away:?}");
    let reckoned = sizes.base + sizes.input * inputs as f64;
    let has = found.reclaim.vsize() as f64;
    assert!((has - reckoned).abs() <= 13.0, "a reclaim of {inputs}: {has} vB, and reckoned {reckoned}");
    // The lab's wallet has change and payouts of 31 bytes, and lightningd's 43.
    for tx in &found.stock {
        assert!(tx.vsize() as f64 <= sizes.stock * tx.input.len() as f64, "stock: {}", tx.vsize());
    }
    let key_path = (found.funding.weight().to_wu() + 4 * 12).div_ceil(4);
    assert_eq!(key_path, 154, "the funding that takes a root back");
}
