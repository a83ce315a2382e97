//! `falaj data …`: looks at files to learn from. What a row is and what it becomes, `falaj_train::data` knows; here it is
//! said in the reader's language.

use crate::args::{DataCheck, DataCommand};
use crate::context::Context;
use crate::failure::{Failure, OrFail, Outcome};
use crate::output;
use crate::pace::{Pace, Work};
use crate::serving::{self, Place};
use crate::words::Word;
use falaj_model::Config;
use falaj_train::data::{BadLine, Checked, Encoder, Format, Reading, Reason, check};
use serde_json::json;

pub fn data(context: &Context, command: &DataCommand) -> Outcome {
    match command {
        DataCommand::Check(options) => look(context, options),
    }
}

fn look(context: &Context, options: &DataCheck) -> Outcome {
    let place = Place::find(&context.config, &options.model)?;
    let (files, _) = serving::verified(&context.config, &place)?;
    let while_doing = || format!("`{}`", place.id());
    let encoder = Encoder::new(&serving::text(&files).or_fail(while_doing)?);
    let config = serving::outline(&files)?.config.map_err(Failure::new).or_fail(while_doing)?;
    let length = options.length.map_or(config.context_tokens, |length| length as usize);
    let threads = context.config.engine.options.threads;
    let checked = check(&options.file, Reading { encoder: &encoder, threads }, length, MOST_BAD_LINES)?;
    let estimate = Estimate::of(context, &files.digest().to_string(), &checked, &config, options)?;
    if context.json {
        output::pretty_json(&document(&checked, &estimate, &place.id(), length));
    } else {
        print(&checked, &estimate, length);
    }
    let name = options.file.display().to_string();
    match (checked.bad_rows, checked.rows) {
        (0, 0) => Err(Failure::new(Word::DataEmpty.with(&[&name])).next(Word::DataEmptyNext.text())),
        (0, _) => Ok(()),
        (bad, _) => Err(Failure::new(Word::DataBad.with(&[&name, &bad.to_string()])).next(Word::DataBadNext.text())),
    }
}

/// How long a job over this file would take.
struct Estimate {
    epochs: f64,
    tokens_per_second: f64,
    from: From,
    seconds: f64,
}

#[derive(Clone, Copy, PartialEq)]
enum From {
    /// By whoever asks.
    Given,
    /// By an earlier job on this model.
    LastJob,
    /// By a few steps of training, just now.
    Measured,
}

impl Estimate {
    fn of(context: &Context, base: &str, checked: &Checked, config: &Config, options: &DataCheck) -> Outcome<Self> {
        let (tokens_per_second, from) = match options.tokens_per_second {
            Some(given) => (given, From::Given),
            None => {
                let work = Work::fine_tuning(config, f64::from(checked.tokens.median));
                let pace = Pace::find(context, base, config, work)?;
                (pace.tokens_per_second, if pace.kept { From::LastJob } else { From::Measured })
            }
        };
        let seconds = checked.tokens.total as f64 * options.epochs / tokens_per_second;
        Ok(Self { epochs: options.epochs, tokens_per_second, from, seconds })
    }
}

fn print(checked: &Checked, estimate: &Estimate, length: usize) {
    for BadLine { line, reason } in &checked.bad {
        output::line(&output::printable(&Word::DataLine.with(&[&line.to_string(), &said(reason)])));
    }
    if checked.bad.len() as u64 != checked.bad_rows {
        output::line(&Word::DataMoreLines.with(&[&(checked.bad_rows - checked.bad.len() as u64).to_string()]));
    }
    let lines = |lines: &[u64], count: u64| {
        let mut text = lines.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
        if count > lines.len() as u64 {
            text.push_str(", …");
        }
        if count == 0 { "0".to_owned() } else { Word::DataLines.with(&[&count.to_string(), &text]) }
    };
    let tokens = &checked.tokens;
    let share = format!("{:.1}", 100.0 * tokens.learnt as f64 / tokens.total.max(1) as f64);
    let sizes = [tokens.total, tokens.min.into(), tokens.median.into(), tokens.p95.into(), tokens.max.into()];
    let sizes = sizes.map(|size| size.to_string());
    let mut rows = vec![
        vec![Word::DataFormat.text().to_owned(), checked.file.format.map_or("–", name).to_owned()],
        vec![
            Word::DataRows.text().to_owned(),
            Word::DataRowsOf.with(&[&checked.rows.to_string(), &checked.bad_rows.to_string()]),
        ],
        vec![Word::DataTokens.text().to_owned(), Word::DataTokensOf.with(&sizes.each_ref().map(String::as_str))],
        vec![Word::DataLearnt.text().to_owned(), Word::DataLearntOf.with(&[&tokens.learnt.to_string(), &share])],
        vec![Word::DataLong.with(&[&length.to_string()]), lines(&checked.long, checked.long_rows)],
        vec![Word::DataSame.text().to_owned(), lines(&checked.same, checked.same_rows)],
        vec!["SHA-256".to_owned(), checked.file.sha256.to_string()],
    ];
    if checked.rows > 0 {
        let (time, rate) = (output::clock(estimate.seconds.ceil()), format!("{:.0}", estimate.tokens_per_second));
        let epochs = estimate.epochs.to_string();
        let word = match estimate.from {
            From::Given => Word::DataTimeGiven,
            From::LastJob => Word::DataTimeLast,
            From::Measured => Word::DataTimeMeasured,
        };
        rows.push(vec![Word::DataTime.text().to_owned(), word.with(&[&time, &epochs, &rate])]);
    }
    output::table(&rows);
}

