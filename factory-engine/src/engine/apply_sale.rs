//! Applying what a step changes of a sale: memory, and the signing itself.

use crate::engine::Engine;
use crate::io::Effect;
use crate::memory::sale::{SalePhase, VolatileSale};
use crate::signing::{SignAs, SignJob};
use crate::tx::layout::CoinIndex;
use crate::types::InstanceId;
use crate::wire::message::SalePropose;

use super::apply::{as_lsp, as_member};

impl Engine {
    pub(crate) fn apply_volatile_sale(
        &mut self,
        instance: InstanceId,
        coin: CoinIndex,
        change: VolatileSale,
        effects: &mut Vec<Effect>,
    ) {
        let key = (instance, coin);
        match change {
            VolatileSale::Start(sale) => {
                self.lsp_sales.insert(key, *sale);
            }
            VolatileSale::StartClient(sale) => {
                self.client_sales.insert(key, *sale);
            }
            VolatileSale::End => {
                self.lsp_sales.remove(&key);
                self.client_sales.remove(&key);
            }
            VolatileSale::Purchase(None) => {
                self.purchases.remove(&instance);
            }
            VolatileSale::Purchase(Some(purchase)) => {
                self.purchases.insert(instance, purchase);
            }
            VolatileSale::Asked(asked) => {
                self.asked.insert(instance, asked);
            }
            VolatileSale::Withheld(who) => {
                self.withheld.insert(key, who);
            }
            VolatileSale::AskedBack(client, height) => {
                self.asked_back.insert((instance, client), height);
            }
            VolatileSale::Sign(job) => self.sign_sale(instance, coin, *job, effects),
            // A step may end the sale that it also changes.
            VolatileSale::Lsp(change) => {
                if let Some(sale) = self.lsp_sales.get_mut(&key) {
                    sale.apply(change);
                }
            }
            VolatileSale::Client(change) => {
                if let Some(sale) = self.client_sales.get_mut(&key) {
                    sale.apply(change);
                }
            }
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
                let key = self.factory_key(instance, factory.current.number);
                let Some(sale) = self.lsp_sales.get_mut(&(instance, coin)) else { return };
                sale.phase = SalePhase::Signing;
                sale.deadline = deadline;
                // Otherwise the deadline ends this try; the next has fresh nonces.
                let signed = sale.signing.sign(opened, transcript, &key);
                effects.extend(as_lsp(instance, " of a sale", signed));
            }
            SignAs::Member { plan, request } => {
                // Whoever holds a signed factory has signed with this.
                let (lsp, Some(salt)) = (factory.lsp(), factory.current.salt) else { return };
                let key = self.client_key(instance, factory.current.number, &salt);
                let Some(sale) = self.client_sales.get_mut(&(instance, coin)) else { return };
                sale.deadline = deadline;
                let signed = sale.signing.sign(&plan, request, transcript, &key);
                effects.push(as_member(instance, " a sale", lsp, signed));
            }
        }
    }
}
