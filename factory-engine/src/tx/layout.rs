//! Terms → which transactions exist, what they are worth and who signs them. No keys yet.
//!
//! Every party computes the layout by itself from the terms that it accepted (S3); equal terms give
//! equal layouts. Integer work only, in proportion to clients × depth.
//!
//! Nodes are numbered depth first, a parent before its children, a kickoff right before its state.
//! Coins are n-of-n outputs: coin *i* is what node *i* spends (coin 0 is the funding output), then
//! come the stock outputs of the sub-factories, in leaf order.

mod build;
mod check;
mod coins;
mod error;
mod limits;

use std::fmt;
use std::ops::Range;

use bitcoin::Amount;

use crate::terms::{ClientIndex, Terms};
use crate::tx::scripts::ANCHOR_VALUE;

pub use error::LayoutError;
pub use limits::*;

/// Which spend of a coin; the ledger's roles (S8).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum SpendRole {
    /// The node transaction that spends the coin.
    State,
    /// A sale out of a stock coin.
    Sale,
    /// After the timeout: everything to the clients (S20).
    Distribution,
    /// A superseded state's outputs to the clients (S23).
    Poison,
    /// The cooperative end of a factory: to everybody what it has.
    Close,
}

impl SpendRole {
    /// Its name for people: in logs and errors.
    pub fn name(self) -> &'static str {
        match self {
            SpendRole::State => "state",
            SpendRole::Sale => "sale",
            SpendRole::Distribution => "distribution",
            SpendRole::Poison => "poison",
            SpendRole::Close => "close",
        }
    }
}

impl From<SpendRole> for u8 {
    /// The role's number, as it is stored.
    fn from(role: SpendRole) -> u8 {
        match role {
            SpendRole::State => 0,
            SpendRole::Sale => 1,
            SpendRole::Distribution => 2,
            SpendRole::Poison => 3,
            SpendRole::Close => 4,
        }
    }
}

impl TryFrom<u8> for SpendRole {
    type Error = u8;

    /// The role of a number; the number itself if there is none.
    fn try_from(number: u8) -> Result<Self, u8> {
        Ok(match number {
            0 => Self::State,
            1 => Self::Sale,
            2 => Self::Distribution,
            3 => Self::Poison,
            4 => Self::Close,
            _ => return Err(number),
        })
    }
}

/// Number of an n-of-n output.
pub type CoinIndex = u32;
/// Number of a node: a transaction of the tree.
pub type NodeIndex = u32;

/// One signing session: one transaction with one input, the coin.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SessionId {
    /// The coin that is spent.
    pub coin: CoinIndex,
    /// Which of the transactions that could spend it.
    pub role: SpendRole,
}

/// For people: "the distribution of coin 0".
impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.role {
            SpendRole::State => write!(f, "the transaction that spends coin {}", self.coin),
            SpendRole::Sale | SpendRole::Distribution | SpendRole::Poison | SpendRole::Close => {
                write!(f, "the {} of coin {}", self.role.name(), self.coin)
            }
        }
    }
}

/// What a node's transaction is for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum NodeKind {
    /// One transaction whose outputs are final.
    Static,
    /// One output, for the [`NodeKind::State`] node that follows it.
    Kickoff,
    /// Replaceable by a later state with a lower nSequence.
    State,
}

/// An output of a node's transaction.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Output {
    /// The coin that this node spends.
    Child(NodeIndex),
    /// The funding output of this client's channel (P2WSH).
    Channel(ClientIndex),
    /// A sub-factory's stock: the coin that sales spend.
    Stock(CoinIndex),
    /// A P2A output, for a child that raises the fee.
    Anchor,
}

/// A transaction of the tree. It spends the coin of the same number.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Node {
    /// Whether it is static, a kickoff or a state.
    pub kind: NodeKind,
    /// The node and output that it spends; None for the funding output.
    pub parent: Option<(NodeIndex, u32)>,
    /// The clients below it: with L, its signers.
    pub clients: Range<ClientIndex>,
    /// Its outputs, the anchor last.
    pub outputs: Vec<Output>,
    /// What it spends: its outputs and its fee.
    pub input_value: Amount,
    /// The value of each output.
    pub output_values: Vec<Amount>,
    /// Its fee, fixed at signing: weight × `tree_feerate`, rounded up.
    pub fee: Amount,
    /// Its size with its signature, vB.
    pub vbytes: u64,
    /// nSequence of its input (BIP-68 blocks for [`NodeKind::State`], else without meaning).
    pub sequence: u32,
    /// How many transactions of the tree come before it.
    pub depth: u32,
}

