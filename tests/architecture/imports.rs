//! What a crate's files import of each other, read from their text.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// Lines of code with their numbers: without comments, and without `#[cfg(test)] mod … { … }`.
pub fn code(text: &str) -> Vec<(usize, String)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    let mut tests = false;
    for (at, line) in lines.iter().enumerate() {
        let next = lines.get(at + 1).copied().unwrap_or_default();
        tests |= *line == "#[cfg(test)]" && next.contains("mod ") && next.ends_with('{');
        if !tests {
            found.push((at + 1, line.split("//").next().unwrap_or_default().to_owned()));
        }
        tests &= *line != "}";
    }
    found
}

/// Every path that a text names, each `use` spelled out; with test code.
pub fn paths(text: &str) -> Vec<String> {
    let lines = text.lines().map(|line| line.split("//").next().unwrap_or_default());
    paths_of(&lines.collect::<Vec<_>>().join("\n"))
}

fn paths_of(code: &str) -> Vec<String> {
    let is_path = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    let mut found = Vec::new();
    let mut from = 0;
    while let Some(start) = code[from..].find(is_path).map(|at| from + at) {
        let end = code[start..].find(|c| !is_path(c)).map_or(code.len(), |length| start + length);
        let (before, path, after) = (&code[..start], &code[start..end], &code[end..]);
        from = end;
        // They name a place, and import nothing from it.
        if before.ends_with('$') || before.ends_with("pub(in ") {
            continue;
        }
        match after.strip_prefix('{') {
            Some(tree) if path.ends_with("::") => {
                let tree = &tree[..closing(tree)];
                found.extend(spelled_out(path, tree));
                from += tree.len() + 1;
            }
            _ if before.ends_with("use ") || path.contains("::") => found.push(path.to_owned()),
            _ => {}
        }
    }
    found
}

/// Where the brace closes that was opened before `tree`.
fn closing(tree: &str) -> usize {
    let mut depth = 1;
    for (at, c) in tree.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at;
        }
    }
    tree.len()
}

/// `a::` and `{b, c::{d, e}}`: `a::b`, `a::c::d`, `a::c::e`.
fn spelled_out(prefix: &str, tree: &str) -> Vec<String> {
    let mut found = Vec::new();
    let (mut depth, mut start) = (0, 0);
    let mut parts = Vec::new();
    for (at, c) in tree.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&tree[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&tree[start..]);
    for part in parts.into_iter().map(str::trim).filter(|part| !part.is_empty()) {
        match part.split_once('{') {
            Some((head, inner)) => {
                found.extend(spelled_out(&format!("{prefix}{head}"), &inner[..closing(inner)]));
            }
            None => {
                let name = part.split_whitespace().next().unwrap_or_default();
                found.push(format!("{prefix}{name}"));
            }
        }
    }
    found
}

/// The modules of one crate and what each imports of the others.
pub struct Graph {
    /// By module: its file, and paths from the crate's root.
    modules: BTreeMap<String, (String, BTreeSet<String>)>,
}

impl Graph {
    /// Of all files of a crate's `src`, except its programs and its tests.
    pub fn read(src: &Path) -> Self {
        let mut files = Vec::new();
        super::sources(src, &mut files);
        let mut modules = BTreeMap::new();
        for file in files {
            let name = file.strip_prefix(src).unwrap().with_extension("");
            let parts: Vec<&str> = name.iter().map(|part| part.to_str().unwrap()).collect();
            let parts = match parts.as_slice() {
                ["main"] | ["bin", ..] => continue,
                ["lib"] => &[],
                [parts @ .., "mod"] => parts,
                parts => parts,
            };
            if parts.contains(&"tests") {
                continue;
            }
            let text = fs::read_to_string(&file).unwrap();
            let code: Vec<String> = code(&text).into_iter().map(|(_, line)| line).collect();
            let found = paths_of(&code.join("\n"));
            let absolute = found.iter().filter_map(|path| absolute(parts, path)).collect();
            let file = file.strip_prefix(src).unwrap().display().to_string();
            modules.insert(parts.join("::"), (file, absolute));
        }
        assert!(modules.len() > 1, "hardly any modules in {}", src.display());
        Self { modules }
    }

    pub fn is_module(&self, module: &str) -> bool {
        self.modules.contains_key(module)
    }

