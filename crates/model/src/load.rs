//! From verified files to a model: opens and maps them, reads configuration and index, and fills the parameter tree. What
//! products read is packed into panels once, and the file's memory given back; files of panels (`optimize.rs`), embeddings
//! and floats stay in the mapping or in the executable.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use falaj_artifact::gguf::Gguf;
use falaj_artifact::safetensors::SafetensorsIndex;
use falaj_artifact::{Digest, Layout, ModelFiles, Verified};
use falaj_kernels::{Isa, MappedFile, Ops, Pool};
use falaj_tensor::SharedBytes;

use crate::naming::Naming;
use crate::optimize::PACKED_ARCHITECTURE;
use crate::rope::Frequencies;
use crate::tensors::Tensors;
use crate::{Config, Model, ModelError, Params, RopeScaling};

/// How to run a model, as opposed to what it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct LoadOptions {
    /// Which instructions to use; `None`: the best that this CPU has.
    pub isa: Option<Isa>,
    /// Threads that pack the weights; 0: as many as there are.
    pub threads: usize,
    /// Turns every matrix into F32 with the same values: the reference that formats are measured against. Takes 4 bytes for
    /// each parameter.
    pub dequantize: bool,
}

/// Loads a model whose files were verified.
///
/// # Errors
/// Files that cannot be read or do not hold together; see [`ModelError`].
pub fn load(files: &Verified<ModelFiles>, options: LoadOptions) -> Result<Model, ModelError> {
    Source::open(files)?.into_model(options, Some(files.digest()))
}

/// The configuration and the parameters of a model whose files were verified, as the files hold them: for training.
///
/// # Errors
/// As [`load()`].
pub fn parameters(files: &Verified<ModelFiles>, ops: &Ops) -> Result<(Config, Params), ModelError> {
    let Parts { config, tree } = Source::open(files)?.read(ops)?;
    Ok((config, tree))
}

/// A model's parts before they are put together.
pub(crate) struct Source {
    config: Config,
    naming: Naming,
    tensors: Tensors,
}

impl Source {
    fn open(files: &Verified<ModelFiles>) -> Result<Self, ModelError> {
        match (files.layout(), files.embedded()) {
            (_, Some(bytes)) => Self::gguf(SharedBytes::new(bytes)),
            (Some(Layout::Gguf(path)), None) => Self::gguf(map(path)?),
            (Some(layout @ Layout::HuggingFace { config, .. }), None) => {
                Self::safetensors(Config::from_hugging_face(&read(config)?)?, Naming::HuggingFace, layout)
            }
            (Some(layout @ Layout::Mistral { params, .. }), None) => {
                Self::safetensors(Config::from_mistral(&read(params)?)?, Naming::Mistral, layout)
            }
            (Some(Layout::Adapter { .. }), None) => Err(ModelError::IsAdapter),
            (None, None) => Err(ModelError::Unsupported { feature: "no files".into() }),
        }
    }

    pub(crate) fn gguf(file: SharedBytes) -> Result<Self, ModelError> {
        let gguf = Gguf::parse(&file)?;
        let config = Config::from_gguf(&gguf)?;
        let packed = gguf.get("general.architecture")? == Some(PACKED_ARCHITECTURE);
        // Panels are used where they lie, for as long as the model is.
        if !packed {
            file.read_once();
        }
        let mut tensors = Tensors::new(packed);
        tensors.add(&file, gguf.tensors)?;
        Ok(Self { config, naming: Naming::Gguf, tensors })
    }

    fn safetensors(config: Config, naming: Naming, layout: &Layout) -> Result<Self, ModelError> {
        let mut tensors = Tensors::new(false);
        for path in layout.weights() {
            let file = map(path)?;
            file.read_once();
            let index = SafetensorsIndex::parse(&file)?;
            tensors.add(&file, index.tensors)?;
        }
        Ok(Self { config, naming, tensors })
    }

    pub(crate) fn into_model(self, options: LoadOptions, digest: Option<Digest>) -> Result<Model, ModelError> {
        let isa = options.isa.unwrap_or_else(Isa::best);
        if !Isa::available().contains(&isa) {
            return Err(ModelError::Isa { name: isa.to_string() });
        }
        let ops = Ops::new(isa);
        let mut params = self.read(&ops)?;
        if options.dequantize {
            params.tree.dequantize(&ops);
        } else {
            let threads = if options.threads == 0 { Pool::available_threads() } else { options.threads };
            params.tree.pack(&ops, &Pool::new(threads))?;
        }
        let Parts { config, tree: params } = params;
        let frequencies = Frequencies::new(&config.rope, config.head_dim);
        Ok(Model { config, params, frequencies, ops, digest })
    }

    /// The parameters as the files hold them.
    pub(crate) fn read(self, ops: &Ops) -> Result<Parts, ModelError> {
        let Self { mut config, naming, mut tensors } = self;
        if naming == Naming::Gguf && tensors.contains(ROPE_FACTORS) {
            let factors = tensors.take(ROPE_FACTORS, &[config.head_dim / 2])?.dequantize(ops);
            config = config.with_rope_factors(factors)?;
        }
        let tree = Params::read(&config, &mut tensors, naming, ops)?;
        Ok(Parts { config, tree })
    }
}

/// A configuration with all that RoPE needs, and its parameters.
pub(crate) struct Parts {
    pub(crate) config: Config,
    pub(crate) tree: Params,
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

pub(crate) fn map(path: &Path) -> Result<SharedBytes, ModelError> {
    let file = MappedFile::open(path).map_err(|source| ModelError::Io { path: path.to_path_buf(), source })?;
    file.advise_needed();
    Ok(SharedBytes::mapped(file))
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
pub(crate) const ROPE_FACTORS: &str = "rope_freqs.weight";
