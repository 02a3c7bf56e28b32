//! Invoices that were handed out.

use factory_engine::Invoice;
use factory_engine::types::InstanceId;

/// An invoice of a node.
#[derive(Debug, Clone)]
pub struct IssuedInvoice {
    /// Amount, hash, secret and final expiry, as the payer got them.
    pub invoice: Invoice,
    /// Whether somebody paid it.
    pub paid: bool,
    /// Of which factory, if the plugin waits for it.
    pub(crate) waiting: Option<InstanceId>,
}

impl IssuedInvoice {
    /// The plugin that waited is gone.
    pub(crate) fn forget_wait(&mut self) {
        self.waiting = None;
    }
}
