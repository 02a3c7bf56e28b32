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
    usage: "[base_msat] [ppm] [renewal_base_msat] [renewal_ppm]",
    description: "Set what this node asks for liquidity out of its factories' stock: base_msat for each \
                  sale, and ppm millionths of the channel's capacity for a whole lifetime of the factory, \
                  less as it passes; and what it asks for a renewal: renewal_base_msat, and renewal_ppm \
                  millionths of the new channel's capacity. Without parameters, show it",
};

/// Sets the price list, if a parameter is given; answers with it.
pub async fn call(state: State, params: Value) -> Result<Value, RpcError> {
    let mut params = Params::new(&["base_msat", "ppm", "renewal_base_msat", "renewal_ppm"], &params)?;
    let base_msat: Option<u64> = params.optional("base_msat")?;
    let ppm: Option<u32> = params.optional("ppm")?;
    let renewal_base_msat: Option<u64> = params.optional("renewal_base_msat")?;
    let renewal_ppm: Option<u32> = params.optional("renewal_ppm")?;
    let shown = state.runtime.read(|engine, _| engine.prices()).await?;
    let list = PriceList {
        base_msat: base_msat.unwrap_or(shown.base_msat),
        ppm: ppm.unwrap_or(shown.ppm),
        renewal_base_msat: renewal_base_msat.or(shown.renewal_base_msat),
        renewal_ppm: renewal_ppm.or(shown.renewal_ppm),
    };
    let given = [base_msat, ppm.map(u64::from), renewal_base_msat, renewal_ppm.map(u64::from)];
    if given.iter().any(Option::is_some) {
        list.check().map_err(|error| RpcError::parameter(error.to_string()))?;
        state.runtime.set_prices(list).await?;
    }
    Ok(json!({
        "base_msat": list.base_msat,
        "ppm": list.ppm,
        "renewal_base_msat": list.renewal_base_msat(),
        "renewal_ppm": list.renewal_ppm(),
    }))
}
