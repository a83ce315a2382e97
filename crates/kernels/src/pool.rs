//! Threads that wait for numeric work: they spin for some tens of microseconds after the last job and then sleep, so
//! that an idle server costs nothing. A thread that is late (asleep, or a neighbour has its core) is not waited for:
//! the others take its share.

use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

/// `threads` threads, of which the caller of [`Pool::run`] is one. Runs one job at a time; callers queue.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    one_job: Mutex<()>,
}

impl Pool {
    /// # Panics
    /// Where the system gives no thread.
    pub fn new(threads: usize) -> Self {
        let shared = Arc::new(Shared::default());
        let workers = (1..threads.max(1))
            .map(|worker| {
                let shared = Arc::clone(&shared);
                thread::Builder::new()
                    .name(format!("falaj-pool-{worker}"))
                    .spawn(move || shared.work(worker))
                    .expect("the system gives threads at start")
            })
            .collect();
        Self { shared, workers, one_job: Mutex::new(()) }
    }

    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// How many threads this process can keep busy: the CPUs that its affinity allows, those that the quota of its
    /// control group pays for (v1 and v2, rounded down, at least 1), and no more than there are cores under them.
    pub fn available_threads() -> usize {
        // The standard library reads the affinity and the quotas of all enclosing groups.
        let cpus = thread::available_parallelism().map_or(1, usize::from);
        crate::topology::usable_cores(Path::new("/")).map_or(cpus, |cores| cores.min(cpus))
    }

    /// Calls `f(task, worker)` once for each task in `0..tasks` and returns when all are done. `worker` is below
    /// `threads()`, and no two calls with the same `worker` overlap; the caller's thread is worker 0. Which worker takes
    /// which task is not fixed, so results must not depend on it. A task that calls `run` gets its tasks done on its own thread.
    ///
    /// # Panics
    /// With the first panic of a task, after the others have ended.
    pub fn run(&self, tasks: usize, f: impl Fn(usize, usize) + Sync) {
        if tasks == 0 {
            return;
        }
        if let Some(worker) = INSIDE.get().map(|worker| worker.min(self.workers.len())) {
            (0..tasks).for_each(|task| f(task, worker));
            return;
        }
        let _one_job = lock(&self.one_job);
        let _inside = Inside::enter(0);
        if tasks == 1 || self.workers.is_empty() {
            (0..tasks).for_each(|task| f(task, 0));
            return;
        }
        self.shared.run(tasks, &f);
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        drop(lock(&self.shared.sleep));
        self.shared.wake.notify_all();
        for worker in self.workers.drain(..) {
            // A worker catches every panic of a task, so joining cannot fail in a way that matters here.
            let _ = worker.join();
        }
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pool({} threads)", self.threads())
    }
}

/// `state` holds the job's number (high 32 bits), whether it may still be joined (bit 31) and how many workers are in
/// it. A worker joins by compare-and-swap, so the caller can close a job and knows exactly whom to wait for.
#[derive(Default)]
struct Shared {
    state: AtomicU64,
    next_task: AtomicUsize,
    // INVARIANT: written only by the caller of `run`, while the job is closed and nobody is in it; read only by workers
    // that have joined.
    job: UnsafeCell<Option<Job>>,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    sleepers: AtomicUsize,
    caller_waits: AtomicBool,
    stopping: AtomicBool,
    sleep: Mutex<()>,
    wake: Condvar,
    done: Condvar,
}

#[derive(Clone, Copy)]
struct Job {
    // The lifetime is erased: `Shared::run` does not return before everybody has left the job.
    task: *const (dyn Fn(usize, usize) + Sync),
    tasks: usize,
}

const OPEN: u64 = 1 << 31;
const IN_IT: u64 = OPEN - 1;
/// About 50 µs on Zen 4 and 100 µs on Skylake: longer than the gaps between the operations of one decoding step.
const SPINS: usize = 2048;

// SAFETY: `job` is the only field that is not Sync; its invariant orders writes and reads through `state`.
unsafe impl Sync for Shared {}
// SAFETY: the pointer in `job` is to a Sync closure, so it may be used from any thread while it lives.
unsafe impl Send for Shared {}

impl Shared {
    fn run(&self, tasks: usize, f: &(dyn Fn(usize, usize) + Sync)) {
        // SAFETY: only the lifetime changes. Nobody uses the pointer after this function, which waits for all below.
        let task =
            unsafe { std::mem::transmute::<&(dyn Fn(usize, usize) + Sync), &'static (dyn Fn(usize, usize) + Sync)>(f) };
        // SAFETY: the last job was closed and left by all before its `run` returned, and `one_job` is held.
        unsafe { *self.job.get() = Some(Job { task, tasks }) };
        self.next_task.store(0, Ordering::Relaxed);
        let number = (self.state.load(Ordering::Relaxed) >> 32).wrapping_add(1) & 0xffff_ffff;
        self.state.store((number << 32) | OPEN, Ordering::SeqCst);
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            drop(lock(&self.sleep));
            self.wake.notify_all();
        }

        self.take_tasks(Job { task, tasks }, 0);
        self.state.fetch_and(!OPEN, Ordering::SeqCst);
        self.wait_until_left();
        let panic = lock(&self.panic).take();
        if let Some(payload) = panic {
            resume_unwind(payload);
        }
    }

