//! What the threads of a pool share: the open job, who sleeps, who is left out, and how one joins and leaves.

use std::any::Any;
use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::lateness::{Lateness, Trial};
use super::meter::Meter;

/// `state` holds the job's number (high 32 bits), whether it may still be joined (bit 31) and how many workers are in
/// it. A worker joins by compare-and-swap, so the caller can close a job and knows exactly whom to wait for.
pub(super) struct Shared {
    state: AtomicU64,
    next_task: AtomicUsize,
    // INVARIANT: written only by the caller of `run`, while the job is closed and nobody is in it; read only by workers
    // that have joined.
    job: UnsafeCell<Option<Job>>,
    panicked: AtomicBool,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    /// One for each worker; worker `w` has `seats[w - 1]`.
    pub(super) seats: Box<[Seat]>,
    pub(super) sleepers: AtomicUsize,
    pub(super) left_out: AtomicUsize,
    /// The number of a job so long that those who are left out shall join it.
    called_for: AtomicU64,
    /// How long one who is left out sleeps before its trial.
    rest: Duration,
    pub(super) stopping: AtomicBool,
    caller_waits: AtomicBool,
    done_lock: Mutex<()>,
    done: Condvar,
}

/// What the others must know of one worker. On a cache line of its own, since each worker writes its seat.
#[derive(Default)]
#[repr(align(64))]
pub(super) struct Seat {
    pub(super) asleep: AtomicBool,
    pub(super) left_out: AtomicBool,
    /// The caller asks it to stay away for a while.
    pub(super) sent_out: AtomicBool,
}

#[derive(Clone, Copy)]
pub(super) struct Job {
    // The lifetime is erased: the maker waits until everybody has left the job.
    task: *const (dyn Fn(usize, usize) + Sync),
    tasks: usize,
}

const OPEN: u64 = 1 << 31;
const IN_IT: u64 = OPEN - 1;
/// About 50 µs on Zen 4 and 100 µs on Skylake: longer than the gaps between the operations of one decoding step.
const SPINS: usize = 2048;
/// A job that will still take as long as this gains from a thread that has its core for half of the time, though at its
/// end all may wait for that thread.
const LONG: Duration = Duration::from_millis(8);

// SAFETY: `job` is the only field that is not Sync; its invariant orders writes and reads through `state`.
unsafe impl Sync for Shared {}
// SAFETY: the pointer in `job` is to a Sync closure, so it may be used from any thread while it lives.
unsafe impl Send for Shared {}

impl Job {
    /// # Safety
    /// `f` outlives every use of the job: who opens it waits in [`Shared::wait_until_left`] before `f` ends.
    pub(super) unsafe fn new(tasks: usize, f: &(dyn Fn(usize, usize) + Sync)) -> Self {
        // SAFETY: only the lifetime changes; the caller keeps it.
        let task =
            unsafe { std::mem::transmute::<&(dyn Fn(usize, usize) + Sync), &'static (dyn Fn(usize, usize) + Sync)>(f) };
        Self { task, tasks }
    }
}

/// The side of the caller of `run`. Only one at a time: it holds the pool's lock.
impl Shared {
    pub(super) fn new(workers: usize, rest: Duration) -> Self {
        Self {
            state: AtomicU64::new(0),
            next_task: AtomicUsize::new(0),
            job: UnsafeCell::new(None),
            panicked: AtomicBool::new(false),
            panic: Mutex::new(None),
            seats: (0..workers).map(|_| Seat::default()).collect(),
            sleepers: AtomicUsize::new(0),
            left_out: AtomicUsize::new(0),
            called_for: AtomicU64::new(0),
            rest,
            stopping: AtomicBool::new(false),
            caller_waits: AtomicBool::new(false),
            done_lock: Mutex::new(()),
            done: Condvar::new(),
        }
    }

    /// Lets workers join the job. Those that sleep must be woken after it.
    pub(super) fn open(&self, job: Job) {
        // SAFETY: the last job was closed and left by all before its `run` returned, and only one caller is here.
        unsafe { *self.job.get() = Some(job) };
        self.next_task.store(0, Ordering::Relaxed);
        let number = (self.number() + 1) & 0xffff_ffff;
        self.state.store((number << 32) | OPEN, Ordering::SeqCst);
    }

    /// Takes tasks like a worker; where workers are left out and much remains to be done, `call` is called once.
    pub(super) fn take_tasks_and_call(&self, job: Job, call: impl Fn()) {
        if self.left_out.load(Ordering::Relaxed) == 0 {
            return self.take_tasks(job, 0, |_| {});
        }
        let (start, mut called) = (Instant::now(), false);
        self.take_tasks(job, 0, |task| {
            if called {
                return;
            }
            let (begun, elapsed) = (task as u32 + 1, start.elapsed());
            called = elapsed > LONG / 4 && elapsed / begun * (job.tasks as u32 - begun) > LONG;
            if called {
                self.called_for.store(self.number(), Ordering::SeqCst);
                call();
            }
        });
    }

