//! The rows of a bench: what a case gave, the table people read, and the JSON that programs and plots read. The file is
//! written after every row, and a run goes on where the last one of the same programs ended.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

/// One case, measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub case: String,
    pub unit: String,
    pub better: Better,
    pub ours: Spread,
    pub peer: Option<Spread>,
    /// What was asked for.
    pub target: Option<Target>,
    /// What was reached of what this machine can do at all, from 0 to 1.
    pub limit_share: Option<f64>,
    /// Other processes used the machine meanwhile, in every attempt.
    pub flagged: bool,
    pub note: String,
    /// Digest of the programs that were measured ([`super::machine::build_of`]).
    pub build: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Better {
    Higher,
    Lower,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Target {
    pub value: f64,
    pub of: TargetOf,
}

/// What a target speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetOf {
    /// The ratio to the peer.
    Ratio,
    /// Our own figure, whatever the peer's.
    Ours,
    /// Our own figure: within a thousandth of the target, and no worse than the peer's.
    Near,
}

impl TargetOf {
    fn name(self) -> &'static str {
        match self {
            TargetOf::Ratio => "ratio",
            TargetOf::Ours => "ours",
            TargetOf::Near => "near",
        }
    }
}

/// What repetitions gave.
#[derive(Clone, Debug, PartialEq)]
pub struct Spread {
    pub median: f64,
    pub min: f64,
    pub max: f64,
    pub count: usize,
}

impl Spread {
    /// `None` without samples.
    pub fn of(samples: &[f64]) -> Option<Self> {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (&min, &max) = (sorted.first()?, sorted.last()?);
        let middle = sorted.len() / 2;
        let median = match sorted.len() % 2 {
            1 => sorted[middle],
            _ => (sorted[middle - 1] + sorted[middle]) / 2.0,
        };
        Some(Self { median, min, max, count: sorted.len() })
    }
}

impl Row {
    /// Above 1 we are better, for rates and for times alike.
    pub fn ratio(&self) -> Option<f64> {
        let peer = self.peer.as_ref()?.median;
        let ours = self.ours.median;
        let ratio = match self.better {
            Better::Higher => ours / peer,
            Better::Lower => peer / ours,
        };
        ratio.is_finite().then_some(ratio)
    }

    /// `None` without a target, or without the peer that it needs.
    pub fn met(&self) -> Option<bool> {
        let target = self.target?;
        Some(match (target.of, self.better) {
            (TargetOf::Ratio, _) => self.ratio()? >= target.value,
            (TargetOf::Ours, Better::Higher) => self.ours.median >= target.value,
            (TargetOf::Ours, Better::Lower) => self.ours.median <= target.value,
            (TargetOf::Near, _) => self.ratio()? >= 1.0 && (self.ours.median / target.value - 1.0).abs() <= NEAR,
        })
    }

    /// What was asked for, in words; empty if nothing was.
    fn asked(&self) -> String {
        let Some(target) = self.target else { return String::new() };
        let value = short(target.value);
        let value = if value.contains('.') { value.trim_end_matches('0').trim_end_matches('.') } else { &value };
        match (target.of, self.better) {
            (TargetOf::Ratio, _) => format!("{value} ×"),
            (TargetOf::Ours, Better::Higher) => format!("≥ {value}"),
            (TargetOf::Ours, Better::Lower) => format!("≤ {value}"),
            (TargetOf::Near, _) => format!("{value} ± 0.1 %"),
        }
    }

    fn json(&self) -> Value {
        let mut map = Map::new();
        map.insert("case".into(), json!(self.case));
        map.insert("ours".into(), json!(self.ours.median));
        map.insert("peer".into(), json!(self.peer.as_ref().map(|peer| peer.median)));
        map.insert("ratio".into(), json!(self.ratio()));
        map.insert("limit_share".into(), json!(self.limit_share));
        map.insert("unit".into(), json!(self.unit));
        map.insert("better".into(), json!(if self.better == Better::Higher { "higher" } else { "lower" }));
        map.insert("target".into(), json!(self.target.map(|target| target.value)));
        map.insert("target_of".into(), json!(self.target.map(|target| target.of.name())));
        for (side, spread) in [("ours", Some(&self.ours)), ("peer", self.peer.as_ref())] {
            map.insert(format!("{side}_min"), json!(spread.map(|spread| spread.min)));
            map.insert(format!("{side}_max"), json!(spread.map(|spread| spread.max)));
            map.insert(format!("{side}_count"), json!(spread.map(|spread| spread.count)));
        }
        map.insert("flagged".into(), json!(self.flagged));
        map.insert("note".into(), json!(self.note));
        map.insert("build".into(), json!(self.build));
        Value::Object(map)
    }

