//! Errors of the `factory-*` commands, with the codes that lightningd's users switch on.

use std::fmt;

use factory_engine::{Refusal, RefusalKind};
use serde_json::json;

use crate::cln::words;

use super::client::CallError;

/// A parameter is wrong (JSON-RPC's own code).
pub const INVALID_PARAMS: i32 = -32602;
/// The wallet can't pay for it (lightningd's `FUND_CANNOT_AFFORD`).
pub const CANNOT_AFFORD: i32 = 301;
/// No such factory or invitation.
pub const UNKNOWN_FACTORY: i32 = 2500;
/// The factory's state doesn't allow it.
pub const WRONG_STATE: i32 = 2501;
/// A client can't take part.
pub const BAD_CLIENT: i32 = 2502;
/// The plugin can't write its state, or doesn't understand what is stored.
pub const UNAVAILABLE: i32 = 2503;
/// The factory was not created; its state says why.
pub const NOT_CREATED: i32 = 2504;
/// A purchase came to nothing; the message says why.
pub const NOT_SOLD: i32 = 2505;
/// A move came to nothing; the message says why.
pub const NOT_MOVED: i32 = 2506;
/// A close came to nothing; the message says why.
pub const NOT_CLOSED: i32 = 2507;
/// A factory can't be left for an ordinary channel; the message says why.
pub const NOT_LEFT: i32 = 2508;
/// Nothing was restored; the message says why.
pub const NOT_RESTORED: i32 = 2509;
/// Anything that lightningd said without a code.
const OTHER: i32 = -1;

/// What the codes are called where refusals are counted.
const KINDS: [(i32, &str); 12] = [
    (INVALID_PARAMS, "parameter"),
    (CANNOT_AFFORD, "cannot_afford"),
    (UNKNOWN_FACTORY, "unknown_factory"),
    (WRONG_STATE, "wrong_state"),
    (BAD_CLIENT, "bad_client"),
    (UNAVAILABLE, "unavailable"),
    (NOT_CREATED, "not_created"),
    (NOT_SOLD, "not_sold"),
    (NOT_MOVED, "not_moved"),
    (NOT_CLOSED, "not_closed"),
    (NOT_LEFT, "not_left"),
    (NOT_RESTORED, "not_restored"),
];
/// The same of lightningd's own.
const OTHER_KIND: &str = "other";

/// Every kind of error.
pub fn kinds() -> impl Iterator<Item = &'static str> {
    KINDS.into_iter().map(|(_, kind)| kind).chain([OTHER_KIND])
}

/// What a command answers instead of a result: a JSON-RPC error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RpcError {
    /// One of the constants of this module, or lightningd's own.
    pub code: i32,
    /// For people: names what is wrong, and what to do about it.
    pub message: String,
}

impl RpcError {
    /// An error with this code: what is wrong, and what to do about it.
    pub fn new(code: i32, what: impl fmt::Display, next: impl fmt::Display) -> Self {
        Self { code, message: format!("{what}; {next}") }
    }

    /// Its kind: one of [`kinds`].
    pub fn kind(&self) -> &'static str {
        KINDS.into_iter().find(|(code, _)| *code == self.code).map_or(OTHER_KIND, |(_, kind)| kind)
    }

    /// A command panicked: a bug, with code -1.
    pub fn internal(command: &str) -> Self {
        Self::new(
            OTHER,
            format!("{command} failed inside the plugin"),
            "this is a bug: please report it, with what lightningd's log says",
        )
    }

    /// A parameter is wrong: JSON-RPC's -32602. The text says what it may be.
    pub fn parameter(message: impl Into<String>) -> Self {
        Self { code: INVALID_PARAMS, message: message.into() }
    }
}

/// As JSON: cln-plugin sends an error whose text has this form as the error object itself.
impl fmt::Display for RpcError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", json!({"code": self.code, "message": self.message}))
    }
}

impl std::error::Error for RpcError {}

impl From<Refusal> for RpcError {
    fn from(refusal: Refusal) -> Self {
        let code = match refusal.kind() {
            RefusalKind::BadParameter => INVALID_PARAMS,
            RefusalKind::Unknown => UNKNOWN_FACTORY,
            RefusalKind::WrongState => WRONG_STATE,
            RefusalKind::BadClient => BAD_CLIENT,
            RefusalKind::Unavailable => UNAVAILABLE,
        };
        Self { code, message: words::refusal(&refusal) }
    }
}

impl From<CallError> for RpcError {
    fn from(error: CallError) -> Self {
        Self::new(error.code.unwrap_or(OTHER), &error, "see lightningd's log, and try again")
    }
}
