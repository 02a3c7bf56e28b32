//! Client: towers that watch for this node, and what they have. A connection's end takes what was said in it; the next
//! begins with what is there.

use std::collections::{BTreeMap, BTreeSet};

use crate::record::appointment::{Appointment, Locator, Sum, Task, locators, toggle};
use crate::types::{Height, InstanceId, NodeId, Transaction, Txid};

use super::keepers::Tag;

/// Appointments that one tower has been sent and hasn't answered: S28, it stores each.
pub(crate) const AT_ONCE: usize = 8;
/// After so many blocks what was refused is offered again.
const OFFER_AGAIN: u32 = 6;
/// Most penalties of one factory's channels that towers are given.
pub(crate) const MOST_PENALTIES: usize = 10_000;

/// What a tower was told of an appointment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Given {
    /// Of what is sealed in it, and until when.
    pub(crate) sum: Sum,
    /// The transaction that it waits for and its block, where it is in one.
    pub(crate) since: Option<(Txid, Height)>,
}

/// What one tower has with one tag.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Had {
    /// What it has.
    pub(crate) stored: BTreeMap<Locator, Given>,
    /// What it was sent, and hasn't answered.
    pub(crate) sent: BTreeMap<Locator, Given>,
    /// What it doesn't watch for now.
    pub(crate) refused: BTreeSet<Locator>,
    /// Number and sum of those that it was asked to sign for last.
    pub(crate) receipt: Option<(u32, Sum)>,
    /// Whether it has.
    pub(crate) signed: bool,
}

/// A tower, as it has said in this connection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Tower {
    /// The last block that it had looked at.
    pub(crate) height: Height,
    /// Most that it pays for one transaction, sat.
    pub(crate) pays_sat: u64,
    /// What it has of each factory, once that was compared.
    pub(crate) has: BTreeMap<Tag, Had>,
    /// Why it has refused one last.
    pub(crate) refuses: Option<String>,
    /// How often since the last block.
    pub(crate) refusals: usize,
    /// Blocks since it was asked.
    blocks: u32,
}

impl Tower {
    pub(crate) fn new(height: Height, pays_sat: u64) -> Self {
        Self { height, pays_sat, ..Self::default() }
    }

    /// Appointments that it was sent and hasn't answered.
    pub(crate) fn under_way(&self) -> usize {
        self.has.values().map(|had| had.sent.len()).sum()
    }
}

#[derive(Debug, Default)]
pub(crate) struct Towers {
    asked: BTreeSet<NodeId>,
    ready: BTreeMap<NodeId, Tower>,
    /// Penalties that lightningd gave: of each factory's channels.
    penalties: BTreeMap<InstanceId, Penalties>,
}

/// Penalties for one factory's channels.
#[derive(Debug, Default)]
struct Penalties {
    all: BTreeMap<Locator, Penalty>,
    /// The same by what they take.
    by_value: BTreeSet<(u64, Locator)>,
    /// Those that others have taken the place of.
    replaced: BTreeSet<Locator>,
    /// How many those are, and were.
    beyond: usize,
}

/// A penalty, sealed.
#[derive(Debug)]
struct Penalty {
    appointment: Appointment,
    sum: Sum,
    /// Sat.
    takes: u64,
}

/// A change of [`Towers`], made when the step is applied.
pub(crate) enum VolatileTowers {
    /// A tower was asked what it has.
    Asked(NodeId),
    /// It has said what it is.
    Ready(NodeId, Tower),
    /// It was compared: it has these with this tag.
    Has(NodeId, Tag, BTreeMap<Locator, Given>),
    /// It was sent one.
    Sends(NodeId, Tag, Locator, Given),
    /// It has stored the one that it was sent, or hasn't, and why.
    Answered(NodeId, Tag, Locator, Result<(), String>),
    /// It was asked to sign that it has so many, and their sum.
    AsksReceipt(NodeId, Tag, (u32, Sum)),
    /// It has.
    Signed(NodeId, Tag),
    /// It was told that these are not needed any more.
    Gone(NodeId, Tag, Vec<Locator>),
    /// A block has passed: what gave no answer is offered again, and now and then what was refused.
    OffersAgain,
    /// A commitment was revoked.
    Penalty(InstanceId, Txid, Transaction),
}

