//! A client's side of a close. It signs only what it has rebuilt (S3), if that pays all that it has to its own script.

use std::borrow::Cow;
use std::sync::Arc;

use bitcoin::TxOut;

use crate::close::ready::held;
use crate::close::{abort, change, fail};
use crate::engine::Engine;
use crate::io::{ChannelBalance, Effect, Level, NodeError};
use crate::memory::closing::{ClientClose, Joined, VolatileClose};
use crate::record::attempt::Role;
use crate::record::event::{CloseSigned, CloseSigning};
use crate::record::factory::Factory;
use crate::signing::{Plan, SignAs, SignJob, Signer, check_finished};
use crate::step::builder::StepBuilder;
use crate::step::fault::Fault;
use crate::tx::close::{Share, build, pays, transcript};
use crate::tx::tree::Session;
use crate::types::{InstanceId, NodeId};
use crate::wire::message::{CloseAbort, CloseAsk, CloseJoin, ClosePropose, CloseReady};

impl Engine {
    /// L wants to close: from here on no HTLC is let on this client's channels, and what they hold then is looked at.
    pub(crate) fn on_close_ask(
        &self,
        step: &mut StepBuilder<'_>,
        peer: NodeId,
        message: &CloseAsk,
    ) -> Result<(), Fault> {
        let factory = self.own_factory(peer, message.instance, message.attempt)?;
        let (instance, round) = (factory.instance, message.round);
        if factory.has_close() {
            return Err(Fault::stale("its close is finished"));
        }
        if let Some(before) = self.closes.client.get(&instance).filter(|close| close.round == round) {
            if let Some(joined) = before.joined.as_ref().filter(|joined| !joined.signing.has_signed()) {
                step.send(peer, joined.join.clone());
            }
            return Ok(());
        }
        if let Err(why) = self.would_close(factory, step.height) {
            step.log(Level::Unusual, format!("{instance}: does not close it now: {why}"));
            step.send(peer, abort(factory, round, &why.to_string()));
            return Ok(());
        }
        let deadline = step.now.saturating_add(self.config.ceremony_timeout.saturating_mul(2));
        let close = ClientClose { round, joined: None, deadline };
        change(step, VolatileClose::StartClient(instance, Box::new(close)));
        step.effect(Effect::CheckEmpty { instance, peer, freeze: round });
        Ok(())
    }

    /// What the channels hold on which nothing moves any more: without an HTLC that is what the close has to pay.
    pub(super) fn client_looked(
        &self,
        step: &mut StepBuilder<'_>,
        factory: &Factory,
        close: &ClientClose,
        result: &Result<Vec<ChannelBalance>, NodeError>,
    ) {
        if close.joined.is_some() {
            return;
        }
        let looked = result.as_ref().map_err(ToString::to_string);
        let share = looked.and_then(|list| self.own_share(factory, list));
        let (share, Some(salt)) = (share, factory.current.salt) else { return };
        let share = match share {
            Ok(share) => share,
            Err(why) => return self.leave_close(step, factory, &why),
        };
        // Whoever holds a signed factory has signed with this.
        let key = self.client_key(factory.instance, factory.current.number, &salt);
        let (signing, nonces) = Signer::fresh(1, &key, || step.rng.bytes32());
        let join = CloseJoin {
            instance: factory.instance,
            attempt: factory.current.number,
            round: close.round,
            nonces,
            balance: share.balance,
            script: share.script.clone(),
        };
        step.send(factory.lsp(), join.clone());
        let joined = Box::new(Joined { share, join, signing });
        change(step, VolatileClose::JoinedClient(factory.instance, joined));
    }

    /// What this client has, and where it wants it. Of a close that it has signed just that.
    fn own_share(&self, factory: &Factory, list: &[ChannelBalance]) -> Result<Share, String> {
        let Role::Client { index, .. } = factory.current.role else {
            return Err("it is no client".to_owned());
        };
        let balance = held(factory, index, list).map_err(|why| why.to_string())?;
        if let Some(before) = factory.unfinished_close().and_then(|close| close.share(index)) {
            return match before.balance == balance {
                true => Ok(before.clone()),
                false => Err(format!("it has {balance}, and has signed for {}", before.balance)),
            };
        }
        // Of its own wallet, as its distributions pay to it.
        let proposed = factory.current.proposal.as_ref().and_then(|proposal| proposal.client(index));
        let (_, script) = proposed.ok_or("nothing was proposed")?;
        Ok(Share { client: index, balance, script: script.clone() })
    }

