//! Lies in years, the kinds of a random run that renews: an operator that never acknowledges keys, refuses them or sends
//! them back; that is gone once a balance has moved and no key was handed over; whose node sets no fees. Clients that keep
//! their keys or hand wrong ones over, and that publish their paths after they have left.
//!
//! Every engine is honest, and the judge asks all of them for all that they owe: what is said of keys is another thing
//! on its way, nodes stop, and transactions come from elsewhere.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use bitcoin::{Transaction, Txid};
use factory_engine::tx::layout::{SessionId, SpendRole};
use factory_engine::types::{Height, InstanceId};
use factory_engine::wire::message::Message;
use factory_engine::{Factory, Role};

use crate::LabError;
use crate::fault::{Dice, Kind};
use crate::world::chaos::lie::Lie;
use crate::world::{Fate, LSP, Outgoing, World};

use super::DAY;

/// The part of the seed's stream that decides about lies.
const STREAM: u64 = 1 << 42;
/// In one factory out of so many its operator lies about keys, and a client that may lie about its own.
const FACTORIES: usize = 3;
/// Half of those who lie about a key tell the truth at last, after so many lies at most.
const LIES: u32 = 48;
/// One client out of so many may lie: from all others the count at the end is wanted.
const LIARS: usize = 8;
/// Keys that were on their way, for whoever sends another one.
const HEARD: usize = 8;
/// Days, on average, until the operator is gone again, and until its node sets no fees.
const DAYS: u32 = 20;
/// Hours, at most, for which it is or doesn't.
const AWAY: u32 = 48;
/// Days, on average, until it is drawn whether a client publishes its path.
const PUBLISHED: u32 = 7;

/// How often which kind was told.
type Told = Rc<RefCell<BTreeMap<&'static str, u64>>>;

fn note(told: &Told, kind: Kind) {
    let mut told = told.borrow_mut();
    let count = told.entry(kind.name()).or_default();
    *count = count.saturating_add(1);
}

/// Whether a client is one of those that may lie.
pub(super) fn may_lie(at: usize) -> bool {
    at % LIARS == 3
}

/// Somebody that lies about the keys of one factory.
struct Liar {
    lie: Lie,
    /// How many lies are left.
    left: u32,
    /// Whether it has lied.
    has: bool,
}

impl Liar {
    /// Whoever sends this, if it is one: the same one for the same factory.
    fn drawn(seed: u64, out: &Outgoing) -> Option<Self> {
        let kind = match out.from {
            LSP => Kind::KeyRefused,
            client if may_lie(client) => Kind::KeyKept,
            _ => return None,
        };
        let instance: [u8; 8] = out.message.instance().0.first_chunk().copied().unwrap_or_default();
        let member = u64::try_from(out.from).unwrap_or(0);
        let mut dice = Dice::new(seed, u64::from_be_bytes(instance).wrapping_add(member));
        if !dice.one_in(FACTORIES) {
            return None;
        }
        let left = if dice.one_in(2) { dice.below_u32(LIES).saturating_add(1) } else { u32::MAX };
        Some(Self { lie: Lie::new(out.from, kind, out.to, dice), left, has: false })
    }

    fn tell(&mut self, out: &Outgoing, heard: &[Outgoing], told: &Told) -> Option<Vec<Vec<u8>>> {
        self.left = self.left.checked_sub(1)?;
        let payloads = self.lie.tell(out, heard)?;
        if !self.has {
            self.has = true;
            note(told, self.lie.kind);
        }
        Some(payloads)
    }
}

/// What becomes of messages: those that carry a key, and those that say that it is stored.
fn of_keys(seed: u64, told: Told) -> impl FnMut(&Outgoing) -> Fate {
    let mut liars: BTreeMap<(InstanceId, usize), Option<Liar>> = BTreeMap::new();
    let mut heard: Vec<Outgoing> = vec![];
    move |out| {
        let carries = matches!(out.message, Message::Handover(_));
        if !carries && !matches!(out.message, Message::HandoverStored(_)) {
            return Fate::Deliver;
        }
        let place = (out.message.instance(), out.from);
        let liar = liars.entry(place).or_insert_with(|| Liar::drawn(seed, out));
        let payloads = liar.as_mut().and_then(|liar| liar.tell(out, &heard, &told));
        if carries {
            heard.push(out.clone());
            if heard.len() > HEARD {
                heard.remove(0);
            }
        }
        payloads.map_or(Fate::Deliver, Fate::Replace)
    }
}

/// Who lies when.
pub(super) struct Lies {
    dice: Dice,
    told: Told,
    /// Whether the operator is gone as soon as something moves.
    goes: bool,
    /// Height from which on it is there again.
    back: Option<Height>,
    /// Height from which on its node sets fees again.
    free: Option<Height>,
    /// Clients that publish the paths of factories that they have left, and what was published so.
    publish: BTreeSet<(usize, InstanceId)>,
    published: BTreeSet<Txid>,
}

