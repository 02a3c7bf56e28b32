//! What L takes back as an input of the next factory's funding: no transaction of its own, and no coin of the
//! wallet needed.
//!
//! Nothing is ever promised to two fundings, nor taken alone while it is promised, up to the height from which
//! on it has to be taken whatever becomes of the new factory: then the two compete, on purpose, and the funding
//! isn't sent any more. An attempt that ends gives back what it was promised: its funding was never signed.

use crate::engine::Engine;
use crate::io::{Entropy, Level, PreparedFunding};
use crate::memory::Volatile;
use crate::memory::ceremony::{LspCeremony, LspStage};
use crate::memory::reclaim::VolatileReclaim;
use crate::record::attempt::Role;
use crate::record::event::FundingReserved;
use crate::record::factory::{Factory, Reclaimable, wanted_nodes};
use crate::record::reclaimed::ReclaimedInput;
use crate::step::builder::StepBuilder;
use crate::tx::reclaim::{sighash, witness};
use crate::types::{Height, InstanceId, OutPoint, Witness};

impl Engine {
    /// Whether a funding is to spend this factory's funding output.
    pub(crate) fn is_promised(&self, instance: InstanceId) -> bool {
        let stored = || {
            let mut all = self.factories.values().flat_map(Factory::promised);
            all.any(|input| input.instance == instance)
        };
        let asked = |ceremony: &LspCeremony| match &ceremony.stage {
            LspStage::Opening(opening) => opening.reclaims.iter().any(|(of, _)| *of == instance),
            LspStage::Inviting | LspStage::Signing | LspStage::Storing(_) | LspStage::Completing => false,
        };
        self.lsp.values().any(asked) || stored()
    }

    /// What the next funding may spend beside coins of the wallet: funding outputs of factories that are all
    /// L's again, while there is time for it to confirm.
    pub(crate) fn reclaims_for_funding(&self, height: Height) -> Vec<(InstanceId, Reclaimable)> {
        let fits = |factory: &&Factory| {
            factory.current.role == Role::Lsp
                && factory.is_reclaimable_whole()
                && wanted_nodes(factory, height).is_empty()
                && height < self.reclaims_alone_from(factory)
                && !self.is_promised(factory.instance)
                && !factory.has_close()
        };
        let coin = |factory: &Factory| Some((factory.instance, factory.reclaimable().into_iter().next()?));
        self.whole().filter(fits).filter_map(coin).collect()
    }

    /// Of what was asked for, what the wallet has put into a funding.
    pub(crate) fn reclaims_of(
        &self,
        ceremony: &LspCeremony,
        funding: &PreparedFunding,
    ) -> Option<Vec<ReclaimedInput>> {
        let LspStage::Opening(opening) = &ceremony.stage else { return None };
        let inputs = || funding.tx.input.iter().map(|input| input.previous_output).zip(&funding.prevouts);
        let is_in = |asked: &Reclaimable| {
            inputs()
                .any(|(outpoint, prevout)| outpoint == asked.place.outpoint && *prevout == asked.place.output)
        };
        let reclaims = opening.reclaims.iter().filter(|(_, asked)| is_in(asked)).map(|(instance, asked)| {
            ReclaimedInput { instance: *instance, coin: asked.coin, outpoint: asked.place.outpoint }
        });
        let reclaims: Vec<ReclaimedInput> = reclaims.collect();
        (!reclaims.is_empty()).then_some(reclaims)
    }

    /// Whether everything that a factory's funding takes back can still be taken by it.
    ///
    /// # Errors
    /// Why not.
    pub(crate) fn reclaims_stand(&self, factory: &Factory, height: Height) -> Result<(), String> {
        let own = |reserved: &FundingReserved| reserved.tx.compute_txid();
        let funding = factory.current.reserved.as_deref().map(own);
        for input in factory.promised() {
            let of = self.factories.get(&input.instance);
            let of = of.ok_or_else(|| format!("factory {} is not there", input.instance))?;
            let spender = of.spent.get(&input.outpoint).copied();
            if spender.is_some() && spender != funding {
                return Err(format!("what it takes back of factory {} is spent otherwise", of.instance));
            }
            if height >= of.reclaim_latest() {
                let (of, latest) = (of.instance, of.reclaim_latest());
                return Err(format!("from height {latest} on factory {of} is taken back alone"));
            }
        }
        Ok(())
    }

    /// L: a creation whose funding has lost what it was to take back begins again without it.
    pub(crate) fn check_reclaims(&self, step: &mut StepBuilder<'_>, factory: &Factory) {
        if factory.current.role != Role::Lsp || !self.lsp.contains_key(&factory.instance) {
            return;
        }
        if let Err(why) = self.reclaims_stand(factory, step.height) {
            self.restart(step, factory, &[], why);
        }
    }

    /// The finished inputs by which a funding takes factories back (BIP-341: each signs all that is spent).
    ///
    /// # Errors
    /// Why it can't.
    pub(crate) fn reclaim_witnesses(
        &self,
        step: &mut StepBuilder<'_>,
        factory: &Factory,
        reserved: &FundingReserved,
    ) -> Result<Vec<(OutPoint, Witness)>, String> {
        self.reclaims_stand(factory, step.height)?;
        let funding = reserved.tx.compute_txid();
        if let Some(known) = self.reclaims.witnesses.get(&funding) {
            return Ok(known.clone());
        }
        let mut witnesses = Vec::new();
        for input in reserved.reclaims.iter().flatten() {
            witnesses.push((input.outpoint, self.reclaim_witness(input, reserved, step.rng)?));
        }
        if !witnesses.is_empty() {
            step.log(
                Level::Info,
                format!("{}: its funding takes {} factories back", factory.instance, witnesses.len()),
            );
            step.volatile(Volatile::Reclaim(VolatileReclaim::Witnesses(funding, witnesses.clone())));
        }
        Ok(witnesses)
    }

    fn reclaim_witness(
        &self,
        input: &ReclaimedInput,
        reserved: &FundingReserved,
        rng: &mut dyn Entropy,
    ) -> Result<Witness, String> {
        let of = self.factories.get(&input.instance).ok_or("its factory is not there")?;
        let place = reserved.tx.input.iter().position(|other| other.previous_output == input.outpoint);
        let place = place.ok_or("it is no input of the funding")?;
        let hash = sighash(&reserved.tx, place, &reserved.prevouts).map_err(|error| error.to_string())?;
        Ok(witness(&self.sign_coin(of, input.coin, &hash, rng)?))
    }
}
