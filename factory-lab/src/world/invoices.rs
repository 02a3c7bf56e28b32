//! What liquidity costs, paid: lightningd's invoices, payments and ordinary channels, modelled. They
//! outlive a restart.

use bitcoin::hashes::{Hash, sha256};
use factory_engine::terms::ClientIndex;
use factory_engine::types::{
    Amount, ChannelId, InstanceId, NodeId, OutPoint, PaymentHash, PaymentSecret, Txid,
};
use factory_engine::{
    Entropy, Factory, Input, Invoice, KnownChannel, NodeError, OpenFailure, Purchase, Role, Sold,
};

use crate::fault::Kind;
use crate::node::IssuedInvoice;

use super::{LSP, World};

/// `min_final_cltv_expiry` of an invoice in a run of the simulator, whose factories live shorter than others.
const SHORT: u32 = 2;

/// A payment that is neither settled nor failed.
#[derive(Debug, Clone)]
pub(super) struct Payment {
    at: usize,
    instance: InstanceId,
    peer: NodeId,
    invoice: Invoice,
}

impl World {
    /// `invoice`: makes one whose hash and secret follow from its label.
    pub(super) fn make_invoice(&mut self, at: usize, instance: InstanceId, label: String, amount_msat: u64) {
        let hash = |what: &str| sha256::Hash::hash(format!("{what} of {label}").as_bytes()).to_byte_array();
        let invoice = Invoice {
            amount_msat,
            payment_hash: PaymentHash(hash("hash")),
            payment_secret: PaymentSecret(hash("secret")),
            min_final_cltv_expiry: if self.chaos.is_some() { SHORT } else { 18 },
        };
        let booked = IssuedInvoice { invoice, paid: false, waiting: None };
        self.members[at].lightningd.invoices.insert(label.clone(), booked);
        self.answer(at, Input::InvoiceMade { instance, label, result: Ok(invoice) });
    }

    /// `waitinvoice`: answers now if it is paid, and otherwise when it is.
    pub(super) fn wait_invoice(&mut self, at: usize, instance: InstanceId, label: String) {
        let Some(booked) = self.members[at].lightningd.invoices.get_mut(&label) else { return };
        booked.waiting = Some(instance);
        if booked.paid {
            self.answer(at, Input::InvoiceEnded { instance, label, result: Ok(true) });
        }
    }

    /// `delinvoice` of what isn't paid.
    pub(super) fn end_invoice(&mut self, at: usize, instance: InstanceId, label: String) {
        let invoices = &mut self.members[at].lightningd.invoices;
        let paid = invoices.get(&label).is_some_and(|booked| booked.paid);
        if !paid {
            invoices.remove(&label);
        }
        self.answer(at, Input::InvoiceEnded { instance, label, result: Ok(paid) });
    }

    /// A payment over one hop, which settles at once, fails, or is under way for a while.
    pub(super) fn pay_invoice(&mut self, at: usize, instance: InstanceId, peer: NodeId, invoice: &Invoice) {
        self.judge_price(at, instance, invoice);
        let payment = Payment { at, instance, peer, invoice: *invoice };
        let chances = self.chaos.as_mut().map(|chaos| &mut chaos.chances);
        let stuck = chances.and_then(|chances| chances.roll(Kind::PaymentStuck, || format!("member {at}")));
        match stuck {
            Some(_) => self.stuck.push(payment),
            None => self.end_payment(&payment),
        }
    }

    /// Payments that were stuck arrive or fail, now that both ends are there; without both ends only if
    /// they can't wait any longer.
    pub(crate) fn end_payments(&mut self, now: bool) {
        for payment in std::mem::take(&mut self.stuck) {
            let payee = self.member_of(payment.peer);
            if now || payee.is_some_and(|payee| self.connected(payment.at, payee)) {
                self.end_payment(&payment);
            } else {
                self.stuck.push(payment);
            }
        }
    }

    fn end_payment(&mut self, payment: &Payment) {
        let Payment { at, instance, peer, ref invoice } = *payment;
        let result = self.settle_invoice(at, peer, invoice).map_err(NodeError::from);
        let payment_hash = invoice.payment_hash;
        self.members[at].lightningd.payments.insert(payment_hash, result.is_ok());
        if result.is_ok() {
            // What the operator pays is what a client has paid before.
            let (client, back) = if at == LSP { (self.member_of(peer), true) } else { (Some(at), false) };
            let paid = self.paid.entry((client.unwrap_or(at), instance)).or_default();
            let amount = invoice.amount_msat;
            *paid = if back { paid.saturating_sub(amount) } else { paid.saturating_add(amount) };
        }
        if self.members[at].engine.is_some() {
            self.answer(at, Input::PaymentEnded { instance, payment_hash, result });
        }
    }

