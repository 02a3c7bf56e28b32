//! What this node has watched for while it sleeps, and who does.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use crate::engine::Engine;
use crate::io::{Effect, Kept, Level, SignedReceipt};
use crate::memory::Volatile;
use crate::memory::keepers::Tag;
use crate::memory::towers::{AT_ONCE, Given, Had, Tower, VolatileTowers, takes, total};
use crate::memory::watching::Name;
use crate::record::appointment::{Appointment, Locator, locators, until_sum};
use crate::record::copy::appointments_name;
use crate::record::factory::Factory;
use crate::step::builder::StepBuilder;
use crate::step::fault::Fault;
use crate::tower::receipt;
use crate::tower::tasks::{tasks, ways};
use crate::types::{ChannelId, Height, InstanceId, NodeId, Transaction, Txid};
use crate::wire::message::{
    Appointments, AskAppointments, AskReceipt, Locators, Receipt, Unwatch, Watch, Watched,
};

/// A channel may be on chain by then, and goes on there: its penalties are watched for a year more. While this node is
/// there it is put off in steps, of which each is every appointment once more.
const AFTER: Height = 52_416;
const STEP: Height = 4_032;

/// Blocks that client and tower may be apart when that signs.
const MOST_APART: Height = 6;
/// Most characters of a signature: lightningd's have 104.
const ZBASE: usize = 120;
/// Most appointments that are taken back in one message.
const MOST_GONE: usize = 1_000;

type All<'a> = BTreeMap<Locator, (Cow<'a, Appointment>, Given)>;

/// What towers should have of a factory.
struct Wanted<'a> {
    tasks: All<'a>,
    penalties: All<'a>,
    /// Transactions that found no place.
    left_out: usize,
    until: Height,
}

/// What a tower has of a factory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watcher {
    /// The tower.
    pub peer: NodeId,
    /// Appointments that it has.
    pub appointments: usize,
    /// Those that it lacks.
    pub missing: usize,
    /// Why it takes some of them not, if so.
    pub refused: Option<String>,
    /// Most that it pays for one transaction beside its own fee, sat.
    pub pays_sat: u64,
    /// The last block that it watches.
    pub until: Height,
    /// The last block that it had looked at when it was asked.
    pub height: Height,
}

impl Wanted<'_> {
    /// What matters most first.
    fn all(&self) -> impl Iterator<Item = (&Locator, &(Cow<'_, Appointment>, Given))> {
        self.tasks.iter().chain(&self.penalties)
    }

    fn len(&self) -> usize {
        self.tasks.len().saturating_add(self.penalties.len())
    }
}

fn towers(change: VolatileTowers) -> Volatile {
    Volatile::Towers(change)
}

impl Engine {
    /// A tower of this node's is asked what it has.
    pub(crate) fn towers_peer_up(&self, step: &mut StepBuilder<'_>, peer: NodeId) {
        if self.config.towers.contains(&peer) {
            step.volatile(towers(VolatileTowers::Asked(peer)));
            step.send(peer, AskAppointments { tag: [0; 32] });
        }
    }

    /// A tower says how many it has. Where that isn't what it should be, it is asked which.
    pub(crate) fn on_appointments(
        &self,
        step: &mut StepBuilder<'_>,
        peer: NodeId,
        message: Appointments,
    ) -> Result<(), Fault> {
        if !self.towers.is_asked(peer) {
            return Err(Fault::stale("nobody has asked"));
        }
        let Appointments { height, pays_sat, list } = message;
        step.volatile(towers(VolatileTowers::Ready(peer, Tower::new(height, pays_sat))));
        let mut listed: BTreeMap<Tag, _> = list.into_iter().collect();
        for factory in self.watched_by(peer) {
            let tag = self.appointments_tag(factory.instance, peer);
            let wanted = self.wanted(factory, step.height);
            let there = listed.remove(&tag);
            if there == Some(total(wanted.all().map(|(_, (_, given))| given.sum))) {
                // Since when, it may not know.
                let has = |(locator, (_, given)): (&Locator, &(_, Given))| {
                    (*locator, Given { since: None, ..*given })
                };
                let stored = wanted.all().map(has).collect();
                step.volatile(towers(VolatileTowers::Has(peer, tag, stored)));
                step.effect(Effect::Appoint { instance: factory.instance });
            } else if there.is_some() {
                step.send(peer, AskAppointments { tag });
            } else {
                step.volatile(towers(VolatileTowers::Has(peer, tag, BTreeMap::new())));
                step.effect(Effect::Appoint { instance: factory.instance });
            }
        }
        // What is over is over. Of what this node knows nothing of, or can't read, a tower may know more (S33, S39).
        for instance in self.archived.keys() {
            let tag = self.appointments_tag(*instance, peer);
            if listed.contains_key(&tag) {
                step.send(peer, Unwatch { tag, locators: vec![] });
            }
        }
        Ok(())
    }

