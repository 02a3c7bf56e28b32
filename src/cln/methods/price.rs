//! `factory-price`.

use factory_engine::PriceList;
use serde_json::{Value, json};

use super::super::error::RpcError;
use super::super::params::Params;
use super::super::state::State;
use super::Command;

/// Name, usage and description of `factory-price`.
pub const COMMAND: Command = Command {
    name: "factory-price",
    usage: "[base_msat] [ppm]",
    description: "Set what this node asks for liquidity out of its factories' stock: base_msat for each \
                  sale, and ppm millionths of the channel's capacity for a whole lifetime of the factory, \
                  less as it passes. Without parameters, show it",
};

/// Sets the price list, if a parameter is given; answers with it.
pub async fn call(state: State, params: Value) -> Result<Value, RpcError> {
    let mut params = Params::new(&["base_msat", "ppm"], &params)?;
    let base_msat: Option<u64> = params.optional("base_msat")?;
    let ppm: Option<u32> = params.optional("ppm")?;
    let mut list = state.runtime.read(|engine, _| engine.prices()).await?;
    if base_msat.is_some() || ppm.is_some() {
        let (base_msat, ppm) = (base_msat.unwrap_or(list.base_msat), ppm.unwrap_or(list.ppm));
        list = PriceList::new(base_msat, ppm).map_err(|error| RpcError::parameter(error.to_string()))?;
        state.runtime.set_prices(list).await?;
    }
    Ok(json!({"base_msat": list.base_msat, "ppm": list.ppm}))
}
