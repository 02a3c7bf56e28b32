//! L: how a sale ends that isn't signed: a client that aborts, breaks the protocol, disconnects or is silent.

use crate::engine::Engine;
use crate::io::{Effect, Level};
use crate::memory::Volatile;
use crate::memory::sale::{SalePhase, VolatileSale};
use crate::record::event::SaleDropped;
use crate::record::factory::Factory;
use crate::sale::lsp::{refusal, sub_clients, volatile};
use crate::sale::selling::Selling;
use crate::step::builder::StepBuilder;
use crate::step::fault::Fault;
use crate::step::reason::Reason;
use crate::types::{ChannelId, NodeId};
use crate::wire::message::SaleAbort;

impl Engine {
    /// A client can't or won't take part.
    pub(crate) fn on_client_sale_abort(
        &self,
        step: &mut StepBuilder<'_>,
        peer: NodeId,
        abort: &SaleAbort,
    ) -> Result<(), Fault> {
        let (selling, client) = match abort.number {
            // The buyer knows no number of a purchase that waits.
            0 => self.selling_alone(peer, abort.instance, abort.attempt)?,
            number => self.selling(peer, abort.instance, abort.attempt, number)?,
        };
        let Selling { factory, coin, sale } = selling;
        if sale.concerns_buyer_alone() && client != sale.deal.buyer {
            return Err(Fault::stale("another client buys"));
        }
        let reason = Reason::about("{} takes no part", [peer]).said(&*abort.reason);
        let unsigned = factory.next_sale(coin) == sale.deal.number;
        // A neighbour that won't sign keeps nobody from an ordinary channel.
        if client != sale.deal.buyer && sale.phase == SalePhase::Joining && unsigned && sale.jit {
            self.offer_jit(step, factory, coin, sale, &reason);
        } else {
            self.end_sale(step, selling, &reason);
        }
        Ok(())
    }

    pub(crate) fn lsp_sale_fault(
        &self,
        step: &mut StepBuilder<'_>,
        factory: &Factory,
        peer: NodeId,
        reason: &str,
    ) {
        let coin = factory.client_of(peer).and_then(|client| factory.current.layout.stock_coin(client));
        let sale = coin.and_then(|coin| Some((coin, self.lsp_sales.get(&(factory.instance, coin))?)));
        if let Some((coin, sale)) = sale {
            let selling = Selling { factory, coin, sale };
            self.end_sale(step, selling, &Reason::about("{}", [peer]).said(reason));
        }
    }

    /// Ends a sale for now: for good if nobody has signed, until everybody is back otherwise.
    pub(crate) fn end_sale(&self, step: &mut StepBuilder<'_>, selling: Selling<'_>, reason: &Reason) {
        let Selling { factory, coin, sale } = selling;
        if sale.is_funding() {
            // lightningd is at it, and says what comes of it.
        } else if sale.jit_reason.is_some() || factory.next_sale(coin) == sale.deal.number {
            self.drop_sale(step, selling, reason);
        } else {
            self.interrupt_sale(step, selling, reason);
        }
    }

    /// Before anybody has signed: nothing is left behind.
    pub(crate) fn drop_sale(&self, step: &mut StepBuilder<'_>, selling: Selling<'_>, reason: &Reason) {
        let Selling { factory, coin, sale } = selling;
        let number = sale.deal.number;
        // S4: whoever was away all the time has wasted nothing. One that has just left is still among the peers.
        for node in reason.who().iter().filter(|node| self.peers.contains(node)) {
            step.volatile(Volatile::Offence(*node, step.now));
        }
        match (factory.current.sales.opening(coin), sale.phase, factory.node_of(sale.deal.buyer)) {
            (Some(opening), ..) => {
                step.effect(Effect::CloseChannel {
                    channel_id: ChannelId::of(opening.channel),
                    on_chain: false,
                });
                step.event(factory.instance, SaleDropped { coin, number });
            }
            (None, SalePhase::Opening, Some(peer)) => step.effect(Effect::CancelChannel { peer }),
            _ => {}
        }
        self.end_invoices(step, factory, Some(sale.deal.buyer));
        self.tell_ended(step, selling, reason);
    }

