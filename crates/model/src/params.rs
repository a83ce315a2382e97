//! The parameter tree: what a decoder holds, with its shapes, for serving and for training alike. How files name these
//! tensors is in `naming.rs`; what is computed from them in `decoder.rs`.

use falaj_kernels::{AlignedVec, Ops, Pool};
use falaj_tensor::{SharedBytes, Weight};

use crate::naming::{Naming, Slot};
use crate::tensors::Tensors;
use crate::{Config, Experts, ModelError};

/// Every parameter of a decoder. Letters as in [`Config`]. A matrix `(out, in)` is applied as `y = x Wᵀ`.
#[derive(Clone, Debug)]
pub struct Params {
    /// (V, D)
    pub embedding: Weight,
    pub layers: Vec<Layer>,
    /// (D)
    pub norm: Vec<f32>,
    /// (V, D); `None`: tied, the embedding serves.
    pub head: Option<Weight>,
}

/// One block of the decoder.
#[derive(Clone, Debug)]
pub struct Layer {
    /// (D)
    pub attention_norm: Vec<f32>,
    /// (H·E, D)
    pub query: Weight,
    /// (K·E, D)
    pub key: Weight,
    /// (K·E, D)
    pub value: Weight,
    /// (D, H·E)
    pub output: Weight,
    /// (D)
    pub ffn_norm: Vec<f32>,
    pub ffn: FeedForward,
}

/// What follows attention.
#[derive(Clone, Debug)]
pub enum FeedForward {
    Dense(Swiglu),
    /// `router`: (X, D); one network per expert.
    Sparse {
        router: Weight,
        experts: Vec<Swiglu>,
    },
}

/// `down(silu(gate x) * up x)`. Source: Shazeer 2020, eq. 6.
#[derive(Clone, Debug)]
pub struct Swiglu {
    /// (F, D)
    pub gate: Weight,
    /// (F, D)
    pub up: Weight,
    /// (D, F)
    pub down: Weight,
}

impl Params {
    /// Takes every parameter out of `tensors`, whose names follow `naming`. Nothing may be missing, of another shape, or
    /// left over.
    pub(crate) fn read(config: &Config, tensors: &mut Tensors, naming: Naming, ops: &Ops) -> Result<Self, ModelError> {
        let mut reader = Reader { config, tensors, naming, ops };
        let embedding = reader.matrix(Slot::Embedding)?;
        let norm = reader.vector(Slot::Norm)?;
        let head = match config.tied_head {
            false => Some(reader.matrix(Slot::Head)?),
            true => {
                // A file may still carry the copy that training kept.
                reader.tensors.forget(&naming.name(Slot::Head));
                None
            }
        };
        // No allocation by what the configuration merely claims: the layers' tensors must be there one by one.
        let mut layers = Vec::new();
        for layer in 0..config.layers {
            layers.push(reader.layer(layer)?);
        }
        tensors.refuse_leftovers()?;
        Ok(Self { embedding, layers, norm, head })
    }

    /// The output head, tied or not: (V, D).
    pub fn head(&self) -> &Weight {
        self.head.as_ref().unwrap_or(&self.embedding)
    }

    /// The matrix that fills `slot`, as it lies in memory; `None` where that is a vector, or not there.
    pub fn matrix(&self, slot: Slot) -> Option<&Weight> {
        let layer = |number: usize| self.layers.get(number);
        let network = |number, expert: Option<usize>| match &layer(number)?.ffn {
            FeedForward::Dense(network) => Some(network).filter(|_| expert.is_none()),
            FeedForward::Sparse { experts, .. } => experts.get(expert?),
        };
        match slot {
            Slot::Embedding => Some(&self.embedding),
            Slot::Head => self.head.as_ref(),
            Slot::Query { layer: at } => Some(&layer(at)?.query),
            Slot::Key { layer: at } => Some(&layer(at)?.key),
            Slot::Value { layer: at } => Some(&layer(at)?.value),
            Slot::Output { layer: at } => Some(&layer(at)?.output),
            Slot::Gate { layer, expert } => Some(&network(layer, expert)?.gate),
            Slot::Up { layer, expert } => Some(&network(layer, expert)?.up),
            Slot::Down { layer, expert } => Some(&network(layer, expert)?.down),
            Slot::Router { layer: at } => match &layer(at)?.ffn {
                FeedForward::Dense(_) => None,
                FeedForward::Sparse { router, .. } => Some(router),
            },
            Slot::Norm | Slot::AttentionNorm { .. } | Slot::FfnNorm { .. } => None,
        }
    }

