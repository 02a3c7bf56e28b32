//! The course of the years.

use std::collections::{BTreeMap, BTreeSet};

use bitcoin::Txid;
use factory_engine::policy::Policy;
use factory_engine::types::{Amount, Height, InstanceId, NodeId};
use factory_engine::{Answer, Command, Factory, Input, Role, State};

use crate::chain::Market;
use crate::fault::Dice;
use crate::offer::Offer;
use crate::scenario::Scenario;
use crate::world::{Fed, LSP, RESERVE_MSAT, World};
use crate::{LabError, error};

use super::economy::Economy;
use super::lies::{Lies, may_lie};
use super::people::Person;
use super::schedule::{Due, next};
use super::{DAY, Settings, YEAR};

/// The part of the seed's stream that decides about everything but people.
const STREAM: u64 = 1 << 41;
/// What the operator gives in each channel, msat: what stays behind in the one before.
const PUSH_MSAT: u64 = RESERVE_MSAT;
/// Capacity of each channel and stock of each sub-factory, sat.
const CAPACITY: u64 = 200_000;
const STOCK: u64 = 60_000;
/// What a client is paid when it joins first, sat.
const FIRST: u64 = 60_000;
/// Payments that are tried in each hour, and what each is at most, sat.
const PAYMENTS: usize = 4;
const MOST: u64 = 2_000;
/// The hour of the evening at which a rung begins.
const EVENING: u32 = 20;

pub(super) struct Years<'a> {
    settings: &'a Settings,
    say: &'a mut dyn FnMut(String),
    world: World,
    dice: Dice,
    people: Vec<Person>,
    here: BTreeSet<usize>,
    /// Height of the hour 0, and of the block from which on it counts.
    began: Height,
    counts_from: Height,
    /// The operator's factories, in order; those that were told to have ended.
    made: Vec<InstanceId>,
    ended: BTreeSet<InstanceId>,
    /// Clients that were paid when they joined.
    joined: BTreeSet<usize>,
    left: BTreeSet<(usize, InstanceId)>,
    evicted: BTreeSet<(usize, InstanceId)>,
    /// What each client has been paid, less what it has paid, msat, with what came with its channels.
    owns: BTreeMap<usize, u64>,
    economy: Economy,
    storm: Option<Height>,
    /// Who lies, if anybody does.
    lies: Option<Lies>,
    /// Whether the last rung came to nothing.
    again: bool,
}

impl<'a> Years<'a> {
    pub(super) fn new(settings: &'a Settings, say: &'a mut dyn FnMut(String)) -> Result<Self, LabError> {
        let (dying, lifetime) = (settings.ladder.dying_blocks(), settings.ladder.lifetime_blocks());
        let scenario = Scenario::new(settings.seed).clients(settings.clients).offline().unchecked();
        let scenario = scenario.short_delays().lifetime(lifetime, dying).config(|config| {
            config.push_msat = PUSH_MSAT;
            config.policy = Policy::Auto;
            config.renew = Policy::Auto;
            // An hour's blocks are one here.
            config.funding_confirmations = 1;
            config.bounds.min_funding_confirmations = 1;
            config.handover_depth = 2;
            config.reclaim_blocks = DAY;
            config.sale_blocks = 12;
        });
        let mut world = scenario.world()?;
        for _ in 0..settings.clients / 100 + 8 {
            let script = world.members[LSP].lightningd.new_script();
            world.chain.mint(script, Amount::from_sat(60_000_000));
        }
        for _ in 0..40 {
            let script = world.members[LSP].lightningd.new_script();
            world.chain.mint(script, Amount::from_sat(1_000_000));
        }
        world.members[LSP].lightningd.packages = true;
        world.mine(1)?;
        let people: Vec<Person> =
            (1..=settings.clients).map(|number| Person::new(settings.seed, number)).collect();
        let mut economy = Economy { clients: settings.clients, ..Economy::default() };
        for person in &people {
            *economy.habits.entry(person.habit).or_default() += 1;
        }
        // The hour of a rung is in the evening.
        let rung = settings.ladder.rung_blocks;
        let now = world.chain.height();
        let began = now.next_multiple_of(rung).saturating_sub(EVENING);
        let began = if began < now { began.saturating_add(rung) } else { began };
        world.mine_quietly(began.saturating_sub(now));
        let lies = settings.lies.then(|| Lies::new(settings.seed, &mut world));
        let ramp = rung.saturating_mul(settings.cohorts.saturating_sub(1)).saturating_add(2 * DAY);
        Ok(Self {
            settings,
            say,
            dice: Dice::new(settings.seed, STREAM),
            people,
            here: BTreeSet::new(),
            began,
            counts_from: began.saturating_add(ramp),
            made: vec![],
            ended: BTreeSet::new(),
            joined: BTreeSet::new(),
            left: BTreeSet::new(),
            evicted: BTreeSet::new(),
            owns: BTreeMap::new(),
            economy,
            storm: None,
            lies,
            again: false,
            world,
        })
    }

