//! Layout + keys + funding outpoint → the transactions and what to sign.
//!
//! L builds everything; a client builds its path and its distributions from its own copy of terms
//! and roster, and never signs a hash that it was handed (S3). What it can't derive cheaply, the
//! output keys of coins next to its path, it takes from L: they belong to others, and a wrong one
//! gives other txids, so that no signature over them fits the transactions of the rest.

mod error;
mod roster;

use std::collections::BTreeMap;
use std::ops::Range;

use bitcoin::absolute::LockTime;
use bitcoin::hashes::Hash;
use bitcoin::sighash::{Prevouts, SighashCache, TapSighashType};
use bitcoin::transaction::Version;
use bitcoin::{Amount, OutPoint, ScriptBuf, Sequence, Transaction, TxIn, TxOut, Txid, Witness};

use crate::terms::ClientIndex;

use super::layout::{CoinIndex, Layout, Node, NodeIndex, Output, SessionId, SpendRole};
use super::musig::{KeyAgg, PublicKey, XOnlyPublicKey};
use super::scripts::{ANCHOR_VALUE, StockSpend, anchor_script, key_script, stock_spend};

pub use error::TreeError;
pub use roster::{Member, Roster, funding_key, funding_script};

/// Whose part of the tree is built.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scope {
    /// Every transaction: L's part.
    All,
    /// One client's path, its stock coin and the distributions of both.
    Client(ClientIndex),
}

/// One signing session with everything that signing and verifying need.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Session {
    /// Which coin, by which of its transactions.
    pub id: SessionId,
    /// BIP-341 signature hash of input 0, SIGHASH_DEFAULT, key path.
    pub sighash: [u8; 32],
    /// The transaction with one input, unsigned.
    pub tx: Transaction,
    /// Its id, which no signature changes.
    pub txid: Txid,
    /// The output that input 0 spends.
    pub prevout: TxOut,
    /// Outpoint that input 0 spends.
    pub outpoint: OutPoint,
}

/// The part of a factory's tree that one party rebuilds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tree {
    scope: Scope,
    funding: OutPoint,
    lsp_key: PublicKey,
    stock_csv: u16,
    /// The clients of every coin of the factory.
    coin_clients: Vec<Range<ClientIndex>>,
    keys: BTreeMap<CoinIndex, KeyAgg>,
    /// Output keys: of `keys`, and those that were handed to us.
    output_keys: BTreeMap<CoinIndex, XOnlyPublicKey>,
    outpoints: BTreeMap<CoinIndex, OutPoint>,
    channels: BTreeMap<ClientIndex, (OutPoint, TxOut)>,
    sessions: Vec<Session>,
    index: BTreeMap<SessionId, usize>,
}

impl Tree {
    /// Builds the transactions of a scope.
    ///
    /// `channel_scripts`: the P2WSH of each channel, at least of all clients of the leaves in scope.
    /// `foreign_keys`: for a client, exactly the coins of [`Tree::foreign_coins`]; for L ignored.
    pub fn build(
        layout: &Layout,
        roster: &Roster,
        funding: OutPoint,
        scope: Scope,
        channel_scripts: &BTreeMap<ClientIndex, ScriptBuf>,
        foreign_keys: &BTreeMap<CoinIndex, XOnlyPublicKey>,
    ) -> Result<Self, TreeError> {
        Self::build_reusing(layout, roster, funding, scope, channel_scripts, foreign_keys, None)
    }

