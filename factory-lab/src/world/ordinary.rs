//! Ordinary channels, on chain.

use bitcoin::{Amount, OutPoint};
use factory_engine::terms::ClientIndex;
use factory_engine::types::{ChannelId, InstanceId, NodeId};
use factory_engine::{CheckFailure, Input, OpenFailure};

use crate::LabError;
use crate::node::{Balances, Channel, PendingOpen, commitment, funding_script};

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
    fn fund_ordinary(
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
        let opener_msat = capacity.to_sat().saturating_mul(1000).saturating_sub(push_msat);
        let balances = Balances { opener_msat, fundee_msat: push_msat };
        let scripts =
            (self.members[LSP].lightningd.new_script(), self.members[client].lightningd.new_script());
        let signed = commitment(outpoint, capacity, (&key, &their_key), &scripts, balances)?;
        let (public, their_public) = (key.public(), their_key.public());
        let ids = [self.members[LSP].id, self.members[client].id];
        let opens = [
            (LSP, ids[1], PendingOpen { key, remote: their_public, capacity, push_msat }),
            (client, ids[0], PendingOpen { key: their_key, remote: public, capacity, push_msat }),
        ];
        let channel_id = ChannelId::of(outpoint);
        for (member, peer, open) in opens {
            let channel = Channel {
                peer,
                outpoint,
                capacity,
                key: open.key,
                remote: open.remote,
                opener: member == LSP,
                balances,
                scripts: scripts.clone(),
                commitment: signed.clone(),
                closing: false,
                mutual: false,
                lost: false,
            };
            self.members[member].lightningd.channels.insert(channel_id, channel);
        }
        Ok(outpoint)
    }

    /// Whether what the operator opens is for a client that leaves.
    pub(super) fn is_for_leaving(&self, at: usize, instance: InstanceId, client: ClientIndex) -> bool {
        let known = self.factory(at, instance);
        known.is_ok_and(|factory| factory.leaves.opening().contains_key(&client))
    }

    /// `fundchannel` to a client that leaves.
    pub(super) fn fund_for_leaving(
        &mut self,
        at: usize,
        (instance, buyer): (InstanceId, ClientIndex),
        peer: NodeId,
        capacity: Amount,
    ) {
        let other = self.member_of(peer).filter(|other| self.connected(at, *other));
        if other.is_some_and(|other| self.members[other].lightningd.ignores_ordinary) {
            self.members[at].lightningd.unanswered.push((peer, instance, buyer));
            return;
        }
        let result = match other {
            None => Err(OpenFailure::Disconnected("Peer not connected".to_owned())),
            Some(other) if self.members[other].lightningd.refuses_ordinary => {
                Err(OpenFailure::Refused("They sent an error: no".to_owned()))
            }
            Some(other) => {
                let funded = self.fund_ordinary(other, capacity, 0);
                let funded = funded.map(|outpoint| (ChannelId::of(outpoint), outpoint));
                funded.map_err(|error| OpenFailure::Own(error.to_string()))
            }
        };
        self.answer(at, Input::ChannelFunded { instance, buyer, result });
    }

    /// lightningd's record of an ordinary channel, and the output that is on chain.
    pub(super) fn check_ordinary(&self, at: usize, channel_id: ChannelId) -> Result<(), CheckFailure> {
        let lightningd = &self.members[at].lightningd;
        let channel = lightningd.channels.get(&channel_id).ok_or(CheckFailure::NotYet)?;
        let coin = self.chain.coin(channel.outpoint).ok_or(CheckFailure::NotYet)?;
        lightningd.check_channel(channel_id, channel.outpoint, &coin.output)
    }
}
