//! The models that are measured: random weights in the shapes of a 100 M and a 1.03 G model (matmul parameters), the same
//! bits on every machine, written as F16 and quantised by the peer's own tool. Their text is noise; their work is not.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::gguf::{self, Tensor, Value};
use super::peer::Peer;
use crate::command;

/// What a model is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    pub name: &'static str,
    pub width: u64,
    pub layers: u32,
    pub heads: u32,
    pub kv_heads: u32,
    pub feed_forward: u64,
}

/// 100 M matmul parameters.
pub const SMALL: Shape = Shape { name: "small", width: 768, layers: 12, heads: 12, kv_heads: 4, feed_forward: 2048 };
/// 1.03 G matmul parameters.
pub const BIG: Shape = Shape { name: "big", width: 2048, layers: 22, heads: 32, kv_heads: 4, feed_forward: 5632 };
/// About 4 GB in Q4_0: for the time that a start takes.
pub const HUGE: Shape = Shape { name: "huge", width: 4096, layers: 32, heads: 32, kv_heads: 8, feed_forward: 14336 };

pub const VOCABULARY: u64 = 32_000;
/// Pieces before this one are special or bytes.
pub const FIRST_WORD: u32 = 259;
const CONTEXT: u32 = 32_768;

/// What one token costs in one file.
#[derive(Clone, Copy, Debug)]
pub struct Costs {
    /// Bytes of all matrices that a decoded token reads: everything but the embedding table.
    pub bytes: f64,
    /// Multiplications and additions of these matrices.
    pub operations: f64,
    /// Of those, the output head's, which a prompt computes for its last token only.
    pub head_operations: f64,
}

impl Costs {
    pub fn of(path: &Path) -> Result<Self> {
        let (mut bytes, mut operations, mut head) = (0.0, 0.0, 0.0);
        for tensor in gguf::tensors(path)? {
            if tensor.name == "token_embd.weight" {
                continue;
            }
            bytes += tensor.bytes().with_context(|| format!("`{}` has an unknown type", tensor.name))? as f64;
            if tensor.dims.len() > 1 {
                operations += 2.0 * tensor.elements() as f64;
            }
            if tensor.name == "output.weight" {
                head = 2.0 * tensor.elements() as f64;
            }
        }
        Ok(Self { bytes, operations, head_operations: head })
    }
}

/// The file of a shape in a format (`q4_0`, `q8_0`, `q4_k_m`, `bf16`), made if it is not there.
pub fn file(folder: &Path, shape: Shape, format: &str, peer: &dyn Fn() -> Result<Peer>) -> Result<PathBuf> {
    let path = folder.join(format!("{}-{format}.gguf", shape.name));
    if path.is_file() {
        return Ok(path);
    }
    fs::create_dir_all(folder)?;
    let source = folder.join(format!("{}-f16.gguf", shape.name));
    if !source.is_file() {
        println!("bench: making `{}`", source.display());
        into_place(&source, |part| generate(part, shape, gguf::F16))?;
    }
    let quantize = peer()?.native("llama-quantize");
    let kind = format.to_uppercase();
    into_place(&path, |part| {
        command::run(Command::new(&quantize).args([source.as_os_str(), part.as_os_str()]).args([kind.as_str(), "2"]))
    })?;
    Ok(path)
}

/// A file appears whole or not at all.
fn into_place(path: &Path, make: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let part = path.with_extension("part");
    make(&part)?;
    Ok(fs::rename(part, path)?)
}

/// The largest model, written as Q4_0 at once: its F16 would take 15 GB.
pub fn huge(folder: &Path) -> Result<PathBuf> {
    fs::create_dir_all(folder)?;
    let path = folder.join("huge-q4_0.gguf");
    if !path.is_file() {
        println!("bench: making `{}`", path.display());
        into_place(&path, |part| generate(part, HUGE, gguf::Q4_0))?;
    }
    Ok(path)
}

