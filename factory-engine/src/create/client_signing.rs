//! A client's side of a ceremony, from the proposal to its checked channel. It signs only what it
//! rebuilt from terms that it accepted (S3).

use std::sync::Arc;

use crate::create::terms_bytes;
use crate::engine::Engine;
use crate::io::{CheckFailure, Effect, Level, NodeError};
use crate::memory::Volatile;
use crate::memory::ceremony::{ClientCeremony, ExpectedOpen, VolatileClient};
use crate::record::Proposal;
use crate::record::attempt::{Creation, Role};
use crate::record::event::{ChannelChecked, Signed, Signing};
use crate::record::factory::{Factory, build_tree, roster};
use crate::record::state::State;
use crate::signing::{Plan, SignAs, SignJob, Unfinished, check_finished};
use crate::step::builder::StepBuilder;
use crate::step::check_channel;
use crate::step::fault::Fault;
use crate::terms::ClientIndex;
use crate::tx::scripts::key_script;
use crate::tx::transcript;
use crate::tx::tree::Tree;
use crate::types::{ChannelId, Height, InstanceId, NodeId};
use crate::wire::message::{
    ChannelChecked as CheckedMessage, ChannelCommitted, FundingBroadcast, Propose, Ready, Stored,
};

impl Engine {
    pub(crate) fn on_propose(
        &self,
        step: &mut StepBuilder<'_>,
        peer: NodeId,
        propose: Propose,
    ) -> Result<(), Fault> {
        let (factory, ceremony, index) = self.under_way(peer, propose.instance, propose.attempt)?;
        if step.answers_again(peer, ceremony.signing.asked(&propose))? {
            return Ok(());
        }
        if ceremony.open != ExpectedOpen::Seen {
            return Err(Fault::peer("a proposal before its open_channel"));
        }
        let tree = Arc::new(self.rebuild(factory, ceremony, index, &propose)?);
        if step.height == ceremony.joined_at {
            return self.sign_proposal(step, factory, ceremony, propose, tree);
        }
        look_for_funding(step, factory, &propose);
        step.volatile(Volatile::Client(factory.instance, VolatileClient::Hold(Arc::new(propose))));
        Ok(())
    }

    /// S25: a funding in a block that came before we knew what to look for would stay unknown.
    pub(crate) fn on_unspent(
        &self,
        step: &mut StepBuilder<'_>,
        instance: InstanceId,
        attempt: u32,
        height: Height,
        result: Result<bool, NodeError>,
    ) {
        let ceremony = self.client.get(&instance).filter(|ceremony| ceremony.attempt == attempt);
        let Some(ceremony) = ceremony.filter(|ceremony| !ceremony.signing.has_signed()) else { return };
        let (Some(factory), Some(propose)) = (self.factories.get(&instance), &ceremony.held) else { return };
        let Role::Client { index, .. } = factory.current.role else { return };
        let outcome = match result {
            // Another block since.
            Ok(true) if height != step.height => return look_for_funding(step, factory, propose),
            Ok(true) => self.rebuild(factory, ceremony, index, propose).and_then(|tree| {
                self.sign_proposal(step, factory, ceremony, Propose::clone(propose), Arc::new(tree))
            }),
            Ok(false) => Err(Fault::peer("its funding transaction's inputs are spent already")),
            Err(error) => {
                Err(Fault::stale(format!("this node can't see whether its funding is unspent: {error}")))
            }
        };
        if let Err(Fault::Stale(reason) | Fault::Peer(reason)) = outcome {
            self.client_gives_up(step, factory, &reason);
        }
    }

    fn sign_proposal(
        &self,
        step: &mut StepBuilder<'_>,
        factory: &Factory,
        ceremony: &ClientCeremony,
        propose: Propose,
        tree: Arc<Tree>,
    ) -> Result<(), Fault> {
        let plan = Plan::new(tree.clone(), tree.sessions());
        let ledger = plan.ledger();
        self.ledger.check(&ledger).map_err(Fault::peer)?;

        let stored = Proposal::from(&propose);
        let agg_nonces = plan.by_session(&propose.nonces);
        let foreign_hashes = propose.foreign_hashes.iter().copied().collect();
        let transcript = transcript::transcript(
            &terms_bytes(factory),
            &factory.current.layout,
            &roster(&stored),
            &tree,
            &agg_nonces,
            &foreign_hashes,
        )
        .map_err(Fault::peer)?;

        step.event(
            factory.instance,
            Signing { attempt: factory.current.number, proposal: stored, ledger, salt: Some(ceremony.salt) },
        );
        step.volatile(Volatile::Tree(factory.instance, tree));
        let role = SignAs::Member { plan, request: Arc::new(propose) };
        let deadline = step.now.saturating_add(self.config.ceremony_timeout.saturating_mul(2));
        step.volatile(Volatile::Sign(factory.instance, Box::new(SignJob { transcript, role, deadline })));
        Ok(())
    }

