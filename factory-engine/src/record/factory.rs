//! One factory: the fold of its events.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::record::Proposal;
use crate::record::attempt::{Attempt, Creation, Role};
use crate::record::event::{Event, Recovered, Rung, Signing};
use crate::record::leaves::Leaves;
use crate::record::moves::Moves;
use crate::record::sales::Sold;
use crate::record::state::State;
use crate::terms::ClientIndex;
use crate::tx::layout::{Layout, NodeIndex, SessionId, SpendRole};
use crate::tx::musig::{KeyAgg, PublicKey};
use crate::tx::tree::{Member, Roster, Scope, Session, Tree};
use crate::types::{Amount, ChannelId, Height, InstanceId, NodeId, OutPoint, ScriptBuf, Txid};

pub use crate::record::load_error::LoadError;
pub(crate) use crate::record::load_error::inconsistent;
pub use onchain::{BURIED, session_name};
pub(crate) use onchain::{OpenStock, has_matured, is_dead, open_stock, unspent, wanted_nodes};
pub use reclaim::Reclaimable;
pub(crate) use usable::Usability;

mod attempts;
mod close;
mod onchain;
mod reclaim;
mod sales;
mod usable;

/// A factory, as this node has it on disk. Nothing here is volatile: ceremonies are elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Factory {
    /// factory_instance: names the factory on the wire, in RPC and in the store.
    pub instance: InstanceId,
    /// The attempt that is the factory, or is to become it.
    pub current: Attempt,
    /// Earlier attempts whose finished signatures we hold. Should one's funding confirm after all, it
    /// is the factory again.
    past: Vec<Attempt>,
    /// Members that were left out of a later attempt, and why.
    pub left_out: Vec<(NodeId, String)>,
    /// L: who was the cause of an attempt's end and may try again: not twice (S30).
    pub(crate) strikes: BTreeSet<NodeId>,
    /// Client: whether the invitation was accepted. L: of no meaning.
    pub accepted: bool,
    /// Confirmed transactions of the factory, and spends of its outpoints by others.
    pub confirmed: BTreeMap<Txid, Height>,
    /// Which transaction spends which outpoint of the factory, on chain.
    pub spent: BTreeMap<OutPoint, Txid>,
    /// What transactions that aren't ours paid, of those that spend a coin of the factory alone.
    pub pays: BTreeMap<Txid, Amount>,
    /// L: the wallet's script that stock goes to.
    pub stock_payout: Option<ScriptBuf>,
    /// Lowest height whose block may hold something of this factory.
    pub birth: Option<Height>,
    /// L: the rung of its ladder that it was begun as, if it was.
    pub rung: Option<Rung>,
    /// L: height at which a client was last sent for.
    pub woken: BTreeMap<ClientIndex, Height>,
    /// Client: what goes from one of its channels with L to another, and is kept here.
    pub moves: Moves,
    /// Who leaves it for an ordinary channel.
    pub leaves: Leaves,
    /// Client: the ordinary channel that moves into it, if a person said so.
    pub comes_from: Option<ChannelId>,
    /// Why the factory is exit-only on this node, if it is (S9): whichever attempt is in use.
    restored: Option<String>,
    /// Whether lightningd has lost the channels that it had here (S39).
    recovered: bool,
    /// Why not all of its records are understood, if so (S33). No event says so: it is found at a start.
    damage: Option<String>,
    /// Inputs of funding transactions that we signed for, in any attempt (S12).
    signed_for: Vec<(Txid, Vec<OutPoint>)>,
    /// Capacities of the zero-conf opens that were accepted, in any attempt.
    opens_accepted: Vec<Amount>,
}

