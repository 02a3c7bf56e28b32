//! The client's side of leaving for an ordinary channel.

use crate::engine::Engine;
use crate::handover::client::fail;
use crate::handover::ready::NotYet;
use crate::io::{Answer, CheckFailure, Effect, Level, Refusal};
use crate::memory::Volatile;
use crate::memory::leaving::{Priced, VolatileLeaving};
use crate::ramp::PATIENCE;
use crate::ramp::plan::{LeavePlan, LeaveStage};
use crate::record::attempt::Role;
use crate::record::event::{LeaveOpened, LeaveOver, LeaveWanted};
use crate::record::factory::Factory;
use crate::record::leaves::Wish;
use crate::step::builder::{StepBuilder, short};
use crate::step::fault::Fault;
use crate::types::{Amount, ChannelId, InstanceId, NodeId};
use crate::wire::message::{LeaveAsk, LeaveOpened as OpenedMessage, LeavePrice, LeaveRefused};

impl Engine {
    /// `factory-leave` with `dry_run`: asks the operator what an ordinary channel would cost.
    pub(crate) fn ask_leave_price(
        &self,
        step: &mut StepBuilder<'_>,
        instance: InstanceId,
    ) -> Result<Answer, Refusal> {
        let LeavePlan { lsp, amount, .. } = self.plan_leave(instance, step.height)?;
        let factory = self.factories.get(&instance).ok_or(Refusal::Unknown(instance))?;
        let Some(amount) = amount else { return Ok(Answer::Done) };
        if !self.peers.contains(&lsp) {
            return Err(Refusal::OperatorAway(lsp));
        }
        let priced = Priced { amount, answer: None };
        step.volatile(Volatile::Leaving(VolatileLeaving::Priced(instance, priced)));
        ask(step, factory, amount, None);
        Ok(Answer::Done)
    }

    /// `factory-leave`.
    pub(crate) fn begin_leave(
        &self,
        step: &mut StepBuilder<'_>,
        instance: InstanceId,
        max_price_msat: u64,
    ) -> Result<Answer, Refusal> {
        let plan = self.plan_leave(instance, step.height)?;
        let factory = self.factories.get(&instance).ok_or(Refusal::Unknown(instance))?;
        if factory.leaves.wish().is_some() {
            return Err(Refusal::LeavesAlready(instance));
        }
        if !self.peers.contains(&plan.lsp) {
            return Err(Refusal::OperatorAway(plan.lsp));
        }
        // What it doesn't have it can't leave behind.
        let max_price_msat = max_price_msat.min(plan.move_msat);
        let LeavePlan { stays_msat, to, .. } = plan;
        step.event(instance, LeaveWanted { height: step.height, stays_msat, max_price_msat, to });
        let text = match (to, plan.amount) {
            (Some(to), _) => format!("to channel {to}"),
            (None, Some(_)) => "to an ordinary channel that its operator opens".to_owned(),
            (None, None) => "with nothing".to_owned(),
        };
        step.log(Level::Info, format!("{instance}: this node leaves it {text}"));
        if let Some(amount) = plan.amount {
            ask(step, factory, amount, Some(max_price_msat));
        }
        step.effect(Effect::ReadBalances { peer: plan.lsp });
        Ok(Answer::Done)
    }

    /// At every block, of each factory that a person wants to leave: what that needs next. The move is begun here, the
    /// key goes once everything is empty (`handover`).
    pub(crate) fn go_off(&self, step: &mut StepBuilder<'_>, factory: &Factory) {
        self.cut_openings(step, factory);
        let Some(wish) = factory.leaves.wish() else { return };
        let Some(leave) = self.leave(factory, step.height) else { return };
        if matches!(leave.stage, LeaveStage::Acknowledgement | LeaveStage::Done) {
            return;
        }
        let asked = wish.height.saturating_add(PATIENCE);
        // A move that is under way ends by itself, and what it has moved isn't in the way of anything else.
        let moves = factory.moves.open().next().is_some();
        if !moves && step.height >= asked {
            let mut reason = format!("{} after {PATIENCE} blocks", leave.stage);
            if let Some(failed) = leave.failed.filter(|failed| failed.height >= wish.height) {
                reason = format!("{reason}: {}", failed.what);
            }
            return give_up(step, factory, &reason);
        }
        if !leave.connected {
            return step.effect(Effect::Connect { peer: leave.lsp });
        }
        match leave.stage {
            LeaveStage::Channel => {
                let amount = Amount::from_sat(self.to_move(factory).div_ceil(1_000));
                ask(step, factory, amount, Some(wish.max_price_msat));
            }
            LeaveStage::Depth(NotYet::NotChecked(channel_id)) => check(step, factory, channel_id),
            LeaveStage::Move(_) => self.move_off(step, factory, wish),
            LeaveStage::Depth(_)
            | LeaveStage::HandOver(_)
            | LeaveStage::Acknowledgement
            | LeaveStage::Done => {}
        }
        self.look_to_leave(step, factory);
    }

    /// Everything but what stays behind for the operator.
    fn move_off(&self, step: &mut StepBuilder<'_>, factory: &Factory, wish: &Wish) {
        let Some(to) = wish.to else { return };
        self.move_what_may(step, factory, to, wish.price_msat);
    }

