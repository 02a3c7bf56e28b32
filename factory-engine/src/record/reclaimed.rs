//! What a funding takes back of other factories.

use crate::tx::layout::CoinIndex;
use crate::types::{InstanceId, OutPoint};
use crate::wire::codec::plain_codec;

/// An input of a funding by which L takes back a coin of another factory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReclaimedInput {
    /// The factory whose coin it is (factory_instance).
    pub instance: InstanceId,
    /// Which coin of it.
    pub coin: CoinIndex,
    /// Where the coin is.
    pub outpoint: OutPoint,
}

plain_codec!(ReclaimedInput { instance, coin, outpoint });
