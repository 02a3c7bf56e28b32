//! How a price is paid: over Lightning, after the sale's channel is committed and checked, and before
//! anybody signs.
//!
//! L makes an invoice; the buyer pays it over a channel that it has with L; L signs once it is paid. If
//! the sale ends in between, what was paid is the client's credit with L, which its next sale takes
//! first. So whatever happens, a client is never out of more than one price, and L sells nothing that is
//! not paid.

use bitcoin::hex::DisplayHex;

use crate::engine::Engine;
use crate::io::{Effect, Invoice, Level, NodeError};
use crate::memory::Volatile;
use crate::memory::ceremony::ExpectedOpen;
use crate::memory::sale::{Purchase, SalePhase, VolatileLspSale, VolatileSale};
use crate::record::attempt::Role;
use crate::record::event::{SaleDue, SaleDueEnded};
use crate::record::factory::Factory;
use crate::sale::cooperative;
use crate::sale::lsp::refusal;
use crate::sale::selling::Selling;
use crate::step::builder::StepBuilder;
use crate::step::fault::Fault;
use crate::terms::ClientIndex;
use crate::types::{InstanceId, NodeId, PaymentHash};
use crate::wire::message::SaleInvoice;

impl Engine {
    /// L: the channel is there. Has it signed if `credit` covers the price, else asks for what is missing.
    pub(crate) fn sell(&self, step: &mut StepBuilder<'_>, selling: Selling<'_>, credit: u64) {
        let Selling { factory, coin, sale } = selling;
        let missing = sale.deal.price_msat.saturating_sub(credit);
        if sale.jit_reason.is_some() {
            return match missing {
                0 => self.open_jit(step, selling),
                missing => self.charge(step, selling, missing),
            };
        }
        let Some(script) = &sale.script else { return };
        // Once it was signed for it is paid, and goes on whatever happens.
        if factory.next_sale(coin) == sale.deal.number {
            if let Err(reason) = cooperative(factory, coin, step.height) {
                return self.drop_sale(step, selling, &reason.to_string().into());
            }
            if missing > 0 {
                return self.charge(step, selling, missing);
            }
        }
        self.propose_sale(step, selling, script, None);
    }

    fn charge(&self, step: &mut StepBuilder<'_>, selling: Selling<'_>, amount_msat: u64) {
        let Selling { factory, sale, .. } = selling;
        let label = format!("cln-factory-{}", step.rng.bytes32().to_lower_hex_string());
        let deadline = step.now.saturating_add(self.config.ceremony_timeout);
        step.volatile(selling.volatile(VolatileLspSale::Phase(SalePhase::Paying, deadline)));
        step.volatile(selling.volatile(VolatileLspSale::Invoice(label.clone())));
        step.effect(Effect::MakeInvoice {
            instance: factory.instance,
            label,
            amount_msat,
            description: format!("{} of liquidity in factory {}", sale.deal.amount, factory.instance),
            // The sale ends before, and its invoice with it: this is for a node that stops.
            expiry: self.config.ceremony_timeout.saturating_mul(2),
        });
    }

