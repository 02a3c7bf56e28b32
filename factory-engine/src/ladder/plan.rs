//! What a ladder will need, before anything starts: rung by rung, the capital, the transactions and their size.
//! Pure arithmetic over the layouts of the factories that live and of those to come.
//!
//! What is assumed: of each factory's clients so many percent join the first rung after they are due; the others
//! don't come before they are evicted, spread evenly over the tree, which is the dearest, and come back at the first
//! rung after that, with one transaction that closes their ordinary channel. What is taken back of a factory pays for
//! the next one. A rung begins when it opens if so many are enough for that, else at its latest date.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::policy::ladder::{Ladder, Rung};
use crate::terms::ClientIndex;
use crate::tx::layout::{CoinIndex, Layout, NodeIndex, Output, vbytes};
use crate::tx::reclaim::KEY_PATH_WEIGHT;
use crate::types::{Amount, Height};

use super::RENEWAL_BLOCKS;

/// Version, counts, nLockTime, marker and flag of a transaction, weight units.
const BASE_WEIGHT: u64 = 4 * (4 + 1 + 1 + 4) + 2;
/// A P2TR or P2WSH output, weight units.
const OUTPUT_WEIGHT: u64 = 4 * (8 + 1 + 34);
/// The input that spends an ordinary channel's funding when both sides close it, weight units (BOLT 3: two
/// signatures of 72 bytes and the script).
const CLOSE_INPUT_WEIGHT: u64 = 4 * 41 + 1 + 1 + 2 * 73 + 72;
/// Blocks after a rung until every key of the factories that it follows on is there: the new funding is confirmed,
/// and six deep.
const HANDED_OVER: u32 = 7;

/// A factory that lives, and those of its clients that are still in.
#[derive(Debug, Clone)]
pub struct Group {
    /// Its transactions, with the terms that they follow from.
    pub layout: Arc<Layout>,
    /// Each client, with the capacity of its next channel.
    pub members: Vec<(ClientIndex, Amount)>,
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Question {
    /// The last block.
    pub from: Height,
    /// For so many blocks from then on.
    pub blocks: u32,
    /// How many of those that are due come in time, percent.
    pub percent: u8,
    /// L's `factory-reclaim-blocks`.
    pub reclaim_blocks: u32,
}

/// A rung at which something is created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedRung {
    /// The rung.
    pub rung: Rung,
    /// Height at which it begins.
    pub height: Height,
    /// Factories that are created.
    pub factories: u32,
    /// Their clients.
    pub clients: u32,
    /// Their funding outputs together.
    pub funding: Amount,
    /// Roots that these fundings take back.
    pub reclaims: u32,
    /// What of it the wallet has to add, without the transactions' fees.
    pub from_wallet: Amount,
    /// What is locked in factories and evicted channels, right after it.
    pub locked: Amount,
    /// What of that clients have as channels.
    pub in_use: Amount,
}

/// The course of a ladder.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Planned {
    /// Its rungs, in order.
    pub rungs: Vec<PlannedRung>,
    /// Transactions on chain, without those of exits by clients and children that raise fees.
    pub transactions: u64,
    /// Their size together, vB.
    pub vbytes: u64,
    /// Renewals: a client that comes from one factory into the next.
    pub renewed: u64,
    /// Evictions: a client that didn't come in time.
    pub evicted: u64,
}

impl Planned {
    /// The rung after which most is locked.
    pub fn peak(&self) -> Option<&PlannedRung> {
        self.rungs.iter().reduce(|most, rung| if rung.locked > most.locked { rung } else { most })
    }

    /// The most that the wallet has to add at one rung.
    pub fn most_from_wallet(&self) -> Amount {
        self.rungs.iter().map(|rung| rung.from_wallet).max().unwrap_or(Amount::ZERO)
    }

    fn sends(&mut self, weight: u64) {
        self.transactions = self.transactions.saturating_add(1);
        self.vbytes = self.vbytes.saturating_add(vbytes(weight));
    }
}

/// What a rung costs and brings goes wrong in one way only: amounts beyond all money, or no such factory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoPlan(pub String);

/// A client that waits for the next rung.
struct Waiting {
    /// The factory that it leaves, by number; nothing if it has an ordinary channel.
    group: Option<usize>,
    /// Its index there, in leaf order.
    client: ClientIndex,
    /// What it has now.
    has: Amount,
    /// What it gets next.
    next: Amount,
}