    pub(super) fn play(mut self) -> Result<Economy, LabError> {
        let until = self.counts_from.saturating_add(self.settings.hours);
        while self.world.chain.height() < until {
            self.hour()?;
        }
        self.economy.years = f64::from(self.settings.hours) / f64::from(YEAR);
        self.economy.checks = self.world.chain.script_checks();
        self.economy.lies = self.lies.as_ref().map(Lies::told).unwrap_or_default();
        self.count_purses()?;
        Ok(self.economy)
    }

    fn counts(&self) -> bool {
        self.world.chain.height() >= self.counts_from
    }

    fn day(&self) -> u32 {
        self.world.chain.height().saturating_sub(self.began) / DAY
    }

    /// Whether a member's node is up: the operator's may be gone.
    fn is_up(&self, at: usize) -> bool {
        self.world.members.get(at).is_some_and(|member| member.engine.is_some())
    }

    fn hour(&mut self) -> Result<(), LabError> {
        if let Some(lies) = &mut self.lies {
            lies.hour(&mut self.world, &self.here)?;
        }
        self.come_and_go()?;
        self.go_between()?;
        if self.settings.troubles {
            self.troubles()?;
        }
        self.make_factories()?;
        self.pay();
        self.buy()?;
        self.block()?;
        self.go_between()?;
        let hour = self.world.chain.height().saturating_sub(self.began);
        if hour.is_multiple_of(12) {
            self.note();
        }
        if hour.is_multiple_of(5 * DAY) {
            self.world.judge_chain();
        }
        if hour.is_multiple_of(DAY) {
            self.tidy();
        }
        match self.world.judge.violations.first() {
            Some(violation) => Err(error(violation)),
            None => Ok(()),
        }
    }

    fn go_between(&mut self) -> Result<(), LabError> {
        self.lies.as_mut().map_or(Ok(()), |lies| lies.go_between(&mut self.world))
    }

    /// Who is there is connected, and knows the chain.
    fn come_and_go(&mut self) -> Result<(), LabError> {
        let hour = self.world.chain.height().saturating_sub(self.began);
        for at in 1..=self.settings.clients {
            let place = at.saturating_sub(1);
            let is_there = self.people.get_mut(place).is_some_and(|person| person.is_there(hour));
            if is_there && self.here.insert(at) {
                self.world.follow_chain(at)?;
                if self.is_up(LSP) {
                    self.world.connect(LSP, at)?;
                }
            } else if !is_there && self.here.remove(&at) {
                self.world.disconnect(LSP, at);
            }
        }
        self.world.settle()
    }

    /// A node crashes and comes back; fees storm for a day.
    fn troubles(&mut self) -> Result<(), LabError> {
        let height = self.world.chain.height();
        if self.dice.one_in(40) {
            let here: Vec<usize> = self.here.iter().copied().collect();
            let at = here.get(self.dice.below(here.len())).copied();
            // The operator once a month.
            let at = if self.dice.one_in(18) { Some(LSP) } else { at };
            if let Some(at) = at.filter(|at| self.is_up(*at)) {
                self.economy.troubles.0 += 1;
                self.world.stop(at);
                self.world.start(at)?;
                let here = self.here.iter().copied().filter(|client| at == LSP || *client == at);
                for client in here.filter(|_| self.is_up(LSP)).collect::<Vec<_>>() {
                    self.world.connect(LSP, client)?;
                }
                self.world.settle()?;
            }
        }
        if self.dice.one_in(usize::try_from(60 * DAY).unwrap_or(1)) && self.storm.is_none() {
            self.economy.troubles.1 += 1;
            self.storm = Some(height.saturating_add(DAY));
            self.world.chain.market = Market { floor: 2_500, inclusion: 5_000, strict: false };
        }
        if self.storm.is_some_and(|until| height >= until) {
            self.storm = None;
            self.world.chain.market = Market::default();
        }
        Ok(())
    }

