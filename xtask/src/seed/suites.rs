//! Development suites in the form that `falaj eval` reads: drawn as the training rows are, from other draws, half of them with ways to
//! ask that training never sees. They steer the training; what is reported is measured on suites that this generator cannot make.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::Result;
use serde_json::{Value, json};

use super::Material;
use super::chance::Chance;
use super::grounded::{ABSTAIN, Grounded};
use super::phrases::{Language, Side};
use super::spans::Level;
use super::tools::Outcome;

pub fn write(material: &Material, folder: &Path, seed: u64, each: usize) -> Result<()> {
    fs::create_dir_all(folder)?;
    let suite = |name: &str, rows: Vec<String>| -> Result<()> {
        let mut file = BufWriter::new(File::create(folder.join(format!("{name}.jsonl")))?);
        let abstain: serde_json::Map<String, Value> = Language::ALL
            .iter()
            .map(|language| (language.code().to_owned(), Value::from(ABSTAIN[*language as usize])))
            .collect();
        writeln!(file, "{}", json!({ "suite": format!("falaj-seed-dev-{name}"), "abstain": abstain }))?;
        rows.iter().try_for_each(|row| writeln!(file, "{row}"))?;
        Ok(file.flush()?)
    };
    let (mut grounded, mut spans, mut tools) = (Vec::new(), Vec::new(), Vec::new());
    let (mut small, mut books) = (Vec::new(), Vec::new());
    for language in Language::ALL {
        let code = language.code();
        let mut chance = Chance::new(seed, &format!("development {code}"));
        for _ in 0..3 * each {
            let one = material.grounded(&mut chance, Side::Development, language);
            let group = if one.answer.is_some() { "answered" } else { "not answered" };
            grounded.push(grounded_row(&one, code, group));
        }
        let mut other = Chance::new(seed, &format!("development spans {code}"));
        for level in Level::ALL {
            for _ in 0..each {
                let talk = material.spans(&mut other, Side::Development, language, level);
                spans.push(grounded_row(&talk.first(), code, level.name()));
            }
        }
        for _ in 0..3 * each {
            let talk = material.tool_talk(&mut chance, Side::Development, language);
            let asked = Value::from(talk.asked);
            let (group, expected) = match talk.outcome {
                Outcome::Call { name, arguments, .. } => {
                    let expected = format!("{{\"name\": \"{name}\", \"arguments\": {arguments}}}");
                    (name, expected)
                }
                Outcome::Words(_) => ("none".to_owned(), "null".to_owned()),
            };
            tools.push(format!(
                "{{\"task\": \"tool_call\", \"language\": \"{code}\", \"group\": \"{group}\", \"messages\": [{{\"role\": \"user\", \
                 \"content\": {asked}}}], \"tools\": {}, \"expected\": {expected}}}",
                talk.tools
            ));
        }
        for (group, make) in
            [("task", Material::task as Make), ("copying", Material::copying), ("falaj", Material::fact)]
        {
            for _ in 0..each {
                let (asked, told) = make(material, &mut chance, Side::Development, language);
                let messages = json!([{ "role": "user", "content": asked }]);
                let row = json!({ "task": "exact_match", "language": code, "group": group, "messages": messages, "answers": [told] });
                small.push(row.to_string());
            }
        }
        for paragraphs in material.book(language).held.chunks(8).take(each) {
            let row =
                json!({ "task": "perplexity", "language": code, "group": "books", "text": paragraphs.join("\n") });
            books.push(row.to_string());
        }
    }
    suite("grounded", grounded)?;
    suite("spans", spans)?;
    suite("tools", tools)?;
    suite("small", small)?;
    suite("books", books)
}

fn grounded_row(one: &Grounded, code: &str, group: &str) -> String {
    let mut row = json!({ "task": "grounded", "language": code, "passages": one.passages, "question": one.question });
    row["answers"] = one.answer.iter().map(|(span, _)| Value::from(span.as_str())).collect();
    if let Some((_, passage)) = &one.answer {
        row["passage"] = json!(passage);
    }
    row["group"] = json!(group);
    row.to_string()
}

type Make = fn(&Material, &mut Chance, Side, Language) -> (String, String);
