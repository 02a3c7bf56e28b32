//! Moves: a client's balance goes from one of its channels with L to another, factories' or ordinary ones, by
//! paying itself in a circle over L (S37).
//!
//! The client asks, L forwards over the new channel for nothing, and the client sends HTLCs, one after the other,
//! each as large as both channels allow. Each is stored before it leaves, with the payment_hash of an invoice of
//! the client's own: so whatever stops in between, lightningd knows what became of it. As long as one is under way
//! its amount is the client's in both commitments: L can take it from the old channel only with the preimage, which
//! the client shows when it stands in the new one.

pub mod plan;

mod client;
mod lsp;

use crate::types::Height;

/// Blocks without an HTLC that arrives, after which a move ends; and blocks for which L forwards for nothing.
pub const PATIENCE: Height = 12;

/// The most blocks that a client takes between the expiries of the two HTLCs.
const MOST_DELTA: u32 = 144;

/// HTLCs in a row that fail, or arrive and leave what is in the channel where it is, before a move ends.
const MOST_FAILS: u32 = 3;
