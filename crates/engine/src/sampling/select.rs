//! The most likely of many, without sorting all: a vocabulary has up to 131,072 tokens, and a step up to hundreds of rows to
//! sample. Values must not be NaN; −∞ is never among the chosen.

use std::cmp::Ordering;

/// Buffers of [`largest`].
#[derive(Default)]
pub(super) struct Select {
    /// The largest of each block of values, as it is and for finding the rank.
    maxima: Vec<f32>,
    ranked: Vec<f32>,
}

/// Values per block.
const BLOCK: usize = 64;
const LANES: usize = 16;

impl Select {
    pub(super) fn with_capacity(vocab_size: usize) -> Self {
        let blocks = vocab_size.div_ceil(BLOCK);
        Self { maxima: Vec::with_capacity(blocks), ranked: Vec::with_capacity(blocks) }
    }

    /// Leaves in `out` the `count` largest of `values` with their places, in the order of [`more_likely`].
    pub(super) fn largest(&mut self, values: &[f32], count: usize, out: &mut Vec<(f32, u32)>) {
        out.clear();
        // At least `count` values reach the `count`-th largest of the blocks' maxima; few others do.
        let mut least = f32::NEG_INFINITY;
        self.maxima.clear();
        self.maxima.extend(values.chunks(BLOCK).map(maximum));
        if (1..self.maxima.len() / 2).contains(&count) {
            self.ranked.clear();
            self.ranked.extend_from_slice(&self.maxima);
            let (_, nth, _) = self.ranked.select_nth_unstable_by(count - 1, |a, b| b.total_cmp(a));
            least = *nth;
        }
        for (block, (values, maximum)) in values.chunks(BLOCK).zip(&self.maxima).enumerate() {
            if *maximum >= least {
                let chosen = |value: f32| value >= least && value > f32::NEG_INFINITY;
                let places = (block * BLOCK) as u32..;
                out.extend(values.iter().copied().zip(places).filter(|(value, _)| chosen(*value)));
            }
        }
        let count = count.min(out.len());
        if count > 0 && count < out.len() {
            out.select_nth_unstable_by(count - 1, more_likely);
        }
        out.truncate(count);
        out.sort_unstable_by(more_likely);
    }
}

/// The largest of a block, in lanes, so that it becomes vector code.
fn maximum(values: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for values in values.chunks(LANES) {
        for (most, value) in lanes.iter_mut().zip(values) {
            *most = if *value > *most { *value } else { *most };
        }
    }
    lanes.into_iter().fold(f32::NEG_INFINITY, f32::max)
}

/// Σ values in f64, in an order that the length alone decides.
pub(super) fn sum(values: &[f32]) -> f64 {
    let mut lanes = [0.0_f64; LANES];
    for values in values.chunks(LANES) {
        for (sum, value) in lanes.iter_mut().zip(values) {
            *sum += f64::from(*value);
        }
    }
    lanes.into_iter().sum()
}

/// The place at which the running sum of `weights` first exceeds `target`; the last positive one where rounding lets none.
pub(super) fn reached(weights: &[f32], target: f64) -> Option<usize> {
    let mut total = 0.0;
    for (block, values) in weights.chunks(BLOCK).enumerate() {
        let with_block = total + sum(values);
        if with_block > target {
            let mut running = total;
            for (place, weight) in values.iter().enumerate() {
                running += f64::from(*weight);
                if *weight > 0.0 && running > target {
                    return Some(block * BLOCK + place);
                }
            }
            // The block's own order rounds otherwise than its lanes: its last positive weight is the place.
            if let Some(place) = values.iter().rposition(|weight| *weight > 0.0) {
                return Some(block * BLOCK + place);
            }
        }
        total = with_block;
    }
    weights.iter().rposition(|weight| *weight > 0.0)
}

/// By weight, then by token: a total order, so that equal weights never depend on how a sort went about it.
pub(super) fn more_likely(a: &(f32, u32), b: &(f32, u32)) -> Ordering {
    b.0.total_cmp(&a.0).then(a.1.cmp(&b.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values with many equals, and some masked.
    fn values(count: usize) -> Vec<f32> {
        (0..count as u32)
            .map(|i| {
                let hash = i.wrapping_mul(2_654_435_761) >> 20;
                if hash.is_multiple_of(11) { f32::NEG_INFINITY } else { (hash % 1500) as f32 / 100.0 - 7.0 }
            })
            .collect()
    }

    #[test]
    fn the_largest_are_those_of_a_full_sort() {
        for size in [1, 15, 64, 1000, 5000] {
            let values = values(size);
            let mut sorted: Vec<_> = values.iter().copied().zip(0..).filter(|(value, _)| value.is_finite()).collect();
            sorted.sort_by(more_likely);
            let (mut select, mut out) = (Select::default(), Vec::new());
            for count in [0, 1, 2, 20, 37, 64, 900, 6000] {
                select.largest(&values, count, &mut out);
                assert_eq!(out, sorted[..count.min(sorted.len())], "{count} of {size}");
            }
        }
    }

    #[test]
    fn the_running_sum_is_reached_where_a_plain_loop_reaches_it() {
        let weights: Vec<f32> = values(1000).iter().map(|value| if *value > 0.0 { *value } else { 0.0 }).collect();
        let total = sum(&weights);
        for share in [0.0, 0.1, 0.25, 0.5, 0.9, 0.999] {
            let target = share * total;
            let mut running = 0.0;
            let plain = weights.iter().position(|weight| {
                running += f64::from(*weight);
                *weight > 0.0 && running > target
            });
            assert_eq!(reached(&weights, target), plain);
        }
        assert_eq!(reached(&weights, total), weights.iter().rposition(|weight| *weight > 0.0));
        assert_eq!(reached(&[0.0; 70], 0.0), None);
    }
}
