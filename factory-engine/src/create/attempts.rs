//! L: attempts that go on after a disconnect, a restart or a deadline, that begin again, or that end.

use crate::engine::Engine;
use crate::io::{Effect, KnownChannel, Level};
use crate::memory::Volatile;
use crate::memory::ceremony::{LspCeremony, LspStage, Phase, VolatileLsp, silent};
use crate::record::attempt::{Attempt, Creation, Role};
use crate::record::event::{Aborted, AttemptStarted, ChannelCommitted, Forgotten};
use crate::record::factory::Factory;
use crate::record::state::State;
use crate::report::counting::counted;
use crate::step::builder::{StepBuilder, short};
use crate::step::fault::Fault;
use crate::step::reason::Reason;
use crate::terms::{ClientIndex, Terms};
use crate::types::{ChannelId, NodeId, OutPoint};
use crate::wire::message::{Abort, Invite, Resume};
use crate::wire::words::Words;

use super::client::MAX_ATTEMPT;
use super::lsp::{asked, inputs, invite};

impl Engine {
    pub(crate) fn lsp_peer_up(&self, step: &mut StepBuilder<'_>, peer: NodeId) {
        for (factory, ceremony, client) in self.ceremonies_with(peer) {
            match ceremony.phase() {
                Phase::Inviting if !ceremony.joins.contains_key(&client) => {
                    step.send(peer, invitation(factory, client));
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
            match ceremony.phase() {
                // With the connection the client has lost the nonces of its join; it is asked again.
                Phase::Inviting if ceremony.joins.contains_key(&client) => {
                    step.volatile(Volatile::Lsp(factory.instance, VolatileLsp::Unjoined(client)));
                }
                Phase::Inviting | Phase::Completing => {}
                Phase::Opening | Phase::Signing | Phase::Storing => {
                    self.restart(step, factory, &[], Reason::about("{} disconnected", [peer]))
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
            step.log(Level::Debug, format!("{}: {peer} was left out: {why}", factory.instance));
            step.send(peer, over(resume, "it was left out of a later attempt"));
            return Ok(());
        };
        match self.lsp.get(&factory.instance) {
            // Its nonces are gone with its memory: a new join replaces the old.
            Some(ceremony)
                if ceremony.phase() == Phase::Inviting && resume.attempt == factory.current.number =>
            {
                if ceremony.joins.contains_key(&client) {
                    step.volatile(Volatile::Lsp(factory.instance, VolatileLsp::Unjoined(client)));
                }
                step.send(peer, invitation(factory, client));
            }
            Some(ceremony) if ceremony.phase() == Phase::Completing => {
                self.ask_for_check(step, factory, peer, client);
            }
            Some(_) => {}
            None if factory.phase() == State::Funding => self.tell_broadcast(step, factory, peer),
            None => {
                // Of whom our reason speaks is not for others.
                step.send(peer, over(resume, "the factory is gone"));
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
                let text = format!("no answer in time in phase {} from {{}}", ceremony.phase().name());
                self.restart(step, factory, &silent, Reason::about(text, silent.clone()));
            }
        }
    }

    pub(crate) fn lsp_started(
        &self,
        step: &mut StepBuilder<'_>,
        factory: &Factory,
        channels: &[KnownChannel],
    ) {
        match factory.current.creation {
            Creation::Joining | Creation::Signing | Creation::Storing => {
                self.restart(step, factory, &[], "this node was restarted");
            }
            Creation::Opening => self.resume_completing(step, factory, channels),
            Creation::Funding if factory.funding_height().is_none() => self.send_funding(step, factory),
            Creation::Aborted(_) if factory.signed_for().is_empty() => {
                step.event(
                    factory.instance,
                    Forgotten { reason: "it ended before anything was signed".into() },
                );
            }
            Creation::Invited | Creation::Funding | Creation::Declined(_) | Creation::Aborted(_) => {}
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
                    step.effect(Effect::CloseChannel { channel_id: channel.channel_id, on_chain: false });
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
                LspCeremony::new(factory.current.number, clients, own_key, LspStage::Completing, deadline);
            step.volatile(Volatile::StartLsp(factory.instance, ceremony));
        }
    }

    /// Gives the attempt up, leaves nothing behind, and begins the next one with whoever is left.
    pub(crate) fn restart(
        &self,
        step: &mut StepBuilder<'_>,
        factory: &Factory,
        left_out: &[NodeId],
        reason: impl Into<Reason>,
    ) {
        let reason = reason.into();
        let limit = self.config.max_attempts.saturating_add(count(factory.left_out.len()));
        let last = factory.current.number >= limit;
        // S30: whoever is the cause may try again, once, and not as the last of all.
        let is_over = |node: &NodeId| {
            last || factory.strikes.contains(node) || self.offences.wait(*node, step.now).is_some()
        };
        let caused = reason.who().iter().filter(|node| factory.current.clients.contains(node));
        let (again, caused): (Vec<NodeId>, Vec<NodeId>) = caused.copied().partition(is_over);
        let left_out: Vec<NodeId> = left_out
            .iter()
            .copied()
            .chain(again.into_iter().filter(|node| !left_out.contains(node)))
            .collect();
        let left_out = left_out.as_slice();
        for node in left_out {
            step.volatile(Volatile::Offence(*node, step.now));
        }
        let current = &factory.current;
        let places = (0..).zip(&current.clients).zip(&current.terms.capacities);
        let places = places.filter(|((_, node), _)| !left_out.contains(node));
        let kept: Vec<(NodeId, bitcoin::Amount, u64)> =
            places.map(|((client, node), capacity)| (*node, *capacity, current.price_of(client))).collect();
        let too_many = last && left_out.is_empty()
            || self.config.max_attempts <= 1
            || factory.current.number >= MAX_ATTEMPT;
        if kept.is_empty() || too_many {
            let tried = format!("; gave up after {}", counted(factory.current.number, "attempt"));
            return self.give_up(step, factory, if kept.is_empty() { reason } else { reason.and(&tried) });
        }
        self.clean_up(step, factory, left_out, &reason);
        let attempt = factory.current.number.saturating_add(1);
        let clients: Vec<NodeId> = kept.iter().map(|(node, ..)| *node).collect();
        let capacities = kept.iter().map(|(_, capacity, _)| *capacity).collect();
        let prices_msat: Vec<u64> = kept.iter().map(|(.., msat)| *msat).collect();
        let terms = Terms { capacities, ..factory.current.terms.clone() };
        step.log(
            Level::Info,
            format!(
                "{}: attempt {} failed ({reason}); attempt {attempt} with {}",
                factory.instance,
                factory.current.number,
                counted(clients.len(), "client")
            ),
        );
        step.event(
            factory.instance,
            AttemptStarted {
                attempt,
                terms: terms.clone(),
                clients: clients.clone(),
                reason: short(&reason.to_string()),
                left_out: left_out.to_vec(),
                caused: caused.into_iter().filter(|node| !left_out.contains(node)).collect(),
                prices_msat: asked(prices_msat.clone()),
            },
        );
        self.invite(step, &terms, attempt, &clients, &prices_msat);
    }

    /// Ends creation for good.
    pub(crate) fn give_up(&self, step: &mut StepBuilder<'_>, factory: &Factory, reason: impl Into<Reason>) {
        let reason = reason.into();
        self.clean_up(step, factory, &factory.current.clients, &reason);
        step.volatile(Volatile::End(factory.instance));
        step.event(factory.instance, Aborted { reason: short(&reason.to_string()), height: step.height });
    }

    /// Undoes what the attempt has done in lightningd, here and at the clients.
    fn clean_up(&self, step: &mut StepBuilder<'_>, factory: &Factory, left_out: &[NodeId], reason: &Reason) {
        let ceremony = self.lsp.get(&factory.instance);
        let phase = ceremony.map_or(0, |ceremony| ceremony.phase().number());
        for (client, node) in (0u32..).zip(&factory.current.clients) {
            step.abort(factory, *node, phase, &reason.told(*node), !left_out.contains(node));
            if let Some(channel_id) = factory.current.channels.get(&client) {
                step.effect(Effect::CloseChannel { channel_id: *channel_id, on_chain: false });
            } else if ceremony.is_some_and(|ceremony| ceremony.expecting.contains(&client)) {
                step.effect(Effect::CancelChannel { peer: *node });
            }
        }
        if let Some(reserved) = &factory.current.reserved {
            let reclaims = reserved.reclaims.iter().flatten();
            let reclaims: Vec<OutPoint> = reclaims.map(|input| input.outpoint).collect();
            let mut inputs = inputs(&reserved.tx);
            inputs.retain(|input| !reclaims.contains(input));
            step.effect(Effect::ReleaseFunding { inputs });
        }
    }
}

fn count(clients: usize) -> u32 {
    u32::try_from(clients).unwrap_or(u32::MAX)
}

/// The current attempt's invitation, once more.
fn invitation(factory: &Factory, client: ClientIndex) -> Invite {
    let Attempt { terms, layout, number, .. } = &factory.current;
    invite(terms, layout, *number, (client, factory.current.price_of(client)))
}

fn over(resume: &Resume, reason: &str) -> Abort {
    let (instance, attempt) = (resume.instance, resume.attempt);
    Abort { instance, attempt, phase: 0, reason: Words::new(reason), blames: None, retry: 0 }
}
