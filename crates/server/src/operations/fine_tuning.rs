//! Fine-tuning jobs, in the shape of whichever client asks. What a job is comes from the store; what runs it is `jobs.rs`; how
//! it looks to either vendor's client is in `fine_tuning/shown.rs`.

mod shown;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Extension, FromRequestParts, Path, Query, State};
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use falaj_artifact::plain_name;
use falaj_govern::Action;
use falaj_protocol::jobs::{JobRequest, JobStatus, mistral, openai};
use falaj_protocol::{Dialect, Problem};
use falaj_store::{Job, JobFilter, NewJob, StoreError, new_id};
use serde::Deserialize;

use crate::app::App;
use crate::auth::Caller;
use crate::body::Raw;
use crate::error::ApiError;
use crate::jobs::{ALL, Jobs};
use crate::moment;
use crate::operations::files::{bad_query, page};
use crate::registry::ModelState;
use crate::site::Site;

#[derive(Deserialize)]
pub(crate) struct Dry {
    #[serde(default)]
    dry_run: bool,
}

pub(crate) async fn create(
    State(app): State<App>,
    caller: Caller,
    Extension(dialect): Extension<Dialect>,
    dry: Result<Query<Dry>, QueryRejection>,
    body: Raw,
) -> Result<Response, ApiError> {
    let site = app.site()?;
    let Query(Dry { dry_run }) = dry.map_err(|error| bad_query(&error))?;
    let read = if dialect == Dialect::OpenAi { openai::request } else { mistral::request };
    let request = body.parse(read)?.request;
    app.governance.model(&app.registry, &caller, Action::Adapt, &request.model)?;
    let listed = app.registry.describe(&request.model);
    let model = listed.ok_or_else(|| ApiError::UnknownModel { model: request.model.clone(), in_path: false })?;
    if model.state == ModelState::Attached {
        let reason = "its weights are at an attached engine; choose a model of this site".to_owned();
        return Err(ApiError::Unsupported { param: "model", reason });
    }
    let request = JobRequest { model: model.facts.id, ..request };
    files_are_there(site, &caller, &request, dialect).await?;
    if dry_run {
        return tried(site, &caller, &request).await;
    }
    let spec = serde_json::to_value(&request).map_err(|_| ApiError::Internal)?;
    let new =
        NewJob { model: request.model.clone(), suffix: request.suffix.clone(), auto_start: request.auto_start, spec };
    let job = site.store.add_job(&caller.workspace, &new).await?;
    let folder = site.jobs.folder(&job.id);
    let name = name(&job);
    if let Err(error) = site.jobs.prepare(&caller.workspace, &folder, &job.id, &name, &request).await {
        let change = falaj_store::JobChange { error: Some(error.to_string()), ..Default::default() };
        site.store.move_job(&job.id, JobStatus::Failed, &change).await?;
        return Err(error.into());
    }
    site.jobs.begin();
    shown::job(site, &job, dialect, false).await
}

/// `dry_run`: the data is looked at, and what would be done is told.
async fn tried(site: &Site, caller: &Caller, request: &JobRequest) -> Result<Response, ApiError> {
    let id = new_id()?;
    let folder = site.jobs.folder(&format!("dry-{id}"));
    let prepared = site.jobs.prepare(&caller.workspace, &folder, &id, "dry-run", request).await;
    let outcome = match prepared {
        Ok(()) => site.jobs.dry_run(&folder).await.map_err(|reason| invalid("training_files", &reason)),
        Err(error) => Err(error.into()),
    };
    if let Err(error) = tokio::fs::remove_dir_all(&folder).await {
        tracing::warn!(%error, "the folder of a dry run is left");
    }
    Ok(Json(shown::dry_run(&outcome?, request)).into_response())
}

