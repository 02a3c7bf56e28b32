//! The operator's side of a sale, from the proposal until everybody has stored it.

use crate::engine::Engine;
use crate::io::Level;
use crate::memory::Volatile;
use crate::memory::sale::{SalePhase, VolatileLspSale, VolatileSale};
use crate::record::event::{SaleSigned, SaleStored};
use crate::record::factory::{Factory, member_key};
use crate::record::sales::Sold;
use crate::sale::cooperative;
use crate::sale::lsp::{send_ready, sub_clients, volatile};
use crate::sale::proof::ask_for_sale;
use crate::sale::selling::Selling;
use crate::signing::{Failure, Plan, Refused, SignAs, SignJob};
use crate::step::builder::StepBuilder;
use crate::step::fault::Fault;
use crate::step::reason::Reason;
use crate::terms::ClientIndex;
use crate::tx::musig::{CheckedNonce, PartialSig};
use crate::tx::sale::transcript;
use crate::types::{NodeId, ScriptBuf};
use crate::wire::message::{SalePartialSignatures, SalePropose, SaleStored as StoredMessage};

impl Engine {
    /// Everything that determines the transactions is known, and nothing but signatures is missing. `last` are
    /// nonces that came in this very step.
    pub(crate) fn propose_sale(
        &self,
        step: &mut StepBuilder<'_>,
        selling: Selling<'_>,
        script: &ScriptBuf,
        last: Option<(ClientIndex, &[CheckedNonce])>,
    ) {
        let Selling { factory, coin, sale } = selling;
        let (deal, Some(tree)) = (sale.deal, &factory.current.tree) else { return };
        // S24: an exit may have begun since it was offered.
        if let Err(reason) = cooperative(factory, coin, step.height) {
            return self.end_sale(step, selling, &reason.to_string().into());
        }
        if let Some(why) = self.waits_to_know(factory.instance) {
            return self.end_sale(step, selling, &why.into());
        }
        let built = factory.build_sale(coin, deal.number, deal.buyer, deal.amount, script);
        let built = match built {
            Ok(built) => built,
            Err(error) => return self.drop_sale(step, selling, &error.to_string().into()),
        };
        let plan = Plan::new(tree.clone(), &built.sessions);
        let ledger = plan.ledger();
        if let Err(error) = self.ledger.check(&ledger) {
            return self.drop_sale(step, selling, &error.to_string().into());
        }
        let key = self.factory_key(factory.instance, factory.current.number);
        let opened = match sale.signing.open(plan, last, &key, || step.rng.bytes32()) {
            Ok(opened) => opened,
            Err(error) => {
                let reason = format!("nonces don't aggregate: {error}");
                return self.drop_sale(step, selling, &reason.into());
            }
        };
        let nonces = opened.nonces().to_vec();
        let transcript = transcript(factory.instance, factory.current.number, &built, &nonces);
        if factory.next_sale(coin) == deal.number {
            step.event(factory.instance, deal.signing(coin, script, ledger, step.height));
        }
        let deadline = step.now.saturating_add(self.config.ceremony_timeout);
        let job = SignJob { transcript, role: SignAs::Lsp(opened), deadline };
        step.volatile(volatile(factory, coin, VolatileSale::Sign(Box::new(job))));
        for (_, node) in sub_clients(factory, coin) {
            step.send(
                node,
                SalePropose {
                    instance: factory.instance,
                    attempt: factory.current.number,
                    number: deal.number,
                    channel_script: script.clone(),
                    nonces: nonces.clone(),
                },
            );
        }
    }

