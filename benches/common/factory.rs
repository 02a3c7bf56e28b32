//! Terms as `factory-plan` makes them with default options.

use bitcoin::Amount;
use factory_engine::Config;
use factory_engine::terms::{Shape, Terms};
use factory_engine::tx::plan::{Profile, shape_for};
use factory_engine::types::{InstanceId, NodeId};

/// Blocks from creation to the timeout: `factory-plan`'s default, two months.
pub const LIFETIME_BLOCKS: u32 = 8_640;

/// A factory of so many clients, with stock, in the shape that the planner chooses.
pub fn planned(clients: u32, profile: Profile) -> Terms {
    with(clients, shape_for(clients, profile).unwrap())
}

/// The same in any shape.
pub fn with(clients: u32, shape: Shape) -> Terms {
    let config = Config::default();
    Terms {
        instance: InstanceId([0; 32]),
        lsp: NodeId([2; 33]),
        shape,
        // No size depends on amounts.
        capacities: vec![Amount::from_sat(100_000); clients as usize],
        stock: Amount::from_sat(50_000),
        push_msat: config.push_msat,
        state_step: config.state_step,
        state_count: config.state_count,
        stock_csv: config.stock_csv,
        tree_feerate: 500,
        timeout_height: 1_000 + LIFETIME_BLOCKS,
        dying_blocks: 1_008,
        confirm_blocks: config.confirm_blocks,
        margin_blocks: config.margin_blocks,
        funding_confirmations: config.funding_confirmations,
    }
}
