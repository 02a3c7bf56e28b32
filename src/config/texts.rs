//! What options say that are no numbers.

use std::net::SocketAddr;

use factory_engine::Policy;
use factory_engine::types::NodeId;

use super::{BadOption, Settings};

/// In place of a node id: whoever it is.
const ANYBODY: &str = "any";
/// In place of a node id: every peer with a channel.
const PEERS: &str = "peers";

fn policy(option: &str, text: &str) -> Result<Policy, BadOption> {
    let found = Policy::ALL.into_iter().find(|policy| policy.name() == text);
    found.ok_or_else(|| BadOption(format!("{option}: expected never, ask or auto, got '{text}'")))
}

pub(super) fn set_policy(to: &mut Settings, text: &str) -> Result<(), BadOption> {
    to.config.policy = policy("factory-policy", text)?;
    Ok(())
}

pub(super) fn set_renew(to: &mut Settings, text: &str) -> Result<(), BadOption> {
    to.config.renew = policy("factory-renew", text)?;
    Ok(())
}

fn node_ids<'t, C: FromIterator<NodeId>>(
    option: &str,
    texts: impl IntoIterator<Item = &'t String>,
) -> Result<C, BadOption> {
    let parse =
        |text: &String| text.parse().map_err(|error| BadOption(format!("{option}: {error}, got '{text}'")));
    texts.into_iter().map(parse).collect()
}

pub(super) fn set_keepers(to: &mut Settings, texts: &[String]) -> Result<(), BadOption> {
    to.config.keepers = node_ids("factory-keeper", texts)?;
    Ok(())
}

pub(super) fn set_allowed(to: &mut Settings, texts: &[String]) -> Result<(), BadOption> {
    if texts.iter().any(|text| text == ANYBODY) {
        to.config.anybody_invites = true;
    } else {
        to.config.allowed_lsps = Some(node_ids("factory-allow-lsp", texts)?);
    }
    Ok(())
}

pub(super) fn set_bitcoin_rpc(to: &mut Settings, text: &str) -> Result<(), BadOption> {
    text.clone_into(&mut to.bitcoin_rpc);
    Ok(())
}

/// In place of a path, or of an address: there is none.
pub(super) const NONE: &str = "none";

pub(super) fn or_none(text: &str) -> &str {
    if text.is_empty() { NONE } else { text }
}

/// A path, or nothing; one that depends on where lightningd was started is a mistake.
fn absolute<'a>(option: &str, expected: &str, text: &'a str) -> Result<&'a str, BadOption> {
    match text {
        NONE => Ok(""),
        path if path.is_empty() || path.starts_with('/') => Ok(path),
        _ => Err(BadOption(format!("{option}: expected {expected}, or none, got '{text}'"))),
    }
}

/// It is run as it is, without a shell.
pub(super) fn set_wake_command(to: &mut Settings, text: &str) -> Result<(), BadOption> {
    let expected = "the absolute path of a program, without arguments";
    absolute("factory-wake-command", expected, text)?.clone_into(&mut to.wake_command);
    Ok(())
}

/// What ends with a slash is a directory.
pub(super) fn set_backup_file(to: &mut Settings, text: &str) -> Result<(), BadOption> {
    let (option, expected) = ("factory-backup-file", "the absolute path of a file");
    let path = absolute(option, expected, text)?;
    if path.ends_with('/') {
        return Err(BadOption(format!("{option}: expected {expected}, or none, got '{text}'")));
    }
    path.clone_into(&mut to.backup_file);
    to.config.backup_file = !path.is_empty();
    Ok(())
}

/// Before an address that others can reach: whoever writes it means it.
const PUBLIC: &str = "public:";

/// An address to listen on, or none. `port` is one that it could have, `open` why it shouldn't be reached from elsewhere.
fn bind(option: &str, port: u16, open: &str, text: &str) -> Result<Option<SocketAddr>, BadOption> {
    if text.is_empty() || text == NONE {
        return Ok(None);
    }
    let meant = text.strip_prefix(PUBLIC);
    let address = meant.unwrap_or(text).parse::<SocketAddr>().ok().filter(|address| address.port() > 0);
    let Some(address) = address else {
        return Err(BadOption(format!(
            "{option}: expected an IP address and a port, such as 127.0.0.1:{port} or [::1]:{port}, or none, got '{text}'"
        )));
    };
    if meant.is_none() && !address.ip().to_canonical().is_loopback() {
        return Err(BadOption(format!(
            "{option}: other machines reach {address}, and {open}: use 127.0.0.1:{}, or, if a firewall keeps others \
             away, {PUBLIC}{address}",
            address.port()
        )));
    }
    Ok(Some(address))
}

pub(super) fn set_metrics_bind(to: &mut Settings, text: &str) -> Result<(), BadOption> {
    to.metrics_bind = bind("factory-metrics-bind", 9750, "nobody is asked for a password there", text)?;
    Ok(())
}

pub(super) fn set_web_bind(to: &mut Settings, text: &str) -> Result<(), BadOption> {
    to.web_bind = bind("factory-web-bind", 9751, "runes go there unencrypted", text)?;
    Ok(())
}

pub(super) fn set_towers(to: &mut Settings, texts: &[String]) -> Result<(), BadOption> {
    to.config.towers = node_ids("factory-tower", texts)?;
    Ok(())
}

pub(super) fn set_watch_for(to: &mut Settings, texts: &[String]) -> Result<(), BadOption> {
    let (all, named): (Vec<_>, Vec<_>) = texts.iter().partition(|text| *text == PEERS);
    to.config.watches_for_peers = !all.is_empty();
    to.config.watch_for = node_ids("factory-watch-for", named)?;
    Ok(())
}
