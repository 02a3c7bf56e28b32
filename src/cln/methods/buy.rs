//! `factory-buy`.

use std::time::Duration;

use factory_engine::record::event::SaleJitOpened;
use factory_engine::types::{Amount, InstanceId};
use factory_engine::{Command as EngineCommand, Engine, Input, Purchase, Quote, Quoted, Sold};
use serde_json::{Value, json};

use super::super::error::{NOT_SOLD, RpcError};
use super::super::params::Params;
use super::super::state::State;
use super::super::words;
use super::{Command, factory};

/// Name, usage and description of `factory-buy`.
pub const COMMAND: Command = Command {
    name: "factory-buy",
    usage: "factory_instance amount_sat [max_price_msat] [dry_run]",
    description: "Buy inbound liquidity: a second channel out of the stock of this node's sub-factory, with \
                  nothing on chain unless factory-jit allows it. What costs more than max_price_msat is refused: without it, whatever \
                  isn't free. dry_run asks for the price",
};

/// What to do when there is no channel.
const OTHERWISE: &str =
    "no channel has come of it so far: try again later, or have an ordinary channel opened";

/// Between two looks at what has become of it.
const PAUSE: Duration = Duration::from_millis(100);

/// Buys a channel, or asks for its price; answers once there is a channel, or none.
pub async fn call(state: State, params: Value) -> Result<Value, RpcError> {
    let names = ["factory_instance", "amount_sat", "max_price_msat", "dry_run"];
    let mut params = Params::new(&names, &params)?;
    let instance: InstanceId = params.required("factory_instance")?;
    let amount: Amount = params.required("amount_sat")?;
    let max_price_msat: u64 = params.optional("max_price_msat")?.unwrap_or(0);
    let dry_run = params.optional("dry_run")?.unwrap_or(false);
    let quote = state.runtime.read(move |engine, height| engine.quote(instance, amount, height)).await??;
    if dry_run {
        let quoted = ask_price(&state, instance, amount).await?;
        let mut object = answer(instance, amount, &quote, dry_run, quoted.price_msat);
        if quoted.away > 0 {
            object["away"] = quoted.away.into();
        }
        add_credit(&state, instance, &mut object).await?;
        return Ok(object);
    }
    state.runtime.ask(Input::Command(EngineCommand::Buy { instance, amount, max_price_msat })).await?;
    loop {
        let outcome = state.runtime.read(move |engine, _| outcome(engine, instance, &quote)).await?;
        match outcome {
            Outcome::Waiting => tokio::time::sleep(PAUSE).await,
            Outcome::Refused { reason, waited } => {
                return Err(RpcError::new(
                    NOT_SOLD,
                    words::not_sold(&reason, waited, state.config.jit),
                    OTHERWISE,
                ));
            }
            Outcome::Bought => break,
            Outcome::OrdinaryChannel(reason, jit) => return instead(&state, instance, &reason, &jit).await,
        }
    }
    let (factory, _) = factory(&state, instance).await?;
    let sold = sold(factory.current.sales.of(quote.coin), &quote)
        .ok_or_else(|| RpcError::new(NOT_SOLD, "the factory was forgotten meanwhile", "see factory-list"))?;
    let mut object = answer(instance, amount, &quote, dry_run, sold.price_msat);
    object["channel_id"] = sold.channel_id().to_string().into();
    object["funding_txid"] = sold.sale.channel.txid.to_string().into();
    object["funding_outnum"] = sold.sale.channel.vout.into();
    object["stock_sat"] = factory.stock(quote.coin).map_or(0, |stock| stock.value.to_sat()).into();
    add_credit(&state, instance, &mut object).await?;
    Ok(object)
}

