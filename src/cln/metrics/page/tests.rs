use super::*;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use factory_engine::fees::ExitCoins;
use factory_engine::types::Amount;
use serde_json::Value;

/// A page on which every metric has a sample.
fn full() -> String {
    let known = Known {
        deadlines: DEADLINES.into_iter().map(|kind| (kind, -1)).collect(),
        by_factory: (0..40).map(|number| (InstanceId([number; 32]), i64::from(number))).collect(),
        ..Known::default()
    };
    let (sat, coins) = (Amount::from_sat(7), ExitCoins::default());
    let reserve =
        Reserve { feerate: 253, needed: sat, channels: sat, coins, wallet: sat, kept: sat, ready: 3 };
    let seen = Seen {
        available: true,
        important: false,
        started: 1_700_000_000_000,
        scan: Scan { first: 90, next: 101, tip: 103, missing: None },
        lightningd: 105,
        backend_trouble: false,
        held: (2, 3_000),
        oldest: Duration::from_millis(1_500),
        known: Some(known),
        reserve: Some(reserve),
    };
    write(&seen, &Tally::default()).unwrap()
}

/// What a page says of a metric.
#[derive(Debug, Default)]
struct Metric {
    kind: String,
    help: String,
    /// Without `le`.
    labels: BTreeSet<String>,
    samples: Vec<String>,
}

impl Metric {
    /// Names by which it is asked for, the first of them in the docs.
    fn names(&self, name: &str) -> Vec<String> {
        let suffixes: &[&str] = match self.kind.as_str() {
            "counter" => &["_total"],
            "info" => &["_info"],
            "histogram" => &["", "_bucket", "_sum", "_count"],
            _ => &[""],
        };
        suffixes.iter().map(|suffix| format!("{name}{suffix}")).collect()
    }
}

fn metrics(text: &str) -> BTreeMap<String, Metric> {
    let mut found: BTreeMap<String, Metric> = BTreeMap::new();
    let mut last = String::new();
    for line in text.lines() {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
            let metric = Metric { help: help.strip_suffix('.').unwrap().to_owned(), ..Metric::default() };
            assert!(found.insert(name.to_owned(), metric).is_none(), "{name} is there twice");
            name.clone_into(&mut last);
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' '))
        {
            assert_eq!(name, last);
            kind.clone_into(&mut found.get_mut(name).unwrap().kind);
        } else if !line.starts_with('#') {
            let metric = found.get_mut(&last).unwrap();
            let end = line.find(['{', ' ']).unwrap();
            let names = metric.names(&last);
            assert!(names.iter().any(|name| *name == line[..end]), "{line}: none of {names:?}");
            if let Some((_, labels)) = line.split_once('{') {
                let pairs = labels.split('"').step_by(2).filter_map(|part| part.strip_suffix('='));
                let keys = pairs.map(|key| key.trim_start_matches(',').to_owned());
                metric.labels.extend(keys.filter(|key| key != "le"));
            }
            metric.samples.push(line.to_owned());
        }
    }
    found
}