    /// Closes the job and waits for those in it. Returns how long this thread slept for that.
    pub(super) fn wait_until_left(&self) -> Duration {
        self.state.fetch_and(!OPEN, Ordering::SeqCst);
        let left = || self.state.load(Ordering::SeqCst) & IN_IT == 0;
        if spin_until(left) {
            return Duration::ZERO;
        }
        let start = Instant::now();
        let mut guard = lock(&self.done_lock);
        self.caller_waits.store(true, Ordering::SeqCst);
        while !left() {
            guard = self.done.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        self.caller_waits.store(false, Ordering::SeqCst);
        start.elapsed()
    }

    /// The first panic of the last job.
    pub(super) fn panic(&self) -> Option<Box<dyn Any + Send>> {
        if self.panicked.swap(false, Ordering::SeqCst) { lock(&self.panic).take() } else { None }
    }

    /// Asks one more worker to stay away for a while.
    pub(super) fn send_one_out(&self) {
        let there = |seat: &&Seat| !seat.left_out.load(Ordering::SeqCst) && !seat.sent_out.load(Ordering::SeqCst);
        if let Some(seat) = self.seats.iter().rev().find(there) {
            seat.sent_out.store(true, Ordering::SeqCst);
        }
    }
}

/// The workers' side.
impl Shared {
    pub(super) fn work(&self, worker: usize) {
        let seat = &self.seats[worker - 1];
        let mut meter = Meter::new();
        let mut lateness = Lateness::new(self.seats.len() + 1);
        let mut last = 0;
        while let Some(number) = self.next_job(seat, last, &mut meter) {
            if seat.sent_out.swap(false, Ordering::SeqCst) {
                self.stay_out(worker, &mut last);
                meter = Meter::new();
                lateness.forget();
                continue;
            }
            last = number;
            self.take_part(number, worker);
            if let Some((wanted, stolen)) = meter.look()
                && lateness.observe(wanted, stolen)
            {
                seat.sent_out.store(true, Ordering::SeqCst);
            }
        }
    }

    /// The number of a job other than `last` that is open; `None` when the pool stops.
    fn next_job(&self, seat: &Seat, last: u64, meter: &mut Meter) -> Option<u64> {
        let fresh = || self.open_job().is_some_and(|number| number != last);
        let ready = || fresh() || self.stopping();
        if !spin_until(ready) {
            let start = Instant::now();
            // The caller opens a job and then looks for sleepers, we say that we sleep and then look for a job: with
            // one order of all four, one of us sees the other.
            seat.asleep.store(true, Ordering::SeqCst);
            self.sleepers.fetch_add(1, Ordering::SeqCst);
            while !ready() {
                thread::park();
            }
            self.sleepers.fetch_sub(1, Ordering::SeqCst);
            seat.asleep.store(false, Ordering::SeqCst);
            meter.slept(start.elapsed());
        }
        if self.stopping() { None } else { Some(self.number()) }
    }

    fn take_part(&self, number: u64, worker: usize) {
        let joined = self.state.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |state| {
            (state >> 32 == number && state & OPEN != 0).then_some(state + 1)
        });
        if joined.is_err() {
            return;
        }
        // SAFETY: having joined, by the invariant of `job`.
        if let Some(job) = unsafe { *self.job.get() } {
            self.take_tasks(job, worker, |_| {});
        }
        let state = self.state.fetch_sub(1, Ordering::SeqCst) - 1;
        if state & (OPEN | IN_IT) == 0 && self.caller_waits.load(Ordering::SeqCst) {
            drop(lock(&self.done_lock));
            self.done.notify_one();
        }
    }

    /// Sleeps while the others work, but for jobs that call for everybody, until this thread can have a core again or
    /// nobody works any more.
    fn stay_out(&self, worker: usize, last: &mut u64) {
        let seat = &self.seats[worker - 1];
        seat.left_out.store(true, Ordering::SeqCst);
        self.left_out.fetch_add(1, Ordering::SeqCst);
        loop {
            let (number, end) = (self.number(), Instant::now() + self.rest);
            while let Some(time) = end.checked_duration_since(Instant::now())
                && !self.stopping()
            {
                match self.open_job() {
                    Some(open) if open != *last && open == self.called_for.load(Ordering::SeqCst) => {
                        *last = open;
                        self.take_part(open, worker);
                    }
                    _ => thread::park_timeout(time),
                }
            }
            if self.stopping() || self.number() == number || self.passes_trial() {
                break;
            }
        }
        self.left_out.fetch_sub(1, Ordering::SeqCst);
        seat.left_out.store(false, Ordering::SeqCst);
    }

    fn passes_trial(&self) -> bool {
        let (mut trial, mut last) = (Trial::new(self.seats.len() + 1), Instant::now());
        while !self.stopping() {
            std::hint::spin_loop();
            let now = Instant::now();
            if let Some(passed) = trial.observe(now - last) {
                return passed;
            }
            last = now;
        }
        true
    }

    fn take_tasks(&self, job: Job, worker: usize, mut after: impl FnMut(usize)) {
        // SAFETY: the caller of `run` waits for everybody in the job, so the closure lives.
        let task = unsafe { &*job.task };
        let result = catch_unwind(AssertUnwindSafe(|| {
            loop {
                let next = self.next_task.fetch_add(1, Ordering::Relaxed);
                if next >= job.tasks {
                    break;
                }
                task(next, worker);
                after(next);
            }
        }));
        if let Err(payload) = result {
            self.next_task.store(job.tasks, Ordering::Relaxed);
            lock(&self.panic).get_or_insert(payload);
            self.panicked.store(true, Ordering::SeqCst);
        }
    }

    fn number(&self) -> u64 {
        self.state.load(Ordering::SeqCst) >> 32
    }

    fn open_job(&self) -> Option<u64> {
        let state = self.state.load(Ordering::SeqCst);
        (state & OPEN != 0).then_some(state >> 32)
    }

    fn stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
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
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
