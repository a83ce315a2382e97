//! What a job is asked to do: the file of `falaj train RECIPE.toml`. A dozen lines suffice; [`Recipe::resolved`] prints every
//! default that was taken. An unknown key is an error that names its line and the nearest known one: a typo in a learning
//! rate must not pass for a learning rate. How values are read is in `recipe/section.rs`, what they mean in `recipe/read.rs`.

mod read;
mod section;
mod settings;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::data::Batches;
use crate::{ExportFormat, Target};
pub use section::{RecipeError, RecipeProblem};

/// A job, every choice made.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Recipe {
    /// Of the model or adapter that comes out.
    pub name: String,
    pub method: Method,
    /// The model to start from: a name of the catalog, or a path. None: from nothing, in the sizes of `model`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base: Option<String>,
    /// Same recipe, seed and kind of machine: same bits.
    pub seed: u64,
    /// 0 takes one per usable core.
    pub threads: usize,
    pub data: Data,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<Sizes>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lora: Option<Adapter>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dpo: Option<Dpo>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub distill: Option<Distill>,
    pub batch: Batch,
    pub optimizer: Optimizer,
    pub schedule: Schedule,
    pub evaluate: Evaluate,
    pub checkpoint: Checkpoint,
    pub early_stop: EarlyStop,
    pub export: Export,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// A new model from random weights.
    Pretrain,
    /// All weights of the base.
    Full,
    /// Low-rank matrices beside the base's.
    Lora,
    /// The same over a base that stays quantised.
    Qlora,
    /// Preference pairs. Source: Rafailov et al. 2023.
    Dpo,
    /// The base learns a larger model's distribution. Source: Hinton et al. 2015.
    Distill,
}

/// Files are relative to the recipe's folder.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Data {
    /// Most share of lines that may be wrong; they are left out and counted.
    pub bad_lines: f64,
    /// Share of the training rows that is held out when `validation` names no file. Rows of equal content stay together.
    pub hold_out: f64,
    /// Several short rows share one row of the batch, without seeing each other.
    pub pack: bool,
    pub too_long: TooLong,
    pub train: Vec<DataFile>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub validation: Vec<DataFile>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DataFile {
    pub path: PathBuf,
    /// Share of the batch's rows that come from here. Either all files have one or none: then shares follow their sizes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<f64>,
    /// What the file must be, in hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
}

/// What becomes of a row longer than `batch.length`. Plain text is always split.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TooLong {
    /// Left out, and counted.
    Drop,
    /// Cut at its end.
    Cut,
    /// An error.
    Refuse,
}

