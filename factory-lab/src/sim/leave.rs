//! The end of a run: exits and timeouts while things go wrong, then the account.

use factory_engine::tx::scripts::DUST;
use factory_engine::types::{Amount, Height};
use factory_engine::{Command, Input, State};

use crate::world::{Fed, LSP};
use crate::{LabError, error};

use super::run::Run;

/// Blocks that censors, reorganisations and crashes may cost an exit beyond its `blocks_early`.
const SLACK: u32 = 14;

impl Run {
    /// Some leave, some wait for the timeout.
    ///
    /// # Errors
    /// A violation.
    pub(super) fn leave(&mut self) -> Result<(), LabError> {
        let all = self.all();
        if all.is_empty() {
            return Ok(());
        }
        let members = self.world.members.len();
        // When each member gives its command: in how many blocks.
        let plans: Vec<Option<u32>> = (0..members)
            .map(|at| {
                let leaves = if at == LSP { self.dice.one_in(4) } else { self.dice.one_in(3) };
                let when = self.dice.below_u32(12);
                leaves.then_some(when)
            })
            .collect();
        let of: Vec<_> =
            (0..members).map(|_| if all.len() > 1 { self.dice.below(all.len()) } else { 0 }).collect();
        let timeout = self.used.values().map(|used| used.timeout).max().unwrap_or(0);
        // Off from now until after the timeout.
        for at in 0..members {
            let goes = self.dice.one_in(if at == LSP { 4 } else { 8 });
            if self.relies_on_tower(at) || goes {
                self.falls_asleep(at)?;
                self.asleep.insert(at);
                self.slept.insert(at);
                self.world.stop(at);
            }
        }
        let mut blocks = 0;
        while self.world.chain.height() < timeout.saturating_add(4) && !self.all_out() {
            // Whoever leaves now leaves in the middle of it (S24).
            if self.dice.one_in(5) {
                self.try_buy()?;
            }
            for (at, plan) in plans.iter().enumerate() {
                let instance = of.get(at).and_then(|place| all.get(*place));
                if let Some(instance) = instance.filter(|_| plan.is_some_and(|when| when <= blocks)) {
                    self.command_exit(at, *instance)?;
                }
            }
            self.block()?;
            self.quiet(60)?;
            if self.dice.one_in(2) {
                self.try_htlc()?;
            }
            if self.dice.one_in(24) {
                self.probe_some()?;
            }
            blocks = blocks.saturating_add(1);
        }
        Ok(())
    }

    pub(super) fn command_exit(
        &mut self,
        at: usize,
        instance: factory_engine::types::InstanceId,
    ) -> Result<(), LabError> {
        let state = self.world.state(at, instance);
        // Whoever has left is refused.
        if !matches!(state, Some(State::Active | State::Dying | State::Funding | State::Left)) {
            return Ok(());
        }
        let fed = self.world.feed(at, Input::Command(Command::Exit { instance }))?;
        if at == LSP && matches!(fed, Fed::Done(Ok(_))) {
            self.evicted.insert(instance, self.world.chain.height());
        }
        Ok(())
    }

    pub(super) fn probe_some(&mut self) -> Result<(), LabError> {
        let used: Vec<_> = self.used.keys().copied().collect();
        match used.get(self.dice.below(used.len())) {
            Some((at, channel)) if self.world.is_owed(*at) && !self.is_left(*at, *channel) => {
                self.probe(*at, *channel)
            }
            _ => Ok(()),
        }
    }

    /// Whether every client that relied on a channel has its leaf or its distribution on chain.
    fn all_out(&self) -> bool {
        self.all_taken_back()
            && self.used.iter().all(|((at, channel), used)| {
                let known = self.world.members[*at].lightningd.channels.get(channel);
                let chain = &self.world.chain;
                let leaf = known.is_some_and(|known| chain.confirmed(known.outpoint.txid).is_some());
                let paid = self.gained(*at).is_ok_and(|gained| gained > Amount::ZERO);
                let paid = paid && (self.renewing.is_none() || chain.height() > used.timeout + 6);
                leaf || paid || !chain.knows(used.funding) || self.is_left(*at, *channel)
            })
    }

