//! The rules about manifests: edges between our crates as the table in ARCHITECTURE.md has them, and versions, editions
//! and lints in the workspace only.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, anyhow};
use toml::{Table, Value};

use super::{Findings, Tree};

pub fn check(tree: &Tree, findings: &mut Findings) {
    let table = match tree.get(ARCHITECTURE).context("the file is missing").and_then(edge_table) {
        Ok(table) => table,
        Err(error) => {
            findings.add(ARCHITECTURE, None, format!("{error:#}"));
            BTreeMap::new()
        }
    };
    let mut present = BTreeSet::new();
    for (path, text) in tree.ending(&["Cargo.toml"]) {
        let member = match path.split('/').collect::<Vec<_>>()[..] {
            ["crates", name, "Cargo.toml"] => Some(name),
            ["xtask", "Cargo.toml"] => None,
            _ => continue,
        };
        let manifest = match text.parse::<Table>() {
            Ok(manifest) => manifest,
            Err(error) => {
                findings.add(path, None, error);
                continue;
            }
        };
        inherits(path, &manifest, findings);
        if let Some(name) = member {
            present.insert(name.to_owned());
            if !table.is_empty() {
                edges(path, name, &manifest, &table, findings);
            }
        }
    }
    for name in table.keys().filter(|name| !present.contains(*name)) {
        findings.add(ARCHITECTURE, None, format!("the edge table has `{name}`, and crates/{name} does not exist"));
    }
}

/// A row of the table: how high the crate stands, and what it may use.
struct Row {
    layer: u32,
    may_use: BTreeSet<String>,
}

/// Reads the table whose head is `| crate | layer | may use |`. `may use` lists crates; `all` means every crate below, and
/// `all but x, y` leaves some out.
fn edge_table(text: &str) -> Result<BTreeMap<String, Row>> {
    let cells = |line: &str| -> Vec<String> {
        line.trim().trim_matches('|').split('|').map(|cell| cell.replace('`', "").trim().to_owned()).collect()
    };
    let is_head = |line: &&str| {
        let head = cells(line);
        head.len() >= 3
            && head[0] == "crate"
            && head[1] == "layer"
            && head.last().is_some_and(|cell| cell.starts_with("may use"))
    };
    let mut lines = text.lines();
    lines.find(is_head).ok_or_else(|| anyhow!("no table with the head `| crate | layer | may use |`"))?;
    let rows: Vec<Vec<String>> =
        lines.skip(1).take_while(|line| line.trim_start().starts_with('|')).map(cells).collect();
    let all: Vec<String> = rows.iter().map(|row| row[0].clone()).collect();
    let mut table = BTreeMap::new();
    for row in &rows {
        let name = row[0].clone();
        let layer = row[1].trim_start_matches(['L', 'l']).parse().with_context(|| format!("`{name}` has no layer"))?;
        let list = row.last().map(String::as_str).unwrap_or_default();
        let split = |list: &str| -> BTreeSet<String> {
            list.split([',', ' '])
                .map(str::trim)
                .filter(|word| !matches!(*word, "" | "-" | "—" | "and"))
                .map(str::to_owned)
                .collect()
        };
        let may_use = match list.strip_prefix("all") {
            Some(rest) => {
                let except = split(rest.trim_start().trim_start_matches("but").trim_start());
                all.iter().filter(|other| **other != name && !except.contains(*other)).cloned().collect()
            }
            None => split(list),
        };
        table.insert(name, Row { layer, may_use });
    }
    for (name, row) in &table {
        if let Some(unknown) = row.may_use.iter().find(|other| !table.contains_key(*other)) {
            return Err(anyhow!("`{name}` may use `{unknown}`, which has no row"));
        }
    }
    Ok(table)
}

