//! The protocol: a state machine without IO, clock or hidden randomness.
//!
//! [`Engine::handle`] looks at one [`Input`] and returns a [`Step`]: events, which must be stored
//! first, and effects, which exist only afterwards. It changes nothing. [`Engine::apply`] takes a
//! step whose events are stored, changes the engine accordingly and hands out the effects. If the
//! store fails the step is dropped, and neither memory nor anybody else has seen it (S14).
//!
//! Partial signatures are made in `apply`, after their ledger entries are durable (S8, S10); that
//! is also where secret nonces are consumed.

mod ceremony;
mod chain;
mod client;
mod client_signing;
mod draft;
pub mod dust;
pub mod factory;
pub mod fees;
pub mod hold;
pub mod htlc;
mod io;
pub mod ledger;
mod load_error;
mod lsp;
mod lsp_signing;
mod online;
mod policy;
mod progress;
mod sale;
mod sign;
mod signing;
pub mod state;
mod unusable;
pub mod urgent;

use std::collections::{BTreeMap, BTreeSet};

use bitcoin::BlockHash;

use crate::tx::layout::CoinIndex;
use crate::tx::musig::{FactoryKey, MasterSecret};
use crate::types::{Height, InstanceId, Millis, NodeId};
use crate::wire::message::Message;

pub use crate::record::event;
use ceremony::{ClientCeremony, LspCeremony, Volatile};
use draft::{Draft, Fault};
use event::Event;
use sale::{Asked, ClientSale, LspSale};

use chain::close_again;
pub use chain::{
    AccountProblem, BURIED, Eviction, Line, NextAction, Purpose, Sighting, Standing, Statement, TOLD_TO,
    Watched, evictable, eviction, exit_allowed, sightings, standing, statement,
};
pub use factory::{Factory, LoadError, Role};
pub use htlc::ChannelPolicy;
pub use io::*;
pub use online::Online;
pub use policy::{Config, Policy};
pub use progress::{Progress, Stage};
pub use sale::{Account, BadPrices, Instead, Jits, NoPrice, PriceList, Purchase, Quote, Quoted, Sales, Sold};
pub use state::State;
pub use unusable::{NotCooperative, Unusable};

/// What the records of one factory amount to. Rebuilding needs nothing of the engine, so that many can be
/// rebuilt at once: most of it is the aggregation of keys.
pub struct Folded {
    factory: Option<Factory>,
    ledger: Vec<event::LedgerEntry>,
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
        let (mut factory, mut ledger) = (before, Vec::new());
        for event in records.into_iter().flatten() {
            ledger.extend_from_slice(event.ledger());
            match &mut factory {
                None => factory = Some(Factory::begin(instance, &event)?),
                Some(factory) => factory.apply(&event, None)?,
            }
            if matches!(event, Event::Forgotten(_)) {
                // Its operator may have invited again afterwards.
                factory = None;
            }
        }
        Ok(Self { factory, ledger })
    }

    /// The factory, unless it was forgotten.
    pub fn into_factory(self) -> Option<Factory> {
        self.factory
    }
}

/// The protocol engine of one node: all its factories, as operator and as client.
pub struct Engine {
    me: NodeId,
    master: MasterSecret,
    config: Config,
    // Durable: the fold of what the store holds.
    factories: BTreeMap<InstanceId, Factory>,
    ledger: ledger::Ledger,
    archived: BTreeSet<InstanceId>,
    // Volatile.
    lsp: BTreeMap<InstanceId, LspCeremony>,
    client: BTreeMap<InstanceId, ClientCeremony>,
    lsp_sales: BTreeMap<(InstanceId, CoinIndex), LspSale>,
    client_sales: BTreeMap<(InstanceId, CoinIndex), ClientSale>,
    purchases: BTreeMap<InstanceId, Purchase>,
    asked: BTreeMap<InstanceId, Asked>,
    peers: BTreeSet<NodeId>,
    tip: Option<(Height, BlockHash)>,
    fees: fees::Fees,
    shown: BTreeMap<InstanceId, State>,
    /// Counts what has changed any of the above: a step follows from one generation alone.
    generation: u64,
}

