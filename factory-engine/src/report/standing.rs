//! What the chain's transactions mean: which one of the factory each is, who can have published it,
//! and how this member stands because of it.

use std::fmt;
use std::ops::Range;

use crate::record::attempt::Role;
use crate::record::close::CLOSE_BLOCKS;
use crate::record::ended::Ended;
use crate::record::factory::{Factory, open_stock, own_clients, wanted_nodes};
use crate::record::state::State;
use crate::terms::ClientIndex;
use crate::tx::layout::{SessionId, SpendRole};
use crate::types::{Height, OutPoint, Txid};

/// How this member stands, by what is on chain.
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
    /// A distribution has paid the clients.
    PaidOut,
    /// L has taken back what was handed over.
    Reclaimed,
    /// All members close it together, or have.
    Closing,
    /// This client has handed its key over.
    Left,
    /// Every channel of this node is settled on chain, for good.
    Closed,
}

impl Standing {
    /// Its name in RPC.
    pub fn name(self) -> &'static str {
        match self {
            Standing::Safe => "safe",
            Standing::PartlyExited => "partly_exited",
            Standing::Leaving => "leaving",
            Standing::MustExit => "must_exit",
            Standing::Out => "out",
            Standing::PaidOut => "paid_out",
            Standing::Reclaimed => "reclaimed",
            Standing::Closing => "closing",
            Standing::Left => "left",
            Standing::Closed => "closed",
        }
    }

    /// A sentence for people: what is on chain, and what that means.
    pub fn words(self) -> &'static str {
        match self {
            Standing::Safe => "nothing but the funding is on chain",
            Standing::PartlyExited => "part of the tree is on chain: channels go on, sales there end",
            Standing::Leaving => "on the way out",
            Standing::MustExit => "the timeout is here: what is still in has to come out now",
            Standing::Out => "the leaf is on chain: the channel is lightningd's alone",
            Standing::PaidOut => "a distribution has paid the clients",
            Standing::Closing => "all members close it together: what each has is paid by one transaction",
            Standing::Reclaimed => "the operator has taken it back, with the keys that were handed over",
            Standing::Left => "this node's key is handed over: nothing here is its any more",
            Standing::Closed => "everything is settled",
        }
    }
}

/// What happens next in a factory, and who has to do it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NextAction {
    /// This node accepts its invitation, or declines it.
    Answer,
    /// Members send keys and nonces.
    Join,
    /// Members send partial signatures.
    Sign,
    /// Members store what is signed.
    Store,
    /// Channels are committed and checked.
    Open,
    /// The funding waits for its first confirmation.
    Fund,
    /// The funding waits for the confirmations that the terms ask for.
    Deepen {
        /// Height at which the channels can be used.
        usable: Height,
    },
    /// L evicts whoever is still in (S21).
    Evict {
        /// Height at which it begins.
        from: Height,
    },
    /// L takes back what is all its own again.
    Reclaim {
        /// Height by which that is on its way, if no new factory has taken it by then.
        before: Height,
    },
    /// L publishes the rest of the tree.
    PublishRest,
    /// Nothing, although part of the tree is on chain (S24).
    GoOn,
    /// Nothing before the dying period.
    Wait {
        /// Height at which the dying period begins.
        dying: Height,
    },
    /// This client takes its distribution.
    Distribute,
    /// This client moves out, or is evicted.
    MoveOut {
        /// The last height for that.
        before: Height,
    },
    /// This node publishes its path.
    PublishPath,
    /// L takes its stock home.
    TakeStock {
        /// Height from which it can.
        from: Height,
    },
    /// The channel is closed on chain.
    Close,
    /// L: some channels are closed on chain, the others go on.
    CloseSome {
        /// Channels that are closed.
        closed: usize,
        /// Of how many.
        of: usize,
    },
    /// Client: lightningd has forgotten the channel; the distribution pays it (S34).
    Forgotten {
        /// Height of the timeout.
        timeout: Height,
    },
    /// Nothing: the channel is one like any other.
    Stands,
    /// Nothing: a distribution has paid.
    PaidOut,
    /// Nothing: L has taken everything back, and that is to be buried.
    Reclaimed,
    /// Nothing: the close is on its way, or on chain and to be buried.
    Closing,
    /// The operator finishes the close, or this client leaves by its path.
    FinishClose {
        /// The last height for that.
        before: Height,
    },
    /// Client: its key is on its way to the operator, which has not confirmed it yet (S22).
    Acknowledge,
    /// Client: its key is handed over, until the operator has spent the factory's coin.
    Left,
    /// Nothing: every channel of this node is settled on chain.
    Settled,
    /// Nothing: the invitation was declined.
    Declined,
    /// Nothing: creation failed, and is kept until its funding can't confirm.
    Failed,
}

