//! S21: L gets every client's leaf on chain before the timeout, from where on distributions pay L
//! nothing. What it publishes is the clients' paths and no more; channels go on.
//!
//! Each client has a deadline of its own, and the paths of several share transactions, so that client
//! by client never costs more than the whole tree: it *is* the whole tree once everybody's time has come.

use std::borrow::Cow;
use std::collections::BTreeSet;

use crate::chain::{TOLD_TO, exit_allowed, record};
use crate::engine::Engine;
use crate::io::{Answer, Level, Refusal};
use crate::record::attempt::Role;
use crate::record::event::EvictionStarted;
use crate::record::factory::Factory;
use crate::report::counting::counted;
use crate::step::builder::StepBuilder;
use crate::terms::ClientIndex;
use crate::tx::layout::NodeIndex;
use crate::types::{Amount, Height, InstanceId};

/// What the eviction of some clients takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Eviction {
    /// Whose leaves are not on chain yet.
    pub clients: BTreeSet<ClientIndex>,
    /// Transactions that are not on chain yet, in the order in which they can confirm.
    pub nodes: BTreeSet<NodeIndex>,
    /// Their size together, vB, without what raises their fees.
    pub vbytes: u64,
    /// The fees that they carry by themselves.
    pub fees: Amount,
    /// Height at which it has to begin at the latest.
    pub latest: Height,
}

/// What it takes to evict these clients: whoever is out already costs nothing.
pub fn eviction(factory: &Factory, clients: impl IntoIterator<Item = ClientIndex>) -> Eviction {
    let clients: BTreeSet<ClientIndex> =
        clients.into_iter().filter(|client| factory.leaf_height(*client).is_none()).collect();
    let missing = |node: &NodeIndex| !factory.node_confirmed(*node);
    let paths = clients.iter().flat_map(|client| factory.current.layout.path(*client));
    let nodes: BTreeSet<NodeIndex> = paths.collect::<BTreeSet<_>>().into_iter().filter(missing).collect();
    let all = || nodes.iter().filter_map(|node| factory.current.layout.node(*node));
    Eviction {
        vbytes: all().map(|node| node.vbytes).fold(0, u64::saturating_add),
        // No more than the funding output, which is an amount.
        fees: all().fold(Amount::ZERO, |sum, node| sum.checked_add(node.fee).unwrap_or(sum)),
        latest: clients.iter().map(|client| factory.eviction_height(*client)).min().unwrap_or(0),
        clients,
        nodes,
    }
}

impl Factory {
    /// S21: height at which L has to begin to take this client's channel on chain.
    pub fn eviction_height(&self, client: ClientIndex) -> Height {
        let sales =
            self.current.layout.stock_coin(client).map_or(0, |coin| self.current.sales.of(coin).len());
        let sales =
            u32::try_from(sales).unwrap_or(u32::MAX).saturating_mul(self.current.terms.confirm_blocks.into());
        let blocks = self.current.layout.eviction_blocks(client).saturating_add(sales);
        self.current.terms.timeout_height.saturating_sub(blocks)
    }

    /// Clients whose leaves are neither on chain nor on the way there by this node's doing, and that have not
    /// handed over.
    pub fn still_in(&self) -> impl Iterator<Item = ClientIndex> {
        // S22: for whom has handed over the operator takes the coin that its channel is under.
        let clients = 0..self.current.terms.clients();
        clients.filter(|client| !self.is_leaving(*client) && !self.has_handed_over(*client))
    }

    /// The next client's deadline, for L.
    pub fn next_eviction(&self) -> Option<Height> {
        self.still_in().map(|client| self.eviction_height(client)).min()
    }
}

impl Engine {
    /// S21: whoever has not left in time.
    pub(crate) fn evict_in_time(&self, step: &mut StepBuilder<'_>, factory: &mut Cow<'_, Factory>) {
        if factory.current.role != Role::Lsp || factory.funding_height().is_none() {
            return;
        }
        // It pays everybody who is in.
        if factory.has_close() {
            return;
        }
        // A look at the numbers first: this runs for every factory at every block.
        let sold = factory.current.sales.all().map(|sold| sold.sale.number).max().unwrap_or(0);
        let sales = sold.saturating_mul(factory.current.terms.confirm_blocks.into());
        let blocks = factory.current.layout.worst_eviction_blocks().saturating_add(sales);
        if step.height < factory.current.terms.timeout_height.saturating_sub(blocks) {
            return;
        }
        let late: Vec<ClientIndex> =
            factory.still_in().filter(|client| step.height >= factory.eviction_height(*client)).collect();
        if !late.is_empty() {
            let reason = format!("the timeout at {} is near", factory.current.terms.timeout_height);
            begin(step, factory, late, &reason);
        }
    }

    /// `factory-evict`: L publishes the leaves of these clients, or of all that are still in (S21).
    pub(crate) fn evict(
        &self,
        step: &mut StepBuilder<'_>,
        instance: InstanceId,
        clients: &[ClientIndex],
    ) -> Result<Answer, Refusal> {
        let factory = self.factories.get(&instance).ok_or(Refusal::Unknown(instance))?;
        let clients = evictable(factory, clients, step.height)?;
        if !clients.is_empty() {
            let mut after = Cow::Borrowed(factory);
            begin(step, &mut after, clients, TOLD_TO);
            self.publish(step, &after);
        }
        Ok(Answer::Done)
    }
}

/// Whom `factory-evict` would evict: those that are named, or everybody who is still in.
///
/// # Errors
/// When that makes no sense, and why.
pub fn evictable(
    factory: &Factory,
    named: &[ClientIndex],
    height: Height,
) -> Result<Vec<ClientIndex>, Refusal> {
    if factory.current.role != Role::Lsp {
        return Err(Refusal::OperatorEvicts);
    }
    exit_allowed(factory, height)?;
    for client in named {
        if *client >= factory.current.terms.clients() {
            return Err(Refusal::NoSuchClient { client: *client, clients: factory.current.terms.clients() });
        }
        if factory.leaf_height(*client).is_some() {
            return Err(Refusal::IsOut(*client));
        }
        if factory.has_handed_over(*client) {
            return Err(Refusal::GoneOver(*client));
        }
    }
    if named.is_empty() {
        return Ok(factory.still_in().collect());
    }
    let named: BTreeSet<ClientIndex> = named.iter().copied().collect();
    Ok(named.into_iter().filter(|client| !factory.is_leaving(*client)).collect())
}

fn begin(
    step: &mut StepBuilder<'_>,
    factory: &mut Cow<'_, Factory>,
    clients: Vec<ClientIndex>,
    reason: &str,
) {
    let plan = eviction(factory, clients.iter().copied());
    step.log(
        Level::Unusual,
        format!(
            "{}: evicting {} of {} ({reason}): {}, {} vB; their channels go on",
            factory.instance,
            clients.len(),
            counted(factory.current.terms.clients(), "client"),
            counted(plan.nodes.len(), "transaction"),
            plan.vbytes
        ),
    );
    let height = step.height;
    record(step, factory, EvictionStarted { height, reason: reason.into(), clients });
}