impl Factory {
    /// The factory that its first event makes.
    #[expect(clippy::wildcard_enum_match_arm, reason = "any other event is an error here")]
    pub(crate) fn begin(instance: InstanceId, event: &Event) -> Result<Self, LoadError> {
        let (role, terms, attempt, clients, price_msat, creation, birth) = match event {
            Event::Created(e) => (Role::Lsp, &e.terms, 1, e.clients.clone(), 0, Creation::Joining, None),
            Event::Invited(e) => {
                let role = Role::Client { lsp: e.terms.lsp, index: e.client };
                (role, &e.terms, e.attempt, vec![], e.price_msat, Creation::Invited, Some(e.height))
            }
            other => {
                return Err(inconsistent(other.name(), "a factory begins with Created or Invited"));
            }
        };
        if terms.instance != instance {
            return Err(inconsistent(event.name(), "it names another factory_instance"));
        }
        let mut current = Attempt::new(event.name(), role, attempt, terms)?;
        (current.clients, current.price_msat) = (clients, price_msat);
        current.take_prices(event)?;
        current.creation = creation;
        current.invited_at = birth;
        Ok(Self {
            instance,
            current,
            past: vec![],
            left_out: vec![],
            strikes: BTreeSet::new(),
            accepted: false,
            confirmed: BTreeMap::new(),
            spent: BTreeMap::new(),
            pays: BTreeMap::new(),
            stock_payout: None,
            birth,
            rung: None,
            woken: BTreeMap::new(),
            moves: Moves::default(),
            leaves: Leaves::default(),
            comes_from: None,
            restored: None,
            recovered: false,
            damage: None,
            signed_for: vec![],
            opens_accepted: vec![],
        })
    }

