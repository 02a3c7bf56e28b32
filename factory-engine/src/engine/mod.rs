//! The engine of one node: what it has loaded, what it keeps in memory, and how a stored step changes both.
//! Handlers see it read-only; only [`Engine::apply`] and loading change it.

mod apply;
mod apply_close;
mod apply_keeping;
mod apply_sale;
mod archive;

use std::collections::{BTreeMap, BTreeSet};

use bitcoin::BlockHash;

use crate::io::KnownChannel;
use crate::memory::balances::Balances;
use crate::memory::ceremony::{ClientCeremony, ExpectedOpen, LspCeremony};
use crate::memory::climbing::Climbing;
use crate::memory::closing::Closes;
use crate::memory::fees;
use crate::memory::keeping::Keeping;
use crate::memory::leaving::Leaving;
use crate::memory::moving::Moving;
use crate::memory::offences::Offences;
use crate::memory::reclaim::Reclaims;
use crate::memory::sale::{Asked, ClientSale, LspSale, Purchase};
use crate::memory::towers::Towers;
use crate::memory::watching::Watching;
use crate::policy::Config;
use crate::record::copy::CopyKey;
use crate::record::event::Event;
use crate::record::factory::Factory;
use crate::record::load_error::LoadError;
use crate::record::state::State;
use crate::record::{RecordError, event, ledger};
use crate::step::fault::Fault;
use crate::terms::ClientIndex;
use crate::tx::layout::CoinIndex;
use crate::tx::musig::{FactoryKey, MasterSecret};
use crate::types::{Amount, Height, InstanceId, Millis, NodeId};

pub use archive::Remains;

/// What the records of one factory amount to. Rebuilding needs nothing of the engine, so that many can be
/// rebuilt at once: most of it is the aggregation of keys.
pub struct Folded {
    instance: InstanceId,
    factory: Option<Factory>,
    ledger: Vec<event::LedgerEntry>,
    damage: Option<String>,
    /// Number of the records.
    records: u32,
}

impl Folded {
    /// Of all its records, or of those after `before`.
    ///
    /// # Errors
    /// As [`Engine::load`].
    pub fn new(
        instance: InstanceId,
        before: Option<Factory>,
        records: impl IntoIterator<Item = Vec<Event>>,
    ) -> Result<Self, LoadError> {
        let mut folded = Self { instance, factory: before, ledger: Vec::new(), damage: None, records: 0 };
        for events in records {
            folded.records = folded.records.saturating_add(1);
            for event in events {
                folded.take(&event)?;
            }
        }
        Ok(folded)
    }

    /// Of whatever can be read. Should a record not be understood, or not fit, then what follows it is taken
    /// as far as it fits: where the factory's transactions are, what of them is on chain, and who leaves. Such
    /// a factory is [damaged](Factory::damage).
    pub fn readable(
        instance: InstanceId,
        records: impl IntoIterator<Item = Result<Vec<Event>, RecordError>>,
    ) -> Self {
        let mut folded = Self { instance, factory: None, ledger: Vec::new(), damage: None, records: 0 };
        for (index, record) in (0u32..).zip(records) {
            folded.records = index.saturating_add(1);
            let taken = match record {
                Ok(events) => folded.take_all(&events),
                Err(error) => Err(error.into()),
            };
            if let Err(error) = taken {
                folded.damage.get_or_insert_with(|| format!("record {index}: {error}"));
            }
        }
        if let (Some(factory), Some(why)) = (&mut folded.factory, &folded.damage) {
            factory.set_damage(why.clone());
        }
        folded
    }

    /// Of nothing, for this reason.
    pub fn unreadable(instance: InstanceId, why: String) -> Self {
        Self { instance, factory: None, ledger: Vec::new(), damage: Some(why), records: 0 }
    }

    fn take(&mut self, event: &Event) -> Result<(), LoadError> {
        self.ledger.extend_from_slice(event.ledger());
        match &mut self.factory {
            None => self.factory = Some(Factory::begin(self.instance, event)?),
            Some(factory) => factory.apply(event, None)?,
        }
        if matches!(event, Event::Forgotten(_)) {
            // Its operator may have invited again afterwards.
            self.factory = None;
        }
        Ok(())
    }

