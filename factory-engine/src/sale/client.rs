//! A client's side of a sale, as buyer or as neighbour. It signs only what it rebuilt (S3).

use std::sync::Arc;

use crate::engine::Engine;
use crate::io::{Answer, CheckFailure, Effect, Level, OpenChannel};
use crate::memory::Volatile;
use crate::memory::ceremony::ExpectedOpen;
use crate::memory::sale::{ClientSale, NoPrice, Purchase, SaleTerms, VolatileClientSale, VolatileSale};
use crate::record::attempt::Role;
use crate::record::event::{SaleOpenAccepted, SaleSigned};
use crate::record::factory::Factory;
use crate::record::state::State;
use crate::record::unusable::NotCooperative;
use crate::sale::error::BadOffer;
use crate::sale::proof::{ask_for_sale, show_sale};
use crate::sale::{cooperative, place, session_count};
use crate::signing::{Plan, SignAs, SignJob, Signer, Unfinished, check_finished};
use crate::step::builder::{StepBuilder, short};
use crate::step::fault::Fault;
use crate::step::reason::clients;
use crate::terms::ClientIndex;
use crate::tx::layout::CoinIndex;
use crate::tx::sale::{Sale, transcript};
use crate::types::{ChannelId, InstanceId, NodeId, ScriptBuf};
use crate::wire::message::{
    SaleAbort, SaleChecked, SaleCommitted, SaleJoin, SaleOffer, SalePropose, SaleReady,
    SaleStored as StoredMessage,
};
use crate::wire::words::Words;

impl Engine {
    pub(crate) fn on_sale_offer(
        &self,
        step: &mut StepBuilder<'_>,
        peer: NodeId,
        offer: &SaleOffer,
    ) -> Result<(), Fault> {
        let (factory, index, coin) = self.sub_factory(peer, offer.instance, offer.attempt)?;
        let chain = factory.current.sales.of(coin);
        let deal = SaleTerms {
            number: offer.number,
            buyer: offer.buyer,
            amount: offer.amount,
            price_msat: offer.price_msat,
        };
        if let Some(known) = place(offer.number).and_then(|place| chain.get(place)) {
            let deal_is_same = known.sale.buyer == deal.buyer && known.sale.amount() == deal.amount;
            let known_script = &known.sale.channel_output.script_pubkey;
            if known.is_signed() {
                // Its first offer, without a script, may come late.
                if deal_is_same && offer.channel_script.as_ref().is_none_or(|script| script == known_script) {
                    step.send(peer, stored(factory, offer.number));
                } else {
                    // S9: that it signed for this already L must have forgotten. Before it hears that nobody takes
                    // part, so that it offers nothing else.
                    show_sale(step, factory, peer, known);
                    let reason = BadOffer::MadeOtherwise { number: offer.number };
                    self.decline_sale(step, factory, index, offer, &reason);
                }
                return Ok(());
            }
            if known.void.is_some() {
                self.decline_sale(step, factory, index, offer, &BadOffer::Void);
                return Ok(());
            }
            if !deal_is_same || offer.channel_script.as_ref() != Some(known_script) {
                return Err(Fault::peer("a second sale of stock that was signed for already"));
            }
        }
        if let Err(reason) = self.check_offer(step, factory, index, coin, offer) {
            self.decline_sale(step, factory, index, offer, &reason);
            return Ok(());
        }
        if let Some(sale) = self.client_sales.get(&(factory.instance, coin))
            && sale.deal == deal
            && sale.join.round == offer.round
            && !sale.signing.has_signed()
        {
            step.send(peer, sale.join.clone());
            return Ok(());
        }
        self.join_sale(step, factory, coin, peer, deal, offer);
        Ok(())
    }

    fn decline_sale(
        &self,
        step: &mut StepBuilder<'_>,
        factory: &Factory,
        index: ClientIndex,
        offer: &SaleOffer,
        reason: &BadOffer,
    ) {
        let reason = &reason.to_string();
        step.log(Level::Unusual, format!("{}: declined sale {}: {reason}", factory.instance, offer.number));
        step.send(factory.lsp(), abort(factory, offer.number, reason));
        if offer.buyer == index {
            self.refuse_purchase(step, factory.instance, reason);
        }
    }

