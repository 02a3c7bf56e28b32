//! What liquidity costs, paid: lightningd's invoices and payments, modelled. They outlive a restart.

use bitcoin::hashes::{Hash, sha256};

use crate::protocol::Entropy;
use crate::protocol::{Input, Invoice};
use crate::terms::ClientIndex;
use crate::types::{ChannelId, InstanceId, NodeId, OutPoint, PaymentHash, PaymentSecret, Txid};

use super::{LSP, World};

/// An invoice of a node.
#[derive(Debug, Clone)]
pub struct Booked {
    /// What was handed out.
    pub invoice: Invoice,
    /// Whether somebody paid it.
    pub paid: bool,
    /// Of which factory, if the plugin waits for it.
    waiting: Option<InstanceId>,
}

impl World {
    /// `invoice`.
    pub(super) fn make_invoice(&mut self, at: usize, instance: InstanceId, label: String, amount_msat: u64) {
        let hash = |what: &str| sha256::Hash::hash(format!("{what} of {label}").as_bytes()).to_byte_array();
        let invoice = Invoice {
            amount_msat,
            payment_hash: PaymentHash(hash("hash")),
            payment_secret: PaymentSecret(hash("secret")),
            min_final_cltv_expiry: 18,
        };
        let booked = Booked { invoice, paid: false, waiting: None };
        self.members[at].lightningd.invoices.insert(label.clone(), booked);
        self.answer(at, Input::InvoiceMade { instance, label, result: Ok(invoice) });
    }

    /// `waitinvoice`.
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

    /// A payment over one hop, which settles at once or fails.
    pub(super) fn pay_invoice(&mut self, at: usize, instance: InstanceId, peer: NodeId, invoice: &Invoice) {
        let result = self.settle_invoice(at, peer, invoice);
        self.members[at].lightningd.payments.insert(invoice.payment_hash, result.is_ok());
        let payment_hash = invoice.payment_hash;
        self.answer(at, Input::PaymentEnded { instance, payment_hash, result });
    }

    fn settle_invoice(&mut self, at: usize, peer: NodeId, invoice: &Invoice) -> Result<(), String> {
        let payee = self.member_of(peer).filter(|payee| self.connected(at, *payee)).ok_or("not connected")?;
        let invoices = &self.members[payee].lightningd.invoices;
        let found = invoices.iter().find(|(_, booked)| booked.invoice == *invoice && !booked.paid);
        let label = found.map(|(label, _)| label.clone()).ok_or("incorrect_or_unknown_payment_details")?;
        if payee != LSP {
            return Err("only operators are paid here".into());
        }
        self.pay(at, payee, invoice.amount_msat).map_err(|error| error.to_string())?;
        let up = self.members[payee].engine.is_some();
        let Some(booked) = self.members[payee].lightningd.invoices.get_mut(&label) else { return Ok(()) };
        booked.paid = true;
        if let Some(instance) = booked.waiting.filter(|_| up) {
            self.answer(payee, Input::InvoiceEnded { instance, label, result: Ok(true) });
        }
        Ok(())
    }

    /// `fundchannel`: an ordinary channel, of which nothing but its id matters here.
    pub(super) fn fund_channel(&mut self, at: usize, instance: InstanceId, buyer: ClientIndex, peer: NodeId) {
        let connected = self.member_of(peer).is_some_and(|other| self.connected(at, other));
        let txid = Txid::from_byte_array(self.members[at].lightningd.rng.bytes32());
        let outpoint = OutPoint { txid, vout: 0 };
        let opened = (ChannelId::of(outpoint), outpoint);
        let result = if connected { Ok(opened) } else { Err("Peer not connected".to_owned()) };
        self.answer(at, Input::ChannelFunded { instance, buyer, result });
    }

    /// `listsendpays`.
    pub(super) fn look_payment(&mut self, at: usize, instance: InstanceId, payment_hash: PaymentHash) {
        let arrived = self.members[at].lightningd.payments.get(&payment_hash).copied().unwrap_or(false);
        let result = if arrived { Ok(()) } else { Err("it never arrived".to_owned()) };
        self.answer(at, Input::PaymentEnded { instance, payment_hash, result });
    }
}
