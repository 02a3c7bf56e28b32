//! What `factory-plan` and `factory-create` have in common: parameters, defaults, and the layout
//! that they lead to.

use factory_engine::terms::{Kind, Shape, Terms};
use factory_engine::tx::layout::{Layout, Output};
use factory_engine::tx::plan::frontier::{Point, frontier, notable};
use factory_engine::tx::plan::{Delays, Profile, shape_with};
use factory_engine::types::{Amount, Height, InstanceId, NodeId};
use factory_engine::{Bounds, Config, Create, Engine, Online};
use serde_json::{Value, json};

use super::super::client::{Call, field};
use super::super::error::RpcError;
use super::super::params::{Parameter, Params};
use super::super::state::State;
use super::factory_json;

/// Default `lifetime_blocks`: two months.
const LIFETIME_BLOCKS: u32 = 8_640;
/// Default `dying_blocks`: a week.
const DYING_BLOCKS: u32 = 1_008;
/// The least default of `feerate`: twice what relays at all; whoever needs more speed adds it through the
/// anchors.
const FEERATE: u32 = 500;

impl Parameter for Profile {
    const EXPECTED: &'static str = "'static', 'stateful' or 'flat'";

    fn parse(value: &Value) -> Option<Self> {
        value.as_str()?.parse().ok()
    }
}

/// Everything that a plan needs but the clients.
pub struct Wishes {
    /// Stock of each sub-factory; zero for none.
    pub stock: Amount,
    /// What the shape is to be good at.
    pub profile: Profile,
    /// Blocks from now to the timeout.
    pub lifetime_blocks: u32,
    /// Length of the dying period, blocks.
    pub dying_blocks: u32,
    /// Feerate of the tree's transactions, sat/kw.
    pub feerate: u32,
    /// Given to each client when its channel opens, msat; nothing for what their renewals need.
    pub push_msat: Option<u64>,
    /// Whether clients that are online at the same times share a sub-factory, as far as that is known.
    pub group: bool,
}

impl Wishes {
    /// Takes them from a command's parameters.
    pub async fn parse(state: &State, params: &mut Params) -> Result<Self, RpcError> {
        Ok(Self {
            stock: params.optional("stock_sat")?.unwrap_or(Amount::ZERO),
            profile: params.optional("profile")?.unwrap_or_default(),
            lifetime_blocks: params.optional("lifetime_blocks")?.unwrap_or(LIFETIME_BLOCKS),
            group: params.optional("group")?.unwrap_or(true),
            push_msat: params.optional("push_msat")?,
            dying_blocks: params.optional("dying_blocks")?.unwrap_or(DYING_BLOCKS),
            feerate: match params.optional::<Value>("feerate")? {
                None => default_feerate(state).await?,
                Some(feerate) => parse_feerate(state, &feerate).await?,
            },
        })
    }
}

/// What a client with the default bounds takes (S32), and a quarter more: it sees fees with its own node.
async fn default_feerate(state: &State) -> Result<u32, RpcError> {
    let least = |engine: &Engine, _| Bounds::default().least_feerate(engine.known_fees()).0;
    let least = state.runtime.read(least).await?;
    Ok(least.saturating_add(least / 4).max(FEERATE))
}

/// What depends on what this node has with the clients already.
pub struct Now {
    /// Height of the last block.
    pub height: Height,
    /// Settings, in which `push_msat` is what these clients' renewals need.
    pub config: Config,
    /// What the clients are asked for their renewals, together, msat.
    pub renewals_msat: u64,
}

/// What a factory with these clients would follow from, were it begun now.
pub async fn now(state: &State, clients: &[(NodeId, Amount)], wishes: &Wishes) -> Result<Now, RpcError> {
    let clients = clients.to_vec();
    let lifetime = wishes.lifetime_blocks;
    let look = move |engine: &Engine, height: Height| {
        let timeout = height.saturating_add(lifetime);
        let push_msat = engine.push_for(clients.iter().map(|(node, _)| *node), timeout, height);
        (height, push_msat, engine.renewal_prices(&clients, timeout, height))
    };
    let (height, push_msat, prices_msat) = state.runtime.read(look).await?;
    let renewals_msat = prices_msat.into_iter().fold(0, u64::saturating_add);
    Ok(Now { height, config: Config { push_msat, ..Config::clone(&state.config) }, renewals_msat })
}

/// lightningd knows all its ways to write a feerate.
pub async fn parse_feerate(state: &State, feerate: &Value) -> Result<u32, RpcError> {
    let text = feerate.as_str().map_or_else(|| feerate.to_string(), str::to_owned);
    let parsed = state.rpc.call("parsefeerate", json!({"feerate": text})).await;
    let parsed = parsed.map_err(|error| RpcError::parameter(format!("feerate: {}", error.message)))?;
    Ok(field("parsefeerate", &parsed, "perkw")?)
}

