//! One attempt at creating a factory, and what became of it: what belongs to it falls with it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use bitcoin::hashes::{Hash, HashEngine, sha256};

use crate::record::Proposal;
use crate::record::close::Closing;
use crate::record::ended::Ended;
use crate::record::event::{Event, FundingReserved, RenewalPaid, Renewed};
use crate::record::load_error::{LoadError, inconsistent};
use crate::record::sales::{Sales, Sold};
use crate::record::state::State;
use crate::terms::{ClientIndex, Terms};
use crate::tx::layout::{Layout, SessionId};
use crate::tx::musig::SealedKey;
use crate::tx::tree::Tree;
use crate::types::{ChannelId, Height, InstanceId, NodeId, OutPoint, TermsHash, Transaction};
use crate::wire::codec::Codec;

/// Tag of [`Attempt::terms_hash`], as BIP-340 has them.
const TERMS_TAG: &[u8] = b"superscalar/1 terms";

/// This node's part in a factory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// This node is L, the operator.
    Lsp,
    /// This node is a client.
    Client {
        /// Node id of L, the operator.
        lsp: NodeId,
        /// This client's place, in leaf order.
        index: ClientIndex,
    },
}

/// How far creation has come, by what is stored of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Creation {
    /// Client: invited, no answer given yet.
    Invited,
    /// Keys and nonces are collected; L: also the channel opens.
    Joining,
    /// Partial signatures are exchanged.
    Signing,
    /// Finished signatures are distributed and stored.
    Storing,
    /// Channels are completed and checked.
    Opening,
    /// The funding transaction may be on its way, or in the chain.
    Funding,
    /// The client said no, and why.
    Declined(String),
    /// Creation failed; the reason is for people.
    Aborted(String),
}

impl Creation {
    /// The state that it is, as long as the chain has nothing to say.
    pub fn state(&self) -> State {
        match self {
            Self::Invited => State::Invited,
            Self::Joining => State::Joining,
            Self::Signing => State::Signing,
            Self::Storing => State::Storing,
            Self::Opening => State::Opening,
            Self::Funding => State::Funding,
            Self::Declined(_) => State::Declined,
            Self::Aborted(_) => State::Aborted,
        }
    }

    /// Why it ended, if it did.
    pub fn failure(&self) -> Option<&str> {
        match self {
            Self::Declined(reason) | Self::Aborted(reason) => Some(reason),
            Self::Invited | Self::Joining | Self::Signing | Self::Storing | Self::Opening | Self::Funding => {
                None
            }
        }
    }
}

/// One attempt: its terms, its transactions, and the channels that stand on them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// The attempt's number, from 1.
    pub number: u32,
    /// Whether this node is L or a client, and which.
    pub role: Role,
    /// What the members agreed to, or were asked to.
    pub terms: Terms,
    /// What follows from the terms.
    pub layout: Arc<Layout>,
    /// Client: what L asks for joining, msat. L: 0.
    pub price_msat: u64,
    /// L: what each client was asked for its renewal, msat, in leaf order; empty where nobody was.
    pub(crate) prices_msat: Vec<u64>,
    /// L: the clients' nodes in leaf order. A client doesn't know its neighbours' nodes.
    pub clients: Vec<NodeId>,
    /// How far its creation has come.
    pub(crate) creation: Creation,
    /// Client: height at which its invitation arrived.
    pub invited_at: Option<Height>,
    /// Height at which its creation ended, if it did.
    pub(crate) ended_at: Option<Height>,
    /// Client: what its key was derived with.
    pub(crate) salt: Option<[u8; 32]>,
    /// L: its funding transaction, unsigned, once its inputs are reserved.
    pub reserved: Option<Arc<FundingReserved>>,
    /// What was proposed to be signed.
    pub proposal: Option<Arc<Proposal>>,
    /// Its transactions, once proposed: for L all, for a client its own part.
    pub tree: Option<Arc<Tree>>,
    /// Finished signatures (BIP-340) by session; empty until they are stored.
    pub signatures: BTreeMap<SessionId, [u8; 64]>,
    /// Channels that lightningd has committed.
    pub channels: BTreeMap<ClientIndex, ChannelId>,
    /// Clients whose channel was checked.
    pub checked: BTreeSet<ClientIndex>,
    /// Whether a channel was checked and its funding confirmed at some time: money may be in it.
    pub(crate) relied_on: bool,
    /// What was sold out of the stock.
    pub sales: Sales,
    /// Height and reason of this node's first exit.
    pub exit: Option<(Height, String)>,
    /// Clients whose channels this node takes on chain and closes.
    pub exiting: BTreeSet<ClientIndex>,
    /// L: height and reason of the first eviction.
    pub eviction: Option<(Height, String)>,
    /// L: clients whose leaves it publishes; their channels go on (S21).
    pub evicting: BTreeSet<ClientIndex>,
    /// Clients whose channels lightningd is done with.
    pub resolved: BTreeSet<ClientIndex>,
    /// Channels of this node's that lightningd has ended, and how (S34).
    pub ended: BTreeMap<ChannelId, Ended>,
    /// Clients that have handed their keys over, and when: a client itself, or for L whoever did (S22).
    pub handed_over: BTreeMap<ClientIndex, Height>,
    /// L: their keys, as they came.
    pub(crate) keys: BTreeMap<ClientIndex, SealedKey>,
    /// L: what clients have left behind for their place here, in which other factory, msat.
    pub(crate) paid_msat: BTreeMap<(ClientIndex, InstanceId), u64>,
    /// Client: the factories that it has left for this one, and what it left behind in each for its price, msat.
    pub(crate) left_msat: BTreeMap<InstanceId, u64>,
    /// Client: L has stored its key.
    pub handover_stored: bool,
    /// The cooperative close that was signed for: at most one, ever (S8).
    pub close: Option<Box<Closing>>,
}

