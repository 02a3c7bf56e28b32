//! A member's records: appended all together or not at all, read back after a restart.

use std::collections::BTreeMap;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use factory_engine::record::event::{Event, RecordError, decode_record, encode_record};
use factory_engine::types::InstanceId;
use factory_runtime::store::fake::{FakeKeys, Fault};
use factory_runtime::store::keyed::Keyed;
use factory_runtime::store::{History, Store as _};

use crate::{LabError, error};

/// A factory and its records, in order.
pub type Loaded = (InstanceId, Vec<Vec<Event>>);

/// The store refused an append: nothing of it is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreFailed;

/// Records of every factory of one member, in order.
#[derive(Debug, Clone, Default)]
pub struct Store {
    records: BTreeMap<InstanceId, Vec<Vec<u8>>>,
    /// How many of the next appends fail.
    pub failures: u32,
    /// Steps that were stored so far.
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

    /// Has the plugin's own store append one step's events to a datastore that dies at one of its calls, and
    /// keeps what a restart finds there, which is the whole step or nothing of it. Every start in between may
    /// die, too. Whether it is the whole step; nothing if there aren't as many calls: nothing happened then.
    ///
    /// # Errors
    /// When half a step is found.
    pub fn crash_within(
        &mut self,
        events: &[(InstanceId, Vec<Event>)],
        fault: Fault,
    ) -> Result<Option<bool>, LabError> {
        let step: Vec<_> =
            events.iter().map(|(instance, events)| (*instance, encode_record(events))).collect();
        let mut whole = self.records.clone();
        for (instance, record) in &step {
            whole.entry(*instance).or_default().push(record.clone());
        }
        let node = FakeKeys::default();
        let mut store = Keyed::new(node.clone());
        at_once(store.load_all())?.map_err(error)?;
        for (instance, records) in &self.records {
            for record in records {
                at_once(store.append(&[(*instance, record.clone())]))?.map_err(error)?;
            }
        }
        node.set_fault(Some(Fault { for_good: true, ..fault }));
        let said = at_once(store.append(&step))?.is_ok();
        if !node.is_dead() {
            return Ok(None);
        }
        let found = read(&node.copied())?;
        let happened = found == whole;
        if !happened && (said || found != self.records) {
            return Err(error(format!("S14: half a step is stored after {fault:?}")));
        }
        for call in 0.. {
            let copy = node.copied();
            copy.set_fault(Some(Fault { call, ..fault }));
            // Whoever starts here may get no answer.
            let _ = at_once(Keyed::new(copy.clone()).load_all())?;
            if read(&copy.copied())? != found {
                return Err(error(format!("S14: a start that dies at call {call} changes what is stored")));
            }
            if !copy.is_dead() {
                break;
            }
        }
        self.appends = self.appends.saturating_add(u32::from(happened));
        self.records = found;
        Ok(Some(happened))
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

    /// The records of one factory, in order; none if there is no such.
    pub fn records(&self, instance: InstanceId) -> &[Vec<u8>] {
        self.records.get(&instance).map_or(&[], Vec::as_slice)
    }

    /// The records of one factory, to be tampered with.
    pub fn records_mut(&mut self, instance: InstanceId) -> &mut Vec<Vec<u8>> {
        self.records.entry(instance).or_default()
    }

    /// A factory's records are archived: no start reads them again.
    pub fn forget(&mut self, instance: InstanceId) {
        self.records.remove(&instance);
    }

    /// Instances of every factory with records.
    pub fn instances(&self) -> impl Iterator<Item = InstanceId> {
        self.records.keys().copied()
    }
}

fn read(node: &FakeKeys) -> Result<BTreeMap<InstanceId, Vec<Vec<u8>>>, LabError> {
    let histories: Vec<History> = at_once(Keyed::new(node.clone()).load_all())?.map_err(error)?;
    Ok(histories.into_iter().collect())
}

/// What waits for keys in memory never waits.
fn at_once<T>(future: impl Future<Output = T>) -> Result<T, LabError> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Ok(value),
        Poll::Pending => Err(error("the store waits for something")),
    }
}
