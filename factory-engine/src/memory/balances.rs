//! What this node's channels hold, as lightningd said last.

use std::collections::{BTreeMap, BTreeSet};

use crate::io::ChannelBalance;
use crate::types::{ChannelId, NodeId};

/// What channels held when somebody last looked. It may be out of date: whatever depends on a channel's being
/// empty looks again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Balances {
    known: BTreeMap<ChannelId, ChannelBalance>,
}

impl Balances {
    /// Of each peer that is in the list these are all channels.
    pub(crate) fn take(&mut self, list: &[ChannelBalance]) {
        let peers: BTreeSet<NodeId> = list.iter().map(|channel| channel.peer).collect();
        self.known.retain(|_, channel| !peers.contains(&channel.peer));
        self.known.extend(list.iter().map(|channel| (channel.channel_id, *channel)));
    }

    /// What a channel held.
    pub fn of(&self, channel_id: ChannelId) -> Option<&ChannelBalance> {
        self.known.get(&channel_id)
    }

    /// Every channel with a peer.
    pub fn with(&self, peer: NodeId) -> impl Iterator<Item = &ChannelBalance> {
        self.known.values().filter(move |channel| channel.peer == peer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn channel(id: u8, peer: u8, to_us_msat: u64) -> ChannelBalance {
        ChannelBalance {
            channel_id: ChannelId([id; 32]),
            peer: NodeId([peer; 33]),
            to_us_msat,
            reserve_msat: 546_000,
            spendable_msat: 0,
            receivable_msat: 0,
            minimum_htlc_out_msat: 0,
            maximum_htlc_out_msat: 0,
            minimum_htlc_in_msat: 0,
            maximum_htlc_in_msat: u64::MAX,
            opener: false,
            free: false,
            htlcs: false,
            live: true,
            confirmed: None,
        }
    }

    #[test]
    fn a_list_is_all_of_the_peers_in_it() {
        let mut balances = Balances::default();
        balances.take(&[channel(1, 7, 10), channel(2, 7, 20), channel(3, 8, 30)]);
        balances.take(&[channel(2, 7, 21)]);
        let sum = |peer| balances.with(NodeId([peer; 33])).map(|channel| channel.to_us_msat).sum::<u64>();
        assert_eq!((sum(7), sum(8)), (21, 30));
        assert!(balances.of(ChannelId([1; 32])).is_none());
    }
}
