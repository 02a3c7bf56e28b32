//! A step while it is being made.

use crate::types::{Height, InstanceId, Millis, NodeId};
use crate::wire::message::{Abort, Message};

use super::ceremony::Volatile;
use super::event::Event;
use super::factory::Factory;
use super::io::{Answer, Effect, Entropy, Level, Step};

/// What a handler is told, and the step that it writes.
pub(super) struct Draft<'a> {
    pub(super) now: Millis,
    pub(super) height: Height,
    pub(super) rng: &'a mut dyn Entropy,
    step: Step,
}

impl<'a> Draft<'a> {
    pub(super) fn new(generation: u64, now: Millis, height: Height, rng: &'a mut dyn Entropy) -> Self {
        let (events, volatile, effects) = (vec![], vec![], vec![]);
        let step = Step { generation, events, answer: Ok(Answer::Done), volatile, effects };
        Self { now, height, rng, step }
    }

    pub(super) fn finish(mut self, answer: Result<Answer, super::io::Refusal>) -> Step {
        self.step.answer = answer;
        self.step
    }

    /// A durable change.
    pub(super) fn event(&mut self, instance: InstanceId, event: impl Into<Event>) {
        let event = event.into();
        match self.step.events.last_mut() {
            Some((last, events)) if *last == instance => events.push(event),
            _ => self.step.events.push((instance, vec![event])),
        }
    }

    /// A change of memory alone.
    pub(super) fn volatile(&mut self, change: Volatile) {
        self.step.volatile.push(change);
    }

    pub(super) fn effect(&mut self, effect: Effect) {
        self.step.effects.push(effect);
    }

    pub(super) fn send(&mut self, peer: NodeId, message: impl Into<Message>) {
        self.effect(Effect::Send { peer, message: message.into() });
    }

    pub(super) fn log(&mut self, level: Level, text: impl Into<String>) {
        self.effect(Effect::Log { level, text: text.into() });
    }

    pub(super) fn abort(&mut self, factory: &Factory, peer: NodeId, phase: u16, reason: &str, retry: bool) {
        self.send(
            peer,
            Abort {
                instance: factory.instance,
                attempt: factory.attempt,
                phase,
                reason: short(reason),
                blames: None,
                retry: u8::from(retry),
            },
        );
    }
}

/// A reason that fits into an `abort` (1,000 bytes), cut at a character.
pub(super) fn short(reason: &str) -> String {
    reason.chars().take(250).collect()
}

/// Why a message of a peer had no effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// It came too late or twice: nothing wrong with the peer.
    Stale(String),
    /// The peer broke the protocol.
    Peer(String),
}

impl Fault {
    pub(super) fn stale(text: impl Into<String>) -> Self {
        Self::Stale(text.into())
    }

    pub(super) fn peer(text: impl ToString) -> Self {
        Self::Peer(text.to_string())
    }
}
