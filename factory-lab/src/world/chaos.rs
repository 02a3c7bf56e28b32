//! What the world asks at every place where a fault may happen, and what it notes there.

pub mod coverage;
pub mod lie;

use std::collections::{BTreeMap, BTreeSet};

use bitcoin::hashes::{Hash, HashEngine, sha256};
use coverage::Coverage;
use factory_engine::record::event::Event;
use factory_engine::types::{Height, InstanceId, Transaction};
use factory_engine::wire::message::Message;
use factory_engine::{Engine, Input, Role, State};
use lie::Lie;

use crate::fault::{Chances, Kind};

use super::{Fate, LSP, Outgoing};

/// What becomes of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Commit {
    /// The step is stored, and its effects are carried out.
    Fine,
    /// The store refuses: the step never happened.
    Fails,
    /// The node crashes before the step is stored.
    CrashBefore,
    /// The node crashes after the step is stored, before its effects.
    CrashAfter,
}

/// A hash over everything that happens, and a text of it for people.
#[derive(Clone)]
pub struct Trace {
    engine: sha256::HashEngine,
    /// Lines, if they are wanted.
    pub lines: Option<Vec<String>>,
}

impl Trace {
    fn new(lines: bool) -> Self {
        Self { engine: sha256::Hash::engine(), lines: lines.then(Vec::new) }
    }

    /// Takes what happened into the hash: a word, a member, bytes.
    pub fn note(&mut self, what: &str, at: usize, bytes: &[u8]) {
        self.engine.input(what.as_bytes());
        self.engine.input(&at.to_be_bytes());
        self.engine.input(&bytes.len().to_be_bytes());
        self.engine.input(bytes);
    }

    /// A line for people, made only where lines are wanted.
    pub fn line(&mut self, text: impl FnOnce() -> String) {
        if let Some(lines) = &mut self.lines {
            lines.push(text());
        }
    }

    /// SHA-256 of all that was noted so far.
    pub fn hash(&self) -> [u8; 32] {
        sha256::Hash::from_engine(self.engine.clone()).to_byte_array()
    }
}

/// Faults, lies and notes of one run.
#[derive(Clone)]
pub struct Chaos {
    /// Decides whether a fault happens.
    pub chances: Chances,
    /// Everything that happened, as a hash and as text.
    pub trace: Trace,
    /// Inputs, changes of state and commits that the run came to.
    pub coverage: Coverage,
    /// Members that lie, each in its way.
    pub lies: Vec<Lie>,
    /// Members that say nothing any more from this kind of message on.
    pub silent: BTreeMap<usize, &'static str>,
    /// Messages under way between two members wait for as many steps.
    pub stalled: BTreeMap<(usize, usize), u32>,
    /// What becomes of one member's first commit with one event.
    pub planned: Option<(usize, &'static str, Commit)>,
    /// Members that crash at their next commit.
    pub crash_again: BTreeSet<usize>,
    /// Funding transactions of the operator's attempts, unsigned.
    pub fundings: Vec<Transaction>,
    /// Messages that were sent, for whoever repeats them.
    pub heard: Vec<Outgoing>,
    muted: BTreeSet<usize>,
}

impl Chaos {
    /// A run's chaos before anything has happened.
    pub fn new(chances: Chances, lines: bool) -> Self {
        Self {
            chances,
            trace: Trace::new(lines),
            coverage: Coverage::default(),
            lies: vec![],
            silent: BTreeMap::new(),
            stalled: BTreeMap::new(),
            planned: None,
            crash_again: BTreeSet::new(),
            fundings: vec![],
            heard: vec![],
            muted: BTreeSet::new(),
        }
    }

    /// Whether a member does something else than its engine.
    pub fn is_liar(&self, at: usize) -> bool {
        self.lies.iter().any(|lie| lie.at == at)
    }

    /// An input is about to be handled.
    pub fn input(&mut self, at: usize, input: &Input, engine: &Engine, height: Height) {
        let (name, instance) = describe(input);
        if let Input::Message { payload, .. } = input {
            self.trace.note(name, at, payload);
        } else {
            self.trace.note(name, at, &height.to_be_bytes());
        }
        self.trace.line(|| format!("{at} <- {name}"));
        let factory = match instance {
            Some(instance) => engine.factory(instance),
            None => engine.factories().next(),
        };
        let state = factory.map_or("unknown", |factory| factory.state(height).name());
        let role = match factory.map(|factory| factory.current.role) {
            Some(Role::Lsp) => "lsp",
            Some(Role::Client { .. }) => "client",
            None if at == LSP => "lsp",
            None => "client",
        };
        *self.coverage.transitions.entry((name, role, state)).or_default() += 1;
    }

