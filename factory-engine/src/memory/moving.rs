//! Moves under way, in memory: what the client waits for, and over which channels L forwards for nothing.

use std::collections::BTreeMap;

use crate::types::{ChannelId, Height, InstanceId, Millis, NodeId};

/// A client's move: the factory in which it is kept, and the channel that it leaves.
pub(crate) type MoveKey = (InstanceId, ChannelId);

/// What a client's move waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MovePhase {
    /// The next block, or the operator.
    Resting,
    /// `move_ready`.
    Asked { deadline: Millis },
    /// What its channels hold now. L needs so many blocks between the HTLCs. After an HTLC that has arrived: what
    /// the channel that it left had held before, msat.
    Looking { cltv_delta: u32, deadline: Millis, had_msat: Option<u64> },
    /// The end of an HTLC; what the channel that it leaves held before, msat.
    Sending { cltv_delta: u32, had_msat: u64 },
}

/// A client's move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OwnMove {
    pub(crate) phase: MovePhase,
    /// HTLCs that failed, or changed nothing, since the last that did.
    pub(crate) fails: u32,
    /// What was in its way last, for people.
    pub(crate) why: Option<String>,
}

/// L: a channel over which it forwards for nothing, or is about to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Free {
    /// The channel's peer.
    pub(crate) peer: NodeId,
    /// Who asked for it: the factory in which the move is kept, and the channel that it leaves. Nothing of one
    /// that a restart found.
    pub(crate) asked: Option<MoveKey>,
    /// Height from which on its time counts.
    pub(crate) since: Height,
    /// Height at which the node said last that it is so.
    pub(crate) set: Option<Height>,
    /// Whether it is to cost something again.
    pub(crate) back: bool,
}

/// Everything about moves that lives only in memory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Moving {
    pub(crate) own: BTreeMap<MoveKey, OwnMove>,
    pub(crate) free: BTreeMap<ChannelId, Free>,
}

/// One change of [`Moving`], made when the step is applied.
pub(crate) enum VolatileMove {
    Own(MoveKey, Option<OwnMove>),
    Free(ChannelId, Option<Free>),
}

impl Moving {
    /// When the next of them has waited long enough.
    pub(crate) fn deadline(&self) -> Option<Millis> {
        self.own.values().filter_map(|own| own.phase.deadline()).min()
    }

    pub(crate) fn apply(&mut self, change: VolatileMove) {
        match change {
            VolatileMove::Own(key, Some(own)) => {
                self.own.insert(key, own);
            }
            VolatileMove::Own(key, None) => {
                self.own.remove(&key);
            }
            VolatileMove::Free(channel, Some(free)) => {
                self.free.insert(channel, free);
            }
            VolatileMove::Free(channel, None) => {
                self.free.remove(&channel);
            }
        }
    }
}

impl MovePhase {
    pub(crate) fn deadline(self) -> Option<Millis> {
        match self {
            Self::Asked { deadline } | Self::Looking { deadline, .. } => Some(deadline),
            Self::Resting | Self::Sending { .. } => None,
        }
    }
}
