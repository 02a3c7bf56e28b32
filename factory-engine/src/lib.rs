//! Channel factories without a node: no IO, no clock, no hidden randomness.
//!
//! The modules stand in the order in which data flows through them: bytes from a peer become
//! messages ([`wire`]), messages become events and effects ([`protocol`], which leans on [`tx`] for
//! every transaction and signature), and events ([`record`]) are what whoever runs the engine has to store
//! before it applies a step. [`drawing`] shows a factory to people.

pub mod types;

pub mod terms;

pub mod wire;

pub mod tx;

pub mod record;

pub mod protocol;

pub mod drawing;
