//! What lightningd does with channels by itself: `channel_state_changed`, on its way to the engine (S34).
//!
//! When a factory's channels all end, ten thousand notifications come at once: what gathers within a moment is
//! one input. What is lost on the way comes again after the next block.

use std::time::Duration;

use factory_engine::types::{ChannelId, NodeId};
use factory_engine::{ChannelNow, Input};
use factory_runtime::Handle;
use serde_json::Value;

use super::channel_state::ChannelState;
use super::state::State;

/// So long notifications gather.
const GATHER: Duration = Duration::from_millis(50);
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

fn channel_of(body: &Value) -> Option<ChannelId> {
    body["channel_id"].as_str()?.parse().ok()
}

fn peer_of(body: &Value) -> Option<NodeId> {
    body["peer_id"].as_str()?.parse().ok()
}
