//! Who is in memory, who must leave and who comes next, under one bound. Every change goes through [`Residents::change`],
//! which afterwards decides afresh (`advance`) and acts outside the lock. Loads and unloads have threads of their own.
//!
//! Models that need room come in the order in which they were asked for. The least recently used leave for them: idle ones
//! at once, busy ones (only where idle ones do not suffice) when their last request has ended; until then new requests
//! for them queue up behind, so that two busy models that do not fit together take turns.
//!
//! An adapter is a resident over another one, its base: the base comes first, and stays as long as any of its adapters is here.

mod lending;
mod room;
mod state;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::{Facts, Listed, LoadError, Loader, Loan, Memory, ModelState, Served};
use lending::Tidy;
pub(super) use lending::{Return, Waiting};
use room::Verdict;
use state::{Condition, Deed, Loaded, Resident, State, Want};

/// Why a model does not come.
#[derive(Clone, Debug)]
pub(super) enum Refusal {
    Unknown,
    Failed(String),
    /// Not even with every model gone that may go.
    TooLarge {
        need_bytes: u64,
        bound_bytes: u64,
        pinned_bytes: u64,
    },
    Stopping,
}

/// Totals since the start.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub loads: AtomicU64,
    pub unloads: AtomicU64,
    pub failures: AtomicU64,
}

#[derive(Default)]
pub(super) struct Residents {
    loader: Option<Arc<dyn Loader>>,
    memory: Memory,
    state: Mutex<State>,
    /// Something was unloaded or a load ended: what `shutdown` waits for.
    quiet: Condvar,
    cancelled: Arc<AtomicBool>,
    pub(super) counts: Counts,
}

impl Residents {
    pub(super) fn new(loader: Option<Arc<dyn Loader>>, memory: Memory) -> Self {
        Self { loader, memory, ..Self::default() }
    }

    /// What can be loaded.
    pub(super) fn cold(&self) -> Vec<Facts> {
        self.loader.iter().flat_map(|loader| loader.list()).collect()
    }

    /// Deletes a model of the loader's. One in memory leaves it: at once, or when its last request has ended and another needs
    /// its room.
    pub(super) fn remove(self: &Arc<Self>, id: &str) -> Result<(), LoadError> {
        let loader =
            self.loader.as_ref().ok_or_else(|| LoadError { reason: format!("`{id}` cannot be deleted here") })?;
        loader.remove(id)?;
        self.change(|state, deeds| state.unload(id, deeds));
        Ok(())
    }

    pub(super) fn insert(self: &Arc<Self>, served: Served, stays: bool) {
        let stays = stays || self.memory.pinned.contains(&served.facts.id);
        self.change(|state, _| {
            let (id, bytes, base) = (served.facts.id.clone(), served.memory_bytes, served.facts.base.clone());
            let loaded = state.loaded(served, stays, 0);
            state.models.insert(id, Resident { bytes, base, condition: Condition::Loaded(loaded) });
        });
    }

    /// The model of this name, if it is here and stays.
    pub(super) fn lend(self: &Arc<Self>, name: &str) -> Option<Loan> {
        let mut state = self.lock();
        state.clock += 1;
        let clock = state.clock;
        let loaded = state.find(name)?;
        loaded.used = clock;
        let loan = self.loan(loaded, true);
        state.base_is_used(&loan.served.facts);
        Some(loan)
    }

    /// All that are here with engines of their own, for a look that does not count as use.
    pub(super) fn lend_all(self: &Arc<Self>) -> Vec<Loan> {
        let mut state = self.lock();
        let own = |loaded: &&mut Loaded| loaded.served.adapter.is_none();
        state.all_loaded().filter(own).map(|loaded| self.loan(loaded, false)).collect()
    }

