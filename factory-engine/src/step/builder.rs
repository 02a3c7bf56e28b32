//! A step while it is being made.

use crate::io::{Answer, Effect, Entropy, Level, OpenFailure};
use crate::memory::Volatile;
use crate::record::event::Event;
use crate::record::factory::Factory;
use crate::signing::Asked;
use crate::step::Step;
use crate::step::fault::Fault;
use crate::terms::ClientIndex;
use crate::types::{ChannelId, Height, InstanceId, Millis, NodeId};
use crate::wire::message::{Abort, Message};
use crate::wire::words::Words;

/// What a handler is told, and the step that it writes.
pub(crate) struct StepBuilder<'a> {
    pub(crate) now: Millis,
    pub(crate) height: Height,
    pub(crate) rng: &'a mut dyn Entropy,
    step: Step,
}

impl<'a> StepBuilder<'a> {
    pub(crate) fn new(generation: u64, now: Millis, height: Height, rng: &'a mut dyn Entropy) -> Self {
        let (events, volatile, effects) = (vec![], vec![], vec![]);
        let step = Step { generation, events, answer: Ok(Answer::Done), volatile, effects };
        Self { now, height, rng, step }
    }

    pub(crate) fn finish(mut self, answer: Result<Answer, crate::io::Refusal>) -> Step {
        self.step.answer = answer;
        self.step
    }

    /// Adds a durable change of one factory to the step.
    pub(crate) fn event(&mut self, instance: InstanceId, event: impl Into<Event>) {
        let event = event.into();
        match self.step.events.last_mut() {
            Some((last, events)) if *last == instance => events.push(event),
            _ => self.step.events.push((instance, vec![event])),
        }
    }

    /// Where a channel is emptied to, if this very step begins that: handlers see the factories as they were before it.
    pub(crate) fn moves_to(&self, from: ChannelId) -> Option<ChannelId> {
        self.step.events.iter().flat_map(|(_, events)| events).find_map(|event| {
            let Event::MoveWanted(wanted) = event else { return None };
            (wanted.from == from).then_some(wanted.to)
        })
    }

    /// Adds a change of memory alone, made when the step is applied.
    pub(crate) fn volatile(&mut self, change: Volatile) {
        self.step.volatile.push(change);
    }

    /// S28: an ordinary channel that wasn't opened has cost records. Whoever refused it, or was cut off because it
    /// didn't answer, has wasted that; where it is nobody's fault it isn't tried again before the next block.
    pub(crate) fn blame_unopened(
        &mut self,
        (instance, client): (InstanceId, ClientIndex),
        peer: Option<NodeId>,
        error: &OpenFailure,
        unanswered: bool,
    ) {
        let silent = unanswered && matches!(error, OpenFailure::Disconnected(_));
        match peer.filter(|peer| silent || !error.blames(*peer).is_empty()) {
            Some(peer) => self.volatile(Volatile::Offence(peer, self.now)),
            None => self.volatile(Volatile::NotOpened(instance, client, self.height)),
        }
    }

    pub(crate) fn effect(&mut self, effect: Effect) {
        self.step.effects.push(effect);
    }

    pub(crate) fn send(&mut self, peer: NodeId, message: impl Into<Message>) {
        self.effect(Effect::Send { peer, message: message.into() });
    }

    pub(crate) fn log(&mut self, level: Level, text: impl Into<String>) {
        self.effect(Effect::Log { level, text: text.into() });
    }

    /// Whether a proposal was signed before: then it is answered as it was.
    ///
    /// # Errors
    /// When another was signed: the nonces are used (S2).
    pub(crate) fn answers_again<A>(&mut self, peer: NodeId, asked: Asked<'_, A>) -> Result<bool, Fault>
    where
        A: Clone + Into<Message>,
    {
        match asked {
            Asked::First => Ok(false),
            Asked::Again(answer) => {
                if let Some(answer) = answer {
                    self.send(peer, answer.clone());
                }
                Ok(true)
            }
            Asked::Other => Err(Fault::peer("a second proposal that differs from the first")),
        }
    }

    pub(crate) fn abort(&mut self, factory: &Factory, peer: NodeId, phase: u16, reason: &str, retry: bool) {
        self.send(
            peer,
            Abort {
                instance: factory.instance,
                attempt: factory.current.number,
                phase,
                reason: Words::new(reason),
                blames: None,
                retry: u8::from(retry),
            },
        );
    }
}

/// A reason as it is stored: cut and escaped, whoever's words it quotes.
pub(crate) fn short(reason: &str) -> String {
    Words::new(reason).to_string()
}