    /// Takes the next event. `tree` spares building it again where the caller has it.
    pub(crate) fn apply(&mut self, event: &Event, tree: Option<Arc<Tree>>) -> Result<(), LoadError> {
        match event {
            Event::Created(_) => return Err(inconsistent("Created", "the factory exists already")),
            Event::Invited(e) => {
                let role = Role::Client { lsp: e.terms.lsp, index: e.client };
                self.start_attempt("Invited", role, e.attempt, &e.terms)?;
                self.current.price_msat = e.price_msat;
                self.current.invited_at = Some(e.height);
                self.current.creation = if self.accepted { Creation::Joining } else { Creation::Invited };
            }
            Event::AttemptStarted(e) => {
                self.start_attempt("AttemptStarted", Role::Lsp, e.attempt, &e.terms)?;
                self.current.clients = e.clients.clone();
                self.current.take_prices(event)?;
                self.left_out.extend(e.left_out.iter().map(|node| (*node, e.reason.clone())));
                self.strikes.extend(e.caused.iter().copied());
                self.current.creation = Creation::Joining;
            }
            Event::Accepted(e) => {
                self.accepted = true;
                self.comes_from = e.from;
                self.current.creation = Creation::Joining;
            }
            Event::Declined(e) => {
                self.current.creation = Creation::Declined(e.reason.clone());
                self.current.ended_at = Some(e.height);
            }
            Event::Signing(e) => self.begin_signing(e, tree)?,
            Event::Signed(e) => {
                let tree = self
                    .current
                    .tree
                    .as_ref()
                    .ok_or_else(|| inconsistent("Signed", "nothing was proposed"))?;
                if tree.sessions().len() != e.signatures.len() {
                    return Err(inconsistent("Signed", "the number of signatures is wrong"));
                }
                let ids = tree.sessions().iter().map(|session| session.id);
                self.current.signatures = ids.zip(e.signatures.iter().copied()).collect();
                self.current.creation = Creation::Storing;
            }
            Event::AllStored(_) => self.current.creation = Creation::Opening,
            Event::ChannelCommitted(e) => {
                self.current.channels.insert(e.client, e.channel_id);
            }
            Event::ChannelChecked(e) => {
                self.current.channels.insert(e.client, e.channel_id);
                self.current.checked.insert(e.client);
                self.note_reliance();
                if self.current.role != Role::Lsp {
                    self.current.creation = Creation::Funding;
                }
            }
            Event::FundingReleased(e) => {
                self.birth = Some(self.birth.map_or(e.height, |birth| birth.min(e.height)));
                self.current.creation = Creation::Funding;
            }
            Event::Confirmed(e) => {
                self.revive(e.txid);
                self.confirmed.insert(e.txid, e.height);
                self.note_reliance();
                self.spent.extend(e.spends.iter().map(|outpoint| (*outpoint, e.txid)));
                self.pays.extend(e.pays.map(|pays| (e.txid, pays)));
            }
            Event::Reorged(e) => {
                self.confirmed.retain(|_, height| *height <= e.height);
                let confirmed = &self.confirmed;
                self.spent.retain(|_, txid| confirmed.contains_key(txid));
                self.pays.retain(|txid, _| confirmed.contains_key(txid));
            }
            Event::ExitStarted(e) => {
                self.current.exit.get_or_insert_with(|| (e.height, e.reason.clone()));
                self.current.exiting.extend(e.clients.iter().copied());
            }
            Event::EvictionStarted(e) => {
                self.current.eviction.get_or_insert_with(|| (e.height, e.reason.clone()));
                self.current.evicting.extend(e.clients.iter().copied());
            }
            Event::StockPayout(e) => self.stock_payout = Some(e.script.clone()),
            Event::ChannelResolved(e) => {
                self.current.resolved.insert(e.client);
            }
            Event::ChannelEnded(e) => {
                self.current.ended.entry(e.channel_id).or_insert(e.how);
            }
            Event::HandedOver(e) => {
                if let Role::Client { index, .. } = self.current.role {
                    self.current.handed_over.entry(index).or_insert(e.height);
                }
            }
            Event::HandoverStored(_) => self.current.handover_stored = true,
            Event::KeyReceived(e) => {
                self.current.handed_over.entry(e.client).or_insert(e.height);
                self.current.keys.insert(e.client, e.key);
            }
            Event::RenewalPaid(e) => self.current.note_paid(e),
            Event::Renewed(e) => self.current.note_renewed(e),
            Event::Aborted(e) => {
                self.current.creation = Creation::Aborted(e.reason.clone());
                self.current.ended_at = Some(e.height);
            }
            Event::OpenAccepted(_) => {
                if let Role::Client { index, .. } = self.current.role {
                    self.opens_accepted.push(self.capacity(index));
                }
            }
            Event::FundingReserved(e) if e.attempt == self.current.number => {
                self.current.reserved = Some(Arc::new(e.clone()));
            }
            Event::FundingReserved(_) => {
                return Err(inconsistent("FundingReserved", "it is of another attempt"));
            }
            Event::SaleOpening(e) => self.open_sale(e)?,
            Event::SaleResolved(e) => self.current.sales.resolved(e.channel_id),
            Event::SaleDropped(e) => self.current.sales.dropped(e.coin),
            Event::SaleOpenAccepted(e) => {
                self.opens_accepted.push(e.amount);
                self.current.sales.agreed(e);
            }
            Event::SaleSigning(e) => self.begin_sale(e)?,
            Event::SaleSigned(e) => self.current.sales.signed(e)?,
            Event::SaleStored(e) => self.current.sales.stored(e)?,
            Event::SaleVoid(e) => self.void_sale(e)?,
            Event::SaleDue(e) => self.current.sales.due(e),
            Event::SaleDueEnded(e) => self.current.sales.due_ended(e)?,
            Event::SaleJit(e) => self.current.sales.jit(e),
            Event::SaleJitAgreed(e) => self.current.sales.jit_agreed(e),
            Event::SaleJitFailed(e) => self.current.sales.jit_failed(e)?,
            Event::SaleJitOpened(e) => self.current.sales.jit_opened(e),
            Event::Rung(e) => self.rung = Some(*e),
            Event::Woken(e) => self.woken.extend(e.clients.iter().map(|client| (*client, e.height))),
            Event::MoveWanted(e) => self.moves.want(e)?,
            Event::MoveStarted(e) => self.moves.start(e)?,
            Event::MoveEnded(e) => self.moves.end(e)?,
            Event::MoveOver(e) => self.moves.over(e)?,
            Event::CloseSigning(e) => self.begin_close(e)?,
            Event::CloseSigned(e) => self.finish_close(e)?,
            Event::CloseGivenUp(e) => {
                if let Some(close) = self.current.close.as_mut() {
                    close.given_up.get_or_insert_with(|| e.reason.clone());
                }
            }
            Event::LeaveWanted(e) => self.leaves.want(e)?,
            Event::LeaveOver(e) => self.leaves.end(e)?,
            Event::LeaveOpened(e) => self.leaves.open(e)?,
            Event::LeaveOpening(e) => self.leaves.begin(e),
            Event::LeaveFunded(e) => self.leaves.fund(e)?,
            Event::Restored(e) => self.restored = Some(e.reason.clone()),
            Event::Recovered(e) => self.recover(e),
            Event::Forgotten(_) => {}
        }
        Ok(())
    }

