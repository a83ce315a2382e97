//! What is known of each model and of who waits for it, and the changes of it that need nothing else. When they are made
//! is `residents.rs`' business.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::oneshot;

use super::Refusal;
use crate::registry::{Facts, Loan, Served};

#[derive(Default)]
pub(super) struct State {
    pub(super) models: BTreeMap<String, Resident>,
    /// In the order in which they were first asked for.
    pub(super) wanted: VecDeque<Want>,
    /// Counts uses; the lowest is the least recently used.
    pub(super) clock: u64,
    pub(super) stopping: bool,
}

pub(super) struct Resident {
    /// INVARIANT: the sum over all residents is what the bound bounds.
    pub(super) bytes: u64,
    /// Of an adapter: the resident in whose engine it is.
    pub(super) base: Option<String>,
    pub(super) condition: Condition,
}

pub(super) enum Condition {
    Loading {
        waiters: Vec<Waiter>,
    },
    Loaded(Loaded),
    /// Stopping its engine and giving memory back.
    Unloading,
}

pub(super) struct Loaded {
    pub(super) served: Arc<Served>,
    pub(super) loans: usize,
    /// Of `State::clock`.
    pub(super) used: u64,
    pub(super) idle_since: Instant,
    pub(super) stays: bool,
    /// Somebody waits for its room: no new loans.
    pub(super) leaving: bool,
}

/// A model that is not here, and who waits for it.
pub(super) struct Want {
    pub(super) id: String,
    pub(super) need_bytes: u64,
    /// Of an adapter: what it needs here, and how much that needs if it is not.
    pub(super) base: Option<(String, u64)>,
    pub(super) waiters: Vec<Waiter>,
}

pub(super) type Waiter = oneshot::Sender<Result<Loan, Refusal>>;

/// What is to be done once the lock is free.
pub(super) enum Deed {
    Lend(Waiter, Loan),
    Refuse(Vec<Waiter>, Refusal),
    /// Over the engine of a base, or by itself.
    Load(String, Option<Arc<Served>>),
    Unload(String, Arc<Served>),
}

impl State {
    pub(super) fn loaded(&mut self, served: Served, stays: bool, loans: usize) -> Loaded {
        self.clock += 1;
        let (served, idle_since) = (Arc::new(served), Instant::now());
        Loaded { served, loans, used: self.clock, idle_since, stays, leaving: false }
    }

    pub(super) fn all_loaded(&mut self) -> impl Iterator<Item = &mut Loaded> {
        self.models.values_mut().filter_map(|resident| match &mut resident.condition {
            Condition::Loaded(loaded) => Some(loaded),
            _ => None,
        })
    }

    pub(super) fn find(&mut self, name: &str) -> Option<&mut Loaded> {
        self.all_loaded().find(|loaded| !loaded.leaving && loaded.served.facts.answers_to(name))
    }

    pub(super) fn loading(&self) -> usize {
        self.models.values().filter(|resident| matches!(resident.condition, Condition::Loading { .. })).count()
    }

    pub(super) fn taken_bytes(&self) -> u64 {
        self.models.values().fold(0, |sum, resident| sum.saturating_add(resident.bytes))
    }

    /// Whether an adapter over it is here, in whatever condition.
    pub(super) fn is_needed(&self, id: &str) -> bool {
        self.models.values().any(|resident| resident.base.as_deref() == Some(id))
    }

    /// Who uses an adapter uses its base.
    pub(super) fn base_is_used(&mut self, facts: &Facts) {
        let clock = self.clock;
        let base = facts.base.as_ref().and_then(|base| self.models.get_mut(base));
        if let Some(Resident { condition: Condition::Loaded(loaded), .. }) = base {
            (loaded.used, loaded.idle_since) = (clock, Instant::now());
        }
    }

    /// Begins to unload a model that is idle and no adapter's base; its bytes count until they are given back.
    pub(super) fn unload(&mut self, id: &str, deeds: &mut Vec<Deed>) {
        if self.is_needed(id) {
            return;
        }
        let Some(resident) = self.models.get_mut(id) else { return };
        match std::mem::replace(&mut resident.condition, Condition::Unloading) {
            Condition::Loaded(loaded) if loaded.loans == 0 => deeds.push(Deed::Unload(id.to_owned(), loaded.served)),
            other => resident.condition = other,
        }
    }
}
