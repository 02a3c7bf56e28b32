//! This node's copies, with its peers: what they have is compared at each connection, so that a node with older
//! records than they finds that out before it signs anything (S9); each new copy goes to all of them.

use std::collections::BTreeMap;

use crate::engine::Engine;
use crate::io::{Compared, Effect, Keeper, Level};
use crate::memory::keepers::{PATIENCE, Sent, Tag, VolatileKeepers};
use crate::memory::keeping::VolatileKeeping;
use crate::memory::{Volatile, keepers};
use crate::record::copy::{Copy, CopyError, MOST_BYTES, SealedCopy, Version, statics_name};
use crate::record::event::Restored;
use crate::record::factory::Factory;
use crate::step::builder::StepBuilder;
use crate::step::fault::Fault;
use crate::types::{InstanceId, NodeId};
use crate::wire::message::{AskCopies, AskCopy, Copies, CopyBack, ForgetCopy, Keep, Kept};

use super::compare::outdated;
use super::serve::MOST_COPIES;

/// Most that the time for an answer is doubled.
const MOST_DOUBLINGS: u32 = 6;
/// How much longer than [`PATIENCE`] a keeper may take to give a copy back.
const LARGE: u64 = 3;
/// What becomes of a copy of another course of things.
const DIFFER: &str = "they differ, and both are kept as they are";

/// What a tag of this node's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Named {
    Records(InstanceId),
    Statics(InstanceId),
    /// A factory that is over.
    Over,
}

impl Engine {
    /// Whoever may be a keeper is asked. An operator doesn't ask its clients: its copies are a thousand times as
    /// large as theirs.
    pub(crate) fn keepers_peer_up(&self, step: &mut StepBuilder<'_>, peer: NodeId) {
        let may_keep = self.config.keepers.contains(&peer)
            || self.factories.values().any(|factory| factory.lsp() == peer)
            || !self.is_our_client(peer);
        if self.config.peer_backup && may_keep {
            step.volatile(keepers(VolatileKeepers::Asked(peer, step.now.saturating_add(PATIENCE))));
            step.send(peer, AskCopies { most: u32::try_from(MOST_COPIES).unwrap_or(u32::MAX) });
        }
    }

    /// Copies that peers have given back, and who had them: of factories that this node knows nothing of, and static channel
    /// backups of those whose channels it has lost.
    pub fn found_copies(&self) -> Vec<(NodeId, Copy)> {
        self.keeping.keepers.found().cloned().collect()
    }

    fn names(&self) -> BTreeMap<Tag, Named> {
        let key = &self.copy_key;
        let of = |instance: InstanceId, records: Named, statics: Named| {
            [(key.tag(instance), records), (key.tag(statics_name(instance)), statics)]
        };
        let over = self.archived.keys().flat_map(|instance| of(*instance, Named::Over, Named::Over));
        let known = self.factories.keys().chain(self.unreadable.keys());
        let known =
            known.flat_map(|instance| of(*instance, Named::Records(*instance), Named::Statics(*instance)));
        over.chain(known).collect()
    }

    /// A peer says what it keeps.
    pub(crate) fn on_copies(
        &self,
        step: &mut StepBuilder<'_>,
        peer: NodeId,
        copies: Copies,
    ) -> Result<(), Fault> {
        if !self.keeping.keepers.is_asked(peer) {
            return Err(Fault::stale("nobody has asked"));
        }
        if copies.list.len() > MOST_COPIES {
            return Err(Fault::peer(format!("it lists more than {MOST_COPIES} copies")));
        }
        let list: BTreeMap<Tag, Version> = copies.list.into_iter().collect();
        let names = self.names();
        for tag in list.keys() {
            match names.get(tag) {
                Some(Named::Over) => step.send(peer, ForgetCopy { tag: *tag }),
                // It may have those of more channels than whoever had them before.
                Some(Named::Statics(instance)) if self.has_lost_channels(*instance) => {
                    self.ask_back(step, peer, *tag);
                }
                Some(Named::Statics(_) | Named::Records(_)) => {}
                // This node was lost, or somebody lies.
                None => self.ask_back(step, peer, *tag),
            }
        }
        for instance in self.factories.keys().copied() {
            let is_keeper = self.is_keeper(instance, peer);
            // A node that begins anew needn't know yet whom the one before had named.
            let may_know = is_keeper || self.is_restored(instance);
            if may_know && list.contains_key(&self.copy_key.tag(instance)) {
                let until = step.now.saturating_add(PATIENCE);
                step.volatile(keepers(VolatileKeepers::Check(Keeper::Peer(peer), instance, Some(until))));
                step.effect(Effect::Copy { instance, urgent: true, peers: true });
            } else if is_keeper && self.is_worth_keeping(instance) {
                step.effect(Effect::Copy { instance, urgent: false, peers: true });
            }
        }
        step.volatile(keepers(VolatileKeepers::Listed(peer, list)));
        Ok(())
    }

