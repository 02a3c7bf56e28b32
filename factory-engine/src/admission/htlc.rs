//! Which HTLCs a factory channel takes (S15, S18).

use std::collections::BTreeSet;

use crate::engine::Engine;
use crate::record::attempt::{Attempt, Role};
use crate::record::factory::{Factory, Usability, own_clients};
use crate::record::unusable::Unusable;
use crate::terms::ClientIndex;
use crate::tx::sale::Sale;
use crate::tx::scripts::DUST_MSAT;
use crate::types::{Amount, ChannelId, Height, InstanceId, NodeId, OutPoint, Txid};

/// Confirmations after which a leaf is not expected to leave the chain again.
const SETTLED: u32 = 6;

/// Blocks that may come in before an HTLC is where its expiry is checked, or has been failed back.
pub const SLACK: u32 = 6;

/// What the hooks need to know about one factory channel, so that they can answer from memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelPolicy {
    /// The factory that the channel stands in (factory_instance).
    pub instance: InstanceId,
    /// L: the client whose channel it is.
    pub client: Option<NodeId>,
    /// Whether HTLCs may move, and otherwise why not.
    pub usable: Result<(), Unusable>,
    /// Blocks that taking the channel on chain may need.
    pub blocks_early: u16,
    /// No HTLC may expire later than this.
    pub safe_end: Height,
}

/// An HTLC that arrived at this node.
#[derive(Debug, Clone, Copy)]
pub struct Htlc<'a> {
    /// The channel on which it came, if that is a factory's.
    pub incoming: Option<&'a ChannelPolicy>,
    /// The channel on which it would be forwarded, if that is a factory's.
    pub outgoing: Option<&'a ChannelPolicy>,
    /// cltv_expiry of the incoming HTLC.
    pub cltv_expiry: Height,
    /// cltv_expiry of the forwarded HTLC; nothing where this node is the payee.
    pub outgoing_cltv_expiry: Option<Height>,
    /// lightningd's `cltv-delta`.
    pub cltv_delta: u32,
    /// How the channel stands on which it came.
    pub upstream: Upstream,
}

/// How the channel stands on which an HTLC came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Upstream {
    /// As usual.
    Live,
    /// It is on its way to the chain, or there: what it owes is claimed there.
    Closing {
        /// The HTLC's amount there, msat.
        amount_msat: u64,
    },
}

/// BOLT 4 failure codes that [`admit`] uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// temporary_channel_failure (UPDATE|7), without a channel_update.
    TemporaryChannel,
    /// expiry_too_soon (UPDATE|14), without a channel_update.
    ExpiryTooSoon,
    /// temporary_node_failure (NODE|2): the channel on which it came can't take it, and BOLT 4 has no
    /// code that blames an incoming channel.
    TemporaryNode,
    /// expiry_too_far (21): it would last longer than HTLCs may on its factory channel.
    ExpiryTooFar,
}

impl Failure {
    /// Every failure.
    pub const ALL: [Self; 4] =
        [Self::TemporaryChannel, Self::ExpiryTooSoon, Self::TemporaryNode, Self::ExpiryTooFar];

    /// BOLT 4's name of it.
    pub fn name(self) -> &'static str {
        match self {
            Self::TemporaryChannel => "temporary_channel_failure",
            Self::ExpiryTooSoon => "expiry_too_soon",
            Self::TemporaryNode => "temporary_node_failure",
            Self::ExpiryTooFar => "expiry_too_far",
        }
    }

    /// The failure message: code, and a zero-length channel_update where the code wants one.
    pub fn message(self) -> &'static [u8] {
        match self {
            Self::TemporaryChannel => &[0x10, 0x07, 0x00, 0x00],
            Self::ExpiryTooSoon => &[0x10, 0x0e, 0x00, 0x00],
            Self::TemporaryNode => &[0x20, 0x02],
            Self::ExpiryTooFar => &[0x00, 0x15],
        }
    }
}

/// What to do with an HTLC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The hook lets it pass.
    Continue,
    /// The HTLC is failed back.
    Fail {
        /// Failure code that the sender sees (BOLT 4).
        failure: Failure,
        /// Why, for the log: the sender never sees it.
        reason: String,
    },
}

/// Whether an HTLC may stand on the factory channels that it uses, at `height`.
pub fn admit(htlc: &Htlc<'_>, height: Height) -> Verdict {
    if let Some(policy) = htlc.incoming
        && let Some(verdict) = refuse(policy, htlc.cltv_expiry, height, Failure::TemporaryNode)
    {
        return verdict;
    }
    if let Some(policy) = htlc.outgoing {
        let expiry = htlc.outgoing_cltv_expiry.unwrap_or(htlc.cltv_expiry);
        if let Some(verdict) = refuse(policy, expiry, height, Failure::TemporaryChannel) {
            return verdict;
        }
    }
    if let Some(outgoing) = htlc.outgoing_cltv_expiry {
        return admit_forward(htlc, outgoing);
    }
    Verdict::Continue
}

