//! The course of a run: a factory is created, used and left, while things go wrong.

use std::collections::{BTreeMap, BTreeSet};

use bitcoin::Txid;
use bitcoin::hashes::Hash;
use factory_engine::types::{ChannelId, Height, InstanceId};
use factory_engine::{Role, Sold, State};

use crate::chain::FIRST;
use crate::fault::{Dice, Kind};
use crate::scenario::Scenario;
use crate::world::chaos::Chaos;
use crate::world::judged::early_of_sale;
use crate::world::{LSP, World};
use crate::{LabError, error};

use super::find::find_sold;
use super::parts::{Damage, Loss, Restore, Used};
use super::settings::own_config;

/// Steps after which a phase of a run is given up as endless.
pub(super) const MANY: u32 = 50_000;
/// Blocks that a sale has to be signed in.
pub(super) const SALE_BLOCKS: u32 = 4;
/// The part of the seed's stream that decides about everything but faults.
const SCENARIO: u64 = u64::MAX;

/// One run of the simulator under way.
pub struct Run {
    /// Members, network and chain of the run.
    pub world: World,
    /// Steps that were played so far.
    pub steps: u64,
    /// Blocks that were mined so far.
    pub blocks: u64,
    /// HTLCs that were tried, and that were admitted.
    pub htlcs: (u64, u64),
    /// Purchases that were asked for.
    pub wishes: u64,
    /// Inputs that consensus code has judged for probes.
    pub probed: u64,
    /// How it ended, in a word; `begun` until then.
    pub ended: &'static str,
    pub(super) dice: Dice,
    pub(super) instance: Option<InstanceId>,
    pub(super) used: BTreeMap<(usize, ChannelId), Used>,
    pub(super) gone: bool,
    /// Earlier factories, which `instance` renews: the oldest first.
    pub(super) before: Vec<InstanceId>,
    /// When the operator began to evict, by factory.
    pub(super) evicted: BTreeMap<InstanceId, Height>,
    /// Members that are off for long.
    pub(super) asleep: BTreeSet<usize>,
    /// Members that were off from before the timeout until after it.
    pub(super) slept: BTreeSet<usize>,
    pub(super) losses: Vec<Loss>,
    /// Blocks that an eviction under way has lost to faults, as far as we know.
    pub(super) lost: BTreeMap<InstanceId, u32>,
    /// Payments that nobody has settled yet.
    pub(super) held: Vec<super::payment::Held>,
    censored: Vec<(Txid, Height)>,
    pub(super) fees: super::parts::Fees,
    pub(super) dies_at: Option<u64>,
    pub(super) acts_at: Option<(Kind, u64)>,
    pub(super) restores: Vec<Restore>,
    pub(super) damages: Vec<Damage>,
    pub(super) takes_stock: bool,
    /// The client that strangers will invite.
    pub(super) strangers: Option<usize>,
    /// Blocks in a row that the operator has handled with somebody connected, and its start before them.
    sells: (u32, u32),
    /// What is going to happen where factories are renewed.
    pub(super) renewing: Option<super::renewing::Renewing>,
    /// What is going to happen where operators keep copies.
    pub(super) losing: Option<super::losing::Losing>,
    /// Who watches for whom, where somebody does.
    pub(super) watched: Option<super::watching::Watching>,
}