    /// A step is about to be stored.
    pub fn commit(&mut self, at: usize, events: &[(InstanceId, Vec<Event>)]) -> Commit {
        let events = || events.iter().flat_map(|(_, events)| events);
        let names = || events().map(Event::name).collect::<Vec<_>>().join("+");
        for event in events() {
            if let (LSP, Event::Signing(signing)) = (at, event) {
                self.fundings.push(signing.funding_tx().clone());
            }
        }
        let text = || format!("member {at} at {}", names());
        let planned = self.planned.take_if(|(who, event, _)| {
            *who == at && self.chances.on && events().any(|other| other.name() == *event)
        });
        let again = self.crash_again.remove(&at) && self.chances.on;
        let mut place: Vec<&'static str> = events().map(Event::name).collect();
        place.dedup();
        let rare = rare(&place);
        let commit = if let Some((_, _, commit)) = planned {
            commit
        } else if again || self.chances.roll(Kind::CrashBefore, text).is_some() {
            Commit::CrashBefore
        } else if self.chances.roll(Kind::CrashAfter, text).is_some() {
            Commit::CrashAfter
        } else if self.chances.roll(Kind::StoreFails, text).is_some() {
            Commit::Fails
        } else if let Some(mut dice) = rare.and_then(|kind| self.chances.roll(kind, text)) {
            [Commit::CrashBefore, Commit::CrashAfter, Commit::Fails][dice.below(3)]
        } else {
            Commit::Fine
        };
        let what = match commit {
            Commit::Fine => "stored",
            Commit::Fails => "store fails",
            Commit::CrashBefore => "crash before",
            Commit::CrashAfter => "crash after",
        };
        let role = if at == LSP { "lsp" } else { "client" };
        *self.coverage.commits.entry((role, place, what)).or_default() += 1;
        self.trace.note(what, at, &[]);
        self.trace.line(|| format!("{at}    {}: {what}", names()));
        commit
    }

    /// A factory's state has changed.
    pub fn changed(&mut self, at: usize, old: Option<State>, new: State) {
        let role = if at == LSP { "lsp" } else { "client" };
        let old = old.map_or("new", State::name);
        *self.coverage.changes.entry((role, old, new.name())).or_default() += 1;
    }

    /// Whether a member crashes now, between two effects of a step.
    pub fn between(&mut self, at: usize) -> bool {
        let crash = self.chances.roll(Kind::CrashBetween, || format!("member {at}")).is_some();
        if crash {
            self.trace.line(|| format!("{at}    crash between effects"));
        }
        crash
    }

    /// What becomes of a message.
    pub fn fate(&mut self, out: &Outgoing) -> Fate {
        let (from, to, name) = (out.from, out.to, out.message.name());
        // What arrives is noted byte for byte.
        self.trace.note(name, from, &out.message.attempt().to_be_bytes());
        self.trace.line(|| format!("{from} -> {to}: {name} (attempt {})", out.message.attempt()));
        if !self.chances.on {
            return Fate::Deliver;
        }
        if self.silent.get(&from) == Some(&name) {
            self.muted.insert(from);
        }
        if self.muted.contains(&from) {
            return Fate::Drop;
        }
        if !self.lies.is_empty() {
            self.heard.push(out.clone());
            let mut lies = std::mem::take(&mut self.lies);
            let told = lies.iter_mut().find_map(|lie| lie.tell(out, &self.heard));
            self.lies = lies;
            if let Some(payloads) = told {
                self.trace.line(|| format!("{from}    lies to {to} in {name}"));
                return Fate::Replace(payloads);
            }
        }
        let text = || format!("{name} from {from} to {to}");
        if self.chances.roll(Kind::Lose, text).is_some() {
            return Fate::Drop;
        }
        if let Some(mut dice) = self.chances.roll(Kind::Delay, text) {
            let steps = dice.below_u32(40);
            self.stalled.insert((from, to), steps);
        }
        if self.chances.roll(Kind::Duplicate, text).is_some() {
            return Fate::Twice;
        }
        Fate::Deliver
    }

