//! A machine with a folder for its counters.

use std::fs;

use super::*;
use crate::charge::Grade;
use crate::rapl::tests::{count, powercap};

/// Counters and clocks that a test turns. Two packages, four hardware threads, 40 W by the makers.
struct Machine {
    dir: tempfile::TempDir,
    site: Site,
    at: Duration,
    ticks: u64,
    uj: [u64; 2],
}

impl Machine {
    fn new(uj: [u64; 2]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        powercap(&dir.path().join("powercap"), &uj);
        fs::create_dir(dir.path().join("proc")).unwrap();
        let settings = Settings {
            cpu_watts: Some(40.0),
            threads: 4,
            meter_file: None,
            powercap: dir.path().join("powercap"),
            proc: dir.path().join("proc"),
            gpus: false,
        };
        let mut machine = Self { site: Site::new(settings), dir, at: Duration::ZERO, ticks: 0, uj };
        machine.pass(0.0, 0.0, 0.0);
        machine
    }

    /// Lets time pass, with so many threads busy and so many watts in each package.
    fn pass(&mut self, seconds: f64, threads: f64, watts: f64) {
        self.at += Duration::from_secs_f64(seconds);
        self.ticks += (seconds * threads * 100.0) as u64;
        for (package, uj) in self.uj.iter_mut().enumerate() {
            *uj = (*uj + (seconds * watts * 1e6) as u64) % 100_000_000;
            let _ = fs::create_dir(self.dir.path().join(format!("powercap/intel-rapl:{package}")));
            count(&self.dir.path().join("powercap"), package, *uj);
        }
        fs::write(self.dir.path().join("proc/stat"), format!("cpu  {} 0 0 9 9 0 0 0", self.ticks)).unwrap();
        self.site.sample(self.at);
    }

    /// Of a second of CPU time.
    fn second(&self) -> (f64, Grade) {
        let Charge { uj, grade } = self.site.charge(1_000_000_000).unwrap();
        (uj as f64 / 1e6, grade)
    }
}

/// By the makers: 40 W for four threads.
const BY_TDP: (f64, Grade) = (10.0, Grade::D);

#[test]
fn what_is_above_idle_is_shared_by_cpu_time() {
    let mut machine = Machine::new([0, 0]);
    assert_eq!(machine.second(), BY_TDP, "before idle was seen");
    machine.pass(1.0, 2.0, 15.0);
    assert_eq!(machine.second(), BY_TDP, "busy from the start: nobody knows what idle is");
    // 20 W idle; then 30 W with two threads at work: 5 W each.
    machine.pass(1.0, 0.0, 10.0);
    machine.pass(1.0, 2.0, 15.0);
    assert_eq!(machine.second(), (5.0, Grade::B));
    let state = machine.site.state();
    assert_eq!((state.idle_watts, state.watts_per_thread), (Some(20.0), 5.0));
    assert_eq!((state.counted_uj, state.idle_uj), (Some(80_000_000), Some(40_000_000)));
    assert_eq!(machine.site.charge(0), None, "nothing measured is not zero");
    assert_eq!(machine.site.charge(1).map(|charge| charge.uj), Some(1), "and little is not nothing");
}

#[test]
fn requests_and_idle_come_to_what_the_counters_say() {
    let mut machine = Machine::new([0, 0]);
    machine.pass(1.0, 0.0, 10.0);
    let mut charged = 0.0;
    for second in 0..600 {
        // One to four threads; each takes 6 W more than idle.
        let threads = 1.0 + f64::from(second % 4);
        machine.pass(1.0, threads, 10.0 + 3.0 * threads);
        charged += machine.second().0 * threads;
    }
    let State { counted_uj, idle_uj, .. } = machine.site.state();
    let above = (counted_uj.unwrap() - idle_uj.unwrap()) as f64 / 1e6;
    assert!((charged / above - 1.0).abs() < 0.01, "{charged} J of {above} J");
}

#[test]
fn counters_that_wrap_are_counted_on() {
    let mut machine = Machine::new([95_000_000, 0]);
    machine.pass(1.0, 0.0, 10.0);
    machine.pass(1.0, 2.0, 15.0);
    assert_eq!(machine.second(), (5.0, Grade::B));
    assert_eq!(machine.site.state().counted_uj, Some(50_000_000));
}

#[test]
fn idle_falls_at_once_and_rises_slowly() {
    let mut machine = Machine::new([0, 0]);
    machine.pass(1.0, 0.0, 20.0);
    machine.pass(1.0, 0.0, 10.0);
    assert_eq!(machine.site.state().idle_watts, Some(20.0));
    machine.pass(1.0, 0.0, 15.0);
    let idle = machine.site.state().idle_watts.unwrap();
    assert!((idle - 20.2).abs() < 1e-6, "{idle}");
    machine.pass(1.0, 4.0, 50.0);
    assert_eq!(machine.site.state().idle_watts, Some(idle), "work says nothing of idle");
}

#[test]
fn a_package_that_vanishes_takes_the_grade_with_it() {
    let mut machine = Machine::new([0, 0]);
    machine.pass(1.0, 0.0, 10.0);
    machine.pass(1.0, 2.0, 15.0);
    let vanished = machine.dir.path().join("powercap/intel-rapl:1");
    fs::remove_dir_all(&vanished).unwrap();
    machine.site.sample(machine.at + Duration::from_secs(1));
    assert_eq!(machine.second(), BY_TDP, "half of the packages is no figure");
    let absent = machine.site.state().absent.unwrap();
    assert!(matches!(absent, Absent::Unreadable { path, .. } if path == vanished.join("energy_uj")));
    // It is back, and has counted from somewhere else: that window is not used.
    machine.uj[1] = 3;
    machine.pass(2.0, 2.0, 15.0);
    machine.pass(1.0, 2.0, 15.0);
    assert_eq!((machine.second(), machine.site.state().absent), ((5.0, Grade::B), None));
}