    /// L: the sale that waits for this invoice.
    fn paying(&self, instance: InstanceId, label: &str) -> Option<Selling<'_>> {
        self.sellings().find(|Selling { factory, sale, .. }| {
            factory.instance == instance
                && sale.phase == SalePhase::Paying
                && sale.invoice.as_deref() == Some(label)
        })
    }

    pub(crate) fn on_invoice_made(
        &self,
        step: &mut StepBuilder<'_>,
        instance: InstanceId,
        label: String,
        result: Result<Invoice, NodeError>,
    ) {
        let own = self.factories.get(&instance).filter(|factory| factory.current.role != Role::Lsp);
        if let Some(factory) = own {
            return self.on_credit_invoice(step, factory, label, result);
        }
        let Some(selling) = self.paying(instance, &label) else {
            // Nobody has heard of it.
            step.effect(Effect::EndInvoice { instance, label });
            return;
        };
        let Selling { factory, sale, .. } = selling;
        let Some(peer) = factory.node_of(sale.deal.buyer) else { return };
        let invoice = match result {
            Ok(invoice) => invoice,
            Err(error) => {
                let reason = format!("the operator can't make an invoice for its price: {error}");
                return self.drop_sale(step, selling, &reason.into());
            }
        };
        step.event(
            instance,
            SaleDue {
                payment_hash: invoice.payment_hash,
                buyer: sale.deal.buyer,
                amount_msat: invoice.amount_msat,
                label: Some(label.clone()),
                back: false,
            },
        );
        step.effect(Effect::WaitInvoice { instance, label });
        step.send(
            peer,
            SaleInvoice {
                instance,
                attempt: factory.current.number,
                number: sale.deal.number,
                amount_msat: invoice.amount_msat,
                payment_hash: invoice.payment_hash,
                payment_secret: invoice.payment_secret,
                min_final_cltv_expiry: invoice.min_final_cltv_expiry,
            },
        );
    }

    /// L: an invoice is paid, or can't be paid any more.
    pub(crate) fn on_invoice_ended(
        &self,
        step: &mut StepBuilder<'_>,
        instance: InstanceId,
        label: &str,
        result: Result<bool, NodeError>,
    ) {
        let Some(factory) = self.factories.get(&instance) else { return };
        let account = factory.current.sales.account();
        let Some(due) = account.due().find(|due| due.label.as_deref() == Some(label)) else { return };
        let paid = match result {
            Ok(paid) => paid,
            Err(error) => {
                // Asked again when its client wants to buy, and at the next start.
                step.log(Level::Unusual, format!("{instance}: what became of invoice {label}: {error}"));
                return;
            }
        };
        let sale = self.paying(instance, label);
        let height = step.height;
        step.event(instance, SaleDueEnded { payment_hash: due.payment_hash, paid, height });
        if due.back {
            let (text, amount) = (if paid { "paid back" } else { "not paid back" }, due.amount_msat);
            step.log(Level::Info, format!("{instance}: the operator has {text} credit of {amount} msat"));
        } else if paid {
            let (amount, client) = (due.amount_msat, due.buyer);
            step.log(Level::Info, format!("{instance}: client {client} paid {amount} msat for liquidity"));
            if let Some(selling) = sale {
                let credit = account.credit(client).saturating_add(amount);
                self.sell(step, selling, credit);
            }
        } else if let Some(selling) = sale {
            self.drop_sale(step, selling, &"its invoice expired".into());
        }
    }

    /// L: nothing may be paid any more for a client's sales that didn't come about. What was paid in the
    /// last moment is credit.
    pub(crate) fn end_invoices(
        &self,
        step: &mut StepBuilder<'_>,
        factory: &Factory,
        client: Option<ClientIndex>,
    ) {
        for due in factory.current.sales.account().due() {
            if let Some(label) = due.label.clone().filter(|_| client.is_none_or(|of| of == due.buyer)) {
                step.effect(Effect::EndInvoice { instance: factory.instance, label });
            }
        }
    }

    /// The buyer pays what is missing of the price that it agreed to, and no more.
    pub(crate) fn on_sale_invoice(
        &self,
        step: &mut StepBuilder<'_>,
        peer: NodeId,
        message: &SaleInvoice,
    ) -> Result<(), Fault> {
        let (factory, index, coin) = self.sub_factory(peer, message.instance, message.attempt)?;
        let account = factory.current.sales.account();
        if account.due_of(message.payment_hash).is_some() {
            return Err(Fault::stale("it was seen before"));
        }
        if account.is_due(index) {
            return Err(Fault::peer("a second invoice before the first is settled"));
        }
        let wish = self.wish(factory);
        let (wish, price_msat) = if message.number == 0 {
            let agreed = wish.and_then(|wish| Some((wish, wish.ordinary_channel.as_ref()?.price_msat)));
            agreed.ok_or_else(|| Fault::stale("no ordinary channel is wanted"))?
        } else {
            let (.., sale) = self.buying(peer, message.instance, message.attempt, message.number)?;
            let checked = sale.committed.as_ref().is_some_and(|(_, checked)| *checked);
            if sale.open != ExpectedOpen::Seen || !checked || sale.signing.has_signed() {
                return Err(Fault::peer("an invoice, and not after its channel was committed and checked"));
            }
            let Some(wish) = wish else {
                self.leave_sale(step, factory, coin, sale, "this node doesn't want it any more");
                return Ok(());
            };
            (wish, sale.deal.price_msat)
        };
        let owed = price_msat.saturating_sub(account.credit(index));
        if owed == 0 {
            return Err(Fault::stale("nothing is owed: it is paid already"));
        }
        if message.amount_msat == 0 || message.amount_msat > owed {
            let text = format!("an invoice over {} msat where {owed} msat are owed", message.amount_msat);
            return Err(Fault::peer(text));
        }
        step.event(
            factory.instance,
            SaleDue {
                payment_hash: message.payment_hash,
                buyer: index,
                amount_msat: message.amount_msat,
                label: None,
                back: false,
            },
        );
        let deadline = step.now.saturating_add(self.config.ceremony_timeout.saturating_mul(3));
        let wish = Purchase { deadline, ..wish.clone() };
        step.volatile(Volatile::Sale(factory.instance, coin, VolatileSale::Purchase(Some(wish))));
        step.effect(Effect::PayInvoice {
            instance: factory.instance,
            peer,
            invoice: Invoice {
                amount_msat: message.amount_msat,
                payment_hash: message.payment_hash,
                payment_secret: message.payment_secret,
                min_final_cltv_expiry: message.min_final_cltv_expiry,
            },
        });
        Ok(())
    }

    /// The buyer: a payment has arrived, or never will.
    pub(crate) fn on_payment_ended(
        &self,
        step: &mut StepBuilder<'_>,
        instance: InstanceId,
        payment_hash: PaymentHash,
        result: Result<(), NodeError>,
    ) {
        let Some(factory) = self.factories.get(&instance) else { return };
        let Some(due) = factory.current.sales.account().due_of(payment_hash) else { return };
        step.event(instance, SaleDueEnded { payment_hash, paid: result.is_ok(), height: step.height });
        if due.back {
            let (client, amount) = (due.buyer, due.amount_msat);
            let text = match &result {
                Ok(()) => "is paid back".to_owned(),
                Err(error) => format!("can't be paid back: {error}"),
            };
            step.log(Level::Info, format!("{instance}: client {client}'s credit of {amount} msat {text}"));
            return;
        }
        let Err(error) = result else {
            step.log(Level::Info, format!("{instance}: paid {} msat for liquidity", due.amount_msat));
            return;
        };
        let reason = format!("its price was not paid: {error}");
        let buying = |sale: &crate::memory::sale::ClientSale| {
            sale.deal.buyer == due.buyer && !sale.signing.has_signed()
        };
        let sale = self.client_sales.iter().find(|((of, _), sale)| *of == instance && buying(sale));
        if let Some(((_, coin), sale)) = sale {
            self.leave_sale(step, factory, *coin, sale, &reason);
        } else if self.wish(factory).is_some_and(|wish| wish.ordinary_channel.is_some()) {
            step.send(factory.lsp(), refusal(factory, 0, &reason));
            self.refuse_purchase(step, instance, &reason);
        }
    }

    /// What a restart finds open: whoever is paid takes invoices back, as L has dropped their sales; whoever pays
    /// asks what became of it.
    pub(crate) fn sale_payments_started(&self, step: &mut StepBuilder<'_>, factory: &Factory) {
        self.end_invoices(step, factory, None);
        for due in factory.current.sales.account().due().filter(|due| due.label.is_none()) {
            let (instance, payment_hash) = (factory.instance, due.payment_hash);
            step.effect(Effect::LookPayment { instance, payment_hash });
        }
    }
}
