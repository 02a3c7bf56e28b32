//! Keeps docs/rules.md true: every rule that is cited has a text, and every rule that is kept has a place
//! and a test.
//!
//! Files are found by walking the repository, and the page names them without their crate's folder and
//! without their extension, so that sources may move from one crate to another. The folder of
//! `factory-runtime` goes by `runtime`, and so do others.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

const PAGE: &str = "docs/rules.md";
const LAST_RULE: u32 = 40;
/// Rules that are kept and have no test. A new one is a decision, so it is made here too.
const GAPS: [u32; 0] = [];

/// What a rule may be marked with. "Missing" says what of it isn't kept.
const MARKS: [&str; 4] = ["Status", "Kept in", "Shown by", "Missing"];

/// How far a rule is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Status {
    Kept,
    Part,
    Gap,
    NotBuilt,
}

impl Status {
    const ALL: [(Self, &'static str); 4] = [
        (Self::Kept, "kept"),
        (Self::Part, "kept in part"),
        (Self::Gap, "gap"),
        (Self::NotBuilt, "not built yet"),
    ];

    fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|(_, name)| *name == text).map(|(status, _)| status)
    }
}

/// A rule as the page tells it.
#[derive(Debug, Default)]
struct Rule {
    /// Lines of its text.
    words: usize,
    /// What follows `- Status: ` and so on, by mark, with the lines that belong to it.
    marks: BTreeMap<String, String>,
}

impl Rule {
    fn status(&self) -> Option<Status> {
        Status::parse(self.marks.get("Status")?)
    }

    /// What a mark has between backticks.
    fn named(&self, mark: &str) -> Vec<&str> {
        let text = self.marks.get(mark).map_or("", String::as_str);
        text.split('`').skip(1).step_by(2).collect()
    }
}

/// Each heading `### S<number>: …` with what stands below it.
fn parse(page: &str) -> Result<BTreeMap<u32, Rule>, String> {
    let mut rules: BTreeMap<u32, Rule> = BTreeMap::new();
    let (mut current, mut mark) = (None, None);
    for line in page.lines() {
        if line.starts_with('#') {
            current = line.strip_prefix("### S").and_then(|rest| rest.split_once(": ")?.0.parse().ok());
            mark = None;
            if let Some(number) = current
                && rules.insert(number, Rule::default()).is_some()
            {
                return Err(format!("rule {number} has two texts"));
            }
            continue;
        }
        let Some(rule) = current.and_then(|number| rules.get_mut(&number)) else { continue };
        if let Some((name, text)) = line.strip_prefix("- ").and_then(|line| line.split_once(':')) {
            if !MARKS.contains(&name) || rule.marks.insert(name.to_owned(), text.trim().to_owned()).is_some()
            {
                return Err(format!("no mark is called '{name}', or it is there twice"));
            }
            mark = Some(name);
        } else if let (Some(name), Some(more)) = (mark, line.strip_prefix("  ")) {
            rule.marks.entry(name.to_owned()).or_default().push_str(&format!(" {more}"));
        } else {
            mark = None;
            rule.words += usize::from(!line.trim().is_empty());
        }
    }
    Ok(rules)
}

/// The numbers that the table at the top of the page has for each status.
fn table(page: &str) -> BTreeMap<Status, Vec<u32>> {
    let rows = page.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| ")?.split(" | ");
        let status = Status::parse(cells.next()?)?;
        Some((status, cited(cells.next()?))).filter(|(_, numbers)| !numbers.is_empty())
    });
    rows.collect()
}

/// Every `S<number>` that stands by itself in a text.
fn cited(text: &str) -> Vec<u32> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let words = text.split(|c| !is_word(c));
    let digits = words.filter_map(|word| word.strip_prefix('S'));
    let numbers = digits.filter(|rest| rest.chars().all(|c| c.is_ascii_digit()));
    numbers.filter_map(|rest| rest.parse().ok()).collect()
}

/// A file of the repository, with its path from the root.
struct Source {
    path: String,
    text: String,
}

