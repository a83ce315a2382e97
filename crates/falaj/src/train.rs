//! `falaj train RECIPE`: finds what the recipe names, runs the job in a folder, shows how it goes, and adds what comes of it to
//! the models of this machine. The work itself is `falaj_train`'s.

use crate::args::Train;
use crate::context::Context;
use crate::failure::{Failure, OrFail, Outcome};
use crate::output;
use crate::serving::{self, Place};
use crate::words::Word;
use falaj_artifact::{Catalog, Import, Layout, ModelFiles, Verified};
use falaj_kernels::Pool;
use falaj_protocol::jobs::Progress;
use falaj_train::recipe::Method;
use falaj_train::run::Surroundings;
use falaj_train::{ExportFormat, Finished, Job, Recipe};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

pub fn train(context: &Context, options: &Train) -> Outcome {
    let shown = options.recipe.display().to_string();
    let text = std::fs::read_to_string(&options.recipe).or_fail(|| format!("`{shown}`"))?;
    let recipe = Recipe::parse(&text).map_err(|error| {
        Failure::usage(Word::TrainRecipeBad.with(&[&shown, &error.to_string()])).next(Word::TrainRecipeNext.text())
    })?;
    if options.print {
        output::piece(&recipe.resolved());
        return Ok(());
    }
    let beside = options.recipe.parent().unwrap_or(Path::new("")).to_path_buf();
    let folder = options.out.clone().unwrap_or_else(|| beside.join(&recipe.name));
    let mut recipe = recipe.relative_to(&beside);
    let named = Named::find(context, &recipe)?;
    named.let_it_be_served(&mut recipe);
    let job = named.job(context, &recipe);

    let cancelled = Arc::new(AtomicBool::new(false));
    stop_on_signal(&cancelled)?;
    let view = View::new(context.json, &folder);
    let began = Instant::now();
    let mut watch = |progress: &Progress| view.show(progress);
    let clock = || began.elapsed().as_secs_f64();
    let surroundings = Surroundings { folder: &folder, watch: &mut watch, cancelled: &cancelled, clock: &clock };
    let finished = job.run(surroundings)?;
    drop(view);
    let Finished::Done { exports, .. } = finished else { return Ok(()) };
    for (format, path, distance) in &exports {
        let path = folder.join(path);
        if context.json {
            output::json(&json!({ "event": "export", "format": format.name(), "path": path, "logits_off": distance }));
        } else {
            let path = path.display().to_string();
            output::line(&Word::TrainExport.with(&[format.name(), &path, &format!("{distance:.4}")]));
        }
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

/// How a job goes: a line that changes for people, lines of JSON for programs.
struct View {
    json: bool,
    folder: String,
    bar: ProgressBar,
}

impl View {
    fn new(json: bool, folder: &Path) -> Self {
        let style = ProgressStyle::with_template("{wide_bar} {msg}").unwrap_or_else(|_| ProgressStyle::default_bar());
        Self { json, folder: folder.display().to_string(), bar: ProgressBar::new(0).with_style(style) }
    }

    fn show(&self, progress: &Progress) {
        if self.json {
            output::json(&json!(progress));
            return;
        }
        match progress {
            Progress::Validated { rows, tokens_per_step, steps, .. } => {
                self.bar.set_length(*steps);
                let [rows, steps, tokens] = [rows, steps, tokens_per_step].map(u64::to_string);
                output::line(&Word::TrainPlan.with(&[&rows, &steps, &tokens, &self.folder]));
            }
            Progress::Step { step, steps, loss, tokens_per_second, seconds_left, .. } => {
                self.bar.set_position(*step);
                let [step, steps] = [step, steps].map(u64::to_string);
                let (loss, speed) = (format!("{loss:.3}"), format!("{tokens_per_second:.0}"));
                let text = Word::TrainStep.with(&[&step, &steps, &loss, &speed, &clock(*seconds_left)]);
                self.bar.set_message(text);
            }
            Progress::Evaluation { step, loss, accuracy } => {
                let (loss, right) = (format!("{loss:.3}"), format!("{:.1}", accuracy * 100.0));
                self.bar.suspend(|| output::line(&Word::TrainHeldOut.with(&[&step.to_string(), &loss, &right])));
            }
            Progress::Stopped { step } => {
                self.bar.suspend(|| output::line(&Word::TrainStopped.with(&[&step.to_string()])));
            }
            // A failure is told once, by the command's end.
            Progress::Checkpoint { .. } | Progress::Done { .. } | Progress::Failed { .. } => {}
        }
    }
}

impl Drop for View {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// `h:mm:ss`
fn clock(seconds: f64) -> String {
    let seconds = seconds.max(0.0) as u64;
    format!("{}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}