    /// The close (S3): built anew, and looked at, before a partial signature leaves.
    pub(crate) fn on_close_propose(
        &self,
        step: &mut StepBuilder<'_>,
        peer: NodeId,
        propose: &ClosePropose,
    ) -> Result<(), Fault> {
        let factory = self.own_factory(peer, propose.instance, propose.attempt)?;
        let close = self.closes.client.get(&factory.instance);
        let close = close.filter(|close| close.round == propose.round);
        let joined = close.and_then(|close| close.joined.as_ref());
        let joined = joined.ok_or_else(|| Fault::stale("no such close is under way"))?;
        if step.answers_again(peer, joined.signing.asked(propose))? {
            return Ok(());
        }
        if let Err(why) = self.would_close(factory, step.height) {
            self.leave_close(step, factory, &why.to_string());
            return Ok(());
        }
        let session = self.rebuilt(factory, &propose.outputs)?;
        pays(&propose.outputs, &joined.share).map_err(Fault::peer)?;
        if propose.nonces.len() != 1 {
            return Err(Fault::peer("it has one aggregate nonce, and no more"));
        }
        let tree = factory.current.tree.clone().ok_or_else(|| Fault::stale("there is no tree"))?;
        let plan = Plan::new(tree, std::slice::from_ref(&session));
        let ledger = plan.ledger();
        self.ledger.check(&ledger).map_err(Fault::peer)?;
        if factory.current.close.is_none() {
            let (outputs, shares, height) =
                (propose.outputs.clone(), vec![joined.share.clone()], step.height);
            step.event(factory.instance, CloseSigning { outputs, shares, ledger, height });
            let text = format!("{}: signs its close {}", factory.instance, session.txid);
            step.log(Level::Info, text);
        }
        let transcript = transcript(factory.instance, factory.current.number, &session, &propose.nonces);
        let deadline = step.now.saturating_add(self.config.ceremony_timeout.saturating_mul(2));
        let role = SignAs::Member { plan, request: Arc::new(propose.clone()) };
        let job = Box::new(SignJob { transcript, role, deadline });
        change(step, VolatileClose::Sign(factory.instance, job));
        Ok(())
    }

    fn rebuilt(&self, factory: &Factory, outputs: &[TxOut]) -> Result<Session, Fault> {
        let tree = factory.current.tree.as_ref().ok_or_else(|| Fault::stale("there is no tree"))?;
        build(&factory.current.layout, tree, outputs).map_err(Fault::peer)
    }

    /// The finished close. That it verifies is proof that this client has signed it, also if that was forgotten (S9).
    pub(crate) fn on_close_ready(
        &self,
        step: &mut StepBuilder<'_>,
        peer: NodeId,
        ready: &CloseReady,
    ) -> Result<(), Fault> {
        let factory = self.own_factory(peer, ready.instance, ready.attempt)?;
        if factory.has_left() || factory.funding_height().is_none() {
            return Err(Fault::stale("nothing of this node's is in this factory"));
        }
        let known = factory.current.close.as_ref();
        if known.is_some_and(|close| close.signature.is_some()) {
            return Err(Fault::stale("it is stored"));
        }
        let session = self.rebuilt(factory, &ready.outputs)?;
        if known.is_some_and(|close| close.session != session) {
            return Err(Fault::peer("another close than the one that was signed"));
        }
        let tree = factory.current.tree.clone().ok_or_else(|| Fault::stale("there is no tree"))?;
        let plan = Plan::new(tree, std::slice::from_ref(&session));
        if check_finished(&plan, &[ready.signature]).is_err() {
            return Err(Fault::peer("the signature of the close doesn't verify"));
        }
        let mut after = Cow::Borrowed(factory);
        let mut events = vec![];
        if known.is_none() {
            let (outputs, shares, ledger) = (ready.outputs.clone(), vec![], plan.ledger());
            events.push(CloseSigning { outputs, shares, ledger, height: step.height }.into());
        }
        events.push(CloseSigned { signature: ready.signature }.into());
        for event in events {
            after.to_mut().apply(&event, None).map_err(Fault::peer)?;
            step.event(factory.instance, event);
        }
        change(step, VolatileClose::End(factory.instance));
        step.log(Level::Info, format!("{}: its close {} is finished", factory.instance, session.txid));
        self.publish(step, &after);
        Ok(())
    }

    /// L ends this try. Of a client that has signed nothing changes: L may have the finished close.
    pub(super) fn on_lsp_close_abort(
        &self,
        step: &mut StepBuilder<'_>,
        peer: NodeId,
        message: &CloseAbort,
    ) -> Result<(), Fault> {
        let factory = self.own_factory(peer, message.instance, message.attempt)?;
        let close = self.closes.client.get(&factory.instance);
        if close.is_none_or(|close| close.round != message.round) {
            return Err(Fault::stale("no such close is under way"));
        }
        self.forget_close(step, factory.instance, &message.reason.to_string());
        Ok(())
    }

    /// Ends our part in this try, and says why.
    pub(super) fn leave_close(&self, step: &mut StepBuilder<'_>, factory: &Factory, reason: &str) {
        let Some(close) = self.closes.client.get(&factory.instance) else { return };
        step.send(factory.lsp(), abort(factory, close.round, reason));
        self.forget_close(step, factory.instance, reason);
    }

    fn forget_close(&self, step: &mut StepBuilder<'_>, instance: InstanceId, reason: &str) {
        step.log(Level::Unusual, format!("{instance}: not closed: {reason}"));
        fail(step, instance, reason);
        change(step, VolatileClose::End(instance));
    }

    /// With the connection L has lost what it was told, and this node forgets the nonces (S2).
    pub(super) fn client_closes_peer_down(&self, step: &mut StepBuilder<'_>, peer: NodeId) {
        for instance in self.closes.client.keys() {
            if self.factories.get(instance).is_some_and(|factory| factory.lsp() == peer) {
                self.forget_close(step, *instance, "the operator disconnected");
            }
        }
    }

    pub(super) fn client_closes_tick(&self, step: &mut StepBuilder<'_>) {
        for (instance, close) in &self.closes.client {
            if let Some(factory) = self.factories.get(instance).filter(|_| step.now >= close.deadline) {
                self.leave_close(step, factory, "the operator went silent");
            }
        }
    }
}
