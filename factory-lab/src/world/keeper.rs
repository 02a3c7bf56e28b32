//! Copies elsewhere (S39): a keeper for each member, and a machine that is lost.

use factory_engine::Input;
use factory_engine::io::Keeper;
use factory_engine::record::encode_record;
use factory_engine::record::event::{Event, Recovered};
use factory_engine::types::InstanceId;

use crate::LabError;
use crate::store::Store;

use super::World;

impl World {
    /// `Effect::Copy`: the keeper takes a copy of what is stored, or can't.
    pub(super) fn copy(&mut self, at: usize, instance: InstanceId) {
        let member = &mut self.members[at];
        if member.keeper_broken {
            let reason = "the disk is full".to_owned();
            self.answer(at, Input::NotKept { keeper: Keeper::File, reason });
            return;
        }
        let records = member.store.records(instance).to_vec();
        let counter = u32::try_from(records.len()).unwrap_or(u32::MAX);
        member.copies.insert(instance, records);
        self.answer(at, Input::Kept { keeper: Keeper::File, list: vec![(instance, counter)] });
    }

    /// As the plugin's keeper does at a start, and once it can write again: of everything.
    pub(super) fn copy_all(&mut self, at: usize) {
        let member = &self.members[at];
        let Some(engine) = member.engine.as_ref().filter(|_| member.config.backup_file) else { return };
        for instance in engine.worth_keeping() {
            self.copy(at, instance);
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
        self.stop(at);
        let id = self.members[at].id;
        let member = &mut self.members[at];
        member.store = Store::default();
        let recovered =
            encode_record(&[Event::Recovered(Recovered { reason: "the machine is lost".to_owned() })]);
        for (instance, records) in &member.copies {
            let stored = member.store.records_mut(*instance);
            stored.extend(records.iter().cloned().chain([recovered.clone()]));
        }
        member.view.clear();
        let channels = std::mem::take(&mut member.lightningd.channels);
        member.lightningd.ordinary.clear();
        member.lightningd.invoices.clear();
        member.lightningd.payments.clear();
        member.lightningd.reserved.clear();
        member.restored = true;
        self.judge.restored(at);
        self.start(at)?;
        for (channel_id, channel) in channels.into_iter().filter(|_| asks) {
            self.peer_closes(id, channel.peer, channel_id);
        }
        Ok(())
    }
}
