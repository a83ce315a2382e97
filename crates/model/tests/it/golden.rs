//! Against PyTorch: the figures in `tests/golden`, made by the script beside them from the same hashed weights.
//!
//! Bounds: the reference itself is within 1.3e-6 of its own float64 figures; ours may be off by `F32_BOUND` with f32 keys
//! and values, and by `F16_BOUND` with the f16 cache that serves, whose rounding is 2^-11 of each value. The bounds of BF16
//! (measured: up to 5.3e-3) and I8 (1.3e-2) follow from their coarser rounding. A wrong setting moves logits by 0.1 at
//! least (see the README there).

use falaj_kernels::{Format, KvFormat};
use falaj_model::synthetic::Checkpoint;
use falaj_model::{Config, Model, Naming, Slot};
use serde::Deserialize;

use crate::run::{load_gguf, logits};

const F32_BOUND: f32 = 1e-5;
const F16_BOUND: f32 = 2e-3;
const BF16_BOUND: f32 = 1e-2;
const I8_BOUND: f32 = 3e-2;

macro_rules! golden {
    ($($name:ident)*) => { $(
        #[test]
        fn $name() {
            check(include_str!(concat!("../golden/", stringify!($name), ".json")));
        }
    )* };
}
golden!(llama_gqa llama_tied_wide llama3_rope yarn_rope mistral_window mixtral);

fn check(json: &str) {
    let golden = Golden::parse(json);
    let checkpoint = golden.checkpoint();
    golden.check_weights(&checkpoint);

    // The names and the RoPE layout of Hugging Face, of Mistral and of GGUF.
    let bytes = checkpoint.safetensors(Naming::HuggingFace, Format::F32).unwrap();
    let hugging_face = crate::hostile::load_directory(&[
        ("config.json", golden.config.get().as_bytes()),
        ("model.safetensors", &bytes),
    ])
    .unwrap();
    golden.check_logits("hugging face", &hugging_face, KvFormat::F32, F32_BOUND);
    golden.check_logits("hugging face, f16 cache", &hugging_face, KvFormat::F16, F16_BOUND);
    golden.check_logits("hugging face, bf16 cache", &hugging_face, KvFormat::BF16, BF16_BOUND);
    golden.check_logits("hugging face, i8 cache", &hugging_face, KvFormat::I8, I8_BOUND);

    let gguf = load_gguf(checkpoint.gguf(|_| Format::F32).unwrap(), None).unwrap();
    golden.check_logits("gguf", &gguf, KvFormat::F32, F32_BOUND);
}

/// One file of `tests/golden`.
#[derive(Deserialize)]
pub struct Golden {
    config: Box<serde_json::value::RawValue>,
    pub tokens: Vec<u32>,
    argmax: Vec<usize>,
    argmax_gap: f32,
    checks: Vec<Check>,
    samples: Vec<Sample>,
    last: Last,
}

#[derive(Deserialize)]
struct Check {
    name: String,
    index: usize,
    value: f32,
}

#[derive(Deserialize)]
struct Sample {
    position: usize,
    logits: Vec<(usize, f32)>,
}

#[derive(Deserialize)]
struct Last {
    position: usize,
    logits: Vec<f32>,
}

impl Golden {
    pub fn parse(json: &str) -> Self {
        serde_json::from_str(json).unwrap()
    }

    pub fn checkpoint(&self) -> Checkpoint {
        Checkpoint::new(Config::from_hugging_face(self.config.get().as_bytes()).unwrap(), 0).unwrap()
    }

    fn check_weights(&self, checkpoint: &Checkpoint) {
        for check in &self.checks {
            let slot =
                Slot::all(checkpoint.config()).into_iter().find(|slot| Naming::HuggingFace.name(*slot) == check.name);
            assert_eq!(checkpoint.values(slot.unwrap())[check.index], check.value, "{}", check.name);
        }
    }

    fn check_logits(&self, what: &str, model: &Model, cache: KvFormat, bound: f32) {
        let ours = logits(model, &self.tokens, cache, 11);
        let samples = self
            .samples
            .iter()
            .flat_map(|sample| sample.logits.iter().map(|(token, value)| (sample.position, *token, *value)));
        let last = self.last.logits.iter().enumerate().map(|(token, value)| (self.last.position, token, *value));
        let mut worst: f32 = 0.0;
        for (position, token, expected) in samples.chain(last) {
            worst = worst.max((ours[position][token] - expected).abs());
        }
        println!("{what}: largest difference {worst:.2e}");
        assert!(worst <= bound, "{what}: {worst:e} is above {bound:e}");
        if 2.0 * bound < self.argmax_gap {
            let argmax = |row: &Vec<f32>| (0..row.len()).max_by(|a, b| row[*a].total_cmp(&row[*b])).unwrap();
            assert_eq!(ours.iter().map(argmax).collect::<Vec<_>>(), self.argmax, "{what}");
        }
    }
}