    /// Asks for a model that is not here, over `base` if it is an adapter. Whoever drops the answer no longer waits.
    pub(super) fn want(self: &Arc<Self>, facts: &Facts, base: Option<&Facts>) -> Waiting {
        let (waiter, answer) = oneshot::channel();
        self.change(|state, deeds| {
            if state.stopping {
                deeds.push(Deed::Refuse(vec![waiter], Refusal::Stopping));
                return;
            }
            if let Some(Resident { condition: Condition::Loading { waiters }, .. }) = state.models.get_mut(&facts.id) {
                waiters.push(waiter);
                return;
            }
            state.clock += 1;
            let clock = state.clock;
            // It may have come since the caller looked.
            if let Some(loaded) = state.find(&facts.id) {
                loaded.used = clock;
                deeds.push(Deed::Lend(waiter, self.loan(loaded, true)));
                return;
            }
            // One that is leaving comes to its turn in `advance`.
            match state.wanted.iter_mut().find(|want| want.id == facts.id) {
                Some(want) => want.waiters.push(waiter),
                None => {
                    let (id, need_bytes) = (facts.id.clone(), facts.memory_bytes);
                    let base = base.map(|base| (base.id.clone(), base.memory_bytes));
                    state.wanted.push_back(Want { id, need_bytes, base, waiters: vec![waiter] });
                }
            }
        });
        Waiting { answer, _tidy: Tidy(Arc::clone(self)) }
    }

    /// Completes a listing with what is known here.
    pub(super) fn describe(&self, all: &mut BTreeMap<String, Listed>) {
        for (id, resident) in &self.lock().models {
            let state = match &resident.condition {
                Condition::Loading { .. } => ModelState::Loading,
                Condition::Loaded(loaded) if loaded.leaving => ModelState::Leaving,
                Condition::Loaded(_) => ModelState::Loaded,
                Condition::Unloading => ModelState::Leaving,
            };
            let memory_bytes = resident.bytes;
            if let Condition::Loaded(Loaded { served, .. }) = &resident.condition {
                all.insert(id.clone(), Listed { facts: served.facts.clone(), state, memory_bytes, country: None });
            } else if let Some(listed) = all.get_mut(id) {
                (listed.state, listed.memory_bytes) = (state, memory_bytes);
            }
        }
    }

    /// (bound, taken)
    pub(super) fn memory_bytes(&self) -> (u64, u64) {
        (self.memory.bound_bytes, self.lock().taken_bytes())
    }

    pub(super) fn unload_idle(self: &Arc<Self>) -> Option<Duration> {
        let after = self.memory.unload_after?;
        self.change(|state, deeds| {
            let mut next = after;
            let mut done = Vec::new();
            for (id, resident) in &state.models {
                let Condition::Loaded(loaded) = &resident.condition else { continue };
                if loaded.stays || loaded.loans > 0 || state.is_needed(id) {
                    continue;
                }
                match after.checked_sub(loaded.idle_since.elapsed()) {
                    Some(left) if left > Duration::ZERO => next = next.min(left),
                    _ => done.push(id.clone()),
                }
            }
            for id in done {
                state.unload(&id, deeds);
            }
            Some(next)
        })
    }

