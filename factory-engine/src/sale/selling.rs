//! The operator's side of a sale under way: which one an input is about, and what its handlers need of it.

use crate::engine::Engine;
use crate::memory::Volatile;
use crate::memory::sale::{LspSale, SalePhase, VolatileLspSale, VolatileSale};
use crate::record::attempt::Role;
use crate::record::factory::Factory;
use crate::step::fault::Fault;
use crate::terms::ClientIndex;
use crate::tx::layout::CoinIndex;
use crate::types::{InstanceId, NodeId};

/// A sale under way.
#[derive(Clone, Copy)]
pub(crate) struct Selling<'e> {
    pub(crate) factory: &'e Factory,
    /// The sub-factory's stock.
    pub(crate) coin: CoinIndex,
    pub(crate) sale: &'e LspSale,
}

impl Selling<'_> {
    /// A change of it.
    pub(crate) fn volatile(&self, change: VolatileLspSale) -> Volatile {
        Volatile::Sale(self.factory.instance, self.coin, VolatileSale::Lsp(change))
    }
}

impl Engine {
    /// All of them.
    pub(crate) fn sellings(&self) -> impl Iterator<Item = Selling<'_>> {
        self.lsp_sales.iter().filter_map(|((instance, coin), sale)| {
            Some(Selling { factory: self.factories.get(instance)?, coin: *coin, sale })
        })
    }

    /// A peer's place in a factory of ours, and its sub-factory's stock coin.
    pub(crate) fn sale_member(
        &self,
        peer: NodeId,
        instance: InstanceId,
        attempt: u32,
    ) -> Result<(&Factory, ClientIndex, CoinIndex), Fault> {
        let factory = self.known(instance)?;
        if factory.current.number != attempt || factory.current.role != Role::Lsp {
            return Err(Fault::stale("it is not about a factory of ours, or about another attempt"));
        }
        let client =
            factory.client_of(peer).ok_or_else(|| Fault::stale("it is not a client of this factory"))?;
        let coin = factory
            .current
            .layout
            .stock_coin(client)
            .ok_or_else(|| Fault::stale("factories of these terms have no stock"))?;
        Ok((factory, client, coin))
    }

    /// The sale of this number that a peer takes part in, and its place.
    pub(crate) fn selling(
        &self,
        peer: NodeId,
        instance: InstanceId,
        attempt: u32,
        number: u32,
    ) -> Result<(Selling<'_>, ClientIndex), Fault> {
        let (factory, client, coin) = self.sale_member(peer, instance, attempt)?;
        let sale = self
            .lsp_sales
            .get(&(instance, coin))
            .filter(|sale| sale.deal.number == number)
            .ok_or_else(|| Fault::stale("no such sale is under way"))?;
        Ok((Selling { factory, coin, sale }, client))
    }

    /// The same, of what nobody but its buyer has heard of.
    pub(crate) fn selling_alone(
        &self,
        peer: NodeId,
        instance: InstanceId,
        attempt: u32,
    ) -> Result<(Selling<'_>, ClientIndex), Fault> {
        let (factory, client, coin) = self.sale_member(peer, instance, attempt)?;
        let sale = self.lsp_sales.get(&(instance, coin)).filter(|sale| sale.concerns_buyer_alone());
        let sale = sale.ok_or_else(|| Fault::stale("nothing waits"))?;
        Ok((Selling { factory, coin, sale }, client))
    }

    /// A buyer's sale, if it is in this phase.
    pub(crate) fn selling_to(
        &self,
        instance: InstanceId,
        buyer: ClientIndex,
        number: u32,
        phase: SalePhase,
    ) -> Option<Selling<'_>> {
        let factory = self.factories.get(&instance)?;
        let coin = factory.current.layout.stock_coin(buyer)?;
        let sale = self.lsp_sales.get(&(instance, coin))?;
        (sale.phase == phase && sale.deal.number == number && sale.deal.buyer == buyer).then_some(Selling {
            factory,
            coin,
            sale,
        })
    }
}
