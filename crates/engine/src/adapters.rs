//! Adapters of a running engine: loaded and unloaded while requests run, which mix in one batch. An adapter that was unloaded
//! takes no new requests; those that have it go on to their end, and its memory goes with the last of them.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use falaj_artifact::Digest;
use falaj_model::Adapter;

use crate::engine::Engine;
use crate::request::SubmitError;
use crate::shared::Shared;
use crate::stats::Stats;

/// An adapter that an engine knows: what a request names to be answered with it. Clones are the same one.
#[derive(Clone)]
pub struct AdapterHandle {
    entry: Arc<Entry>,
}

struct Entry {
    adapter: Arc<Adapter>,
    engine: Weak<Shared>,
    unloaded: AtomicBool,
}

/// Why an engine does not take an adapter.
#[derive(Debug, thiserror::Error)]
pub enum AdapterError {
    #[error("the adapter was read for a model of other sizes; read it for this engine's model")]
    OtherModel,
}

impl Engine {
    /// Makes `adapter` one that requests may name, from now on.
    ///
    /// # Errors
    /// [`AdapterError::OtherModel`].
    pub fn load_adapter(&self, adapter: Adapter) -> Result<AdapterHandle, AdapterError> {
        if !adapter.fits(self.model().config()) {
            return Err(AdapterError::OtherModel);
        }
        let shared = self.shared();
        Stats::add(&shared.stats.adapters, 1);
        let (adapter, engine) = (Arc::new(adapter), Arc::downgrade(shared));
        Ok(AdapterHandle { entry: Arc::new(Entry { adapter, engine, unloaded: AtomicBool::new(false) }) })
    }

    /// Takes no further request for it. Those that are queued or under way are answered with it.
    pub fn unload_adapter(&self, handle: &AdapterHandle) {
        if handle.belongs_to(self.shared()) && !handle.entry.unloaded.swap(true, Ordering::AcqRel) {
            Stats::subtract(&self.shared().stats.adapters, 1);
        }
    }
}

impl Engine {
    /// What a request is computed with, and the salt of its keys and values: those of a tenant's requests with an adapter are
    /// neither the base's nor another's.
    pub(crate) fn adapter(
        &self,
        handle: Option<&AdapterHandle>,
        salt: u64,
    ) -> Result<(Option<Arc<Adapter>>, u64), SubmitError> {
        let Some(handle) = handle else { return Ok((None, salt)) };
        if !handle.belongs_to(self.shared()) || handle.entry.unloaded.load(Ordering::Acquire) {
            return Err(SubmitError::NoAdapter);
        }
        let digest = Digest::of(format!("adapter {} for {salt}", handle.digest()).as_bytes()).to_string();
        // Sixteen of its hexadecimal digits.
        let salt = digest.get(..16).and_then(|digits| u64::from_str_radix(digits, 16).ok()).unwrap_or(!salt);
        Ok((Some(Arc::clone(&handle.entry.adapter)), salt))
    }
}

impl AdapterHandle {
    pub fn digest(&self) -> Digest {
        self.entry.adapter.digest()
    }

    pub fn size_bytes(&self) -> usize {
        self.entry.adapter.size_bytes()
    }

    fn belongs_to(&self, shared: &Arc<Shared>) -> bool {
        std::ptr::eq(self.entry.engine.as_ptr(), Arc::as_ptr(shared))
    }
}

impl fmt::Debug for AdapterHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AdapterHandle({})", self.digest())
    }
}

impl PartialEq for AdapterHandle {
    /// Of one loading.
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.entry, &other.entry)
    }
}

impl Eq for AdapterHandle {}
