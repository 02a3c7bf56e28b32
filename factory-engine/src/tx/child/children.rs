//! The children that are out, and what the next one is made of.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use bitcoin::{ScriptBuf, Txid};

use super::{Bump, Child, Coin, Least, NoChild};
use crate::types::Height;

/// The children that are out, by their parents. Whoever holds it reserves their coins.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Children {
    out: BTreeMap<Txid, Child>,
    /// By when their parents should confirm, as it was said last. A restart hears it again.
    deadlines: BTreeMap<Txid, Height>,
}

impl Children {
    /// The child that is out for this parent, if any.
    pub fn of(&self, parent: Txid) -> Option<&Child> {
        self.out.get(&parent)
    }

    /// Takes note of a child; gives the one that it replaces.
    pub fn replace(&mut self, parent: Txid, child: Child) -> Option<Child> {
        self.out.insert(parent, child)
    }

    /// Forgets the child of this parent, and gives it back.
    pub fn remove(&mut self, parent: Txid) -> Option<Child> {
        self.deadlines.remove(&parent);
        self.out.remove(&parent)
    }

    /// Takes note of the height by which a parent should confirm.
    pub fn note(&mut self, parent: Txid, deadline: Height) {
        self.deadlines.insert(parent, deadline);
    }

    /// S26: children of parents that have more time than `deadline` leaves, the least urgent first. Those
    /// whose deadline nobody has said since a restart come first.
    fn less_urgent(&self, deadline: Height) -> Vec<(Txid, Child)> {
        let of = |parent: &Txid| self.deadlines.get(parent).copied().unwrap_or(Height::MAX);
        let later = self.out.iter().filter(|(parent, _)| of(parent) > deadline);
        let mut later: Vec<_> = later.map(|(parent, child)| (*parent, child.clone())).collect();
        later.sort_by_key(|(parent, _)| (Reverse(of(parent)), *parent));
        later
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
pub struct Draft {
    /// The coins of the one that it replaces: it spends them all.
    first: Vec<Coin>,
    free: Vec<Coin>,
    change: ScriptBuf,
    least: Least,
    /// Children of less urgent parents, whose coins it may take.
    lent: Vec<(Txid, Child)>,
}

impl Draft {
    /// Of the child that is out, if one is (`old`; `stays`: nodes have it, and it has to be outbid), and
    /// coins that nobody uses. If those are too few, the coins of less urgent children are added, as far as
    /// they are `here`, unspent by any block.
    pub fn new(
        bump: &Bump,
        children: &Children,
        deadline: Height,
        own: Own,
        here: impl Fn(&Coin) -> bool,
    ) -> Self {
        let Own { old, stays, free, change } = own;
        let least = old.as_ref().filter(|_| stays).map(Child::beaten_by).unwrap_or_default();
        let first = old.map(|old| old.coins).unwrap_or_default();
        let mut draft = Self { first, free, change, least, lent: vec![] };
        for (parent, child) in children.less_urgent(deadline) {
            let made = draft.child(bump);
            if made.is_ok_and(|(child, _)| bump.short_by(&child).is_none()) {
                break;
            }
            let coins = child.coins.iter().filter(|coin| here(coin) && !draft.first.contains(coin));
            draft.free.extend(coins.cloned());
            draft.lent.push((parent, child));
        }
        draft
    }

    /// The child, unsigned, and the parents whose children it takes coins from: those go when it comes.
    ///
    /// # Errors
    /// As [`Bump::child`].
    pub fn child(&self, bump: &Bump) -> Result<(Child, Vec<Txid>), NoChild> {
        let child = bump.child(&self.first, &self.free, self.change.clone(), self.least)?;
        let taken = self.taken(&child);
        if taken.is_empty() {
            return Ok((child, vec![]));
        }
        let beaten = taken.iter().fold(self.least, |least, (_, other)| least.with(other.beaten_by()));
        let child = bump.child(&self.first, &self.free, self.change.clone(), beaten)?;
        let taken = self.taken(&child).into_iter().map(|(parent, _)| *parent).collect();
        Ok((child, taken))
    }

    fn taken(&self, child: &Child) -> Vec<&(Txid, Child)> {
        let shares = |other: &Child| other.coins.iter().any(|coin| child.coins.contains(coin));
        self.lent.iter().filter(|(_, other)| shares(other)).collect()
    }

    /// It was not taken, because of something else's child: it has to pay this at least, too.
    pub fn outbid(&mut self, least: Least) {
        self.least = self.least.or(least);
    }
}

/// What a wallet has for a child.
#[derive(Debug, Clone)]
pub struct Own {
    /// The child that is out, whose coins are all there.
    pub old: Option<Child>,
    /// Whether nodes have it.
    pub stays: bool,
    /// Confirmed coins that nothing uses.
    pub free: Vec<Coin>,
    /// Where the change goes.
    pub change: ScriptBuf,
}

#[cfg(test)]
mod tests {
    use bitcoin::hashes::Hash;

    use super::super::tests::{bump, change, coin, made};
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
        let order =
            |deadline| children.less_urgent(deadline).into_iter().map(|(txid, _)| txid).collect::<Vec<_>>();
        assert_eq!(order(110), [txid(3), txid(4), txid(1)]);
        assert_eq!(order(130), [txid(3)]);
    }

    fn own(free: &[Coin]) -> Own {
        Own { old: None, stays: false, free: free.to_vec(), change: change() }
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
        let draft = |deadline, free: &[Coin]| Draft::new(&wanted, &children, deadline, own(free), |_| true);
        let (child, taken) = draft(150, &[]).child(&wanted).unwrap();
        assert_eq!((taken, child.coins.clone()), (vec![txid(1)], theirs.coins.clone()));
        assert!(child.fee.to_sat() >= theirs.fee.to_sat() + theirs.weight / 4, "nodes take it");
        // Not where there is another, nor if the other one is as urgent, nor once its coin is gone.
        assert_eq!(draft(150, &[coin(1, 40_000)]).child(&wanted).unwrap().1, []);
        assert!(matches!(draft(200, &[]).child(&wanted), Err(NoChild::Short { .. })));
        let gone = Draft::new(&wanted, &children, 150, own(&[]), |_| false);
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
