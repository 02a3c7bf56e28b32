//! What the chain has of a factory.

use crate::record::attempt::Role;
use crate::record::factory::{
    BTreeSet, ClientIndex, Factory, Height, NodeIndex, SessionId, SpendRole, own_clients,
};
use crate::record::sales::Sold;
use crate::tx::layout::{CoinIndex, NodeKind};
use crate::tx::sale::Stock;
use crate::types::{OutPoint, Txid};

/// Whether every funding transaction that we signed for conflicts with one that is buried (S12).
pub(crate) fn is_dead(factory: &Factory, height: Height) -> bool {
    factory.signed_for().iter().all(|(funding, inputs)| {
        inputs.iter().any(|input| {
            factory.spent.get(input).is_some_and(|spender| {
                spender != funding
                    && factory
                        .confirmed
                        .get(spender)
                        .is_some_and(|at| height.saturating_sub(*at).saturating_add(1) >= BURIED)
            })
        })
    })
}

/// A session's name, for people: "static transaction 2", "distribution of coin 0".
pub fn session_name(factory: &Factory, id: SessionId) -> String {
    match (id.role, factory.current.layout.node(id.coin).map(|node| node.kind)) {
        (SpendRole::State, Some(NodeKind::Static)) => format!("static transaction {}", id.coin),
        (SpendRole::State, Some(NodeKind::Kickoff)) => format!("kickoff transaction {}", id.coin),
        (SpendRole::State, Some(NodeKind::State) | None) => format!("state transaction {}", id.coin),
        (SpendRole::Distribution | SpendRole::Sale | SpendRole::Poison | SpendRole::Close, _) => {
            format!("{} of coin {}", id.role.name(), id.coin)
        }
    }
}

/// L takes a channel on chain for an HTLC's sake also after its client has handed over (S16).
fn path_nodes(factory: &Factory) -> BTreeSet<NodeIndex> {
    let still_in = |client: &&ClientIndex| !factory.has_handed_over(**client);
    let leaving = factory.current.exiting.iter().chain(factory.current.evicting.iter().filter(still_in));
    leaving.flat_map(|client| factory.current.layout.path(*client)).collect()
}

/// Nodes that this node should have on chain at a height. From the timeout on a client has better than its
/// path wherever a coin has a distribution; where one has none, nothing but the node's transaction leads to
/// those below, whether or not the client was leaving (S19).
pub(crate) fn wanted_nodes(factory: &Factory, height: Height) -> BTreeSet<NodeIndex> {
    match factory.current.role {
        // S22: what it had is the operator's.
        Role::Client { .. } if factory.has_left() => BTreeSet::new(),
        Role::Client { index, .. } if has_matured(factory, height) => {
            let layout = &factory.current.layout;
            let has_none = |node: &NodeIndex| !layout.coin(*node).is_some_and(|coin| coin.has_distribution);
            layout.path(index).into_iter().filter(has_none).collect()
        }
        Role::Client { .. } => path_nodes(factory),
        Role::Lsp => {
            let way = path_nodes(factory).into_iter();
            way.filter(|node| !factory.is_taken_back_by_now(*node, height)).collect()
        }
    }
}

/// Whether distributions are valid.
pub(crate) fn has_matured(factory: &Factory, height: Height) -> bool {
    height >= factory.current.terms.timeout_height
}

/// The height at which an outpoint of the factory confirmed, if nothing has spent it.
pub(crate) fn unspent(factory: &Factory, outpoint: OutPoint) -> Option<Height> {
    let spent = factory.spent.contains_key(&outpoint);
    factory.confirmed.get(&outpoint.txid).copied().filter(|_| !spent)
}

/// Confirmations after which a transaction is taken to stay (S12).
pub const BURIED: u32 = 100;

/// A stock output on chain that nobody has spent.
pub(crate) struct OpenStock {
    pub(crate) stock: Stock,
    /// First block that may have L's own spend.
    pub(crate) matures: Height,
}

/// Stock outputs on chain that nobody has spent and no signed sale spends: of a coin that was sold out
/// of, what the last sale has left.
pub(crate) fn open_stock(factory: &Factory) -> impl Iterator<Item = OpenStock> {
    let coins = (0..).zip(factory.current.layout.coins()).filter(|(_, coin)| coin.stock);
    coins.filter_map(|(coin, _)| {
        let signed = factory.current.sales.of(coin).iter().rev().find(|sold| sold.is_signed());
        let stock = match signed {
            Some(last) => last.sale.rest?,
            None => factory.stock_before(coin, 1)?,
        };
        let confirmed = unspent(factory, stock.outpoint)?;
        Some(OpenStock {
            stock,
            matures: confirmed.saturating_add(u32::from(factory.current.terms.stock_csv)),
        })
    })
}

