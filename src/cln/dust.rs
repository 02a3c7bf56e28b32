//! The cap on dust in flight: what is known of it, and when lightningd is asked again.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use factory_engine::admission::dust::{Asking, Dust, InFlight, TooMuch};
use factory_engine::admission::htlc::{Failure, Verdict};
use factory_engine::policy::DustLimits;
use factory_engine::types::Millis;
use factory_runtime::{View, clock};
use serde_json::Value;

use super::channels::Channels;
use super::client::{Call, CallError};
use super::htlcs;
use super::mirror::Mirror;

/// At the cap lightningd is asked what has ended, but no more often than this.
const PAUSE: Millis = 1_000;

/// Dust in flight on this node's factory channels.
#[derive(Debug)]
pub struct DustCap {
    limits: DustLimits,
    dust: Mutex<Dust>,
    looked: Mutex<Millis>,
}

impl DustCap {
    /// A cap of these limits, with nothing in flight yet.
    pub fn new(limits: DustLimits) -> Self {
        Self { limits, dust: Mutex::default(), looked: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Dust> {
        // At worst a sum is out of date until the next look.
        self.dust.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To be taken before asking lightningd for what is shown to [`Self::look`].
    pub fn mark(&self) -> u64 {
        self.lock().mark()
    }

    /// Takes over what lightningd showed after `mark`; the view knows factory channels.
    pub fn look(&self, mark: u64, shown: &[InFlight], view: &View) {
        // The view's lock comes first everywhere.
        view.htlc(|view| {
            let owner = |channel| view.policies.get(&channel).map(|policy| policy.instance);
            self.lock().look(mark, shown, owner);
        });
    }

    /// Takes an HTLC, or says why not. At the cap lightningd is asked first what has ended.
    ///
    /// # Errors
    /// When a cap is in the way.
    pub fn admit(&self, asking: &Asking<'_>) -> Result<(), TooMuch> {
        self.lock().admit(asking, &self.limits)
    }

    /// How long until it is time to ask lightningd again.
    pub fn pause(&self) -> Duration {
        let looked = *self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        Duration::from_millis(PAUSE.saturating_sub(clock::now().saturating_sub(looked)).min(PAUSE))
    }

    /// Whether it is time to ask lightningd again: of several that ask, one does.
    pub fn may_look(&self) -> bool {
        let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        let now = clock::now();
        let may = now.saturating_sub(*looked) >= PAUSE;
        if may {
            *looked = now;
        }
        may
    }

    /// Asks lightningd what is in flight: what has changed since it was asked last.
    pub async fn look_again<C: Call>(
        &self,
        rpc: &C,
        mirror: &Mirror,
        known: &Channels,
        view: &View,
    ) -> Result<(), CallError> {
        let mark = self.mark();
        let look = |channels: &[Value], _| self.look(mark, &htlcs::in_flight(channels), view);
        mirror.look(rpc, known, look).await
    }
}

/// The answer to an HTLC that would pass a cap.
pub fn refuse(too_much: TooMuch) -> Verdict {
    let (failure, msat) = match too_much {
        TooMuch::Incoming(msat) => (Failure::TemporaryNode, msat),
        TooMuch::Outgoing(msat) => (Failure::TemporaryChannel, msat),
    };
    let reason = format!("{msat} msat of dust are in flight already (factory-max-dust-htlcs-msat)");
    Verdict::Fail { failure, reason }
}
