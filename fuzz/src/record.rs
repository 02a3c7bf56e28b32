//! Stored records, and the factory that is their fold.

use factory_engine::record::event::{Event, decode_record, encode_record};
use factory_engine::tx::musig::MasterSecret;
use factory_engine::types::{InstanceId, NodeId};
use factory_engine::{Block, Config, Engine, Input};
use factory_lab::rng::Rng;

use crate::bytes::Bytes;

/// Most records of one factory here: a fold is a loop, and each may be the work of a tree.
const MOST_RECORDS: usize = 40;

/// The records of one factory, each with its length in two bytes in front.
pub fn records(data: &[u8]) -> Vec<&[u8]> {
    let mut input = Bytes::new(data);
    let mut records = Vec::new();
    while !input.is_empty() && records.len() < MOST_RECORDS {
        records.push(input.chunk());
    }
    records
}

/// What is read is what would be written; the fold of any events is a factory or an error; a factory
/// that was folded in two parts is the same; and it can be asked anything.
pub fn record(data: &[u8]) {
    let mut history = Vec::new();
    for bytes in records(data) {
        let Ok(events) = decode_record(bytes) else { continue };
        let written = encode_record(&events);
        assert!(written.len() <= bytes.len());
        assert_eq!(decode_record(&written).as_ref(), Ok(&events));
        history.push(events);
    }
    let instance = history.iter().flatten().find_map(instance).unwrap_or(InstanceId([7; 32]));
    let mut whole = engine();
    let loaded = whole.load(instance, history.clone());
    let mut parts = engine();
    let mut in_parts = Ok(());
    for events in history {
        if in_parts.is_ok() {
            in_parts = parts.load(instance, [events]);
        }
    }
    assert_eq!(loaded, in_parts);
    if loaded.is_err() {
        return;
    }
    assert!(whole.factories().eq(parts.factories()), "a factory is the fold of its events");
    assert_eq!(whole.ledger(), parts.ledger());
    ask(&mut whole);
}

fn instance(event: &Event) -> Option<InstanceId> {
    match event {
        Event::Created(event) => Some(event.terms.instance),
        Event::Invited(event) => Some(event.terms.instance),
        _ => None,
    }
}

fn engine() -> Engine {
    Engine::new(NodeId([2; 33]), MasterSecret::new([9; 32]), Config::default())
}

/// What a start asks, what people ask, and the first block.
fn ask(engine: &mut Engine) {
    for height in [0, 1, 900_000, u32::MAX] {
        for factory in engine.factories() {
            assert!(!factory.next_action(height).to_string().is_empty());
            assert!(!factory.state(height).name().is_empty());
            let _ = factory.channel_usable(0, height);
        }
    }
    let _ = (engine.watched(), engine.scan_from(), engine.suspects(), engine.largest_blocks_early());
    let mut rng = Rng::new(1, "record");
    let started = engine.handle(Input::Started { channels: vec![] }, 5, 0, &mut rng);
    engine.apply(started).expect("nothing else was applied meanwhile");
    for height in [1, 800_000] {
        let hash = cln_factory::cln::chain::no_hash();
        let step = engine.handle(Input::Block(Block { height, hash, txs: vec![] }), 5, height, &mut rng);
        engine.apply(step).expect("nothing else was applied meanwhile");
    }
    assert!(engine.channel_policies().iter().all(|(_, policy)| policy.safe_end < u32::MAX));
}
