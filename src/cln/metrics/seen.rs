//! What a page shows of the engine: counted in one look, without a name of anybody.

use std::collections::{BTreeMap, BTreeSet};

use factory_engine::io::Keeper;
use factory_engine::io::fees::{Report, Trouble};
use factory_engine::types::{Height, InstanceId, Millis, NodeId};
use factory_engine::{Engine, Factory, Level, Phase, Role, Stage, State};

use crate::cln::words;

/// Roles in a factory, as `factory-list` names them.
pub const ROLES: [&str; 2] = ["lsp", "client"];
/// What a ceremony waits for that this node joins.
pub const OPERATOR: &str = "operator";
/// A transaction that has to confirm.
const TRANSACTION: &str = "transaction";
/// One of them that doesn't get on.
const IN_TROUBLE: &str = "transaction_in_trouble";
/// What is done by a deadline.
pub const DEADLINES: [&str; 6] = ["htlc", TRANSACTION, IN_TROUBLE, "renewal", "factory", "ladder"];
/// How far sales are.
pub const SALES: [&str; 7] =
    ["opening", "signing", "storing", "done", "void", "ordinary_opening", "ordinary_done"];
/// How far moves of a balance are.
pub const MOVES: [&str; 2] = ["waiting", "under_way"];

/// What of the settings a look needs.
#[derive(Debug, Clone)]
pub struct Asked {
    /// How long invitations wait.
    pub invite_timeout: Millis,
    /// How long each later step may take.
    pub ceremony_timeout: Millis,
    /// Towers that this node names.
    pub towers: BTreeSet<NodeId>,
    /// The time.
    pub now: Millis,
}

/// Numbers, by what they are of.
pub type Counts = BTreeMap<&'static str, u64>;

/// All that a page shows of the engine.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// The chain's height, as the engine has it.
    pub height: Height,
    /// Factories by this node's role and their state.
    pub factories: BTreeMap<(&'static str, State), u64>,
    /// Those whose records aren't understood.
    pub damaged: u64,
    /// Those on their way to be used, and their states.
    pub creating: BTreeMap<InstanceId, State>,
    /// Others in the factories that are in use, or becoming so.
    pub members: u64,
    /// Those of them that are connected.
    pub connected: u64,
    /// Ceremonies by what they wait for.
    pub ceremonies: Counts,
    /// How long the oldest of each has waited for it, milliseconds; the operator's alone.
    pub waited: BTreeMap<&'static str, Millis>,
    /// Sales by how far they are.
    pub sales: Counts,
    /// Moves by how far they are.
    pub moves: Counts,
    /// Blocks that are left until the nearest deadline of each kind.
    pub deadlines: BTreeMap<&'static str, i64>,
    /// Blocks that are left until each factory's nearest.
    pub by_factory: BTreeMap<InstanceId, i64>,
    /// Transactions that are due.
    pub due: u64,
    /// Those of them that don't get on.
    pub in_trouble: u64,
    /// Renewals by level.
    pub renewals: Counts,
    /// Clients that are due on the ladder: connected, and not.
    pub on_the_ladder: [u64; 2],
    /// Factories of which others should have copies.
    pub copies_wanted: u64,
    /// Those of which nobody has one.
    pub copies_missing: u64,
    /// Those of which one keeper alone has.
    pub copies_single: u64,
    /// Those in which something waits for a copy.
    pub copies_waiting: u64,
    /// Whether the backup file takes no copies.
    pub backup_trouble: bool,
    /// Towers that this node names.
    pub towers: u64,
    /// Those that don't watch, though there is something to watch.
    pub towers_missing: u64,
    /// Appointments that towers lack.
    pub appointments_missing: u64,
    /// Appointments that this node has for others.
    pub watched: u64,
    /// Those of them that are due.
    pub watched_due: u64,
}

