//! Numbers over many runs, for people.

use std::collections::BTreeMap;
use std::fmt;

use crate::fault::Kind;
use crate::world::chaos::coverage::Coverage;

use super::Outcome;

/// Numbers over many runs: whoever adds them up in whatever order gets the same.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sum {
    /// Runs that were added up.
    pub runs: u64,
    steps: u64,
    blocks: u64,
    htlcs: (u64, u64),
    sales: (u64, u64),
    checks: u64,
    /// Faults that happened, by kind.
    pub faults: BTreeMap<Kind, u64>,
    ended: BTreeMap<&'static str, u64>,
    /// Inputs, changes of state and commits that any run came to.
    pub coverage: Coverage,
}

impl Sum {
    /// Adds one run's numbers.
    pub fn add(&mut self, outcome: &Outcome) {
        self.runs += 1;
        self.steps += outcome.steps;
        self.blocks += outcome.blocks;
        self.htlcs.0 += outcome.htlcs.0;
        self.htlcs.1 += outcome.htlcs.1;
        self.sales.0 += outcome.sales.0;
        self.sales.1 += outcome.sales.1;
        self.checks += outcome.checks;
        for fired in &outcome.fired {
            *self.faults.entry(fired.kind).or_default() += 1;
        }
        *self.ended.entry(outcome.ended).or_default() += 1;
        self.coverage.add(&outcome.coverage);
    }

    /// Adds what somebody else has added up.
    pub fn merge(&mut self, other: &Sum) {
        self.runs += other.runs;
        self.steps += other.steps;
        self.blocks += other.blocks;
        self.htlcs.0 += other.htlcs.0;
        self.htlcs.1 += other.htlcs.1;
        self.sales.0 += other.sales.0;
        self.sales.1 += other.sales.1;
        self.checks += other.checks;
        for (kind, count) in &other.faults {
            *self.faults.entry(*kind).or_default() += count;
        }
        for (name, count) in &other.ended {
            *self.ended.entry(name).or_default() += count;
        }
        self.coverage.add(&other.coverage);
    }
}

impl fmt::Display for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ended: Vec<String> = self.ended.iter().map(|(name, count)| format!("{name} {count}")).collect();
        writeln!(f, "ended             {}", ended.join(", "))?;
        writeln!(f, "steps             {}", self.steps)?;
        writeln!(f, "blocks            {}", self.blocks)?;
        writeln!(f, "htlcs             {} tried, {} moved", self.htlcs.0, self.htlcs.1)?;
        writeln!(f, "sales             {} asked for, {} signed", self.sales.0, self.sales.1)?;
        let modelled = if cfg!(modelled_signatures) { " (modelled)" } else { "" };
        writeln!(f, "consensus checks  {}{modelled}", self.checks)?;
        let faults: Vec<String> =
            self.faults.iter().map(|(kind, count)| format!("{} {count}", kind.name())).collect();
        writeln!(f, "faults            {}", faults.join(", "))?;
        let silent = Kind::ALL.iter().filter(|kind| !self.faults.contains_key(kind));
        let silent: Vec<&str> = silent.map(|kind| kind.name()).collect();
        if !silent.is_empty() {
            writeln!(f, "no fault yet of   {}", silent.join(", "))?;
        }
        self.coverage.fmt(f)
    }
}
