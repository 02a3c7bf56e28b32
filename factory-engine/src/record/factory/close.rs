//! A cooperative close: what it means for the factory until it is buried, or can't confirm any more.

use crate::record::close::Closing;
use crate::record::event::{CloseSigned, CloseSigning};
use crate::record::factory::onchain::BURIED;
use crate::record::factory::{Factory, Height};
use crate::record::load_error::{LoadError, inconsistent};
use crate::tx::close::build;
use crate::types::Transaction;

impl Factory {
    /// The height at which the close confirmed.
    pub fn close_height(&self) -> Option<Height> {
        let close = self.current.close.as_ref()?;
        self.confirmed.get(&close.txid()).copied()
    }

    /// Whether what a close would spend is on chain and nobody has spent it.
    pub(crate) fn is_whole(&self) -> bool {
        self.funding_height().is_some()
            && self.funding().is_some_and(|funding| !self.spent.contains_key(&funding))
    }

    /// Whether somebody takes its path on chain, or is taken there (S24).
    pub(crate) fn is_being_left(&self) -> bool {
        !self.current.exiting.is_empty() || !self.current.evicting.is_empty()
    }

    /// Whether a close that this node has signed for may still confirm, or has: then nothing moves on the
    /// factory's channels. What it pays was fixed with the signature, and whoever has the finished one can
    /// publish it at any time. It can't any more once what it spends is spent otherwise, for good; and L alone
    /// knows whether it finishes it.
    pub fn is_closing(&self, height: Height) -> bool {
        let Some(close) = self.current.close.as_ref() else { return false };
        if close.given_up.is_some() {
            return false;
        }
        let spender = self.funding().and_then(|funding| self.spent.get(&funding));
        let conflict = spender.filter(|txid| **txid != close.txid());
        let at = conflict.and_then(|txid| self.confirmed.get(txid));
        at.is_none_or(|at| height.saturating_sub(*at).saturating_add(1) < BURIED)
    }

    /// The finished close, if this node has it and nothing is in its way: it takes the place of every path.
    pub fn finished_close(&self) -> Option<Transaction> {
        let close = self.current.close.as_ref().filter(|_| self.is_whole())?;
        close.signed_tx()
    }

    /// Whether a close is on chain, or this node holds one that can be.
    pub(crate) fn has_close(&self) -> bool {
        let finished = self.current.close.as_ref().is_some_and(|close| close.signature.is_some());
        self.close_height().is_some() || finished && self.is_whole()
    }

    /// A close that isn't finished yet, and may be.
    pub(crate) fn unfinished_close(&self) -> Option<&Closing> {
        let close = self.current.close.as_deref()?;
        (close.signature.is_none() && close.given_up.is_none()).then_some(close)
    }

    pub(crate) fn begin_close(&mut self, event: &CloseSigning) -> Result<(), LoadError> {
        let current = &mut self.current;
        let tree = current.tree.as_ref().ok_or_else(|| inconsistent("CloseSigning", "there is no tree"))?;
        let session = build(&current.layout, tree, &event.outputs)
            .map_err(|error| inconsistent("CloseSigning", error))?;
        // S8: never two.
        if current.close.as_ref().is_some_and(|before| before.session != session) {
            return Err(inconsistent("CloseSigning", "another close was signed for before"));
        }
        current.close = Some(Box::new(Closing::new(session, event)));
        Ok(())
    }

    pub(crate) fn finish_close(&mut self, event: &CloseSigned) -> Result<(), LoadError> {
        let close = self.current.close.as_mut();
        let close = close.ok_or_else(|| inconsistent("CloseSigned", "no close was signed for"))?;
        close.signature = Some(event.signature);
        Ok(())
    }
}
