//! The last blocks that were handled: which of them a start may begin after.

use std::collections::VecDeque;

use bitcoin::BlockHash;
use factory_engine::types::Height;

/// More than what is watched for others looks back.
const MOST: usize = 32;

/// The last blocks that were handled, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Handled(VecDeque<(Height, BlockHash)>);

impl Handled {
    /// This is the last one now. What was at its height or above isn't in the chain any more.
    pub(super) fn note(&mut self, tip: Option<(Height, BlockHash)>) {
        let Some((height, hash)) = tip.filter(|tip| self.0.back() != Some(tip)) else { return };
        self.0.retain(|(below, _)| *below < height);
        self.0.push_back((height, hash));
        if self.0.len() > MOST {
            self.0.pop_front();
        }
    }

    /// Blocks above this one are gone. Until the next block the engine's tip has the hash of one that is.
    pub(super) fn cut(&mut self, height: Height) {
        self.0.retain(|(handled, _)| *handled <= height);
    }

    /// The last one below a height; without one the last of all.
    pub(super) fn below(&self, height: Option<Height>) -> Option<(Height, BlockHash)> {
        self.0.iter().rev().find(|(handled, _)| height.is_none_or(|height| *handled < height)).copied()
    }
}

#[cfg(test)]
mod tests {
    use bitcoin::hashes::Hash;

    use super::*;

    // S40
    #[test]
    fn the_last_block_below_a_height() {
        let hash = |byte: u8| BlockHash::from_byte_array([byte; 32]);
        let mut handled = Handled::default();
        assert_eq!(handled.below(None), None);
        for height in 1..=40_u8 {
            handled.note(Some((height.into(), hash(height))));
        }
        assert_eq!(handled.below(None), Some((40, hash(40))));
        assert_eq!(handled.below(Some(38)), Some((37, hash(37))));
        // Older than what is remembered.
        assert_eq!(handled.below(Some(9)), None);
        // Another block in its place.
        handled.note(Some((39, hash(90))));
        assert_eq!(handled.below(None), Some((39, hash(90))));
        assert_eq!(handled.below(Some(39)), Some((38, hash(38))));
        handled.cut(37);
        assert_eq!(handled.below(None), Some((37, hash(37))));
    }
}
