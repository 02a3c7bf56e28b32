//! The client: it asks, sends one HTLC after the other, and goes on after whatever stopped it.

use bitcoin::hashes::{Hash, sha256};

use crate::engine::Engine;
use crate::io::{Answer, CannotMove, ChannelBalance, Effect, Level, NodeError, Refusal, SendMove};
use crate::memory::Volatile;
use crate::memory::moving::{MoveKey, MovePhase, OwnMove, VolatileMove};
use crate::moving::{MOST_DELTA, MOST_FAILS, PATIENCE};
use crate::record::attempt::Role;
use crate::record::event::{MoveEnded, MoveOver, MoveStarted, MoveWanted};
use crate::record::factory::Factory;
use crate::record::moves::Move;
use crate::step::builder::{StepBuilder, short};
use crate::step::fault::Fault;
use crate::types::{ChannelId, InstanceId, Millis, NodeId, PaymentHash, Preimage};
use crate::wire::message::{MoveAsk, MoveReady, MoveRefused};

/// Name in lightningd of a move's own invoice.
fn label(payment_hash: PaymentHash) -> String {
    format!("cln-factory-move-{payment_hash}")
}

fn set(step: &mut StepBuilder<'_>, key: MoveKey, own: OwnMove) {
    step.volatile(Volatile::Move(VolatileMove::Own(key, Some(own))));
}

/// It waits for the next block, or the operator.
fn rest(step: &mut StepBuilder<'_>, key: MoveKey, fails: u32, why: impl Into<String>) {
    set(step, key, OwnMove { phase: MovePhase::Resting, fails, why: Some(why.into()) });
}

/// The move is over; what has arrived stays where it is.
fn over(step: &mut StepBuilder<'_>, factory: &Factory, from: ChannelId, reason: Option<&str>) {
    let (instance, reason) = (factory.instance, reason.map(short));
    let how = reason.as_ref().map_or_else(|| "is done".to_owned(), |reason| format!("ends: {reason}"));
    step.log(Level::Info, format!("{instance}: the move from channel {from} {how}"));
    step.event(instance, MoveOver { from, reason });
    step.volatile(Volatile::Move(VolatileMove::Own((instance, from), None)));
}

impl Engine {
    /// What keeps a move from going on, as far as is known: the one from this channel.
    pub fn move_waits_for(&self, from: ChannelId) -> Option<&str> {
        let own = self.moving.own.iter().find(|((_, channel), _)| *channel == from);
        own.and_then(|(_, own)| own.why.as_deref())
    }

    /// `factory-move`.
    pub(crate) fn begin_move(
        &self,
        step: &mut StepBuilder<'_>,
        from: ChannelId,
        to: ChannelId,
        amount_msat: Option<u64>,
    ) -> Result<Answer, Refusal> {
        let plan = self.plan_move(from, to, amount_msat, step.height)?;
        if !self.peers.contains(&plan.peer) {
            return Err(Refusal::OperatorAway(plan.peer));
        }
        if let Some(to) = step.moves_to(from) {
            return Err(Refusal::from(CannotMove::UnderWay { from, to }));
        }
        let instance = plan.instance;
        let factory = self.factories.get(&instance).ok_or(Refusal::Unknown(instance))?;
        let height = step.height;
        step.event(instance, MoveWanted { from, to, amount_msat, height });
        let amount = plan.amount_msat;
        step.log(
            Level::Info,
            format!("{instance}: moving {amount} msat from channel {from} to channel {to}"),
        );
        self.ask_to_move(step, factory, (from, to), amount_msat, 0);
        Ok(Answer::Done)
    }

    fn ask_to_move(
        &self,
        step: &mut StepBuilder<'_>,
        factory: &Factory,
        (from, to): (ChannelId, ChannelId),
        amount_msat: Option<u64>,
        fails: u32,
    ) {
        let (instance, attempt) = (factory.instance, factory.current.number);
        let phase = MovePhase::Asked { deadline: self.move_deadline(step) };
        set(step, (instance, from), OwnMove { phase, fails, why: None });
        step.send(factory.lsp(), MoveAsk { instance, attempt, from, to, amount_msat });
    }

