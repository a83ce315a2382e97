//! Jobs: their statuses, events and checkpoints, over a restart and with two who want the same job.

use falaj_protocol::jobs::JobStatus;
use falaj_store::{Checkpoint, JobChange, JobFilter, ModelChange, NewJob, Page, StoreError};
use serde_json::json;

use crate::Folder;

fn new(model: &str) -> NewJob {
    NewJob { model: model.into(), suffix: Some("x".into()), auto_start: true, spec: json!({ "epochs": 3 }) }
}

const OLDEST: Page = Page { after: None, skip: 0, take: 100, newest_first: false };

#[tokio::test]
pub(crate) async fn a_job_lives_and_is_remembered() {
    let folder = Folder::new();
    let store = folder.open().await;
    let job = store.add_job("a", &new("falaj-seed")).await.unwrap();
    assert_eq!((job.status, job.spec.clone()), (JobStatus::Queued, json!({ "epochs": 3 })));
    let nothing = JobChange::default();
    store.move_job(&job.id, JobStatus::Validating, &nothing).await.unwrap();
    let estimate = JobChange { estimate: Some(json!({ "steps": 9 })), ..JobChange::default() };
    store.move_job(&job.id, JobStatus::Validated, &estimate).await.unwrap();
    store.move_job(&job.id, JobStatus::Started, &nothing).await.unwrap();
    store.move_job(&job.id, JobStatus::Running, &nothing).await.unwrap();
    store.add_event(&job.id, "metrics", "step 1: loss 2", Some(&json!({ "step": 1 }))).await.unwrap();
    let metrics = Checkpoint { step: 5, train_loss: Some(1.5), ..Checkpoint::default() };
    store.add_checkpoint(&job.id, &metrics).await.unwrap();
    store.add_checkpoint(&job.id, &Checkpoint { valid_loss: Some(1.7), ..metrics }).await.unwrap();
    drop(store);

    let store = folder.open().await;
    assert_eq!(store.jobs_in(&[JobStatus::Running, JobStatus::Started]).await.unwrap().len(), 1);
    let done = JobChange { fine_tuned_model: Some("ft:x".into()), trained_tokens: Some(77), ..JobChange::default() };
    let job = store.move_job(&job.id, JobStatus::Success, &done).await.unwrap();
    assert_eq!(
        (job.trained_tokens, job.estimate, job.finished_s.is_some()),
        (Some(77), Some(json!({ "steps": 9 })), true)
    );
    let events = store.events(&job.id, &OLDEST).await.unwrap();
    let names: Vec<_> = events.rows.iter().map(|event| event.name.as_str()).collect();
    assert_eq!(names[5..], ["metrics", "status-updated"]);
    assert_eq!(events.rows[6].data, Some(json!({ "status": "SUCCESS" })));
    let behind = Page { after: Some(events.rows[5].id.clone()), ..OLDEST };
    assert_eq!(store.events(&job.id, &behind).await.unwrap().rows, events.rows[6..]);
    let checkpoints = store.checkpoints(&job.id, &OLDEST).await.unwrap().rows;
    assert_eq!(checkpoints.len(), 1);
    assert_eq!((checkpoints[0].step, checkpoints[0].valid_loss), (5, Some(1.7)));
}

#[tokio::test]
pub(crate) async fn only_one_of_two_moves_a_job() {
    let folder = Folder::new();
    let store = folder.open().await;
    let job = store.add_job("a", &new("m")).await.unwrap();
    let nothing = JobChange::default();
    let (one, two) = tokio::join!(
        store.move_job(&job.id, JobStatus::Validating, &nothing),
        store.move_job(&job.id, JobStatus::Validating, &nothing)
    );
    assert!(one.is_ok() != two.is_ok());
    let refused = one.and(two).unwrap_err();
    assert!(matches!(refused, StoreError::WrongStatus { status: JobStatus::Validating, .. }));
    let message = store.move_job(&job.id, JobStatus::Success, &nothing).await.unwrap_err().to_string();
    assert_eq!(message, format!("the job `{}` is VALIDATING, so it cannot become SUCCESS", job.id));
}

#[tokio::test]
pub(crate) async fn jobs_are_listed_by_filter() {
    let folder = Folder::new();
    let store = folder.open().await;
    for model in ["m", "n", "m"] {
        store.add_job("a", &new(model)).await.unwrap();
    }
    store.add_job("b", &new("m")).await.unwrap();
    let filter = JobFilter { model: Some("m".into()), status: Some(JobStatus::Queued), ..JobFilter::default() };
    let listed = store.jobs("a", &filter, &Page { take: 1, ..Page::default() }).await.unwrap();
    assert_eq!((listed.total, listed.rows.len(), listed.has_more), (2, 1, true));
    let future = JobFilter { created_after_s: Some(u64::MAX), ..JobFilter::default() };
    assert_eq!(store.jobs("a", &future, &Page::default()).await.unwrap().total, 0);
}

#[tokio::test]
pub(crate) async fn models_of_jobs() {
    let folder = Folder::new();
    let store = folder.open().await;
    let made = store.add_model("a", "ft:m", "job", "m").await.unwrap();
    assert_eq!(store.add_model("a", "ft:m", "job", "m").await.unwrap(), made);
    let change =
        ModelChange { description: Some("of the port".into()), archived: Some(true), ..ModelChange::default() };
    assert!(store.change_model("a", "ft:m", &change).await.unwrap().archived);
    assert!(matches!(store.change_model("b", "ft:m", &change).await, Err(StoreError::Unknown { .. })));
    store.remove_model("a", "ft:m").await.unwrap();
    assert_eq!(store.models("a").await.unwrap(), []);
}

#[tokio::test]
async fn a_newer_schema_is_refused() {
    let folder = Folder::new();
    drop(folder.open().await);
    let path = folder.0.join("state.db");
    let database = sqlx::SqlitePool::connect(&format!("sqlite://{}", path.display())).await.unwrap();
    sqlx::query("PRAGMA user_version = 99").execute(&database).await.unwrap();
    database.close().await;
    let error = falaj_store::Store::open(&folder.0).await.unwrap_err();
    assert!(matches!(error, StoreError::NewerSchema { found: 99, .. }));
}
