//! Rendered examples on disk, so that a job's memory does not grow with its data: tokens and weights in two flat files, read
//! piece by piece, and an index of 16 bytes an example. Written once, before the first step; resuming reads the same bytes.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use falaj_artifact::{Digest, Hasher};

use super::{Example, Unit};
use crate::TrainError;

/// One example in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// Its first token among all.
    pub first: u64,
    pub tokens: u32,
    /// Number of the file it came from.
    pub file: u16,
    pub kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Example,
    /// Running text: it may be cut anywhere.
    Text,
    /// The next record is the other half.
    Chosen,
    Rejected,
}

/// Examples that were written by a [`StoreWriter`].
#[derive(Debug)]
pub struct Store {
    records: Vec<Record>,
    tokens: File,
    weights: File,
    /// What the bytes of `weights` stand for.
    classes: Vec<f32>,
    path: PathBuf,
    digest: Digest,
}

impl Store {
    /// Opens `name` in `dir`.
    ///
    /// # Errors
    /// `Io`, and `DataDamaged` where the files contradict each other.
    pub fn open(dir: &Path, name: &str) -> Result<Self, TrainError> {
        let path = dir.join(format!("{name}.index"));
        let index = std::fs::read(&path).map_err(TrainError::io("read", &path))?;
        let damaged = || TrainError::DataDamaged { path: path.clone() };
        let (digest, rest) = index.split_first_chunk::<32>().ok_or_else(damaged)?;
        let (count, rest) = rest.split_first_chunk::<4>().ok_or_else(damaged)?;
        let classes_bytes = u32::from_le_bytes(*count) as usize * 4;
        let (classes, rest) = rest.split_at_checked(classes_bytes).ok_or_else(damaged)?;
        let classes = classes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        let (records, []) = rest.as_chunks::<16>() else { return Err(damaged()) };
        let records = records.iter().map(Record::from_bytes).collect::<Option<Vec<_>>>().ok_or_else(damaged)?;
        let open = |end: &str| {
            let path = dir.join(format!("{name}.{end}"));
            File::open(&path).map_err(TrainError::io("open", &path))
        };
        let (tokens, weights) = (open("tokens")?, open("weights")?);
        let total = records.last().map_or(0, |record| record.first + u64::from(record.tokens));
        let bytes = |file: &File| file.metadata().map(|about| about.len()).unwrap_or(0);
        if bytes(&tokens) != total * 4 || bytes(&weights) != total {
            return Err(damaged());
        }
        Ok(Self { records, tokens, weights, classes, path, digest: Digest::from_bytes(*digest) })
    }

    pub fn records(&self) -> &[Record] {
        &self.records
    }

    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Of all tokens, weights and their division into examples.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    pub fn tokens(&self) -> u64 {
        self.records.last().map_or(0, |record| record.first + u64::from(record.tokens))
    }

    /// What the index holds in memory.
    pub fn index_bytes(&self) -> usize {
        self.records.capacity() * size_of::<Record>()
    }

    /// `count` tokens and weights of a record, from its token `from` on.
    ///
    /// # Errors
    /// `Io`; `DataDamaged` where the record has fewer.
    pub fn read(&self, record: &Record, from: u32, count: u32) -> Result<Example, TrainError> {
        let damaged = || TrainError::DataDamaged { path: self.path.clone() };
        if from.checked_add(count).is_none_or(|end| end > record.tokens) {
            return Err(damaged());
        }
        let at = record.first + u64::from(from);
        let mut bytes = vec![0; count as usize * 4];
        self.tokens.read_exact_at(&mut bytes, at * 4).map_err(TrainError::io("read", &self.path))?;
        let tokens = bytes.as_chunks::<4>().0.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect();
        let weights = bytes.get_mut(..count as usize).unwrap_or_default();
        self.weights.read_exact_at(weights, at).map_err(TrainError::io("read", &self.path))?;
        let weights = weights.iter().map(|class| self.classes.get(usize::from(*class)).copied());
        Ok(Example { tokens, weights: weights.collect::<Option<_>>().ok_or_else(damaged)? })
    }
}

impl Record {
    fn to_bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        let parts =
            self.first.to_le_bytes().into_iter().chain(self.tokens.to_le_bytes()).chain(self.file.to_le_bytes());
        bytes.iter_mut().zip(parts.chain([self.kind as u8, 0])).for_each(|(to, from)| *to = from);
        bytes
    }

    fn from_bytes(bytes: &[u8; 16]) -> Option<Self> {
        let (first, rest) = bytes.split_first_chunk::<8>()?;
        let (tokens, rest) = rest.split_first_chunk::<4>()?;
        let (file, rest) = rest.split_first_chunk::<2>()?;
        let kind =
            [Kind::Example, Kind::Text, Kind::Chosen, Kind::Rejected].get(usize::from(*rest.first()?)).copied()?;
        let (tokens, file) = (u32::from_le_bytes(*tokens), u16::from_le_bytes(*file));
        Some(Self { first: u64::from_le_bytes(*first), tokens, file, kind })
    }
}

