//! How [`Terms`] become bytes: every field in the order in which it is declared, nothing optional,
//! nothing to ignore. The same terms are always the same bytes, so that members can hash them (S6);
//! a member that didn't understand all of them couldn't accept them (S3).
//!
//! Whether the numbers make sense is the layout's to say; only amounts above 21 million BTC and
//! unknown kinds end here.

use super::codec::{Codec, DecodeError, Fault, Reader, plain_codec};
use crate::terms::{Kind, Leaf, Level, Shape, Terms};

/// One byte: 0 static, 1 stateful.
impl Codec for Kind {
    fn write(&self, out: &mut Vec<u8>) {
        let number: u8 = match self {
            Kind::Static => 0,
            Kind::Stateful => 1,
        };
        number.write(out);
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match u8::read(r)? {
            0 => Ok(Kind::Static),
            1 => Ok(Kind::Stateful),
            other => {
                let expected = "0 (static) or 1 (stateful)";
                Err(Fault::BadValue { value: other.into(), expected }.into())
            }
        }
    }
}

plain_codec!(Level { arity, kind });
plain_codec!(Leaf { kind, sub_factories, clients_per_sub });
plain_codec!(Shape { levels, leaf });
plain_codec!(Terms {
    instance,
    lsp,
    shape,
    capacities,
    stock,
    push_msat,
    state_step,
    state_count,
    stock_csv,
    tree_feerate,
    timeout_height,
    dying_blocks,
    confirm_blocks,
    margin_blocks,
    funding_confirmations,
});