    /// Each client's newest factory, as the operator knows it; nothing for one whose factory is being made.
    fn newest(&self) -> Result<BTreeMap<NodeId, Option<&Factory>>, LabError> {
        let height = self.world.chain.height();
        let mut newest: BTreeMap<NodeId, Option<&Factory>> = BTreeMap::new();
        for factory in self.world.engine(LSP)?.factories() {
            let state = factory.state(height);
            if matches!(state, State::Aborted | State::Closed) {
                continue;
            }
            for node in &factory.current.clients {
                let known = newest.entry(*node).or_insert(Some(factory));
                if state.is_creating() || state == State::Funding {
                    *known = None;
                } else if known.is_some_and(|known| ends(known) < ends(factory)) {
                    *known = Some(factory);
                }
            }
        }
        Ok(newest)
    }

    fn due(&self) -> Result<Vec<Due>, LabError> {
        let height = self.world.chain.height();
        let newest = self.newest()?;
        let mut due = vec![];
        for client in self.here.iter().copied() {
            let id = self.world.members[client].id;
            match newest.get(&id) {
                Some(None) => {}
                None => {
                    // Each joins on the rung of its cohort.
                    let cohort = u32::try_from(client).unwrap_or(0) % self.settings.cohorts.max(1);
                    let from = self.settings.ladder.rung_blocks.saturating_mul(cohort);
                    if height >= self.began.saturating_add(from) {
                        due.push(Due { client, timeout: None });
                    }
                }
                Some(Some(factory)) => {
                    let out = factory.client_of(id).is_some_and(|index| factory.leaf_height(index).is_some());
                    if out {
                        due.push(Due { client, timeout: None });
                    } else if factory.is_due(height) {
                        due.push(Due { client, timeout: Some(ends(factory)) });
                    }
                }
            }
        }
        Ok(due)
    }

    fn make_factories(&mut self) -> Result<(), LabError> {
        let height = self.world.chain.height();
        // A rung whose factory came to nothing is tried again, and so is one at which there was no operator.
        let rung = height.is_multiple_of(self.settings.ladder.rung_blocks) || self.again;
        self.again = rung && !self.is_up(LSP);
        if !self.is_up(LSP) {
            return Ok(());
        }
        let due = self.due()?;
        for clients in next(&self.settings.ladder, height, rung, &due) {
            self.make(&clients)?;
        }
        Ok(())
    }

    fn make(&mut self, clients: &[usize]) -> Result<(), LabError> {
        let ladder = &self.settings.ladder;
        let offer = Offer {
            capacity: Amount::from_sat(CAPACITY),
            stock: Amount::from_sat(STOCK),
            // An invitation takes some blocks.
            lifetime_blocks: ladder.lifetime_blocks().saturating_add(1),
            dying_blocks: ladder.dying_blocks(),
            ..Offer::default()
        };
        if self.storm.is_some() {
            // No client signs for less than what a storm asks (S32).
            self.again = true;
            return Ok(());
        }
        let create = self.world.create_command(clients, &offer)?;
        let had: Vec<u64> = clients.iter().map(|client| self.world.purse_msat(*client)).collect();
        let instance = match self.world.feed(LSP, Input::Command(Command::Create(create)))? {
            Fed::Done(Ok(Answer::Created(instance))) => instance,
            Fed::Done(Err(why)) => return Err(error(format!("the operator makes no factory: {why}"))),
            other => return Err(error(format!("factory-create: {other:?}"))),
        };
        let creating = |world: &World| world.state(LSP, instance).is_some_and(State::is_creating);
        self.world.run_until("creation has ended", |world| !creating(world))?;
        self.world.settle()?;
        self.made.push(instance);
        let state = self.world.state(LSP, instance);
        let day = self.day();
        let factory = self.world.factory(LSP, instance)?;
        let inside = factory.current.clients.len();
        let roots = factory.promised().count();
        // What a channel of an attempt that came to nothing holds counts neither for nor against anybody.
        let mut gained = vec![];
        for (client, had_msat) in clients.iter().zip(had) {
            let msat = self.world.purse_msat(*client).saturating_sub(had_msat);
            let is_in = factory.client_of(self.world.members[*client].id).is_some();
            if state == Some(State::Funding) && is_in && msat < PUSH_MSAT {
                return Err(error(format!("client {client} is given {msat} msat in a new channel")));
            }
            gained.push((*client, msat));
        }
        for (client, msat) in gained {
            *self.owns.entry(client).or_default() += msat;
        }
        if state != Some(State::Funding) {
            let why = self.world.failure(LSP, instance).unwrap_or_default();
            (self.say)(format!("day {day:4}: a factory of {} came to nothing: {why}", clients.len()));
            self.again = true;
            return Ok(());
        }
        let number = self.made.len();
        let with = match roots {
            0 => String::new(),
            1 => ", its funding spends the root of an earlier one".to_owned(),
            more => format!(", its funding spends the roots of {more} earlier ones"),
        };
        (self.say)(format!("day {day:4}: factory {number} with {inside} clients{with}"));
        if self.counts() {
            let (made, places, rooted) = &mut self.economy.factories;
            *made += 1;
            *places += u64::try_from(inside).unwrap_or(0);
            *rooted += u64::from(roots > 0);
        }
        Ok(())
    }