impl Towers {
    pub(crate) fn apply(&mut self, change: VolatileTowers) {
        match change {
            VolatileTowers::Asked(peer) => drop(self.asked.insert(peer)),
            VolatileTowers::Ready(peer, tower) => drop(self.ready.insert(peer, tower)),
            VolatileTowers::Has(peer, tag, stored) => {
                if let Some(tower) = self.ready.get_mut(&peer) {
                    tower.has.insert(tag, Had { stored, ..Had::default() });
                }
            }
            VolatileTowers::Sends(peer, tag, locator, given) => {
                if let Some(had) = self.had_mut(peer, tag) {
                    had.sent.insert(locator, given);
                }
            }
            VolatileTowers::Answered(peer, tag, locator, result) => {
                let Some(had) = self.had_mut(peer, tag) else { return };
                let Some(given) = had.sent.remove(&locator) else { return };
                match result {
                    Ok(()) => drop(had.stored.insert(locator, given)),
                    Err(why) => {
                        had.refused.insert(locator);
                        if let Some(tower) = self.ready.get_mut(&peer) {
                            tower.refuses = Some(why);
                            tower.refusals = tower.refusals.saturating_add(1);
                        }
                    }
                }
            }
            VolatileTowers::AsksReceipt(peer, tag, total) => {
                if let Some(had) = self.had_mut(peer, tag) {
                    (had.receipt, had.signed) = (Some(total), false);
                }
            }
            VolatileTowers::Signed(peer, tag) => {
                if let Some(had) = self.had_mut(peer, tag) {
                    had.signed = true;
                }
            }
            VolatileTowers::Gone(peer, tag, locators) => {
                if let Some(had) = self.had_mut(peer, tag) {
                    for locator in &locators {
                        had.stored.remove(locator);
                    }
                }
            }
            VolatileTowers::OffersAgain => {
                for tower in self.ready.values_mut() {
                    (tower.refusals, tower.blocks) = (0, tower.blocks.saturating_add(1));
                    tower.has.values_mut().for_each(|had| had.sent.clear());
                    // Others come first in between.
                    if tower.blocks.is_multiple_of(OFFER_AGAIN) {
                        tower.refuses = None;
                        tower.has.values_mut().for_each(|had| had.refused.clear());
                    }
                }
            }
            VolatileTowers::Penalty(instance, commitment, tx) => self.add_penalty(instance, commitment, tx),
        }
    }

    /// A penalty that is stored. Where they are too many those stay that take most: the operator gains nothing by a
    /// commitment in which it had less than it has.
    pub(crate) fn add_penalty(&mut self, instance: InstanceId, commitment: Txid, tx: Transaction) {
        let takes = takes(&tx);
        let (made, _) = Appointment::seal_all(commitment, &[Task { not_before: 0, tx }]);
        let of = self.penalties.entry(instance).or_default();
        for one in made {
            let penalty = Penalty { takes, sum: one.sum(), appointment: one };
            let locator = penalty.appointment.locator;
            if let Some(before) = of.all.insert(locator, penalty) {
                of.by_value.remove(&(before.takes, locator));
            }
            of.by_value.insert((takes, locator));
            if of.by_value.len() > MOST_PENALTIES
                && let Some((_, least)) = of.by_value.pop_first()
            {
                of.all.remove(&least);
                of.replaced.insert(least);
                of.beyond = of.beyond.saturating_add(1);
            }
            of.replaced.remove(&locator);
        }
    }

    pub(crate) fn forget(&mut self, instance: InstanceId) {
        self.penalties.remove(&instance);
    }

    /// The connection's end.
    pub(crate) fn gone(&mut self, peer: NodeId) {
        self.asked.remove(&peer);
        self.ready.remove(&peer);
    }

    fn had_mut(&mut self, peer: NodeId, tag: Tag) -> Option<&mut Had> {
        self.ready.get_mut(&peer)?.has.get_mut(&tag)
    }

    /// Whether it was asked, and hasn't said what it is.
    pub(crate) fn is_asked(&self, peer: NodeId) -> bool {
        self.asked.contains(&peer) && !self.ready.contains_key(&peer)
    }

    /// Towers that were asked, and haven't said what they are.
    pub(crate) fn silent(&self) -> impl Iterator<Item = NodeId> {
        self.asked.iter().copied().filter(|peer| !self.ready.contains_key(peer))
    }

    /// What was sent of just this name and hasn't been answered.
    pub(crate) fn sent(&self, peer: NodeId, tag: Tag, locator: Locator) -> Option<Given> {
        self.ready.get(&peer)?.has.get(&tag)?.sent.get(&locator).copied()
    }

    /// A connected tower, and what it has.
    pub(crate) fn get(&self, peer: NodeId) -> Option<&Tower> {
        self.ready.get(&peer)
    }

