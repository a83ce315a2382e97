//! Checkpoints: all that a job needs to go on with the same bits, in folders `step-00000100` of which the last few are kept. Each is
//! whole or not there (`disk.rs`), and its digest is checked when it is read.

use std::fs;
use std::path::{Path, PathBuf};

use falaj_artifact::safetensors::{SafetensorsIndex, SafetensorsWriter};
use falaj_artifact::{Digest, Dtype};
use serde::{Deserialize, Serialize};

use crate::disk::Disk;
use crate::{TrainError, Trainer};

/// The checkpoints of one job.
#[derive(Clone, Debug)]
pub struct Checkpoints {
    folder: PathBuf,
    keep: usize,
}

/// What stands beside the numbers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    pub version: u32,
    /// Steps done.
    pub step: u64,
    /// Of the model's shape and the settings: what must be equal for the numbers to mean the same.
    pub fingerprint: Digest,
    pub weights_sha256: Digest,
    /// The operations' numerics; other ones go on with other bits.
    pub numerics: String,
    pub code_version: String,
    /// What the loop of the job remembers.
    pub run: serde_json::Value,
}

impl Checkpoints {
    /// In `folder`, which is made when the first one is written. The last `keep` stay, at least one.
    pub fn new(folder: impl Into<PathBuf>, keep: usize) -> Self {
        Self { folder: folder.into(), keep: keep.max(1) }
    }

    /// Writes the trainer's state, then removes the oldest beyond `keep`. `run` comes back from [`Checkpoints::resume`].
    ///
    /// # Errors
    /// Those of the disk; the checkpoints before stay as they are.
    pub fn save(&self, trainer: &Trainer, run: serde_json::Value) -> Result<PathBuf, TrainError> {
        self.save_on(Disk::real(), trainer, run)
    }

    pub(crate) fn save_on(&self, disk: Disk, trainer: &Trainer, run: serde_json::Value) -> Result<PathBuf, TrainError> {
        let step = trainer.steps_done();
        let pending = disk.begin(&self.folder.join(format!("step-{step:08}")))?;
        let tensors = trainer.numbers();
        let weights_sha256 = pending.file(WEIGHTS, |out| {
            let mut writer = SafetensorsWriter::new();
            for (name, values) in tensors {
                writer = writer.tensor(name, Dtype::F32, &[values.len()])?;
            }
            let mut stream = writer.begin(out)?;
            for (_, values) in tensors {
                let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
                stream.write(&bytes)?;
            }
            stream.finish()?;
            Ok(())
        })?;
        let state = State {
            version: VERSION,
            step,
            fingerprint: trainer.fingerprint(),
            weights_sha256,
            numerics: trainer.numerics(),
            code_version: env!("CARGO_PKG_VERSION").to_owned(),
            run,
        };
        pending.file(STATE, |out| {
            let text = serde_json::to_string_pretty(&state).map_err(std::io::Error::from);
            text.and_then(|text| out.write_all(text.as_bytes())).map_err(TrainError::io("write", &self.folder))
        })?;
        let path = pending.publish()?;
        let all = self.list()?;
        for (_, old) in all.iter().take(all.len().saturating_sub(self.keep)) {
            disk.remove(old)?;
        }
        Ok(path)
    }

    /// Steps and folders of the checkpoints, the oldest first.
    ///
    /// # Errors
    /// A folder that cannot be listed.
    pub fn list(&self) -> Result<Vec<(u64, PathBuf)>, TrainError> {
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(TrainError::io("list", &self.folder)(error)),
        };
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry.map_err(TrainError::io("list", &self.folder))?;
            let name = entry.file_name();
            if let Some(step) = name.to_str().and_then(|name| name.strip_prefix("step-")?.parse().ok()) {
                found.push((step, entry.path()));
            }
        }
        found.sort();
        Ok(found)
    }

    /// Brings `trainer` to the last checkpoint; `None` where there is none yet.
    ///
    /// # Errors
    /// A checkpoint that is damaged, or of another job.
    pub fn resume(&self, trainer: &mut Trainer) -> Result<Option<State>, TrainError> {
        let Some((_, path)) = self.list()?.pop() else { return Ok(None) };
        let state = read_state(&path)?;
        if state.fingerprint != trainer.fingerprint() {
            let problem = "it is of another model or other settings".to_owned();
            return Err(TrainError::Checkpoint { path, problem });
        }
        take(&path, &state, trainer)?;
        Ok(Some(state))
    }

    /// Makes the last checkpoint of another job the first one here: the same model and optimiser, but this trainer's own rates and
    /// schedule from that step on. Nothing happens where there is one already.
    ///
    /// # Errors
    /// Another job without a checkpoint, a damaged one, or one of another shape.
    pub fn branch(&self, other: &Checkpoints, trainer: &mut Trainer) -> Result<(), TrainError> {
        if !self.list()?.is_empty() {
            return Ok(());
        }
        let Some((_, path)) = other.list()?.pop() else {
            let problem = "there is no checkpoint to begin from".to_owned();
            return Err(TrainError::Checkpoint { path: other.folder.clone(), problem });
        };
        let state = read_state(&path)?;
        take(&path, &state, trainer)?;
        self.save(trainer, state.run)?;
        Ok(())
    }
}