    /// Why nothing cooperative is signed in this factory any more, if so (S9).
    pub fn restored(&self) -> Option<&str> {
        self.restored.as_deref()
    }

    /// What this node's exit would publish is of no use without its channel.
    fn recover(&mut self, event: &Recovered) {
        self.restored = Some(event.reason.clone());
        self.recovered = true;
        if let Role::Client { .. } = self.current.role {
            self.current.exiting.clear();
        }
    }

    /// Whether something was signed for it, or a channel opened: then money of this node's may be in it.
    pub fn is_bound(&self) -> bool {
        !self.signed_for().is_empty() || !self.opens_accepted().is_empty()
    }

    /// Whether lightningd has lost the channels that it had here: a client then has what its operator closes, or
    /// all of its capacity from the timeout on (S39).
    pub fn has_lost_channels(&self) -> bool {
        self.recovered
    }

    /// Why it is out of use: some of its records are not understood, so that nothing is signed for it and
    /// no HTLC moves on its channels (S33). What can be read of it is followed and can be left.
    pub fn damage(&self) -> Option<&str> {
        self.damage.as_deref()
    }

    /// Some of its records are not understood. One of them may say that blocks left the chain: so what the chain
    /// has is forgotten, and read again from where the factory began.
    pub(crate) fn set_damage(&mut self, why: String) {
        self.damage = Some(why);
        // A reorganisation may have let it confirm in a lower block than was the last when it was released.
        let seen = self.confirmed.values().copied().min();
        self.birth = self.birth.or(seen).map(|birth| birth.saturating_sub(BURIED));
        self.confirmed.clear();
        self.spent.clear();
        self.pays.clear();
    }

    /// Capacities of zero-conf opens of the operator that were accepted for this factory.
    pub fn opens_accepted(&self) -> &[Amount] {
        &self.opens_accepted
    }

    fn begin_signing(&mut self, event: &Signing, tree: Option<Arc<Tree>>) -> Result<(), LoadError> {
        if event.attempt != self.current.number {
            return Err(inconsistent("Signing", "it is of another attempt"));
        }
        let tree = match tree {
            Some(tree) => tree,
            None => Arc::new(
                build_tree(&self.current.layout, self.scope(), &event.proposal, None)
                    .map_err(|error| inconsistent("Signing", error))?,
            ),
        };
        let tx = event.funding_tx();
        let inputs = tx.input.iter().map(|input| input.previous_output).collect();
        self.signed_for.push((tx.compute_txid(), inputs));
        self.current.tree = Some(tree);
        self.current.salt = event.salt;
        self.current.proposal = Some(Arc::new(event.proposal.clone()));
        self.current.creation = Creation::Signing;
        Ok(())
    }

    /// The part of the tree that this node rebuilds.
    pub fn scope(&self) -> Scope {
        match self.current.role {
            Role::Lsp => Scope::All,
            Role::Client { index, .. } => Scope::Client(index),
        }
    }

    /// Node id of L, the operator.
    pub fn lsp(&self) -> NodeId {
        self.current.terms.lsp
    }

    /// State without regard to the chain's height: the last step of creation that is stored.
    pub(crate) fn phase(&self) -> State {
        self.current.creation.state()
    }

    /// Why creation ended, if it did.
    pub fn failure(&self) -> Option<&str> {
        self.current.failure()
    }