    /// lightningd's channel and the chain agree, or they don't (S22).
    pub(crate) fn on_ordinary_checked(
        &self,
        step: &mut StepBuilder<'_>,
        instance: InstanceId,
        channel_id: ChannelId,
        result: Result<(), CheckFailure>,
    ) {
        let Some(factory) = self.factories.get(&instance) else { return };
        if factory.leaves.wish().is_none_or(|wish| wish.to != Some(channel_id)) {
            return;
        }
        match result {
            Ok(()) => {}
            Err(CheckFailure::Unavailable(reason)) if self.config.unsafe_skip_funding_check => {
                let text = format!("{instance}: channel {channel_id} is relied on unchecked: {reason}");
                step.log(Level::Unusual, text);
            }
            Err(CheckFailure::NotYet) => return,
            Err(CheckFailure::Unavailable(reason)) => {
                let what = format!("the funding output of channel {channel_id} can't be checked: {reason}");
                step.log(Level::Unusual, format!("{instance}: {what}"));
                return fail(step, instance, &what);
            }
            Err(CheckFailure::Mismatch(reason)) => {
                let reason = format!("channel {channel_id} is not what its funding output pays: {reason}");
                return give_up(step, factory, &reason);
            }
        }
        step.volatile(Volatile::Leaving(VolatileLeaving::Checked(channel_id)));
        step.effect(Effect::ReadBalances { peer: factory.lsp() });
    }

    /// The operator, of a factory that this node is to leave.
    fn asked_to_leave(
        &self,
        peer: NodeId,
        instance: InstanceId,
        attempt: u32,
    ) -> Result<(&Factory, Option<&Wish>), Fault> {
        let factory = self.known(instance)?;
        if !matches!(factory.current.role, Role::Client { lsp, .. } if lsp == peer) {
            return Err(Fault::stale("it is not from the operator"));
        }
        if attempt != factory.current.number || factory.has_left() {
            return Err(Fault::stale("nobody waits for it"));
        }
        Ok((factory, factory.leaves.wish().filter(|wish| wish.to.is_none())))
    }

    pub(crate) fn on_leave_price(
        &self,
        step: &mut StepBuilder<'_>,
        peer: NodeId,
        message: &LeavePrice,
    ) -> Result<(), Fault> {
        let LeavePrice { instance, attempt, amount, price_msat } = *message;
        self.asked_to_leave(peer, instance, attempt)?;
        self.waits_for_price(instance, Some(amount))?;
        let priced = Priced { amount, answer: Some(Ok(price_msat)) };
        step.volatile(Volatile::Leaving(VolatileLeaving::Priced(instance, priced)));
        Ok(())
    }

    fn waits_for_price(&self, instance: InstanceId, amount: Option<Amount>) -> Result<Amount, Fault> {
        let asked = self.leaving.priced(instance).filter(|priced| priced.answer.is_none());
        let asked = asked.filter(|asked| amount.is_none_or(|amount| amount == asked.amount));
        asked.map(|asked| asked.amount).ok_or_else(|| Fault::stale("no price was asked for"))
    }

    pub(crate) fn on_leave_opened(
        &self,
        step: &mut StepBuilder<'_>,
        peer: NodeId,
        message: &OpenedMessage,
    ) -> Result<(), Fault> {
        let OpenedMessage { instance, attempt, price_msat, channel_id } = *message;
        let (factory, wish) = self.asked_to_leave(peer, instance, attempt)?;
        let wish = wish.ok_or_else(|| Fault::stale("no channel is waited for"))?;
        if price_msat > wish.max_price_msat {
            let (asked, most) = (price_msat, wish.max_price_msat);
            let reason =
                format!("the operator asks {asked} msat for its channel, and at most {most} were agreed to");
            give_up(step, factory, &reason);
            return Ok(());
        }
        // S36: nothing is paid for what was there before.
        let known = self.balances.of(channel_id).and_then(|known| known.confirmed);
        if known.is_some_and(|confirmed| confirmed <= wish.height) {
            let reason = format!("the operator names channel {channel_id}, which was there before");
            give_up(step, factory, &reason);
            return Ok(());
        }
        let text = format!("{instance}: the operator opens channel {channel_id} for {price_msat} msat");
        step.log(Level::Info, text);
        step.event(instance, LeaveOpened { channel_id, price_msat, height: step.height });
        step.effect(Effect::ReadBalances { peer });
        Ok(())
    }

    pub(crate) fn on_leave_refused(
        &self,
        step: &mut StepBuilder<'_>,
        peer: NodeId,
        message: &LeaveRefused,
    ) -> Result<(), Fault> {
        let LeaveRefused { instance, attempt, reason, retry } = message;
        let (factory, wish) = self.asked_to_leave(peer, *instance, *attempt)?;
        if wish.is_some() {
            let what = format!("the operator opens no channel: {reason}");
            // It is asked again at each block, until its time is over.
            if *retry == Some(true) {
                step.log(Level::Debug, format!("{instance}: {what}"));
                fail(step, *instance, &what);
            } else {
                give_up(step, factory, &what);
            }
            return Ok(());
        }
        let amount = self.waits_for_price(*instance, None)?;
        let priced = Priced { amount, answer: Some(Err(short(reason))) };
        step.volatile(Volatile::Leaving(VolatileLeaving::Priced(*instance, priced)));
        Ok(())
    }
}

fn ask(step: &mut StepBuilder<'_>, factory: &Factory, amount: Amount, max_price_msat: Option<u64>) {
    let (instance, attempt) = (factory.instance, factory.current.number);
    step.send(factory.lsp(), LeaveAsk { instance, attempt, amount, max_price_msat });
}

fn check(step: &mut StepBuilder<'_>, factory: &Factory, channel_id: ChannelId) {
    step.effect(Effect::CheckOrdinary { instance: factory.instance, peer: factory.lsp(), channel_id });
}

/// Nothing comes of it; the client is in the factory as before.
fn give_up(step: &mut StepBuilder<'_>, factory: &Factory, reason: &str) {
    let (instance, reason) = (factory.instance, short(reason));
    step.log(Level::Unusual, format!("{instance}: this node stays in it: {reason}"));
    step.event(instance, LeaveOver { height: step.height, reason });
}
