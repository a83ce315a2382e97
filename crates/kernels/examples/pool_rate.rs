//! What the thread pool costs, and what busy neighbours cost it: steps per second of a load like decoding (110 runs that
//! stream 560 MB in all), quiet and beside processes that spin; the cost of an empty run; the time to wake threads.
//! `cargo run --release -p falaj-kernels --example pool_rate [threads [seconds [task_kib]]]`. A probe, not the project's bench.

use std::hint::black_box;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use falaj_kernels::{AlignedVec, Pool};

const BYTES: usize = 560 << 20;
const RUNS: usize = 110;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.first().is_some_and(|word| word == "spin") {
        loop {
            black_box(0);
        }
    }
    let number = |at: usize, default: usize| {
        words.get(at).map_or(default, |word| word.parse().expect("threads, seconds, task_kib are numbers"))
    };
    let (threads, seconds) = (number(0, Pool::available_threads()), number(1, 3) as u64);
    let task_bytes = number(2, 64) << 10;
    let pool = Pool::new(threads);

    println!("{threads} threads; empty run {:.2} µs; {:.1} µs with parked threads", empty(&pool), wake(&pool));
    let mut weights = AlignedVec::<u8>::new(BYTES);
    weights.fill(1);
    let duration = Duration::from_secs(seconds);
    stream(&pool, &weights, task_bytes, Duration::from_secs(1));
    println!("{} MB a step in {RUNS} runs, tasks of {} KiB", BYTES >> 20, task_bytes >> 10);
    println!("neighbours  steps/s    GB/s  of quiet  worst step ms");
    let mut quiet = None;
    for neighbours in [0, 1, 2, 0] {
        let spinning: Vec<_> = (0..neighbours).map(|_| Spinning::new()).collect();
        let (steps, worst) = stream(&pool, &weights, task_bytes, duration);
        drop(spinning);
        let quiet = *quiet.get_or_insert(steps);
        println!(
            "{neighbours:10} {steps:8.1} {:7.1} {:8.0} % {:14.1}",
            steps * BYTES as f64 / 1e9,
            100.0 * steps / quiet,
            worst.as_secs_f64() * 1e3
        );
    }
}

/// Steps per second over `duration`, and the slowest step.
fn stream(pool: &Pool, weights: &[u8], task_bytes: usize, duration: Duration) -> (f64, Duration) {
    let total = AtomicU64::new(0);
    let (start, mut steps, mut worst) = (Instant::now(), 0, Duration::ZERO);
    while start.elapsed() < duration {
        let step = Instant::now();
        for part in weights.chunks(BYTES / RUNS) {
            pool.run(part.len().div_ceil(task_bytes), |task, _| {
                let bytes = &part[task * task_bytes..((task + 1) * task_bytes).min(part.len())];
                let sum: u64 = bytes.chunks_exact(64).map(|line| u64::from(line[0]) + u64::from(line[32])).sum();
                total.fetch_add(sum, Ordering::Relaxed);
            });
        }
        worst = worst.max(step.elapsed());
        steps += 1;
    }
    black_box(total);
    (f64::from(steps) / start.elapsed().as_secs_f64(), worst)
}

/// Microseconds of a run that does nothing, when the threads are awake.
fn empty(pool: &Pool) -> f64 {
    const TIMES: u32 = 20_000;
    let rounds = (0..5).map(|_| {
        let start = Instant::now();
        (0..TIMES).for_each(|_| {
            pool.run(2, |task, _| {
                black_box(task);
            })
        });
        start.elapsed().as_secs_f64() * 1e6 / f64::from(TIMES)
    });
    rounds.fold(f64::INFINITY, f64::min)
}

/// Microseconds until every thread has taken a task of a run that finds them asleep, the median of many.
fn wake(pool: &Pool) -> f64 {
    let mut times: Vec<f64> = (0..101)
        .map(|_| {
            std::thread::sleep(Duration::from_millis(2));
            let start = Instant::now();
            let here = AtomicU64::new(0);
            pool.run(pool.threads(), |_, _| {
                here.fetch_add(1, Ordering::SeqCst);
                while here.load(Ordering::SeqCst) < pool.threads() as u64 && start.elapsed() < Duration::from_millis(5)
                {
                    std::hint::spin_loop();
                }
            });
            start.elapsed().as_secs_f64() * 1e6
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

struct Spinning(Child);

impl Spinning {
    fn new() -> Self {
        let program = std::env::current_exe().expect("a program knows its file");
        Self(Command::new(program).arg("spin").spawn().expect("a program can start itself"))
    }
}

impl Drop for Spinning {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
