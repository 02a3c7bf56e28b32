//! Commands of lightningd's that would end a factory's channel while its funding output is off chain (S34): they
//! are stopped, and the error names the right command. What isn't about such a channel passes as it is.
//!
//! As long as it isn't known which channels are factories' (S33), every one that isn't on chain and may be one counts
//! as such.

use std::collections::BTreeMap;

use factory_engine::KnownChannel;
use factory_engine::types::{ChannelId, InstanceId, NodeId};
use serde_json::{Value, json};

use super::super::channel_state::ChannelState;
use super::super::client::{Call, field};
use super::super::state::State;

/// The commands that are looked at. `dev-fail` isn't: whoever says that means it.
pub const COMMANDS: [&str; 9] = [
    "close",
    "splice_init",
    "splice_update",
    "splice_signed",
    "splicein",
    "spliceout",
    "dev-splice",
    "dev-forget-channel",
    "fundchannel_cancel",
];

/// Why a channel is left as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Why {
    /// It is in this factory.
    Factory(InstanceId),
    /// It may be in one: why that isn't known.
    Unknown(String),
}

/// Channels that stand off chain, and why they are left as they are.
type Guarded = BTreeMap<ChannelId, Why>;

/// A channel that may be in a factory, its peer if that is known, and why it can't be told.
pub type Doubtful = (ChannelId, Option<NodeId>, String);

/// Channels that aren't on chain and of which it isn't known whether they are in a factory, with the reason (S33).
/// lightningd is asked anew: while nothing is known nobody follows its channels.
pub async fn doubtful(state: &State) -> Vec<Doubtful> {
    let view = state.runtime.view();
    if view.is_certain() {
        return vec![];
    }
    if let Err(error) = state.channels.refresh(&state.rpc).await {
        log::warn!("which channels may be factories': {error}");
    }
    let all = state.channels.all_unconfirmed().into_iter();
    let all = all.filter(|(channel, _)| view.htlc(|view| !view.policies.contains_key(channel)));
    let doubt = |(channel, about): (ChannelId, Option<KnownChannel>)| {
        let peer = about.map(|about| about.peer);
        Some((channel, peer, view.doubt(peer)?))
    };
    all.filter_map(doubt).collect()
}

/// Of channels that may be factories' ([`doubtful`]) the first over which this node could pay so much now.
pub async fn carries<'d>(state: &State, doubtful: &'d [Doubtful], msat: Option<u64>) -> Option<&'d Doubtful> {
    if doubtful.is_empty() {
        return None;
    }
    let answer = state.rpc.call("listpeerchannels", json!({})).await;
    let list = answer.and_then(|answer| field("listpeerchannels", &answer, "channels"));
    let list: Vec<Value> = list.unwrap_or_else(|error| {
        log::warn!("what channels that may be factories' can carry: {error}");
        vec![]
    });
    doubtful.iter().find(|(channel, ..)| may_carry(&list, *channel, msat))
}

/// Whether this node could pay so much over a channel, as far as that is known.
fn may_carry(list: &[Value], channel: ChannelId, msat: Option<u64>) -> bool {
    let id = channel.to_string();
    let shown = list.iter().find(|shown| shown["channel_id"] == id.as_str());
    let spendable = shown.and_then(|shown| shown["spendable_msat"].as_u64());
    let (Some(spendable), Some(msat)) = (spendable, msat) else { return true };
    msat <= spendable
}

async fn guarded(state: &State) -> Guarded {
    let doubtful = doubtful(state).await.into_iter().map(|(channel, _, why)| (channel, Why::Unknown(why)));
    let mut all: Guarded = doubtful.collect();
    state.runtime.view().htlc(|view| {
        all.extend(view.guarded.iter().map(|(channel, instance)| (*channel, Why::Factory(*instance))));
    });
    all
}

