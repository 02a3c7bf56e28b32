//! When clients are online: an hour-of-week histogram of each, and who should share a sub-factory.
//!
//! A sale needs all clients of a sub-factory at once. So those that are online at the same times go
//! together.

use std::collections::{BTreeMap, BTreeSet};

use crate::types::NodeId;

/// Hours of a week: places of a histogram.
const HOURS: usize = 168;
/// Of an hour that was always seen online.
const ALWAYS: u8 = 200;
/// Of an hour that was never looked at.
const UNKNOWN: u8 = 255;
/// Each week counts for so much less than the one after: old habits are forgotten in some months.
const WEIGHT: f64 = 0.25;
/// Peers that are kept track of. Whoever is new then takes the place of somebody who is away and was seen no more
/// than an hour altogether: strangers that come once don't keep clients out (S28).
const MAX_PEERS: usize = 2_000;
const ID: usize = 33;
/// So that no part exceeds 120,000 bytes.
const PEERS_OF_A_PART: usize = 590;

/// When each peer was seen online: a histogram over the hours of the week.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Online {
    /// The last hour that was looked at, since the Unix epoch.
    last: u64,
    /// How often each was online in each hour of the week.
    peers: BTreeMap<NodeId, [u8; HOURS]>,
}

/// How likely a client is online in each hour of the week.
type Habit = Vec<f64>;

impl Online {
    /// Whether this hour (since the Unix epoch) has not been looked at.
    pub fn is_due(&self, hour: u64) -> bool {
        hour > self.last
    }

    /// Whether no peer has been seen yet.
    pub fn is_empty(&self) -> bool {
        self.peers.is_empty()
    }

    /// Takes note of who is online in an hour. Whoever was seen before and isn't now is away.
    pub fn note(&mut self, hour: u64, online: &BTreeSet<NodeId>) {
        self.last = hour;
        for node in online {
            if self.peers.len() >= MAX_PEERS && !self.peers.contains_key(node) {
                let away = self.peers.iter().filter(|(node, _)| !online.contains(node));
                let least = away.min_by_key(|(_, hours)| seen(hours));
                let Some((least, _)) = least.filter(|(_, hours)| seen(hours) <= u32::from(ALWAYS)) else {
                    break;
                };
                let least = *least;
                self.peers.remove(&least);
            }
            self.peers.entry(*node).or_insert([UNKNOWN; HOURS]);
        }
        let place = usize::try_from(hour % 168).unwrap_or(0);
        for (node, hours) in &mut self.peers {
            let Some(slot) = hours.get_mut(place) else { continue };
            let seen = if online.contains(node) { f64::from(ALWAYS) } else { 0.0 };
            *slot = match *slot {
                UNKNOWN => rounded(seen),
                before => rounded(f64::from(before) + WEIGHT * (seen - f64::from(before))),
            };
        }
    }

    /// For keeping: parts of at most 120,000 bytes, each of which [`Online::from_bytes`] reads.
    pub fn to_parts(&self) -> Vec<Vec<u8>> {
        let last = self.last.to_be_bytes();
        let peers: Vec<_> = self.peers.iter().collect();
        let part = |peers: &[(&NodeId, &[u8; HOURS])]| {
            let mut bytes = last.to_vec();
            for (node, hours) in peers {
                bytes.extend_from_slice(&node.0);
                bytes.extend_from_slice(*hours);
            }
            bytes
        };
        peers.chunks(PEERS_OF_A_PART).map(part).collect()
    }

    /// With what another part has.
    pub fn and(mut self, other: Self) -> Self {
        self.last = self.last.max(other.last);
        self.peers.extend(other.peers);
        self
    }