    /// Partial signatures may have left: the same sale is taken up again later (S8).
    pub(crate) fn interrupt_sale(&self, step: &mut StepBuilder<'_>, selling: Selling<'_>, reason: &Reason) {
        let who = reason.who().to_vec();
        step.volatile(volatile(selling.factory, selling.coin, VolatileSale::Withheld(who)));
        let reason = reason.clone().and("; it goes on when everybody is back");
        self.tell_ended(step, selling, &reason);
    }

    fn tell_ended(&self, step: &mut StepBuilder<'_>, selling: Selling<'_>, reason: &Reason) {
        let Selling { factory, coin, sale } = selling;
        let number = sale.deal.number;
        step.log(
            Level::Unusual,
            format!("{}: sale {number} of coin {coin} ended: {reason}", factory.instance),
        );
        if sale.concerns_buyer_alone() {
            // Of this it has no number.
            if let Some(buyer) = factory.node_of(sale.deal.buyer) {
                step.send(buyer, refusal(factory, 0, &reason.told(buyer)));
            }
        } else {
            for (_, node) in sub_clients(factory, coin) {
                step.send(node, refusal(factory, number, &reason.told(node)));
            }
        }
        step.volatile(volatile(factory, coin, VolatileSale::End));
    }

    /// A disconnect ends an open that lightningd has pending, and the nonces of whoever left.
    pub(crate) fn lsp_sales_peer_down(&self, step: &mut StepBuilder<'_>, peer: NodeId) {
        for selling in self.sellings() {
            let Selling { factory, coin, sale } = selling;
            let concerned = |client| !sale.concerns_buyer_alone() || client == sale.deal.buyer;
            if sub_clients(factory, coin).any(|(client, node)| node == peer && concerned(client)) {
                self.end_sale(step, selling, &Reason::about("{} disconnected", [peer]));
            }
        }
    }

    pub(crate) fn lsp_sales_tick(&self, step: &mut StepBuilder<'_>) {
        let now = step.now;
        let late = |selling: &Selling<'_>| selling.sale.deadline().is_some_and(|end| now >= end);
        for selling in self.sellings().filter(late) {
            let Selling { factory, coin, sale } = selling;
            if sale.is_funding() {
                self.cut_funding(step, selling);
                continue;
            }
            if sale.phase == SalePhase::Waiting {
                let away = self.away(factory, coin);
                let reason = Reason::about("needed for the signature, and not connected: {}", away);
                self.offer_jit(step, factory, coin, sale, &reason);
                continue;
            }
            let number = sale.deal.number;
            let mut chain = factory.current.sales.of(coin).iter();
            let finished = chain.any(|sold| sold.sale.number == number && sold.is_signed());
            let silent: Vec<NodeId> = sub_clients(factory, coin)
                // Who has all of it answers an offer with `sale_stored`.
                .filter(|(client, _)| match if finished { SalePhase::Storing } else { sale.phase } {
                    SalePhase::Joining | SalePhase::Signing => sale.signing.lacks(*client),
                    SalePhase::Opening => false,
                    SalePhase::Checking | SalePhase::Paying | SalePhase::Asking => *client == sale.deal.buyer,
                    SalePhase::Waiting | SalePhase::Funding | SalePhase::Cut => false,
                    SalePhase::Storing => !sale.stored.contains(client),
                })
                .map(|(_, node)| node)
                .collect();
            let reason = if silent.is_empty() {
                "the operator's own node was not ready in time".into()
            } else {
                Reason::about("no answer in time from {}", silent.clone())
            };
            let buyer = factory.node_of(sale.deal.buyer);
            let neighbours = silent.iter().all(|node| Some(*node) != buyer);
            if sale.phase == SalePhase::Joining && sale.script.is_none() && sale.jit && neighbours {
                self.offer_jit(step, factory, coin, sale, &reason);
            } else {
                self.end_sale(step, selling, &reason);
            }
        }
    }
}