/// Whether what comes in can still be claimed when what would go out ends at its last block (S16): the
/// deadlines of exits count with the same blocks.
fn admit_forward(htlc: &Htlc<'_>, outgoing: Height) -> Verdict {
    if let Upstream::Closing { amount_msat } = htlc.upstream
        && amount_msat < DUST_MSAT
    {
        let reason = format!("its channel goes on chain, where {amount_msat} msat can't be claimed");
        return Verdict::Fail { failure: Failure::TemporaryNode, reason };
    }
    let early = htlc.incoming.map_or(0, |policy| u32::from(policy.blocks_early));
    let least = outgoing.saturating_add(early).saturating_add(htlc.cltv_delta);
    // On an ordinary channel lightningd asks for it.
    let asks = htlc.incoming.is_some() || htlc.upstream != Upstream::Live;
    if asks && htlc.cltv_expiry < least {
        let reason = format!(
            "it expires at {}, before {least}: {} blocks after what it pays for, and {early} for an exit",
            htlc.cltv_expiry, htlc.cltv_delta
        );
        return Verdict::Fail { failure: Failure::ExpiryTooSoon, reason };
    }
    Verdict::Continue
}

fn refuse(policy: &ChannelPolicy, expiry: Height, height: Height, unusable: Failure) -> Option<Verdict> {
    let fail = |failure, reason| Some(Verdict::Fail { failure, reason });
    if let Err(why) = &policy.usable {
        return fail(unusable, format!("factory {}: {why}", policy.instance));
    }
    let earliest = height.saturating_add(u32::from(policy.blocks_early)).saturating_add(1);
    if expiry < earliest {
        return fail(
            Failure::ExpiryTooSoon,
            format!(
                "factory {}: cltv_expiry {expiry} is before {earliest}, the least that leaves time for an exit",
                policy.instance
            ),
        );
    }
    if expiry > policy.safe_end {
        return fail(
            Failure::ExpiryTooFar,
            format!(
                "factory {}: cltv_expiry {expiry} is after {}, where the factory's safe end is",
                policy.instance, policy.safe_end
            ),
        );
    }
    None
}

/// Whether a channel's funding is so deep in the chain that it is a channel like any other.
fn settled(factory: &Factory, funding: Txid, height: Height) -> bool {
    let confirmed = factory.confirmed.get(&funding);
    confirmed.is_some_and(|at| height.saturating_sub(*at).saturating_add(1) >= SETTLED)
}

/// The channels of an attempt and of its sales, with their clients: fundings that aren't settled.
fn unsettled(
    factory: &Factory,
    attempt: &Attempt,
    height: Height,
) -> impl Iterator<Item = (ClientIndex, OutPoint)> {
    let leaf = |client| Some((client, attempt.tree.as_ref()?.channel_outpoint(client)?));
    let sold = attempt.own_sales().map(|sold| (sold.sale.buyer, sold.sale.channel));
    let opening = attempt.sales.openings().map(|(_, sale)| (sale.buyer, sale.channel));
    let all = attempt.own_clients().filter_map(leaf).chain(sold).chain(opening);
    all.filter(move |(_, funding)| !settled(factory, funding.txid, height))
}

/// The policies of channels that an attempt left behind which isn't the factory any more: nothing moves.
fn given_up(factory: &Factory, past: &Attempt, height: Height) -> Vec<(ChannelId, ChannelPolicy)> {
    let policy = |(client, funding): (ClientIndex, OutPoint)| {
        let policy = ChannelPolicy {
            instance: factory.instance,
            client: past.node_of(client),
            usable: Err(Unusable::GivenUp),
            blocks_early: past.layout.blocks_early(client),
            safe_end: 0,
        };
        (ChannelId::of(funding), policy)
    };
    unsettled(factory, past, height).map(policy).collect()
}

/// The policies of the channels that the factory was created with.
fn leaf_policies(
    factory: &Factory,
    usable: &Usability<'_>,
    height: Height,
) -> Vec<(ChannelId, ChannelPolicy)> {
    let policy = |client| {
        let funding = factory.current.tree.as_ref()?.channel_outpoint(client)?;
        let policy = ChannelPolicy {
            instance: factory.instance,
            client: factory.node_of(client),
            usable: usable.channel(client),
            blocks_early: factory.current.layout.blocks_early(client),
            safe_end: factory.safe_end(),
        };
        (!settled(factory, funding.txid, height)).then(|| (ChannelId::of(funding), policy))
    };
    own_clients(factory).filter_map(policy).collect()
}