    /// What [`Online::to_parts`] made; nothing if it is damaged.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (last, rest) = bytes.split_first_chunk::<8>()?;
        let mut peers = BTreeMap::new();
        let entries = rest.chunks_exact(ID.saturating_add(HOURS));
        if !entries.remainder().is_empty() {
            return None;
        }
        for entry in entries.take(MAX_PEERS) {
            let (node, hours) = entry.split_first_chunk::<ID>()?;
            let hours: [u8; HOURS] = hours.try_into().ok()?;
            if hours.iter().any(|hour| *hour > ALWAYS && *hour != UNKNOWN) {
                return None;
            }
            peers.insert(NodeId(*node), hours);
        }
        Some(Self { last: u64::from_be_bytes(*last), peers })
    }

    /// Hours that were never looked at are like the others on average.
    fn habit(&self, node: NodeId) -> Option<Habit> {
        let hours = self.peers.get(&node)?;
        let share = |hour: &u8| f64::from(*hour) / f64::from(ALWAYS);
        let known: Vec<f64> = hours.iter().filter(|hour| **hour != UNKNOWN).map(share).collect();
        let count = u32::try_from(known.len()).ok().filter(|count| *count > 0)?;
        let mean = known.iter().sum::<f64>() / f64::from(count);
        Some(hours.iter().map(|hour| if *hour == UNKNOWN { mean } else { share(hour) }).collect())
    }

    /// An order of clients in which each `size` that follow one another are online at similar times:
    /// their places in `clients`. Whoever was never seen comes last. Nothing if fewer than two were.
    pub fn group(&self, clients: &[NodeId], size: usize) -> Option<Vec<usize>> {
        let habits: Vec<Option<Habit>> = clients.iter().map(|node| self.habit(*node)).collect();
        let (mut left, unseen): (Vec<usize>, Vec<usize>) =
            (0..clients.len()).partition(|place| habits.get(*place).is_some_and(Option::is_some));
        if left.len() < 2 {
            return None;
        }
        let mut order = Vec::with_capacity(clients.len());
        while !left.is_empty() {
            let first = left.remove(0);
            order.push(first);
            let mut joint = habits.get(first)?.clone()?;
            for _ in 1..size {
                let Some(best) = best(&joint, &left, &habits) else { break };
                let place = left.remove(best);
                joint = product(&joint, habits.get(place)?.as_ref()?);
                order.push(place);
            }
        }
        order.extend(unseen);
        Some(order)
    }

    /// How likely a purchase by one of these clients finds all of them online, from 0 to 1: the buyer is,
    /// when it buys. Nothing if one of them was never seen.
    pub fn chance(&self, clients: &[NodeId]) -> Option<f64> {
        let habits: Vec<Habit> = clients.iter().map(|node| self.habit(*node)).collect::<Option<_>>()?;
        let all = habits.iter().skip(1).fold(habits.first()?.clone(), |all, habit| product(&all, habit));
        let together: f64 = all.iter().sum();
        let of_buyer = |habit: &Habit| {
            let own: f64 = habit.iter().sum();
            if own > 0.0 { together / own } else { 0.0 }
        };
        let count = u32::try_from(habits.len()).ok()?;
        Some(habits.iter().map(of_buyer).sum::<f64>() / f64::from(count))
    }
}

fn product(left: &[f64], right: &[f64]) -> Habit {
    left.iter().zip(right).map(|(left, right)| left * right).collect()
}

/// Of those that are left the one that is online most of the time when the others are; the first of equals.
fn best(joint: &[f64], left: &[usize], habits: &[Option<Habit>]) -> Option<usize> {
    let score = |place: &usize| {
        let habit = habits.get(*place).and_then(Option::as_ref);
        habit.map_or(0.0, |habit| joint.iter().zip(habit).map(|(left, right)| left * right).sum())
    };
    let mut best: Option<(usize, f64)> = None;
    for (index, score) in left.iter().map(score).enumerate() {
        if best.is_none_or(|(_, most)| score > most) {
            best = Some((index, score));
        }
    }
    best.map(|(index, _)| index)
}

/// How much a peer was seen, of all hours together.
fn seen(hours: &[u8; HOURS]) -> u32 {
    hours.iter().filter(|hour| **hour != UNKNOWN).map(|hour| u32::from(*hour)).sum()
}

