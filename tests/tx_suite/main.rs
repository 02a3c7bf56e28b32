//! The factory's transactions, signed by all members and judged by consensus code.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod chain;
mod closes;
mod distributions;
mod faults;
mod frontier;
mod holdings;
mod play;
mod refusals;
mod sales;
mod shapes;
mod support;
mod transcripts;
