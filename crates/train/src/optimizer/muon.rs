//! Muon: momentum, brought to the nearest matrix with orthogonal rows or columns by a Newton–Schulz iteration in products of bf16.
//! Sources: Jordan et al. 2024; the scale 0.2·√max(rows, cols): Liu et al. 2025, § 2.2.

use falaj_kernels::{AlignedVec, Operand, OutMut, Then, Values};

use super::Optimization;
use crate::budget::Budget;
use crate::machine::Machine;

/// Room for the largest matrix.
#[derive(Debug)]
pub(super) struct Muon {
    x: AlignedVec<f32>,
    next: AlignedVec<f32>,
    gram: AlignedVec<f32>,
    square: AlignedVec<f32>,
}

impl Muon {
    pub fn new(shapes: impl Iterator<Item = (usize, usize)>, budget: &mut Budget) -> Self {
        let (mut values, mut side) = (0, 0);
        for (rows, cols) in shapes {
            (values, side) = (values.max(rows * cols), side.max(rows.min(cols)));
        }
        let mut room = |len| budget.buffer("scratch", len);
        Self { x: room(values), next: room(values), gram: room(side * side), square: room(side * side) }
    }

    /// p, g, momentum: (rows, cols).
    pub fn update(
        &mut self,
        m: &Machine,
        settings: &Optimization,
        (rows, cols): (usize, usize),
        p: &mut [f32],
        g: &[f32],
        momentum: &mut [f32],
        rate: f32,
        clip: f32,
    ) {
        let (len, side) = (rows * cols, rows.min(cols));
        let (x, next) = (&mut self.x[..len], &mut self.next[..len]);
        let (gram, square) = (&mut self.gram[..side * side], &mut self.square[..side * side]);
        let mu = settings.momentum;
        m.pool.chunks([(momentum, CHUNK), (&mut *x, CHUNK)], |chunk, [momentum, x]| {
            for ((momentum, x), g) in momentum.iter_mut().zip(x).zip(&g[chunk * CHUNK..]) {
                let g = g * clip;
                *momentum = mu * *momentum + (1.0 - mu) * g;
                // Nesterov's look ahead.
                *x = mu * *momentum + (1.0 - mu) * g;
            }
        });
        let norm = m.sum_squares(x).sqrt() as f32;
        m.scale(x, 1.0 / norm.max(1e-7));
        let tall = rows > cols;
        for _ in 0..ITERATIONS {
            let (as_is, turned) = both_ways(x, rows, cols);
            let operand = if tall { turned } else { as_is };
            m.product(operand, operand, OutMut::f32(gram), Then::Store);
            // Symmetric up to rounding, so that its rows serve as its columns.
            let by = Operand::rows(Values::F32(gram), side, side);
            m.product(by, by, OutMut::f32(square), Then::Store);
            square.iter_mut().zip(&*gram).for_each(|(square, gram)| *square = B * gram + C * *square);
            let by = Operand::rows(Values::F32(square), side, side);
            match tall {
                true => m.product(as_is, by, OutMut::f32(next), Then::Store),
                false => m.product(by, turned, OutMut::f32(next), Then::Store),
            }
            let next = &*next;
            m.pool.chunks([(&mut *x, CHUNK)], |chunk, [x]| {
                x.iter_mut().zip(&next[chunk * CHUNK..]).for_each(|(x, next)| *x = A * *x + next);
            });
        }
        let kept = 1.0 - rate * settings.weight_decay;
        let rate = rate * 0.2 * (rows.max(cols) as f32).sqrt();
        let x = &*x;
        m.pool.chunks([(p, CHUNK)], |chunk, [p]| {
            p.iter_mut().zip(&x[chunk * CHUNK..]).for_each(|(p, x)| *p = *p * kept - rate * x);
        });
    }
}

fn both_ways(x: &[f32], rows: usize, cols: usize) -> (Operand<'_>, Operand<'_>) {
    (Operand::rows(Values::F32(x), rows, cols), Operand::transposed(Values::F32(x), cols, rows))
}

/// Of the quintic polynomial.
const A: f32 = 3.4445;
const B: f32 = -4.7750;
const C: f32 = 2.0315;
const ITERATIONS: usize = 5;
/// Values that one task takes.
const CHUNK: usize = 16 << 10;