    /// As [`Tree::build`]; doesn't aggregate every member's key again if it is `funding_key`.
    pub fn build_reusing(
        layout: &Layout,
        roster: &Roster,
        funding: OutPoint,
        scope: Scope,
        channel_scripts: &BTreeMap<ClientIndex, ScriptBuf>,
        foreign_keys: &BTreeMap<CoinIndex, XOnlyPublicKey>,
        funding_key: Option<&KeyAgg>,
    ) -> Result<Self, TreeError> {
        roster.check(layout)?;
        if funding.is_null() {
            return Err(TreeError::Funding);
        }
        let (own, foreign, who) = match scope {
            Scope::All => ((0..).zip(layout.coins()).map(|(coin, _)| coin).collect(), Vec::new(), None),
            Scope::Client(client) => {
                let own = layout.client_coins(client);
                if own.is_empty() {
                    return Err(TreeError::NoSuchClient { client });
                }
                (own, Self::foreign_coins(layout, client), Some(client))
            }
        };
        let mut tree = Self {
            scope,
            funding,
            lsp_key: roster.lsp_key,
            stock_csv: layout.terms().stock_csv,
            coin_clients: layout.coins().iter().map(|coin| coin.clients.clone()).collect(),
            keys: BTreeMap::new(),
            output_keys: BTreeMap::new(),
            outpoints: BTreeMap::from([(0, funding)]),
            channels: BTreeMap::new(),
            sessions: Vec::new(),
            index: BTreeMap::new(),
        };
        for coin in own {
            let known = funding_key.filter(|_| coin == 0);
            let agg = roster.key_agg(layout, coin, known)?;
            tree.output_keys.insert(coin, agg.output_key());
            tree.keys.insert(coin, agg);
        }
        tree.take_foreign_keys(&foreign, foreign_keys)?;
        let ids = layout.sessions(who);
        tree.sessions.reserve_exact(ids.len());
        for id in ids {
            let session = tree.session_for(layout, roster, id, channel_scripts)?;
            tree.index.insert(id, tree.sessions.len());
            tree.sessions.push(session);
        }
        Ok(tree)
    }

    /// The coins whose keys (and transcript hashes) a client has to be given, ascending: outputs of
    /// its path's transactions that it has no key in.
    pub fn foreign_coins(layout: &Layout, client: ClientIndex) -> Vec<CoinIndex> {
        let own = layout.client_coins(client);
        let mut foreign: Vec<CoinIndex> = layout
            .path(client)
            .into_iter()
            .filter_map(|index| layout.node(index))
            .flat_map(|node| node.outputs.iter().filter_map(coin_of))
            .filter(|coin| !own.contains(coin))
            .collect();
        foreign.sort_unstable();
        foreign
    }

    /// Whether it is all of the tree, or one client's part.
    pub fn scope(&self) -> Scope {
        self.scope
    }

    /// Outpoint of the factory's funding output.
    pub fn funding(&self) -> OutPoint {
        self.funding
    }

    /// The tweaked key in a coin's output; None if the coin is neither in scope nor next to it.
    pub fn output_key(&self, coin: CoinIndex) -> Option<XOnlyPublicKey> {
        self.output_keys.get(&coin).copied()
    }

    /// The aggregate key of a coin in scope that this party is a member of.
    pub fn key_agg(&self, coin: CoinIndex) -> Option<&KeyAgg> {
        self.keys.get(&coin)
    }

    /// The coins in scope that this party is a member of, ascending.
    pub fn own_coins(&self) -> impl DoubleEndedIterator<Item = CoinIndex> {
        self.keys.keys().copied()
    }

    /// All sessions of the scope, in the order of [`Layout::sessions`].
    pub fn sessions(&self) -> &[Session] {
        &self.sessions
    }

    /// One session of the scope.
    pub fn session(&self, id: SessionId) -> Option<&Session> {
        self.sessions.get(*self.index.get(&id)?)
    }

    /// The unsigned transaction of a node in scope.
    pub fn node_tx(&self, node: NodeIndex) -> Option<&Transaction> {
        self.session(SessionId { coin: node, role: SpendRole::State }).map(|session| &session.tx)
    }

    /// A session's transaction with its signature in place. The signature isn't checked here.
    pub fn signed(&self, id: SessionId, signature: &[u8; 64]) -> Option<Transaction> {
        let mut tx = self.session(id)?.tx.clone();
        tx.input.first_mut()?.witness = Witness::from_slice(&[signature.as_slice()]);
        Some(tx)
    }

    /// Where a client's channel is funded, for every client of the leaves in scope.
    pub fn channel_outpoint(&self, client: ClientIndex) -> Option<OutPoint> {
        self.channels.get(&client).map(|(outpoint, _)| *outpoint)
    }

