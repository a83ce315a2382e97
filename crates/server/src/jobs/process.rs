//! The process of one job. It writes a line of JSON for everything that happens ([`Progress`]); its standard input is a leash:
//! closed, it asks for a checkpoint and an end, so that no process outlives its site; a line `cancel` asks for the end alone.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use falaj_protocol::jobs::Progress;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{ChildStdin, ChildStdout, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, Interval, MissedTickBehavior};

use super::{End, JobSettings};

/// What a process is asked for. It only ever becomes more urgent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stop {
    No,
    /// With a checkpoint.
    Pause,
    Cancel,
}

impl Stop {
    /// Whether that changed anything.
    pub(super) fn raise(&mut self, asked: Stop) -> bool {
        let more = asked > *self;
        *self = asked.max(*self);
        more
    }
}

pub(super) struct Child {
    process: tokio::process::Child,
    leash: Option<ChildStdin>,
    lines: BufReader<ChildStdout>,
    /// What was read of a line so far.
    line: Vec<u8>,
    complaint: JoinHandle<String>,
    asked: watch::Receiver<Stop>,
    /// What it has been asked for.
    handled: Stop,
    grace: Duration,
    killed_at: Option<Instant>,
    failure: Option<End>,
    memory: Option<Watch>,
}

/// Looks from time to time at what a process holds.
struct Watch {
    status: PathBuf,
    most_bytes: u64,
    every: Interval,
}

/// Often enough that little more than the limit is taken, seldom enough to cost nothing.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What a process says, or how it ended.
pub(super) enum Next {
    Progress(Progress),
    End(End),
}

/// Longer lines are not ours.
const LINE_LIMIT: usize = 64 << 10;
/// Of what a process complains about, the end.
const COMPLAINT_BYTES: usize = 2 << 10;

impl Child {
    /// # Errors
    /// In words, where the program cannot be started.
    pub(super) fn spawn(
        settings: &JobSettings,
        dir: &Path,
        check: bool,
        asked: watch::Receiver<Stop>,
    ) -> Result<Self, String> {
        let (program, arguments) = settings.command.split_first().ok_or("no program runs jobs here")?;
        let mut command = Command::new(program);
        command.args(arguments).arg(dir);
        if check {
            command.arg("--check");
        }
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut process = piped.spawn().map_err(|error| format!("`{program}` cannot be started: {error}"))?;
        let leash = process.stdin.take();
        let (stdout, stderr) = process.stdout.take().zip(process.stderr.take()).ok_or("the process has no output")?;
        let memory = settings.memory_bytes.zip(process.id()).map(|(most_bytes, id)| {
            let mut every = tokio::time::interval(LOOK_EVERY);
            every.set_missed_tick_behavior(MissedTickBehavior::Delay);
            Watch { status: format!("/proc/{id}/status").into(), most_bytes, every }
        });
        Ok(Self {
            process,
            leash,
            lines: BufReader::new(stdout),
            line: Vec::new(),
            complaint: tokio::spawn(tail(stderr)),
            asked,
            handled: Stop::No,
            grace: settings.grace,
            killed_at: None,
            failure: None,
            memory,
        })
    }

    /// Waits for the next thing that it says, and passes on to it what this job is asked for meanwhile. After its end there is
    /// nothing more.
    pub(super) async fn next(&mut self) -> Next {
        loop {
            let left = LINE_LIMIT.saturating_sub(self.line.len()) as u64;
            let mut limited = (&mut self.lines).take(left);
            tokio::select! {
                read = limited.read_until(b'\n', &mut self.line) => match read {
                    Ok(count) if count > 0 => {
                        if let Some(progress) = self.whole_line() {
                            return Next::Progress(progress);
                        }
                    }
                    _ => return Next::End(self.end().await),
                },
                asked = more_urgent(&mut self.asked, self.handled), if self.handled != Stop::Cancel => {
                    self.handled = asked;
                    self.killed_at.get_or_insert_with(|| Instant::now() + self.grace);
                    self.pull(asked).await;
                }
                taken = too_much(&mut self.memory) => {
                    self.memory = None;
                    self.failure = Some(End::Failed(taken));
                    // What it last wrote as a checkpoint is whole at every moment.
                    self.killed_at = Some(Instant::now());
                }
                () = at(self.killed_at) => {
                    self.killed_at = None;
                    if let Err(error) = self.process.start_kill() {
                        tracing::warn!(%error, "a job's process could not be killed");
                    }
                }
            }
        }
    }

