//! The factory's transactions: keys, scripts, layout, fees, signatures and their verification.
//! Pure: no IO, no clock, randomness is an argument.
//!
//! - [`musig`] MuSig2: the only module that names the library that does it
//! - [`scripts`] output scripts
//! - [`layout`] terms → which transactions exist, who signs them, what they are worth
//! - [`tree`] layout + keys + funding outpoint → the transactions and their sighashes
//! - [`transcript`] the hash over all of it that every member compares
//! - [`verify`] finished transactions against real consensus code
//! - [`child`] the child that raises a transaction's fee
//! - [`close`] one transaction from the funding output to what everybody has
//! - [`coins`] which coins of a wallet pay for something
//! - [`sale`] sales out of a sub-factory's stock
//! - [`reclaim`] coins that L takes back with everybody's keys
//! - [`plan`] the planner: which shape for so many clients

pub mod child;
pub mod close;
pub mod coins;
pub mod layout;
#[cfg(modelled_signatures)]
#[path = "modelled/mod.rs"]
pub mod musig;
#[cfg(not(modelled_signatures))]
pub mod musig;
pub mod plan;
pub mod reclaim;
pub mod sale;
pub mod scripts;
pub mod transcript;
pub mod tree;
pub mod verify;

/// Whether this build's signatures are modelled: then nobody may handle money with it.
pub const MODELLED: bool = cfg!(modelled_signatures);
