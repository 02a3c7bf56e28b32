//! Factories that this node is about to leave by handing its key over, and what of it failed.

use std::collections::BTreeMap;

use crate::types::{Height, InstanceId};

/// What a restart may lose of renewals and handovers: they are looked at anew at every block.
#[derive(Debug, Clone, Default)]
pub(crate) struct Leaving {
    /// Factories on whose channels no HTLC is let while somebody looks whether they are empty, each with the number
    /// that the answer has to have.
    frozen: BTreeMap<InstanceId, u64>,
    /// What failed last.
    failed: BTreeMap<InstanceId, Failure>,
}

/// Something that a renewal needed, and that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Height of the last block then.
    pub height: Height,
    /// What it was, for people.
    pub what: String,
}

/// A change of [`Leaving`], made when the step is applied.
pub(crate) enum VolatileLeaving {
    Freeze(InstanceId, u64),
    Thaw(InstanceId),
    Failed(InstanceId, Failure),
}

impl Leaving {
    /// Since when no HTLC is let onto a factory's channels, if so.
    pub(crate) fn frozen(&self, instance: InstanceId) -> Option<u64> {
        self.frozen.get(&instance).copied()
    }

    /// What failed last in a factory's renewal.
    pub(crate) fn failed(&self, instance: InstanceId) -> Option<&Failure> {
        self.failed.get(&instance)
    }

    pub(crate) fn apply(&mut self, change: VolatileLeaving) {
        match change {
            VolatileLeaving::Freeze(instance, freeze) => {
                self.frozen.insert(instance, freeze);
            }
            VolatileLeaving::Thaw(instance) => {
                self.frozen.remove(&instance);
            }
            VolatileLeaving::Failed(instance, failure) => {
                self.failed.insert(instance, failure);
            }
        }
    }
}
