//! What goes out on stdout: cln-plugin's answers, and what the plugin says without being asked.
//!
//! cln-plugin repeats a notification's body in a field of the notification's name. That is right for
//! topics of plugins, and breaks lightningd's own `message`, which has a field of that name. And its
//! logger drops everything below `info` unless an environment variable says otherwise; lightningd
//! filters by its `log-level` anyhow, so it should get to see all of ours. So both go around it.

use std::io;

use log::{LevelFilter, Log, Metadata, Record};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};

/// What ends every message, and is nowhere in one.
const END: &[u8] = b"\n\n";
const CHUNK: usize = 16 * 1024;
/// Crates whose every line is ours: what the engine says, the runtime logs.
const OURS: [&str; 2] = ["cln_factory", "factory_runtime"];

/// Where letters are left. They go out in order.
#[derive(Debug, Clone)]
pub struct Outbox(mpsc::UnboundedSender<Letter>);

/// Letters that wait to be sent.
#[derive(Debug)]
pub struct Undelivered(mpsc::UnboundedReceiver<Letter>);

#[derive(Debug)]
enum Letter {
    Message(Value),
    /// Somebody waits for what is before it to be out.
    Flush(oneshot::Sender<()>),
}

impl Outbox {
    /// An outbox, and what delivers from it.
    pub fn new() -> (Self, Undelivered) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self(sender), Undelivered(receiver))
    }

    /// Sends one of lightningd's own notifications: `log`, `message`, `progress`.
    pub fn tell(&self, method: &str, params: Value) {
        // Fails only when the plugin is ending.
        let _ = self.0.send(Letter::Message(json!({"jsonrpc": "2.0", "method": method, "params": params})));
    }

    /// Returns when everything that was left here before is out, or never will be.
    pub async fn flush(&self) {
        let (done, flushed) = oneshot::channel();
        // Either fails only when nobody delivers any more.
        let _ = self.0.send(Letter::Flush(done));
        let _ = flushed.await;
    }

    /// Publishes a notification of a topic that the manifest lists.
    pub fn publish(&self, topic: &str, body: Value) {
        // Subscribers of lightningd before v26.09 may read the fields themselves.
        let mut params = body.clone();
        params[topic] = body;
        self.tell(topic, params);
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
    /// Delivers letters and the messages in `answers`, each whole, until `answers` ends.
    pub async fn deliver(
        mut self,
        mut answers: impl AsyncRead + Unpin,
        mut out: impl AsyncWrite + Unpin,
    ) -> io::Result<()> {
        let mut chunk = vec![0; CHUNK];
        let mut partial: Vec<u8> = Vec::new();
        loop {
            tokio::select! {
                read = answers.read(&mut chunk) => {
                    let bytes = chunk.get(..read?).unwrap_or_default();
                    if bytes.is_empty() {
                        break;
                    }
                    // The end may have begun in the chunk before. An answer can have thousands of chunks.
                    let seen = partial.len().saturating_sub(END.len());
                    partial.extend_from_slice(bytes);
                    // What was said before an answer arrives before it.
                    self.deliver_letters(&mut out).await?;
                    if let Some(end) = end_of_last(&partial, seen) {
                        let rest = partial.split_off(end);
                        out.write_all(&std::mem::replace(&mut partial, rest)).await?;
                    }
                }
                Some(letter) = self.0.recv() => send(&mut out, letter).await?,
            }
            out.flush().await?;
        }
        self.deliver_letters(&mut out).await?;
        // What was cut off, for lightningd to complain about.
        out.write_all(&partial).await?;
        out.flush().await
    }

    async fn deliver_letters(&mut self, out: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        while let Ok(letter) = self.0.try_recv() {
            send(out, letter).await?;
        }
        Ok(())
    }
}

async fn send(out: &mut (impl AsyncWrite + Unpin), letter: Letter) -> io::Result<()> {
    match letter {
        Letter::Message(message) => {
            let mut bytes = message.to_string().into_bytes();
            bytes.extend_from_slice(END);
            out.write_all(&bytes).await
        }
        Letter::Flush(done) => {
            out.flush().await?;
            // Whoever waited may have given up.
            let _ = done.send(());
            Ok(())
        }
    }
}

