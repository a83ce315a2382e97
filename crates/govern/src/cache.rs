//! Decisions already made, by everything that they read. Bounded; a lock for each of many parts, held for one look-up.

use crate::gate::Answer;
use crate::question::Question;
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState};
use std::sync::{Arc, Mutex, PoisonError};

pub struct Cache {
    parts: Vec<Mutex<Part>>,
    /// With secret keys, so that nobody can choose questions that collide.
    hasher: RandomState,
}

/// By the question's hash, which was made once; of two questions with one hash the later stays.
#[derive(Default)]
struct Part {
    entries: HashMap<u64, (Question, Entry), BuildHasherDefault<AsIs>>,
    /// Hashes, the oldest first.
    order: VecDeque<u64>,
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

const PARTS: usize = 512;
const PER_PART: usize = 128;

impl Cache {
    pub fn new() -> Self {
        Self { parts: (0..PARTS).map(|_| Mutex::default()).collect(), hasher: RandomState::new() }
    }

    pub fn find(&self, question: &Question, state: u64, now: u64) -> Option<Arc<Answer>> {
        let hash = self.hasher.hash_one(question);
        let part = self.part(hash)?.lock().unwrap_or_else(PoisonError::into_inner);
        let (same, entry) = part.entries.get(&hash)?;
        let holds = entry.state == state && (entry.since..entry.until).contains(&now);
        (holds && same == question).then(|| entry.answer.clone())
    }

    pub fn keep(&self, question: &Question, entry: Entry) {
        let hash = self.hasher.hash_one(question);
        let Some(part) = self.part(hash) else { return };
        let mut part = part.lock().unwrap_or_else(PoisonError::into_inner);
        if part.entries.insert(hash, (question.clone(), entry)).is_some() {
            return;
        }
        part.order.push_back(hash);
        // The oldest goes: an order of use would cost every hit.
        if part.order.len() > PER_PART
            && let Some(oldest) = part.order.pop_front()
        {
            part.entries.remove(&oldest);
        }
    }

    /// Forgets everything: answers keep alive the world that they were made from.
    pub fn clear(&self) {
        for part in &self.parts {
            *part.lock().unwrap_or_else(PoisonError::into_inner) = Part::default();
        }
    }

    fn part(&self, hash: u64) -> Option<&Mutex<Part>> {
        // The map uses the hash's low and top bits; parts are told apart by others.
        self.parts.get((hash >> 32) as usize % PARTS)
    }
}

/// A hash of a hash is itself.
#[derive(Default)]
struct AsIs(u64);

impl Hasher for AsIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = bytes.iter().fold(self.0, |hash, byte| hash.rotate_left(8) ^ u64::from(*byte));
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}