impl Source {
    fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// Whether the page means this file by `stem`: the end of its path, without extension.
    fn is_called(&self, stem: &str) -> bool {
        let path = self.path.rsplit_once('.').map_or(self.path.as_str(), |(path, _)| path);
        let path = path.strip_suffix("/mod").unwrap_or(path);
        // factory-runtime/src/core: runtime/core
        let path = path.strip_prefix("factory-").unwrap_or(path).replacen("/src/", "/", 1);
        path == stem || path.strip_suffix(stem).is_some_and(|rest| rest.ends_with('/'))
    }

    fn holds_tests_alone(&self) -> bool {
        self.path.split('/').any(|part| matches!(part, "tests" | "pytest" | "fuzz"))
    }

    /// The tests of this name, each with the comment above it.
    fn tests(&self, name: &str) -> Vec<String> {
        let lines: Vec<&str> = self.text.lines().collect();
        let places = (0..lines.len()).filter(|at| self.begins(lines[*at], name));
        places.filter_map(|at| self.test_at(&lines, at)).collect()
    }

    fn begins(&self, line: &str, name: &str) -> bool {
        let line = line.trim_start();
        let word = if self.is_rust() { "fn " } else { "def " };
        let line = line.strip_prefix("async ").unwrap_or(line);
        line.strip_prefix(word)
            .and_then(|rest| rest.strip_prefix(name))
            .is_some_and(|rest| rest.starts_with('('))
    }

    /// The test whose first line is this, and nothing if it isn't run as a test.
    fn test_at(&self, lines: &[&str], at: usize) -> Option<String> {
        let above = |line: &&&str| {
            let line = line.trim_start();
            if self.is_rust() {
                line.starts_with("//") || line.starts_with("#[")
            } else {
                is_above_in_python(line)
            }
        };
        let first = at - lines[..at].iter().rev().take_while(above).count();
        let is_attribute = |line: &&str| {
            let line = line.trim();
            line == "#[test]" || line.starts_with("#[tokio::test")
        };
        let is_test = if self.is_rust() {
            lines[first..at].iter().any(is_attribute)
        } else {
            lines[at].trim_start().starts_with("def test_")
        };
        let indent = |line: &str| line.len() - line.trim_start().len();
        let inside = |line: &&&str| {
            line.trim().is_empty() || indent(line) > indent(lines[at]) || line.trim_start().starts_with(')')
        };
        let body = lines[at + 1..].iter().take_while(inside).count();
        is_test.then(|| lines[first..=at + body].join("\n"))
    }

    /// What the file says about itself.
    fn head(&self) -> String {
        if self.is_rust() {
            let lines = self.text.lines().take_while(|line| line.starts_with("//!"));
            return lines.collect::<Vec<_>>().join("\n");
        }
        let docstring = self.text.strip_prefix("\"\"\"").and_then(|rest| rest.split_once("\"\"\""));
        docstring.map_or_else(String::new, |(text, _)| text.to_owned())
    }
}

fn is_above_in_python(line: &str) -> bool {
    line.starts_with('#') || line.starts_with('@')
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn page() -> String {
    fs::read_to_string(root().join(PAGE)).unwrap()
}

fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy();
        if path.is_dir() {
            // A virtual environment is somebody else's code.
            let skipped =
                name.starts_with('.') || name.starts_with("target") || path.join("pyvenv.cfg").exists();
            if !skipped {
                walk(&path, found);
            }
        } else if [".rs", ".py"].iter().any(|extension| name.ends_with(extension)) {
            found.push(path);
        }
    }
}

fn sources() -> Vec<Source> {
    let mut paths = Vec::new();
    walk(root(), &mut paths);
    paths.sort();
    let source = |path: &PathBuf| {
        let name = path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
        Source { path: name, text: fs::read_to_string(path).unwrap() }
    };
    // This file names rules that aren't there.
    let sources: Vec<_> =
        paths.iter().map(source).filter(|source| !source.path.ends_with("tests/rules.rs")).collect();
    let has = |extension: &str| sources.iter().filter(|source| source.path.ends_with(extension)).count();
    assert!(has(".rs") > 100 && has(".py") > 10, "hardly any sources: mend this test");
    sources
}

