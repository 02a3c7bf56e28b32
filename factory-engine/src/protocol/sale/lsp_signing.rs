//! The operator's side of a sale, from the proposal until everybody has stored it.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::terms::ClientIndex;
use crate::tx::layout::CoinIndex;
use crate::tx::musig::{CheckedNonce, MusigError, PartialSig, PubNonce, Round, new_checked_nonce};
use crate::tx::sale::{Sale, transcript};
use crate::types::{NodeId, ScriptBuf};
use crate::wire::message::{SalePartialSignatures, SalePropose, SaleStored as StoredMessage};

use super::super::Engine;
use super::super::draft::{Draft, Fault};
use super::super::event::{SaleSigned, SaleStored};
use super::super::factory::Factory;
use super::super::io::Level;
use super::super::lsp_signing::ledger_entries;
use super::lsp::{change, send_ready, sub_clients};
use super::{Deal, LspSale, Rounds, SaleChange, SaleJob, SalePhase, SignSaleAs, Sold, cooperative};

impl Engine {
    /// Everything that determines the transactions is known, and nothing but signatures is missing.
    pub(super) fn propose_sale(
        &self,
        d: &mut Draft<'_>,
        factory: &Factory,
        coin: CoinIndex,
        deal: Deal,
        script: &ScriptBuf,
        joins: &BTreeMap<ClientIndex, Vec<PubNonce>>,
    ) {
        let Some(sale) = self.lsp_sales.get(&(factory.instance, coin)) else { return };
        // S24: an exit may have begun since it was offered.
        if let Err(reason) = cooperative(factory, coin, d.height) {
            return self.end_sale(d, factory, coin, sale, &reason);
        }
        let built = factory.build_sale(coin, deal.number, deal.buyer, deal.amount, script);
        let built = match built {
            Ok(built) => Arc::new(built),
            Err(error) => return self.drop_sale(d, factory, coin, sale, &error.to_string()),
        };
        let ledger = ledger_entries(&built.sessions);
        if let Err(error) = self.ledger.check(&ledger) {
            return self.drop_sale(d, factory, coin, sale, &error.to_string());
        }
        let key = self.factory_key(factory.instance, factory.attempt);
        let (own, public): (Vec<_>, Vec<_>) =
            built.sessions.iter().map(|_| new_checked_nonce(d.rng.bytes32(), &key)).unzip();
        let (nonces, rounds) = match start_rounds(factory, coin, &built, &public, joins) {
            Ok(rounds) => rounds,
            Err(error) => {
                return self.drop_sale(d, factory, coin, sale, &format!("nonces don't aggregate: {error}"));
            }
        };
        let transcript = transcript(factory.instance, factory.attempt, &built, &nonces);
        if factory.next_sale(coin) == deal.number {
            d.event(factory.instance, deal.signing(coin, script, ledger));
        }
        let deadline = d.now.saturating_add(self.config.ceremony_timeout);
        let role = SignSaleAs::Lsp { nonces: own, rounds, deadline };
        let job = SaleJob { sale: built, transcript, role };
        d.change(change(factory, coin, SaleChange::Sign(Box::new(job))));
        for (_, node) in sub_clients(factory, coin) {
            d.send(
                node,
                SalePropose {
                    instance: factory.instance,
                    attempt: factory.attempt,
                    number: deal.number,
                    channel_script: script.clone(),
                    nonces: nonces.clone(),
                },
            );
        }
    }

    pub(in super::super) fn on_sale_partials(
        &self,
        d: &mut Draft<'_>,
        peer: NodeId,
        message: &SalePartialSignatures,
    ) -> Result<(), Fault> {
        let (factory, sale, client, coin) =
            self.selling(peer, message.instance, message.attempt, message.number)?;
        if sale.phase != SalePhase::Signing || sale.partials.contains_key(&client) {
            return Err(Fault::stale("no partial signatures are expected from it now"));
        }
        // S6: it signed something else than everybody else.
        if message.transcript != sale.transcript {
            return Err(Fault::peer("its transcript hash differs from ours"));
        }
        if message.signatures.len() != sale.rounds.len() {
            return Err(Fault::peer(format!(
                "{} partial signatures where {} were asked for",
                message.signatures.len(),
                sale.rounds.len()
            )));
        }
        d.change(change(factory, coin, SaleChange::Partials(client, message.signatures.clone())));
        if sale.partials.len().saturating_add(1) == sub_clients(factory, coin).count() {
            let mut partials = sale.partials.clone();
            partials.insert(client, message.signatures.clone());
            self.finish_sale(d, factory, coin, sale, &partials);
        }
        Ok(())
    }

