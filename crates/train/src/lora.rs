//! Low-rank adapters: y = W x + (alpha / rank) · B A dropout(x) for chosen matrices. Source: Hu et al. 2021, eq. 3.
//!
//! Modules that read the same input have their first matrices side by side, so that they are one product. Dropout is decided by
//! counters, for modules of one input together.

use std::ops::Range;

use falaj_kernels::{AlignedVec, Operand, OutMut, Then, Values, bf16_to_f32, f32_to_bf16};
use falaj_model::{Config, Slot};
use serde::{Deserialize, Serialize};

use crate::TrainError;
use crate::arena::Group;
use crate::machine::{Machine, from};
use crate::random::Stream;
use crate::tape::LoraScratch;

/// Which matrices of every layer get an adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Target {
    #[serde(rename = "q", alias = "q_proj")]
    Query,
    #[serde(rename = "k", alias = "k_proj")]
    Key,
    #[serde(rename = "v", alias = "v_proj")]
    Value,
    #[serde(rename = "o", alias = "o_proj")]
    Output,
    #[serde(alias = "gate_proj")]
    Gate,
    #[serde(alias = "up_proj")]
    Up,
    #[serde(alias = "down_proj")]
    Down,
}

impl Target {
    pub const ALL: [Target; 7] =
        [Target::Query, Target::Key, Target::Value, Target::Output, Target::Gate, Target::Up, Target::Down];

    pub fn slot(self, layer: usize) -> Slot {
        match self {
            Target::Query => Slot::Query { layer },
            Target::Key => Slot::Key { layer },
            Target::Value => Slot::Value { layer },
            Target::Output => Slot::Output { layer },
            Target::Gate => Slot::Gate { layer, expert: None },
            Target::Up => Slot::Up { layer, expert: None },
            Target::Down => Slot::Down { layer, expert: None },
        }
    }

    /// As Hugging Face's models and PEFT call it.
    pub fn module(self) -> &'static str {
        match self {
            Target::Query => "q_proj",
            Target::Key => "k_proj",
            Target::Value => "v_proj",
            Target::Output => "o_proj",
            Target::Gate => "gate_proj",
            Target::Up => "up_proj",
            Target::Down => "down_proj",
        }
    }

    /// The number of its group in a layer.
    fn kind(self) -> usize {
        match self {
            Target::Query | Target::Key | Target::Value => 0,
            Target::Output => 1,
            Target::Gate | Target::Up => 2,
            Target::Down => 3,
        }
    }
}

/// What an adapter is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Lora {
    pub rank: usize,
    pub alpha: f32,
    pub dropout: f32,
    pub targets: Vec<Target>,
}

impl Lora {
    /// On the output: alpha / rank.
    pub fn scale(&self) -> f32 {
        self.alpha / self.rank as f32
    }

    fn check(&self) -> Result<(), TrainError> {
        let wrong = |setting, value: String, rule| Err(TrainError::Setting { setting, value, rule });
        if !(1..=4096).contains(&self.rank) {
            return wrong("rank", self.rank.to_string(), "it must be from 1 to 4096");
        }
        if !(self.alpha.is_finite() && self.alpha > 0.0) {
            return wrong("alpha", self.alpha.to_string(), "it must be a positive number");
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return wrong("dropout", self.dropout.to_string(), "it must be from 0 to below 1");
        }
        if self.targets.is_empty() {
            return wrong("targets", "empty".to_owned(), "an adapter needs at least one of q, k, v, o, gate, up, down");
        }
        Ok(())
    }
}

/// The trained matrices, flat.
#[derive(Clone, Debug)]
pub(crate) struct Adapter {
    pub settings: Lora,
    pub modules: Vec<Module>,
    pub values: AlignedVec<f32>,
    widths: [usize; 4],
    layers: Vec<[Part; 4]>,
}

/// One adapted matrix.
#[derive(Clone, Debug)]
pub(crate) struct Module {
    pub layer: usize,
    pub target: Target,
    /// A: (rank, inputs)
    pub a: Range<usize>,
    /// B: (outputs, rank)
    pub b: Range<usize>,
    pub inputs: usize,
    pub outputs: usize,
}

/// The modules of one group of one layer.
#[derive(Clone, Debug, Default)]
struct Part {
    /// All A, one below the other.
    a: Range<usize>,
    inputs: usize,
    /// First column of the group's output, columns, B.
    columns: Vec<(usize, usize, Range<usize>)>,
}

