//! A sparse mixture of feed-forward networks in training: routing, the experts' products on gathered rows, and the gradients of
//! both by hand. Rows go by expert, and by their place in the micro-batch within one, whatever the threads; a row adds up what its
//! experts made in ascending order. Source: Jiang et al. 2024 (Mixtral), § 2.1; the balance: Fedus et al. 2021 (Switch), eq. 4.
//!
//! Letters as in `decoder.rs`; X experts of which each token uses U; P = T·U places.

use falaj_kernels::{AlignedVec, OutMut, Then, Values, bf16_to_f32, f32_to_bf16};
use falaj_model::{Config, Experts};

use super::{Grads, linear, linear_backward};
use crate::arena::Group;
use crate::budget::Budget;
use crate::machine::Machine;
use crate::tape::BlockTape;
use crate::weights::Weights;

/// What routing leaves for the backward pass.
#[derive(Debug)]
pub(crate) struct MixtureTape {
    /// Over all experts: (T, X).
    probabilities: AlignedVec<f32>,
    /// Where each token's experts put their rows, ascending: (T, U).
    places: Vec<u32>,
    /// The token of each place: (P).
    rows: Vec<u32>,
    /// Of each place; a token's sum to 1: (P).
    weights: Vec<f32>,
    /// The first place of each expert, and the end: (X + 1).
    starts: Vec<usize>,
}

/// Room that every block uses again; empty in a dense model.
#[derive(Debug)]
pub(crate) struct MixtureScratch {
    /// By how much the balance counts, times the micro-batch's share of the step.
    pub balance: f32,
    /// The network's inputs by place, or gradients behind it: (P, D).
    rows: AlignedVec<u16>,
    /// What experts made, or gradients by place: (P, D).
    gathered: AlignedVec<f32>,
    /// Gradients of the router's logits: (T, X).
    d_logits: AlignedVec<f32>,
    /// ∂loss/∂weight · weight of each place: (P).
    d_weights: AlignedVec<f32>,
}

/// Places of a micro-batch of `t` tokens; `t` in a dense model.
pub(crate) fn places(config: &Config, t: usize) -> usize {
    t * config.experts.map_or(1, |experts| experts.used)
}

impl MixtureTape {
    pub fn new(config: &Config, t: usize, budget: &mut Budget) -> Self {
        let Experts { count, used } = config.experts.unwrap_or(Experts { count: 0, used: 0 });
        Self {
            probabilities: budget.buffer("activations", t * count),
            places: Vec::with_capacity(t * used),
            rows: Vec::with_capacity(t * used),
            weights: Vec::with_capacity(t * used),
            starts: Vec::with_capacity(count + 1),
        }
    }

    /// Chooses from the logits in `probabilities` (T, X): of each token the most likely experts, the lower number first among
    /// equals, with their softmax among themselves.
    fn route(&mut self, m: &Machine, t: usize, Experts { count, used }: Experts) {
        let Self { probabilities, places, rows, weights, starts } = self;
        let probabilities = &mut probabilities[..t * count];
        m.pool.chunks([(&mut *probabilities, ROWS * count)], |_, [rows]| {
            rows.chunks_exact_mut(count).for_each(|row| m.ops.softmax(row));
        });
        // The chosen of each token, ascending, for now in the order of tokens.
        let (mut chosen, mut shares) = (Vec::with_capacity(t * used), Vec::with_capacity(t * used));
        starts.clear();
        starts.resize(count + 1, 0);
        for row in probabilities.chunks_exact(count) {
            let first = chosen.len();
            for _ in 0..used {
                let free = (0..count).filter(|expert| !chosen[first..].contains(expert));
                let best = free.reduce(|best, expert| if row[expert] > row[best] { expert } else { best });
                chosen.extend(best);
            }
            chosen[first..].sort_unstable();
            let sum: f32 = chosen[first..].iter().map(|expert| row[*expert]).sum();
            for expert in &chosen[first..] {
                shares.push(row[*expert] / sum);
                starts[*expert + 1] += 1;
            }
        }
        for expert in 0..count {
            starts[expert + 1] += starts[expert];
        }
        let mut next = starts.clone();
        let p = chosen.len();
        for list in [&mut *places, &mut *rows] {
            list.clear();
            list.resize(p, 0);
        }
        weights.clear();
        weights.resize(p, 0.0);
        for (number, (expert, share)) in chosen.iter().zip(shares).enumerate() {
            let at = next[*expert];
            next[*expert] += 1;
            places[number] = at as u32;
            rows[at] = (number / used) as u32;
            weights[at] = share;
        }
    }

    /// Experts with at least one row, and their places.
    fn groups(&self) -> impl Iterator<Item = (usize, std::ops::Range<usize>)> + use<'_> {
        let ranges = self.starts.windows(2).map(|pair| pair[0]..pair[1]);
        ranges.enumerate().filter(|(_, range)| !range.is_empty())
    }
}

