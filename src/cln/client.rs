//! Calls to lightningd's JSON-RPC.
//!
//! A connection of its own for every call: it costs microseconds, lightningd serves many at once,
//! and a slow call (`fundchannel_complete`) never stands in the way of another.

use std::fmt;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cln_rpc::ClnRpc;
use serde_json::Value;

/// What lightningd (or the way to it) said instead of a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallError {
    /// The command.
    pub method: String,
    /// lightningd's code; nothing when the call did not get through.
    pub code: Option<i32>,
    /// For people.
    pub message: String,
}

impl CallError {
    pub(super) fn new(method: &str, message: impl Into<String>) -> Self {
        Self { method: method.to_owned(), code: None, message: message.into() }
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.method, self.message)
    }
}

impl std::error::Error for CallError {}

/// How commands reach lightningd. A trait, so that what is built on it can be tested without a node.
pub trait Call: Clone + Send + Sync + 'static {
    /// Makes one call and waits for its result.
    fn call(&self, method: &str, params: Value) -> impl Future<Output = Result<Value, CallError>> + Send;
}

/// lightningd's RPC socket.
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

impl Call for Rpc {
    async fn call(&self, method: &str, params: Value) -> Result<Value, CallError> {
        let mut connection = ClnRpc::new(&self.socket)
            .await
            .map_err(|error| CallError::new(method, format!("cannot reach lightningd: {error}")))?;
        connection.call_raw(method, &params).await.map_err(|error| CallError {
            method: method.to_owned(),
            code: error.code,
            message: error.message,
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