impl Engine {
    /// An engine without factories. `me` is this node's id; `master` stays the same for ever, every
    /// factory key is derived from it.
    pub fn new(me: NodeId, master: MasterSecret, config: Config) -> Self {
        Self {
            me,
            master,
            config,
            factories: BTreeMap::new(),
            ledger: ledger::Ledger::default(),
            archived: BTreeSet::new(),
            lsp: BTreeMap::new(),
            client: BTreeMap::new(),
            lsp_sales: BTreeMap::new(),
            client_sales: BTreeMap::new(),
            purchases: BTreeMap::new(),
            asked: BTreeMap::new(),
            peers: BTreeSet::new(),
            tip: None,
            fees: fees::Fees::default(),
            shown: BTreeMap::new(),
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

    /// Takes over a factory that was rebuilt elsewhere.
    pub fn adopt(&mut self, folded: Folded) {
        self.next_generation();
        self.ledger.record(&folded.ledger);
        if let Some(factory) = folded.factory {
            self.factories.insert(factory.instance, factory);
        }
    }

    /// Factories that nothing can come of any more: they are closed, and no attempt at them that was given up
    /// can be funded.
    pub fn archivable(&self, height: Height) -> impl Iterator<Item = InstanceId> {
        let over = move |factory: &&Factory| factory.is_archivable(height);
        self.factories.values().filter(over).map(|factory| factory.instance)
    }

    /// Factories whose records stay where they are. All that is left of one here is that there can be no other
    /// of its id: what was signed for it isn't known any more (S8).
    pub fn archive(&mut self, instances: impl IntoIterator<Item = InstanceId>) {
        self.next_generation();
        for instance in instances {
            self.factories.remove(&instance);
            self.archived.insert(instance);
        }
    }

    /// All that were archived.
    pub fn archived(&self) -> impl Iterator<Item = InstanceId> {
        self.archived.iter().copied()
    }

    /// Whether a factory was archived.
    pub fn is_archived(&self, instance: InstanceId) -> bool {
        self.archived.contains(&instance)
    }

    /// Takes over what another engine of this node has loaded: as if the same records were read again.
    pub fn load_from(&mut self, other: &Self) {
        self.next_generation();
        self.factories.clone_from(&other.factories);
        self.ledger.clone_from(&other.ledger);
        self.archived.clone_from(&other.archived);
    }

    /// Whatever was handled before is stale from now on.
    pub(in crate::protocol) fn next_generation(&mut self) {
        self.generation = self.generation.wrapping_add(1);
    }

    /// What `input` leads to. Changes nothing.
    ///
    /// `now` is the time, `height` the last block that was handled, `rng` where fresh nonces and
    /// instance ids come from.
    pub fn handle(&self, input: Input, now: Millis, height: Height, rng: &mut dyn Entropy) -> Step {
        let mut d = Draft::new(self.generation, now, height, rng);
        let answer = match input {
            Input::Command(command) => self.on_command(&mut d, command),
            Input::OpenChannel(open) => Ok(self.on_open_channel(&mut d, &open)),
            other => {
                self.on_happening(&mut d, other);
                Ok(Answer::Done)
            }
        };
        d.finish(answer)
    }

    fn on_command(&self, d: &mut Draft<'_>, command: Command) -> Result<Answer, Refusal> {
        match command {
            Command::Create(create) => self.create(d, &create),
            Command::Accept { instance } => self.accept(d, instance),
            Command::Decline { instance, reason } => self.decline(d, instance, &reason),
            Command::Exit { instance } => self.exit(d, instance),
            Command::Evict { instance, clients } => self.evict(d, instance, &clients),
            Command::Buy { instance, amount, max_price_msat } => {
                self.buy(d, instance, amount, max_price_msat)
            }
            Command::AskPrice { instance, amount } => self.ask_price(d, instance, amount),
        }
    }

    fn on_happening(&self, d: &mut Draft<'_>, input: Input) {
        match input {
            Input::Started { channels } => self.on_started(d, &channels),
            Input::PeerUp { peer } => {
                d.volatile(Volatile::PeerUp(peer));
                self.lsp_peer_up(d, peer);
                self.client_peer_up(d, peer);
                for factory in self.factories.values() {
                    if factory.client_of(peer).is_some() {
                        self.resume_sales(d, factory, Some(peer));
                        self.resume_waiting(d, factory, peer);
                        self.repeat_jit(d, factory, peer);
                    }
                }
            }
            Input::PeerDown { peer } => {
                d.volatile(Volatile::PeerDown(peer));
                self.lsp_peer_down(d, peer);
                self.client_peer_down(d, peer);
                self.lsp_sales_peer_down(d, peer);
                self.client_sales_peer_down(d, peer);
            }
            Input::Message { peer, payload } => self.on_message(d, peer, &payload),
            Input::FundingPrepared { instance, attempt, result } => {
                self.on_funding_prepared(d, instance, attempt, result);
            }
            Input::PayoutReady { instance, attempt, result } => {
                match self.factories.get(&instance).map(|factory| factory.role) {
                    Some(Role::Lsp) => self.on_stock_payout(d, instance, result),
                    _ => self.on_payout_ready(d, instance, attempt, result),
                }
            }
            Input::ChannelStarted { instance, attempt, client, sale, result } => match sale {
                None => self.on_channel_started(d, instance, attempt, client, result),
                Some(number) => self.on_sale_channel_started(d, instance, client, number, result),
            },
            Input::ChannelCompleted { instance, attempt, client, sale, result } => match sale {
                None => self.on_channel_completed(d, instance, attempt, client, result),
                Some(number) => self.on_sale_channel_completed(d, instance, client, number, result),
            },
            Input::ChannelChecked { instance, attempt, sale, result } => match sale {
                None => self.on_channel_check(d, instance, attempt, result),
                Some(number) => self.on_sale_channel_check(d, instance, number, result),
            },
            Input::InvoiceMade { instance, label, result } => {
                self.on_invoice_made(d, instance, label, result);
            }
            Input::InvoiceEnded { instance, label, result } => {
                self.on_invoice_ended(d, instance, &label, result);
            }
            Input::PaymentEnded { instance, payment_hash, result } => {
                self.on_payment_ended(d, instance, payment_hash, result);
            }
            Input::ChannelFunded { instance, buyer, result } => {
                self.on_channel_funded(d, instance, buyer, result);
            }
            Input::Unspent { instance, attempt, height, result } => {
                self.on_unspent(d, instance, attempt, height, result);
            }
            Input::Block(block) => self.on_block(d, &block),
            Input::Htlcs(htlcs) => self.on_htlcs(d, &htlcs),
            Input::Channels(open) => self.on_channels(d, &open),
            Input::Reorg { height } => self.on_reorg(d, height),
            Input::Fees(news) => self.on_fees(d, news),
            Input::Published { txid, report } => self.on_published(d, txid, *report),
            Input::Tick => {
                self.lsp_tick(d);
                self.client_tick(d);
                self.lsp_sales_tick(d);
                self.client_sales_tick(d);
            }
            Input::Command(_) | Input::OpenChannel(_) => {}
        }
    }

    fn on_message(&self, d: &mut Draft<'_>, peer: NodeId, payload: &[u8]) {
        let message = match Message::decode(payload) {
            Ok(message) => message,
            Err(error) => {
                d.log(Level::Unusual, format!("{peer}: ignored a message that doesn't decode: {error}"));
                return;
            }
        };
        let name = message.name();
        let instance = message.instance();
        let of_sale = sale::ends_sale(&message);
        let result = match message {
            Message::Invite(m) => self.on_invite(d, peer, m),
            Message::Join(m) => self.on_join(d, peer, m),
            Message::ExpectChannel(m) => self.on_expect_channel(d, peer, &m),
            Message::Expecting(m) => self.on_expecting(d, peer, m.instance, m.attempt),
            Message::Propose(m) => self.on_propose(d, peer, m),
            Message::PartialSignatures(m) => self.on_partial_signatures(d, peer, m),
            Message::Ready(m) => self.on_ready(d, peer, m),
            Message::Stored(m) => self.on_stored(d, peer, m.instance, m.attempt),
            Message::ChannelCommitted(m) => self.on_channel_committed(d, peer, &m),
            Message::ChannelChecked(m) => self.on_client_checked(d, peer, &m),
            Message::FundingBroadcast(m) => self.on_funding_broadcast(d, peer, &m),
            Message::Resume(m) => self.on_resume(d, peer, &m),
            Message::Abort(m) => self.on_abort(d, peer, &m),
            Message::Buy(m) => self.on_buy(d, peer, &m),
            Message::SaleOffer(m) => self.on_sale_offer(d, peer, &m),
            Message::SaleJoin(m) => self.on_sale_join(d, peer, &m),
            Message::SaleCommitted(m) => self.on_sale_committed(d, peer, &m),
            Message::SaleChecked(m) => self.on_sale_checked(d, peer, &m),
            Message::SalePropose(m) => self.on_sale_propose(d, peer, &m),
            Message::SalePartialSignatures(m) => self.on_sale_partials(d, peer, &m),
            Message::SaleReady(m) => self.on_sale_ready(d, peer, &m),
            Message::SaleStored(m) => self.on_sale_stored(d, peer, &m),
            Message::SaleAbort(m) => self.on_sale_abort(d, peer, &m),
            Message::AskPrice(m) => self.on_ask_price(d, peer, &m),
            Message::Price(m) => self.on_price(d, peer, &m),
            Message::SaleInvoice(m) => self.on_sale_invoice(d, peer, &m),
            Message::SaleWait(m) => self.on_sale_wait(d, peer, &m),
            Message::JitOffer(m) => self.on_jit_offer(d, peer, &m),
            Message::JitAccept(m) => self.on_jit_accept(d, peer, &m),
            Message::JitOpened(m) => self.on_jit_opened(d, peer, &m),
        };
        match result {
            Ok(()) => {}
            Err(Fault::Stale(reason)) => {
                d.log(Level::Debug, format!("{instance}: ignored {name} from {peer}: {reason}"));
            }
            Err(Fault::Peer(reason)) => {
                d.log(Level::Unusual, format!("{instance}: fault of {peer} in {name}: {reason}"));
                match self.factories.get(&instance) {
                    Some(factory) if of_sale => self.on_sale_fault(d, factory, peer, &reason),
                    Some(factory) => self.on_fault(d, factory, peer, &reason),
                    None => {}
                }
            }
        }
    }

    /// A peer broke the protocol: L goes on without it, a client gives the attempt up.
    fn on_fault(&self, d: &mut Draft<'_>, factory: &Factory, peer: NodeId, reason: &str) {
        match factory.role {
            Role::Lsp => self.lsp_fault(d, factory, peer, reason),
            Role::Client { lsp, .. } if lsp == peer => self.client_gives_up(d, factory, reason),
            Role::Client { .. } => {}
        }
    }

    fn on_started(&self, d: &mut Draft<'_>, channels: &[KnownChannel]) {
        for factory in self.factories.values() {
            close_again(d, factory, channels);
            match factory.role {
                Role::Lsp => {
                    self.lsp_started(d, factory, channels);
                    self.lsp_sales_started(d, factory, channels);
                    self.jits_started(d, factory, channels);
                }
                Role::Client { .. } => self.client_started(d, factory, channels),
            }
            self.sale_payments_started(d, factory);
        }
    }

    fn on_abort(
        &self,
        d: &mut Draft<'_>,
        peer: NodeId,
        abort: &crate::wire::message::Abort,
    ) -> Result<(), Fault> {
        let factory = self.known(abort.instance)?;
        if abort.attempt != factory.attempt {
            return Err(Fault::stale("it is of another attempt"));
        }
        match factory.role {
            Role::Lsp => self.on_client_abort(d, factory, peer, abort),
            Role::Client { lsp, .. } if lsp == peer => self.on_lsp_abort(d, factory, abort),
            Role::Client { .. } => Err(Fault::stale("it is not from the operator")),
        }
    }

    fn known(&self, instance: InstanceId) -> Result<&Factory, Fault> {
        self.factories.get(&instance).ok_or_else(|| Fault::stale("no such factory"))
    }

    /// L's key in an attempt. A client's is salted at every join (S9).
    fn factory_key(&self, instance: InstanceId, attempt: u32) -> FactoryKey {
        FactoryKey::derive(&self.master, instance, attempt)
    }

    /// A client's key: another one at every join, since the salt is fresh (S9).
    fn client_key(&self, instance: InstanceId, attempt: u32, salt: &[u8; 32]) -> FactoryKey {
        FactoryKey::derive_salted(&self.master, instance, attempt, salt)
    }

    /// When [`Input::Tick`] is due at the latest.
    pub fn poll_timeout(&self) -> Option<Millis> {
        let lsp = self.lsp.values().map(|ceremony| ceremony.deadline);
        let sales = self.lsp_sales.values().filter_map(LspSale::deadline);
        let sales = sales.chain(self.client_sales.values().map(|sale| sale.deadline));
        let waiting = self.purchases.values().filter(|purchase| purchase.is_open());
        lsp.chain(self.client.values().map(|ceremony| ceremony.deadline))
            .chain(sales)
            .chain(waiting.map(|purchase| purchase.deadline))
            .min()
    }

    /// All factories, by instance id.
    pub fn factories(&self) -> impl Iterator<Item = &Factory> {
        self.factories.values()
    }

    /// One factory.
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
            ceremony.open == ceremony::ExpectedOpen::Expected
                && self.factories.get(instance).is_some_and(|factory| factory.lsp() == peer)
        }) || self.client_sales.iter().any(|((instance, _), sale)| {
            sale.open == ceremony::ExpectedOpen::Expected
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
