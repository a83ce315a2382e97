//! The decoder's own parameters as the passes read them: an arena that is trained, or a frozen base whose matrices, quantised or
//! not, become f32 one group at a time.

use falaj_kernels::{AlignedVec, Values};
use falaj_model::{Config, Params, Slot};

use crate::TrainError;
use crate::arena::{Arena, Group, Index};
use crate::budget::Budget;
use crate::machine::Machine;

/// Where the passes read weights.
#[derive(Debug)]
pub(crate) enum Weights {
    Trained(Arena),
    Frozen(Frozen),
}

/// A base that stays as its files have it.
#[derive(Debug)]
pub(crate) struct Frozen {
    config: Config,
    params: Params,
    /// The group that is in use, in f32; of the largest one's size.
    group: AlignedVec<f32>,
}

impl Frozen {
    pub fn new(config: &Config, params: Params, budget: &mut Budget) -> Result<Self, TrainError> {
        Index::new(config)?;
        Ok(Self { config: config.clone(), params, group: Self::count(config, budget) })
    }

    /// The room of the largest group.
    pub fn count(config: &Config, budget: &mut Budget) -> AlignedVec<f32> {
        let groups = crate::lora::groups(0).into_iter().chain([Group::Head, Group::Router { layer: 0 }]);
        let sizes = groups.map(|group| {
            let (rows, cols) = group.shape(config);
            rows * cols
        });
        budget.buffer("scratch", sizes.max().unwrap_or(0))
    }

    pub fn params(&self) -> &Params {
        &self.params
    }
}

impl Weights {
    pub fn config(&self) -> &Config {
        match self {
            Weights::Trained(arena) => &arena.config,
            Weights::Frozen(frozen) => &frozen.config,
        }
    }

    /// The norm at `slot`: (D).
    pub fn norm(&self, slot: Slot) -> &[f32] {
        match self {
            Weights::Trained(arena) => arena.get(slot),
            Weights::Frozen(frozen) => frozen.params.vector(slot).unwrap_or_default(),
        }
    }

    /// The matrices of `group`, row-major, one below the other.
    pub fn group(&mut self, m: &Machine, group: Group) -> Values<'_> {
        match self {
            Weights::Trained(arena) => Values::F32(&arena.values[arena.index.group(&arena.config, group)]),
            Weights::Frozen(Frozen { config, params, group: values }) => {
                let mut len = 0;
                for slot in group.slots(config) {
                    let Some(weight) = params.matrix(slot) else { continue };
                    let (cols, start) = (weight.cols(), len);
                    len += weight.rows() * cols;
                    m.pool.chunks([(&mut values[start..len], ROWS * cols)], |chunk, [out]| {
                        for (row, out) in out.chunks_exact_mut(cols).enumerate() {
                            weight.dequantize_row(&m.ops, chunk * ROWS + row, out);
                        }
                    });
                }
                Values::F32(&values[..len])
            }
        }
    }

    /// The rows of the embedding for `tokens`. out: (T, D).
    pub fn embed(&self, m: &Machine, tokens: &[u32], out: &mut [f32]) {
        let d = m.config.hidden_size;
        m.pool.chunks([(out, ROWS * d)], |chunk, [out]| {
            for (i, out) in out.chunks_exact_mut(d).enumerate() {
                let token = tokens[chunk * ROWS + i] as usize;
                match self {
                    Weights::Trained(arena) => {
                        out.copy_from_slice(&arena.get(Slot::Embedding)[token * d..][..d]);
                    }
                    Weights::Frozen(frozen) => {
                        frozen.params.embedding.dequantize_row(&m.ops, token, out);
                    }
                }
            }
        });
    }
}

/// Rows that one task takes.
const ROWS: usize = 16;
