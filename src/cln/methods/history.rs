//! `factory-history`.

use std::collections::{BTreeMap, BTreeSet};

use bitcoin::{Amount, OutPoint};
use factory_engine::record::decode_record;
use factory_engine::report::history::{
    Doubt, Elsewhere, Entry, Filter, History, Kind, Sums, Window, history_for,
};
use factory_engine::types::{Height, InstanceId};
use factory_engine::{Engine, Role, State as FactoryState};
use factory_runtime::store::Store;
use serde_json::{Value, json};
use tokio::sync::Mutex;

use super::super::datastore;
use super::super::error::{RpcError, UNAVAILABLE};
use super::super::params::{Parameter, Params};
use super::super::state::State;
use super::Command;
use children::Wallet;

mod children;
mod shown;
mod table;

/// Name, usage and description of `factory-history`.
pub const COMMAND: Command = Command {
    name: "factory-history",
    usage: "[factory_instance] [kind] [from_height] [to_height] [format] [start] [limit]",
    description: "Show what happened to this node's channel factories, or to one of them, in order, as their records \
                  have it, and what was earned, what was spent and what came back; kind is one or a list, format is \
                  json or table",
};

/// Entries of an answer, where nobody says how many.
const USUAL: usize = 1_000;
/// The most: some 5 MB.
const MOST: usize = 10_000;

/// Kinds by name: one, several with commas, or a list.
#[derive(Debug)]
struct Kinds(Vec<Kind>);

impl Parameter for Kinds {
    const EXPECTED: &'static str = "one or a list of created, joined, signed, channel, funding, chain, \
                                    distribution, reclaim, sale, payment, ordinary_channel, move, leave, handover, \
                                    renewal, exit, eviction, close, recovery, end, unreadable";

    fn parse(value: &Value) -> Option<Self> {
        let names: Vec<&str> = match value {
            Value::String(text) => text.split(',').map(str::trim).collect(),
            Value::Array(list) => list.iter().map(Value::as_str).collect::<Option<_>>()?,
            _ => return None,
        };
        names.into_iter().map(Kind::of).collect::<Option<_>>().map(Self)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Json,
    Table,
}

impl Parameter for Format {
    const EXPECTED: &'static str = "'json' or 'table'";

    fn parse(value: &Value) -> Option<Self> {
        match value.as_str()? {
            "json" => Some(Self::Json),
            "table" => Some(Self::Table),
            _ => None,
        }
    }
}

#[derive(Debug)]
struct Limit(usize);

impl Parameter for Limit {
    const EXPECTED: &'static str = "an integer from 0 to 10000";

    fn parse(value: &Value) -> Option<Self> {
        let number = usize::try_from(u32::parse(value)?).ok()?;
        (number <= MOST).then_some(Self(number))
    }
}

/// What somebody wants to know.
#[derive(Debug)]
struct Asked {
    instance: Option<InstanceId>,
    filter: Filter,
    format: Format,
    start: u64,
    limit: usize,
}

impl Asked {
    fn read(params: &Value) -> Result<Self, RpcError> {
        let names = ["factory_instance", "kind", "from_height", "to_height", "format", "start", "limit"];
        let mut params = Params::new(&names, params)?;
        let instance: Option<InstanceId> = params.optional("factory_instance")?;
        let kinds = params.optional::<Kinds>("kind")?.map_or_else(Vec::new, |kinds| kinds.0);
        let from: Option<Height> = params.optional("from_height")?;
        let to: Option<Height> = params.optional("to_height")?;
        let format = params.optional("format")?.unwrap_or(Format::Json);
        let start: Option<u64> = params.optional("start")?;
        let limit = params.optional::<Limit>("limit")?.map_or(USUAL, |limit| limit.0);
        if let (Some(from), Some(to)) = (from, to)
            && from > to
        {
            let text =
                format!("from_height: {from} is above to_height, {to}: nothing is in between; swap them");
            return Err(RpcError::parameter(text));
        }
        if start.is_some() && instance.is_none() {
            let text = "start: entries are counted in each factory by itself: name its factory_instance, too";
            return Err(RpcError::parameter(text));
        }
        let filter = Filter { kinds, from, to };
        Ok(Self { instance, filter, format, start: start.unwrap_or(0), limit })
    }