/// What is wrong with one test of a rule, as the page names it.
fn check_test(sources: &[Source], number: u32, name: &str) -> Result<(), String> {
    let (file, function) = name.split_once("::").ok_or("isn't file::function")?;
    let files: Vec<_> = sources.iter().filter(|source| source.is_called(file)).collect();
    if files.is_empty() {
        return Err("no such file".into());
    }
    let tests: Vec<_> = files
        .iter()
        .flat_map(|source| source.tests(function).into_iter().map(|test| (source.head(), test)))
        .collect();
    if tests.is_empty() {
        return Err("no such test in it".into());
    }
    let cites = |text: &str| cited(text).contains(&number);
    if !tests.iter().any(|(head, test)| cites(head) || cites(test)) {
        return Err(format!("neither the test nor the head of its file cites S{number}"));
    }
    Ok(())
}

/// What is wrong with one rule.
fn check_rule(sources: &[Source], number: u32, rule: &Rule) -> Vec<String> {
    let mut wrong = Vec::new();
    let Some(status) = rule.status() else { return vec!["has no status that is one".into()] };
    let (places, tests) = (rule.named("Kept in"), rule.named("Shown by"));
    let (has_place, has_test, has_missing) =
        (!places.is_empty(), !tests.is_empty(), rule.marks.contains_key("Missing"));
    let (place, test, missing) = match status {
        Status::Kept => (true, true, false),
        Status::Part => (true, true, true),
        Status::Gap => (true, false, false),
        Status::NotBuilt => (false, false, false),
    };
    for (what, has, should) in
        [("place", has_place, place), ("test", has_test, test), ("missing part", has_missing, missing)]
    {
        if has != should {
            wrong.push(format!("is {status:?} and has {} {what}", if has { "a" } else { "no" }));
        }
    }
    if rule.words == 0 {
        wrong.push("has no text".into());
    }
    for place in places {
        let is_file = sources.iter().any(|source| source.is_called(place));
        let is_folder = |source: &Source| format!("/{}", source.path).contains(&format!("/{place}/"));
        if !is_file && !sources.iter().any(is_folder) {
            wrong.push(format!("is kept in `{place}`, which isn't there"));
        }
    }
    for test in tests {
        if let Err(why) = check_test(sources, number, test) {
            wrong.push(format!("is shown by `{test}`: {why}"));
        }
    }
    if status == Status::NotBuilt {
        let claims = |source: &&Source| source.holds_tests_alone() && cited(&source.text).contains(&number);
        for source in sources.iter().filter(claims) {
            wrong.push(format!("is not built, and a test cites it: {}", source.path));
        }
    }
    wrong
}

#[test]
fn every_cited_rule_has_a_text() {
    let rules = parse(&page()).unwrap();
    let mut unknown = Vec::new();
    for source in sources() {
        for (at, line) in (1..).zip(source.text.lines()) {
            let missing = cited(line).into_iter().filter(|number| !rules.contains_key(number));
            unknown.extend(missing.map(|number| format!("{}:{at}: S{number}", source.path)));
        }
    }
    assert!(unknown.is_empty(), "rules without a text in {PAGE}:\n{}", unknown.join("\n"));
}

#[test]
fn every_rule_that_is_kept_has_a_place_and_a_test() {
    let sources = sources();
    let rules = parse(&page()).unwrap();
    let wrong: Vec<String> = rules
        .iter()
        .flat_map(|(number, rule)| {
            let wrong = check_rule(&sources, *number, rule);
            wrong.into_iter().map(move |what| format!("S{number} {what}"))
        })
        .collect();
    assert!(wrong.is_empty(), "{PAGE}:\n{}", wrong.join("\n"));
}

