//! Cooperative closes under way, in memory: a restart loses nonces and who has answered, and nothing that was
//! signed for.

use std::collections::BTreeMap;

use crate::io::ChannelBalance;
use crate::memory::leaving::Failure;
use crate::signing::{Coordinator, Request, SignJob, Signer};
use crate::terms::ClientIndex;
use crate::tx::close::Share;
use crate::tx::musig::{AggNonce, CheckedNonce, PartialSig};
use crate::types::{ChannelId, InstanceId, Millis, NodeId};
use crate::wire::message::{CloseJoin, ClosePartialSignatures, ClosePropose};

/// What L's side of a close waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ClosePhase {
    /// What lightningd says of its channels.
    Looking,
    /// Every client's `close_join`.
    Asking,
    /// Every partial signature.
    Signing,
}

/// L's side of a close under way. While it is there nothing moves on the factory's channels.
pub(crate) struct LspClose {
    pub(crate) round: u64,
    pub(crate) phase: ClosePhase,
    /// Who has to sign: all that have not handed over.
    pub(crate) members: BTreeMap<ClientIndex, NodeId>,
    /// What this node's channels with them hold, looked at when nothing moved on them any more.
    pub(crate) looked: BTreeMap<ChannelId, ChannelBalance>,
    pub(crate) shares: BTreeMap<ClientIndex, Share>,
    pub(crate) signing: Coordinator,
    pub(crate) deadline: Millis,
}

/// A client's side. While it is there nothing moves on its channels in the factory.
pub(crate) struct ClientClose {
    pub(crate) round: u64,
    /// What it has answered, once it has looked.
    pub(crate) joined: Option<Joined>,
    pub(crate) deadline: Millis,
}

/// A client's answer, and what it signs with.
pub(crate) struct Joined {
    pub(crate) share: Share,
    pub(crate) join: CloseJoin,
    pub(crate) signing: Signer<ClosePropose>,
}

impl Request for ClosePropose {
    type Answer = ClosePartialSignatures;

    fn nonces(&self) -> &[AggNonce] {
        &self.nonces
    }

    fn answer(&self, transcript: [u8; 32], signatures: Vec<PartialSig>) -> ClosePartialSignatures {
        let (instance, attempt, round) = (self.instance, self.attempt, self.round);
        ClosePartialSignatures { instance, attempt, round, transcript, signatures }
    }
}

/// Everything about closes that lives only in memory.
#[derive(Default)]
pub(crate) struct Closes {
    pub(crate) lsp: BTreeMap<InstanceId, LspClose>,
    pub(crate) client: BTreeMap<InstanceId, ClientClose>,
    /// What the last one came to, if it came to nothing.
    failed: BTreeMap<InstanceId, Failure>,
}

/// A change of [`Closes`], made when the step is applied.
pub(crate) enum VolatileClose {
    StartLsp(InstanceId, Box<LspClose>),
    Looked(InstanceId, Vec<ChannelBalance>),
    Asking(InstanceId, Millis),
    JoinedLsp(InstanceId, Share, Vec<CheckedNonce>),
    Partials(InstanceId, ClientIndex, Vec<PartialSig>),
    StartClient(InstanceId, Box<ClientClose>),
    JoinedClient(InstanceId, Box<Joined>),
    Sign(InstanceId, Box<SignJob<ClosePropose>>),
    End(InstanceId),
    Failed(InstanceId, Failure),
}

impl Closes {
    /// Whether nothing may move on a factory's channels because of one.
    pub(crate) fn freezes(&self, instance: InstanceId) -> bool {
        self.lsp.contains_key(&instance) || self.client.contains_key(&instance)
    }

    /// What the last close of a factory came to, if it came to nothing.
    pub(crate) fn failed(&self, instance: InstanceId) -> Option<&Failure> {
        self.failed.get(&instance)
    }

    /// When the next of them has waited long enough.
    pub(crate) fn deadline(&self) -> Option<Millis> {
        let lsp = self.lsp.values().map(|close| close.deadline);
        lsp.chain(self.client.values().map(|close| close.deadline)).min()
    }

    /// Nothing of this factory is under way.
    pub(crate) fn forget(&mut self, instance: InstanceId) {
        self.lsp.remove(&instance);
        self.client.remove(&instance);
    }

    /// Makes one change, but for signing: that needs keys.
    pub(crate) fn apply(&mut self, change: VolatileClose) {
        match change {
            VolatileClose::StartLsp(instance, close) => {
                self.failed.remove(&instance);
                self.lsp.insert(instance, *close);
            }
            VolatileClose::StartClient(instance, close) => {
                self.client.insert(instance, *close);
            }
            VolatileClose::Looked(instance, list) => {
                if let Some(close) = self.lsp.get_mut(&instance) {
                    close.looked.extend(list.into_iter().map(|channel| (channel.channel_id, channel)));
                }
            }
            VolatileClose::Asking(instance, deadline) => {
                if let Some(close) = self.lsp.get_mut(&instance) {
                    close.phase = ClosePhase::Asking;
                    close.deadline = deadline;
                }
            }
            VolatileClose::JoinedLsp(instance, share, nonces) => {
                if let Some(close) = self.lsp.get_mut(&instance) {
                    close.signing.join(share.client, nonces);
                    close.shares.insert(share.client, share);
                }
            }
            VolatileClose::Partials(instance, client, partials) => {
                if let Some(close) = self.lsp.get_mut(&instance) {
                    close.signing.signed(client, partials);
                }
            }
            VolatileClose::JoinedClient(instance, joined) => {
                if let Some(close) = self.client.get_mut(&instance) {
                    close.joined = Some(*joined);
                }
            }
            VolatileClose::End(instance) => self.forget(instance),
            VolatileClose::Failed(instance, failure) => {
                self.failed.insert(instance, failure);
            }
            VolatileClose::Sign(..) => {}
        }
    }
}