    /// Payments between clients that are there.
    fn pay(&mut self) {
        let here: Vec<usize> = self.here.iter().copied().filter(|at| self.joined.contains(at)).collect();
        for _ in 0..PAYMENTS {
            let from = here.get(self.dice.below(here.len())).copied();
            let to = here.get(self.dice.below(here.len())).copied();
            let (Some(from), Some(to)) = (from, to) else { return };
            let msat = (1 + self.dice.next_number() % MOST) * 1000;
            if from == to {
                continue;
            }
            let result = self.world.pay(from, to, msat);
            let counts = self.counts();
            self.economy.payments.0 += u64::from(counts);
            match result {
                Ok(()) => {
                    self.economy.payments.1 += u64::from(counts);
                    self.moved(from, to, msat);
                }
                Err(why) if counts => {
                    let why = why.to_string();
                    let why = why.split_once(": ").map_or(why.as_str(), |(_, why)| why);
                    let letters = |word: &&str| !word.contains(|digit: char| digit.is_ascii_digit());
                    let why: Vec<&str> = why.split(' ').filter(letters).collect();
                    *self.economy.refused.entry(why.join(" ")).or_default() += 1;
                }
                Err(_) => {}
            }
        }
    }

    fn moved(&mut self, from: usize, to: usize, msat: u64) {
        if from != LSP {
            let has = self.owns.entry(from).or_default();
            *has = has.saturating_sub(msat);
        }
        if to != LSP {
            let has = self.owns.entry(to).or_default();
            *has = has.saturating_add(msat);
        }
    }

    /// Now and then somebody buys out of its stock.
    fn buy(&mut self) -> Result<(), LabError> {
        if !self.dice.one_in(30) || !self.is_up(LSP) {
            return Ok(());
        }
        let here: Vec<usize> = self.here.iter().copied().filter(|at| self.joined.contains(at)).collect();
        let Some(client) = here.get(self.dice.below(here.len())).copied() else { return Ok(()) };
        let height = self.world.chain.height();
        let own = self.world.engine(client)?.factories().find(|own| own.state(height) == State::Active);
        let Some(instance) = own.map(|own| own.instance) else { return Ok(()) };
        let counts = u64::from(self.counts());
        // Whoever may not is told so.
        let asked = self.world.ask(client, instance, 20_000, 0)?.is_ok();
        self.economy.sales.0 += u64::from(asked) * counts;
        let before =
            self.world.factory(client, instance)?.own_sales().filter(|sold| sold.is_signed()).count();
        self.world.settle()?;
        let after = self.world.factory(client, instance)?.own_sales().filter(|sold| sold.is_signed()).count();
        if after > before {
            self.economy.sales.1 += counts;
            *self.owns.entry(client).or_default() += PUSH_MSAT;
        }
        Ok(())
    }

    /// A block, an hour later: whoever is there handles it.
    fn block(&mut self) -> Result<(), LabError> {
        self.world.chain.mine();
        self.world.now = self.world.now.saturating_add(3_600_000);
        self.count_block();
        let there = std::iter::once(LSP).chain(self.here.iter().copied());
        let there: Vec<usize> = there.filter(|at| self.is_up(*at)).collect();
        for at in there.iter().copied() {
            self.world.follow_chain(at)?;
            self.world.publish_commitments(at);
        }
        self.world.settle()?;
        for at in there {
            let due = self.world.engine(at)?.poll_timeout().is_some_and(|due| due <= self.world.now);
            if due {
                self.world.feed(at, Input::Tick)?;
            }
        }
        self.world.settle()
    }

    /// What the block has, and what is locked.
    fn count_block(&mut self) {
        if !self.counts() {
            return;
        }
        let Some(block) = self.world.chain.block(self.world.chain.height()) else { return };
        for tx in &block.txs {
            let kind = self.kind(tx.compute_txid());
            *self.economy.vbytes.entry(kind).or_default() += u64::try_from(tx.vsize()).unwrap_or(0);
        }
    }

