//! The public operations against oracles in f64, golden values, and each other: all ISAs, thread counts and batch sizes must
//! give equal bits.

mod attention;
mod formats;
mod gemm;
mod low_rank;
mod matmul;
mod random;
mod rows;
mod training;
