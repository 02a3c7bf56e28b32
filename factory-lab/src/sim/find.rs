//! Which attempt or sale a channel is of.

use bitcoin::OutPoint;
use factory_engine::terms::ClientIndex;
use factory_engine::types::ChannelId;
use factory_engine::{Attempt, Engine, Factory, Sold};

use crate::world::judged::{early, early_of_sale};

/// The attempt of a factory with this channel, and whose it is.
pub(super) fn find(engine: &Engine, channel: ChannelId) -> Option<(&Attempt, ClientIndex)> {
    let all = engine.factories().flat_map(Factory::attempts);
    all.filter_map(|attempt| {
        let tree = attempt.tree.as_ref()?;
        let clients = 0..attempt.terms.clients();
        let mut own =
            clients.filter(|client| tree.channel_outpoint(*client).map(ChannelId::of) == Some(channel));
        Some((attempt, own.next()?))
    })
    .next()
}

/// The factory with this bought channel, and its sale.
pub(super) fn find_sold(engine: &Engine, channel: ChannelId) -> Option<(&Attempt, &Sold)> {
    let all = engine.factories().flat_map(Factory::attempts);
    all.filter_map(|attempt| {
        let sold = attempt.own_sales().find(|sold| sold.channel_id() == channel)?;
        Some((attempt, sold))
    })
    .next()
}

/// Where a channel is in a factory.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) attempt: &'a Attempt,
    pub(super) client: ClientIndex,
    pub(super) outpoint: OutPoint,
    /// Blocks that its way to the chain takes.
    pub(super) early: u32,
    pub(super) sold: Option<&'a Sold>,
}

pub(super) fn place(engine: &Engine, channel: ChannelId) -> Option<Place<'_>> {
    if let Some((attempt, client)) = find(engine, channel) {
        let outpoint = attempt.tree.as_ref()?.channel_outpoint(client)?;
        return Some(Place { attempt, client, outpoint, early: early(&attempt.layout, client), sold: None });
    }
    let (attempt, sold) = find_sold(engine, channel)?;
    let client = sold.sale.buyer;
    let early = early_of_sale(&attempt.layout, client, sold.sale.number);
    Some(Place { attempt, client, outpoint: sold.sale.channel, early, sold: Some(sold) })
}