impl fmt::Display for NextAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Answer => "accept or decline the invitation",
            Self::Join => "members send their keys and nonces",
            Self::Sign => "members send their partial signatures",
            Self::Store => "members store the finished signatures",
            Self::Open => "the operator's node commits the channels, clients check them",
            Self::Fund => "wait for the funding transaction to confirm",
            Self::Deepen { usable } => return write!(f, "channels become usable at height {usable}"),
            Self::Evict { from } => {
                return write!(f, "from height {from} on this node evicts whoever is still in, by itself");
            }
            Self::Reclaim { before } => {
                return write!(
                    f,
                    "everybody has handed over: this node takes it back, into the next factory or alone, before \
                     height {before}"
                );
            }
            Self::PublishRest => "this node publishes what is left of the tree",
            Self::GoOn => "part of the tree is on chain; the channel goes on, nothing has to be done",
            Self::Wait { dying } => {
                return write!(f, "nothing to do before the dying period at height {dying}");
            }
            Self::Distribute => "this node publishes the distribution, which pays its whole capacity",
            Self::MoveOut { before } => {
                return write!(f, "move out before height {before}, or let the operator do it");
            }
            Self::PublishPath => "this node publishes its path; each transaction waits for the one before",
            Self::TakeStock { from } => {
                return write!(f, "this node takes its stock from height {from} on");
            }
            Self::Close => "the channel is closed on chain",
            Self::CloseSome { closed, of } => {
                return write!(f, "{closed} of {of} channels are closed on chain; the others go on");
            }
            Self::Forgotten { timeout } => {
                return write!(
                    f,
                    "lightningd has forgotten this node's channel, and nothing can be paid over it; after height \
                     {timeout} the distribution pays its whole capacity"
                );
            }
            Self::Stands => "nothing: the channel stands on chain by itself and goes on",
            Self::PaidOut => "nothing: the distribution transaction has paid",
            Self::Closing => "nothing: the close pays everybody; kept until that is buried",
            Self::FinishClose { before } => {
                return write!(
                    f,
                    "everybody has to sign the close before height {before}; channels stand still until then"
                );
            }
            Self::Reclaimed => "nothing: the operator has taken it back; kept until that is buried",
            Self::Acknowledge => "the operator has to confirm that it has stored this node's key",
            Self::Left => {
                "nothing: this node's key is handed over; the factory stays listed until the operator has spent \
                 its coin, 100 blocks deep"
            }
            Self::Settled => "nothing: every channel of this node is settled on chain",
            Self::Declined => "nothing",
            Self::Failed => "nothing; kept until its funding can never confirm",
        })
    }
}

/// One transaction of the factory on chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sighting {
    /// Id of the transaction.
    pub txid: Txid,
    /// Height of its block.
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
        (None, Some(coin)) if factory.may_be_reclaimed(coin) => {
            (format!("the operator's reclaim of coin {coin}"), factory.current.role == Role::Lsp, None)
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
    if factory.has_left() {
        return false;
    }
    match id.role {
        SpendRole::State => wanted_nodes(factory, height).contains(&id.coin),
        SpendRole::Distribution => {
            factory.current.role != Role::Lsp && height >= factory.current.terms.timeout_height
        }
        SpendRole::Sale => factory.current.role == Role::Lsp || factory.own_sales().next().is_some(),
        SpendRole::Close => factory.current.close.as_ref().is_some_and(|close| close.signature.is_some()),
        SpendRole::Poison => false,
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
        State::Reclaimed => Standing::Reclaimed,
        State::Closing if factory.current.exiting.is_empty() => Standing::Closing,
        State::Exited => Standing::Out,
        State::Left => Standing::Left,
        _ if factory.next_eviction().is_some_and(|at| factory.current.role == Role::Lsp && height >= at) => {
            Standing::MustExit
        }
        _ if factory.current.role != Role::Lsp && height >= factory.current.terms.timeout_height => {
            Standing::MustExit
        }
        State::Exiting => Standing::Leaving,
        _ if factory.is_being_left() => Standing::Leaving,
        _ if spent => Standing::PartlyExited,
        State::Invited
        | State::Joining
        | State::Signing
        | State::Storing
        | State::Opening
        | State::Funding
        | State::Active
        | State::Dying
        | State::Closing
        | State::Declined
        | State::Aborted => Standing::Safe,
    })
}