    /// Fresh nonces for a sale (S2).
    fn join_sale(
        &self,
        step: &mut StepBuilder<'_>,
        factory: &Factory,
        coin: CoinIndex,
        peer: NodeId,
        deal: SaleTerms,
        offer: &SaleOffer,
    ) {
        let Ok(sessions) = session_count(factory, coin, deal.number, deal.amount) else { return };
        // Whoever holds a signed factory has signed with this.
        let Some(salt) = factory.current.salt else { return };
        let key = self.client_key(factory.instance, factory.current.number, &salt);
        let (signing, public) = Signer::fresh(sessions, &key, || step.rng.bytes32());
        let join = SaleJoin {
            instance: factory.instance,
            attempt: factory.current.number,
            number: deal.number,
            nonces: public,
            round: offer.round,
        };
        let buys = matches!(factory.current.role, Role::Client { index, .. } if index == deal.buyer);
        let open = if buys && offer.channel_script.is_none() {
            ExpectedOpen::Expected
        } else {
            ExpectedOpen::NotYet
        };
        let sale = ClientSale {
            deal,
            join: join.clone(),
            signing,
            open,
            // Its channel was checked before it was signed for the first time.
            committed: offer.channel_script.clone().map(|script| (script, !buys)),
            deadline: step.now.saturating_add(self.config.ceremony_timeout.saturating_mul(5)),
        };
        step.volatile(Volatile::Sale(factory.instance, coin, VolatileSale::StartClient(Box::new(sale))));
        step.send(peer, join);
        if let (true, Some(script)) = (buys, &offer.channel_script) {
            self.check_sale_channel(step, factory, coin, deal, script);
        }
    }

    /// Whether an offer is one that we would sign (S3, S9, S24).
    fn check_offer(
        &self,
        step: &mut StepBuilder<'_>,
        factory: &Factory,
        index: ClientIndex,
        coin: CoinIndex,
        offer: &SaleOffer,
    ) -> Result<(), BadOffer> {
        let next = factory.next_sale(coin);
        if offer.number > next {
            let (made, known) = (offer.number.saturating_sub(1), next.saturating_sub(1));
            ask_for_sale(step, factory, factory.lsp(), next);
            return Err(BadOffer::Ahead { made, known });
        }
        cooperative(factory, coin, step.height)?;
        if self.is_frozen_to_close(factory.instance) {
            return Err(NotCooperative::State(State::Closing).into());
        }
        if offer.number == next && factory.current.sales.of(coin).last().is_some_and(|last| !last.is_signed())
        {
            return Err(BadOffer::Unfinished);
        }
        session_count(factory, coin, offer.number, offer.amount)?;
        let clients = factory.current.layout.coin(coin).map(|coin| coin.clients.clone()).unwrap_or_default();
        if !clients.contains(&offer.buyer) {
            return Err(BadOffer::Stranger(offer.buyer));
        }
        let early = factory.sale_blocks_early(offer.buyer, offer.number);
        let record = factory.channel_in_factory(offer.buyer);
        if offer.channel_in_factory.factory_instance != record.factory_instance
            || offer.channel_in_factory.factory_protocol != record.factory_protocol
            || offer.channel_in_factory.blocks_early != early
        {
            return Err(BadOffer::Record);
        }
        if u32::from(early) > crate::tx::layout::MAX_EXIT_BLOCKS {
            return Err(BadOffer::ExitTooLong { blocks: early });
        }
        if offer.push_msat != factory.current.terms.push_msat {
            return Err(BadOffer::Push);
        }
        if offer.buyer != index {
            return if self.config.sign_for_neighbours { Ok(()) } else { Err(BadOffer::Neighbour) };
        }
        // An interrupted sale, that we have signed already, or would have.
        let agreed = factory.current.sales.is_agreed(offer.number, offer.amount, offer.price_msat);
        if offer.number < next || offer.channel_script.is_some() && agreed {
            return Ok(());
        }
        match self.wish(factory) {
            None => Err(BadOffer::Unasked),
            Some(wish) if wish.amount != offer.amount => Err(BadOffer::OtherAmount),
            Some(wish) if offer.price_msat > wish.max_price_msat => {
                Err(BadOffer::TooDear { price_msat: offer.price_msat })
            }
            Some(_) => Ok(()),
        }
    }