/// The numbers of the checkpoint at `path`, into `trainer`.
fn take(path: &Path, state: &State, trainer: &mut Trainer) -> Result<(), TrainError> {
    let damaged = |problem: &str| TrainError::Checkpoint { path: path.to_path_buf(), problem: problem.to_owned() };
    let file = path.join(WEIGHTS);
    let bytes = fs::read(&file).map_err(TrainError::io("read", &file))?;
    if Digest::of(&bytes) != state.weights_sha256 {
        return Err(damaged("the digest of its numbers differs"));
    }
    let index = SafetensorsIndex::parse(&bytes)?;
    for (name, values) in trainer.numbers_mut() {
        let entry = index.tensors.get(name).filter(|entry| entry.dtype == Dtype::F32);
        let bytes = entry.and_then(|entry| bytes.get(entry.range.clone()));
        let bytes = bytes.filter(|bytes| bytes.len() == 4 * values.len());
        let bytes = bytes.ok_or_else(|| damaged("a list of numbers is missing or has another length"))?;
        for (value, bytes) in values.iter_mut().zip(bytes.as_chunks::<4>().0) {
            *value = f32::from_le_bytes(*bytes);
        }
    }
    trainer.step = state.step;
    Ok(())
}

fn read_state(path: &Path) -> Result<State, TrainError> {
    let file = path.join(STATE);
    let bytes = fs::read(&file).map_err(TrainError::io("read", &file))?;
    let damaged = |problem| TrainError::Checkpoint { path: path.to_path_buf(), problem };
    let state: State = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
    if state.version != VERSION {
        return Err(damaged(format!("its version is {}, this program writes {VERSION}", state.version)));
    }
    Ok(state)
}

