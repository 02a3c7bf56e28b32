//! What lives only in memory: ceremonies under way. A restart loses it, on purpose: secret nonces
//! never touch a disk (S1), so whatever needs them begins again with fresh ones (S2).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::io::PreparedFunding;
use crate::record::factory::{Factory, Reclaimable};
use crate::signing::{Coordinator, Request, Signer};
use crate::terms::ClientIndex;
use crate::tx::musig::{AggNonce, CheckedNonce, KeyAgg, PartialSig};
use crate::types::{Height, InstanceId, Millis, NodeId, ScriptBuf};
use crate::wire::message::{Join, PartialSignatures, Propose};

/// The operator's view of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Waiting for every `join`.
    Inviting,
    /// Waiting for the funding transaction and every channel's script.
    Opening,
    /// Waiting for every partial signature.
    Signing,
    /// Waiting for every `stored`.
    Storing,
    /// Channels are completed, waiting for every `channel_checked`.
    Completing,
}

impl Phase {
    /// Every phase, in order.
    pub const ALL: [Self; 5] =
        [Self::Inviting, Self::Opening, Self::Signing, Self::Storing, Self::Completing];

    /// Its number in `abort` and `resume`.
    pub(crate) fn number(self) -> u16 {
        match self {
            Phase::Inviting => 1,
            Phase::Opening => 2,
            Phase::Signing => 3,
            Phase::Storing => 4,
            Phase::Completing => 5,
        }
    }

    /// Its name, for people.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Inviting => "inviting",
            Phase::Opening => "opening",
            Phase::Signing => "signing",
            Phase::Storing => "storing",
            Phase::Completing => "completing",
        }
    }
}

/// L's side of one attempt.
pub(crate) struct LspCeremony {
    pub(crate) attempt: u32,
    pub(crate) stage: LspStage,
    pub(crate) deadline: Millis,
    /// L's own key, x-only: a key and its negation are one in a Taproot output (S5).
    pub(crate) own_key: [u8; 32],
    pub(crate) joins: BTreeMap<ClientIndex, Join>,
    /// Factory keys of `joins`, x-only.
    pub(crate) keys: BTreeSet<[u8; 32]>,
    /// Clients that said `expecting`: lightningd has an open with them pending, until it is completed.
    pub(crate) expecting: BTreeSet<ClientIndex>,
    pub(crate) signing: Coordinator,
}

/// An attempt's phase, with what it waits for.
pub(crate) enum LspStage {
    Inviting,
    Opening(Box<Opening>),
    Signing,
    /// Clients that said `stored`.
    Storing(BTreeSet<ClientIndex>),
    Completing,
}

/// What is known of the funding and the channels, until there is a proposal.
pub(crate) struct Opening {
    /// All members' key together.
    pub(crate) funding_key: KeyAgg,
    /// Funding scripts of the channels that lightningd has begun to open.
    pub(crate) scripts: BTreeMap<ClientIndex, ScriptBuf>,
    /// The funding transaction, once the wallet has reserved its inputs.
    pub(crate) funding: Option<PreparedFunding>,
    /// What the funding was asked to take back, by factory.
    pub(crate) reclaims: Vec<(InstanceId, Reclaimable)>,
}

impl LspCeremony {
    pub(crate) fn new(
        attempt: u32,
        clients: u32,
        own_key: [u8; 32],
        stage: LspStage,
        deadline: Millis,
    ) -> Self {
        Self {
            attempt,
            stage,
            deadline,
            own_key,
            joins: BTreeMap::new(),
            keys: BTreeSet::new(),
            expecting: BTreeSet::new(),
            signing: Coordinator::new(0..clients),
        }
    }

    /// What it waits for, without the particulars.
    pub(crate) fn phase(&self) -> Phase {
        match &self.stage {
            LspStage::Inviting => Phase::Inviting,
            LspStage::Opening(_) => Phase::Opening,
            LspStage::Signing => Phase::Signing,
            LspStage::Storing(_) => Phase::Storing,
            LspStage::Completing => Phase::Completing,
        }
    }
}

