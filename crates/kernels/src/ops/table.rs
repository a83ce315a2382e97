//! The operations compiled once per ISA: same source, other instructions. The only place that enables CPU features.

use std::ops::Range;

use crate::activations::{self, Activations, BlockRowMut};
#[cfg(target_arch = "x86_64")]
use crate::amx;
use crate::attention::page::{Store, store_head};
use crate::attention::pairs::Widened;
use crate::attention::{AttentionArgs, tile};
use crate::elementwise;
use crate::format::Matrix;
use crate::gemm::{self, Block, Operand, Tile};
use crate::isa::Isa;
use crate::low_rank;
use crate::matmul::{self, Columns, Scratch, panel_formats};
use crate::norm;
use crate::pool::Parts;
use crate::rope::{self, RopeLayout};
use crate::simd;
use crate::softmax;
use crate::training::{self, AdamStep, Attention, AttentionScratch, Outputs, Part};

/// Entries are unsafe to call only in that the CPU must have `isa`.
#[expect(clippy::type_complexity, reason = "these are the functions' own signatures")]
pub(crate) struct Table {
    pub isa: Isa,
    /// See `Ops::numerics_version`.
    pub numerics: &'static str,
    pub attend: unsafe fn(&AttentionArgs, Range<usize>, usize, &mut tile::Scratch, &Parts<f32>),
    pub store_head: unsafe fn(&Store, usize),
    /// In the order of `matmul::panel_index`.
    pub panel: [unsafe fn(&[u8], &Activations, Range<usize>, &mut Scratch, &mut [[f32; 16]]); 6],
    /// Two panels of BF16 into two tiles, where that is faster than one after another. The bits are the same.
    pub panel_pair: Option<unsafe fn([&[u8]; 2], &Activations, Range<usize>, [&mut [[f32; 16]]; 2])>,
    pub rows_f32: unsafe fn(&Matrix, &Activations, Range<usize>, Range<usize>, &Columns),
    pub rows_f16: unsafe fn(&Matrix, &Activations, Range<usize>, Range<usize>, &Columns),
    pub quantize_activations: unsafe fn(&[f32], &mut BlockRowMut),
    pub round_activations: unsafe fn(&[f32], &mut [u16], &mut [f32]),
    pub rms_norm: unsafe fn(&[f32], &[f32], f32, &mut [f32]),
    pub rope: unsafe fn(&mut [f32], &[f32], &[f32], RopeLayout),
    pub swiglu: unsafe fn(&mut [f32], &[f32]),
    pub add: unsafe fn(&mut [f32], &[f32]),
    pub scale_add: unsafe fn(&mut [f32], f32, &[f32]),
    pub softmax: unsafe fn(&mut [f32]),
    pub argmax: unsafe fn(&[f32]) -> usize,
    pub dot: unsafe fn(&[f32], &[f32]) -> f32,
    pub to_f16: unsafe fn(&[f32], &mut [u16]),
    pub to_bf16: unsafe fn(&[f32], &mut [u16]),
    pub norm_forward: unsafe fn(&[f32], &[f32], f32, &mut [u16]) -> f32,
    pub norm_backward: unsafe fn(&[u16], &[f32], &[f32], f32, &mut [f32], &mut [u16]),
    pub turn_heads: unsafe fn(&mut [u16], &[f32], &[f32], RopeLayout, &mut [f32]),
    pub norm_weights: unsafe fn(&[u16], &[f32], &[f32], (usize, usize), &mut [f32]),
    pub swiglu_forward: unsafe fn(&[u16], &[u16], &mut [u16]),
    pub swiglu_backward: unsafe fn(&[u16], &[u16], &[u16], &mut [u16], &mut [u16]),
    pub cross_entropy: unsafe fn(&[f32], usize, f32, &mut [f32], &mut [u16]) -> (f32, bool),
    pub adamw: unsafe fn(&mut [f32], &[f32], &mut [f32], &mut [f32], &AdamStep),
    pub attention_forward: unsafe fn(&Attention, &Part, *mut u16, *mut f32, &mut AttentionScratch),
    pub attention_backward: unsafe fn(&Attention, &Outputs, &Part, *mut u16, &mut AttentionScratch),
    pub gemm_pack: unsafe fn(&Operand, Range<usize>, Range<usize>, &mut [[[u16; 2]; gemm::LANES]]),
    pub gemm_block: unsafe fn(&Block, &mut gemm::Scratch),
    pub low_rank_first: unsafe fn(&low_rank::First, Range<usize>, &[low_rank::Row], &mut [&mut [f32]]),
    pub low_rank_second: unsafe fn(&low_rank::Second, &[low_rank::Row], &mut [&mut [f32]]),
    pub gemm_tile: unsafe fn(&Tile),
}

