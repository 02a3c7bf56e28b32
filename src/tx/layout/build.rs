//! From terms to nodes and coins.

use std::ops::Range;

use bitcoin::Amount;

use super::{Coin, Layout, LayoutError, Node, NodeIndex, NodeKind, Output, limits::*};
use crate::terms::{ClientIndex, Kind, Terms};
use crate::tx::scripts::{ANCHOR_VALUE, DUST};

/// nSequence of everything but states: no relative timelock, replaceable (BIP-68, BIP-125).
const SEQUENCE_NONE: u32 = 0xffff_fffd;

pub(super) fn layout(terms: &Terms) -> Result<Layout, LayoutError> {
    let (leaf_clients, leaves) = check(terms)?;
    let mut builder = Builder {
        terms,
        leaf_clients,
        sequence: first_state_sequence(terms)?,
        nodes: Vec::new(),
        places: Vec::new(),
    };
    builder.subtree(0, 0..leaves, None, 0)?;
    let Builder { mut nodes, places, .. } = builder;
    let coins = coins(terms, &mut nodes)?;
    let mut layout = Layout { terms: terms.clone(), nodes, coins, places, worst_blocks: 0 };
    layout.worst_blocks = worst_blocks(&layout, leaf_clients)?;
    Ok(layout)
}

/// Checks what can be checked without the tree; gives clients per leaf and the number of leaves.
fn check(terms: &Terms) -> Result<(u32, u32), LayoutError> {
    let clients = match u32::try_from(terms.capacities.len()) {
        Ok(0) => return Err(LayoutError::NoClients),
        Ok(clients) if clients <= MAX_CLIENTS => clients,
        _ => {
            return Err(LayoutError::TooManyClients { clients: terms.capacities.len() });
        }
    };
    for (client, capacity) in (0..).zip(&terms.capacities) {
        if *capacity < MIN_CHANNEL {
            return Err(LayoutError::ChannelTooSmall { client, capacity: *capacity });
        }
        if *capacity > Amount::MAX_MONEY {
            return Err(LayoutError::AmountsTooLarge);
        }
    }
    // Capacities are at most 2.1 × 10^15 sat: no overflow in msat.
    let smallest = terms.capacities.iter().map(|capacity| capacity.to_sat()).min().unwrap_or(0);
    if !(MIN_PUSH_MSAT..=smallest.saturating_mul(1000)).contains(&terms.push_msat) {
        return Err(LayoutError::Push { msat: terms.push_msat });
    }
    if terms.tree_feerate < MIN_FEERATE {
        return Err(LayoutError::FeerateTooLow { feerate: terms.tree_feerate });
    }
    if terms.tree_feerate > MAX_FEERATE {
        return Err(LayoutError::FeerateTooHigh { feerate: terms.tree_feerate });
    }
    if terms.confirm_blocks == 0 {
        return Err(LayoutError::ConfirmBlocks);
    }
    if terms.funding_confirmations == 0 {
        return Err(LayoutError::FundingConfirmations);
    }
    if terms.timeout_height >= LOCK_TIME_THRESHOLD {
        return Err(LayoutError::TimeoutIsATime { height: terms.timeout_height });
    }
    if terms.timeout_height <= terms.dying_blocks {
        return Err(LayoutError::TimeoutInDyingPeriod {
            height: terms.timeout_height,
            dying: terms.dying_blocks,
        });
    }
    let leaf = &terms.shape.leaf;
    // Two u16 multiplied fit a u32.
    let leaf_clients = u32::from(leaf.sub_factories) * u32::from(leaf.clients_per_sub);
    if leaf_clients == 0 {
        return Err(LayoutError::LeafWithoutClients);
    }
    let leaves = clients.div_ceil(leaf_clients);
    check_levels(terms, leaves)?;
    check_stock(terms, clients)?;
    Ok((leaf_clients, leaves))
}

fn check_levels(terms: &Terms, leaves: u32) -> Result<(), LayoutError> {
    let levels = &terms.shape.levels;
    if levels.len() > MAX_LEVELS {
        return Err(LayoutError::TooManyLevels { levels: levels.len() });
    }
    let mut held: u64 = 1;
    for (level, spec) in levels.iter().enumerate() {
        if spec.arity < 2 {
            return Err(LayoutError::ArityTooSmall { level, arity: spec.arity });
        }
        held = held.saturating_mul(u64::from(spec.arity));
    }
    if held < u64::from(leaves) {
        return Err(LayoutError::TooFewLevels { leaves, held });
    }
    Ok(())
}