/// Looks at everything, at this height.
pub fn look(engine: &Engine, height: Height, asked: &Asked) -> Known {
    let mut known = Known { height, ..Known::default() };
    let here: BTreeSet<NodeId> = engine.peers().collect();
    let mut members = BTreeSet::new();
    for factory in engine.factories() {
        let state = factory.state(height);
        more(known.factories.entry((role(factory), state)).or_default());
        if factory.damage().is_some() {
            more(&mut known.damaged);
        }
        if is_on_its_way(state) {
            known.creating.insert(factory.instance, state);
        }
        if is_shared(state) {
            match factory.current.role {
                Role::Lsp => members.extend(factory.current.clients.iter().copied()),
                Role::Client { lsp, .. } => {
                    members.insert(lsp);
                }
            }
        }
        count_sales(&mut known.sales, factory);
        for open in factory.moves.open() {
            let how = if open.started.is_some() { "under_way" } else { "waiting" };
            more(known.moves.entry(how).or_default());
        }
        if let Some(deadline) = factory.deadline(height) {
            known.note("factory", factory.instance, deadline);
        }
        if let Some(first) = engine.urgent_htlcs(factory, height).first() {
            known.note("htlc", factory.instance, first.exit_block);
        }
    }
    known.damaged = known.damaged.saturating_add(number(engine.unreadable().count()));
    known.connected = number(members.intersection(&here).count());
    known.members = number(members.len());
    known.look_at_ceremonies(engine, asked);
    for (txid, report) in engine.reports() {
        known.count_transaction(report, || {
            let factory = engine.factory(report.instance)?;
            engine.confirm_by(factory, txid, height).or_else(|| factory.deadline(height))
        });
    }
    for renewal in engine.renewals(height) {
        more(known.renewals.entry(words::level(renewal.urgency(height))).or_default());
        if !matches!(renewal.stage, Stage::Acknowledgement | Stage::Done) {
            known.note("renewal", renewal.instance, renewal.by);
        }
    }
    if engine.ladder().is_some() {
        for due in engine.ladder_standing(height, asked.now).due {
            let [here, away] = &mut known.on_the_ladder;
            more(if due.here { here } else { away });
            if !due.was_evicted() {
                known.note("ladder", due.instance, due.by);
            }
        }
    }
    known.look_at_copies(engine);
    known.look_at_towers(engine, height, &asked.towers);
    known
}

impl Known {
    fn note(&mut self, kind: &'static str, instance: InstanceId, deadline: Height) {
        let left = i64::from(deadline).saturating_sub(i64::from(self.height));
        let nearest = self.deadlines.entry(kind).or_insert(left);
        *nearest = left.min(*nearest);
        let nearest = self.by_factory.entry(instance).or_insert(left);
        *nearest = left.min(*nearest);
    }

    /// One that is due. What carries enough itself has no target, and may be refused all the same: then it has to
    /// confirm `by`.
    fn count_transaction(&mut self, report: &Report, by: impl FnOnce() -> Option<Height>) {
        more(&mut self.due);
        let in_trouble = report.trouble.as_ref().is_some_and(Trouble::matters);
        if in_trouble {
            more(&mut self.in_trouble);
        }
        let target = report.target.map(|(_, deadline)| deadline);
        let Some(deadline) = target.or_else(|| if in_trouble { by() } else { None }) else { return };
        self.note(TRANSACTION, report.instance, deadline);
        if in_trouble {
            self.note(IN_TROUBLE, report.instance, deadline);
        }
    }

    fn look_at_ceremonies(&mut self, engine: &Engine, asked: &Asked) {
        for progress in engine.progress() {
            let Some(phase) = progress.phase else {
                more(self.ceremonies.entry(OPERATOR).or_default());
                continue;
            };
            let stage = words::waits_for(phase);
            more(self.ceremonies.entry(stage).or_default());
            let patience =
                if phase == Phase::Inviting { asked.invite_timeout } else { asked.ceremony_timeout };
            let waited = patience.saturating_sub(progress.deadline.saturating_sub(asked.now));
            let longest = self.waited.entry(stage).or_default();
            *longest = waited.max(*longest);
        }
    }

    fn look_at_copies(&mut self, engine: &Engine) {
        for kept in engine.worth_keeping().into_iter().filter_map(|instance| engine.kept(instance)) {
            more(&mut self.copies_wanted);
            match kept.keepers.len() {
                0 => more(&mut self.copies_missing),
                1 => more(&mut self.copies_single),
                _ => {}
            }
            if kept.waits {
                more(&mut self.copies_waiting);
            }
        }
        self.backup_trouble = engine.keeper_trouble(Keeper::File).is_some();
    }

