//! A step: what one input leads to, and the builder with which handlers write it.

use crate::io::{Answer, Effect, Refusal};
use crate::memory::Volatile;
use crate::record::attempt::Role;
use crate::record::event::Event;
use crate::record::factory::Factory;
use crate::types::{ChannelId, InstanceId};

pub mod builder;
pub mod fault;
pub(crate) mod reason;

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
    pub(crate) volatile: Vec<Volatile>,
    pub(crate) effects: Vec<Effect>,
}

impl Step {
    /// Whether channels take HTLCs afterwards that took none before, or the other way round, without anything being
    /// stored: whoever keeps a copy of their policies needs another (S22).
    pub fn changes_policies(&self) -> bool {
        self.volatile.iter().any(|change| matches!(change, Volatile::Leaving(_) | Volatile::Close(_)))
    }
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
