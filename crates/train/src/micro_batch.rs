//! What one forward and backward pass takes: rows of packed documents, laid end to end.

use crate::TrainError;

/// T tokens, rows one after another; every list has T values. A step is one or more of these; each must have an even number of
/// tokens, so that a step gives the same bits however it is cut.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MicroBatch {
    pub tokens: Vec<u32>,
    /// What follows each token: what is to be predicted there.
    pub targets: Vec<u32>,
    /// How much the prediction counts; 0 where nothing is to be learned (prompts, padding, the end of a document).
    pub weights: Vec<f32>,
    /// Index in the flat list of the first token of this token's document: nothing before it is seen.
    pub starts: Vec<u32>,
    /// For RoPE: restarts at 0 with each document.
    pub positions: Vec<u32>,
}

impl MicroBatch {
    /// Of unpacked rows of one length: a document each, every target counts.
    pub fn plain(tokens: Vec<u32>, targets: Vec<u32>, length: usize) -> Self {
        let count = tokens.len();
        let length = length.max(1);
        Self {
            weights: vec![1.0; count],
            starts: (0..count).map(|t| (t - t % length) as u32).collect(),
            positions: (0..count).map(|t| (t % length) as u32).collect(),
            tokens,
            targets,
        }
    }

    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Σ weights, in order.
    pub fn weight(&self) -> f64 {
        self.weights.iter().map(|weight| f64::from(*weight)).sum()
    }

    /// Refuses what the kernels could not take.
    pub(crate) fn check(&self, max_tokens: usize, vocab_size: usize, positions: usize) -> Result<(), TrainError> {
        let count = self.tokens.len();
        let problem = |problem| Err(TrainError::Batch { problem });
        if [self.targets.len(), self.weights.len(), self.starts.len(), self.positions.len()] != [count; 4] {
            return problem("lists of different lengths");
        }
        if count == 0 || !count.is_multiple_of(2) {
            return problem("an odd number of tokens, or none");
        }
        if count > max_tokens {
            return problem("more tokens than the trainer was made for");
        }
        if self.weights.iter().any(|weight| !(weight.is_finite() && *weight >= 0.0)) {
            return problem("a weight that is negative or not finite");
        }
        if self.positions.iter().any(|position| *position as usize >= positions) {
            return problem("a position beyond the model's context");
        }
        let mut before = 0;
        for (t, &start) in self.starts.iter().enumerate() {
            let (is_new, is_old) = (start as usize == t, t > 0 && start == before);
            if !is_new && !is_old {
                return problem("documents that are not one piece each");
            }
            before = start;
        }
        match self.tokens.iter().chain(&self.targets).find(|token| **token as usize >= vocab_size) {
            Some(&token) => Err(TrainError::TokenOutOfRange { token, vocab_size }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_documents_of_known_tokens_pass() {
        let good = MicroBatch::plain(vec![1, 2, 3, 4], vec![2, 0, 4, 0], 2);
        assert_eq!((good.starts.as_slice(), good.positions.as_slice()), (&[0, 0, 2, 2][..], &[0, 1, 0, 1][..]));
        assert!(good.check(4, 5, 2).is_ok());
        let with = |change: fn(&mut MicroBatch)| {
            let mut batch = good.clone();
            change(&mut batch);
            batch.check(4, 5, 2)
        };
        assert!(matches!(with(|b| b.tokens[0] = 5), Err(TrainError::TokenOutOfRange { token: 5, .. })));
        assert!(matches!(with(|b| b.targets[3] = 9), Err(TrainError::TokenOutOfRange { token: 9, .. })));
        assert!(with(|b| b.starts[3] = 1).is_err());
        assert!(with(|b| b.starts[2] = 3).is_err());
        assert!(with(|b| b.positions[3] = 2).is_err());
        assert!(with(|b| b.weights[0] = f32::NAN).is_err());
        assert!(with(|b| b.targets.truncate(3)).is_err());
        assert!(good.check(2, 5, 2).is_err());
    }
}
