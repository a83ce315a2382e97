//! Drawing from the nucleus of a flat distribution: thousands of candidates of which only those around two places need an
//! order. Probabilities go into buckets by their leading bits; a bucket is sorted only if the nucleus ends in it or the
//! token is drawn from it. So the time is linear in the vocabulary where `select.rs` would sort all of it.

use super::select::more_likely;

/// Buffers of [`Buckets::draw`].
pub(super) struct Buckets {
    /// Σ probability of each bucket, in the order of tokens.
    sums: Vec<f64>,
    /// The bucket that is being looked into, in the order of [`more_likely`].
    members: Vec<(f32, u32)>,
}

/// 4 of the 23 bits of the significand: a bucket's values differ by a sixteenth at most.
const SHIFT: u32 = 19;
/// Probabilities are at most 1; a little more where rounding made it.
const COUNT: usize = (0x4000_0000 >> SHIFT) as usize;

impl Buckets {
    pub(super) fn with_capacity(vocab_size: usize) -> Self {
        Self { sums: vec![0.0; COUNT], members: Vec::with_capacity(vocab_size) }
    }

    /// Of the most likely of `probabilities` (V), as many as reach `target` in sum and are at least `least`: the first whose
    /// running sum, in the order of [`more_likely`], exceeds `drawn_at` of the sum of them all. `None` if there are none.
    pub(super) fn draw(&mut self, probabilities: &[f32], target: f64, least: f32, drawn_at: f64) -> Option<u32> {
        let kept = |probability: f32| probability > 0.0 && probability >= least;
        self.sums.fill(0.0);
        for &probability in probabilities.iter().filter(|probability| kept(**probability)) {
            self.sums[bucket(probability)] += f64::from(probability);
        }
        let (mut total, mut last, mut cut) = (0.0, None, usize::MAX);
        for bucket in (0..COUNT).rev().filter(|bucket| self.sums[*bucket] > 0.0) {
            last = Some(bucket);
            if total + self.sums[bucket] >= target {
                self.collect(probabilities, bucket, kept);
                let mut within = 0.0;
                cut = self.members.len();
                for (place, (probability, _)) in self.members.iter().enumerate() {
                    within += f64::from(*probability);
                    if total + within >= target {
                        cut = place + 1;
                        break;
                    }
                }
                // From here on the bucket ends where the nucleus does.
                self.sums[bucket] = within;
                total += within;
                break;
            }
            total += self.sums[bucket];
        }
        let (last, drawn) = (last?, drawn_at * total);
        let mut running = 0.0;
        for bucket in (last..COUNT).rev().filter(|bucket| self.sums[*bucket] > 0.0) {
            if running + self.sums[bucket] > drawn || bucket == last {
                if bucket != last || cut == usize::MAX {
                    self.collect(probabilities, bucket, kept);
                } else {
                    self.members.truncate(cut);
                }
                let exceeds = |(probability, _): &(f32, u32)| {
                    running += f64::from(*probability);
                    running > drawn
                };
                // The bucket's own order rounds otherwise than that of its tokens.
                let place = self.members.iter().position(exceeds).or(self.members.len().checked_sub(1))?;
                return self.members.get(place).map(|(_, token)| *token);
            }
            running += self.sums[bucket];
        }
        None
    }

    fn collect(&mut self, probabilities: &[f32], of: usize, kept: impl Fn(f32) -> bool) {
        self.members.clear();
        let candidates = probabilities.iter().copied().zip(0..);
        self.members.extend(candidates.filter(|(probability, _)| bucket(*probability) == of && kept(*probability)));
        self.members.sort_unstable_by(more_likely);
    }
}

fn bucket(probability: f32) -> usize {
    ((probability.to_bits() >> SHIFT) as usize).min(COUNT - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same by sorting everything.
    fn plain(probabilities: &[f32], target: f64, least: f32, drawn_at: f64) -> Option<u32> {
        let mut sorted: Vec<_> = probabilities.iter().copied().zip(0..).filter(|(value, _)| *value > 0.0).collect();
        sorted.sort_by(more_likely);
        let mut sum = 0.0;
        let kept = sorted.iter().position(|(value, _)| {
            sum += f64::from(*value);
            sum >= target
        });
        sorted.truncate(kept.map_or(sorted.len(), |place| place + 1));
        sorted.retain(|(value, _)| *value >= least);
        let drawn = drawn_at * sorted.iter().map(|(value, _)| f64::from(*value)).sum::<f64>();
        let mut running = 0.0;
        let exceeds = |(value, _): &&(f32, u32)| {
            running += f64::from(*value);
            running > drawn
        };
        sorted.iter().find(exceeds).or(sorted.last()).map(|(_, token)| *token)
    }

    #[test]
    fn draws_what_a_full_sort_would_draw() {
        // Multiples of 2^-20, whose sums are exact in any order; many equals, some 0, one bucket or many.
        for (size, spread) in [(1, 1), (40, 7), (700, 1), (5000, 3000), (5000, 9)] {
            let value = |i: u32| (1 + (i.wrapping_mul(2_654_435_761) >> 12) % spread) as f32 / (1 << 20) as f32;
            let values: Vec<f32> = (0..size).map(|i| if i % 13 == 12 { 0.0 } else { value(i) }).collect();
            let total: f64 = values.iter().copied().map(f64::from).sum();
            let mut buckets = Buckets::with_capacity(values.len());
            for top_p in [0.0, 0.1, 0.5, 0.95, 1.0, 1.1] {
                for least in [0.0, value(5), 1.0] {
                    for drawn_at in [0.0, 0.2, 0.5, 0.77, 0.999_999] {
                        let (one, other) = (
                            buckets.draw(&values, top_p * total, least, drawn_at),
                            plain(&values, top_p * total, least, drawn_at),
                        );
                        assert_eq!(one, other, "{size} {spread} {top_p} {least} {drawn_at}");
                    }
                }
            }
        }
    }
}