impl Adapter {
    /// A as PEFT begins, uniform in ±1/√inputs; B zero, so that nothing changes at first.
    pub fn new(config: &Config, settings: &Lora, seed: u64) -> Result<Self, TrainError> {
        settings.check()?;
        let network = |target: &&Target| matches!(target, Target::Gate | Target::Up | Target::Down);
        if let Some(target) = settings.targets.iter().find(network).filter(|_| config.experts.is_some()) {
            let rule = "experts get no adapters; choose among q, k, v, o";
            return Err(TrainError::Setting { setting: "targets", value: target.module().to_owned(), rule });
        }
        let rank = settings.rank;
        let (mut len, mut modules, mut layers, mut widths) = (0, Vec::new(), Vec::new(), [0; 4]);
        for layer in 0..config.layers {
            let groups = groups(layer);
            let mut parts: [Part; 4] = Default::default();
            for (kind, part) in parts.iter_mut().enumerate() {
                let wanted: Vec<Target> = Target::ALL
                    .into_iter()
                    .filter(|target| target.kind() == kind && settings.targets.contains(target))
                    .collect();
                let inputs = groups[kind].shape(config).1;
                widths[kind] = wanted.len() * rank;
                part.inputs = inputs;
                part.a = len..len + wanted.len() * rank * inputs;
                let (first, mut at) = (len, part.a.end);
                let mut column = 0;
                for slot in groups[kind].slots(config) {
                    let outputs = slot.shape(config)[0];
                    if let Some(number) = wanted.iter().position(|target| target.slot(layer) == slot) {
                        let a = first + number * rank * inputs..first + (number + 1) * rank * inputs;
                        let b = at..at + outputs * rank;
                        at = b.end;
                        part.columns.push((column, outputs, b.clone()));
                        modules.push(Module { layer, target: wanted[number], a, b, inputs, outputs });
                    }
                    column += outputs;
                }
                len = at;
            }
            layers.push(parts);
        }
        let mut values = AlignedVec::new(len);
        for module in &modules {
            let stream = Stream::new(seed, &[1, module.layer as u64, module.target as u64]);
            let bound = 1.0 / (module.inputs as f32).sqrt();
            for (i, value) in values[module.a.clone()].iter_mut().enumerate() {
                *value = (2.0 * stream.unit(i as u64) - 1.0) * bound;
            }
        }
        Ok(Self { settings: settings.clone(), modules, values, widths, layers })
    }

    /// Modules times rank of group `kind`.
    pub fn width(&self, kind: usize) -> usize {
        self.widths[kind]
    }

    /// out (T, N) += the adapter's share of group `kind` for x (T, inputs); leaves in `low` what the backward pass needs.
    pub fn forward(
        &self,
        m: &Machine,
        (layer, kind): (usize, usize),
        x: &[u16],
        out: &mut [f32],
        low: &mut [u16],
        s: &mut LoraScratch,
        dropout: Option<&Dropout>,
    ) {
        let part = &self.layers[layer][kind];
        let (width, rank) = (self.widths[kind], self.settings.rank);
        if width == 0 {
            return;
        }
        let t = x.len() / part.inputs;
        let (low, columns) = (&mut low[..t * width], out.len() / t);
        let x = self.dropped(m, (layer, kind), x, &mut s.dropped, dropout);
        let a = Operand::rows(Values::F32(&self.values[part.a.clone()]), width, part.inputs);
        let sums = &mut s.low[..t * width];
        m.product(Operand::rows(Values::Bf16(x), t, part.inputs), a, OutMut::f32(sums), Then::Store);
        m.scale(sums, self.settings.scale());
        m.round(sums, low);
        for (number, (first, outputs, b)) in part.columns.iter().enumerate() {
            let low = Operand::rows(Values::Bf16(&low[number * rank..]), t, rank).with_stride(width);
            let b = Operand::rows(Values::F32(&self.values[b.clone()]), *outputs, rank);
            m.product(low, b, OutMut::f32(&mut out[*first..]).with_stride(columns), Then::Add);
        }
    }

