//! A node whose database comes back from an older copy (S9): lightningd's own tables and the plugin's
//! records are one database, so that both are as old.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use bitcoin::{BlockHash, OutPoint};
use factory_engine::backup::SealedCopy;
use factory_engine::io::Kept;
use factory_engine::memory::watching::Name;
use factory_engine::record::appointment::Appointment;
use factory_engine::record::decode_record;
use factory_engine::types::{ChannelId, Height, InstanceId, NodeId, PaymentHash};
use factory_engine::{Factory, KnownChannel, Remains};

use crate::LabError;
use crate::node::{Channel, IssuedInvoice};
use crate::rng::Rng;
use crate::store::Store;

use super::moves::sides;
use super::{Penalty, World};

/// A copy of one node's database.
#[derive(Debug, Clone)]
pub struct Backup {
    store: Store,
    view: Vec<(Height, BlockHash)>,
    unsettled: Option<Height>,
    channels: BTreeMap<ChannelId, Channel>,
    reserved: BTreeSet<OutPoint>,
    ordinary: Vec<KnownChannel>,
    invoices: BTreeMap<String, IssuedInvoice>,
    payments: BTreeMap<PaymentHash, bool>,
    shelves: BTreeMap<NodeId, BTreeMap<[u8; 32], SealedCopy>>,
    appointments: BTreeMap<Name, (Kept, Appointment)>,
    penalties: Vec<Penalty>,
    /// Wallet and channel keys follow from indices in the database: the same come again.
    rng: Rng,
}

impl World {
    /// Copies a node's database as it is now, to be put back later.
    pub fn backup(&self, at: usize) -> Backup {
        let member = &self.members[at];
        Backup {
            store: member.store.clone(),
            view: member.view.clone(),
            unsettled: member.unsettled,
            channels: member.lightningd.channels.clone(),
            reserved: member.lightningd.reserved.clone(),
            ordinary: member.lightningd.ordinary.clone(),
            invoices: member.lightningd.invoices.clone(),
            payments: member.lightningd.payments.clone(),
            shelves: member.shelves.clone(),
            appointments: member.appointments.clone(),
            penalties: member.penalties.clone(),
            rng: member.lightningd.rng.clone(),
        }
    }

    /// Stops a node, puts the older copy in the place of its database, and starts it again. From now on
    /// nothing is owed to it, but whatever it does must harm nobody else, and it must still not sign
    /// twice.
    ///
    /// # Errors
    /// When a property is violated.
    pub fn restore(&mut self, at: usize, older: Backup) -> Result<(), LabError> {
        self.stop(at);
        let id = self.members[at].id;
        let member = &mut self.members[at];
        let newer = std::mem::replace(&mut member.lightningd.channels, older.channels);
        member.store = older.store;
        member.view = older.view;
        member.unsettled = older.unsettled;
        member.lightningd.reserved = older.reserved;
        member.lightningd.ordinary = older.ordinary;
        member.lightningd.invoices = older.invoices;
        member.lightningd.payments = older.payments;
        member.shelves = older.shelves;
        member.appointments = older.appointments;
        member.penalties = older.penalties;
        member.lightningd.rng = older.rng;
        member.restored = true;
        // A copy that is older than the damage has none.
        member.damaged &= has_garbage(&member.store);
        self.judge.restored(at);
        for (channel_id, newer) in newer {
            let known = self.members[at].lightningd.channels.get_mut(&channel_id);
            let same = known.as_ref().is_some_and(|known| known.balances == newer.balances);
            // A close that only the newer copy knows of: the commitment may be out, and the peer was told
            // with an `error`, so that nothing is added to the channel.
            if same && !newer.closing {
                continue;
            }
            // At the reconnect lightningd sees that it is behind, and never publishes its old state; the
            // peer closes with the last one.
            if let Some(known) = known.filter(|_| !same) {
                known.lost = true;
                known.closing = true;
            }
            self.peer_closes(id, newer.peer, channel_id);
        }
        self.start(at)
    }

    /// A peer closes its channel with the node of this id, if it has it, as lightningd does with whoever has lost it.
    pub(super) fn peer_closes(&mut self, id: NodeId, peer: NodeId, channel_id: ChannelId) {
        let Some(other) = self.member_of(peer) else { return };
        let theirs = self.members[other].lightningd.channels.get_mut(&channel_id);
        if let Some(theirs) = theirs.filter(|theirs| theirs.peer == id) {
            theirs.closing = true;
        }
        self.say_ended(other, channel_id);
    }

    /// What is over leaves a member's memory and its records, as in the plugin after a while. Which factories.
    pub fn archive(&mut self, at: usize, height: Height) -> Vec<InstanceId> {
        let member = &mut self.members[at];
        let Some(engine) = &mut member.engine else { return vec![] };
        let over: Vec<InstanceId> = engine.archivable(height).collect();
        if !over.is_empty() {
            // lightningd forgets what has ended, too.
            let all = over.iter().filter_map(|instance| engine.factory(*instance));
            let channels: Vec<ChannelId> =
                all.flat_map(Factory::own_channels).map(|own| own.channel_id).collect();
            for channel_id in channels {
                if let Entry::Occupied(known) = member.lightningd.channels.entry(channel_id)
                    && known.get().closing
                {
                    let left = sides(&known.remove()).0;
                    member.forgotten_msat = member.forgotten_msat.saturating_add(left);
                }
            }
            engine.archive(over.iter().map(|instance| (*instance, Remains::Records { since: height })));
            over.iter().for_each(|instance| member.store.forget(*instance));
        }
        over
    }

    /// Whether a node has lost part of its memory.
    pub fn is_restored(&self, at: usize) -> bool {
        self.members[at].restored
    }

    /// Whether a record of a node's was damaged.
    pub fn is_damaged(&self, at: usize) -> bool {
        self.members[at].damaged
    }

    /// Whether something is owed to a member: it is what its engine is, and has kept its memory.
    pub fn is_owed(&self, at: usize) -> bool {
        !self.is_dishonest(at) && !self.is_restored(at) && !self.is_damaged(at)
    }
}

/// Whether a store has a record that can't be read.
fn has_garbage(store: &Store) -> bool {
    let unreadable = |instance| store.records(instance).iter().any(|record| decode_record(record).is_err());
    store.instances().into_iter().any(unreadable)
}