/// A plan that holds together.
pub struct Plan {
    /// Parameters of the engine's `factory-create`.
    pub create: Create,
    /// Every transaction that the terms lead to.
    pub layout: Layout,
    profile: Profile,
    /// How likely a purchase finds everybody online that has to sign, percent, where that is known.
    online_percent: Option<u32>,
    /// What the clients are asked for their renewals, together, msat.
    renewals_msat: u64,
}

/// Chooses a shape and works out its consequences. The error says what to change.
pub fn plan(
    me: NodeId,
    now: &Now,
    mut clients: Vec<(NodeId, Amount)>,
    online: &Online,
    wishes: &Wishes,
) -> Result<Plan, RpcError> {
    let Now { height, config, renewals_msat } = now;
    let count = u32::try_from(clients.len()).unwrap_or(u32::MAX);
    let delays = Delays {
        state_step: config.state_step,
        state_count: config.state_count,
        confirm_blocks: config.confirm_blocks,
        margin_blocks: config.margin_blocks,
    };
    let shape =
        shape_with(count, wishes.profile, delays).map_err(|error| RpcError::parameter(error.to_string()))?;
    let nodes: Vec<NodeId> = clients.iter().map(|(node, _)| *node).collect();
    let size = usize::from(shape.leaf.clients_per_sub);
    if let Some(order) = online.group(&nodes, size).filter(|_| wishes.group) {
        clients = order.into_iter().filter_map(|place| clients.get(place).copied()).collect();
    }
    let terms = Terms {
        // The engine draws the real one.
        instance: InstanceId([0; 32]),
        lsp: me,
        shape: shape.clone(),
        capacities: clients.iter().map(|(_, capacity)| *capacity).collect(),
        stock: wishes.stock,
        push_msat: wishes.push_msat.unwrap_or(config.push_msat),
        state_step: config.state_step,
        state_count: config.state_count,
        stock_csv: config.stock_csv,
        tree_feerate: wishes.feerate,
        timeout_height: height.saturating_add(wishes.lifetime_blocks),
        dying_blocks: wishes.dying_blocks,
        confirm_blocks: config.confirm_blocks,
        margin_blocks: config.margin_blocks,
        funding_confirmations: config.funding_confirmations,
    };
    let layout = Layout::new(&terms).map_err(|error| RpcError::parameter(error.to_string()))?;
    let online_percent = online_percent(&layout, &clients, online);
    let create = Create {
        clients,
        stock: wishes.stock,
        shape,
        lifetime_blocks: wishes.lifetime_blocks,
        dying_blocks: wishes.dying_blocks,
        tree_feerate: wishes.feerate,
        push_msat: wishes.push_msat,
    };
    Ok(Plan { create, layout, profile: wishes.profile, online_percent, renewals_msat: *renewals_msat })
}

/// The mean over all sub-factories; nothing unless every client was seen some time.
fn online_percent(layout: &Layout, clients: &[(NodeId, Amount)], online: &Online) -> Option<u32> {
    let sub_factories = layout.coins().iter().filter(|coin| coin.stock);
    let chances: Vec<f64> = sub_factories
        .map(|coin| {
            let member = |client| Some(clients.get(usize::try_from(client).ok()?)?.0);
            online.chance(&coin.clients.clone().map(member).collect::<Option<Vec<_>>>()?)
        })
        .collect::<Option<_>>()?;
    let count = u32::try_from(chances.len()).ok().filter(|count| *count > 0)?;
    // From 0 to 100: nothing is lost.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let percent = (chances.iter().sum::<f64>() * 100.0 / f64::from(count)).round() as u32;
    Some(percent)
}

impl Plan {
    /// For `factory-plan`, and `factory-create` with `dry_run`.
    pub fn json(&self) -> Value {
        let nodes = self.layout.nodes();
        let clients = self.layout.terms().clients();
        let exits = (0..clients).map(|client| self.layout.exit_cost(client));
        let worst = exits.max_by_key(|cost| (cost.blocks, cost.vbytes));
        let capacity = self.create.clients.iter().map(|(_, capacity)| capacity.to_sat());
        let outputs = nodes.iter().flat_map(|node| node.outputs.iter().zip(&node.output_values));
        let anchors = outputs.filter(|(output, _)| **output == Output::Anchor);
        let stocks = self.layout.coins().iter().filter(|coin| coin.stock);
        let mut object = json!({
            "profile": self.profile.name(),
            "clients": clients,
            "shape": shape_json(&self.create.shape),
            "transactions": nodes.len(),
            "vbytes": nodes.iter().map(|node| node.vbytes).fold(0, u64::saturating_add),
            "blocks_early": self.layout.worst_blocks_early(),
            "exit": worst.map(|cost| factory_json::exit_cost(&cost)),
            "funding_sat": self.layout.funding_value().to_sat(),
            "capacity_sat": capacity.fold(0, u64::saturating_add),
            "stock_sat": stocks.map(|coin| coin.value.to_sat()).fold(0, u64::saturating_add),
            "anchors_sat": anchors.map(|(_, value)| value.to_sat()).fold(0, u64::saturating_add),
            "fee_sat": nodes.iter().map(|node| node.fee.to_sat()).fold(0, u64::saturating_add),
            "feerate_perkw": self.create.tree_feerate,
            "push_msat": self.layout.terms().push_msat,
            "renewal_price_msat": self.renewals_msat,
            "lifetime_blocks": self.create.lifetime_blocks,
            "dying_blocks": self.create.dying_blocks,
        });
        if let Some(percent) = self.online_percent {
            object["sale_online_percent"] = percent.into();
        }
        object
    }

