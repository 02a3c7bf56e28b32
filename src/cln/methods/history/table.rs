//! A history for a terminal.

use factory_engine::report::history::{Entry, Sums};
use factory_engine::wire::words::escaped;

use super::Page;
use super::shown::{Part, parts, reason, role};

/// Of one line's words the most characters.
const MOST_WORDS: usize = 400;
const COLUMNS: usize = 7;
const HEAD: [&str; COLUMNS] = ["#", "block", "kind", "amount_msat", "price_msat", "fee_msat", "what"];
/// Numbers stand below each other.
const RIGHT: [bool; COLUMNS] = [true, true, false, true, true, true, false];

/// All of it, in lines.
pub(super) fn answer(page: &Page) -> String {
    let mut text = String::new();
    let mut bounds = false;
    for one in &page.known {
        let rows: Vec<[String; COLUMNS]> = one.entries.iter().map(row).collect();
        let role = role(one).unwrap_or("no record can be read");
        let state = one.state.map_or("", |state| state.name());
        let about = [role, state].into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join(", ");
        text.push_str(&format!("factory {} ({about})\n", one.instance));
        if let Some(why) = &one.damage {
            text.push_str(&format!("damaged: {}\n", escaped(why.as_bytes(), MOST_WORDS)));
        }
        bounds |= rows.iter().filter_map(|row| row.get(1)).any(|block| block.ends_with('+'));
        if !rows.is_empty() {
            text.push_str(&aligned(&rows));
        }
        text.push('\n');
    }
    if bounds {
        text.push_str(
            "A block with + is the last that was known before: the record has none of its own.\n\n",
        );
    }
    text.push_str(&totals(&page.sums()));
    if page.left_off > 0 {
        let next = page.next.map_or_else(String::new, |next| format!(": start={next}"));
        text.push_str(&format!("\n{} more{next}\n", page.left_off));
    }
    text
}

fn row(entry: &Entry) -> [String; COLUMNS] {
    let told = &entry.told;
    let number = |msat: Option<u64>| msat.map_or_else(String::new, |msat| msat.to_string());
    let known = told.height.map(|height| height.to_string());
    let block = known.or_else(|| Some(format!("{}+", entry.not_before?))).unwrap_or_default();
    [
        entry.index.to_string(),
        block,
        told.kind.name().to_owned(),
        number(told.facts.amount_msat),
        number(told.facts.price_msat),
        number(told.facts.fee_msat),
        words(entry),
    ]
}

/// What happened, to whom, by which transaction, why.
fn words(entry: &Entry) -> String {
    let facts = &entry.told.facts;
    let mut words = entry.told.what.clone();
    let clients: Vec<String> = facts.clients.iter().map(|member| member.client.to_string()).collect();
    if !clients.is_empty() {
        words.push_str(&format!("; client {}", clients.join(", ")));
    }
    if let Some(sale) = facts.sale {
        words.push_str(&format!("; sale {sale}"));
    }
    if let Some(txid) = facts.txid {
        words.push_str(&format!("; {txid}"));
    }
    if let Some(child) = entry.child {
        let fee = child.fee.map(|fee| fee.to_sat().saturating_mul(1_000));
        let fee = fee.map_or_else(|| "an unknown fee".to_owned(), |msat| format!("{msat} msat"));
        words.push_str(&format!("; child {} pays {fee}", child.txid));
    }
    if let Some(reason) = reason(entry) {
        words.push_str(&format!(": {reason}"));
    }
    if entry.undone {
        words.push_str(" (its block has left the chain)");
    }
    escaped(words.as_bytes(), MOST_WORDS)
}

/// Each column as wide as its widest cell.
fn aligned(rows: &[[String; COLUMNS]]) -> String {
    let head = HEAD.map(str::to_owned);
    let all = || std::iter::once(&head).chain(rows);
    let width = |column: usize| {
        let cells = all().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let mut widths = [0; COLUMNS];
    for (column, slot) in widths.iter_mut().enumerate() {
        *slot = width(column);
    }
    let mut text = String::new();
    for row in all() {
        let cells = row.iter().zip(widths).zip(RIGHT).map(|((cell, width), right)| match right {
            true => format!("{cell:>width$}"),
            false => format!("{cell:<width$}"),
        });
        let line = cells.collect::<Vec<_>>().join("  ");
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn totals(sums: &Sums) -> String {
    let mut lines: Vec<(String, String)> = vec![];
    for Part { name, msat, lines: parts } in parts(sums) {
        lines.push(match msat {
            Some(msat) => (format!("{name}_msat"), msat.to_string()),
            None => (name.to_owned(), String::new()),
        });
        lines.extend(parts.into_iter().map(|(name, msat)| (format!("  {name}"), msat.to_string())));
    }
    lines.push(("children_unknown".to_owned(), sums.children_unknown.to_string()));
    let left = lines.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    let right = lines.iter().map(|(_, msat)| msat.len()).max().unwrap_or(0);
    let line = |(name, msat): &(String, String)| {
        let line = format!("{name:<left$}  {msat:>right$}");
        format!("{}\n", line.trim_end())
    };
    lines.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::page;
    use super::*;

    #[test]
    fn columns_stand_below_each_other() {
        let text = answer(&page(2, 4));
        let lines: Vec<&str> = text.lines().collect();
        assert!(
            lines[0].starts_with("factory 0707") && lines[0].ends_with(" (no record can be read)"),
            "{text}"
        );
        assert!(lines[1].starts_with("damaged: record 0: "), "{text}");
        assert_eq!(lines[2], "#  block  kind    amount_msat  price_msat  fee_msat  what");
        assert_eq!(lines[3], "1         joined                                     this node has accepted");
        assert_eq!(lines[4], "2    812  end                                        given up: so\\u{a}it is");
        assert_eq!(lines[5], "3   812+  end                                        forgotten: so\\u{a}it is");
        assert!(text.contains("A block with + is"), "{text}");
        assert!(text.ends_with("\n2 more: start=4\n"), "{text}");
        assert!(text.contains("\nspent_msat"), "{text}");
        assert!(text.chars().all(|c| c == '\n' || !c.is_control()));
    }
}
