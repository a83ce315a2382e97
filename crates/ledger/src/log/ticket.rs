//! What an append gives back: a promise of the entry's index, once it is on the disk, and before that of its having been written.
//! A thread can wait for it, and an async server can await it, without this crate knowing any runtime.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::error::LedgerError;

/// Resolves to the entry's index when it is durable, or to why it is not in the log. May be dropped: the entry is written
/// all the same.
#[derive(Debug)]
pub struct Ticket(Arc<Promise>);

#[derive(Debug, Default)]
pub(super) struct Promise {
    state: Mutex<State>,
    kept: Condvar,
}

#[derive(Debug, Default)]
struct State {
    written: bool,
    outcome: Option<Result<u64, LedgerError>>,
    waker: Option<Waker>,
    waker_of_written: Option<Waker>,
}

impl Ticket {
    pub(super) fn new() -> (Self, Arc<Promise>) {
        let promise = Arc::new(Promise::default());
        (Self(Arc::clone(&promise)), promise)
    }

    /// Blocks until the entry is durable.
    ///
    /// # Errors
    /// Why the entry is not in the log.
    pub fn wait(self) -> Result<u64, LedgerError> {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(outcome) = &state.outcome {
                return outcome.clone();
            }
            state = self.0.kept.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Resolves once the operating system has the entry, before the disk does: it survives this process, not a power cut.
    pub fn written(&self) -> Written {
        Written(Arc::clone(&self.0))
    }

    /// A view of the outcome that stays when the ticket is awaited.
    pub fn watch(&self) -> Watch {
        Watch(Arc::clone(&self.0))
    }
}

/// See [`Ticket::written`].
#[derive(Debug)]
pub struct Written(Arc<Promise>);

/// Shows a ticket's outcome to somebody who does not wait for it.
#[derive(Clone, Debug)]
pub struct Watch(Arc<Promise>);

impl Watch {
    pub fn outcome(&self) -> Option<Result<u64, LedgerError>> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner).outcome.clone()
    }
}

impl Future for Ticket {
    type Output = Result<u64, LedgerError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        match &state.outcome {
            Some(outcome) => Poll::Ready(outcome.clone()),
            None => {
                state.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Future for Written {
    type Output = Result<(), LedgerError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        match &state.outcome {
            Some(Err(error)) => Poll::Ready(Err(error.clone())),
            _ if state.written => Poll::Ready(Ok(())),
            _ => {
                state.waker_of_written = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Promise {
    pub(super) fn written(&self) {
        let waker = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.written = true;
            state.waker_of_written.take()
        };
        waker.into_iter().for_each(Waker::wake);
    }

    pub(super) fn keep(&self, outcome: Result<u64, LedgerError>) {
        let wakers = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.outcome = Some(outcome);
            [state.waker.take(), state.waker_of_written.take()]
        };
        self.kept.notify_all();
        wakers.into_iter().flatten().for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_can_be_awaited_and_waited_for() {
        struct Flag(std::sync::atomic::AtomicBool);
        impl std::task::Wake for Flag {
            fn wake(self: Arc<Self>) {
                self.0.store(true, std::sync::atomic::Ordering::SeqCst);
            }
        }
        let flag = Arc::new(Flag(false.into()));
        let (mut ticket, promise) = Ticket::new();
        let waker = Waker::from(Arc::clone(&flag));
        let mut context = Context::from_waker(&waker);
        let mut written = ticket.written();
        assert!(Pin::new(&mut written).poll(&mut context).is_pending());
        promise.written();
        assert!(flag.0.swap(false, std::sync::atomic::Ordering::SeqCst));
        assert!(matches!(Pin::new(&mut written).poll(&mut context), Poll::Ready(Ok(()))));
        assert!(Pin::new(&mut ticket).poll(&mut context).is_pending());
        assert!(ticket.watch().outcome().is_none() && !flag.0.load(std::sync::atomic::Ordering::SeqCst));
        promise.keep(Ok(3));
        assert!(flag.0.load(std::sync::atomic::Ordering::SeqCst));
        assert!(matches!(Pin::new(&mut ticket).poll(&mut context), Poll::Ready(Ok(3))));
        assert_eq!(ticket.wait().unwrap(), 3);
    }
}