    /// Rebuilds every transaction that we would sign, and checks all that the proposal adds to the
    /// terms (S3).
    fn rebuild(
        &self,
        factory: &Factory,
        ceremony: &ClientCeremony,
        index: ClientIndex,
        propose: &Propose,
    ) -> Result<Tree, Fault> {
        let place = usize::try_from(index).map_err(Fault::peer)?;
        let own = (ceremony.join.factory_key, ceremony.join.payout.clone());
        if propose.clients.get(place) != Some(&own) {
            return Err(Fault::peer("our place has another key or payout script than we sent"));
        }
        let stored = Proposal::from(propose);
        let roster = roster(&stored);
        roster.check(&factory.current.layout).map_err(Fault::peer)?;

        let funding = &propose.funding_tx;
        if funding.input.is_empty() || funding.input.iter().any(|input| !input.script_sig.is_empty()) {
            return Err(Fault::peer(
                "its funding transaction is not made of native segwit inputs: the txid is not final",
            ));
        }
        let foreign = propose.channel_scripts.iter().any(|(_, script)| !script.is_p2wsh());
        if foreign {
            return Err(Fault::peer("a channel's funding script is not P2WSH"));
        }
        let tree =
            build_tree(&factory.current.layout, factory.scope(), &stored, None).map_err(Fault::peer)?;
        let script = tree.output_key(0).map(key_script);
        let vout = usize::try_from(propose.funding_vout).map_err(Fault::peer)?;
        let output =
            funding.output.get(vout).ok_or_else(|| Fault::peer("its funding output doesn't exist"))?;
        if Some(&output.script_pubkey) != script.as_ref()
            || output.value != factory.current.layout.funding_value()
        {
            return Err(Fault::peer(format!(
                "its funding output is {} to {}, not {} to the members' key",
                output.value,
                output.script_pubkey,
                factory.current.layout.funding_value()
            )));
        }
        if tree.sessions().len() != propose.nonces.len() {
            return Err(Fault::peer(format!(
                "{} aggregate nonces for {} transactions",
                propose.nonces.len(),
                tree.sessions().len()
            )));
        }
        Ok(tree)
    }

    pub(crate) fn on_ready(
        &self,
        step: &mut StepBuilder<'_>,
        peer: NodeId,
        ready: Ready,
    ) -> Result<(), Fault> {
        let factory = self.own_factory(peer, ready.instance, ready.attempt)?;
        let tree = match (&factory.current.tree, factory.phase()) {
            (Some(tree), State::Signing) => tree,
            (Some(tree), State::Storing | State::Opening | State::Funding) => {
                let plan = Plan::new(tree.clone(), tree.sessions());
                return if plan.by_session(&ready.signatures) == factory.current.signatures {
                    step.send(peer, Stored { instance: factory.instance, attempt: factory.current.number });
                    Ok(())
                } else {
                    Err(Fault::stale("other signatures are stored already"))
                };
            }
            _ => return Err(Fault::stale("nothing was signed yet")),
        };
        let plan = Plan::new(tree.clone(), tree.sessions());
        check_finished(&plan, &ready.signatures).map_err(|wrong| match wrong {
            Unfinished::Count { given, expected } => {
                Fault::peer(format!("{given} signatures for {expected} transactions"))
            }
            Unfinished::Invalid(session) => {
                let name = crate::record::factory::session_name(factory, session);
                Fault::peer(format!("the signature of {name} doesn't verify"))
            }
        })?;
        step.event(factory.instance, Signed { signatures: ready.signatures });
        step.send(peer, Stored { instance: factory.instance, attempt: factory.current.number });
        Ok(())
    }

