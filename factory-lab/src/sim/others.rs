//! What comes from outside of the protocol: strangers on the chain, a database from an older copy,
//! people who answer an invitation.

use factory_engine::terms::Terms;
use factory_engine::types::{InstanceId, NodeId};
use factory_engine::{Command, Input, Policy, State};

use crate::fault::{Dice, Kind};
use crate::offer::invitation;
use crate::world::LSP;
use crate::{LabError, error};

use super::run::Run;

/// What a disk makes of a record, or a newer version would have written: none of it can be read.
fn garbage(record: &[u8], dice: &mut Dice) -> Vec<u8> {
    let (first, rest) = record.split_first().unwrap_or((&0, &[]));
    match dice.below(3) {
        0 => vec![],
        1 => record[..record.len().saturating_sub(1)].to_vec(),
        _ => [&[first.wrapping_add(1)], rest].concat(),
    }
}

impl Run {
    /// Makes the copy once it is due, and brings it back once that is.
    pub(super) fn restore(&mut self) -> Result<(), LabError> {
        for mut plan in std::mem::take(&mut self.restores) {
            let at = plan.at;
            match plan.copy.take() {
                None if self.world.members[at].store.appends >= plan.commits => {
                    plan.copy = Some((self.world.backup(at), self.steps.saturating_add(plan.wait)));
                    self.restores.push(plan);
                }
                Some((copy, due)) if self.steps >= due => {
                    if !(self.gone && at == LSP) {
                        if let Some(chaos) = &mut self.world.chaos {
                            chaos.trace.line(|| format!("{at}    comes back with an older database"));
                        }
                        self.world.restore(at, copy)?;
                    }
                }
                other => {
                    plan.copy = other;
                    self.restores.push(plan);
                }
            }
        }
        Ok(())
    }

    /// Damages a record once that is due. Its node stops, and finds out when it comes back (S33).
    pub(super) fn damage(&mut self) {
        for mut plan in std::mem::take(&mut self.damages) {
            let (at, store) = (plan.at, &self.world.members[plan.at].store);
            let instances: Vec<InstanceId> = store.instances().collect();
            if store.appends < plan.commits || instances.is_empty() {
                self.damages.push(plan);
                continue;
            }
            let instance = instances[plan.dice.below(instances.len())];
            let records = store.records(instance);
            let index = plan.dice.below(records.len().max(1));
            let Some(record) = records.get(index) else { continue };
            let bytes = garbage(record, &mut plan.dice);
            if let Some(chaos) = &mut self.world.chaos {
                chaos.trace.line(|| format!("{at}    has record {index} damaged"));
            }
            self.world.damage(at, instance, index, bytes);
            self.world.stop(at);
        }
    }

    /// Whoever is asked answers, sooner or later.
    pub(super) fn answer_invitations(&mut self) -> Result<(), LabError> {
        let members = self.world.members.len();
        let all = self.all().into_iter().flat_map(|instance| (1..members).map(move |at| (instance, at)));
        for (instance, at) in all.collect::<Vec<_>>() {
            let config = &self.world.members[at].config;
            let asks = config.policy == Policy::Ask || config.renew == Policy::Ask;
            if !asks || self.world.state(at, instance) != Some(State::Invited) || !self.dice.one_in(8) {
                continue;
            }
            let command = if self.dice.one_in(4) {
                Command::Decline { instance, reason: "not today".into() }
            } else {
                self.world.acceptance(at, instance)?
            };
            // A refusal (the operator is away) is an answer, too: it is tried again.
            self.world.feed(at, Input::Command(command))?;
        }
        Ok(())
    }

    /// S28: a thousand strangers invite a client, each to a factory of its own. What they leave is bounded.
    ///
    /// # Errors
    /// When it isn't.
    pub(super) fn meet_strangers(&mut self) -> Result<(), LabError> {
        let Some(at) = self.strangers.take().filter(|at| self.world.members[*at].engine.is_some()) else {
            return Ok(());
        };
        let known = |run: &Self| run.world.members[at].engine.as_ref().map_or(0, |e| e.factories().count());
        let before = known(self);
        let Some(instance) = self.instance else { return Ok(()) };
        let Some(terms) = self.world.factory(LSP, instance).ok().map(|f| f.current.terms.clone()) else {
            return Ok(());
        };
        for _ in 0..1_000 {
            let mut id = [2; 33];
            id[1..9].copy_from_slice(&self.dice.next_number().to_be_bytes());
            let (peer, mut other) = (NodeId(id), [7; 32]);
            other[..8].copy_from_slice(&self.dice.next_number().to_be_bytes());
            let (instance, lsp) = (InstanceId(other), peer);
            let timeout_height = self.world.chain.height().saturating_add(500);
            let terms = Terms { instance, lsp, timeout_height, ..terms.clone() };
            let invite = invitation(&terms, 0)?;
            self.world.feed(at, Input::PeerUp { peer, channels: false })?;
            self.world.feed(at, Input::Message { peer, payload: invite.encode() })?;
            self.world.feed(at, Input::PeerDown { peer })?;
        }
        let more = known(self).saturating_sub(before);
        if more > 16 {
            return Err(error(format!(
                "S28: a thousand strangers have left {more} invitations at member {at}"
            )));
        }
        Ok(())
    }

    /// Spends by others, right before a block.
    pub(super) fn foreign_spends(&mut self) {
        let height = self.world.chain.height();
        let text = || format!("height {height}");
        if let Some(mut dice) = self.roll(Kind::AnchorSpent, text) {
            let anchors = self.world.anchors();
            if let Some(anchor) = anchors.get(dice.below(anchors.len())) {
                let taken = self.world.spend_anchor(*anchor);
                self.note_spend("anchor", taken);
            }
        }
        if self.roll(Kind::FundingChild, text).is_some()
            && let Some(instance) = self.instance
        {
            let taken = self.world.spend_change(instance);
            self.note_spend("change", taken);
        }
        if self.takes_stock && !self.gone {
            let taken = self.world.take_stock();
            self.note_spend("stock", taken);
        }
    }

    /// lightningd closes a channel: for an error of its own or of its peer, or at its user's word.
    pub(super) fn close_alone(&mut self) {
        let height = self.world.chain.height();
        // A run that renews has many more blocks.
        if self.renewing.is_some() && !self.dice.one_in(5) {
            return;
        }
        let Some(mut dice) = self.roll(Kind::CloseAlone, || format!("height {height}")) else { return };
        let at = dice.below(self.world.members.len());
        let channels = self.world.channels_of(at);
        let asleep = self.world.members[at].engine.is_none() && !dice.one_in(4);
        if let Some(channel) = channels.get(dice.below(channels.len())).filter(|_| !asleep) {
            if let Some(chaos) = &mut self.world.chaos {
                chaos.trace.note("close", at, &channel.0);
                chaos.trace.line(|| format!("{at}    lightningd closes {channel}"));
            }
            self.world.close(at, *channel);
        }
    }

    fn note_spend(&mut self, what: &str, taken: bool) {
        if let (Some(chaos), true) = (&mut self.world.chaos, taken) {
            chaos.trace.note(what, 0, &[]);
            chaos.trace.line(|| format!("somebody spends: {what}"));
        }
    }
}