    fn look_at_towers(&mut self, engine: &Engine, height: Height, named: &BTreeSet<NodeId>) {
        for (_, appointments, due) in engine.watches() {
            self.watched = self.watched.saturating_add(number(appointments));
            self.watched_due = self.watched_due.saturating_add(number(due));
        }
        self.towers = number(named.len());
        // What a tower should have is sealed to be compared: not for nothing.
        if named.is_empty() {
            return;
        }
        let ours = |factory: &&Factory| matches!(factory.current.role, Role::Client { .. });
        let mut ready = BTreeSet::new();
        for factory in engine.factories().filter(ours) {
            for watcher in engine.watchers(factory.instance, height) {
                self.appointments_missing = self.appointments_missing.saturating_add(number(watcher.missing));
                ready.insert(watcher.peer);
            }
        }
        if engine.factories().any(|factory| factory.is_bound() && ours(&factory)) {
            self.towers_missing = number(named.difference(&ready).count());
        }
    }
}

fn more(count: &mut u64) {
    *count = count.saturating_add(1);
}

fn number(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

fn role(factory: &Factory) -> &'static str {
    let [lsp, client] = ROLES;
    match factory.current.role {
        Role::Lsp => lsp,
        Role::Client { .. } => client,
    }
}

fn is_on_its_way(state: State) -> bool {
    state == State::Funding || state.is_creating() && state != State::Invited
}

/// Whether members have something to agree on in it.
fn is_shared(state: State) -> bool {
    is_on_its_way(state) || matches!(state, State::Active | State::Dying | State::Closing)
}

fn count_sales(sales: &mut Counts, factory: &Factory) {
    let of = &factory.current.sales;
    let [opening, signing, storing, done, void, ordinary_opening, ordinary_done] = SALES;
    let mut add = |what, count| {
        let before: &mut u64 = sales.entry(what).or_default();
        *before = before.saturating_add(number(count));
    };
    add(opening, of.openings().count());
    for sold in of.all() {
        let is_lsp = factory.current.role == Role::Lsp;
        add(
            match (sold.void.is_some(), sold.is_signed()) {
                (true, _) => void,
                (false, false) => signing,
                // A client isn't told who else has stored it.
                (false, true) if is_lsp && !sold.stored => storing,
                (false, true) => done,
            },
            1,
        );
    }
    let clients = 0..factory.current.terms.clients();
    add(ordinary_opening, clients.filter(|client| of.jits().is_funding(*client)).count());
    add(ordinary_done, of.jits().opened().len());
}

/// Every value that a ceremony's stage can have.
pub fn stages() -> impl Iterator<Item = &'static str> {
    Phase::ALL.into_iter().map(words::waits_for).chain([OPERATOR])
}

/// Every level that a renewal can have.
pub fn levels() -> impl Iterator<Item = &'static str> {
    [Level::Info, Level::Unusual, Level::Broken].into_iter().map(words::level)
}

/// Every state of a factory, in each role.
pub fn states() -> impl Iterator<Item = (&'static str, State)> {
    ROLES.into_iter().flat_map(|role| State::ALL.into_iter().map(move |state| (role, state)))
}

#[cfg(test)]
mod tests {
    use super::*;

    use factory_engine::io::fees::Refused;
    use factory_engine::types::Amount;

    /// The nearest deadline is one transaction's, the trouble another's; and one that is refused has one without a
    /// target.
    #[test]
    fn a_deadline_is_that_of_the_transaction_in_trouble() {
        let report = |target: Option<Height>, trouble| Report {
            instance: InstanceId([1; 32]),
            what: "state transaction 2".into(),
            target: target.map(|height| (900, height)),
            child: None,
            trouble,
        };
        let never = || -> Option<Height> { panic!("its deadline is known, or doesn't matter") };
        let mut known = Known { height: 100, ..Known::default() };
        known.count_transaction(&report(Some(104), None), never);
        known.count_transaction(&report(None, None), never);
        let confirmed = Trouble::Parent(Refused::Confirmed);
        known.count_transaction(&report(Some(102), Some(confirmed)), never);
        assert_eq!(known.deadlines, BTreeMap::from([(TRANSACTION, 2)]));
        known.count_transaction(&report(Some(200), Some(Trouble::Short(Amount::from_sat(7)))), never);
        assert_eq!(known.deadlines, BTreeMap::from([(TRANSACTION, 2), (IN_TROUBLE, 100)]));
        known.count_transaction(&report(None, Some(Trouble::Parent(Refused::MissingInputs))), || Some(108));
        assert_eq!(known.deadlines, BTreeMap::from([(TRANSACTION, 2), (IN_TROUBLE, 8)]));
        assert_eq!((known.due, known.in_trouble), (5, 2));
    }
}
