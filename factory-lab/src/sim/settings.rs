//! What members have set for themselves.

use factory_engine::{Config, Policy, PriceList};

use crate::fault::Dice;
use crate::world::LSP;

use super::payment::CLTV_DELTA;

/// The highest base and rate that an operator asks, msat and millionths of the amount.
const BASE_MSAT: u64 = 20_000;

const PPM: u32 = 4_000;

/// What most clients pay for a renewal, msat: more than any of them costs.
const RENEWAL_MSAT: u64 = 1_000_000;

/// What one member has of its own in its configuration.
pub(super) fn own_config(common: &Config, at: usize, dice: &mut Dice) -> Config {
    let mut own = Config { jit: dice.one_in(2), cltv_delta: CLTV_DELTA, ..common.clone() };
    if at != LSP && dice.one_in(12) {
        own.policy = Policy::Ask;
    }
    if at != LSP && !dice.one_in(12) {
        own.max_renewal_price_msat = own.max_renewal_price_msat.max(RENEWAL_MSAT);
    }
    if at == LSP && dice.one_in(2) {
        own.prices = PriceList {
            base_msat: dice.next_number() % BASE_MSAT,
            ppm: dice.below_u32(PPM),
            renewal_base_msat: dice.one_in(2).then(|| dice.next_number() % BASE_MSAT),
            renewal_ppm: dice.one_in(2).then(|| dice.below_u32(PPM)),
        };
    }
    own
}
