//! Low-rank adapters over a decoder: what verified files say, in the form in which it is added to the base's products. Rows of
//! one batch may have different ones, or none. Source: Hu et al. 2021.
//!
//! Matrices are rounded to eight bits once, the second ones after the scale was multiplied into them (`Ops::low_rank`, which says
//! how far that is from exact ones). They lie in the order in which a step reads them. Modules that read the same input have their
//! first matrices side by side, so that they are one product.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use falaj_artifact::safetensors::SafetensorsIndex;
use falaj_artifact::{AdapterConfig, Digest, Layout, ModelFiles, Verified};
use falaj_kernels::{
    ActivationKind, Activations, AdaptedRow, AlignedVec, Finally, LowRank, LowRankRows, Ops, Pool, RopeLayout,
};
use falaj_tensor::SharedBytes;

use crate::export::reordered;
use crate::load::map;
use crate::tensors::Tensors;
use crate::{Batch, Config, Model, ModelError, Naming, Slot};

/// An adapter, ready to be mixed into batches of the model that it was loaded for. Shared by any number of rows.
#[derive(Debug)]
pub struct Adapter {
    layers: Vec<LayerAdapter>,
    /// What of the configuration its shapes follow from.
    shape: Shape,
    digest: Digest,
    rank: usize,
    /// All matrices.
    bytes: AlignedVec<u8>,
}

/// What changes the products of one layer, by what they read.
#[derive(Debug, Default)]
pub(crate) struct LayerAdapter {
    /// Query, key, value.
    pub(crate) attention: Option<Part<3>>,
    pub(crate) output: Option<Part<1>>,
    /// Gate, up.
    pub(crate) gates: Option<Part<2>>,
    pub(crate) down: Option<Part<1>>,
}

/// Matrices of products of one input.
#[derive(Debug)]
pub(crate) struct Part<const N: usize> {
    cols: usize,
    /// Outputs of each product that is adapted.
    widths: [Option<usize>; N],
    /// Of the adapter's bytes.
    range: Range<usize>,
}

/// Letters as in [`Config`]: layers, D, H·E, K·E, F, E.
type Shape = [usize; 6];

impl Adapter {
    /// Reads the adapter of verified files for `model`. Every tensor must have its place there.
    ///
    /// # Errors
    /// A model's files; settings that are not computed here; tensors that match no module of `model`, are of another shape, or
    /// not numbers; none at all.
    pub fn load(files: &Verified<ModelFiles>, model: &Model) -> Result<Self, ModelError> {
        let Some(Layout::Adapter { weights, config, .. }) = files.layout() else {
            return Err(ModelError::NotAnAdapter);
        };
        let settings = AdapterConfig::read(config)?;
        Self::parse(&settings, map(weights)?, model, files.digest())
    }

    pub(crate) fn parse(
        settings: &AdapterConfig,
        file: SharedBytes,
        model: &Model,
        digest: Digest,
    ) -> Result<Self, ModelError> {
        let known = |target: &&String| MODULES.contains(&target.rsplit('.').next().unwrap_or(target));
        if let Some(target) = settings.targets.iter().find(|target| !known(target)) {
            return Err(ModelError::AdapterTarget { target: target.escape_debug().to_string() });
        }
        let mut tensors = Tensors::new(false);
        tensors.add(&file, SafetensorsIndex::parse(&file)?.tensors)?;
        let mut found = BTreeSet::new();
        let mut reader = Reader { settings, model, tensors: &mut tensors, found: &mut found, bytes: Vec::new() };
        let layers = (0..model.config.layers).map(|layer| reader.layer(layer)).collect::<Result<Vec<_>, _>>()?;
        let bytes = AlignedVec::from_slice(&reader.bytes);
        if let Some(name) = tensors.names().next() {
            let experts = name.contains(".experts.") || name.contains("block_sparse_moe");
            return Err(match experts && model.config.experts.is_some() {
                true => ModelError::Unsupported { feature: format!("an adapter of experts (`{name}`)") },
                false => ModelError::AdapterModule { tensor: name.to_owned() },
            });
        }
        if found.is_empty() {
            return Err(ModelError::AdapterEmpty);
        }
        let is_found = |target: &&String| found.contains(target.rsplit('.').next().unwrap_or(target));
        if let Some(target) = settings.targets.iter().find(|target| !is_found(target)) {
            return Err(ModelError::AdapterTarget { target: target.escape_debug().to_string() });
        }
        Ok(Self { layers, shape: shape(&model.config), digest, rank: settings.rank, bytes })
    }

