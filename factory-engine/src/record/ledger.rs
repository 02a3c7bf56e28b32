//! The sign-once ledger (S8): for each outpoint and role at most one sighash, for ever.

use std::collections::HashMap;
use std::fmt;

use crate::record::event::LedgerEntry;
use crate::tx::layout::SpendRole;
use crate::types::OutPoint;

/// What this node has signed, or was about to sign, over all factories and attempts. The fold of
/// the [`LedgerEntry`]s of every `Signing` event.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Ledger {
    signed: HashMap<(OutPoint, SpendRole), [u8; 32]>,
}

/// A second, different message for something that was signed already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AlreadySigned {
    /// The outpoint that both messages spend.
    pub outpoint: OutPoint,
    /// The role in which both spend it.
    pub role: SpendRole,
}

impl fmt::Display for AlreadySigned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "another {} transaction spending {} was signed before: never two",
            self.role.name(),
            self.outpoint
        )
    }
}

impl std::error::Error for AlreadySigned {}

impl Ledger {
    /// Whether all of `entries` may be signed: each is new, or a replay of the same message.
    pub fn check(&self, entries: &[LedgerEntry]) -> Result<(), AlreadySigned> {
        let mut within = HashMap::new();
        for entry in entries {
            let key = (entry.outpoint, entry.session.role);
            let before = self.signed.get(&key).copied();
            let twin = within.insert(key, entry.sighash);
            if before.or(twin).is_some_and(|sighash| sighash != entry.sighash) {
                return Err(AlreadySigned { outpoint: key.0, role: key.1 });
            }
        }
        Ok(())
    }

    /// Records entries that have become durable.
    pub(crate) fn record(&mut self, entries: &[LedgerEntry]) {
        for entry in entries {
            self.signed.insert((entry.outpoint, entry.session.role), entry.sighash);
        }
    }

    /// Number of recorded signatures: pairs of outpoint and role.
    pub fn len(&self) -> usize {
        self.signed.len()
    }

    /// Whether nothing was signed yet.
    pub fn is_empty(&self) -> bool {
        self.signed.is_empty()
    }
}