    /// Nothing goes wrong any more; every member does what is left to do, and the money is counted.
    ///
    /// # Errors
    /// A violation.
    pub(super) fn settle_up(&mut self) -> Result<(), LabError> {
        let slept = self.asleep.contains(&LSP);
        self.asleep.clear();
        if self.dice.one_in(4) {
            // The power comes back, for everybody at once, and things still go wrong.
            self.restart_all()?;
        }
        if let Some(chaos) = &mut self.world.chaos {
            chaos.chances.on = false;
            chaos.stalled.clear();
            chaos.crash_again.clear();
        }
        self.calm_everything();
        self.world.end_payments(true);
        self.world.end_moves();
        while self.mend(1)? {
            self.quiet(4)?;
        }
        self.quiet(20_000)?;
        for _ in 0..2 {
            self.burn(true)?;
            while self.mend(1)? {
                self.quiet(4)?;
            }
            self.quiet(20_000)?;
        }
        for _ in 0..5 {
            self.block()?;
            self.quiet(20_000)?;
        }
        self.judge_waits()?;
        self.restart_all()?;
        self.outlast()?;
        // The operator's stock comes home.
        let csv = u32::from(self.world.members[LSP].config.stock_csv);
        for _ in 0..csv.saturating_add(3) {
            self.block()?;
            self.quiet(20_000)?;
        }
        // Whoever came back with an old disk meanwhile may have made one more factory.
        self.outlast()?;
        self.conflicts()?;
        for at in 1..self.world.members.len() {
            for channel in self.world.channels_of(at) {
                let known = self.world.members[at].lightningd.channels.get(&channel);
                let on_chain = known.is_some_and(|known| self.world.chain.coin(known.outpoint).is_some());
                if on_chain {
                    self.world.close(at, channel);
                }
            }
        }
        self.block()?;
        self.block()?;
        self.count_prices()?;
        self.count_lost()?;
        self.count(slept)
    }

    /// Until everybody is out, at the latest by the timeouts.
    fn outlast(&mut self) -> Result<(), LabError> {
        let timeout = self.used.values().map(|used| used.timeout).max().unwrap_or(0);
        while self.world.chain.height() < timeout.saturating_add(8) && !self.all_out() {
            self.block()?;
            self.quiet(20_000)?;
        }
        Ok(())
    }

    /// Every node once more from its store: the last proof that it holds everything (S10), and for
    /// what may be forgotten the only moment (S12).
    fn restart_all(&mut self) -> Result<(), LabError> {
        for at in 0..self.world.members.len() {
            if at == LSP && self.gone {
                continue;
            }
            let rebuilt = self.world.rebuild(at)?;
            // What a damaged store has to say the chain says again (S33).
            let live = self.world.members[at].engine.as_ref().filter(|_| !self.world.is_damaged(at));
            if let Some(live) = live {
                self.world.judge.recovered(at, live, &rebuilt);
            }
            self.world.stop(at);
            self.world.start_with(at, rebuilt)?;
        }
        while self.mend(1)? {}
        self.quiet(20_000)
    }

    /// A funding that was spent otherwise: until that is buried, and a restart after it (S12).
    fn conflicts(&mut self) -> Result<(), LabError> {
        let Some(chaos) = &self.world.chaos else { return Ok(()) };
        let kind = crate::fault::Kind::DoubleSpend;
        if !chaos.lies.iter().any(|lie| lie.kind == kind) || !self.used.is_empty() {
            return Ok(());
        }
        let blocks = if self.dice.one_in(2) { 98 } else { 104 };
        for _ in 0..blocks {
            self.block()?;
        }
        self.restart_all()
    }

    /// S29: with everybody back nobody waits for ever.
    fn judge_waits(&mut self) -> Result<(), LabError> {
        for (at, member) in self.world.members.iter().enumerate() {
            let Some(engine) = &member.engine else { continue };
            if engine.ceremonies() > 0 {
                return Err(error(format!("S29: member {at} is in a ceremony that never ends")));
            }
        }
        // One that published an attempt's funding that it had given up is where its lie has brought it.
        let creating = |instance| self.world.state(LSP, instance).is_some_and(State::is_creating);
        if self.world.is_owed(LSP) && self.all().into_iter().any(creating) {
            return Err(error("S29: the operator waits for nothing"));
        }
        self.ended = match self.lsp_state() {
            None => "gone",
            Some(state) => state.name(),
        };
        Ok(())
    }

