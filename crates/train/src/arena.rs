//! All parameters of a decoder in one flat f32 buffer, so that the optimiser, the clipping and a checkpoint see one slice. Query,
//! key and value of a layer lie side by side, and so do gate and up: each group is one product.

use std::ops::Range;

use falaj_kernels::{AlignedVec, Ops};
use falaj_model::{Config, Naming, Params, Slot};

use crate::TrainError;
use crate::random::Stream;

/// Parameters in the order of [`Slot::all`]; rows of queries and keys as `config.rope.layout` has them.
#[derive(Clone, Debug)]
pub struct Arena {
    pub(crate) config: Config,
    pub(crate) index: Index,
    pub(crate) values: AlignedVec<f32>,
}

impl Arena {
    /// # Errors
    /// Those of [`Arena::of`].
    pub fn zeros(config: &Config) -> Result<Self, TrainError> {
        let index = Index::new(config)?;
        Ok(Self { config: config.clone(), values: AlignedVec::new(index.len), index })
    }

    /// As a model begins: norms 1, the embedding with deviation 0.02, matrices with 1/√columns, and the last product of each
    /// block with 0.02/√(2L), so that the residual stream does not grow with depth.
    ///
    /// # Errors
    /// As [`Arena::zeros`].
    pub fn random(config: &Config, seed: u64) -> Result<Self, TrainError> {
        let mut arena = Self::zeros(config)?;
        for place in &arena.index.places {
            let deviation = match place.slot {
                Slot::Norm | Slot::AttentionNorm { .. } | Slot::FfnNorm { .. } => None,
                Slot::Embedding | Slot::Head => Some(0.02),
                Slot::Output { .. } | Slot::Down { .. } => Some(0.02 / (2.0 * config.layers as f32).sqrt()),
                _ => Some(1.0 / (place.cols as f32).sqrt()),
            };
            let stream = Stream::named(seed, &Naming::HuggingFace.name(place.slot));
            for (i, value) in arena.values[place.range.clone()].iter_mut().enumerate() {
                *value = deviation.map_or(1.0, |deviation| deviation * stream.normal(i as u64));
            }
        }
        Ok(arena)
    }

    /// The values of a model's parameters, whatever format they are in.
    ///
    /// # Errors
    /// As [`Arena::zeros`].
    pub fn of(config: &Config, params: &Params, ops: &Ops) -> Result<Self, TrainError> {
        let mut arena = Self::zeros(config)?;
        for place in &arena.index.places {
            let out = &mut arena.values[place.range.clone()];
            if let Some(weight) = params.matrix(place.slot) {
                for (row, out) in out.chunks_exact_mut(place.cols).enumerate() {
                    weight.dequantize_row(ops, row, out);
                }
            } else if let Some(vector) = params.vector(place.slot) {
                out.copy_from_slice(vector);
            }
        }
        Ok(arena)
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The parameter at `slot`, row-major; empty where this decoder has none.
    pub fn get(&self, slot: Slot) -> &[f32] {
        self.index.place(slot).map_or(&[], |place| &self.values[place.range.clone()])
    }

    /// As [`Arena::get`].
    pub fn get_mut(&mut self, slot: Slot) -> &mut [f32] {
        match self.index.place(slot) {
            Some(place) => &mut self.values[place.range.clone()],
            None => &mut [],
        }
    }

    /// Every parameter there is.
    pub fn slots(&self) -> impl Iterator<Item = Slot> {
        self.index.places.iter().map(|place| place.slot)
    }
}

/// Where each parameter lies in the flat buffer.
#[derive(Clone, Debug)]
pub(crate) struct Index {
    pub places: Vec<Place>,
    pub len: usize,
    per_layer: usize,
}

#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub slot: Slot,
    pub range: Range<usize>,
    /// 1 for a norm.
    pub rows: usize,
    pub cols: usize,
}

/// Matrices that lie side by side and are one product: `(rows, cols)` each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Group {
    /// ((H+2K)·E, D)
    Attention { layer: usize },
    /// (D, H·E)
    Output { layer: usize },
    /// (2F, D)
    GateUp { layer: usize, expert: Option<usize> },
    /// (D, F)
    Down { layer: usize, expert: Option<usize> },
    /// (X, D)
    Router { layer: usize },
    /// (V, D): the head, or the embedding that is it.
    Head,
}

impl Group {
    pub fn slots(self, config: &Config) -> impl DoubleEndedIterator<Item = Slot> {
        let slots = match self {
            Group::Attention { layer } => {
                [Some(Slot::Query { layer }), Some(Slot::Key { layer }), Some(Slot::Value { layer })]
            }
            Group::Output { layer } => [Some(Slot::Output { layer }), None, None],
            Group::GateUp { layer, expert } => {
                [Some(Slot::Gate { layer, expert }), Some(Slot::Up { layer, expert }), None]
            }
            Group::Down { layer, expert } => [Some(Slot::Down { layer, expert }), None, None],
            Group::Router { layer } => [Some(Slot::Router { layer }), None, None],
            Group::Head if config.tied_head => [Some(Slot::Embedding), None, None],
            Group::Head => [Some(Slot::Head), None, None],
        };
        slots.into_iter().flatten()
    }

