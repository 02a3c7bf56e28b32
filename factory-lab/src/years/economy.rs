//! What a year has cost, and what was had for it.

use std::collections::BTreeMap;
use std::fmt;

use super::people::Habit;

/// Numbers of some years of one operator with its clients.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Economy {
    /// Clients.
    pub clients: usize,
    /// Clients by habit.
    pub habits: BTreeMap<Habit, usize>,
    /// Years that were counted, after the ladder stood.
    pub years: f64,
    /// Factories that were made, their clients together, and how many had a root as an input.
    pub factories: (u64, u64, u64),
    /// Lifetimes of factories that ended.
    pub lifetimes: u64,
    /// Renewals that were done: a client that has handed its key over.
    pub renewals: u64,
    /// Clients that were evicted, by habit.
    pub evicted: BTreeMap<Habit, u64>,
    /// What is on chain, virtual bytes by kind.
    pub vbytes: BTreeMap<&'static str, u64>,
    /// Sums over blocks, satoshi: what the operator's factories have locked, and what of it clients' newest channels
    /// stand on.
    pub locked: (u128, u128),
    /// Payments that were tried between clients that were there, and that arrived.
    pub payments: (u64, u64),
    /// Why they didn't, and how often.
    pub refused: BTreeMap<String, u64>,
    /// Hours in which a client was there, and those of them in which it had no usable channel.
    pub hours: (u64, u64),
    /// Purchases that were asked for, and sales that were signed.
    pub sales: (u64, u64),
    /// Nodes that crashed and came back, storms of fees.
    pub troubles: (u64, u64),
    /// Lies, by kind: who told some about the keys of a factory, hours at which the operator went away, at which its
    /// node set no fees any more, paths of clients that had left. None unless somebody lies.
    pub lies: BTreeMap<&'static str, u64>,
    /// Inputs that scripts were checked for.
    pub checks: u64,
}

impl Economy {
    /// Virtual bytes a client and year.
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    pub fn vbytes_a_year(&self) -> f64 {
        let all: u64 = self.vbytes.values().sum();
        all as f64 / self.clients.max(1) as f64 / self.years.max(0.001)
    }

    /// Part of the renewals that came to nothing: their client was evicted.
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    pub fn share_evicted(&self) -> f64 {
        let evicted: u64 = self.evicted.values().sum();
        evicted as f64 / (evicted.saturating_add(self.renewals)).max(1) as f64
    }

    /// What is locked against what is in use.
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    pub fn locked_to_used(&self) -> f64 {
        self.locked.0 as f64 / self.locked.1.max(1) as f64
    }

    /// Part of the hours that clients were there in which they could not be paid, nor pay.
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    pub fn downtime(&self) -> f64 {
        self.hours.1 as f64 / self.hours.0.max(1) as f64
    }
}

impl fmt::Display for Economy {
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let people: Vec<String> =
            self.habits.iter().map(|(habit, count)| format!("{count} {}", habit.name())).collect();
        writeln!(f, "clients           {}: {}", self.clients, people.join(", "))?;
        let (made, places, with_root) = self.factories;
        let mean = places as f64 / made.max(1) as f64;
        let per_year = made as f64 / self.years.max(0.001);
        writeln!(f, "years             {:.2}", self.years)?;
        writeln!(
            f,
            "factories         {made} made ({per_year:.1} a year) of {mean:.0} clients on average, {with_root} with a \
             root as input; {} ended",
            self.lifetimes
        )?;
        let evicted: u64 = self.evicted.values().sum();
        let whom: Vec<String> =
            self.evicted.iter().map(|(habit, count)| format!("{count} {}", habit.name())).collect();
        writeln!(
            f,
            "renewals          {} done; {evicted} evicted, {:.2} %{}{}",
            self.renewals,
            100.0 * self.share_evicted(),
            if whom.is_empty() { "" } else { ": " },
            whom.join(", ")
        )?;
        let kinds: Vec<String> = self
            .vbytes
            .iter()
            .map(|(kind, vbytes)| {
                let each = *vbytes as f64 / self.clients.max(1) as f64 / self.years.max(0.001);
                format!("{kind} {each:.1}")
            })
            .collect();
        writeln!(
            f,
            "on chain          {:.1} vB a client and year: {}",
            self.vbytes_a_year(),
            kinds.join(", ")
        )?;
        writeln!(f, "capital           {:.3} locked for each that is in use", self.locked_to_used())?;
        writeln!(
            f,
            "downtime          {:.3} % of {} hours that clients were there ({} hours without a usable channel)",
            100.0 * self.downtime(),
            self.hours.0,
            self.hours.1
        )?;
        let (tried, arrived) = self.payments;
        writeln!(f, "payments          {tried} tried, {arrived} arrived")?;
        for (why, count) in &self.refused {
            writeln!(f, "                  {count} refused: {why}")?;
        }
        writeln!(f, "sales             {} asked for, {} signed", self.sales.0, self.sales.1)?;
        writeln!(f, "troubles          {} crashes, {} storms of fees", self.troubles.0, self.troubles.1)?;
        if !self.lies.is_empty() {
            let lies: Vec<String> = self.lies.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
            writeln!(f, "lies              {}", lies.join(", "))?;
        }
        let modelled = if cfg!(modelled_signatures) { " (modelled)" } else { "" };
        write!(f, "consensus checks  {}{modelled}", self.checks)
    }
}