    fn from_json(value: &Value) -> Option<Self> {
        let number = |key: &str| value.get(key).and_then(Value::as_f64);
        let text = |key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
        let spread = |side: &str| {
            Some(Spread {
                median: number(side)?,
                min: number(&format!("{side}_min"))?,
                max: number(&format!("{side}_max"))?,
                count: number(&format!("{side}_count"))? as usize,
            })
        };
        Some(Self {
            case: text("case")?,
            unit: text("unit")?,
            better: if text("better")? == "lower" { Better::Lower } else { Better::Higher },
            ours: spread("ours")?,
            peer: spread("peer"),
            target: number("target").map(|value| {
                let named = |of: &TargetOf| text("target_of").is_some_and(|name| name == of.name());
                let of = [TargetOf::Ours, TargetOf::Near].into_iter().find(named).unwrap_or(TargetOf::Ratio);
                Target { value, of }
            }),
            limit_share: number("limit_share"),
            flagged: value.get("flagged").and_then(Value::as_bool).unwrap_or(false),
            note: text("note").unwrap_or_default(),
            build: text("build").unwrap_or_default(),
        })
    }
}

/// A bench's result: its rows, in the order of the cases, and what they were measured on.
#[derive(Clone, Debug, Default)]
pub struct Book {
    path: PathBuf,
    order: Vec<String>,
    build: String,
    rows: BTreeMap<String, Row>,
    /// `machine`, `versions`, `probes`: whatever a reader needs to trust the rows.
    pub about: Map<String, Value>,
}

impl Book {
    /// A book at `path` for rows of the programs `build`. Its rows stay if they were measured on the same machine, which
    /// `about` says, so that a long run can be made in pieces; [`Book::has`] tells which of them are of the same programs.
    pub fn open(path: &Path, order: Vec<String>, about: Map<String, Value>, build: &str) -> Self {
        let mut book = Self { path: path.to_owned(), order, build: build.to_owned(), rows: BTreeMap::new(), about };
        let Some(old) = fs::read_to_string(path).ok().and_then(|text| serde_json::from_str::<Value>(&text).ok()) else {
            return book;
        };
        if old.get("machine") == book.about.get("machine") {
            for (key, value) in old.as_object().into_iter().flatten().filter(|(key, _)| *key != "rows") {
                book.about.entry(key.clone()).or_insert_with(|| value.clone());
            }
            let rows = old.get("rows").and_then(Value::as_array).cloned().unwrap_or_default();
            book.rows = rows.iter().filter_map(Row::from_json).map(|row| (row.case.clone(), row)).collect();
        }
        book
    }

    /// The rows of a file, and the whole of it.
    pub fn read(path: &Path) -> Result<(Vec<Row>, Value)> {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read `{}`", path.display()))?;
        let value: Value = serde_json::from_str(&text)?;
        let rows = value.get("rows").and_then(Value::as_array).into_iter().flatten();
        Ok((rows.filter_map(Row::from_json).collect(), value))
    }

    /// Whether this case needs no further measurement.
    pub fn has(&self, case: &str) -> bool {
        self.rows.get(case).is_some_and(|row| !row.flagged && row.build == self.build)
    }

    /// Adds a row and writes the file. A flagged row does not replace a clean one.
    pub fn add(&mut self, mut row: Row) -> Result<()> {
        row.build.clone_from(&self.build);
        println!("{}", line(&row));
        if !(row.flagged && self.has(&row.case)) {
            self.rows.insert(row.case.clone(), row);
        }
        self.write()
    }

    pub fn rows(&self) -> Vec<&Row> {
        let known = self.order.iter().filter_map(|case| self.rows.get(case));
        known.chain(self.rows.values().filter(|row| !self.order.contains(&row.case))).collect()
    }

