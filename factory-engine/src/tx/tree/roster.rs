//! Keys and payout scripts of a factory's members.

use std::collections::BTreeSet;
use std::ops::Range;

use bitcoin::ScriptBuf;

use super::TreeError;
use crate::terms::ClientIndex;
use crate::tx::layout::{CoinIndex, Layout};
use crate::tx::musig::{KeyAgg, PublicKey};
use crate::tx::scripts::{is_payout, key_script, stock_root};

/// What a client brings into a factory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its public key in this factory: no two members have the same (S5).
    pub key: PublicKey,
    /// Where distributions pay it: P2WPKH, P2WSH or P2TR.
    pub payout: ScriptBuf,
}

/// Keys and payout scripts of everybody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Roster {
    /// L's public key in this factory.
    pub lsp_key: PublicKey,
    /// The clients, in leaf order.
    pub clients: Vec<Member>,
}

impl Roster {
    /// As many clients as the layout has, no key twice (S5), only payout scripts whose size and dust
    /// limit are known.
    pub fn check(&self, layout: &Layout) -> Result<(), TreeError> {
        if self.clients.len() != layout.terms().capacities.len() {
            return Err(TreeError::WrongMemberCount {
                given: self.clients.len(),
                expected: layout.terms().capacities.len(),
            });
        }
        // A key and its negation have the same x coordinate: they belong to one member.
        let mut seen = BTreeSet::from([self.lsp_key.x_only_public_key().0.serialize()]);
        for (client, member) in (0..).zip(&self.clients) {
            if !seen.insert(member.key.x_only_public_key().0.serialize()) {
                return Err(TreeError::DuplicateKey { client });
            }
            if !is_payout(&member.payout) {
                return Err(TreeError::Payout { client });
            }
        }
        Ok(())
    }

    /// Aggregate key of a coin: L's key and its clients'.
    pub(super) fn key_agg(
        &self,
        layout: &Layout,
        index: CoinIndex,
        known: Option<&KeyAgg>,
    ) -> Result<KeyAgg, TreeError> {
        let coin = layout.coin(index).ok_or(TreeError::NoSuchCoin { coin: index })?;
        let mut keys = vec![self.lsp_key];
        keys.extend(self.members(&coin.clients)?.iter().map(|member| member.key));
        let root = coin.stock.then(|| stock_root(self.lsp_key, layout.terms().stock_csv));
        KeyAgg::reusing(known, &keys, root).map_err(|error| TreeError::Key { coin: index, error })
    }

    fn members(&self, clients: &Range<ClientIndex>) -> Result<&[Member], TreeError> {
        let missing = || TreeError::WrongMemberCount {
            given: self.clients.len(),
            expected: usize::try_from(clients.end).unwrap_or(usize::MAX),
        };
        let start = usize::try_from(clients.start).map_err(|_| missing())?;
        let end = usize::try_from(clients.end).map_err(|_| missing())?;
        self.clients.get(start..end).ok_or_else(missing)
    }

    pub(super) fn payout(&self, client: ClientIndex) -> Result<ScriptBuf, TreeError> {
        let end = client.saturating_add(1);
        let member = self.members(&(client..end))?.first();
        member.map(|member| member.payout.clone()).ok_or(TreeError::Payout { client })
    }
}

/// Key of the funding output: every member's.
pub fn funding_key(layout: &Layout, roster: &Roster) -> Result<KeyAgg, TreeError> {
    roster.check(layout)?;
    roster.key_agg(layout, 0, None)
}

/// Script of the funding output.
pub fn funding_script(layout: &Layout, roster: &Roster) -> Result<ScriptBuf, TreeError> {
    Ok(key_script(funding_key(layout, roster)?.output_key()))
}
