//! Exits, and where the money went.

use std::collections::BTreeMap;

use bitcoin::{Amount, OutPoint, ScriptBuf, Transaction, Txid};
use factory_engine::tx::scripts::anchor_script;
use factory_engine::types::{ChannelId, Height, InstanceId};
use factory_engine::{Command, State};

use crate::chain::fee_of;
use crate::{LabError, error};

use super::World;

/// What an exit took: blocks and transactions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// Height at which the exit was decided.
    pub began: Height,
    /// Height at which the channel's commitment confirmed.
    pub ended: Height,
    /// What confirmed for it, in order: name, transaction, height.
    pub transactions: Vec<(String, Transaction, Height)>,
}

/// Where the satoshis of one output went.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Account {
    /// Value of the output.
    pub total: Amount,
    /// In members' wallets, by member.
    pub wallets: BTreeMap<usize, Amount>,
    /// In channels whose funding output is on chain, or would be.
    pub channels: Amount,
    /// In outputs of the tree that nobody has spent.
    pub tree: Amount,
    /// In anchors that nobody has spent.
    pub anchors: Amount,
    /// Paid to miners as fees.
    pub fees: Amount,
    /// In outputs that nobody knows.
    pub unknown: Amount,
}

impl Account {
    /// Everything together.
    ///
    /// # Errors
    /// When it is more money than there is.
    pub fn sum(&self) -> Result<Amount, LabError> {
        let parts = [self.channels, self.tree, self.anchors, self.fees, self.unknown];
        let parts = parts.into_iter().chain(self.wallets.values().copied());
        parts.into_iter().try_fold(Amount::ZERO, Amount::checked_add).ok_or_else(|| error("amounts overflow"))
    }
}

impl World {
    /// One client leaves by itself: `factory-exit`, and blocks until its commitment is on chain.
    ///
    /// # Errors
    /// When it does not get out before the blocks that its terms allow.
    pub fn exit(&mut self, at: usize, instance: InstanceId) -> Result<Exit, LabError> {
        let began = self.chain.height();
        let channel = self.channel_in(at, instance).ok_or_else(|| error("it has no channel there"))?;
        let outpoint = self
            .members
            .get(at)
            .and_then(|member| member.lightningd.channels.get(&channel))
            .map(|channel| channel.outpoint)
            .ok_or_else(|| error("lightningd has no such channel"))?;
        let from = self.sent.len();
        self.command(at, Command::Exit { instance })?;
        let limit = self.members[at]
            .engine
            .as_ref()
            .and_then(|engine| engine.factory(instance))
            .map_or(0, |factory| u32::from(factory.blocks_early()));
        while self.chain.spender(outpoint).is_none() {
            if self.chain.height() > began.saturating_add(limit) {
                return Err(error(format!("member {at} is not out after {limit} blocks")));
            }
            self.mine(1)?;
        }
        if self.state(at, instance) != Some(State::Exited) {
            return Err(error(format!("member {at} is {:?} after its exit", self.state(at, instance))));
        }
        let mut seen: BTreeMap<Txid, String> = BTreeMap::new();
        for sent in self.sent.iter().skip(from).filter(|sent| sent.result.is_ok()) {
            seen.entry(sent.txid).or_insert_with(|| sent.what.clone());
        }
        let mut transactions: Vec<(String, Transaction, Height)> = seen
            .into_iter()
            .filter_map(|(txid, what)| {
                let (height, tx) = self.chain.confirmed(txid)?;
                Some((what, tx.clone(), height))
            })
            .collect();
        transactions.sort_by_key(|(_, _, height)| *height);
        Ok(Exit { began, ended: self.chain.height(), transactions })
    }

    /// A member spends a coin of its wallet to itself, past any reservation.
    ///
    /// # Errors
    /// When the coin is not there.
    pub fn spend(&mut self, at: usize, coin: OutPoint) -> Result<Txid, LabError> {
        let member = &mut self.members[at].lightningd;
        let value = self.chain.coin(coin).ok_or_else(|| error("no such coin"))?.output.value;
        let value = value.checked_sub(Amount::from_sat(1_000)).ok_or_else(|| error("too little"))?;
        let script = member.new_script();
        let tx = member.sign(&self.chain, super::super::node::payment(coin, script, value))?;
        self.chain.submit(&tx).map_err(error)
    }

    /// A member's channel of a factory (a client's only one).
    pub fn channel_in(&self, at: usize, instance: InstanceId) -> Option<ChannelId> {
        let factory = self.members[at].engine.as_ref()?.factory(instance)?;
        factory.current.channels.values().next().copied()
    }

    /// Follows an output through the chain to the last satoshi.
    ///
    /// # Errors
    /// When amounts overflow, or a transaction pays more than it spends.
    pub fn account(&self, outpoint: OutPoint, value: Amount) -> Result<Account, LabError> {
        let mut account = Account { total: value, ..Account::default() };
        let scripts = self.scripts();
        let channels = self.channel_outpoints();
        let mut open = vec![outpoint];
        while let Some(outpoint) = open.pop() {
            if let Some((_, tx)) = self.chain.spender(outpoint) {
                if tx.input.len() > 1 {
                    // An anchor: it went into its child's fee.
                    let anchor =
                        self.output_of(outpoint).ok_or_else(|| error("an output has no transaction"))?;
                    account.fees += anchor.value;
                    continue;
                }
                // Everything else below a factory has one input.
                let prevout =
                    self.output_of(outpoint).ok_or_else(|| error("an output has no transaction"))?;
                let fee = fee_of(tx, &[prevout]).ok_or_else(|| error("more out than in"))?;
                account.fees += fee;
                let txid = tx.compute_txid();
                open.extend((0..).zip(&tx.output).map(|(vout, _)| OutPoint { txid, vout }));
                continue;
            }
            let output = self.output_of(outpoint).ok_or_else(|| error("an output has no transaction"))?;
            match scripts.get(&output.script_pubkey) {
                Some(member) => *account.wallets.entry(*member).or_insert(Amount::ZERO) += output.value,
                None if output.script_pubkey == anchor_script() => account.anchors += output.value,
                None if channels.contains(&outpoint) => account.channels += output.value,
                None if output.script_pubkey.is_p2tr() => account.tree += output.value,
                None => account.unknown += output.value,
            }
        }
        Ok(account)
    }

    pub(super) fn output_of(&self, outpoint: OutPoint) -> Option<bitcoin::TxOut> {
        let (_, tx) = self.chain.confirmed(outpoint.txid)?;
        tx.output.get(usize::try_from(outpoint.vout).ok()?).cloned()
    }

    fn scripts(&self) -> BTreeMap<ScriptBuf, usize> {
        let mut scripts = BTreeMap::new();
        for (at, member) in self.members.iter().enumerate() {
            scripts.extend(member.lightningd.keys.keys().map(|script| (script.clone(), at)));
        }
        scripts
    }

    fn channel_outpoints(&self) -> std::collections::BTreeSet<OutPoint> {
        let channels = self.members.iter().flat_map(|member| member.lightningd.channels.values());
        channels.map(|channel| channel.outpoint).collect()
    }
}
