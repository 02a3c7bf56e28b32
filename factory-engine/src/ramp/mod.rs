//! Ramps: between factories and ordinary channels with the same operator, in both directions.
//!
//! *Off*: a person wants to leave a factory with its operator's help. The balance goes to an ordinary channel, one
//! that is there or one that L opens on chain, and then the key to L, as after a renewal (S22):
//!
//! ```text
//! client                                       L
//! │ leave_ask {amount, max_price_msat} ──────▶ │ opens a channel
//! │ ◀─────────────── leave_opened {channel_id} │
//! │ deep, and its output is lightningd's       │
//! │ ◀═════ the balance moves (moving) ════════▶│
//! │ ◀═════ the key (handover) ════════════════▶│
//! ```
//!
//! L's price is what stays behind: the client moves that much less, and L has it with the key. So it is paid once the
//! channel is there, and not before.
//!
//! *On*: an ordinary channel moves into a factory that was accepted, once that can't be undone, and is closed then.
//! A person says so when it accepts; the channel of a client that was evicted does so by itself.

pub mod plan;

mod lsp;
mod off;
mod on;

use crate::types::{Amount, Height};

/// Blocks that a client waits for L's channel, from when it was asked for.
pub const PATIENCE: Height = 144;

/// Virtual bytes of a transaction that opens an ordinary channel: one taproot input, the channel and change.
pub const OPENING_VBYTES: u64 = 154;
/// The same in weight units, rounded up.
const OPENING_WEIGHT: u64 = 616;
/// What an ordinary channel holds beyond what it takes of the client's: for the operator's reserve, and for the fees
/// of its commitment transaction, which the operator pays.
const ROOM: u64 = 50_000;

/// The capacity of a channel that can take so much of a client's; nothing if there is no such amount.
fn capacity(amount: Amount) -> Option<Amount> {
    let sat = amount.to_sat();
    // lightningd keeps a hundredth as reserve.
    let sat = sat.checked_add(sat / 50)?.checked_add(ROOM)?;
    (sat <= Amount::MAX_MONEY.to_sat()).then(|| Amount::from_sat(sat))
}