fn document(checked: &Checked, estimate: &Estimate, model: &str, length: usize) -> serde_json::Value {
    let bad = checked.bad.iter().map(|bad| json!({ "line": bad.line, "reason": said(&bad.reason) }));
    json!({
        "path": checked.file.path,
        "sha256": checked.file.sha256.to_string(),
        "size_bytes": checked.file.bytes,
        "format": checked.file.format.map(Format::name),
        "model": model,
        "rows": checked.rows,
        "bad_rows": checked.bad_rows,
        "bad": bad.collect::<Vec<_>>(),
        "examples": checked.examples,
        "tokens": {
            "total": checked.tokens.total,
            "learnt": checked.tokens.learnt,
            "min": checked.tokens.min,
            "median": checked.tokens.median,
            "p95": checked.tokens.p95,
            "max": checked.tokens.max,
        },
        "length": length,
        "longer": { "rows": checked.long_rows, "first_lines": checked.long },
        "same": { "rows": checked.same_rows, "first_lines": checked.same },
        "estimate": {
            "epochs": estimate.epochs,
            "tokens_per_second": estimate.tokens_per_second,
            "tokens_per_second_from": match estimate.from {
                From::Given => "given",
                From::LastJob => "last_job",
                From::Measured => "measured",
            },
            "seconds": estimate.seconds,
        },
    })
}

fn name(format: Format) -> &'static str {
    match format {
        Format::Text => Word::FormatText.text(),
        Format::Chat => Word::FormatChat.text(),
        Format::Completion => Word::FormatCompletion.text(),
        Format::Alpaca => "Alpaca",
        Format::ShareGpt => "ShareGPT",
        Format::Preference => Word::FormatPreference.text(),
    }
}

fn said(reason: &Reason) -> String {
    match reason {
        Reason::NotUtf8 { byte } => Word::BadUtf8.with(&[&byte.to_string()]),
        Reason::TooLong { most_bytes } => Word::BadTooLong.with(&[&output::bytes(*most_bytes as u64)]),
        Reason::NotJson { detail } => Word::BadJson.with(&[detail]),
        Reason::NotObject => Word::BadNotObject.text().to_owned(),
        Reason::UnknownFormat { keys } => Word::BadFormat.with(&[keys]),
        Reason::OtherFormat { found, expected } => Word::BadOtherFormat.with(&[name(*found), name(*expected)]),
        Reason::Missing { field } => Word::BadMissing.with(&[field]),
        Reason::WrongType { field, expected } => Word::BadType.with(&[field, expected]),
        Reason::Empty { field } => Word::BadEmpty.with(&[field]),
        Reason::UnknownRole { field, found, known } => Word::BadRole.with(&[field, found, known]),
        Reason::UnknownPart { field, found } => Word::BadPart.with(&[field, found]),
        Reason::BadWeight { field } => Word::BadWeight.with(&[field]),
        Reason::MisplacedWeight { field } => Word::BadWeightPlace.with(&[field]),
        Reason::EndsWithoutAnswer { role } => Word::BadEnd.with(&[role]),
        Reason::BadArguments { field } => Word::BadArguments.with(&[field]),
        Reason::UnknownTool { field, name } => Word::BadTool.with(&[field, name]),
        Reason::SameTool { field, name } => Word::BadToolTwice.with(&[field, name]),
        Reason::AnswersNoCall { field } => Word::BadNoCall.with(&[field]),
        Reason::UnansweredCalls { field } => Word::BadUnanswered.with(&[field]),
        Reason::SameAnswers => Word::BadSameAnswers.text().to_owned(),
        Reason::NothingToLearn => Word::BadNothing.text().to_owned(),
        Reason::NotRendered { detail } => Word::BadRendered.with(&[detail]),
        other => other.to_string(),
    }
}

/// More are counted, not told.
const MOST_BAD_LINES: usize = 100_000;
