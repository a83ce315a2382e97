//! A file from its first line to its last, several threads at work, its rows handed over in order.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use falaj_artifact::{Digest, Hasher};

use super::{BadLine, Encoder, Format, Lines, Raw, Reason, Row, Unit};
use crate::TrainError;

/// What a whole file turned out to be.
#[derive(Debug, Clone, PartialEq)]
pub struct FileFacts {
    pub path: PathBuf,
    pub bytes: u64,
    pub sha256: Digest,
    /// None where no row could be read.
    pub format: Option<Format>,
}

/// How to read.
#[derive(Debug, Clone, Copy)]
pub struct Reading<'a> {
    pub encoder: &'a Encoder,
    pub threads: usize,
}

impl Reading<'_> {
    /// Reads `path` and gives every row to `each`, in order, with its line. A file that ends in `.txt` or `.md` is plain text.
    ///
    /// # Errors
    /// `Io` where the file cannot be read, and those of `each`.
    pub fn read(
        &self,
        path: &Path,
        each: &mut dyn FnMut(u64, Result<Vec<Unit>, Reason>) -> Result<(), TrainError>,
    ) -> Result<FileFacts, TrainError> {
        let file = File::open(path).map_err(TrainError::io("open", path))?;
        let mut counted = Counted { inner: file, hasher: Hasher::default(), bytes: 0 };
        let plain = path.extension().is_some_and(|end| end == "txt" || end == "md");
        let mut lines = Lines::new(BufReader::with_capacity(BUFFER_BYTES, &mut counted), plain);
        let mut format = None;
        let mut part = Part::default();
        loop {
            let row = match lines.next_row().map_err(TrainError::io("read", path))? {
                None => break,
                Some(row) => row,
            };
            part.add(row);
            if format.is_none() || part.is_full() {
                part.finish(self, &mut format, each)?;
            }
        }
        part.finish(self, &mut format, each)?;
        drop(lines);
        Ok(FileFacts { path: path.to_owned(), bytes: counted.bytes, sha256: counted.hasher.finish(), format })
    }

    fn encode(&self, row: &Held, format: Option<Format>) -> Result<(Vec<Unit>, Format), Reason> {
        let Held { line, text, begins, ends, json } = row;
        let raw =
            Raw { line: *line, text: text.as_ref().map_err(Clone::clone)?, json: *json, begins: *begins, ends: *ends };
        let (row, format) = Row::parse(&raw, format)?;
        Ok((self.encoder.encode(&row)?, format))
    }
}

/// A row that waits for its turn.
struct Held {
    line: u64,
    text: Result<String, Reason>,
    begins: bool,
    ends: bool,
    json: bool,
}

#[derive(Default)]
struct Part {
    rows: Vec<Held>,
    bytes: usize,
}

impl Part {
    fn add(&mut self, row: Result<Raw, BadLine>) {
        self.rows.push(match row {
            Ok(Raw { line, text, json, begins, ends }) => {
                self.bytes += text.len();
                Held { line, text: Ok(text.to_owned()), begins, ends, json }
            }
            Err(BadLine { line, reason }) => Held { line, text: Err(reason), begins: true, ends: true, json: true },
        });
    }

    fn is_full(&self) -> bool {
        self.rows.len() >= PART_ROWS || self.bytes >= PART_BYTES
    }

    fn finish(
        &mut self,
        reading: &Reading,
        format: &mut Option<Format>,
        each: &mut dyn FnMut(u64, Result<Vec<Unit>, Reason>) -> Result<(), TrainError>,
    ) -> Result<(), TrainError> {
        let rows = std::mem::take(&mut self.rows);
        self.bytes = 0;
        let share = rows.len().div_ceil(reading.threads.max(1)).max(1);
        let known = *format;
        let encode = |rows: &[Held]| rows.iter().map(|row| reading.encode(row, known)).collect::<Vec<_>>();
        let done: Vec<_> = if rows.len() <= share {
            encode(&rows)
        } else {
            std::thread::scope(|scope| {
                let encode = &encode;
                let parts: Vec<_> = rows.chunks(share).map(|part| (part, scope.spawn(move || encode(part)))).collect();
                // A panic in a tokenizer takes its rows only.
                let lost = |part: &[Held]| part.iter().map(|_| Err(lost_row())).collect();
                parts.into_iter().flat_map(|(part, thread)| thread.join().unwrap_or_else(|_| lost(part))).collect()
            })
        };
        for (row, done) in rows.iter().zip(done) {
            let units = done.map(|(units, found)| {
                format.get_or_insert(found);
                units
            });
            each(row.line, units)?;
        }
        Ok(())
    }
}

fn lost_row() -> Reason {
    Reason::NotRendered { detail: "the tokenizer failed on this or a neighbouring line".to_owned() }
}

/// Counts and hashes what passes.
struct Counted {
    inner: File,
    hasher: Hasher,
    bytes: u64,
}

impl Read for &mut Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.inner.read(buffer)?;
        self.hasher.update(buffer.get(..got).unwrap_or_default());
        self.bytes += got as u64;
        Ok(got)
    }
}

const BUFFER_BYTES: usize = 1 << 18;
const PART_ROWS: usize = 1024;
const PART_BYTES: usize = 8 << 20;
