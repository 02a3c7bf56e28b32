//! The operator's side of a ceremony, from the proposal to the broadcast of the funding.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::create::terms_bytes;
use crate::engine::Engine;
use crate::io::{Effect, Level, OpenFailure, PreparedFunding};
use crate::memory::Volatile;
use crate::memory::ceremony::{LspCeremony, LspStage, Phase, VolatileLsp};
use crate::record::Proposal;
use crate::record::event::{AllStored, ChannelChecked, ChannelCommitted, FundingReleased, Signed, Signing};
use crate::record::factory::{Factory, build_tree, member_key};
use crate::signing::{Failure, Plan, Refused, SignAs, SignJob};
use crate::step::builder::StepBuilder;
use crate::step::fault::Fault;
use crate::step::reason::Reason;
use crate::terms::ClientIndex;
use crate::tx::layout::SessionId;
use crate::tx::musig::{KeyAgg, PartialSig, PublicKey};
use crate::tx::transcript;
use crate::tx::tree::{Member, Roster, Session, Tree};
use crate::types::{ChannelId, InstanceId, NodeId, ScriptBuf};
use crate::wire::message::{
    ChannelChecked as ClientChecked, ChannelCommitted as CommittedMessage, FundingBroadcast, Join,
    PartialSignatures, Propose, Ready,
};

/// Keys and payout scripts of everybody who has joined.
pub(crate) fn roster_of(lsp_key: PublicKey, joins: &BTreeMap<ClientIndex, Join>) -> Roster {
    let member = |join: &Join| Member { key: join.factory_key, payout: join.payout.clone() };
    Roster { lsp_key, clients: joins.values().map(member).collect() }
}

/// What is kept of a proposal.
impl From<&Propose> for Proposal {
    fn from(propose: &Propose) -> Self {
        Self {
            lsp_key: propose.lsp_key,
            clients: propose.clients.clone(),
            funding_tx: propose.funding_tx.clone(),
            funding_vout: propose.funding_vout,
            channel_scripts: propose.channel_scripts.clone(),
            foreign_keys: propose.foreign_keys.clone(),
        }
    }
}

impl Engine {
    /// Everything that determines the transactions is known: fix them, and propose them.
    pub(crate) fn begin_signing(
        &self,
        step: &mut StepBuilder<'_>,
        factory: &Factory,
        ceremony: &LspCeremony,
        funding_key: &KeyAgg,
        scripts: &BTreeMap<ClientIndex, ScriptBuf>,
        funding: &PreparedFunding,
    ) {
        if let Some(why) = self.waits_to_know(factory.instance) {
            return self.give_up(step, factory, why);
        }
        let key = self.factory_key(factory.instance, factory.current.number);
        let roster = roster_of(key.public(), &ceremony.joins);
        let mut proposal = Propose {
            instance: factory.instance,
            attempt: factory.current.number,
            lsp_key: roster.lsp_key,
            clients: roster.clients.iter().map(|member| (member.key, member.payout.clone())).collect(),
            funding_tx: funding.tx.clone(),
            funding_vout: funding.vout,
            channel_scripts: scripts.iter().map(|(client, script)| (*client, script.clone())).collect(),
            foreign_keys: vec![],
            foreign_hashes: vec![],
            nonces: vec![],
        };
        let stored = Proposal::from(&proposal);
        let tree = match build_tree(&factory.current.layout, factory.scope(), &stored, Some(funding_key)) {
            Ok(tree) => Arc::new(tree),
            Err(error) => {
                return self.give_up(step, factory, format!("the tree can't be built: {error}"));
            }
        };
        let plan = Plan::new(tree.clone(), tree.sessions());
        let ledger = plan.ledger();
        if let Err(error) = self.ledger.check(&ledger) {
            return self.give_up(step, factory, error.to_string());
        }
        let opened = match ceremony.signing.open(plan, None, &key, || step.rng.bytes32()) {
            Ok(opened) => opened,
            Err(error) => {
                return self.give_up(step, factory, format!("nonces don't aggregate: {error}"));
            }
        };
        let by_id = opened.plan().by_session(opened.nonces());
        let hashes = transcript::coin_hashes(&factory.current.layout, &tree, &by_id);
        let transcript = hashes
            .as_ref()
            .map_err(Clone::clone)
            .and_then(|hashes| transcript::root(&terms_bytes(factory), &roster, &tree, hashes));
        let (Ok(hashes), Ok(transcript)) = (hashes, transcript) else {
            return self.give_up(step, factory, "the transcript can't be hashed");
        };

        step.event(
            factory.instance,
            Signing { attempt: factory.current.number, proposal: stored, ledger, salt: None },
        );
        step.volatile(Volatile::Tree(factory.instance, tree.clone()));
        let deadline = step.now.saturating_add(self.config.ceremony_timeout);
        let mut nonces = opened.plan().shares(opened.nonces());
        for (client, node) in (0u32..).zip(&factory.current.clients) {
            let foreign = Tree::foreign_coins(&factory.current.layout, client);
            proposal.channel_scripts = scripts
                .range(leaf_clients(factory, client))
                .map(|(other, script)| (*other, script.clone()))
                .collect();
            proposal.foreign_keys =
                foreign.iter().filter_map(|coin| Some((*coin, tree.output_key(*coin)?))).collect();
            proposal.foreign_hashes =
                foreign.iter().filter_map(|coin| Some((*coin, *hashes.get(coin)?))).collect();
            proposal.nonces = nonces.remove(&client).unwrap_or_default();
            step.send(*node, proposal.clone());
        }
        let job = SignJob { transcript, role: SignAs::Lsp(opened), deadline };
        step.volatile(Volatile::Sign(factory.instance, Box::new(job)));
    }