impl LspCeremony {
    /// Makes one change, when its step is applied.
    pub(crate) fn apply(&mut self, change: VolatileLsp) {
        match change {
            VolatileLsp::Stage(stage, deadline) => {
                self.stage = stage;
                self.deadline = deadline;
            }
            VolatileLsp::Joined(client, join, nonces) => {
                self.keys.insert(x_only(&join));
                self.signing.join(client, nonces);
                self.joins.insert(client, join);
            }
            VolatileLsp::Unjoined(client) => {
                self.signing.unjoin(client);
                if let Some(join) = self.joins.remove(&client) {
                    self.keys.remove(&x_only(&join));
                }
            }
            VolatileLsp::Expecting(client) => {
                self.expecting.insert(client);
            }
            // A step may begin the next stage with what it also notes.
            VolatileLsp::Script(client, script) => {
                if let LspStage::Opening(opening) = &mut self.stage {
                    opening.scripts.insert(client, script);
                }
            }
            VolatileLsp::Funding(funding) => {
                if let LspStage::Opening(opening) = &mut self.stage {
                    opening.funding = Some(funding);
                }
            }
            VolatileLsp::Partials(client, partials) => self.signing.signed(client, partials),
            VolatileLsp::Stored(client) => {
                if let LspStage::Storing(stored) = &mut self.stage {
                    stored.insert(client);
                }
            }
        }
    }
}

/// The key with which a client joins.
fn x_only(join: &Join) -> [u8; 32] {
    join.factory_key.x_only_public_key().0.serialize()
}

/// A client's side of one attempt.
pub(crate) struct ClientCeremony {
    pub(crate) attempt: u32,
    /// What our key in this attempt was derived with.
    pub(crate) salt: [u8; 32],
    /// The `join` that was sent, for a repeated invitation.
    pub(crate) join: Join,
    /// Height at that time: nothing that needs our key can be in a block before.
    pub(crate) joined_at: Height,
    pub(crate) signing: Signer<Propose>,
    /// Whether the operator announced its `open_channel`, and whether it came.
    pub(crate) open: ExpectedOpen,
    /// A proposal that will be signed if its funding isn't on chain yet.
    pub(crate) held: Option<Arc<Propose>>,
    pub(crate) deadline: Millis,
}

impl ClientCeremony {
    /// Makes one change, when its step is applied.
    pub(crate) fn apply(&mut self, change: VolatileClient) {
        match change {
            VolatileClient::Open(open) => self.open = open,
            VolatileClient::Extend(deadline) => self.deadline = deadline,
            VolatileClient::Hold(propose) => self.held = Some(propose),
        }
    }
}

/// Exactly one `open_channel` is accepted, after it was announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ExpectedOpen {
    /// The operator has not announced an open yet: none is accepted.
    NotYet,
    /// The operator has announced it: the next one is accepted.
    Expected,
    /// It came and was accepted: another one is refused.
    Seen,
}

impl Request for Propose {
    type Answer = PartialSignatures;

    fn nonces(&self) -> &[AggNonce] {
        &self.nonces
    }

    fn answer(&self, transcript: [u8; 32], signatures: Vec<PartialSig>) -> PartialSignatures {
        let (instance, attempt) = (self.instance, self.attempt);
        PartialSignatures { instance, attempt, transcript, signatures }
    }
}

/// A change of L's ceremony.
pub(crate) enum VolatileLsp {
    Stage(LspStage, Millis),
    Joined(ClientIndex, Join, Vec<CheckedNonce>),
    Unjoined(ClientIndex),
    Expecting(ClientIndex),
    Script(ClientIndex, ScriptBuf),
    Funding(PreparedFunding),
    Partials(ClientIndex, Vec<PartialSig>),
    Stored(ClientIndex),
}

/// A change of a client's ceremony.
pub(crate) enum VolatileClient {
    Open(ExpectedOpen),
    Extend(Millis),
    Hold(Arc<Propose>),
}

/// Clients that have not yet done what the ceremony's phase asks of them.
pub(crate) fn silent(factory: &Factory, ceremony: &LspCeremony) -> Vec<NodeId> {
    (0u32..)
        .zip(&factory.current.clients)
        .filter(|(client, _)| match &ceremony.stage {
            LspStage::Inviting | LspStage::Signing => ceremony.signing.lacks(*client),
            LspStage::Opening(opening) => !opening.scripts.contains_key(client),
            LspStage::Storing(stored) => !stored.contains(client),
            LspStage::Completing => !factory.current.checked.contains(client),
        })
        .map(|(_, node)| *node)
        .collect()
}
