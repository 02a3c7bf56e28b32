//! What this node's operator may tell it to do.

use crate::terms::{ClientIndex, Shape};
use crate::types::{Amount, ChannelId, InstanceId, NodeId, TermsHash};

/// The commands that change something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// `factory-create`: L begins a factory with these clients.
    Create(Create),
    /// `factory-accept`: this node joins a factory that it was invited to.
    Accept {
        /// The factory that it was invited to (factory_instance).
        instance: InstanceId,
        /// The hash of the terms that were read ([`Attempt::terms_hash`](crate::Attempt::terms_hash)).
        terms: TermsHash,
        /// The ordinary channel with the operator that moves into it (BOLT 2's `channel_id`), if one is to.
        from: Option<ChannelId>,
    },
    /// `factory-decline`: this node refuses an invitation.
    Decline {
        /// The factory that it was invited to (factory_instance).
        instance: InstanceId,
        /// Why, for people: the operator is told.
        reason: String,
    },
    /// `factory-exit`: this node publishes its path and closes its channel.
    Exit {
        /// The factory (factory_instance).
        instance: InstanceId,
    },
    /// `factory-evict`: L publishes clients' leaves; their channels go on (S21).
    Evict {
        /// The factory (factory_instance).
        instance: InstanceId,
        /// Whom; nobody named means everybody who is still in.
        clients: Vec<ClientIndex>,
    },
    /// `factory-buy`: this client buys a channel out of its sub-factory's stock.
    Buy {
        /// The factory (factory_instance).
        instance: InstanceId,
        /// Capacity of the channel to be bought.
        amount: Amount,
        /// The most that it may cost, msat.
        max_price_msat: u64,
    },
    /// `factory-move`: a balance goes from one of this client's channels with an operator to another.
    Move {
        /// The channel that it leaves (BOLT 2's `channel_id`).
        from: ChannelId,
        /// The channel that it goes to.
        to: ChannelId,
        /// How much, msat; nothing for all that can go.
        amount_msat: Option<u64>,
    },
    /// `factory-close`: L closes a factory together with everybody who is in it.
    Close {
        /// The factory (factory_instance).
        instance: InstanceId,
    },
    /// `factory-leave` with `dry_run`: ask the operator for its price of an ordinary channel.
    AskLeave {
        /// The factory (factory_instance).
        instance: InstanceId,
    },
    /// `factory-leave`: this client's balance goes to an ordinary channel, and its key to the operator.
    Leave {
        /// The factory (factory_instance).
        instance: InstanceId,
        /// The most that the operator may ask for opening a channel, msat.
        max_price_msat: u64,
    },
    /// `factory-buy` with `dry_run`: ask the operator for its price.
    AskPrice {
        /// The factory (factory_instance).
        instance: InstanceId,
        /// Capacity of the channel that a price is asked for.
        amount: Amount,
    },
}

/// Parameters of `factory-create`, after the plugin has filled in the defaults.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Create {
    /// Clients and their channel capacities, in the order of the leaves.
    pub clients: Vec<(NodeId, Amount)>,
    /// Stock of each sub-factory; zero for none.
    pub stock: Amount,
    /// The tree's shape, from the planner.
    pub shape: Shape,
    /// Blocks from now to the timeout.
    pub lifetime_blocks: u32,
    /// Length of the dying period before the timeout, blocks.
    pub dying_blocks: u32,
    /// Feerate of the tree's transactions, sat/kw.
    pub tree_feerate: u32,
    /// Given to each client when its channel opens, msat; nothing for what their renewals need
    /// ([`Engine::push_for`](crate::engine::Engine::push_for)).
    pub push_msat: Option<u64>,
}