impl Run {
    /// A world that is ready, and what is going to happen in it.
    ///
    /// # Errors
    /// When the nodes don't come up.
    pub fn new(seed: u64, clients: usize, chaos: Chaos) -> Result<Self, LabError> {
        let mut dice = Dice::new(seed, SCENARIO);
        let confirmations = if dice.one_in(2) { 3 } else { 1 };
        let mut renewing = super::renewing::Renewing::of(seed);
        let mut losing = super::losing::Losing::of(seed);
        let mut scenario = Scenario::new(seed).clients(clients).short_delays().config(|config| {
            config.stock_csv = 5;
            config.funding_confirmations = confirmations;
            config.bounds.min_funding_confirmations = confirmations;
            config.sale_blocks = SALE_BLOCKS;
            config.credit_blocks = 9;
        });
        for at in 0..=clients {
            scenario = scenario.config_of(at, |own| {
                *own = own_config(own, at, &mut dice);
                if let Some(renewing) = &mut renewing {
                    renewing.configure(own, at);
                }
                if let Some(losing) = &mut losing {
                    losing.configure(own, at);
                }
            });
        }
        let world = scenario.world()?;
        let mut run = Self {
            world,
            steps: 0,
            blocks: 0,
            htlcs: (0, 0),
            wishes: 0,
            probed: 0,
            ended: "begun",
            dice,
            instance: None,
            used: BTreeMap::new(),
            gone: false,
            before: vec![],
            evicted: BTreeMap::new(),
            asleep: BTreeSet::new(),
            slept: BTreeSet::new(),
            losses: vec![],
            lost: BTreeMap::new(),
            held: vec![],
            censored: vec![],
            fees: super::parts::Fees::new(seed),
            dies_at: None,
            acts_at: None,
            restores: vec![],
            damages: vec![],
            takes_stock: false,
            strangers: None,
            sells: (0, 0),
            renewing,
            losing,
            watched: super::watching::Watching::of(seed, clients),
        };
        run.give_coins();
        run.world.mine(8)?;
        run.set_up_tower()?;
        run.world.chaos = Some(Box::new(chaos));
        run.choose_people(clients);
        run.choose_renewers(clients);
        run.choose_losers(clients);
        Ok(run)
    }

    pub(super) fn roll(&mut self, kind: Kind, text: impl FnOnce() -> String) -> Option<Dice> {
        self.world.chaos.as_mut()?.chances.roll(kind, text)
    }

    /// Everything.
    ///
    /// # Errors
    /// A violation, with its property in front.
    pub fn play(&mut self) -> Result<(), LabError> {
        self.create()?;
        self.live()?;
        self.renew()?;
        self.leave()?;
        self.settle_up()
    }

    /// Blocks until the channels are usable, and a few more; payments and purchases.
    fn live(&mut self) -> Result<(), LabError> {
        let blocks = 4 + self.dice.below(4);
        self.meet_strangers()?;
        for _ in 0..blocks {
            self.block()?;
            self.quiet(400)?;
            for _ in 0..3 {
                self.try_htlc()?;
            }
            if self.dice.one_in(2) {
                let dozer = self.doze();
                self.try_buy()?;
                self.wake(dozer);
            }
        }
        if self.dice.one_in(4) {
            self.finish_sales()?;
        }
        Ok(())
    }

    /// Sales that are signed, as far as the operator knows.
    pub fn sales(&self) -> u64 {
        let engine = self.world.members[LSP].engine.as_ref();
        let sales =
            engine.into_iter().flat_map(|engine| engine.factories()).flat_map(|f| f.current.sales.all());
        u64::try_from(sales.filter(|sold| sold.is_signed()).count()).unwrap_or(u64::MAX)
    }

    /// One thing that happens; false where nothing can.
    pub(super) fn tick(&mut self) -> Result<bool, LabError> {
        self.steps = self.steps.saturating_add(1);
        if self.dies_at.is_some_and(|at| self.steps >= at) && !self.gone {
            self.gone = true;
            self.world.stop(LSP);
        }
        if let Some((kind, at)) = self.acts_at
            && self.steps >= at
            && self.act(kind)
        {
            self.acts_at = None;
        }
        self.renewal_tick()?;
        self.restore()?;
        self.damage();
        self.burn(false)?;
        self.answer_invitations()?;
        let clients = self.world.members.len().saturating_sub(1);
        let client = self.dice.below(clients).saturating_add(1);
        if let Some(mut dice) = self.roll(Kind::Cut, || format!("member {client}")) {
            self.world.disconnect(LSP, client);
            self.cut_tower(client, &mut dice);
        }
        let mended = self.mend(12)?;
        if self.world.step()? {
            return Ok(true);
        }
        // Time passes once everybody is back, or nobody can come back.
        Ok(mended || self.world.advance()?)
    }

