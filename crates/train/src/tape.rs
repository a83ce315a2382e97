//! What a forward pass leaves for the backward pass, and the room that both work in. All sizes follow from the configuration and
//! the most tokens of a micro-batch.

use falaj_kernels::{AlignedVec, Packed};
use falaj_model::Config;

use crate::budget::Budget;
use crate::decoder::{MixtureScratch, MixtureTape, places};
use crate::lora::Adapter;

/// Saved by the forward pass. Letters as in [`Config`]; T tokens.
#[derive(Debug)]
pub(crate) struct Tape {
    /// The residual stream before each block, and behind the last: (T, D).
    pub residual: Vec<AlignedVec<f32>>,
    /// One for each block, or one for all: then the backward pass computes each block again.
    pub blocks: Vec<BlockTape>,
    /// (T, D)
    pub normed: AlignedVec<u16>,
    /// (T)
    pub rstd: AlignedVec<f32>,
}

/// Of one block.
#[derive(Debug)]
pub(crate) struct BlockTape {
    /// (T, D)
    pub attention_normed: AlignedVec<u16>,
    /// (T)
    pub attention_rstd: AlignedVec<f32>,
    /// (T, (H+2K)·E), rotated
    pub qkv: AlignedVec<u16>,
    /// (T, H·E)
    pub attended: AlignedVec<u16>,
    /// (T, H)
    pub lse: AlignedVec<f32>,
    /// The residual stream between attention and the network: (T, D).
    pub middle: AlignedVec<f32>,
    /// (T, D)
    pub ffn_normed: AlignedVec<u16>,
    /// (T)
    pub ffn_rstd: AlignedVec<f32>,
    /// (T, 2F), or (P, 2F) of experts
    pub gate_up: AlignedVec<u16>,
    /// (T, F), or (P, F) of experts
    pub inner: AlignedVec<u16>,
    pub mixture: MixtureTape,
    /// What the adapter's first matrices gave, for each group: (T, modules · rank).
    pub adapted: [AlignedVec<u16>; 4],
}

impl Tape {
    pub fn new(config: &Config, t: usize, recompute: bool, adapter: Option<&Adapter>, budget: &mut Budget) -> Self {
        let d = config.hidden_size;
        let blocks = if recompute { 1 } else { config.layers };
        Self {
            residual: (0..=config.layers).map(|_| budget.buffer("activations", t * d)).collect(),
            blocks: (0..blocks).map(|_| BlockTape::new(config, t, adapter, budget)).collect(),
            normed: budget.buffer("activations", t * d),
            rstd: budget.buffer("activations", t),
        }
    }

    /// The number of the block tape that `layer` writes.
    pub fn block(&self, layer: usize) -> usize {
        layer % self.blocks.len()
    }

    /// Whether a block's tape is overwritten by the next.
    pub fn recomputes(&self) -> bool {
        self.blocks.len() + 1 < self.residual.len()
    }
}

impl BlockTape {
    fn new(config: &Config, t: usize, adapter: Option<&Adapter>, budget: &mut Budget) -> Self {
        let &Config { hidden_size: d, heads, kv_heads, head_dim: e, ffn_size: f, .. } = config;
        let mut bits = |len| budget.buffer::<u16>("activations", len);
        let (attention_normed, qkv) = (bits(t * d), bits(t * (heads + 2 * kv_heads) * e));
        let (attended, ffn_normed) = (bits(t * heads * e), bits(t * d));
        let (gate_up, inner) = (bits(places(config, t) * 2 * f), bits(places(config, t) * f));
        let adapted = std::array::from_fn(|kind| bits(t * adapter.map_or(0, |adapter| adapter.width(kind))));
        let mut floats = |len| budget.buffer::<f32>("activations", len);
        let (attention_rstd, lse, middle, ffn_rstd) = (floats(t), floats(t * heads), floats(t * d), floats(t));
        Self {
            attention_normed,
            attention_rstd,
            qkv,
            attended,
            lse,
            middle,
            ffn_normed,
            ffn_rstd,
            gate_up,
            inner,
            mixture: MixtureTape::new(config, t, budget),
            adapted,
        }
    }
}