impl Factory {
    /// Whether a stock coin can't come on chain any more: a distribution has paid what is above it, or L has
    /// taken that back.
    fn stock_unreachable(&self, coin: CoinIndex) -> bool {
        let clients = self.current.layout.coin(coin).map(|coin| coin.clients.clone()).unwrap_or_default();
        let mut clients = clients.into_iter();
        clients.any(|client| self.paid_out(client).is_some() || self.reclaimed(client).is_some())
    }

    /// Whether a sale never comes on chain, because L has taken back what it would spend.
    pub(crate) fn is_stock_taken_back(&self, sold: &Sold) -> bool {
        let Some(coin) = sold.coin().filter(|coin| self.may_be_reclaimed(*coin)) else { return false };
        self.stock_unreachable(coin) || {
            let first = self.stock_before(coin, 1).map(|stock| stock.outpoint);
            let rests = self.current.sales.of(coin).iter().map(|sold| (sold.txid(), sold.sale.rest));
            let mut spent =
                first.into_iter().chain(rests.clone().filter_map(|(_, rest)| Some(rest?.outpoint)));
            let taken = |txid: &Txid| rests.clone().all(|(sale, _)| sale != *txid);
            spent.any(|outpoint| self.spent.get(&outpoint).is_some_and(taken))
        }
    }

    /// The height at which a distribution paid this client its channel.
    pub fn paid_out(&self, client: ClientIndex) -> Option<Height> {
        let spends = self.spent.iter().filter_map(|(outpoint, txid)| {
            let id = self.session_of(*outpoint, *txid)?;
            let coin = self.current.layout.coin(id.coin)?;
            let pays = id.role == SpendRole::Distribution && !coin.stock && coin.clients.contains(&client);
            pays.then(|| self.confirmed.get(txid).copied())?
        });
        spends.min()
    }

    /// Client that has handed over: the coin that everything stands on is spent, for good, and lightningd has
    /// ended its channels.
    fn is_left_behind(&self, buried: impl Fn(Height) -> bool) -> bool {
        let spender = self.funding().and_then(|funding| self.spent.get(&funding));
        let gone = spender.and_then(|txid| self.confirmed.get(txid)).is_some_and(|at| buried(*at));
        gone && self.has_ended_all()
    }

    /// Client: whether lightningd has ended each channel that it has here, or forgotten it.
    pub(crate) fn has_ended_all(&self) -> bool {
        let Role::Client { index, .. } = self.current.role else { return false };
        let current = &self.current;
        let first = current.resolved.contains(&index) || current.ended_of(index).is_some();
        first
            && self.own_sales().filter(|sold| sold.is_signed()).all(|sold| {
                let channel_id = sold.channel_id();
                current.ended.contains_key(&channel_id) || current.sales.is_resolved(channel_id)
            })
    }

    /// Whether nothing of this node's is left in the factory, for good.
    pub(crate) fn is_over(&self, height: Height) -> bool {
        let buried = |at: Height| height.saturating_sub(at).saturating_add(1) >= BURIED;
        if self.has_left() {
            return self.is_left_behind(buried);
        }
        // It has paid everybody, whatever was in the channels, sold or stock.
        if let Some(at) = self.close_height() {
            return buried(at);
        }
        let settled = |client: ClientIndex| {
            self.current.resolved.contains(&client)
                || self.paid_out(client).is_some_and(buried)
                || self.reclaimed(client).is_some_and(|(at, _)| buried(at))
        };
        // What is left of the stock is L's to take, or the clients' after the timeout.
        let no_stock = || self.current.role != Role::Lsp || open_stock(self).next().is_none();
        // A sale that never came on chain holds nothing, once its stock is spent otherwise.
        let gone = |sold: &Sold| {
            let spender = sold.sale.sessions.first().and_then(|session| self.spent.get(&session.outpoint));
            self.current.sales.is_resolved(sold.channel_id())
                || !sold.is_signed()
                || spender.is_some_and(|txid| *txid != sold.txid())
                || sold.coin().is_some_and(|coin| self.stock_unreachable(coin))
                || self.is_stock_taken_back(sold)
        };
        self.confirmed.len() > 1 && own_clients(self).all(settled) && self.own_sales().all(gone) && no_stock()
    }
}