    fn wait_until_left(&self) {
        let left = || self.state.load(Ordering::SeqCst) & IN_IT == 0;
        if spin_until(left) {
            return;
        }
        let mut guard = lock(&self.sleep);
        self.caller_waits.store(true, Ordering::SeqCst);
        while !left() {
            guard = self.done.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        self.caller_waits.store(false, Ordering::SeqCst);
    }

    fn work(&self, worker: usize) {
        let _inside = Inside::enter(worker);
        let mut last = 0;
        while let Some(number) = self.next_job(last) {
            last = number;
            if !self.join(number) {
                continue;
            }
            // SAFETY: having joined, by the invariant of `job`.
            let job = unsafe { *self.job.get() };
            if let Some(job) = job {
                self.take_tasks(job, worker);
            }
            let state = self.state.fetch_sub(1, Ordering::SeqCst) - 1;
            if state & (OPEN | IN_IT) == 0 && self.caller_waits.load(Ordering::SeqCst) {
                drop(lock(&self.sleep));
                self.done.notify_one();
            }
        }
    }

    /// The number of a job other than `last` that is open; `None` when the pool stops.
    fn next_job(&self, last: u64) -> Option<u64> {
        let fresh = || {
            let state = self.state.load(Ordering::SeqCst);
            state & OPEN != 0 && state >> 32 != last
        };
        let stopping = || self.stopping.load(Ordering::SeqCst);
        if !spin_until(|| fresh() || stopping()) {
            let mut guard = lock(&self.sleep);
            self.sleepers.fetch_add(1, Ordering::SeqCst);
            while !fresh() && !stopping() {
                guard = self.wake.wait(guard).unwrap_or_else(PoisonError::into_inner);
            }
            self.sleepers.fetch_sub(1, Ordering::SeqCst);
        }
        if stopping() { None } else { Some(self.state.load(Ordering::SeqCst) >> 32) }
    }

    fn join(&self, number: u64) -> bool {
        self.state
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |state| {
                (state >> 32 == number && state & OPEN != 0).then_some(state + 1)
            })
            .is_ok()
    }

    fn take_tasks(&self, job: Job, worker: usize) {
        // SAFETY: the caller of `run` waits for everybody in the job, so the closure lives.
        let task = unsafe { &*job.task };
        let result = catch_unwind(AssertUnwindSafe(|| {
            loop {
                let next = self.next_task.fetch_add(1, Ordering::Relaxed);
                if next >= job.tasks {
                    break;
                }
                task(next, worker);
            }
        }));
        if let Err(payload) = result {
            self.next_task.store(job.tasks, Ordering::Relaxed);
            lock(&self.panic).get_or_insert(payload);
        }
    }
}

thread_local! {
    static INSIDE: Cell<Option<usize>> = const { Cell::new(None) };
}

/// Marks this thread as busy with a job for as long as it lives.
struct Inside;

impl Inside {
    fn enter(worker: usize) -> Self {
        INSIDE.set(Some(worker));
        Self
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        INSIDE.set(None);
    }
}

fn spin_until(done: impl Fn() -> bool) -> bool {
    for _ in 0..SPINS {
        if done() {
            return true;
        }
        std::hint::spin_loop();
    }
    false
}

/// No state behind these locks can be half-written, so a panic elsewhere does not matter.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(pool: &Pool, tasks: usize) -> Vec<usize> {
        let counts: Vec<_> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
        pool.run(tasks, |task, worker| {
            assert!(worker < pool.threads());
            counts[task].fetch_add(1, Ordering::Relaxed);
        });
        counts.into_iter().map(AtomicUsize::into_inner).collect()
    }

    #[test]
    fn every_task_runs_once() {
        for threads in [0, 1, 2, 5] {
            let pool = Pool::new(threads);
            for tasks in [0, 1, 2, 3, 100] {
                for _ in 0..50 {
                    assert_eq!(counts(&pool, tasks), vec![1; tasks]);
                }
            }
        }
    }

    #[test]
    fn sleeping_threads_and_other_callers_do_not_break_a_job() {
        let pool = Pool::new(3);
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        assert_eq!(counts(&pool, 7), vec![1; 7]);
                        // Long enough for the workers to give up spinning, whatever the machine: wait for it.
                        if pool.shared.sleepers.load(Ordering::SeqCst) == 0 {
                            thread::yield_now();
                        }
                    }
                });
            }
        });
        while pool.shared.sleepers.load(Ordering::SeqCst) < 2 {
            thread::yield_now();
        }
        assert_eq!(counts(&pool, 9), vec![1; 9]);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        let pool = Pool::new(2);
        for bad in [0, 5, 9] {
            let result = catch_unwind(AssertUnwindSafe(|| {
                pool.run(10, |task, _| assert!(task != bad, "task {task}"));
            }));
            let message = *result.unwrap_err().downcast::<String>().unwrap();
            assert_eq!(message, format!("task {bad}"));
            assert_eq!(counts(&pool, 10), vec![1; 10]);
        }
    }

    #[test]
    fn a_job_within_a_job_runs_on_its_thread() {
        let pool = Pool::new(2);
        let total = AtomicUsize::new(0);
        pool.run(4, |_, outer| {
            pool.run(3, |_, inner| {
                assert_eq!(inner, outer);
                total.fetch_add(1, Ordering::Relaxed);
            });
        });
        assert_eq!(total.into_inner(), 12);
    }

    #[test]
    fn workers_never_share_a_number() {
        let pool = Pool::new(4);
        let busy: Vec<_> = (0..4).map(|_| AtomicBool::new(false)).collect();
        pool.run(200, |_, worker| {
            assert!(!busy[worker].swap(true, Ordering::SeqCst));
            thread::yield_now();
            busy[worker].store(false, Ordering::SeqCst);
        });
    }
}
