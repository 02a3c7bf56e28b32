//! A whole world in one process: the real engine on every member, a model of each lightningd, a
//! network, a chain whose scripts are judged by real consensus code, and a clock. One seed decides
//! everything.
//!
//! - [`rng`] randomness from the seed
//! - [`fault`] what can go wrong, how often, and whether it does
//! - [`key`] a key of a wallet or a channel
//! - [`chain`] blocks, mempool, timelocks, reorganisations
//! - [`node`] what one lightningd does for the plugin: wallet, channels
//! - [`offer`] what `factory-create` is asked for
//! - [`raw`] a factory on a coin of another chain, for tests on a real bitcoind
//! - [`store`] a member's records
//! - [`judge`] what must hold after every step
//! - [`world`] members, messages, time, faults
//! - [`scenario`] the builder of worlds, with a factory that is begun, active, sold from, ...
//! - [`scripted`] a lightningd that always says yes, for worlds that have no other
//! - [`years`] years of a ladder of factories, and what they cost
//! - [`sim`] many worlds, with a random schedule of faults each

pub mod chain;
pub mod fault;
pub mod judge;
pub mod key;
pub mod node;
pub mod offer;
pub mod raw;
pub mod rng;
pub mod scenario;
pub mod scripted;
pub mod sim;
pub mod store;
pub mod world;
pub mod years;

use std::fmt;

/// Why the lab could not go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabError(pub String);

impl fmt::Display for LabError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for LabError {}

/// An error with this text.
pub(crate) fn error(text: impl fmt::Display) -> LabError {
    LabError(text.to_string())
}
