//! The operator's side of a sale: offers, opens, and what was interrupted. What is signed is in `lsp_signing`,
//! how it ends otherwise in `ends` and `void`.

use crate::engine::Engine;
use crate::io::{Effect, KnownChannel, Level, OpenFailure};
use crate::memory::Volatile;
use crate::memory::sale::{LspSale, SalePhase, SaleTerms, VolatileLspSale, VolatileSale};
use crate::record::attempt::Role;
use crate::record::event::{SaleDropped, SaleOpening};
use crate::record::factory::Factory;
use crate::sale::error::CannotSell;
use crate::sale::selling::Selling;
use crate::sale::{cooperative, session_count};
use crate::signing::Coordinator;
use crate::step::builder::StepBuilder;
use crate::step::fault::Fault;
use crate::step::reason::Reason;
use crate::terms::ClientIndex;
use crate::tx::layout::CoinIndex;
use crate::types::{ChannelId, InstanceId, NodeId, ScriptBuf};
use crate::wire::message::{
    Buy, ChannelInFactory, SaleAbort, SaleChecked, SaleCommitted, SaleJoin, SaleOffer, SaleReady,
};
use crate::wire::words::Words;

impl Engine {
    pub(crate) fn on_buy(&self, step: &mut StepBuilder<'_>, peer: NodeId, buy: &Buy) -> Result<(), Fault> {
        let (factory, buyer, coin) = self.sale_member(peer, buy.instance, buy.attempt)?;
        // Before it is asked for money: a buyer that could not store what it was told believes in a credit.
        self.repeat_jit(step, factory, peer);
        self.repeat_void(step, factory, peer);
        let waits = self.offences.wait(peer, step.now).map(|wait| CannotSell::Waits { seconds: wait / 1000 });
        let price = waits.map_or_else(|| self.price_for(factory, coin, buyer, buy.amount, step.height), Err);
        let price = price.and_then(|price| {
            if price <= buy.max_price_msat {
                return Ok(price);
            }
            Err(CannotSell::TooDear { price_msat: price, most: buy.max_price_msat })
        });
        let price_msat = match price {
            Ok(price_msat) => price_msat,
            Err(reason) => {
                step.log(
                    Level::Info,
                    format!("{}: {peer} can't buy {}: {reason}", factory.instance, buy.amount),
                );
                step.send(peer, refusal(factory, 0, &reason.to_string()));
                if !self.lsp_sales.contains_key(&(factory.instance, coin)) {
                    // An invoice that couldn't be taken back before, if there is one.
                    self.end_invoices(step, factory, Some(buyer));
                }
                return Ok(());
            }
        };
        let deal = SaleTerms { number: factory.next_sale(coin), buyer, amount: buy.amount, price_msat };
        let (jit, away) = (buy.jit == Some(true), self.away(factory, coin));
        let kept = |node| node != peer && self.offences.wait(node, step.now).is_some();
        if self.is_blocked(factory, coin, step.height)
            || sub_clients(factory, coin).any(|(_, node)| kept(node))
        {
            self.offer_instead(step, factory, coin, deal, jit);
        } else if away.is_empty() {
            self.offer(step, factory, coin, deal, None, jit);
        } else {
            self.wait_for_members(step, factory, coin, (peer, deal, jit), away);
        }
        Ok(())
    }

