//! A process with two thousand requests in flight is killed again and again; what it was told is written must be there, once,
//! and the sums must be those of the rows.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use falaj_store::{By, Meter, MeterSettings, Opened, RequestId, Settled, UsageFilter};

const FOLDER: &str = "FALAJ_TEST_METER_FOLDER";
const RUN: &str = "FALAJ_TEST_METER_RUN";
/// One acknowledgement: `o` or `s`, then the id.
const LINE: usize = 17;

#[tokio::test]
async fn what_was_acknowledged_survives_kill_nine() {
    let dir = tempfile::tempdir().unwrap();
    let (mut opened, mut settled) = (HashSet::new(), HashSet::new());
    for (run, lines) in [1, 3_000, 40, 9_000, 20_001, 500].into_iter().enumerate() {
        let told = run_and_kill(dir.path(), run, lines);
        for line in told.chunks_exact(LINE) {
            let id: RequestId = line[1..].try_into().unwrap();
            match line[0] {
                b'o' => assert!(opened.insert(id), "acknowledged twice"),
                b's' => assert!(settled.insert(id), "settled twice"),
                _ => panic!("the process said: {}", String::from_utf8_lossy(&told)),
            }
        }
        let meter = Meter::start(dir.path(), MeterSettings::default()).await.unwrap();
        let open: HashSet<_> = meter.unsettled().iter().map(|it| it.request_id).collect();
        let rows = meter.receipts("w", None, u32::MAX).await.unwrap();
        let done: HashSet<_> = rows.iter().map(|row| row.settled.request_id).collect();
        assert_eq!(done.len(), rows.len(), "a row twice after run {run}");
        assert!(done.is_disjoint(&open), "settled and open after run {run}");
        assert!(settled.is_subset(&done), "a settlement is lost after run {run}");
        assert!(opened.iter().all(|id| done.contains(id) || open.contains(id)), "an opening is lost after run {run}");
        let totals = meter.totals(&UsageFilter::default(), By::Key).await.unwrap();
        let sums = |of: fn(&falaj_store::Totals) -> u64| totals.iter().map(|(_, totals)| of(totals)).sum::<u64>();
        assert_eq!(sums(|totals| totals.requests), rows.len() as u64, "after run {run}");
        assert_eq!(
            sums(|totals| totals.money),
            rows.iter().map(|row| row.settled.money).sum::<u64>(),
            "after run {run}"
        );
    }
    assert!(settled.len() > 10_000, "only {}", settled.len());
}

/// Everything that the process said until it had said so many lines, and then until it was dead.
fn run_and_kill(dir: &Path, run: usize, lines: usize) -> Vec<u8> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "usage_crash::the_process_that_is_killed", "--nocapture"])
        .env(FOLDER, dir)
        .env(RUN, run.to_string())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut pipe = child.stderr.take().unwrap();
    let mut told = vec![0; lines * LINE];
    pipe.read_exact(&mut told).expect("it lives until it is killed");
    child.kill().unwrap();
    pipe.read_to_end(&mut told).unwrap();
    child.wait().unwrap();
    told
}

/// No test by itself: the other one starts it in a process of its own.
#[test]
fn the_process_that_is_killed() {
    let (Some(dir), Ok(run)) = (std::env::var_os(FOLDER), std::env::var(RUN)) else { return };
    let run: u64 = run.parse().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build().unwrap();
    let meter = Arc::new(runtime.block_on(Meter::start(Path::new(&dir), MeterSettings::default())).unwrap());
    let settled = meter.unsettled().iter().map(|opened| {
        let settled = Settled { request_id: opened.request_id, money: 1 << 32, ..Settled::default() };
        (opened.request_id, meter.settle(settled).unwrap())
    });
    for (id, ticket) in settled.collect::<Vec<_>>() {
        ticket.wait().unwrap();
        acknowledge(b's', &id);
    }
    let next = Arc::new(AtomicU64::new(0));
    let requests = (0..2_000).map(|_| {
        let (meter, next) = (Arc::clone(&meter), Arc::clone(&next));
        runtime.spawn(async move {
            // Longer than anybody lets it live.
            for _ in 0..1_000_000 {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let request_id = (u128::from(run) << 64 | u128::from(number)).to_be_bytes();
                let opened = Opened {
                    request_id,
                    organisation: "o".into(),
                    workspace: "w".into(),
                    key: format!("k{}", number % 7).into(),
                    time_ms: number * 10,
                    model: "m".into(),
                    decision: [0; 32],
                    input_salt: Some([1; 32]),
                    output_salt: Some([2; 32]),
                };
                meter.open(opened).unwrap().await.unwrap();
                acknowledge(b'o', &request_id);
                let settled = Settled { request_id, money: number, receipt: vec![5; 526], ..Settled::default() };
                meter.settle(settled).unwrap().await.unwrap();
                acknowledge(b's', &request_id);
            }
        })
    });
    let requests: Vec<_> = requests.collect();
    runtime.block_on(async {
        for request in requests {
            request.await.unwrap();
        }
    });
}

/// One unbuffered write of less than a pipe's page: whole, or not there.
fn acknowledge(what: u8, id: &RequestId) {
    let mut line = [what; LINE];
    line[1..].copy_from_slice(id);
    std::io::stderr().write_all(&line).unwrap();
}
