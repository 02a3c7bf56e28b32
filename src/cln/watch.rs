//! What lightningd does with channels by itself: `channel_state_changed`, on its way to the engine (S34).
//!
//! When a factory's channels all end, ten thousand notifications come at once: what gathers within a moment is
//! one input. What is lost on the way comes again after the next block.

use std::time::Duration;

use factory_engine::types::{ChannelId, NodeId};
use factory_engine::{ChannelNow, Input};
use factory_runtime::Handle;
use serde_json::{Value, json};

use super::channel_state::ChannelState;
use super::client::Call;
use super::state::State;

/// So long notifications gather.
const GATHER: Duration = Duration::from_millis(50);
/// So long a peer has, after it connects, to say what it knows of its channels.
const REESTABLISH: Duration = Duration::from_secs(5);
/// As many make one input at most: each may become part of a record.
const AT_ONCE: usize = 500;

/// Hands over what lightningd does with channels, a part at a time.
pub fn tell(runtime: &Handle, list: &[ChannelNow]) {
    for part in list.chunks(AT_ONCE) {
        runtime.input(Input::Channels { list: part.to_vec(), whole: false });
    }
}

/// `channel_state_changed`, in lightningd's order.
pub fn changed(state: &State, body: &Value) {
    let (Some(channel_id), Some(name)) = (channel_of(body), body["new_state"].as_str()) else { return };
    let Ok(new) = name.parse::<ChannelState>() else {
        log::warn!("channel {channel_id} is in state {name}, which this plugin doesn't know");
        return;
    };
    let known = state.channels.changed(channel_id, new);
    state.mirror.touch(channel_id);
    let state = State::clone(state);
    match (new.ended(), known, peer_of(body)) {
        (Some(how), ..) => {
            if state.changes.add(ChannelNow { channel_id, ended: Some(how) }) {
                tokio::spawn(async move {
                    tokio::time::sleep(GATHER).await;
                    tell(&state.runtime, &state.changes.take());
                });
            }
        }
        (None, false, Some(peer)) => {
            tokio::spawn(async move { opened(&state, peer).await });
        }
        (None, ..) => {}
    }
}

/// A channel that is new, or has another short_channel_id.
pub async fn opened(state: &State, peer: NodeId) {
    if let Err(error) = state.channels.refresh_peer(&state.rpc, peer).await {
        log::debug!("{peer}: after a channel's change: {error}");
    }
}

/// A peer has connected: does it still know its channels of factories?
pub async fn met(state: &State, peer: NodeId) {
    if state.runtime.view().htlc(|view| view.standing.is_empty()) {
        return;
    }
    tokio::time::sleep(REESTABLISH).await;
    opened(state, peer).await;
    close_lost(state).await;
}

/// Closes channels that their peers have lost, which is all that those can ask for: what follows is as with any
/// channel that lightningd closes. Those whose leaf is on chain too, perhaps by a neighbour's exit: whoever has lost
/// them says so twice, by a bogus `channel_reestablish` and an error, and lightningd's channeld dies of the first before
/// it has read the second.
pub async fn close_lost(state: &State) {
    let mut lost = state.channels.lost();
    lost.retain(|channel| state.runtime.view().htlc(|view| view.standing.contains(channel)));
    for channel in lost {
        log::warn!("channel {channel}: its peer has lost all that it knew of it, so it is closed");
        let params = json!({"id": channel.to_string(), "unilateraltimeout": 1});
        if let Err(error) = state.rpc.call("close", params).await {
            // Two looks may have seen it: then it is closed.
            log::info!("closing channel {channel}: {error}");
        }
    }
}

fn channel_of(body: &Value) -> Option<ChannelId> {
    body["channel_id"].as_str()?.parse().ok()
}

fn peer_of(body: &Value) -> Option<NodeId> {
    body["peer_id"].as_str()?.parse().ok()
}