    /// Every event that fits; the error is the first that didn't.
    fn take_all(&mut self, events: &[Event]) -> Result<(), LoadError> {
        let mut first = Ok(());
        for event in events {
            let damaged = self.damage.is_some() || first.is_err();
            if damaged && self.would_lose(event) {
                continue;
            }
            let before = damaged.then(|| self.factory.clone());
            if let Err(error) = self.take(event) {
                // Nothing is left of one that fitted in part.
                if let Some(before) = before {
                    self.factory = before;
                }
                first = first.and(Err(error));
            }
        }
        first
    }

    /// Whether an event after a gap would take away what an exit needs: it might be about an attempt that is in
    /// the gap.
    fn would_lose(&self, event: &Event) -> bool {
        let has_signatures = |factory: &Factory| !factory.current.signatures.is_empty();
        let ends = matches!(event, Event::Forgotten(_) | Event::Aborted(_));
        let replaces = matches!(event, Event::Signed(_)) && self.factory.as_ref().is_some_and(has_signatures);
        ends || replaces
    }

    /// The factory, unless it was forgotten.
    pub fn into_factory(self) -> Option<Factory> {
        self.factory
    }
}

/// The protocol engine of one node: all its factories, as operator and as client.
pub struct Engine {
    pub(crate) me: NodeId,
    pub(crate) master: MasterSecret,
    /// Seals what keepers get.
    pub(crate) copy_key: CopyKey,
    pub(crate) config: Config,
    // Durable: the fold of what the store holds.
    pub(crate) factories: BTreeMap<InstanceId, Factory>,
    pub(crate) ledger: ledger::Ledger,
    pub(crate) archived: BTreeMap<InstanceId, Remains>,
    /// Factories of which no more is known than why: none of their records made sense.
    pub(crate) unreadable: BTreeMap<InstanceId, String>,
    // Volatile.
    pub(crate) lsp: BTreeMap<InstanceId, LspCeremony>,
    pub(crate) client: BTreeMap<InstanceId, ClientCeremony>,
    pub(crate) lsp_sales: BTreeMap<(InstanceId, CoinIndex), LspSale>,
    pub(crate) client_sales: BTreeMap<(InstanceId, CoinIndex), ClientSale>,
    pub(crate) purchases: BTreeMap<InstanceId, Purchase>,
    pub(crate) asked: BTreeMap<InstanceId, Asked>,
    /// L: who kept a sale that was signed for from its end, the last time.
    pub(crate) withheld: BTreeMap<(InstanceId, CoinIndex), Vec<NodeId>>,
    /// Height at which a client last asked for its credit: a client its own, L every client's.
    pub(crate) asked_back: BTreeMap<(InstanceId, ClientIndex), Height>,
    /// L: height at which a client's ordinary channel last came to nothing by nobody's fault.
    pub(crate) not_opened: BTreeMap<(InstanceId, ClientIndex), Height>,
    pub(crate) peers: BTreeSet<NodeId>,
    /// Of those, the ones that this node has a channel with.
    pub(crate) friends: BTreeSet<NodeId>,
    pub(crate) offences: Offences,
    /// Height at which the first peer came since this node was started: from then on others can be waited for.
    pub(crate) open_since: Option<Height>,
    pub(crate) tip: Option<(Height, BlockHash)>,
    pub(crate) fees: fees::Fees,
    /// L: what is on its way to take coins back.
    pub(crate) reclaims: Reclaims,
    /// What channels held when somebody last looked.
    pub(crate) balances: Balances,
    /// Client: factories that it is about to leave.
    pub(crate) leaving: Leaving,
    pub(crate) moving: Moving,
    /// Cooperative closes under way.
    pub(crate) closes: Closes,
    /// L: what its ladder looks at, and what failed.
    pub(crate) climbing: Climbing,
    /// Who has a copy of what.
    pub(crate) keeping: Keeping,
    /// Who watches for this node.
    pub(crate) towers: Towers,
    /// Whom it watches for.
    pub(crate) watching: Watching,
    pub(crate) shown: BTreeMap<InstanceId, State>,
    /// The height at which those were, and the factories that have changed since.
    pub(crate) shown_at: Option<Height>,
    pub(crate) changed: BTreeSet<InstanceId>,
    /// L: the list of prices is lost, and what liquidity costs isn't known.
    pub(crate) prices_unknown: bool,
    /// Counts what has changed any of the above: a step follows from one generation alone.
    pub(crate) generation: u64,
}

