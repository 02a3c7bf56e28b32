//! HTLCs for a client that isn't connected: how long, how many and how much of them L holds.

use std::collections::BTreeMap;

use crate::admission::htlc::{Htlc, SLACK};
use crate::policy::HoldLimits;
use crate::types::{ChannelId, Height, InstanceId, Millis, NodeId};

/// An HTLC that waits for its client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// The factory in which the client is (factory_instance).
    pub instance: InstanceId,
    /// The client's node, which isn't connected.
    pub client: NodeId,
    /// Its channel, on which the HTLC is to go out.
    pub channel: ChannelId,
    /// What would be forwarded, msat.
    pub amount_msat: u64,
    /// cltv_expiry of the forwarded HTLC.
    pub cltv_expiry: Height,
    /// When it is failed at the latest.
    pub until: Millis,
    /// The last height at which it is held.
    pub last_height: Height,
}

/// Why an HTLC isn't held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// This many HTLCs are held already: as many as may be.
    Number(usize),
    /// This much is held already, msat: with this HTLC it would be too much.
    Amount(u64),
    /// It would not leave time to fail it, at this height.
    Late(Height),
}

impl std::fmt::Display for Full {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Number(held) => write!(f, "{held} HTLCs are held already"),
            Self::Amount(held) => write!(f, "{held} msat are held already"),
            Self::Late(height) => write!(f, "it expires too soon to be held after block {height}"),
        }
    }
}

/// HTLCs that wait for their clients, over all factories.
#[derive(Debug, Default)]
pub struct Holds {
    next: u64,
    held: BTreeMap<u64, Held>,
}

/// The last height at which an HTLC may wait: afterwards it has to be failed back, so that neither what
/// came in nor what would go out comes near its deadline (S15, S16). `blocks_early` is that of the
/// channel; a channel that is no factory's needs none.
pub fn last_height(htlc: &Htlc<'_>) -> Height {
    let early = |policy: Option<&crate::admission::htlc::ChannelPolicy>| {
        policy.map_or(0, |policy| policy.blocks_early)
    };
    let least = |expiry: Height, early: u16| {
        expiry.saturating_sub(u32::from(early)).saturating_sub(SLACK).saturating_sub(1)
    };
    let incoming = least(htlc.cltv_expiry, early(htlc.incoming));
    let outgoing = htlc.outgoing_cltv_expiry.unwrap_or(htlc.cltv_expiry);
    incoming.min(least(outgoing, early(htlc.outgoing)))
}

impl Holds {
    /// Holds one more; gives its number.
    ///
    /// # Errors
    /// When a limit would be passed. Nothing changes then.
    pub fn hold(&mut self, limits: &HoldLimits, htlc: Held, height: Height) -> Result<u64, Full> {
        if height > htlc.last_height {
            return Err(Full::Late(htlc.last_height));
        }
        if self.held.len() >= limits.number {
            return Err(Full::Number(self.held.len()));
        }
        let sum = self.msat();
        if sum.saturating_add(htlc.amount_msat) > limits.msat {
            return Err(Full::Amount(sum));
        }
        let number = self.next;
        self.next = number.wrapping_add(1);
        self.held.insert(number, htlc);
        Ok(number)
    }

    /// An HTLC goes on or is failed: it is held no longer.
    pub fn release(&mut self, number: u64) {
        self.held.remove(&number);
    }

    /// Everything that is held, in the order of arrival.
    pub fn all(&self) -> impl Iterator<Item = &Held> {
        self.held.values()
    }

    /// Whether something is held for a client.
    pub fn waits_for(&self, client: NodeId) -> bool {
        self.all().any(|held| held.client == client)
    }

    /// The sum of everything that is held, msat.
    pub fn msat(&self) -> u64 {
        self.all().fold(0, |sum, held| sum.saturating_add(held.amount_msat))
    }
}

impl Held {
    /// Why it may not wait any longer, if so.
    pub fn over(&self, now: Millis, height: Height) -> Option<String> {
        if height > self.last_height {
            return Some(format!("block {} was the last before its deadline", self.last_height));
        }
        (now >= self.until).then(|| "its client did not come in time".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::htlc::ChannelPolicy;
    use crate::admission::htlc::{Upstream, Verdict, admit};

    const LIMITS: HoldLimits = HoldLimits { time: 60_000, number: 3, msat: 10_000 };

    fn held(amount_msat: u64) -> Held {
        Held {
            instance: InstanceId([1; 32]),
            client: NodeId([2; 33]),
            channel: ChannelId([3; 32]),
            amount_msat,
            cltv_expiry: 200,
            until: 60_000,
            last_height: 120,
        }
    }

    #[test]
    fn number_and_amount_are_limited() {
        let mut holds = Holds::default();
        let first = holds.hold(&LIMITS, held(4_000), 100).unwrap();
        assert_eq!(holds.hold(&LIMITS, held(6_001), 100), Err(Full::Amount(4_000)));
        holds.hold(&LIMITS, held(6_000), 100).unwrap();
        holds.hold(&LIMITS, held(0), 100).unwrap();
        assert_eq!(holds.hold(&LIMITS, held(0), 100), Err(Full::Number(3)));
        holds.release(first);
        assert_eq!(holds.hold(&LIMITS, held(4_001), 100), Err(Full::Amount(6_000)));
        holds.hold(&LIMITS, held(4_000), 100).unwrap();
        assert_eq!((holds.all().count(), holds.msat()), (3, 10_000));
        assert!(holds.waits_for(NodeId([2; 33])) && !holds.waits_for(NodeId([9; 33])));
    }

    #[test]
    fn it_ends_with_its_time_and_with_its_blocks() {
        let mut holds = Holds::default();
        assert_eq!(holds.hold(&LIMITS, held(1), 121), Err(Full::Late(120)));
        holds.hold(&LIMITS, held(1), 120).unwrap();
        assert_eq!(held(1).over(59_999, 120), None);
        assert!(held(1).over(60_000, 120).unwrap().contains("in time"));
        assert!(held(1).over(0, 121).unwrap().contains("120"));
    }

    // S15, S16
    #[test]
    fn nothing_is_held_into_the_margin_of_either_channel() {
        let policy = |blocks_early| ChannelPolicy {
            instance: InstanceId([1; 32]),
            client: None,
            usable: Ok(()),
            blocks_early,
            safe_end: 10_000,
        };
        let (near, far) = (policy(20), policy(70));
        for (incoming, outgoing, cltv_expiry, outgoing_cltv_expiry) in [
            (None, Some(&near), 200, 166),
            (Some(&near), Some(&near), 200, 166),
            (Some(&far), Some(&near), 240, 166),
            (Some(&near), Some(&far), 200, 166),
            // A payer may ask for a forwarded HTLC that outlives the one that pays for it.
            (None, Some(&near), 150, 500),
            (None, Some(&near), 150, 150),
        ] {
            let htlc = Htlc {
                incoming,
                outgoing,
                cltv_expiry,
                outgoing_cltv_expiry: Some(outgoing_cltv_expiry),
                cltv_delta: 0,
                upstream: Upstream::Live,
            };
            let last = last_height(&htlc);
            // Blocks are left to fail it back in.
            assert_eq!(admit(&htlc, last + SLACK), Verdict::Continue, "{htlc:?}");
            let early = |policy: Option<&ChannelPolicy>| policy.map_or(0, |p| u32::from(p.blocks_early));
            let edges = [cltv_expiry - early(incoming), outgoing_cltv_expiry - early(outgoing)];
            assert_eq!(last + SLACK + 1, *edges.iter().min().unwrap(), "{htlc:?}");
        }
    }
}
