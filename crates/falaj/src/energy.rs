//! What this process takes from the socket: RAPL counters where the kernel lets it read them, else CPU time times watts, with the
//! assumption in the answer. Where not even the CPU time is known, there is no answer.

use crate::config::Config;
use crate::machine::Machine;
use falaj_protocol::jobs::{Energy, Grade, Metering};
use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};

/// Counts from when it was made. Counters wrap: to be read at least every few minutes.
pub struct Meter {
    /// Of one hardware thread, by the processor's power limit.
    watts_per_thread: Option<f64>,
    counters: Vec<Counter>,
    first_s: Option<f64>,
    state: RefCell<State>,
}

/// A RAPL zone.
struct Counter {
    energy: PathBuf,
    wraps_at_uj: u64,
}

#[derive(Default)]
struct State {
    last_uj: Vec<u64>,
    /// CPU seconds of this process and of everybody, when the counters were last read.
    last_s: (f64, f64),
    joules: f64,
}

/// Of a busy hardware thread, where nothing says better: between what processors of phones and of servers take.
const ASSUMED_WATTS: f64 = 4.0;
const POWERCAP: &str = "/sys/class/powercap";
/// `USER_HZ`, in which `/proc` counts, whatever the kernel's own ticks.
const TICKS: f64 = 100.0;

impl Meter {
    pub fn start(config: &Config) -> Self {
        let zones = zones(Path::new(POWERCAP));
        let threads = Machine::look().cores.max(1) as f64;
        let tdp = config.jobs.tdp_watts.or_else(|| limit_watts(&zones));
        let (counters, last_uj): (Vec<_>, Vec<_>) = zones
            .iter()
            .filter_map(|zone| {
                let energy = zone.join("energy_uj");
                let (now, wraps_at_uj) = (number(&energy)?, number(&zone.join("max_energy_range_uj"))?);
                Some((Counter { energy, wraps_at_uj }, now))
            })
            .unzip();
        let first = cpu_seconds();
        let state = State { last_uj, last_s: first.unwrap_or_default(), joules: 0.0 };
        Self {
            watts_per_thread: tdp.map(|watts| watts / threads),
            counters,
            first_s: first.map(|(own, _)| own),
            state: RefCell::new(state),
        }
    }

    /// Joules since the start.
    pub fn read(&self) -> Option<Energy> {
        let (own, all) = cpu_seconds()?;
        if let Some(joules) = self.counted(own, all) {
            return Some(Energy { joules, grade: Grade::B, method: Metering::RaplShare, watts_per_thread: None });
        }
        let seconds = own - self.first_s?;
        let (watts, grade, method) = match self.watts_per_thread {
            Some(watts) => (watts, Grade::D, Metering::CpuTimeTdp),
            None => (ASSUMED_WATTS, Grade::E, Metering::CpuTimeAssumed),
        };
        Some(Energy { joules: seconds * watts, grade, method, watts_per_thread: Some(watts) })
    }

    /// This process's share of what the counters say.
    fn counted(&self, own: f64, all: f64) -> Option<f64> {
        if self.counters.is_empty() {
            return None;
        }
        let now: Vec<u64> = self.counters.iter().map(|counter| number(&counter.energy)).collect::<Option<_>>()?;
        let mut state = self.state.borrow_mut();
        let passed = self.counters.iter().zip(now.iter().zip(&state.last_uj)).map(|(counter, (now, last))| {
            if now >= last { now - last } else { (counter.wraps_at_uj - last).saturating_add(*now) }
        });
        let micro: u64 = passed.sum();
        let (mine, everybody) = (own - state.last_s.0, all - state.last_s.1);
        let share = if everybody > 0.0 { (mine / everybody).clamp(0.0, 1.0) } else { 0.0 };
        state.joules += micro as f64 / 1e6 * share;
        (state.last_uj, state.last_s) = (now, (own, all));
        Some(state.joules)
    }
}

/// Packages and their memory; cores and graphics are inside of packages.
fn zones(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let zone = |path: &PathBuf| {
        let name = fs::read_to_string(path.join("name")).unwrap_or_default();
        let named = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        // The same counters also come as `intel-rapl-mmio`.
        named.starts_with("intel-rapl:") && (name.starts_with("package") || name.trim() == "dram")
    };
    entries.filter_map(|entry| Some(entry.ok()?.path())).filter(zone).collect()
}

