//! The planner: which shape for so many clients.
//!
//! Of all arities it takes those with which the client that is worst off publishes the fewest vB to get
//! out, if each transaction needs a child that raises its fee, and among these the fewest blocks. How many
//! members a sale needs is decided by the leaf alone: L and one sub-factory. What else there is to choose from: [`frontier`].

pub mod frontier;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use crate::terms::{Kind, Leaf, Level, Shape};

use super::child::usual_weight;
use super::layout::{MAX_CLIENTS, MAX_EXIT_BLOCKS, MAX_LEVELS, MAX_V3_VBYTES, vbytes, weight};

/// Arities that the planner tries. Below this range there is no split; above it a node costs more
/// than the level that it saves.
const ARITIES: RangeInclusive<u16> = 2..=24;
/// Clients of a sub-factory: with L three signers for a sale.
const CLIENTS_PER_SUB: u16 = 2;
/// Sub-factories of a leaf, except in [`Profile::Flat`].
const SUB_FACTORIES: u16 = 2;

/// Numbers of clients that one leaf of three sub-factories suits better than two leaves in every number:
/// a smaller exit and fewer signatures, and as many members for a sale.
const ONE_LEAF: RangeInclusive<u32> = 5..=6;

/// What a factory is to be good at.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Profile {
    /// "static", the default: nothing can be replaced, so there is nothing old to fear, and an exit
    /// waits for confirmations only.
    #[default]
    Static,
    /// "stateful": interior levels can be reallocated later, at the price of relative timelocks.
    Stateful,
    /// "flat": one transaction over everybody; the shortest exit, but everybody's vB are paid by
    /// whoever exits first. Up to 153 clients.
    Flat,
}

impl Profile {
    /// All profiles, the default first.
    pub const ALL: [Self; 3] = [Self::Static, Self::Stateful, Self::Flat];

    /// Its name in commands and options.
    pub fn name(self) -> &'static str {
        match self {
            Self::Static => "static",
            Self::Stateful => "stateful",
            Self::Flat => "flat",
        }
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Profile {
    type Err = PlanError;

    fn from_str(name: &str) -> Result<Self, PlanError> {
        let known = Self::ALL.into_iter().find(|profile| profile.name() == name);
        known.ok_or_else(|| PlanError::UnknownProfile { name: name.to_owned() })
    }
}

/// The delays that a plan reckons with, as in [`crate::terms::Terms`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Delays {
    /// nSequence difference between two states, blocks.
    pub state_step: u16,
    /// States of a stateful level.
    pub state_count: u16,
    /// Blocks for each path transaction to confirm.
    pub confirm_blocks: u16,
    /// Blocks added to every exit.
    pub margin_blocks: u16,
}

impl Default for Delays {
    /// Five states six hours apart, an hour to confirm, a day of margin.
    fn default() -> Self {
        Self { state_step: 36, state_count: 5, confirm_blocks: 6, margin_blocks: 144 }
    }
}

/// Why there is no shape. Each text says what to change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PlanError {
    /// No clients were asked for.
    NoClients,
    /// More clients than [`MAX_CLIENTS`].
    TooManyClients {
        /// Clients that were asked for.
        clients: u32,
    },
    /// One transaction can't hold all channels.
    TooLargeForFlat {
        /// Clients that were asked for.
        clients: u32,
        /// Size of the transaction, vB.
        vbytes: u64,
    },
    /// An exit longer than [`MAX_EXIT_BLOCKS`].
    ExitTooLong {
        /// The longest exit with margin, blocks.
        blocks: u64,
    },
    /// No profile of this name.
    UnknownProfile {
        /// The name that was given.
        name: String,
    },
}

impl fmt::Display for PlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoClients => write!(f, "a factory needs at least one client"),
            Self::TooManyClients { clients } => {
                write!(f, "{clients} clients: a factory has 1 to {MAX_CLIENTS}, split them into several")
            }
            Self::TooLargeForFlat { clients, vbytes } => write!(
                f,
                "one transaction over {clients} clients has {vbytes} vB, more than \
                 {MAX_V3_VBYTES}: use profile static"
            ),
            Self::ExitTooLong { blocks } => write!(
                f,
                "the longest exit takes {blocks} blocks, more than {MAX_EXIT_BLOCKS}: use profile \
                 static, or lower the delays"
            ),
            Self::UnknownProfile { name } => {
                write!(f, "no profile '{name}': there are static, stateful and flat")
            }
        }
    }
}

impl std::error::Error for PlanError {}

/// The shape for so many clients, with [`Delays::default`].
pub fn shape_for(clients: u32, profile: Profile) -> Result<Shape, PlanError> {
    shape_with(clients, profile, Delays::default())
}

