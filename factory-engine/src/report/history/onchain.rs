//! What a transaction in a block was, what it paid miners, and what of it is this node's.

use bitcoin::TxOut;

use crate::record::attempt::Role;
use crate::record::event::Confirmed;
use crate::record::factory::Factory;
use crate::report::history::events::{fee, funding_fee, total};
use crate::report::history::kind::Kind;
use crate::report::history::sums::{Back, Fees, Sums};
use crate::report::history::told::{Told, msat};
use crate::report::standing::sighting;
use crate::tx::layout::{CoinIndex, SpendRole};
use crate::tx::scripts::anchor_script;
use crate::tx::tree::Session;
use crate::types::{Amount, OutPoint};

/// Adds what a confirmed transaction is in a factory that has taken it. Gives its anchor, if it has one.
pub(super) fn seen(factory: &Factory, event: &Confirmed, told: &mut Told) -> Option<(OutPoint, Amount)> {
    let Confirmed { txid, height, spends, .. } = event;
    told.what = format!("{} is in a block", sighting(factory, *txid, *height, spends).name);
    if factory.funding().is_some_and(|funding| funding.txid == *txid) {
        funding(factory, event, told);
        return None;
    }
    match spends.iter().find_map(|outpoint| factory.spend_of(*outpoint, *txid)) {
        Some(session) => {
            ours(factory, session, told);
            anchor(session)
        }
        None => {
            others(factory, event, told);
            None
        }
    }
}

fn is_lsp(factory: &Factory) -> bool {
    factory.current.role == Role::Lsp
}

fn paid(fee: Option<Amount>) -> u64 {
    fee.map_or(0, msat)
}

/// The factory is funded. The operator has put in its output, and paid the fee of the whole transaction, whatever
/// else that spends and pays.
fn funding(factory: &Factory, event: &Confirmed, told: &mut Told) {
    let value = || {
        let proposal = factory.current.proposal.as_ref()?;
        let vout = usize::try_from(proposal.funding_vout).ok()?;
        proposal.funding_tx.output.get(vout).map(|output| output.value)
    };
    let (value, fee) = (value(), funding_fee(factory));
    told.kind = Kind::Funding;
    told.facts.amount_msat = value.map(msat);
    told.facts.fee_msat = fee.map(msat);
    let confirmations = u32::from(factory.current.terms.funding_confirmations);
    told.facts.active_from = Some(event.height.saturating_add(confirmations).saturating_sub(1));
    if is_lsp(factory) {
        told.money.put_in_msat = value.map_or(0, msat);
        told.money.fees.funding_msat = paid(fee);
    }
}

/// A transaction of the factory's. What it pays miners was put in by the operator.
fn ours(factory: &Factory, session: &Session, told: &mut Told) {
    let fee = fee([session.prevout.value], &session.tx);
    let (kind, back) = match session.id.role {
        SpendRole::State | SpendRole::Sale | SpendRole::Poison => (Kind::Chain, Back::default()),
        SpendRole::Distribution => {
            let distributions_msat = distributed(factory, session);
            (Kind::Distribution, Back { distributions_msat, ..Back::default() })
        }
        SpendRole::Close => (Kind::Close, Back { closes_msat: closed(factory), ..Back::default() }),
    };
    told.kind = kind;
    told.facts.amount_msat = Some(msat(session.prevout.value));
    told.facts.fee_msat = fee.map(msat);
    let transactions_msat = if is_lsp(factory) { paid(fee) } else { 0 };
    told.money = Sums { back, fees: Fees { transactions_msat, ..Fees::default() }, ..Sums::default() };
}

/// What a distribution pays this client, msat.
fn distributed(factory: &Factory, session: &Session) -> u64 {
    let Role::Client { index, .. } = factory.current.role else { return 0 };
    let (layout, coin) = (&factory.current.layout, session.id.coin);
    // Of a stock output that was sold out of, the rest.
    let outputs = match layout.coin(coin).is_some_and(|coin| coin.stock) {
        true => layout.stock_payouts(coin, session.prevout.value),
        false => layout.distribution_outputs(coin),
    };
    let own = outputs.into_iter().filter(|(client, _)| *client == index);
    own.fold(0, |sum, (_, amount)| sum.saturating_add(msat(amount)))
}