    /// Refuses what waits, tells loads to give up, stops every engine and returns when that is done.
    pub(super) fn shutdown(self: &Arc<Self>) {
        self.cancelled.store(true, Ordering::Release);
        self.change(|state, deeds| {
            state.stopping = true;
            for want in state.wanted.drain(..) {
                deeds.push(Deed::Refuse(want.waiters, Refusal::Stopping));
            }
            for resident in state.models.values_mut() {
                if let Condition::Loading { waiters } = &mut resident.condition {
                    deeds.push(Deed::Refuse(std::mem::take(waiters), Refusal::Stopping));
                }
            }
        });
        let mut state = self.lock();
        loop {
            // Requests that were cut off may hold loans for a moment more: engines are stopped, not waited for.
            let served: Vec<_> = state.all_loaded().map(|loaded| loaded.served.engine.clone()).collect();
            drop(state);
            served.iter().for_each(|engine| engine.shutdown(false));
            state = self.lock();
            let busy = |resident: &Resident| !matches!(resident.condition, Condition::Loaded(_));
            if !state.models.values().any(busy) {
                return;
            }
            state = self.quiet.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn change<T>(self: &Arc<Self>, change: impl FnOnce(&mut State, &mut Vec<Deed>) -> T) -> T {
        let mut deeds = Vec::new();
        let mut state = self.lock();
        let result = change(&mut state, &mut deeds);
        self.advance(&mut state, &mut deeds);
        drop(state);
        deeds.into_iter().for_each(|deed| self.act(deed));
        result
    }

    /// Decides who comes and who leaves, from what is. Idempotent.
    fn advance(self: &Arc<Self>, state: &mut State, deeds: &mut Vec<Deed>) {
        for want in &mut state.wanted {
            want.waiters.retain(|waiter| !waiter.is_closed());
        }
        state.wanted.retain(|want| !want.waiters.is_empty());
        // Whoever was to leave for a request that has gone may stay.
        state.all_loaded().for_each(|loaded| loaded.leaving = false);
        let verdict = loop {
            let Some(want) = state.wanted.front() else { break room::settle(state, &self.memory, None) };
            let (id, need_bytes) = (want.id.clone(), want.need_bytes);
            let base = want.base.clone();
            match state.models.get(&id).map(|resident| &resident.condition) {
                Some(Condition::Loaded(_)) => self.lend_wanted(state, deeds),
                // Its memory is still going; afterwards it may come back.
                Some(_) => break Verdict::Wait,
                None if state.loading() >= self.memory.loads_at_once.max(1) => break Verdict::Wait,
                None => {
                    // Its base first, where it is an adapter and that is not here.
                    let (next, over) = match &base {
                        None => (room::Wanted { id: &id, need_bytes, base: None }, None),
                        Some((base, base_bytes)) => match state.models.get(base).map(|resident| &resident.condition) {
                            Some(Condition::Loaded(loaded)) => {
                                let over = Arc::clone(&loaded.served);
                                (room::Wanted { id: &id, need_bytes, base: Some(base) }, Some(over))
                            }
                            Some(_) => break Verdict::Wait,
                            None => (room::Wanted { id: base, need_bytes: *base_bytes, base: None }, None),
                        },
                    };
                    match room::settle(state, &self.memory, Some(next)) {
                        Verdict::Fits => {
                            let (id, bytes) = (next.id.to_owned(), next.need_bytes);
                            let mut waiters = Vec::new();
                            if base.is_none() || over.is_some() {
                                waiters = state.wanted.pop_front().map(|want| want.waiters).unwrap_or_default();
                            }
                            let (condition, base) = (Condition::Loading { waiters }, next.base.map(str::to_owned));
                            state.models.insert(id.clone(), Resident { bytes, base, condition });
                            deeds.push(Deed::Load(id, over));
                        }
                        Verdict::Never(refusal) => {
                            let waiters = state.wanted.pop_front().map(|want| want.waiters).unwrap_or_default();
                            deeds.push(Deed::Refuse(waiters, refusal));
                        }
                        verdict => break verdict,
                    }
                }
            }
        };
        if let Verdict::Leave(ids) = verdict {
            for id in ids {
                state.unload(&id, deeds);
            }
        }
    }

    /// The first of the queue is here after all.
    fn lend_wanted(self: &Arc<Self>, state: &mut State, deeds: &mut Vec<Deed>) {
        let Some(want) = state.wanted.pop_front() else { return };
        state.clock += 1;
        let clock = state.clock;
        let Some(Resident { condition: Condition::Loaded(loaded), .. }) = state.models.get_mut(&want.id) else {
            return;
        };
        loaded.used = clock;
        let served = Arc::clone(&loaded.served);
        deeds.extend(want.waiters.into_iter().map(|waiter| Deed::Lend(waiter, self.loan(loaded, true))));
        state.base_is_used(&served.facts);
    }

    fn act(self: &Arc<Self>, deed: Deed) {
        match deed {
            // A loan that nobody takes goes back when it is dropped here.
            Deed::Lend(waiter, loan) => drop(waiter.send(Ok(loan))),
            Deed::Refuse(waiters, refusal) => {
                for waiter in waiters {
                    let _ = waiter.send(Err(refusal.clone()));
                }
            }
            Deed::Load(id, base) => {
                let (residents, name) = (Arc::clone(self), id.clone());
                let thread = std::thread::Builder::new().name("falaj-load".into());
                if let Err(error) = thread.spawn(move || residents.load(&name, base.as_deref())) {
                    self.load_ended(&id, Err(LoadError { reason: format!("the system gives no thread: {error}") }));
                }
            }
            Deed::Unload(id, served) => {
                let (residents, model) = (Arc::clone(self), id.clone());
                let work = move || {
                    // Nobody holds a loan, so what is under way has been cancelled or is done.
                    served.leave();
                    drop(served);
                    residents.unloaded(&model);
                };
                if let Err(error) = std::thread::Builder::new().name("falaj-unload".into()).spawn(work) {
                    tracing::error!(%error, model = id, "unloaded without waiting for its engine");
                    self.unloaded(&id);
                }
            }
        }
    }

    fn load(self: &Arc<Self>, id: &str, base: Option<&Served>) {
        let started = Instant::now();
        let load = || match (&self.loader, base) {
            (None, _) => Ok(None),
            (Some(loader), None) => loader.load(id, &self.cancelled),
            (Some(loader), Some(base)) => loader.load_over(id, base, &self.cancelled),
        };
        let outcome = catch_unwind(AssertUnwindSafe(load))
            .unwrap_or_else(|_| Err(LoadError { reason: "loading it panicked; the log says where".to_owned() }));
        if let Ok(Some(served)) = &outcome {
            let (took, memory_bytes) = (started.elapsed(), served.memory_bytes);
            tracing::info!(model = id, ?took, memory_bytes, "a model was loaded");
        }
        self.load_ended(id, outcome);
    }

    fn load_ended(self: &Arc<Self>, id: &str, outcome: Result<Option<Served>, LoadError>) {
        let stays = self.memory.pinned.contains(id);
        self.change(|state, deeds| {
            let Some(resident) = state.models.remove(id) else { return };
            let Condition::Loading { mut waiters } = resident.condition else { return };
            let base = resident.base;
            let refusal = match outcome {
                Ok(Some(served)) => {
                    self.counts.loads.fetch_add(1, Ordering::Relaxed);
                    waiters.retain(|waiter| !waiter.is_closed());
                    let (bytes, others) = (served.memory_bytes, room::staying_bytes(state, base.as_deref()));
                    let mut loaded = state.loaded(served, stays, 0);
                    let fits = bytes.saturating_add(others) <= self.memory.bound_bytes;
                    if fits && !state.stopping {
                        let lend = |waiter| Deed::Lend(waiter, self.loan(&mut loaded, true));
                        deeds.extend(waiters.into_iter().map(lend));
                        let condition = Condition::Loaded(loaded);
                        state.models.insert(id.to_owned(), Resident { bytes, base, condition });
                        return;
                    }
                    // It turned out larger than it looked, or comes too late.
                    state.models.insert(id.to_owned(), Resident { bytes, base, condition: Condition::Loaded(loaded) });
                    state.unload(id, deeds);
                    let bound_bytes = self.memory.bound_bytes;
                    match fits {
                        true => Refusal::Stopping,
                        false => Refusal::TooLarge { need_bytes: bytes, bound_bytes, pinned_bytes: others },
                    }
                }
                Ok(None) => Refusal::Unknown,
                Err(error) => {
                    self.counts.failures.fetch_add(1, Ordering::Relaxed);
                    tracing::warn!(model = id, reason = error.reason, "a model could not be loaded");
                    Refusal::Failed(error.reason)
                }
            };
            // Whoever waits for an adapter over it waits in vain.
            let over = |want: &Want| want.base.as_ref().is_some_and(|(base, _)| base == id);
            while let Some(want) = state.wanted.iter().position(over).and_then(|at| state.wanted.remove(at)) {
                waiters.extend(want.waiters);
            }
            deeds.push(Deed::Refuse(waiters, refusal));
        });
        self.quiet.notify_all();
    }

    fn unloaded(self: &Arc<Self>, id: &str) {
        self.counts.unloads.fetch_add(1, Ordering::Relaxed);
        tracing::info!(model = id, "a model was unloaded");
        self.change(|state, _| state.models.remove(id));
        self.quiet.notify_all();
    }

    fn loan(self: &Arc<Self>, loaded: &mut Loaded, counts: bool) -> Loan {
        loaded.loans += 1;
        let id = loaded.served.facts.id.clone();
        Loan { served: Arc::clone(&loaded.served), _back: Return { residents: Arc::clone(self), id, counts } }
    }

    /// No state behind this lock can be half-written, so a panic elsewhere does not matter.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
