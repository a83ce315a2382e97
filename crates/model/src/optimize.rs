//! A model's file with its matrices in panels, so that loading maps instead of packing: a GGUF with the source's metadata
//! (tokenizer and template among it) whose architecture is [`PACKED_ARCHITECTURE`], which other programs refuse instead of
//! misreading. `falaj.layout` is the version, `falaj.architecture` the source's. Each matrix that products read is a tensor of
//! its own at a multiple of 64 bytes, listed with its rows rounded up to whole panels; experts are apart. The rest is as it was.
//! Loading checks it as any file (`load.rs`, `tensors.rs`).

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use falaj_artifact::gguf::{Gguf, GgufWriter, Value};
use falaj_artifact::{Dtype, Layout, ModelFiles, Progress, Verified};
use falaj_kernels::{AlignedVec, Ops, Pool};
use falaj_tensor::SharedBytes;

use crate::export::dtype_of;
use crate::load::{Parts, ROPE_FACTORS, Source, map};
use crate::naming::{Naming, Slot};
use crate::tensors::packed_shape;
use crate::{ModelError, RopeScaling};

/// What stands in `general.architecture` of a file of panels.
pub(crate) const PACKED_ARCHITECTURE: &str = "falaj-panels";
pub(crate) const PACKED_VERSION_KEY: &str = "falaj.layout";
pub(crate) const PACKED_VERSION: u32 = 1;
/// The architecture that its other keys are named after.
pub(crate) const PACKED_OF_KEY: &str = "falaj.architecture";

/// Writes the model of `files`, a GGUF, to `out` in the form that needs no packing at load; the answers have the same bits.
/// `out` should end in `.gguf`, since that is how models are found. It appears when it is whole: written beside, then
/// renamed; an existing file is replaced. `progress` counts bytes written.
///
/// # Errors
/// Files that [`crate::load()`] would refuse, that are not GGUF or in panels already, and those of writing.
pub fn optimize(
    files: &Verified<ModelFiles>,
    out: &Path,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<(), ModelError> {
    let bytes = match (files.embedded(), files.layout()) {
        (Some(bytes), _) => SharedBytes::new(bytes),
        (None, Some(Layout::Gguf(path))) => map(path)?,
        _ => return Err(ModelError::NotGguf),
    };
    let partial = Partial::beside(out)?;
    let failed = |source| ModelError::Write { path: partial.path.clone(), source };
    let file = File::create(&partial.path).map_err(failed)?;
    let file = write(&bytes, BufWriter::with_capacity(1 << 20, file), progress)?;
    file.into_inner().map_err(|error| failed(error.into_error()))?.sync_all().map_err(failed)?;
    fs::rename(&partial.path, out).map_err(|source| ModelError::Write { path: out.to_path_buf(), source })
}

fn write<W: Write>(bytes: &SharedBytes, out: W, progress: &mut dyn FnMut(Progress<'_>)) -> Result<W, ModelError> {
    let gguf = Gguf::parse(bytes)?;
    let architecture = gguf.str("general.architecture")?;
    if architecture == PACKED_ARCHITECTURE {
        return Err(ModelError::Optimized { form: "in panels" });
    }
    let (ops, pool) = (Ops::best(), Pool::new(Pool::available_threads()));
    let Parts { config, tree } = Source::gguf(bytes.clone())?.read(&ops)?;

    let mut writer = GgufWriter::new(PACKED_ARCHITECTURE);
    for (key, value) in gguf.metadata.iter().filter(|(key, _)| *key != "general.architecture") {
        writer = writer.set(key, value.clone());
    }
    writer = writer
        .set("general.alignment", Value::U32(64))
        .set(PACKED_VERSION_KEY, PACKED_VERSION)
        .set(PACKED_OF_KEY, architecture)
        .set(&format!("{architecture}.vocab_size"), config.vocab_size as u32);
    if let RopeScaling::Factors(factors) = &config.rope.scaling {
        writer = writer.tensor(ROPE_FACTORS, Dtype::F32, &[factors.len()])?;
    }
    let slots = Slot::all(&config);
    for slot in &slots {
        let name = Naming::Gguf.name(*slot);
        writer = match tree.matrix(*slot) {
            None => writer.tensor(&name, Dtype::F32, &slot.shape(&config))?,
            Some(weight) if slot.is_multiplied(&config) => {
                let shape = packed_shape(weight.format(), weight.rows(), weight.cols());
                writer.tensor(&name, dtype_of(weight.format()), &shape)?
            }
            Some(weight) => writer.tensor(&name, dtype_of(weight.format()), &slot.shape(&config))?,
        };
    }

    let mut stream = writer.begin(out)?;
    if let RopeScaling::Factors(factors) = &config.rope.scaling {
        stream.write(&floats(factors))?;
    }
    let total_bytes = tree.matrices().map(|weight| weight.size_bytes() as u64).sum();
    let mut done_bytes = 0;
    for slot in slots {
        let Some(weight) = tree.matrix(slot) else {
            stream.write(&floats(tree.vector(slot).unwrap_or_default()))?;
            continue;
        };
        match weight.panel_bytes().filter(|_| slot.is_multiplied(&config)) {
            Some(bytes) => {
                let mut panels = AlignedVec::new(bytes);
                weight.pack(&ops, &pool, &mut panels);
                stream.write(&panels)?;
            }
            None => stream.write(weight.bytes())?,
        }
        weight.bytes().release();
        done_bytes += weight.size_bytes() as u64;
        progress(Progress { file: &Naming::Gguf.name(slot), done_bytes, total_bytes });
    }
    Ok(stream.finish()?)
}

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// A file under a name of its own, removed when it was not renamed.
struct Partial {
    path: PathBuf,
}

impl Partial {
    fn beside(out: &Path) -> Result<Self, ModelError> {
        let name = out.file_name().ok_or_else(|| ModelError::Write {
            path: out.to_path_buf(),
            source: std::io::Error::from(std::io::ErrorKind::InvalidInput),
        })?;
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(format!(".{}.partial", std::process::id()));
        Ok(Self { path: out.with_file_name(hidden) })
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // Gone where it was renamed.
        let _ = fs::remove_file(&self.path);
    }
}
