//! `falaj train RECIPE`: finds what the recipe names, runs the job in a folder, shows how it goes, and adds what comes of it to
//! the models of this machine. The work itself is `falaj_train`'s.

mod report;
mod view;

use crate::args::{Train, TrainCommand};
use crate::context::Context;
use crate::energy::{Meter, carbon};
use crate::failure::{Failure, OrFail, Outcome};
use crate::output;
use crate::pace::{self, Pace, Work};
use crate::serving::{self, Place};
use crate::words::Word;
use falaj_artifact::{Catalog, Import, Layout, ModelFiles, Verified};
use falaj_kernels::Pool;
use falaj_model::Config;
use falaj_protocol::jobs::Progress;
use falaj_train::recipe::Method;
use falaj_train::run::{Summary, Surroundings};
use falaj_train::{ExportFormat, Finished, Job, Recipe, flops_per_token};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;
use view::View;

pub fn train(context: &Context, options: &Train) -> Outcome {
    match (&options.command, &options.recipe) {
        (Some(TrainCommand::Plot { dir }), _) => plot(context, dir),
        (None, Some(path)) => follow(context, options, path),
        (None, None) => Ok(()),
    }
}

/// `falaj train plot DIR`.
fn plot(context: &Context, dir: &Path) -> Outcome {
    for path in report::plots(dir)? {
        let path = path.display().to_string();
        if context.json {
            output::json(&json!({ "event": "plot", "path": path }));
        } else {
            output::line(&path);
        }
    }
    Ok(())
}

fn follow(context: &Context, options: &Train, path: &Path) -> Outcome {
    let shown = path.display().to_string();
    let text = std::fs::read_to_string(path).or_fail(|| format!("`{shown}`"))?;
    let recipe = Recipe::parse(&text).map_err(|error| {
        Failure::usage(Word::TrainRecipeBad.with(&[&shown, &error.to_string()])).next(Word::TrainRecipeNext.text())
    })?;
    if options.print {
        output::piece(&recipe.resolved());
        return Ok(());
    }
    let beside = path.parent().unwrap_or(Path::new("")).to_path_buf();
    let folder = options.out.clone().unwrap_or_else(|| beside.join(&recipe.name));
    let mut recipe = recipe.relative_to(&beside);
    let named = Named::find(context, &recipe)?;
    named.let_it_be_served(&mut recipe);
    let job = named.job(context, &recipe);

    let cancelled = Arc::new(AtomicBool::new(false));
    stop_on_signal(&cancelled)?;
    let (mut view, meter) = (View::new(context.json, &folder), Meter::start(&context.config));
    let began = Instant::now();
    let mut watch = |progress: &Progress| view.show(&named.timed(context, &recipe, progress));
    let clock = || began.elapsed().as_secs_f64();
    let surroundings = Surroundings {
        folder: &folder,
        watch: &mut watch,
        cancelled: &cancelled,
        clock: &clock,
        energy: &|| meter.read(),
    };
    let finished = job.run(surroundings)?;
    drop(view);
    let Finished::Done { exports, summary } = finished else { return Ok(()) };
    named.keep_pace(context, &recipe, &summary);
    let report = report::write(&folder, &recipe, &summary, &exports, &carbon(&context.config))?;
    for (format, path, distance) in &exports {
        let path = folder.join(path);
        if context.json {
            output::json(&json!({ "event": "export", "format": format.name(), "path": path, "logits_off": distance }));
        } else {
            let path = path.display().to_string();
            output::line(&Word::TrainExport.with(&[format.name(), &path, &format!("{distance:.4}")]));
        }
    }
    if context.json {
        output::json(&json!({ "event": "report", "path": report }));
    } else {
        output::line(&Word::TrainReport.with(&[&report.display().to_string()]));
    }
    let Some(model) = named.servable(&exports) else { return Ok(()) };
    let from = folder.join(model);
    match named.add(context, &from, &recipe.name)? {
        Added::New if context.json => output::json(&json!({ "event": "added", "model": recipe.name })),
        Added::New => output::line(&Word::TrainDone.with(&[&recipe.name])),
        Added::Taken => {
            output::note(&Word::TrainNameTaken.with(&[&recipe.name]));
            output::note(&Word::TrainNameTakenNext.with(&[&from.display().to_string()]));
        }
    }
    Ok(())
}

/// What a recipe names, found and verified.
pub struct Named {
    base: Verified<ModelFiles>,
    base_name: String,
    /// Requests can name the base, and what is learnt over it can be added to it as it answers.
    serves_adapters: bool,
    teacher: Option<Verified<ModelFiles>>,
}

impl Named {
    pub fn find(context: &Context, recipe: &Recipe) -> Outcome<Self> {
        let config = &context.config;
        let files = |name: &str| Ok::<_, Failure>(serving::verified(config, &Place::find(config, name)?)?.0);
        // Of a model from nothing the tokenizer is somebody's.
        let base_name: &str = match (recipe.method, &recipe.model) {
            (Method::Pretrain, Some(sizes)) => &sizes.tokenizer,
            _ => recipe.base.as_deref().unwrap_or(crate::builtin::NAME),
        };
        let base = files(base_name)?;
        let is_named = !matches!(Place::find(config, base_name)?, Place::Path(_));
        let is_dense = serving::outline(&base)?.config.is_ok_and(|config| config.experts.is_none());
        let teacher = recipe.distill.as_ref().map(|distill| files(&distill.teacher)).transpose()?;
        Ok(Self { base, base_name: base_name.to_owned(), serves_adapters: is_named && is_dense, teacher })
    }

