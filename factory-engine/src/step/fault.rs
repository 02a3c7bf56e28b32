//! What is wrong with a message of a peer.

/// Why a message of a peer had no effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It came too late or twice: nothing wrong with the peer.
    Stale(String),
    /// The peer broke the protocol.
    Peer(String),
}

impl Fault {
    pub(crate) fn stale(text: impl Into<String>) -> Self {
        Self::Stale(text.into())
    }

    pub(crate) fn peer(text: impl ToString) -> Self {
        Self::Peer(text.to_string())
    }
}
