//! What a request took is in its receipt, in its tenant's usage and budgets, and in the metrics; what nobody measured is nowhere.

use falaj_ledger::{EnergyGrade, Receipt};
use serde_json::{Value, json};

use crate::fixture::{Api, MODEL, chat};

/// Until the meter has settled this many requests, newest first.
async fn rows(api: &Api, count: usize) -> Vec<Value> {
    loop {
        let list = api.get("/v1/receipts").await.json();
        let rows = list["data"].as_array().unwrap();
        if rows.len() >= count {
            return rows.clone();
        }
        tokio::task::yield_now().await;
    }
}

/// The sum of a family's lines that hold `labels`.
async fn metric(api: &Api, name: &str, labels: &str) -> Option<f64> {
    let text = api.get("/metrics").await.text;
    let lines = text.lines().filter(|line| line.starts_with(&format!("{name}{{")) && line.contains(labels));
    lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).reduce(|sum, x| sum + x)
}

#[tokio::test]
async fn receipts_usage_and_metrics_say_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let api = Api::governed(folder.path()).await.measured();
    let whole = api.ok("/v1/chat/completions", chat(json!({}))).await;
    let text = whole["choices"][0]["message"]["content"].as_str().unwrap();
    // One that ends at a stop string, where the engine says no last word; and one without a generation.
    let stop: String = text.chars().skip(2).take(1).collect();
    api.ok("/v1/chat/completions", chat(json!({ "stop": [stop] }))).await;
    api.ok("/v1/embeddings", json!({ "model": MODEL, "input": "Hello" })).await;
    let rows = rows(&api, 3).await;
    let mut sum = 0.0;
    for row in &rows {
        let joules = row["energy_j"].as_f64().unwrap();
        assert!(joules > 0.0, "{row}");
        sum += joules;
        assert_eq!(
            (&row["energy_grade"], &row["co2"]["area"], &row["co2"]["year"]),
            (&json!("D"), &json!("MA"), &json!(2024))
        );
        let (grams, per_kwh) = (row["co2"]["grams"].as_f64().unwrap(), row["co2"]["grams_per_kwh"].as_f64().unwrap());
        assert!((grams - joules / 3.6e6 * per_kwh).abs() < 1e-12 && per_kwh > 500.0);
        assert!(row["co2"]["source"].as_str().unwrap().starts_with("Ember"));
        use base64::Engine as _;
        let receipt = row["receipt"].as_str().unwrap();
        let receipt = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(receipt).unwrap();
        let energy = Receipt::unverified(&receipt).unwrap().claims.energy.unwrap();
        assert_eq!((energy.grade, energy.uj as f64 / 1e6), (EnergyGrade::D, joules));
    }
    let usage = api.get("/v1/usage?by=model").await.json();
    let line = &usage["data"][0];
    assert!((line["energy_j"].as_f64().unwrap() - sum).abs() < 1e-9, "{line}");
    assert_eq!((&line["energy_grade"], &line["requests_without_energy"]), (&json!("D"), &json!(0)));
    let tokens = line["prompt_tokens"].as_f64().unwrap() + line["completion_tokens"].as_f64().unwrap();
    assert!((line["energy_j_per_token"].as_f64().unwrap() - sum / tokens).abs() < 1e-9);
    assert_eq!(line["co2"]["area"], "MA");
    let labels = r#"model="tiny",grade="D""#;
    assert!((metric(&api, "falaj_energy_joules_total", labels).await.unwrap() - sum).abs() < 1e-9);
    assert!(metric(&api, "falaj_energy_tokens_total", labels).await.unwrap() > 0.0);
    assert!(metric(&api, "falaj_energy_co2_grams_total", labels).await.unwrap() > 0.0);
}

#[tokio::test]
async fn what_nobody_measured_is_not_zero() {
    let folder = tempfile::tempdir().unwrap();
    let api = Api::governed(folder.path()).await;
    api.ok("/v1/chat/completions", chat(json!({}))).await;
    let row = rows(&api, 1).await.remove(0);
    assert_eq!((&row["energy_j"], &row["energy_grade"], &row["co2"]), (&json!(null), &json!(null), &json!(null)));
    let usage = api.get("/v1/usage").await.json();
    let line = &usage["data"][0];
    for name in ["energy_j", "energy_grade", "energy_j_per_token", "co2"] {
        assert_eq!(line[name], json!(null), "{name}");
    }
    assert_eq!(line["requests_without_energy"], 1);
    assert_eq!(metric(&api, "falaj_energy_joules_total", "").await, None);
    assert_eq!(metric(&api, "falaj_energy_unknown_requests_total", r#"model="tiny""#).await, Some(1.0));
    // What is known later does not make the sum whole.
    let api = api.measured();
    api.ok("/v1/chat/completions", chat(json!({}))).await;
    rows(&api, 2).await;
    let usage = api.get("/v1/usage").await.json();
    let line = &usage["data"][0];
    assert!(line["energy_j"].as_f64().unwrap() > 0.0 && line["energy_j_per_token"].is_null(), "{line}");
    assert_eq!((&line["energy_grade"], &line["requests_without_energy"]), (&json!("D"), &json!(1)));
}
