//! What lives only in memory: ceremonies and sales under way, and what the node said last. A restart loses
//! it, on purpose: secret nonces never touch a disk (S1), so whatever needs them begins again with fresh
//! ones (S2).

use std::sync::Arc;

use bitcoin::BlockHash;

use crate::io::ChannelBalance;
use crate::memory::ceremony::{ClientCeremony, LspCeremony, VolatileClient, VolatileLsp};
use crate::memory::climbing::VolatileClimbing;
use crate::memory::closing::VolatileClose;
use crate::memory::fees::VolatileFees;
use crate::memory::keepers::VolatileKeepers;
use crate::memory::keeping::VolatileKeeping;
use crate::memory::leaving::VolatileLeaving;
use crate::memory::moving::VolatileMove;
use crate::memory::reclaim::VolatileReclaim;
use crate::memory::sale::VolatileSale;
use crate::memory::towers::VolatileTowers;
use crate::memory::watching::VolatileWatching;
use crate::signing::SignJob;
use crate::terms::ClientIndex;
use crate::tx::layout::CoinIndex;
use crate::tx::tree::Tree;
use crate::types::{Height, InstanceId, Millis, NodeId};
use crate::wire::message::Propose;

pub mod balances;
pub mod ceremony;
pub(crate) mod climbing;
pub(crate) mod closing;
pub mod fees;
pub(crate) mod keepers;
pub(crate) mod keeping;
pub mod leaving;
pub mod moving;
pub(crate) mod offences;
pub(crate) mod reclaim;
pub mod sale;
pub(crate) mod towers;
pub mod watching;
mod work;

/// A change of what is known of peers that keep copies.
pub(crate) fn keepers(change: VolatileKeepers) -> Volatile {
    Volatile::Keeping(VolatileKeeping::Keepers(change))
}

/// A change of memory alone, made when the step is applied; what is durable is an
/// [`Event`](crate::record::event::Event).
pub(crate) enum Volatile {
    /// And whether we have a channel with it.
    PeerUp(NodeId, bool),
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
    Reclaim(VolatileReclaim),
    Balances(Vec<ChannelBalance>),
    Leaving(VolatileLeaving),
    Close(VolatileClose),
    Move(VolatileMove),
    Climbing(VolatileClimbing),
    Keeping(VolatileKeeping),
    Towers(VolatileTowers),
    Watching(VolatileWatching),
    /// L: height at which a client's ordinary channel came to nothing by nobody's fault.
    NotOpened(InstanceId, ClientIndex, Height),
    /// It has wasted our work, at this time.
    Offence(NodeId, Millis),
    /// It has done what it was asked for.
    Forgive(NodeId),
}
