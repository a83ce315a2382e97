//! What one token costs a model, from its weights: bytes that must be read and operations that must be done, per format, and
//! the speeds that a machine's limits allow for it. Nothing here is measured.

use super::limits::Limits;
use falaj_kernels::Format;
use falaj_model::{FeedForward, Model};
use std::collections::BTreeMap;

#[derive(Debug, Default)]
pub struct Cost {
    pub formats: BTreeMap<String, PerFormat>,
    /// Keys and values that one more position of context adds to each token.
    pub position_bytes: f64,
    pub position_ops: f64,
}

/// Of one token, decoded alone.
#[derive(Clone, Copy, Debug)]
pub struct PerFormat {
    pub format: Format,
    pub bytes: f64,
    /// Multiplications and additions counted apart.
    pub ops: f64,
    /// Part of `ops` that a prompt needs once, not per token: the output head.
    pub head_ops: f64,
}

impl Cost {
    /// `position_bytes`: of the cache that the engine keeps, per position.
    pub fn of(model: &Model, position_bytes: f64) -> Self {
        let (params, config) = (model.params(), model.config());
        let mut cost = Self {
            position_bytes,
            // q·k and weight·v, for every head.
            position_ops: (4 * config.layers * config.heads * config.head_dim) as f64,
            ..Self::default()
        };
        // The embedding is a look-up of one row, unless it is the head too.
        cost.add(params.head(), 1.0, true);
        for layer in &params.layers {
            for weight in [&layer.query, &layer.key, &layer.value, &layer.output] {
                cost.add(weight, 1.0, false);
            }
            let (router, networks, share) = match &layer.ffn {
                FeedForward::Dense(network) => (None, std::slice::from_ref(network), 1.0),
                FeedForward::Sparse { router, experts } => {
                    let used = config.experts.map_or(1.0, |experts| experts.used as f64 / experts.count as f64);
                    (Some(router), experts.as_slice(), used)
                }
            };
            router.into_iter().for_each(|router| cost.add(router, 1.0, false));
            for network in networks {
                [&network.gate, &network.up, &network.down]
                    .into_iter()
                    .for_each(|weight| cost.add(weight, share, false));
            }
        }
        cost
    }

    fn add(&mut self, weight: &falaj_tensor::Weight, share: f64, head: bool) {
        let format = weight.format();
        let ops = 2.0 * weight.rows() as f64 * weight.cols() as f64 * share;
        let empty = PerFormat { format, bytes: 0.0, ops: 0.0, head_ops: 0.0 };
        let sum = self.formats.entry(format.to_string()).or_insert(empty);
        sum.bytes += weight.size_bytes() as f64 * share;
        sum.ops += ops;
        sum.head_ops += if head { ops } else { 0.0 };
    }

    pub fn bytes(&self) -> f64 {
        self.formats.values().map(|sum| sum.bytes).sum()
    }

    pub fn ops(&self) -> f64 {
        self.formats.values().map(|sum| sum.ops).sum()
    }

    /// Tokens per second of one answer, `context` positions in: reading and computing at the same time.
    pub fn decode_limit(&self, limits: &Limits, context: f64) -> f64 {
        let read_s = (self.bytes() + context * self.position_bytes) / limits.read_bytes_per_s;
        let products_s: f64 = self.formats.values().map(|sum| sum.ops / limits.of(sum.format).ops_per_s).sum();
        1.0 / read_s.max(products_s + context * self.position_ops / limits.f32.ops_per_s)
    }

    /// Tokens per second of a prompt of `tokens`, read `step_tokens` at a time.
    pub fn prompt_limit(&self, limits: &Limits, tokens: f64, step_tokens: f64) -> f64 {
        let steps = (tokens / step_tokens).ceil();
        let read_s = steps * self.bytes() / limits.read_bytes_per_s;
        let products = self
            .formats
            .values()
            .map(|sum| (tokens * (sum.ops - sum.head_ops) + sum.head_ops) / limits.of(sum.format).ops_per_s);
        // Each position looks back at half of the prompt on average.
        let attention_s = tokens * tokens / 2.0 * self.position_ops / limits.f32.ops_per_s;
        tokens / read_s.max(products.sum::<f64>() + attention_s)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use falaj_kernels::probe::Peak;
    use falaj_model::synthetic::{synthetic, tiny_config};

    #[test]
    fn every_weight_counts_once_and_the_embedding_only_as_a_head() {
        let model = synthetic(&tiny_config(100, 64), 1).unwrap();
        let cost = Cost::of(&model, 64.0);
        // Per layer: query and output (64, 64), key and value (32, 64), three of (128, 64); and the head (100, 64).
        let values = (2 * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 128 * 64) + 100 * 64) as f64;
        assert_eq!((cost.ops(), cost.bytes()), (2.0 * values, 4.0 * values));
        assert_eq!(cost.formats["F32"].head_ops, 2.0 * 6400.0);

        let peak = Peak { ops_per_s: 2.0 * values * 100.0, instruction: "" };
        let limits = Limits { read_bytes_per_s: 4.0 * values * 10.0, int8: peak, bf16: peak, f32: peak };
        assert_eq!(cost.decode_limit(&limits, 0.0).round(), 10.0, "memory bounds decoding");
        assert!(cost.decode_limit(&limits, 1000.0) < 10.0);
        assert!((100.0..130.0).contains(&cost.prompt_limit(&limits, 32.0, 32.0)), "arithmetic bounds prompts");
    }
}
