//! A factory as `factory-list` and `factory-create` show it.

use bitcoin::OutPoint;
use factory_engine::admission::hold::Held;
use factory_engine::record::event::SaleJitOpened;
use factory_engine::terms::ClientIndex;
use factory_engine::tx::layout::ExitCost;
use factory_engine::types::{ChannelId, Height, NodeId};
use factory_engine::wire::message::protocol_id;
use factory_engine::{Factory, Role, Sold, standing};
use factory_runtime::clock;
use serde_json::{Map, Value, json};

use crate::cln::words;

use super::super::channels::Channels;
use super::super::state::Shared;

/// What a factory's picture needs to know of the node.
#[derive(Debug, Clone)]
pub struct Node {
    /// Node id of this node.
    pub me: NodeId,
    /// Short channel ids of this node's channels.
    pub channels: Channels,
    /// HTLCs that it holds for clients that aren't connected.
    pub held: Vec<Held>,
}

impl From<&Shared> for Node {
    fn from(state: &Shared) -> Self {
        Self { me: state.me, channels: state.channels.clone(), held: state.holding.all() }
    }
}

/// The factory at `height`, as this node sees it.
pub fn factory(factory: &Factory, node: &Node, height: Height) -> Value {
    let terms = &factory.current.terms;
    let mut object = json!({
        "factory_protocol": protocol_id().to_string(),
        "factory_instance": factory.instance.to_string(),
        "role": role(factory),
        "lsp": factory.lsp().to_string(),
        "state": factory.state(height).name(),
        "attempt": factory.current.number,
        "blocks_early": factory.blocks_early(),
        "dying_block": terms.timeout_height.saturating_sub(terms.dying_blocks),
        "timeout_block": terms.timeout_height,
        "funding_confirmations": terms.funding_confirmations,
        "funding_sat": factory.current.layout.funding_value().to_sat(),
        "clients": clients(factory, node, height),
        "next_action": words::next_action(factory.next_action(height), height),
    });
    if let Some(outpoint) = factory.funding() {
        insert_outpoint(&mut object, outpoint);
    }
    if let Some(confirmed) = factory.funding_height() {
        object["funding_height"] = confirmed.into();
    }
    if let Some(standing) = standing(factory, height) {
        object["standing"] = standing.name().into();
    }
    if let Some(deadline) = factory.deadline(height) {
        object["deadline_block"] = deadline.into();
    }
    if let Some((since, reason)) = &factory.current.eviction {
        object["eviction"] =
            json!({"since_block": since, "reason": words::why_begun(reason, "factory-evict")});
    }
    if factory.current.role != Role::Lsp {
        object["price_msat"] = factory.current.price_msat.into();
    }
    let sales: Vec<Value> = factory.own_sales().map(|sold| one_sale(factory, sold, node, height)).collect();
    if !sales.is_empty() {
        object["sales"] = sales.into();
    }
    let jits: Vec<Value> = factory.current.sales.jits().opened().iter().map(one_jit).collect();
    if !jits.is_empty() {
        object["jit_channels"] = jits.into();
    }
    let held: Vec<Value> =
        node.held.iter().filter(|held| held.instance == factory.instance).map(one_held).collect();
    if !held.is_empty() {
        object["held_htlcs"] = held.into();
    }
    if let Some(why) = factory.damage() {
        object["damaged"] = why.into();
    }
    if let Some(reason) = factory.restored() {
        object["exit_only"] = reason.into();
    }
    if factory.has_lost_channels() {
        object["channels_lost"] = true.into();
    }
    if let Some((since, reason)) = &factory.current.exit {
        object["exit"] = json!({"since_block": since, "reason": words::why_begun(reason, "factory-exit")});
    }
    if let Some(failure) = factory.failure() {
        object["failure"] = failure.into();
    }
    if !factory.left_out.is_empty() {
        let left_out = |(node, reason): &(NodeId, String)| json!({"id": node.to_string(), "reason": reason});
        object["left_out"] = factory.left_out.iter().map(left_out).collect();
    }
    object
}

/// Role of this node in the factory: `lsp` or `client`.
pub fn role(factory: &Factory) -> &'static str {
    match factory.current.role {
        Role::Lsp => "lsp",
        Role::Client { .. } => "client",
    }
}

/// Clients whose channels are this node's: for L all, for a client itself.
pub fn own_clients(factory: &Factory) -> std::ops::Range<ClientIndex> {
    match factory.current.role {
        Role::Lsp => 0..factory.current.terms.clients(),
        Role::Client { index, .. } => index..index.saturating_add(1),
    }
}

fn clients(factory: &Factory, node: &Node, height: Height) -> Vec<Value> {
    own_clients(factory).map(|client| one_client(factory, client, node, height)).collect()
}

