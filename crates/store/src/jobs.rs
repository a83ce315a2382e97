//! Jobs: long work with a life cycle, its events and its checkpoints. A change of status and the event that tells of it are
//! written together, and only from a status that leads there: whoever comes second is refused.

use falaj_protocol::jobs::JobStatus;
use serde_json::Value;
use sqlx::Row;
use sqlx::any::AnyRow;

use crate::pages::{Statement, Table};
use crate::{Page, Part, Store, StoreError, new_id, now_s, signed, unsigned};

#[derive(Clone, Debug, PartialEq)]
pub struct NewJob {
    /// The model that it starts from.
    pub model: String,
    pub suffix: Option<String>,
    pub auto_start: bool,
    /// What to do, in the words of whoever runs it; this crate does not look inside.
    pub spec: Value,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    pub id: String,
    pub workspace: String,
    pub status: JobStatus,
    pub model: String,
    pub suffix: Option<String>,
    pub auto_start: bool,
    pub spec: Value,
    pub created_s: u64,
    pub modified_s: u64,
    pub finished_s: Option<u64>,
    pub fine_tuned_model: Option<String>,
    pub trained_tokens: Option<u64>,
    /// Duration, tokens and the like, known since validation.
    pub estimate: Option<Value>,
    /// Why it failed.
    pub error: Option<String>,
    /// The file that tells of its steps.
    pub result_file: Option<String>,
}

/// What else becomes known with a new status. `None` leaves what is there.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct JobChange {
    pub fine_tuned_model: Option<String>,
    pub trained_tokens: Option<u64>,
    pub estimate: Option<Value>,
    pub error: Option<String>,
    pub result_file: Option<String>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    pub id: String,
    pub created_s: u64,
    /// What happened: `status-updated`, `metrics`, …
    pub name: String,
    /// The same for people.
    pub message: String,
    pub data: Option<Value>,
}

/// A state of the weights that can be gone back to, and how good it was.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Checkpoint {
    pub id: String,
    pub created_s: u64,
    pub step: u64,
    pub train_loss: Option<f64>,
    pub valid_loss: Option<f64>,
    /// Share of the held-out tokens that were the most likely one.
    pub valid_accuracy: Option<f64>,
}

/// All of what is `Some` must match.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobFilter {
    pub model: Option<String>,
    pub status: Option<JobStatus>,
    pub suffix: Option<String>,
    /// Seconds since 1970, exclusive.
    pub created_after_s: Option<u64>,
    pub created_before_s: Option<u64>,
}

const JOBS: Table = Table { name: "jobs", row: "job", owner: "workspace" };
const EVENTS: Table = Table { name: "job_events", row: "event", owner: "job" };
const CHECKPOINTS: Table = Table { name: "job_checkpoints", row: "checkpoint", owner: "job" };

impl Store {
    /// A job that waits to be looked at.
    ///
    /// # Errors
    /// A failing database.
    pub async fn add_job(&self, workspace: &str, job: &NewJob) -> Result<Job, StoreError> {
        let (id, now) = (new_id()?, now_s());
        let mut transaction = self.database.write().await?;
        sqlx::query(
            "INSERT INTO jobs (id, workspace, status, model, suffix, auto_start, spec, created_s, modified_s)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $8)",
        )
        .bind(&id)
        .bind(workspace)
        .bind(JobStatus::Queued.name())
        .bind(&job.model)
        .bind(&job.suffix)
        .bind(i64::from(job.auto_start))
        .bind(job.spec.to_string())
        .bind(now)
        .execute(&mut *transaction)
        .await?;
        told(&mut transaction, &id, JobStatus::Queued, None).await?;
        transaction.commit().await?;
        self.job(workspace, &id).await
    }

    /// # Errors
    /// [`StoreError::Unknown`] where the workspace has no such job.
    pub async fn job(&self, workspace: &str, id: &str) -> Result<Job, StoreError> {
        sqlx::query("SELECT * FROM jobs WHERE id = $1 AND workspace = $2")
            .bind(id)
            .bind(workspace)
            .fetch_optional(self.database.pool())
            .await?
            .map(|row| read(&row))
            .transpose()?
            .ok_or_else(|| StoreError::Unknown { what: "job", id: id.to_owned() })
    }

    /// # Errors
    /// A failing database, or `page.after` that names no job here.
    pub async fn jobs(&self, workspace: &str, filter: &JobFilter, page: &Page) -> Result<Part<Job>, StoreError> {
        let matches = |query: &mut Statement| {
            query.equals("model", filter.model.as_deref());
            query.equals("status", filter.status.map(JobStatus::name));
            query.equals("suffix", filter.suffix.as_deref());
            if let Some(after_s) = filter.created_after_s {
                query.push(" AND created_s > ").number(signed(after_s));
            }
            if let Some(before_s) = filter.created_before_s {
                query.push(" AND created_s < ").number(signed(before_s));
            }
        };
        self.page(JOBS, workspace, page, matches, read).await
    }

