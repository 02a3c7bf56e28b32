//! Spends that nobody in the factory made, or that the operator makes past its plugin.

use bitcoin::hashes::Hash;
use bitcoin::sighash::{Prevouts, SighashCache, TapSighashType};
use bitcoin::taproot::{LeafVersion, TapLeafHash};
use bitcoin::transaction::Version;
use bitcoin::{Amount, OutPoint, Sequence, Transaction, TxIn, TxOut, Witness, absolute};
use factory_engine::Attempt;
use factory_engine::tx::musig::{FactoryKey, MasterSecret, sign_alone};
use factory_engine::tx::scripts::anchor_script;
use factory_engine::types::InstanceId;

use super::{LSP, World};

/// What these transactions pay: well above 1 sat/vB for their size.
const FEE: Amount = Amount::from_sat(1_000);

impl World {
    /// Anchors that anybody may spend, confirmed or not.
    pub fn anchors(&self) -> Vec<OutPoint> {
        let anchor = anchor_script();
        let confirmed =
            self.chain.coins().filter(|(_, coin)| coin.output.script_pubkey == anchor).map(|(at, _)| *at);
        let waiting = self.chain.mempool().iter().flat_map(|tx| {
            let txid = tx.compute_txid();
            let outputs = (0..).zip(&tx.output).filter(|(_, output)| output.script_pubkey == anchor_script());
            outputs.map(move |(vout, _)| OutPoint { txid, vout })
        });
        confirmed.chain(waiting).collect()
    }

    /// A stranger spends an anchor, with a coin of its own for the fee. Whether the chain took it.
    pub fn spend_anchor(&mut self, anchor: OutPoint) -> bool {
        let stranger = &mut self.stranger;
        let own = self.chain.coins().find(|(_, coin)| stranger.owns(&coin.output));
        let Some((own, value)) = own.map(|(at, coin)| (*at, coin.output.value)) else {
            // For the next time.
            let script = stranger.new_script();
            self.chain.mint(script, Amount::from_sat(100_000));
            return false;
        };
        // The anchor's own value goes to the fee, too.
        let Some(value) = value.checked_sub(FEE) else { return false };
        let output = vec![TxOut { value, script_pubkey: stranger.new_script() }];
        let unconfirmed = self.chain.coin(anchor).is_none();
        let version = if unconfirmed { Version(3) } else { Version::TWO };
        let tx = transaction(version, &[anchor, own], Sequence::ENABLE_RBF_NO_LOCKTIME, output);
        let signed = self.stranger.sign(&self.chain, tx);
        signed.is_ok_and(|tx| self.chain.submit(&tx).is_ok())
    }

    /// The operator's wallet spends the change of its funding transaction, confirmed or not. Whether the
    /// chain took it.
    pub fn spend_change(&mut self, instance: InstanceId) -> bool {
        let Some(factory) = self.members[LSP].engine.as_ref().and_then(|engine| engine.factory(instance))
        else {
            return false;
        };
        let (Some(funding), Some(proposal)) = (factory.funding(), &factory.current.proposal) else {
            return false;
        };
        let lightningd = &self.members[LSP].lightningd;
        let mut outputs = (0..).zip(&proposal.funding_tx.output);
        let Some((vout, change)) = outputs.find(|(_, output)| lightningd.owns(output)) else { return false };
        let Some(value) = change.value.checked_sub(FEE) else { return false };
        let coin = OutPoint { txid: funding.txid, vout };
        let output = vec![TxOut { value, script_pubkey: self.members[LSP].lightningd.new_script() }];
        let tx = transaction(Version::TWO, &[coin], Sequence::ENABLE_RBF_NO_LOCKTIME, output);
        let signed = self.members[LSP].lightningd.sign(&self.chain, tx);
        signed.is_ok_and(|tx| self.chain.submit(&tx).is_ok())
    }

    /// The operator takes what it can of its stock by the script path, as is its right once the output is
    /// old enough. Whether the chain took something.
    pub fn take_stock(&mut self) -> bool {
        let Some(engine) = &self.members[LSP].engine else { return false };
        let spends: Vec<Transaction> = engine
            .factories()
            .flat_map(|factory| factory.attempts().map(|attempt| (factory.instance, attempt)))
            .flat_map(|(instance, attempt)| self.stock_spends(instance, attempt))
            .collect();
        // Each of them: not only the first that the chain takes.
        spends.into_iter().filter(|tx| self.chain.submit(tx).is_ok()).count() > 0
    }

    fn stock_spends(&self, instance: InstanceId, attempt: &Attempt) -> Vec<Transaction> {
        let Some(tree) = &attempt.tree else { return vec![] };
        let master = MasterSecret::new(self.members[LSP].master);
        let key = FactoryKey::derive(&master, instance, attempt.number);
        let spend = |(coin, outpoint)| {
            let path = tree.stock_script(coin)?;
            let prevout = self.chain.coin(outpoint)?.output.clone();
            let script_pubkey = self.members[LSP].lightningd.some_script()?;
            let output = vec![TxOut { value: prevout.value.checked_sub(FEE)?, script_pubkey }];
            let sequence = Sequence::from_height(attempt.terms.stock_csv);
            let mut tx = transaction(Version::TWO, &[outpoint], sequence, output);
            let leaf = TapLeafHash::from_script(&path.script, LeafVersion::TapScript);
            let sighash = SighashCache::new(&tx)
                .taproot_script_spend_signature_hash(
                    0,
                    &Prevouts::All(&[prevout]),
                    leaf,
                    TapSighashType::Default,
                )
                .ok()?;
            let signature = sign_alone(&key, &sighash.to_byte_array(), [0; 32]);
            let witness = [signature.to_vec(), path.script.into_bytes(), path.control_block];
            tx.input.first_mut()?.witness = Witness::from_slice(&witness);
            Some(tx)
        };
        let coins = (0..).zip(attempt.layout.coins()).filter(|(_, coin)| coin.stock);
        let stock = coins.filter_map(|(at, _)| Some((at, tree.coin_outpoint(at)?)));
        // Whatever of it was sold: who bought it has the time of the CSV.
        let rests = attempt.sales.all().filter_map(|sold| sold.sale.rest);
        stock.chain(rests.map(|rest| (rest.coin, rest.outpoint))).filter_map(spend).collect()
    }
}

fn transaction(version: Version, coins: &[OutPoint], sequence: Sequence, output: Vec<TxOut>) -> Transaction {
    let input = |coin: &OutPoint| TxIn { previous_output: *coin, sequence, ..TxIn::default() };
    Transaction {
        version,
        lock_time: absolute::LockTime::ZERO,
        input: coins.iter().map(input).collect(),
        output,
    }
}