fn doc(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn every_metric_is_in_the_docs_as_it_is() {
    let expected: BTreeSet<String> = metrics(&full())
        .iter()
        .map(|(name, metric)| {
            let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
            let (shown, labels) = (&metric.names(name)[0], labels.join(", "));
            format!("| `{shown}` | {} | {labels} | {} |", metric.kind, metric.help)
        })
        .collect();
    let page = doc("operations.md");
    let rows: Vec<String> =
        page.lines().filter(|line| line.starts_with("| `cln_factory_")).map(str::to_owned).collect();
    let shown: BTreeSet<String> = rows.iter().cloned().collect();
    assert_eq!(rows.len(), shown.len(), "a row is there twice");
    let (missing, extra): (Vec<_>, Vec<_>) =
        (expected.difference(&shown).collect(), shown.difference(&expected).collect());
    assert!(missing.is_empty() && extra.is_empty(), "missing: {missing:#?}\ntoo many: {extra:#?}");
}

#[test]
fn names_keep_the_conventions() {
    for (name, metric) in metrics(&full()) {
        assert!(name.starts_with("cln_factory_") && !metric.kind.is_empty(), "{name}");
        assert!(!metric.samples.is_empty(), "{name} has no sample");
        // A page may not grow with clients or channels.
        assert!(metric.samples.len() <= 80, "{name} has {} samples", metric.samples.len());
        assert!(!name.ends_with("_total") && !name.contains("millis"), "{name}");
        assert!(!metric.help.ends_with('.') && !metric.help.contains('|'), "{name}: {}", metric.help);
    }
}

#[test]
fn what_is_near_is_named_and_no_more() {
    let text = full();
    let named = &metrics(&text)["cln_factory_factory_deadline_blocks"];
    assert_eq!(named.samples.len(), NAMED);
    for number in 0..16u8 {
        let sample = format!("{{factory_instance=\"{}\"}} {number}", InstanceId([number; 32]));
        assert!(named.samples.iter().any(|line| line.ends_with(&sample)), "{sample}");
    }
    assert!(text.contains("\ncln_factory_nearest_deadline_blocks{kind=\"htlc\"} -1\n"), "{text}");
    // lightningd is further than the backend says.
    assert!(text.contains("\ncln_factory_blocks_behind 5\n"), "{text}");
    assert!(text.contains("\ncln_factory_creation_age_seconds 1.5\n"), "{text}");
    assert!(text.contains("\ncln_factory_factories{role=\"lsp\",state=\"active\"} 0\n"), "{text}");
    assert!(text.ends_with("\n# EOF\n"));
}

/// As long as what is stored can't be read, nothing is said of it, instead of zeros.
#[test]
fn what_is_not_known_is_not_there() {
    let seen = Seen {
        available: false,
        important: true,
        started: 0,
        scan: Scan::default(),
        lightningd: 700,
        backend_trouble: true,
        held: (0, 0),
        oldest: Duration::ZERO,
        known: None,
        reserve: None,
    };
    let text = write(&seen, &Tally::default()).unwrap();
    assert!(text.contains("\ncln_factory_available 0\n"), "{text}");
    assert!(text.contains("\ncln_factory_backend_trouble 1\n"), "{text}");
    for absent in ["cln_factory_factories{", "cln_factory_reserve_covered", "cln_factory_transactions_due"] {
        assert!(!text.contains(absent), "{absent}");
    }
}

/// Texts of a board's JSON.
fn strings<'v>(value: &'v Value, found: &mut Vec<&'v str>) {
    match value {
        Value::String(text) => found.push(text),
        Value::Array(list) => list.iter().for_each(|value| strings(value, found)),
        Value::Object(map) => map.values().for_each(|value| strings(value, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Each metric that a text names, with the labels of which it wants one value.
fn named(text: &str) -> Vec<(String, Vec<(String, String)>)> {
    let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let mut found = Vec::new();
    for (at, _) in text.match_indices("cln_factory_") {
        let rest = &text[at..];
        let end = rest.find(|c: char| !is_name(c)).unwrap_or(rest.len());
        let selector = rest[end..].strip_prefix('{').and_then(|rest| rest.split_once('}'));
        let pairs = selector.map_or("", |(inside, _)| inside).split(',');
        let equal = pairs.filter_map(|pair| {
            let (key, value) = pair.trim().split_once('=')?;
            let value = value.strip_prefix('"')?.strip_suffix('"')?;
            (!key.ends_with('!')).then(|| (key.to_owned(), value.to_owned()))
        });
        found.push((rest[..end].to_owned(), equal.collect()));
    }
    found
}

/// Whatever the board and the rules ask for is there, with the labels and values that they want.
#[test]
fn the_board_and_the_rules_name_what_there_is() {
    let page = metrics(&full());
    let board: Value = serde_json::from_str(&doc("grafana.json")).unwrap();
    let mut texts = Vec::new();
    strings(&board, &mut texts);
    let (board, rules) = (texts.join("\n"), doc("alerts.yml"));
    for (file, text, least) in [("grafana.json", &board, 30), ("alerts.yml", &rules, 15)] {
        let all = named(text);
        assert!(all.len() >= least, "{file} names {} metrics", all.len());
        for (name, labels) in all {
            let of = page.iter().find(|(base, metric)| metric.names(base).contains(&name));
            let Some((_, metric)) = of else { panic!("{file}: there is no {name}") };
            for (key, value) in labels {
                let pair = format!("{key}=\"{value}\"");
                assert!(metric.samples.iter().any(|line| line.contains(&pair)), "{file}: {name} with {pair}");
            }
        }
    }
}

#[test]
fn every_rule_is_explained() {
    let (rules, page) = (doc("alerts.yml"), doc("operations.md"));
    let alerts: Vec<&str> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(alerts.len() >= 12, "{alerts:?}");
    for alert in &alerts {
        assert!(page.contains(&format!("`{alert}`")), "docs/operations.md does not name {alert}");
    }
    for needed in ["summary: ", "action: ", "severity: "] {
        assert_eq!(rules.matches(needed).count(), alerts.len(), "{needed}");
    }
}
