//! The tensors of a model's files by name, handed out once each as weights with checked shapes. Bytes stay where they are.

use std::collections::BTreeMap;

use falaj_artifact::{ArtifactError, Dtype, TensorEntry};
use falaj_kernels::Format;
use falaj_tensor::{SharedBytes, Weight};

use crate::ModelError;

/// What the files hold and nobody has taken yet.
#[derive(Default)]
pub(crate) struct Tensors {
    entries: BTreeMap<String, (SharedBytes, TensorEntry)>,
}

impl Tensors {
    /// Adds the tensors of one file.
    pub(crate) fn add(&mut self, file: &SharedBytes, index: BTreeMap<String, TensorEntry>) -> Result<(), ModelError> {
        for (name, entry) in index {
            if self.entries.contains_key(&name) {
                return Err(ArtifactError::Duplicate { what: "tensor name", name }.into());
            }
            self.entries.insert(name, (file.clone(), entry));
        }
        Ok(())
    }

    pub(crate) fn contains(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    /// The tensor `name` of exactly this shape; leading dimensions are folded into rows, a vector is one row.
    pub(crate) fn take(&mut self, name: &str, shape: &[usize]) -> Result<Weight, ModelError> {
        let missing = || ModelError::TensorMissing { tensor: name.to_owned() };
        let (file, entry) = self.entries.remove(name).ok_or_else(missing)?;
        if entry.shape != shape {
            return Err(ModelError::Shape { tensor: name.to_owned(), expected: shape.to_vec(), got: entry.shape });
        }
        let format = format_of(entry.dtype)
            .ok_or_else(|| ArtifactError::UnsupportedDtype { tensor: name.to_owned(), dtype: entry.dtype })?;
        let bytes = file.slice(entry.range).ok_or_else(missing)?;
        let (cols, leading) = shape.split_last().ok_or_else(missing)?;
        // The index has shown that the product of the dimensions can be addressed.
        Weight::new(format, leading.iter().product(), *cols, bytes)
            .map_err(|source| ModelError::Weight { tensor: name.to_owned(), source })
    }

    /// Drops a tensor that is known to be redundant.
    pub(crate) fn forget(&mut self, name: &str) {
        self.entries.remove(name);
    }

    /// A tensor without a place (a bias, an adapter, another modality) would be silently missing from every answer.
    pub(crate) fn refuse_leftovers(&self) -> Result<(), ModelError> {
        // Old exports carry RoPE's inverse frequencies, which follow from the configuration.
        match self.entries.keys().find(|name| !name.ends_with("rotary_emb.inv_freq")) {
            Some(name) => Err(ModelError::TensorUnused { tensor: name.clone() }),
            None => Ok(()),
        }
    }
}

fn format_of(dtype: Dtype) -> Option<Format> {
    Some(match dtype {
        Dtype::F32 => Format::F32,
        Dtype::F16 => Format::F16,
        Dtype::BF16 => Format::BF16,
        Dtype::Q8_0 => Format::Q8_0,
        Dtype::Q4_0 => Format::Q4_0,
        Dtype::Q4_K => Format::Q4_K,
        Dtype::Q5_K => Format::Q5_K,
        Dtype::Q6_K => Format::Q6_K,
        _ => return None,
    })
}
