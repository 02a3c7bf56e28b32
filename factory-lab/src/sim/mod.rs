//! The simulator: one seed decides a whole run, with everything that goes wrong in it.
//!
//! - [`fault`](crate::fault) kinds of faults, their rates, the decisions
//! - [`chaos`](crate::world::chaos) what the world asks, and notes; what was reached, who lies
//! - [`sum`] numbers over many runs
//! - [`run`] the course of a run; `create` its beginning
//! - [`leave`] its end: exits, timeouts, and who has what
//! - `buy` clients that buy out of stock
//! - `lost` copies with peers: machines that burn, keepers that lie; `losing`: what decides about it
//! - [`htlc`] payments at the edges of what may be admitted; `held`: who leaves for those that are held
//! - [`many`] many runs, on several threads
//! - `others` strangers, older copies, people who are asked
//! - `find` which attempt or sale a channel is of
//! - `parts` what a run remembers, `settings` what members have set
//! - `people` who lies, who is gone
//! - `prices` what liquidity costs, and whether it was got
//! - [`probe`] whether a member could leave right now
//! - `renew` one factory after the other: rungs, stragglers, keys; `renewing`: what decides about it
//! - [`shrink`] the shortest schedule that still shows a violation
//! - `watched` a client that has another one watch for it while it sleeps; `watching`: what decides about it

mod buy;
mod create;
mod find;
mod held;
pub mod htlc;
pub mod leave;
mod losing;
mod lost;
pub mod many;
mod market;
mod others;
mod parts;
mod payment;
mod people;
mod prices;
pub mod probe;
mod renew;
mod renewing;
pub mod run;
mod settings;
pub mod shrink;
pub mod sum;
mod watched;
mod watching;

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};

use run::Run;

use crate::fault::{Chances, Fired, Rates};
use crate::world::chaos::Chaos;
use crate::world::chaos::coverage::Coverage;

/// What decides a run: the same options play the same run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Seed of everything random.
    pub seed: u64,
    /// Number of clients, besides the operator.
    pub clients: usize,
    /// How often each kind of fault happens.
    pub rates: Rates,
    /// If given, nothing goes wrong at other points.
    pub only: Option<BTreeSet<u64>>,
    /// Whether lines for people are kept.
    pub lines: bool,
}

/// What became of a run.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Hash over everything that happened.
    pub trace: [u8; 32],
    /// Lines, if they were wanted.
    pub lines: Vec<String>,
    /// Steps that were played.
    pub steps: u64,
    /// Blocks that were mined.
    pub blocks: u64,
    /// HTLCs that were tried, and that were admitted.
    pub htlcs: (u64, u64),
    /// Purchases that were asked for, and sales that were signed.
    pub sales: (u64, u64),
    /// Inputs that consensus code has judged.
    pub checks: u64,
    /// Faults that happened, in order.
    pub fired: Vec<Fired>,
    /// Inputs, changes of state and commits that the run came to.
    pub coverage: Coverage,
    /// How it ended, in a word.
    pub ended: &'static str,
    /// The first property that did not hold.
    pub violation: Option<String>,
}

impl Outcome {
    /// The number of the property that did not hold.
    pub fn property(&self) -> Option<&str> {
        let text = self.violation.as_deref()?;
        Some(text.split_once(':').map_or(text, |(property, _)| property))
    }
}

/// Plays one run, to its end or to the first property that does not hold.
pub fn play(options: &Options) -> Outcome {
    let chances = Chances::new(options.seed, options.rates.clone(), options.only.clone());
    let chaos = Chaos::new(chances, options.lines);
    let mut run = match Run::new(options.seed, options.clients, chaos) {
        Ok(run) => run,
        Err(error) => return failed(format!("lab: {error}")),
    };
    // A panic of the engine is a violation like any other, and has a seed.
    let played = catch_unwind(AssertUnwindSafe(|| run.play()));
    let violation = match played {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(error.to_string()),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            Some(format!("panic: {}", text.unwrap_or_default()))
        }
    };
    let chaos = run.world.chaos.take();
    let Some(chaos) = chaos else { return failed("lab: the world lost its chaos".into()) };
    Outcome {
        trace: chaos.trace.hash(),
        lines: chaos.trace.lines.unwrap_or_default(),
        steps: run.steps,
        blocks: run.blocks,
        htlcs: run.htlcs,
        sales: (run.wishes, run.sales()),
        checks: run.world.chain.script_checks().saturating_add(run.probed),
        fired: chaos.chances.fired,
        coverage: chaos.coverage,
        ended: run.ended,
        violation,
    }
}

fn failed(violation: String) -> Outcome {
    Outcome {
        trace: [0; 32],
        lines: vec![],
        steps: 0,
        blocks: 0,
        htlcs: (0, 0),
        sales: (0, 0),
        checks: 0,
        fired: vec![],
        coverage: Coverage::default(),
        ended: "failed",
        violation: Some(violation),
    }
}
