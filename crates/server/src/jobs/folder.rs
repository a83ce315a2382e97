//! A job's folder: what is put into it, what it gives back, and what stays of it. The weights are in the catalog when a job has
//! succeeded: then its data, checkpoints and exports go at once. What a failed job left stays for whoever looks for the cause,
//! and everything goes when the job ended long enough ago.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use falaj_protocol::jobs::{JobRequest, JobSpec, JobStatus, Progress, SPEC_FILE};
use falaj_store::{Job, NewFile, StoreError};

use super::Jobs;

/// What the trainer writes of its steps.
const EVENTS_FILE: &str = "events.jsonl";
/// What of an ended job's folder stays until the whole of it goes.
const STAYS: [&str; 2] = [SPEC_FILE, EVENTS_FILE];
/// No dry run takes so long.
const DRY_RUN_LEFT: Duration = Duration::from_secs(24 * 60 * 60);

impl Jobs {
    /// Writes `job.json` and makes the files available beside it, by links where possible: they may be deleted meanwhile.
    ///
    /// # Errors
    /// Those of the file system, and files that are gone.
    pub async fn prepare(
        &self,
        workspace: &str,
        dir: &Path,
        id: &str,
        name: &str,
        request: &JobRequest,
    ) -> Result<(), StoreError> {
        let io = |action, path: &Path| {
            let path = path.to_path_buf();
            move |source| StoreError::Io { action, path, source }
        };
        tokio::fs::create_dir_all(dir).await.map_err(io("create", dir))?;
        let mut spec = JobSpec {
            id: id.to_owned(),
            name: name.to_owned(),
            request: request.clone(),
            training: Vec::new(),
            validation: Vec::new(),
        };
        let training = request.training_files.iter().map(|file| (&file.file, false));
        let validation = request.validation_files.iter().map(|file| (file, true));
        for (number, (file, held_out)) in training.chain(validation).enumerate() {
            let stored = self.shared.store.file(workspace, file).await?;
            let name = format!("data-{number}.jsonl");
            self.shared.store.blobs().copy(&stored.digest, &dir.join(&name)).await?;
            if held_out { &mut spec.validation } else { &mut spec.training }.push(name);
        }
        let path = dir.join(SPEC_FILE);
        let text = serde_json::to_vec_pretty(&spec).unwrap_or_default();
        tokio::fs::write(&path, text).await.map_err(io("write", &path))
    }

    /// Makes a file of what the job's steps came to, as OpenAI's clients know it: a line each, and empty where nothing was measured.
    pub(super) async fn results(&self, job: &Job) -> Result<Option<String>, StoreError> {
        let Ok(events) = tokio::fs::read_to_string(self.folder(&job.id).join(EVENTS_FILE)).await else {
            return Ok(None);
        };
        let table = table(&events);
        let store = &self.shared.store;
        let mut upload = store.blobs().begin(u64::MAX).await?;
        upload.write(table.as_bytes()).await?;
        let file = NewFile {
            name: "step_metrics.csv".to_owned(),
            purpose: "fine-tune-results".to_owned(),
            lines: Some(table.lines().count() as u64),
            ..NewFile::default()
        };
        Ok(Some(store.add_file(&job.workspace, &file, upload).await?.id))
    }

    /// Removes what an ended job needs no more.
    pub(super) async fn tidy(&self, id: &str) {
        let folder = self.folder(id);
        let Ok(mut entries) = tokio::fs::read_dir(&folder).await else { return };
        while let Ok(Some(entry)) = entries.next_entry().await {
            if !STAYS.iter().any(|stays| entry.file_name() == *stays) {
                remove(&entry.path()).await;
            }
        }
    }

    /// Removes folders that nobody needs: of jobs that ended long ago, or that nobody knows.
    pub(crate) async fn sweep(&self) {
        let Ok(mut entries) = tokio::fs::read_dir(&self.shared.settings.dir).await else { return };
        let keep = self.shared.settings.keep;
        while let Ok(Some(entry)) = entries.next_entry().await {
            let (name, path) = (entry.file_name().to_string_lossy().into_owned(), entry.path());
            let changed = entry.metadata().await.ok().and_then(|about| about.modified().ok()?.elapsed().ok());
            let since = |seconds: u64| (SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)).elapsed().ok();
            match self.shared.store.job_end(&name).await {
                Ok(Some((_, ended_s))) if since(ended_s).is_some_and(|since| since >= keep) => remove(&path).await,
                Ok(Some((JobStatus::Failed, _))) => {}
                // Its process may have been killed before it got to that.
                Ok(Some(_)) => self.tidy(&name).await,
                Ok(None) => {
                    let left = if name.starts_with("dry-") { DRY_RUN_LEFT } else { keep.max(DRY_RUN_LEFT) };
                    let known = self.shared.store.knows_job(&name).await.unwrap_or(true);
                    if !known && changed.is_some_and(|changed| changed >= left) {
                        remove(&path).await;
                    }
                }
                Err(error) => tracing::error!(%error, "whether a job's folder is needed is not known"),
            }
        }
    }
}

async fn remove(path: &PathBuf) {
    let is_folder = tokio::fs::symlink_metadata(path).await.is_ok_and(|about| about.is_dir());
    let removed = if is_folder { tokio::fs::remove_dir_all(path).await } else { tokio::fs::remove_file(path).await };
    if let Err(error) = removed {
        tracing::warn!(%error, path = %path.display(), "what an ended job left could not be removed");
    }
}

/// `step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy`, as OpenAI documents its result files.
fn table(events: &str) -> String {
    let mut out = "step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy\n".to_owned();
    let mut row: Option<[String; 5]> = None;
    let mut end = |row: Option<[String; 5]>| {
        if let Some(row) = row {
            let _ = writeln!(out, "{}", row.join(","));
        }
    };
    let text = |number: Option<f64>| number.map(|number| format!("{number:.5}")).unwrap_or_default();
    for line in events.lines() {
        match serde_json::from_str(line) {
            Ok(Progress::Step { step, loss, accuracy, .. }) => {
                let [valid_loss, valid_accuracy] = [String::new(), String::new()];
                let new = [step.to_string(), text(Some(loss)), text(accuracy), valid_loss, valid_accuracy];
                end(row.replace(new));
            }
            Ok(Progress::Evaluation { loss, accuracy, .. }) => {
                if let Some([.., valid_loss, valid_accuracy]) = &mut row {
                    (*valid_loss, *valid_accuracy) = (text(Some(loss)), text(Some(accuracy)));
                }
            }
            // What only other versions know, and half a line.
            _ => {}
        }
    }
    end(row);
    out
}

#[cfg(test)]
mod tests {
    use super::table;

    #[test]
    fn a_line_for_each_step() {
        let events = concat!(
            r#"{"event":"step","step":1,"steps":2,"loss":2.5,"learning_rate":0.1,"grad_norm":1,"tokens":2,"tokens_per_second":1,"seconds_left":1}"#,
            "\n",
            r#"{"event":"step","step":2,"steps":2,"loss":1.5,"learning_rate":0.1,"grad_norm":1,"tokens":2,"tokens_per_second":1,"seconds_left":0,"accuracy":0.5}"#,
            "\n",
            r#"{"event":"evaluation","step":2,"loss":2,"accuracy":0.25}"#,
            "\n{\"event\":\"st",
        );
        let lines = ["1,2.50000,,,", "2,1.50000,0.50000,2.00000,0.25000"];
        assert_eq!(table(events).lines().skip(1).collect::<Vec<_>>(), lines);
    }
}