    /// Asks every client of the sub-factory for its nonces. `script` is that of a sale whose signing
    /// was interrupted.
    pub(crate) fn offer(
        &self,
        step: &mut StepBuilder<'_>,
        factory: &Factory,
        coin: CoinIndex,
        deal: SaleTerms,
        script: Option<ScriptBuf>,
        jit: bool,
    ) {
        let round = step.rng.bytes32().iter().take(8).fold(0, |round, byte| (round << 8) | u64::from(*byte));
        let offer = SaleOffer {
            instance: factory.instance,
            attempt: factory.current.number,
            number: deal.number,
            buyer: deal.buyer,
            amount: deal.amount,
            price_msat: deal.price_msat,
            push_msat: factory.current.terms.push_msat,
            channel_script: script.clone(),
            round: Some(round),
            channel_in_factory: ChannelInFactory {
                blocks_early: factory.sale_blocks_early(deal.buyer, deal.number),
                ..factory.channel_in_factory(deal.buyer)
            },
        };
        for (_, node) in sub_clients(factory, coin) {
            step.send(node, offer.clone());
        }
        let deadline = step.now.saturating_add(self.config.ceremony_timeout);
        let sale =
            LspSale { round, script, jit, ..LspSale::new(factory, coin, deal, SalePhase::Joining, deadline) };
        step.volatile(volatile(factory, coin, VolatileSale::Start(Box::new(sale))));
    }

    pub(crate) fn on_sale_join(
        &self,
        step: &mut StepBuilder<'_>,
        peer: NodeId,
        join: &SaleJoin,
    ) -> Result<(), Fault> {
        let (selling, client) = self.selling(peer, join.instance, join.attempt, join.number)?;
        let Selling { factory, coin, sale } = selling;
        if sale.phase != SalePhase::Joining || !sale.signing.lacks(client) {
            return Err(Fault::stale("its nonces are here already"));
        }
        // S4: nonces of an earlier try would make its signature a bad one.
        if join.round != Some(sale.round) {
            return Err(Fault::stale("it answers an earlier offer"));
        }
        let expected = session_count(factory, coin, sale.deal.number, sale.deal.amount)
            .map_err(|error| Fault::stale(error.to_string()))?;
        let nonces = Coordinator::check_nonces(&join.nonces, expected).map_err(Fault::peer)?;
        step.volatile(selling.volatile(VolatileLspSale::Joined(client, nonces.clone())));
        if !sale.signing.lacks_only(client) {
            return Ok(());
        }
        let deadline = step.now.saturating_add(self.config.ceremony_timeout);
        match &sale.script {
            // Taken up again: the channel is there.
            Some(script) if sale.checked => {
                self.propose_sale(step, selling, script, Some((client, &nonces)));
            }
            Some(_) => {
                step.volatile(selling.volatile(VolatileLspSale::Phase(SalePhase::Checking, deadline)));
            }
            None => {
                let Some(peer) = factory.node_of(sale.deal.buyer) else { return Ok(()) };
                step.volatile(selling.volatile(VolatileLspSale::Phase(SalePhase::Opening, deadline)));
                step.effect(Effect::StartChannel {
                    instance: factory.instance,
                    attempt: factory.current.number,
                    client: sale.deal.buyer,
                    sale: Some(sale.deal.number),
                    peer,
                    capacity: sale.deal.amount,
                    push_msat: factory.current.terms.push_msat,
                });
            }
        }
        Ok(())
    }

    pub(crate) fn on_sale_channel_started(
        &self,
        step: &mut StepBuilder<'_>,
        instance: InstanceId,
        buyer: ClientIndex,
        number: u32,
        result: Result<ScriptBuf, OpenFailure>,
    ) {
        let Some(selling) = self.selling_to(instance, buyer, number, SalePhase::Opening) else { return };
        let Selling { factory, coin, sale } = selling;
        let Some(peer) = factory.node_of(buyer) else { return };
        let script = match result {
            Ok(script) => script,
            // S28: a buyer that refuses it, or is gone, again and again waits. lightningd says that it is gone before
            // it tells of the disconnect, which counts as well.
            Err(error) => {
                return self.drop_sale(step, selling, &Reason::no_channel("opened", peer, &error));
            }
        };
        let built = match factory.build_sale(coin, number, buyer, sale.deal.amount, &script) {
            Ok(built) => built,
            Err(error) => {
                let reason = format!("its channel can't be opened: {error}");
                return self.drop_sale(step, selling, &reason.into());
            }
        };
        let Some(session) = built.sessions.first() else { return };
        // A restart closes what lightningd then has of it.
        step.event(
            instance,
            SaleOpening {
                coin,
                number,
                buyer,
                amount: sale.deal.amount,
                script: script.clone(),
                price_msat: sale.deal.price_msat,
            },
        );
        step.volatile(selling.volatile(VolatileLspSale::Script(script)));
        step.effect(Effect::CompleteChannel {
            instance,
            attempt: factory.current.number,
            client: buyer,
            sale: Some(number),
            peer,
            leaf: session.tx.clone(),
            prevout: session.prevout.clone(),
        });
    }