    /// Aggregates and verifies the signatures; looks for a culprit only when one fails (S4).
    fn finish_sale(
        &self,
        d: &mut Draft<'_>,
        factory: &Factory,
        coin: CoinIndex,
        sale: &LspSale,
        partials: &BTreeMap<ClientIndex, Vec<PartialSig>>,
    ) {
        let Some(agg) = factory.tree.as_ref().and_then(|tree| tree.key_agg(coin)) else { return };
        let mut signatures = Vec::with_capacity(sale.rounds.len());
        for (at, (round, own)) in sale.rounds.iter().zip(&sale.own_partials).enumerate() {
            let theirs = partials.values().filter_map(|signatures| signatures.get(at));
            match round.finish(agg, theirs.chain([own])) {
                Ok(signature) => signatures.push(signature),
                Err(error) => {
                    let reason = match culprit(factory, agg, sale, round, at, partials) {
                        Some(node) => format!("{node} sent a bad partial signature"),
                        None => format!("a signature doesn't verify although every part does: {error}"),
                    };
                    return self.interrupt_sale(d, factory, coin, sale, &reason);
                }
            }
        }
        d.event(
            factory.instance,
            SaleSigned { coin, number: sale.deal.number, signatures: signatures.clone() },
        );
        let deadline = d.now.saturating_add(self.config.ceremony_timeout);
        d.change(change(factory, coin, SaleChange::Phase(SalePhase::Storing, deadline)));
        let number = sale.deal.number;
        d.log(
            Level::Info,
            format!(
                "{}: sale {number} of coin {coin}, {} for client {}, is signed",
                factory.instance, sale.deal.amount, sale.deal.buyer
            ),
        );
        send_ready(d, factory, coin, number, &signatures);
    }

    pub(in super::super) fn on_sale_stored(
        &self,
        d: &mut Draft<'_>,
        peer: NodeId,
        message: &StoredMessage,
    ) -> Result<(), Fault> {
        let (factory, sale, client, coin) =
            self.selling(peer, message.instance, message.attempt, message.number)?;
        if sale.concerns_buyer_alone() {
            return Err(Fault::stale("nothing is being stored now"));
        }
        let number = sale.deal.number;
        if factory.next_sale(coin) == number {
            // S9: it holds signatures that we don't know of. Its word alone changes nothing but this sale.
            let reason =
                format!("{peer} has finished sale {number} already: was this node restored from a backup?");
            self.end_sale(d, factory, coin, sale, &reason);
            return Ok(());
        }
        let sold = factory.sales.of(coin).iter().find(|sold| sold.sale.number == number);
        if !sold.is_some_and(Sold::is_signed) || sale.stored.contains(&client) {
            return Err(Fault::stale("nothing is being stored now"));
        }
        d.change(change(factory, coin, SaleChange::Stored(client)));
        if sale.stored.len().saturating_add(1) == sub_clients(factory, coin).count() {
            d.event(factory.instance, SaleStored { coin, number });
            d.change(change(factory, coin, SaleChange::End));
        }
        Ok(())
    }
}

/// Aggregate nonce and round of each session of a sale.
fn start_rounds(
    factory: &Factory,
    coin: CoinIndex,
    sale: &Sale,
    own: &[CheckedNonce],
    joins: &BTreeMap<ClientIndex, Vec<PubNonce>>,
) -> Result<Rounds, MusigError> {
    let agg = factory.tree.as_ref().and_then(|tree| tree.key_agg(coin)).ok_or(MusigError::NotAMember)?;
    let mut nonces = Vec::with_capacity(sale.sessions.len());
    let mut rounds = Vec::with_capacity(sale.sessions.len());
    for (at, (session, own)) in sale.sessions.iter().zip(own).enumerate() {
        let theirs = joins
            .values()
            .filter_map(|join| join.get(at))
            .map(PubNonce::checked)
            .collect::<Result<Vec<_>, _>>()?;
        let (nonce, round) = Round::start(agg, theirs.iter().chain([own]), &session.sighash)?;
        nonces.push(nonce);
        rounds.push(round);
    }
    Ok((nonces, rounds))
}

/// Whose partial signature is bad (S4).
fn culprit(
    factory: &Factory,
    agg: &crate::tx::musig::KeyAgg,
    sale: &LspSale,
    round: &Round,
    at: usize,
    partials: &BTreeMap<ClientIndex, Vec<PartialSig>>,
) -> Option<NodeId> {
    let proposal = factory.proposal.as_ref()?;
    partials.iter().find_map(|(client, signatures)| {
        let (key, _) = proposal.clients.get(usize::try_from(*client).ok()?)?;
        let nonce = sale.joins.get(client)?.get(at)?;
        let bad = round.verify(agg, *key, nonce, signatures.get(at)?).is_err();
        bad.then(|| factory.node_of(*client)).flatten()
    })
}
