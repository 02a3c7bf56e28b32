//! The cooperative close of a factory, as it is stored: what was signed, and what became of it (S8).

use bitcoin::TxOut;

use crate::record::event::CloseSigning;
use crate::terms::ClientIndex;
use crate::tx::close::Share;
use crate::tx::tree::Session;
use crate::types::{Height, ScriptBuf, Transaction, Txid, Witness};

/// Blocks after its partial signature in which a client waits for the finished close. Then it leaves by its path,
/// and the operator gives the close up.
pub const CLOSE_BLOCKS: Height = 144;

/// A close that was signed for, or is about to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closing {
    /// The transaction and what is signed of it.
    pub session: Session,
    /// What clients have: for L of all that have not handed over, for a client its own.
    pub shares: Vec<Share>,
    /// Height at which it was signed for.
    pub since: Height,
    /// Its finished signature (BIP-340), once it is stored.
    pub signature: Option<[u8; 64]>,
    /// L: why it never will be finished, if so.
    pub given_up: Option<String>,
}

impl Closing {
    pub(crate) fn new(session: Session, event: &CloseSigning) -> Self {
        let shares = event.shares.clone();
        Self { session, shares, since: event.height, signature: None, given_up: None }
    }

    /// The outputs without the anchor.
    pub fn outputs(&self) -> &[TxOut] {
        self.session.tx.output.split_last().map_or(&[], |(_, outputs)| outputs)
    }

    /// Id of the transaction.
    pub fn txid(&self) -> Txid {
        self.session.txid
    }

    /// The transaction with its signature, if it is finished.
    pub fn signed_tx(&self) -> Option<Transaction> {
        let signature = self.signature.as_ref()?;
        let mut tx = self.session.tx.clone();
        tx.input.first_mut()?.witness = Witness::from_slice(&[signature.as_slice()]);
        Some(tx)
    }

    /// What a client has in it, as far as this node knows.
    pub fn share(&self, client: ClientIndex) -> Option<&Share> {
        self.shares.iter().find(|share| share.client == client)
    }

    /// Whose script it is, as far as this node knows.
    pub fn owner(&self, script: &ScriptBuf) -> Option<ClientIndex> {
        self.shares.iter().find(|share| share.script == *script).map(|share| share.client)
    }
}