#[test]
fn no_rule_is_left_out_and_the_table_is_true() {
    let page = page();
    let rules = parse(&page).unwrap();
    assert!(rules.keys().copied().eq(1..=LAST_RULE), "{:?}", rules.keys());
    let mut by_status: BTreeMap<Status, Vec<u32>> = BTreeMap::new();
    for (number, rule) in &rules {
        by_status.entry(rule.status().unwrap()).or_default().push(*number);
    }
    assert_eq!(by_status.get(&Status::Gap).cloned().unwrap_or_default(), GAPS, "gaps");
    assert_eq!(table(&page), by_status, "the table says something else than the rules below it");
}

/// The checks above can fail.
#[test]
fn what_is_not_true_is_found() {
    let rust = Source {
        path: "engine/src/a/b.rs".into(),
        text: "//! About S3.\n\n/// S1\n#[test]\nfn shown() {\n    // S2\n}\n\n/// S4\nfn helper() {}\n"
            .into(),
    };
    let python = Source {
        path: "pytest/test_c.py".into(),
        text: "\"\"\"S5\"\"\"\n\n# S6\n@mark\ndef test_d(\n    x\n):\n    pass  # S7\n\n\n# S8\ndef help():\n    pass\n".into(),
    };
    let sources = [rust, python];
    let verdict = |number, test| check_test(&sources, number, test).is_ok();
    assert_eq!([1, 2, 3, 4].map(|number| verdict(number, "a/b::shown")), [true, true, true, false]);
    assert_eq!(
        [5, 6, 7, 8].map(|number| verdict(number, "pytest/test_c::test_d")),
        [true, true, true, false]
    );
    // No test, another name, another file, no function.
    for name in ["a/b::helper", "a/b::show", "b/b::shown", "pytest/test_c::help", "a/b"] {
        assert!(!verdict(3, name) && !verdict(5, name), "{name}");
    }

    let rule = |text: &str| {
        let rules = parse(&format!("### S{}: x\n\n{text}", 3)).unwrap();
        check_rule(&sources, 3, &rules[&3]).len()
    };
    let (place, test, missing) = ("- Kept in: `a/b`\n", "- Shown by:\n  `a/b::shown`\n", "- Missing: y\n");
    assert_eq!(rule(&format!("- Status: kept\n{place}{test}\nText.")), 0);
    assert_eq!(rule(&format!("- Status: kept\n{place}{test}")), 1, "no text");
    assert_eq!(rule(&format!("- Status: kept\n{place}\nText.")), 1, "no test");
    assert_eq!(rule(&format!("- Status: kept\n{test}\nText.")), 1, "no place");
    assert_eq!(rule(&format!("- Status: kept\n- Kept in: `a/c`\n{test}\nText.")), 1, "no such place");
    assert_eq!(rule(&format!("- Status: kept in part\n{place}{test}{missing}\nText.")), 0);
    assert_eq!(rule(&format!("- Status: kept in part\n{place}{test}\nText.")), 1, "nothing is missing");
    assert_eq!(rule(&format!("- Status: gap\n{place}\nText.")), 0);
    assert_eq!(rule(&format!("- Status: gap\n{place}{test}\nText.")), 1, "a gap with a test");
    assert_eq!(rule("- Status: not built yet\n\nText."), 0);
    assert_eq!(rule(&format!("- Status: not built yet\n{place}{test}\nText.")), 2);
    assert_eq!(rule("- Status: built\n\nText."), 1);
    let unbuilt = parse(&format!("### S{}: x\n\n- Status: not built yet\n\nText.", 6)).unwrap();
    assert_eq!(check_rule(&sources, 6, &unbuilt[&6]).len(), 1, "a test cites it");
    assert!(parse("### S1: x\n### S1: y").is_err() && parse("### S1: x\n- Shown in: z").is_err());

    assert_eq!(cited("S1, (S22) \"S3: x\" S4–S5 S6a BS7 S_8 S"), [1, 22, 3, 4, 5]);
}
