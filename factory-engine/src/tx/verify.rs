//! Finished transactions against real consensus code, and against the layout.
//!
//! Scripts and signatures are judged by Bitcoin Core's own interpreter; amounts, timelocks and
//! connections by plain code here that reads the transactions and compares them with the layout.

#[cfg(not(modelled_signatures))]
mod consensus;
#[cfg(modelled_signatures)]
#[path = "verify/modelled.rs"]
mod consensus;

use std::collections::BTreeMap;
use std::fmt;

use bitcoin::{OutPoint, Transaction, TxOut};

use crate::terms::ClientIndex;

use super::layout::{CoinIndex, Layout, NodeKind, Output, SessionId, SpendRole};
use super::sale::Sale;
use super::scripts::{ANCHOR_VALUE, anchor_script};
use super::tree::{Scope, Tree};

pub use consensus::{ConsensusError, verify_inputs};

/// Checks the only input of a finished transaction. Timelocks against the chain and amounts aren't
/// scripts: not here.
pub fn verify_input(tx: &Transaction, prevout: &TxOut) -> Result<(), ConsensusError> {
    verify_inputs(tx, std::slice::from_ref(prevout)).map_err(|(_, error)| error)
}

/// What a party holds, all of it good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Report {
    /// Transactions of the tree that are signed and valid.
    pub nodes: u32,
    /// Distributions that are signed and valid.
    pub distributions: u32,
    /// Channels whose funding output the transactions lead to.
    pub channels: u32,
}

/// Something that a party can't rely on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// The tree has no such session.
    NotBuilt(SessionId),
    /// No finished signature is stored.
    NoSignature(SessionId),
    /// The signed transaction isn't valid.
    Invalid(SessionId, ConsensusError),
    /// The transaction isn't the layout's.
    Wrong(SessionId, Rule),
    /// No transaction funds this client's channel with its capacity.
    Channel(ClientIndex),
    /// A sale of this number is no good.
    Sale(u32, Box<Problem>),
}

/// Which rule a transaction breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// Version 3, or 2 for a large distribution.
    Version,
    /// One input, without scriptSig, that spends the coin.
    Input,
    /// The coin is the output of the transaction before it, with the layout's value.
    Prevout,
    /// nSequence as the layout has it.
    Sequence,
    /// nLockTime: 0, or the timeout for a distribution.
    LockTime,
    /// The layout's outputs and values, then the anchor.
    Outputs,
    /// Outputs and fee make up what is spent.
    Fee,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Version => "its version is another",
            Self::Input => "it has another input than the coin",
            Self::Prevout => "the coin is not an output of the transaction before it, or of another value",
            Self::Sequence => "its nSequence is another",
            Self::LockTime => "its nLockTime is another",
            Self::Outputs => "its outputs are others",
            Self::Fee => "its fee is another",
        })
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotBuilt(id) => write!(f, "{id} can't be rebuilt"),
            Self::NoSignature(id) => write!(f, "{id} has no finished signature"),
            Self::Invalid(id, error) => write!(f, "{id}: {error}"),
            Self::Wrong(id, rule) => write!(f, "{id} breaks the terms: {rule}"),
            Self::Channel(client) => {
                write!(f, "no transaction funds client {client}'s channel with its capacity")
            }
            Self::Sale(number, problem) => write!(f, "sale {number}: {problem}"),
        }
    }
}

/// Checks everything that a party holds as if everybody else had vanished: every transaction of its
/// scope is there, its signature valid by consensus code, amounts and timelocks are the layout's, and
/// the chain leads from the funding outpoint to the channel (S11, S19). All problems, not the first.
pub fn verify_holdings(
    layout: &Layout,
    tree: &Tree,
    signatures: &BTreeMap<SessionId, [u8; 64]>,
) -> Result<Report, Vec<Problem>> {
    let mut report = Report::default();
    let mut problems = Vec::new();
    let (who, channels) = match tree.scope() {
        Scope::All => (None, 0..layout.terms().clients()),
        Scope::Client(client) => (Some(client), client..client.saturating_add(1)),
    };
    for id in layout.sessions(who) {
        match check_session(layout, tree, id, signatures) {
            Ok(()) if id.role == SpendRole::State => report.nodes = report.nodes.saturating_add(1),
            Ok(()) => report.distributions = report.distributions.saturating_add(1),
            Err(problem) => problems.push(problem),
        }
    }
    for client in channels {
        if channel_is_funded(layout, tree, client) {
            report.channels = report.channels.saturating_add(1);
        } else {
            problems.push(Problem::Channel(client));
        }
    }
    if problems.is_empty() { Ok(report) } else { Err(problems) }
}

/// Checks sales of stock that a party's channels rest on, with their signatures, those of one stock in their
/// order: each spends what the one before it has left, the first what the leaf has, and consensus code takes them
/// (S19). Their number; or all problems.
pub fn verify_sales<'s>(
    layout: &Layout,
    tree: &Tree,
    sales: impl IntoIterator<Item = (&'s Sale, &'s [[u8; 64]])>,
) -> Result<u32, Vec<Problem>> {
    let mut stocks: BTreeMap<CoinIndex, Option<OutPoint>> = BTreeMap::new();
    let (mut good, mut problems) = (0u32, Vec::new());
    for (sale, signatures) in sales {
        let Some(first) = sale.sessions.first() else { continue };
        let stock = stocks
            .entry(first.id.coin)
            .or_insert_with(|| source(layout, tree, first.id.coin).map(|(outpoint, _)| outpoint));
        let found = check_sale(sale, signatures, *stock);
        *stock = sale.rest.map(|rest| rest.outpoint);
        match found {
            Ok(()) => good = good.saturating_add(1),
            Err(problem) => problems.push(Problem::Sale(sale.number, Box::new(problem))),
        }
    }
    if problems.is_empty() { Ok(good) } else { Err(problems) }
}

