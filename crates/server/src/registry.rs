//! The models served here: those in memory, and those a [`Loader`] can bring in when they are first asked for. Which stay
//! and which leave when memory is short is decided in `registry/residents.rs`.

mod residents;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Deref;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use falaj_artifact::Hasher;
use falaj_engine::{AdapterHandle, Engine};
use falaj_text::{GrammarCompiler, ModelText, ToolSyntax};
use tokio::time::Instant;

use crate::attached::{AttachedEngine, Engines};
use crate::error::ApiError;
use crate::ids;
pub(crate) use residents::Counts;
use residents::{Refusal, Residents};

/// A model in memory.
#[derive(Clone)]
pub struct Served {
    pub facts: Facts,
    pub text: ModelText,
    pub grammars: GrammarCompiler,
    pub engine: Engine,
    /// What its requests are answered with over the engine's model, which others share.
    pub adapter: Option<AdapterHandle>,
    /// What receipts say of it.
    pub identity: Identity,
    /// What it takes now that it is here; before, [`Facts::memory_bytes`] is the estimate.
    pub memory_bytes: u64,
}

impl Served {
    pub fn new(facts: Facts, text: ModelText, engine: Engine) -> Self {
        let grammars = GrammarCompiler::new(Arc::clone(&text.tokenizer));
        let identity = Identity::of(&engine, &text);
        Self { memory_bytes: facts.memory_bytes, facts, text, grammars, engine, adapter: None, identity }
    }

    /// An adapter that `base`'s engine has loaded: a model of its own that shares everything with `base` but the adapter.
    pub fn over(base: &Self, facts: Facts, adapter: AdapterHandle) -> Self {
        let identity = Identity { adapter: Some(*adapter.digest().as_bytes()), ..base.identity.clone() };
        Self { memory_bytes: adapter.size_bytes() as u64, facts, adapter: Some(adapter), identity, ..base.clone() }
    }

    /// No further request; the engine itself goes where it is this model's alone. Blocks its thread.
    fn leave(&self) {
        match &self.adapter {
            Some(adapter) => self.engine.unload_adapter(adapter),
            None => self.engine.shutdown(true),
        }
    }
}

/// What decides over a request's tokens, besides the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// SHA-256 that the model's files were verified against; zeros for one that came from no files.
    pub model: [u8; 32],
    pub adapter: Option<[u8; 32]>,
    /// SHA-256 over the vocabulary: each token's length (four bytes, little-endian) and bytes, in order.
    pub tokenizer: [u8; 32],
    /// Version of the arithmetic, instruction set and format of the cache.
    pub numerics: Arc<str>,
}

impl Identity {
    fn of(engine: &Engine, text: &ModelText) -> Self {
        let mut vocabulary = Hasher::default();
        for token in (0..).take(text.tokenizer.vocab_size()) {
            let bytes = text.tokenizer.token_bytes(token);
            vocabulary.update(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
            vocabulary.update(bytes);
        }
        let model = engine.model();
        let kv_format = format!("{:?}", engine.options().kv_format).to_lowercase();
        Self {
            model: model.digest().map_or([0; 32], |digest| *digest.as_bytes()),
            adapter: None,
            tokenizer: *vocabulary.finish().as_bytes(),
            numerics: format!("{}/{}/{kv_format}", falaj_engine::NUMERICS, model.ops().isa()).into(),
        }
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
    /// Weights, cache and buffers, as far as they can be told before loading. 0: nobody knows.
    pub memory_bytes: u64,
    /// The id of the model that this one is an adapter over: it must be in memory, too.
    pub base: Option<String>,
}

/// Brings models into memory. Called from threads of its own, [`Memory::loads_at_once`] at a time.
pub trait Loader: Send + Sync {
    /// What [`Loader::load`] can load.
    fn list(&self) -> Vec<Facts>;
    /// `Ok(None)`: no such model. Between its stages it should look at `cancelled` and give up: nobody waits any more.
    ///
    /// # Errors
    /// Why a model that exists could not be loaded.
    fn load(&self, name: &str, cancelled: &AtomicBool) -> Result<Option<Served>, LoadError>;
    /// Loads the adapter `name` into the engine of `base`, the model that its facts name. As [`Loader::load`] otherwise.
    ///
    /// # Errors
    /// As [`Loader::load`]; a base that is not what the adapter was made for.
    fn load_over(&self, name: &str, base: &Served, cancelled: &AtomicBool) -> Result<Option<Served>, LoadError> {
        let _ = (name, base, cancelled);
        Ok(None)
    }
    /// Deletes what a job made. Nothing else may be deleted by a request.
    ///
    /// # Errors
    /// Why it could not be deleted.
    fn remove(&self, name: &str) -> Result<(), LoadError> {
        Err(LoadError { reason: format!("`{name}` cannot be deleted here") })
    }
}

#[derive(Clone, Debug, thiserror::Error)]
#[error("{reason}")]
pub struct LoadError {
    pub reason: String,
}

/// How much memory models may take together, and how long they stay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Memory {
    /// For all models in memory, being loaded or being unloaded.
    pub bound_bytes: u64,
    /// A model that nobody has used for this long is unloaded; `None`: only when another needs its room.
    pub unload_after: Option<Duration>,
    /// Models that stay once they are loaded.
    pub pinned: BTreeSet<String>,
    pub loads_at_once: usize,
}

impl Default for Memory {
    fn default() -> Self {
        Self { bound_bytes: u64::MAX, unload_after: None, pinned: BTreeSet::new(), loads_at_once: 1 }
    }
}

/// Where a model is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelState {
    OnDisk,
    Loading,
    Loaded,
    /// Its last requests are ending, or its memory is being given back.
    Leaving,
    /// At an attached engine.
    Attached,
}

