//! Adapters of the catalog: which base one is for, its card, and how it comes into the engine of its base.

use super::{Place, catalog, models_dir};
use crate::builtin;
use crate::config::Config;
use crate::failure::{Failure, Outcome};
use crate::progress::Bar;
use crate::words::Word;
use falaj_artifact::{AdapterConfig, Base, Catalog, Layout, Manifest};
use falaj_model::{Adapter, ModelError};
use falaj_server::{Facts, Served};
use falaj_train::Record;
use std::path::Path;

/// The base of the adapter in `from`: `named`, or what its own files name; `None` where there is a whole model. The base must
/// be one that requests can name, and what the adapter was made for, as far as its files say.
pub fn base_of(config: &Config, from: &Path, named: Option<&str>) -> Outcome<Option<Base>> {
    let Layout::Adapter { dir, config: settings, .. } = Layout::detect(from)? else { return Ok(None) };
    let settings = AdapterConfig::read(&settings)?;
    let shown = from.display().to_string();
    let Some(name) = named.or(settings.base_name.as_deref()) else {
        return Err(
            Failure::new(Word::AdapterBaseUnknown.with(&[&shown, "?"])).next(Word::AdapterBaseUnknownNext.text())
        );
    };
    let digest = match Place::find(config, name) {
        Ok(Place::Builtin) => Some(builtin::digest()?),
        Ok(Place::Catalog(name)) => match catalog(config)? {
            Some(catalog) => {
                Some(catalog.find(&name)?).filter(|found| found.base.is_none()).map(|found| found.digest())
            }
            None => None,
        },
        Ok(Place::Path(_)) | Err(_) => None,
    };
    let Some(digest) = digest else {
        let cause = Word::AdapterBaseUnknown.with(&[&shown, &name.escape_debug().to_string()]);
        return Err(Failure::new(cause).next(Word::AdapterBaseUnknownNext.text()));
    };
    // Our own trainer says exactly.
    let record = std::fs::read(dir.join(Record::FILE)).ok();
    let record = record.and_then(|bytes| serde_json::from_slice::<Record>(&bytes).ok());
    match record.and_then(|record| record.base_digest) {
        Some(made_for) if made_for != digest.to_string() => {
            Err(Failure::new(Word::AdapterBaseChanged.with(&[&shown, name, &made_for])))
        }
        _ => Ok(Some(Base { name: name.to_owned(), digest })),
    }
}

/// Loads an adapter of the catalog into the engine of its base, which must still be what it was made for.
pub fn load_over(config: &Config, name: &str, base: &Served) -> Outcome<Served> {
    let catalog = Catalog::open(&models_dir(config))?;
    let manifest = catalog.find(name)?;
    let Some(Base { name: base_name, digest }) = &manifest.base else { return Err(ModelError::NotAnAdapter.into()) };
    let model = base.engine.model();
    if model.digest() != Some(*digest) || base.facts.id != *base_name {
        return Err(Failure::new(Word::AdapterBaseChanged.with(&[name, base_name, &digest.to_string()])));
    }
    let bar = Bar::new(&Word::ModelHashing.with(&[name]));
    let files = catalog.load(name, &mut |progress| bar.show(&progress))?;
    let failed = |failure: Failure| failure.while_doing(&format!("`{name}`"));
    let adapter = Adapter::load(&files, model).map_err(|error| failed(error.into()))?;
    let handle = base.engine.load_adapter(adapter).map_err(|error| failed(error.into()))?;
    let memory_bytes = handle.size_bytes() as u64;
    tracing::info!(model = name, base = base_name, memory_bytes, "loaded an adapter");
    Ok(Served::over(base, Facts { memory_bytes, ..facts(&manifest, base_name, Some(&base.facts)) }, handle))
}

/// The card of an adapter: its base's, but for what it is. Without one (the base is gone) it still says which base it needs.
pub fn facts(manifest: &Manifest, base_name: &str, base: Option<&Facts>) -> Facts {
    let parameters = crate::output::parameters(manifest.parameters);
    Facts {
        id: manifest.name.clone(),
        aliases: Vec::new(),
        description: Some(format!("{}, {parameters} parameters, over {base_name}", manifest.architecture)),
        owned_by: "falaj".to_owned(),
        created_s: manifest.created,
        context_tokens: base.map_or(0, |base| base.context_tokens),
        default_temperature: base.and_then(|base| base.default_temperature),
        chat: base.is_some_and(|base| base.chat),
        tools: base.is_some_and(|base| base.tools),
        fill_in_the_middle: base.is_some_and(|base| base.fill_in_the_middle),
        // Files mostly hold four bytes a value, memory two.
        memory_bytes: manifest.parameters.saturating_mul(2),
        base: Some(base_name.to_owned()),
    }
}
