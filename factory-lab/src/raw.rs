//! A factory on a coin of another chain: members are simulated, the transactions are real. A test
//! funds [`script`] on a real bitcoind, and sends what [`transactions`] gives.

use bitcoin::consensus::encode::serialize_hex;
use bitcoin::{OutPoint, ScriptBuf, TxOut};
use factory_engine::tx::layout::{SessionId, SpendRole};
use factory_engine::types::Amount;
use factory_engine::{Line, State, statement};
use serde_json::{Value, json};

use super::offer::Offer;
use super::scenario::Scenario;
use super::world::{LSP, World};
use super::{LabError, error};

/// What the coin has to be worth.
pub const AMOUNT: Amount = Amount::from_sat(40_000_000);
/// What the last client is paid before the operator vanishes, msat.
const PAID: u64 = 25_000_000;

fn world(seed: u64, clients: usize) -> Result<(World, ScriptBuf), LabError> {
    let mut world = Scenario::new(seed).clients(clients).unchecked().world()?;
    let script = world.members[LSP].lightningd.new_script();
    Ok((world, script))
}

/// Where the coin has to be: the operator's wallet.
///
/// # Errors
/// When the nodes don't come up.
pub fn script(seed: u64, clients: usize) -> Result<ScriptBuf, LabError> {
    world(seed, clients).map(|(_, script)| script)
}

/// The funding of a factory on this coin, what the last client publishes once the operator is gone, in
/// order, and the account that it gives of it.
///
/// # Errors
/// When something does not go as it must.
pub fn transactions(seed: u64, clients: usize, coin: OutPoint) -> Result<Value, LabError> {
    let (mut world, script_pubkey) = world(seed, clients)?;
    world.chain.only_coin(coin, TxOut { value: AMOUNT, script_pubkey });
    let instance = world.make_factory(&Offer::default())?;
    world.pay(LSP, clients, PAID)?;
    world.stop(LSP);
    let factory = |world: &World| world.members[clients].engine.as_ref()?.factory(instance).cloned();
    let missing = || error("the client has no factory");
    let before = factory(&world).ok_or_else(missing)?;
    let funding = before.funding().ok_or_else(missing)?;
    let (_, funding_tx) = world.chain.confirmed(funding.txid).ok_or_else(missing)?;
    let funding_tx = serialize_hex(funding_tx);
    let client = before.current.terms.clients().saturating_sub(1);
    let path =
        before.current.layout.path(client).into_iter().map(|coin| SessionId { coin, role: SpendRole::State });
    let path: Option<Vec<String>> =
        path.map(|session| before.signed_tx(session).map(|tx| serialize_hex(&tx))).collect();
    world.exit(clients, instance)?;
    let after = factory(&world).ok_or_else(missing)?;
    if after.state(world.chain.height()) != State::Exited {
        return Err(error("the client is not out"));
    }
    let channel = world.channel_in(clients, instance).ok_or_else(missing)?;
    let channel = world.members[clients].lightningd.channels.get(&channel).ok_or_else(missing)?;
    let account = statement(&after).ok_or_else(missing)?;
    let line = |line: &Line| {
        json!({
            "type": line.purpose.name(),
            "txid": line.txid.to_string(),
            "outnum": line.vout,
            "amount_sat": line.amount.to_sat(),
        })
    };
    Ok(json!({
        "funding": funding_tx,
        "funding_txid": funding.txid.to_string(),
        "funding_outnum": funding.vout,
        "path": path.ok_or_else(missing)?,
        "commitment": serialize_hex(&channel.commitment),
        "to_client_sat": PAID / 1000 + after.current.terms.push_msat / 1000,
        "statement": {
            "funding_sat": account.funding.to_sat(),
            "problem": account.problem.as_ref().map(ToString::to_string),
            "lines": account.lines.iter().map(line).collect::<Vec<_>>(),
        },
    }))
}
