//! How far the ceremonies under way are: for people who wait.

use crate::engine::Engine;
use crate::memory::ceremony::{Phase, silent};
use crate::record::attempt::Role;
use crate::types::{InstanceId, Millis, NodeId};

/// What an operator's attempt is waiting for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Clients answer their invitations with `join`.
    Invitations,
    /// lightningd opens the channels, the wallet prepares the funding.
    ChannelOpens,
    /// Clients send their partial signatures.
    Signatures,
    /// Clients store what is signed.
    Storing,
    /// lightningd commits the channels, clients check them.
    ChannelChecks,
}

impl Stage {
    /// Every stage, in the order in which L goes through them.
    pub const ALL: [Self; 5] =
        [Self::Invitations, Self::ChannelOpens, Self::Signatures, Self::Storing, Self::ChannelChecks];

    /// Its name in RPC and in progress bars.
    pub fn name(self) -> &'static str {
        match self {
            Self::Invitations => "invitations",
            Self::ChannelOpens => "channel_opens",
            Self::Signatures => "signatures",
            Self::Storing => "storing",
            Self::ChannelChecks => "channel_checks",
        }
    }
}

/// How far a ceremony under way is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// The factory (factory_instance).
    pub instance: InstanceId,
    /// Number of the attempt, from 1.
    pub attempt: u32,
    /// L: what it waits for. A client only knows that it waits for L.
    pub stage: Option<Stage>,
    /// Node ids of those whose turn it is.
    pub waiting_for: Vec<NodeId>,
    /// Everybody whose turn it was in this stage.
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
                stage: None,
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
            stage: Some(stage(ceremony.phase)),
            waiting_for: silent(factory, ceremony),
            of: factory.current.clients.len(),
            deadline: ceremony.deadline,
        })
    }
}

fn stage(phase: Phase) -> Stage {
    match phase {
        Phase::Inviting => Stage::Invitations,
        Phase::Opening => Stage::ChannelOpens,
        Phase::Signing => Stage::Signatures,
        Phase::Storing => Stage::Storing,
        Phase::Completing => Stage::ChannelChecks,
    }
}
