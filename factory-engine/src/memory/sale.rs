//! Sales under way, in memory: what L and its clients have of one until it is signed and stored.

use std::collections::BTreeSet;
use std::fmt;

use crate::memory::ceremony::ExpectedOpen;
use crate::record::event::{LedgerEntry, SaleJitOpened, SaleSigning};
use crate::record::factory::Factory;
use crate::signing::{Coordinator, Request, SignJob, Signer};
use crate::terms::ClientIndex;
use crate::tx::layout::CoinIndex;
use crate::tx::musig::{AggNonce, CheckedNonce, PartialSig};
use crate::types::{Amount, Height, Millis, NodeId, ScriptBuf};
use crate::wire::message::{SaleJoin, SalePartialSignatures, SalePropose};

/// What L's side of a sale waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum SalePhase {
    /// Clients that have to sign and are away.
    Waiting,
    /// Every client's `sale_join`, the buyer's among them.
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
    /// The end of that: the buyer's node hasn't answered, and its connection was cut.
    Cut,
}

/// What a sale is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SaleTerms {
    pub(crate) number: u32,
    pub(crate) buyer: ClientIndex,
    pub(crate) amount: Amount,
    pub(crate) price_msat: u64,
}

impl SaleTerms {
    /// The record that stands before the first partial signature (S8, S10).
    pub(crate) fn signing(
        self,
        coin: CoinIndex,
        script: &ScriptBuf,
        ledger: Vec<LedgerEntry>,
        height: Height,
    ) -> SaleSigning {
        let Self { number, buyer, amount, price_msat } = self;
        SaleSigning { coin, number, buyer, amount, script: script.clone(), price_msat, ledger, height }
    }
}

/// L's side of a sale under way.
pub(crate) struct LspSale {
    pub(crate) deal: SaleTerms,
    pub(crate) phase: SalePhase,
    pub(crate) deadline: Millis,
    /// Names this try: an answer to an earlier one that is still under way has other nonces.
    pub(crate) round: u64,
    /// The channel's funding script, once it is known.
    pub(crate) script: Option<ScriptBuf>,
    /// Whether the buyer has compared lightningd's record with the sale.
    pub(crate) checked: bool,
    /// Label of the invoice for its price, if there is one.
    pub(crate) invoice: Option<String>,
    pub(crate) signing: Coordinator,
    pub(crate) stored: BTreeSet<ClientIndex>,
    /// Whether its buyer would take an ordinary channel instead.
    pub(crate) jit: bool,
    /// Why it is one by now, if so. Then its number is 0.
    pub(crate) jit_reason: Option<String>,
}

impl LspSale {
    pub(crate) fn new(
        factory: &Factory,
        coin: CoinIndex,
        deal: SaleTerms,
        phase: SalePhase,
        deadline: Millis,
    ) -> Self {
        let clients = factory.current.layout.coin(coin).map(|coin| coin.clients.clone()).unwrap_or_default();
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
            jit_reason: None,
        }
    }

    /// When it ends by itself; nothing once only lightningd can say what comes of it.
    pub(crate) fn deadline(&self) -> Option<Millis> {
        (self.phase != SalePhase::Cut).then_some(self.deadline)
    }

    /// Whether lightningd opens an ordinary channel: it alone says what comes of it.
    pub(crate) fn is_funding(&self) -> bool {
        matches!(self.phase, SalePhase::Funding | SalePhase::Cut)
    }

    /// Whether nobody else has heard of it.
    pub(crate) fn concerns_buyer_alone(&self) -> bool {
        self.phase == SalePhase::Waiting || self.jit_reason.is_some()
    }
}

/// A client's side of a sale under way, as buyer or neighbour.
pub(crate) struct ClientSale {
    pub(crate) deal: SaleTerms,
    pub(crate) join: SaleJoin,
    pub(crate) signing: Signer<SalePropose>,
    /// Buyer: how far the operator's `open_channel` is.
    pub(crate) open: ExpectedOpen,
    /// Buyer: the committed channel's script, and whether lightningd's record was compared with it.
    pub(crate) committed: Option<(ScriptBuf, bool)>,
    pub(crate) deadline: Millis,
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
    /// Stock coin of this client's sub-factory.
    pub coin: CoinIndex,
    /// Capacity of the channel.
    pub amount: Amount,
    /// The most that it may cost, msat.
    pub max_price_msat: u64,
    /// Why it came to nothing, once that is known.
    pub refused: Option<String>,
    /// How many had to be waited for.
    pub away: u32,
    /// The ordinary channel that was agreed to instead.
    pub ordinary_channel: Option<OrdinaryChannel>,
    /// That channel, once it is there.
    pub opened: Option<SaleJitOpened>,
    pub(crate) deadline: Millis,
}

impl Purchase {
    /// A wish that the operator is about to hear of.
    pub(crate) fn new(coin: CoinIndex, amount: Amount, max_price_msat: u64, deadline: Millis) -> Self {
        Self {
            coin,
            amount,
            max_price_msat,
            refused: None,
            away: 0,
            ordinary_channel: None,
            opened: None,
            deadline,
        }
    }

    /// Whether something may still come of it.
    pub fn is_open(&self) -> bool {
        self.refused.is_none() && self.opened.is_none()
    }
}

/// An ordinary channel in place of one from stock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrdinaryChannel {
    /// What the buyer pays for it, msat.
    pub price_msat: u64,
    /// Why there is none from stock: who is away.
    pub reason: String,
}

/// A question for a price.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) amount: Amount,
    /// The price, msat, or why there is none; nothing until the operator has said.
    pub(crate) answer: Option<Result<Quoted, NoPrice>>,
}

/// What an operator says to a question for a price.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quoted {
    /// What a channel of the asked amount would cost now, msat.
    pub price_msat: u64,
    /// How many would have to sign and are away.
    pub away: u32,
}

/// A change of what memory has of a sale, made when the step is applied.
pub(crate) enum VolatileSale {
    Start(Box<LspSale>),
    StartClient(Box<ClientSale>),
    End,
    Lsp(VolatileLspSale),
    Client(VolatileClientSale),
    Purchase(Option<Purchase>),
    Asked(Asked),
    Sign(Box<SignJob<SalePropose>>),
    /// L: who kept a sale that was signed for from its end, the last time.
    Withheld(Vec<NodeId>),
    /// Height at which a client asked for its credit.
    AskedBack(ClientIndex, Height),
}

/// A change of L's side of a sale.
pub(crate) enum VolatileLspSale {
    Phase(SalePhase, Millis),
    Joined(ClientIndex, Vec<CheckedNonce>),
    Script(ScriptBuf),
    Checked,
    Invoice(String),
    Partials(ClientIndex, Vec<PartialSig>),
    Stored(ClientIndex),
}

/// A change of a client's side of a sale.
pub(crate) enum VolatileClientSale {
    Open(ExpectedOpen),
    Committed(ScriptBuf, bool),
}

impl LspSale {
    pub(crate) fn apply(&mut self, change: VolatileLspSale) {
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
    pub(crate) fn apply(&mut self, change: VolatileClientSale) {
        match change {
            VolatileClientSale::Open(open) => self.open = open,
            VolatileClientSale::Committed(script, checked) => self.committed = Some((script, checked)),
        }
    }
}

/// Why the operator said no price, in its words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoPrice(pub String);

impl fmt::Display for NoPrice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NoPrice {}
