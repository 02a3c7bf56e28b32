//! What this node has in its channels with operators, for `factory-status`: one true total at each moment, also while
//! a balance moves.

use std::collections::BTreeSet;

use factory_engine::types::{ChannelId, InstanceId, NodeId, PaymentHash};
use factory_engine::{Engine, Role};
use serde_json::{Value, json};

use super::super::client::{Call, CallError, field};
use super::super::error::RpcError;
use super::super::htlcs::msat;
use super::super::state::State;

/// Looks at most until what is under way is seen in one of its states.
const LOOKS: u32 = 20;

/// A channel that an operator's factories have with this client, or had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct InFactory {
    channel_id: ChannelId,
    instance: InstanceId,
    handed_over: bool,
}

/// An HTLC of a move that may be under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Part {
    from: ChannelId,
    to: ChannelId,
    payment_hash: PaymentHash,
    amount_msat: u64,
}

#[derive(Debug, Default)]
struct Known {
    operators: BTreeSet<NodeId>,
    inside: Vec<InFactory>,
    parts: Vec<Part>,
    moves: Vec<Value>,
}

fn known(engine: &Engine) -> Known {
    let mut known = Known::default();
    for factory in engine.factories() {
        let Role::Client { lsp, .. } = factory.current.role else { continue };
        known.operators.insert(lsp);
        known.inside.extend(factory.own_channels().map(|channel| InFactory {
            channel_id: channel.channel_id,
            instance: factory.instance,
            handed_over: factory.has_handed_over(channel.client),
        }));
        for open in factory.moves.open() {
            known.parts.extend(open.started.map(|part| Part {
                from: open.from,
                to: open.to,
                payment_hash: part.payment_hash,
                amount_msat: part.amount_msat,
            }));
            let mut object = json!({
                "from": open.from.to_string(),
                "to": open.to.to_string(),
                "moved_msat": open.moved_msat,
                "htlcs": open.parts,
            });
            if let Some(left) = open.left_msat() {
                object["left_msat"] = left.into();
            }
            if let Some(why) = engine.move_waits_for(open.from) {
                object["reason"] = why.into();
            }
            known.moves.push(object);
        }
    }
    known
}

/// Adds channels, moves and the total, if this node is a client of anybody.
pub async fn add(state: &State, answer: &mut Value) -> Result<(), RpcError> {
    let mut seen = None;
    for _ in 0..LOOKS {
        let known = state.runtime.read(|engine, _| known(engine)).await?;
        if known.operators.is_empty() {
            return Ok(());
        }
        let (total, list) = look(&state.rpc, &known).await?;
        seen = Some((total, list, known.moves));
        if total.is_some() {
            break;
        }
    }
    let Some((total, list, moves)) = seen else { return Ok(()) };
    let sum = |name: &str| {
        let counted = list.iter().filter(|channel| channel["counted"] == true);
        counted.filter_map(|channel| channel[name].as_u64()).fold(0, u64::saturating_add)
    };
    answer["total_msat"] = total.unwrap_or_else(|| sum("to_us_msat")).into();
    answer["receivable_msat"] = sum("receivable_msat").into();
    answer["channels"] = list.into();
    answer["moves"] = moves.into();
    Ok(())
}

/// The total, unless it can't be told just now; and the channels.
async fn look<C: Call>(rpc: &C, known: &Known) -> Result<(Option<u64>, Vec<Value>), CallError> {
    // Before the channels: whose invoice is paid by then has arrived, or is on its last step.
    let mut paid_before = Vec::new();
    for part in &known.parts {
        paid_before.push(is_paid(rpc, part.payment_hash).await?);
    }
    let (mut channels, mut shown) = (Vec::new(), Vec::new());
    for operator in &known.operators {
        let method = "listpeerchannels";
        let read = rpc.call(method, json!({"id": operator.to_string()})).await?;
        channels.extend(field::<Vec<Value>>(method, &read, "channels")?);
    }
    let mut total: u64 = 0;
    for channel in &channels {
        let Some(object) = show(channel, known) else { continue };
        if object["counted"] == true {
            total = total.saturating_add(object["to_us_msat"].as_u64().unwrap_or(0));
        }
        shown.push(object);
    }
    for (part, paid) in known.parts.iter().zip(paid_before) {
        let counts = |id: ChannelId| {
            shown
                .iter()
                .any(|shown| shown["channel_id"] == id.to_string().as_str() && shown["counted"] == true)
        };
        if !counts(part.from) || !counts(part.to) {
            continue;
        }
        let (leaves, comes) =
            (stands(&channels, part.from, part, "out"), stands(&channels, part.to, part, "in"));
        match double(leaves, comes, paid) {
            Count::Once => {}
            Count::Missing => total = total.saturating_add(part.amount_msat),
            Count::Twice => total = total.saturating_sub(part.amount_msat),
            // It may have been paid between the two looks.
            Count::Unclear if is_paid(rpc, part.payment_hash).await? => return Ok((None, shown)),
            Count::Unclear => {}
        }
    }
    Ok((Some(total), shown))
}