    /// Where the factory is in its life, at `height`.
    pub fn state(&self, height: Height) -> State {
        // Signed and funded, it lives, whatever else was said about it.
        let lives = self.current.creation == Creation::Funding || !self.current.signatures.is_empty();
        if self.funding_height().is_none() || !lives {
            return self.phase();
        }
        if self.is_over(height) {
            return State::Closed;
        }
        if self.has_left() {
            return State::Left;
        }
        if self.has_close() || self.is_closing(height) {
            return State::Closing;
        }
        if self.distribution_confirmed() {
            return State::Distributed;
        }
        if self.leaves_confirmed() {
            let out = own_clients(self).any(|client| self.leaf_height(client).is_some());
            return if out { State::Exited } else { State::Reclaimed };
        }
        if self.all_inside(|client| self.is_leaving(client)) {
            return State::Exiting;
        }
        if !self.is_deep(height) {
            return State::Funding;
        }
        if self.is_due(height) {
            return State::Dying;
        }
        State::Active
    }

    /// Whether its dying period has begun: its clients move to another factory from then on.
    pub fn is_due(&self, height: Height) -> bool {
        let dying =
            height.saturating_add(self.current.terms.dying_blocks) >= self.current.terms.timeout_height;
        dying && self.funding_height().is_some()
    }

    /// The factory's funding outpoint, once proposed.
    pub fn funding(&self) -> Option<OutPoint> {
        self.current.tree.as_ref()?.coin_outpoint(0)
    }

    /// Height at which the funding transaction confirmed.
    pub fn funding_height(&self) -> Option<Height> {
        self.confirmed.get(&self.funding()?.txid).copied()
    }

    fn distribution_confirmed(&self) -> bool {
        let is_out = |session: &Session| {
            session.id.role == SpendRole::Distribution
                && self.spent.get(&session.outpoint) == Some(&session.txid)
        };
        !self.spent.is_empty() && self.sessions().any(is_out)
    }

    /// All that is signed together, of the tree, of sales, of a close.
    pub(crate) fn sessions(&self) -> impl Iterator<Item = &Session> {
        let tree = self.current.tree.iter().flat_map(|tree| tree.sessions());
        let sales = self.current.sales.all().flat_map(|sold| &sold.sale.sessions);
        tree.chain(sales).chain(self.current.close.as_deref().map(|close| &close.session))
    }

    /// Which of our transactions it is that spends an outpoint, if it is one of ours.
    pub fn session_of(&self, outpoint: OutPoint, txid: Txid) -> Option<SessionId> {
        self.spend_of(outpoint, txid).map(|session| session.id)
    }

    /// The same with its transaction.
    pub(crate) fn spend_of(&self, outpoint: OutPoint, txid: Txid) -> Option<&Session> {
        self.sessions().filter(|session| session.outpoint == outpoint).find(|session| session.txid == txid)
    }

    /// Whether this node publishes a client's path, or has.
    pub fn is_leaving(&self, client: ClientIndex) -> bool {
        let leaving = self.current.exiting.contains(&client) || self.current.evicting.contains(&client);
        leaving || self.leaf_height(client).is_some()
    }

    /// Whether a client has handed its key over: what it had here is L's (S22).
    pub fn has_handed_over(&self, client: ClientIndex) -> bool {
        self.current.handed_over.contains_key(&client)
    }

    /// Whether this client's channel was taken on chain and goes on there: by L, not by this node.
    pub fn was_evicted(&self) -> bool {
        let Role::Client { index, .. } = self.current.role else { return false };
        self.leaf_height(index).is_some() && !self.current.exiting.contains(&index)
    }

    /// Whether this node is a client that has handed its key over: nothing of the factory is its any more.
    pub fn has_left(&self) -> bool {
        matches!(self.current.role, Role::Client { index, .. } if self.has_handed_over(index))
    }

    /// Clients whose channel is this node's and that have not handed over.
    pub(crate) fn inside(&self) -> impl Iterator<Item = ClientIndex> {
        own_clients(self).filter(|client| !self.has_handed_over(*client))
    }

    /// Whether this holds for each of them, if there are any.
    fn all_inside(&self, test: impl Fn(ClientIndex) -> bool) -> bool {
        let mut inside = self.inside().peekable();
        inside.peek().is_some() && inside.all(test)
    }

    /// Whether every channel that this node has in the factory has its leaf on chain, but those that L has
    /// taken back.
    fn leaves_confirmed(&self) -> bool {
        let mut sales = self.own_sales().filter(|sold| sold.is_signed());
        let has_channel =
            |sold: &Sold| self.confirmed.contains_key(&sold.txid()) || self.is_stock_taken_back(sold);
        own_clients(self).all(|client| self.is_done(client)) && sales.all(has_channel)
    }

