//! `rpc_command`: expiries of what this node itself starts leave time for an exit, and nothing is closed by the
//! wrong command (S34).
//!
//! - `invoice` asks payers for a longer final expiry (S17), and so does a BOLT 12 invoice, on its way
//!   through `createinvoice`; `invoice` also gives a route hint where only a factory's channel leads here;
//! - `sendpay`, `sendonion` and `injectpaymentonion` give their first HTLC a longer one (S15). The
//!   onion stays as it is: the first hop merely sees more room than it needs.
//!
//! - `close`, splices, `dev-forget-channel` and `fundchannel_cancel` of a channel that stands off chain are stopped.
//!
//! - As long as it isn't known which channels are factories' (S33), none of that is done for one that isn't on chain
//!   and may be one: `sendpay` and `sendonion` over it are refused. So is `injectpaymentonion` (`xpay`, `pay`), whose
//!   first channel is inside the onion, of all that one such channel has the money for: `sendpay` over another, which
//!   names it, goes on. Invoices go on, too: what is paid to them meets `htlc_accepted`. `withdraw` and the like spend the
//!   wallet's coins, none of which is a factory's: those for a funding are reserved.
//!
//! A larger value that somebody gave stays. What can't be made safe, because the channel isn't usable yet
//! or the payment would outlive the factory, is refused.

use factory_engine::ChannelPolicy;
use factory_engine::admission::htlc::SLACK;
use factory_engine::types::{ChannelId, Height, NodeId};
use serde_json::{Map, Value, json};

use super::super::bolt12;
use super::super::error::WRONG_STATE;
use super::super::state::State;
use super::super::tally::{GUARDED, Refused, UNSAFE};
use super::{carry_on, guard, hints};

/// The commands that the hook is called for.
pub fn commands() -> impl Iterator<Item = &'static str> {
    ["invoice", "createinvoice", "sendpay", "sendonion", "injectpaymentonion"]
        .into_iter()
        .chain(guard::COMMANDS)
}

const INVOICE: &[&str] = &[
    "amount_msat",
    "label",
    "description",
    "expiry",
    "fallbacks",
    "preimage",
    "exposeprivatechannels",
    "cltv",
    "deschashonly",
];
const CREATEINVOICE: &[&str] = &["invstring", "label", "preimage"];
const SENDPAY: &[&str] = &[
    "route",
    "payment_hash",
    "label",
    "amount_msat",
    "bolt11",
    "payment_secret",
    "partid",
    "localinvreqid",
    "groupid",
    "payment_metadata",
    "description",
];
const SENDONION: &[&str] = &[
    "onion",
    "first_hop",
    "payment_hash",
    "label",
    "shared_secrets",
    "partid",
    "bolt11",
    "amount_msat",
    "destination",
    "localinvreqid",
    "groupid",
    "description",
    "total_amount_msat",
];
const INJECT: &[&str] = &[
    "onion",
    "payment_hash",
    "amount_msat",
    "cltv_expiry",
    "partid",
    "groupid",
    "label",
    "invstring",
    "localinvreqid",
    "destination_msat",
    "destination",
];

/// Answers `rpc_command`: carries on, changes the parameters, or refuses a payment of this node's own.
pub async fn answer(state: &State, request: &Value) -> Value {
    let view = state.runtime.view();
    if view.is_certain() && view.htlc(|view| view.policies.is_empty()) {
        return carry_on();
    }
    #[cfg(feature = "faults")]
    if factory_runtime::faults::is_lax() {
        return carry_on();
    }
    let command = &request["rpc_command"];
    let method = command["method"].as_str().unwrap_or_default();
    if let Some(message) = guard::stops(state, method, &command["params"]).await {
        log::info!("stopped {method}: {message}");
        state.tally.refused(Refused::LightningCommand, GUARDED);
        return refusal(&message);
    }
    let changed = match method {
        "invoice" => Ok(invoice(state, &command["params"]).await),
        "createinvoice" => Ok(createinvoice(state, &command["params"])),
        "sendpay" => sendpay(state, &command["params"]).await,
        "sendonion" => sendonion(state, &command["params"]).await,
        "injectpaymentonion" => injectpaymentonion(state, &command["params"]).await,
        _ => Ok(None),
    };
    match changed {
        Ok(None) => carry_on(),
        Ok(Some(params)) => {
            let mut replacement = command.clone();
            replacement["params"] = Value::Object(params);
            if replacement.get("jsonrpc").is_none() {
                replacement["jsonrpc"] = "2.0".into();
            }
            json!({"replace": replacement})
        }
        Err(Unsafe(message)) => {
            log::info!("refused a payment of this node's own: {message}");
            state.tally.refused(Refused::LightningCommand, UNSAFE);
            refusal(&message)
        }
    }
}

