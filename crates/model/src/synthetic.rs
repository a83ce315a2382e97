//! Models made of a hash instead of training: for tests of everything above the kernels, here and in other crates. The
//! formula is shared with `tests/golden/make_golden.py`, so that PyTorch computes with the same weights.

mod adapter;

use falaj_kernels::{Format, Isa, Ops, RopeLayout};
use falaj_tensor::SharedBytes;

use crate::export::Source;
use crate::load;
use crate::{Config, LoadOptions, Model, ModelError, Naming, RopeScaling, Slot};

pub use adapter::AdapterSample;

/// A model of this configuration with weights that depend on `seed` only, in f32, made through the ordinary loader. Its
/// context, sizes and scaling are the configuration's; the RoPE layout becomes GGUF's.
///
/// # Errors
/// As [`crate::load()`], for configurations that no file could hold either.
pub fn synthetic(config: &Config, seed: u64) -> Result<Model, ModelError> {
    let file = Checkpoint::new(config.clone(), seed)?.gguf(|_| Format::F32)?;
    load::Source::gguf(SharedBytes::new(file))?.into_model(LoadOptions::default(), None)
}

/// A small decoder for tests: 2 layers, 4 heads over 2 key and value heads, untied.
pub fn tiny_config(vocab_size: usize, context_tokens: usize) -> Config {
    Config {
        vocab_size,
        hidden_size: 64,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        head_dim: 16,
        ffn_size: 128,
        norm_eps: 1e-5,
        rope: crate::Rope { theta: 10_000.0, layout: RopeLayout::Halves, scaling: RopeScaling::None },
        sliding_window: None,
        tied_head: false,
        experts: None,
        context_tokens,
    }
}

/// The weights of a synthetic model, to be written in any of the forms that the loader reads.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    config: Config,
    seed: u64,
}

impl Checkpoint {
    /// # Errors
    /// A configuration that no decoder can have.
    pub fn new(config: Config, seed: u64) -> Result<Self, ModelError> {
        Ok(Self { config: config.checked()?, seed })
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The values of `slot`, row-major, in Hugging Face's order of rows. The formula is in `tests/golden/README.md`.
    pub fn values(&self, slot: Slot) -> Vec<f32> {
        let shape = slot.shape(&self.config);
        let start = fnv1a64(&Naming::HuggingFace.name(slot)) ^ self.seed;
        let unit = |i: usize| (splitmix64(start.wrapping_add(i as u64)) >> 40) as f32 / 16_777_216.0;
        let count = shape.iter().product();
        match shape.as_slice() {
            [_] => (0..count).map(|i| 1.0 + (unit(i) - 0.5) * 0.2).collect(),
            [.., cols] => {
                let scale = (1.0 / (*cols as f64).sqrt()) as f32 * 2.0;
                (0..count).map(|i| (unit(i) - 0.5) * scale).collect()
            }
            [] => Vec::new(),
        }
    }

    /// A whole GGUF file; `format` chooses per matrix. Norms stay f32.
    ///
    /// # Errors
    /// Rows that are no whole blocks of a format.
    pub fn gguf(&self, format: impl Fn(Slot) -> Format) -> Result<Vec<u8>, ModelError> {
        let ops = Ops::new(Isa::Scalar);
        let source = Source { config: &self.config, layout: RopeLayout::Halves, values: |slot| self.values(slot) };
        source.write_gguf(&ops, &[], format, Vec::new())
    }

    /// A whole safetensors file in the names of Hugging Face or Mistral, all tensors in `format`: F32, F16 or BF16.
    ///
    /// # Errors
    /// A format that safetensors cannot hold.
    pub fn safetensors(&self, naming: Naming, format: Format) -> Result<Vec<u8>, ModelError> {
        let ops = Ops::new(Isa::Scalar);
        let source = Source { config: &self.config, layout: RopeLayout::Halves, values: |slot| self.values(slot) };
        source.write_safetensors(&ops, naming, format, Vec::new())
    }
}

fn fnv1a64(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |h, byte| (h ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

fn splitmix64(x: u64) -> u64 {
    let z = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
