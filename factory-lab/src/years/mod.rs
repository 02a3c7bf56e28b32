//! Years of one operator and its clients: a ladder of factories, payments, purchases, people who come and go. The
//! same engine in each member, over the lab's network and chain.
//!
//! Time is scaled: a block is an hour, so that a year is 8,760 of them, and delays are as short as in tests. What is
//! on chain doesn't depend on that.
//!
//! - [`schedule`] when the next factory is made, and with whom
//! - [`people`] who is there when
//! - [`economy`] what it has cost
//! - `lies` an operator that lies, and clients that do, where that is wanted

pub mod economy;
mod lies;
pub mod people;
mod run;
pub mod schedule;

use economy::Economy;
use schedule::Ladder;

use crate::LabError;

/// Hours, and so blocks, of a day.
pub const DAY: u32 = 24;
/// Of a year.
pub const YEAR: u32 = 365 * DAY;

/// What decides about some years: the same settings play the same ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Seed of everything random.
    pub seed: u64,
    /// Number of clients, besides the operator.
    pub clients: usize,
    /// How many hours are counted, once the ladder stands.
    pub hours: u32,
    /// When factories are made.
    pub ladder: Ladder,
    /// On how many of the first rungs clients join, as many on each.
    pub cohorts: u32,
    /// Whether nodes crash and fees storm.
    pub troubles: bool,
    /// Whether the operator, and one client out of eight, lie about keys, go away, publish what isn't theirs any more.
    pub lies: bool,
}

impl Settings {
    /// A rung every two weeks (26 a year), due after four, four to come; at most 127 clients in a factory.
    pub fn new(seed: u64, clients: usize, years: u32) -> Self {
        // A few all begin together.
        let cohorts: u32 = if clients < 200 { 1 } else { 4 };
        let share = clients.checked_div(usize::try_from(cohorts).unwrap_or(1)).unwrap_or(clients);
        let (smallest, enough) = (4, (share / 2).clamp(1, 64));
        let ladder =
            Ladder { rung_blocks: 14 * DAY, due_rungs: 4, dying_rungs: 4, smallest, enough, largest: 127 };
        let hours = years.saturating_mul(YEAR);
        Self { seed, clients, hours, ladder, cohorts, troubles: true, lies: false }
    }
}

/// Plays them; `say` gets what a person who looks on would want to know.
///
/// # Errors
/// The first property that does not hold.
pub fn play(settings: &Settings, say: &mut dyn FnMut(String)) -> Result<Economy, LabError> {
    run::Years::new(settings, say)?.play()
}
