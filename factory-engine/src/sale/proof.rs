//! S9: a client learns that its records are old from its own signature, not from its operator's word.
//!
//! L offers a sale beyond what the client knows. Either the client was restored from an older copy, or L lies or
//! was restored itself. So the client takes no part, and asks for the first sale that it doesn't know. Only if the
//! finished signatures of that verify for the stock's key, which its own key is part of, has it signed what it
//! doesn't know of: the factory is exit-only from then on.

use crate::engine::Engine;
use crate::io::Level;
use crate::record::event::Restored;
use crate::sale::client::place;
use crate::signing::{Plan, check_finished};
use crate::step::builder::StepBuilder;
use crate::step::fault::Fault;
use crate::types::NodeId;
use crate::wire::message::{SaleMissing, SaleShown};

impl Engine {
    /// L: a client doesn't know a sale that it has signed.
    pub(crate) fn on_sale_missing(
        &self,
        step: &mut StepBuilder<'_>,
        peer: NodeId,
        message: &SaleMissing,
    ) -> Result<(), Fault> {
        let (factory, _, coin) = self.sale_member(peer, message.instance, message.attempt)?;
        let sold = place(message.number).and_then(|place| factory.current.sales.of(coin).get(place));
        let sold = sold.filter(|sold| sold.is_signed()).ok_or_else(|| Fault::stale("it is not signed"))?;
        let channel_script = sold.sale.channel_output.script_pubkey.clone();
        step.send(
            peer,
            SaleShown {
                instance: factory.instance,
                attempt: factory.current.number,
                number: message.number,
                buyer: sold.sale.buyer,
                amount: sold.sale.amount(),
                channel_script,
                signatures: sold.signatures.clone(),
            },
        );
        Ok(())
    }

    /// A client is shown a sale that it doesn't know.
    pub(crate) fn on_sale_shown(
        &self,
        step: &mut StepBuilder<'_>,
        peer: NodeId,
        shown: &SaleShown,
    ) -> Result<(), Fault> {
        let (factory, _, coin) = self.sub_factory(peer, shown.instance, shown.attempt)?;
        if shown.number != factory.next_sale(coin) || factory.restored().is_some() {
            return Err(Fault::stale("it was not asked for"));
        }
        let stale = |why: &dyn std::fmt::Display| Fault::stale(format!("it proves nothing: {why}"));
        let sale = factory
            .build_sale(coin, shown.number, shown.buyer, shown.amount, &shown.channel_script)
            .map_err(|error| stale(&error))?;
        let tree = factory.current.tree.clone().ok_or_else(|| Fault::stale("the stock has no key"))?;
        check_finished(&Plan::new(tree, &sale.sessions), &shown.signatures)
            .map_err(|_| stale(&"its signatures don't verify"))?;
        let known = shown.number.saturating_sub(1);
        let reason = format!(
            "sale {} has this node's signature, and its records end with sale {known}: it was restored from a backup",
            shown.number
        );
        step.log(Level::Unusual, format!("{}: {reason}; exit-only from now on", factory.instance));
        step.event(factory.instance, Restored { reason });
        Ok(())
    }
}
