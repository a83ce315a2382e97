//! `falaj model …`: pull, import, list, inspect, verify, remove. Writing models in other forms is in `export.rs` and `optimize.rs`.

use crate::args::{List, ModelCommand, Pull};
use crate::builtin;
use crate::chat;
use crate::context::Context;
use crate::data_dir;
use crate::export;
use crate::failure::{Failure, OrFail, Outcome};
use crate::hub::{Check, Hub, Listing, RemoteFile, Repository, select};
use crate::inspect;
use crate::optimize;
use crate::outline::builtin_manifest;
use crate::output;
use crate::progress::Bar;
use crate::serving::{base_of, catalog, models_dir, name_of_path};
use crate::talk::Server;
use crate::words::Word;
use falaj_artifact::{ArtifactError, Catalog, Digest, Import, Manifest};
use serde_json::json;
use std::fs;
use std::path::Path;

pub fn models(context: &Context, command: ModelCommand) -> Outcome {
    match command {
        ModelCommand::Pull(options) => pull(context, &options),
        ModelCommand::Import { path, name, base } => import(context, &path, name, base.as_deref()),
        ModelCommand::Export(options) => export::export(context, &options),
        ModelCommand::Optimize(options) => optimize::optimize(context, &options),
        ModelCommand::List(options) => match &options.url {
            Some(url) => list_of_server(context, &options, url),
            None => list(context),
        },
        ModelCommand::Inspect { model } => inspect::inspect(context, &model),
        ModelCommand::Verify { models } => verify(context, models),
        ModelCommand::Remove { model } => remove(context, &model),
    }
}

fn pull(context: &Context, options: &Pull) -> Outcome {
    let repository = Repository::parse(&options.repository)?;
    let name = options.name.clone().unwrap_or_else(|| repository.default_name());
    let catalog = open_for_writing(context)?;
    refuse_taken(&catalog, &name)?;
    let hub = Hub::new(&context.config.hub)?;
    let listing = hub.list(&repository, &options.revision)?;
    let files = select(&repository, &listing.files)?;

    // The commit is part of the place: a branch that moved on must not be glued to what an earlier pull left.
    let stage = context.config.data.join("pulls").join(repository.name.replace('/', "+")).join(&listing.commit);
    data_dir::create(&stage)?;
    let total_bytes = files.iter().map(|file| file.size_bytes).sum();
    refuse_full_disk(&stage, &files, total_bytes)?;
    let mut done_bytes = 0;
    for file in &files {
        // A named file may lie in a folder of the repository; the catalog's models are flat.
        let base = base_name(file);
        let bar = Bar::new(base);
        let to = stage.join(base);
        hub.download(&repository, &listing.commit, file, &to, &mut |here| bar.set(done_bytes + here, total_bytes))?;
        done_bytes += file.size_bytes;
    }
    let manifest = import_pulled(&catalog, &stage, &name, &repository, &listing, &files)?;
    // The catalog has its own links to the bytes by now.
    fs::remove_dir_all(&stage).or_fail(|| format!("`{}`", stage.display()))?;
    report_added(context, &manifest);
    Ok(())
}

/// What a file of the repository is called here.
fn base_name(file: &RemoteFile) -> &str {
    file.path.rsplit('/').next().unwrap_or(&file.path)
}

fn import_pulled(
    catalog: &Catalog,
    stage: &Path,
    name: &str,
    repository: &Repository,
    listing: &Listing,
    files: &[RemoteFile],
) -> Outcome<Manifest> {
    let from = match &repository.file {
        Some(file) => stage.join(file.rsplit('/').next().unwrap_or(file)),
        None => stage.to_owned(),
    };
    let mut import = Import::new(&from, name);
    import.source = Some(format!("{}@{}", repository.name, listing.commit));
    import.license.clone_from(&listing.license);
    import.expected = files
        .iter()
        .filter_map(|file| match &file.check {
            Check::Sha256(hex) => Some((base_name(file).to_owned(), hex.parse::<Digest>().ok()?)),
            _ => None,
        })
        .collect();
    let bar = Bar::new(&Word::ModelImporting.with(&[name]));
    Ok(catalog.import_with(&import, &mut |progress| bar.show(&progress))?)
}

