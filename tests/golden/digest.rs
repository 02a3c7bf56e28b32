//! What a history amounts to, in words that don't change when a field is renamed.

use std::fmt::{Display, Write};

use bitcoin::hashes::{Hash, sha256};
use factory_engine::record::event::Event;
use factory_engine::{Attempt, Factory, Role, Sold, standing};

fn list<T: Display>(items: impl IntoIterator<Item = T>) -> String {
    items.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join(" ")
}

fn hash<'a>(signatures: impl Iterator<Item = &'a [u8; 64]>) -> String {
    sha256::Hash::hash(&signatures.flatten().copied().collect::<Vec<_>>()).to_string()
}

/// One line for each thing that matters.
pub fn digest(factory: Option<&Factory>, records: &[Vec<Event>], ledger: usize) -> String {
    let mut out = String::new();
    writeln!(out, "ledger: {ledger}").unwrap();
    let Some(factory) = factory else {
        writeln!(out, "forgotten").unwrap();
        return out;
    };
    let last = records.iter().flatten().filter_map(|event| match event {
        Event::Confirmed(confirmed) => Some(confirmed.height),
        _ => None,
    });
    let height = last.max().unwrap_or(100).saturating_add(3);
    writeln!(out, "at {height}: {}", factory.state(height)).unwrap();
    writeln!(out, "standing: {}", standing(factory, height).map_or("none", |standing| standing.name()))
        .unwrap();
    one(&mut out, factory, &factory.current);
    for past in factory.past() {
        writeln!(out, "past:").unwrap();
        one(&mut out, factory, past);
    }
    out
}

/// An attempt, and of the current one the factory too.
fn one(out: &mut String, factory: &Factory, attempt: &Attempt) {
    let current = std::ptr::eq(attempt, &factory.current);
    let role = match attempt.role {
        Role::Lsp => "lsp".to_owned(),
        Role::Client { lsp, index } => format!("client {index} of {lsp}"),
    };
    let left_out = factory.left_out.iter().map(|(node, why)| format!("{node} ({why});"));
    let channels = attempt.channels.iter().map(|(client, id)| format!("{client}={id}"));
    let confirmed = factory.confirmed.iter().map(|(txid, height)| format!("{txid}@{height}"));
    let spent = factory.spent.iter().map(|(outpoint, txid)| format!("{outpoint}>{txid}"));
    let pays = factory.pays.iter().map(|(txid, pays)| format!("{txid}={}", pays.to_sat()));
    let signed_for = factory.signed_for().iter().map(|(txid, inputs)| format!("{txid}<{}", list(inputs)));
    let because = |of: &Option<(u32, String)>| of.as_ref().map(|(at, why)| format!("at {at}: {why}"));
    let of_factory = |text: String| if current { text } else { String::new() };
    let lines = [
        ("role", role),
        ("attempt", attempt.number.to_string()),
        ("price_msat", attempt.price_msat.to_string()),
        ("capacities", list(attempt.terms.capacities.iter().map(|capacity| capacity.to_sat()))),
        ("timeout", attempt.terms.timeout_height.to_string()),
        ("blocks_early", attempt.blocks_early().to_string()),
        ("clients", list(&attempt.clients)),
        ("left_out", of_factory(list(left_out))),
        ("accepted", of_factory(factory.accepted.to_string())),
        ("funding", list(attempt.funding())),
        (
            "reserved",
            attempt.reserved.as_ref().map_or_else(String::new, |reserved| {
                format!("{} {}", reserved.tx.compute_txid(), reserved.prevouts.len())
            }),
        ),
        ("signatures", format!("{} {}", attempt.signatures.len(), hash(attempt.signatures.values()))),
        (
            "transactions",
            list(attempt.signatures.keys().filter_map(|id| Some(attempt.signed_tx(*id)?.compute_txid()))),
        ),
        ("channels", list(channels)),
        ("checked", list(&attempt.checked)),
        ("confirmed", of_factory(list(confirmed))),
        ("spent", of_factory(list(spent))),
        ("pays", of_factory(list(pays))),
        ("exit", list(because(&attempt.exit))),
        ("exiting", list(&attempt.exiting)),
        ("eviction", list(because(&attempt.eviction))),
        ("evicting", list(&attempt.evicting)),
        (
            "stock_payout",
            of_factory(list(factory.stock_payout.as_ref().map(|script| script.to_hex_string()))),
        ),
        ("resolved", list(&attempt.resolved)),
        ("restored", of_factory(list(factory.restored()))),
        ("failure", list(attempt.failure())),
        ("birth", of_factory(list(factory.birth))),
        ("invited_at", list(attempt.invited_at)),
        ("signed_for", of_factory(list(signed_for))),
        ("opens_accepted", of_factory(list(factory.opens_accepted().iter().map(|amount| amount.to_sat())))),
        ("credit", list((0..attempt.terms.clients()).map(|client| attempt.sales.account().credit(client)))),
        ("opening", list(attempt.sales.openings().map(|(coin, sale)| format!("{coin}/{}", sale.number)))),
    ];
    for (name, value) in lines.iter().filter(|(_, value)| !value.is_empty()) {
        writeln!(out, "{name}: {value}").unwrap();
    }
    for open in factory.moves.open().filter(|_| current) {
        let (left, started) = (list(open.left_msat()), list(open.started.map(|part| part.amount_msat)));
        writeln!(
            out,
            "move: {} to {}: {} moved, left {left}, started {started}",
            open.from, open.to, open.moved_msat
        )
        .unwrap();
    }
    for sold in attempt.sales.all() {
        writeln!(out, "sale: {}", sale(sold)).unwrap();
    }
    for jit in attempt.sales.jits().opened() {
        let outpoint = list(jit.outpoint);
        let (amount, price) = (jit.amount.to_sat(), jit.price_msat);
        writeln!(out, "jit: {} {amount} for {price}: {} {outpoint}", jit.buyer, jit.channel_id).unwrap();
    }
}

fn sale(sold: &Sold) -> String {
    format!(
        "{} to {}: {} for {} msat, {}, channel {}, signed {} {}, stored {}",
        sold.sale.number,
        sold.sale.buyer,
        sold.sale.amount().to_sat(),
        sold.price_msat,
        sold.txid(),
        sold.channel_id(),
        sold.signatures.len(),
        hash(sold.signatures.iter()),
        sold.stored,
    )
}