    /// The output that funds a client's channel.
    pub fn channel_output(&self, client: ClientIndex) -> Option<TxOut> {
        self.channels.get(&client).map(|(_, output)| output.clone())
    }

    /// Where a coin is, for coins in scope and next to it.
    pub fn coin_outpoint(&self, coin: CoinIndex) -> Option<OutPoint> {
        self.outpoints.get(&coin).copied()
    }

    /// Who signs for a coin: L (None), then its clients. Empty if there is no such coin.
    pub fn signers(&self, coin: CoinIndex) -> Vec<Option<ClientIndex>> {
        let clients = self.clients(coin);
        let lsp = (!clients.is_empty()).then_some(None);
        lsp.into_iter().chain(clients.map(Some)).collect()
    }

    /// Clients that sign for a coin, besides L. Empty if there is no such coin.
    pub fn clients(&self, coin: CoinIndex) -> Range<ClientIndex> {
        let clients = usize::try_from(coin).ok().and_then(|coin| self.coin_clients.get(coin));
        clients.cloned().unwrap_or_default()
    }

    /// L's script path of a stock coin in scope; None for any other coin.
    pub fn stock_script(&self, coin: CoinIndex) -> Option<StockSpend> {
        let agg = self.keys.get(&coin)?;
        let spends_node = self.index.contains_key(&SessionId { coin, role: SpendRole::State });
        (!spends_node).then(|| stock_spend(agg, self.lsp_key, self.stock_csv))
    }

    fn take_foreign_keys(
        &mut self,
        foreign: &[CoinIndex],
        given: &BTreeMap<CoinIndex, XOnlyPublicKey>,
    ) -> Result<(), TreeError> {
        if self.scope == Scope::All {
            return Ok(());
        }
        for coin in foreign {
            let key = given.get(coin).ok_or(TreeError::NoForeignKey { coin: *coin })?;
            self.output_keys.insert(*coin, *key);
        }
        match given.keys().find(|coin| !foreign.contains(coin)) {
            Some(coin) => Err(TreeError::UnexpectedForeignKey { coin: *coin }),
            None => Ok(()),
        }
    }

    /// Builds one session; its coin's parent has been built before, as sessions ascend.
    fn session_for(
        &mut self,
        layout: &Layout,
        roster: &Roster,
        id: SessionId,
        channel_scripts: &BTreeMap<ClientIndex, ScriptBuf>,
    ) -> Result<Session, TreeError> {
        let no_coin = TreeError::NoSuchCoin { coin: id.coin };
        let coin = layout.coin(id.coin).ok_or(no_coin.clone())?;
        let outpoint = self.coin_outpoint(id.coin).ok_or(no_coin.clone())?;
        let key = self.output_key(id.coin).ok_or(no_coin.clone())?;
        let prevout = TxOut { value: coin.value, script_pubkey: key_script(key) };
        let tx = match id.role {
            SpendRole::State => {
                let node = layout.node(id.coin).ok_or(no_coin)?;
                self.node_transaction(node, outpoint, channel_scripts)?
            }
            SpendRole::Sale | SpendRole::Distribution | SpendRole::Poison | SpendRole::Close => {
                distribution(layout, roster, id.coin, outpoint)?
            }
        };
        let txid = tx.compute_txid();
        if let (SpendRole::State, Some(node)) = (id.role, layout.node(id.coin)) {
            self.note_outputs(node, txid, &tx);
        }
        let sighash = sighash(id, &tx, &prevout)?;
        Ok(Session { id, sighash, tx, txid, prevout, outpoint })
    }

