//! Who has a copy of what (S39), and what waits until enough have one.

use std::collections::{BTreeMap, BTreeSet};

use crate::io::{Effect, Keeper};
use crate::memory::keepers::{Keepers, VolatileKeepers};
use crate::types::{InstanceId, NodeId, PaymentHash};
use crate::wire::message::Message;

/// What binds this node for good, so that it must not be the only one that knows what it follows from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Binding {
    /// Client: *stored* is said: the funding may be sent.
    Stored,
    /// Client: a sale's transactions are stored.
    SaleStored,
    /// Client: what was bought is paid.
    Pays(PaymentHash),
    /// Client: its key goes to L.
    Key,
    /// L: the funding is sent.
    Funds,
}

/// What an effect binds this node to, and in which factory.
#[expect(clippy::wildcard_enum_match_arm, reason = "nothing else does")]
pub(crate) fn binding(effect: &Effect) -> Option<(InstanceId, Binding)> {
    match effect {
        Effect::Send { message: Message::Stored(stored), .. } => Some((stored.instance, Binding::Stored)),
        Effect::Send { message: Message::SaleStored(stored), .. } => {
            Some((stored.instance, Binding::SaleStored))
        }
        Effect::Send { message: Message::Handover(key), .. } => Some((key.instance, Binding::Key)),
        Effect::PayInvoice { instance, invoice, .. } => {
            Some((*instance, Binding::Pays(invoice.payment_hash)))
        }
        Effect::SendFunding { instance, .. } => Some((*instance, Binding::Funds)),
        _ => None,
    }
}

/// What a restart may lose of copies: keepers say again what they have.
#[derive(Debug, Default)]
pub(crate) struct Keeping {
    /// Records that are stored of each factory: the counter of a copy that has them all.
    records: BTreeMap<InstanceId, u32>,
    /// Counter of the newest copy that each keeper has.
    kept: BTreeMap<InstanceId, BTreeMap<Keeper, u32>>,
    /// Keepers that can't keep anything of a factory now, or of any, and why.
    trouble: BTreeMap<(Keeper, Option<InstanceId>), String>,
    /// What waits, each with the counter that a copy has to have.
    held: BTreeMap<(InstanceId, Binding), (u32, Effect)>,
    /// Peers among the keepers.
    pub(crate) keepers: Keepers,
}

/// The keepers of one factory.
#[derive(Debug, Default)]
pub(crate) struct KeepersOf {
    /// Those that there are now.
    pub(crate) now: Vec<Keeper>,
    /// Whether it isn't known yet what one of them has.
    pub(crate) pending: bool,
}

/// Those of each factory that is looked at.
pub(crate) type ByFactory = BTreeMap<InstanceId, KeepersOf>;

/// A change of [`Keeping`], made when the step is applied.
pub(crate) enum VolatileKeeping {
    /// A keeper has these copies.
    Kept(Keeper, Vec<(InstanceId, u32)>),
    /// It can't keep anything of this factory now, or of any.
    Trouble(Keeper, Option<InstanceId>, String),
    /// What it had isn't there any more, or nobody knows.
    Lost(Keeper),
    /// What waits in this factory never leaves: it follows from what wasn't known.
    DropHeld(InstanceId),
    /// A change of what is known of peers.
    Keepers(VolatileKeepers),
}

impl Keeping {
    pub(crate) fn add_records(&mut self, instance: InstanceId, count: u32) {
        let records = self.records.entry(instance).or_default();
        *records = records.saturating_add(count);
    }

    /// Records that are stored of a factory.
    pub(crate) fn records(&self, instance: InstanceId) -> u32 {
        self.records.get(&instance).copied().unwrap_or(0)
    }

    pub(crate) fn forget(&mut self, instance: InstanceId) {
        self.records.remove(&instance);
        self.kept.remove(&instance);
        self.trouble.retain(|(_, of), _| *of != Some(instance));
        self.held.retain(|(of, _), _| *of != instance);
    }

    pub(crate) fn apply(&mut self, change: VolatileKeeping) {
        match change {
            VolatileKeeping::Kept(keeper, list) => {
                self.trouble.remove(&(keeper, None));
                for (instance, counter) in list {
                    self.trouble.remove(&(keeper, Some(instance)));
                    let kept = self.kept.entry(instance).or_default().entry(keeper).or_default();
                    *kept = counter.max(*kept);
                }
            }
            VolatileKeeping::Trouble(keeper, instance, why) => {
                self.trouble.insert((keeper, instance), why);
            }
            VolatileKeeping::Lost(keeper) => {
                for kept in self.kept.values_mut() {
                    kept.remove(&keeper);
                }
            }
            VolatileKeeping::DropHeld(instance) => self.drop_held(instance),
            VolatileKeeping::Keepers(change) => self.keepers.apply(change),
        }
    }

    /// A peer's connection is over: nobody waits for it. What was to go to it is said again on the next, if it is still
    /// so; what was to be paid to it may be over by now, and is looked up as at a start: it never left.
    pub(crate) fn gone(&mut self, peer: NodeId, effects: &mut Vec<Effect>) {
        self.trouble.retain(|(keeper, _), _| *keeper != Keeper::Peer(peer));
        self.keepers.gone(peer);
        self.held.retain(|_, (_, effect)| {
            if let Effect::PayInvoice { instance, peer: to, invoice } = effect
                && *to == peer
            {
                let payment_hash = invoice.payment_hash;
                effects.push(Effect::LookPayment { instance: *instance, payment_hash });
                return false;
            }
            !matches!(effect, Effect::Send { peer: to, .. } if *to == peer)
        });
    }

