//! The n-of-n outputs, and what their distributions pay.

use std::ops::Range;

use bitcoin::Amount;

use super::{Coin, LayoutError, Node, NodeIndex, Output, limits::*};
use crate::terms::{ClientIndex, Terms};
use crate::tx::scripts::{ANCHOR_VALUE, DUST};

/// Coins of all nodes, then of all stock outputs; puts the stock's numbers into the leaves.
pub(super) fn coins(terms: &Terms, nodes: &mut [Node]) -> Result<Vec<Coin>, LayoutError> {
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
    if coin.stock {
        return stock_payouts(terms, coin.clients.clone(), coin.value);
    }
    let mut outputs = Vec::new();
    for sub in sub_factories(terms, coin.clients.clone()) {
        for (client, share) in shares(sub, terms.stock)? {
            outputs.push((client, capacity(terms, client).checked_add(share)?));
        }
    }
    Some(outputs)
}

/// Whom the distribution of a stock output of `value` pays: its clients, in equal shares.
pub(super) fn stock_payouts(
    terms: &Terms,
    sub: Range<ClientIndex>,
    value: Amount,
) -> Option<Vec<(ClientIndex, Amount)>> {
    let clients = u64::from(sub.end.checked_sub(sub.start)?);
    let fee = fee(weight(clients), terms.tree_feerate)?;
    shares(sub, value.checked_sub(fee)?.checked_sub(ANCHOR_VALUE)?)
}

/// The least value of a stock output that `clients` share: its distribution pays each of them [`DUST`].
pub(super) fn least_stock(terms: &Terms, clients: u64) -> Option<Amount> {
    let costs = fee(weight(clients), terms.tree_feerate)?.checked_add(ANCHOR_VALUE)?;
    costs.checked_add(DUST.checked_mul(clients)?)
}

/// Equal shares of an amount; the first few get what remains.
fn shares(sub: Range<ClientIndex>, amount: Amount) -> Option<Vec<(ClientIndex, Amount)>> {
    let clients = u64::from(sub.end.checked_sub(sub.start)?);
    let share = amount.to_sat().checked_div(clients)?;
    let remainder = amount.to_sat().checked_rem(clients)?;
    (0..)
        .zip(sub)
        .map(|(place, client)| {
            Some((client, Amount::from_sat(share.checked_add(u64::from(place < remainder))?)))
        })
        .collect()
}

/// The sub-factories among these clients; the range begins with a whole one.
pub(super) fn sub_factories(
    terms: &Terms,
    clients: Range<ClientIndex>,
) -> impl Iterator<Item = Range<ClientIndex>> {
    let size = u32::from(terms.shape.leaf.clients_per_sub).max(1);
    let step = usize::try_from(size).unwrap_or(usize::MAX);
    let end = clients.end;
    clients.step_by(step).map(move |start| start..start.saturating_add(size).min(end))
}

pub(super) fn sub_index(terms: &Terms, sub: &Range<ClientIndex>) -> u32 {
    sub.start / u32::from(terms.shape.leaf.clients_per_sub).max(1)
}

pub(super) fn capacity(terms: &Terms, client: ClientIndex) -> Amount {
    // Clients come from ranges within the capacities.
    usize::try_from(client)
        .ok()
        .and_then(|client| terms.capacities.get(client))
        .copied()
        .unwrap_or(Amount::ZERO)
}

pub(super) fn to_index(count: usize) -> Result<u32, LayoutError> {
    // At most MAX_CLIENTS leaves: fewer than 4 × MAX_CLIENTS nodes.
    u32::try_from(count).map_err(|_| LayoutError::TooManyClients { clients: count })
}
