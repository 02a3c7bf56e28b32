//! Payments, modelled: HTLCs are admitted by the engine's own rule and settle at once.

use factory_engine::admission::htlc::{Htlc, Upstream, Verdict, admit};
use factory_engine::types::{ChannelId, Height};

use crate::node::{Balances, commitment};
use crate::{LabError, error};

use super::{LSP, World};

/// Smallest distance between the expiries of two hops, blocks.
const CLTV_DELTA: Height = 34;

impl World {
    /// The channels of a client, usable or not.
    pub fn channels_of(&self, client: usize) -> Vec<ChannelId> {
        self.members[client].lightningd.channels.keys().copied().collect()
    }

    /// Pays from one member to another, over the operator where neither is it. Both sides of every
    /// hop must admit the HTLC (S15, S18).
    ///
    /// # Errors
    /// When an HTLC is refused, or a balance is too small.
    pub fn pay(&mut self, from: usize, to: usize, msat: u64) -> Result<(), LabError> {
        self.pay_with(from, to, msat, CLTV_DELTA)
    }

    /// The same with a number of blocks for each hop.
    pub(super) fn pay_with(
        &mut self,
        from: usize,
        to: usize,
        msat: u64,
        blocks: Height,
    ) -> Result<(), LabError> {
        let hops: Vec<(usize, usize)> = match (from, to) {
            (LSP, to) => vec![(LSP, to)],
            (from, LSP) => vec![(from, LSP)],
            (from, to) => vec![(from, LSP), (LSP, to)],
        };
        let mut channels = Vec::new();
        for (left, hop) in (0u32..).zip(hops.iter().rev()) {
            let early = self.members[hop.0].engine.as_ref().map_or(0, |e| e.largest_blocks_early());
            let expiry = self
                .chain
                .height()
                .saturating_add(u32::from(early))
                .saturating_add(blocks.saturating_mul(left.saturating_add(1)));
            channels.insert(0, self.admitted(*hop, expiry, msat)?);
        }
        for (hop, channel) in hops.into_iter().zip(channels) {
            self.shift(hop, channel, msat)?;
        }
        Ok(())
    }

    /// The channel between two members that both admit an HTLC on.
    fn admitted(&self, hop: (usize, usize), expiry: Height, msat: u64) -> Result<ChannelId, LabError> {
        let client = if hop.0 == LSP { hop.1 } else { hop.0 };
        let mut why = error("they have no channel");
        'channels: for channel_id in self.channels_of(client) {
            for member in [hop.0, hop.1] {
                let engine = self.members[member].engine.as_ref().ok_or_else(|| error("a node is down"))?;
                let policy = engine.policy_of(channel_id);
                let htlc = Htlc {
                    incoming: policy.as_ref(),
                    outgoing: None,
                    cltv_expiry: expiry,
                    outgoing_cltv_expiry: None,
                    cltv_delta: 0,
                    upstream: Upstream::Live,
                };
                if let Verdict::Fail { reason, .. } = admit(&htlc, self.chain.height()) {
                    why = error(reason);
                    continue 'channels;
                }
            }
            // Either side's end is the channel's.
            let theirs = self.members[hop.1].lightningd.channels.get(&channel_id);
            let ends = theirs.is_none_or(|channel| channel.closing);
            match self.members[hop.0].lightningd.channels.get(&channel_id) {
                Some(channel) if !channel.closing && !ends => {
                    let own = channel.balances;
                    if (if channel.opener { own.opener_msat } else { own.fundee_msat }) >= msat {
                        return Ok(channel_id);
                    }
                    why = error("Insufficient balance");
                }
                _ => why = error("the channel is closing"),
            }
        }
        Err(why)
    }

    /// A client's money from one of its channels with the operator to another: two payments that settle at once.
    ///
    /// # Errors
    /// When there is not as much on either side.
    pub fn shift_between(
        &mut self,
        client: usize,
        from: ChannelId,
        to: ChannelId,
        msat: u64,
    ) -> Result<(), LabError> {
        self.shift((client, LSP), from, msat)?;
        self.shift((LSP, client), to, msat)
    }

    /// So much over one channel, without asking either side's plugin, and settled at once.
    ///
    /// # Errors
    /// When there is not as much.
    pub fn shift(&mut self, (from, to): (usize, usize), id: ChannelId, msat: u64) -> Result<(), LabError> {
        let missing = || error("the channel is gone");
        let ours = self.members[from].lightningd.channels.get(&id).ok_or_else(missing)?;
        let theirs = self.members[to].lightningd.channels.get(&id).ok_or_else(missing)?;
        let (opener, fundee) = if ours.opener { (ours, theirs) } else { (theirs, ours) };
        let old = ours.balances;
        let moved = |more: u64, less: u64| Some((more.checked_add(msat)?, less.checked_sub(msat)?));
        let new = if ours.opener {
            moved(old.fundee_msat, old.opener_msat)
                .map(|(fundee_msat, opener_msat)| Balances { opener_msat, fundee_msat })
        } else {
            moved(old.opener_msat, old.fundee_msat)
                .map(|(opener_msat, fundee_msat)| Balances { opener_msat, fundee_msat })
        };
        let balances = new.ok_or_else(|| error("Insufficient balance"))?;
        let keys = (&opener.key, &fundee.key);
        let signed = commitment(ours.outpoint, ours.capacity, keys, &ours.scripts, balances)?;
        for member in [from, to] {
            if let Some(channel) = self.members[member].lightningd.channels.get_mut(&id) {
                channel.balances = balances;
                channel.commitment = signed.clone();
            }
        }
        Ok(())
    }
}
