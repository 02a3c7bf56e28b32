//! Work for one peer, in the order in which it was asked for.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use factory_engine::types::NodeId;
use tokio::sync::mpsc;

type Job = Pin<Box<dyn Future<Output = ()> + Send>>;
type Map = HashMap<NodeId, mpsc::UnboundedSender<Job>>;

/// A lane's task ends after so long without work.
const IDLE: Duration = Duration::from_secs(60);

/// One lane for each peer that has work; lanes don't wait for each other.
#[derive(Clone, Default)]
pub struct Lanes(Arc<Mutex<Map>>);

impl Lanes {
    /// Puts a job behind those that the peer has already.
    pub fn push(&self, peer: NodeId, job: impl Future<Output = ()> + Send + 'static) {
        let mut lanes = self.lock();
        let job: Job = Box::pin(job);
        let lane = lanes.entry(peer).or_insert_with(|| {
            let (sender, jobs) = mpsc::unbounded_channel();
            tokio::spawn(self.clone().work(peer, jobs));
            sender
        });
        // The lane's task holds the receiver for as long as its sender is in the map.
        let _ = lane.send(job);
    }

    async fn work(self, peer: NodeId, mut jobs: mpsc::UnboundedReceiver<Job>) {
        loop {
            match tokio::time::timeout(IDLE, jobs.recv()).await {
                // A task of its own, so that a panic ends that job alone.
                Ok(Some(job)) => {
                    if let Err(error) = tokio::spawn(job).await {
                        log::error!("{peer}: work for it was not done: {error}");
                    }
                }
                Ok(None) => return,
                Err(_) => {
                    let mut lanes = self.lock();
                    // A job may have come in between.
                    if jobs.is_empty() {
                        lanes.remove(&peer);
                        return;
                    }
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Map> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn order_within_a_peer_and_independence_between_peers() {
        let lanes = Lanes::default();
        let (done, mut results) = mpsc::unbounded_channel();
        let (slow, fast) = (NodeId([2; 33]), NodeId([3; 33]));
        let (release, gate) = tokio::sync::oneshot::channel::<()>();
        let first = done.clone();
        lanes.push(slow, async move {
            gate.await.unwrap();
            first.send("slow 1").unwrap();
        });
        let second = done.clone();
        lanes.push(slow, async move { second.send("slow 2").unwrap() });
        lanes.push(fast, async move { done.send("fast").unwrap() });
        assert_eq!(results.recv().await, Some("fast"));
        release.send(()).unwrap();
        assert_eq!(results.recv().await, Some("slow 1"));
        assert_eq!(results.recv().await, Some("slow 2"));
    }

    // S33
    #[tokio::test]
    async fn a_panic_ends_one_job() {
        let lanes = Lanes::default();
        let (done, mut results) = mpsc::unbounded_channel();
        lanes.push(NodeId([2; 33]), async { panic!("on purpose") });
        lanes.push(NodeId([2; 33]), async move { done.send("the next").unwrap() });
        assert_eq!(results.recv().await, Some("the next"));
    }
}
