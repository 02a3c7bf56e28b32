//! The one task that owns the engine and the store.
//!
//! Everybody else sends it requests through a [`Handle`]. For each it asks the engine what follows,
//! stores the events, and only then lets anything of it become real (S10, S14). Nothing is shared
//! but the [`View`], from which hooks answer without waiting.

pub mod clock;
mod core;
#[cfg(feature = "faults")]
pub mod faults;
mod finished;
mod handle;
mod handled;
mod peers;
pub mod store;
mod view;

#[cfg(test)]
mod tests;

pub use self::core::{Runtime, forget_tip, run_unavailable, stored_ladder, stored_prices, stored_tip};
pub use clock::{SystemEntropy, now};
pub use handle::{Gone, Handle, Inbox, Transition, channel};
pub use view::{HtlcView, MOST_BEHIND, View};

use factory_engine::Effect;
use factory_engine::types::NodeId;

/// What the runtime asks of the node around it. None of these may block: whatever takes time goes to
/// a task of its own, and its outcome comes back as an input.
pub trait Node: Send + Sync + 'static {
    /// Carries out an effect of a step that is stored.
    fn execute(&self, effect: Effect);

    /// Sends a lightning message of type 32800; messages to one peer keep their order.
    fn transmit(&self, peer: NodeId, raw: Vec<u8>);

    /// Ends the connection to a peer that broke the rules.
    fn disconnect(&self, peer: NodeId);
}
