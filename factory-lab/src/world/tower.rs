//! Who watches the chain for others (S40).

use factory_engine::io::{Kept, TowerAnswer, TowerRequest};
use factory_engine::memory::watching::Name;
use factory_engine::record::appointment::{Appointment, Locator, look_into};
use factory_engine::types::{ChannelId, Height, NodeId, Transaction, Txid};
use factory_engine::{Engine, Input};

use crate::LabError;

use super::World;

impl World {
    /// `Effect::Tower`, as the plugin does it.
    pub(super) fn serve_tower(&mut self, at: usize, peer: NodeId, request: TowerRequest) {
        let answer = match request {
            TowerRequest::Put { tag, appointment, mut kept, since } => {
                let locator = appointment.locator;
                let there = since.map(|height| self.look(height, &[locator]));
                let found = there.as_ref().and_then(|found| found.first());
                kept.trigger = found.map(|(_, trigger)| *trigger).or(kept.trigger);
                let lacks = there.is_some_and(|found| found.is_empty());
                let result =
                    if lacks { Err("the block has nothing that it fits".to_owned()) } else { Ok(()) };
                let name = (peer, tag, locator);
                let before = self.members[at].appointments.get(&name).and_then(|(before, _)| before.trigger);
                kept.trigger = kept.trigger.or(before);
                if result.is_ok() {
                    self.members[at].appointments.insert(name, (kept, appointment));
                }
                TowerAnswer::Put { tag, locator, kept, result }
            }
            TowerRequest::Open { tag, locator, trigger } => {
                let known = self.members[at].appointments.get_mut(&(peer, tag, locator));
                let Some((kept, appointment)) = known else { return };
                kept.trigger = Some(trigger);
                let tasks = appointment.open(trigger.0).map_err(|error| error.to_string());
                TowerAnswer::Opened { tag, locator, trigger, tasks }
            }
            TowerRequest::Look { from, to, locators } => {
                let blocks = from..=to;
                TowerAnswer::Looked(blocks.flat_map(|height| self.look(height, &locators)).collect())
            }
            TowerRequest::Forget { tag, locator } => {
                self.members[at].appointments.remove(&(peer, tag, locator));
                return;
            }
            TowerRequest::Publish { tag, locator, tx } => {
                let inputs = tx.input.iter().map(|input| input.previous_output);
                let is_there = inputs.into_iter().all(|outpoint| self.chain.coin(outpoint).is_some());
                self.broadcast(at, "for another".to_owned(), &tx);
                if is_there {
                    return;
                }
                TowerAnswer::NotThere { tag, locator, txid: tx.compute_txid() }
            }
        };
        self.answer(at, Input::Tower { peer, answer });
    }

    fn look(&self, height: Height, wanted: &[Locator]) -> Vec<(Locator, (Txid, Height))> {
        self.chain.block(height).map_or(vec![], |block| look_into(&block.txs, height, wanted))
    }

    /// What a start finds.
    pub(super) fn load_towers(&self, at: usize, engine: &mut Engine) {
        let member = &self.members[at];
        let kept: Vec<(Name, Kept)> =
            member.appointments.iter().map(|(name, (kept, _))| (*name, *kept)).collect();
        engine.load_towers(kept, member.penalties.iter().cloned());
    }

    /// lightningd's `commitment_revocation` hook.
    ///
    /// # Errors
    /// When a property is violated.
    pub fn revoke(
        &mut self,
        at: usize,
        channel_id: ChannelId,
        commitment: Txid,
        penalty: Transaction,
    ) -> Result<(), LabError> {
        let engine = self.members[at].engine.as_ref();
        if engine.is_some_and(|engine| engine.wants_penalty(channel_id)) {
            self.members[at].penalties.push((channel_id, commitment, penalty.clone()));
        }
        self.feed(at, Input::Revoked { channel_id, commitment, penalty })?;
        Ok(())
    }

    /// What a member watches for others.
    pub fn appointments(&self, at: usize) -> Vec<&Appointment> {
        self.members[at].appointments.values().map(|(_, appointment)| appointment).collect()
    }
}
