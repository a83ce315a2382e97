//! A machine that serves: what its counters say, sampled every second, becomes a price of CPU time. Requests are charged by that
//! price, which costs them one load and one product.
//!
//! Of every window between two readings: what is above idle, over the CPU time of everybody. Idle is what the machine takes while
//! next to nothing runs; it is never in the price. Until that was seen once, and where nothing counts, the price is thermal design
//! power over hardware threads, and the grade says so.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::charge::{Charge, Method};
use crate::counter::Counter;
use crate::cpu;
use crate::gpus::Gpus;
use crate::source::{Absent, Findings, Settings};

pub struct Site {
    settings: Settings,
    /// Of a nanosecond of CPU time, in femtojoules, over the method's place in [`Method::ALL`]: one word, so that both are of the same moment.
    price: AtomicU64,
    sampler: Mutex<Sampler>,
}

/// What is known now. Energies in microjoules, since the start.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    pub method: Method,
    /// What the price comes to for one hardware thread that is busy all the time, above idle.
    pub watts_per_thread: f64,
    /// Of all packages, or at the meter, while nothing runs.
    pub idle_watts: Option<f64>,
    /// Of all packages, or at the meter, whoever's it was.
    pub counted_uj: Option<u64>,
    /// Of these, idle.
    pub idle_uj: Option<u64>,
    /// Of all GPUs, whoever's it was.
    pub gpus_uj: Option<u64>,
    /// Why counters say nothing just now.
    pub absent: Option<Absent>,
}

struct Sampler {
    findings: Findings,
    counter: Option<Counter>,
    gpus: Option<Gpus>,
    last: Option<Reading>,
    gpus_from: Option<u64>,
    gpus_uj: u64,
    absent: Option<Absent>,
    counted_uj: Option<u64>,
    idle_uj: f64,
    idle_watts: Option<f64>,
    /// Above idle, and CPU time of everybody: both fade, so that the price is that of the last half minute at work.
    above_uj: f64,
    busy_ns: f64,
}

struct Reading {
    at: Duration,
    uj: Vec<u64>,
    busy_ns: u64,
}

const EVERY: Duration = Duration::from_secs(1);
/// Of a window: shorter ones have too few ticks, and in longer ones a counter may have gone round.
const SHORTEST_S: f64 = 0.2;
const LONGEST: Duration = Duration::from_secs(120);
/// Of all hardware threads, busy: less is idle.
const QUIET: f64 = 0.03;
/// How fast idle follows when it rises; it falls at once.
const RISE: f64 = 0.02;
/// What is left of a busy second's weight after another one.
const FADE: f64 = 0.977;
/// Of CPU time, before there is a price.
const ENOUGH_NS: f64 = 2e8;
const METHOD_BITS: u32 = 3;
/// Femtojoules of a watt in a nanosecond.
const FJ_PER_W_NS: f64 = 1e6;

impl Site {
    /// With a thread that samples until the last handle is dropped.
    ///
    /// # Errors
    /// No thread.
    pub fn start(settings: Settings) -> std::io::Result<Arc<Self>> {
        let site = Arc::new(Self::new(settings));
        let (weak, began) = (Arc::downgrade(&site), Instant::now());
        let sampling = move || {
            while let Some(site) = weak.upgrade() {
                site.sample(began.elapsed());
                drop(site);
                std::thread::sleep(EVERY);
            }
        };
        std::thread::Builder::new().name("energy".to_owned()).spawn(sampling)?;
        Ok(site)
    }

    /// One that is sampled by its owner.
    pub fn new(settings: Settings) -> Self {
        let counter = Counter::open(&settings);
        let gpus = if settings.gpus { Gpus::open() } else { Err(Gpus::not_asked()) };
        let devices = gpus.as_ref().map(Gpus::count).map_err(Clone::clone);
        let findings = Findings::new(&settings, counter.as_ref(), devices);
        let sampler = Sampler {
            absent: findings.counters.clone().err(),
            findings,
            counter: counter.ok(),
            gpus: gpus.ok(),
            last: None,
            gpus_from: None,
            gpus_uj: 0,
            counted_uj: None,
            idle_uj: 0.0,
            idle_watts: None,
            above_uj: 0.0,
            busy_ns: 0.0,
        };
        let price = AtomicU64::new(sampler.price());
        Self { settings, price, sampler: Mutex::new(sampler) }
    }

    /// What was found when it began.
    pub fn findings(&self) -> Findings {
        self.sampler().findings.clone()
    }

    /// Of work that took this much CPU time just now. `None` for none: then nothing was measured.
    pub fn charge(&self, cpu_ns: u64) -> Option<Charge> {
        let (fj_per_ns, method) = unpacked(self.price.load(Ordering::Relaxed));
        let uj = (u128::from(cpu_ns) * u128::from(fj_per_ns)).div_ceil(1_000_000_000);
        (cpu_ns > 0).then(|| Charge { uj: u64::try_from(uj).unwrap_or(u64::MAX), grade: method.grade() })
    }

