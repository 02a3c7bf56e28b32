//! What this node watches for others (S40): it looks in each block for transactions that appointments wait for, opens
//! those, and publishes what is inside as soon as that may be in a block, at each block until something has spent what it
//! spends. It has no keys, and pays nothing beside the fees that are in the transactions.

use std::collections::{BTreeMap, BTreeSet};

use crate::chain::timelocks_allow;
use crate::engine::Engine;
use crate::io::{Block, Effect, Kept, Level, TowerAnswer, TowerRequest};
use crate::memory::Volatile;
use crate::memory::towers::total;
use crate::memory::watching::{Due, Name, Putting, VolatileWatching};
use crate::record::appointment::{Appointment, LEAST_BYTES, Locator, MOST_BYTES, locators, until_sum};
use crate::step::builder::StepBuilder;
use crate::step::fault::Fault;
use crate::tower::receipt;
use crate::types::{Height, NodeId, Txid};
use crate::wire::message::{
    Appointments, AskAppointments, AskReceipt, Locators, Receipt, Unwatch, Watch, Watched,
};
use crate::wire::words::Words;

/// Blocks that an appointment may last from now on: three years.
const LONGEST: Height = 160_000;
/// Blocks before the last that are looked into once more for a client that hasn't handled them: it says the rest itself.
const BACK: Height = 6;
/// Bytes of each appointment in a list.
const LISTED: usize = 48;

fn watching(change: VolatileWatching) -> Volatile {
    Volatile::Watching(change)
}

impl Engine {
    /// Whether this node watches for a peer.
    fn watches_for(&self, peer: NodeId) -> bool {
        self.config.watch_for.contains(&peer) || self.config.watches_for_peers && self.friends.contains(&peer)
    }

    fn is_watched_for(&self, peer: NodeId) -> Result<(), Fault> {
        let stranger = || Fault::stale("this node watches for nobody whom factory-watch-for doesn't name");
        if self.watches_for(peer) { Ok(()) } else { Err(stranger()) }
    }

    /// A peer asks what is watched for it.
    pub(crate) fn on_ask_appointments(
        &self,
        step: &mut StepBuilder<'_>,
        peer: NodeId,
        ask: AskAppointments,
    ) -> Result<(), Fault> {
        self.is_watched_for(peer)?;
        let tag = ask.tag;
        if tag == [0; 32] {
            self.tower_works(step, peer, 0)?;
            let list = self.watching.totals(peer).into_iter().collect();
            let height = step.height;
            step.send(peer, Appointments { list, height, pays_sat: 0 });
            return Ok(());
        }
        let all = self.watching.tagged(peer, tag).into_iter();
        let list: Vec<_> = all.filter_map(|name| Some((name.2, self.watching.kept(&name)?.sum))).collect();
        self.tower_works(step, peer, list.len().saturating_mul(LISTED))?;
        step.send(peer, Locators { tag, list });
        Ok(())
    }

