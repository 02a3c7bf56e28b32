//! Sales of liquidity: a client buys some of its sub-factory's stock as a second channel.
//!
//! ```text
//! buyer                     L                         other clients of the sub-factory
//! │ buy ──────────────────▶ │
//! │ ◀────────── sale_offer  │ sale_offer ──────────────▶ │
//! │ sale_join ────────────▶ │ ◀──────────────  sale_join │
//! │ ◀══ fundchannel_start, fundchannel_complete          │
//! │ ◀────── sale_committed  │                            │
//! │ sale_checked ─────────▶ │                            │
//! │ ◀──────── sale_invoice  │ if it costs something      │
//! │ ═══ pays it ══════════▶ │ only now does anybody sign │
//! │ ◀──────── sale_propose  │ sale_propose ────────────▶ │
//! │ partial signatures ───▶ │ ◀────── partial signatures │
//! │ ◀────────── sale_ready  │ sale_ready ──────────────▶ │
//! │ sale_stored ──────────▶ │ ◀──────────── sale_stored  │
//! ```
//!
//! Unlike in creation the channel is committed *before* anybody signs. A stock output is signed for
//! once (S8): if the open failed after the first partial signature, no other channel could ever take
//! its place, and the stock would be stuck. So whatever can fail comes first, and once a partial
//! signature may have left, the very same sale is taken up again until it is done, with fresh nonces
//! (S2), whoever was restarted meanwhile.

mod account;
mod apply;
pub(super) mod book;
mod buy;
mod client;
mod error;
mod jit;
mod jits;
mod lsp;
mod lsp_signing;
mod payment;
mod price;

use std::collections::BTreeSet;

use crate::terms::ClientIndex;
use crate::tx::layout::CoinIndex;
use crate::tx::musig::{AggNonce, CheckedNonce, PartialSig};
use crate::tx::sale::{SaleError, rest};
use crate::types::{Amount, Height, Millis, NodeId, ScriptBuf};
use crate::wire::message::{Message, SaleAbort, SaleJoin, SalePartialSignatures, SalePropose};

use super::Engine;
use super::ceremony::ExpectedOpen;
use super::draft::{Draft, Fault};
use super::event::{LedgerEntry, SaleJitOpened, SaleSigning};
use super::factory::{Factory, Role};
use super::signing::{Coordinator, Request, SignJob, Signer};
use super::state::State;
use super::unusable::NotCooperative;

pub use account::Account;
pub use book::{Sales, Sold};
use error::CannotSell;
pub use error::{BadPrices, NoPrice};
pub use jits::Jits;
pub use price::PriceList;

/// What L waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum SalePhase {
    /// Clients that have to sign and are away.
    Waiting,
    /// Every `sale_join`.
    Joining,
    /// lightningd's `fundchannel_start` and `fundchannel_complete`.
    Opening,
    /// The buyer's `sale_checked`.
    Checking,
    /// The invoice, and that it is paid.
    Paying,
    /// Every partial signature.
    Signing,
    /// Every `sale_stored`.
    Storing,
    /// The buyer's `jit_accept`.
    Asking,
    /// lightningd's `fundchannel`: an ordinary channel instead.
    Funding,
}

/// What a sale is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Deal {
    pub(super) number: u32,
    pub(super) buyer: ClientIndex,
    pub(super) amount: Amount,
    pub(super) price_msat: u64,
}

impl Deal {
    /// The record that stands before the first partial signature (S8, S10).
    fn signing(self, coin: CoinIndex, script: &ScriptBuf, ledger: Vec<LedgerEntry>) -> SaleSigning {
        let Self { number, buyer, amount, price_msat } = self;
        SaleSigning { coin, number, buyer, amount, script: script.clone(), price_msat, ledger }
    }
}

/// L's side of a sale under way.
pub(super) struct LspSale {
    pub(super) deal: Deal,
    pub(super) phase: SalePhase,
    pub(super) deadline: Millis,
    /// Names this try: an answer to an earlier one that is still under way has other nonces.
    pub(super) round: u64,
    /// The channel's funding script, once it is known.
    pub(super) script: Option<ScriptBuf>,
    /// Whether the buyer has compared lightningd's record with the sale.
    pub(super) checked: bool,
    /// Label of the invoice for its price, if there is one.
    pub(super) invoice: Option<String>,
    pub(super) signing: Coordinator,
    pub(super) stored: BTreeSet<ClientIndex>,
    /// Whether its buyer would take an ordinary channel instead.
    pub(super) jit: bool,
    /// Why it is one by now, if so. Then its number is 0.
    pub(super) instead: Option<String>,
}

