//! An exit package: every finished transaction that a member holds, and what each waits for, so that anybody can
//! publish them without this plugin and without its node. No key is in it (S19).
//!
//! What is published in which order follows from the inputs alone: a transaction may be sent once its input is on
//! chain and its timelocks allow it (BIP 65, BIP 68).

use std::collections::BTreeSet;

use bitcoin::{Transaction, TxOut};

use crate::chain::sales;
use crate::io::Refusal;
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
    /// It pays the clients what their channels can hold, from the timeout on, if nothing else has spent its
    /// input; in a package without a path also what leads to that, where a coin has no distribution.
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
    /// The lowest block that it may be in (nLockTime, BIP 65), or should be in, if there is one.
    pub from_block: Option<Height>,
    /// The height at which it has to be sent at the latest, where something is lost by waiting longer: the
    /// factory's `confirm_blocks` are left then for it to confirm. Of a path: when it has to be begun.
    pub publish_by: Option<Height>,
    /// Its anchor, which anybody may spend to raise its fee.
    pub anchor: Option<OutPoint>,
    /// The output that is this member's: a channel's funding output, or its payout.
    pub pays: Vec<OutPoint>,
}

/// Why a client's path isn't in its package, if it isn't: its leaf would be locked up with the operator, while
/// the distribution pays it alone from the timeout on (S39). [`exit_allowed`](super::exit_allowed) asks this too.
pub fn path_left_out(factory: &Factory) -> Option<Refusal> {
    let Role::Client { index, .. } = factory.current.role else { return None };
    let (instance, timeout) = (factory.instance, factory.current.terms.timeout_height);
    if factory.has_lost_channels() {
        return Some(Refusal::ChannelsLost { instance, timeout });
    }
    // S33: that it was checked may be in a record that isn't understood.
    let has_none = factory.damage().is_none() && !factory.current.checked.contains(&index);
    has_none.then_some(Refusal::NoChannelToExit { instance, timeout })
}

/// Everything that a member has of a factory, parents before children: not a path that it must not publish
/// ([`path_left_out`]), and nothing of what has been handed over.
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
    let left_out = path_left_out(factory).is_some();
    let path = nodes.into_iter().filter_map(|coin| {
        let node = of_tree(Part::Path, coin, SpendRole::State)?;
        if !left_out {
            return Some(Packaged { publish_by: path_by(factory, coin), ..node });
        }
        // S19: nothing else leads to the distributions below a coin that has none.
        let has_none = !layout.coin(coin).is_some_and(|coin| coin.has_distribution);
        let from_block = Some(factory.current.terms.timeout_height.saturating_add(1));
        has_none.then_some(Packaged { part: Part::Distribution, from_block, ..node })
    });
    let last =
        coins.into_iter().filter_map(|coin| of_tree(Part::Distribution, coin, SpendRole::Distribution));
    let sold = sales::wanted_sales(factory).filter_map(|sold| {
        let session = sold.sale.sessions.first()?;
        let sale = own.packaged(Part::Sale, sales::name(sold), session, sold.signed_sale()?)?;
        Some(Packaged { publish_by: sale_by(factory, session), ..sale })
    });
    let rests = sales::wanted_sales(factory).filter_map(|sold| {
        let name = format!("distribution after {}", sales::name(sold));
        own.packaged(Part::Distribution, name, sold.sale.sessions.get(1)?, sold.signed_distribution()?)
    });
    let rests = rests.filter(|_| factory.current.role != Role::Lsp);
    let close = factory.current.close.as_deref().and_then(|close| {
        let name = "cooperative close".to_owned();
        let close = own.packaged(Part::Close, name, &close.session, close.signed_tx()?)?;
        Some(Packaged { publish_by: close_by(factory), ..close })
    });
    path.chain(sold).chain(close).chain(last).chain(rests).collect()
}

/// When the path over this node has to be begun: distributions know nothing of sales (S19), and pay L nothing
/// (S21). A client that has bought nothing loses nothing by waiting for them.
fn path_by(factory: &Factory, node: CoinIndex) -> Option<Height> {
    match factory.current.role {
        Role::Client { index, .. } => {
            let bought = factory.own_sales().filter(|sold| sold.is_signed());
            let last = bought.map(|sold| sold.sale.number).max()?;
            let early = u32::from(factory.sale_blocks_early(index, last));
            Some(factory.current.terms.timeout_height.saturating_sub(early))
        }
        Role::Lsp => {
            let clients = factory.current.layout.coin(node)?.clients.clone();
            let inside = clients.filter(|client| !factory.has_handed_over(*client));
            inside.map(|client| factory.eviction_height(client)).min()
        }
    }
}

/// When a client's sale has to be sent, once what it spends is on chain: L alone may take that after a while
/// (S26), and a distribution from the timeout on.
fn sale_by(factory: &Factory, sale: &Session) -> Option<Height> {
    let terms = &factory.current.terms;
    let since = factory.confirmed.get(&sale.outpoint.txid).filter(|_| factory.current.role != Role::Lsp)?;
    // The first block that may have another's.
    let theirs = since.saturating_add(terms.stock_csv.into()).min(terms.timeout_height.saturating_add(1));
    Some(theirs.saturating_sub(1).saturating_sub(terms.confirm_blocks.into()))
}

/// When L has to send a close: from the timeout on distributions pay it nothing, and each client at least as
/// much as the close.
fn close_by(factory: &Factory) -> Option<Height> {
    let terms = &factory.current.terms;
    let by = terms.timeout_height.saturating_sub(terms.confirm_blocks.into());
    (factory.current.role == Role::Lsp).then_some(by)
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
            publish_by: None,
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
