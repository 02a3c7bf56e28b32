//! When a client that has to sign is away: the purchase waits for it, and then, if both sides' policy
//! allows it, becomes an ordinary channel on chain (just in time), for the same price.

use crate::engine::Engine;
use crate::io::{Effect, KnownChannel, Level, NodeError, OpenFailure};
use crate::memory::Volatile;
use crate::memory::sale::{
    LspSale, OrdinaryChannel, Purchase, SalePhase, SaleTerms, VolatileLspSale, VolatileSale,
};
use crate::record::event::{SaleJit, SaleJitAgreed, SaleJitFailed, SaleJitOpened};
use crate::record::factory::Factory;
use crate::sale::error::BadOffer;
use crate::sale::lsp::{names, refusal, sub_clients, volatile};
use crate::sale::selling::Selling;
use crate::step::builder::StepBuilder;
use crate::step::fault::Fault;
use crate::step::reason::Reason;
use crate::terms::ClientIndex;
use crate::tx::layout::CoinIndex;
use crate::types::{ChannelId, InstanceId, NodeId, OutPoint};
use crate::wire::message::{JitAccept, JitOffer, JitOpened, SaleWait};
use crate::wire::words::Words;

/// Ordinary channels that L opens for one client in place of sales of one factory: each costs it a transaction.
const MAX_ORDINARY: usize = 8;
/// Ordinary channels that L opens at once.
const MAX_FUNDING: usize = 8;

impl Engine {
    /// L: somebody who has to sign is away.
    pub(crate) fn wait_for_members(
        &self,
        step: &mut StepBuilder<'_>,
        factory: &Factory,
        coin: CoinIndex,
        (peer, deal, jit): (NodeId, SaleTerms, bool),
        away: Vec<NodeId>,
    ) {
        let deadline = step.now.saturating_add(self.config.sale_wait);
        let sale = LspSale { jit, ..LspSale::new(factory, coin, deal, SalePhase::Waiting, deadline) };
        let (text, seconds) = (names(&away), self.config.sale_wait / 1000);
        let away = u32::try_from(away.len()).unwrap_or(u32::MAX);
        step.log(Level::Info, format!("{}: {peer} wants to buy, waiting for {text}", factory.instance));
        step.volatile(volatile(factory, coin, VolatileSale::Start(Box::new(sale))));
        step.send(
            peer,
            SaleWait {
                instance: factory.instance,
                attempt: factory.current.number,
                away,
                seconds: u32::try_from(seconds).unwrap_or(u32::MAX),
            },
        );
    }

    /// L: whoever was missing is here.
    pub(crate) fn resume_waiting(&self, step: &mut StepBuilder<'_>, factory: &Factory, newcomer: NodeId) {
        for ((instance, coin), sale) in &self.lsp_sales {
            let missing = || self.away(factory, *coin).into_iter().any(|node| node != newcomer);
            if *instance == factory.instance && sale.phase == SalePhase::Waiting && !missing() {
                self.offer(step, factory, *coin, sale.deal, None, sale.jit);
            }
        }
    }

