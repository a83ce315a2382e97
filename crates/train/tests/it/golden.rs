//! Whole steps against PyTorch's: the figures of `tests/golden/steps.json`, made by the script beside it from hashed weights.
//!
//! Bounds: PyTorch computes in f32, the trainer's products take bf16, whose rounding is 2^-9 of each value. The norm of a parameter's
//! gradient may differ by 3 %, and the loss of each of ten steps of AdamW and of Muon by 0.5 %.

use falaj_model::Config;
use falaj_model::synthetic::{Checkpoint, tiny_config};
use falaj_model::{Naming, Slot};
use falaj_train::{Arena, MicroBatch, Optimization, Rule, Schedule, Settings, Start, Trainer};
use serde::Deserialize;

#[derive(Deserialize)]
struct Golden {
    tokens: Vec<u32>,
    targets: Vec<u32>,
    weights: Vec<f32>,
    starts: Vec<u32>,
    positions: Vec<u32>,
    gradients: Vec<Gradient>,
    adamw: Vec<f64>,
    muon: Vec<f64>,
}

#[derive(Deserialize)]
struct Gradient {
    name: String,
    norm: f64,
    samples: Vec<(usize, f64)>,
}

fn golden() -> (Golden, Vec<MicroBatch>) {
    let golden: Golden = serde_json::from_str(include_str!("../golden/steps.json")).unwrap();
    let Golden { tokens, targets, weights, starts, positions, .. } = &golden;
    let batch = MicroBatch {
        tokens: tokens.clone(),
        targets: targets.clone(),
        weights: weights.clone(),
        starts: starts.clone(),
        positions: positions.clone(),
    };
    (golden, vec![batch])
}

fn trainer(rule: Rule) -> Trainer {
    let config = Config { tied_head: true, ..tiny_config(96, 64) };
    let checkpoint = Checkpoint::new(config.clone(), 0).unwrap();
    let mut arena = Arena::zeros(&config).unwrap();
    for slot in Slot::all(&config) {
        arena.get_mut(slot).copy_from_slice(&checkpoint.values(slot));
    }
    let optimization =
        Optimization { rule, learning_rate: 2e-3, schedule: Schedule::Constant, ..Optimization::default() };
    let settings = Settings { threads: 2, max_tokens: 32, seed: 0, recompute: false, optimization };
    Trainer::new(Start::Full(arena), settings).unwrap()
}

#[test]
fn gradients_are_pytorchs() {
    let (golden, batch) = golden();
    let mut trainer = trainer(Rule::AdamW);
    let (loss, gradients) = trainer.gradients_of(&batch).unwrap();
    assert!((loss - golden.adamw[0]).abs() < 2e-3 * golden.adamw[0], "{loss} {}", golden.adamw[0]);
    let config = Config { tied_head: true, ..tiny_config(96, 64) };
    let mut at = 0;
    for slot in Slot::all(&config) {
        let len: usize = slot.shape(&config).iter().product();
        let values = &gradients[at..at + len];
        at += len;
        let expected = golden.gradients.iter().find(|g| g.name == Naming::HuggingFace.name(slot)).unwrap();
        let norm = values.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
        assert!((norm - expected.norm).abs() < 0.03 * expected.norm, "{slot:?}: {norm} {}", expected.norm);
        let typical = expected.norm / (len as f64).sqrt();
        for (i, sample) in &expected.samples {
            let off = (f64::from(values[*i]) - sample).abs();
            assert!(off < 0.03 * sample.abs() + 0.1 * typical, "{slot:?} {i}: {} {sample}", values[*i]);
        }
    }
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