    fn window(&self) -> Window {
        Window { filter: self.filter.clone(), start: self.start, limit: self.limit }
    }
}

/// What is kept of one factory: what happened to it, and no more of it than is shown.
struct Known {
    instance: InstanceId,
    role: Option<Role>,
    damage: Option<String>,
    /// Its state now; nothing once it was forgotten.
    state: Option<FactoryState>,
    /// The first height that is known of it.
    begins: Height,
    /// How many entries are wanted, wherever the page begins.
    number: usize,
    /// Of those.
    sums: Sums,
    /// What another factory may say about them.
    doubts: Vec<(u64, Doubt)>,
    /// Those on the page.
    entries: Vec<Entry>,
    /// How many follow them.
    left_off: usize,
    /// Where those begin.
    next: Option<u64>,
}

impl Known {
    fn new(history: History, height: Height, asked: &Asked) -> Self {
        let filter = &asked.filter;
        let begins = history.begins().unwrap_or(Height::MAX);
        let (number, sums) = (history.wanted(filter).count(), history.sums(filter));
        let doubts = history.doubts(filter);
        let History { instance, role, factory, damage, entries } = history;
        let state = factory.map(|factory| factory.state(height));
        let is_wanted = |entry: &Entry| filter.fits(entry) && entry.index >= asked.start;
        let mut wanted = entries.into_iter().filter(is_wanted);
        let entries: Vec<Entry> = wanted.by_ref().take(asked.limit).collect();
        let next = wanted.next().map(|entry| entry.index);
        let left_off = wanted.count().saturating_add(usize::from(next.is_some()));
        Self { instance, role, damage, state, begins, number, sums, doubts, entries, left_off, next }
    }

    /// Keeps so many entries at most.
    fn cut(&mut self, most: usize) {
        if self.entries.len() <= most {
            return;
        }
        let rest = self.entries.split_off(most);
        self.left_off = self.left_off.saturating_add(rest.len());
        self.next = rest.first().map(|entry| entry.index);
        self.entries.shrink_to_fit();
    }

    fn doubts_a_leave(&self) -> bool {
        self.doubts.iter().any(|(_, doubt)| matches!(doubt, Doubt::Leave { .. }))
    }

    /// Takes out what is another factory's.
    fn mend(&mut self, elsewhere: &Elsewhere) {
        for (index, doubt) in self.doubts.iter().filter(|(_, doubt)| elsewhere.knows(doubt)) {
            doubt.mend(&mut self.sums);
            if let Some(entry) = self.entries.iter_mut().find(|entry| entry.index == *index) {
                doubt.mend_entry(entry);
            }
        }
    }
}

/// In the order in which they are shown, with no more entries than are shown.
fn trim(known: &mut [Known], limit: usize) {
    known.sort_by_key(|one| (one.begins, one.instance));
    let mut room = limit;
    for one in known {
        one.cut(room);
        room = room.saturating_sub(one.entries.len());
    }
}

/// What is shown.
struct Page {
    known: Vec<Known>,
    /// How many entries more would follow.
    left_off: usize,
    /// Where they begin, if they are all of one factory.
    next: Option<u64>,
}

impl Page {
    fn new(known: Vec<Known>, asked: &Asked) -> Self {
        let left_off = known.iter().fold(0, |sum: usize, one| sum.saturating_add(one.left_off));
        let next = known.iter().find_map(|one| one.next).filter(|_| asked.instance.is_some());
        Self { known, left_off, next }
    }

