//! A client that has another one watch for it (S40): who does, what it was given, and what must have become of whoever
//! slept.

use std::collections::BTreeSet;

use factory_engine::Engine;
use factory_engine::types::{ChannelId, Height, InstanceId};

use crate::fault::Dice;
use crate::world::FOR_ANOTHER;
use crate::{LabError, error};

use super::run::Run;
use super::watching::Asleep;

impl Run {
    /// Both have it set, and are connected.
    ///
    /// # Errors
    /// When the nodes don't come up.
    pub(super) fn set_up_tower(&mut self) -> Result<(), LabError> {
        let Some((client, tower)) = self.watch() else { return Ok(()) };
        let (client_id, tower_id) = (self.world.members[client].id, self.world.members[tower].id);
        self.world.members[client].config.towers.insert(tower_id);
        self.world.members[tower].config.watch_for.insert(client_id);
        self.world.restart(tower)?;
        self.world.restart(client)?;
        self.world.connect(client.min(tower), client.max(tower))?;
        self.world.settle()
    }

    fn watch(&self) -> Option<(usize, usize)> {
        self.watched.as_ref().map(|watched| (watched.client, watched.tower))
    }

    /// Client and tower meet again, with one chance in `of`. Whether they hadn't, and could.
    pub(super) fn meet_tower(&mut self, of: usize) -> Result<bool, LabError> {
        let Some((client, tower)) = self.watch() else { return Ok(false) };
        let up = [client, tower].iter().all(|at| self.world.members[*at].engine.is_some());
        if !up || self.world.connected(client, tower) {
            return Ok(false);
        }
        if self.dice.one_in(of) {
            self.world.connect(client.min(tower), client.max(tower))?;
        }
        Ok(true)
    }

    /// Half of the times when the client's connection with its operator is cut, that with its tower is, too.
    pub(super) fn cut_tower(&mut self, at: usize, dice: &mut Dice) {
        if let Some((client, tower)) = self.watch().filter(|(client, _)| *client == at && dice.one_in(2)) {
            self.world.disconnect(client, tower);
        }
    }

    /// Whether a member goes away because it has a tower.
    pub(super) fn relies_on_tower(&mut self, at: usize) -> bool {
        self.watched.as_mut().is_some_and(|watched| watched.client == at && watched.dice.one_in(2))
    }

    /// Whether that is how it sleeps now.
    fn sleeps(&self, at: usize, asleep: &Asleep) -> bool {
        self.asleep.contains(&at) && self.world.members[at].starts == asleep.starts
    }

    /// What a client that goes away now has been promised.
    ///
    /// # Errors
    /// When its records are not understood.
    pub(super) fn falls_asleep(&mut self, at: usize) -> Result<(), LabError> {
        let Some(watched) = self.watched.as_ref().filter(|watched| watched.client == at) else {
            return Ok(());
        };
        if watched.asleep.as_ref().is_some_and(|asleep| self.sleeps(at, asleep)) {
            return Ok(()); // It is away already.
        }
        let (height, starts) = (self.world.chain.height(), self.world.members[at].starts);
        // Of a factory that it has left, or hasn't signed for, there is nothing.
        let has_all = |engine: &Engine, instance: InstanceId| {
            let mut watchers = engine.watchers(instance, height).into_iter();
            watchers.any(|it| it.appointments > 0 && it.missing == 0 && it.refused.is_none())
        };
        let live = self.world.members[at].engine.as_ref().filter(|_| self.world.seen(at) == Some(height));
        let all = live.into_iter().flat_map(|engine| {
            let instances = engine.factories().map(|factory| factory.instance);
            instances.filter(move |instance| has_all(engine, *instance))
        });
        let mut promised: BTreeSet<InstanceId> = all.collect();
        let stored = Box::new(self.world.rebuild(at)?);
        let sold = stored.factories().flat_map(|factory| factory.own_sales()).filter(|sold| sold.is_signed());
        let mut bought: BTreeSet<ChannelId> = sold.map(|sold| sold.channel_id()).collect();
        let Some(watched) = &mut self.watched else { return Ok(()) };
        let mut first = height;
        if let Some(before) = &watched.asleep {
            promised.retain(|instance| before.promised.contains(instance));
            bought.retain(|channel| before.bought.contains(channel));
            first = before.first;
        }
        watched.asleep = Some(Asleep { stored, promised, bought, first, height, starts });
        Ok(())
    }

    /// Who had to act for a client all the time that it slept, in one of its factories.
    fn watcher(&self, at: usize, instance: InstanceId) -> Option<usize> {
        let watched = self.watched.as_ref().filter(|watched| watched.client == at)?;
        let asleep = watched.asleep.as_ref()?;
        let awake = !self.slept.contains(&watched.tower) && self.world.is_owed(watched.tower);
        (awake && asleep.promised.contains(&instance)).then_some(watched.tower)
    }

    /// The same for a channel that it had bought before, and since when.
    pub(super) fn acts_for(
        &self,
        at: usize,
        channel: ChannelId,
        instance: InstanceId,
    ) -> Option<(usize, Height)> {
        let tower = self.watcher(at, instance)?;
        let asleep = self.watched.as_ref()?.asleep.as_ref()?;
        asleep.bought.contains(&channel).then_some((tower, asleep.first))
    }

    /// Miners take more than the tree pays.
    pub(super) fn note_dear(&mut self) {
        let height = self.world.chain.height();
        if let Some(watched) = &mut self.watched {
            watched.dear.push(height);
        }
    }

    /// How often they did.
    pub(super) fn dear(&self, during: impl Fn(Height) -> bool) -> u32 {
        let all = self.watched.iter().flat_map(|watched| &watched.dear);
        u32::try_from(all.filter(|height| during(**height)).count()).unwrap_or(u32::MAX)
    }

    /// S40: before the next block a tower that has handled the last one has published what is due, and nothing else.
    ///
    /// # Errors
    /// When it hasn't.
    pub(super) fn judge_tower(&mut self) -> Result<(), LabError> {
        let Some((client, tower)) = self.watch() else { return Ok(()) };
        self.world.finish_tower(tower)?;
        let Some(watched) = self.watched.as_ref().filter(|_| self.world.is_owed(client)) else {
            return Ok(());
        };
        let live = self.world.members[client].engine.as_ref();
        let asleep = watched.asleep.as_ref().filter(|asleep| live.is_none() && self.sleeps(client, asleep));
        let Some(engine) = live.or(asleep.map(|asleep| asleep.stored.as_ref())) else { return Ok(()) };
        for sent in self.world.sent.iter().skip(watched.seen) {
            let for_it = sent.at == tower && sent.what == FOR_ANOTHER;
            if for_it && engine.factories().any(|factory| self.world.was_too_early(factory, sent)) {
                let (txid, height) = (sent.txid, sent.height);
                return Err(error(format!("S40: a tower brings {txid} on chain at {height}, too early")));
            }
        }
        let tip = self.world.chain.height();
        let handled = self.world.members[tower].engine.is_some() && self.world.seen(tower) == Some(tip);
        // What came right before it went is looked for at the next block.
        let overslept = asleep.filter(|asleep| handled && tip > asleep.height).and_then(|_| {
            let mut all = engine.factories().filter(|it| self.watcher(client, it.instance).is_some());
            all.find_map(|factory| self.world.overslept(tower, factory))
        });
        if let Some(txid) = overslept {
            return Err(error(format!(
                "S40: {txid} is due for member {client}, which sleeps, and not published"
            )));
        }
        let looked = self.world.sent.len();
        if let Some(watched) = &mut self.watched {
            watched.seen = looked;
        }
        Ok(())
    }
}