impl LspSale {
    fn new(factory: &Factory, coin: CoinIndex, deal: Deal, phase: SalePhase, deadline: Millis) -> Self {
        let clients = factory.layout.coin(coin).map(|coin| coin.clients.clone()).unwrap_or_default();
        Self {
            deal,
            phase,
            deadline,
            script: None,
            checked: false,
            invoice: None,
            round: 0,
            signing: Coordinator::new(clients),
            stored: BTreeSet::new(),
            jit: false,
            instead: None,
        }
    }

    /// When it ends by itself; nothing while lightningd opens an ordinary channel.
    pub(super) fn deadline(&self) -> Option<Millis> {
        (self.phase != SalePhase::Funding).then_some(self.deadline)
    }

    /// Whether nobody else has heard of it.
    pub(super) fn concerns_buyer_alone(&self) -> bool {
        self.phase == SalePhase::Waiting || self.instead.is_some()
    }
}

/// A client's side of a sale under way, as buyer or neighbour.
pub(super) struct ClientSale {
    pub(super) deal: Deal,
    pub(super) join: SaleJoin,
    pub(super) signing: Signer<SalePropose>,
    /// Buyer: the operator's open.
    pub(super) open: ExpectedOpen,
    /// Buyer: the committed channel's script, and whether lightningd's record was compared with it.
    pub(super) committed: Option<(ScriptBuf, bool)>,
    pub(super) deadline: Millis,
}

impl Request for SalePropose {
    type Answer = SalePartialSignatures;

    fn nonces(&self) -> &[AggNonce] {
        &self.nonces
    }

    fn answer(&self, transcript: [u8; 32], signatures: Vec<PartialSig>) -> SalePartialSignatures {
        let (instance, attempt, number) = (self.instance, self.attempt, self.number);
        SalePartialSignatures { instance, attempt, number, transcript, signatures }
    }
}

/// A client's wish to buy, until it is fulfilled or refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Purchase {
    /// The sub-factory's stock coin.
    pub coin: CoinIndex,
    /// Capacity of the channel.
    pub amount: Amount,
    /// The most that it may cost, msat.
    pub max_price_msat: u64,
    /// Why it came to nothing, once that is known.
    pub refused: Option<String>,
    /// Who had to be waited for.
    pub away: Vec<NodeId>,
    /// The ordinary channel that was agreed to instead.
    pub instead: Option<Instead>,
    /// That channel, once it is there.
    pub opened: Option<SaleJitOpened>,
    pub(super) deadline: Millis,
}

impl Purchase {
    /// Whether something may still come of it.
    pub fn is_open(&self) -> bool {
        self.refused.is_none() && self.opened.is_none()
    }
}

/// An ordinary channel in place of one from stock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instead {
    /// What it costs, msat.
    pub price_msat: u64,
    /// Why there is none from stock: who is away.
    pub reason: String,
}

/// A question for a price.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) amount: Amount,
    /// The price, msat, or why there is none; nothing until the operator has said.
    pub(super) answer: Option<Result<Quoted, NoPrice>>,
}

/// What an operator says to a question for a price.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quoted {
    /// The price, msat.
    pub price_msat: u64,
    /// Who would have to sign and is away.
    pub away: Vec<NodeId>,
}

/// What a purchase would be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quote {
    /// Who sells.
    pub lsp: NodeId,
    /// The factory's attempt.
    pub attempt: u32,
    /// The sub-factory's stock coin.
    pub coin: CoinIndex,
    /// The sale's place in the chain, from 1.
    pub number: u32,
    /// What the stock is worth before.
    pub stock: Amount,
    /// `blocks_early` of the new channel.
    pub blocks_early: u16,
}

/// A change of what memory has of a sale, made when the step is applied.
pub(super) enum VolatileSale {
    Start(Box<LspSale>),
    StartClient(Box<ClientSale>),
    End,
    Lsp(VolatileLspSale),
    Client(VolatileClientSale),
    Purchase(Option<Purchase>),
    Asked(Asked),
    Sign(Box<SignJob<SalePropose>>),
}

/// A change of L's side of a sale.
pub(super) enum VolatileLspSale {
    Phase(SalePhase, Millis),
    Joined(ClientIndex, Vec<CheckedNonce>),
    Script(ScriptBuf),
    Checked,
    Invoice(String),
    Partials(ClientIndex, Vec<PartialSig>),
    Stored(ClientIndex),
}

/// A change of a client's side of a sale.
pub(super) enum VolatileClientSale {
    Open(ExpectedOpen),
    Committed(ScriptBuf, bool),
}