fn import(context: &Context, path: &Path, name: Option<String>, base: Option<&str>) -> Outcome {
    let name = name.unwrap_or_else(|| name_of_path(path));
    let catalog = open_for_writing(context)?;
    refuse_taken(&catalog, &name)?;
    let bar = Bar::new(&Word::ModelImporting.with(&[&name]));
    let import = Import { base: base_of(&context.config, path, base)?, ..Import::new(path, &name) };
    let manifest = catalog.import_with(&import, &mut |progress| bar.show(&progress))?;
    drop(bar);
    report_added(context, &manifest);
    Ok(())
}

fn list(context: &Context) -> Outcome {
    let mut manifests = vec![builtin_manifest()?];
    if let Some(catalog) = catalog(&context.config)? {
        let listing = catalog.list()?;
        for fault in &listing.broken {
            output::note(&format!("{} {fault}", Word::Error.text()));
        }
        manifests.extend(listing.models);
    }
    if context.json {
        let models: Vec<_> = manifests.iter().map(summary).collect();
        output::pretty_json(&json!({ "models": models }));
        return Ok(());
    }
    let mut rows = Vec::new();
    for manifest in &manifests {
        let dtypes: Vec<_> = manifest.dtypes.keys().map(String::as_str).collect();
        rows.push(vec![
            manifest.name.clone(),
            manifest.architecture.clone(),
            output::parameters(manifest.parameters),
            dtypes.join(" "),
            output::bytes(manifest.size_bytes()),
            manifest.source.clone().unwrap_or_default(),
        ]);
    }
    output::table(&rows);
    if manifests.len() == 1 {
        output::note(Word::ModelNoneHere.text());
    }
    Ok(())
}

/// What a running server has in memory, and what it could load.
fn list_of_server(context: &Context, options: &List, url: &str) -> Outcome {
    let key = chat::key(context, None, options.key_file.as_deref(), url)?;
    let cards = Server::new(url, key.as_deref())?.cards()?;
    if context.json {
        let models =
            cards.iter().map(|card| json!({ "name": card.id, "state": card.state, "memory_bytes": card.memory_bytes }));
        output::pretty_json(&json!({ "models": models.collect::<Vec<_>>() }));
        return Ok(());
    }
    let rows = cards.iter().map(|card| {
        let state = match card.state.as_str() {
            "loaded" => Word::StateLoaded.text(),
            "loading" => Word::StateLoading.text(),
            "leaving" => Word::StateLeaving.text(),
            "on_disk" => Word::StateOnDisk.text(),
            other => other,
        };
        vec![output::printable(&card.id), state.to_owned(), output::bytes(card.memory_bytes)]
    });
    output::table(&rows.collect::<Vec<_>>());
    Ok(())
}

fn verify(context: &Context, mut names: Vec<String>) -> Outcome {
    let catalog = catalog(&context.config)?;
    if names.is_empty() {
        names.push(builtin::NAME.to_owned());
        if let Some(catalog) = &catalog {
            names.extend(catalog.list()?.models.into_iter().map(|manifest| manifest.name));
        }
    }
    let mut faults = Vec::new();
    let mut reports = Vec::new();
    for name in &names {
        let found = verify_one(catalog.as_ref(), name)?;
        reports.push(json!({ "model": name, "ok": found.is_empty(), "faults": found }));
        if found.is_empty() && !context.json {
            output::line(&Word::ModelVerified.with(&[name]));
        }
        faults.extend(found.into_iter().map(|fault| format!("{name}: {fault}")));
    }
    if context.json {
        output::pretty_json(&json!({ "models": reports }));
    }
    if faults.is_empty() { Ok(()) } else { Err(Failure::new(faults.join("\n")).next(Word::ModelTamperedNext.text())) }
}

