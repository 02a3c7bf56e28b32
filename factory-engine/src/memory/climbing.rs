//! What a ladder has in memory between blocks.

use std::collections::BTreeMap;

use crate::terms::ClientIndex;
use crate::types::{Height, InstanceId, Millis};

/// What a restart may lose: it is looked at anew at every block.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Climbing {
    /// When it is looked who is here, since somebody connected.
    pub(crate) look_at: Option<Millis>,
    /// Height at which it was last asked what those who are due have.
    pub(crate) asked: Option<Height>,
    /// Why a factory could not be begun, the last time, and the height then.
    pub(crate) refused: Option<(Height, String)>,
    /// Height at which a client was last woken for an HTLC.
    pub(crate) woken: BTreeMap<(InstanceId, ClientIndex), Height>,
}

/// A change of [`Climbing`], made when the step is applied.
pub(crate) enum VolatileClimbing {
    LookAt(Option<Millis>),
    Asked(Height),
    Refused(Option<(Height, String)>),
    Woken((InstanceId, ClientIndex), Height),
}

impl Climbing {
    pub(crate) fn apply(&mut self, change: VolatileClimbing) {
        match change {
            VolatileClimbing::LookAt(at) => self.look_at = at,
            VolatileClimbing::Asked(height) => self.asked = Some(height),
            VolatileClimbing::Refused(refused) => self.refused = refused,
            VolatileClimbing::Woken(client, height) => {
                self.woken.insert(client, height);
            }
        }
    }
}
