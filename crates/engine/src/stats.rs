//! What the engine counts while it runs. Gauges and totals, read by `server` for its metrics at any time.

use std::sync::atomic::{AtomicU64, Ordering};

/// Gauges say what is; the others only grow. Written by the engine thread and by `submit`.
#[derive(Debug, Default)]
pub struct Stats {
    /// Gauge: requests that hold no pages yet, or had to give them back.
    pub waiting: AtomicU64,
    /// Gauge: sequences that hold pages.
    pub running: AtomicU64,
    /// Gauge: pages that sequences hold. The prefix cache keeps content in the others.
    pub pages_used: AtomicU64,
    pub pages_total: AtomicU64,
    /// Prompt tokens that were looked for in the prefix cache, and those found.
    pub prefix_query_tokens: AtomicU64,
    pub prefix_hit_tokens: AtomicU64,
    /// Forward passes, the rows in all of them, and the time of all of them from choosing rows to handing tokens out.
    pub steps: AtomicU64,
    pub batch_rows: AtomicU64,
    pub step_us: AtomicU64,
    /// Of `batch_rows`: rows that continued prompts (or came again after a preemption).
    pub prompt_rows: AtomicU64,
    /// Rows computed to check proposals, and those whose proposal was right.
    pub proposed_rows: AtomicU64,
    pub accepted_rows: AtomicU64,
    /// Of these, the draft model's, and the time that it took.
    pub draft_rows: AtomicU64,
    pub draft_accepted_rows: AtomicU64,
    pub draft_us: AtomicU64,
    /// Gauge: adapters that requests may name.
    pub adapters: AtomicU64,
    /// Gauge: pages that [`crate::Engine::pin`] keeps.
    pub pages_pinned: AtomicU64,
    /// Pages of the prefix cache written to disk, read from there, and files there that were not what they should be.
    pub disk_pages_written: AtomicU64,
    pub disk_pages_read: AtomicU64,
    pub disk_files_damaged: AtomicU64,
    /// Of accepted requests.
    pub prompt_tokens: AtomicU64,
    pub generated_tokens: AtomicU64,
    pub finished: AtomicU64,
    /// Receivers that were dropped before the end.
    pub cancelled: AtomicU64,
    pub failed: AtomicU64,
    pub refused: AtomicU64,
    pub preemptions: AtomicU64,
    /// Gauge: smoothed time between two requests' ends under load.
    pub finish_interval_us: AtomicU64,
}

impl Stats {
    pub(crate) fn add(counter: &AtomicU64, count: usize) {
        counter.fetch_add(count as u64, Ordering::Relaxed);
    }

    pub(crate) fn subtract(gauge: &AtomicU64, count: usize) {
        gauge.fetch_sub(count as u64, Ordering::Relaxed);
    }

    pub(crate) fn set(gauge: &AtomicU64, value: usize) {
        gauge.store(value as u64, Ordering::Relaxed);
    }

    pub(crate) fn get(counter: &AtomicU64) -> u64 {
        counter.load(Ordering::Relaxed)
    }
}
