//! What an exit takes.

use factory_engine::chain::sales::wanted_sales;
use factory_engine::tx::layout::{ExitCost, Node};
use factory_engine::types::Amount;
use factory_engine::{Factory, Role, Sold};
use serde_json::Value;

use super::factory_json;

/// What a sale's transaction takes: vB, and the fee that it carries.
pub struct SaleCost {
    /// Size, vB.
    pub vbytes: u64,
    /// Fee.
    pub fee: Amount,
}

/// Sales that this node's channels rest on and that are signed: whoever leaves publishes them after the leaf.
pub fn sales(factory: &Factory) -> impl Iterator<Item = (&Sold, SaleCost)> {
    wanted_sales(factory).filter_map(|sold| {
        let (session, tx) = (sold.sale.sessions.first()?, sold.signed_sale()?);
        let mut paid = tx.output.iter().map(|output| output.value);
        let fee = paid.try_fold(session.prevout.value, |left, value| left.checked_sub(value))?;
        Some((sold, SaleCost { vbytes: u64::try_from(tx.vsize()).unwrap_or(u64::MAX), fee }))
    })
}

/// What this node's exit takes: a client's own, or L's of everybody; and the sales that its channels rest on.
pub fn exit(factory: &Factory) -> Value {
    let layout = &factory.current.layout;
    let mut cost = match factory.current.role {
        Role::Client { index, .. } => layout.exit_cost(index),
        Role::Lsp => {
            let sum = |sum: ExitCost, node: &Node| ExitCost {
                transactions: sum.transactions.saturating_add(1),
                vbytes: sum.vbytes.saturating_add(node.vbytes),
                // No more than the funding output, which is an amount.
                fees: sum.fees.checked_add(node.fee).unwrap_or(sum.fees),
                ..sum
            };
            let blocks = layout.worst_blocks_early().into();
            layout.nodes().iter().fold(ExitCost { blocks, ..ExitCost::default() }, sum)
        }
    };
    let mut longest = 0;
    for (sold, sale) in sales(factory) {
        cost.transactions = cost.transactions.saturating_add(1);
        cost.vbytes = cost.vbytes.saturating_add(sale.vbytes);
        cost.fees = cost.fees.checked_add(sale.fee).unwrap_or(cost.fees);
        longest = longest.max(sold.sale.number);
    }
    // Sales of one stock confirm one after the other.
    let blocks = u32::from(factory.current.terms.confirm_blocks).saturating_mul(longest);
    cost.blocks = cost.blocks.saturating_add(blocks);
    factory_json::exit_cost(&cost).into()
}