/// The policies of channels that were bought, or are being opened for a sale (S18).
fn sale_policies(
    factory: &Factory,
    usable: &Usability<'_>,
    height: Height,
) -> Vec<(ChannelId, ChannelPolicy)> {
    let policy = |sale: &Sale, usable| {
        let blocks_early = factory.sale_blocks_early(sale.buyer, sale.number);
        let safe_end = factory.current.terms.timeout_height.saturating_sub(u32::from(blocks_early));
        let client = factory.node_of(sale.buyer);
        let policy = ChannelPolicy { instance: factory.instance, client, usable, blocks_early, safe_end };
        (ChannelId::of(sale.channel), policy)
    };
    let sold = factory.own_sales().filter(|sold| !settled(factory, sold.txid(), height));
    let sold = sold.map(|sold| policy(&sold.sale, usable.sale(sold)));
    let not_signed = || Err(Unusable::NotSigned);
    sold.chain(factory.current.sales.openings().map(|(_, sale)| policy(sale, not_signed()))).collect()
}

/// Which channels may be a factory's although no policy says so. What is on chain is never one of them (S33).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Doubt {
    /// Those with these peers: of what factories have with them not all is known.
    Peers(BTreeSet<NodeId>),
    /// Any, for this reason: nothing is known of at least one factory.
    All(String),
}

impl Default for Doubt {
    fn default() -> Self {
        Self::Peers(BTreeSet::new())
    }
}

impl Doubt {
    /// Whether every factory is known, and every channel of it.
    pub fn is_none(&self) -> bool {
        matches!(self, Self::Peers(peers) if peers.is_empty())
    }

    /// Why a channel with this peer may be a factory's, if it may; `None` is a peer that nobody knows.
    pub fn of(&self, peer: Option<NodeId>) -> Option<&str> {
        match self {
            Self::All(why) => Some(why),
            Self::Peers(peers) if peer.is_some_and(|peer| peers.contains(&peer)) => {
                Some("some records of a factory with its peer are not understood")
            }
            Self::Peers(_) => None,
        }
    }
}

impl Engine {
    /// Which channels may be a factory's although [`Engine::channel_policies`] doesn't have them (S33).
    pub fn doubt(&self) -> Doubt {
        if let Some((instance, why)) = self.unreadable().next() {
            return Doubt::All(format!("factory {instance}: {why}"));
        }
        let damaged = || self.factories().filter_map(|factory| Some((factory, factory.damage()?)));
        // L's: an attempt that isn't known had clients that aren't, and they may have a channel yet.
        if let Some((factory, why)) = damaged().find(|(factory, _)| factory.current.role == Role::Lsp) {
            return Doubt::All(format!("factory {}: {why}", factory.instance));
        }
        Doubt::Peers(damaged().map(|(factory, _)| factory.lsp()).collect())
    }

    /// The policy of every channel of every factory whose leaf isn't on chain, settled: from then on it
    /// is a channel like any other.
    pub fn channel_policies(&self) -> Vec<(ChannelId, ChannelPolicy)> {
        let height = self.tip().map_or(0, |(height, _)| height);
        self.factories().flat_map(|factory| self.policies_in(factory, height)).collect()
    }

    /// Those of one factory.
    fn policies_in(&self, factory: &Factory, height: Height) -> Vec<(ChannelId, ChannelPolicy)> {
        let usable = Usability::new(factory, height);
        let mut policies = leaf_policies(factory, &usable, height);
        policies.extend(sale_policies(factory, &usable, height));
        if self.leaving.frozen(factory.instance).is_some() {
            // S22: nothing may move while somebody looks whether they are empty.
            for (_, policy) in &mut policies {
                policy.usable = policy.usable.and(Err(Unusable::HandedOver));
            }
        }
        if self.is_frozen_to_close(factory.instance) {
            for (_, policy) in &mut policies {
                policy.usable = policy.usable.and(Err(Unusable::Closing));
            }
        }
        policies.extend(factory.past().iter().flat_map(|past| given_up(factory, past, height)));
        policies
    }

    /// The policy of one channel, as [`Engine::channel_policies`] has it.
    pub fn policy_of(&self, channel: ChannelId) -> Option<ChannelPolicy> {
        let height = self.tip().map_or(0, |(height, _)| height);
        let is_of = |attempt: &Attempt| attempt.has_channel(channel);
        let mut policies = self
            .factories()
            .filter(|factory| factory.attempts().any(is_of))
            .flat_map(|factory| self.policies_in(factory, height));
        policies.find(|(id, _)| *id == channel).map(|(_, policy)| policy)
    }

    /// Peers and capacities of zero-conf channels that were accepted for a factory. A channel that
    /// looks like one of these, isn't on chain and has no usable policy of its own may be anything:
    /// an operator can complete an open on whatever transaction it likes. Nothing moves on it (S18).
    pub fn suspects(&self) -> Vec<(NodeId, Amount)> {
        self.factories()
            .flat_map(|factory| factory.opens_accepted().iter().map(|capacity| (factory.lsp(), *capacity)))
            .collect()
    }

    /// The largest `blocks_early` of any usable channel; what invoices must allow for (S17).
    pub fn largest_blocks_early(&self) -> u16 {
        self.channel_policies()
            .into_iter()
            .filter(|(_, policy)| policy.usable.is_ok())
            .map(|(_, policy)| policy.blocks_early)
            .max()
            .unwrap_or(0)
    }
}
