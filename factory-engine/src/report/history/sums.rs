//! Money that a history is about, msat: what was earned, what was spent, what came back.

/// What clients pay their operator for: it earns that, and they spend it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Prices {
    /// Sales that were signed, msat.
    pub sales_msat: u64,
    /// Ordinary channels that were opened in place of sales, msat.
    pub ordinary_channels_msat: u64,
    /// Renewals, msat: what was left behind for them.
    pub renewals_msat: u64,
    /// Ordinary channels that the operator opened for clients that left, msat: what was asked. It should stay behind
    /// with the key; what did is in no record.
    pub leaves_msat: u64,
}

/// What miners got.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Fees {
    /// Of funding transactions that confirmed, msat.
    pub funding_msat: u64,
    /// Operator: of the factory's transactions, and of what took coins back, msat. It comes out of what was put in.
    pub transactions_msat: u64,
    /// Of children that raised fees, msat.
    pub children_msat: u64,
}

/// What came back to this node's wallet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Back {
    /// Operator: stock that it took home, msat.
    pub stock_msat: u64,
    /// Operator: what it took back with everybody's keys, msat.
    pub reclaimed_msat: u64,
    /// What closes have paid this node, msat.
    pub closes_msat: u64,
    /// What distributions have paid this node, msat.
    pub distributions_msat: u64,
    /// Anchors that its children have spent, msat.
    pub anchors_msat: u64,
}

/// Invoices for liquidity, as this node sees them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Invoices {
    /// What it was paid, msat: an operator for sales, a client for its credit.
    pub received_msat: u64,
    /// What it has paid, msat.
    pub paid_msat: u64,
}

/// All of it. What moves in channels isn't here: that is lightningd's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sums {
    /// Operator: prices.
    pub earned: Prices,
    /// Client: prices.
    pub paid: Prices,
    /// What miners got.
    pub fees: Fees,
    /// Operator: values of funding outputs that confirmed, msat.
    pub put_in_msat: u64,
    /// What came back to the wallet.
    pub back: Back,
    /// Invoices for liquidity.
    pub invoices: Invoices,
    /// How many children have raised fees by what nobody knows: it is in no sum.
    pub children_unknown: u64,
}

fn add(to: &mut u64, more: u64) {
    *to = to.saturating_add(more);
}

fn sum(parts: impl IntoIterator<Item = u64>) -> u64 {
    parts.into_iter().fold(0, u64::saturating_add)
}

impl Prices {
    /// All together, msat.
    pub fn total_msat(&self) -> u64 {
        let Self { sales_msat, ordinary_channels_msat, renewals_msat, leaves_msat } = *self;
        sum([sales_msat, ordinary_channels_msat, renewals_msat, leaves_msat])
    }

    fn add(&mut self, more: &Self) {
        let Self { sales_msat, ordinary_channels_msat, renewals_msat, leaves_msat } = *more;
        add(&mut self.sales_msat, sales_msat);
        add(&mut self.ordinary_channels_msat, ordinary_channels_msat);
        add(&mut self.renewals_msat, renewals_msat);
        add(&mut self.leaves_msat, leaves_msat);
    }
}

impl Fees {
    /// All together, msat.
    pub fn total_msat(&self) -> u64 {
        let Self { funding_msat, transactions_msat, children_msat } = *self;
        sum([funding_msat, transactions_msat, children_msat])
    }

    fn add(&mut self, more: &Self) {
        let Self { funding_msat, transactions_msat, children_msat } = *more;
        add(&mut self.funding_msat, funding_msat);
        add(&mut self.transactions_msat, transactions_msat);
        add(&mut self.children_msat, children_msat);
    }
}

impl Back {
    /// All together, msat.
    pub fn total_msat(&self) -> u64 {
        let Self { stock_msat, reclaimed_msat, closes_msat, distributions_msat, anchors_msat } = *self;
        sum([stock_msat, reclaimed_msat, closes_msat, distributions_msat, anchors_msat])
    }

    fn add(&mut self, more: &Self) {
        let Self { stock_msat, reclaimed_msat, closes_msat, distributions_msat, anchors_msat } = *more;
        add(&mut self.stock_msat, stock_msat);
        add(&mut self.reclaimed_msat, reclaimed_msat);
        add(&mut self.closes_msat, closes_msat);
        add(&mut self.distributions_msat, distributions_msat);
        add(&mut self.anchors_msat, anchors_msat);
    }
}

impl Sums {
    /// Prices that this node has paid, and fees, msat.
    pub fn spent_msat(&self) -> u64 {
        self.paid.total_msat().saturating_add(self.fees.total_msat())
    }

    /// Adds others.
    pub fn add(&mut self, more: &Self) {
        let Self { earned, paid, fees, put_in_msat, back, invoices, children_unknown } = more;
        self.earned.add(earned);
        self.paid.add(paid);
        self.fees.add(fees);
        add(&mut self.put_in_msat, *put_in_msat);
        self.back.add(back);
        add(&mut self.invoices.received_msat, invoices.received_msat);
        add(&mut self.invoices.paid_msat, invoices.paid_msat);
        add(&mut self.children_unknown, *children_unknown);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_counts_once() {
        let prices = Prices { sales_msat: 1, ordinary_channels_msat: 2, renewals_msat: 4, leaves_msat: 8 };
        let fees = Fees { funding_msat: 16, transactions_msat: 32, children_msat: 64 };
        let back = Back {
            stock_msat: 128,
            reclaimed_msat: 256,
            closes_msat: 512,
            distributions_msat: 1_024,
            anchors_msat: 2_048,
        };
        let invoices = Invoices { received_msat: 3, paid_msat: 5 };
        let (put_in_msat, children_unknown) = (7, 9);
        let one = Sums { earned: prices, paid: prices, fees, put_in_msat, back, invoices, children_unknown };
        let mut twice = one;
        twice.add(&one);
        assert_eq!((one.earned.total_msat(), twice.earned.total_msat()), (15, 30));
        assert_eq!((one.fees.total_msat(), twice.fees.total_msat()), (112, 224));
        assert_eq!((one.back.total_msat(), twice.back.total_msat()), (3_968, 7_936));
        assert_eq!((one.spent_msat(), twice.spent_msat()), (127, 254));
        assert_eq!((twice.put_in_msat, twice.invoices), (14, Invoices { received_msat: 6, paid_msat: 10 }));
        assert_eq!(twice.children_unknown, 18);
        let mut most = Sums { put_in_msat: u64::MAX, ..Sums::default() };
        most.add(&one);
        assert_eq!(most.put_in_msat, u64::MAX);
    }
}
