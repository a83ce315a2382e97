//! From a name to a model that answers: finds it (built in, in the catalog, or a path), verifies it, loads weights and
//! text, starts its engine. Also the server's loader, which does so when a model is first asked for.

mod adapter;
mod draft;
mod size;

use crate::builtin;
use crate::config::Config;
use crate::data_dir;
use crate::failure::{Failure, Outcome};
use crate::outline::{Outline, builtin_manifest};
use crate::progress::Bar;
use crate::words::Word;
use falaj_artifact::gguf::Gguf;
use falaj_artifact::{Catalog, Layout, Manifest, ModelFiles, Verified, plain_name};
use falaj_engine::Engine;
use falaj_kernels::trim_heap;
use falaj_model::{LoadOptions, ModelError};
use falaj_server::{Facts, LoadError, Loader, Served};
use falaj_text::ModelText;
use std::collections::{BTreeMap, HashMap};
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

pub use adapter::base_of;
pub use size::Size;

/// Where a model is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    Builtin,
    Catalog(String),
    Path(PathBuf),
}

impl Place {
    /// A name of the catalog wins over a file of the same name; `./name` means the file.
    pub fn find(config: &Config, text: &str) -> Outcome<Self> {
        if text == builtin::NAME {
            return Ok(Self::Builtin);
        }
        if catalog(config)?.is_some_and(|catalog| catalog.find(text).is_ok()) {
            return Ok(Self::Catalog(text.to_owned()));
        }
        let path = Path::new(text);
        if path.exists() {
            return Ok(Self::Path(path.to_owned()));
        }
        let cause = Word::ModelUnknown.with(&[&text.escape_debug().to_string()]);
        Err(Failure::new(cause).next(Word::ModelUnknownNext.text()))
    }

    /// The name under which requests ask for it.
    pub fn id(&self) -> String {
        match self {
            Self::Builtin => builtin::NAME.to_owned(),
            Self::Catalog(name) => name.clone(),
            Self::Path(path) => name_of_path(path),
        }
    }
}

/// `DATA/models`, if it is there: looking must not create it.
pub fn catalog(config: &Config) -> Outcome<Option<Catalog>> {
    let dir = models_dir(config);
    Ok(if dir.is_dir() { Some(Catalog::open(&dir)?) } else { None })
}

pub fn models_dir(config: &Config) -> PathBuf {
    config.data.join("models")
}

/// A catalog name for a file or folder: its last part, without `.gguf`, other characters replaced; `model` where nothing
/// remains, as of an Arabic name.
pub fn name_of_path(path: &Path) -> String {
    let absolute = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let base = absolute.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let base = base.strip_suffix(".gguf").unwrap_or(&base);
    match plain_name(base, '-').trim_matches(['.', '-', '_']) {
        "" => "model".to_owned(),
        name => name.to_owned(),
    }
}

/// Loads a model and starts its engine; of an adapter, its base's. Shows progress where somebody watches.
pub fn load(config: &Config, place: &Place) -> Outcome<Served> {
    let never = AtomicBool::new(false);
    let base = match place {
        Place::Catalog(name) => Catalog::open(&models_dir(config))?.find(name)?.base,
        Place::Builtin | Place::Path(_) => None,
    };
    match base {
        None => load_unless(config, place, &never),
        Some(base) => {
            let base = load_unless(config, &Place::find(config, &base.name)?, &never)?;
            adapter::load_over(config, &place.id(), &base)
        }
    }
}

/// Gives up between stages once `cancelled` is set.
fn load_unless(config: &Config, place: &Place, cancelled: &AtomicBool) -> Outcome<Served> {
    let id = place.id();
    let go_on = || match cancelled.load(Ordering::Acquire) {
        true => Err(Failure::new(Word::ModelLoadCancelled.text())),
        false => Ok(()),
    };
    let mut watch = Stopwatch::start();
    let (files, manifest) = verified(config, place)?;
    let digests = watch.lap();
    go_on()?;
    // Beside each other: a large vocabulary takes one core as long as the weights take all.
    let (words, model) = std::thread::scope(|scope| {
        let words = scope.spawn(|| Ok::<_, Failure>((text(&files)?, outline(&files)?)));
        let options = LoadOptions { isa: Some(config.engine.isa), ..LoadOptions::default() };
        let model = falaj_model::load(&files, options);
        (words.join().unwrap_or_else(|panic| resume_unwind(panic)), model)
    });
    let (text, outline) = words.map_err(|failure| failure.while_doing(&format!("`{id}`")))?;
    let model = model.map_err(|error| Failure::from(error).while_doing(&format!("`{id}`")))?;
    let weights = watch.lap();
    // Reading a vocabulary leaves several times what it keeps.
    trim_heap();
    go_on()?;
    let draft = draft::load(config, &id, &text.tokenizer).map_err(|failure| failure.while_doing(&format!("`{id}`")))?;
    go_on()?;
    let engine = Engine::start_with_draft(Arc::new(model), draft, config.engine.options.clone())?;
    tracing::info!(model = id, ?digests, weights_and_text = ?weights, engine = ?watch.lap(), "loaded");
    let card = facts(config, &manifest, &outline);
    let facts = Facts {
        description: card.description,
        owned_by: card.owned_by,
        created_s: card.created_s,
        default_temperature: card.default_temperature,
        memory_bytes: Size::of(&engine).total_bytes(),
        ..Facts::of(id, &text, engine.context_tokens())
    };
    Ok(Served::new(facts, text, engine))
}