fn check_stock(terms: &Terms, clients: u32) -> Result<(), LayoutError> {
    if terms.stock == Amount::ZERO {
        return Ok(());
    }
    if terms.stock > Amount::MAX_MONEY {
        return Err(LayoutError::AmountsTooLarge);
    }
    if terms.stock_csv == 0 {
        return Err(LayoutError::StockCsv);
    }
    // The largest sub-factory has the least for each.
    let most = u64::from(terms.shape.leaf.clients_per_sub).min(u64::from(clients));
    let needed = fee(weight(most), terms.tree_feerate)
        .and_then(|fee| fee.checked_add(ANCHOR_VALUE))
        .and_then(|costs| costs.checked_add(DUST.checked_mul(most)?))
        .ok_or(LayoutError::AmountsTooLarge)?;
    if terms.stock < needed {
        return Err(LayoutError::StockTooSmall { stock: terms.stock, needed });
    }
    Ok(())
}

/// nSequence of a stateful level's first state: step × (last state − 0), as BIP-68 blocks.
fn first_state_sequence(terms: &Terms) -> Result<u32, LayoutError> {
    let shape = &terms.shape;
    let stateful =
        shape.leaf.kind == Kind::Stateful || shape.levels.iter().any(|level| level.kind == Kind::Stateful);
    if !stateful {
        return Ok(SEQUENCE_NONE);
    }
    let (step, count) = (terms.state_step, terms.state_count);
    if step == 0 || count < 2 {
        return Err(LayoutError::States { step, count });
    }
    // Two u16 multiplied fit a u32.
    let blocks = u32::from(step) * u32::from(count - 1);
    if blocks > u32::from(u16::MAX) {
        return Err(LayoutError::SequenceTooLong { blocks });
    }
    Ok(blocks)
}

struct Builder<'t> {
    terms: &'t Terms,
    leaf_clients: u32,
    /// nSequence of a state.
    sequence: u32,
    nodes: Vec<Node>,
    places: Vec<(NodeIndex, u32)>,
}

