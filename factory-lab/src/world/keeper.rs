//! Copies elsewhere (S39): a keeper for each member, and a machine that is lost.

use std::collections::BTreeMap;

use factory_engine::backup::{Comparison, Copy, SealedCopy, admit, compare};
use factory_engine::io::{Compared, Keeper, ShelfAnswer, ShelfRequest};
use factory_engine::record::event::{Event, Recovered};
use factory_engine::record::{decode_record, encode_record};
use factory_engine::types::{InstanceId, NodeId};
use factory_engine::{Engine, Folded, Input};

use crate::store::Store;
use crate::{LabError, error};

use super::{LSP, Member, World};

/// How a keeper lies about what it keeps for others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShelfLie {
    /// It says that it has more records than it has.
    Newer,
    /// It keeps what it was given first, and says that it takes the rest.
    Older,
    /// It keeps nothing, and says that it does.
    Forgets,
}

impl World {
    /// `Effect::Copy`: the backup file takes a copy of what is stored, or can't; peers are given theirs by the engine.
    /// For `peers` at once where that is urgent, otherwise with whatever else is stored within a second.
    pub(super) fn copy(&mut self, at: usize, instance: InstanceId, peers: Option<bool>) {
        match peers {
            Some(true) => self.copy_for(at, instance),
            Some(false) => drop(self.members[at].copies_due.insert(instance)),
            None => {}
        }
        let records = self.members[at].store.records(instance).to_vec();
        let member = &mut self.members[at];
        if !member.config.backup_file {
            return;
        }
        if member.keeper_broken {
            let reason = "the disk is full".to_owned();
            self.answer(at, Input::NotKept { keeper: Keeper::File, reason, lost: false });
            return;
        }
        let counter = u32::try_from(records.len()).unwrap_or(u32::MAX);
        member.copies.insert(instance, records);
        self.answer(at, Input::Kept { keeper: Keeper::File, list: vec![(instance, counter)] });
    }

    fn copy_for(&mut self, at: usize, instance: InstanceId) {
        self.members[at].copies_due.remove(&instance);
        let copies = vec![Copy { instance, records: self.members[at].store.records(instance).to_vec() }];
        self.answer(at, Input::Copied { instance, copies });
    }

    /// Time has gone by: what was collected for peers is theirs.
    pub(super) fn copy_for_peers(&mut self) {
        for at in 0..self.members.len() {
            for instance in std::mem::take(&mut self.members[at].copies_due) {
                if self.members[at].engine.is_some() {
                    self.copy_for(at, instance);
                }
            }
        }
    }

    /// `Effect::Shelf`, honestly or not.
    pub(super) fn serve_shelf(&mut self, at: usize, peer: NodeId, request: ShelfRequest) {
        let member = &mut self.members[at];
        let shelf = member.shelves.entry(peer).or_default();
        let answer = match request {
            ShelfRequest::Put(copy) => {
                let there: Vec<_> =
                    shelf.values().map(|copy| (copy.tag, copy.counter, copy.sealed.len())).collect();
                let (tag, counter, result) = (copy.tag, copy.counter, admit(&there, &copy));
                let forgets = member.shelf_lie == Some(ShelfLie::Forgets);
                let frozen = member.shelf_lie == Some(ShelfLie::Older) && shelf.contains_key(&tag);
                if result.is_ok() && !forgets && !frozen {
                    shelf.insert(tag, copy);
                }
                ShelfAnswer::Put { tag, counter, result }
            }
            ShelfRequest::List => {
                let more = if member.shelf_lie == Some(ShelfLie::Newer) { 1_000 } else { 0 };
                let one =
                    |copy: &SealedCopy| Some((copy.tag, (copy.counter.saturating_add(more), copy.nonce()?)));
                ShelfAnswer::List(shelf.values().filter_map(one).collect())
            }
            ShelfRequest::Get(tag) => {
                let copy = shelf.get(&tag).cloned().map(|copy| match member.shelf_lie {
                    Some(ShelfLie::Newer) => {
                        SealedCopy { counter: copy.counter.saturating_add(1_000), ..copy }
                    }
                    _ => copy,
                });
                ShelfAnswer::Got(tag, copy)
            }
            ShelfRequest::Forget(tag) => {
                shelf.remove(&tag);
                return;
            }
        };
        self.answer(at, Input::Shelf { peer, answer });
    }

    /// `Effect::BringBack`, as the runtime does it.
    pub(super) fn bring_back(&mut self, at: usize, keeper: Keeper, copy: Copy) -> Result<(), LabError> {
        if let Some(late) = &mut self.members[at].late {
            late.push((keeper, copy));
            return Ok(());
        }
        let instance = copy.instance;
        let stored = self.members[at].store.records(instance).to_vec();
        let compared = match compare(&copy.records, &stored, keeper) {
            Comparison::Older => Compared::Older,
            Comparison::Within => Compared::Within,
            Comparison::Other => Compared::Other,
            Comparison::Newer(missing) | Comparison::Later(missing) => {
                let member = &mut self.members[at];
                let Some(engine) = &mut member.engine else { return Ok(()) };
                let events = missing.iter().map(|record| decode_record(record));
                let events = events.collect::<Result<Vec<_>, _>>().map_err(error)?;
                let before = engine.factory(instance).cloned();
                match Folded::new(instance, before, events) {
                    Ok(folded) => {
                        engine.bring_back(folded);
                        member.store.records_mut(instance).extend(missing);
                        member.shadow = None;
                        Compared::Newer
                    }
                    Err(_) => Compared::Other,
                }
            }
        };
        let number = |records: &[Vec<u8>]| u32::try_from(records.len()).unwrap_or(u32::MAX);
        let (had, copied) = (number(&stored), number(&copy.records));
        self.feed(at, Input::BroughtBack { keeper, instance, had, copied, compared })?;
        if compared == Compared::Newer {
            // Whoever reads the log starts it again, and then the chain is read again.
            self.stop(at);
            self.members[at].view.clear();
        }
        Ok(())
    }

