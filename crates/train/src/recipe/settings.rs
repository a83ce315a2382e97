//! A recipe in the words of the trainer.

use falaj_kernels::RopeLayout;
use falaj_model::{Config, Rope, RopeScaling};

use super::{OptimizerKind, Recipe, ScheduleKind};
use crate::run::Plan;
use crate::{Distillation, Lora, Optimization, Preference, Rule, Schedule, Settings};

impl Recipe {
    /// None where the model's own weights are trained.
    pub fn adapter(&self) -> Option<Lora> {
        let lora = self.lora.as_ref()?;
        let (alpha, dropout) = (lora.alpha as f32, lora.dropout as f32);
        Some(Lora { rank: lora.rank, alpha, dropout, targets: lora.targets.clone() })
    }

    /// For a job of `steps` steps on `threads` threads.
    pub fn settings(&self, steps: u64, threads: usize) -> Settings {
        Settings {
            threads,
            max_tokens: self.batch.rows * self.batch.length,
            seed: self.seed,
            recompute: self.batch.recompute,
            optimization: self.optimization(steps),
        }
    }

    pub fn optimization(&self, steps: u64) -> Optimization {
        let (optimizer, schedule) = (&self.optimizer, &self.schedule);
        let floor = schedule.floor as f32;
        let muon = optimizer.kind == OptimizerKind::Muon;
        Optimization {
            rule: if muon { Rule::Muon } else { Rule::AdamW },
            learning_rate: optimizer.learning_rate as f32,
            schedule: match schedule.kind {
                ScheduleKind::Constant => Schedule::Constant,
                ScheduleKind::Linear => Schedule::Linear { floor },
                ScheduleKind::Cosine => Schedule::Cosine { floor },
                ScheduleKind::Wsd => Schedule::Wsd { decay: schedule.decay as f32, floor },
            },
            warmup: (schedule.warmup * steps as f64).round() as u64,
            steps,
            beta1: optimizer.beta1 as f32,
            beta2: optimizer.beta2 as f32,
            epsilon: optimizer.epsilon as f32,
            weight_decay: optimizer.weight_decay as f32,
            clip: optimizer.clip as f32,
            momentum: optimizer.momentum as f32,
            adamw_learning_rate: muon.then_some(optimizer.adamw_learning_rate as f32),
        }
    }

    pub fn plan(&self) -> Plan {
        Plan {
            evaluate_every: self.evaluate.every,
            checkpoint_every: self.checkpoint.every,
            keep: self.checkpoint.keep,
            patience: self.early_stop.patience,
            improvement: self.early_stop.improvement,
        }
    }

    /// Of method `dpo`.
    pub fn preference(&self) -> Option<Preference> {
        let dpo = self.dpo.as_ref()?;
        Some(Preference { beta: dpo.beta as f32, label_smoothing: dpo.label_smoothing as f32 })
    }

    /// Of method `distill`.
    pub fn distillation(&self) -> Option<Distillation> {
        let distill = self.distill.as_ref()?;
        Some(Distillation { temperature: distill.temperature as f32, share: distill.share as f32 })
    }

    /// Of method `pretrain`: the new model, for a tokenizer of `vocab_size` tokens.
    pub fn config(&self, vocab_size: usize) -> Option<Config> {
        let sizes = self.model.as_ref()?;
        Some(Config {
            vocab_size,
            hidden_size: sizes.hidden,
            layers: sizes.layers,
            heads: sizes.heads,
            kv_heads: sizes.kv_heads,
            head_dim: sizes.head_dim,
            ffn_size: sizes.ffn,
            norm_eps: sizes.norm_eps as f32,
            rope: Rope { theta: sizes.rope_theta, layout: RopeLayout::Halves, scaling: RopeScaling::None },
            sliding_window: None,
            tied_head: sizes.tied_head,
            experts: None,
            context_tokens: sizes.context,
        })
    }
}
