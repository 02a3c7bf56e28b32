//! L's side of a close, from the proposal to the finished signature.

use std::borrow::Cow;

use bitcoin::TxOut;

use crate::close::{change, send_ready};
use crate::engine::Engine;
use crate::io::Level;
use crate::memory::closing::{LspClose, VolatileClose};
use crate::record::event::{CloseSigned, CloseSigning};
use crate::record::factory::{Factory, member_key};
use crate::signing::{Failure, Plan, Refused, SignAs, SignJob};
use crate::step::builder::StepBuilder;
use crate::step::fault::Fault;
use crate::step::reason::Reason;
use crate::terms::ClientIndex;
use crate::tx::close::{Share, transcript};
use crate::tx::musig::{CheckedNonce, PartialSig};
use crate::tx::tree::Session;
use crate::tx::verify::verify_input;
use crate::types::NodeId;
use crate::wire::message::{ClosePartialSignatures, ClosePropose};

impl Engine {
    /// Everybody has said what it has: the close is fixed, and stored before anybody hears of it (S10). `last` came in
    /// this very step.
    pub(super) fn propose_close(
        &self,
        step: &mut StepBuilder<'_>,
        factory: &Factory,
        close: &LspClose,
        (share, nonces): (Share, &[CheckedNonce]),
    ) {
        let instance = factory.instance;
        let client = share.client;
        let mut shares = close.shares.clone();
        shares.insert(client, share);
        if let Some(why) = self.waits_to_know(instance) {
            return self.end_close(step, factory, close, &why.into());
        }
        let shares: Vec<Share> = shares.into_values().collect();
        let built = match self.agreed_close(step, factory, &shares) {
            Ok(built) => built,
            Err(why) => return self.end_close(step, factory, close, &why.into()),
        };
        let Some(tree) = factory.current.tree.clone() else { return };
        let plan = Plan::new(tree, std::slice::from_ref(&built));
        let ledger = plan.ledger();
        if let Err(error) = self.ledger.check(&ledger) {
            return self.end_close(step, factory, close, &error.to_string().into());
        }
        let key = self.factory_key(instance, factory.current.number);
        let held = self.held_keys(instance);
        let last = Some((client, nonces));
        let opened = match close.signing.open_with(plan, last, &key, &held, || step.rng.bytes32()) {
            Ok(opened) => opened,
            Err(error) => {
                let reason = format!("nonces don't aggregate: {error}");
                return self.end_close(step, factory, close, &reason.into());
            }
        };
        let sums = opened.nonces().to_vec();
        let transcript = transcript(instance, factory.current.number, &built, &sums);
        let outputs = outputs_of(&built);
        if factory.current.close.is_none() {
            let height = step.height;
            step.event(instance, CloseSigning { outputs: outputs.clone(), shares, ledger, height });
        }
        let deadline = step.now.saturating_add(self.config.ceremony_timeout);
        let job = SignJob { transcript, role: SignAs::Lsp(opened), deadline };
        change(step, VolatileClose::Sign(instance, Box::new(job)));
        let (attempt, round) = (factory.current.number, close.round);
        for peer in close.members.values() {
            let (outputs, nonces) = (outputs.clone(), sums.clone());
            step.send(*peer, ClosePropose { instance, attempt, round, outputs, nonces });
        }
    }

    /// The close that was signed for, or the one that these shares make.
    fn agreed_close(
        &self,
        step: &StepBuilder<'_>,
        factory: &Factory,
        shares: &[Share],
    ) -> Result<Session, String> {
        if let Some(before) = factory.unfinished_close() {
            return Ok(before.session.clone());
        }
        // S24: something may have begun since they were asked.
        if !factory.is_whole() || factory.is_being_left() {
            return Err("part of the tree is on chain, or on its way there".to_owned());
        }
        // What is the operator's goes to its own wallet, never back to where everybody has to sign.
        let rest = factory.stock_payout.as_ref().ok_or("the wallet has no script for the rest yet")?;
        self.close_of(factory, shares, rest, step.height).map_err(|error| error.to_string())
    }

    pub(crate) fn on_close_partials(
        &self,
        step: &mut StepBuilder<'_>,
        peer: NodeId,
        message: &ClosePartialSignatures,
    ) -> Result<(), Fault> {
        let (factory, close, client) =
            self.closing_with(peer, message.instance, message.attempt, message.round)?;
        match close.signing.check(client, &message.transcript, &message.signatures) {
            Ok(()) => {}
            Err(Refused::NotNow | Refused::Repeated) => {
                return Err(Fault::stale("no partial signature is expected from it now"));
            }
            Err(wrong @ (Refused::Differs | Refused::Transcript | Refused::Count { .. })) => {
                return Err(Fault::peer(wrong));
            }
        }
        let signatures = message.signatures.clone();
        change(step, VolatileClose::Partials(factory.instance, client, signatures));
        if close.signing.lacks_only(client) {
            self.finish_close(step, factory, close, (client, &message.signatures));
        }
        Ok(())
    }

    /// Everybody's partial signatures make the finished one, or somebody's is bad (S4).
    fn finish_close(
        &self,
        step: &mut StepBuilder<'_>,
        factory: &Factory,
        close: &LspClose,
        last: (ClientIndex, &[PartialSig]),
    ) {
        let instance = factory.instance;
        let signed = close.signing.finish(Some(last), |client| member_key(factory, client));
        let signature = match signed.map(|signatures| signatures.into_iter().next()) {
            Ok(Some(signature)) => signature,
            Ok(None) => return,
            Err(Failure::Culprit { client, .. }) => {
                let node = factory.node_of(client);
                let reason =
                    Reason::about("{} sent a bad partial signature", node.into_iter().collect::<Vec<_>>());
                return self.end_close(step, factory, close, &reason);
            }
            Err(failure @ (Failure::NotSigned | Failure::Nobody(_))) => {
                return self.end_close(step, factory, close, &failure.to_string().into());
            }
        };
        // S24: whoever leaves has published its path since, or is about to.
        if !factory.is_whole() || factory.is_being_left() {
            let reason = "part of the tree is on chain, or on its way there".into();
            return self.end_close(step, factory, close, &reason);
        }
        let mut after = Cow::Borrowed(factory);
        let event = CloseSigned { signature };
        if let Err(error) = after.to_mut().apply(&event.clone().into(), None) {
            return self.end_close(step, factory, close, &error.to_string().into());
        }
        let Some((tx, built)) = after.finished_close().zip(factory.unfinished_close()) else { return };
        // Consensus code has to take it.
        if let Err(error) = verify_input(&tx, &built.session.prevout) {
            return self.end_close(step, factory, close, &error.to_string().into());
        }
        step.event(instance, event);
        change(step, VolatileClose::End(instance));
        let (txid, clients) = (built.txid(), close.members.len());
        step.log(Level::Info, format!("{instance}: {clients} clients have signed its close {txid}"));
        send_ready(step, &after, close.members.values().copied());
        self.publish(step, &after);
    }
}

/// What a close pays, without its anchor.
fn outputs_of(session: &Session) -> Vec<TxOut> {
    session.tx.output.split_last().map(|(_, outputs)| outputs.to_vec()).unwrap_or_default()
}