    /// L: there will be no sale for this `reason`: an ordinary channel instead, if both want that.
    pub(crate) fn offer_jit(
        &self,
        step: &mut StepBuilder<'_>,
        factory: &Factory,
        coin: CoinIndex,
        sale: &LspSale,
        reason: &Reason,
    ) {
        let Some(peer) = factory.node_of(sale.deal.buyer) else { return };
        let had =
            factory.current.sales.jits().opened.iter().filter(|jit| jit.buyer == sale.deal.buyer).count();
        let funding = self.factories.values().map(|factory| factory.current.sales.jits().funding.len());
        let failed = self.not_opened.get(&(factory.instance, sale.deal.buyer));
        let forbidden = match (self.config.jit, sale.jit) {
            (true, true) if had >= MAX_ORDINARY => Some("it has had its ordinary channels in this factory"),
            (true, true) if failed == Some(&step.height) => {
                Some("its last ordinary channel could not be opened: try again after the next block")
            }
            (true, true) if funding.sum::<usize>() >= MAX_FUNDING => {
                Some("too many ordinary channels are being opened: try again in a moment")
            }
            // What lightningd says of one would be taken for the other.
            (true, true) if factory.leaves.opening().contains_key(&sale.deal.buyer) => {
                Some("another channel is being opened to it: try again in a moment")
            }
            (true, true) => None,
            (false, _) => Some("the operator opens no ordinary channel instead"),
            (true, false) => Some("this client takes no ordinary channel instead"),
        };
        if let Some(forbidden) = forbidden {
            let reason = reason.clone().and(&format!("; {forbidden}"));
            return self.drop_sale(step, Selling { factory, coin, sale }, &reason);
        }
        let heard = |client| !sale.concerns_buyer_alone() && client != sale.deal.buyer;
        for (_, node) in sub_clients(factory, coin).filter(|(client, _)| heard(*client)) {
            step.send(node, refusal(factory, sale.deal.number, &reason.told(node)));
        }
        let deadline = step.now.saturating_add(self.config.ceremony_timeout);
        let deal = SaleTerms { number: 0, ..sale.deal };
        let jit = LspSale {
            jit: true,
            jit_reason: Some(reason.to_string()),
            ..LspSale::new(factory, coin, deal, SalePhase::Asking, deadline)
        };
        step.volatile(volatile(factory, coin, VolatileSale::Start(Box::new(jit))));
        step.send(
            peer,
            JitOffer {
                instance: factory.instance,
                attempt: factory.current.number,
                amount: deal.amount,
                price_msat: deal.price_msat,
                reason: Words::new(&reason.told(peer)),
            },
        );
    }

    pub(crate) fn on_jit_accept(
        &self,
        step: &mut StepBuilder<'_>,
        peer: NodeId,
        message: &JitAccept,
    ) -> Result<(), Fault> {
        let (selling, client) = self.selling(peer, message.instance, message.attempt, 0)?;
        let Selling { factory, sale, .. } = selling;
        if client != sale.deal.buyer || sale.phase != SalePhase::Asking {
            return Err(Fault::stale("it was not asked for"));
        }
        self.sell(step, selling, factory.current.sales.account().credit(client));
        Ok(())
    }

    /// L: paid, so lightningd opens the channel.
    pub(crate) fn open_jit(&self, step: &mut StepBuilder<'_>, selling: Selling<'_>) {
        let Selling { factory, sale, .. } = selling;
        let SaleTerms { buyer, amount, price_msat, .. } = sale.deal;
        let Some(peer) = factory.node_of(buyer) else { return };
        step.event(factory.instance, SaleJit { buyer, amount, price_msat, height: Some(step.height) });
        let deadline = step.now.saturating_add(self.config.ceremony_timeout);
        step.volatile(selling.volatile(VolatileLspSale::Phase(SalePhase::Funding, deadline)));
        step.effect(Effect::FundChannel { instance: factory.instance, buyer, peer, amount });
    }

    /// L: a buyer's node that never answers an open would take one of [`MAX_FUNDING`] places for good (S29).
    /// lightningd ends an open with its connection at each point at which nothing is lost; `fundchannel_cancel`
    /// would leave a funding that is being sent without its channel.
    pub(crate) fn cut_funding(&self, step: &mut StepBuilder<'_>, selling: Selling<'_>) {
        let Selling { factory, sale, .. } = selling;
        let Some(peer) = factory.node_of(sale.deal.buyer) else { return };
        let text = format!("{}: {peer} does not answer the open of its ordinary channel", factory.instance);
        step.log(Level::Unusual, format!("{text}: disconnecting"));
        step.volatile(selling.volatile(VolatileLspSale::Phase(SalePhase::Cut, step.now)));
        step.effect(Effect::Disconnect { peer });
    }

    pub(crate) fn on_channel_funded(
        &self,
        step: &mut StepBuilder<'_>,
        instance: InstanceId,
        buyer: ClientIndex,
        result: Result<(ChannelId, OutPoint), OpenFailure>,
    ) {
        let Some(factory) = self.factories.get(&instance) else { return };
        let Some(funding) = factory.current.sales.jits().funding.get(&buyer) else { return };
        let coin = factory.current.layout.stock_coin(buyer);
        let sale = coin.and_then(|coin| self.lsp_sales.get(&(instance, coin)));
        let cut = sale.is_some_and(|sale| sale.phase == SalePhase::Cut);
        if let Some(coin) = coin {
            step.volatile(volatile(factory, coin, VolatileSale::End));
        }
        match result {
            Ok((channel_id, outpoint)) => self.jit_opened(step, factory, funding, channel_id, Some(outpoint)),
            Err(error) => {
                step.blame_unopened((instance, buyer), factory.node_of(buyer), &error, cut);
                self.jit_failed(step, factory, funding, &error.to_string());
            }
        }
    }