/// How often what an HTLC carries is in the channels' balances.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Count {
    Once,
    Missing,
    Twice,
    /// Once if its invoice isn't paid yet.
    Unclear,
}

/// lightningd takes an HTLC off the balance of who offered it, and adds it to that of who received it, when neither
/// commitment has it any more. The two channels come to that in either order.
fn double(leaves: bool, comes: bool, paid: bool) -> Count {
    match (leaves, comes, paid) {
        (true, true, _) => Count::Once,
        (false, true, _) => Count::Missing,
        (true, false, true) => Count::Twice,
        (true, false, false) => Count::Unclear,
        (false, false, _) => Count::Once,
    }
}

fn stands(channels: &[Value], id: ChannelId, part: &Part, direction: &str) -> bool {
    let channel = channels.iter().find(|channel| channel["channel_id"] == id.to_string().as_str());
    let htlcs =
        channel.and_then(|channel| channel["htlcs"].as_array()).map(Vec::as_slice).unwrap_or_default();
    let hash = part.payment_hash.to_string();
    htlcs.iter().any(|htlc| htlc["direction"] == direction && htlc["payment_hash"] == hash.as_str())
}

async fn is_paid<C: Call>(rpc: &C, payment_hash: PaymentHash) -> Result<bool, CallError> {
    let method = "listinvoices";
    let answer = rpc.call(method, json!({"payment_hash": payment_hash.to_string()})).await?;
    let list: Vec<Value> = field(method, &answer, "invoices")?;
    Ok(list.iter().any(|invoice| invoice["status"] == "paid"))
}

/// A channel, and whether it counts: not one that was handed over, nor one that lightningd has ended.
fn show(channel: &Value, known: &Known) -> Option<Value> {
    let channel_id: ChannelId = channel["channel_id"].as_str()?.parse().ok()?;
    let inside = known.inside.iter().find(|inside| inside.channel_id == channel_id);
    let handed_over = inside.is_some_and(|inside| inside.handed_over);
    let state = channel["state"].as_str()?;
    let counted = state == "CHANNELD_NORMAL" && !handed_over;
    let mut object = json!({
        "channel_id": channel_id.to_string(),
        "operator": channel["peer_id"],
        "state": state,
        "to_us_msat": msat(&channel["to_us_msat"]),
        "receivable_msat": if counted { msat(&channel["receivable_msat"]) } else { 0 },
        "counted": counted,
        "handed_over": handed_over,
    });
    if let Some(inside) = inside {
        object["factory_instance"] = inside.instance.to_string().into();
    }
    Some(object)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// S37: what the channels say, and what of it is meant, in each order of things.
    #[test]
    fn a_balance_on_its_way_counts_once() {
        // Balances of both channels, and where the HTLC of 10 stands, step by step; the total is 30 throughout.
        let courses = [
            // It leaves, arrives, is paid, is removed from the new channel first; or from the old one.
            [
                (30, 0, false, false, false),
                (30, 0, true, false, false),
                (30, 0, true, true, false),
                (30, 0, true, true, true),
                (30, 10, true, false, true),
                (20, 10, false, false, true),
            ],
            [
                (30, 0, false, false, false),
                (30, 0, true, false, false),
                (30, 0, true, true, false),
                (30, 0, true, true, true),
                (20, 0, false, true, true),
                (20, 10, false, false, true),
            ],
        ];
        for (old, new, leaves, comes, paid) in courses.into_iter().flatten() {
            let total = match double(leaves, comes, paid) {
                Count::Once | Count::Unclear => old + new,
                Count::Missing => old + new + 10,
                Count::Twice => old + new - 10,
            };
            assert_eq!(total, 30, "{old} and {new}");
        }
    }

    #[test]
    fn what_was_handed_over_or_ended_does_not_count() {
        let id = |of: u8| ChannelId([of; 32]);
        let inside =
            |of, handed_over| InFactory { channel_id: id(of), instance: InstanceId([7; 32]), handed_over };
        let known = Known { inside: vec![inside(1, false), inside(2, true)], ..Known::default() };
        let channel = |of: u8, state: &str| {
            json!({"channel_id": id(of).to_string(), "peer_id": "02".repeat(33), "state": state,
                   "to_us_msat": 5_000, "receivable_msat": 6_000})
        };
        let counted = |of, state: &str| show(&channel(of, state), &known).unwrap()["counted"] == true;
        assert!(counted(1, "CHANNELD_NORMAL") && counted(3, "CHANNELD_NORMAL"));
        assert!(!counted(2, "CHANNELD_NORMAL") && !counted(1, "CLOSINGD_COMPLETE"));
    }
}
