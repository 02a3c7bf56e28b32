//! The operator's side of a ceremony: invitations, joins, channel opens, attempts and retries.
//! What is signed is in `lsp_signing`.

use std::collections::BTreeSet;

use crate::engine::Engine;
use crate::io::{
    Answer, Create, Effect, KnownChannel, Level, NodeError, OpenFailure, PreparedFunding, Refusal,
};
use crate::memory::Volatile;
use crate::memory::ceremony::{LspCeremony, Phase, VolatileLsp, silent};
use crate::record::attempt::Role;
use crate::record::event::{Aborted, AttemptStarted, ChannelCommitted, Created, Forgotten, FundingReserved};
use crate::record::factory::Factory;
use crate::record::state::State;
use crate::signing::Coordinator;
use crate::step::builder::{StepBuilder, short};
use crate::step::fault::Fault;
use crate::terms::{ClientIndex, Terms};
use crate::tx::layout::Layout;
use crate::tx::scripts::{is_payout, key_script};
use crate::tx::tree::funding_key;
use crate::types::{Amount, ChannelId, InstanceId, NodeId, OutPoint, PROTOCOL_ID, ScriptBuf, Transaction};
use crate::wire::message::{Abort, ChannelInFactory, ExpectChannel, Invite, Join, Resume};

impl Engine {
    pub(crate) fn create(&self, step: &mut StepBuilder<'_>, create: &Create) -> Result<Answer, Refusal> {
        self.check_clients(create)?;
        let instance = InstanceId(step.rng.bytes32());
        let config = &self.config;
        let terms = Terms {
            instance,
            lsp: self.me,
            shape: create.shape.clone(),
            capacities: create.clients.iter().map(|(_, capacity)| *capacity).collect(),
            stock: create.stock,
            push_msat: config.push_msat,
            state_step: config.state_step,
            state_count: config.state_count,
            stock_csv: config.stock_csv,
            tree_feerate: create.tree_feerate,
            timeout_height: step.height.saturating_add(create.lifetime_blocks),
            dying_blocks: create.dying_blocks,
            confirm_blocks: config.confirm_blocks,
            margin_blocks: config.margin_blocks,
            funding_confirmations: config.funding_confirmations,
        };
        let layout = Layout::new(&terms).map_err(Refusal::Terms)?;
        let needed = u32::from(layout.worst_blocks_early()).saturating_add(create.dying_blocks);
        if create.lifetime_blocks <= needed {
            return Err(Refusal::LifetimeTooShort { lifetime_blocks: create.lifetime_blocks, needed });
        }
        // S21: from its first day on it would have to be evicted.
        let needed = layout
            .worst_eviction_blocks()
            .saturating_add(u32::from(terms.funding_confirmations))
            .saturating_add(1);
        if create.lifetime_blocks <= needed {
            let (lifetime_blocks, stock_csv) = (create.lifetime_blocks, terms.stock_csv);
            return Err(Refusal::NoTimeToEvict { lifetime_blocks, needed, stock_csv });
        }
        let clients: Vec<NodeId> = create.clients.iter().map(|(node, _)| *node).collect();
        step.event(
            instance,
            Created { terms: terms.clone(), clients: clients.clone(), protocol: PROTOCOL_ID },
        );
        self.invite(step, &terms, 1, &clients);
        Ok(Answer::Created(instance))
    }

    fn check_clients(&self, create: &Create) -> Result<(), Refusal> {
        if create.clients.is_empty() {
            return Err(Refusal::NoClients);
        }
        let mut seen = BTreeSet::new();
        for (node, _) in &create.clients {
            if *node == self.me {
                return Err(Refusal::ThisNode(*node));
            }
            if !seen.insert(*node) {
                return Err(Refusal::NamedTwice(*node));
            }
            if !self.peers.contains(node) {
                return Err(Refusal::NotConnected(*node));
            }
        }
        Ok(())
    }

