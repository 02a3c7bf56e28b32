//! Peers that keep copies for this node, and those for which it keeps some. A connection's end takes what was said
//! in it.

use std::collections::{BTreeMap, BTreeSet};

use crate::io::Keeper;
use crate::record::copy::{Copy, Version};
use crate::types::{InstanceId, Millis, NodeId};

use super::work::Work;

/// Names a copy, to its owner alone.
pub(crate) type Tag = [u8; 32];

/// How long a keeper may take to say what it has, to give a copy back, and to store one.
pub(crate) const PATIENCE: Millis = 10_000;
/// What each request about a shelf costs at least, bytes.
const LEAST_WORK: usize = 50_000;
/// Requests to sign that wait until it is known whether this node's records are the newest, of one peer.
const MOST_DEFERRED: usize = 4;

/// What a keeper was sent and hasn't answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sent {
    /// Which copy.
    pub(crate) version: Version,
    /// The factory whose records it has; nothing of static channel backups.
    pub(crate) records_of: Option<InstanceId>,
    /// How often it was sent.
    pub(crate) tries: u32,
    /// Until when it may take; nothing once it has taken longer.
    pub(crate) deadline: Option<Millis>,
}

#[derive(Debug, Default)]
pub(crate) struct Keepers {
    /// Peers that were asked what they keep, until they say so, or for so long.
    asked: BTreeMap<NodeId, Millis>,
    /// What they have said, and has changed since. These are keepers.
    listed: BTreeMap<NodeId, BTreeMap<Tag, Version>>,
    /// Factories of which a keeper's copy is compared with what is stored, or given back for that, and for how long
    /// (S9): without end once one that this node has sealed is here.
    checks: BTreeMap<(Keeper, InstanceId), Option<Millis>>,
    /// Factories of which a keeper has other records than are stored: its copy isn't replaced.
    others: BTreeSet<(NodeId, InstanceId)>,
    /// Copies that a keeper was asked to give back.
    asks: BTreeSet<(NodeId, Tag)>,
    /// Copies that it was sent.
    sent: BTreeMap<(NodeId, Tag), Sent>,
    /// Who has claimed to have a newer copy and had none, since this node was started: it is heard no more.
    liars: BTreeSet<NodeId>,
    /// Messages that are read again once it is known what keepers have.
    deferred: BTreeMap<InstanceId, Vec<(NodeId, Vec<u8>)>>,
    /// Copies of factories that this node knows nothing of, and static channel backups of those whose channels it has lost;
    /// and who had them.
    found: BTreeMap<InstanceId, (NodeId, Copy)>,
    /// Factories whose missing records a keeper has brought back, since this node was started.
    brought_back: BTreeMap<InstanceId, Keeper>,
    /// Peers that have asked for what is on their shelf, and its tags.
    shelves: BTreeMap<NodeId, BTreeSet<Tag>>,
    /// Bytes that a peer has had moved since then.
    work: Work<LEAST_WORK>,
}

/// A change of [`Keepers`], made when the step is applied.
pub(crate) enum VolatileKeepers {
    /// A peer was asked what it keeps; until when it may take.
    Asked(NodeId, Millis),
    /// It took too long.
    Unlisted(NodeId),
    /// It keeps this.
    Listed(NodeId, BTreeMap<Tag, Version>),
    /// Its copy of a factory is being compared; until when, if that has an end.
    Check(Keeper, InstanceId, Option<Millis>),
    /// It was compared, or can't be.
    Checked(Keeper, InstanceId),
    /// It has other records.
    Other(NodeId, InstanceId),
    /// It was asked for a copy.
    AskedBack(NodeId, Tag),
    /// It has answered that.
    GaveBack(NodeId, Tag),
    /// It has shown no newer copy where it had claimed one.
    Lied(NodeId),
    /// It was sent a copy.
    Sends(NodeId, Tag, Sent),
    /// It has answered for the last one that it was sent.
    Answered(NodeId, Tag),
    /// It has this on its disk.
    Keeps(NodeId, Tag, Version),
    /// A message waits.
    Deferred(InstanceId, NodeId, Vec<u8>),
    /// It had this, which `factory-restore` takes.
    Found(NodeId, Copy),
    /// It had records that were missing here, and they are stored.
    BroughtBack(Keeper, InstanceId),
    /// A peer has asked for its shelf.
    Opens(NodeId),
    /// These are on it.
    Shelf(NodeId, BTreeSet<Tag>),
    /// This isn't any more.
    Forgets(NodeId, Tag),
    /// It has so many bytes moved, at this time.
    Works(NodeId, Millis, usize),
}

