//! From terms to nodes.

use std::ops::Range;

use bitcoin::Amount;

use super::check::{SEQUENCE_NONE, check, first_state_sequence, worst_blocks};
use super::coins::{capacity, coins, sub_factories, sub_index, to_index};
use super::{Layout, LayoutError, Node, NodeIndex, NodeKind, Output, limits::*};
use crate::terms::{ClientIndex, Kind, Terms};
use crate::tx::scripts::ANCHOR_VALUE;

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

struct Builder<'t> {
    terms: &'t Terms,
    leaf_clients: u32,
    /// nSequence of a first state: its delay, blocks (BIP-68).
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
