//! What lives only in memory: ceremonies under way. A restart loses it, on purpose: secret nonces
//! never touch a disk (S1), so whatever needs them begins again with fresh ones (S2).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::terms::ClientIndex;
use crate::tx::layout::{CoinIndex, SessionId};
use crate::tx::musig::{CheckedNonce, KeyAgg, PartialSig, Round, SecNonce};
use crate::tx::tree::Tree;
use crate::types::{InstanceId, Millis, NodeId, ScriptBuf};
use crate::wire::message::{Join, Message, Propose};

use super::io::PreparedFunding;
use super::sale::SaleChange;

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
    /// Nonces of `joins`.
    pub(super) nonces: BTreeMap<ClientIndex, Vec<CheckedNonce>>,
    /// All members' key together, once they have joined.
    pub(super) funding_key: Option<Box<KeyAgg>>,
    /// Clients that said `expecting`: their channel is being opened.
    pub(super) expecting: BTreeSet<ClientIndex>,
    pub(super) scripts: BTreeMap<ClientIndex, ScriptBuf>,
    pub(super) funding: Option<PreparedFunding>,
    /// In the order of the tree's sessions.
    pub(super) rounds: Vec<Round>,
    pub(super) transcript: [u8; 32],
    pub(super) own_partials: Vec<PartialSig>,
    pub(super) partials: BTreeMap<ClientIndex, Vec<PartialSig>>,
    pub(super) stored: BTreeSet<ClientIndex>,
}

impl LspCeremony {
    pub(super) fn new(attempt: u32, own_key: [u8; 32], phase: Phase, deadline: Millis) -> Self {
        Self {
            attempt,
            phase,
            deadline,
            own_key,
            joins: BTreeMap::new(),
            keys: BTreeSet::new(),
            nonces: BTreeMap::new(),
            funding_key: None,
            expecting: BTreeSet::new(),
            scripts: BTreeMap::new(),
            funding: None,
            rounds: vec![],
            transcript: [0; 32],
            own_partials: vec![],
            partials: BTreeMap::new(),
            stored: BTreeSet::new(),
        }
    }
}

/// A client's side of one attempt.
pub(super) struct ClientCeremony {
    pub(super) attempt: u32,
    /// What our key in this attempt was derived with.
    pub(super) salt: [u8; 32],
    /// The `join` that was sent, for a repeated invitation.
    pub(super) join: Join,
    /// Height at that time: nothing that needs our key can be in a block before.
    pub(super) joined_at: crate::types::Height,
    /// Secret nonces in the order of the sessions; taken when they sign.
    pub(super) nonces: Vec<SecNonce>,
    /// Whether the operator announced its `open_channel`, and whether it came.
    pub(super) open: ExpectedOpen,
    /// A proposal that will be signed if its funding isn't on chain yet.
    pub(super) held: Option<Arc<Propose>>,
    /// The proposal that was signed, and what was answered.
    pub(super) signed: Option<(Arc<Propose>, Option<Message>)>,
    pub(super) deadline: Millis,
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

/// Inputs of the signing that happens when a step is applied: after its ledger entries are durable.
pub(super) struct SignJob {
    pub(super) attempt: u32,
    pub(super) tree: Arc<Tree>,
    pub(super) transcript: [u8; 32],
    pub(super) role: SignAs,
}

/// For whom a [`SignJob`] signs.
pub(super) enum SignAs {
    /// L's nonces were made in the same step.
    Lsp { nonces: Vec<SecNonce>, rounds: Vec<Round>, deadline: Millis },
    /// The client's nonces wait in its ceremony; their sums are in the proposal.
    Client { lsp: NodeId, proposal: Arc<Propose>, deadline: Millis },
}

/// A change of volatile state, made when the step is applied.
pub(super) enum Change {
    PeerUp(NodeId),
    PeerDown(NodeId),
    Tip(crate::types::Height, bitcoin::BlockHash),
    ReorgTip(crate::types::Height),
    StartLsp(InstanceId, LspCeremony),
    StartClient(InstanceId, ClientCeremony),
    End(InstanceId),
    Phase(InstanceId, Phase, Millis),
    Joined(InstanceId, ClientIndex, Join, Vec<CheckedNonce>),
    FundingKey(InstanceId, Box<KeyAgg>),
    Unjoined(InstanceId, ClientIndex),
    Expecting(InstanceId, ClientIndex),
    Script(InstanceId, ClientIndex, ScriptBuf),
    Funding(InstanceId, PreparedFunding),
    Partials(InstanceId, ClientIndex, Vec<PartialSig>),
    Stored(InstanceId, ClientIndex),
    Open(InstanceId, ExpectedOpen),
    Extend(InstanceId, Millis),
    Hold(InstanceId, Arc<Propose>),
    Sign(InstanceId, Box<SignJob>),
    Tree(InstanceId, Arc<Tree>),
    Sale(InstanceId, CoinIndex, SaleChange),
    Fees(super::fees::FeeChange),
}

/// Session ids with something for each.
pub(super) fn by_session<T: Clone>(tree: &Tree, values: &[T]) -> BTreeMap<SessionId, T> {
    tree.sessions().iter().map(|session| session.id).zip(values.iter().cloned()).collect()
}