/// Why a command is stopped, if it is one of [`COMMANDS`] and about a channel that stands off chain.
pub async fn stops(state: &State, method: &str, params: &Value) -> Option<String> {
    if !COMMANDS.contains(&method) {
        return None;
    }
    let guarded = guarded(state).await;
    if guarded.is_empty() {
        return None;
    }
    let channel = match method {
        "dev-splice" => in_script(&guarded, &param(params, 0, "script_or_json").to_string())?,
        "splicein" | "spliceout" => named(state, &guarded, &text(params, 0, "channel")?).await?,
        "close" => {
            let closed = named(state, &guarded, &text(params, 0, "id")?).await?;
            // Nothing else can become of it.
            if state.channels.lost().contains(&closed) {
                return None;
            }
            closed
        }
        "dev-forget-channel" => {
            let exact = text(params, 2, "channel_id").or_else(|| text(params, 1, "short_channel_id"));
            named(state, &guarded, &exact.or_else(|| text(params, 0, "id"))?).await?
        }
        "fundchannel_cancel" => {
            let list = with(state, text(params, 0, "id")?.parse().ok()?).await?;
            cancelled(&list).into_iter().find(|channel| guarded.contains_key(channel))?
        }
        _ => named(state, &guarded, &text(params, 0, "channel_id")?).await?,
    };
    Some(match guarded.get(&channel)? {
        Why::Factory(instance) => words(method, channel, *instance),
        Why::Unknown(why) => unknown(channel, why),
    })
}

/// Of a channel that may be a factory's.
pub fn unknown(channel: ChannelId, why: &str) -> String {
    format!(
        "channel {channel} is not on chain, and whether it is in a factory can't be told now: {why}. Till then it is \
         neither used nor ended: see factory-status"
    )
}

fn words(method: &str, channel: ChannelId, instance: InstanceId) -> String {
    let stands = format!(
        "channel {channel} is in factory {instance}, and the output that it stands on is not on chain: "
    );
    stands
        + &match method {
            "close" => format!(
                "lightningd can't close it there. A client leaves with factory-exit {instance}, which closes it \
                 too; an operator takes one client's channel on chain, where close works, with factory-evict \
                 {instance} '[\"<client>\"]', and without the client's node id all of them"
            ),
            "dev-forget-channel" => format!(
                "with lightningd's record of it the money would be out of reach. Leave the factory with \
                 factory-exit {instance}"
            ),
            // Only whoever opened a channel can cancel it.
            "fundchannel_cancel" => format!(
                "lightningd would forget it, and the money would be out of reach. An operator takes one client's \
                 channel on chain with factory-evict {instance} '[\"<client>\"]'; a client leaves with \
                 factory-exit {instance}"
            ),
            _ => format!(
                "a splice would destroy it. A client gets more room with factory-buy {instance}, and out with \
                 factory-exit {instance}"
            ),
        }
}

/// A parameter by position or by name.
fn param<'a>(params: &'a Value, place: usize, name: &str) -> &'a Value {
    match params {
        Value::Array(list) => list.get(place).unwrap_or(&Value::Null),
        object => &object[name],
    }
}

fn text(params: &Value, place: usize, name: &str) -> Option<String> {
    param(params, place, name).as_str().map(str::to_owned)
}

/// The channel that somebody means: by its id or the beginning of it, its short channel id or alias, or as the only
/// one with a peer.
async fn named(state: &State, guarded: &Guarded, name: &str) -> Option<ChannelId> {
    if let Ok(channel) = name.parse::<ChannelId>() {
        return Some(channel);
    }
    if let Ok(peer) = name.parse::<NodeId>() {
        return only_with(state, peer).await;
    }
    if name.contains('x') {
        return state.channels.find(&state.rpc, name).await;
    }
    in_script(guarded, name)
}

/// The channel with a peer, if there is one that could be closed, and no other: of several lightningd itself asks
/// which.
async fn only_with(state: &State, peer: NodeId) -> Option<ChannelId> {
    let list = with(state, peer).await?;
    let open = |channel: &&Value| {
        let state = channel["state"].as_str().and_then(|state| state.parse::<ChannelState>().ok());
        state.is_none_or(|state| state.ended().is_none())
    };
    let mut open = list.iter().filter(open);
    let one = open.next()?["channel_id"].as_str()?.parse().ok()?;
    open.next().is_none().then_some(one)
}

/// All channels with a peer, as lightningd has them.
async fn with(state: &State, peer: NodeId) -> Option<Vec<Value>> {
    let answer = state.rpc.call("listpeerchannels", json!({"id": peer.to_string()})).await;
    let list = answer.and_then(|answer| field("listpeerchannels", &answer, "channels"));
    list.inspect_err(|error| log::warn!("{peer}: whether a channel is a factory's: {error}")).ok()
}

