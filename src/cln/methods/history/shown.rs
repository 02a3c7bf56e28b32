//! A history as JSON.

use factory_engine::Role;
use factory_engine::report::history::{Back, Child, Entry, Facts, Fees, Kind, Member, Prices, Sums};
use factory_engine::types::InstanceId;
use factory_engine::wire::words::escaped;
use serde_json::{Map, Value, json};

use super::super::super::words;
use super::{Known, Page};

/// The most characters of a reason: it is cut where it is stored, too.
const MOST_OF_A_REASON: usize = 250;

/// All of it.
pub(super) fn answer(page: &Page) -> Value {
    let of = |one: &Known| one.entries.iter().map(|told| entry(one.instance, told)).collect::<Vec<_>>();
    let mut answer = json!({
        "factories": page.known.iter().map(factory).collect::<Vec<_>>(),
        "entries": page.known.iter().flat_map(of).collect::<Vec<_>>(),
        "summary": summary(&page.sums()),
    });
    if page.left_off > 0 {
        answer["left_off"] = page.left_off.into();
    }
    set(&mut answer, "next_start", page.next);
    answer
}

/// This node's part in a factory, where any record says so.
pub(super) fn role(known: &Known) -> Option<&'static str> {
    known.role.map(|role| match role {
        Role::Lsp => "lsp",
        Role::Client { .. } => "client",
    })
}

fn factory(known: &Known) -> Value {
    let mut object = json!({
        "factory_instance": known.instance.to_string(),
        "number": known.number,
        "summary": summary(&known.sums),
    });
    set(&mut object, "role", role(known));
    set(&mut object, "state", known.state.map(|state| state.name()));
    set(&mut object, "damaged", known.damage.as_deref());
    object
}

fn entry(instance: InstanceId, entry: &Entry) -> Value {
    let told = &entry.told;
    let mut object = json!({
        "factory_instance": instance.to_string(),
        "created_index": entry.index,
        "record": entry.record,
        "kind": told.kind.name(),
        "event": entry.event,
        "what": told.what,
    });
    set(&mut object, "height", told.height);
    set(&mut object, "not_before_block", entry.not_before);
    // All of them: one that comes later is not forgotten here.
    let Facts {
        clients,
        left_out,
        attempt,
        sale,
        amount_msat,
        price_msat,
        fee_msat,
        txid,
        channel_id,
        to_channel_id,
        payment_hash,
        other,
        active_from,
        reason: _,
    } = &told.facts;
    if !clients.is_empty() {
        object["clients"] = clients.iter().map(client).collect();
    }
    if !left_out.is_empty() {
        object["left_out"] = left_out.iter().map(ToString::to_string).collect();
    }
    set(&mut object, "attempt", *attempt);
    set(&mut object, "sale", *sale);
    set(&mut object, "amount_msat", *amount_msat);
    set(&mut object, "price_msat", *price_msat);
    set(&mut object, "fee_msat", *fee_msat);
    set(&mut object, "txid", txid.map(|txid| txid.to_string()));
    set(&mut object, "channel_id", channel_id.map(|id| id.to_string()));
    set(&mut object, "to_channel_id", to_channel_id.map(|id| id.to_string()));
    set(&mut object, "payment_hash", payment_hash.map(|hash| hash.to_string()));
    set(&mut object, "other_instance", other.map(|instance| instance.to_string()));
    set(&mut object, "active_from_block", *active_from);
    set(&mut object, "reason", reason(entry));
    set(&mut object, "child", entry.child.as_ref().map(child));
    if entry.undone {
        object["undone"] = true.into();
    }
    let money = entry.money();
    let totals = [
        ("earned_msat", money.earned.total_msat()),
        ("spent_msat", money.spent_msat()),
        ("put_in_msat", money.put_in_msat),
        ("came_back_msat", money.back.total_msat()),
    ];
    for (name, msat) in totals.into_iter().filter(|(_, msat)| *msat > 0) {
        object[name] = msat.into();
    }
    object
}

/// Why, with the names of commands; whoever's words it quotes.
pub(super) fn reason(entry: &Entry) -> Option<String> {
    let reason = entry.told.facts.reason.as_deref()?;
    let reason = match entry.told.kind {
        Kind::Exit => words::why_begun(reason, "factory-exit"),
        Kind::Eviction => words::why_begun(reason, "factory-evict"),
        _ => reason,
    };
    Some(escaped(reason.as_bytes(), MOST_OF_A_REASON))
}

fn client(member: &Member) -> Value {
    let mut object = json!({"client": member.client});
    set(&mut object, "id", member.node.map(|node| node.to_string()));
    object
}

fn child(child: &Child) -> Value {
    let mut object = json!({"txid": child.txid.to_string()});
    set(&mut object, "fee_msat", child.fee.map(|fee| fee.to_sat().saturating_mul(1_000)));
    object
}