    fn settle_invoice(&mut self, at: usize, peer: NodeId, invoice: &Invoice) -> Result<(), String> {
        let payee = self.member_of(peer).filter(|payee| self.connected(at, *payee)).ok_or("not connected")?;
        // Who lies about a price has an invoice for it.
        let fits = |booked: &IssuedInvoice| {
            let hash = booked.invoice.payment_hash == invoice.payment_hash;
            !booked.paid && (booked.invoice == *invoice || (hash && self.is_dishonest(payee)))
        };
        let invoices = &self.members[payee].lightningd.invoices;
        let found = invoices.iter().find(|(_, booked)| fits(booked));
        let label = found.map(|(label, _)| label.clone()).ok_or("incorrect_or_unknown_payment_details")?;
        let blocks = invoice.min_final_cltv_expiry.saturating_add(1);
        self.pay_with(at, payee, invoice.amount_msat, blocks).map_err(|error| error.to_string())?;
        let Some(booked) = self.members[payee].lightningd.invoices.get_mut(&label) else { return Ok(()) };
        booked.paid = true;
        if let Some(instance) = booked.waiting {
            self.answer(payee, Input::InvoiceEnded { instance, label, result: Ok(true) });
        }
        Ok(())
    }

    /// `fundchannel`. Of an ordinary channel nothing but that it exists matters here, unless a client leaves for it.
    pub(super) fn fund_channel(
        &mut self,
        at: usize,
        (instance, buyer): (InstanceId, ClientIndex),
        peer: NodeId,
        capacity: Amount,
    ) {
        let other = self.member_of(peer).filter(|other| self.connected(at, *other));
        let chances = self.chaos.as_mut().map(|chaos| &mut chaos.chances);
        let fails = chances.and_then(|chances| chances.roll(Kind::OpenFails, || format!("client {buyer}")));
        if other.is_some_and(|other| self.members[other].lightningd.ignores_ordinary) {
            self.members[at].lightningd.unanswered.push((peer, instance, buyer));
            return;
        }
        let result = match (other, fails) {
            _ if self.members[at].lightningd.short_of_coins => {
                Err(OpenFailure::Own("Could not afford the channel".to_owned()))
            }
            (None, _) => Err(OpenFailure::Disconnected("Peer not connected".to_owned())),
            (Some(other), _) if self.members[other].lightningd.refuses_ordinary => {
                Err(OpenFailure::Refused("They sent an error: no".to_owned()))
            }
            (_, Some(_)) => Err(OpenFailure::Disconnected("Owning subdaemon openingd died".to_owned())),
            (Some(other), None) if self.is_for_leaving(at, instance, buyer) => {
                let funded = self.fund_ordinary(other, capacity, 0);
                let funded = funded.map(|outpoint| (ChannelId::of(outpoint), outpoint));
                funded.map_err(|error| OpenFailure::Own(error.to_string()))
            }
            (Some(other), None) => {
                let txid = Txid::from_byte_array(self.members[at].lightningd.rng.bytes32());
                let outpoint = OutPoint { txid, vout: 0 };
                let channel_id = ChannelId::of(outpoint);
                let id = self.members[at].id;
                for (member, peer) in [(at, peer), (other, id)] {
                    let known = KnownChannel { channel_id, peer, capacity, confirmed: None };
                    self.members[member].lightningd.ordinary.push(known);
                }
                Ok((channel_id, outpoint))
            }
        };
        self.answer(at, Input::ChannelFunded { instance, buyer, result });
    }

    /// lightningd ends an open with the connection.
    pub(super) fn end_unanswered(&mut self, at: usize, peer: NodeId) {
        let ended = self.members[at].lightningd.unanswered.extract_if(.., |(other, ..)| *other == peer);
        for (_, instance, buyer) in ended.collect::<Vec<_>>() {
            let died = OpenFailure::Disconnected("Owning subdaemon openingd died".to_owned());
            self.answer(at, Input::ChannelFunded { instance, buyer, result: Err(died) });
        }
    }

    /// `waitsendpay`, or `listsendpays` of what has ended. What is under way answers when it ends.
    pub(super) fn look_payment(&mut self, at: usize, instance: InstanceId, payment_hash: PaymentHash) {
        let is_it = |payment: &Payment| payment.at == at && payment.invoice.payment_hash == payment_hash;
        if self.stuck.iter().any(is_it) {
            return;
        }
        let arrived = self.members[at].lightningd.payments.get(&payment_hash).copied().unwrap_or(false);
        let result = if arrived { Ok(()) } else { Err("it never arrived".into()) };
        self.answer(at, Input::PaymentEnded { instance, payment_hash, result });
    }