impl MixtureScratch {
    pub fn new(config: &Config, t: usize, budget: &mut Budget) -> Self {
        let (experts, p) = match config.experts {
            Some(experts) => (experts.count, places(config, t)),
            None => (0, 0),
        };
        Self {
            balance: 0.0,
            rows: budget.buffer("scratch", p * config.hidden_size),
            gathered: budget.buffer("scratch", p * config.hidden_size),
            d_logits: budget.buffer("scratch", t * experts),
            d_weights: budget.buffer("scratch", p),
        }
    }
}

/// out (T, D) += Σ weight · down(silu(gate) · up) of the norm's output on the tape. Without `out` only the tape is filled.
pub(super) fn forward(
    m: &Machine,
    weights: &mut Weights,
    (layer, experts): (usize, Experts),
    tape: &mut BlockTape,
    t: usize,
    out: Option<&mut [f32]>,
    s: &mut MixtureScratch,
) {
    let (d, f) = (m.config.hidden_size, m.config.ffn_size);
    let BlockTape { ffn_normed, gate_up, inner, mixture, .. } = tape;
    let ffn_normed = &ffn_normed[..t * d];
    let logits = &mut mixture.probabilities[..t * experts.count];
    linear(m, weights, Group::Router { layer }, ffn_normed, OutMut::f32(logits), Then::Store);
    mixture.route(m, t, experts);

    let p = mixture.rows.len();
    let (normed, gate_up, inner) = (&mut s.rows[..p * d], &mut gate_up[..p * 2 * f], &mut inner[..p * f]);
    gather(m, &mixture.rows, ffn_normed, d, normed);
    for (expert, places) in mixture.groups() {
        let group = Group::GateUp { layer, expert: Some(expert) };
        let (x, out) = (part(normed, &places, d), part_mut(gate_up, &places, 2 * f));
        linear(m, weights, group, x, OutMut::bf16(out), Then::Store);
    }
    m.swiglu(gate_up, inner);
    let Some(out) = out else { return };
    let gathered = &mut s.gathered[..p * d];
    for (expert, places) in mixture.groups() {
        let group = Group::Down { layer, expert: Some(expert) };
        let (x, out) = (part(inner, &places, f), part_mut(gathered, &places, d));
        linear(m, weights, group, x, OutMut::f32(out), Then::Store);
    }
    scatter(m, mixture, gathered, d, experts.used, Some(&mixture.weights), out);
}

/// d_normed (T, D) = the gradient before the router and the experts, for d_out (T, D) behind them. Room: wide (P, F) and (T, D),
/// d_inner (P, F), bits (P, 2F).
pub(super) fn backward(
    m: &Machine,
    weights: &mut Weights,
    (layer, experts): (usize, Experts),
    tape: &BlockTape,
    d_out: &[f32],
    d_normed: &mut [u16],
    (wide, d_inner, bits): (&mut [f32], &mut [u16], &mut [u16]),
    grads: &mut Grads,
    s: &mut MixtureScratch,
) {
    let (d, f) = (m.config.hidden_size, m.config.ffn_size);
    let BlockTape { ffn_normed, gate_up, inner, mixture, .. } = tape;
    let (t, p) = (d_out.len() / d, mixture.rows.len());
    let (gate_up, inner) = (&gate_up[..p * 2 * f], &inner[..p * f]);
    let (gathered, rows) = (&mut s.gathered[..p * d], &mut s.rows[..p * d]);
    let (d_inner, d_gate_up) = (&mut d_inner[..p * f], &mut bits[..p * 2 * f]);

    m.pool.chunks([(&mut *rows, ROWS * d)], |chunk, [out]| {
        for (i, out) in out.chunks_exact_mut(d).enumerate() {
            let place = chunk * ROWS + i;
            let (row, weight) = (mixture.rows[place] as usize, mixture.weights[place]);
            out.iter_mut().zip(&d_out[row * d..][..d]).for_each(|(out, d_out)| *out = f32_to_bf16(weight * d_out));
        }
    });
    let sums = &mut wide[..p * f];
    for (expert, places) in mixture.groups() {
        let group = Group::Down { layer, expert: Some(expert) };
        let (dy, x) = (Values::Bf16(part(rows, &places, d)), part(inner, &places, f));
        linear_backward(m, weights, group, dy, x, OutMut::f32(part_mut(sums, &places, f)), grads);
    }
    // weight · ∂loss/∂weight, since the weight went in above: never a division by a weight that vanished.
    let d_weights = &mut s.d_weights[..p];
    let (read, made) = (&*sums, inner);
    m.pool.chunks([(&mut *d_weights, ROWS)], |chunk, [out]| {
        for (i, out) in out.iter_mut().enumerate() {
            let at = (chunk * ROWS + i) * f;
            *out = read[at..][..f].iter().zip(&made[at..][..f]).map(|(d, x)| d * bf16_to_f32(*x)).sum();
        }
    });
    m.round(sums, d_inner);
    m.swiglu_backward(gate_up, d_inner, d_gate_up);
    gather(m, &mixture.rows, &ffn_normed[..t * d], d, rows);
    for (expert, places) in mixture.groups() {
        let group = Group::GateUp { layer, expert: Some(expert) };
        let (dy, x) = (Values::Bf16(part(d_gate_up, &places, 2 * f)), part(rows, &places, d));
        linear_backward(m, weights, group, dy, x, OutMut::f32(part_mut(gathered, &places, d)), grads);
    }
    forget_idle(m, weights, (layer, experts), mixture, grads);
    let d_logits = &mut s.d_logits[..t * experts.count];
    routing_backward(m, mixture, experts, d_weights, s.balance, d_logits);
    let (group, sums) = (Group::Router { layer }, &mut wide[..t * d]);
    linear_backward(m, weights, group, Values::F32(d_logits), &ffn_normed[..t * d], OutMut::f32(sums), grads);
    scatter(m, mixture, gathered, d, experts.used, None, sums);
    m.round(sums, d_normed);
}

