//! A job from its recipe to its exports: data is prepared once, the loop runs (`run.rs`), and what was asked for is written into the
//! job's folder. Called again on the same folder it goes on where it was. Who finds models by name is outside.

use std::fs;
use std::path::{Path, PathBuf};

use falaj_artifact::gguf::Gguf;
use falaj_artifact::{Layout, ModelFiles, Verified};
use falaj_kernels::Ops;
use falaj_model::parameters;
use falaj_protocol::jobs::Progress;
use falaj_text::ModelText;
use serde::{Deserialize, Serialize};

use crate::data::{DataFacts, Drawn, Encoder, Prepared};
use crate::disk::Disk;
use crate::export::check_words;
use crate::recipe::Method;
use crate::run::{Learning, Outcome, Steps, Summary, Surroundings, run};
use crate::{Arena, Checkpoints, Export, ExportFormat, Recipe, Record, Samples, Start, Teacher, TrainError, Trainer};

/// What a recipe names, found and verified.
#[derive(Clone, Copy, Debug)]
pub struct Job<'a> {
    pub recipe: &'a Recipe,
    /// The model to start from; of a model from nothing the one that gives the tokenizer.
    pub base: &'a Verified<ModelFiles>,
    pub teacher: Option<&'a Verified<ModelFiles>>,
    pub threads: usize,
}

/// What came out of a job.
#[derive(Clone, Debug, PartialEq)]
pub enum Finished {
    /// Folders below the job's, one for each format of the recipe, with how far each one's logits lie from the trainer's.
    Done {
        exports: Vec<(ExportFormat, PathBuf, f32)>,
        summary: Summary,
    },
    Stopped {
        step: u64,
    },
}