fn set(object: &mut Value, name: &str, value: Option<impl Into<Value>>) {
    if let Some(value) = value {
        object[name] = value.into();
    }
}

/// A total and what it is made of.
pub(super) struct Part {
    /// Its name, to which `_msat` is added for the total.
    pub(super) name: &'static str,
    /// The total; nothing where the parts go in two directions.
    pub(super) msat: Option<u64>,
    pub(super) lines: Vec<(&'static str, u64)>,
}

fn prices(prices: &Prices) -> Vec<(&'static str, u64)> {
    let Prices { sales_msat, ordinary_channels_msat, renewals_msat, leaves_msat } = *prices;
    vec![
        ("sales_msat", sales_msat),
        ("ordinary_channels_msat", ordinary_channels_msat),
        ("renewals_msat", renewals_msat),
        ("leaves_msat", leaves_msat),
    ]
}

/// Everything that was summed up, in the order in which it is shown.
pub(super) fn parts(sums: &Sums) -> [Part; 5] {
    let Sums { earned, paid, fees, put_in_msat, back, invoices, children_unknown: _ } = sums;
    let Fees { funding_msat, transactions_msat, children_msat } = *fees;
    let Back { stock_msat, reclaimed_msat, closes_msat, distributions_msat, anchors_msat } = *back;
    let mut spent = prices(paid);
    spent.extend([
        ("funding_fees_msat", funding_msat),
        ("transaction_fees_msat", transactions_msat),
        ("child_fees_msat", children_msat),
    ]);
    let back_lines = vec![
        ("stock_msat", stock_msat),
        ("reclaimed_msat", reclaimed_msat),
        ("closes_msat", closes_msat),
        ("distributions_msat", distributions_msat),
        ("anchors_msat", anchors_msat),
    ];
    let paid = vec![("received_msat", invoices.received_msat), ("paid_msat", invoices.paid_msat)];
    [
        Part { name: "earned", msat: Some(earned.total_msat()), lines: prices(earned) },
        Part { name: "spent", msat: Some(sums.spent_msat()), lines: spent },
        Part { name: "put_in", msat: Some(*put_in_msat), lines: vec![] },
        Part { name: "came_back", msat: Some(back.total_msat()), lines: back_lines },
        Part { name: "invoices", msat: None, lines: paid },
    ]
}

fn summary(sums: &Sums) -> Value {
    let mut object = Map::new();
    for Part { name, msat, lines } in parts(sums) {
        if let Some(msat) = msat {
            object.insert(format!("{name}_msat"), msat.into());
        }
        if !lines.is_empty() {
            let lines = lines.into_iter().map(|(name, msat)| (name.to_owned(), msat.into()));
            object.insert(name.to_owned(), Value::Object(lines.collect()));
        }
    }
    object.insert("children_unknown".to_owned(), sums.children_unknown.into());
    Value::Object(object)
}

#[cfg(test)]
mod tests {
    use super::super::tests::page;
    use super::*;

    #[test]
    fn entries_have_what_records_have() {
        let answer = answer(&page(4, 9));
        assert_eq!((&answer["left_off"], &answer["next_start"]), (&json!(4), &json!(9)));
        assert_eq!(answer["factories"][0]["number"], 3);
        assert_eq!(answer["factories"][0].get("role"), None);
        let [first, second, third] = answer["entries"].as_array().unwrap().as_slice() else { panic!() };
        assert_eq!((first.get("height"), first.get("not_before_block")), (None, None));
        assert_eq!((&second["height"], second.get("not_before_block")), (&json!(812), None));
        assert_eq!((third.get("height"), &third["not_before_block"]), (None, &json!(812)));
        assert_eq!(second["reason"], "so\\u{a}it is");
        assert_eq!(answer["summary"], summary(&Sums::default()));
    }

    #[test]
    fn a_summary_has_every_sum() {
        let mut sums = Sums { put_in_msat: 9, children_unknown: 1, ..Sums::default() };
        sums.earned.sales_msat = 5;
        sums.paid.renewals_msat = 3;
        sums.fees.children_msat = 4;
        sums.back.stock_msat = 2;
        sums.invoices.received_msat = 6;
        let shown = summary(&sums);
        assert_eq!((&shown["earned_msat"], &shown["earned"]["sales_msat"]), (&json!(5), &json!(5)));
        assert_eq!((&shown["spent_msat"], &shown["spent"]["child_fees_msat"]), (&json!(7), &json!(4)));
        assert_eq!((&shown["came_back_msat"], &shown["put_in_msat"]), (&json!(2), &json!(9)));
        assert_eq!(shown["invoices"], json!({"received_msat": 6, "paid_msat": 0}));
        assert_eq!((shown.get("invoices_msat"), &shown["children_unknown"]), (None, &json!(1)));
    }
}
