//! What this node agrees to: limits set by its operator's options.

use std::collections::BTreeSet;
use std::fmt;

use crate::policy::ladder::Ladder;
use crate::policy::prices::PriceList;
use crate::terms::ClientIndex;
use crate::tx::layout::{Layout, LayoutError};
use crate::tx::plan::Delays;
use crate::types::{Height, Millis, NodeId};
use crate::wire::message::Invite;

pub use bounds::{Because, Bound, Bounds, Fit, KnownFees, Term};
pub use limits::{DustLimits, HoldLimits};

mod bounds;
pub mod ladder;
mod limits;
pub mod prices;

/// What happens to an invitation that is within the limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// Every invitation is declined.
    Never,
    /// An invitation waits for `factory-accept` or `factory-decline`.
    Ask,
    /// An invitation is accepted if it keeps to all limits.
    Auto,
}

impl Policy {
    /// Every policy, the strictest first.
    pub const ALL: [Self; 3] = [Self::Never, Self::Ask, Self::Auto];

    /// Its name in the option `factory-policy`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Never => "never",
            Self::Ask => "ask",
            Self::Auto => "auto",
        }
    }
}

/// The engine's settings. The plugin fills them from its `factory-*` options.
#[derive(Debug, Clone)]
pub struct Config {
    /// What to do with invitations.
    pub policy: Policy,
    /// Who may invite; without a list whoever this node has a channel with, and strangers only where a person is
    /// asked (S28).
    pub allowed_lsps: Option<Vec<NodeId>>,
    /// Strangers are as welcome as others.
    pub anybody_invites: bool,
    /// Client: what it takes of an invitation's terms (S32).
    pub bounds: Bounds,
    /// Client: whether it renews by itself what it has with an operator when a factory ends.
    pub renew: Policy,
    /// Client: the most that a renewal may cost, msat: the price of joining, and what stays behind in the old
    /// factory without being made up for.
    pub max_renewal_price_msat: u64,
    /// Client: confirmations of a new factory's funding before a key of the old one is handed over (S22).
    pub handover_depth: u16,
    /// L: confirmations of the funding before channels are usable.
    pub funding_confirmations: u16,
    /// L: blocks allowed for each path transaction to confirm.
    pub confirm_blocks: u16,
    /// L: blocks added to `blocks_early`.
    pub margin_blocks: u16,
    /// L: pushed to each client, msat.
    pub push_msat: u64,
    /// L: blocks between two states of a stateful level.
    pub state_step: u16,
    /// L: states of a stateful level.
    pub state_count: u16,
    /// L: blocks until L alone may take stock.
    pub stock_csv: u16,
    /// L: feerate of the transactions that take stock, sat/kw.
    pub stock_feerate: u32,
    /// L: blocks before the last moment from which on it takes back alone what is all its own again; until then
    /// that waits to be an input of the next factory's funding (S38).
    pub reclaim_blocks: u32,
    /// L: how long invitations wait for their answer.
    pub invite_timeout: Millis,
    /// How long each later phase of a ceremony may take.
    pub ceremony_timeout: Millis,
    /// L: attempts at one factory before it gives up.
    pub max_attempts: u32,
    /// The storm that this node is prepared for: the feerate at which its wallet should be able to pay an exit of
    /// everything, and lightningd the settling of its channels, sat/kw.
    pub reserve_feerate: u32,
    /// lightningd's `cltv-delta`: blocks between the end of an HTLC that is forwarded and that of the one that
    /// pays for it, in which this node takes the first back on chain, or the preimage to the second.
    pub cltv_delta: u32,
    /// lightningd's `cltv-final`: blocks that the HTLC of an invoice of this node's needs.
    pub cltv_final: u32,
    /// L: what it holds for clients that aren't connected.
    pub hold: HoldLimits,
    /// Dust in flight on factory channels.
    pub dust: DustLimits,
    /// Client: open invitations and ceremonies of one peer (S28).
    pub max_ceremonies_per_peer: usize,
    /// Client: whether it signs sales to the other clients of its sub-factory without asking.
    pub sign_for_neighbours: bool,
    /// Blocks after which a sale that was paid and that not everybody has signed ends (S36).
    pub sale_blocks: u32,
    /// Client: blocks that credit waits for the next purchase before it is asked back (S36).
    pub credit_blocks: u32,
    /// Blocks that the records of a factory that is over are kept, from when it was archived; 0 is for ever (S28).
    pub keep_finished_blocks: u32,
    /// How long a purchase waits for clients that have to sign and are away.
    pub sale_wait: Millis,
    /// Whether an ordinary channel on chain may come in place of a sale: as L, open; as buyer, take it.
    pub jit: bool,
    /// L: whether it opens an ordinary channel on chain to a client that leaves a factory.
    pub leave_channels: bool,
    /// L: when factories follow on those that end: `factory-ladder`, which the plugin keeps in its datastore.
    pub ladder: Option<Ladder>,
    /// L: what liquidity costs: `factory-price`, which the plugin keeps in its datastore.
    pub prices: PriceList,
    /// Whether a file keeps copies of what is stored (S39): `factory-backup-file`.
    pub backup_file: bool,
    /// Whether peers are asked to keep copies, too: the operators of its factories, and [`Config::keepers`].
    pub peer_backup: bool,
    /// Peers beside the operators that are asked.
    pub keepers: BTreeSet<NodeId>,
    /// Whether copies are kept for every peer that this node has a channel with, and not for its clients alone.
    pub serves_copies: bool,
    /// Keepers that have to have a copy of all that is stored of a factory before this node binds itself there for
    /// good; with 0 as many as there are, and none that fails is waited for (S39).
    pub min_keepers: u8,
    /// Peers that watch the chain for this node: `factory-tower`.
    pub towers: BTreeSet<NodeId>,
    /// Peers that this node watches the chain for: `factory-watch-for`.
    pub watch_for: BTreeSet<NodeId>,
    /// Whether it does so for every peer that it has a channel with.
    pub watches_for_peers: bool,
    /// Rely on channels whose funding script could not be read from lightningd's database (S18
    /// switched off).
    pub unsafe_skip_funding_check: bool,
}

