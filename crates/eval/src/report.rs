//! From outcomes to scores with intervals, split by language and group, and the difference of two models. A report is one JSON
//! document; it also is what a run that was stopped goes on from.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use falaj_artifact::Digest;
use serde::{Deserialize, Serialize};

use crate::ask::Settings;
use crate::interval::{Interval, Share, bootstrap, nine_decimals, paired, ratio, wilson};
use crate::score::{Kind, Measure, Outcome};

/// Results of any number of suites and models.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    pub results: Vec<Results>,
    #[serde(default)]
    pub comparisons: Vec<Compared>,
}

/// One suite, one model.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Results {
    pub suite: String,
    pub suite_digest: Digest,
    /// Rows of the suite.
    pub suite_rows: usize,
    pub model: String,
    /// None of a model that was never a file, and of baselines.
    pub model_digest: Option<Digest>,
    /// Of the adapter over it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub adapter_digest: Option<Digest>,
    /// Which bits the same products have: another version may give other last digits.
    pub numerics: String,
    pub settings: Settings,
    pub measures: Vec<Measured>,
    /// In the order of the suite; as far as it went.
    pub rows: Vec<Outcome>,
}

/// A score of some rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    pub task: String,
    pub measure: Measure,
    /// Of rows in this language only.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub language: Option<String>,
    /// Of rows of this group only.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub group: Option<String>,
    pub value: f64,
    /// 95 %: Wilson's for proportions, a bootstrap over rows for others. `null` where one row says nothing of others.
    #[serde(with = "numbers")]
    pub interval: Interval,
    pub rows: usize,
}

/// Two models on the rows that both answered: first minus second.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Compared {
    pub suite: String,
    pub first: String,
    pub second: String,
    pub task: String,
    pub measure: Measure,
    pub difference: f64,
    #[serde(with = "numbers")]
    pub interval: Interval,
    pub rows: usize,
}

impl Compared {
    /// Whether the interval leaves out zero.
    pub fn is_certain(&self) -> bool {
        self.interval.low > 0.0 || self.interval.high < 0.0
    }
}

impl Results {
    /// Whether these are outcomes of the same computation.
    pub fn is_like(&self, other: &Self) -> bool {
        self.suite_digest == other.suite_digest
            && self.model_digest == other.model_digest
            && self.adapter_digest == other.adapter_digest
            && (self.model_digest.is_some() || self.model == other.model)
            && self.numerics == other.numerics
            && self.settings == other.settings
    }

    pub fn is_complete(&self) -> bool {
        self.rows.len() == self.suite_rows
    }

    pub fn failed(&self) -> usize {
        self.rows.iter().filter(|row| row.error.is_some()).count()
    }
}

/// Every measure: over all rows of a task, then by language, then by group.
pub fn measure(rows: &[Outcome]) -> Vec<Measured> {
    let names = |of: fn(&Outcome) -> Option<&String>| rows.iter().filter_map(of).cloned().collect::<BTreeSet<_>>();
    let all = std::iter::once((None, None));
    let languages = names(|row| row.language.as_ref()).into_iter().map(|language| (Some(language), None));
    let groups = names(|row| row.group.as_ref()).into_iter().map(|group| (None, Some(group)));
    let mut measured = Vec::new();
    for (language, group) in all.chain(languages).chain(groups) {
        let wanted = |row: &&Outcome| {
            (language.is_none() || row.language == language) && (group.is_none() || row.group == group)
        };
        for ((task, measure), shares) in collected(rows.iter().filter(wanted)) {
            measured.push(Measured {
                task: task.to_owned(),
                measure,
                language: language.clone(),
                group: group.clone(),
                value: nine_decimals(measure.score(ratio(shares.iter().copied()))),
                interval: interval(measure, &shares).nine_decimals(),
                rows: shares.len(),
            });
        }
    }
    // Of rows that have nothing to divide by there is no score.
    measured.retain(|one| one.value.is_finite());
    measured
}

fn collected<'a>(rows: impl Iterator<Item = &'a Outcome>) -> BTreeMap<(&'a str, Measure), Vec<Share>> {
    let mut shares: BTreeMap<(&str, Measure), Vec<Share>> = BTreeMap::new();
    for row in rows {
        for (measure, share) in &row.measures {
            shares.entry((row.task.as_str(), *measure)).or_default().push(*share);
        }
    }
    shares
}

fn interval(measure: Measure, shares: &[Share]) -> Interval {
    let (hits, count) = shares.iter().fold((0.0, 0.0), |sum: Share, share| (sum.0 + share.0, sum.1 + share.1));
    match measure.kind() {
        Kind::Proportion => wilson(hits, count),
        _ if shares.len() < 2 => Interval { low: f64::NAN, high: f64::NAN },
        Kind::Mean => bootstrap(shares),
        Kind::Exponential => {
            let Interval { low, high } = bootstrap(shares);
            Interval { low: low.exp(), high: high.exp() }
        }
    }
}

/// The difference of two results over the same suite, by paired bootstrap.
pub fn compare(first: &Results, second: &Results) -> Vec<Compared> {
    let others: HashMap<usize, &Outcome> = second.rows.iter().map(|row| (row.line, row)).collect();
    let mut pairs: BTreeMap<(&str, Measure), Vec<(Share, Share)>> = BTreeMap::new();
    for row in &first.rows {
        let Some(other) = others.get(&row.line) else { continue };
        let measures: BTreeSet<Measure> = row.measures.keys().chain(other.measures.keys()).copied().collect();
        for measure in measures {
            // One may answer where the other abstains: it has no trial there, but the row is drawn for both.
            let share = |row: &Outcome| row.measures.get(&measure).copied().unwrap_or((0.0, 0.0));
            pairs.entry((row.task.as_str(), measure)).or_default().push((share(row), share(other)));
        }
    }
    let compared = pairs.into_iter().map(|((task, measure), shares)| {
        let (ours, theirs): (Vec<Share>, Vec<Share>) = shares.into_iter().unzip();
        let value = |shares: &[Share]| measure.score(ratio(shares.iter().copied()));
        Compared {
            suite: first.suite.clone(),
            first: first.model.clone(),
            second: second.model.clone(),
            task: task.to_owned(),
            measure,
            difference: nine_decimals(value(&ours) - value(&theirs)),
            interval: paired(&ours, &theirs, |ratio| measure.score(ratio)).nine_decimals(),
            rows: ours.len(),
        }
    });
    compared.filter(|compared| compared.difference.is_finite()).collect()
}

/// JSON has no NaN: `[low, high]`, each a number or `null`.
mod numbers {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::interval::Interval;

    pub fn serialize<S: Serializer>(interval: &Interval, serializer: S) -> Result<S::Ok, S::Error> {
        let number = |value: f64| value.is_finite().then_some(value);
        [number(interval.low), number(interval.high)].serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Interval, D::Error> {
        let [low, high] = <[Option<f64>; 2]>::deserialize(deserializer)?;
        Ok(Interval { low: low.unwrap_or(f64::NAN), high: high.unwrap_or(f64::NAN) })
    }
}