/// An n-of-n output of L and some clients.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Coin {
    /// The clients whose keys are in it, next to L's.
    pub clients: Range<ClientIndex>,
    /// Value of the output.
    pub value: Amount,
    /// The node and output that make it; None for the funding output.
    pub source: Option<(NodeIndex, u32)>,
    /// Whether it is a sub-factory's stock.
    pub stock: bool,
    /// Whether it has a distribution transaction. One above [`MAX_STANDARD_VBYTES`] would not relay:
    /// then the members reach their money through the node and the distributions below it.
    pub has_distribution: bool,
    /// 3 up to [`MAX_V3_VBYTES`], else 2.
    pub distribution_version: i32,
    /// Size of its distribution with signature, vB, if every payout is a P2TR or P2WSH.
    pub distribution_vbytes: u64,
}

/// What one client's unilateral exit costs, to the confirmation of its channel's output.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct ExitCost {
    /// Transactions that the client publishes, from the root to its leaf.
    pub transactions: u32,
    /// Their size together, vB, without what raises their fees.
    pub vbytes: u64,
    /// Blocks: relative timelocks, and `confirm_blocks` for each transaction.
    pub blocks: u32,
    /// The fees that they carry by themselves.
    pub fees: Amount,
}

/// Every transaction of a factory, without keys. Deterministic in the terms.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Layout {
    terms: Terms,
    nodes: Vec<Node>,
    coins: Vec<Coin>,
    /// Where each client's channel is.
    places: Vec<(NodeIndex, u32)>,
    worst_blocks: u16,
}

impl Layout {
    /// Builds the tree, or says what is wrong with the terms and what to change.
    pub fn new(terms: &Terms) -> Result<Self, LayoutError> {
        build::layout(terms)
    }

    /// The terms that it was built from.
    pub fn terms(&self) -> &Terms {
        &self.terms
    }

    /// All transactions of the tree, parents before children.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// All n-of-n outputs: those that nodes spend, in the order of nodes, then the stock outputs.
    pub fn coins(&self) -> &[Coin] {
        &self.coins
    }

    /// Value of the funding output.
    pub fn funding_value(&self) -> Amount {
        self.coins.first().map_or(Amount::ZERO, |coin| coin.value)
    }

    /// The nodes from the root to the one with this client's channel; empty if there is no such
    /// client.
    pub fn path(&self, client: ClientIndex) -> Vec<NodeIndex> {
        let mut path = Vec::new();
        let mut next = self.channel_place(client).map(|(node, _)| node);
        while let Some(node) = next {
            path.push(node);
            next = self.node(node).and_then(|node| node.parent).map(|(parent, _)| parent);
        }
        path.reverse();
        path
    }

    /// The coins with this client's key, ascending: its path, then its sub-factory's stock if there
    /// is any.
    pub fn client_coins(&self, client: ClientIndex) -> Vec<CoinIndex> {
        let mut coins = self.path(client);
        if !coins.is_empty() {
            coins.extend(self.stock_coin(client));
        }
        coins
    }

    /// The node and output of this client's channel; None if there is no such client.
    pub fn channel_place(&self, client: ClientIndex) -> Option<(NodeIndex, u32)> {
        self.places.get(usize::try_from(client).ok()?).copied()
    }

    /// The sessions that this client signs, or all for L (None), in the order in which nonces,
    /// partial signatures and signatures travel: coins ascending, State before Distribution.
    pub fn sessions(&self, who: Option<ClientIndex>) -> Vec<SessionId> {
        let coins = match who {
            Some(client) => self.client_coins(client),
            None => (0..self.coin_count()).collect(),
        };
        let mut sessions = Vec::with_capacity(coins.len().saturating_mul(2));
        for index in coins {
            let Some(coin) = self.coin(index) else {
                continue;
            };
            if !coin.stock {
                sessions.push(SessionId { coin: index, role: SpendRole::State });
            }
            if coin.has_distribution {
                sessions.push(SessionId { coin: index, role: SpendRole::Distribution });
            }
        }
        sessions
    }

    /// Whom a coin's distribution pays, and how much: capacities and shares of the stock below it,
    /// or shares of the stock that the coin is; L nothing (S20). In client order, without the anchor.
    /// Empty if the coin has no distribution.
    pub fn distribution_outputs(&self, coin: CoinIndex) -> Vec<(ClientIndex, Amount)> {
        match self.coin(coin) {
            // Sums and differences were checked when the layout was built.
            Some(coin) if coin.has_distribution => coins::payouts(&self.terms, coin).unwrap_or_default(),
            _ => Vec::new(),
        }
    }

    /// What a coin's distribution pays as fee: what its outputs leave. For a node's coin these are
    /// the fees and anchors of the tree below it; their feerate is above `tree_feerate`, by how much
    /// depends on the shape (13 times, and the anchors, in the worst: a stateful binary tree down to
    /// single clients). A stock coin pays `tree_feerate`. None if it has no distribution.
    pub fn distribution_fee(&self, coin: CoinIndex) -> Option<Amount> {
        let outputs = self.distribution_outputs(coin);
        if outputs.is_empty() {
            return None;
        }
        let left = self.coin(coin)?.value.checked_sub(ANCHOR_VALUE)?;
        outputs.iter().try_fold(left, |left, (_, value)| left.checked_sub(*value))
    }

