//! The states of a factory, as `factory-list` shows them.

use std::fmt;
use std::str::FromStr;

/// Where a factory is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// Client: invited, no answer given yet.
    Invited,
    /// Keys and nonces are collected; L: also the channel opens.
    Joining,
    /// Partial signatures are exchanged.
    Signing,
    /// Finished signatures are distributed and stored.
    Storing,
    /// Channels are completed and checked.
    Opening,
    /// The funding transaction may be on its way; waiting for its confirmations.
    Funding,
    /// Channels are usable: the funding is as deep as the terms ask for.
    Active,
    /// Near the timeout: clients should move out.
    Dying,
    /// This node is publishing its path.
    Exiting,
    /// The leaf (for L: every leaf) is on chain: lightningd does the rest.
    Exited,
    /// The timeout has passed and distribution transactions pay the clients.
    Distributed,
    /// The operator has taken everything back, with the keys that were handed over.
    Reclaimed,
    /// It is closed by all together: from the first signature until what pays everybody is buried.
    Closing,
    /// This client has handed its key over: nothing of this node's is left in it (S22).
    Left,
    /// The client declined the invitation.
    Declined,
    /// Creation failed; kept until nothing that was signed can matter (S12).
    Aborted,
    /// Everything of this node's is settled on chain, for good.
    Closed,
}

impl State {
    /// Every state, in the order of a factory's life.
    pub const ALL: [State; 17] = [
        State::Invited,
        State::Joining,
        State::Signing,
        State::Storing,
        State::Opening,
        State::Funding,
        State::Active,
        State::Dying,
        State::Exiting,
        State::Exited,
        State::Distributed,
        State::Reclaimed,
        State::Closing,
        State::Left,
        State::Declined,
        State::Aborted,
        State::Closed,
    ];

    /// Its name in RPC and logs.
    pub fn name(self) -> &'static str {
        match self {
            State::Invited => "invited",
            State::Joining => "joining",
            State::Signing => "signing",
            State::Storing => "storing",
            State::Opening => "opening",
            State::Funding => "funding",
            State::Active => "active",
            State::Dying => "dying",
            State::Exiting => "exiting",
            State::Exited => "exited",
            State::Distributed => "distributed",
            State::Reclaimed => "reclaimed",
            State::Closing => "closing",
            State::Left => "left",
            State::Declined => "declined",
            State::Aborted => "aborted",
            State::Closed => "closed",
        }
    }

    /// Whether creation is still under way.
    pub fn is_creating(self) -> bool {
        self <= State::Opening
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The text names no state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownState;

impl FromStr for State {
    type Err = UnknownState;

    fn from_str(text: &str) -> Result<Self, UnknownState> {
        State::ALL.into_iter().find(|state| state.name() == text).ok_or(UnknownState)
    }
}