/// What the close pays this node, msat: a client its share, the operator what is nobody's.
fn closed(factory: &Factory) -> u64 {
    let Some(close) = factory.current.close.as_deref() else { return 0 };
    let own = |output: &&TxOut| match (factory.current.role, close.owner(&output.script_pubkey)) {
        (Role::Lsp, owner) => owner.is_none(),
        (Role::Client { index, .. }, owner) => owner == Some(index),
    };
    let own = close.outputs().iter().filter(own);
    own.fold(0, |sum, output| sum.saturating_add(msat(output.value)))
}

/// The output that a child spends to raise a fee.
fn anchor(session: &Session) -> Option<(OutPoint, Amount)> {
    let script = anchor_script();
    let (vout, output) = (0..).zip(&session.tx.output).find(|(_, output)| output.script_pubkey == script)?;
    Some((OutPoint { txid: session.txid, vout }, output.value))
}

/// A spend of the factory's coins that this node doesn't hold: the operator's own, of stock, or with everybody's
/// keys; one of which nothing is known, which counts as nothing; or one of the funding's inputs.
fn others(factory: &Factory, event: &Confirmed, told: &mut Told) {
    let coins: Vec<_> = event.spends.iter().filter_map(|outpoint| coin_at(factory, *outpoint)).collect();
    let Some((coin, _)) = coins.first().copied() else {
        told.kind = Kind::Funding;
        return;
    };
    let value = total(coins.iter().map(|(_, value)| *value));
    // With other inputs beside it nobody can say which of them paid what.
    let amount = event.pays.or(value);
    let fee = event.pays.and_then(|pays| value?.checked_sub(pays));
    told.facts.amount_msat = amount.map(msat);
    told.facts.fee_msat = fee.map(msat);
    let came = amount.map_or(0, msat);
    let stock = factory.current.layout.coin(coin).is_some_and(|coin| coin.stock);
    let back = match (factory.may_be_reclaimed(coin), stock) {
        (true, _) => Back { reclaimed_msat: came, ..Back::default() },
        (false, true) if may_be_own(factory, event) => Back { stock_msat: came, ..Back::default() },
        (false, true) => {
            told.what = format!("a spend of stock coin {coin} that we hold no copy of is in a block");
            return;
        }
        (false, false) => return,
    };
    told.kind = Kind::Reclaim;
    if is_lsp(factory) {
        let fees = Fees { transactions_msat: paid(fee), ..Fees::default() };
        told.money = Sums { back, fees, ..Sums::default() };
    }
}

/// Whether a transaction that we don't hold may be the operator's own spend of stock. Records that came from an older
/// copy may lack the sale that it is; and the operator's own waits, and goes to an address that it has by then.
fn may_be_own(factory: &Factory, event: &Confirmed) -> bool {
    let delay = u32::from(factory.current.terms.stock_csv);
    let has_waited = |outpoint: &OutPoint| {
        let since = factory.confirmed.get(&outpoint.txid);
        since.is_some_and(|since| event.height >= since.saturating_add(delay))
    };
    let goes_home = !is_lsp(factory) || factory.stock_payout.is_some();
    factory.restored().is_none() && goes_home && event.spends.iter().all(has_waited)
}

/// Which coin of the factory an outpoint is, and what it is worth.
fn coin_at(factory: &Factory, outpoint: OutPoint) -> Option<(CoinIndex, Amount)> {
    let tree = factory.current.tree.iter().flat_map(|tree| tree.sessions());
    let sales = factory.current.sales.all().flat_map(|sold| &sold.sale.sessions);
    let found = tree.chain(sales).find(|session| session.outpoint == outpoint)?;
    Some((found.id.coin, found.prevout.value))
}
