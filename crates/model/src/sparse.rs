//! A sparse mixture of feed-forward networks: rows are grouped by the experts that they chose, all experts' products run
//! together, and each row adds up what its experts made, in ascending order, whoever else is in the batch.
#![cfg_attr(
    not(test),
    expect(clippy::indexing_slicing, reason = "sizes come from the checked configuration; experts from its router")
)]

use falaj_kernels::{ActivationKind, Gated, Product, Then};
use falaj_tensor::Weight;

use crate::Model;
use crate::decoder::{TASK_ROWS, kind_for};
use crate::params::{Layer, Swiglu};
use crate::workspace::{Chosen, Mixture, Workspace, recycle};

impl Model {
    /// x += Σ weight·expert(norm(x)) on the first `t` rows of `ws.x`: softmax over all experts, the best of them, weights
    /// made to sum to 1. Source: Jiang et al. 2024 (Mixtral), § 2.1.
    pub(crate) fn sparse(&self, layer: &Layer, router: &Weight, experts: &[Swiglu], ws: &mut Workspace, t: usize) {
        self.route(layer, router, experts.len(), ws, t);
        let (d, f, eps) = (self.config.hidden_size, self.config.ffn_size, self.config.norm_eps);
        let (Some(first), p) = (experts.first(), ws.mixture.chosen.len()) else { return };
        let Mixture { gathered, chosen, places, gated, products, .. } = &mut ws.mixture;
        let gathered = &mut gathered[..p * d];
        let groups = || chosen.chunk_by(|a, b| a.expert == b.expert);

        // The rows of each expert beside each other  (P, D)
        let x = &ws.x[..t * d];
        ws.pool.chunks([(&mut *gathered, TASK_ROWS * d)], |chunk, [out]| {
            for (chosen, out) in chosen[chunk * TASK_ROWS..].iter().zip(out.chunks_exact_mut(d)) {
                out.copy_from_slice(&x[chosen.row * d..][..d]);
            }
        });
        let all = |kind_of: fn(&Swiglu) -> ActivationKind| {
            experts.iter().map(kind_of).reduce(|all, kind| all | kind).unwrap_or(kind_of(first))
        };
        let kind = all(|network| kind_for([&network.gate, &network.up]));
        ws.activations.set_normed(&self.ops, &ws.pool, gathered, &layer.ffn_norm, eps, p, kind);

        // inner (P, F)
        let mut rest = &mut ws.inner[..p * f];
        let (mut list, mut row): (Vec<Gated>, usize) = (recycle(std::mem::take(gated)), 0);
        for group in groups() {
            let (network, rows) = (&experts[group[0].expert], row..row + group.len());
            let (out, behind) = rest.split_at_mut(group.len() * f);
            (rest, row) = (behind, rows.end);
            list.push(Gated { gate: network.gate.view(), up: network.up.view(), rows, out });
        }
        self.ops.gated(&ws.pool, &ws.activations, &mut list);
        *gated = recycle(list);

        // gathered (P, D)
        let kind = all(|network| kind_for([&network.down]));
        ws.activations.set(&self.ops, &ws.pool, &ws.inner[..p * f], p, f, kind);
        let mut rest = &mut *gathered;
        let (mut list, mut row): (Vec<Product>, usize) = (recycle(std::mem::take(products)), 0);
        for group in groups() {
            let (network, rows) = (&experts[group[0].expert], row..row + group.len());
            let (out, behind) = rest.split_at_mut(group.len() * d);
            (rest, row) = (behind, rows.end);
            list.push(Product { w: network.down.view(), rows, out, then: Then::Store });
        }
        self.ops.matmul(&ws.pool, &ws.activations, &mut list);
        *products = recycle(list);

        let used = p / t;
        ws.pool.chunks([(&mut ws.x[..t * d], TASK_ROWS * d)], |chunk, [x]| {
            for (i, x) in x.chunks_exact_mut(d).enumerate() {
                let places = &places[(chunk * TASK_ROWS + i) * used..][..used];
                for (k, x) in x.chunks_mut(SUM_LEN).enumerate() {
                    let mut sums = [0.0; SUM_LEN];
                    for &at in places {
                        let (weight, values) = (chosen[at].weight, &gathered[at * d + k * SUM_LEN..][..x.len()]);
                        sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += weight * value);
                    }
                    x.iter_mut().zip(sums).for_each(|(x, sum)| *x += sum);
                }
            }
        });
    }

    /// Which experts the first `t` rows take, by expert and row, into `ws.mixture`.
    fn route(&self, layer: &Layer, router: &Weight, experts: usize, ws: &mut Workspace, t: usize) {
        let d = self.config.hidden_size;
        let Mixture { routes, chosen, places, .. } = &mut ws.mixture;
        let (x, routes) = (&ws.x[..t * d], &mut routes[..t * experts]);
        let (norm, eps) = (&layer.ffn_norm, self.config.norm_eps);
        ws.activations.set_normed(&self.ops, &ws.pool, x, norm, eps, t, kind_for([router]));
        let product = Product { w: router.view(), rows: 0..t, out: &mut *routes, then: Then::Store };
        self.ops.matmul(&ws.pool, &ws.activations, &mut [product]);

        let used = self.config.experts.map_or(experts, |experts| experts.used);
        chosen.clear();
        for (row, probabilities) in routes.chunks_exact_mut(experts).enumerate() {
            self.ops.softmax(probabilities);
            choose(probabilities, used, row, chosen);
        }
        chosen.sort_unstable_by_key(|chosen| (chosen.expert, chosen.row));
        places.clear();
        places.resize(chosen.len(), FREE);
        for (at, chosen) in chosen.iter().enumerate() {
            let mine = places[chosen.row * used..][..used].iter_mut().find(|place| **place == FREE);
            if let Some(place) = mine {
                *place = at;
            }
        }
    }
}

/// Appends the `used` largest of `probabilities` (X), the lower expert first among equals, with weights that sum to 1.
fn choose(probabilities: &[f32], used: usize, row: usize, chosen: &mut Vec<Chosen>) {
    let start = chosen.len();
    for _ in 0..used {
        let mut best: Option<(usize, f32)> = None;
        for (expert, &weight) in probabilities.iter().enumerate() {
            let taken = chosen[start..].iter().any(|chosen| chosen.expert == expert);
            if !taken && best.is_none_or(|(_, most)| weight > most) {
                best = Some((expert, weight));
            }
        }
        let Some((expert, weight)) = best else { break };
        chosen.push(Chosen { expert, row, weight });
    }
    let sum: f32 = chosen[start..].iter().map(|chosen| chosen.weight).sum();
    chosen[start..].iter_mut().for_each(|chosen| chosen.weight /= sum);
}

const FREE: usize = usize::MAX;
/// Values summed at a time: enough for vectors, little enough for registers.
const SUM_LEN: usize = 64;
