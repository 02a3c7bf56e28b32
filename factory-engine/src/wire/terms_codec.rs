//! How [`Terms`] become bytes: every field in the order in which it is declared, nothing optional,
//! nothing to ignore. The same terms are always the same bytes, so that members can hash them (S6);
//! a member that didn't understand all of them couldn't accept them (S3).
//!
//! Whether the numbers make sense is the layout's to say; only amounts above 21 million BTC and
//! unknown kinds end here.

use crate::terms::{Kind, Leaf, Level, Shape, Terms};
use crate::types::Amount;

use super::codec::{BigSize, Codec, DecodeError, Malformed, Reader, plain_codec};

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
                Err(Malformed::BadValue { value: other.into(), expected }.into())
            }
        }
    }
}

plain_codec!(Level { arity, kind });
plain_codec!(Leaf { kind, sub_factories, clients_per_sub });
plain_codec!(Shape { levels, leaf });
/// Capacities, most of which are alike: how many clients in a row have one, and that one. There is one way
/// to write them.
struct Runs(Vec<Amount>);

impl Runs {
    /// More than any factory has: what a few bytes may stand for is bounded.
    const MOST: u64 = 1 << 16;

    fn write(capacities: &[Amount], out: &mut Vec<u8>) {
        let runs: Vec<(BigSize, Amount)> = capacities
            .chunk_by(|one, next| one == next)
            .filter_map(|run| Some((BigSize::of(run.len()), *run.first()?)))
            .collect();
        runs.write(out);
    }
}

impl Codec for Runs {
    fn write(&self, out: &mut Vec<u8>) {
        Self::write(&self.0, out);
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let runs = Vec::<(BigSize, Amount)>::read(r)?;
        let count = runs.iter().fold(0, |sum: u64, (count, _)| sum.saturating_add(count.0));
        if count > Self::MOST {
            return Err(Malformed::BadValue { value: count, expected: "65536 clients or fewer" }.into());
        }
        let alike = runs.windows(2).any(|pair| pair[0].1 == pair[1].1);
        if alike || runs.iter().any(|(count, _)| count.0 == 0) {
            return Err(Malformed::NotMinimal.into());
        }
        // At most `MOST` each.
        let expand = |(count, capacity): (BigSize, Amount)| {
            std::iter::repeat_n(capacity, usize::try_from(count.0).unwrap_or_default())
        };
        Ok(Self(runs.into_iter().flat_map(expand).collect()))
    }
}

impl Codec for Terms {
    fn write(&self, out: &mut Vec<u8>) {
        // Every field, or this doesn't compile.
        let Self {
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
        } = self;
        instance.write(out);
        lsp.write(out);
        shape.write(out);
        Runs::write(capacities, out);
        stock.write(out);
        push_msat.write(out);
        state_step.write(out);
        state_count.write(out);
        stock_csv.write(out);
        tree_feerate.write(out);
        timeout_height.write(out);
        dying_blocks.write(out);
        confirm_blocks.write(out);
        margin_blocks.write(out);
        funding_confirmations.write(out);
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            instance: r.field("instance")?,
            lsp: r.field("lsp")?,
            shape: r.field("shape")?,
            capacities: r.field::<Runs>("capacities")?.0,
            stock: r.field("stock")?,
            push_msat: r.field("push_msat")?,
            state_step: r.field("state_step")?,
            state_count: r.field("state_count")?,
            stock_csv: r.field("stock_csv")?,
            tree_feerate: r.field("tree_feerate")?,
            timeout_height: r.field("timeout_height")?,
            dying_blocks: r.field("dying_blocks")?,
            confirm_blocks: r.field("confirm_blocks")?,
            margin_blocks: r.field("margin_blocks")?,
            funding_confirmations: r.field("funding_confirmations")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(bytes: &[u8]) -> Result<Vec<Amount>, DecodeError> {
        Runs::decoded(bytes).map(|runs| runs.0)
    }

    #[test]
    fn what_is_alike_is_written_once() {
        let capacities = [[Amount::from_sat(7); 300].as_slice(), &[Amount::from_sat(8)]].concat();
        let bytes = Runs(capacities.clone()).encoded();
        assert_eq!(
            bytes,
            [&[2, 0xfd, 1, 44][..], &[0, 0, 0, 0, 0, 0, 0, 7], &[1], &[0, 0, 0, 0, 0, 0, 0, 8]].concat()
        );
        assert_eq!(runs(&bytes), Ok(capacities));
        assert_eq!(runs(&[0]), Ok(vec![]));
    }

    // S28
    #[test]
    fn only_the_shortest_way_and_no_more_than_a_factory_has() {
        let seven = [0, 0, 0, 0, 0, 0, 0, 7];
        let twice = [&[2, 1][..], &seven, &[1], &seven].concat();
        assert_eq!(runs(&twice), Err(Malformed::NotMinimal.into()));
        assert_eq!(runs(&[&[1, 0][..], &seven].concat()), Err(Malformed::NotMinimal.into()));
        for count in [&[0xfe, 0, 1, 0, 1][..], &[0xff; 9]] {
            let many = [&[1], count, &seven].concat();
            assert!(runs(&many).is_err_and(|error| error.to_string().contains("65536 clients or fewer")));
        }
    }
}
