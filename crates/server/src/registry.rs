//! The models served here: those in memory, and those a [`Loader`] can bring in when they are first asked for.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use falaj_engine::Engine;
use falaj_text::{GrammarCompiler, ModelText, ToolSyntax};

use crate::error::ApiError;
use crate::ids;

/// A model in memory.
#[derive(Clone)]
pub struct Served {
    pub facts: Facts,
    pub text: ModelText,
    pub grammars: GrammarCompiler,
    pub engine: Engine,
}

impl Served {
    pub fn new(facts: Facts, text: ModelText, engine: Engine) -> Self {
        let grammars = GrammarCompiler::new(Arc::clone(&text.tokenizer));
        Self { facts, text, grammars, engine }
    }
}

/// What a model card says; known before the model is loaded.
#[derive(Clone, Debug, PartialEq)]
pub struct Facts {
    pub id: String,
    /// Other names that mean this model.
    pub aliases: Vec<String>,
    pub description: Option<String>,
    pub owned_by: String,
    /// Seconds since 1970.
    pub created_s: u64,
    pub context_tokens: usize,
    pub default_temperature: Option<f32>,
    pub chat: bool,
    pub tools: bool,
    pub fill_in_the_middle: bool,
}

/// Brings models into memory. Called from a blocking thread, one model at a time.
pub trait Loader: Send + Sync {
    /// What [`Loader::load`] can load.
    fn list(&self) -> Vec<Facts>;
    /// `Ok(None)`: no such model.
    ///
    /// # Errors
    /// Why a model that exists could not be loaded.
    fn load(&self, name: &str) -> Result<Option<Served>, LoadError>;
}

#[derive(Clone, Debug, thiserror::Error)]
#[error("{reason}")]
pub struct LoadError {
    pub reason: String,
}

/// Served models by name. Shared by all requests.
#[derive(Default)]
pub struct Registry {
    loaded: RwLock<BTreeMap<String, Arc<Served>>>,
    loader: Option<Arc<dyn Loader>>,
    /// Two requests for the same cold model must not load it twice.
    loading: tokio::sync::Mutex<()>,
}

impl Registry {
    pub fn new() -> Self {
        Self::default()
    }

    #[must_use]
    pub fn with_loader(mut self, loader: Arc<dyn Loader>) -> Self {
        self.loader = Some(loader);
        self
    }

    /// Serves a model that is already in memory, in place of one of the same id.
    pub fn insert(&self, served: Served) -> Arc<Served> {
        let served = Arc::new(served);
        let mut loaded = self.loaded.write().unwrap_or_else(PoisonError::into_inner);
        loaded.insert(served.facts.id.clone(), Arc::clone(&served));
        served
    }

    /// Models in memory.
    pub fn loaded(&self) -> Vec<Arc<Served>> {
        self.loaded.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Everything that a request may name, sorted by id.
    pub fn list(&self) -> Vec<Facts> {
        let mut facts: BTreeMap<String, Facts> =
            self.loaded().iter().map(|served| (served.facts.id.clone(), served.facts.clone())).collect();
        for cold in self.loader.iter().flat_map(|loader| loader.list()) {
            facts.entry(cold.id.clone()).or_insert(cold);
        }
        facts.into_values().collect()
    }

    pub(crate) fn facts(&self, name: &str) -> Option<Facts> {
        self.list().into_iter().find(|facts| facts.answers_to(name))
    }

    /// The model of this name, loaded if it has to be.
    pub(crate) async fn find(&self, name: &str) -> Result<Arc<Served>, ApiError> {
        if let Some(served) = self.in_memory(name) {
            return Ok(served);
        }
        let unknown = || ApiError::UnknownModel { model: shortened(name), in_path: false };
        let loader = self.loader.clone().ok_or_else(unknown)?;
        // A wrong name must not wait behind a model that is being loaded.
        if !loader.list().iter().any(|facts| facts.answers_to(name)) {
            return Err(unknown());
        }
        let _one_at_a_time = self.loading.lock().await;
        if let Some(served) = self.in_memory(name) {
            return Ok(served);
        }
        let failed = |reason: String| ApiError::LoadFailed { model: shortened(name), reason };
        let wanted = name.to_owned();
        let loaded = tokio::task::spawn_blocking(move || loader.load(&wanted)).await;
        let loaded = loaded.map_err(|error| failed(error.to_string()))?.map_err(|error| failed(error.reason))?;
        loaded.map(|served| self.insert(served)).ok_or_else(unknown)
    }

    fn in_memory(&self, name: &str) -> Option<Arc<Served>> {
        let loaded = self.loaded.read().unwrap_or_else(PoisonError::into_inner);
        loaded.get(name).or_else(|| loaded.values().find(|served| served.facts.answers_to(name))).cloned()
    }

    /// Stops every engine, from a blocking thread.
    pub(crate) async fn shutdown(&self) {
        let engines: Vec<Engine> = self.loaded().iter().map(|served| served.engine.clone()).collect();
        let stopped =
            tokio::task::spawn_blocking(move || engines.iter().for_each(|engine| engine.shutdown(false))).await;
        if let Err(error) = stopped {
            tracing::error!(%error, "an engine did not stop cleanly");
        }
    }
}

impl Facts {
    /// What can be read off the model itself; owner, aliases and description are the caller's to add.
    pub fn of(id: impl Into<String>, text: &ModelText, context_tokens: usize) -> Self {
        let chat = text.chat.as_ref();
        Self {
            id: id.into(),
            aliases: Vec::new(),
            description: None,
            owned_by: "falaj".to_owned(),
            created_s: ids::now_s(),
            context_tokens,
            default_temperature: None,
            chat: chat.is_some(),
            tools: chat.is_some_and(|chat| chat.tool_syntax() != ToolSyntax::None),
            fill_in_the_middle: chat.is_some_and(|chat| chat.fim("", "").is_some()),
        }
    }

    fn answers_to(&self, name: &str) -> bool {
        self.id == name || self.aliases.iter().any(|alias| alias == name)
    }
}

/// A name goes back to the client and into the log: not a megabyte of it.
fn shortened(name: &str) -> String {
    name.chars().take(200).collect()
}