    fn move_deadline(&self, step: &StepBuilder<'_>) -> Millis {
        step.now.saturating_add(self.config.ceremony_timeout)
    }

    /// What memory has of a move; of one that a restart found nothing is known.
    fn own_move(&self, key: MoveKey) -> OwnMove {
        let unknown = OwnMove { phase: MovePhase::Resting, fails: 0, why: None };
        self.moving.own.get(&key).cloned().unwrap_or(unknown)
    }

    /// Moves of which no HTLC is under way.
    fn idle_moves(&self) -> impl Iterator<Item = (&Factory, &Move, OwnMove)> {
        self.whole().flat_map(move |factory| {
            let idle = factory.moves.open().filter(|open| open.started.is_none());
            idle.map(move |open| (factory, open, self.own_move((factory.instance, open.from))))
        })
    }

    /// A block, or the operator that comes: what rests goes on. What has waited too long ends.
    pub(crate) fn resume_moves(&self, step: &mut StepBuilder<'_>, peer: Option<NodeId>) {
        for (factory, open, own) in self.idle_moves() {
            let lsp = factory.lsp();
            if peer.is_some_and(|peer| peer != lsp) {
                continue;
            }
            if step.height >= open.since.saturating_add(PATIENCE) {
                let why = own.why.as_deref().unwrap_or("the operator is not there");
                over(
                    step,
                    factory,
                    open.from,
                    Some(&format!("nothing has arrived for {PATIENCE} blocks: {why}")),
                );
            } else if own.phase == MovePhase::Resting && (peer.is_some() || self.peers.contains(&lsp)) {
                self.ask_to_move(step, factory, (open.from, open.to), open.left_msat(), own.fails);
            }
        }
    }

    /// The operator goes away: whoever waits for it rests.
    pub(crate) fn moves_peer_down(&self, step: &mut StepBuilder<'_>, peer: NodeId) {
        for (factory, open, own) in self.idle_moves().filter(|(factory, ..)| factory.lsp() == peer) {
            rest(step, (factory.instance, open.from), own.fails, "the operator is not connected");
        }
    }

    pub(crate) fn moves_tick(&self, step: &mut StepBuilder<'_>) {
        for (factory, open, own) in self.idle_moves() {
            if own.phase.deadline().is_some_and(|deadline| deadline <= step.now) {
                let why = match own.phase {
                    MovePhase::Asked { .. } => "the operator doesn't answer",
                    MovePhase::Looking { .. } | MovePhase::Resting | MovePhase::Sending { .. } => {
                        "lightningd doesn't say what the channels hold"
                    }
                };
                rest(step, (factory.instance, open.from), own.fails, why);
            }
        }
    }

    /// After a restart: what became of an HTLC that may be under way.
    pub(crate) fn moves_started(&self, step: &mut StepBuilder<'_>, factory: &Factory) {
        for part in factory.moves.open().filter_map(|open| open.started) {
            let (instance, payment_hash) = (factory.instance, part.payment_hash);
            step.effect(Effect::LookMove { instance, payment_hash, label: label(payment_hash) });
        }
    }

    /// The move that the operator answers for, if it waits for an answer.
    fn asked_move(
        &self,
        peer: NodeId,
        (instance, attempt): (InstanceId, u32),
        (from, to): (ChannelId, ChannelId),
    ) -> Result<(&Factory, &Move, OwnMove), Fault> {
        let factory = self.known(instance)?;
        let Role::Client { lsp, .. } = factory.current.role else {
            return Err(Fault::stale("this node is the operator"));
        };
        if lsp != peer || factory.current.number != attempt {
            return Err(Fault::stale("it is of another attempt, or not from the operator"));
        }
        let open = factory.moves.of(from).filter(|open| open.to == to && open.started.is_none());
        let open = open.ok_or_else(|| Fault::stale("no such move"))?;
        let own = self.own_move((instance, from));
        match own.phase {
            MovePhase::Asked { .. } => Ok((factory, open, own)),
            MovePhase::Resting | MovePhase::Looking { .. } | MovePhase::Sending { .. } => {
                Err(Fault::stale("this move waits for nothing of the kind"))
            }
        }
    }

