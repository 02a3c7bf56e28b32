//! What the plugin says to lightningd without being asked: log lines and notifications.
//!
//! cln-plugin's own logger drops everything below `info` unless an environment variable says
//! otherwise; lightningd filters by its `log-level` anyhow, so it should get to see all of ours.

use cln_plugin::Plugin;
use log::{LevelFilter, Log, Metadata, Record};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::state::State;

/// A notification: its method and parameters.
type Letter = (String, Value);

/// Where letters are left. They go out in order, once the plugin runs.
#[derive(Debug, Clone)]
pub struct Outbox(mpsc::UnboundedSender<Letter>);

/// Letters that wait to be sent.
#[derive(Debug)]
pub struct Undelivered(mpsc::UnboundedReceiver<Letter>);

impl Outbox {
    /// An outbox, and what delivers from it.
    pub fn new() -> (Self, Undelivered) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self(sender), Undelivered(receiver))
    }

    /// Publishes a notification of a topic that the manifest lists.
    pub fn notify(&self, topic: &str, body: Value) {
        // Fails only when the plugin is ending.
        let _ = self.0.send((topic.to_owned(), body));
    }

    /// Makes this the process's logger.
    pub fn install_logger(self) {
        // Fails if there is one already, which then gets the lines.
        if log::set_boxed_logger(Box::new(Logger(self))).is_ok() {
            log::set_max_level(LevelFilter::Debug);
        }
    }
}

impl Undelivered {
    /// Delivers for as long as the plugin runs.
    pub async fn deliver(mut self, plugin: Plugin<State>) {
        while let Some((method, body)) = self.0.recv().await {
            if plugin.send_custom_notification(method, body).await.is_err() {
                return;
            }
        }
    }
}

struct Logger(Outbox);

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // The crates below us trace every call, parameters included.
        metadata.target().starts_with("cln_factory") || metadata.level() <= log::Level::Warn
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let level = record.level().as_str().to_ascii_lowercase();
            self.0.notify("log", json!({"level": level, "message": record.args().to_string()}));
        }
    }

    fn flush(&self) {}
}
