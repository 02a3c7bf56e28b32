//! S19 in the middle of a run: from nothing but its store a member could leave now.

use factory_engine::Sold;
use factory_engine::terms::ClientIndex;
use factory_engine::tx::layout::{SessionId, SpendRole};
use factory_engine::types::ChannelId;

use crate::chain::{Chain, Market};
use crate::{LabError, error};

use super::find::{find, find_sold};
use super::run::Run;

impl Run {
    /// Plays a client's exit on a copy of the chain, with what a restart would find.
    ///
    /// # Errors
    /// When it can't get out.
    pub(super) fn probe(&mut self, at: usize, channel: ChannelId) -> Result<(), LabError> {
        let engine = self.world.stored(at)?;
        let sold = find_sold(&engine, channel);
        let found = find(&engine, channel).or(sold.map(|(attempt, sold)| (attempt, sold.sale.buyer)));
        let Some((attempt, client)) = found else {
            return Err(error(format!("S12: member {at} has forgotten a channel that it uses")));
        };
        let Some(tree) = &attempt.tree else { return Ok(()) };
        let Some(known) = self.world.members[at].lightningd.channels.get(&channel) else { return Ok(()) };
        let mut chain = self.world.chain.clone();
        // Fees have a property of their own (S26).
        chain.market = Market::default();
        if chain.confirmed(tree.funding().txid).is_none() {
            return Ok(());
        }
        let before = chain.script_checks();
        let path: Vec<ClientIndex> = attempt.layout.path(client);
        let sales: Vec<&Sold> = sold.map_or(vec![], |(attempt, last)| {
            let chain = last.coin().map_or(&[][..], |coin| attempt.sales.of(coin));
            chain.iter().take_while(|other| other.sale.number <= last.sale.number).collect()
        });
        let steps = u32::try_from(sales.len()).unwrap_or(u32::MAX);
        let limit = u32::from(attempt.layout.blocks_early(client)).saturating_add(6).saturating_add(steps);
        let spent_otherwise = |chain: &Chain, id: SessionId| {
            let session = tree.session(id)?;
            let (_, spender) = chain.spender(session.outpoint)?;
            Some(spender.compute_txid() != session.txid)
        };
        for _ in 0..limit {
            for node in &path {
                let id = SessionId { coin: *node, role: SpendRole::State };
                if spent_otherwise(&chain, id) == Some(true) {
                    return Ok(()); // Distributed: judged at the end.
                }
                if let Some(tx) = attempt.signed_tx(id) {
                    // Not yet, or not any more: the next block's business.
                    let _ = chain.submit(&tx);
                }
            }
            for sold in &sales {
                let input = sold.sale.sessions.first().map(|session| session.outpoint);
                if input
                    .and_then(|input| chain.spender(input))
                    .is_some_and(|(_, tx)| tx.compute_txid() != sold.txid())
                {
                    return Ok(()); // Taken, after its CSV or by a distribution: judged at the end.
                }
                if let Some(tx) = sold.signed_sale() {
                    // As above.
                    let _ = chain.submit(&tx);
                }
            }
            chain.mine();
            if chain.confirmed(known.outpoint.txid).is_some() {
                break;
            }
        }
        let open = chain.coin(known.outpoint).is_some();
        let out = open && chain.submit(&known.commitment).is_ok();
        self.probed = self.probed.saturating_add(chain.script_checks().saturating_sub(before));
        if out || chain.spender(known.outpoint).is_some() {
            return Ok(());
        }
        let mined = chain.confirmed(known.outpoint.txid).is_some();
        Err(error(format!(
            "S19: member {at} can't leave with what it has stored: after {limit} blocks its leaf is {}",
            if mined { "there, its channel not" } else { "not there" }
        )))
    }
}
