//! What is counted as it happens, for `factory-metrics-bind`: refusals, children that raise fees, how long things take.
//! It is counted whether or not anybody asks: that costs less than to know.
//!
//! No label says which client, channel or factory: each has one of a few values that are known beforehand, and all of
//! them are there from the start.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use factory_engine::State;
use factory_engine::admission::htlc::Failure;
use factory_engine::io::fees::{Report, Trouble};
use factory_engine::types::{InstanceId, Txid};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use tokio::time::Instant;

use super::error;

/// Ends of the buckets of what a write, a block or a hook takes, seconds.
const SHORT: [f64; 12] = [0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];
/// The same of a state before a factory is used.
const CREATION: [f64; 12] = [0.1, 0.5, 1.0, 5.0, 15.0, 30.0, 60.0, 300.0, 900.0, 3_600.0, 14_400.0, 86_400.0];
/// Factories that are being created, and parents with a child, of which more is not remembered.
const MOST: usize = 1_000;
/// States that end before a factory is used, and that somebody is at work in.
const CREATING: [State; 5] = [State::Joining, State::Signing, State::Storing, State::Opening, State::Funding];
/// Hooks that are timed. Of `custommsg` the answer never waits.
pub const HOOKS: [&str; 4] = ["openchannel", "htlc_accepted", "rpc_command", "commitment_revocation"];
/// What a command of lightningd's is refused for.
pub const GUARDED: &str = "guarded_channel";
/// The same, of a payment of this node's own.
pub const UNSAFE: &str = "unsafe_payment";
/// What an open is refused for.
pub const REJECTED: &str = "rejected";
/// What keeps a fee from being what it should.
const TROUBLES: [&str; 6] = ["parent_refused", "child_refused", "no_child", "capped", "short", "wallet"];

/// A label with its value.
type One = [(&'static str, &'static str); 1];
/// Two of them.
type Two = [(&'static str, &'static str); 2];

/// What was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// A `factory-*` command.
    Command,
    /// A command of lightningd's that would harm a factory's channel.
    LightningCommand,
    /// An HTLC.
    Htlc,
    /// A peer's `open_channel`.
    Open,
}

impl Refused {
    fn name(self) -> &'static str {
        match self {
            Self::Command => "command",
            Self::LightningCommand => "lightning_command",
            Self::Htlc => "htlc",
            Self::Open => "open",
        }
    }
}

/// Every pair that is counted.
fn refusals() -> impl Iterator<Item = (Refused, &'static str)> {
    let commands = error::kinds().map(|kind| (Refused::Command, kind));
    let htlcs = Failure::ALL.into_iter().map(|failure| (Refused::Htlc, failure.name()));
    let others = [
        (Refused::LightningCommand, GUARDED),
        (Refused::LightningCommand, UNSAFE),
        (Refused::Open, REJECTED),
    ];
    commands.chain(htlcs).chain(others)
}

/// A factory on its way to be used.
#[derive(Debug, Clone, Copy)]
struct Creating {
    began: Instant,
    /// When it was heard of last.
    heard: Instant,
    /// The state that it has come to then; nothing if that was missed.
    entered: Option<State>,
}

/// The counts. A cheap clone of the same ones.
#[derive(Debug, Clone)]
pub struct Tally {
    refusals: Family<Two, Counter>,
    bumps: Counter,
    troubles: Family<One, Counter>,
    changes: Family<One, Counter>,
    creation: Family<One, Histogram, fn() -> Histogram>,
    store: Histogram,
    store_failures: Counter,
    blocks: Histogram,
    tips: Histogram,
    hooks: Family<One, Histogram, fn() -> Histogram>,
    creating: Arc<Mutex<BTreeMap<InstanceId, Creating>>>,
    /// The child that each parent had last.
    children: Arc<Mutex<BTreeMap<Txid, Txid>>>,
}

fn creation() -> Histogram {
    Histogram::new(CREATION)
}

fn short() -> Histogram {
    Histogram::new(SHORT)
}

/// Counts how long it has been there once it goes.
#[derive(Debug)]
pub struct Took {
    began: Instant,
    into: Histogram,
}

impl Took {
    fn new(into: Histogram) -> Self {
        Self { began: Instant::now(), into }
    }
}