    pub fn write(&self) -> Result<()> {
        let mut all = Map::new();
        all.insert("rows".into(), Value::Array(self.rows().into_iter().map(Row::json).collect()));
        all.extend(self.about.clone());
        let part = self.path.with_extension("json.part");
        fs::write(&part, serde_json::to_string_pretty(&all)? + "\n")?;
        Ok(fs::rename(part, &self.path)?)
    }

    /// How many targets were met, and how many rows are not to be trusted.
    pub fn judged(&self) -> String {
        let met = self.rows.values().filter(|row| row.met() == Some(true)).count();
        let judged = self.rows.values().filter(|row| row.met().is_some()).count();
        let flagged = self.rows.values().filter(|row| row.flagged).count();
        format!("{met} of {judged} targets met; {flagged} rows flagged")
    }

    pub fn table(&self) -> String {
        let mut text = format!("{HEAD}\n");
        for row in self.rows() {
            text.push_str(&line(row));
            text.push('\n');
        }
        text
    }
}

/// Rows as a Markdown table, for docs. `newest`: the build that most of them should be of.
pub fn markdown(rows: &[&Row], newest: &str) -> String {
    let mut text = String::from(
        "| case | ours | peer | ratio | asked for | of the limit | unit |\n|---|---|---|---|---|---|---|\n",
    );
    let spread = |s: Option<&Spread>| match s {
        None => String::new(),
        Some(s) if s.count > 1 => format!("{} ({} to {})", short(s.median), short(s.min), short(s.max)),
        Some(s) => short(s.median),
    };
    for row in rows {
        let ratio = row.ratio().map_or(String::new(), |ratio| format!("{ratio:.2}"));
        let missed = if row.met() == Some(false) { ", missed" } else { "" };
        let target = format!("{}{missed}", row.asked());
        let limit = row.limit_share.map_or(String::new(), |share| format!("{:.0} %", share * 100.0));
        let mut unit = row.unit.clone();
        let old = if row.build == newest { "" } else { "of another build" };
        for more in [row.note.as_str(), if row.flagged { "**disturbed**" } else { "" }, old] {
            if !more.is_empty() {
                unit.push_str(&format!("; {more}"));
            }
        }
        let (ours, peer) = (spread(Some(&row.ours)), spread(row.peer.as_ref()));
        text.push_str(&format!("| `{}` | {ours} | {peer} | {ratio} | {target} | {limit} | {unit} |\n", row.case));
    }
    text
}

const HEAD: &str = "case                          ours  (min – max)                  peer  (min – max)            ratio  target           limit  unit";

/// A line of the table.
fn line(row: &Row) -> String {
    let spread = |spread: Option<&Spread>| match spread {
        None => format!("{:>9} {:20}", "–", ""),
        Some(s) => {
            let range = format!("({} – {})", short(s.min), short(s.max));
            format!("{:>9} {range:20}", short(s.median))
        }
    };
    let ratio = row.ratio().map_or("–".to_owned(), |ratio| format!("{ratio:.2}"));
    let met = row.met().map_or("", |met| if met { " ✓" } else { " ✗" });
    let target = format!("{}{met}", row.asked());
    let limit = row.limit_share.map_or(String::new(), |share| format!("{:.0} %", share * 100.0));
    let flag = if row.flagged { "  FLAGGED: other processes ran" } else { "" };
    let note = if row.note.is_empty() { String::new() } else { format!("  {}", row.note) };
    format!(
        "{:24} {} {} {ratio:>8}  {target:<16} {limit:>5}  {}{note}{flag}",
        row.case,
        spread(Some(&row.ours)),
        spread(row.peer.as_ref()),
        row.unit
    )
    .trim_end()
    .to_owned()
}

/// How far a perplexity may be from what it should be.
const NEAR: f64 = 1e-3;

