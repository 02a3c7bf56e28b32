//! Which attempt or sale a channel is of.

use factory_engine::terms::ClientIndex;
use factory_engine::types::ChannelId;
use factory_engine::{Attempt, Engine, Factory, Sold};

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