    /// The vector that fills `slot`; `None` where that is a matrix.
    pub fn vector(&self, slot: Slot) -> Option<&[f32]> {
        match slot {
            Slot::Norm => Some(&self.norm),
            Slot::AttentionNorm { layer } => self.layers.get(layer).map(|layer| layer.attention_norm.as_slice()),
            Slot::FfnNorm { layer } => self.layers.get(layer).map(|layer| layer.ffn_norm.as_slice()),
            _ => None,
        }
    }

    /// Brings every matrix that products read into panels, in one buffer in large pages, and gives the files' memory back.
    pub(crate) fn pack(&mut self, ops: &Ops, pool: &Pool) -> Result<(), ModelError> {
        pack(&mut self.products_mut().collect::<Vec<_>>(), ops, pool)
    }

    /// Turns every matrix into F32.
    pub(crate) fn dequantize(&mut self, ops: &Ops) {
        self.embedding = self.embedding.dequantized(ops);
        self.products_mut().for_each(|weight| *weight = weight.dequantized(ops));
    }

    /// Every matrix of the tree that is multiplied with: an embedding that is not the head too is only looked up.
    fn products_mut(&mut self) -> impl Iterator<Item = &mut Weight> {
        let head = self.head.as_mut().unwrap_or(&mut self.embedding);
        [head].into_iter().chain(self.layers.iter_mut().flat_map(Layer::matrices_mut))
    }

    /// Every matrix of the tree.
    pub fn matrices(&self) -> impl Iterator<Item = &Weight> {
        [&self.embedding].into_iter().chain(&self.head).chain(self.layers.iter().flat_map(Layer::matrices))
    }
}

/// Brings matrices into panels, where their formats have them, in one buffer in large pages, and gives the files' memory back.
pub(crate) fn pack(weights: &mut [&mut Weight], ops: &Ops, pool: &Pool) -> Result<(), ModelError> {
    let too_large = ModelError::TooLarge { what: "the packed weights", bytes: u128::MAX };
    // Each at a multiple of 64 bytes, where vectors are loaded fastest.
    let place = |weight: &Weight| weight.panel_bytes().map_or(0, |bytes| bytes.next_multiple_of(64));
    let total = weights.iter().try_fold(0_usize, |sum, weight| sum.checked_add(place(weight)));
    let total = total.filter(|total| isize::try_from(*total).is_ok()).ok_or(too_large)?;
    let mut buffer = AlignedVec::<u8>::new(total);
    let mut rest = &mut *buffer;
    for weight in weights.iter() {
        let Some(bytes) = weight.panel_bytes() else { continue };
        let (mine, behind) = rest.split_at_mut(bytes.next_multiple_of(64));
        rest = behind;
        let (panels, _) = mine.split_at_mut(bytes);
        weight.pack(ops, pool, panels);
        weight.bytes().release();
    }
    let (buffer, mut at) = (SharedBytes::new(buffer), 0);
    for weight in weights.iter_mut() {
        let Some(bytes) = weight.panel_bytes() else { continue };
        let panels = buffer
            .slice(at..at + bytes)
            .and_then(|panels| Weight::from_panels(weight.format(), weight.rows(), weight.cols(), panels).ok());
        at += bytes.next_multiple_of(64);
        if let Some(panels) = panels {
            **weight = panels;
        }
    }
    Ok(())
}

impl Layer {
    fn matrices(&self) -> impl Iterator<Item = &Weight> {
        let (router, networks) = match &self.ffn {
            FeedForward::Dense(network) => (None, std::slice::from_ref(network)),
            FeedForward::Sparse { router, experts } => (Some(router), experts.as_slice()),
        };
        let attention = [&self.query, &self.key, &self.value, &self.output];
        let networks = networks.iter().flat_map(|network| [&network.gate, &network.up, &network.down]);
        attention.into_iter().chain(router).chain(networks)
    }

