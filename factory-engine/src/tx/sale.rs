//! Sales of liquidity: the pseudo-Spilman chain that a sub-factory's stock becomes.
//!
//! A sale spends the stock into a new channel and the rest of the stock, under the same n-of-n key.
//! The next sale spends that rest. A stock output is never spent in two ways (S8): every member signs
//! one sale of it in its life, so that one honest member is enough.

use std::fmt;

use bitcoin::absolute::LockTime;
use bitcoin::hashes::{Hash, HashEngine, sha256};
use bitcoin::transaction::Version;
use bitcoin::{Amount, OutPoint, ScriptBuf, Sequence, TxOut};

use crate::terms::ClientIndex;
use crate::types::InstanceId;

use super::layout::{CoinIndex, Layout, MIN_CHANNEL, SessionId, SpendRole, fee, weight};
use super::musig::{AggNonce, KeyAgg};
use super::scripts::{ANCHOR_VALUE, anchor_script, key_script};
use super::tree::{Roster, Session, TreeError, distribution_to, sighash, transaction};

/// A stock output: a sub-factory's first one, or what a sale has left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stock {
    /// The sub-factory's stock coin; also names its members.
    pub coin: CoinIndex,
    /// Outpoint of the stock output.
    pub outpoint: OutPoint,
    /// Value of the stock output.
    pub value: Amount,
}

/// What can be sold of a stock output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SaleLimits {
    /// The largest channel that leaves a rest, if any does.
    pub with_rest: Option<Amount>,
    /// The channel that takes everything, if that is one.
    pub everything: Option<Amount>,
}

/// One sale: a channel out of a stock output, and what is left of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sale {
    /// Its place in the chain, from 1.
    pub number: u32,
    /// Whose the new channel is.
    pub buyer: ClientIndex,
    /// The sale itself, then the distribution of the rest if there is a rest.
    pub sessions: Vec<Session>,
    /// Where the new channel is funded.
    pub channel: OutPoint,
    /// The output that funds it.
    pub channel_output: TxOut,
    /// What is left, for the next sale.
    pub rest: Option<Stock>,
}

/// Why a sale can't be built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SaleError {
    /// The coin is no stock.
    NoStock,
    /// All of it was sold.
    Gone,
    /// The buyer is not one of the sub-factory's clients.
    NotAMember(ClientIndex),
    /// The amount leaves too little, or is too small or too large.
    Amount {
        /// Capacity that was asked for.
        asked: Amount,
        /// What could be asked for.
        limits: SaleLimits,
    },
    /// Its script or keys don't fit.
    Tree(TreeError),
}

