//! `events.jsonl`: one line of JSON for each thing that happened in a job, in the words of `falaj_protocol::jobs`.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use falaj_protocol::jobs::Progress;

use crate::TrainError;

/// A job's file of events.
#[derive(Debug)]
pub struct Events {
    path: PathBuf,
    file: File,
}

impl Events {
    /// Goes on with the file at `path`, without what a killed process wrote after step `step`: those steps come again.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn resume(path: &Path, step: u64) -> Result<Self, TrainError> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(TrainError::io("create", folder))?;
        }
        let old = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(TrainError::io("read", path)(error)),
        };
        let kept: String = old.split_inclusive('\n').filter(|line| is_before(line, step)).collect();
        if kept.len() != old.len() {
            let beside = path.with_extension("jsonl.partial");
            fs::write(&beside, kept).map_err(TrainError::io("write", &beside))?;
            fs::rename(&beside, path).map_err(TrainError::io("rename", path))?;
        }
        let file = OpenOptions::new().create(true).append(true).open(path).map_err(TrainError::io("open", path))?;
        Ok(Self { path: path.to_path_buf(), file })
    }

    /// Appends one line.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn write(&mut self, event: &Progress) -> Result<(), TrainError> {
        let mut line = serde_json::to_string(event).unwrap_or_default();
        line.push('\n');
        self.file.write_all(line.as_bytes()).map_err(TrainError::io("write", &self.path))
    }
}

/// Whether a line tells of what the checkpoint at `step` already holds. Half a line, and how an earlier process ended, go.
fn is_before(line: &str, step: u64) -> bool {
    match serde_json::from_str(line.trim_end()) {
        Ok(
            Progress::Step { step: at, .. }
            | Progress::Evaluation { step: at, .. }
            | Progress::Sample { step: at, .. }
            | Progress::Checkpoint { step: at, .. },
        ) => at <= step,
        Ok(Progress::Validated { .. }) => true,
        _ => false,
    }
}
