//! `htlc_accepted`: HTLCs that come or go over a factory's channel have to leave time for an exit
//! (S15), and wait for the channel to be usable (S18). Others are answered at once, from memory.

use std::time::Duration;

use bitcoin::hex::DisplayHex;
use serde_json::{Value, json};

use crate::protocol::htlc::{Htlc, Verdict, admit};
use crate::types::{ChannelId, Height};

use super::super::state::State;
use super::carry_on;

/// How long after a start HTLCs wait for the first block. lightningd replays unresolved ones before
/// we know the chain's height; failing them then would be failing them for nothing.
const START_PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);

/// Answers the hook.
pub async fn answer(state: &State, request: &Value) -> Value {
    let view = state.runtime.view();
    if view.htlc(|view| view.policies.is_empty()) {
        return carry_on();
    }
    let htlc = &request["htlc"];
    let Some(cltv_expiry) = height(&htlc["cltv_expiry"]) else { return carry_on() };
    let outgoing = request["forward_to"].as_str().and_then(|text| text.parse().ok());
    let incoming = match htlc["short_channel_id"].as_str() {
        Some(scid) => state.channels.find(&state.rpc, scid).await,
        None => None,
    };
    let ours = |channel: &Option<ChannelId>| {
        channel.is_some_and(|id| view.htlc(|view| view.policies.contains_key(&id)))
    };
    if !ours(&incoming) && !ours(&outgoing) {
        return carry_on();
    }
    wait_for_first_block(state).await;
    // Where lightningd is ahead of the block that we handled last, its height counts.
    let ahead = htlc["cltv_expiry_relative"]
        .as_i64()
        .and_then(|relative| i64::from(cltv_expiry).checked_sub(relative))
        .and_then(|height| Height::try_from(height).ok())
        .unwrap_or(0);
    let outgoing_cltv_expiry = height(&request["onion"]["outgoing_cltv_value"]);
    let verdict = view.htlc(|view| {
        let policy = |channel: Option<ChannelId>| view.policies.get(&channel?);
        let htlc = Htlc {
            incoming: policy(incoming),
            outgoing: policy(outgoing),
            cltv_expiry,
            outgoing_cltv_expiry: outgoing.and(outgoing_cltv_expiry),
        };
        admit(&htlc, view.height.unwrap_or(0).max(ahead))
    });
    match verdict {
        Verdict::Continue => carry_on(),
        Verdict::Fail { failure, reason } => {
            log::info!("failing an HTLC of {} msat: {reason}", htlc["amount_msat"]);
            json!({"result": "fail", "failure_message": failure.message().to_lower_hex_string()})
        }
    }
}

async fn wait_for_first_block(state: &State) {
    let known = || state.runtime.view().htlc(|view| view.height.is_some());
    let wait = async {
        while !known() {
            tokio::time::sleep(POLL).await;
        }
    };
    if tokio::time::timeout(START_PATIENCE, wait).await.is_err() {
        log::warn!("no block was handled within {} s of an HTLC", START_PATIENCE.as_secs());
    }
}

fn height(value: &Value) -> Option<Height> {
    value.as_u64()?.try_into().ok()
}