    fn jit_opened(
        &self,
        step: &mut StepBuilder<'_>,
        factory: &Factory,
        funding: &SaleJit,
        channel_id: ChannelId,
        outpoint: Option<OutPoint>,
    ) {
        let SaleJit { buyer, amount, price_msat, .. } = *funding;
        let opened = SaleJitOpened { buyer, amount, price_msat, channel_id, outpoint };
        step.log(Level::Info, format!("{}: an ordinary channel of {amount}: {channel_id}", factory.instance));
        tell_opened(step, factory, &opened);
        step.event(factory.instance, opened);
    }

    fn jit_failed(&self, step: &mut StepBuilder<'_>, factory: &Factory, funding: &SaleJit, error: &str) {
        let reason = format!("its ordinary channel can't be opened: {error}");
        step.log(Level::Unusual, format!("{}: {reason}", factory.instance));
        step.event(factory.instance, SaleJitFailed { buyer: funding.buyer, height: step.height });
        if let Some(peer) = factory.node_of(funding.buyer) {
            step.send(peer, refusal(factory, 0, &reason));
        }
    }

    /// L: a stop interrupted `fundchannel`. The channel is there, or what was paid for it is credit.
    pub(crate) fn jits_started(
        &self,
        step: &mut StepBuilder<'_>,
        factory: &Factory,
        channels: &[KnownChannel],
    ) {
        for (buyer, funding) in &factory.current.sales.jits().funding {
            let peer = factory.node_of(*buyer);
            let found = self.opened_since(channels, peer, funding.amount, funding.height);
            match found {
                Some(channel) => self.jit_opened(step, factory, funding, channel.channel_id, None),
                None => self.jit_failed(step, factory, funding, "this node was stopped meanwhile"),
            }
        }
    }

    /// L: a client that was away when its channel came, or could not store that, hears of it now. It knows
    /// those that it has seen.
    pub(crate) fn repeat_jit(&self, step: &mut StepBuilder<'_>, factory: &Factory, peer: NodeId) {
        let client = factory.client_of(peer);
        let of_peer = |jit: &&SaleJitOpened| Some(jit.buyer) == client;
        if let Some(jit) = factory.current.sales.jits().opened.iter().rev().find(of_peer) {
            tell_opened(step, factory, jit);
        }
    }

    /// The buyer: it takes longer.
    pub(crate) fn on_sale_wait(
        &self,
        step: &mut StepBuilder<'_>,
        peer: NodeId,
        message: &SaleWait,
    ) -> Result<(), Fault> {
        let (factory, _, coin) = self.sub_factory(peer, message.instance, message.attempt)?;
        let wish = self.wish(factory).ok_or_else(|| Fault::stale("nothing is being bought"))?;
        // S29: an operator that says it again and again keeps nobody waiting.
        if wish.away > 0 {
            return Err(Fault::stale("it was said before"));
        }
        let wait = u64::from(message.seconds).saturating_mul(1000).min(self.config.sale_wait);
        let patience = wait.saturating_add(self.config.ceremony_timeout.saturating_mul(3));
        let away = message.away.max(1);
        let wish = Purchase { deadline: step.now.saturating_add(patience), away, ..wish.clone() };
        step.volatile(Volatile::Sale(factory.instance, coin, VolatileSale::Purchase(Some(wish))));
        Ok(())
    }

