//! What lives only in memory: ceremonies under way. A restart loses it, on purpose: secret nonces
//! never touch a disk (S1), so whatever needs them begins again with fresh ones (S2).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::terms::ClientIndex;
use crate::tx::layout::CoinIndex;
use crate::tx::musig::{AggNonce, CheckedNonce, KeyAgg, PartialSig};
use crate::tx::tree::Tree;
use bitcoin::BlockHash;

use crate::types::{Height, InstanceId, Millis, NodeId, ScriptBuf};
use crate::wire::message::{Join, PartialSignatures, Propose};

use super::fees::VolatileFees;
use super::io::PreparedFunding;
use super::sale::VolatileSale;
use super::signing::{Coordinator, Request, SignJob, Signer};

/// The operator's view of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
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
    /// Its number in `abort` and `resume`.
    pub(super) fn number(self) -> u16 {
        match self {
            Phase::Inviting => 1,
            Phase::Opening => 2,
            Phase::Signing => 3,
            Phase::Storing => 4,
            Phase::Completing => 5,
        }
    }

    /// Its name, for people.
    pub(super) fn name(self) -> &'static str {
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
pub(super) struct LspCeremony {
    pub(super) attempt: u32,
    pub(super) phase: Phase,
    pub(super) deadline: Millis,
    /// L's own key, x-only: a key and its negation are one in a Taproot output (S5).
    pub(super) own_key: [u8; 32],
    pub(super) joins: BTreeMap<ClientIndex, Join>,
    /// Factory keys of `joins`, x-only.
    pub(super) keys: BTreeSet<[u8; 32]>,
    /// All members' key together, once they have joined.
    pub(super) funding_key: Option<Box<KeyAgg>>,
    /// Clients that said `expecting`: their channel is being opened.
    pub(super) expecting: BTreeSet<ClientIndex>,
    pub(super) scripts: BTreeMap<ClientIndex, ScriptBuf>,
    pub(super) funding: Option<PreparedFunding>,
    pub(super) signing: Coordinator,
    pub(super) stored: BTreeSet<ClientIndex>,
}

impl LspCeremony {
    pub(super) fn new(attempt: u32, clients: u32, own_key: [u8; 32], phase: Phase, deadline: Millis) -> Self {
        Self {
            attempt,
            phase,
            deadline,
            own_key,
            joins: BTreeMap::new(),
            keys: BTreeSet::new(),
            funding_key: None,
            expecting: BTreeSet::new(),
            scripts: BTreeMap::new(),
            funding: None,
            signing: Coordinator::new(0..clients),
            stored: BTreeSet::new(),
        }
    }
}

impl LspCeremony {
    /// Takes a change over.
    pub(super) fn apply(&mut self, change: VolatileLsp) {
        match change {
            VolatileLsp::Phase(phase, deadline) => {
                self.phase = phase;
                self.deadline = deadline;
            }
            VolatileLsp::Joined(client, join, nonces) => {
                self.keys.insert(x_only(&join));
                self.signing.join(client, nonces);
                self.joins.insert(client, join);
            }
            VolatileLsp::FundingKey(key) => self.funding_key = Some(key),
            VolatileLsp::Unjoined(client) => {
                self.signing.unjoin(client);
                if let Some(join) = self.joins.remove(&client) {
                    self.keys.remove(&x_only(&join));
                }
            }
            VolatileLsp::Expecting(client) => {
                self.expecting.insert(client);
            }
            VolatileLsp::Script(client, script) => {
                self.scripts.insert(client, script);
            }
            VolatileLsp::Funding(funding) => self.funding = Some(funding),
            VolatileLsp::Partials(client, partials) => self.signing.signed(client, partials),
            VolatileLsp::Stored(client) => {
                self.stored.insert(client);
            }
        }
    }
}

/// The key with which a client joins.
fn x_only(join: &Join) -> [u8; 32] {
    join.factory_key.x_only_public_key().0.serialize()
}

/// A client's side of one attempt.
pub(super) struct ClientCeremony {
    pub(super) attempt: u32,
    /// What our key in this attempt was derived with.
    pub(super) salt: [u8; 32],
    /// The `join` that was sent, for a repeated invitation.
    pub(super) join: Join,
    /// Height at that time: nothing that needs our key can be in a block before.
    pub(super) joined_at: Height,
    pub(super) signing: Signer<Propose>,
    /// Whether the operator announced its `open_channel`, and whether it came.
    pub(super) open: ExpectedOpen,
    /// A proposal that will be signed if its funding isn't on chain yet.
    pub(super) held: Option<Arc<Propose>>,
    pub(super) deadline: Millis,
}

impl ClientCeremony {
    /// Takes a change over.
    pub(super) fn apply(&mut self, change: VolatileClient) {
        match change {
            VolatileClient::Open(open) => self.open = open,
            VolatileClient::Extend(deadline) => self.deadline = deadline,
            VolatileClient::Hold(propose) => self.held = Some(propose),
        }
    }
}

/// Exactly one `open_channel` is accepted, after it was announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ExpectedOpen {
    /// Not announced.
    NotYet,
    /// Announced.
    Expected,
    /// It came.
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

/// A change of memory alone, made when the step is applied; what is durable is an
/// [`Event`](crate::record::event::Event).
pub(super) enum Volatile {
    PeerUp(NodeId),
    PeerDown(NodeId),
    Tip(Height, BlockHash),
    ReorgTip(Height),
    StartLsp(InstanceId, LspCeremony),
    StartClient(InstanceId, ClientCeremony),
    End(InstanceId),
    Lsp(InstanceId, VolatileLsp),
    Client(InstanceId, VolatileClient),
    Sign(InstanceId, Box<SignJob<Propose>>),
    /// Spares the fold building the tree of its `signing` event again.
    Tree(InstanceId, Arc<Tree>),
    Sale(InstanceId, CoinIndex, VolatileSale),
    Fees(VolatileFees),
}

/// A change of L's ceremony.
pub(super) enum VolatileLsp {
    Phase(Phase, Millis),
    Joined(ClientIndex, Join, Vec<CheckedNonce>),
    FundingKey(Box<KeyAgg>),
    Unjoined(ClientIndex),
    Expecting(ClientIndex),
    Script(ClientIndex, ScriptBuf),
    Funding(PreparedFunding),
    Partials(ClientIndex, Vec<PartialSig>),
    Stored(ClientIndex),
}

/// A change of a client's ceremony.
pub(super) enum VolatileClient {
    Open(ExpectedOpen),
    Extend(Millis),
    Hold(Arc<Propose>),
}