impl Attempt {
    /// Of which nothing but its terms is known. `event` names what brought it.
    pub(crate) fn new(
        event: &'static str,
        role: Role,
        number: u32,
        terms: &Terms,
    ) -> Result<Self, LoadError> {
        let layout = Layout::new(terms).map_err(|error| inconsistent(event, error))?;
        Ok(Self {
            number,
            role,
            terms: terms.clone(),
            layout: Arc::new(layout),
            price_msat: 0,
            prices_msat: vec![],
            clients: vec![],
            creation: Creation::Joining,
            invited_at: None,
            ended_at: None,
            salt: None,
            reserved: None,
            proposal: None,
            tree: None,
            signatures: BTreeMap::new(),
            channels: BTreeMap::new(),
            checked: BTreeSet::new(),
            relied_on: false,
            sales: Sales::default(),
            exit: None,
            exiting: BTreeSet::new(),
            eviction: None,
            evicting: BTreeSet::new(),
            resolved: BTreeSet::new(),
            ended: BTreeMap::new(),
            handed_over: BTreeMap::new(),
            keys: BTreeMap::new(),
            paid_msat: BTreeMap::new(),
            left_msat: BTreeMap::new(),
            handover_stored: false,
            close: None,
        })
    }

    /// Its funding outpoint, once proposed.
    pub fn funding(&self) -> Option<OutPoint> {
        self.tree.as_ref()?.coin_outpoint(0)
    }

    /// Why its creation ended, if it did.
    pub fn failure(&self) -> Option<&str> {
        self.creation.failure()
    }

    /// Blocks before an HTLC's expiry at which it must be off this node's channels.
    pub fn blocks_early(&self) -> u16 {
        match self.role {
            Role::Lsp => self.layout.worst_blocks_early(),
            Role::Client { index, .. } => self.layout.blocks_early(index),
        }
    }

    /// Client: the hash of what it is asked to accept, or has accepted: terms, its place, and the price.
    /// Whatever a person is shown follows from these and the height (S32).
    pub fn terms_hash(&self) -> Option<TermsHash> {
        let Role::Client { index, .. } = self.role else { return None };
        let tag = sha256::Hash::hash(TERMS_TAG).to_byte_array();
        let mut engine = sha256::Hash::engine();
        for part in
            [&tag[..], &tag, &index.to_be_bytes(), &self.price_msat.to_be_bytes(), &self.terms.encoded()]
        {
            engine.input(part);
        }
        Some(TermsHash(sha256::Hash::from_engine(engine).to_byte_array()))
    }