impl Drop for Took {
    fn drop(&mut self) {
        self.into.observe(self.began.elapsed().as_secs_f64());
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each holds what it held before: nothing is done by halves.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Default for Tally {
    fn default() -> Self {
        let tally = Self {
            refusals: Family::default(),
            bumps: Counter::default(),
            troubles: Family::default(),
            changes: Family::default(),
            creation: Family::<One, Histogram, fn() -> Histogram>::new_with_constructor(creation),
            store: short(),
            store_failures: Counter::default(),
            blocks: short(),
            tips: short(),
            hooks: Family::<One, Histogram, fn() -> Histogram>::new_with_constructor(short),
            creating: Arc::default(),
            children: Arc::default(),
        };
        for (what, kind) in refusals() {
            tally.refusals.get_or_create(&[("what", what.name()), ("kind", kind)]).inc_by(0);
        }
        for reason in TROUBLES {
            tally.troubles.get_or_create(&[("reason", reason)]).inc_by(0);
        }
        for state in State::ALL {
            tally.changes.get_or_create(&[("state", state.name())]).inc_by(0);
        }
        for state in CREATING {
            drop(tally.creation.get_or_create(&[("state", state.name())]));
        }
        for hook in HOOKS {
            drop(tally.hooks.get_or_create(&[("hook", hook)]));
        }
        tally
    }
}

impl Tally {
    /// Something was refused; `kind` is one of those that are there from the start.
    pub fn refused(&self, what: Refused, kind: &'static str) {
        self.refusals.get_or_create(&[("what", what.name()), ("kind", kind)]).inc();
    }

    /// A transaction was to be paid for, and this is what came of it.
    pub fn raised(&self, parent: Txid, report: &Report) {
        if let Some(trouble) = report.trouble.as_ref().filter(|trouble| trouble.matters()) {
            self.troubles.get_or_create(&[("reason", reason(trouble))]).inc();
        }
        let Some(child) = report.child else { return };
        let mut children = locked(&self.children);
        if children.insert(parent, child.txid) != Some(child.txid) {
            self.bumps.inc();
        }
        // Those that are still out count once more then.
        if children.len() > MOST {
            children.clear();
        }
    }

    /// A factory's state has changed, now.
    pub fn state_changed(&self, instance: InstanceId, new: State, now: Instant) {
        self.changes.get_or_create(&[("state", new.name())]).inc();
        let mut creating = locked(&self.creating);
        let before = creating.remove(&instance);
        if let Some(before) = before
            && let Some(state) = before.entered
        {
            let took = now.saturating_duration_since(before.heard).as_secs_f64();
            self.creation.get_or_create(&[("state", state.name())]).observe(took);
        }
        if CREATING.contains(&new) && creating.len() < MOST {
            let began = before.map_or(now, |before| before.began);
            creating.insert(instance, Creating { began, heard: now, entered: Some(new) });
        }
    }

    /// Changes of states were missed: how long those last that factories are in isn't known.
    pub fn states_missed(&self) {
        locked(&self.creating).values_mut().for_each(|creating| creating.entered = None);
    }

    /// How long the oldest of those factories has been, without its wait for the funding to confirm. They are all that
    /// were on their way to be used at a look, and their states; one that wasn't heard of before counts from there.
    pub fn oldest(
        &self,
        on_their_way: &BTreeMap<InstanceId, State>,
        looked: Instant,
        now: Instant,
    ) -> Duration {
        let mut creating = locked(&self.creating);
        // What began after the look isn't in it.
        creating.retain(|instance, known| known.heard > looked || on_their_way.contains_key(instance));
        let mut oldest = Duration::ZERO;
        for (instance, state) in on_their_way {
            if !creating.contains_key(instance) && creating.len() < MOST {
                creating.insert(*instance, Creating { began: looked, heard: looked, entered: None });
            }
            if let Some(known) = creating.get(instance).filter(|_| state.is_creating()) {
                oldest = oldest.max(now.saturating_duration_since(known.began));
            }
        }
        oldest
    }

    /// Records were stored, or not.
    pub fn stored(&self, took: Duration, done: bool) {
        self.store.observe(took.as_secs_f64());
        if !done {
            self.store_failures.inc();
        }
    }

    /// A block is handled, until what this gives goes.
    pub fn block(&self) -> Took {
        Took::new(self.blocks.clone())
    }

    /// The node is looked at after a block, until what this gives goes.
    pub fn tip(&self) -> Took {
        Took::new(self.tips.clone())
    }

    /// One of [`HOOKS`] is answered, until what this gives goes.
    pub fn hook(&self, name: &'static str) -> Took {
        let hook = Histogram::clone(&self.hooks.get_or_create(&[("hook", name)]));
        Took::new(hook)
    }

    /// Adds all of it to a page.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "refusals",
            "What was refused: commands (by their error code), commands of lightningd, HTLCs (by BOLT 4's name) and opens",
            self.refusals.clone(),
        );
        registry.register("fee_bumps", "Children that were sent to raise a fee", self.bumps.clone());
        registry.register(
            "fee_bump_troubles",
            "Looks at a transaction that is due and does not pay what it should, by reason",
            self.troubles.clone(),
        );
        registry.register("state_changes", "Factories that have come to a state", self.changes.clone());
        registry.register(
            "creation_state_seconds",
            "How long factories were in each state before they were used",
            self.creation.clone(),
        );
        registry.register(
            "store_seconds",
            "How long it took to store the records of a step",
            self.store.clone(),
        );
        registry.register(
            "store_failures",
            "Tries to store the records of a step that failed",
            self.store_failures.clone(),
        );
        registry.register(
            "block_seconds",
            "How long it took to handle a block that was fetched",
            self.blocks.clone(),
        );
        registry.register(
            "tip_seconds",
            "How long it took to look at the node once its last block was handled",
            self.tips.clone(),
        );
        registry.register(
            "hook_seconds",
            "How long hooks of lightningd took to answer, those of HTLCs that are held included",
            self.hooks.clone(),
        );
    }
}

