//! `factory-show`.

use factory_engine::report::drawing;
use factory_engine::terms::ClientIndex;
use factory_engine::tx::layout::{Node, NodeIndex, Output, SessionId, SpendRole};
use factory_engine::types::{Height, InstanceId, Transaction};
use factory_engine::{Factory, Line, Purpose, Sighting, Statement, sightings, statement};
use serde_json::{Value, json};

use super::super::error::RpcError;
use super::super::params::{Parameter, Params};
use super::super::state::State;
use super::{Command, factory, factory_json, fresh_channels};

/// Name, usage and description of `factory-show`.
pub const COMMAND: Command = Command {
    name: "factory-show",
    usage: "factory_instance [format]",
    description: "Show a factory's tree: every transaction with its id, size, timelock and members, \
                  what is stored and what is on chain; format is json, text or svg",
};

#[derive(Clone, Copy)]
enum Format {
    Json,
    Text,
    Svg,
}

impl Parameter for Format {
    const EXPECTED: &'static str = "'json', 'text' or 'svg'";

    fn parse(value: &Value) -> Option<Self> {
        match value.as_str()? {
            "json" => Some(Self::Json),
            "text" => Some(Self::Text),
            "svg" => Some(Self::Svg),
            _ => None,
        }
    }
}

/// Shows a factory's tree, as JSON, text or SVG.
pub async fn call(state: State, params: Value) -> Result<Value, RpcError> {
    let mut params = Params::new(&["factory_instance", "format"], &params)?;
    let instance: InstanceId = params.required("factory_instance")?;
    let format = params.optional("format")?.unwrap_or(Format::Json);
    fresh_channels(&state).await;
    let (factory, height) = factory(&state, instance).await?;
    Ok(match format {
        // lightning-cli prints an object that asks for it as plain text.
        Format::Text => json!({"text": drawing::text(&factory), "format-hint": "simple"}),
        Format::Svg => json!({"svg": drawing::svg(&factory), "format-hint": "simple"}),
        Format::Json => tree(&factory, &state, height),
    })
}

/// The tree as JSON; channels as they were looked at last.
pub fn tree(factory: &Factory, state: &State, height: Height) -> Value {
    let mut answer = factory_json::factory(factory, &state.as_ref().into(), height);
    let nodes =
        (0u32..).zip(factory.current.layout.nodes()).map(|(index, node)| transaction(factory, index, node));
    answer["transactions"] = nodes.collect();
    answer["distributions"] = distributions(factory);
    answer["on_chain"] = sightings(factory).iter().map(|seen| on_chain(factory, seen)).collect();
    if let Some(statement) = statement(factory) {
        answer["statement"] = account(&statement);
    }
    answer
}

fn transaction(factory: &Factory, index: NodeIndex, node: &Node) -> Value {
    let session = SessionId { coin: index, role: SpendRole::State };
    let mut object = json!({
        "index": index,
        "kind": drawing::kind(node.kind),
        "vbytes": node.vbytes,
        "fee_sat": node.fee.to_sat(),
        "input_sat": node.input_value.to_sat(),
        "depth": node.depth,
        "members": members(factory, node.clients.clone()),
        "outputs": node.outputs.iter().zip(&node.output_values)
            .map(|(output, value)| self::output(*output, value.to_sat()))
            .collect::<Vec<_>>(),
    });
    if let Some((parent, vout)) = node.parent {
        object["parent"] = json!({"index": parent, "outnum": vout});
    }
    let tx = factory.current.tree.as_ref().and_then(|tree| tree.node_tx(index));
    add_status(factory, &mut object, session, tx);
    object
}

fn output(output: Output, sat: u64) -> Value {
    match output {
        Output::Child(node) => json!({"type": "transaction", "index": node, "amount_sat": sat}),
        Output::Channel(client) => json!({"type": "channel", "client": client, "amount_sat": sat}),
        Output::Stock(coin) => json!({"type": "stock", "coin": coin, "amount_sat": sat}),
        Output::Anchor => json!({"type": "anchor", "amount_sat": sat}),
    }
}

/// A transaction that was seen: what it is, and who can have published it.
fn on_chain(factory: &Factory, seen: &Sighting) -> Value {
    let members = match &seen.holders {
        Some(clients) => members(factory, clients.clone()),
        None => members(factory, 0..0),
    };
    json!({
        "txid": seen.txid.to_string(),
        "height": seen.height,
        "name": seen.name,
        "ours": seen.ours,
        "members": members,
    })
}

/// Where the funding went: its lines make its amount.
fn account(statement: &Statement) -> Value {
    let line = |line: &Line| {
        let mut object = json!({
            "type": line.purpose.name(),
            "txid": line.txid.to_string(),
            "amount_sat": line.amount.to_sat(),
        });
        if let Some(vout) = line.vout {
            object["outnum"] = vout.into();
        }
        match line.purpose {
            Purpose::Channel(client) | Purpose::Payout(client) => object["client"] = client.into(),
            Purpose::Stock(coin) | Purpose::Unspent(coin) => object["coin"] = coin.into(),
            Purpose::Others(coin) | Purpose::Elsewhere(coin) => object["coin"] = coin.into(),
            Purpose::Closed(Some(client)) => object["client"] = client.into(),
            Purpose::Closed(None) | Purpose::Anchor | Purpose::Reclaimed | Purpose::Fee(_) => {}
        }
        object
    };
    let mut object = json!({
        "funding_sat": statement.funding.to_sat(),
        "sum_sat": statement.sum().map(|sum| sum.to_sat()).unwrap_or(u64::MAX),
        "final": statement.is_final(),
        "lines": statement.lines.iter().map(line).collect::<Vec<_>>(),
    });
    if let Some(problem) = &statement.problem {
        object["broken"] = problem.to_string().into();
    }
    object
}

/// L's members by node id; a client knows the others by their places only.
fn members(factory: &Factory, clients: std::ops::Range<ClientIndex>) -> Vec<Value> {
    let mut members = vec![json!({"id": factory.lsp().to_string()})];
    members.extend(clients.map(|client| match factory.node_of(client) {
        Some(node) => json!({"client": client, "id": node.to_string()}),
        None => json!({"client": client}),
    }));
    members
}

fn distributions(factory: &Factory) -> Value {
    let coins = (0u32..).zip(factory.current.layout.coins()).filter(|(_, coin)| coin.has_distribution);
    coins
        .map(|(index, coin)| {
            let session = SessionId { coin: index, role: SpendRole::Distribution };
            let mut object = json!({
                "coin": index,
                "vbytes": coin.distribution_vbytes,
                "amount_sat": coin.value.to_sat(),
                "stock": coin.stock,
            });
            let tx = factory
                .current
                .tree
                .as_ref()
                .and_then(|tree| tree.session(session))
                .map(|session| &session.tx);
            add_status(factory, &mut object, session, tx);
            object
        })
        .collect()
}

/// What is fixed, stored and confirmed of a transaction.
fn add_status(factory: &Factory, object: &mut Value, session: SessionId, tx: Option<&Transaction>) {
    object["signed"] = factory.current.signatures.contains_key(&session).into();
    let Some(tx) = tx else { return };
    let txid = tx.compute_txid();
    object["txid"] = txid.to_string().into();
    object["locktime"] = tx.lock_time.to_consensus_u32().into();
    if let Some(blocks) = tx.input.first().and_then(|input| input.sequence.to_relative_lock_time()) {
        object["relative_locktime"] = blocks.to_consensus_u32().into();
    }
    if let Some(height) = factory.confirmed.get(&txid) {
        object["confirmed_height"] = (*height).into();
    }
}
