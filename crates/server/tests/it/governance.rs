//! The gate, the ledger and receipts, through the API.

use std::fs;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use falaj_ledger::{Entry, FileKey, Receipt, Session, Signer};
use http_body_util::BodyExt;
use serde_json::json;

use crate::fixture::{AUTH, Api, MODEL, chat};

/// What the ledger holds once it has this many entries, checked as somebody else would.
async fn pack(api: &Api, folder: &Path, entries: u64) -> falaj_ledger::Report {
    let key = FileKey::read(&folder.join("site.key")).unwrap().public_key();
    let trust = falaj_ledger::keys("a.example/ledger", "a.example", key).unwrap();
    let log = api.app.governance().book().unwrap().log();
    // An answer does not wait for its receipt to be on the disk.
    while log.size() < entries {
        tokio::task::yield_now().await;
    }
    log.publish().unwrap();
    let to = tempfile::tempdir().unwrap();
    falaj_ledger::export(log.folder(), &trust, &to.path().join("pack")).unwrap();
    falaj_ledger::verify(&to.path().join("pack"), Some(&trust))
}

/// Read as its holder would, by the session's certificate in the log.
pub async fn receipt(api: &Api, folder: &Path, text: &str) -> Receipt {
    let bytes = URL_SAFE_NO_PAD.decode(text).unwrap();
    let key = FileKey::read(&folder.join("site.key")).unwrap().public_key();
    let log = api.app.governance().book().unwrap().log();
    let id = Receipt::key_id(&bytes).unwrap();
    loop {
        log.publish().unwrap();
        let entries =
            (0..log.published().unwrap().size).map(|index| Entry::from_bytes(&log.entry(index).unwrap()).unwrap());
        let mut sessions = entries.filter_map(|entry| match entry {
            Entry::Session(certificate) => Some(Session::verified(&certificate, &key).unwrap()),
            _ => None,
        });
        if let Some(session) = sessions.find(|session| session.key_id() == id) {
            return Receipt::verified(&bytes, &session).unwrap();
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn every_answer_has_a_receipt_and_the_ledger_verifies() {
    let folder = tempfile::tempdir().unwrap();
    let api = Api::governed(folder.path()).await;
    let headers = [AUTH, ("falaj-purpose", "care"), ("falaj-data-class", "confidential")];
    let body = chat(json!({ "seed": 7 })).to_string();
    let reply = api.request("POST", "/v1/chat/completions", &headers, body.clone()).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    let told = receipt(&api, folder.path(), reply.headers["falaj-receipt"].to_str().unwrap()).await;
    let usage = &reply.json()["usage"];
    assert_eq!((told.site.as_str(), told.sequence), ("a.example", 0));
    let claims = &told.claims;
    assert_eq!(claims.prompt_tokens, usage["prompt_tokens"].as_u64().unwrap());
    assert_eq!(claims.completion_tokens, usage["completion_tokens"].as_u64().unwrap());
    assert_eq!((claims.site_country.as_str(), claims.operator_country.as_str()), ("MA", "FR"));
    assert_eq!((claims.purpose.as_str(), claims.data_class.as_str(), claims.seed), ("care", "confidential", 7));
    assert_eq!(claims.sampling.temperature_bits, Some(0));
    assert!(claims.energy.is_none(), "nobody measured it");
    let id = u128::from_be_bytes(claims.request_id);
    assert_eq!(reply.headers["x-request-id"].to_str().unwrap(), format!("req_{id:032x}"));
    assert!(reply.headers["falaj-receipt"].len() < 900);

    // A stream's is its last comment, before the end that clients stop at.
    let stream = api.post("/v1/chat/completions", chat(json!({ "seed": 7, "stream": true }))).await;
    let (before, after) = stream.text.split_once(": falaj-receipt ").expect("a receipt");
    assert!(before.contains("finish_reason") && after.contains("data: [DONE]"), "{}", stream.text);
    let told = receipt(&api, folder.path(), after.lines().next().unwrap()).await;
    assert_eq!(told.sequence, 1);
    assert_eq!(told.claims.completion_tokens, claims.completion_tokens);
    assert_ne!(told.claims.output, claims.output, "salts differ");

    let embedded = api.post("/v1/embeddings", json!({ "model": MODEL, "input": "Hello" })).await;
    let told = receipt(&api, folder.path(), embedded.headers["falaj-receipt"].to_str().unwrap()).await;
    assert_eq!(told.sequence, 2);
    let message = json!({ "model": MODEL, "max_tokens": 4, "messages": [{ "role": "user", "content": "Hi" }] });
    assert!(api.post("/v1/messages", message).await.headers.contains_key("falaj-receipt"));

    let report = pack(&api, folder.path(), 9).await;
    assert!(report.holds(), "{:?}", report.failures);
    assert_eq!((report.admissions, report.receipts, report.sessions), (4, 4, 1));
}

#[tokio::test]
async fn a_broken_stream_is_settled_by_what_was_sent() {
    let folder = tempfile::tempdir().unwrap();
    let api = Api::governed(folder.path()).await;
    let request = axum::http::Request::post("/v1/chat/completions").header(AUTH.0, AUTH.1);
    let body = chat(json!({ "stream": true, "max_tokens": 400, "min_tokens": 400 })).to_string();
    let response = api.send(request.body(body.into()).unwrap()).await;
    let mut body = response.into_body();
    let mut tokens = 0;
    while tokens == 0 {
        let frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
        tokens += String::from_utf8_lossy(&frame).matches("\"content\":\"").count().saturating_sub(1);
    }
    drop(body);
    let report = pack(&api, folder.path(), 3).await;
    assert!(report.holds(), "{:?}", report.failures);
    assert_eq!((report.admissions, report.receipts), (1, 1));
}

#[tokio::test]
async fn a_policy_of_the_site_takes_effect_while_it_serves() {
    let folder = tempfile::tempdir().unwrap();
    let api = Api::governed(folder.path()).await;
    let ask = async |purpose: &str, language: &str| {
        let headers = [AUTH, ("falaj-purpose", purpose), ("accept-language", language)];
        api.request("POST", "/v1/chat/completions", &headers, chat(json!({})).to_string()).await
    };
    assert_eq!(ask("care", "en").await.status, 200);
    let own = folder.path().join("policies");
    fs::create_dir(&own).unwrap();
    fs::write(
        own.join("care.cedar"),
        "@id(\"only-care\") @remedy(\"say that it is for care\") @remedy_fr(\"dites que c'est pour les soins\")
         forbid (principal, action == Action::\"infer\", resource) unless { context.purpose == \"care\" };",
    )
    .unwrap();
    api.app.reload().await.unwrap();
    assert_eq!(ask("care", "en").await.status, 200);
    let denied = ask("research", "en").await;
    assert_eq!(denied.status, 403);
    assert_eq!(denied.json()["message"], "denied by the policy `only-care`: say that it is for care");
    assert!(ask("research", "fr-FR,fr;q=0.9").await.text.contains("pour les soins"));
    // What does not fit changes nothing.
    fs::write(own.join("care.cedar"), "permit (principal, action, resource").unwrap();
    api.app.reload().await.unwrap();
    assert_eq!(ask("research", "en").await.status, 403);
    fs::remove_file(own.join("care.cedar")).unwrap();
    api.app.reload().await.unwrap();
    assert_eq!(ask("research", "en").await.status, 200);
    let low = [AUTH, ("falaj-data-class", "nothing")];
    assert_eq!(api.request("GET", "/v1/models", &low, "").await.status, 400);
}

#[tokio::test]
async fn what_is_denied_is_written_down_one_by_one_and_then_counted() {
    let folder = tempfile::tempdir().unwrap();
    let own = folder.path().join("policies");
    fs::create_dir(&own).unwrap();
    fs::write(own.join("none.cedar"), "@id(\"none\") forbid (principal, action == Action::\"infer\", resource);")
        .unwrap();
    let api = Api::governed(folder.path()).await;
    assert_eq!(api.post("/v1/chat/completions", chat(json!({}))).await.status, 403);
    assert_eq!(api.post("/v1/embeddings", json!({ "model": MODEL, "input": "Hello" })).await.status, 403);
    let id = api.post("/v1/chat/completions", chat(json!({}))).await.headers["x-request-id"].clone();
    let report = pack(&api, folder.path(), 3).await;
    assert!(report.holds(), "{:?}", report.failures);
    assert_eq!((report.admissions, report.receipts, report.denials, report.entries), (0, 0, 3, 3));
    let log = std::sync::Arc::downgrade(api.app.governance().book().unwrap().log());
    let Entry::Denial(denial) = Entry::from_bytes(&log.upgrade().unwrap().entry(2).unwrap()).unwrap() else {
        panic!("a denial")
    };
    assert_eq!(format!("req_{:032x}", u128::from_be_bytes(denial.request_id)), id.to_str().unwrap());
    let said = [&denial.actor, &denial.action, &denial.resource, &denial.policy].map(String::as_str);
    assert_eq!(said, ["test", "infer", &format!("artifact:{MODEL}"), "none"]);

    // A flood does not fill the ledger, and none of it is lost.
    for _ in 0..97 {
        assert_eq!(api.post("/v1/chat/completions", chat(json!({}))).await.status, 403);
    }
    drop(api);
    while log.upgrade().is_some() {
        tokio::task::yield_now().await;
    }
    let key = FileKey::read(&folder.path().join("site.key")).unwrap().public_key();
    let trust = falaj_ledger::keys("a.example/ledger", "a.example", key).unwrap();
    let ledger = falaj_ledger::Folder::new(&folder.path().join("ledger"));
    falaj_ledger::export(&ledger, &trust, &folder.path().join("pack")).unwrap();
    let report = falaj_ledger::verify(&folder.path().join("pack"), Some(&trust));
    assert!(report.holds(), "{:?}", report.failures);
    assert_eq!(report.denials + report.denials_counted, 100);
    // Twenty a minute, and the minute may turn meanwhile.
    assert!((20..=40).contains(&report.denials) && report.entries <= 42, "{report:?}");
}

/// Until the meter has settled this many requests.
async fn receipts(api: &Api, count: usize) -> Vec<serde_json::Value> {
    loop {
        let list = api.get("/v1/receipts").await.json();
        let data = list["data"].as_array().unwrap();
        if data.len() >= count {
            return data.clone();
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn usage_is_metered_and_its_receipts_open_what_they_commit_to() {
    let folder = tempfile::tempdir().unwrap();
    let api = Api::governed(folder.path()).await;
    let body = chat(json!({ "seed": 7 })).to_string();
    let reply = api.request("POST", "/v1/chat/completions", &[AUTH], body.clone()).await;
    let told = receipt(&api, folder.path(), reply.headers["falaj-receipt"].to_str().unwrap()).await;
    let row = receipts(&api, 1).await.remove(0);
    assert_eq!(row["id"].as_str(), reply.headers["x-request-id"].to_str().ok());
    assert_eq!(row["receipt"].as_str(), reply.headers["falaj-receipt"].to_str().ok());
    assert_eq!(row["energy_j"], json!(null), "nobody measured it");
    // The commitments open with the salts, the body as it was sent, and the answer as the ledger's documentation says.
    let salt = |name: &str| *row[name].as_str().unwrap().parse::<falaj_artifact::Digest>().unwrap().as_bytes();
    let digest = |text: &str| *falaj_artifact::Digest::of(text.as_bytes()).as_bytes();
    assert_eq!(told.claims.input, falaj_ledger::commitment(&salt("input_salt"), &digest(&body)));
    let text = &reply.json()["choices"][0]["message"]["content"];
    let answer = format!("[{{\"text\":{text}}}]");
    assert_eq!(told.claims.output, falaj_ledger::commitment(&salt("output_salt"), &digest(&answer)));
    let one = api.get(&format!("/v1/receipts/{}", row["id"].as_str().unwrap())).await;
    assert_eq!(one.json(), row);
    assert_eq!(api.get("/v1/receipts/req_00000000000000000000000000000000").await.status, 404);
    let usage = api.get("/v1/usage?by=model").await.json();
    assert_eq!((&usage["data"][0]["model"], &usage["data"][0]["requests"]), (&json!(MODEL), &json!(1)));

    // Erased: the salts are gone, a tombstone stands, everything verifies.
    assert_eq!(api.request("DELETE", "/v1/receipts", &[AUTH], "").await.json()["erased"], 1);
    let erased = api.get(&format!("/v1/receipts/{}", row["id"].as_str().unwrap())).await.json();
    assert_eq!((&erased["input_salt"], &erased["output_salt"]), (&json!(null), &json!(null)));
    let report = pack(&api, folder.path(), 5).await;
    assert!(report.holds(), "{:?}", report.failures);
    assert_eq!((report.receipts, report.tombstones), (1, 1));
}