#[test]
#[cfg(unix)]
fn what_may_not_be_read_is_said_and_not_guessed() {
    use std::os::unix::fs::PermissionsExt;
    let machine = Machine::new([0, 0]);
    let counter = machine.dir.path().join("powercap/intel-rapl:0/energy_uj");
    fs::set_permissions(&counter, fs::Permissions::from_mode(0o000)).unwrap();
    if fs::read(&counter).is_ok() {
        // Root reads everything: a folder in place of the file is refused to it, too.
        fs::remove_file(&counter).unwrap();
        fs::create_dir(&counter).unwrap();
    }
    let settings = Settings { cpu_watts: None, ..machine.site.settings.clone() };
    let site = Site::new(settings);
    let findings = site.findings();
    assert!(
        matches!(&findings.counters, Err(Absent::Denied { path } | Absent::Unreadable { path, .. }) if *path == counter)
    );
    // The limits of the packages are open to all: 2 × 65 W over four threads.
    assert_eq!(site.charge(1_000_000_000), Some(Charge { uj: 32_500_000, grade: Grade::D }));
    assert_eq!(site.state().counted_uj, None, "unknown is not zero");
    machine.site.sample(machine.at + Duration::from_secs(1));
    assert_eq!(machine.second(), BY_TDP);
}

#[test]
fn a_clock_that_goes_back_or_sleeps_counts_nothing() {
    let mut machine = Machine::new([0, 0]);
    machine.pass(1.0, 0.0, 10.0);
    machine.pass(1.0, 2.0, 15.0);
    let before = machine.site.state();
    machine.at = Duration::ZERO;
    machine.pass(0.5, 2.0, 400.0);
    machine.pass(3600.0, 0.0, 0.001);
    machine.pass(0.01, 0.0, 10.0);
    let after = machine.site.state();
    assert_eq!(
        (after.counted_uj, after.idle_watts, after.method),
        (before.counted_uj, before.idle_watts, before.method)
    );
    // And goes on from there.
    machine.pass(1.0, 2.0, 15.0);
    assert_eq!(machine.second(), (5.0, Grade::B));
}

#[test]
fn a_machine_without_anything_is_an_estimate() {
    let dir = tempfile::tempdir().unwrap();
    let nowhere = dir.path().join("nowhere");
    let settings = Settings {
        cpu_watts: None,
        threads: 4,
        powercap: nowhere.clone(),
        proc: nowhere.clone(),
        gpus: false,
        ..Settings::default()
    };
    let site = Site::new(settings);
    site.sample(Duration::ZERO);
    site.sample(Duration::from_secs(1));
    assert_eq!(site.charge(1_000_000_000), Some(Charge { uj: 4_000_000, grade: Grade::E }));
    let State { counted_uj, idle_uj, gpus_uj, absent, .. } = site.state();
    assert_eq!((counted_uj, idle_uj, gpus_uj), (None, None, None), "unknown is not zero");
    assert_eq!(absent, Some(Absent::NoCounters { path: nowhere }));
}

#[test]
fn prices_are_kept_as_they_are() {
    for (watts, method) in
        [(0.000_001, Method::MeterAboveIdle), (4.0, Method::CpuTimeAssumed), (1e9, Method::CpuTimeTdp)]
    {
        assert_eq!(unpacked(packed(watts * FJ_PER_W_NS, method)), ((watts * FJ_PER_W_NS) as u64, method));
    }
}

#[test]
fn a_meter_that_tells_seldom_is_waited_for() {
    let mut machine = Machine::new([0, 0]);
    let file = machine.dir.path().join("meter");
    fs::write(&file, "1000.0").unwrap();
    machine.site = Site::new(Settings { meter_file: Some(file.clone()), ..machine.site.settings.clone() });
    machine.pass(0.0, 0.0, 0.0);
    assert_eq!(machine.site.findings().method, Method::MeterAboveIdle);
    // It says every five seconds what was taken: 100 W idle, then 140 W with two threads at work.
    let mut joules = 1000.0;
    for (threads, watts) in [(0.0, 100.0), (2.0, 140.0)] {
        for _ in 0..4 {
            machine.pass(1.0, threads, 1.0);
        }
        joules += 5.0 * watts;
        fs::write(&file, joules.to_string()).unwrap();
        machine.pass(1.0, threads, 1.0);
    }
    assert_eq!(machine.second(), (20.0, Grade::A));
    let state = machine.site.state();
    assert_eq!((state.idle_watts, state.counted_uj), (Some(100.0), Some(1_200_000_000)));
    fs::write(&file, "").unwrap();
    machine.pass(1.0, 2.0, 1.0);
    assert_eq!(machine.second(), BY_TDP);
}

#[test]
fn counters_that_stand_still_are_no_counters() {
    let mut machine = Machine::new([0, 0]);
    for threads in [0.0, 0.0, 2.0, 2.0] {
        machine.pass(1.0, threads, 0.0);
    }
    assert_eq!(machine.second(), BY_TDP);
    let State { counted_uj, idle_watts, .. } = machine.site.state();
    assert_eq!((counted_uj, idle_watts), (None, None), "unknown is not zero");
}
