//! One step of a member: handle, store, apply, effects, and everything that may happen in between.

use std::collections::BTreeMap;

use factory_engine::Input;
use factory_engine::record::event::{Event, decode_record};
use factory_engine::types::InstanceId;

use crate::{LabError, error};

use super::chaos::Commit;
use super::{CrashAt, Fed, World};

impl World {
    /// Takes one more record into the engine that stands for the store.
    pub(super) fn follow(&mut self, at: usize, events: &[(InstanceId, Vec<Event>)]) -> Result<(), LabError> {
        if !self.follows(at) {
            self.members[at].shadow = None;
            return Ok(());
        }
        let unreadable =
            |why: &dyn std::fmt::Display| error(format!("S10: member {at} can't read its records: {why}"));
        let Some(mut shadow) = self.members[at].shadow.take() else {
            self.members[at].shadow = Some(self.rebuild(at)?);
            return Ok(());
        };
        let mut read: BTreeMap<InstanceId, usize> = BTreeMap::new();
        for (instance, _) in events {
            *read.entry(*instance).or_default() += 1;
        }
        for (instance, new) in read {
            // From the store's own bytes: what is read must be what was written.
            let records = self.members[at].store.records(instance);
            for record in &records[records.len().saturating_sub(new)..] {
                let record = decode_record(record).map_err(|why| unreadable(&why))?;
                shadow.load(instance, [record]).map_err(|why| unreadable(&why))?;
            }
        }
        self.members[at].shadow = Some(shadow);
        Ok(())
    }

    /// Gives a member something to handle: handle, store, apply, effects.
    ///
    /// # Errors
    /// When a property is violated.
    pub fn feed(&mut self, at: usize, input: Input) -> Result<Fed, LabError> {
        let height = self.members[at].view.last().map_or(0, |(height, _)| *height);
        let now = self.now;
        let member = &mut self.members[at];
        let Some(engine) = &member.engine else {
            return Ok(Fed::Down);
        };
        if let Some(chaos) = &mut self.chaos {
            chaos.input(at, &input, engine, height);
        }
        let step = engine.handle(input, now, height, &mut member.rng);
        let durable = !step.events.is_empty();
        if durable && let Some(fed) = self.commit(at, &step.events)? {
            return Ok(fed);
        }
        let answer = step.answer.clone();
        let Some(engine) = &mut self.members[at].engine else {
            return Ok(Fed::Down);
        };
        let effects = engine.apply(step).map_err(error)?;
        self.members[at].unsettled = engine.unsettled();
        if durable && self.follows(at) {
            self.judge_recovery(at);
        }
        for effect in effects {
            let random = self.chaos.as_mut().is_some_and(|chaos| chaos.between(at));
            if random {
                self.stop(at);
                return Ok(Fed::Crashed);
            }
            if self.crash_now(at, |crash| crash.between_effects(durable)) {
                return Ok(Fed::Crashed);
            }
            self.execute(at, effect)?;
            if self.members[at].engine.is_none() {
                return Ok(Fed::Crashed);
            }
        }
        match self.judge.violations.first() {
            Some(violation) => Err(error(violation)),
            None => Ok(Fed::Done(answer)),
        }
    }

    /// Stores a step's events, unless something happens.
    fn commit(&mut self, at: usize, events: &[(InstanceId, Vec<Event>)]) -> Result<Option<Fed>, LabError> {
        let chance = self.chaos.as_mut().map_or(Commit::Fine, |chaos| chaos.commit(at, events));
        if chance == Commit::CrashBefore {
            self.stop(at);
        }
        if chance == Commit::CrashBefore || self.crash_now(at, |crash| crash.before_store()) {
            return Ok(Some(Fed::Crashed));
        }
        let within = self.members[at].crash.and_then(CrashAt::within_store).filter(|_| events.len() > 1);
        if let Some(fault) = within
            && let Some(happened) = self.members[at].store.crash_within(events, fault)?
        {
            if happened {
                self.judge.stored(at, events);
                self.judge_events(at, events);
            }
            self.stop(at);
            return Ok(Some(Fed::Crashed));
        }
        if chance == Commit::Fails || self.members[at].store.append(events).is_err() {
            return Ok(Some(Fed::StoreFailed));
        }
        self.judge.stored(at, events);
        self.judge_events(at, events);
        self.follow(at, events)?;
        if chance == Commit::CrashAfter {
            self.stop(at);
        }
        if chance == Commit::CrashAfter || self.crash_now(at, |crash| crash.after_store()) {
            return Ok(Some(Fed::Crashed));
        }
        Ok(None)
    }
}