impl fmt::Display for SaleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoStock => f.write_str("this sub-factory has no stock to sell"),
            Self::Gone => f.write_str("this sub-factory's stock is gone"),
            Self::NotAMember(client) => {
                write!(f, "client {client} is not of the sub-factory whose stock this is")
            }
            Self::Amount { asked, limits: SaleLimits { with_rest, everything } } => {
                let (asked, least) = (asked.to_sat(), MIN_CHANNEL.to_sat());
                let sat = |amount: &Option<Amount>| amount.map(Amount::to_sat);
                match (sat(with_rest), sat(everything)) {
                    (Some(most), Some(all)) => {
                        write!(
                            f,
                            "{asked} sat can't be sold: ask for {least} to {most} sat, or for all of it, {all} sat"
                        )
                    }
                    (None, Some(all)) => write!(f, "{asked} sat can't be sold: only all of it, {all} sat"),
                    _ => write!(f, "{asked} sat can't be sold: the stock is gone"),
                }
            }
            Self::Tree(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for SaleError {}

impl From<TreeError> for SaleError {
    fn from(error: TreeError) -> Self {
        Self::Tree(error)
    }
}

/// What can be sold of a stock output of `value`. Both are nothing where it is too small for a channel.
pub fn limits(layout: &Layout, coin: CoinIndex, value: Amount) -> SaleLimits {
    let channel = |amount: Option<Amount>| amount.filter(|amount| *amount >= MIN_CHANNEL);
    let feerate = layout.terms().tree_feerate;
    let after = |outputs| value.checked_sub(fee(weight(outputs), feerate)?)?.checked_sub(ANCHOR_VALUE);
    let with_rest = layout.least_stock(coin).and_then(|least| after(2)?.checked_sub(least));
    SaleLimits { with_rest: channel(with_rest), everything: channel(after(1)) }
}

impl Sale {
    /// Builds the sale of `amount` of a stock output as a channel of `buyer`. `agg` is the key of the
    /// sub-factory's stock coin, `script` the channel's P2WSH.
    ///
    /// # Errors
    /// When there is no such stock, or the amount isn't within its [`limits`].
    #[allow(clippy::too_many_arguments)] // Each is one independent fact of the sale.
    pub fn build(
        layout: &Layout,
        roster: &Roster,
        agg: &KeyAgg,
        stock: Stock,
        number: u32,
        buyer: ClientIndex,
        amount: Amount,
        script: &ScriptBuf,
    ) -> Result<Self, SaleError> {
        let coin = layout.coin(stock.coin).filter(|coin| coin.stock).ok_or(SaleError::NoStock)?;
        if !coin.clients.contains(&buyer) {
            return Err(SaleError::NotAMember(buyer));
        }
        if !script.is_p2wsh() {
            return Err(TreeError::ChannelScript { client: buyer }.into());
        }
        let rest = rest(layout, stock, amount)?;
        let stock_script = key_script(agg.output_key());
        let channel_output = TxOut { value: amount, script_pubkey: script.clone() };
        let mut output = vec![channel_output.clone()];
        output.extend(rest.map(|value| TxOut { value, script_pubkey: stock_script.clone() }));
        output.push(TxOut { value: ANCHOR_VALUE, script_pubkey: anchor_script() });

        let prevout = TxOut { value: stock.value, script_pubkey: stock_script.clone() };
        let sequence = Sequence::ENABLE_RBF_NO_LOCKTIME;
        let tx = transaction(Version(3), LockTime::ZERO, stock.outpoint, sequence, output);
        let txid = tx.compute_txid();
        let id = SessionId { coin: stock.coin, role: SpendRole::Sale };
        let sighash_of_sale = sighash(id, &tx, &prevout)?;
        let mut sessions =
            vec![Session { id, sighash: sighash_of_sale, tx, txid, prevout, outpoint: stock.outpoint }];

        let rest = rest.map(|value| Stock { coin: stock.coin, outpoint: OutPoint { txid, vout: 1 }, value });
        if let Some(rest) = rest {
            let payouts = layout.stock_payouts(rest.coin, rest.value);
            let tx = distribution_to(layout, roster, &payouts, coin.distribution_version, rest.outpoint)?;
            let id = SessionId { coin: rest.coin, role: SpendRole::Distribution };
            let prevout = TxOut { value: rest.value, script_pubkey: stock_script };
            let sighash = sighash(id, &tx, &prevout)?;
            let txid = tx.compute_txid();
            sessions.push(Session { id, sighash, tx, txid, prevout, outpoint: rest.outpoint });
        }
        Ok(Self { number, buyer, sessions, channel: OutPoint { txid, vout: 0 }, channel_output, rest })
    }

    /// Capacity of the new channel: all of the output that funds it.
    pub fn amount(&self) -> Amount {
        self.channel_output.value
    }
}

/// The hash that all members of a sale sign off on (S6): which sale it is, its transactions and
/// aggregate nonces, in the order of the sale's sessions.
pub fn transcript(instance: InstanceId, attempt: u32, sale: &Sale, nonces: &[AggNonce]) -> [u8; 32] {
    let tag = sha256::Hash::hash(b"superscalar/1 sale").to_byte_array();
    let mut engine = sha256::Hash::engine();
    engine.input(&tag);
    engine.input(&tag);
    engine.input(&instance.0);
    engine.input(&attempt.to_be_bytes());
    engine.input(&sale.number.to_be_bytes());
    engine.input(&sale.buyer.to_be_bytes());
    for (session, nonce) in sale.sessions.iter().zip(nonces) {
        engine.input(&session.sighash);
        engine.input(&nonce.0);
    }
    sha256::Hash::from_engine(engine).to_byte_array()
}

/// What a sale of `amount` leaves; None if it takes everything.
///
/// # Errors
/// When the amount isn't within the stock's [`limits`].
pub fn rest(layout: &Layout, stock: Stock, amount: Amount) -> Result<Option<Amount>, SaleError> {
    let limits = limits(layout, stock.coin, stock.value);
    let refused = SaleError::Amount { asked: amount, limits };
    if amount < MIN_CHANNEL {
        return Err(refused);
    }
    if limits.everything == Some(amount) {
        return Ok(None);
    }
    if limits.with_rest.is_none_or(|most| amount > most) {
        return Err(refused);
    }
    let costs = fee(weight(2), layout.terms().tree_feerate).and_then(|fee| fee.checked_add(ANCHOR_VALUE));
    // Within the limits, so it can be subtracted.
    costs.and_then(|costs| stock.value.checked_sub(costs)?.checked_sub(amount)).map(Some).ok_or(refused)
}
