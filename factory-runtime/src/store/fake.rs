//! A [`KeyValue`] in memory, for tests and the simulator: any of its calls can fail, and from any of them on
//! it can be dead.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::key_value::{Key, KeyError, KeyValue, Listed};

/// What becomes of a call, counted from the next one as 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// Which call gets no answer.
    pub call: u32,
    /// Whether it takes effect all the same.
    pub takes_effect: bool,
    /// Whether all calls after it do nothing and get no answer either.
    pub for_good: bool,
}

/// The fake. Clones share what is stored, and the fault.
#[derive(Debug, Clone, Default)]
pub struct FakeKeys {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    entries: BTreeMap<Key, Vec<u8>>,
    fault: Option<Fault>,
    dead: bool,
    calls: u32,
    longest: usize,
}

impl FakeKeys {
    /// Plans a fault, or none.
    pub fn set_fault(&self, fault: Option<Fault>) {
        let mut inner = self.lock();
        inner.fault = fault;
        inner.dead = false;
    }

    /// Whether a fault for good has come.
    pub fn is_dead(&self) -> bool {
        self.lock().dead
    }

    /// Whether a planned fault is still to come, or lasts.
    pub fn has_fault(&self) -> bool {
        self.lock().fault.is_some()
    }

    /// How many calls were made.
    pub fn calls(&self) -> u32 {
        self.lock().calls
    }

    /// Of all values that were ever written, the length of the longest, bytes.
    pub fn longest(&self) -> usize {
        self.lock().longest
    }

    /// Every key with its value.
    pub fn entries(&self) -> BTreeMap<Key, Vec<u8>> {
        self.lock().entries.clone()
    }

    /// Another one with the same entries and no fault.
    #[must_use]
    pub fn copied(&self) -> Self {
        let copy = Self::default();
        copy.lock().entries = self.entries();
        copy
    }

    /// Removes what is stored under a key.
    pub fn remove(&self, key: &[String]) {
        self.lock().entries.remove(key);
    }

    /// Stores a value under a key, whether or not a real store would.
    pub fn insert(&self, key: Key, value: Vec<u8>) {
        self.lock().entries.insert(key, value);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // No holder can panic halfway through a change.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a call that gets no answer does.
enum Lost {
    Before,
    After,
}

impl Inner {
    fn lost(&mut self) -> Option<Lost> {
        let fault = self.fault.as_mut()?;
        if fault.call > 0 {
            fault.call = fault.call.saturating_sub(1);
            return None;
        }
        let lost = if fault.takes_effect { Lost::After } else { Lost::Before };
        fault.takes_effect = false;
        self.dead = fault.for_good;
        if !fault.for_good {
            self.fault = None;
        }
        Some(lost)
    }

    fn answer(&mut self, call: &Asked<'_>) -> Result<Vec<Listed>, KeyError> {
        match call {
            Asked::Create(key, _) if self.entries.contains_key(*key) => return Err(KeyError::Exists),
            Asked::Create(key, value) | Asked::Replace(key, value) => {
                self.longest = self.longest.max(value.len());
                self.entries.insert((*key).clone(), value.to_vec());
            }
            Asked::Delete(key) => {
                self.entries.remove(*key);
            }
            Asked::List(key) => return Ok(self.list(key)),
        }
        Ok(vec![])
    }

    fn list(&self, key: &Key) -> Vec<Listed> {
        let mut list: Vec<Listed> = Vec::new();
        for (have, value) in self.entries.range(key.clone()..).take_while(|(have, _)| have.starts_with(key)) {
            let shown: Key = have.iter().take(key.len().saturating_add(1)).cloned().collect();
            let value = (shown.len() == have.len()).then(|| value.clone());
            let listed = Listed { key: shown, value };
            if list.last() != Some(&listed) {
                list.push(listed);
            }
        }
        list
    }
}

/// One call of a [`KeyValue`], with its parameters.
enum Asked<'a> {
    Create(&'a Key, &'a [u8]),
    Replace(&'a Key, &'a [u8]),
    Delete(&'a Key),
    List(&'a Key),
}

impl FakeKeys {
    fn call(&self, call: &Asked<'_>) -> Result<Vec<Listed>, KeyError> {
        let mut inner = self.lock();
        inner.calls = inner.calls.saturating_add(1);
        let no_answer = || KeyError::Failed("no answer".to_owned());
        match inner.lost() {
            Some(Lost::Before) => Err(no_answer()),
            // What would have been the answer is nobody's to read.
            Some(Lost::After) => {
                let _ = inner.answer(call);
                Err(no_answer())
            }
            None => inner.answer(call),
        }
    }
}

impl KeyValue for FakeKeys {
    async fn create(&self, key: &Key, value: &[u8]) -> Result<(), KeyError> {
        self.call(&Asked::Create(key, value)).map(drop)
    }

    async fn replace(&self, key: &Key, value: &[u8]) -> Result<(), KeyError> {
        self.call(&Asked::Replace(key, value)).map(drop)
    }

    async fn delete(&self, key: &Key) -> Result<(), KeyError> {
        self.call(&Asked::Delete(key)).map(drop)
    }

    async fn list(&self, key: &Key) -> Result<Vec<Listed>, KeyError> {
        self.call(&Asked::List(key))
    }
}