impl Job<'_> {
    /// Runs to the end, or until it is cancelled. In the folder of `surroundings`: `data/`, `checkpoints/`, `events.jsonl`, and
    /// `out/` with a folder for each format.
    ///
    /// # Errors
    /// Everything that [`TrainError`] knows.
    pub fn run(&self, surroundings: Surroundings<'_>) -> Result<Finished, TrainError> {
        let Surroundings { folder, watch, cancelled, clock, energy } = surroundings;
        let Self { recipe, threads, .. } = *self;
        let Ready { encoder, facts, mut drawn, steps } = self.ready(folder)?;
        (*watch)(&self.validated(&facts, &drawn, steps));

        let settings = recipe.settings(steps, threads);
        let max_tokens = settings.max_tokens;
        let mut trainer = Trainer::new(self.start(&encoder)?, settings)?;
        let mut teacher = None;
        let learning = match (recipe.preference(), recipe.distillation()) {
            (Some(preference), _) if recipe.method == Method::Dpo => Learning::Preferences(preference),
            (_, Some(distillation)) if recipe.method == Method::Distill => {
                let files =
                    self.teacher.ok_or(TrainError::Unsupported { feature: "distillation without a teacher" })?;
                let (config, params) = parameters(files, &Ops::best())?;
                let teacher = teacher.insert(Teacher::new(&config, params, max_tokens, threads)?);
                Learning::Teacher(teacher, distillation)
            }
            _ => Learning::Tokens,
        };
        if let Some(from) = &recipe.checkpoint.from {
            let own = Checkpoints::new(folder.join("checkpoints"), recipe.checkpoint.keep);
            own.branch(&Checkpoints::new(from.join("checkpoints"), 1), &mut trainer)?;
        }
        let probe = drawn.step(0)?.first().map(|batch| batch.tokens.clone()).unwrap_or_default();
        let order = drawn.train.order_digest(steps);
        let plan = recipe.plan();
        let mut surroundings = Surroundings { folder, watch, cancelled, clock, energy };
        let summary = match run(&mut trainer, &mut drawn, learning, &plan, surroundings.again())? {
            Outcome::Stopped { step } => return Ok(Finished::Stopped { step }),
            Outcome::Done(summary) => summary,
        };

        let record = Record {
            version: Record::VERSION,
            base_digest: (recipe.method != Method::Pretrain).then(|| self.base.digest().to_string()),
            data_digest: facts.train.sha256.map(|digest| digest.to_string()).unwrap_or_default(),
            order_digest: order.to_string(),
            seed: recipe.seed,
            recipe: serde_json::to_value(recipe).unwrap_or_default(),
            data: serde_json::to_value(&facts).unwrap_or_default(),
            code_version: env!("CARGO_PKG_VERSION").to_owned(),
            numerics: trainer.numerics(),
            summary,
        };
        let base_name = recipe.base.as_deref().unwrap_or_default();
        let export =
            Export { base: Some(self.base), name: &recipe.name, base_name, record: Some(&record), probe: &probe };
        let mut exports = Vec::new();
        for &format in &recipe.export.formats {
            let target = Path::new("out").join(format.name());
            let distance = export.write(&mut trainer, format, &folder.join(&target))?;
            exports.push((format, target, distance));
        }
        // A model that can be served as it is, where there is one.
        let whole = exports.iter().find(|(format, ..)| *format != ExportFormat::Peft);
        if let Some((_, model, _)) = whole.or(exports.first()) {
            let model = model.to_string_lossy().into_owned();
            let Summary { trained_tokens, energy, .. } = summary;
            (surroundings.watch)(&Progress::Done { model, trained_tokens, energy });
        }
        Ok(Finished::Done { exports, summary })
    }

    /// Prepares the data in the folder, as the job itself would, and says what there is to do.
    ///
    /// # Errors
    /// Those of data and disk.
    pub fn check(&self, folder: &Path) -> Result<Progress, TrainError> {
        let Ready { facts, drawn, steps, .. } = self.ready(folder)?;
        Ok(self.validated(&facts, &drawn, steps))
    }

    fn ready(&self, folder: &Path) -> Result<Ready, TrainError> {
        fs::create_dir_all(folder).map_err(TrainError::io("create", folder))?;
        self.same_base(folder)?;
        let data = folder.join("data");
        let encoder = Encoder::new(&text(self.base)?);
        for format in &self.recipe.export.formats {
            check_words(self.base, *format, encoder.tokenizer().vocab_size())?;
        }
        let prepared = self.prepared(folder, &data, &encoder)?;
        let facts = prepared.facts.clone();
        let mut drawn = prepared.batches(self.recipe, 0)?;
        drawn.samples = Samples::new(&encoder, self.recipe)?;
        let steps = self.recipe.steps(&drawn.train);
        Ok(Ready { encoder, facts, drawn, steps })
    }

    /// What an earlier run prepared if it is of this recipe and these files; made anew otherwise, unless steps were taken with it.
    fn prepared(&self, folder: &Path, data: &Path, encoder: &Encoder) -> Result<Prepared, TrainError> {
        if Prepared::is_in(data) {
            let trained = !Checkpoints::new(folder.join("checkpoints"), 1).list()?.is_empty();
            let prepared = Prepared::open(data)?;
            match prepared.differs(self.recipe, trained)? {
                None => return Ok(prepared),
                Some(what) if trained => return Err(TrainError::OtherData { folder: folder.to_path_buf(), what }),
                Some(_) => fs::remove_dir_all(data).map_err(TrainError::io("remove", data))?,
            }
        }
        fs::create_dir_all(data).map_err(TrainError::io("create", data))?;
        Prepared::make(self.recipe, encoder, data, self.threads, &mut |_| ())
    }

    fn validated(&self, facts: &DataFacts, drawn: &Drawn, steps: u64) -> Progress {
        let batch = &self.recipe.batch;
        Progress::Validated {
            rows: drawn.train.rows(),
            data_tokens: facts.train.learnt,
            tokens_per_step: (batch.rows * batch.length * batch.accumulate) as u64,
            steps,
            expected_seconds: None,
        }
    }

    fn start(&self, encoder: &Encoder) -> Result<Start, TrainError> {
        let recipe = self.recipe;
        if recipe.method == Method::Pretrain {
            let config = recipe.config(encoder.tokenizer().vocab_size());
            let config = config.ok_or(TrainError::Unsupported { feature: "a model of unknown size" })?;
            return Ok(Start::Full(Arena::random(&config, recipe.seed)?));
        }
        let ops = Ops::best();
        let (config, base) = parameters(self.base, &ops)?;
        Ok(match recipe.adapter() {
            Some(lora) => Start::Lora { config, base, lora },
            None => Start::Full(Arena::of(&config, &base, &ops)?),
        })
    }

    /// Writes down which base the job began with, or compares.
    fn same_base(&self, folder: &Path) -> Result<(), TrainError> {
        let path = folder.join("base").join("base.json");
        let found = self.base.digest().to_string();
        match fs::read(&path) {
            Ok(bytes) => {
                let began = serde_json::from_slice::<Began>(&bytes)
                    .map_err(|error| TrainError::Checkpoint { path: path.clone(), problem: error.to_string() })?;
                if began.base_digest != found {
                    return Err(TrainError::BaseChanged { expected: began.base_digest, found });
                }
                Ok(())
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let pending = Disk::real().begin(&folder.join("base"))?;
                pending.file("base.json", |out| {
                    let text = serde_json::to_string(&Began { base_digest: found }).unwrap_or_default();
                    out.write_all(text.as_bytes()).map_err(TrainError::io("write", &path))
                })?;
                pending.publish()?;
                Ok(())
            }
            Err(error) => Err(TrainError::io("read", &path)(error)),
        }
    }
}

/// A job before its first step.
struct Ready {
    encoder: Encoder,
    facts: DataFacts,
    drawn: Drawn,
    steps: u64,
}

#[derive(Serialize, Deserialize)]
struct Began {
    base_digest: String,
}

/// The tokenizer and the chat format of a model.
fn text(files: &Verified<ModelFiles>) -> Result<ModelText, TrainError> {
    let of_gguf = |bytes: &[u8]| Ok(ModelText::from_gguf(&Gguf::parse(bytes)?)?);
    match (files.embedded(), files.layout()) {
        (Some(bytes), _) => of_gguf(bytes),
        (None, Some(Layout::Gguf(path))) => of_gguf(&fs::read(path).map_err(TrainError::io("read", path))?),
        (None, Some(layout)) => {
            let names = files.names().map(str::to_owned).collect();
            Ok(ModelText::from_dir(layout.dir(), &names)?)
        }
        (None, None) => Err(TrainError::Unsupported { feature: "a model without files" }),
    }
}