fn refusal(message: &str) -> Value {
    json!({"return": {"error": {"code": WRONG_STATE, "message": message}}})
}

/// Why a payment of this node's own would put money at risk, and what to do.
#[derive(Debug, PartialEq, Eq)]
struct Unsafe(String);

/// Parameters that take a command's place, if any do.
type Changed = Result<Option<Map<String, Value>>, Unsafe>;

async fn invoice(state: &State, params: &Value) -> Option<Map<String, Value>> {
    let early = largest_blocks_early(state)?;
    let least = state.cltv_final.saturating_add(early).saturating_add(slack(state));
    let mut params = named(INVOICE, params)?;
    let raised = raise(&mut params, "cltv", least);
    let says = params.get("exposeprivatechannels").is_some_and(|value| !value.is_null());
    let hints = if says { None } else { hints::exposed(state).await };
    let hinted = hints.map(|hints| params.insert("exposeprivatechannels".to_owned(), hints)).is_some();
    (raised || hinted).then_some(params)
}

/// Blocks for which a payment may be held without anybody leaving for it (S35).
fn slack(state: &State) -> u32 {
    state.config.cltv_delta.max(SLACK)
}

/// BOLT 12 invoices come by here to be signed.
fn createinvoice(state: &State, params: &Value) -> Option<Map<String, Value>> {
    let more = largest_blocks_early(state)?.saturating_add(slack(state));
    let least = u16::try_from(state.cltv_final.saturating_add(more)).unwrap_or(u16::MAX);
    let more = u16::try_from(more).unwrap_or(u16::MAX);
    let mut params = named(CREATEINVOICE, params)?;
    let raised = bolt12::raise(params.get("invstring")?.as_str()?, more, least)?;
    params.insert("invstring".to_owned(), raised.into());
    Some(params)
}

async fn sendpay(state: &State, params: &Value) -> Changed {
    let Some(mut params) = named(SENDPAY, params) else { return Ok(None) };
    let Some(route) = params.get_mut("route").and_then(Value::as_array_mut) else { return Ok(None) };
    let goes_on = route.len() > 1;
    let Some(first) = route.first_mut().and_then(Value::as_object_mut) else { return Ok(None) };
    Ok(raise_hop(state, first, goes_on).await?.then_some(params))
}

async fn sendonion(state: &State, params: &Value) -> Changed {
    let Some(mut params) = named(SENDONION, params) else { return Ok(None) };
    let Some(first) = params.get_mut("first_hop").and_then(Value::as_object_mut) else { return Ok(None) };
    Ok(raise_hop(state, first, true).await?.then_some(params))
}

async fn injectpaymentonion(state: &State, params: &Value) -> Changed {
    let Some(mut params) = named(INJECT, params) else { return Ok(None) };
    // The first channel is inside the onion, where we can't see it: so whichever it is.
    let pays_as_client =
        state.runtime.view().htlc(|view| view.policies.values().any(|policy| policy.client.is_none()));
    let raised = largest_blocks_early(state).is_some_and(|early| {
        let least = height(state).saturating_add(early).saturating_add(SLACK);
        lengthen(&mut params, "cltv_expiry", if pays_as_client { early } else { 0 }, least)
    });
    let (doubtful, msat) = (guard::doubtful(state).await, number(params.get("amount_msat")));
    if let Some((channel, _, why)) = guard::carries(state, &doubtful, msat).await {
        return Err(Unsafe(format!("{}. Name another by sendpay", guard::unknown(*channel, why))));
    }
    // With an ordinary channel lightningd may have chosen that.
    let only_ours = state.runtime.view().htlc(|view| {
        let policies = || view.policies.values();
        state.channels.all(|channel| view.policies.contains_key(&channel)).then(|| best(policies))
    });
    if let Some(best) = only_ours {
        best.and_then(|best| leaves_time(&best, number(params.get("cltv_expiry"))))?;
    }
    Ok(raised.then_some(params))
}