/// What the operator asks for a channel of this size now, and how many are away.
async fn ask_price(state: &State, instance: InstanceId, amount: Amount) -> Result<Quoted, RpcError> {
    state.runtime.ask(Input::Command(EngineCommand::AskPrice { instance, amount })).await?;
    let patience = Duration::from_millis(state.config.ceremony_timeout);
    let answered = async {
        loop {
            let asked = state.runtime.read(move |engine, _| engine.asked_price(instance).cloned()).await?;
            match asked {
                None => tokio::time::sleep(PAUSE).await,
                Some(Ok(quoted)) => return Ok(quoted),
                Some(Err(reason)) => return Err(RpcError::new(NOT_SOLD, reason, OTHERWISE)),
            }
        }
    };
    let silent = || RpcError::new(NOT_SOLD, "the operator didn't answer in time", OTHERWISE);
    tokio::time::timeout(patience, answered).await.unwrap_or_else(|_| Err(silent()))
}

fn answer(instance: InstanceId, amount: Amount, quote: &Quote, dry_run: bool, price_msat: u64) -> Value {
    json!({
        "factory_instance": instance.to_string(),
        "kind": "sale",
        "sale": quote.number,
        "amount_sat": amount.to_sat(),
        "blocks_early": quote.blocks_early,
        "stock_sat": quote.stock.to_sat(),
        "price_msat": price_msat,
        "dry_run": dry_run,
    })
}

/// An ordinary channel on chain, and why.
async fn instead(
    state: &State,
    instance: InstanceId,
    reason: &str,
    jit: &SaleJitOpened,
) -> Result<Value, RpcError> {
    let mut object = json!({
        "factory_instance": instance.to_string(),
        "kind": "jit",
        "reason": reason,
        "amount_sat": jit.amount.to_sat(),
        "price_msat": jit.price_msat,
        "dry_run": false,
        "channel_id": jit.channel_id.to_string(),
    });
    if let Some(outpoint) = jit.outpoint {
        object["funding_txid"] = outpoint.txid.to_string().into();
        object["funding_outnum"] = outpoint.vout.into();
    }
    add_credit(state, instance, &mut object).await?;
    Ok(object)
}

async fn add_credit(state: &State, instance: InstanceId, object: &mut Value) -> Result<(), RpcError> {
    let credit = state.runtime.read(move |engine, _| engine.credit_msat(instance)).await?;
    if credit > 0 {
        object["credit_msat"] = credit.into();
    }
    Ok(())
}

enum Outcome {
    Waiting,
    /// Why, and whether it had to wait for somebody who was away.
    Refused {
        reason: String,
        waited: bool,
    },
    Bought,
    /// An ordinary channel instead, and why.
    OrdinaryChannel(String, SaleJitOpened),
}

/// Whoever buys next has the number that this purchase didn't get: then it was refused meanwhile.
fn outcome(engine: &Engine, instance: InstanceId, quote: &Quote) -> Outcome {
    let signed = engine
        .factory(instance)
        .and_then(|factory| sold(factory.current.sales.of(quote.coin), quote))
        .is_some_and(Sold::is_signed);
    match engine.purchase(instance) {
        Some(Purchase { refused: Some(reason), away, .. }) => {
            Outcome::Refused { reason: with_credit(engine, instance, reason), waited: *away > 0 }
        }
        Some(Purchase { opened: Some(jit), ordinary_channel, .. }) => {
            let reason = ordinary_channel.as_ref().map(|channel| channel.reason.clone());
            Outcome::OrdinaryChannel(reason.unwrap_or_default(), jit.clone())
        }
        Some(_) => Outcome::Waiting,
        None if signed => Outcome::Bought,
        // Neither wish nor sale: this node was restarted meanwhile, or forgot the factory.
        None => Outcome::Refused { reason: "the factory is gone".into(), waited: false },
    }
}

fn with_credit(engine: &Engine, instance: InstanceId, reason: &str) -> String {
    match engine.credit_msat(instance) {
        0 => reason.to_owned(),
        credit => format!("{reason}; {credit} msat are paid already and count towards the next purchase"),
    }
}

fn sold<'a>(chain: &'a [Sold], quote: &Quote) -> Option<&'a Sold> {
    chain.iter().find(|sold| sold.sale.number == quote.number)
}
