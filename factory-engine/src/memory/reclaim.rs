//! What L has on its way to take coins back. A restart makes it again.

use std::collections::BTreeMap;

use crate::tx::child::Coin;
use crate::types::{InstanceId, OutPoint, Transaction, Txid, Witness};

/// A transaction that takes coins of a factory back, and is out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Out {
    /// Signed.
    pub(crate) tx: Transaction,
    pub(crate) coins: Vec<Coin>,
    /// What it pays, sat/kw.
    pub(crate) feerate: u32,
    /// Whether nodes didn't take it: something that pays more is in its way.
    pub(crate) refused: bool,
}

/// Everything about it that lives only in memory.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reclaims {
    pub(crate) out: BTreeMap<InstanceId, Out>,
    /// Finished inputs of fundings, by the funding's id: to sign takes time where a factory has many clients.
    pub(crate) witnesses: BTreeMap<Txid, Vec<(OutPoint, Witness)>>,
}

/// One change of [`Reclaims`], made when the step is applied.
pub(crate) enum VolatileReclaim {
    Out(InstanceId, Box<Out>),
    Over(InstanceId),
    Refused(InstanceId),
    Witnesses(Txid, Vec<(OutPoint, Witness)>),
}

impl Reclaims {
    pub(crate) fn apply(&mut self, change: VolatileReclaim) {
        match change {
            VolatileReclaim::Out(instance, out) => {
                self.out.insert(instance, *out);
            }
            VolatileReclaim::Over(instance) => {
                self.out.remove(&instance);
            }
            VolatileReclaim::Refused(instance) => {
                if let Some(out) = self.out.get_mut(&instance) {
                    out.refused = true;
                }
            }
            VolatileReclaim::Witnesses(funding, witnesses) => {
                self.witnesses.insert(funding, witnesses);
            }
        }
    }
}