/// Writes a model of random weights with a standard deviation of 0.02: normal as F16, even as Q4_0.
fn generate(path: &Path, shape: Shape, kind: u32) -> Result<()> {
    let (pieces, scores, kinds) = vocabulary();
    let head_dim = (shape.width / u64::from(shape.heads)) as u32;
    let name = format!("synthetic-{}", shape.name);
    let values = [
        ("general.architecture", Value::Text("llama")),
        ("general.name", Value::Text(&name)),
        ("general.file_type", Value::U32(if kind == gguf::Q4_0 { 2 } else { 1 })),
        ("llama.context_length", Value::U32(CONTEXT)),
        ("llama.embedding_length", Value::U32(shape.width as u32)),
        ("llama.block_count", Value::U32(shape.layers)),
        ("llama.feed_forward_length", Value::U32(shape.feed_forward as u32)),
        ("llama.attention.head_count", Value::U32(shape.heads)),
        ("llama.attention.head_count_kv", Value::U32(shape.kv_heads)),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
        ("llama.rope.dimension_count", Value::U32(head_dim)),
        ("llama.rope.freq_base", Value::F32(10_000.0)),
        ("llama.vocab_size", Value::U32(VOCABULARY as u32)),
        ("tokenizer.ggml.model", Value::Text("llama")),
        ("tokenizer.ggml.pre", Value::Text("default")),
        ("tokenizer.ggml.tokens", Value::Texts(&pieces)),
        ("tokenizer.ggml.scores", Value::F32s(&scores)),
        ("tokenizer.ggml.token_type", Value::I32s(&kinds)),
        ("tokenizer.ggml.bos_token_id", Value::U32(1)),
        ("tokenizer.ggml.eos_token_id", Value::U32(2)),
        ("tokenizer.ggml.unknown_token_id", Value::U32(0)),
        ("tokenizer.ggml.add_bos_token", Value::Bool(true)),
        ("tokenizer.ggml.add_eos_token", Value::Bool(false)),
        ("tokenizer.chat_template", Value::Text(TEMPLATE)),
    ];
    let tensors = tensors(shape, kind);
    let mut out = BufWriter::with_capacity(1 << 20, File::create(path)?);
    gguf::write_head(&mut out, &values, &tensors)?;
    let mut weights = Weights { normal: normal_table(), random: Random(shape.width), bytes: Vec::new() };
    for tensor in &tensors {
        weights.write(tensor, &mut out)?;
    }
    Ok(out.flush()?)
}

struct Weights {
    normal: Vec<[u8; 2]>,
    random: Random,
    bytes: Vec<u8>,
}

impl Weights {
    /// Every dimension is a multiple of 64, so that no tensor needs padding.
    fn write(&mut self, tensor: &Tensor, out: &mut impl Write) -> Result<()> {
        let mut left = tensor.elements();
        while left > 0 {
            let count = left.min(1 << 18);
            left -= count;
            self.bytes.clear();
            match tensor.kind {
                gguf::F32 => (0..count).for_each(|_| self.bytes.extend(1f32.to_le_bytes())),
                gguf::Q4_0 => (0..count / 32).for_each(|_| self.block()),
                _ => (0..count / 4).for_each(|_| self.four()),
            }
            out.write_all(&self.bytes)?;
        }
        Ok(())
    }

    /// 16 bits of a draw per number.
    fn four(&mut self) {
        let bits = self.random.next();
        for part in 0..4 {
            self.bytes.extend(self.normal[(bits >> (16 * part)) as usize & 0xFFFF]);
        }
    }

    /// A scale, then two numbers of four bits in a byte.
    fn block(&mut self) {
        // Sixteen even steps around 0 deviate by 4.6 of them.
        self.bytes.extend(f16_bits(0.02 / 4.6).to_le_bytes());
        for _ in 0..2 {
            self.bytes.extend(self.random.next().to_le_bytes());
        }
    }
}

fn tensors(shape: Shape, kind: u32) -> Vec<Tensor> {
    let Shape { width: d, feed_forward: f, .. } = shape;
    let kv = d / u64::from(shape.heads) * u64::from(shape.kv_heads);
    let matrix = |name: &str, rows: u64, cols: u64| Tensor { name: name.into(), dims: vec![cols, rows], kind };
    let norm = |name: &str| Tensor { name: name.into(), dims: vec![d], kind: gguf::F32 };
    let mut all = vec![
        matrix("token_embd.weight", VOCABULARY, d),
        norm("output_norm.weight"),
        matrix("output.weight", VOCABULARY, d),
    ];
    for layer in 0..shape.layers {
        let name = |part: &str| format!("blk.{layer}.{part}.weight");
        all.extend([
            norm(&name("attn_norm")),
            norm(&name("ffn_norm")),
            matrix(&name("attn_q"), d, d),
            matrix(&name("attn_k"), kv, d),
            matrix(&name("attn_v"), kv, d),
            matrix(&name("attn_output"), d, d),
            matrix(&name("ffn_gate"), f, d),
            matrix(&name("ffn_up"), f, d),
            matrix(&name("ffn_down"), d, f),
        ]);
    }
    all
}

