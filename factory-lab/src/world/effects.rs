//! What members ask of their lightningd.

use factory_engine::terms::ClientIndex;
use factory_engine::tx::layout::RESERVE_MSAT;
use factory_engine::tx::verify::verify_holdings;
use factory_engine::types::{Amount, ChannelId, InstanceId, NodeId, OutPoint, ScriptBuf, Transaction, Txid};
use factory_engine::{Answer, Effect, Input, OpenChannel, OpenFailure};

use crate::chain::Chain;
use crate::node::{Balances, Channel, PendingOpen, commitment, funding_script};
use crate::{LabError, error};

use super::{Fed, Sent, World};

impl World {
    pub(super) fn execute(&mut self, at: usize, effect: Effect) -> Result<(), LabError> {
        match effect {
            Effect::Send { peer, message } => self.send(at, peer, message)?,
            Effect::NewPayout { instance, attempt } => {
                let lightningd = &mut self.members[at].lightningd;
                let taproot = lightningd.rng.below(2) == 0;
                let script = if taproot { lightningd.new_taproot_script() } else { lightningd.new_script() };
                self.answer(at, Input::PayoutReady { instance, attempt, result: Ok(script) });
            }
            Effect::PrepareFunding { instance, attempt, script, amount, reclaims } => {
                let result = self.members[at]
                    .lightningd
                    .prepare_funding(&self.chain, script, amount, &reclaims)
                    .map_err(|error| error.to_string().into());
                self.answer(at, Input::FundingPrepared { instance, attempt, result });
            }
            Effect::ReleaseFunding { inputs } => self.members[at].lightningd.release_funding(&inputs),
            Effect::StartChannel { instance, attempt, client, sale, peer, capacity, push_msat } => {
                let result = self.start_channel(at, peer, capacity, push_msat)?;
                let result = result.map_err(|error| self.open_failure(at, peer, error));
                self.answer(at, Input::ChannelStarted { instance, attempt, client, sale, result });
            }
            Effect::Disconnect { peer } => {
                if let Some(other) = self.member_of(peer) {
                    self.disconnect(at, other);
                }
            }
            Effect::CancelChannel { peer } => {
                if let Some(other) = self.member_of(peer) {
                    let id = self.members[at].id;
                    self.members[at].lightningd.pending.remove(&peer);
                    self.members[other].lightningd.pending.remove(&id);
                }
            }
            Effect::CompleteChannel { instance, attempt, client, sale, peer, leaf, prevout: _ } => {
                let result = self.complete_channel(at, peer, &leaf);
                let result = result.map_err(|error| self.open_failure(at, peer, error.to_string()));
                self.answer(at, Input::ChannelCompleted { instance, attempt, client, sale, result });
            }
            Effect::CheckChannel { instance, attempt, sale, channel_id, outpoint, output } => {
                let result = self.members[at].lightningd.check_channel(channel_id, outpoint, &output);
                self.answer(at, Input::ChannelChecked { instance, attempt, sale, result });
            }
            Effect::CheckUnspent { instance, attempt, height, outpoint } => {
                let here = self.chain.coin(outpoint).is_some();
                let result = Ok(here && self.chain.waiting_spender(outpoint).is_none());
                self.answer(at, Input::Unspent { instance, attempt, height, result });
            }
            Effect::SendFunding { instance, tx, witnesses, .. } => {
                self.judge_funding(at, instance);
                self.judge_reclaimed_inputs(at, &witnesses);
                let sent = self.members[at].lightningd.send_funding(&mut self.chain, tx, &witnesses);
                if let Err(error) = sent {
                    self.members[at].log.push((factory_engine::Level::Unusual, error.to_string()));
                }
            }
            Effect::Broadcast { instance, what, tx } => {
                self.judge_taking(at, &tx);
                self.judge_reclaim(at, &tx);
                self.broadcast(at, what.clone(), &tx);
                // What nothing depends on isn't said: a run would be another one.
                if what.starts_with("reclaim") {
                    self.tell_published(at, instance, what, tx.compute_txid());
                }
            }
            Effect::Bump(raise) => {
                let outcome = self.raise(at, &raise);
                self.answer(at, outcome);
            }
            Effect::MakeInvoice { instance, label, amount_msat, .. } => {
                self.make_invoice(at, instance, label, amount_msat);
            }
            Effect::WaitInvoice { instance, label } => self.wait_invoice(at, instance, label),
            Effect::EndInvoice { instance, label } => self.end_invoice(at, instance, label),
            Effect::PayInvoice { instance, peer, invoice } => self.pay_invoice(at, instance, peer, &invoice),
            Effect::LookPayment { instance, payment_hash } => self.look_payment(at, instance, payment_hash),
            Effect::CheckOrdinary { instance, channel_id, .. } => {
                let result = self.check_ordinary(at, channel_id);
                self.answer(at, Input::OrdinaryChecked { instance, channel_id, result });
            }
            Effect::FundChannel { instance, buyer, peer, amount } => {
                self.fund_channel(at, (instance, buyer), peer, amount);
            }
            Effect::FindOrdinary { instance, peer, opened } => {
                let there = self.members[at].lightningd.ordinary.iter().any(|known| {
                    (known.channel_id, known.peer, known.capacity) == (opened.channel_id, peer, opened.amount)
                });
                self.answer(at, Input::OrdinaryFound { instance, opened, result: Ok(there) });
            }
            Effect::ReadBalances { peer } => {
                let list = self.balances(at, peer);
                self.answer(at, Input::Balances(list));
            }
            Effect::CheckEmpty { instance, peer, freeze } => {
                let result = Ok(self.balances(at, peer));
                self.answer(at, Input::Emptied { instance, freeze, result });
            }
            Effect::Connect { peer } => {
                let other = self.member_of(peer).filter(|other| self.members[*other].engine.is_some());
                if let Some(other) = other.filter(|other| self.connects && !self.connected(at, *other)) {
                    self.connect(at.min(other), at.max(other))?;
                }
            }
            Effect::MutualClose { channel_id } => self.close_together(at, channel_id),
            Effect::RenewalDue { instance, blocks_left, .. } => {
                self.notices.push((at, instance, blocks_left));
            }
            Effect::Wake { instance, peer, by, reason } => {
                if let Some(client) = self.member_of(peer) {
                    self.wakes.push((instance, client, by, reason));
                }
            }
            Effect::SendMove(send) => self.send_move(at, *send),
            Effect::LookMove { instance, payment_hash, .. } => self.look_move(at, instance, payment_hash),
            Effect::SetFees { peer, channel_id, free } => self.set_fees(at, peer, channel_id, free),
            Effect::CloseChannel { channel_id, .. } => self.close(at, channel_id),
            Effect::Copy { instance, urgent, peers } => self.copy(at, instance, peers.then_some(urgent)),
            Effect::Shelf { peer, request } => self.serve_shelf(at, peer, request),
            Effect::BringBack { keeper, copy } => self.bring_back(at, keeper, copy)?,
            Effect::ReadAgain { peer, payload } => self.answer(at, Input::Message { peer, payload }),
            Effect::Appoint { instance } => self.answer(at, Input::Appoint { instance }),
            Effect::Tower { peer, request } => self.serve_tower(at, peer, request),
            Effect::KeepReceipt(signed) => self.keep_receipt(at, *signed),
            Effect::StateChanged { old, new, .. } => {
                if let Some(chaos) = &mut self.chaos {
                    chaos.changed(at, old, new);
                }
            }
            Effect::Log { level, text } => {
                if level == factory_engine::Level::Broken && !self.is_excused(at, &text) {
                    self.judge.violations.push(format!("member {at} logs: {text}"));
                }
                self.judge_blame(at, &text);
                if let Some(chaos) = &mut self.chaos {
                    chaos.trace.line(|| format!("{at}    # {text}"));
                }
                self.members[at].log.push((level, text));
            }
        }
        Ok(())
    }

