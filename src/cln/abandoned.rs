//! Channels that both sides have closed while nothing of them is on chain: lightningd keeps them for ever, and tries
//! their closing transaction again at every block. No ordinary command forgets them.

use std::collections::BTreeSet;

use factory_engine::types::{ChannelId, Height};
use factory_engine::{Factory, State as FactoryState};
use serde_json::json;

use super::channel_state::kept_for_ever;
use super::client::{Call, Rpc};
use super::methods;
use super::state::State;

/// Blocks between two looks.
const BLOCKS: Height = 36;

/// Those of them that nothing can come of: their factory is over for good, its root spent 100 blocks deep.
fn buried(factories: &[Factory], height: Height, kept: &[ChannelId]) -> BTreeSet<ChannelId> {
    let over = factories.iter().filter(|factory| factory.state(height) == FactoryState::Closed);
    let theirs = over.flat_map(|factory| {
        let left = factory.own_channels().filter(|own| factory.has_handed_over(own.client));
        left.map(|own| own.channel_id)
    });
    theirs.filter(|channel| kept.contains(channel)).collect()
}

/// Whether the node runs with `--developer`, without which nothing can be forgotten.
pub async fn is_developer<C: Call>(rpc: &C) -> bool {
    let configs = rpc.call("listconfigs", json!({"config": "developer"})).await;
    configs.is_ok_and(|answer| answer["configs"]["developer"]["set"] == true)
}

/// At some blocks: forgets what is buried, where the node can.
pub async fn tidy(state: &State, height: Height) {
    if !height.is_multiple_of(BLOCKS) {
        return;
    }
    let kept = state.mirror.last(kept_for_ever).await;
    if kept.is_empty() || !is_developer(&state.rpc).await {
        return;
    }
    let read = state.runtime.read(|engine, height| {
        let archived: Vec<_> = engine.archived().collect();
        (engine.factories().cloned().collect::<Vec<_>>(), archived, height)
    });
    let Ok((mut factories, archived, height)) = read.await else { return };
    match methods::archived(state, archived).await {
        Ok(more) => factories.extend(more),
        Err(error) => log::debug!("{error}"),
    }
    for channel in buried(&factories, height, &kept) {
        forget(&state.rpc, channel).await;
    }
}

async fn forget(rpc: &Rpc, channel: ChannelId) {
    let id = channel.to_string();
    let list = rpc.call("listpeerchannels", json!({"channel_id": id})).await;
    let peer = list.ok().and_then(|list| list["channels"][0]["peer_id"].as_str().map(str::to_owned));
    let Some(peer) = peer else { return };
    // lightningd looks at the chain for a funding that isn't there.
    let params = json!({"id": peer, "channel_id": id, "force": true});
    match rpc.call("dev-forget-channel", params).await {
        Ok(_) => {
            log::info!("lightningd forgets channel {id}: its factory is over, and nothing of it is on chain")
        }
        Err(error) => log::info!("lightningd doesn't forget channel {id}: {error}"),
    }
}