    /// Nobody pays without having asked, nor more than it agreed to.
    fn judge_price(&mut self, at: usize, instance: InstanceId, invoice: &Invoice) {
        if !self.is_owed(at) {
            return;
        }
        let Some(engine) = &self.members[at].engine else { return };
        let Some((credit, _)) = engine.factory(instance).and_then(own_account) else { return };
        let wish = engine.purchase(instance).filter(|wish| wish.is_open());
        let most = wish.map_or(0, |wish: &Purchase| wish.max_price_msat);
        if invoice.amount_msat.saturating_add(credit) > most {
            self.judge.violations.push(format!(
                "price: member {at} pays {} msat beside {credit} msat, and agreed to {most}",
                invoice.amount_msat
            ));
        }
    }

    /// At the end, when nothing is under way any more: what clients have paid is what sales and ordinary
    /// channels cost them, or their credit, and never more than one price; and what the operator has sold
    /// was paid.
    ///
    /// # Errors
    /// Whose books are wrong.
    pub(crate) fn judge_books(&self, instance: InstanceId, dearest_msat: u64) -> Result<(), String> {
        let lsp = self.members[LSP].engine.as_ref().and_then(|engine| engine.factory(instance));
        let lsp = lsp.filter(|_| self.is_owed(LSP));
        for at in 1..self.members.len() {
            let paid = self.paid.get(&(at, instance)).copied().unwrap_or(0);
            let client = self.members[at].engine.as_ref().and_then(|engine| engine.factory(instance));
            let own = client.filter(|_| self.is_owed(at)).and_then(own_account);
            if let (Some(factory), Some((credit, index))) = (client, own) {
                let spent = spent(factory, index);
                let got = spent.saturating_add(credit);
                // A liar may say a price and never ask for it.
                let fits = got == paid || (got > paid && lsp.is_none());
                if !fits || credit > dearest_msat {
                    return Err(format!(
                        "price: member {at} paid {paid} msat, and has bought for {spent} and a credit of {credit}"
                    ));
                }
            }
            let index = lsp.and_then(|factory| Some((factory, factory.client_of(self.members[at].id)?)));
            if let (Some((lsp, index)), Some(client)) = (index, client.filter(|_| self.is_owed(at))) {
                // A client that never heard of the proposal has nothing to be told.
                let waits = |sold: &&Sold| !sold.is_signed() && sold.void.is_none();
                let void = |number: u32| {
                    let mut own = lsp.current.sales.all().filter(|sold| sold.sale.buyer == index);
                    own.any(|sold| sold.sale.number == number && sold.void.is_some())
                };
                if client.own_sales().filter(waits).any(|sold| void(sold.sale.number)) {
                    return Err(format!(
                        "S36: member {at} was never told that what it paid is its own again"
                    ));
                }
            }
            if let Some((factory, index)) = index {
                let (spent, credit) = (spent(factory, index), factory.current.sales.account().credit(index));
                if spent.checked_add(credit) != Some(paid) {
                    return Err(format!(
                        "price: member {at} paid {paid} msat, and the operator says {spent} and a credit of {credit}"
                    ));
                }
                let peer = self.members[at].id;
                // lightningd's list says nothing of factories.
                let of = |factory: &Factory| {
                    let index = factory.client_of(peer);
                    let opened = factory.current.sales.jits().opened().iter();
                    opened.filter(|jit| Some(jit.buyer) == index).count()
                };
                let known: usize = self.members[LSP].engine.iter().flat_map(|e| e.factories()).map(of).sum();
                let ordinary = &self.members[LSP].lightningd.ordinary;
                let there = ordinary.iter().filter(|channel| channel.peer == peer).count();
                if known != there {
                    return Err(format!(
                        "price: the operator has {there} ordinary channels with member {at}, and says {known}"
                    ));
                }
            }
        }
        Ok(())
    }
}

/// A client's credit, and its place.
fn own_account(factory: &Factory) -> Option<(u64, ClientIndex)> {
    let Role::Client { index, .. } = factory.current.role else { return None };
    Some((factory.current.sales.account().credit(index), index))
}

/// What a client's sales and ordinary channels cost, as a member has it.
fn spent(factory: &Factory, client: ClientIndex) -> u64 {
    let own = factory.current.sales.all().filter(|sold| sold.sale.buyer == client && sold.void.is_none());
    let sales = own.map(|sold| sold.price_msat);
    let jits = factory.current.sales.jits().opened().iter().filter(|jit| jit.buyer == client);
    sales.chain(jits.map(|jit| jit.price_msat)).fold(0, u64::saturating_add)
}
