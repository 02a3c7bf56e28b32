//! After the leaf: lightningd runs the channel's end. When it is done with every channel of ours, and
//! nothing of the factory's own is left to take, the factory is closed.

use std::collections::HashSet;

use crate::protocol::Engine;
use crate::protocol::draft::Draft;
use crate::protocol::event::{ChannelResolved, SaleResolved};
use crate::protocol::factory::{Factory, Role, own_clients};
use crate::protocol::io::Level;
use crate::protocol::sale::Sold;
use crate::terms::ClientIndex;
use crate::tx::layout::{CoinIndex, Role as SpendRole};
use crate::types::{ChannelId, Height};

use super::{BURIED, stock::open_stock};

impl Engine {
    /// lightningd forgets a channel once everything that it paid is settled for good, 100 blocks deep.
    pub(in crate::protocol) fn on_channels(&self, d: &mut Draft<'_>, open: &[ChannelId]) {
        let open: HashSet<&ChannelId> = open.iter().collect();
        for factory in self.factories.values().filter(|factory| factory.confirmed.len() > 1) {
            for client in own_clients(factory) {
                let Some(channel_id) = factory.channels.get(&client) else { continue };
                let out = factory.leaf_height(client).is_some() && factory.checked.contains(&client);
                if out && !open.contains(channel_id) && !factory.resolved.contains(&client) {
                    let text = format!("{}: client {client}'s channel is settled for good", factory.instance);
                    d.log(Level::Info, text);
                    d.event(factory.instance, ChannelResolved { client });
                }
            }
            for sold in factory.own_sales() {
                let channel_id = sold.channel_id();
                let out = factory.confirmed.contains_key(&sold.txid());
                if out && !open.contains(&channel_id) && !factory.sales.is_resolved(channel_id) {
                    d.event(factory.instance, SaleResolved { channel_id });
                }
            }
        }
    }
}

impl Factory {
    /// Whether a stock coin can't come on chain any more: a distribution has paid what is above it.
    fn stock_unreachable(&self, coin: CoinIndex) -> bool {
        let clients = self.layout.coin(coin).map(|coin| coin.clients.clone()).unwrap_or_default();
        let mut clients = clients.into_iter();
        clients.any(|client| self.paid_out(client).is_some())
    }

    /// The height at which a distribution paid this client its channel.
    pub fn paid_out(&self, client: ClientIndex) -> Option<Height> {
        let spends = self.spent.iter().filter_map(|(outpoint, txid)| {
            let id = self.session_of(*outpoint, *txid)?;
            let coin = self.layout.coin(id.coin)?;
            let pays = id.role == SpendRole::Distribution && !coin.stock && coin.clients.contains(&client);
            pays.then(|| self.confirmed.get(txid).copied())?
        });
        spends.min()
    }

    /// Whether nothing of this node's is left in the factory, for good.
    pub(in crate::protocol) fn is_over(&self, height: Height) -> bool {
        let buried = |at: Height| height.saturating_sub(at).saturating_add(1) >= BURIED;
        let settled = |client: ClientIndex| {
            self.resolved.contains(&client) || self.paid_out(client).is_some_and(buried)
        };
        // What is left of the stock is L's to take, or the clients' after the timeout.
        let no_stock = || self.role != Role::Lsp || open_stock(self).next().is_none();
        // A sale that never came on chain holds nothing, once its stock is spent otherwise.
        let gone = |sold: &Sold| {
            let spender = sold.sale.sessions.first().and_then(|session| self.spent.get(&session.outpoint));
            self.sales.is_resolved(sold.channel_id())
                || !sold.is_signed()
                || spender.is_some_and(|txid| *txid != sold.txid())
                || sold.coin().is_some_and(|coin| self.stock_unreachable(coin))
        };
        self.confirmed.len() > 1 && own_clients(self).all(settled) && self.own_sales().all(gone) && no_stock()
    }
}
