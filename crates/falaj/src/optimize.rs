//! `falaj model optimize`: writes a model in the form that needs no repacking at load, into the catalog or to a file. What
//! that form is, `falaj_model::optimize` knows.

use crate::args::Optimize;
use crate::context::Context;
use crate::data_dir;
use crate::failure::{Failure, OrFail, Outcome};
use crate::models::{free_bytes, open_for_writing, refuse_taken, summary};
use crate::output;
use crate::progress::Bar;
use crate::serving::{self, Place};
use crate::words::Word;
use falaj_artifact::Manifest;
use serde_json::json;
use std::fs;
use std::path::Path;

pub fn optimize(context: &Context, options: &Optimize) -> Outcome {
    let place = Place::find(&context.config, &options.model)?;
    let (id, config) = (place.id(), &context.config);
    if let Some(out) = &options.out {
        if out.extension().is_none_or(|extension| extension != "gguf") {
            let cause = Word::OptimizeOutBad.with(&[&out.display().to_string()]);
            return Err(Failure::usage(cause).next(Word::OptimizeOutBadNext.text()));
        }
        let size_bytes = write(context, &place, out)?;
        if context.json {
            output::pretty_json(&json!({ "model": id, "path": out, "size_bytes": size_bytes }));
        } else {
            output::line(&Word::OptimizedFile.with(&[&out.display().to_string()]));
        }
        return Ok(());
    }
    // The catalog's copy is a link to what is written here, on the same disk.
    let name = options.name.clone().unwrap_or_else(|| format!("{id}-panels"));
    let catalog = open_for_writing(context)?;
    refuse_taken(&catalog, &name)?;
    let stage = config.data.join("pulls").join(format!("{name}.optimize"));
    data_dir::create(&stage)?;
    let file = stage.join(format!("{name}.gguf"));
    let imported = write(context, &place, &file).and_then(|_| {
        let bar = Bar::new(&Word::ModelImporting.with(&[&name]));
        Ok(catalog.import(&file, &name, &mut |progress| bar.show(&progress))?)
    });
    // Also where it failed: half a model is of no use.
    fs::remove_dir_all(&stage).or_fail(|| format!("`{}`", stage.display()))?;
    let manifest: Manifest = imported?;
    if context.json {
        output::pretty_json(&summary(&manifest));
    } else {
        output::line(&Word::OptimizedModel.with(&[&manifest.name]));
    }
    Ok(())
}

/// Returns the size of the file.
fn write(context: &Context, place: &Place, out: &Path) -> Outcome<u64> {
    let (files, manifest) = serving::verified(&context.config, place)?;
    let dir = out.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let (need_bytes, free_bytes) = (manifest.size_bytes(), free_bytes(dir)?);
    if need_bytes > free_bytes {
        let gaps = [&*output::bytes(need_bytes), &output::bytes(free_bytes), &dir.display().to_string()];
        return Err(Failure::new(Word::PullNoSpace.with(&gaps)).next(Word::PullNoSpaceNext.text()));
    }
    let bar = Bar::new(&Word::ModelOptimizing.with(&[&place.id()]));
    falaj_model::optimize(&files, out, &mut |progress| bar.show(&progress))?;
    Ok(fs::metadata(out).or_fail(|| format!("`{}`", out.display()))?.len())
}
