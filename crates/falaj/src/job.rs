//! `falaj job run DIR`: one fine-tuning job as a process of its own, which `falaj up` starts. It says what happens in lines of
//! JSON; standard input is its leash: closed, it writes a checkpoint and ends; the line `cancel` ends it at once.

use crate::args::JobCommand;
use crate::context::Context;
use crate::energy::Meter;
use crate::failure::{Failure, OrFail, Outcome};
use crate::output;
use crate::train::Named;
use falaj_protocol::jobs::{JobSpec, Method, Progress, SPEC_FILE};
use falaj_train::run::{Summary, Surroundings};
use falaj_train::{Finished, Recipe};
use serde_json::json;
use std::io::BufRead;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

pub fn job(context: &Context, command: &JobCommand) -> Outcome {
    let JobCommand::Run { dir, check } = command;
    // Requests come first: this process takes what they leave.
    if let Err(error) = rustix::process::nice(NICE) {
        tracing::warn!(%error, "the priority stays as it is");
    }
    let outcome = run(context, dir, *check);
    if let Err(failure) = &outcome {
        tell(&Progress::Failed { reason: failure.to_string(), validation: *check });
    }
    outcome
}

/// As low as it goes without being starved.
const NICE: i32 = 15;

fn run(context: &Context, dir: &Path, check: bool) -> Outcome {
    let path = dir.join(SPEC_FILE);
    let text = std::fs::read_to_string(&path).or_fail(|| format!("`{}`", path.display()))?;
    let spec: JobSpec = serde_json::from_str(&text).or_fail(|| format!("`{}`", path.display()))?;
    let mut recipe = recipe(&spec)?.relative_to(dir);
    let named = Named::find(context, &recipe)?;
    named.let_it_be_served(&mut recipe);
    let job = named.job(context, &recipe);
    if check {
        tell(&named.timed(context, &recipe, &job.check(dir)?));
        return Ok(());
    }
    let cancelled = Arc::new(AtomicBool::new(false));
    follow_leash(&cancelled)?;
    let (began, meter) = (Instant::now(), Meter::start(&context.config));
    let mut watch = |progress: &Progress| match progress {
        // Told below, when the model is where requests find it; by `job`.
        Progress::Done { .. } | Progress::Failed { .. } => {}
        progress => tell(&named.timed(context, &recipe, progress)),
    };
    let clock = || began.elapsed().as_secs_f64();
    let surroundings =
        Surroundings { folder: dir, watch: &mut watch, cancelled: &cancelled, clock: &clock, energy: &|| meter.read() };
    if let Finished::Done { exports, summary } = job.run(surroundings)? {
        named.keep_pace(context, &recipe, &summary);
        let model = named.servable(&exports).ok_or_else(|| Failure::new("the job has nothing that can be served"))?;
        // Where the name is there already, an earlier process of this very job got this far.
        named.add(context, &dir.join(model), &spec.name)?;
        let Summary { trained_tokens, energy, .. } = summary;
        tell(&Progress::Done { model: spec.name, trained_tokens, energy });
    }
    Ok(())
}

fn tell(progress: &Progress) {
    output::json(&json!(progress));
}

fn follow_leash(cancelled: &Arc<AtomicBool>) -> Outcome {
    let cancelled = Arc::clone(cancelled);
    std::thread::Builder::new().name("falaj-leash".into()).spawn(move || {
        for line in std::io::stdin().lock().lines() {
            if line.is_ok_and(|line| line == "cancel") {
                // Every checkpoint is whole at every moment: nothing needs to be put in order.
                std::process::exit(1);
            }
        }
        cancelled.store(true, Ordering::Relaxed);
    })?;
    Ok(())
}

/// What a client asked for, as a recipe: what it left open has the recipe's defaults.
fn recipe(spec: &JobSpec) -> Outcome<Recipe> {
    let request = &spec.request;
    let file = |path: &String| json!({ "path": path });
    let train: Vec<_> = spec
        .training
        .iter()
        .zip(&request.training_files)
        .map(|(path, file)| match spec.training.len() {
            1 => json!({ "path": path }),
            _ => json!({ "path": path, "weight": file.weight }),
        })
        .collect();
    let mut data = json!({ "train": train, "bad_lines": request.skip_invalid_share });
    if !spec.validation.is_empty() {
        data["validation"] = spec.validation.iter().map(file).collect();
    }
    let mut root = json!({
        "name": spec.name, "base": request.model, "data": data,
        "method": "lora", "seed": request.seed.unwrap_or(0), "export": { "formats": ["peft"] },
    });
    if let Method::Preference { beta } = request.method {
        root["method"] = json!("dpo");
        root["dpo"] = json!({ "beta": beta });
    }
    let text = toml::to_string(&root)?;
    let mut recipe = Recipe::parse(&text)?;
    let (batch, optimizer) = (&mut recipe.batch, &mut recipe.optimizer);
    batch.steps = request.steps.map_or(batch.steps, u64::from);
    batch.epochs = request.epochs.map_or(batch.epochs, f64::from);
    batch.length = request.length.map_or(batch.length, |length| length as usize / 2 * 2);
    batch.rows = request.batch_rows.map_or(batch.rows, |rows| rows as usize);
    optimizer.learning_rate = request.learning_rate.map_or(optimizer.learning_rate, f64::from);
    optimizer.learning_rate *= request.learning_rate_multiplier.map_or(1.0, f64::from);
    optimizer.weight_decay = request.weight_decay.map_or(optimizer.weight_decay, f64::from);
    recipe.schedule.warmup = request.warmup_fraction.map_or(recipe.schedule.warmup, f64::from);
    // Read once more: each value against the recipe's own bounds.
    Ok(Recipe::parse(&recipe.resolved())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use falaj_protocol::jobs::mistral;

    fn spec(body: &str) -> JobSpec {
        let request = mistral::request(body.as_bytes()).unwrap();
        let training = (0..request.training_files.len()).map(|n| format!("data-{n}.jsonl")).collect();
        JobSpec { id: "i".into(), name: "ft-x".into(), request, training, validation: vec!["v.jsonl".into()] }
    }

    #[test]
    fn a_request_becomes_a_recipe() {
        let asked = r#"{"model":"falaj-seed","training_files":[{"file_id":"a","weight":3},{"file_id":"b"}],
            "hyperparameters":{"training_steps":7,"learning_rate":0.002,"seq_len":129}}"#;
        let recipe = recipe(&spec(asked)).unwrap();
        assert_eq!((recipe.batch.steps, recipe.batch.length), (7, 128));
        assert!((recipe.optimizer.learning_rate - 0.002).abs() < 1e-8);
        assert_eq!(recipe.data.train.iter().map(|file| file.weight).collect::<Vec<_>>(), [Some(3.0), Some(1.0)]);
        assert_eq!(recipe.data.validation.len(), 1);
    }

    #[test]
    fn what_no_recipe_takes_is_refused() {
        let asked = r#"{"model":"falaj-seed","training_files":["a"],"hyperparameters":{"seq_len":4000000000}}"#;
        assert!(recipe(&spec(asked)).is_err());
    }
}