impl Builder<'_> {
    /// Adds the nodes over these leaves; gives the value of the coin that the first one spends.
    /// Recursion ends after at most MAX_LEVELS + 1 calls, or `check_levels` would have refused.
    fn subtree(
        &mut self,
        level: usize,
        leaves: Range<u32>,
        parent: Option<(NodeIndex, u32)>,
        depth: u32,
    ) -> Result<Amount, LayoutError> {
        let spec = self.terms.shape.levels.get(level).filter(|_| leaves.len() > 1);
        let clients = self.clients_of(&leaves);
        match spec.map_or(self.terms.shape.leaf.kind, |spec| spec.kind) {
            Kind::Static => self.splitting(level, leaves, NodeKind::Static, parent, depth),
            Kind::Stateful => {
                let kickoff = self.push(NodeKind::Kickoff, parent, clients, depth)?;
                let state = Some((kickoff, 0));
                let below = depth.saturating_add(1);
                let value = self.splitting(level, leaves, NodeKind::State, state, below)?;
                self.finish(kickoff, vec![(Output::Child(kickoff.saturating_add(1)), value)])
            }
        }
    }

    /// Adds the node whose outputs are the children of this level, or the channels and the stock of
    /// a leaf, and all nodes below it.
    fn splitting(
        &mut self,
        level: usize,
        leaves: Range<u32>,
        kind: NodeKind,
        parent: Option<(NodeIndex, u32)>,
        depth: u32,
    ) -> Result<Amount, LayoutError> {
        let clients = self.clients_of(&leaves);
        let index = self.push(kind, parent, clients.clone(), depth)?;
        let spec = self.terms.shape.levels.get(level).filter(|_| leaves.len() > 1);
        let mut outputs = Vec::new();
        match spec {
            Some(spec) => {
                for (vout, part) in (0..).zip(split(leaves, u32::from(spec.arity))) {
                    let child = to_index(self.nodes.len())?;
                    let (next, below) = (level.saturating_add(1), depth.saturating_add(1));
                    let value = self.subtree(next, part, Some((index, vout)), below)?;
                    outputs.push((Output::Child(child), value));
                }
            }
            None => self.leaf_outputs(index, clients, &mut outputs)?,
        }
        self.finish(index, outputs)
    }

    fn leaf_outputs(
        &mut self,
        node: NodeIndex,
        clients: Range<ClientIndex>,
        outputs: &mut Vec<(Output, Amount)>,
    ) -> Result<(), LayoutError> {
        for sub in sub_factories(self.terms, clients) {
            for client in sub.clone() {
                self.places.push((node, to_index(outputs.len())?));
                outputs.push((Output::Channel(client), capacity(self.terms, client)));
            }
            if self.terms.stock > Amount::ZERO {
                // Counted from the first stock coin; `coins` adds the number of nodes.
                outputs.push((Output::Stock(sub_index(self.terms, &sub)), self.terms.stock));
            }
        }
        Ok(())
    }

    fn push(
        &mut self,
        kind: NodeKind,
        parent: Option<(NodeIndex, u32)>,
        clients: Range<ClientIndex>,
        depth: u32,
    ) -> Result<NodeIndex, LayoutError> {
        let index = to_index(self.nodes.len())?;
        let sequence = if kind == NodeKind::State { self.sequence } else { SEQUENCE_NONE };
        self.nodes.push(Node {
            kind,
            parent,
            clients,
            outputs: Vec::new(),
            input_value: Amount::ZERO,
            output_values: Vec::new(),
            fee: Amount::ZERO,
            vbytes: 0,
            sequence,
            depth,
        });
        Ok(index)
    }

    /// Gives a node its outputs and fee; returns what it spends.
    fn finish(
        &mut self,
        index: NodeIndex,
        mut outputs: Vec<(Output, Amount)>,
    ) -> Result<Amount, LayoutError> {
        let count = u64::try_from(outputs.len()).unwrap_or(u64::MAX);
        let (weight, too_large) = (weight(count), LayoutError::AmountsTooLarge);
        let size = vbytes(weight);
        if size > MAX_V3_VBYTES {
            return Err(LayoutError::TransactionTooLarge { outputs: count, vbytes: size });
        }
        let fee = fee(weight, self.terms.tree_feerate).ok_or(too_large.clone())?;
        outputs.push((Output::Anchor, ANCHOR_VALUE));
        let input = outputs
            .iter()
            .try_fold(fee, |sum, (_, value)| sum.checked_add(*value))
            .filter(|input| *input <= Amount::MAX_MONEY)
            .ok_or(too_large)?;
        if let Some(node) = usize::try_from(index).ok().and_then(|index| self.nodes.get_mut(index)) {
            (node.outputs, node.output_values) = outputs.into_iter().unzip();
            (node.input_value, node.fee, node.vbytes) = (input, fee, size);
        }
        Ok(input)
    }

    fn clients_of(&self, leaves: &Range<u32>) -> Range<ClientIndex> {
        let clients = self.terms.clients();
        let at = |leaf: u32| leaf.saturating_mul(self.leaf_clients).min(clients);
        at(leaves.start)..at(leaves.end)
    }
}

/// Coins of all nodes, then of all stock outputs; puts the stock's numbers into the leaves.
fn coins(terms: &Terms, nodes: &mut [Node]) -> Result<Vec<Coin>, LayoutError> {
    let first_stock = to_index(nodes.len())?;
    let mut coins = Vec::with_capacity(nodes.len());
    for node in nodes.iter() {
        coins.push(coin(terms, node.clients.clone(), node.input_value, node.parent, false)?);
    }
    for (index, node) in (0..).zip(nodes.iter_mut()) {
        let mut subs = sub_factories(terms, node.clients.clone());
        for (vout, output) in (0..).zip(node.outputs.iter_mut()) {
            let Output::Stock(number) = output else {
                continue;
            };
            *number = number.saturating_add(first_stock);
            if let Some(sub) = subs.next() {
                coins.push(coin(terms, sub, terms.stock, Some((index, vout)), true)?);
            }
        }
    }
    Ok(coins)
}