const VERSION: u32 = 1;
const WEIGHTS: &str = "trainer.safetensors";
const STATE: &str = "state.json";

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::io;

    use falaj_model::Config;
    use falaj_model::synthetic::tiny_config;

    use super::*;
    use crate::{Arena, Lora, MicroBatch, Optimization, Rule, Settings, Start, Target};

    fn settings(rule: Rule) -> Settings {
        let optimization = Optimization { rule, learning_rate: 1e-2, ..Optimization::default() };
        Settings { threads: 1, max_tokens: 16, seed: 4, recompute: false, optimization }
    }

    fn trainer(rule: Rule) -> Trainer {
        let config = Config { layers: 1, ..tiny_config(48, 16) };
        Trainer::new(Start::Full(Arena::random(&config, 1).unwrap()), settings(rule)).unwrap()
    }

    fn batch(step: u64) -> Vec<MicroBatch> {
        let token = |i: u64| ((i * i + step * 7) % 48) as u32;
        vec![MicroBatch::plain((0..16).map(token).collect(), (1..17).map(token).collect(), 8)]
    }

    fn run(trainer: &mut Trainer, to: u64) {
        while trainer.steps_done() < to {
            trainer.step(&batch(trainer.steps_done())).unwrap();
        }
    }

    fn bits(trainer: &Trainer) -> Vec<u32> {
        trainer.numbers().iter().flat_map(|(_, values)| values.iter().map(|value| value.to_bits())).collect()
    }

    fn folder(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("falaj-checkpoint-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        path
    }

    #[test]
    fn killed_between_any_two_writes_it_goes_on_with_the_same_bits() {
        let mut whole = trainer(Rule::Muon);
        run(&mut whole, 6);
        let folder = folder("kill");
        let mut deaths = 0;
        loop {
            let checkpoints = Checkpoints::new(&folder, 1);
            let _ = fs::remove_dir_all(&folder);
            let mut first = trainer(Rule::Muon);
            run(&mut first, 2);
            checkpoints.save(&first, serde_json::json!({"seen": 2})).unwrap();
            run(&mut first, 4);
            // The process dies before the operation number `deaths` of the second checkpoint.
            let left = Cell::new(deaths);
            let die = || match left.get() {
                0 => Err(io::Error::from(io::ErrorKind::StorageFull)),
                more => {
                    left.set(more - 1);
                    Ok(())
                }
            };
            let saved = checkpoints.save_on(Disk::failing(&die), &first, serde_json::json!({"seen": 4}));
            let mut second = trainer(Rule::Muon);
            let state = checkpoints.resume(&mut second).unwrap().unwrap();
            assert_eq!(state.run["seen"], state.step);
            assert!(state.step == 4 || (state.step == 2 && saved.is_err()));
            run(&mut second, 6);
            assert_eq!(bits(&second), bits(&whole), "after {deaths} operations");
            // The next checkpoint clears away what was left.
            checkpoints.save(&second, serde_json::json!({"seen": 6})).unwrap();
            assert_eq!(checkpoints.list().unwrap().len(), 1);
            match saved {
                Ok(_) => break,
                Err(error) => assert!(matches!(error, TrainError::DiskFull { .. }), "{error}"),
            }
            deaths += 1;
        }
        assert!(deaths > 8, "{deaths}");
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn another_schedule_goes_on_from_where_a_job_is() {
        let folder = folder("branch");
        let of = |schedule| {
            let config = Config { layers: 1, ..tiny_config(48, 16) };
            let mut settings = settings(Rule::Muon);
            settings.optimization = Optimization { schedule, warmup: 0, steps: 4, ..settings.optimization };
            Trainer::new(Start::Full(Arena::random(&config, 1).unwrap()), settings).unwrap()
        };
        let stable = Checkpoints::new(folder.join("stable"), 1);
        let branch = Checkpoints::new(folder.join("branch"), 1);
        let mut first = of(crate::Schedule::Constant);
        assert!(branch.branch(&stable, &mut of(crate::Schedule::Constant)).is_err());
        run(&mut first, 2);
        stable.save(&first, serde_json::json!({"seen": 2})).unwrap();
        // A decay over the second half is a constant rate before it.
        let decay = crate::Schedule::Wsd { decay: 0.5, floor: 0.0 };
        let mut whole = of(decay);
        run(&mut whole, 4);
        let mut second = of(decay);
        assert!(stable.resume(&mut of(decay)).is_err());
        branch.branch(&stable, &mut second).unwrap();
        run(&mut second, 4);
        assert_eq!(bits(&second), bits(&whole));
        // What the branch has of its own stays.
        stable.save(&second, serde_json::Value::Null).unwrap();
        let mut again = of(decay);
        branch.branch(&stable, &mut again).unwrap();
        assert_eq!(branch.resume(&mut again).unwrap().unwrap().run["seen"], 2);
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn damaged_and_foreign_ones_are_refused() {
        let folder = folder("damaged");
        let checkpoints = Checkpoints::new(&folder, 2);
        let mut one = trainer(Rule::AdamW);
        assert!(checkpoints.resume(&mut one).unwrap().is_none());
        run(&mut one, 1);
        let path = checkpoints.save(&one, serde_json::Value::Null).unwrap();
        assert!(matches!(checkpoints.resume(&mut trainer(Rule::Muon)), Err(TrainError::Checkpoint { .. })));
        let file = path.join(WEIGHTS);
        let mut bytes = fs::read(&file).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&file, bytes).unwrap();
        let error = checkpoints.resume(&mut trainer(Rule::AdamW)).unwrap_err();
        assert!(error.to_string().contains("digest"), "{error}");
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn adapters_resume_too() {
        let folder = folder("adapter");
        let checkpoints = Checkpoints::new(&folder, 2);
        let base = falaj_model::synthetic(&tiny_config(48, 16), 3).unwrap();
        let lora = Lora { rank: 4, alpha: 8.0, dropout: 0.25, targets: Target::ALL.to_vec() };
        let new = || {
            let (config, base) = (base.config().clone(), base.params().clone());
            Trainer::new(Start::Lora { config, base, lora: lora.clone() }, settings(Rule::AdamW)).unwrap()
        };
        let mut whole = new();
        run(&mut whole, 2);
        checkpoints.save(&whole, serde_json::Value::Null).unwrap();
        run(&mut whole, 4);
        let mut resumed = new();
        checkpoints.resume(&mut resumed).unwrap().unwrap();
        run(&mut resumed, 4);
        assert_eq!(bits(&whole), bits(&resumed));
        fs::remove_dir_all(&folder).unwrap();
    }
}