    /// The module that a path leads into.
    pub fn module_of(&self, path: &str) -> String {
        let mut path = path;
        while !self.is_module(path) {
            match path.rsplit_once("::") {
                Some((parent, _)) => path = parent,
                None => return String::new(),
            }
        }
        path.to_owned()
    }

    /// Modules that have others inside.
    pub fn folders(&self) -> BTreeSet<String> {
        let parent = |module: &String| module.rsplit_once("::").map_or("", |(parent, _)| parent).to_owned();
        self.modules.keys().filter(|module| !module.is_empty()).map(parent).collect()
    }

    /// The modules right inside of one.
    pub fn children(&self, parent: &str) -> BTreeSet<String> {
        self.modules.keys().filter_map(|module| child(parent, module)).map(str::to_owned).collect()
    }

    /// Which children of a module import which others, whatever lies inside of them, and where.
    pub fn between_children(&self, parent: &str) -> BTreeSet<(String, String, String)> {
        let mut found = BTreeSet::new();
        for (module, (file, paths)) in &self.modules {
            let Some(from) = child(parent, module) else { continue };
            for path in paths {
                let target = self.module_of(path);
                if let Some(to) = child(parent, &target).filter(|to| *to != from) {
                    found.insert((from.to_owned(), to.to_owned(), file.clone()));
                }
            }
        }
        found
    }

    /// What files import from the crate's root, which is in no module, and where.
    pub fn imports_of_root(&self) -> Vec<(&str, &str)> {
        let inside = self.modules.iter().filter(|(name, _)| !name.is_empty());
        let all =
            inside.flat_map(|(_, (file, paths))| paths.iter().map(|path| (path.as_str(), file.as_str())));
        all.filter(|(path, _)| self.module_of(path).is_empty()).collect()
    }

    /// What a module and all inside of it import, and where.
    pub fn imports_of(&self, module: &str) -> Vec<(&str, &str)> {
        let inside = |name: &str| name == module || name.starts_with(&format!("{module}::"));
        let modules = self.modules.iter().filter(|(name, _)| inside(name));
        modules
            .flat_map(|(_, (file, paths))| paths.iter().map(|path| (path.as_str(), file.as_str())))
            .collect()
    }
}

/// The child of `parent` in which `module` is, if it is in one.
fn child<'a>(parent: &str, module: &'a str) -> Option<&'a str> {
    let below = match parent {
        "" => module,
        _ => module.strip_prefix(parent)?.strip_prefix("::")?,
    };
    below.split("::").next().filter(|name| !name.is_empty())
}

/// A path from the crate's root, of one that a module names as `crate::`, `super::` or `self::`.
fn absolute(module: &[&str], path: &str) -> Option<String> {
    let mut parts = path.split("::").filter(|part| !part.is_empty()).peekable();
    let mut base: Vec<&str> = match *parts.peek()? {
        "crate" => vec![],
        "self" | "super" => module.to_vec(),
        _ => return None,
    };
    for part in parts {
        match part {
            "crate" | "self" => {}
            "super" => {
                base.pop()?;
            }
            part => base.push(part),
        }
    }
    Some(base.join("::"))
}

#[test]
fn code_is_found() {
    let text = "a; // b\n#[cfg(test)]\nmod tests {\n    fn c() {\n    }\n}\n#[cfg(test)]\nmod d;\ne\n";
    let expected = [(1, "a; "), (7, "#[cfg(test)]"), (8, "mod d;"), (9, "e")];
    assert_eq!(code(text), expected.map(|(at, line)| (at, line.to_owned())));
}

#[test]
fn imports_are_found() {
    let text = "use crate::a::{b, c::{d, self as e}};\npub(in crate::no) use super::f as g;\n// use crate::no;\n\
                fn h() -> super::super::i::J { $crate::no(crate::k::l()) }\n";
    let found = paths(text);
    let absolute: Vec<_> = found.iter().filter_map(|path| absolute(&["x", "y"], path)).collect();
    assert_eq!(absolute, ["a::b", "a::c::d", "a::c", "x::f", "i::J", "k::l"]);
    assert_eq!(paths("use musig2::{KeyAgg};"), ["musig2::KeyAgg"]);
    assert_eq!(paths("use secp256k1::{Key, musig};"), ["secp256k1::Key", "secp256k1::musig"]);
    assert_eq!(paths("use musig2;"), ["musig2"]);
}