    pub(crate) fn on_partial_signatures(
        &self,
        step: &mut StepBuilder<'_>,
        peer: NodeId,
        message: PartialSignatures,
    ) -> Result<(), Fault> {
        let (factory, ceremony, client) = self.member(peer, message.instance, message.attempt)?;
        match ceremony.signing.check(client, &message.transcript, &message.signatures) {
            Ok(()) => {}
            Err(Refused::Repeated) => return Ok(()),
            Err(late @ Refused::NotNow) => return Err(Fault::stale(late.to_string())),
            Err(wrong @ (Refused::Differs | Refused::Transcript | Refused::Count { .. })) => {
                return Err(Fault::peer(wrong));
            }
        }
        // Before what follows from it: that may end the attempt, and the next must not begin with this.
        step.volatile(Volatile::Lsp(
            factory.instance,
            VolatileLsp::Partials(client, message.signatures.clone()),
        ));
        if ceremony.signing.lacks_only(client) {
            self.finish_signing(step, factory, ceremony, client, &message.signatures);
        }
        Ok(())
    }

    /// `client` was the last: everybody's partial signatures make the finished ones, or somebody's is bad (S4).
    fn finish_signing(
        &self,
        step: &mut StepBuilder<'_>,
        factory: &Factory,
        ceremony: &LspCeremony,
        client: ClientIndex,
        partials: &[PartialSig],
    ) {
        let signing = &ceremony.signing;
        let signatures = match signing.finish(Some((client, partials)), |client| member_key(factory, client))
        {
            Ok(signatures) => signatures,
            Err(failure) => return self.not_signed(step, factory, &failure),
        };
        let deadline = step.now.saturating_add(self.config.ceremony_timeout);
        let mut paths = signing.shares(&signatures);
        step.event(factory.instance, Signed { signatures });
        step.volatile(Volatile::Lsp(
            factory.instance,
            VolatileLsp::Stage(LspStage::Storing(BTreeSet::new()), deadline),
        ));
        for (client, node) in (0u32..).zip(&factory.current.clients) {
            step.send(
                *node,
                Ready {
                    instance: factory.instance,
                    attempt: factory.current.number,
                    signatures: paths.remove(&client).unwrap_or_default(),
                },
            );
        }
    }

    fn not_signed(&self, step: &mut StepBuilder<'_>, factory: &Factory, failure: &Failure) {
        match failure {
            Failure::Culprit { client, session } => {
                let Some(node) = factory.node_of(*client) else { return };
                let reason =
                    Reason::about(format!("{{}} sent a bad partial signature for {session}"), [node]);
                return self.restart(step, factory, &[node], reason);
            }
            Failure::Nobody(_) => {
                step.log(
                    Level::Broken,
                    format!("{}: no member is to blame for a bad signature", factory.instance),
                );
            }
            Failure::NotSigned => {}
        }
        self.give_up(step, factory, failure.to_string());
    }

    pub(crate) fn on_stored(
        &self,
        step: &mut StepBuilder<'_>,
        peer: NodeId,
        instance: InstanceId,
        attempt: u32,
    ) -> Result<(), Fault> {
        let (factory, ceremony, client) = self.member(peer, instance, attempt)?;
        let stored = match &ceremony.stage {
            LspStage::Storing(stored) if !stored.contains(&client) => stored,
            LspStage::Storing(_)
            | LspStage::Inviting
            | LspStage::Opening(_)
            | LspStage::Signing
            | LspStage::Completing => return Err(Fault::stale("nothing is being stored now")),
        };
        step.volatile(Volatile::Lsp(instance, VolatileLsp::Stored(client)));
        if stored.len().saturating_add(1) < factory.current.clients.len() {
            return Ok(());
        }
        // Everybody can leave by itself now. Only from here on may a channel be committed to.
        step.event(instance, AllStored {});
        let deadline = step.now.saturating_add(self.config.ceremony_timeout);
        step.volatile(Volatile::Lsp(instance, VolatileLsp::Stage(LspStage::Completing, deadline)));
        for (client, node) in (0u32..).zip(&factory.current.clients) {
            let Some(leaf) = leaf_of(factory, client) else {
                continue;
            };
            step.effect(Effect::CompleteChannel {
                instance,
                attempt,
                client,
                sale: None,
                peer: *node,
                leaf: leaf.tx.clone(),
                prevout: leaf.prevout.clone(),
            });
        }
        Ok(())
    }

