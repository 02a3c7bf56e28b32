//! What a transaction's child has to reach: its deadline, and what is at stake.

use crate::chain::channels::OwnChannel;
use crate::fees::sum;
use crate::io::fees::{Feerates, NO_HURRY};
use crate::memory::fees::Fees;
use crate::record::attempt::Role;
use crate::record::factory::{Factory, has_matured};
use crate::tx::child::Bump;
use crate::tx::layout::{NodeIndex, NodeKind, SpendRole, fee};
use crate::tx::scripts::anchor_script;
use crate::tx::tree::Session;
use crate::types::{Amount, Height, OutPoint, Transaction, Txid};

/// The child that a transaction needs now, and by when it should confirm; nothing if what it carries
/// itself is enough, or if it has no anchor.
pub(crate) fn bump(
    fees: &Fees,
    factory: &Factory,
    parent: &Transaction,
    height: Height,
) -> Option<(Bump, Height)> {
    // Whether or not anybody has ever said what fees are.
    let unknown = Feerates::default();
    let rates = fees.news.feerates.as_ref().unwrap_or(&unknown);
    let txid = parent.compute_txid();
    let session = session_of(factory, txid)?;
    let anchor = parent.output.iter().position(|output| output.script_pubkey == anchor_script())?;
    let paid = parent.output.iter().try_fold(Amount::ZERO, |sum, output| sum.checked_add(output.value))?;
    let parent_fee = session.prevout.value.checked_sub(paid)?;
    let parent_weight = parent.weight().to_wu();
    let deadline = deadline(fees, factory, session, height);
    let feerate = rates.target(deadline.saturating_sub(height));
    if parent_fee >= fee(parent_weight, feerate)? {
        return None;
    }
    let vout = u32::try_from(anchor).ok()?;
    let bump = Bump {
        anchor: OutPoint { txid, vout },
        version: parent.version,
        parent_fee,
        parent_weight,
        feerate,
        max_fee: at_stake(fees, factory, session, height),
    };
    Some((bump, deadline))
}

/// By when a transaction should confirm, whatever it carries; nothing if it isn't one of those that were signed
/// beforehand.
pub(crate) fn confirm_by(fees: &Fees, factory: &Factory, txid: Txid, height: Height) -> Option<Height> {
    session_of(factory, txid).map(|session| deadline(fees, factory, session, height))
}

fn session_of(factory: &Factory, txid: Txid) -> Option<&Session> {
    factory.sessions().find(|session| session.txid == txid)
}

/// A channel of this node's that a transaction is on the way to.
struct Behind {
    channel: OwnChannel,
    /// Transactions up to its funding, with this one.
    left: u64,
    /// Blocks that those after this one take.
    blocks: u32,
}

/// The channels that a transaction is needed for: under a node, of clients that leave or are made to;
/// behind a sale, whatever it and later sales fund.
fn behind<'f>(
    factory: &'f Factory,
    session: &'f Session,
    height: Height,
) -> impl Iterator<Item = Behind> + 'f {
    // A client goes down to its distribution then.
    let all_leave = factory.current.role != Role::Lsp && has_matured(factory, height);
    let left = factory.has_left();
    factory.own_channels().filter(move |_| !left).filter_map(move |channel| {
        let client = channel.client;
        let confirm = u32::from(factory.current.terms.confirm_blocks);
        let (nodes, sales) = match session.id.role {
            SpendRole::Sale => {
                let this = factory.current.sales.number_of(session.txid)?;
                let same = factory.current.layout.stock_coin(client) == Some(session.id.coin);
                (vec![], channel.sale.filter(|_| same)?.checked_sub(this)?.saturating_add(1))
            }
            // It pays what is in all of them.
            SpendRole::Close => (vec![], 1),
            SpendRole::State | SpendRole::Distribution | SpendRole::Poison => {
                let leaves = all_leave
                    || factory.current.exiting.contains(&client)
                    || factory.current.evicting.contains(&client) && !factory.has_handed_over(client);
                let path = factory.current.layout.path(client);
                let from = path.iter().position(|node| *node == session.id.coin).filter(|_| leaves)?;
                (path.into_iter().skip(from).collect(), channel.sale.unwrap_or(0))
            }
        };
        let lock = |node: &NodeIndex| match factory.current.layout.node(*node) {
            Some(node) if node.kind == NodeKind::State => node.sequence,
            _ => 0,
        };
        let left = u32::try_from(nodes.len()).unwrap_or(u32::MAX).saturating_add(sales);
        let locks = nodes.iter().skip(1).map(lock).fold(0, u32::saturating_add);
        let blocks = left.saturating_sub(1).saturating_mul(confirm).saturating_add(locks);
        Some(Behind { channel, left: u64::from(left.max(1)), blocks })
    })
}

