//! Fuzz targets: what arrives from outside, as arbitrary bytes. docs/fuzzing.md says how they are run.
//!
//! Each target is a function of bytes that panics when something does not hold: libFuzzer drives it
//! (`fuzz_targets/`), and `cargo test` feeds it the committed corpus and mutations of that.
//! [`run`] also holds it to bounds on memory and CPU time.

#![forbid(unsafe_code)]

pub mod bytes;
pub mod chain;
pub mod engine;
pub mod json;
pub mod lightningd;
pub mod link;
pub mod measure;
pub mod plugin;
pub mod record;
pub mod wire;

use measure::Bounds;

/// One target.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name, and that of its corpus.
    pub name: &'static str,
    /// Judges one input; panics where something does not hold.
    pub judge: fn(&[u8]),
    /// What one input may cost.
    pub bounds: Bounds,
}

/// All of them.
pub const TARGETS: [Target; 10] = [
    Target { name: "envelope", judge: wire::envelope, bounds: Bounds::DECODER },
    Target { name: "link", judge: link::link, bounds: Bounds::LINK },
    Target { name: "message", judge: wire::message, bounds: Bounds::MESSAGE },
    Target { name: "tlv", judge: wire::tlv, bounds: Bounds::DECODER },
    Target { name: "record", judge: record::record, bounds: Bounds::RECORD },
    Target { name: "params", judge: plugin::params, bounds: Bounds::PLUGIN },
    Target { name: "hooks", judge: plugin::hooks, bounds: Bounds::PLUGIN },
    Target { name: "chain", judge: chain::chain, bounds: Bounds::CHAIN },
    Target { name: "lightningd", judge: lightningd::lightningd, bounds: Bounds::DECODER },
    Target { name: "engine", judge: engine::engine, bounds: Bounds::ENGINE },
];

/// Gives one input to the target of this name, within its bounds.
///
/// # Panics
/// When something does not hold.
pub fn run(name: &str, data: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name);
    measure::within(target.unwrap_or_else(|| panic!("no target {name}")), data);
}