/// A decoder from nothing. Letters as in `falaj_model::Config`; the vocabulary is the tokenizer's.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Sizes {
    /// A model to take tokenizer and chat template from (a name or a path), or the path of a `tokenizer.json`.
    pub tokenizer: String,
    pub layers: usize,
    pub hidden: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub ffn: usize,
    /// Positions that the model is made for.
    pub context: usize,
    pub rope_theta: f64,
    pub norm_eps: f64,
    pub tied_head: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Adapter {
    pub rank: usize,
    pub alpha: f64,
    pub dropout: f64,
    /// Of q, k, v, o, gate, up, down.
    pub targets: Vec<Target>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Dpo {
    /// How strongly the model is held to the base.
    pub beta: f64,
    /// Share of pairs that are taken to be labelled the wrong way round.
    pub label_smoothing: f64,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Distill {
    /// The larger model: a name or a path. It must have the same vocabulary.
    pub teacher: String,
    pub temperature: f64,
    /// Of the teacher's distribution in the loss; the rest is the data's own next token.
    pub share: f64,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Batch {
    /// Rows that go through the model at once.
    pub rows: usize,
    /// Tokens in a row; even.
    pub length: usize,
    /// Such batches in a step: memory of one, gradient of all.
    pub accumulate: usize,
    /// How often the data is seen, when `steps` is 0.
    pub epochs: f64,
    /// 0: as many as `epochs` takes.
    pub steps: u64,
    /// Activations are computed again instead of kept: less memory, about a third more time.
    pub recompute: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Optimizer {
    pub kind: OptimizerKind,
    /// At its highest; for muon, that of its matrices.
    pub learning_rate: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub epsilon: f64,
    /// Decoupled; not on norms and vectors.
    pub weight_decay: f64,
    /// Largest norm of all gradients together; 0 leaves them.
    pub clip: f64,
    /// Of muon's matrices.
    pub momentum: f64,
    /// With muon: the rate of all that is no matrix inside the layers, by AdamW.
    pub adamw_learning_rate: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerKind {
    /// Source: Loshchilov & Hutter 2019.
    Adamw,
    /// Source: Jordan et al. 2024.
    Muon,
}

/// Of the learning rate.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Schedule {
    pub kind: ScheduleKind,
    /// Share of the steps over which it rises from 0.
    pub warmup: f64,
    /// Of wsd: share of the steps at the end over which it falls.
    pub decay: f64,
    /// Share of the highest rate at which it ends.
    pub floor: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ScheduleKind {
    Constant,
    Linear,
    Cosine,
    /// Warm-up, stable, decay.
    Wsd,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Evaluate {
    /// Steps between evaluations; 0: only at the end.
    pub every: u64,
    /// Most rows of the held-out data that are looked at; 0: all.
    pub rows: usize,
    /// Prompts that the model answers at each evaluation, for people to read.
    pub samples: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Checkpoint {
    /// Another job's folder, whose last checkpoint this one begins with: its weights, optimiser and step, and from there on this
    /// recipe's rates. So a decay can be cut from a run at a stable rate, which goes on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<PathBuf>,
    /// Steps between checkpoints.
    pub every: u64,
    /// How many are kept.
    pub keep: usize,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EarlyStop {
    /// Evaluations without improvement after which the job ends with its best checkpoint; 0: never.
    pub patience: u64,
    /// By how much the held-out loss must fall to count.
    pub improvement: f64,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Export {
    /// Of safetensors, peft, f16, q8_0, q4_0, q4_k_m (the last four as GGUF); all but peft are the whole model, adapters merged.
    pub formats: Vec<ExportFormat>,
}

impl Recipe {
    /// # Errors
    /// Every problem of the text, each with its line.
    pub fn parse(text: &str) -> Result<Self, RecipeError> {
        read::read(text)
    }

    /// The same with every default written out; reading it gives the same recipe.
    pub fn resolved(&self) -> String {
        // The types hold nothing that TOML cannot say.
        toml::to_string(self).unwrap_or_default()
    }

    /// Takes the files to be relative to `folder`.
    pub fn relative_to(mut self, folder: &Path) -> Self {
        for file in self.data.train.iter_mut().chain(&mut self.data.validation) {
            file.path = folder.join(&file.path);
        }
        self.checkpoint.from = self.checkpoint.from.map(|from| folder.join(from));
        self
    }

    /// How many steps the job takes over `batches`.
    pub fn steps(&self, batches: &Batches) -> u64 {
        if self.batch.steps > 0 { self.batch.steps } else { batches.steps(self.batch.epochs) }
    }

    /// Whether low-rank matrices are trained rather than the base's own.
    pub fn trains_adapter(&self) -> bool {
        self.lora.is_some()
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    const SHORT: &str = r#"
name = "helpdesk"
base = "falaj-seed"
method = "lora"

[data]
train = "talks.jsonl"
"#;

    fn problems(text: &str, expected: Expect) {
        let error = Recipe::parse(text).map(|recipe| recipe.resolved()).unwrap_err();
        expected.assert_eq(&error.to_string());
    }

    #[test]
    fn five_lines_are_a_recipe_and_every_default_is_printed() {
        let recipe = Recipe::parse(SHORT).unwrap();
        assert!(recipe.trains_adapter());
        expect![[r#"
            name = "helpdesk"
            method = "lora"
            base = "falaj-seed"
            seed = 0
            threads = 0

            [data]
            bad_lines = 0.0
            hold_out = 0.05
            pack = true
            too_long = "drop"

            [[data.train]]
            path = "talks.jsonl"

            [lora]
            rank = 16
            alpha = 32.0
            dropout = 0.0
            targets = ["q", "k", "v", "o", "gate", "up", "down"]

            [batch]
            rows = 8
            length = 512
            accumulate = 1
            epochs = 3.0
            steps = 0
            recompute = false

            [optimizer]
            kind = "adamw"
            learning_rate = 0.0003
            beta1 = 0.9
            beta2 = 0.999
            epsilon = 0.00000001
            weight_decay = 0.0
            clip = 1.0
            momentum = 0.95
            adamw_learning_rate = 0.0003

            [schedule]
            kind = "cosine"
            warmup = 0.05
            decay = 0.2
            floor = 0.1

            [evaluate]
            every = 50
            rows = 64
            samples = []

            [checkpoint]
            every = 100
            keep = 2

            [early_stop]
            patience = 0
            improvement = 0.0

            [export]
            formats = ["peft"]
        "#]]
        .assert_eq(&recipe.resolved());
    }

    #[test]
    fn what_is_printed_reads_back() {
        let long = r#"
            name = "new"
            method = "pretrain"
            seed = 20
            threads = 2
            [model]
            tokenizer = "falaj-seed"
            layers = 8
            hidden = 256
            heads = 4
            kv_heads = 2
            head_dim = 64
            ffn = 768
            context = 2048
            [data]
            validation = ["held.txt"]
            [[data.train]]
            path = "en.txt"
            weight = 2
            sha256 = "a6031e7dbdc332937b268395bff366631b87c5e251c59ea0301a8e2d27251a80"
            [[data.train]]
            path = "ar.txt"
            weight = 1.5
            [optimizer]
            kind = "muon"
            [schedule]
            kind = "wsd"
            [batch]
            steps = 945
            [evaluate]
            samples = ["Bonjour \"toi\"", "مرحبا"]
            [checkpoint]
            from = "../stable"
            [export]
            formats = ["safetensors", "q8_0", "q4_k_m", "f16", "gguf-q4_0"]
        "#;
        for text in [
            SHORT.to_owned(),
            long.to_owned(),
            SHORT.replace("lora", "full"),
            SHORT.replace("lora", "qlora"),
            SHORT.replace("lora", "dpo"),
            format!("{}[distill]\nteacher = \"big\"\n", SHORT.replace("\"lora\"", "\"distill\"")),
        ] {
            let recipe = Recipe::parse(&text).unwrap();
            assert_eq!(Recipe::parse(&recipe.resolved()).unwrap(), recipe, "{}", recipe.resolved());
        }
        let recipe = Recipe::parse(long).unwrap();
        assert_eq!((recipe.optimizer.learning_rate, recipe.data.train[1].weight), (0.001, Some(1.5)));
        let recipe = recipe.relative_to(Path::new("/srv/jobs"));
        assert_eq!(recipe.data.train[0].path, Path::new("/srv/jobs/en.txt"));
        assert_eq!(recipe.checkpoint.from.as_deref(), Some(Path::new("/srv/jobs/../stable")));
    }

    #[test]
    fn every_problem_is_told_with_its_line() {
        problems(
            r#"
name = "x y/../"
base = "falaj-seed"
method = "lorra"
sed = 3
[data]
train = []
[batch]
rows = 0
length = 511
epoch = 3
steps = "many"
[optimiser]
learning_rate = 1e-3
[optimizer]
learning_rate = 12
[schedule]
kind = "cosin"
"#,
            expect![[r#"
                line 2: `name` is `x y/../`; write letters, digits, `.`, `-`, `_`, at most 64
                line 4: `method` is `lorra`; did you mean `lora`?
                line 5: `sed` is unknown; did you mean `seed`?
                line 7: `data.train` names no file
                line 9: `batch.rows` is 0; write a whole number from 1 to 4096
                line 10: `batch.length` is 511; write an even number
                line 11: `batch.epoch` is unknown; did you mean `batch.epochs`?
                line 12: `batch.steps` is a string; write a whole number from 0 to 1000000000
                line 13: `optimiser` is unknown; did you mean `optimizer`?
                line 16: `optimizer.learning_rate` is 12; write a number from 0.00000001 to 1
                line 18: `schedule.kind` is `cosin`; did you mean `cosine`?"#]],
        );
    }

    #[test]
    fn sections_that_do_not_belong_to_the_method_are_refused() {
        problems(
            "name = \"x\"\nmethod = \"full\"\n[data]\ntrain = \"a\"\n[lora]\nrank = 4\n[model]\nlayers = 1\n",
            expect![[r#"
                line 1: `base` is missing: the model to start from, such as `base = "falaj-seed"`
                line 5: `lora` does not belong to method `full`; take it out, or choose `lora`, `qlora`, `dpo` or `distill`
                line 7: `model` does not belong to method `full`; take it out, or choose `pretrain`"#]],
        );
        problems(
            "name = \"x\"\nmethod = \"pretrain\"\nbase = \"y\"\n[data]\ntrain = \"a\"\nvalidation = \"a\"\n[export]\nformats = [\"peft\"]",
            expect![[r#"
                line 1: `model` is missing: the sizes of the new model
                line 3: `base` does not belong to method `pretrain`; take it out, or choose `full` to go on with a model
                line 6: `data.validation` names `a`, which is also trained on
                line 8: `export.formats` has `peft`, but the job trains no adapter; write `safetensors`"#]],
        );
        problems(
            "name = \"x\"\nbase = \"y\"\nmethod = \"lora\"\n[data]\ntrain = [{ path = \"a\", weight = 1 }, { path = \"b\" }]\n[lora]\ntargets = [\"q_proj\", \"query\"]",
            expect![[r#"
                line 5: `data.train` gives a weight to some files only; give one to each or to none
                line 7: `lora.targets` has `query`; write one of `q`, `k`, `v`, `o`, `gate`, `up`, `down`"#]],
        );
    }

    #[test]
    fn broken_files_are_told_not_crashed_on() {
        for text in [
            "",
            "=",
            "name = ",
            "[[data]]",
            "name = 1e999",
            "[data.train.x]",
            "data = 3",
            "name = \"\\ud800\"",
            "[lora\n",
        ] {
            assert!(!Recipe::parse(text).unwrap_err().to_string().is_empty(), "{text}");
        }
        problems("x = [", expect!["line 1: unclosed array, expected `]`"]);
    }
}
