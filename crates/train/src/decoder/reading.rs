//! A text that the model goes on with, token by token: what a block's attention asks of the tokens before stays, so that a further token
//! costs a pair of rows instead of all. The same bits as reading everything again. Not for serving: that is the engine's cache.

use super::Decoder;
use crate::MicroBatch;
use crate::machine::Machine;

/// One text as far as it was read, with the weights of one step.
#[derive(Debug, Default)]
pub struct Reading {
    tokens: Vec<u32>,
    /// The trainer's step whose weights read it.
    step: u64,
    /// Of each layer: (T, (H+2K)·E), rotated.
    qkv: Vec<Vec<u16>>,
    /// Of all T tokens, the ones before included, and the first of those that are new.
    starts: Vec<u32>,
    first: usize,
    /// (T, H·E), and (T, H): room for the attention of one layer.
    attended: Vec<u16>,
    lse: Vec<f32>,
}

impl Reading {
    /// The part of `batch`, one text and its padding, that is still to be read: whole pairs, the last one at least.
    pub(crate) fn rest(&mut self, batch: &MicroBatch, step: u64, layers: usize) -> MicroBatch {
        let same = self.tokens.iter().zip(&batch.tokens).take_while(|(old, new)| old == new).count();
        let known = if self.step == step && self.qkv.len() == layers { same } else { 0 };
        // Padding that was read as such sees nothing: a document of its own.
        let known = (0..known).take_while(|at| self.starts[*at] == batch.starts[*at]).count();
        self.first = (known - known % 2).min(batch.len() - 2);
        (self.step, self.tokens, self.starts) = (step, batch.tokens.clone(), batch.starts.clone());
        self.qkv.resize(layers, Vec::new());
        MicroBatch {
            tokens: batch.tokens[self.first..].to_vec(),
            targets: batch.targets[self.first..].to_vec(),
            weights: batch.weights[self.first..].to_vec(),
            starts: batch.starts[self.first..].to_vec(),
            positions: batch.positions[self.first..].to_vec(),
        }
    }

    /// What the new tokens attend to: qkv of those, rotated, (n, (H+2K)·E) → out (n, H·E).
    pub(crate) fn attention(&mut self, m: &Machine, layer: usize, qkv: &[u16], out: &mut [u16]) {
        let (t, new) = (self.starts.len(), self.starts.len() - self.first);
        let (columns, width) = (qkv.len() / new, out.len() / new);
        let all = &mut self.qkv[layer];
        all.truncate(self.first * columns);
        all.extend_from_slice(qkv);
        self.attended.resize(t * width, 0);
        self.lse.resize(t * m.config.heads, 0.0);
        m.attention(all, &self.starts, &mut self.attended, &mut self.lse);
        out.copy_from_slice(&self.attended[self.first * width..]);
    }
}

impl Decoder {
    /// As `forward` of the whole text: the rows of `rest`, which [`Reading::rest`] gave, lie where its own would.
    pub fn read_on(&mut self, rest: &MicroBatch, reading: &mut Reading) {
        self.forward_with(rest, None, true, Some(reading));
    }
}
