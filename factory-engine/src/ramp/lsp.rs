//! L's side of a client that leaves for an ordinary channel: one for each client and factory, if this operator opens
//! any: it pays for the transaction before it has anything of it (S35). Its price is what that costs, and stays in the
//! client's old channels: L has it with the key.

use crate::engine::Engine;
use crate::io::{Effect, KnownChannel, Level, OpenFailure};
use crate::ramp::{OPENING_WEIGHT, capacity};
use crate::record::attempt::Role;
use crate::record::event::{LeaveFunded, LeaveOpening};
use crate::record::factory::Factory;
use crate::record::state::State;
use crate::step::builder::StepBuilder;
use crate::step::fault::Fault;
use crate::terms::ClientIndex;
use crate::types::{Amount, ChannelId, Height, InstanceId, NodeId};
use crate::wire::message::{LeaveAsk, LeaveOpened, LeavePrice, LeaveRefused};
use crate::wire::words::Words;

/// Ordinary channels that L opens at once for clients that leave.
const MAX_OPENING: usize = 8;
/// Blocks that an open may take.
const OPENING_BLOCKS: Height = 3;

fn refuse(step: &mut StepBuilder<'_>, factory: &Factory, peer: NodeId, reason: &str) {
    let (instance, attempt) = (factory.instance, factory.current.number);
    step.send(peer, LeaveRefused { instance, attempt, reason: Words::new(reason), retry: None });
}

/// Not now: the client asks again at each block.
fn put_off(step: &mut StepBuilder<'_>, factory: &Factory, peer: NodeId, reason: &str) {
    let (instance, attempt) = (factory.instance, factory.current.number);
    step.send(peer, LeaveRefused { instance, attempt, reason: Words::new(reason), retry: Some(true) });
}

