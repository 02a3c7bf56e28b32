//! One look for all who watch, and none while nobody does.

use std::sync::Arc;
use std::time::Duration;

use factory_engine::types::Height;
use factory_runtime::Transition;
use hyper::body::Bytes;
use serde_json::{Value, json};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Mutex, Notify, broadcast, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::cln::error::RpcError;
use crate::cln::state::State;

use super::look::{Looks, lasting};

/// Between two looks at least.
const LEAST: Duration = Duration::from_secs(1);
/// And for so many times as long as the last one took, so that looking is a small part of what the node does.
const REST: u32 = 9;
/// Bytes that each reader is sent in a second at most, on the average.
const BYTES_A_SECOND: usize = 256_000;
/// But no longer than this between two.
const MOST: Duration = Duration::from_secs(30);
/// Without any news it is looked again after so long.
const AGAIN: Duration = Duration::from_secs(5);
/// What has only aged is sent after so long.
const AGED: Duration = Duration::from_secs(30);
/// What takes longer is said.
const PATIENCE: Duration = Duration::from_secs(20);

/// What everybody who watches is shown.
pub struct Source {
    state: State,
    /// The last event, as it is sent; nothing when nobody has watched.
    shown: watch::Sender<Option<Bytes>>,
    /// Somebody watches from now on.
    wanted: Notify,
}

/// What a look has come to.
type Looked = Result<Value, RpcError>;

/// What is sent of it, and what of that makes it news.
struct Told {
    event: Bytes,
    lasting: Bytes,
}

impl Source {
    /// Nothing is looked at before somebody watches.
    pub fn new(state: State) -> Self {
        Self { state, shown: watch::Sender::new(None), wanted: Notify::new() }
    }

    /// What is shown from now on; what there is already counts as new.
    pub fn follow(&self) -> watch::Receiver<Option<Bytes>> {
        let mut shown = self.shown.subscribe();
        shown.mark_changed();
        self.wanted.notify_one();
        shown
    }

    /// How many watch.
    pub fn watchers(&self) -> usize {
        self.shown.receiver_count()
    }

    /// Looks for as long as it is polled.
    pub async fn run(&self) {
        let looks = Arc::new(Mutex::new(Looks::default()));
        let mut transitions = self.state.runtime.transitions();
        let mut news = self.state.news.subscribe();
        let mut looking: Option<JoinHandle<Looked>> = None;
        // What of the last one makes it news, and when it was sent.
        let mut sent: Option<(Bytes, Instant)> = None;
        loop {
            if self.watchers() == 0 {
                // Whoever comes next sees what is so then.
                self.shown.send_replace(None);
                sent = None;
                self.wanted.notified().await;
                looking = looking.filter(|looking| !looking.is_finished());
                continue;
            }
            // What has changed until now is seen.
            transitions = transitions.resubscribe();
            news.mark_unchanged();
            let began = Instant::now();
            let begin = || {
                let (state, looks) = (State::clone(&self.state), Arc::clone(&looks));
                // A task of its own: one that panics costs a look.
                tokio::spawn(async move { looks.lock().await.look(&state).await })
            };
            let ended = tokio::time::timeout(PATIENCE, looking.get_or_insert_with(begin)).await;
            let Told { event, lasting } = match ended {
                // It goes on, and no other is begun before it has ended.
                Err(_) => trouble(&format!("the node has not answered for {} s", PATIENCE.as_secs())),
                Ok(ended) => {
                    looking = None;
                    told(ended.map_err(|error| error.to_string()))
                }
            };
            let size = event.len();
            let is_due = sent.as_ref().is_none_or(|(known, at)| *known != lasting || at.elapsed() >= AGED);
            if is_due {
                sent = Some((lasting, Instant::now()));
            }
            self.shown.send_if_modified(|shown| {
                let is_new = is_due && shown.as_ref() != Some(&event);
                // Whoever comes later sees it, too.
                *shown = Some(event);
                is_new
            });
            tokio::time::sleep(rest(began.elapsed(), size)).await;
            // Whether there are news or not.
            let _ = tokio::time::timeout(AGAIN, changed(&mut transitions, &mut news)).await;
        }
    }
}

fn told(looked: Result<Looked, String>) -> Told {
    match looked {
        Ok(Ok(seen)) => Told { event: event("state", &seen), lasting: event("state", &lasting(seen)) },
        Ok(Err(error)) => trouble(&error.message),
        Err(error) => {
            log::error!("a look for the page failed, please report it as a bug: {error}");
            trouble("a look failed inside the plugin: this is a bug, please report it (see the log)")
        }
    }
}

fn trouble(why: &str) -> Told {
    let event = event("trouble", &json!({"error": why}));
    Told { lasting: event.clone(), event }
}

/// As a stream of events has it. JSON has no line ends of its own.
pub fn event(name: &str, data: &Value) -> Bytes {
    Bytes::from(format!("event: {name}\ndata: {data}\n\n"))
}

/// How long nothing is looked at after a look that took so long, and is so large.
fn rest(took: Duration, bytes: usize) -> Duration {
    let seconds = u64::try_from(bytes / BYTES_A_SECOND).unwrap_or(u64::MAX);
    took.saturating_mul(REST).max(Duration::from_secs(seconds)).clamp(LEAST, MOST)
}

/// Returns with a factory's change of state, or a block.
async fn changed(transitions: &mut broadcast::Receiver<Transition>, news: &mut watch::Receiver<Height>) {
    let transition = async {
        if let Err(RecvError::Closed) = transitions.recv().await {
            // The plugin ends.
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        () = transition => {}
        _ = news.changed() => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_is_a_small_part_of_what_the_node_does() {
        let milliseconds = Duration::from_millis;
        assert_eq!(rest(milliseconds(1), 0), LEAST);
        assert_eq!(rest(milliseconds(500), 0), milliseconds(4_500));
        assert_eq!(rest(milliseconds(1), 10 * BYTES_A_SECOND), Duration::from_secs(10));
        assert_eq!(rest(PATIENCE, usize::MAX), MOST);
    }

    #[test]
    fn an_event_has_one_line_of_data() {
        let text = "a\nb\r\u{2028}c";
        let event = event("state", &json!({"alias": text}));
        let event = std::str::from_utf8(&event).unwrap();
        let lines: Vec<&str> = event.split(['\n', '\r']).collect();
        let ["event: state", data, "", ""] = lines.as_slice() else { panic!("{event}") };
        let data: Value = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
        assert_eq!(data["alias"], text);
    }
}