/// All packages together, for long: what makers call TDP.
fn limit_watts(zones: &[PathBuf]) -> Option<f64> {
    let packages =
        zones.iter().filter(|zone| fs::read_to_string(zone.join("name")).is_ok_and(|name| name.starts_with("package")));
    let micro: u64 = packages.filter_map(|zone| number(&zone.join("constraint_0_max_power_uw"))).sum();
    (micro > 0).then(|| micro as f64 / 1e6)
}

fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Of this process, and of all.
fn cpu_seconds() -> Option<(f64, f64)> {
    let own = fs::read_to_string("/proc/self/stat").ok()?;
    let all = fs::read_to_string("/proc/stat").ok()?;
    Some((own_ticks(&own)? / TICKS, busy_ticks(&all)? / TICKS))
}

/// User and system time: fields 14 and 15. The name before them may hold spaces and brackets. Source: proc_pid_stat(5).
fn own_ticks(stat: &str) -> Option<f64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let [user, system] = [fields.next()?, fields.next()?];
    Some(user.parse::<f64>().ok()? + system.parse::<f64>().ok()?)
}

/// Everything but idle and waiting. Source: proc_stat(5).
fn busy_ticks(stat: &str) -> Option<f64> {
    let fields = stat.lines().next()?.strip_prefix("cpu ")?.split_whitespace();
    let ticks: Vec<f64> = fields.map(|field| field.parse().ok()).collect::<Option<_>>()?;
    // user nice system (idle iowait) irq softirq; guests are inside of user, and the stolen are not ours.
    Some([0, 1, 2, 5, 6].iter().filter_map(|at| ticks.get(*at)).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_read_as_the_kernel_writes_them() {
        let own = "7 (a (b) c) R 1 7 7 0 -1 4194304 100 0 0 0 250 50 0 0 20 0 1 0 100 1000 10";
        assert_eq!(own_ticks(own), Some(300.0));
        assert_eq!(busy_ticks("cpu  10 20 30 1000 500 5 6 99 7 8\ncpu0 1 2 3 4"), Some(71.0));
        assert_eq!(busy_ticks("nothing"), None);
    }

    #[test]
    fn counters_wrap_and_are_shared_by_cpu_time() {
        let dir = std::env::temp_dir().join(format!("falaj-rapl-{}", std::process::id()));
        let zone = dir.join("intel-rapl:0");
        fs::create_dir_all(&zone).unwrap();
        for (name, text) in [
            ("name", "package-0\n"),
            ("energy_uj", "9000000\n"),
            ("max_energy_range_uj", "10000000\n"),
            ("constraint_0_max_power_uw", "65000000\n"),
        ] {
            fs::write(zone.join(name), text).unwrap();
        }
        let zones = zones(&dir);
        assert_eq!((zones.len(), limit_watts(&zones)), (1, Some(65.0)));
        let counter = Counter { energy: zone.join("energy_uj"), wraps_at_uj: 10_000_000 };
        let state = State { last_uj: vec![9_000_000], last_s: (1.0, 10.0), joules: 0.0 };
        let meter =
            Meter { watts_per_thread: None, counters: vec![counter], first_s: None, state: RefCell::new(state) };
        fs::write(zone.join("energy_uj"), "3000000").unwrap();
        // 1 J to the end of the counter and 3 J behind it; half of the time was ours.
        assert_eq!(meter.counted(2.0, 12.0), Some(2.0));
        assert_eq!(meter.counted(2.0, 12.0), Some(2.0));
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn without_counters_the_assumption_is_named() {
        let meter =
            Meter { watts_per_thread: Some(8.0), counters: Vec::new(), first_s: Some(0.0), state: RefCell::default() };
        let energy = meter.read().unwrap();
        assert_eq!((energy.grade, energy.watts_per_thread), (Grade::D, Some(8.0)));
        assert!(energy.in_words().contains("CPU time × 8.0 W a thread, from the TDP"));
    }
}
