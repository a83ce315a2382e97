//! From logits to a token. The result depends on the logits, the parameters, the tokens so far, the seed and the output
//! position, and on nothing else: candidates have one total order and sums run in f64 in that order.

mod buckets;
mod select;

use std::cmp::Ordering;

use falaj_kernels::Ops;

use crate::request::{Sampling, TokenLogprob, TokenMask};
use buckets::Buckets;
use select::{Select, reached, sum};

/// Buffers for drawing tokens of one vocabulary. They take memory as far as draws use them.
pub struct Sampler {
    ops: Ops,
    /// (V): logits as penalties and masks change them.
    changed: Vec<f32>,
    probabilities: Vec<f32>,
    /// (logit or probability, token), as filled and ordered by the last draw.
    candidates: Vec<(f32, u32)>,
    select: Select,
    buckets: Buckets,
}

/// What came out of one draw.
#[derive(Clone, Debug, PartialEq)]
pub enum Drawn {
    Token {
        token: u32,
        logprob: Option<TokenLogprob>,
    },
    /// Masks left nothing to draw.
    Nothing,
    /// The logits are not numbers: a damaged model, or a bug.
    NotANumber,
}

/// What one draw depends on beside the logits.
pub struct Draw<'a> {
    pub sampling: &'a Sampling,
    pub seen: &'a Seen,
    /// Number of tokens generated before this one.
    pub position: u64,
    /// Only these, if present.
    pub allowed: Option<&'a TokenMask>,
    /// None of these.
    pub forbidden: &'a [u32],
    pub logprobs: Option<u8>,
}

/// Which tokens occurred, for the penalties: (token, occurrences among generated ones; 0: only in the prompt), by token.
/// Stays empty when no penalty asks for it.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    tokens: Vec<(u32, u32)>,
    wanted: bool,
}

impl Seen {
    /// With room for `max_tokens` further tokens.
    pub fn new(sampling: &Sampling, prompt: &[u32], max_tokens: usize) -> Self {
        let wanted =
            sampling.repetition_penalty != 1.0 || sampling.presence_penalty != 0.0 || sampling.frequency_penalty != 0.0;
        let mut tokens = Vec::new();
        if wanted {
            tokens.extend(prompt.iter().map(|token| (*token, 0)));
            tokens.sort_unstable();
            tokens.dedup();
            tokens.reserve_exact(max_tokens);
        }
        Self { tokens, wanted }
    }

    pub fn clone_with_room(&self, max_tokens: usize) -> Self {
        let mut clone = self.clone();
        if self.wanted {
            clone.tokens.reserve_exact(max_tokens);
        }
        clone
    }

    pub fn generated(&mut self, token: u32) {
        if !self.wanted {
            return;
        }
        match self.tokens.binary_search_by_key(&token, |(token, _)| *token) {
            Ok(place) => self.tokens[place].1 += 1,
            Err(place) => self.tokens.insert(place, (token, 1)),
        }
    }
}

impl Sampler {
    pub fn new(vocab_size: usize, ops: Ops) -> Self {
        Self {
            ops,
            changed: Vec::with_capacity(vocab_size),
            probabilities: Vec::with_capacity(vocab_size),
            candidates: Vec::with_capacity(vocab_size),
            select: Select::with_capacity(vocab_size),
            buckets: Buckets::with_capacity(vocab_size),
        }
    }

    /// Draws one token from `logits` (V).
    pub fn draw(&mut self, logits: &[f32], draw: &Draw) -> Drawn {
        let penalised = !draw.seen.tokens.is_empty() || !draw.sampling.logit_bias.is_empty();
        if !penalised && draw.allowed.is_none() && draw.forbidden.is_empty() {
            return self.draw_from(logits, draw, all_below_infinity(logits));
        }
        let mut changed = std::mem::take(&mut self.changed);
        changed.clear();
        changed.extend_from_slice(logits);
        penalise(&mut changed, draw.sampling, draw.seen);
        // Also what is about to be masked must be a number: the model is damaged, whatever the mask.
        let numbers = all_below_infinity(&changed);
        mask(&mut changed, draw);
        let drawn = self.draw_from(&changed, draw, numbers);
        self.changed = changed;
        drawn
    }