/// A factory in the course of things.
struct Live {
    group: Group,
    /// Those that won't come before they are evicted.
    late: Vec<(ClientIndex, Amount)>,
    stage: Stage,
}

/// How far a factory has come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// It isn't due yet.
    Lives,
    /// Its clients wait for a rung, or have found one; some may be late.
    Due,
    /// All have left for the next one, which began at this height.
    Left(Height),
    /// Nothing of it is locked any more.
    Gone,
}

struct Course<'a> {
    ladder: &'a Ladder,
    question: Question,
    live: Vec<Live>,
    waiting: Vec<Waiting>,
    /// Evicted, with an ordinary channel: who comes back from which height on, what it has and gets.
    out: Vec<(Height, Amount, Amount)>,
    /// How many were due so far, and how many of these late.
    seen: (u64, u64),
    planned: Planned,
}

/// Lays a factory of these capacities out that begins at this height.
type Build<'a> = dyn Fn(&[Amount], Height) -> Result<Layout, NoPlan> + 'a;

/// The course of a ladder over the factories that live. `build` makes the layout of a factory of these capacities
/// that begins at this height.
///
/// # Errors
/// When a factory that would have to be created can't be: why.
pub fn plan(
    ladder: &Ladder,
    question: Question,
    living: Vec<Group>,
    build: &Build<'_>,
) -> Result<Planned, NoPlan> {
    let live = living.into_iter().map(|group| Live { group, late: vec![], stage: Stage::Lives }).collect();
    let (waiting, out, planned) = (vec![], vec![], Planned::default());
    let mut course = Course { ladder, question, live, waiting, out, seen: (0, 0), planned };
    let until = question.from.saturating_add(question.blocks);
    let first = question.from.saturating_add(1).max(ladder.begins);
    let mut next = ladder.rung_at(first);
    while let Some(rung) = next.filter(|rung| rung.opens < until) {
        let begins = if question.percent >= ladder.enough_percent { rung.opens } else { rung.latest };
        let height = begins.max(first);
        if height < rung.ends {
            course.end_late(height);
            course.due(height);
            course.create(rung, height, build)?;
        }
        next = ladder.rung_at(rung.ends).filter(|next| next.number > rung.number);
    }
    Ok(course.planned)
}

impl Live {
    fn timeout(&self) -> Height {
        self.group.layout.terms().timeout_height
    }

    /// From here on somebody is evicted.
    fn eviction(&self) -> Height {
        self.timeout().saturating_sub(self.group.layout.worst_eviction_blocks())
    }

    fn is_due(&self, height: Height) -> bool {
        self.timeout().saturating_sub(self.group.layout.terms().dying_blocks) <= height
    }

    fn capacity(&self, client: ClientIndex) -> Amount {
        let place = usize::try_from(client).ok();
        let capacities = &self.group.layout.terms().capacities;
        place.and_then(|place| capacities.get(place)).copied().unwrap_or(Amount::ZERO)
    }
}

