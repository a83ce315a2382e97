//! The thread that a token's module runs on. A module that hangs, as those of network devices do, must not hang whoever wants a
//! signature: they hear that it is late, and so does everybody at once until it answers again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

pub(crate) type Signed = Result<[u8; 64], String>;

pub(crate) struct Worker {
    queue: Option<SyncSender<(Vec<u8>, SyncSender<Signed>)>>,
    thread: Option<JoinHandle<()>>,
    patience: Duration,
    /// Somebody gave up, and what they wanted may still be under way.
    late: AtomicBool,
    /// Handed over and not done yet.
    under_way: Arc<AtomicUsize>,
}

/// Of the ledger and a new session at the same time, with room to spare.
const QUEUE: usize = 8;

impl Worker {
    pub(crate) fn start(
        patience: Duration,
        mut sign: impl FnMut(&[u8]) -> Signed + Send + 'static,
    ) -> std::io::Result<Self> {
        let (queue, work) = sync_channel::<(Vec<u8>, SyncSender<Signed>)>(QUEUE);
        let under_way = Arc::new(AtomicUsize::new(0));
        let left = Arc::clone(&under_way);
        let thread = std::thread::Builder::new().name("token".to_owned()).spawn(move || {
            for (message, reply) in work {
                let signed = sign(&message);
                left.fetch_sub(1, Ordering::SeqCst);
                // Whoever gave up is gone.
                let _ = reply.send(signed);
            }
        })?;
        Ok(Self { queue: Some(queue), thread: Some(thread), patience, late: AtomicBool::new(false), under_way })
    }

    pub(crate) fn sign(&self, message: &[u8]) -> Signed {
        let late =
            || format!("the token has not answered for {} s; look at it with its own tools", self.patience.as_secs());
        if self.late.load(Ordering::SeqCst) {
            if self.under_way.load(Ordering::SeqCst) > 0 {
                return Err(late());
            }
            self.late.store(false, Ordering::SeqCst);
        }
        let (reply, answer) = sync_channel(1);
        self.under_way.fetch_add(1, Ordering::SeqCst);
        if self.queue.as_ref().is_none_or(|queue| queue.try_send((message.to_vec(), reply)).is_err()) {
            self.under_way.fetch_sub(1, Ordering::SeqCst);
            return Err(late());
        }
        answer.recv_timeout(self.patience).unwrap_or_else(|_| {
            self.late.store(true, Ordering::SeqCst);
            Err(late())
        })
    }
}

/// Waits for the thread to leave the module: one that is still in it when the process ends would run in what is gone. A module that
/// hangs is not waited for.
impl Drop for Worker {
    fn drop(&mut self) {
        self.queue = None;
        let hangs = self.late.load(Ordering::SeqCst) && self.under_way.load(Ordering::SeqCst) > 0;
        if let Some(thread) = self.thread.take().filter(|_| !hangs) {
            // One that panicked has said so.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn a_token_that_hangs_is_late_for_everybody_and_comes_back() {
        let (go, gate) = channel();
        let worker = Worker::start(Duration::from_millis(20), move |message| {
            if message == b"slow" {
                gate.recv().unwrap();
            }
            Ok([7; 64])
        });
        let worker = worker.unwrap();
        // Until the thread has come up it may be late, too.
        while worker.sign(b"quick").is_err() {
            std::thread::yield_now();
        }
        assert!(worker.sign(b"slow").unwrap_err().contains("has not answered"));
        assert!(worker.sign(b"quick").is_err());
        go.send(()).unwrap();
        while worker.sign(b"quick").is_err() {
            std::thread::yield_now();
        }
    }
}
