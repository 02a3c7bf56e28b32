//! The wallet as the children of one round see it: one `listfunds`, and what they have taken and given back since.
//! When many leave at once, thousands of fees are to be raised at one block, and a large wallet's list is megabytes.

use std::collections::BTreeMap;

use bitcoin::{OutPoint, ScriptBuf};
use factory_engine::tx::child::{Child, Children, Coin, Purse};

use super::client::{Call, CallError};
use super::wallet::{Owned, coins};

/// Of a coin that is reserved for a child: for longer than any round takes.
const FOR_A_CHILD: u64 = u64::MAX;

/// What a wallet has. Somebody else may have used it since: reserving a coin fails then.
pub struct Look {
    /// Confirmed coins.
    owned: BTreeMap<OutPoint, Owned>,
    /// Those that a child may use: no other does, and nobody has reserved them, or they are kept for fees.
    free: Purse,
    /// Where those are that are kept for fees.
    kept: Option<ScriptBuf>,
}

impl Look {
    /// Asks the wallet.
    pub async fn new<C: Call>(
        rpc: &C,
        kept: Option<ScriptBuf>,
        children: &Children,
    ) -> Result<Self, CallError> {
        let mut look = Self { owned: coins(rpc).await?, free: Purse::default(), kept };
        let used = children.spent();
        let may_be_used = |own: &&Owned| {
            let is_free = own.reserved_to.is_none() || look.is_kept(&own.coin);
            is_free && !used.contains(&own.coin.outpoint)
        };
        let free: Purse = look.owned.values().filter(may_be_used).map(|own| own.coin.clone()).collect();
        look.free = free;
        Ok(look)
    }

    /// Whether coins are kept on this script, and on no other.
    pub fn keeps(&self, kept: Option<&ScriptBuf>) -> bool {
        self.kept.as_ref() == kept
    }

    /// The script of coins that are kept for fees.
    pub fn kept(&self) -> Option<&ScriptBuf> {
        self.kept.as_ref()
    }

    /// Whether a coin is kept for fees.
    pub fn is_kept(&self, coin: &Coin) -> bool {
        self.kept.as_ref() == Some(&coin.output.script_pubkey)
    }

    /// Coins that a child may use.
    pub fn free(&self) -> &Purse {
        &self.free
    }

    /// Whether a coin is confirmed and no block has spent it.
    pub fn has(&self, coin: &Coin) -> bool {
        self.owned.contains_key(&coin.outpoint)
    }

    /// Whether nobody has reserved a coin.
    pub fn is_unreserved(&self, coin: &Coin) -> bool {
        self.owned.get(&coin.outpoint).is_none_or(|own| own.reserved_to.is_none())
    }

    /// Whether the wallet has a coin whose reservation, if there is any, ends before this block.
    pub fn ends_before(&self, coin: &Coin, height: u64) -> bool {
        let own = self.owned.get(&coin.outpoint);
        own.is_some_and(|own| own.reserved_to.unwrap_or(0) < height)
    }

    /// A child is out: what it spends is its own.
    pub fn spend(&mut self, child: &Child) {
        for coin in &child.coins {
            self.free.take(coin);
            self.reserved(coin, Some(FOR_A_CHILD));
        }
    }

    /// A coin is no child's any more.
    pub fn give_back(&mut self, coin: &Coin) {
        if !self.has(coin) {
            return;
        }
        if !self.is_kept(coin) {
            self.reserved(coin, None);
        }
        self.free.put(coin.clone());
    }

    fn reserved(&mut self, coin: &Coin, to: Option<u64>) {
        if let Some(own) = self.owned.get_mut(&coin.outpoint) {
            own.reserved_to = to;
        }
    }
}