    pub(super) fn answer(&mut self, at: usize, input: Input) {
        self.tasks.entry(at).or_default().push_back(input);
    }

    pub(super) fn broadcast(&mut self, at: usize, what: String, tx: &Transaction) {
        let result = self.chain.submit(tx).map(|_| ());
        let (txid, height): (Txid, _) = (tx.compute_txid(), self.chain.height());
        if let Some(chaos) = &mut self.chaos {
            chaos.trace.note("broadcast", at, &bitcoin::consensus::serialize(&txid));
            chaos.trace.line(|| format!("{at}    broadcast {what} {txid}: {result:?}"));
        }
        self.sent.push(Sent { at, what, txid, height, result });
    }

    /// `fundchannel_start`: the fundee's plugin answers the `openchannel` hook.
    fn start_channel(
        &mut self,
        at: usize,
        peer: NodeId,
        capacity: Amount,
        push_msat: u64,
    ) -> Result<Result<ScriptBuf, String>, LabError> {
        let Some(other) = self.member_of(peer).filter(|other| self.connected(at, *other)) else {
            return Ok(Err("Unknown peer".into()));
        };
        if self.members[at].lightningd.pending.contains_key(&peer) {
            return Ok(Err("Already funding channel".into()));
        }
        let id = self.members[at].id;
        let open = self.open_of(id, capacity, push_msat);
        let answer = self.feed(other, Input::OpenChannel(open))?;
        match answer {
            Fed::Done(Ok(Answer::AcceptOpen)) => {}
            other => return Ok(Err(format!("They sent ERROR: {other:?}"))),
        }
        if !self.connected(at, other) {
            return Ok(Err("Disconnected".into()));
        }
        let key = self.members[at].lightningd.channel_key();
        let their_key = self.members[other].lightningd.channel_key();
        let (public, their_public) = (key.public(), their_key.public());
        let ours = PendingOpen { key, remote: their_public, capacity, push_msat };
        let theirs = PendingOpen { key: their_key, remote: public, capacity, push_msat };
        self.members[at].lightningd.pending.insert(peer, ours);
        self.members[other].lightningd.pending.insert(id, theirs);
        let honest = funding_script(public, their_public).to_p2wsh();
        Ok(Ok(self.foreign_scripts.get(&other).cloned().unwrap_or(honest)))
    }

