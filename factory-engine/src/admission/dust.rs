//! A cap on HTLCs in flight that are too small to appear in a commitment transaction. Whoever is owed one
//! when a channel goes on chain has lost it, and a factory that unfolds takes all its channels there at once.
//!
//! What is in flight is what was admitted and has not been seen to end, and what the last look at
//! lightningd showed beside that: this node's own payments, and what a restart made it forget.

use std::collections::{HashMap, HashSet};

use crate::admission::htlc::Htlc;
use crate::policy::DustLimits;
use crate::tx::scripts::DUST_MSAT;
use crate::types::{ChannelId, InstanceId};

/// Which incoming HTLC: its channel, and its number there.
pub type Key = (ChannelId, u64);

/// One of a node's HTLCs, as lightningd lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InFlight {
    /// The channel that it stands on.
    pub channel: ChannelId,
    /// Whether it came in there.
    pub incoming: bool,
    /// Its number, of those that go in this direction.
    pub id: u64,
    /// Its amount, msat.
    pub msat: u64,
    /// payment_hash (BOLT 2): the same on both legs of a forward.
    pub hash: [u8; 32],
}

/// An HTLC of this node, on one factory channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Leg {
    channel: ChannelId,
    msat: u64,
}

#[derive(Debug)]
struct Admitted {
    hash: [u8; 32],
    legs: Vec<Leg>,
    /// When it was admitted, as [`Dust::mark`] counts: a look that began before may miss it.
    at: u64,
}

/// A cap that an HTLC would pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TooMuch {
    /// That of the channel on which it came; so much is in flight there, msat.
    Incoming(u64),
    /// That of the channel on which it would go; so much is in flight there, msat.
    Outgoing(u64),
}

/// An HTLC that asks to be admitted.
#[derive(Debug, Clone, Copy)]
pub struct Asking<'a> {
    /// Its place among the incoming ones.
    pub key: Key,
    /// Policies of the channels that it uses.
    pub htlc: &'a Htlc<'a>,
    /// The channel on which it would be forwarded.
    pub outgoing: Option<ChannelId>,
    /// What came in, msat.
    pub incoming_msat: u64,
    /// What would be forwarded, msat.
    pub outgoing_msat: u64,
    /// payment_hash (BOLT 2).
    pub hash: [u8; 32],
}

/// All dust in flight on factory channels.
#[derive(Debug, Default)]
pub struct Dust {
    mark: u64,
    admitted: HashMap<Key, Admitted>,
    /// What the last look showed beside what was admitted.
    others: HashMap<ChannelId, u64>,
    /// What is admitted and what others have, together: msat in flight by channel.
    channels: HashMap<ChannelId, u64>,
    factories: HashMap<InstanceId, u64>,
    /// The factory that each of those channels stands in.
    owners: HashMap<ChannelId, InstanceId>,
}

impl Dust {
    /// Takes an HTLC, if no cap is passed. One that is asked for again changes nothing.
    ///
    /// # Errors
    /// Which cap is in the way. Nothing changes then.
    pub fn admit(&mut self, asking: &Asking<'_>, limits: &DustLimits) -> Result<(), TooMuch> {
        if self.admitted.contains_key(&asking.key) {
            return Ok(());
        }
        let incoming = asking.htlc.incoming.map(|policy| (asking.key.0, policy, asking.incoming_msat));
        let outgoing = asking.outgoing.zip(asking.htlc.outgoing);
        let outgoing = outgoing.map(|(channel, policy)| (channel, policy, asking.outgoing_msat));
        let mut legs = Vec::new();
        for (leg, too_much) in [(incoming, TooMuch::Incoming as fn(u64) -> _), (outgoing, TooMuch::Outgoing)]
        {
            let Some((channel, policy, msat)) = leg.filter(|(_, _, msat)| *msat < DUST_MSAT) else {
                continue;
            };
            let on_channel = self.on_channel(channel);
            let in_factory = self.in_factory(policy.instance);
            // Both legs of a payment from one client to another are in the same factory.
            let so_far: u64 = legs.iter().map(|leg: &Leg| leg.msat).sum();
            if on_channel.saturating_add(msat) > limits.channel_msat {
                return Err(too_much(on_channel));
            }
            if in_factory.saturating_add(so_far).saturating_add(msat) > limits.factory_msat {
                return Err(too_much(in_factory));
            }
            self.owners.insert(channel, policy.instance);
            legs.push(Leg { channel, msat });
        }
        if !legs.is_empty() {
            legs.iter().for_each(|leg| self.add(*leg));
            self.mark = self.mark.wrapping_add(1);
            let (hash, at) = (asking.hash, self.mark);
            self.admitted.insert(asking.key, Admitted { hash, legs, at });
        }
        Ok(())
    }

