//! What this node keeps for others (S40): an operator for the clients of its factories, which is its duty, and
//! whoever serves for all that it has channels with. It can't read any of it, and gives it back to whoever it is of.

use std::collections::BTreeSet;

use crate::engine::Engine;
use crate::io::{Effect, Level, ShelfAnswer, ShelfRequest};
use crate::memory::keepers;
use crate::memory::keepers::{Tag, VolatileKeepers};
use crate::record::copy::{LEAST_BYTES, MOST_BYTES, SealedCopy};
use crate::record::factory::Factory;
use crate::step::builder::StepBuilder;
use crate::step::fault::Fault;
use crate::types::NodeId;
use crate::wire::message::{Copies, CopyBack, Keep, Kept};
use crate::wire::words::Words;

/// Most copies that are kept for one peer: two a factory.
pub const MOST_COPIES: usize = 64;
/// Most bytes that are kept for one peer.
pub const QUOTA_BYTES: usize = 4_000_000;

/// Whether a copy goes on its owner's shelf, beside what is there: tag, counter and size of each. A newer one of
/// the same tag stays.
///
/// # Errors
/// Why it doesn't, for its owner.
pub fn admit(shelf: &[(Tag, u32, usize)], copy: &SealedCopy) -> Result<(), String> {
    let others = || shelf.iter().filter(|(tag, ..)| *tag != copy.tag);
    let held = others().map(|(_, _, bytes)| *bytes).fold(copy.sealed.len(), usize::saturating_add);
    let known = shelf.iter().find(|(tag, ..)| *tag == copy.tag);
    if let Some((_, counter, _)) = known.filter(|(_, counter, _)| *counter > copy.counter) {
        return Err(format!("there is a newer one, of {counter} records"));
    }
    if known.is_none() && others().count() >= MOST_COPIES {
        return Err(format!("there are {MOST_COPIES} copies already"));
    }
    if held > QUOTA_BYTES {
        return Err(format!("it would be {held} bytes in all, and {QUOTA_BYTES} are the most"));
    }
    Ok(())
}

impl Engine {
    /// Whether a peer is a client of this node's factories.
    pub(super) fn is_our_client(&self, peer: NodeId) -> bool {
        let is_client = |factory: &Factory| factory.lsp() == self.me && factory.client_of(peer).is_some();
        self.factories.values().any(is_client)
    }

    fn keeps_for(&self, peer: NodeId) -> bool {
        self.is_our_client(peer) || self.config.serves_copies && self.friends.contains(&peer)
    }

    /// A peer asks what is kept for it. Whoever it is: it may have lost all else.
    pub(crate) fn on_ask_copies(&self, step: &mut StepBuilder<'_>, peer: NodeId) -> Result<(), Fault> {
        // S28: each look is a call to lightningd.
        if self.keeping.keepers.has_asked(peer) {
            return Err(Fault::stale("it has asked already"));
        }
        self.work(step, peer, 0)?;
        step.volatile(keepers(VolatileKeepers::Opens(peer)));
        step.effect(Effect::Shelf { peer, request: ShelfRequest::List });
        Ok(())
    }

    pub(crate) fn on_ask_copy(
        &self,
        step: &mut StepBuilder<'_>,
        peer: NodeId,
        tag: Tag,
    ) -> Result<(), Fault> {
        self.on_shelf(peer, tag)?;
        self.work(step, peer, MOST_BYTES)?;
        step.effect(Effect::Shelf { peer, request: ShelfRequest::Get(tag) });
        Ok(())
    }

    pub(crate) fn on_forget_copy(
        &self,
        step: &mut StepBuilder<'_>,
        peer: NodeId,
        tag: Tag,
    ) -> Result<(), Fault> {
        self.on_shelf(peer, tag)?;
        step.volatile(keepers(VolatileKeepers::Forgets(peer, tag)));
        step.effect(Effect::Shelf { peer, request: ShelfRequest::Forget(tag) });
        Ok(())
    }

