//! What touches the machine: aligned and mapped buffers, the thread pool, and the SIMD operations of a decoder.
//! All `unsafe` of the project lives here. It knows block formats, not files; rows of numbers, not models.
//!
//! Every operation is written once over `simd::Simd`, whose scalar implementation is the specification: the same
//! lanes, the same fused multiply-adds, the same tree. So a result has the same bits on every ISA, for every number of
//! threads and for every number of rows in the batch. Start at [`Ops`].

mod activations;
mod allocations;
#[cfg(target_arch = "x86_64")]
mod amx;
mod attention;
mod buffer;
mod dequantize;
mod elementwise;
mod exp;
mod format;
mod gemm;
mod isa;
mod low_rank;
mod mapped;
mod math;
mod matmul;
mod norm;
mod ops;
mod panels;
mod pool;
pub mod probe;
mod quantize;
mod rope;
mod simd;
mod softmax;
mod topology;
mod training;

pub use activations::{ActivationKind, Activations};
pub use allocations::{CountingAllocator, trim_heap};
pub use attention::page::{PAGE_TOKENS, StoreArgs};
pub use attention::{AttentionArgs, AttentionRow, KvFormat, KvView};
pub use buffer::{AlignedVec, Pod};
pub use exp::exp;
pub use format::blocks::{bf16_to_f32, f32_to_bf16};
pub use format::{Format, Matrix, MatrixError};
pub use gemm::{Operand, OutMut, OutValues, Packed, Right, Values};
pub use isa::Isa;
pub use low_rank::{AdaptedRow, Finally, LowRank, LowRankRows, Matrices};
pub use mapped::MappedFile;
pub use math::{ln, sin_cos};
pub use matmul::{Gated, Product, Then};
pub use ops::Ops;
pub use panels::{Panels, WeightView};
pub use pool::Pool;
pub use rope::RopeLayout;
pub use training::{AdamStep, Heads, RopeTable};
