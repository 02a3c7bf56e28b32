//! lightningd's requests on their way in.
//!
//! cln-plugin keeps the id of a request to itself, and progress notifications need it: so the id of
//! every `factory-*` request is put into its parameters before cln-plugin reads them. Everything else
//! passes as it is.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use serde_json::{Value, json};
use tokio::io::{AsyncRead, ReadBuf};

const PREFIX: &str = "factory-";
/// What lightningd writes after each message, and nowhere in one.
const END: &[u8] = b"\n\n";
const CHUNK: usize = 16 * 1024;
const ID: &str = "request_id";
const PARAMS: &str = "request_params";

/// A request of one of the plugin's commands.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// lightningd's id of it, as it has to come back.
    pub id: Value,
    /// Its parameters: an array by position, or an object by name.
    pub params: Value,
}

impl Request {
    /// Takes apart what [`Tagged`] put together.
    pub fn new(mut tagged: Value) -> Self {
        match (tagged.get(ID).cloned(), tagged.get_mut(PARAMS).map(Value::take)) {
            (Some(id), Some(params)) => Self { id, params },
            _ => Self { id: Value::Null, params: tagged },
        }
    }
}

/// lightningd's end of our stdin, with each request's id put into its parameters.
#[derive(Debug)]
pub struct Tagged<R> {
    inner: R,
    /// First bytes of a message that has not ended.
    partial: Vec<u8>,
    /// Whole messages, tagged; the first bytes of them have been read already.
    ready: Vec<u8>,
    read: usize,
}

impl<R> Tagged<R> {
    /// Tags what `inner` gives.
    pub fn new(inner: R) -> Self {
        Self { inner, partial: Vec::new(), ready: Vec::new(), read: 0 }
    }

    fn take_in(&mut self, bytes: &[u8]) {
        // The end may straddle two reads.
        let mut from = self.partial.len().saturating_sub(1);
        self.partial.extend_from_slice(bytes);
        while let Some(at) = self.partial.get(from..).and_then(find_end) {
            let rest = self.partial.split_off(from.saturating_add(at).saturating_add(END.len()));
            let message = std::mem::replace(&mut self.partial, rest);
            match tag(&message) {
                Some(tagged) => {
                    self.ready.extend_from_slice(&tagged);
                    self.ready.extend_from_slice(END);
                }
                None => self.ready.extend_from_slice(&message),
            }
            from = 0;
        }
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for Tagged<R> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let mut chunk = [0; CHUNK];
        while this.read == this.ready.len() {
            this.ready.clear();
            this.read = 0;
            let mut bytes = ReadBuf::new(&mut chunk);
            ready!(Pin::new(&mut this.inner).poll_read(context, &mut bytes))?;
            if bytes.filled().is_empty() {
                // The end. What never became a message is for cln-plugin to complain about.
                this.ready.append(&mut this.partial);
                break;
            }
            this.take_in(bytes.filled());
        }
        let waiting = this.ready.get(this.read..).unwrap_or_default();
        let bytes = waiting.get(..out.remaining()).unwrap_or(waiting);
        out.put_slice(bytes);
        this.read = this.read.saturating_add(bytes.len());
        Poll::Ready(Ok(()))
    }
}

fn find_end(bytes: &[u8]) -> Option<usize> {
    bytes.windows(END.len()).position(|window| window == END)
}

/// The message with its id in its parameters. `None` for what isn't a request of ours.
fn tag(message: &[u8]) -> Option<Vec<u8>> {
    // Parsing every hook's message twice would cost more than this look.
    if !message.windows(PREFIX.len()).any(|window| window == PREFIX.as_bytes()) {
        return None;
    }
    let mut request: Value = serde_json::from_slice(message).ok()?;
    if !request.get("method")?.as_str()?.starts_with(PREFIX) {
        return None;
    }
    let id = request.get("id")?.clone();
    let params = request.get_mut("params")?.take();
    request["params"] = json!({ID: id, PARAMS: params});
    serde_json::to_vec(&request).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;

    const OTHER: &str = "{ \"jsonrpc\":\"2.0\",\n \"method\":\"htlc_accepted\", \"id\":1,\"params\":{\"x\":\"factory-\"}}\n\n";
    const OURS: &str =
        "{\"jsonrpc\":\"2.0\",\"method\":\"factory-list\",\"id\":\"cli:1/a\",\"params\":[\"é\"]}\n\n";

    /// As if it came in pieces of this size.
    async fn through(input: &str, piece: usize) -> String {
        let (mut near, far) = tokio::io::duplex(piece);
        let input = input.to_owned();
        tokio::spawn(async move {
            tokio::io::AsyncWriteExt::write_all(&mut near, input.as_bytes()).await.unwrap();
        });
        let mut output = String::new();
        Tagged::new(far).read_to_string(&mut output).await.unwrap();
        output
    }

    #[tokio::test]
    async fn only_our_requests_change_wherever_reads_end() {
        for piece in [1, 2, 7, 100_000] {
            let output = through(&format!("{OTHER}{OURS}{OURS}{OTHER}"), piece).await;
            let messages: Vec<&str> = output.split_inclusive("\n\n").collect();
            assert_eq!(messages.len(), 4, "{output}");
            assert_eq!((messages[0], messages[3]), (OTHER, OTHER));
            for ours in &messages[1..3] {
                let mut value: Value = serde_json::from_str(ours).unwrap();
                assert_eq!(value["id"], "cli:1/a");
                let request = Request::new(value["params"].take());
                assert_eq!(request, Request { id: json!("cli:1/a"), params: json!(["é"]) });
            }
        }
    }

    #[tokio::test]
    async fn what_has_no_end_or_no_id_passes() {
        let notification = "{\"method\":\"factory-list\",\"params\":{}}\n\n";
        for input in ["", "{\"method\":\"factory-list\"", notification, "factory-\n\n"] {
            assert_eq!(through(input, 5).await, input);
        }
    }

    #[test]
    fn without_a_tag_everything_is_parameters() {
        let request = Request::new(json!([1]));
        assert_eq!(request, Request { id: Value::Null, params: json!([1]) });
    }
}
