//! L's stock: once a leaf is on chain, its stock outputs are L's alone after their CSV.
//!
//! From the timeout on the clients' distribution may take it as well: whoever confirms first has it.

use std::borrow::Cow;
use std::fmt;

use bitcoin::absolute::LockTime;
use bitcoin::hashes::Hash;
use bitcoin::sighash::{Prevouts, SighashCache, TapSighashType, TaprootError};
use bitcoin::taproot::{LeafVersion, TapLeafHash};
use bitcoin::transaction::Version;
use bitcoin::{ScriptBuf, Sequence, TxIn, TxOut, Witness};

use crate::chain::record;
use crate::engine::Engine;
use crate::io::fees::{NO_HURRY, replaced_from};
use crate::io::{Effect, Level, NodeError};
use crate::memory::Volatile;
use crate::memory::fees::VolatileFees;
use crate::record::attempt::Role;
use crate::record::event::StockPayout;
use crate::record::factory::{Factory, OpenStock, open_stock};
use crate::step::builder::StepBuilder;
use crate::tx::layout::fee;
use crate::tx::musig::sign_alone;
use crate::tx::sale::Stock;
use crate::tx::scripts::{DUST, StockSpend, key_script};
use crate::types::{Amount, Height, InstanceId, Transaction};

/// Why a stock output is not taken.
#[derive(Debug)]
enum NotTaken {
    /// The factory has no transactions.
    NoTree,
    /// The coin is no stock.
    NoStock,
    /// The coin's key is not known.
    NoKey,
    /// The fee would take all of it.
    Fee {
        /// Value of the stock output.
        value: Amount,
        /// Fee of the transaction that would take it.
        fee: Amount,
    },
    /// No signature hash could be made for the transaction that would take it.
    Sighash(TaprootError),
}

impl fmt::Display for NotTaken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoTree => f.write_str("there is no tree"),
            Self::NoStock => f.write_str("it is no stock coin"),
            Self::NoKey => f.write_str("it has no key"),
            Self::Fee { value, fee } => write!(f, "its {value} are not worth the fee of {fee}"),
            Self::Sighash(error) => error.fmt(f),
        }
    }
}

impl Engine {
    /// What our own spend of a stock output should pay, sat/kw: by the timeout, from where on the clients
    /// may take it. What is out is only replaced by what pays enough more (BIP-125 rule 4).
    fn stock_feerate(&self, factory: &Factory, stock: &OpenStock, height: Height) -> u32 {
        let by = stock.matures.saturating_add(NO_HURRY).min(factory.current.terms.timeout_height);
        let target = self.feerates().map_or(0, |rates| rates.target(by.saturating_sub(height)));
        let target = target.max(self.config.stock_feerate);
        match self.fees.claim(stock.stock.outpoint) {
            Some(before) if target < replaced_from(before) => before,
            _ => target,
        }
    }

    /// Takes what is ours by now; again at every block until it confirms (S26).
    pub(crate) fn take_stock(&self, step: &mut StepBuilder<'_>, factory: &Factory) {
        if factory.current.role != Role::Lsp || factory.confirmed.len() < 2 {
            return;
        }
        // What can be taken without waiting is: `reclaim`.
        let waits = |open: &OpenStock| !factory.is_handed_over(open.stock.coin);
        let open: Vec<OpenStock> = open_stock(factory).filter(waits).collect();
        let Some(script) = &factory.stock_payout else {
            if !open.is_empty() {
                step.effect(Effect::NewPayout {
                    instance: factory.instance,
                    attempt: factory.current.number,
                });
            }
            return;
        };
        let next = step.height.saturating_add(1);
        for stock in open.iter().filter(|stock| stock.matures <= next) {
            let coin = stock.stock.coin;
            let feerate = self.stock_feerate(factory, stock, step.height);
            match self.stock_tx(factory, stock.stock, script, feerate) {
                Ok(tx) => {
                    step.volatile(Volatile::Fees(VolatileFees::Claim(stock.stock.outpoint, feerate)));
                    let what = format!("our own spend of stock coin {coin}");
                    step.effect(Effect::Broadcast { instance: factory.instance, what, tx });
                }
                // S26: reported once, at the block in which it could first have been taken.
                Err(why) if stock.matures == next => {
                    step.log(Level::Unusual, format!("{}: stock coin {coin}: {why}", factory.instance));
                }
                Err(_) => {}
            }
        }
    }