    /// Reads what there is. `at`: of a clock that only goes on; where it does not, the window is not counted.
    pub fn sample(&self, at: Duration) {
        let mut sampler = self.sampler();
        sampler.look_at_gpus();
        sampler.look(&self.settings, at);
        self.price.store(sampler.price(), Ordering::Relaxed);
    }

    pub fn state(&self) -> State {
        let sampler = self.sampler();
        let (fj_per_ns, method) = unpacked(self.price.load(Ordering::Relaxed));
        State {
            method,
            watts_per_thread: fj_per_ns as f64 / FJ_PER_W_NS,
            idle_watts: sampler.idle_watts,
            counted_uj: sampler.counted_uj,
            idle_uj: sampler.idle_watts.map(|_| sampler.idle_uj as u64),
            gpus_uj: sampler.gpus.as_ref().map(|_| sampler.gpus_uj),
            absent: sampler.absent.clone(),
        }
    }

    fn sampler(&self) -> MutexGuard<'_, Sampler> {
        self.sampler.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sampler {
    fn look(&mut self, settings: &Settings, at: Duration) {
        let Some(counter) = &self.counter else { return };
        let uj = match counter.read() {
            Ok(uj) => uj,
            Err(absent) => {
                (self.absent, self.last) = (Some(absent), None);
                return;
            }
        };
        let Some(busy_ns) = cpu::busy_ns(&settings.proc) else {
            let reason = "holds no CPU time".to_owned();
            self.absent = Some(Absent::Unreadable { path: settings.proc.join("stat"), reason });
            self.last = None;
            return;
        };
        self.absent = None;
        let now = Reading { at, uj, busy_ns };
        // A meter may tell seldom: the window goes on until its number changes.
        let stands =
            |last: &Reading| last.uj == now.uj && at.checked_sub(last.at).is_some_and(|passed| passed < LONGEST);
        if self.last.as_ref().is_some_and(stands) {
            return;
        }
        let Some(last) = self.last.replace(now) else { return };
        let (Some(now), Some(counter)) = (&self.last, &self.counter) else { return };
        let Some(passed) = at.checked_sub(last.at).map(|passed| passed.as_secs_f64()) else { return };
        if passed < SHORTEST_S || passed > LONGEST.as_secs_f64() {
            return;
        }
        let Some(busy_ns) = now.busy_ns.checked_sub(last.busy_ns) else { return };
        if let Some(uj) = counter.between(&last.uj, &now.uj, passed) {
            self.count(uj, busy_ns as f64, passed, settings.threads.max(1) as f64);
        }
    }

    fn count(&mut self, uj: u64, busy_ns: f64, passed_s: f64, threads: f64) {
        self.counted_uj = Some(self.counted_uj.unwrap_or_default().saturating_add(uj));
        let (uj, quiet) = (uj as f64, busy_ns < QUIET * threads * passed_s * 1e9);
        let watts = uj / 1e6 / passed_s;
        self.idle_watts = match self.idle_watts {
            Some(idle) if watts < idle => Some(watts),
            Some(idle) if quiet => Some(idle + RISE * (watts - idle)),
            Some(idle) => Some(idle),
            None => quiet.then_some(watts),
        };
        let Some(idle) = self.idle_watts else { return };
        let idle_uj = (idle * 1e6 * passed_s).min(uj);
        self.idle_uj += idle_uj;
        if !quiet {
            let left = FADE.powf(passed_s);
            self.above_uj = self.above_uj * left + (uj - idle_uj);
            self.busy_ns = self.busy_ns * left + busy_ns;
        }
    }

    fn look_at_gpus(&mut self) {
        // One that does not answer is counted on from where it answers again.
        let Some(now) = self.gpus.as_ref().and_then(Gpus::read) else { return };
        if let Some(before) = self.gpus_from.replace(now) {
            // The driver was loaded anew where it went back.
            self.gpus_uj = self.gpus_uj.saturating_add(now.saturating_sub(before));
        }
    }

    /// Packed.
    fn price(&self) -> u64 {
        let counted = self.above_uj / self.busy_ns * 1e9;
        let enough = self.absent.is_none() && self.busy_ns >= ENOUGH_NS;
        // A price of nothing would be a false zero.
        if let Some(counter) = self.counter.as_ref().filter(|_| enough && counted >= 1.0) {
            return packed(counted, counter.above_idle());
        }
        packed(self.findings.watts_per_thread * FJ_PER_W_NS, self.findings.fallback())
    }
}

fn packed(fj_per_ns: f64, method: Method) -> u64 {
    let place = Method::ALL.iter().position(|it| *it == method).unwrap_or(Method::ALL.len() - 1) as u64;
    // More than a petawatt does not fit, and does not occur.
    (fj_per_ns.round().max(1.0) as u64).min(u64::MAX >> METHOD_BITS) << METHOD_BITS | place
}

fn unpacked(price: u64) -> (u64, Method) {
    let place = (price & ((1 << METHOD_BITS) - 1)) as usize;
    (price >> METHOD_BITS, Method::ALL.get(place).copied().unwrap_or(Method::CpuTimeAssumed))
}

#[cfg(test)]
mod tests;