    /// lightningd fails an open whose connection has ended; a new connection knows nothing of it.
    fn open_failure(&self, at: usize, peer: NodeId, text: String) -> OpenFailure {
        let gone = self.member_of(peer).is_none_or(|other| !self.connected(at, other));
        if gone || text.contains("No channel funding in progress") {
            OpenFailure::Disconnected(text)
        } else {
            OpenFailure::Refused(text)
        }
    }

    /// What the fundee's hook sees of an `open_channel`; stock lightningd shows no record.
    pub fn open_of(&self, peer: NodeId, capacity: Amount, push_msat: u64) -> OpenChannel {
        OpenChannel {
            peer,
            capacity,
            push_msat,
            reserve_msat: RESERVE_MSAT,
            zeroconf: true,
            channel_in_factory: None,
        }
    }

    /// `fundchannel_complete`: both sides commit, and the channel is usable as far as lightningd cares.
    fn complete_channel(
        &mut self,
        at: usize,
        peer: NodeId,
        leaf: &Transaction,
    ) -> Result<ChannelId, LabError> {
        let other = self.member_of(peer).filter(|other| self.connected(at, *other));
        let other = other.ok_or_else(|| error("Unknown peer"))?;
        let id = self.members[at].id;
        let ours = self.members[at].lightningd.pending.get(&peer).cloned();
        let theirs = self.members[other].lightningd.pending.get(&id).cloned();
        let (Some(ours), Some(theirs)) = (ours, theirs) else {
            return Err(error("No channel funding in progress."));
        };
        let honest = funding_script(theirs.remote, ours.remote).to_p2wsh();
        let script = self.foreign_scripts.get(&other).cloned().unwrap_or(honest);
        let vout = (0..)
            .zip(&leaf.output)
            .find(|(_, output)| output.script_pubkey == script && output.value == ours.capacity)
            .map(|(vout, _)| vout)
            .ok_or_else(|| error("Could not find output to fund channel"))?;
        let outpoint = OutPoint { txid: leaf.compute_txid(), vout };
        self.members[at].lightningd.pending.remove(&peer);
        self.members[other].lightningd.pending.remove(&id);
        self.commit_channel(outpoint, (at, ours), (other, theirs))
    }

