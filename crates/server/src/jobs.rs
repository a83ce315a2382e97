//! Runs jobs: one process each, started by [`Jobs::begin`] and watched to its end. A process that dies takes nothing with
//! it; a site that stops lets its jobs write a checkpoint, and takes them up again when it is back. The state of every job is in
//! the store; this module only moves it along. How a process is spoken to is in `jobs/process.rs`.

mod folder;
mod news;
mod process;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use falaj_protocol::jobs::{JobStatus, Progress};
use falaj_store::{Job, JobChange, Page, Store, StoreError};
use serde_json::{Value, json};
use tokio::sync::{Notify, Semaphore, watch};

use crate::energy::Power;
use news::News;
use process::{Child, Next, Stop};

/// How jobs are run.
#[derive(Clone, Debug)]
pub struct JobSettings {
    /// The program and its first arguments; the folder of a job follows, and `--check` where only its data is looked at.
    pub command: Vec<String>,
    /// Where each job has a folder.
    pub dir: PathBuf,
    /// Jobs that train at once.
    pub at_once: usize,
    /// How long a process may take to stop before it is killed.
    pub grace: Duration,
    /// Most memory that a process may hold; `None`: not bounded.
    pub memory_bytes: Option<u64>,
    /// How long the folder of an ended job stays.
    pub keep: Duration,
}

/// The jobs of a site. Cheap to clone.
#[derive(Clone)]
pub struct Jobs {
    shared: Arc<Shared>,
}

struct Shared {
    store: Arc<Store>,
    settings: JobSettings,
    /// Something may have become due.
    due: Notify,
    training: Semaphore,
    /// One at a time: reading data is quick, and must not slow those who train.
    checking: Semaphore,
    /// How to stop each job that is being checked or trained.
    running: Mutex<HashMap<String, watch::Sender<Stop>>>,
    stopping: watch::Sender<bool>,
    /// What counts the energy of the jobs that are done.
    power: OnceLock<Arc<Power>>,
}

impl Jobs {
    pub fn new(store: Arc<Store>, settings: JobSettings) -> Self {
        let shared = Shared {
            store,
            training: Semaphore::new(settings.at_once.max(1)),
            checking: Semaphore::new(1),
            settings,
            due: Notify::new(),
            running: Mutex::default(),
            stopping: watch::Sender::new(false),
            power: OnceLock::new(),
        };
        Self { shared: Arc::new(shared) }
    }

    pub(crate) fn count_energy(&self, power: Arc<Power>) {
        // Whoever was told first goes on counting.
        let _ = self.shared.power.set(power);
    }

    /// Takes up what an earlier process of this site left, and runs what becomes due until [`Jobs::shutdown`].
    pub async fn run(&self) {
        if let Err(error) = self.take_up().await {
            tracing::error!(%error, "the jobs of before could not be taken up");
        }
        let mut stopping = self.shared.stopping.subscribe();
        let mut tasks = tokio::task::JoinSet::new();
        loop {
            let due = self.shared.due.notified();
            match self.due().await {
                Ok(jobs) => {
                    for job in jobs {
                        let this = self.clone();
                        tasks.spawn(async move { this.advance(job).await });
                    }
                }
                Err(error) => tracing::error!(%error, "jobs that are due could not be found"),
            }
            tokio::select! {
                () = due => {}
                _ = tasks.join_next(), if !tasks.is_empty() => {}
                _ = stopping.wait_for(|stopping| *stopping) => break,
            }
        }
        while tasks.join_next().await.is_some() {}
    }

    /// Lets every process write a checkpoint and end. [`Jobs::run`] returns when they have.
    pub fn shutdown(&self) {
        self.shared.stopping.send_replace(true);
        for stop in self.running().values() {
            stop.send_if_modified(|asked| asked.raise(Stop::Pause));
        }
    }

    /// A new job was added: looks at it soon.
    pub fn begin(&self) {
        self.shared.due.notify_one();
    }

    /// Where the files of a job are.
    pub fn folder(&self, id: &str) -> PathBuf {
        self.shared.settings.dir.join(id)
    }

    /// Lets a job begin that waits for it, or that was paused.
    ///
    /// # Errors
    /// A job that is not waiting.
    pub async fn start(&self, job: &Job) -> Result<Job, StoreError> {
        let job = self.shared.store.let_start(&job.id, true).await?;
        self.begin();
        Ok(job)
    }

    /// Lets a running job write a checkpoint and stand still until [`Jobs::start`].
    ///
    /// # Errors
    /// A job that has ended, or is being cancelled.
    pub async fn pause(&self, job: &Job) -> Result<Job, StoreError> {
        let job = self.shared.store.let_start(&job.id, false).await?;
        self.ask(&job.id, Stop::Pause);
        Ok(job)
    }