    /// A peer wants something watched for.
    pub(crate) fn on_watch(
        &self,
        step: &mut StepBuilder<'_>,
        peer: NodeId,
        watch: Watch,
    ) -> Result<(), Fault> {
        let Watch { tag, locator, until, height, sealed, since, counter, trigger } = watch;
        let name = (peer, tag, locator);
        if self.watching.putting(&name).is_some() || self.watching.is_opening(&name) {
            return Err(Fault::stale("one in its place is being written"));
        }
        let newest = self.watching.counter(peer, tag);
        let appointment = Appointment { locator, sealed };
        let (sum, bytes) = (until_sum(appointment.sum(), until), appointment.sealed.len());
        let known = self.watching.kept(&name);
        let back = step.height.saturating_sub(height).min(BACK);
        let there = trigger.zip(since);
        let fits = |(txid, _): (Txid, Height)| locators(txid).any(|one| one == locator);
        let refused = match () {
            () if !self.watches_for(peer) => "this node doesn't watch for you (factory-watch-for)".to_owned(),
            // Each connection asks again.
            () if known
                .is_some_and(|known| known.sum == sum && (known.trigger.is_some() || since.is_none())) =>
            {
                step.send(peer, Watched { tag, locator, sum, refused: None });
                return Ok(());
            }
            () if since.is_some() && !there.is_some_and(fits) => {
                "it waits for another transaction".to_owned()
            }
            () if bytes < LEAST_BYTES => "it is no appointment".to_owned(),
            () if bytes > MOST_BYTES => format!("it is larger than {MOST_BYTES} bytes"),
            () if until > step.height.saturating_add(LONGEST) => "it would last too long".to_owned(),
            () if until < step.height => "its time is over".to_owned(),
            // S9: what an older disk knows replaces nothing.
            () if counter < newest => {
                format!("there are some of {newest} records, and the sender has {counter}")
            }
            () if self.tower_works(step, peer, bytes).is_err() => {
                "too much was written in the last ten minutes".to_owned()
            }
            () => match self.watching.too_many(name, bytes, self.config.watch_for.contains(&peer)) {
                Some(why) => why,
                None => {
                    let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
                    // What it waits for may have been there before it changed. What this node has seen counts.
                    let trigger = known.and_then(|known| known.trigger).or(there);
                    let kept = Kept { sum, bytes, until, counter, trigger };
                    let from = step.height.saturating_sub(back).saturating_add(1);
                    step.volatile(watching(VolatileWatching::Putting(
                        name,
                        Putting { bytes, from, wanted: true },
                    )));
                    let request = TowerRequest::Put { tag, appointment, kept };
                    step.effect(Effect::Tower { peer, request });
                    return Ok(());
                }
            },
        };
        step.send(peer, Watched { tag, locator, sum, refused: Some(Words::new(&refused)) });
        Ok(())
    }

    /// A peer needs these not any more.
    pub(crate) fn on_unwatch(
        &self,
        step: &mut StepBuilder<'_>,
        peer: NodeId,
        unwatch: Unwatch,
    ) -> Result<(), Fault> {
        let Unwatch { tag, locators } = unwatch;
        let names: BTreeSet<Name> = match locators.is_empty() {
            true => self.watching.tagged(peer, tag),
            false => locators.into_iter().map(|locator| (peer, tag, locator)).collect(),
        };
        let known = |name: &Name| self.watching.kept(name).is_some() || self.watching.putting(name).is_some();
        let names: Vec<Name> = names.into_iter().filter(known).collect();
        self.tower_works(step, peer, names.len().saturating_mul(LISTED))?;
        for name in names {
            self.forget_appointment(step, name);
        }
        Ok(())
    }

    /// A peer wants it signed what is watched for it.
    pub(crate) fn on_ask_receipt(
        &self,
        step: &mut StepBuilder<'_>,
        peer: NodeId,
        ask: AskReceipt,
    ) -> Result<(), Fault> {
        let AskReceipt { tag, count, sum } = ask;
        self.is_watched_for(peer)?;
        let all = self.watching.tagged(peer, tag);
        self.tower_works(step, peer, all.len().saturating_mul(LISTED))?;
        let has = total(all.iter().filter_map(|name| Some(self.watching.kept(name)?.sum)));
        // Of one that is being written it isn't known yet which of two it will be.
        let is_writing = all.iter().any(|name| self.watching.putting(name).is_some());
        if is_writing || has != (count, sum) {
            return Err(Fault::stale("these are not what it has"));
        }
        let unsigned = Receipt { tag, count, sum, height: step.height, signature: vec![] };
        let text = receipt::text(self.me, peer, &unsigned);
        step.effect(Effect::Tower { peer, request: TowerRequest::Sign { receipt: unsigned, text } });
        Ok(())
    }