impl Default for Config {
    fn default() -> Self {
        let delays = Delays::default();
        Self {
            policy: Policy::Ask,
            allowed_lsps: None,
            anybody_invites: false,
            bounds: Bounds::default(),
            renew: Policy::Auto,
            max_renewal_price_msat: 0,
            backup_file: false,
            peer_backup: false,
            keepers: BTreeSet::new(),
            serves_copies: false,
            min_keepers: 0,
            towers: BTreeSet::new(),
            watch_for: BTreeSet::new(),
            watches_for_peers: false,
            handover_depth: 6,
            funding_confirmations: 3,
            confirm_blocks: delays.confirm_blocks,
            margin_blocks: delays.margin_blocks,
            push_msat: 1_000,
            state_step: delays.state_step,
            state_count: delays.state_count,
            stock_csv: 144,
            stock_feerate: 1_000,
            reclaim_blocks: 144,
            // A person may have to be asked.
            invite_timeout: 300_000,
            ceremony_timeout: 30_000,
            max_attempts: 5,
            // 60 sat/vB: a mempool that takes nothing below 50, and whoever pays no more waits there.
            reserve_feerate: 15_000,
            // Off. A payer who tries in vain for a minute has tried another way by then.
            cltv_delta: 34,
            cltv_final: 18,
            hold: HoldLimits { time: 0, number: 100, msat: 1_000_000_000 },
            // lightningd's max-dust-htlc-exposure-msat; and no more in one factory than in four channels.
            dust: DustLimits { channel_msat: 50_000_000, factory_msat: 200_000_000 },
            max_ceremonies_per_peer: 4,
            sign_for_neighbours: true,
            sale_blocks: 12,
            credit_blocks: 144,
            // A month: long enough to ask what became of one.
            keep_finished_blocks: 4_320,
            sale_wait: 60_000,
            jit: false,
            leave_channels: false,
            ladder: None,
            prices: PriceList::default(),
            unsafe_skip_funding_check: false,
        }
    }
}

