//! What decides about renewals, where factories are renewed.

use std::collections::{BTreeMap, BTreeSet};

use factory_engine::tx::plan::Profile;
use factory_engine::types::{Amount, Height, InstanceId, NodeId};
use factory_engine::{Config, Create, Policy};

use crate::fault::Dice;
use crate::world::{LSP, RESERVE_MSAT};

/// The part of the seed's stream that decides about renewals.
const RENEWALS: u64 = u64::MAX - 1;
/// One run in so many renews.
const PART: usize = 3;
/// What the operator gives in each channel: what stays behind in the one before.
const PUSH_MSAT: u64 = RESERVE_MSAT;
/// Deeper than any reorganisation here.
const HANDOVER_DEPTH: u16 = 7;

/// What decides about renewals, and what is planned for them.
pub(super) struct Renewing {
    pub(super) dice: Dice,
    pub(super) profile: Profile,
    /// What the first factory was asked for with, and what each client's channel had last.
    pub(super) template: Option<Create>,
    pub(super) capacities: BTreeMap<NodeId, Amount>,
    /// When clients that are away come back.
    pub(super) waking: Vec<(usize, Height)>,
    /// Clients for whom it was drawn whether they stay away from a factory's end.
    pub(super) drawn: BTreeSet<(usize, InstanceId)>,
    /// A client that publishes its path after it has handed its key over.
    pub(super) publishes: Option<usize>,
    /// Whether the operator goes away once something has moved.
    pub(super) goes: bool,
}

impl Renewing {
    /// For the runs that renew.
    pub(super) fn of(seed: u64) -> Option<Self> {
        let mut dice = Dice::new(seed, RENEWALS);
        dice.one_in(PART).then(|| Self {
            dice,
            profile: Profile::Static,
            template: None,
            capacities: BTreeMap::new(),
            waking: vec![],
            drawn: BTreeSet::new(),
            publishes: None,
            goes: false,
        })
    }

    /// What members have set for renewals.
    pub(super) fn configure(&mut self, config: &mut Config, at: usize) {
        config.push_msat = PUSH_MSAT;
        config.handover_depth = HANDOVER_DEPTH;
        config.reclaim_blocks = 2 + self.dice.below_u32(16);
        config.renew = match self.dice.below(12) {
            0 if at != LSP => Policy::Ask,
            _ => Policy::Auto,
        };
    }

    /// Most are static: the others' timelocks make long runs.
    pub(super) fn profile(&mut self, drawn: Profile) -> Profile {
        self.profile = if self.dice.one_in(4) { drawn } else { Profile::Static };
        self.profile
    }

    /// The first factory lives long enough for another one to follow in its dying period.
    pub(super) fn first(&mut self, create: &mut Create) {
        // It was one way out.
        let early = create.dying_blocks;
        create.dying_blocks = 4 * early + 40 + self.dice.below_u32(10);
        create.lifetime_blocks = create.dying_blocks + 2 * early + 16 + self.dice.below_u32(20);
        self.note(create);
        self.template = Some(create.clone());
    }

    pub(super) fn note(&mut self, create: &Create) {
        self.capacities.extend(create.clients.iter().copied());
    }
}