fn one_client(factory: &Factory, client: ClientIndex, node: &Node, height: Height) -> Value {
    let id = match factory.current.role {
        Role::Lsp => factory.node_of(client),
        Role::Client { .. } => Some(node.me),
    };
    let mut object = json!({
        "client": client,
        "state": client_state(factory, client, height),
        "capacity_sat": factory.capacity(client).to_sat(),
        "blocks_early": factory.current.layout.blocks_early(client),
    });
    if let Some(id) = id {
        object["id"] = id.to_string().into();
    }
    if let Some(channel) = factory.current.channels.get(&client) {
        object["channel_id"] = channel.to_string().into();
        insert_node(&mut object, node, *channel);
    }
    // A client sees its own beside the factory's terms.
    let price_msat = factory.current.price_of(client);
    if factory.current.role == Role::Lsp && price_msat > 0 {
        object["price_msat"] = price_msat.into();
    }
    if let Some(paid_msat) = factory.current.paid_by(client) {
        object["renewal_paid_msat"] = paid_msat.into();
    }
    let credit = factory.current.sales.account().credit(client);
    if credit > 0 {
        object["credit_msat"] = credit.into();
    }
    if let Some(outpoint) = factory.current.tree.as_ref().and_then(|tree| tree.channel_outpoint(client)) {
        insert_outpoint(&mut object, outpoint);
    }
    object
}

/// A channel that was bought out of stock.
fn one_sale(factory: &Factory, sold: &Sold, node: &Node, height: Height) -> Value {
    let sale = &sold.sale;
    let state = if factory.confirmed.contains_key(&sold.txid()) {
        "on_chain"
    } else if factory.sale_usable(sold, height).is_ok() {
        "usable"
    } else if factory.current.ended.contains_key(&sold.channel_id()) {
        "ended"
    } else if sold.is_signed() {
        "signed"
    } else {
        "signing"
    };
    let mut object = json!({
        "sale": sale.number,
        "client": sale.buyer,
        "state": state,
        "capacity_sat": sale.amount().to_sat(),
        "price_msat": sold.price_msat,
        "blocks_early": factory.sale_blocks_early(sale.buyer, sale.number),
        "channel_id": sold.channel_id().to_string(),
    });
    insert_node(&mut object, node, sold.channel_id());
    insert_outpoint(&mut object, sale.channel);
    object
}

/// An ordinary channel that came in place of a sale.
fn one_jit(jit: &SaleJitOpened) -> Value {
    let mut object = json!({
        "client": jit.buyer,
        "capacity_sat": jit.amount.to_sat(),
        "price_msat": jit.price_msat,
        "channel_id": jit.channel_id.to_string(),
    });
    if let Some(outpoint) = jit.outpoint {
        insert_outpoint(&mut object, outpoint);
    }
    object
}

/// An HTLC that waits for its client.
fn one_held(held: &Held) -> Value {
    json!({
        "id": held.client.to_string(),
        "channel_id": held.channel.to_string(),
        "amount_msat": held.amount_msat,
        "cltv_expiry": held.cltv_expiry,
        "seconds_left": held.until.saturating_sub(clock::now()) / 1000,
        "last_block": held.last_height,
    })
}

fn client_state(factory: &Factory, client: ClientIndex, height: Height) -> &'static str {
    if factory.current.resolved.contains(&client) {
        "resolved"
    } else if factory.leaf_height(client).is_some() {
        "on_chain"
    } else if factory.paid_out(client).is_some() {
        "distributed"
    } else if factory.reclaimed(client).is_some() {
        "reclaimed"
    } else if factory.has_handed_over(client) {
        "handed_over"
    } else if factory.is_closing(height) && !factory.current.exiting.contains(&client) {
        "closing"
    } else if factory.is_leaving(client) {
        "leaving"
    } else if factory.current.ended_of(client).is_some() {
        "ended"
    } else if factory.channel_usable(client, height).is_ok() {
        "usable"
    } else if factory.current.checked.contains(&client) {
        "checked"
    } else if factory.current.channels.contains_key(&client) {
        "committed"
    } else {
        "waiting"
    }
}

/// What lightningd says of a channel.
fn insert_node(object: &mut Value, node: &Node, channel: ChannelId) {
    if let Some(scid) = node.channels.scid(channel) {
        object["short_channel_id"] = scid.into();
    }
    if let Some(state) = node.channels.state(channel) {
        object["channel_state"] = state.name().into();
    }
}

fn insert_outpoint(object: &mut Value, outpoint: OutPoint) {
    object["funding_txid"] = outpoint.txid.to_string().into();
    object["funding_outnum"] = outpoint.vout.into();
}

/// An exit's cost for RPC: transactions, vbytes, blocks, fee_sat.
pub fn exit_cost(cost: &ExitCost) -> Map<String, Value> {
    let mut object = Map::new();
    object.insert("transactions".to_owned(), cost.transactions.into());
    object.insert("vbytes".to_owned(), cost.vbytes.into());
    object.insert("blocks".to_owned(), cost.blocks.into());
    object.insert("fee_sat".to_owned(), cost.fees.to_sat().into());
    object
}
