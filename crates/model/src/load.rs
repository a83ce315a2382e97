//! From verified files to a model: opens and maps them, reads configuration and index, and fills the parameter tree. The
//! weights' bytes are never copied; they stay in the mapping or in the executable.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use falaj_artifact::gguf::Gguf;
use falaj_artifact::safetensors::SafetensorsIndex;
use falaj_artifact::{Digest, Layout, ModelFiles, Verified};
use falaj_kernels::{Isa, MappedFile, Ops};
use falaj_tensor::SharedBytes;

use crate::naming::Naming;
use crate::rope::Frequencies;
use crate::tensors::Tensors;
use crate::{Config, Model, ModelError, Params, RopeScaling};

/// How to run a model, as opposed to what it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct LoadOptions {
    /// Which instructions to use; `None`: the best that this CPU has.
    pub isa: Option<Isa>,
}

/// Loads a model whose files were verified.
///
/// # Errors
/// Files that cannot be read or do not hold together; see [`ModelError`].
pub fn load(files: &Verified<ModelFiles>, options: LoadOptions) -> Result<Model, ModelError> {
    let source = match (files.layout(), files.embedded()) {
        (_, Some(bytes)) => Source::gguf(SharedBytes::new(bytes))?,
        (Some(Layout::Gguf(path)), None) => Source::gguf(map(path)?)?,
        (Some(layout @ Layout::HuggingFace { config, .. }), None) => {
            Source::safetensors(Config::from_hugging_face(&read(config)?)?, Naming::HuggingFace, layout)?
        }
        (Some(layout @ Layout::Mistral { params, .. }), None) => {
            Source::safetensors(Config::from_mistral(&read(params)?)?, Naming::Mistral, layout)?
        }
        (None, None) => return Err(ModelError::Unsupported { feature: "no files".into() }),
    };
    source.into_model(options, Some(files.digest()))
}

/// A model's parts before they are put together.
pub(crate) struct Source {
    config: Config,
    naming: Naming,
    tensors: Tensors,
}

impl Source {
    pub(crate) fn gguf(file: SharedBytes) -> Result<Self, ModelError> {
        let gguf = Gguf::parse(&file)?;
        let config = Config::from_gguf(&gguf)?;
        let mut tensors = Tensors::default();
        tensors.add(&file, gguf.tensors)?;
        Ok(Self { config, naming: Naming::Gguf, tensors })
    }

    fn safetensors(config: Config, naming: Naming, layout: &Layout) -> Result<Self, ModelError> {
        let mut tensors = Tensors::default();
        for path in layout.weights() {
            let file = map(path)?;
            let index = SafetensorsIndex::parse(&file)?;
            tensors.add(&file, index.tensors)?;
        }
        Ok(Self { config, naming, tensors })
    }

    pub(crate) fn into_model(self, options: LoadOptions, digest: Option<Digest>) -> Result<Model, ModelError> {
        let Self { mut config, naming, mut tensors } = self;
        let isa = options.isa.unwrap_or_else(Isa::best);
        if !Isa::available().contains(&isa) {
            return Err(ModelError::Isa { name: isa.to_string() });
        }
        let ops = Ops::new(isa);
        if naming == Naming::Gguf && tensors.contains(ROPE_FACTORS) {
            let factors = tensors.take(ROPE_FACTORS, &[config.head_dim / 2])?.dequantize(&ops);
            config = config.with_rope_factors(factors)?;
        }
        let params = Params::read(&config, &mut tensors, naming, &ops)?;
        let frequencies = Frequencies::new(&config.rope, config.head_dim);
        Ok(Model { config, params, frequencies, ops, digest })
    }
}

impl Config {
    fn with_rope_factors(mut self, factors: Vec<f32>) -> Result<Self, ModelError> {
        if self.rope.scaling != RopeScaling::None {
            return Err(ModelError::Unsupported { feature: format!("both `{ROPE_FACTORS}` and another RoPE scaling") });
        }
        self.rope.scaling = RopeScaling::Factors(factors);
        self.checked()
    }
}

fn map(path: &Path) -> Result<SharedBytes, ModelError> {
    let file = MappedFile::open(path).map_err(|source| ModelError::Io { path: path.to_path_buf(), source })?;
    Ok(SharedBytes::new(file))
}

fn read(path: &Path) -> Result<Vec<u8>, ModelError> {
    let failed = |source| ModelError::Io { path: path.to_path_buf(), source };
    let mut bytes = Vec::new();
    File::open(path).map_err(failed)?.take(CONFIG_LIMIT_BYTES).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

/// Real ones have a few kilobytes; what lies beyond is cut off and fails as JSON.
const CONFIG_LIMIT_BYTES: u64 = 16 << 20;
/// GGUF's tensor of RoPE frequency divisors, one per pair of head elements.
const ROPE_FACTORS: &str = "rope_freqs.weight";