    /// The shapes that no other beats, for `factory-plan`.
    pub fn alternatives(&self) -> Vec<Value> {
        let points = frontier(self.layout.terms(), self.profile);
        notable(&points).iter().map(alternative).collect()
    }
}

fn alternative(point: &Point) -> Value {
    let mut object = json!({
        "default": point.default,
        "shape": shape_json(&point.shape),
        "exit": {
            "transactions": point.exit_transactions,
            "vbytes": point.exit_vbytes,
            "blocks": point.exit_blocks,
        },
        "partial_signatures": point.partial_signatures,
    });
    if point.sale_members > 0 {
        object["sale_members"] = point.sale_members.into();
    }
    object
}

/// A tree's shape, as `factory-plan` has it.
pub fn shape_json(shape: &Shape) -> Value {
    json!({
        "levels": shape.levels.iter()
            .map(|level| json!({"arity": level.arity, "kind": kind(level.kind)}))
            .collect::<Vec<_>>(),
        "leaf": {
            "kind": kind(shape.leaf.kind),
            "sub_factories": shape.leaf.sub_factories,
            "clients_per_sub": shape.leaf.clients_per_sub,
        },
    })
}

fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Static => "static",
        Kind::Stateful => "stateful",
    }
}

/// One entry of `clients`: an id, or an object with a capacity of its own.
pub fn client(value: &Value, capacity: Option<Amount>) -> Result<(NodeId, Amount), RpcError> {
    let (id, own) = match value {
        Value::Object(object) => {
            if let Some(name) = object.keys().find(|name| !["id", "capacity_sat"].contains(&name.as_str())) {
                return Err(RpcError::parameter(format!(
                    "clients: unknown field {name}: each has id and capacity_sat"
                )));
            }
            let own = object.get("capacity_sat").map(|own| {
                Amount::parse(own)
                    .ok_or_else(|| RpcError::parameter(format!("clients: {own} is not {}", Amount::EXPECTED)))
            });
            (object.get("id").unwrap_or(&Value::Null), own.transpose()?)
        }
        other => (other, None),
    };
    let node = NodeId::parse(id)
        .ok_or_else(|| RpcError::parameter(format!("clients: {id} is not {}", NodeId::EXPECTED)))?;
    let capacity = own.or(capacity).ok_or_else(|| {
        RpcError::parameter(format!(
            "capacity_sat is missing, and {node} has none of its own: give one for all, or each its own"
        ))
    })?;
    Ok((node, capacity))
}

/// A list that came as JSON, or as text with JSON in it (`lightning-cli` with a quoted list).
pub fn list(value: Value) -> Result<Vec<Value>, RpcError> {
    let value = match &value {
        Value::String(text) => serde_json::from_str(text).unwrap_or(value),
        _ => value,
    };
    match value {
        Value::Array(list) => Ok(list),
        // One client needs no list.
        other @ (Value::String(_) | Value::Object(_) | Value::Number(_)) => Ok(vec![other]),
        other => Err(RpcError::parameter(format!("clients: {other} is not a list of node ids"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use factory_engine::{Fit, KnownFees};

    // S32
    #[test]
    fn an_operators_defaults_pass_a_clients() {
        let (config, height) = (Config::default(), 800_000);
        let now = Now { height, config: config.clone(), renewals_msat: 0 };
        for (profile, stock) in
            [(Profile::Static, 0), (Profile::Static, 500_000), (Profile::Stateful, 500_000)]
        {
            let wishes = Wishes {
                stock: Amount::from_sat(stock),
                profile,
                lifetime_blocks: LIFETIME_BLOCKS,
                dying_blocks: DYING_BLOCKS,
                feerate: FEERATE,
                push_msat: None,
                group: false,
            };
            let clients = (3..11).map(|client| (NodeId([client; 33]), Amount::from_sat(500_000))).collect();
            let plan = plan(NodeId([2; 33]), &now, clients, &Online::default(), &wishes).unwrap();
            for fees in [(0, 0), (253, 4_000)] {
                let fees = KnownFees { mempool_minimum: fees.0, estimate: fees.1 };
                for bound in config.bounds.of(plan.layout.terms(), 0, height, fees) {
                    assert_eq!(bound.fit(), Fit::Within, "{bound}");
                }
            }
        }
    }
}
