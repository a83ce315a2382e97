//! What turns gradients into new weights: AdamW for everything, or Muon (`optimizer/muon.rs`) for the matrices inside the layers
//! and AdamW for the rest. Norms never decay.

mod muon;

use std::ops::Range;

use falaj_kernels::{AdamStep, AlignedVec};
use falaj_model::Slot;
use serde::{Deserialize, Serialize};

use crate::arena::Index;
use crate::budget::Budget;
use crate::lora::Adapter;
use crate::machine::Machine;
use crate::{Schedule, TrainError};
use muon::Muon;

/// Which rule the matrices inside the layers follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rule {
    /// Source: Loshchilov & Hutter 2019.
    AdamW,
    /// Source: Jordan et al. 2024, with the scale of Liu et al. 2025 (§ 2.2), so that AdamW's learning rates fit.
    Muon,
}

/// How a job learns.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Optimization {
    pub rule: Rule,
    pub learning_rate: f32,
    pub schedule: Schedule,
    /// Steps over which the rate rises.
    pub warmup: u64,
    pub steps: u64,
    pub beta1: f32,
    pub beta2: f32,
    pub epsilon: f32,
    /// Decoupled: a share of each weight, times the learning rate.
    pub weight_decay: f32,
    /// The gradients' norm is brought down to this; 0 leaves it.
    pub clip: f32,
    /// Muon's.
    pub momentum: f32,
    /// With Muon: the highest rate of all that is no matrix inside the layers; `None`: the same.
    pub adamw_learning_rate: Option<f32>,
}

impl Default for Optimization {
    fn default() -> Self {
        Self {
            rule: Rule::AdamW,
            learning_rate: 3e-4,
            schedule: Schedule::Cosine { floor: 0.1 },
            warmup: 0,
            steps: 1000,
            beta1: 0.9,
            beta2: 0.95,
            epsilon: 1e-8,
            weight_decay: 0.1,
            clip: 1.0,
            momentum: 0.95,
            adamw_learning_rate: None,
        }
    }
}

impl Optimization {
    pub(crate) fn check(&self) -> Result<(), TrainError> {
        let rules = [
            ("learning_rate", self.learning_rate, 0.0..=10.0, "it must be from 0 to 10"),
            ("adamw_learning_rate", self.adamw_learning_rate.unwrap_or(0.0), 0.0..=10.0, "it must be from 0 to 10"),
            ("beta1", self.beta1, 0.0..=0.9999, "it must be from 0 to below 1"),
            ("beta2", self.beta2, 0.0..=0.999_99, "it must be from 0 to below 1"),
            ("momentum", self.momentum, 0.0..=0.9999, "it must be from 0 to below 1"),
            ("epsilon", self.epsilon, 1e-20..=1.0, "it must be above 0 and at most 1"),
            ("weight_decay", self.weight_decay, 0.0..=10.0, "it must be from 0 to 10"),
            ("clip", self.clip, 0.0..=1e9, "it must be 0 (none) or a positive number"),
        ];
        for (setting, value, range, rule) in rules {
            if !range.contains(&value) {
                return Err(TrainError::Setting { setting, value: value.to_string(), rule });
            }
        }
        if self.steps == 0 {
            return Err(TrainError::Setting { setting: "steps", value: "0".to_owned(), rule: "there must be a step" });
        }
        Ok(())
    }

    /// At `step`, the first being 0.
    pub fn rate(&self, step: u64) -> f32 {
        self.learning_rate * self.schedule.share(step, self.steps, self.warmup)
    }
}

/// The optimiser's memory.
#[derive(Debug)]
pub(crate) struct Optimizer {
    pub settings: Optimization,
    segments: Vec<Segment>,
    /// First moments: as the gradients.
    pub first: AlignedVec<f32>,
    /// Second moments, of AdamW's segments one after another.
    pub second: AlignedVec<f32>,
    muon: Option<Muon>,
}

/// A range of the flat parameters that one rule updates alike.
#[derive(Clone, Debug, PartialEq)]
struct Segment {
    range: Range<usize>,
    update: Update,
}

#[derive(Clone, Debug, PartialEq)]
enum Update {
    /// `second`: where its second moments begin.
    AdamW {
        decays: bool,
        second: usize,
    },
    Muon {
        rows: usize,
        cols: usize,
    },
}