    /// To be taken before lightningd is asked for what it has: what is admitted meanwhile may be missing
    /// from the answer.
    pub fn mark(&self) -> u64 {
        self.mark
    }

    /// What lightningd showed, when it was asked after `mark`. `owner` knows factory channels.
    pub fn look(&mut self, mark: u64, shown: &[InFlight], owner: impl Fn(ChannelId) -> Option<InstanceId>) {
        let incoming = shown.iter().filter(|htlc| htlc.incoming);
        let alive: HashSet<Key> = incoming.map(|htlc| (htlc.channel, htlc.id)).collect();
        self.admitted.retain(|key, admitted| admitted.at > mark || alive.contains(key));
        // Forwarded ones have no number of ours: they are known by channel and payment_hash.
        let mut forwarded: HashMap<(ChannelId, [u8; 32]), usize> = HashMap::new();
        for ((channel, _), admitted) in &self.admitted {
            for leg in admitted.legs.iter().filter(|leg| leg.channel != *channel) {
                *forwarded.entry((leg.channel, admitted.hash)).or_default() += 1;
            }
        }
        self.others.clear();
        self.owners.clear();
        for htlc in shown.iter().filter(|htlc| htlc.msat < DUST_MSAT) {
            let Some(instance) = owner(htlc.channel) else { continue };
            self.owners.insert(htlc.channel, instance);
            let known = if htlc.incoming {
                self.admitted.contains_key(&(htlc.channel, htlc.id))
            } else {
                let left = forwarded.get_mut(&(htlc.channel, htlc.hash)).filter(|left| **left > 0);
                left.map(|left| *left -= 1).is_some()
            };
            if !known {
                let sum = self.others.entry(htlc.channel).or_default();
                *sum = sum.saturating_add(htlc.msat);
            }
        }
        self.sum(owner);
    }

    /// What is in flight on a channel, msat.
    pub fn on_channel(&self, channel: ChannelId) -> u64 {
        self.channels.get(&channel).copied().unwrap_or(0)
    }

    /// What is in flight on all channels of a factory, msat.
    pub fn in_factory(&self, instance: InstanceId) -> u64 {
        self.factories.get(&instance).copied().unwrap_or(0)
    }

    fn sum(&mut self, owner: impl Fn(ChannelId) -> Option<InstanceId>) {
        self.channels.clear();
        self.factories.clear();
        let others = self.others.iter().map(|(channel, msat)| Leg { channel: *channel, msat: *msat });
        let admitted = self.admitted.values().flat_map(|admitted| admitted.legs.iter().copied());
        let legs: Vec<Leg> = others.chain(admitted).collect();
        for leg in legs {
            if let Some(instance) = owner(leg.channel) {
                self.owners.insert(leg.channel, instance);
            }
            self.add(leg);
        }
    }

