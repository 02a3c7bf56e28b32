//! What libFuzzer has found worth keeping, under plain `cargo test`: every file of the corpus and
//! mutations of it, the same ones each time.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::fs;
use std::path::Path;
use std::time::Duration;

use cln_factory_fuzz::measure::{Cost, within};
use cln_factory_fuzz::{TARGETS, Target};
use factory_lab::rng::Rng;

#[global_allocator]
static ALLOCATOR: peak_alloc::PeakAlloc = peak_alloc::PeakAlloc;

/// Memory is counted over the whole process: one test at a time.
static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());

/// Mutations of each file.
const MUTATIONS: usize = 4;

/// The targets can fail: with a planted bug some input of the corpus, or a request with one value
/// exchanged, is a finding. Only in the copy of the tree that has them:
/// `planted/run --real --do cargo test -p cln-factory-fuzz --test corpus planted`.
#[cfg(planted_bugs)]
#[test]
fn planted_bugs_are_found() {
    use factory_engine::planted::{Bug, plant};

    let _alone = ALONE.lock();
    let found = |bug, name: &str, inputs: &[Vec<u8>]| {
        let target = TARGETS.iter().find(|target| target.name == name).unwrap();
        plant(Some(bug));
        let found = inputs.iter().any(|input| std::panic::catch_unwind(|| (target.judge)(input)).is_err());
        plant(None);
        assert!(found, "{name} does not find {}", bug.name());
    };
    found(Bug::LedgerForgotten, "engine", &corpus("engine"));
    found(Bug::ExitForgotten, "engine", &corpus("engine"));
    let changes = (0..16).flat_map(|place| (0..64).map(move |value| vec![1, 1, place, value]));
    let changes: Vec<Vec<u8>> = changes.collect();
    found(Bug::HtlcMargin, "hooks", &changes);
    found(Bug::HtlcTooLong, "hooks", &changes);
}

#[test]
fn every_target_over_its_corpus() {
    let _alone = ALONE.lock();
    for target in &TARGETS {
        let inputs = corpus(target.name);
        assert!(!inputs.is_empty(), "{} has no corpus", target.name);
        let mut rng = Rng::new(0, target.name);
        let (mut runs, mut most) = (0, Cost { memory: 0, time: Duration::ZERO });
        for input in &inputs {
            judge(target, input, &mut runs, &mut most);
            for _ in 0..MUTATIONS {
                let other = &inputs[rng.below(inputs.len())];
                judge(target, &mutated(input, other, &mut rng), &mut runs, &mut most);
            }
        }
        println!("{}: {} files, {runs} runs, at most {most:?}", target.name, inputs.len());
    }
}

fn judge(target: &Target, input: &[u8], runs: &mut u32, most: &mut Cost) {
    let result = std::panic::catch_unwind(|| within(target, input));
    let hex: String = input.iter().map(|byte| format!("{byte:02x}")).collect();
    let cost = result.unwrap_or_else(|_| panic!("{} fails on {hex}", target.name));
    *runs += 1;
    most.memory = most.memory.max(cost.memory);
    most.time = most.time.max(cost.time);
}

/// In the order of their names, so that mutations are the same everywhere.
fn corpus(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.iter().map(|file| fs::read(file).unwrap()).collect()
}

/// A few bytes changed, cut, doubled, or taken from another input.
fn mutated(input: &[u8], other: &[u8], rng: &mut Rng) -> Vec<u8> {
    let mut bytes = input.to_vec();
    for _ in 0..=rng.below(3) {
        let at = rng.below(bytes.len());
        match rng.below(6) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, u8::try_from(rng.below(256)).unwrap()),
            2 => {
                let tail = bytes.split_off(at);
                bytes.extend_from_slice(&tail);
                bytes.extend_from_slice(&tail);
            }
            3 => {
                bytes.truncate(at);
                bytes.extend_from_slice(&other[rng.below(other.len())..]);
            }
            4 => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = [0x00, 0xff, 0x7f, 0x80, 0xfd, 0xfe][rng.below(6)];
                }
            }
            _ => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << rng.below(8);
                }
            }
        }
    }
    bytes.truncate(input.len() * 2 + 64);
    bytes
}