    /// The `openchannel` hook: the open of a sale that this node agreed to.
    pub(crate) fn on_open_sale(&self, step: &mut StepBuilder<'_>, open: &OpenChannel) -> Option<Answer> {
        let ((instance, coin), sale) = self.client_sales.iter().find(|((instance, _), sale)| {
            self.factories.get(instance).is_some_and(|factory| {
                let record = factory.channel_in_factory(sale.deal.buyer);
                let early = factory.sale_blocks_early(sale.deal.buyer, sale.deal.number);
                factory.lsp() == open.peer
                    && sale.open == ExpectedOpen::Expected
                    && open.zeroconf
                    && open.capacity == sale.deal.amount
                    && open.push_msat == factory.current.terms.push_msat
                    && open.channel_in_factory.is_none_or(|given| {
                        given.factory_instance == record.factory_instance && given.blocks_early == early
                    })
            })
        })?;
        if let Some(reason) = open.harmful() {
            return Some(Answer::RejectOpen(reason));
        }
        see_open(step, (*instance, *coin), sale.deal);
        Some(Answer::AcceptOpen)
    }

    /// Another sale, in another factory of this operator, that this one's open was taken for: they look alike, and
    /// an operator's lightningd has one open at a time with a peer, from its begin until it is committed. What was
    /// stored of the open for the other sale stays: that a channel too many is looked for there costs nothing.
    fn taken_for(&self, lsp: NodeId, sale: &ClientSale) -> Option<(InstanceId, CoinIndex)> {
        let expected = sale.open == ExpectedOpen::Expected;
        let (of, _) = self.client_sales.iter().find(|((instance, _), other)| {
            expected
                && self.factories.get(instance).is_some_and(|factory| factory.lsp() == lsp)
                && other.open == ExpectedOpen::Seen
                && other.committed.is_none()
                && other.deal.amount == sale.deal.amount
        })?;
        Some(*of)
    }

    pub(crate) fn on_sale_committed(
        &self,
        step: &mut StepBuilder<'_>,
        peer: NodeId,
        message: &SaleCommitted,
    ) -> Result<(), Fault> {
        let (factory, coin, sale) = self.buying(peer, message.instance, message.attempt, message.number)?;
        if sale.open != ExpectedOpen::Seen {
            let taken = self.taken_for(peer, sale);
            let taken = taken.ok_or_else(|| Fault::peer("a committed channel before its open_channel"))?;
            see_open(step, (factory.instance, coin), sale.deal);
            step.volatile(expects(taken, ExpectedOpen::Expected));
        }
        match &sale.committed {
            Some((script, _)) if *script != message.channel_script => {
                return Err(Fault::peer("a second committed channel that differs from the first"));
            }
            // Said twice: what was checked stays checked.
            Some((_, true)) => return Err(Fault::stale("its channel is checked already")),
            _ => {}
        }
        let script = message.channel_script.clone();
        self.check_sale_channel(step, factory, coin, sale.deal, &script);
        step.volatile(Volatile::Sale(
            factory.instance,
            coin,
            VolatileSale::Client(VolatileClientSale::Committed(script, false)),
        ));
        Ok(())
    }

    fn check_sale_channel(
        &self,
        step: &mut StepBuilder<'_>,
        factory: &Factory,
        coin: CoinIndex,
        deal: SaleTerms,
        script: &ScriptBuf,
    ) {
        let Ok(built) = factory.build_sale(coin, deal.number, deal.buyer, deal.amount, script) else {
            return;
        };
        step.effect(Effect::CheckChannel {
            instance: factory.instance,
            attempt: factory.current.number,
            sale: Some(deal.number),
            channel_id: ChannelId::of(built.channel),
            outpoint: built.channel,
            output: built.channel_output,
        });
    }

