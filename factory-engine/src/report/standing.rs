//! What the chain's transactions mean: which one of the factory each is, who can have published it,
//! and how this member stands because of it.

use std::ops::Range;

use crate::record::attempt::Role;
use crate::record::factory::{Factory, open_stock, own_clients, path_nodes};
use crate::record::state::State;
use crate::terms::ClientIndex;
use crate::tx::layout::{Role as SpendRole, SessionId};
use crate::types::{Height, OutPoint, Txid};

/// How this member stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// Nothing but the funding is on chain.
    Safe,
    /// Part of the tree is on chain; the channels go on, nothing new is agreed there (S24).
    PartlyExited,
    /// This node takes channels on chain, or clients' leaves.
    Leaving,
    /// The timeout is here, and something of ours is still in.
    MustExit,
    /// Our leaves are on chain: channels like any others.
    Out,
    /// A distribution has paid.
    PaidOut,
    /// Everything is settled.
    Closed,
}

impl Standing {
    /// Its name in commands.
    pub fn name(self) -> &'static str {
        match self {
            Standing::Safe => "safe",
            Standing::PartlyExited => "partly_exited",
            Standing::Leaving => "leaving",
            Standing::MustExit => "must_exit",
            Standing::Out => "out",
            Standing::PaidOut => "paid_out",
            Standing::Closed => "closed",
        }
    }

    /// For people.
    pub fn words(self) -> &'static str {
        match self {
            Standing::Safe => "nothing but the funding is on chain",
            Standing::PartlyExited => "part of the tree is on chain: channels go on, sales there end",
            Standing::Leaving => "on the way out",
            Standing::MustExit => "the timeout is here: what is still in has to come out now",
            Standing::Out => "the leaf is on chain: the channel stands by itself",
            Standing::PaidOut => "a distribution has paid the clients",
            Standing::Closed => "everything is settled",
        }
    }
}

/// One transaction of the factory on chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sighting {
    /// Which.
    pub txid: Txid,
    /// Where.
    pub height: Height,
    /// For people: "static transaction 2".
    pub name: String,
    /// Whether this node publishes it, or would have.
    pub ours: bool,
    /// Clients that hold it signed, besides L: nobody else can have published it. Nothing: L alone.
    pub holders: Option<Range<ClientIndex>>,
}

impl Sighting {
    /// Who can have published it, for people.
    pub fn holders(&self) -> String {
        match &self.holders {
            None => "the operator alone".into(),
            Some(clients) if clients.len() == 1 => format!("the operator and client {}", clients.start),
            Some(clients) => {
                format!("the operator and clients {} to {}", clients.start, clients.end.saturating_sub(1))
            }
        }
    }
}

/// What was seen when a transaction with these inputs confirmed.
pub(crate) fn sighting(factory: &Factory, txid: Txid, height: Height, spends: &[OutPoint]) -> Sighting {
    let is_funding = factory.funding().is_some_and(|funding| funding.txid == txid);
    let session = spends.iter().find_map(|outpoint| factory.session_of(*outpoint, txid));
    let coin_of = |outpoint: &OutPoint| {
        let sales = factory.current.sales.all().flat_map(|sold| &sold.sale.sessions);
        let sessions = factory.current.tree.as_ref()?.sessions().iter().chain(sales);
        let id = sessions.filter(|session| session.outpoint == *outpoint).map(|session| session.id).next()?;
        Some(id.coin)
    };
    let coin = spends.iter().find_map(coin_of);
    let clients = coin.and_then(|coin| factory.current.layout.coin(coin)).map(|coin| coin.clients.clone());
    let stock = coin.and_then(|coin| factory.current.layout.coin(coin)).is_some_and(|coin| coin.stock);
    let (name, ours, holders) = match (session, coin) {
        _ if is_funding => ("the funding transaction".into(), factory.current.role == Role::Lsp, None),
        (Some(id), _) => {
            (crate::record::factory::session_name(factory, id), publishes(factory, id, height), clients)
        }
        (None, Some(coin)) if stock => (
            format!("the operator's own spend of stock coin {coin}"),
            factory.current.role == Role::Lsp,
            None,
        ),
        (None, Some(coin)) => (format!("a spend of coin {coin} that we hold no copy of"), false, clients),
        (None, None) => ("a spend of the funding's inputs that is not the factory's".into(), false, None),
    };
    Sighting { txid, height, name, ours, holders }
}

/// Whether this node publishes a transaction of the factory at a height.
fn publishes(factory: &Factory, id: SessionId, height: Height) -> bool {
    match id.role {
        SpendRole::State => path_nodes(factory).contains(&id.coin),
        SpendRole::Distribution => {
            factory.current.role != Role::Lsp && height >= factory.current.terms.timeout_height
        }
        SpendRole::Sale => factory.current.role == Role::Lsp || factory.own_sales().next().is_some(),
        SpendRole::Poison | SpendRole::Close => false,
    }
}

