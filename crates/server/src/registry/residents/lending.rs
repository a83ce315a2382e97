//! What a request holds: a loan, which it gives back by dropping it, or the wait for one, which it gives up likewise.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use tokio::sync::oneshot;

use super::state::{Condition, Resident};
use super::{Refusal, Residents};
use crate::registry::Loan;

/// Returns a loan.
pub(in crate::registry) struct Return {
    pub(super) residents: Arc<Residents>,
    pub(super) id: String,
    /// A look at the metrics is no use.
    pub(super) counts: bool,
}

impl Drop for Return {
    fn drop(&mut self) {
        self.residents.change(|state, _| {
            state.clock += 1;
            let clock = state.clock;
            let Some(Resident { condition: Condition::Loaded(loaded), .. }) = state.models.get_mut(&self.id) else {
                return;
            };
            loaded.loans = loaded.loans.saturating_sub(1);
            if self.counts {
                (loaded.used, loaded.idle_since) = (clock, Instant::now());
                let served = Arc::clone(&loaded.served);
                state.base_is_used(&served.facts);
            }
        });
    }
}

/// The wait for a model.
pub(in crate::registry) struct Waiting {
    pub(super) answer: oneshot::Receiver<Result<Loan, Refusal>>,
    // Dropped second: by then it shows that nobody waits here.
    pub(super) _tidy: Tidy,
}

impl Future for Waiting {
    type Output = Result<Loan, Refusal>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        // Every waiter is answered; one that is dropped unanswered went down with its registry.
        Pin::new(&mut self.answer).poll(context).map(|answer| answer.unwrap_or(Err(Refusal::Stopping)))
    }
}

pub(super) struct Tidy(pub(super) Arc<Residents>);

impl Drop for Tidy {
    fn drop(&mut self) {
        self.0.change(|_, _| ());
    }
}