    pub(crate) fn on_sale_channel_completed(
        &self,
        step: &mut StepBuilder<'_>,
        instance: InstanceId,
        buyer: ClientIndex,
        number: u32,
        result: Result<ChannelId, OpenFailure>,
    ) {
        let Some(selling) = self.selling_to(instance, buyer, number, SalePhase::Opening) else {
            if let Ok(channel_id) = result {
                step.effect(Effect::CloseChannel { channel_id, on_chain: false });
            }
            return;
        };
        let Selling { factory, coin, sale } = selling;
        let (Some(script), Some(peer)) = (&sale.script, factory.node_of(buyer)) else { return };
        let built = factory.build_sale(coin, number, buyer, sale.deal.amount, script);
        let expected = built.ok().map(|built| ChannelId::of(built.channel));
        match result {
            Ok(channel_id) if Some(channel_id) == expected => {
                let deadline = step.now.saturating_add(self.config.ceremony_timeout);
                step.volatile(selling.volatile(VolatileLspSale::Phase(SalePhase::Checking, deadline)));
                step.send(
                    peer,
                    SaleCommitted {
                        instance,
                        attempt: factory.current.number,
                        number,
                        channel_script: script.clone(),
                    },
                );
            }
            Ok(channel_id) => {
                step.effect(Effect::CloseChannel { channel_id, on_chain: false });
                let reason = "another channel than the sale's was committed";
                self.drop_sale(step, selling, &reason.into());
            }
            Err(error) => self.drop_sale(step, selling, &Reason::no_channel("completed", peer, &error)),
        }
    }

    pub(crate) fn on_sale_checked(
        &self,
        step: &mut StepBuilder<'_>,
        peer: NodeId,
        message: &SaleChecked,
    ) -> Result<(), Fault> {
        let (selling, client) = self.selling(peer, message.instance, message.attempt, message.number)?;
        let Selling { factory, sale, .. } = selling;
        if client != sale.deal.buyer {
            return Err(Fault::stale("another client buys"));
        }
        // S4: whoever joined again checks again, and would blame us for a proposal before that.
        if message.round != Some(sale.round) {
            return Err(Fault::stale("it answers an earlier offer"));
        }
        match (&sale.script, sale.phase) {
            // Taken up again: it may come before the last join.
            (Some(_), SalePhase::Joining) => step.volatile(selling.volatile(VolatileLspSale::Checked)),
            (Some(_), SalePhase::Checking) => {
                self.sell(step, selling, factory.current.sales.account().credit(client));
            }
            _ => return Err(Fault::stale("no check is expected now")),
        }
        Ok(())
    }