    fn has_lost_channels(&self, instance: InstanceId) -> bool {
        self.factories.get(&instance).is_some_and(Factory::has_lost_channels)
    }

    fn is_restored(&self, instance: InstanceId) -> bool {
        self.factories.get(&instance).is_some_and(|factory| factory.restored().is_some())
    }

    fn ask_back(&self, step: &mut StepBuilder<'_>, peer: NodeId, tag: Tag) {
        step.volatile(keepers(VolatileKeepers::AskedBack(peer, tag)));
        step.send(peer, AskCopy { tag });
    }

    /// The records of a factory as they are stored now: they are compared with what peers have, and go to those that
    /// lack some.
    pub(crate) fn on_copied(&self, step: &mut StepBuilder<'_>, instance: InstanceId, copies: &[Copy]) {
        let mut ready = vec![];
        for peer in self.keeping.keepers.ready() {
            let is_keeper = self.is_keeper(instance, peer);
            let checks = self.keeping.keepers.checks(Keeper::Peer(peer), instance);
            if !is_keeper && !checks {
                continue;
            }
            let records = copies.iter().find(|copy| copy.instance == instance);
            let known = !checks || records.is_some_and(|copy| self.compare(step, peer, copy));
            if known && is_keeper && !self.keeping.keepers.has_other(peer, instance) {
                ready.push(peer);
            }
        }
        for copy in copies {
            self.hand_out(step, instance, copy, &ready);
        }
    }

    /// Whether a peer's copy is known to be of these records, or of the first of them. If not it is asked for.
    fn compare(&self, step: &mut StepBuilder<'_>, peer: NodeId, copy: &Copy) -> bool {
        let (instance, tag) = (copy.instance, self.copy_key.tag(copy.instance));
        let keeper = Keeper::Peer(peer);
        if self.keeping.keepers.has_asked_back(peer, tag) || self.keeping.keepers.has_shown(keeper, instance)
        {
            return false;
        }
        let Some((counter, nonce)) = self.keeping.keepers.version(peer, tag) else { return false };
        let first = usize::try_from(counter).ok().and_then(|count| copy.records.get(..count));
        let same = first.and_then(|first| self.copy_key.nonce_of(instance, first)) == Some(nonce);
        if same {
            step.volatile(keepers(VolatileKeepers::Checked(keeper, instance)));
            self.on_kept(step, keeper, vec![(instance, counter)]);
            return true;
        }
        if self.keeping.keepers.is_liar(peer) {
            step.volatile(keepers(VolatileKeepers::Other(peer, instance)));
            return false;
        }
        // S9: nobody's word, before it has shown them. A node that was restored may have been from less than that.
        step.log(
            if self.is_restored(instance) { Level::Info } else { Level::Unusual },
            format!(
                "{instance}: peer {peer} says that it keeps {counter} records of it that aren't this node's {}: nothing \
                 is signed before it has shown them",
                copy.records.len()
            ),
        );
        let until = step.now.saturating_add(PATIENCE.saturating_mul(LARGE));
        step.volatile(keepers(VolatileKeepers::Check(keeper, instance, Some(until))));
        self.ask_back(step, peer, tag);
        false
    }

