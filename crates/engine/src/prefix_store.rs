//! The prefix cache on disk, across restarts: pages that memory gives up are written, and read back when a prompt begins like
//! one of before. A thread of its own does all of it, behind bounded queues; where these are full, nothing is written and the
//! prompt is computed. The bytes of a page are `model::KvCache`'s business, the form of a file `prefix_store/file.rs`'s.

mod file;

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Instant, SystemTime};

use falaj_artifact::Digest;
use falaj_model::PAGE_TOKENS;

use crate::shared::Shared;
use crate::stats::Stats;
use file::{Fault, Title};

/// The engine thread's end of the store.
pub(crate) struct PrefixStore {
    jobs: SyncSender<Job>,
    found: Receiver<Found>,
    page_bytes: usize,
    limit_bytes: u64,
    /// Smoothed seconds to read one page, as bits; 0: not measured yet.
    page_seconds: Arc<AtomicU32>,
    asked: u32,
    /// Answers to come.
    outstanding: usize,
    thread: Option<JoinHandle<()>>,
}

/// What the store found of a prompt.
pub(crate) struct Found {
    /// Whose prompt.
    pub(crate) id: u64,
    pub(crate) salt: u64,
    pub(crate) tokens: Vec<u32>,
    /// The content of consecutive pages from page `from`.
    pub(crate) from: usize,
    pub(crate) pages: Vec<Vec<u8>>,
    /// There may be more behind these.
    pub(crate) more: bool,
}

enum Job {
    Write { salt: u64, tokens: Vec<u32>, bytes: Vec<u8> },
    Find { id: u64, salt: u64, tokens: Vec<u32>, from: usize },
}

impl PrefixStore {
    /// Opens the store of one way of computing (`identity`: model, numerics, form of the cache) in `dir`.
    ///
    /// # Errors
    /// A directory that cannot be made or read, or no thread.
    pub(crate) fn open(
        dir: &Path,
        identity: Digest,
        page_bytes: usize,
        limit_bytes: u64,
        shared: Arc<Shared>,
    ) -> io::Result<Self> {
        let name: String = identity.to_string().chars().take(32).collect();
        let dir = dir.join(name);
        make_private(&dir)?;
        let files = Files::open(dir, limit_bytes)?;
        let (jobs, queue) = sync_channel(QUEUE);
        let (replies, found) = sync_channel(MOST_OUTSTANDING);
        let page_seconds = Arc::new(AtomicU32::new(0));
        let keeper = Keeper { files, identity, page_bytes, page_seconds: Arc::clone(&page_seconds), shared };
        let run = move || keeper.run(&queue, &replies);
        let thread = Some(std::thread::Builder::new().name("falaj-prefixes".into()).spawn(run)?);
        Ok(Self { jobs, found, page_bytes, limit_bytes, page_seconds, asked: 0, outstanding: 0, thread })
    }

    pub(crate) fn page_bytes(&self) -> usize {
        self.page_bytes
    }

    /// Pages that fit the limit.
    pub(crate) fn most_pages(&self) -> usize {
        (self.limit_bytes / self.page_bytes.max(1) as u64) as usize
    }

    /// Keeps a page, unless the disk is behind. Returns whether it will be kept.
    pub(crate) fn write(&self, salt: u64, tokens: Vec<u32>, bytes: Vec<u8>) -> bool {
        self.jobs.try_send(Job::Write { salt, tokens, bytes }).is_ok()
    }

    /// As [`PrefixStore::write`], and waits where the disk is behind.
    pub(crate) fn write_waiting(&self, salt: u64, tokens: Vec<u32>, bytes: Vec<u8>) -> bool {
        self.jobs.send(Job::Write { salt, tokens, bytes }).is_ok()
    }

    /// Asks for the pages of `tokens` from page `from` on; the answer comes by [`PrefixStore::found`], always. Asks nothing
    /// where reading is known to take longer than computing a page does (`page_seconds`), but for a try now and then.
    pub(crate) fn ask(&mut self, id: u64, salt: u64, tokens: &[u32], from: usize, page_seconds: Option<f32>) -> bool {
        let reading = f32::from_bits(self.page_seconds.load(Ordering::Relaxed));
        self.asked = self.asked.wrapping_add(1);
        if page_seconds.is_some_and(|computing| reading >= computing) && !self.asked.is_multiple_of(TRY_AGAIN) {
            return false;
        }
        // Answers are large: few at once. There is a place for each of them, so that the store never waits for the engine.
        if self.outstanding >= MOST_OUTSTANDING {
            return false;
        }
        let asked = self.jobs.try_send(Job::Find { id, salt, tokens: tokens.to_vec(), from }).is_ok();
        self.outstanding += usize::from(asked);
        asked
    }

