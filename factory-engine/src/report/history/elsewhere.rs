//! What a factory's records alone don't say, and those of others do: whose a fee is, and whom a key was handed over for.

use std::collections::{BTreeMap, BTreeSet};

use crate::record::attempt::Role;
use crate::report::history::sums::Sums;
use crate::report::history::{Entry, Filter, History};
use crate::types::{Height, NodeId, Txid};

/// Money of an entry that isn't there, should other factories say so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doubt {
    /// The fee of what took coins back. Another factory's funding that is the same transaction has it.
    Fee {
        /// The transaction.
        txid: Txid,
        /// What it pays, msat.
        msat: u64,
    },
    /// What was asked for the ordinary channel of a client that has handed its key over. Who goes on to another
    /// factory doesn't pay it.
    Leave {
        /// The client's node.
        node: NodeId,
        /// The timeout of the factory that it has left.
        ends: Height,
        /// When it left.
        at: Height,
        /// What was asked, msat.
        msat: u64,
    },
}

impl Doubt {
    /// Takes it out of sums.
    pub fn mend(&self, sums: &mut Sums) {
        match *self {
            Self::Fee { msat, .. } => {
                let fee = &mut sums.fees.transactions_msat;
                *fee = fee.saturating_sub(msat);
                sums.back.reclaimed_msat = sums.back.reclaimed_msat.saturating_add(msat);
            }
            Self::Leave { msat, .. } => {
                sums.earned.leaves_msat = sums.earned.leaves_msat.saturating_sub(msat);
            }
        }
    }

    /// Takes it out of the entry that it is about.
    pub fn mend_entry(&self, entry: &mut Entry) {
        self.mend(&mut entry.told.money);
        let facts = &mut entry.told.facts;
        match *self {
            Self::Fee { msat, .. } => {
                facts.amount_msat = facts.amount_msat.map(|amount| amount.saturating_add(msat));
                facts.fee_msat = None;
            }
            Self::Leave { .. } => facts.price_msat = None,
        }
    }
}

/// A client's place in a factory of this operator.
#[derive(Debug, Clone, Copy)]
struct Place {
    ends: Height,
    funded: Height,
}

/// What factories say about each other.
#[derive(Debug, Clone, Default)]
pub struct Elsewhere {
    fundings: BTreeSet<Txid>,
    places: BTreeMap<NodeId, Vec<Place>>,
}

impl Elsewhere {
    /// Takes in that a factory is funded: it pays the fee of that transaction, whatever else that takes back.
    pub fn add_fundings(&mut self, history: &History) {
        let fundings = history.entries.iter().filter(|entry| entry.money().put_in_msat > 0);
        self.fundings.extend(fundings.filter_map(|entry| entry.told.facts.txid));
    }

    /// Takes in who its clients are.
    pub fn add_places(&mut self, history: &History) {
        let Some(factory) = &history.factory else { return };
        let Some(funded) = factory.funding_height() else { return };
        if factory.current.role != Role::Lsp {
            return;
        }
        let place = Place { ends: factory.current.terms.timeout_height, funded };
        for node in &factory.current.clients {
            self.places.entry(*node).or_default().push(place);
        }
    }

    /// Whether money that is doubted isn't there.
    pub fn knows(&self, doubt: &Doubt) -> bool {
        match *doubt {
            Doubt::Fee { txid, .. } => self.fundings.contains(&txid),
            Doubt::Leave { node, ends, at, .. } => {
                let mut places = self.places.get(&node).into_iter().flatten();
                places.any(|next| next.ends > ends && next.funded <= at)
            }
        }
    }
}

impl History {
    /// What is doubted of the entries that are wanted, by their numbers.
    pub fn doubts(&self, filter: &Filter) -> Vec<(u64, Doubt)> {
        let doubts = self.wanted(filter).filter_map(|entry| Some((entry.index, self.doubt(entry)?)));
        doubts.collect()
    }

    fn doubt(&self, entry: &Entry) -> Option<Doubt> {
        let (facts, money) = (&entry.told.facts, entry.money());
        if money.back.reclaimed_msat > 0 {
            let msat = money.fees.transactions_msat;
            return Some(Doubt::Fee { txid: facts.txid?, msat });
        }
        if money.earned.leaves_msat > 0 {
            let ends = self.factory.as_ref()?.current.terms.timeout_height;
            let (node, at) = (facts.clients.first()?.node?, entry.told.height?);
            return Some(Doubt::Leave { node, ends, at, msat: money.earned.leaves_msat });
        }
        None
    }
}