/// The usable channel that takes the longest HTLCs.
fn best<'a, I: Iterator<Item = &'a ChannelPolicy>>(
    policies: impl Fn() -> I,
) -> Result<ChannelPolicy, Unsafe> {
    let usable = policies().filter(|policy| policy.usable.is_ok()).max_by_key(|policy| policy.safe_end);
    match (usable, policies().next()) {
        (Some(policy), _) => Ok(policy.clone()),
        (None, Some(policy)) => usable_now(policy).map(|()| policy.clone()),
        (None, None) => Err(Unsafe("this node has no channel".to_owned())),
    }
}

/// S18: why nothing may be paid over the channel now, if so.
fn usable_now(policy: &ChannelPolicy) -> Result<(), Unsafe> {
    let instance = policy.instance;
    policy.usable.map_err(|why| {
        Unsafe(format!(
            "factory {instance}: {why}; nothing may be paid over its channel now: see factory-list"
        ))
    })
}

/// S15: why the payment would last too long for the channel, if so.
fn leaves_time(policy: &ChannelPolicy, expiry: Option<u64>) -> Result<(), Unsafe> {
    let Some(expiry) = expiry.filter(|expiry| *expiry > u64::from(policy.safe_end)) else { return Ok(()) };
    Err(Unsafe(format!(
        "the payment would last until block {expiry}, and after block {} nothing can be paid over factory {}'s \
         channels: pay over another channel, or leave the factory (factory-exit)",
        policy.safe_end, policy.instance
    )))
}

/// `delay` of a route's first hop, in blocks from now. The operator forwards only what leaves it its own
/// delta and, behind that, time for an exit from the first channel (S16).
async fn raise_hop(state: &State, hop: &mut Map<String, Value>, goes_on: bool) -> Result<bool, Unsafe> {
    let scid = hop.get("channel").and_then(Value::as_str);
    let doubtful = guard::doubtful(state).await;
    let channel = match scid {
        Some(scid) => state.channels.find(&state.rpc, scid).await,
        None => None,
    };
    // lightningd may choose any with the peer.
    let peer = hop.get("id").and_then(Value::as_str).and_then(|id| id.parse::<NodeId>().ok());
    let meant = |doubted: ChannelId, with: Option<NodeId>| match scid {
        Some(_) => Some(doubted) == channel,
        None => with.is_none() || with == peer,
    };
    if let Some((channel, _, why)) = doubtful.iter().find(|(doubted, with, _)| meant(*doubted, *with)) {
        return Err(Unsafe(guard::unknown(*channel, why)));
    }
    let policy =
        channel.and_then(|channel| state.runtime.view().htlc(|view| view.policies.get(&channel).cloned()));
    let early = match (&policy, scid) {
        (Some(policy), _) => {
            usable_now(policy)?;
            Some(u32::from(policy.blocks_early))
        }
        (None, Some(_)) => None,
        // lightningd will choose a channel: it may be any.
        (None, None) => largest_blocks_early(state),
    };
    let to_operator = policy.as_ref().is_none_or(|policy| policy.client.is_none());
    let raised = early.is_some_and(|early| {
        let more = if goes_on && to_operator { early } else { 0 };
        lengthen(hop, "delay", more, early.saturating_add(SLACK))
    });
    if let Some(policy) = &policy {
        let delay = number(hop.get("delay")).unwrap_or(0);
        leaves_time(policy, Some(u64::from(height(state)).saturating_add(delay)))?;
    }
    Ok(raised)
}

/// The last block that lightningd or we have seen.
fn height(state: &State) -> Height {
    let handled = state.runtime.view().htlc(|view| view.height).unwrap_or(0);
    handled.max(*state.news.borrow())
}

/// `None` without usable factory channels: then nothing of this concerns us.
fn largest_blocks_early(state: &State) -> Option<u32> {
    let early = state.runtime.view().htlc(|view| view.largest_blocks_early);
    (early > 0).then(|| u32::from(early))
}

/// Parameters by name. `None` for what lightningd had better complain about itself.
fn named(names: &[&str], params: &Value) -> Option<Map<String, Value>> {
    match params {
        Value::Object(object) => Some(object.clone()),
        Value::Array(list) if list.len() <= names.len() => {
            let pairs = names.iter().zip(list).filter(|(_, value)| !value.is_null());
            Some(pairs.map(|(name, value)| ((*name).to_owned(), value.clone())).collect())
        }
        _ => None,
    }
}

