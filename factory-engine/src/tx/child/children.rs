//! The children that are out, and what the next one is made of.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use bitcoin::{OutPoint, ScriptBuf, Txid};

use super::{Bump, Child, Coin, Least, NoChild, Purse};
use crate::types::Height;

/// The children that are out, by their parents. Whoever holds it reserves their coins.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Children {
    out: BTreeMap<Txid, Child>,
    /// By when their parents should confirm, as it was said last. A restart hears it again.
    deadlines: BTreeMap<Txid, Height>,
    /// Those that are out, the least urgent first.
    order: BTreeSet<(Reverse<Height>, Txid)>,
}

impl Children {
    /// The child that is out for this parent, if any.
    pub fn of(&self, parent: Txid) -> Option<&Child> {
        self.out.get(&parent)
    }

    /// Takes note of a child; gives the one that it replaces.
    pub fn replace(&mut self, parent: Txid, child: Child) -> Option<Child> {
        self.order.insert(self.place(parent));
        self.out.insert(parent, child)
    }

    /// Forgets the child of this parent, and gives it back.
    pub fn remove(&mut self, parent: Txid) -> Option<Child> {
        self.order.remove(&self.place(parent));
        self.deadlines.remove(&parent);
        self.out.remove(&parent)
    }

    /// Takes note of the height by which a parent should confirm.
    pub fn note(&mut self, parent: Txid, deadline: Height) {
        let is_out = self.order.remove(&self.place(parent));
        self.deadlines.insert(parent, deadline);
        if is_out {
            self.order.insert(self.place(parent));
        }
    }

    /// Where a parent stands in the order. One whose deadline nobody has said since a restart comes first.
    fn place(&self, parent: Txid) -> (Reverse<Height>, Txid) {
        (Reverse(self.deadlines.get(&parent).copied().unwrap_or(Height::MAX)), parent)
    }

    /// S26: children of parents that have more time than `deadline` leaves, the least urgent first. Whoever needs
    /// a few doesn't look at all of them.
    fn less_urgent(&self, deadline: Height) -> impl Iterator<Item = (Txid, &Child)> {
        let later = self.order.iter().take_while(move |(Reverse(of), _)| *of > deadline);
        later.filter_map(|(_, parent)| Some((*parent, self.out.get(parent)?)))
    }

    /// What they all spend, beside their parents' anchors.
    pub fn spent(&self) -> BTreeSet<OutPoint> {
        self.out.values().flat_map(|child| &child.coins).map(|coin| coin.outpoint).collect()
    }

    /// Children whose parents no longer wait: their coins are to be given back, unless the child spends
    /// them.
    pub fn ended(&self, waiting: &BTreeSet<Txid>) -> Vec<Txid> {
        self.out.keys().copied().filter(|parent| !waiting.contains(parent)).collect()
    }

    /// Every child with its parent.
    pub fn iter(&self) -> impl Iterator<Item = (&Txid, &Child)> {
        self.out.iter()
    }
}

/// What a child is made of, and what it has to beat.
#[derive(Debug, Clone)]
pub struct Draft<'p> {
    /// The coins of the one that it replaces: it spends them all.
    first: Vec<Coin>,
    free: &'p Purse,
    change: ScriptBuf,
    least: Least,
    /// Coins of less urgent children, which it may take.
    lent: Purse,
    /// Whose they are, and what it takes to replace that child.
    lenders: BTreeMap<OutPoint, (Txid, Least)>,
}

impl<'p> Draft<'p> {
    /// Of the child that is out, if one is (`old`; `stays`: nodes have it, and it has to be outbid), and
    /// coins that nobody uses. If those are too few, the coins of less urgent children are added, as far as
    /// they are `here`, unspent by any block.
    pub fn new(
        bump: &Bump,
        children: &Children,
        deadline: Height,
        own: Own<'p>,
        here: impl Fn(&Coin) -> bool,
    ) -> Self {
        let Own { old, stays, free, change } = own;
        let least = old.as_ref().filter(|_| stays).map(Child::beaten_by).unwrap_or_default();
        let first = old.map(|old| old.coins).unwrap_or_default();
        let (lent, lenders) = (Purse::default(), BTreeMap::new());
        let mut draft = Self { first, free, change, least, lent, lenders };
        for (parent, child) in children.less_urgent(deadline) {
            let made = draft.child(bump);
            if made.is_ok_and(|(child, _)| bump.short_by(&child).is_none()) {
                break;
            }
            for coin in &child.coins {
                draft.lenders.insert(coin.outpoint, (parent, child.beaten_by()));
                if here(coin) && !draft.first.contains(coin) {
                    draft.lent.put(coin.clone());
                }
            }
        }
        draft
    }

    /// The child, unsigned, and the parents whose children it takes coins from: those go when it comes.
    ///
    /// # Errors
    /// As [`Bump::child`].
    pub fn child(&self, bump: &Bump) -> Result<(Child, Vec<Txid>), NoChild> {
        let child = self.paying(bump, self.least)?;
        let taken = self.taken(&child);
        if taken.is_empty() {
            return Ok((child, vec![]));
        }
        let beaten = taken.into_values().fold(self.least, Least::with);
        let child = self.paying(bump, beaten)?;
        let taken = self.taken(&child).into_keys().collect();
        Ok((child, taken))
    }

