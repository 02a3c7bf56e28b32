//! Where the funding went, to the satoshi: the sum of a statement's lines is the funding output.

use std::collections::BTreeMap;
use std::fmt;

use bitcoin::TxOut;

use crate::record::factory::{Factory, session_name};
use crate::terms::ClientIndex;
use crate::tx::layout::{CoinIndex, Output, SessionId, SpendRole};
use crate::tx::scripts::anchor_script;
use crate::tx::tree::Session;
use crate::types::{Amount, OutPoint, Txid};

/// What a part of the funding became.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Purpose {
    /// A client's channel: from here on lightningd's.
    Channel(ClientIndex),
    /// A distribution's output to a client.
    Payout(ClientIndex),
    /// Stock that L took home.
    Stock(CoinIndex),
    /// What L has taken back with everybody's keys (S38), to its wallet or into another factory's funding.
    Reclaimed,
    /// What a close has paid: this client, or somebody whose share this node doesn't know, or L.
    Closed(Option<ClientIndex>),
    /// An anchor of a transaction of the factory; whoever raises its fee may have spent it since.
    Anchor,
    /// To miners, for this transaction.
    Fee(String),
    /// A coin that nobody has spent.
    Unspent(CoinIndex),
    /// A coin that this node has no part in: its members' business.
    Others(CoinIndex),
    /// A coin that was spent by a transaction that is not of the factory.
    Elsewhere(CoinIndex),
}

impl Purpose {
    /// Its name in RPC.
    pub fn name(&self) -> &'static str {
        match self {
            Purpose::Channel(_) => "channel",
            Purpose::Payout(_) => "distribution",
            Purpose::Stock(_) => "stock",
            Purpose::Reclaimed => "reclaimed",
            Purpose::Closed(_) => "close",
            Purpose::Anchor => "anchor",
            Purpose::Fee(_) => "fee",
            Purpose::Unspent(_) => "unspent",
            Purpose::Others(_) => "others",
            Purpose::Elsewhere(_) => "elsewhere",
        }
    }

    /// Whether nothing more becomes of it in the factory.
    pub fn is_final(&self) -> bool {
        !matches!(self, Purpose::Unspent(_) | Purpose::Others(_))
    }
}

/// One line of a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// What this part of the funding became.
    pub purpose: Purpose,
    /// The transaction that pays it.
    pub txid: Txid,
    /// The output; nothing for a fee, and for what transactions of others did.
    pub vout: Option<u32>,
    /// Value of the output, or the fee.
    pub amount: Amount,
}

/// Why an account doesn't add up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccountProblem {
    /// The factory has no transactions.
    NoTree,
    /// This transaction's outputs are worth more than what it spends.
    PaysMore(Txid),
    /// An output that is nothing that the terms know.
    Output {
        /// Index of the output in its transaction.
        vout: u32,
        /// Of which transaction: "state transaction 2".
        of: String,
    },
    /// The lines are not the funding together.
    Sum {
        /// What they make; nothing if that is more money than there is.
        sum: Option<Amount>,
        /// Value of the funding output.
        funding: Amount,
    },
}

impl fmt::Display for AccountProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoTree => f.write_str("there is no tree"),
            Self::PaysMore(txid) => write!(f, "{txid} pays more than it spends"),
            Self::Output { vout, of } => write!(f, "output {vout} of {of} is nothing that we know"),
            Self::Sum { sum: Some(sum), funding } => {
                write!(f, "its lines make {sum}, the funding is {funding}")
            }
            Self::Sum { sum: None, funding } => {
                write!(f, "its lines make too much, the funding is {funding}")
            }
        }
    }
}

impl std::error::Error for AccountProblem {}

/// Where the funding output's money is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    /// Value of the funding output.
    pub funding: Amount,
    /// What became of it, from the root on.
    pub lines: Vec<Line>,
    /// Why it doesn't add up, if so: that must not happen.
    pub problem: Option<AccountProblem>,
}

