//! lightningd's datastore in memory, as far as it is used here, for tests and the simulator: any of its
//! calls can fail, and from any of them on it can be dead.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};

use crate::cln::client::{Call, CallError};

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
pub struct FakeNode {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    entries: BTreeMap<Vec<String>, String>,
    fault: Option<Fault>,
    dead: bool,
    calls: u32,
    longest: usize,
}

impl FakeNode {
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

    /// Of all values that were ever written, the length of the longest, in hex digits.
    pub fn longest(&self) -> usize {
        self.lock().longest
    }

    /// Everything that is stored: keys, and values in hex.
    pub fn entries(&self) -> BTreeMap<Vec<String>, String> {
        self.lock().entries.clone()
    }

    /// Another node with the same entries and no fault.
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

    /// Stores something, however wrong.
    pub fn insert(&self, key: Vec<String>, hex: String) {
        self.lock().entries.insert(key, hex);
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

    fn answer(&mut self, method: &str, params: &Value) -> Result<Value, CallError> {
        let key: Vec<String> = serde_json::from_value(params["key"].clone())
            .map_err(|error| refused(method, -32602, &error.to_string()))?;
        match method {
            "datastore" => {
                if params["mode"] == "must-create" && self.entries.contains_key(&key) {
                    return Err(refused(method, 1202, "Key already exists"));
                }
                let hex = params["hex"].as_str().unwrap_or_default().to_owned();
                self.longest = self.longest.max(hex.len());
                self.entries.insert(key, hex);
                Ok(json!({}))
            }
            "deldatastore" => {
                let removed = self.entries.remove(&key);
                removed.map(|_| json!({})).ok_or_else(|| refused(method, 1200, "Key does not exist"))
            }
            _ => {
                // An exact match, or the next level of keys; values only where there are any.
                let mut list: Vec<Value> = Vec::new();
                for (have, hex) in
                    self.entries.range(key.clone()..).take_while(|(have, _)| have.starts_with(&key))
                {
                    let shown: Vec<&String> = have.iter().take(key.len().saturating_add(1)).collect();
                    let entry = if shown.len() == have.len() {
                        json!({"key": shown, "hex": hex})
                    } else {
                        json!({"key": shown})
                    };
                    if list.last() != Some(&entry) {
                        list.push(entry);
                    }
                }
                Ok(json!({"datastore": list}))
            }
        }
    }
}

impl Call for FakeNode {
    async fn call(&self, method: &str, params: Value) -> Result<Value, CallError> {
        let mut inner = self.lock();
        inner.calls = inner.calls.saturating_add(1);
        let no_answer =
            || CallError { method: method.to_owned(), code: None, message: "no answer".to_owned() };
        match inner.lost() {
            Some(Lost::Before) => Err(no_answer()),
            // What would have been the answer is nobody's to read.
            Some(Lost::After) => inner.answer(method, &params).and(Err(no_answer())),
            None => inner.answer(method, &params),
        }
    }
}

fn refused(method: &str, code: i32, message: &str) -> CallError {
    CallError { method: method.to_owned(), code: Some(code), message: message.to_owned() }
}
