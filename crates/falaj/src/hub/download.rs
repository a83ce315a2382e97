//! One file, from wherever a cut left it to its last checked byte. The bytes grow in `NAME.part`; the name itself
//! appears only when length and digest are right, so that whoever finds it may trust it.

use super::{Check, Hub, RemoteFile, Repository};
use crate::failure::{Failure, OrFail, Outcome};
use crate::output;
use crate::words::Word;
use sha1::Sha1;
use sha2::{Digest, Sha256};
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

impl Hub {
    /// Fetches `file` at `commit` to `to`. `progress` gets the number of bytes that are there.
    pub fn download(
        &self,
        repository: &Repository,
        commit: &str,
        file: &RemoteFile,
        to: &Path,
        progress: &mut dyn FnMut(u64),
    ) -> Outcome {
        if fs::metadata(to).is_ok_and(|about| about.is_file() && about.len() == file.size_bytes) {
            progress(file.size_bytes);
            return Ok(());
        }
        let mut part = Part::open(part_path(to), &file.check, file.size_bytes)?;
        progress(part.len);
        let url = self.file_url(repository, commit, &file.path);
        let mut fruitless = 0;
        while part.len < file.size_bytes || !part.asked {
            let before = part.len;
            let error = match self.attempt(&url, file, &mut part, progress) {
                Ok(()) => continue,
                Err(Stop::For(failure)) => return Err(failure),
                Err(Stop::Cut(error)) => error,
            };
            fruitless = if part.len > before { 1 } else { fruitless + 1 };
            tracing::info!(file = file.path, at = part.len, error, "a download was cut");
            if fruitless > self.retries {
                let sizes = [&*file.path, &output::bytes(part.len), &output::bytes(file.size_bytes)];
                let cause = format!("{} ({error})", Word::PullCut.with(&sizes));
                return Err(Failure::new(cause).next(Word::PullCutNext.text()));
            }
            if fruitless > 1 {
                std::thread::sleep(Duration::from_millis(250 << fruitless.min(6)));
            }
        }
        part.finish(file, to)
    }

    fn attempt(
        &self,
        url: &str,
        file: &RemoteFile,
        part: &mut Part,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), Stop> {
        let mut response = self.follow(url, part.len).map_err(|error| Stop::Cut(error.to_string()))?;
        part.asked = true;
        let status = response.status().as_u16();
        match status {
            206 => {
                let range = response.headers().get("content-range").and_then(|value| value.to_str().ok());
                let begins =
                    range.and_then(|range| range.strip_prefix("bytes ")?.split('-').next()?.parse::<u64>().ok());
                if begins != Some(part.len) {
                    return Err(self.bad_answer(&format!("asked from byte {}, got {range:?}", part.len)).into());
                }
            }
            // No ranges here, or a range that cannot be: from the start.
            200 => part.restart()?,
            416 if part.len > 0 => return Ok(part.restart()?),
            // Busy, or a fault on the way: worth another try.
            408 | 429 | 500..=599 => return Err(Stop::Cut(format!("status {status}"))),
            _ => {
                self.expect_success(&response, &file.path)?;
                return Err(self.bad_answer(&format!("status {status}")).into());
            }
        }
        let mut body = response.body_mut().as_reader();
        let mut buffer = vec![0u8; 256 * 1024];
        loop {
            match body.read(&mut buffer) {
                Ok(0) if part.len < file.size_bytes => return Err(Stop::Cut("connection closed".to_owned())),
                Ok(0) => return Ok(()),
                Ok(count) => {
                    if part.len + count as u64 > file.size_bytes {
                        part.delete()?;
                        let found = format!("> {}", output::bytes(file.size_bytes));
                        return Err(mismatch(file, &found, &output::bytes(file.size_bytes)).into());
                    }
                    part.push(&buffer[..count])?;
                    progress(part.len);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(Stop::Cut(error.to_string())),
            }
        }
    }
}

/// Why an attempt ended early.
enum Stop {
    /// The connection's fault: resume.
    Cut(String),
    For(Failure),
}

impl<E: Into<Failure>> From<E> for Stop {
    fn from(error: E) -> Self {
        Self::For(error.into())
    }
}

/// The growing file and the digest of what it holds.
struct Part {
    path: PathBuf,
    file: File,
    len: u64,
    hasher: Hasher,
    /// What `hasher` is before the first byte.
    fresh: Hasher,
    /// Whether the server was asked at all: an empty file needs no byte but does need an answer.
    asked: bool,
}

#[derive(Clone)]
enum Hasher {
    Sha256(Sha256),
    GitBlob(Sha1),
    Nothing,
}

impl Hasher {
    fn new(check: &Check, size_bytes: u64) -> Self {
        match check {
            Check::Sha256(_) => Self::Sha256(Sha256::new()),
            Check::GitBlob(_) => Self::GitBlob(Sha1::new_with_prefix(format!("blob {size_bytes}\0"))),
            Check::Nothing => Self::Nothing,
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::GitBlob(hasher) => hasher.update(bytes),
            Self::Nothing => {}
        }
    }
}

impl Part {
    /// Takes up what an earlier run left, hashing it again: the file may have changed since.
    fn open(path: PathBuf, check: &Check, size_bytes: u64) -> Outcome<Self> {
        let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let file = open.or_fail(|| format!("`{}`", path.display()))?;
        let fresh = Hasher::new(check, size_bytes);
        let mut part = Self { path, file, len: 0, hasher: fresh.clone(), fresh, asked: false };
        if part.file.metadata()?.len() > size_bytes {
            part.file.set_len(0)?;
        }
        let mut buffer = vec![0u8; 256 * 1024];
        loop {
            let count = part.file.read(&mut buffer)?;
            if count == 0 {
                break;
            }
            part.hasher.update(&buffer[..count]);
            part.len += count as u64;
        }
        part.asked = part.len > 0;
        Ok(part)
    }

    fn push(&mut self, bytes: &[u8]) -> Outcome {
        self.file.write_all(bytes).or_fail(|| format!("`{}`", self.path.display()))?;
        self.hasher.update(bytes);
        self.len += bytes.len() as u64;
        Ok(())
    }

    fn restart(&mut self) -> Outcome {
        if self.len > 0 {
            self.file.set_len(0)?;
            self.file.seek(SeekFrom::Start(0))?;
            self.len = 0;
            self.hasher = self.fresh.clone();
        }
        Ok(())
    }

    fn delete(&self) -> Outcome {
        fs::remove_file(&self.path).or_fail(|| format!("`{}`", self.path.display()))
    }

    fn finish(self, file: &RemoteFile, to: &Path) -> Outcome {
        let found = match self.hasher {
            Hasher::Sha256(hasher) => hex(&hasher.finalize()),
            Hasher::GitBlob(hasher) => hex(&hasher.finalize()),
            Hasher::Nothing => String::new(),
        };
        match &file.check {
            Check::Sha256(expected) | Check::GitBlob(expected) if *expected != found => {
                fs::remove_file(&self.path)?;
                return Err(mismatch(file, &found, expected));
            }
            Check::Nothing => output::note(&Word::PullUnchecked.with(&[&file.path])),
            _ => {}
        }
        self.file.sync_all()?;
        fs::rename(&self.path, to).or_fail(|| format!("`{}`", to.display()))
    }
}

fn mismatch(file: &RemoteFile, found: &str, expected: &str) -> Failure {
    Failure::new(Word::PullMismatch.with(&[&file.path, found, expected])).next(Word::PullMismatchNext.text())
}

fn part_path(to: &Path) -> PathBuf {
    let mut name = to.as_os_str().to_owned();
    name.push(".part");
    PathBuf::from(name)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