    /// The jobs of all workspaces with one of these statuses, oldest first: for whoever runs them.
    ///
    /// # Errors
    /// A failing database.
    pub async fn jobs_in(&self, statuses: &[JobStatus]) -> Result<Vec<Job>, StoreError> {
        let mut query = Statement::new("SELECT * FROM jobs WHERE status IN (");
        for (index, status) in statuses.iter().enumerate() {
            query.push(if index == 0 { "" } else { ", " }).text(status.name());
        }
        query.push(") ORDER BY seq");
        query.query().fetch_all(self.database.pool()).await?.iter().map(read).collect()
    }

    /// When a job of any workspace ended, and how: for whoever keeps its files. `None` for one that is not known, or not over.
    ///
    /// # Errors
    /// A failing database.
    pub async fn job_end(&self, id: &str) -> Result<Option<(JobStatus, u64)>, StoreError> {
        let row = sqlx::query("SELECT * FROM jobs WHERE id = $1").bind(id).fetch_optional(self.database.pool()).await?;
        let job = row.map(|row| read(&row)).transpose()?;
        Ok(job.and_then(|job| Some((job.status, job.finished_s?))))
    }

    /// Whether any workspace has such a job.
    ///
    /// # Errors
    /// A failing database.
    pub async fn knows_job(&self, id: &str) -> Result<bool, StoreError> {
        let row =
            sqlx::query("SELECT id FROM jobs WHERE id = $1").bind(id).fetch_optional(self.database.pool()).await?;
        Ok(row.is_some())
    }

    /// Brings a job from the status it has to `wanted`, with an event, and writes down what is known by now.
    ///
    /// # Errors
    /// [`StoreError::WrongStatus`] where its status does not lead there, [`StoreError::Unknown`].
    pub async fn move_job(&self, id: &str, wanted: JobStatus, change: &JobChange) -> Result<Job, StoreError> {
        let mut transaction = self.database.write().await?;
        let row = sqlx::query("SELECT * FROM jobs WHERE id = $1").bind(id).fetch_optional(&mut *transaction).await?;
        let job = row
            .map(|row| read(&row))
            .transpose()?
            .ok_or_else(|| StoreError::Unknown { what: "job", id: id.to_owned() })?;
        if !job.status.leads_to(wanted) {
            return Err(StoreError::WrongStatus { id: id.to_owned(), status: job.status, wanted });
        }
        let now = now_s();
        sqlx::query(
            "UPDATE jobs SET status = $2, modified_s = $3, finished_s = $4, fine_tuned_model = coalesce($5, fine_tuned_model),
             trained_tokens = coalesce($6, trained_tokens), estimate = coalesce($7, estimate), error = coalesce($8, error),
             result_file = coalesce($9, result_file) WHERE id = $1",
        )
        .bind(id)
        .bind(wanted.name())
        .bind(now)
        .bind(wanted.is_final().then_some(now))
        .bind(&change.fine_tuned_model)
        .bind(change.trained_tokens.map(signed))
        .bind(change.estimate.as_ref().map(Value::to_string))
        .bind(&change.error)
        .bind(&change.result_file)
        .execute(&mut *transaction)
        .await?;
        told(&mut transaction, id, wanted, change.error.as_deref()).await?;
        let row = sqlx::query("SELECT * FROM jobs WHERE id = $1").bind(id).fetch_one(&mut *transaction).await?;
        transaction.commit().await?;
        read(&row)
    }

    /// Whether a job may begin by itself once its data is found good. Says how the job stands.
    ///
    /// # Errors
    /// [`StoreError::WrongStatus`] for a job that has ended or is being cancelled, [`StoreError::Unknown`].
    pub async fn let_start(&self, id: &str, may: bool) -> Result<Job, StoreError> {
        let row = sqlx::query(
            "UPDATE jobs SET auto_start = $2, modified_s = $3 WHERE id = $1
             AND status IN ('QUEUED', 'VALIDATING', 'VALIDATED', 'STARTED', 'RUNNING') RETURNING *",
        )
        .bind(id)
        .bind(i64::from(may))
        .bind(now_s())
        .fetch_optional(self.database.pool())
        .await?;
        if let Some(row) = row {
            return read(&row);
        }
        let status: Option<String> = sqlx::query_scalar("SELECT status FROM jobs WHERE id = $1")
            .bind(id)
            .fetch_optional(self.database.pool())
            .await?;
        match status.as_deref().and_then(JobStatus::parse) {
            Some(status) => Err(StoreError::WrongStatus { id: id.to_owned(), status, wanted: JobStatus::Started }),
            None => Err(StoreError::Unknown { what: "job", id: id.to_owned() }),
        }
    }

    /// # Errors
    /// A failing database; a job that is not there.
    pub async fn add_event(
        &self,
        job: &str,
        name: &str,
        message: &str,
        data: Option<&Value>,
    ) -> Result<(), StoreError> {
        let mut connection = self.database.pool().acquire().await?;
        insert_event(&mut connection, job, name, message, data).await
    }

