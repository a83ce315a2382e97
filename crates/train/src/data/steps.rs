//! The data of a job as its loop asks for it.

use super::Batches;
use crate::run::Steps;
use crate::{MicroBatch, Samples, TrainError};

/// What is learnt from, and what is held out.
#[derive(Debug)]
pub struct Drawn {
    pub train: Batches,
    pub held: Option<Batches>,
    /// Most rows of an evaluation; 0: all that are held out.
    pub evaluation_rows: usize,
    /// What the model is asked meanwhile.
    pub samples: Option<Samples>,
}

impl Steps for Drawn {
    fn step(&mut self, step: u64) -> Result<Vec<MicroBatch>, TrainError> {
        self.train.step(step)
    }

    fn evaluation(&mut self) -> Result<Vec<MicroBatch>, TrainError> {
        let Some(held) = &self.held else { return Ok(Vec::new()) };
        held.sample(self.evaluation_rows).map(|laid| laid.map(|laid| laid.batch)).collect()
    }

    fn samples(&self) -> Option<&Samples> {
        self.samples.as_ref()
    }
}
