//! What must hold after every step, seen from outside: the judge remembers what each member ever
//! stored and sent, through all its restarts.

use std::collections::{BTreeMap, BTreeSet};

use bitcoin::OutPoint;

use crate::protocol::event::{Event, Invited};
use crate::protocol::{Engine, Factory};
use crate::tx::layout::Role;
use crate::tx::musig::PubNonce;
use crate::types::InstanceId;
use crate::wire::message::{Join, Message};

/// Watches a world. Members are numbered as in the world.
#[derive(Debug, Clone, Default)]
pub struct Judge {
    signed: BTreeMap<(usize, OutPoint, Role), [u8; 32]>,
    stored: BTreeSet<(usize, InstanceId, u32, Stage)>,
    attempts: BTreeMap<(usize, InstanceId), u32>,
    joins: BTreeMap<(usize, InstanceId), Vec<PubNonce>>,
    joined: BTreeMap<(usize, InstanceId), Join>,
    invited: BTreeMap<(usize, InstanceId), Invited>,
    uses: BTreeMap<[u8; 66], ([u8; 32], [u8; 32])>,
    /// What did not hold, with the property's number.
    pub violations: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Signing,
    Signed,
}

impl Judge {
    /// A step's events became durable.
    pub fn stored(&mut self, at: usize, events: &[(InstanceId, Vec<Event>)]) {
        for (instance, event) in events.iter().flat_map(|(i, events)| events.iter().map(move |e| (*i, e))) {
            match event {
                Event::Created(_) => {
                    self.attempts.insert((at, instance), 1);
                }
                Event::AttemptStarted(e) => {
                    self.attempts.insert((at, instance), e.attempt);
                }
                Event::Invited(e) => {
                    self.attempts.insert((at, instance), e.attempt);
                    self.invited.insert((at, instance), e.clone());
                }
                Event::Signing(e) => {
                    self.stored.insert((at, instance, e.attempt, Stage::Signing));
                    for entry in &e.ledger {
                        let key = (at, entry.outpoint, entry.session.role);
                        let before = self.signed.insert(key, entry.sighash);
                        if before.is_some_and(|before| before != entry.sighash) {
                            self.violations.push(format!("S8: member {at} signs {key:?} twice"));
                        }
                    }
                }
                Event::Signed(_) => {
                    let attempt = self.attempts.get(&(at, instance)).copied().unwrap_or(0);
                    self.stored.insert((at, instance, attempt, Stage::Signed));
                }
                _ => {}
            }
        }
    }

    /// A member sends a message.
    pub fn sent(&mut self, at: usize, message: &Message) {
        let (instance, attempt) = (message.instance(), message.attempt());
        match message {
            Message::Join(join) => {
                self.joins.insert((at, instance), join.nonces.clone());
                self.joined.insert((at, instance), join.clone());
            }
            Message::PartialSignatures(m) => {
                self.durable(at, instance, attempt, Stage::Signing, "partial signatures");
                let nonces = self.joins.get(&(at, instance)).cloned().unwrap_or_default();
                for (nonce, signature) in nonces.iter().zip(&m.signatures) {
                    let using = (m.transcript, signature.0);
                    if *self.uses.entry(nonce.0).or_insert(using) != using {
                        self.violations.push(format!("S2: member {at} uses a nonce twice"));
                    }
                }
            }
            Message::Stored(_) => self.durable(at, instance, attempt, Stage::Signed, "stored"),
            Message::Ready(_) => self.durable(at, instance, attempt, Stage::Signed, "ready"),
            Message::Propose(_) => self.durable(at, instance, attempt, Stage::Signing, "propose"),
            _ => {}
        }
    }

    fn durable(&mut self, at: usize, instance: InstanceId, attempt: u32, stage: Stage, what: &str) {
        if !self.stored.contains(&(at, instance, attempt, stage)) {
            self.violations.push(format!("S10: member {at} sends {what} before {stage:?} is stored"));
        }
    }

    /// An engine that was rebuilt from the store must be the live one, as far as it is durable.
    pub fn recovered(&mut self, at: usize, live: &Engine, rebuilt: &Engine) {
        if !live.factories().eq(rebuilt.factories()) {
            let text = |engine: &Engine| {
                let factories = engine.factories().map(|factory| (factory.instance, text(factory)));
                format!("{:?}", factories.collect::<BTreeMap<_, _>>())
            };
            let difference = difference(&text(live), &text(rebuilt));
            self.violations.push(format!("S10: member {at} is another after a restart: {difference}"));
        }
        if live.ledger() != rebuilt.ledger() {
            self.violations.push(format!("S8: member {at} would forget signatures in a restart"));
        }
    }

    /// Nonces that were used.
    pub fn nonces_used(&self) -> usize {
        self.uses.len()
    }

    /// The `join` with which a member entered the attempt that it is in.
    pub fn join(&self, at: usize, instance: InstanceId) -> Option<&Join> {
        self.joined.get(&(at, instance))
    }

    /// The terms that a client was invited on, as it stored them.
    pub fn invited(&self, at: usize, instance: InstanceId) -> Option<&Invited> {
        self.invited.get(&(at, instance))
    }
}

/// All of a factory as text.
fn text(factory: &Factory) -> String {
    format!("{factory:?}")
}

/// The first place where two texts differ.
fn difference(before: &str, after: &str) -> String {
    let same = before.chars().zip(after.chars()).take_while(|(a, b)| a == b).count();
    let excerpt = |text: &str| text.chars().skip(same.saturating_sub(60)).take(160).collect::<String>();
    format!("...{} / ...{}", excerpt(before), excerpt(after))
}