    /// Ends a job for good.
    ///
    /// # Errors
    /// A job that has ended already.
    pub async fn cancel(&self, job: &Job) -> Result<Job, StoreError> {
        let nothing = JobChange::default();
        let requested = self.shared.store.move_job(&job.id, JobStatus::CancellationRequested, &nothing).await?;
        if self.ask(&job.id, Stop::Cancel) {
            return Ok(requested);
        }
        // No process has it: nobody else would ever say that it is over.
        let cancelled = self.shared.store.move_job(&job.id, JobStatus::Cancelled, &nothing).await?;
        self.tidy(&job.id).await;
        Ok(cancelled)
    }

    /// Looks at a job's data in `dir` as if it were to be trained, and says what it would take.
    ///
    /// # Errors
    /// What is wrong with the data, in words for whoever asked.
    pub async fn dry_run(&self, dir: &Path) -> Result<Value, String> {
        let _slot = self.shared.checking.acquire().await.map_err(|_| "this site is stopping".to_owned())?;
        let (_stop, asked) = watch::channel(Stop::No);
        self.check(dir, asked).await.map_err(|end| end.reason())
    }

    /// Whatever was under way when this site's last process ended is due again.
    async fn take_up(&self) -> Result<(), StoreError> {
        let store = &self.shared.store;
        let nothing = JobChange::default();
        for job in store.jobs_in(&[JobStatus::Started, JobStatus::Running]).await? {
            store.move_job(&job.id, JobStatus::Validated, &nothing).await?;
        }
        for job in store.jobs_in(&[JobStatus::Validating]).await? {
            store.move_job(&job.id, JobStatus::Queued, &nothing).await?;
        }
        for job in store.jobs_in(&[JobStatus::CancellationRequested]).await? {
            store.move_job(&job.id, JobStatus::Cancelled, &nothing).await?;
        }
        Ok(())
    }

    /// Jobs that wait for nothing but a free slot, and that no task has yet.
    async fn due(&self) -> Result<Vec<Job>, StoreError> {
        if *self.shared.stopping.borrow() {
            return Ok(Vec::new());
        }
        let mut jobs = self.shared.store.jobs_in(&[JobStatus::Queued, JobStatus::Validated]).await?;
        let mut running = self.running();
        jobs.retain(|job| {
            let due = (job.status == JobStatus::Queued || job.auto_start) && !running.contains_key(&job.id);
            if due {
                running.insert(job.id.clone(), watch::Sender::new(Stop::No));
            }
            due
        });
        Ok(jobs)
    }

    /// Brings a job as far as it goes.
    async fn advance(&self, job: Job) {
        let asked = self.running().get(&job.id).map(watch::Sender::subscribe);
        if let Some(asked) = asked {
            let moved = match job.status {
                JobStatus::Queued => self.validate(&job, asked).await,
                _ => self.train(&job, asked).await,
            };
            if let Err(error) = moved {
                tracing::error!(job = job.id, %error, "the job could not be moved along");
            }
        }
        self.running().remove(&job.id);
        // What became due while this one was held, or by it.
        self.begin();
    }

    async fn validate(&self, job: &Job, asked: watch::Receiver<Stop>) -> Result<(), StoreError> {
        let store = &self.shared.store;
        let Some(_slot) = self.slot(&self.shared.checking, asked.clone()).await else { return self.ended(job).await };
        let nothing = JobChange::default();
        store.move_job(&job.id, JobStatus::Validating, &nothing).await?;
        match self.check(&self.folder(&job.id), asked).await {
            Ok(estimate) => {
                let change = JobChange { estimate: Some(estimate), ..nothing };
                store.move_job(&job.id, JobStatus::Validated, &change).await?;
            }
            Err(End::Asked(Stop::Pause)) => {
                store.move_job(&job.id, JobStatus::Queued, &nothing).await?;
            }
            Err(End::Asked(_)) => return self.ended(job).await,
            Err(end) => {
                let change = JobChange { error: Some(end.reason()), ..nothing };
                let status = if end.is_validation() { JobStatus::FailedValidation } else { JobStatus::Failed };
                store.move_job(&job.id, status, &change).await?;
            }
        }
        Ok(())
    }

