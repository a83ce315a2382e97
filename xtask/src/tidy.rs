//! `cargo xtask tidy`: the rules of CONTRIBUTING.md that a machine can check without compiling. Each rule is a function
//! from the tree to findings; the rules about manifests are in `tidy/manifests.rs`.

mod manifests;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

pub fn run(_args: &[String]) -> Result<()> {
    println!("tidy: {} files", check()?);
    Ok(())
}

/// Checks the whole tree. Returns how many text files it read.
pub fn check() -> Result<usize> {
    let tree = Tree::read(&crate::root())?;
    let rules: [fn(&Tree, &mut Findings); 7] =
        [heads, sizes, names, no_unsafe, test_binaries, machine_paths, manifests::check];
    let mut findings = Findings(Vec::new());
    for rule in rules {
        rule(&tree, &mut findings);
    }
    license(&tree, &mut findings);
    for finding in &findings.0 {
        eprintln!("{finding}");
    }
    if !findings.0.is_empty() {
        bail!("{} findings", findings.0.len());
    }
    Ok(tree.files.len())
}

/// What a rule has to say, as `path: sentence` or `path:line: sentence`.
pub struct Findings(Vec<String>);

impl Findings {
    fn add(&mut self, path: &str, line: Option<usize>, what: impl std::fmt::Display) {
        self.0.push(match line {
            Some(line) => format!("{path}:{line}: {what}"),
            None => format!("{path}: {what}"),
        });
    }
}

/// Every text file of the checkout, by its path from the root with `/`.
pub struct Tree {
    files: Vec<(String, String)>,
}

impl Tree {
    fn read(root: &Path) -> Result<Self> {
        let mut files = Vec::new();
        let mut folders = vec![root.to_path_buf()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder)? {
                let entry = entry?;
                let path = entry.path();
                let kind = entry.file_type()?;
                if kind.is_dir() && !SKIPPED_FOLDERS.iter().any(|skipped| entry.file_name() == *skipped) {
                    folders.push(path);
                } else if kind.is_file() && entry.metadata()?.len() <= TEXT_LIMIT_BYTES {
                    // What is not UTF-8 is not text.
                    if let Ok(text) = fs::read_to_string(&path) {
                        files.push((relative(root, path), text));
                    }
                }
            }
        }
        files.sort();
        Ok(Self { files })
    }

    fn get(&self, path: &str) -> Option<&str> {
        let at = self.files.binary_search_by(|(name, _)| name.as_str().cmp(path)).ok()?;
        Some(&self.files[at].1)
    }

    fn ending<'a>(&'a self, endings: &'a [&str]) -> impl Iterator<Item = (&'a str, &'a str)> {
        let wanted = |path: &str| endings.iter().any(|ending| path.ends_with(ending));
        self.files.iter().map(|(path, text)| (path.as_str(), text.as_str())).filter(move |(path, _)| wanted(path))
    }
}

fn relative(root: &Path, path: PathBuf) -> String {
    path.strip_prefix(root).expect("the walk stays below the root").to_string_lossy().replace('\\', "/")
}

fn heads(tree: &Tree, findings: &mut Findings) {
    for (path, text) in tree.ending(&[".rs"]) {
        if !text.starts_with("//! ") {
            findings.add(path, Some(1), "a file opens with `//!`: what it is, what it is not, where to go next");
        }
    }
    for (path, text) in tree.ending(&[".py"]) {
        if !text.trim_start().starts_with("\"\"\"") && !text.starts_with('#') && !text.is_empty() {
            findings.add(path, Some(1), "a Python file opens with a docstring that says what it is");
        }
    }
}

fn sizes(tree: &Tree, findings: &mut Findings) {
    for (path, text) in tree.ending(SOURCE) {
        let lines = text.lines().count();
        let first = text.lines().next().unwrap_or_default().to_lowercase();
        let says_why = ["table", "generated", "indivisible"].iter().any(|reason| first.contains(reason));
        if lines > 1_000 && !says_why {
            findings.add(
                path,
                None,
                format!("{lines} lines; above 1,000 the first line says why: a table, generated, or indivisible"),
            );
        }
    }
}

fn names(tree: &Tree, findings: &mut Findings) {
    for (path, _) in tree.ending(SOURCE) {
        let banned =
            path.split('/').map(|part| part.split('.').next().unwrap_or(part)).find(|part| BANNED.contains(part));
        if let Some(name) = banned {
            findings.add(
                path,
                None,
                format!("`{name}` says the kind, not the content; name the module after what it holds"),
            );
        }
        if path.ends_with("/mod.rs") {
            findings.add(path, None, "modules are `foo.rs` with `foo/`, not `foo/mod.rs`");
        }
    }
}