    /// Both sides sign a channel's first commitment, and list it.
    pub(super) fn commit_channel(
        &mut self,
        outpoint: OutPoint,
        (at, ours): (usize, PendingOpen),
        (other, theirs): (usize, PendingOpen),
    ) -> Result<ChannelId, LabError> {
        let balances = Balances {
            opener_msat: (ours.capacity.to_sat() * 1000).saturating_sub(ours.push_msat),
            fundee_msat: ours.push_msat,
        };
        let scripts = (self.members[at].lightningd.new_script(), self.members[other].lightningd.new_script());
        let signed = commitment(outpoint, ours.capacity, (&ours.key, &theirs.key), &scripts, balances)?;
        let channel = |peer, open: PendingOpen, opener| Channel {
            peer,
            outpoint,
            capacity: open.capacity,
            key: open.key,
            remote: open.remote,
            opener,
            balances,
            scripts: scripts.clone(),
            commitment: signed.clone(),
            closing: false,
            mutual: false,
            lost: false,
        };
        let (id, peer) = (self.members[at].id, self.members[other].id);
        let channel_id = ChannelId::of(outpoint);
        for (member, channel) in [(at, channel(peer, ours, true)), (other, channel(id, theirs, false))] {
            self.members[member].lightningd.channels.insert(channel_id, channel);
        }
        Ok(channel_id)
    }

    /// lightningd publishes the commitment of a closing channel once its funding output is on chain.
    pub(crate) fn publish_commitments(&mut self, at: usize) {
        let due = |chain: &Chain, channel: &&Channel| {
            channel.closing && !channel.lost && chain.coin(channel.outpoint).is_some()
        };
        let lightningd = &self.members[at].lightningd;
        let due: Vec<Transaction> = lightningd
            .channels
            .values()
            .filter(|channel| due(&self.chain, channel))
            .map(|channel| channel.commitment.clone())
            .collect();
        for tx in due {
            self.broadcast(at, "commitment".into(), &tx);
        }
    }

    /// S11, from outside: every client's own store holds its whole path, both lightningds have the
    /// channel, and the client has checked it.
    fn judge_funding(&mut self, at: usize, instance: InstanceId) {
        if !self.is_owed(at) {
            return;
        }
        let Some(factory) = self.members[at].engine.as_ref().and_then(|engine| engine.factory(instance))
        else {
            return;
        };
        if factory.funding().is_some_and(|funding| self.chain.knows(funding.txid)) {
            // It is out already: this is a repetition.
            return;
        }
        let (clients, funding) = (factory.current.clients.clone(), factory.funding());
        let mut missing = Vec::new();
        for (client, node) in (0..).zip(&clients) {
            if self.member_of(*node).is_some_and(|at| !self.is_owed(at)) {
                continue;
            }
            if let Err(why) = self.is_safe(*node, client, instance, funding) {
                missing.push(format!("S11: funding is sent although for client {client} {why}"));
            }
        }
        self.judge.violations.extend(missing);
    }

    fn is_safe(
        &self,
        node: NodeId,
        client: ClientIndex,
        instance: InstanceId,
        funding: Option<OutPoint>,
    ) -> Result<(), String> {
        let at = self.member_of(node).ok_or("there is no node")?;
        let stored = self.stored(at).map_err(|error| error.to_string())?;
        let factory = stored.factory(instance).ok_or("nothing is stored")?;
        let tree = factory.current.tree.as_ref().ok_or("no tree is stored")?;
        if factory.funding() != funding {
            return Err("another funding is stored".into());
        }
        verify_holdings(&factory.current.layout, tree, &factory.current.signatures)
            .map_err(|problems| format!("holdings are incomplete: {problems:?}"))?;
        let outpoint = tree.channel_outpoint(client).ok_or("there is no channel")?;
        let known = self.members[at].lightningd.channels.contains_key(&ChannelId::of(outpoint));
        if !known || !factory.current.checked.contains(&client) {
            return Err("the channel is not committed and checked".into());
        }
        Ok(())
    }
}