impl Engine {
    /// An engine without factories. `me` is this node's id; `master` stays the same for ever, every
    /// factory key is derived from it.
    pub fn new(me: NodeId, master: MasterSecret, config: Config) -> Self {
        Self {
            me,
            copy_key: CopyKey::derive(&master),
            master,
            config,
            factories: BTreeMap::new(),
            ledger: ledger::Ledger::default(),
            archived: BTreeMap::new(),
            unreadable: BTreeMap::new(),
            prices_unknown: false,
            lsp: BTreeMap::new(),
            client: BTreeMap::new(),
            lsp_sales: BTreeMap::new(),
            client_sales: BTreeMap::new(),
            purchases: BTreeMap::new(),
            asked: BTreeMap::new(),
            withheld: BTreeMap::new(),
            asked_back: BTreeMap::new(),
            not_opened: BTreeMap::new(),
            peers: BTreeSet::new(),
            friends: BTreeSet::new(),
            offences: Offences::default(),
            open_since: None,
            tip: None,
            fees: fees::Fees::default(),
            reclaims: Reclaims::default(),
            balances: Balances::default(),
            leaving: Leaving::default(),
            moving: Moving::default(),
            closes: Closes::default(),
            climbing: Climbing::default(),
            keeping: Keeping::default(),
            towers: Towers::default(),
            watching: Watching::default(),
            shown: BTreeMap::new(),
            shown_at: None,
            changed: BTreeSet::new(),
            generation: 0,
        }
    }

    /// Rebuilds one factory from its stored records, in order; called again, it goes on with further
    /// ones.
    ///
    /// # Errors
    /// When the records contradict each other or the terms. The engine must then not be used: the
    /// plugin says so, and touches nothing.
    pub fn load(
        &mut self,
        instance: InstanceId,
        records: impl IntoIterator<Item = Vec<Event>>,
    ) -> Result<(), LoadError> {
        let before = self.factories.remove(&instance);
        let folded = Folded::new(instance, before, records)?;
        self.adopt(folded);
        Ok(())
    }

    /// Goes on with records that a keeper had and this node did not (S9): a factory that was folded further. What was
    /// under way there follows from less, and is over.
    pub fn bring_back(&mut self, folded: Folded) {
        self.end_all(folded.instance);
        self.keeping.drop_held(folded.instance);
        self.adopt(folded);
    }

    /// Takes over a factory that was rebuilt elsewhere.
    pub fn adopt(&mut self, folded: Folded) {
        self.next_generation();
        self.ledger.record(&folded.ledger);
        self.keeping.add_records(folded.instance, folded.records);
        match (folded.factory, folded.damage) {
            (Some(factory), _) => {
                self.changed.insert(factory.instance);
                self.factories.insert(factory.instance, factory);
            }
            (None, Some(damage)) => {
                self.unreadable.insert(folded.instance, damage);
            }
            (None, None) => {}
        }
    }

    /// Why a factory's records are not understood, if they aren't: then it is out of use (S33).
    pub fn damage(&self, instance: InstanceId) -> Option<&str> {
        let unreadable = || self.unreadable.get(&instance).map(String::as_str);
        self.factories.get(&instance).and_then(Factory::damage).or_else(unreadable)
    }

    /// Factories of which nothing could be read, and why.
    pub fn unreadable(&self) -> impl Iterator<Item = (InstanceId, &str)> {
        self.unreadable.iter().map(|(instance, why)| (*instance, why.as_str()))
    }

    /// Factories whose records are whole: in them things go on.
    pub(crate) fn whole(&self) -> impl Iterator<Item = &Factory> {
        self.factories.values().filter(|factory| factory.damage().is_none())
    }

    /// Takes over what another engine of this node has loaded: as if the same records were read again.
    pub fn load_from(&mut self, other: &Self) {
        self.next_generation();
        self.factories.clone_from(&other.factories);
        self.ledger.clone_from(&other.ledger);
        self.archived.clone_from(&other.archived);
        self.unreadable.clone_from(&other.unreadable);
    }

