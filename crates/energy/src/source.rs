//! What there is to measure with, and why not where there is nothing.

use std::io::{Error, ErrorKind};
use std::path::PathBuf;

use crate::charge::Method;
use crate::counter::Counter;
use crate::gpus::Gpus;
use crate::rapl::Rapl;

/// Where to look. [`Settings::default`] is this machine.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Thermal design power of all processors together, where the operator knows it.
    pub cpu_watts: Option<f64>,
    /// Hardware threads of these processors.
    pub threads: usize,
    /// Where somebody writes what a meter at the machine's socket says: joules since some time.
    pub meter_file: Option<PathBuf>,
    pub powercap: PathBuf,
    pub proc: PathBuf,
    /// Whether to ask NVIDIA's library for GPUs.
    pub gpus: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            cpu_watts: None,
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            meter_file: None,
            powercap: "/sys/class/powercap".into(),
            proc: "/proc".into(),
            gpus: true,
        }
    }
}

/// Why a source says nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Absent {
    #[error("the kernel shows no power counters: there is no package domain in `{}`", path.display())]
    NoCounters { path: PathBuf },
    #[error("`{}` may not be read: only root may, unless you let others", path.display())]
    Denied { path: PathBuf },
    #[error("`{}`: {reason}", path.display())]
    Unreadable { path: PathBuf, reason: String },
    #[error("no NVIDIA GPU counts energy here: {reason}")]
    NoGpus { reason: String },
}

impl Absent {
    pub(crate) fn of(path: PathBuf, error: &Error) -> Self {
        match error.kind() {
            ErrorKind::PermissionDenied => Self::Denied { path },
            _ => Self::Unreadable { path, reason: error.to_string() },
        }
    }
}

/// Thermal design power, and who said it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Tdp {
    Set {
        watts: f64,
    },
    /// The power limits of the packages, from the kernel.
    Kernel {
        watts: f64,
    },
    /// Nobody: watts of a busy hardware thread.
    Assumed {
        watts_per_thread: f64,
    },
}

/// All that was found on this machine.
#[derive(Clone, Debug)]
pub struct Findings {
    /// Parts that count: packages, or one meter.
    pub counters: Result<usize, Absent>,
    /// GPUs that count.
    pub gpus: Result<usize, Absent>,
    pub tdp: Tdp,
    pub watts_per_thread: f64,
    /// Of CPU time, once idle is known.
    pub method: Method,
}

/// Of a busy hardware thread, where nothing says better. Makers' figures for whole processors come to 1.9 W (EPYC 9654: 360 W, 192
/// threads), 3.1 W (Xeon 8480+: 350 W, 112), 5.3 W (Ryzen 7950X: 170 W, 32), 6.3 W (Core i7-12700K: 125 W, 20).
pub(crate) const ASSUMED_WATTS: f64 = 4.0;

impl Findings {
    /// Looks at the machine.
    pub fn look(settings: &Settings) -> Self {
        let counter = Counter::open(settings);
        let gpus = if settings.gpus { Gpus::open().map(|gpus| gpus.count()) } else { Err(Gpus::not_asked()) };
        Self::new(settings, counter.as_ref(), gpus)
    }

    pub(crate) fn new(settings: &Settings, counter: Result<&Counter, &Absent>, gpus: Result<usize, Absent>) -> Self {
        let counters = counter.map_err(Clone::clone).and_then(|counter| counter.read().map(|counts| counts.len()));
        let threads = settings.threads.max(1) as f64;
        let (tdp, watts_per_thread) = match (settings.cpu_watts, Rapl::limit_watts(&settings.powercap)) {
            (Some(watts), _) => (Tdp::Set { watts }, watts / threads),
            (None, Some(watts)) => (Tdp::Kernel { watts }, watts / threads),
            (None, None) => (Tdp::Assumed { watts_per_thread: ASSUMED_WATTS }, ASSUMED_WATTS),
        };
        let mut found = Self { counters, gpus, tdp, watts_per_thread, method: Method::CpuTimeAssumed };
        found.method = match counter {
            Ok(counter) if found.counters.is_ok() => counter.above_idle(),
            _ => found.fallback(),
        };
        found
    }

    /// Without counters.
    pub(crate) fn fallback(&self) -> Method {
        match self.tdp {
            Tdp::Set { .. } | Tdp::Kernel { .. } => Method::CpuTimeTdp,
            Tdp::Assumed { .. } => Method::CpuTimeAssumed,
        }
    }
}