pub(crate) fn of(isa: Isa) -> &'static Table {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Amx if amx::offers_pairs() => &tiled::TABLE,
        #[cfg(target_arch = "x86_64")]
        Isa::Amx => &TILED_BYTES,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 if has_fast_bf16() => &AVX512_BF16,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => &avx512::TABLE,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2Vnni => &halves_vnni::TABLE,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => &halves::TABLE,
        _ => &scalar::TABLE,
    }
}

#[cfg(target_arch = "x86_64")]
fn has_fast_bf16() -> bool {
    let vendor = std::arch::x86_64::__cpuid(0);
    is_x86_feature_detected!("avx512bf16") && vendor.ebx.to_le_bytes() == *b"Auth"
}

macro_rules! functions {
    ($token:expr, $attribute:tt, $($name:ident = $path:path, ($($arg:ident: $type:ty),*) $(-> $result:ty)?;)*) => {
        $(
            #$attribute
            fn $name($($arg: $type),*) $(-> $result)? {
                $path($token, $($arg),*)
            }
        )*
    };
}

macro_rules! table {
    ($module:ident, $isa:expr, $token:expr, $attribute:tt) => {
        mod $module {
            use super::*;

            pub(super) static TABLE: Table = Table {
                isa: $isa,
                numerics: "1",
                attend,
                store_head: store_one_head,
                panel_pair: None,
                panel: [panel_bf16, panel_q8_0, panel_q4_0, panel_q4_k, panel_q5_k, panel_q6_k],
                rows_f32,
                rows_f16,
                quantize_activations,
                round_activations,
                rms_norm,
                rope,
                swiglu,
                add,
                scale_add,
                softmax,
                argmax,
                dot,
                to_f16,
                to_bf16,
                norm_forward,
                norm_backward,
                turn_heads,
                norm_weights,
                swiglu_forward,
                swiglu_backward,
                cross_entropy,
                adamw,
                attention_forward,
                attention_backward,
                gemm_pack,
                gemm_block,
                low_rank_first,
                low_rank_second,
                gemm_tile,
            };

            #$attribute
            fn attend(args: &AttentionArgs, rows: Range<usize>, kv_head: usize, scratch: &mut tile::Scratch, out: &Parts<f32>) {
                tile::attend($token, Widened, args, rows, kv_head, scratch, out);
            }

            #$attribute
            fn gemm_pack(b: &Operand, rows: Range<usize>, pairs: Range<usize>, out: &mut [[[u16; 2]; gemm::LANES]]) {
                gemm::pack_columns($token, b, rows, pairs, out);
            }

            #$attribute
            fn attention_forward(args: &Attention, part: &Part, o: *mut u16, lse: *mut f32, scratch: &mut AttentionScratch) {
                let s = $token;
                // SAFETY: the contract of the entry is that of the function.
                unsafe { training::forward(s, args, part, o, lse, scratch) }
            }

            #$attribute
            fn attention_backward(args: &Attention, outputs: &Outputs, part: &Part, dqkv: *mut u16, scratch: &mut AttentionScratch) {
                let s = $token;
                // SAFETY: the contract of the entry is that of the function.
                unsafe { training::backward(s, args, outputs, part, dqkv, scratch) }
            }

            #$attribute
            fn gemm_block(block: &Block, scratch: &mut gemm::Scratch) {
                gemm::block($token, gemm::Multiplied, block, scratch);
            }

            #$attribute
            fn gemm_tile(tile: &Tile) {
                let s = $token;
                // SAFETY: the contract of the entry is that of the function.
                unsafe { gemm::tile(s, gemm::Multiplied, tile) }
            }

            functions! { $token, $attribute,
                store_one_head = store_head, (store: &Store, kv_head: usize);
                panel_q8_0 = matmul::quantized_panel::<_, panel_formats::Q8_0>, (panel: &[u8], x: &Activations, rows: Range<usize>, scratch: &mut Scratch, tile: &mut [[f32; 16]]);
                panel_q4_0 = matmul::quantized_panel::<_, panel_formats::Q4_0>, (panel: &[u8], x: &Activations, rows: Range<usize>, scratch: &mut Scratch, tile: &mut [[f32; 16]]);
                panel_q4_k = matmul::quantized_panel::<_, panel_formats::Q4_K>, (panel: &[u8], x: &Activations, rows: Range<usize>, scratch: &mut Scratch, tile: &mut [[f32; 16]]);
                panel_q5_k = matmul::quantized_panel::<_, panel_formats::Q5_K>, (panel: &[u8], x: &Activations, rows: Range<usize>, scratch: &mut Scratch, tile: &mut [[f32; 16]]);
                panel_q6_k = matmul::quantized_panel::<_, panel_formats::Q6_K>, (panel: &[u8], x: &Activations, rows: Range<usize>, scratch: &mut Scratch, tile: &mut [[f32; 16]]);
                panel_bf16 = matmul::shifted_panel, (panel: &[u8], x: &Activations, rows: Range<usize>, scratch: &mut Scratch, tile: &mut [[f32; 16]]);
                rows_f32 = matmul::matmul_rows::<_, matmul::F32>, (w: &Matrix, x: &Activations, columns: Range<usize>, rows: Range<usize>, out: &Columns);
                rows_f16 = matmul::matmul_rows::<_, matmul::F16>, (w: &Matrix, x: &Activations, columns: Range<usize>, rows: Range<usize>, out: &Columns);
                quantize_activations = activations::quantize_activations, (x: &[f32], to: &mut BlockRowMut);
                round_activations = activations::round_activations, (x: &[f32], bits: &mut [u16], values: &mut [f32]);
                rms_norm = norm::rms_norm, (x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]);
                rope = rope::rope, (x: &mut [f32], cos: &[f32], sin: &[f32], layout: RopeLayout);
                swiglu = elementwise::swiglu, (gate: &mut [f32], up: &[f32]);
                add = elementwise::add, (x: &mut [f32], y: &[f32]);
                scale_add = elementwise::scale_add, (x: &mut [f32], scale: f32, y: &[f32]);
                softmax = softmax::softmax, (x: &mut [f32]);
                argmax = softmax::argmax, (x: &[f32]) -> usize;
                dot = elementwise::dot, (a: &[f32], b: &[f32]) -> f32;
                to_f16 = elementwise::to_f16, (x: &[f32], out: &mut [u16]);
                to_bf16 = training::to_bf16, (x: &[f32], out: &mut [u16]);
                norm_forward = training::norm_forward, (x: &[f32], w: &[f32], eps: f32, out: &mut [u16]) -> f32;
                norm_backward = training::norm_backward, (dy: &[u16], x: &[f32], w: &[f32], rstd: f32, dx: &mut [f32], bits: &mut [u16]);
                turn_heads = training::turn_heads, (x: &mut [u16], cos: &[f32], sin: &[f32], layout: RopeLayout, head: &mut [f32]);
                norm_weights = training::norm_weights, (dy: &[u16], x: &[f32], rstd: &[f32], place: (usize, usize), dw: &mut [f32]);
                swiglu_forward = training::swiglu_forward, (gate: &[u16], up: &[u16], out: &mut [u16]);
                swiglu_backward = training::swiglu_backward, (gate: &[u16], up: &[u16], da: &[u16], dgate: &mut [u16], dup: &mut [u16]);
                cross_entropy = training::cross_entropy, (logits: &[f32], target: usize, weight: f32, exps: &mut [f32], slopes: &mut [u16]) -> (f32, bool);
                low_rank_first = low_rank::first, (w: &low_rank::First, panels: Range<usize>, xs: &[low_rank::Row], lows: &mut [&mut [f32]]);
                low_rank_second = low_rank::second, (w: &low_rank::Second, lows: &[low_rank::Row], outs: &mut [&mut [f32]]);
                adamw = training::adamw, (p: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32], step: &AdamStep);
            }
        }
    };
}