    /// Begins an attempt: its ceremony, and an invitation for each client that is connected.
    fn invite(&self, step: &mut StepBuilder<'_>, terms: &Terms, attempt: u32, clients: &[NodeId]) {
        let deadline = step.now.saturating_add(self.config.invite_timeout);
        let own_key = self.factory_key(terms.instance, attempt).public().x_only_public_key().0.serialize();
        let ceremony = LspCeremony::new(attempt, terms.clients(), own_key, Phase::Inviting, deadline);
        step.volatile(Volatile::StartLsp(terms.instance, ceremony));
        // The terms made a layout when the attempt was decided on.
        let Ok(layout) = Layout::new(terms) else {
            return;
        };
        for (client, node) in (0u32..).zip(clients) {
            if self.peers.contains(node) {
                step.send(*node, invitation(terms, &layout, attempt, client));
            }
        }
    }

    pub(crate) fn on_join(&self, step: &mut StepBuilder<'_>, peer: NodeId, join: Join) -> Result<(), Fault> {
        let (factory, ceremony, client) = self.member(peer, join.instance, join.attempt)?;
        if let Some(before) = ceremony.joins.get(&client) {
            return if *before == join {
                Ok(())
            } else {
                Err(Fault::peer("a second join that differs from the first"))
            };
        }
        if ceremony.phase != Phase::Inviting {
            return Err(Fault::stale("joining is over"));
        }
        let expected = factory.current.layout.sessions(Some(client)).len();
        let nonces = Coordinator::check_nonces(&join.nonces, expected).map_err(Fault::peer)?;
        if !is_payout(&join.payout) {
            return Err(Fault::peer("its payout script is not P2WPKH, P2WSH or P2TR"));
        }
        // S5: the same key twice would let one signature count for two.
        // So would its negation, which is the same key in a Taproot output.
        let key = join.factory_key.x_only_public_key().0.serialize();
        if key == ceremony.own_key || ceremony.keys.contains(&key) {
            return Err(Fault::peer("its factory key is another member's"));
        }
        // The change first: what follows from it may end the attempt.
        step.volatile(Volatile::Lsp(factory.instance, VolatileLsp::Joined(client, join.clone(), nonces)));
        if ceremony.signing.lacks_only(client) {
            let mut joins = ceremony.joins.clone();
            joins.insert(client, join);
            self.open_channels(step, factory, &joins);
        }
        Ok(())
    }

    /// Everybody has joined: fund, and announce the channels.
    fn open_channels(
        &self,
        step: &mut StepBuilder<'_>,
        factory: &Factory,
        joins: &std::collections::BTreeMap<ClientIndex, Join>,
    ) {
        let own = self.factory_key(factory.instance, factory.current.number).public();
        let roster = crate::create::lsp_signing::roster_of(own, joins);
        let key = match funding_key(&factory.current.layout, &roster) {
            Ok(key) => Box::new(key),
            Err(error) => {
                return self.give_up(step, factory, &format!("its keys make no funding script: {error}"));
            }
        };
        let script = key_script(key.output_key());
        let instance = factory.instance;
        let deadline = step.now.saturating_add(self.config.ceremony_timeout);
        step.volatile(Volatile::Lsp(instance, VolatileLsp::FundingKey(key)));
        step.volatile(Volatile::Lsp(instance, VolatileLsp::Phase(Phase::Opening, deadline)));
        step.effect(Effect::PrepareFunding {
            instance,
            attempt: factory.current.number,
            script,
            amount: factory.current.layout.funding_value(),
        });
        for (client, node) in (0u32..).zip(&factory.current.clients) {
            step.send(
                *node,
                ExpectChannel {
                    instance,
                    attempt: factory.current.number,
                    client,
                    capacity: factory.capacity(client),
                    push_msat: factory.current.terms.push_msat,
                    channel_in_factory: factory.channel_in_factory(client),
                },
            );
        }
    }

