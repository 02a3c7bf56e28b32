//! Calls to lightningd's JSON-RPC.
//!
//! A connection of its own for every call: it costs microseconds, lightningd serves many at once,
//! and a slow call (`fundchannel_complete`) never stands in the way of another.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use std::{fmt, io};

use cln_rpc::ClnRpc;
use factory_engine::NodeError;
use factory_engine::wire::words::escaped;
use serde_json::Value;

/// What lightningd (or the way to it) said instead of a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallError {
    /// Name of the command that was called.
    pub method: String,
    /// lightningd's code; nothing when the call did not get through.
    pub code: Option<i32>,
    /// What went wrong, for people.
    pub message: String,
    /// Of a command that calls others: which of them has failed, if it says so.
    pub part: Option<String>,
}

impl CallError {
    pub(super) fn new(method: &str, message: impl AsRef<str>) -> Self {
        Self::with(method, None, message.as_ref())
    }

    /// What lightningd says may quote what a peer said.
    fn with(method: &str, code: Option<i32>, message: &str) -> Self {
        Self { method: method.to_owned(), code, message: escaped(message.as_bytes(), MOST_SAID), part: None }
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.method, self.message)
    }
}

impl std::error::Error for CallError {}

/// What the engine hears of it.
impl From<CallError> for NodeError {
    fn from(error: CallError) -> Self {
        Self(error.to_string())
    }
}

/// How commands reach lightningd. A trait, so that what is built on it can be tested without a node.
pub trait Call: Clone + Send + Sync + 'static {
    /// Makes one call and waits for its result.
    fn call(&self, method: &str, params: Value) -> impl Future<Output = Result<Value, CallError>> + Send;
}

/// lightningd's RPC socket: each call has a connection of its own.
#[derive(Debug, Clone)]
pub struct Rpc {
    socket: Arc<Path>,
}

impl Rpc {
    /// Of the socket at this path. Connects with each call.
    pub fn new(socket: PathBuf) -> Self {
        Self { socket: socket.into() }
    }

    /// Like [`Call::call`], but gives up after `patience`. The command may still take effect.
    pub async fn call_within(
        &self,
        patience: Duration,
        method: &str,
        params: Value,
    ) -> Result<Value, CallError> {
        match tokio::time::timeout(patience, self.call(method, params)).await {
            Ok(result) => result,
            Err(_) => {
                let text = format!("no answer within {} s", patience.as_secs());
                Err(CallError::new(method, text))
            }
        }
    }
}

/// The most characters that are kept of what lightningd says went wrong.
const MOST_SAID: usize = 2_000;
/// Between two attempts to connect while too many others wait.
const CROWDED: Duration = Duration::from_millis(10);
/// How long a call waits for its turn to connect. Each of many may have to wait for all others.
const TURN: Duration = Duration::from_secs(60);
/// POSIX's numbers for a process, and a system, without room for another socket.
const NO_ROOM: [i32; 2] = [24, 23];

/// Connects as soon as there is room: lightningd's socket takes 128 that it hasn't come to yet, and refuses
/// others (`EAGAIN`), and a process has only so many files. What a large factory's members are to be told
/// at once is more than either.
async fn connect(socket: &Path) -> Result<ClnRpc, anyhow::Error> {
    let connected = async {
        loop {
            match ClnRpc::new(socket).await {
                Err(error) if is_crowded(&error) => tokio::time::sleep(CROWDED).await,
                ended => return ended,
            }
        }
    };
    let late = |_| anyhow::anyhow!("too many calls at once: no room for {} s", TURN.as_secs());
    tokio::time::timeout(TURN, connected).await.map_err(late)?
}

fn is_crowded(error: &anyhow::Error) -> bool {
    let cause = error.downcast_ref::<io::Error>();
    cause.is_some_and(|cause| {
        cause.kind() == io::ErrorKind::WouldBlock
            || cause.raw_os_error().is_some_and(|number| NO_ROOM.contains(&number))
    })
}

impl Call for Rpc {
    async fn call(&self, method: &str, params: Value) -> Result<Value, CallError> {
        let mut connection = connect(&self.socket)
            .await
            .map_err(|error| CallError::new(method, format!("cannot reach lightningd: {error}")))?;
        let called = connection.call_raw(method, &params).await;
        called.map_err(|error| {
            let part = error.data.as_ref().and_then(|data| data["method"].as_str()).map(str::to_owned);
            CallError { part, ..CallError::with(method, error.code, &error.message) }
        })
    }
}

/// Picks `field` from a result; an error that names both when it isn't there or isn't of this type.
pub fn field<T: serde::de::DeserializeOwned>(
    method: &str,
    result: &Value,
    field: &str,
) -> Result<T, CallError> {
    let value = result.get(field).cloned().unwrap_or(Value::Null);
    serde_json::from_value(value)
        .map_err(|error| CallError::new(method, format!("unexpected `{field}` in its result: {error}")))
}

#[cfg(test)]
mod tests {
    use super::super::scratch::Scratch;
    use super::*;
    use serde_json::json;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{UnixListener, UnixSocket, UnixStream};

    async fn answer(mut connection: UnixStream) {
        let mut request = Vec::new();
        let request: Value = loop {
            connection.read_buf(&mut request).await.unwrap();
            if let Ok(whole) = serde_json::from_slice(&request) {
                break whole;
            }
        };
        let text = json!({"jsonrpc": "2.0", "id": request["id"], "result": request["params"]}).to_string();
        connection.write_all(format!("{text}\n\n").as_bytes()).await.unwrap();
    }

    async fn serve(listener: UnixListener) {
        loop {
            let (connection, _) = listener.accept().await.unwrap();
            tokio::spawn(answer(connection));
        }
    }

    /// A thousand clients are invited at once: nobody's message may be lost because of it.
    #[tokio::test]
    async fn more_calls_than_the_socket_takes() {
        let scratch = Scratch::new();
        let path = scratch.path().join("rpc");
        let socket = UnixSocket::new_stream().unwrap();
        socket.bind(&path).unwrap();
        let listener = socket.listen(4).unwrap();
        let rpc = Rpc::new(path.clone());
        let calls: Vec<_> = (0..100)
            .map(|number| {
                let rpc = rpc.clone();
                tokio::spawn(async move { rpc.call("echo", json!([number])).await })
            })
            .collect();
        // They wait, all but a few of them outside; then lightningd finds the time.
        tokio::task::yield_now().await;
        let crowded = ClnRpc::new(&path).await;
        assert!(is_crowded(&crowded.err().unwrap()));
        tokio::spawn(serve(listener));
        for (number, call) in calls.into_iter().enumerate() {
            assert_eq!(call.await.unwrap(), Ok(json!([number])));
        }
        drop(scratch);
        let gone = rpc.call("echo", json!([])).await.unwrap_err();
        assert!(gone.message.contains("cannot reach lightningd"), "{gone}");
    }
}