table!(scalar, Isa::Scalar, simd::Scalar, [inline(never)]);
#[cfg(target_arch = "x86_64")]
table!(
    avx2,
    Isa::Avx2,
    // SAFETY: the function around this enables the very features, so its caller has promised that the CPU has them.
    unsafe { simd::Avx2::assume() },
    [target_feature(enable = "avx2,fma,f16c")]
);
#[cfg(target_arch = "x86_64")]
table!(
    avx512,
    Isa::Avx512,
    // SAFETY: the function around this enables the very features, so its caller has promised that the CPU has them.
    unsafe { simd::Avx512::assume() },
    [target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
);

/// AVX2, whose panels of quantised weights are multiplied by halves.
#[cfg(target_arch = "x86_64")]
macro_rules! halves_table {
    ($module:ident, $isa:expr, $token:expr, $attribute:tt) => {
        mod $module {
            use super::*;

            pub(super) static TABLE: Table = Table {
                isa: $isa,
                panel: [avx2::TABLE.panel[0], q8_0, q4_0, q4_k, q5_k, q6_k],
                ..avx2::TABLE
            };

            halves_table! { $token, $attribute, q8_0 = Q8_0, q4_0 = Q4_0, q4_k = Q4_K, q5_k = Q5_K, q6_k = Q6_K }
        }
    };
    ($token:expr, $attribute:tt, $($name:ident = $format:ident),*) => {
        $(
            #$attribute
            fn $name(panel: &[u8], x: &Activations, rows: Range<usize>, scratch: &mut Scratch, tile: &mut [[f32; 16]]) {
                matmul::halves::panel::<_, panel_formats::$format>($token, panel, x, rows, scratch, tile);
            }
        )*
    };
}

#[cfg(target_arch = "x86_64")]
halves_table!(
    halves,
    Isa::Avx2,
    // SAFETY: the function around this enables the very features, so its caller has promised that the CPU has them.
    (unsafe { simd::Avx2::assume() }, matmul::halves::Pairs16),
    [target_feature(enable = "avx2,fma,f16c")]
);
#[cfg(target_arch = "x86_64")]
halves_table!(
    halves_vnni,
    Isa::Avx2Vnni,
    // SAFETY: as above.
    unsafe { (simd::Avx2::assume(), matmul::halves::Vnni::assume()) },
    [target_feature(enable = "avx2,fma,f16c,avxvnni")]
);
/// AVX-512 where its pairs of bf16 are fast: AMD's. Intel runs them at half the rate of two fused multiply-adds, in which the
/// other table has the same bits.
#[cfg(target_arch = "x86_64")]
static AVX512_BF16: Table = {
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16")]
    fn panel_bf16(panel: &[u8], x: &Activations, rows: Range<usize>, scratch: &mut Scratch, tile: &mut [[f32; 16]]) {
        // SAFETY: the very features are enabled here.
        let (s, pairs) = unsafe { (simd::Avx512::assume(), simd::DotBf16::assume()) };
        matmul::bf16_panel(s, pairs, panel, x, rows, scratch, tile);
    }
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16")]
    fn attend(args: &AttentionArgs, rows: Range<usize>, kv_head: usize, scratch: &mut tile::Scratch, out: &Parts<f32>) {
        // SAFETY: the very features are enabled here.
        let (s, pairs) = unsafe { (simd::Avx512::assume(), simd::DotBf16::assume()) };
        tile::attend(s, pairs, args, rows, kv_head, scratch, out);
    }
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16")]
    fn gemm_block(block: &Block, scratch: &mut gemm::Scratch) {
        // SAFETY: the very features are enabled here.
        let (s, dot) = unsafe { (simd::Avx512::assume(), simd::DotBf16::assume()) };
        gemm::block(s, gemm::Dotted(dot), block, scratch);
    }
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16")]
    fn gemm_tile(tile: &Tile) {
        // SAFETY: the very features are enabled here; the contract of the entry is that of the function.
        unsafe { gemm::tile(simd::Avx512::assume(), gemm::Dotted(simd::DotBf16::assume()), tile) }
    }
    let [_, q8_0, q4_0, q4_k, q5_k, q6_k] = avx512::TABLE.panel;
    Table { panel: [panel_bf16, q8_0, q4_0, q4_k, q5_k, q6_k], attend, gemm_block, gemm_tile, ..avx512::TABLE }
};

/// `$base`, whose products of panels are made in tiles.
#[cfg(target_arch = "x86_64")]
macro_rules! tiled_table {
    ($module:ident, $base:ident, $token:expr, $tiles:expr, $attribute:tt) => {
        mod $module {
            use super::*;

            pub(super) static TABLE: Table = Table {
                isa: Isa::Amx,
                numerics: "1-amx-bf16",
                panel: [bf16, q8_0, q4_0, q4_k, q5_k, q6_k],
                panel_pair: Some(bf16_pair),
                ..$base::TABLE
            };

            tiled_table! { $token, $tiles, $attribute,
                q8_0 = Q8_0, q4_0 = Q4_0, q4_k = Q4_K, q5_k = Q5_K, q6_k = Q6_K
            }

            fn bf16(panel: &[u8], x: &Activations, rows: Range<usize>, _: &mut Scratch, tile: &mut [[f32; 16]]) {
                amx::pairs::multiply(&mut $tiles, [panel], &x.bf16_rows(rows), [tile]);
            }

            fn bf16_pair(panels: [&[u8]; 2], x: &Activations, rows: Range<usize>, tiles: [&mut [[f32; 16]]; 2]) {
                amx::pairs::multiply(&mut $tiles, panels, &x.bf16_rows(rows), tiles);
            }
        }
    };
    ($token:expr, $tiles:expr, $attribute:tt, $($name:ident = $format:ident),*) => {
        $(
            #$attribute
            fn $name(panel: &[u8], x: &Activations, rows: Range<usize>, scratch: &mut Scratch, tile: &mut [[f32; 16]]) {
                amx::quantized_panel::<_, _, panel_formats::$format>(&mut $tiles, $token, panel, x, rows, scratch, tile);
            }
        )*
    };
}

#[cfg(target_arch = "x86_64")]
tiled_table!(
    tiled,
    avx512,
    // SAFETY: the function around this enables the very features, so its caller has promised that the CPU has them.
    unsafe { simd::Avx512::assume() },
    // SAFETY: that `Isa::Amx` is available promises tiles.
    unsafe { amx::Hardware::begin() },
    [target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
);
#[cfg(all(test, target_arch = "x86_64"))]
tiled_table!(emulated, scalar, simd::Scalar, amx::Emulator::new(), [inline(never)]);

/// Tiles for bytes alone: where the products of bf16 are not what their specification says.
#[cfg(target_arch = "x86_64")]
static TILED_BYTES: Table = {
    let [_, q8_0, q4_0, q4_k, q5_k, q6_k] = tiled::TABLE.panel;
    let panel = [avx512::TABLE.panel[0], q8_0, q4_0, q4_k, q5_k, q6_k];
    Table { numerics: "1", panel, panel_pair: None, ..tiled::TABLE }
};

/// Any CPU's tiles.
#[cfg(all(test, target_arch = "x86_64"))]
pub(crate) fn emulated() -> &'static Table {
    &emulated::TABLE
}