    /// Peers that this node watches for: how many appointments each has here, and how many transactions are due.
    pub fn watches(&self) -> Vec<(NodeId, usize, usize)> {
        let mut all: BTreeMap<NodeId, (usize, usize)> = BTreeMap::new();
        for (peer, ..) in self.watching.names() {
            let (appointments, _) = all.entry(peer).or_default();
            *appointments = appointments.saturating_add(1);
        }
        for ((peer, ..), ..) in self.watching.due() {
            let (_, due) = all.entry(peer).or_default();
            *due = due.saturating_add(1);
        }
        all.into_iter().map(|(peer, (appointments, due))| (peer, appointments, due)).collect()
    }

    /// The first block that a start has to read again for somebody's sake, so that it isn't noted as handled; nothing if
    /// it needn't read any.
    pub fn unsettled(&self) -> Option<Height> {
        self.watching.unsettled()
    }

    /// What this node watches for others can't be read: until a start can, no block counts as handled.
    pub fn towers_are_unread(&mut self) {
        self.next_generation();
        self.watching.unread();
    }

    /// Whether this node watches for others.
    pub fn is_tower(&self) -> bool {
        !self.watching.is_empty() || !self.config.watch_for.is_empty() || self.config.watches_for_peers
    }

    /// S28: what a peer may have done has an end.
    fn tower_works(&self, step: &mut StepBuilder<'_>, peer: NodeId, bytes: usize) -> Result<(), Fault> {
        if self.watching.works_too_much(peer, step.now, bytes) {
            return Err(Fault::stale("it asks for too much"));
        }
        step.volatile(watching(VolatileWatching::Works(peer, step.now, bytes)));
        Ok(())
    }

    /// What was due when this node stopped.
    pub(crate) fn watching_started(&self, step: &mut StepBuilder<'_>) {
        for (name, trigger) in self.watching.triggered() {
            open(step, name, trigger, true);
        }
    }

    fn forget_appointment(&self, step: &mut StepBuilder<'_>, name: Name) {
        let (peer, tag, locator) = name;
        step.volatile(watching(VolatileWatching::Forget(name)));
        step.effect(Effect::Tower { peer, request: TowerRequest::Forget { tag, locator } });
    }

    /// What has become of a request about a peer's appointments.
    pub(crate) fn on_tower_answer(&self, step: &mut StepBuilder<'_>, peer: NodeId, answer: TowerAnswer) {
        match answer {
            TowerAnswer::Put { tag, locator, kept, result } => {
                self.on_appointment_put(step, (peer, tag, locator), kept, result);
            }
            TowerAnswer::Looked(found) => {
                step.volatile(watching(VolatileWatching::Looked));
                for (locator, trigger) in found {
                    self.found(step, locator, trigger);
                }
            }
            TowerAnswer::Opened { tag, locator, trigger, tasks } => {
                let name = (peer, tag, locator);
                // It may have been unwatched meanwhile.
                if self.watching.kept(&name).is_none() {
                    return;
                }
                match tasks {
                    Ok(tasks) => {
                        for task in &tasks {
                            let due = Due { task: task.clone(), since: trigger.1, spent: None, not_there: 0 };
                            publish(step, name, &due);
                        }
                        step.volatile(watching(VolatileWatching::Opened(name, trigger, tasks)));
                    }
                    Err(why) => {
                        let (txid, height) = trigger;
                        step.log(
                            Level::Unusual,
                            format!(
                                "{txid} is in block {height}, and nothing is published for {peer}: {why}"
                            ),
                        );
                        self.forget_appointment(step, name);
                    }
                }
            }
            TowerAnswer::Signed(receipt) => {
                if self.peers.contains(&peer) {
                    step.send(peer, receipt);
                }
            }
            TowerAnswer::NotThere { tag, locator, txid } => {
                step.volatile(watching(VolatileWatching::NotThere((peer, tag, locator), txid)));
            }
        }
    }