    pub(crate) fn on_expecting(
        &self,
        step: &mut StepBuilder<'_>,
        peer: NodeId,
        instance: InstanceId,
        attempt: u32,
    ) -> Result<(), Fault> {
        let (factory, ceremony, client) = self.member(peer, instance, attempt)?;
        if ceremony.phase != Phase::Opening || ceremony.expecting.contains(&client) {
            return Err(Fault::stale("its channel is open already"));
        }
        step.volatile(Volatile::Lsp(instance, VolatileLsp::Expecting(client)));
        step.effect(Effect::StartChannel {
            instance,
            attempt,
            client,
            sale: None,
            peer,
            capacity: factory.capacity(client),
            push_msat: factory.current.terms.push_msat,
        });
        Ok(())
    }

    pub(crate) fn on_channel_started(
        &self,
        step: &mut StepBuilder<'_>,
        instance: InstanceId,
        attempt: u32,
        client: ClientIndex,
        result: Result<ScriptBuf, OpenFailure>,
    ) {
        let Some((factory, ceremony)) = self.current(instance, attempt) else {
            // The attempt ended while lightningd opened; the cancel that belongs to it is queued.
            return;
        };
        let Some(peer) = factory.node_of(client) else {
            return;
        };
        let script = match result {
            Ok(script) if script.is_p2wsh() => script,
            Ok(_) => {
                return self.give_up(step, factory, "a channel's funding script is not P2WSH");
            }
            Err(error) => {
                let reason = format!("the channel with {peer} can't be opened: {error}");
                return self.restart(step, factory, &error.blames(peer), &reason);
            }
        };
        step.volatile(Volatile::Lsp(instance, VolatileLsp::Script(client, script.clone())));
        let others = ceremony.scripts.keys().filter(|other| **other != client).count();
        if let Some(funding) = &ceremony.funding
            && others.saturating_add(1) == factory.current.clients.len()
        {
            let mut scripts = ceremony.scripts.clone();
            scripts.insert(client, script);
            self.begin_signing(step, factory, ceremony, &scripts, funding);
        }
    }

    pub(crate) fn on_funding_prepared(
        &self,
        step: &mut StepBuilder<'_>,
        instance: InstanceId,
        attempt: u32,
        result: Result<PreparedFunding, NodeError>,
    ) {
        let Some((factory, ceremony)) = self.current(instance, attempt) else {
            if let Ok(funding) = result {
                step.effect(Effect::ReleaseFunding { inputs: inputs(&funding.tx) });
            }
            return;
        };
        let funding = match result {
            Ok(funding) => funding,
            Err(error) => {
                return self.give_up(step, factory, &format!("the wallet can't fund it: {error}"));
            }
        };
        // What can't be read again is never stored.
        let known = funding.prevouts.len() == funding.tx.input.len();
        if !known || funding.prevouts.iter().any(|prevout| prevout.value > Amount::MAX_MONEY) {
            step.effect(Effect::ReleaseFunding { inputs: inputs(&funding.tx) });
            return self.give_up(step, factory, "the wallet doesn't say what its inputs are worth");
        }
        // So that a restart knows what to give back.
        let (tx, prevouts) = (funding.tx.clone(), funding.prevouts.clone());
        step.event(instance, FundingReserved { attempt, tx, prevouts });
        step.volatile(Volatile::Lsp(instance, VolatileLsp::Funding(funding.clone())));
        if ceremony.scripts.len() == factory.current.clients.len() {
            self.begin_signing(step, factory, ceremony, &ceremony.scripts, &funding);
        }
    }

    pub(crate) fn on_client_abort(
        &self,
        step: &mut StepBuilder<'_>,
        factory: &Factory,
        peer: NodeId,
        abort: &Abort,
    ) -> Result<(), Fault> {
        self.member(peer, abort.instance, abort.attempt)?;
        let reason = format!("{peer} aborts: {}", abort.reason);
        // Whom it blames is not believed (S4): a member names only itself.
        let left_out: &[NodeId] = if abort.retry != 0 { &[] } else { &[peer] };
        self.restart(step, factory, left_out, &reason);
        Ok(())
    }

