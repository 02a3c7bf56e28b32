//! Limits of a factory, sizes and fees of its transactions.

use bitcoin::Amount;

use crate::types::Height;

/// Most clients of a factory: beyond it the ceremony, not the chain, is what no longer works.
pub const MAX_CLIENTS: u32 = 4096;
/// Smallest channel: lightningd's default `min-capacity-sat`.
pub const MIN_CHANNEL: Amount = Amount::from_sat(10_000);
/// Lowest tree feerate, sat/kw: what still relays at 1 sat/vB after rounding (as in lightningd).
pub const MIN_FEERATE: u32 = 253;
/// Highest tree feerate, sat/kw: 100 sat/vB. Anchors raise fees; the tree only has to relay.
pub const MAX_FEERATE: u32 = 25_000;
/// Most blocks between the decision to exit and the channel's output: a larger `blocks_early` passes
/// the expiry that Lightning nodes accept (BOLT 4's usual 2016 blocks).
pub const MAX_EXIT_BLOCKS: u32 = 2016;
/// Largest version 3 transaction that relays, vB (BIP-431).
pub const MAX_V3_VBYTES: u64 = 10_000;
/// Largest transaction that relays, vB (400,000 weight units, Bitcoin Core's policy).
pub const MAX_STANDARD_VBYTES: u64 = 100_000;
/// Most interior levels: 2^12 leaves of one client are [`MAX_CLIENTS`].
pub const MAX_LEVELS: usize = 12;
/// nLockTime values from here on are times, not heights (BIP-65).
pub const LOCK_TIME_THRESHOLD: Height = 500_000_000;
/// Smallest push when a channel opens, msat: a fundee forgets an unconfirmed channel that never held
/// anything for it.
pub const MIN_PUSH_MSAT: u64 = 1_000;
/// What a client always keeps in its channel, msat: L asks for no reserve, and lightningd takes its dust limit.
///
/// It is the largest push too. A fundee's lightningd subtracts the push from what it has when the funding confirms, and
/// dies if that is less, again at each start. A channel of a factory confirms late, if ever: by then its client may have
/// paid all but its reserve away.
pub const RESERVE_MSAT: u64 = 546_000;

/// Serialised size of a P2TR or P2WSH output, bytes.
const OUTPUT_BYTES: u64 = 8 + 1 + 34;
/// Serialised size of a P2A output, bytes.
const ANCHOR_BYTES: u64 = 8 + 1 + 4;
/// Version, input count, one input without scriptSig, nLockTime, bytes.
const BASE_BYTES: u64 = 4 + 1 + 41 + 4;
/// Marker, flag, item count, length and a 64-byte BIP-340 signature, weight units.
const WITNESS_WEIGHT: u64 = 2 + 1 + 1 + 64;

/// Weight, in weight units, of a transaction with one key-path input, `outputs` P2TR or P2WSH
/// outputs and an anchor (BIP-141). A P2WPKH output is smaller: then this is an upper bound.
pub fn weight(outputs: u64) -> u64 {
    let count = outputs.saturating_add(1);
    let count_bytes = match count {
        0..=252 => 1,
        253..=0xffff => 3,
        _ => 5,
    };
    let body = outputs.saturating_mul(OUTPUT_BYTES);
    let bytes = body.saturating_add(BASE_BYTES + ANCHOR_BYTES + count_bytes);
    bytes.saturating_mul(4).saturating_add(WITNESS_WEIGHT)
}

/// Virtual bytes of so many weight units, rounded up (BIP-141).
pub fn vbytes(weight: u64) -> u64 {
    weight.div_ceil(4)
}

/// Fee of so many weight units at `feerate` sat/kw, rounded up; None beyond u64.
pub fn fee(weight: u64, feerate: u32) -> Option<Amount> {
    let millis = weight.checked_mul(u64::from(feerate))?;
    Some(Amount::from_sat(millis.div_ceil(1000)))
}