    fn kind(&self, txid: Txid) -> &'static str {
        let sent = self.world.sent.iter().rev().find(|sent| sent.txid == txid);
        match sent.map(|sent| sent.what.as_str()) {
            None if self.lies.as_ref().is_some_and(|lies| lies.has_published(txid)) => "published",
            None => {
                let fundings = self.made.iter().filter_map(|of| self.world.factory(LSP, *of).ok()?.funding());
                if fundings.into_iter().any(|funding| funding.txid == txid) { "fundings" } else { "children" }
            }
            Some(what) if what.starts_with("reclaim") => "reclaims",
            Some("commitment") => "closes",
            Some(what) if what.contains("stock") => "stock",
            Some(_) => "evictions",
        }
    }

    /// Twice a day: who has joined, left, been evicted; who could not be paid.
    fn note(&mut self) {
        let height = self.world.chain.height();
        let (counts, up, first_msat) = (self.counts(), self.is_up(LSP), FIRST * 1000);
        for at in self.here.clone() {
            let Some(engine) = &self.world.members[at].engine else { continue };
            let mut usable = false;
            let mut left = vec![];
            let mut out = vec![];
            for factory in engine.factories() {
                let Role::Client { index, .. } = factory.current.role else { continue };
                usable |= factory.channel_usable(index, height).is_ok();
                if factory.has_left() {
                    left.push(factory.instance);
                } else if factory.leaf_height(index).is_some() {
                    out.push(factory.instance);
                }
            }
            self.note_ends(at, counts, left, out);
            if self.joined.contains(&at) && counts {
                self.economy.hours.0 += 1;
                self.economy.hours.1 += u64::from(!usable);
            } else if usable && up && self.joined.insert(at) && self.world.pay(LSP, at, first_msat).is_ok() {
                self.moved(LSP, at, first_msat);
            }
        }
        if counts {
            self.note_capital();
        }
    }

    fn note_ends(&mut self, at: usize, counts: bool, left: Vec<InstanceId>, out: Vec<InstanceId>) {
        let habit = self.people.get(at.saturating_sub(1)).map(|person| person.habit);
        for instance in left {
            self.economy.renewals += u64::from(self.left.insert((at, instance)) && counts);
        }
        for instance in out {
            if self.evicted.insert((at, instance)) {
                let (day, habit) = (self.day(), habit.unwrap_or(super::people::Habit::Always));
                let own = self.world.members.get(at).map(|member| &member.log);
                let told = own.into_iter().flatten().rev().find(|(_, line)| line.contains("not renewed"));
                let why =
                    told.and_then(|(_, line)| line.split_once(": not renewed, ")).map_or("", |(_, why)| why);
                (self.say)(format!("day {day:4}: client {at} ({}) was evicted: {why}", habit.name()));
                *self.economy.evicted.entry(habit).or_default() += u64::from(counts);
            }
        }
    }

    /// What the operator's factories have locked, and what of it somebody's newest channel stands on.
    fn note_capital(&mut self) {
        let Ok(newest) = self.newest() else { return };
        let Some(engine) = &self.world.members[LSP].engine else { return };
        let mut locked = 0;
        let here = |factory: &&Factory| {
            factory.funding().is_some_and(|funding| self.world.chain.coin(funding).is_some())
        };
        for factory in engine.factories().filter(here) {
            locked += u128::from(factory.current.layout.funding_value().to_sat());
        }
        let mut used = 0;
        for factory in newest.into_values().flatten().filter(here) {
            let clients = factory.current.clients.len().max(1);
            let value = u128::from(factory.current.layout.funding_value().to_sat());
            used += value.checked_div(u128::try_from(clients).unwrap_or(1)).unwrap_or(0);
        }
        self.economy.locked.0 += locked;
        self.economy.locked.1 += used;
    }

    /// What is over leaves memory, as in the plugin.
    fn tidy(&mut self) {
        let height = self.world.chain.height();
        for at in 0..self.world.members.len() {
            for instance in self.world.archive(at, height) {
                if at == LSP && self.ended.insert(instance) && self.counts() {
                    self.economy.lifetimes += 1;
                }
            }
        }
    }

    /// Every millisatoshi that a client was paid and has not paid is in its channels.
    fn count_purses(&self) -> Result<(), LabError> {
        // Whoever may lie is owed nothing.
        let honest = |client: &usize| self.lies.is_none() || !may_lie(*client);
        for (client, owns) in self.owns.iter().filter(|(client, _)| honest(client)) {
            let has = self.world.purse_msat(*client);
            if has != *owns {
                return Err(error(format!(
                    "S37: client {client} has {has} msat in its channels, and owns {owns}"
                )));
            }
        }
        Ok(())
    }
}

fn ends(factory: &Factory) -> Height {
    factory.current.terms.timeout_height
}