fn rounded(value: f64) -> u8 {
    // From 0 to ALWAYS: nothing is lost.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let rounded = value.round().clamp(0.0, f64::from(ALWAYS)) as u8;
    rounded
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(number: u8) -> NodeId {
        NodeId([number; 33])
    }

    /// Some weeks: even numbers are there by day, odd ones by night.
    fn weeks(count: u64, clients: u8) -> Online {
        let mut online = Online::default();
        for hour in 1..=count * 168 {
            let day = hour % 24 < 12;
            let there = (0..clients).filter(|number| (number % 2 == 0) == day).map(node).collect();
            assert!(online.is_due(hour));
            online.note(hour, &there);
            assert!(!online.is_due(hour));
        }
        online
    }

    #[test]
    fn who_is_online_at_the_same_times_goes_together() {
        let online = weeks(3, 6);
        let clients: Vec<NodeId> = (0..6).map(node).collect();
        assert_eq!(online.group(&clients, 2).unwrap(), [0, 2, 1, 3, 4, 5]);
        assert_eq!(online.group(&clients, 3).unwrap(), [0, 2, 4, 1, 3, 5]);
        assert!(online.chance(&[node(0), node(2)]).unwrap() > 0.99);
        assert!(online.chance(&[node(0), node(1)]).unwrap() < 0.01);
        assert!(online.chance(&[node(0)]).unwrap() > 0.99);
    }

    #[test]
    fn nobody_is_grouped_without_data() {
        let online = weeks(1, 3);
        assert_eq!(Online::default().group(&[node(0), node(1)], 2), None);
        assert_eq!(online.group(&[node(0), node(9)], 2), None);
        assert_eq!(online.group(&[node(9), node(1), node(0), node(2)], 2).unwrap(), [1, 2, 3, 0]);
        assert_eq!(online.chance(&[node(0), node(9)]), None);
        assert_eq!(online.chance(&[]), None);
    }

    #[test]
    fn habits_change() {
        let mut online = weeks(2, 2);
        for hour in 337..=337 + 12 * 168 {
            online.note(hour, &[node(0), node(1)].into());
        }
        assert!(online.chance(&[node(0), node(1)]).unwrap() > 0.95);
        for hour in 3_000..=3_000 + 12 * 168 {
            online.note(hour, &[node(0)].into());
        }
        assert!(
            online.chance(&[node(0), node(1)]).unwrap() < 0.55,
            "whoever is never there counts for nothing"
        );
    }

    #[test]
    fn what_is_kept_comes_back_and_is_bounded() {
        let online = weeks(1, 5);
        let [bytes] = &online.to_parts()[..] else { panic!("more than one part") };
        assert_eq!(bytes.len(), 8 + 5 * (33 + 168));
        assert_eq!(Online::from_bytes(bytes), Some(online.clone()));
        assert_eq!(Online::from_bytes(&bytes[..bytes.len() - 1]), None);
        assert_eq!(Online::from_bytes(&[]), None);
        let mut many = Online::default();
        let number = |n: u32| {
            let mut id = [2; 33];
            id[..4].copy_from_slice(&n.to_be_bytes());
            NodeId(id)
        };
        many.note(1, &(0..5_000).map(number).collect());
        assert_eq!(many.peers.len(), MAX_PEERS);
        // Strangers that are there for an hour don't keep out who comes later, nor drive out who is there often.
        many.note(2, &(0..10).map(number).collect());
        many.note(3, &(10_000..15_000).map(number).collect());
        assert_eq!(many.peers.len(), MAX_PEERS);
        assert!((0..10).all(|n| many.peers.contains_key(&number(n))));
        assert!(many.peers.contains_key(&number(10_000)) && !many.peers.contains_key(&number(1_000)));
        // S28: lightningd bears no large values.
        let parts = many.to_parts();
        assert!(parts.len() > 1 && parts.iter().all(|part| part.len() <= 120_000));
        let read = parts.iter().map(|part| Online::from_bytes(part).unwrap());
        assert_eq!(read.fold(Online::default(), Online::and), many);
    }
}
