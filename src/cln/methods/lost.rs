//! Channels of factories that came back without them, of which a peer knows and lightningd has never heard (S39). Peers
//! say what they have on each connection, so a restart forgets nothing of it.

use factory_engine::Engine;
use factory_engine::report::counting::counted;
use factory_engine::types::{Height, InstanceId, NodeId};
use factory_runtime::Handle;

use super::super::backup::statics::{self, Statics};
use super::super::client::Call;
use super::super::error::RpcError;
use super::restore::is_lost;
use super::warning::Warning;

/// What a peer has given back of a factory's channels.
struct Found {
    instance: InstanceId,
    peer: NodeId,
    scbs: Statics,
}

/// A warning for each factory with such channels.
///
/// # Errors
/// When lightningd doesn't say which channels it has.
pub async fn warnings<C: Call>(rpc: &C, runtime: &Handle) -> Result<Vec<Warning>, RpcError> {
    let found = runtime.read(found).await?;
    if found.is_empty() {
        return Ok(vec![]);
    }
    let all = found.iter().flat_map(|found| found.scbs.values().cloned());
    let known = statics::known(rpc, &statics::by_channel(all)).await?;
    let unknown = |found: &Found| found.scbs.keys().filter(|id| !known.contains(*id)).count();
    let one = |found: &Found| {
        let count = Some(unknown(found)).filter(|count| *count > 0)?;
        let message = format!(
            "peer {} knows of {} of it that lightningd has never had",
            found.peer,
            counted(count, "channel")
        );
        let action = "run factory-restore again, so that lightningd asks for them to be closed, then restart lightningd";
        Some(Warning { instance: Some(found.instance), ..Warning::new("newer_copy", message, action) })
    };
    Ok(found.iter().filter_map(one).collect())
}

fn found(engine: &Engine, height: Height) -> Vec<Found> {
    let lost = engine.factories().filter(|factory| is_lost(factory, height));
    let copies = engine.found_copies();
    let of = |instance: InstanceId| {
        let (peer, copy) = copies.iter().find(|(_, copy)| copy.instance == statics::name(instance))?;
        Some(Found { instance, peer: *peer, scbs: statics::by_channel(copy.records.clone()) })
    };
    lost.filter_map(|factory| of(factory.instance)).collect()
}