impl Course<'_> {
    /// What has ended by this height: evictions, and factories that wait too long for the next funding.
    fn end_late(&mut self, height: Height) {
        for (number, live) in self.live.iter_mut().enumerate() {
            let alone = live.eviction().saturating_sub(self.question.reclaim_blocks);
            if matches!(live.stage, Stage::Left(_)) && alone <= height {
                self.planned.sends(BASE_WEIGHT.saturating_add(KEY_PATH_WEIGHT).saturating_add(OUTPUT_WEIGHT));
                live.stage = Stage::Gone;
            }
            if live.stage == Stage::Gone || height < live.eviction() {
                continue;
            }
            // Whoever has found no rung by now is late as well.
            let is_its = |waiting: &Waiting| waiting.group == Some(number);
            live.late.extend(
                self.waiting.iter().filter(|waiting| is_its(waiting)).map(|late| (late.client, late.next)),
            );
            self.waiting.retain(|waiting| !is_its(waiting));
            if live.stage == Stage::Due && !live.late.is_empty() {
                let clients: Vec<ClientIndex> = live.late.iter().map(|(client, _)| *client).collect();
                let (nodes, size, beside) = eviction(&live.group.layout, &clients);
                self.planned.transactions = self.planned.transactions.saturating_add(nodes);
                self.planned.vbytes = self.planned.vbytes.saturating_add(size);
                if beside > 0 {
                    let inputs = KEY_PATH_WEIGHT.saturating_mul(beside);
                    self.planned.sends(BASE_WEIGHT.saturating_add(inputs).saturating_add(OUTPUT_WEIGHT));
                }
                self.planned.evicted =
                    self.planned.evicted.saturating_add(u64::try_from(clients.len()).unwrap_or(u64::MAX));
                // On chain by then, and back from there on.
                let back = live.eviction().saturating_add(live.group.layout.worst_blocks_early().into());
                for (client, next) in std::mem::take(&mut live.late) {
                    self.out.push((back, live.capacity(client), next));
                }
            }
            live.stage = Stage::Gone;
        }
        let (back, away) = std::mem::take(&mut self.out).into_iter().partition(|(back, ..)| *back <= height);
        self.out = away;
        let back: Vec<(Height, Amount, Amount)> = back;
        self.waiting.extend(back.into_iter().map(|(_, has, next)| Waiting {
            group: None,
            client: 0,
            has,
            next,
        }));
    }

    /// Factories that are due by now: so many of their clients wait for this rung.
    fn due(&mut self, height: Height) {
        for (number, live) in self.live.iter_mut().enumerate() {
            if live.stage != Stage::Lives || !live.is_due(height) {
                continue;
            }
            live.stage = Stage::Due;
            // Over all factories together the share is what was asked for, also where each is small.
            let members = live.group.members.clone();
            let late_percent = u64::from(100u8.saturating_sub(self.question.percent));
            let seen = self.seen.0.saturating_add(u64::try_from(members.len()).unwrap_or(u64::MAX));
            let late = seen.saturating_mul(late_percent) / 100;
            let here = late.saturating_sub(self.seen.1);
            self.seen = (seen, late);
            let places = spread(members.len(), here);
            for (place, (client, next)) in members.into_iter().enumerate() {
                if places.contains(&place) {
                    live.late.push((client, next));
                } else {
                    let has = live.capacity(client);
                    self.waiting.push(Waiting { group: Some(number), client, has, next });
                }
            }
        }
    }

    /// Whether this is the last rung that somebody who waits can use.
    fn is_last(&self, rung: Rung) -> bool {
        let last = |group: usize| {
            let live = self.live.get(group);
            live.is_some_and(|live| rung.ends.saturating_add(RENEWAL_BLOCKS) >= live.eviction())
        };
        self.waiting.iter().filter_map(|waiting| waiting.group).any(last)
    }

    fn create(&mut self, rung: Rung, height: Height, build: &Build<'_>) -> Result<(), NoPlan> {
        let most = usize::try_from(self.ladder.largest).unwrap_or(usize::MAX).max(1);
        let least = usize::try_from(self.ladder.smallest).unwrap_or(usize::MAX);
        if self.waiting.is_empty() || self.waiting.len() < least && !self.is_last(rung) {
            return Ok(());
        }
        let waiting = std::mem::take(&mut self.waiting);
        let mut free = self.free(height);
        let mut made = PlannedRung {
            rung,
            height,
            factories: 0,
            clients: 0,
            funding: Amount::ZERO,
            reclaims: u32::try_from(free.len()).unwrap_or(u32::MAX),
            from_wallet: Amount::ZERO,
            locked: Amount::ZERO,
            in_use: Amount::ZERO,
        };
        for share in shares(&waiting, most) {
            let capacities: Vec<Amount> = share.iter().map(|waiting| waiting.next).collect();
            let layout = build(&capacities, height)?;
            let brought =
                free.iter().copied().try_fold(Amount::ZERO, Amount::checked_add).ok_or_else(too_much)?;
            let missing = layout.funding_value().checked_sub(brought).unwrap_or(Amount::ZERO);
            // A coin of the wallet where what comes back isn't enough, if only for the fee; and change.
            let inputs = free.len().saturating_add(usize::from(brought <= layout.funding_value()));
            let inputs = KEY_PATH_WEIGHT.saturating_mul(u64::try_from(inputs).unwrap_or(u64::MAX));
            self.planned.sends(BASE_WEIGHT.saturating_add(inputs).saturating_add(2 * OUTPUT_WEIGHT));
            free.clear();
            made.factories = made.factories.saturating_add(1);
            made.clients = made.clients.saturating_add(layout.terms().clients());
            made.funding = made.funding.checked_add(layout.funding_value()).ok_or_else(too_much)?;
            made.from_wallet = made.from_wallet.checked_add(missing).ok_or_else(too_much)?;
            let members = (0..).zip(capacities).collect();
            self.live.push(Live {
                group: Group { layout: Arc::new(layout), members },
                late: vec![],
                stage: Stage::Lives,
            });
        }
        for came in &waiting {
            match came.group {
                Some(_) => self.planned.renewed = self.planned.renewed.saturating_add(1),
                None => self.planned.sends(BASE_WEIGHT + CLOSE_INPUT_WEIGHT + 2 * OUTPUT_WEIGHT),
            }
        }
        for live in &mut self.live {
            if live.stage == Stage::Due && live.late.is_empty() {
                live.stage = Stage::Left(height);
            }
        }
        (made.locked, made.in_use) = self.capital().ok_or_else(too_much)?;
        self.planned.rungs.push(made);
        Ok(())
    }

    /// Roots that this rung's fundings can take back.
    fn free(&mut self, height: Height) -> Vec<Amount> {
        let mut free = vec![];
        for live in &mut self.live {
            if matches!(live.stage, Stage::Left(left) if left.saturating_add(HANDED_OVER) <= height) {
                live.stage = Stage::Gone;
                free.push(live.group.layout.funding_value());
            }
        }
        free
    }

    /// What is locked, and what of it are channels that clients use.
    fn capital(&self) -> Option<(Amount, Amount)> {
        let (mut locked, mut in_use) = (Amount::ZERO, Amount::ZERO);
        for live in self.live.iter().filter(|live| live.stage != Stage::Gone) {
            locked = locked.checked_add(live.group.layout.funding_value())?;
            let users: Vec<ClientIndex> = match live.stage {
                Stage::Lives => live.group.members.iter().map(|(client, _)| *client).collect(),
                Stage::Due | Stage::Left(_) | Stage::Gone => {
                    live.late.iter().map(|(client, _)| *client).collect()
                }
            };
            for client in users {
                in_use = in_use.checked_add(live.capacity(client))?;
            }
        }
        let ordinary =
            self.out.iter().map(|(_, has, _)| *has).chain(self.waiting.iter().map(|waiting| waiting.has));
        for has in ordinary {
            in_use = in_use.checked_add(has)?;
        }
        for (_, has, _) in &self.out {
            locked = locked.checked_add(*has)?;
        }
        Some((locked, in_use))
    }
}

