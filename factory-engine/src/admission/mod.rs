//! Which HTLCs a factory's channels take, which wait, and which are due.

pub mod dust;
pub mod hold;
pub mod htlc;
pub mod urgent;
