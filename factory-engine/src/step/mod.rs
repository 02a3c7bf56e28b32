//! A step: what one input leads to, and the builder with which handlers write it.

use std::fmt;

use crate::record::attempt::Role;
use crate::record::event::Event;
use crate::record::factory::Factory;
use crate::types::{ChannelId, InstanceId};
use crate::{Answer, Effect, Refusal};

pub mod builder;
pub mod fault;

/// A step was made before another that was applied meanwhile, so that what it follows from may no longer
/// hold. Nothing has changed; the input has to be handled again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StaleStep {
    /// Steps that had been applied when it was made.
    pub made_at: u64,
    /// Steps that have been applied by now.
    pub applied: u64,
}

impl fmt::Display for StaleStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "a step made after {} others comes after {}: handle its input again",
            self.made_at, self.applied
        )
    }
}

impl std::error::Error for StaleStep {}

/// The outcome of one input. Nothing of it is real before its events are stored and
/// [`Engine::apply`](crate::engine::Engine::apply) has taken it.
#[must_use = "a step that is dropped never happened"]
pub struct Step {
    /// What must be stored first, by factory, in order.
    pub events: Vec<(InstanceId, Vec<Event>)>,
    /// What to tell whoever asked.
    pub answer: Result<Answer, Refusal>,
    /// Steps that had been applied when this one was made.
    pub(crate) generation: u64,
    pub(crate) volatile: Vec<crate::memory::Volatile>,
    pub(crate) effects: Vec<Effect>,
}

/// The question whether lightningd's record of our channel is what the leaf pays (S18).
pub(crate) fn check_channel(factory: &Factory) -> Option<(ChannelId, Effect)> {
    let Role::Client { index, .. } = factory.current.role else {
        return None;
    };
    let tree = factory.current.tree.as_ref()?;
    let outpoint = tree.channel_outpoint(index)?;
    let channel_id = ChannelId::of(outpoint);
    let effect = Effect::CheckChannel {
        instance: factory.instance,
        attempt: factory.current.number,
        sale: None,
        channel_id,
        outpoint,
        output: tree.channel_output(index)?,
    };
    Some((channel_id, effect))
}
