//! The operator's side of a ceremony: invitations, joins, channel opens, attempts and retries.
//! What is signed is in `lsp_signing`.

use std::collections::{BTreeMap, BTreeSet};
use std::iter;

use crate::engine::Engine;
use crate::io::{Answer, Create, Effect, NodeError, OpenFailure, PreparedFunding, Refusal};
use crate::memory::Volatile;
use crate::memory::ceremony::{LspCeremony, LspStage, Opening, Phase, VolatileLsp};
use crate::policy::Config;
use crate::record::event::{Created, FundingReserved};
use crate::record::factory::Factory;
use crate::signing::Coordinator;
use crate::step::builder::StepBuilder;
use crate::step::fault::Fault;
use crate::step::reason::Reason;
use crate::terms::{ClientIndex, Terms};
use crate::tx::layout::Layout;
use crate::tx::scripts::{is_payout, key_script};
use crate::tx::tree::funding_key;
use crate::types::{Amount, Height, InstanceId, NodeId, OutPoint, PROTOCOL_ID, ScriptBuf, Transaction};
use crate::wire::message::{Abort, ChannelInFactory, ExpectChannel, Invite, Join};

/// What a factory that is asked for at `height` would be, with these settings.
pub fn terms(
    config: &Config,
    me: NodeId,
    instance: InstanceId,
    create: &Create,
    push_msat: u64,
    height: Height,
) -> Terms {
    Terms {
        instance,
        lsp: me,
        shape: create.shape.clone(),
        capacities: create.clients.iter().map(|(_, capacity)| *capacity).collect(),
        stock: create.stock,
        push_msat,
        state_step: config.state_step,
        state_count: config.state_count,
        stock_csv: config.stock_csv,
        tree_feerate: create.tree_feerate,
        timeout_height: height.saturating_add(create.lifetime_blocks),
        dying_blocks: create.dying_blocks,
        confirm_blocks: config.confirm_blocks,
        margin_blocks: config.margin_blocks,
        funding_confirmations: config.funding_confirmations,
    }
}

/// Its transactions.
///
/// # Errors
/// When the terms make no factory, or one that would end before it is of use.
pub fn layout(terms: &Terms, lifetime_blocks: u32) -> Result<Layout, Refusal> {
    let layout = Layout::new(terms).map_err(Refusal::Terms)?;
    let needed = u32::from(layout.worst_blocks_early()).saturating_add(terms.dying_blocks);
    if lifetime_blocks <= needed {
        return Err(Refusal::LifetimeTooShort { lifetime_blocks, needed });
    }
    // S21: from its first day on it would have to be evicted.
    let needed = layout
        .worst_eviction_blocks()
        .saturating_add(u32::from(terms.funding_confirmations))
        .saturating_add(1);
    if lifetime_blocks <= needed {
        return Err(Refusal::NoTimeToEvict { lifetime_blocks, needed, stock_csv: terms.stock_csv });
    }
    Ok(layout)
}

