//! Applying what a step changes of a sale: memory, and the signing itself.

use crate::tx::layout::CoinIndex;
use crate::types::InstanceId;
use crate::wire::message::SalePropose;

use super::super::Engine;
use super::super::io::{Effect, Level};
use super::super::signing::{SignAs, SignJob};
use super::{SaleChange, SalePhase};

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
            SaleChange::Joined(client, nonces) => sale.signing.join(client, nonces),
            SaleChange::Script(script) => sale.script = Some(script),
            SaleChange::Checked => sale.checked = true,
            SaleChange::Invoice(label) => sale.invoice = Some(label),
            SaleChange::Partials(client, partials) => sale.signing.signed(client, partials),
            SaleChange::Stored(client) => {
                sale.stored.insert(client);
            }
            _ => {}
        }
    }

    /// Makes this node's partial signatures of a sale. Their ledger entries are durable by now (S8, S10).
    fn sign_sale(
        &mut self,
        instance: InstanceId,
        coin: CoinIndex,
        job: SignJob<SalePropose>,
        effects: &mut Vec<Effect>,
    ) {
        let SignJob { transcript, role, deadline } = job;
        let Some(factory) = self.factories.get(&instance) else { return };
        match role {
            SignAs::Lsp(opened) => {
                let key = self.factory_key(instance, factory.attempt);
                let Some(sale) = self.lsp_sales.get_mut(&(instance, coin)) else { return };
                sale.phase = SalePhase::Signing;
                sale.deadline = deadline;
                if let Err(error) = sale.signing.sign(opened, transcript, &key) {
                    // The deadline ends this try; the next has fresh nonces.
                    let text = format!("{instance}: our own signature of a sale failed: {error}");
                    effects.push(Effect::Log { level: Level::Broken, text });
                }
            }
            SignAs::Member { plan, request } => {
                // Whoever holds a signed factory has signed with this.
                let (lsp, Some(salt)) = (factory.lsp(), factory.salt) else { return };
                let key = self.client_key(instance, factory.attempt, &salt);
                let Some(sale) = self.client_sales.get_mut(&(instance, coin)) else { return };
                sale.deadline = deadline;
                effects.push(match sale.signing.sign(&plan, request, transcript, &key) {
                    Ok(answer) => Effect::Send { peer: lsp, message: answer.into() },
                    Err(error) => {
                        let text = format!("{instance}: could not sign a sale: {error}");
                        Effect::Log { level: Level::Unusual, text }
                    }
                });
            }
        }
    }
}