    /// Members come back, connections too, each with one chance in `of`. Whether something is left to
    /// mend.
    pub(super) fn mend(&mut self, of: usize) -> Result<bool, LabError> {
        let mut left = false;
        for at in 0..self.world.members.len() {
            let away = (at == LSP && self.gone) || self.asleep.contains(&at);
            if self.world.members[at].engine.is_some() || away {
                continue;
            }
            left = true;
            if self.dice.one_in(of) {
                let again = self.roll(Kind::CrashAgain, || format!("member {at}")).is_some();
                if let (Some(chaos), true) = (&mut self.world.chaos, again) {
                    chaos.crash_again.insert(at);
                }
                self.world.start(at)?;
            }
        }
        left |= self.meet_tower(of)?;
        if self.gone || self.world.members[LSP].engine.is_none() {
            return Ok(left);
        }
        for client in 1..self.world.members.len() {
            if self.world.members[client].engine.is_some() && !self.world.connected(LSP, client) {
                left = true;
                if self.dice.one_in(of) {
                    self.world.connect(LSP, client)?;
                }
            }
        }
        Ok(left)
    }

    /// Until nothing happens any more, or for some steps.
    pub(super) fn quiet(&mut self, steps: u32) -> Result<(), LabError> {
        for _ in 0..steps {
            if !self.tick()? {
                break;
            }
        }
        Ok(())
    }

    /// A block, and whatever the chain does besides; everybody handles it.
    pub(super) fn block(&mut self) -> Result<(), LabError> {
        self.blocks = self.blocks.saturating_add(1);
        self.judge_tower()?;
        self.renewal_block()?;
        let height = self.world.chain.height();
        let deepest = height.saturating_sub(FIRST + 8).min(6);
        let text = || format!("height {height}");
        if let Some(mut dice) = self.roll(Kind::Reorg, text) {
            let depth = dice.below_u32(deepest).saturating_add(1).min(deepest);
            self.lose(depth.saturating_add(1));
            self.world.chain.reorg(depth);
            self.world.mine_quietly(depth);
        }
        if let Some(mut dice) = self.roll(Kind::ReorgDrop, text) {
            let depth = dice.below_u32(deepest).saturating_add(1).min(deepest);
            self.lose(depth.saturating_add(1));
            self.world.chain.reorg_and_drop(depth);
            self.world.mine_quietly(depth);
        }
        if let Some(mut dice) = self.roll(Kind::Censor, text) {
            let waiting = self.world.chain.mempool();
            if let Some(tx) = waiting.get(dice.below(waiting.len())) {
                let until = height.saturating_add(1).saturating_add(dice.below_u32(3));
                self.censored.push((tx.compute_txid(), until));
            }
        }
        if self.roll(Kind::SlowBlock, text).is_some() {
            self.world.now = self.world.now.saturating_add(3 * 3_600_000);
        }
        if self.dice.one_in(2) {
            self.world.end_payments(false);
        }
        self.market();
        self.foreign_spends();
        self.close_alone();
        self.censored.retain(|(_, until)| *until > height);
        self.lose(u32::from(!self.censored.is_empty()));
        let censored: BTreeSet<Txid> = self.censored.iter().map(|(txid, _)| *txid).collect();
        self.world.chain.mine_without(|tx| censored.contains(&tx.compute_txid()));
        let height = self.world.chain.height();
        let hash = self.world.chain.block(height).map(|block| block.hash.to_byte_array()).unwrap_or_default();
        if let Some(chaos) = &mut self.world.chaos {
            chaos.trace.note("block", 0, &hash);
            chaos.trace.line(|| format!("block {height}"));
        }
        for at in 0..self.world.members.len() {
            if self.world.members[at].engine.is_some() {
                self.world.sync(at)?;
                self.world.publish_commitments(at);
            }
        }
        if self.world.seen(LSP) != Some(height) {
            self.lose(1);
        }
        for at in 1..self.world.members.len() {
            let hindered = self.world.members[at].lightningd.locked;
            self.note_loss(Some(at), u32::from(hindered || self.world.seen(at) != Some(height)));
        }
        self.show_htlcs()?;
        self.judge_paid()?;
        self.world.judge_chain();
        self.world.judge_reservations();
        if let Some(violation) = self.world.judge.violations.first() {
            return Err(error(violation));
        }
        self.note_usable();
        Ok(())
    }