impl Keepers {
    pub(crate) fn apply(&mut self, change: VolatileKeepers) {
        match change {
            VolatileKeepers::Asked(peer, until) => {
                self.asked.insert(peer, until);
            }
            VolatileKeepers::Unlisted(peer) => {
                self.asked.remove(&peer);
            }
            VolatileKeepers::Listed(peer, list) => {
                self.asked.remove(&peer);
                self.listed.insert(peer, list);
            }
            VolatileKeepers::Check(keeper, instance, until) => {
                // What is here is compared, whatever is said on another connection.
                let known = self.checks.entry((keeper, instance)).or_insert(until);
                *known = known.and(until);
            }
            VolatileKeepers::Checked(keeper, instance) => {
                self.checks.remove(&(keeper, instance));
            }
            VolatileKeepers::Other(peer, instance) => {
                self.checks.remove(&(Keeper::Peer(peer), instance));
                // Whoever has gone meanwhile says on its next connection what it has.
                if self.listed.contains_key(&peer) {
                    self.others.insert((peer, instance));
                }
            }
            VolatileKeepers::AskedBack(peer, tag) => {
                self.asks.insert((peer, tag));
            }
            VolatileKeepers::GaveBack(peer, tag) => {
                self.asks.remove(&(peer, tag));
            }
            VolatileKeepers::Lied(peer) => {
                self.liars.insert(peer);
            }
            VolatileKeepers::Sends(peer, tag, sent) => {
                self.sent.insert((peer, tag), sent);
            }
            VolatileKeepers::Answered(peer, tag) => {
                self.sent.remove(&(peer, tag));
            }
            VolatileKeepers::Keeps(peer, tag, version) => {
                let has = self.listed.entry(peer).or_default().entry(tag).or_insert(version);
                if version.0 > has.0 {
                    *has = version;
                }
            }
            VolatileKeepers::Deferred(instance, peer, payload) => {
                let waiting = self.deferred.entry(instance).or_default();
                // S4: of a kind the last one counts: what was proposed before has been given up since, and whoever signs that
                // is blamed.
                waiting.retain(|(of, old)| *of != peer || old.get(..2) != payload.get(..2));
                waiting.push((peer, payload));
            }
            VolatileKeepers::Found(peer, copy) => {
                let known = self.found.get(&copy.instance).map_or(0, |(_, known)| known.records.len());
                if copy.records.len() > known {
                    self.found.insert(copy.instance, (peer, copy));
                }
            }
            VolatileKeepers::BroughtBack(keeper, instance) => {
                self.brought_back.insert(instance, keeper);
            }
            VolatileKeepers::Opens(peer) => {
                self.shelves.entry(peer).or_default();
            }
            VolatileKeepers::Shelf(peer, tags) => {
                // Whoever has gone meanwhile has no connection that would take them away.
                if let Some(shelf) = self.shelves.get_mut(&peer) {
                    shelf.extend(tags);
                }
            }
            VolatileKeepers::Forgets(peer, tag) => {
                if let Some(shelf) = self.shelves.get_mut(&peer) {
                    shelf.remove(&tag);
                }
            }
            VolatileKeepers::Works(peer, now, bytes) => self.work.add(peer, now, bytes),
        }
    }

    /// The connection's end.
    pub(crate) fn gone(&mut self, peer: NodeId) {
        self.asked.remove(&peer);
        self.listed.remove(&peer);
        self.shelves.remove(&peer);
        // S9: what it has shown is here.
        self.checks.retain(|(of, _), until| *of != Keeper::Peer(peer) || until.is_none());
        self.others.retain(|(of, _)| *of != peer);
        self.asks.retain(|(of, _)| *of != peer);
        self.sent.retain(|(of, _), _| *of != peer);
        self.deferred.values_mut().for_each(|waiting| waiting.retain(|(of, _)| *of != peer));
        self.deferred.retain(|_, waiting| !waiting.is_empty());
    }

    /// Peers that keep copies for this node.
    pub(crate) fn ready(&self) -> impl Iterator<Item = NodeId> {
        self.listed.keys().copied()
    }

    /// Whether no peer keeps anything, nor may, nor waits for what one does, and nothing of a keeper's is compared.
    pub(crate) fn is_idle(&self) -> bool {
        let idle = self.listed.is_empty() && self.asked.is_empty() && self.deferred.is_empty();
        idle && self.checks.is_empty()
    }

    /// Whether it was asked what it keeps, and hasn't said yet.
    pub(crate) fn is_asked(&self, peer: NodeId) -> bool {
        self.asked.contains_key(&peer)
    }

    /// What a keeper has with this tag.
    pub(crate) fn version(&self, peer: NodeId, tag: Tag) -> Option<Version> {
        self.listed.get(&peer)?.get(&tag).copied()
    }

    /// What it was sent last with this tag, and hasn't answered.
    pub(crate) fn sent(&self, peer: NodeId, tag: Tag) -> Option<Sent> {
        self.sent.get(&(peer, tag)).copied()
    }