impl ModelState {
    pub fn name(self) -> &'static str {
        match self {
            Self::OnDisk => "on_disk",
            Self::Loading => "loading",
            Self::Loaded => "loaded",
            Self::Leaving => "leaving",
            Self::Attached => "attached",
        }
    }
}

/// A model that requests may name.
#[derive(Clone, Debug, PartialEq)]
pub struct Listed {
    pub facts: Facts,
    pub state: ModelState,
    /// Taken now, or reserved for what is being loaded; on disk: the estimate.
    pub memory_bytes: u64,
    /// Where it runs, where that is another country than the site's; ISO 3166.
    pub country: Option<String>,
}

/// A loaded model, lent to whoever works with it: while a loan lives, its model stays in memory.
pub struct Loan {
    // Dropped first, so that the last one to return a model has let go of its memory.
    served: Arc<Served>,
    _back: residents::Return,
}

impl Deref for Loan {
    type Target = Served;

    fn deref(&self) -> &Served {
        &self.served
    }
}

/// Served models by name. Shared by all requests.
#[derive(Default)]
pub struct Registry {
    residents: Arc<Residents>,
    /// Models that are put away: neither listed nor served.
    hidden: Mutex<BTreeSet<String>>,
    attached: RwLock<Arc<Engines>>,
}

impl Registry {
    /// One that only serves what is inserted.
    pub fn new() -> Self {
        Self::default()
    }

    /// One that loads what `loader` lists when it is asked for.
    pub fn with_loader(loader: Arc<dyn Loader>, memory: Memory) -> Self {
        Self { residents: Arc::new(Residents::new(Some(loader), memory)), ..Self::default() }
    }

    /// Serves a model that is already in memory, in place of one of the same id. It stays if the loader could not bring it
    /// back.
    pub fn insert(&self, served: Served) {
        let known = self.residents.cold().iter().any(|facts| facts.id == served.facts.id);
        self.residents.insert(served, !known);
    }

    /// Models in memory with engines of their own.
    pub fn loaded(&self) -> Vec<Loan> {
        self.residents.lend_all()
    }

    /// Everything that a request may name, sorted by id.
    pub fn list(&self) -> Vec<Listed> {
        let mut all = self.all();
        for listed in self.engines().listed() {
            all.entry(listed.facts.id.clone()).or_insert(listed);
        }
        let hidden = self.hidden();
        all.into_values().filter(|listed| !hidden.contains(&listed.facts.id)).collect()
    }

    fn all(&self) -> BTreeMap<String, Listed> {
        let on_disk = |facts: Facts| {
            let memory_bytes = facts.memory_bytes;
            (facts.id.clone(), Listed { facts, state: ModelState::OnDisk, memory_bytes, country: None })
        };
        let mut all: BTreeMap<String, Listed> = self.residents.cold().into_iter().map(on_disk).collect();
        self.residents.describe(&mut all);
        all
    }

