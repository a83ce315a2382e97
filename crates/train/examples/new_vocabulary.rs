//! `new_vocabulary BASE.gguf OUT.gguf TOKENS FILE…`: learns a vocabulary that is fair to the languages of the files (one file each) and
//! writes it into a GGUF with the control tokens and the chat template of BASE: what `[model] tokenizer` of a recipe can name. The
//! weights of OUT are tiny and mean nothing.

use std::error::Error;
use std::fs::{self, File};
use std::path::PathBuf;

use falaj_artifact::gguf::{Array, Gguf, StringArray, Value};
use falaj_kernels::{Format, Ops, RopeLayout};
use falaj_model::export::Source;
use falaj_model::synthetic::tiny_config;
use falaj_train::data::{VocabularyPlan, vocabulary};
use serde_json::Value as Json;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [base, out, tokens, files @ ..] = &arguments[..] else {
        return Err("usage: new_vocabulary BASE.gguf OUT.gguf TOKENS FILE…".into());
    };
    let files: Vec<PathBuf> = files.iter().map(PathBuf::from).collect();
    let vocab_size = tokens.parse()?;
    let learnt = vocabulary(&files, &VocabularyPlan { vocab_size, ..VocabularyPlan::default() })?;
    for share in &learnt.shares {
        println!("{}: {} bytes, {:.3} bytes per token", share.path.display(), share.bytes, share.bytes_per_token);
    }
    println!("spread {:.3}", learnt.spread);

    let text = String::from_utf8(learnt.file)?;
    let file: Json = serde_json::from_str(&text)?;
    let vocab = file["model"]["vocab"].as_object().ok_or("a vocabulary")?;
    let mut entries: Vec<(&str, u64)> =
        vocab.iter().map(|(token, id)| (token.as_str(), id.as_u64().unwrap_or(0))).collect();
    entries.sort_by_key(|(_, id)| *id);
    let merges = file["model"]["merges"].as_array().ok_or("merges")?;
    let merge = |merge: &Json| match merge {
        Json::Array(pair) => pair.iter().filter_map(Json::as_str).collect::<Vec<_>>().join(" "),
        other => other.as_str().unwrap_or_default().to_owned(),
    };
    let bytes = fs::read(base)?;
    let base = Gguf::parse(&bytes)?;
    // The control tokens come first, as in the base.
    let controls = VocabularyPlan::default().controls.len();
    let kind = |at: usize| {
        if at == 0 {
            2
        } else if at < controls {
            3
        } else {
            1
        }
    };
    let strings = |list: StringArray| Value::Array(Box::new(Array::Strings(list)));
    let metadata: Vec<(String, Value)> = base
        .metadata
        .iter()
        .filter(|(key, _)| key.starts_with("tokenizer.") || key.as_str() == "general.license")
        .map(|(key, value)| {
            let value = match key.as_str() {
                "tokenizer.ggml.tokens" => strings(entries.iter().map(|(token, _)| *token).collect()),
                "tokenizer.ggml.token_type" => {
                    Value::Array(Box::new(Array::I32((0..entries.len()).map(kind).collect())))
                }
                "tokenizer.ggml.merges" => strings(merges.iter().map(merge).collect()),
                "tokenizer.huggingface.json" => Value::String(text.clone()),
                _ => value.clone(),
            };
            (key.clone(), value)
        })
        .collect();
    let config = tiny_config(vocab_size, 32);
    let shape = |slot: falaj_model::Slot| vec![0.0; slot.shape(&config).iter().product()];
    let source = Source { config: &config, layout: RopeLayout::Halves, values: shape };
    source.write_gguf(&Ops::best(), &metadata, |_| Format::F16, File::create(out)?)?;
    Ok(())
}
