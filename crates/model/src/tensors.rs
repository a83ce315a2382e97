//! The tensors of a model's files by name, handed out once each as weights with checked shapes. Bytes stay where they are.

use std::collections::BTreeMap;

use falaj_artifact::{ArtifactError, Dtype, TensorEntry};
use falaj_kernels::{Format, MatrixError};
use falaj_tensor::{SharedBytes, Weight};

use crate::ModelError;

/// What the files hold and nobody has taken yet.
pub(crate) struct Tensors {
    /// Whether matrices are in panels, each in a tensor of its own.
    pub(crate) packed: bool,
    entries: BTreeMap<String, (SharedBytes, TensorEntry)>,
}

impl Tensors {
    pub(crate) fn new(packed: bool) -> Self {
        Self { packed, entries: BTreeMap::new() }
    }

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
        let (format, bytes) = self.bytes(name, |_| shape.to_vec())?;
        let (cols, leading) = shape.split_last().ok_or_else(|| missing(name))?;
        // The index has shown that the product of the dimensions can be addressed.
        Weight::new(format, leading.iter().product(), *cols, bytes).map_err(broken(name))
    }

    /// The matrix `name`, which a file of panels holds as such where its format has them.
    pub(crate) fn take_packed(&mut self, name: &str, rows: usize, cols: usize) -> Result<Weight, ModelError> {
        let (format, bytes) = self.bytes(name, |format| packed_shape(format, rows, cols).to_vec())?;
        let new = if format.has_panels() { Weight::from_panels } else { Weight::new };
        new(format, rows, cols, bytes).map_err(broken(name))
    }

    fn bytes(&mut self, name: &str, shape: impl Fn(Format) -> Vec<usize>) -> Result<(Format, SharedBytes), ModelError> {
        let (file, entry) = self.entries.remove(name).ok_or_else(|| missing(name))?;
        let format = format_of(entry.dtype)
            .ok_or_else(|| ArtifactError::UnsupportedDtype { tensor: name.to_owned(), dtype: entry.dtype })?;
        let expected = shape(format);
        if entry.shape != expected {
            return Err(ModelError::Shape { tensor: name.to_owned(), expected, got: entry.shape });
        }
        Ok((format, file.slice(entry.range).ok_or_else(|| missing(name))?))
    }

    /// What is left.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
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

fn missing(name: &str) -> ModelError {
    ModelError::TensorMissing { tensor: name.to_owned() }
}

fn broken(name: &str) -> impl FnOnce(MatrixError) -> ModelError {
    move |source| ModelError::Weight { tensor: name.to_owned(), source }
}

/// The shape under which a file of panels lists a matrix: so many values that they take the panels' bytes.
pub(crate) fn packed_shape(format: Format, rows: usize, cols: usize) -> [usize; 2] {
    match format {
        Format::F32 | Format::F16 => [rows, cols],
        // Columns come in pairs.
        Format::BF16 => [rows.next_multiple_of(PANEL_ROWS), cols.next_multiple_of(2)],
        _ => [rows.next_multiple_of(PANEL_ROWS), cols],
    }
}

const PANEL_ROWS: usize = 16;

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
