//! Refusals of terms: before the tree is built, and of the tree as a whole.

use bitcoin::Amount;

use super::{Layout, LayoutError, coins::least_stock, limits::*};
use crate::terms::{Kind, Terms};

/// nSequence of everything but states: no relative timelock, replaceable (BIP-68, BIP-125).
pub(super) const SEQUENCE_NONE: u32 = 0xffff_fffd;

/// Checks what can be checked without the tree; gives clients per leaf and the number of leaves.
pub(super) fn check(terms: &Terms) -> Result<(u32, u32), LayoutError> {
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
    if !(MIN_PUSH_MSAT..=smallest.saturating_mul(1000).min(RESERVE_MSAT)).contains(&terms.push_msat) {
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
    let needed = least_stock(terms, most).ok_or(LayoutError::AmountsTooLarge)?;
    if terms.stock < needed {
        return Err(LayoutError::StockTooSmall { stock: terms.stock, needed });
    }
    Ok(())
}

/// nSequence of a stateful level's first state: step × (last state − 0), as BIP-68 blocks.
pub(super) fn first_state_sequence(terms: &Terms) -> Result<u32, LayoutError> {
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

/// `blocks_early` of the longest exit; refuses what no HTLC could wait for.
pub(super) fn worst_blocks(layout: &Layout, leaf_clients: u32) -> Result<u16, LayoutError> {
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
