//! The decoder once more, in plain f64 and with no thought for speed: what gradients are checked against.

use falaj_kernels::RopeLayout;
use falaj_model::{Config, Slot};
use falaj_train::{Arena, MicroBatch};

/// Parameters by slot, in f64.
#[derive(Clone)]
pub struct Reference {
    config: Config,
    /// By how much the experts' even use counts.
    pub balance: f64,
    pub parameters: Vec<(Slot, Vec<f64>)>,
}

impl Reference {
    pub fn of(arena: &Arena) -> Self {
        let values = |slot| arena.get(slot).iter().map(|value| f64::from(*value)).collect();
        let parameters = arena.slots().map(|slot| (slot, values(slot))).collect();
        Self { config: arena.config().clone(), balance: 0.0, parameters }
    }

    fn get(&self, slot: Slot) -> &[f64] {
        &self.parameters.iter().find(|(known, _)| *known == slot).unwrap().1
    }

    /// Logits of every token: (T, V).
    pub fn logits(&self, batch: &MicroBatch) -> Vec<Vec<f64>> {
        self.logits_and_routes(batch).0
    }

    /// And the router's logits of each layer, (T, X).
    fn logits_and_routes(&self, batch: &MicroBatch) -> (Vec<Vec<f64>>, Vec<Vec<Vec<f64>>>) {
        let &Config { hidden_size: d, heads, kv_heads, head_dim: e, layers, .. } = &self.config;
        let mut all_routes = Vec::new();
        let embedding = self.get(Slot::Embedding);
        let mut x: Vec<Vec<f64>> = batch.tokens.iter().map(|t| embedding[*t as usize * d..][..d].to_vec()).collect();
        for layer in 0..layers {
            let normed = self.norm(&x, Slot::AttentionNorm { layer });
            let rotated = |slot| -> Vec<Vec<f64>> {
                let mut rows = linear(&normed, self.get(slot), d);
                for (row, position) in rows.iter_mut().zip(&batch.positions) {
                    row.chunks_exact_mut(e).for_each(|head| self.rotate(head, *position));
                }
                rows
            };
            let (q, k) = (rotated(Slot::Query { layer }), rotated(Slot::Key { layer }));
            let v = linear(&normed, self.get(Slot::Value { layer }), d);
            let mut attended = vec![vec![0.0; heads * e]; x.len()];
            for t in 0..x.len() {
                let window = self.config.sliding_window.unwrap_or(usize::MAX);
                let first = (batch.starts[t] as usize).max((t + 1).saturating_sub(window));
                for head in 0..heads {
                    let from = head / (heads / kv_heads) * e;
                    let scores: Vec<f64> = (first..=t)
                        .map(|s| dot(&q[t][head * e..][..e], &k[s][from..][..e]) / (e as f64).sqrt())
                        .collect();
                    for (s, p) in (first..=t).zip(softmax(&scores)) {
                        for i in 0..e {
                            attended[t][head * e + i] += p * v[s][from + i];
                        }
                    }
                }
            }
            add(&mut x, &linear(&attended, self.get(Slot::Output { layer }), heads * e));
            let normed = self.norm(&x, Slot::FfnNorm { layer });
            match self.config.experts {
                None => add(&mut x, &self.network(&normed, layer, None)),
                Some(experts) => {
                    let all: Vec<_> = (0..experts.count).map(|e| self.network(&normed, layer, Some(e))).collect();
                    let routes = self.routes(&normed, layer);
                    for (t, routes) in routes.iter().enumerate() {
                        let best = chosen(routes, experts.used);
                        let weights = softmax(&best.iter().map(|expert| routes[*expert]).collect::<Vec<_>>());
                        for (expert, weight) in best.into_iter().zip(weights) {
                            x[t].iter_mut().zip(&all[expert][t]).for_each(|(x, y)| *x += weight * y);
                        }
                    }
                    all_routes.push(routes);
                }
            }
        }
        let head = if self.config.tied_head { Slot::Embedding } else { Slot::Head };
        (linear(&self.norm(&x, Slot::Norm), self.get(head), d), all_routes)
    }

    fn network(&self, normed: &[Vec<f64>], layer: usize, expert: Option<usize>) -> Vec<Vec<f64>> {
        let &Config { hidden_size: d, ffn_size: f, .. } = &self.config;
        let gate = linear(normed, self.get(Slot::Gate { layer, expert }), d);
        let up = linear(normed, self.get(Slot::Up { layer, expert }), d);
        let inner: Vec<Vec<f64>> = gate
            .iter()
            .zip(&up)
            .map(|(gate, up)| gate.iter().zip(up).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect())
            .collect();
        linear(&inner, self.get(Slot::Down { layer, expert }), f)
    }

    fn routes(&self, normed: &[Vec<f64>], layer: usize) -> Vec<Vec<f64>> {
        linear(normed, self.get(Slot::Router { layer }), self.config.hidden_size)
    }

