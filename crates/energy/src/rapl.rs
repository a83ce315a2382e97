//! Energy counters of processor packages, as Linux shows them: RAPL of Intel and of AMD, through `powercap`.
//! Packages only. Cores and graphics are inside of packages; memory is beside them where it counts at all, and is left out everywhere,
//! so that figures of two machines mean the same.

use std::fs;
use std::path::{Path, PathBuf};

use crate::source::Absent;

#[derive(Debug)]
pub(crate) struct Rapl {
    packages: Vec<Package>,
}

#[derive(Debug)]
struct Package {
    counter: PathBuf,
    wraps_at_uj: u64,
}

/// No package takes more: a difference beyond it is a counter that was set anew.
const MOST_WATTS: f64 = 2000.0;

impl Rapl {
    /// All packages, or none: a part of them would be a figure that is too small.
    pub(crate) fn open(powercap: &Path) -> Result<Self, Absent> {
        let packages = zones(powercap).into_iter().map(|zone| {
            let wraps_at_uj = number(&zone.join("max_energy_range_uj"))?;
            Ok(Package { counter: zone.join("energy_uj"), wraps_at_uj })
        });
        let packages: Vec<Package> = packages.collect::<Result<_, Absent>>()?;
        if packages.is_empty() {
            return Err(Absent::NoCounters { path: powercap.to_path_buf() });
        }
        Ok(Self { packages })
    }

    /// Microjoules of each package since some time.
    pub(crate) fn read(&self) -> Result<Vec<u64>, Absent> {
        self.packages.iter().map(|package| number(&package.counter)).collect()
    }

    /// Microjoules of all packages between two readings, `seconds` apart; `None` where that cannot be said.
    pub(crate) fn between(&self, before: &[u64], now: &[u64], seconds: f64) -> Option<u64> {
        if before.len() != now.len() || now.len() != self.packages.len() {
            return None;
        }
        let mut sum: u64 = 0;
        for (package, (before, now)) in self.packages.iter().zip(before.iter().zip(now)) {
            let passed = match now.checked_sub(*before) {
                Some(passed) => passed,
                None => package.wraps_at_uj.checked_sub(*before)?.saturating_add(*now),
            };
            if passed as f64 > MOST_WATTS * 1e6 * seconds {
                return None;
            }
            sum = sum.saturating_add(passed);
        }
        Some(sum)
    }

    /// Of all packages together, for long: what makers call TDP. Anybody may read it.
    pub(crate) fn limit_watts(powercap: &Path) -> Option<f64> {
        let zones = zones(powercap);
        let limits = zones.iter().map(|zone| number(&zone.join("constraint_0_max_power_uw")).ok());
        let limits: Vec<u64> = limits.collect::<Option<_>>()?;
        let watts = limits.iter().map(|uw| *uw as f64 / 1e6).sum::<f64>();
        (watts > 0.0 && limits.iter().all(|uw| *uw > 0)).then_some(watts)
    }
}

fn zones(powercap: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(powercap) else { return Vec::new() };
    let is_package = |path: &PathBuf| {
        // AMD's counters bear this name, too; `intel-rapl-mmio` shows the same ones once more.
        let named = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        named.starts_with("intel-rapl:")
            && fs::read_to_string(path.join("name")).is_ok_and(|name| name.starts_with("package"))
    };
    let mut zones: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).filter(is_package).collect();
    zones.sort_unstable();
    zones
}

fn number(path: &Path) -> Result<u64, Absent> {
    let path = path.to_path_buf();
    match fs::read_to_string(&path) {
        Ok(text) => text.trim().parse().map_err(|_| Absent::Unreadable { path, reason: "holds no number".to_owned() }),
        Err(error) => Err(Absent::of(path, &error)),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A folder as Linux makes it, with these counters of packages.
    pub(crate) fn powercap(dir: &Path, packages_uj: &[u64]) {
        for (index, uj) in packages_uj.iter().enumerate() {
            let zone = format!("intel-rapl:{index}");
            make(&dir.join(&zone), &format!("package-{index}"), *uj);
            make(&dir.join(format!("{zone}:0")), "core", 1);
            make(&dir.join(format!("{zone}:1")), "dram", 1);
            make(&dir.join(format!("intel-rapl-mmio:{index}")), &format!("package-{index}"), *uj);
        }
        make(&dir.join("intel-rapl:9"), "psys", 1);
        fs::create_dir_all(dir.join("intel-rapl")).unwrap();
    }

    pub(crate) fn count(dir: &Path, package: usize, uj: u64) {
        fs::write(dir.join(format!("intel-rapl:{package}/energy_uj")), format!("{uj}\n")).unwrap();
    }

    fn make(zone: &Path, name: &str, uj: u64) {
        fs::create_dir_all(zone).unwrap();
        let files = [
            ("name", format!("{name}\n")),
            ("energy_uj", format!("{uj}\n")),
            ("max_energy_range_uj", "100000000\n".to_owned()),
            ("constraint_0_max_power_uw", "65000000\n".to_owned()),
        ];
        for (file, text) in files {
            fs::write(zone.join(file), text).unwrap();
        }
    }

    #[test]
    fn packages_count_once_and_their_parts_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        powercap(dir.path(), &[5, 7]);
        assert_eq!(Rapl::open(dir.path()).unwrap().read(), Ok(vec![5, 7]));
        assert_eq!(Rapl::limit_watts(dir.path()), Some(130.0));
    }

    #[test]
    fn counters_wrap() {
        let dir = tempfile::tempdir().unwrap();
        powercap(dir.path(), &[0, 0]);
        let rapl = Rapl::open(dir.path()).unwrap();
        assert_eq!(rapl.between(&[10, 20], &[15, 20], 1.0), Some(5));
        // 1 J to the end of the first counter and 3 J behind it.
        assert_eq!(rapl.between(&[99_000_000, 20], &[3_000_000, 21], 1.0), Some(4_000_001));
        // What no package can take was not counted, and what was read of other packages is not compared.
        assert_eq!(rapl.between(&[5, 50_000_000], &[5, 20], 0.01), None);
        assert_eq!(rapl.between(&[200_000_000, 0], &[5, 0], 1.0), None);
        assert_eq!(rapl.between(&[5], &[6], 1.0), None);
    }

    #[test]
    fn what_is_missing_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let nowhere = dir.path().join("nowhere");
        assert_eq!(Rapl::open(&nowhere).unwrap_err(), Absent::NoCounters { path: nowhere });
        powercap(dir.path(), &[1, 2]);
        let rapl = Rapl::open(dir.path()).unwrap();
        let second = dir.path().join("intel-rapl:1/energy_uj");
        fs::remove_file(&second).unwrap();
        // One of two is no figure.
        assert!(matches!(rapl.read().unwrap_err(), Absent::Unreadable { path, .. } if path == second));
        fs::write(&second, "no number").unwrap();
        let error = rapl.read().unwrap_err().to_string();
        assert!(error.ends_with("intel-rapl:1/energy_uj`: holds no number"), "{error}");
    }

    #[test]
    fn a_limit_that_one_package_lacks_is_no_limit() {
        let dir = tempfile::tempdir().unwrap();
        powercap(dir.path(), &[1, 2]);
        fs::write(dir.path().join("intel-rapl:1/constraint_0_max_power_uw"), "0").unwrap();
        assert_eq!(Rapl::limit_watts(dir.path()), None);
        fs::remove_file(dir.path().join("intel-rapl:1/constraint_0_max_power_uw")).unwrap();
        assert_eq!(Rapl::limit_watts(dir.path()), None);
    }
}
