//! Clients that leave a factory for an ordinary channel: the fold of the events that are about it (S22).

use std::collections::BTreeMap;

use crate::record::event::{LeaveFunded, LeaveOpened, LeaveOpening, LeaveOver, LeaveWanted};
use crate::record::load_error::{LoadError, inconsistent};
use crate::terms::ClientIndex;
use crate::types::{ChannelId, Height};

/// Client: what a person has asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wish {
    /// Height at which it was asked for.
    pub height: Height,
    /// The most that may stay behind as reserve, msat.
    pub stays_msat: u64,
    /// The most that L may ask for opening a channel, msat.
    pub max_price_msat: u64,
    /// The ordinary channel that the balance goes to, once there is one.
    pub to: Option<ChannelId>,
    /// What L asks for it, msat: that much more stays behind.
    pub price_msat: u64,
}

/// Both sides of leaving: a client's wish, and L's channels for those who leave.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Leaves {
    wish: Option<Wish>,
    over: Option<(Height, String)>,
    opening: BTreeMap<ClientIndex, LeaveOpening>,
    opened: BTreeMap<ClientIndex, (ChannelId, u64)>,
}

impl Leaves {
    /// Client: what it wants, as long as it does.
    pub fn wish(&self) -> Option<&Wish> {
        self.wish.as_ref()
    }

    /// Client: when and why nothing came of its last wish, if so.
    pub fn over(&self) -> Option<(Height, &str)> {
        self.over.as_ref().map(|(height, reason)| (*height, reason.as_str()))
    }

    /// L: channels that lightningd was or is to be asked for.
    pub fn opening(&self) -> &BTreeMap<ClientIndex, LeaveOpening> {
        &self.opening
    }

    /// L: the channel that it has opened to a client that leaves, and what it asks for it, msat.
    pub fn opened(&self, client: ClientIndex) -> Option<(ChannelId, u64)> {
        self.opened.get(&client).copied()
    }

    /// L: whether a channel was opened to a client that leaves.
    pub fn names(&self, channel_id: ChannelId) -> bool {
        self.opened.values().any(|(opened, _)| *opened == channel_id)
    }

    pub(super) fn want(&mut self, event: &LeaveWanted) -> Result<(), LoadError> {
        if self.wish.is_some() {
            return Err(inconsistent("LeaveWanted", "it is wanted already"));
        }
        let LeaveWanted { height, stays_msat, max_price_msat, to } = *event;
        self.wish = Some(Wish { height, stays_msat, max_price_msat, to, price_msat: 0 });
        Ok(())
    }

    pub(super) fn end(&mut self, event: &LeaveOver) -> Result<(), LoadError> {
        self.wish.take().ok_or_else(|| inconsistent("LeaveOver", "nobody wants to leave"))?;
        self.over = Some((event.height, event.reason.clone()));
        Ok(())
    }

    pub(super) fn open(&mut self, event: &LeaveOpened) -> Result<(), LoadError> {
        let wish = self.wish.as_mut().filter(|wish| wish.to.is_none());
        let wish = wish.ok_or_else(|| inconsistent("LeaveOpened", "no channel is waited for"))?;
        (wish.to, wish.price_msat) = (Some(event.channel_id), event.price_msat);
        Ok(())
    }

    pub(super) fn begin(&mut self, event: &LeaveOpening) {
        self.opening.insert(event.client, event.clone());
    }

    pub(super) fn fund(&mut self, event: &LeaveFunded) -> Result<(), LoadError> {
        let opening = self.opening.remove(&event.client);
        let opening = opening.ok_or_else(|| inconsistent("LeaveFunded", "no channel was being opened"))?;
        if let Some(channel_id) = event.channel_id {
            self.opened.insert(event.client, (channel_id, opening.price_msat));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Amount;

    const CHANNEL: ChannelId = ChannelId([7; 32]);

    // S22
    #[test]
    fn a_wish_has_one_channel() {
        let mut leaves = Leaves::default();
        let wanted = LeaveWanted { height: 10, stays_msat: 546_000, max_price_msat: 9, to: None };
        let opened = LeaveOpened { channel_id: CHANNEL, price_msat: 8, height: 11 };
        leaves.open(&opened).unwrap_err();
        leaves.want(&wanted).unwrap();
        leaves.want(&wanted).unwrap_err();
        leaves.open(&opened).unwrap();
        leaves.open(&opened).unwrap_err();
        assert_eq!(leaves.wish().map(|wish| (wish.to, wish.price_msat)), Some((Some(CHANNEL), 8)));
        let over = LeaveOver { height: 12, reason: "no".into() };
        leaves.end(&over).unwrap();
        leaves.end(&over).unwrap_err();
        assert_eq!((leaves.wish(), leaves.over()), (None, Some((12, "no"))));
        leaves.want(&LeaveWanted { to: Some(CHANNEL), ..wanted }).unwrap();
        leaves.open(&opened).unwrap_err();
    }

    #[test]
    fn what_is_opened_is_opened_once() {
        let mut leaves = Leaves::default();
        let funded = |channel_id| LeaveFunded { client: 2, channel_id, height: 12 };
        leaves.fund(&funded(None)).unwrap_err();
        let opening = LeaveOpening { client: 2, amount: Amount::from_sat(5), price_msat: 3, height: 11 };
        leaves.begin(&opening);
        leaves.fund(&funded(None)).unwrap();
        assert_eq!(leaves.opened(2), None);
        leaves.begin(&opening);
        leaves.fund(&funded(Some(CHANNEL))).unwrap();
        assert_eq!(leaves.opened(2), Some((CHANNEL, 3)));
        assert!(leaves.names(CHANNEL) && leaves.opening().is_empty());
    }
}
