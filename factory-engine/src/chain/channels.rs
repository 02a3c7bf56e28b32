//! This node's channels in a factory, leaves' and bought ones alike: when their funding is on chain they
//! are lightningd's alone.

use std::collections::BTreeSet;

use crate::io::{Effect, KnownChannel};
use crate::record::factory::{Factory, own_clients};
use crate::step::builder::StepBuilder;
use crate::terms::ClientIndex;
use crate::types::{Amount, ChannelId, OutPoint, Txid};
use crate::wire::message::{ChannelInFactory, protocol_id};

/// A channel that this node has in a factory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OwnChannel {
    /// Whose it is, beside L's.
    pub client: ClientIndex,
    /// The number of the sale that funds it; nothing for the leaf's own.
    pub sale: Option<u32>,
    /// BOLT 2's `channel_id`, by which lightningd knows it.
    pub channel_id: ChannelId,
    /// Its funding outpoint: an output of a leaf or of a sale.
    pub funding: OutPoint,
    /// Funding amount: both sides' balances together.
    pub capacity: Amount,
}

impl Factory {
    /// The record that goes with a client's channel (bLIP-56).
    pub fn channel_in_factory(&self, client: ClientIndex) -> ChannelInFactory {
        ChannelInFactory {
            factory_protocol: protocol_id(),
            factory_instance: self.instance,
            blocks_early: self.current.layout.blocks_early(client),
        }
    }

    /// The channels of this node: of its leaf or leaves, and of every sale that is signed.
    pub fn own_channels(&self) -> impl Iterator<Item = OwnChannel> {
        let leaves = own_clients(self).filter_map(|client| {
            let funding = self.current.tree.as_ref()?.channel_outpoint(client)?;
            // S33: where the record of it isn't understood there may be one.
            let may_be = self.damage().map(|_| ChannelId::of(funding));
            let channel_id = self.current.channels.get(&client).copied().or(may_be)?;
            let capacity = self.capacity(client);
            Some(OwnChannel { client, sale: None, channel_id, funding, capacity })
        });
        let sales = self.own_sales().filter(|sold| sold.is_signed()).map(|sold| OwnChannel {
            client: sold.sale.buyer,
            sale: Some(sold.sale.number),
            channel_id: sold.channel_id(),
            funding: sold.sale.channel,
            capacity: sold.sale.amount(),
        });
        leaves.chain(sales)
    }

    /// How many blocks before an HTLC's expiry the exit of a channel has to begin.
    pub fn early(&self, channel: &OwnChannel) -> u32 {
        u32::from(match channel.sale {
            None => self.current.layout.blocks_early(channel.client),
            Some(number) => self.sale_blocks_early(channel.client, number),
        })
    }

    /// Whether a channel's funding output is on chain.
    pub(crate) fn is_out(&self, channel: &OwnChannel) -> bool {
        self.confirmed.contains_key(&channel.funding.txid)
    }

    /// Own channels whose funding output is on chain.
    fn channels_out(&self) -> impl Iterator<Item = OwnChannel> {
        self.own_channels().filter(|channel| self.is_out(channel))
    }
}

fn close(step: &mut StepBuilder<'_>, channel: &OwnChannel) {
    step.effect(Effect::CloseChannel { channel_id: channel.channel_id, on_chain: true });
}

/// A transaction confirms: channels on it whose clients exit are lightningd's now. Close them.
pub(crate) fn close_exited(step: &mut StepBuilder<'_>, factory: &Factory, txid: Txid) {
    let on_it = factory.own_channels().filter(|channel| channel.funding.txid == txid);
    for channel in on_it.filter(|channel| factory.current.exiting.contains(&channel.client)) {
        close(step, &channel);
    }
}

/// An exit begins: channels that somebody else has put on chain need no path, only the close.
pub(crate) fn close_confirmed(
    step: &mut StepBuilder<'_>,
    factory: &Factory,
    clients: &BTreeSet<ClientIndex>,
) {
    for channel in factory.channels_out().filter(|channel| clients.contains(&channel.client)) {
        close(step, &channel);
    }
}

/// S26: a stop between storing that a channel's funding is on chain and closing it must not leave it open:
/// the block doesn't come again.
pub(crate) fn close_again(step: &mut StepBuilder<'_>, factory: &Factory, open: &[KnownChannel]) {
    let is_open = |channel: &OwnChannel| open.iter().any(|known| known.channel_id == channel.channel_id);
    for channel in factory.channels_out().filter(is_open) {
        if factory.current.exiting.contains(&channel.client) {
            close(step, &channel);
        }
    }
}
