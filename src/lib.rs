//! Channel factories on unmodified Core Lightning.
//!
//! The engine ([`factory_engine`]) turns bytes from a peer into messages, and messages into events and
//! effects. The runtime ([`factory_runtime`]) makes events durable, and only then are effects carried out on
//! lightningd ([`cln`]).

pub mod config;

pub mod cln;