    /// L: one price for each client, or none for anybody.
    #[expect(clippy::wildcard_enum_match_arm, reason = "no other event has any")]
    pub(super) fn take_prices(&mut self, event: &Event) -> Result<(), LoadError> {
        let msat = match event {
            Event::Created(e) => e.prices_msat.clone(),
            Event::AttemptStarted(e) => e.prices_msat.clone(),
            _ => None,
        };
        if msat.as_ref().is_some_and(|msat| msat.len() != self.clients.len()) {
            return Err(inconsistent(event.name(), "the number of prices is not that of its clients"));
        }
        self.prices_msat = msat.unwrap_or_default();
        Ok(())
    }

    /// What a client is asked for this channel, msat; of another client this node doesn't know it.
    pub fn price_of(&self, client: ClientIndex) -> u64 {
        match self.role {
            Role::Lsp => {
                let place = usize::try_from(client).ok();
                place.and_then(|place| self.prices_msat.get(place)).copied().unwrap_or(0)
            }
            Role::Client { .. } => self.price_msat,
        }
    }

    pub(super) fn note_paid(&mut self, event: &RenewalPaid) {
        self.paid_msat.insert((event.client, event.of), event.msat);
    }

    pub(super) fn note_renewed(&mut self, event: &Renewed) {
        self.left_msat.insert(event.of, event.msat);
    }

    /// L: what a client has left behind for its place here, msat; nothing if it has left nothing yet.
    pub fn paid_by(&self, client: ClientIndex) -> Option<u64> {
        let own = self.paid_msat.iter().filter(|((of, _), _)| *of == client);
        own.map(|(_, msat)| *msat).reduce(u64::saturating_add)
    }

    /// Client: whether it has left another factory for this one: that one's reserve is made up for.
    pub(crate) fn is_renewal_of_some(&self) -> bool {
        !self.left_msat.is_empty()
    }

    /// Client: what it has left behind for this one's price, msat.
    pub(crate) fn left_for_it(&self) -> u64 {
        self.left_msat.values().fold(0, |sum, msat| sum.saturating_add(*msat))
    }

    /// Clients whose channel is this node's too.
    pub(crate) fn own_clients(&self) -> Range<ClientIndex> {
        match self.role {
            Role::Lsp => 0..self.terms.clients(),
            Role::Client { index, .. } => index..index.saturating_add(1),
        }
    }

    /// Whether a channel of this node's is one of the tree's or of a sale's, whether or not lightningd has it yet.
    pub(crate) fn has_channel(&self, channel: ChannelId) -> bool {
        let outpoint = |client| self.tree.as_ref()?.channel_outpoint(client);
        self.own_clients().filter_map(outpoint).any(|outpoint| ChannelId::of(outpoint) == channel)
            || self.sales.names(channel)
            || self.sales.openings().any(|(_, sale)| ChannelId::of(sale.channel) == channel)
    }

    /// How lightningd has ended a client's first channel, if it has (S34).
    pub fn ended_of(&self, client: ClientIndex) -> Option<Ended> {
        self.ended.get(self.channels.get(&client)?).copied()
    }

    /// The sales whose channel is this node's: for L all, for a client those that it bought. Signed or
    /// not.
    pub fn own_sales(&self) -> impl Iterator<Item = &Sold> {
        let role = self.role;
        self.sales.all().filter(move |sold| match role {
            Role::Lsp => true,
            Role::Client { index, .. } => sold.sale.buyer == index,
        })
    }

    /// A transaction of the tree with its signature in place, if we hold it.
    pub fn signed_tx(&self, session: SessionId) -> Option<Transaction> {
        self.tree.as_ref()?.signed(session, self.signatures.get(&session)?)
    }

    /// A client's node (L only).
    pub(crate) fn node_of(&self, client: ClientIndex) -> Option<NodeId> {
        self.clients.get(usize::try_from(client).ok()?).copied()
    }

    /// Whether two attempts' fundings spend a common input, so that one of them is the end of the other.
    pub(crate) fn conflicts(&self, other: &Self) -> bool {
        let inputs = |attempt: &Self| {
            let proposal = attempt.proposal.as_ref();
            let inputs = proposal.into_iter().flat_map(|proposal| &proposal.funding_tx.input);
            inputs.map(|input| input.previous_output).collect::<BTreeSet<_>>()
        };
        !inputs(self).is_disjoint(&inputs(other))
    }
}
