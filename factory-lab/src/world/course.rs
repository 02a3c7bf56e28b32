//! The usual course of things: from `factory-create` to usable channels, and purchases.

use factory_engine::record::factory::Factory;
use factory_engine::types::{Amount, InstanceId};
use factory_engine::{Answer, Command, Create, Engine, Input, Refusal, State};

use crate::offer::Offer;
use crate::{LabError, error};

use super::{Fed, LSP, World};

/// More channels than any client has after one creation, whose attempts open one each.
const MOST_CHANNELS: usize = 5;

impl World {
    /// The engine of a member.
    ///
    /// # Errors
    /// When it is down.
    pub fn engine(&self, at: usize) -> Result<&Engine, LabError> {
        self.members[at].engine.as_ref().ok_or_else(|| error(format!("member {at} is down")))
    }

    /// A factory as a member has it.
    ///
    /// # Errors
    /// When it is down, or knows no such factory.
    pub fn factory(&self, at: usize, instance: InstanceId) -> Result<&Factory, LabError> {
        let unknown = || error(format!("member {at} knows no factory {instance}"));
        self.engine(at)?.factory(instance).ok_or_else(unknown)
    }

    /// `factory-create` with these clients, in this order.
    ///
    /// # Errors
    /// When the shape can't be planned.
    pub fn create_command(&self, clients: &[usize], offer: &Offer) -> Result<Create, LabError> {
        let clients: Vec<_> = clients.iter().map(|client| self.members[*client].id).collect();
        offer.to(&clients, &self.members[LSP].config)
    }

    /// `factory-create` with every client, nothing delivered yet.
    ///
    /// # Errors
    /// When the operator refuses, or can't.
    pub fn begin(&mut self, offer: &Offer) -> Result<InstanceId, LabError> {
        self.try_begin(offer)?.ok_or_else(|| error("the operator is down, or could not store it"))
    }

    /// The same; nothing if the operator crashed on it, or could not store it.
    ///
    /// # Errors
    /// When it refuses.
    pub fn try_begin(&mut self, offer: &Offer) -> Result<Option<InstanceId>, LabError> {
        let clients: Vec<usize> = (1..self.members.len()).collect();
        let create = self.create_command(&clients, offer)?;
        match self.feed(LSP, Input::Command(Command::Create(create)))? {
            Fed::Done(Ok(Answer::Created(instance))) => Ok(Some(instance)),
            Fed::Done(Ok(_)) => Err(error("factory-create answered something else")),
            Fed::Done(Err(refusal)) => Err(error(refusal)),
            Fed::Down | Fed::StoreFailed | Fed::Crashed => Ok(None),
        }
    }

    /// A factory with all clients, until its channels are usable everywhere.
    ///
    /// # Errors
    /// When it does not come to that.
    pub fn make_factory(&mut self, offer: &Offer) -> Result<InstanceId, LabError> {
        let instance = self.begin(offer)?;
        self.activate(instance)?;
        Ok(instance)
    }

    /// Runs a factory that was begun until it is active everywhere.
    ///
    /// # Errors
    /// When it does not come to that.
    pub fn activate(&mut self, instance: InstanceId) -> Result<(), LabError> {
        match self.finish(instance)? {
            State::Active => Ok(()),
            state => {
                let failure = self.failure(LSP, instance).unwrap_or_default();
                Err(error(format!("the factory is {state}: {failure}")))
            }
        }
    }

    /// Runs a factory that was begun to the end of its creation, and to usable channels if there are any.
    /// Whoever is in the factory is active then; whoever is not has nothing left that waits.
    ///
    /// # Errors
    /// When it never ends, or leaves something behind.
    pub fn finish(&mut self, instance: InstanceId) -> Result<State, LabError> {
        let creating = |world: &World| world.state(LSP, instance).is_some_and(State::is_creating);
        self.run_until("creation has ended", |world| !creating(world))?;
        self.settle()?;
        self.mine(u32::from(self.members[LSP].config.funding_confirmations))?;
        self.run_out()?;
        let ended = self.state(LSP, instance).unwrap_or(State::Aborted);
        self.judge_creation(instance, ended)?;
        Ok(ended)
    }

    /// What a creation may leave behind.
    fn judge_creation(&self, instance: InstanceId, ended: State) -> Result<(), LabError> {
        let inside: Vec<usize> = match self.engine(LSP)?.factory(instance) {
            Some(factory) if ended == State::Active => {
                factory.current.clients.iter().filter_map(|node| self.member_of(*node)).collect()
            }
            _ => vec![],
        };
        for at in 1..self.members.len() {
            let state = self.state(at, instance);
            if inside.contains(&at) {
                if state != Some(State::Active) {
                    return Err(error(format!("member {at} of the factory is {state:?}")));
                }
            } else if self.members[at].engine.is_some() {
                let over = matches!(state, None | Some(State::Aborted | State::Declined | State::Invited));
                if !over {
                    return Err(error(format!("member {at}, not in the factory, is still {state:?}")));
                }
            }
            let channels = self.members[at].lightningd.channels.len();
            if channels > MOST_CHANNELS {
                return Err(error(format!("member {at} is left with {channels} channels")));
            }
        }
        if ended != State::Active && self.members[LSP].lightningd.reserved() > 0 {
            return Err(error("coins stay reserved"));
        }
        match self.judge.violations.first() {
            Some(violation) => Err(error(violation)),
            None => Ok(()),
        }
    }

    /// What a person answers who has read an invitation as it is now, and agrees.
    ///
    /// # Errors
    /// When the member is down, or was not invited.
    pub fn acceptance(&self, at: usize, instance: InstanceId) -> Result<Command, LabError> {
        let terms = self.factory(at, instance)?.current.terms_hash();
        let terms = terms.ok_or_else(|| error(format!("member {at} is the operator")))?;
        Ok(Command::Accept { instance, terms, from: None })
    }

    /// Asks for liquidity for a client; nothing is delivered yet.
    ///
    /// # Errors
    /// When the node does not answer.
    pub fn ask(
        &mut self,
        client: usize,
        instance: InstanceId,
        sat: u64,
        max_price_msat: u64,
    ) -> Result<Result<Answer, Refusal>, LabError> {
        let command = Command::Buy { instance, amount: Amount::from_sat(sat), max_price_msat };
        match self.feed(client, Input::Command(command))? {
            Fed::Done(answer) => Ok(answer),
            other => Err(error(format!("member {client}: {other:?}"))),
        }
    }

    /// A client buys liquidity, and everything that follows from it happens.
    ///
    /// # Errors
    /// When its purchase is refused, by its own engine or the operator.
    pub fn buy(
        &mut self,
        client: usize,
        instance: InstanceId,
        sat: u64,
        max_price_msat: u64,
    ) -> Result<(), LabError> {
        self.ask(client, instance, sat, max_price_msat)?.map_err(error)?;
        self.run_out()?;
        match self.refused(client, instance) {
            Some(why) => Err(error(format!("client {client} buys nothing: {why}"))),
            None => Ok(()),
        }
    }

    /// Why a client's last purchase came to nothing.
    pub fn refused(&self, client: usize, instance: InstanceId) -> Option<&str> {
        self.members[client].engine.as_ref()?.purchase(instance)?.refused.as_deref()
    }
}
