//! What computes: the operations, the threads, and what of the decoder they need to know. The only file that calls the training
//! kernels by name, so that the passes read like the papers.

use falaj_kernels::{AdamStep, Heads, Operand, Ops, OutMut, Packed, Pool, Right, RopeTable, Then, Values};
use falaj_model::{Config, Frequencies};

use crate::MicroBatch;

/// One decoder's operations on one set of threads.
#[derive(Debug)]
pub(crate) struct Machine {
    pub ops: Ops,
    pub pool: Pool,
    pub config: Config,
    heads: Heads,
    table: RopeTable,
    scale: f32,
}

impl Machine {
    /// For positions below `positions`.
    pub fn new(config: &Config, ops: Ops, threads: usize, positions: usize) -> Self {
        let half = config.head_dim / 2;
        let frequencies = Frequencies::new(&config.rope, config.head_dim);
        let (mut cos, mut sin) = (vec![0.0; positions * half], vec![0.0; positions * half]);
        for (position, (cos, sin)) in cos.chunks_exact_mut(half).zip(sin.chunks_exact_mut(half)).enumerate() {
            frequencies.angles(position as u32, cos, sin);
        }
        let heads = Heads { heads: config.heads, kv_heads: config.kv_heads, head_dim: config.head_dim };
        let table = RopeTable { cos, sin, layout: config.rope.layout };
        let scale = 1.0 / (config.head_dim as f32).sqrt();
        Self { ops, pool: Pool::new(threads), config: config.clone(), heads, table, scale }
    }

    /// out (a.rows, b.rows): every row of `a` times every row of `b`, rounded to bf16 on the way in.
    pub fn product<'b>(&self, a: Operand, b: impl Into<Right<'b>>, out: OutMut, then: Then) {
        self.ops.gemm(&self.pool, a, b, out, then);
    }

    /// `b` rounded and laid out once, for several products.
    pub fn pack<'a>(&self, b: Operand, to: &'a mut [u16]) -> Packed<'a> {
        self.ops.pack_right(&self.pool, b, to)
    }

    /// RMSNorm. x: (T, D) → out: (T, D), rstd: (T).
    pub fn norm(&self, x: &[f32], weight: &[f32], out: &mut [u16], rstd: &mut [f32]) {
        self.ops.norm_forward(&self.pool, x, weight, self.config.norm_eps, out, rstd);
    }

    /// dx (T, D) +=, in f32 and as products read it, and dw (D) +=.
    pub fn norm_backward(
        &self,
        dy: &[u16],
        (x, rstd): (&[f32], &[f32]),
        weight: &[f32],
        dx: (&mut [f32], &mut [u16]),
        dw: &mut [f32],
    ) {
        self.ops.norm_backward(&self.pool, dy, x, weight, rstd, dx.0, dx.1, dw);
    }

    /// Rotates the queries and keys of qkv: (T, (H+2K)·E).
    pub fn rotate(&self, qkv: &mut [u16], batch: &MicroBatch) {
        self.ops.rope_forward(&self.pool, qkv, &self.heads, &batch.positions, &self.table);
    }

    /// qkv: (T, (H+2K)·E), starts: (T) → out: (T, H·E), lse: (T, H).
    pub fn attention(&self, qkv: &[u16], starts: &[u32], out: &mut [u16], lse: &mut [f32]) {
        let window = self.config.sliding_window;
        self.ops.attention_forward(&self.pool, qkv, &self.heads, starts, window, self.scale, out, lse);
    }

    /// d_out: (T, H·E) → d_qkv: (T, (H+2K)·E), of queries and keys as they were before [`Machine::rotate`].
    pub fn attention_backward(
        &self,
        qkv: &[u16],
        batch: &MicroBatch,
        attended: (&[u16], &[f32]),
        d_out: &[u16],
        d_qkv: &mut [u16],
    ) {
        let (starts, window) = (&batch.starts, self.config.sliding_window);
        self.ops.attention_backward(
            &self.pool,
            qkv,
            &self.heads,
            starts,
            window,
            self.scale,
            attended,
            d_out,
            &batch.positions,
            &self.table,
            d_qkv,
        );
    }

    /// gate_up: (T, 2F) → out: (T, F).
    pub fn swiglu(&self, gate_up: &[u16], out: &mut [u16]) {
        self.ops.swiglu_forward(&self.pool, gate_up, self.config.ffn_size, out);
    }

    pub fn swiglu_backward(&self, gate_up: &[u16], d_out: &[u16], d_gate_up: &mut [u16]) {
        self.ops.swiglu_backward(&self.pool, gate_up, self.config.ffn_size, d_out, d_gate_up);
    }

    /// logits: (n, V) → −ln p(target) and whether the target is the largest, (n) each, and share · (softmax − one-hot): (n, V).
    pub fn cross_entropy(
        &self,
        logits: &[f32],
        targets: &[u32],
        shares: &[f32],
        losses: &mut [f32],
        correct: &mut [u8],
        d_logits: &mut [u16],
    ) {
        self.ops.cross_entropy(&self.pool, logits, targets, shares, losses, correct, d_logits);
    }

    /// p −= what AdamW asks for; first, second: its moments.
    pub fn adamw(&self, p: &mut [f32], g: &[f32], first: &mut [f32], second: &mut [f32], step: &AdamStep) {
        self.ops.adamw(&self.pool, p, g, first, second, step);
    }

    /// Σ x², in f64, in an order that the length alone decides.
    pub fn sum_squares(&self, x: &[f32]) -> f64 {
        self.ops.sum_squares(&self.pool, x)
    }

    /// x += y.
    pub fn add(&self, x: &mut [f32], y: &[f32]) {
        self.pool.chunks([(x, CHUNK)], |chunk, [x]| {
            let y = &y[chunk * CHUNK..][..x.len()];
            self.ops.add(x, y);
        });
    }

    /// out = x, rounded to bf16.
    pub fn round(&self, x: &[f32], out: &mut [u16]) {
        self.pool.chunks([(out, CHUNK)], |chunk, [out]| self.ops.to_bf16(&x[chunk * CHUNK..][..out.len()], out));
    }

    pub fn scale(&self, x: &mut [f32], scale: f32) {
        self.pool.chunks([(x, CHUNK)], |_, [x]| x.iter_mut().for_each(|x| *x *= scale));
    }

    pub fn fill(&self, x: &mut [f32], value: f32) {
        self.pool.chunks([(x, CHUNK)], |_, [x]| x.fill(value));
    }
}

/// The part of an operand's values from `first` on.
pub(crate) fn from(values: Values<'_>, first: usize) -> Values<'_> {
    match values {
        Values::F32(values) => Values::F32(&values[first..]),
        Values::Bf16(values) => Values::Bf16(&values[first..]),
    }
}

/// Values that one task takes.
const CHUNK: usize = 16 << 10;
