//! What [`Keyed`](super::keyed::Keyed) needs of a database: lightningd's datastore, or one in memory.

use std::fmt;
use std::future::Future;

/// A path of names, from the plugin's own to the record's.
pub type Key = Vec<String>;

/// Why a call had no effect, or none that is known of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyError {
    /// There is something under this key already. Nothing was changed.
    Exists,
    /// The database gave no answer: it may be gone. The call may have taken effect all the same.
    Unanswered(String),
    /// Anything else. The call may have taken effect all the same.
    Failed(String),
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exists => f.write_str("the key exists already"),
            Self::Unanswered(why) | Self::Failed(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for KeyError {}

/// A key that was found, and what is stored under just this key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// As long as the key that was asked for, or longer by one name.
    pub key: Key,
    /// Nothing if there are only longer keys.
    pub value: Option<Vec<u8>>,
}

/// Values under keys. A write is durable, for itself, when it answers.
pub trait KeyValue: Clone + Send + Sync + 'static {
    /// Stores a value under a key that has none.
    fn create(&self, key: &Key, value: &[u8]) -> impl Future<Output = Result<(), KeyError>> + Send;

    /// Stores a value, whatever was there before.
    fn replace(&self, key: &Key, value: &[u8]) -> impl Future<Output = Result<(), KeyError>> + Send;

    /// Removes a key; nothing happens if it isn't there.
    fn delete(&self, key: &Key) -> impl Future<Output = Result<(), KeyError>> + Send;

    /// This key, or the next level of keys below it, in order.
    fn list(&self, key: &Key) -> impl Future<Output = Result<Vec<Listed>, KeyError>> + Send;
}