/// Three special pieces, 256 bytes, then made-up words of letters, so that any text of small letters has an encoding and
/// each word of [`VOCABULARY`] is one token. Pieces, scores (SentencePiece merges the highest first), kinds.
fn vocabulary() -> (Vec<String>, Vec<f32>, Vec<i32>) {
    let mut pieces: Vec<String> = ["<unk>", "<s>", "</s>"].map(str::to_owned).to_vec();
    let mut kinds = vec![2, 3, 3];
    for byte in 0..=255u8 {
        pieces.push(format!("<0x{byte:02X}>"));
        kinds.push(6);
    }
    let letters: Vec<char> = ('a'..='z').collect();
    pieces.push("▁".into());
    pieces.extend(letters.iter().map(char::to_string));
    pieces.extend(letters.iter().flat_map(|a| letters.iter().map(move |b| format!("{a}{b}"))));
    let triples =
        letters.iter().flat_map(|a| letters.iter().flat_map(move |b| ('a'..='z').map(move |c| format!("{a}{b}{c}"))));
    let triples: Vec<String> = triples.collect();
    pieces.extend(triples.iter().cloned());
    pieces.extend(triples.iter().map(|word| format!("▁{word}")));
    pieces.truncate(VOCABULARY as usize);
    kinds.resize(pieces.len(), 1);
    let scores = (0..pieces.len()).map(|at| if at < FIRST_WORD as usize { 0.0 } else { -(at as f32) }).collect();
    (pieces, scores, kinds)
}

/// The normal distribution's quantiles times 0.02 as F16 bytes, one per 16-bit draw.
fn normal_table() -> Vec<[u8; 2]> {
    let mut table = Vec::with_capacity(1 << 16);
    // The distribution function by summing the density on a fine grid: exact enough, and the same on every machine.
    let (mut x, mut below) = (-5.0f64, 0.0f64);
    let step = 1e-4;
    for draw in 0..1u32 << 16 {
        let wanted = (f64::from(draw) + 0.5) / 65_536.0;
        while below < wanted && x < 5.0 {
            below += step * 0.398_942_280_401_432_7 * (-0.5 * x * x).exp();
            x += step;
        }
        table.push(f16_bits((x * 0.02) as f32).to_le_bytes());
    }
    table
}

/// Truncates to half precision; for values well inside its range.
fn f16_bits(value: f32) -> u16 {
    let bits = value.to_bits();
    let sign = (bits >> 16 & 0x8000) as u16;
    let exponent = (bits >> 23 & 0xFF) as i32 - 112;
    match exponent {
        ..=0 => {
            let mantissa = (bits & 0x7F_FFFF | 0x80_0000) >> 13;
            sign | mantissa.checked_shr((1 - exponent) as u32).unwrap_or(0) as u16
        }
        _ => sign | (exponent as u16) << 10 | (bits >> 13 & 0x3FF) as u16,
    }
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

const TEMPLATE: &str = "{% for m in messages %}[INST] {{ m['content'] }} [/INST]{% endfor %}";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_have_the_parameters_they_are_named_for() {
        let matmul = |shape| -> u64 {
            let counted = |tensor: &&Tensor| tensor.dims.len() > 1 && tensor.name != "token_embd.weight";
            tensors(shape, gguf::F16).iter().filter(counted).map(Tensor::elements).sum()
        };
        assert_eq!(matmul(SMALL) / 1_000_000, 100);
        assert_eq!(matmul(BIG) / 10_000_000, 103);
        assert_eq!(matmul(HUGE) / 1_000_000_000, 7);
    }

    #[test]
    fn the_vocabulary_is_full_and_has_no_piece_twice() {
        let (pieces, scores, kinds) = vocabulary();
        assert_eq!((pieces.len(), scores.len(), kinds.len()), (32_000, 32_000, 32_000));
        assert_eq!(pieces.iter().collect::<std::collections::HashSet<_>>().len(), 32_000);
        assert_eq!(pieces[FIRST_WORD as usize], "▁");
    }

    #[test]
    fn draws_are_normal() {
        let table = normal_table();
        assert_eq!(table.len(), 1 << 16);
        let value = |at: usize| {
            let bits = u16::from_le_bytes(table[at]);
            let exponent = i32::from(bits >> 10 & 0x1F);
            let mantissa = f64::from(bits & 0x3FF) / 1024.0;
            let size =
                if exponent == 0 { mantissa * 2f64.powi(-14) } else { (1.0 + mantissa) * 2f64.powi(exponent - 15) };
            if bits >> 15 == 1 { -size } else { size }
        };
        let square = (0..table.len()).map(|at| value(at).powi(2)).sum::<f64>() / table.len() as f64;
        assert!((square.sqrt() - 0.02).abs() < 1e-4, "{}", square.sqrt());
        assert!(value(0) < -0.07 && value(65_535) > 0.07 && value(32_768).abs() < 1e-4);
    }
}