    /// grads += and d_x (T, inputs) +=, for dy (T, N).
    pub fn backward(
        &self,
        m: &Machine,
        (layer, kind): (usize, usize),
        dy: Values,
        x: &[u16],
        low: &[u16],
        d_x: &mut [f32],
        grads: &mut [f32],
        s: &mut LoraScratch,
        dropout: Option<&Dropout>,
    ) {
        let part = &self.layers[layer][kind];
        let (width, rank, inputs) = (self.widths[kind], self.settings.rank, part.inputs);
        if width == 0 {
            return;
        }
        let t = x.len() / inputs;
        let columns = match dy {
            Values::F32(dy) => dy.len() / t,
            Values::Bf16(dy) => dy.len() / t,
        };
        let d_low = &mut s.low[..t * width];
        for (number, (first, outputs, b)) in part.columns.iter().enumerate() {
            let dy = from(dy, *first);
            let low = Values::Bf16(&low[number * rank..t * width]);
            m.product(
                Operand::transposed(dy, *outputs, t).with_stride(columns),
                Operand::transposed(low, rank, t).with_stride(width),
                OutMut::f32(&mut grads[b.clone()]),
                Then::Add,
            );
            m.product(
                Operand::rows(dy, t, *outputs).with_stride(columns),
                Operand::transposed(Values::F32(&self.values[b.clone()]), rank, *outputs),
                OutMut::f32(&mut d_low[number * rank..]).with_stride(width),
                Then::Store,
            );
        }
        m.scale(d_low, self.settings.scale());
        let dropped = self.dropped(m, (layer, kind), x, &mut s.dropped, dropout);
        m.product(
            Operand::transposed(Values::F32(d_low), width, t),
            Operand::transposed(Values::Bf16(dropped), inputs, t),
            OutMut::f32(&mut grads[part.a.clone()]),
            Then::Add,
        );
        let d_low = Operand::rows(Values::F32(d_low), t, width);
        let a = Operand::transposed(Values::F32(&self.values[part.a.clone()]), inputs, width);
        let Some(dropout) = dropout.filter(|_| self.settings.dropout > 0.0) else {
            m.product(d_low, a, OutMut::f32(&mut d_x[..t * inputs]), Then::Add);
            return;
        };
        let d_dropped = &mut s.d_dropped[..t * inputs];
        m.product(d_low, a, OutMut::f32(d_dropped), Then::Store);
        let mask = dropout.mask(layer, kind, inputs, self.settings.dropout);
        let d_dropped = &*d_dropped;
        m.pool.chunks([(&mut d_x[..t * inputs], ROWS * inputs)], |chunk, [d_x]| {
            let first = chunk * ROWS * inputs;
            for (i, (d_x, d)) in d_x.iter_mut().zip(&d_dropped[first..]).enumerate() {
                *d_x += d * mask.factor(first + i);
            }
        });
    }

    /// values (outputs, inputs) += (alpha / rank) · B A where `slot` is adapted.
    pub fn merge(&self, slot: Slot, values: &mut [f32]) {
        let (rank, scale) = (self.settings.rank, self.settings.scale());
        for module in self.modules.iter().filter(|module| module.target.slot(module.layer) == slot) {
            let (a, b) = (&self.values[module.a.clone()], &self.values[module.b.clone()]);
            for (row, b) in values.chunks_exact_mut(module.inputs).zip(b.chunks_exact(rank)) {
                for (a, b) in a.chunks_exact(module.inputs).zip(b) {
                    row.iter_mut().zip(a).for_each(|(value, a)| *value += scale * b * a);
                }
            }
        }
    }

    fn dropped<'a>(
        &self,
        m: &Machine,
        (layer, kind): (usize, usize),
        x: &'a [u16],
        room: &'a mut [u16],
        dropout: Option<&Dropout>,
    ) -> &'a [u16] {
        let Some(dropout) = dropout.filter(|_| self.settings.dropout > 0.0) else { return x };
        let inputs = self.layers[layer][kind].inputs;
        let mask = dropout.mask(layer, kind, inputs, self.settings.dropout);
        let out = &mut room[..x.len()];
        m.pool.chunks([(&mut *out, ROWS * inputs)], |chunk, [out]| {
            let first = chunk * ROWS * inputs;
            for (i, (out, x)) in out.iter_mut().zip(&x[first..]).enumerate() {
                *out = f32_to_bf16(bf16_to_f32(*x) * mask.factor(first + i));
            }
        });
        out
    }
}

/// Which inputs are left out: by seed, step, place and the token's number in the step, so that micro-batches do not matter.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dropout {
    pub seed: u64,
    pub step: u64,
    pub first_token: u64,
}

struct Mask {
    stream: Stream,
    first: u64,
    threshold: u64,
    kept: f32,
}

impl Dropout {
    fn mask(&self, layer: usize, kind: usize, inputs: usize, probability: f32) -> Mask {
        Mask {
            stream: Stream::new(self.seed, &[2, self.step, layer as u64, kind as u64]),
            first: self.first_token * inputs as u64,
            threshold: (f64::from(probability) * 65_536.0).round() as u64,
            kept: 1.0 / (1.0 - probability),
        }
    }
}

impl Mask {
    fn factor(&self, i: usize) -> f32 {
        let at = self.first + i as u64;
        let draw = (self.stream.bits(at / 4) >> (16 * (at % 4))) & 0xffff;
        if draw < self.threshold { 0.0 } else { self.kept }
    }
}

/// The groups of a layer in the order of their numbers.
pub(crate) fn groups(layer: usize) -> [Group; 4] {
    [
        Group::Attention { layer },
        Group::Output { layer },
        Group::GateUp { layer, expert: None },
        Group::Down { layer, expert: None },
    ]
}

/// Rows that one task takes.
const ROWS: usize = 16;