    /// From now on a member's store takes nothing that a copy has beside it.
    pub fn break_bringing_back(&mut self, at: usize) {
        self.members[at].late.get_or_insert_default();
    }

    /// It takes it again, first what it couldn't.
    ///
    /// # Errors
    /// When a property is violated.
    pub fn mend_bringing_back(&mut self, at: usize) -> Result<(), LabError> {
        let late = self.members[at].late.take().unwrap_or_default();
        late.into_iter().try_for_each(|(keeper, copy)| self.bring_back(at, keeper, copy))
    }

    /// Whether a client waits for copies (`factory-min-keepers`) of an operator that lies about them, for as long as it
    /// does; or of one that it has asked in vain, until the next connection.
    pub(crate) fn has_starved_of_copies(&self) -> bool {
        let waits = |member: &Member| member.config.min_keepers > 0 && !member.config.backup_file;
        let has_none = |member: &Member| {
            let keepers = member.engine.as_ref().map(|engine| engine.keeping_peers().count());
            keepers == Some(0)
        };
        let lies = self.members[LSP].shelf_lie.is_some();
        let starves = |(at, member)| waits(member) && (lies || at != LSP && has_none(member));
        self.members.iter().enumerate().any(starves)
    }

    /// As the plugin's keeper does at a start, and once it can write again: of everything.
    pub(super) fn copy_all(&mut self, at: usize) {
        let member = &self.members[at];
        let Some(engine) = member.engine.as_ref().filter(|_| member.config.backup_file) else { return };
        for instance in engine.worth_keeping() {
            self.copy(at, instance, None);
        }
    }

    /// From now on a member's keeper takes no copy.
    pub fn break_keeper(&mut self, at: usize) {
        self.members[at].keeper_broken = true;
    }

    /// From now on it takes copies, those that it could not take first.
    pub fn mend_keeper(&mut self, at: usize) {
        self.members[at].keeper_broken = false;
        self.copy_all(at);
    }

    /// A member's machine burns: what is left is its seed, and what its keeper has. On a new one it restores that
    /// (`factory-restore`), and starts; its lightningd has no channel any more. If it `asks`, as lightningd does after
    /// `emergencyrecover`, its peers close theirs with it.
    ///
    /// # Errors
    /// When a property is violated.
    pub fn lose_machine(&mut self, at: usize, asks: bool) -> Result<(), LabError> {
        self.burn(at);
        let copies = self.members[at].copies.clone();
        self.restore_copies(at, copies, asks)
    }

    /// A member's machine burns, and there is no file: it starts with nothing but its seed.
    ///
    /// # Errors
    /// When a property is violated.
    pub fn lose_all(&mut self, at: usize) -> Result<(), LabError> {
        self.burn(at);
        self.start(at)
    }

    /// `factory-restore` of what peers have given back, and a restart. How many factories.
    ///
    /// # Errors
    /// When a property is violated.
    pub fn restore_from_peers(&mut self, at: usize, asks: bool) -> Result<usize, LabError> {
        let found = self.members[at].engine.as_ref().map(Engine::found_copies).unwrap_or_default();
        let copies: BTreeMap<_, _> =
            found.into_iter().map(|(_, copy)| (copy.instance, copy.records)).collect();
        let count = copies.len();
        self.stop(at);
        self.restore_copies(at, copies, asks)?;
        Ok(count)
    }

    fn burn(&mut self, at: usize) {
        self.stop(at);
        let member = &mut self.members[at];
        member.store = Store::default();
        member.view.clear();
        let channels = std::mem::take(&mut member.lightningd.channels);
        member.burnt.extend(channels.into_iter().map(|(channel_id, channel)| (channel_id, channel.peer)));
        member.lightningd.ordinary.clear();
        member.lightningd.invoices.clear();
        member.lightningd.payments.clear();
        member.lightningd.reserved.clear();
        member.shelves.clear();
        member.copies_due.clear();
        member.appointments.clear();
        member.penalties.clear();
        member.receipts.clear();
        member.unsettled = None;
        member.shadow = None;
        member.restored = true;
        self.judge.restored(at);
    }

    fn restore_copies(
        &mut self,
        at: usize,
        copies: BTreeMap<InstanceId, Vec<Vec<u8>>>,
        asks: bool,
    ) -> Result<(), LabError> {
        let id = self.members[at].id;
        let member = &mut self.members[at];
        let recovered =
            encode_record(&[Event::Recovered(Recovered { reason: "the machine is lost".to_owned() })]);
        for (instance, records) in copies {
            let stored = member.store.records_mut(instance);
            if stored.is_empty() {
                stored.extend(records.into_iter().chain([recovered.clone()]));
            }
        }
        member.view.clear();
        member.shadow = None;
        let burnt = std::mem::take(&mut member.burnt);
        self.start(at)?;
        for (channel_id, peer) in burnt.into_iter().filter(|_| asks) {
            self.peer_closes(id, peer, channel_id);
        }
        Ok(())
    }
}