fn check_sale(sale: &Sale, signatures: &[[u8; 64]], stock: Option<OutPoint>) -> Result<(), Problem> {
    let mut spends = stock;
    for (place, session) in sale.sessions.iter().enumerate() {
        let id = session.id;
        let mut tx = session.tx.clone();
        let [input] = tx.input.as_mut_slice() else { return Err(Problem::Wrong(id, Rule::Input)) };
        if spends != Some(input.previous_output) {
            return Err(Problem::Wrong(id, Rule::Input));
        }
        input.witness.push(signatures.get(place).ok_or(Problem::NoSignature(id))?);
        verify_input(&tx, &session.prevout).map_err(|error| Problem::Invalid(id, error))?;
        spends = sale.rest.map(|rest| rest.outpoint);
    }
    Ok(())
}

fn check_session(
    layout: &Layout,
    tree: &Tree,
    id: SessionId,
    signatures: &BTreeMap<SessionId, [u8; 64]>,
) -> Result<(), Problem> {
    let session = tree.session(id).ok_or(Problem::NotBuilt(id))?;
    let signature = signatures.get(&id).ok_or(Problem::NoSignature(id))?;
    let tx = tree.signed(id, signature).ok_or(Problem::NotBuilt(id))?;
    check_terms(layout, tree, id, &tx, &session.prevout).map_err(|rule| Problem::Wrong(id, rule))?;
    verify_input(&tx, &session.prevout).map_err(|error| Problem::Invalid(id, error))
}

/// Compares one transaction with the layout.
fn check_terms(
    layout: &Layout,
    tree: &Tree,
    id: SessionId,
    tx: &Transaction,
    prevout: &TxOut,
) -> Result<(), Rule> {
    let coin = layout.coin(id.coin).ok_or(Rule::Prevout)?;
    let [input] = tx.input.as_slice() else {
        return Err(Rule::Input);
    };
    let (outpoint, output) = source(layout, tree, id.coin).ok_or(Rule::Prevout)?;
    if input.previous_output != outpoint || !input.script_sig.is_empty() {
        return Err(Rule::Input);
    }
    if prevout.value != coin.value || output.is_some_and(|output| output != prevout) {
        return Err(Rule::Prevout);
    }
    let (version, lock_time, sequence, values) = match id.role {
        SpendRole::State => {
            let node = layout.node(id.coin).ok_or(Rule::Outputs)?;
            let terms = layout.terms();
            let sequence = match node.kind {
                NodeKind::State => terms
                    .state_count
                    .checked_sub(1)
                    .and_then(|last| u32::from(terms.state_step).checked_mul(u32::from(last)))
                    .ok_or(Rule::Sequence)?,
                NodeKind::Static | NodeKind::Kickoff => 0xffff_fffd,
            };
            (3, 0, sequence, node.output_values.clone())
        }
        SpendRole::Sale | SpendRole::Distribution | SpendRole::Poison | SpendRole::Close => {
            let mut values: Vec<_> =
                layout.distribution_outputs(id.coin).iter().map(|(_, value)| *value).collect();
            values.push(ANCHOR_VALUE);
            (coin.distribution_version, layout.terms().timeout_height, 0xffff_fffd, values)
        }
    };
    let paid = tx.output.iter().map(|output| output.value);
    if tx.version.0 != version {
        return Err(Rule::Version);
    }
    if input.sequence.to_consensus_u32() != sequence {
        return Err(Rule::Sequence);
    }
    if tx.lock_time.to_consensus_u32() != lock_time {
        return Err(Rule::LockTime);
    }
    let anchored = tx.output.last().is_some_and(|last| last.script_pubkey == anchor_script());
    if !anchored || !paid.clone().eq(values) {
        return Err(Rule::Outputs);
    }
    let fee = paid.into_iter().try_fold(prevout.value, |left, value| left.checked_sub(value));
    let expected = match id.role {
        SpendRole::State => layout.node(id.coin).map(|node| node.fee),
        SpendRole::Sale | SpendRole::Distribution | SpendRole::Poison | SpendRole::Close => {
            layout.distribution_fee(id.coin)
        }
    };
    if fee.is_none() || fee != expected { Err(Rule::Fee) } else { Ok(()) }
}

/// Where a coin is, from the transaction that makes it; that output too unless it is the funding.
fn source<'t>(layout: &Layout, tree: &'t Tree, coin: CoinIndex) -> Option<(OutPoint, Option<&'t TxOut>)> {
    let Some((node, vout)) = layout.coin(coin)?.source else {
        return Some((tree.funding(), None));
    };
    let tx = tree.node_tx(node)?;
    let output = tx.output.get(usize::try_from(vout).ok()?)?;
    Some((OutPoint { txid: tx.compute_txid(), vout }, Some(output)))
}

fn channel_is_funded(layout: &Layout, tree: &Tree, client: ClientIndex) -> bool {
    let funded = || {
        let (node, vout) = layout.channel_place(client)?;
        let tx = tree.node_tx(node)?;
        let place = usize::try_from(vout).ok()?;
        let output = tx.output.get(place)?;
        let capacity = layout.terms().capacities.get(usize::try_from(client).ok()?)?;
        let listed = layout.node(node)?.outputs.get(place)?;
        Some(
            *listed == Output::Channel(client)
                && output.value == *capacity
                && output.script_pubkey.is_p2wsh()
                && tree.channel_outpoint(client) == Some(OutPoint { txid: tx.compute_txid(), vout }),
        )
    };
    funded().unwrap_or(false)
}
