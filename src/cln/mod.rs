//! Everything that knows lightningd, and nothing else does.
//!
//! - [`builder`] the manifest: options, commands, hooks, subscriptions
//! - [`boot`] from lightningd's `init` to a running engine
//! - [`vital`] tasks whose end is the process's; [`guard`] no lightningd without a guard of its factories
//! - [`hooks`], [`methods`] one file for each surface
//! - [`holding`] HTLCs for clients that aren't connected; [`dust`] a cap on small ones
//! - [`channels`] lightningd's channels, [`mirror`] its list of them, [`watch`] what it does with them by itself
//! - [`executor`] effects become calls; [`chain`] blocks become inputs, `pruned` those that are gone
//! - [`requests`] what comes in on stdin; [`progress`] what a slow command says meanwhile
//! - [`bump`] children that raise fees, [`raises`] in which order, [`kept`] the coins for them, `look` what the wallet
//!   has; [`feerates`] what fees are; [`sent`] what a refusal means; [`bitcoind`] packages; [`psbt`] the wallet's PSBTs
//! - [`spend`] what the wallet pays for, and with which coins; [`funding`] a factory's funding
//! - [`online`] when clients are online; [`words`] what people read of the engine's reasons
//! - [`payments`] what liquidity costs: invoices and payments; `balances` what channels hold;
//!   `moves` a balance that goes from one channel to another; `fees_before` what it cost before;
//!   `ordinary` whether a channel stands on what it should, `abandoned` those that lightningd keeps for ever
//! - [`metrics`] numbers for an operator's monitoring, over [`http`]; [`tally`] what of them is counted as it happens,
//!   `timed` how long the store takes; [`page`] what a person sees of all that, live, in a browser
//! - [`wallet_db`] lightningd's own database, in SQLite or PostgreSQL, which is only read
//! - [`datastore`] where the store keeps its keys; [`client`] the RPC socket; [`bolt12`] invoices on their way to be signed

mod abandoned;
pub mod backup;
mod balances;
#[cfg(test)]
mod bare;
pub mod bitcoind;
pub mod bolt12;
pub mod boot;
pub mod builder;
pub mod bump;
pub mod chain;
pub mod channel_state;
pub mod channels;
pub mod children;
pub mod client;
pub mod datastore;
pub mod dust;
pub mod error;
pub mod executor;
mod failures;
pub mod feerates;
mod fees_before;
pub mod follow;
pub mod funding;
pub mod funding_script;
pub mod guard;
pub mod holding;
pub mod hooks;
pub mod htlcs;
pub mod http;
pub mod kept;
pub mod lanes;
mod look;
pub mod methods;
pub mod metrics;
pub mod mirror;
pub mod moves;
pub mod online;
mod ordinary;
pub mod outbox;
pub mod page;
pub mod params;
pub mod payments;
pub mod peers;
pub mod preimages;
pub mod progress;
mod pruned;
pub mod psbt;
pub mod raises;
pub mod requests;
mod reread;
#[cfg(test)]
mod scratch;
pub mod sent;
pub mod spend;
pub mod state;
pub mod tally;
mod timed;
mod tower;
#[cfg(test)]
mod toy;
pub mod vital;
pub mod waker;
pub mod wallet;
pub mod wallet_db;
pub mod watch;
mod watch_online;
pub mod words;

pub use builder::run;
