//! `falaj model inspect`: what a model is, as a table or JSON. Reads headers and the manifest, never weights; for a path
//! outside the catalog it also hashes, since nobody did yet.

use crate::context::Context;
use crate::failure::Outcome;
use crate::outline::{Outline, builtin_manifest};
use crate::output;
use crate::progress::Bar;
use crate::serving::{Place, models_dir};
use crate::words::Word;
use falaj_artifact::{Catalog, Layout, Manifest};
use falaj_model::Config;
use serde_json::{Value, json};

pub fn inspect(context: &Context, model: &str) -> Outcome {
    let place = Place::find(&context.config, model)?;
    let (manifest, outline) = match &place {
        Place::Builtin => (builtin_manifest()?, Outline::of_builtin()?),
        Place::Catalog(name) => {
            let catalog = Catalog::open(&models_dir(&context.config))?;
            let layout = Layout::detect(&catalog.path(name)?)?;
            (catalog.find(name)?, Outline::of_layout(&layout)?)
        }
        Place::Path(path) => {
            let bar = Bar::new(&Word::ModelHashing.with(&[model]));
            let manifest = Manifest::of(path, &place.id(), &mut |progress| bar.show(&progress))?;
            (manifest, Outline::of_layout(&Layout::detect(path)?)?)
        }
    };
    if context.json {
        output::pretty_json(&document(&manifest, &outline));
    } else {
        output::table(&rows(&manifest, &outline));
    }
    Ok(())
}

fn document(manifest: &Manifest, outline: &Outline) -> Value {
    let template = outline.template.as_ref().map(|t| json!({ "place": t.place, "tools": t.knows_tools }));
    let files = manifest
        .files
        .iter()
        .map(|file| json!({ "path": file.path, "size_bytes": file.size_bytes, "sha256": file.sha256.to_string() }));
    json!({
        "name": manifest.name,
        "digest": manifest.digest().to_string(),
        "format": manifest.format,
        "architecture": manifest.architecture,
        "parameters": manifest.parameters,
        "dtypes": manifest.dtypes,
        "size_bytes": manifest.size_bytes(),
        "shape": outline.config.as_ref().ok().map(shape),
        "not_runnable_because": outline.config.as_ref().err(),
        "tokenizer": outline.tokenizer,
        "chat_template": template,
        "source": manifest.source,
        "license": manifest.license,
        "base": manifest.base,
        "created": manifest.created,
        "files": files.collect::<Vec<_>>(),
    })
}

fn shape(config: &Config) -> Value {
    json!({
        "context_tokens": config.context_tokens,
        "vocab_size": config.vocab_size,
        "layers": config.layers,
        "hidden_size": config.hidden_size,
        "heads": config.heads,
        "kv_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "ffn_size": config.ffn_size,
        "experts": config.experts.map(|experts| json!({ "count": experts.count, "used": experts.used })),
        "sliding_window": config.sliding_window,
        "tied_head": config.tied_head,
        "cache_bytes_per_token": config.cache_bytes_per_token(CACHE_ELEMENT_BYTES),
    })
}

fn rows(manifest: &Manifest, outline: &Outline) -> Vec<Vec<String>> {
    let mut rows: Vec<Vec<String>> = Vec::new();
    let mut row = |label: &str, value: String| rows.push(vec![label.to_owned(), value]);
    row("name", manifest.name.clone());
    row("digest", manifest.digest().to_string());
    row("architecture", format!("{} ({})", manifest.architecture, manifest.format));
    row("parameters", output::parameters(manifest.parameters));
    let shares = manifest.dtypes.iter().map(|(dtype, &count)| format!("{dtype} {}", output::parameters(count)));
    row("formats", shares.collect::<Vec<_>>().join(", "));
    row("size", output::bytes(manifest.size_bytes()));
    match &outline.config {
        Ok(config) => {
            row("context", format!("{} tokens", config.context_tokens));
            let heads = format!("{} heads, {} for keys, of {}", config.heads, config.kv_heads, config.head_dim);
            row("shape", format!("{} layers of {}, {heads}", config.layers, config.hidden_size));
            match config.experts {
                Some(experts) => {
                    row("feed-forward", format!("{} × {}, {} used", experts.count, config.ffn_size, experts.used));
                }
                None => row("feed-forward", config.ffn_size.to_string()),
            }
            if let Some(window) = config.sliding_window {
                row("sliding window", format!("{window} tokens"));
            }
            row(
                "cache",
                format!("{} per token", output::bytes(config.cache_bytes_per_token(CACHE_ELEMENT_BYTES) as u64)),
            );
        }
        Err(reason) => row("not runnable", reason.clone()),
    }
    row("tokenizer", outline.tokenizer.clone().unwrap_or_else(|| "none found".to_owned()));
    row(
        "chat template",
        match &outline.template {
            Some(template) if template.knows_tools => format!("{}, with tools", template.place),
            Some(template) => template.place.clone(),
            None => "none: completions only".to_owned(),
        },
    );
    if let Some(base) = &manifest.base {
        row("base", format!("{}  {}", base.name, base.digest));
    }
    row("license", manifest.license.clone().unwrap_or_else(|| "not stated".to_owned()));
    row("source", manifest.source.clone().unwrap_or_else(|| "not stated".to_owned()));
    for file in &manifest.files {
        row(&file.path, format!("{}  sha256 {}", output::bytes(file.size_bytes), file.sha256));
    }
    rows
}

/// Keys and values are kept as F16.
const CACHE_ELEMENT_BYTES: usize = 2;
