//! Files and fine-tuning jobs through HTTP, with a script in place of the trainer.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use falaj_server::{JobSettings, Registry, Site};
use falaj_store::Store;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::fixture::{AUTH, Api, MODEL, Reply, engine, served};

/// A server with a data folder, whose jobs run.
struct Keeping {
    api: Api,
    running: Option<JoinHandle<()>>,
    dir: PathBuf,
}

impl Keeping {
    async fn start() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("falaj-server-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let dir = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&dir).unwrap();
        Self::open(dir).await
    }

    async fn open(dir: PathBuf) -> Self {
        let registry = Registry::new();
        registry.insert(served(engine(falaj_engine::EngineOptions { threads: 1, ..Default::default() })));
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/stand_in.sh");
        let settings = JobSettings {
            command: vec!["/bin/sh".into(), script.into()],
            dir: dir.join("jobs"),
            at_once: 1,
            grace: Duration::from_millis(300),
            memory_bytes: Some(64 << 20),
            keep: Duration::from_secs(3600),
        };
        let site = Site::new(Store::open(&dir).await.unwrap(), settings, 1 << 20).unwrap();
        let api = Api::over_site(registry, site);
        let app = api.app.clone();
        let running = Some(tokio::spawn(async move { app.run_jobs().await }));
        Self { api, running, dir }
    }

    /// As when the server is stopped and started again.
    async fn restart(mut self) -> Self {
        self.api.app.stop_jobs();
        self.running.take().unwrap().await.unwrap();
        let dir = std::mem::take(&mut self.dir);
        drop(self);
        Self::open(dir).await
    }

    async fn upload(&self, path: &str, text: &str) -> Reply {
        let body = format!(
            "--border\r\nContent-Disposition: form-data; name=\"purpose\"\r\n\r\nfine-tune\r\n--border\r\n\
             Content-Disposition: form-data; name=\"file\"; filename=\"notes 1.jsonl\"\r\n\
             Content-Type: application/octet-stream\r\n\r\n{text}\r\n--border--\r\n"
        );
        let form = ("content-type", "multipart/form-data; boundary=border");
        self.api.request("POST", path, &[AUTH, form], body).await
    }

    async fn file(&self, text: &str) -> String {
        let reply = self.upload("/v1/files", text).await;
        assert_eq!(reply.status, 200, "{}", reply.text);
        reply.json()["id"].as_str().unwrap().to_owned()
    }

    async fn job(&self, text: &str, more: Value) -> String {
        let file = self.file(text).await;
        let mut body = json!({"model": MODEL, "training_files": [{"file_id": file}], "hyperparameters": {}});
        crate::fixture::merge(&mut body, more);
        self.api.ok("/v1/fine_tuning/jobs", body).await["id"].as_str().unwrap().to_owned()
    }

    async fn shown(&self, id: &str) -> Value {
        self.api.get(&format!("/v1/fine_tuning/jobs/{id}")).await.json()
    }

    /// Waits until the job has this status; a test that never ends is stopped by its runner.
    async fn until(&self, id: &str, status: &str) -> Value {
        loop {
            let job = self.shown(id).await;
            if job["status"] == status {
                return job;
            }
            let ended = ["SUCCESS", "FAILED", "FAILED_VALIDATION", "CANCELLED"].map(Value::from);
            assert!(!ended.contains(&job["status"]), "{job}");
            tokio::task::yield_now().await;
        }
    }
}

