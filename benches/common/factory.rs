//! Terms as `factory-plan` makes them with default options.

use bitcoin::Amount;
use factory_engine::Config;
use factory_engine::terms::{Shape, Terms};
use factory_engine::tx::plan::{Profile, shape_for};
use factory_lab::offer::Offer;

/// Blocks from creation to the timeout: `factory-plan`'s default, two months.
pub const LIFETIME_BLOCKS: u32 = 8_640;

/// A factory of so many clients, with stock, in the shape that the planner chooses.
pub fn planned(clients: u32, profile: Profile) -> Terms {
    with(clients, shape_for(clients, profile).unwrap())
}

/// The same in any shape.
pub fn with(clients: u32, shape: Shape) -> Terms {
    let offer = Offer {
        stock: Amount::from_sat(50_000),
        lifetime_blocks: LIFETIME_BLOCKS,
        dying_blocks: 1_008,
        tree_feerate: 500,
        ..Offer::default()
    };
    offer.terms(clients as usize, shape, &Config::default())
}
