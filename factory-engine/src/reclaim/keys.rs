//! L with everybody's keys: opened for a signature, and gone afterwards (S7).

use crate::engine::Engine;
use crate::io::Entropy;
use crate::record::factory::Factory;
use crate::signing::sign_with_all;
use crate::tx::child::Coin;
use crate::tx::layout::CoinIndex;
use crate::tx::reclaim::{sighash, witness};
use crate::tx::verify::verify_inputs;
use crate::types::Transaction;

impl Engine {
    /// A signature of a coin's key, by all of its keys (S38: of that factory, for its own coin).
    pub(super) fn sign_coin(
        &self,
        factory: &Factory,
        coin: CoinIndex,
        sighash: &[u8; 32],
        rng: &mut dyn Entropy,
    ) -> Result<[u8; 64], String> {
        let tree = factory.current.tree.as_ref().ok_or("there is no tree")?;
        let agg = tree.key_agg(coin).ok_or("its key is not known")?;
        let mut keys = vec![self.factory_key(factory.instance, factory.current.number)];
        for client in tree.clients(coin) {
            let key = self.handed_over_key(factory, client);
            keys.push(key.ok_or_else(|| format!("client {client}'s key is not there"))?);
        }
        sign_with_all(&keys, agg, sighash, || rng.bytes32()).map_err(|error| format!("coin {coin}: {error}"))
    }

    /// Signs a transaction that spends these coins and nothing else. Consensus code has to take it.
    pub(super) fn sign_reclaim(
        &self,
        factory: &Factory,
        of: &[CoinIndex],
        coins: &[Coin],
        mut tx: Transaction,
        rng: &mut dyn Entropy,
    ) -> Result<Transaction, String> {
        let prevouts: Vec<_> = coins.iter().map(|coin| coin.output.clone()).collect();
        let mut witnesses = Vec::with_capacity(of.len());
        for (place, coin) in of.iter().enumerate() {
            let hash = sighash(&tx, place, &prevouts).map_err(|error| error.to_string())?;
            witnesses.push(witness(&self.sign_coin(factory, *coin, &hash, rng)?));
        }
        for (input, witness) in tx.input.iter_mut().zip(witnesses) {
            input.witness = witness;
        }
        verify_inputs(&tx, &prevouts).map_err(|(place, error)| format!("input {place}: {error}"))?;
        Ok(tx)
    }
}