/// Of all channels with a peer those that `fundchannel_cancel` may forget: committed, and not used yet. lightningd looks
/// on the chain whether their funding was sent, where a factory's never is. While another open is under way it
/// ends that one instead, which costs an attempt or a sale at most: a factory's own go that way.
fn cancelled(list: &[Value]) -> Vec<ChannelId> {
    if list.iter().any(|channel| channel["channel_id"].is_null() && channel["state"] == "OPENINGD") {
        return vec![];
    }
    let waits = list.iter().filter(|channel| channel["state"] == ChannelState::AwaitingLockin.name());
    waits.filter_map(|channel| channel["channel_id"].as_str()?.parse().ok()).collect()
}

/// The first guarded channel that a splice script is about: it names channels by their ids, or beginnings of
/// them, or by wildcards.
fn in_script(guarded: &Guarded, script: &str) -> Option<ChannelId> {
    guarded.keys().copied().find(|channel| mentions(script, &channel.to_string()))
}

/// Whether a script names a channel, or might. Beginnings shorter than this are none.
fn mentions(script: &str, channel: &str) -> bool {
    const SHORTEST: usize = 6;
    let words = script.split(|letter: char| !letter.is_ascii_alphanumeric());
    let mut words = words.filter(|word| word.len() >= SHORTEST);
    script.contains(['*', '?']) || words.any(|word| channel.starts_with(&word.to_ascii_lowercase()))
}

#[cfg(test)]
mod tests {
    use super::*;

    // S34
    #[test]
    fn scripts_that_name_a_channel() {
        let channel = ChannelId([0xab; 32]).to_string();
        assert!(mentions(&channel, &channel));
        assert!(mentions("wallet -> 1M; 1M -> abababab", &channel));
        assert!(mentions("[{\"channel_id\":\"ABABABABab\"}]", &channel));
        assert!(mentions("*:? -> 10%", &channel));
        assert!(!mentions("wallet -> cdcdcdcd", &channel));
        assert!(!mentions("wallet -> abab", &channel), "too short to be meant");
    }

    #[test]
    fn parameters_by_place_and_by_name() {
        assert_eq!(text(&json!(["a", "b"]), 1, "x"), Some("b".to_owned()));
        assert_eq!(text(&json!({"x": "c"}), 1, "x"), Some("c".to_owned()));
        assert_eq!(text(&json!(["a"]), 1, "x"), None);
        assert_eq!(text(&json!({"y": 1}), 0, "y"), None);
    }

    // S33
    #[test]
    fn whatever_may_be_a_factorys_carries_what_it_is_not_known_to_be_too_small_for() {
        let (small, silent) = (ChannelId([1; 32]), ChannelId([2; 32]));
        let list = [
            json!({"channel_id": small.to_string(), "spendable_msat": 5_000}),
            json!({"channel_id": silent.to_string()}),
        ];
        assert!(may_carry(&list, small, Some(5_000)));
        assert!(!may_carry(&list, small, Some(5_001)));
        assert!(may_carry(&list, small, None), "nobody says how much");
        assert!(may_carry(&list, silent, Some(5_001)) && may_carry(&[], small, Some(5_001)));
    }

    // S34
    #[test]
    fn what_a_cancelled_open_would_forget() {
        let channel = |number: u8, state: ChannelState| json!({"channel_id": ChannelId([number; 32]).to_string(), "state": state.name()});
        let mut list = vec![channel(1, ChannelState::Normal), channel(2, ChannelState::AwaitingLockin)];
        assert_eq!(cancelled(&list), [ChannelId([2; 32])]);
        list.push(channel(3, ChannelState::AwaitingLockin));
        assert_eq!(cancelled(&list), [ChannelId([2; 32]), ChannelId([3; 32])]);
        assert_eq!(cancelled(&list[..1]), []);
        // One that isn't committed: it is that one's end.
        list.push(json!({"state": "OPENINGD"}));
        assert_eq!(cancelled(&list), []);
    }

    // S34
    #[test]
    fn the_error_names_the_right_command() {
        let (channel, instance) = (ChannelId([1; 32]), InstanceId([2; 32]));
        for method in COMMANDS {
            let text = words(method, channel, instance);
            assert!(text.contains(&format!("factory-exit {instance}")), "{text}");
            assert!(text.contains(&channel.to_string()), "{text}");
        }
        // Whoever copies it must not evict everybody.
        let evict = format!("factory-evict {instance} '[\"<client>\"]'");
        assert!(words("close", channel, instance).contains(&evict));
        assert!(words("splicein", channel, instance).contains("factory-buy"));
    }
}
