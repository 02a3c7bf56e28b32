//! Tasks without which nothing is guarded. When one of them ends, the process has to (S33): lightningd would
//! go on, and nobody would see a factory's deadlines.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;

/// How much later a task is noticed that has only returned.
const CAUSE_FIRST: Duration = Duration::from_millis(500);

/// Starts such tasks. A cheap clone.
#[derive(Debug, Clone)]
pub struct Vital {
    ended: mpsc::UnboundedSender<String>,
    stopping: Arc<AtomicBool>,
}

/// Hears of tasks that have ended.
#[derive(Debug)]
pub struct Deaths(mpsc::UnboundedReceiver<String>);

impl Vital {
    /// Both ends.
    pub fn new() -> (Self, Deaths) {
        let (ended, deaths) = mpsc::unbounded_channel();
        (Self { ended, stopping: Arc::default() }, Deaths(deaths))
    }

    /// Starts a task that ends with the process alone. `name` says what it does, for people.
    pub fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let vital = self.clone();
        let task = tokio::spawn(task);
        tokio::spawn(async move {
            let how = match task.await {
                Err(error) => error.to_string(),
                Ok(()) => {
                    // Perhaps because another has panicked: that one is to be named.
                    tokio::time::sleep(CAUSE_FIRST).await;
                    "it returned".to_owned()
                }
            };
            if !vital.stopping.load(Ordering::Relaxed) {
                // Fails only where nobody waits for it any more: the process is ending.
                let _ = vital.ended.send(format!("the task that {name} has ended ({how})"));
            }
        });
    }

    /// From now on it is no wonder that tasks end.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }
}

impl Deaths {
    /// Which task has ended, and how.
    pub async fn next(&mut self) -> String {
        match self.0.recv().await {
            Some(why) => why,
            // Nobody can start one any more, and none has ended.
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // S33
    #[tokio::test]
    async fn a_task_that_panics_or_returns_is_noticed() {
        let (vital, mut deaths) = Vital::new();
        vital.spawn("never ends", std::future::pending());
        vital.spawn("follows the chain", async { panic!("on purpose") });
        let why = deaths.next().await;
        assert!(why.contains("follows the chain") && why.contains("on purpose"), "{why}");
        vital.spawn("owns the engine", async {});
        assert!(deaths.next().await.contains("owns the engine has ended (it returned)"));
    }

    // S33
    #[tokio::test]
    async fn the_end_of_the_process_is_no_death() {
        let (vital, mut deaths) = Vital::new();
        vital.stop();
        let (done, ended) = tokio::sync::oneshot::channel();
        vital.spawn("owns the engine", async move { done.send(()).unwrap() });
        ended.await.unwrap();
        drop(vital);
        let none = tokio::time::timeout(std::time::Duration::from_millis(50), deaths.next()).await;
        assert!(none.is_err(), "{none:?}");
    }
}
