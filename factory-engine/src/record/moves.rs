//! Moves that are kept in a factory: the fold of its move events (S37).

use std::collections::BTreeMap;

use crate::record::event::{MoveEnded, MoveOver, MoveStarted, MoveWanted};
use crate::record::load_error::{LoadError, inconsistent};
use crate::types::{ChannelId, Height, PaymentHash};

/// A balance on its way from one channel to another of the same two nodes, in HTLCs one after the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Move {
    /// The channel that it leaves.
    pub from: ChannelId,
    /// The channel that it goes to.
    pub to: ChannelId,
    /// How much, msat; nothing for all that can go.
    pub amount_msat: Option<u64>,
    /// What has arrived of it, msat.
    pub moved_msat: u64,
    /// HTLCs that have arrived.
    pub parts: u32,
    /// The HTLC that may be under way.
    pub started: Option<Part>,
    /// Height at which it began, or the last HTLC arrived.
    pub since: Height,
}

/// One HTLC of a move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// payment_hash of the client's own invoice for it (BOLT 11).
    pub payment_hash: PaymentHash,
    /// What it is worth, msat.
    pub amount_msat: u64,
}

impl Move {
    /// What is missing of its amount, msat; nothing where all is to go.
    pub fn left_msat(&self) -> Option<u64> {
        self.amount_msat.map(|amount| amount.saturating_sub(self.moved_msat))
    }
}

/// All moves that are kept in a factory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Moves {
    open: BTreeMap<ChannelId, Move>,
    /// The last that came to its end, of those that left each channel; and why it fell short, if it did.
    over: BTreeMap<ChannelId, (Move, Option<String>)>,
}

impl Moves {
    /// Those that are under way.
    pub fn open(&self) -> impl Iterator<Item = &Move> {
        self.open.values()
    }

    /// The one that leaves this channel.
    pub fn of(&self, from: ChannelId) -> Option<&Move> {
        self.open.get(&from)
    }

    /// The last that left this channel and is over; and why not all has arrived, if so.
    pub fn last(&self, from: ChannelId) -> Option<(&Move, Option<&str>)> {
        self.over.get(&from).map(|(over, reason)| (over, reason.as_deref()))
    }

    /// Whether none is under way.
    pub fn is_settled(&self) -> bool {
        self.open.is_empty()
    }

    /// The one that an HTLC is of.
    pub(crate) fn by_hash(&self, payment_hash: PaymentHash) -> Option<&Move> {
        self.open().find(|open| open.started.is_some_and(|part| part.payment_hash == payment_hash))
    }

    pub(super) fn want(&mut self, event: &MoveWanted) -> Result<(), LoadError> {
        let MoveWanted { from, to, amount_msat, height } = *event;
        if self.open.contains_key(&from) {
            return Err(inconsistent("MoveWanted", format!("channel {from} is being emptied already")));
        }
        let wanted = Move { from, to, amount_msat, moved_msat: 0, parts: 0, started: None, since: height };
        self.open.insert(from, wanted);
        Ok(())
    }

    pub(super) fn start(&mut self, event: &MoveStarted) -> Result<(), LoadError> {
        let open = self.open.get_mut(&event.from).filter(|open| open.started.is_none());
        let open = open.ok_or_else(|| inconsistent("MoveStarted", "no move waits for an HTLC there"))?;
        open.started = Some(Part { payment_hash: event.payment_hash, amount_msat: event.amount_msat });
        Ok(())
    }

    pub(super) fn end(&mut self, event: &MoveEnded) -> Result<(), LoadError> {
        let is_it = |part: &Part| part.payment_hash == event.payment_hash;
        let open = self.open.values_mut().find(|open| open.started.as_ref().is_some_and(is_it));
        let open = open.ok_or_else(|| inconsistent("MoveEnded", "no HTLC of this payment_hash has left"))?;
        let part = open.started.take();
        if let Some(part) = part.filter(|_| event.arrived) {
            open.moved_msat = open.moved_msat.saturating_add(part.amount_msat);
            open.parts = open.parts.saturating_add(1);
            open.since = event.height;
        }
        Ok(())
    }

    pub(super) fn over(&mut self, event: &MoveOver) -> Result<(), LoadError> {
        let open = self.open.remove(&event.from).filter(|open| open.started.is_none());
        let open = open.ok_or_else(|| inconsistent("MoveOver", "no move could end there"))?;
        self.over.insert(event.from, (open, event.reason.clone()));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FROM: ChannelId = ChannelId([1; 32]);
    const TO: ChannelId = ChannelId([2; 32]);

    fn started(hash: u8, amount_msat: u64) -> MoveStarted {
        MoveStarted { payment_hash: PaymentHash([hash; 32]), from: FROM, amount_msat }
    }

    fn ended(hash: u8, arrived: bool) -> MoveEnded {
        MoveEnded { payment_hash: PaymentHash([hash; 32]), arrived, height: 20 }
    }

    // S37
    #[test]
    fn what_arrives_counts_once() {
        let mut moves = Moves::default();
        let wanted = MoveWanted { from: FROM, to: TO, amount_msat: Some(100), height: 10 };
        moves.want(&wanted).unwrap();
        moves.want(&wanted).unwrap_err();
        moves.start(&started(1, 60)).unwrap();
        moves.start(&started(2, 40)).unwrap_err();
        moves.end(&ended(1, false)).unwrap();
        moves.end(&ended(1, true)).unwrap_err();
        assert_eq!((moves.of(FROM).unwrap().left_msat(), moves.of(FROM).unwrap().since), (Some(100), 10));
        moves.start(&started(3, 60)).unwrap();
        assert!(moves.by_hash(PaymentHash([3; 32])).is_some());
        moves.end(&ended(3, true)).unwrap();
        assert_eq!((moves.of(FROM).unwrap().left_msat(), moves.of(FROM).unwrap().since), (Some(40), 20));
        moves.over(&MoveOver { from: FROM, reason: None }).unwrap();
        assert!(moves.is_settled());
        assert_eq!(moves.last(FROM).unwrap().0.moved_msat, 60);
    }
}