/// Blocks that settling an HTLC takes once its channel is on chain: a commitment transaction and the HTLC's
/// own. Out of the margin, since an exit begins with that before the path has to be through.
fn settling(factory: &Factory) -> u32 {
    let confirm = u32::from(factory.current.terms.confirm_blocks);
    confirm.saturating_mul(2).min(u32::from(factory.current.terms.margin_blocks))
}

/// By when a transaction should confirm: early enough for what comes after it, commitment and HTLC
/// transaction among it, for the HTLCs that it has to settle, for L before the timeout, when clients may take
/// everything, and a sale
/// before L alone may take what it spends.
fn deadline(fees: &Fees, factory: &Factory, session: &Session, height: Height) -> Height {
    let since = due_since(factory, session).unwrap_or(height);
    let end = match session.id.role {
        // From the timeout on, node transactions compete for the same coin.
        SpendRole::Distribution => {
            return since.saturating_add(u32::from(factory.current.terms.confirm_blocks));
        }
        SpendRole::Sale if factory.current.role != Role::Lsp => {
            let csv = since.saturating_add(u32::from(factory.current.terms.stock_csv));
            Some(csv.min(factory.current.terms.timeout_height))
        }
        SpendRole::State | SpendRole::Sale | SpendRole::Poison | SpendRole::Close => {
            (factory.current.role == Role::Lsp).then_some(factory.current.terms.timeout_height)
        }
    };
    let settling = settling(factory);
    let hard = behind(factory, session, height).filter_map(|behind| {
        let htlcs = fees.due.get(&behind.channel.channel_id).map(|due| due.saturating_sub(settling));
        let end = htlcs.into_iter().chain(end).min()?;
        Some(end.saturating_sub(behind.blocks))
    });
    hard.min().unwrap_or(Height::MAX).min(since.saturating_add(NO_HURRY))
}

/// The height from which a transaction was due.
fn due_since(factory: &Factory, session: &Session) -> Option<Height> {
    let parent = *factory.confirmed.get(&session.outpoint.txid)?;
    match session.id.role {
        SpendRole::Distribution => Some(parent.max(factory.current.terms.timeout_height)),
        SpendRole::Sale => Some(parent),
        SpendRole::Close => {
            Some(factory.current.close.as_ref().map_or(parent, |close| close.since.max(parent)))
        }
        SpendRole::State | SpendRole::Poison => {
            let lock =
                factory.current.layout.node(session.id.coin).filter(|node| node.kind == NodeKind::State);
            let unlocked = parent.saturating_add(lock.map_or(0, |node| node.sequence));
            let began = [&factory.current.exit, &factory.current.eviction].into_iter().flatten();
            Some(unlocked.max(began.map(|(height, _)| *height).min().unwrap_or(0)))
        }
    }
}

/// What a transaction rescues for this node: of each channel behind it, divided among the transactions
/// that are still to come; of a distribution, our output.
fn at_stake(fees: &Fees, factory: &Factory, session: &Session, height: Height) -> Amount {
    if let (SpendRole::Distribution, Role::Client { index, .. }) = (session.id.role, factory.current.role) {
        let coin = session.id.coin;
        let outputs = match factory.current.layout.coin(coin) {
            // What it shares is all of the stock, or what sales have left of it.
            Some(stock) if stock.stock => factory.current.layout.stock_payouts(coin, session.prevout.value),
            _ => factory.current.layout.distribution_outputs(coin),
        };
        return outputs.into_iter().find(|(client, _)| *client == index).map_or(Amount::ZERO, |(_, sat)| sat);
    }
    // L's stock would go to the clients too, at the timeout.
    let per_sub = u64::from(factory.current.terms.shape.leaf.clients_per_sub);
    let stock = factory
        .current
        .terms
        .stock
        .to_sat()
        .checked_div(per_sub)
        .filter(|_| factory.current.role == Role::Lsp);
    let stock = Amount::from_sat(stock.unwrap_or(0));
    let of_channel = |behind: Behind| {
        let channel = behind.channel;
        // An unknown balance counts as all of it.
        let known = fees.news.stakes.get(&channel.channel_id);
        let stake = known.map_or(channel.capacity, |stake| (*stake).min(channel.capacity));
        let stock = if channel.sale.is_none() { stock } else { Amount::ZERO };
        let stake = stake.checked_add(stock).unwrap_or(stake);
        Amount::from_sat(stake.to_sat().checked_div(behind.left).unwrap_or(0))
    };
    sum(behind(factory, session, height).map(of_channel))
}