    fn paying(&self, bump: &Bump, least: Least) -> Result<Child, NoChild> {
        bump.child(&self.first, &[self.free, &self.lent], self.change.clone(), least)
    }

    fn taken(&self, child: &Child) -> BTreeMap<Txid, Least> {
        child.coins.iter().filter_map(|coin| self.lenders.get(&coin.outpoint).copied()).collect()
    }

    /// It was not taken, because of something else's child: it has to pay this at least, too.
    pub fn outbid(&mut self, least: Least) {
        self.least = self.least.or(least);
    }
}

/// What a wallet has for a child.
#[derive(Debug, Clone)]
pub struct Own<'p> {
    /// The child that is out, whose coins are all there.
    pub old: Option<Child>,
    /// Whether nodes have it.
    pub stays: bool,
    /// Confirmed coins that nothing uses.
    pub free: &'p Purse,
    /// Where the change goes.
    pub change: ScriptBuf,
}

#[cfg(test)]
mod tests {
    use bitcoin::hashes::Hash;

    use super::super::tests::{bump, change, coin, made, purse};
    use super::*;

    // S26: the coins of whoever has more time.
    #[test]
    fn coins_are_taken_from_the_least_urgent() {
        let txid = |byte| Txid::from_byte_array([byte; 32]);
        let child = made(&bump(5_000, 100_000), &[coin(0, 30_000)]).unwrap();
        let mut children = Children::default();
        for (byte, deadline) in [(1, Some(120)), (2, Some(110)), (3, None), (4, Some(130))] {
            children.replace(txid(byte), child.clone());
            if let Some(deadline) = deadline {
                children.note(txid(byte), deadline);
            }
        }
        let order = |children: &Children, deadline| {
            children.less_urgent(deadline).map(|(txid, _)| txid).collect::<Vec<_>>()
        };
        assert_eq!(order(&children, 110), [txid(3), txid(4), txid(1)]);
        assert_eq!(order(&children, 130), [txid(3)]);
        // What is said anew counts, what is gone doesn't, and one that comes back is new.
        children.note(txid(3), 115);
        children.note(txid(4), 140);
        children.remove(txid(1));
        assert_eq!(order(&children, 110), [txid(4), txid(3)]);
        children.replace(txid(1), child);
        assert_eq!(order(&children, 110), [txid(1), txid(4), txid(3)]);
    }

    fn own(free: &Purse) -> Own<'_> {
        Own { old: None, stays: false, free, change: change() }
    }

    /// However many children are out: whoever has a coin asks for none of theirs, and whoever has none for one.
    #[test]
    fn no_more_of_them_are_looked_at_than_it_takes() {
        let wanted = bump(5_000, 100_000);
        let mut children = Children::default();
        for number in 0..10_000u32 {
            let parent = Txid::from_byte_array(std::array::from_fn(|at| number.to_le_bytes()[at % 4]));
            children.replace(parent, made(&wanted, &[coin(number, 50_000)]).unwrap());
            children.note(parent, 1_000 + number);
        }
        let looked_at = |free: &[Coin]| {
            let (looks, free) = (std::cell::Cell::new(0), purse(free));
            let here = |_: &Coin| {
                looks.set(looks.get() + 1);
                true
            };
            let draft = Draft::new(&wanted, &children, 500, own(&free), here);
            assert!(draft.child(&wanted).is_ok());
            looks.get()
        };
        assert_eq!((looked_at(&[coin(20_000, 50_000)]), looked_at(&[])), (0, 1));
    }

    // S26: what is urgent gets a coin, if a less urgent child has the only one.
    #[test]
    fn an_urgent_child_takes_the_coin_of_another() {
        let txid = |byte| Txid::from_byte_array([byte; 32]);
        let mut children = Children::default();
        let theirs = made(&bump(5_000, 100_000), &[coin(0, 50_000)]).unwrap();
        children.replace(txid(1), theirs.clone());
        children.note(txid(1), 200);
        let wanted = bump(9_000, 100_000);
        let child = |deadline, free: &[Coin]| {
            let free = purse(free);
            Draft::new(&wanted, &children, deadline, own(&free), |_| true).child(&wanted)
        };
        let (urgent, taken) = child(150, &[]).unwrap();
        assert_eq!((taken, urgent.coins.clone()), (vec![txid(1)], theirs.coins.clone()));
        assert!(urgent.fee.to_sat() >= theirs.fee.to_sat() + theirs.weight / 4, "nodes take it");
        // Not where there is another, nor if the other one is as urgent, nor once its coin is gone.
        assert_eq!(child(150, &[coin(1, 40_000)]).unwrap().1, []);
        assert!(matches!(child(200, &[]), Err(NoChild::Short { .. })));
        let nothing = Purse::default();
        let gone = Draft::new(&wanted, &children, 150, own(&nothing), |_| false);
        assert!(matches!(gone.child(&wanted), Err(NoChild::Short { .. })));
    }

    // S27
    #[test]
    fn whatever_ended_is_given_back() {
        let mut children = Children::default();
        let child = made(&bump(5_000, 100_000), &[coin(0, 30_000)]).unwrap();
        let parent = Txid::all_zeros();
        assert_eq!(children.replace(parent, child.clone()), None);
        assert!(children.ended(&BTreeSet::from([parent])).is_empty());
        assert_eq!(children.ended(&BTreeSet::new()), [parent]);
        assert_eq!(children.remove(parent), Some(child));
    }
}
