//! Channels that lightningd closes, by itself or because it was told to, and what members learn of it (S34).

use bitcoin::OutPoint;
use factory_engine::types::{ChannelId, Height};
use factory_engine::{ChannelNow, Factory, Input, exit_allowed};

use crate::LabError;
use crate::node::Channel;

use super::{Fed, World};

/// lightningd forgets a channel when all that it paid is so deep. Really 100 blocks; here it is deeper
/// than any reorganisation, and runs are shorter.
const FORGOTTEN: Height = 8;
/// It looks at every so many blocks only, so that some channels go together.
const LOOKS: Height = 4;

impl World {
    /// `close`: both sides, if they are connected, else ours alone.
    pub fn close(&mut self, at: usize, channel_id: ChannelId) {
        let Some(channel) = self.members[at].lightningd.channels.get(&channel_id) else {
            return;
        };
        let peer = channel.peer;
        self.fail(at, channel_id);
        if let Some(other) = self.member_of(peer).filter(|other| self.connected(at, *other)) {
            self.fail(other, channel_id);
        }
        self.publish_commitments(at);
    }

    /// `close` that never goes on alone: with the peer, or not yet.
    pub(crate) fn close_together(&mut self, at: usize, channel_id: ChannelId) {
        let peer = self.members[at].lightningd.channels.get(&channel_id).map(|channel| channel.peer);
        let other = peer.and_then(|peer| self.member_of(peer)).filter(|other| self.connected(at, *other));
        let Some(other) = other else { return };
        for member in [at, other] {
            if let Some(channel) = self.members[member].lightningd.channels.get_mut(&channel_id)
                && !channel.closing
            {
                (channel.closing, channel.mutual) = (true, true);
                self.say_ended(member, channel_id);
            }
        }
    }

    fn fail(&mut self, at: usize, channel_id: ChannelId) {
        if let Some(channel) = self.members[at].lightningd.channels.get_mut(&channel_id)
            && !channel.closing
        {
            channel.closing = true;
            self.say_ended(at, channel_id);
        }
    }

    /// `channel_state_changed`: a node that is down never hears it.
    pub(super) fn say_ended(&mut self, at: usize, channel_id: ChannelId) {
        let member = &self.members[at];
        let Some(channel) = member.lightningd.channels.get(&channel_id) else { return };
        if member.engine.is_some() {
            let list = vec![ChannelNow { channel_id, ended: channel.ended(&self.chain) }];
            self.answer(at, Input::Channels { list, whole: false });
        }
    }

    /// A new connection: whoever has closed a channel answers `channel_reestablish` with an error.
    pub(super) fn reestablish(&mut self, a: usize, b: usize) {
        for (from, to) in [(a, b), (b, a)] {
            let peer = self.members[to].id;
            let channels = self.members[from].lightningd.channels.iter();
            let closed = channels.filter(|(_, channel)| channel.peer == peer && channel.closing);
            for channel_id in closed.map(|(id, _)| *id).collect::<Vec<_>>() {
                self.fail(to, channel_id);
            }
        }
    }

    /// Channels that a member's lightningd still has.
    fn listed(&self, at: usize) -> Vec<ChannelNow> {
        let looked = self.chain.height() / LOOKS * LOOKS;
        let settled = |outpoint: OutPoint| {
            let spender = self.chain.spender(outpoint);
            spender.is_some_and(|(height, _)| looked >= height.saturating_add(FORGOTTEN))
        };
        let channels = self.members[at].lightningd.channels.iter();
        let open = channels.filter(|(_, channel)| !settled(channel.outpoint));
        open.map(|(id, channel)| ChannelNow { channel_id: *id, ended: channel.ended(&self.chain) }).collect()
    }

    /// Members learn what lightningd does with their channels, as the plugin reads them now and then, if any
    /// has ended.
    pub(crate) fn show_channels(&mut self, at: usize) -> Result<(), LabError> {
        let list = self.listed(at);
        let all_live = list.iter().all(|channel| channel.ended.is_none());
        if all_live && list.len() == self.members[at].lightningd.channels.len() {
            return Ok(());
        }
        let fed = self.feed(at, Input::Channels { list, whole: true })?;
        if matches!(fed, Fed::Done(_)) && self.is_owed(at) {
            let found = self.left_with_ended(at).err();
            self.judge.violations.extend(found.map(|why| format!("{why} (member {at})")));
        }
        Ok(())
    }

    /// S34: whatever lightningd has closed is on chain, or on its way there.
    fn left_with_ended(&self, at: usize) -> Result<(), String> {
        let member = &self.members[at];
        let Some(engine) = &member.engine else { return Ok(()) };
        let height = self.chain.height();
        for factory in engine.factories().filter(|factory| exit_allowed(factory, height).is_ok()) {
            for channel in factory.own_channels() {
                let known = member.lightningd.channels.get(&channel.channel_id);
                if known.is_some_and(|known| self.waits_for_path(factory, known))
                    && !factory.is_leaving(channel.client)
                    && !factory.has_handed_over(channel.client)
                {
                    let id = channel.channel_id;
                    return Err(format!("S34: lightningd has closed {id}, and its path stays off chain"));
                }
            }
        }
        Ok(())
    }

    fn waits_for_path(&self, factory: &Factory, channel: &Channel) -> bool {
        let funded = factory.funding().and_then(|funding| self.chain.confirmed(funding.txid)).is_some();
        channel.closing && funded && self.chain.confirmed(channel.outpoint.txid).is_none()
    }
}
