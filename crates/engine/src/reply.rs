//! What comes back once, whole, and what a request cost. Generations come piece by piece: `request.rs`, `Stream`.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use tokio::sync::oneshot;

/// What comes back once, whole. Dropping it cancels the request.
#[derive(Debug)]
pub struct Reply<T> {
    receiver: oneshot::Receiver<Result<T, String>>,
    cpu: CpuTime,
}

impl<T> Reply<T> {
    pub(crate) fn new() -> (oneshot::Sender<Result<T, String>>, Self, CpuTime) {
        let (sender, receiver) = oneshot::channel();
        let cpu = CpuTime::default();
        (sender, Self { receiver, cpu: cpu.clone() }, cpu)
    }

    /// To be read at any time, also when the reply is here.
    pub fn cpu_time(&self) -> CpuTime {
        self.cpu.clone()
    }

    /// Waits, outside of async code. The inner error says what failed.
    ///
    /// # Errors
    /// The engine is gone.
    pub fn blocking_recv(self) -> Result<Result<T, String>, oneshot::error::RecvError> {
        self.receiver.blocking_recv()
    }
}

/// As [`Reply::blocking_recv`].
impl<T> Future for Reply<T> {
    type Output = Result<Result<T, String>, oneshot::error::RecvError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.receiver).poll(context)
    }
}

/// CPU time that the engine's threads spent on a request until now: of each step its part of the rows. A step is counted before
/// its tokens come out; drawing them counts with the next one. Of several choices of one prompt the first one has the prompt's.
#[derive(Clone, Debug, Default)]
pub struct CpuTime(Arc<AtomicU64>);

impl CpuTime {
    pub fn ns(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn add(&self, ns: u64) {
        self.0.fetch_add(ns, Ordering::Relaxed);
    }
}