    /// Of all factories together.
    fn sums(&self) -> Sums {
        let mut sums = Sums::default();
        for one in &self.known {
            sums.add(&one.sums);
        }
        sums
    }
}

/// One answer is made after the other: each has what is counted of a whole factory in memory.
static TURN: Mutex<()> = Mutex::const_new(());

/// Answers with what happened, as JSON or as a table.
pub async fn call(state: State, params: Value) -> Result<Value, RpcError> {
    let asked = Asked::read(&params)?;
    let _turn = TURN.lock().await;
    let Instances { wanted, others, height } = instances(&state, asked.instance).await?;
    let known = read(&state, wanted, others, height, &asked).await?;
    let page = Page::new(known, &asked);
    Ok(match asked.format {
        Format::Json => shown::answer(&page),
        // lightning-cli prints an object that asks for it as plain text.
        Format::Table => json!({"text": table::answer(&page), "format-hint": "simple"}),
    })
}

/// Factories that have records, archived ones included.
struct Instances {
    wanted: BTreeSet<InstanceId>,
    others: BTreeSet<InstanceId>,
    height: Height,
}

async fn instances(state: &State, asked: Option<InstanceId>) -> Result<Instances, RpcError> {
    let look = move |engine: &Engine, height| {
        let living = engine.factories().map(|factory| factory.instance);
        let unreadable = engine.unreadable().map(|(instance, _)| instance);
        let all = living.chain(unreadable).chain(engine.archived());
        let is_wanted = |instance: &InstanceId| asked.is_none_or(|asked| asked == *instance);
        let (wanted, others): (BTreeSet<InstanceId>, BTreeSet<InstanceId>) = all.partition(is_wanted);
        match asked {
            Some(instance) if wanted.is_empty() => Err(engine.missing(instance)),
            Some(_) | None => Ok(Instances { wanted, others, height }),
        }
    };
    Ok(state.runtime.read(look).await??)
}

/// From the store, one after the other: memory has what records amount to, and no more.
async fn read(
    state: &State,
    wanted: BTreeSet<InstanceId>,
    others: BTreeSet<InstanceId>,
    height: Height,
    asked: &Asked,
) -> Result<Vec<Known>, RpcError> {
    let (mut elsewhere, mut wallet) = (Elsewhere::default(), None);
    let mut known: Vec<Known> = Vec::with_capacity(wanted.len());
    for instance in wanted {
        let mut history = told(state, instance, asked.window()).await?;
        let anchors: BTreeMap<OutPoint, Amount> = history.anchors().collect();
        if !anchors.is_empty() && wallet.is_none() {
            wallet = Some(Wallet::ask(&state.rpc).await?);
        }
        if let Some(wallet) = &wallet {
            for (anchor, child) in wallet.children(&anchors) {
                history.add_child(anchor, child);
            }
        }
        elsewhere.add_fundings(&history);
        elsewhere.add_places(&history);
        // Else it was deleted since.
        if !history.entries.is_empty() {
            known.push(Known::new(history, height, asked));
            trim(&mut known, asked.limit);
        }
    }
    if known.iter().any(Known::doubts_a_leave) {
        for instance in others {
            elsewhere.add_places(&told(state, instance, Window::default()).await?);
        }
    }
    for one in &mut known {
        one.mend(&elsewhere);
    }
    Ok(known)
}

/// What the records of one factory say, with the words of what may be shown of it. lightningd gives them in one piece; each
/// goes as soon as it is told.
async fn told(state: &State, instance: InstanceId, window: Window) -> Result<History, RpcError> {
    let unavailable = |why: &dyn std::fmt::Display| {
        RpcError::new(
            UNAVAILABLE,
            format!("cannot read the records of factory {instance}: {why}"),
            "see lightningd's log, and try again",
        )
    };
    let mut store = datastore::store(state.rpc.clone());
    let records = store.load(instance).await.map_err(|error| unavailable(&error))?;
    let tell =
        move || history_for(instance, records.into_iter().map(|record| decode_record(&record)), window);
    // Keys are added up again: others go on meanwhile.
    tokio::task::spawn_blocking(tell).await.map_err(|error| unavailable(&error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cln::error::INVALID_PARAMS;
    use factory_engine::record::event::{Aborted, Accepted, Forgotten};
    use factory_engine::report::history::history;

    fn refused(params: Value) -> String {
        let error = Asked::read(&params).unwrap_err();
        assert_eq!(error.code, INVALID_PARAMS);
        error.message
    }

    #[test]
    fn an_error_names_what_is_allowed() {
        for kind in Kind::ALL {
            assert!(Kinds::EXPECTED.split([' ', ',']).any(|word| word == kind.name()), "{}", kind.name());
        }
        for bad in [json!("sales"), json!("sale,"), json!(["sale", 1]), json!(1), json!("")] {
            assert!(refused(json!({"kind": bad})).contains("ordinary_channel"), "{bad}");
        }
        assert!(refused(json!({"format": "csv"})).contains("'json' or 'table'"));
        assert!(refused(json!({"limit": 10_001})).contains("from 0 to 10000"));
        assert!(refused(json!({"from_height": -1})).contains("from_height"));
        let text = refused(json!({"from_height": 900, "to_height": 899}));
        assert_eq!(text, "from_height: 900 is above to_height, 899: nothing is in between; swap them");
        assert!(refused(json!({"start": 1})).contains("name its factory_instance"));
        assert!(refused(json!({"blocks": 1})).contains("unknown parameter: blocks"));
    }

    #[test]
    fn by_position_and_by_name() {
        let instance = InstanceId([7; 32]);
        let asked =
            Asked::read(&json!([instance.to_string(), ["sale", "chain"], 5, "9", "table", 3, 0])).unwrap();
        let kinds = vec![Kind::Sale, Kind::Chain];
        assert_eq!(asked.filter, Filter { kinds, from: Some(5), to: Some(9) });
        assert_eq!((asked.instance, asked.format), (Some(instance), Format::Table));
        assert_eq!((asked.start, asked.limit), (3, 0));
        let asked = Asked::read(&json!({"kind": "sale, chain"})).unwrap();
        assert_eq!(asked.filter.kinds, [Kind::Sale, Kind::Chain]);
        let asked = Asked::read(&Value::Null).unwrap();
        assert_eq!((asked.filter, asked.start, asked.limit), (Filter::default(), 0, USUAL));
    }

    /// Three entries, of nothing that makes a factory.
    fn told(of: u8) -> History {
        let reason = || "so\nit is".to_owned();
        let events = vec![
            Accepted { from: None }.into(),
            Aborted { reason: reason(), height: 812 }.into(),
            Forgotten { reason: reason() }.into(),
        ];
        history(InstanceId([of; 32]), [Ok(events)])
    }

    /// One such factory, of which everything is shown, and more would follow.
    pub(super) fn page(left_off: usize, next: u64) -> Page {
        let asked = Asked::read(&Value::Null).unwrap();
        Page { known: vec![Known::new(told(7), 900, &asked)], left_off, next: Some(next) }
    }

    #[test]
    fn pages_follow_on_each_other() {
        let mut asked = Asked::read(&json!({"limit": 2})).unwrap();
        let page = |asked: &Asked| {
            let page = Page::new(vec![Known::new(told(7), 900, asked)], asked);
            let entries: Vec<u64> = page.known[0].entries.iter().map(|entry| entry.index).collect();
            (entries, page.left_off, page.next)
        };
        assert_eq!(page(&asked), (vec![1, 2], 1, None));
        asked.instance = Some(InstanceId([7; 32]));
        assert_eq!(page(&asked), (vec![1, 2], 1, Some(3)));
        asked.start = 3;
        assert_eq!(page(&asked), (vec![3], 0, None));
        asked.start = 4;
        assert_eq!(page(&asked), (vec![], 0, None));
        (asked.start, asked.limit) = (0, 0);
        assert_eq!(page(&asked), (vec![], 3, Some(1)));
        asked.filter.kinds = vec![Kind::End];
        assert_eq!(page(&asked), (vec![], 2, Some(2)));
    }

    /// In whatever order factories are read, no more entries are kept than are shown, and they are the first ones.
    #[test]
    fn no_more_is_kept_than_is_shown() {
        let asked = Asked::read(&json!({"limit": 4})).unwrap();
        let mut known = vec![];
        for of in [8, 9, 7] {
            known.push(Known::new(told(of), 900, &asked));
            trim(&mut known, asked.limit);
            let kept: usize = known.iter().map(|one| one.entries.len()).sum();
            assert_eq!(kept, (3 * known.len()).min(4));
        }
        let kept: Vec<_> =
            known.iter().map(|one| (one.instance.0[0], one.entries.len(), one.number, one.next)).collect();
        assert_eq!(kept, [(7, 3, 3, None), (8, 1, 3, Some(2)), (9, 0, 3, Some(1))]);
        assert_eq!(Page::new(known, &asked).left_off, 5);
    }
}