    /// The log-probability of `token` under `logits` (V), and of the `count` most likely; `None` where these are not numbers.
    pub fn score(&mut self, logits: &[f32], token: u32, count: usize) -> Option<TokenLogprob> {
        let best = self.ops.argmax(logits);
        (all_below_infinity(logits) && logits.get(best).is_some_and(|best| *best > f32::NEG_INFINITY))
            .then(|| self.logprob(logits, best, token, count))
    }

    fn draw_from(&mut self, logits: &[f32], draw: &Draw, numbers: bool) -> Drawn {
        if !numbers {
            return Drawn::NotANumber;
        }
        let best = self.ops.argmax(logits);
        if logits.get(best).is_none_or(|logit| *logit == f32::NEG_INFINITY) {
            return Drawn::Nothing;
        }
        let token = match draw.sampling.temperature {
            temperature if temperature > 0.0 => self.random(logits, best, draw),
            _ => best as u32,
        };
        let logprob = draw.logprobs.map(|count| self.logprob(logits, best, token, usize::from(count)));
        Drawn::Token { token, logprob }
    }

    fn random(&mut self, logits: &[f32], best: usize, draw: &Draw) -> u32 {
        let Sampling { temperature, top_k, top_p, min_p, seed, .. } = *draw.sampling;
        let drawn_at = uniform(seed, draw.position);
        // From the largest down, so that a tiny temperature gives 0 and not infinity.
        let max = logits[best];
        let scaled = |logit: &f32| (logit - max) / temperature;
        self.probabilities.clear();
        let top_k = top_k.map_or(usize::MAX, |k| k as usize);
        let cut = top_k > 0 && top_k < logits.len();
        if cut {
            self.select.largest(logits, top_k, &mut self.candidates);
            self.probabilities.extend(self.candidates.iter().map(|(logit, _)| scaled(logit)));
        } else {
            self.probabilities.extend(logits.iter().map(scaled));
        }
        self.ops.softmax(&mut self.probabilities);
        if cut {
            for (candidate, probability) in self.candidates.iter_mut().zip(&self.probabilities) {
                candidate.0 = *probability;
            }
        }
        let least = min_p.min(1.0) * self.probabilities.iter().fold(0.0, |most: f32, value| most.max(*value));
        match (cut, top_p < 1.0, min_p > 0.0) {
            (true, true, _) => {
                let target = f64::from(top_p) * sum(&self.probabilities);
                let kept = nucleus(&self.candidates, target).unwrap_or(self.candidates.len());
                self.candidates.truncate(kept);
            }
            (false, true, _) => {
                let target = f64::from(top_p) * sum(&self.probabilities);
                if !self.few_reach(target) {
                    let least = if min_p > 0.0 { least } else { 0.0 };
                    let drawn = self.buckets.draw(&self.probabilities, target, least, drawn_at);
                    return drawn.unwrap_or(best as u32);
                }
            }
            (false, false, true) => {
                self.candidates.clear();
                let likely = self.probabilities.iter().copied().zip(0..).filter(|(value, _)| *value >= least);
                self.candidates.extend(likely);
            }
            (false, false, false) => {
                let target = drawn_at * sum(&self.probabilities);
                return reached(&self.probabilities, target).unwrap_or(best) as u32;
            }
            (true, false, _) => {}
        }
        if min_p > 0.0 {
            self.candidates.retain(|candidate| candidate.0 >= least);
        }

        let total: f64 = self.candidates.iter().map(|candidate| f64::from(candidate.0)).sum();
        let target = drawn_at * total;
        let (mut running, mut drawn) = (0.0, best as u32);
        for &(probability, token) in self.candidates.iter().filter(|candidate| candidate.0 > 0.0) {
            running += f64::from(probability);
            drawn = token;
            if running > target {
                break;
            }
        }
        drawn
    }

    /// Makes as many of the most likely tokens candidates as it takes for their probabilities to reach `target`, if a few do:
    /// they nearly always do.
    fn few_reach(&mut self, target: f64) -> bool {
        self.select.largest(&self.probabilities, FEW, &mut self.candidates);
        let kept = nucleus(&self.candidates, target);
        self.candidates.truncate(kept.unwrap_or_default());
        kept.is_some()
    }

    fn logprob(&mut self, logits: &[f32], best: usize, token: u32, count: usize) -> TokenLogprob {
        self.probabilities.clear();
        self.probabilities.extend_from_slice(logits);
        self.ops.softmax(&mut self.probabilities);
        // ln Σ e^l = l_best − ln p_best
        let log_sum = logits[best] - falaj_kernels::ln(self.probabilities[best]);
        self.select.largest(logits, count, &mut self.candidates);
        TokenLogprob {
            logprob: logits[token as usize] - log_sum,
            top: self.candidates.iter().map(|(logit, token)| (*token, logit - log_sum)).collect(),
        }
    }
}

