//! What has come back to L: coins whose clients have all handed their keys over (S22, S38).

use bitcoin::TxOut;

use crate::record::attempt::Role;
use crate::record::factory::{ClientIndex, Factory, Height, OutPoint, SessionId, SpendRole, Txid, unspent};
use crate::record::reclaimed::ReclaimedInput;
use crate::tx::child::Coin;
use crate::tx::layout::{CoinIndex, Output};
use crate::tx::scripts::key_script;
use crate::types::Amount;

/// A coin on chain that nobody has spent and that is L's alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reclaimable {
    /// Which coin of the factory.
    pub coin: CoinIndex,
    /// Where it is, and what it is worth: of a stock coin that was sold out of, what the last sale has left.
    pub place: Coin,
}

impl Factory {
    /// L: whether every client of a coin has handed its key over.
    pub fn is_handed_over(&self, coin: CoinIndex) -> bool {
        let Some(coin) = self.current.layout.coin(coin).filter(|_| self.current.role == Role::Lsp) else {
            return false;
        };
        let mut clients = coin.clients.clone();
        !clients.is_empty() && clients.all(|client| self.current.keys.contains_key(&client))
    }

    /// L: the coins that it can take back now, those nearest to the root first. Nothing below them is on chain.
    pub fn reclaimable(&self) -> Vec<Reclaimable> {
        let (mut found, mut below) = (vec![], vec![0]);
        if self.current.keys.is_empty() {
            return found;
        }
        while let Some(coin) = below.pop() {
            found.extend(self.reclaimable_at(coin, &mut below));
        }
        found.sort_by_key(|found| found.coin);
        found
    }

    /// The coin, if it can be taken back; otherwise what became of it goes to `below`.
    fn reclaimable_at(&self, coin: CoinIndex, below: &mut Vec<CoinIndex>) -> Option<Reclaimable> {
        let known = self.current.layout.coin(coin)?;
        let tree = self.current.tree.as_ref()?;
        let (outpoint, value) = match known.stock {
            true => self.last_stock(coin)?,
            false => (tree.coin_outpoint(coin)?, known.value),
        };
        if unspent(self, outpoint).is_some() {
            let script_pubkey = key_script(tree.output_key(coin)?);
            let place = Coin { outpoint, output: TxOut { value, script_pubkey } };
            return self.is_handed_over(coin).then_some(Reclaimable { coin, place });
        }
        let node = tree.session(SessionId { coin, role: SpendRole::State })?;
        if self.spent.get(&outpoint) == Some(&node.txid) {
            let outputs = &self.current.layout.node(coin)?.outputs;
            below.extend(outputs.iter().filter_map(|output| match output {
                Output::Child(coin) | Output::Stock(coin) => Some(*coin),
                Output::Channel(_) | Output::Anchor => None,
            }));
        }
        None
    }

    /// A stock coin behind the sales that are on chain.
    fn last_stock(&self, coin: CoinIndex) -> Option<(OutPoint, Amount)> {
        let mut stock = self.stock_before(coin, 1)?;
        for sold in self.current.sales.of(coin) {
            if self.spent.get(&stock.outpoint) != Some(&sold.txid()) {
                break;
            }
            stock = sold.sale.rest?;
        }
        Some((stock.outpoint, stock.value))
    }

    /// L: the height from which on it takes back alone whatever has been handed over, though a funding that
    /// spends it may be on its way: when it would have to evict those whose way is longest (S21, S38).
    pub fn reclaim_latest(&self) -> Height {
        let terms = &self.current.terms;
        let sold = self.current.sales.all().map(|sold| sold.sale.number).max().unwrap_or(0);
        let sales = sold.saturating_mul(terms.confirm_blocks.into());
        let blocks = self.current.layout.worst_eviction_blocks().saturating_add(sales);
        terms.timeout_height.saturating_sub(blocks)
    }

    /// L: whether a coin whose keys it all has is taken back whatever else was to become of it: a way through it that
    /// isn't in the chain by now would be in the way until distributions compete with both (S38).
    pub(crate) fn is_taken_back_by_now(&self, coin: CoinIndex, height: Height) -> bool {
        let by = || match coin {
            0 => self.reclaim_latest(),
            _ => self.current.terms.timeout_height.saturating_sub(self.current.terms.margin_blocks.into()),
        };
        // S33: of a factory whose records aren't all understood nothing is taken back.
        self.is_handed_over(coin) && self.damage().is_none() && height >= by()
    }

    /// L: whether all of the factory is its own again, and still where it was: nothing but the funding is on
    /// chain.
    pub fn is_reclaimable_whole(&self) -> bool {
        let here = || self.funding().is_some_and(|funding| unspent(self, funding).is_some());
        self.is_handed_over(0) && here()
    }

    /// L: what its funding is to take back of other factories, as long as it isn't on chain.
    pub fn promised(&self) -> impl Iterator<Item = &ReclaimedInput> {
        let waits = self.failure().is_none() && self.funding_height().is_none();
        let reserved = self.current.reserved.as_deref().filter(|_| waits);
        reserved.into_iter().flat_map(|reserved| reserved.reclaims.iter().flatten())
    }

    /// The height at which L took a client's part of the factory back, and by which transaction: one that
    /// nobody else can make.
    pub fn reclaimed(&self, client: ClientIndex) -> Option<(Height, Txid)> {
        let tree = self.current.tree.as_ref().filter(|_| self.has_handed_over(client))?;
        let taken = |coin: CoinIndex| {
            let txid = *self.spent.get(&tree.coin_outpoint(coin)?)?;
            let ours = [SpendRole::State, SpendRole::Distribution].into_iter().any(|role| {
                tree.session(SessionId { coin, role }).is_some_and(|session| session.txid == txid)
            });
            let ours = ours || self.current.close.as_ref().is_some_and(|close| close.txid() == txid);
            let height = *self.confirmed.get(&txid)?;
            (!ours && self.may_be_reclaimed(coin)).then_some((height, txid))
        };
        self.current.layout.path(client).into_iter().find_map(taken)
    }

    /// Whether a spend of a coin that is none of the factory's transactions is L's doing: nobody else has all
    /// of its keys. A client knows of its own key alone.
    pub(crate) fn may_be_reclaimed(&self, coin: CoinIndex) -> bool {
        match self.current.role {
            Role::Lsp => self.is_handed_over(coin),
            Role::Client { index, .. } => {
                let clients = self.current.layout.coin(coin).map(|coin| coin.clients.clone());
                self.has_handed_over(index) && clients.is_some_and(|clients| clients.contains(&index))
            }
        }
    }

    /// Whether a client's channel is where nothing of the factory matters to it: on chain, or taken back.
    pub(crate) fn is_done(&self, client: ClientIndex) -> bool {
        self.leaf_height(client).is_some() || self.reclaimed(client).is_some()
    }
}
