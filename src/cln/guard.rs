//! The node must not run where nobody guards its factories (S33). An important plugin takes lightningd with
//! it; otherwise lightningd is told to stop.

use std::time::Duration;

use factory_engine::types::InstanceId;
use serde_json::{Value, json};

use super::client::{Call, Rpc};
use super::outbox::Outbox;
use super::state::Shared;

/// How long lightningd may take to hear that it has to stop. It answers `stop` at its very end, and must find
/// the connection open then.
const STOP: Duration = Duration::from_secs(60);
/// How long log lines may take to get out.
const WORDS: Duration = Duration::from_secs(5);

/// Whether lightningd stops when this plugin does: `listconfigs` names it as important.
pub fn is_important(configs: &Value, plugin: &str) -> bool {
    let listed = configs["important-plugin"]["values_str"].as_array();
    let canonical = |path: &str| std::fs::canonicalize(path).ok();
    let same = |path: &str| path == plugin || canonical(path).is_some_and(|it| Some(it) == canonical(plugin));
    listed.is_some_and(|paths| paths.iter().filter_map(Value::as_str).any(same))
}

/// How lightningd has started this process.
pub fn own_path() -> String {
    std::env::args().next().unwrap_or_default()
}

/// The plugin can't start, for this reason, and these factories may be alive. Whether lightningd must not run
/// then: there are some, or that can't be known, and it isn't important, so that lightningd wouldn't stop with
/// it.
pub async fn must_stop(rpc: &Rpc, living: Result<Vec<InstanceId>, String>, reason: &str) -> bool {
    let why = match living {
        Ok(living) => match living.first() {
            Some(first) => format!("there are factories to guard, {} of them, such as {first}", living.len()),
            None => {
                log::warn!("the plugin can't start: {reason}");
                return false;
            }
        },
        Err(error) => format!("whether there are factories to guard can't be read: {error}"),
    };
    log::error!("the plugin can't start: {reason}. lightningd is stopped, because {why}");
    let configs = rpc.call("listconfigs", json!({})).await;
    !configs.is_ok_and(|configs| is_important(&configs["configs"], &own_path()))
}

/// The process ends, because a task that it can't be without has.
pub async fn end(state: &Shared, why: &str) -> ! {
    let view = state.runtime.view();
    let guards =
        !view.is_certain() || view.htlc(|htlc| !htlc.policies.is_empty() || !htlc.suspects.is_empty());
    view.give_up(why);
    log::error!("{why}: the plugin ends, because it can't guard factories any more");
    if guards && !state.important {
        log::error!("lightningd is stopped: nobody would guard its factories");
        stop_lightningd(&state.rpc, &state.outbox).await;
    }
    let _ = tokio::time::timeout(WORDS, state.outbox.flush()).await;
    std::process::exit(1)
}

/// Has lightningd stop: at once, or as soon as it runs.
pub async fn stop_lightningd(rpc: &Rpc, outbox: &Outbox) {
    // Our words first, and a call that it has to answer after reading them.
    let _ = tokio::time::timeout(WORDS, outbox.flush()).await;
    let _ = tokio::time::timeout(WORDS, rpc.call("getinfo", json!({}))).await;
    match tokio::time::timeout(STOP, rpc.call("stop", json!({}))).await {
        Ok(Err(error)) if error.code.is_some() => {
            log::error!("lightningd can't be stopped, and goes on unguarded: stop it by hand: {error}");
        }
        // Without an answer it is stopping.
        Ok(_) | Err(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // S33
    #[test]
    fn important_is_who_is_listed() {
        let configs = json!({"important-plugin": {"values_str": ["/usr/bin/other", "/bin/../bin/sh"]}});
        assert!(is_important(&configs, "/usr/bin/other"));
        // The same file by another path.
        assert!(is_important(&configs, "/bin/sh"));
        assert!(!is_important(&configs, "/nonexistent/plugin"));
        assert!(!is_important(&json!({"plugin": {"values_str": ["/bin/sh"]}}), "/bin/sh"));
    }
}