impl Engine {
    pub(crate) fn create(&self, step: &mut StepBuilder<'_>, create: &Create) -> Result<Answer, Refusal> {
        self.check_clients(create)?;
        let instance = InstanceId(step.rng.bytes32());
        let timeout = step.height.saturating_add(create.lifetime_blocks);
        let nodes = create.clients.iter().map(|(node, _)| *node);
        let push_msat = create.push_msat.unwrap_or_else(|| self.push_for(nodes, timeout, step.height));
        if self.lacks_prices(&create.clients, timeout, step.height) {
            return Err(Refusal::NoPrices);
        }
        let prices_msat = self.renewal_prices(&create.clients, timeout, step.height);
        let terms = terms(&self.config, self.me, instance, create, push_msat, step.height);
        layout(&terms, create.lifetime_blocks)?;
        let clients: Vec<NodeId> = create.clients.iter().map(|(node, _)| *node).collect();
        let asked = asked(prices_msat.clone());
        let created = Created {
            terms: terms.clone(),
            clients: clients.clone(),
            protocol: PROTOCOL_ID,
            prices_msat: asked,
        };
        step.event(instance, created);
        self.invite(step, &terms, 1, &clients, &prices_msat);
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
    pub(super) fn invite(
        &self,
        step: &mut StepBuilder<'_>,
        terms: &Terms,
        attempt: u32,
        clients: &[NodeId],
        prices_msat: &[u64],
    ) {
        let deadline = step.now.saturating_add(self.config.invite_timeout);
        let own_key = self.factory_key(terms.instance, attempt).public().x_only_public_key().0.serialize();
        let ceremony = LspCeremony::new(attempt, terms.clients(), own_key, LspStage::Inviting, deadline);
        step.volatile(Volatile::StartLsp(terms.instance, ceremony));
        // The terms made a layout when the attempt was decided on.
        let Ok(layout) = Layout::new(terms) else {
            return;
        };
        let prices_msat = prices_msat.iter().copied().chain(iter::repeat(0));
        for ((client, node), price_msat) in (0u32..).zip(clients).zip(prices_msat) {
            if self.peers.contains(node) {
                step.send(*node, invite(terms, &layout, attempt, (client, price_msat)));
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
        if ceremony.phase() != Phase::Inviting {
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
    pub(super) fn open_channels(
        &self,
        step: &mut StepBuilder<'_>,
        factory: &Factory,
        joins: &std::collections::BTreeMap<ClientIndex, Join>,
    ) {
        let own = self.factory_key(factory.instance, factory.current.number).public();
        let roster = crate::create::lsp_signing::roster_of(own, joins);
        let key = match funding_key(&factory.current.layout, &roster) {
            Ok(key) => key,
            Err(error) => {
                return self.give_up(step, factory, format!("its keys make no funding script: {error}"));
            }
        };
        let script = key_script(key.output_key());
        let instance = factory.instance;
        let deadline = step.now.saturating_add(self.config.ceremony_timeout);
        let reclaims = self.reclaims_for_funding(step.height);
        let coins = reclaims.iter().map(|(_, coin)| coin.place.clone()).collect();
        let opening = Opening { funding_key: key, scripts: BTreeMap::new(), funding: None, reclaims };
        let stage = LspStage::Opening(Box::new(opening));
        step.volatile(Volatile::Lsp(instance, VolatileLsp::Stage(stage, deadline)));
        step.effect(Effect::PrepareFunding {
            instance,
            attempt: factory.current.number,
            script,
            amount: factory.current.layout.funding_value(),
            reclaims: coins,
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
        if ceremony.phase() != Phase::Opening || ceremony.expecting.contains(&client) {
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
                let reason = Reason::no_channel("opened", peer, &error);
                return self.restart(step, factory, &error.blames(peer), reason);
            }
        };
        // Said twice: everything was proposed meanwhile.
        let LspStage::Opening(opening) = &ceremony.stage else { return };
        step.volatile(Volatile::Lsp(instance, VolatileLsp::Script(client, script.clone())));
        let others = opening.scripts.keys().filter(|other| **other != client).count();
        if let Some(funding) = &opening.funding
            && others.saturating_add(1) == factory.current.clients.len()
        {
            let mut scripts = opening.scripts.clone();
            scripts.insert(client, script);
            self.begin_signing(step, factory, ceremony, &opening.funding_key, &scripts, funding);
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
                return self.give_up(step, factory, format!("the wallet can't fund it: {error}"));
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
        let reclaims = self.reclaims_of(ceremony, &funding);
        step.event(instance, FundingReserved { attempt, tx, prevouts, reclaims });
        step.volatile(Volatile::Lsp(instance, VolatileLsp::Funding(funding.clone())));
        if let LspStage::Opening(opening) = &ceremony.stage
            && opening.scripts.len() == factory.current.clients.len()
        {
            self.begin_signing(step, factory, ceremony, &opening.funding_key, &opening.scripts, &funding);
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
        let reason = Reason::about("{} aborts", [peer]).said(&*abort.reason);
        // Whom it blames is not believed (S4): a member names only itself.
        let left_out: &[NodeId] = if abort.retry != 0 { &[] } else { &[peer] };
        self.restart(step, factory, left_out, reason);
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
            self.restart(step, factory, &[peer], Reason::about("{}", [peer]).said(reason));
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

    pub(super) fn ceremonies_with(
        &self,
        peer: NodeId,
    ) -> impl Iterator<Item = (&Factory, &LspCeremony, ClientIndex)> {
        self.lsp.iter().filter_map(move |(instance, ceremony)| {
            let factory = self.factories.get(instance)?;
            Some((factory, ceremony, factory.client_of(peer)?))
        })
    }
}

/// The answer to who resumes what is over: about the attempt that it knows.
pub(super) fn inputs(tx: &Transaction) -> Vec<OutPoint> {
    tx.input.iter().map(|input| input.previous_output).collect()
}

/// What an event keeps of the prices: nothing where nobody is asked for anything.
pub(super) fn asked(prices_msat: Vec<u64>) -> Option<Vec<u64>> {
    prices_msat.iter().any(|msat| *msat > 0).then_some(prices_msat)
}

pub(super) fn invite(
    terms: &Terms,
    layout: &Layout,
    attempt: u32,
    (client, price_msat): (ClientIndex, u64),
) -> Invite {
    Invite {
        instance: terms.instance,
        attempt,
        terms: terms.clone(),
        client,
        price_msat,
        channel_in_factory: ChannelInFactory {
            factory_protocol: crate::wire::message::protocol_id(),
            factory_instance: terms.instance,
            blocks_early: layout.blocks_early(client),
        },
    }
}