    fn on_appointment_put(
        &self,
        step: &mut StepBuilder<'_>,
        name: Name,
        kept: Kept,
        result: Result<(), String>,
    ) {
        let (peer, tag, locator) = name;
        let Some(putting) = self.watching.putting(&name) else { return };
        if !putting.wanted {
            // It was unwatched meanwhile: what was written goes, too.
            step.volatile(watching(VolatileWatching::NotKept(name)));
            return step.effect(Effect::Tower { peer, request: TowerRequest::Forget { tag, locator } });
        }
        match &result {
            Ok(()) => {
                step.volatile(watching(VolatileWatching::Kept(name, kept)));
                if let Some(trigger) = kept.trigger {
                    open(step, name, trigger, true);
                }
            }
            Err(_) => step.volatile(watching(VolatileWatching::NotKept(name))),
        }
        if self.peers.contains(&peer) {
            let refused = result.err().map(|why| Words::new(&why));
            step.send(peer, Watched { tag, locator, sum: kept.sum, refused });
        }
    }

    /// Opens whatever waits for a transaction, unless it was opened for it already.
    fn found(&self, step: &mut StepBuilder<'_>, locator: Locator, trigger: (Txid, Height)) {
        for name in self.watching.waits_for(locator) {
            if self.watching.kept(&name).is_some_and(|kept| kept.trigger != Some(trigger)) {
                open(step, name, trigger, false);
            }
        }
    }

    /// What a block has of what is waited for, and what is due after it.
    pub(crate) fn watch_block(&self, step: &mut StepBuilder<'_>, block: &Block) {
        if self.watching.is_empty() {
            return;
        }
        let mut spent = BTreeMap::new();
        for tx in &block.txs {
            let txid = tx.compute_txid();
            for locator in locators(txid) {
                self.found(step, locator, (txid, block.height));
            }
            spent.extend(tx.input.iter().map(|input| (input.previous_output, txid)));
        }
        // The follower may have read this block before it knew of what has come since the last.
        let fresh = self.watching.fresh();
        if let Some(from) = fresh.values().min() {
            let (from, to) = (*from, block.height);
            let request = TowerRequest::Look { from, to, locators: fresh.keys().copied().collect() };
            step.volatile(watching(VolatileWatching::Looking(from)));
            step.effect(Effect::Tower { peer: self.me, request });
        }
        for (name, txid, due) in self.watching.due() {
            let mut inputs = due.task.tx.input.iter().map(|input| input.previous_output);
            match inputs.find_map(|outpoint| spent.get(&outpoint)) {
                Some(by) => {
                    let what = if *by == txid { "is in" } else { "can't be any more, by" };
                    let text =
                        format!("{txid}, published for {}, {what} block {} ({by})", name.0, block.height);
                    step.log(Level::Info, text);
                    step.volatile(watching(VolatileWatching::Spent(name, txid, block.height)));
                }
                None => publish(step, name, due),
            }
        }
        for name in self.watching.over(block.height) {
            self.forget_appointment(step, name);
        }
    }
}

/// `is_noted`: the disk knows of the transaction.
fn open(step: &mut StepBuilder<'_>, name: Name, trigger: (Txid, Height), is_noted: bool) {
    let (peer, tag, locator) = name;
    let (_, height) = trigger;
    step.volatile(watching(VolatileWatching::Opening(name, Some(height).filter(|_| !is_noted))));
    step.effect(Effect::Tower { peer, request: TowerRequest::Open { tag, locator, trigger } });
}

/// S26: at each block, for as long as nothing has spent what it spends.
fn publish(step: &mut StepBuilder<'_>, (peer, tag, locator): Name, due: &Due) {
    if timelocks_allow(&due.task.tx, due.since, step.height)
        && due.task.not_before <= step.height.saturating_add(1)
    {
        let request = TowerRequest::Publish { tag, locator, tx: due.task.tx.clone() };
        step.effect(Effect::Tower { peer, request });
    }
}