impl LspSale {
    fn apply(&mut self, change: VolatileLspSale) {
        match change {
            VolatileLspSale::Phase(phase, deadline) => {
                self.phase = phase;
                self.deadline = deadline;
            }
            VolatileLspSale::Joined(client, nonces) => self.signing.join(client, nonces),
            VolatileLspSale::Script(script) => self.script = Some(script),
            VolatileLspSale::Checked => self.checked = true,
            VolatileLspSale::Invoice(label) => self.invoice = Some(label),
            VolatileLspSale::Partials(client, partials) => self.signing.signed(client, partials),
            VolatileLspSale::Stored(client) => {
                self.stored.insert(client);
            }
        }
    }
}

impl ClientSale {
    fn apply(&mut self, change: VolatileClientSale) {
        match change {
            VolatileClientSale::Open(open) => self.open = open,
            VolatileClientSale::Committed(script, checked) => self.committed = Some((script, checked)),
        }
    }
}

/// How many sessions a sale of `amount` would have: its own, and its rest's distribution if there is a
/// rest. What is wrong with the amount otherwise.
fn session_count(
    factory: &Factory,
    coin: CoinIndex,
    number: u32,
    amount: Amount,
) -> Result<usize, SaleError> {
    let stock = factory.stock_before(coin, number).ok_or(SaleError::Gone)?;
    let rest = rest(&factory.layout, stock, amount)?;
    Ok(if rest.is_some() { 2 } else { 1 })
}

/// Whether anything may be signed for this sub-factory (S9, S24), and otherwise why not.
fn cooperative(factory: &Factory, coin: CoinIndex, height: Height) -> Result<(), NotCooperative> {
    if let Some(reason) = factory.restored() {
        return Err(NotCooperative::Restored(reason.to_owned()));
    }
    let clients = factory.layout.coin(coin).map(|coin| coin.clients.clone()).unwrap_or_default();
    for client in clients {
        if factory.exiting.contains(&client) || factory.evicting.contains(&client) {
            return Err(NotCooperative::Leaving);
        }
        if factory.leaf_height(client).is_some() {
            return Err(NotCooperative::OnChain);
        }
    }
    match factory.state(height) {
        State::Active | State::Exiting => {}
        state => return Err(NotCooperative::State(state)),
    }
    match factory.role {
        Role::Client { index, .. } => factory.channel_usable(index, height).map_err(NotCooperative::Channel),
        Role::Lsp => Ok(()),
    }
}

/// Whether a fault in a message ends a sale, and otherwise the attempt at creating the factory.
pub(super) fn ends_sale(message: &Message) -> bool {
    match message {
        Message::SaleOffer(_)
        | Message::SaleJoin(_)
        | Message::SaleCommitted(_)
        | Message::SaleChecked(_)
        | Message::SalePropose(_)
        | Message::SalePartialSignatures(_)
        | Message::SaleReady(_)
        | Message::SaleStored(_)
        | Message::SaleAbort(_)
        | Message::SaleInvoice(_)
        | Message::SaleWait(_) => true,
        Message::Invite(_)
        | Message::Join(_)
        | Message::ExpectChannel(_)
        | Message::Expecting(_)
        | Message::Propose(_)
        | Message::PartialSignatures(_)
        | Message::Ready(_)
        | Message::Stored(_)
        | Message::ChannelCommitted(_)
        | Message::ChannelChecked(_)
        | Message::FundingBroadcast(_)
        | Message::Resume(_)
        | Message::Abort(_) => false,
        // Nobody is at fault in these, whatever they say.
        Message::Buy(_)
        | Message::AskPrice(_)
        | Message::Price(_)
        | Message::JitOffer(_)
        | Message::JitAccept(_)
        | Message::JitOpened(_) => false,
    }
}

impl Engine {
    /// Either side ends a sale.
    pub(super) fn on_sale_abort(
        &self,
        d: &mut Draft<'_>,
        peer: NodeId,
        abort: &SaleAbort,
    ) -> Result<(), Fault> {
        match self.known(abort.instance)?.role {
            Role::Lsp => self.on_client_sale_abort(d, peer, abort),
            Role::Client { .. } => self.on_lsp_sale_abort(d, peer, abort),
        }
    }

    /// A peer broke the protocol of a sale: it ends here, and the peer is named.
    pub(super) fn on_sale_fault(&self, d: &mut Draft<'_>, factory: &Factory, peer: NodeId, reason: &str) {
        match factory.role {
            Role::Lsp => self.lsp_sale_fault(d, factory, peer, reason),
            Role::Client { lsp, .. } if lsp == peer => self.client_sale_fault(d, factory, reason),
            Role::Client { .. } => {}
        }
    }
}