    /// A member broke the protocol: go on without it, unless the channels are already committed to.
    pub(crate) fn lsp_fault(
        &self,
        step: &mut StepBuilder<'_>,
        factory: &Factory,
        peer: NodeId,
        reason: &str,
    ) {
        if self.lsp.contains_key(&factory.instance) && factory.client_of(peer).is_some() {
            self.restart(step, factory, &[peer], &format!("{peer}: {reason}"));
        }
    }

    pub(crate) fn lsp_peer_up(&self, step: &mut StepBuilder<'_>, peer: NodeId) {
        for (factory, ceremony, client) in self.ceremonies_with(peer) {
            match ceremony.phase {
                Phase::Inviting if !ceremony.joins.contains_key(&client) => {
                    step.send(
                        peer,
                        invitation(
                            &factory.current.terms,
                            &factory.current.layout,
                            factory.current.number,
                            client,
                        ),
                    );
                }
                Phase::Completing => self.ask_for_check(step, factory, peer, client),
                Phase::Inviting | Phase::Opening | Phase::Signing | Phase::Storing => {}
            }
        }
    }

    /// A disconnect ends a pending open in lightningd, and a new one has a new script: an attempt
    /// can't survive it between the first `fundchannel_start` and the last `fundchannel_complete`.
    pub(crate) fn lsp_peer_down(&self, step: &mut StepBuilder<'_>, peer: NodeId) {
        for (factory, ceremony, client) in self.ceremonies_with(peer) {
            match ceremony.phase {
                // With the connection the client has lost the nonces of its join; it is asked again.
                Phase::Inviting if ceremony.joins.contains_key(&client) => {
                    step.volatile(Volatile::Lsp(factory.instance, VolatileLsp::Unjoined(client)));
                }
                Phase::Inviting | Phase::Completing => {}
                Phase::Opening | Phase::Signing | Phase::Storing => {
                    self.restart(step, factory, &[], &format!("{peer} disconnected"))
                }
            }
        }
    }

    pub(crate) fn on_resume(
        &self,
        step: &mut StepBuilder<'_>,
        peer: NodeId,
        resume: &Resume,
    ) -> Result<(), Fault> {
        let Some(factory) = self.factories.get(&resume.instance) else {
            // Forgotten here: nobody shall wait for it (S29).
            step.send(peer, over(resume, "the operator knows no such factory"));
            return Ok(());
        };
        if factory.current.role != Role::Lsp {
            return Err(Fault::stale("it is not a client of ours"));
        }
        let Some(client) = factory.client_of(peer) else {
            // It was away when it was left out, and still waits (S29).
            let left_out = factory.left_out.iter().rev().find(|(node, _)| *node == peer);
            let (_, why) = left_out.ok_or_else(|| Fault::stale("it is not a client of ours"))?;
            step.send(peer, over(resume, &format!("it was left out: {why}")));
            return Ok(());
        };
        match self.lsp.get(&factory.instance) {
            // Its nonces are gone with its memory: a new join replaces the old.
            Some(ceremony)
                if ceremony.phase == Phase::Inviting && resume.attempt == factory.current.number =>
            {
                if ceremony.joins.contains_key(&client) {
                    step.volatile(Volatile::Lsp(factory.instance, VolatileLsp::Unjoined(client)));
                }
                step.send(
                    peer,
                    invitation(
                        &factory.current.terms,
                        &factory.current.layout,
                        factory.current.number,
                        client,
                    ),
                );
            }
            Some(ceremony) if ceremony.phase == Phase::Completing => {
                self.ask_for_check(step, factory, peer, client);
            }
            Some(_) => {}
            None if factory.phase() == State::Funding => self.tell_broadcast(step, factory, peer),
            None => {
                let reason =
                    factory.failure().map(str::to_owned).unwrap_or_else(|| "the factory is gone".into());
                step.send(peer, over(resume, &reason));
            }
        }
        Ok(())
    }

