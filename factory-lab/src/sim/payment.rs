//! A payment on its way, as the simulator has it.

use factory_engine::types::{ChannelId, Height};
use factory_engine::{Direction, PendingHtlc};

/// `cltv-delta` of every node, blocks.
pub(super) const CLTV_DELTA: u32 = 6;

/// An HTLC from one member to another.
#[derive(Debug, Clone, Copy)]
pub(super) struct Leg {
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) channel: ChannelId,
    pub(super) expiry: Height,
}

/// A payment that nobody has settled yet: until then the channels owe it to nobody.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) hash: [u8; 32],
    pub(super) msat: u64,
    /// From the payer to the payee.
    pub(super) legs: Vec<Leg>,
    /// Block after which it is gone.
    pub(super) until: Height,
    /// From which block on the payee has let go of the preimage; how many legs, from the last, it goes back.
    pub(super) told: Option<(Height, usize)>,
}

impl Held {
    /// How it looks to a member.
    pub(super) fn shown(&self, at: usize, height: Height) -> impl Iterator<Item = PendingHtlc> {
        let told = self.told.filter(|(from, _)| *from <= height).map_or(0, |(_, legs)| legs);
        let unknown = self.legs.len().saturating_sub(told);
        let mine = self.legs.iter().enumerate().filter(move |(_, leg)| [leg.from, leg.to].contains(&at));
        mine.map(move |(place, leg)| PendingHtlc {
            channel_id: leg.channel,
            direction: match (leg.from == at, place < unknown) {
                (true, _) => Direction::Offered,
                (false, true) => Direction::Received,
                (false, false) => Direction::Fulfilled,
            },
            amount_msat: self.msat,
            cltv_expiry: leg.expiry,
            payment_hash: self.hash,
        })
    }
}
