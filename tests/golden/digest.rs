//! What a history amounts to, in words that don't change when a field is renamed.

use std::fmt::{Display, Write};

use bitcoin::hashes::{Hash, sha256};
use factory_engine::record::event::Event;
use factory_engine::{Factory, Role, Sold, standing};

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
    one(&mut out, factory);
    for past in factory.past() {
        writeln!(out, "past:").unwrap();
        one(&mut out, past);
    }
    out
}

fn one(out: &mut String, factory: &Factory) {
    let role = match factory.role {
        Role::Lsp => "lsp".to_owned(),
        Role::Client { lsp, index } => format!("client {index} of {lsp}"),
    };
    let left_out = factory.left_out.iter().map(|(node, why)| format!("{node} ({why});"));
    let channels = factory.channels.iter().map(|(client, id)| format!("{client}={id}"));
    let confirmed = factory.confirmed.iter().map(|(txid, height)| format!("{txid}@{height}"));
    let spent = factory.spent.iter().map(|(outpoint, txid)| format!("{outpoint}>{txid}"));
    let pays = factory.pays.iter().map(|(txid, pays)| format!("{txid}={}", pays.to_sat()));
    let signed_for = factory.signed_for().iter().map(|(txid, inputs)| format!("{txid}<{}", list(inputs)));
    let because = |of: &Option<(u32, String)>| of.as_ref().map(|(at, why)| format!("at {at}: {why}"));
    let lines = [
        ("role", role),
        ("attempt", factory.attempt.to_string()),
        ("price_msat", factory.price_msat.to_string()),
        ("capacities", list(factory.terms.capacities.iter().map(|capacity| capacity.to_sat()))),
        ("timeout", factory.terms.timeout_height.to_string()),
        ("blocks_early", factory.blocks_early().to_string()),
        ("clients", list(&factory.clients)),
        ("left_out", list(left_out)),
        ("accepted", factory.accepted.to_string()),
        ("funding", list(factory.funding())),
        (
            "reserved",
            factory.reserved.as_ref().map_or_else(String::new, |reserved| {
                format!("{} {}", reserved.tx.compute_txid(), reserved.prevouts.len())
            }),
        ),
        ("signatures", format!("{} {}", factory.signatures.len(), hash(factory.signatures.values()))),
        (
            "transactions",
            list(factory.signatures.keys().filter_map(|id| Some(factory.signed_tx(*id)?.compute_txid()))),
        ),
        ("channels", list(channels)),
        ("checked", list(&factory.checked)),
        ("confirmed", list(confirmed)),
        ("spent", list(spent)),
        ("pays", list(pays)),
        ("exit", list(because(&factory.exit))),
        ("exiting", list(&factory.exiting)),
        ("eviction", list(because(&factory.eviction))),
        ("evicting", list(&factory.evicting)),
        ("stock_payout", list(factory.stock_payout.as_ref().map(|script| script.to_hex_string()))),
        ("resolved", list(&factory.resolved)),
        ("restored", list(factory.restored())),
        ("failure", list(&factory.failure)),
        ("birth", list(factory.birth)),
        ("invited_at", list(factory.invited_at)),
        ("signed_for", list(signed_for)),
        ("opens_accepted", list(factory.opens_accepted().iter().map(|amount| amount.to_sat()))),
        ("credit", list((0..factory.terms.clients()).map(|client| factory.sales.account().credit(client)))),
        ("opening", list(factory.sales.openings().map(|(coin, sale)| format!("{coin}/{}", sale.number)))),
    ];
    for (name, value) in lines.iter().filter(|(_, value)| !value.is_empty()) {
        writeln!(out, "{name}: {value}").unwrap();
    }
    for sold in factory.sales.all() {
        writeln!(out, "sale: {}", sale(sold)).unwrap();
    }
    for jit in factory.sales.jits().opened() {
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
