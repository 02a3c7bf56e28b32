//! Ordinary channels, on chain.

use bitcoin::{Amount, OutPoint};
use factory_engine::CheckFailure;
use factory_engine::terms::ClientIndex;
use factory_engine::types::{ChannelId, InstanceId};

use crate::LabError;
use crate::node::{PendingOpen, funding_script};

use super::{LSP, World};

impl World {
    /// An ordinary channel of the operator with a client, in a block of its own.
    ///
    /// # Errors
    /// When the operator can't pay for it.
    pub fn open_ordinary(&mut self, client: usize, sat: u64, push_msat: u64) -> Result<ChannelId, LabError> {
        let outpoint = self.fund_ordinary(client, Amount::from_sat(sat), push_msat)?;
        self.mine(1)?;
        Ok(ChannelId::of(outpoint))
    }

    /// The same, and its transaction waits for a block.
    pub(super) fn fund_ordinary(
        &mut self,
        client: usize,
        capacity: Amount,
        push_msat: u64,
    ) -> Result<OutPoint, LabError> {
        let (key, their_key) =
            (self.members[LSP].lightningd.channel_key(), self.members[client].lightningd.channel_key());
        let script = funding_script(key.public(), their_key.public()).to_p2wsh();
        let prepared = self.members[LSP].lightningd.prepare_funding(&self.chain, script, capacity, &[])?;
        let outpoint = OutPoint { txid: prepared.tx.compute_txid(), vout: prepared.vout };
        self.members[LSP].lightningd.send_funding(&mut self.chain, prepared.tx, &[])?;
        let (public, their_public) = (key.public(), their_key.public());
        let ours = PendingOpen { key, remote: their_public, capacity, push_msat };
        let theirs = PendingOpen { key: their_key, remote: public, capacity, push_msat };
        self.commit_channel(outpoint, (LSP, ours), (client, theirs))?;
        Ok(outpoint)
    }

    /// Whether what the operator opens is for a client that leaves.
    pub(super) fn is_for_leaving(&self, at: usize, instance: InstanceId, client: ClientIndex) -> bool {
        let known = self.factory(at, instance);
        known.is_ok_and(|factory| factory.leaves.opening().contains_key(&client))
    }

    /// lightningd's record of an ordinary channel, and the output that is on chain.
    pub(super) fn check_ordinary(&self, at: usize, channel_id: ChannelId) -> Result<(), CheckFailure> {
        let lightningd = &self.members[at].lightningd;
        let channel = lightningd.channels.get(&channel_id).ok_or(CheckFailure::NotYet)?;
        let coin = self.chain.coin(channel.outpoint).ok_or(CheckFailure::NotYet)?;
        lightningd.check_channel(channel_id, channel.outpoint, &coin.output)
    }
}