    fn node_transaction(
        &self,
        node: &Node,
        outpoint: OutPoint,
        channel_scripts: &BTreeMap<ClientIndex, ScriptBuf>,
    ) -> Result<Transaction, TreeError> {
        let mut output = Vec::with_capacity(node.outputs.len());
        for (what, value) in node.outputs.iter().zip(&node.output_values) {
            let script_pubkey = match what {
                Output::Child(coin) | Output::Stock(coin) => {
                    let key = self.output_key(*coin);
                    key_script(key.ok_or(TreeError::NoForeignKey { coin: *coin })?)
                }
                Output::Channel(client) => channel_script(channel_scripts, *client)?,
                Output::Anchor => anchor_script(),
            };
            output.push(TxOut { value: *value, script_pubkey });
        }
        let sequence = Sequence::from_consensus(node.sequence);
        Ok(transaction(Version(3), LockTime::ZERO, outpoint, sequence, output))
    }

    /// Notes where the outputs of a node's transaction are.
    fn note_outputs(&mut self, node: &Node, txid: Txid, tx: &Transaction) {
        for (vout, (what, output)) in (0..).zip(node.outputs.iter().zip(&tx.output)) {
            let place = OutPoint { txid, vout };
            if let Output::Channel(client) = what {
                self.channels.insert(*client, (place, output.clone()));
            } else if let Some(coin) = coin_of(what) {
                self.outpoints.insert(coin, place);
            }
        }
    }
}

/// The distribution of a coin: valid from the timeout on, to its clients alone (S20).
fn distribution(
    layout: &Layout,
    roster: &Roster,
    index: CoinIndex,
    outpoint: OutPoint,
) -> Result<Transaction, TreeError> {
    let coin = layout.coin(index).ok_or(TreeError::NoSuchCoin { coin: index })?;
    let outputs = layout.distribution_outputs(index);
    distribution_to(layout, roster, &outputs, coin.distribution_version, outpoint)
}

/// A transaction that pays clients from the timeout on.
pub(super) fn distribution_to(
    layout: &Layout,
    roster: &Roster,
    outputs: &[(ClientIndex, Amount)],
    version: i32,
    outpoint: OutPoint,
) -> Result<Transaction, TreeError> {
    // One more for the anchor; a thousand factories have no room for room.
    let mut output = Vec::with_capacity(outputs.len().saturating_add(1));
    for (client, value) in outputs {
        output.push(TxOut { value: *value, script_pubkey: roster.payout(*client)? });
    }
    output.push(TxOut { value: ANCHOR_VALUE, script_pubkey: anchor_script() });
    // The layout refuses timeouts that nLockTime would read as a time.
    let timeout = LockTime::from_consensus(layout.terms().timeout_height);
    let sequence = Sequence::ENABLE_RBF_NO_LOCKTIME;
    Ok(transaction(Version(version), timeout, outpoint, sequence, output))
}

/// BIP-341 signature hash of a transaction's only input, SIGHASH_DEFAULT, key path.
pub(super) fn sighash(id: SessionId, tx: &Transaction, prevout: &TxOut) -> Result<[u8; 32], TreeError> {
    SighashCache::new(tx)
        .taproot_key_spend_signature_hash(0, &Prevouts::All(&[prevout]), TapSighashType::Default)
        .map(|hash| hash.to_byte_array())
        .map_err(|_| TreeError::Sighash { session: id })
}

pub(super) fn transaction(
    version: Version,
    lock_time: LockTime,
    previous_output: OutPoint,
    sequence: Sequence,
    output: Vec<TxOut>,
) -> Transaction {
    let script_sig = ScriptBuf::new();
    let input = vec![TxIn { previous_output, script_sig, sequence, witness: Witness::new() }];
    Transaction { version, lock_time, input, output }
}

fn coin_of(output: &Output) -> Option<CoinIndex> {
    match output {
        Output::Child(coin) | Output::Stock(coin) => Some(*coin),
        Output::Channel(_) | Output::Anchor => None,
    }
}

fn channel_script(
    scripts: &BTreeMap<ClientIndex, ScriptBuf>,
    client: ClientIndex,
) -> Result<ScriptBuf, TreeError> {
    let script = scripts.get(&client).ok_or(TreeError::NoChannelScript { client })?;
    if !script.is_p2wsh() {
        return Err(TreeError::ChannelScript { client });
    }
    Ok(script.clone())
}