    /// Of the verified files.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    pub fn rank(&self) -> usize {
        self.rank
    }

    /// What its matrices take in memory.
    pub fn size_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Whether it was loaded for a model of these sizes.
    pub fn fits(&self, config: &Config) -> bool {
        self.shape == shape(config)
    }

    /// Most values between the two matrices of a row.
    fn low_width(&self) -> usize {
        3 * self.rank
    }

    fn changes_gates(&self) -> bool {
        self.layers.iter().any(|layer| layer.gates.is_some())
    }
}

fn shape(config: &Config) -> Shape {
    let &Config { layers, hidden_size, heads, kv_heads, head_dim, ffn_size, .. } = config;
    [layers, hidden_size, heads * head_dim, kv_heads * head_dim, ffn_size, head_dim]
}

impl Adapter {
    fn view<const N: usize>(&self, part: &Part<N>) -> Option<LowRank<'_, N>> {
        LowRank::new(part.cols, self.rank, part.widths, self.bytes.get(part.range.clone())?)
    }
}

struct Reader<'a> {
    settings: &'a AdapterConfig,
    model: &'a Model,
    tensors: &'a mut Tensors,
    /// Modules by their last names.
    found: &'a mut BTreeSet<&'static str>,
    /// What was read so far, packed.
    bytes: Vec<u8>,
}

impl Reader<'_> {
    fn layer(&mut self, layer: usize) -> Result<LayerAdapter, ModelError> {
        let attention = [Slot::Query { layer }, Slot::Key { layer }, Slot::Value { layer }];
        let mut made = LayerAdapter {
            attention: self.part(attention)?,
            output: self.part([Slot::Output { layer }])?,
            ..LayerAdapter::default()
        };
        // Those of experts have other names, and stay over.
        if self.model.config.experts.is_none() {
            let expert = None;
            made.gates = self.part([Slot::Gate { layer, expert }, Slot::Up { layer, expert }])?;
            made.down = self.part([Slot::Down { layer, expert }])?;
        }
        Ok(made)
    }

    fn part<const N: usize>(&mut self, slots: [Slot; N]) -> Result<Option<Part<N>>, ModelError> {
        let rank = self.settings.rank;
        let (mut matrices, mut widths, mut cols) = ([const { None }; N], [None; N], 0);
        for ((slot, matrices), width) in slots.into_iter().zip(&mut matrices).zip(&mut widths) {
            let Some((a, mut b)) = self.module(slot)? else { continue };
            let &[outputs, inputs] = slot.shape(&self.model.config).as_slice() else { continue };
            b.iter_mut().for_each(|b| *b *= self.settings.scale());
            (*matrices, *width, cols) = (Some((a, b)), Some(outputs), inputs);
        }
        if cols == 0 || rank == 0 {
            return Ok(None);
        }
        let too_large = || ModelError::TooLarge { what: "the adapter", bytes: u128::MAX };
        let start = self.bytes.len();
        let end =
            LowRank::bytes_for(cols, rank, widths).and_then(|bytes| bytes.checked_add(start)).ok_or_else(too_large)?;
        self.bytes.resize(end, 0);
        let matrices =
            matrices.each_ref().map(|matrices: &Option<Matrices>| matrices.as_ref().map(|(a, b)| (&**a, &**b)));
        LowRank::pack(cols, rank, matrices, self.bytes.get_mut(start..end).unwrap_or_default());
        Ok(Some(Part { cols, widths, range: start..end }))
    }

    /// A (rank, in) and B (out, rank) of a module, B's rows in the order of the model's; `None` where it is not adapted.
    fn module(&mut self, slot: Slot) -> Result<Option<Matrices>, ModelError> {
        let module = Naming::HuggingFace.name(slot);
        let module = module.strip_suffix(".weight").unwrap_or(&module);
        let names = ["A", "B"].map(|which| format!("base_model.model.{module}.lora_{which}.weight"));
        if !names.iter().any(|name| self.tensors.contains(name)) {
            return Ok(None);
        }
        let (config, rank) = (&self.model.config, self.settings.rank);
        let &[outputs, inputs] = slot.shape(config).as_slice() else { return Ok(None) };
        let [first, second] = names;
        let mut values = |name: &str, shape: [usize; 2]| {
            let weight = self.tensors.take(name, &shape).map_err(|error| match error {
                ModelError::Shape { tensor, expected, got } => ModelError::AdapterShape { tensor, expected, got },
                error => error,
            })?;
            let values = weight.dequantize(&self.model.ops);
            match values.iter().all(|value| value.is_finite()) {
                true => Ok(values),
                false => Err(ModelError::NotNumbers { tensor: name.to_owned() }),
            }
        };
        let a = values(&first, [rank, inputs])?;
        let mut b = values(&second, [outputs, rank])?;
        let rotated = matches!(slot, Slot::Query { .. } | Slot::Key { .. });
        if rotated && config.rope.layout == RopeLayout::Interleaved {
            b = reordered(&b, rank, config.head_dim, RopeLayout::Interleaved);
        }
        self.found.extend(MODULES.iter().find(|name| module.ends_with(*name)));
        Ok(Some((a, b)))
    }
}