/// Every transaction of the factory on chain, in the order of heights.
pub fn sightings(factory: &Factory) -> Vec<Sighting> {
    let of = |(txid, height): (&Txid, &Height)| {
        let spends: Vec<OutPoint> =
            factory.spent.iter().filter(|(_, by)| *by == txid).map(|(outpoint, _)| *outpoint).collect();
        sighting(factory, *txid, *height, &spends)
    };
    let mut all: Vec<Sighting> = factory.confirmed.iter().map(of).collect();
    all.sort_by_key(|seen| seen.height);
    all
}

/// How this member stands at a height; nothing while there is no funding on chain.
pub fn standing(factory: &Factory, height: Height) -> Option<Standing> {
    factory.funding_height()?;
    let spent = factory.funding().is_some_and(|funding| factory.spent.contains_key(&funding));
    Some(match factory.state(height) {
        State::Closed => Standing::Closed,
        State::Distributed => Standing::PaidOut,
        State::Exited => Standing::Out,
        _ if factory.next_eviction().is_some_and(|at| factory.current.role == Role::Lsp && height >= at) => {
            Standing::MustExit
        }
        _ if factory.current.role != Role::Lsp && height >= factory.current.terms.timeout_height => {
            Standing::MustExit
        }
        State::Exiting => Standing::Leaving,
        _ if !factory.current.exiting.is_empty() || !factory.current.evicting.is_empty() => Standing::Leaving,
        _ if spent => Standing::PartlyExited,
        _ => Standing::Safe,
    })
}

impl Factory {
    /// What happens next, and who has to do it: for people.
    pub fn next_action(&self, height: Height) -> String {
        match self.state(height) {
            State::Invited => "accept or decline: factory-accept, factory-decline".into(),
            State::Joining => "members send their keys and nonces".into(),
            State::Signing => "members send their partial signatures".into(),
            State::Storing => "members store the finished signatures".into(),
            State::Opening => "lightningd commits the channels, clients check them".into(),
            State::Funding => match self.funding_height() {
                None => "wait for the funding transaction to confirm".into(),
                Some(funded) => format!(
                    "channels become usable at height {}",
                    funded
                        .saturating_add(u32::from(self.current.terms.funding_confirmations))
                        .saturating_sub(1)
                ),
            },
            State::Active | State::Dying if self.current.role == Role::Lsp => match self.next_eviction() {
                Some(at) => format!("from height {at} on this node evicts whoever is still in, by itself"),
                None => "this node publishes what is left of the tree".into(),
            },
            State::Active if self.is_partly_exited() => {
                "part of the tree is on chain; the channel goes on, nothing has to be done".into()
            }
            State::Active => format!(
                "nothing to do before the dying period at height {}",
                self.current.terms.timeout_height.saturating_sub(self.current.terms.dying_blocks)
            ),
            State::Dying if height >= self.current.terms.timeout_height => {
                "this node publishes the distribution, which pays its whole capacity".into()
            }
            State::Dying => {
                format!("move out before height {}: factory-exit, or let the operator do it", self.safe_end())
            }
            State::Exiting => {
                "this node publishes its path; each transaction waits for the one before".into()
            }
            State::Exited if self.next_stock().is_some() => {
                format!("this node takes its stock from height {} on", self.next_stock().unwrap_or(height))
            }
            State::Exited if self.current.exit.is_some() => "lightningd closes the channel on chain".into(),
            State::Exited => "nothing: the channel stands on chain by itself and goes on".into(),
            State::Distributed => "nothing: the distribution transaction has paid".into(),
            State::Closed => "nothing: every channel of this node is settled on chain".into(),
            State::Declined => "nothing".into(),
            State::Aborted => "nothing; kept until its funding can never confirm".into(),
        }
    }

    /// The height by which the next action has to be done, where there is one.
    pub fn deadline(&self, height: Height) -> Option<Height> {
        let timeout = Some(self.current.terms.timeout_height);
        match (self.state(height), self.current.role) {
            (State::Active | State::Dying, Role::Lsp) => self.next_eviction(),
            (State::Dying | State::Exiting, _) => timeout,
            (State::Exited, Role::Lsp) if open_stock(self).next().is_some() => timeout,
            _ => None,
        }
    }

    /// What L has still to take home.
    pub(crate) fn next_stock(&self) -> Option<Height> {
        if self.current.role != Role::Lsp {
            return None;
        }
        open_stock(self).map(|stock| stock.matures).min()
    }

    /// Whether part of this node's tree is on chain while it goes on (S24).
    pub(crate) fn is_partly_exited(&self) -> bool {
        let spent = self.funding().is_some_and(|funding| self.spent.contains_key(&funding));
        spent && own_clients(self).any(|client| self.leaf_height(client).is_none())
    }
}
