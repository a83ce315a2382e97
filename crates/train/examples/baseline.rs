//! Our side of `cargo xtask bench train`: the 11 M decoder that `bench/torch_train.py` trains too. One JSON object on stdout.
//! `baseline step STEPS THREADS` times steps of 16 × 256 noise. `baseline weights FILE` writes the first weights as
//! safetensors. `baseline loss TEXT STEPS ROWS THREADS [TURN]` trains from them on windows of a text's bytes; with TURN, the
//! rows of each step begin with that one, which changes nothing but the order in which sums are made.

use std::error::Error;
use std::fs;
use std::io::Write;
use std::time::Instant;

use falaj_kernels::RopeLayout;
use falaj_model::{Config, Naming, Rope, RopeScaling};
use falaj_train::{Arena, MicroBatch, Optimization, Schedule, Settings, Start, Trainer};

const ROWS: usize = 16;
const LENGTH: usize = 256;
const WARMUP: usize = 2;

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let word = |at: usize| words.get(at).map(String::as_str).ok_or("too few arguments; see the head of this file");
    let number = |at: usize| -> Result<usize, Box<dyn Error>> { Ok(word(at)?.parse()?) };
    match word(0)? {
        "step" => step(number(1)?, number(2)?),
        "weights" => weights(word(1)?),
        "loss" => loss(&fs::read(word(1)?)?, number(2)?, number(3)?, number(4)?, number(5).unwrap_or(0)),
        other => Err(format!("`{other}` is no command").into()),
    }
}

fn config() -> Config {
    Config {
        vocab_size: 8192,
        hidden_size: 320,
        layers: 8,
        heads: 8,
        kv_heads: 4,
        head_dim: 40,
        ffn_size: 768,
        norm_eps: 1e-5,
        rope: Rope { theta: 10_000.0, layout: RopeLayout::Halves, scaling: RopeScaling::None },
        sliding_window: None,
        tied_head: true,
        experts: None,
        context_tokens: LENGTH,
    }
}

fn trainer(rows: usize, threads: usize) -> Result<Trainer, Box<dyn Error>> {
    let settings = Settings {
        threads,
        max_tokens: rows * LENGTH,
        seed: 0,
        recompute: false,
        optimization: Optimization { schedule: Schedule::Constant, ..Optimization::default() },
    };
    Ok(Trainer::new(Start::Full(Arena::random(&config(), 0)?), settings)?)
}

fn step(steps: usize, threads: usize) -> Result<(), Box<dyn Error>> {
    let mut trainer = trainer(ROWS, threads)?;
    let mut order = Order(1);
    let mut seconds = Vec::new();
    for step in 0..steps + WARMUP {
        let mut noise = || (0..ROWS * LENGTH).map(|_| order.below(8192) as u32).collect();
        let batch = MicroBatch::plain(noise(), noise(), LENGTH);
        let start = Instant::now();
        trainer.step(&[batch])?;
        if step >= WARMUP {
            seconds.push(start.elapsed().as_secs_f64());
        }
    }
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse().ok());
    let peak_bytes = peak.unwrap_or(0u64) * 1024;
    println!(r#"{{"seconds":{seconds:?},"tokens":{},"peak_bytes":{peak_bytes}}}"#, ROWS * LENGTH);
    Ok(())
}

fn weights(path: &str) -> Result<(), Box<dyn Error>> {
    let arena = Arena::random(&config(), 0)?;
    let (mut header, mut values) = (Vec::new(), Vec::new());
    for slot in arena.slots() {
        let begin = values.len();
        arena.get(slot).iter().for_each(|value| values.extend_from_slice(&value.to_le_bytes()));
        let (name, len, end) = (Naming::HuggingFace.name(slot), arena.get(slot).len(), values.len());
        header.push(format!(r#""{name}":{{"dtype":"F32","shape":[{len}],"data_offsets":[{begin},{end}]}}"#));
    }
    let header = format!("{{{}}}", header.join(","));
    let mut file = fs::File::create(path)?;
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(header.as_bytes())?;
    Ok(file.write_all(&values)?)
}

/// Bytes are tokens; the windows of a step begin where [`Order`] says, one draw per row.
fn loss(text: &[u8], steps: usize, rows: usize, threads: usize, turn: usize) -> Result<(), Box<dyn Error>> {
    let starts = text.len().checked_sub(LENGTH).filter(|starts| *starts > 0).ok_or("the text is too short")?;
    let mut trainer = trainer(rows, threads)?;
    let mut order = Order(1);
    let mut losses = Vec::new();
    for step in 0..steps {
        let mut begins: Vec<usize> = (0..rows).map(|_| order.below(starts as u64) as usize).collect();
        begins.rotate_left(turn % rows.max(1));
        let windows = |shift: usize| {
            let bytes = begins.iter().flat_map(|begin| &text[begin + shift..begin + shift + LENGTH]);
            bytes.map(|byte| u32::from(*byte)).collect()
        };
        losses.push(trainer.step(&[MicroBatch::plain(windows(0), windows(1), LENGTH)])?.loss);
        if step % 10 == 0 {
            eprintln!("step {step}: loss {:.4}", losses[step]);
        }
    }
    println!(r#"{{"losses":{losses:?}}}"#);
    Ok(())
}

/// The same numbers here and in the script: a linear congruence (Knuth's MMIX), its upper half.
struct Order(u64);

impl Order {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}