    pub(crate) fn lsp_tick(&self, step: &mut StepBuilder<'_>) {
        for (instance, ceremony) in &self.lsp {
            let Some(factory) = self.factories.get(instance) else {
                continue;
            };
            if step.now < ceremony.deadline {
                continue;
            }
            let silent = silent(factory, ceremony);
            if silent.is_empty() {
                self.give_up(step, factory, "the operator's own node was not ready in time");
            } else {
                let names: Vec<String> = silent.iter().map(NodeId::to_string).collect();
                let phase = ceremony.phase.name();
                let reason = format!("no answer in time in phase {phase} from {}", names.join(", "));
                self.restart(step, factory, &silent, &reason);
            }
        }
    }

    pub(crate) fn lsp_started(
        &self,
        step: &mut StepBuilder<'_>,
        factory: &Factory,
        channels: &[KnownChannel],
    ) {
        match factory.phase() {
            State::Joining | State::Signing | State::Storing => {
                self.restart(step, factory, &[], "this node was restarted");
            }
            State::Opening => self.resume_completing(step, factory, channels),
            State::Funding if factory.funding_height().is_none() => self.send_funding(step, factory),
            State::Aborted if factory.signed_for().is_empty() => {
                step.event(
                    factory.instance,
                    Forgotten { reason: "it ended before anything was signed".into() },
                );
            }
            State::Invited
            | State::Funding
            | State::Active
            | State::Dying
            | State::Exiting
            | State::Exited
            | State::Distributed
            | State::Declined
            | State::Aborted
            | State::Closed => {}
        }
    }

    /// After a restart between the first and the last `fundchannel_complete`: what lightningd has
    /// committed counts, whether or not we came to store it.
    fn resume_completing(&self, step: &mut StepBuilder<'_>, factory: &Factory, channels: &[KnownChannel]) {
        let mut missing = false;
        let id_of = |client| {
            factory.current.tree.as_ref().and_then(|tree| tree.channel_outpoint(client)).map(ChannelId::of)
        };
        let ids: Vec<Option<ChannelId>> = (0..factory.current.terms.clients()).map(id_of).collect();
        for (client, id) in (0u32..).zip(&ids) {
            match *id {
                Some(channel_id) if channels.iter().any(|channel| channel.channel_id == channel_id) => {
                    if !factory.current.channels.contains_key(&client) {
                        step.event(factory.instance, ChannelCommitted { client, channel_id });
                    }
                }
                _ => missing = true,
            }
        }
        if missing {
            for id in ids {
                if let Some(channel) = channels.iter().find(|channel| Some(channel.channel_id) == id) {
                    step.effect(Effect::CloseChannel { channel_id: channel.channel_id });
                }
            }
            self.restart(step, factory, &[], "this node was restarted before every channel was committed");
        } else {
            let deadline = step.now.saturating_add(self.config.invite_timeout);
            let own_key = self
                .factory_key(factory.instance, factory.current.number)
                .public()
                .x_only_public_key()
                .0
                .serialize();
            let clients = factory.current.terms.clients();
            let ceremony =
                LspCeremony::new(factory.current.number, clients, own_key, Phase::Completing, deadline);
            step.volatile(Volatile::StartLsp(factory.instance, ceremony));
        }
    }

    /// Gives the attempt up, leaves nothing behind, and begins the next one with whoever is left.
    pub(crate) fn restart(
        &self,
        step: &mut StepBuilder<'_>,
        factory: &Factory,
        left_out: &[NodeId],
        reason: &str,
    ) {
        let kept: Vec<(NodeId, bitcoin::Amount)> = factory
            .current
            .clients
            .iter()
            .copied()
            .zip(factory.current.terms.capacities.iter().copied())
            .filter(|(node, _)| !left_out.contains(node))
            .collect();
        if kept.is_empty() || factory.current.number >= self.config.max_attempts {
            let reason = if kept.is_empty() {
                reason.to_owned()
            } else {
                format!("{reason}; gave up after {} attempts", factory.current.number)
            };
            return self.give_up(step, factory, &reason);
        }
        self.clean_up(step, factory, left_out, reason);
        let attempt = factory.current.number.saturating_add(1);
        let clients: Vec<NodeId> = kept.iter().map(|(node, _)| *node).collect();
        let capacities = kept.iter().map(|(_, capacity)| *capacity).collect();
        let terms = Terms { capacities, ..factory.current.terms.clone() };
        step.log(
            Level::Info,
            format!(
                "{}: attempt {} failed ({reason}); attempt {attempt} with {} clients",
                factory.instance,
                factory.current.number,
                clients.len()
            ),
        );
        step.event(
            factory.instance,
            AttemptStarted {
                attempt,
                terms: terms.clone(),
                clients: clients.clone(),
                reason: short(reason),
                left_out: left_out.to_vec(),
            },
        );
        self.invite(step, &terms, attempt, &clients);
    }