    /// A tower says which it has of a factory.
    pub(crate) fn on_locators(
        &self,
        step: &mut StepBuilder<'_>,
        peer: NodeId,
        message: Locators,
    ) -> Result<(), Fault> {
        let Locators { tag, list } = message;
        let is_new = self.towers.get(peer).is_some_and(|tower| !tower.has.contains_key(&tag));
        let Some(factory) = self.factory_tagged(tag, peer).filter(|_| is_new) else {
            return Err(Fault::stale("nobody has asked for these"));
        };
        let there = list.into_iter().map(|(locator, sum)| (locator, Given { sum, since: None }));
        step.volatile(towers(VolatileTowers::Has(peer, tag, there.collect())));
        step.effect(Effect::Appoint { instance: factory.instance });
        Ok(())
    }

    /// Something has changed of what towers should have of a factory, or one has room for more.
    pub(crate) fn appoint(&self, step: &mut StepBuilder<'_>, instance: InstanceId) {
        let Some(factory) = self.factories.get(&instance).filter(|factory| factory.damage().is_none()) else {
            return;
        };
        if self.towers.ready().next().is_none() {
            return;
        }
        // S9: a keeper may know more, and then a tower has more.
        if self.may_be_outdated(instance) {
            return;
        }
        let wanted = self.wanted(factory, step.height);
        let counter = self.keeping.records(instance);
        for (peer, tower) in self.towers_of(factory) {
            let tag = self.appointments_tag(instance, peer);
            let Some(had) = tower.has.get(&tag) else { continue };
            // S22: whoever has left needs nothing. What else isn't wanted any more does no harm.
            if factory.has_left() && !had.stored.is_empty() {
                step.send(peer, Unwatch { tag, locators: vec![] });
                step.volatile(towers(VolatileTowers::Has(peer, tag, BTreeMap::new())));
            }
            let no_longer = self.no_longer(factory, had, &wanted);
            if !no_longer.is_empty() && !factory.has_left() {
                step.send(peer, Unwatch { tag, locators: no_longer.clone() });
                step.volatile(towers(VolatileTowers::Gone(peer, tag, no_longer)));
                // What takes their place follows.
                step.effect(Effect::Appoint { instance });
                continue;
            }
            if tower.refusals >= AT_ONCE || wanted.until < step.height {
                continue;
            }
            let under_way = tower.under_way();
            let lacks = |(locator, (_, given)): &(&Locator, &(_, Given))| {
                let known = had.stored.get(*locator);
                // Of what a node that was restored doesn't know it replaces nothing (S39).
                let may = known.is_none_or(|known| known.sum == given.sum) || may_replace(factory);
                known != Some(given)
                    && may
                    && !had.sent.contains_key(*locator)
                    && !had.refused.contains(*locator)
            };
            let tasks = wanted.tasks.iter().filter(lacks).take(AT_ONCE.saturating_sub(under_way));
            // So that one factory's penalties don't keep another's tasks waiting.
            let penalties = wanted.penalties.iter().filter(lacks);
            let penalties = penalties.take((AT_ONCE / 2).saturating_sub(under_way));
            for (locator, (one, given)) in tasks.chain(penalties).take(AT_ONCE.saturating_sub(under_way)) {
                step.volatile(towers(VolatileTowers::Sends(peer, tag, *locator, *given)));
                let watch = Watch {
                    tag,
                    locator: *locator,
                    until: wanted.until,
                    height: step.height,
                    sealed: one.sealed.clone(),
                    since: given.since.map(|(_, height)| height),
                    counter,
                    trigger: given.since.map(|(txid, _)| txid),
                };
                step.send(peer, watch);
            }
        }
    }

