//! After the leaf: lightningd runs the channel's end. When it is done with every channel of ours, and
//! nothing of the factory's own is left to take, the factory is closed.

use std::collections::HashSet;

use crate::engine::Engine;
use crate::io::Level;
use crate::record::event::{ChannelResolved, SaleResolved};
use crate::record::factory::own_clients;
use crate::step::builder::StepBuilder;
use crate::types::ChannelId;

impl Engine {
    /// lightningd forgets a channel once everything that it paid is settled for good, 100 blocks deep.
    pub(crate) fn on_channels(&self, step: &mut StepBuilder<'_>, open: &[ChannelId]) {
        let open: HashSet<&ChannelId> = open.iter().collect();
        for factory in self.factories.values().filter(|factory| factory.confirmed.len() > 1) {
            for client in own_clients(factory) {
                let Some(channel_id) = factory.current.channels.get(&client) else { continue };
                let out = factory.leaf_height(client).is_some() && factory.current.checked.contains(&client);
                if out && !open.contains(channel_id) && !factory.current.resolved.contains(&client) {
                    let text = format!("{}: client {client}'s channel is settled for good", factory.instance);
                    step.log(Level::Info, text);
                    step.event(factory.instance, ChannelResolved { client });
                }
            }
            for sold in factory.own_sales() {
                let channel_id = sold.channel_id();
                let out = factory.confirmed.contains_key(&sold.txid());
                if out && !open.contains(&channel_id) && !factory.current.sales.is_resolved(channel_id) {
                    step.event(factory.instance, SaleResolved { channel_id });
                }
            }
        }
    }
}