    fn hand_out(&self, step: &mut StepBuilder<'_>, instance: InstanceId, copy: &Copy, peers: &[NodeId]) {
        let tag = self.copy_key.tag(copy.instance);
        let Ok(counter) = u32::try_from(copy.records.len()) else { return };
        let waits = self.keeping.waiting().contains(&instance);
        let lacks = |peer: &&NodeId| {
            let has = self.keeping.keepers.version(**peer, tag).is_some_and(|(has, _)| has >= counter);
            match self.keeping.keepers.sent(**peer, tag) {
                None => !has,
                // S28: one at a time; its answer brings the next.
                Some(Sent { deadline: Some(_), .. }) => false,
                Some(sent) => !has && (waits || sent.version.0 < counter),
            }
        };
        let lacking: Vec<NodeId> = peers.iter().filter(lacks).copied().collect();
        if lacking.is_empty() {
            return;
        }
        let bytes = copy.records.iter().map(Vec::len).fold(0, usize::saturating_add);
        let sealed = (bytes <= MOST_BYTES).then(|| self.copy_key.seal(copy)).flatten();
        let sealed = sealed.filter(|copy| copy.sealed.len() <= MOST_BYTES);
        let Some((sealed, nonce)) = sealed.and_then(|copy| Some((copy.sealed.clone(), copy.nonce()?))) else {
            for peer in lacking {
                let why = "its records are more than a peer takes: the backup file takes them".to_owned();
                self.on_not_kept(step, Keeper::Peer(peer), Some(instance), why);
            }
            return;
        };
        for peer in lacking {
            step.send(peer, Keep { tag, counter, sealed: sealed.clone() });
            let late = self.keeping.keepers.sent(peer, tag);
            let tries = late.map_or(0, |sent| sent.tries.saturating_add(1));
            let patience = PATIENCE.saturating_mul(1 << tries.min(MOST_DOUBLINGS));
            let deadline = Some(step.now.saturating_add(patience));
            let records_of = Some(instance).filter(|instance| *instance == copy.instance);
            let sent = Sent { version: (counter, nonce), records_of, tries, deadline };
            step.volatile(keepers(VolatileKeepers::Sends(peer, tag, sent)));
        }
    }

    /// A peer has a copy on its disk, or doesn't take it.
    pub(crate) fn on_peer_kept(
        &self,
        step: &mut StepBuilder<'_>,
        peer: NodeId,
        kept: &Kept,
    ) -> Result<(), Fault> {
        let sent = self.keeping.keepers.sent(peer, kept.tag);
        let sent = sent.ok_or_else(|| Fault::stale("it was sent no such copy"))?;
        if kept.counter != sent.version.0 {
            return Err(Fault::stale("it was sent another one since"));
        }
        let instance = sent.records_of.filter(|instance| self.factories.contains_key(instance));
        step.volatile(keepers(VolatileKeepers::Answered(peer, kept.tag)));
        if let Some(why) = &kept.refused {
            if instance.is_some() {
                self.on_not_kept(step, Keeper::Peer(peer), instance, why.to_string());
            }
            return Ok(());
        }
        step.volatile(keepers(VolatileKeepers::Keeps(peer, kept.tag, sent.version)));
        let Some(instance) = instance else { return Ok(()) };
        self.on_kept(step, Keeper::Peer(peer), vec![(instance, kept.counter)]);
        if kept.counter < self.keeping.records(instance) {
            let urgent = self.keeping.waiting().contains(&instance);
            step.effect(Effect::Copy { instance, urgent, peers: true });
        }
        Ok(())
    }

    /// A peer gives back what it kept.
    pub(crate) fn on_copy_back(
        &self,
        step: &mut StepBuilder<'_>,
        peer: NodeId,
        back: CopyBack,
    ) -> Result<(), Fault> {
        let CopyBack { tag, counter, sealed } = back;
        if !self.keeping.keepers.has_asked_back(peer, tag) {
            return Err(Fault::stale("nobody has asked for it"));
        }
        step.volatile(keepers(VolatileKeepers::GaveBack(peer, tag)));
        let named = self.names().get(&tag).copied();
        match (self.copy_key.open(&SealedCopy { tag, counter, sealed }), named) {
            (Ok(copy), Some(Named::Records(_))) => self.has_shown(step, Keeper::Peer(peer), copy),
            (Ok(copy), Some(Named::Statics(instance))) if self.has_lost_channels(instance) => {
                step.volatile(keepers(VolatileKeepers::Found(peer, copy)));
            }
            (Ok(_), Some(Named::Statics(_) | Named::Over)) => {}
            (Ok(copy), None) => {
                step.log(
                    Level::Info,
                    format!(
                        "peer {peer} keeps {counter} records of {}, of which this node knows nothing: factory-restore \
                         brings them back",
                        copy.instance
                    ),
                );
                step.volatile(keepers(VolatileKeepers::Found(peer, copy)));
            }
            (Err(why), named) => self.lied(step, peer, named, why),
        }
        Ok(())
    }

    /// A keeper has a copy that isn't of the records that are stored, nor of the first of them: it was found
    /// after the start. What is damaged signs nothing (S33), and its copy may be what mends it.
    pub(crate) fn on_keeper_has(&self, step: &mut StepBuilder<'_>, keeper: Keeper, copy: Copy) {
        if self.factories.get(&copy.instance).is_some_and(|factory| factory.damage().is_none()) {
            self.has_shown(step, keeper, copy);
        }
    }

