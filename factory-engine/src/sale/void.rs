//! S36: a sale that was paid and signed for, and that somebody keeps from its end.
//!
//! Its stock output is signed for once (S8), so that nothing else can ever be sold out of it. After
//! `sale_blocks` blocks L gives it up for good, names whoever hasn't signed, and the price is the buyer's again.
//! Partial signatures go to L alone: a sale that L has given up nobody can finish. From then on this
//! sub-factory's clients get ordinary channels, if both sides allow that.
//!
//! A node that was restored from an older copy (S9) may have forgotten that a sale was finished. So L asks each client
//! of the sub-factory that comes for the signatures of what it takes for unfinished ([`crate::sale::proof`]). Once it
//! knows that it was restored it gives nothing up whose buyer isn't there to be asked, and the channel stays in
//! lightningd: if somebody has the signatures after all, it is funded. What it then has lost is the price.
//!
//! Where everybody has signed and somebody won't say that it has stored, the buyer has what it paid for. Others
//! don't wait for that longer than `sale_blocks` either.

use crate::engine::Engine;
use crate::io::{Effect, Level};
use crate::memory::Volatile;
use crate::memory::sale::{LspSale, Purchase, SalePhase, SaleTerms, VolatileSale};
use crate::record::attempt::Role;
use crate::record::event::SaleVoid;
use crate::record::factory::Factory;
use crate::record::sales::Sold;
use crate::sale::lsp::{names, sub_clients, volatile};
use crate::step::builder::StepBuilder;
use crate::step::fault::Fault;
use crate::terms::ClientIndex;
use crate::tx::layout::CoinIndex;
use crate::types::{Height, NodeId};
use crate::wire::message::{Buy, SaleVoid as VoidMessage};

/// Blocks that others have to come back, and sales to go on, after this node was started or was alone.
const GRACE: u32 = 3;

impl Engine {
    /// Whether a sale has had its blocks.
    pub(crate) fn is_late(&self, sold: &Sold, height: Height) -> bool {
        height >= sold.begun.saturating_add(self.config.sale_blocks)
    }

    /// L: whether a block is one for a signed sale that not everybody has stored: each at first, and one in
    /// `sale_blocks` when it is late. A connection that lasts may have lost what was sent over it.
    pub(crate) fn is_repeated(&self, sold: &Sold, height: Height) -> bool {
        let age = height.saturating_sub(sold.begun);
        !self.is_late(sold, height) || age.checked_rem(self.config.sale_blocks).is_none_or(|rest| rest == 0)
    }

    /// L: whether a sale ends unsigned. Whoever was kept waiting by this node's own absence is waited for, and the
    /// buyer by a node that may have forgotten the end (S9).
    pub(crate) fn is_given_up(&self, factory: &Factory, sold: &Sold, height: Height) -> bool {
        if factory.restored().is_some() && !self.is_buyer_here(factory, sold) {
            return false;
        }
        let waited = self.open_since.is_some_and(|since| height >= since.saturating_add(GRACE));
        !sold.is_signed() && sold.void.is_none() && waited && self.is_late(sold, height)
    }

    fn is_buyer_here(&self, factory: &Factory, sold: &Sold) -> bool {
        factory.node_of(sold.sale.buyer).is_some_and(|buyer| self.peers.contains(&buyer))
    }

    /// L: whether nothing is sold out of this coin: its last sale never ends, or somebody keeps the next.
    pub(crate) fn is_blocked(&self, factory: &Factory, coin: CoinIndex, height: Height) -> bool {
        let last = factory.current.sales.of(coin).last();
        last.is_some_and(|last| last.void.is_some() || (!last.stored && self.is_late(last, height)))
    }

    /// L: whether it was this client that keeps a coin's stock from being sold: it gets nothing for that.
    pub(crate) fn has_blocked(&self, factory: &Factory, coin: CoinIndex, client: ClientIndex) -> bool {
        let void = factory.current.sales.of(coin).last().and_then(|last| last.void.as_ref());
        let withheld = self.withheld.get(&(factory.instance, coin));
        match (void, factory.node_of(client)) {
            (Some(void), _) => void.blamed.contains(&client),
            (None, Some(node)) => withheld.is_some_and(|who| who.contains(&node)),
            (None, None) => false,
        }
    }

    /// L: sales that were signed for and are not finished in time.
    pub(crate) fn end_late_sales(&self, step: &mut StepBuilder<'_>, factory: &Factory) {
        if factory.current.role != Role::Lsp {
            return;
        }
        for sold in factory.current.sales.all() {
            let Some(coin) = sold.coin() else { continue };
            if self.is_given_up(factory, sold, step.height) {
                self.void_sale(step, factory, coin, sold);
            } else if !sold.is_signed()
                && sold
                    .void
                    .as_ref()
                    .is_some_and(|void| step.height <= void.height.saturating_add(self.config.sale_blocks))
            {
                for (_, node) in sub_clients(factory, coin) {
                    tell_void(step, factory, sold.sale.number, node);
                }
            }
        }
    }