fn reason(trouble: &Trouble) -> &'static str {
    let [parent_refused, child_refused, no_child, capped, short, wallet] = TROUBLES;
    match trouble {
        Trouble::Parent(_) => parent_refused,
        Trouble::Child(_) => child_refused,
        Trouble::NoChild(_) => no_child,
        Trouble::Capped(_) => capped,
        Trouble::Short(_) => short,
        Trouble::Wallet(_) => wallet,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bitcoin::hashes::Hash;
    use factory_engine::io::fees::ChildOut;
    use factory_engine::types::Amount;

    fn text(tally: &Tally) -> String {
        let (mut registry, mut text) = (Registry::default(), String::new());
        tally.register(&mut registry);
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        text
    }

    #[test]
    fn a_child_counts_once_and_each_trouble_as_often_as_it_is_met() {
        let tally = Tally::default();
        let report = |child: u8, trouble| Report {
            instance: InstanceId([1; 32]),
            what: "state transaction 2".into(),
            target: Some((900, 200)),
            child: Some(ChildOut { txid: Txid::from_byte_array([child; 32]), fee: Amount::from_sat(9) }),
            trouble,
        };
        let parent = Txid::all_zeros();
        tally.raised(parent, &report(1, None));
        tally.raised(parent, &report(1, None));
        tally.raised(parent, &report(2, Some(Trouble::Short(Amount::from_sat(7)))));
        tally.raised(parent, &report(2, Some(Trouble::Short(Amount::from_sat(7)))));
        let text = text(&tally);
        assert!(text.contains("\nfee_bumps_total 2\n"), "{text}");
        assert!(text.contains("fee_bump_troubles_total{reason=\"short\"} 2\n"), "{text}");
        assert!(text.contains("fee_bump_troubles_total{reason=\"wallet\"} 0\n"), "{text}");
    }

    #[tokio::test]
    async fn how_long_a_factory_takes_to_be_used() {
        let (tally, instance) = (Tally::default(), InstanceId([1; 32]));
        let all = |state| BTreeMap::from([(instance, state)]);
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        tally.state_changed(instance, State::Joining, start);
        tally.state_changed(instance, State::Signing, after(20));
        let oldest = |state, at| tally.oldest(&all(state), at, at);
        assert_eq!(oldest(State::Signing, after(23)), Duration::from_secs(23));
        // From here on a block is waited for, and nobody.
        tally.state_changed(instance, State::Funding, after(23));
        assert_eq!(oldest(State::Funding, after(90)), Duration::ZERO);
        tally.state_changed(instance, State::Active, after(100));
        let shown = text(&tally);
        assert!(shown.contains("creation_state_seconds_sum{state=\"joining\"} 20.0\n"), "{shown}");
        assert!(shown.contains("creation_state_seconds_sum{state=\"signing\"} 3.0\n"), "{shown}");
        assert!(shown.contains("creation_state_seconds_count{state=\"funding\"} 1\n"), "{shown}");
        assert!(shown.contains("state_changes_total{state=\"active\"} 1\n"), "{shown}");
        // One that was forgotten without a word isn't remembered.
        tally.state_changed(instance, State::Joining, after(200));
        assert_eq!(tally.oldest(&BTreeMap::new(), after(300), after(300)), Duration::ZERO);
        assert!(locked(&tally.creating).is_empty());
    }

    /// After a restart, or if changes were missed, a look says what there is; how long a state took that wasn't seen to
    /// begin isn't counted.
    #[tokio::test]
    async fn a_factory_that_was_not_heard_of_counts_from_the_first_look() {
        let (tally, instance) = (Tally::default(), InstanceId([1; 32]));
        let all = |state| BTreeMap::from([(instance, state)]);
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(tally.oldest(&all(State::Signing), start, after(1)), Duration::from_secs(1));
        assert_eq!(tally.oldest(&all(State::Signing), after(50), after(50)), Duration::from_secs(50));
        tally.state_changed(instance, State::Storing, after(60));
        tally.states_missed();
        assert_eq!(tally.oldest(&all(State::Opening), after(70), after(70)), Duration::from_secs(70));
        tally.state_changed(instance, State::Funding, after(80));
        tally.state_changed(instance, State::Active, after(90));
        let shown = text(&tally);
        for (state, count) in [("signing", 0), ("storing", 0), ("opening", 0), ("funding", 1)] {
            let sample = format!("creation_state_seconds_count{{state=\"{state}\"}} {count}\n");
            assert!(shown.contains(&sample), "{sample}: {shown}");
        }
    }

    /// A look is older than what has happened while its answer was on the way.
    #[tokio::test]
    async fn what_began_after_the_look_is_kept() {
        let (tally, instance) = (Tally::default(), InstanceId([1; 32]));
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        tally.state_changed(instance, State::Joining, after(10));
        assert_eq!(tally.oldest(&BTreeMap::new(), after(9), after(11)), Duration::ZERO);
        let all = BTreeMap::from([(instance, State::Joining)]);
        assert_eq!(tally.oldest(&all, after(20), after(20)), Duration::from_secs(10));
    }

    #[test]
    fn what_takes_its_time_is_counted_once_it_is_done() {
        let tally = Tally::default();
        let mut took = tally.hook("openchannel");
        took.began -= Duration::from_secs(2);
        assert!(text(&tally).contains("hook_seconds_count{hook=\"openchannel\"} 0\n"));
        drop(took);
        drop((tally.block(), tally.tip(), tally.tip()));
        let shown = text(&tally);
        for sample in [
            "hook_seconds_sum{hook=\"openchannel\"} 2.",
            "hook_seconds_count{hook=\"openchannel\"} 1\n",
            "hook_seconds_count{hook=\"htlc_accepted\"} 0\n",
            "block_seconds_count 1\n",
            "tip_seconds_count 2\n",
        ] {
            assert!(shown.contains(sample), "{sample}: {shown}");
        }
    }

    #[test]
    fn every_refusal_is_there_from_the_start() {
        let tally = Tally::default();
        tally.refused(Refused::Htlc, Failure::ExpiryTooSoon.name());
        let text = text(&tally);
        assert!(
            text.contains("refusals_total{what=\"htlc\",kind=\"expiry_too_soon\"} 1\n")
                && text.contains("refusals_total{what=\"command\",kind=\"unavailable\"} 0\n"),
            "{text}"
        );
        assert_eq!(text.matches("\nrefusals_total{").count(), refusals().count());
    }
}
