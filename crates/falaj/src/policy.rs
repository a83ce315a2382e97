//! `falaj policy …`: a site's own policies before they take effect: do they fit, do they decide the cases that somebody wrote down,
//! what would they have decided of what was recorded. What decides is `falaj_govern`.

use crate::args::PolicyCommand;
use crate::context::Context;
use crate::failure::{Failure, OrFail, Outcome};
use crate::output;
use crate::words::{self, Lang, Word};
use falaj_govern::{Decision, Gate, Language, Policies, Question, Record, World};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

pub fn policy(context: &Context, command: &PolicyCommand) -> Outcome {
    match command {
        PolicyCommand::Schema => {
            output::line(falaj_govern::SCHEMA.trim_end());
            Ok(())
        }
        PolicyCommand::Check { policies } => check(context, policies),
        PolicyCommand::Test { cases, world, policies, records } => {
            test(context, cases, world, policies, records.as_deref())
        }
        PolicyCommand::Diff { records, policies } => diff(context, records, policies),
        PolicyCommand::Explain { records, policies } => explain(context, records, policies),
    }
}

/// A line of a file of cases.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    question: Question,
    expect: Verdict,
    /// The policy that has to be among those that decide.
    by: Option<String>,
    /// Seconds since 1970; now, where none is named.
    time: Option<u64>,
}

#[derive(Clone, Copy, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Permit,
    Deny,
}

fn check(context: &Context, files: &[PathBuf]) -> Outcome {
    let policies = read(files)?;
    if context.json {
        let digest = policies.digest().to_string();
        output::json(&json!({ "policies": policies.names(), "digest": digest, "warnings": policies.warnings() }));
        return Ok(());
    }
    output::line(&Word::PolicyFits.with(&[&policies.names().len().to_string(), &policies.digest().to_string()]));
    for name in policies.names() {
        output::line(&format!("  {name}"));
    }
    for warning in policies.warnings() {
        output::note(&Word::PolicyWarning.with(&[warning]));
    }
    Ok(())
}

fn test(context: &Context, cases: &Path, world: &Path, files: &[PathBuf], records: Option<&Path>) -> Outcome {
    let policies = read(files)?;
    let text = text(world)?;
    let world: World = serde_json::from_str(&text).or_fail(|| format!("`{}`", world.display()))?;
    let gate = Gate::new(policies, world).or_fail(|| Word::PolicyWorld.text().to_owned())?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
    let (mut wrong, mut kept, mut all) = (0, String::new(), 0);
    for (line, case) in lines::<Case>(cases)? {
        all += 1;
        let decision = gate.decide(&case.question, case.time.unwrap_or(now));
        let (verdict, record) = match &decision {
            Decision::Permit(permit) => (Verdict::Permit, permit.record()),
            Decision::Denial(denial) => (Verdict::Deny, denial.record()),
        };
        let right = verdict == case.expect && case.by.as_ref().is_none_or(|by| record.deciding.contains(by));
        wrong += usize::from(!right);
        if context.json {
            let deciding = &record.deciding;
            output::json(&json!({ "line": line, "right": right, "permitted": record.permitted, "deciding": deciding }));
        } else if !right {
            let place = format!("{}:{line}", cases.display());
            output::line(&Word::PolicyWrong.with(&[&place, decided(record.permitted), &record.deciding.join(", ")]));
        }
        kept.push_str(&serde_json::to_string(&record).unwrap_or_default());
        kept.push('\n');
    }
    if let Some(path) = records {
        fs::write(path, kept).or_fail(|| format!("`{}`", path.display()))?;
    }
    let [right, all] = [all - wrong, all].map(|count: usize| count.to_string());
    if wrong > 0 {
        return Err(Failure::new(Word::PolicyTestsFailed.with(&[&right, &all])).next(Word::PolicyTestsNext.text()));
    }
    if !context.json {
        output::line(&Word::PolicyTestsPassed.with(&[&all]));
    }
    Ok(())
}

