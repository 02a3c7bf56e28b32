//! Why there is no sale: nothing is sold, an offer is not taken, a price is not said.

use std::fmt;

use crate::record::unusable::NotCooperative;
use crate::terms::ClientIndex;
use crate::tx::sale::SaleError;

/// Why an operator sells nothing now, or not for this price. Told to the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CannotSell {
    /// Nothing may be signed for the sub-factory, for this reason.
    NotCooperative(NotCooperative),
    /// Another sale of the sub-factory is not done.
    UnderWay,
    /// An invoice of this client may still be paid.
    Unsettled,
    /// The list of prices is lost.
    NoPrices,
    /// So many sales are under way already (S28).
    Busy,
    /// Too many of its purchases have come to nothing by its own doing (S35).
    Waits {
        /// How long it has to wait yet, seconds.
        seconds: u64,
    },
    /// The last sale never was finished, and this operator opens no ordinary channels (S36).
    Blocked,
    /// It is this client that kept the last sale from its end.
    Withheld,
    /// The amount can't be sold.
    Amount(SaleError),
    /// It costs more than the client wants to pay.
    TooDear {
        /// What the operator asks for it, msat.
        price_msat: u64,
        /// The buyer's max_price_msat.
        most: u64,
    },
}

impl fmt::Display for CannotSell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotCooperative(why) => why.fmt(f),
            Self::UnderWay => {
                f.write_str("another sale of this sub-factory is under way: try again when it is done")
            }
            Self::Unsettled => {
                f.write_str("the invoice of an earlier purchase is not settled: try again in a moment")
            }
            Self::NoPrices => {
                f.write_str("the operator has no list of prices: try again when it has set one")
            }
            Self::Busy => f.write_str("too many sales are under way: try again in a moment"),
            Self::Waits { seconds } => {
                write!(f, "too many of its purchases came to nothing: try again in {seconds} s")
            }
            Self::Blocked => f.write_str(
                "the stock was signed for a sale that not everybody has finished, and can't be sold; the operator \
                 opens no ordinary channel instead",
            ),
            Self::Withheld => f.write_str(
                "this node did not finish a sale that it had to sign: nothing is sold to it in this factory",
            ),
            Self::Amount(error) => error.fmt(f),
            Self::TooDear { price_msat, most } => write!(
                f,
                "it costs {price_msat} msat, which is above the limit of {most}: max_price_msat={price_msat} \
                 accepts it"
            ),
        }
    }
}

impl std::error::Error for CannotSell {}

impl From<NotCooperative> for CannotSell {
    fn from(why: NotCooperative) -> Self {
        Self::NotCooperative(why)
    }
}

impl From<SaleError> for CannotSell {
    fn from(error: SaleError) -> Self {
        Self::Amount(error)
    }
}

/// Why a client takes no part in what its operator offers. Told to the operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum BadOffer {
    /// The operator counts sales that this node doesn't know (S9).
    Ahead {
        /// Sales that the operator has made.
        made: u32,
        /// Sales that this node knows.
        known: u32,
    },
    /// The operator's records are older than this node's: this sale was made otherwise.
    MadeOtherwise {
        /// The sale's place in the chain, from 1.
        number: u32,
    },
    /// The operator has given this sale up.
    Void,
    /// Nothing may be signed for the sub-factory, for this reason.
    NotCooperative(NotCooperative),
    /// The sale before isn't finished.
    Unfinished,
    /// The amount can't be sold.
    Amount(SaleError),
    /// The buyer is of another sub-factory.
    Stranger(ClientIndex),
    /// channel_in_factory is not what the terms make.
    Record,
    /// The channel could not be taken on chain soon enough.
    ExitTooLong {
        /// `blocks_early` that the new channel would have.
        blocks: u16,
    },
    /// push_msat is not that of the terms.
    Push,
    /// A neighbour buys, and this node signs for none.
    Neighbour,
    /// This node has asked for no channel.
    Unasked,
    /// Another amount was asked for.
    OtherAmount,
    /// It costs more than what this node wants to pay.
    TooDear {
        /// What the operator asks for it, msat.
        price_msat: u64,
    },
    /// This node takes no ordinary channel instead.
    NoOrdinary,
}

impl fmt::Display for BadOffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ahead { made, known } => write!(
                f,
                "the operator has made {made} sales here, and this node knows {known}: one of both was restored \
                 from a backup"
            ),
            Self::Void => f.write_str("it was given up"),
            Self::MadeOtherwise { number } => write!(
                f,
                "sale {number} was made already, with other terms: the operator's records are older than ours"
            ),
            Self::NotCooperative(why) => why.fmt(f),
            Self::Unfinished => f.write_str("the sale before isn't finished"),
            Self::Amount(error) => error.fmt(f),
            Self::Stranger(buyer) => write!(f, "client {buyer} is not of our sub-factory"),
            Self::Record => f.write_str("channel_in_factory contradicts the terms"),
            Self::ExitTooLong { blocks } => {
                write!(f, "its exit would take {blocks} blocks: the chain of sales is too long")
            }
            Self::Push => f.write_str("push_msat is not that of the terms"),
            Self::Neighbour => f.write_str("this node doesn't sign for its neighbours"),
            Self::Unasked => f.write_str("this node didn't ask for it"),
            Self::OtherAmount => f.write_str("it is not the amount that was asked for"),
            Self::TooDear { price_msat } => {
                write!(f, "the price of {price_msat} msat is above the limit")
            }
            Self::NoOrdinary => f.write_str("this node takes no ordinary channel instead"),
        }
    }
}

impl From<NotCooperative> for BadOffer {
    fn from(why: NotCooperative) -> Self {
        Self::NotCooperative(why)
    }
}

impl From<SaleError> for BadOffer {
    fn from(error: SaleError) -> Self {
        Self::Amount(error)
    }
}