    /// `blocks_early` of this client's channel at birth: relative timelocks on its path,
    /// `confirm_blocks` for each transaction, and the margin. That of the longest exit if there is no
    /// such client.
    pub fn blocks_early(&self, client: ClientIndex) -> u16 {
        if self.channel_place(client).is_none() {
            return self.worst_blocks;
        }
        let margin = u32::from(self.terms.margin_blocks);
        let blocks = self.exit_cost(client).blocks.saturating_add(margin);
        // At most MAX_EXIT_BLOCKS, or there would be no layout.
        u16::try_from(blocks).unwrap_or(u16::MAX)
    }

    /// `blocks_early` of the client with the longest exit.
    pub fn worst_blocks_early(&self) -> u16 {
        self.worst_blocks
    }

    /// How many blocks before the timeout L has to begin to take this client's channel on chain (S21):
    /// `blocks_early`, and where its sub-factory has stock, the blocks until L may take that, and for
    /// its transaction to confirm. From the timeout on distributions pay L nothing.
    pub fn eviction_blocks(&self, client: ClientIndex) -> u32 {
        u32::from(self.blocks_early(client)).saturating_add(self.stock_blocks())
    }

    /// Blocks from a leaf's confirmation until L has its stock.
    fn stock_blocks(&self) -> u32 {
        if self.terms.stock == Amount::ZERO {
            return 0;
        }
        u32::from(self.terms.stock_csv).saturating_add(u32::from(self.terms.confirm_blocks))
    }

    /// The largest [`Layout::eviction_blocks`] of any client, blocks.
    pub fn worst_eviction_blocks(&self) -> u32 {
        u32::from(self.worst_blocks).saturating_add(self.stock_blocks())
    }

    /// What this client's exit costs; zeros if there is no such client.
    pub fn exit_cost(&self, client: ClientIndex) -> ExitCost {
        let mut cost = ExitCost { transactions: 0, vbytes: 0, blocks: 0, fees: Amount::ZERO };
        for node in self.path(client).into_iter().filter_map(|node| self.node(node)) {
            let wait = if node.kind == NodeKind::State { node.sequence } else { 0 };
            let blocks = wait.saturating_add(u32::from(self.terms.confirm_blocks));
            cost.transactions = cost.transactions.saturating_add(1);
            cost.vbytes = cost.vbytes.saturating_add(node.vbytes);
            cost.blocks = cost.blocks.saturating_add(blocks);
            // No more than the funding output, which is an amount.
            cost.fees = cost.fees.checked_add(node.fee).unwrap_or(cost.fees);
        }
        cost
    }

    /// The stock coin of a client's sub-factory; None if factories of these terms have no stock.
    pub fn stock_coin(&self, client: ClientIndex) -> Option<CoinIndex> {
        let per_sub = u32::from(self.terms.shape.leaf.clients_per_sub);
        let nodes = u32::try_from(self.nodes.len()).ok()?;
        let coin = nodes.checked_add(client.checked_div(per_sub)?)?;
        self.coin(coin).map(|_| coin)
    }

    /// Whom the distribution of a stock output pays when it is worth `value`: all of a sub-factory's
    /// stock at first, and what sales have left of it later. Empty if the coin is no stock, or `value`
    /// is below [`Layout::least_stock`].
    pub fn stock_payouts(&self, coin: CoinIndex, value: Amount) -> Vec<(ClientIndex, Amount)> {
        match (self.coin(coin), self.least_stock(coin)) {
            (Some(coin), Some(least)) if value >= least => {
                coins::stock_payouts(&self.terms, coin.clients.clone(), value).unwrap_or_default()
            }
            _ => Vec::new(),
        }
    }

    /// The least value of a sub-factory's stock output: each of its clients gets at least
    /// [`DUST`](super::scripts::DUST) from its distribution. None if the coin is no stock.
    pub fn least_stock(&self, coin: CoinIndex) -> Option<Amount> {
        let coin = self.coin(coin).filter(|coin| coin.stock)?;
        coins::least_stock(&self.terms, u64::from(coin.clients.end.checked_sub(coin.clients.start)?))
    }

    /// The coin with this number; nothing if there is none.
    pub fn coin(&self, index: CoinIndex) -> Option<&Coin> {
        self.coins.get(usize::try_from(index).ok()?)
    }

    /// The node with this number; nothing if there is none.
    pub fn node(&self, index: NodeIndex) -> Option<&Node> {
        self.nodes.get(usize::try_from(index).ok()?)
    }

    fn coin_count(&self) -> u32 {
        // Fewer than 4 × MAX_CLIENTS.
        u32::try_from(self.coins.len()).unwrap_or(u32::MAX)
    }
}