/// A and B of a module, row-major.
type Matrices = (Vec<f32>, Vec<f32>);

/// What a step with adapters needs beside: which rows have which, and what lies between two matrices.
pub(crate) struct Adapted {
    /// Rows with an adapter, and all rows; both empty where no row has one.
    changed: Vec<AdaptedRow>,
    all: Vec<AdaptedRow>,
    /// Made when first needed: (T, 3 · rank).
    low: AlignedVec<f32>,
    /// The same: (T, F).
    pub(crate) up: AlignedVec<f32>,
    /// Whether any row's adapter changes gates.
    gates: bool,
}

impl Adapted {
    pub(crate) fn new(max_rows: usize) -> Self {
        let rows = || Vec::with_capacity(max_rows);
        Self { changed: rows(), all: rows(), low: AlignedVec::new(0), up: AlignedVec::new(0), gates: false }
    }

    /// Looks at which rows of `batch` have adapters; makes room where there was never as much.
    pub(crate) fn begin(&mut self, batch: &Batch, config: &Config, max_rows: usize) {
        self.set_rows(batch, 0..batch.rows());
        let adapters = &batch.adapters;
        self.gates = adapters.iter().any(|adapter| adapter.changes_gates());
        let width = adapters.iter().map(|adapter| adapter.low_width()).max().unwrap_or(0);
        if self.low.len() < max_rows * width {
            self.low = AlignedVec::new(max_rows * width);
        }
        if self.gates && self.up.is_empty() {
            self.up = AlignedVec::new(max_rows * config.ffn_size);
        }
    }

    /// From now on row i is row `rows[i]` of the batch.
    pub(crate) fn set_rows(&mut self, batch: &Batch, rows: impl Iterator<Item = usize>) {
        self.changed.clear();
        self.all.clear();
        if batch.adapters.is_empty() {
            return;
        }
        let adapter = |row: usize| batch.adapter_of.get(row).copied().unwrap_or(Batch::NO_ADAPTER);
        self.all.extend((0..).zip(rows).map(|(row, from)| AdaptedRow { row, adapter: adapter(from) }));
        self.changed.extend(self.all.iter().filter(|row| row.adapter != Batch::NO_ADAPTER));
    }

    /// What the rows' adapters read beside what weights need.
    pub(crate) fn kind(&self, weights: ActivationKind) -> ActivationKind {
        if self.changed.is_empty() { weights } else { weights | ActivationKind::BLOCKS }
    }

    /// Whether gates must be kept apart until adapters have changed them.
    pub(crate) fn changes_gates(&self) -> bool {
        self.gates && !self.changed.is_empty()
    }
}

/// The part of a layer's adapter that belongs to products of one input.
pub(crate) struct Place<'a, const N: usize> {
    pub(crate) layer: usize,
    pub(crate) part: fn(&LayerAdapter) -> Option<&Part<N>>,
    pub(crate) adapters: &'a [Arc<Adapter>],
}

impl<const N: usize> Place<'_, N> {
    /// Adds to `outs`, (T, width) each, what the rows' adapters make of `x`.
    pub(crate) fn add(
        &self,
        ops: &Ops,
        pool: &Pool,
        adapted: (&[AdaptedRow], &mut [f32]),
        x: &Activations,
        outs: [(&mut [f32], usize); N],
        finally: Finally,
    ) {
        let (rows, low) = adapted;
        if rows.is_empty() {
            return;
        }
        let low_stride = self.adapters.iter().map(|adapter| adapter.low_width()).max().unwrap_or(0);
        let adapter = |number: u32| {
            let adapter = self.adapters.get(number as usize)?;
            adapter.view((self.part)(adapter.layers.get(self.layer)?)?)
        };
        ops.low_rank(pool, LowRankRows { x, rows, outs, low, low_stride }, adapter, finally);
    }
}

impl Adapted {
    /// The rows with adapters, and the scratch.
    pub(crate) fn changed(&mut self) -> (&[AdaptedRow], &mut [f32]) {
        (&self.changed, &mut self.low)
    }

    /// All rows, the scratch, and the buffer for what goes through gates.
    pub(crate) fn gated(&mut self) -> ((&[AdaptedRow], &mut [f32]), &mut [f32]) {
        ((&self.all, &mut self.low), &mut self.up)
    }
}

/// What adapters may change, as PEFT's targets name it.
const MODULES: [&str; 7] = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];