fn diff(context: &Context, records: &Path, files: &[PathBuf]) -> Outcome {
    let policies = read(files)?;
    let (mut changed, mut all) = (0, 0);
    for (line, record) in lines::<Record>(records)? {
        all += 1;
        let (permitted, deciding) = record.again(&policies).or_fail(|| format!("{}:{line}", records.display()))?;
        if (permitted, &deciding) == (record.permitted, &record.deciding) {
            continue;
        }
        changed += 1;
        if context.json {
            let was = json!({ "permitted": record.permitted, "deciding": record.deciding });
            let now = json!({ "permitted": permitted, "deciding": deciding });
            output::json(&json!({ "line": line, "question": record.question, "was": was, "would_be": now }));
        } else {
            let place = format!("{}:{line}", records.display());
            let was = format!("{} ({})", decided(record.permitted), record.deciding.join(", "));
            let now = format!("{} ({})", decided(permitted), deciding.join(", "));
            output::line(&Word::PolicyChange.with(&[&place, &asked(&record.question), &was, &now]));
        }
    }
    if !context.json {
        let [changed, all] = [changed, all].map(|count: usize| count.to_string());
        output::line(&Word::PolicyChanged.with(&[&changed, &all]));
    }
    Ok(())
}

fn explain(context: &Context, records: &Path, files: &[PathBuf]) -> Outcome {
    let policies = read(files)?;
    let language = match words::lang() {
        Lang::En => Language::English,
        Lang::Fr => Language::French,
        Lang::Ar => Language::Arabic,
    };
    for (line, record) in lines::<Record>(records)? {
        let same = record.verify(&policies);
        let remedy =
            record.deciding.first().and_then(|name| policies.remedy(name, language)).filter(|_| !record.permitted);
        if context.json {
            let verified = same.as_ref().is_ok_and(|same| *same);
            let (deciding, permitted) = (&record.deciding, record.permitted);
            let told = json!({ "line": line, "question": record.question, "permitted": permitted, "deciding": deciding,
                "remedy": remedy, "digest": record.digest().to_string(), "verified": verified });
            output::json(&told);
            continue;
        }
        output::line(&format!("{}:{line}  {}", records.display(), asked(&record.question)));
        output::line(&format!("  {} ({})", decided(record.permitted), record.deciding.join(", ")));
        if let Some(remedy) = remedy {
            output::line(&Word::PolicyRemedy.with(&[remedy]));
        }
        output::line(&match same {
            Ok(true) => Word::PolicyVerified.text().to_owned(),
            Ok(false) => Word::PolicyForged.text().to_owned(),
            Err(error) => Word::PolicyUnverified.with(&[&error.to_string()]),
        });
    }
    Ok(())
}

/// Who wanted what.
fn asked(question: &Question) -> String {
    let target = serde_json::to_value(&question.target).unwrap_or_default();
    let target = target.as_object().and_then(|of| of.values().next()?.as_str().map(str::to_owned));
    let target = target.unwrap_or_else(|| "site".to_owned());
    format!("{} → {} → {target} ({}, {:?})", question.actor, question.action.word(), question.purpose, question.class)
}

fn decided(permitted: bool) -> &'static str {
    if permitted { Word::PolicyPermitted.text() } else { Word::PolicyDenied.text() }
}

fn read(files: &[PathBuf]) -> Outcome<Policies> {
    let texts = files.iter().map(|path| text(path)).collect::<Outcome<Vec<_>>>()?;
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    Policies::with(&texts)
        .map_err(|error| Failure::usage(Word::PolicyBad.with(&[&error.to_string()])).next(Word::PolicyBadNext.text()))
}

fn text(path: &Path) -> Outcome<String> {
    fs::read_to_string(path).or_fail(|| format!("`{}`", path.display()))
}

/// Each line of a JSONL file that is not empty, by its number.
fn lines<T: DeserializeOwned>(path: &Path) -> Outcome<Vec<(usize, T)>> {
    let text = text(path)?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(at, line)| {
            let read = serde_json::from_str(line).or_fail(|| format!("{}:{}", path.display(), at + 1))?;
            Ok((at + 1, read))
        })
        .collect()
}