    fn void_sale(&self, step: &mut StepBuilder<'_>, factory: &Factory, coin: CoinIndex, sold: &Sold) {
        let (number, height) = (sold.sale.number, step.height);
        let mut who = self.withheld.get(&(factory.instance, coin)).cloned().unwrap_or_default();
        who.extend(self.away(factory, coin));
        let of = |(client, node): (ClientIndex, NodeId)| who.contains(&node).then_some((client, node));
        let (blamed, nodes): (Vec<ClientIndex>, Vec<NodeId>) =
            sub_clients(factory, coin).filter_map(of).unzip();
        let text = if nodes.is_empty() { "nobody is to blame".to_owned() } else { names(&nodes) };
        step.log(
            Level::Unusual,
            format!(
                "{}: sale {number} of coin {coin} was not finished within {} blocks ({text}): its price is its \
                 buyer's again, and nothing more is sold out of this stock",
                factory.instance, self.config.sale_blocks
            ),
        );
        step.event(factory.instance, SaleVoid { coin, number, blamed, height });
        step.volatile(volatile(factory, coin, VolatileSale::End));
        // S9: a buyer that isn't here may have what this node has forgotten. Else it closes the channel once it hears.
        if factory.restored().is_none() && self.is_buyer_here(factory, sold) {
            step.effect(Effect::CloseChannel { channel_id: sold.channel_id(), on_chain: false });
        }
        for (_, node) in sub_clients(factory, coin) {
            tell_void(step, factory, number, node);
        }
    }

    /// L: a client that was away when a sale was given up hears of it now.
    pub(crate) fn repeat_void(&self, step: &mut StepBuilder<'_>, factory: &Factory, peer: NodeId) {
        let coin = factory.client_of(peer).and_then(|client| factory.current.layout.stock_coin(client));
        let last = coin.and_then(|coin| factory.current.sales.of(coin).last());
        if let Some(last) = last.filter(|last| last.void.is_some() && !last.is_signed()) {
            tell_void(step, factory, last.sale.number, peer);
        }
    }

    /// L: an ordinary channel, where there will be no sale.
    pub(crate) fn offer_instead(
        &self,
        step: &mut StepBuilder<'_>,
        factory: &Factory,
        coin: CoinIndex,
        deal: SaleTerms,
        jit: bool,
    ) {
        let sale = LspSale { jit, ..LspSale::new(factory, coin, deal, SalePhase::Waiting, step.now) };
        let reason = "the stock was signed for a sale that not everybody has finished, and can't be sold";
        self.offer_jit(step, factory, coin, &sale, &reason.into());
    }

    /// A client: a sale never will be finished. Its buyer takes an ordinary channel, if it may, for what it was
    /// ready to pay; else its price is credit.
    pub(crate) fn on_sale_void(
        &self,
        step: &mut StepBuilder<'_>,
        peer: NodeId,
        message: &VoidMessage,
    ) -> Result<(), Fault> {
        let (factory, index, coin) = self.sub_factory(peer, message.instance, message.attempt)?;
        let number = message.number;
        let sold = factory.current.sales.of(coin).iter().find(|sold| sold.sale.number == number);
        let sold = sold
            .filter(|sold| !sold.is_signed() && sold.void.is_none())
            .ok_or_else(|| Fault::stale("no such sale waits for signatures"))?;
        step.log(Level::Info, format!("{}: sale {number} is given up", factory.instance));
        let void = SaleVoid { coin, number, blamed: vec![], height: step.height };
        step.event(factory.instance, void);
        step.volatile(volatile(factory, coin, VolatileSale::End));
        if sold.sale.buyer != index {
            return Ok(());
        }
        step.effect(Effect::CloseChannel { channel_id: sold.channel_id(), on_chain: false });
        if self.wish(factory).is_some() || !self.config.jit {
            let paid = sold.price_msat;
            let reason =
                format!("a client that has to sign did not, and it was given up; {paid} msat are credit");
            self.refuse_purchase(step, factory.instance, &reason);
            return Ok(());
        }
        self.ask_instead(step, factory, coin, sold);
        Ok(())
    }

    /// Buys the same again: L has no stock for it.
    fn ask_instead(&self, step: &mut StepBuilder<'_>, factory: &Factory, coin: CoinIndex, sold: &Sold) {
        let (instance, attempt, amount) = (factory.instance, factory.current.number, sold.sale.amount());
        let max_price_msat = sold.price_msat;
        let deadline = step.now.saturating_add(self.config.ceremony_timeout.saturating_mul(3));
        let wish = Purchase::new(coin, amount, max_price_msat, deadline);
        step.volatile(Volatile::Sale(instance, coin, VolatileSale::Purchase(Some(wish))));
        step.send(factory.lsp(), Buy { instance, attempt, amount, max_price_msat, jit: Some(true) });
    }
}

fn tell_void(step: &mut StepBuilder<'_>, factory: &Factory, number: u32, node: NodeId) {
    step.send(node, VoidMessage { instance: factory.instance, attempt: factory.current.number, number });
}