    pub(crate) fn on_sale_channel_check(
        &self,
        step: &mut StepBuilder<'_>,
        instance: InstanceId,
        number: u32,
        result: Result<(), CheckFailure>,
    ) {
        let found =
            self.client_sales.iter().find(|((of, _), sale)| *of == instance && sale.deal.number == number);
        let (Some(((_, coin), sale)), Some(factory)) = (found, self.factories.get(&instance)) else { return };
        let Some((script, _)) = &sale.committed else { return };
        let what = format!("sale {number}");
        match result.err().and_then(|failure| self.unchecked(step, instance, &what, failure)) {
            None => {
                step.volatile(Volatile::Sale(
                    instance,
                    *coin,
                    VolatileSale::Client(VolatileClientSale::Committed(script.clone(), true)),
                ));
                let round = sale.join.round;
                step.send(
                    factory.lsp(),
                    SaleChecked { instance, attempt: factory.current.number, number, round },
                );
            }
            Some(reason) => self.leave_sale(step, factory, *coin, sale, &reason),
        }
    }

    pub(crate) fn on_sale_propose(
        &self,
        step: &mut StepBuilder<'_>,
        peer: NodeId,
        propose: &SalePropose,
    ) -> Result<(), Fault> {
        let (factory, index, coin) = self.sub_factory(peer, propose.instance, propose.attempt)?;
        let sale = self.client_sale(factory, coin, propose.number)?;
        if step.answers_again(peer, sale.signing.asked(propose))? {
            return Ok(());
        }
        if let Err(reason) = cooperative(factory, coin, step.height) {
            self.leave_sale(step, factory, coin, sale, &reason.to_string());
            return Ok(());
        }
        // S18: nothing is signed for a channel that isn't in lightningd as the sale pays it.
        let checked = sale
            .committed
            .as_ref()
            .is_some_and(|(script, checked)| *script == propose.channel_script && *checked);
        if index == sale.deal.buyer && !checked {
            return Err(Fault::peer("a proposal before its channel is committed and checked"));
        }
        let deal = sale.deal;
        let built = factory
            .build_sale(coin, deal.number, deal.buyer, deal.amount, &propose.channel_script)
            .map_err(Fault::peer)?;
        if propose.nonces.len() != built.sessions.len() {
            return Err(Fault::peer("its aggregate nonces are not as many as the sale's transactions"));
        }
        self.sign_as_client(step, factory, coin, sale, &built, propose)
    }

    fn sign_as_client(
        &self,
        step: &mut StepBuilder<'_>,
        factory: &Factory,
        coin: CoinIndex,
        sale: &ClientSale,
        built: &Sale,
        propose: &SalePropose,
    ) -> Result<(), Fault> {
        let tree = factory.current.tree.clone().ok_or_else(|| Fault::stale("the stock has no key"))?;
        let plan = Plan::new(tree, &built.sessions);
        let ledger = plan.ledger();
        self.ledger.check(&ledger).map_err(Fault::peer)?;
        if factory.next_sale(coin) == sale.deal.number {
            let signing = sale.deal.signing(coin, &propose.channel_script, ledger, step.height);
            step.event(factory.instance, signing);
        }
        let transcript = transcript(factory.instance, factory.current.number, built, &propose.nonces);
        let deadline = step.now.saturating_add(self.config.ceremony_timeout.saturating_mul(2));
        let role = SignAs::Member { plan, request: Arc::new(propose.clone()) };
        let job = Box::new(SignJob { transcript, role, deadline });
        step.volatile(Volatile::Sale(factory.instance, coin, VolatileSale::Sign(job)));
        Ok(())
    }