impl Lies {
    /// Before anybody has a key to hand over. The operator is gone at the first move that there is.
    pub fn new(seed: u64, world: &mut World) -> Self {
        let told = Told::default();
        world.tamper(of_keys(seed, Rc::clone(&told)));
        world.hold_moves = true;
        Self {
            dice: Dice::new(seed, STREAM),
            told,
            goes: true,
            back: None,
            free: None,
            publish: BTreeSet::new(),
            published: BTreeSet::new(),
        }
    }

    /// How often which kind was told, by its name: of lies about keys how many of those who told them.
    pub fn told(&self) -> BTreeMap<&'static str, u64> {
        self.told.borrow().clone()
    }

    /// Whether a client that has left published this.
    pub fn has_published(&self, txid: Txid) -> bool {
        self.published.contains(&txid)
    }

    /// Another hour.
    ///
    /// # Errors
    /// When a property is violated.
    pub fn hour(&mut self, world: &mut World, here: &BTreeSet<usize>) -> Result<(), LabError> {
        let height = world.chain.height();
        if self.back.is_some_and(|back| height >= back) {
            self.back = None;
            world.start(LSP)?;
            for client in here {
                world.connect(LSP, *client)?;
            }
            world.settle()?;
        }
        let hours = |days: u32| usize::try_from(days.saturating_mul(DAY)).unwrap_or(1);
        if self.dice.one_in(hours(DAYS)) && self.back.is_none() {
            (self.goes, world.hold_moves) = (true, true);
        }
        let lightningd = &mut world.members[LSP].lightningd;
        if self.free.is_some_and(|free| height >= free) {
            self.free = None;
            (lightningd.fees_fail, lightningd.fees_ignored) = (false, false);
        }
        if self.dice.one_in(hours(DAYS)) && self.free.is_none() {
            let fails = self.dice.one_in(2);
            (lightningd.fees_fail, lightningd.fees_ignored) = (fails, !fails);
            self.free = Some(self.until(height));
            note(&self.told, Kind::NotFree);
        }
        if self.dice.one_in(hours(PUBLISHED)) {
            self.draw_publisher(world);
        }
        self.publish(world);
        Ok(())
    }

    fn until(&mut self, height: Height) -> Height {
        height.saturating_add(1).saturating_add(self.dice.below_u32(AWAY))
    }

    /// A balance has moved, and no key was handed over yet: the operator is gone for a while.
    ///
    /// # Errors
    /// When a property is violated.
    pub fn go_between(&mut self, world: &mut World) -> Result<(), LabError> {
        if !self.goes || !world.moves_stand() {
            return Ok(());
        }
        (self.goes, world.hold_moves) = (false, false);
        // The HTLCs arrive, and before anybody learns of it there is no operator.
        world.end_moves();
        world.stop(LSP);
        self.back = Some(self.until(world.chain.height()));
        note(&self.told, Kind::GoneBetween);
        world.settle()
    }

    /// Somebody that has left a factory whose output is still there.
    fn draw_publisher(&mut self, world: &World) {
        let may: Vec<usize> = (1..world.members.len()).filter(|at| may_lie(*at)).collect();
        let Some(at) = may.get(self.dice.below(may.len())).copied() else { return };
        let Some(engine) = &world.members[at].engine else { return };
        let is_there = |factory: &&Factory| {
            factory.has_left() && factory.funding().is_some_and(|funding| world.chain.coin(funding).is_some())
        };
        let left = engine.factories().find(is_there).map(|factory| factory.instance);
        if let Some(instance) = left
            && self.publish.insert((at, instance))
        {
            note(&self.told, Kind::TreePublished);
        }
    }

    /// One transaction of a path at a time. What isn't taken comes too early, or too late.
    fn publish(&mut self, world: &mut World) {
        for (at, instance) in std::mem::take(&mut self.publish) {
            let Some(path) = path_of(world, at, instance) else { continue };
            for tx in path {
                let txid = tx.compute_txid();
                if !world.chain.knows(txid) && world.chain.submit(&tx).is_ok() {
                    self.published.insert(txid);
                    break;
                }
            }
            self.publish.insert((at, instance));
        }
    }
}

/// What a client still has of its way out; nothing once the factory is over.
fn path_of(world: &World, at: usize, instance: InstanceId) -> Option<Vec<Transaction>> {
    let factory = world.members[at].engine.as_ref()?.factory(instance)?;
    let Role::Client { index, .. } = factory.current.role else { return None };
    let path = factory.current.layout.path(index).into_iter();
    let txs = path.filter_map(|coin| factory.signed_tx(SessionId { coin, role: SpendRole::State }));
    Some(txs.collect())
}