    pub(crate) fn drop_held(&mut self, instance: InstanceId) {
        self.held.retain(|(of, _), _| *of != instance);
    }

    /// Keepers that have all of these records.
    pub(crate) fn keepers(&self, instance: InstanceId, counter: u32) -> BTreeSet<Keeper> {
        let kept = self.kept.get(&instance).into_iter().flatten();
        kept.filter(|(_, has)| **has >= counter).map(|(keeper, _)| *keeper).collect()
    }

    /// Why a keeper can't keep anything of this factory now, or of any.
    pub(crate) fn trouble_with(&self, keeper: Keeper, instance: Option<InstanceId>) -> Option<&str> {
        self.trouble.get(&(keeper, instance)).map(String::as_str)
    }

    /// Why a keeper can't keep something now.
    pub(crate) fn trouble(&self, keeper: Keeper) -> Option<&str> {
        self.trouble.iter().find(|((of, _), _)| *of == keeper).map(|(_, why)| why.as_str())
    }

    /// Whether what follows from so many records may bind this node: as many keepers have them as there have to
    /// be, or, where none has to, each that there is has them or can't take them; and none may know more (S9).
    fn is_enough(&self, instance: InstanceId, counter: u32, keepers: &ByFactory, least: usize) -> bool {
        let of = keepers.get(&instance);
        if of.is_some_and(|of| of.pending) {
            return false;
        }
        let have = self.keepers(instance, counter);
        if least > 0 {
            return have.len() >= least;
        }
        let fails = |keeper: &Keeper| {
            [None, Some(instance)].into_iter().any(|of| self.trouble.contains_key(&(*keeper, of)))
        };
        let mut keepers = of.into_iter().flat_map(|of| &of.now);
        keepers.all(|keeper| have.contains(keeper) || fails(keeper))
    }

    /// Holds back what binds this node as long as there aren't enough copies; the rest, and the factories of
    /// which a copy is needed for what waits.
    pub(crate) fn hold_back(
        &mut self,
        effects: Vec<Effect>,
        keepers: &ByFactory,
        least: usize,
    ) -> (Vec<Effect>, BTreeSet<InstanceId>) {
        let (mut free, mut needed) = (Vec::with_capacity(effects.len()), BTreeSet::new());
        for effect in effects {
            match binding(&effect) {
                Some((instance, binding))
                    if !self.is_enough(instance, self.records(instance), keepers, least) =>
                {
                    let counter = self.records(instance);
                    self.held.insert((instance, binding), (counter, effect));
                    needed.insert(instance);
                }
                Some(_) | None => free.push(effect),
            }
        }
        (free, needed)
    }

    /// What needn't wait any more.
    pub(crate) fn release(&mut self, keepers: &ByFactory, least: usize) -> Vec<Effect> {
        let held = std::mem::take(&mut self.held);
        let mut free = vec![];
        for ((instance, binding), (counter, effect)) in held {
            if self.is_enough(instance, counter, keepers, least) {
                free.push(effect);
            } else {
                self.held.insert((instance, binding), (counter, effect));
            }
        }
        free
    }

    /// Factories in which something waits for copies.
    pub(crate) fn waiting(&self) -> BTreeSet<InstanceId> {
        self.held.keys().map(|(instance, _)| *instance).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Transaction;

    fn file(instance: InstanceId) -> ByFactory {
        BTreeMap::from([(instance, KeepersOf { now: vec![Keeper::File], pending: false })])
    }

    fn funds(instance: InstanceId) -> Effect {
        let tx = Transaction {
            version: bitcoin::transaction::Version::TWO,
            lock_time: bitcoin::absolute::LockTime::ZERO,
            input: vec![],
            output: vec![],
        };
        Effect::SendFunding { instance, tx, prevouts: vec![], witnesses: vec![] }
    }

    /// A file that takes copies again, and has none to take, is in no trouble any more.
    #[test]
    fn a_keeper_of_nothing_is_in_no_trouble() {
        let mut keeping = Keeping::default();
        keeping.apply(VolatileKeeping::Trouble(Keeper::File, None, "full".to_owned()));
        keeping.apply(VolatileKeeping::Kept(Keeper::File, vec![]));
        assert_eq!(keeping.trouble(Keeper::File), None);
    }

    /// S39: what waits goes once a copy has what it follows from, however much was stored since; again and again is
    /// once.
    #[test]
    fn what_waits_needs_what_it_follows_from() {
        let instance = InstanceId([1; 32]);
        let (mut keeping, keepers) = (Keeping::default(), file(instance));
        keeping.add_records(instance, 3);
        for _ in 0..2 {
            let (free, needed) = keeping.hold_back(vec![funds(instance)], &keepers, 1);
            assert!(free.is_empty() && needed.contains(&instance));
        }
        keeping.add_records(instance, 4);
        keeping.apply(VolatileKeeping::Kept(Keeper::File, vec![(instance, 2)]));
        assert!(keeping.release(&keepers, 1).is_empty());
        keeping.apply(VolatileKeeping::Kept(Keeper::File, vec![(instance, 3)]));
        assert_eq!(keeping.release(&keepers, 1).len(), 1);
        assert!(keeping.waiting().is_empty());
        // What binds now follows from more.
        assert!(keeping.hold_back(vec![funds(instance)], &keepers, 1).0.is_empty());
        // A keeper that fails keeps nobody waiting, unless one has to have a copy.
        keeping.apply(VolatileKeeping::Trouble(Keeper::File, None, "full".to_owned()));
        assert!(keeping.release(&keepers, 1).is_empty());
        assert_eq!(keeping.release(&keepers, 0).len(), 1);
    }
}