    /// Connected towers, and what they have.
    pub(crate) fn ready(&self) -> impl Iterator<Item = (NodeId, &Tower)> {
        self.ready.iter().map(|(peer, tower)| (*peer, tower))
    }

    /// Penalties for a factory's channels.
    pub(crate) fn penalties(&self, instance: InstanceId) -> impl Iterator<Item = (&Appointment, Sum)> {
        let all = self.penalties.get(&instance).into_iter().flat_map(|of| of.all.values());
        all.map(|penalty| (&penalty.appointment, penalty.sum))
    }

    /// Whether one is among them.
    pub(crate) fn has_penalty(&self, instance: InstanceId, commitment: Txid) -> bool {
        let of = self.penalties.get(&instance);
        of.is_some_and(|of| locators(commitment).any(|locator| of.all.contains_key(&locator)))
    }

    /// Penalties that are too many for a tower.
    pub(crate) fn beyond(&self, instance: InstanceId) -> usize {
        self.penalties.get(&instance).map_or(0, |of| of.beyond)
    }

    /// Those that others have taken the place of.
    pub(crate) fn replaced(&self, instance: InstanceId) -> impl Iterator<Item = &Locator> {
        self.penalties.get(&instance).into_iter().flat_map(|of| &of.replaced)
    }

    /// Whether one that takes so much is of use.
    pub(crate) fn has_room(&self, instance: InstanceId, takes: u64) -> bool {
        let full = self.penalties.get(&instance).filter(|of| of.all.len() >= MOST_PENALTIES);
        full.is_none_or(|of| of.by_value.first().is_some_and(|(least, _)| takes > *least))
    }

    /// S28: until the next start, which deletes what was replaced, no more are written than are kept. Towers have them.
    pub(crate) fn may_write(&self, instance: InstanceId) -> bool {
        self.beyond(instance) < MOST_PENALTIES
    }
}

/// What a penalty takes, sat: what the other side had in the commitment.
pub(crate) fn takes(penalty: &Transaction) -> u64 {
    penalty.output.iter().fold(0, |sum, output| sum.saturating_add(output.value.to_sat()))
}

/// Number and sum of these.
pub(crate) fn total(sums: impl Iterator<Item = Sum>) -> (u32, Sum) {
    sums.fold((0, [0; 32]), |(count, mut sum), part| {
        toggle(&mut sum, part);
        (u32::saturating_add(count, 1), sum)
    })
}

#[cfg(test)]
mod tests {
    use bitcoin::TxOut;
    use bitcoin::hashes::Hash;

    use crate::types::{Amount, ScriptBuf};

    use super::*;

    const INSTANCE: InstanceId = InstanceId([1; 32]);

    fn commitment(number: u64) -> Txid {
        Txid::hash(&number.to_be_bytes())
    }

    fn penalty(sat: u64) -> Transaction {
        let output = TxOut { value: Amount::from_sat(sat), script_pubkey: ScriptBuf::new() };
        Transaction {
            version: bitcoin::transaction::Version::TWO,
            lock_time: bitcoin::absolute::LockTime::ZERO,
            input: vec![],
            output: vec![output],
        }
    }

    /// S40: an operator that has commitments revoked in which it has nothing doesn't keep those from a tower in which it has
    /// much.
    #[test]
    fn penalties_that_take_most_stay() {
        let mut towers = Towers::default();
        let most = u64::try_from(MOST_PENALTIES).unwrap_or(u64::MAX);
        for number in 1..=most {
            towers.add_penalty(INSTANCE, commitment(number), penalty(1_000 + number));
        }
        assert!(!towers.has_room(INSTANCE, 1_001) && towers.has_room(INSTANCE, 1_002));
        towers.add_penalty(INSTANCE, commitment(0), penalty(50_000));
        assert!(towers.has_penalty(INSTANCE, commitment(0)) && !towers.has_penalty(INSTANCE, commitment(1)));
        assert_eq!(
            towers.replaced(INSTANCE).copied().collect::<Vec<_>>(),
            [locators(commitment(1)).next()].map(Option::unwrap_or_default)
        );
        assert_eq!((towers.penalties(INSTANCE).count(), towers.beyond(INSTANCE)), (MOST_PENALTIES, 1));
        // Less than each that is there.
        towers.add_penalty(INSTANCE, commitment(most + 1), penalty(900));
        assert!(!towers.has_penalty(INSTANCE, commitment(most + 1)));
    }
}