impl Statement {
    /// All lines together; nothing if that is more money than there is.
    pub fn sum(&self) -> Option<Amount> {
        self.total(|_| true)
    }

    /// Sum of the lines whose purpose `which` picks; nothing if that is more money than there is.
    pub fn total(&self, which: impl Fn(&Purpose) -> bool) -> Option<Amount> {
        let lines = self.lines.iter().filter(|line| which(&line.purpose));
        lines.map(|line| line.amount).try_fold(Amount::ZERO, Amount::checked_add)
    }

    /// Whether nothing more can come.
    pub fn is_final(&self) -> bool {
        self.problem.is_none() && self.lines.iter().all(|line| line.purpose.is_final())
    }

    fn push(&mut self, purpose: Purpose, txid: Txid, vout: Option<u32>, amount: Amount) {
        self.lines.push(Line { purpose, txid, vout, amount });
    }
}

/// The account of a factory whose funding is on chain.
pub fn statement(factory: &Factory) -> Option<Statement> {
    factory.funding_height()?;
    let proposal = factory.current.proposal.as_ref()?;
    let funded = proposal.funding_tx.output.get(usize::try_from(proposal.funding_vout).ok()?)?;
    let mut statement = Statement { funding: funded.value, lines: vec![], problem: None };
    let mut open: Vec<(CoinIndex, OutPoint, Amount)> = vec![(0, factory.funding()?, funded.value)];
    let mut reclaims: BTreeMap<Txid, Amount> = BTreeMap::new();
    while let Some((coin, outpoint, value)) = open.pop() {
        let reclaim = reclaim_of(factory, coin, outpoint);
        let followed = match reclaim {
            Some(txid) => add(reclaims.entry(txid).or_default(), value).ok_or(AccountProblem::PaysMore(txid)),
            None => follow(factory, &mut statement, &mut open, (coin, outpoint, value)),
        };
        if let Err(why) = followed {
            statement.problem.get_or_insert(why);
        }
    }
    for (txid, value) in reclaims {
        if let Err(why) = taken_back(factory, &mut statement, txid, value) {
            statement.problem.get_or_insert(why);
        }
    }
    if statement.problem.is_none() && statement.sum() != Some(statement.funding) {
        let (sum, funding) = (statement.sum(), statement.funding);
        statement.problem = Some(AccountProblem::Sum { sum, funding });
    }
    Some(statement)
}

fn add(sum: &mut Amount, more: Amount) -> Option<()> {
    *sum = sum.checked_add(more)?;
    Some(())
}

/// The transaction by which L has taken a coin back, if it has.
fn reclaim_of(factory: &Factory, coin: CoinIndex, outpoint: OutPoint) -> Option<Txid> {
    let txid = factory.spent.get(&outpoint).copied().filter(|_| factory.may_be_reclaimed(coin))?;
    factory.spend_of(outpoint, txid).is_none().then_some(txid)
}

/// What one transaction has taken back, of all coins that it spends.
fn taken_back(
    factory: &Factory,
    statement: &mut Statement,
    txid: Txid,
    value: Amount,
) -> Result<(), AccountProblem> {
    // As in `foreign`: a funding that takes a factory back has other inputs.
    let pays = factory.pays.get(&txid).copied().unwrap_or(value);
    let fee = value.checked_sub(pays).ok_or(AccountProblem::PaysMore(txid))?;
    statement.push(Purpose::Reclaimed, txid, None, pays);
    if fee > Amount::ZERO {
        statement.push(Purpose::Fee("reclaim".to_owned()), txid, None, fee);
    }
    Ok(())
}