/// Times one stage after the other.
struct Stopwatch(Instant);

impl Stopwatch {
    fn start() -> Self {
        Self(Instant::now())
    }

    fn lap(&mut self) -> Duration {
        let now = Instant::now();
        now - std::mem::replace(&mut self.0, now)
    }
}

/// The files of a model, each of which has the digest that was recorded for it, or was found just now. No adapter.
pub fn verified(config: &Config, place: &Place) -> Outcome<(Verified<ModelFiles>, Manifest)> {
    let (files, manifest) = found(config, place)?;
    match files.layout() {
        Some(Layout::Adapter { .. }) => {
            Err(Failure::from(ModelError::IsAdapter).while_doing(&format!("`{}`", place.id())))
        }
        _ => Ok((files, manifest)),
    }
}

fn found(config: &Config, place: &Place) -> Outcome<(Verified<ModelFiles>, Manifest)> {
    match place {
        Place::Builtin => Ok((builtin::files()?, builtin_manifest()?)),
        Place::Catalog(name) => {
            let catalog = Catalog::open(&models_dir(config))?;
            let bar = Bar::new(&Word::ModelHashing.with(&[name]));
            let files = catalog.load(name, &mut |progress| bar.show(&progress))?;
            Ok((files, catalog.find(name)?))
        }
        Place::Path(path) => {
            // Nobody vouched for these files but whoever named them; their digests are what the answer came from.
            let bar = Bar::new(&Word::ModelHashing.with(&[&path.display().to_string()]));
            // Digests are remembered where there is a place for it; without one the model is only slower to start.
            let _ = data_dir::create(&config.data);
            let memory = config.data.join("digests.json");
            Ok(Verified::as_found_before(path, &place.id(), &memory, &mut |progress| bar.show(&progress))?)
        }
    }
}

pub fn text(files: &Verified<ModelFiles>) -> Outcome<ModelText> {
    Ok(match files.layout() {
        None => ModelText::from_gguf(&Gguf::parse(files.embedded().unwrap_or_default())?)?,
        Some(Layout::Gguf(path)) => ModelText::from_gguf(&Gguf::open(path)?)?,
        Some(layout) => ModelText::from_dir(layout.dir(), &files.names().map(str::to_owned).collect())?,
    })
}

pub fn outline(files: &Verified<ModelFiles>) -> Outcome<Outline> {
    files.layout().map_or_else(Outline::of_builtin, Outline::of_layout)
}

fn facts(config: &Config, manifest: &Manifest, outline: &Outline) -> Facts {
    let formats: Vec<_> = manifest.dtypes.keys().map(String::as_str).collect();
    let parameters = crate::output::parameters(manifest.parameters);
    Facts {
        id: manifest.name.clone(),
        aliases: Vec::new(),
        description: Some(format!("{}, {parameters} parameters, {}", manifest.architecture, formats.join(" and "))),
        owned_by: "falaj".to_owned(),
        created_s: manifest.created,
        context_tokens: outline.config.as_ref().map_or(0, |config| config.context_tokens),
        default_temperature: outline.temperature,
        chat: outline.template.is_some(),
        tools: outline.template.as_ref().is_some_and(|template| template.knows_tools),
        fill_in_the_middle: false,
        memory_bytes: memory_bytes(config, &manifest.name, outline, manifest.size_bytes()),
        base: None,
    }
}

fn memory_bytes(config: &Config, id: &str, outline: &Outline, file_bytes: u64) -> u64 {
    let size = |model| {
        let draft = draft::outline(config, id);
        let draft = draft.as_ref().map(|(draft, file_bytes, _)| (draft, *file_bytes));
        Size::estimate(model, draft, &config.engine.options, file_bytes).total_bytes()
    };
    outline.config.as_ref().map_or(file_bytes, size)
}

/// Lists the built-in model, the catalog as it is now, and the paths that the operator named; loads from them.
pub struct CatalogLoader {
    config: Config,
    /// Cards by model digest: reading a vocabulary's header for each listing would take longer than the listing.
    cards: Mutex<HashMap<String, Facts>>,
    /// By id.
    paths: BTreeMap<String, (PathBuf, Facts)>,
}

impl CatalogLoader {
    pub fn new(config: Config) -> Self {
        Self { config, cards: Mutex::default(), paths: BTreeMap::new() }
    }

