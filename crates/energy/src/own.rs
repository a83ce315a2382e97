//! What this process alone takes, from its start on: for jobs, which have a process of their own. Idle is in it: what a machine takes
//! while it trains is taken for the training.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use crate::charge::Method;
use crate::counter::Counter;
use crate::cpu;
use crate::gpus::Gpus;
use crate::source::{Findings, Settings};

/// Counts from when it was made. Counters wrap: to be read at least every few minutes.
#[derive(Debug)]
pub struct Own {
    settings: Settings,
    findings: Findings,
    counter: Option<Counter>,
    began: Instant,
    state: Mutex<State>,
}

/// What was taken until now.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Taken {
    pub joules: f64,
    /// The worst of all that it was counted by.
    pub method: Method,
    /// Of one busy hardware thread, where the method takes such a number.
    pub watts_per_thread: Option<f64>,
}

#[derive(Debug)]
struct State {
    last: Option<Reading>,
    joules: f64,
    method: Method,
}

#[derive(Debug)]
struct Reading {
    at_s: f64,
    own_ns: u64,
    busy_ns: Option<u64>,
    uj: Option<Vec<u64>>,
}

impl Own {
    pub fn start(settings: Settings) -> Self {
        let counter = Counter::open(&settings);
        let findings = Findings::new(&settings, counter.as_ref(), Err(Gpus::not_asked()));
        let method = counter.as_ref().map_or(Method::MeterAboveIdle, Counter::share);
        let state = State { last: None, joules: 0.0, method };
        let own = Self { settings, findings, counter: counter.ok(), began: Instant::now(), state: Mutex::new(state) };
        own.read();
        own
    }

    /// `None` where not even the CPU time is known.
    pub fn read(&self) -> Option<Taken> {
        self.read_at(self.began.elapsed().as_secs_f64())
    }

    fn read_at(&self, at_s: f64) -> Option<Taken> {
        let proc = &self.settings.proc;
        let now = Reading {
            at_s,
            own_ns: cpu::own_ns(proc)?,
            busy_ns: cpu::busy_ns(proc),
            uj: self.counter.as_ref().and_then(|counter| counter.read().ok()),
        };
        let state = &mut *self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = &state.last {
            let own_ns = now.own_ns.saturating_sub(last.own_ns) as f64;
            let (joules, method) = match self.counted(last, &now, own_ns) {
                Some(counted) => counted,
                None => (own_ns / 1e9 * self.findings.watts_per_thread, self.findings.fallback()),
            };
            state.joules += joules;
            if own_ns > 0.0 {
                state.method = state.method.max(method);
            }
        }
        // Nothing counted yet: what it would be counted by.
        let method = match state.last.replace(now) {
            None if self.findings.counters.is_err() => self.findings.fallback(),
            _ => state.method,
        };
        let watts_per_thread = method.is_by_watts().then_some(self.findings.watts_per_thread);
        Some(Taken { joules: state.joules, method, watts_per_thread })
    }

    /// The share of what all packages took.
    fn counted(&self, last: &Reading, now: &Reading, own_ns: f64) -> Option<(f64, Method)> {
        let (before, after) = (last.uj.as_ref()?, now.uj.as_ref()?);
        let counter = self.counter.as_ref()?;
        let uj = counter.between(before, after, now.at_s - last.at_s)?;
        let busy_ns = now.busy_ns?.checked_sub(last.busy_ns?)? as f64;
        let share = if busy_ns > 0.0 { (own_ns / busy_ns).clamp(0.0, 1.0) } else { 0.0 };
        Some((uj as f64 / 1e6 * share, counter.share()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rapl::tests::{count, powercap};
    use std::fs;
    use std::path::Path;

    fn time(dir: &Path, own_ticks: u64, busy_ticks: u64) {
        fs::create_dir_all(dir.join("proc/self")).unwrap();
        let own = format!("7 (falaj) R 1 7 7 0 -1 0 0 0 0 0 {own_ticks} 0 0 0");
        fs::write(dir.join("proc/self/stat"), own).unwrap();
        fs::write(dir.join("proc/stat"), format!("cpu  {busy_ticks} 0 0 9 9 0 0 0 0 0")).unwrap();
    }

    fn settings(dir: &Path) -> Settings {
        let cpu_watts = Some(16.0);
        Settings {
            cpu_watts,
            threads: 2,
            meter_file: None,
            powercap: dir.join("powercap"),
            proc: dir.join("proc"),
            gpus: false,
        }
    }

    #[test]
    fn packages_are_shared_by_cpu_time() {
        let dir = tempfile::tempdir().unwrap();
        powercap(&dir.path().join("powercap"), &[90_000_000, 0]);
        time(dir.path(), 100, 1000);
        let own = Own::start(settings(dir.path()));
        count(&dir.path().join("powercap"), 0, 30_000_000);
        time(dir.path(), 200, 1200);
        // 10 J to the end of the counter and 30 J behind it; half of the time was ours.
        let taken = own.read_at(10.0).unwrap();
        assert_eq!(taken, Taken { joules: 20.0, method: Method::RaplShare, watts_per_thread: None });
        assert_eq!(own.read_at(11.0), Some(taken), "nothing ran since");
    }

    #[test]
    fn a_counter_that_vanishes_leaves_the_worse_grade() {
        let dir = tempfile::tempdir().unwrap();
        powercap(&dir.path().join("powercap"), &[0]);
        time(dir.path(), 0, 0);
        let own = Own::start(settings(dir.path()));
        fs::remove_dir_all(dir.path().join("powercap/intel-rapl:0")).unwrap();
        time(dir.path(), 300, 400);
        let taken = own.read_at(10.0).unwrap();
        assert_eq!(taken, Taken { joules: 24.0, method: Method::CpuTimeTdp, watts_per_thread: Some(8.0) });
        // It is there again: what was counted meanwhile stays.
        powercap(&dir.path().join("powercap"), &[0]);
        own.read_at(11.0).unwrap();
        count(&dir.path().join("powercap"), 0, 4_000_000);
        time(dir.path(), 400, 600);
        let taken = own.read_at(12.0).unwrap();
        assert_eq!((taken.joules, taken.method), (26.0, Method::CpuTimeTdp));
    }

    #[test]
    fn without_anything_there_is_no_figure() {
        let dir = tempfile::tempdir().unwrap();
        let own = Own::start(Settings { cpu_watts: None, ..settings(dir.path()) });
        assert_eq!(own.read_at(1.0), None);
        time(dir.path(), 0, 0);
        assert_eq!(own.read_at(2.0).map(|taken| taken.method), Some(Method::CpuTimeAssumed));
    }
}
