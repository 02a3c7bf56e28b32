//! Channel factories on unmodified Core Lightning.
//!
//! The engine (crate `factory_engine`) turns bytes from a peer into messages, and messages into events and
//! effects. Here events become durable ([`store`]), and only then are effects carried out ([`runtime`]) on
//! lightningd ([`cln`]).

pub mod store;

pub mod runtime;

pub mod config;

pub mod cln;
pub mod lab;
