//! Drawing tokens for all sequences of a step, several at once where that pays: a vocabulary of 131,072 takes longer to look
//! at than a small model takes to compute a row.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use falaj_kernels::Ops;
use falaj_model::Workspace;

use crate::generation::{Ending, Generation};
use crate::request::{TokenLogprob, TokenMask};
use crate::sampling::Sampler;
use crate::sequence::Rows;

/// The generations of one step while they are sampled, and the buffers for it. Nobody waits at these locks: each is taken by
/// one thread at a time, they only prove it to the compiler.
pub(super) struct Turns {
    slots: Vec<Mutex<Slot>>,
    used: usize,
    drawers: Vec<Mutex<Drawer>>,
    vocab_size: usize,
}

#[derive(Default)]
struct Slot {
    generation: Option<Box<Generation>>,
    rows: Rows,
}

struct Drawer {
    sampler: Sampler,
    mask: TokenMask,
    /// What the last scoring made of its share, by place.
    scored: Vec<(usize, Option<TokenLogprob>)>,
}

/// A place whose token is scored, of so many alternatives.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target {
    pub(super) token: u32,
    pub(super) top: usize,
}

impl Turns {
    pub(super) fn new(vocab_size: usize, ops: Ops, threads: usize, max_sequences: usize) -> Self {
        let drawer = || {
            let (sampler, mask) = (Sampler::new(vocab_size, ops), TokenMask::new(vocab_size));
            Mutex::new(Drawer { sampler, mask, scored: Vec::new() })
        };
        Self {
            slots: (0..=max_sequences).map(|_| Mutex::default()).collect(),
            used: 0,
            drawers: (0..threads.clamp(1, MOST_DRAWERS)).map(|_| drawer()).collect(),
            vocab_size,
        }
    }

    /// Takes a generation whose rows have logits. There is a place for every sequence that runs.
    pub(super) fn add(&mut self, generation: Box<Generation>, rows: Rows) {
        if self.used == self.slots.len() {
            self.slots.push(Mutex::default());
        }
        let slot = Slot { generation: Some(generation), rows };
        *self.slots[self.used].get_mut().unwrap_or_else(PoisonError::into_inner) = slot;
        self.used += 1;
    }

    /// Lets all that were added draw.
    pub(super) fn draw(&mut self, workspace: &Workspace) {
        let slots = &self.slots[..self.used];
        let together = self.together(slots.len());
        let next = AtomicUsize::new(0);
        let work = |drawer: usize| {
            let drawer = &mut *lock(&self.drawers[drawer]);
            while let Some(slot) = slots.get(next.fetch_add(1, Ordering::Relaxed)) {
                lock(slot).draw(drawer, workspace);
            }
        };
        match together.min(slots.len()) {
            0 => {}
            1 => work(0),
            together => workspace.pool().run(together, |drawer, _| work(drawer)),
        }
    }

    /// Scores each of `targets` by the row of the workspace's last projection at the same place; `out` gets as many, `None`
    /// where the row holds no numbers.
    pub(super) fn score(&mut self, workspace: &Workspace, targets: &[Target], out: &mut Vec<Option<TokenLogprob>>) {
        let together = self.together(targets.len()).min(targets.len());
        let work = |number: usize| {
            let Drawer { sampler, scored, .. } = &mut *lock(&self.drawers[number]);
            scored.clear();
            for (place, target) in targets.iter().enumerate().skip(number).step_by(together) {
                let logits = workspace.projected(place);
                scored.push((place, logits.and_then(|logits| sampler.score(logits, target.token, target.top))));
            }
        };
        match together {
            0 => {}
            1 => work(0),
            together => workspace.pool().run(together, |number, _| work(number)),
        }
        out.clear();
        out.resize(targets.len(), None);
        for drawer in &mut self.drawers[..together] {
            let drawer = drawer.get_mut().unwrap_or_else(PoisonError::into_inner);
            for (place, score) in drawer.scored.drain(..) {
                out[place] = score;
            }
        }
    }

    /// Threads that share so many rows.
    fn together(&self, rows: usize) -> usize {
        if rows * self.vocab_size < WORTH_A_THREAD { 1 } else { self.drawers.len() }
    }

    /// Gives back what was added, in order.
    pub(super) fn take(&mut self, number: usize) -> Option<Box<Generation>> {
        if number + 1 >= self.used {
            self.used = 0;
        }
        self.slots.get_mut(number)?.get_mut().unwrap_or_else(PoisonError::into_inner).generation.take()
    }
}

impl Slot {
    fn draw(&mut self, drawer: &mut Drawer, workspace: &Workspace) {
        let (Some(generation), rows) = (&mut self.generation, self.rows) else { return };
        let first = rows.first + rows.count - rows.outputs;
        let logits = |row: usize| workspace.logits_of(first + row);
        // A constraint is foreign code: when it panics, its request fails and the others go on.
        let turn = AssertUnwindSafe(|| generation.turn(logits, rows.outputs, &mut drawer.sampler, &mut drawer.mask));
        if let Err(panic) = catch_unwind(turn) {
            let message = super::panic_message(&*panic);
            let message = format!("the request failed: {message}; this is a bug, please report it");
            generation.ending = Some(Ending::Failed(message));
        }
    }
}

/// A panic is caught before it reaches these locks.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Buffers take a few megabytes each where the vocabulary is large.
const MOST_DRAWERS: usize = 8;
/// Logits in all: about 10 µs of greedy drawing, what it takes to wake a thread.
const WORTH_A_THREAD: usize = 1 << 16;
