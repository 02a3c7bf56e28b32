//! A member's records: appended all together or not at all, read back after a restart.

use std::collections::BTreeMap;

use crate::protocol::event::{Event, RecordError, decode_record, encode_record};
use crate::types::InstanceId;

/// A factory and its records, in order.
pub type Loaded = (InstanceId, Vec<Vec<Event>>);

/// The store refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreFailed;

/// Records of every factory of one member, in order.
#[derive(Debug, Clone, Default)]
pub struct Store {
    records: BTreeMap<InstanceId, Vec<Vec<u8>>>,
    /// How many of the next appends fail.
    pub failures: u32,
    /// Appends that succeeded.
    pub appends: u32,
}

impl Store {
    /// Appends one step's events.
    ///
    /// # Errors
    /// When a failure was asked for; nothing is stored then.
    pub fn append(&mut self, events: &[(InstanceId, Vec<Event>)]) -> Result<(), StoreFailed> {
        if self.failures > 0 {
            self.failures = self.failures.saturating_sub(1);
            return Err(StoreFailed);
        }
        for (instance, events) in events {
            self.records.entry(*instance).or_default().push(encode_record(events));
        }
        self.appends = self.appends.saturating_add(1);
        Ok(())
    }

    /// Every factory's events, as a restarted plugin would read them.
    ///
    /// # Errors
    /// When a record doesn't decode.
    pub fn load(&self) -> Result<Vec<Loaded>, RecordError> {
        let decode = |records: &[Vec<u8>]| -> Result<Vec<Vec<Event>>, RecordError> {
            records.iter().map(|record| decode_record(record)).collect()
        };
        self.records.iter().map(|(instance, records)| Ok((*instance, decode(records)?))).collect()
    }

    /// The records of one factory.
    pub fn records(&self, instance: InstanceId) -> &[Vec<u8>] {
        self.records.get(&instance).map_or(&[], Vec::as_slice)
    }

    /// The records of one factory, to be tampered with.
    pub fn records_mut(&mut self, instance: InstanceId) -> &mut Vec<Vec<u8>> {
        self.records.entry(instance).or_default()
    }

    /// Factories with records.
    pub fn instances(&self) -> impl Iterator<Item = InstanceId> {
        self.records.keys().copied()
    }
}