    /// What the line says, if it is whole and there is something for others to know.
    fn whole_line(&mut self) -> Option<Progress> {
        if self.line.last() != Some(&b'\n') && self.line.len() < LINE_LIMIT {
            return None;
        }
        let read = serde_json::from_slice(&self.line);
        self.line.clear();
        match read {
            Ok(Progress::Failed { reason, validation }) => {
                self.failure = Some(if validation { End::BadData(reason) } else { End::Failed(reason) });
                None
            }
            Ok(progress) => Some(progress),
            Err(error) => {
                tracing::warn!(%error, "a job's process wrote a line that is none");
                None
            }
        }
    }

    async fn end(&mut self) -> End {
        let status = tokio::time::timeout(self.grace, self.process.wait()).await;
        if let Some(failure) = self.failure.take() {
            return failure;
        }
        if self.handled != Stop::No {
            return End::Asked(self.handled);
        }
        match status {
            Ok(Ok(status)) if status.success() => End::Exit,
            Ok(Ok(status)) => {
                let complaint = (&mut self.complaint).await.unwrap_or_default();
                let complaint = complaint.trim();
                let said = if complaint.is_empty() { String::new() } else { format!(": {complaint}") };
                End::Failed(format!("the process ended with {status}{said}"))
            }
            Ok(Err(error)) => End::Failed(format!("the process was lost: {error}")),
            Err(_) => End::Failed("the process closed its output but did not end".to_owned()),
        }
    }

    async fn pull(&mut self, asked: Stop) {
        if asked == Stop::Cancel
            && let Some(leash) = &mut self.leash
        {
            // It may have ended meanwhile: then nobody needs to be told.
            let _ = leash.write_all(b"cancel\n").await;
        }
        self.leash = None;
    }
}

/// Waits until the process holds more than it may, and says so. Pages of files are the kernel's to take back: they do not count.
async fn too_much(watch: &mut Option<Watch>) -> String {
    let Some(Watch { status, most_bytes, every }) = watch else { return std::future::pending().await };
    loop {
        every.tick().await;
        // Not there: the process has just ended, or this is no Linux.
        let status = tokio::fs::read_to_string(&*status).await.unwrap_or_default();
        let taken = held_bytes(&status);
        if taken > *most_bytes {
            let [taken, most] = [taken, *most_bytes].map(|bytes| bytes.div_ceil(1 << 20));
            return format!(
                "the job took {taken} MiB of memory, and `jobs.memory_bytes` allows {most} MiB; ask for shorter rows \
                 or smaller batches, or raise that setting"
            );
        }
    }
}

/// Memory of its own. Source: proc_pid_status(5).
fn held_bytes(status: &str) -> u64 {
    let kibibytes = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_suffix("kB"));
        line.and_then(|number| number.trim().parse::<u64>().ok()).unwrap_or(0)
    };
    (kibibytes("RssAnon:") + kibibytes("RssShmem:")).saturating_mul(1 << 10)
}

async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// What is asked for once it is more than `handled`. Where nobody could ask any more, it is as if a pause had been asked for.
async fn more_urgent(asked: &mut watch::Receiver<Stop>, handled: Stop) -> Stop {
    let more = asked.wait_for(|asked| *asked > handled).await.map(|asked| *asked);
    match more {
        Ok(asked) => asked,
        Err(_) if handled < Stop::Pause => Stop::Pause,
        Err(_) => std::future::pending().await,
    }
}

/// The last of what comes, as text.
async fn tail(mut from: impl tokio::io::AsyncRead + Unpin) -> String {
    let mut kept: Vec<u8> = Vec::new();
    let mut piece = [0u8; 4096];
    while let Ok(count) = from.read(&mut piece).await {
        if count == 0 {
            break;
        }
        kept.extend_from_slice(piece.get(..count).unwrap_or_default());
        if kept.len() > 2 * COMPLAINT_BYTES {
            kept.drain(..kept.len() - COMPLAINT_BYTES);
        }
    }
    let from = kept.len().saturating_sub(COMPLAINT_BYTES);
    String::from_utf8_lossy(kept.get(from..).unwrap_or_default()).into_owned()
}