    /// Whatever was handled before is stale from now on.
    pub(crate) fn next_generation(&mut self) {
        self.generation = self.generation.wrapping_add(1);
    }

    pub(crate) fn known(&self, instance: InstanceId) -> Result<&Factory, Fault> {
        self.factories.get(&instance).ok_or_else(|| Fault::stale("no such factory"))
    }

    /// L's key in an attempt. A client's is salted at every join (S9).
    pub(crate) fn factory_key(&self, instance: InstanceId, attempt: u32) -> FactoryKey {
        FactoryKey::derive(&self.master, instance, attempt)
    }

    /// A client's key: another one at every join, since the salt is fresh (S9).
    pub(crate) fn client_key(&self, instance: InstanceId, attempt: u32, salt: &[u8; 32]) -> FactoryKey {
        FactoryKey::derive_salted(&self.master, instance, attempt, salt)
    }

    /// When [`Input::Tick`](crate::io::Input::Tick) is due at the latest.
    pub fn poll_timeout(&self) -> Option<Millis> {
        let lsp = self.lsp.values().map(|ceremony| ceremony.deadline);
        let sales = self.lsp_sales.values().filter_map(LspSale::deadline);
        let sales = sales.chain(self.client_sales.values().map(|sale| sale.deadline));
        let waiting = self.purchases.values().filter(|purchase| purchase.is_open());
        lsp.chain(self.client.values().map(|ceremony| ceremony.deadline))
            .chain(sales)
            .chain(waiting.map(|purchase| purchase.deadline))
            .chain(self.moving.deadline())
            .chain(self.closes.deadline())
            .chain(self.climbing.look_at)
            .chain(self.keeping.keepers.deadline())
            .min()
    }

    /// L: the channel that lightningd has opened while this node was stopped. lightningd keeps no label of ours: one
    /// of this size that is nothing else, and was not in the chain before, is taken for it.
    pub(crate) fn opened_since<'c>(
        &self,
        channels: &'c [KnownChannel],
        peer: Option<NodeId>,
        capacity: Amount,
        height: Option<Height>,
    ) -> Option<&'c KnownChannel> {
        let is_new = |confirmed: Option<Height>| confirmed.is_none_or(|at| Some(at) > height);
        channels.iter().find(|channel| {
            Some(channel.peer) == peer
                && channel.capacity == capacity
                && is_new(channel.confirmed)
                && !self.factories.values().any(|factory| factory.names(channel.channel_id))
        })
    }

    /// All factories, by instance id.
    pub fn factories(&self) -> impl Iterator<Item = &Factory> {
        self.factories.values()
    }

    /// The factory of this instance; nothing if it is unknown or archived.
    pub fn factory(&self, instance: InstanceId) -> Option<&Factory> {
        self.factories.get(&instance)
    }

    /// The last block that was handled.
    pub fn tip(&self) -> Option<(Height, BlockHash)> {
        self.tip
    }

    /// Peers that are connected and speak our protocol.
    pub fn peers(&self) -> impl Iterator<Item = NodeId> {
        self.peers.iter().copied()
    }

    /// Whether a peer's `open_channel` may be one that was announced: what the hook can answer from
    /// memory.
    pub fn expects_open_from(&self, peer: NodeId) -> bool {
        self.client.iter().any(|(instance, ceremony)| {
            ceremony.open == ExpectedOpen::Expected
                && self.factories.get(instance).is_some_and(|factory| factory.lsp() == peer)
        }) || self.client_sales.iter().any(|((instance, _), sale)| {
            sale.open == ExpectedOpen::Expected
                && self.factories.get(instance).is_some_and(|factory| factory.lsp() == peer)
        })
    }

    /// Number of ceremonies under way.
    pub fn ceremonies(&self) -> usize {
        let sales = self.lsp_sales.len().saturating_add(self.client_sales.len());
        self.lsp.len().saturating_add(self.client.len()).saturating_add(sales)
    }

    /// What was signed so far.
    pub fn ledger(&self) -> &ledger::Ledger {
        &self.ledger
    }
}
