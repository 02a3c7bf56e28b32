//! L's side of a close, until everybody has said what it has.

use std::collections::BTreeMap;

use crate::close::ready::held;
use crate::close::{abort, change, fail};
use crate::engine::Engine;
use crate::io::{Answer, CannotClose, ChannelBalance, Effect, Level, NodeError, Refusal};
use crate::memory::closing::{ClosePhase, LspClose, VolatileClose};
use crate::record::attempt::Role;
use crate::record::factory::Factory;
use crate::signing::Coordinator;
use crate::step::builder::StepBuilder;
use crate::step::fault::Fault;
use crate::step::reason::Reason;
use crate::terms::ClientIndex;
use crate::tx::close::Share;
use crate::tx::scripts::is_payout;
use crate::types::{InstanceId, NodeId};
use crate::wire::message::{CloseAbort, CloseAsk, CloseJoin};

impl Engine {
    /// `factory-close`.
    pub(crate) fn close(&self, step: &mut StepBuilder<'_>, instance: InstanceId) -> Result<Answer, Refusal> {
        let factory = self.factories.get(&instance).ok_or(Refusal::Unknown(instance))?;
        let members = self.may_close(factory, step.height)?;
        self.start_close(step, factory, members);
        Ok(Answer::Done)
    }

    /// From here on no HTLC is let on the factory's channels; what they hold then is looked at.
    fn start_close(
        &self,
        step: &mut StepBuilder<'_>,
        factory: &Factory,
        members: BTreeMap<ClientIndex, NodeId>,
    ) {
        let (instance, attempt) = (factory.instance, factory.current.number);
        let mut bytes = [0; 8];
        bytes.copy_from_slice(step.rng.bytes32().first_chunk::<8>().unwrap_or(&[0; 8]));
        let round = u64::from_be_bytes(bytes);
        if factory.stock_payout.is_none() {
            step.effect(Effect::NewPayout { instance, attempt });
        }
        for peer in members.values() {
            step.effect(Effect::CheckEmpty { instance, peer: *peer, freeze: round });
        }
        let text = format!("{instance}: closing it together with {} clients", members.len());
        step.log(Level::Info, text);
        let close = LspClose {
            round,
            phase: ClosePhase::Looking,
            signing: Coordinator::new(members.keys().copied()),
            members,
            looked: BTreeMap::new(),
            shares: BTreeMap::new(),
            deadline: step.now.saturating_add(self.config.ceremony_timeout),
        };
        change(step, VolatileClose::StartLsp(instance, Box::new(close)));
    }

    /// What lightningd says of the channels with one of them. Once it has of all, they are asked.
    pub(super) fn lsp_looked(
        &self,
        step: &mut StepBuilder<'_>,
        factory: &Factory,
        close: &LspClose,
        result: &Result<Vec<ChannelBalance>, NodeError>,
    ) {
        if close.phase != ClosePhase::Looking {
            return;
        }
        let list = match result {
            Ok(list) => list,
            Err(error) => {
                let reason = format!("lightningd doesn't say what channels hold: {error}");
                return self.end_close(step, factory, close, &reason.into());
            }
        };
        let mut looked: Vec<ChannelBalance> = close.looked.values().copied().collect();
        looked.extend(list.iter().copied());
        change(step, VolatileClose::Looked(factory.instance, list.clone()));
        for client in close.members.keys() {
            match held(factory, *client, &looked) {
                Ok(_) => {}
                // It is still to come, or the deadline ends it.
                Err(CannotClose::NotLive(id)) if !looked.iter().any(|known| known.channel_id == id) => return,
                Err(why) => return self.end_close(step, factory, close, &why.to_string().into()),
            }
        }
        let deadline = step.now.saturating_add(self.config.ceremony_timeout);
        change(step, VolatileClose::Asking(factory.instance, deadline));
        for peer in close.members.values() {
            let (instance, attempt, round) = (factory.instance, factory.current.number, close.round);
            step.send(*peer, CloseAsk { instance, attempt, round });
        }
    }

    /// A client says what it has. It has to be what L's lightningd says, too.
    pub(crate) fn on_close_join(
        &self,
        step: &mut StepBuilder<'_>,
        peer: NodeId,
        message: &CloseJoin,
    ) -> Result<(), Fault> {
        let (factory, close, client) =
            self.closing_with(peer, message.instance, message.attempt, message.round)?;
        if close.phase != ClosePhase::Asking || close.shares.contains_key(&client) {
            return Err(Fault::stale("nothing is asked of it now"));
        }
        let nonces = Coordinator::check_nonces(&message.nonces, 1).map_err(Fault::peer)?;
        if !is_payout(&message.script) {
            return Err(Fault::peer("a script that is neither P2WPKH nor P2WSH nor P2TR"));
        }
        let looked: Vec<ChannelBalance> = close.looked.values().copied().collect();
        let share = Share { client, balance: message.balance, script: message.script.clone() };
        let known = held(factory, client, &looked).map_err(|why| Fault::stale(why.to_string()))?;
        if share.balance != known {
            let text = format!("{{}} says that it has {}, and this node says {known}", share.balance);
            self.end_close(step, factory, close, &Reason::about(text, [peer]));
            return Ok(());
        }
        let before = factory.unfinished_close().and_then(|close| close.share(client));
        if before.is_some_and(|before| *before != share) {
            let reason =
                Reason::about("{} wants to be paid otherwise than in the close that was signed", [peer]);
            self.end_close(step, factory, close, &reason);
            return Ok(());
        }
        change(step, VolatileClose::JoinedLsp(factory.instance, share.clone(), nonces.clone()));
        if close.signing.lacks_only(client) {
            self.propose_close(step, factory, close, (share, &nonces));
        }
        Ok(())
    }