/// A file that is not there is the request's fault, and is told before a job is made.
async fn files_are_there(site: &Site, caller: &Caller, request: &JobRequest, dialect: Dialect) -> Result<(), ApiError> {
    let asked = request.training_files.iter().map(|file| &file.file).chain(&request.validation_files);
    for (number, file) in asked.enumerate() {
        let field = match (dialect == Dialect::OpenAi, number < request.training_files.len()) {
            (false, true) => "training_files",
            (false, false) => "validation_files",
            (true, true) => "training_file",
            (true, false) => "validation_file",
        };
        match site.store.file(&caller.workspace, file).await {
            Ok(stored) if stored.purpose == "fine-tune" => {}
            Ok(stored) => {
                let msg = format!("the file `{file}` was uploaded for `{}`, not `fine-tune`", stored.purpose);
                return Err(invalid(field, &msg));
            }
            Err(error @ StoreError::Unknown { .. }) => {
                return Err(invalid(field, &error.to_string()));
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn invalid(field: &'static str, msg: &str) -> ApiError {
    ApiError::Invalid(vec![Problem::new("value_error", &["body", field], msg)])
}

/// A name for what comes of a job: the model, the client's word, and enough of the job's id to be the only one.
fn name(job: &Job) -> String {
    let id = job.id.get(..8).unwrap_or(&job.id);
    let base = plain_name(&job.model, '-');
    match &job.suffix {
        Some(suffix) => format!("ft-{base}-{suffix}-{id}"),
        None => format!("ft-{base}-{id}"),
    }
}

#[derive(Deserialize)]
pub(crate) struct Asked {
    page: Option<u64>,
    page_size: Option<u32>,
    after: Option<String>,
    limit: Option<u32>,
    model: Option<String>,
    status: Option<String>,
    suffix: Option<String>,
    created_after: Option<String>,
    created_before: Option<String>,
}

pub(crate) async fn list(
    State(app): State<App>,
    caller: Caller,
    Extension(dialect): Extension<Dialect>,
    asked: Result<Query<Asked>, QueryRejection>,
) -> Result<Response, ApiError> {
    let site = app.site()?;
    let Query(asked) = asked.map_err(|error| bad_query(&error))?;
    let page = page(asked.page, asked.page_size, asked.after, asked.limit, None);
    let status = match &asked.status {
        None => None,
        Some(name) => Some(JobStatus::parse(name).ok_or_else(|| {
            ApiError::Invalid(vec![Problem::new("enum", &["query", "status"], format!("no such status: `{name}`"))])
        })?),
    };
    let read = |text: Option<&String>, field: &'static str| match text {
        None => Ok(None),
        Some(text) => moment::parse(text).map(Some).ok_or_else(|| {
            let msg = "Input should be a date and time as RFC 3339 writes them";
            ApiError::Invalid(vec![Problem::new("datetime_parsing", &["query", field], msg)])
        }),
    };
    let filter = JobFilter {
        model: asked.model.clone(),
        status,
        suffix: asked.suffix.clone(),
        created_after_s: read(asked.created_after.as_ref(), "created_after")?,
        created_before_s: read(asked.created_before.as_ref(), "created_before")?,
    };
    let part = site.store.jobs(&caller.workspace, &filter, &page).await?;
    Ok(shown::list(&part, dialect))
}

/// The job that a path names, where it is the caller's.
pub(crate) struct Named {
    app: App,
    dialect: Dialect,
    job: Job,
}

impl FromRequestParts<App> for Named {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        let caller = Caller::from_request_parts(parts, app).await?;
        // A path whose escapes are no UTF-8 names nothing.
        let Path(id) = Path::<String>::from_request_parts(parts, app)
            .await
            .map_err(|_| ApiError::UnknownPath { path: parts.uri.path().to_owned() })?;
        let dialect = parts.extensions.get().copied().unwrap_or(Dialect::Mistral);
        let job = app.site()?.store.job(&caller.workspace, &id).await?;
        Ok(Self { app: app.clone(), dialect, job })
    }
}

impl Named {
    async fn shown(self) -> Result<Response, ApiError> {
        shown::job(self.app.site()?, &self.job, self.dialect, true).await
    }

    async fn moved(
        mut self,
        move_it: impl AsyncFnOnce(&Jobs, &Job) -> Result<Job, StoreError>,
    ) -> Result<Response, ApiError> {
        self.job = move_it(&self.app.site()?.jobs, &self.job).await?;
        self.shown().await
    }
}

pub(crate) async fn retrieve(named: Named) -> Result<Response, ApiError> {
    named.shown().await
}

pub(crate) async fn cancel(named: Named) -> Result<Response, ApiError> {
    named.moved(async |jobs, job| jobs.cancel(job).await).await
}

pub(crate) async fn start(named: Named) -> Result<Response, ApiError> {
    named.moved(async |jobs, job| jobs.start(job).await).await
}

pub(crate) async fn pause(named: Named) -> Result<Response, ApiError> {
    named.moved(async |jobs, job| jobs.pause(job).await).await
}

#[derive(Deserialize)]
pub(crate) struct Cursor {
    after: Option<String>,
    limit: Option<u32>,
}

impl Cursor {
    fn page(self, usual: u32) -> falaj_store::Page {
        page(None, None, self.after, self.limit.or(Some(usual)), None)
    }
}

pub(crate) async fn events(named: Named, asked: Result<Query<Cursor>, QueryRejection>) -> Result<Response, ApiError> {
    let Query(asked) = asked.map_err(|error| bad_query(&error))?;
    let part = named.app.site()?.store.events(&named.job.id, &asked.page(20)).await?;
    let data = part.rows.into_iter().map(shown::openai_event).collect();
    Ok(Json(openai::List::new(data, part.has_more, |event: &openai::Event| &event.id)).into_response())
}

pub(crate) async fn checkpoints(
    named: Named,
    asked: Result<Query<Cursor>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(asked) = asked.map_err(|error| bad_query(&error))?;
    let part = named.app.site()?.store.checkpoints(&named.job.id, &asked.page(10)).await?;
    let data = part.rows.into_iter().map(|checkpoint| shown::openai_checkpoint(&named.job, checkpoint)).collect();
    Ok(Json(openai::List::new(data, part.has_more, |checkpoint: &openai::Checkpoint| &checkpoint.id)).into_response())
}

/// The whole story of a job, as far as one answer takes it.
async fn story(site: &Site, job: &Job) -> Result<(Vec<falaj_store::Event>, Vec<falaj_store::Checkpoint>), ApiError> {
    Ok((site.store.events(&job.id, &ALL).await?.rows, site.store.checkpoints(&job.id, &ALL).await?.rows))
}
