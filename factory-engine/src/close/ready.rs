//! Whether a factory can be closed by all together, and what each would get.

use std::collections::BTreeMap;

use bitcoin::TxOut;

use crate::engine::Engine;
use crate::io::{CannotClose, ChannelBalance};
use crate::memory::moving::Free;
use crate::record::attempt::Role;
use crate::record::factory::Factory;
use crate::record::state::State;
use crate::terms::ClientIndex;
use crate::tx::close::{Share, build, outputs};
use crate::types::{Amount, ChannelId, Height, NodeId, ScriptBuf, Transaction};

/// What a close would be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClosePlan {
    /// What each client has that has not handed over.
    pub shares: Vec<Share>,
    /// What the operator gets.
    pub rest: Amount,
    /// What the transaction pays to miners, beside what goes into its anchor.
    pub fee: Amount,
    /// Its size, vB.
    pub vbytes: u64,
    /// The transaction, unsigned.
    pub tx: Transaction,
}

impl Engine {
    /// L: who would have to sign a close of this factory, if everything but what its channels hold allows one.
    ///
    /// # Errors
    /// Why there can't be one now.
    pub fn may_close(
        &self,
        factory: &Factory,
        height: Height,
    ) -> Result<BTreeMap<ClientIndex, NodeId>, CannotClose> {
        if factory.current.role != Role::Lsp {
            return Err(CannotClose::Client);
        }
        self.allows_close(factory, height)?;
        if let Some(why) = factory.current.close.as_ref().and_then(|close| close.given_up.as_deref()) {
            return Err(CannotClose::GivenUp(why.to_owned()));
        }
        if self.is_frozen_to_close(factory.instance) {
            return Err(CannotClose::UnderWay);
        }
        let inside = (0..factory.current.terms.clients()).filter(|client| !factory.has_handed_over(*client));
        let members: BTreeMap<ClientIndex, NodeId> =
            inside.filter_map(|client| Some((client, factory.node_of(client)?))).collect();
        if members.is_empty() {
            return Err(CannotClose::AllHandedOver);
        }
        let selling = self.lsp_sales.keys().any(|(instance, _)| *instance == factory.instance);
        if selling || !is_sold_out_of_hand(factory) {
            return Err(CannotClose::Sale);
        }
        let own = |id: &ChannelId| factory.own_channels().any(|channel| channel.channel_id == *id);
        // Whose move takes longer says so itself when it is asked (`would_close`).
        let fresh = |free: &Free| free.set.is_none_or(|set| height <= set.saturating_add(1));
        let asked = |free: &Free| !free.back && free.asked.is_some() && fresh(free);
        let moves = self.moving.free.iter().filter(|(_, free)| asked(free));
        let mut moves = moves.flat_map(|(to, free)| [Some(*to), free.asked.map(|(_, from)| from)]).flatten();
        if let Some(channel) = moves.find(own) {
            return Err(CannotClose::Move(channel));
        }
        let away: Vec<NodeId> = members.values().filter(|node| !self.peers.contains(node)).copied().collect();
        if !away.is_empty() {
            return Err(CannotClose::Away(away));
        }
        Ok(members)
    }

    /// What either side can say of a factory by itself.
    fn allows_close(&self, factory: &Factory, height: Height) -> Result<(), CannotClose> {
        if let Some(why) = factory.restored() {
            return Err(CannotClose::Restored(why.to_owned()));
        }
        // S24: nothing cooperative beside a tree that is on chain, or that somebody takes there.
        let ended = factory.own_channels().any(|channel| {
            factory.current.ended.contains_key(&channel.channel_id)
                && !factory.has_handed_over(channel.client)
        });
        if factory.funding_height().is_some() && (factory.is_being_left() || ended || !factory.is_whole()) {
            return Err(CannotClose::Leaving);
        }
        match factory.state(height) {
            State::Active | State::Dying => Ok(()),
            State::Closing if factory.unfinished_close().is_some() => Ok(()),
            state @ (State::Invited
            | State::Joining
            | State::Signing
            | State::Storing
            | State::Opening
            | State::Funding
            | State::Exiting
            | State::Exited
            | State::Distributed
            | State::Reclaimed
            | State::Closing
            | State::Left
            | State::Declined
            | State::Aborted
            | State::Closed) => Err(CannotClose::State(state)),
        }
    }