    /// The next answer, if one has come.
    pub(crate) fn found(&mut self) -> Option<Found> {
        let found = self.found.try_recv().ok()?;
        self.outstanding -= 1;
        Some(found)
    }
}

impl Drop for PrefixStore {
    /// Waits until all is written that was accepted.
    fn drop(&mut self) {
        let (closed, nothing) = (sync_channel(1).0, sync_channel(1).1);
        drop(std::mem::replace(&mut self.jobs, closed));
        // Nobody reads answers any more; the keeper must not wait for that.
        drop(std::mem::replace(&mut self.found, nothing));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The thread's side.
struct Keeper {
    files: Files,
    identity: Digest,
    page_bytes: usize,
    page_seconds: Arc<AtomicU32>,
    shared: Arc<Shared>,
}

impl Keeper {
    fn run(mut self, jobs: &Receiver<Job>, replies: &SyncSender<Found>) {
        while let Ok(job) = jobs.recv() {
            match job {
                Job::Write { salt, tokens, bytes } => self.write(salt, &tokens, &bytes),
                Job::Find { id, salt, tokens, from } => {
                    let (pages, more) = self.find(salt, &tokens, from);
                    // An engine that is going needs no answer, but what was accepted before is still to be written.
                    let _ = replies.send(Found { id, salt, tokens, from, pages, more });
                    self.shared.wake();
                }
            }
        }
    }

    fn write(&mut self, salt: u64, tokens: &[u32], bytes: &[u8]) {
        let Some(name) = Names::new(salt, tokens).last() else { return };
        if self.files.touch(&name) {
            return;
        }
        let size = file::file_bytes(tokens.len(), bytes.len());
        if !self.files.make_room(size) {
            return;
        }
        let temporary = self.files.dir.join(format!("{name}.{}.tmp", std::process::id()));
        let title = Title { identity: &self.identity, salt, tokens };
        match file::write(&self.files.path(&name), &temporary, &title, bytes) {
            Ok(()) => {
                self.files.add(name, size);
                Stats::add(&self.shared.stats.disk_pages_written, 1);
            }
            Err(error) => {
                tracing::warn!(dir = %self.files.dir.display(), %error, "a page of the prefix cache is not kept")
            }
        }
    }

    fn find(&mut self, salt: u64, tokens: &[u32], from: usize) -> (Vec<Vec<u8>>, bool) {
        let most = (MOST_READ_BYTES / self.page_bytes.max(1)).max(1);
        let mut pages = Vec::new();
        for (number, name) in Names::new(salt, tokens).enumerate().skip(from) {
            if !self.files.touch(&name) {
                break;
            }
            if pages.len() == most {
                return (pages, true);
            }
            let begun = Instant::now();
            let tokens = tokens.get(..(number + 1) * PAGE_TOKENS).unwrap_or_default();
            let title = Title { identity: &self.identity, salt, tokens };
            match file::read(&self.files.path(&name), &title, self.page_bytes) {
                Ok(page) => pages.push(page),
                Err(fault) => {
                    self.discard(&name, &fault);
                    break;
                }
            }
            let took = begun.elapsed().as_secs_f32();
            let old = f32::from_bits(self.page_seconds.load(Ordering::Relaxed));
            let smoothed = if old == 0.0 { took } else { old + (took - old) / 8.0 };
            self.page_seconds.store(smoothed.to_bits(), Ordering::Relaxed);
        }
        Stats::add(&self.shared.stats.disk_pages_read, pages.len());
        (pages, false)
    }

    fn discard(&mut self, name: &str, fault: &Fault) {
        let path = self.files.path(name);
        match fault {
            Fault::Io(error) if error.kind() == io::ErrorKind::NotFound => {}
            Fault::Io(error) => tracing::warn!(path = %path.display(), %error, "a kept page cannot be read"),
            Fault::Damaged(reason) => {
                tracing::warn!(path = %path.display(), reason, "a kept page is damaged and is left out");
                Stats::add(&self.shared.stats.disk_files_damaged, 1);
            }
        }
        self.files.remove(name);
    }
}

/// The names of a prompt's pages in order. A name is the digest of the name before and the page's tokens, so that equal pages
/// after different beginnings differ; the file itself holds all tokens, and these are compared.
struct Names<'a> {
    before: Digest,
    pages: std::slice::Iter<'a, [u32; PAGE_TOKENS]>,
}

impl<'a> Names<'a> {
    fn new(salt: u64, tokens: &'a [u32]) -> Self {
        Self { before: Digest::of(&salt.to_le_bytes()), pages: tokens.as_chunks().0.iter() }
    }
}

impl Iterator for Names<'_> {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        let page = self.pages.next()?;
        let mut text = [0; 32 + 4 * PAGE_TOKENS];
        let (before, tokens) = text.split_at_mut(32);
        before.copy_from_slice(self.before.as_bytes());
        for (bytes, token) in tokens.as_chunks_mut::<4>().0.iter_mut().zip(page) {
            *bytes = token.to_le_bytes();
        }
        self.before = Digest::of(&text);
        Some(self.before.to_string())
    }
}

