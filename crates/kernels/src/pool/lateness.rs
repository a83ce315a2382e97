//! When a thread is more harm than help: a neighbour's process has its core for some milliseconds at a time, and all
//! the others wait for the task that it holds. Only arithmetic on durations, so that it is tested without a clock.

use std::time::Duration;

/// How much of the time in which a thread wanted to run it did not, lately.
#[derive(Debug)]
pub(super) struct Lateness {
    stolen_share: f64,
    limit: f64,
}

impl Lateness {
    pub(super) fn new(threads: usize) -> Self {
        Self { stolen_share: 0.0, limit: limit(threads) }
    }

    /// `wanted`: how long the thread computed or spun since the last observation, or would have if it had had a core;
    /// `stolen`: how long of that it had none. True where the others do better without it for a while.
    pub(super) fn observe(&mut self, wanted: Duration, stolen: Duration) -> bool {
        if !wanted.is_zero() {
            let weight = 1.0 - (-wanted.as_secs_f64() / MEMORY.as_secs_f64()).exp();
            let share = (stolen.as_secs_f64() / wanted.as_secs_f64()).min(1.0);
            self.stolen_share += weight * (share - self.stolen_share);
        }
        self.stolen_share > self.limit
    }

    pub(super) fn forget(&mut self) {
        self.stolen_share = 0.0;
    }
}

/// What a thread that was left out does before it comes back: it spins, holding no task that anybody waits for, and
/// sees whether it keeps its core.
#[derive(Debug)]
pub(super) struct Trial {
    ran: Duration,
    stolen: Duration,
    limit: Duration,
}

impl Trial {
    pub(super) fn new(threads: usize) -> Self {
        Self { ran: Duration::ZERO, stolen: Duration::ZERO, limit: TRIAL.mul_f64(limit(threads)) }
    }

    /// `gap`: the time between two looks at the clock with next to nothing in between. Says how the trial ended, or
    /// that it goes on.
    pub(super) fn observe(&mut self, gap: Duration) -> Option<bool> {
        self.ran += gap;
        if gap > UNNOTICED {
            self.stolen += gap;
        }
        if self.stolen > self.limit { Some(false) } else { (self.ran >= TRIAL).then_some(true) }
    }
}

/// How long a thread stays away before its next trial: it takes a neighbour's core for at most a tenth of the time.
pub(super) const REST: Duration = Duration::from_millis(40);
/// Longer than the slices that schedulers give, so that a neighbour shows.
const TRIAL: Duration = Duration::from_millis(10);
/// Interrupts are shorter, and losing a core to another thread takes longer.
const UNNOTICED: Duration = Duration::from_micros(200);
/// One slice of 4 ms does not make a thread late, two in a row do.
const MEMORY: Duration = Duration::from_millis(16);

/// Without one of `n` threads the others need up to n / (n - 1) of the time; with one that is away for a share s of the
/// time, 1 / (1 - s). The half: one thread alone draws more than its part of the memory's bandwidth.
fn limit(threads: usize) -> f64 {
    0.5 / threads.max(2) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: Duration = Duration::from_micros(10);
    const MS: Duration = Duration::from_millis(1);

    /// A caller that always has a core and one worker, whose core a neighbour shares in slices while it is there.
    /// Together they do 1 of work in a tick, the caller alone `alone`; a job is 20; a worker that loses its core holds
    /// a task that the job waits for.
    struct Machine {
        alone: f64,
        neighbour: fn(Duration) -> bool,
        adapts: bool,
    }

    struct Outcome {
        /// Of what a quiet machine does.
        rate: f64,
        last_out: Duration,
    }

    enum State {
        In(Lateness),
        Out(Duration),
        On(Trial),
    }

    impl Machine {
        fn simulate(&self, time: Duration) -> Outcome {
            const SLICE: Duration = Duration::from_millis(4);
            let (mut now, mut slice, mut ours) = (Duration::ZERO, Duration::ZERO, true);
            let (mut done, mut job, mut last_out) = (0.0, 0.0, Duration::ZERO);
            let mut state = State::In(Lateness::new(2));
            let (mut wanted, mut stolen, mut gap) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
            while now < time {
                now += TICK;
                let wants = !matches!(state, State::Out(_));
                slice += TICK;
                if !wants || !(self.neighbour)(now) {
                    (slice, ours) = (Duration::ZERO, wants);
                } else if slice >= SLICE {
                    (slice, ours) = (Duration::ZERO, !ours);
                }
                // The job: 18 of 20 can be done by anyone, the rest is the task that the worker holds.
                let rate = match state {
                    State::In(_) if ours => 1.0,
                    State::In(_) => f64::min(self.alone, (18.0_f64 - job).max(0.0)),
                    _ => self.alone,
                };
                (done, job) = (done + rate, job + rate);
                if job >= 20.0 {
                    job = 0.0;
                }
                gap += TICK;
                match &mut state {
                    State::In(lateness) => {
                        (wanted, stolen) = (wanted + TICK, stolen + if ours { Duration::ZERO } else { TICK });
                        if self.adapts && ours && wanted >= MS {
                            if lateness.observe(wanted, stolen) {
                                state = State::Out(now + REST);
                            }
                            (wanted, stolen) = (Duration::ZERO, Duration::ZERO);
                        }
                    }
                    State::Out(until) => {
                        last_out = now;
                        if now >= *until {
                            (state, gap) = (State::On(Trial::new(2)), Duration::ZERO);
                        }
                    }
                    State::On(trial) => {
                        last_out = now;
                        if ours {
                            match trial.observe(std::mem::take(&mut gap)) {
                                Some(true) => state = State::In(Lateness::new(2)),
                                Some(false) => state = State::Out(now + REST),
                                None => {}
                            }
                        }
                    }
                }
            }
            Outcome { rate: done * TICK.as_secs_f64() / time.as_secs_f64(), last_out }
        }
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_busy_neighbour_costs_its_share_and_no_more() {
        for (alone, least) in [(0.85, 0.82), (0.5, 0.47)] {
            let machine = Machine { alone, neighbour: |_| true, adapts: true };
            let rate = machine.simulate(SECOND).rate;
            assert!(rate > least, "{rate} of a quiet machine, {alone} alone");
        }
        // What it would be without: the test of the test.
        let rate = Machine { alone: 0.85, neighbour: |_| true, adapts: false }.simulate(SECOND).rate;
        assert!(rate < 0.6, "{rate}");
    }

    #[test]
    fn the_worker_is_back_soon_after_the_neighbour_has_gone() {
        let machine = Machine { alone: 0.85, neighbour: |now| now < SECOND / 2, adapts: true };
        let outcome = machine.simulate(SECOND);
        assert!(outcome.last_out > SECOND / 2, "it was out when the neighbour left");
        assert!(outcome.last_out < SECOND / 2 + REST + TRIAL + MS, "{:?}", outcome.last_out);
    }

    #[test]
    fn a_quiet_machine_and_short_guests_send_nobody_out() {
        for neighbour in [|_| false, |now: Duration| now.as_millis() % 20 < 1, |now: Duration| now.as_millis() == 50] {
            let outcome = Machine { alone: 0.85, neighbour, adapts: true }.simulate(SECOND);
            assert_eq!(outcome.last_out, Duration::ZERO);
        }
    }

    #[test]
    fn the_more_threads_wait_the_less_one_may_be_late() {
        let observe = |threads, stolen_ms| Lateness::new(threads).observe(20 * MS, stolen_ms * MS);
        assert!(!observe(2, 4));
        assert!(observe(2, 10));
        assert!(observe(16, 4));
        assert!(!observe(16, 0));
    }
}