/// Room that every block uses again.
#[derive(Debug)]
pub(crate) struct Scratch {
    /// The gradient of the residual stream: (T, D).
    pub d_x: AlignedVec<f32>,
    /// The same as products read it.
    pub d_x_bits: AlignedVec<u16>,
    /// The gradient behind a norm: (T, D).
    pub d_normed: AlignedVec<u16>,
    /// The gradient of the network's inner values: (T, F).
    pub d_inner: AlignedVec<u16>,
    /// What an adapter adds to, before it is rounded: (T, the widest); empty without one.
    pub wide: AlignedVec<f32>,
    /// The gradient of what attention gave: (T, H·E).
    pub d_attended: AlignedVec<u16>,
    /// Gradients that go into products: (T, the widest).
    pub bits: AlignedVec<u16>,
    pub head: HeadScratch,
    pub lora: LoraScratch,
    pub mixture: MixtureScratch,
}

/// For `rows` predictions at a time.
#[derive(Debug)]
pub(crate) struct HeadScratch {
    pub rows: usize,
    /// (rows, D)
    pub normed: AlignedVec<u16>,
    /// (rows, V)
    pub logits: AlignedVec<f32>,
    /// (rows, V)
    pub d_logits: AlignedVec<u16>,
    /// (rows, D)
    pub d_normed: AlignedVec<u16>,
    /// The head's weights as right operands, for logits and for gradients.
    pub panels: AlignedVec<u16>,
    pub across: AlignedVec<u16>,
    pub targets: Vec<u32>,
    pub weights: Vec<f32>,
    pub losses: Vec<f32>,
    pub correct: Vec<u8>,
    /// −ln p(target) of each token of the micro-batch, 0 where it has no weight: (T).
    pub all_losses: Vec<f32>,
    /// The tokens that count.
    pub kept: Vec<u32>,
    /// Their weights over the step's: (T).
    pub shares: Vec<f32>,
}

#[derive(Debug)]
pub(crate) struct LoraScratch {
    /// (T, the most modules · rank)
    pub low: AlignedVec<f32>,
    /// Inputs after dropout: (T, the widest input); empty without dropout.
    pub dropped: AlignedVec<u16>,
    /// (T, the widest input); empty without dropout.
    pub d_dropped: AlignedVec<f32>,
}

impl Scratch {
    pub fn new(config: &Config, t: usize, adapter: Option<&Adapter>, budget: &mut Budget) -> Self {
        let &Config { hidden_size: d, heads, kv_heads, head_dim: e, ffn_size: f, vocab_size: v, .. } = config;
        let (qkv, attended) = ((heads + 2 * kv_heads) * e, heads * e);
        let used = places(config, 1);
        // The adapter is added in f32, so that gate and up pass through here too, and the gradient of what attention gave; so do the
        // sums of a mixture.
        let adapted = if adapter.is_some() { qkv.max(2 * f).max(attended).max(d) } else { 0 };
        let wide = adapted.max(config.experts.map_or(0, |_| (used * f).max(d)));
        let low = (0..4).map(|kind| adapter.map_or(0, |adapter| adapter.width(kind))).max().unwrap_or(0);
        let dropout = adapter.is_some_and(|adapter| adapter.settings.dropout > 0.0);
        let inputs = if dropout { d.max(f).max(attended) } else { 0 };
        let rows = (HEAD_BYTES / (6 * v)).clamp(16, 1024).min(t) / 2 * 2;
        Self {
            d_x: budget.buffer("scratch", t * d),
            d_x_bits: budget.buffer("scratch", t * d),
            d_normed: budget.buffer("scratch", t * d),
            d_inner: budget.buffer("scratch", t * used * f),
            wide: budget.buffer("scratch", t * wide),
            d_attended: budget.buffer("scratch", t * attended),
            bits: budget.buffer("scratch", t * qkv.max(used * 2 * f)),
            head: HeadScratch {
                rows,
                normed: budget.buffer("scratch", rows * d),
                logits: budget.buffer("scratch", rows * v),
                d_logits: budget.buffer("scratch", rows * v),
                d_normed: budget.buffer("scratch", rows * d),
                panels: budget.buffer("scratch", Packed::len_of(v, d)),
                across: budget.buffer("scratch", Packed::len_of(d, v)),
                targets: Vec::with_capacity(rows),
                weights: Vec::with_capacity(rows),
                losses: vec![0.0; rows],
                correct: vec![0; rows],
                all_losses: vec![0.0; t],
                kept: Vec::with_capacity(t),
                shares: Vec::with_capacity(t),
            },
            lora: LoraScratch {
                low: budget.buffer("scratch", t * low),
                dropped: budget.buffer("scratch", t * inputs),
                d_dropped: budget.buffer("scratch", t * inputs),
            },
            mixture: MixtureScratch::new(config, t, budget),
        }
    }
}

/// Of logits and their gradients at a time.
const HEAD_BYTES: usize = 34 << 20;