fn no_unsafe(tree: &Tree, findings: &mut Findings) {
    for (path, text) in tree.ending(&[".rs"]) {
        let root = path.ends_with("/src/lib.rs") || path.ends_with("/src/main.rs") || path.contains("/src/bin/");
        if path.starts_with("crates/kernels/") {
            continue;
        }
        if root && !path.starts_with("fuzz/") && !text.contains("#![forbid(unsafe_code)]") {
            findings.add(path, None, "every crate but kernels says `#![forbid(unsafe_code)]`");
        }
        for (number, line) in text.lines().enumerate() {
            let code = line.trim_start();
            let opens = UNSAFE_USES.iter().any(|form| code.contains(&["unsafe", form].concat()));
            if opens && !code.starts_with("//") && !path.starts_with("xtask/src/tidy") {
                findings.add(path, Some(number + 1), "`unsafe` lives in crates/kernels only");
            }
        }
    }
}

fn test_binaries(tree: &Tree, findings: &mut Findings) {
    for (path, text) in tree.ending(&[".rs"]) {
        let parts: Vec<&str> = path.split('/').collect();
        if let ["crates", _, "tests", file] = parts[..] {
            findings.add(
                path,
                None,
                format!("one integration binary per crate: move `{file}` into tests/it/ as a module"),
            );
        }
        for (number, line) in text.lines().enumerate() {
            if line.trim_start().starts_with("#[ignore") {
                findings.add(path, Some(number + 1), "a test runs or is deleted; there is no `#[ignore]`");
            }
        }
    }
}

fn machine_paths(tree: &Tree, findings: &mut Findings) {
    for (path, text) in &tree.files {
        if path.ends_with("Cargo.lock") || path.ends_with("package-lock.json") || path.starts_with("xtask/src/tidy") {
            continue;
        }
        for (number, line) in text.lines().enumerate() {
            if let Some(found) = MACHINE_PATHS.iter().find(|place| line.contains(**place)) {
                findings.add(
                    path,
                    Some(number + 1),
                    format!("`{found}` is a place on one machine; use a path from the checkout"),
                );
            }
        }
    }
}

fn license(tree: &Tree, findings: &mut Findings) {
    if !tree.get("LICENSE").is_some_and(|text| text.contains("Apache License") && text.contains("Version 2.0")) {
        findings.add("LICENSE", None, "the Apache License 2.0 stands here in full");
    }
}

const SKIPPED_FOLDERS: &[&str] = &["target", ".git", "node_modules", "__pycache__", "corpus", "artifacts", "coverage"];
const SOURCE: &[&str] = &[".rs", ".py", ".ts", ".tsx", ".mjs"];
const BANNED: &[&str] = &["util", "utils", "common", "helper", "helpers", "types", "misc"];
const UNSAFE_USES: &[&str] = &[" {", " fn ", " impl ", " extern ", " trait "];
const MACHINE_PATHS: &[&str] = &["/work/", "/root/", "/tmp/falaj", "../shared", "/Users/"];
const TEXT_LIMIT_BYTES: u64 = 4 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(path: &str, text: &str) -> Vec<String> {
        let tree = Tree { files: vec![(path.to_owned(), text.to_owned())] };
        let mut findings = Findings(Vec::new());
        for rule in [heads, sizes, names, no_unsafe, test_binaries, machine_paths] {
            rule(&tree, &mut findings);
        }
        findings.0
    }

    #[test]
    fn a_good_file_passes() {
        assert_eq!(findings("crates/text/src/stop.rs", "//! Stop strings.\n"), Vec::<String>::new());
    }

    #[test]
    fn each_rule_finds_its_fault() {
        let good = "//! Good.\n";
        assert_eq!(findings("crates/text/src/stop.rs", "use x;\n").len(), 1);
        assert_eq!(findings("crates/text/src/utils.rs", good).len(), 1);
        assert_eq!(findings("crates/text/src/stop/mod.rs", good).len(), 1);
        assert_eq!(findings("crates/text/src/lib.rs", good).len(), 1);
        assert_eq!(findings("crates/text/src/stop.rs", &format!("{good}{}{{ f() }}\n", "unsafe ")).len(), 1);
        assert_eq!(findings("crates/text/tests/stop.rs", good).len(), 1);
        assert_eq!(findings("crates/text/src/stop.rs", &format!("{good}// see /root/x\n")).len(), 1);
        assert_eq!(findings("crates/text/src/stop.rs", &good.repeat(1_001)).len(), 1);
        assert_eq!(findings("crates/text/src/stop.rs", &"//! A table.\n".repeat(1_001)).len(), 0);
    }
}