    /// S9: this node has sealed it. Nothing is signed there before it is known what it has, and that is stored, however
    /// long that takes.
    fn has_shown(&self, step: &mut StepBuilder<'_>, keeper: Keeper, copy: Copy) {
        step.volatile(keepers(VolatileKeepers::Check(keeper, copy.instance, None)));
        step.effect(Effect::BringBack { keeper, copy });
    }

    /// Whether a keeper's copy is here, and it isn't known yet what it has beside what is stored.
    pub fn is_compared(&self, keeper: Keeper, instance: InstanceId) -> bool {
        self.keeping.keepers.has_shown(keeper, instance)
    }

    /// S9, S40: whoever says that it has other records, and has none, has said nothing, and is heard no more.
    fn lied(&self, step: &mut StepBuilder<'_>, peer: NodeId, named: Option<Named>, why: CopyError) {
        let instance = match named {
            Some(Named::Records(instance)) => Some(instance),
            Some(Named::Statics(_) | Named::Over) | None => None,
        };
        if let Some(instance) = instance {
            step.volatile(keepers(VolatileKeepers::Other(peer, instance)));
        }
        step.volatile(keepers(VolatileKeepers::Lied(peer)));
        let why = format!("it gave back no copy of this node's: {why}");
        self.on_not_kept(step, Keeper::Peer(peer), instance, why);
    }

    /// A copy that this node has sealed was compared with its records.
    pub(crate) fn on_brought_back(
        &self,
        step: &mut StepBuilder<'_>,
        (keeper, instance): (Keeper, InstanceId),
        had: u32,
        copied: u32,
        compared: Compared,
    ) {
        step.volatile(keepers(VolatileKeepers::Checked(keeper, instance)));
        let how = match (compared, keeper) {
            // It had said something else of it.
            (Compared::Older, _) => return self.on_kept(step, keeper, vec![(instance, copied)]),
            (Compared::Within, _) => {
                // It lacks what was stored since.
                step.effect(Effect::Copy { instance, urgent: false, peers: true });
                return;
            }
            (Compared::Newer, _) => {
                step.volatile(keepers(VolatileKeepers::BroughtBack(keeper, instance)));
                // The others lack it, too.
                step.effect(Effect::Copy { instance, urgent: false, peers: true });
                "those that were missing are back; restart lightningd, so that the chain is read again for them"
            }
            (Compared::Other, Keeper::Peer(peer)) => {
                step.volatile(keepers(VolatileKeepers::Other(peer, instance)));
                DIFFER
            }
            (Compared::Other, Keeper::File) => {
                let why = format!("its copy of factory {instance} has other records, and stays as it is");
                step.volatile(Volatile::Keeping(VolatileKeeping::Trouble(keeper, Some(instance), why)));
                DIFFER
            }
        };
        // It follows from what wasn't known.
        step.volatile(Volatile::Keeping(VolatileKeeping::DropHeld(instance)));
        step.log(
            Level::Unusual,
            format!(
                "{instance}: this node had {had} records of it, and {keeper} has {copied}: {how}. It was restored from \
                 an older backup, and the factory is exit-only from now on"
            ),
        );
        if self.factories.get(&instance).is_some_and(|factory| factory.restored().is_none()) {
            step.event(instance, Restored { reason: outdated(had, copied, keeper) });
        }
    }

    /// Whoever has taken too long keeps nobody waiting.
    pub(crate) fn keepers_tick(&self, step: &mut StepBuilder<'_>) {
        for peer in self.keeping.keepers.late_lists(step.now) {
            step.volatile(keepers(VolatileKeepers::Unlisted(peer)));
        }
        for (peer, instance) in self.keeping.keepers.late_checks(step.now) {
            step.volatile(keepers(VolatileKeepers::Other(peer, instance)));
            let why = "it didn't show in time what it keeps".to_owned();
            self.on_not_kept(step, Keeper::Peer(peer), Some(instance), why);
        }
        for (peer, tag, sent) in self.keeping.keepers.late_answers(step.now) {
            step.volatile(keepers(VolatileKeepers::Sends(peer, tag, Sent { deadline: None, ..sent })));
            let Some(instance) = sent.records_of else { continue };
            let why = "it hasn't said in time that it has stored a copy".to_owned();
            self.on_not_kept(step, Keeper::Peer(peer), Some(instance), why);
            if self.keeping.waiting().contains(&instance) {
                step.effect(Effect::Copy { instance, urgent: true, peers: true });
            }
        }
    }
}
