//! What a command that takes its time tells whoever waits: bars and lines in `lightning-cli`.

use factory_engine::{Phase, Progress};
use serde_json::{Value, json};

use super::outbox::Outbox;

/// Of one request. lightningd passes it on to clients that have asked for notifications.
#[derive(Debug)]
pub struct Reporter {
    outbox: Outbox,
    id: Value,
    shown: Option<Shown>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shown {
    attempt: u32,
    stage: usize,
    done: usize,
    of: usize,
}

impl Shown {
    /// The first stage whose bar isn't full.
    fn unfinished(self) -> usize {
        if self.done == self.of { self.stage.saturating_add(1) } else { self.stage }
    }
}

impl Reporter {
    /// A reporter for the command whose request has this id.
    pub fn new(outbox: Outbox, id: Value) -> Self {
        Self { outbox, id, shown: None }
    }

    /// Prints a line in lightning-cli, as a `message` notification.
    pub fn say(&self, message: &str) {
        self.outbox.tell("message", json!({"id": self.id, "level": "info", "message": message}));
    }

    /// Draws a bar for something that is counted.
    pub fn count(&self, done: usize, of: usize) {
        let body = json!({"id": self.id, "num": done, "total": of.saturating_add(1)});
        self.outbox.tell("progress", body);
    }

    /// Draws how far a ceremony is. True if another attempt has begun.
    pub fn show(&mut self, progress: &Progress) -> bool {
        let stage = Phase::ALL.iter().position(|phase| Some(*phase) == progress.phase).unwrap_or(0);
        let now = Shown { attempt: progress.attempt, stage, done: progress.done(), of: progress.of };
        let before = self.shown.replace(now);
        if before == Some(now) {
            return false;
        }
        let again = before.is_some_and(|before| before.attempt != now.attempt);
        // Stages that went by between two looks are shown as done: so their bars get full.
        for stage in before.filter(|_| !again).map_or(0, Shown::unfinished)..now.stage {
            self.draw(Shown { stage, done: now.of, ..now });
        }
        self.draw(now);
        again
    }

    /// Fills what is left of the bars: the command has succeeded.
    pub fn finish(&mut self) {
        let Some(shown) = self.shown.take() else { return };
        for stage in shown.unfinished()..Phase::ALL.len() {
            self.draw(Shown { stage, done: shown.of, ..shown });
        }
    }

    fn draw(&self, shown: Shown) {
        // lightning-cli counts from 0, and divides by `total` less one: so nobody's answer is 0 of
        // one more than there are clients.
        let body = json!({
            "id": self.id,
            "num": shown.done,
            "total": shown.of.saturating_add(1),
            "stage": {"num": shown.stage, "total": Phase::ALL.len()},
        });
        self.outbox.tell("progress", body);
    }
}
