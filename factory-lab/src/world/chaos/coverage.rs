//! What was reached, over one or many runs.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use factory_engine::State;

/// What can become of a commit besides being stored.
const CRASHES: [&str; 3] = ["crash before", "crash after", "store fails"];
/// Inputs that an operator and a client have a use for.
const BOTH: [&str; 14] = [
    "started",
    "peer up",
    "peer down",
    "block",
    "reorg",
    "htlcs",
    "tick",
    "command",
    "abort",
    "sale_abort",
    "channels",
    "fees",
    "balances",
    "published",
];
/// Inputs that only an operator has a use for.
const LSP: &[&str] = &[
    "join",
    "expecting",
    "partial_signatures",
    "stored",
    "channel_checked",
    "resume",
    "funding prepared",
    "channel started",
    "channel completed",
    "buy",
    "sale_join",
    "sale_checked",
    "sale_partial_signatures",
    "sale_stored",
    "ask_price",
    "invoice made",
    "invoice ended",
    "jit_accept",
    "channel funded",
    "move_ask",
    "fees set",
    "handover",
];
/// Inputs that only a client has a use for.
const CLIENT: &[&str] = &[
    "invite",
    "expect_channel",
    "propose",
    "ready",
    "channel_committed",
    "funding_broadcast",
    "payout ready",
    "open channel",
    "channel check",
    "sale_offer",
    "sale_committed",
    "sale_propose",
    "sale_ready",
    "unspent",
    "price",
    "sale_invoice",
    "payment ended",
    "sale_wait",
    "jit_offer",
    "jit_opened",
    "move_ready",
    "move_refused",
    "move ended",
    "emptied",
    "handover_stored",
    "handover_refused",
];

/// Input, role and the state in which it is handled.
pub type Transition = (&'static str, &'static str, &'static str);

/// What runs have come to, and how often.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Coverage {
    /// Inputs that were handled, by role and state.
    pub transitions: BTreeMap<Transition, u64>,
    /// Changes of a factory's state: role, old, new.
    pub changes: BTreeMap<(&'static str, &'static str, &'static str), u64>,
    /// Commits: role, the events of a step without repetitions, what became of it.
    pub commits: BTreeMap<(&'static str, Vec<&'static str>, &'static str), u64>,
}

impl Coverage {
    /// Adds another run's numbers, or many runs'.
    pub fn add(&mut self, other: &Coverage) {
        add(&mut self.transitions, &other.transitions);
        add(&mut self.changes, &other.changes);
        add(&mut self.commits, &other.commits);
    }

    /// Every input in every state that a factory of the role has, whether or not it can come then.
    pub fn all_transitions() -> BTreeSet<Transition> {
        let states = |role: &str| {
            let hidden: &[State] = if role == "lsp" {
                &[State::Invited, State::Left, State::Declined]
            } else {
                &[State::Opening]
            };
            let names = State::ALL.iter().filter(|state| !hidden.contains(state)).map(|state| state.name());
            names.chain(["unknown"]).collect::<Vec<_>>()
        };
        let roles = [("lsp", LSP), ("client", CLIENT)];
        let inputs = roles.iter().flat_map(|(role, own)| BOTH.iter().chain(own.iter()).map(|i| (*i, *role)));
        inputs
            .flat_map(|(input, role)| states(role).into_iter().map(move |state| (input, role, state)))
            .collect()
    }

    /// Transitions that were never taken.
    pub fn missing(&self) -> Vec<Transition> {
        let mut all = Self::all_transitions();
        all.retain(|transition| !self.transitions.contains_key(transition));
        all.into_iter().collect()
    }

    /// Each place where something is stored, with the crashes that it has not seen.
    pub fn commit_points(&self) -> BTreeMap<String, Vec<&'static str>> {
        let places: BTreeSet<_> = self.commits.keys().map(|(role, events, _)| (*role, events)).collect();
        let missing = |(role, events): (&'static str, &Vec<&'static str>)| {
            let unseen = |what: &&str| !self.commits.contains_key(&(role, events.clone(), *what));
            (format!("{role} {}", events.join("+")), CRASHES.into_iter().filter(unseen).collect())
        };
        places.into_iter().map(missing).collect()
    }

    /// All of it, one line each.
    pub fn list(&self) -> String {
        let mut text = String::new();
        for ((input, role, state), count) in &self.transitions {
            text += &format!("  {count:>10}  {role:6} {state:12} {input}\n");
        }
        text += "state changes\n";
        for ((role, old, new), count) in &self.changes {
            text += &format!("  {count:>10}  {role:6} {old} -> {new}\n");
        }
        text += "commits\n";
        for ((role, events, what), count) in &self.commits {
            text += &format!("  {count:>10}  {role:6} {}: {what}\n", events.join("+"));
        }
        for (place, missing) in self.commit_points().iter().filter(|(_, missing)| !missing.is_empty()) {
            text += &format!("  not yet: {place} ({})\n", missing.join(", "));
        }
        text += "never taken (input, role, state; most of them can not be)\n";
        for (input, role, state) in self.missing() {
            text += &format!("  {role:6} {state:12} {input}\n");
        }
        text
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let points = self.commit_points();
        let full = points.values().filter(|missing| missing.is_empty()).count();
        let (taken, all) = (self.transitions.len(), Self::all_transitions().len());
        writeln!(f, "transitions       {taken} of {all} (input × role × state)")?;
        writeln!(f, "state changes     {} (role × old × new)", self.changes.len())?;
        write!(f, "commit points     {}, {full} of them with every kind of crash", points.len())
    }
}

fn add<K: Ord + Clone>(to: &mut BTreeMap<K, u64>, from: &BTreeMap<K, u64>) {
    for (key, count) in from {
        match to.get_mut(key) {
            Some(sum) => *sum += count,
            None => {
                to.insert(key.clone(), *count);
            }
        }
    }
}
