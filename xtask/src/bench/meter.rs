//! Says whether others used the machine during a measurement: all CPU time that the system gave, from /proc/stat, against
//! what this process and all it started used. Time stolen by the hypervisor counts as others'. Linux only.

use std::collections::HashMap;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// Others may use this many cores on average; above, a measurement is not to be trusted.
pub const TOLERATED_CORES: f64 = 0.1;

pub struct Meter {
    started: Instant,
    all: u64,
    own: u64,
}

impl Meter {
    pub fn start() -> Result<Self> {
        Ok(Self { started: Instant::now(), all: busy_ticks()?, own: own_ticks()? })
    }

    /// Cores that others used on average since the start.
    pub fn other_cores(&self) -> Result<f64> {
        let own = own_ticks()?.saturating_sub(self.own) as f64;
        let all = busy_ticks()?.saturating_sub(self.all) as f64;
        // A tick is 10 ms on every Linux that matters here; short measurements are too coarse to judge.
        let seconds = self.started.elapsed().as_secs_f64();
        Ok(if seconds < 0.5 { 0.0 } else { ((all - own) / TICKS_PER_SECOND / seconds).max(0.0) })
    }
}

/// Waits until others leave the machine alone, at most `limit`. Returns whether they did.
pub fn wait_for_quiet(limit: Duration) -> Result<bool> {
    let started = Instant::now();
    loop {
        let meter = Meter::start()?;
        std::thread::sleep(Duration::from_millis(600));
        if meter.other_cores()? <= TOLERATED_CORES {
            return Ok(true);
        }
        if started.elapsed() >= limit {
            return Ok(false);
        }
        std::thread::sleep(Duration::from_millis(400));
    }
}

fn busy_ticks() -> Result<u64> {
    let stat = fs::read_to_string("/proc/stat").context("benches need Linux's /proc")?;
    busy_of(stat.lines().next().unwrap_or_default()).context("/proc/stat has no first line of numbers")
}

/// user, nice, system, (idle, iowait,) irq, softirq, steal.
fn busy_of(line: &str) -> Option<u64> {
    let numbers: Vec<u64> = line.split_whitespace().skip(1).map_while(|word| word.parse().ok()).collect();
    Some(numbers.get(..3)?.iter().sum::<u64>() + numbers.get(5..8)?.iter().sum::<u64>())
}

/// Of this process, its ended children, and all its living descendants.
fn own_ticks() -> Result<u64> {
    let mut parents = HashMap::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        // A process may end between the listing and the reading.
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        if let Some(process) = Process::parse(&stat) {
            parents.insert(pid, process);
        }
    }
    let ours = std::process::id();
    let descends = |mut pid: u32| {
        for _ in 0..64 {
            if pid == ours {
                return true;
            }
            match parents.get(&pid) {
                Some(process) => pid = process.parent,
                None => return false,
            }
        }
        false
    };
    Ok(parents.iter().filter(|(pid, _)| descends(**pid)).map(|(_, process)| process.ticks).sum())
}

struct Process {
    parent: u32,
    ticks: u64,
}

impl Process {
    /// The name, in parentheses, may hold spaces and parentheses itself.
    fn parse(stat: &str) -> Option<Self> {
        let rest = &stat[stat.rfind(')')? + 1..];
        let words: Vec<&str> = rest.split_whitespace().collect();
        let ticks = words.get(11..15)?.iter().map(|word| word.parse::<u64>().unwrap_or(0)).sum();
        Some(Self { parent: words.get(1)?.parse().ok()?, ticks })
    }
}

const TICKS_PER_SECOND: f64 = 100.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_of_proc_are_read() {
        assert_eq!(busy_of("cpu  1 2 4 1000 2000 8 16 32 0 0"), Some(63));
        let process = Process::parse("7 (a b) c) S 5 1 1 0 -1 0 0 0 0 0 10 20 40 80 20 0").expect("a line");
        assert_eq!((process.parent, process.ticks), (5, 150));
    }
}