/// An expert that no token chose has no product that would store its first gradient.
fn forget_idle(
    m: &Machine,
    weights: &Weights,
    (layer, experts): (usize, Experts),
    mixture: &MixtureTape,
    grads: &mut Grads,
) {
    let Weights::Trained(arena) = weights else { return };
    if !grads.is_first {
        return;
    }
    for expert in (0..experts.count).filter(|expert| mixture.starts[*expert] == mixture.starts[expert + 1]) {
        for group in [Group::GateUp { layer, expert: Some(expert) }, Group::Down { layer, expert: Some(expert) }] {
            m.fill(&mut grads.values[arena.index.group(&m.config, group)], 0.0);
        }
    }
}

/// d_logits (T, X): through the softmax among the chosen, w (∂w − Σ w ∂w), and through that over all for the balance,
/// X Σ f_e P_e, where f_e is an expert's share of the choices and P_e its mean probability.
fn routing_backward(
    m: &Machine,
    mixture: &MixtureTape,
    Experts { count, used }: Experts,
    d_weights: &[f32],
    balance: f32,
    d_logits: &mut [f32],
) {
    let (t, p) = (d_logits.len() / count, mixture.rows.len());
    let slopes: Vec<f32> = mixture
        .starts
        .windows(2)
        .map(|pair| balance * count as f32 * ((pair[1] - pair[0]) as f32 / p as f32) / t as f32)
        .collect();
    let expert_of = |place: usize| mixture.starts.partition_point(|start| *start <= place) - 1;
    m.pool.chunks([(d_logits, ROWS * count)], |chunk, [out]| {
        for (i, out) in out.chunks_exact_mut(count).enumerate() {
            let row = chunk * ROWS + i;
            let probabilities = &mixture.probabilities[row * count..][..count];
            let mean: f32 = probabilities.iter().zip(&slopes).map(|(p, slope)| p * slope).sum();
            for ((out, p), slope) in out.iter_mut().zip(probabilities).zip(&slopes) {
                *out = p * (slope - mean);
            }
            let places = &mixture.places[row * used..][..used];
            let total: f32 = places.iter().map(|place| d_weights[*place as usize]).sum();
            for place in places.iter().map(|place| *place as usize) {
                out[expert_of(place)] += d_weights[place] - mixture.weights[place] * total;
            }
        }
    });
}

/// out (P, D): the row of each place.
fn gather(m: &Machine, rows: &[u32], x: &[u16], d: usize, out: &mut [u16]) {
    m.pool.chunks([(out, ROWS * d)], |chunk, [out]| {
        for (out, row) in out.chunks_exact_mut(d).zip(&rows[chunk * ROWS..]) {
            out.copy_from_slice(&x[*row as usize * d..][..d]);
        }
    });
}

/// out (T, D) += the sum over each token's places of values (P, D), times the place's weight where there are any.
fn scatter(
    m: &Machine,
    mixture: &MixtureTape,
    values: &[f32],
    d: usize,
    used: usize,
    weights: Option<&[f32]>,
    out: &mut [f32],
) {
    m.pool.chunks([(out, ROWS * d)], |chunk, [out]| {
        for (i, out) in out.chunks_exact_mut(d).enumerate() {
            for place in &mixture.places[(chunk * ROWS + i) * used..][..used] {
                let place = *place as usize;
                let (weight, values) = (weights.map_or(1.0, |weights| weights[place]), &values[place * d..][..d]);
                out.iter_mut().zip(values).for_each(|(out, value)| *out += weight * value);
            }
        }
    });
}

fn part<'a, T>(values: &'a [T], places: &std::ops::Range<usize>, width: usize) -> &'a [T] {
    &values[places.start * width..places.end * width]
}

fn part_mut<'a, T>(values: &'a mut [T], places: &std::ops::Range<usize>, width: usize) -> &'a mut [T] {
    &mut values[places.start * width..places.end * width]
}

/// Rows that one task takes.
const ROWS: usize = 16;
