//! What an operator gives each client when its channel opens, and asks of it for its renewal.

use crate::engine::Engine;
use crate::record::attempt::Role;
use crate::record::factory::Factory;
use crate::tx::layout::RESERVE_MSAT;
use crate::types::{Amount, Height, NodeId};

impl Engine {
    /// L: what each client of a factory that is created at `height` and ends at `timeout` is given when its channel
    /// opens, msat, if the command doesn't say: `factory-push-msat`, or where it renews another factory for one of them
    /// that client's reserve, 546,000 msat, which is the largest push. The reserve stays behind in the old channel, and
    /// S22 lets no key leave as long as that isn't made up for. The terms have one number for all clients.
    pub fn push_for(
        &self,
        clients: impl IntoIterator<Item = NodeId>,
        timeout: Height,
        height: Height,
    ) -> u64 {
        let old = self.ending(timeout, height);
        let renews = |node: NodeId| renews(&old, node);
        if clients.into_iter().any(renews) {
            return self.config.push_msat.max(RESERVE_MSAT);
        }
        self.config.push_msat
    }

    /// L: what each of these clients is asked for its channel of such a factory, by capacity, msat: `factory-price`'s
    /// renewal price if it leaves a channel in another factory for it, and nothing if it comes from elsewhere. What
    /// became an ordinary channel on chain isn't renewed: nothing can stay behind in it.
    pub fn renewal_prices(&self, clients: &[(NodeId, Amount)], timeout: Height, height: Height) -> Vec<u64> {
        let old = self.ending(timeout, height);
        let price = |(node, capacity): &(NodeId, Amount)| {
            if renews(&old, *node) { self.config.prices.renewal_msat(*capacity) } else { 0 }
        };
        clients.iter().map(price).collect()
    }

    /// L: whether what these clients' renewals cost isn't known.
    pub(crate) fn lacks_prices(&self, clients: &[(NodeId, Amount)], timeout: Height, height: Height) -> bool {
        let old = self.ending(timeout, height);
        self.prices_unknown && clients.iter().any(|(node, _)| renews(&old, *node))
    }

    /// The factories that end before one that ends at `timeout`.
    fn ending(&self, timeout: Height, height: Height) -> Vec<&Factory> {
        let ends = |factory: &&Factory| (height..timeout).contains(&factory.current.terms.timeout_height);
        self.whole().filter(ends).collect()
    }
}

/// L: whether a client leaves a channel in one of these.
fn renews(old: &[&Factory], node: NodeId) -> bool {
    old.iter().any(|factory| is_left(factory, node))
}

/// L: whether a client leaves a channel in this factory when it goes to another: it is in it, and neither out of it nor
/// on its way out.
fn is_left(factory: &Factory, node: NodeId) -> bool {
    let client = factory.client_of(node).filter(|_| factory.current.role == Role::Lsp);
    let funded = factory.funding_height().is_some() && factory.restored().is_none();
    funded && client.is_some_and(|client| !factory.is_leaving(client) && !factory.has_handed_over(client))
}