/// Without a branch per value, for this runs over the whole vocabulary. NaN and +∞ are not below +∞.
fn all_below_infinity(logits: &[f32]) -> bool {
    !logits.iter().fold(false, |bad, logit| bad | !matches!(logit.partial_cmp(&f32::INFINITY), Some(Ordering::Less)))
}

fn penalise(logits: &mut [f32], sampling: &Sampling, seen: &Seen) {
    for &(token, count) in &seen.tokens {
        let Some(logit) = logits.get_mut(token as usize) else { continue };
        if sampling.repetition_penalty != 1.0 {
            let penalty = sampling.repetition_penalty;
            *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
        }
        if count > 0 {
            *logit -= sampling.presence_penalty + sampling.frequency_penalty * count as f32;
        }
    }
    for &(token, bias) in &sampling.logit_bias {
        if let Some(logit) = logits.get_mut(token as usize) {
            *logit += bias;
        }
    }
}

fn mask(logits: &mut [f32], draw: &Draw) {
    if let Some(allowed) = draw.allowed {
        for (logits, word) in logits.chunks_mut(32).zip(&allowed.words) {
            // Whole words of a grammar's mask are mostly clear.
            for (bit, logit) in logits.iter_mut().enumerate() {
                if word >> bit & 1 == 0 {
                    *logit = f32::NEG_INFINITY;
                }
            }
        }
        let known = (allowed.words.len() * 32).min(logits.len());
        logits[known..].fill(f32::NEG_INFINITY);
    }
    for &token in draw.forbidden {
        if let Some(logit) = logits.get_mut(token as usize) {
            *logit = f32::NEG_INFINITY;
        }
    }
}

/// How many of the ordered candidates it takes for their weights to reach `target` (at least one); `None` if all do not.
fn nucleus(candidates: &[(f32, u32)], target: f64) -> Option<usize> {
    let mut sum = 0.0;
    let reaches = |candidate: &(f32, u32)| {
        sum += f64::from(candidate.0);
        sum >= target
    };
    candidates.iter().position(reaches).map(|place| place + 1)
}

/// Candidates that are looked for before a distribution counts as flat.
const FEW: usize = 64;

/// In [0, 1), 53 bits, from the seed and the output position alone.
fn uniform(seed: u64, position: u64) -> f64 {
    let bits = mix(mix(seed).wrapping_add(position));
    (bits >> 11) as f64 / (1_u64 << 53) as f64
}

