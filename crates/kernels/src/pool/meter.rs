//! How long a thread wanted to run, and how long of that it had no core: its wall clock against its CPU clock. The CPU
//! clock costs a call to the system, so it is read at most once a millisecond, and by the caller only in doubt.

use std::time::{Duration, Instant};

/// A worker's. It runs from its making; time asleep is told to it.
pub(super) struct Meter {
    wall: Instant,
    cpu: Duration,
    slept: Duration,
}

impl Meter {
    pub(super) fn new() -> Self {
        Self { wall: Instant::now(), cpu: thread_cpu_time(), slept: Duration::ZERO }
    }

    pub(super) fn slept(&mut self, time: Duration) {
        self.slept += time;
    }

    /// `(wanted, stolen)` since the last answer, at most once a millisecond.
    pub(super) fn look(&mut self) -> Option<(Duration, Duration)> {
        let wanted = self.wall.elapsed().saturating_sub(self.slept);
        if wanted < DOUBT {
            return None;
        }
        let now = Self::new();
        let wanted = (now.wall - self.wall).saturating_sub(self.slept);
        let stolen = wanted.saturating_sub(now.cpu - self.cpu);
        *self = now;
        Some((wanted, stolen))
    }
}

/// The caller's, which may be another thread at each run and does other things between runs.
#[derive(Default)]
pub(super) struct CallerMeter {
    in_doubt_until: Option<Instant>,
}

pub(super) struct Start {
    wall: Instant,
    cpu: Option<Duration>,
}

impl CallerMeter {
    pub(super) fn start(&mut self) -> Start {
        let wall = Instant::now();
        let in_doubt = self.in_doubt_until.is_some_and(|until| wall < until);
        Start { wall, cpu: in_doubt.then(thread_cpu_time) }
    }

    /// `(wanted, stolen)` of the run that began at `start`, of which the caller slept for `slept`.
    pub(super) fn end(&mut self, start: &Start, slept: Duration) -> (Duration, Duration) {
        let now = Instant::now();
        let wanted = (now - start.wall).saturating_sub(slept);
        if wanted < DOUBT {
            return (wanted, Duration::ZERO);
        }
        // A long job or a lost core: the next ones will tell.
        self.in_doubt_until = Some(now + WATCH);
        let stolen = start.cpu.map_or(Duration::ZERO, |cpu| wanted.saturating_sub(thread_cpu_time() - cpu));
        (wanted, stolen)
    }
}

const DOUBT: Duration = Duration::from_millis(1);
const WATCH: Duration = Duration::from_millis(100);

/// Source: POSIX, clock_gettime, CLOCK_THREAD_CPUTIME_ID.
#[cfg(unix)]
pub(super) fn thread_cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call only writes the timespec that it is given.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}

/// CPU time that another thread has had. Source: POSIX, pthread_getcpuclockid.
#[cfg(target_os = "linux")]
pub(super) fn cpu_time_of<T>(thread: &std::thread::JoinHandle<T>) -> Duration {
    use std::os::unix::thread::JoinHandleExt;
    let (mut clock, mut time) = (0, libc::timespec { tv_sec: 0, tv_nsec: 0 });
    // SAFETY: the thread is not joined while its handle is there, so its id is one; the call only writes the clock's number.
    let known = unsafe { libc::pthread_getcpuclockid(thread.as_pthread_t(), &raw mut clock) } == 0;
    // SAFETY: the call only writes the timespec that it is given; the clock of a thread that has ended is refused.
    if !known || unsafe { libc::clock_gettime(clock, &raw mut time) } != 0 {
        return Duration::ZERO;
    }
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}

/// As busy as the caller, who works beside it.
#[cfg(not(target_os = "linux"))]
pub(super) fn cpu_time_of<T>(_: &std::thread::JoinHandle<T>) -> Duration {
    thread_cpu_time()
}

/// Without such a clock nobody is ever late.
#[cfg(not(unix))]
pub(super) fn thread_cpu_time() -> Duration {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    START.get_or_init(Instant::now).elapsed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn the_cpu_clock_of_a_thread_stands_still_while_it_waits() {
        let mut wall = Instant::now();
        let start = thread_cpu_time();
        while thread_cpu_time() - start < Duration::from_millis(2) {
            std::hint::spin_loop();
        }
        assert!(wall.elapsed() >= Duration::from_millis(1));
        let before = thread_cpu_time();
        wall = Instant::now();
        // Another thread computes, this one waits for it.
        std::thread::spawn(move || while wall.elapsed() < Duration::from_millis(20) {}).join().unwrap();
        assert!(thread_cpu_time() - before < Duration::from_millis(10));
    }

    #[test]
    fn sleep_is_neither_wanted_nor_stolen() {
        let mut meter =
            Meter { wall: Instant::now() - Duration::from_secs(10), cpu: thread_cpu_time(), slept: Duration::ZERO };
        meter.slept(Duration::from_secs(9));
        let (wanted, stolen) = meter.look().unwrap();
        assert!(wanted >= Duration::from_secs(1) && wanted < Duration::from_secs(9), "{wanted:?}");
        assert!(stolen <= wanted && stolen > Duration::from_millis(900), "{stolen:?}");
        assert!(meter.slept.is_zero());
    }
}