    /// L: creation ends for good, with no further attempt; clients are told why.
    pub(crate) fn give_up(&self, step: &mut StepBuilder<'_>, factory: &Factory, reason: &str) {
        self.clean_up(step, factory, &factory.current.clients, reason);
        step.volatile(Volatile::End(factory.instance));
        step.event(factory.instance, Aborted { reason: short(reason) });
    }

    /// Undoes what the attempt has done in lightningd, here and at the clients.
    fn clean_up(&self, step: &mut StepBuilder<'_>, factory: &Factory, left_out: &[NodeId], reason: &str) {
        let ceremony = self.lsp.get(&factory.instance);
        let phase = ceremony.map_or(0, |ceremony| ceremony.phase.number());
        for (client, node) in (0u32..).zip(&factory.current.clients) {
            step.abort(factory, *node, phase, reason, !left_out.contains(node));
            if let Some(channel_id) = factory.current.channels.get(&client) {
                step.effect(Effect::CloseChannel { channel_id: *channel_id });
            } else if ceremony.is_some_and(|ceremony| ceremony.expecting.contains(&client)) {
                step.effect(Effect::CancelChannel { peer: *node });
            }
        }
        if let Some(reserved) = &factory.current.reserved {
            step.effect(Effect::ReleaseFunding { inputs: inputs(&reserved.tx) });
        }
    }

    /// The factory, its ceremony and the peer's place in it.
    pub(crate) fn member(
        &self,
        peer: NodeId,
        instance: InstanceId,
        attempt: u32,
    ) -> Result<(&Factory, &LspCeremony, ClientIndex), Fault> {
        let (factory, ceremony) =
            self.current(instance, attempt).ok_or_else(|| Fault::stale("no such ceremony is under way"))?;
        let client =
            factory.client_of(peer).ok_or_else(|| Fault::stale("it is not a client of this factory"))?;
        Ok((factory, ceremony, client))
    }

    pub(crate) fn current(&self, instance: InstanceId, attempt: u32) -> Option<(&Factory, &LspCeremony)> {
        let factory = self.factories.get(&instance)?;
        let ceremony = self.lsp.get(&instance)?;
        (ceremony.attempt == attempt && factory.current.number == attempt).then_some((factory, ceremony))
    }

    fn ceremonies_with(&self, peer: NodeId) -> impl Iterator<Item = (&Factory, &LspCeremony, ClientIndex)> {
        self.lsp.iter().filter_map(move |(instance, ceremony)| {
            let factory = self.factories.get(instance)?;
            Some((factory, ceremony, factory.client_of(peer)?))
        })
    }
}

/// The answer to who resumes what is over: about the attempt that it knows.
fn inputs(tx: &Transaction) -> Vec<OutPoint> {
    tx.input.iter().map(|input| input.previous_output).collect()
}

fn over(resume: &Resume, reason: &str) -> Abort {
    let (instance, attempt) = (resume.instance, resume.attempt);
    Abort { instance, attempt, phase: 0, reason: short(reason), blames: None, retry: 0 }
}

fn invitation(terms: &Terms, layout: &Layout, attempt: u32, client: ClientIndex) -> Invite {
    Invite {
        instance: terms.instance,
        attempt,
        terms: terms.clone(),
        client,
        price_msat: 0,
        channel_in_factory: ChannelInFactory {
            factory_protocol: crate::wire::message::protocol_id(),
            factory_instance: terms.instance,
            blocks_early: layout.blocks_early(client),
        },
    }
}