    /// A block may have what appointments wait for; a tower that gave no answer, or took none, is asked again (S29).
    pub(crate) fn appoint_all(&self, step: &mut StepBuilder<'_>) {
        for peer in self.towers.silent() {
            step.send(peer, AskAppointments { tag: [0; 32] });
        }
        if self.towers.ready().next().is_none() {
            return;
        }
        step.volatile(towers(VolatileTowers::OffersAgain));
        for factory in self.whole() {
            for (peer, tower) in self.towers_of(factory) {
                let tag = self.appointments_tag(factory.instance, peer);
                match tower.has.get(&tag) {
                    Some(had) => ask_receipt(step, peer, tag, had),
                    None => step.send(peer, AskAppointments { tag }),
                }
            }
            step.effect(Effect::Appoint { instance: factory.instance });
        }
    }

    /// A tower has an appointment on its disk, or doesn't take it.
    pub(crate) fn on_watched(
        &self,
        step: &mut StepBuilder<'_>,
        peer: NodeId,
        watched: Watched,
    ) -> Result<(), Fault> {
        let Watched { tag, locator, sum, refused } = watched;
        if self.towers.sent(peer, tag, locator).is_none_or(|given| given.sum != sum) {
            return Err(Fault::stale("it was sent no such appointment"));
        }
        let refused = refused.map(|why| why.to_string());
        let known = self.towers.get(peer).and_then(|tower| tower.refuses.as_ref());
        if let Some(why) = refused.as_ref().filter(|why| Some(*why) != known) {
            step.log(Level::Unusual, format!("tower {peer} takes no appointment: {why}"));
        }
        let result = refused.map_or(Ok(()), Err);
        step.volatile(towers(VolatileTowers::Answered(peer, tag, locator, result)));
        // As long as it goes on with one factory the others wait.
        let under_way = self.towers.get(peer).map_or(0, Tower::under_way);
        for factory in self.whole() {
            let is_next = under_way <= AT_ONCE / 2;
            if is_next || self.appointments_tag(factory.instance, peer) == tag {
                step.effect(Effect::Appoint { instance: factory.instance });
            }
        }
        Ok(())
    }

    /// A tower has signed what it has of a factory.
    pub(crate) fn on_receipt(
        &self,
        step: &mut StepBuilder<'_>,
        peer: NodeId,
        receipt: Receipt,
    ) -> Result<(), Fault> {
        let Receipt { tag, count, sum, height, .. } = receipt;
        let had = self.towers.get(peer).and_then(|tower| tower.has.get(&tag));
        let asked = had.is_some_and(|had| had.receipt == Some((count, sum)) && !had.signed);
        let Some(factory) = self.factory_tagged(tag, peer).filter(|_| asked) else {
            return Err(Fault::stale("nobody has asked for it"));
        };
        if height.abs_diff(step.height) > MOST_APART {
            return Err(Fault::stale(format!(
                "it is of block {height}, and this node is at {}",
                step.height
            )));
        }
        let text = receipt::text(peer, self.me, &receipt);
        let is_zbase = |bytes: &[u8]| bytes.len() <= ZBASE && bytes.iter().all(u8::is_ascii_alphanumeric);
        let zbase = Some(receipt.signature).filter(|bytes| is_zbase(bytes));
        let Some(zbase) = zbase.and_then(|bytes| String::from_utf8(bytes).ok()) else {
            return Err(Fault::stale("its signature is none"));
        };
        let signed = SignedReceipt { instance: factory.instance, tower: peer, text, zbase };
        step.volatile(towers(VolatileTowers::Signed(peer, tag)));
        step.effect(Effect::KeepReceipt(Box::new(signed)));
        Ok(())
    }

