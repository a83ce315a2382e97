//! Where every large buffer comes from, so that a job's memory is known before any of it is taken.

use falaj_kernels::{AlignedVec, Pod};

/// Hands out buffers and keeps the sum, or keeps only the sum.
#[derive(Debug)]
pub(crate) struct Budget {
    counting: bool,
    parts: Vec<(&'static str, u64)>,
}

impl Budget {
    /// Gives empty buffers: for constructors whose memory is to be known.
    pub fn counting() -> Self {
        Self { counting: true, parts: Vec::new() }
    }

    pub fn taking() -> Self {
        Self { counting: false, parts: Vec::new() }
    }

    /// Zeroed, of `len` values, for `what`.
    pub fn buffer<T: Pod>(&mut self, what: &'static str, len: usize) -> AlignedVec<T> {
        self.add(what, (len * size_of::<T>()) as u64);
        AlignedVec::new(if self.counting { 0 } else { len })
    }

    pub fn add(&mut self, what: &'static str, bytes: u64) {
        match self.parts.iter_mut().find(|(known, _)| *known == what) {
            Some((_, sum)) => *sum += bytes,
            None => self.parts.push((what, bytes)),
        }
    }

    pub fn memory(self) -> Memory {
        Memory { parts: self.parts }
    }
}

/// What a trainer takes, by what it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Names and bytes: weights, gradients, optimiser, activations, scratch.
    pub parts: Vec<(&'static str, u64)>,
}

impl Memory {
    pub fn total_bytes(&self) -> u64 {
        self.parts.iter().map(|(_, bytes)| bytes).sum()
    }
}