    /// Takes up every sale that was signed for and isn't done, if all of its members are here.
    pub(crate) fn resume_sales(
        &self,
        step: &mut StepBuilder<'_>,
        factory: &Factory,
        newcomer: Option<NodeId>,
    ) {
        if factory.current.role != Role::Lsp {
            return;
        }
        if factory.restored().is_some() {
            // S9: nothing is signed any more. Who has come gets what was finished.
            return newcomer.into_iter().for_each(|peer| repeat_ready(step, factory, peer));
        }
        for sold in factory.current.sales.all().filter(|sold| !sold.stored && sold.void.is_none()) {
            let Some(coin) = sold.coin() else { continue };
            // Not for ever at each block: seldom, and to whoever comes back (S36).
            let rests = sold.is_signed() && !self.is_repeated(sold, step.height);
            if newcomer.is_none() && (rests || self.is_given_up(factory, sold, step.height)) {
                continue;
            }
            let away = self.away(factory, coin);
            let busy = self.lsp_sales.contains_key(&(factory.instance, coin));
            if busy || away.iter().any(|node| Some(*node) != newcomer) {
                continue;
            }
            if !sold.is_signed() && cooperative(factory, coin, step.height).is_err() {
                continue;
            }
            let deal = SaleTerms {
                number: sold.sale.number,
                buyer: sold.sale.buyer,
                amount: sold.sale.amount(),
                price_msat: sold.price_msat,
            };
            self.offer(
                step,
                factory,
                coin,
                deal,
                Some(sold.sale.channel_output.script_pubkey.clone()),
                false,
            );
            if sold.is_signed() {
                send_ready(step, factory, coin, deal.number, &sold.signatures);
            }
        }
    }

    /// What a restart found half open: its channel has nothing to stand on.
    pub(crate) fn lsp_sales_started(
        &self,
        step: &mut StepBuilder<'_>,
        factory: &Factory,
        channels: &[KnownChannel],
    ) {
        for (coin, opening) in factory.current.sales.openings() {
            let channel_id = ChannelId::of(opening.channel);
            if channels.iter().any(|channel| channel.channel_id == channel_id) {
                step.effect(Effect::CloseChannel { channel_id, on_chain: false });
            }
            step.event(factory.instance, SaleDropped { coin, number: opening.number });
        }
    }

    /// Clients of a sub-factory that are not connected.
    pub(crate) fn away(&self, factory: &Factory, coin: CoinIndex) -> Vec<NodeId> {
        sub_clients(factory, coin).map(|(_, node)| node).filter(|node| !self.peers.contains(node)).collect()
    }
}

pub(crate) fn volatile(factory: &Factory, coin: CoinIndex, change: VolatileSale) -> Volatile {
    Volatile::Sale(factory.instance, coin, change)
}

/// The clients of a stock coin's sub-factory, with their nodes (L only).
pub(crate) fn sub_clients(factory: &Factory, coin: CoinIndex) -> impl Iterator<Item = (ClientIndex, NodeId)> {
    let clients = factory.current.layout.coin(coin).map(|coin| coin.clients.clone()).unwrap_or_default();
    clients.filter_map(|client| Some((client, factory.node_of(client)?)))
}

pub(crate) fn names(nodes: &[NodeId]) -> String {
    nodes.iter().map(NodeId::to_string).collect::<Vec<_>>().join(", ")
}

pub(crate) fn refusal(factory: &Factory, number: u32, reason: &str) -> SaleAbort {
    SaleAbort {
        instance: factory.instance,
        attempt: factory.current.number,
        number,
        reason: Words::new(reason),
    }
}

pub(crate) fn send_ready(
    step: &mut StepBuilder<'_>,
    factory: &Factory,
    coin: CoinIndex,
    number: u32,
    signatures: &[[u8; 64]],
) {
    for (_, node) in sub_clients(factory, coin) {
        step.send(node, ready(factory, number, signatures));
    }
}

/// One client gets the signatures of what not everybody has stored.
fn repeat_ready(step: &mut StepBuilder<'_>, factory: &Factory, peer: NodeId) {
    let coin = factory.client_of(peer).and_then(|client| factory.current.layout.stock_coin(client));
    for sold in coin.map_or(&[][..], |coin| factory.current.sales.of(coin)) {
        if sold.is_signed() && !sold.stored {
            step.send(peer, ready(factory, sold.sale.number, &sold.signatures));
        }
    }
}

fn ready(factory: &Factory, number: u32, signatures: &[[u8; 64]]) -> SaleReady {
    SaleReady {
        instance: factory.instance,
        attempt: factory.current.number,
        number,
        signatures: signatures.to_vec(),
    }
}