    async fn check(&self, dir: &Path, asked: watch::Receiver<Stop>) -> Result<Value, End> {
        let mut child = Child::spawn(&self.shared.settings, dir, true, asked).map_err(End::Failed)?;
        let mut estimate = None;
        let end = loop {
            match child.next().await {
                Next::Progress(Progress::Validated { rows, data_tokens, tokens_per_step, steps, expected_seconds }) => {
                    estimate = Some(json!({
                        "rows": rows, "data_tokens": data_tokens, "tokens_per_step": tokens_per_step,
                        "steps": steps, "expected_seconds": expected_seconds,
                    }));
                }
                Next::Progress(_) => {}
                Next::End(end) => break end,
            }
        };
        match (estimate, end) {
            (Some(estimate), End::Exit) => Ok(estimate),
            (_, End::Exit) => Err(End::Failed("the process that checks the data said nothing".to_owned())),
            (_, end) => Err(end),
        }
    }

    async fn train(&self, job: &Job, asked: watch::Receiver<Stop>) -> Result<(), StoreError> {
        let store = &self.shared.store;
        let Some(_slot) = self.slot(&self.shared.training, asked.clone()).await else { return self.ended(job).await };
        let nothing = JobChange::default();
        store.move_job(&job.id, JobStatus::Started, &nothing).await?;
        let mut child = match Child::spawn(&self.shared.settings, &self.folder(&job.id), false, asked) {
            Ok(child) => child,
            Err(reason) => {
                let change = JobChange { error: Some(reason), ..nothing };
                return store.move_job(&job.id, JobStatus::Failed, &change).await.map(drop);
            }
        };
        let mut news = News::new(self, job);
        let end = loop {
            match child.next().await {
                Next::Progress(progress) => news.tell(progress).await,
                Next::End(end) => break end,
            }
        };
        match (news.done.take(), end) {
            (Some((model, tokens)), _) => {
                store.add_model(&job.workspace, &model, &job.id, &job.model).await?;
                news.running().await;
                let change = JobChange {
                    fine_tuned_model: Some(model),
                    trained_tokens: Some(tokens),
                    result_file: self.results(job).await?,
                    ..JobChange::default()
                };
                // A cancellation that came after the last step comes too late for the weights, not for the word.
                match store.move_job(&job.id, JobStatus::Success, &change).await {
                    Err(StoreError::WrongStatus { .. }) => self.ended(job).await,
                    Err(error) => Err(error),
                    Ok(_) => {
                        self.tidy(&job.id).await;
                        Ok(())
                    }
                }
            }
            (None, End::Asked(Stop::Cancel)) => self.ended(job).await,
            (None, End::Asked(_)) => store.move_job(&job.id, JobStatus::Validated, &nothing).await.map(drop),
            (None, end) => {
                let change = JobChange { error: Some(end.reason()), ..nothing };
                match store.move_job(&job.id, JobStatus::Failed, &change).await {
                    Err(StoreError::WrongStatus { .. }) => self.ended(job).await,
                    moved => moved.map(drop),
                }
            }
        }
    }

    /// A job that was asked to stop has: says so where that means its end.
    async fn ended(&self, job: &Job) -> Result<(), StoreError> {
        let status = self.shared.store.job(&job.workspace, &job.id).await?.status;
        if status == JobStatus::CancellationRequested {
            self.shared.store.move_job(&job.id, JobStatus::Cancelled, &JobChange::default()).await?;
            self.tidy(&job.id).await;
        }
        Ok(())
    }

    /// A free slot, or `None` where the job is asked to stop before there is one.
    async fn slot<'s>(
        &self,
        slots: &'s Semaphore,
        mut asked: watch::Receiver<Stop>,
    ) -> Option<tokio::sync::SemaphorePermit<'s>> {
        let stopped = async {
            let _ = asked.wait_for(|asked| *asked != Stop::No).await;
        };
        tokio::select! {
            slot = slots.acquire() => slot.ok(),
            () = stopped => None,
        }
    }

    /// Whether somebody has the job, who will now stop.
    fn ask(&self, id: &str, stop: Stop) -> bool {
        match self.running().get(id) {
            Some(asked) => {
                asked.send_if_modified(|asked| asked.raise(stop));
                true
            }
            None => false,
        }
    }

    fn running(&self) -> std::sync::MutexGuard<'_, HashMap<String, watch::Sender<Stop>>> {
        self.shared.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How a process ended.
#[derive(Clone, Debug, PartialEq)]
enum End {
    /// By itself, with success.
    Exit,
    /// As it was asked to.
    Asked(Stop),
    Failed(String),
    BadData(String),
}

impl End {
    fn is_validation(&self) -> bool {
        matches!(self, Self::BadData(_))
    }

    fn reason(&self) -> String {
        match self {
            Self::Exit => "the process ended before its work was done".to_owned(),
            Self::Asked(_) => "it was stopped".to_owned(),
            Self::Failed(reason) | Self::BadData(reason) => reason.clone(),
        }
    }
}

/// All events of a job, oldest first, as many as one answer takes.
pub(crate) const ALL: Page = Page { after: None, skip: 0, take: 1000, newest_first: false };
