//! Before the first step: reads the recipe's files, renders them, splits off what is held out, and writes the stores into the
//! job's folder, with a record of what went in.

use std::fmt::Display;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use falaj_artifact::Digest;
use serde::{Deserialize, Serialize};

use super::order::is_held_out;
use super::store::{Store, StoreWriter};
use super::{BadLine, Batches, Drawn, Encoder, Format, Reading, Shape, Unit};
use crate::recipe::{DataFile, Method, TooLong};
use crate::{Recipe, TrainError};

/// The data of a job, ready to be drawn from.
#[derive(Debug)]
pub struct Prepared {
    pub facts: DataFacts,
    pub train: Store,
    /// None where nothing is held out.
    pub validation: Option<Store>,
}

/// What went in, for the manifest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DataFacts {
    pub version: u32,
    pub files: Vec<FileRecord>,
    pub validation_files: Vec<FileRecord>,
    pub train: Counts,
    pub validation: Counts,
    /// Predictions in a row.
    pub length: usize,
    pub seed: u64,
    /// None where an older version prepared them.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub hold_out: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub too_long: Option<TooLong>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FileRecord {
    pub path: PathBuf,
    pub sha256: Digest,
    pub bytes: u64,
    pub format: String,
    pub rows: u64,
    /// Left out because they could not be learnt from.
    pub bad_rows: u64,
    /// Left out, or cut, because they were longer than a row of the batch.
    pub long_rows: u64,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub weight: Option<f64>,
}

impl FileRecord {
    fn is_still(&self, path: &Path, may_go: bool) -> Result<bool, TrainError> {
        let file = match File::open(path) {
            Ok(file) => file,
            // A file of another name is another file.
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Ok(may_go && self.path.file_name() == path.file_name());
            }
            Err(error) => return Err(TrainError::io("open", path)(error)),
        };
        let bytes = file.metadata().map_err(TrainError::io("read", path))?.len();
        Ok(bytes == self.bytes
            && Digest::of_reader(file, &mut |_| ()).map_err(TrainError::io("read", path))? == self.sha256)
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Pairs count two.
    pub examples: u64,
    pub tokens: u64,
    /// Those with a weight above 0.
    pub learnt: u64,
    /// Of tokens, weights and their division into examples.
    pub sha256: Option<Digest>,
}

