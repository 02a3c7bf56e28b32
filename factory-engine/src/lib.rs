//! Channel factories without a node: no IO, no clock, no hidden randomness.
//!
//! The modules stand in the order in which data flows through them: bytes from a peer become
//! messages ([`wire`]), messages become events and effects ([`protocol`], which leans on [`tx`] for
//! every transaction and signature), and events ([`record`]) are what whoever runs the engine has to store
//! before it applies a step. [`drawing`] shows a factory to people.

mod handle;

pub mod admission;
pub mod chain;
pub mod create;
pub mod engine;
pub mod fees;
pub mod io;
pub mod memory;
pub mod policy;
pub mod record;
pub mod report;
pub mod sale;
pub mod signing;
pub mod step;
pub mod terms;
pub mod tx;
pub mod types;
pub mod wire;

// What whoever runs an engine needs.
pub use admission::htlc::ChannelPolicy;
pub use chain::evict::{Eviction, evictable, eviction};
pub use chain::{TOLD_TO, Watched, exit_allowed};
pub use create::online::Online;
pub use engine::{Engine, Folded};
pub use io::{
    Answer, Block, CheckFailure, Command, Create, Effect, Entropy, Input, Invoice, KnownChannel, Level,
    NodeError, OpenChannel, OpenFailure, PendingHtlc, PreparedFunding, Refusal, RefusalKind, StaleStep,
};
pub use memory::sale::{Instead, NoPrice, Purchase, Quoted};
pub use policy::prices::{BadPrices, PriceList};
pub use policy::{Config, Policy};
pub use record::attempt::{Attempt, Creation, Role};
pub use record::factory::{BURIED, Factory};
pub use record::load_error::LoadError;
pub use record::sales::account::Account;
pub use record::sales::jits::Jits;
pub use record::sales::{Sales, Sold};
pub use record::state::State;
pub use record::unusable::{NotCooperative, Unusable};
pub use report::progress::{Progress, Stage};
pub use report::standing::{NextAction, Sighting, Standing, sightings, standing};
pub use report::statement::{AccountProblem, Line, Purpose, Statement, statement};
pub use sale::Quote;
pub use step::Step;