    pub(crate) fn on_sale_ready(
        &self,
        step: &mut StepBuilder<'_>,
        peer: NodeId,
        ready: &SaleReady,
    ) -> Result<(), Fault> {
        let (factory, index, coin) = self.sub_factory(peer, ready.instance, ready.attempt)?;
        let sold = place(ready.number)
            .and_then(|place| factory.current.sales.of(coin).get(place))
            .ok_or_else(|| Fault::stale("nothing of this sale was signed here"))?;
        if sold.is_signed() {
            step.send(peer, stored(factory, ready.number));
            return Ok(());
        }
        let tree = factory.current.tree.clone().ok_or_else(|| Fault::stale("the stock has no key"))?;
        let plan = Plan::new(tree, &sold.sale.sessions);
        check_finished(&plan, &ready.signatures).map_err(|wrong| match wrong {
            Unfinished::Count { given, expected } => {
                Fault::peer(format!("{given} signatures for the sale's {expected} transactions"))
            }
            Unfinished::Invalid(session) => {
                Fault::peer(format!("the signature of the {} doesn't verify", session.role.name()))
            }
        })?;
        let number = ready.number;
        step.event(factory.instance, SaleSigned { coin, number, signatures: ready.signatures.clone() });
        step.volatile(Volatile::Sale(factory.instance, coin, VolatileSale::End));
        if index == sold.sale.buyer {
            step.volatile(Volatile::Sale(factory.instance, coin, VolatileSale::Purchase(None)));
            step.log(
                Level::Info,
                format!("{}: bought {}, sale {number}", factory.instance, sold.sale.amount()),
            );
        }
        step.send(peer, stored(factory, number));
        Ok(())
    }

    /// The operator ends a sale, or refuses one.
    pub(crate) fn on_lsp_sale_abort(
        &self,
        step: &mut StepBuilder<'_>,
        peer: NodeId,
        message: &SaleAbort,
    ) -> Result<(), Fault> {
        let (factory, _, coin) = self.sub_factory(peer, message.instance, message.attempt)?;
        // A `buy` that came to no sale has no number.
        if message.number == 0 {
            self.refuse_purchase(step, factory.instance, &message.reason);
            self.answer_price(step, factory, coin, None, Err(NoPrice(message.reason.to_string())));
        } else if let Ok(sale) = self.client_sale(factory, coin, message.number) {
            self.forget_sale(step, factory, coin, sale, &message.reason);
        }
        Ok(())
    }

    pub(crate) fn client_sale_fault(&self, step: &mut StepBuilder<'_>, factory: &Factory, reason: &str) {
        for ((instance, coin), sale) in &self.client_sales {
            if *instance == factory.instance {
                self.leave_sale(step, factory, *coin, sale, reason);
            }
        }
        if self.wish(factory).is_some_and(|wish| wish.ordinary_channel.is_some()) {
            step.send(factory.lsp(), abort(factory, 0, reason));
            self.refuse_purchase(step, factory.instance, reason);
        }
    }

    /// Ends our part and says why.
    pub(crate) fn leave_sale(
        &self,
        step: &mut StepBuilder<'_>,
        factory: &Factory,
        coin: CoinIndex,
        sale: &ClientSale,
        reason: &str,
    ) {
        step.send(factory.lsp(), abort(factory, sale.deal.number, reason));
        self.forget_sale(step, factory, coin, sale, reason);
    }

    fn forget_sale(
        &self,
        step: &mut StepBuilder<'_>,
        factory: &Factory,
        coin: CoinIndex,
        sale: &ClientSale,
        reason: &str,
    ) {
        step.volatile(Volatile::Sale(factory.instance, coin, VolatileSale::End));
        // What was signed for is taken up again; the wish ends with a sale that nobody signed. Its channel,
        // if there is one, is closed by the operator, who alone knows whether it signed.
        if factory.next_sale(coin) == sale.deal.number {
            self.refuse_purchase(step, factory.instance, reason);
        }
    }

    pub(crate) fn refuse_purchase(&self, step: &mut StepBuilder<'_>, instance: InstanceId, reason: &str) {
        if let Some(purchase) = self.purchases.get(&instance).filter(|wish| wish.is_open()) {
            let refused = Purchase { refused: Some(short(reason)), ..purchase.clone() };
            step.volatile(Volatile::Sale(instance, purchase.coin, VolatileSale::Purchase(Some(refused))));
        }
    }