    /// S19: every honest client has at least what it was owed, by transactions that consensus code took.
    fn count(&mut self, slept: bool) -> Result<(), LabError> {
        for at in 1..self.world.members.len() {
            if !self.world.is_owed(at) {
                continue;
            }
            let member = &self.world.members[at].lightningd;
            let mut owed = Amount::ZERO;
            for ((owner, channel), used) in &self.used {
                let funded = self.world.chain.confirmed(used.funding).is_some();
                let gone = self.is_left(at, *channel);
                if *owner != at || !funded || gone || self.is_too_late(at, *channel, used) {
                    continue;
                }
                let balance =
                    member.channels.get(channel).map_or(0, |known| known.balances.fundee_msat / 1000);
                let balance = Amount::from_sat(balance);
                if balance >= DUST {
                    owed += balance;
                }
            }
            let has = self.gained(at)?;
            if has < owed {
                return Err(error(format!("S19: member {at} has {has} of the {owed} that it was owed")));
            }
        }
        if slept || self.gone || !self.world.is_owed(LSP) {
            return Ok(());
        }
        self.count_operator()?;
        self.count_evicted()
    }

    /// S21: an operator that was up, and lost no more blocks to faults than its margin, has every leaf
    /// on chain before a distribution could take it.
    fn count_evicted(&self) -> Result<(), LabError> {
        let margin = u32::from(self.world.members[LSP].config.margin_blocks);
        for ((at, channel), used) in &self.used {
            let lost = self.lost.get(&used.instance).copied().unwrap_or(0);
            let began = self.evicts(used.instance).filter(|_| lost <= margin);
            let Some(began) = began.filter(|_| !self.is_left(*at, *channel)) else { continue };
            // S26: it pays all that it has there, and no more, whatever miners take.
            if self.world.capped.contains(&(LSP, used.instance)) {
                continue;
            }
            // Blocks of a spike count for sales, too: nobody raises their fees yet.
            if used.sale > 0 && (self.takes_stock || self.lost_since(began) > margin) {
                continue;
            }
            let Some(known) = self.world.members[*at].lightningd.channels.get(channel) else { continue };
            let chain = &self.world.chain;
            let out = chain.confirmed(known.outpoint.txid).map(|(height, _)| height);
            let funded = chain.confirmed(used.funding).is_some();
            if funded && chain.height() > used.timeout && out.is_none_or(|out| out > used.timeout) {
                return Err(error(format!(
                    "S21: the operator was up, and the leaf of client {at} is on chain at {out:?}, not before {}",
                    used.timeout
                )));
            }
        }
        Ok(())
    }

    /// S19 for the operator: it began to evict in time, so everybody is out with a channel.
    fn count_operator(&mut self) -> Result<(), LabError> {
        for ((at, channel), used) in &self.used {
            let began = self.evicted.get(&used.instance).copied();
            let Some(began) = began.filter(|_| !self.is_left(*at, *channel)) else { continue };
            let Some(known) = self.world.members[*at].lightningd.channels.get(channel) else { continue };
            if used.sale > 0 && (self.takes_stock || self.lost_since(began) > SLACK) {
                continue; // As above.
            }
            let early = self.world.members[LSP].engine.as_ref().and_then(|engine| {
                engine.factories().map(|factory| Height::from(factory.blocks_early())).max()
            });
            let needed =
                early.unwrap_or(Height::MAX).saturating_add(SLACK).saturating_add(self.fees.hindered);
            let confirm = u32::from(self.world.members[LSP].config.confirm_blocks);
            let needed = needed.saturating_add(used.sale.saturating_mul(confirm));
            let in_time = began.saturating_add(needed) <= used.timeout;
            let funded = self.world.chain.confirmed(used.funding).is_some();
            if in_time && funded && self.world.chain.confirmed(known.outpoint.txid).is_none() {
                return Err(error(format!(
                    "S19: the operator evicted from {began} on, and client {at} is not out before {}",
                    used.timeout
                )));
            }
        }
        Ok(())
    }
}