/// Why no channel is opened to a client.
enum No {
    /// Nor at the next block.
    Never(&'static str),
    /// Perhaps at the next block.
    Now(&'static str),
}

fn tell_opened(
    step: &mut StepBuilder<'_>,
    factory: &Factory,
    peer: NodeId,
    (channel_id, price_msat): (ChannelId, u64),
) {
    let (instance, attempt) = (factory.instance, factory.current.number);
    step.send(peer, LeaveOpened { instance, attempt, price_msat, channel_id });
}

impl Engine {
    pub(crate) fn on_leave_ask(
        &self,
        step: &mut StepBuilder<'_>,
        peer: NodeId,
        message: &LeaveAsk,
    ) -> Result<(), Fault> {
        let factory = self.known(message.instance)?;
        let client = factory.client_of(peer).filter(|_| factory.current.role == Role::Lsp);
        let client = client.ok_or_else(|| Fault::stale("it is from no client of this factory"))?;
        if factory.current.number != message.attempt {
            return Err(Fault::stale("it is of another attempt"));
        }
        if factory.leaves.opening().contains_key(&client) {
            return Err(Fault::stale("its channel is being opened"));
        }
        if let (Some(opened), Some(_)) = (factory.leaves.opened(client), message.max_price_msat) {
            tell_opened(step, factory, peer, opened);
            return Ok(());
        }
        // S35: no larger than what can be moved out, or a client could have all of this wallet put into one channel.
        let own = factory.own_channels().filter(|channel| channel.client == client);
        let most: Amount = own.map(|channel| channel.capacity).sum();
        let Some(amount) = capacity(message.amount).filter(|_| message.amount <= most) else {
            refuse(step, factory, peer, "there is no channel of that size");
            return Ok(());
        };
        // S28: whoever lets opens fail again and again has to wait.
        if let Some(wait) = self.offences.wait(peer, step.now).filter(|_| message.max_price_msat.is_some()) {
            let reason = format!("too much came to nothing: try again in {} s", wait / 1_000);
            put_off(step, factory, peer, &reason);
            return Ok(());
        }
        match self.may_open(factory, client, step.height) {
            Ok(()) => {}
            Err(No::Never(reason)) => {
                refuse(step, factory, peer, reason);
                return Ok(());
            }
            Err(No::Now(reason)) => {
                put_off(step, factory, peer, reason);
                return Ok(());
            }
        }
        // What the transaction costs at today's fees.
        let sat = u64::from(self.known_fees().estimate).saturating_mul(OPENING_WEIGHT) / 1_000;
        let price_msat = sat.saturating_mul(1_000);
        let (instance, attempt) = (factory.instance, factory.current.number);
        match message.max_price_msat {
            None => step.send(peer, LeavePrice { instance, attempt, amount: message.amount, price_msat }),
            Some(most) if most < price_msat => {
                let reason = format!("it costs {price_msat} msat, and {most} were offered");
                refuse(step, factory, peer, &reason);
            }
            Some(_) => {
                let text = format!("{peer} leaves: opening a channel of {amount} to it");
                step.log(Level::Info, format!("{instance}: {text}"));
                step.event(instance, LeaveOpening { client, amount, price_msat, height: step.height });
                step.effect(Effect::FundChannel { instance, buyer: client, peer, amount });
            }
        }
        Ok(())
    }

    /// Whether L opens a channel to a client that leaves; otherwise why not.
    fn may_open(&self, factory: &Factory, client: ClientIndex, height: Height) -> Result<(), No> {
        let inside = matches!(factory.state(height), State::Active | State::Dying)
            && !factory.has_handed_over(client)
            && !factory.is_leaving(client);
        let opening: usize = self.factories.values().map(|factory| factory.leaves.opening().len()).sum();
        let failed = self.not_opened.get(&(factory.instance, client)) == Some(&height);
        if !self.config.leave_channels {
            Err(No::Never("this operator opens no ordinary channels to clients that leave"))
        } else if !inside || factory.restored().is_some() {
            Err(No::Never("nothing is agreed with this client in this factory any more"))
        } else if factory.leaves.opened(client).is_some() {
            Err(No::Never("it has had its channel in this factory"))
        } else if factory.current.sales.jits().funding.contains_key(&client) {
            Err(No::Now("another channel is being opened to it: try again in a moment"))
        } else if opening >= MAX_OPENING {
            Err(No::Now("too many channels are being opened: try again in a moment"))
        } else if failed {
            Err(No::Now("its last channel could not be opened: try again after the next block"))
        } else if self.known_fees().estimate == 0 {
            Err(No::Now("what the chain costs isn't known just now: try again after the next block"))
        } else {
            Ok(())
        }
    }

    /// Whether a channel that lightningd has opened, or couldn't, is one for a client that leaves.
    pub(crate) fn is_leaving_channel(&self, instance: InstanceId, client: ClientIndex) -> bool {
        let factory = self.factories.get(&instance);
        factory.is_some_and(|factory| factory.leaves.opening().contains_key(&client))
    }

    pub(crate) fn on_leave_funded(
        &self,
        step: &mut StepBuilder<'_>,
        instance: InstanceId,
        client: ClientIndex,
        result: Result<ChannelId, OpenFailure>,
    ) {
        let Some(factory) = self.factories.get(&instance) else { return };
        let Some(opening) = factory.leaves.opening().get(&client) else { return };
        let Some(peer) = factory.node_of(client) else { return };
        let (height, channel_id) = (step.height, result.as_ref().ok().copied());
        step.event(instance, LeaveFunded { client, channel_id, height });
        match result {
            Ok(channel_id) => {
                let text = format!("{instance}: a channel to client {client}, which leaves: {channel_id}");
                step.log(Level::Info, text);
                tell_opened(step, factory, peer, (channel_id, opening.price_msat));
            }
            Err(error) => {
                let late = height >= opening.height.saturating_add(OPENING_BLOCKS);
                step.blame_unopened((instance, client), Some(peer), &error, late);
                let reason = format!("its channel can't be opened: {error}");
                step.log(Level::Unusual, format!("{instance}: {peer}: {reason}"));
                // What this node's wallet has is nobody's business.
                let told = match error {
                    OpenFailure::Own(_) => "this operator's node can't open it now".to_owned(),
                    OpenFailure::Refused(_) | OpenFailure::Disconnected(_) => reason,
                };
                refuse(step, factory, peer, &told);
            }
        }
    }

    /// A client's node that never answers an open would take one of [`MAX_OPENING`] places for good (S29): lightningd
    /// ends an open with its connection.
    pub(super) fn cut_openings(&self, step: &mut StepBuilder<'_>, factory: &Factory) {
        for (client, opening) in factory.leaves.opening() {
            let late = step.height >= opening.height.saturating_add(OPENING_BLOCKS);
            let Some(peer) = factory.node_of(*client).filter(|peer| late && self.peers.contains(peer)) else {
                continue;
            };
            let text = format!("{}: {peer} does not answer the open of its channel", factory.instance);
            step.log(Level::Unusual, format!("{text}: disconnecting"));
            step.effect(Effect::Disconnect { peer });
        }
    }

    /// A stop interrupted `fundchannel`: the channel is there, or it isn't and the client asks again.
    pub(crate) fn leaves_started(
        &self,
        step: &mut StepBuilder<'_>,
        factory: &Factory,
        channels: &[KnownChannel],
    ) {
        for (client, opening) in factory.leaves.opening() {
            let peer = factory.node_of(*client);
            let found = self.opened_since(channels, peer, opening.amount, Some(opening.height));
            let result = found.map(|found| found.channel_id);
            let stopped = || OpenFailure::Own("this node was stopped meanwhile".to_owned());
            self.on_leave_funded(step, factory.instance, *client, result.ok_or_else(stopped));
        }
    }

    /// A client that may not have heard of its channel.
    pub(crate) fn repeat_leave(&self, step: &mut StepBuilder<'_>, factory: &Factory, peer: NodeId) {
        let Some(client) = factory.client_of(peer).filter(|client| !factory.has_handed_over(*client)) else {
            return;
        };
        if let Some(opened) = factory.leaves.opened(client) {
            tell_opened(step, factory, peer, opened);
        }
    }
}