    pub(crate) fn on_sale_partials(
        &self,
        step: &mut StepBuilder<'_>,
        peer: NodeId,
        message: &SalePartialSignatures,
    ) -> Result<(), Fault> {
        let (selling, client) = self.selling(peer, message.instance, message.attempt, message.number)?;
        let sale = selling.sale;
        match sale.signing.check(client, &message.transcript, &message.signatures) {
            Ok(()) => {}
            // A second set may be an answer to an earlier try.
            Err(Refused::NotNow | Refused::Repeated | Refused::Differs) => {
                return Err(Fault::stale("no partial signatures are expected from it now"));
            }
            Err(wrong @ (Refused::Transcript | Refused::Count { .. })) => return Err(Fault::peer(wrong)),
        }
        step.volatile(selling.volatile(VolatileLspSale::Partials(client, message.signatures.clone())));
        if sale.signing.lacks_only(client) {
            self.finish_sale(step, selling, (client, &message.signatures));
        }
        Ok(())
    }

    /// `last` was the last: everybody's partial signatures make the finished ones, or somebody's is bad (S4).
    fn finish_sale(
        &self,
        step: &mut StepBuilder<'_>,
        selling: Selling<'_>,
        last: (ClientIndex, &[PartialSig]),
    ) {
        let Selling { factory, coin, sale } = selling;
        let signatures = match sale.signing.finish(Some(last), |client| member_key(factory, client)) {
            Ok(signatures) => signatures,
            Err(failure) => {
                let reason = match culprit(factory, &failure) {
                    Some(node) => Reason::about("{} sent a bad partial signature", [node]),
                    None => failure.to_string().into(),
                };
                return self.interrupt_sale(step, selling, &reason);
            }
        };
        step.event(
            factory.instance,
            SaleSigned { coin, number: sale.deal.number, signatures: signatures.clone() },
        );
        let deadline = step.now.saturating_add(self.config.ceremony_timeout);
        step.volatile(selling.volatile(VolatileLspSale::Phase(SalePhase::Storing, deadline)));
        let number = sale.deal.number;
        step.log(
            Level::Info,
            format!(
                "{}: sale {number} of coin {coin}, {} for client {}, is signed",
                factory.instance, sale.deal.amount, sale.deal.buyer
            ),
        );
        send_ready(step, factory, coin, number, &signatures);
    }

    pub(crate) fn on_sale_stored(
        &self,
        step: &mut StepBuilder<'_>,
        peer: NodeId,
        message: &StoredMessage,
    ) -> Result<(), Fault> {
        let (selling, client) = self.selling(peer, message.instance, message.attempt, message.number)?;
        let Selling { factory, coin, sale } = selling;
        if sale.concerns_buyer_alone() {
            return Err(Fault::stale("nothing is being stored now"));
        }
        let number = sale.deal.number;
        let sold = factory.current.sales.of(coin).iter().find(|sold| sold.sale.number == number);
        if !sold.is_some_and(Sold::is_signed) {
            // S9: it holds signatures that we don't know of, or says so. Its word alone changes nothing but this sale.
            ask_for_sale(step, factory, peer, number);
        }
        if sold.is_none() {
            let text =
                format!("{{}} has finished sale {number} already: was this node restored from a backup?");
            let reason = Reason::about(text, [peer]);
            self.end_sale(step, selling, &reason);
            return Ok(());
        }
        if !sold.is_some_and(Sold::is_signed) || sale.stored.contains(&client) {
            return Err(Fault::stale("nothing is being stored now"));
        }
        step.volatile(selling.volatile(VolatileLspSale::Stored(client)));
        if sale.stored.len().saturating_add(1) == sub_clients(factory, coin).count() {
            step.event(factory.instance, SaleStored { coin, number });
            for (_, node) in sub_clients(factory, coin) {
                step.volatile(Volatile::Forgive(node));
            }
            step.volatile(volatile(factory, coin, VolatileSale::End));
        }
        Ok(())
    }
}

/// Whose partial signature is bad (S4).
fn culprit(factory: &Factory, failure: &Failure) -> Option<NodeId> {
    match failure {
        Failure::Culprit { client, .. } => factory.node_of(*client),
        Failure::Nobody(_) | Failure::NotSigned => None,
    }
}
