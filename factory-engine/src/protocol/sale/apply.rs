//! Applying what a step changes of a sale: memory, and the signing itself.

use crate::tx::layout::CoinIndex;
use crate::tx::musig::{FactoryKey, KeyAgg, MusigError, PartialSig, Round, SecNonce};
use crate::tx::sale::Sale;
use crate::types::InstanceId;
use crate::wire::message::{Message, SalePartialSignatures};

use super::super::Engine;
use super::super::io::{Effect, Level};
use super::{SaleChange, SaleJob, SalePhase, SignSaleAs};

impl Engine {
    pub(in super::super) fn apply_sale_change(
        &mut self,
        instance: InstanceId,
        coin: CoinIndex,
        change: SaleChange,
        effects: &mut Vec<Effect>,
    ) {
        let key = (instance, coin);
        match change {
            SaleChange::Start(sale) => {
                self.lsp_sales.insert(key, *sale);
            }
            SaleChange::StartClient(sale) => {
                self.client_sales.insert(key, *sale);
            }
            SaleChange::End => {
                self.lsp_sales.remove(&key);
                self.client_sales.remove(&key);
            }
            SaleChange::Purchase(None) => {
                self.purchases.remove(&instance);
            }
            SaleChange::Purchase(Some(purchase)) => {
                self.purchases.insert(instance, purchase);
            }
            SaleChange::Asked(asked) => {
                self.asked.insert(instance, asked);
            }
            SaleChange::Sign(job) => self.sign_sale(instance, coin, *job, effects),
            SaleChange::Open(open) => {
                if let Some(sale) = self.client_sales.get_mut(&key) {
                    sale.open = open;
                }
            }
            SaleChange::Committed(script, checked) => {
                if let Some(sale) = self.client_sales.get_mut(&key) {
                    sale.committed = Some((script, checked));
                }
            }
            lsp => self.apply_lsp_sale_change(instance, coin, lsp),
        }
    }

    fn apply_lsp_sale_change(&mut self, instance: InstanceId, coin: CoinIndex, change: SaleChange) {
        // A step may end the sale that it also changes.
        let Some(sale) = self.lsp_sales.get_mut(&(instance, coin)) else {
            return;
        };
        match change {
            SaleChange::Phase(phase, deadline) => {
                sale.phase = phase;
                sale.deadline = deadline;
            }
            SaleChange::Joined(client, nonces) => {
                sale.joins.insert(client, nonces);
            }
            SaleChange::Script(script) => sale.script = Some(script),
            SaleChange::Checked => sale.checked = true,
            SaleChange::Invoice(label) => sale.invoice = Some(label),
            SaleChange::Partials(client, partials) => {
                sale.partials.insert(client, partials);
            }
            SaleChange::Stored(client) => {
                sale.stored.insert(client);
            }
            _ => {}
        }
    }

    /// Makes this node's partial signatures of a sale. Their ledger entries are durable by now (S8,
    /// S10); the nonces are consumed whatever comes of it (S2).
    fn sign_sale(&mut self, instance: InstanceId, coin: CoinIndex, job: SaleJob, effects: &mut Vec<Effect>) {
        let Some(factory) = self.factories.get(&instance) else { return };
        let Some(agg) = factory.tree.as_ref().and_then(|tree| tree.key_agg(coin)).cloned() else { return };
        let (attempt, salt) = (factory.attempt, factory.salt);
        match job.role {
            SignSaleAs::Lsp { nonces, rounds, deadline } => {
                let key = self.factory_key(instance, attempt);
                let signed = sign_sessions(&key, &agg, &rounds, nonces);
                let Some(sale) = self.lsp_sales.get_mut(&(instance, coin)) else { return };
                sale.rounds = rounds;
                sale.transcript = job.transcript;
                sale.phase = SalePhase::Signing;
                sale.deadline = deadline;
                match signed {
                    Ok(partials) => sale.own_partials = partials,
                    Err(error) => {
                        // The deadline ends this try; the next has fresh nonces.
                        let text = format!("{instance}: our own signature of a sale failed: {error}");
                        effects.push(Effect::Log { level: Level::Broken, text });
                    }
                }
            }
            SignSaleAs::Client { lsp, proposal, deadline } => {
                // Whoever holds a signed factory has signed with this.
                let Some(salt) = salt else { return };
                let key = self.client_key(instance, attempt, &salt);
                let Some(sale) = self.client_sales.get_mut(&(instance, coin)) else { return };
                let nonces = std::mem::take(&mut sale.nonces);
                sale.deadline = deadline;
                let rounds = rounds_of(&agg, &job.sale, &proposal.nonces);
                let signed = rounds.and_then(|rounds| sign_sessions(&key, &agg, &rounds, nonces));
                let answer = signed.map(|signatures| {
                    Message::from(SalePartialSignatures {
                        instance,
                        attempt,
                        number: proposal.number,
                        transcript: job.transcript,
                        signatures,
                    })
                });
                match answer {
                    Ok(message) => {
                        sale.signed = Some((proposal, Some(message.clone())));
                        effects.push(Effect::Send { peer: lsp, message });
                    }
                    Err(error) => {
                        sale.signed = Some((proposal, None));
                        let text = format!("{instance}: could not sign a sale: {error}");
                        effects.push(Effect::Log { level: Level::Unusual, text });
                    }
                }
            }
        }
    }
}

/// The round of each session of a sale, from the aggregate nonces that L sent.
fn rounds_of(
    agg: &KeyAgg,
    sale: &Sale,
    nonces: &[crate::tx::musig::AggNonce],
) -> Result<Vec<Round>, MusigError> {
    sale.sessions
        .iter()
        .zip(nonces)
        .map(|(session, nonce)| Round::new(agg, nonce, &session.sighash))
        .collect()
}

fn sign_sessions(
    key: &FactoryKey,
    agg: &KeyAgg,
    rounds: &[Round],
    nonces: Vec<SecNonce>,
) -> Result<Vec<PartialSig>, MusigError> {
    if nonces.len() != rounds.len() {
        return Err(MusigError::NoNonces);
    }
    rounds.iter().zip(nonces).map(|(round, nonce)| round.sign(key, nonce, agg)).collect()
}