    /// Makes a model outside the catalog one that requests may name.
    pub fn add_path(&mut self, place: &Place) -> Outcome {
        let Place::Path(path) = place else { return Ok(()) };
        let layout = Layout::detect(path)?;
        let outline = Outline::of_layout(&layout)?;
        let file_bytes = layout.weights().iter().filter_map(|file| file.metadata().ok()).map(|about| about.len()).sum();
        let facts = Facts {
            id: place.id(),
            aliases: Vec::new(),
            description: None,
            owned_by: "falaj".to_owned(),
            created_s: CREATED_S,
            context_tokens: outline.config.as_ref().map_or(0, |config| config.context_tokens),
            default_temperature: outline.temperature,
            chat: outline.template.is_some(),
            tools: outline.template.as_ref().is_some_and(|template| template.knows_tools),
            fill_in_the_middle: false,
            memory_bytes: memory_bytes(&self.config, &place.id(), &outline, file_bytes),
            base: None,
        };
        self.paths.insert(place.id(), (path.clone(), facts));
        Ok(())
    }

    fn card(&self, manifest: &Manifest, outline: impl FnOnce() -> Outcome<Outline>) -> Option<Facts> {
        let draft = draft::outline(&self.config, &manifest.name).map(|(_, _, key)| key).unwrap_or_default();
        let key = format!("{} {} {} {draft}", manifest.name, manifest.created, manifest.digest());
        let mut cards = self.cards.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(card) = cards.get(&key) {
            return Some(card.clone());
        }
        let card = match outline() {
            Ok(outline) => facts(&self.config, manifest, &outline),
            Err(failure) => {
                tracing::warn!(model = manifest.name, %failure, "a model of the catalog is not listed");
                return None;
            }
        };
        cards.insert(key, card.clone());
        Some(card)
    }
}

impl Loader for CatalogLoader {
    fn list(&self) -> Vec<Facts> {
        let builtin = builtin_manifest().ok().and_then(|manifest| self.card(&manifest, Outline::of_builtin));
        let mut cards: Vec<Facts> =
            builtin.into_iter().chain(self.paths.values().map(|(_, facts)| facts.clone())).collect();
        let Ok(Some(catalog)) = catalog(&self.config) else { return cards };
        match catalog.list() {
            Ok(listing) => {
                for fault in &listing.broken {
                    tracing::warn!(%fault, "a model of the catalog is not usable");
                }
                let others = || listing.models.iter().filter(|manifest| !self.paths.contains_key(&manifest.name));
                cards.extend(others().filter(|manifest| manifest.base.is_none()).filter_map(|manifest| {
                    let dir = catalog.path(&manifest.name).ok()?;
                    self.card(manifest, || Outline::of_layout(&Layout::detect(&dir)?))
                }));
                let adapters: Vec<Facts> = others()
                    .filter_map(|manifest| {
                        let base = &manifest.base.as_ref()?.name;
                        Some(adapter::facts(manifest, base, cards.iter().find(|card| card.id == *base)))
                    })
                    .collect();
                cards.extend(adapters);
            }
            Err(error) => tracing::warn!(%error, "the catalog cannot be listed"),
        }
        cards
    }

    fn load(&self, name: &str, cancelled: &AtomicBool) -> Result<Option<Served>, LoadError> {
        let place = match name {
            builtin::NAME => Place::Builtin,
            // Otherwise only names of the catalog: a request must not open paths.
            _ if self.paths.contains_key(name) => Place::Path(self.paths[name].0.clone()),
            _ => match catalog(&self.config) {
                Ok(Some(catalog)) if catalog.find(name).is_ok() => Place::Catalog(name.to_owned()),
                _ => return Ok(None),
            },
        };
        load_unless(&self.config, &place, cancelled)
            .map(Some)
            .map_err(|failure| LoadError { reason: failure.to_string() })
    }

    fn load_over(&self, name: &str, base: &Served, _: &AtomicBool) -> Result<Option<Served>, LoadError> {
        match catalog(&self.config) {
            Ok(Some(catalog)) if catalog.find(name).is_ok() => adapter::load_over(&self.config, name, base)
                .map(Some)
                .map_err(|failure| LoadError { reason: failure.to_string() }),
            _ => Ok(None),
        }
    }

    fn remove(&self, name: &str) -> Result<(), LoadError> {
        match catalog(&self.config).map_err(|failure| LoadError { reason: failure.to_string() })? {
            Some(catalog) => catalog.remove(name).map_err(|error| LoadError { reason: error.to_string() }),
            None => Err(LoadError { reason: format!("there is no model `{name}`") }),
        }
    }
}

/// Of the card of a path, which nobody recorded: 2026-01-01.
const CREATED_S: u64 = 1_767_225_600;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_become_names() {
        assert_eq!(name_of_path(Path::new("/srv/My Model (1).gguf")), "My-Model--1");
        assert_eq!(name_of_path(Path::new("/srv/Mistral-7B/")), "Mistral-7B");
        assert_eq!(name_of_path(Path::new("/srv/نموذج.gguf")), "model");
    }
}
