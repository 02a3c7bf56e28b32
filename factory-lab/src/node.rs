//! What one lightningd does for the plugin: a wallet with real keys, and channels whose commitment
//! transactions both sides really sign.

mod bump;
mod channel;
mod invoice;
mod wallet;

use std::collections::{BTreeMap, BTreeSet};

use bitcoin::{Amount, OutPoint, ScriptBuf, TxOut, Txid};
use factory_engine::terms::ClientIndex;
use factory_engine::tx::child::Children;
use factory_engine::types::{ChannelId, InstanceId, NodeId, PaymentHash};
use factory_engine::{CheckFailure, KnownChannel};

use super::chain::Chain;
use super::key::Key;
use super::rng::Rng;

pub use bump::refused;
pub(super) use channel::commitment;
pub use channel::{Balances, COMMITMENT_FEE, Channel, PendingOpen, funding_script};
pub use invoice::IssuedInvoice;
pub(super) use wallet::payment;

/// The model of one lightningd.
#[derive(Debug, Clone)]
pub struct Lightningd {
    /// Node id, made from the seed.
    pub id: NodeId,
    pub(super) rng: Rng,
    /// Keys of the wallet, by script.
    pub(super) keys: BTreeMap<ScriptBuf, Key>,
    pub(super) reserved: BTreeSet<OutPoint>,
    /// Children that raise fees: as the plugin's records, durable.
    pub children: Children,
    /// What every child that was ever made took from the wallet.
    pub(super) costs: BTreeMap<Txid, Amount>,
    /// Whether the wallet refuses to do anything.
    pub locked: bool,
    /// Whether its plugin can hand parent and child to bitcoind together (`factory-bitcoin-rpc`).
    pub packages: bool,
    /// Opens between `fundchannel_start` and `fundchannel_complete`, by peer. Not durable.
    pub(super) pending: BTreeMap<NodeId, PendingOpen>,
    /// Committed channels by BOLT 2's `channel_id`. Durable.
    pub channels: BTreeMap<ChannelId, Channel>,
    /// Channels that have nothing to do with a factory. Durable.
    pub ordinary: Vec<KnownChannel>,
    /// Whether it refuses every ordinary channel that somebody opens to it.
    pub refuses_ordinary: bool,
    /// Whether it never answers when somebody opens an ordinary channel to it.
    pub ignores_ordinary: bool,
    /// Its own `fundchannel` that a peer hasn't answered. Not durable.
    pub(super) unanswered: Vec<(NodeId, InstanceId, ClientIndex)>,
    /// Whether its wallet is too short for an ordinary channel to anybody.
    pub short_of_coins: bool,
    /// Invoices that it has issued, by label. Durable.
    pub invoices: BTreeMap<String, IssuedInvoice>,
    /// Channels over which it forwards for nothing (`setchannel`). Durable.
    pub free: BTreeSet<ChannelId>,
    /// The largest HTLC that it forwards, msat.
    pub htlc_maximum_msat: u64,
    /// Whether `setchannel` fails.
    pub fees_fail: bool,
    /// Whether `setchannel` does nothing and says that it has.
    pub fees_ignored: bool,
    /// A channel that is free stays so, though `setchannel` says that it isn't.
    pub fees_stay: bool,
    /// Whether a payment arrived, by payment_hash. Durable.
    pub payments: BTreeMap<PaymentHash, bool>,
}

impl Lightningd {
    /// A node with an empty wallet.
    pub fn new(mut rng: Rng) -> Self {
        let id = NodeId(rng.key().public());
        Self {
            id,
            rng,
            keys: BTreeMap::new(),
            reserved: BTreeSet::new(),
            children: Children::default(),
            costs: BTreeMap::new(),
            locked: false,
            packages: false,
            pending: BTreeMap::new(),
            channels: BTreeMap::new(),
            ordinary: vec![],
            refuses_ordinary: false,
            ignores_ordinary: false,
            unanswered: vec![],
            short_of_coins: false,
            invoices: BTreeMap::new(),
            free: BTreeSet::new(),
            htlc_maximum_msat: u64::MAX,
            fees_fail: false,
            fees_ignored: false,
            fees_stay: false,
            payments: BTreeMap::new(),
        }
    }

    /// All channels, as the plugin reads them at its start.
    pub fn known_channels(&self) -> Vec<KnownChannel> {
        let known = |(channel_id, channel): (&ChannelId, &Channel)| KnownChannel {
            channel_id: *channel_id,
            peer: channel.peer,
            capacity: channel.capacity,
            confirmed: None,
        };
        self.channels.iter().map(known).chain(self.ordinary.iter().copied()).collect()
    }

    /// lightningd's own record of a channel against a leaf (S18): outpoint, amount and both keys.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check_channel(
        &self,
        channel_id: ChannelId,
        outpoint: OutPoint,
        output: &TxOut,
    ) -> Result<(), CheckFailure> {
        let Some(channel) = self.channels.get(&channel_id) else {
            return Err(CheckFailure::NotYet);
        };
        let script = funding_script(channel.key.public(), channel.remote).to_p2wsh();
        if channel.outpoint != outpoint || channel.capacity != output.value {
            return Err(CheckFailure::Mismatch("outpoint or amount differ".into()));
        }
        if script != output.script_pubkey {
            return Err(CheckFailure::Mismatch("the leaf pays another script".into()));
        }
        Ok(())
    }

    /// A disconnect or a restart ends every open that is not complete.
    pub(super) fn forget_opens(&mut self, peer: Option<NodeId>) {
        self.pending.retain(|other, _| peer.is_some_and(|peer| peer != *other));
    }

    /// Whether an output is the wallet's.
    pub fn owns(&self, output: &TxOut) -> bool {
        self.keys.contains_key(&output.script_pubkey)
    }

    /// A script that the wallet has given out before.
    pub(super) fn some_script(&self) -> Option<ScriptBuf> {
        self.keys.keys().next().cloned()
    }

    /// Confirmed money in the wallet.
    pub fn balance(&self, chain: &Chain) -> Amount {
        let own = chain.coins().filter(|(_, coin)| self.keys.contains_key(&coin.output.script_pubkey));
        own.map(|(_, coin)| coin.output.value).sum()
    }

    /// A fresh key for a channel's funding output.
    pub(super) fn channel_key(&mut self) -> Key {
        self.rng.key()
    }
}