impl Optimizer {
    pub fn new(
        settings: &Optimization,
        trained: Option<&Index>,
        adapter: Option<&Adapter>,
        budget: &mut Budget,
    ) -> Self {
        let mut segments: Vec<Segment> = Vec::new();
        let mut second = 0;
        let mut add = |range: Range<usize>, matrix: Option<(usize, usize)>, decays: bool| {
            if let (Some((rows, cols)), Rule::Muon) = (matrix, settings.rule) {
                segments.push(Segment { range, update: Update::Muon { rows, cols } });
                return;
            }
            let len = range.len();
            match segments.last_mut() {
                Some(Segment { range: last, update: Update::AdamW { decays: same, .. } })
                    if *same == decays && last.end == range.start =>
                {
                    last.end = range.end;
                }
                _ => segments.push(Segment { range, update: Update::AdamW { decays, second } }),
            }
            second += len;
        };
        match (adapter, trained) {
            (Some(adapter), _) => {
                for module in &adapter.modules {
                    let rank = adapter.settings.rank;
                    add(module.a.clone(), Some((rank, module.inputs)), true);
                    add(module.b.clone(), Some((module.outputs, rank)), true);
                }
            }
            (None, Some(index)) => {
                for place in &index.places {
                    let (matrix, decays) = match place.slot {
                        Slot::Norm | Slot::AttentionNorm { .. } | Slot::FfnNorm { .. } => (None, false),
                        Slot::Embedding | Slot::Head => (None, true),
                        _ => (Some((place.rows, place.cols)), true),
                    };
                    add(place.range.clone(), matrix, decays);
                }
            }
            (None, None) => {}
        }
        segments.sort_by_key(|segment| segment.range.start);
        let shapes = segments.iter().filter_map(|segment| match segment.update {
            Update::Muon { rows, cols } => Some((rows, cols)),
            Update::AdamW { .. } => None,
        });
        let muon = (settings.rule == Rule::Muon).then(|| Muon::new(shapes, budget));
        let len = segments.iter().map(|segment| segment.range.len()).sum();
        let (first, second) = (budget.buffer("optimiser", len), budget.buffer("optimiser", second));
        Self { settings: settings.clone(), segments, first, second, muon }
    }

    /// values −= what `grads`, times `clip`, ask for at `step`, the first being 0.
    pub fn update(&mut self, m: &Machine, values: &mut [f32], grads: &[f32], step: u64, clip: f32) {
        let Self { settings, segments, first, second, muon } = self;
        let rate = settings.rate(step);
        let adamw_rate = match (settings.rule, settings.adamw_learning_rate) {
            (Rule::Muon, Some(highest)) => highest * settings.schedule.share(step, settings.steps, settings.warmup),
            _ => rate,
        };
        let bias = |beta: f32| (1.0 - power(f64::from(beta), step + 1)) as f32;
        for Segment { range, update } in segments {
            let (p, g, first) = (&mut values[range.clone()], &grads[range.clone()], &mut first[range.clone()]);
            match (update, &mut *muon) {
                (Update::AdamW { decays, second: at }, _) => {
                    let step = AdamStep {
                        lr: adamw_rate,
                        beta1: settings.beta1,
                        beta2: settings.beta2,
                        eps: settings.epsilon,
                        decay: if *decays { settings.weight_decay } else { 0.0 },
                        bias1: bias(settings.beta1),
                        bias2: bias(settings.beta2),
                        clip,
                    };
                    m.adamw(p, g, first, &mut second[*at..*at + range.len()], &step);
                }
                (Update::Muon { rows, cols }, Some(muon)) => {
                    muon.update(m, settings, (*rows, *cols), p, g, first, rate, clip);
                }
                (Update::Muon { .. }, None) => {}
            }
        }
    }
}

/// base^n by multiplications alone, so that every machine gets the same bits.
fn power(mut base: f64, mut n: u64) -> f64 {
    let mut product = 1.0;
    while n > 0 {
        if n % 2 == 1 {
            product *= base;
        }
        base *= base;
        n /= 2;
    }
    product
}

#[cfg(test)]
mod tests {
    use super::*;
    use falaj_model::Config;
    use falaj_model::synthetic::tiny_config;

    /// Segments, and values with second moments.
    fn segments_of(config: &Config, rule: Rule) -> (usize, usize) {
        let index = Index::new(config).unwrap();
        let settings = Optimization { rule, ..Optimization::default() };
        let optimizer = Optimizer::new(&settings, Some(&index), None, &mut Budget::taking());
        (optimizer.segments.len(), optimizer.second.len())
    }

    #[test]
    fn every_parameter_is_updated_once() {
        let config = tiny_config(96, 32);
        let index = Index::new(&config).unwrap();
        let (segments, second) = segments_of(&config, Rule::AdamW);
        // Embedding, then per layer: norm, four matrices, norm, three matrices; norm, head.
        assert_eq!((segments, second), (1 + 4 * config.layers + 2, index.len));
        let (segments, second) = segments_of(&config, Rule::Muon);
        assert_eq!(segments, 1 + 9 * config.layers + 2);
        assert_eq!(second, (2 * 96 + 2 * config.layers + 1) * config.hidden_size);
    }

    #[test]
    fn powers_are_exact_enough() {
        assert_eq!(power(0.5, 10), 1.0 / 1024.0);
        assert!((power(0.95, 1000) - 0.95_f64.powi(1000)).abs() < 1e-30);
        assert_eq!(power(0.9, 0), 1.0);
    }

    #[test]
    fn settings_out_of_range_are_named() {
        let wrong = Optimization { beta2: 1.0, ..Optimization::default() };
        assert_eq!(wrong.check().unwrap_err().to_string(), "`beta2` is 1, but it must be from 0 to below 1");
        assert!(Optimization { learning_rate: f32::NAN, ..Optimization::default() }.check().is_err());
        assert!(Optimization::default().check().is_ok());
    }
}