/// Why an invitation is not for us. Told to the operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NotAcceptable {
    /// This node joins no factories.
    Never,
    /// This node joins those of other operators alone.
    Operator,
    /// The terms make no factory.
    Terms(LayoutError),
    /// The terms name another operator.
    NotTheOperator(NodeId),
    /// The terms name another factory.
    OtherInstance,
    /// There is no such place.
    NoSuchClient {
        /// Index that the invitation gives this node.
        client: ClientIndex,
        /// How many clients the terms have: indices go from 0 to one less.
        clients: u32,
    },
    /// A number is out of this node's bounds (S32).
    OutOfBounds(Bound),
    /// The timeout is too near for anything to happen before.
    Dying {
        /// Blocks from now to the timeout.
        blocks: u32,
    },
    /// With less than 1,000 msat this node would forget its channel.
    Push,
    /// channel_in_factory is not what the terms make.
    Record,
    /// A later attempt that is not what was accepted.
    Differs,
    /// This node is the factory's operator itself.
    Own,
    /// So many invitations of this peer wait already (S28).
    Open(usize),
    /// So many failed factories of this peer can't be forgotten yet (S12, S28).
    Kept(usize),
    /// So many invitations of strangers, or of all peers, wait already (S28).
    Full(usize),
}

impl fmt::Display for NotAcceptable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Never => f.write_str("this node's policy is never to join a factory"),
            Self::Operator => f.write_str("this node joins no factories of this operator"),
            Self::Terms(error) => error.fmt(f),
            Self::NotTheOperator(lsp) => {
                write!(f, "the terms name {lsp} as operator, not the peer that invites")
            }
            Self::OtherInstance => f.write_str("the terms name another factory_instance"),
            Self::NoSuchClient { client, clients } => {
                write!(f, "there is no client {client} among {clients}")
            }
            Self::OutOfBounds(bound) => bound.fmt(f),
            Self::Dying { blocks } => {
                write!(f, "its timeout is {blocks} blocks away: it would be dying before it is usable")
            }
            Self::Push => f.write_str("push_msat is under 1000: this node would forget the channel"),
            Self::Record => f.write_str("channel_in_factory contradicts the terms"),
            Self::Differs => f.write_str("the terms differ from those that were accepted"),
            Self::Own => f.write_str("it is our own factory"),
            Self::Open(open) => write!(f, "{open} invitations of this peer are open already"),
            Self::Full(open) => write!(f, "{open} invitations wait for an answer here already"),
            Self::Kept(kept) => write!(f, "{kept} failed factories of this peer have to be kept"),
        }
    }
}

impl std::error::Error for NotAcceptable {}

impl Config {
    /// Whether a peer may invite at all, and names itself: before anything is reckoned for it (S28).
    pub(crate) fn check_inviter(&self, peer: NodeId, invite: &Invite) -> Result<(), NotAcceptable> {
        let terms = &invite.terms;
        if self.policy == Policy::Never {
            return Err(NotAcceptable::Never);
        }
        if self.allowed_lsps.as_ref().is_some_and(|allowed| !allowed.contains(&peer)) {
            return Err(NotAcceptable::Operator);
        }
        if terms.lsp != peer {
            return Err(NotAcceptable::NotTheOperator(terms.lsp));
        }
        if terms.instance != invite.instance {
            return Err(NotAcceptable::OtherInstance);
        }
        if invite.client >= terms.clients() {
            return Err(NotAcceptable::NoSuchClient { client: invite.client, clients: terms.clients() });
        }
        Ok(())
    }
}

impl Bounds {
    /// Checks an invitation against this node's limits and against itself. The layout has been built
    /// from its terms, which are thereby well formed.
    pub(crate) fn check_invite(
        &self,
        invite: &Invite,
        layout: &Layout,
        height: Height,
        fees: KnownFees,
    ) -> Result<(), NotAcceptable> {
        let terms = &invite.terms;
        self.check(terms, invite.price_msat, height, fees).map_err(NotAcceptable::OutOfBounds)?;
        let lifetime = terms.timeout_height.saturating_sub(height);
        if lifetime <= terms.dying_blocks.saturating_add(u32::from(layout.worst_blocks_early())) {
            return Err(NotAcceptable::Dying { blocks: lifetime });
        }
        if terms.push_msat < 1_000 {
            return Err(NotAcceptable::Push);
        }
        if invite.channel_in_factory.factory_instance != invite.instance
            || invite.channel_in_factory.factory_protocol != crate::wire::message::protocol_id()
            || invite.channel_in_factory.blocks_early != layout.blocks_early(invite.client)
        {
            return Err(NotAcceptable::Record);
        }
        Ok(())
    }
}
