//! CPU time, as `/proc` counts it.

use std::fs;
use std::path::Path;

/// CPU time of everybody since the start of the machine, in nanoseconds: everything but idle and waiting. Source: `proc_stat(5)`.
pub(crate) fn busy_ns(proc: &Path) -> Option<u64> {
    let stat = fs::read_to_string(proc.join("stat")).ok()?;
    let fields = stat.lines().next()?.strip_prefix("cpu ")?.split_whitespace();
    let ticks: Vec<u64> = fields.map(|field| field.parse().ok()).collect::<Option<_>>()?;
    // user nice system (idle iowait) irq softirq; guests are inside of user, and the stolen are not ours.
    let busy = [0, 1, 2, 5, 6].iter().filter_map(|at| ticks.get(*at)).fold(0, |sum: u64, x| sum.saturating_add(*x));
    Some(busy.saturating_mul(TICK_NS))
}

/// CPU time of this process, in nanoseconds: user and system time, fields 14 and 15. The name before them may hold spaces and
/// brackets. Source: `proc_pid_stat(5)`.
pub(crate) fn own_ns(proc: &Path) -> Option<u64> {
    let stat = fs::read_to_string(proc.join("self/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let [user, system] = [fields.next()?, fields.next()?];
    let ticks = user.parse::<u64>().ok()?.saturating_add(system.parse().ok()?);
    Some(ticks.saturating_mul(TICK_NS))
}

/// Of `USER_HZ`, in which `/proc` counts, whatever the kernel's own ticks.
const TICK_NS: u64 = 10_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_read_as_the_kernel_writes_them() {
        let proc = tempfile::tempdir().unwrap();
        fs::create_dir(proc.path().join("self")).unwrap();
        assert_eq!((busy_ns(proc.path()), own_ns(proc.path())), (None, None));
        let own = "7 (a (b) c) R 1 7 7 0 -1 4194304 100 0 0 0 250 50 0 0 20 0 1 0 100 1000 10";
        fs::write(proc.path().join("self/stat"), own).unwrap();
        fs::write(proc.path().join("stat"), "cpu  10 20 30 1000 500 5 6 99 7 8\ncpu0 1 2 3 4").unwrap();
        assert_eq!(own_ns(proc.path()), Some(3_000_000_000));
        assert_eq!(busy_ns(proc.path()), Some(710_000_000));
        fs::write(proc.path().join("stat"), "cpu  10 x").unwrap();
        assert_eq!(busy_ns(proc.path()), None);
    }
}