    pub(crate) fn on_move_ready(
        &self,
        step: &mut StepBuilder<'_>,
        peer: NodeId,
        message: &MoveReady,
    ) -> Result<(), Fault> {
        let MoveReady { instance, attempt, from, to, cltv_delta } = *message;
        let (factory, _, own) = self.asked_move(peer, (instance, attempt), (from, to))?;
        if cltv_delta > MOST_DELTA {
            let why =
                format!("the operator wants {cltv_delta} blocks, more than {MOST_DELTA}, between two HTLCs");
            over(step, factory, from, Some(&why));
            return Ok(());
        }
        self.look_and_send(step, factory, from, (cltv_delta, None), own.fails);
        Ok(())
    }

    pub(crate) fn on_move_refused(
        &self,
        step: &mut StepBuilder<'_>,
        peer: NodeId,
        message: &MoveRefused,
    ) -> Result<(), Fault> {
        let MoveRefused { instance, attempt, from, to, reason } = message;
        let (factory, ..) = self.asked_move(peer, (*instance, *attempt), (*from, *to))?;
        over(step, factory, *from, Some(&format!("the operator refuses: {reason}")));
        Ok(())
    }

    /// How much the next HTLC carries follows from what both channels hold now.
    fn look_and_send(
        &self,
        step: &mut StepBuilder<'_>,
        factory: &Factory,
        from: ChannelId,
        (cltv_delta, had_msat): (u32, Option<u64>),
        fails: u32,
    ) {
        let phase = MovePhase::Looking { cltv_delta, deadline: self.move_deadline(step), had_msat };
        set(step, (factory.instance, from), OwnMove { phase, fails, why: None });
        step.effect(Effect::ReadBalances { peer: factory.lsp() });
    }

    /// What channels hold: a move that waits for it sends its next HTLC.
    pub(crate) fn moves_on_balances(&self, step: &mut StepBuilder<'_>, list: &[ChannelBalance]) {
        for (factory, open, own) in self.idle_moves() {
            let MovePhase::Looking { cltv_delta, had_msat, .. } = own.phase else { continue };
            if !list.iter().any(|channel| channel.peer == factory.lsp()) {
                continue;
            }
            let known = |id| list.iter().find(|channel| channel.channel_id == id);
            let stays = self.stays_in((open.from, open.to), step.height, known);
            match (known(open.from), known(open.to)) {
                // It has come back over the channel that it left, or as much came in otherwise.
                (Some(from), Some(_)) if had_msat.is_some_and(|had| from.to_us_msat >= had) => {
                    let why =
                        format!("an HTLC has arrived, and channel {} holds no less than before", open.from);
                    if open.left_msat() == Some(0) {
                        over(step, factory, open.from, Some(&why));
                    } else {
                        self.move_failed(step, factory, open, (why, own.fails));
                    }
                }
                _ if open.left_msat() == Some(0) => over(step, factory, open.from, None),
                (Some(from), Some(to)) => {
                    let from = super::plan::without(from, stays);
                    let fails = if had_msat.is_some() { 0 } else { own.fails };
                    self.send_part(step, factory, open, (&from, to), (cltv_delta, fails))
                }
                (None, _) => over(step, factory, open.from, Some("the channel that it leaves is gone")),
                (Some(_), None) => {
                    over(step, factory, open.from, Some("the channel that it goes to is gone"))
                }
            }
        }
    }