impl Drop for Keeping {
    fn drop(&mut self) {
        if let Some(running) = &self.running {
            running.abort();
        }
        if self.dir != PathBuf::new() {
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}

const TWO_LINES: &str = "{\"messages\": []}\n{\"messages\": []}";

#[tokio::test]
async fn files_in_both_dialects() {
    let site = Keeping::start().await;
    let file = site.upload("/v1/files", TWO_LINES).await.json();
    assert_eq!((&file["num_lines"], &file["sample_type"], &file["bytes"]), (&json!(2), &json!("instruct"), &json!(33)));
    let id = file["id"].as_str().unwrap();
    let openai = site.upload("/openai/v1/files", "{\"text\": \"x\"}\n").await.json();
    assert_eq!(
        (&openai["object"], &openai["status"], openai.get("num_lines")),
        (&json!("file"), &json!("processed"), None)
    );
    let list = site.api.get("/v1/files?page_size=1").await.json();
    assert_eq!((&list["total"], &list["data"][0]["id"]), (&json!(2), &openai["id"]));
    let list = site.api.get("/openai/v1/files?limit=1").await.json();
    assert_eq!((&list["has_more"], &list["last_id"]), (&json!(true), &openai["id"]));
    let list = site.api.get(&format!("/openai/v1/files?limit=1&after={}", openai["id"].as_str().unwrap())).await.json();
    assert_eq!((&list["has_more"], &list["data"][0]["id"]), (&json!(false), &json!(id)));
    let content = site.api.get(&format!("/v1/files/{id}/content")).await;
    assert_eq!(content.text, TWO_LINES);
    assert_eq!(content.headers["content-disposition"], "attachment; filename=\"notes_1.jsonl\"");

    let url = site.api.get(&format!("/v1/files/{id}/url?expiry=1")).await.json();
    let path = url["url"].as_str().unwrap().split_once("//").unwrap().1.split_once('/').unwrap().1.to_owned();
    assert_eq!(site.api.request("GET", &format!("/{path}"), &[], "").await.text, TWO_LINES);
    let (start, signature) = path.split_at(path.len() - 1);
    let forged = format!("/{start}{}", if signature == "0" { "1" } else { "0" });
    assert_eq!(site.api.request("GET", &forged, &[], "").await.status, 401);
    let later = format!("/{}", path.replace("expires=", "expires=9"));
    assert_eq!(site.api.request("GET", &later, &[], "").await.status, 401);

    let deleted = site.api.request("DELETE", &format!("/v1/files/{id}"), &[AUTH], "").await.json();
    assert_eq!(deleted["deleted"], true);
    assert_eq!(site.api.get(&format!("/v1/files/{id}")).await.status, 404);
    assert_eq!(site.api.request("GET", "/v1/files", &[], "").await.status, 401);
}

#[tokio::test]
async fn uploads_that_are_refused() {
    let site = Keeping::start().await;
    let large = site.upload("/v1/files", &"x".repeat((1 << 20) + 1)).await;
    assert_eq!(large.status, 413, "{}", large.text);
    let form = ("content-type", "multipart/form-data; boundary=b");
    let no_file = "--b\r\nContent-Disposition: form-data; name=\"purpose\"\r\n\r\nfine-tune\r\n--b--\r\n";
    let reply = site.api.request("POST", "/v1/files", &[AUTH, form], no_file).await;
    assert_eq!((reply.status.as_u16(), &reply.json()["detail"][0]["loc"][1]), (422, &json!("file")));
    let purpose = no_file.replace("fine-tune", "mischief");
    let reply = site.api.request("POST", "/openai/v1/files", &[AUTH, form], purpose).await;
    assert_eq!((reply.status.as_u16(), &reply.json()["error"]["param"]), (400, &json!("purpose")));
    let broken = site.api.request("POST", "/v1/files", &[AUTH, form], "--b\r\nnonsense").await;
    assert_eq!(broken.status, 400, "{}", broken.text);
    assert_eq!(site.api.post("/v1/files", json!({})).await.status, 400);
    assert_eq!(std::fs::read_dir(site.dir.join("blobs/parts")).unwrap().count(), 0);
}

#[tokio::test]
async fn a_job_succeeds_and_each_client_sees_it() {
    let site = Keeping::start().await;
    let id = site.job(TWO_LINES, json!({"suffix": "port"})).await;
    let job = site.until(&id, "SUCCESS").await;
    let model = format!("ft-tiny-port-{}", &id[..8]);
    assert_eq!((&job["fine_tuned_model"], &job["trained_tokens"]), (&json!(model), &json!(80)));
    assert_eq!(job["metadata"]["expected_duration_seconds"], 2);
    assert_eq!(job["checkpoints"].as_array().unwrap().len(), 4);
    assert_eq!(job["checkpoints"][0]["metrics"]["valid_mean_token_accuracy"], 0.25);
    let statuses: Vec<&Value> = job["events"]
        .as_array()
        .unwrap()
        .iter()
        .rev()
        .map(|event| &event["data"]["status"])
        .filter(|s| !s.is_null())
        .collect();
    assert_eq!(statuses, ["QUEUED", "VALIDATING", "VALIDATED", "STARTED", "RUNNING", "SUCCESS"]);

    let energy = job["events"].as_array().unwrap().iter().find(|event| event["name"] == "energy").unwrap();
    assert_eq!((&energy["data"]["joules"], &energy["data"]["grade"]), (&json!(7.2), &json!("E")));
    let co2 = &energy["data"]["co2"];
    assert_eq!((&co2["area"], &co2["year"]), (&json!("World"), &json!(2024)), "{co2}");
    let metrics = site.api.get("/metrics").await.text;
    assert!(metrics.contains("falaj_energy_jobs_joules_total{grade=\"E\"} 7.2\n"), "{metrics}");

    let openai = site.api.get(&format!("/openai/v1/fine_tuning/jobs/{id}")).await.json();
    assert_eq!((&openai["status"], &openai["object"]), (&json!("succeeded"), &json!("fine_tuning.job")));
    let results = openai["result_files"][0].as_str().unwrap();
    assert_eq!(site.api.get(&format!("/openai/v1/files/{results}")).await.json()["purpose"], "fine-tune-results");
    let table = site.api.get(&format!("/openai/v1/files/{results}/content")).await.text;
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!((lines.len(), lines[4]), (5, "4,2.50000,,2.60000,0.25000"), "{table}");
    // The weights are elsewhere by now, and what made them goes right after the word of success.
    let left = || {
        let entries = std::fs::read_dir(site.dir.join("jobs").join(&id)).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    while left() != ["events.jsonl", "job.json"] {
        tokio::task::yield_now().await;
    }
    let events = site.api.get(&format!("/openai/v1/fine_tuning/jobs/{id}/events?limit=2")).await.json();
    assert_eq!((events["data"].as_array().unwrap().len(), &events["has_more"]), (2, &json!(true)));
    let checkpoints = site.api.get(&format!("/openai/v1/fine_tuning/jobs/{id}/checkpoints")).await.json();
    assert_eq!(checkpoints["data"][0]["fine_tuned_model_checkpoint"], format!("{model}:step-4"));
    assert_eq!(site.api.get("/v1/fine_tuning/jobs?status=SUCCESS").await.json()["total"], 1);
    assert_eq!(site.api.get("/v1/fine_tuning/jobs?created_after=2999-01-01T00:00:00Z").await.json()["total"], 0);
    assert_eq!(site.api.get("/v1/fine_tuning/jobs?status=DONE").await.status, 422);

    let path = format!("/v1/fine_tuning/models/{model}");
    let tuned = site.api.request("PATCH", &path, &[AUTH], r#"{"name":"Port"}"#).await.json();
    assert_eq!((&tuned["name"], &tuned["job"], &tuned["root"]), (&json!("Port"), &json!(id), &json!(MODEL)));
    let archived = site.api.post(&format!("/v1/fine_tuning/models/{model}/archive"), json!({})).await.json();
    assert_eq!(archived["archived"], true);
    let path = format!("/v1/fine_tuning/models/{model}/archive");
    assert_eq!(site.api.request("DELETE", &path, &[AUTH], "").await.json()["archived"], false);
    // Only what a job made may be deleted.
    assert_eq!(site.api.request("DELETE", "/v1/models/tiny", &[AUTH], "").await.status, 404);
}

#[tokio::test]
async fn what_is_asked_wrongly_is_told_before_a_job_is_made() {
    let site = Keeping::start().await;
    let file = site.file(TWO_LINES).await;
    let ask = |model: &str, file: &str| json!({"model": model, "training_files": [file], "hyperparameters": {}});
    let unknown = site.api.post("/v1/fine_tuning/jobs", ask("nobody", &file)).await;
    assert_eq!((unknown.status.as_u16(), &unknown.json()["code"]), (400, &json!("1500")));
    let gone = site.api.post("/v1/fine_tuning/jobs", ask(MODEL, "gone")).await;
    assert_eq!((gone.status.as_u16(), &gone.json()["detail"][0]["loc"][1]), (422, &json!("training_files")));
    let body = json!({"model": MODEL, "training_file": "gone"});
    let gone = site.api.post("/openai/v1/fine_tuning/jobs", body).await;
    assert_eq!((gone.status.as_u16(), &gone.json()["error"]["param"]), (400, &json!("training_file")));
    assert_eq!(site.api.get("/v1/fine_tuning/jobs").await.json()["total"], 0);
    assert_eq!(site.api.get("/v1/fine_tuning/jobs/none").await.status, 404);
}

#[tokio::test]
async fn dry_runs_make_no_job() {
    let site = Keeping::start().await;
    let file = site.file(TWO_LINES).await;
    let body = json!({"model": MODEL, "training_files": [file], "hyperparameters": {"epochs": 2}});
    let dry = site.api.ok("/v1/fine_tuning/jobs?dry_run=true", body).await;
    assert_eq!((&dry["training_steps"], &dry["train_tokens"], &dry["epochs"]), (&json!(4), &json!(80), &json!(2.0)));
    let bad = site.file("bad").await;
    let body = json!({"model": MODEL, "training_files": [bad], "hyperparameters": {}});
    let reply = site.api.post("/v1/fine_tuning/jobs?dry_run=true", body).await;
    assert_eq!((reply.status.as_u16(), &reply.json()["detail"][0]["msg"]), (422, &json!("line 1: not a conversation")));
    assert_eq!(site.api.get("/v1/fine_tuning/jobs").await.json()["total"], 0);
    assert_eq!(std::fs::read_dir(site.dir.join("jobs")).unwrap().count(), 0);
}

#[tokio::test]
async fn bad_data_and_dead_processes_are_told_apart() {
    let site = Keeping::start().await;
    let bad = site.job("bad", json!({})).await;
    site.until(&bad, "FAILED_VALIDATION").await;
    let openai = site.api.get(&format!("/openai/v1/fine_tuning/jobs/{bad}")).await.json();
    assert_eq!(openai["error"]["message"], "line 1: not a conversation");
    let crash = site.job("crash", json!({})).await;
    site.until(&crash, "FAILED").await;
    let openai = site.api.get(&format!("/openai/v1/fine_tuning/jobs/{crash}")).await.json();
    assert_eq!(openai["error"]["message"], "the process ended with exit status: 3: no memory");
    let greedy = site.job("greedy", json!({})).await;
    site.until(&greedy, "FAILED").await;
    let openai = site.api.get(&format!("/openai/v1/fine_tuning/jobs/{greedy}")).await.json();
    let message = openai["error"]["message"].as_str().unwrap();
    assert!(message.contains("`jobs.memory_bytes` allows 64 MiB"), "{message}");
    // What it had reached is there for whoever looks for the cause.
    assert_eq!(std::fs::read_to_string(site.dir.join("jobs").join(&greedy).join("step")).unwrap(), "1\n");
    assert_eq!(openai["result_files"], json!([]));
}

#[tokio::test]
async fn a_validation_file_is_shown_as_it_came() {
    let site = Keeping::start().await;
    let [train, held_out] = [site.file(TWO_LINES).await, site.file("held out").await];
    let body = json!({"model": MODEL, "training_file": train, "validation_file": held_out});
    let job = site.api.ok("/openai/v1/fine_tuning/jobs", body).await;
    assert_eq!((&job["training_file"], &job["validation_file"]), (&json!(train), &json!(held_out)));
    let id = job["id"].as_str().unwrap();
    assert_eq!(site.shown(id).await["validation_files"], json!([held_out]));
    site.until(id, "SUCCESS").await;
}

#[tokio::test]
async fn a_job_waits_for_its_start_and_can_be_cancelled() {
    let site = Keeping::start().await;
    let id = site.job(TWO_LINES, json!({"auto_start": false})).await;
    site.until(&id, "VALIDATED").await;
    assert_eq!(site.api.get(&format!("/openai/v1/fine_tuning/jobs/{id}")).await.json()["status"], "paused");
    site.api.ok(&format!("/v1/fine_tuning/jobs/{id}/start"), json!({})).await;
    site.until(&id, "SUCCESS").await;
    let again = site.api.post(&format!("/v1/fine_tuning/jobs/{id}/cancel"), json!({})).await;
    assert_eq!(again.status, 409, "{}", again.text);

    let waiting = site.job(TWO_LINES, json!({"auto_start": false})).await;
    site.until(&waiting, "VALIDATED").await;
    let cancelled = site.api.ok(&format!("/v1/fine_tuning/jobs/{waiting}/cancel"), json!({})).await;
    assert_eq!(cancelled["status"], "CANCELLED");
    for word in ["slow", "deaf"] {
        let running = site.job(word, json!({})).await;
        site.until(&running, "RUNNING").await;
        let asked = site.api.ok(&format!("/v1/fine_tuning/jobs/{running}/cancel"), json!({})).await;
        assert_eq!(asked["status"], "CANCELLATION_REQUESTED");
        site.until(&running, "CANCELLED").await;
    }
}

#[tokio::test]
async fn jobs_go_on_after_a_pause_and_after_a_restart() {
    let site = Keeping::start().await;
    let id = site.job("slow", json!({})).await;
    site.until(&id, "RUNNING").await;
    site.api.ok(&format!("/openai/v1/fine_tuning/jobs/{id}/pause"), json!({})).await;
    site.until(&id, "VALIDATED").await;
    site.api.ok(&format!("/openai/v1/fine_tuning/jobs/{id}/resume"), json!({})).await;
    let job = site.until(&id, "SUCCESS").await;
    assert_eq!(job["checkpoints"].as_array().unwrap().len(), 4);

    let id = site.job("slow", json!({})).await;
    site.until(&id, "RUNNING").await;
    let queued = site.job(TWO_LINES, json!({})).await;
    let site = site.restart().await;
    site.until(&id, "SUCCESS").await;
    site.until(&queued, "SUCCESS").await;
}