/// Writes a store. Nothing is there before `finish`.
pub struct StoreWriter {
    dir: PathBuf,
    name: String,
    tokens: Out,
    weights: Out,
    records: Vec<Record>,
    classes: Vec<f32>,
    next: u64,
}

struct Out {
    path: PathBuf,
    to: BufWriter<File>,
    hasher: Hasher,
}

impl Out {
    fn create(dir: &Path, name: &str, end: &str) -> Result<Self, TrainError> {
        let path = dir.join(format!("{name}.{end}"));
        let file = File::create(&path).map_err(TrainError::io("create", &path))?;
        Ok(Self { path, to: BufWriter::with_capacity(1 << 18, file), hasher: Hasher::default() })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), TrainError> {
        self.hasher.update(bytes);
        self.to.write_all(bytes).map_err(TrainError::io("write", &self.path))
    }

    fn finish(mut self) -> Result<Digest, TrainError> {
        self.to.flush().and_then(|()| self.to.get_ref().sync_all()).map_err(TrainError::io("write", &self.path))?;
        Ok(self.hasher.finish())
    }
}

impl StoreWriter {
    pub fn create(dir: &Path, name: &str) -> Result<Self, TrainError> {
        std::fs::create_dir_all(dir).map_err(TrainError::io("create", dir))?;
        // The index is what makes a store; an old one must not vouch for new tokens.
        let index = dir.join(format!("{name}.index"));
        match std::fs::remove_file(&index) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(TrainError::io("remove", &index)(error));
            }
            _ => {}
        }
        Ok(Self {
            tokens: Out::create(dir, name, "tokens")?,
            weights: Out::create(dir, name, "weights")?,
            dir: dir.to_owned(),
            name: name.to_owned(),
            records: Vec::new(),
            classes: vec![0.0, 1.0],
            next: 0,
        })
    }

    pub fn add(&mut self, unit: &Unit, file: u16) -> Result<(), TrainError> {
        let kinds = match unit {
            Unit::Example(_) => [Kind::Example; 2],
            Unit::Text(_) => [Kind::Text; 2],
            Unit::Pair(_) => [Kind::Chosen, Kind::Rejected],
        };
        for (example, kind) in unit.examples().iter().zip(kinds) {
            let bytes: Vec<u8> = example.tokens.iter().flat_map(|token| token.to_le_bytes()).collect();
            self.tokens.write(&bytes)?;
            let classes: Vec<u8> = example.weights.iter().map(|weight| self.class(*weight)).collect();
            self.weights.write(&classes)?;
            let tokens = u32::try_from(example.tokens.len()).unwrap_or(u32::MAX);
            self.records.push(Record { first: self.next, tokens, file, kind });
            self.next += u64::from(tokens);
        }
        Ok(())
    }

    /// The byte for a weight; beyond 256 different ones, that of the nearest.
    fn class(&mut self, weight: f32) -> u8 {
        let found = self.classes.iter().position(|class| *class == weight).unwrap_or_else(|| {
            if self.classes.len() < 256 {
                self.classes.push(weight);
                return self.classes.len() - 1;
            }
            let distance = |class: &f32| (class - weight).abs();
            let near = self.classes.iter().enumerate().min_by(|(_, a), (_, b)| distance(a).total_cmp(&distance(b)));
            near.map_or(1, |(at, _)| at)
        });
        u8::try_from(found).unwrap_or(1)
    }

    pub fn finish(self) -> Result<Store, TrainError> {
        let mut index = Vec::with_capacity(64 + self.records.len() * 16);
        index.extend(u32::try_from(self.classes.len()).unwrap_or(0).to_le_bytes());
        index.extend(self.classes.iter().flat_map(|class| class.to_le_bytes()));
        index.extend(self.records.iter().flat_map(|record| record.to_bytes()));
        let mut hasher = Hasher::default();
        hasher.update(self.tokens.finish()?.as_bytes());
        hasher.update(self.weights.finish()?.as_bytes());
        hasher.update(&index);
        let path = self.dir.join(format!("{}.index", self.name));
        let part = self.dir.join(format!("{}.index.part", self.name));
        let bytes = [hasher.finish().as_bytes().as_slice(), &index].concat();
        let write = || {
            let mut file = File::create(&part)?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            std::fs::rename(&part, &path)
        };
        write().map_err(TrainError::io("write", &path))?;
        Store::open(&self.dir, &self.name)
    }
}
