//! Whole steps against PyTorch's: the figures of `tests/golden/steps.json`, made by the script beside it from hashed weights.
//!
//! Bounds: PyTorch computes in f32, the trainer's products take bf16, whose rounding is 2^-9 of each value. The norm of a parameter's
//! gradient may differ by 3 %, and the loss of each of ten steps of AdamW and of Muon by 0.5 %.

use falaj_model::Config;
use falaj_model::synthetic::tiny_config;
use falaj_train::{MicroBatch, Optimization, Rule, Schedule, Settings, Start, Trainer};
use serde::Deserialize;

use crate::pytorch::{Batch, Bounds, Gradients, weights};

#[derive(Deserialize)]
struct Golden {
    #[serde(flatten)]
    batch: Batch,
    gradients: Gradients,
    adamw: Vec<f64>,
    muon: Vec<f64>,
}

fn golden() -> (Golden, Vec<MicroBatch>) {
    let golden: Golden = serde_json::from_str(include_str!("../golden/steps.json")).unwrap();
    let batch = golden.batch.micro();
    (golden, vec![batch])
}

fn config() -> Config {
    Config { tied_head: true, ..tiny_config(96, 64) }
}

fn trainer(rule: Rule) -> Trainer {
    let optimization =
        Optimization { rule, learning_rate: 2e-3, schedule: Schedule::Constant, ..Optimization::default() };
    let settings = Settings { threads: 2, max_tokens: 32, seed: 0, recompute: false, optimization };
    Trainer::new(Start::Full(weights(&config(), 1.0)), settings).unwrap()
}

#[test]
fn gradients_are_pytorchs() {
    let (golden, batch) = golden();
    let mut trainer = trainer(Rule::AdamW);
    let (loss, gradients) = trainer.gradients_of(&batch).unwrap();
    assert!((loss - golden.adamw[0]).abs() < 2e-3 * golden.adamw[0], "{loss} {}", golden.adamw[0]);
    golden.gradients.check(&config(), gradients, Bounds { norm: 0.03, value: 0.03, typical: 0.1 });
}

#[test]
fn ten_steps_have_pytorchs_losses() {
    let (golden, batch) = golden();
    for (rule, losses) in [(Rule::AdamW, &golden.adamw), (Rule::Muon, &golden.muon)] {
        let mut trainer = trainer(rule);
        for (step, expected) in losses.iter().enumerate() {
            let loss = match step + 1 < losses.len() {
                true => trainer.step(&batch).unwrap().loss,
                false => trainer.evaluate(&batch).unwrap().loss,
            };
            assert!((loss - expected).abs() < 5e-3 * expected, "{rule:?} step {step}: {loss}, PyTorch {expected}");
        }
    }
}
