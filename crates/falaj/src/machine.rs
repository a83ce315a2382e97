//! What the operating system says of the machine. Files that other systems do not have are simply not there; then the
//! values are unknown, not wrong.

use std::fs;
use std::path::Path;

#[derive(Debug)]
pub struct Machine {
    pub cpu: String,
    /// Those that kernels could use, in the CPU maker's words.
    pub features: Vec<&'static str>,
    pub cores: usize,
    /// After affinity and the quota of a container.
    pub usable_cores: usize,
    pub memory_bytes: u64,
    pub available_bytes: u64,
    /// Of the control group, where there is one.
    pub limit_bytes: Option<u64>,
}

impl Machine {
    pub fn look() -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let usable_cores = falaj_kernels::Pool::available_threads();
        Self {
            cpu: field(&cpuinfo, "model name").unwrap_or(std::env::consts::ARCH).to_owned(),
            features: features(),
            cores: cpuinfo.lines().filter(|line| line.starts_with("processor")).count().max(usable_cores),
            usable_cores,
            memory_bytes: kibibytes(&meminfo, "MemTotal"),
            available_bytes: kibibytes(&meminfo, "MemAvailable"),
            limit_bytes: memory_limit(),
        }
    }

    /// What this process may ever take: all there is, or the limit of its control group.
    pub fn most_bytes(&self) -> u64 {
        self.limit_bytes.map_or(self.memory_bytes, |limit| limit.min(self.memory_bytes))
    }

    /// What a new process could take without pushing others out.
    pub fn usable_bytes(&self) -> u64 {
        self.limit_bytes.map_or(self.available_bytes, |limit| limit.min(self.available_bytes))
    }
}

/// What this process holds in memory now.
pub fn resident_bytes() -> u64 {
    kibibytes(&fs::read_to_string("/proc/self/status").unwrap_or_default(), "VmRSS")
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim())
    })
}

fn kibibytes(meminfo: &str, name: &str) -> u64 {
    let value = field(meminfo, name).and_then(|value| value.split_whitespace().next());
    value.and_then(|value| value.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// Version 2 of control groups, then version 1. `max`, and numbers near 2^63, mean none.
fn memory_limit() -> Option<u64> {
    let files = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
    let text = files.iter().find_map(|file| fs::read_to_string(Path::new(file)).ok())?;
    text.trim().parse::<u64>().ok().filter(|&limit| limit < 1 << 60)
}

#[cfg(target_arch = "x86_64")]
fn features() -> Vec<&'static str> {
    macro_rules! present {
        ($($name:tt)*) => { [$(($name, std::is_x86_feature_detected!($name)),)*] };
    }
    let all = present!(
        "avx" "avx2" "fma" "f16c" "avx512f" "avx512bw" "avx512vl" "avx512dq" "avx512vnni" "avx512bf16" "avxvnni"
    );
    all.into_iter().filter_map(|(name, present)| present.then_some(name)).collect()
}

#[cfg(not(target_arch = "x86_64"))]
fn features() -> Vec<&'static str> {
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_files_are_read() {
        let meminfo = "MemTotal:       24030000 kB\nMemAvailable:   22000000 kB\n";
        assert_eq!(kibibytes(meminfo, "MemAvailable"), 22_000_000 * 1024);
        assert_eq!(kibibytes(meminfo, "Hugepages"), 0);
        assert_eq!(field("model name\t: A CPU @ 2 GHz: fast\n", "model name"), Some("A CPU @ 2 GHz: fast"));
    }
}