    /// A disconnect ends the open that lightningd had pending, and nonces that were not used (S2).
    pub(crate) fn client_sales_peer_down(&self, step: &mut StepBuilder<'_>, peer: NodeId) {
        for ((instance, coin), sale) in &self.client_sales {
            if let Some(factory) = self.factories.get(instance).filter(|factory| factory.lsp() == peer) {
                self.forget_sale(step, factory, *coin, sale, "the operator disconnected");
            }
        }
        for instance in self.purchases.keys() {
            if self.factories.get(instance).is_some_and(|factory| factory.lsp() == peer) {
                self.refuse_purchase(step, *instance, "the operator disconnected");
            }
        }
    }

    pub(crate) fn client_sales_tick(&self, step: &mut StepBuilder<'_>) {
        for ((instance, coin), sale) in &self.client_sales {
            if let Some(factory) = self.factories.get(instance).filter(|_| step.now >= sale.deadline) {
                self.leave_sale(step, factory, *coin, sale, "the operator went silent");
            }
        }
        for (instance, purchase) in &self.purchases {
            if step.now >= purchase.deadline && purchase.is_open() {
                self.end_purchase(step, *instance, purchase);
            }
        }
    }

    /// A purchase took too long. Of one that only waits the operator has no other sign.
    fn end_purchase(&self, step: &mut StepBuilder<'_>, instance: InstanceId, purchase: &Purchase) {
        let mut reason = "the operator didn't answer in time".to_owned();
        if let Ok(away @ 1..) = usize::try_from(purchase.away) {
            reason.push_str("; it had to wait for ");
            reason.push_str(&clients(away));
        }
        if let Some(factory) = self.factories.get(&instance) {
            step.send(factory.lsp(), abort(factory, 0, &reason));
        }
        self.refuse_purchase(step, instance, &reason);
    }

    /// Our factory of this operator, our place in it, and our sub-factory's stock coin.
    pub(crate) fn sub_factory(
        &self,
        peer: NodeId,
        instance: InstanceId,
        attempt: u32,
    ) -> Result<(&Factory, ClientIndex, CoinIndex), Fault> {
        let factory = self.own_factory(peer, instance, attempt)?;
        let Role::Client { index, .. } = factory.current.role else {
            return Err(Fault::stale("it is our own factory"));
        };
        let coin = factory
            .current
            .layout
            .stock_coin(index)
            .ok_or_else(|| Fault::stale("factories of these terms have no stock"))?;
        Ok((factory, index, coin))
    }

    fn client_sale(&self, factory: &Factory, coin: CoinIndex, number: u32) -> Result<&ClientSale, Fault> {
        self.client_sales
            .get(&(factory.instance, coin))
            .filter(|sale| sale.deal.number == number)
            .ok_or_else(|| Fault::stale("no such sale is under way"))
    }

    pub(crate) fn buying(
        &self,
        peer: NodeId,
        instance: InstanceId,
        attempt: u32,
        number: u32,
    ) -> Result<(&Factory, CoinIndex, &ClientSale), Fault> {
        let (factory, index, coin) = self.sub_factory(peer, instance, attempt)?;
        let sale = self.client_sale(factory, coin, number)?;
        if sale.deal.buyer != index {
            return Err(Fault::stale("another client buys"));
        }
        Ok((factory, coin, sale))
    }
}

fn stored(factory: &Factory, number: u32) -> StoredMessage {
    StoredMessage { instance: factory.instance, attempt: factory.current.number, number }
}

fn abort(factory: &Factory, number: u32, reason: &str) -> SaleAbort {
    SaleAbort {
        instance: factory.instance,
        attempt: factory.current.number,
        number,
        reason: Words::new(reason),
    }
}

/// The open of this sale's channel was accepted, which is stored first (S18).
fn see_open(step: &mut StepBuilder<'_>, of: (InstanceId, CoinIndex), deal: SaleTerms) {
    let SaleTerms { number, amount, price_msat, .. } = deal;
    step.event(of.0, SaleOpenAccepted { number, amount, price_msat });
    step.volatile(expects(of, ExpectedOpen::Seen));
}

fn expects((instance, coin): (InstanceId, CoinIndex), open: ExpectedOpen) -> Volatile {
    Volatile::Sale(instance, coin, VolatileSale::Client(VolatileClientSale::Open(open)))
}