/// What became of one coin.
fn follow(
    factory: &Factory,
    statement: &mut Statement,
    open: &mut Vec<(CoinIndex, OutPoint, Amount)>,
    (coin, outpoint, value): (CoinIndex, OutPoint, Amount),
) -> Result<(), AccountProblem> {
    let tree = factory.current.tree.as_ref().ok_or(AccountProblem::NoTree)?;
    let Some(txid) = factory.spent.get(&outpoint).copied() else {
        let ours = tree.key_agg(coin).is_some();
        let purpose = if ours { Purpose::Unspent(coin) } else { Purpose::Others(coin) };
        statement.push(purpose, outpoint.txid, Some(outpoint.vout), value);
        return Ok(());
    };
    let Some(session) = factory.spend_of(outpoint, txid) else {
        return foreign(factory, statement, coin, (txid, value));
    };
    let mut left = value;
    for (vout, output) in (0..).zip(&session.tx.output) {
        left = left.checked_sub(output.value).ok_or(AccountProblem::PaysMore(txid))?;
        let place = OutPoint { txid, vout };
        let (purpose, amount) = match what(factory, session, vout, output)? {
            Part::Coin(child) => {
                open.push((child, place, output.value));
                continue;
            }
            Part::Final(purpose) => (purpose, output.value),
        };
        statement.push(purpose, txid, Some(vout), amount);
    }
    statement.push(Purpose::Fee(session_name(factory, session.id)), txid, None, left);
    Ok(())
}

/// A coin that was spent by a transaction that we don't hold: L's own, where it is stock.
fn foreign(
    factory: &Factory,
    statement: &mut Statement,
    coin: CoinIndex,
    (txid, value): (Txid, Amount),
) -> Result<(), AccountProblem> {
    let stock = factory.current.layout.coin(coin).is_some_and(|coin| coin.stock);
    let purpose = if stock { Purpose::Stock(coin) } else { Purpose::Elsewhere(coin) };
    // With other inputs beside it nobody can say which of them paid what.
    let pays = factory.pays.get(&txid).copied().unwrap_or(value);
    let fee = value.checked_sub(pays).ok_or(AccountProblem::PaysMore(txid))?;
    statement.push(purpose, txid, None, pays);
    if fee > Amount::ZERO {
        statement.push(Purpose::Fee(format!("spend of coin {coin}")), txid, None, fee);
    }
    Ok(())
}

enum Part {
    Coin(CoinIndex),
    Final(Purpose),
}

/// What an output of a transaction of the factory is.
fn what(factory: &Factory, session: &Session, vout: u32, output: &TxOut) -> Result<Part, AccountProblem> {
    let SessionId { coin, role } = session.id;
    if output.script_pubkey == anchor_script() {
        return Ok(Part::Final(Purpose::Anchor));
    }
    let unknown = || AccountProblem::Output { vout, of: session_name(factory, session.id) };
    let place = usize::try_from(vout).map_err(|_| unknown())?;
    if role == SpendRole::Distribution {
        // Of a stock output that was sold out of, the rest.
        let paid = match factory.current.layout.coin(coin).is_some_and(|coin| coin.stock) {
            true => factory.current.layout.stock_payouts(coin, session.prevout.value),
            false => factory.current.layout.distribution_outputs(coin),
        };
        let (client, _) = paid.get(place).copied().ok_or_else(unknown)?;
        return Ok(Part::Final(Purpose::Payout(client)));
    }
    if role == SpendRole::Close {
        let close = factory.current.close.as_ref().ok_or_else(unknown)?;
        return Ok(Part::Final(Purpose::Closed(close.owner(&output.script_pubkey))));
    }
    if role == SpendRole::Sale {
        let sold = factory.current.sales.of(coin).iter().find(|sold| sold.txid() == session.txid);
        let buyer = sold.map(|sold| sold.sale.buyer).ok_or_else(unknown)?;
        return Ok(if vout == 0 { Part::Final(Purpose::Channel(buyer)) } else { Part::Coin(coin) });
    }
    let node = factory.current.layout.node(coin).ok_or_else(unknown)?;
    match node.outputs.get(place) {
        Some(Output::Child(child) | Output::Stock(child)) => Ok(Part::Coin(*child)),
        Some(Output::Channel(client)) => Ok(Part::Final(Purpose::Channel(*client))),
        Some(Output::Anchor) | None => Err(unknown()),
    }
}
