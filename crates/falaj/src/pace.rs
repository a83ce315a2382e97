//! How fast jobs go on this machine: the rate of the last job on the same model where there was one (`DATA/pace.json`), else
//! measured by a few steps of training.

use crate::context::Context;
use crate::data_dir;
use crate::failure::Outcome;
use falaj_model::Config;
use falaj_train::{flops_per_token, probe};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Operations of a step for one token that is read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Work {
    pub flops_per_token: f64,
}

impl Work {
    /// An adapter over weights that stay, as jobs do unless they are asked otherwise.
    pub fn fine_tuning(config: &Config, context: f64) -> Self {
        Self { flops_per_token: flops_per_token(config, context, true) }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pace {
    /// Of the tokens that are read, whether or not they are learnt from.
    pub tokens_per_second: f64,
    /// By an earlier job, not by a probe.
    pub kept: bool,
}

impl Pace {
    /// `base` is the digest of the model's files.
    pub fn find(context: &Context, base: &str, config: &Config, work: Work) -> Outcome<Self> {
        let threads = context.config.engine.options.threads;
        let kept = read(&path(&context.config.data)).get(&key(base, threads)).copied();
        let flops = match kept {
            Some(flops) => flops,
            None => probe(config, threads)?,
        };
        Ok(Self { tokens_per_second: flops / work.flops_per_token, kept: kept.is_some() })
    }

    pub fn seconds(&self, tokens: u64) -> u64 {
        (tokens as f64 / self.tokens_per_second).ceil() as u64
    }
}

/// Writes down what a job reached. An estimate is not worth an error: what cannot be written is measured again.
pub fn keep(context: &Context, base: &str, work: Work, tokens_per_second: f64) {
    let path = path(&context.config.data);
    let mut known = read(&path);
    if known.len() >= MOST_KEPT {
        known.clear();
    }
    known.insert(key(base, context.config.engine.options.threads), tokens_per_second * work.flops_per_token);
    let kept = data_dir::create(&context.config.data).and_then(|()| {
        let beside = path.with_extension(format!("json.{}", std::process::id()));
        fs::write(&beside, serde_json::to_vec_pretty(&known)?)?;
        Ok(fs::rename(&beside, &path)?)
    });
    if let Err(failure) = kept {
        tracing::warn!(%failure, "the rate of this job is not kept");
    }
}

const MOST_KEPT: usize = 1000;

fn path(data: &Path) -> PathBuf {
    data.join("pace.json")
}

fn key(base: &str, threads: usize) -> String {
    format!("{base} {threads} threads")
}

/// Operations per second, by [`key`].
fn read(path: &Path) -> BTreeMap<String, f64> {
    let known: Option<BTreeMap<String, f64>> = fs::read(path).ok().and_then(|text| serde_json::from_slice(&text).ok());
    let mut known = known.unwrap_or_default();
    known.retain(|_, flops| flops.is_finite() && *flops > 0.0);
    known
}