    /// Client: whether it would sign a close.
    ///
    /// # Errors
    /// Why not now.
    pub(super) fn would_close(&self, factory: &Factory, height: Height) -> Result<(), CannotClose> {
        self.allows_close(factory, height)?;
        if !self.is_finished(factory) {
            return Err(CannotClose::Sale);
        }
        // It is about to hand over, or to move something.
        if self.leaving.frozen(factory.instance).is_some() {
            return Err(CannotClose::State(State::Left));
        }
        let own = |id: ChannelId| factory.own_channels().any(|channel| channel.channel_id == id);
        let moves = self.factories().flat_map(|factory| factory.moves.open());
        match moves.flat_map(|open| [open.from, open.to]).find(|id| own(*id)) {
            Some(channel) => Err(CannotClose::Move(channel)),
            None => Ok(()),
        }
    }

    /// L: what a close would be, by what channels hold; `rest` is a script for what is its own.
    ///
    /// # Errors
    /// Why there can't be one now.
    pub fn plan_close(
        &self,
        factory: &Factory,
        list: &[ChannelBalance],
        rest: &ScriptBuf,
        height: Height,
    ) -> Result<ClosePlan, CannotClose> {
        let members = match self.may_close(factory, height) {
            Ok(members) => members.into_keys().collect(),
            // Whoever is away can be told what it would get all the same.
            Err(CannotClose::Away(_)) => {
                let all = 0..factory.current.terms.clients();
                all.filter(|client| !factory.has_handed_over(*client)).collect::<Vec<_>>()
            }
            Err(why) => return Err(why),
        };
        let proposal = factory.current.proposal.as_ref();
        let mut shares = vec![];
        for client in members {
            let balance = held(factory, client, list)?;
            let proposed = proposal.and_then(|proposal| proposal.client(client));
            let script = proposed.map(|(_, script)| script.clone()).unwrap_or_default();
            shares.push(Share { client, balance, script });
        }
        let built = self.close_of(factory, &shares, rest, height).map_err(CannotClose::Outputs)?;
        let paid: Amount = built.tx.output.iter().map(|output| output.value).sum();
        let rests = built.tx.output.iter().filter(|output| output.script_pubkey == *rest);
        Ok(ClosePlan {
            rest: rests.map(|output| output.value).sum(),
            fee: built.prevout.value.checked_sub(paid).unwrap_or(Amount::ZERO),
            // The witness is one signature.
            vbytes: built.tx.weight().to_wu().saturating_add(2 + 1 + 1 + 64).div_ceil(4),
            tx: built.tx,
            shares,
        })
    }

    /// L: the close that pays these shares, and the rest to this script.
    pub(super) fn close_of(
        &self,
        factory: &Factory,
        shares: &[Share],
        rest: &ScriptBuf,
        height: Height,
    ) -> Result<crate::tx::tree::Session, crate::tx::close::CloseError> {
        let current = &factory.current;
        let feerate = self.close_feerate(factory, height);
        let outputs: Vec<TxOut> = outputs(current.layout.funding_value(), shares, rest, feerate)?;
        let no_tree = || crate::tx::close::CloseError::Nothing;
        build(&current.layout, current.tree.as_ref().ok_or_else(no_tree)?, &outputs)
    }

    /// What it pays by itself, sat/kw: as much as gets it into one of the next blocks. Its anchor raises that.
    fn close_feerate(&self, factory: &Factory, height: Height) -> u32 {
        let left = factory.current.terms.timeout_height.saturating_sub(height).min(6);
        let target = self.feerates().map_or(0, |rates| rates.target(left));
        target.max(factory.current.terms.tree_feerate)
    }
}

/// Whether nothing that was sold is unfinished, or owed.
fn is_sold_out_of_hand(factory: &Factory) -> bool {
    let sales = &factory.current.sales;
    let signed = sales.all().all(|sold| sold.is_signed() || sold.void.is_some());
    signed && sales.openings().next().is_none() && sales.owes_nothing()
}

/// What a client has over all of its channels in a factory, by what lightningd on either side says; a part of a
/// satoshi counts as one.
///
/// # Errors
/// When that can't be said, or is about to change.
pub(super) fn held(
    factory: &Factory,
    client: ClientIndex,
    list: &[ChannelBalance],
) -> Result<Amount, CannotClose> {
    let mut msat: u64 = 0;
    for channel in factory.own_channels().filter(|channel| channel.client == client) {
        let id = channel.channel_id;
        let balance = list.iter().find(|balance| balance.channel_id == id && balance.live);
        let balance = balance.ok_or(CannotClose::NotLive(id))?;
        if balance.htlcs {
            return Err(CannotClose::Htlc(id));
        }
        let theirs = match factory.current.role {
            Role::Client { .. } => balance.to_us_msat,
            Role::Lsp => {
                let all = channel.capacity.to_sat().saturating_mul(1000);
                all.checked_sub(balance.to_us_msat).ok_or(CannotClose::NotLive(id))?
            }
        };
        msat = msat.saturating_add(theirs);
    }
    Ok(Amount::from_sat(msat.div_ceil(1000)))
}