/// The shape for so many clients and these delays.
pub fn shape_with(clients: u32, profile: Profile, delays: Delays) -> Result<Shape, PlanError> {
    if clients == 0 {
        return Err(PlanError::NoClients);
    }
    if clients > MAX_CLIENTS {
        return Err(PlanError::TooManyClients { clients });
    }
    let sub_factories = match profile {
        Profile::Flat => flat_sub_factories(clients)?,
        Profile::Static if ONE_LEAF.contains(&clients) => 3,
        Profile::Static | Profile::Stateful => SUB_FACTORIES,
    };
    let leaf = Leaf { kind: Kind::Static, sub_factories, clients_per_sub: CLIENTS_PER_SUB };
    // Two u16 multiplied fit a u32; neither is 0.
    let leaves = clients.div_ceil(u32::from(sub_factories) * u32::from(CLIENTS_PER_SUB));
    let kind = if profile == Profile::Stateful { Kind::Stateful } else { Kind::Static };
    // MAX_LEVELS binary levels hold MAX_CLIENTS leaves.
    let best = Chooser::new(kind, delays, ARITIES).cheapest(leaves, MAX_LEVELS).unwrap_or_default();
    let leaf_blocks = u64::from(delays.confirm_blocks);
    let blocks = best.blocks.saturating_add(leaf_blocks).saturating_add(delays.margin_blocks.into());
    if blocks > u64::from(MAX_EXIT_BLOCKS) {
        return Err(PlanError::ExitTooLong { blocks });
    }
    let levels = best.arities.into_iter().map(|arity| Level { arity, kind }).collect();
    Ok(Shape { levels, leaf })
}

fn flat_sub_factories(clients: u32) -> Result<u16, PlanError> {
    let subs = clients.div_ceil(u32::from(CLIENTS_PER_SUB));
    let vbytes = vbytes(weight(u64::from(clients).saturating_add(u64::from(subs))));
    u16::try_from(subs)
        .ok()
        .filter(|_| vbytes <= MAX_V3_VBYTES)
        .ok_or(PlanError::TooLargeForFlat { clients, vbytes })
}

/// The interior levels over some number of leaves, and what they cost one exit.
#[derive(Clone, Default)]
struct Levels {
    vbytes: u64,
    blocks: u64,
    arities: Vec<u16>,
}

/// Finds arities, and remembers them for each number of leaves and levels.
struct Chooser {
    kind: Kind,
    delays: Delays,
    arities: RangeInclusive<u16>,
    known: BTreeMap<(u32, usize), Option<Levels>>,
}

impl Chooser {
    fn new(kind: Kind, delays: Delays, arities: RangeInclusive<u16>) -> Self {
        Self { kind, delays, arities, known: BTreeMap::new() }
    }

    /// Fewest vB, then fewest blocks, with at most so many levels; None if these can't hold the leaves.
    /// The worst exit goes through the largest part of every split, so that the best levels below
    /// depend on the size of that part alone.
    fn cheapest(&mut self, leaves: u32, levels: usize) -> Option<Levels> {
        if leaves <= 1 {
            return Some(Levels::default());
        }
        let below = levels.checked_sub(1)?;
        if let Some(known) = self.known.get(&(leaves, levels)) {
            return known.clone();
        }
        let mut best: Option<Levels> = None;
        for arity in self.arities.clone() {
            let children = leaves.min(u32::from(arity));
            let Some(rest) = self.cheapest(leaves.div_ceil(children), below) else {
                continue;
            };
            let (size, wait) = level_cost(u64::from(children), self.kind, self.delays);
            let cost = (rest.vbytes.saturating_add(size), rest.blocks.saturating_add(wait));
            if best.as_ref().is_none_or(|best| cost < (best.vbytes, best.blocks)) {
                let arities = [vec![arity], rest.arities].concat();
                best = Some(Levels { vbytes: cost.0, blocks: cost.1, arities });
            }
            if u32::from(arity) >= leaves {
                break;
            }
        }
        self.known.insert((leaves, levels), best.clone());
        best
    }
}

/// vB and blocks that one node of a level adds to an exit. Each transaction may need a child to raise its
/// fee: without reckoning with that, levels would look cheaper than they are.
fn level_cost(children: u64, kind: Kind, delays: Delays) -> (u64, u64) {
    let raised = |outputs| vbytes(weight(outputs)).saturating_add(vbytes(usual_weight()));
    let split = raised(children);
    let confirm = u64::from(delays.confirm_blocks);
    match kind {
        Kind::Static => (split, confirm),
        Kind::Stateful => {
            let last = u64::from(delays.state_count.saturating_sub(1));
            let wait = u64::from(delays.state_step).saturating_mul(last);
            let size = split.saturating_add(raised(1));
            (size, wait.saturating_add(confirm.saturating_mul(2)))
        }
    }
}