    fn send_part(
        &self,
        step: &mut StepBuilder<'_>,
        factory: &Factory,
        open: &Move,
        (from, to): (&ChannelBalance, &ChannelBalance),
        (cltv_delta, fails): (u32, u32),
    ) {
        let (instance, key) = (factory.instance, (factory.instance, open.from));
        let blocks = match self.may_move(from, to, cltv_delta, step.height) {
            Ok(blocks) => blocks,
            // It may become usable again, or as deep as it was.
            Err(why @ (CannotMove::Unusable(..) | CannotMove::TooYoung { .. })) => {
                return rest(step, key, fails, why.to_string());
            }
            Err(why) => return over(step, factory, open.from, Some(&why.to_string())),
        };
        let (amount_msat, limit) = match super::plan::next_part(from, to, open.left_msat()) {
            Ok(next) => next,
            // What is in flight may come back, or make room.
            Err(why) if from.htlcs || to.htlcs => return rest(step, key, fails, why.to_string()),
            Err(CannotMove::Nothing { .. } | CannotMove::TooLittle { .. }) if open.amount_msat.is_none() => {
                return over(step, factory, open.from, None);
            }
            Err(why) => return over(step, factory, open.from, Some(&why.to_string())),
        };
        let preimage = Preimage(step.rng.bytes32());
        let payment_hash = PaymentHash(sha256::Hash::hash(&preimage.0).to_byte_array());
        step.log(Level::Debug, format!("{instance}: an HTLC of {amount_msat} msat moves: {limit}"));
        step.event(instance, MoveStarted { payment_hash, from: open.from, amount_msat });
        let phase = MovePhase::Sending { cltv_delta, had_msat: from.to_us_msat };
        set(step, key, OwnMove { phase, fails, why: None });
        step.effect(Effect::SendMove(Box::new(SendMove {
            instance,
            peer: factory.lsp(),
            from: open.from,
            to: open.to,
            amount_msat,
            payment_hash,
            preimage,
            label: label(payment_hash),
            first_blocks: blocks.first,
            last_blocks: blocks.last,
        })));
    }

    /// An HTLC of a move has arrived, or never will.
    pub(crate) fn on_move_ended(
        &self,
        step: &mut StepBuilder<'_>,
        instance: InstanceId,
        payment_hash: PaymentHash,
        result: Result<(), NodeError>,
    ) {
        let Some(factory) = self.factories.get(&instance) else { return };
        let Some(open) = factory.moves.by_hash(payment_hash) else { return };
        let Some(part) = open.started else { return };
        let own = self.own_move((instance, open.from));
        let (arrived, height) = (result.is_ok(), step.height);
        step.event(instance, MoveEnded { payment_hash, arrived, height });
        match result {
            Ok(()) => {
                let moved = open.moved_msat.saturating_add(part.amount_msat);
                let is_all = open.amount_msat.is_some_and(|amount| moved >= amount);
                match own.phase {
                    MovePhase::Sending { cltv_delta, had_msat } => {
                        self.look_and_send(step, factory, open.from, (cltv_delta, Some(had_msat)), own.fails);
                    }
                    MovePhase::Resting | MovePhase::Asked { .. } | MovePhase::Looking { .. } if is_all => {
                        over(step, factory, open.from, None);
                    }
                    MovePhase::Resting | MovePhase::Asked { .. } | MovePhase::Looking { .. } => {
                        let left = open.amount_msat.map(|amount| amount.saturating_sub(moved));
                        self.ask_again(step, factory, (open.from, open.to), left, 0);
                    }
                }
            }
            Err(error) => self.move_failed(step, factory, open, (error.to_string(), own.fails)),
        }
    }

    /// An HTLC has failed, or changed nothing, after so many others.
    fn move_failed(
        &self,
        step: &mut StepBuilder<'_>,
        factory: &Factory,
        open: &Move,
        (why, fails): (String, u32),
    ) {
        let (instance, fails) = (factory.instance, fails.saturating_add(1));
        step.log(Level::Info, format!("{instance}: an HTLC of a move has failed: {why}"));
        if fails >= MOST_FAILS {
            over(step, factory, open.from, Some(&why));
        } else if fails == 1 {
            self.ask_again(step, factory, (open.from, open.to), open.left_msat(), fails);
        } else {
            rest(step, (instance, open.from), fails, why);
        }
    }

    /// At once, if the operator is there.
    fn ask_again(
        &self,
        step: &mut StepBuilder<'_>,
        factory: &Factory,
        channels: (ChannelId, ChannelId),
        left: Option<u64>,
        fails: u32,
    ) {
        if self.peers.contains(&factory.lsp()) {
            self.ask_to_move(step, factory, channels, left, fails);
        } else {
            rest(step, (factory.instance, channels.0), fails, "the operator is not connected");
        }
    }
}
