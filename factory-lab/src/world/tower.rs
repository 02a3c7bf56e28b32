//! Who watches the chain for others (S40).

use bitcoin::hashes::{Hash, sha256};
use factory_engine::io::{Kept, SignedReceipt, TowerAnswer, TowerRequest};
use factory_engine::memory::watching::Name;
use factory_engine::record::appointment::{Appointment, Locator, look_into};
use factory_engine::terms::ClientIndex;
use factory_engine::tx::layout::SpendRole;
use factory_engine::tx::tree::Session;
use factory_engine::types::{ChannelId, Height, NodeId, Transaction, Txid};
use factory_engine::wire::message::Receipt;
use factory_engine::{Engine, Factory, Input, Role};

use crate::LabError;
use crate::chain::Reject;

use super::judged::early_of_sale;
use super::{FOR_ANOTHER, Sent, World};

impl World {
    /// `Effect::Tower`, as the plugin does it.
    pub(super) fn serve_tower(&mut self, at: usize, peer: NodeId, request: TowerRequest) {
        let answer = match request {
            TowerRequest::Put { tag, appointment, mut kept } => {
                let locator = appointment.locator;
                let name = (peer, tag, locator);
                let before = self.members[at].appointments.get(&name).and_then(|(before, _)| before.trigger);
                kept.trigger = kept.trigger.or(before);
                self.members[at].appointments.insert(name, (kept, appointment));
                TowerAnswer::Put { tag, locator, kept, result: Ok(()) }
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
            TowerRequest::Sign { receipt, text } => {
                let signature = signature(self.members[at].id, &text).into_bytes();
                TowerAnswer::Signed(Receipt { signature, ..receipt })
            }
            TowerRequest::Forget { tag, locator } => {
                self.members[at].appointments.remove(&(peer, tag, locator));
                return;
            }
            TowerRequest::Publish { tag, locator, tx } => {
                let inputs = tx.input.iter().map(|input| input.previous_output);
                let is_there = inputs.into_iter().all(|outpoint| self.chain.coin(outpoint).is_some());
                self.broadcast(at, FOR_ANOTHER.to_owned(), &tx);
                if is_there {
                    return;
                }
                TowerAnswer::NotThere { tag, locator, txid: tx.compute_txid() }
            }
        };
        self.answer(at, Input::Tower { peer, answer });
    }

    /// `Effect::KeepReceipt`, as the plugin does it.
    pub(super) fn keep_receipt(&mut self, at: usize, signed: SignedReceipt) {
        if signed.zbase == signature(signed.tower, &signed.text) {
            self.members[at].receipts.insert((signed.instance, signed.tower), signed.text);
        }
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
        if engine.is_some_and(|engine| engine.wants_penalty(channel_id, &penalty)) {
            self.members[at].penalties.push((channel_id, commitment, penalty.clone()));
        }
        self.feed(at, Input::Revoked { channel_id, commitment, penalty })?;
        Ok(())
    }

    /// What a tower asks its disk and its lightningd is answered in no time, beside blocks.
    ///
    /// # Errors
    /// When a property is violated.
    pub(crate) fn finish_tower(&mut self, at: usize) -> Result<(), LabError> {
        let is_answer = |input: &Input| matches!(input, Input::Tower { .. });
        while let Some(tasks) = self.tasks.get_mut(&at)
            && let Some(place) = tasks.iter().position(is_answer)
            && let Some(input) = tasks.remove(place)
        {
            self.feed(at, input)?;
        }
        Ok(())
    }

    /// S40: a transaction that a client would publish now if it were awake, and that its tower hasn't published since the
    /// last block, whoever else has. By the terms, and by what it had stored when it fell asleep.
    pub(crate) fn overslept(&self, tower: usize, factory: &Factory) -> Option<Txid> {
        let (Role::Client { index, .. }, Some(tree)) = (factory.current.role, &factory.current.tree) else {
            return None;
        };
        // S22: nothing of it is its any more.
        if factory.has_left() {
            return None;
        }
        let (current, height) = (&factory.current, self.chain.height());
        let close = factory.finished_close();
        let leaves = close.is_none() && begin(factory, index).is_some_and(|begin| height >= begin);
        let matured = height >= current.terms.timeout_height;
        // What it bought out of its stock it can't have by a distribution of that stock.
        let stock = current.layout.stock_coin(index).filter(|_| last_sale(factory).is_some());
        let path = current.layout.path(index);
        let has_none = |coin| !current.layout.coin(coin).is_some_and(|coin| coin.has_distribution);
        let is_due = |session: &&Session| match session.id.role {
            SpendRole::State => {
                path.contains(&session.id.coin) && (leaves || matured && has_none(session.id.coin))
            }
            SpendRole::Distribution => matured && Some(session.id.coin) != stock,
            _ => false,
        };
        let there = |outpoint| self.chain.coin(outpoint).is_some_and(|coin| coin.height.is_some());
        let nodes = tree.sessions().iter().filter(is_due).filter(|session| there(session.outpoint));
        let nodes = nodes.filter_map(|session| tree.signed(session.id, current.signatures.get(&session.id)?));
        let sales = self.due_sales(factory).into_iter().map(|(_, tx)| tx);
        let close = close.filter(|tx| tx.input.iter().all(|input| there(input.previous_output)));
        let published = |txid: Txid| {
            let mut last = self.sent.iter().rev().take_while(|sent| sent.height >= height);
            last.any(|sent| sent.at == tower && sent.what == FOR_ANOTHER && sent.txid == txid)
        };
        // That it is in the mempool, or something else is, or that it is too cheap, is no reason not to.
        let may = |tx: &Transaction| {
            matches!(self.chain.check(tx), Ok(_) | Err(Reject::Conflict { .. } | Reject::Fee { .. }))
        };
        let missing = |tx: &Transaction| may(tx) && !published(tx.compute_txid());
        close.into_iter().chain(nodes).chain(sales).find(missing).map(|tx| tx.compute_txid())
    }

    /// S40: what a tower brought on chain is no path that its client wouldn't have taken yet.
    pub(crate) fn was_too_early(&self, factory: &Factory, sent: &Sent) -> bool {
        let (Role::Client { index, .. }, Some(tree)) = (factory.current.role, &factory.current.tree) else {
            return false;
        };
        let is_path = |session: &Session| session.txid == sent.txid && session.id.role == SpendRole::State;
        // Without a sale it may be the way to what has no distribution, from the timeout on.
        let begin = begin(factory, index).unwrap_or(factory.current.terms.timeout_height);
        tree.sessions().iter().any(is_path) && sent.height < begin
    }

    /// What a member watches for others.
    pub fn appointments(&self, at: usize) -> Vec<&Appointment> {
        self.members[at].appointments.values().map(|(_, appointment)| appointment).collect()
    }
}

/// The number of the last sale to this client that is signed.
fn last_sale(factory: &Factory) -> Option<u32> {
    factory.own_sales().filter(|sold| sold.is_signed()).map(|sold| sold.sale.number).max()
}

/// From which height on a client is on its way out; nothing if it may wait for the timeout.
fn begin(factory: &Factory, index: ClientIndex) -> Option<Height> {
    if factory.current.exiting.contains(&index) {
        return Some(0);
    }
    let early = early_of_sale(&factory.current.layout, index, last_sale(factory)?);
    Some(factory.current.terms.timeout_height.saturating_sub(early))
}

/// What stands for `signmessage`: nobody here says that it is somebody else.
fn signature(id: NodeId, text: &str) -> String {
    sha256::Hash::hash(format!("{id} {text}").as_bytes()).to_string()
}
