//! How a site's ledger and clock are: a word in the log whenever that changes, gauges, and whether anybody is let in at all.

use std::sync::{Mutex, PoisonError};

use falaj_ledger::LedgerError;

use super::Governance;
use crate::clock;
use crate::metrics::Exposition;

/// What the log was told last.
#[derive(Default)]
pub(super) struct Told(Mutex<[Option<String>; WHAT.len()]>);

const WHAT: [&str; 4] = ["appending", "publishing", "signing", "retiring"];

/// Less is what time servers mend every day.
const BEHIND_MS: u64 = 2_000;

impl Governance {
    /// Why nobody is let in until it has gone by itself; `None` while requests are taken.
    pub(crate) fn hindrance(&self) -> Option<LedgerError> {
        self.book.as_ref()?.log.signed().err()
    }

    pub(super) fn tell_condition(&self) {
        let behind_ms = clock::behind_ms();
        let mut told = self.told.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (at, what) in WHAT.iter().enumerate() {
            let now = self.failing(at).map(|error| error.to_string());
            match (&now, told.get(at).and_then(Option::as_ref)) {
                (Some(error), before) if before != Some(error) => tracing::error!(error, "the ledger: {what} fails"),
                (None, Some(_)) => tracing::warn!("the ledger: {what} works again"),
                _ => {}
            }
            if let Some(told) = told.get_mut(at) {
                *told = now;
            }
        }
        drop(told);
        let behind = behind_ms >= BEHIND_MS;
        if self.behind.swap(behind, std::sync::atomic::Ordering::Relaxed) != behind {
            let behind_s = behind_ms / 1000;
            match behind {
                true => tracing::warn!(
                    behind_s,
                    "the system's clock was set back; this site's time goes on from where it was, so that nothing that has expired comes back"
                ),
                false => tracing::warn!("the system's clock has caught up with this site's time"),
            }
        }
    }

    fn failing(&self, at: usize) -> Option<LedgerError> {
        let health = self.book.as_ref()?.log.health();
        [health.appending, health.publishing, health.signing, health.retiring].into_iter().nth(at).flatten()
    }

    pub(crate) fn write_condition(&self, out: &mut Exposition) {
        out.family("falaj_clock_behind_seconds", "gauge", "By how much the system's clock is behind this site's time.");
        out.sample("falaj_clock_behind_seconds", &[], clock::behind_ms() as f64 / 1e3);
        let Some(book) = &self.book else { return };
        out.family("falaj_ledger_entries_total", "counter", "Durable entries of the ledger.");
        out.sample("falaj_ledger_entries_total", &[], book.log.size() as f64);
        out.family("falaj_ledger_failing", "gauge", "1 where the ledger's last attempt failed.");
        for (at, what) in WHAT.iter().enumerate() {
            let failing = f64::from(u8::from(self.failing(at).is_some()));
            out.sample("falaj_ledger_failing", &[("what", what)], failing);
        }
    }
}
