//! After the leaf: lightningd runs the channel's end. When it is done with every channel of ours, and
//! nothing of the factory's own is left to take, the factory is closed.

use crate::chain::ended::Listed;
use crate::engine::Engine;
use crate::io::{ChannelNow, Level};
use crate::record::ended::Ended;
use crate::record::event::{ChannelResolved, SaleResolved};
use crate::record::factory::{Factory, own_clients};
use crate::step::builder::StepBuilder;
use crate::types::ChannelId;

impl Engine {
    /// lightningd forgets a channel once everything that it paid is settled for good, 100 blocks deep. What it
    /// has ended before that waits for this node (S34).
    pub(crate) fn on_channels(&self, step: &mut StepBuilder<'_>, list: &[ChannelNow], whole: bool) {
        let listed: Listed = list.iter().map(|channel| (channel.channel_id, channel.ended)).collect();
        for factory in self.factories.values() {
            resolve(step, factory, &listed, whole);
            self.note_ended(step, factory, &listed, whole);
        }
    }
}

/// lightningd is done with channels whose funding is on chain.
fn resolve(step: &mut StepBuilder<'_>, factory: &Factory, listed: &Listed, whole: bool) {
    if factory.confirmed.len() <= 1 {
        return;
    }
    let gone = |channel: ChannelId| match listed.get(&channel) {
        Some(ended) => *ended == Some(Ended::Forgotten),
        None => whole,
    };
    let current = &factory.current;
    for client in own_clients(factory) {
        let Some(channel_id) = current.channels.get(&client) else { continue };
        let out = factory.leaf_height(client).is_some() && current.checked.contains(&client);
        if out && gone(*channel_id) && !current.resolved.contains(&client) {
            let text = format!("{}: client {client}'s channel is settled for good", factory.instance);
            step.log(Level::Info, text);
            step.event(factory.instance, ChannelResolved { client });
        }
    }
    for sold in factory.own_sales() {
        let channel_id = sold.channel_id();
        let out = factory.confirmed.contains_key(&sold.txid());
        if out && gone(channel_id) && !current.sales.is_resolved(channel_id) {
            step.event(factory.instance, SaleResolved { channel_id });
        }
    }
}
