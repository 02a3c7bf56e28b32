//! How far the ceremonies under way are: for people who wait.

use crate::engine::Engine;
use crate::memory::ceremony::{Phase, silent};
use crate::record::attempt::Role;
use crate::types::{InstanceId, Millis, NodeId};

/// A ceremony under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// The factory (factory_instance).
    pub instance: InstanceId,
    /// Number of the attempt, from 1.
    pub attempt: u32,
    /// L: what it waits for. A client only knows that it waits for L.
    pub phase: Option<Phase>,
    /// Whose turn it is.
    pub waiting_for: Vec<NodeId>,
    /// Everybody whose turn it was in this phase.
    pub of: usize,
    /// When this node stops waiting for them.
    pub deadline: Millis,
}

impl Progress {
    /// How many of [`Progress::of`] have done their part.
    pub fn done(&self) -> usize {
        self.of.saturating_sub(self.waiting_for.len())
    }
}

impl Engine {
    /// Every ceremony under way: first those that this node leads, then those that it joins.
    pub fn progress(&self) -> Vec<Progress> {
        let client = self.client.iter().filter_map(|(instance, ceremony)| {
            Some(Progress {
                instance: *instance,
                attempt: ceremony.attempt,
                phase: None,
                waiting_for: vec![self.factories.get(instance)?.lsp()],
                of: 1,
                deadline: ceremony.deadline,
            })
        });
        self.lsp.keys().filter_map(|instance| self.progress_of(*instance)).chain(client).collect()
    }

    /// The operator's ceremony of one factory.
    pub fn progress_of(&self, instance: InstanceId) -> Option<Progress> {
        let factory = self.factories.get(&instance).filter(|factory| factory.current.role == Role::Lsp)?;
        let ceremony = self.lsp.get(&instance)?;
        Some(Progress {
            instance,
            attempt: ceremony.attempt,
            phase: Some(ceremony.phase()),
            waiting_for: silent(factory, ceremony),
            of: factory.current.clients.len(),
            deadline: ceremony.deadline,
        })
    }
}