    /// Whether what is under way between two members waits.
    pub fn is_stalled(&self, pair: (usize, usize)) -> bool {
        self.stalled.contains_key(&pair)
    }

    /// One step went by: stalled messages wait for one less.
    pub fn unstall(&mut self) {
        self.stalled.retain(|_, steps| {
            *steps = steps.saturating_sub(1);
            *steps > 0
        });
    }
}

/// Events that few runs come to.
const RARE: [&str; 20] = [
    "forgotten",
    "declined",
    "eviction_started",
    "sale_dropped",
    "sale_resolved",
    "sale_jit",
    "sale_jit_failed",
    "sale_jit_opened",
    "sale_void",
    "channel_resolved",
    "channel_ended",
    "restored",
    "reorged",
    "handed_over",
    "key_received",
    "handover_stored",
    "move_wanted",
    "move_started",
    "move_ended",
    "move_over",
];

/// What is likely to happen to a step with these events, if it is one that few runs come to.
fn rare(place: &[&'static str]) -> Option<Kind> {
    match place {
        [] | ["invited", "accepted"] | ["channel_checked", "funding_released"] => None,
        [event] => RARE.contains(event).then_some(Kind::CrashRare),
        _ => Some(Kind::CrashSeveral),
    }
}

fn name_of(payload: &[u8]) -> Option<&'static str> {
    let (kind, _) = payload.split_first_chunk()?;
    Message::name_of(u16::from_be_bytes(*kind))
}

/// An input's name and the factory that it is about: for a message the only one that there is.
fn describe(input: &Input) -> (&'static str, Option<InstanceId>) {
    match input {
        Input::Started { .. } => ("started", None),
        Input::PeerUp { .. } => ("peer up", None),
        Input::PeerDown { .. } => ("peer down", None),
        Input::Message { payload, .. } => (name_of(payload).unwrap_or("garbage"), None),
        Input::Command(_) => ("command", None),
        Input::OpenChannel(_) => ("open channel", None),
        Input::FundingPrepared { instance, .. } => ("funding prepared", Some(*instance)),
        Input::PayoutReady { instance, .. } => ("payout ready", Some(*instance)),
        Input::ChannelStarted { instance, .. } => ("channel started", Some(*instance)),
        Input::ChannelCompleted { instance, .. } => ("channel completed", Some(*instance)),
        Input::ChannelChecked { instance, .. } => ("channel check", Some(*instance)),
        Input::InvoiceMade { instance, .. } => ("invoice made", Some(*instance)),
        Input::InvoiceEnded { instance, .. } => ("invoice ended", Some(*instance)),
        Input::PaymentEnded { instance, .. } => ("payment ended", Some(*instance)),
        Input::MoveEnded { instance, .. } => ("move ended", Some(*instance)),
        Input::FeesSet { .. } => ("fees set", None),
        Input::ChannelFunded { instance, .. } => ("channel funded", Some(*instance)),
        Input::OrdinaryFound { instance, .. } => ("ordinary found", Some(*instance)),
        Input::Unspent { instance, .. } => ("unspent", Some(*instance)),
        Input::Block(_) => ("block", None),
        Input::Reorg { .. } => ("reorg", None),
        Input::Htlcs(_) => ("htlcs", None),
        Input::Channels { .. } => ("channels", None),
        Input::Balances(_) => ("balances", None),
        Input::Emptied { instance, .. } => ("emptied", Some(*instance)),
        Input::OrdinaryChecked { instance, .. } => ("ordinary checked", Some(*instance)),
        Input::Fees(_) => ("fees", None),
        Input::BackendBack => ("backend back", None),
        Input::Published { report, .. } => ("published", Some(report.instance)),
        Input::Kept { .. } => ("kept", None),
        Input::NotKept { .. } => ("not kept", None),
        Input::KeeperHas { .. } => ("keeper has", None),
        Input::Copied { .. } => ("copied", None),
        Input::Shelf { .. } => ("shelf", None),
        Input::BroughtBack { instance, .. } => ("brought back", Some(*instance)),
        Input::Appoint { instance } => ("appoint", Some(*instance)),
        Input::Revoked { .. } => ("revoked", None),
        Input::Tower { .. } => ("tower", None),
        Input::Tick => ("tick", None),
    }
}