    /// (rows, cols)
    pub fn shape(self, config: &Config) -> (usize, usize) {
        let &Config { hidden_size: d, heads, kv_heads, head_dim: e, ffn_size: f, vocab_size: v, .. } = config;
        match self {
            Group::Attention { .. } => ((heads + 2 * kv_heads) * e, d),
            Group::Output { .. } => (d, heads * e),
            Group::GateUp { .. } => (2 * f, d),
            Group::Down { .. } => (d, f),
            Group::Router { .. } => (config.experts.map_or(0, |experts| experts.count), d),
            Group::Head => (v, d),
        }
    }
}

impl Index {
    pub fn new(config: &Config) -> Result<Self, TrainError> {
        let mut len = 0;
        let mut places = Vec::new();
        for slot in Slot::all(config) {
            let shape = slot.shape(config);
            let (cols, rows) = (shape.last().copied().unwrap_or(0), if shape.len() == 1 { 1 } else { shape[0] });
            let range = len..len + rows * cols;
            len = range.end;
            places.push(Place { slot, range, rows, cols });
        }
        let per_layer = config.experts.map_or(9, |experts| 7 + 3 * experts.count);
        Ok(Self { places, len, per_layer })
    }

    pub fn place(&self, slot: Slot) -> Option<&Place> {
        // By computation where the slot is in a layer, so that it does not cost with the number of them.
        let in_layer = |layer: usize, number| Some(1 + layer * self.per_layer + number);
        let at = match slot {
            Slot::Embedding => Some(0),
            Slot::AttentionNorm { layer } => in_layer(layer, 0),
            Slot::Query { layer } => in_layer(layer, 1),
            Slot::Key { layer } => in_layer(layer, 2),
            Slot::Value { layer } => in_layer(layer, 3),
            Slot::Output { layer } => in_layer(layer, 4),
            Slot::FfnNorm { layer } => in_layer(layer, 5),
            // Behind the router, where there is one.
            Slot::Router { layer } => in_layer(layer, 6),
            Slot::Gate { layer, expert } => in_layer(layer, expert.map_or(6, |expert| 7 + 3 * expert)),
            Slot::Up { layer, expert } => in_layer(layer, expert.map_or(7, |expert| 8 + 3 * expert)),
            Slot::Down { layer, expert } => in_layer(layer, expert.map_or(8, |expert| 9 + 3 * expert)),
            other => self.places.iter().position(|place| place.slot == other),
        };
        self.places.get(at?).filter(|place| place.slot == slot)
    }

    pub fn range(&self, slot: Slot) -> Range<usize> {
        self.place(slot).map_or(0..0, |place| place.range.clone())
    }

    /// Of all matrices of a group.
    pub fn group(&self, config: &Config, group: Group) -> Range<usize> {
        let mut slots = group.slots(config);
        let first = slots.next().map_or(0..0, |slot| self.range(slot));
        let last = slots.next_back().map_or(first.clone(), |slot| self.range(slot));
        first.start..last.end
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use falaj_model::synthetic::tiny_config;

    #[test]
    fn groups_are_whole_and_every_place_is_found() {
        for (tied_head, expert) in [(false, None), (true, None), (true, Some(2))] {
            let experts = expert.map(|_| falaj_model::Experts { count: 3, used: 2 });
            let config = Config { tied_head, experts, ..tiny_config(96, 32) };
            let index = Index::new(&config).unwrap();
            let mut end = 0;
            for place in &index.places {
                assert_eq!(place.range.start, end);
                end = place.range.end;
                assert_eq!(index.place(place.slot).unwrap().range, place.range);
            }
            assert_eq!(end, index.len);
            for layer in 0..config.layers {
                let groups = [
                    Group::Attention { layer },
                    Group::Output { layer },
                    Group::GateUp { layer, expert },
                    Group::Down { layer, expert },
                ];
                let router = expert.map(|_| Group::Router { layer });
                for group in groups.into_iter().chain([Group::Head]).chain(router) {
                    let (rows, cols) = group.shape(&config);
                    assert_eq!(index.group(&config, group).len(), rows * cols, "{group:?}");
                }
            }
        }
    }

    #[test]
    fn random_values_depend_on_the_seed_alone() {
        let config = tiny_config(96, 32);
        let [a, b, c] = [1, 1, 2].map(|seed| Arena::random(&config, seed).unwrap());
        assert_eq!(a.values[..], b.values[..]);
        assert_ne!(a.get(Slot::Embedding), c.get(Slot::Embedding));
        assert!(a.get(Slot::Norm).iter().all(|value| *value == 1.0));
    }
}