    /// lightningd has revoked a commitment of a factory's channel, and says what punishes it.
    pub(crate) fn on_revoked(
        &self,
        step: &mut StepBuilder<'_>,
        channel_id: ChannelId,
        commitment: Txid,
        penalty: Transaction,
    ) {
        // Where it has no room the operator gains less by this one than by each that is kept.
        let takes = takes(&penalty);
        let instance = self.instance_of(channel_id).filter(|instance| self.towers.has_room(*instance, takes));
        let Some(instance) = instance.filter(|instance| self.is_client_in(*instance)) else { return };
        step.volatile(towers(VolatileTowers::Penalty(instance, commitment, penalty)));
        step.effect(Effect::Appoint { instance });
    }

    /// Takes over what a start has found: appointments of peers, and penalties of this node's own channels.
    pub fn load_towers(
        &mut self,
        kept: impl IntoIterator<Item = (Name, Kept)>,
        penalties: impl IntoIterator<Item = (ChannelId, Txid, Transaction)>,
    ) {
        self.next_generation();
        kept.into_iter().for_each(|(name, kept)| self.watching.load(name, kept));
        for (channel_id, commitment, tx) in penalties {
            if let Some(instance) = self.instance_of(channel_id).filter(|_| self.may_need_penalty(channel_id))
            {
                self.towers.add_penalty(instance, commitment, tx);
            }
        }
    }

    /// The factory that a channel of this node's stands in.
    pub fn instance_of(&self, channel_id: ChannelId) -> Option<InstanceId> {
        let mut all = self.factories.values().filter(|factory| factory.names(channel_id));
        all.next().map(|factory| factory.instance)
    }

    /// Whether a penalty for this channel is of use to a tower; not known where records can't be read.
    pub fn wants_penalty(&self, channel_id: ChannelId, penalty: &Transaction) -> bool {
        match self.instance_of(channel_id) {
            Some(instance) => {
                let has_room =
                    self.towers.has_room(instance, takes(penalty)) && self.towers.may_write(instance);
                self.is_client_in(instance) && has_room
            }
            None => self.is_blind(),
        }
    }

    /// Whether a penalty that is stored may be of use: not if others have taken its place.
    pub fn needs_penalty(&self, channel_id: ChannelId, commitment: Txid) -> bool {
        let instance = self.instance_of(channel_id);
        let has = instance.is_none_or(|instance| self.towers.has_penalty(instance, commitment));
        has && self.may_need_penalty(channel_id)
    }

    /// Not of a factory that is over, or that was left.
    fn may_need_penalty(&self, channel_id: ChannelId) -> bool {
        let factory = self.instance_of(channel_id).and_then(|instance| self.factories.get(&instance));
        factory.map_or(self.is_blind(), |factory| !factory.has_left())
    }

    fn is_client_in(&self, instance: InstanceId) -> bool {
        self.factories.get(&instance).is_some_and(|factory| factory.lsp() != self.me)
    }

    /// Whether a channel may be a factory's of which that can't be read (S33).
    fn is_blind(&self) -> bool {
        let damaged = self.factories.values().any(|factory| factory.damage().is_some());
        damaged || !self.unreadable.is_empty()
    }

    /// Connected towers that watch a factory for this node.
    fn towers_of(&self, factory: &Factory) -> impl Iterator<Item = (NodeId, &Tower)> {
        let lsp = factory.lsp();
        self.towers.ready().filter(move |(peer, _)| *peer != lsp)
    }

    /// Factories that a tower watches for this node. No operator watches itself.
    fn watched_by(&self, tower: NodeId) -> impl Iterator<Item = &Factory> {
        self.whole().filter(move |factory| factory.lsp() != tower)
    }

    fn appointments_tag(&self, instance: InstanceId, tower: NodeId) -> Tag {
        self.copy_key.tag(appointments_name(instance, tower))
    }

    fn factory_tagged(&self, tag: Tag, tower: NodeId) -> Option<&Factory> {
        self.watched_by(tower).find(|factory| self.appointments_tag(factory.instance, tower) == tag)
    }

