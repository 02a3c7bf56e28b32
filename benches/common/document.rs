//! What a benchmark writes into docs/: tables between two marks, and plots.

use std::path::{Path, PathBuf};

/// What becomes of a result.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// It is written.
    Write,
    /// What is written has to be the same.
    Check,
}

impl Mode {
    /// From the command line, and the other words of it.
    pub fn from_arguments() -> (Self, Vec<String>) {
        let words = std::env::args().skip(1).filter(|word| word != "--bench");
        let (flags, words): (Vec<_>, Vec<_>) = words.partition(|word| word == "--check");
        (if flags.is_empty() { Self::Write } else { Self::Check }, words)
    }
}

/// A number with its thousands set apart.
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let groups = digits.as_bytes().rchunks(3).rev().map(|group| String::from_utf8_lossy(group));
    groups.collect::<Vec<_>>().join(",")
}

/// Puts `text` into a document, between the lines `<!-- name -->` and `<!-- /name -->`.
pub fn table(document: &str, name: &str, text: &str, mode: Mode) {
    let path = root(document);
    let before = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{document}: {error}"));
    let (start, end) = (format!("<!-- {name} -->\n"), format!("<!-- /{name} -->"));
    let (head, rest) = before.split_once(&start).unwrap_or_else(|| panic!("{document} has no {start}"));
    let (_, tail) = rest.split_once(&end).unwrap_or_else(|| panic!("{document} has no {end}"));
    let after = format!("{head}{start}{text}{end}{tail}");
    settle(&path, &before, &after, mode);
}

/// Draws a plot where it belongs; `draw` gets the path of a file to write.
#[allow(dead_code, reason = "not every benchmark draws")]
pub fn plot(document: &str, mode: Mode, draw: impl FnOnce(&str) -> Result<(), Box<dyn std::error::Error>>) {
    let path = root(document);
    let fresh = std::env::temp_dir().join(format!("cln-factory-plot-{}.svg", std::process::id()));
    draw(fresh.to_str().expect("a path in UTF-8")).expect("a plot");
    let after = std::fs::read_to_string(&fresh).expect("the plot");
    std::fs::remove_file(&fresh).expect("the plot");
    settle(&path, &std::fs::read_to_string(&path).unwrap_or_default(), &after, mode);
}

fn root(document: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(document)
}

fn settle(path: &Path, before: &str, after: &str, mode: Mode) {
    if before == after {
        return;
    }
    assert!(mode == Mode::Write, "{} is out of date: run this without --check", path.display());
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).expect("a folder for it");
    }
    std::fs::write(path, after).expect("docs/ can be written");
    println!("wrote {}", path.display());
}
