//! Sales on chain: the chain of sales follows its leaf, and L's way to the stock must not overtake it.

use std::borrow::Cow;

use crate::chain::record;
use crate::io::Level;
use crate::record::attempt::Role;
use crate::record::event::ExitStarted;
use crate::record::factory::{Factory, unspent};
use crate::record::sales::Sold;
use crate::step::builder::StepBuilder;
use crate::types::Transaction;

/// "sale 2 of coin 7".
pub(crate) fn name(sold: &Sold) -> String {
    format!("sale {} of coin {}", sold.sale.number, sold.coin().unwrap_or_default())
}

/// Sales that this node wants on chain: L all, a client the chain up to the last that it bought.
pub fn wanted_sales(factory: &Factory) -> impl Iterator<Item = &Sold> {
    let last = factory.own_sales().filter(|sold| sold.is_signed()).map(|sold| sold.sale.number).max();
    let last = if factory.current.role == Role::Lsp { Some(u32::MAX) } else { last };
    // L takes a stock back with all its sales, once their buyers have handed over.
    let taken_back = |sold: &Sold| sold.coin().is_some_and(|coin| factory.is_handed_over(coin));
    let all = factory.current.sales.all().filter(move |sold| !taken_back(sold));
    all.filter(move |sold| last.is_some_and(|last| sold.sale.number <= last))
}

/// Transactions of sales that this node should have in the mempool: as soon as the stock that one
/// spends is on chain, and before L alone may take that. From the timeout on also what a sale has left.
pub(crate) fn due(factory: &Factory, matured: bool) -> Vec<(String, Transaction)> {
    let on_chain = |session: &crate::tx::tree::Session| unspent(factory, session.outpoint).is_some();
    let sales = wanted_sales(factory)
        .filter(|sold| sold.sale.sessions.first().is_some_and(on_chain))
        .filter_map(|sold| Some((name(sold), sold.signed_sale()?)));
    let mut due: Vec<_> = sales.collect();
    if matured && factory.current.role != Role::Lsp {
        let rests =
            factory.current.sales.all().filter(|sold| sold.sale.sessions.get(1).is_some_and(on_chain));
        let rest =
            |sold: &Sold| Some((format!("distribution after {}", name(sold)), sold.signed_distribution()?));
        due.extend(rests.filter_map(rest));
    }
    due
}

/// S19: distributions were signed before anything was sold and pay the stock to all of a sub-factory's
/// clients alike, so whoever bought some leaves in time, should L not have evicted it by then.
pub(crate) fn leave_with_sales(step: &mut StepBuilder<'_>, factory: &mut Cow<'_, Factory>) {
    let Role::Client { index, .. } = factory.current.role else { return };
    if factory.has_left() || factory.has_close() || factory.has_lost_channels() {
        return;
    }
    let last = factory.own_sales().filter(|sold| sold.is_signed()).map(|sold| sold.sale.number).max();
    let Some(number) = last.filter(|_| factory.funding_height().is_some()) else { return };
    let latest = factory
        .current
        .terms
        .timeout_height
        .saturating_sub(u32::from(factory.sale_blocks_early(index, number)));
    if step.height < latest
        || factory.current.exiting.contains(&index)
        || factory.leaf_height(index).is_some()
    {
        return;
    }
    let reason = format!("the timeout at {} is near", factory.current.terms.timeout_height);
    step.log(
        Level::Unusual,
        format!("{}: taking its channels on chain: {reason}, and one was bought", factory.instance),
    );
    let height = step.height;
    record(step, factory, ExitStarted { height, reason, clients: vec![index] });
}