/// Makes a number at least `least`. False if it is already, or isn't a number.
fn raise(params: &mut Map<String, Value>, name: &str, least: Height) -> bool {
    let enough = match params.get(name) {
        None | Some(Value::Null) => false,
        value => number(value).is_none_or(|value| value >= u64::from(least)),
    };
    if !enough {
        params.insert(name.to_owned(), least.into());
    }
    !enough
}

/// Adds `more` to a number, and makes it at least `least`. False if that changes nothing.
fn lengthen(params: &mut Map<String, Value>, name: &str, more: u32, least: Height) -> bool {
    let longer = number(params.get(name)).map(|value| value.saturating_add(u64::from(more)));
    let Some(longer) = longer.filter(|longer| more > 0 && *longer >= u64::from(least)) else {
        return raise(params, name, least);
    };
    params.insert(name.to_owned(), longer.into());
    true
}

/// lightningd takes numbers also as text.
fn number(value: Option<&Value>) -> Option<u64> {
    match value? {
        Value::Number(number) => number.as_u64(),
        Value::String(text) => text.parse().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use factory_engine::Unusable;
    use factory_engine::types::InstanceId;

    // S15, S18
    #[test]
    fn own_payments_that_would_be_at_risk_are_refused() {
        let policy = |usable, safe_end| ChannelPolicy {
            instance: InstanceId([1; 32]),
            client: None,
            usable,
            blocks_early: 10,
            safe_end,
        };
        let (dying, young) = (policy(Ok(()), 500), policy(Ok(()), 900));
        let bad = policy(Err(Unusable::NotDeep { confirmations: 3 }), 2_000);
        assert_eq!(leaves_time(&dying, Some(500)), Ok(()));
        let Err(Unsafe(text)) = leaves_time(&dying, Some(501)) else { panic!("it outlives the factory") };
        assert!(text.contains("501") && text.contains("500") && text.contains("factory-exit"), "{text}");
        let all = [dying, bad.clone(), young.clone()];
        assert_eq!(best(|| all.iter()), Ok(young));
        let Err(Unsafe(text)) = best(|| std::iter::once(&bad)) else { panic!("none is usable") };
        assert!(text.contains("3 confirmations"), "{text}");
    }

    fn raised(value: Value) -> (bool, Value) {
        let mut params = Map::new();
        params.insert("cltv".to_owned(), value);
        let changed = raise(&mut params, "cltv", 100);
        (changed, params["cltv"].clone())
    }

    // S17
    #[test]
    fn only_what_is_too_small_is_raised() {
        assert_eq!(raised(json!(18)), (true, json!(100)));
        assert_eq!(raised(json!("18")), (true, json!(100)));
        assert_eq!(raised(Value::Null), (true, json!(100)));
        assert_eq!(raised(json!(144)), (false, json!(144)));
        assert_eq!(raised(json!("much")), (false, json!("much")));
        assert_eq!(raised(json!(-1)), (false, json!(-1)));
    }

    // S16: the operator's own delta stays before what an exit takes.
    #[test]
    fn an_exit_comes_on_top_of_what_others_ask_for() {
        let lengthened = |value: Value, more| {
            let mut params = Map::new();
            params.insert("delay".to_owned(), value);
            let changed = lengthen(&mut params, "delay", more, 30);
            (changed, params["delay"].clone())
        };
        assert_eq!(lengthened(json!(18), 24), (true, json!(42)));
        assert_eq!(lengthened(json!("18"), 24), (true, json!(42)));
        assert_eq!(lengthened(json!(3), 24), (true, json!(30)));
        assert_eq!(lengthened(json!(18), 0), (true, json!(30)));
        assert_eq!(lengthened(json!(40), 0), (false, json!(40)));
        assert_eq!(lengthened(json!("much"), 24), (false, json!("much")));
    }

    #[test]
    fn positions_become_names() {
        let params = named(INVOICE, &json!([1000, "label", "text", null, null, null, null, 9])).unwrap();
        assert_eq!(
            Value::Object(params),
            json!({"amount_msat": 1000, "label": "label", "description": "text", "cltv": 9})
        );
        assert_eq!(named(&["one"], &json!([1, 2])), None);
    }
}