    /// How far apart the last chosen and the first not chosen expert lie, at least: choices do not change within that.
    pub fn closest_choice(&self, batch: &MicroBatch) -> f64 {
        let used = self.config.experts.unwrap().used;
        let (_, routes) = self.logits_and_routes(batch);
        routes.iter().flatten().fold(f64::MAX, |least, routes| {
            let mut sorted = routes.clone();
            sorted.sort_by(|a, b| b.total_cmp(a));
            least.min(sorted[used - 1] - sorted[used])
        })
    }

    /// The sum over layers of X Σ f P: f an expert's share of the choices, P its mean probability.
    pub fn imbalance(&self, batch: &MicroBatch) -> f64 {
        let experts = self.config.experts.unwrap();
        let (_, layers) = self.logits_and_routes(batch);
        let of_layer = |routes: &Vec<Vec<f64>>| {
            let (mut shares, mut means) = (vec![0.0; experts.count], vec![0.0; experts.count]);
            for routes in routes {
                chosen(routes, experts.used).into_iter().for_each(|expert| shares[expert] += 1.0);
                means.iter_mut().zip(softmax(routes)).for_each(|(mean, p)| *mean += p);
            }
            let t = routes.len() as f64;
            let terms = shares.iter().zip(&means).map(|(share, mean)| share / (t * experts.used as f64) * mean / t);
            experts.count as f64 * terms.sum::<f64>()
        };
        layers.iter().map(of_layer).sum()
    }

    /// −ln p(target) of each token.
    pub fn losses(&self, batch: &MicroBatch) -> Vec<f64> {
        let targets = batch.targets.iter().map(|target| *target as usize);
        self.logits(batch).iter().zip(targets).map(|(logits, target)| -softmax(logits)[target].ln()).collect()
    }

    /// Their mean by weight.
    pub fn loss(&self, batch: &MicroBatch) -> f64 {
        let losses = self.losses(batch);
        let sum: f64 = losses.iter().zip(&batch.weights).map(|(loss, weight)| loss * f64::from(*weight)).sum();
        let balance = if self.balance == 0.0 { 0.0 } else { self.balance * self.imbalance(batch) };
        sum / batch.weight() + balance
    }

    pub fn set_layout(&mut self, layout: RopeLayout) {
        self.config.rope.layout = layout;
    }

    /// ∂loss/∂parameter number `i` of `place`, by central differences.
    pub fn derivative(&mut self, place: usize, i: usize, batch: &MicroBatch) -> f64 {
        let (step, value) = (1e-4, self.parameters[place].1[i]);
        let mut at = |value| {
            self.parameters[place].1[i] = value;
            self.loss(batch)
        };
        let (up, down) = (at(value + step), at(value - step));
        at(value);
        (up - down) / (2.0 * step)
    }

    fn norm(&self, x: &[Vec<f64>], slot: Slot) -> Vec<Vec<f64>> {
        let (weight, eps) = (self.get(slot), f64::from(self.config.norm_eps));
        x.iter()
            .map(|row| {
                let mean = row.iter().map(|value| value * value).sum::<f64>() / row.len() as f64;
                row.iter().zip(weight).map(|(value, weight)| value / (mean + eps).sqrt() * weight).collect()
            })
            .collect()
    }

    fn rotate(&self, head: &mut [f64], position: u32) {
        let half = head.len() / 2;
        for i in 0..half {
            let angle = f64::from(position) * self.config.rope.theta.powf(-(2.0 * i as f64) / head.len() as f64);
            let (a, b) = match self.config.rope.layout {
                RopeLayout::Halves => (i, i + half),
                RopeLayout::Interleaved => (2 * i, 2 * i + 1),
            };
            let (x, y) = (head[a], head[b]);
            head[a] = x * angle.cos() - y * angle.sin();
            head[b] = y * angle.cos() + x * angle.sin();
        }
    }
}

fn linear(x: &[Vec<f64>], w: &[f64], cols: usize) -> Vec<Vec<f64>> {
    x.iter().map(|x| w.chunks_exact(cols).map(|w| dot(x, w)).collect()).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add(x: &mut [Vec<f64>], y: &[Vec<f64>]) {
    x.iter_mut().zip(y).for_each(|(x, y)| x.iter_mut().zip(y).for_each(|(x, y)| *x += y));
}

/// The `used` largest, the lower number first among equals, ascending.
fn chosen(routes: &[f64], used: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..routes.len()).collect();
    order.sort_by(|a, b| routes[*b].total_cmp(&routes[*a]).then(a.cmp(b)));
    order.truncate(used);
    order.sort_unstable();
    order
}

pub fn softmax(x: &[f64]) -> Vec<f64> {
    let most = x.iter().copied().fold(f64::MIN, f64::max);
    let sum: f64 = x.iter().map(|x| (x - most).exp()).sum();
    x.iter().map(|x| (x - most).exp() / sum).collect()
}
