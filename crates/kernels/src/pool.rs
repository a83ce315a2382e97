//! Threads that wait for numeric work: they spin for some tens of microseconds after the last job and then sleep, so
//! that an idle server costs nothing. A thread that is asleep when a job begins is not waited for: the others take its
//! share. One that keeps losing its core to a neighbour in the middle of a task is left out for a while ([`lateness`]).

mod chunks;
mod lateness;
mod meter;
mod parts;
mod shared;

use std::cell::Cell;
use std::fmt;
use std::panic::resume_unwind;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use lateness::{Lateness, REST};
use meter::CallerMeter;
pub(crate) use parts::Parts;
use shared::{Job, Seat, Shared, lock};

/// `threads` threads, of which the caller of [`Pool::run`] is one. Runs one job at a time; callers queue.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    one_job: Mutex<Caller>,
}

/// What callers remember from job to job.
struct Caller {
    meter: CallerMeter,
    lateness: Lateness,
}

impl Pool {
    /// # Panics
    /// Where the system gives no thread.
    pub fn new(threads: usize) -> Self {
        Self::with_rest(threads, REST)
    }

    fn with_rest(threads: usize, rest: Duration) -> Self {
        let threads = threads.max(1);
        let shared = Arc::new(Shared::new(threads - 1, rest));
        let workers = (1..threads)
            .map(|worker| {
                let shared = Arc::clone(&shared);
                thread::Builder::new()
                    .name(format!("falaj-pool-{worker}"))
                    .spawn(move || {
                        let _inside = Inside::enter(worker);
                        shared.work(worker);
                    })
                    .expect("the system gives threads at start")
            })
            .collect();
        let caller = Caller { meter: CallerMeter::default(), lateness: Lateness::new(threads) };
        Self { shared, workers, one_job: Mutex::new(caller) }
    }

    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// CPU time that the workers and the calling thread have had since each began: what this grows by between two calls of the
    /// one thread that runs jobs here is what it and they took. One call to the system for each thread.
    pub fn cpu_time(&self) -> Duration {
        self.workers.iter().map(meter::cpu_time_of).fold(meter::thread_cpu_time(), |sum, time| sum + time)
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
        let mut caller = lock(&self.one_job);
        let _inside = Inside::enter(0);
        if tasks == 1 || self.workers.is_empty() {
            (0..tasks).for_each(|task| f(task, 0));
            return;
        }
        self.run_together(tasks, &f, &mut caller);
    }

    fn run_together(&self, tasks: usize, f: &(dyn Fn(usize, usize) + Sync), caller: &mut Caller) {
        let shared = &*self.shared;
        let start = caller.meter.start();
        // SAFETY: `f` outlives this function, which waits for all that are in the job.
        let job = unsafe { Job::new(tasks, f) };
        shared.open(job);
        if shared.sleepers.load(Ordering::SeqCst) > 0 {
            self.wake(|seat| &seat.asleep);
        }
        shared.take_tasks_and_call(job, || self.wake(|seat| &seat.left_out));
        let slept = shared.wait_until_left();
        let (wanted, stolen) = caller.meter.end(&start, slept);
        if caller.lateness.observe(wanted, stolen) {
            // A core less for us, and the system moves the neighbour there.
            shared.send_one_out();
            caller.lateness.forget();
        }
        if let Some(payload) = shared.panic() {
            resume_unwind(payload);
        }
    }

    fn wake(&self, whom: impl Fn(&Seat) -> &AtomicBool) {
        for (seat, worker) in self.shared.seats.iter().zip(&self.workers) {
            if whom(seat).load(Ordering::SeqCst) {
                worker.thread().unpark();
            }
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        self.workers.iter().for_each(|worker| worker.thread().unpark());
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::atomic::AtomicUsize;

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

    /// Runs jobs until every worker has been left out.
    fn send_all_out(pool: &Pool) {
        while pool.shared.left_out.load(Ordering::SeqCst) < pool.shared.seats.len() {
            pool.shared.send_one_out();
            assert_eq!(counts(pool, 5), vec![1; 5]);
            thread::yield_now();
        }
    }

    #[test]
    fn those_left_out_take_part_in_nothing_but_long_jobs() {
        let pool = Pool::with_rest(3, Duration::from_secs(3600));
        send_all_out(&pool);
        for _ in 0..100 {
            pool.run(10, |_, worker| assert_eq!(worker, 0));
        }
        // At 1 ms a task, one thread would need five seconds; it ends as soon as another has come.
        let others = AtomicUsize::new(0);
        pool.run(5000, |_, worker| {
            others.fetch_add(usize::from(worker > 0), Ordering::SeqCst);
            let start = std::time::Instant::now();
            while others.load(Ordering::SeqCst) == 0 && start.elapsed() < Duration::from_millis(1) {
                std::hint::spin_loop();
            }
        });
        assert!(others.into_inner() > 0);
        assert_eq!(pool.shared.left_out.load(Ordering::SeqCst), 2, "they stay out afterwards");
        // Dropping the pool must wake them, or this test would not end.
    }

    #[test]
    fn those_left_out_come_back_when_there_is_nothing_to_be_late_for() {
        let pool = Pool::with_rest(3, Duration::from_millis(1));
        send_all_out(&pool);
        while pool.shared.left_out.load(Ordering::SeqCst) > 0 {
            thread::yield_now();
        }
        assert_eq!(counts(&pool, 9), vec![1; 9]);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_time_of_all_threads_is_counted() {
        let pool = Pool::new(3);
        let each = Duration::from_millis(3);
        let before = pool.cpu_time();
        // Whoever takes a task has it for so long by its own clock.
        let work = move |_, _| {
            let begun = meter::thread_cpu_time();
            while meter::thread_cpu_time() - begun < each {
                std::hint::spin_loop();
            }
        };
        pool.run(6, work);
        let took = pool.cpu_time() - before;
        assert!(took >= 6 * each, "{took:?}");
        // What another thread does in the meantime is not ours.
        let before = pool.cpu_time();
        std::thread::spawn(move || (0..20).for_each(|task| work(task, 0))).join().unwrap();
        let took = pool.cpu_time() - before;
        assert!(took < 20 * each, "{took:?}");
    }
}
