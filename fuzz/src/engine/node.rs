//! One member: its engine, its store, and what must hold after every step.

use std::collections::{BTreeMap, HashMap};

use factory_engine::record::event::{Event, decode_record, encode_record};
use factory_engine::tx::layout::SpendRole;
use factory_engine::tx::musig::MasterSecret;
use factory_engine::types::{Height, InstanceId, Millis, NodeId, OutPoint};
use factory_engine::{Answer, Bounds, Config, Effect, Engine, Input, Level, Policy, Refusal};
use factory_lab::rng::Rng;

/// Records of every factory, in order.
pub type Records = BTreeMap<InstanceId, Vec<Vec<u8>>>;

/// One member.
pub struct Node {
    /// Its node id.
    pub id: NodeId,
    /// The live engine.
    pub engine: Engine,
    /// What the store holds.
    pub records: Records,
    /// What a restart would make of it, kept up to date.
    shadow: Engine,
    rng: Rng,
    number: usize,
    /// Every sighash that was ever stored as signed.
    signed: HashMap<(OutPoint, SpendRole), [u8; 32]>,
    /// Whether the next append fails.
    pub store_fails: bool,
    /// Whether lightningd has said something to it that lightningd never says.
    pub misled: bool,
}

impl Node {
    /// Member 0 is the operator; 1 accepts by itself, 2 asks.
    pub fn new(number: usize, records: Records) -> Self {
        let (engine, shadow) = (load(number, &records), load(number, &records));
        // Randomness never comes again, in a world that goes on from what is stored neither.
        let stored: usize = records.values().map(Vec::len).sum();
        let mut node = Self {
            id: id(number),
            engine,
            records: BTreeMap::new(),
            shadow,
            rng: Rng::new(7, &format!("fuzzed {number} {stored}")),
            number,
            signed: HashMap::new(),
            store_fails: false,
            misled: false,
        };
        for (instance, records) in &records {
            let events: Vec<Event> = records.iter().flat_map(|record| decoded(record)).collect();
            node.note_signatures(*instance, &events);
        }
        node.records = records;
        node
    }

    /// Handles, stores, applies; gives the answer and the effects.
    pub fn feed(
        &mut self,
        input: Input,
        now: Millis,
        height: Height,
    ) -> (Result<Answer, Refusal>, Vec<Effect>) {
        let step = self.engine.handle(input, now, height, &mut self.rng);
        let durable = !step.events.is_empty();
        if durable && std::mem::take(&mut self.store_fails) {
            // S14: a step that is dropped never happened.
            self.judge();
            return (Err(Refusal::NotStored("the store failed".to_owned())), vec![]);
        }
        for (instance, events) in &step.events {
            let record = encode_record(events);
            let read = decoded(&record);
            assert_eq!(&read, events, "a record reads back as it was");
            self.note_signatures(*instance, events);
            if let Err(error) = self.shadow.load(*instance, [read]) {
                panic!("member {} stored what can't be read back: {error}", self.number);
            }
            self.records.entry(*instance).or_default().push(record);
        }
        let answer = step.answer.clone();
        let effects = self.engine.apply(step).expect("nothing else was applied meanwhile");
        if durable {
            self.judge();
        }
        for effect in &effects {
            if let Effect::Log { level: Level::Broken, text } = effect {
                // lightningd's word that somebody lies is what it is for.
                let lie = text.contains("the leaf does not pay our channel");
                assert!(self.misled || lie, "member {} logs as broken: {text}", self.number);
            }
        }
        (answer, effects)
    }

    /// S8: no two messages for one coin in one role, whatever happened.
    fn note_signatures(&mut self, instance: InstanceId, events: &[Event]) {
        for event in events {
            let Event::Signing(signing) = event else { continue };
            for entry in &signing.ledger {
                let before = self.signed.insert((entry.outpoint, entry.session.role), entry.sighash);
                assert!(
                    before.is_none_or(|before| before == entry.sighash),
                    "S8: member {} of {instance} signs twice: {entry:?}",
                    self.number
                );
            }
        }
    }

    /// S10: what the store holds makes the live engine.
    fn judge(&self) {
        assert!(
            self.engine.factories().eq(self.shadow.factories()),
            "S10: member {} is another after a restart",
            self.number
        );
        assert_eq!(self.engine.ledger(), self.shadow.ledger(), "S8: member {} would forget", self.number);
    }

    /// The same from the very beginning.
    pub fn judge_store(&self) {
        self.judge();
        let again = load(self.number, &self.records);
        assert!(
            self.engine.factories().eq(again.factories()),
            "S10: member {} reads back another",
            self.number
        );
        assert_eq!(self.engine.ledger(), again.ledger());
    }

    /// Loses everything but the store.
    pub fn restart(&mut self) {
        self.engine = load(self.number, &self.records);
        self.judge();
    }
}

fn decoded(record: &[u8]) -> Vec<Event> {
    decode_record(record).unwrap_or_else(|error| panic!("a record of ours: {error}"))
}

fn load(number: usize, records: &Records) -> Engine {
    let policy = if number == 2 { Policy::Ask } else { Policy::Auto };
    let bounds = Bounds { min_lifetime_blocks: 1, min_dying_blocks: 1, ..Bounds::default() };
    let config = Config { policy, bounds, max_attempts: 3, ..Config::default() };
    let byte = u8::try_from(number).unwrap_or(u8::MAX);
    let mut engine = Engine::new(id(number), MasterSecret::new([byte.wrapping_add(1); 32]), config);
    for (instance, records) in records {
        let loaded = engine.load(*instance, records.iter().map(|record| decoded(record)));
        loaded.unwrap_or_else(|error| panic!("member {number} can't read its store: {error}"));
    }
    engine
}

/// The node id of a member.
pub fn id(number: usize) -> NodeId {
    let mut id = [0x20; 33];
    id[0] = 2;
    id[32] = u8::try_from(number).unwrap_or(u8::MAX);
    NodeId(id)
}