    /// Attached engines and their models.
    pub(crate) fn engines(&self) -> Arc<Engines> {
        Arc::clone(&self.attached.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn attach(&self, engines: Vec<AttachedEngine>) {
        let (old, local) = (self.engines(), self.all().into_keys().collect());
        self.put_engines(old.replaced(engines, &local));
    }

    /// Looks again which names are this site's own.
    pub(crate) fn sort_out(&self) {
        let engines = self.engines();
        if engines.all.is_empty() {
            return;
        }
        let sorted = Engines::of(engines.all.clone(), &self.all().into_keys().collect());
        if sorted.names() != engines.names() {
            self.put_engines(sorted);
        }
    }

    fn put_engines(&self, engines: Engines) {
        *self.attached.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(engines);
    }

    /// Puts a model away, or brings it back. Requests that it is answering go on.
    pub fn hide(&self, id: &str, hidden: bool) {
        match hidden {
            true => self.hidden().insert(id.to_owned()),
            false => self.hidden().remove(id),
        };
    }

    fn hidden(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.hidden.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Deletes a model that a job made.
    ///
    /// # Errors
    /// Where the loader cannot delete it.
    pub(crate) async fn remove(&self, id: &str) -> Result<(), ApiError> {
        let (residents, name) = (Arc::clone(&self.residents), id.to_owned());
        let removed = tokio::task::spawn_blocking(move || residents.remove(&name)).await;
        let removed = removed.map_err(|_| ApiError::Internal)?;
        removed.map_err(|error| ApiError::Conflict { reason: error.reason })
    }

    pub(crate) fn describe(&self, name: &str) -> Option<Listed> {
        self.list().into_iter().find(|listed| listed.facts.answers_to(name))
    }

    /// Most bytes that models may take, and those they take.
    pub fn memory_bytes(&self) -> (u64, u64) {
        self.residents.memory_bytes()
    }

    pub(crate) fn counts(&self) -> &Counts {
        &self.residents.counts
    }

    /// The model of this name, loaded if it has to be, waiting for room at most until `deadline`.
    ///
    /// # Errors
    /// No such model, none that can be loaded, or no room in time.
    pub async fn find(&self, name: &str, deadline: Instant) -> Result<Arc<Loan>, ApiError> {
        let unknown = || ApiError::UnknownModel { model: shortened(name), in_path: false };
        // Nothing that a job made has aliases: its id is its only name.
        if self.hidden().contains(name) {
            return Err(unknown());
        }
        if let Some(place) = self.engines().place(name) {
            return Err(ApiError::Elsewhere { model: shortened(name), engine: place.engine.name().to_owned() });
        }
        if let Some(loan) = self.residents.lend(name) {
            return Ok(Arc::new(loan));
        }
        // A wrong name must not wait behind a model that is being loaded.
        let cold = self.residents.cold().into_iter().find(|facts| facts.answers_to(name)).ok_or_else(unknown)?;
        // One that was put away is a base still.
        let base = match &cold.base {
            None => None,
            Some(base) => match self.all().remove(base) {
                Some(listed) if listed.facts.base.is_none() => Some(listed.facts),
                _ => {
                    let reason = format!("the model `{}` that it was made for is not here", shortened(base));
                    return Err(ApiError::LoadFailed { model: shortened(name), reason });
                }
            },
        };
        let waiting = self.residents.want(&cold, base.as_ref());
        let answer = tokio::time::timeout_at(deadline, waiting).await;
        let model = shortened(name);
        match answer {
            Ok(Ok(loan)) => Ok(Arc::new(loan)),
            Ok(Err(Refusal::Unknown)) => Err(unknown()),
            Ok(Err(Refusal::Failed(reason))) => Err(ApiError::LoadFailed { model, reason }),
            Ok(Err(Refusal::TooLarge { need_bytes, bound_bytes, pinned_bytes })) => {
                Err(ApiError::NoRoomEver { model, need_bytes, bound_bytes, pinned_bytes })
            }
            Ok(Err(Refusal::Stopping)) => Err(ApiError::Stopping),
            Err(_) => Err(ApiError::NoRoomYet { model }),
        }
    }

    /// Unloads what has been idle for [`Memory::unload_after`], and says when to call again; `None`: never.
    pub fn unload_idle(&self) -> Option<Duration> {
        self.residents.unload_idle()
    }

    /// Stops loads and every engine.
    pub(crate) async fn shutdown(&self) {
        let residents = Arc::clone(&self.residents);
        let stopped = tokio::task::spawn_blocking(move || residents.shutdown()).await;
        if let Err(error) = stopped {
            tracing::error!(%error, "an engine did not stop cleanly");
        }
    }
}

impl Facts {
    /// What can be read off the model itself; owner, aliases, description and size are the caller's to add.
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
            memory_bytes: 0,
            base: None,
        }
    }

    pub(crate) fn answers_to(&self, name: &str) -> bool {
        self.id == name || self.aliases.iter().any(|alias| alias == name)
    }
}

/// A name goes back to the client and into the log: not a megabyte of it.
fn shortened(name: &str) -> String {
    name.chars().take(200).collect()
}