/// About four digits that matter, and no exponent.
pub fn short(value: f64) -> String {
    match value.abs() {
        v if v >= 1000.0 => format!("{value:.0}"),
        v if v >= 100.0 => format!("{value:.1}"),
        v if v >= 10.0 => format!("{value:.2}"),
        v if v > 0.0 && v < 0.1 => format!("{value:.5}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(case: &str, better: Better, ours: &[f64], peer: &[f64]) -> Row {
        Row {
            case: case.into(),
            unit: "tokens/s".into(),
            better,
            ours: Spread::of(ours).expect("samples"),
            peer: Spread::of(peer),
            target: Some(Target { value: 1.1, of: TargetOf::Ratio }),
            limit_share: Some(0.5),
            flagged: false,
            note: String::new(),
            build: "b1".into(),
        }
    }

    #[test]
    fn a_spread_has_median_and_ends() {
        let spread = Spread::of(&[4.0, 1.0, 3.0, 2.0]).expect("samples");
        assert_eq!((spread.median, spread.min, spread.max, spread.count), (2.5, 1.0, 4.0, 4));
        assert_eq!(Spread::of(&[]), None);
    }

    #[test]
    fn above_one_is_better_for_times_too() {
        assert_eq!(row("rate", Better::Higher, &[20.0], &[10.0]).ratio(), Some(2.0));
        assert_eq!(row("time", Better::Lower, &[1.0], &[4.0]).ratio(), Some(4.0));
        assert_eq!(row("alone", Better::Higher, &[1.0], &[]).ratio(), None);
    }

    #[test]
    fn rows_survive_their_file_and_a_flagged_one_does_not_replace_a_clean_one() {
        let folder = std::env::temp_dir().join(format!("falaj-rows-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a temporary folder");
        let path = folder.join("bench.json");
        let about: Map<String, Value> = [("machine".to_owned(), json!("here"))].into_iter().collect();
        let order = vec!["b".to_owned(), "a".to_owned()];
        let mut book = Book::open(&path, order.clone(), about.clone(), "b1");
        let clean = row("a", Better::Higher, &[20.0, 21.0], &[10.0]);
        book.add(clean.clone()).expect("written");
        book.add(Row { flagged: true, ..row("a", Better::Higher, &[1.0], &[10.0]) }).expect("written");
        book.add(row("b", Better::Lower, &[1.0], &[])).expect("written");

        let again = Book::open(&path, order.clone(), about.clone(), "b1");
        assert!(again.has("a") && again.has("b"));
        assert_eq!(again.rows()[1], &clean);
        assert_eq!(again.rows()[0].case, "b");
        assert_eq!(Book::read(&path).expect("read").0.len(), 2);
        let elsewhere = [("machine".to_owned(), json!("there"))].into_iter().collect();
        assert!(!Book::open(&path, order.clone(), elsewhere, "b1").has("a"));
        // Of other programs: kept to be seen, but measured again.
        let other = Book::open(&path, order, about, "b2");
        assert!(!other.has("a") && other.rows().len() == 2);
        fs::remove_dir_all(folder).expect("it was ours");
    }

    #[test]
    fn a_missed_target_is_said_in_docs() {
        let row = row("a", Better::Higher, &[10.0], &[10.0]);
        assert!(markdown(&[&row], "b1").contains("| `a` | 10.00 | 10.00 | 1.00 | 1.1 ×, missed | 50 % | tokens/s |"));
        assert!(markdown(&[&row], "b2").contains("of another build"));
    }

    #[test]
    fn a_perplexity_is_near_the_exact_one_and_no_worse_than_the_peers() {
        let met = |ours, peer| {
            let target = Some(Target { value: 20.0, of: TargetOf::Near });
            Row { target, ..row("p", Better::Lower, &[ours], &[peer]) }.met()
        };
        assert_eq!(met(20.01, 20.02), Some(true));
        assert_eq!(met(19.99, 20.02), Some(true));
        assert_eq!(met(20.01, 20.00), Some(false));
        assert_eq!(met(20.03, 20.05), Some(false));
        assert_eq!(met(19.97, 20.05), Some(false));
    }

    #[test]
    fn a_line_says_whether_the_target_was_met() {
        assert!(line(&row("a", Better::Higher, &[20.0], &[10.0])).contains("2.00  1.1 × ✓"));
        assert!(line(&row("a", Better::Higher, &[10.0], &[10.0])).contains("1.00  1.1 × ✗"));
    }
}