fn edges(path: &str, name: &str, manifest: &Table, table: &BTreeMap<String, Row>, findings: &mut Findings) {
    let Some(row) = table.get(name) else {
        findings.add(path, None, format!("`{name}` has no row in the edge table of {ARCHITECTURE}"));
        return;
    };
    for dependency in dependencies(manifest).filter_map(|(key, _)| key.strip_prefix("falaj-")) {
        if !row.may_use.contains(dependency) {
            findings.add(
                path,
                None,
                format!("`{name}` uses `{dependency}`, an edge that the table in {ARCHITECTURE} does not have"),
            );
        } else if table.get(dependency).is_some_and(|other| other.layer >= row.layer) {
            findings.add(path, None, format!("`{name}` uses `{dependency}`, which does not stand below it"));
        }
    }
}

fn inherits(path: &str, manifest: &Table, findings: &mut Findings) {
    let from_workspace =
        |value: Option<&Value>| value.and_then(|v| v.get("workspace")).and_then(Value::as_bool) == Some(true);
    let package = manifest.get("package");
    for key in ["version", "edition", "rust-version", "license"] {
        if !from_workspace(package.and_then(|package| package.get(key))) {
            findings.add(path, None, format!("`package.{key}` comes from the workspace: `{key}.workspace = true`"));
        }
    }
    if !from_workspace(manifest.get("lints")) {
        findings.add(path, None, "lints come from the workspace: `[lints] workspace = true`");
    }
    for (name, value) in dependencies(manifest) {
        if !from_workspace(Some(value)) {
            findings.add(
                path,
                None,
                format!("the version of `{name}` stands in the workspace: `{name}.workspace = true`"),
            );
        }
    }
}

/// All dependencies: normal, development, build, and per target.
fn dependencies(manifest: &Table) -> impl Iterator<Item = (&String, &Value)> {
    let targets = manifest.get("target").and_then(Value::as_table).into_iter().flat_map(|table| table.values());
    let places = std::iter::once(manifest).chain(targets.filter_map(Value::as_table));
    places.flat_map(|place| {
        let kinds = ["dependencies", "dev-dependencies", "build-dependencies"];
        kinds.into_iter().filter_map(|kind| place.get(kind)?.as_table()).flatten()
    })
}

const ARCHITECTURE: &str = "ARCHITECTURE.md";

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "# Edges\n\n| crate | layer | may use |\n|---|---|---|\n| `kernels` | L0 | |\n| `text` | L1 | |\n\
                         | `model` | L2 | kernels |\n| `falaj` | L5 | all but text |\n\nMore.\n";

    fn findings(dependencies: &str) -> Vec<String> {
        let manifest: Table = dependencies.parse().expect("the test's manifest is TOML");
        let mut findings = Findings(Vec::new());
        edges(
            "crates/model/Cargo.toml",
            "model",
            &manifest,
            &edge_table(TABLE).expect("the table reads"),
            &mut findings,
        );
        findings.0
    }

    #[test]
    fn the_table_reads() {
        let table = edge_table(TABLE).expect("the table reads");
        assert_eq!(table["model"].may_use, BTreeSet::from(["kernels".to_owned()]));
        assert_eq!(table["falaj"].may_use, BTreeSet::from(["kernels".to_owned(), "model".to_owned()]));
        assert_eq!(table["falaj"].layer, 5);
        assert!(edge_table("no table").is_err());
    }

    #[test]
    fn an_edge_beyond_the_table_is_found() {
        assert!(findings("[dependencies]\nfalaj-kernels.workspace = true\n").is_empty());
        assert_eq!(findings("[dependencies]\nfalaj-text.workspace = true\n").len(), 1);
        assert_eq!(findings("[dev-dependencies]\nfalaj-text.workspace = true\n").len(), 1);
        assert_eq!(findings("[target.'cfg(unix)'.dependencies]\nfalaj-text.workspace = true\n").len(), 1);
    }

    #[test]
    fn versions_stand_in_the_workspace() {
        let manifest: Table = "[dependencies]\nserde = \"1\"\n".parse().expect("the test's manifest is TOML");
        let mut findings = Findings(Vec::new());
        inherits("crates/text/Cargo.toml", &manifest, &mut findings);
        assert!(findings.0.iter().any(|finding| finding.contains("`serde`")));
    }
}