    /// Whether its copy of a factory is being compared.
    pub(crate) fn checks(&self, keeper: Keeper, instance: InstanceId) -> bool {
        self.checks.contains_key(&(keeper, instance))
    }

    /// Whether that copy is here.
    pub(crate) fn has_shown(&self, keeper: Keeper, instance: InstanceId) -> bool {
        self.checks.get(&(keeper, instance)) == Some(&None)
    }

    /// Whether a keeper may have more of a factory, as it says or as it has shown.
    pub(crate) fn is_checked(&self, instance: InstanceId) -> bool {
        self.checks.keys().any(|(_, checked)| *checked == instance)
    }

    /// Whether it has other records of a factory than are stored.
    pub(crate) fn has_other(&self, peer: NodeId, instance: InstanceId) -> bool {
        self.others.contains(&(peer, instance))
    }

    pub(crate) fn has_asked_back(&self, peer: NodeId, tag: Tag) -> bool {
        self.asks.contains(&(peer, tag))
    }

    pub(crate) fn is_liar(&self, peer: NodeId) -> bool {
        self.liars.contains(&peer)
    }

    /// Whether it isn't known yet what one of these peers keeps of a factory (S9).
    pub(crate) fn is_pending(&self, instance: InstanceId, of: impl Fn(NodeId) -> bool) -> bool {
        self.asked.keys().any(|peer| of(*peer)) || self.is_checked(instance)
    }

    /// Whether one more message may wait.
    pub(crate) fn may_defer(&self, instance: InstanceId, peer: NodeId) -> bool {
        let waiting = self.deferred.get(&instance).into_iter().flatten();
        waiting.filter(|(of, _)| *of == peer).count() < MOST_DEFERRED
    }

    /// Factories of which messages wait.
    pub(crate) fn deferred(&self) -> impl Iterator<Item = InstanceId> {
        self.deferred.keys().copied()
    }

    /// Messages that waited.
    pub(crate) fn take_deferred(&mut self, instance: InstanceId) -> Vec<(NodeId, Vec<u8>)> {
        self.deferred.remove(&instance).unwrap_or_default()
    }

    /// Peers that haven't said in time what they keep.
    pub(crate) fn late_lists(&self, now: Millis) -> impl Iterator<Item = NodeId> {
        self.asked.iter().filter(move |(_, until)| **until <= now).map(|(peer, _)| *peer)
    }

    /// Copies that haven't been compared in time.
    pub(crate) fn late_checks(&self, now: Millis) -> impl Iterator<Item = (NodeId, InstanceId)> {
        let is_late = move |until: &Option<Millis>| until.is_some_and(|until| until <= now);
        self.checks.iter().filter(move |(_, until)| is_late(until)).filter_map(|((keeper, instance), _)| {
            match keeper {
                Keeper::Peer(peer) => Some((*peer, *instance)),
                Keeper::File => None,
            }
        })
    }

    /// Copies of which no answer has come in time.
    pub(crate) fn late_answers(&self, now: Millis) -> impl Iterator<Item = (NodeId, Tag, Sent)> {
        let is_late = move |sent: &Sent| sent.deadline.is_some_and(|until| until <= now);
        self.sent
            .iter()
            .filter(move |(_, sent)| is_late(sent))
            .map(|((peer, tag), sent)| (*peer, *tag, *sent))
    }

    /// When the next has taken too long.
    pub(crate) fn deadline(&self) -> Option<Millis> {
        let sent = self.sent.values().filter_map(|sent| sent.deadline);
        let checks = self.checks.values().copied().flatten();
        self.asked.values().copied().chain(checks).chain(sent).min()
    }

    /// Copies that `factory-restore` takes, and who had them.
    pub(crate) fn found(&self) -> impl Iterator<Item = &(NodeId, Copy)> {
        self.found.values()
    }

    /// Factories whose missing records a keeper has brought back, and which.
    pub(crate) fn brought_back(&self) -> impl Iterator<Item = (InstanceId, Keeper)> {
        self.brought_back.iter().map(|(instance, keeper)| (*instance, *keeper))
    }

    /// Whether a peer has asked what is on its shelf.
    pub(crate) fn has_asked(&self, peer: NodeId) -> bool {
        self.shelves.contains_key(&peer)
    }

    pub(crate) fn is_on_shelf(&self, peer: NodeId, tag: Tag) -> bool {
        self.shelves.get(&peer).is_some_and(|tags| tags.contains(&tag))
    }

    /// Whether so many bytes more are too many at once.
    pub(crate) fn works_too_much(&self, peer: NodeId, now: Millis, bytes: usize) -> bool {
        self.work.is_too_much(peer, now, bytes)
    }
}
