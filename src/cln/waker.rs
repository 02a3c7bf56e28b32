//! Clients that have to come and are away: a notification, and the operator's own program
//! (`factory-wake-command`), which may send a push message, say. It is run as it is, never by a shell; its arguments
//! are hex, a number and a word. Whatever it does is no business of the plugin's: that it fails is a line in the log.

use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use factory_engine::WakeReason;
use factory_engine::types::{Height, InstanceId, NodeId};
use serde_json::json;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::outbox::Outbox;

/// Notification topic for clients that have to come.
pub const WAKE_TOPIC: &str = "factory_wake";
/// Programs that run at once.
const AT_ONCE: usize = 4;
/// Clients for whom one waits to be run. For more there is the notification alone, and the next rung.
const MOST: usize = 1_000;
/// How long one may run.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks whether it has ended.
const LOOK: Duration = Duration::from_millis(50);

/// Sends for clients.
#[derive(Clone)]
pub struct Waker {
    /// Path of the program; empty for none.
    program: Arc<str>,
    outbox: Outbox,
    turns: Arc<Semaphore>,
    waiting: Arc<AtomicUsize>,
    patience: Duration,
}

impl Waker {
    /// With this program, or with none if it is empty.
    pub fn new(program: String, outbox: Outbox) -> Self {
        let (turns, waiting) = (Arc::new(Semaphore::new(AT_ONCE)), Arc::default());
        Self { program: program.into(), outbox, turns, waiting, patience: PATIENCE }
    }

    /// Sends for a client that has to come by a height.
    pub fn wake(&self, instance: InstanceId, peer: NodeId, by: Height, reason: WakeReason) {
        let body = json!({
            "factory_instance": instance.to_string(),
            "id": peer.to_string(),
            "by_block": by,
            "reason": reason.name(),
        });
        self.outbox.publish(WAKE_TOPIC, body);
        if self.program.is_empty() {
            return;
        }
        let what = format!("factory-wake-command for {peer}");
        if self.waiting.fetch_add(1, Ordering::SeqCst) >= MOST {
            self.waiting.fetch_sub(1, Ordering::SeqCst);
            log::warn!("{what}: not run, {MOST} others wait");
            return;
        }
        let args = [instance.to_string(), peer.to_string(), by.to_string(), reason.name().to_owned()];
        let waker = self.clone();
        tokio::spawn(async move {
            // Nobody closes the semaphore, so there is always one.
            let _turn = waker.turns.acquire().await;
            match run(&waker.program, &args, waker.patience).await {
                Ok(status) if status.success() => log::debug!("{what}: done"),
                Ok(status) => log::warn!("{what}: {status}"),
                Err(error) => log::warn!("{what}: {error}"),
            }
            waker.waiting.fetch_sub(1, Ordering::SeqCst);
        });
    }
}

/// Runs a program until it ends, or its time is over.
async fn run(program: &str, args: &[String], patience: Duration) -> Result<ExitStatus, String> {
    // Our stdin and stdout are lightningd's.
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = Running(command.spawn().map_err(|error| format!("{program}: {error}"))?);
    let until = Instant::now().checked_add(patience);
    loop {
        if let Some(status) = child.0.try_wait().map_err(|error| error.to_string())? {
            return Ok(status);
        }
        if until.is_none_or(|until| Instant::now() >= until) {
            return Err(format!("killed: it did not end in {} s", patience.as_secs()));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// A program that doesn't outlive whoever waits for it.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by now.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(of: &[&str]) -> Vec<String> {
        of.iter().map(|word| (*word).to_owned()).collect()
    }

    #[tokio::test]
    async fn what_it_says_is_what_it_was() {
        assert!(run("/bin/true", &[], PATIENCE).await.unwrap().success());
        assert!(!run("/bin/false", &[], PATIENCE).await.unwrap().success());
        let none = run("/nowhere/wake", &[], PATIENCE).await.unwrap_err();
        assert!(none.starts_with("/nowhere/wake: "), "{none}");
    }

    /// It gets what it is given as it is, and no shell reads it.
    #[tokio::test]
    async fn its_arguments_are_not_read_by_a_shell() {
        let same = run("/usr/bin/test", &words(&["a b; exit 1", "=", "a b; exit 1"]), PATIENCE).await;
        assert!(same.unwrap().success());
    }

    #[tokio::test]
    async fn who_does_not_end_is_killed() {
        let patience = Duration::from_millis(100);
        let begun = Instant::now();
        let late = run("/bin/sleep", &words(&["60"]), patience).await.unwrap_err();
        assert!(late.starts_with("killed"), "{late}");
        assert!(begun.elapsed() < Duration::from_secs(30));
    }
}