impl Prepared {
    /// Reads and renders the files of `recipe` into `dir`. `progress` gets the number of rows done so far.
    ///
    /// # Errors
    /// `Io`; `BadData` where more lines are wrong than the recipe allows, or a row is longer than it allows; `DataChanged`
    /// where a file is not the one that the recipe names; `WrongData` where the method needs other rows; `NoData`.
    pub fn make(
        recipe: &Recipe,
        encoder: &Encoder,
        dir: &Path,
        threads: usize,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Self, TrainError> {
        let mut made = Maker {
            recipe,
            reading: Reading { encoder, threads },
            progress,
            rows: 0,
            first: None,
            train: Side::create(dir, "train")?,
            held: Side::create(dir, "validation")?,
        };
        let data = &recipe.data;
        let files =
            data.train.iter().enumerate().map(|(at, file)| made.file(at, file, false)).collect::<Result<_, _>>()?;
        let held = data.validation.iter().enumerate().map(|(at, file)| made.file(at, file, true));
        let validation_files = held.collect::<Result<_, _>>()?;
        let (train, train_counts) = made.train.finish()?;
        let (held, held_counts) = made.held.finish()?;
        if train.is_empty() {
            return Err(TrainError::NoData);
        }
        let facts = DataFacts {
            version: VERSION,
            files,
            validation_files,
            train: train_counts,
            validation: held_counts,
            length: recipe.batch.length,
            seed: recipe.seed,
            hold_out: Some(data.hold_out),
            too_long: Some(data.too_long),
        };
        let path = dir.join(FACTS);
        let text = serde_json::to_vec_pretty(&facts).map_err(|error| TrainError::io("write", &path)(error.into()))?;
        let part = dir.join(format!("{FACTS}.part"));
        fs::write(&part, text).and_then(|()| fs::rename(&part, &path)).map_err(TrainError::io("write", &path))?;
        Ok(Self { facts, train, validation: (!held.is_empty()).then_some(held) })
    }

    /// What `make` left in `dir`, for a job that resumes. The files of the recipe are not needed any more.
    ///
    /// # Errors
    /// `Io`, `DataDamaged`.
    pub fn open(dir: &Path) -> Result<Self, TrainError> {
        let path = dir.join(FACTS);
        let damaged = || TrainError::DataDamaged { path: path.clone() };
        let text = fs::read(&path).map_err(TrainError::io("read", &path))?;
        let facts: DataFacts = serde_json::from_slice(&text).map_err(|_| damaged())?;
        let train = Store::open(dir, "train")?;
        let held = Store::open(dir, "validation")?;
        let same =
            |store: &Store, counts: &Counts| Some(store.digest()) == counts.sha256 && store.tokens() == counts.tokens;
        if facts.version != VERSION || !same(&train, &facts.train) || !same(&held, &facts.validation) {
            return Err(damaged());
        }
        Ok(Self { facts, train, validation: (!held.is_empty()).then_some(held) })
    }

    /// What is otherwise in `recipe` and its files than when `make` read them; None where nothing is. Files that are gone are
    /// taken to be the same if `files_may_go`: a job that resumes does not need them any more.
    ///
    /// # Errors
    /// `Io`.
    pub fn differs(&self, recipe: &Recipe, files_may_go: bool) -> Result<Option<String>, TrainError> {
        let (facts, data) = (&self.facts, &recipe.data);
        let changed =
            |name: &str, then: &dyn Display, now: &dyn Display| Some(format!("`{name}` was {then} and is {now}"));
        if facts.length != recipe.batch.length {
            return Ok(changed("batch.length", &facts.length, &recipe.batch.length));
        }
        if facts.seed != recipe.seed {
            return Ok(changed("seed", &facts.seed, &recipe.seed));
        }
        if let Some(hold_out) = facts.hold_out.filter(|hold_out| *hold_out != data.hold_out) {
            return Ok(changed("data.hold_out", &hold_out, &data.hold_out));
        }
        if facts.too_long.is_some_and(|too_long| too_long != data.too_long) {
            return Ok(Some("`data.too_long` has another value".to_owned()));
        }
        for (name, then, now) in
            [("data.train", &facts.files, &data.train), ("data.validation", &facts.validation_files, &data.validation)]
        {
            if then.len() != now.len() {
                return Ok(Some(format!("`{name}` had {} files and has {}", then.len(), now.len())));
            }
            for (then, now) in then.iter().zip(now) {
                let shown = now.path.display();
                if then.weight != now.weight {
                    return Ok(Some(format!("the weight of `{shown}` has another value")));
                }
                if !then.is_still(&now.path, files_may_go)? {
                    return Ok(Some(format!("`{shown}` is not the file that was read")));
                }
            }
        }
        Ok(None)
    }

    /// Whether `make` came to its end in `dir`.
    pub fn is_in(dir: &Path) -> bool {
        dir.join(FACTS).is_file()
    }

    /// The batches to train on, and those to evaluate with. `padding`: any token of the vocabulary.
    ///
    /// # Errors
    /// `NoData`.
    pub fn batches(self, recipe: &Recipe, padding: u32) -> Result<Drawn, TrainError> {
        let batch = &recipe.batch;
        let shape = Shape {
            rows: batch.rows,
            length: batch.length,
            accumulate: batch.accumulate,
            pack: recipe.data.pack,
            padding,
        };
        let weights: Option<Vec<f64>> = recipe.data.train.iter().map(|file| file.weight).collect();
        let train = Batches::new(self.train, shape, recipe.seed, weights.as_deref())?;
        let held = self.validation.map(|store| Batches::new(store, shape, recipe.seed, None)).transpose()?;
        Ok(Drawn { train, held, evaluation_rows: recipe.evaluate.rows, samples: None })
    }
}

struct Maker<'a> {
    recipe: &'a Recipe,
    reading: Reading<'a>,
    progress: &'a mut dyn FnMut(u64),
    rows: u64,
    first: Option<[u8; 16]>,
    train: Side,
    held: Side,
}

/// A store in the making.
struct Side {
    writer: StoreWriter,
    counts: Counts,
}

impl Side {
    fn create(dir: &Path, name: &str) -> Result<Self, TrainError> {
        Ok(Self { writer: StoreWriter::create(dir, name)?, counts: Counts::default() })
    }

