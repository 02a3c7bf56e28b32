//! Faults: what happens to a message, when a member crashes.

use factory_engine::wire::message::Message;
use factory_runtime::store::fake::Fault;

use crate::node::IssuedInvoice;

use super::World;

/// A message on its way out.
#[derive(Debug, Clone)]
pub struct Outgoing {
    /// Number of the member that sends it.
    pub from: usize,
    /// Number of the member that gets it.
    pub to: usize,
    /// The message, not encoded yet.
    pub message: Message,
}

/// What becomes of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// It arrives as it was sent.
    Deliver,
    /// It is lost, and nobody hears of it.
    Drop,
    /// It arrives twice, one right after the other.
    Twice,
    /// These payloads arrive in its place, encoded already.
    Replace(Vec<Vec<u8>>),
}

/// For [`World::tamper`](super::World::tamper): messages of this name from this member are lost.
pub fn losing(name: &'static str, from: usize) -> impl FnMut(&Outgoing) -> Fate {
    move |out| if out.from == from && out.message.name() == name { Fate::Drop } else { Fate::Deliver }
}

impl Fate {
    /// This message arrives in its place.
    pub fn replace(message: impl Into<Message>) -> Self {
        Self::Replace(vec![message.into().encode()])
    }

    /// It arrives with this change.
    pub fn changed<M: Clone + Into<Message>>(message: &M, change: impl FnOnce(&mut M)) -> Self {
        let mut message = message.clone();
        change(&mut message);
        Self::replace(message)
    }
}

/// When a member crashes, counted in steps with something to store, from the next one as 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CrashAt {
    /// Right before this step is stored.
    BeforeStore(u32),
    /// Right after, before anything is done.
    AfterStore(u32),
    /// After this step is stored and as many of its effects are carried out.
    AfterEffects(u32, u32),
    /// While the next step that concerns several factories is stored, at this call of the datastore.
    WithinStore(Fault),
}

impl CrashAt {
    pub(super) fn before_store(&mut self) -> bool {
        match self {
            Self::BeforeStore(steps) => {
                *steps = steps.saturating_sub(1);
                *steps == 0
            }
            _ => false,
        }
    }

    pub(super) fn within_store(self) -> Option<Fault> {
        match self {
            Self::WithinStore(fault) => Some(fault),
            Self::BeforeStore(_) | Self::AfterStore(_) | Self::AfterEffects(..) => None,
        }
    }

    pub(super) fn after_store(&mut self) -> bool {
        match self {
            Self::BeforeStore(_) | Self::WithinStore(_) => false,
            Self::AfterStore(steps) => {
                *steps = steps.saturating_sub(1);
                *steps == 0
            }
            Self::AfterEffects(steps, _) => {
                *steps = steps.saturating_sub(1);
                false
            }
        }
    }

    pub(super) fn between_effects(&mut self, durable: bool) -> bool {
        match self {
            Self::AfterEffects(0, effects) if durable => {
                let now = *effects == 0;
                *effects = effects.saturating_sub(1);
                now
            }
            _ => false,
        }
    }
}

impl World {
    /// From now on every message goes through `fate`.
    pub fn tamper(&mut self, fate: impl FnMut(&Outgoing) -> Fate + 'static) {
        self.tamper = Some(Box::new(fate));
    }

    /// Messages arrive as they are sent again.
    pub fn heal(&mut self) {
        self.tamper = None;
    }

    /// Plans a crash of one member; a later plan replaces it.
    pub fn crash_at(&mut self, at: usize, crash: CrashAt) {
        self.members[at].crash = Some(crash);
    }

    /// Whether the planned crash is still to come.
    pub fn crash_is_due(&self, at: usize) -> bool {
        self.members[at].crash.is_some()
    }

    pub(super) fn crash_now(&mut self, at: usize, due: impl FnOnce(&mut CrashAt) -> bool) -> bool {
        let now = self.members[at].crash.as_mut().is_some_and(due);
        if now {
            self.stop(at);
        }
        now
    }

    /// A member's node is gone, at once.
    pub fn stop(&mut self, at: usize) {
        let member = &mut self.members[at];
        member.crash = None;
        member.engine = None;
        member.shadow = None;
        member.lightningd.forget_opens(None);
        member.lightningd.unanswered.clear();
        member.lightningd.invoices.values_mut().for_each(IssuedInvoice::forget_wait);
        self.tasks.remove(&at);
        self.unstored.retain(|(who, _)| *who != at);
        for other in 0..self.members.len() {
            self.disconnect(at, other);
        }
    }
}