    /// A job that leaves an adapter alone, over a base that requests cannot name, also leaves a whole model, in the form that its
    /// base came in.
    pub fn let_it_be_served(&self, recipe: &mut Recipe) {
        let formats = &mut recipe.export.formats;
        if !self.serves_adapters && formats.iter().all(|format| *format == ExportFormat::Peft) {
            let is_gguf = matches!(self.base.layout(), None | Some(Layout::Gguf(_)));
            formats.push(if is_gguf { ExportFormat::GgufQ8_0 } else { ExportFormat::Safetensors });
        }
    }

    pub fn job<'a>(&'a self, context: &Context, recipe: &'a Recipe) -> Job<'a> {
        let threads = match recipe.threads {
            0 => context.config.engine.options.threads.min(Pool::available_threads()),
            threads => threads,
        };
        Job { recipe, base: &self.base, teacher: self.teacher.as_ref(), threads }
    }

    /// With the time that the job will take, where that can be said.
    pub fn timed(&self, context: &Context, recipe: &Recipe, progress: &Progress) -> Progress {
        let mut timed = progress.clone();
        if let Progress::Validated { steps, tokens_per_step, expected_seconds, .. } = &mut timed {
            let found = self
                .work(recipe)
                .and_then(|(config, work)| Pace::find(context, &self.base.digest().to_string(), &config, work));
            match found {
                Ok(pace) => *expected_seconds = Some(pace.seconds(*steps * *tokens_per_step)),
                Err(failure) => tracing::warn!(%failure, "how long the job takes is not known"),
            }
        }
        timed
    }

    /// For the estimates of jobs to come.
    pub fn keep_pace(&self, context: &Context, recipe: &Recipe, summary: &Summary) {
        let batch = &recipe.batch;
        let tokens = summary.steps * (batch.rows * batch.length * batch.accumulate) as u64;
        if let Ok((_, work)) = self.work(recipe)
            && summary.seconds > 0.0
            && tokens > 0
        {
            pace::keep(context, &self.base.digest().to_string(), work, tokens as f64 / summary.seconds);
        }
    }

    /// The model that is trained, and what a token takes.
    fn work(&self, recipe: &Recipe) -> Outcome<(Config, Work)> {
        let config = |files: &Verified<ModelFiles>| serving::outline(files)?.config.map_err(Failure::new);
        let base = config(&self.base)?;
        let trained = recipe.config(base.vocab_size).filter(|_| recipe.method == Method::Pretrain).unwrap_or(base);
        let context = recipe.batch.length as f64;
        let mut flops = flops_per_token(&trained, context, recipe.adapter().is_some());
        // Those who only read take a third of what learning everything takes.
        let reader = match (&self.teacher, recipe.method) {
            (Some(teacher), Method::Distill) => Some(config(teacher)?),
            (_, Method::Dpo) => Some(trained.clone()),
            _ => None,
        };
        flops += reader.map_or(0.0, |reader| flops_per_token(&reader, context, false) / 3.0);
        Ok((trained, Work { flops_per_token: flops }))
    }

    /// The export that can be served: a whole model where the recipe asked for one (the smallest GGUF, else a folder), else the
    /// adapter.
    pub fn servable<'a>(&self, exports: &'a [(ExportFormat, PathBuf, f32)]) -> Option<&'a Path> {
        use ExportFormat::{GgufF16, GgufQ4_0, GgufQ4KM, GgufQ8_0, Peft, Safetensors};
        let best = [GgufQ8_0, GgufQ4KM, GgufQ4_0, GgufF16, Safetensors];
        let path = |wanted| exports.iter().find(|(format, ..)| *format == wanted).map(|(_, path, _)| path.as_path());
        best.into_iter().find_map(path).or_else(|| path(Peft).filter(|_| self.serves_adapters))
    }

    /// Takes the model, or the adapter over the job's base, in `from` into the catalog.
    pub fn add(&self, context: &Context, from: &Path, name: &str) -> Outcome<Added> {
        crate::data_dir::create(&context.config.data)?;
        let catalog = Catalog::open(&serving::models_dir(&context.config))?;
        if catalog.find(name).is_ok() || name == crate::builtin::NAME {
            return Ok(Added::Taken);
        }
        let base = serving::base_of(&context.config, from, Some(&self.base_name))?;
        catalog.import_with(&Import { base, ..Import::new(from, name) }, &mut |_| ())?;
        Ok(Added::New)
    }
}

pub enum Added {
    New,
    Taken,
}

/// SIGINT and SIGTERM set `cancelled`, so that what is under way ends in good order; the second one ends the process.
pub fn stop_on_signal(cancelled: &Arc<AtomicBool>) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let cancelled = Arc::clone(cancelled);
    std::thread::Builder::new().name("falaj-signals".into()).spawn(move || {
        runtime.block_on(async {
            let terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate());
            let Ok(mut terminate) = terminate else { return };
            for exit in [false, true] {
                tokio::select! {
                    _ = tokio::signal::ctrl_c() => {}
                    _ = terminate.recv() => {}
                }
                if exit {
                    std::process::exit(130);
                }
                cancelled.store(true, Ordering::Relaxed);
            }
        });
    })?;
    Ok(())
}
