//! What an entry says: in words, in numbers, in money.

use crate::record::factory::Factory;
use crate::report::history::kind::Kind;
use crate::report::history::sums::Sums;
use crate::terms::ClientIndex;
use crate::types::{Amount, ChannelId, Height, InstanceId, NodeId, PaymentHash, Txid};

/// A client that an entry is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// Its index, in leaf order.
    pub client: ClientIndex,
    /// Its node; a client doesn't know its neighbours'.
    pub node: Option<NodeId>,
}

/// What is known of an entry, as far as it has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// Clients that it is about.
    pub clients: Vec<Member>,
    /// Nodes that were left out of the attempt that begins.
    pub left_out: Vec<NodeId>,
    /// The attempt's number.
    pub attempt: Option<u32>,
    /// The sale's place in its chain, from 1.
    pub sale: Option<u32>,
    /// What it is worth, msat.
    pub amount_msat: Option<u64>,
    /// What is asked or paid for it, msat.
    pub price_msat: Option<u64>,
    /// The fee of its transaction, msat.
    pub fee_msat: Option<u64>,
    /// Its transaction.
    pub txid: Option<Txid>,
    /// Its channel; of a move the one that it leaves.
    pub channel_id: Option<ChannelId>,
    /// Of a move the channel that it goes to.
    pub to_channel_id: Option<ChannelId>,
    /// Its payment.
    pub payment_hash: Option<PaymentHash>,
    /// Another factory that it has to do with.
    pub other: Option<InstanceId>,
    /// Height from which on the factory's channels can be used.
    pub active_from: Option<Height>,
    /// Why, for people.
    pub reason: Option<String>,
}

/// One event, told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// What it is about.
    pub kind: Kind,
    /// The height that its record has.
    pub height: Option<Height>,
    /// A sentence for people.
    pub what: String,
    /// What is known of it.
    pub facts: Facts,
    /// What it has to do with money.
    pub money: Sums,
}

/// Millisatoshi.
pub(super) fn msat(amount: Amount) -> u64 {
    amount.to_sat().saturating_mul(1_000)
}

impl Told {
    pub(super) fn new(kind: Kind, what: impl Into<String>) -> Self {
        Self { kind, height: None, what: what.into(), facts: Facts::default(), money: Sums::default() }
    }

    pub(super) fn at(mut self, height: impl Into<Option<Height>>) -> Self {
        self.height = height.into();
        self
    }

    /// Nodes of all clients, in leaf order.
    pub(super) fn nodes(mut self, nodes: &[NodeId]) -> Self {
        let member = |(client, node): (ClientIndex, &NodeId)| Member { client, node: Some(*node) };
        self.facts.clients = (0..).zip(nodes).map(member).collect();
        self
    }

    pub(super) fn clients(
        mut self,
        factory: Option<&Factory>,
        clients: impl IntoIterator<Item = ClientIndex>,
    ) -> Self {
        let node = |client| factory.and_then(|factory| factory.node_of(client));
        self.facts.clients =
            clients.into_iter().map(|client| Member { client, node: node(client) }).collect();
        self
    }

    pub(super) fn left_out(mut self, nodes: &[NodeId]) -> Self {
        self.facts.left_out = nodes.to_vec();
        self
    }

    pub(super) fn attempt(mut self, number: u32) -> Self {
        self.facts.attempt = Some(number);
        self
    }

    pub(super) fn sale(mut self, number: u32) -> Self {
        self.facts.sale = Some(number);
        self
    }

    pub(super) fn amount(mut self, amount: impl Into<Option<Amount>>) -> Self {
        self.facts.amount_msat = amount.into().map(msat);
        self
    }

    pub(super) fn amount_msat(mut self, msat: impl Into<Option<u64>>) -> Self {
        self.facts.amount_msat = msat.into();
        self
    }

    pub(super) fn price(mut self, msat: impl Into<Option<u64>>) -> Self {
        self.facts.price_msat = msat.into();
        self
    }

    pub(super) fn fee(mut self, fee: Option<Amount>) -> Self {
        self.facts.fee_msat = fee.map(msat);
        self
    }

    pub(super) fn txid(mut self, txid: impl Into<Option<Txid>>) -> Self {
        self.facts.txid = txid.into();
        self
    }

    pub(super) fn channel(mut self, channel: impl Into<Option<ChannelId>>) -> Self {
        self.facts.channel_id = channel.into();
        self
    }

    pub(super) fn to(mut self, channel: impl Into<Option<ChannelId>>) -> Self {
        self.facts.to_channel_id = channel.into();
        self
    }

    pub(super) fn payment(mut self, hash: PaymentHash) -> Self {
        self.facts.payment_hash = Some(hash);
        self
    }

    pub(super) fn other(mut self, instance: InstanceId) -> Self {
        self.facts.other = Some(instance);
        self
    }

    pub(super) fn reason(mut self, reason: impl Into<Option<String>>) -> Self {
        self.facts.reason = reason.into();
        self
    }

    pub(super) fn money(mut self, money: Sums) -> Self {
        self.money = money;
        self
    }
}