/// Where the last whole message ends, if one ends after the first `seen` bytes.
fn end_of_last(bytes: &[u8], seen: usize) -> Option<usize> {
    let last = bytes.get(seen..)?.windows(END.len()).rposition(|window| window == END)?;
    last.checked_add(seen)?.checked_add(END.len())
}

/// Longest line of the log, bytes.
const LONGEST_LINE: usize = 16_384;

/// A line that lightningd, and whoever reads its log, can bear.
fn cut(mut line: String) -> String {
    if line.len() > LONGEST_LINE {
        let end = (0..=LONGEST_LINE).rev().find(|end| line.is_char_boundary(*end)).unwrap_or(0);
        let left_out = line.len().saturating_sub(end);
        line.truncate(end);
        line.push_str(&format!(" … (and {left_out} bytes more)"));
    }
    line
}

struct Logger(Outbox);

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // The crates below us trace every call, parameters included.
        let krate = metadata.target().split("::").next();
        metadata.level() <= log::Level::Warn || krate.is_some_and(|krate| OURS.contains(&krate))
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let level = record.level().as_str().to_ascii_lowercase();
            self.0.tell("log", json!({"level": level, "message": cut(record.args().to_string())}));
        }
    }

    fn flush(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_crate_of_ours_is_heard_and_no_other() {
        let logger = Logger(Outbox::new().0);
        let heard = |target: &str| {
            logger.enabled(&Metadata::builder().level(log::Level::Debug).target(target).build())
        };
        // By the names that the compiler gives them.
        assert!(heard(std::any::type_name::<Outbox>()));
        assert!(heard(std::any::type_name::<factory_runtime::View>()));
        assert!(!heard(std::any::type_name::<cln_rpc::ClnRpc>()));
        assert!(!heard("cln_factory_of_somebody_else::module"));
        assert!(logger.enabled(&Metadata::builder().level(log::Level::Warn).target("cln_rpc").build()));
    }

    // S28
    #[test]
    fn long_lines_are_cut() {
        assert_eq!(cut("é".repeat(8_192)), "é".repeat(8_192));
        let line = cut(format!("x{}", "é".repeat(200_000)));
        assert!(line.len() < LONGEST_LINE + 64 && line.ends_with("bytes more)"), "{}", line.len());
    }

    #[tokio::test]
    async fn messages_stay_whole() {
        let (outbox, undelivered) = Outbox::new();
        let (mut plugin, answers) = tokio::io::duplex(3);
        let (out, mut lightningd) = tokio::io::duplex(1 << 20);
        let delivery = tokio::spawn(undelivered.deliver(answers, out));
        for number in 0..100i64 {
            outbox.tell("message", json!({"message": number}));
            plugin.write_all(format!("{{\"id\":{number}}}\n\n").as_bytes()).await.unwrap();
        }
        outbox.publish("topic", json!({"field": 1}));
        plugin.write_all(b"{\"cut").await.unwrap();
        // What was said before it is out when it returns.
        outbox.flush().await;
        drop(plugin);
        delivery.await.unwrap().unwrap();
        let mut text = String::new();
        lightningd.read_to_string(&mut text).await.unwrap();
        let messages: Vec<&str> =
            text.split_terminator("\n\n").filter(|m| !m.starts_with("{\"cut")).collect();
        let parsed: Vec<Value> = messages.iter().map(|m| serde_json::from_str(m).unwrap()).collect();
        let answers = parsed.iter().filter_map(|message| message["id"].as_i64());
        assert!(answers.eq(0..100));
        let told = parsed.iter().filter_map(|message| message["params"]["message"].as_i64());
        assert!(told.eq(0..100));
        // And none before what was said before it.
        let place = |wanted: Value| parsed.iter().position(|message| *message == wanted);
        for number in 0..100i64 {
            let letter = json!({"jsonrpc": "2.0", "method": "message", "params": {"message": number}});
            assert!(place(letter) < place(json!({"id": number})));
        }
    }
}
