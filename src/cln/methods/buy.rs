//! `factory-buy`.

use std::time::Duration;

use serde_json::{Value, json};

use crate::protocol::{Command as EngineCommand, Engine, Input, Quote, Sold};
use crate::types::{Amount, InstanceId};

use super::super::error::{Fault, NOT_SOLD};
use super::super::params::Params;
use super::super::state::State;
use super::{Command, factory};

/// For the manifest.
pub const COMMAND: Command = Command {
    name: "factory-buy",
    usage: "factory_instance amount_sat [max_price_msat] [dry_run]",
    description: "Buy inbound liquidity: a second channel out of the stock of this node's sub-factory, with \
                  nothing on chain",
};

/// Between two looks at what has become of it.
const PAUSE: Duration = Duration::from_millis(100);

/// Runs the command.
pub async fn call(state: State, params: Value) -> Result<Value, Fault> {
    let names = ["factory_instance", "amount_sat", "max_price_msat", "dry_run"];
    let mut params = Params::new(&names, &params)?;
    let instance: InstanceId = params.required("factory_instance")?;
    let amount: Amount = params.required("amount_sat")?;
    let max_price_msat: u64 = params.optional("max_price_msat")?.unwrap_or(0);
    let dry_run = params.optional("dry_run")?.unwrap_or(false);
    let quote = state.runtime.read(move |engine, height| engine.quote(instance, amount, height)).await??;
    if dry_run {
        return Ok(answer(instance, amount, &quote, dry_run));
    }
    state.runtime.ask(Input::Command(EngineCommand::Buy { instance, amount, max_price_msat })).await?;
    loop {
        let outcome = state.runtime.read(move |engine, _| outcome(engine, instance, &quote)).await?;
        match outcome {
            Outcome::Waiting => tokio::time::sleep(PAUSE).await,
            Outcome::Refused(reason) => return Err(Fault::new(NOT_SOLD, reason)),
            Outcome::Bought => break,
        }
    }
    let (factory, _) = factory(&state, instance).await?;
    let mut object = answer(instance, amount, &quote, dry_run);
    if let Some(sold) = sold(factory.sales.of(quote.coin), &quote) {
        object["channel_id"] = sold.channel_id().to_string().into();
        object["funding_txid"] = sold.sale.channel.txid.to_string().into();
        object["funding_outnum"] = sold.sale.channel.vout.into();
        object["price_msat"] = sold.price_msat.into();
    }
    object["stock_sat"] = factory.stock(quote.coin).map_or(0, |stock| stock.value.to_sat()).into();
    Ok(object)
}

fn answer(instance: InstanceId, amount: Amount, quote: &Quote, dry_run: bool) -> Value {
    json!({
        "factory_instance": instance.to_string(),
        "sale": quote.number,
        "amount_sat": amount.to_sat(),
        "blocks_early": quote.blocks_early,
        "stock_sat": quote.stock.to_sat(),
        "dry_run": dry_run,
    })
}

enum Outcome {
    Waiting,
    Refused(String),
    Bought,
}

/// Whoever buys next has the number that this purchase didn't get: then it was refused meanwhile.
fn outcome(engine: &Engine, instance: InstanceId, quote: &Quote) -> Outcome {
    let signed = engine
        .factory(instance)
        .and_then(|factory| sold(factory.sales.of(quote.coin), quote))
        .is_some_and(Sold::is_signed);
    match engine.purchase(instance) {
        Some(purchase) => purchase.refused.clone().map_or(Outcome::Waiting, Outcome::Refused),
        None if signed => Outcome::Bought,
        // Neither wish nor sale: this node was restarted meanwhile, or forgot the factory.
        None => Outcome::Refused("the factory is gone".into()),
    }
}

fn sold<'a>(chain: &'a [Sold], quote: &Quote) -> Option<&'a Sold> {
    chain.iter().find(|sold| sold.sale.number == quote.number)
}