    pub(crate) fn on_channel_completed(
        &self,
        step: &mut StepBuilder<'_>,
        instance: InstanceId,
        attempt: u32,
        client: ClientIndex,
        result: Result<ChannelId, OpenFailure>,
    ) {
        let Some((factory, _)) = self.current(instance, attempt) else {
            if let Ok(channel_id) = result {
                step.effect(Effect::CloseChannel { channel_id, on_chain: false });
            }
            return;
        };
        let Some(node) = factory.node_of(client) else {
            return;
        };
        let expected =
            factory.current.tree.as_ref().and_then(|tree| tree.channel_outpoint(client)).map(ChannelId::of);
        match result {
            Ok(channel_id) if Some(channel_id) == expected => {
                step.event(instance, ChannelCommitted { client, channel_id });
                step.send(node, CommittedMessage { instance, attempt, channel_id });
            }
            Ok(channel_id) => {
                step.effect(Effect::CloseChannel { channel_id, on_chain: false });
                self.give_up(step, factory, "a channel was committed on another outpoint than the leaf's");
            }
            Err(error) => {
                let reason = Reason::no_channel("committed", node, &error);
                self.restart(step, factory, &error.blames(node), reason);
            }
        }
    }

    /// Tells a client again that its channel is committed and waits for its check.
    pub(crate) fn ask_for_check(
        &self,
        step: &mut StepBuilder<'_>,
        factory: &Factory,
        peer: NodeId,
        client: ClientIndex,
    ) {
        let Some(channel_id) = factory.current.channels.get(&client) else {
            return;
        };
        if !factory.current.checked.contains(&client) {
            step.send(
                peer,
                CommittedMessage {
                    instance: factory.instance,
                    attempt: factory.current.number,
                    channel_id: *channel_id,
                },
            );
        }
    }

    pub(crate) fn on_client_checked(
        &self,
        step: &mut StepBuilder<'_>,
        peer: NodeId,
        message: &ClientChecked,
    ) -> Result<(), Fault> {
        let (factory, ceremony, client) = self.member(peer, message.instance, message.attempt)?;
        if ceremony.phase() != Phase::Completing || factory.current.checked.contains(&client) {
            return Err(Fault::stale("its channel is checked already"));
        }
        // S11 wants the channel committed on both sides; it is asked again once it is on ours.
        let Some(committed) = factory.current.channels.get(&client) else {
            return Err(Fault::stale("its channel is not committed here yet"));
        };
        if message.channel_id != *committed {
            return Err(Fault::peer("it checked another channel"));
        }
        step.event(factory.instance, ChannelChecked { client, channel_id: message.channel_id });
        if factory.current.checked.len().saturating_add(1) == factory.current.clients.len() {
            // S11: every path is signed and stored by its member, every channel committed and checked.
            if let Err(why) = self.reclaims_stand(factory, step.height) {
                self.restart(step, factory, &[], why);
                return Ok(());
            }
            step.event(factory.instance, FundingReleased { height: step.height });
            step.volatile(Volatile::End(factory.instance));
            self.send_funding(step, factory);
            for node in &factory.current.clients {
                self.tell_broadcast(step, factory, *node);
            }
        }
        Ok(())
    }

    pub(crate) fn send_funding(&self, step: &mut StepBuilder<'_>, factory: &Factory) {
        let Some(reserved) = &factory.current.reserved else { return };
        match self.reclaim_witnesses(step, factory, reserved) {
            Ok(witnesses) => {
                let (tx, prevouts) = (reserved.tx.clone(), reserved.prevouts.clone());
                step.effect(Effect::SendFunding { instance: factory.instance, tx, prevouts, witnesses });
            }
            Err(why) => {
                let text = format!("{}: its funding isn't sent: {why}", factory.instance);
                step.log(Level::Unusual, text);
            }
        }
    }

    pub(crate) fn tell_broadcast(&self, step: &mut StepBuilder<'_>, factory: &Factory, peer: NodeId) {
        if let Some(funding) = factory.funding() {
            step.send(
                peer,
                FundingBroadcast {
                    instance: factory.instance,
                    attempt: factory.current.number,
                    txid: funding.txid,
                },
            );
        }
    }
}

/// The transaction that has a client's channel as output.
pub(crate) fn leaf_of(factory: &Factory, client: ClientIndex) -> Option<&Session> {
    let (node, _) = factory.current.layout.channel_place(client)?;
    let id = SessionId { coin: node, role: crate::tx::layout::SpendRole::State };
    factory.current.tree.as_ref()?.session(id)
}

/// Clients whose channels stand in the same leaf.
fn leaf_clients(factory: &Factory, client: ClientIndex) -> std::ops::Range<ClientIndex> {
    factory
        .current
        .layout
        .channel_place(client)
        .and_then(|(node, _)| factory.current.layout.node(node))
        .map_or(client..client, |node| node.clients.clone())
}
