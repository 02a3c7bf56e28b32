//! S36: credit that no purchase takes is paid back.
//!
//! Credit waits `credit_blocks` blocks for the client's next purchase. Then the client makes an invoice over it,
//! and L pays that over a channel that they have: what [`crate::sale::payment`] does, the other way round.

use bitcoin::hex::DisplayHex;

use crate::engine::Engine;
use crate::io::{Effect, Invoice, Level, NodeError};
use crate::memory::Volatile;
use crate::memory::sale::VolatileSale;
use crate::record::attempt::Role;
use crate::record::event::SaleDue;
use crate::record::factory::Factory;
use crate::step::builder::StepBuilder;
use crate::step::fault::Fault;
use crate::types::{InstanceId, NodeId};
use crate::wire::message::CreditBack;

/// Blocks between two times that a client asks.
const PAUSE: u32 = 36;
/// The same as L sees it: a client may have been restarted, or be a few blocks behind.
const L_PAUSE: u32 = PAUSE / 2;
/// Blocks that an invoice for credit can be paid.
const OPEN: u32 = 6;

impl Engine {
    /// A client: at each block, whether it wants its credit back now.
    pub(crate) fn want_credit_back(&self, step: &mut StepBuilder<'_>, factory: &Factory) {
        let Role::Client { lsp, index } = factory.current.role else { return };
        let account = factory.current.sales.account();
        let asked = self.asked_back.get(&(factory.instance, index)).copied();
        for due in account.due().filter(|due| due.back) {
            // L pays it at once or not at all; what arrives meanwhile counts.
            if let (Some(label), true) =
                (due.label.clone(), asked.is_none_or(|asked| step.height >= asked.saturating_add(OPEN)))
            {
                step.effect(Effect::EndInvoice { instance: factory.instance, label });
            }
        }
        let ripe = account
            .credit_since(index)
            .is_some_and(|since| step.height >= since.saturating_add(self.config.credit_blocks));
        let rested = asked.is_none_or(|asked| step.height >= asked.saturating_add(PAUSE));
        let busy = account.is_due(index) || self.wish(factory).is_some();
        let coin = factory.current.layout.stock_coin(index);
        let (true, true, false, true, Some(coin)) = (ripe, rested, busy, self.peers.contains(&lsp), coin)
        else {
            return;
        };
        let (instance, amount_msat) = (factory.instance, account.credit(index));
        let label = format!("cln-factory-credit-{}", step.rng.bytes32().to_lower_hex_string());
        step.volatile(Volatile::Sale(instance, coin, VolatileSale::AskedBack(index, step.height)));
        step.effect(Effect::MakeInvoice {
            instance,
            label,
            amount_msat,
            description: format!("what was paid for liquidity in factory {instance} and not used"),
            // Blocks come when they come.
            expiry: 24 * 3_600_000,
        });
    }

    /// A client: its invoice is there.
    pub(crate) fn on_credit_invoice(
        &self,
        step: &mut StepBuilder<'_>,
        factory: &Factory,
        label: String,
        result: Result<Invoice, NodeError>,
    ) {
        let Role::Client { lsp, index } = factory.current.role else { return };
        let (instance, account) = (factory.instance, factory.current.sales.account());
        let invoice = match result {
            Ok(invoice) => invoice,
            Err(error) => {
                let text =
                    format!("{instance}: no invoice for credit of {} msat: {error}", account.credit(index));
                return step.log(Level::Unusual, text);
            }
        };
        let busy = account.is_due(index) || self.wish(factory).is_some();
        if busy || invoice.amount_msat != account.credit(index) {
            step.effect(Effect::EndInvoice { instance, label });
            return;
        }
        let Invoice { amount_msat, payment_hash, payment_secret, min_final_cltv_expiry } = invoice;
        let due = SaleDue { payment_hash, buyer: index, amount_msat, label: Some(label.clone()), back: true };
        step.event(instance, due);
        step.effect(Effect::WaitInvoice { instance, label });
        let attempt = factory.current.number;
        step.send(
            lsp,
            CreditBack {
                instance,
                attempt,
                amount_msat,
                payment_hash,
                payment_secret,
                min_final_cltv_expiry,
            },
        );
    }

    /// L: a client wants back what it has paid and not used.
    pub(crate) fn on_credit_back(
        &self,
        step: &mut StepBuilder<'_>,
        peer: NodeId,
        message: &CreditBack,
    ) -> Result<(), Fault> {
        let (factory, client, coin) = self.sale_member(peer, message.instance, message.attempt)?;
        let account = factory.current.sales.account();
        let CreditBack { amount_msat, payment_hash, payment_secret, min_final_cltv_expiry, .. } = *message;
        let sells =
            self.lsp_sales.get(&(factory.instance, coin)).is_some_and(|sale| sale.deal.buyer == client);
        if account.is_due(client) || sells {
            return Err(Fault::stale("it is buying, or being paid"));
        }
        if account.due_of(payment_hash).is_some() {
            return Err(Fault::stale("it was seen before"));
        }
        if amount_msat == 0 || amount_msat > account.credit(client) {
            let credit = account.credit(client);
            return Err(Fault::stale(format!("its credit is {credit} msat, and it wants {amount_msat}")));
        }
        // S28: each time is two records, and a payment that it may refuse to take.
        let asked = self.asked_back.get(&(factory.instance, client)).copied();
        if asked.is_some_and(|asked| step.height < asked.saturating_add(L_PAUSE)) {
            return Err(Fault::stale("it asked for it a few blocks ago"));
        }
        step.volatile(Volatile::Sale(factory.instance, coin, VolatileSale::AskedBack(client, step.height)));
        step.event(
            factory.instance,
            SaleDue { payment_hash, buyer: client, amount_msat, label: None, back: true },
        );
        step.effect(Effect::PayInvoice {
            instance: factory.instance,
            peer,
            invoice: Invoice { amount_msat, payment_hash, payment_secret, min_final_cltv_expiry },
        });
        Ok(())
    }

    /// A price that this client has paid for a sale that its operator neither finishes nor gives up: msat, and the
    /// height at which it was signed for.
    pub fn sale_overdue(&self, instance: InstanceId, height: u32) -> Option<(u64, u32)> {
        let factory = self.factories.get(&instance).filter(|factory| factory.current.role != Role::Lsp)?;
        let mut waits = factory.own_sales().filter(|sold| !sold.is_signed() && sold.void.is_none());
        let sold = waits
            .find(|sold| height >= sold.begun.saturating_add(self.config.sale_blocks.saturating_mul(2)))?;
        Some((sold.price_msat, sold.begun))
    }

    /// Credit that this client should have had back by now: msat, and the height from which on it is asked for.
    pub fn credit_overdue(&self, instance: InstanceId, height: u32) -> Option<(u64, u32)> {
        let factory = self.factories.get(&instance)?;
        let Role::Client { index, .. } = factory.current.role else { return None };
        let account = factory.current.sales.account();
        let since = account.credit_since(index)?.saturating_add(self.config.credit_blocks);
        (height >= since.saturating_add(PAUSE)).then(|| (account.credit(index), since))
    }
}