    /// A client doesn't sign now, and says why.
    pub(crate) fn on_close_abort(
        &self,
        step: &mut StepBuilder<'_>,
        peer: NodeId,
        message: &CloseAbort,
    ) -> Result<(), Fault> {
        if self.known(message.instance)?.current.role != Role::Lsp {
            return self.on_lsp_close_abort(step, peer, message);
        }
        let (factory, close, _) =
            self.closing_with(peer, message.instance, message.attempt, message.round)?;
        let reason = Reason::about("{} doesn't sign", [peer]).said(message.reason.to_string());
        self.end_close(step, factory, close, &reason);
        Ok(())
    }

    /// The close under way that a client's message is about.
    pub(super) fn closing_with(
        &self,
        peer: NodeId,
        instance: InstanceId,
        attempt: u32,
        round: u64,
    ) -> Result<(&Factory, &LspClose, ClientIndex), Fault> {
        let factory = self.known(instance)?;
        let client =
            factory.client_of(peer).ok_or_else(|| Fault::stale("it is not a client of this factory"))?;
        if attempt != factory.current.number {
            return Err(Fault::stale("it is of another attempt"));
        }
        let close = self.closes.lsp.get(&instance).filter(|close| close.round == round);
        let close = close.filter(|close| close.members.contains_key(&client));
        Ok((factory, close.ok_or_else(|| Fault::stale("no such close is under way"))?, client))
    }

    /// This try comes to nothing. Whoever has not signed goes on as before.
    pub(super) fn end_close(
        &self,
        step: &mut StepBuilder<'_>,
        factory: &Factory,
        close: &LspClose,
        reason: &Reason,
    ) {
        let instance = factory.instance;
        step.log(Level::Unusual, format!("{instance}: not closed: {reason}"));
        fail(step, instance, &reason.to_string());
        change(step, VolatileClose::End(instance));
        for peer in close.members.values().filter(|peer| self.peers.contains(*peer)) {
            step.send(*peer, abort(factory, close.round, &reason.told(*peer)));
        }
    }

    /// A message of this client's broke the protocol.
    pub(crate) fn close_fault(
        &self,
        step: &mut StepBuilder<'_>,
        factory: &Factory,
        peer: NodeId,
        reason: &str,
    ) {
        if let Some(close) = self.closes.lsp.get(&factory.instance)
            && close.members.values().any(|member| *member == peer)
        {
            let reason = Reason::about(format!("{{}} breaks the protocol: {reason}"), [peer]);
            self.end_close(step, factory, close, &reason);
        } else if factory.current.role != Role::Lsp && factory.lsp() == peer {
            self.leave_close(step, factory, reason);
        }
    }

    pub(super) fn lsp_closes_peer_down(&self, step: &mut StepBuilder<'_>, peer: NodeId) {
        for (instance, close) in &self.closes.lsp {
            if let Some(factory) = self.factories.get(instance)
                && close.members.values().any(|member| *member == peer)
            {
                self.end_close(step, factory, close, &Reason::about("{} disconnected", [peer]));
            }
        }
    }

    /// S29: whoever is silent is named.
    pub(super) fn lsp_closes_tick(&self, step: &mut StepBuilder<'_>) {
        for (instance, close) in &self.closes.lsp {
            let Some(factory) = self.factories.get(instance).filter(|_| step.now >= close.deadline) else {
                continue;
            };
            let lacks = |client: &ClientIndex| close.signing.lacks(*client);
            let silent = close.members.iter().filter(|(client, _)| lacks(client)).map(|(_, node)| *node);
            let reason = match close.phase {
                ClosePhase::Looking => "lightningd doesn't show every channel of it".into(),
                ClosePhase::Asking | ClosePhase::Signing => {
                    Reason::about("no answer in time from {}", silent.collect::<Vec<_>>())
                }
            };
            self.end_close(step, factory, close, &reason);
        }
    }

    /// A close that was signed for, and that L has not given up: the same again, with fresh nonces (S2, S8).
    pub(super) fn close_again_if_all_are_here(&self, step: &mut StepBuilder<'_>, factory: &Factory) {
        if factory.current.role != Role::Lsp || factory.unfinished_close().is_none() {
            return;
        }
        if let Ok(members) = self.may_close(factory, step.height) {
            self.start_close(step, factory, members);
        }
    }
}
