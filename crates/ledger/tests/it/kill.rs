//! kill -9 in the middle of concurrent appends: what was acknowledged is there afterwards. The child is this test binary.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::sync::Arc;

use falaj_ledger::{FileKey, Log, LogSettings};

const FOLDER: &str = "FALAJ_TEST_LEDGER_TO_FILL";

fn open(folder: &std::path::Path) -> Log {
    let key = Arc::new(FileKey::from_seed(&[3; 32]).unwrap());
    let settings = LogSettings {
        segment_bytes: 20_000,
        checkpoint_every: std::time::Duration::from_millis(20),
        ..LogSettings::default()
    };
    Log::open(folder, "site.example/ledger", key, Arc::new(|| 1_800_000_000), settings).unwrap()
}

#[test]
fn acknowledged_entries_survive_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let mut acknowledged = Vec::new();
    for lines in [10, 200, 1000] {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "kill::fill_until_killed", "--nocapture"])
            .env(FOLDER, folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut seen = 0;
        for line in output.lines() {
            let line = line.unwrap();
            if let Some((index, entry)) = line.strip_prefix("durable ").and_then(|rest| rest.split_once(' ')) {
                acknowledged.push((index.parse::<u64>().unwrap(), entry.to_owned()));
                seen += 1;
            }
            // Lines that were in the pipe when it died count too: they were acknowledged.
            if seen == lines {
                child.kill().unwrap();
            }
        }
        assert!(seen >= lines);
        child.wait().unwrap();
        let log = open(folder.path());
        for (index, entry) in &acknowledged {
            assert_eq!(log.entry(*index).unwrap(), entry.as_bytes());
        }
    }
}

/// Does nothing unless the test above starts it.
#[test]
fn fill_until_killed() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let log = open(folder.as_ref());
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let log = &log;
            scope.spawn(move || {
                for number in 0u64.. {
                    let entry = format!("{}-{thread}-{number}", std::process::id());
                    let Ok(ticket) = log.append(entry.clone().into_bytes()) else { continue };
                    let index = ticket.wait().unwrap();
                    if writeln!(std::io::stdout().lock(), "durable {index} {entry}").is_err() {
                        return;
                    }
                }
            });
        }
    });
}
