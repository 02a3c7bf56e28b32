//! What `factory-list` and `factory-status` say of HTLCs whose deadline is near.

use factory_engine::admission::urgent::Urgent;
use factory_engine::types::Height;
use factory_engine::{Engine, Factory};
use serde_json::{Value, json};

use super::warning::Warning;

/// Adds them to a factory.
pub fn add(engine: &Engine, factory: &Factory, height: Height, object: &mut Value) {
    let urgent: Vec<Value> = engine.urgent_htlcs(factory, height).iter().map(one).collect();
    if !urgent.is_empty() {
        object["urgent_htlcs"] = urgent.into();
    }
}

fn one(htlc: &Urgent) -> Value {
    json!({
        "client": htlc.client,
        "channel_id": htlc.channel_id.to_string(),
        "cltv_expiry": htlc.cltv_expiry,
        "exit_block": htlc.exit_block,
    })
}

/// One for each factory that this node is about to leave for an HTLC's sake, or is leaving.
pub fn warning(engine: &Engine, factory: &Factory, height: Height) -> Option<Warning> {
    let urgent = engine.urgent_htlcs(factory, height);
    let first = urgent.first()?;
    let Urgent { client, cltv_expiry, exit_block, .. } = first;
    let (htlcs, be, have) = match urgent.len() {
        1 => ("1 HTLC".to_owned(), "is", "has"),
        count => (format!("{count} HTLCs"), "are", "have"),
    };
    let message = if height < *exit_block {
        format!(
            "{htlcs} {be} near the deadline: client {client}'s, which expires at {cltv_expiry}, takes \
             its channel on chain at block {exit_block}"
        )
    } else {
        format!(
            "{htlcs} {have} come to the deadline: client {client}'s channel goes on chain since block \
             {exit_block}, for one that expires at {cltv_expiry}"
        )
    };
    let action = "settle them (lightning-cli listpeerchannels shows them), or have the peer connect; \
                  otherwise keep the node online: the exit goes on by itself";
    Some(Warning::of(factory, "htlc_deadline", message, action))
}
