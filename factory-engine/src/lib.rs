//! Channel factories without a node: a state machine without IO, clock or hidden randomness.
//!
//! [`Engine::handle`] looks at one [`Input`] and returns a [`Step`]: events, which must be stored first, and
//! effects, which exist only afterwards. It changes nothing. [`Engine::apply`] takes a step whose events are
//! stored, changes the engine accordingly and hands out the effects. If the store fails the step is dropped,
//! and neither memory nor anybody else has seen it (S14).
//!
//! Partial signatures are made in `apply`, after their ledger entries are durable (S8, S10); that is also
//! where secret nonces are consumed.
//!
//! Each module imports only what stands above it here:
//!
//! | module | what it is |
//! | --- | --- |
//! | [`types`], [`terms`] | ids and heights; what every factory fixes at birth |
//! | [`tx`] | its transactions, keys and signatures |
//! | [`wire`] | bytes ⇄ messages |
//! | [`record`] | what is stored, and the factory that is the fold of it |
//! | [`signing`] | signing together, whatever it is |
//! | [`policy`] | what this node agrees to |
//! | [`io`] | inputs, effects, answers |
//! | [`memory`] | what a restart loses, on purpose |
//! | [`step`] | a step, and how handlers write it |
//! | [`engine`] | one node's state; loading, and applying a step |
//! | [`report`] | what people and programs are told |
//! | [`backup`], [`chain`], [`close`], [`fees`], [`admission`], [`create`], [`sale`], [`moving`], [`handover`], [`renew`], [`reclaim`], [`ladder`], [`tower`] | the capabilities: handlers, which read the engine and write a step |
//! | `handle` | which input goes to which handler |

// A new variant has to be thought of wherever its enum is told apart.
#![deny(clippy::wildcard_enum_match_arm)]

mod handle;

pub mod admission;
pub mod backup;
pub mod chain;
pub mod close;
pub mod create;
pub mod engine;
pub mod fees;
pub mod handover;
pub mod io;
pub mod ladder;
pub mod memory;
pub mod moving;
pub mod policy;
pub mod ramp;
pub mod reclaim;
pub mod record;
pub mod renew;
pub mod report;
pub mod sale;
pub mod signing;
pub mod step;
pub mod terms;
pub mod tower;
pub mod tx;
pub mod types;
pub mod wire;

// What whoever runs an engine needs.
pub use admission::htlc::{ChannelPolicy, Doubt};
pub use chain::evict::{Eviction, evictable, eviction};
pub use chain::package::{Packaged, Part, package};
pub use chain::{TOLD_TO, Watched, exit_allowed};
pub use close::ready::ClosePlan;
pub use create::online::Online;
pub use engine::{Engine, Folded, Remains};
pub use handover::ready::{NotYet, Successor};
pub use io::{
    Answer, Block, CannotClose, CannotMove, ChannelBalance, ChannelNow, CheckFailure, Command, Create,
    Direction, Effect, Entropy, Input, Invoice, KnownChannel, Level, MoveLimit, NodeError, OpenChannel,
    OpenFailure, PendingHtlc, PreparedFunding, Refusal, RefusalKind, SendMove, StaleStep, WakeReason,
};
pub use ladder::LadderStanding;
pub use memory::balances::Balances;
pub use memory::ceremony::Phase;
pub use memory::leaving::{Failure, Priced};
pub use memory::sale::{NoPrice, OrdinaryChannel, Purchase, Quoted};
pub use moving::plan::{MoveBlocks, MovePlan};
pub use policy::ladder::{BadLadder, Ladder, Rung};
pub use policy::prices::{BadPrices, PriceList};
pub use policy::{Bound, Bounds, Config, Fit, KnownFees, Policy, Term};
pub use ramp::plan::{Leave, LeavePlan, LeaveStage};
pub use record::attempt::{Attempt, Creation, Role};
pub use record::close::{CLOSE_BLOCKS, Closing};
pub use record::ended::Ended;
pub use record::factory::{BURIED, Factory};
pub use record::leaves::{Leaves, Wish};
pub use record::load_error::LoadError;
pub use record::moves::{Move, Moves};
pub use record::sales::account::Account;
pub use record::sales::jits::Jits;
pub use record::sales::{Sales, Sold};
pub use record::state::State;
pub use record::unusable::{NotCooperative, Unusable};
pub use renew::terms::Worse;
pub use renew::{Renewal, Stage};
pub use report::progress::Progress;
pub use report::standing::{NextAction, Sighting, Standing, sightings, standing};
pub use report::statement::{AccountProblem, Line, Purpose, Statement, statement};
pub use sale::Quote;
pub use step::Step;
