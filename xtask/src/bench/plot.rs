//! What `--plot` writes below docs/performance: pictures of a bench's rows, and their table. Made from the JSON alone, so that it
//! can be made again whenever a bench has run. The drawing itself is `crates/plot`.

use std::fs;
use std::path::Path;

use anyhow::Result;
use falaj_plot::{Bars, Row as Bar};
use serde_json::Value;

use super::rows::{self, Better, Row, TargetOf};
use super::train::Curves;

/// Of `cargo xtask bench engine`.
pub fn engine(rows: &[Row], all: &Value) -> Result<()> {
    let mut tables = String::new();
    for (suffix, words) in [("", "best instructions of this machine"), ("@avx2", "AVX2 only")] {
        let of = |wanted: &dyn Fn(&str) -> bool| -> Vec<&Row> {
            let name = |row: &Row| row.case.strip_suffix(suffix).filter(|name| !name.contains('@')).is_some_and(wanted);
            rows.iter().filter(|row| name(row)).collect()
        };
        let every = of(&|_| true);
        if every.is_empty() {
            continue;
        }
        let file = |name: &str| format!("{name}{}.svg", suffix.replace('@', "-"));
        let speed = |title: &str, prefix: &str| {
            let rows = of(&|case| case.starts_with(prefix));
            sides(&format!("{title}, {words}"), "tokens/s", &["Falaj", "llama.cpp"], &rows)
        };
        let judged = of(&|case| !case.starts_with("perplexity"));
        write(&file("prompt"), speed("Prompts", "prompt"))?;
        write(&file("decode"), speed("Decoding alone", "decode"))?;
        write(&file("ratios"), ratios(&format!("Against llama.cpp, {words}"), &judged))?;
        write(&file("limits"), limits(&format!("Share of the machine's limit, {words}"), &judged))?;
        tables.push_str(&format!("\n## {}\n\n{}", capital(words), rows::markdown(&every, &newest(rows))));
    }
    write("engine.md", figures("engine", all, &tables))
}

/// Of `cargo xtask bench train`; `folder` holds the curves.
pub fn train(rows: &[Row], all: &Value, folder: &Path) -> Result<()> {
    let of = |prefix: &str| rows.iter().filter(|row| row.case.starts_with(prefix)).collect::<Vec<_>>();
    let steps = sides(
        "Training steps of 16 × 256",
        "tokens/s; two ways of the same PyTorch",
        &["Falaj", "PyTorch"],
        &of("step/"),
    );
    write("train-step.svg", steps)?;
    let memory = sides("Memory of one training process", "MB at most", &["Falaj", "PyTorch"], &of("memory/"));
    write("train-memory.svg", memory)?;
    let products = sides("Products of a step, 4,096 rows", "GFLOP/s", &["Falaj", "PyTorch bf16"], &of("gemm/"));
    write("train-gemm.svg", products)?;
    if let Ok(curves) = Curves::read(folder) {
        write("train-loss.svg", curves.svg())?;
        write("train-loss-apart.svg", curves.apart_svg())?;
    }
    let every: Vec<&Row> = rows.iter().collect();
    write("train.md", figures("train", all, &format!("\n{}", rows::markdown(&every, &newest(rows)))))
}

fn write(name: &str, text: String) -> Result<()> {
    let folder = crate::root().join("docs/performance");
    fs::create_dir_all(&folder)?;
    fs::write(folder.join(name), text)?;
    println!("docs/performance/{name}");
    Ok(())
}

fn figures(bench: &str, all: &Value, tables: &str) -> String {
    let about: String = all.as_object().into_iter().flatten().filter(|(key, _)| *key != "rows").fold(
        String::new(),
        |about, (key, value)| {
            let value = value.as_str().map_or_else(|| format!("`{value}`"), str::to_owned);
            format!("{about}- {key}: {value}\n")
        },
    );
    format!(
        "# Figures of `bench {bench}`\n\nWritten by `cargo xtask bench {bench} --plot`; what they mean is in \
         [performance.md](../performance.md). Medians, with the least and the most.\n\n{about}{tables}"
    )
}

/// The build that most rows are of.
fn newest(rows: &[Row]) -> String {
    let count = |build: &str| rows.iter().filter(|row| row.build == build).count();
    rows.iter().map(|row| row.build.clone()).max_by_key(|build| count(build)).unwrap_or_default()
}

/// Ours and the peer's in their own unit, and what the machine allows.
fn sides(title: &str, axis: &str, names: &[&str], rows: &[&Row]) -> String {
    let bar = |row: &&Row| Bar {
        label: row.case.clone(),
        values: vec![Some(row.ours.median), row.peer.as_ref().map(|peer| peer.median)],
        mark: row.limit_share.filter(|share| *share > 0.0).map(|share| row.ours.median / share),
    };
    let rows: Vec<Bar> = rows.iter().map(bar).collect();
    let mark = if rows.iter().any(|row| row.mark.is_some()) { "the machine's limit" } else { "" };
    Bars {
        title: title.into(),
        axis: axis.into(),
        sides: names.iter().map(|name| (*name).to_owned()).collect(),
        mark: mark.into(),
        rows,
        ..Bars::default()
    }
    .svg()
}

/// Bars of `ratio`, a mark at each row's target.
fn ratios(title: &str, rows: &[&Row]) -> String {
    let bars = rows.iter().filter_map(|row| {
        let target = row.target.filter(|target| target.of == TargetOf::Ratio).map(|target| target.value);
        Some(Bar { label: row.case.clone(), values: vec![Some(row.ratio()?)], mark: target })
    });
    Bars {
        title: title.into(),
        axis: "times the peer".into(),
        suffix: " ×".into(),
        mark: "what was asked for".into(),
        rows: bars.collect(),
        line: Some(1.0),
        ..Bars::default()
    }
    .svg()
}

/// Bars of `limit_share` in per cent.
fn limits(title: &str, rows: &[&Row]) -> String {
    let bars = rows.iter().filter(|row| row.better == Better::Higher).filter_map(|row| {
        Some(Bar { label: row.case.clone(), values: vec![Some(row.limit_share? * 100.0)], mark: None })
    });
    Bars {
        title: title.into(),
        axis: "per cent of what memory or arithmetic of this machine allow".into(),
        suffix: " %".into(),
        rows: bars.collect(),
        line: Some(100.0),
        ..Bars::default()
    }
    .svg()
}

fn capital(words: &str) -> String {
    let mut letters = words.chars();
    letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::rows::{Spread, Target};

    #[test]
    fn a_row_is_a_bar_with_its_mark() {
        let row = Row {
            case: "decode/q4_0 <a>".into(),
            unit: "tokens/s".into(),
            better: Better::Higher,
            ours: Spread::of(&[20.0]).expect("a sample"),
            peer: Spread::of(&[10.0]),
            target: Some(Target { value: 4.0, of: TargetOf::Ratio }),
            limit_share: Some(0.5),
            flagged: false,
            note: String::new(),
            build: String::new(),
        };
        let svg = ratios("Speed", &[&row]);
        assert!(
            svg.contains(">2 ×</text>") && svg.contains("decode/q4_0 &lt;a&gt;") && svg.contains("\"mark\""),
            "{svg}"
        );
        assert!(limits("Limits", &[&row]).contains(">50 %</text>"));
        // What the machine allows is twice what we reach.
        assert!(sides("Speed", "", &["ours", "peer"], &[&row]).contains(">40</text>"));
        let alone = Row { peer: None, ..row };
        assert!(!ratios("Speed", &[&alone]).contains(">decode"));
    }
}
