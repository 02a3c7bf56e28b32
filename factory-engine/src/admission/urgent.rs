//! HTLCs whose deadline is near: said before this node leaves for them (S16).

use std::collections::HashMap;

use crate::engine::Engine;
use crate::record::factory::{Factory, own_clients};
use crate::terms::ClientIndex;
use crate::types::{ChannelId, Height};

/// Blocks before an exit for an HTLC's sake in which it is said. A payment of one's own may have no more
/// than these left when it begins.
const AHEAD: u32 = 6;

/// An HTLC that has this node leave unless it is settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Urgent {
    /// Client whose channel it stands on, in leaf order.
    pub client: ClientIndex,
    /// The channel that it stands on (BOLT 2's `channel_id`).
    pub channel_id: ChannelId,
    /// Height at which the HTLC times out (BOLT 2's cltv_expiry).
    pub cltv_expiry: Height,
    /// The block at which the exit begins, or began.
    pub exit_block: Height,
}

impl Engine {
    /// HTLCs of a factory, as of the last block, for which the exit begins within six blocks or has
    /// begun; the most urgent first.
    pub fn urgent_htlcs(&self, factory: &Factory, height: Height) -> Vec<Urgent> {
        if self.fees.htlcs().is_empty() || factory.funding_height().is_none() {
            return vec![];
        }
        let channels = off_chain(factory);
        let urgent = self.fees.htlcs().iter().filter_map(|htlc| {
            let (client, early) = *channels.get(&htlc.channel_id)?;
            let exit_block = htlc.cltv_expiry.saturating_sub(u32::from(early));
            let urgent =
                Urgent { client, channel_id: htlc.channel_id, cltv_expiry: htlc.cltv_expiry, exit_block };
            (exit_block < height.saturating_add(AHEAD)).then_some(urgent)
        });
        let mut urgent: Vec<Urgent> = urgent.collect();
        urgent.sort_by_key(|htlc| (htlc.exit_block, htlc.client));
        urgent
    }
}

/// This node's channels that are not on chain: whose, and how many blocks early they have to leave.
fn off_chain(factory: &Factory) -> HashMap<ChannelId, (ClientIndex, u16)> {
    let first = own_clients(factory).filter(|client| factory.leaf_height(*client).is_none());
    let first = first.filter_map(|client| {
        Some((*factory.current.channels.get(&client)?, (client, factory.current.layout.blocks_early(client))))
    });
    let sold = factory.own_sales().filter(|sold| !factory.confirmed.contains_key(&sold.txid()));
    let sold = sold.map(|sold| {
        let (buyer, number) = (sold.sale.buyer, sold.sale.number);
        (sold.channel_id(), (buyer, factory.sale_blocks_early(buyer, number)))
    });
    first.chain(sold).collect()
}