impl Factory {
    /// What happens next, and who has to do it.
    pub fn next_action(&self, height: Height) -> NextAction {
        match self.state(height) {
            State::Invited => NextAction::Answer,
            State::Joining => NextAction::Join,
            State::Signing => NextAction::Sign,
            State::Storing => NextAction::Store,
            State::Opening => NextAction::Open,
            State::Funding => match self.funding_height() {
                None => NextAction::Fund,
                Some(funded) => {
                    let more = u32::from(self.current.terms.funding_confirmations);
                    NextAction::Deepen { usable: funded.saturating_add(more).saturating_sub(1) }
                }
            },
            State::Active | State::Dying if self.is_reclaimable_whole() => {
                NextAction::Reclaim { before: self.reclaim_latest() }
            }
            State::Active | State::Dying if self.current.role == Role::Lsp => match self.next_eviction() {
                Some(from) => NextAction::Evict { from },
                None if self.current.handed_over.is_empty() => NextAction::PublishRest,
                None => NextAction::Reclaim { before: self.current.terms.timeout_height },
            },
            State::Active | State::Dying
                if self.has_forgotten() && height < self.current.terms.timeout_height =>
            {
                NextAction::Forgotten { timeout: self.current.terms.timeout_height }
            }
            State::Active if self.is_partly_exited() => NextAction::GoOn,
            State::Active => NextAction::Wait {
                dying: self.current.terms.timeout_height.saturating_sub(self.current.terms.dying_blocks),
            },
            State::Dying if height >= self.current.terms.timeout_height => NextAction::Distribute,
            State::Dying => NextAction::MoveOut { before: self.safe_end() },
            State::Exiting => NextAction::PublishPath,
            State::Exited => match (self.next_stock(), &self.current.exit) {
                (Some(from), _) => NextAction::TakeStock { from },
                (None, Some(_)) => NextAction::Close,
                (None, None) => match (self.current.ended.len(), self.own_channels().count()) {
                    (0, _) => NextAction::Stands,
                    (closed, of) if closed < of => NextAction::CloseSome { closed, of },
                    _ => NextAction::Close,
                },
            },
            State::Left if self.current.handover_stored => NextAction::Left,
            State::Left => NextAction::Acknowledge,
            State::Distributed => NextAction::PaidOut,
            State::Reclaimed => NextAction::Reclaimed,
            State::Closing => match self.unfinished_close() {
                Some(_) if !self.current.exiting.is_empty() => NextAction::PublishPath,
                Some(close) => NextAction::FinishClose { before: close.since.saturating_add(CLOSE_BLOCKS) },
                None => NextAction::Closing,
            },
            State::Closed => NextAction::Settled,
            State::Declined => NextAction::Declined,
            State::Aborted => NextAction::Failed,
        }
    }

    /// The height by which the next action has to be done, where there is one.
    pub fn deadline(&self, height: Height) -> Option<Height> {
        let timeout = Some(self.current.terms.timeout_height);
        match (self.state(height), self.current.role) {
            (State::Active | State::Dying, Role::Lsp) if self.is_reclaimable_whole() => {
                Some(self.reclaim_latest())
            }
            (State::Active | State::Dying, Role::Lsp) if !self.current.handed_over.is_empty() => {
                self.next_eviction().or(timeout)
            }
            (State::Active | State::Dying, Role::Lsp) => self.next_eviction(),
            (State::Dying | State::Exiting, _) => timeout,
            (State::Exited, Role::Lsp) if open_stock(self).next().is_some() => timeout,
            _ => None,
        }
    }

    /// Whether lightningd has forgotten this client's channel, which it can't claim any more (S34).
    fn has_forgotten(&self) -> bool {
        matches!(self.current.role, Role::Client { index, .. }
            if self.current.ended_of(index) == Some(Ended::Forgotten))
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
