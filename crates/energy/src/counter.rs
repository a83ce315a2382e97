//! What counts a machine's energy: its processors' packages, or a meter at the socket whose reading somebody writes into a file.

use std::fs;
use std::path::{Path, PathBuf};

use crate::charge::Method;
use crate::rapl::Rapl;
use crate::source::{Absent, Settings};

#[derive(Debug)]
pub(crate) enum Counter {
    Packages(Rapl),
    Meter(Meter),
}

/// A file that holds joules since some time, such as `123456.7`.
#[derive(Debug)]
pub(crate) struct Meter(PathBuf);

/// No machine takes more: a difference beyond it is a meter that was set anew.
const MOST_WATTS: f64 = 50_000.0;

impl Counter {
    /// The better one that answers. Why there is none: of the better one that was wanted.
    pub(crate) fn open(settings: &Settings) -> Result<Self, Absent> {
        let packages = || Rapl::open(&settings.powercap).map(Self::Packages);
        let Some(file) = &settings.meter_file else { return packages() };
        match Meter::open(file) {
            Ok(meter) => Ok(Self::Meter(meter)),
            Err(absent) => packages().map_err(|_| absent),
        }
    }

    /// Microjoules since some time, of each part.
    pub(crate) fn read(&self) -> Result<Vec<u64>, Absent> {
        match self {
            Self::Packages(rapl) => rapl.read(),
            Self::Meter(meter) => meter.read().map(|uj| vec![uj]),
        }
    }

    /// Microjoules of all parts between two readings, `seconds` apart; `None` where that cannot be said.
    pub(crate) fn between(&self, before: &[u64], now: &[u64], seconds: f64) -> Option<u64> {
        match self {
            Self::Packages(rapl) => rapl.between(before, now, seconds),
            Self::Meter(_) => {
                let ([before], [now]) = (before, now) else { return None };
                now.checked_sub(*before).filter(|passed| *passed as f64 <= MOST_WATTS * 1e6 * seconds)
            }
        }
    }

    pub(crate) fn above_idle(&self) -> Method {
        match self {
            Self::Packages(_) => Method::RaplAboveIdle,
            Self::Meter(_) => Method::MeterAboveIdle,
        }
    }

    pub(crate) fn share(&self) -> Method {
        match self {
            Self::Packages(_) => Method::RaplShare,
            Self::Meter(_) => Method::MeterShare,
        }
    }
}

impl Meter {
    fn open(file: &Path) -> Result<Self, Absent> {
        let meter = Self(file.to_path_buf());
        meter.read().map(|_| meter)
    }

    fn read(&self) -> Result<u64, Absent> {
        let path = || self.0.clone();
        let text = fs::read_to_string(&self.0).map_err(|error| Absent::of(path(), &error))?;
        let joules = text.trim().parse::<f64>().ok().filter(|joules| (0.0..1e12).contains(joules));
        let joules = joules.ok_or_else(|| Absent::Unreadable { path: path(), reason: "holds no joules".to_owned() })?;
        Ok((joules * 1e6) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rapl::tests::powercap;

    #[test]
    fn a_meter_goes_before_packages_where_it_answers() {
        let dir = tempfile::tempdir().unwrap();
        powercap(&dir.path().join("powercap"), &[7]);
        let file = dir.path().join("meter");
        let settings =
            Settings { meter_file: Some(file.clone()), powercap: dir.path().join("powercap"), ..Settings::default() };
        assert!(matches!(Counter::open(&settings), Ok(Counter::Packages(_))));
        fs::write(&file, "12.5\n").unwrap();
        let counter = Counter::open(&settings).unwrap();
        assert_eq!((counter.read(), counter.above_idle()), (Ok(vec![12_500_000]), Method::MeterAboveIdle));
        assert_eq!(counter.between(&[5], &[9], 1.0), Some(4));
        // Set anew, or beyond all measure.
        assert_eq!(counter.between(&[9], &[5], 1.0), None);
        assert_eq!(counter.between(&[0], &[60_000_000_000], 1.0), None);
        for text in ["", "-1", "NaN", "1e13", "a lot"] {
            fs::write(&file, text).unwrap();
            assert!(matches!(counter.read(), Err(Absent::Unreadable { .. })), "{text}");
        }
        let nowhere = Settings { powercap: dir.path().join("nowhere"), ..settings };
        assert!(matches!(Counter::open(&nowhere).unwrap_err(), Absent::Unreadable { path, .. } if path == file));
    }
}
