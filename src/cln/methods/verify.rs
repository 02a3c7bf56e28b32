//! `factory-verify`.

use factory_engine::chain::sales::wanted_sales;
use factory_engine::tx::verify::{verify_holdings, verify_sales};
use factory_engine::types::{ChannelId, InstanceId};
use factory_engine::{Factory, Role};
use serde_json::{Value, json};

use super::super::client::{Call, field};
use super::super::error::{RpcError, WRONG_STATE};
use super::super::params::Params;
use super::super::state::State;
use super::{Command, exit_cost, factory};

/// Name, usage and description of `factory-verify`.
pub const COMMAND: Command = Command {
    name: "factory-verify",
    usage: "factory_instance",
    description: "Check everything that this node holds of a factory as if everybody else had vanished \
                  now, by consensus code, and say what an exit costs and brings",
};

/// Checks all that this node holds of a factory; answers with the problems, and an exit's cost.
pub async fn call(state: State, params: Value) -> Result<Value, RpcError> {
    let instance: InstanceId = Params::new(&["factory_instance"], &params)?.required("factory_instance")?;
    let (factory, height) = factory(&state, instance).await?;
    let ours = our_balance(&state, &factory).await?;
    let mut exit = exit_cost::exit(&factory);
    exit["brings_msat"] = ours.into();
    let (checked, problems) = check(factory.clone()).await?;
    Ok(json!({
        "factory_instance": instance.to_string(),
        "state": factory.state(height).name(),
        "valid": problems.is_empty(),
        "checked": checked,
        "problems": problems,
        "exit": exit,
    }))
}

/// A signature check takes a fraction of a millisecond, but an operator's factory has thousands: they
/// run where they hold nobody up.
async fn check(factory: Factory) -> Result<(Value, Vec<String>), RpcError> {
    let Some(tree) = factory.current.tree.clone() else {
        let text = format!("factory {} has no transactions yet: nothing to verify", factory.instance);
        return Err(RpcError::new(WRONG_STATE, text, "see next_action of factory-list"));
    };
    let bought = factory.own_channels().filter(|channel| channel.sale.is_some()).count();
    let bought = u32::try_from(bought).unwrap_or(u32::MAX);
    let verify = move || {
        let layout = &factory.current.layout;
        // L's last may not be signed yet, or never (S36); what a client has bought rests on all before it.
        let is_client = factory.current.role != Role::Lsp;
        let sold = wanted_sales(&factory).filter(|sold| is_client || sold.is_signed());
        let holdings = verify_holdings(layout, &tree, &factory.current.signatures);
        let sales = verify_sales(layout, &tree, sold.map(|sold| (&*sold.sale, &*sold.signatures)));
        match (holdings, sales) {
            (Ok(report), Ok(sales)) => Ok((report, sales)),
            (holdings, sales) => {
                Err(holdings.err().into_iter().chain(sales.err()).flatten().collect::<Vec<_>>())
            }
        }
    };
    let result = tokio::task::spawn_blocking(verify).await.map_err(|_| RpcError::internal(COMMAND.name))?;
    Ok(match result {
        Ok((report, sales)) => {
            let checked = json!({
                "transactions": report.nodes,
                "distributions": report.distributions,
                "sales": sales,
                "channels": bought.saturating_add(report.channels),
            });
            (checked, vec![])
        }
        Err(problems) => {
            let none = json!({"transactions": 0, "distributions": 0, "sales": 0, "channels": 0});
            (none, problems.iter().map(ToString::to_string).collect())
        }
    })
}

/// What this node owns in the factory's channels, msat.
async fn our_balance(state: &State, factory: &Factory) -> Result<u64, RpcError> {
    let answer = state.rpc.call("listpeerchannels", json!({})).await?;
    let channels: Vec<Value> = field("listpeerchannels", &answer, "channels")?;
    let ours: Vec<ChannelId> = factory.own_channels().map(|channel| channel.channel_id).collect();
    let in_factory = channels.iter().filter(|channel| {
        let id = channel["channel_id"].as_str().and_then(|text| text.parse().ok());
        id.is_some_and(|id| ours.contains(&id))
    });
    Ok(in_factory.filter_map(|channel| channel["to_us_msat"].as_u64()).fold(0, u64::saturating_add))
}
