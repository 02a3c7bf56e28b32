//! Limits on HTLCs that a node sets itself.

use crate::types::Millis;

/// What L is ready to hold at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HoldLimits {
    /// How long one HTLC is held, milliseconds; 0 holds nothing.
    pub time: Millis,
    /// HTLCs that are held at once, of all clients.
    pub number: usize,
    /// Sum of what they would forward, msat.
    pub msat: u64,
}

/// Most that may be in flight at once as dust.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DustLimits {
    /// Largest sum on one channel, msat, both directions together.
    pub channel_msat: u64,
    /// Largest sum on all channels of one factory, msat.
    pub factory_msat: u64,
}
