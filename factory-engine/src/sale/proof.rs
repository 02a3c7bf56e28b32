//! S9: a node learns that its records are old from its own signature, not from its peer's word.
//!
//! L offers a sale beyond what the client knows. Either the client was restored from an older copy, or L lies or
//! was restored itself. So the client takes no part, and asks for the first sale that it doesn't know. Only if the
//! finished signatures of that verify for the stock's key, which its own key is part of, has it signed what it
//! doesn't know of: the factory is exit-only from then on.
//!
//! The other way round L asks a client that says it has stored a sale of which L knows nothing, or not that it is
//! finished. A client that is offered another sale in the place of a finished one shows that unasked. L stores finished
//! signatures before anybody has them, so whoever shows them to L proves as much. L also asks each client that comes,
//! before a sale that is finished is given up because L has forgotten that.

use std::sync::Arc;

use crate::engine::Engine;
use crate::io::Level;
use crate::memory::sale::VolatileSale;
use crate::record::attempt::Role;
use crate::record::event::{Restored, SaleSigned};
use crate::record::factory::Factory;
use crate::record::sales::Sold;
use crate::sale::lsp::{send_ready, volatile};
use crate::sale::place;
use crate::signing::{Plan, check_finished};
use crate::step::builder::StepBuilder;
use crate::step::fault::Fault;
use crate::tx::layout::CoinIndex;
use crate::types::{InstanceId, NodeId};
use crate::wire::message::{SaleMissing, SaleShown};

impl Engine {
    /// Where this node and a peer sell or buy.
    fn common_stock(
        &self,
        peer: NodeId,
        instance: InstanceId,
        attempt: u32,
    ) -> Result<(&Factory, CoinIndex), Fault> {
        match self.known(instance)?.current.role {
            Role::Lsp => self.sale_member(peer, instance, attempt).map(|(factory, _, coin)| (factory, coin)),
            Role::Client { .. } => {
                self.sub_factory(peer, instance, attempt).map(|(factory, _, coin)| (factory, coin))
            }
        }
    }

    /// Either side: the other one doesn't know a sale that it has signed, or not that it is finished.
    pub(crate) fn on_sale_missing(
        &self,
        step: &mut StepBuilder<'_>,
        peer: NodeId,
        message: &SaleMissing,
    ) -> Result<(), Fault> {
        let (factory, coin) = self.common_stock(peer, message.instance, message.attempt)?;
        let sold = place(message.number).and_then(|place| factory.current.sales.of(coin).get(place));
        let sold = sold.filter(|sold| sold.is_signed()).ok_or_else(|| Fault::stale("it is not signed"))?;
        show_sale(step, factory, peer, sold);
        Ok(())
    }

    /// L: a client has come that may have what this node has forgotten: the signatures of sales that it takes for
    /// unfinished, also of those that it has given up.
    pub(crate) fn ask_for_unfinished(&self, step: &mut StepBuilder<'_>, factory: &Factory, peer: NodeId) {
        let coin = factory.client_of(peer).and_then(|client| factory.current.layout.stock_coin(client));
        for sold in coin.map_or(&[][..], |coin| factory.current.sales.of(coin)) {
            if !sold.is_signed() {
                ask_for_sale(step, factory, peer, sold.sale.number);
            }
        }
    }

    /// A node is shown a sale that it doesn't know, or, L, that it doesn't know to be finished.
    pub(crate) fn on_sale_shown(
        &self,
        step: &mut StepBuilder<'_>,
        peer: NodeId,
        shown: &SaleShown,
    ) -> Result<(), Fault> {
        let (factory, coin) = self.common_stock(peer, shown.instance, shown.attempt)?;
        let number = shown.number;
        let sold = place(number).and_then(|place| factory.current.sales.of(coin).get(place));
        let sale = match (sold, factory.current.role) {
            (Some(sold), Role::Lsp) if !sold.is_signed() => Ok(Arc::clone(&sold.sale)),
            (None, _) if number == factory.next_sale(coin) && factory.restored().is_none() => factory
                .build_sale(coin, number, shown.buyer, shown.amount, &shown.channel_script)
                .map(Arc::new)
                .map_err(|error| stale(&error)),
            (Some(_) | None, _) => Err(Fault::stale("it was not asked for")),
        }?;
        let tree = factory.current.tree.clone().ok_or_else(|| Fault::stale("the stock has no key"))?;
        check_finished(&Plan::new(tree, &sale.sessions), &shown.signatures)
            .map_err(|_| stale(&"its signatures don't verify"))?;
        if let Some(sold) = sold {
            self.finish_forgotten(step, factory, coin, sold, shown);
        }
        if factory.restored().is_some() {
            return Ok(());
        }
        let reason = match sold {
            Some(_) => format!(
                "sale {number} has this node's signature and is finished, and its records don't say so: it was \
                 restored from a backup"
            ),
            None => format!(
                "sale {number} has this node's signature, and its records end with sale {}: it was restored from \
                 a backup",
                number.saturating_sub(1)
            ),
        };
        step.log(Level::Unusual, format!("{}: {reason}; exit-only from now on", factory.instance));
        step.event(factory.instance, Restored { reason });
        Ok(())
    }

    /// L: a sale is finished that it had forgotten to be. Its buyer has what it paid for: it isn't given up any
    /// more, and whoever hasn't got the signatures gets them.
    fn finish_forgotten(
        &self,
        step: &mut StepBuilder<'_>,
        factory: &Factory,
        coin: CoinIndex,
        sold: &Sold,
        shown: &SaleShown,
    ) {
        let (number, signatures) = (shown.number, &shown.signatures);
        step.event(factory.instance, SaleSigned { coin, number, signatures: signatures.clone() });
        let under_way = self.lsp_sales.get(&(factory.instance, coin));
        if under_way.is_some_and(|sale| sale.deal.number == sold.sale.number) {
            step.volatile(volatile(factory, coin, VolatileSale::End));
        }
        send_ready(step, factory, coin, number, signatures);
    }
}

/// Shows a peer the finished signatures of a sale.
pub(crate) fn show_sale(step: &mut StepBuilder<'_>, factory: &Factory, peer: NodeId, sold: &Sold) {
    step.send(
        peer,
        SaleShown {
            instance: factory.instance,
            attempt: factory.current.number,
            number: sold.sale.number,
            buyer: sold.sale.buyer,
            amount: sold.sale.amount(),
            channel_script: sold.sale.channel_output.script_pubkey.clone(),
            signatures: sold.signatures.clone(),
        },
    );
}

/// Asks a peer for the finished signatures of a sale.
pub(crate) fn ask_for_sale(step: &mut StepBuilder<'_>, factory: &Factory, peer: NodeId, number: u32) {
    step.send(peer, SaleMissing { instance: factory.instance, attempt: factory.current.number, number });
}

fn stale(why: &dyn std::fmt::Display) -> Fault {
    Fault::stale(format!("it proves nothing: {why}"))
}