    fn matrices_mut(&mut self) -> impl Iterator<Item = &mut Weight> {
        let (router, networks) = match &mut self.ffn {
            FeedForward::Dense(network) => (None, std::slice::from_mut(network)),
            FeedForward::Sparse { router, experts } => (Some(router), experts.as_mut_slice()),
        };
        let attention = [&mut self.query, &mut self.key, &mut self.value, &mut self.output];
        let networks = networks.iter_mut().flat_map(|network| [&mut network.gate, &mut network.up, &mut network.down]);
        attention.into_iter().chain(router).chain(networks)
    }
}

struct Reader<'a> {
    config: &'a Config,
    tensors: &'a mut Tensors,
    naming: Naming,
    ops: &'a Ops,
}

impl Reader<'_> {
    fn layer(&mut self, layer: usize) -> Result<Layer, ModelError> {
        Ok(Layer {
            attention_norm: self.vector(Slot::AttentionNorm { layer })?,
            query: self.matrix(Slot::Query { layer })?,
            key: self.matrix(Slot::Key { layer })?,
            value: self.matrix(Slot::Value { layer })?,
            output: self.matrix(Slot::Output { layer })?,
            ffn_norm: self.vector(Slot::FfnNorm { layer })?,
            ffn: match self.config.experts {
                None => FeedForward::Dense(self.swiglu(layer, None)?),
                Some(experts) => self.sparse(layer, experts)?,
            },
        })
    }

    fn sparse(&mut self, layer: usize, Experts { count, .. }: Experts) -> Result<FeedForward, ModelError> {
        let router = self.matrix(Slot::Router { layer })?;
        let experts = match self.naming.stacked(Slot::Gate { layer, expert: None }) {
            Some(name) if self.tensors.contains(&name) && !self.tensors.packed => self.stacked_experts(layer, count)?,
            _ => (0..count).map(|expert| self.swiglu(layer, Some(expert))).collect::<Result<_, _>>()?,
        };
        Ok(FeedForward::Sparse { router, experts })
    }

    fn swiglu(&mut self, layer: usize, expert: Option<usize>) -> Result<Swiglu, ModelError> {
        Ok(Swiglu {
            gate: self.matrix(Slot::Gate { layer, expert })?,
            up: self.matrix(Slot::Up { layer, expert })?,
            down: self.matrix(Slot::Down { layer, expert })?,
        })
    }

    /// One tensor (X, out, in) holds all experts' matrices of a kind.
    fn stacked_experts(&mut self, layer: usize, count: usize) -> Result<Vec<Swiglu>, ModelError> {
        let gate = self.stacked(Slot::Gate { layer, expert: None }, count)?;
        let up = self.stacked(Slot::Up { layer, expert: None }, count)?;
        let down = self.stacked(Slot::Down { layer, expert: None }, count)?;
        let triples = gate.into_iter().zip(up).zip(down);
        Ok(triples.map(|((gate, up), down)| Swiglu { gate, up, down }).collect())
    }

    fn stacked(&mut self, slot: Slot, count: usize) -> Result<Vec<Weight>, ModelError> {
        let name = self.naming.stacked(slot).unwrap_or_else(|| self.naming.name(slot));
        let mut shape = slot.shape(self.config);
        let rows = shape.first().copied().unwrap_or(0);
        shape.insert(0, count);
        let whole = self.tensors.take(&name, &shape)?;
        let part = |expert: usize| whole.row_range(expert * rows..(expert + 1) * rows);
        (0..count)
            .map(|expert| part(expert).ok_or_else(|| ModelError::TensorMissing { tensor: name.clone() }))
            .collect()
    }

    fn matrix(&mut self, slot: Slot) -> Result<Weight, ModelError> {
        let (name, shape) = (self.naming.name(slot), slot.shape(self.config));
        match shape.as_slice() {
            &[rows, cols] if self.tensors.packed && slot.is_multiplied(self.config) => {
                self.tensors.take_packed(&name, rows, cols)
            }
            _ => self.tensors.take(&name, &shape),
        }
    }

    fn vector(&mut self, slot: Slot) -> Result<Vec<f32>, ModelError> {
        Ok(self.matrix(slot)?.dequantize(self.ops))
    }
}
