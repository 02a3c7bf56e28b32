//! The hash that every member signs off on (S6): terms, keys, funding outpoint, transactions and
//! aggregate nonces.
//!
//! A Merkle tree along the factory's tree: the hash of a coin covers its own sessions and the hashes
//! of the coins that its node makes. A client computes its path and takes the hashes next to it from
//! L; only if all members look at the same tree do they get the same root.

use std::collections::BTreeMap;

use bitcoin::hashes::{Hash, HashEngine, sha256};

use super::layout::{CoinIndex, Layout, Output, SessionId, SpendRole};
use super::musig::AggNonce;
use super::tree::{Roster, Tree, TreeError};

/// BIP-340 style tags: two different things never have the same hash.
const COIN_TAG: &[u8] = b"superscalar/1 coin";
const ROOT_TAG: &[u8] = b"superscalar/1 transcript";

/// The transcript of one ceremony. `terms_bytes` are the terms as they are encoded on the wire,
/// `foreign_hashes` the hashes of [`Tree::foreign_coins`] (none for L).
pub fn transcript(
    terms_bytes: &[u8],
    layout: &Layout,
    roster: &Roster,
    tree: &Tree,
    agg_nonces: &BTreeMap<SessionId, AggNonce>,
    foreign_hashes: &BTreeMap<CoinIndex, [u8; 32]>,
) -> Result<[u8; 32], TreeError> {
    root(terms_bytes, roster, tree, &own_hashes(layout, tree, agg_nonces, foreign_hashes)?)
}

/// The transcript of one ceremony, from the hashes of [`coin_hashes`].
pub fn root(
    terms_bytes: &[u8],
    roster: &Roster,
    tree: &Tree,
    hashes: &BTreeMap<CoinIndex, [u8; 32]>,
) -> Result<[u8; 32], TreeError> {
    let tree_hash = hashes.get(&0).ok_or(TreeError::NoSuchCoin { coin: 0 })?;
    let mut engine = tagged(ROOT_TAG);
    engine.input(&sha256::Hash::hash(terms_bytes).to_byte_array());
    engine.input(&roster.lsp_key.serialize());
    put_count(&mut engine, roster.clients.len());
    for member in &roster.clients {
        engine.input(&member.key.serialize());
        put_count(&mut engine, member.payout.len());
        engine.input(member.payout.as_bytes());
    }
    engine.input(&tree.funding().txid.to_byte_array());
    engine.input(&tree.funding().vout.to_be_bytes());
    engine.input(tree_hash);
    Ok(finish(engine))
}

/// The hash of every coin: from these L gives each client those of [`Tree::foreign_coins`]. The tree
/// must be L's.
pub fn coin_hashes(
    layout: &Layout,
    tree: &Tree,
    agg_nonces: &BTreeMap<SessionId, AggNonce>,
) -> Result<BTreeMap<CoinIndex, [u8; 32]>, TreeError> {
    own_hashes(layout, tree, agg_nonces, &BTreeMap::new())
}

/// Hashes of all coins in the tree's scope, and those given for coins next to it.
fn own_hashes(
    layout: &Layout,
    tree: &Tree,
    agg_nonces: &BTreeMap<SessionId, AggNonce>,
    foreign: &BTreeMap<CoinIndex, [u8; 32]>,
) -> Result<BTreeMap<CoinIndex, [u8; 32]>, TreeError> {
    let mut hashes: BTreeMap<CoinIndex, [u8; 32]> = BTreeMap::new();
    // Descending: a node's outputs have higher numbers than the node.
    for index in tree.own_coins().rev() {
        let mut engine = tagged(COIN_TAG);
        engine.input(&index.to_be_bytes());
        for role in [SpendRole::State, SpendRole::Distribution] {
            let id = SessionId { coin: index, role };
            let Some(session) = tree.session(id) else {
                engine.input(&[0]);
                continue;
            };
            let nonce = agg_nonces.get(&id).ok_or(TreeError::NoNonce { session: id })?;
            engine.input(&[1]);
            engine.input(&session.sighash);
            engine.input(&nonce.0);
        }
        for output in layout.node(index).into_iter().flat_map(|node| &node.outputs) {
            let (Output::Child(coin) | Output::Stock(coin)) = output else {
                continue;
            };
            let hash = hashes.get(coin).or_else(|| foreign.get(coin));
            engine.input(hash.ok_or(TreeError::NoForeignHash { coin: *coin })?);
        }
        hashes.insert(index, finish(engine));
    }
    Ok(hashes)
}

fn tagged(tag: &[u8]) -> sha256::HashEngine {
    let tag = sha256::Hash::hash(tag).to_byte_array();
    let mut engine = sha256::Hash::engine();
    engine.input(&tag);
    engine.input(&tag);
    engine
}

fn put_count(engine: &mut sha256::HashEngine, count: usize) {
    // usize is at most 64 bits wide wherever this runs.
    engine.input(&u64::try_from(count).unwrap_or(u64::MAX).to_be_bytes());
}

fn finish(engine: sha256::HashEngine) -> [u8; 32] {
    sha256::Hash::from_engine(engine).to_byte_array()
}
