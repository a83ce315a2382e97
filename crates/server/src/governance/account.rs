//! What follows an answer: its receipt becomes durable, and what it came to is written down. While the disk does not take the receipt it
//! is tried again; nobody is let in meanwhile, so that no more come to wait than were running.

use std::sync::Arc;
use std::time::Duration;

use falaj_ledger::{Claims, LedgerError, Recorded};
use falaj_store::{Entered, Settled};

use super::Governance;
use super::book::settlement;
use crate::ids;

const AGAIN: Duration = Duration::from_secs(1);

/// An answer that has ended.
pub(super) struct Account {
    pub(super) claims: Claims,
    pub(super) cached_tokens: u64,
    /// Millionths.
    pub(super) money: u64,
}

impl Account {
    /// `recorded`: the receipt that the answer itself came with, or why it has none. Waits for nothing.
    pub(super) fn close(self, governance: &Arc<Governance>, recorded: Result<Recorded, LedgerError>) {
        let Some(book) = &governance.book else { return };
        // Where nothing runs any more, the next start settles it by the receipt.
        let runtime = tokio::runtime::Handle::try_current();
        let again = |this: Self, governance: Arc<Governance>, error: LedgerError| {
            tracing::error!(%error, "a receipt was not written, and is tried again");
            runtime.map(|runtime| runtime.spawn(this.close_later(governance)))
        };
        match recorded {
            Ok(Recorded { receipt, ticket }) => {
                let settled = settlement(&self.claims, self.cached_tokens, self.money, receipt);
                // What waits in the meter must not keep it.
                let governance = Arc::downgrade(governance);
                let entered = move || {
                    ticket.wait().map_err(|error| {
                        let reason = error.to_string();
                        governance.upgrade().map(|governance| again(self, governance, error));
                        reason
                    })
                };
                if let Err(error) = book.meter.settle_once(settled, Entered::When(Box::new(entered))) {
                    tracing::error!(%error, "usage was not written: the next start settles it");
                }
            }
            Err(error) => drop(again(self, Arc::clone(governance), error)),
        }
    }

    async fn close_later(mut self, governance: Arc<Governance>) {
        let Some(book) = &governance.book else { return };
        let (receipt, entry) = loop {
            tokio::time::sleep(AGAIN).await;
            // A receipt is of the time at which it was signed.
            self.claims.time_ms = ids::now_ms();
            let written = match book.recorder.record(self.claims.clone()) {
                Ok(Recorded { receipt, ticket }) => ticket.await.map(|entry| (receipt, entry)),
                Err(error) => Err(error),
            };
            match written {
                Ok(written) => break written,
                Err(error) => tracing::error!(%error, "a receipt was not written, and is tried again"),
            }
        };
        let settled = Settled { entry, ..settlement(&self.claims, self.cached_tokens, self.money, receipt) };
        if let Err(error) = book.meter.settle_once(settled, Entered::At(entry)) {
            tracing::error!(%error, "usage was not written: the next start settles it");
        }
    }
}
