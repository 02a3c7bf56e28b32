//! An exit package: every finished transaction that a member holds, and what each waits for, so that anybody can
//! publish them without this plugin and without its node. No key is in it (S19).
//!
//! What is published in which order follows from the inputs alone: a transaction may be sent once its input is on
//! chain and its timelocks allow it (BIP 65, BIP 68).

use std::collections::BTreeSet;

use bitcoin::{Transaction, TxOut};

use crate::chain::sales;
use crate::record::attempt::Role;
use crate::record::factory::{Factory, session_name};
use crate::tx::layout::{CoinIndex, SessionId, SpendRole};
use crate::tx::scripts::anchor_script;
use crate::tx::tree::Session;
use crate::types::{Amount, Height, OutPoint, ScriptBuf, Txid};

/// What a transaction of a package is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// It leads to a channel, which goes on on chain.
    Path,
    /// It funds a channel that was bought out of stock: before L may take the stock alone.
    Sale,
    /// It pays the clients what their channels can hold, from the timeout on, if nothing else has spent its input.
    Distribution,
    /// It pays everybody what it had, in place of all others.
    Close,
}

impl Part {
    /// Its name in RPC.
    pub fn name(self) -> &'static str {
        match self {
            Self::Path => "path",
            Self::Sale => "sale",
            Self::Distribution => "distribution",
            Self::Close => "close",
        }
    }
}

/// One finished transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packaged {
    /// What it is for.
    pub part: Part,
    /// Its name for people.
    pub name: String,
    /// The transaction, with its witness.
    pub tx: Transaction,
    /// Its id.
    pub txid: Txid,
    /// What it spends.
    pub input: OutPoint,
    /// What it pays by itself.
    pub fee: Amount,
    /// Confirmations that its input needs before it may be in the next block (BIP 68); at least 1, since the input has
    /// to be there.
    pub input_depth: u16,
    /// The lowest block that it may be in (nLockTime, BIP 65), if there is one.
    pub from_block: Option<Height>,
    /// Its anchor, which anybody may spend to raise its fee.
    pub anchor: Option<OutPoint>,
    /// The output that is this member's: a channel's funding output, or its payout.
    pub pays: Vec<OutPoint>,
}

/// Everything that a member has of a factory, parents before children. Nothing of what has been handed over.
pub fn package(factory: &Factory) -> Vec<Packaged> {
    let Some(tree) = factory.current.tree.as_ref().filter(|_| !factory.has_left()) else { return vec![] };
    let layout = &factory.current.layout;
    let (coins, nodes): (Vec<CoinIndex>, Vec<CoinIndex>) = match factory.current.role {
        Role::Client { index, .. } => (layout.client_coins(index), layout.path(index)),
        Role::Lsp => {
            let all = |coins: usize| (0..u32::try_from(coins).unwrap_or(u32::MAX)).collect();
            (vec![], all(layout.nodes().len()))
        }
    };
    let own = Own {
        channels: factory.own_channels().map(|channel| channel.funding).collect(),
        payouts: own_payouts(factory),
    };
    let of_tree = |part: Part, coin: CoinIndex, role: SpendRole| {
        let id = SessionId { coin, role };
        own.packaged(part, session_name(factory, id), tree.session(id)?, factory.signed_tx(id)?)
    };
    let path = nodes.into_iter().filter_map(|coin| of_tree(Part::Path, coin, SpendRole::State));
    let last =
        coins.into_iter().filter_map(|coin| of_tree(Part::Distribution, coin, SpendRole::Distribution));
    let sold = sales::wanted_sales(factory).filter_map(|sold| {
        own.packaged(Part::Sale, sales::name(sold), sold.sale.sessions.first()?, sold.signed_sale()?)
    });
    let rests = sales::wanted_sales(factory).filter_map(|sold| {
        let name = format!("distribution after {}", sales::name(sold));
        own.packaged(Part::Distribution, name, sold.sale.sessions.get(1)?, sold.signed_distribution()?)
    });
    let rests = rests.filter(|_| factory.current.role != Role::Lsp);
    let close = factory.current.close.as_deref().and_then(|close| {
        own.packaged(Part::Close, "cooperative close".to_owned(), &close.session, close.signed_tx()?)
    });
    path.chain(sold).chain(close).chain(last).chain(rests).collect()
}

/// What of a factory's outputs is this member's.
struct Own {
    channels: BTreeSet<OutPoint>,
    payouts: Vec<ScriptBuf>,
}

impl Own {
    fn packaged(&self, part: Part, name: String, session: &Session, tx: Transaction) -> Option<Packaged> {
        let first = tx.input.first()?;
        let paid = tx.output.iter().map(|output| output.value).sum::<Amount>();
        let depth = match first.sequence.to_relative_lock_time() {
            Some(bitcoin::relative::LockTime::Blocks(blocks)) => blocks.value(),
            _ => 0,
        };
        let locked = tx.lock_time.to_consensus_u32();
        let outputs = || (0u32..).map(|vout| OutPoint { txid: session.txid, vout }).zip(&tx.output);
        let is_own = |(place, output): &(OutPoint, &TxOut)| {
            self.channels.contains(place)
                || part != Part::Path && self.payouts.contains(&output.script_pubkey)
        };
        Some(Packaged {
            part,
            name,
            txid: session.txid,
            input: session.outpoint,
            fee: session.prevout.value.checked_sub(paid).unwrap_or(Amount::ZERO),
            input_depth: depth.max(1),
            from_block: (locked > 0).then(|| locked.saturating_add(1)),
            anchor: outputs().find(|(_, out)| out.script_pubkey == anchor_script()).map(|(place, _)| place),
            pays: outputs().filter(is_own).map(|(place, _)| place).collect(),
            tx,
        })
    }
}

/// Scripts that only this client can spend from, of those that a factory pays.
fn own_payouts(factory: &Factory) -> Vec<ScriptBuf> {
    let Role::Client { index, .. } = factory.current.role else { return vec![] };
    let proposal = factory.current.proposal.as_deref().and_then(|proposal| proposal.client(index));
    let close = factory.current.close.as_deref().and_then(|close| close.share(index));
    proposal
        .map(|(_, payout)| payout.clone())
        .into_iter()
        .chain(close.map(|share| share.script.clone()))
        .collect()
}