fn coin(
    terms: &Terms,
    clients: Range<ClientIndex>,
    value: Amount,
    source: Option<(NodeIndex, u32)>,
    stock: bool,
) -> Result<Coin, LayoutError> {
    let count = clients.end.saturating_sub(clients.start);
    let weight = weight(u64::from(count));
    let size = vbytes(weight);
    let coin = Coin {
        clients,
        value,
        source,
        stock,
        has_distribution: size <= MAX_STANDARD_VBYTES,
        distribution_version: if size <= MAX_V3_VBYTES { 3 } else { 2 },
        distribution_vbytes: size,
    };
    if coin.has_distribution {
        // The tree below pays at least for its leaves, which are no smaller than the distribution.
        let relay = fee(weight, MIN_FEERATE);
        let left = payouts(terms, &coin).and_then(|outputs| {
            let left = value.checked_sub(ANCHOR_VALUE)?;
            outputs.iter().try_fold(left, |left, (_, value)| left.checked_sub(*value))
        });
        if relay.is_none() || left < relay {
            return Err(LayoutError::DistributionFee { clients: count });
        }
    }
    Ok(coin)
}

/// Whom a coin's distribution pays (S20); None if an amount overflows.
pub(super) fn payouts(terms: &Terms, coin: &Coin) -> Option<Vec<(ClientIndex, Amount)>> {
    let mut outputs = Vec::new();
    for sub in sub_factories(terms, coin.clients.clone()) {
        let clients = u64::from(sub.end.checked_sub(sub.start)?);
        let shared = if coin.stock {
            fee(weight(clients), terms.tree_feerate)
                .and_then(|fee| terms.stock.checked_sub(fee)?.checked_sub(ANCHOR_VALUE))?
        } else {
            terms.stock
        };
        let share = shared.to_sat().checked_div(clients)?;
        let remainder = shared.to_sat().checked_rem(clients)?;
        for (place, client) in (0..).zip(sub) {
            let share = Amount::from_sat(share.checked_add(u64::from(place < remainder))?);
            let own = if coin.stock { Amount::ZERO } else { capacity(terms, client) };
            outputs.push((client, own.checked_add(share)?));
        }
    }
    Some(outputs)
}

/// `blocks_early` of the longest exit; refuses what no HTLC could wait for.
fn worst_blocks(layout: &Layout, leaf_clients: u32) -> Result<u16, LayoutError> {
    let terms = &layout.terms;
    let step = usize::try_from(leaf_clients).unwrap_or(usize::MAX);
    let exit =
        (0..terms.clients()).step_by(step).map(|client| layout.exit_cost(client).blocks).max().unwrap_or(0);
    let blocks = exit.saturating_add(u32::from(terms.margin_blocks));
    if terms.dying_blocks < blocks && blocks <= MAX_EXIT_BLOCKS {
        return Err(LayoutError::DyingPeriodTooShort { dying: terms.dying_blocks, exit: blocks });
    }
    u16::try_from(blocks)
        .ok()
        .filter(|_| blocks <= MAX_EXIT_BLOCKS)
        .ok_or(LayoutError::ExitTooLong { blocks })
}

/// A range of leaves in at most `parts` parts that differ by at most one leaf, larger ones first.
fn split(leaves: Range<u32>, parts: u32) -> impl Iterator<Item = Range<u32>> {
    let count = leaves.end.saturating_sub(leaves.start);
    let parts = parts.min(count).max(1);
    let (size, larger) = (count / parts, count % parts);
    let mut start = leaves.start;
    (0..parts).map(move |part| {
        let end = start.saturating_add(size).saturating_add(u32::from(part < larger));
        let range = start..end;
        start = end;
        range
    })
}

/// The sub-factories among these clients; the range begins with a whole one.
fn sub_factories(terms: &Terms, clients: Range<ClientIndex>) -> impl Iterator<Item = Range<ClientIndex>> {
    let size = u32::from(terms.shape.leaf.clients_per_sub).max(1);
    let step = usize::try_from(size).unwrap_or(usize::MAX);
    let end = clients.end;
    clients.step_by(step).map(move |start| start..start.saturating_add(size).min(end))
}

fn sub_index(terms: &Terms, sub: &Range<ClientIndex>) -> u32 {
    sub.start / u32::from(terms.shape.leaf.clients_per_sub).max(1)
}

fn capacity(terms: &Terms, client: ClientIndex) -> Amount {
    // Clients come from ranges within the capacities.
    usize::try_from(client)
        .ok()
        .and_then(|client| terms.capacities.get(client))
        .copied()
        .unwrap_or(Amount::ZERO)
}

fn to_index(count: usize) -> Result<u32, LayoutError> {
    // At most MAX_CLIENTS leaves: fewer than 4 × MAX_CLIENTS nodes.
    u32::try_from(count).map_err(|_| LayoutError::TooManyClients { clients: count })
}