    /// The events of a job whose workspace was checked before, in the order of `page`.
    ///
    /// # Errors
    /// A failing database, or `page.after` that names no event of this job.
    pub async fn events(&self, job: &str, page: &Page) -> Result<Part<Event>, StoreError> {
        self.page(
            EVENTS,
            job,
            page,
            |_| (),
            |row| {
                Ok(Event {
                    id: row.try_get("id")?,
                    created_s: unsigned(row.try_get("created_s")?),
                    name: row.try_get("name")?,
                    message: row.try_get("message")?,
                    data: row
                        .try_get::<Option<String>, _>("data")?
                        .map(|text| json("job_events", &text))
                        .transpose()?,
                })
            },
        )
        .await
    }

    /// Writes down a checkpoint. The same step again replaces what was known of it.
    ///
    /// # Errors
    /// A failing database; a job that is not there.
    pub async fn add_checkpoint(&self, job: &str, checkpoint: &Checkpoint) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO job_checkpoints (id, job, created_s, step, train_loss, valid_loss, valid_accuracy)
             VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (job, step) DO UPDATE SET created_s = excluded.created_s,
             train_loss = excluded.train_loss, valid_loss = excluded.valid_loss, valid_accuracy = excluded.valid_accuracy",
        )
        .bind(new_id()?)
        .bind(job)
        .bind(now_s())
        .bind(signed(checkpoint.step))
        .bind(checkpoint.train_loss)
        .bind(checkpoint.valid_loss)
        .bind(checkpoint.valid_accuracy)
        .execute(self.database.pool())
        .await?;
        Ok(())
    }

    /// The checkpoints of a job whose workspace was checked before, in the order of `page`.
    ///
    /// # Errors
    /// A failing database, or `page.after` that names no checkpoint of this job.
    pub async fn checkpoints(&self, job: &str, page: &Page) -> Result<Part<Checkpoint>, StoreError> {
        self.page(
            CHECKPOINTS,
            job,
            page,
            |_| (),
            |row| {
                Ok(Checkpoint {
                    id: row.try_get("id")?,
                    created_s: unsigned(row.try_get("created_s")?),
                    step: unsigned(row.try_get("step")?),
                    train_loss: row.try_get("train_loss")?,
                    valid_loss: row.try_get("valid_loss")?,
                    valid_accuracy: row.try_get("valid_accuracy")?,
                })
            },
        )
        .await
    }
}

async fn told(
    connection: &mut sqlx::AnyConnection,
    job: &str,
    status: JobStatus,
    error: Option<&str>,
) -> Result<(), StoreError> {
    let data = match error {
        Some(error) => serde_json::json!({ "status": status.name(), "error": error }),
        None => serde_json::json!({ "status": status.name() }),
    };
    let message = match error {
        Some(error) => format!("the job is {}: {error}", status.name()),
        None => format!("the job is {}", status.name()),
    };
    insert_event(connection, job, "status-updated", &message, Some(&data)).await
}

async fn insert_event(
    connection: &mut sqlx::AnyConnection,
    job: &str,
    name: &str,
    message: &str,
    data: Option<&Value>,
) -> Result<(), StoreError> {
    sqlx::query("INSERT INTO job_events (id, job, created_s, name, message, data) VALUES ($1, $2, $3, $4, $5, $6)")
        .bind(new_id()?)
        .bind(job)
        .bind(now_s())
        .bind(name)
        .bind(message)
        .bind(data.map(Value::to_string))
        .execute(connection)
        .await?;
    Ok(())
}

fn json(table: &'static str, text: &str) -> Result<Value, StoreError> {
    serde_json::from_str(text).map_err(|error| StoreError::Damaged { table, reason: error.to_string() })
}

fn read(row: &AnyRow) -> Result<Job, StoreError> {
    let status: String = row.try_get("status")?;
    let unknown = || StoreError::Damaged { table: "jobs", reason: format!("no such status: `{status}`") };
    Ok(Job {
        id: row.try_get("id")?,
        workspace: row.try_get("workspace")?,
        status: JobStatus::parse(&status).ok_or_else(unknown)?,
        model: row.try_get("model")?,
        suffix: row.try_get("suffix")?,
        auto_start: row.try_get::<i64, _>("auto_start")? != 0,
        spec: json("jobs", row.try_get("spec")?)?,
        created_s: unsigned(row.try_get("created_s")?),
        modified_s: unsigned(row.try_get("modified_s")?),
        finished_s: row.try_get::<Option<i64>, _>("finished_s")?.map(unsigned),
        fine_tuned_model: row.try_get("fine_tuned_model")?,
        trained_tokens: row.try_get::<Option<i64>, _>("trained_tokens")?.map(unsigned),
        estimate: row.try_get::<Option<String>, _>("estimate")?.map(|text| json("jobs", &text)).transpose()?,
        error: row.try_get("error")?,
        result_file: row.try_get("result_file")?,
    })
}