    /// What a tower must not have any more: penalties that others have taken the place of; and of whoever has lost its
    /// channels (S39) the path, at the end of which nobody but the operator could close them.
    fn no_longer(&self, factory: &Factory, had: &Had, wanted: &Wanted<'_>) -> Vec<Locator> {
        let replaced = self.towers.replaced(factory.instance);
        let mut gone: BTreeSet<Locator> =
            replaced.filter(|one| had.stored.contains_key(*one)).copied().collect();
        if factory.has_lost_channels() {
            let still = |locator: &Locator, given: &Given| {
                wanted.tasks.get(locator).is_some_and(|(_, wanted)| wanted.sum == given.sum)
            };
            let on_path = ways(factory).into_iter().flat_map(locators);
            gone.extend(on_path.filter(|one| had.stored.get(one).is_some_and(|given| !still(one, given))));
        }
        gone.into_iter().take(MOST_GONE).collect()
    }

    fn wanted(&self, factory: &Factory, height: Height) -> Wanted<'_> {
        let timeout = factory.current.terms.timeout_height.saturating_add(AFTER);
        let on_chain = factory.own_channels().any(|channel| factory.is_out(&channel));
        let later = height.saturating_sub(height % STEP).saturating_add(AFTER);
        let until = if on_chain { timeout.max(later) } else { timeout };
        let mut wanted = Wanted { tasks: BTreeMap::new(), penalties: BTreeMap::new(), left_out: 0, until };
        let tasks = tasks(factory);
        if tasks.is_empty() {
            return wanted;
        }
        for (trigger, tasks) in tasks {
            let (made, left_out) = Appointment::seal_all(trigger, &tasks);
            wanted.left_out = wanted.left_out.saturating_add(left_out);
            let since = factory.confirmed.get(&trigger).map(|height| (trigger, *height));
            for one in made {
                let given = Given { sum: until_sum(one.sum(), until), since };
                wanted.tasks.insert(one.locator, (Cow::Owned(one), given));
            }
        }
        for (one, sum) in self.towers.penalties(factory.instance) {
            let given = Given { sum: until_sum(sum, until), since: None };
            if !wanted.tasks.contains_key(&one.locator) {
                wanted.penalties.insert(one.locator, (Cow::Borrowed(one), given));
            }
        }
        wanted.left_out = wanted.left_out.saturating_add(self.towers.beyond(factory.instance));
        wanted
    }

    /// Who watches a factory for this node, of the towers that are connected.
    pub fn watchers(&self, instance: InstanceId, height: Height) -> Vec<Watcher> {
        let Some(factory) = self.factories.get(&instance) else { return vec![] };
        let wanted = self.wanted(factory, height);
        let of = |(peer, tower): (NodeId, &Tower)| {
            let had = tower.has.get(&self.appointments_tag(instance, peer));
            let has = |locator: &Locator, given: &Given| {
                had.and_then(|had| had.stored.get(locator)).is_some_and(|stored| stored.sum == given.sum)
            };
            let appointments = wanted.all().filter(|(locator, (_, given))| has(locator, given)).count();
            Watcher {
                peer,
                appointments,
                missing: wanted.len().saturating_sub(appointments).saturating_add(wanted.left_out),
                refused: tower.refuses.clone(),
                pays_sat: tower.pays_sat,
                until: wanted.until,
                height: tower.height,
            }
        };
        self.towers_of(factory).map(of).collect()
    }
}

/// Once a block at most, and once for each total: a tower has what its client says that it has, and signs that.
fn ask_receipt(step: &mut StepBuilder<'_>, peer: NodeId, tag: Tag, had: &Had) {
    let (count, sum) = total(had.stored.values().map(|given| given.sum));
    if count > 0 && had.sent.is_empty() && had.receipt != Some((count, sum)) {
        step.volatile(towers(VolatileTowers::AsksReceipt(peer, tag, (count, sum))));
        step.send(peer, AskReceipt { tag, count, sum });
    }
}

/// S39: a node that was restored, or has lost its channels, may know less than a tower.
fn may_replace(factory: &Factory) -> bool {
    factory.restored().is_none() && !factory.has_lost_channels()
}