    /// Height at which a client's leaf confirmed.
    pub fn leaf_height(&self, client: ClientIndex) -> Option<Height> {
        let outpoint = self.current.tree.as_ref()?.channel_outpoint(client)?;
        self.confirmed.get(&outpoint.txid).copied()
    }

    /// Whether a node's transaction is on chain.
    pub fn node_confirmed(&self, node: NodeIndex) -> bool {
        let tx = self.current.tree.as_ref().and_then(|tree| tree.node_tx(node));
        tx.is_some_and(|tx| self.confirmed.contains_key(&tx.compute_txid()))
    }

    /// Whether the funding has the confirmations that the terms ask for.
    fn is_deep(&self, height: Height) -> bool {
        let needed = u32::from(self.current.terms.funding_confirmations);
        self.funding_height().is_some_and(|funded| height.saturating_add(1) >= funded.saturating_add(needed))
    }

    /// Blocks before an HTLC's expiry at which it must be off this node's channels.
    pub fn blocks_early(&self) -> u16 {
        self.current.blocks_early()
    }

    /// Height after which no HTLC may live in this factory (S15): from the timeout on, distribution
    /// transactions spend what the channels stand on.
    pub fn safe_end(&self) -> Height {
        self.current.terms.timeout_height.saturating_sub(u32::from(self.blocks_early()))
    }

    /// Channel capacity of a client.
    pub fn capacity(&self, client: ClientIndex) -> Amount {
        usize::try_from(client)
            .ok()
            .and_then(|client| self.current.terms.capacities.get(client).copied())
            .unwrap_or(Amount::ZERO)
    }

    /// The place of a client's node (L only).
    pub fn client_of(&self, node: NodeId) -> Option<ClientIndex> {
        let place = self.current.clients.iter().position(|client| *client == node)?;
        u32::try_from(place).ok()
    }

    /// A client's node (L only).
    pub fn node_of(&self, client: ClientIndex) -> Option<NodeId> {
        self.current.node_of(client)
    }

    /// A transaction of this factory with its signature in place, if we hold it.
    pub fn signed_tx(&self, session: SessionId) -> Option<bitcoin::Transaction> {
        self.current.signed_tx(session)
    }

    /// Funding transactions that we signed for, and their inputs (S12).
    pub fn signed_for(&self) -> &[(Txid, Vec<OutPoint>)] {
        &self.signed_for
    }
}

/// Clients whose channel is this node's too.
pub(crate) fn own_clients(factory: &Factory) -> std::ops::Range<ClientIndex> {
    factory.current.own_clients()
}

/// Rebuilds the transactions of a proposal (S3: from terms and keys, never from hashes). Aggregates the
/// members' keys unless `funding_key` is just that.
pub(crate) fn build_tree(
    layout: &Layout,
    scope: Scope,
    proposal: &Proposal,
    funding_key: Option<&KeyAgg>,
) -> Result<Tree, crate::tx::tree::TreeError> {
    let funding = OutPoint { txid: proposal.funding_tx.compute_txid(), vout: proposal.funding_vout };
    let channel_scripts = proposal.channel_scripts.iter().cloned().collect();
    let foreign_keys = proposal.foreign_keys.iter().copied().collect();
    let roster = roster(proposal);
    Tree::build_reusing(layout, &roster, funding, scope, &channel_scripts, &foreign_keys, funding_key)
}

/// Keys and payout scripts of a proposal.
pub(crate) fn roster(proposal: &Proposal) -> Roster {
    let client = |(key, payout): &(_, _)| Member { key: *key, payout: Clone::clone(payout) };
    Roster { lsp_key: proposal.lsp_key, clients: proposal.clients.iter().map(client).collect() }
}

/// A client's key in the current attempt, as it was proposed to all.
pub(crate) fn member_key(factory: &Factory, client: ClientIndex) -> Option<PublicKey> {
    factory.current.proposal.as_ref()?.client(client).map(|(key, _)| *key)
}
