//! S34: a channel that lightningd ends by itself, by its user's command or by its peer's, waits for a funding
//! output that nobody else puts on chain. So this node leaves with it: both sides notice, and each publishes
//! the path.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};

use crate::chain::channels::OwnChannel;
use crate::chain::{exit_allowed, record};
use crate::engine::Engine;
use crate::io::Level;
use crate::record::attempt::{Creation, Role};
use crate::record::ended::Ended;
use crate::record::event::{ChannelEnded, ExitStarted};
use crate::record::factory::Factory;
use crate::report::counting::counted;
use crate::step::builder::StepBuilder;
use crate::terms::ClientIndex;
use crate::types::{ChannelId, InstanceId};

/// What lightningd says of its channels.
pub(crate) type Listed = HashMap<ChannelId, Option<Ended>>;

/// Whether neither side has ended a channel, nor is about to. S22: of who has handed over both sides close it.
fn stands(factory: &Factory, channel: &OwnChannel) -> bool {
    !factory.current.ended.contains_key(&channel.channel_id) && !factory.has_handed_over(channel.client)
}

impl Engine {
    /// Channels that stand on an output that isn't on chain, of factories that live, with their factories:
    /// whoever closes one by lightningd's own means waits for that output, and takes it on chain for good.
    pub fn guarded_channels(&self) -> Vec<(ChannelId, InstanceId)> {
        let height = self.tip.map_or(0, |(height, _)| height);
        let guarded = |factory: &Factory, channel: &OwnChannel| {
            stands(factory, channel) && !factory.confirmed.contains_key(&channel.funding.txid)
        };
        let lives = self.factories.values().filter(|factory| exit_allowed(factory, height).is_ok());
        let of = |factory| {
            let own = Factory::own_channels(factory).filter(move |channel| guarded(factory, channel));
            own.map(|channel| (channel.channel_id, factory.instance))
        };
        lives.flat_map(of).collect()
    }

    /// Channels of factories that neither side has ended, as far as is known, on chain or not.
    pub fn standing_channels(&self) -> Vec<ChannelId> {
        let of = |factory| {
            let own = Factory::own_channels(factory).filter(move |channel| stands(factory, channel));
            own.map(|channel| channel.channel_id)
        };
        self.factories.values().flat_map(of).collect()
    }

    /// S34: stores what has become of channels, and leaves with those whose way to the chain is this node's
    /// to go. What this node closes itself, because it leaves anyway, is no news.
    pub(crate) fn note_ended(
        &self,
        step: &mut StepBuilder<'_>,
        factory: &Factory,
        listed: &Listed,
        whole: bool,
    ) {
        // S39: that lightningd has lost its channels is known, and a path is of no use without one.
        if factory.has_lost_channels() {
            return;
        }
        let is_news = |channel: &OwnChannel| {
            !factory.current.ended.contains_key(&channel.channel_id)
                && !factory.current.exiting.contains(&channel.client)
        };
        let news = factory.own_channels().filter(is_news);
        let news: Vec<(OwnChannel, Ended)> = news
            .filter_map(|channel| Some((channel, how_ended(factory, &channel, listed, whole)?)))
            .collect();
        let Some((first, how)) = news.first() else { return };
        // S33: that it was funded may be in a record that isn't understood.
        let unfunded = factory.damage().is_none() && factory.funding_height().is_none();
        if unfunded && factory.current.role == Role::Lsp && factory.current.creation == Creation::Opening {
            // Nothing is funded yet: better another attempt than a factory with a channel that is over.
            let reason = format!("client {}'s channel is over before it was funded: {how}", first.client);
            return self.restart(step, factory, &[], &reason);
        }
        let mut after = Cow::Borrowed(factory);
        for (OwnChannel { client, channel_id, .. }, how) in news {
            let text = format!("{}: channel {channel_id} of client {client}: {how}", factory.instance);
            step.log(Level::Unusual, text);
            record(step, &mut after, ChannelEnded { channel_id, how });
        }
        if leave_with_ended(step, &mut after) {
            self.publish(step, &after);
        }
    }
}

/// How a channel has ended, if it has. A leaf's that is missing from a whole list although it isn't on chain is
/// forgotten; one that was just bought may be younger than the list.
fn how_ended(factory: &Factory, channel: &OwnChannel, listed: &Listed, whole: bool) -> Option<Ended> {
    let out = factory.confirmed.contains_key(&channel.funding.txid);
    match listed.get(&channel.channel_id) {
        // What is settled is forgotten, too.
        Some(Some(Ended::Forgotten)) if out => None,
        Some(ended) => *ended,
        None => {
            let checked = factory.current.checked.contains(&channel.client);
            let stands = factory.funding_height().is_some() && checked && !out;
            (whole && stands && channel.sale.is_none()).then_some(Ended::Forgotten)
        }
    }
}

/// Leaves with channels that lightningd has ended while their funding is neither on chain nor on its way there.
/// Whether there are any. At every block again: what was no factory yet may be one by now.
pub(crate) fn leave_with_ended(step: &mut StepBuilder<'_>, factory: &mut Cow<'_, Factory>) -> bool {
    if factory.current.ended.is_empty()
        || factory.has_lost_channels()
        || exit_allowed(factory, step.height).is_err()
    {
        return false;
    }
    let waits = |channel: &OwnChannel| {
        let ended = factory.current.ended.get(&channel.channel_id).filter(|how| how.needs_path());
        let out = factory.confirmed.contains_key(&channel.funding.txid);
        // S22: nothing is in a channel whose client has handed over, and both sides close it.
        let over = factory.has_handed_over(channel.client);
        ended.filter(|_| !out && !over && !factory.is_leaving(channel.client)).copied()
    };
    let waiting: Vec<(ClientIndex, Ended)> =
        factory.own_channels().filter_map(|channel| Some((channel.client, waits(&channel)?))).collect();
    let Some((_, how)) = waiting.first() else { return false };
    let reason = format!("a channel has ended: {how}");
    let clients: BTreeSet<ClientIndex> = waiting.iter().map(|(client, _)| *client).collect();
    let text =
        format!("{}: taking {} on chain: {reason}", factory.instance, counted(clients.len(), "channel"));
    step.log(Level::Unusual, text);
    let height = step.height;
    record(step, factory, ExitStarted { height, reason, clients: clients.into_iter().collect() });
    true
}
