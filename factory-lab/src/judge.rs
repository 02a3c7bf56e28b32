//! What must hold after every step, seen from outside: the judge remembers what each member ever
//! stored and sent, through all its restarts.

use std::collections::{BTreeMap, BTreeSet};

use bitcoin::{OutPoint, ScriptBuf, Txid};
use factory_engine::record::event::{Event, Invited, LedgerEntry};
use factory_engine::terms::ClientIndex;
use factory_engine::tx::layout::{CoinIndex, SpendRole};
use factory_engine::tx::musig::{PartialSig, PubNonce};
use factory_engine::types::InstanceId;
use factory_engine::wire::message::{Join, Message};
use factory_engine::{Engine, Factory};

/// Watches a world. Members are numbered as in the world.
#[derive(Debug, Clone, Default)]
pub struct Judge {
    signed: BTreeMap<(usize, OutPoint, SpendRole), [u8; 32]>,
    stored: BTreeSet<(usize, InstanceId, u32, Stage)>,
    attempts: BTreeMap<(usize, InstanceId), u32>,
    joins: BTreeMap<(usize, InstanceId), Vec<PubNonce>>,
    joined: BTreeMap<(usize, InstanceId), Join>,
    invited: BTreeMap<(usize, InstanceId), Invited>,
    uses: BTreeMap<[u8; 66], ([u8; 32], [u8; 32])>,
    /// What members have stored of sales.
    sales: BTreeSet<(usize, InstanceId, OfSale)>,
    sale_joins: BTreeMap<(usize, InstanceId), Vec<PubNonce>>,
    /// Finished transactions of sales, whoever has stored them.
    finished: BTreeMap<(OutPoint, SpendRole), Txid>,
    /// Clients' keys that the operator has, by factory: the client has stored that it may.
    handed: BTreeSet<(InstanceId, ClientIndex)>,
    /// Members that have stored that their key may leave.
    left: BTreeSet<(usize, InstanceId)>,
    /// What a member left behind for its place in a factory, msat.
    paid: BTreeMap<(usize, InstanceId), u64>,
    /// Members whose database came back from an older copy.
    restored: BTreeSet<usize>,
    /// What did not hold, with the property's number.
    pub violations: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Signing,
    Signed,
}