fn too_much() -> NoPlan {
    NoPlan("its factories would be worth more than all money: lower capacities or stock_sat".to_owned())
}

/// The places of `of` that `number` have that are spread evenly.
fn spread(of: usize, number: u64) -> BTreeSet<usize> {
    let number = usize::try_from(number).unwrap_or(usize::MAX).min(of);
    (0..number).filter_map(|place| place.saturating_mul(of).checked_div(number)).collect()
}

/// As few parts as there can be of at most `most`, as even as can be.
pub(super) fn shares<T>(all: &[T], most: usize) -> Vec<&[T]> {
    let mut parts = all.len().div_ceil(most.max(1));
    let (mut rest, mut made) = (all, vec![]);
    while parts > 0 {
        let (part, left) = rest.split_at(rest.len().div_ceil(parts));
        made.push(part);
        (rest, parts) = (left, parts.saturating_sub(1));
    }
    made
}

/// What it takes to get these clients' leaves on chain: transactions, their size, vB, and how many coins beside their
/// paths the operator takes back.
pub fn eviction(layout: &Layout, clients: &[ClientIndex]) -> (u64, u64, u64) {
    let nodes: BTreeSet<NodeIndex> = clients.iter().flat_map(|client| layout.path(*client)).collect();
    let known = || nodes.iter().filter_map(|node| layout.node(*node));
    let beside = |output: &Output| match output {
        Output::Child(coin) => !nodes.contains(coin),
        Output::Stock(coin) => is_left(layout, *coin, clients),
        Output::Channel(_) | Output::Anchor => false,
    };
    let coins = known().flat_map(|node| &node.outputs).filter(|output| beside(output)).count();
    let size = known().map(|node| node.vbytes).fold(0, u64::saturating_add);
    let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
    (count(nodes.len()), size, count(coins))
}

/// A stock coin comes back by key path only if each of its clients has left.
fn is_left(layout: &Layout, coin: CoinIndex, clients: &[ClientIndex]) -> bool {
    layout.coin(coin).is_some_and(|coin| !clients.iter().any(|client| coin.clients.contains(client)))
}

#[cfg(test)]
mod tests;