    pub(crate) fn on_channel_committed(
        &self,
        step: &mut StepBuilder<'_>,
        peer: NodeId,
        message: &ChannelCommitted,
    ) -> Result<(), Fault> {
        let factory = self.own_factory(peer, message.instance, message.attempt)?;
        let Some((channel_id, check)) = check_channel(factory) else {
            return Err(Fault::stale("no path is stored yet"));
        };
        if channel_id != message.channel_id {
            return Err(Fault::peer("it committed another channel than our leaf's"));
        }
        match factory.current.creation {
            Creation::Storing => step.effect(check),
            Creation::Funding => step.send(peer, checked(factory, channel_id)),
            Creation::Invited
            | Creation::Joining
            | Creation::Signing
            | Creation::Opening
            | Creation::Declined(_)
            | Creation::Aborted(_) => return Err(Fault::stale("no path is stored yet")),
        }
        Ok(())
    }

    pub(crate) fn on_channel_check(
        &self,
        step: &mut StepBuilder<'_>,
        instance: InstanceId,
        attempt: u32,
        result: Result<(), CheckFailure>,
    ) {
        let Some(factory) = self.factories.get(&instance).filter(|factory| factory.current.number == attempt)
        else {
            return;
        };
        let (Role::Client { lsp, index }, State::Storing) = (factory.current.role, factory.phase()) else {
            return;
        };
        let Some((channel_id, _)) = check_channel(factory) else {
            return;
        };
        let failure = match result {
            Ok(()) => None,
            Err(CheckFailure::NotYet) => {
                let text = "this node has no channel on our leaf yet: nothing is relied on before it has";
                step.log(Level::Unusual, format!("{instance}: {text}"));
                return;
            }
            Err(failure) => self.unchecked(step, instance, "the leaf", failure),
        };
        match failure {
            None => {
                step.event(instance, ChannelChecked { client: index, channel_id });
                step.volatile(Volatile::End(instance));
                step.send(lsp, checked(factory, channel_id));
            }
            Some(reason) => self.client_gives_up(step, factory, &reason),
        }
    }

    /// Why a channel can't be relied on that `what` should pay; nothing if it can all the same.
    pub(crate) fn unchecked(
        &self,
        step: &mut StepBuilder<'_>,
        instance: InstanceId,
        what: &str,
        failure: CheckFailure,
    ) -> Option<String> {
        match failure {
            CheckFailure::NotYet => Some("this node has no such channel".to_owned()),
            CheckFailure::Unavailable(reason) if self.config.unsafe_skip_funding_check => {
                step.log(
                    Level::Unusual,
                    format!("{instance}: funding script not checked ({reason}), as an unsafe option says"),
                );
                None
            }
            CheckFailure::Unavailable(reason) => {
                Some(format!("this node can't check its channel's funding script: {reason}"))
            }
            CheckFailure::Mismatch(reason) => {
                let text = format!("{what} does not pay our channel: {reason}");
                step.log(Level::Broken, format!("{instance}: {text}"));
                Some(text)
            }
        }
    }

    pub(crate) fn on_funding_broadcast(
        &self,
        step: &mut StepBuilder<'_>,
        peer: NodeId,
        message: &FundingBroadcast,
    ) -> Result<(), Fault> {
        let factory = self.own_factory(peer, message.instance, message.attempt)?;
        if factory.funding().map(|funding| funding.txid) != Some(message.txid) {
            return Err(Fault::stale("it is not the funding transaction that we signed for"));
        }
        step.log(
            Level::Debug,
            format!("{}: funding transaction {} is broadcast", factory.instance, message.txid),
        );
        Ok(())
    }
}

fn checked(factory: &Factory, channel_id: ChannelId) -> CheckedMessage {
    CheckedMessage { instance: factory.instance, attempt: factory.current.number, channel_id }
}

fn look_for_funding(step: &mut StepBuilder<'_>, factory: &Factory, propose: &Propose) {
    // A transaction spends all of its inputs, or none.
    if let Some(input) = propose.funding_tx.input.first() {
        let (instance, attempt, outpoint) = (factory.instance, factory.current.number, input.previous_output);
        step.effect(Effect::CheckUnspent { instance, attempt, height: step.height, outpoint });
    }
}
