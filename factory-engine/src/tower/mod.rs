//! Who sleeps is watched for (S40): a tower has finished transactions, each sealed to the one that makes it due, and no
//! keys. A client gives it what it would publish itself (`tasks`), and the penalties that lightningd makes for
//! commitments that were revoked.

mod client;
mod receipt;
mod serve;
mod tasks;

pub use client::Watcher;