    fn on_shelf(&self, peer: NodeId, tag: Tag) -> Result<(), Fault> {
        match self.keeping.keepers.is_on_shelf(peer, tag) {
            true => Ok(()),
            false => Err(Fault::stale("there is no such copy of its")),
        }
    }

    /// S28: what a peer may have done with its shelf has an end.
    fn work(&self, step: &mut StepBuilder<'_>, peer: NodeId, bytes: usize) -> Result<(), Fault> {
        if self.keeping.keepers.works_too_much(peer, step.now, bytes) {
            return Err(Fault::stale("it asks for too much"));
        }
        step.volatile(keepers(VolatileKeepers::Works(peer, step.now, bytes)));
        Ok(())
    }

    /// A peer wants something kept.
    pub(crate) fn on_keep(&self, step: &mut StepBuilder<'_>, peer: NodeId, keep: Keep) -> Result<(), Fault> {
        let Keep { tag, counter, sealed } = keep;
        let bytes = sealed.len();
        let refused = match () {
            () if !self.keeps_for(peer) => {
                "this node keeps copies for its clients and its channels' peers only"
            }
            () if bytes < LEAST_BYTES => "it is no copy",
            () if bytes > MOST_BYTES => "it is too large",
            () if self.work(step, peer, bytes).is_err() => "too much was written in the last ten minutes",
            () => {
                let request = ShelfRequest::Put(SealedCopy { tag, counter, sealed });
                step.effect(Effect::Shelf { peer, request });
                return Ok(());
            }
        };
        step.send(peer, Kept { tag, counter, refused: Some(Words::new(refused)) });
        Ok(())
    }

    /// What has become of a request about a shelf. Whoever has gone meanwhile asks again.
    pub(crate) fn on_shelf_answer(&self, step: &mut StepBuilder<'_>, peer: NodeId, answer: ShelfAnswer) {
        if !self.peers.contains(&peer) {
            return;
        }
        match answer {
            ShelfAnswer::Put { tag, counter, result } => {
                if result.is_ok() {
                    step.volatile(keepers(VolatileKeepers::Shelf(peer, BTreeSet::from([tag]))));
                }
                let refused = result.err().map(|why| Words::new(&why));
                step.send(peer, Kept { tag, counter, refused });
            }
            ShelfAnswer::List(list) => {
                let tags = list.iter().map(|(tag, _)| *tag).collect();
                step.volatile(keepers(VolatileKeepers::Shelf(peer, tags)));
                step.send(peer, Copies { list });
            }
            ShelfAnswer::Got(tag, copy) => {
                let (counter, sealed) = copy.map_or((0, vec![]), |copy| (copy.counter, copy.sealed));
                step.send(peer, CopyBack { tag, counter, sealed });
            }
            ShelfAnswer::Failed(why) => {
                step.log(Level::Unusual, format!("{peer}: what is kept for it can't be reached: {why}"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copy(tag: u8, counter: u32, bytes: usize) -> SealedCopy {
        SealedCopy { tag: [tag; 32], counter, sealed: vec![0; bytes] }
    }

    /// S40: an older copy replaces no newer one, and nobody has more than its quota.
    #[test]
    fn a_shelf_has_its_bounds() {
        let shelf = [([1; 32], 5, 3_000_000), ([2; 32], 9, 500_000)];
        assert_eq!(admit(&shelf, &copy(1, 5, 10)), Ok(()));
        assert_eq!(admit(&shelf, &copy(1, 6, 3_500_000)), Ok(()), "it takes the place of the other");
        assert_eq!(admit(&shelf, &copy(3, 1, 500_000)), Ok(()));
        assert!(admit(&shelf, &copy(1, 4, 10)).is_err_and(|why| why.contains("newer")));
        assert!(admit(&shelf, &copy(3, 1, 500_001)).is_err_and(|why| why.contains("bytes")));
        assert!(admit(&shelf, &copy(1, 6, 3_500_001)).is_err());
        let full: Vec<_> = (0..64).map(|tag| ([tag; 32], 1, 10)).collect();
        assert!(admit(&full, &copy(64, 1, 10)).is_err());
        assert_eq!(admit(&full, &copy(63, 2, 10)), Ok(()));
    }
}