    pub(crate) fn on_stock_payout(
        &self,
        step: &mut StepBuilder<'_>,
        instance: InstanceId,
        result: Result<ScriptBuf, NodeError>,
    ) {
        let Some(factory) = self.factories.get(&instance).filter(|factory| factory.current.role == Role::Lsp)
        else {
            return;
        };
        match result {
            Ok(script) if factory.stock_payout.is_none() => {
                let mut after = Cow::Borrowed(factory);
                record(step, &mut after, StockPayout { script });
                self.take_stock(step, &after);
                self.reclaim(step, &after);
            }
            Ok(_) => {}
            Err(error) => {
                // Asked again at the next block.
                step.log(Level::Unusual, format!("{instance}: the wallet has no script for stock: {error}"));
            }
        }
    }

    /// L's own spend of a stock output, signed. It pays `feerate` (sat/kw), but no more than half of what
    /// it is worth unless that is less than what always is paid.
    fn stock_tx(
        &self,
        factory: &Factory,
        stock: Stock,
        script: &ScriptBuf,
        feerate: u32,
    ) -> Result<Transaction, NotTaken> {
        let tree = factory.current.tree.as_ref().ok_or(NotTaken::NoTree)?;
        let spend = tree.stock_script(stock.coin).ok_or(NotTaken::NoStock)?;
        let key = tree.output_key(stock.coin).ok_or(NotTaken::NoKey)?;
        let prevout = TxOut { value: stock.value, script_pubkey: key_script(key) };
        let input = TxIn {
            previous_output: stock.outpoint,
            script_sig: ScriptBuf::new(),
            // Of version 2 and replaceable: its fee may have to be raised.
            sequence: Sequence::from_height(factory.current.terms.stock_csv),
            witness: witness(&[0; 64], &spend),
        };
        let output = TxOut { value: prevout.value, script_pubkey: script.clone() };
        let mut tx = Transaction {
            version: Version::TWO,
            lock_time: LockTime::ZERO,
            input: vec![input],
            output: vec![output],
        };
        let pays = |feerate| fee(tx.weight().to_wu(), feerate).unwrap_or(Amount::MAX_MONEY);
        let least = pays(self.config.stock_feerate);
        let fee = pays(feerate).min(least.max(prevout.value / 2));
        let value = prevout.value.checked_sub(fee).filter(|value| *value >= DUST);
        let value = value.ok_or(NotTaken::Fee { value: prevout.value, fee })?;
        if let Some(output) = tx.output.first_mut() {
            output.value = value;
        }
        let leaf = TapLeafHash::from_script(&spend.script, LeafVersion::TapScript);
        let sighash = SighashCache::new(&tx)
            .taproot_script_spend_signature_hash(
                0,
                &Prevouts::All(&[&prevout]),
                leaf,
                TapSighashType::Default,
            )
            .map_err(NotTaken::Sighash)?
            .to_byte_array();
        let key = self.factory_key(factory.instance, factory.current.number);
        // The message decides the nonce; without fresh randomness the same transaction is made again.
        let signature = sign_alone(&key, &sighash, [0; 32]);
        if let Some(input) = tx.input.first_mut() {
            input.witness = witness(&signature, &spend);
        }
        Ok(tx)
    }
}

fn witness(signature: &[u8; 64], spend: &StockSpend) -> Witness {
    Witness::from_slice(&[signature.as_slice(), spend.script.as_bytes(), &spend.control_block])
}