/// The files that are there, by what was last asked for.
struct Files {
    dir: PathBuf,
    known: HashMap<String, Known>,
    bytes: u64,
    limit_bytes: u64,
    clock: u64,
}

struct Known {
    bytes: u64,
    used_at: u64,
}

impl Files {
    /// Takes stock. Of files left behind by a process that died in the midst of writing, nothing stays.
    fn open(dir: PathBuf, limit_bytes: u64) -> io::Result<Self> {
        let mut there = Vec::new();
        for entry in fs::read_dir(&dir)? {
            let entry = entry?;
            let (name, metadata) = (entry.file_name().to_string_lossy().into_owned(), entry.metadata()?);
            if name.ends_with(".tmp") {
                let _ = fs::remove_file(entry.path());
            } else if let Some(name) = name.strip_suffix(SUFFIX)
                && metadata.is_file()
            {
                there.push((metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH), name.to_owned(), metadata.len()));
            }
        }
        there.sort_unstable();
        let mut files = Self { dir, known: HashMap::new(), bytes: 0, limit_bytes, clock: 0 };
        there.into_iter().for_each(|(_, name, bytes)| files.add(name, bytes));
        files.make_room(0);
        Ok(files)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}{SUFFIX}"))
    }

    /// Whether it is there; if so it was used now.
    fn touch(&mut self, name: &str) -> bool {
        self.clock += 1;
        let known = self.known.get_mut(name);
        known.map(|known| known.used_at = self.clock).is_some()
    }

    fn add(&mut self, name: String, bytes: u64) {
        self.clock += 1;
        self.bytes += bytes;
        self.known.insert(name, Known { bytes, used_at: self.clock });
    }

    fn remove(&mut self, name: &str) {
        if let Some(known) = self.known.remove(name) {
            self.bytes -= known.bytes;
        }
        // It may be gone already, or not be ours to remove: it is not used in any case.
        let _ = fs::remove_file(self.path(name));
    }

    /// Removes what was least recently used until `bytes` more fit; false where they never do.
    fn make_room(&mut self, bytes: u64) -> bool {
        while self.bytes + bytes > self.limit_bytes {
            let oldest = self.known.iter().min_by_key(|(_, known)| known.used_at).map(|(name, _)| name.clone());
            let Some(oldest) = oldest else { return false };
            self.remove(&oldest);
        }
        true
    }
}

fn make_private(dir: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(dir)
}

const SUFFIX: &str = ".kv";
/// Pages that may wait to be written. What comes on top is not kept.
const QUEUE: usize = 32;
/// Read in one go; a longer prompt is asked for again.
const MOST_READ_BYTES: usize = 16 << 20;
/// Prompts asked for at once; others are computed.
const MOST_OUTSTANDING: usize = 4;
/// One in so many prompts is read although computing was faster: disks and machines change.
const TRY_AGAIN: u32 = 64;

#[cfg(test)]
mod tests;
