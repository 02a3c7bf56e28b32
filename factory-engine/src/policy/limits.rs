//! Limits on HTLCs that a node sets itself.

use crate::types::Millis;

/// What L is ready to hold at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HoldLimits {
    /// For how long; 0 holds nothing.
    pub time: Millis,
    /// How many HTLCs.
    pub number: usize,
    /// The sum of their amounts, msat.
    pub msat: u64,
}

/// Most that may be in flight at once as dust.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DustLimits {
    /// On one channel, msat.
    pub channel_msat: u64,
    /// On all channels of one factory, msat.
    pub factory_msat: u64,
}