    fn add(&mut self, leg: Leg) {
        let sum = self.channels.entry(leg.channel).or_default();
        *sum = sum.saturating_add(leg.msat);
        if let Some(instance) = self.owners.get(&leg.channel) {
            let sum = self.factories.entry(*instance).or_default();
            *sum = sum.saturating_add(leg.msat);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::htlc::{ChannelPolicy, Upstream};

    const LIMITS: DustLimits = DustLimits { channel_msat: 1_000, factory_msat: 1_500 };
    const OURS: [ChannelId; 2] = [ChannelId([1; 32]), ChannelId([2; 32])];
    const STRANGER: ChannelId = ChannelId([9; 32]);
    const FACTORY: InstanceId = InstanceId([7; 32]);

    fn policy() -> ChannelPolicy {
        ChannelPolicy { instance: FACTORY, client: None, usable: Ok(()), blocks_early: 10, safe_end: 1_000 }
    }

    fn owner(channel: ChannelId) -> Option<InstanceId> {
        OURS.contains(&channel).then_some(FACTORY)
    }

    /// Asks for an HTLC from one channel to another, or to this node.
    fn ask(
        dust: &mut Dust,
        from: ChannelId,
        id: u64,
        to: Option<ChannelId>,
        msat: u64,
    ) -> Result<(), TooMuch> {
        let policy = policy();
        let ours = |channel: ChannelId| owner(channel).map(|_| &policy);
        let htlc = Htlc {
            incoming: ours(from),
            outgoing: to.and_then(ours),
            cltv_expiry: 0,
            outgoing_cltv_expiry: None,
            cltv_delta: 0,
            upstream: Upstream::Live,
        };
        let asking = Asking {
            key: (from, id),
            htlc: &htlc,
            outgoing: to,
            incoming_msat: msat,
            outgoing_msat: msat,
            hash: [u8::try_from(id).unwrap(); 32],
        };
        dust.admit(&asking, &LIMITS)
    }

    fn shown(channel: ChannelId, incoming: bool, id: u64, msat: u64, hash: u8) -> InFlight {
        InFlight { channel, incoming, id, msat, hash: [hash; 32] }
    }

    #[test]
    fn each_channel_and_each_factory_has_its_cap() {
        let mut dust = Dust::default();
        ask(&mut dust, STRANGER, 1, Some(OURS[0]), 900).unwrap();
        assert_eq!(ask(&mut dust, STRANGER, 2, Some(OURS[0]), 101), Err(TooMuch::Outgoing(900)));
        assert_eq!(ask(&mut dust, OURS[0], 1, None, 101), Err(TooMuch::Incoming(900)));
        ask(&mut dust, STRANGER, 3, Some(OURS[1]), 500).unwrap();
        assert_eq!(ask(&mut dust, STRANGER, 4, Some(OURS[1]), 101), Err(TooMuch::Outgoing(1_400)));
        // From one client to the other it counts twice.
        assert_eq!(ask(&mut dust, OURS[0], 5, Some(OURS[1]), 60), Err(TooMuch::Outgoing(1_400)));
        ask(&mut dust, OURS[0], 5, Some(OURS[1]), 50).unwrap();
        assert_eq!((dust.on_channel(OURS[0]), dust.on_channel(OURS[1])), (950, 550));
        assert_eq!(dust.in_factory(FACTORY), 1_500);
        // Again after a restart of the plugin's hook, or of nothing that counts.
        ask(&mut dust, OURS[0], 5, Some(OURS[1]), 50).unwrap();
        // What isn't dust is no matter, nor what uses no factory.
        ask(&mut dust, STRANGER, 6, Some(OURS[1]), DUST_MSAT).unwrap();
        ask(&mut dust, STRANGER, 7, Some(STRANGER), 1_000).unwrap();
        assert_eq!(dust.in_factory(FACTORY), 1_500);
    }

    #[test]
    fn what_has_ended_makes_room_and_what_was_forgotten_counts() {
        let mut dust = Dust::default();
        ask(&mut dust, STRANGER, 1, Some(OURS[0]), 600).unwrap();
        ask(&mut dust, STRANGER, 2, Some(OURS[0]), 400).unwrap();
        let mark = dust.mark();
        ask(&mut dust, STRANGER, 3, Some(OURS[1]), 100).unwrap();
        // The first has ended. The third came while lightningd was asked.
        let seen = [
            shown(STRANGER, true, 2, 400, 2),
            shown(OURS[0], false, 8, 400, 2),
            shown(STRANGER, true, 40, 700, 4),
        ];
        dust.look(mark, &seen, owner);
        assert_eq!((dust.on_channel(OURS[0]), dust.on_channel(OURS[1])), (400, 100));
        assert_eq!(dust.in_factory(FACTORY), 500);
        assert_eq!(dust.on_channel(STRANGER), 0);

        // A second part with the same payment_hash, this node's own payment, and what came before a start.
        let seen = [
            shown(STRANGER, true, 2, 400, 2),
            shown(OURS[0], false, 8, 400, 2),
            shown(OURS[0], false, 9, 30, 2),
            shown(OURS[0], false, 10, 20, 77),
            shown(OURS[1], true, 3, 7, 78),
            shown(OURS[1], true, 4, DUST_MSAT, 79),
        ];
        dust.look(dust.mark(), &seen, owner);
        assert_eq!((dust.on_channel(OURS[0]), dust.on_channel(OURS[1])), (450, 7));
        assert_eq!(ask(&mut dust, STRANGER, 5, Some(OURS[0]), 551), Err(TooMuch::Outgoing(450)));
        dust.look(dust.mark(), &[], owner);
        assert_eq!(dust.in_factory(FACTORY), 0);
    }
}
