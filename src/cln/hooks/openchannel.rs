//! `openchannel`: a factory's channel is accepted without confirmations, exactly the one that was
//! announced. Every other open is left to the node's own policy.

use std::time::Duration;

use bitcoin::hex::FromHex;
use factory_engine::types::Amount;
use factory_engine::wire::codec::{Codec, Reader};
use factory_engine::wire::message::ChannelInFactory;
use factory_engine::{Answer, Input, OpenChannel};
use serde_json::{Value, json};

use super::super::state::State;
use super::super::tally::{REJECTED, Refused};
use super::carry_on;

/// After this the open is none of ours: a plugin in trouble must not keep others from opening.
const PATIENCE: Duration = Duration::from_secs(10);
/// Feature bit option_zeroconf of a channel_type (BOLT 9).
const ZEROCONF: u64 = 50;

/// Answers `openchannel`: accepts a factory's open, rejects a false one, leaves the rest to others.
pub async fn answer(state: &State, request: &Value) -> Value {
    let Some(open) = parse(request) else { return carry_on() };
    // Opens that can't be ours don't wait for anybody.
    if open.channel_in_factory.is_none() && !state.runtime.view().expects_open_from(open.peer) {
        return carry_on();
    }
    let peer = open.peer;
    let asked = state.runtime.ask(Input::OpenChannel(open));
    match tokio::time::timeout(PATIENCE, asked).await {
        Ok(Ok(Answer::AcceptOpen)) => json!({"result": "continue", "mindepth": 0}),
        Ok(Ok(Answer::RejectOpen(reason))) => {
            log::warn!("{peer}: its channel is refused: {reason}");
            state.tally.refused(Refused::Open, REJECTED);
            json!({"result": "reject", "error_message": reason})
        }
        Ok(Ok(_)) => carry_on(),
        Ok(Err(refusal)) => {
            log::warn!("{peer}: its channel is left to the node's own policy: {refusal}");
            carry_on()
        }
        Err(_) => {
            log::warn!("{peer}: its channel is left to the node's own policy: no decision in time");
            carry_on()
        }
    }
}

fn parse(request: &Value) -> Option<OpenChannel> {
    let open = &request["openchannel"];
    let bits = open["channel_type"]["bits"].as_array();
    Some(OpenChannel {
        peer: open["id"].as_str()?.parse().ok()?,
        capacity: Amount::from_sat(open["funding_msat"].as_u64()? / 1000),
        push_msat: open["push_msat"].as_u64()?,
        reserve_msat: open["channel_reserve_msat"].as_u64()?,
        zeroconf: bits.is_some_and(|bits| bits.iter().any(|bit| bit.as_u64() == Some(ZEROCONF))),
        channel_in_factory: record(&open["channel_in_factory"]),
    })
}

/// The record of TLV 65600 in hex, from node software that passes it on. Stock lightningd does not.
fn record(value: &Value) -> Option<ChannelInFactory> {
    let bytes = Vec::from_hex(value.as_str()?).ok()?;
    let mut reader = Reader::new(&bytes);
    let record = ChannelInFactory::read(&mut reader).ok()?;
    reader.finish().ok()?;
    Some(record)
}