    fn add(&mut self, unit: &Unit, file: u16) -> Result<(), TrainError> {
        for example in unit.examples() {
            self.counts.examples += 1;
            self.counts.tokens += example.tokens.len() as u64;
            self.counts.learnt += example.weights.iter().filter(|weight| **weight > 0.0).count() as u64;
        }
        self.writer.add(unit, file)
    }

    fn finish(self) -> Result<(Store, Counts), TrainError> {
        let store = self.writer.finish()?;
        let counts = Counts { sha256: Some(store.digest()), ..self.counts };
        Ok((store, counts))
    }
}

impl Maker<'_> {
    fn file(&mut self, number: usize, file: &DataFile, held: bool) -> Result<FileRecord, TrainError> {
        let path = &file.path;
        let number = u16::try_from(number).map_err(|_| TrainError::Setting {
            setting: "data.train",
            value: format!("a list of more than {} files", u16::MAX),
            rule: "a job takes fewer; join some of them",
        })?;
        let (mut rows, mut bad_rows, mut long_rows) = (0, 0, 0);
        let mut first_bad = None;
        let facts = self.reading.read(path, &mut |line, units| {
            self.rows += 1;
            if self.rows.is_multiple_of(PROGRESS_ROWS) {
                (self.progress)(self.rows);
            }
            let units = match units {
                Ok(units) => units,
                Err(reason) => {
                    bad_rows += 1;
                    first_bad.get_or_insert(BadLine { line, reason });
                    return Ok(());
                }
            };
            rows += 1;
            let mut was_long = false;
            for mut unit in units {
                // What is equal before it is cut stays together, so that nothing that is held out was trained on.
                let key = unit.key();
                // However few rows there are, the first is trained on.
                let is_first = *self.first.get_or_insert(key) == key;
                let side = held || (!is_first && is_held_out(self.recipe.seed, &key, self.recipe.data.hold_out));
                if !fits(&unit, self.recipe.batch.length) {
                    was_long = true;
                    match self.recipe.data.too_long {
                        TooLong::Drop => continue,
                        TooLong::Refuse => {
                            let (path, length) = (path.clone(), self.recipe.batch.length);
                            return Err(TrainError::LongRow { path, line, length });
                        }
                        TooLong::Cut if !unit.cut(self.recipe.batch.length) => continue,
                        TooLong::Cut => {}
                    }
                }
                let side = if side { &mut self.held } else { &mut self.train };
                side.add(&unit, number)?;
            }
            long_rows += u64::from(was_long);
            Ok(())
        })?;
        if let Some(expected) = file.sha256.as_ref().filter(|expected| **expected != facts.sha256.to_string()) {
            let (expected, found) = (expected.clone(), facts.sha256.to_string());
            return Err(TrainError::DataChanged { path: path.clone(), expected, found });
        }
        if let Some(bad) = first_bad {
            let share = bad_rows as f64 / (rows + bad_rows) as f64;
            if share > self.recipe.data.bad_lines {
                let others = bad_rows - 1;
                return Err(TrainError::BadData { path: path.clone(), line: bad.line, reason: bad.reason, others });
            }
        }
        let pairs = facts.format == Some(Format::Preference);
        if let Some(found) = facts.format.filter(|_| pairs != (self.recipe.method == Method::Dpo)) {
            let needed = if pairs { "other rows; `dpo` takes these" } else { "preference pairs" };
            return Err(TrainError::WrongData { path: path.clone(), found, needed });
        }
        Ok(FileRecord {
            path: path.clone(),
            sha256: facts.sha256,
            bytes: facts.bytes,
            format: facts.format.map_or("none", Format::name).to_owned(),
            rows,
            bad_rows,
            long_rows,
            weight: file.weight,
        })
    }
}

/// Whether a row of `length` predictions has room for it.
fn fits(unit: &Unit, length: usize) -> bool {
    let slots: usize = unit.examples().iter().map(|example| example.tokens.len().saturating_sub(1)).sum();
    matches!(unit, Unit::Text(_)) || slots <= length
}

const VERSION: u32 = 1;
const FACTS: &str = "data.json";
const PROGRESS_ROWS: u64 = 256;

#[cfg(test)]
mod tests;