    /// S36: what was paid for a sale is that sale, or the buyer's again, in so many blocks of an operator that is
    /// up and has somebody to talk to.
    fn judge_paid(&mut self) -> Result<(), LabError> {
        let height = self.world.chain.height();
        let starts = self.world.members[LSP].starts;
        let talks = (1..self.world.members.len()).any(|client| self.world.connected(LSP, client));
        let up = self.world.seen(LSP) == Some(height) && talks;
        let row = if up && self.sells.1 == starts { self.sells.0.saturating_add(1) } else { 0 };
        self.sells = (row, starts);
        let Some(engine) = self.world.members[LSP].engine.as_ref().filter(|_| row > 4) else { return Ok(()) };
        if !self.world.is_owed(LSP) {
            return Ok(());
        }
        let sales = engine.factories().flat_map(|factory| factory.current.sales.all());
        let waits = |sold: &&Sold| {
            !sold.is_signed() && sold.void.is_none() && height > sold.begun.saturating_add(SALE_BLOCKS)
        };
        match sales.into_iter().find(waits) {
            Some(sold) => Err(error(format!(
                "S36: sale {}, paid at {}, is neither signed nor given up at {height}",
                sold.sale.number, sold.begun
            ))),
            None => Ok(()),
        }
    }

    /// Blocks that do not count for an eviction.
    pub(super) fn lose(&mut self, blocks: u32) {
        self.note_loss(None, blocks);
        for instance in self.all() {
            let Some(evicts) = self.evicts(instance) else { continue };
            self.evicted.entry(instance).or_insert(evicts);
            let lost = self.lost.entry(instance).or_default();
            *lost = lost.saturating_add(blocks);
        }
    }

    /// Every factory of the run, the newest last.
    pub(super) fn all(&self) -> Vec<InstanceId> {
        self.before.iter().copied().chain(self.instance).collect()
    }

    /// The height at which the operator began to evict.
    pub(super) fn evicts(&self, instance: InstanceId) -> Option<Height> {
        let engine = self.world.members[LSP].engine.as_ref()?;
        let factory = engine.factory(instance)?;
        factory.current.eviction.as_ref().map(|(height, _)| *height)
    }

    /// Which channels clients rely on.
    fn note_usable(&mut self) {
        for (at, member) in self.world.members.iter().enumerate().skip(1) {
            let Some(engine) = &member.engine else { continue };
            for (channel, policy) in engine.channel_policies() {
                if policy.usable.is_err() || self.used.contains_key(&(at, channel)) {
                    continue;
                }
                let Some(factory) = engine.factory(policy.instance) else { continue };
                let Role::Client { index: client, .. } = factory.current.role else { continue };
                let instance = factory.instance;
                let attempts = factory.attempts();
                let fits = |tree: &factory_engine::tx::tree::Tree| {
                    let ids = (0..factory.current.terms.clients())
                        .filter_map(|client| tree.channel_outpoint(client));
                    ids.map(ChannelId::of).any(|id| id == channel)
                };
                let tree = attempts.filter_map(|attempt| attempt.tree.as_ref()).find(|tree| fits(tree));
                let sold = find_sold(engine, channel);
                if let Some(tree) = tree {
                    let timeout = factory.current.terms.timeout_height;
                    let funding = tree.funding().txid;
                    let used = Used { instance, client, funding, timeout, sale: 0, leaves: timeout };
                    self.used.insert((at, channel), used);
                } else if let Some((attempt, sold)) = sold
                    && let Some(funding) = attempt.funding()
                {
                    let (timeout, sale) = (attempt.terms.timeout_height, sold.sale.number);
                    let early = early_of_sale(&attempt.layout, sold.sale.buyer, sale);
                    let leaves = timeout.saturating_sub(early);
                    let funding = funding.txid;
                    self.used
                        .insert((at, channel), Used { instance, client, funding, timeout, sale, leaves });
                }
            }
        }
    }

    /// The operator's state, and whether it is up.
    pub(super) fn lsp_state(&self) -> Option<State> {
        self.world.state(LSP, self.instance?)
    }
}
