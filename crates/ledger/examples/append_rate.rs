//! How many entries a second become durable, and how long each waits: `append_rate [FOLDER] [SECONDS] [ENTRY_BYTES] [IN_FLIGHT] [RATE]`.
//! Without FOLDER below the current one, which must be on a real disk. One thread keeps up to IN_FLIGHT entries waiting, and
//! with RATE begins no more than so many a second.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use falaj_ledger::{FileKey, LedgerError, Log, LogSettings};

fn main() -> Result<(), LedgerError> {
    let mut arguments = std::env::args().skip(1);
    let folder = PathBuf::from(arguments.next().unwrap_or_else(|| "append_rate.tmp".to_owned()));
    let mut number = |default: usize| arguments.next().and_then(|text| text.parse().ok()).unwrap_or(default);
    let (seconds, bytes, in_flight, rate) = (number(5), number(600), number(256), number(0));
    let clock = Arc::new(|| std::time::UNIX_EPOCH.elapsed().map_or(0, |now| now.as_secs()));
    let log =
        Log::open(&folder, "bench.example/ledger", Arc::new(FileKey::generate()?), clock, LogSettings::default())?;
    let (start, mut waiting, mut waits) = (Instant::now(), VecDeque::new(), Vec::new());
    let end = Duration::from_secs(seconds as u64);
    let mut begun = 0;
    while start.elapsed() < end {
        let due = if rate == 0 { usize::MAX } else { (start.elapsed().as_secs_f64() * rate as f64) as usize };
        while waiting.len() < in_flight && begun < due {
            match log.append(vec![begun as u8; bytes]) {
                Ok(ticket) => {
                    waiting.push_back((Instant::now(), ticket));
                    begun += 1;
                }
                Err(LedgerError::Busy) => break,
                Err(error) => return Err(error),
            }
        }
        // Tickets resolve in order: wait for the oldest, then take all that are there.
        if let Some((since, ticket)) = waiting.pop_front() {
            ticket.wait()?;
            waits.push(since.elapsed());
        }
    }
    let took = start.elapsed();
    waits.sort();
    let at = |part: f64| waits.get((waits.len() as f64 * part) as usize).or(waits.last()).copied().unwrap_or_default();
    println!("{:.0} appends/s of {bytes} bytes, {in_flight} in flight", waits.len() as f64 / took.as_secs_f64());
    println!("wait p50 {:.2?}, p99 {:.2?}, p99.9 {:.2?}, max {:.2?}", at(0.5), at(0.99), at(0.999), at(1.0));
    let closing = Instant::now();
    drop(log);
    println!("tiles and the last checkpoint: {:.2?} after the last append", closing.elapsed());
    std::fs::remove_dir_all(&folder).map_err(|source| LedgerError::Io {
        action: "remove",
        path: folder,
        source: Arc::new(source),
    })
}