/// Something stored of a sale, named as the messages name it that may leave only afterwards.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum OfSale {
    /// It may be signed: the stock coin and the sale's number.
    Begun(CoinIndex, u32),
    /// The same, for a client, which is in one sub-factory.
    Signing(u32),
    /// The same, for the operator: the new channel's script.
    Script(ScriptBuf),
    /// It is signed, for a client: the sale's number.
    Signed(u32),
    /// It is signed, for the operator: the first signature.
    Signature([u8; 64]),
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
                    self.signs(at, &e.ledger);
                }
                Event::SaleSigning(e) => {
                    for what in [
                        OfSale::Begun(e.coin, e.number),
                        OfSale::Signing(e.number),
                        OfSale::Script(e.script.clone()),
                    ] {
                        self.sales.insert((at, instance, what));
                    }
                    // Its key is the one that it had before: of what it doesn't know it can't know that it
                    // has signed it. The others do, and no two sales of one coin can be finished.
                    if !self.restored.contains(&at) {
                        self.signs(at, &e.ledger);
                    }
                }
                Event::SaleSigned(e) => {
                    self.sales.insert((at, instance, OfSale::Signed(e.number)));
                    let first = e.signatures.first().copied().map(OfSale::Signature);
                    self.sales.extend(first.map(|first| (at, instance, first)));
                }
                Event::HandedOver(_) => {
                    self.left.insert((at, instance));
                }
                Event::Signed(_) => {
                    let attempt = self.attempts.get(&(at, instance)).copied().unwrap_or(0);
                    self.stored.insert((at, instance, attempt, Stage::Signed));
                }
                _ => {}
            }
        }
    }

    /// S8: one message for each outpoint and role.
    fn signs(&mut self, at: usize, ledger: &[LedgerEntry]) {
        for entry in ledger {
            let key = (at, entry.outpoint, entry.session.role);
            let before = self.signed.insert(key, entry.sighash);
            if before.is_some_and(|before| before != entry.sighash) {
                self.violations.push(format!("S8: member {at} signs {key:?} twice"));
            }
        }
    }

    /// A member leaves so much behind for its place in a factory, msat.
    pub(crate) fn note_paid(&mut self, at: usize, next: InstanceId, msat: u64) {
        let paid = self.paid.entry((at, next)).or_default();
        *paid = paid.saturating_add(msat);
    }

    /// What it has left behind for it so far, msat.
    pub(crate) fn paid_msat(&self, at: usize, next: InstanceId) -> u64 {
        self.paid.get(&(at, next)).copied().unwrap_or(0)
    }

    /// A client has handed its key of a factory over.
    pub fn handed_over(&mut self, instance: InstanceId, client: ClientIndex) {
        self.handed.insert((instance, client));
    }

    /// Whether it has (S38).
    pub fn has_handed_over(&self, instance: InstanceId, client: ClientIndex) -> bool {
        self.handed.contains(&(instance, client))
    }

    /// A transaction of a sale is finished. Whether another one with this input and role is, too (S8).
    pub fn is_second(&mut self, input: OutPoint, role: SpendRole, txid: Txid) -> bool {
        *self.finished.entry((input, role)).or_insert(txid) != txid
    }

    /// Whether a member has stored that a sale may be signed.
    pub fn has_begun(&self, at: usize, instance: InstanceId, coin: CoinIndex, number: u32) -> bool {
        self.sales.contains(&(at, instance, OfSale::Begun(coin, number)))
    }

    /// A member has lost part of its memory.
    pub fn restored(&mut self, at: usize) {
        self.restored.insert(at);
    }

    /// Whether partial signatures leave for the first time.
    pub fn is_new(
        &self,
        at: usize,
        signatures: &factory_engine::wire::message::SalePartialSignatures,
    ) -> bool {
        let nonce = self.sale_joins.get(&(at, signatures.instance)).and_then(|nonces| nonces.first());
        nonce.is_none_or(|nonce| !self.uses.contains_key(&nonce.0))
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
                self.uses(at, &nonces, m.transcript, &m.signatures);
            }
            Message::SaleJoin(join) => {
                self.sale_joins.insert((at, instance), join.nonces.clone());
            }
            Message::SalePropose(m) => {
                self.of_sale(at, instance, OfSale::Script(m.channel_script.clone()), "a proposal");
            }
            Message::SalePartialSignatures(m) => {
                self.of_sale(at, instance, OfSale::Signing(m.number), "partial signatures");
                let nonces = self.sale_joins.get(&(at, instance)).cloned().unwrap_or_default();
                self.uses(at, &nonces, m.transcript, &m.signatures);
            }
            Message::SaleReady(m) => {
                if let Some(first) = m.signatures.first() {
                    self.of_sale(at, instance, OfSale::Signature(*first), "finished signatures");
                }
            }
            Message::SaleStored(m) => self.of_sale(at, instance, OfSale::Signed(m.number), "stored"),
            Message::Handover(_) if !self.left.contains(&(at, instance)) => {
                self.violations.push(format!("S10: member {at} sends its key before that is stored"));
            }
            Message::Stored(_) => self.durable(at, instance, attempt, Stage::Signed, "stored"),
            Message::Ready(_) => self.durable(at, instance, attempt, Stage::Signed, "ready"),
            Message::Propose(_) => self.durable(at, instance, attempt, Stage::Signing, "propose"),
            _ => {}
        }
    }

    /// S2: a nonce signs one transcript.
    fn uses(&mut self, at: usize, nonces: &[PubNonce], transcript: [u8; 32], signatures: &[PartialSig]) {
        for (nonce, signature) in nonces.iter().zip(signatures) {
            let using = (transcript, signature.0);
            if *self.uses.entry(nonce.0).or_insert(using) != using {
                self.violations.push(format!("S2: member {at} uses a nonce twice"));
            }
        }
    }

    fn of_sale(&mut self, at: usize, instance: InstanceId, what: OfSale, sent: &str) {
        if !self.sales.contains(&(at, instance, what)) {
            self.violations.push(format!("S10: member {at} sends {sent} of a sale before it is stored"));
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

    /// How many nonces have signed something.
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
