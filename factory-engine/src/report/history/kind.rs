//! What entries are about: what people ask for.

/// What an entry of a history is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// It was begun, or this node invited; another attempt; a ladder's rung, and who was sent for.
    Created,
    /// Client: this node has accepted.
    Joined,
    /// The transactions are fixed, signed, stored.
    Signed,
    /// lightningd's channels: committed, checked, ended, settled.
    Channel,
    /// The funding transaction: reserved, sent, in a block.
    Funding,
    /// Other transactions of the factory in blocks, sales among them; blocks that left the chain.
    Chain,
    /// A distribution in a block.
    Distribution,
    /// What the operator has taken back: stock, and coins whose keys were handed over.
    Reclaim,
    /// A sale of liquidity, from its opening to its end.
    Sale,
    /// Invoices for liquidity, and what comes back of credit.
    Payment,
    /// An ordinary channel in place of a sale.
    OrdinaryChannel,
    /// A balance that goes from one channel to another.
    Move,
    /// A client that leaves for an ordinary channel.
    Leave,
    /// A client's key that goes to the operator.
    Handover,
    /// What was left behind for a renewal.
    Renewal,
    /// This node takes channels on chain.
    Exit,
    /// The operator puts clients' channels on chain.
    Eviction,
    /// All together close it.
    Close,
    /// Records that came from a copy.
    Recovery,
    /// It was declined, given up, forgotten.
    End,
    /// A record that this version doesn't understand.
    Unreadable,
}

impl Kind {
    /// Every kind, in the order of a factory's life.
    pub const ALL: [Kind; 21] = [
        Kind::Created,
        Kind::Joined,
        Kind::Signed,
        Kind::Channel,
        Kind::Funding,
        Kind::Chain,
        Kind::Distribution,
        Kind::Reclaim,
        Kind::Sale,
        Kind::Payment,
        Kind::OrdinaryChannel,
        Kind::Move,
        Kind::Leave,
        Kind::Handover,
        Kind::Renewal,
        Kind::Exit,
        Kind::Eviction,
        Kind::Close,
        Kind::Recovery,
        Kind::End,
        Kind::Unreadable,
    ];

    /// Its name in RPC.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Created => "created",
            Kind::Joined => "joined",
            Kind::Signed => "signed",
            Kind::Channel => "channel",
            Kind::Funding => "funding",
            Kind::Chain => "chain",
            Kind::Distribution => "distribution",
            Kind::Reclaim => "reclaim",
            Kind::Sale => "sale",
            Kind::Payment => "payment",
            Kind::OrdinaryChannel => "ordinary_channel",
            Kind::Move => "move",
            Kind::Leave => "leave",
            Kind::Handover => "handover",
            Kind::Renewal => "renewal",
            Kind::Exit => "exit",
            Kind::Eviction => "eviction",
            Kind::Close => "close",
            Kind::Recovery => "recovery",
            Kind::End => "end",
            Kind::Unreadable => "unreadable",
        }
    }

    /// The kind of this name.
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn each_has_a_name_of_its_own() {
        let names: BTreeSet<&str> = Kind::ALL.into_iter().map(Kind::name).collect();
        assert_eq!(names.len(), Kind::ALL.len());
        for kind in Kind::ALL {
            assert_eq!(Kind::of(kind.name()), Some(kind));
        }
        assert_eq!(Kind::of("sales"), None);
    }
}
