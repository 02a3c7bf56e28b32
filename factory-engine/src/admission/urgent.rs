//! HTLCs whose deadline is near: said before this node leaves for them (S16).

use crate::engine::Engine;
use crate::record::factory::Factory;
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
        let near = height.saturating_add(AHEAD).saturating_sub(1);
        let urgent = self.leaving_for(factory, near).into_iter().map(|(channel, at_risk)| Urgent {
            client: channel.client,
            channel_id: channel.channel_id,
            cltv_expiry: at_risk.htlc.cltv_expiry,
            exit_block: at_risk.exit_block,
        });
        let mut urgent: Vec<Urgent> = urgent.collect();
        urgent.sort_by_key(|htlc| (htlc.exit_block, htlc.client));
        urgent
    }
}
