//! Factories that this node is about to leave by handing its key over, and what of it failed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::types::{Amount, ChannelId, Height, InstanceId};

/// Failures of one factory that are remembered.
const MOST_FAILURES: usize = 8;

/// What a restart may lose of renewals and handovers: they are looked at anew at every block.
#[derive(Debug, Clone, Default)]
pub(crate) struct Leaving {
    /// Factories on whose channels no HTLC is let while somebody looks whether they are empty, each with the number
    /// that the answer has to have.
    frozen: BTreeMap<InstanceId, u64>,
    /// What failed, the last [`MOST_FAILURES`] times.
    failed: BTreeMap<InstanceId, VecDeque<Failure>>,
    /// Ordinary channels whose funding output is what lightningd thinks.
    checked: BTreeSet<ChannelId>,
    /// What the operator asks for an ordinary channel, or why it opens none: the last that it said.
    priced: BTreeMap<InstanceId, Priced>,
}

/// What an operator says of an ordinary channel for a client that leaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Priced {
    /// What the channel has to take of the client's.
    pub amount: Amount,
    /// What it costs, msat, or why there is none; nothing as long as it hasn't said.
    pub answer: Option<Result<u64, String>>,
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
    /// An ordinary channel's output is what it should be.
    Checked(ChannelId),
    /// Nothing is known any more of what the chain has.
    Reorged,
    Priced(InstanceId, Priced),
}

impl Leaving {
    /// Since when no HTLC is let onto a factory's channels, if so.
    pub(crate) fn frozen(&self, instance: InstanceId) -> Option<u64> {
        self.frozen.get(&instance).copied()
    }

    /// What failed last in a factory's renewal.
    pub(crate) fn failed(&self, instance: InstanceId) -> Option<&Failure> {
        self.failed.get(&instance)?.back()
    }

    /// What failed in it, the oldest first, as far as it is remembered.
    pub(crate) fn failures(&self, instance: InstanceId) -> impl Iterator<Item = &Failure> {
        self.failed.get(&instance).into_iter().flatten()
    }

    /// Whether an ordinary channel's funding output was seen to be what lightningd thinks.
    pub(crate) fn is_checked(&self, channel_id: ChannelId) -> bool {
        self.checked.contains(&channel_id)
    }

    /// What a factory's operator asks for an ordinary channel.
    pub(crate) fn priced(&self, instance: InstanceId) -> Option<&Priced> {
        self.priced.get(&instance)
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
                let failed = self.failed.entry(instance).or_default();
                // The same at each block is one.
                if failed.back().is_some_and(|last| last.what == failure.what) {
                    failed.pop_back();
                }
                failed.push_back(failure);
                if failed.len() > MOST_FAILURES {
                    failed.pop_front();
                }
            }
            VolatileLeaving::Checked(channel_id) => {
                self.checked.insert(channel_id);
            }
            VolatileLeaving::Reorged => self.checked.clear(),
            VolatileLeaving::Priced(instance, priced) => {
                self.priced.insert(instance, priced);
            }
        }
    }
}
