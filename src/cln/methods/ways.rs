//! The two ways out of a factory, side by side: with its operator's help, and alone.

use factory_engine::ramp::OPENING_VBYTES;
use factory_engine::types::Height;
use factory_engine::{Config, Factory, LeavePlan};
use serde_json::{Value, json};

use super::exit_cost::exit;

/// What each way costs, how long it takes, and who has to be awake for it. Without a plan, why leaving isn't possible
/// now.
pub fn both(factory: &Factory, plan: Result<&LeavePlan, String>, height: Height, config: &Config) -> Value {
    let mut alone = exit(factory);
    alone["awake"] = "this node".into();
    json!({"leave": leave(plan, height, config), "exit": alone})
}

fn leave(plan: Result<&LeavePlan, String>, height: Height, config: &Config) -> Value {
    let plan = match plan {
        Ok(plan) => plan,
        Err(reason) => return json!({"possible": false, "reason": reason}),
    };
    let opens = plan.amount.is_some();
    let blocks = match (opens, plan.deep) {
        (true, _) => config.handover_depth.into(),
        (false, Some(deep)) => deep.saturating_sub(height),
        (false, None) => 0,
    };
    let mut object = json!({
        "possible": true,
        // What the key saves: nothing of the factory comes on chain for this client.
        "transactions": u32::from(opens),
        "vbytes": if opens { OPENING_VBYTES } else { 0 },
        "blocks": blocks,
        "moves_msat": plan.move_msat,
        "stays_msat": plan.stays_msat,
        "awake": "this node and the operator's",
    });
    match plan.priced.as_ref().and_then(|priced| priced.answer.as_ref()) {
        _ if !opens => object["price_msat"] = 0.into(),
        Some(Ok(price_msat)) => object["price_msat"] = (*price_msat).into(),
        Some(Err(reason)) => {
            object["possible"] = false.into();
            object["reason"] = reason.clone().into();
        }
        None => {}
    }
    if let Some(to) = plan.to {
        object["channel_id"] = to.to_string().into();
    }
    object
}
