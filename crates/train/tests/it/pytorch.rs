//! What the files made by PyTorch have in common: the batch, the hashed weights, and gradients to compare with.

use falaj_model::synthetic::Checkpoint;
use falaj_model::{Config, Naming, Slot};
use falaj_train::{Arena, MicroBatch};
use serde::Deserialize;

#[derive(Deserialize)]
pub struct Batch {
    tokens: Vec<u32>,
    targets: Vec<u32>,
    weights: Vec<f32>,
    starts: Vec<u32>,
    positions: Vec<u32>,
}

impl Batch {
    pub fn micro(&self) -> MicroBatch {
        let Self { tokens, targets, weights, starts, positions } = self;
        MicroBatch {
            tokens: tokens.clone(),
            targets: targets.clone(),
            weights: weights.clone(),
            starts: starts.clone(),
            positions: positions.clone(),
        }
    }
}

/// By the formula of the scripts; routers are `routers` times as large.
pub fn weights(config: &Config, routers: f32) -> Arena {
    let checkpoint = Checkpoint::new(config.clone(), 0).unwrap();
    let mut arena = Arena::zeros(config).unwrap();
    for slot in Slot::all(config) {
        let scale = if matches!(slot, Slot::Router { .. }) { routers } else { 1.0 };
        arena.get_mut(slot).iter_mut().zip(checkpoint.values(slot)).for_each(|(to, value)| *to = value * scale);
    }
    arena
}

/// One of each parameter.
#[derive(Deserialize)]
#[serde(transparent)]
pub struct Gradients(Vec<Gradient>);

#[derive(Deserialize)]
struct Gradient {
    name: String,
    norm: f64,
    samples: Vec<(usize, f64)>,
}

/// How far a gradient's norm may be off, as a share of it, and one of its values, as a share of it and of the typical value.
pub struct Bounds {
    pub norm: f64,
    pub value: f64,
    pub typical: f64,
}

impl Gradients {
    /// `gradients`: as an arena lies.
    #[track_caller]
    pub fn check(&self, config: &Config, gradients: &[f32], bounds: Bounds) {
        let mut at = 0;
        for slot in Slot::all(config) {
            let len: usize = slot.shape(config).iter().product();
            let values = &gradients[at..at + len];
            at += len;
            let expected = self.0.iter().find(|g| g.name == Naming::HuggingFace.name(slot)).unwrap();
            let norm = values.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
            // An expert that nobody chose has none.
            assert!((norm - expected.norm).abs() <= bounds.norm * expected.norm, "{slot:?}: {norm} {}", expected.norm);
            let typical = expected.norm / (len as f64).sqrt();
            for (i, sample) in &expected.samples {
                let off = (f64::from(values[*i]) - sample).abs();
                let most = bounds.value * sample.abs() + bounds.typical * typical;
                assert!(off <= most, "{slot:?} {i}: {} {sample}", values[*i]);
            }
        }
        assert_eq!(at, gradients.len());
    }
}