fn verify_one(catalog: Option<&Catalog>, name: &str) -> Outcome<Vec<String>> {
    if name == builtin::NAME {
        builtin::files()?;
        return Ok(Vec::new());
    }
    let catalog = catalog.ok_or_else(|| unknown(name))?;
    let bar = Bar::new(&Word::ModelHashing.with(&[name]));
    match catalog.verify(name, &mut |progress| bar.show(&progress)) {
        Ok(report) => Ok(report.faults.iter().map(ToString::to_string).collect()),
        Err(ArtifactError::UnknownModel { .. }) => Err(unknown(name)),
        Err(error) => Err(error.into()),
    }
}

fn remove(context: &Context, name: &str) -> Outcome {
    if name == builtin::NAME {
        return Err(Failure::usage(Word::ModelBuiltin.with(&[name])));
    }
    let catalog = catalog(&context.config)?.ok_or_else(|| unknown(name))?;
    // A model with a broken manifest can be removed too; only its size is not known.
    let size_bytes = catalog.find(name).map_or(0, |manifest| manifest.size_bytes());
    match catalog.remove(name) {
        Ok(()) => {}
        Err(ArtifactError::UnknownModel { .. }) => return Err(unknown(name)),
        Err(error) => return Err(error.into()),
    }
    if context.json {
        output::pretty_json(&json!({ "removed": name, "size_bytes": size_bytes }));
    } else {
        output::line(&Word::ModelRemoved.with(&[name, &output::bytes(size_bytes)]));
    }
    Ok(())
}

fn report_added(context: &Context, manifest: &Manifest) {
    if context.json {
        output::pretty_json(&summary(manifest));
    } else {
        output::line(&Word::ModelImported.with(&[&manifest.name]));
    }
}

pub fn summary(manifest: &Manifest) -> serde_json::Value {
    json!({
        "name": manifest.name,
        "architecture": manifest.architecture,
        "format": manifest.format,
        "parameters": manifest.parameters,
        "dtypes": manifest.dtypes,
        "size_bytes": manifest.size_bytes(),
        "source": manifest.source,
        "license": manifest.license,
        "base": manifest.base,
        "digest": manifest.digest().to_string(),
    })
}

pub fn open_for_writing(context: &Context) -> Outcome<Catalog> {
    data_dir::create(&context.config.data)?;
    Ok(Catalog::open(&models_dir(&context.config))?)
}

/// Before gigabytes move rather than after.
pub fn refuse_taken(catalog: &Catalog, name: &str) -> Outcome {
    if name == builtin::NAME {
        return Err(Failure::usage(Word::ModelBuiltin.with(&[name])).next(Word::ModelBuiltinNext.text()));
    }
    if catalog.path(name)?.exists() {
        return Err(ArtifactError::ModelExists { name: name.to_owned() }.into());
    }
    Ok(())
}

fn refuse_full_disk(stage: &Path, files: &[RemoteFile], total_bytes: u64) -> Outcome {
    let here = |file: &RemoteFile| {
        let path = stage.join(base_name(file));
        let part = path.with_file_name(format!("{}.part", path.file_name().unwrap_or_default().to_string_lossy()));
        fs::metadata(path).or_else(|_| fs::metadata(part)).map_or(0, |about| about.len())
    };
    let missing_bytes = total_bytes.saturating_sub(files.iter().map(here).sum());
    let free_bytes = free_bytes(stage)?;
    if missing_bytes > free_bytes {
        let gaps = [&*output::bytes(missing_bytes), &output::bytes(free_bytes), &stage.display().to_string()];
        return Err(Failure::new(Word::PullNoSpace.with(&gaps)).next(Word::PullNoSpaceNext.text()));
    }
    Ok(())
}

/// Free for this user on the disk that holds `path`.
pub fn free_bytes(path: &Path) -> Outcome<u64> {
    let about = rustix::fs::statvfs(path).or_fail(|| format!("`{}`", path.display()))?;
    Ok(about.f_bavail.saturating_mul(about.f_frsize))
}

fn unknown(name: &str) -> Failure {
    let cause = Word::ModelUnknown.with(&[&name.escape_debug().to_string()]);
    Failure::new(cause).next(Word::ModelUnknownNext.text())
}
