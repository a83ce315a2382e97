//! `falaj model export`: a model in another format, for other programs, or with an adapter merged into it. What formats are and how
//! the result is checked, `falaj_train` knows.

use std::fs;
use std::path::{Path, PathBuf};

use falaj_kernels::Pool;
use falaj_train::ExportFormat;
use serde_json::json;

use crate::args::Export;
use crate::context::Context;
use crate::failure::{Failure, OrFail, Outcome};
use crate::models::free_bytes;
use crate::output;
use crate::progress::Bar;
use crate::serving::{self, Place};
use crate::words::Word;

pub fn export(context: &Context, options: &Export) -> Outcome {
    let out = &options.out;
    let is_gguf = out.extension().is_some_and(|extension| extension == "gguf");
    let format = format(options.format.as_deref(), is_gguf);
    let refuse = |word: Word| Failure::usage(word.with(&[&out.display().to_string()])).next(Word::ExportOutNext.text());
    if is_gguf == (format == ExportFormat::Safetensors) {
        return Err(refuse(if is_gguf { Word::ExportOutIsFile } else { Word::OptimizeOutBad }));
    }
    if out.exists() {
        return Err(refuse(Word::ExportOutTaken));
    }
    let place = Place::find(&context.config, &options.model)?;
    let (files, manifest) = serving::verified(&context.config, &place)?;
    let dir = out.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(dir).or_fail(|| format!("`{}`", dir.display()))?;
    let (need_bytes, free_bytes) = (manifest.parameters.saturating_mul(bits(format)) / 8, free_bytes(dir)?);
    if need_bytes > free_bytes {
        let gaps = [&*output::bytes(need_bytes), &output::bytes(free_bytes), &dir.display().to_string()];
        return Err(Failure::new(Word::PullNoSpace.with(&gaps)).next(Word::PullNoSpaceNext.text()));
    }
    let bar = Bar::new(&Word::ModelExporting.with(&[&out.display().to_string()]));
    let threads = context.config.engine.options.threads.min(Pool::available_threads());
    let write =
        |target: &Path| falaj_train::convert(&files, options.adapter.as_deref(), &place.id(), format, target, threads);
    let distance = if is_gguf {
        // Made as a folder, of which only the file is wanted.
        let name = out.file_name().unwrap_or_default().to_string_lossy();
        let folder: PathBuf = out.with_file_name(format!(".{name}.{}", std::process::id()));
        let written = write(&folder).map_err(Failure::from).and_then(|distance| {
            fs::rename(folder.join("model.gguf"), out).or_fail(|| format!("`{}`", out.display()))?;
            Ok(distance)
        });
        // Also where it failed; the first error is the one to tell.
        let _ = fs::remove_dir_all(&folder);
        written?
    } else {
        write(out)?
    };
    drop(bar);
    if context.json {
        output::pretty_json(
            &json!({ "model": place.id(), "path": out, "format": format.name(), "logits_off": distance }),
        );
    } else {
        let path = out.display().to_string();
        output::line(&Word::ModelExported.with(&[format.name(), &path, &format!("{distance:.4}")]));
    }
    Ok(())
}

/// By name, else by what the path ends in.
fn format(name: Option<&str>, is_gguf: bool) -> ExportFormat {
    match name {
        Some("f16") => ExportFormat::GgufF16,
        Some("q8_0") => ExportFormat::GgufQ8_0,
        Some("q4_0") => ExportFormat::GgufQ4_0,
        Some("q4_k_m") => ExportFormat::GgufQ4KM,
        Some(_) => ExportFormat::Safetensors,
        None if is_gguf => ExportFormat::GgufF16,
        None => ExportFormat::Safetensors,
    }
}

/// About, for each parameter.
fn bits(format: ExportFormat) -> u64 {
    match format {
        ExportFormat::Safetensors | ExportFormat::GgufF16 | ExportFormat::Peft => 16,
        ExportFormat::GgufQ8_0 => 9,
        ExportFormat::GgufQ4_0 | ExportFormat::GgufQ4KM => 5,
    }
}