/// SplitMix64's step. Source: Steele, Lea & Flood 2014, fig. 16.
fn mix(x: u64) -> u64 {
    let z = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 6] = [0.5, 2.0, -1.0, 2.0, 1.0, -3.0];

    fn draw_with(sampling: &Sampling, seen: &Seen, position: u64, logprobs: Option<u8>) -> Drawn {
        Sampler::new(6, Ops::best())
            .draw(&LOGITS, &Draw { sampling, seen, position, allowed: None, forbidden: &[], logprobs })
    }

    fn histogram(sampling: &Sampling) -> Vec<usize> {
        let mut counts = vec![0; LOGITS.len()];
        for position in 0..4000 {
            let Drawn::Token { token, .. } = draw_with(sampling, &Seen::default(), position, None) else { panic!() };
            counts[token as usize] += 1;
        }
        counts
    }

    #[test]
    fn greedy_takes_the_lowest_of_equals() {
        let drawn = draw_with(&Sampling::default(), &Seen::default(), 0, Some(2));
        let Drawn::Token { token: 1, logprob: Some(logprob) } = drawn else { panic!("{drawn:?}") };
        let sum: f64 = LOGITS.iter().map(|logit| f64::from(*logit).exp()).sum();
        assert!((f64::from(logprob.logprob) - (2.0 - sum.ln())).abs() < 1e-6);
        assert_eq!(logprob.top.iter().map(|(token, _)| *token).collect::<Vec<_>>(), [1, 3]);
        assert_eq!(logprob.top[0].1, logprob.logprob);
    }

    #[test]
    fn frequencies_follow_the_distribution() {
        let counts = histogram(&Sampling { temperature: 1.0, ..Sampling::default() });
        let total: f64 = LOGITS.iter().map(|logit| f64::from(*logit).exp()).sum();
        for (logit, count) in LOGITS.iter().zip(counts) {
            let expected = f64::from(*logit).exp() / total;
            assert!((count as f64 / 4000.0 - expected).abs() < 0.03, "{logit}: {count}, {expected}");
        }
    }

    #[test]
    fn filters_cut_the_tail() {
        let base = Sampling { temperature: 1.0, ..Sampling::default() };
        let kept = |sampling: Sampling| {
            let counts = histogram(&sampling);
            (0..counts.len()).filter(|token| counts[*token] > 0).collect::<Vec<_>>()
        };
        assert_eq!(kept(Sampling { top_k: Some(1), ..base.clone() }), [1]);
        assert_eq!(kept(Sampling { top_k: Some(3), ..base.clone() }), [1, 3, 4]);
        assert_eq!(kept(Sampling { top_p: 0.5, ..base.clone() }), [1, 3]);
        assert_eq!(kept(Sampling { top_p: 0.0, ..base.clone() }), [1]);
        assert_eq!(kept(Sampling { min_p: 0.3, ..base.clone() }), [1, 3, 4]);
        assert_eq!(kept(Sampling { temperature: 1e-30, ..base }), [1, 3]);
    }

    #[test]
    fn penalties_and_bias_move_logits() {
        let greedy = Sampling::default();
        let token = |sampling: &Sampling, seen: &Seen| match draw_with(sampling, seen, 0, None) {
            Drawn::Token { token, .. } => token,
            other => panic!("{other:?}"),
        };
        let presence = Sampling { presence_penalty: 0.5, ..greedy.clone() };
        let mut seen = Seen::new(&presence, &[3], 1);
        assert_eq!(token(&presence, &seen), 1);
        seen.generated(1);
        assert_eq!(token(&presence, &seen), 3);
        let repetition = Sampling { repetition_penalty: 4.0, ..greedy.clone() };
        assert_eq!(token(&repetition, &Seen::new(&repetition, &[1, 3], 0)), 4);
        let frequency = Sampling { frequency_penalty: 0.6, ..greedy.clone() };
        let mut seen = Seen::new(&frequency, &[], 4);
        [1, 1, 3, 3].iter().for_each(|token| seen.generated(*token));
        assert_eq!(token(&frequency, &seen), 4);
        assert_eq!(token(&Sampling { logit_bias: vec![(5, 100.0), (99, 1.0)], ..greedy }, &Seen::default()), 5);
    }

    #[test]
    fn masks_may_leave_nothing_and_nan_is_told() {
        let sampling = Sampling { temperature: 1.0, ..Sampling::default() };
        let seen = Seen::default();
        let mut mask = TokenMask::new(6);
        let mut sampler = Sampler::new(6, Ops::best());
        let mut draw = |mask: &TokenMask, forbidden: &[u32], logits: [f32; 6]| {
            let allowed = Some(mask);
            let logprobs = None;
            sampler.draw(&logits, &Draw { sampling: &sampling, seen: &seen, position: 0, allowed, forbidden, logprobs })
        };
        assert_eq!(draw(&mask, &[], LOGITS), Drawn::Nothing);
        mask.insert(5);
        assert_eq!(draw(&mask, &[], LOGITS), Drawn::Token { token: 5, logprob: None });
        assert_eq!(draw(&mask, &[5], LOGITS), Drawn::Nothing);
        for broken in [f32::NAN, f32::INFINITY] {
            assert_eq!(draw(&mask, &[], [0.0, broken, 0.0, 0.0, 0.0, 0.0]), Drawn::NotANumber);
        }
    }

    #[test]
    fn the_draw_depends_on_seed_and_position_only() {
        let sampling = Sampling { temperature: 1.0, seed: 42, ..Sampling::default() };
        for position in 0..50 {
            let first = draw_with(&sampling, &Seen::default(), position, None);
            assert_eq!(first, draw_with(&sampling, &Seen::default(), position, Some(3)).without_logprob());
        }
        assert_ne!(uniform(1, 0), uniform(2, 0));
        assert_ne!(uniform(1, 0), uniform(1, 1));
    }

    impl Drawn {
        fn without_logprob(self) -> Self {
            match self {
                Drawn::Token { token, .. } => Drawn::Token { token, logprob: None },
                other => other,
            }
        }
    }
}