    /// The buyer: an ordinary channel instead, for what it was ready to pay.
    pub(crate) fn on_jit_offer(
        &self,
        step: &mut StepBuilder<'_>,
        peer: NodeId,
        offer: &JitOffer,
    ) -> Result<(), Fault> {
        let (factory, _, coin) = self.sub_factory(peer, offer.instance, offer.attempt)?;
        let wish = self.wish(factory).ok_or_else(|| Fault::stale("nothing is being bought"))?;
        if wish.ordinary_channel.is_some() {
            return Err(Fault::stale("it was offered before"));
        }
        let refused = if !self.config.jit {
            Some(BadOffer::NoOrdinary)
        } else if offer.amount != wish.amount {
            Some(BadOffer::OtherAmount)
        } else if offer.price_msat > wish.max_price_msat {
            Some(BadOffer::TooDear { price_msat: offer.price_msat })
        } else {
            None
        };
        if let Some(reason) = refused.map(|refused| refused.to_string()) {
            step.send(peer, refusal(factory, 0, &reason));
            self.refuse_purchase(step, factory.instance, &reason);
            return Ok(());
        }
        let patience = self.config.ceremony_timeout.saturating_mul(4);
        let ordinary = OrdinaryChannel { price_msat: offer.price_msat, reason: offer.reason.to_string() };
        let deadline = step.now.saturating_add(patience);
        let wish = Purchase { ordinary_channel: Some(ordinary), deadline, ..wish.clone() };
        step.volatile(Volatile::Sale(factory.instance, coin, VolatileSale::End));
        step.volatile(Volatile::Sale(factory.instance, coin, VolatileSale::Purchase(Some(wish))));
        let (amount, price_msat) = (offer.amount, offer.price_msat);
        step.event(factory.instance, SaleJitAgreed { amount, price_msat });
        step.send(peer, JitAccept { instance: factory.instance, attempt: factory.current.number });
        Ok(())
    }

    pub(crate) fn on_jit_opened(
        &self,
        step: &mut StepBuilder<'_>,
        peer: NodeId,
        message: &JitOpened,
    ) -> Result<(), Fault> {
        let (factory, buyer, _) = self.sub_factory(peer, message.instance, message.attempt)?;
        let JitOpened { amount, price_msat, channel_id, outpoint, .. } = *message;
        let opened = SaleJitOpened { buyer, amount, price_msat, channel_id, outpoint };
        if !is_agreed(factory, &opened) {
            return Err(Fault::stale("it is known, or was not agreed to"));
        }
        // What it says may be invented, and would use up credit.
        step.effect(Effect::FindOrdinary { instance: factory.instance, peer, opened });
        Ok(())
    }

    /// The buyer: whether the operator's ordinary channel is there.
    pub(crate) fn on_ordinary_found(
        &self,
        step: &mut StepBuilder<'_>,
        instance: InstanceId,
        opened: SaleJitOpened,
        result: Result<bool, NodeError>,
    ) {
        let Some(factory) = self.factories.get(&instance).filter(|factory| is_agreed(factory, &opened))
        else {
            return;
        };
        match result {
            Ok(true) => {}
            Ok(false) => {
                let text =
                    format!("{instance}: the operator says that it opened channel {}", opened.channel_id);
                return step.log(Level::Unusual, format!("{text}, and there is none"));
            }
            // It is said again.
            Err(error) => return step.log(Level::Unusual, format!("{instance}: {error}")),
        }
        if let (Some(wish), Some(coin)) =
            (self.wish(factory), factory.current.layout.stock_coin(opened.buyer))
        {
            let wish = Purchase { opened: Some(opened.clone()), ..wish.clone() };
            step.volatile(Volatile::Sale(instance, coin, VolatileSale::Purchase(Some(wish))));
        }
        step.event(instance, opened);
    }

    /// What this node wants to buy and has not got yet.
    pub(crate) fn wish(&self, factory: &Factory) -> Option<&Purchase> {
        self.purchases.get(&factory.instance).filter(|wish| wish.is_open())
    }
}

/// The buyer: whether it has agreed to this ordinary channel, and not got it.
fn is_agreed(factory: &Factory, opened: &SaleJitOpened) -> bool {
    let jits = factory.current.sales.jits();
    let agreed = jits.agreed.as_ref();
    agreed.is_some_and(|agreed| agreed.amount == opened.amount && agreed.price_msat == opened.price_msat)
        && jits.opened.iter().all(|jit| jit.channel_id != opened.channel_id)
}

fn tell_opened(step: &mut StepBuilder<'_>, factory: &Factory, jit: &SaleJitOpened) {
    let Some(peer) = factory.node_of(jit.buyer) else { return };
    let SaleJitOpened { amount, price_msat, channel_id, outpoint, .. } = *jit;
    let (instance, attempt) = (factory.instance, factory.current.number);
    step.send(peer, JitOpened { instance, attempt, amount, price_msat, channel_id, outpoint });
}
