//! Decisions already made, by everything that they read. Bounded; a lock for each of many parts, held for one look-up.

use crate::gate::Answer;
use crate::question::Question;
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, PoisonError};

pub struct Cache {
    parts: Vec<Mutex<HashMap<Question, Entry, RandomState>>>,
    hasher: RandomState,
}

/// A decision, and when it is one. Time is outside the key: an entry out of its time is made again.
#[derive(Clone)]
pub struct Entry {
    /// Of the policies and the world that it was made from.
    pub state: u64,
    /// Seconds since 1970; a clock that was set back makes it again too.
    pub since: u64,
    pub until: u64,
    pub answer: Arc<Answer>,
}

const PARTS: usize = 64;
const PER_PART: usize = 1_024;

impl Cache {
    pub fn new() -> Self {
        // One hasher for all parts, so that a question is hashed with secret keys, the same ones everywhere.
        let hasher = RandomState::new();
        let parts = (0..PARTS).map(|_| Mutex::new(HashMap::with_hasher(hasher.clone()))).collect();
        Self { parts, hasher }
    }

    pub fn find(&self, question: &Question, state: u64, now: u64) -> Option<Arc<Answer>> {
        let part = self.part(question)?.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = part.get(question)?;
        (entry.state == state && (entry.since..entry.until).contains(&now)).then(|| entry.answer.clone())
    }

    pub fn keep(&self, question: &Question, entry: Entry) {
        let Some(part) = self.part(question) else { return };
        let mut part = part.lock().unwrap_or_else(PoisonError::into_inner);
        // Emptying is rare and costs a few decisions; an order of use would cost every hit.
        if part.len() >= PER_PART {
            part.clear();
        }
        part.insert(question.clone(), entry);
    }

    fn part(&self, question: &Question) -> Option<&Mutex<HashMap<Question, Entry, RandomState>>> {
        // The map uses the hash's low and top bits; parts are told apart by others.
        self.parts.get((self.hasher.hash_one(&question.actor) >> 24) as usize % PARTS)
    }
}
