//! Channel factories on unmodified Core Lightning.
//!
//! The modules stand in the order in which data flows through them: bytes from a peer become
//! messages ([`wire`]), messages become events and effects ([`protocol`], which leans on [`tx`] for
//! every transaction and signature), events ([`record`]) become durable ([`store`]), and only then are effects
//! carried out ([`runtime`]) on lightningd ([`cln`]).
//!
//! Everything up to and including [`protocol`] is pure: no IO, no clock, no hidden randomness.

pub mod types;

pub mod terms;

pub mod wire;

pub mod tx;

pub mod record;

pub mod protocol;

pub mod store;

pub mod runtime;

pub mod drawing;

pub mod config;

pub mod cln;
pub mod lab;
